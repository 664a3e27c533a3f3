use proptest::prelude::*;
use rayon::ThreadPoolBuilder;

use super::density::Density;
use super::result::replay;
use super::*;
use crate::estimator::annealed::{AnnealedEnd, InMemory};
use crate::interrupt::Interrupt;
use crate::objective::{Cost, Differentiable, ObjectiveError};
use crate::preconditioner::{Damping, Diagonal, Preconditioner};
use crate::prior::Prior;
use crate::question::Question;
use crate::run::answer::Trust;
use crate::run::manifest::Manifest;
use crate::run::record::Record;
use crate::run::shard::Shard;
use crate::spec::{EstimatorSpec, LlcSpec, Metric, PreconditionerSpec, RunSpec};
use crate::testkit::{ClosureWithGradient, DeepLinear, Ellipsoid, OnDevice, ReducedRank};

fn question(seed: u64) -> Question {
    Question::new(Prior::Gaussian { sigma: 0.5 }, 0.01, 0.0, seed).unwrap()
}

fn spec(n_beta: f64, localization: f64) -> LlcSpec {
    LlcSpec { n_beta: Some(n_beta), localization: Some(localization), ..LlcSpec::default() }
}

fn center_of(objective: &dyn Differentiable) -> Vec<f32> {
    let mut center = vec![0.0f32; objective.dimension()];
    objective.center(0..center.len(), &mut center);
    center
}

/// The result of one run, and its records.
fn run(
    objective: &dyn Differentiable,
    question: Question,
    spec: &LlcSpec,
    rounds: u32,
) -> (crate::run::answer::Answer, LlcResult, Vec<LlcRecord>) {
    let center = center_of(objective);
    let estimator = LlcEstimator::new(objective, &center, question, spec.clone()).unwrap();
    let mut keeper = InMemory::default();
    let pool = ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let end = pool.install(|| estimator.run(rounds, &[], &mut keeper, &Interrupt::new(), &mut |_| {})).unwrap();
    assert_eq!(end, AnnealedEnd::Completed);
    let (answer, result) = LlcResult::of(&manifest(center.len(), question, spec, rounds), &keeper.records, 1.0);
    (answer, result, keeper.records)
}

fn manifest(dimension: usize, question: Question, spec: &LlcSpec, rounds: u32) -> Manifest {
    let (problem, estimator) = (serde_json::Map::new(), EstimatorSpec::Llc(spec.clone()));
    let spec = RunSpec { problem, dimension, question, preconditioner: PreconditionerSpec::None, estimator };
    Manifest::new(spec, 1.0, None, u64::from(rounds), Shard::ALL)
}

/// The number within so many standard errors of the truth, and an answer. Seeds are fixed: what holds once holds always.
fn check(what: &str, objective: &dyn Differentiable, spec: &LlcSpec, truth: f64) -> LlcResult {
    let (answer, result, _) = run(objective, question(1), spec, 1);
    let found = answer.learning_coefficient.unwrap();
    assert!((found - truth).abs() < 3.5 * result.standard_error, "{what}: {found}, not {truth} ({result:?})");
    assert!(result.standard_error <= spec.tolerance * found && result.r_hat <= spec.r_hat, "{what}: {result:?}");
    assert_eq!(answer.trust, Trust::Answer, "{what}: {found}, true {truth}: {:?} {result:?}", answer.reasons);
    assert!(answer.log_probability.is_nan() && answer.gradients > 0, "{what}: {answer:?}");
    result
}

/// `1/2 sum n_beta h/(n_beta h + gamma)`.
fn of_quadratic(eigenvalues: &[f64], n_beta: f64, gamma: f64) -> f64 {
    eigenvalues.iter().map(|h| 0.5 * n_beta * h / (n_beta * h + gamma)).sum()
}

