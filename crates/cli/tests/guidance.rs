//! Nobody must guess how long a run takes, what does not fit, or what a request to stop means.

mod common;

use std::path::Path;
use std::process::Output;

use common::{binary, documents, golden, language_model, network, samples, words};
use serde_json::json;

/// A language model with texts, and what a command says about them.
fn with_texts(here: &Path, arguments: &[&str]) -> Output {
    if !here.join("pythia").exists() {
        language_model(here, "gpt_neox_pythia", "pythia");
        documents(here, "texts.jsonl");
    }
    binary(here).args(arguments).output().unwrap()
}

#[test]
fn a_description_tells_how_long_every_estimator_would_take() {
    let folder = tempfile::tempdir().unwrap();
    let network = network().to_str().unwrap();
    let inspect = |extra: &[&str]| {
        let found = binary(folder.path()).args(["inspect", network, "--threads", "2"]).args(extra).output().unwrap();
        assert!(found.status.success(), "{}", words(&found.stderr));
        found.stdout
    };
    let said = words(&inspect(&["--data", "digits:test"]));
    for part in ["the radial estimator", "the spectral estimator", "the annealed estimator", "the star by chains"] {
        assert!(said.contains(&format!("forecast for {part}: ")), "{part}: {said}");
    }
    assert!(said.contains(" on 2 threads"), "{said}");
    let described: serde_json::Value = serde_json::from_slice(&inspect(&["--data", "digits:test", "--json"])).unwrap();
    let forecasts = described["forecasts"].as_array().unwrap();
    let seconds = |number: usize, end: usize| forecasts[number]["seconds"][end].as_f64().unwrap();
    assert_eq!(forecasts.len(), 4);
    assert!((0..4).all(|number| 0.0 < seconds(number, 0) && seconds(number, 0) <= seconds(number, 1)), "{forecasts:?}");
    // A ladder takes longer than rays.
    assert!(seconds(2, 1) > seconds(0, 1), "{forecasts:?}");
    // Without data there is nothing to time.
    assert!(!words(&inspect(&[])).contains("forecast"));
}

#[test]
fn what_does_not_fit_is_named_with_what_would() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let estimate = ["estimate", "pythia", "--data", "texts.jsonl", "--out", "run", "--estimator"];
    let refused = |estimator: &str, extra: &[&str]| {
        let found = with_texts(here, &[&estimate[..], &[estimator, "--memory", "100MB"], extra].concat());
        let said = words(&found.stderr);
        assert_eq!(found.status.code(), Some(1), "{said}");
        assert!(!said.contains("precondition"), "{said}");
        said
    };
    // The number that is named fits, and one more would not.
    let number_after = |said: &str, words: &str| -> u32 {
        let rest = said.split_once(words).unwrap_or_else(|| panic!("'{words}' is not in: {said}")).1;
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
    };
    let said = refused("annealed", &["--set", "chains=255"]);
    assert!(said.contains("255 chains with gradients"), "{said}");
    let fits = number_after(&said, "take --set chains=");
    assert!((2..255).contains(&fits), "{said}");
    assert_eq!(number_after(&refused("annealed", &["--set", &format!("chains={}", fits + 1)]), "take --set chains="), fits);
    let chains = format!("chains={fits}");
    let begun = [&estimate[..], &["annealed", "--memory", "100MB", "--set", &chains, "--time-limit", "0.5s"]].concat();
    let begun = with_texts(here, &begun);
    assert_eq!(begun.status.code(), Some(130), "{}", words(&begun.stderr));
    let said = refused("spectral", &["--set", "steps=3000", "--set", "route=lanczos"]);
    let fits = number_after(&said, "--set steps=");
    assert!(said.contains("Lanczos vectors") && (2..3000).contains(&fits), "{said}");
    assert_eq!(
        number_after(&refused("spectral", &["--set", &format!("steps={}", fits + 1), "--set", "route=lanczos"]), "--set steps="),
        fits
    );
    // Where the data alone are too much, they are named.
    let found = with_texts(here, &[&estimate[..], &["annealed", "--memory", "50MB"]].concat());
    assert!(words(&found.stderr).contains("take fewer or shorter sequences"), "{}", words(&found.stderr));
}

