//! Volumes of language models from the command line, end to end, on the smallest fixtures.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Child, Command as Process, Stdio};

use common::{binary, documents, json, language_model, log_volumes, mean, samples, wait_for_samples};
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

/// `estimate` of six samples, as JSON.
fn estimate(folder: &Path, out: &str, extra: &[&str]) -> Value {
    let output = binary(folder)
        .args(["estimate", "pythia", "--data", "text.jsonl", "--samples", "6", "--json", "--out", out])
        .args(extra)
        .assert()
        .success()
        .get_output()
        .clone();
    serde_json::from_slice(&output.stdout).expect("--json prints the result alone")
}

fn refused(folder: &Path, arguments: &[&str], code: i32, words: &[&str]) {
    let output = binary(folder).args(arguments).args(["--out", "refused"]).assert().code(code).get_output().clone();
    let stderr = String::from_utf8(output.stderr).unwrap();
    for word in words {
        assert!(stderr.contains(word), "{arguments:?}: '{word}' is not in: {stderr}");
    }
    assert!(!stderr.contains("panicked") && output.stdout.is_empty(), "{stderr}");
    assert!(!folder.join("refused").exists(), "{arguments:?} left a folder");
}

#[test]
fn a_run_says_what_it_measured_and_reaches_the_cutoff() {
    let folder = prepared();
    let here = folder.path();
    let output = binary(here)
        .args(["estimate", "pythia", "--data", "text.jsonl", "--samples", "6", "--out", "run"])
        .assert()
        .success()
        .stdout(contains("Local volume of pythia (").and(contains(" on text.jsonl")).and(contains("Run folder: run")))
        .get_output()
        .clone();
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("memory"),
        "the forecast is told: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let run = here.join("run");
    let manifest = json(&run.join("manifest.json"));
    let described = binary(here).args(["inspect", "pythia", "--data", "text.jsonl", "--json"]).assert().success().get_output().clone();
    let described: Value = serde_json::from_slice(&described.stdout).unwrap();
    assert_eq!(manifest["dimension"], described["dimension"]);
    assert_eq!(manifest["sigma"], described["rms"]);
    for key in ["name", "sequences", "tokens", "kept_positions", "sha256"] {
        assert_eq!(manifest["problem"]["data"][key], described["data"][key], "{key}");
    }
    assert_eq!(manifest["problem"]["model"], described["model"]);
    assert_eq!(manifest["notes"]["data"]["read"]["text_key"], "text");
    assert!(manifest["notes"]["memory"].is_object(), "{manifest}");
    for sample in samples(&run) {
        assert_eq!(sample["outcome"], "converged");
        assert!((sample["cost"].as_f64().unwrap() / 0.01 - 1.0).abs() < 0.05, "{sample}");
        assert!(sample["costs_by_part"].is_null());
    }
    // The same command computes nothing; another one is refused with the difference.
    let before = fs::read(run.join("samples.jsonl")).unwrap();
    estimate(here, "run", &[]);
    assert_eq!(before, fs::read(run.join("samples.jsonl")).unwrap());
    let other = |extra: &[&str], words: &str| {
        let mut command = binary(here);
        command.args(["estimate", "pythia", "--data", "text.jsonl", "--samples", "6", "--out", "run"]).args(extra);
        command.assert().code(1).stderr(contains("holds a different run").and(contains(words)));
    };
    other(&["--val-size", "3"], "problem.data.sha256");
    other(&["--positions", "last"], "problem.data.kept_positions");
    other(&["--exclude", "bias$"], "problem.moving");
}

#[test]
fn threads_memory_and_shards_do_not_change_a_bit() {
    let folder = prepared();
    let here = folder.path();
    let whole = estimate(here, "whole", &["--threads", "1"]);
    let threads = estimate(here, "threads", &["--threads", "3"]);
    assert_eq!(log_volumes(&whole), log_volumes(&threads));
    assert_eq!(samples(&here.join("whole")), samples(&here.join("threads")));
    estimate(here, "low", &["--memory", "low"]);
    assert_eq!(samples(&here.join("whole")), samples(&here.join("low")), "what is kept decides the time, not the answer");
    for shard in ["0/2", "1/2"] {
        estimate(here, &format!("part{}", &shard[..1]), &["--shard", shard]);
    }
    binary(here).args(["merge", "part0", "part1", "--out", "merged"]).assert().success();
    assert_eq!(samples(&here.join("whole")), samples(&here.join("merged")));
    // More samples extend the run.
    binary(here).args(["estimate", "pythia", "--data", "text.jsonl", "--samples", "8", "--out", "whole"]).assert().success();
    let extended = samples(&here.join("whole"));
    assert_eq!((extended.len(), &extended[..6]), (8, &samples(&here.join("merged"))[..]));
}

