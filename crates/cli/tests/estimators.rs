//! What all estimators have in common on the command line: names, settings by name, the comparison.

mod common;

use common::{binary, json, network, samples, words};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;

#[test]
fn settings_are_set_by_name_and_wrong_ones_get_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let estimate = |extra: &[&str]| binary(folder.path()).arg("estimate").arg(network()).args(["--samples", "4"]).args(extra).assert();
    estimate(&["--out", "set", "--set", "profile_points=5", "--set", "radial.radius_tolerance=0.5"]).success();
    let spec = json(&folder.path().join("set/manifest.json"))["estimator"].clone();
    assert_eq!((&spec["kind"], &spec["profile_points"], &spec["radius_tolerance"]), (&"radial".into(), &5.into(), &0.5.into()));
    assert!(samples(&folder.path().join("set"))[0]["profile"].is_array());
    for (setting, part) in [
        ("profile=5", "--set profile=5: there is no setting 'profile': expected one of radius_tolerance, max_evaluations, profile_points,"),
        ("max_evaluations=few", "--set max_evaluations=few: the setting max_evaluations cannot be 'few': invalid type"),
        ("max_evaluations", "--set max_evaluations: expected NAME=VALUE"),
        ("conical.steps=3", "--set conical.steps=3: there is no estimator 'conical' in this run"),
    ] {
        let assert = estimate(&["--out", "bad", "--set", setting]).code(2);
        let text = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        assert!(text.contains(part) && text.lines().count() == 1, "{text}");
    }
    assert!(!folder.path().join("bad").exists());
    estimate(&["--estimator", "conical"]).code(2).stderr(contains("radial").and(contains("spectral")).and(contains("all")));
}

#[test]
fn all_estimators_stand_in_one_table_and_come_back_from_their_files() {
    let folder = tempfile::tempdir().unwrap();
    let command = |extra: &[&str]| {
        let mut command = binary(folder.path());
        command
            .arg("estimate")
            .arg(network())
            .args(["--estimator", "all", "--samples", "20", "--preconditioner", "none,adam2", "--cutoff", "0.3"])
            .args(extra);
        command
    };
    let quick = ["--set", "annealed.trajectories=4", "--set", "annealed.patience=1", "--set", "annealed.effort=0"];
    let text = command(&[&["--out", "all"], &quick[..]].concat()).assert().success().get_output().clone();
    let text = String::from_utf8(text.stdout).unwrap();
    for part in ["estimate (nats)", "radial, none", "radial, adam2", "star", "lower bound", "Trust the annealed number"] {
        assert!(words(text.as_bytes()).contains(part), "{part}: {text}");
    }
    let all = folder.path().join("all");
    assert_eq!(samples(&all.join("radial/adam2")).len(), 20);
    let comparison = json(&all.join("comparison.json"));
    assert!(comparison["answers"].as_array().unwrap().len() >= 2 && comparison["verdict"].is_array());
    // No number carried by one ray is called an answer.
    for answer in comparison["answers"].as_array().unwrap().iter().filter(|answer| answer["estimator"] != "annealed") {
        assert_ne!(answer["trust"], "answer", "{answer}");
    }
    let report = binary(folder.path()).args(["report", "all"]).assert().success().get_output().stdout.clone();
    assert_eq!(text, std::str::from_utf8(&report).unwrap());
    let full = binary(folder.path()).args(["report", "all", "-v"]).assert().success().get_output().stdout.clone();
    for part in ["log-mean-exp", "until +-1 %", "localization", "evaluations/ray"] {
        assert!(words(&full).contains(part), "{part}");
    }
    // Unprefixed settings could mean any of them.
    command(&["--out", "other", "--set", "max_evaluations=9"]).assert().code(2).stderr(contains("ESTIMATOR.NAME=VALUE"));
    // Shards of all estimators, merged.
    for shard in ["0/2", "1/2"] {
        command(&["--out", &format!("part{}", &shard[..1]), "--shard", shard]).assert().success();
    }
    binary(folder.path()).args(["merge", "part0", "part1", "--out", "merged"]).assert().success();
    assert_eq!(samples(&folder.path().join("merged/radial/none")), samples(&all.join("radial/none")));
    let merged = json(&folder.path().join("merged/comparison.json"));
    for (ours, theirs) in merged["answers"].as_array().unwrap().iter().zip(comparison["answers"].as_array().unwrap()) {
        assert_eq!(ours["log_probability"], theirs["log_probability"]);
    }
    binary(folder.path())
        .args(["merge", "part0", "all/radial", "--out", "mixed"])
        .assert()
        .code(1)
        .stderr(contains("merge them separately"));
}
