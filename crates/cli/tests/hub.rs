//! Models and data sets of the hub, from a server on this machine.

mod common;
#[path = "../../../tests/support/hub_server.rs"]
mod hub_server;

use std::fs;
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use common::{TOKENIZER_CONFIG, binary, golden, words_tokenizer};
use hub_server::{COMMIT, Script, serve};
use predicates::str::contains;
use serde_json::Value;

/// The files of a small model, and two data sets: with files of its own, and with those of the hub.
fn script() -> Script {
    let model = golden("language_models/gpt_neox_pythia");
    let read = |name: &str| fs::read(model.join(name)).unwrap();
    let parquet = |name: &str| fs::read(golden("tokens").join(name)).unwrap();
    Script {
        files: vec![
            ("owner/tiny/config.json", read("config.json")),
            ("owner/tiny/tokenizer.json", words_tokenizer().into_bytes()),
            ("owner/tiny/tokenizer_config.json", TOKENIZER_CONFIG.as_bytes().to_vec()),
            ("owner/tiny/model.safetensors", read("model.safetensors")),
            ("openai-community/gpt2/config.json", read("config.json")),
            ("openai-community/gpt2/model.safetensors", read("model.safetensors")),
            ("owner/text/README.md", b"a data set".to_vec()),
            ("owner/text/en/test-00000-of-00001.parquet", parquet("snappy.parquet")),
            ("owner/text/en/train-00000-of-00002.parquet", parquet("zstd.parquet")),
            ("owner/text/en/train-00001-of-00002.parquet", parquet("gzip.parquet")),
            ("owner/text/de/test-00000-of-00001.parquet", parquet("required.parquet")),
            ("owner/lines/test.jsonl", b"{\"text\": \"w3\"}".to_vec()),
        ],
        converted: vec![("owner/lines/default/test/0000.parquet", parquet("gzip.parquet"))],
        private: "owner/secret",
        ..Script::default()
    }
}

/// The binary with this hub.
fn with_hub(folder: &Path, endpoint: &str) -> Command {
    let mut command = binary(folder);
    command.env("HF_ENDPOINT", endpoint);
    command
}

fn inspect(command: &mut Command, model: &str, extra: &[&str]) -> Value {
    let output = command.args(["inspect", model, "--json"]).args(extra).assert().success().get_output().clone();
    assert!(output.stderr.is_empty(), "quiet when not a terminal: {}", String::from_utf8_lossy(&output.stderr));
    let mut found: Value = serde_json::from_slice(&output.stdout).unwrap();
    // Times are other ones every time.
    if let Some(forecasts) = found.as_object_mut().unwrap().remove("forecasts") {
        assert!(forecasts.as_array().is_some_and(|parts| parts.len() >= 3), "{forecasts}");
    }
    found
}

fn refused(mut command: Command, arguments: &[&str], code: i32, words: &[&str]) {
    let output = command.args(arguments).assert().code(code).get_output().clone();
    let stderr = String::from_utf8(output.stderr).unwrap();
    for word in words {
        assert!(stderr.contains(word), "{arguments:?}: '{word}' is not in: {stderr}");
    }
    assert_eq!(stderr.trim_end().lines().count(), 1, "{arguments:?}: {stderr}");
}

