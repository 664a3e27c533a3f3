//! The main job and its neighbours, end to end.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command as Process, Stdio};

use common::{binary, json, log_volumes, mean, network, samples, wait_for_samples, words};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use serde_json::Value;

fn estimate(folder: &Path, out: &str, extra: &[&str]) -> Value {
    let output = binary(folder)
        .arg("estimate")
        .arg(network())
        .args(["--samples", "40", "--json", "--out", out])
        .args(extra)
        .assert()
        .success()
        .get_output()
        .clone();
    // Without a terminal there is what counts and how long it takes, and a line a minute.
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(said.lines().all(|line| line.starts_with("Data: ") || line.starts_with("Forecast for ")), "{said}");
    serde_json::from_slice(&output.stdout).expect("--json prints the result alone")
}

#[test]
fn the_result_has_what_it_promises_and_agrees_with_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let result = estimate(folder.path(), "run", &["--profile", "6"]);
    let run = folder.path().join("run");
    assert_eq!(result, json(&run.join("result.json")));
    let volume = log_volumes(&result);
    for field in ["log_mean_exp", "mean", "sd", "min", "max"] {
        assert!(volume[field].is_number(), "{field}");
    }
    assert!(volume["interval"][0].is_number());
    let radial = &result["radial"];
    for field in ["effective_sample_size", "largest_share", "evaluations_per_sample", "pareto_k"] {
        assert!(radial[field].is_number(), "{field}");
    }
    assert!(result["answer"]["seconds"].is_number());
    assert_eq!(radial["outcomes"]["converged"], 40);
    let manifest = json(&run.join("manifest.json"));
    for field in ["dimension", "sigma", "center_norm_squared", "cutoff", "seed"] {
        assert!(manifest[field].is_number(), "{field}");
    }
    assert!(manifest["prior"].is_object() && manifest["preconditioner"].is_object());
    assert_eq!(manifest["problem"]["data"]["order"].as_array().unwrap().len(), 1024);
    let samples = samples(&run);
    assert_eq!(samples.len(), 40);
    for (index, sample) in samples.iter().enumerate() {
        assert_eq!(sample["index"], index);
        for field in ["radius", "radius_error_nats", "norm", "center_dot", "cost", "log_volume", "evaluations"] {
            assert!(sample[field].is_number(), "{field}: {sample}");
        }
        assert_eq!(sample["outcome"], "converged");
        let cost = sample["cost"].as_f64().unwrap();
        assert!((cost / 0.01 - 1.0).abs() < 0.05, "{cost}");
    }
    let average = samples.iter().map(|s| s["log_volume"].as_f64().unwrap()).sum::<f64>() / 40.0;
    assert!((average - mean(&result)).abs() < 1e-6);
    for figure in ["log_volumes", "radii", "cost_along_rays"] {
        for ending in ["svg", "png"] {
            let path = run.join(format!("{figure}.{ending}"));
            assert!(fs::metadata(&path).unwrap().len() > 2000, "{}", path.display());
        }
    }
}

#[test]
fn threads_do_not_change_a_bit_and_a_repeated_command_computes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let one = estimate(folder.path(), "one", &["--threads", "1"]);
    let three = estimate(folder.path(), "three", &["--threads", "3"]);
    assert_eq!(log_volumes(&one), log_volumes(&three));
    assert_eq!(samples(&folder.path().join("one")), samples(&folder.path().join("three")));
    let before = fs::read(folder.path().join("one/samples.jsonl")).unwrap();
    let again = estimate(folder.path(), "one", &["--threads", "1"]);
    assert_eq!(before, fs::read(folder.path().join("one/samples.jsonl")).unwrap());
    assert_eq!(one, again);
}

