use std::collections::BTreeMap;

use rayon::ThreadPoolBuilder;

use super::schedule::{Schedule, lengths};
use super::walk::Walk;
use super::*;
use crate::center::Center;
use crate::coordinates::{Coordinates, OfWeights, Straight};
use crate::direction::Direction;
use crate::interrupt::Interrupt;
use crate::max_cost::MaxCost;
use crate::objective::{Cost, Differentiable, Objective, ObjectiveError, RayPoint};
use crate::preconditioner::{Damping, Diagonal, Preconditioner};
use crate::prior::Prior;
use crate::question::Question;
use crate::random::{NormalVector, Purpose};
use crate::run::answer::Trust;
use crate::run::manifest::Manifest;
use crate::run::shard::Shard;
use crate::spec::{Anchor, AnnealedSpec, EstimatorSpec, Integrator, Ladder, Metric, PreconditionerSpec, RunSpec, SetKind};
use crate::testkit::plane::{CurvedValley, PlaneBody};
use crate::testkit::{ClosureWithGradient, Ellipsoid, OnDevice, Shell};
use crate::vectors::Vector;

fn normals(count: usize, seed: u64) -> Vec<f32> {
    let mut out = vec![0.0; count];
    NormalVector::new(Purpose::Trials, seed, 0, count).fill(0..count, &mut out);
    out
}

/// The estimate of one run, and its records.
fn run(objective: &dyn Differentiable, question: Question, spec: &AnnealedSpec) -> (AnnealedEstimate, Vec<AnnealedRecord>) {
    run_with(objective, question, spec, None)
}

fn run_with(
    objective: &dyn Differentiable,
    question: Question,
    spec: &AnnealedSpec,
    metrics: Option<&dyn Metrics>,
) -> (AnnealedEstimate, Vec<AnnealedRecord>) {
    run_in(objective, question, spec, metrics, None)
}

fn run_in(
    objective: &dyn Differentiable,
    question: Question,
    spec: &AnnealedSpec,
    metrics: Option<&dyn Metrics>,
    coordinates: Option<&dyn Coordinates>,
) -> (AnnealedEstimate, Vec<AnnealedRecord>) {
    let mut center = vec![0.0f32; objective.dimension()];
    objective.center(0..center.len(), &mut center);
    let estimator = AnnealedEstimator::new(objective, &center, question, spec.clone()).unwrap();
    let estimator = AnnealedEstimator { metrics, coordinates, ..estimator };
    let records = sweep(&estimator, spec.anchors, &[]);
    (AnnealedEstimate::of(spec, &question, spec.anchors, &records).unwrap(), records)
}

/// All records after so many sweeps, of which some are done.
fn sweep(estimator: &AnnealedEstimator<'_>, sweeps: u32, done: &[AnnealedRecord]) -> Vec<AnnealedRecord> {
    let mut keeper = InMemory { records: done.to_vec() };
    let pool = ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let end = pool.install(|| estimator.run(sweeps, done, &mut keeper, &Interrupt::new(), &mut |_| {})).unwrap();
    assert_eq!(end, AnnealedEnd::Completed);
    keeper.records
}

fn question(seed: u64) -> Question {
    Question::new(Prior::Gaussian { sigma: 1.0 }, 0.01, 0.0, seed).unwrap()
}

/// The same with a penalty.
fn penalised(seed: u64) -> Question {
    Question::new(Prior::Gaussian { sigma: 1.0 }, 0.01, 0.05, seed).unwrap()
}

/// The exact curvature of an ellipsoid, which is the same everywhere, times what depends on the states and is one within a part in a hundred.
struct OfEllipsoid<'a>(&'a Ellipsoid);

impl Metrics for OfEllipsoid<'_> {
    fn metric(&self, states: &[&[f32]], damping: Damping) -> Result<Box<dyn Preconditioner>, ObjectiveError> {
        let wobble = 1.0 + 0.01 * f64::from(states[0][0]).sin();
        let curvature: Vec<f32> = self.0.eigenvalues().iter().map(|l| (l * wobble) as f32).collect();
        Ok(Box::new(Diagonal::from_curvature(&curvature, damping).map_err(ObjectiveError::new)?))
    }

    fn gradients(&self) -> u64 {
        1
    }
}

#[test]
fn a_metric_makes_the_steps_long_and_leaves_the_answer_alone() {
    let body = powers(2.0, 300);
    let truth = body.true_log_probability(1.0, 0.01);
    let spec = |metric| AnnealedSpec { chains: 4, metric, ..AnnealedSpec::default() };
    let (plain, _) = run_with(&body, question(3), &spec(Metric::None), None);
    let metrics = OfEllipsoid(&body);
    let (found, _) = run_with(&body, question(3), &spec(Metric::Diagonal), Some(&metrics));
    for estimate in [&plain, &found] {
        let value = estimate.log_probability.unwrap();
        assert!((value - truth).abs() < 3.0 && estimate.low <= truth && truth <= estimate.high.unwrap(), "{value} not {truth}");
    }
    let last = |estimate: &AnnealedEstimate| estimate.details.rungs.iter().rfind(|rung| rung.phase == Phase::Settle).unwrap().step;
    assert!(last(&found) > 4.0 * last(&plain), "steps {} and {}", last(&found), last(&plain));
    assert!(found.gradients < plain.gradients, "{} gradients, and {} without a metric", found.gradients, plain.gradients);
    let error = AnnealedEstimator::new(&body, body.center_values(), question(3), spec(Metric::Kronecker))
        .unwrap()
        .run(1, &[], &mut InMemory::default(), &Interrupt::new(), &mut |_| {})
        .unwrap_err();
    assert!(matches!(error, AnnealedError::NoMetrics), "{error}");
}

#[test]
fn chains_on_a_device_find_what_those_in_memory_find() {
    let body = powers(2.0, 40);
    let there = OnDevice(body.clone());
    let metrics = OfEllipsoid(&body);
    let default = AnnealedSpec { chains: 2, trajectories: 8, effort: 60, ..AnnealedSpec::default() };
    let kinds = [
        (question(3), AnnealedSpec { anchor: Anchor::Center, ..default.clone() }),
        (question(3), default.clone()),
        (question(3), AnnealedSpec { metric: Metric::Diagonal, ..default.clone() }),
        (question(3), AnnealedSpec { set_kind: SetKind::Star, star_points: 3, ..default.clone() }),
        (penalised(3), default.clone()),
    ];
    for (question, spec) in kinds {
        let (here, _) = run_with(&body, question, &spec, Some(&metrics));
        let (there, records) = run_with(&there, question, &spec, Some(&metrics));
        let (a, b) = (here.log_probability.unwrap(), there.log_probability.unwrap());
        // The same momenta: they part by rounding, and only as far as chains do.
        assert!((a - b).abs() < 0.5 + here.details.error + there.details.error, "{spec:?}: {a} and {b}");
        assert!(records.len() > 10);
    }
    // Together with another one.
    let other = OnDevice(powers(1.0, 40));
    let costs: Vec<&dyn Differentiable> = vec![&there, &other];
    let both = MaxCost::new(costs).unwrap();
    let pair: Vec<&dyn Differentiable> = vec![&there.0, &other.0];
    let expected = run(&MaxCost::new(pair).unwrap(), question(3), &default).0.log_probability.unwrap();
    let found = run(&both, question(3), &default).0.log_probability.unwrap();
    assert!((expected - found).abs() < 2.0, "{expected} and {found}");
    let low_rank = LowRank(&body);
    let spec = AnnealedSpec { metric: Metric::LowRank, ..default };
    let error = AnnealedEstimator::new(&there, body.center_values(), question(3), spec)
        .unwrap()
        .with_metrics(&low_rank)
        .run(1, &[], &mut InMemory::default(), &Interrupt::new(), &mut |_| {})
        .unwrap_err();
    assert!(error.to_string().contains("must be diagonal: choose metric diagonal or none"), "{error}");
}