#[test]
fn models_and_data_sets_come_from_the_hub_and_then_from_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let (endpoint, script) = serve(script());
    // With a budget of its own the forecast does not depend on what the machine has free.
    let data = ["--data", "owner/text", "--data-config", "en", "--split", "train,test", "--val-size", "20", "--memory", "1GB"];
    let first = inspect(&mut with_hub(here, &endpoint), "owner/tiny@step1000", &data);
    assert_eq!(first["model"]["name"], "tiny@step1000");
    assert_eq!(first["provenance"]["hub"]["revision"], "step1000");
    assert_eq!(first["provenance"]["hub"]["commit"], COMMIT);
    assert_eq!((first["data"]["name"].as_str(), first["data"]["sequences"].as_u64()), (Some("text"), Some(20)));
    let choice = &first["data"]["provenance"]["files"];
    assert_eq!(choice["names"][0], "en/train-00000-of-00002.parquet");
    assert_eq!(choice["names"][2], "en/test-00000-of-00001.parquet");
    // The second time nothing is downloaded, offline nothing is asked for, and an unreachable hub does not matter.
    let asked = script.lock().unwrap().ranges.len();
    assert_eq!(inspect(&mut with_hub(here, &endpoint), "owner/tiny@step1000", &data), first);
    assert_eq!(script.lock().unwrap().ranges.len(), asked);
    assert_eq!(inspect(with_hub(here, &endpoint).env("HF_HUB_OFFLINE", "1"), "owner/tiny@step1000", &data), first);
    assert_eq!(inspect(&mut binary(here), "owner/tiny@step1000", &data), first);
    // What the cache lacks is said.
    let mut offline = with_hub(here, &endpoint);
    offline.env("HF_HUB_OFFLINE", "1");
    refused(offline, &["inspect", "owner/other"], 1, &["no file or folder owner/other", "not in the cache", "HF_HUB_OFFLINE"]);
    // A folder of that name wins over the hub.
    fs::create_dir_all(here.join("owner/tiny@step1000")).unwrap();
    refused(with_hub(here, &endpoint), &["inspect", "owner/tiny@step1000"], 1, &["config.json"]);
}

#[test]
fn data_sets_have_configurations_and_splits() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let (endpoint, _) = serve(script());
    let refuse = |extra: &[&str], code: i32, words: &[&str]| {
        refused(with_hub(here, &endpoint), &[&["inspect", "owner/tiny", "--data"], extra].concat(), code, words);
    };
    refuse(&["owner/text"], 2, &["2 configurations", "--data-config", "de, en"]);
    refuse(&["owner/text", "--data-config", "en"], 2, &["2 splits", "--split", "test, train"]);
    refuse(&["owner/text", "--data-config", "fr"], 2, &["no --data-config fr", "de, en"]);
    refuse(&["owner/text", "--data-config", "en", "--split", "dev"], 2, &["no --split dev", "test, train"]);
    refuse(&["owner/text", "--data-config", "de", "--text-key", "body"], 1, &["has no `body`", "`text`"]);
    refuse(&["owner/absent"], 1, &["no file or folder owner/absent", "owner/absent@main does not exist"]);
    refuse(&["owner/secret-text"], 1, &["(401)", "HF_TOKEN"]);
    let only = inspect(&mut with_hub(here, &endpoint), "owner/tiny", &["--data", "owner/text", "--data-config", "de"]);
    assert_eq!(only["data"]["provenance"]["files"]["splits"][0], "test");
    // Files that the hub made of others, and the same without a network.
    for variable in ["0", "1"] {
        let mut command = with_hub(here, &endpoint);
        command.env("HF_HUB_OFFLINE", variable);
        let lines = inspect(&mut command, "owner/tiny", &["--data", "owner/lines", "--val-size", "4"]);
        assert_eq!(lines["data"]["provenance"]["files"]["names"][0], "default/test/0000.parquet");
        assert_eq!(lines["data"]["sequences"], 4);
    }
    // A copy of the data set on the disk is chosen from in the same way.
    let copy = here.join("copy/en");
    fs::create_dir_all(&copy).unwrap();
    for (name, file) in [("test", "snappy"), ("train", "zstd")] {
        fs::copy(golden("tokens").join(format!("{file}.parquet")), copy.join(format!("{name}-00000-of-00001.parquet"))).unwrap();
    }
    refuse(&["copy"], 2, &["the data set copy, en has 2 splits", "test, train"]);
    refuse(&["copy", "--split", "dev"], 2, &["no --split dev"]);
    let local = inspect(&mut with_hub(here, &endpoint), "owner/tiny", &["--data", "copy", "--split", "train"]);
    assert_eq!(local["data"]["provenance"]["files"]["names"][0], "en/train-00000-of-00001.parquet");
    fs::write(here.join("copy/text.txt"), "w3 w4").unwrap();
    let plain = inspect(&mut with_hub(here, &endpoint), "owner/tiny", &["--data", "copy"]);
    assert_eq!(plain["data"]["tokens"], 2, "a folder with text of its own is that text");
    fs::create_dir(here.join("lines")).unwrap();
    fs::write(here.join("lines/a.txt"), "w3").unwrap();
    refuse(&["lines", "--split", "test"], 2, &["lines has no parquet files", "--split"]);
    // A tokenizer of the hub for a model without one.
    let (words, data) = (["--tokenizer", "owner/tiny"], ["--data", "owner/lines", "--val-size", "4"]);
    refused(with_hub(here, &endpoint), &[&["inspect", "gpt2"], &data[..]].concat(), 1, &["has no tokenizer.json"]);
    let legacy = inspect(&mut with_hub(here, &endpoint), "gpt2", &[&data[..], &words].concat());
    assert_eq!((legacy["model"]["name"].as_str(), legacy["data"]["sequences"].as_u64()), (Some("gpt2"), Some(4)));
    assert_eq!(legacy["provenance"]["hub"]["id"], "openai-community/gpt2");
}

