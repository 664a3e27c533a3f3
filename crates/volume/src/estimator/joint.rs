//! Several costs on the same rays: the set where each stays under the cutoff, the set where all do, and how these depend on each other.
//!
//! Along one ray the largest of the costs first crosses the cutoff where the first of them does, so samples of every cost with the same
//! directions give those of all costs together without another evaluation. The probabilities share their random numbers, and what the
//! rays have in common cancels from the error of
//!
//! ```text
//! dependence = ln P(all) - sum_k ln P(k)
//! ```
//!
//! in nats: 0 for independent sets, `-ln P(larger)` for nested ones, `-inf` for sets that share nothing. Given a reference set, inside which all the
//! others are looked at,
//!
//! ```text
//! dependence given R = ln P(all, R) - sum_k ln P(k, R) + (n - 1) ln P(R)
//! ```
//!
//! which is that of the probabilities `P(. | R)`: what every behaviour shares because it is one of this network leaves it.

use serde::{Deserialize, Serialize};

use crate::estimator::radial::Sample;
use crate::run::answer::Answer;
use crate::statistics::{Interval, IntervalSettings, log_linear_combination, log_mean_exp, null_is_nan, nulls_are_nan, search_error_range};

/// `ln P(all) - sum_k ln P(k)` with its interval. In JSON numbers that are not finite are `null`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dependence {
    /// Nats; more than zero where the sets attract each other.
    pub nats: Option<f64>,
    /// Its interval, the error bounds of the radius search included; `None` unless every estimate has two ends.
    pub interval: Option<Interval>,
    /// Confidence level of the interval.
    pub level: f64,
    /// Number of rays that every part has.
    pub rays: usize,
}

/// The samples that are in all parts, each sorted by index: one row for each index.
pub(crate) fn rows<'a>(parts: &[&'a [Sample]]) -> Vec<Vec<&'a Sample>> {
    let Some((first, others)) = parts.split_first() else { return Vec::new() };
    let mut rest: Vec<std::iter::Peekable<std::slice::Iter<'a, Sample>>> = others.iter().map(|samples| samples.iter().peekable()).collect();
    let row = |sample: &'a Sample| {
        let mut row = vec![sample];
        for samples in &mut rest {
            while samples.next_if(|other| other.index < sample.index).is_some() {}
            row.push(samples.next_if(|other| other.index == sample.index)?);
        }
        Some(row)
    };
    first.iter().filter_map(row).collect()
}

/// The samples of the largest of the costs, from those of each cost (sorted by index) along the same rays; indices that a part lacks are
/// left out.
///
/// Everything about the crossing is that of the cost which crosses first. The bound of its error covers that another crosses before; the
/// evaluations are those of all.
#[must_use]
pub fn first_crossings(parts: &[&[Sample]]) -> Vec<Sample> {
    rows(parts)
        .into_iter()
        .filter_map(|row| {
            let lower_end = |sample: &Sample| {
                if sample.radius_error_nats == 0.0 { sample.log_volume } else { sample.log_volume - sample.radius_error_nats }
            };
            let first = *row.iter().min_by(|a, b| a.radius.total_cmp(&b.radius))?;
            let lowest = *row.iter().min_by(|a, b| lower_end(a).total_cmp(&lower_end(b)))?;
            let error = if lowest.index == first.index && std::ptr::eq(lowest, first) {
                first.radius_error_nats
            } else {
                first.radius_error_nats.max(first.log_volume - lower_end(lowest))
            };
            Some(Sample {
                radius_error_nats: error,
                // Where another cost may cross before, how its search ended decides.
                outcome: if lower_end(lowest) < lower_end(first) { lowest.outcome } else { first.outcome },
                evaluations: row.iter().map(|sample| sample.evaluations).sum(),
                not_finite: row.iter().map(|sample| sample.not_finite).sum(),
                costs_by_part: None,
                volumes_by_part: None,
                profile: None,
                ..first.clone()
            })
        })
        .collect()
}

/// The dependence of the sets of these costs, from their samples (sorted by index) along the same rays.
#[must_use]
pub fn dependence(parts: &[&[Sample]], settings: IntervalSettings) -> Dependence {
    let common = common(parts);
    let mut terms = vec![Term { samples: first_crossings(&slices(&common)), sign: 1.0 }];
    terms.extend(common.into_iter().map(|samples| Term { samples, sign: -1.0 }));
    combined(&terms, settings)
}

/// The dependence of sets given a reference set, and the volumes that it is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GivenReference {
    /// `ln P(all, R) - sum_k ln P(k, R) + (n - 1) ln P(R)`.
    #[serde(flatten)]
    pub dependence: Dependence,
    /// `ln P(k, R)` of every set, nats.
    #[serde(deserialize_with = "nulls_are_nan")]
    pub parts: Vec<f64>,
    /// `ln P(all, R)`, nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub all: f64,
    /// `ln P(R)`, nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub reference: f64,
}

