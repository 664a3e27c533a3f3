//! On ellipsoids whose measure is known.

use super::*;
use crate::fisher::DifferenceProducts;
use crate::run::answer::{Answer, Trust};
use crate::run::manifest::Manifest;
use crate::run::shard::Shard;
use crate::spec::{EstimatorSpec, PreconditionerSpec, RunSpec};
use crate::testkit::Ellipsoid;

static GO_ON: AtomicBool = AtomicBool::new(false);

const CUTOFF: f64 = 0.01;

fn ellipsoid(eigenvalues: Vec<f64>) -> Ellipsoid {
    let center = (0..eigenvalues.len()).map(|i| 0.3 * (i as f32 * 1.3).sin()).collect();
    Ellipsoid::new(eigenvalues, center).mixed(5, 2)
}

fn power(dimension: usize, alpha: f64) -> Vec<f64> {
    (1..=dimension).map(|i| (i as f64).powf(-alpha)).collect()
}

fn problem(l2_reg: f64, seed: u64) -> SpectralProblem {
    SpectralProblem { prior: Prior::Gaussian { sigma: 1.0 }, cutoff: CUTOFF, l2_reg, seed }
}

fn manifest(body: &Ellipsoid, problem: SpectralProblem, spec: SpectralSpec, samples: u64) -> Manifest {
    let spec = RunSpec {
        problem: serde_json::Map::new(),
        dimension: body.eigenvalues().len(),
        prior: problem.prior,
        cutoff: problem.cutoff,
        l2_reg: problem.l2_reg,
        seed: problem.seed,
        preconditioner: PreconditionerSpec::None,
        estimator: EstimatorSpec::Spectral(spec),
    };
    Manifest::new(spec, 0.0, None, samples, Shard::ALL)
}

fn estimate(body: &Ellipsoid, problem: SpectralProblem, spec: SpectralSpec, probes: u64) -> (SpectralResult, Vec<SpectralRecord>) {
    let products = DifferenceProducts::new(body, spec.perturbation).unwrap();
    let spec = SpectralSpec { route: SpectralRoute::Lanczos, ..spec };
    let estimator = SpectralEstimator::new(body, &products, problem, spec, &GO_ON).unwrap();
    let records: Vec<SpectralRecord> = (0..=probes).map(|index| estimator.record(index).unwrap()).collect();
    (SpectralResult::of(&manifest(body, problem, spec, probes + 1), &records, 1.0), records)
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
        let (result, _) = estimate(&body, problem(0.0, 1), SpectralSpec { steps: 90, ..SpectralSpec::default() }, 64);
        let (low, high) = result.interval.unwrap();
        let error = result.log_probability - truth;
        assert!(error.abs() < 1f64.max(0.01 * truth.abs()) + 3.0 * result.sampling_error, "{name}: {error} of {truth}, {result:?}");
        assert!(low - 0.05 < truth && truth < high + 0.05 || error.abs() < 3.0 * result.sampling_error, "{name}: {truth} {low} {high}");
        let true_cost = result.true_cost.unwrap();
        assert!((true_cost.ratio - 1.0).abs() < 0.02, "{name}: {true_cost:?}");
        // The mean of the quadratic cost over the Gaussian is the cutoff.
        assert!((true_cost.mean_quadratic / CUTOFF - 1.0).abs() < 0.7, "{name}: {true_cost:?}");
        let answer = Answer::from(&result);
        assert_eq!(answer.trust, Trust::Guide);
        assert!(answer.reasons[0].contains("guide"), "{:?}", answer.reasons);
    }
}

#[test]
fn too_few_steps_and_probes_are_said() {
    let body = ellipsoid(power(2000, 1.5));
    let truth = body.true_log_probability(1.0, CUTOFF);
    let (result, records) = estimate(&body, problem(0.0, 3), SpectralSpec { steps: 6, ..SpectralSpec::default() }, 2);
    assert!(result.warnings.iter().any(|w| w.contains("6 Lanczos steps are too few")), "{result:?}");
    let bracket = result.bracket.unwrap();
    assert!(bracket.gauss < truth && truth < bracket.radau, "{truth} {bracket:?}");
    assert_eq!((result.prefixes[0].steps, result.prefixes[1].steps, result.prefixes[2].steps), (3, 5, 6));
    let (result, _) = estimate(&body, problem(0.0, 3), SpectralSpec { steps: 150, ..SpectralSpec::default() }, 1);
    assert!(result.warnings.iter().any(|w| w.contains("The 1 random probes")), "{result:?}");
    assert!(!result.warnings.iter().any(|w| w.contains("too few:")), "{result:?}");
    // A record comes back from its line.
    for record in &records {
        let line = serde_json::to_string(record).unwrap();
        assert_eq!(&serde_json::from_str::<SpectralRecord>(&line).unwrap(), record);
    }
    // No number without the center, or without a probe.
    let manifest = manifest(&body, problem(0.0, 3), SpectralSpec::default(), 3);
    for part in [&records[..1], &records[1..]] {
        let result = SpectralResult::of(&manifest, part, 0.0);
        assert!(result.log_probability.is_nan() && result.warnings[0].contains("no number yet"), "{result:?}");
        assert_eq!(Answer::from(&result).trust, Trust::NotAnAnswer);
    }
}

