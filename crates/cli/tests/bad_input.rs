//! Wrong input: one sentence, exit code 2 (usage) or 1 (failure), never a panic, and no folder left behind.

mod common;

use std::fs;
use std::path::Path;

use common::{binary, network, network_copy};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;

/// Runs `estimate MODEL ... --out run` and checks code, words and that nothing is left.
fn refused(folder: &Path, model: &Path, extra: &[&str], code: i32, words: &[&str]) {
    let mut command = binary(folder);
    command.arg("estimate").arg(model).args(["--samples", "2", "--out", "run"]).args(extra);
    let output = command.assert().code(code).get_output().clone();
    let stderr = String::from_utf8(output.stderr).unwrap();
    for word in words {
        assert!(stderr.contains(word), "{extra:?}: '{word}' is not in: {stderr}");
    }
    assert!(!stderr.contains("panicked") && !stderr.contains("RUST_BACKTRACE"), "{stderr}");
    // Our own messages are one line; those of the argument parser add the usage.
    if !stderr.contains("--help") {
        assert_eq!(stderr.trim_end().lines().count(), 1, "{stderr}");
    }
    assert!(output.stdout.is_empty());
    assert!(!folder.join("run").exists(), "{extra:?} left a folder");
}

#[test]
fn usage_errors_end_with_code_two() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    refused(here, network(), &["--cutof", "1"], 2, &["--cutof"]);
    refused(here, network(), &["--cutoff", "0"], 2, &["--cutoff", "> 0"]);
    refused(here, network(), &["--cutoff=-1"], 2, &["--cutoff", "> 0"]);
    refused(here, network(), &["--cutoff", "nan"], 2, &["--cutoff"]);
    refused(here, network(), &["--cutoff", "lots"], 2, &["--cutoff"]);
    refused(here, network(), &["--sigma", "0"], 2, &["--sigma"]);
    refused(here, network(), &["--sigma=-1"], 2, &["--sigma"]);
    refused(here, network(), &["--sigma", "big"], 2, &["--sigma", "rms"]);
    refused(here, network(), &["--sigma", "1", "--prior", "lebesgue"], 2, &["--sigma", "--prior"]);
    refused(here, network(), &["--samples", "0"], 2, &["--samples"]);
    refused(here, network(), &["--shard", "3/2"], 2, &["3/2", "i/n"]);
    refused(here, network(), &["--threads", "0"], 2, &["--threads"]);
    refused(here, network(), &["--prior", "uniform"], 2, &["gaussian", "lebesgue", "sphere"]);
    refused(here, network(), &["--radius-tolerance", "0"], 2, &["--radius-tolerance"]);
    refused(here, network(), &["--l2-reg=-1"], 2, &["--l2-reg"]);
    refused(here, network(), &["--exponent=-1", "--preconditioner", "adam2"], 2, &["exponent"]);
    refused(here, network(), &["--preconditioner", "adam3"], 2, &["adam3", "adam2"]);
    refused(here, network(), &["--preconditioner", "none,none"], 2, &["twice"]);
    refused(here, network(), &["--data", "mnist"], 2, &["mnist", "digits"]);
    refused(here, Path::new("no-such-model"), &[], 2, &["no-such-model", "checkpoint folder"]);
    binary(here).arg("estimat").assert().code(2);
    binary(here).assert().code(2);
    binary(here).args(["profile"]).arg(network()).args(["--points", "1"]).assert().code(2);
    binary(here).args(["merge", "--out", "x"]).assert().code(2);
    for command in ["", "train", "estimate", "profile", "merge", "report", "inspect"] {
        binary(here).args(command.split_whitespace()).arg("--help").assert().success().stdout(contains("Usage"));
    }
}