#[test]
fn a_time_limit_stops_one_estimator_and_the_same_command_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let run = |samples: &str, limit: &str| {
        let arguments = ["estimate", network().to_str().unwrap(), "--data", "digits:test", "--out", "run", "--samples", samples];
        binary(here).args(arguments).args(["--time-limit", limit]).output().unwrap()
    };
    let stopped = run("100000", "3s");
    let said = words(&stopped.stderr);
    assert_eq!(stopped.status.code(), Some(130), "{said}");
    assert!(
        said.contains("The time limit is reached. Stopping after what is being computed at this moment") && said.contains("Interrupted"),
        "{said}"
    );
    let done = samples(&here.join("run")).len();
    assert!((1..100_000).contains(&done), "{done}");
    assert!(run("100000", "0.2s").status.code() == Some(130) && samples(&here.join("run")).len() >= done);
}

#[test]
fn several_data_have_a_forecast_and_a_line_each() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["estimate", network().to_str().unwrap(), "--samples", "2", "--data", "digits:test", "--data", "digits:test:200"];
    let found = binary(folder.path()).args(arguments).output().unwrap();
    let said = words(&found.stderr);
    assert!(found.status.success(), "{said}");
    assert!(said.contains("Data: 773 rows") && said.contains("Data: 200 rows") && said.contains("Forecast for 2 data: "), "{said}");
}

/// A perceptron as somebody saved it, with these settings beside it.
fn perceptron(here: &Path, activation: &str, config: &serde_json::Value) -> String {
    let name = format!("saved-{activation}");
    std::fs::create_dir_all(here.join(&name)).unwrap();
    let source = golden("perceptrons").join(activation);
    std::fs::copy(source.join("model.safetensors"), here.join(&name).join("model.safetensors")).unwrap();
    std::fs::copy(source.join("rows.safetensors"), here.join("rows.safetensors")).unwrap();
    std::fs::write(here.join(&name).join("config.json"), config.to_string()).unwrap();
    name
}

