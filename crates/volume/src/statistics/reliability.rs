//! Can the log-mean-exp be believed? A verdict from the weights, and the words that go with it.

use serde::{Deserialize, Serialize};

use crate::radius_search::Outcome;
use crate::statistics::moments::{WeightConcentration, maximum, weight_concentration};
use crate::statistics::pareto::pareto_k;

/// Effective sample size from which the studentised bootstrap covers, whatever the number of samples.
const ENOUGH_EFFECTIVE_SAMPLES: f64 = 20.0;

/// Largest share of one sample in an estimate that counts as determined.
const LARGEST_SHARE_LIMIT: f64 = 0.2;

/// Pareto `k` from which the mean of the samples says little about the mean of the distribution (Vehtari et al. 2024).
const PARETO_K_LIMIT: f64 = 0.7;

/// Share of the spread explained by search error from which it is mentioned.
const SEARCH_ERROR_SHARE_LIMIT: f64 = 0.1;

/// Root-mean-square search error, in nats, below which it is not worth a word.
const SEARCH_ERROR_NATS_LIMIT: f64 = 0.01;

/// How far the log-mean-exp of a set of samples can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reliability {
    /// Many samples share the estimate: the interval is two-sided.
    WellDetermined,
    /// One or a few samples carry the estimate: a lower bound in practice, upper end unknown.
    CarriedByFewSamples,
    /// The upper tail of the weights is so heavy (Pareto `k >= 0.7`) that larger weights are likely still to come: upper end unknown.
    HeavyTail,
    /// Too few samples to see how the weights are spread: upper end unknown.
    TooFewSamples,
    /// No usable weight: no samples, all weights zero, or an infinite or NaN value among them.
    Degenerate,
}

impl Reliability {
    /// The verdict on log-values `f_i` with weights `exp f_i`. With effective sample size `ESS`:
    ///
    /// - [`Reliability::Degenerate`] if the largest value is not finite (or there is none, or a NaN);
    /// - well spread if `ESS >= 20`, or `ESS >= 10` and `ESS >= 0.6 n`, or `n >= 5` and `ESS >= 0.95 n`, or `n >= 2` and all are equal;
    ///   otherwise [`Reliability::TooFewSamples`] (`n < 20` and `ESS >= 0.6 n`) or [`Reliability::CarriedByFewSamples`];
    /// - [`Reliability::CarriedByFewSamples`] also if one sample has more than 20 % of an estimate of 10 samples or more;
    /// - [`Reliability::HeavyTail`] if Pareto `k >= 0.7`.
    ///
    /// The limits were tuned by the simulation that the interval's module describes.
    #[must_use]
    pub fn of(log_values: &[f64]) -> Self {
        Self::judge(log_values, weight_concentration(log_values), pareto_k(log_values))
    }

    pub(crate) fn judge(log_values: &[f64], weights: WeightConcentration, pareto_k: Option<f64>) -> Self {
        let count = log_values.len() as f64;
        let size = weights.effective_sample_size;
        if !maximum(log_values).is_finite() {
            return Self::Degenerate;
        }
        // The same value every time: nothing to tell apart, and no tail to fit.
        if log_values.len() >= 2 && log_values.iter().all(|f| *f == log_values[0]) {
            return Self::WellDetermined;
        }
        let spread = size >= ENOUGH_EFFECTIVE_SAMPLES || (size >= 10.0 && size >= 0.6 * count) || (count >= 5.0 && size >= 0.95 * count);
        if !spread {
            let too_few = count < ENOUGH_EFFECTIVE_SAMPLES && size >= 0.6 * count;
            return if too_few { Self::TooFewSamples } else { Self::CarriedByFewSamples };
        }
        // Below ten samples an equal share is already large.
        if count >= 10.0 && weights.largest_share > LARGEST_SHARE_LIMIT {
            return Self::CarriedByFewSamples;
        }
        if pareto_k.is_some_and(|k| k >= PARETO_K_LIMIT) {
            return Self::HeavyTail;
        }
        Self::WellDetermined
    }

    /// Whether an interval with an upper end can be stated.
    #[must_use]
    pub fn is_two_sided(self) -> bool {
        self == Self::WellDetermined
    }
}

/// How many rays ended in which way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeCounts {
    /// Rays with [`Outcome::Converged`].
    pub converged: usize,
    /// Rays with [`Outcome::Unbounded`]: infinite radius.
    pub unbounded: usize,
    /// Rays with [`Outcome::NonMonotone`].
    pub non_monotone: usize,
    /// Rays with [`Outcome::NotFinite`].
    pub not_finite: usize,
    /// Rays with [`Outcome::Unresolved`].
    pub unresolved: usize,
    /// Rays with [`Outcome::BudgetExhausted`].
    pub budget_exhausted: usize,
}

