//! Components from the command line, end to end: which weights move, what records say, what is refused, and a scan of them.

mod common;

use std::fs;
use std::path::Path;

use common::{binary, documents, json, language_model, samples};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use serde_json::Value;

/// Weights of a head of the fixture: 3 x 4 rows of 16 and their biases, and 4 columns of 16.
const HEAD: u64 = 3 * 4 * 17 + 4 * 16;

fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    language_model(folder.path(), "gpt_neox_pythia", "pythia");
    documents(folder.path(), "text.jsonl");
    folder
}

fn estimate(folder: &Path, out: &str, extra: &[&str]) -> Value {
    let mut command = binary(folder);
    command.args(["estimate", "pythia", "--data", "text.jsonl", "--val-size", "4", "--samples", "4", "--out", out]).args(extra);
    command.assert().success();
    json(&folder.join(out).join("manifest.json"))
}

fn refused(folder: &Path, model: &str, extra: &[&str], words: &[&str]) {
    let mut command = binary(folder);
    command.args(["estimate", model, "--data", "text.jsonl", "--samples", "2", "--out", "refused"]).args(extra);
    let output = command.assert().failure().get_output().clone();
    let stderr = String::from_utf8(output.stderr).unwrap();
    for word in words {
        assert!(stderr.contains(word), "{extra:?}: '{word}' is not in: {stderr}");
    }
    assert!(!stderr.contains("panicked") && !folder.join("refused").exists(), "{stderr}");
}

#[test]
fn a_head_moves_alone_and_the_records_say_so() {
    let folder = prepared();
    let here = folder.path();
    let listed = "l0-l1 (each with attn, mlp, norms, h0-h3), embed, attn, mlp, norms, unembed";
    binary(here).args(["inspect", "pythia"]).assert().success().stdout(contains(listed));
    let manifest = estimate(here, "head", &["--component", "L0.h1"]);
    assert_eq!(manifest["dimension"], HEAD);
    assert_eq!(manifest["problem"]["moving"]["component"], serde_json::json!(["l0h1"]));
    let described = binary(here).args(["inspect", "pythia", "--component", "l0 h1", "--json"]).assert().success().get_output().clone();
    let described: Value = serde_json::from_slice(&described.stdout).unwrap();
    assert_eq!(
        (&described["dimension"], &described["rms"]),
        (&manifest["dimension"], &manifest["sigma"]),
        "sigma is that of the component"
    );
    assert_eq!(described["parameters"][0]["name"], "gpt_neox.layers.0.attention.query_key_value.weight[12:24, :]");
    assert_eq!(described["parameters"].as_array().unwrap().len(), 3);
    // The same question in other words computes nothing; another one is refused.
    let before = fs::read(here.join("head/samples.jsonl")).unwrap();
    estimate(here, "head", &["--component", "l0h1"]);
    assert_eq!(before, fs::read(here.join("head/samples.jsonl")).unwrap());
    let mut other = binary(here);
    other.args(["estimate", "pythia", "--data", "text.jsonl", "--val-size", "4", "--samples", "4", "--out", "head", "--component", "l0h2"]);
    other.assert().code(1).stderr(contains("holds a different run").and(contains("problem.moving")));
    // Unions, ranges, slices, and what names leave of them.
    assert_eq!(estimate(here, "union", &["--component", "l0h1,l0h2", "--component", "l1h0-h3"])["dimension"], 6 * HEAD);
    let slice = ["--component", "gpt_neox.layers.1.mlp.dense_h_to_4h.weight[0:8, :]"];
    assert_eq!(estimate(here, "slice", &slice)["dimension"], 8 * 16);
    assert_eq!(estimate(here, "both", &["--component", "l0h1", "--exclude", "bias$"])["dimension"], HEAD - 12);
    let whole = estimate(here, "full", &["--component", "full"]);
    assert!(whole["problem"].get("moving").is_none());
    // Preconditioners of a component are those of its weights.
    for preconditioner in ["squared-gradient", "fisher", "kronecker", "low-rank"] {
        estimate(here, preconditioner, &["--component", "l0h1", "--preconditioner", preconditioner]);
        assert_eq!(samples(&here.join(preconditioner)).len(), 4);
    }
}

