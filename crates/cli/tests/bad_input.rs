//! Wrong input: one sentence, exit code 2 (usage) or 1 (failure), never a panic, and no folder left behind.

mod common;

use std::fs;
use std::path::Path;

use common::{binary, network, network_copy, words};
use predicates::Predicate;
use predicates::function::function;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;

/// Whether the sentence is said, however it is broken into lines.
fn says(sentence: &'static str) -> impl Predicate<[u8]> {
    function(move |text: &[u8]| words(text).contains(sentence))
}

/// Runs `estimate MODEL ... --out run` and checks code, words and that nothing is left.
fn refused(folder: &Path, model: &Path, extra: &[&str], code: i32, words: &[&str]) {
    let mut command = binary(folder);
    command.arg("estimate").arg(model).args(["--samples", "2", "--out", "run"]).args(extra);
    let output = command.assert().code(code).get_output().clone();
    let stderr = String::from_utf8(output.stderr).unwrap();
    for word in words {
        assert!(stderr.contains(word), "{extra:?}: '{word}' is not in: {stderr}");
    }
    assert!(!stderr.contains("panicked") && !stderr.contains("RUST_BACKTRACE"), "{stderr}");
    // Our own messages are one line; those of the argument parser add the usage.
    if !stderr.contains("--help") {
        // What counts and how long it takes comes before what only the work finds out.
        let said = |line: &&str| !line.starts_with("Data: ") && !line.starts_with("Forecast for ");
        assert_eq!(stderr.trim_end().lines().filter(said).count(), 1, "{stderr}");
    }
    assert!(output.stdout.is_empty());
    assert!(!folder.join("run").exists(), "{extra:?} left a folder");
}

#[test]
fn usage_errors_end_with_code_two() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    refused(here, network(), &["--cutof", "1"], 2, &["--cutof"]);
    refused(here, network(), &["--cutoff", "0"], 2, &["--cutoff", "> 0"]);
    refused(here, network(), &["--cutoff=-1"], 2, &["--cutoff", "> 0"]);
    refused(here, network(), &["--cutoff", "nan"], 2, &["--cutoff"]);
    refused(here, network(), &["--cutoff", "lots"], 2, &["--cutoff"]);
    refused(here, network(), &["--sigma", "0"], 2, &["--sigma"]);
    refused(here, network(), &["--sigma=-1"], 2, &["--sigma"]);
    refused(here, network(), &["--sigma", "big"], 2, &["--sigma", "rms"]);
    refused(here, network(), &["--sigma", "1", "--prior", "lebesgue"], 2, &["--sigma", "--prior"]);
    refused(here, network(), &["--samples", "0"], 2, &["--samples"]);
    refused(here, network(), &["--shard", "3/2"], 2, &["3/2", "i/n"]);
    refused(here, network(), &["--threads", "0"], 2, &["--threads"]);
    refused(here, network(), &["--threads", "100000"], 2, &["--threads", "from 1 to 4096"]);
    binary(here).arg("profile").arg(network()).args(["--threads", "2", "--points", "3"]).assert().success();
    refused(here, network(), &["--prior", "uniform"], 2, &["gaussian", "lebesgue", "sphere"]);
    refused(here, network(), &["--radius-tolerance", "0"], 2, &["--radius-tolerance"]);
    refused(here, network(), &["--l2-reg=-1"], 2, &["--l2-reg"]);
    refused(here, network(), &["--exponent=-1", "--preconditioner", "adam2"], 2, &["exponent"]);
    refused(here, network(), &["--preconditioner", "adam3"], 2, &["adam3", "adam2"]);
    refused(here, network(), &["--preconditioner", "none,none"], 2, &["twice"]);
    refused(here, network(), &["--data", "mnist"], 2, &["mnist", "digits"]);
    refused(here, Path::new("no-such-model"), &[], 2, &["no-such-model", "checkpoint folder"]);
    binary(here).arg("estimat").assert().code(2);
    binary(here).assert().code(2);
    binary(here).args(["profile"]).arg(network()).args(["--points", "1"]).assert().code(2);
    binary(here).args(["merge", "--out", "x"]).assert().code(2);
    for command in ["", "train", "estimate", "profile", "merge", "report", "inspect"] {
        binary(here).args(command.split_whitespace()).arg("--help").assert().success().stdout(contains("Usage"));
    }
}

