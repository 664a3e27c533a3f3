//! Scans from the command line: points that are ordinary runs, tables and figures, resumes, shards, pages, and what is refused.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::sync::OnceLock;

use common::{binary, golden, json, log_probability, network, samples, wait_for_samples};
use predicates::str::contains;
use serde_json::Value;
use tempfile::TempDir;

/// A training with the checkpoints of its steps 0, 1, 2, 4, 8, 16 and its end, 24.
fn training() -> &'static Path {
    static TRAINING: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = TRAINING.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("net");
        let flags = ["train", "digits", "--width", "4", "--depth", "1", "--epochs", "6", "--train-size", "256", "--checkpoints", "--out"];
        binary(folder.path()).args(flags).arg(&path).assert().success();
        (folder, path)
    });
    path
}

/// Runs a scan and gives its summary.
fn scan(folder: &Path, words: &[&str]) -> Value {
    let output = binary(folder).arg("scan").args(words).args(["--json"]).assert().success().get_output().clone();
    serde_json::from_slice(&output.stdout).expect("--json prints the summary alone")
}

fn small() -> &'static str {
    network().to_str().unwrap()
}

/// The answers of all points of a summary.
fn log_probabilities(summary: &Value) -> Vec<Value> {
    summary["rows"].as_array().unwrap().iter().map(|row| row["answer"]["log_probability"].clone()).collect()
}

fn table(path: &Path) -> Vec<csv::StringRecord> {
    csv::Reader::from_path(path).unwrap().records().collect::<Result<_, _>>().unwrap()
}

#[test]
fn points_are_the_runs_that_estimate_makes() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let words = ["cutoff", small(), "--grid", "1e-3,1e-2", "--samples", "12", "--preconditioner", "none,adam2", "--out", "scan"];
    let summary = scan(here, &words);
    assert_eq!(summary["rows"].as_array().unwrap().len(), 4);
    binary(here)
        .args(["estimate", small(), "--cutoff", "1e-3", "--samples", "12", "--preconditioner", "adam2", "--out", "alone"])
        .assert()
        .success();
    let point = here.join("scan/points/small/cutoff-0.001/radial/adam2");
    assert_eq!(samples(&point), samples(&here.join("alone")));
    let (mut ours, mut alone) = (json(&point.join("result.json")), json(&here.join("alone/result.json")));
    (ours["answer"]["seconds"], alone["answer"]["seconds"]) = (Value::Null, Value::Null);
    assert_eq!(ours, alone);
    assert_eq!(summary["rows"][1]["answer"]["log_probability"], log_probability(&ours));
    // The tables say the same.
    let rows = table(&here.join("scan/table.csv"));
    assert_eq!(rows.len(), 4);
    assert_eq!((&rows[1][0], &rows[1][1], &rows[1][3], &rows[1][4], &rows[1][6]), ("cutoff", "small", "radial", "adam2", "0.001"));
    assert_eq!(rows[1][7].parse::<f64>().unwrap(), log_probability(&ours));
    let parquet = parquet_rows(&here.join("scan/table.parquet"));
    assert_eq!(parquet.len(), 4);
    assert!(parquet[1].contains("preconditioner: \"adam2\"") && parquet[1].contains("interval_high: null"), "{}", parquet[1]);
    for figure in ["log_volume", "slopes"] {
        assert!(fs::metadata(here.join(format!("scan/{figure}.svg"))).unwrap().len() > 2000);
        assert!(fs::metadata(here.join(format!("scan/{figure}.png"))).unwrap().len() > 2000);
    }
    // Slopes and paired differences: naive rays on a network grow as if the cost were quadratic.
    let slope = &summary["slopes"][0];
    assert!((slope["typical"].as_f64().or(slope["whole"]["typical"].as_f64()).unwrap() / 605.0 - 1.0).abs() < 0.02, "{slope}");
    let differences = summary["differences"].as_array().unwrap();
    assert_eq!(differences.iter().filter(|found| found["between"] == "preconditioners").count(), 2);
    assert_eq!(differences.iter().filter(|found| found["between"] == "neighbors").count(), 2);
    assert!(differences.iter().all(|found| found["rays"] == 12 && found["typical_interval"][0].is_number()));
}

