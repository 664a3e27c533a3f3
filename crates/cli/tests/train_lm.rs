//! `train lm` as a user runs it.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{binary, json};
use predicates::prelude::*;

/// The sources of this repository as documents.
fn text(folder: &Path) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/commands");
    let mut files: Vec<PathBuf> = fs::read_dir(sources).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    files.sort();
    let lines: Vec<String> =
        files.iter().map(|path| serde_json::json!({ "content": fs::read_to_string(path).unwrap() }).to_string()).collect();
    let path = folder.join("sources.jsonl");
    fs::write(&path, lines.join("\n")).unwrap();
    path
}

fn train(folder: &Path, more: &[&str]) -> assert_cmd::assert::Assert {
    let small = ["--hidden-size", "32", "--layers", "2", "--heads", "2", "--vocab-size", "400", "--max-seq-len", "32", "--batch-size", "8"];
    let text = text(folder);
    binary(folder).args(["train", "lm", "--text"]).arg(text).args(["--text-key", "content"]).args(small).args(more).assert()
}

#[test]
fn a_language_model_is_trained_saved_and_described() {
    let folder = tempfile::tempdir().unwrap();
    let run = ["--steps", "64", "--learning-rate", "0.01", "--warmup-steps", "8", "--out", "lm"];
    train(folder.path(), &run).success().stdout(predicate::str::contains("held-out loss").and(predicate::str::contains("after 64 steps")));
    let out = folder.path().join("lm");
    for step in [0, 1, 2, 4, 8, 16, 32, 64] {
        for file in ["config.json", "model.safetensors", "optimizer.safetensors", "tokenizer.json", "generation_config.json"] {
            assert!(out.join(format!("step-{step}")).join(file).is_file(), "step {step}: {file}");
        }
    }
    assert_eq!(fs::read_to_string(out.join("training.jsonl")).unwrap().lines().count(), 64);
    let config = json(&out.join("config.json"));
    assert_eq!(config["model_type"], "gpt_neox");
    assert_eq!(config["architectures"][0], "GPTNeoXForCausalLM");
    let training = &config["training"];
    assert_eq!(training["recipe"], "language_model");
    let number = |key: &str| training[key].as_f64().unwrap();
    assert!(number("held_out_loss") < 0.95 * number("unigram_entropy"), "{training}");
    assert_eq!(json(&out.join("tokenizer_config.json"))["eos_token"], "<|endoftext|>");
    let inspected = binary(folder.path()).args(["inspect", "lm"]).assert().success();
    inspected.stdout(predicate::str::contains("sources.jsonl").and(predicate::str::contains("after 64 steps")));
}

#[test]
fn mistakes_are_named_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), &["--steps", "0", "--out", "lm"]).code(2).stderr(predicate::str::contains("--steps is 0: expected at least 1"));
    train(folder.path(), &["--heads", "3", "--out", "lm"]).code(2).stderr(predicate::str::contains("cannot be used multiple times"));
    train(folder.path(), &["--held-out", "2", "--out", "lm"]).code(2).stderr(predicate::str::contains("--held-out is 2"));
    train(folder.path(), &["--steps", "4", "--epochs", "1", "--out", "lm"]).code(2).stderr(predicate::str::contains("--epochs"));
    binary(folder.path())
        .args(["train", "lm", "--text", "none.txt", "--out", "lm"])
        .assert()
        .code(1)
        .stderr(predicate::str::contains("none.txt"));
    let short = folder.path().join("short.txt");
    fs::write(&short, "hello\n").unwrap();
    let run = binary(folder.path()).args(["train", "lm", "--text", "short.txt", "--out", "lm"]).assert();
    run.code(1).stderr(predicate::str::contains("short.txt has").and(predicate::str::contains("17 are needed")));
    assert!(!folder.path().join("lm").exists());
}