#[test]
fn quadratic_costs_have_half_their_dimension_less_what_the_spring_holds() {
    let eigenvalues: Vec<f64> = (0..24).map(|k| 10f64.powf(2.0 - f64::from(k) / 4.0)).collect();
    let center: Vec<f32> = (0..24).map(|k| (k as f32).sin()).collect();
    let body = Ellipsoid::new(eigenvalues.clone(), center.clone()).mixed(3, 2);
    let result = check("quadratic", &body, &spec(50.0, 2.0), of_quadratic(&eigenvalues, 50.0, 2.0));
    // Where the cost is quadratic both halves of E|x|^2 are known: gamma E|x|^2 = sum gamma/(n_beta h + gamma).
    let share = eigenvalues.iter().map(|h| 2.0 / (50.0 * h + 2.0)).sum::<f64>() / 24.0;
    assert!((result.localization_share / share - 1.0).abs() < 0.15, "{} {share}", result.localization_share);
    // d lambda / d ln gamma = -1/2 sum n_beta h gamma/(n_beta h + gamma)^2.
    let slope =
        -eigenvalues.iter().map(|h| 0.5 * 100.0 * h / (50.0 * h + 2.0).powi(2)).sum::<f64>() / of_quadratic(&eigenvalues, 50.0, 2.0);
    let (found, error) = (result.localization_slope, result.localization_slope_error);
    assert!((found - slope).abs() < 4.0 * error && error < 0.2, "{found} +- {error}, not {slope}");
    // A device gives the same as the computer's memory.
    let elsewhere = OnDevice(body);
    check("on a device", &elsewhere, &spec(50.0, 2.0), of_quadratic(&eigenvalues, 50.0, 2.0));
}

#[test]
fn the_prior_is_a_factor_where_that_is_asked_for() {
    let eigenvalues = [30.0, 3.0, 0.3, 0.03];
    let center = [0.4f32, -0.9, 0.8, 1.5];
    let body = Ellipsoid::new(eigenvalues.to_vec(), center.to_vec());
    let (n_beta, gamma, precision) = (5.0, 1.5, 1.0 / 0.25);
    let truth: f64 = eigenvalues
        .iter()
        .zip(center)
        .map(|(h, c)| {
            let p = n_beta * h + gamma + precision;
            0.5 * n_beta * h * (1.0 / p + (precision * f64::from(c) / p).powi(2))
        })
        .sum();
    check("with the prior", &body, &LlcSpec { with_prior: true, ..spec(n_beta, gamma) }, truth);
    // The prior alone holds chains as well.
    let truth: f64 = eigenvalues
        .iter()
        .zip(center)
        .map(|(h, c)| 0.5 * n_beta * h * (1.0 / (n_beta * h + precision) + (precision * f64::from(c) / (n_beta * h + precision)).powi(2)))
        .sum();
    check("with the prior alone", &body, &LlcSpec { with_prior: true, ..spec(n_beta, 0.0) }, truth);
}

/// `w_1^(2 k1) w_2^(2 k2)` around zero.
fn crossing(k1: i32, k2: i32) -> impl Differentiable {
    let cost = move |w: &[f64]| w[0].powi(2 * k1) * w[1].powi(2 * k2);
    ClosureWithGradient::new(
        vec![0.0; 2],
        move |w: &[f64]| Cost::exact(cost(w)),
        move |w: &[f64], out: &mut [f64]| {
            out[0] = f64::from(2 * k1) * w[0].powi(2 * k1 - 1) * w[1].powi(2 * k2);
            out[1] = f64::from(2 * k2) * w[0].powi(2 * k1) * w[1].powi(2 * k2 - 1);
            cost(w)
        },
    )
}

/// `n_beta E[C]` over the quarter plane, in the logarithms of both coordinates: the peaks along the axes are smooth there.
fn of_crossing(k1: i32, k2: i32, n_beta: f64, gamma: f64) -> f64 {
    let nodes = 700;
    let at = |k: i32| -34.0 + 36.5 * f64::from(k) / f64::from(nodes);
    let (mut mass, mut mean) = (0.0, 0.0);
    for (u, v) in (0..=nodes).flat_map(|i| (0..=nodes).map(move |j| (at(i), at(j)))) {
        let potential = n_beta * (f64::from(2 * k1) * u + f64::from(2 * k2) * v).exp();
        let density = (u + v - 0.5 * gamma * ((2.0 * u).exp() + (2.0 * v).exp()) - potential).exp();
        mass += density;
        mean += potential * density;
    }
    mean / mass
}