fn parquet_rows(path: &Path) -> Vec<String> {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    let reader = SerializedFileReader::new(fs::File::open(path).unwrap()).unwrap();
    reader.get_row_iter(None).unwrap().map(|row| row.unwrap().to_string()).collect()
}

#[test]
fn a_repeated_scan_computes_nothing_and_a_grown_one_only_what_is_new() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let words = |grid: &'static str, count: &'static str| {
        vec!["exponent", small(), "--grid", grid, "--samples", count, "--preconditioner", "none,adam2", "--out", "scan"]
    };
    let first = scan(here, &words("0.2,0.4", "8"));
    let stamp = |point: &str| fs::metadata(here.join("scan/points/small").join(point).join("samples.jsonl")).unwrap().modified().unwrap();
    let before = stamp("exponent-0.2/radial/adam2");
    assert_eq!(scan(here, &words("0.2,0.4", "8"))["rows"], first["rows"]);
    let grown = scan(here, &words("0.1,0.2,0.4", "8"));
    assert_eq!(grown["rows"].as_array().unwrap().len(), 4);
    assert_eq!(stamp("exponent-0.2/radial/adam2"), before);
    // Without a preconditioner nothing depends on the exponent: one run, without a value.
    let naive: Vec<&Value> = grown["rows"].as_array().unwrap().iter().filter(|row| row["preconditioner"] == "none").collect();
    assert!(naive.len() == 1 && naive[0]["value"].is_null() && here.join("scan/points/small/all/radial/none").exists());
    let more = scan(here, &words("0.1,0.2,0.4", "11"));
    assert!(more["rows"].as_array().unwrap().iter().all(|row| row["samples"] == 11));
    assert_eq!(samples(&here.join("scan/points/small/exponent-0.2/radial/adam2")).len(), 11);
}

#[test]
fn checkpoints_of_two_trainings_are_compared_step_by_step() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let training = training().to_str().unwrap();
    let two = [format!("one={training}"), format!("two={training}")];
    let summary = scan(here, &["checkpoints", &two[0], &two[1], "--samples", "6", "--sigma", "1", "--out", "scan"]);
    let steps: Vec<f64> = summary["rows"].as_array().unwrap().iter().map(|row| row["value"].as_f64().unwrap()).collect();
    assert_eq!(steps[..7], [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 24.0]);
    assert_eq!(steps.len(), 14);
    // The same network by two names: along common rays nothing is left.
    let models: Vec<&Value> = summary["differences"].as_array().unwrap().iter().filter(|found| found["between"] == "models").collect();
    assert_eq!(models.len(), 7);
    for found in models {
        let end = |k: usize| found["typical_interval"][k].as_f64().unwrap();
        // The error bounds of the radius search are all that is left.
        assert!(found["value"] == 0.0 && (-0.1..=0.0).contains(&end(0)) && (0.0..0.1).contains(&end(1)), "{found}");
    }
    // A point that cannot be computed is said at the end; the others are there.
    let damaged = here.join("damaged");
    assert!(Process::new("cp").arg("-r").arg(training).arg(&damaged).status().unwrap().success());
    fs::remove_file(damaged.join("step-1/optimizer.safetensors")).unwrap();
    let words = ["checkpoints", "damaged", "--grid", "1,2,24", "--samples", "6", "--preconditioner", "adam2", "--out", "adam"];
    let output = binary(here).arg("scan").args(words).assert().code(1).get_output().clone();
    let last = String::from_utf8(output.stderr).unwrap().lines().last().unwrap().to_owned();
    assert!(last.contains("error: damaged, step 1, radial adam2 could not be computed") && last.contains("moments"), "{last}");
    assert_eq!(table(&here.join("adam/table.csv")).len(), 2);
    binary(here)
        .args(["scan", "checkpoints", training, "--grid", "1,3", "--out", "other"])
        .assert()
        .code(2)
        .stderr(contains("has no checkpoint of step 3: it has 0, 1, 2, 4, 8, 16, 24"));
    binary(here)
        .args(["scan", "checkpoints", small(), "--out", "other"])
        .assert()
        .code(2)
        .stderr(contains("holds no checkpoints of a training: expected folders step-N"));
    assert!(!here.join("other").exists());
}

