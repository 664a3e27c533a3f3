//! Language models from the command line: what they are, what they are measured on, and their logits.

mod common;

use std::fs;
use std::path::Path;

use common::{binary, documents, golden, json, language_model, network, overflow};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use serde_json::{Value, json};

/// `inspect` with --json.
fn inspect(folder: &Path, model: &str, extra: &[&str]) -> Value {
    let output = binary(folder).args(["inspect", model, "--json"]).args(extra).assert().success().get_output().clone();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Runs a command that is refused with one sentence.
fn refused(folder: &Path, arguments: &[&str], code: i32, words: &[&str]) {
    let output = binary(folder).args(arguments).assert().code(code).get_output().clone();
    let stderr = String::from_utf8(output.stderr).unwrap();
    for word in words {
        assert!(stderr.contains(word), "{arguments:?}: '{word}' is not in: {stderr}");
    }
    assert_eq!(stderr.trim_end().lines().count(), 1, "{arguments:?}: {stderr}");
    assert!(stderr.starts_with("error: ") && !stderr.contains("panicked") && output.stdout.is_empty(), "{stderr}");
}

#[test]
fn a_model_is_described_from_a_folder_and_from_a_gguf_file() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    language_model(here, "gpt_neox_pythia", "pythia");
    binary(here).args(["inspect", "pythia"]).assert().success().stdout(
        contains("pythia (gpt_neox)")
            .and(contains("gpt_neox.layers.0-1.attention.query_key_value.weight"))
            .and(contains("2 x 768"))
            .and(contains("vocabulary            41, positions 32, hidden width 16"))
            .and(contains("tokenizer             tokenizer.json"))
            .and(contains("stored as             F32 in one file")),
    );
    let whole = inspect(here, "pythia", &[]);
    assert_eq!(whole["parameters"].as_array().unwrap().len(), 28);
    assert_eq!(whole["language_model"], json!({ "vocabulary": 41, "positions": 32, "hidden": 16, "has_tokenizer": true }));
    let part = inspect(here, "pythia", &["--parameters", r"layers\.1\.", "--exclude", "bias$"]);
    assert_eq!(part["dimension"], 16 + 16 + 48 * 16 + 16 * 16 + 24 * 16 + 16 * 24);
    assert!(part["rms"] != whole["rms"] && part["model"] == whole["model"]);
    assert_eq!(part["weights_not_moving"].as_u64().unwrap() + part["dimension"].as_u64().unwrap(), whole["dimension"].as_u64().unwrap());
    refused(here, &["inspect", "pythia", "--parameters", "nothing"], 2, &["--parameters", "no tensor of the model is chosen"]);
    refused(here, &["inspect", "pythia", "--exclude", "("], 2, &["--exclude", "not a regular expression"]);
    // An existing file, with its name for titles.
    let gguf = golden("weights/llama.gguf");
    let described = inspect(here, gguf.to_str().unwrap(), &[]);
    assert_eq!((described["model"]["name"].as_str(), described["model"]["model_type"].as_str()), (Some("llama"), Some("llama")));
    assert_eq!(described["language_model"]["has_tokenizer"], false);
    // Digits networks can be described with and without data.
    let mlp = inspect(here, network().to_str().unwrap(), &["--data", "digits:test", "--exclude", r"^layers\.0"]);
    assert_eq!((mlp["data"]["rows"].as_u64(), mlp["dimension"].as_u64()), (Some(773), Some(170)));
}