#[test]
fn normal_crossings_have_the_mean_that_quadrature_gives() {
    for (k1, k2, asymptotic) in [(1, 1, 0.5), (1, 2, 0.25), (2, 2, 0.25)] {
        let truth = of_crossing(k1, k2, 200.0, 1.0);
        check(&format!("crossing {k1} {k2}"), &crossing(k1, k2), &LlcSpec { acceptance: 0.9, tolerance: 0.08, ..spec(200.0, 1.0) }, truth);
        // The real log canonical threshold is min 1/(2k); with multiplicity two it is approached like 1/ln n_beta.
        let far = of_crossing(k1, k2, 1e12, 1.0);
        assert!(
            (far - asymptotic).abs() < 0.05 && (far - asymptotic).abs() < (truth - asymptotic).abs() + 1e-3,
            "{k1} {k2}: {far} {truth}"
        );
    }
}

/// `-d ln Z / d ln beta` of `Z = E[(1 + beta s)^(-outputs/2)]`, the last matrix integrated out, over a product `s` of independent chi-squares with
/// these degrees of freedom (one at least), in the logarithms.
fn of_one_unit(freedom: &[f64], outputs: f64, beta: f64) -> f64 {
    let log_density = |k: f64, u: f64| 0.5 * k * u - 0.5 * u.exp();
    let nodes = 700;
    let at = |i: i32| -34.0 + 39.5 * f64::from(i) / f64::from(nodes);
    let others: Vec<(f64, f64)> = match freedom {
        [_, second] => (0..=nodes).map(|i| (at(i), log_density(*second, at(i)))).collect(),
        _ => vec![(0.0, 0.0)],
    };
    let (mut mass, mut slope) = (0.0, 0.0);
    for i in 0..=nodes {
        let own = log_density(freedom[0], at(i));
        for (v, log) in &others {
            let s = beta * (at(i) + v).exp();
            let weight = (own + log - 0.5 * outputs * s.ln_1p()).exp();
            mass += weight;
            slope += weight * 0.5 * outputs * s / (1.0 + s);
        }
    }
    slope / mass
}

#[test]
fn reduced_rank_regression_has_the_mean_that_quadrature_gives() {
    // One hidden unit: |B A|^2 = |B|^2 |A|^2.
    let body = ReducedRank::at_zero(3, 1, 2);
    let truth = of_one_unit(&[3.0], 2.0, 300.0);
    check("reduced rank, one unit", &body, &spec(300.0, 1.0), truth);
    let (lambda, multiplicity) = body.learning_coefficient();
    let far = of_one_unit(&[3.0], 2.0, 1e8);
    assert!(multiplicity == 1 && (far - lambda).abs() < 1e-3, "{far} {lambda}");
    // More hidden units, at a zero where the rank is less than theirs (theorem: Aoyagi & Watanabe 2005).
    let body = ReducedRank::at_zero(2, 2, 2);
    let (lambda, multiplicity) = body.learning_coefficient();
    assert_eq!((lambda, multiplicity), (1.5, 1));
    let (answer, result, _) = run(&body, question(1), &spec(3e5, 1.0), 1);
    let found = answer.learning_coefficient.unwrap();
    assert!((found / lambda - 1.0).abs() < 0.06 + 3.0 * result.standard_error / lambda, "{found} {lambda} {result:?}");
}