impl GivenReference {
    /// What sets would have one of which lies in all the others: minus the largest of `ln P(k | R)`, nats.
    #[must_use]
    pub fn nested(&self) -> f64 {
        self.reference - self.parts.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }
}

/// The dependence given the set of a reference's cost, from samples (sorted by index) along the same rays; those of the reference at its own cutoff.
#[must_use]
pub fn dependence_given(parts: &[&[Sample]], reference: &[Sample], settings: IntervalSettings) -> GivenReference {
    let every: Vec<&[Sample]> = parts.iter().copied().chain([reference]).collect();
    let mut common = common(&every);
    let reference = common.pop().unwrap_or_default();
    let inside: Vec<Vec<Sample>> = common.iter().map(|part| first_crossings(&[part, &reference])).collect();
    let all = first_crossings(&slices(&inside));
    let others = parts.len() as f64 - 1.0;
    let mut terms = vec![Term { samples: all, sign: 1.0 }];
    terms.extend(inside.into_iter().map(|samples| Term { samples, sign: -1.0 }));
    terms.push(Term { samples: reference, sign: others });
    let volume = |term: &Term| log_mean_exp(&term.log_volumes());
    GivenReference {
        dependence: combined(&terms, settings),
        parts: terms[1..terms.len() - 1].iter().map(volume).collect(),
        all: volume(&terms[0]),
        reference: volume(&terms[terms.len() - 1]),
    }
}

/// A volume in a sum of logarithms.
struct Term {
    samples: Vec<Sample>,
    sign: f64,
}

impl Term {
    fn log_volumes(&self) -> Vec<f64> {
        self.samples.iter().map(|sample| sample.log_volume).collect()
    }
}

/// Those samples of every part whose index is in all.
fn common(parts: &[&[Sample]]) -> Vec<Vec<Sample>> {
    let rows = rows(parts);
    (0..parts.len()).map(|k| rows.iter().map(|row| row[k].clone()).collect()).collect()
}

fn slices(parts: &[Vec<Sample>]) -> Vec<&[Sample]> {
    parts.iter().map(Vec::as_slice).collect()
}

/// A sum of logarithms of volumes along the same rays, with its interval.
fn combined(terms: &[Term], settings: IntervalSettings) -> Dependence {
    let columns: Vec<Vec<f64>> = terms.iter().map(Term::log_volumes).collect();
    let signed: Vec<(&[f64], f64)> = columns.iter().zip(terms).map(|(f, term)| (f.as_slice(), term.sign)).collect();
    let found = log_linear_combination(&signed, settings);
    // The bounds of every search in the direction that hurts.
    let (mut below, mut above) = (0.0, 0.0);
    for (f, term) in columns.iter().zip(terms) {
        let errors: Vec<f64> = term.samples.iter().map(|sample| sample.radius_error_nats).collect();
        let (lower, higher) = search_error_range(f, &errors);
        let (lower, higher) = if term.sign > 0.0 { (lower, higher) } else { (higher, lower) };
        below += term.sign.abs() * lower;
        above += term.sign.abs() * higher;
    }
    Dependence {
        nats: found.value.is_finite().then_some(found.value),
        interval: found.interval.map(|interval| interval.widened(below, above)),
        level: settings.level,
        rays: terms.first().map_or(0, |term| term.samples.len()),
    }
}