/// A metric that is not diagonal.
struct LowRank<'a>(&'a Ellipsoid);

impl Metrics for LowRank<'_> {
    fn metric(&self, _states: &[&[f32]], damping: Damping) -> Result<Box<dyn Preconditioner>, ObjectiveError> {
        let dimension = self.0.eigenvalues().len();
        let mut first = vec![0.0f32; dimension];
        first[0] = 1.0;
        let rest = crate::preconditioner::Rest::Uniform(1.0);
        crate::preconditioner::LowRankDiagonal::new(first, &[2.0], rest, dimension, damping)
            .map(|map| Box::new(map) as Box<dyn Preconditioner>)
            .map_err(ObjectiveError::new)
    }

    fn gradients(&self) -> u64 {
        1
    }
}

#[test]
fn what_is_left_is_known_about_from_the_first_rungs_on() {
    let body = powers(2.0, 100);
    let spec = AnnealedSpec::default();
    let (whole, records) = run(&body, question(1), &spec);
    assert_eq!(whole.progress, None);
    let mut places = Vec::new();
    // A block of every chain at a time, behind the record of the start.
    for end in (3..records.len()).step_by(spec.chains as usize) {
        let so_far = AnnealedEstimate::of(&spec, &question(1), 1, &records[..end]).unwrap();
        let Progress { rung, rungs, gradients_left } = so_far.progress.unwrap();
        assert!(1 <= rung && rung <= rungs, "{rung} of {rungs}");
        let forecast = (so_far.gradients + gradients_left) as f64 / whole.gradients as f64;
        assert!(end < 20 || (0.2..5.0).contains(&forecast), "at record {end}: {forecast} of what it took");
        places.push((rung, rungs));
    }
    assert!(places.is_sorted_by_key(|(rung, _)| *rung), "{places:?}");
    let (last, rungs) = places[places.len() - 1];
    assert!(last + 1 >= rungs, "{last} of {rungs}");
}

fn powers(alpha: f64, dimension: usize) -> Ellipsoid {
    let eigenvalues: Vec<f64> = (1..=dimension).map(|i| (i as f64).powf(-alpha)).collect();
    Ellipsoid::new(eigenvalues, normals(dimension, 5).iter().map(|z| 0.3 * z).collect())
}

/// Bias, coverage and number of answers over seeds.
fn statistics(body: &Ellipsoid, truth: f64, spec: &AnnealedSpec, seeds: u64) -> (f64, u64, u64) {
    let (mut bias, mut covered, mut answers) = (0.0, 0, 0);
    for seed in 0..seeds {
        let (found, _) = run(body, question(seed), spec);
        bias += (found.log_probability.unwrap() - truth) / seeds as f64;
        covered += u64::from(found.low <= truth && truth <= found.high.unwrap());
        answers += u64::from(found.is_answer());
    }
    (bias, covered, answers)
}

#[test]
fn ellipsoids_are_measured_without_bias_and_the_interval_covers_the_truth() {
    for (name, body, seeds) in [
        ("2, 100", powers(2.0, 100), 12),
        ("flat, 30", powers(0.0, 30), 8),
        ("flat, 2", powers(0.0, 2), 24),
        ("1.5, 1000", powers(1.5, 1000), 2),
    ] {
        let truth = body.true_log_probability(1.0, 0.01);
        let spec = AnnealedSpec { chains: 4, ..AnnealedSpec::default() };
        let (bias, covered, answers) = statistics(&body, truth, &spec, seeds);
        assert!(bias.abs() < f64::max(1.0, 0.01 * truth.abs()), "{name}: bias {bias}, truth {truth}");
        // In two dimensions 85 of 100 intervals cover (of 240 runs), elsewhere nearly all.
        let missed = if body.eigenvalues().len() == 2 { seeds / 4 } else { 1 };
        assert!(covered + missed >= seeds && answers + 2 >= seeds, "{name}: {covered} covered, {answers} answers of {seeds}");
    }
}

#[test]
fn correlated_stays_last_until_they_have_so_many_independent_values() {
    let body = powers(1.0, 30);
    let spec = |independent| AnnealedSpec { independent, angle: 0.3, effort: 0, patience: 20, tolerance: 1.0, ..AnnealedSpec::default() };
    let (short, _) = run(&body, question(2), &spec(0));
    let (long, _) = run(&body, question(2), &spec(40));
    let on_the_way = |estimate: &AnnealedEstimate| -> Vec<RungSummary> {
        estimate.details.rungs.iter().filter(|rung| rung.phase == Phase::Outward && rung.localization > 0.0).cloned().collect()
    };
    let values = |rung: &RungSummary| rung.trajectories as f64 / rung.autocorrelation;
    let least = |rungs: &[RungSummary]| rungs.iter().map(values).fold(f64::INFINITY, f64::min);
    assert!(least(&on_the_way(&short)) < 10.0, "{} values", least(&on_the_way(&short)));
    assert!(least(&on_the_way(&long)) >= 40.0, "{} values", least(&on_the_way(&long)));
    assert!(on_the_way(&long).iter().all(|rung| rung.trajectories <= 2 * 7 * 12 * 20 / 10));
}

#[test]
fn the_temperature_ladder_agrees() {
    let body = powers(2.0, 60);
    let truth = body.true_log_probability(1.0, 0.01);
    let spec = AnnealedSpec { chains: 4, ladder: Ladder::Temperature, spacing: 0.4, ..AnnealedSpec::default() };
    let (bias, covered, _) = statistics(&body, truth, &spec, 6);
    assert!(bias.abs() < 1.0 && covered >= 5, "bias {bias}, covered {covered}, truth {truth}");
}