#[test]
fn deep_linear_networks_have_the_mean_that_quadrature_gives() {
    // One unit before the outputs: |W_3|^2 times the squared length of W_2 W_1, a product of chi-squares.
    let body = DeepLinear::at_zero(vec![2, 2, 1, 2]);
    let truth = of_one_unit(&[2.0, 2.0], 2.0, 300.0);
    check("deep linear, one unit", &body, &spec(300.0, 1.0), truth);
    // Aoyagi 2024: 1 with multiplicity 3, which is approached like 2/ln n_beta from below.
    let (lambda, multiplicity) = DeepLinear::learning_coefficient_of(&[2, 2, 1, 2], 0);
    let far = of_one_unit(&[2.0, 2.0], 2.0, 1e12);
    assert!((lambda, multiplicity) == (1.0, 3) && far < lambda && lambda - far < 0.1, "{far}");
    // And three layers of three units, whose coefficient has no logarithm: the number itself, at a low temperature.
    let body = DeepLinear::at_zero(vec![3, 3, 3, 3]);
    let (lambda, multiplicity) = DeepLinear::learning_coefficient_of(&[3, 3, 3, 3], 0);
    assert_eq!((lambda, multiplicity), (3.0, 1));
    let (answer, result, _) = run(&body, question(1), &spec(1e5, 1.0), 1);
    let found = answer.learning_coefficient.unwrap();
    assert!((found / lambda - 1.0).abs() < 0.1 + 3.0 * result.standard_error / lambda, "{found} {lambda} {result:?}");
    // At a regular point of full rank it is half the number of equations.
    let identity: Vec<f32> = (0..3).flat_map(|_| [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]).collect();
    let body = DeepLinear::new(vec![3, 3, 3, 3], identity);
    let (answer, result, _) = run(&body, question(1), &spec(5e3, 30.0), 1);
    let found = answer.learning_coefficient.unwrap();
    assert!((found / 4.5 - 1.0).abs() < 0.05 + 3.0 * result.standard_error / 4.5, "{found} {result:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Whatever the spectrum, the temperature and the spring: the closed form, whatever the cost at the center.
    #[test]
    fn any_quadratic_has_its_closed_form(
        logs in prop::collection::vec(-2.0f64..3.0, 2..7),
        n_beta in 1.0f64..100.0,
        gamma in 0.5f64..20.0,
        offset in -5.0f64..5.0,
        seed in 0u64..1000,
    ) {
        let eigenvalues: Vec<f64> = logs.iter().map(|l| l.exp()).collect();
        let own = eigenvalues.clone();
        let cost = move |w: &[f64]| offset + w.iter().zip(&own).map(|(w, h)| 0.5 * h * w * w).sum::<f64>();
        let (other, again) = (cost.clone(), eigenvalues.clone());
        let body = ClosureWithGradient::new(
            vec![0.0; eigenvalues.len()],
            move |w: &[f64]| Cost::exact(cost(w)),
            move |w: &[f64], out: &mut [f64]| {
                out.iter_mut().zip(w).zip(&again).for_each(|((out, w), h)| *out = h * w);
                other(w)
            },
        );
        let spec = LlcSpec { tolerance: 0.1, r_hat: 1.02, ..spec(n_beta, gamma) };
        let (answer, result, _) = run(&body, question(seed), &spec, 1);
        let (found, truth) = (answer.learning_coefficient.unwrap(), of_quadratic(&eigenvalues, n_beta, gamma));
        prop_assert!((found - truth).abs() < 5.0 * result.standard_error, "{} {} {:?}", found, truth, result);
        prop_assert!((result.center_cost - offset).abs() < 1e-12);
        prop_assert!(result.virial.abs() < 5.0 * result.virial_error);
    }
}

/// The exact curvature of an ellipsoid.
struct OfEllipsoid<'a>(&'a Ellipsoid);

impl crate::estimator::annealed::Metrics for OfEllipsoid<'_> {
    fn metric(&self, _states: &[&[f32]], damping: Damping) -> Result<Box<dyn Preconditioner>, ObjectiveError> {
        let curvature: Vec<f32> = self.0.eigenvalues().iter().map(|l| *l as f32).collect();
        Ok(Box::new(Diagonal::from_curvature(&curvature, damping).map_err(ObjectiveError::new)?))
    }

    fn gradients(&self) -> u64 {
        1
    }
}

#[test]
fn a_metric_takes_longer_steps_to_the_same_number() {
    let eigenvalues: Vec<f64> = (0..20).map(|k| 10f64.powf(3.0 - f64::from(k) / 4.0)).collect();
    let body = Ellipsoid::new(eigenvalues.clone(), vec![0.5; 20]);
    let metrics = OfEllipsoid(&body);
    let spec = LlcSpec { metric: Metric::Diagonal, angle: 1.5, ..spec(100.0, 1.0) };
    let center = center_of(&body);
    let estimator = LlcEstimator::new(&body, &center, question(1), spec.clone()).unwrap();
    let mut keeper = InMemory::default();
    assert!(estimator.run(1, &[], &mut keeper, &Interrupt::new(), &mut |_| {}).unwrap_err().to_string().contains("metric"));
    let estimator = estimator.with_metrics(&metrics);
    estimator.run(1, &[], &mut keeper, &Interrupt::new(), &mut |_| {}).unwrap();
    let (answer, result) = LlcResult::of(&manifest(20, question(1), &spec, 1), &keeper.records, 1.0);
    let (found, truth) = (answer.learning_coefficient.unwrap(), of_quadratic(&eigenvalues, 100.0, 1.0));
    assert!((found - truth).abs() < 3.5 * result.standard_error && answer.trust == Trust::Answer, "{found} {truth} {answer:?}");
    let (plain, _, _) = run(&body, question(1), &LlcSpec { metric: Metric::None, angle: 3.0, ..spec }, 1);
    assert!(answer.gradients * 4 < plain.gradients, "{} and {} gradients", answer.gradients, plain.gradients);
}

