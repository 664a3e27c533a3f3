//! Several `--data`: volumes apart and together, and their dependence.

mod common;

use std::fs;
use std::path::Path;

use assert_cmd::assert::Assert;
use common::{binary, documents, json, language_model, log_probability, network, samples, words};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use serde_json::Value;

fn estimate(folder: &Path, out: &str, extra: &[&str]) -> Assert {
    binary(folder).arg("estimate").arg(network()).args(["--samples", "20", "--out", out]).args(extra).assert()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn two_data_sets_share_their_rays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let data = ["--data", "digits:train", "--data", "digits:test"];
    let text = String::from_utf8(estimate(path, "joint", &data).success().get_output().stdout.clone()).unwrap();
    for part in ["on digits:train and digits:test", "Dependence: ln P(", "nested ones", "20"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let joint = path.join("joint");
    let (train, test, both) = (samples(&joint.join("digits-train")), samples(&joint.join("digits-test")), samples(&joint.join("both")));
    assert_eq!((train.len(), test.len(), both.len()), (20, 20, 20));
    for ((a, b), all) in train.iter().zip(&test).zip(&both) {
        assert_eq!((&a["norm"], &a["center_dot"]), (&b["norm"], &b["center_dot"]));
        assert_eq!(number(&all["radius"]), number(&a["radius"]).min(number(&b["radius"])));
        assert_eq!(number(&all["log_volume"]), number(&a["log_volume"]).min(number(&b["log_volume"])));
        assert_eq!(number(&all["evaluations"]), number(&a["evaluations"]) + number(&b["evaluations"]));
    }
    // Each part is the run of that data alone.
    estimate(path, "alone", &["--data", "digits:test", "--preconditioner", "none"]).success();
    assert_eq!(samples(&path.join("alone")), test);
    let comparison = json(&joint.join("comparison.json"));
    let (a, b) = (log_probability(&comparison["parts"][0]), log_probability(&comparison["parts"][1]));
    let dependence = number(&comparison["dependence"]["nats"]);
    assert!((dependence - (log_probability(&comparison["all"]) - a - b)).abs() < 1e-9 * a.abs());
    assert!(dependence <= number(&comparison["nested"]) + 1e-9 * a.abs());
    assert_eq!(comparison["dependence"]["rays"], 20);
    assert_eq!(comparison["parts"][1]["data"], "digits:test");
    for file in ["log_volumes.svg", "radii.svg"] {
        assert!(joint.join(file).exists() && joint.join("both").join(file).exists(), "{file}");
    }
    // The same command again computes nothing and says the same; so does report, from the files.
    let again = String::from_utf8(estimate(path, "joint", &data).success().get_output().stdout.clone()).unwrap();
    assert_eq!(text, again);
    assert_eq!(samples(&joint.join("both")), both);
    let report = binary(path).args(["report", "joint"]).assert().success();
    assert_eq!(text, String::from_utf8(report.get_output().stdout.clone()).unwrap());
    let report = binary(path).args(["report", "joint", "--json"]).assert().success();
    let report: Value = serde_json::from_slice(&report.get_output().stdout).unwrap();
    assert_eq!(report, json(&joint.join("comparison.json")));
    // Shards are merged name by name.
    for shard in ["0/2", "1/2"] {
        let mut flags = data.to_vec();
        flags.extend(["--shard", shard]);
        estimate(path, &format!("part{}", &shard[..1]), &flags).success();
    }
    binary(path).args(["merge", "part0", "part1", "--out", "merged"]).assert().success().stdout(contains("Dependence"));
    assert_eq!(samples(&path.join("merged/both")), both);
    assert_eq!(json(&path.join("merged/comparison.json"))["dependence"], comparison["dependence"]);
}

#[test]
fn a_curvature_is_that_of_the_first_data_and_more_rays_continue() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let flags =
        ["--data", "digits:test", "--data", "digits:train", "--preconditioner", "fisher", "--proposal", "shifted", "--sigma", "rms"];
    estimate(path, "joint", &flags).success().stdout(contains("radial, fisher, shifted"));
    assert!(
        path.join("joint/digits-test/curvature.safetensors").exists() && !path.join("joint/digits-train/curvature.safetensors").exists()
    );
    let before = samples(&path.join("joint/both"));
    let more = binary(path).arg("estimate").arg(network()).args(["--samples", "25", "--out", "joint"]).args(flags).assert();
    more.success();
    let after = samples(&path.join("joint/both"));
    assert_eq!((after.len(), &after[..20]), (25, &before[..]));
}

