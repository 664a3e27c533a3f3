//! `--estimator spectral`, end to end.

mod common;

use std::fs;
use std::path::Path;

use common::{binary, documents, json, language_model, log_probability, network, samples, words};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use serde_json::Value;

fn spectral(folder: &Path, out: &str, extra: &[&str]) -> Value {
    let output = binary(folder)
        .arg("estimate")
        .arg(network())
        .args(["--estimator", "spectral", "--json", "--out", out])
        .args(extra)
        .assert()
        .success()
        .get_output()
        .clone();
    serde_json::from_slice(&output.stdout).expect("--json prints the result alone")
}

const LANCZOS: [&str; 8] = ["--set", "route=lanczos", "--set", "steps=60", "--set", "cost_samples=2", "--samples", "6"];

/// Inputs of a small file.
const FEW: u64 = 40;

#[test]
fn the_two_routes_agree_and_both_call_the_number_a_guide() {
    let folder = tempfile::tempdir().unwrap();
    // 10,240 rows are too many for a test: a file of a few inputs.
    let data = few_inputs(folder.path());
    let gram = spectral(folder.path(), "gram", &["--data", &data, "--spectrum-out", "spectrum.json"]);
    assert_eq!(
        (&gram["spectral"]["route"], &gram["answer"]["estimator"], &gram["answer"]["measures"]),
        (&"gram".into(), &"spectral (quadratic)".into(), &"ellipsoid".into())
    );
    // Gradients of the ten classes of an input are linearly dependent.
    let rank = gram["spectral"]["rank"].as_u64().unwrap();
    assert!(rank <= 9 * FEW, "{rank}");
    let lanczos = spectral(
        folder.path(),
        "lanczos",
        &["--data", &data, "--set", "route=lanczos", "--set", "steps=120", "--samples", "40", "--spectrum-out", "spectrum.csv"],
    );
    assert_eq!(lanczos["spectral"]["route"], "lanczos");
    let number = |result: &Value, name: &str| result["spectral"][name].as_f64().unwrap();
    let (exact, sampled, error) = (log_probability(&gram), log_probability(&lanczos), number(&lanczos, "sampling_error"));
    assert!((exact - sampled).abs() < 4.0 * error + 0.01 * exact.abs(), "{exact} {sampled} {error}");
    for (result, other) in [(&gram, &lanczos), (&lanczos, &gram)] {
        assert_eq!(result["answer"]["trust"], "guide");
        assert!(result["answer"]["meaning"].as_str().unwrap().contains("a guide"), "{result}");
        let true_cost = &result["spectral"]["true_cost"];
        assert!(true_cost["ratio"].as_f64().unwrap() > 1.0 && true_cost["draws"].as_u64().unwrap() >= 4, "{result}");
        assert!((number(result, "trace") / number(other, "trace") - 1.0).abs() < 0.2);
    }
    assert!((number(&lanczos, "largest_eigenvalue") / number(&gram, "largest_eigenvalue") - 1.0).abs() < 0.01);
    // The spectrum as files and figure.
    let nodes = json(&folder.path().join("spectrum.json"));
    let weights: f64 = nodes.as_array().unwrap().iter().map(|node| node["multiplicity"].as_f64().unwrap()).sum();
    assert!((weights - 1210.0).abs() < 1e-6, "{weights}");
    let text = fs::read_to_string(folder.path().join("spectrum.csv")).unwrap();
    assert!(text.starts_with("curvature,multiplicity,center_squared\n") && text.lines().count() > 1000);
    for ending in ["svg", "png"] {
        assert!(fs::metadata(folder.path().join(format!("gram/spectrum.{ending}"))).unwrap().len() > 2000);
    }
    // Products by differences of gradients, as for any model, give the same spectrum.
    let mut extra = vec!["--data", &data, "--set", "products=differences"];
    extra.extend(LANCZOS);
    let differences = spectral(folder.path(), "differences", &extra);
    extra.drain(2..4);
    let exact = spectral(folder.path(), "products", &extra);
    // The perturbation has a length, and gradients are f32: half a per cent.
    let (found, wanted) = (log_probability(&differences), log_probability(&exact));
    assert!((found / wanted - 1.0).abs() < 5e-3, "{found} {wanted}");
    let products = |run: &str| json(&folder.path().join(run).join("manifest.json"))["estimator"]["products"].clone();
    assert_eq!((products("differences"), products("products")), ("differences".into(), "exact".into()));
}