#[test]
fn flags_that_mean_nothing_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let inputs = "digits:train:20";
    refused(here, network(), &["--set", "max_evaluations=0"], 2, &["max_evaluations is 0", "from 1"]);
    binary(here).arg("estimate").arg(network()).args(["--samples", "2", "--set", "max_evaluations=1", "--out", "one"]).assert().success();
    for flag in [["--damping", "5"], ["--damping", "match"], ["--exponent", "0.3"], ["--eps", "0.01"]] {
        refused(here, network(), &flag, 2, &[flag[0], "none is used"]);
        refused(here, network(), &[&flag[..], &["--preconditioner", "learned"]].concat(), 2, &[flag[0], "learned is used"]);
        refused(here, network(), &[&flag[..], &["--data", inputs, "--data", "digits:test"]].concat(), 2, &[flag[0], "none is used"]);
        let out = ["--out", "run"];
        binary(here).arg("profile").arg(network()).args(flag).args(out).assert().code(2).stderr(contains(flag[0]));
        binary(here).args(["scan", "cutoff"]).arg(network()).args(flag).args(out).assert().code(2).stderr(contains(flag[0]));
        assert!(!here.join("run").exists());
    }
    for flag in [&["--set-kind", "star"][..], &["--continue"], &["--spectrum-out", "x.json"]] {
        refused(here, network(), &[flag, &["--data", inputs, "--data", "digits:test"]].concat(), 2, &[flag[0], "leave it out"]);
    }
    refused(here, network(), &["--set", "costs_by_part=true"], 2, &["costs_by_part is for language models"]);
    refused(here, network(), &["--profile", "3", "--set", "profile_points=5"], 2, &["--profile and --set profile_points say the same"]);
    refused(here, network(), &["--estimator", "all", "--set", "annealed.foo=1"], 2, &["--set annealed.foo=1"]);
    // Before it is computed.
    refused(here, network(), &["--preconditioner", "low-rank", "--exponent", "0.3"], 2, &["--exponent and --eps are not for low-rank"]);
    refused(here, network(), &["--memory", "1GB"], 2, &["--memory is for language models and classifiers of images"]);
    refused(here, network(), &["--estimator", "spectral", "--spectrum-out", "."], 2, &["--spectrum-out . is a folder"]);
    let precondition = |flags: &[&str], words: &str| {
        let mut command = binary(here);
        command.arg("precondition").arg(network()).args(["--data", inputs]).args(flags);
        command.assert().code(2).stderr(contains(words.to_owned()));
    };
    let out = ["--out", "c.safetensors"];
    precondition(&[&["--kind", "kronecker", "--cutoff", "1"][..], &out].concat(), "--cutoff is for --kind learned, not for kronecker");
    precondition(&[&["--kind", "fisher", "--rank", "3"][..], &out].concat(), "--rank is for --kind low-rank, not for fisher");
    precondition(&[&["--kind", "learned", "--probes", "3"][..], &out].concat(), "--probes is for --kind fisher,");
    precondition(&[&["--kind", "fisher", "--probes", "18446744073709551615"][..], &out].concat(), "--probes is 18446744073709551615");
    precondition(&[&["--kind", "learned", "--cutoff=-1"][..], &out].concat(), "--cutoff is -1");
    fs::write(here.join("file"), "x").unwrap();
    precondition(&["--kind", "learned", "--out", "file/c.safetensors"], "file is a file, not a folder");
    // Folders on the way to a file are made.
    let spectrum = ["--estimator", "spectral", "--spectrum-out", "new/s.csv", "--out", "quadratic", "--data", inputs];
    binary(here).arg("estimate").arg(network()).args(spectrum).assert().success();
    assert!(fs::read_to_string(here.join("new/s.csv")).unwrap().starts_with("curvature,"));
}

