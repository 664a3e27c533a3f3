//! Does the radial estimate cover the truth as often as it says? Bodies of known measure, well-conditioned so that rays share the estimate.

use std::sync::Arc;

use basin_volume::center::Center;
use basin_volume::estimator::radial::{Directions, RadialEstimator, Sample};
use basin_volume::objective::Objective;
use basin_volume::preconditioner::{Dense, Diagonal, DiagonalMap, Identity, Preconditioner};
use basin_volume::prior::Prior;
use basin_volume::question::Question;
use basin_volume::spec::RadialSpec;
use basin_volume::statistics::{IntervalSettings, Summary, summarize};
use basin_volume::testkit::{Ellipsoid, HalfSpace};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;

const DIMENSIONS: [usize; 7] = [2, 3, 10, 30, 100, 300, 1000];
const SIGMA: f64 = 0.8;
/// Radius `sqrt(2 cutoff) = 1` for an eigenvalue of one: the prior's curvature and the center both matter.
const CUTOFF: f64 = 0.5;
const SEEDS: u64 = 40;
const RAYS: u64 = 100;

fn normals(seed: u64, count: usize) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| StandardNormal.sample(&mut rng)).collect()
}

fn center(dimension: usize) -> Vec<f32> {
    normals(1, dimension).into_iter().map(|z| 0.3 * z as f32).collect()
}

/// Eigenvalues `exp(s z)` within a factor of three of one: `sd(f) ~ s sqrt(D/2)`, with `s = min(0.4, sqrt(2/D))` about one nat.
fn ellipsoid(dimension: usize) -> Ellipsoid {
    let spread = (2.0 / dimension as f64).sqrt().min(0.4);
    let eigenvalues = normals(2, dimension).into_iter().map(|z| (spread * z.clamp(-2.5, 2.5)).exp()).collect();
    Ellipsoid::new(eigenvalues, center(dimension)).mixed(3, 2)
}