#[test]
fn checkpoints_share_the_prior_of_the_last_step_and_priors_that_differ_are_not_compared() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let training = training().to_str().unwrap();
    let words = ["checkpoints", training, "--grid", "0,1,24", "--samples", "4", "--out", "scan"];
    let summary = scan(here, &words);
    let own = |step: u64| {
        let model = format!("{training}/step-{step}");
        let output =
            binary(here).args(["inspect", if step == 24 { training } else { &model }, "--json"]).assert().success().get_output().clone();
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        found["rms"].as_f64().unwrap_or_else(|| panic!("{found}"))
    };
    let sigmas: Vec<f64> = summary["rows"].as_array().unwrap().iter().map(|row| row["sigma"].as_f64().unwrap()).collect();
    assert_eq!(sigmas, [own(24); 3]);
    assert!(own(0) != own(24));
    let from = summary["sigma"]["from"].as_str().unwrap();
    assert!(from.starts_with("rms of ") && from.ends_with(", step 24"), "{from}");
    assert_eq!(summary["differences"].as_array().unwrap().len(), 2);
    let text = binary(here).args(["report", "scan", "--html", "page.html"]).assert().success().get_output().stdout.clone();
    assert!(String::from_utf8(text).unwrap().contains("One prior for all points: sigma "));
    let page = fs::read_to_string(here.join("page.html")).unwrap();
    assert!(page.contains("One prior for all points") && page.contains("for all points</figcaption>") && page.contains(", sigma 0."));
    // A scan that grows keeps the prior that its points have.
    let grown = scan(here, &["checkpoints", training, "--grid", "0,1,2,24", "--samples", "4", "--out", "scan"]);
    assert_eq!(grown["sigma"], summary["sigma"]);
    // Several priors are the point of a scan of sigma: its points are not subtracted.
    let summary = scan(here, &["sigma", small(), "--grid", "0.5x,1x", "--samples", "4", "--out", "sigmas"]);
    assert!(summary["differences"].as_array().unwrap().is_empty() && summary["sigma"].is_null());
}

#[test]
fn samples_and_sigma_and_histograms() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let summary = scan(
        here,
        &[
            "samples",
            small(),
            "--grid",
            "5,10,20",
            "--estimator",
            "radial,spectral",
            "--set",
            "spectral.route=gram",
            "--data",
            "digits:train:20",
            "--out",
            "samples",
        ],
    );
    let rows = summary["rows"].as_array().unwrap();
    // The beginnings of one run, and a spectral run that has no rays to count.
    assert_eq!(rows.len(), 4);
    assert_eq!(samples(&here.join("samples/points/small/all/radial/none")).len(), 20);
    binary(here).args(["estimate", small(), "--samples", "10", "--data", "digits:train:20", "--out", "ten"]).assert().success();
    assert_eq!(rows[1]["answer"]["log_probability"], log_probability(&json(&here.join("ten/result.json"))));
    assert!(rows[3]["value"].is_null() && rows[3]["estimator"] == "spectral");
    let summary = scan(here, &["sigma", small(), "--grid", "0.5x,1x", "--samples", "5", "--out", "sigma"]);
    let sigma = |k: usize| summary["rows"][k]["value"].as_f64().unwrap();
    assert!((sigma(1) / sigma(0) - 2.0).abs() < 1e-12);
    scan(here, &["histogram", small(), "--samples", "30", "--preconditioner", "none,adam2", "--out", "histogram"]);
    assert!(fs::metadata(here.join("histogram/histogram.png")).unwrap().len() > 2000);
}