#[test]
fn an_interrupted_download_is_taken_up_again() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let (endpoint, script) = serve(Script { pause: Duration::from_millis(50), ..script() });
    let child = Process::new(assert_cmd::cargo::cargo_bin("basin-volume"))
        .args(["inspect", "owner/tiny"])
        .current_dir(here)
        .env("HF_ENDPOINT", &endpoint)
        .env("HF_HOME", here.join("hub"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The weights are the third file, and take more than a second.
    let began = Instant::now();
    while script.lock().unwrap().ranges.len() < 3 {
        assert!(began.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(200));
    assert!(Process::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&output.stderr).contains("takes the download up again"));
    script.lock().unwrap().pause = Duration::ZERO;
    with_hub(here, &endpoint).args(["inspect", "owner/tiny"]).assert().success();
    let last = script.lock().unwrap().ranges.last().unwrap().clone();
    assert!(!last.starts_with("0-"), "the rest only, not {last}");
}

#[test]
fn what_the_hub_refuses_is_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let (endpoint, script) = serve(script());
    refused(with_hub(here, &endpoint), &["inspect", "owner/absent"], 1, &["no file or folder owner/absent", "does not exist on http"]);
    refused(with_hub(here, &endpoint), &["inspect", "owner/secret"], 1, &["(401)", "set HF_TOKEN"]);
    let mut with_token = with_hub(here, &endpoint);
    with_token.env("HF_TOKEN", "wrong");
    refused(with_token, &["inspect", "owner/secret"], 1, &["the token of HF_TOKEN is not accepted"]);
    refused(with_hub(here, &endpoint), &["inspect", "owner/tiny@../x"], 2, &["not the id of a repository"]);
    refused(with_hub(here, &endpoint), &["inspect", "owner/text"], 1, &["owner/text@main has no model.safetensors"]);
    script.lock().unwrap().wrong_hash = true;
    refused(with_hub(here, &endpoint), &["inspect", "owner/tiny"], 1, &["arrived damaged twice"]);
    script.lock().unwrap().wrong_hash = false;
    with_hub(here, &endpoint).args(["inspect", "owner/tiny"]).assert().success().stdout(contains("owner/tiny, revision main"));
}