/// A million nats for every coordinate of ten that is on the wrong side: a state is right or far too dear, and the mean cost is that of those few
/// that are wrong. 2^-10 of the prior is under the cutoff.
#[test]
fn a_hard_cost_is_counted() {
    let wrong = |w: &[f64]| w[..10].iter().map(|x| (-x).max(0.0)).sum::<f64>() * 1e6;
    let gradient = move |w: &[f64], out: &mut [f64]| {
        out.fill(0.0);
        out[..10].iter_mut().zip(w).for_each(|(slope, x)| *slope = if *x < 0.0 { -1e6 } else { 0.0 });
        wrong(w)
    };
    let body = ClosureWithGradient::new(vec![0.01; 30], move |w| Cost::exact(wrong(w)), gradient);
    let truth = -10.0 * std::f64::consts::LN_2;
    let spec = AnnealedSpec { chains: 4, ladder: Ladder::Temperature, ..AnnealedSpec::default() };
    for seed in 0..4 {
        let (found, _) = run(&body, question(seed), &spec);
        let value = found.log_probability.unwrap();
        assert!((value - truth).abs() < 0.7 && found.low <= truth && truth <= found.high.unwrap(), "{value} not {truth}");
        assert!(found.is_answer() && found.warnings.is_empty(), "{:?}", found.warnings);
        // Without counting, the ladder would go on to a mean cost of the cutoff, a thousand times colder.
        assert!(
            found.details.mean_cost > 10.0 * 0.01 && found.details.tail > -2.0,
            "mean cost {}, last step {}",
            found.details.mean_cost,
            found.details.tail
        );
    }
}

#[test]
fn the_spring_may_be_away_from_the_center() {
    let body = powers(1.0, 60);
    let truth = body.true_log_probability(1.0, 0.01);
    // Cost 0.008 there, of 0.01 allowed.
    let anchor: Vec<f32> =
        body.eigenvalues().iter().zip(body.center_values()).map(|(l, c)| c + (2.0 * 0.008 / (60.0 * l)).sqrt() as f32).collect();
    let spec = AnnealedSpec { chains: 4, ..AnnealedSpec::default() };
    let estimator = AnnealedEstimator::new(&body, body.center_values(), question(5), spec.clone()).unwrap().with_anchor(&anchor);
    let mut keeper = InMemory::default();
    estimator.run(1, &[], &mut keeper, &Interrupt::new(), &mut |_| {}).unwrap();
    let found = AnnealedEstimate::of(&spec, &question(5), 1, &keeper.records).unwrap();
    assert!(found.low <= truth && truth <= found.high.unwrap(), "{truth} not in {} to {:?}", found.low, found.high);
    assert!((found.log_probability.unwrap() - truth).abs() < 4.0, "{:?} not {truth}", found.log_probability);
}

#[test]
fn a_spring_at_the_center_measures_the_same() {
    for (name, body, seeds) in [("2, 100", powers(2.0, 100), 6), ("flat, 30", powers(0.0, 30), 4)] {
        let truth = body.true_log_probability(1.0, 0.01);
        let spec = AnnealedSpec { chains: 4, anchor: Anchor::Center, ..AnnealedSpec::default() };
        let (bias, covered, answers) = statistics(&body, truth, &spec, seeds);
        assert!(bias.abs() < f64::max(1.0, 0.01 * truth.abs()), "{name}: bias {bias}, truth {truth}");
        assert!(covered + 1 >= seeds && answers + 2 >= seeds, "{name}: {covered} covered, {answers} answers of {seeds}");
    }
    let body = powers(1.0, 60);
    let spec = AnnealedSpec { chains: 4, anchor: Anchor::Settled, ..AnnealedSpec::default() };
    let (found, records) = run(&body, question(1), &spec);
    let anchor = found.details.anchor.unwrap();
    assert!(anchor.is_done && anchor.cost < 0.01 && anchor.distance_squared > 0.1 && anchor.full >= spec.trajectories, "{anchor:?}");
    let blocks = records.iter().filter_map(|record| if let AnnealedRecord::Block(block) = record { Some(block.gradients) } else { None });
    assert_eq!(found.gradients, anchor.gradients + blocks.sum::<u64>());
    // The overlap is that with the center, whatever the spring is attached to: soft directions keep some of it.
    let (around_center, _) = run(&body, question(1), &AnnealedSpec { anchor: Anchor::Center, ..spec });
    assert!(
        (found.details.overlap - around_center.details.overlap).abs() < 0.2,
        "{} and {}",
        found.details.overlap,
        around_center.details.overlap
    );
}

#[test]
fn a_penalty_stays_with_the_center_when_the_spring_does_not() {
    let body = powers(1.0, 40);
    let stiff = Ellipsoid::new(body.eigenvalues().iter().map(|l| l + 0.05).collect(), body.center_values().to_vec());
    let truth = stiff.true_log_probability(1.0, 0.01);
    let spec = AnnealedSpec { chains: 4, anchor: Anchor::Settled, ..AnnealedSpec::default() };
    let (found, _) = run(&body, penalised(3), &spec);
    assert!(found.low <= truth && truth <= found.high.unwrap(), "{truth} not in {} to {:?}", found.low, found.high);
}

#[test]
fn a_state_is_found_where_all_of_the_prior_is_under_the_cutoff() {
    let body = Ellipsoid::new(vec![1e-6; 5], vec![0.0; 5]);
    let spec = AnnealedSpec { anchor: Anchor::Settled, ..AnnealedSpec::default() };
    let (found, _) = run(&body, question(1), &spec);
    assert!(found.log_probability.unwrap() > -0.1 && found.details.anchor.unwrap().cost < 0.01, "{found:?}");
}

#[test]
fn a_ladder_without_a_spring_begins_at_the_prior() {
    // Draws from the prior cost about the cutoff, and hardly more than the state that the spring would be attached to.
    for share in [0.8, 1.1, 1.4] {
        let body = Ellipsoid::new(vec![share * 0.01 / 2.5; 5], vec![0.0; 5]);
        let truth = body.true_log_probability(1.0, 0.01);
        let (found, _) = run(&body, question(1), &AnnealedSpec::default());
        assert!((found.log_probability.unwrap() - truth).abs() < 0.3, "{:?} not {truth}", found.log_probability);
    }
}

#[test]
fn several_anchors_of_one_body_agree() {
    let body = powers(1.0, 40);
    let truth = body.true_log_probability(1.0, 0.01);
    let spec = AnnealedSpec { anchors: 3, ..AnnealedSpec::default() };
    let (found, records) = run(&body, question(2), &spec);
    assert!(found.details.complete && found.details.outward.len() == 3 && found.is_answer(), "{:?}", found.warnings);
    let differ = found.details.anchors_differ.unwrap();
    assert!(differ > 0.0 && differ < 3.0, "{differ}");
    assert!(found.low <= truth && truth <= found.high.unwrap(), "{truth} not in {} to {:?}", found.low, found.high);
    // Each was found by a search of its own, whose work counts.
    let mut anchors: Vec<Relaxation> = Vec::new();
    for record in &records {
        match record {
            AnnealedRecord::Start(start) | AnnealedRecord::Anchor { start, .. } => anchors.extend(start.anchor),
            AnnealedRecord::Block(_) => {}
        }
    }
    assert!(anchors.len() == 3 && anchors[0] != anchors[1] && anchors[1] != anchors[2]);
    let blocks = records.iter().filter_map(|record| if let AnnealedRecord::Block(block) = record { Some(block.gradients) } else { None });
    assert_eq!(found.gradients, anchors.iter().map(|anchor| anchor.gradients).sum::<u64>() + blocks.sum::<u64>());
    let (one, _) = run(&body, question(2), &AnnealedSpec::default());
    assert_eq!(one.details.anchors_differ, None);
}