#[test]
fn shards_of_all_points_join_to_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let words = ["cutoff", small(), "--grid", "1e-3,1e-2", "--samples", "7", "--estimator", "radial,spectral", "--data", "digits:train:20"];
    let whole = scan(here, &[&words[..], &["--out", "whole"]].concat());
    let mut counts = Vec::new();
    for shard in 0..3 {
        let (index, out) = (format!("{shard}/3"), format!("shard-{shard}"));
        scan(here, &[&words[..], &["--shard", &index, "--out", &out]].concat());
        let rays = ["cutoff-0.001", "cutoff-0.01"]
            .map(|point| samples(&here.join(&out).join("points/small").join(point).join("radial/none")).len());
        counts.push(rays.iter().sum::<usize>());
    }
    // Fourteen rays over three, counted through both points.
    counts.sort_unstable();
    assert_eq!(counts, [4, 5, 5]);
    binary(here).args(["merge", "shard-0", "shard-1", "shard-2", "--out", "joined"]).assert().success();
    let joined = json(&here.join("joined/summary.json"));
    assert_eq!(log_probabilities(&joined), log_probabilities(&whole));
    assert_eq!(joined["differences"], whole["differences"]);
    // A scan that was joined goes on like any other.
    scan(here, &[&words[..], &["--out", "joined"]].concat());
    binary(here).args(["scan", "sigma", small(), "--grid", "1,2", "--samples", "3", "--out", "other"]).assert().success();
    binary(here)
        .args(["merge", "shard-0", "other", "--out", "mixed"])
        .assert()
        .code(1)
        .stderr(contains("other is of another scan than shard-0"));
}

#[test]
fn a_file_describes_the_same_scan() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let words = ["scan", "epsilon", small(), "--grid", "1e-4,1e-2", "--samples", "4", "--preconditioner", "adam2", "--out", "scan"];
    let printed = binary(here).args(words).arg("--print-config").assert().success().get_output().stdout.clone();
    assert!(!here.join("scan").exists());
    fs::write(here.join("scan.toml"), &printed).unwrap();
    let from_file = scan(here, &["--config", "scan.toml"]);
    assert_eq!(from_file["rows"].as_array().unwrap().len(), 2);
    // The flags of the command line are the same scan, and so is the file in the folder.
    binary(here).args(words).assert().success();
    binary(here).args(["scan", "--config", "scan/scan.toml", "--out", "scan"]).assert().success();
    binary(here).args(["scan", "--config", "no-such.toml"]).assert().code(1).stderr(contains("cannot read the scan no-such.toml"));
    fs::write(here.join("bad.toml"), "scan = \"epsilon\"\nsampels = 3\n").unwrap();
    binary(here).args(["scan", "--config", "bad.toml"]).assert().code(2).stderr(contains("bad.toml: there is no setting 'sampels'"));
}

#[test]
fn the_examples_are_scans() {
    let folder = tempfile::tempdir().unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut count = 0;
    for model in ["digits", "lm", "pythia", "convnext"] {
        for entry in fs::read_dir(examples.join(model)).unwrap() {
            let path = entry.unwrap().path();
            binary(folder.path()).args(["scan", "--print-config", "--config"]).arg(&path).assert().success().stdout(contains("scan = "));
            count += 1;
        }
    }
    assert!(count >= 20, "{count}");
}