#[test]
fn probes_go_on_where_only_the_center_narrows_the_volume() {
    // The prior is far narrower than the body, and far from its middle.
    let body = ellipsoid(power(500, 1.0));
    let (sigma, cutoff) = (1e-3, 1e-5);
    let problem = SpectralProblem { prior: Prior::Gaussian { sigma }, cutoff, l2_reg: 0.0, seed: 4 };
    let truth = body.true_log_probability(sigma, cutoff);
    let (result, records) = estimate(&body, problem, SpectralSpec::default(), 4);
    assert!(records[1..].iter().all(|record| record.products >= 80), "{:?}", result.steps);
    let error = result.log_probability - truth;
    assert!(truth < -100.0 && error.abs() < 0.01 * truth.abs(), "{error} of {truth}, {:?}", result.warnings);
}

#[test]
fn eigenvalues_of_zero_may_be_deflated() {
    // More vectors are taken out than there are eigenvalues above zero: rounding leaves some of them below it.
    let body = ellipsoid((0..200).map(|i| if i < 3 { 5.0 } else { 0.0 }).collect());
    let spec = SpectralSpec { deflation: 12, ..SpectralSpec::default() };
    let (result, _) = estimate(&body, SpectralProblem { cutoff: 1e-7, ..problem(0.0, 2) }, spec, 3);
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
        let (result, records) = estimate(&body, problem(0.05, 9), spec, 24 / spec.block as u64);
        let error = result.log_probability - truth;
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
        pool.install(|| estimate(&body, problem(0.0, 2), SpectralSpec { steps: 5, ..SpectralSpec::default() }, 1).1)
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
    let refuse = |problem: SpectralProblem, spec: SpectralSpec| {
        SpectralEstimator::new(&body, &products, problem, spec, &GO_ON).map(|_| ()).unwrap_err().to_string()
    };
    let (usual, spec) = (problem(0.0, 1), SpectralSpec { steps: 10, route: SpectralRoute::Lanczos, ..SpectralSpec::default() });
    for (problem, spec, part) in [
        (usual, SpectralSpec { steps: 0, ..spec }, "the number of Lanczos steps is 0: expected 1 to 30"),
        (usual, SpectralSpec { steps: 31, ..spec }, "the number of Lanczos steps is 31: expected 1 to 30"),
        (usual, SpectralSpec { block: 0, ..spec }, "the number of vectors in a block is 0: expected 1 to 3"),
        (usual, SpectralSpec { block: 4, ..spec }, "the number of vectors in a block is 4: expected 1 to 3"),
        (
            usual,
            SpectralSpec { block: 2, reorthogonalization: Reorthogonalization::Selective, ..spec },
            "a block of several vectors needs --set reorthogonalization=full",
        ),
        (usual, SpectralSpec { deflation: 30, ..spec }, "the number of deflated eigenvectors is 30: expected less than 30"),
        (usual, SpectralSpec { perturbation: 0.0, ..spec }, "the perturbation is 0: expected a finite number > 0"),
        (
            usual,
            SpectralSpec { route: SpectralRoute::Gram, ..spec },
            "offers neither a Gram matrix nor exact products: choose route lanczos",
        ),
        (SpectralProblem { prior: Prior::Lebesgue, ..usual }, spec, "knows the Gaussian prior alone"),
        (SpectralProblem { cutoff: f64::NAN, ..usual }, spec, "the cutoff is NaN"),
        (SpectralProblem { l2_reg: -1.0, ..usual }, spec, "l2-reg is -1"),
    ] {
        let error = refuse(problem, spec);
        assert!(error.contains(part), "{error}");
    }
    let raised = AtomicBool::new(true);
    let spec = SpectralSpec { deflation: 3, ..spec };
    assert!(matches!(SpectralEstimator::new(&body, &products, usual, spec, &raised), Err(SpectralError::Interrupted)));
    let forecast = Forecast::new(&SpectralSpec { steps: 10, deflation: 0, ..spec }, SpectralRoute::Lanczos, &products, 2);
    assert_eq!(forecast.vectors, 3 * 10 * 30 * 4);
    let forecast = Forecast::new(&SpectralSpec { steps: 10, deflation: 0, block: 3, ..spec }, SpectralRoute::Lanczos, &products, 2);
    assert_eq!(forecast.vectors, 7 * 10 * 30 * 4);
}