/// Two chambers, one of them narrower, with a wall between that has a hole at the center. Whoever left the center does not find the hole again.
#[test]
fn anchors_in_different_chambers_are_called_glass() {
    const OTHERS: usize = 10;
    const NARROW: f64 = 12.0;
    let cost = |w: &[f64]| {
        let (x, squared) = (w[0], w[1..].iter().map(|y| y * y).sum::<f64>());
        let stiffness = if x > 0.0 { NARROW } else { 1.0 };
        let (wall, hole) = (40.0 * (-x * x / 0.08).exp(), (-squared / 0.02).exp());
        (x, stiffness, wall, hole, squared)
    };
    let value = move |w: &[f64]| {
        let (_, stiffness, wall, hole, squared) = cost(w);
        wall * (1.0 - hole) + 0.5 * stiffness * squared
    };
    let gradient = move |w: &[f64], out: &mut [f64]| {
        let (x, stiffness, wall, hole, _) = cost(w);
        out[0] = -2.0 * x / 0.08 * wall * (1.0 - hole);
        out[1..].iter_mut().zip(&w[1..]).for_each(|(slope, y)| *slope = (100.0 * wall * hole + stiffness) * y);
        value(w)
    };
    let body = ClosureWithGradient::new(vec![0.0; 1 + OTHERS], move |w| Cost::exact(value(w)), gradient);
    let question = |seed| question(seed).with_cutoff(0.5).unwrap();
    let spec = AnnealedSpec { anchors: 4, ..AnnealedSpec::default() };
    let (found, _) = run(&body, question(3), &spec);
    // The other directions of the narrow chamber have a smaller volume by this.
    let expected = 0.5 * OTHERS as f64 * NARROW.ln();
    let differ = found.details.anchors_differ.unwrap();
    assert!((differ - expected).abs() < 0.25 * expected, "{differ} instead of {expected}");
    assert!(!found.is_answer() && found.warnings.iter().any(|words| words.starts_with("Glass: anchors differ")), "{:?}", found.warnings);
    assert!(found.high.unwrap() - found.low > 0.75 * expected);
}

#[test]
fn a_splitting_of_three_stages_measures_the_same_in_longer_steps() {
    let body = powers(2.0, 100);
    let truth = body.true_log_probability(1.0, 0.01);
    let spec = AnnealedSpec { chains: 4, integrator: Integrator::ThreeStage, acceptance: 0.9, ..AnnealedSpec::default() };
    let (bias, covered, answers) = statistics(&body, truth, &spec, 6);
    assert!(bias.abs() < 1.0 && covered >= 5 && answers >= 5, "bias {bias}, {covered} covered, {answers} answers");
}

#[test]
fn the_star_has_its_spring_at_the_center() {
    let body = powers(1.0, 3);
    let spec = AnnealedSpec { anchor: Anchor::Settled, set_kind: SetKind::Star, ..AnnealedSpec::default() };
    let error = AnnealedEstimator::new(&body, body.center_values(), question(1), spec).unwrap_err();
    assert!(matches!(error, AnnealedError::StarElsewhere), "{error}");
}

#[test]
fn rungs_may_be_as_close_as_anyone_asks() {
    let spec = AnnealedSpec { ladder: Ladder::Temperature, spacing: 0.04, ..AnnealedSpec::default() };
    let (found, _) = run(&powers(2.0, 5), question(1), &spec);
    assert!(found.details.complete && found.log_probability.is_some(), "{:?}", found.warnings);
}

#[test]
fn rungs_set_close_by_a_bend_may_be_the_last() {
    // Seen from the center everything beyond the wall costs as much as the wall: beta E[C] bends until rungs are closer than the last one need be.
    let shell = Shell::new(1.0, [0.6, 1.9, 2.4], vec![0.0; 10]);
    let spec = AnnealedSpec { set_kind: SetKind::Star, ..AnnealedSpec::default() };
    let (found, _) = run(&shell, question(0).with_cutoff(1.0).unwrap(), &spec);
    assert!(found.details.rungs.len() > 10, "{}", found.details.rungs.len());
}

#[test]
fn the_penalty_is_part_of_the_cost() {
    // l2/2 |w - c|^2 adds l2 to every eigenvalue.
    let body = powers(2.0, 40);
    let stiff = Ellipsoid::new(body.eigenvalues().iter().map(|l| l + 0.05).collect(), body.center_values().to_vec());
    let truth = stiff.true_log_probability(1.0, 0.01);
    let spec = AnnealedSpec { chains: 4, ..AnnealedSpec::default() };
    let (found, _) = run(&body, penalised(3), &spec);
    assert!((found.log_probability.unwrap() - truth).abs() < 3.0, "{:?} not {truth}", found.log_probability);
    assert!(found.low <= truth && truth <= found.high.unwrap());
}

#[test]
fn star_and_basin_of_a_curved_valley_are_kept_apart() {
    let body = PlaneBody::new(CurvedValley::new(0.02, 60.0, 1.5), vec![1.0; 4], vec![0.0; 6]);
    let truth = body.truth(Prior::Gaussian { sigma: 1.0 }, 0.05);
    let value = |set_kind: SetKind| {
        let spec = AnnealedSpec { chains: 4, trajectories: 40, set_kind, star_points: 12, ..AnnealedSpec::default() };
        let (found, _) = run(&body, question(1).with_cutoff(0.05).unwrap(), &spec);
        (found.log_probability.unwrap(), found.low, found.high.unwrap())
    };
    let (basin, star) = (value(SetKind::Basin), value(SetKind::Star));
    let star_truth = truth.star.unwrap();
    assert!(truth.basin - star_truth > 0.3, "{truth:?}");
    for (name, (found, low, high), truth) in [("basin", basin, truth.basin), ("star", star, star_truth)] {
        assert!((found - truth).abs() < 1.0 && low <= truth && truth <= high, "{name}: {found} [{low}, {high}], truth {truth}");
    }
}

/// The curved valley in coordinates: its plane is turned by twice the third of them.
struct Turned(PlaneBody<CurvedValley>);

impl Turned {
    fn turn(values: &mut [f32], way: f32) {
        let (sine, cosine) = (way * 2.0 * values[2]).sin_cos();
        (values[0], values[1]) = (cosine * values[0] - sine * values[1], sine * values[0] + cosine * values[1]);
    }
}

impl Center for Turned {
    fn dimension(&self) -> usize {
        self.0.dimension()
    }

    fn center(&self, range: std::ops::Range<usize>, out: &mut [f32]) {
        self.0.center(range, out);
    }
}

