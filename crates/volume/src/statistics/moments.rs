//! Point statistics of log-values: log-mean-exp, moments, quantiles, and how unevenly the weights `exp f_i` are spread.

use crate::special::ordered_sum;

/// `ln( (1/n) sum exp f_i )`, in nats.
///
/// Computed as `max + ln( (1/n) sum exp(f_i - max) )`: no term overflows, at least one is 1, and the result lies between `max - ln n`
/// and `max`. The sum runs in an order fixed by `n` alone (`ordered_sum`), so the bits depend on the order of the values only: sort
/// samples by index first. Equal values give that value exactly.
///
/// `-inf` is a weight of zero; all `-inf` gives `-inf`; any `+inf` gives `+inf`; any NaN, or no value at all, gives NaN.
///
/// Error: a few units in the last place of `max(|max|, ln n)`; against direct evaluation in the tests.
#[must_use]
pub fn log_mean_exp(log_values: &[f64]) -> f64 {
    let max = maximum(log_values);
    if !max.is_finite() {
        return max;
    }
    let sum = ordered_sum(log_values.len(), |i| (log_values[i] - max).exp());
    max + (sum / log_values.len() as f64).ln()
}

/// The largest value; NaN if there is none or one of them is NaN.
#[must_use]
pub(crate) fn maximum(values: &[f64]) -> f64 {
    extreme(values, f64::max)
}

/// The smallest value; NaN if there is none or one of them is NaN.
#[must_use]
pub(crate) fn minimum(values: &[f64]) -> f64 {
    extreme(values, f64::min)
}

fn extreme(values: &[f64], pick: fn(f64, f64) -> f64) -> f64 {
    // `f64::max` would drop a NaN silently.
    values.iter().copied().reduce(|a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { pick(a, b) }).unwrap_or(f64::NAN)
}

/// `(1/n) sum f_i`, in nats; `-inf` or NaN if a value is.
#[must_use]
pub(crate) fn mean(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let rough = ordered_sum(values.len(), |i| values[i]) / count;
    if !rough.is_finite() {
        return rough;
    }
    // A second pass removes the rounding of the first, which matters when the values are large and close together.
    rough + ordered_sum(values.len(), |i| values[i] - rough) / count
}

/// `sum (f_i - mean)^2 / (n - 1)`, two passes; NaN for fewer than two values or if one is not finite.
#[must_use]
pub(crate) fn variance(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return f64::NAN;
    }
    let mean = mean(values);
    ordered_sum(values.len(), |i| (values[i] - mean).powi(2)) / (values.len() - 1) as f64
}

/// The quantile of `sorted` (ascending) at `probability`, by linear interpolation between order statistics (Hyndman & Fan 1996, type 7).
///
/// NaN for an empty slice. Between `-inf` and a finite value the result is `-inf`.
///
/// # Panics
/// If the probability is outside `[0, 1]`.
#[must_use]
pub(crate) fn quantile(sorted: &[f64], probability: f64) -> f64 {
    assert!((0.0..=1.0).contains(&probability), "a quantile needs a probability in [0, 1], not {probability}");
    if sorted.is_empty() {
        return f64::NAN;
    }
    let position = probability * (sorted.len() - 1) as f64;
    let below = position.floor() as usize;
    let above = position.ceil() as usize;
    let fraction = position - below as f64;
    // Where an infinity is involved, interpolation would give inf - inf.
    if fraction == 0.0 || sorted[below] == sorted[above] || sorted[below] == f64::NEG_INFINITY {
        return sorted[below];
    }
    sorted[below] + fraction * (sorted[above] - sorted[below])
}

/// How evenly the weights `w_i = exp f_i` are spread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct WeightConcentration {
    /// `(sum w)^2 / sum w^2` (Kong 1992): `n` for equal weights, 1 when one carries all. NaN when the sum is zero, infinite or NaN.
    pub effective_sample_size: f64,
    /// `max w / sum w`; NaN when the sum is zero, infinite or NaN.
    pub largest_share: f64,
}

