//! Runs that are killed, repeated, sharded, merged and mixed up.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use basin_volume::estimator::radial::{Directions, RadialEstimator, RadialResult, Sample};
use basin_volume::interrupt::Interrupt;
use basin_volume::objective::Cost;
use basin_volume::preconditioner::Identity;
use basin_volume::prior::Prior;
use basin_volume::question::Question;
use basin_volume::run::driver::{self, RunEnd, SamplePlan, Workers};
use basin_volume::run::folder::{self, FolderError, RunFolder, names};
use basin_volume::run::manifest::Manifest;
use basin_volume::run::result::ResultFile;
use basin_volume::run::shard::Shard;
use basin_volume::spec::{EstimatorSpec, PreconditionerSpec, RadialSpec, RunSpec};
use basin_volume::testkit::Closure;
use common::closure;

const D: usize = 40;

fn objective() -> Closure<impl Fn(&[f64]) -> Cost + Sync> {
    let center: Vec<f32> = (0..D).map(|i| (i as f32 * 0.3).sin()).collect();
    let c = center.clone();
    closure(center, move |w: &[f64]| {
        let z: f64 = w.iter().zip(&c).enumerate().map(|(i, (w, &c))| (1.0 + i as f64) * (w - f64::from(c)).powi(2)).sum();
        z + z * z
    })
}

fn question(cutoff: f64) -> Question {
    Question::new(Prior::Gaussian { sigma: 1.0 }, cutoff, 0.0, 9).unwrap()
}

fn spec(cutoff: f64) -> RunSpec {
    RunSpec {
        problem: serde_json::Map::new(),
        dimension: D,
        question: question(cutoff),
        preconditioner: PreconditionerSpec::None,
        estimator: EstimatorSpec::Radial(RadialSpec::default()),
    }
}

struct Session {
    samples: Vec<Sample>,
    end: RunEnd,
    manifest: Manifest,
}

/// One invocation of the program; `stop_after` raises the interrupt flag.
fn session(path: &Path, samples: u64, shard: &str, threads: usize, stop_after: usize) -> Result<Session, FolderError> {
    let objective = objective();
    let (question, map) = (question(1e-2), Arc::new(Identity));
    let estimator = RadialEstimator::new(&objective, question, map, RadialSpec::default(), None, Directions::Kept).unwrap();
    let shard: Shard = shard.parse().unwrap();
    let manifest = Manifest::new(spec(1e-2), estimator.center_norm_squared(), Some(estimator.pilot()), samples, shard);
    let (mut folder, present) = RunFolder::open::<Sample>(path, &manifest)?;
    let indices: BTreeSet<u64> = present.iter().map(|s| s.index).collect();
    let workers = Workers { rays: NonZeroUsize::new(threads).unwrap(), threads_per_ray: NonZeroUsize::MIN };
    let interrupt = Interrupt::new();
    let mut count = 0;
    let plan = SamplePlan { samples, shard, present: &indices, workers, interrupt: &interrupt };
    let end = driver::run(&estimator, &mut folder, plan, |_| {
        count += 1;
        if count >= stop_after {
            interrupt.raise();
        }
    })
    .unwrap();
    let samples = folder::read_samples(path)?;
    let (answer, own) = RadialResult::of(&manifest, &samples, 1.0);
    folder.write_result(&ResultFile::new(&answer, "radial", &own))?;
    Ok(Session { samples, end, manifest })
}

fn complete(samples: u64) -> Vec<Sample> {
    let folder = tempfile::tempdir().unwrap();
    session(&folder.path().join("run"), samples, "0/1", 1, usize::MAX).unwrap().samples
}