impl Objective for Turned {
    fn cost(&self, _: &Direction, _: RayPoint) -> Result<Cost, ObjectiveError> {
        unreachable!("chains draw no rays")
    }
}

impl Differentiable for Turned {
    fn parts(&self) -> usize {
        self.0.parts()
    }

    fn gradient(&self, at: &[f32], parts: std::ops::Range<usize>, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        let mut own = Vector::Slice(vec![0.0; at.len()]);
        let nats = self.pull_back(at, &mut own, &mut |weights, own| self.0.gradient(weights, parts.clone(), own.slice_mut()))?;
        gradient.copy_from_slice(own.view().slice());
        Ok(nats)
    }

    fn cost_at(&self, at: &[f32]) -> Result<Cost, ObjectiveError> {
        let mut weights = at.to_vec();
        self.leave(&mut weights);
        self.0.cost_at(&weights)
    }

    fn likelihood_gradient(&self, _: &[f32], _: std::ops::Range<usize>, _: u64, _: &mut [f32]) -> Result<f64, ObjectiveError> {
        unreachable!("there is no likelihood")
    }
}

impl Coordinates for Turned {
    fn enter(&self, weights: &mut [f32]) {
        Self::turn(weights, -1.0);
    }

    fn leave(&self, coordinates: &mut [f32]) {
        Self::turn(coordinates, 1.0);
    }

    fn stiff_axes(&self, _: &[&[f32]]) -> Result<Vec<(usize, f64)>, ObjectiveError> {
        Ok(Vec::new())
    }

    fn straight(&self) -> Option<&dyn Straight> {
        Some(self)
    }
}

impl Straight for Turned {
    fn cost_of_weights(&self) -> &dyn Differentiable {
        &self.0
    }

    fn pull_back(&self, coordinates: &[f32], gradient: &mut Vector, work: &mut OfWeights<'_>) -> Result<f64, ObjectiveError> {
        let mut weights = coordinates.to_vec();
        self.leave(&mut weights);
        let nats = work(&weights, gradient)?;
        let gradient = gradient.slice_mut();
        gradient[2] += 2.0 * (gradient[1] * weights[0] - gradient[0] * weights[1]);
        let angle = gradient[2];
        gradient[2] = coordinates[2];
        Self::turn(gradient, -1.0);
        gradient[2] = angle;
        Ok(nats)
    }
}

/// What is straight in weights is not in coordinates.
#[test]
fn the_star_is_that_of_weights_in_other_coordinates_too() {
    let body = Turned(PlaneBody::new(CurvedValley::new(0.02, 60.0, 1.5), vec![1.0; 4], vec![0.0; 6]));
    let truth = body.0.truth(Prior::Gaussian { sigma: 1.0 }, 0.05);
    let question = question(1).with_cutoff(0.05).unwrap();
    for (set_kind, truth) in [(SetKind::Basin, truth.basin), (SetKind::Star, truth.star.unwrap())] {
        let spec = AnnealedSpec { chains: 4, trajectories: 40, set_kind, star_points: 12, ..AnnealedSpec::default() };
        let (found, _) = run_in(&body, question, &spec, None, Some(&body));
        let (value, high) = (found.log_probability.unwrap(), found.high.unwrap());
        assert!(
            (value - truth).abs() < 1.0 && found.low <= truth && truth <= high,
            "{set_kind:?}: {value} [{}, {high}] not {truth}",
            found.low
        );
    }
    let spec = AnnealedSpec { set_kind: SetKind::Star, ..AnnealedSpec::default() };
    stop_and_go_on(&body, None, Some(&body), spec);
}

/// Fifty directions, five of which are a thousand times stiffer than the others.
fn stiff_ellipsoid() -> Ellipsoid {
    let eigenvalue = |k: usize| if k % 10 == 3 { 1e3 } else { 1.0 };
    Ellipsoid::new((0..50).map(eigenvalue).collect(), vec![0.0; 50])
}

/// The weights themselves; the stiff axes are those of [`stiff_ellipsoid`], with a part in a hundred that depends on the states.
impl Coordinates for Ellipsoid {
    fn enter(&self, _: &mut [f32]) {}

    fn leave(&self, _: &mut [f32]) {}

    fn stiff_axes(&self, states: &[&[f32]]) -> Result<Vec<(usize, f64)>, ObjectiveError> {
        let wobble = 1.0 + 0.01 * f64::from(states[0][0]).sin();
        let axes = self.eigenvalues().iter().enumerate().filter(|(_, eigenvalue)| **eigenvalue > 100.0);
        Ok(axes.map(|(axis, eigenvalue)| (axis, eigenvalue * wobble)).collect())
    }
}

#[test]
fn stiff_axes_have_units_of_their_own() {
    let body = stiff_ellipsoid();
    let truth = body.true_log_probability(1.0, 0.01);
    let spec = AnnealedSpec { chains: 4, ..AnnealedSpec::default() };
    let (plain, _) = run(&body, question(5), &spec);
    let (found, _) = run_in(&body, question(5), &spec, None, Some(&body));
    for estimate in [&plain, &found] {
        let value = estimate.log_probability.unwrap();
        assert!((value - truth).abs() < 4.0 && estimate.low <= truth && truth <= estimate.high.unwrap(), "{value} not {truth}");
    }
    let step = |estimate: &AnnealedEstimate| estimate.details.rungs.iter().rfind(|rung| rung.phase == Phase::Settle).unwrap().step;
    assert!(step(&found) > 5.0 * step(&plain), "steps {} and {}", step(&found), step(&plain));
    assert!(3 * found.gradients < plain.gradients, "{} gradients, and {} without", found.gradients, plain.gradients);
}

#[test]
fn kinks_neither_shorten_the_steps_nor_move_the_answer() {
    // Two costs of twenty stiff directions each, the others free: sets that are independent of each other.
    let half = |first: bool| {
        let eigenvalue = |i: usize| if (i < 20) == first { 1.0 } else { 0.0 };
        Ellipsoid::new((0..40).map(eigenvalue).collect(), vec![0.0; 40])
    };
    let (a, b) = (half(true), half(false));
    let truth = a.true_log_probability(1.0, 0.01) + b.true_log_probability(1.0, 0.01);
    let spec = AnnealedSpec { chains: 4, ..AnnealedSpec::default() };
    let both = MaxCost::new(vec![&a, &b]).unwrap();
    let (soft, _) = run(&both, question(1), &spec);
    let found = soft.log_probability.unwrap();
    assert!(soft.is_answer() && soft.low <= truth && truth <= soft.high.unwrap(), "{found} not {truth}");
    // The same with the gradient of the largest alone.
    let cost = |w: &[f64]| 0.5 * w.chunks(20).map(|half| half.iter().map(|x| x * x).sum::<f64>()).fold(0.0, f64::max);
    let gradient = move |w: &[f64], out: &mut [f64]| {
        let sums: Vec<f64> = w.chunks(20).map(|half| half.iter().map(|x| x * x).sum()).collect();
        let largest = usize::from(sums[1] > sums[0]);
        out.fill(0.0);
        let range = 20 * largest..20 * (largest + 1);
        out[range.clone()].copy_from_slice(&w[range]);
        cost(w)
    };
    let hard = ClosureWithGradient::new(vec![0.0; 40], move |w| Cost::exact(cost(w)), gradient);
    let (hard, _) = run(&hard, question(1), &spec);
    let step = |estimate: &AnnealedEstimate| estimate.details.rungs.iter().rfind(|rung| rung.phase == Phase::Settle).unwrap().step;
    assert!(step(&soft) > 10.0 * step(&hard), "steps {} and {}", step(&soft), step(&hard));
    assert!(5 * soft.gradients < hard.gradients, "gradients {} and {}", soft.gradients, hard.gradients);
}