#[test]
fn damaged_models_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let model = network_copy(here);
    let weights = model.join("model.safetensors");
    let good = fs::read(&weights).unwrap();
    let with_weights = |bytes: &[u8], words: &[&str]| {
        fs::write(&weights, bytes).unwrap();
        refused(here, &model, &[], 1, words);
    };
    with_weights(&good[..good.len() / 2], &["model.safetensors"]);
    with_weights(b"not a checkpoint", &["model.safetensors"]);
    with_weights(&[], &["model.safetensors"]);
    let mut nan = good.clone();
    let end = nan.len();
    nan[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    with_weights(&nan, &["model.safetensors", "NaN"]);
    fs::remove_file(&weights).unwrap();
    refused(here, &model, &[], 1, &["model.safetensors"]);
    fs::write(&weights, &good).unwrap();
    let config = model.join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    let with_config = |text: &str, words: &[&str]| {
        fs::write(&config, text).unwrap();
        refused(here, &model, &[], 1, words);
    };
    with_config(&text.replace("\"mlp\"", "\"resnet\""), &["config.json", "resnet", "mlp"]);
    with_config(&text.replace("16,", "17,"), &["model.safetensors", "shape"]);
    with_config("{", &["config.json"]);
    fs::remove_file(&config).unwrap();
    refused(here, &model, &[], 1, &["config.json"]);
}

#[test]
fn preconditioners_of_other_models_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let write = |name: &str, shape: Vec<usize>, values: &[f32]| {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, &bytes).unwrap();
        safetensors::serialize_to_file([(name, view)], None, &here.join("p.safetensors")).unwrap();
    };
    let file = ["--preconditioner", "p.safetensors"];
    write("diagonal", vec![5], &[1.0; 5]);
    refused(here, network(), &file, 1, &["diagonal", "[5]", "[1210]"]);
    write("matrix", vec![2, 2], &[1.0; 4]);
    refused(here, network(), &file, 1, &["matrix", "[2, 2]"]);
    write("something", vec![5], &[1.0; 5]);
    refused(here, network(), &file, 1, &["p.safetensors", "layers.0.weight"]);
    let mut entries = vec![1.0f32; 1210];
    entries[7] = f32::NAN;
    write("diagonal", vec![1210], &entries);
    refused(here, network(), &file, 1, &["entry 7", "finite"]);
    fs::write(here.join("p.safetensors"), "torn").unwrap();
    refused(here, network(), &file, 1, &["p.safetensors"]);
    let bare = network_copy(here);
    fs::remove_file(bare.join("optimizer.safetensors")).unwrap();
    refused(here, &bare, &["--preconditioner", "adam2"], 1, &["optimizer.safetensors"]);
}

#[test]
fn data_that_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let write = |name: &str, shape: Vec<usize>, count: usize, value: f32| {
        let bytes: Vec<u8> = std::iter::repeat_n(value, count).flat_map(f32::to_le_bytes).collect();
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, &bytes).unwrap();
        safetensors::serialize_to_file([(name, view)], None, &here.join("d.safetensors")).unwrap();
    };
    let data = ["--data", "d.safetensors"];
    write("inputs", vec![2, 63], 126, 0.5);
    refused(here, network(), &data, 1, &["63", "64"]);
    write("images", vec![2, 64], 128, 0.5);
    refused(here, network(), &data, 1, &["d.safetensors", "inputs"]);
    write("inputs", vec![2, 64], 128, f32::INFINITY);
    refused(here, network(), &data, 1, &["d.safetensors"]);
    write("inputs", vec![3, 64], 192, 0.5);
    binary(here).arg("estimate").arg(network()).args(["--samples", "2", "--out", "run", "--data", "d.safetensors"]).assert().success();
}

#[test]
fn places_that_cannot_be_written_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    fs::write(here.join("file"), "x").unwrap();
    let at = |out: &str| {
        let mut command = binary(here);
        command.arg("estimate").arg(network()).args(["--samples", "2", "--out", out]);
        command
    };
    at("file/run").assert().code(1).stderr(contains("file").and(contains("panicked").not()));
    at("file").assert().code(1).stderr(contains("file"));
    assert_eq!(fs::read_to_string(here.join("file")).unwrap(), "x");
    fs::create_dir(here.join("occupied")).unwrap();
    fs::write(here.join("occupied/notes.txt"), "x").unwrap();
    at("occupied").assert().code(1).stderr(contains("notes.txt"));
    binary(here).args(["report", "occupied"]).assert().code(1).stderr(contains("manifest.json"));
    binary(here).args(["report", "nowhere"]).assert().code(1).stderr(contains("nowhere"));
    binary(here).args(["merge", "nowhere", "--out", "merged"]).assert().code(1).stderr(contains("nowhere"));
    assert!(!here.join("merged").exists());
    // Training refuses to overwrite.
    binary(here).args(["train", "digits", "--out", "occupied"]).assert().code(1).stderr(contains("occupied"));
}

