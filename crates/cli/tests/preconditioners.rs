//! Curvatures from the command line: computed, saved, kept in run folders, used again, and refused.

mod common;

use std::fs;
use std::path::Path;

use common::{binary, documents, json, language_model, log_volumes, mean, network, samples};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

const KINDS: [(&str, &str); 5] = [
    ("fisher", "fisher-diagonal"),
    ("squared-gradient", "squared-gradient"),
    ("hessian", "hessian-diagonal"),
    ("kronecker", "kronecker"),
    ("low-rank", "low-rank"),
];

/// A folder with a small digits network and a tiny language model with its text, and the words that name each with its data.
fn prepared() -> (tempfile::TempDir, [Vec<&'static str>; 2]) {
    let folder = tempfile::tempdir().unwrap();
    language_model(folder.path(), "gpt_neox_pythia", "pythia");
    documents(folder.path(), "text.jsonl");
    (folder, [vec![network().to_str().unwrap()], vec!["pythia", "--data", "text.jsonl"]])
}

fn parsed(folder: &Path, arguments: &[&str]) -> Value {
    let output = binary(folder).args(arguments).assert().success().get_output().clone();
    serde_json::from_slice(&output.stdout).unwrap()
}

fn precondition(folder: &Path, problem: &[&str], kind: &str, out: &str, extra: &[&str]) -> Value {
    parsed(folder, &[&["precondition"], problem, &["--kind", kind, "--out", out, "--json"], extra].concat())
}

fn estimate(folder: &Path, problem: &[&str], preconditioner: &str, out: &str, extra: &[&str]) -> Value {
    let rest = ["--samples", "3", "--json", "--preconditioner", preconditioner, "--out", out];
    parsed(folder, &[&["estimate"], problem, &rest, extra].concat())
}

/// Runs a command that is refused with one sentence (clap's own messages have more lines).
fn refused(folder: &Path, arguments: &[&str], code: i32, words: &[&str]) {
    let output = binary(folder).args(arguments).assert().code(code).get_output().clone();
    let stderr = String::from_utf8(output.stderr).unwrap();
    for word in words {
        assert!(stderr.contains(word), "{arguments:?}: '{word}' is not in: {stderr}");
    }
    let sentence = stderr.lines().filter(|line| line.starts_with("error: ")).count();
    assert!(sentence == 1 && !stderr.contains("panicked") && output.stdout.is_empty(), "{arguments:?}: {stderr}");
}

#[test]
fn every_kind_is_computed_saved_and_used_from_its_file_as_from_its_name() {
    let (folder, problems) = prepared();
    let here = folder.path();
    for (number, problem) in problems.iter().enumerate() {
        for (name, kind) in KINDS {
            let (file, run) = (format!("{name}-{number}.safetensors"), format!("{name}-{number}"));
            let extra: &[&str] = if name == "low-rank" { &["--rank", "4"] } else { &[] };
            let summary = precondition(here, problem, name, &file, extra);
            assert_eq!(summary["provenance"]["kind"], kind);
            assert!(summary["trace"].as_f64().unwrap() > 0.0 && summary["largest"].as_f64().unwrap() > 0.0, "{summary}");
            let result = estimate(here, problem, &file, &run, &[]);
            assert!(mean(&result).is_finite(), "{name}: {result}");
            let manifest = json(&here.join(&run).join("manifest.json"));
            assert_eq!(manifest["preconditioner"]["source"], file);
            assert_eq!(manifest["preconditioner"]["hash"], summary["hash"]);
            assert_eq!(manifest["notes"]["curvature"]["kind"], kind);
            let sigma = manifest["sigma"].as_f64().unwrap();
            assert_eq!(manifest["preconditioner"]["sigma"].as_f64(), Some(sigma));
            assert!(manifest["preconditioner"]["beta"].as_f64().unwrap() > 0.0);
            if name != "low-rank" {
                // By name the same numbers are computed with default settings.
                let by_name = estimate(here, problem, name, &format!("{run}-by-name"), &[]);
                assert_eq!(log_volumes(&by_name), log_volumes(&result), "{name}");
            }
        }
    }
}

#[test]
fn curvature_helps_where_the_cost_is_nearly_quadratic() {
    let (folder, [digits, _]) = prepared();
    let here = folder.path();
    // A small cutoff under a narrow prior: there the Hessian of the cost is what matters.
    let narrow = ["--cutoff", "1e-4", "--samples", "8"];
    let of = |preconditioner: &str, out: &str| {
        let rest = ["--json", "--preconditioner", preconditioner, "--out", out];
        mean(&parsed(here, &[&["estimate"], &digits[..], &narrow, &rest].concat()))
    };
    let none = of("none", "none");
    let mut means = Vec::new();
    for (name, _) in KINDS.into_iter().filter(|(name, _)| *name != "hessian") {
        means.push(of(name, name));
        assert!(means[means.len() - 1] > none + 100.0, "{name}: {means:?} is not above {none}");
    }
    // What mixes coordinates follows the valley better than any diagonal.
    assert!(means[2].min(means[3]) > means[0].max(means[1]) + 100.0, "{means:?}");
    // Few probes leave zeros where there is curvature; many give the Fisher diagonal.
    let summary = precondition(here, &digits, "hessian", "hessian.safetensors", &["--probes", "4096"]);
    assert!(summary["relative_error"].as_f64().unwrap() < 0.2, "{summary}");
    assert!(of("hessian.safetensors", "hessian") > none + 100.0);
}

#[test]
fn a_learned_map_is_saved_used_and_no_worse_than_where_it_started() {
    let (folder, problems) = prepared();
    let here = folder.path();
    for (number, problem) in problems.iter().enumerate() {
        let (file, run) = (format!("learned-{number}.safetensors"), format!("run-{number}"));
        let summary = precondition(here, problem, "learned", &file, &["--steps", "60"]);
        let learned = &summary["learned"];
        let number_of = |name: &str| learned[name].as_f64().unwrap();
        // Where damped Fisher is as good as a diagonal gets, it is kept, and the report says so.
        assert_eq!(learned["kept_first"].as_bool(), Some(number_of("gain") <= 0.0), "{learned}");
        assert!((number_of("after") - number_of("before") - number_of("gain")).abs() < 1e-6, "{learned}");
        assert!(number_of("gain_standard_error") > 0.0 && number_of("evaluations") >= 60.0, "{learned}");
        let result = estimate(here, problem, &file, &run, &[]);
        let manifest = json(&here.join(&run).join("manifest.json"));
        assert_eq!(manifest["preconditioner"]["kind"], "factors");
        assert_eq!(manifest["notes"]["curvature"]["settings"]["steps"], 60);
        assert!(mean(&result).is_finite());
    }
    // By name it is learned for the run's own cutoff and prior, which another run cannot take over.
    estimate(here, &problems[0], "fisher,learned", "both", &["--cutoff", "1e-3"]);
    let both = json(&here.join("both/comparison.json"));
    let (fisher, learned) = (mean(&both[0]), mean(&both[1]));
    assert!(learned > fisher - 20.0, "learned {learned} is below Fisher {fisher}");
    let other = ["estimate", problems[0][0], "--samples", "3", "--preconditioner", "learned", "--out", "both/learned"];
    refused(here, &other, 1, &["both/learned holds a different run", "cutoff: 0.001 in the folder, 0.01 asked for"]);
    // One that a run left before it began.
    fs::create_dir(here.join("left")).unwrap();
    fs::copy(here.join("both/learned/curvature.safetensors"), here.join("left/curvature.safetensors")).unwrap();
    let other = [&other[..7], &["left"]].concat();
    refused(here, &other, 1, &["curvature.safetensors", "another question", "settings"]);
    let sphere = ["estimate", problems[0][0], "--samples", "3", "--preconditioner", "learned", "--prior", "sphere"];
    refused(here, &sphere, 2, &["spherical prior"]);
}

#[test]
fn a_run_that_is_continued_reads_its_curvature() {
    let (folder, [digits, _]) = prepared();
    let here = folder.path();
    estimate(here, &digits, "none,fisher", "group", &[]);
    let file = here.join("group/fisher/curvature.safetensors");
    let written = fs::read(&file).unwrap();
    let before = samples(&here.join("group/fisher"));
    assert_eq!(before.len(), 3);
    let time = fs::metadata(&file).unwrap().modified().unwrap();
    let more = ["--samples", "5", "--json", "--preconditioner", "none,fisher", "--out", "group"];
    parsed(here, &[&["estimate"], &digits[..], &more].concat());
    assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), time);
    assert_eq!(fs::read(&file).unwrap(), written);
    let after = samples(&here.join("group/fisher"));
    assert_eq!(after.len(), 5);
    assert_eq!(before, after[..3]);
    // Of another seed, it is not the curvature that was asked for.
    let other = ["estimate", digits[0], "--samples", "3", "--preconditioner", "fisher", "--out", "group/fisher", "--seed", "5"];
    refused(here, &other, 1, &["group/fisher holds a different run", "seed: 42 in the folder, 5 asked for"]);
    // Without --out the folder's name comes from the question, so the second command finds the first one's work.
    let arguments = [&["estimate"], &digits[..], &["--samples", "3", "--preconditioner", "fisher"]].concat();
    let run = || String::from_utf8(binary(here).args(&arguments).assert().success().get_output().stdout.clone()).unwrap();
    let (first, second) = (run(), run());
    assert_eq!(first.lines().last(), second.lines().last());
    // A folder with other files is left alone.
    fs::create_dir(here.join("mine")).unwrap();
    fs::write(here.join("mine/notes.txt"), "x").unwrap();
    let mine = ["estimate", digits[0], "--samples", "3", "--preconditioner", "fisher", "--out", "mine"];
    refused(here, &mine, 1, &["notes.txt"]);
    assert_eq!(fs::read_dir(here.join("mine")).unwrap().count(), 1);
}

