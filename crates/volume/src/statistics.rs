//! How samples combine: the log-mean-exp with an honest interval, and what says whether it can be believed.
//!
//! Input are log-values `f_i` in nats, one per sample, sorted by index; their weights are `w_i = exp f_i`. `-inf` is a weight of zero.
//!
//! | what | where |
//! |---|---|
//! | log-mean-exp, mean, spread, quantiles, effective sample size, largest share | `moments` |
//! | Pareto `k` of the upper tail | `pareto` |
//! | the interval, its measured coverage, linear combinations | `interval` |
//! | the verdict and its words, outcome counts | `reliability` |

mod interval;
mod moments;
mod pareto;
mod reliability;

use serde::{Deserialize, Serialize};

pub use interval::{Interval, IntervalSettings};
pub(crate) use interval::{log_linear_combination, mean_interval, student_quantile};
pub use moments::log_mean_exp;
pub(crate) use moments::{maximum, mean, minimum, quantile, variance};
pub use reliability::{OutcomeCounts, Reliability};

use crate::special::ordered_sum;
use moments::weight_concentration;
use pareto::pareto_k;

/// Probabilities of the quantiles reported.
const QUANTILE_PROBABILITIES: [f64; 5] = [0.05, 0.25, 0.5, 0.75, 0.95];

/// One quantile of the log-values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Quantile {
    /// Part of the samples below.
    pub probability: f64,
    /// The log-value there, nats. Not finite: `null` in JSON, NaN when read back.
    #[serde(deserialize_with = "null_is_nan")]
    pub value: f64,
}

/// What the log-mean-exp is made of, and what says how far it can be believed. In JSON every number that is not finite is `null` (and read back
/// as NaN or `None`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Diagnostics {
    /// Confidence level of the interval.
    pub level: f64,
    /// Mean of `f`, nats. Never above the log-mean-exp.
    #[serde(deserialize_with = "null_is_nan")]
    pub mean: f64,
    /// Standard deviation of `f` (with `n - 1`), nats; not defined for one sample.
    #[serde(deserialize_with = "null_is_nan")]
    pub sd: f64,
    /// Smallest `f`, nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub min: f64,
    /// Largest `f`, nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub max: f64,
    /// Quantiles of `f`: of 5, 25, 50, 75 and 95 %.
    pub quantiles: Vec<Quantile>,
    /// `(sum w)^2 / sum w^2`.
    #[serde(deserialize_with = "null_is_nan")]
    pub effective_sample_size: f64,
    /// `max w / sum w`.
    #[serde(deserialize_with = "null_is_nan")]
    pub largest_share: f64,
    /// Shape `k` of the upper tail of the weights, as of a Pareto distribution (Vehtari et al. 2024); 0.7 and more is heavy. None where it cannot be told.
    pub pareto_k: Option<f64>,
    /// Part of the variance of `f` that the error bounds `e` of the radius search could explain, `mean(e^2) / variance(f)`, at most 1.
    pub search_error_share: Option<f64>,
    /// The verdict.
    pub reliability: Reliability,
}

/// Everything said about a set of samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// `ln( (1/n) sum exp f_i )`, nats: the estimate.
    pub log_mean_exp: f64,
    /// Its confidence interval, nats, the error bounds of the radius search included ([`summarize`]).
    pub interval: Interval,
    /// What the estimate is made of.
    pub diagnostics: Diagnostics,
    /// Plain sentences on what is wrong and what to do, the gravest first; empty when nothing is.
    pub warnings: Vec<String>,
}

/// Part of the spread between samples that search error explains: `mean(e_i^2) / variance(f)`, clipped to `[0, 1]`, with `e_i` the
/// error bound of the radius of sample `i` in nats. Bounds are not standard deviations, so this is an upper value.
///
/// `None` for fewer than two samples, and where a value is not finite. Without any spread it is 0 if there is no error either, else 1.
///
/// # Panics
/// If the lengths differ.
#[must_use]
fn search_error_share(log_values: &[f64], radius_errors_nats: &[f64]) -> Option<f64> {
    assert_eq!(log_values.len(), radius_errors_nats.len(), "one search error per sample");
    let variance = variance(log_values);
    let error = root_mean_square(radius_errors_nats).powi(2);
    if variance.is_nan() || error.is_nan() {
        return None;
    }
    Some(if error == 0.0 { 0.0 } else { (error / variance).min(1.0) })
}