#[test]
fn text_becomes_the_sequences_that_were_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    language_model(here, "gpt_neox_pythia", "pythia");
    documents(here, "text.jsonl");
    let data = |extra: &[&str]| inspect(here, "pythia", &[&["--data", "text.jsonl"], extra].concat())["data"].clone();
    let default = data(&[]);
    assert_eq!(
        (default["sequences"].as_u64(), default["tokens"].as_u64(), default["name"].as_str()),
        (Some(10), Some(95), Some("text.jsonl"))
    );
    assert_eq!(default["provenance"]["read"]["settings"]["max_seq_len"], 32, "reduced to the model's positions");
    let cut = data(&["--val-size", "3", "--skip", "4", "--max-seq-len", "10"]);
    assert_eq!((cut["sequences"].as_u64(), cut["tokens"].as_u64(), cut["longest_sequence"].as_u64()), (Some(3), Some(29), Some(10)));
    let last = data(&["--positions", "last"]);
    assert_eq!((last["kept_positions"].as_u64(), last["positions"].as_str()), (Some(10), Some("last")));
    assert_ne!(last["sha256"], default["sha256"]);
    // 126 tokens and an EOS before each of the twelve documents make eight chunks of sixteen.
    let chunks = data(&["--chunk", "--max-seq-len", "16", "--eos-token-id", "0"]);
    assert_eq!((chunks["sequences"].as_u64(), chunks["tokens"].as_u64()), (Some(8), Some(128)));
    // The word w3 is token 3: as a pad token it does not count.
    let padded = data(&["--pad-token-id", "3"]);
    assert!(padded["kept_positions"].as_u64().unwrap() < 95 && padded["pad_token_id"] == 3);
    // The same ids from a file, whatever the words were.
    fs::write(here.join("ids.json"), "[[3, 10, 17], [5]]").unwrap();
    let ids = inspect(here, "pythia", &["--data", "ids.json"])["data"].clone();
    assert_eq!((ids["sequences"].as_u64(), ids["tokens"].as_u64()), (Some(2), Some(4)));
    fs::write(here.join("words.json"), "{\"text\": \"w3 w10 w17\"}\n{\"text\": \"w5\"}\n").unwrap();
    assert_eq!(inspect(here, "pythia", &["--data", "words.json"])["data"]["sha256"], ids["sha256"]);
    // A tokenizer from elsewhere serves a file that has none.
    let tokenizer = ["--data", "text.jsonl", "--tokenizer", "pythia/tokenizer.json"];
    fs::remove_file(here.join("pythia/tokenizer.json")).unwrap();
    refused(here, &["inspect", "pythia", "--data", "text.jsonl"], 1, &["has no tokenizer.json", "--tokenizer"]);
    refused(here, &[&["inspect", "pythia"], &tokenizer[..]].concat(), 2, &["there is no tokenizer 'pythia/tokenizer.json'"]);
    language_model(here, "gpt_neox_pythia", "other");
    assert_eq!(
        inspect(here, "pythia", &["--data", "text.jsonl", "--tokenizer", "other/tokenizer.json"])["data"]["sha256"],
        default["sha256"]
    );
    assert_eq!(inspect(here, "pythia", &["--data", "text.jsonl", "--tokenizer", "other"])["data"]["sha256"], default["sha256"]);
}

#[test]
fn what_cannot_be_read_is_said_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    language_model(here, "gpt_neox_pythia", "pythia");
    documents(here, "text.jsonl");
    let write = |name: &str, content: &str| fs::write(here.join(name), content).unwrap();
    write("empty.jsonl", "\n");
    write("ids.json", "[[1, 2], [3, 41]]");
    write("long.json", &format!("[{:?}]", vec![3; 33]));
    write("one.json", "[[1, 2]]");
    let data = |data: &str, extra: &[&str], code: i32, words: &[&str]| {
        refused(here, &[&["inspect", "pythia", "--data", data], extra].concat(), code, words);
    };
    data("text.jsonl", &["--text-key", "body"], 1, &["text.jsonl, line 1 has no `body`", "`other`, `text`"]);
    data("empty.jsonl", &[], 1, &["empty.jsonl has no document"]);
    data("ids.json", &[], 1, &["sequence 2, position 2", "token 41", "0..41"]);
    data("long.json", &[], 1, &["33 tokens", "32 positions", "cut it shorter"]);
    data(
        "text.jsonl",
        &["--chunk", "--max-seq-len", "40", "--val-size", "1", "--eos-token-id", "0"],
        1,
        &["40 tokens", "32 positions", "--max-seq-len"],
    );
    fs::create_dir(here.join("words")).unwrap();
    fs::copy(here.join("pythia/tokenizer.json"), here.join("words/tokenizer.json")).unwrap();
    data("text.jsonl", &["--chunk", "--tokenizer", "words"], 1, &["words names no EOS token", "--eos-token-id"]);
    data("text.jsonl", &["--val-size", "13"], 1, &["12 sequences", "13"]);
    data("text.jsonl", &["--val-size", "0"], 2, &["--val-size"]);
    data("text.jsonl", &["--max-seq-len", "0"], 2, &["--max-seq-len"]);
    data("text.jsonl", &["--pad-token-id", "41"], 2, &["--pad-token-id is 41", "0..41"]);
    data("text.jsonl", &["--chunk", "--eos-token-id", "99"], 2, &["--eos-token-id is 99"]);
    data("text.jsonl", &["--eos-token-id", "0"], 2, &["--eos-token-id joins the documents of --chunk"]);
    data("nowhere.jsonl", &[], 2, &["there is no data 'nowhere.jsonl'", "--data EleutherAI/lambada_openai"]);
    data("pythia/config.json", &[], 1, &["config.json"]);
    data("pythia/model.safetensors", &[], 1, &["unknown extension"]);
    data("digits", &[], 2, &["pythia is a language model", "--data digits is images"]);
    data("digits:test", &[], 2, &["--data digits:test is images"]);
    // Flags that would do nothing.
    data("one.json", &["--text-key", "x"], 2, &["--text-key is for text"]);
    data("one.json", &["--val-size", "1"], 2, &["--val-size is for text"]);
    data("text.jsonl", &["--split", "test"], 2, &["--split chooses files of a data set", "text.jsonl is one file"]);
    refused(here, &["inspect", "pythia", "--skip", "3"], 2, &["--skip needs --data"]);
    let mlp = network().to_str().unwrap();
    refused(here, &["inspect", mlp, "--text-key", "x"], 2, &["--text-key is for language models", "\"mlp\""]);
    refused(here, &["inspect", mlp, "--positions", "last"], 2, &["--positions is for language models"]);
    refused(here, &["inspect", mlp, "--data", "text.jsonl"], 2, &["reads rows of numbers", "text.jsonl is text"]);
    refused(here, &["inspect", mlp, "--data", "owner/name"], 2, &["owner/name is text"]);
    refused(here, &["estimate", "pythia"], 2, &["pythia is a language model", "--data has no default", "lambada"]);
    // A gguf file has no tokenizer.
    let gguf = golden("weights/llama.gguf");
    refused(here, &["inspect", gguf.to_str().unwrap(), "--data", "text.jsonl"], 2, &["llama.gguf", "--tokenizer"]);
}