#[test]
fn preconditioners_side_by_side_make_a_comparison() {
    let folder = tempfile::tempdir().unwrap();
    let results = estimate(folder.path(), "group", &["--preconditioner", "none,adam2,adam1", "--exponent", "0.3", "--eps", "2e-3"]);
    let results = results.as_array().expect("an array for several preconditioners");
    let names: Vec<&str> = results.iter().map(|r| r["radial"]["preconditioner"].as_str().unwrap()).collect();
    assert_eq!(names, ["none", "adam2", "adam1"]);
    let (none, adam) = (mean(&results[0]), mean(&results[1]));
    assert!(adam > none + 20.0, "Adam's second moment helps: {adam} {none}");
    let group = folder.path().join("group");
    assert!(group.join("log_volumes.png").exists() && group.join("comparison.json").exists());
    assert_eq!(samples(&group.join("adam2")).len(), 40);
    // The same table again from the files alone.
    binary(folder.path()).args(["report", "group"]).assert().success().stdout(contains("radial, adam2").and(contains("estimate (nats)")));
}

#[test]
fn shards_merge_into_what_one_run_gives() {
    let folder = tempfile::tempdir().unwrap();
    let whole = estimate(folder.path(), "whole", &[]);
    for shard in ["0/3", "1/3", "2/3"] {
        estimate(folder.path(), &format!("part{}", &shard[..1]), &["--shard", shard]);
    }
    let output = binary(folder.path()).args(["merge", "part0", "part1", "part2", "--out", "merged", "--json"]).assert().success();
    let merged: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert_eq!(log_volumes(&merged), log_volumes(&whole));
    assert_eq!(samples(&folder.path().join("merged")), samples(&folder.path().join("whole")));
    // Two of three: the result says what is missing.
    let output = binary(folder.path()).args(["merge", "part0", "part2", "--out", "partial"]).assert().success();
    output.stdout(contains("13 of the samples asked for are not computed yet"));
    // A different run is refused, with the difference.
    estimate(folder.path(), "other", &["--cutoff", "0.02"]);
    binary(folder.path())
        .args(["merge", "part0", "other", "--out", "mixed"])
        .assert()
        .code(1)
        .stderr(contains("other is no part of the same run as part0").and(contains("cutoff: 0.01, 0.02")));
    assert!(!folder.path().join("mixed").exists());
}

#[test]
fn priors_and_penalty_reach_the_answer() {
    let folder = tempfile::tempdir().unwrap();
    let of = |out: &str, extra: &[&str]| mean(&estimate(folder.path(), out, extra));
    let gaussian = of("gaussian", &[]);
    let wide = of("wide", &["--sigma", "2"]);
    let decay = of("decay", &["--sigma", "weight-decay"]);
    let lebesgue = of("lebesgue", &["--prior", "lebesgue"]);
    let sphere = of("sphere", &["--prior", "sphere"]);
    let penalised = of("penalised", &["--l2-reg", "0.01"]);
    let doubled = of("doubled", &["--cutoff", "0.02"]);
    // D = 1210: sigma 2 instead of about 0.4 costs D ln 5; the flat volume of a small ball differs from the Gaussian one by D ln sigma and more.
    assert!(wide < gaussian - 500.0 && decay < gaussian - 500.0, "{gaussian} {wide} {decay}");
    assert!(lebesgue > gaussian - 1210.0 * 5.0 && lebesgue.is_finite() && sphere < 0.0);
    assert!(penalised < gaussian, "{penalised} {gaussian}");
    // Twice the cutoff: radius times about sqrt 2, volume times about 2^(D/2).
    assert!((doubled - gaussian - 605.0 * 2f64.ln()).abs() < 120.0, "{}", doubled - gaussian);
    let manifest = json(&folder.path().join("sphere/manifest.json"));
    assert!(manifest["sigma"].is_null());
}

#[test]
fn a_ray_can_be_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let result = estimate(folder.path(), "run", &[]);
    assert!(result.is_object());
    let sample = &samples(&folder.path().join("run"))[3];
    let output = binary(folder.path())
        .arg("profile")
        .arg(network())
        .args(["--index", "3", "--points", "10", "--out", "ray", "--save-direction", "direction.safetensors", "--json"])
        .assert()
        .success();
    let profile: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert_eq!(profile["radius"], sample["radius"], "the same ray as in the run");
    let points = profile["points"].as_array().unwrap();
    assert_eq!(points.len(), 10);
    // Point 5 of 10 lies at the radius, where the cost is the cutoff.
    assert!((points[4]["cost"].as_f64().unwrap() - 0.01).abs() < 1e-6);
    assert!(folder.path().join("ray/profile.png").exists());
    let bytes = fs::read(folder.path().join("direction.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let squared: f64 = file
        .tensors()
        .iter()
        .flat_map(|(_, t)| t.data().as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b)).powi(2)).collect::<Vec<_>>())
        .sum();
    assert!((squared.sqrt() - sample["norm"].as_f64().unwrap()).abs() < 1e-6);
    binary(folder.path()).arg("profile").arg(network()).args(["--points", "4"]).assert().success().stdout(contains("crosses the cutoff"));
}