#[test]
fn threads_interrupts_and_resumes_do_not_change_a_bit() {
    let reference = complete(30);
    assert_eq!(reference.len(), 30);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/er/run");
    let first = session(&path, 30, "0/1", 3, 7).unwrap();
    assert_eq!(first.end, RunEnd::Interrupted);
    assert!((7..=10).contains(&first.samples.len()), "the samples in flight are finished, no more: {}", first.samples.len());
    let second = session(&path, 30, "0/1", 2, usize::MAX).unwrap();
    assert_eq!(second.end, RunEnd::Completed);
    assert_eq!(second.samples, reference);
    // A third time nothing is left to do, and a larger number of samples extends the run.
    let before = fs::read(path.join(names::SAMPLES)).unwrap();
    session(&path, 30, "0/1", 2, usize::MAX).unwrap();
    assert_eq!(fs::read(path.join(names::SAMPLES)).unwrap(), before);
    assert_eq!(session(&path, 35, "0/1", 2, usize::MAX).unwrap().samples, complete(35));
}

#[test]
fn a_kill_at_any_byte_is_repaired() {
    let reference = complete(6);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    session(&path, 6, "0/1", 1, usize::MAX).unwrap();
    let whole = fs::read(path.join(names::SAMPLES)).unwrap();
    for cut in (0..whole.len()).step_by(97).chain([whole.len() - 1]) {
        fs::write(path.join(names::SAMPLES), &whole[..cut]).unwrap();
        let _ = fs::remove_file(path.join(names::RESULT));
        assert_eq!(session(&path, 6, "0/1", 1, usize::MAX).unwrap().samples, reference, "cut at byte {cut}");
        assert_eq!(fs::read(path.join(names::SAMPLES)).unwrap().len(), whole.len());
    }
}

#[test]
fn a_kill_while_the_folder_is_made_is_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    for (number, left) in [&["samples.jsonl"][..], &["manifest.partial"], &["samples.jsonl", "manifest.partial"]].iter().enumerate() {
        let path = folder.path().join(number.to_string());
        fs::create_dir(&path).unwrap();
        for name in *left {
            fs::write(path.join(name), "").unwrap();
        }
        assert_eq!(session(&path, 4, "0/1", 1, usize::MAX).unwrap().samples, complete(4));
    }
}

#[test]
fn a_line_that_is_complete_but_wrong_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    session(&path, 3, "0/1", 1, usize::MAX).unwrap();
    let text = fs::read_to_string(path.join(names::SAMPLES)).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines[1] = "{\"index\": \"one\"}";
    fs::write(path.join(names::SAMPLES), lines.join("\n") + "\n").unwrap();
    let error = session(&path, 3, "0/1", 1, usize::MAX).err().unwrap().to_string();
    assert!(error.contains("line 2") && error.contains(names::SAMPLES), "{error}");
}

#[test]
fn shards_merge_into_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let shards: Vec<_> = (0..3).map(|i| folder.path().join(format!("shard{i}"))).collect();
    for (i, path) in shards.iter().enumerate() {
        session(path, 20, &format!("{i}/3"), 1, usize::MAX).unwrap();
    }
    let out = folder.path().join("merged");
    let (manifest, samples) = folder::merge::<Sample>(&shards, &out).unwrap();
    assert!(manifest.shard.is_all());
    assert_eq!(samples, complete(20));
    // Merging again changes nothing; the merged folder continues as an ordinary run.
    folder::merge::<Sample>(&shards, &out).unwrap();
    assert_eq!(session(&out, 25, "0/1", 1, usize::MAX).unwrap().samples, complete(25));
    // A shard that disagrees about a sample is refused.
    let text = fs::read_to_string(shards[1].join(names::SAMPLES)).unwrap();
    let copy = folder.path().join("copy");
    fs::create_dir(&copy).unwrap();
    fs::copy(shards[1].join(names::MANIFEST), copy.join(names::MANIFEST)).unwrap();
    fs::write(copy.join(names::SAMPLES), text.replace("\"log_volume\":-", "\"log_volume\":-1")).unwrap();
    let mixed = [shards[1].clone(), copy];
    let error = folder::merge::<Sample>(&mixed, &folder.path().join("bad")).err().unwrap();
    assert!(matches!(error, FolderError::Conflict { .. }), "{error}");
    assert!(!folder.path().join("bad").exists());
}

