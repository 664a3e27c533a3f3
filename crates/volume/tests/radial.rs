//! The radial estimator against closed forms that have nothing to do with its own code.

mod common;

use std::sync::Arc;

use basin_volume::estimator::radial::{Directions, RadialError, RadialEstimator, RadialProblem, Sample};
use basin_volume::preconditioner::{Diagonal, DiagonalMap, Identity, Preconditioner};
use basin_volume::prior::Prior;
use basin_volume::radius_search::Outcome;
use basin_volume::spec::RadialSpec;
use basin_volume::statistics::log_mean_exp;
use common::closure;

fn problem(prior: Prior, cutoff: f64, preconditioner: Arc<dyn Preconditioner>) -> RadialProblem {
    RadialProblem { prior, cutoff, l2_reg: 0.0, seed: 3, preconditioner }
}

fn samples(estimator: &RadialEstimator<'_>, count: u64) -> Vec<Sample> {
    (0..count).map(|index| estimator.sample(index).unwrap()).collect()
}

fn estimate(samples: &[Sample]) -> f64 {
    log_mean_exp(&samples.iter().map(|s| s.log_volume).collect::<Vec<_>>())
}

fn diagonal(entries: &[f32]) -> Arc<dyn Preconditioner> {
    Arc::new(Diagonal::from_curvature(entries, DiagonalMap { exponent: 0.5, eps: 0.0 }).unwrap())
}

/// Mass of the cap of S^2 within `angle` of the pole.
fn cap_of_s2(angle: f64) -> f64 {
    0.5 * (1.0 - angle.cos())
}

#[test]
fn a_spherical_cap_has_the_same_mass_whatever_the_preconditioner() {
    let center = vec![0.6f32, -0.3, 1.2];
    let norm = center.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let c = center.clone();
    // The angle from the center; points must lie on the sphere exactly.
    let objective = closure(center, move |w: &[f64]| {
        let length = w.iter().map(|x| x * x).sum::<f64>().sqrt();
        assert!((length / norm - 1.0).abs() < 1e-12, "left the sphere: {length} {norm}");
        let dot: f64 = w.iter().zip(&c).map(|(w, &c)| w * f64::from(c)).sum();
        1.0 - dot / (norm * norm)
    });
    let angle = 0.7f64;
    let truth = cap_of_s2(angle).ln();
    let plain = RadialEstimator::new(
        &objective,
        problem(Prior::Sphere, 1.0 - angle.cos(), Arc::new(Identity)),
        RadialSpec::default(),
        None,
        Directions::Kept,
    );
    for sample in samples(&plain.unwrap(), 20) {
        assert!((sample.radius - angle).abs() < 1e-4, "{sample:?}");
        assert!((sample.log_volume - truth).abs() < 1e-3);
    }
    let skewed = problem(Prior::Sphere, 1.0 - angle.cos(), diagonal(&[1.0, 9.0, 0.3]));
    let estimator = RadialEstimator::new(&objective, skewed, RadialSpec::default(), None, Directions::Kept).unwrap();
    let rays = samples(&estimator, 6000);
    let spread = rays.iter().map(|s| s.log_volume).fold(f64::NEG_INFINITY, f64::max) - truth;
    assert!(spread > 0.2, "the preconditioner must matter for this test: {spread}");
    assert!((estimate(&rays) - truth).abs() < 0.03, "{} {truth}", estimate(&rays));
}

#[test]
fn a_ball_under_the_flat_prior_is_exact_on_every_ray() {
    let dimension = 1000;
    let objective = closure(vec![0.5; dimension], |w: &[f64]| w.iter().map(|x| 0.5 * (x - 0.5) * (x - 0.5)).sum());
    let radius: f64 = 0.3;
    let problem = problem(Prior::Lebesgue, 0.5 * radius * radius, Arc::new(Identity));
    let estimator = RadialEstimator::new(&objective, problem, RadialSpec::default(), None, Directions::Kept).unwrap();
    let d = dimension as f64;
    let truth = d * radius.ln() + 0.5 * d * std::f64::consts::PI.ln() - statrs::function::gamma::ln_gamma(0.5 * d + 1.0);
    for sample in samples(&estimator, 10) {
        assert!((sample.log_volume - truth).abs() < 0.02, "{} {truth}", sample.log_volume);
        assert!(sample.evaluations <= 4, "{}", sample.evaluations);
    }
}

