//! Runs along the same rays: how their volumes differ, and how a volume grows with its cutoff.
//!
//! Runs with one seed and one dimension share their random numbers, whatever else differs between them. What a ray has in common from run to
//! run cancels from linear combinations
//!
//! ```text
//! sum_k a_k ln mean exp f_k        and        sum_k a_k mean f_k
//! ```
//!
//! of their log-volumes `f_k` (nats). The first is about the volumes, and has an interval only where no few rays carry one of them. The second
//! is about a typical ray; it is no volume, but known wherever there are rays.

use serde::{Deserialize, Serialize};

use crate::estimator::joint::rows;
use crate::estimator::radial::Sample;
use crate::statistics::{Interval, IntervalSettings, log_linear_combination, mean, mean_interval, search_error_range};

/// A linear combination over runs with common rays. In JSON numbers that are not finite are `null`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Combination {
    /// `sum_k a_k ln mean exp f_k`, nats.
    pub value: Option<f64>,
    /// Its interval, the error bounds of the radius search included; `None` unless every estimate has two ends.
    pub interval: Option<Interval>,
    /// `sum_k a_k mean f_k`, nats: the same of a typical ray.
    pub typical: Option<f64>,
    /// Its interval, the error bounds of the radius search included.
    pub typical_interval: Option<Interval>,
    /// Confidence level of the intervals.
    pub level: f64,
    /// Number of rays that every run has.
    pub rays: usize,
}

/// `sum_k a_k` of each run's samples (sorted by index), over the rays that all of them have.
#[must_use]
fn combination(runs: &[(&[Sample], f64)], settings: IntervalSettings) -> Combination {
    let samples: Vec<&[Sample]> = runs.iter().map(|(samples, _)| *samples).collect();
    let rows = rows(&samples);
    let column = |k: usize| -> Vec<f64> { rows.iter().map(|row| row[k].log_volume).collect() };
    let columns: Vec<Vec<f64>> = (0..runs.len()).map(column).collect();
    let weighted: Vec<(&[f64], f64)> = columns.iter().zip(runs).map(|(f, (_, a))| (f.as_slice(), *a)).collect();
    let found = log_linear_combination(&weighted, settings);
    // The bounds of every search in the direction that hurts.
    let (mut below, mut above) = (0.0, 0.0);
    for (k, (_, a)) in runs.iter().enumerate() {
        let errors: Vec<f64> = rows.iter().map(|row| row[k].radius_error_nats).collect();
        let (lower, higher) = search_error_range(&columns[k], &errors);
        let (lower, higher) = if *a < 0.0 { (higher, lower) } else { (lower, higher) };
        below += a.abs() * lower;
        above += a.abs() * higher;
    }
    let rays: Vec<f64> = rows.iter().map(|row| row.iter().zip(runs).map(|(sample, (_, a))| a * sample.log_volume).sum()).collect();
    let bounds: Vec<f64> =
        rows.iter().map(|row| row.iter().zip(runs).map(|(sample, (_, a))| a.abs() * sample.radius_error_nats).sum()).collect();
    let (typical, bound) = (mean(&rays), mean(&bounds));
    Combination {
        value: Some(found.value).filter(|value| value.is_finite()),
        interval: found.interval.map(|interval| interval.widened(below, above)),
        typical: Some(typical).filter(|value| value.is_finite()),
        typical_interval: mean_interval(&rays, settings.level).filter(|_| bound.is_finite()).map(|interval| interval.widened(bound, bound)),
        level: settings.level,
        rays: rows.len(),
    }
}

/// By how many nats the volume of `this` is larger than that of `other`.
#[must_use]
pub fn difference(this: &[Sample], other: &[Sample], settings: IntervalSettings) -> Combination {
    combination(&[(this, 1.0), (other, -1.0)], settings)
}

/// The slope of the least-squares line through the log-volumes at these cutoffs, against the logarithm of the cutoff: the learning
/// coefficient in its volume form.
///
/// For small cutoffs a singular model's volume is `ln V = lambda ln eps + (m - 1) ln ln(1/eps) + O(1)`, with the learning coefficient
/// `lambda` and its multiplicity `m` (Watanabe 2009, theorem 7.1); a quadratic cost has `lambda = D/2` and `m = 1`. The slope is `lambda - (m -
/// 1)/ln(1/eps)` there, and less where the cutoff is so large that the prior ends the set.
///
/// `None` for fewer than two different cutoffs.
#[must_use]
pub fn cutoff_slope(points: &[(f64, &[Sample])], settings: IntervalSettings) -> Option<Combination> {
    let cutoffs: Vec<f64> = points.iter().map(|(cutoff, _)| *cutoff).collect();
    let coefficients = slope_coefficients(&cutoffs)?;
    let runs: Vec<(&[Sample], f64)> = points.iter().zip(coefficients).map(|((_, samples), a)| (*samples, a)).collect();
    Some(combination(&runs, settings))
}

