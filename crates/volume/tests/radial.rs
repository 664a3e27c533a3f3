//! The radial estimator against closed forms that have nothing to do with its own code.

mod common;

use std::sync::Arc;

use basin_volume::estimator::radial::{Directions, RadialError, RadialEstimator, Sample};
use basin_volume::objective::Objective;
use basin_volume::preconditioner::{Diagonal, DiagonalMap, Identity, Preconditioner};
use basin_volume::prior::Prior;
use basin_volume::question::Question;
use basin_volume::radius_search::Outcome;
use basin_volume::spec::RadialSpec;
use basin_volume::statistics::log_mean_exp;
use common::closure;

fn question(prior: Prior, cutoff: f64) -> Question {
    Question::new(prior, cutoff, 0.0, 3).unwrap()
}

/// Default settings, directions kept.
fn estimator<'a>(objective: &'a dyn Objective, question: Question, map: Arc<dyn Preconditioner>) -> RadialEstimator<'a> {
    RadialEstimator::new(objective, question, map, RadialSpec::default(), None, Directions::Kept).unwrap()
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
    // The angle from the center. Points must lie on the sphere, up to rounding: what is left of a
    // direction at the angle a from the center's has lost digits like 1e-16 / a^2, and the smallest
    // of 6,000 angles is about 0.01.
    let objective = closure(center, move |w: &[f64]| {
        let length = w.iter().map(|x| x * x).sum::<f64>().sqrt();
        assert!((length / norm - 1.0).abs() < 1e-11, "left the sphere: {length} {norm}");
        let dot: f64 = w.iter().zip(&c).map(|(w, &c)| w * f64::from(c)).sum();
        1.0 - dot / (norm * norm)
    });
    let angle = 0.7f64;
    let truth = cap_of_s2(angle).ln();
    let asked = question(Prior::Sphere, 1.0 - angle.cos());
    let plain = estimator(&objective, asked, Arc::new(Identity));
    for sample in samples(&plain, 20) {
        assert!((sample.radius - angle).abs() < 1e-4, "{sample:?}");
        assert!((sample.log_volume - truth).abs() < 1e-3);
    }
    let rays = samples(&estimator(&objective, asked, diagonal(&[1.0, 9.0, 0.3])), 6000);
    let spread = rays.iter().map(|s| s.log_volume).fold(f64::NEG_INFINITY, f64::max) - truth;
    assert!(spread > 0.2, "the preconditioner must matter for this test: {spread}");
    assert!((estimate(&rays) - truth).abs() < 0.03, "{} {truth}", estimate(&rays));
}

#[test]
fn a_ball_under_the_flat_prior_is_exact_on_every_ray() {
    let dimension = 1000;
    let objective = closure(vec![0.5; dimension], |w: &[f64]| w.iter().map(|x| 0.5 * (x - 0.5) * (x - 0.5)).sum());
    let radius: f64 = 0.3;
    let estimator = estimator(&objective, question(Prior::Lebesgue, 0.5 * radius * radius), Arc::new(Identity));
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
    let estimator = estimator(&objective, question(Prior::Gaussian { sigma: 0.7 }, 1e-2), Arc::new(Identity));
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
    let (asked, settings) = (question(Prior::Gaussian { sigma: 1.0 }, 1e-2), RadialSpec { max_evaluations: 2000, ..RadialSpec::default() });
    let estimator = RadialEstimator::new(&objective, asked, Arc::new(Identity), settings, None, Directions::Kept).unwrap();
    let rays = samples(&estimator, 400);
    let unbounded = rays.iter().filter(|s| s.outcome == Outcome::Unbounded).count();
    assert!((unbounded as f64 - 200.0).abs() < 50.0, "{unbounded}");
    assert!((estimate(&rays) - 0.5f64.ln()).abs() < 0.2, "{}", estimate(&rays));
}

#[test]
fn the_penalty_is_part_of_the_cost() {
    let flat = closure(vec![1.0; 20], |_: &[f64]| 0.0);
    let with_penalty = |prior| estimator(&flat, Question::new(prior, 1e-2, 2.0, 3).unwrap(), Arc::new(Identity));
    // l2/2 r^2 = cutoff
    assert!((with_penalty(Prior::Gaussian { sigma: 1.0 }).sample(0).unwrap().radius - 0.1).abs() < 1e-6);
    // The chord of that angle: 2 ||c|| sin(angle/2) = 0.1
    let angle = with_penalty(Prior::Sphere).sample(0).unwrap().radius;
    assert!((2.0 * 20f64.sqrt() * (0.5 * angle).sin() - 0.1).abs() < 1e-6);
}

#[test]
fn keeping_directions_or_not_gives_the_same_bits() {
    let objective = closure((0..300).map(|i| (i as f32).cos()).collect(), |w: &[f64]| {
        w.iter().enumerate().map(|(i, x)| (x - f64::from((i as f32).cos())).powi(2) / (1.0 + i as f64)).sum()
    });
    let curvature: Vec<f32> = (0..300).map(|i| 1.0 / (1.0 + i as f32)).collect();
    let make = |directions| {
        let asked = question(Prior::Gaussian { sigma: 0.5 }, 1e-2);
        RadialEstimator::new(&objective, asked, diagonal(&curvature), RadialSpec::default(), None, directions).unwrap()
    };
    let (kept, regenerated) = (make(Directions::Kept), make(Directions::Regenerated));
    assert_eq!(samples(&kept, 5), samples(&regenerated, 5));
}

#[test]
fn settings_out_of_range_are_named() {
    let objective = closure(vec![0.0; 4], |w: &[f64]| w[0]);
    let refusal = |prior, map: Arc<dyn Preconditioner>, settings| {
        RadialEstimator::new(&objective, question(prior, 1.0), map, settings, None, Directions::Kept).err().unwrap()
    };
    let default = RadialSpec::default();
    for (settings, words) in [
        (RadialSpec { radius_tolerance: Some(0.0), ..default }, "`radius_tolerance` is 0: expected a finite number of nats > 0"),
        (RadialSpec { max_evaluations: 0, ..default }, "`max_evaluations` is 0: expected a number from 1"),
    ] {
        let error = refusal(Prior::Lebesgue, Arc::new(Identity), settings).to_string();
        assert!(error.contains(words), "{error}");
    }
    assert!(refusal(Prior::Sphere, Arc::new(Identity), default).to_string().contains("center"));
    let error = refusal(Prior::Lebesgue, diagonal(&[1.0; 5]), default);
    assert!(matches!(error, RadialError::Dimension { found: 5, expected: 4 }), "{error}");
}
