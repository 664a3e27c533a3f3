//! The binary as a user runs it, and a small network that trains in a moment.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

/// The binary, in a folder of its own, without the user's cache.
pub fn binary(folder: &Path) -> Command {
    let mut command = Command::cargo_bin("basin-volume").unwrap();
    command.current_dir(folder).env("BASIN_VOLUME_CACHE", folder.join("cache"));
    // No test leaves this machine, whatever the user's environment says.
    command.env("HF_HOME", folder.join("hub")).env("HF_ENDPOINT", "http://127.0.0.1:1");
    for name in ["HF_HUB_CACHE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
        command.env_remove(name);
    }
    command
}

/// A fixture below `tests/golden`.
#[allow(dead_code, reason = "not every test program reads fixtures")]
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

/// A tokenizer of whole words with 41 ids, as many as the fixtures' models have: `<eos>` 0, `<pad>` 1, `unknown` 2, then w3 to w40.
#[allow(dead_code, reason = "not every test program has text")]
pub fn words_tokenizer() -> String {
    let mut vocabulary = serde_json::json!({ "<eos>": 0, "<pad>": 1, "unknown": 2 });
    for id in 3..41 {
        vocabulary[format!("w{id}")] = id.into();
    }
    let special = |id: u32, content: &str| serde_json::json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true });
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "decoder": null, "post_processor": null,
        "added_tokens": [special(0, "<eos>"), special(1, "<pad>")],
        "pre_tokenizer": { "type": "Whitespace" },
        "model": { "type": "WordLevel", "unk_token": "unknown", "vocab": vocabulary },
    })
    .to_string()
}

/// What stands beside it: it is of no class but its own.
#[allow(dead_code, reason = "not every test program has text")]
pub const TOKENIZER_CONFIG: &str =
    r#"{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "unknown"}"#;

/// Copies a fixture's model into `folder/name`, with the words tokenizer.
#[allow(dead_code, reason = "not every test program has language models")]
pub fn language_model(folder: &Path, fixture: &str, name: &str) -> PathBuf {
    let copy = folder.join(name);
    fs::create_dir(&copy).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(golden("language_models").join(fixture).join(file), copy.join(file)).unwrap();
    }
    fs::write(copy.join("tokenizer.json"), words_tokenizer()).unwrap();
    fs::write(copy.join("tokenizer_config.json"), TOKENIZER_CONFIG).unwrap();
    copy
}

/// A .jsonl file of twelve documents of five to sixteen words.
#[allow(dead_code, reason = "not every test program has text")]
pub fn documents(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    let lines: Vec<String> = (0..12)
        .map(|line| {
            let words: Vec<String> = (0..5 + line).map(|word| format!("w{}", 3 + (word * 7 + line * 5) % 38)).collect();
            serde_json::json!({ "text": words.join(" "), "other": "w3" }).to_string()
        })
        .collect();
    fs::write(&path, lines.join("\n")).unwrap();
    path
}

/// A trained network with 64-16-10 units (1,210 weights), made once per test program.
pub fn network() -> &'static Path {
    static NETWORK: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = NETWORK.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("small");
        binary(folder.path())
            .args(["train", "digits", "--width", "16", "--depth", "1", "--epochs", "6", "--out"])
            .arg(&path)
            .assert()
            .success();
        (folder, path)
    });
    path
}

/// A copy of the small network that a test may damage.
#[allow(dead_code, reason = "not every test program damages networks")]
pub fn network_copy(folder: &Path) -> PathBuf {
    let copy = folder.join("network");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(network()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
        }
    }
    copy
}

/// Text without its line breaks and columns: words behind each other.
#[allow(dead_code, reason = "not every test program reads sentences")]
pub fn words(text: &[u8]) -> String {
    std::str::from_utf8(text).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The lines of `samples.jsonl` in the order of the indices.
#[allow(dead_code, reason = "not every test program reads samples")]
pub fn samples(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("samples.jsonl")).unwrap_or_default();
    let mut samples: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    samples.sort_by_key(|sample| sample["index"].as_u64());
    samples
}

/// A JSON file.
#[allow(dead_code, reason = "not every test program reads files")]
pub fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The estimate of a result, in nats.
#[allow(dead_code, reason = "not every test program has results")]
pub fn log_probability(result: &Value) -> f64 {
    result["answer"]["log_probability"].as_f64().unwrap_or_else(|| panic!("no estimate: {result}"))
}

/// The mean of the log-volumes of a result's rays, in nats.
#[allow(dead_code, reason = "not every test program has rays")]
pub fn mean(result: &Value) -> f64 {
    result["radial"]["mean"].as_f64().unwrap_or_else(|| panic!("no rays: {result}"))
}

/// What a result says of the log-volumes of its rays, all of it.
#[allow(dead_code, reason = "not every test program has rays")]
pub fn log_volumes(result: &Value) -> Value {
    let mut volumes = serde_json::json!({ "log_mean_exp": log_probability(result), "interval": result["answer"]["interval"] });
    for name in ["level", "mean", "sd", "min", "max", "quantiles"] {
        volumes[name] = result["radial"].get(name).unwrap_or_else(|| panic!("no {name}: {result}")).clone();
    }
    volumes
}

/// Makes the logits of a GPT-NeoX fixture overflow, by a huge weight in the last norm.
#[allow(dead_code, reason = "not every test program breaks language models")]
pub fn overflow(model: &Path) {
    let bytes = fs::read(model.join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let huge: Vec<u8> = std::iter::repeat_n(f32::MAX.to_le_bytes(), 16).flatten().collect();
    let tensors: Vec<(String, safetensors::tensor::TensorView<'_>)> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let data = if name == "gpt_neox.final_layer_norm.weight" { &huge } else { view.data() };
            (name, safetensors::tensor::TensorView::new(view.dtype(), view.shape().to_vec(), data).unwrap())
        })
        .collect();
    safetensors::serialize_to_file(tensors, None, &model.join("changed")).unwrap();
    fs::rename(model.join("changed"), model.join("model.safetensors")).unwrap();
}

/// Waits until a run has written so many samples.
#[allow(dead_code, reason = "not every test program interrupts runs")]
pub fn wait_for_samples(run: &Path, count: usize) {
    let began = Instant::now();
    while samples(run).len() < count {
        assert!(began.elapsed() < Duration::from_secs(60), "only {} samples", samples(run).len());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An estimate of the small network in `run`, killed at so many records, begun again, ended by a signal so many records later, and begun once more: its
/// records are those of the same one in `undisturbed`, on another number of threads.
#[allow(dead_code, reason = "not every test program kills")]
pub fn killed_and_undisturbed(folder: &Path, settings: &[&str], (first, second): (usize, usize)) {
    let run = folder.join("run");
    let start = || {
        Process::new(assert_cmd::cargo::cargo_bin("basin-volume"))
            .arg("estimate")
            .arg(network())
            .args(settings)
            .args(["--threads", "2", "--out", "run"])
            .current_dir(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let mut child = start();
    wait_for_samples(&run, first);
    child.kill().unwrap();
    child.wait().unwrap();
    let killed = samples(&run).len();
    let child = start();
    wait_for_samples(&run, killed + second);
    assert!(Process::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(start().wait_with_output().unwrap().status.success());
    let undisturbed = ["--threads", "1", "--out", "undisturbed"];
    binary(folder).arg("estimate").arg(network()).args(settings).args(undisturbed).assert().success();
    assert_eq!(samples(&run), samples(&folder.join("undisturbed")));
}