#[test]
fn threads_do_not_change_a_curvature() {
    let (folder, problems) = prepared();
    for problem in &problems {
        for (kind, _) in KINDS {
            let hash = |threads: &str| precondition(folder.path(), problem, kind, "x.safetensors", &["--threads", threads])["hash"].clone();
            assert_eq!(hash("1"), hash("3"), "{kind}");
        }
    }
}

#[test]
fn moments_of_foreign_optimizers_precondition_their_model() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let fixtures = common::golden("optimizer/gpt_neox");
    let mut results = Vec::new();
    for layout in ["trainer", "zero", "deepspeed"] {
        let model = here.join(layout);
        copy(&fixtures.join(layout), &model);
        for file in ["config.json", "model.safetensors"] {
            fs::copy(fixtures.join(file), model.join(file)).unwrap();
        }
        fs::write(here.join("ids.json"), "[[1, 2, 3, 4, 5, 6], [7, 8, 9]]").unwrap();
        let problem = [layout, "--data", "ids.json"];
        let adam = estimate(here, &problem, "adam2", &format!("{layout}-run"), &[]);
        assert_eq!(adam["radial"]["preconditioner"], "adam2");
        let none = estimate(here, &problem, "none", &format!("{layout}-none"), &[]);
        assert_ne!(mean(&adam), mean(&none));
        results.push(mean(&adam));
    }
    // The fixtures hold the same moments, written by three programs.
    assert!(results[0].is_finite() && results.iter().all(|mean| *mean == results[0]), "{results:?}");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &target) } else { fs::copy(&path, &target).map(|_| ()).unwrap() }
    }
}

