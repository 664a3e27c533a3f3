//! `--proposal shifted` and Gaussians from files.

mod common;

use std::path::{Path, PathBuf};

use assert_cmd::assert::Assert;
use common::{binary, json, log_probability, network, samples};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

/// Weights of the small network.
const D: usize = 1210;

fn estimate(folder: &Path, out: &str, extra: &[&str]) -> Assert {
    binary(folder).arg("estimate").arg(network()).args(["--sigma", "rms", "--samples", "12", "--out", out]).args(extra).assert()
}

/// Refused with the exit code of usage, in one line that has all these parts, before anything is written.
fn refused(assert: Assert, code: i32, parts: &[&str]) {
    let output = assert.code(code).get_output().clone();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.lines().filter(|line| line.starts_with("error: ")).count() == 1, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part}: {text}");
    }
}

fn write(folder: &Path, name: &str, tensors: &[(&str, &[usize], Vec<f64>)]) -> PathBuf {
    let path = folder.join(name);
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, _, values)| values.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let views =
        tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| (*name, TensorView::new(Dtype::F64, shape.to_vec(), bytes).unwrap()));
    serialize_to_file(views, None, &path).unwrap();
    path
}

#[test]
fn the_shifted_proposal_of_a_curvature_is_recorded_continued_and_merged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let log_mean_exp = |out: &str| log_probability(&json(&path.join(out).join("result.json")));
    for (out, proposal) in [("centered", "centred"), ("shifted", "shifted")] {
        let assert = estimate(path, out, &["--preconditioner", "fisher", "--proposal", proposal]);
        assert.success().stdout(contains(if out == "shifted" { "fisher, shifted" } else { "fisher " }));
    }
    estimate(path, "naive", &["--preconditioner", "none"]).success();
    let (naive, centered, shifted) = (log_mean_exp("naive"), log_mean_exp("centered"), log_mean_exp("shifted"));
    assert!(naive + 100.0 < centered && naive + 100.0 < shifted && centered != shifted, "{naive} {centered} {shifted}");
    // The proposal is written down, and what belongs to the shifted one alone only there.
    let centered = json(&path.join("centered/manifest.json"));
    assert!(centered["estimator"]["proposal"] == "centered" && centered.get("dual_norm_squared").is_none(), "{centered}");
    let manifest = json(&path.join("shifted/manifest.json"));
    assert_eq!(manifest["estimator"]["proposal"], "shifted");
    assert!(manifest["preconditioner"]["beta"].as_f64().unwrap() > 0.0 && manifest["preconditioner"]["sigma"] == manifest["sigma"]);
    assert!(manifest["dual_norm_squared"].as_f64().unwrap() > 0.0);
    assert!(samples(&path.join("shifted")).iter().all(|sample| sample["dual_dot"].as_f64().unwrap() > 0.0));
    assert_eq!(json(&path.join("shifted/result.json"))["radial"]["proposal"], "shifted");
    // The same folder goes on with the same proposal only; shards and their merge give the same samples.
    refused(estimate(path, "shifted", &["--preconditioner", "fisher"]), 1, &["estimator.proposal", "\"shifted\" in the folder"]);
    estimate(path, "shifted", &["--preconditioner", "fisher", "--set", "proposal=shifted"]).success();
    refused(estimate(path, "other", &["--preconditioner", "fisher:shifted"]), 2, &["--preconditioner fisher and --proposal shifted"]);
    for shard in ["0/2", "1/2"] {
        estimate(path, &format!("part{}", &shard[..1]), &["--preconditioner", "fisher", "--proposal", "shifted", "--shard", shard])
            .success();
    }
    binary(path).args(["merge", "part0", "part1", "--out", "merged"]).assert().success();
    assert_eq!(samples(&path.join("merged")), samples(&path.join("shifted")));
    // One ray of it, as a profile.
    let profile = binary(path)
        .arg("profile")
        .arg(network())
        .args(["--sigma", "rms", "--preconditioner", "fisher", "--proposal", "shifted", "--index", "3", "--points", "4", "--json"])
        .assert()
        .success();
    let profile: serde_json::Value = serde_json::from_slice(&profile.get_output().stdout).unwrap();
    assert_eq!(profile["log_volume"], samples(&path.join("shifted"))[3]["log_volume"]);
}

/// The beta of the quadratic cost, and that of the cost itself.
#[test]
fn matched_damping_looks_at_the_cost_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let flags = |damping| ["--preconditioner", "kronecker", "--proposal", "shifted", "--damping", damping];
    estimate(path, "auto", &flags("auto")).success();
    estimate(path, "match", &flags("match")).success().stderr(contains("--damping match: beta"));
    let beta = |out: &str| json(&path.join(out).join("manifest.json"))["preconditioner"]["beta"].as_f64().unwrap();
    // The one looks at the quadratic cost, the other at the cost itself, which are far from each other on a network.
    assert!((beta("match") / beta("auto")).ln().abs() > 0.1, "{} {}", beta("match"), beta("auto"));
    // The same beta is found again.
    let before = samples(&path.join("match"));
    estimate(path, "match", &flags("match")).success();
    assert_eq!(samples(&path.join("match")), before);
    let flat = binary(path)
        .arg("estimate")
        .arg(network())
        .args(["--prior", "lebesgue", "--preconditioner", "fisher", "--damping", "match", "--out", "bad"])
        .assert();
    refused(flat, 2, &["--damping match needs --prior gaussian"]);
}