#[test]
fn chains_move_in_coordinates_where_all_weights_move() {
    let folder = prepared();
    let run = |out: &str, extra: &[&str]| {
        let quick = ["--estimator", "annealed", "--cutoff", "0.3", "--val-size", "2", "--max-seq-len", "6", "--threads", "1"];
        let short = ["trajectories=4", "patience=1", "spacing=1", "effort=0", "chains=1"].map(|setting| ["--set", setting]);
        let arguments = [&["estimate", "pythia", "--data", "text.jsonl", "--json", "--out", out][..], &quick, &short.concat(), extra];
        let output = binary(folder.path()).args(arguments.concat()).assert().success().get_output().clone();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let (rotated, plain) = (run("rotated", &[]), run("weights", &["--set", "coordinates=weights"]));
    let chosen = |out: &str| json(&folder.path().join(out).join("manifest.json"))["estimator"].clone();
    assert_eq!((&chosen("rotated")["coordinates"], &chosen("rotated")["metric"]), (&"rotated".into(), &"diagonal".into()));
    assert_eq!((&chosen("weights")["coordinates"], &chosen("weights")["metric"]), (&"weights".into(), &"diagonal".into()));
    let ends = |result: &Value| [0, 1].map(|end| result["answer"]["interval"][end].as_f64().unwrap());
    let (here, there) = (ends(&rotated), ends(&plain));
    let bound = 0.05 * rotated["answer"]["log_probability"].as_f64().unwrap().abs();
    assert!(rotated["annealed"]["complete"] == true && here[0] < there[1] + bound && there[0] < here[1] + bound, "{here:?} {there:?}");
    // The star, whose ways are straight in weights, is followed in the same coordinates.
    let star = run("star", &["--set-kind", "star"]);
    let basin_high = here[1].max(there[1]);
    assert!(star["annealed"]["complete"] == true && ends(&star)[0] < basin_high, "{star}");
    assert_eq!(chosen("star")["coordinates"], "rotated");
    // A piece of the weights has no coordinates of its own, nor has another metric.
    run("piece", &["--parameters", "^embed_out|final_layer_norm"]);
    assert_eq!(chosen("piece")["coordinates"], "weights");
    for (setting, part) in [("metric=none", "are stretched by --set metric=diagonal"), ("metric=kronecker", "--set metric=diagonal")] {
        let arguments = ["estimate", "pythia", "--data", "text.jsonl", "--estimator", "annealed", "--set", "coordinates=rotated"];
        refused(
            folder.path(),
            &[&arguments[..], &["--set", setting]].concat(),
            2,
            &["--set coordinates=rotated: those of this model", part],
        );
    }
}

#[test]
fn what_is_measured_can_be_chosen() {
    let folder = prepared();
    let here = folder.path();
    let of = |out: &str, extra: &[&str]| mean(&estimate(here, out, extra));
    let all = of("all", &[]);
    let last = of("last", &["--positions", "last"]);
    let chunks = of("chunks", &["--chunk", "--max-seq-len", "16", "--eos-token-id", "0"]);
    let head = of("head", &["--parameters", "^embed_out"]);
    let weights = of("weights", &["--exclude", "bias$|norm"]);
    let values = [all, last, chunks, head, weights];
    assert!(values.iter().all(|value| value.is_finite() && *value < 0.0), "{values:?}");
    assert!((0..5).all(|i| (0..i).all(|j| values[i] != values[j])), "{values:?}");
    let manifest = json(&here.join("head/manifest.json"));
    assert_eq!(manifest["dimension"], 41 * 16);
    assert_eq!(manifest["problem"]["moving"]["parameters"], "^embed_out");
    let sigma = manifest["sigma"].as_f64().unwrap();
    assert!(sigma > 0.0 && sigma != json(&here.join("all/manifest.json"))["sigma"].as_f64().unwrap(), "of the moving weights alone");
    let manifest = json(&here.join("chunks/manifest.json"));
    assert_eq!((manifest["problem"]["data"]["sequences"].as_u64(), manifest["problem"]["data"]["tokens"].as_u64()), (Some(8), Some(128)));
    // The digits network can be restricted in the same way.
    let network = common::network().to_str().unwrap();
    let bits = |out: &str, extra: &[&str]| {
        let mut command = binary(here);
        command.args(["estimate", network, "--samples", "4", "--json", "--out", out, "--preconditioner", "adam2"]).args(extra);
        let result: Value = serde_json::from_slice(&command.assert().success().get_output().stdout).unwrap();
        (json(&here.join(out).join("manifest.json"))["dimension"].as_u64().unwrap(), mean(&result))
    };
    let (whole, part) = (bits("digits", &[]), bits("digits-part", &["--parameters", r"^layers\.1"]));
    assert_eq!((whole.0, part.0), (1210, 170));
    assert!(part.1 > whole.1, "fewer weights have more volume: {part:?} {whole:?}");
}

#[test]
fn costs_of_sequences_average_to_the_cost() {
    let folder = prepared();
    let here = folder.path();
    estimate(here, "run", &["--per-sequence", "--val-size", "4"]);
    for sample in samples(&here.join("run")) {
        let costs: Vec<f64> = serde_json::from_value(sample["costs_by_part"].clone()).unwrap();
        assert_eq!(costs.len(), 4);
        // The documents have five to eight words.
        let mean = costs.iter().zip(5..).map(|(cost, count)| cost * f64::from(count)).sum::<f64>() / 26.0;
        let cost = sample["cost"].as_f64().unwrap();
        assert!((mean / cost - 1.0).abs() < 1e-9, "{mean} {cost}");
    }
    refused(here, &["estimate", common::network().to_str().unwrap(), "--per-sequence"], 2, &["--per-sequence is for language models"]);
}

#[test]
fn every_sequence_has_the_volume_that_it_has_alone() {
    let folder = prepared();
    let here = folder.path();
    let result = estimate(here, "run", &["--per-sequence", "volume", "--val-size", "4"]);
    let rays = samples(&here.join("run"));
    // The whole is what it is without them.
    let plain = estimate(here, "plain", &["--val-size", "4"]);
    assert_eq!(result["log_probability"], plain["log_probability"]);
    for (ray, plain) in rays.iter().zip(samples(&here.join("plain"))) {
        assert_eq!((&ray["radius"], &ray["log_volume"]), (&plain["radius"], &plain["log_volume"]));
        assert!(ray["evaluations"].as_u64().unwrap() <= 12, "{ray}");
    }
    // Every sequence alone, in the same directions.
    let lines: Vec<String> = fs::read_to_string(here.join("text.jsonl")).unwrap().lines().map(str::to_owned).collect();
    for (k, line) in lines.iter().take(4).enumerate() {
        fs::write(here.join("text.jsonl"), format!("{line}\n")).unwrap();
        estimate(here, &format!("alone-{k}"), &[]);
        for (ray, alone) in rays.iter().zip(samples(&here.join(format!("alone-{k}")))) {
            let parts = &ray["volumes_by_part"];
            let number = |value: &Value| value.as_f64().unwrap();
            let allowed = number(&parts["radius_error_nats"][k]) + number(&alone["radius_error_nats"]) + 1e-3;
            let difference = number(&parts["log_volume"][k]) - number(&alone["log_volume"]);
            assert!(difference.abs() <= allowed, "sequence {k}: {difference} nats, {allowed} allowed: {ray} {alone}");
            assert_eq!((&ray["norm"], &parts["outcome"][k]), (&alone["norm"], &alone["outcome"]));
        }
    }
    let part = &json(&here.join("run/result.json"))["radial"]["parts"][1];
    assert_eq!((&part["index"], &part["tokens"]), (&Value::from(1), &Value::from(6)));
    assert!(part["log_volume"].as_f64().unwrap() >= part["mean_log_volume"].as_f64().unwrap(), "{part}");
    assert!(part["text"].is_string() && part["standard_error"].as_f64().unwrap() > 0.0, "{part}");
    let table = fs::read_to_string(here.join("run/sequences.csv")).unwrap();
    assert_eq!(table.lines().count(), 5, "{table}");
    binary(here).args(["report", "run"]).assert().success().stdout(contains("the 4 sequences by volume, the largest first"));
}

#[test]
fn volumes_of_sequences_are_continued_and_merged_bit_for_bit() {
    let folder = prepared();
    let here = folder.path();
    let wanted = ["--per-sequence", "volume", "--val-size", "3"];
    let whole = estimate(here, "whole", &wanted);
    let of = |out: &str, more: &[&str]| estimate(here, out, &[&wanted[..], more].concat());
    of("continued", &["--shard", "0/1"]);
    let lines: Vec<String> = fs::read_to_string(here.join("continued/samples.jsonl")).unwrap().lines().map(str::to_owned).collect();
    fs::write(here.join("continued/samples.jsonl"), format!("{}\n{}\n", lines[0], lines[1])).unwrap();
    of("continued", &[]);
    of("shard-0", &["--shard", "0/2"]);
    of("shard-1", &["--shard", "1/2"]);
    binary(here).args(["merge", "shard-0", "shard-1", "--out", "merged"]).assert().success();
    let block = |out: &str| json(&here.join(out).join("result.json"))["radial"]["parts"].clone();
    assert_eq!(whole["radial"]["parts"].as_array().unwrap().len(), 3);
    for out in ["continued", "merged"] {
        assert_eq!(samples(&here.join(out)), samples(&here.join("whole")), "{out}");
        assert_eq!(block(out), block("whole"), "{out}");
        let table = |out: &str| fs::read_to_string(here.join(out).join("sequences.csv")).unwrap();
        assert_eq!(table(out), table("whole"), "{out}");
    }
    refused(
        here,
        &["estimate", common::network().to_str().unwrap(), "--per-sequence", "volume"],
        2,
        &["--per-sequence is for language models"],
    );
    refused(here, &["estimate", "pythia", "--data", "text.jsonl", "--per-sequence", "radius"], 2, &["cost, volume"]);
}

#[test]
fn a_ray_can_be_looked_at() {
    let folder = prepared();
    let here = folder.path();
    estimate(here, "run", &["--parameters", r"layers\.0"]);
    let profile = ["profile", "pythia", "--data", "text.jsonl", "--parameters", r"layers\.0", "--index", "2", "--points", "6", "--json"];
    let output = binary(here).args(profile).args(["--save-direction", "ray.safetensors"]).assert().success().get_output().clone();
    let profile: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(profile["radius"], samples(&here.join("run"))[2]["radius"]);
    let bytes = fs::read(here.join("ray.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), 12, "the moving tensors alone");
    // As a preconditioner, a file with the moving tensors' names is accepted, and so is one of another choice not.
    let with_file = ["--parameters", r"layers\.0", "--preconditioner", "ray.safetensors"];
    assert!(mean(&estimate(here, "preconditioned", &with_file)).is_finite());
    refused(
        here,
        &["estimate", "pythia", "--data", "text.jsonl", "--preconditioner", "ray.safetensors"],
        1,
        &["no tensor `gpt_neox.embed_in.weight`"],
    );
}

#[test]
fn adam_moments_beside_the_weights_precondition_what_moves() {
    let folder = prepared();
    let here = folder.path();
    let model = ["estimate", "pythia", "--data", "text.jsonl"];
    refused(here, &[&model[..], &["--preconditioner", "adam2"]].concat(), 1, &["pythia holds no Adam moments", "optimizer.safetensors"]);
    // The squares of the weights stand for second moments.
    let bytes = fs::read(here.join("pythia/model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let squares: Vec<(String, Vec<usize>, Vec<u8>)> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let words = view.data().as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word));
            (name, view.shape().to_vec(), words.flat_map(|word| (word * word).to_le_bytes()).collect())
        })
        .collect();
    let views = squares.iter().flat_map(|(name, shape, bytes)| {
        ["exp_avg.", "exp_avg_sq."].map(|prefix| {
            let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap();
            (format!("{prefix}{name}"), view)
        })
    });
    let metadata = [("step".to_owned(), "9".to_owned())].into();
    safetensors::serialize_to_file(views, Some(metadata), &here.join("pythia/optimizer.safetensors")).unwrap();
    let both = estimate(here, "both", &["--preconditioner", "none,adam2", "--parameters", "mlp"]);
    assert_eq!(both.as_array().unwrap().len(), 2);
    // The same numbers as a file with the moving tensors alone, under their own names.
    let views = squares.iter().filter(|(name, _, _)| name.contains("mlp")).map(|(name, shape, bytes)| {
        (name.clone(), safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &here.join("second.safetensors")).unwrap();
    let file = estimate(here, "file", &["--preconditioner", "second.safetensors", "--parameters", "mlp"]);
    assert_eq!(log_volumes(&both[1]), log_volumes(&file));
    assert_ne!(log_volumes(&both[0]), log_volumes(&file));
    // Great circles and flat volumes are measured as for any other network.
    for prior in ["sphere", "lebesgue"] {
        let result = estimate(here, prior, &["--preconditioner", "adam2", "--prior", prior]);
        assert!(mean(&result).is_finite(), "{prior}: {result}");
    }
}

#[test]
fn weights_stored_in_other_formats_are_measured_where_they_stand() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    fs::write(here.join("ids.json"), "[[1, 2, 3, 4, 5, 6], [7, 8, 9]]").unwrap();
    let gguf = common::golden("weights/llama.gguf");
    let run = |out: &str, extra: &[&str]| {
        let mut command = binary(here);
        command.arg("estimate").arg(&gguf).args(["--data", "ids.json", "--samples", "4", "--out", out]).args(extra);
        command.assert().success();
        samples(&here.join(out))
    };
    let auto = run("auto", &[]);
    assert!(auto.iter().all(|sample| sample["outcome"] == "converged"), "{auto:?}");
    assert_eq!(auto, run("low", &["--memory", "low", "--threads", "1"]));
    let notes = json(&here.join("auto/manifest.json"))["notes"].clone();
    assert_eq!((notes["data"]["read"].as_str(), notes["data"]["tokenizer"].is_null()), (Some("token ids"), true));
    let stored: Vec<String> = serde_json::from_value(notes["model"]["stored_as"].clone()).unwrap();
    assert!(stored.iter().all(|name| name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')), "{stored:?}");
}

#[test]
fn a_broken_center_is_named() {
    let folder = prepared();
    let here = folder.path();
    common::overflow(&here.join("pythia"));
    refused(here, &["estimate", "pythia", "--data", "text.jsonl"], 1, &["logits are not finite at position 1 of sequence 1", "text.jsonl"]);
}

#[test]
fn memory_is_forecast_and_refused_with_the_numbers() {
    let folder = prepared();
    let here = folder.path();
    binary(here).args(["inspect", "pythia", "--data", "text.jsonl"]).assert().success().stdout(contains("memory"));
    refused(here, &["estimate", "pythia", "--data", "text.jsonl", "--memory", "10KB"], 1, &["--memory"]);
    refused(here, &["estimate", "pythia", "--data", "text.jsonl", "--memory", "lots"], 2, &["--memory"]);
    refused(here, &["estimate", common::network().to_str().unwrap(), "--memory", "low"], 2, &["--memory is for language models"]);
    estimate(here, "run", &["--memory", "1.5GB"]);
    let memory = json(&here.join("run/manifest.json"))["notes"]["memory"].clone();
    assert!(memory.is_object(), "{memory}");
}

#[test]
fn devices_and_precisions_that_are_not_there_are_refused() {
    let folder = prepared();
    let here = folder.path();
    let base = ["estimate", "pythia", "--data", "text.jsonl"];
    refused(here, &[&base[..], &["--device", "cuda"]].concat(), 2, &["--device cuda", "--device cpu"]);
    refused(here, &[&base[..], &["--device", "metal"]].concat(), 2, &["--device metal"]);
    refused(here, &[&base[..], &["--device", "abacus"]].concat(), 2, &["abacus", "cpu"]);
    refused(here, &[&base[..], &["--dtype", "bf16"]].concat(), 2, &["--dtype bf16", "--dtype f32"]);
    estimate(here, "run", &["--device", "cpu", "--dtype", "f32"]);
}

#[test]
fn a_killed_and_an_interrupted_run_go_on() {
    let folder = prepared();
    let here = folder.path();
    let run = here.join("run");
    let arguments = ["estimate", "pythia", "--data", "text.jsonl", "--samples", "400", "--threads", "2"];
    let start = || -> Child {
        let mut command = Process::new(assert_cmd::cargo::cargo_bin("basin-volume"));
        command.args(arguments).args(["--out", "run"]).current_dir(here);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let wait_for = |count: usize| wait_for_samples(&run, count);
    let mut child = start();
    wait_for(10);
    child.kill().unwrap();
    child.wait().unwrap();
    let killed = samples(&run).len();
    assert!(killed < 400 && !run.join("result.json").exists());
    let child = start();
    wait_for(killed + 10);
    assert!(Process::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the same command continues it"));
    assert_eq!(json(&run.join("result.json"))["radial"]["samples"], samples(&run).len());
    assert!(start().wait_with_output().unwrap().status.success());
    binary(here).args(arguments).args(["--out", "undisturbed"]).assert().success();
    assert_eq!(samples(&run).len(), 400);
    assert_eq!(samples(&run), samples(&here.join("undisturbed")));
}