/// A cluster's tasks are ours, one after another.
#[cfg(unix)]
#[test]
fn the_job_array_computes_the_scan() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let words = ["cutoff", small(), "--grid", "1e-3,1e-2", "--samples", "5", "--estimator", "radial,annealed", "--data", "digits:train:20"];
    let chains =
        ["--set", "annealed.trajectories=4", "--set", "annealed.patience=1", "--set", "annealed.effort=0", "--set", "annealed.spacing=2"];
    let words = [&words[..], &chains, &["--sigma", "rms"]].concat();
    let whole = scan(here, &[&words[..], &["--out", "whole"]].concat());
    let printed =
        binary(here).arg("scan").args(&words).args(["--out", "unused", "--print-config"]).assert().success().get_output().stdout.clone();
    fs::write(here.join("scan.toml"), printed).unwrap();
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/slurm");
    let program = PathBuf::from(binary(here).get_program());
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let script = |name: &str, words: &[&str], task: Option<usize>| {
        let mut command = Process::new("bash");
        command.arg(scripts.join(name)).args(words).current_dir(here).env("PATH", &path).env("BASIN_VOLUME_CACHE", here.join("cache"));
        if let Some(task) = task {
            command.env("SLURM_ARRAY_TASK_ID", task.to_string()).env("SLURM_ARRAY_TASK_COUNT", "3").env("SLURM_CPUS_PER_TASK", "2");
        }
        command.output().unwrap()
    };
    for task in 0..3 {
        let output = script("scan.sh", &["scan.toml", "runs/array"], Some(task));
        assert!(output.status.success(), "task {task}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // The last task has joined them; by hand it does no harm.
    let joined = json(&here.join("runs/array/summary.json"));
    assert_eq!(log_probabilities(&whole).len(), 4);
    assert_eq!(log_probabilities(&joined), log_probabilities(&whole));
    let output = script("merge.sh", &["runs/array", "3"], None);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(log_probabilities(&json(&here.join("runs/array/summary.json"))), log_probabilities(&whole));
    assert!(fs::read_to_string(here.join("runs/array.html")).unwrap().contains("</html>"));
    assert!(!script("scan.sh", &["scan.toml"], Some(0)).status.success(), "the folder is missing");
}

#[test]
fn shifted_rays_and_chains_stand_in_the_same_table() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let words = [
        "cutoff",
        small(),
        "--data",
        "digits:train:40",
        "--sigma",
        "rms",
        "--grid",
        "0.3,1",
        "--samples",
        "6",
        "--estimator",
        "radial,annealed",
        "--preconditioner",
        "none,fisher,fisher:shifted",
        "--set",
        "annealed.trajectories=4",
        "--set",
        "annealed.patience=1",
        "--set",
        "annealed.effort=0",
        "--set",
        "annealed.spacing=1",
        "--out",
        "scan",
    ];
    let found = scan(here, &words);
    let rows = found["rows"].as_array().unwrap();
    let methods: Vec<(&str, Option<&str>)> =
        rows[..4].iter().map(|row| (row["estimator"].as_str().unwrap(), row["preconditioner"].as_str())).collect();
    let expected = [("radial", Some("none")), ("radial", Some("fisher")), ("radial", Some("fisher, shifted")), ("annealed", None)];
    assert_eq!((rows.len(), methods.as_slice()), (8, &expected[..]));
    assert_eq!(rows[3]["answer"]["measures"], "basin");
    let value = |row: &Value| row["answer"]["log_probability"].as_f64().unwrap();
    // At a cutoff of 1 nearly all of the prior is under it, which is no more than certainty.
    assert!(rows.iter().all(|row| value(row) <= 0.0) && value(&rows[3]) < -10.0, "{rows:?}");
    // Shifted rays are those that `estimate` draws, and share the curvature of the centered ones.
    assert_ne!(value(&rows[1]), value(&rows[2]));
    let alone = ["--data", "digits:train:40", "--sigma", "rms", "--cutoff", "0.3", "--samples", "6", "--preconditioner", "fisher"];
    let output = binary(here)
        .args(["estimate", small(), "--proposal", "shifted", "--out", "alone", "--json"])
        .args(alone)
        .assert()
        .success()
        .get_output()
        .clone();
    let alone: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(log_probability(&alone), value(&rows[2]));
    binary(here)
        .args(["scan", "cutoff", small(), "--preconditioner", "fisher:shifted", "--proposal", "centered", "--out", "other"])
        .assert()
        .code(2)
        .stderr(contains("--proposal is for all preconditioners"));
}