#[test]
fn folders_of_other_things_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let inputs = "digits:train:20";
    fs::create_dir(here.join("home")).unwrap();
    let precious = ["comparison.json", "log_volumes.svg"].map(|name| here.join("home").join(name));
    precious.iter().for_each(|path| fs::write(path, "precious").unwrap());
    let estimate = |extra: &[&str]| {
        let mut command = binary(here);
        command.arg("estimate").arg(network()).args(["--samples", "2"]).args(extra);
        command
    };
    let groups: [&[&str]; 3] =
        [&["--preconditioner", "none,fisher"], &["--data", inputs, "--data", "digits:test"], &["--estimator", "all", "--data", inputs]];
    for group in groups {
        estimate(&[group, &["--out", "home"]].concat()).assert().code(1).stderr(contains("not a run folder (it holds 'comparison.json'"));
        estimate(&[group, &["--out", "home/comparison.json"]].concat()).assert().code(1).stderr(contains("comparison.json is a file"));
    }
    estimate(&["--out", "home/comparison.json"]).assert().code(1).stderr(contains("comparison.json is a file"));
    estimate(&["--preconditioner", "none,fisher", "--out", "group"]).assert().success();
    binary(here).args(["merge", "group", "--out", "home"]).assert().code(1).stderr(contains("it holds 'comparison.json'"));
    assert!(precious.iter().all(|path| fs::read_to_string(path).unwrap() == "precious"));
    assert_eq!(fs::read_dir(here.join("home")).unwrap().count(), 2);
    // A group goes on, and may grow.
    estimate(&["--preconditioner", "none,adam2", "--out", "group"]).assert().success();
    binary(here).args(["merge", "group", "--out", "merged"]).assert().success();
    binary(here).args(["merge", "group", "--out", "merged"]).assert().success();
    // The run of another question is refused before a curvature is computed, and none is left in its folder.
    estimate(&["--out", "plain"]).assert().success();
    estimate(&["--out", "plain", "--preconditioner", "fisher"])
        .assert()
        .code(1)
        .stderr(contains("preconditioner: none in the folder, fisher asked for").and(contains("computed in").not()));
    assert!(!here.join("plain/curvature.safetensors").exists());
    for _ in 0..2 {
        estimate(&["--out", "curved", "--preconditioner", "fisher"]).assert().success();
    }
    // Another estimator: one word about it, not all settings.
    for extra in [&["--continue"][..], &[]] {
        let mut command = binary(here);
        command.arg("estimate").arg(network()).args(["--estimator", "annealed", "--out", "plain"]).args(extra);
        let output = command.assert().code(1).get_output().clone();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let last = stderr.lines().last().unwrap();
        assert!(last.contains("radial") && last.contains("annealed") && last.len() < 250, "{stderr}");
    }
    // Runs that are no shards of each other.
    binary(here).args(["merge", "plain", "curved", "--out", "joined"]).assert().code(1).stderr(contains("no part of the same run"));
}