#[test]
fn a_run_that_was_stopped_goes_on_with_the_same_bits() {
    for (metric, anchor) in [
        (Metric::None, Anchor::Center),
        (Metric::Diagonal, Anchor::Center),
        (Metric::None, Anchor::Settled),
        (Metric::Diagonal, Anchor::Settled),
    ] {
        let body = powers(2.0, 50);
        stop_and_go_on(&body, Some(&OfEllipsoid(&body)), None, AnnealedSpec { metric, anchor, ..AnnealedSpec::default() });
    }
    // With kinks what drives a chain changes with beta.
    let valley = PlaneBody::new(CurvedValley::new(0.02, 60.0, 1.5), vec![1.0; 4], vec![0.0; 6]);
    stop_and_go_on(&valley, None, None, AnnealedSpec { set_kind: SetKind::Star, ..AnnealedSpec::default() });
    let stiff = stiff_ellipsoid();
    stop_and_go_on(&stiff, None, Some(&stiff), AnnealedSpec::default());
    // A metric in coordinates; another state for the spring in the second sweep.
    let in_coordinates = AnnealedSpec { metric: Metric::Diagonal, integrator: Integrator::ThreeStage, ..AnnealedSpec::default() };
    stop_and_go_on(&stiff, Some(&OfEllipsoid(&stiff)), Some(&stiff), in_coordinates);
    let body = powers(2.0, 50);
    stop_and_go_on(&body, None, None, AnnealedSpec { anchors: 2, ..AnnealedSpec::default() });
}

fn stop_and_go_on(body: &dyn Differentiable, metrics: Option<&dyn Metrics>, coordinates: Option<&dyn Coordinates>, spec: AnnealedSpec) {
    /// Keeps everything, and raises the flag after some blocks.
    struct Stopping {
        memory: InMemory,
        states: Option<(u64, Vec<Vec<f32>>)>,
        before: Option<(u64, Vec<Vec<f32>>)>,
        /// Those at the beginning of the stay.
        origin: Option<(u64, Vec<Vec<f32>>)>,
        anchors: BTreeMap<usize, (Relaxation, Vec<f32>)>,
        unfinished: Option<(u64, UnfinishedChains)>,
        left: u32,
        kills: u32,
        flag: Interrupt,
    }
    impl Keeper for Stopping {
        fn keep_states(&mut self, sequence: u64, states: &[&[f32]], _settled: bool, origin: Option<u64>) -> Result<(), AnnealedError> {
            let before = self.states.replace((sequence, states.iter().map(|state| state.to_vec()).collect()));
            if let Some(before) = before.clone().filter(|(before, _)| Some(*before) == origin) {
                self.origin = Some(before);
            }
            self.before = before;
            Ok(())
        }
        fn states(&mut self, sequence: u64) -> Result<Option<Vec<Vec<f32>>>, AnnealedError> {
            let kept = [&self.states, &self.origin].into_iter().flatten().find(|(kept, _)| *kept == sequence);
            Ok(kept.map(|(_, states)| states.clone()))
        }
        fn keep_records(&mut self, records: &[AnnealedRecord]) -> Result<(), AnnealedError> {
            // The states before this block are still there, as in a folder, where they go after the records.
            if records.len() > 1 && self.left == 5 && self.kills > 0 {
                self.kills -= 1;
                self.memory.keep_records(&records[..1])?;
                self.states = self.before.take();
                return Err(AnnealedError::Keep("killed between two records".into()));
            }
            self.left = self.left.saturating_sub(1);
            if self.left == 0 {
                self.flag.raise();
            }
            self.memory.keep_records(records)
        }
        fn keep_unfinished(&mut self, sequence: u64, done: &[UnfinishedBlock], states: &[&[f32]]) -> Result<(), AnnealedError> {
            let states = states.iter().map(|state| state.to_vec()).collect();
            self.unfinished = Some((sequence, UnfinishedChains { done: done.to_vec(), states }));
            Ok(())
        }
        fn unfinished(&mut self, sequence: u64) -> Result<Option<UnfinishedChains>, AnnealedError> {
            Ok(self.unfinished.clone().filter(|(kept, _)| *kept == sequence).map(|(_, unfinished)| unfinished))
        }
        fn keep_anchor(&mut self, number: usize, progress: &Relaxation, state: &[f32]) -> Result<(), AnnealedError> {
            self.anchors.insert(number, (*progress, state.to_vec()));
            self.flag.raise();
            Ok(())
        }
        fn anchor(&mut self, number: usize) -> Result<Option<(Relaxation, Vec<f32>)>, AnnealedError> {
            Ok(self.anchors.get(&number).cloned())
        }
    }
    let spec = AnnealedSpec { chains: 3, trajectories: 8, ..spec };
    let (_, whole) = run_in(body, question(7), &spec, metrics, coordinates);
    let mut center = vec![0.0f32; body.dimension()];
    body.center(0..center.len(), &mut center);
    let estimator = AnnealedEstimator::new(body, &center, question(7), spec.clone()).unwrap();
    let estimator = AnnealedEstimator { metrics, coordinates, ..estimator };
    let mut keeper = Stopping {
        memory: InMemory::default(),
        states: None,
        before: None,
        origin: None,
        anchors: BTreeMap::new(),
        unfinished: None,
        left: 9,
        kills: 2,
        flag: Interrupt::new(),
    };
    let (mut stops, mut kills) = (0, 0);
    loop {
        let flag = Interrupt::new();
        keeper.flag = flag.clone();
        let records = keeper.memory.records.clone();
        // Another number of threads each time.
        let pool = ThreadPoolBuilder::new().num_threads(1 + stops % 3).build().unwrap();
        let observe = &mut |_: AnnealedProgress<'_>| {};
        let end = pool.install(|| estimator.run(spec.anchors, &records, &mut keeper, &flag, observe));
        keeper.left = 40;
        match end {
            Ok(AnnealedEnd::Completed) => break,
            Ok(AnnealedEnd::Interrupted) => stops += 1,
            Err(error) => {
                assert!(error.to_string().contains("between two records"), "{error}");
                kills += 1;
            }
        }
    }
    assert!(stops > 1 && kills > 0, "{stops} {kills}");
    assert_eq!(keeper.memory.records, whole);
}