#[test]
fn language_models_take_several_texts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let model = language_model(path, "gpt_neox_pythia", "neox");
    let (first, second) = (documents(path, "first.jsonl"), path.join("second.jsonl"));
    let lines: Vec<String> = (0..6)
        .map(|line| serde_json::json!({ "text": format!("w{} w{} w9 w{} w4 w5", 8 + line, 7 + 2 * line, 20 - line) }).to_string())
        .collect();
    fs::write(&second, lines.join("\n")).unwrap();
    let run = |out: &str, second: &str| {
        binary(path)
            .arg("estimate")
            .arg(&model)
            .arg("--data")
            .arg(&first)
            .args(["--data", second, "--val-size", "4", "--samples", "5", "--out", out, "--json"])
            .assert()
    };
    let output = run("joint", "second.jsonl").success().get_output().stdout.clone();
    let comparison: Value = serde_json::from_slice(&output).unwrap();
    assert_eq!(comparison["all"]["radial"]["samples"], 5);
    assert_eq!(samples(&path.join("joint/first.jsonl")).len(), 5);
    assert!(comparison["dependence"]["nats"].is_number());
    run("bad", "third.jsonl").failure().stderr(contains("third.jsonl"));
    assert!(!path.join("bad").exists());
}

#[test]
fn a_reference_is_what_the_sets_are_looked_at_inside_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let data = ["--data", "digits:train:64", "--data", "digits:test:64", "--reference", "digits:train:128"];
    let text = String::from_utf8(estimate(path, "given", &data).success().get_output().stdout.clone()).unwrap();
    for part in
        ["digits:train:128 (reference)", "Dependence given digits:train:128: ln P(", "whose cutoff is 0.0125 nats (the others' over 0.8)"]
    {
        assert!(words(text.as_bytes()).contains(part), "{part}: {text}");
    }
    let given = path.join("given");
    let dependence = json(&given.join("comparison.json"))["dependence"].clone();
    let (parts, all, reference) = (&dependence["parts"], number(&dependence["all"]), number(&dependence["reference"]));
    let sum = all - number(&parts[0]) - number(&parts[1]) + reference;
    assert!((number(&dependence["nats"]) - sum).abs() < 1e-9 * reference.abs(), "{dependence}");
    assert!(number(&parts[0]) <= reference && all <= number(&parts[1]));
    assert_eq!(number(&dependence["reference_scale"]), 0.8);
    // Along every ray all of it is where the first cost crosses, the reference's at its own cutoff.
    let names = ["digits-train-64", "digits-test-64", "digits-train-128", "both"];
    let rays: Vec<Vec<Value>> = names.iter().map(|name| samples(&given.join(name))).collect();
    let radii: Vec<Vec<f64>> = rays.iter().map(|samples| samples.iter().map(|sample| number(&sample["radius"])).collect()).collect();
    let first: Vec<f64> = (0..20).map(|index| radii[..3].iter().map(|radii| radii[index]).fold(f64::INFINITY, f64::min)).collect();
    assert_eq!(radii[3], first);
    let manifest = json(&given.join("digits-train-128/manifest.json"));
    assert!(manifest.to_string().contains("\"cutoff\":0.0125"), "{manifest}");
    // It is the run on those data alone with that cutoff; the same command, report and shards say the same.
    estimate(path, "alone", &["--data", "digits:train:128", "--preconditioner", "none", "--cutoff", "0.0125"]).success();
    assert_eq!(samples(&path.join("alone")), rays[2]);
    assert_eq!(String::from_utf8(estimate(path, "given", &data).success().get_output().stdout.clone()).unwrap(), text);
    let report = binary(path).args(["report", "given"]).assert().success();
    assert_eq!(String::from_utf8(report.get_output().stdout.clone()).unwrap(), text);
    for shard in ["0/2", "1/2"] {
        estimate(path, &format!("part{}", &shard[..1]), &[&data[..], &["--shard", shard]].concat()).success();
    }
    binary(path).args(["merge", "part0", "part1", "--out", "merged"]).assert().success().stdout(contains("Dependence given"));
    assert_eq!(json(&path.join("merged/comparison.json"))["dependence"], dependence);
    // Another reference, or scale, is another question.
    estimate(path, "given", &[&data[..], &["--reference-scale", "0.5"]].concat()).code(1).stderr(contains("cutoff"));
    let refused = |extra: &[&str], part: &str| {
        estimate(path, "bad", extra).code(2).stderr(contains(part));
    };
    refused(&["--data", "digits:test", "--reference", "digits:train"], "--reference is for the dependence of several --data");
    refused(&[&data[..4], &["--reference-scale", "0.5"]].concat(), "--reference-scale is of the data of --reference");
    refused(&[&data[..], &["--reference-scale", "0"]].concat(), "--reference-scale is 0");
    refused(&[&data[..], &["--estimator", "annealed"]].concat(), "--reference is for rays");
    refused(&[&data[..4], &["--reference", "digits:test:64"]].concat(), "names digits:test:64 twice");
    assert!(!path.join("bad").exists());
}

