//! On ellipsoids whose measure is known.

use super::*;
use crate::fisher::DifferenceProducts;
use crate::interrupt::Interrupt;
use crate::prior::Prior;
use crate::question::Question;
use crate::run::answer::{Answer, Trust};
use crate::run::manifest::Manifest;
use crate::run::shard::Shard;
use crate::spec::{EstimatorSpec, FisherProducts, PreconditionerSpec, Reorthogonalization, RunSpec, SpectralRoute, SpectralSpec};
use crate::testkit::Ellipsoid;

const CUTOFF: f64 = 0.01;

fn ellipsoid(eigenvalues: Vec<f64>) -> Ellipsoid {
    let center = (0..eigenvalues.len()).map(|i| 0.3 * (i as f32 * 1.3).sin()).collect();
    Ellipsoid::new(eigenvalues, center).mixed(5, 2)
}

fn power(dimension: usize, alpha: f64) -> Vec<f64> {
    (1..=dimension).map(|i| (i as f64).powf(-alpha)).collect()
}

fn question(l2_reg: f64, seed: u64) -> Question {
    Question::new(Prior::Gaussian { sigma: 1.0 }, CUTOFF, l2_reg, seed).unwrap()
}

fn manifest(body: &Ellipsoid, question: Question, spec: SpectralSpec, samples: u64) -> Manifest {
    let spec = RunSpec {
        problem: serde_json::Map::new(),
        dimension: body.eigenvalues().len(),
        question,
        preconditioner: PreconditionerSpec::None,
        estimator: EstimatorSpec::Spectral(spec),
    };
    Manifest::new(spec, 0.0, None, samples, Shard::ALL)
}

fn estimate(body: &Ellipsoid, question: Question, spec: SpectralSpec, probes: u64) -> (Answer, SpectralResult, Vec<SpectralRecord>) {
    let products = DifferenceProducts::new(body, spec.perturbation).unwrap();
    let spec = SpectralSpec { route: SpectralRoute::Lanczos, ..spec };
    let estimator = SpectralEstimator::new(body, &products, question, spec, &Interrupt::new()).unwrap();
    let records: Vec<SpectralRecord> = (0..=probes).map(|index| estimator.record(index).unwrap()).collect();
    let (answer, result) = SpectralResult::of(&manifest(body, question, spec, probes + 1), &records, 1.0);
    (answer, result, records)
}

#[test]
fn known_ellipsoids_are_within_a_nat_or_a_percent() {
    for (name, eigenvalues) in [
        ("alpha 1", power(300, 1.0)),
        ("alpha 1.5", power(1000, 1.5)),
        ("alpha 2", power(100, 2.0)),
        ("flat", vec![0.5; 200]),
        ("two levels", (0..400).map(|i| if i < 20 { 10.0 } else { 1e-3 }).collect()),
    ] {
        let body = ellipsoid(eigenvalues);
        let truth = body.true_log_probability(1.0, CUTOFF);
        let (answer, result, _) = estimate(&body, question(0.0, 1), SpectralSpec { steps: 90, ..SpectralSpec::default() }, 64);
        assert_eq!(answer.interval, (None, None));
        let bound = answer.numerical_error.unwrap();
        let error = answer.log_probability - truth;
        assert!(error.abs() < 1f64.max(0.01 * truth.abs()) + 3.0 * result.sampling_error, "{name}: {error} of {truth}, {result:?}");
        assert!(error.abs() < bound + 0.05 || error.abs() < 3.0 * result.sampling_error, "{name}: {truth} {error} {bound}");
        let true_cost = result.true_cost.unwrap();
        assert!((true_cost.ratio - 1.0).abs() < 0.02, "{name}: {true_cost:?}");
        // The mean of the quadratic cost over the Gaussian is the cutoff.
        assert!((true_cost.mean_quadratic / CUTOFF - 1.0).abs() < 0.7, "{name}: {true_cost:?}");
        assert_eq!(answer.trust, Trust::Guide);
        assert!(answer.meaning.contains("guide") && answer.meaning.contains("draws of its own Gaussian"), "{}", answer.meaning);
    }
}

