//! One job as many tasks, as Slurm, torchrun and MPI start them; `scripts/launchers/` does the same with the real ones.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use assert_cmd::Command;
use common::{binary, golden, network};
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;

/// Variables of every launcher, which those of whoever runs the tests must not add to.
const VARIABLES: [&str; 12] = [
    "PMI_RANK",
    "PMI_SIZE",
    "RANK",
    "WORLD_SIZE",
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
    "SLURM_PROCID",
    "SLURM_NTASKS",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_ARRAY_TASK_COUNT",
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
];

/// The network and its data, as every command takes them.
fn subject() -> [PathBuf; 3] {
    [golden("small_network"), "--data".into(), golden("small_network/inputs.safetensors")]
}

fn estimate(folder: &Path, out: &str, extra: &[&str]) -> Command {
    let mut command = binary(folder);
    VARIABLES.iter().for_each(|name| {
        command.env_remove(name);
    });
    command.arg("estimate").args(subject()).args(["--out", out]).args(extra);
    command
}

/// Task `index` of `count`, as torchrun starts it.
fn task(folder: &Path, out: &str, index: usize, count: usize, extra: &[&str]) -> Command {
    let mut command = estimate(folder, out, &["--shard", "auto"]);
    command.args(extra).env("RANK", index.to_string()).env("WORLD_SIZE", count.to_string());
    command
}

/// Settings of chains that end in a second, by the seed of the job.
const QUICK_CHAINS: [&str; 10] =
    ["--sigma", "0.02", "--seed", "7", "--set", "annealed.effort=0", "--set", "annealed.trajectories=4", "--set", "annealed.patience=1"];

fn samples(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("samples.jsonl")).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.sort_by_key(|sample| sample["index"].as_u64());
    lines
}

#[test]
fn tasks_share_the_samples_and_the_last_one_joins_them() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    estimate(at, "alone", &["--samples", "10"]).assert().success();
    task(at, "run", 0, 3, &["--samples", "10"]).assert().success().stderr(contains("Task 0 of 3").and(contains("not complete yet: 1, 2")));
    task(at, "run", 2, 3, &["--samples", "10"]).assert().success().stderr(contains("not complete yet: 1."));
    assert!(!at.join("run/manifest.json").exists());
    task(at, "run", 1, 3, &["--samples", "10"]).assert().success().stderr(contains("All 3 parts are complete: joined in run"));
    assert_eq!(samples(&at.join("run")), samples(&at.join("alone")));
    assert!(at.join("run/result.json").exists() && at.join("run/shards/1-of-3/manifest.json").exists());
    binary(at).args(["report", "run"]).assert().success().stdout(contains("estimate (nats)"));
    // The same again is at once done; more samples are only those that are missing.
    task(at, "run", 1, 3, &["--samples", "10"]).assert().success();
    estimate(at, "alone", &["--samples", "16"]).assert().success();
    for index in [1, 0, 2] {
        let done = task(at, "run", index, 3, &["--samples", "16"]).assert().success();
        done.stderr(contains(if index == 2 { "joined in run" } else { "asked something else so far" }));
    }
    assert_eq!(samples(&at.join("run")), samples(&at.join("alone")));
    // A preconditioner from a file that every task has elsewhere, as Python writes the moments of an optimizer.
    let mut precondition = binary(at);
    precondition.args(["precondition"]).args(subject());
    precondition.args(["--kind", "fisher", "--out", "curvature.safetensors"]).assert().success();
    for index in 0..2 {
        let own = at.join(format!("task{index}"));
        fs::create_dir(&own).unwrap();
        fs::copy(at.join("curvature.safetensors"), own.join("curvature.safetensors")).unwrap();
        let file = own.join("curvature.safetensors").display().to_string();
        let done = task(at, "file", index, 2, &["--samples", "4", "--preconditioner", &file]).assert().success();
        done.stderr(contains(if index == 1 { "joined in file" } else { "not complete yet: 1" }));
    }
    // More tasks than samples, and several preconditioners.
    for index in 0..3 {
        task(at, "few", index, 3, &["--samples", "2", "--preconditioner", "none,fisher"]).assert().success();
    }
    assert_eq!(samples(&at.join("few/fisher")).len(), 2);
}