impl OutcomeCounts {
    /// Counts one ray.
    pub fn record(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Converged => self.converged += 1,
            Outcome::Unbounded => self.unbounded += 1,
            Outcome::NonMonotone => self.non_monotone += 1,
            Outcome::NotFinite => self.not_finite += 1,
            Outcome::Unresolved => self.unresolved += 1,
            Outcome::BudgetExhausted => self.budget_exhausted += 1,
        }
    }

    /// All rays counted.
    #[must_use]
    pub fn total(&self) -> usize {
        self.converged + self.unbounded + self.non_monotone + self.not_finite + self.unresolved + self.budget_exhausted
    }
}

impl FromIterator<Outcome> for OutcomeCounts {
    fn from_iter<I: IntoIterator<Item = Outcome>>(outcomes: I) -> Self {
        let mut counts = Self::default();
        outcomes.into_iter().for_each(|outcome| counts.record(outcome));
        counts
    }
}

/// What the words are chosen from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Evidence<'a> {
    pub reliability: Reliability,
    pub count: usize,
    pub weights: WeightConcentration,
    pub pareto_k: Option<f64>,
    pub search_error_share: Option<f64>,
    pub search_error_nats: f64,
    pub largest: f64,
    pub outcomes: &'a OutcomeCounts,
}

/// Plain sentences for the summary, the gravest first; empty when there is nothing to warn about.
pub(crate) fn warnings(evidence: &Evidence<'_>) -> Vec<String> {
    let mut words = Vec::new();
    words.extend(reliability_words(evidence));
    words.extend(search_words(evidence));
    words.extend(outcome_words(evidence.outcomes));
    words
}

const REMEDY: &str = "More samples of the same kind will hardly help: use a (better) preconditioner or another estimator.";

fn percent(share: f64) -> String {
    // Never round a share up to the whole.
    format!("{:.1} %", (1000.0 * share).min(if share < 1.0 { 999.0 } else { 1000.0 }) / 10.0)
}

fn reliability_words(evidence: &Evidence<'_>) -> Option<String> {
    let Evidence { count, weights, pareto_k, .. } = *evidence;
    let size = weights.effective_sample_size;
    match evidence.reliability {
        Reliability::WellDetermined => None,
        Reliability::CarriedByFewSamples if weights.largest_share > 0.5 => Some(format!(
            "One sample carries {} of the estimate (effective sample size {size:.1} of {count}): it is a lower bound in practice, and its upper end is unknown. {REMEDY}",
            percent(weights.largest_share)
        )),
        Reliability::CarriedByFewSamples => Some(format!(
            "A few samples carry the estimate (effective sample size {size:.1} of {count}, the largest has {}): it is a lower bound in practice, and its upper end is unknown. \
             If ten times as many samples do not raise the effective sample size above 20, use a (better) preconditioner or another estimator.",
            percent(weights.largest_share)
        )),
        Reliability::HeavyTail => Some(format!(
            "The largest samples have a heavy tail (Pareto k {:.2}, above {PARETO_K_LIMIT}): samples larger than any seen are likely, so the estimate is a lower bound in practice and its upper end is unknown. {REMEDY}",
            pareto_k.unwrap_or(f64::NAN)
        )),
        Reliability::TooFewSamples if count == 1 => {
            Some("There is only one sample: the upper end of the estimate is unknown. Draw at least 20.".into())
        }
        Reliability::TooFewSamples => Some(format!(
            "There are only {count} samples, too few to see how the log-volumes are spread: the upper end of the estimate is unknown. Draw at least 20."
        )),
        Reliability::Degenerate if count == 0 => Some("There are no samples yet.".into()),
        Reliability::Degenerate if evidence.largest == f64::NEG_INFINITY => {
            Some("Every sample has volume zero: the cost is above the cutoff at the center itself, or the cutoff is below what the cost can resolve.".into())
        }
        Reliability::Degenerate if evidence.largest == f64::INFINITY => Some(
            "A sample has infinite volume: under the flat (Lebesgue) prior a ray that never reaches the cutoff has no finite volume. Use the Gaussian or the spherical prior.".into(),
        ),
        Reliability::Degenerate => {
            Some("A log-volume is NaN, so there is no estimate: look for it in the samples, and check the weights and the cost.".into())
        }
    }
}