#[test]
fn too_few_steps_and_probes_are_said() {
    let body = ellipsoid(power(2000, 1.5));
    let truth = body.true_log_probability(1.0, CUTOFF);
    let (answer, result, records) = estimate(&body, question(0.0, 3), SpectralSpec { steps: 6, ..SpectralSpec::default() }, 2);
    assert!(answer.reasons.iter().any(|w| w.contains("6 Lanczos steps are too few")), "{result:?}");
    let bracket = result.bracket.unwrap();
    assert!(bracket.gauss < truth && truth < bracket.radau, "{truth} {bracket:?}");
    assert_eq!((result.prefixes[0].steps, result.prefixes[1].steps, result.prefixes[2].steps), (3, 5, 6));
    let (answer, result, _) = estimate(&body, question(0.0, 3), SpectralSpec { steps: 150, ..SpectralSpec::default() }, 1);
    assert!(answer.reasons.iter().any(|w| w.contains("The 1 random probes")), "{result:?}");
    assert!(!answer.reasons.iter().any(|w| w.contains("too few:")), "{result:?}");
    // A record comes back from its line.
    for record in &records {
        let line = serde_json::to_string(record).unwrap();
        assert_eq!(&serde_json::from_str::<SpectralRecord>(&line).unwrap(), record);
    }
    // So does what a result says beside its answer.
    let own = serde_json::to_string(&result).unwrap();
    assert_eq!(serde_json::from_str::<SpectralResult>(&own).unwrap(), result);
    // No number without the center, or without a probe.
    let manifest = manifest(&body, question(0.0, 3), SpectralSpec::default(), 3);
    for part in [&records[..1], &records[1..]] {
        let (answer, result) = SpectralResult::of(&manifest, part, 0.0);
        assert!(answer.log_probability.is_nan() && answer.reasons[0].contains("no number yet"), "{result:?}");
        assert_eq!(answer.trust, Trust::NotAnAnswer);
    }
}

#[test]
fn probes_go_on_where_only_the_center_narrows_the_volume() {
    // The prior is far narrower than the body, and far from its middle.
    let body = ellipsoid(power(500, 1.0));
    let (sigma, cutoff) = (1e-3, 1e-5);
    let question = Question::new(Prior::Gaussian { sigma }, cutoff, 0.0, 4).unwrap();
    let truth = body.true_log_probability(sigma, cutoff);
    let (answer, result, records) = estimate(&body, question, SpectralSpec::default(), 4);
    assert!(records[1..].iter().all(|record| record.products >= 80), "{:?}", result.steps);
    let error = answer.log_probability - truth;
    assert!(truth < -100.0 && error.abs() < 0.01 * truth.abs(), "{error} of {truth}, {:?}", answer.reasons);
}

#[test]
fn eigenvalues_of_zero_may_be_deflated() {
    // More vectors are taken out than there are eigenvalues above zero: rounding leaves some of them below it.
    let body = ellipsoid((0..200).map(|i| if i < 3 { 5.0 } else { 0.0 }).collect());
    let spec = SpectralSpec { deflation: 12, ..SpectralSpec::default() };
    let (_, result, _) = estimate(&body, question(0.0, 2).with_cutoff(1e-7).unwrap(), spec, 3);
    assert!(result.true_cost.is_some_and(|found| found.mean_true.is_finite()), "{:?}", result.true_cost);
}

#[test]
fn deflation_penalty_and_vectors_that_are_not_kept() {
    let body = ellipsoid(power(400, 1.0));
    let penalised: Vec<f64> = body.eigenvalues().iter().map(|l| l + 0.05).collect();
    let truth = Ellipsoid::new(penalised, body.center_values().to_vec()).mixed(5, 2).true_log_probability(1.0, CUTOFF);
    let spec = SpectralSpec { steps: 60, ..SpectralSpec::default() };
    let mut errors = Vec::new();
    for spec in [
        spec,
        SpectralSpec { deflation: 20, ..spec },
        SpectralSpec { reorthogonalization: Reorthogonalization::Selective, ..spec },
        SpectralSpec { reorthogonalization: Reorthogonalization::None, ..spec },
        SpectralSpec { block: 3, ..spec },
    ] {
        let (answer, result, records) = estimate(&body, question(0.05, 9), spec, 24 / spec.block as u64);
        let error = answer.log_probability - truth;
        assert!(error.abs() < 4.0 * result.sampling_error + 0.5, "{spec:?}: {error}, {result:?}");
        assert!((result.true_cost.unwrap().ratio - 1.0).abs() < 0.03, "{spec:?}: {:?}", result.true_cost);
        assert_eq!(records[0].deflated.len(), spec.deflation);
        errors.push(result.sampling_error);
    }
    assert!(errors[1] < errors[0], "deflation lowers the sampling error: {errors:?}");
    // As many vectors in all, so much the same error.
    assert!((errors[4] / errors[0]).ln().abs() < 0.7, "{errors:?}");
}

