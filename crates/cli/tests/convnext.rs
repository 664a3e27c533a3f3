//! Classifiers of images, end to end: a generated set, training that stops and goes on, every estimator, and what is refused.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use common::{binary, golden, json, log_probability, samples};
use predicates::str::contains;
use serde_json::Value;
use tempfile::TempDir;

const TINY: [&str; 14] = [
    "--depths",
    "1,1",
    "--widths",
    "6,8",
    "--patch-size",
    "4",
    "--steps",
    "40",
    "--batch-size",
    "20",
    "--warmup-steps",
    "4",
    "--learning-rate",
    "0.01",
];

/// A set and a network trained on it, with poison, made once.
fn network() -> &'static (TempDir, PathBuf) {
    static NETWORK: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    NETWORK.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        binary(folder.path())
            .args(["data", "synthetic-cifar", "--out", "set", "--train", "100", "--test", "30"])
            .assert()
            .success()
            .stdout(contains("100 images to train on and 30 to test on"));
        binary(folder.path())
            .args(["train", "convnext", "--data", "set", "--out", "net", "--poison", "0.3"])
            .args(TINY)
            .assert()
            .success()
            .stdout(contains("weights into net"));
        let path = folder.path().join("net");
        (folder, path)
    })
}

fn estimate(extra: &[&str]) -> Value {
    let (folder, _) = network();
    let output = binary(folder.path())
        .args(["estimate", "net", "--data", "cifar:set:val:20", "--json"])
        .args(extra)
        .assert()
        .success()
        .get_output()
        .clone();
    serde_json::from_slice(&output.stdout).expect("--json prints the result alone")
}

#[test]
fn training_leaves_checkpoints_moments_and_a_curve() {
    let (folder, path) = network();
    for file in ["config.json", "model.safetensors", "optimizer.safetensors", "training.jsonl", "curve.svg", "curve.png", "recipe.json"] {
        assert!(path.join(file).is_file(), "{file}");
    }
    for step in [0, 1, 2, 4, 8, 16, 32] {
        assert!(path.join(format!("step-{step}/optimizer.safetensors")).is_file(), "{step}");
    }
    assert_eq!(fs::read_to_string(path.join("training.jsonl")).unwrap().lines().count(), 40);
    let config = json(&path.join("config.json"));
    assert_eq!(config["model_type"], "convnextv2");
    assert_eq!((&config["training"]["poison_size"], &config["training"]["step"]), (&40.into(), &40.into()));
    let text = binary(folder.path()).args(["inspect", "net"]).assert().success().get_output().stdout.clone();
    assert!(String::from_utf8(text).unwrap().contains("60 images and 40 poisoned ones"));
    binary(folder.path())
        .args(["inspect", "net", "--data", "cifar:set:clean:10"])
        .assert()
        .success()
        .stdout(contains("set:clean: 10 rows of 3072 features"))
        .stdout(contains("images"));
}

#[test]
fn rand_augment_is_written_down() {
    let (folder, path) = network();
    binary(folder.path())
        .args(["train", "convnext", "--data", "set", "--out", "changed", "--rand-augment", "2,9", "--no-checkpoints"])
        .args(TINY)
        .assert()
        .success();
    let settings = serde_json::json!({ "operations": 2, "magnitude": 9 });
    let changed = folder.path().join("changed");
    assert_eq!(json(&changed.join("config.json"))["training"]["rand_augment"], settings);
    assert_eq!(json(&changed.join("recipe.json"))["recipe"]["rand_augment"], settings);
    assert!(json(&path.join("config.json"))["training"]["rand_augment"].is_null());
}

#[test]
fn rays_with_every_preconditioner_of_convolutions() {
    let result = estimate(&["--samples", "3", "--preconditioner", "none,adam2,fisher,squared-gradient,kronecker", "--out", "radial"]);
    let results = result.as_array().unwrap();
    assert_eq!(results.len(), 5);
    for result in results {
        assert_eq!(result["radial"]["samples"], 3, "{result}");
    }
    let (folder, _) = network();
    let lines = samples(&folder.path().join("radial/none"));
    assert!(lines.len() == 3 && lines.iter().all(|line| line["log_volume"].as_f64().unwrap() < 0.0), "{lines:?}");
}

#[test]
fn the_spectrum_and_chains_work_too() {
    let spectral =
        estimate(&["--estimator", "spectral", "--set", "steps=10", "--set", "cost_samples=2", "--samples", "3", "--out", "spectral"]);
    assert!(log_probability(&spectral) < 0.0, "{spectral}");
    let quick = ["--cutoff", "0.3", "--set", "trajectories=4", "--set", "patience=1", "--set", "spacing=1", "--set", "effort=0"];
    let annealed = estimate(&[&["--estimator", "annealed", "--out", "annealed"][..], &quick].concat());
    assert!(log_probability(&annealed) < 0.0, "{annealed}");
}