/// The `a_k` with which `sum_k a_k y_k` is the slope of the least-squares line of `y_k` against `ln cutoff_k`.
#[must_use]
pub fn slope_coefficients(cutoffs: &[f64]) -> Option<Vec<f64>> {
    let logs: Vec<f64> = cutoffs.iter().map(|cutoff| cutoff.ln()).collect();
    let center = logs.iter().sum::<f64>() / logs.len() as f64;
    let square: f64 = logs.iter().map(|x| (x - center).powi(2)).sum();
    (square > 0.0 && square.is_finite()).then(|| logs.iter().map(|x| (x - center) / square).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;
    use rand_distr::{Distribution, StandardNormal};

    use super::*;
    use crate::estimator::radial::{Directions, RadialEstimator};
    use crate::objective::{Differentiable, Objective};
    use crate::preconditioner::Identity;
    use crate::prior::Prior;
    use crate::question::Question;
    use crate::spec::RadialSpec;
    use crate::testkit::{Ellipsoid, ReducedRank};

    fn rays(objective: &dyn Objective, cutoff: f64, sigma: f64, count: u64) -> Vec<Sample> {
        let question = Question::new(Prior::Gaussian { sigma }, cutoff, 0.0, 5).unwrap();
        let settings = RadialSpec { radius_tolerance: Some(1e-5), ..RadialSpec::default() };
        let estimator = RadialEstimator::new(objective, question, Arc::new(Identity), settings, None, Directions::Kept).unwrap();
        (0..count).map(|index| estimator.sample(index).unwrap()).collect()
    }

    fn slope(objective: &dyn Objective, cutoffs: &[f64], count: u64) -> Combination {
        let runs: Vec<(f64, Vec<Sample>)> = cutoffs.iter().map(|&cutoff| (cutoff, rays(objective, cutoff, 1.0, count))).collect();
        let points: Vec<(f64, &[Sample])> = runs.iter().map(|(cutoff, samples)| (*cutoff, samples.as_slice())).collect();
        cutoff_slope(&points, IntervalSettings::default()).unwrap()
    }

    #[test]
    fn common_rays_cancel_from_a_difference() {
        let center = vec![0.1f32; 30];
        let body = Ellipsoid::new((1..=30).map(|k| 1.0 + 0.01 * f64::from(k)).collect(), center);
        let (small, large) = (rays(&body, 1e-3, 1.0, 100), rays(&body, 1.1e-3, 1.0, 100));
        let found = difference(&large, &small, IntervalSettings::default());
        let truth = body.true_log_probability(1.0, 1.1e-3) - body.true_log_probability(1.0, 1e-3);
        let interval = found.interval.unwrap();
        let width = |interval: Interval| interval.high.unwrap() - interval.low;
        assert!((found.value.unwrap() - truth).abs() < 1e-3 && interval.contains(truth), "{found:?} {truth}");
        assert!(width(interval) < 2e-3, "{interval:?}");
        let large_alone: Vec<f64> = large.iter().map(|sample| sample.log_volume).collect();
        let alone = log_linear_combination(&[(&large_alone, 1.0)], IntervalSettings::default()).interval.unwrap();
        assert!(width(alone) > 20.0 * width(interval), "{alone:?}");
        assert!((found.typical.unwrap() - truth).abs() < 1e-3 && width(found.typical_interval.unwrap()) < 2e-3);
        let json = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<Combination>(&json).unwrap(), found);
        // Only rays that both have.
        assert_eq!(difference(&large[10..], &small[..70], IntervalSettings::default()).rays, 60);
    }

    #[test]
    fn where_one_ray_carries_the_volume_only_the_typical_ray_is_known() {
        let body = Ellipsoid::new((1..=40).map(|k| f64::from(k).powi(3)).collect(), vec![0.0; 40]);
        let found = difference(&rays(&body, 1e-2, 1e3, 60), &rays(&body, 1e-3, 1e3, 60), IntervalSettings::default());
        assert!(found.interval.is_none(), "{found:?}");
        // Without a prior that ends the set, every ray grows like the cutoff to the power D/2.
        assert!((found.typical.unwrap() - 20.0 * 10f64.ln()).abs() < 1e-3, "{found:?}");
    }

    #[test]
    fn an_ellipsoid_has_half_its_dimension() {
        let body = Ellipsoid::new(vec![1.0; 12], vec![0.0; 12]);
        let found = slope(&body, &[1e-6, 1e-5, 1e-4], 50);
        assert!((found.value.unwrap() - 6.0).abs() < 1e-3, "{found:?}");
        assert!(cutoff_slope(&[(0.1, &[])], IntervalSettings::default()).is_none());
    }

    /// `w_0^2 w_1^2/2`: coefficient 1/2, multiplicity 2.
    #[test]
    fn a_normal_crossing_has_one_half_less_a_logarithm() {
        let body = ReducedRank::at_zero(1, 1, 1);
        assert_eq!(body.learning_coefficient(), (0.5, 2));
        let (small, large) = (1e-6, 1e-4);
        let found = slope(&body, &[small, 1e-5, large], 20_000);
        // P(|w_0 w_1| <= d) = 2/pi INT_0^d K_0 = 2/pi d (ln(2/d) - gamma + 1) to the order d^3, with d^2 = 2 eps.
        let log_probability = |cutoff: f64| {
            let d = (2.0 * cutoff).sqrt();
            (std::f64::consts::FRAC_2_PI * d * ((2.0 / d).ln() - 0.577_215_664_901_532_9 + 1.0)).ln()
        };
        let truth = (log_probability(large) - log_probability(small)) / (large / small).ln();
        assert!((truth - (0.5 - 1.0 / 1e5f64.ln())).abs() < 0.015, "to first order {truth}");
        assert!((found.value.unwrap() - truth).abs() < 0.02, "{found:?} {truth}");
        // Rays close to an axis have nearly all of the prior: the tail is seen to be heavy for 13 of 24
        // seeds, and for the others the interval has to hold.
        assert!(found.interval.is_none_or(|interval| interval.contains(truth)), "{found:?} {truth}");
    }

    #[test]
    fn reduced_rank_regression_has_the_coefficient_of_its_formula() {
        // (inputs, hidden, outputs): 3/2 and 1 where D/2 would be 4, 3 and 3. Few rays carry the volume,
        // so the logarithm of their mean is biased: over 24 seeds of 20,000 rays the slope is off by 0.18,
        // 0.05 and 0.09 in the mean, with standard deviations of 0.16, 0.03 and 0.12. The bounds are the
        // mean and two deviations or more, and those of all 24 seeds.
        for (shape, lambda, bound) in [((2, 2, 2), 1.5, 0.5), ((3, 1, 3), 1.5, 0.15), ((2, 1, 4), 1.0, 0.35)] {
            let body = ReducedRank::at_zero(shape.0, shape.1, shape.2);
            let (known, multiplicity) = body.learning_coefficient();
            assert_eq!(known, lambda, "{shape:?}");
            let found = slope(&body, &[1e-4, 1e-3], 20_000);
            let correction = (f64::from(multiplicity) - 1.0) / 10f64.ln() * (3.0f64 / 4.0).ln().abs();
            assert!((found.value.unwrap() - (known - correction)).abs() < bound, "{shape:?}: {found:?}");
        }
    }

    /// The truth has rank one, where the star is not all of the set: draws of the prior are counted instead.
    #[test]
    fn counted_draws_around_a_matrix_of_rank_one_agree_with_the_formula() {
        let body = ReducedRank::new(2, 2, 2, vec![0.5, 0.0, 0.0, 0.0], vec![0.5, 0.0, 0.0, 0.0]);
        let (lambda, multiplicity) = body.learning_coefficient();
        assert_eq!((lambda, multiplicity), (2.0, 2));
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut draw = || -> [f32; 8] { std::array::from_fn(|_| StandardNormal.sample(&mut rng)) };
        let costs: Vec<f64> = (0..16_000_000).map(|_| body.cost_at(&draw()).unwrap().nats).collect();
        let log_share = |cutoff: f64| (costs.iter().filter(|cost| **cost <= cutoff).count() as f64 / costs.len() as f64).ln();
        let (small, large) = (3e-3f64, 3e-2);
        let slope = (log_share(large) - log_share(small)) / (large / small).ln();
        // ln V = lambda ln eps + (m - 1) ln ln(1/eps), between the two.
        let expected = lambda + ((large.ln() / small.ln()).ln()) / (large / small).ln();
        assert!((slope - expected).abs() < 0.15, "{slope}, expected {expected}");
    }
}