fn search_words(evidence: &Evidence<'_>) -> Option<String> {
    let share = evidence.search_error_share?;
    (share > SEARCH_ERROR_SHARE_LIMIT && evidence.search_error_nats > SEARCH_ERROR_NATS_LIMIT).then(|| {
        format!(
            "Errors of the radius search (bounds of {:.2} nats, root mean square) explain {}{} of the spread between samples: lower `radius_tolerance`, or raise the precision of the cost.",
            evidence.search_error_nats,
            if share < 1.0 { "as much as " } else { "" },
            percent(share)
        )
    })
}

fn outcome_words(outcomes: &OutcomeCounts) -> Vec<String> {
    let total = outcomes.total();
    let mut words = Vec::new();
    let mut say = |count: usize, one: &str, many: &str, rest: &str| {
        if count > 0 {
            let subject = if total == 1 { "The only ray".to_owned() } else { format!("{count} of {total} rays") };
            words.push(format!("{subject} {}{rest}", if count == 1 { one } else { many }));
        }
    };
    say(
        outcomes.unbounded,
        "does not reach",
        "do not reach",
        " the cutoff as far as the prior has mass: the radius counts as infinite, with all of the prior's mass along the ray. Check that the cutoff is below the cost of unrelated weights.",
    );
    say(
        outcomes.non_monotone,
        "comes",
        "come",
        " back under the cutoff further out: only the part up to the first crossing found counts, and earlier crossings may have been missed.",
    );
    say(
        outcomes.not_finite,
        "meets",
        "meet",
        " a cost that is NaN or infinite where the radius ends: such points count as above the cutoff. Check the precision of the forward pass.",
    );
    say(
        outcomes.budget_exhausted,
        "did",
        "did",
        " not converge within the evaluations allowed: see radius_error_nats of the samples; a cost that is noisy or full of jumps needs a larger `radius_tolerance`.",
    );
    say(
        outcomes.unresolved,
        "crosses",
        "cross",
        " a cutoff that is no larger than the rounding noise of the cost, so that the radius is not known: use a larger `cutoff`.",
    );
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let spread: Vec<f64> = (0..100).map(|i| 0.5 * f64::from(i % 10) / 10.0).collect();
        let mut carried = spread.clone();
        carried[40] = 300.0;
        let mut heavy: Vec<f64> = (1..=1000).map(|i| -0.9 * (f64::from(i) / 1001.0).ln()).collect();
        heavy.reverse();
        let cases: Vec<(&str, Vec<f64>, Reliability)> = vec![
            ("spread", spread, Reliability::WellDetermined),
            ("one large", carried, Reliability::CarriedByFewSamples),
            ("Pareto 0.9", heavy, Reliability::HeavyTail),
            ("none", vec![], Reliability::Degenerate),
            ("one", vec![3.0], Reliability::TooFewSamples),
            ("two equal", vec![3.0; 2], Reliability::WellDetermined),
            ("three near", vec![0.0, 0.1, 0.2], Reliability::TooFewSamples),
            ("five near", vec![0.0, 0.1, 0.2, 0.05, 0.1], Reliability::WellDetermined),
            ("nine wide", (0..9).map(f64::from).collect(), Reliability::CarriedByFewSamples),
            ("zero weights", vec![f64::NEG_INFINITY; 50], Reliability::Degenerate),
            ("half zero", (0..100).map(|i| if i % 2 == 0 { 0.0 } else { f64::NEG_INFINITY }).collect(), Reliability::WellDetermined),
            ("infinite", vec![0.0, f64::INFINITY], Reliability::Degenerate),
            ("nan", vec![0.0, f64::NAN], Reliability::Degenerate),
        ];
        let wrong: Vec<_> =
            cases.iter().filter(|(_, f, expected)| Reliability::of(f) != *expected).map(|(n, f, _)| (n, Reliability::of(f))).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    #[test]
    fn shares_are_not_rounded_up_to_the_whole() {
        assert_eq!(percent(0.9984), "99.8 %");
        assert_eq!(percent(0.99999), "99.9 %");
        assert_eq!(percent(1.0), "100.0 %");
    }

    #[test]
    fn every_bad_outcome_gets_a_sentence() {
        let counts: OutcomeCounts = [
            Outcome::Converged,
            Outcome::Unbounded,
            Outcome::NonMonotone,
            Outcome::NonMonotone,
            Outcome::NotFinite,
            Outcome::BudgetExhausted,
        ]
        .into_iter()
        .collect();
        let words = outcome_words(&counts);
        assert_eq!(words.len(), 4);
        assert!(words[0].starts_with("1 of 6 rays does not reach"));
        assert!(words[1].starts_with("2 of 6 rays come back"));
        assert!(outcome_words(&[Outcome::Converged].into_iter().collect()).is_empty());
    }
}