#[test]
fn without_a_preconditioner_the_shifted_proposal_is_the_prior_itself() {
    let folder = tempfile::tempdir().unwrap();
    estimate(folder.path(), "prior", &["--preconditioner", "none", "--proposal", "shifted"]).success().stdout(contains("none, shifted"));
    let manifest = json(&folder.path().join("prior/manifest.json"));
    // q = -c/sigma.
    let expected = manifest["center_norm_squared"].as_f64().unwrap() / manifest["sigma"].as_f64().unwrap().powi(2);
    assert!((manifest["dual_norm_squared"].as_f64().unwrap() / expected - 1.0).abs() < 1e-5);
}

#[test]
fn a_gaussian_from_a_file_is_a_proposal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    // A precision and its inverse, with a mean: the same Gaussian, so the same rays.
    let variances: Vec<f64> = (0..D).map(|i| 1e-6 * f64::from(1 << (i % 5))).collect();
    let mean: Vec<f64> = (0..D).map(|i| 1e-4 * (i as f64 * 0.37).sin()).collect();
    let precisions: Vec<f64> = variances.iter().map(|v| 1.0 / v).collect();
    write(path, "variance.safetensors", &[("variance", &[D], variances), ("mean", &[D], mean.clone())]);
    write(path, "precision.safetensors", &[("precision", &[D], precisions), ("mean", &[D], mean.clone())]);
    write(path, "center.safetensors", &[("variance", &[D], vec![1e-6; D])]);
    for name in ["variance", "precision"] {
        let file = format!("{name}.safetensors");
        estimate(path, name, &["--preconditioner", &file, "--proposal", "shifted"]).success().stdout(contains(format!("{file}, shifted")));
        let spec = json(&path.join(name).join("manifest.json"))["preconditioner"].clone();
        assert_eq!((&spec["kind"], &spec["covariance"], &spec["mean"]), (&"gaussian".into(), &name.into(), &true.into()));
    }
    for (a, b) in samples(&path.join("variance")).iter().zip(&samples(&path.join("precision"))) {
        let difference = a["log_volume"].as_f64().unwrap() - b["log_volume"].as_f64().unwrap();
        assert!(difference.abs() < 0.05, "{a} {b}");
    }
    // Without a mean of its own the shift is that of the prior; equal variances around the center are no preconditioner at all.
    estimate(path, "own", &["--preconditioner", "center.safetensors", "--proposal", "shifted"]).success();
    estimate(path, "flat", &["--preconditioner", "center.safetensors"]).success();
    estimate(path, "none", &["--preconditioner", "none"]).success();
    let volumes = |out: &str| samples(&path.join(out)).iter().map(|s| s["log_volume"].as_f64().unwrap()).collect::<Vec<_>>();
    assert!(volumes("flat").iter().zip(volumes("none")).all(|(a, b)| (a - b).abs() < 0.05));
    // The mean asks for a decision.
    refused(estimate(path, "bad", &["--preconditioner", "variance.safetensors"]), 2, &["is a Gaussian with a mean", "--proposal shifted"]);
    estimate(path, "shape", &["--preconditioner", "variance.safetensors", "--proposal", "centered"]).success();
    let bad = |name: &str, tensors: &[(&str, &[usize], Vec<f64>)], code: i32, parts: &[&str]| {
        write(path, name, tensors);
        refused(estimate(path, "bad", &["--preconditioner", name, "--proposal", "shifted"]), code, parts);
    };
    let ones = || vec![1.0; D];
    bad(
        "short.safetensors",
        &[("variance", &[D], ones()), ("mean", &[3], vec![0.0; 3])],
        1,
        &["tensor `mean`", "[3]", "[1210]", "another model"],
    );
    bad("small.safetensors", &[("covariance", &[2, 2], vec![1.0, 0.0, 0.0, 1.0])], 1, &["tensor `covariance`", "[1210, 1210]"]);
    bad("alone.safetensors", &[("mean", &[D], ones())], 1, &["has none of `variance`", "needs one of them"]);
    bad("both.safetensors", &[("variance", &[D], ones()), ("precision", &[D], ones())], 1, &["has variance and precision of"]);
    bad("extra.safetensors", &[("variance", &[D], ones()), ("beta", &[1], vec![1.0])], 1, &["`beta` beside those of a Gaussian"]);
    bad("zero.safetensors", &[("variance", &[D], vec![0.0; D])], 1, &["entry 0", "a variance > 0"]);
    bad("wild.safetensors", &[("variance", &[D], ones()), ("mean", &[D], vec![f64::NAN; D])], 1, &["entry 0", "finite"]);
    let damped = ["--preconditioner", "variance.safetensors", "--proposal", "shifted", "--damping", "auto"];
    refused(estimate(path, "bad", &damped), 2, &["gives a covariance", "leave them out"]);
    assert!(!path.join("bad").exists());
}

#[test]
fn what_has_no_covariance_cannot_be_shifted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let shifted = |extra: &[&str]| {
        let mut all = vec!["--proposal", "shifted"];
        all.extend(extra);
        estimate(path, "bad", &all)
    };
    for extra in
        [&["--preconditioner", "adam2"][..], &["--preconditioner", "learned"], &["--preconditioner", "fisher", "--exponent", "0.5"]]
    {
        refused(shifted(extra), 2, &["has only a shape", "--damping auto", extra[1]]);
    }
    for prior in ["lebesgue", "sphere"] {
        let assert = binary(path)
            .arg("estimate")
            .arg(network())
            .args(["--prior", prior, "--proposal", "shifted", "--preconditioner", "none", "--out", "bad"])
            .assert();
        refused(assert, 2, &["--prior gaussian"]);
    }
    estimate(path, "bad", &["--proposal", "tilted"]).code(2).stderr(contains("shifted").and(contains("centered")));
    assert!(!path.join("bad").exists());
    // Adam's second moment as a curvature is a covariance.
    shifted(&["--preconditioner", "adam2", "--damping", "auto"]).success();
}
