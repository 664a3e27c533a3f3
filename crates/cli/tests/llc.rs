//! Learning coefficients from the command line: a run, a kill, a round more, what is shown, and what is refused.

mod common;

use std::fs;
use std::path::Path;

use common::{binary, golden, json, killed_and_undisturbed};
use predicates::str::contains;
use serde_json::Value;

/// A run of the small network on the data that it is kept with: `digits` without training.
fn estimate(folder: &Path, extra: &[&str]) -> assert_cmd::assert::Assert {
    let inputs = golden("small_network/inputs.safetensors");
    let mut command = binary(folder);
    let estimator: &[&str] = if extra.contains(&"--estimator") { &[] } else { &["--estimator", "llc"] };
    command.arg("estimate").arg(golden("small_network")).arg("--data").arg(inputs).args(estimator).args(extra).assert()
}

fn result(folder: &Path, extra: &[&str]) -> Value {
    serde_json::from_slice(&estimate(folder, &[extra, &["--json"]].concat()).success().get_output().stdout).unwrap()
}

fn number(result: &Value) -> f64 {
    result["answer"]["learning_coefficient"].as_f64().unwrap()
}

#[test]
fn a_number_is_found_shown_and_made_better() {
    let folder = tempfile::tempdir().unwrap();
    let said = estimate(folder.path(), &["--out", "run"]).success().get_output().clone();
    let (words, lines) = (String::from_utf8(said.stdout).unwrap(), String::from_utf8(said.stderr).unwrap());
    for part in ["Learning coefficient of small_network", "n_beta", "localization", "posterior", "is no", "Run folder: run"] {
        assert!(words.contains(part), "{part}: {words}");
    }
    assert!(lines.contains("Forecast for the llc estimator") && lines.contains("learning coefficient"), "{lines}");
    let run = folder.path().join("run");
    let first = json(&run.join("result.json"));
    let (answer, own) = (&first["answer"], &first["llc"]);
    assert!(answer["log_probability"].is_null() && answer["measures"] == "posterior" && own["complete"] == true, "{first}");
    // n/ln n of the rows, and 1/sigma^2 of the weights' own scale, are chosen and written down as numbers.
    let manifest = json(&run.join("manifest.json"));
    let rows = manifest["problem"]["data"]["rows"].as_f64().unwrap();
    let asked = &manifest["estimator"];
    assert!((asked["n_beta"].as_f64().unwrap() - rows / rows.ln()).abs() < 1e-9, "{asked}");
    let sigma = manifest["prior"]["sigma"].as_f64().unwrap();
    assert!((asked["localization"].as_f64().unwrap() * sigma * sigma - 1.0).abs() < 1e-9, "{asked}");
    assert_eq!(asked["metric"], "diagonal");
    let report = binary(folder.path()).args(["report", "run", "--html", "page.html"]).assert().success().get_output().stdout.clone();
    assert_eq!(String::from_utf8(report).unwrap().lines().next(), words.lines().next());
    let page = fs::read_to_string(folder.path().join("page.html")).unwrap();
    assert!(page.contains("Learning coefficient of small_network") && page.contains("localization_slope"), "{page}");
    let full = binary(folder.path()).args(["report", "run", "-v"]).assert().success().get_output().stdout.clone();
    let full = String::from_utf8(full).unwrap();
    for part in ["R-hat", "independent values", "virial residual", "localization's share", "each chain by itself"] {
        assert!(full.contains(part), "{part}: {full}");
    }
    // A round more: as many trajectories again.
    let more = result(folder.path(), &["--out", "run", "--continue"]);
    let rounds = more["llc"]["rounds"].as_array().unwrap();
    assert_eq!(rounds[1].as_u64().unwrap(), 2 * rounds[0].as_u64().unwrap());
    let error = |result: &Value| result["llc"]["standard_error"].as_f64().unwrap();
    assert!((number(&more) - number(&first)).abs() < 4.0 * error(&first), "{more} {first}");
    assert!(more["answer"]["gradients"].as_u64() > answer["gradients"].as_u64());
    assert!(fs::read_dir(run.join("states")).unwrap().count() >= 1);
}