#[test]
fn every_launcher_says_which_part() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let shard = |out: &str, variables: &[(&str, &str)]| {
        let mut command = estimate(at, out, &["--shard", "auto", "--samples", "4"]);
        command.envs(variables.iter().copied()).assert().success();
        let inside: Vec<String> =
            fs::read_dir(at.join(out).join("shards")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        inside.into_iter().find(|name| !name.contains('.')).unwrap()
    };
    let srun = [("SLURM_JOB_ID", "7"), ("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "1"), ("SLURM_NTASKS", "4")];
    let array = [("SLURM_ARRAY_TASK_ID", "3"), ("SLURM_ARRAY_TASK_COUNT", "4"), ("SLURM_ARRAY_TASK_MIN", "1")];
    assert_eq!(shard("srun", &srun), "1-of-4");
    assert_eq!(shard("array", &array), "2-of-4");
    assert_eq!(shard("mpi", &[("OMPI_COMM_WORLD_RANK", "3"), ("OMPI_COMM_WORLD_SIZE", "4")]), "3-of-4");
    for (variables, words) in [
        (&[][..], "which of how many tasks this is"),
        (&[("SLURM_JOB_ID", "7"), ("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")][..], "this is the batch script itself"),
        (&[("RANK", "9"), ("WORLD_SIZE", "8")][..], "task 9 of 8"),
    ] {
        estimate(at, "no", &["--shard", "auto"]).envs(variables.iter().copied()).assert().code(2).stderr(contains(words));
    }
    // Every task has to write beside the others.
    let mut command = binary(at);
    command.arg("estimate").args(subject());
    command.args(["--shard", "auto"]).env("RANK", "0").env("WORLD_SIZE", "2").assert().code(2).stderr(contains("--out"));
    estimate(at, "no", &["--shard", "often"]).assert().code(2).stderr(contains("i/n").and(contains("auto")));
    assert!(!at.join("no").exists());
}

#[test]
fn tasks_that_run_side_by_side_are_joined_once() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    estimate(at, "alone", &["--samples", "24"]).assert().success();
    let start = |index: usize| {
        let mut command = Process::new(env!("CARGO_BIN_EXE_basin-volume"));
        command.arg("estimate").args(subject());
        command.args(["--samples", "24", "--threads", "1", "--shard", "auto", "--out", "run", "--json"]).current_dir(at);
        VARIABLES.iter().for_each(|name| {
            command.env_remove(name);
        });
        command.env("RANK", index.to_string()).env("WORLD_SIZE", "4");
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    // Two are given the same part: one of them is refused, or finds it done.
    let tasks: Vec<_> = [0, 1, 2, 3, 3].into_iter().map(start).collect();
    let mut refused = 0;
    for task in tasks {
        let output = task.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            assert!(errors.contains("in use by another process"), "{errors}");
            refused += 1;
        }
    }
    assert!(refused <= 1);
    // Where all ended at the same moment none may have seen the others: any of them, repeated, joins them.
    task(at, "run", 0, 4, &["--samples", "24"]).assert().success();
    assert_eq!(samples(&at.join("run")), samples(&at.join("alone")));
}

#[test]
fn scans_are_shared_too_and_chains_have_a_seed_each() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let scan = |index: usize| {
        let mut command = binary(at);
        command.args(["scan", "cutoff"]).args(subject());
        command.args(["--grid", "0.01,0.1", "--samples", "6", "--estimator", "radial", "--preconditioner", "none"]);
        command.args(["--shard", "auto", "--out", "scan"]).env("RANK", index.to_string()).env("WORLD_SIZE", "2");
        command
    };
    scan(0).assert().success().stderr(contains("not complete yet: 1"));
    scan(1).assert().success().stderr(contains("joined in scan"));
    assert!(at.join("scan/scan.json").exists() && at.join("scan/points").is_dir());
    binary(at).args(["report", "scan"]).assert().success();
    let quick = [&["--estimator", "annealed"][..], &QUICK_CHAINS].concat();
    let first = task(at, "chains", 0, 2, &quick).assert().success();
    first.stderr(contains("this task's ladder is that of seed 7")).stdout(contains("ladders of other seeds").not());
    let both = task(at, "chains", 1, 2, &quick).assert().success();
    both.stdout(contains("annealed, seed 7").and(contains("annealed, seed 8")).and(contains("2 ladders of other seeds together")));
    let report = binary(at).args(["report", "chains", "--json"]).assert().success();
    let report: Value = serde_json::from_slice(&report.get_output().stdout).unwrap();
    let numbers: Vec<f64> =
        report["results"].as_array().unwrap().iter().map(|result| result["answer"]["log_probability"].as_f64().unwrap()).collect();
    assert!(numbers.len() == 2 && numbers[0] != numbers[1], "{numbers:?}");
    assert!((report["ladders"]["mean"].as_f64().unwrap() - 0.5 * (numbers[0] + numbers[1])).abs() < 1e-9);
    // A ladder that another task is still on is shown, and no part of what they say together.
    let path = at.join("chains/seed-8/samples.jsonl");
    let all = fs::read_to_string(&path).unwrap();
    let half: String = all.lines().take(all.lines().count() * 3 / 4).map(|line| line.to_owned() + "\n").collect();
    fs::write(&path, half).unwrap();
    let report = binary(at).args(["report", "chains", "--json"]).assert().success();
    let report: Value = serde_json::from_slice(&report.get_output().stdout).unwrap();
    assert_eq!((report["results"].as_array().unwrap().len(), report["ladders"]["ladders"].as_u64()), (2, Some(1)));
    assert!((report["ladders"]["mean"].as_f64().unwrap() - numbers[0]).abs() < 1e-9);
}