#[test]
fn pages_hold_everything_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    scan(here, &["cutoff", small(), "--grid", "1e-3,1e-2", "--samples", "8", "--preconditioner", "none,adam2", "--out", "scan"]);
    binary(here).args(["report", "scan", "--html", "pages/scan.html"]).assert().success();
    let html = fs::read_to_string(here.join("pages/scan.html")).unwrap();
    for part in
        ["<svg", "Slope against ln cutoff", "Points", "What to know", "Differences along common rays", "weights_sha256", "lower bound"]
    {
        assert!(html.contains(part), "{part}");
    }
    assert!(html.matches("<svg").count() == 2 && !html.contains("<link") && !html.contains("src=\""));
    for (words, parts) in [
        (vec!["estimate", small(), "--samples", "8", "--out", "one"], vec!["radial, none", "log-volumes of the rays"]),
        (vec!["estimate", small(), "--samples", "8", "--preconditioner", "none,adam2", "--out", "two"], vec!["radial, adam2", "Verdict"]),
        (
            vec!["estimate", small(), "--estimator", "spectral", "--set", "route=gram", "--data", "digits:train:20", "--out", "quadratic"],
            vec!["ellipsoid", "spectrum of the Fisher matrix"],
        ),
    ] {
        binary(here).args(&words).assert().success();
        let out = words[words.len() - 1];
        binary(here).args(["report", out, "--html", "page.html"]).assert().success();
        let html = fs::read_to_string(here.join("page.html")).unwrap();
        for part in parts.into_iter().chain(["Settings and provenance", "Result and diagnostics", "<svg", "software"]) {
            assert!(html.contains(part), "{out}: {part}");
        }
    }
}

#[test]
fn what_cannot_be_scanned_is_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let refused = |words: &[&str], code: i32, expected: &str| {
        let output = binary(here).arg("scan").args(words).assert().code(code).get_output().clone();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains(expected), "{words:?}: '{expected}' is not in: {stderr}");
        assert!(!stderr.contains("panicked") && output.stdout.is_empty(), "{stderr}");
        let sentences = stderr.lines().filter(|line| line.starts_with("error: ")).count();
        assert_eq!(sentences, 1, "{stderr}");
    };
    refused(&["cutoff", small(), "--grid", "0.1", "--out", "x"], 2, "--grid has one value, 0.1");
    refused(&["cutoff", small(), "--grid", "1,0.1", "--out", "x"], 2, "--grid is not increasing: 0.1 comes after 1");
    refused(&["cutoff", small(), "--grid", "0,0.1", "--out", "x"], 2, "expected numbers > 0");
    refused(&["histogram", small(), "--grid", "1,2", "--out", "x"], 2, "a scan of the kind histogram varies nothing");
    refused(&["cutoff", small(), "--cutoff", "1", "--out", "x"], 2, "--cutoff is what the scan varies");
    refused(&["cutoff", "--out", "x"], 2, "scan cutoff of which model?");
    refused(&["--samples", "3", "--out", "x"], 2, "say what is varied");
    refused(&["cutoff", small(), small(), "--out", "x"], 2, "two of the models are called small");
    refused(&["cutoff", "no-such-model", "--out", "x"], 2, "there is no model 'no-such-model'");
    refused(&["cutoff", small(), "--estimator", "spectral", "--preconditioner", "adam2", "--out", "x"], 2, "belongs to --estimator radial");
    refused(&["exponent", small(), "--preconditioner", "none", "--out", "x"], 2, "needs --estimator radial and a --preconditioner");
    refused(&["samples", small(), "--samples", "3", "--out", "x"], 2, "give the numbers as --grid");
    refused(&["cutoff", small(), "--estimator", "radial,spectral", "--set", "steps=3", "--out", "x"], 2, "ESTIMATOR.NAME=VALUE");
    refused(&["cutoff", small(), "--preconditioner", "adam3", "--out", "x"], 2, "there is no preconditioner 'adam3'");
    refused(&["sigma", small(), "--prior", "lebesgue", "--grid", "1,2", "--out", "x"], 2, "--prior gaussian");
    refused(&["checkpoints", "digits", "--out", "x"], 2, "train digits --checkpoints");
    assert!(!here.join("x").exists());
    // Two scans in one folder.
    scan(here, &["cutoff", small(), "--grid", "0.1,1", "--samples", "3", "--out", "one"]);
    refused(&["sigma", small(), "--grid", "0.1,1", "--samples", "3", "--out", "one"], 1, "one holds another scan");
    refused(
        &["cutoff", small(), "--grid", "0.1,1", "--samples", "3", "--seed", "7", "--out", "one"],
        1,
        "seed: 42 in the folder, 7 asked for",
    );
    fs::create_dir(here.join("full")).unwrap();
    fs::write(here.join("full/notes.txt"), "mine").unwrap();
    refused(&["cutoff", small(), "--grid", "0.1,1", "--out", "full"], 1, "is no folder of a scan (it holds 'notes.txt')");
    let run = here.join("one/points/small/cutoff-1/radial/none");
    refused(&["cutoff", small(), "--grid", "0.1,1", "--out", run.to_str().unwrap()], 1, "holds a single run");
    fs::write(here.join("one/scan.json"), "{}").unwrap();
    refused(&["cutoff", small(), "--grid", "0.1,1", "--samples", "3", "--out", "one"], 1, "scan.json cannot be understood");
}

