//! Samples that must not change: a dozen small runs of every estimator, preconditioner and kind of model, held to files in `tests/golden/runs`.
//!
//! On the processor that the files were made on every number has to come back bit for bit. Elsewhere products of matrices round differently, and only
//! what the answers are made of is compared, as closely as single precision allows. `BASIN_VOLUME_BLESS=1 cargo test --test golden_runs` writes the
//! files anew, and is for changes that mean to change the samples.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::{binary, documents, golden, language_model};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

/// What every run is made with: small networks that are files, and data from formulas.
fn setup(folder: &Path) {
    let copy = |from: PathBuf, to: &str, files: &[&str]| {
        fs::create_dir(folder.join(to)).unwrap();
        for file in files {
            fs::copy(from.join(file), folder.join(to).join(file)).unwrap();
        }
    };
    copy(golden("small_network"), "mlp", &["config.json", "model.safetensors"]);
    fs::copy(golden("small_network/inputs.safetensors"), folder.join("inputs.safetensors")).unwrap();
    copy(golden("convnextv2/patches"), "convnext", &["config.json", "model.safetensors", "optimizer.pt"]);
    language_model(folder, "gpt_neox_pythia", "neox");
    documents(folder, "a.jsonl");
    let text = fs::read_to_string(folder.join("a.jsonl")).unwrap().replace("w5", "w6").replace("w1", "w2");
    fs::write(folder.join("b.jsonl"), text).unwrap();
    let pixels: Vec<u8> = (0..6 * 768).flat_map(|i| (0.7 * f64::from(i * i % 1009).sin()).to_le_bytes()).collect();
    let pixels: Vec<u8> = pixels.as_chunks::<8>().0.iter().flat_map(|bytes| (f64::from_le_bytes(*bytes) as f32).to_le_bytes()).collect();
    let inputs = TensorView::new(Dtype::F32, vec![6, 768], &pixels).unwrap();
    safetensors::serialize_to_file([("inputs", inputs)], None, &folder.join("images.safetensors")).unwrap();
}

const QUICK: &str = "--set trajectories=4 --set patience=1 --set effort=0 --set block=2 --set spacing=1.5 --set chains=2";

/// Name and command of every run; `QUICK` stands for settings of a short ladder.
const RUNS: [(&str, &str); 16] = [
    (
        "perceptron_rays",
        "estimate mlp --data inputs.safetensors --samples 4 --preconditioner none,fisher,hessian,kronecker,low-rank --sigma 0.4 --l2-reg 0.001",
    ),
    ("perceptron_learned", "estimate mlp --data inputs.safetensors --samples 3 --preconditioner learned --seed 7 --cutoff 0.05"),
    ("perceptron_shifted", "estimate mlp --data inputs.safetensors --samples 4 --preconditioner fisher --proposal shifted --damping match"),
    (
        "perceptron_power",
        "estimate mlp --data inputs.safetensors --samples 3 --preconditioner fisher --exponent 0.4 --eps 1e-4 --profile 6",
    ),
    ("perceptron_flat", "estimate mlp --data inputs.safetensors --samples 3 --prior lebesgue"),
    ("perceptron_sphere", "estimate mlp --data inputs.safetensors --samples 3 --prior sphere --preconditioner fisher --damping 0.01"),
    ("perceptron_gram", "estimate mlp --data inputs.safetensors --estimator spectral --samples 2 --sigma 0.4"),
    (
        "perceptron_lanczos",
        "estimate mlp --data inputs.safetensors --estimator spectral --samples 2 --set route=lanczos --set steps=20 --set deflation=2 --set products=differences",
    ),
    ("perceptron_basin", "estimate mlp --data inputs.safetensors --estimator annealed --cutoff 0.3 QUICK"),
    (
        "perceptron_star",
        "estimate mlp --data inputs.safetensors --estimator annealed --cutoff 0.3 --set-kind star --set metric=diagonal QUICK",
    ),
    (
        "language_model_rays",
        "estimate neox --data a.jsonl --val-size 4 --samples 3 --preconditioner none,squared-gradient,kronecker --per-sequence --exclude bias$",
    ),
    ("language_model_spectral", "estimate neox --data a.jsonl --val-size 4 --estimator spectral --samples 2 --set steps=12"),
    ("language_model_basin", "estimate neox --data a.jsonl --val-size 4 --estimator annealed --cutoff 0.5 --set metric=kronecker QUICK"),
    ("images", "estimate convnext --data images.safetensors --samples 3 --preconditioner none,adam2,fisher --memory low"),
    ("several_data", "estimate neox --data a.jsonl --data b.jsonl --val-size 3 --samples 3 --preconditioner fisher"),
    (
        "scan",
        "scan cutoff mlp convnet=mlp --data inputs.safetensors --grid 0.01,0.1 --samples 3 --preconditioner none,fisher:shifted --estimator radial,spectral --set spectral.cost_samples=1",
    ),
];