#[test]
fn damaged_models_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let model = network_copy(here);
    let weights = model.join("model.safetensors");
    let good = fs::read(&weights).unwrap();
    let with_weights = |bytes: &[u8], words: &[&str]| {
        fs::write(&weights, bytes).unwrap();
        refused(here, &model, &[], 1, words);
    };
    with_weights(&good[..good.len() / 2], &["model.safetensors"]);
    with_weights(b"not a checkpoint", &["model.safetensors"]);
    with_weights(&[], &["model.safetensors"]);
    let mut nan = good.clone();
    let end = nan.len();
    nan[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    with_weights(&nan, &["model.safetensors", "NaN"]);
    fs::remove_file(&weights).unwrap();
    refused(here, &model, &[], 1, &["model.safetensors"]);
    fs::write(&weights, &good).unwrap();
    let config = model.join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    let with_config = |text: &str, words: &[&str]| {
        fs::write(&config, text).unwrap();
        refused(here, &model, &[], 1, words);
    };
    with_config(&text.replace("\"mlp\"", "\"resnet\""), &["config.json", "resnet", "mlp"]);
    with_config(&text.replace("16,", "17,"), &["model.safetensors", "shape"]);
    with_config("{", &["config.json"]);
    fs::remove_file(&config).unwrap();
    refused(here, &model, &[], 1, &["config.json"]);
}

#[test]
fn preconditioners_of_other_models_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let write = |name: &str, shape: Vec<usize>, values: &[f32]| {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, &bytes).unwrap();
        safetensors::serialize_to_file([(name, view)], None, &here.join("p.safetensors")).unwrap();
    };
    let file = ["--preconditioner", "p.safetensors"];
    write("diagonal", vec![5], &[1.0; 5]);
    refused(here, network(), &file, 1, &["diagonal", "[5]", "[1210]"]);
    write("matrix", vec![2, 2], &[1.0; 4]);
    refused(here, network(), &file, 1, &["matrix", "[2, 2]"]);
    write("something", vec![5], &[1.0; 5]);
    refused(here, network(), &file, 1, &["p.safetensors", "layers.0.weight"]);
    let mut entries = vec![1.0f32; 1210];
    entries[7] = f32::NAN;
    write("diagonal", vec![1210], &entries);
    refused(here, network(), &file, 1, &["entry 7", "finite"]);
    fs::write(here.join("p.safetensors"), "torn").unwrap();
    refused(here, network(), &file, 1, &["p.safetensors"]);
    let bare = network_copy(here);
    fs::remove_file(bare.join("optimizer.safetensors")).unwrap();
    refused(here, &bare, &["--preconditioner", "adam2"], 1, &["optimizer.safetensors"]);
}

#[test]
fn data_that_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let write = |name: &str, shape: Vec<usize>, count: usize, value: f32| {
        let bytes: Vec<u8> = std::iter::repeat_n(value, count).flat_map(f32::to_le_bytes).collect();
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, &bytes).unwrap();
        safetensors::serialize_to_file([(name, view)], None, &here.join("d.safetensors")).unwrap();
    };
    let data = ["--data", "d.safetensors"];
    write("inputs", vec![2, 63], 126, 0.5);
    refused(here, network(), &data, 1, &["63", "64"]);
    write("images", vec![2, 64], 128, 0.5);
    refused(here, network(), &data, 1, &["d.safetensors", "inputs"]);
    write("inputs", vec![2, 64], 128, f32::INFINITY);
    refused(here, network(), &data, 1, &["d.safetensors"]);
    write("inputs", vec![3, 64], 192, 0.5);
    binary(here).arg("estimate").arg(network()).args(["--samples", "2", "--out", "run", "--data", "d.safetensors"]).assert().success();
}

#[test]
fn places_that_cannot_be_written_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    fs::write(here.join("file"), "x").unwrap();
    let at = |out: &str| {
        let mut command = binary(here);
        command.arg("estimate").arg(network()).args(["--samples", "2", "--out", out]);
        command
    };
    at("file/run").assert().code(1).stderr(contains("file").and(contains("panicked").not()));
    at("file").assert().code(1).stderr(contains("file"));
    assert_eq!(fs::read_to_string(here.join("file")).unwrap(), "x");
    fs::create_dir(here.join("occupied")).unwrap();
    fs::write(here.join("occupied/notes.txt"), "x").unwrap();
    at("occupied").assert().code(1).stderr(contains("notes.txt"));
    binary(here).args(["report", "occupied"]).assert().code(1).stderr(contains("manifest.json"));
    binary(here).args(["report", "nowhere"]).assert().code(1).stderr(contains("nowhere"));
    binary(here).args(["merge", "nowhere", "--out", "merged"]).assert().code(1).stderr(contains("nowhere"));
    assert!(!here.join("merged").exists());
    // Training refuses to overwrite.
    binary(here).args(["train", "digits", "--out", "occupied"]).assert().code(1).stderr(contains("occupied"));
}

