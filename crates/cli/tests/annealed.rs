//! Annealed chains from the command line: a run, a kill, an extension, and what is refused.

mod common;

use std::fs;
use std::path::Path;

use common::{binary, json, killed_and_undisturbed, log_probability, network, samples};
use predicates::str::contains;

/// Few and short trajectories at a loose cutoff: seconds.
const QUICK: [&str; 12] = [
    "--estimator",
    "annealed",
    "--cutoff",
    "0.3",
    "--set",
    "trajectories=4",
    "--set",
    "patience=1",
    "--set",
    "spacing=1",
    "--set",
    "effort=0",
];

#[test]
fn a_ladder_is_climbed_both_ways_extended_and_reported() {
    let folder = tempfile::tempdir().unwrap();
    let estimate = |extra: &[&str]| binary(folder.path()).arg("estimate").arg(network()).args(QUICK).args(extra).assert();
    let text = estimate(&["--out", "run"]).success().get_output().clone();
    let (words, rungs) = (String::from_utf8(text.stdout).unwrap(), String::from_utf8(text.stderr).unwrap());
    for part in ["Local volume of small", "annealed", "behaviour", "Run folder: run"] {
        assert!(words.contains(part), "{part}: {words}");
    }
    let full = binary(folder.path()).args(["report", "run", "--verbose"]).assert().success().get_output().stdout.clone();
    let full = String::from_utf8(full).unwrap();
    for part in ["outward", "inward", "overlap", "standard error"] {
        assert!(full.contains(part), "{part}: {full}");
    }
    assert!(rungs.contains("beta E[C]") && rungs.lines().count() > 8, "{rungs}");
    let run = folder.path().join("run");
    let result = json(&run.join("result.json"));
    assert!(result["annealed"]["complete"] == true && log_probability(&result) < -10.0, "{result}");
    assert!(run.join("ladder.png").exists() && run.join("ladder.svg").exists());
    // The states at the wanted density stay: networks that behave alike.
    assert!(fs::read_dir(run.join("states")).unwrap().count() >= 2);
    let report = binary(folder.path()).args(["report", "run"]).assert().success().get_output().stdout.clone();
    assert_eq!(String::from_utf8(report).unwrap(), words);
    // One more sweep.
    let before = samples(&run).len();
    let more = estimate(&["--out", "run", "--continue", "--json"]).success().get_output().stdout.clone();
    let more: serde_json::Value = serde_json::from_slice(&more).unwrap();
    let sweeps = |way: &str| more["annealed"][way].as_array().unwrap().len();
    assert_eq!((sweeps("outward"), sweeps("inward")), (2, 2));
    // The first way outward is the same but for the tail, which both settled stays have a part in.
    let number = |value: &serde_json::Value| value.as_f64().unwrap();
    let without_tail = |result: &serde_json::Value| number(&result["annealed"]["outward"][0]) - number(&result["annealed"]["tail"]);
    assert!((without_tail(&more) - without_tail(&result)).abs() < 1e-9);
    assert!(samples(&run).len() > before);
}

#[test]
fn a_killed_run_goes_on_and_gives_the_same_records() {
    kill_and_go_on(&[]);
}

#[test]
fn a_killed_run_makes_the_same_metric_again() {
    // Long stays: the kills fall into the middle of them.
    kill_and_go_on(&["--set", "metric=kronecker", "--set", "block=1"]);
}

#[test]
fn a_killed_run_whose_spring_is_at_the_center_goes_on() {
    kill_and_go_on(&["--set", "anchor=center"]);
}