/// The records of all run folders below a folder, by their place.
fn records(folder: &Path) -> BTreeMap<String, Vec<String>> {
    fn collect(root: &Path, folder: &Path, found: &mut BTreeMap<String, Vec<String>>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(root, &path, found);
            } else if path.ends_with("samples.jsonl") {
                let place = folder.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                let mut lines: Vec<(u64, String)> = fs::read_to_string(&path)
                    .unwrap()
                    .lines()
                    .enumerate()
                    // Records of chains come in their order.
                    .map(|(k, line)| (serde_json::from_str::<Value>(line).unwrap()["index"].as_u64().unwrap_or(k as u64), line.to_owned()))
                    .collect();
                lines.sort();
                found.insert(place, lines.into_iter().map(|(_, line)| line).collect());
            }
        }
    }
    let mut found = BTreeMap::new();
    collect(folder, folder, &mut found);
    found
}

/// What decides how products of matrices round: the processor's name, features and caches.
fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
        line.and_then(|line| line.split_once(':')).map_or("unknown", |(_, value)| value.trim()).to_owned()
    };
    format!("{}; {}; {}", field("model name"), field("cache size"), field("flags"))
}

/// Whether two numbers are the same but for the rounding of single precision along a search.
fn is_close(ours: &Value, theirs: &Value) -> bool {
    match (ours.as_f64(), theirs.as_f64()) {
        (Some(ours), Some(theirs)) => (ours - theirs).abs() <= 0.5 + 1e-3 * theirs.abs(),
        _ => ours == theirs,
    }
}

#[test]
fn samples_have_not_changed() {
    let folder = tempfile::tempdir().unwrap();
    setup(folder.path());
    let goldens = golden("runs");
    let is_blessed = std::env::var_os("BASIN_VOLUME_BLESS").is_some();
    let processor_file = goldens.join("processor.txt");
    let is_same_processor = fs::read_to_string(&processor_file).is_ok_and(|text| text.trim() == processor());
    if is_blessed {
        fs::create_dir_all(&goldens).unwrap();
        fs::write(&processor_file, processor() + "\n").unwrap();
    }
    let mut wrong = Vec::new();
    for (name, command) in RUNS {
        let command = command.replace("QUICK", QUICK);
        binary(folder.path()).args(command.split(' ')).args(["--threads", "2", "--out", name]).assert().success();
        let ours = records(&folder.path().join(name));
        assert!(!ours.is_empty() && ours.values().all(|lines| !lines.is_empty()), "{name} has no records");
        let file = goldens.join(format!("{name}.json"));
        if is_blessed {
            fs::write(&file, serde_json::to_string_pretty(&ours).unwrap() + "\n").unwrap();
            continue;
        }
        let theirs: BTreeMap<String, Vec<String>> = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        if is_same_processor {
            for (place, lines) in &theirs {
                let empty = Vec::new();
                let found = ours.get(place).unwrap_or(&empty);
                if let Some(k) = (0..lines.len().max(found.len())).find(|&k| lines.get(k) != found.get(k)) {
                    wrong.push(format!("{name}/{place}, record {k}:\n  {:?}\n  {:?}", found.get(k), lines.get(k)));
                }
            }
        }
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{name}");
        for (place, lines) in &theirs {
            // Chains are chaotic: the last bit of a product decides where they are after some steps.
            let is_chain = lines[0].contains("\"localization\"");
            for (ours, theirs) in ours[place].iter().zip(lines).take(if is_chain { 0 } else { usize::MAX }) {
                let (ours, theirs): (Value, Value) = (serde_json::from_str(ours).unwrap(), serde_json::from_str(theirs).unwrap());
                for field in ["index", "log_volume", "mass"] {
                    if !is_close(&ours[field], &theirs[field]) {
                        wrong.push(format!("{name}/{place}: {field} is {} and was {}", ours[field], theirs[field]));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