#[test]
fn another_command_in_the_same_folder_is_refused_with_the_difference() {
    let folder = tempfile::tempdir().unwrap();
    let at = |extra: &[&str]| {
        let mut command = binary(folder.path());
        command.arg("estimate").arg(network()).args(["--samples", "3", "--out", "run"]).args(extra);
        command
    };
    at(&[]).assert().success();
    at(&["--cutoff", "0.02"]).assert().code(1).stderr(contains("cutoff: 0.01 in the folder, 0.02 asked for"));
    at(&["--seed", "7"]).assert().code(1).stderr(contains("seed: 42 in the folder, 7 asked for"));
    at(&["--preconditioner", "adam2"]).assert().code(1).stderr(contains("preconditioner"));
    at(&["--preconditioner", "none,adam2"]).assert().code(1).stderr(contains("several preconditioners"));
    at(&["--data", "digits:test"]).assert().code(1).stderr(contains("problem.data"));
    at(&["--shard", "0/2"]).assert().code(1).stderr(contains("shard"));
    at(&[]).assert().success();
}

#[test]
fn samples_of_other_directions_are_reported_and_get_no_company() {
    let folder = tempfile::tempdir().unwrap();
    let ask = |samples: &str, extra: &[&str]| {
        let mut command = binary(folder.path());
        command.arg("estimate").arg(network()).args(["--out", "run", "--samples", samples]).args(extra);
        command
    };
    for extra in [&[][..], &["--estimator", "spectral"]] {
        ask("2", extra).assert().success();
        // As the program of version 1 wrote it.
        let manifest = folder.path().join("run/manifest.json");
        let text = fs::read_to_string(&manifest).unwrap();
        assert!(text.contains("\"directions\": 2"), "{text}");
        fs::write(&manifest, text.replace("  \"directions\": 2,\n", "")).unwrap();
        binary(folder.path()).args(["report", "run"]).assert().success();
        let refusal = contains("directions of version 1, and this program makes those of version 2: report it as it is");
        ask("3", extra).assert().code(1).stderr(refusal);
        fs::remove_dir_all(folder.path().join("run")).unwrap();
    }
}

#[test]
fn groups_never_mix_two_questions() {
    let folder = tempfile::tempdir().unwrap();
    let at = |extra: &[&str]| {
        let mut command = binary(folder.path());
        command.arg("estimate").arg(network()).args(["--samples", "3", "--out", "group"]).args(extra);
        command
    };
    at(&["--preconditioner", "none,adam2"]).assert().success();
    // Refused before anything is computed, also where the names do not clash.
    at(&["--preconditioner", "adam1,adam2", "--seed", "3"]).assert().code(1).stderr(contains("seed: 42 in the folder, 3 asked for"));
    assert!(!folder.path().join("group/adam1").exists());
    at(&["--preconditioner", "none,adam1"]).assert().success();
    // Two files of the same name cannot share a group.
    for name in ["a", "b"] {
        fs::create_dir(folder.path().join(name)).unwrap();
        fs::copy(network().join("model.safetensors"), folder.path().join(name).join("d.safetensors")).unwrap();
    }
    let mut command = binary(folder.path());
    command.arg("estimate").arg(network()).args([
        "--samples",
        "3",
        "--out",
        "twins",
        "--preconditioner",
        "a/d.safetensors,b/d.safetensors",
    ]);
    command.assert().code(2).stderr(contains("d.safetensors"));
    assert!(!folder.path().join("twins").exists());
}