#[test]
fn maps_are_chosen_by_flags_and_recorded() {
    let (folder, [digits, _]) = prepared();
    let here = folder.path();
    precondition(here, &digits, "fisher", "f.safetensors", &["--seed", "3", "--probes", "2"]);
    let map = |out: &str, preconditioner: &str, extra: &[&str]| {
        estimate(here, &digits, preconditioner, out, extra);
        json(&here.join(out).join("manifest.json"))["preconditioner"].clone()
    };
    let power = map("power", "f.safetensors", &["--exponent", "0.4", "--eps", "0.01"]);
    assert_eq!((power["exponent"].as_f64(), power["eps"].as_f64()), (Some(0.4), Some(0.01)));
    assert_eq!(power["curvature"], "fisher-diagonal");
    let damped = map("damped", "f.safetensors", &["--damping", "0.25", "--sigma", "0.5"]);
    assert_eq!((damped["beta"].as_f64(), damped["sigma"].as_f64()), (Some(16.0), Some(0.5)));
    // The saddle point follows the cutoff: a narrower one is colder.
    let beta = |out: &str, cutoff: &str| map(out, "f.safetensors", &["--cutoff", cutoff])["beta"].as_f64().unwrap();
    assert!(beta("cold", "1e-4") > 5.0 * beta("warm", "1e-2"));
    // Adam's moments keep the power map unless damping is asked for.
    assert!(map("adam", "adam2", &[])["exponent"].is_number());
    assert!(map("adam-damped", "adam2", &["--damping", "auto"])["beta"].is_number());
    assert!(map("flat", "f.safetensors", &["--prior", "lebesgue", "--damping", "1e-3"])["beta"].is_number());
}