#[test]
fn a_cost_that_never_reaches_the_cutoff_gives_the_whole_prior() {
    let objective = closure(vec![0.0; 50], |_: &[f64]| 0.0);
    let problem = problem(Prior::Gaussian { sigma: 0.7 }, 1e-2, Arc::new(Identity));
    let estimator = RadialEstimator::new(&objective, problem, RadialSpec::default(), None, Directions::Kept).unwrap();
    for sample in samples(&estimator, 5) {
        assert_eq!(sample.outcome, Outcome::Unbounded);
        assert!(sample.radius.is_infinite());
        assert!(sample.log_volume.abs() < 1e-6, "{}", sample.log_volume);
    }
}

#[test]
fn half_of_the_prior_lies_on_each_side_of_a_plane_through_the_center() {
    // w_0 <= c_0 costs nothing; beyond, the cost jumps. With c = 0 the truth is exactly one half, all of it on infinite rays.
    let objective = closure(vec![0.0; 8], |w: &[f64]| if w[0] > 0.0 { 1.0 } else { 0.0 });
    let problem = problem(Prior::Gaussian { sigma: 1.0 }, 1e-2, Arc::new(Identity));
    let estimator =
        RadialEstimator::new(&objective, problem, RadialSpec { max_evaluations: 2000, ..RadialSpec::default() }, None, Directions::Kept)
            .unwrap();
    let rays = samples(&estimator, 400);
    let unbounded = rays.iter().filter(|s| s.outcome == Outcome::Unbounded).count();
    assert!((unbounded as f64 - 200.0).abs() < 50.0, "{unbounded}");
    assert!((estimate(&rays) - 0.5f64.ln()).abs() < 0.2, "{}", estimate(&rays));
}

#[test]
fn the_penalty_is_part_of_the_cost() {
    let flat = closure(vec![1.0; 20], |_: &[f64]| 0.0);
    let mut with_penalty = problem(Prior::Gaussian { sigma: 1.0 }, 1e-2, Arc::new(Identity));
    with_penalty.l2_reg = 2.0;
    let estimator = RadialEstimator::new(&flat, with_penalty, RadialSpec::default(), None, Directions::Kept).unwrap();
    // l2/2 r^2 = cutoff
    assert!((estimator.sample(0).unwrap().radius - 0.1).abs() < 1e-6);
    let mut on_sphere = problem(Prior::Sphere, 1e-2, Arc::new(Identity));
    on_sphere.l2_reg = 2.0;
    let estimator = RadialEstimator::new(&flat, on_sphere, RadialSpec::default(), None, Directions::Kept).unwrap();
    // The chord of that angle: 2 ||c|| sin(angle/2) = 0.1
    let angle = estimator.sample(0).unwrap().radius;
    assert!((2.0 * 20f64.sqrt() * (0.5 * angle).sin() - 0.1).abs() < 1e-6);
}

#[test]
fn keeping_directions_or_not_gives_the_same_bits() {
    let objective = closure((0..300).map(|i| (i as f32).cos()).collect(), |w: &[f64]| {
        w.iter().enumerate().map(|(i, x)| (x - f64::from((i as f32).cos())).powi(2) / (1.0 + i as f64)).sum()
    });
    let curvature: Vec<f32> = (0..300).map(|i| 1.0 / (1.0 + i as f32)).collect();
    let make = |directions| {
        let problem = problem(Prior::Gaussian { sigma: 0.5 }, 1e-2, diagonal(&curvature));
        RadialEstimator::new(&objective, problem, RadialSpec::default(), None, directions).unwrap()
    };
    let (kept, regenerated) = (make(Directions::Kept), make(Directions::Regenerated));
    assert_eq!(samples(&kept, 5), samples(&regenerated, 5));
}

#[test]
fn settings_out_of_range_are_named() {
    let objective = closure(vec![0.0; 4], |w: &[f64]| w[0]);
    let refused = |problem: RadialProblem, words: &str| {
        let error = RadialEstimator::new(&objective, problem, RadialSpec::default(), None, Directions::Kept).err().unwrap().to_string();
        assert!(error.contains(words), "{error}");
    };
    refused(problem(Prior::Lebesgue, 0.0, Arc::new(Identity)), "cutoff");
    refused(problem(Prior::Lebesgue, f64::NAN, Arc::new(Identity)), "cutoff");
    refused(problem(Prior::Gaussian { sigma: -1.0 }, 1.0, Arc::new(Identity)), "sigma");
    refused(problem(Prior::Sphere, 1.0, Arc::new(Identity)), "center");
    let other = problem(Prior::Lebesgue, 1.0, diagonal(&[1.0; 5]));
    let error = RadialEstimator::new(&objective, other, RadialSpec::default(), None, Directions::Kept).err().unwrap();
    assert!(matches!(error, RadialError::Dimension { found: 5, expected: 4 }), "{error}");
}