#[test]
fn another_spec_in_the_same_folder_is_refused_with_the_difference() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let manifest = session(&path, 3, "0/1", 1, usize::MAX).unwrap().manifest;
    let other = Manifest { spec: spec(2e-2), ..manifest.clone() };
    let error = RunFolder::open::<Sample>(&path, &other).err().unwrap().to_string();
    assert!(error.contains("cutoff: 0.01 in the folder, 0.02 asked for"), "{error}");
    let sharded = Manifest { shard: "1/2".parse().unwrap(), ..manifest };
    let error = RunFolder::open::<Sample>(&path, &sharded).err().unwrap().to_string();
    assert!(error.contains("shard"), "{error}");
}

#[test]
fn samples_of_other_directions_can_be_read_and_joined_and_get_no_company() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let shards = ["0/2", "1/2"].map(|shard| {
        let run = path(&shard.replace('/', "of"));
        session(&run, 6, shard, 1, usize::MAX).unwrap();
        // As the program of version 1 wrote it.
        let file = run.join(names::MANIFEST);
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains("  \"directions\": 2,\n"), "{text}");
        fs::write(&file, text.replace("  \"directions\": 2,\n", "")).unwrap();
        run
    });
    assert_eq!(folder::read_manifest(&shards[0]).unwrap().directions, 1);
    assert_eq!(folder::read_samples::<Sample>(&shards[0]).unwrap().len(), 3);
    let error = session(&shards[0], 9, "0/2", 1, usize::MAX).err().unwrap().to_string();
    assert!(error.contains("directions of version 1, and this program makes those of version 2: report it as it is"), "{error}");
    let (manifest, samples) = folder::merge::<Sample>(&shards, &path("joined")).unwrap();
    assert_eq!((manifest.directions, samples.len()), (1, 6));
    session(&path("new"), 6, "0/2", 1, usize::MAX).unwrap();
    let error = folder::merge::<Sample>(&[path("new"), shards[1].clone()], &path("mixed")).err().unwrap().to_string();
    assert!(error.contains("directions: 2, 1"), "{error}");
}

#[test]
fn strange_folders_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = session(&folder.path().join("run"), 2, "0/1", 1, usize::MAX).unwrap().manifest;
    let occupied = folder.path().join("occupied");
    fs::create_dir(&occupied).unwrap();
    fs::write(occupied.join("thesis.txt"), "precious").unwrap();
    let error = RunFolder::open::<Sample>(&occupied, &manifest).err().unwrap();
    assert!(matches!(error, FolderError::Occupied { .. }), "{error}");
    assert_eq!(fs::read_dir(&occupied).unwrap().count(), 1);
    // A file where the folder should be: nothing is created.
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(RunFolder::open::<Sample>(&file.join("run"), &manifest).is_err());
    // A future format.
    let path = folder.path().join("run").join(names::MANIFEST);
    let text = fs::read_to_string(&path).unwrap().replace("\"format_version\": 2", "\"format_version\": 99");
    fs::write(&path, text).unwrap();
    let error = folder::read_manifest(&folder.path().join("run")).err().unwrap().to_string();
    assert!(error.contains("99"), "{error}");
}

#[test]
fn a_result_has_the_common_shape_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let Session { samples, manifest, .. } = session(&path, 30, "0/1", 1, usize::MAX).unwrap();
    let (answer, own) = RadialResult::of(&manifest, &samples, 1.0);
    assert_eq!(folder::read_result::<RadialResult>(&path, "radial"), Some((answer.clone(), own)));
    assert_eq!(folder::read_answer(&path), Some(answer.clone()));
    assert!(folder::read_result::<RadialResult>(&path, "spectral").is_none());
    let text = fs::read_to_string(path.join(names::RESULT)).unwrap();
    assert!(
        text.starts_with(
            "{\n  \"format\": \"basin-volume result\",\n  \"format_version\": 2,\n  \"answer\": {\n    \"estimator\": \"radial, none\""
        ),
        "{text}"
    );
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let (common, own) = (value["answer"].as_object().unwrap(), value["radial"].as_object().unwrap());
    assert_eq!(value.as_object().unwrap().len(), 4);
    assert!(common.keys().all(|key| !own.contains_key(key)), "{text}");
    assert_eq!(common["log_probability"].as_f64(), Some(answer.log_probability));
    assert!((answer.bits_per_parameter.unwrap() + answer.log_probability / (D as f64 * std::f64::consts::LN_2)).abs() < 1e-12);
    // Another version is no result: it can be computed again.
    fs::write(path.join(names::RESULT), text.replace("\"format_version\": 2", "\"format_version\": 1")).unwrap();
    assert!(folder::read_result::<RadialResult>(&path, "radial").is_none() && folder::read_answer(&path).is_none());
    // Without samples there is no number, and what is written can be read nevertheless.
    let (nothing, own) = RadialResult::of(&manifest, &[], 0.0);
    folder::write_result(&path, &ResultFile::new(&nothing, "radial", &own)).unwrap();
    let (back, own) = folder::read_result::<RadialResult>(&path, "radial").unwrap();
    assert!(back.log_probability.is_nan() && back.bits_per_parameter.is_none() && own.samples == 0, "{back:?}");
}