/// The dependence from numbers that were found apart, and its interval: every number at the end of its own interval that hurts, since what ways
/// outward and back differ by is no random error, of which a part would cancel. `None` where a number, or an end, is unknown.
#[must_use]
pub fn dependence_of(all: &Answer, parts: &[&Answer]) -> (Option<f64>, Option<(f64, f64)>) {
    let sum = |value: fn(&Answer) -> Option<f64>| parts.iter().map(|part| value(part)).sum::<Option<f64>>();
    let number = |answer: &Answer| Some(answer.log_probability).filter(|value| value.is_finite());
    let low = |answer: &Answer| answer.interval.0;
    let high = |answer: &Answer| answer.interval.1;
    let difference = |a: Option<f64>, b: Option<f64>| Some(a? - b?);
    let ends = difference(low(all), sum(high)).zip(difference(high(all), sum(low)));
    (difference(number(all), sum(number)), ends)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::estimator::radial::{Directions, RadialEstimator};
    use crate::max_cost::MaxCost;
    use crate::objective::Objective;
    use crate::preconditioner::{Diagonal, Preconditioner};
    use crate::prior::Prior;
    use crate::question::Question;
    use crate::radius_search::Outcome;
    use crate::run::answer::{Measured, Trust};
    use crate::spec::{Proposal, RadialSpec};
    use crate::testkit::Ellipsoid;

    const CUTOFF: f64 = 0.01;

    fn sample(index: u64, log_volume: f64, error: f64, outcome: Outcome) -> Sample {
        Sample {
            index,
            radius: log_volume.exp(),
            radius_error_nats: error,
            norm: 1.0,
            center_dot: 0.0,
            dual_dot: None,
            cost: CUTOFF,
            evaluated_radius: 1.0,
            log_volume,
            slope: 2.0,
            evaluations: 3,
            not_finite: 1,
            outcome,
            costs_by_part: None,
            volumes_by_part: None,
            profile: Some(Vec::new()),
        }
    }

    #[test]
    fn numbers_that_were_found_apart_count_with_the_end_that_hurts() {
        let answer = |log_probability: f64, interval| Answer {
            estimator: "annealed".to_owned(),
            measures: Measured::Basin,
            quantity: String::new(),
            log_probability,
            learning_coefficient: None,
            interval,
            numerical_error: None,
            overlap: None,
            meaning: String::new(),
            trust: Trust::Answer,
            reasons: Vec::new(),
            bits_per_parameter: None,
            seconds: 0.0,
            gradients: 0,
            evaluations: 0,
        };
        let (a, b) = (answer(-100.0, (Some(-101.0), Some(-99.5))), answer(-50.0, (Some(-52.0), Some(-49.0))));
        let all = answer(-120.0, (Some(-124.0), Some(-119.0)));
        assert_eq!(dependence_of(&all, &[&a, &b]), (Some(30.0), Some((-124.0 + 148.5, -119.0 + 153.0))));
        let open = answer(-50.0, (Some(-52.0), None));
        assert_eq!(dependence_of(&all, &[&a, &open]), (Some(30.0), None));
        assert_eq!(dependence_of(&answer(f64::NAN, (None, None)), &[&a, &b]), (None, None));
    }

    #[test]
    fn the_first_crossing_of_the_row_is_taken_with_its_doubts() {
        let converged = Outcome::Converged;
        let a = [sample(0, -1.0, 0.1, converged), sample(2, -1.0, 0.1, converged), sample(3, -5.0, 0.0, converged)];
        let b = [sample(0, -2.0, 0.2, converged), sample(1, 0.0, 0.0, converged), sample(2, -0.9, 0.5, Outcome::BudgetExhausted)];
        let all = first_crossings(&[&a, &b]);
        assert_eq!(all.iter().map(|s| s.index).collect::<Vec<_>>(), [0, 2]);
        assert_eq!((all[0].log_volume, all[0].radius_error_nats, all[0].evaluations, all[0].not_finite), (-2.0, 0.2, 6, 2));
        // The second may cross at -1.4 already.
        assert_eq!((all[1].log_volume, all[1].outcome, &all[1].profile), (-1.0, Outcome::BudgetExhausted, &None));
        assert!((all[1].radius_error_nats - 0.4).abs() < 1e-12);
        assert!(first_crossings(&[]).is_empty());
    }

    /// Two ellipsoids of blocks of coordinates that share nothing: a product of probabilities, and none along rays but on average.
    fn rays(objective: &dyn Objective, map: &Arc<dyn Preconditioner>, count: u64) -> Vec<Sample> {
        let question = Question::new(Prior::Gaussian { sigma: 1.0 }, CUTOFF, 0.0, 4).unwrap();
        let settings = RadialSpec { radius_tolerance: Some(1e-6), proposal: Proposal::Shifted, ..RadialSpec::default() };
        let estimator = RadialEstimator::new(objective, question, Arc::clone(map), settings, None, Directions::Kept).unwrap();
        (0..count).map(|index| estimator.sample(index).unwrap()).collect()
    }

    #[test]
    fn the_largest_cost_crosses_where_the_first_does_and_independent_sets_are_found_to_be() {
        let center = vec![0.3f32, -0.2, 0.1, 0.4];
        let a = Ellipsoid::new(vec![3.0, 1.0, 0.0, 0.0], center.clone());
        let b = Ellipsoid::new(vec![0.0, 0.0, 2.0, 0.5], center);
        let variances: Vec<f32> = [3.0f32, 1.0, 2.0, 0.5].iter().map(|l| 0.01 / l).collect();
        let map: Arc<dyn Preconditioner> = Arc::new(Diagonal::from_variances(&variances).unwrap());
        let count = 20_000;
        let (in_a, in_b) = (rays(&a, &map, count), rays(&b, &map, count));
        let together = first_crossings(&[&in_a, &in_b]);
        let bodies: Vec<&dyn Objective> = vec![&a, &b];
        let direct = rays(&MaxCost::new(bodies).unwrap(), &map, 300);
        for (combined, searched) in together.iter().zip(&direct) {
            assert!((combined.radius / searched.radius - 1.0).abs() < 1e-5, "{combined:?} {searched:?}");
            assert!((combined.log_volume - searched.log_volume).abs() < 1e-4);
        }
        let log_volumes: Vec<f64> = together.iter().map(|s| s.log_volume).collect();
        let truth = a.true_log_probability(1.0, CUTOFF) + b.true_log_probability(1.0, CUTOFF);
        let both = log_mean_exp(&log_volumes);
        assert!((both - truth).abs() < 0.05, "{both} {truth}");
        let found = dependence(&[&in_a, &in_b], IntervalSettings::default());
        assert_eq!(found.rays, 20_000);
        assert!(found.nats.unwrap().abs() < 0.4, "{found:?}");
    }

    #[test]
    fn given_a_reference_independent_sets_have_none_and_nested_ones_that_of_the_larger() {
        let center = vec![0.3f32, -0.2, 0.1, 0.4, 0.2, -0.1];
        let a = Ellipsoid::new(vec![3.0, 1.0, 0.0, 0.0, 0.0, 0.0], center.clone());
        let b = Ellipsoid::new(vec![0.0, 0.0, 2.0, 0.5, 0.0, 0.0], center.clone());
        let reference = Ellipsoid::new(vec![0.0, 0.0, 0.0, 0.0, 1.0, 4.0], center.clone());
        let variances: Vec<f32> = [3.0f32, 1.0, 2.0, 0.5, 1.0, 4.0].iter().map(|l| 0.01 / l).collect();
        let map: Arc<dyn Preconditioner> = Arc::new(Diagonal::from_variances(&variances).unwrap());
        let count = 20_000;
        let (in_a, in_b, in_r) = (rays(&a, &map, count), rays(&b, &map, count), rays(&reference, &map, count));
        let found = dependence_given(&[&in_a, &in_b], &in_r, IntervalSettings::default());
        // Blocks of coordinates that share nothing: every set is independent of every other, given any.
        let truth = |bodies: &[&Ellipsoid]| bodies.iter().map(|body| body.true_log_probability(1.0, CUTOFF)).sum::<f64>();
        assert!((found.reference - truth(&[&reference])).abs() < 0.1, "{found:?}");
        assert!((found.parts[0] - truth(&[&a, &reference])).abs() < 0.3 && (found.parts[1] - truth(&[&b, &reference])).abs() < 0.3);
        assert!((found.all - truth(&[&a, &b, &reference])).abs() < 0.3, "{found:?}");
        assert!(found.dependence.nats.unwrap().abs() < 0.6, "{found:?}");
        // A set in another, both in the reference's: what is shared is all of the larger, less what the reference has of it already.
        let [small, large, around] = [4.0, 2.0, 1.0].map(|l| Ellipsoid::new(vec![l; 6], center.clone()));
        let even: Arc<dyn Preconditioner> = Arc::new(Diagonal::from_variances(&[0.001; 6]).unwrap());
        let [in_small, in_large, in_r] = [&small, &large, &around].map(|body| rays(body, &even, 200));
        let found = dependence_given(&[&in_small, &in_large], &in_r, IntervalSettings::default());
        let expected = around.true_log_probability(1.0, CUTOFF) - large.true_log_probability(1.0, CUTOFF);
        let interval = found.dependence.interval.unwrap();
        assert!((found.dependence.nats.unwrap() - expected).abs() < 0.1 && interval.contains(expected), "{found:?} {expected}");
        assert!((found.nested() - expected).abs() < 0.1);
        // Sets that are larger than the reference's say nothing beyond it.
        let found = dependence_given(&[&in_r, &in_r], &in_small, IntervalSettings::default());
        assert!(found.dependence.nats.unwrap().abs() < 1e-9 && found.nested().abs() < 1e-9, "{found:?}");
        let json = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<GivenReference>(&json).unwrap(), found);
    }

    #[test]
    fn nested_sets_depend_by_the_larger() {
        let center = vec![0.3f32; 20];
        let small = Ellipsoid::new(vec![2.0; 20], center.clone());
        let large = Ellipsoid::new(vec![1.0; 20], center);
        let map: Arc<dyn Preconditioner> = Arc::new(Diagonal::from_variances(&[0.001; 20]).unwrap());
        let (inner, outer) = (rays(&small, &map, 100), rays(&large, &map, 100));
        let found = dependence(&[&inner, &outer], IntervalSettings::default());
        let truth = -large.true_log_probability(1.0, CUTOFF);
        let interval = found.interval.unwrap();
        assert!((found.nats.unwrap() - truth).abs() < 0.3 && interval.contains(truth), "{found:?} {truth}");
        assert!(interval.high.unwrap() - interval.low < 1.0);
        let json = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<Dependence>(&json).unwrap(), found);
    }
}