#[test]
fn threads_do_not_change_a_bit() {
    let body = ellipsoid(power(40_000, 1.5));
    let records = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| estimate(&body, question(0.0, 2), SpectralSpec { steps: 5, ..SpectralSpec::default() }, 1).2)
    };
    assert_eq!(records(1), records(3));
}

#[test]
fn routes_and_products_are_resolved() {
    let spec = SpectralSpec::default();
    let chosen = |spec, rows| resolve(spec, rows).map(|spec| (spec.route, spec.products)).ok();
    assert_eq!(chosen(spec, None), Some((SpectralRoute::Lanczos, FisherProducts::Differences)));
    assert_eq!(chosen(spec, Some(4096)), Some((SpectralRoute::Gram, FisherProducts::Exact)));
    assert_eq!(chosen(spec, Some(4097)), Some((SpectralRoute::Lanczos, FisherProducts::Exact)));
    let forced = SpectralSpec { route: SpectralRoute::Gram, products: FisherProducts::Differences, ..spec };
    assert_eq!(chosen(forced, Some(9999)), Some((SpectralRoute::Gram, FisherProducts::Differences)));
    assert!(chosen(forced, None).is_none() && chosen(SpectralSpec { products: FisherProducts::Exact, ..spec }, None).is_none());
}

#[test]
fn bad_settings_get_one_sentence() {
    let body = ellipsoid(power(30, 1.0));
    let products = DifferenceProducts::new(&body, 1e-2).unwrap();
    let refuse = |question: Question, spec: SpectralSpec| {
        SpectralEstimator::new(&body, &products, question, spec, &Interrupt::new()).map(|_| ()).unwrap_err().to_string()
    };
    let (usual, spec) = (question(0.0, 1), SpectralSpec { steps: 10, route: SpectralRoute::Lanczos, ..SpectralSpec::default() });
    for (question, spec, part) in [
        (usual, SpectralSpec { steps: 0, ..spec }, "`steps` is 0: expected 1 to 30"),
        (usual, SpectralSpec { steps: 31, ..spec }, "`steps` is 31: expected 1 to 30"),
        (usual, SpectralSpec { block: 0, ..spec }, "`block` is 0: expected 1 to 3"),
        (usual, SpectralSpec { block: 4, ..spec }, "`block` is 4: expected 1 to 3"),
        (
            usual,
            SpectralSpec { block: 2, reorthogonalization: Reorthogonalization::Selective, ..spec },
            "choose `reorthogonalization=full`, or `block=1`",
        ),
        (usual, SpectralSpec { deflation: 30, ..spec }, "`deflation` is 30: expected less than 30"),
        (usual, SpectralSpec { perturbation: 0.0, ..spec }, "`perturbation` is 0: expected a finite number > 0"),
        (
            usual,
            SpectralSpec { route: SpectralRoute::Gram, ..spec },
            "offers neither a Gram matrix nor exact products: choose `route=lanczos`",
        ),
        (Question::new(Prior::Lebesgue, CUTOFF, 0.0, 1).unwrap(), spec, "knows the Gaussian prior alone: choose `prior=gaussian`"),
    ] {
        let error = refuse(question, spec);
        assert!(error.contains(part), "{error}");
    }
    let raised = Interrupt::new();
    raised.raise();
    let spec = SpectralSpec { deflation: 3, ..spec };
    let estimator = SpectralEstimator::new(&body, &products, usual, spec, &raised).unwrap();
    for index in [0, 1] {
        assert!(estimator.record(index).unwrap_err().is_interrupt());
    }
    let forecast = Forecast::new(&SpectralSpec { steps: 10, deflation: 0, ..spec }, SpectralRoute::Lanczos, &products, 2);
    assert_eq!(forecast.vectors, 3 * 10 * 30 * 4);
    let forecast = Forecast::new(&SpectralSpec { steps: 10, deflation: 0, block: 3, ..spec }, SpectralRoute::Lanczos, &products, 2);
    assert_eq!(forecast.vectors, 7 * 10 * 30 * 4);
}