#[test]
fn a_manifest_with_a_question_out_of_range_is_refused_in_the_same_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    session(&path, 2, "0/1", 1, usize::MAX).unwrap();
    let manifest = path.join(names::MANIFEST);
    let text = fs::read_to_string(&manifest).unwrap();
    for (good, bad, words) in [
        ("\"cutoff\": 0.01", "\"cutoff\": -0.01", "`cutoff` is -0.01: expected a finite number of nats > 0"),
        ("\"max_evaluations\": 80", "\"max_evaluations\": \"80\"", "invalid type: string"),
    ] {
        fs::write(&manifest, text.replace(good, bad)).unwrap();
        let error = folder::read_manifest(&path).err().unwrap().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn two_processes_cannot_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let manifest = session(&path, 2, "0/1", 1, usize::MAX).unwrap().manifest;
    let (first, _) = RunFolder::open::<Sample>(&path, &manifest).unwrap();
    let error = RunFolder::open::<Sample>(&path, &manifest).err().unwrap();
    assert!(matches!(error, FolderError::InUse { .. }), "{error}");
    drop(first);
    assert!(RunFolder::open::<Sample>(&path, &manifest).is_ok());
}

#[test]
fn the_log_volume_can_be_recomputed_from_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    session(&path, 5, "0/1", 1, usize::MAX).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&fs::read_to_string(path.join(names::MANIFEST)).unwrap()).unwrap();
    let number = |value: &serde_json::Value, key: &str| value[key].as_f64().unwrap_or_else(|| panic!("{key} in {value}"));
    let (d, sigma) = (number(&manifest, "dimension"), number(&manifest, "sigma"));
    for line in fs::read_to_string(path.join(names::SAMPLES)).unwrap().lines() {
        let sample: serde_json::Value = serde_json::from_str(line).unwrap();
        let (norm, dot, radius) = (number(&sample, "norm"), number(&sample, "center_dot"), number(&sample, "radius"));
        // A plain midpoint rule for ln A(D) - D/2 ln(2 pi s^2) - |c|^2/2s^2 + ln INT t^(D-1) exp(-a t^2/2 + b t) dt
        let (a, b) = ((norm / sigma).powi(2), -dot / (sigma * sigma));
        let n = 200_000;
        let g = |t: f64| (d - 1.0) * t.ln() - 0.5 * a * t * t + b * t;
        let top = g(radius);
        let sum: f64 = (0..n).map(|i| (g(radius * (f64::from(i) + 0.5) / f64::from(n)) - top).exp()).sum::<f64>() * radius / f64::from(n);
        let area = 2f64.ln() + 0.5 * d * std::f64::consts::PI.ln() - statrs::function::gamma::ln_gamma(0.5 * d);
        let center = number(&manifest, "center_norm_squared");
        let f = area - 0.5 * d * (std::f64::consts::TAU * sigma * sigma).ln() - center / (2.0 * sigma * sigma) + top + sum.ln();
        assert!((f - number(&sample, "log_volume")).abs() < 1e-5, "{f} {line}");
    }
}
