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
//! in nats: 0 for independent sets, `-ln P(larger)` for nested ones, `-inf` for sets that share nothing.

use serde::{Deserialize, Serialize};

use crate::estimator::radial::Sample;
use crate::run::answer::Answer;
use crate::statistics::{Interval, IntervalSettings, log_linear_combination, search_error_range};

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
    let rows = rows(parts);
    let column = |k: usize| -> Vec<f64> { rows.iter().map(|row| row[k].log_volume).collect() };
    let errors = |k: usize| -> Vec<f64> { rows.iter().map(|row| row[k].radius_error_nats).collect() };
    let together = first_crossings(parts);
    let all: Vec<f64> = together.iter().map(|sample| sample.log_volume).collect();
    let columns: Vec<Vec<f64>> = (0..parts.len()).map(column).collect();
    let signed: Vec<(&[f64], f64)> = std::iter::once((all.as_slice(), 1.0)).chain(columns.iter().map(|f| (f.as_slice(), -1.0))).collect();
    let found = log_linear_combination(&signed, settings);
    // The bounds of every search in the direction that hurts.
    let all_errors: Vec<f64> = together.iter().map(|sample| sample.radius_error_nats).collect();
    let (mut below, mut above) = search_error_range(&all, &all_errors);
    for (k, f) in columns.iter().enumerate() {
        let (lower, higher) = search_error_range(f, &errors(k));
        below += higher;
        above += lower;
    }
    Dependence {
        nats: found.value.is_finite().then_some(found.value),
        interval: found.interval.map(|interval| interval.widened(below, above)),
        level: settings.level,
        rays: rows.len(),
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
        let both = crate::statistics::log_mean_exp(&log_volumes);
        assert!((both - truth).abs() < 0.05, "{both} {truth}");
        let found = dependence(&[&in_a, &in_b], IntervalSettings::default());
        assert_eq!(found.rays, 20_000);
        assert!(found.nats.unwrap().abs() < 0.4, "{found:?}");
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