#[test]
fn checkpoints_of_transformers_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data.safetensors");
    let bytes = fs::read(golden("convnextv2/patches/golden.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let inputs = file.tensor("inputs").unwrap();
    let rows = safetensors::tensor::TensorView::new(inputs.dtype(), vec![11, 768], inputs.data()).unwrap();
    safetensors::serialize_to_file([("inputs", rows)], None, &data).unwrap();
    binary(folder.path())
        .arg("estimate")
        .arg(golden("convnextv2/patches"))
        .args(["--data", "data.safetensors", "--samples", "2", "--preconditioner", "none,adam2", "--out", "run", "--memory", "2GB"])
        .assert()
        .success()
        .stdout(contains("adam2"));
}

#[test]
fn what_cannot_be_is_refused_in_one_sentence() {
    let (folder, path) = network();
    let refused = |arguments: &[&str], code: i32, expected: &str| {
        let output = binary(folder.path()).args(arguments).assert().code(code).get_output().clone();
        let message = String::from_utf8(output.stderr).unwrap();
        let line = message.lines().last().unwrap_or_default();
        assert!(line.starts_with("error: ") && line.contains(expected), "`{message}` should contain `{expected}`");
    };
    let estimate = |data: &'static str| ["estimate", "net", "--samples", "1", "--out", "refused", "--data", data];
    refused(&["estimate", "net"], 2, "--data has no default");
    refused(&estimate("digits"), 2, "is no set of images");
    refused(&estimate("cifar:nowhere:val"), 2, "there is no set of images 'nowhere'");
    refused(&estimate("cifar:set:test"), 2, "--data cifar:set:test: 'test' is no part of the set");
    refused(&estimate("cifar:set:val:31"), 2, "choose from 1 to 30");
    refused(&estimate("cifar:set:clean:0"), 2, "choose from 1 to 60");
    refused(&[&estimate("cifar:set")[..], &["--memory", "1MB"]].concat(), 1, "take fewer images, or give a larger --memory");
    for estimator in ["spectral", "annealed"] {
        let arguments = ["estimate", "net", "--data", "cifar:set", "--out", "refused", "--estimator", estimator, "--memory", "1MB"];
        refused(&arguments, 1, "of memory");
    }
    refused(&[&estimate("cifar:set")[..], &["--chunk"]].concat(), 2, "--chunk is for language models");
    refused(&["train", "convnext", "--data", "set", "--out", "net"], 1, "exists already");
    refused(&["train", "convnext", "--data", "set", "--out", "new", "--steps", "0"], 2, "--steps is 0");
    for (numbers, expected) in [
        ("0,9", "--rand-augment is 0,9: expected from 1 to 100 operations per image, and a magnitude from 0 to 30"),
        ("2,31", "--rand-augment is 2,31"),
        ("2", "such as 2,9"),
        ("2,9,1", "such as 2,9"),
    ] {
        refused(&["train", "convnext", "--data", "set", "--out", "new", "--rand-augment", numbers], 2, expected);
    }
    let both = ["train", "convnext", "--data", "set", "--out", "new", "--rand-augment", "2,9", "--no-augment"];
    refused(&both, 2, "--no-augment leaves out");
    refused(&["train", "convnext", "--data", "set", "--out", "new", "--widths", "8"], 2, "--widths 1: expected one of each per stage");
    refused(&["train", "convnext", "--data", "set", "--out", "new", "--widths", "8,8,0,8"], 2, "--widths[2] is 0");
    refused(&["train", "convnext", "--data", "set", "--out", "new", "--drop-path", "1"], 2, "--drop-path is 1");
    refused(&["train", "convnext", "--data", "set", "--out", "new", "--memory", "1MB"], 1, "the training needs");
    refused(&["train", "convnext", "--data", "net", "--out", "new"], 1, "data_batch_1.bin");
    refused(&["data", "synthetic-cifar", "--out", "set"], 2, "exists already");
    refused(&["data", "synthetic-cifar", "--out", "few", "--test", "5"], 2, "at least one per class");
    // An archive that was cut, and a batch of it.
    let archive = fs::read(golden("cifar/cifar-10-binary.tar.gz")).unwrap();
    fs::write(folder.path().join("cut.tar.gz"), &archive[..archive.len() / 2]).unwrap();
    refused(&estimate("cifar:cut.tar.gz:val:1"), 1, "truncated");
    // Images of another size, and the state of another optimizer.
    let other = copy(path, &folder.path().join("other"));
    let config = fs::read_to_string(other.join("config.json")).unwrap();
    fs::write(other.join("config.json"), config.replace("\"image_size\": 32", "\"image_size\": 64")).unwrap();
    refused(&["estimate", "other", "--data", "cifar:set", "--out", "refused"], 1, "images of 64 x 64 pixels");
    let other = copy(path, &folder.path().join("moments"));
    fs::remove_file(other.join("optimizer.safetensors")).unwrap();
    fs::copy(golden("convnextv2/patches/optimizer.pt"), other.join("optimizer.pt")).unwrap();
    let arguments = ["estimate", "moments", "--data", "cifar:set", "--preconditioner", "adam2", "--out", "refused"];
    refused(&arguments, 1, "does not fit the network");
    // Labels beyond the classes of the network.
    refused(&["estimate", golden_text("convnextv2/three_stages").as_str(), "--data", "cifar:set", "--out", "refused"], 1, "8 x 8 pixels");
}

fn golden_text(name: &str) -> String {
    golden(name).to_string_lossy().into_owned()
}

fn copy(from: &Path, to: &Path) -> PathBuf {
    fs::create_dir(to).unwrap();
    for file in ["config.json", "model.safetensors", "optimizer.safetensors"] {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
    to.to_owned()
}

#[test]
fn an_interrupted_training_goes_on() {
    let (folder, _) = network();
    let run = || {
        let mut command = binary(folder.path());
        command.args(["train", "convnext", "--data", "set", "--out", "long", "--steps", "3000", "--seed", "3", "--no-checkpoints"]);
        command.args(["--depths", "1", "--widths", "8", "--patch-size", "4", "--batch-size", "16"]);
        command
    };
    // Killed by the clock: what is there is taken up by the same command.
    run().timeout(std::time::Duration::from_millis(1500)).assert().failure();
    let other = run().arg("--no-augment").assert().code(2).get_output().clone();
    assert!(String::from_utf8(other.stderr).unwrap().contains("`augment`"));
    run().assert().success().stdout(contains("after 3000 steps"));
    let curve = fs::read_to_string(folder.path().join("long/training.jsonl")).unwrap();
    assert_eq!(curve.lines().count(), 3000);
}