/// Effective sample size and largest share of the weights `exp f_i`; both are unchanged when a constant is added to every `f_i`.
#[must_use]
pub(crate) fn weight_concentration(log_values: &[f64]) -> WeightConcentration {
    let max = maximum(log_values);
    if !max.is_finite() {
        return WeightConcentration { effective_sample_size: f64::NAN, largest_share: f64::NAN };
    }
    let sum = ordered_sum(log_values.len(), |i| (log_values[i] - max).exp());
    let squares = ordered_sum(log_values.len(), |i| (2.0 * (log_values[i] - max)).exp());
    WeightConcentration { effective_sample_size: sum * sum / squares, largest_share: sum.recip() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn small_cases_by_hand() {
        let values = [0.0, 3.0f64.ln()];
        assert!((log_mean_exp(&values) - 2.0f64.ln()).abs() < 1e-15);
        let weights = weight_concentration(&values);
        assert!((weights.effective_sample_size - 1.6).abs() < 1e-14);
        assert!((weights.largest_share - 0.75).abs() < 1e-15);
        assert_eq!(log_mean_exp(&[-2_952_411.25; 7]), -2_952_411.25);
        assert_eq!(mean(&[1e16, 1e16, 1e16]), 1e16);
        assert!((variance(&[1e9, 1e9 + 1.0, 1e9 + 2.0]) - 1.0).abs() < 1e-12);
        assert!((quantile(&[1.0, 2.0, 4.0], 0.75) - 3.0).abs() < 1e-15);
    }

    #[test]
    fn infinities_and_nan() {
        let none = f64::NEG_INFINITY;
        assert!((log_mean_exp(&[none, 0.0]) + 2.0f64.ln()).abs() < 1e-15);
        assert_eq!(log_mean_exp(&[none, none]), none);
        assert_eq!(log_mean_exp(&[f64::INFINITY, 0.0]), f64::INFINITY);
        assert!(log_mean_exp(&[f64::NAN, 0.0]).is_nan());
        assert!(log_mean_exp(&[0.0, f64::NAN, f64::INFINITY]).is_nan());
        assert!(log_mean_exp(&[]).is_nan());
        assert!(weight_concentration(&[none, none]).effective_sample_size.is_nan());
        assert_eq!(quantile(&[none, none, 1.0], 0.25), none);
        assert_eq!(quantile(&[none, none, 1.0], 0.75), none);
        assert_eq!(quantile(&[none, none, 1.0], 1.0), 1.0);
        assert!(variance(&[1.0]).is_nan());
    }

    proptest! {
        #[test]
        fn log_mean_exp_stays_within_its_bounds(values in prop::collection::vec(-1e6..1e3f64, 1..200)) {
            let max = maximum(&values);
            let result = log_mean_exp(&values);
            let slack = 1e-15 * max.abs() + 1e-14;
            prop_assert!(result <= max + slack);
            prop_assert!(result >= max - (values.len() as f64).ln() - slack);
        }

        #[test]
        fn log_mean_exp_shifts_with_its_values(values in prop::collection::vec(-50.0..50.0f64, 1..100), shift in -1e5..1e5f64) {
            let shifted: Vec<f64> = values.iter().map(|v| v + shift).collect();
            prop_assert!((log_mean_exp(&shifted) - log_mean_exp(&values) - shift).abs() < 1e-10);
        }

        #[test]
        fn concentration_is_between_one_and_all(values in prop::collection::vec(-500.0..500.0f64, 1..100)) {
            let weights = weight_concentration(&values);
            prop_assert!(weights.effective_sample_size >= 1.0 - 1e-12);
            prop_assert!(weights.effective_sample_size <= values.len() as f64 * (1.0 + 1e-12));
            prop_assert!(weights.largest_share >= 1.0 / values.len() as f64 - 1e-12 && weights.largest_share <= 1.0);
            // The largest share bounds the effective sample size on both sides.
            prop_assert!(weights.effective_sample_size <= weights.largest_share.powi(-2) * (1.0 + 1e-12));
            prop_assert!(weights.effective_sample_size >= weights.largest_share.recip() * (1.0 - 1e-12));
        }
    }
}