#[test]
fn damaged_and_unknown_models_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let model = language_model(here, "llama_untied", "llama");
    let good = fs::read(model.join("model.safetensors")).unwrap();
    let with_weights = |bytes: &[u8], words: &[&str]| {
        fs::write(model.join("model.safetensors"), bytes).unwrap();
        refused(here, &["inspect", "llama"], 1, words);
    };
    with_weights(&good[..good.len() / 2], &["llama/model.safetensors"]);
    with_weights(&[], &["llama/model.safetensors", "empty"]);
    let mut nan = good.clone();
    let end = nan.len();
    nan[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    with_weights(&nan, &["llama/model.safetensors", "NaN"]);
    fs::remove_file(model.join("model.safetensors")).unwrap();
    refused(here, &["inspect", "llama"], 1, &["llama", "holds no weights"]);
    let pickle = fs::read(golden("weights/pytorch_model.bin")).unwrap();
    fs::write(model.join("pytorch_model.bin"), &pickle[..pickle.len() / 2]).unwrap();
    refused(here, &["inspect", "llama"], 1, &["llama/pytorch_model.bin"]);
    fs::copy(golden("weights/hostile.bin"), model.join("pytorch_model.bin")).unwrap();
    refused(here, &["inspect", "llama"], 1, &["llama/pytorch_model.bin"]);
    fs::remove_file(model.join("pytorch_model.bin")).unwrap();
    fs::write(model.join("model.safetensors"), &good).unwrap();
    let text = fs::read_to_string(model.join("config.json")).unwrap();
    let with_config = |key: &str, value: Value, words: &[&str]| {
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config[key] = value;
        fs::write(model.join("config.json"), config.to_string()).unwrap();
        refused(here, &["inspect", "llama"], 1, words);
    };
    with_config("model_type", json!("mamba"), &["config.json", "\"mamba\", which is not known", "\"gpt_neox\""]);
    with_config("hidden_act", json!("mish"), &["config.json", "`hidden_act` is \"mish\""]);
    with_config("rope_scaling", json!({ "rope_type": "spiral", "factor": 4.0 }), &["\"spiral\""]);
    with_config("num_hidden_layers", json!(3), &["model.safetensors lacks", "model.layers.2."]);
    let gguf = fs::read(golden("weights/llama.gguf")).unwrap();
    for length in [3, 100, gguf.len() / 2] {
        fs::write(here.join("cut.gguf"), &gguf[..length]).unwrap();
        refused(here, &["inspect", "cut.gguf"], 1, &["cut.gguf"]);
    }
    // Neither a path nor an id.
    for text in ["no-such-model", "./missing/model", "a/b/c", "missing/file.gguf"] {
        refused(here, &["inspect", text], 2, &[text, "checkpoint folder", "owner/name"]);
    }
    // A path wins over the hub; without one, the message tells of both.
    fs::create_dir(here.join("owner")).unwrap();
    language_model(&here.join("owner"), "llama_untied", "name");
    assert_eq!(inspect(here, "owner/name", &[])["model"]["name"], "name");
    refused(
        here,
        &["inspect", "owner/other"],
        1,
        &["there is no file or folder owner/other", "could not be downloaded from http://127.0.0.1:1"],
    );
}