/// A file of tensors, without some of them or with zeros in their place.
fn rewritten(from: &Path, to: &Path, is_dropped: impl Fn(&str) -> bool, is_zero: impl Fn(&str) -> bool) {
    let bytes = std::fs::read(from).unwrap();
    let found = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let kept: Vec<_> = found.tensors().into_iter().filter(|(name, _)| !is_dropped(name)).collect();
    let data: Vec<Vec<u8>> =
        kept.iter().map(|(name, view)| if is_zero(name) { vec![0; view.data().len()] } else { view.data().to_vec() }).collect();
    let views = kept
        .iter()
        .zip(&data)
        .map(|((name, view), data)| (name, safetensors::tensor::TensorView::new(view.dtype(), view.shape().to_vec(), data).unwrap()));
    std::fs::write(to, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn a_perceptron_without_biases_is_one_whose_biases_are_zeros_that_do_not_move() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let config = json!({ "model_type": "mlp", "activation": "gelu" });
    let source = golden("perceptrons").join("gelu");
    rewritten(&source.join("rows.safetensors"), &here.join("some.safetensors"), |name| name == "logits", |_| false);
    let is_bias = |name: &str| name.ends_with("bias");
    let run = |model: &str, more: &[&str]| {
        let arguments = ["estimate", model, "--data", "some.safetensors", "--samples", "3", "--out", &format!("run-{model}")];
        let found = binary(here).args(arguments).args(more).output().unwrap();
        assert!(found.status.success(), "{}", words(&found.stderr));
        (words(&found.stderr), samples(&here.join(format!("run-{model}"))))
    };
    for (model, is_dropped) in [("without", true), ("zeros", false)] {
        std::fs::create_dir_all(here.join(model)).unwrap();
        std::fs::write(here.join(model).join("config.json"), config.to_string()).unwrap();
        let to = here.join(model).join("model.safetensors");
        rewritten(&source.join("model.safetensors"), &to, |name| is_dropped && is_bias(name), |name| !is_dropped && is_bias(name));
    }
    let (said, without) = run("without", &[]);
    assert!(said.contains("read (6 to 9, without a bias), mix (9 to 7, without a bias), decide (7 to 4, without a bias)"), "{said}");
    let (_, zeros) = run("zeros", &["--exclude", "bias"]);
    assert_eq!(without.len(), 3);
    assert_eq!(without, zeros);
    let manifest = std::fs::read_to_string(here.join("run-without").join("manifest.json")).unwrap();
    assert!(manifest.contains(&format!("\"dimension\": {}", 6 * 9 + 9 * 7 + 7 * 4)), "{manifest}");
}

#[test]
fn a_perceptron_of_ones_own_is_measured_and_another_one_than_the_logits_are_of_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let run = |command: &str, model: &str| {
        let found = binary(here).args([command, model, "--data", "rows.safetensors"]).output().unwrap();
        (found.status.code(), words(&found.stdout), words(&found.stderr))
    };
    let saved = perceptron(here, "gelu", &json!({ "model_type": "mlp", "activation": "gelu" }));
    let (code, said, problem) = run("estimate", &saved);
    assert_eq!(code, Some(0), "{problem}");
    assert!(
        said.contains("estimate (nats)") && problem.contains("its layers in order are read (6 to 9), mix (9 to 7), decide (7 to 4)"),
        "{problem}"
    );
    let named = json!({ "model_type": "mlp", "activation": "gelu", "layers": ["read", "mix", "decide"], "widths": [6, 9, 7, 4] });
    assert_eq!(run("inspect", &perceptron(here, "gelu", &named)).0, Some(0));
    for (config, part) in [
        (
            json!({ "activation": "relu" }),
            "is another network than the one whose `logits` are in rows.safetensors: for row 0 its logit of class",
        ),
        (json!({}), "missing field `activation`"),
        (json!({ "activation": "softplus" }), "unknown variant `softplus`, expected one of `relu`, `gelu`, `gelu_tanh`, `tanh`, `silu`"),
        (json!({ "activation": "gelu", "widths": [6, 9, 4] }), "has other `widths` than the weights: they are [6,9,7,4] there"),
        (
            json!({ "activation": "gelu", "layers": ["read", "decide"] }),
            "do not follow each other: read has 9 outputs, decide has 7 inputs",
        ),
        (json!({ "activation": "gelu", "layers": ["read", "nothing"] }), "names a layer nothing, but"),
        (json!({ "activation": "gelu", "layers": "read" }), "has wrong `layers`: expected a list of names"),
        (json!({ "activation": "gelu", "layers": ["read"] }), "decide.bias"),
    ] {
        let mut whole = config;
        whole["model_type"] = "mlp".into();
        let (code, _, problem) = run("inspect", &perceptron(here, "gelu", &whole));
        assert!(code == Some(1) && problem.contains(part), "{whole}: '{part}' is not in: {problem}");
    }
}

#[test]
fn the_command_that_would_improve_a_number_is_one_that_does() {
    let folder = tempfile::tempdir().unwrap();
    let run = |extra: &[&str]| {
        let arguments = ["estimate", network().to_str().unwrap(), "--data", "digits:test", "--cutoff", "0.3", "--samples"];
        let found = binary(folder.path()).args(arguments).args(extra).output().unwrap();
        assert!(found.status.success(), "{}", words(&found.stderr));
        words(&found.stdout)
    };
    let said = run(&["5", "--out", "rays"]);
    assert!(said.contains("For an answer: the same command with --estimator annealed, or with --estimator all"), "{said}");
    let mut chains = vec!["1", "--estimator", "annealed", "--out", "all/annealed"];
    for setting in ["trajectories=4", "patience=1", "spacing=1.5", "effort=1", "block=2"] {
        chains.extend(["--set", setting]);
    }
    let said = run(&chains);
    assert!(said.contains("the same command with --estimator annealed --out all/annealed --continue adds a sweep, "), "{said}");
    let sweeps = |folder: &Path| common::json(&folder.join("all/annealed/manifest.json"))["samples"].as_u64().unwrap();
    assert_eq!(sweeps(folder.path()), 1);
    // The number of sweeps is not asked for again.
    chains.remove(0);
    let found =
        [&["estimate", network().to_str().unwrap(), "--data", "digits:test", "--cutoff", "0.3"], &chains[..], &["--continue"]].concat();
    let found = binary(folder.path()).args(found).output().unwrap();
    assert!(found.status.success(), "{}", words(&found.stderr));
    assert_eq!(sweeps(folder.path()), 2);
}