/// The curvature file `from` with the first number of its first tensor replaced, as `to`.
fn with_number(folder: &Path, from: &str, to: &str, number: f32) {
    let bytes = fs::read(folder.join(from)).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> =
        file.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec(), view.data().to_vec())).collect();
    tensors[0].2[..4].copy_from_slice(&number.to_le_bytes());
    let views = tensors.iter().map(|(name, shape, data)| (name.clone(), TensorView::new(Dtype::F32, shape.clone(), data).unwrap()));
    safetensors::serialize_to_file(views, header.metadata().clone(), &folder.join(to)).unwrap();
}

#[test]
fn files_that_cannot_be_used_are_refused_in_one_sentence() {
    let (folder, [digits, language]) = prepared();
    let here = folder.path();
    precondition(here, &digits, "fisher", "f.safetensors", &[]);
    let with =
        |problem: &[&'static str], file: &'static str| [&["estimate"], problem, &["--samples", "2", "--preconditioner", file]].concat();
    refused(here, &with(&language, "f.safetensors"), 1, &["f.safetensors", "another model"]);
    for (number, word) in [(f32::NAN, "NaN"), (-1.0, "-1"), (f32::INFINITY, "inf")] {
        with_number(here, "f.safetensors", "bad.safetensors", number);
        refused(
            here,
            &with(&digits, "bad.safetensors"),
            1,
            &["bad.safetensors", "entry 0 of the diagonal", word, "expected a finite number >= 0"],
        );
    }
    refused(here, &with(&digits, "missing.safetensors"), 2, &["missing.safetensors", "fisher"]);
    let bytes = fs::read(here.join("f.safetensors")).unwrap();
    fs::write(here.join("cut.safetensors"), &bytes[..bytes.len() / 2]).unwrap();
    refused(here, &with(&digits, "cut.safetensors"), 1, &["cut.safetensors", "not a complete safetensors file"]);
    // A file for some weights does not serve others, one for all serves a part.
    precondition(here, &language, "fisher", "part.safetensors", &["--parameters", "mlp"]);
    refused(here, &with(&language, "part.safetensors"), 1, &["part.safetensors", "is missing", "another choice of weights"]);
    precondition(here, &language, "kronecker", "all.safetensors", &[]);
    estimate(here, &language, "all.safetensors", "part", &["--parameters", "mlp"]);
}

#[test]
fn flags_that_do_not_go_together_are_refused() {
    let (folder, [digits, language]) = prepared();
    let here = folder.path();
    let with = |problem: &[&'static str], extra: &[&'static str]| [&["estimate"], problem, &["--samples", "2"], extra].concat();
    for damping in ["--damping=0", "--damping=-1", "--damping=NaN", "--damping=much"] {
        refused(here, &with(&digits, &["--preconditioner", "fisher", damping]), 2, &["--damping", "expected a finite number > 0"]);
    }
    refused(here, &with(&digits, &["--preconditioner", "fisher", "--damping", "auto", "--eps", "1"]), 2, &["--damping", "--eps"]);
    refused(here, &with(&digits, &["--preconditioner", "low-rank", "--exponent", "0.5"]), 2, &["low-rank", "--damping"]);
    refused(here, &with(&digits, &["--preconditioner", "fisher", "--prior", "lebesgue"]), 2, &["--damping auto", "--prior gaussian"]);
    refused(here, &with(&digits, &["--preconditioner", "adam1", "--damping", "auto"]), 2, &["adam1", "--exponent"]);
    let compute =
        |problem: &[&'static str], extra: &[&'static str]| [&["precondition"], problem, &["--out", "x.safetensors"], extra].concat();
    refused(here, &compute(&digits, &["--kind", "low-rank", "--rank", "1000000"]), 2, &["--rank", "1210"]);
    refused(here, &compute(&language, &["--kind", "low-rank", "--memory", "1kB"]), 1, &["memory", "1 kB"]);
    refused(here, &compute(&language, &["--kind", "kronecker", "--memory", "1MB"]), 1, &["memory", "--memory"]);
    refused(here, &["precondition", "pythia", "--kind", "fisher", "--out", "x.safetensors"], 2, &["--data"]);
    assert!(!here.join("x.safetensors").exists());
}