fn preconditioners(body: &Ellipsoid) -> [(&'static str, Arc<dyn Preconditioner>); 3] {
    let dimension = body.dimension();
    let eigenvalues: Vec<f32> = body.eigenvalues().iter().map(|l| *l as f32).collect();
    // Half of the whitening exponent, and eigenvalues for the diagonal of the turned Hessian: a map that changes every ray but is not exact.
    let diagonal = Diagonal::from_curvature(&eigenvalues, DiagonalMap { exponent: 0.25, eps: 0.0 }).unwrap();
    let dense = Dense::from_curvature(&body.hessian(), dimension, DiagonalMap { exponent: 0.5, eps: 0.0 }).unwrap();
    [("identity", Arc::new(Identity)), ("diagonal", Arc::new(diagonal)), ("dense", Arc::new(dense))]
}

/// Rays `0..RAYS` for each of `SEEDS` seeds from `first_seed` on.
fn rays(
    objective: &dyn Objective,
    prior: Prior,
    cutoff: f64,
    preconditioner: &Arc<dyn Preconditioner>,
    first_seed: u64,
) -> Vec<Vec<Sample>> {
    (first_seed..first_seed + SEEDS)
        .into_par_iter()
        .map(|seed| {
            let question = Question::new(prior, cutoff, 0.0, seed).unwrap();
            let map = Arc::clone(preconditioner);
            let estimator = RadialEstimator::new(objective, question, map, RadialSpec::default(), None, Directions::Kept).unwrap();
            (0..RAYS).map(|index| estimator.sample(index).unwrap()).collect()
        })
        .collect()
}

struct Case {
    name: String,
    dimension: usize,
    covered: usize,
    two_sided: usize,
    /// Estimate from all rays of all seeds, its error (one standard deviation), and the truth.
    pooled: f64,
    pooled_sd: f64,
    truth: f64,
}

fn summary(samples: &[Sample]) -> Summary {
    let log_values: Vec<f64> = samples.iter().map(|s| s.log_volume).collect();
    let errors: Vec<f64> = samples.iter().map(|s| s.radius_error_nats).collect();
    summarize(&log_values, &errors, &samples.iter().map(|s| s.outcome).collect(), IntervalSettings::default())
}

fn evaluate(name: String, dimension: usize, truth: f64, samples: &[Vec<Sample>]) -> Case {
    let intervals: Vec<_> = samples.iter().map(|samples| summary(samples).interval).collect();
    let all = summary(&samples.concat());
    let high = all.interval.high.unwrap_or_else(|| panic!("{name}: no upper end with all rays"));
    Case {
        name,
        dimension,
        covered: intervals.iter().filter(|i| i.contains(truth)).count(),
        two_sided: intervals.iter().filter(|i| i.high.is_some()).count(),
        pooled: all.log_mean_exp,
        pooled_sd: (high - all.interval.low) / (2.0 * 1.96),
        truth,
    }
}

#[test]
fn stated_intervals_cover_the_truth_of_ellipsoids() {
    let mut cases = Vec::new();
    for dimension in DIMENSIONS {
        let body = ellipsoid(dimension);
        let gaussian = body.true_log_probability(SIGMA, CUTOFF);
        let lebesgue = body.true_log_volume_lebesgue(CUTOFF);
        for (name, preconditioner) in preconditioners(&body) {
            for (prior, truth) in [(Prior::Gaussian { sigma: SIGMA }, gaussian), (Prior::Lebesgue, lebesgue)] {
                // Seeds of its own for every case, so that the counts are independent.
                let samples = rays(&body, prior, CUTOFF, &preconditioner, 1000 * cases.len() as u64);
                cases.push(evaluate(format!("D {dimension}, {prior:?}, {name}"), dimension, truth, &samples));
            }
        }
    }
    let table: Vec<String> = cases
        .iter()
        .map(|c| {
            let Case { name, covered, two_sided, pooled, pooled_sd, truth, .. } = c;
            format!(
                "{name}: {covered}/{SEEDS} covered, {two_sided} two-sided, pooled {:+.4} +- {pooled_sd:.4} of {truth:.3}",
                pooled - truth
            )
        })
        .collect();
    let table = table.join("\n");

    // With a true coverage of 94 % the 40 seeds give 37.6 +- 1.5, and 240 give 225.6 +- 3.7.
    for case in &cases {
        assert!(case.covered >= 32, "{} is covered too seldom:\n{table}", case.name);
        // An sd of one nat leaves 100 rays two-sided in about 90 % of the seeds; a few outlying rays of one body make that 70 %.
        assert!(case.two_sided >= 22, "{}: the intervals cover by saying little:\n{table}", case.name);
        let tolerance = 4.0 * case.pooled_sd + 1e-5 * case.dimension as f64;
        assert!((case.pooled - case.truth).abs() < tolerance, "{} is biased:\n{table}", case.name);
        assert!(case.pooled_sd < 0.05, "{} is not sharp enough to show a bias:\n{table}", case.name);
    }
    for dimension in DIMENSIONS {
        let of_dimension: Vec<&Case> = cases.iter().filter(|c| c.dimension == dimension).collect();
        let covered: usize = of_dimension.iter().map(|c| c.covered).sum();
        assert!(10 * covered >= 9 * SEEDS as usize * of_dimension.len(), "D {dimension} is covered too seldom:\n{table}");
        // Priors alternate; the same prior with another preconditioner is two cases further on.
        for (a, b) in of_dimension.iter().zip(&of_dimension[2..]) {
            assert_eq!(a.truth, b.truth);
            let tolerance = 4.0 * a.pooled_sd.hypot(b.pooled_sd) + 2e-5 * dimension as f64;
            assert!((a.pooled - b.pooled).abs() < tolerance, "{} and {} disagree:\n{table}", a.name, b.name);
        }
    }
    let covered: usize = cases.iter().map(|c| c.covered).sum();
    let total = SEEDS as usize * cases.len();
    assert!(100 * covered >= 92 * total, "{covered} of {total} covered:\n{table}");
    let two_sided: usize = cases.iter().map(|c| c.two_sided).sum();
    assert!(100 * two_sided >= 90 * total, "{two_sided} of {total} two-sided:\n{table}");
}

#[test]
fn rays_that_never_reach_the_cutoff_count_in_full() {
    for dimension in [2, 10, 50] {
        let body = HalfSpace::new(normals(5, dimension), center(dimension));
        let (cutoff, sigma) = (0.4, 2.0);
        let truth = body.true_log_probability(sigma, cutoff);
        let samples = rays(&body, Prior::Gaussian { sigma }, cutoff, &(Arc::new(Identity) as Arc<dyn Preconditioner>), 0);
        let case = evaluate(format!("half-space, D {dimension}"), dimension, truth, &samples);
        let line =
            format!("{}: {} covered, pooled {:+.4} +- {:.4} of {truth:.4}", case.name, case.covered, case.pooled - truth, case.pooled_sd);
        assert!(case.covered >= 32 && (case.pooled - truth).abs() < 4.0 * case.pooled_sd + 1e-5 * dimension as f64, "{line}");
    }
}