#[test]
fn a_killed_star_goes_on_in_its_coordinates() {
    let folder = kill_and_go_on(&["--set-kind", "star"]);
    let manifest = json(&folder.path().join("run/manifest.json"));
    assert!(manifest.to_string().contains(r#""coordinates":"rotated""#), "{manifest}");
}

#[test]
fn a_killed_run_around_two_anchors_goes_on_and_says_how_they_differ() {
    let folder = kill_and_go_on(&["--set", "anchors=2"]);
    let result = json(&folder.path().join("run/result.json"));
    let ways = |way: &str| result["annealed"][way].as_array().unwrap().len();
    assert!((ways("outward"), ways("inward")) == (2, 2) && result["annealed"]["anchors_differ"].as_f64().unwrap() > 0.0, "{result}");
    assert!(folder.path().join("run/states/anchor-2.safetensors").exists());
}

fn kill_and_go_on(settings: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    killed_and_undisturbed(folder.path(), &[&QUICK[..], settings].concat(), (6, 4));
    let states = |run: &str| {
        let mut names: Vec<_> =
            fs::read_dir(folder.path().join(run).join("states")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(states("run").last(), states("undisturbed").last());
    // Those of the anchors, the last ones of each settled stay, those at the beginning of the last stay, and the last.
    let sweeps = if settings.contains(&"anchors=2") { 2 } else { 1 };
    assert!(states("undisturbed").len() <= 2 * sweeps + 2, "{:?}", states("undisturbed"));
    folder
}

/// The result of a quick run, and the ends of its interval.
fn quick_run(folder: &Path, out: &str, extra: &[&str]) -> (serde_json::Value, (f64, f64)) {
    let mut command = binary(folder);
    command.arg("estimate").arg(network()).args(QUICK).args(extra).args(["--json", "--out", out]);
    let result: serde_json::Value = serde_json::from_slice(&command.assert().success().get_output().stdout).unwrap();
    let end = |k: usize| result["answer"]["interval"][k].as_f64().unwrap();
    let ends = (end(0), end(1));
    (result, ends)
}

#[test]
fn the_star_is_the_basin_that_the_center_sees() {
    let folder = tempfile::tempdir().unwrap();
    let value = |kind: &str| {
        let (result, ends) = quick_run(folder.path(), kind, &["--set-kind", kind]);
        assert_eq!(result["answer"]["measures"], kind);
        let count = |name: &str| result["answer"][name].as_u64().unwrap();
        (ends, count("evaluations") as f64 / count("gradients") as f64)
    };
    let ((star, looks), (basin, own)) = (value("star"), value("basin"));
    // A gradient of the star has costs of those points beside it that can be the largest, and at the end of a trajectory of all eight; that it is
    // pulled back to coordinates counts for another gradient.
    assert!(looks > 1.0 && looks < 4.0 && own < 0.5, "{looks} and {own} costs a gradient");
    assert!(star.0 < basin.1, "{star:?} {basin:?}");
    // The same in the weights.
    let (_, in_weights) = quick_run(folder.path(), "weights", &["--set-kind", "star", "--set", "coordinates=weights"]);
    assert!(in_weights.0 < star.1 && star.0 < in_weights.1, "{in_weights:?}, {star:?} in coordinates");
}

#[test]
fn the_spring_is_at_a_settled_state_or_at_the_center() {
    let folder = tempfile::tempdir().unwrap();
    let (center, plain) = quick_run(folder.path(), "center", &["--set", "trajectories=12", "--set", "anchor=center"]);
    assert!(center["annealed"].is_object() && center["annealed"].get("anchor").is_none(), "{center}");
    let (result, found) = quick_run(folder.path(), "settled", &["--set", "trajectories=12"]);
    assert!(found.0 < plain.1 && plain.0 < found.1, "{found:?}, and {plain:?} around the center");
    let anchor = &result["annealed"]["anchor"];
    assert!(anchor["cost"].as_f64().unwrap() < 0.3 && anchor["is_done"] == true, "{anchor}");
    assert!(folder.path().join("settled/states/anchor.safetensors").exists());
    let words = binary(folder.path()).args(["report", "settled", "-v"]).assert().success().get_output().stdout.clone();
    assert!(String::from_utf8(words).unwrap().contains("The spring was attached to a state of cost"));
}

#[test]
fn metrics_agree_with_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let run = |metric: &str| quick_run(folder.path(), metric, &["--set", &format!("metric={metric}"), "--set", "trajectories=12"]).1;
    let plain = run("none");
    for metric in ["diagonal", "low-rank", "kronecker"] {
        let found = run(metric);
        assert!(found.0 < plain.1 && plain.0 < found.1, "{metric}: {found:?}, and {plain:?} without");
    }
}

#[test]
fn coordinates_agree_and_states_are_weights() {
    let folder = tempfile::tempdir().unwrap();
    let run = |choice: &str| {
        let flags = ["--set", &format!("coordinates={choice}"), "--set", "trajectories=12"];
        quick_run(folder.path(), choice, &flags)
    };
    let ((plain, there), (rotated, here)) = (run("weights"), run("rotated"));
    assert!(here.0 < there.1 && there.0 < here.1, "{here:?}, and {there:?} in weights");
    let gradients = |result: &serde_json::Value| result["answer"]["gradients"].as_u64().unwrap();
    assert!(gradients(&rotated) < gradients(&plain), "{} and {} gradients", gradients(&rotated), gradients(&plain));
    // What is not said is chosen, and written down.
    let choice = |out: &str| json(&folder.path().join(out).join("manifest.json"))["estimator"]["coordinates"].clone();
    quick_run(folder.path(), "auto", &["--set", "trajectories=12"]);
    assert_eq!((choice("auto"), choice("weights")), ("rotated".into(), "weights".into()));
    assert_eq!(samples(&folder.path().join("auto")), samples(&folder.path().join("rotated")));
    // The kept states are networks: the first chain of the last of them, as a network, costs what its record says.
    let records = samples(&folder.path().join("rotated"));
    let settled = records.iter().rfind(|record| record["phase"] == "settle" && record["chain"] == 0).unwrap();
    let cost = settled["observations"].as_array().unwrap().last().unwrap()["cost"].as_f64().unwrap();
    let states = folder.path().join("rotated/states");
    let kept = fs::read_dir(&states).unwrap().map(|entry| entry.unwrap().path());
    let found: Vec<f64> = kept.filter(|path| !path.ends_with("anchor.safetensors")).filter_map(|path| cost_of_state(&path)).collect();
    assert!(found.iter().any(|found| (found - cost).abs() < 1e-4 * cost), "{cost} is none of {found:?}");
}

/// The cost on the digits of the weights of a file's first chain, around the network of these tests.
fn cost_of_state(path: &Path) -> Option<f64> {
    let states = basin_volume::estimator::annealed::states::read_states(path).unwrap()?;
    let checkpoint = basin_volume_models::checkpoint::Checkpoint::load(network()).unwrap();
    let data = basin_volume_data::digits::split(0, basin_volume_data::digits::TRAIN_ROWS).unwrap().train;
    let cost = basin_volume_models::cost::for_rows(checkpoint.architecture.network(), checkpoint.parameters.into(), &data).unwrap();
    Some(cost.cost_at(&states.weights[0]).unwrap().nats)
}

#[test]
fn bad_settings_get_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    for (extra, part) in [
        (vec!["--set", "chains=0"], "--set chains is 0: expected a number from 1 to 255"),
        (vec!["--set", "trajectories=2"], "--set trajectories is 2: expected a number from 4"),
        (vec!["--set", "spacing=0"], "--set spacing is 0: expected a number > 0"),
        (vec!["--set", "acceptance=1.5"], "--set acceptance is 1.5"),
        (
            vec!["--set", "anchor=settled", "--set-kind", "star"],
            "the star is seen from the center: choose --set anchor=center, or --set-kind basin",
        ),
        (vec!["--set", "anchor=home"], "--set anchor=home"),
        (vec!["--set", "anchors=0"], "--set anchors is 0: expected a number from 1 to 16"),
        (vec!["--set", "anchors=2", "--samples", "1"], "--samples is 1: --set anchors=2 takes a sweep around each"),
        (vec!["--set", "anchors=2", "--set", "anchor=center"], "2 anchors are states that chains settle in: choose --set anchors=1"),
        (vec!["--set", "integrator=verlet"], "expected 'leapfrog' or 'three-stage'"),
        (vec!["--set", "ladder=rope"], "--set ladder=rope"),
        (vec!["--set", "metric=euclid"], "--set metric=euclid"),
        (vec!["--set", "coordinates=polar"], "--set coordinates=polar"),
        (vec!["--set", "coordinates=rotated", "--set", "metric=diagonal"], "--set coordinates=rotated: a metric is one of weights"),
        (vec!["--set", "coordinates=rotated", "--l2-reg", "0.1"], "--l2-reg is a penalty of weights"),
        (vec!["--set-kind", "cube"], "invalid value 'cube'"),
        (vec!["--data", "digits:train:0"], "--data digits:train:0: expected a number of inputs from 1 to 1024 after digits:train:"),
        (vec!["--shard", "0/2"], "--shard does not go with --estimator annealed"),
        (vec!["--prior", "sphere"], "needs the Gaussian prior, whose mass is finite: choose --prior gaussian"),
        (vec!["--preconditioner", "adam2"], "--preconditioner belongs to --estimator radial"),
        (vec!["--samples", "0"], "--samples is 0"),
        (vec!["--set", "chains=200", "--set", "block=300"], "--set block is 300"),
    ] {
        let assert = binary(folder.path())
            .arg("estimate")
            .arg(network())
            .args(["--estimator", "annealed", "--out", "bad"])
            .args(&extra)
            .assert()
            .code(2);
        assert.stderr(contains(part));
        assert!(!folder.path().join("bad").exists(), "{extra:?}");
    }
    let set_kind = binary(folder.path()).arg("estimate").arg(network()).args(["--set-kind", "star"]).assert().code(2);
    set_kind.stderr(contains("--set-kind belongs to --estimator annealed: leave it out with --estimator radial"));
    let nothing = binary(folder.path())
        .arg("estimate")
        .arg(network())
        .args(["--estimator", "annealed", "--continue", "--out", "missing"])
        .assert()
        .code(1);
    nothing.stderr(contains("--continue: missing is not a run folder"));
}
