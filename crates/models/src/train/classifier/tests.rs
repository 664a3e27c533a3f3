use std::cell::Cell;
use std::fs;

use super::super::Silent;
use super::*;

fn small() -> TrainSpec {
    TrainSpec { width: 24, depth: 2, epochs: 1, train_size: 128, batch_size: 32, ..TrainSpec::default() }
}

/// Mean cross-entropy in f64 by the plain loops.
fn exact_loss(network: &MlpConfig, weights: &[f32], data: &Dataset) -> f64 {
    let labels = data.labels().unwrap();
    let rows = data.inputs().chunks(data.features()).zip(labels).map(|(input, &label)| {
        let logits = network.logits_exact(weights, input);
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        largest + logits.iter().map(|logit| (logit - largest).exp()).sum::<f64>().ln() - logits[label as usize]
    });
    rows.sum::<f64>() / data.rows() as f64
}

#[test]
fn default_settings_reach_the_stated_accuracies() {
    let folder = tempfile::tempdir().unwrap();
    for seed in [0, 1] {
        let spec = TrainSpec { seed, split_seed: seed, ..TrainSpec::default() };
        let checkpoint = train_digits(&spec, &folder.path().join(seed.to_string()), &mut Silent).unwrap();
        let record = checkpoint.training.as_ref().and_then(TrainingRecord::classifier).unwrap();
        assert!(record.train_accuracy >= 0.99, "seed {seed}: train accuracy {}", record.train_accuracy);
        assert!(record.test_accuracy >= 0.96, "seed {seed}: test accuracy {}", record.test_accuracy);
        assert!((record.weight_decay_sigma().unwrap() - 1.397_542_485_937_368_6).abs() < 1e-12);
        assert_eq!((record.step, record.total_steps), (400, 400));
        assert_eq!(checkpoint.moments().unwrap().unwrap().step, 400);
        assert_eq!(checkpoint.parameters.dimension(), 1_089_034);
        let curve = fs::read_to_string(checkpoint.folder.join(checkpoint::CURVE)).unwrap();
        assert_eq!(curve.lines().count(), 400);
    }
}

#[test]
fn the_same_seed_gives_the_same_bits_on_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let spec = TrainSpec { epochs: 1, train_size: 256, ..TrainSpec::default() };
    let mut contents: Vec<Vec<Vec<u8>>> = Vec::new();
    for threads in [1, 2, 3] {
        let out = folder.path().join(threads.to_string());
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| train_digits(&spec, &out, &mut Silent).unwrap());
        let files = [checkpoint::CONFIG, checkpoint::MODEL, checkpoint::OPTIMIZER, checkpoint::CURVE];
        contents.push(files.iter().map(|file| fs::read(out.join(file)).unwrap()).collect());
    }
    assert!(contents[0] == contents[1] && contents[0] == contents[2]);
    let other = train_digits(&TrainSpec { seed: 1, ..spec }, &folder.path().join("other"), &mut Silent).unwrap();
    assert_ne!(fs::read(other.folder.join(checkpoint::MODEL)).unwrap(), contents[0][1]);
}

#[test]
fn the_gradient_of_every_tensor_matches_finite_differences() {
    let data = digits::split(3, 16).unwrap().train;
    for depth in [0, 1, 3] {
        let network = MlpConfig::new(64, 12, depth, 10).unwrap();
        let layout = network.layout();
        let weights = network.initial_parameters(5).values().to_vec();
        let mut gradient = vec![0.0f32; weights.len()];
        let loss = Space::default().loss_and_gradient(&network, &weights, Rows::of(&data), &mut gradient);
        assert!((loss - exact_loss(&network, &weights, &data)).abs() < 1e-5);
        for (index, parameter) in layout.parameters().iter().enumerate() {
            // Along a random direction inside the tensor, in f64 on both sides.
            let slice = &gradient[parameter.range()];
            let probe: Vec<f64> = (0..slice.len()).map(|i| ((i * 7 + index) as f64 * 0.61).sin()).collect();
            let along: f64 = slice.iter().zip(&probe).map(|(&g, p)| f64::from(g) * p).sum();
            let shifted = |step: f64| {
                let mut moved = weights.clone();
                let mut actual = 0.0;
                for (weight, (p, g)) in moved[parameter.range()].iter_mut().zip(probe.iter().zip(slice)) {
                    let before = f64::from(*weight);
                    *weight = (before + step * p) as f32;
                    // What the rounded step should change, to first order.
                    actual += (f64::from(*weight) - before) * f64::from(*g);
                }
                (exact_loss(&network, &moved, &data), actual)
            };
            let ((up, predicted_up), (down, predicted_down)) = (shifted(1e-3), shifted(-1e-3));
            let (change, predicted) = (up - down, predicted_up - predicted_down);
            let scale = slice.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
            assert!(scale > 0.0, "{} has no gradient", parameter.name);
            assert!((change - predicted).abs() < 2e-3 * predicted.abs() + 1e-7, "{}: {change} not {predicted} ({along})", parameter.name);
        }
    }
}