#[test]
fn all_estimators_are_shared_out_and_chains_have_a_ladder_each() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let all = [
        &["--estimator", "all", "--samples", "6", "--preconditioner", "none", "--time-limit", "2h", "--set-kind", "basin"][..],
        &QUICK_CHAINS,
    ]
    .concat();
    let first = task(at, "run", 0, 2, &all).assert().success();
    first.stderr(contains("not complete yet: 1").and(contains("ladder is that of seed 7")));
    assert!(at.join("run/annealed/seed-7/result.json").exists());
    assert!(!at.join("run/radial").exists());
    let second = task(at, "run", 1, 2, &all).assert().success();
    second.stderr(contains("joined in run")).stdout(contains("annealed, seed 8").and(contains("ladders of other seeds together")));
    assert_eq!(samples(&at.join("run/radial")).len(), 6);
    let quoted = binary(at).args(["report", "run"]).assert().success().get_output().stdout.clone();
    let quoted = String::from_utf8(quoted).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    let joint = |before: &str| quoted.split_once(before).unwrap().1.split(' ').next().unwrap().to_owned();
    assert_eq!(joint("has log-probability "), joint("other seeds together: "), "{quoted}");
    let comparison: Value = serde_json::from_str(&fs::read_to_string(at.join("run/comparison.json")).unwrap()).unwrap();
    let answers = comparison["answers"].as_array().unwrap();
    let count = |name: &str| answers.iter().filter(|answer| answer["estimator"].as_str().unwrap().starts_with(name)).count();
    assert!(count("annealed") == 2 && count("radial") >= 1 && count("spectral") == 1, "{answers:?}");
    let report = binary(at).args(["report", "run"]).assert().success();
    report.stdout(contains("annealed, seed 7").and(contains("radial")));
    // The same again finds everything done; one task alone is a job too.
    task(at, "run", 0, 2, &all).assert().success().stderr(contains("joined in run"));
    let alone = task(at, "alone", 0, 1, &all).assert().success();
    alone.stderr(contains("computes everything").and(contains("joined in alone")));
    assert!(at.join("alone/radial/result.json").exists() && at.join("alone/annealed/seed-7/result.json").exists());
}

#[test]
fn ladders_of_several_data_are_reported_one_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for index in 0..2 {
        let mut command = binary(at);
        VARIABLES.iter().for_each(|name| {
            command.env_remove(name);
        });
        command.arg("estimate").arg(network()).args(["--data", "digits:train:64", "--data", "digits:test:64", "--cutoff", "0.3"]);
        command.args([
            "--estimator",
            "annealed",
            "--set",
            "trajectories=4",
            "--set",
            "patience=1",
            "--set",
            "spacing=1",
            "--set",
            "effort=0",
        ]);
        command.args(["--shard", "auto", "--out", "several"]).env("RANK", index.to_string()).env("WORLD_SIZE", "2").assert().success();
    }
    let report = binary(at).args(["report", "several"]).assert().success();
    report.stdout(contains("Dependence").count(2));
    let json = binary(at).args(["report", "several", "--json"]).assert().success();
    let json: Value = serde_json::from_slice(&json.get_output().stdout).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 2);
}