#[test]
fn a_forecast_over_the_memory_is_said_once_for_all_points() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let model = common::language_model(here, "gpt_neox_pythia", "model");
    let text = common::documents(here, "text.jsonl");
    let output = binary(here)
        .args(["scan", "cutoff"])
        .arg(&model)
        .arg("--data")
        .arg(&text)
        .args(["--grid", "0.1,1", "--samples", "2", "--memory", "1KB", "--out", "scan"])
        .assert()
        .code(1)
        .get_output()
        .clone();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let last = stderr.lines().last().unwrap();
    assert!(last.starts_with("error: 2 of 2 points could not be computed") && last.contains("memory"), "{stderr}");
    assert!(!here.join("scan").exists());
}

#[test]
fn a_killed_and_an_interrupted_scan_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let words = ["scan", "cutoff", small(), "--grid", "1e-3,1e-2", "--samples", "120", "--threads", "1"];
    binary(here).args(words).args(["--out", "whole"]).assert().success();
    let begin = || {
        Process::new(assert_cmd::cargo::cargo_bin("basin-volume"))
            .args(words)
            .args(["--out", "scan"])
            .current_dir(here)
            .env("BASIN_VOLUME_CACHE", here.join("cache"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let first = here.join("scan/points/small/cutoff-0.001/radial/none");
    let mut child = begin();
    wait_for_samples(&first, 10);
    child.kill().unwrap();
    child.wait().unwrap();
    let killed = samples(&first).len();
    let mut child = begin();
    wait_for_samples(&first, killed + 5);
    assert!(Process::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status().unwrap().success());
    let code = child.wait().unwrap().code();
    // The table of what is there has been written.
    assert!(code == Some(130) || samples(&first).len() == 120, "{code:?}");
    assert!(!table(&here.join("scan/table.csv")).is_empty());
    binary(here).args(words).args(["--out", "scan"]).assert().success();
    let numbers = |out: &str| json(&here.join(out).join("summary.json"))["differences"].clone();
    assert_eq!(numbers("scan"), numbers("whole"));
    for point in ["cutoff-0.001", "cutoff-0.01"] {
        let at = |out: &str| samples(&here.join(out).join("points/small").join(point).join("radial/none"));
        assert_eq!(at("scan"), at("whole"));
    }
}

#[test]
fn models_of_one_shape_are_estimated_beside_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (first, second) = (network(), golden("small_network"));
    let models = [format!("first={}", first.display()), format!("second={}", second.display())];
    let estimate = |out: &str, extra: &[&str]| {
        let mut command = binary(path);
        command.arg("estimate").args(&models).args(["--data", "digits:test:64", "--samples", "6", "--out", out]).args(extra).assert()
    };
    let text = String::from_utf8(estimate("pair", &[]).success().get_output().stdout.clone()).unwrap();
    assert!(text.contains("first") && text.contains("second") && text.contains("sigma"), "{text}");
    let summary = json(&path.join("pair/summary.json"));
    let differences = summary["differences"].as_array().unwrap();
    assert!(!differences.is_empty(), "{summary}");
    // Along the same directions: each is what it is alone under that prior, and the difference that of rays with the same index.
    let (a, b) = (samples(&path.join("pair/points/first/all/radial/none")), samples(&path.join("pair/points/second/all/radial/none")));
    let mean = |samples: &[Value]| samples.iter().map(|sample| sample["log_volume"].as_f64().unwrap()).sum::<f64>() / 6.0;
    assert!(a.iter().zip(&b).all(|(a, b)| a["norm"] == b["norm"]));
    let found = differences[0].to_string();
    let difference = mean(&b) - mean(&a);
    let is_there = |value: &Value| value.as_f64().is_some_and(|value| (value - difference).abs() < 1e-6 * difference.abs());
    fn any(value: &Value, is: &dyn Fn(&Value) -> bool) -> bool {
        is(value)
            || value.as_object().is_some_and(|fields| fields.values().any(|value| any(value, is)))
            || value.as_array().is_some_and(|values| values.iter().any(|value| any(value, is)))
    }
    assert!(any(&differences[0], &is_there), "{difference}: {found}");
    estimate("pair", &[]).success();
    for (setting, words) in [("--continue", "--continue is for one model"), ("--profile=3", "--profile is for one model")] {
        estimate("bad", &[setting]).code(2).stderr(contains(words));
    }
    assert!(!path.join("bad").exists());
}

#[test]
fn a_prior_may_be_around_the_model_that_another_was_made_from() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let base = golden("small_network");
    let estimate = |out: &str, extra: &[&str]| {
        let mut command = binary(path);
        command.arg("estimate").arg(network()).args(["--data", "digits:test:64", "--samples", "5", "--out", out]);
        command.args(["--prior-mean", base.to_str().unwrap()]).args(extra).assert()
    };
    let text = String::from_utf8(estimate("tuned", &[]).success().get_output().stdout.clone()).unwrap();
    assert!(text.contains("N(small_network,") && text.contains("(rms)"), "{text}");
    let manifest = json(&path.join("tuned/manifest.json"));
    assert_eq!(manifest["problem"]["prior_mean"]["name"], "small_network");
    // What the rays know of the center is its difference from the base: that of a network from itself is nothing.
    let plain = binary(path).arg("estimate").arg(network()).args(["--data", "digits:test:64", "--samples", "5", "--out", "plain"]).assert();
    plain.success();
    let squared = |run: &str| json(&path.join(run).join("manifest.json"))["center_norm_squared"].as_f64().unwrap();
    assert!(squared("tuned") > 0.0 && (squared("tuned") - squared("plain")).abs() > 1.0);
    // The rays are the same, and only their volumes under the prior differ.
    let radii = |run: &str| samples(&path.join(run)).iter().map(|sample| sample["radius"].as_f64().unwrap()).collect::<Vec<f64>>();
    estimate("wide", &["--sigma", "0.2", "--preconditioner", "none"]).success();
    let flags = ["--data", "digits:test:64", "--samples", "5", "--out", "zero", "--sigma", "0.2", "--preconditioner", "none"];
    binary(path).arg("estimate").arg(network()).args(flags).assert().success();
    assert!(radii("wide").iter().zip(radii("zero")).all(|(a, b)| (a / b - 1.0).abs() < 1e-2), "{:?}", radii("wide"));
    let quick = ["--set", "effort=0", "--set", "trajectories=4", "--set", "patience=1", "--set", "spacing=1"];
    estimate("chains", &[&["--estimator", "annealed", "--cutoff", "0.3"][..], &quick].concat()).success();
    let refused = |extra: &[&str], words: &str| {
        estimate("bad", extra).code(2).stderr(contains(words));
    };
    refused(&["--prior", "sphere"], "moves the mean of a Gaussian");
    refused(&["--data", "digits:train:64"], "--prior-mean is for one --data");
    refused(&["--preconditioner", "fisher"], "scores");
    refused(&["--sigma", "weight-decay"], "prior around zero");
    let other = training().to_str().unwrap();
    let command = ["--data", "digits:test:64", "--out", "bad", "--center", other];
    binary(path).arg("estimate").arg(network()).args(command).assert().code(2).stderr(contains("is another network than"));
    assert!(!path.join("bad").exists());
}