#[test]
fn the_answer_follows_from_manifest_and_records() {
    let body = powers(2.0, 20);
    let spec = AnnealedSpec { trajectories: 4, effort: 1, ..AnnealedSpec::default() };
    let (estimate, records) = run(&body, question(7), &spec);
    let run_spec = RunSpec {
        problem: serde_json::Map::new(),
        dimension: 20,
        question: question(7),
        preconditioner: PreconditionerSpec::None,
        estimator: EstimatorSpec::Annealed(spec),
    };
    let manifest = Manifest::new(run_spec, 0.0, None, 1, Shard::ALL);
    let (answer, own) = AnnealedResult::of(&manifest, &records, 2.5);
    assert_eq!((&own, answer.log_probability), (&estimate.details, estimate.log_probability.unwrap()));
    assert_eq!((answer.interval, answer.seconds), ((Some(estimate.low), estimate.high), 2.5));
    assert_eq!(answer.trust == Trust::Answer, estimate.is_answer());
    assert_eq!((answer.gradients, &answer.reasons), (estimate.gradients, &estimate.warnings));
    // Half of the records, the first, and none: there is no answer yet, and what is written can be read.
    for count in [records.len() / 2, 1, 0] {
        let (answer, own) = AnnealedResult::of(&manifest, &records[..count], 0.0);
        assert!(answer.trust == Trust::NotAnAnswer, "{answer:?}");
        assert!(count > 1 || answer.log_probability.is_nan() && answer.interval == (None, None), "{answer:?}");
        let back: AnnealedResult = serde_json::from_str(&serde_json::to_string(&own).unwrap()).unwrap();
        assert_eq!((back.complete, back.rungs.len(), back.beta.is_nan()), (false, own.rungs.len(), own.beta.is_nan()));
        assert!(answer.reasons[0].contains(if count == 0 { "Nothing is computed yet" } else { "not complete" }), "{answer:?}");
    }
}

#[test]
fn records_of_another_ladder_are_refused_in_words() {
    let body = powers(2.0, 20);
    let spec = AnnealedSpec { trajectories: 4, effort: 1, ..AnnealedSpec::default() };
    let (_, mut records) = run(&body, question(7), &spec);
    let place = records.iter().position(|record| matches!(record, AnnealedRecord::Block(block) if block.rung == 3)).unwrap();
    for record in &mut records[place..] {
        if let AnnealedRecord::Block(block) = record {
            block.localization *= 1.1;
        }
    }
    let found = AnnealedEstimate::of(&spec, &question(7), 1, &records).unwrap();
    assert!(!found.is_answer() && found.warnings[0].contains("another version"), "{:?}", found.warnings);
}

#[test]
fn costs_that_are_not_finite_are_counted_and_do_not_end_the_run() {
    // A quadratic cost that is NaN beyond a plane well outside the set.
    let cost = |w: &[f64]| {
        let quadratic = 0.5 * w.iter().map(|x| x * x).sum::<f64>();
        if w[0] > 0.3 { f64::NAN } else { quadratic }
    };
    let gradient = move |w: &[f64], out: &mut [f64]| {
        out.copy_from_slice(w);
        cost(w)
    };
    let body = ClosureWithGradient::new(vec![0.0; 6], move |w| Cost::exact(cost(w)), gradient);
    let spec = AnnealedSpec { chains: 4, trajectories: 24, ..AnnealedSpec::default() };
    let (found, _) = run(&body, question(2), &spec);
    let truth = Ellipsoid::new(vec![1.0; 6], vec![0.0; 6]).true_log_probability(1.0, 0.01);
    assert!((found.log_probability.unwrap() - truth).abs() < 1.5, "{:?} not {truth}", found.log_probability);
    assert!(found.details.not_finite > 0 && found.warnings.iter().any(|w| w.contains("NaN or infinite")), "{:?}", found.warnings);
}

#[test]
fn chains_begin_where_the_cost_is_finite() {
    // The chains of this ladder are drawn from the prior, where the cost is NaN beyond a plane: on half of it, or everywhere but at the center.
    let body = |plane: f64| {
        let cost = move |w: &[f64]| if w[0] > plane && w[0] != 0.0 { f64::NAN } else { 0.5 * w.iter().map(|x| x * x).sum::<f64>() };
        let gradient = move |w: &[f64], out: &mut [f64]| {
            out.copy_from_slice(w);
            cost(w)
        };
        ClosureWithGradient::new(vec![0.0; 3], move |w| Cost::exact(cost(w)), gradient)
    };
    let spec = AnnealedSpec { ladder: Ladder::Temperature, chains: 8, ..AnnealedSpec::default() };
    let center = [0.0f32; 3];
    let start = |plane: f64| {
        let body = body(plane);
        let estimator = AnnealedEstimator::new(&body, &center, question(2), spec.clone()).unwrap();
        let task = Schedule::new(&spec, &question(2), 1.0, 1, &estimator.start()?).next().unwrap();
        estimator.beginning(&task)
    };
    let found = start(0.1).unwrap();
    assert!(found.len() == 8 && found.iter().all(|weights| weights[0] <= 0.1), "{found:?}");
    let error = start(-30.0).unwrap_err();
    assert!(matches!(error, AnnealedError::NoFiniteDraw { .. }), "{error}");
}

#[test]
fn a_cost_of_zero_is_certain_to_be_under_the_cutoff() {
    for anchor in [Anchor::Center, Anchor::Auto] {
        let spec = AnnealedSpec { anchor, ..AnnealedSpec::default() };
        let (found, _) = run(&Ellipsoid::new(vec![0.0; 5], vec![0.1; 5]), question(3), &spec);
        assert!(found.is_answer() && found.log_probability.unwrap().abs() < 1e-6, "{:?} {:?}", found.log_probability, found.warnings);
    }
}

#[test]
fn the_agreement_of_both_ways_says_nothing_about_the_last_rung() {
    // The cost of half of the prior is constant a little under the cutoff, that of the other half a little above it.
    let cost = |w: &[f64]| 0.01 + 0.001 * (1e4 * w[0]).clamp(-1.0, 1.0);
    let gradient = move |w: &[f64], out: &mut [f64]| {
        out.fill(0.0);
        if w[0].abs() < 1e-4 {
            out[0] = 10.0;
        }
        cost(w)
    };
    let body = ClosureWithGradient::new(vec![-1.0, 0.0], move |w| Cost::exact(cost(w)), gradient);
    let spec = AnnealedSpec { chains: 4, anchor: Anchor::Center, ..AnnealedSpec::default() };
    let (found, _) = run(&body, question(4).with_cutoff(0.01099).unwrap(), &spec);
    assert!(found.details.complete, "{:?}", found.warnings);
    let doubts = found.warnings.iter().any(|warning| warning.contains("cannot be trusted"));
    assert!(doubts && found.agrees() && !found.is_answer(), "{:?}", found.warnings);
}

