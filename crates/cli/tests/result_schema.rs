//! Every result that is written or printed is what `docs/result.schema.json` says.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{binary, golden};
use jsonschema::Validator;
use serde_json::{Value, json};

/// The schema, or one of its definitions.
fn schema(definition: &str) -> Validator {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/result.schema.json");
    let mut schema: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    schema["$ref"] = json!(format!("#/$defs/{definition}"));
    jsonschema::validator_for(&schema).unwrap()
}

fn check(validator: &Validator, value: &Value, what: &str) {
    let errors: Vec<String> = validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{what}: {errors:#?}\n{value:#}");
}

/// All files of this name below a folder.
fn files(folder: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, name));
        } else if path.ends_with(name) {
            found.push(path);
        }
    }
    found
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn everything_written_and_printed_has_its_shape() {
    let folder = tempfile::tempdir().unwrap();
    let inputs = golden("small_network/inputs.safetensors");
    for copy in ["a.safetensors", "b.safetensors"] {
        fs::copy(&inputs, folder.path().join(copy)).unwrap();
    }
    let network = golden("small_network");
    let quick = ["trajectories=4", "patience=1", "effort=0", "block=2", "spacing=1.5", "chains=2"];
    let of_chains = |prefix: &str| quick.map(|set| format!("--set {prefix}{set}")).join(" ");
    let (result, printed, comparison) = (schema("result"), schema("json"), schema("comparison"));
    for (name, command, results) in [
        ("rays", "--samples 4".to_owned(), 1),
        ("one", "--samples 1 --prior lebesgue".to_owned(), 1),
        ("preconditioners", "--samples 3 --preconditioner none,fisher --proposal shifted".to_owned(), 2),
        ("sphere", "--samples 3 --prior sphere".to_owned(), 1),
        ("gram", "--estimator spectral --samples 1".to_owned(), 1),
        ("lanczos", "--estimator spectral --samples 2 --set route=lanczos --set steps=10".to_owned(), 1),
        ("chains", format!("--estimator annealed --cutoff 0.3 {}", of_chains("")), 1),
        ("works", format!("--estimator annealed --cutoff 0.3 {} --set chains=4", of_chains("").replace(" --set chains=2", "")), 1),
        ("coefficient", "--estimator llc --set trajectories=8 --set budget=8 --set warmup=4".to_owned(), 1),
        ("all", format!("--estimator all --samples 3 --cutoff 0.3 {}", of_chains("annealed.")), 6),
    ] {
        let mut run = binary(folder.path());
        run.arg("estimate").arg(&network).args(["--data", "a.safetensors", "--json", "--out", name]).args(command.split(' '));
        let output = run.assert().success().get_output().stdout.clone();
        check(&printed, &serde_json::from_slice(&output).unwrap(), name);
        let written = files(&folder.path().join(name), "result.json");
        assert_eq!(written.len(), results, "{name}");
        for path in written {
            let value = read(&path);
            check(&result, &value, &path.display().to_string());
            if name == "works" {
                // Of four chains each one's own work is known.
                assert_eq!(value["annealed"]["works"]["inward"].as_array().map(Vec::len), Some(4), "{value:#}");
            }
        }
        for path in files(&folder.path().join(name), "comparison.json") {
            let value = read(&path);
            check(if value.is_array() { &printed } else { &comparison }, &value, &path.display().to_string());
        }
        let report = binary(folder.path()).args(["report", name, "--json"]).assert().success().get_output().stdout.clone();
        assert_eq!(serde_json::from_slice::<Value>(&report).unwrap(), serde_json::from_slice::<Value>(&output).unwrap(), "{name}");
    }
    let command = "--data a.safetensors --data b.safetensors --samples 3 --json --out several";
    let output =
        binary(folder.path()).arg("estimate").arg(&network).args(command.split(' ')).assert().success().get_output().stdout.clone();
    check(&printed, &serde_json::from_slice(&output).unwrap(), "several");
    let written = files(&folder.path().join("several"), "result.json");
    assert_eq!(written.len(), 3);
    written.iter().for_each(|path| check(&result, &read(path), &path.display().to_string()));
}

#[test]
fn the_schema_refuses_what_is_no_result() {
    let folder = tempfile::tempdir().unwrap();
    let (network, inputs) = (golden("small_network"), golden("small_network/inputs.safetensors"));
    let mut run = binary(folder.path());
    run.arg("estimate").arg(network).arg("--data").arg(inputs).args(["--samples", "3", "--out", "run"]).assert().success();
    let good = read(&folder.path().join("run/result.json"));
    let result = schema("result");
    assert!(result.is_valid(&good));
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut value = good.clone();
        change(&mut value);
        value
    };
    for (what, bad) in [
        ("another version", changed(&|value| value["format_version"] = json!(1))),
        ("no answer", changed(&|value| drop(value.as_object_mut().unwrap().remove("answer")))),
        ("no block", changed(&|value| drop(value.as_object_mut().unwrap().remove("radial")))),
        ("a word for a number", changed(&|value| value["answer"]["log_probability"] = json!("much"))),
        ("another trust", changed(&|value| value["answer"]["trust"] = json!("blind"))),
        ("a field too many", changed(&|value| value["radial"]["luck"] = json!(1))),
    ] {
        assert!(!result.is_valid(&bad), "{what}");
    }
}