#[test]
fn random_tokens_and_letters_are_data() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let model = language_model(path, "gpt_neox_pythia", "neox");
    documents(path, "first.jsonl");
    let run =
        |out: &str, extra: &[&str]| binary(path).arg("estimate").arg(&model).args(["--samples", "4", "--out", out]).args(extra).assert();
    run("tokens", &["--data", "random:6:8"]).success().stderr(contains("6 sequences of random:6:8; all 48 tokens count"));
    run("again", &["--data", "random:6:8:0"]).success();
    run("other", &["--data", "random:6:8:1"]).success();
    let hash = |out: &str| json(&path.join(out).join("manifest.json"))["problem"]["data"]["sha256"].clone();
    assert!(hash("tokens") == hash("again") && hash("tokens") != hash("other"));
    run("letters", &["--data", "random-letters:3:20"]).success();
    let given = ["--data", "first.jsonl", "--data", "random-letters:4:30", "--reference", "random:50:12", "--val-size", "3"];
    run("given", &given).success().stdout(contains("Dependence given random:50:12"));
    run("bad", &["--data", "random:6:8", "--val-size", "7"]).code(2).stderr(contains("has 6 sequences"));
    run("bad", &["--data", "random:6:100000"]).code(2).stderr(contains("positions"));
    run("bad", &["--data", "random:6:x"]).code(2).stderr(contains("random:SEQUENCES:TOKENS:SEED"));
    // A task is a data set of the hub, which the tests do not reach.
    run("bad", &["--data", "gsm8k"]).code(1).stderr(contains("openai/gsm8k"));
    binary(path).args(["data", "list"]).assert().success().stdout(contains("EleutherAI/lambada_openai").and(contains("random:64:128")));
    assert!(!path.join("bad").exists());
}

#[test]
fn what_several_data_cannot_have_is_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let data = ["--data", "digits:train", "--data", "digits:test"];
    let refused = |assert: Assert, code: i32, part: &str| {
        let text = String::from_utf8(assert.code(code).get_output().stderr.clone()).unwrap();
        assert!(text.contains(part) && text.lines().filter(|line| line.starts_with("error: ")).count() == 1, "{part}: {text}");
    };
    let with = |extra: &[&str]| {
        let mut flags = data.to_vec();
        flags.extend(extra);
        estimate(path, "bad", &flags)
    };
    refused(with(&["--preconditioner", "none,adam2"]), 2, "take one preconditioner: leave all but one of none, adam2 out");
    refused(with(&["--estimator", "all"]), 2, "several --data are for --estimator radial or --estimator annealed");
    refused(with(&["--estimator", "spectral"]), 2, "leave all but one out with --estimator spectral");
    refused(with(&["--estimator", "annealed", "--set", "metric=diagonal"]), 2, "--set metric is for one --data");
    refused(with(&["--data", "digits:test"]), 2, "--data names digits:test twice");
    refused(estimate(path, "bad", &["--data", "digits", "--data", "digits:train"]), 2, "are the same data");
    fs::write(path.join("both"), "").unwrap();
    refused(estimate(path, "bad", &["--data", "digits", "--data", "both"]), 2, "would be called 'both'");
    refused(with(&["--data", "nowhere"]), 2, "there is no data 'nowhere'");
    for command in ["profile", "inspect"] {
        let mut other = binary(path);
        other.arg(command).arg(network()).args(data);
        refused(other.assert(), 2, "--data is given 2 times: only estimate takes several data sets");
    }
    assert!(!path.join("bad").exists());
    // A folder of another question.
    estimate(path, "single", &["--preconditioner", "none"]).success();
    refused(estimate(path, "single", &data), 1, "holds a single run, but several data sets are asked for");
    estimate(path, "joint", &data).success();
    refused(
        estimate(path, "joint", &["--data", "digits:test", "--data", "digits:train", "--cutoff", "0.1"]),
        1,
        "cutoff: 0.01 in the folder",
    );
    refused(estimate(path, "joint", &["--data", "digits:test", "--data", "digits:train"]), 1, "problem.data");
    refused(estimate(path, "joint", &[&data[..], &["--estimator", "annealed"]].concat()), 1, "estimator");
    fs::remove_dir_all(path.join("joint/digits-test")).unwrap();
    refused(binary(path).args(["report", "joint"]).assert(), 1, "that of digits:test is not beside it");
}

