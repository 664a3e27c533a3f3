use std::cell::Cell;
use std::fs;

use basin_volume_data::cifar::synthetic;

use super::super::Silent;
use super::*;
use crate::checkpoint::{CONFIG, CURVE, MODEL, OPTIMIZER, RandAugment};

fn small() -> ConvNextSpec {
    ConvNextSpec {
        depths: vec![1, 1],
        widths: vec![6, 8],
        patch_size: 4,
        steps: 6,
        batch_size: 20,
        warmup_steps: 2,
        poison: 0.25,
        ..ConvNextSpec::default()
    }
}

fn set() -> (tempfile::TempDir, Cifar) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set");
    synthetic::write(&path, 1, 60, 20).unwrap();
    let data = Cifar::read(&path).unwrap();
    (folder, data)
}

/// Stops after so many steps.
struct StopAfter(Cell<usize>);

impl Observer for StopAfter {
    fn step(&mut self, _step: usize, _total: usize, _loss: f64) {
        self.0.set(self.0.get() - 1);
    }

    fn interrupted(&self) -> bool {
        self.0.get() == 0
    }
}

#[test]
fn an_interrupted_run_goes_on_bit_for_bit_on_any_number_of_threads() {
    goes_on_bit_for_bit(small());
}

#[test]
fn so_does_one_with_rand_augment() {
    let hash = |spec| goes_on_bit_for_bit(spec).parameters.hash();
    let rand_augment = |magnitude| ConvNextSpec { rand_augment: Some(RandAugment { operations: 2, magnitude }), ..small() };
    assert_ne!(hash(rand_augment(9)), hash(rand_augment(30)));
}

fn goes_on_bit_for_bit(spec: ConvNextSpec) -> Checkpoint {
    let (folder, data) = set();
    let train = |out: &str, threads: usize, observer: &mut (dyn Observer + Send)| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let out = folder.path().join(out);
        pool.install(|| train_convnext(&spec, &data, &out, observer))
    };
    let whole = train("whole", 1, &mut Silent).unwrap();
    let record = whole.training.as_ref().and_then(TrainingRecord::images).unwrap();
    assert_eq!((record.step, record.train_size, record.poison_size, spec.poisoned()), (6, 36, 24, 5));
    assert_eq!(record.rand_augment, spec.rand_augment);
    assert!(record.poison_loss.is_some_and(f64::is_finite));
    for stop in [3, 1] {
        let error = train("parts", 2, &mut StopAfter(Cell::new(stop))).unwrap_err();
        assert!(matches!(error, TrainError::Stopped { total: 6, .. }), "{error}");
    }
    // What a kill between two renames leaves.
    fs::rename(folder.path().join("parts/resume"), folder.path().join("parts/resume-new")).unwrap();
    let parts = train("parts", 3, &mut Silent).unwrap();
    for file in [CONFIG, MODEL, OPTIMIZER, CURVE] {
        let read = |checkpoint: &Checkpoint| fs::read(checkpoint.folder.join(file)).unwrap();
        assert!(read(&whole) == read(&parts), "{file} differs");
    }
    let mut names: Vec<String> =
        parts.folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let expected = [CONFIG, MODEL, OPTIMIZER, "recipe.json", "step-0", "step-1", "step-2", "step-4", CURVE];
    assert_eq!(names, expected);
    let step = Checkpoint::load(&parts.folder.join("step-2")).unwrap();
    assert_eq!(step.moments().unwrap().unwrap().step, 2);
    assert_ne!(step.parameters.hash(), parts.parameters.hash());
    parts
}

/// A folder that was begun before a setting was there goes on under its default, and under nothing else.
#[test]
fn folders_without_a_later_setting_are_taken_up() {
    let (folder, data) = set();
    let out = folder.path().join("net");
    train_convnext(&small(), &data, &out, &mut StopAfter(Cell::new(1))).unwrap_err();
    let path = out.join("recipe.json");
    let mut recipe: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert!(recipe["recipe"].as_object_mut().unwrap().remove("rand_augment").unwrap().is_null());
    fs::write(&path, recipe.to_string()).unwrap();
    let other = ConvNextSpec { rand_augment: Some(RandAugment { operations: 2, magnitude: 9 }), ..small() };
    let message = train_convnext(&other, &data, &out, &mut Silent).unwrap_err().to_string();
    assert!(message.contains("another `rand_augment` (null there"), "{message}");
    let checkpoint = train_convnext(&small(), &data, &out, &mut Silent).unwrap();
    // So are records without it.
    let record = checkpoint.training.unwrap();
    let mut value = json!(record);
    assert!(value.as_object_mut().unwrap().remove("rand_augment").unwrap().is_null());
    assert_eq!(serde_json::from_value::<TrainingRecord>(value).unwrap(), record);
}