#[test]
fn inspect_names_every_parameter() {
    let folder = tempfile::tempdir().unwrap();
    binary(folder.path())
        .arg("inspect")
        .arg(network())
        .assert()
        .success()
        .stdout(contains("layers.0.weight").and(contains("1210")).and(contains("weight-decay")));
    let output = binary(folder.path()).arg("inspect").arg(network()).arg("--json").assert().success();
    let description: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert_eq!(description["dimension"], 1210);
    assert_eq!(description["adam_moments"], true);
}

#[test]
fn a_preconditioner_file_does_what_its_source_does() {
    let folder = tempfile::tempdir().unwrap();
    let moments = fs::read(network().join("optimizer.safetensors")).unwrap();
    let moments = safetensors::SafeTensors::deserialize(&moments).unwrap();
    let named: Vec<(String, safetensors::tensor::TensorView<'_>)> =
        moments.tensors().into_iter().filter_map(|(name, tensor)| Some((name.strip_prefix("exp_avg_sq.")?.to_owned(), tensor))).collect();
    assert_eq!(named.len(), 4);
    safetensors::serialize_to_file(named, None, &folder.path().join("second.safetensors")).unwrap();
    let built_in = estimate(folder.path(), "built-in", &["--preconditioner", "adam2"]);
    let from_file = estimate(folder.path(), "file", &["--preconditioner", "second.safetensors"]);
    assert_eq!(log_volumes(&built_in), log_volumes(&from_file));
    // A dense matrix: the same diagonal as a 1210 x 1210 matrix gives the same volumes but for rounding.
    let diagonal: Vec<f32> = (0..1210).map(|i| 1e-3 + (i as f32 * 0.01).sin().abs()).collect();
    let mut matrix = vec![0.0f32; 1210 * 1210];
    (0..1210).for_each(|i| matrix[i * 1211] = diagonal[i]);
    let write = |name: &str, shape: Vec<usize>, values: &[f32]| {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, &bytes).unwrap();
        safetensors::serialize_to_file([(name, view)], None, &folder.path().join(format!("{name}.safetensors"))).unwrap();
    };
    write("diagonal", vec![1210], &diagonal);
    write("matrix", vec![1210, 1210], &matrix);
    let of = |file: &str, out: &str| mean(&estimate(folder.path(), out, &["--preconditioner", file]));
    let (a, b) = (of("diagonal.safetensors", "a"), of("matrix.safetensors", "b"));
    assert!((a - b).abs() < 0.5, "{a} {b}");
}