#[test]
fn a_spring_twice_as_strong_and_another_seed_agree_with_what_the_run_itself_says() {
    let folder = tempfile::tempdir().unwrap();
    let run = |out: &str, extra: &[&str]| result(folder.path(), &[&["--out", out, "--set", "n_beta=50"], extra].concat());
    let error = |result: &Value| result["llc"]["standard_error"].as_f64().unwrap();
    let (one, other) = (run("one", &["--set", "llc.localization=10"]), run("other", &["--set", "localization=10", "--seed", "7"]));
    assert!((number(&one) - number(&other)).abs() < 4.0 * error(&one).hypot(error(&other)), "{one} {other}");
    let plain = run("plain", &["--set", "localization=10", "--set", "metric=none"]);
    assert!((number(&one) - number(&plain)).abs() < 4.0 * error(&one).hypot(error(&plain)), "{one} {plain}");
    // The same settings, the same bits.
    let again = run("again", &["--set", "localization=10", "--threads", "1"]);
    assert_eq!(again["llc"], one["llc"]);
}

#[test]
fn a_killed_run_goes_on_and_gives_the_same_records() {
    let folder = tempfile::tempdir().unwrap();
    // Long enough to be killed in the middle.
    let settings = ["--estimator", "llc", "--set", "tolerance=0.004", "--set", "budget=60", "--set", "block=2"];
    killed_and_undisturbed(folder.path(), &settings, (9, 6));
    let value = |out: &str| number(&json(&folder.path().join(out).join("result.json")));
    assert_eq!(value("run").to_bits(), value("undisturbed").to_bits());
}

#[test]
fn bad_settings_get_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    for (extra, part) in [
        (vec!["--set", "n_beta=0"], "--set n_beta is 0: expected a finite number > 0"),
        (vec!["--set", "llc.localization=-1"], "--set localization is -1"),
        (vec!["--set", "localization=0"], "--set localization is 0, and nothing holds the chains"),
        (vec!["--set", "chains=0"], "--set chains is 0: expected a number from 1 to 255"),
        (vec!["--set", "trajectories=2"], "--set trajectories is 2"),
        (vec!["--set", "tolerance=2"], "--set tolerance is 2"),
        (vec!["--set", "beta=3"], "there is no setting 'beta'"),
        (vec!["--set", "metric=euclid"], "--set metric=euclid"),
        (vec!["--cutoff", "0.1"], "--cutoff is of volumes"),
        (vec!["--prior", "sphere"], "choose --prior gaussian or --prior lebesgue"),
        (vec!["--prior", "lebesgue"], "--set localization is not set"),
        (vec!["--prior", "lebesgue", "--set", "localization=1", "--set", "with_prior=true"], "needs --prior gaussian"),
        (vec!["--sigma", "0.3", "--set", "localization=1"], "--sigma has no part in this density"),
        (vec!["--shard", "0/2"], "--shard does not go with --estimator llc"),
        (vec!["--preconditioner", "fisher"], "--preconditioner belongs to --estimator radial"),
        (vec!["--set-kind", "star"], "--set-kind belongs to --estimator annealed"),
        (vec!["--samples", "99"], "--samples is 99: expected 1 to 16 rounds"),
        (vec!["--continue", "--samples", "2"], "--continue adds one round"),
    ] {
        estimate(folder.path(), &[&extra[..], &["--out", "bad"]].concat()).code(2).stderr(contains(part));
        assert!(!folder.path().join("bad").exists(), "{extra:?}");
    }
    estimate(folder.path(), &["--continue", "--out", "missing"]).code(1).stderr(contains("--continue: missing is not a run folder"));
    // It is no volume: in no table of volumes, and in no scan.
    let mut scan = binary(folder.path());
    scan.args(["scan", "cutoff"]).arg(golden("small_network")).args(["--grid", "0.1,0.2", "--estimator", "llc", "--out", "scan"]);
    scan.assert().code(2).stderr(contains("a scan compares volumes"));
    estimate(folder.path(), &["--estimator", "all", "--set", "llc.chains=2"]).code(2);
}