#[test]
fn a_task_that_was_asked_something_else_is_told_and_not_joined() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    task(at, "run", 0, 2, &["--samples", "4", "--cutoff", "0.1"]).assert().success();
    let second = task(at, "run", 1, 2, &["--samples", "4", "--cutoff", "0.2"]).assert().success();
    second.stderr(contains("asked something else so far: 0").and(contains("joined in run").not()));
    assert!(!at.join("run/manifest.json").exists());
}

#[test]
fn samples_of_other_machines_are_joined_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    estimate(at, "part0", &["--samples", "8", "--shard", "0/2", "--threads", "1"]).assert().success();
    estimate(at, "part1", &["--samples", "8", "--shard", "1/2", "--threads", "2"]).assert().success();
    estimate(at, "again", &["--samples", "8", "--shard", "1/2", "--threads", "1"]).assert().success();
    // As if another program on another processor had computed one part.
    let path = at.join("again/samples.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let other: Vec<String> = text
        .lines()
        .map(|line| {
            let mut sample: Value = serde_json::from_str(line).unwrap();
            sample["log_volume"] = (sample["log_volume"].as_f64().unwrap() + 0.002).into();
            sample.to_string() + "\n"
        })
        .collect();
    fs::write(&path, other.concat()).unwrap();
    let manifest = at.join("again/manifest.json");
    let text = fs::read_to_string(&manifest).unwrap().replace("basin-volume 0.", "basin-volume 7.");
    fs::write(&manifest, text).unwrap();
    let merge = |parts: &[&str], out: &str| {
        let mut command = binary(at);
        command.arg("merge").args(parts).args(["--out", out, "--json"]);
        command.assert()
    };
    merge(&["part0", "part1"], "plain").success().stdout(contains("2 ways").and(contains("no sample was computed twice")));
    merge(&["part0", "part1", "again"], "both")
        .success()
        .stdout(contains("3 ways").and(contains("4 were computed twice")).and(contains("2.0e-3 nats")));
    // What differs by more is of another question.
    fs::write(&path, other.concat().replace("\"log_volume\":-", "\"log_volume\":-9")).unwrap();
    merge(&["part1", "again"], "wrong").code(1).stderr(contains("differs from the one in part1"));
}

/// Files that cannot grow further, as on a full disk: the task says so and keeps what it has, and the others are not hurt.
#[cfg(unix)]
#[test]
fn a_full_disk_ends_a_task_in_a_sentence_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    estimate(at, "alone", &["--samples", "300"]).assert().success();
    let run = |limit: &str| {
        let mut command = Command::new("sh");
        // Writing beyond the limit is an error then, and no signal.
        command.args(["-c", &format!(r#"trap "" XFSZ; {limit} exec "$PROGRAM" "$@""#), "sh"]);
        command.args(["estimate"]).args(subject());
        command
            .args(["--samples", "300", "--shard", "auto", "--out", "run"])
            .current_dir(at)
            .env("PROGRAM", env!("CARGO_BIN_EXE_basin-volume"));
        VARIABLES.iter().for_each(|name| {
            command.env_remove(name);
        });
        command.env("RANK", "0").env("WORLD_SIZE", "2");
        command.assert()
    };
    run("ulimit -f 24;").code(1).stderr(contains("cannot write").and(contains("samples.jsonl")));
    let kept = fs::read_to_string(at.join("run/shards/0-of-2/samples.jsonl")).unwrap().lines().count();
    assert!((1..150).contains(&kept), "{kept}");
    task(at, "run", 1, 2, &["--samples", "300"]).assert().success().stderr(contains("not complete yet: 0"));
    run("").success().stderr(contains("joined in run"));
    assert_eq!(samples(&at.join("run")), samples(&at.join("alone")));
}
