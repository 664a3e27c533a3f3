//! The spectral estimator against ellipsoids of known measure, over many seeds: bias, coverage of the interval, and the warning.

#![allow(clippy::print_stdout, reason = "one of the tests, run by hand, is a table")]

use basin_volume::estimator::spectral::{SpectralEstimator, SpectralRecord, SpectralResult};
use basin_volume::fisher::DifferenceProducts;
use basin_volume::interrupt::Interrupt;
use basin_volume::prior::Prior;
use basin_volume::question::Question;
use basin_volume::run::answer::Answer;
use basin_volume::run::manifest::Manifest;
use basin_volume::run::shard::Shard;
use basin_volume::spec::{EstimatorSpec, PreconditionerSpec, RunSpec, SpectralRoute, SpectralSpec};
use basin_volume::testkit::Ellipsoid;
use rayon::prelude::*;

const CUTOFF: f64 = 0.01;

/// The same center for all seeds: only the probes are random.
fn ellipsoid(eigenvalues: Vec<f64>, has_center: bool) -> Ellipsoid {
    let size = if has_center { 0.3 } else { 0.0 };
    let center = (0..eigenvalues.len()).map(|i| size * (i as f32 * 1.3).sin()).collect();
    Ellipsoid::new(eigenvalues, center).mixed(5, 2)
}

fn power(dimension: usize, alpha: f64) -> Vec<f64> {
    (1..=dimension).map(|i| (i as f64).powf(-alpha)).collect()
}

fn estimate(body: &Ellipsoid, spec: SpectralSpec, probes: u64, seed: u64) -> (Answer, SpectralResult) {
    let products = DifferenceProducts::new(body, spec.perturbation).unwrap();
    let question = Question::new(Prior::Gaussian { sigma: 1.0 }, CUTOFF, 0.0, seed).unwrap();
    let estimator = SpectralEstimator::new(body, &products, question, spec, &Interrupt::new()).unwrap();
    let records: Vec<SpectralRecord> = (0..=probes).map(|index| estimator.record(index).unwrap()).collect();
    let spec = RunSpec {
        problem: serde_json::Map::new(),
        dimension: body.eigenvalues().len(),
        question,
        preconditioner: PreconditionerSpec::None,
        estimator: EstimatorSpec::Spectral(spec),
    };
    SpectralResult::of(&Manifest::new(spec, 0.0, None, probes + 1, Shard::ALL), &records, 0.0)
}

/// Of so many seeds: the mean estimate less the truth, the part whose numerical error covers it, the part with a warning of either kind.
fn over_seeds(body: &Ellipsoid, spec: SpectralSpec, probes: u64, seeds: u64) -> (f64, f64, f64) {
    let truth = body.true_log_probability(1.0, CUTOFF);
    let results: Vec<Answer> = (0..seeds).into_par_iter().map(|seed| estimate(body, spec, probes, 1000 + seed).0).collect();
    let part = |test: &dyn Fn(&Answer) -> bool| results.iter().filter(|r| test(r)).count() as f64 / seeds as f64;
    let bias = results.iter().map(|r| r.log_probability - truth).sum::<f64>() / seeds as f64;
    let covers = part(&|r| r.numerical_error.is_some_and(|bound| (r.log_probability - truth).abs() <= bound));
    let warns = part(&|r| r.reasons.iter().any(|w| w.contains("steps are too few") || w.contains("standard error")));
    (bias, covers, warns)
}

#[test]
fn intervals_cover_and_the_mean_is_right() {
    let spec = SpectralSpec { route: SpectralRoute::Lanczos, cost_samples: 0, ..SpectralSpec::default() };
    let mut table = Vec::new();
    for (name, eigenvalues, has_center) in [
        ("alpha 1, D 1e2", power(100, 1.0), true),
        ("alpha 1.5, D 1e3", power(1000, 1.5), true),
        ("alpha 1.5, D 1e3, center 0", power(1000, 1.5), false),
        ("alpha 2, D 1e2", power(100, 2.0), true),
        ("flat, D 1e2", vec![1.0; 100], true),
        ("two levels, D 300", (0..300).map(|i| if i < 15 { 10.0 } else { 1e-3 }).collect(), true),
    ] {
        let body = ellipsoid(eigenvalues, has_center);
        let truth = body.true_log_probability(1.0, CUTOFF);
        let (bias, covers, warns) = over_seeds(&body, spec, 8, 100);
        table.push((name, truth, bias, covers, warns));
    }
    let limit = |truth: f64| 1f64.max(0.01 * truth.abs());
    let bad: Vec<_> = table.iter().filter(|(_, truth, bias, covers, _)| bias.abs() > limit(*truth) || *covers < 0.9).collect();
    assert!(bad.is_empty(), "{bad:?} of {table:?}");
}

#[test]
fn too_few_steps_are_always_said() {
    let few = SpectralSpec { route: SpectralRoute::Lanczos, cost_samples: 0, steps: 8, ..SpectralSpec::default() };
    for eigenvalues in [power(1000, 1.0), power(2000, 1.5), power(300, 2.0)] {
        let body = ellipsoid(eigenvalues, true);
        let truth = body.true_log_probability(1.0, CUTOFF);
        let (bias, covers, warns) = over_seeds(&body, few, 8, 100);
        // Where the number is off, the warning is there; and the interval is honest anyway.
        assert!(warns == 1.0 || bias.abs() < 1f64.max(0.01 * truth.abs()), "{truth}: {bias} {warns}");
        assert!(covers >= 0.9, "{truth}: {bias} {covers}");
    }
}

/// For `docs/accuracy.md`: `cargo test --release -p basin-volume --test spectral -- --ignored --nocapture`.
#[test]
#[ignore = "minutes"]
fn large_dimensions() {
    for (dimension, alpha, steps, deflation, probes) in [
        (10_000, 1.0, 160, 0, 16),
        (10_000, 1.5, 160, 0, 16),
        (10_000, 2.0, 160, 0, 16),
        (100_000, 1.5, 200, 50, 8),
        (1_000_000, 1.5, 200, 50, 4),
    ] {
        let body = ellipsoid(power(dimension, alpha), true);
        let truth = body.true_log_probability(1.0, CUTOFF);
        let spec = SpectralSpec { route: SpectralRoute::Lanczos, cost_samples: 1, steps, deflation, ..SpectralSpec::default() };
        let began = std::time::Instant::now();
        let (answer, found) = estimate(&body, spec, probes, 7);
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "D {dimension}, alpha {alpha}, {probes} x {steps}, deflation {deflation}: truth {truth:.2}, found {:.2} {:?}, rules {:?}, error of sampling {:.2}, ratio {:?}, {seconds:.1} s",
            answer.log_probability,
            answer.numerical_error,
            found.bracket,
            found.sampling_error,
            found.true_cost.map(|t| t.ratio)
        );
        let limit = 1f64.max(0.01 * truth.abs()) + 3.0 * found.sampling_error;
        assert!((answer.log_probability - truth).abs() < limit);
    }
}