/// 40 rows of the digits as a data file.
fn few_inputs(folder: &Path) -> String {
    let path = folder.join("few.safetensors");
    let all = basin_volume_data::digits::all();
    let bytes: Vec<u8> = all.inputs()[..FEW as usize * 64].iter().flat_map(|x| x.to_le_bytes()).collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![FEW as usize, 64], &bytes).unwrap();
    safetensors::serialize_to_file([("inputs", view)], None, &path).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn runs_resume_extend_shard_and_merge() {
    let folder = tempfile::tempdir().unwrap();
    let whole = spectral(folder.path(), "whole", &LANCZOS);
    assert_eq!(samples(&folder.path().join("whole")).len(), 7);
    assert_eq!(whole, json(&folder.path().join("whole/result.json")));
    // Fewer first, one line torn off, then the rest: the same records, whatever the threads.
    let mut fewer = LANCZOS;
    fewer[7] = "3";
    spectral(folder.path(), "parts", &[&fewer[..], &["--threads", "1"]].concat());
    let lines = folder.path().join("parts/samples.jsonl");
    let text = fs::read_to_string(&lines).unwrap();
    fs::write(&lines, &text[..text.len() - 40]).unwrap();
    let resumed = spectral(folder.path(), "parts", &LANCZOS);
    assert_eq!(samples(&folder.path().join("parts")), samples(&folder.path().join("whole")));
    assert_eq!(log_probability(&resumed), log_probability(&whole));
    for shard in ["0/2", "1/2"] {
        spectral(folder.path(), &format!("part{}", &shard[..1]), &[&LANCZOS[..], &["--shard", shard]].concat());
    }
    // A shard without the center has no number, and says so.
    let part = json(&folder.path().join("part1/result.json"));
    assert!(part["answer"]["log_probability"].is_null() && part["answer"]["reasons"][0].as_str().unwrap().contains("no number yet"));
    binary(folder.path())
        .args(["merge", "part0", "part1", "--out", "merged"])
        .assert()
        .success()
        .stdout(contains("spectral (quadratic)").and(contains("guide")));
    assert_eq!(samples(&folder.path().join("merged")), samples(&folder.path().join("whole")));
    let report = binary(folder.path()).args(["report", "merged", "--json"]).assert().success().get_output().stdout.clone();
    let report: Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(log_probability(&report), log_probability(&whole));
    // Another question is another folder, and rays do not mix with spectra.
    binary(folder.path())
        .arg("estimate")
        .arg(network())
        .args(["--estimator", "spectral", "--out", "whole", "--set", "steps=50", "--set", "route=lanczos"])
        .assert()
        .code(1)
        .stderr(contains("estimator.steps: 60 in the folder, 50 asked for"));
    binary(folder.path()).arg("estimate").arg(network()).args(["--out", "whole"]).assert().code(1).stderr(contains("different run"));
}

#[test]
fn language_models_have_a_spectrum_too() {
    let folder = tempfile::tempdir().unwrap();
    let model = language_model(folder.path(), "gpt_neox_pythia", "model");
    let data = documents(folder.path(), "data.jsonl");
    let output = binary(folder.path())
        .arg("estimate")
        .arg(&model)
        .arg("--data")
        .arg(&data)
        .args(["--estimator", "spectral", "--set", "steps=12", "--samples", "2", "--l2-reg", "1e-4", "--out", "run"])
        .assert()
        .success()
        .get_output()
        .clone();
    let text = String::from_utf8(output.stdout).unwrap();
    let said = words(text.as_bytes());
    assert!(said.contains("a guide, which bounds neither") && said.contains("numerical"), "{said}");
    let result = json(&folder.path().join("run/result.json"));
    assert!(log_probability(&result) < 0.0 && result["spectral"]["true_cost"]["draws"] == 2, "{result}");
    binary(folder.path())
        .arg("estimate")
        .arg(&model)
        .arg("--data")
        .arg(&data)
        .args(["--estimator", "spectral", "--memory", "1MB", "--out", "small"])
        .assert()
        .code(1)
        .stderr(contains("memory"));
    binary(folder.path())
        .arg("estimate")
        .arg(&model)
        .arg("--data")
        .arg(&data)
        .args(["--estimator", "spectral", "--set", "route=gram", "--out", "gram"])
        .assert()
        .code(2)
        .stderr(contains("neither a Gram matrix nor exact products: choose --set route=lanczos"));
}

#[test]
fn bad_settings_get_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    for (extra, code, part) in [
        (vec!["--samples", "0"], 2, "--samples is 0: expected 1 to"),
        (vec!["--set", "steps=5000"], 2, "--set steps is 5000: expected 1 to 1210"),
        (vec!["--set", "steps=0"], 2, "--set steps is 0"),
        (vec!["--set", "perturbation=-1"], 2, "--set perturbation is -1: expected a finite number > 0"),
        (vec!["--set", "deflation=2000"], 2, "--set deflation is 2000: expected less than 1210"),
        (vec!["--set", "block=20"], 2, "--set block is 20"),
        (vec!["--set", "walks=3"], 2, "there is no setting 'walks': expected one of route, products, steps, block, tolerance, deflation"),
        (vec!["--prior", "lebesgue"], 2, "knows the Gaussian prior alone: choose --prior gaussian"),
        (vec!["--preconditioner", "adam2"], 2, "--preconditioner belongs to --estimator radial"),
        (vec!["--spectrum-out", "spectrum.txt"], 2, "expected a name that ends in .json or .csv"),
        (vec!["--memory", "1MB", "--set", "route=lanczos"], 2, "--memory is for language models"),
    ] {
        let assert = binary(folder.path())
            .arg("estimate")
            .arg(network())
            .args(["--estimator", "spectral", "--out", "bad"])
            .args(&extra)
            .assert()
            .code(code);
        let text = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        assert!(text.contains(part) && text.lines().count() == 1, "{extra:?}: {text}");
    }
    assert!(!folder.path().join("bad").exists());
    binary(folder.path())
        .arg("estimate")
        .arg(network())
        .args(["--spectrum-out", "spectrum.json", "--out", "bad"])
        .assert()
        .code(2)
        .stderr(contains("--spectrum-out belongs to --estimator spectral: leave it out with --estimator radial"));
}