#[test]
fn the_state_of_an_optimizer_is_fetched_when_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let model = golden("optimizer/gpt_neox");
    let read = |name: &str| fs::read(model.join(name)).unwrap();
    let files = vec![
        ("owner/trained/config.json", read("config.json")),
        ("owner/trained/model.safetensors", read("model.safetensors")),
        ("owner/trained/mp_rank_00_model_states.pt", read("deepspeed/mp_rank_00_model_states.pt")),
    ];
    let (endpoint, script) = serve(Script { files: [files, script().files].concat(), ..Script::default() });
    fs::write(here.join("ids.json"), "[[1, 2, 3, 4], [5, 6, 7, 8]]").unwrap();
    let arguments = |model: &'static str, out: &'static str| {
        [
            "estimate",
            model,
            "--data",
            "ids.json",
            "--samples",
            "2",
            "--preconditioner",
            "adam2",
            "--exponent",
            "0.5",
            "--json",
            "--out",
            out,
        ]
    };
    with_hub(here, &endpoint).args(["inspect", "owner/trained@step1000"]).assert().success();
    let before = script.lock().unwrap().ranges.len();
    with_hub(here, &endpoint).args(arguments("owner/trained@step1000", "fetched")).assert().success();
    assert_eq!(script.lock().unwrap().ranges.len(), before + 1, "the state alone");
    // The same as with the state in a folder; offline too.
    let local = here.join("local");
    fs::create_dir(&local).unwrap();
    for name in ["config.json", "model.safetensors", "deepspeed/mp_rank_00_model_states.pt"] {
        fs::copy(model.join(name), local.join(name.rsplit('/').next().unwrap())).unwrap();
    }
    binary(here).args(arguments("local", "own")).assert().success();
    with_hub(here, &endpoint).env("HF_HUB_OFFLINE", "1").args(arguments("owner/trained@step1000", "offline")).assert().success();
    let samples = |out: &str| {
        let text = fs::read_to_string(here.join(out).join("samples.jsonl")).unwrap();
        let radius = |line: &str| serde_json::from_str::<Value>(line).unwrap()["radius"].clone();
        text.lines().map(radius).collect::<Vec<_>>()
    };
    assert_eq!(samples("fetched"), samples("own"));
    assert_eq!(samples("fetched"), samples("offline"));
    refused(with_hub(here, &endpoint), &arguments("owner/tiny", "none"), 1, &["holds no Adam moments"]);
}

#[test]
fn an_adapter_and_its_base_come_from_the_hub() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let read = |name: &str| fs::read(golden(name)).unwrap();
    let mut settings: Value = serde_json::from_slice(&read("adapters/plain/adapter_config.json")).unwrap();
    let mut of_base = |base: &str| {
        settings["base_model_name_or_path"] = base.into();
        settings.to_string().into_bytes()
    };
    let adapter = || read("adapters/plain/adapter_model.safetensors");
    let files = vec![
        ("owner/base/config.json", read("language_models/llama_untied/config.json")),
        ("owner/base/model.safetensors", read("language_models/llama_untied/model.safetensors")),
        ("owner/lora/adapter_config.json", of_base("owner/base")),
        ("owner/lora/adapter_model.safetensors", adapter()),
        ("owner/lost/adapter_config.json", of_base("owner/none")),
        ("owner/lost/adapter_model.safetensors", adapter()),
    ];
    let (endpoint, _) = serve(Script { files, ..Script::default() });
    let inspected = |command: &mut Command, model: &str| {
        let output = command.args(["inspect", model, "--json"]).assert().success().get_output().clone();
        let note = String::from_utf8(output.stderr).unwrap();
        assert!(note.contains("is a LoRA adapter: it is merged into the weights") && note.lines().count() == 1, "{note}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let found = inspected(&mut with_hub(here, &endpoint), "owner/lora");
    assert_eq!((&found["model"]["name"], &found["provenance"]["base"]["hub"]["id"]), (&"lora".into(), &"owner/base".into()));
    assert_eq!(inspected(with_hub(here, &endpoint).env("HF_HUB_OFFLINE", "1"), "owner/lora"), found);
    // On the disk, the same; its base is still that of the hub.
    let local = here.join("copy");
    fs::create_dir(&local).unwrap();
    fs::write(local.join("adapter_config.json"), of_base("owner/base")).unwrap();
    fs::write(local.join("adapter_model.safetensors"), adapter()).unwrap();
    let copied = inspected(&mut with_hub(here, &endpoint), "copy");
    assert_eq!(copied["model"]["weights_sha256"], found["model"]["weights_sha256"]);
    let words = ["is a LoRA adapter of the base model `owner/none`", "owner/none@main does not exist", "merge it in Python"];
    refused(with_hub(here, &endpoint), &["inspect", "owner/lost"], 1, &words);
    fs::write(local.join("adapter_config.json"), of_base("nowhere")).unwrap();
    refused(
        with_hub(here, &endpoint),
        &["inspect", "copy"],
        1,
        &["the base model `nowhere`, which is not here", "set `base_model_name_or_path`"],
    );
}
