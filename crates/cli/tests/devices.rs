//! Volumes on a device from the command line: on the processor, by the operations that other devices have.

mod common;

use std::path::Path;

use common::{binary, documents, json, language_model, log_probability, network, samples};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use serde_json::Value;

/// A folder with the model `pythia` and the documents `text.jsonl`.
fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    language_model(folder.path(), "gpt_neox_pythia", "pythia");
    documents(folder.path(), "text.jsonl");
    folder
}

const DEVICE: [&str; 2] = ["--device", "cpu-tensors"];

/// The same run by the processor's kernels and on the device: both results.
fn both(folder: &Path, name: &str, extra: &[&str]) -> [Value; 2] {
    [(&[][..], "cpu"), (&DEVICE[..], "device")].map(|(device, word)| {
        let mut command = binary(folder);
        command.args(["estimate", "pythia", "--data", "text.jsonl", "--json", "--out", &format!("{name}-{word}")]).args(extra).args(device);
        serde_json::from_slice(&command.assert().success().get_output().stdout).expect("--json prints the result alone")
    })
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn rays_go_the_same_way_and_as_far() {
    let folder = prepared();
    let here = folder.path();
    for (name, extra) in [("plain", vec![]), ("low", vec!["--memory", "low"]), ("kronecker", vec!["--preconditioner", "kronecker"])] {
        both(here, name, &[&["--samples", "4"][..], &extra].concat());
        let run = |word: &str| samples(&here.join(format!("{name}-{word}")));
        let (own, device) = (run("cpu"), run("device"));
        assert_eq!((own.len(), device.len()), (4, 4));
        for (own, device) in own.iter().zip(&device) {
            if name != "kronecker" {
                // The directions have the same bits, so their norms and inner products do.
                assert_eq!((&own["norm"], &own["center_dot"]), (&device["norm"], &device["center_dot"]));
            }
            let (radius, expected) = (number(&device["radius"]), number(&own["radius"]));
            assert!((radius / expected - 1.0).abs() < 1e-3, "{name}: {device} not {own}");
        }
    }
    let manifest = json(&here.join("low-device/manifest.json"));
    assert_eq!(manifest["problem"]["device"]["kind"], "cpu-tensors");
    let device = &manifest["notes"]["memory"]["device"];
    assert_eq!((&device["keeps_direction"], &device["is_shared"]), (&false.into(), &true.into()), "{manifest}");
    assert_eq!(json(&here.join("plain-device/manifest.json"))["notes"]["memory"]["device"]["keeps_direction"], true);
}

#[test]
fn curvatures_are_those_of_the_processor() {
    let folder = prepared();
    let here = folder.path();
    for kind in ["fisher", "hessian", "low-rank"] {
        let preconditioner = ["--samples", "2", "--preconditioner", kind];
        both(here, kind, &preconditioner);
        let run = |word: &str| samples(&here.join(format!("{kind}-{word}")));
        for (own, device) in run("cpu").iter().zip(&run("device")) {
            let (radius, expected) = (number(&device["radius"]), number(&own["radius"]));
            // Differences of gradients have the roundings of both.
            assert!((radius / expected - 1.0).abs() < 2e-2, "{kind}: {device} not {own}");
        }
    }
}

#[test]
fn the_spectrum_is_that_of_the_processor() {
    let folder = prepared();
    let [own, device] = both(folder.path(), "spectral", &["--estimator", "spectral", "--samples", "2", "--set", "steps=12"]);
    let (own, device) = (log_probability(&own), log_probability(&device));
    assert!((device / own - 1.0).abs() < 2e-3 && own < -10.0, "{device} not {own}");
}

#[test]
fn chains_find_the_same_basin() {
    let folder = prepared();
    let quick = ["--estimator", "annealed", "--cutoff", "0.3", "--set", "chains=1", "--set", "trajectories=4", "--set", "patience=1"];
    let short = ["--set", "spacing=1", "--set", "effort=0", "--val-size", "2", "--max-seq-len", "6"];
    let few = ["--parameters", "^embed_out|final_layer_norm"];
    let [own, device] = both(folder.path(), "annealed", &[&quick[..], &short, &few].concat());
    let (volume, expected) = (log_probability(&device), log_probability(&own));
    let width = |result: &Value| number(&result["answer"]["interval"][1]) - number(&result["answer"]["interval"][0]);
    // The same chains until their roundings grow: alike in distribution.
    let bound = width(&own).hypot(width(&device)) + 0.02 * expected.abs();
    assert!(device["annealed"]["complete"] == true && (volume - expected).abs() < bound, "{volume} not {expected} within {bound}");
}

#[test]
fn what_is_kept_is_said_and_what_does_not_fit_is_refused() {
    let folder = prepared();
    let here = folder.path();
    let estimate = |extra: &[&str]| {
        let mut command = binary(here);
        command.args(["estimate", "pythia", "--data", "text.jsonl", "--samples", "2", "--out", "run"]).args(DEVICE).args(extra);
        command.assert()
    };
    let kept = contains("center as stored").and(contains("weights along the ray")).and(contains("gradients").not());
    estimate(&["--memory", "10KB"]).code(1).stderr(contains("--memory").and(kept));
    let kept = contains("activations with gradients");
    estimate(&["--memory", "10KB", "--estimator", "spectral"]).code(1).stderr(contains("--memory").and(kept));
    assert!(!here.join("run").exists());
    estimate(&[]).success().stderr(contains("on the device").and(contains("direction kept")));
    let mut other = binary(here);
    other.arg("estimate").arg(network()).args(["--out", "digits"]).args(DEVICE);
    other.assert().code(2).stderr(contains("--device is for language models"));
}