#[test]
fn extremes_end_in_words_not_in_nonsense() {
    let folder = tempfile::tempdir().unwrap();
    let run = |out: &str, extra: &[&str]| {
        let mut command = binary(folder.path());
        command.arg("estimate").arg(network()).args(["--samples", "3", "--out", out]).args(extra);
        command
    };
    // The volume of a tiny sigma is zero to f64, and stays so when the folder is read again.
    run("tiny", &["--sigma", "1e-200"]).assert().success().stdout(says("volume zero"));
    binary(folder.path()).args(["report", "tiny"]).assert().success().stdout(says("volume zero"));
    run("huge", &["--sigma", "1e200"]).assert().success().stdout(says("budget").not());
    // A cutoff below what f32 weights can resolve.
    run("fine", &["--cutoff", "1e-20", "-v"]).assert().success().stdout(says("rounding noise"));
    let mut command = binary(folder.path());
    command.arg("estimate").arg(network()).args(["--out", "run", "--samples", "18446744073709551615"]);
    command.assert().code(2).stderr(contains("--samples"));
}

#[test]
fn training_refuses_nonsense() {
    let folder = tempfile::tempdir().unwrap();
    for (flag, value) in [
        ("--width", "0"),
        ("--epochs", "0"),
        ("--learning-rate", "0"),
        ("--learning-rate", "nan"),
        ("--batch-size", "0"),
        ("--batch-size", "2000"),
        ("--l2", "-1"),
        ("--train-size", "1797"),
        ("--train-size", "0"),
    ] {
        let output = binary(folder.path())
            .args(["train", "digits", "--out", "net", &format!("{flag}={value}")])
            .assert()
            .code(2)
            .get_output()
            .clone();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(stderr.trim_end().lines().count(), 1, "{flag} {value}: {stderr}");
        assert!(!folder.path().join("net").exists());
    }
    fs::write(folder.path().join("text.txt"), "one two three").unwrap();
    let language_model = ["train", "lm", "--text", "text.txt", "--out", "net", "--vocab-size", "3"];
    binary(folder.path()).args(language_model).assert().code(2).stderr(contains("--vocab-size"));
    // A folder that holds nothing of a model.
    fs::create_dir(folder.path().join("empty")).unwrap();
    let words = "empty is not a checkpoint: give a folder with config.json and model.safetensors";
    binary(folder.path()).args(["estimate", "empty"]).assert().code(1).stderr(contains(words));
    let data = ["--data", "empty"];
    binary(folder.path()).arg("estimate").arg(network()).args(data).assert().code(2).stderr(contains("--data empty is a folder"));
}

#[cfg(unix)]
#[test]
fn names_that_are_not_utf8_work_or_are_refused_in_one_sentence() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let name = OsStr::from_bytes(b"mod\xe8le");
    let model = here.join(name);
    fs::create_dir(&model).unwrap();
    for entry in fs::read_dir(network()).unwrap().flatten() {
        fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    refused(here, Path::new(name), &[], 2, &["the argument 'mod\u{fffd}le' is not UTF-8: rename", "`ln -s`"]);
    // A link to it has a name of its own, and what it leads to may have any.
    std::os::unix::fs::symlink(name, here.join("link")).unwrap();
    binary(here).args(["inspect", "link", "--json"]).assert().success().stdout(contains("\"folder\": \"link\""));
    binary(here).args(["estimate", "link", "--data", "digits:test:20", "--samples", "2"]).assert().success();
    // The current folder, and the caches.
    let mut inside = binary(here);
    inside.current_dir(&model).env("BASIN_VOLUME_CACHE", model.join("cache")).env("HF_HOME", model.join("hub"));
    inside.args(["inspect", "."]).assert().success();
    let mut hub = binary(here);
    hub.env("HF_HOME", model.join("hub")).args(["inspect", "owner/name"]);
    hub.assert().code(1).stderr(contains("could not be downloaded").and(contains("panicked").not()));
}