#[test]
fn nonsense_is_never_silent() {
    let quadratic = |h: f64| {
        move |w: &[f64], out: &mut [f64]| {
            out.iter_mut().zip(w).for_each(|(out, w)| *out = h * w);
            0.5 * h * w.iter().map(|w| w * w).sum::<f64>()
        }
    };
    let body = |center: f32, h: f64| {
        let f = quadratic(h);
        ClosureWithGradient::new(vec![center; 4], move |w: &[f64]| Cost::exact(f(w, &mut [0.0; 4])), quadratic(h))
    };
    // The center is no minimum: the mean is below its cost, or some states are.
    let (answer, result, _) = run(&body(3.0, 1.0), question(1), &LlcSpec { budget: 60, ..spec(100.0, 1.0) }, 1);
    assert!(answer.learning_coefficient.unwrap() < 0.0 && answer.trust == Trust::NotAnAnswer, "{answer:?}");
    assert!(answer.reasons[0].contains("not positive") && result.share_below_center > 0.99, "{answer:?}");
    let (answer, _, _) = run(&body(0.05, 1.0), question(1), &spec(100.0, 1.0), 1);
    assert!(answer.trust == Trust::Guide && answer.reasons[0].contains("cost less than the center"), "{answer:?}");
    // A spring that dominates.
    let (answer, result, _) = run(&body(0.0, 1.0), question(1), &LlcSpec { tolerance: 0.02, ..spec(1.0, 50.0) }, 1);
    assert!(answer.trust == Trust::Guide && answer.reasons.iter().any(|reason| reason.contains("dominates")), "{answer:?} {result:?}");
    assert!(answer.reasons.iter().any(|reason| reason.contains("spring alone would leave")) && result.localization_share > 0.9);
    // A budget that is too small for what is asked.
    let (answer, _, _) = run(&body(0.0, 1.0), question(1), &LlcSpec { tolerance: 1e-3, budget: 60, ..spec(100.0, 1.0) }, 1);
    assert!(answer.trust != Trust::Answer && answer.reasons.iter().any(|reason| reason.contains("standard error is")), "{answer:?}");
    // A cost without a value at the center.
    let nan = ClosureWithGradient::new(vec![0.0], |_: &[f64]| Cost::exact(f64::NAN), |_: &[f64], _: &mut [f64]| f64::NAN);
    let error = LlcEstimator::new(&nan, &[0.0], question(1), spec(1.0, 1.0)).unwrap().run(
        1,
        &[],
        &mut InMemory::default(),
        &Interrupt::new(),
        &mut |_| {},
    );
    assert!(error.unwrap_err().to_string().contains("the cost at the center is NaN"));
}

#[test]
fn chains_in_two_wells_are_found_out() {
    // Two wells of different depth and width; nothing but chance says which one a chain is in.
    let cost = |w: f64| 20.0 * (w * w - 1.0).powi(2) * (1.0 + 0.5 * (w - 1.0).powi(2));
    let slope = move |w: f64| (cost(w + 1e-5) - cost(w - 1e-5)) / 2e-5;
    let body = ClosureWithGradient::new(
        vec![0.0],
        move |w: &[f64]| Cost::exact(cost(w[0])),
        move |w: &[f64], out: &mut [f64]| {
            out[0] = slope(w[0]);
            cost(w[0])
        },
    );
    let (answer, _, _) = run(&body, question(4), &LlcSpec { budget: 40, ..spec(1.0, 0.1) }, 1);
    assert!(answer.trust != Trust::Answer, "{answer:?}");
}