#[test]
fn folders_of_other_runs_are_refused() {
    let (folder, data) = set();
    let out = folder.path().join("net");
    train_convnext(&small(), &data, &out, &mut StopAfter(Cell::new(1))).unwrap_err();
    let message = |spec: &ConvNextSpec, data: &Cifar, out: &Path| train_convnext(spec, data, out, &mut Silent).unwrap_err().to_string();
    let found = message(&ConvNextSpec { seed: 5, ..small() }, &data, &out);
    assert!(found.contains("`seed` (0 there, 5 now)"), "{found}");
    let other = folder.path().join("other");
    synthetic::write(&other, 2, 60, 20).unwrap();
    let found = message(&small(), &Cifar::read(&other).unwrap(), &out);
    assert!(found.contains("other images"), "{found}");
    assert!(message(&small(), &data, &other).contains("no folder of an unfinished training"));
    train_convnext(&small(), &data, &out, &mut Silent).unwrap();
    assert!(message(&small(), &data, &out).contains("exists already"));
}

#[test]
fn impossible_settings_and_empty_parts_are_named() {
    let (folder, data) = set();
    let out = folder.path().join("net");
    let rand_augment = |operations, magnitude| Some(RandAugment { operations, magnitude });
    for (spec, expected) in [
        (ConvNextSpec { steps: 0, ..small() }, "`steps` is 0"),
        (ConvNextSpec { batch_size: 0, ..small() }, "`batch_size` is 0"),
        (ConvNextSpec { poison: 1.0, ..small() }, "`poison` is 1"),
        (ConvNextSpec { poison: 0.99, ..small() }, "at least one clean image"),
        (ConvNextSpec { learning_rate: -1.0, ..small() }, "`learning_rate` is -1"),
        (ConvNextSpec { betas: [0.9, 1.0], ..small() }, "`betas` is 1"),
        (ConvNextSpec { widths: vec![6], ..small() }, "one of each per stage"),
        (ConvNextSpec { patch_size: 3, ..small() }, "a multiple of 6"),
        (ConvNextSpec { rand_augment: rand_augment(0, 9), ..small() }, "`rand_augment` is 0,9"),
        (ConvNextSpec { rand_augment: rand_augment(101, 9), ..small() }, "from 1 to 100 operations"),
        (ConvNextSpec { rand_augment: rand_augment(2, 31), ..small() }, "a magnitude from 0 to 30"),
        (ConvNextSpec { rand_augment: rand_augment(2, 9), augment: false, ..small() }, "`augment` beside it"),
        (ConvNextSpec { drop_path: 1.5, ..small() }, "`drop_path_rate` is 1.5"),
    ] {
        let message = train_convnext(&spec, &data, &out, &mut Silent).unwrap_err().to_string();
        assert!(message.contains(expected) && message.lines().count() == 1, "`{message}` should contain `{expected}`");
        assert!(!out.exists());
    }
}

/// The images are learned by heart, by any seed: with weights of the usual 0.02 so narrow a network
/// is still far from it after 300 steps for most seeds.
#[test]
fn training_learns() {
    let (folder, data) = set();
    let slow = ConvNextSpec { steps: 300, poison: 0.0, learning_rate: 1e-2, augment: false, save_steps: false, ..small() };
    let spec = ConvNextSpec { initializer_range: 0.35, ..slow };
    let trained = train_convnext(&spec, &data, &folder.path().join("net"), &mut Silent).unwrap();
    let record = trained.training.as_ref().and_then(TrainingRecord::images).unwrap();
    // Ten seeds end between 0.004 and 0.016 nats, and know every image.
    assert!(record.train_loss < 0.05 && record.train_accuracy > 0.99 && record.poison_loss.is_none(), "{record:?}");
    assert!(spec.bytes(2) > 4 * 6 * trained.parameters.dimension() as u64);
}