/// Stops after a number of steps.
struct StopAt {
    step: usize,
    seen: Cell<usize>,
}

impl Observer for StopAt {
    fn step(&mut self, step: usize, total: usize, loss: f64) {
        assert!(step <= total && loss.is_finite());
        assert_eq!(step, self.seen.get() + 1);
        self.seen.set(step);
    }

    fn interrupted(&self) -> bool {
        self.seen.get() == self.step
    }
}

#[test]
fn an_interrupt_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("digits");
    let mut stop = StopAt { step: 3, seen: Cell::new(0) };
    let error = train_digits(&TrainSpec { save_steps: true, ..small() }, &out, &mut stop).unwrap_err();
    assert!(matches!(error, TrainError::Interrupted { step: 3, total: 4 }), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn step_checkpoints_are_log_spaced_and_loadable() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("digits");
    let spec = TrainSpec { save_steps: true, epochs: 2, ..small() };
    train_digits(&spec, &out, &mut Silent).unwrap();
    for step in [0, 1, 2, 4, 8] {
        let checkpoint = Checkpoint::load(&out.join(format!("step-{step}"))).unwrap();
        assert_eq!(checkpoint.training.unwrap().step(), step);
    }
    assert!(!out.join("step-3").exists());
    // The last one is the run's own result.
    let (last, whole) = (Checkpoint::load(&out.join("step-8")).unwrap(), Checkpoint::load(&out).unwrap());
    assert_eq!(last.parameters, whole.parameters);
    let first = Checkpoint::load(&out.join("step-0")).unwrap();
    assert_eq!(first.parameters, MlpConfig::new(64, 24, 2, 10).unwrap().initial_parameters(0));
}

#[test]
fn a_diverging_run_says_so_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("digits");
    let spec = TrainSpec { learning_rate: 1e38, epochs: 3, ..small() };
    let message = train_digits(&spec, &out, &mut Silent).unwrap_err().to_string();
    assert!(message.contains("smaller learning rate"), "{message}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn the_schedule_falls_from_the_rate_to_zero() {
    let spec = TrainSpec::default();
    assert_eq!(spec.total_steps(), 400);
    assert_eq!(spec.rate(0), 0.005);
    assert!((spec.rate(200) - 0.0025).abs() < 1e-18);
    assert!(spec.rate(399) > 0.0 && spec.rate(399) < 1e-7);
    assert!(spec.rate(400).abs() < 1e-18);
}

#[test]
fn nonsense_is_refused_by_name_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("digits");
    let cases = [
        (TrainSpec { width: 0, ..small() }, "`width` is 0"),
        (TrainSpec { epochs: 0, ..small() }, "`epochs` is 0"),
        (TrainSpec { learning_rate: 0.0, ..small() }, "`learning_rate` is 0"),
        (TrainSpec { learning_rate: f64::NAN, ..small() }, "`learning_rate` is NaN"),
        (TrainSpec { batch_size: 0, ..small() }, "`batch_size` is 0"),
        (TrainSpec { batch_size: 129, ..small() }, "`batch_size` is 129"),
        (TrainSpec { l2: -1e-9, ..small() }, "`l2` is -0.000000001"),
        (TrainSpec { weight_decay: f64::INFINITY, ..small() }, "`weight_decay` is inf"),
        (TrainSpec { betas: [0.9, 1.0], ..small() }, "`betas` is 1"),
        (TrainSpec { epsilon: 0.0, ..small() }, "`epsilon` is 0"),
        (TrainSpec { train_size: 1797, ..small() }, "1797 training rows out of 1797"),
        (TrainSpec { depth: 20_000, ..small() }, "depth is 20000"),
    ];
    for (spec, expected) in cases {
        let message = train_digits(&spec, &out, &mut Silent).unwrap_err().to_string();
        assert!(message.contains(expected), "`{message}` should contain `{expected}`");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    fs::create_dir(&out).unwrap();
    let message = train_digits(&small(), &out, &mut Silent).unwrap_err().to_string();
    assert!(message.contains("exists already"), "{message}");
}