#[test]
fn ctrl_c_writes_the_summary_and_kill_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let arguments = ["--samples", "1500", "--threads", "2", "--out", "run"];
    let start = || {
        Process::new(assert_cmd::cargo::cargo_bin("basin-volume"))
            .arg("estimate")
            .arg(network())
            .args(arguments)
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let wait_for = |count: usize| wait_for_samples(&run, count);
    // kill -9: whatever was written stays.
    let mut child = start();
    wait_for(20);
    child.kill().unwrap();
    child.wait().unwrap();
    let killed = samples(&run);
    assert!(killed.len() < 1500 && !run.join("result.json").exists());
    // Ctrl-C: summary, figures, exit code 130, and the words say how to go on.
    let child = start();
    wait_for(killed.len() + 20);
    assert!(Process::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the same command continues it"));
    let interrupted = samples(&run);
    assert!(interrupted.len() < 1500);
    assert_eq!(json(&run.join("result.json"))["radial"]["samples"], interrupted.len());
    assert!(run.join("log_volumes.svg").exists());
    // The same command finishes the run, and the answer is that of an undisturbed one.
    assert!(start().wait_with_output().unwrap().status.success());
    binary(folder.path()).arg("estimate").arg(network()).args(["--samples", "1500", "--out", "undisturbed", "--json"]).assert().success();
    let (resumed, undisturbed) = (samples(&run), samples(&folder.path().join("undisturbed")));
    assert_eq!(resumed.len(), 1500);
    assert_eq!(resumed, undisturbed);
}

#[test]
fn the_network_of_the_paper_is_trained_once_and_estimated_with_both_preconditioners() {
    let folder = tempfile::tempdir().unwrap();
    binary(folder.path())
        .args(["estimate", "digits-mlp", "--samples", "6"])
        .assert()
        .success()
        .stdout(contains("none").and(contains("adam2")).and(contains("Run folder: runs")).and(contains("lower bound")));
    let checkpoint = folder.path().join("cache/digits-mlp-2");
    let config = json(&checkpoint.join("config.json"));
    assert!(config["training"]["train_accuracy"].as_f64().unwrap() >= 0.99);
    assert!(config["training"]["test_accuracy"].as_f64().unwrap() >= 0.96);
    let group = fs::read_dir(folder.path().join("runs")).unwrap().next().unwrap().unwrap().path();
    for name in ["none", "adam2"] {
        let samples = samples(&group.join(name));
        assert_eq!(samples.len(), 6);
        let mut evaluations: Vec<u64> = samples.iter().map(|s| s["evaluations"].as_u64().unwrap()).collect();
        evaluations.sort_unstable();
        assert!(evaluations[3] <= 5, "{evaluations:?}");
        assert!(samples.iter().all(|s| s["radius_error_nats"].as_f64().unwrap() <= 1.0));
        let manifest = json(&group.join(name).join("manifest.json"));
        assert_eq!(manifest["dimension"], 1_089_034);
        assert!((manifest["sigma"].as_f64().unwrap() - 1.3975).abs() < 1e-4);
    }
    let modified = || fs::metadata(checkpoint.join("model.safetensors")).unwrap().modified().unwrap();
    let before = modified();
    binary(folder.path()).args(["inspect", "digits-mlp"]).assert().success().stdout(contains("1089034"));
    assert_eq!(before, modified());
}

#[test]
fn the_main_job_shows_every_number_and_says_what_it_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let run = |extra: &[&str]| {
        let mut command = binary(folder.path());
        command.args(["estimate", "digits", "--samples", "6", "--cutoff", "0.3", "--out", "run"]);
        for setting in ["trajectories=4", "patience=1", "spacing=1.5", "effort=1", "block=2"] {
            command.args(["--set", &format!("annealed.{setting}")]);
        }
        command.args(extra).assert()
    };
    // Nothing is as quick as that.
    let refusal = run(&["--time-limit", "1e-6s"]).code(2).get_output().clone();
    let said = words(&refusal.stderr);
    assert!(
        said.contains("nothing ends within --time-limit 0.000001s") && said.contains("The star by chains is left out: it would take"),
        "{said}"
    );
    let run_folder = folder.path().join("run");
    assert!(!run_folder.exists() && refusal.stdout.is_empty());
    let output = run(&["--time-limit", "1day"]).success().get_output().clone();
    let said = words(&output.stdout);
    for part in
        ["radial, none", "radial, adam2", "radial, fisher", "radial, kronecker", "spectral (quadratic)", "annealed", "Run folder: run"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("left out"), "{said}");
    let forecasts = words(&output.stderr);
    assert!(forecasts.contains("Forecast for the star by chains: ") && forecasts.contains("Data: 1,024 rows"), "{forecasts}");
    // The lines that are no table fit a screen.
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.lines().all(|line| line.chars().count() <= 80 || line.contains("  ")), "{text}");
    let config = json(&folder.path().join("cache/digits-3/config.json"));
    assert!(config["training"]["test_accuracy"].as_f64().unwrap() >= 0.9);
    let comparison = json(&run_folder.join("comparison.json"));
    let sets: Vec<&str> = comparison["answers"].as_array().unwrap().iter().map(|answer| answer["measures"].as_str().unwrap()).collect();
    assert_eq!(sets, ["star", "star", "star", "star", "ellipsoid", "basin", "star"]);
    assert_eq!(json(&run_folder.join("star/manifest.json"))["dimension"], 1210);
}