#[test]
fn logits_are_those_of_transformers() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    for fixture in ["gpt_neox_pythia", "gpt2", "llama_tied_llama3", "gemma2"] {
        let expected = json(&golden("language_models").join(fixture).join("golden.json"));
        let sequences: Vec<Vec<u32>> = serde_json::from_value(expected["sequences"].clone()).unwrap();
        fs::write(here.join("ids.json"), expected["sequences"].to_string()).unwrap();
        let model = golden("language_models").join(fixture);
        let command = |out: &str| {
            let mut command = binary(here);
            command.arg("logits").arg(&model).args(["--tokens", "ids.json", "--out", out]);
            command
        };
        command("logits.safetensors").assert().success().stdout(contains(format!("{} sequences", sequences.len())));
        let bytes = fs::read(here.join("logits.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.len(), 2 * sequences.len());
        for (index, ids) in sequences.iter().enumerate() {
            let tokens = file.tensor(&format!("tokens.{index}")).unwrap();
            assert_eq!((tokens.dtype(), tokens.shape()), (safetensors::Dtype::I64, &[ids.len()][..]));
            let written: Vec<i64> = tokens.data().as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
            assert!(written.iter().zip(ids).all(|(written, id)| *written == i64::from(*id)));
            let logits = file.tensor(&format!("logits.{index}")).unwrap();
            let wanted: Vec<f64> = serde_json::from_value(expected["logits"][index].clone()).unwrap();
            assert_eq!(logits.dtype(), safetensors::Dtype::F32);
            assert_eq!(logits.shape(), [ids.len(), wanted.len() / ids.len()]);
            let found = logits.data().as_chunks::<4>().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes)));
            let range = wanted.iter().copied().fold(f64::NEG_INFINITY, f64::max) - wanted.iter().copied().fold(f64::INFINITY, f64::min);
            let worst = found.zip(&wanted).map(|(found, wanted)| (found - wanted).abs()).fold(0.0, f64::max);
            assert!(worst <= 1e-5 * range, "{fixture}, sequence {index}: {worst:e} of {range}");
        }
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().as_ref().unwrap();
        assert_eq!(metadata["model"], fixture);
        assert_eq!(metadata["weights_sha256"], inspect(here, model.to_str().unwrap(), &[])["model"]["weights_sha256"].as_str().unwrap());
        // The same file again, in place of the old one.
        command("logits.safetensors").assert().success();
        assert!(fs::read_dir(here).unwrap().all(|entry| !entry.unwrap().file_name().to_string_lossy().contains("partial")));
    }
    // From text, as the estimate reads it.
    language_model(here, "gpt_neox_pythia", "pythia");
    documents(here, "text.jsonl");
    binary(here)
        .args(["logits", "pythia", "--data", "text.jsonl", "--val-size", "2", "--out", "text.safetensors"])
        .assert()
        .success()
        .stdout(contains("2 sequences, 11 tokens x 41"));
}

#[test]
fn logits_refuse_what_they_cannot_write() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let model = language_model(here, "gpt_neox_pythia", "pythia");
    fs::write(here.join("ids.json"), "[[3, 4]]").unwrap();
    let ids = ["--tokens", "ids.json"];
    let logits = |model: &str, extra: &[&str], code: i32, words: &[&str]| {
        refused(here, &[&["logits", model], extra].concat(), code, words);
        assert!(!here.join("out").exists());
    };
    logits(network().to_str().unwrap(), &[&ids[..], &["--out", "out"]].concat(), 2, &["\"mlp\"", "language model"]);
    logits("pythia", &[&ids[..], &["--out", "ids.json/out"]].concat(), 2, &["ids.json is a file, not a folder"]);
    logits("pythia", &[&ids[..], &["--out", "pythia"]].concat(), 2, &["--out pythia is a folder"]);
    logits("pythia", &["--tokens", "absent.json", "--out", "out"], 1, &["absent.json"]);
    logits("pythia", &[&ids[..], &["--out", "out", "--val-size", "2"]].concat(), 2, &["--val-size"]);
    binary(here).args(["logits", "pythia", "--out", "out"]).assert().code(2).stderr(contains("--tokens").and(contains("--data")));
    overflow(&model);
    logits("pythia", &[&ids[..], &["--out", "out"]].concat(), 1, &["logits of sequence 1 are not finite"]);
}