#[test]
fn other_estimators_take_components_too() {
    let folder = prepared();
    let here = folder.path();
    let run = |out: &str, extra: &[&str]| {
        let mut command = binary(here);
        command.args(["estimate", "pythia", "--data", "text.jsonl", "--val-size", "2", "--component", "l1h3", "--out", out]).args(extra);
        command.assert().success();
        json(&here.join(out).join("result.json"))
    };
    assert!(run("spectral", &["--estimator", "spectral", "--samples", "2"])["answer"]["log_probability"].as_f64().unwrap() < 0.0);
    binary(here)
        .args(["profile", "pythia", "--data", "text.jsonl", "--val-size", "2", "--component", "l1h3", "--points", "3"])
        .assert()
        .success()
        .stdout(contains("crosses the cutoff"));
}

#[test]
fn what_a_model_does_not_have_is_refused_in_a_sentence() {
    let folder = prepared();
    let here = folder.path();
    language_model(here, "gpt_neox_sequential_tied", "tied");
    refused(here, "pythia", &["--component", "l0h4"], &["--component", "the model has no `l0h4`", "h0-h3", "embed"]);
    refused(here, "pythia", &["--component", "l0-l7"], &["the model has no `l0-l7`"]);
    refused(here, "pythia", &["--component", ""], &["--component", "no component is named"]);
    refused(here, "pythia", &["--component", "gpt_neox.embed_in.weight[0:99]"], &["99 is outside of axis 0, which has 41 entries"]);
    refused(here, "pythia", &["--component", "l0h1", "--parameters", "mlp"], &["--component", "has a weight of the component"]);
    refused(here, "tied", &["--component", "unembed"], &["`unembed` is tied to `embed`"]);
}

#[test]
fn a_scan_of_components_puts_the_parts_beside_the_whole() {
    let folder = prepared();
    let here = folder.path();
    let scan = |extra: &[&str]| {
        let mut command = binary(here);
        command
            .args(["scan", "components", "pythia", "--data", "text.jsonl", "--val-size", "2", "--samples", "3", "--out", "scan"])
            .args(extra);
        command.assert()
    };
    scan(&[]).success().stdout(contains("of the 8 parts sum to").and(contains("l1h3")));
    let summary = json(&here.join("scan/summary.json"));
    let rows = summary["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 10, "four heads in each of two layers, all of them, and the whole model");
    assert!(rows[..8].iter().all(|row| row["dimension"] == HEAD && row["sigma"] == rows[9]["sigma"]));
    assert_eq!(rows[8]["dimension"], 8 * HEAD);
    let whole = binary(here).args(["inspect", "pythia", "--json"]).assert().success().get_output().clone();
    let whole: Value = serde_json::from_slice(&whole.stdout).unwrap();
    assert_eq!((&rows[9]["dimension"], &rows[9]["sigma"]), (&whole["dimension"], &whole["rms"]));
    let sum: f64 = rows[..8].iter().map(|row| row["answer"]["log_probability"].as_f64().unwrap()).sum();
    assert!((summary["parts"][0]["sum"].as_f64().unwrap() - sum).abs() < 1e-6);
    // Heads have the same size: along common rays each is compared with the first.
    assert_eq!(summary["differences"].as_array().unwrap().len(), 7);
    assert!(here.join("scan/components.svg").exists() && here.join("scan/components.png").exists());
    // A point is the run that `estimate` makes.
    let sigma = rows[9]["sigma"].to_string();
    let mut one = binary(here);
    one.args(["estimate", "pythia", "--data", "text.jsonl", "--val-size", "2", "--samples", "3", "--component", "l1h2", "--out", "one"]);
    one.args(["--sigma", &sigma]).assert().success();
    assert_eq!(samples(&here.join("one")), samples(&here.join("scan/points/l1h2/all/radial/none")));
    scan(&[]).success();
    scan(&["--of", "layers"]).failure().stderr(contains("of: nothing in the folder, \"layers\" asked for"));
    for (arguments, words) in [
        (&["scan", "components", "pythia", "--component", "l0"][..], "--component"),
        (&["scan", "cutoff", "pythia", "--of", "heads"], "--of"),
        (&["scan", "components", "pythia", "--grid", "1,2"], "--grid"),
        (&["scan", "components", "pythia", "pythia=pythia/"], "of one model"),
    ] {
        let assert = binary(here).args(arguments).args(["--data", "text.jsonl", "--out", "other"]).assert().failure();
        let stderr = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
        assert!(stderr.contains(words) || stderr.contains("two of the models"), "{arguments:?}: {stderr}");
    }
}