#[test]
fn another_command_in_the_same_folder_is_refused_with_the_difference() {
    let folder = tempfile::tempdir().unwrap();
    let at = |extra: &[&str]| {
        let mut command = binary(folder.path());
        command.arg("estimate").arg(network()).args(["--samples", "3", "--out", "run"]).args(extra);
        command
    };
    at(&[]).assert().success();
    at(&["--cutoff", "0.02"]).assert().code(1).stderr(contains("cutoff: 0.01 in the folder, 0.02 asked for"));
    at(&["--seed", "7"]).assert().code(1).stderr(contains("seed: 42 in the folder, 7 asked for"));
    at(&["--preconditioner", "adam2"]).assert().code(1).stderr(contains("preconditioner"));
    at(&["--preconditioner", "none,adam2"]).assert().code(1).stderr(contains("several preconditioners"));
    at(&["--data", "digits:test"]).assert().code(1).stderr(contains("problem.data"));
    at(&["--shard", "0/2"]).assert().code(1).stderr(contains("shard"));
    at(&[]).assert().success();
}

#[test]
fn groups_never_mix_two_questions() {
    let folder = tempfile::tempdir().unwrap();
    let at = |extra: &[&str]| {
        let mut command = binary(folder.path());
        command.arg("estimate").arg(network()).args(["--samples", "3", "--out", "group"]).args(extra);
        command
    };
    at(&["--preconditioner", "none,adam2"]).assert().success();
    // Refused before anything is computed, also where the names do not clash.
    at(&["--preconditioner", "adam1,adam2", "--seed", "3"]).assert().code(1).stderr(contains("seed: 42 in the folder, 3 asked for"));
    assert!(!folder.path().join("group/adam1").exists());
    at(&["--preconditioner", "none,adam1"]).assert().success();
    // Two files of the same name cannot share a group.
    for name in ["a", "b"] {
        fs::create_dir(folder.path().join(name)).unwrap();
        fs::copy(network().join("model.safetensors"), folder.path().join(name).join("d.safetensors")).unwrap();
    }
    let mut command = binary(folder.path());
    command.arg("estimate").arg(network()).args([
        "--samples",
        "3",
        "--out",
        "twins",
        "--preconditioner",
        "a/d.safetensors,b/d.safetensors",
    ]);
    command.assert().code(2).stderr(contains("d.safetensors"));
    assert!(!folder.path().join("twins").exists());
}

#[test]
fn extremes_end_in_words_not_in_nonsense() {
    let folder = tempfile::tempdir().unwrap();
    let run = |out: &str, extra: &[&str]| {
        let mut command = binary(folder.path());
        command.arg("estimate").arg(network()).args(["--samples", "3", "--out", out]).args(extra);
        command
    };
    // The volume of a tiny sigma is zero to f64, and stays so when the folder is read again.
    run("tiny", &["--sigma", "1e-200"]).assert().success().stdout(contains("volume zero"));
    binary(folder.path()).args(["report", "tiny"]).assert().success().stdout(contains("volume zero"));
    run("huge", &["--sigma", "1e200"]).assert().success().stdout(contains("budget").not());
    // A cutoff below what f32 weights can resolve.
    run("fine", &["--cutoff", "1e-20"]).assert().success().stdout(contains("rounding noise"));
    let mut command = binary(folder.path());
    command.arg("estimate").arg(network()).args(["--out", "run", "--samples", "18446744073709551615"]);
    command.assert().code(2).stderr(contains("--samples"));
}

#[test]
fn training_refuses_nonsense() {
    let folder = tempfile::tempdir().unwrap();
    for (flag, value) in [
        ("--width", "0"),
        ("--epochs", "0"),
        ("--learning-rate", "0"),
        ("--learning-rate", "nan"),
        ("--batch-size", "0"),
        ("--batch-size", "2000"),
        ("--l2", "-1"),
        ("--train-size", "1797"),
        ("--train-size", "0"),
    ] {
        let output = binary(folder.path())
            .args(["train", "digits", "--out", "net", &format!("{flag}={value}")])
            .assert()
            .code(2)
            .get_output()
            .clone();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(stderr.trim_end().lines().count(), 1, "{flag} {value}: {stderr}");
        assert!(!folder.path().join("net").exists());
    }
}