#[test]
fn rounds_double_the_trajectories_and_a_run_goes_on_with_the_same_bits() {
    let body = Ellipsoid::new(vec![10.0, 1.0, 0.1], vec![0.2; 3]);
    let spec = LlcSpec { chains: 2, trajectories: 16, tolerance: 0.2, r_hat: 1.5, ..spec(20.0, 1.0) };
    let (answer, result, whole) = run(&body, question(1), &spec, 3);
    assert_eq!((result.rounds[1], result.rounds[2]), (2 * result.rounds[0], 4 * result.rounds[0]));
    let (first, one, records) = run(&body, question(1), &spec, 1);
    assert_eq!(whole[..records.len()], records);
    assert!(result.standard_error < one.standard_error && answer.gradients > 3 * first.gradients, "{result:?} {one:?}");
    // From anywhere in the records the schedule asks for the same.
    let density = Density::of(&question(1), &spec).unwrap();
    let schedule = replay(&spec, density, 0.0, 3, &whole);
    assert!(schedule.is_complete() && schedule.ends == result.rounds);
    assert!(whole.iter().enumerate().all(|(k, record)| record.index() == k as u64));
    // What it finds depends on the seed, and on nothing else.
    let (again, _, _) = run(&body, question(1), &spec, 3);
    let (other, _, _) = run(&body, question(2), &spec, 3);
    assert_eq!(again.learning_coefficient, answer.learning_coefficient);
    assert_ne!(other.learning_coefficient, answer.learning_coefficient);
}

#[test]
fn settings_that_cannot_be_are_refused_in_a_sentence() {
    let check = |question: Question, spec: LlcSpec| LlcEstimator::check(&question, &spec).map_err(|error| error.to_string());
    let good = spec(10.0, 1.0);
    assert_eq!(check(question(1), good.clone()), Ok(()));
    assert_eq!(check(question(1), LlcSpec { localization: None, ..good.clone() }), Ok(()));
    let flat = Question::new(Prior::Lebesgue, 0.01, 0.0, 1).unwrap();
    assert_eq!(check(flat, good.clone()), Ok(()));
    for (question, spec, words) in [
        (question(1), LlcSpec { n_beta: None, ..good.clone() }, "`n_beta` is not set"),
        (question(1), LlcSpec { n_beta: Some(0.0), ..good.clone() }, "`n_beta` is 0: expected a finite number > 0"),
        (question(1), LlcSpec { localization: Some(-1.0), ..good.clone() }, "`localization` is -1"),
        (question(1), LlcSpec { localization: Some(0.0), ..good.clone() }, "`localization` is 0, and nothing holds the chains"),
        (flat, LlcSpec { localization: None, ..good.clone() }, "`localization` is not set"),
        (flat, LlcSpec { with_prior: true, ..good.clone() }, "`with_prior=true` needs `prior=gaussian`"),
        (question(1), LlcSpec { chains: 0, ..good.clone() }, "`chains` is 0"),
        (question(1), LlcSpec { trajectories: 2, ..good.clone() }, "`trajectories` is 2"),
        (question(1), LlcSpec { budget: 3, ..good.clone() }, "`budget` is 3"),
        (question(1), LlcSpec { tolerance: 0.0, ..good.clone() }, "`tolerance` is 0"),
        (question(1), LlcSpec { r_hat: 1.0, ..good.clone() }, "`r_hat` is 1"),
        (question(1), LlcSpec { burn_in: 1.0, ..good.clone() }, "`burn_in` is 1"),
        (question(1), LlcSpec { angle: -1.0, ..good.clone() }, "`angle` is -1"),
        (question(1), LlcSpec { acceptance: 0.1, ..good.clone() }, "`acceptance` is 0.1"),
        (question(1), LlcSpec { block: 256, ..good }, "`block` is 256"),
    ] {
        let found = check(question, spec).unwrap_err();
        assert!(found.starts_with(words), "{found}");
    }
}

#[test]
fn the_default_temperature_is_that_of_the_free_energy() {
    assert_eq!(LlcSpec::n_beta_of(2), None);
    assert!((LlcSpec::n_beta_of(1024).unwrap() - 1024.0 / 1024f64.ln()).abs() < 1e-12);
}