#[test]
fn chains_measure_each_set_and_what_they_have_in_common() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let data = ["--data", "digits:train:64", "--data", "digits:test:64"];
    let settings = ["trajectories=4", "patience=1", "spacing=1", "effort=0"];
    let run = |data: &[&str], out: &str, extra: &[&str]| {
        let mut command = binary(path);
        command.arg("estimate").arg(network()).args(["--estimator", "annealed", "--cutoff", "0.3", "--out", out]).args(data);
        settings.iter().for_each(|setting| {
            command.args(["--set", setting]);
        });
        command.args(extra).assert()
    };
    let text = String::from_utf8(run(&data, "joint", &[]).success().get_output().stdout.clone()).unwrap();
    for part in ["estimate (nats)", "digits:train:64 and digits:test:64", "Dependence: ln P(", "nested ones"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let joint = path.join("joint");
    let comparison = json(&joint.join("comparison.json"));
    let [a, b, all] = [&comparison["parts"][0], &comparison["parts"][1], &comparison["all"]].map(log_probability);
    let dependence = &comparison["dependence"];
    assert!((number(&dependence["nats"]) - (all - a - b)).abs() < 1e-9 * a.abs());
    let end = |result: &Value, k: usize| number(&result["answer"]["interval"][k]);
    let [first, second] = [&comparison["parts"][0], &comparison["parts"][1]];
    // What both ask for is rarer than what one does, as far as such short runs know.
    assert!(end(&comparison["all"], 0) < end(first, 1).min(end(second, 1)), "{a} {b} {all}");
    let low = end(&comparison["all"], 0) - end(first, 1) - end(second, 1);
    assert!((number(&dependence["interval"][0]) - low).abs() < 1e-9 * a.abs());
    assert_eq!(comparison["parts"][1]["data"], "digits:test:64");
    assert_eq!(comparison["all"]["data"], "digits:train:64 and digits:test:64");
    // Each part is the run of that data alone.
    run(&["--data", "digits:test:64"], "alone", &["--set", "coordinates=weights"]).success();
    assert_eq!(samples(&path.join("alone")), samples(&joint.join("digits-test-64")));
    assert!(joint.join("both/ladder.svg").exists());
    // The same command again computes nothing; report says the same, as text, as JSON, and on a page.
    let before = samples(&joint.join("both"));
    let text = String::from_utf8(run(&data, "joint", &[]).success().get_output().stdout.clone()).unwrap();
    assert!(words(text.as_bytes()).contains(comparison["verdict"].as_str().unwrap()), "{text}");
    assert_eq!(samples(&joint.join("both")), before);
    let report = |extra: &[&str]| {
        let output = binary(path).args(["report", "joint"]).args(extra).assert().success().get_output().stdout.clone();
        String::from_utf8(output).unwrap()
    };
    assert_eq!(report(&["--html", "page.html"]), text);
    let reported: Value = serde_json::from_str(&report(&["--json"])).unwrap();
    assert_eq!((&reported["dependence"], &reported["verdict"]), (dependence, &comparison["verdict"]));
    let page = fs::read_to_string(path.join("page.html")).unwrap();
    assert!(page.contains("digits:test:64") && page.contains("Dependence: ln P(") && !page.contains("Trust the annealed"));
    run(&data, "nowhere", &["--continue"]).code(1).stderr(contains("--continue: nowhere is not a run folder"));
    // What is missing comes first, then one more sweep for each.
    fs::remove_dir_all(joint.join("both")).unwrap();
    run(&data, "joint", &["--continue"]).success();
    assert_eq!(samples(&joint.join("both")), before);
    assert_eq!(json(&joint.join("comparison.json"))["dependence"], *dependence);
    run(&data, "joint", &["--continue"]).success();
    let more = json(&joint.join("comparison.json"));
    for result in [&more["parts"][0], &more["parts"][1], &more["all"]] {
        assert_eq!(result["annealed"]["outward"].as_array().unwrap().len(), 2);
    }
    assert_eq!(samples(&joint.join("both"))[..before.len()], before);
}