#[test]
fn stays_may_be_asked_to_be_longer_than_numbers_go() {
    let spec = AnnealedSpec { trajectories: 4, settle: u32::MAX, patience: u32::MAX, effort: 0, ..AnnealedSpec::default() };
    let (least, most) = lengths(&spec, Phase::Settle);
    assert!(most >= least && least == 4 * u32::MAX as usize, "{least} {most}");
}

#[test]
fn a_cost_above_the_cutoff_at_the_center_is_refused() {
    let body = ClosureWithGradient::new(
        vec![0.0; 3],
        |_| Cost::exact(1.0),
        |_, out: &mut [f64]| {
            out.fill(0.0);
            1.0
        },
    );
    let estimator = AnnealedEstimator::new(&body, &[0.0; 3], question(1), AnnealedSpec::default()).unwrap();
    let mut keeper = InMemory::default();
    let error = estimator.run(1, &[], &mut keeper, &Interrupt::new(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, AnnealedError::NoStart), "{error}");
}

#[test]
fn settings_out_of_range_are_named() {
    let body = powers(1.0, 3);
    let default = AnnealedSpec::default;
    for (spec, words) in [
        (AnnealedSpec { chains: 0, ..default() }, "`chains` is 0"),
        (AnnealedSpec { trajectories: 3, ..default() }, "`trajectories` is 3"),
        (AnnealedSpec { spacing: f64::NAN, ..default() }, "`spacing` is NaN"),
        (AnnealedSpec { warmth: 0.5, ..default() }, "`warmth` is 0.5"),
        (AnnealedSpec { angle: -1.0, ..default() }, "`angle` is -1"),
        (AnnealedSpec { star_points: 1, ..default() }, "`star_points` is 1"),
    ] {
        let message = AnnealedEstimator::new(&body, body.center_values(), question(1), spec).unwrap_err().to_string();
        assert!(message.contains(words) && !message.contains('\n'), "{message}");
    }
    let flat = Question::new(Prior::Lebesgue, 0.01, 0.0, 1).unwrap();
    let error = AnnealedEstimator::new(&body, body.center_values(), flat, default()).unwrap_err();
    assert!(matches!(error, AnnealedError::Prior) && error.to_string().contains("`prior=gaussian`"), "{error}");
}

#[test]
fn intervals_from_works_hold_the_truth() {
    let body = powers(2.0, 60);
    let truth = body.true_log_probability(1.0, 0.01);
    // Short stays without a metric: the chains lag.
    let spec =
        AnnealedSpec { chains: 6, trajectories: 4, effort: 0, patience: 1, settle: 4, anchor: Anchor::Center, ..AnnealedSpec::default() };
    let (mut held, mut near, mut narrower) = (0, 0, 0);
    let seeds = 40;
    for seed in 0..seeds {
        let (estimate, _) = run(&body, question(seed), &spec);
        let works = estimate.details.works.as_ref().unwrap();
        assert_eq!((works.outward.len(), works.inward.len()), (6, 6));
        held += u32::from(estimate.low <= truth && truth <= estimate.high.unwrap());
        if works.decide {
            near += 1;
            let (width, gap) = (estimate.high.unwrap() - estimate.low, estimate.details.gap.unwrap().abs());
            narrower += u32::from(width < gap + 4.0 * estimate.details.error);
        }
    }
    assert!(held >= 36 && near >= 20, "{held} of {seeds} hold the truth, in {near} the works decide");
    assert!(2 * narrower > near, "{narrower} of {near} intervals are narrower than those that span the gap");
}

#[test]
fn another_sweep_stays_where_the_ways_of_the_first_differ() {
    let body = powers(2.0, 400);
    let truth = body.true_log_probability(1.0, 0.01);
    let spec = AnnealedSpec { trajectories: 4, effort: 0, patience: 1, anchor: Anchor::Center, ..AnnealedSpec::default() };
    let (mut before, mut after, mut slower, mut held) = (0.0, 0.0, 0, 0);
    for seed in 0..6 {
        let asked = question(seed);
        let estimator = AnnealedEstimator::new(&body, body.center_values(), asked, spec.clone()).unwrap();
        let first = sweep(&estimator, 1, &[]);
        let both = sweep(&estimator, 2, &first);
        assert_eq!(both, sweep(&estimator, 2, &[]), "a sweep more is the sweep that would have come");
        let [one, two] = [(1, &first), (2, &both)].map(|(sweeps, records)| AnnealedEstimate::of(&spec, &asked, sweeps, records).unwrap());
        assert_eq!((one.details.counted.as_slice(), two.details.outward.len()), ([0].as_slice(), 2));
        held += u32::from(two.low <= truth && truth <= two.high.unwrap());
        if two.details.counted == [1] {
            slower += 1;
            before += one.details.gap.unwrap().abs();
            after += two.details.gap.unwrap().abs();
        } else {
            // Where the ways agree within their noise, both count.
            assert_eq!(two.details.counted, [0, 1]);
            assert!(one.details.gap.unwrap().abs() <= 4.0 * one.details.error);
        }
    }
    assert!(slower >= 3 && 2.0 * after < before, "{slower} sweeps, gaps {before} and {after}");
    assert!(held >= 5, "{held} of 6");
}

#[test]
fn a_sweep_after_a_slower_one_is_as_slow_and_counts_beside_it() {
    let body = powers(2.0, 400);
    let truth = body.true_log_probability(1.0, 0.01);
    let spec = AnnealedSpec { trajectories: 4, effort: 0, patience: 1, anchor: Anchor::Center, ..AnnealedSpec::default() };
    let (mut beside, mut replaced) = (0, 0);
    let (mut first, mut last_gaps) = (0.0, 0.0);
    for seed in 0..4 {
        let asked = question(seed);
        let estimator = AnnealedEstimator::new(&body, body.center_values(), asked, spec.clone()).unwrap();
        let mut records = Vec::new();
        let mut counted = Vec::new();
        for sweeps in 1..=4 {
            records = sweep(&estimator, sweeps, &records);
            let estimate = AnnealedEstimate::of(&spec, &asked, sweeps, &records).unwrap();
            let now = estimate.details.counted.clone();
            let last = sweeps - 1;
            assert!(now == [last] || now == [counted.as_slice(), &[last]].concat(), "{counted:?}, then {now:?}");
            if sweeps > 2 && now.len() > 1 && !now.contains(&0) {
                beside += 1;
            } else if now == [last] {
                replaced += 1;
            }
            if sweeps == 4 {
                last_gaps += estimate.details.gap.unwrap().abs();
                assert!(estimate.low <= truth && truth <= estimate.high.unwrap(), "[{}, {:?}], {truth}", estimate.low, estimate.high);
            } else if sweeps == 1 {
                first += estimate.details.gap.unwrap().abs();
            }
            counted = now;
        }
        assert_eq!(records, sweep(&estimator, 4, &[]), "sweeps one by one are those at once");
    }
    assert!(beside >= 1 && replaced >= 1, "{beside} beside, {replaced} replace");
    assert!(2.0 * last_gaps < first, "gaps {first}, then {last_gaps}");
}