fn root_mean_square(values: &[f64]) -> f64 {
    (ordered_sum(values.len(), |i| values[i] * values[i]) / values.len() as f64).sqrt()
}

/// How much lower and how much higher, in nats, the log-mean-exp would be if every sample were off by its whole error bound `e_i`, all in
/// the same direction: `(lme(f) - lme(f - e), lme(f + e) - lme(f))`. Both are `>= 0`; the second is infinite if a bound is.
///
/// # Panics
/// If the lengths differ.
#[must_use]
pub(crate) fn search_error_range(log_values: &[f64], radius_errors_nats: &[f64]) -> (f64, f64) {
    assert_eq!(log_values.len(), radius_errors_nats.len(), "one search error per sample");
    let estimate = log_mean_exp(log_values);
    // A weight of zero stays zero, whatever its error.
    let moved = |sign: f64| -> f64 {
        let ends = log_values.iter().zip(radius_errors_nats).map(|(f, e)| if *f == f64::NEG_INFINITY { *f } else { f + sign * e });
        sign * (log_mean_exp(&ends.collect::<Vec<f64>>()) - estimate)
    };
    (moved(-1.0).max(0.0), moved(1.0).max(0.0))
}

/// Summary of samples sorted by index: their log-values `f_i` and the error bounds of their radii, both in nats, and how the rays ended.
///
/// The interval is a studentised bootstrap where enough samples share the estimate, else the lower end alone. It is widened by what the bounds of the
/// radius search allow: the errors of a root search may all have the same sign, so more samples don't average them away.
///
/// # Panics
/// If the lengths differ or the level is outside (0, 1).
#[must_use]
pub fn summarize(log_values: &[f64], radius_errors_nats: &[f64], outcomes: &OutcomeCounts, settings: IntervalSettings) -> Summary {
    let weights = weight_concentration(log_values);
    let pareto_k = pareto_k(log_values);
    let reliability = Reliability::judge(log_values, weights, pareto_k);
    let search_error_share = search_error_share(log_values, radius_errors_nats);
    let mut sorted = log_values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let max = maximum(log_values);
    let (below, above) = search_error_range(log_values, radius_errors_nats);
    let warnings = reliability::warnings(&reliability::Evidence {
        reliability,
        count: log_values.len(),
        weights,
        pareto_k,
        search_error_share,
        search_error_nats: root_mean_square(radius_errors_nats),
        largest: max,
        outcomes,
    });
    Summary {
        log_mean_exp: log_mean_exp(log_values),
        interval: interval::interval_given(log_values, reliability, settings).widened(below, above),
        diagnostics: Diagnostics {
            level: settings.level,
            mean: mean(log_values),
            sd: variance(log_values).sqrt(),
            min: minimum(log_values),
            max,
            quantiles: QUANTILE_PROBABILITIES
                .into_iter()
                .map(|probability| Quantile { probability, value: quantile(&sorted, probability) })
                .collect(),
            effective_sample_size: weights.effective_sample_size,
            largest_share: weights.largest_share,
            pareto_k,
            search_error_share,
            reliability,
        },
        warnings,
    }
}

pub(crate) fn null_is_nan<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

pub(crate) fn nulls_are_nan<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    Ok(Vec::<Option<f64>>::deserialize(deserializer)?.into_iter().map(|value| value.unwrap_or(f64::NAN)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::radius_search::Outcome;

    fn summary_of(values: &[f64], errors: f64) -> Summary {
        let outcomes = values.iter().map(|_| Outcome::Converged).collect();
        summarize(values, &vec![errors; values.len()], &outcomes, IntervalSettings::default())
    }

    #[test]
    fn a_well_spread_set_has_no_warnings() {
        let values: Vec<f64> = (0..100).map(|i| -1000.0 + f64::from((37 * i) % 100) / 100.0).collect();
        let summary = summary_of(&values, 1e-3);
        assert_eq!(summary.diagnostics.reliability, Reliability::WellDetermined);
        assert!(summary.warnings.is_empty(), "{:?}", summary.warnings);
        assert!(summary.interval.contains(summary.log_mean_exp));
        assert!(summary.diagnostics.mean < summary.log_mean_exp);
        let quantiles = &summary.diagnostics.quantiles;
        assert!(quantiles.windows(2).all(|pair| pair[0].value < pair[1].value));
        assert!(summary.diagnostics.min < quantiles[0].value && quantiles[4].value < summary.diagnostics.max);
    }

    #[test]
    fn a_set_carried_by_one_sample_says_so() {
        let mut values: Vec<f64> = (0..100).map(|i| -542_000.0 - 40.0 * f64::from(i)).collect();
        values[7] = -541_000.0;
        let summary = summary_of(&values, 0.5);
        assert_eq!(summary.interval.high, None);
        // Markov's bound, and the search error of 0.5 nats on top.
        assert!((summary.interval.low - (summary.log_mean_exp - 20.0f64.ln() - 0.5)).abs() < 1e-9);
        assert!(summary.warnings[0].starts_with("One sample carries"), "{:?}", summary.warnings);
        assert!(summary.warnings[0].contains("lower bound") && summary.warnings[0].contains("preconditioner"));
        assert!((summary.diagnostics.effective_sample_size - 1.0).abs() < 1e-9);
    }

    #[test]
    fn search_error_is_reported_when_it_matters() {
        let values: Vec<f64> = (0..100).map(|i| f64::from(i % 10) / 10.0).collect();
        let noisy = summary_of(&values, 0.2);
        let share = noisy.diagnostics.search_error_share.unwrap();
        assert!((share - 0.04 / variance(&values)).abs() < 1e-12);
        assert!(noisy.warnings.iter().any(|w| w.contains("radius search")));
        assert_eq!(summary_of(&values, 5.0).diagnostics.search_error_share, Some(1.0));
        assert_eq!(summary_of(&[1.0; 30], 0.0).diagnostics.search_error_share, Some(0.0));
        assert_eq!(summary_of(&[1.0; 30], 1e-9).diagnostics.search_error_share, Some(1.0));
        assert!(summary_of(&[1.0; 30], 1e-9).warnings.is_empty());
        assert_eq!(summary_of(&[1.0], 1.0).diagnostics.search_error_share, None);
    }

    #[test]
    fn the_interval_includes_the_search_error() {
        let values: Vec<f64> = (0..100).map(|i| f64::from(i % 10) / 10.0).collect();
        let (exact, bounded) = (summary_of(&values, 0.0).interval, summary_of(&values, 0.25).interval);
        assert!((exact.low - bounded.low - 0.25).abs() < 1e-12);
        assert!((bounded.high.unwrap() - exact.high.unwrap() - 0.25).abs() < 1e-12);
        // One ray of unknown length: the lower end loses that ray, the upper end is unknown.
        let mut errors = vec![0.0; 100];
        errors[0] = f64::INFINITY;
        let (below, above) = search_error_range(&values, &errors);
        assert!(below > 0.0 && below < 0.02 && above == f64::INFINITY, "{below} {above}");
        let interval = summarize(&values, &errors, &OutcomeCounts::default(), IntervalSettings::default()).interval;
        assert!(interval.high.is_none() && (interval.low - (exact.low - below)).abs() < 1e-12);
        assert_eq!(search_error_range(&[f64::NEG_INFINITY, 0.0], &[f64::INFINITY, 0.0]), (0.0, 0.0));
    }

    #[test]
    fn json_has_the_promised_fields_and_nulls() {
        let summary = summary_of(&[f64::NEG_INFINITY; 3], 0.0);
        let json = serde_json::to_value(&summary.diagnostics).unwrap();
        for field in ["level", "mean", "sd", "min", "max", "quantiles", "effective_sample_size", "largest_share", "pareto_k"] {
            assert!(json.get(field).is_some(), "{field}");
        }
        assert!(json["mean"].is_null() && json["reliability"] == "degenerate");
        let back: Diagnostics = serde_json::from_value(json).unwrap();
        assert!(back.mean.is_nan() && back.reliability == Reliability::Degenerate);
        let good = summary_of(&[0.0, 0.1, 0.05, 0.02, 0.07, 0.03], 0.0).diagnostics;
        assert_eq!(serde_json::from_str::<Diagnostics>(&serde_json::to_string(&good).unwrap()).unwrap(), good);
    }
}
