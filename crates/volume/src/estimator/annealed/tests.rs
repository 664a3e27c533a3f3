use super::*;
use crate::testkit::Ellipsoid;

fn normals(count: usize, seed: u64) -> Vec<f32> {
    let mut out = vec![0.0; count];
    NormalVector::new(seed, 0, count).fill(0..count, &mut out);
    out
}

fn estimate(objective: &dyn Differentiable, problem: AnnealedProblem, spec: &AnnealedSpec) -> AnnealedEstimate {
    let mut center = vec![0.0f32; objective.dimension()];
    objective.center(0..center.len(), &mut center);
    let estimator = AnnealedEstimator::new(objective, &center, problem, spec.clone()).unwrap();
    let mut keeper = InMemory::default();
    let end = estimator.run(1, &[], &mut keeper, &AtomicBool::new(false), &mut |_| {}).unwrap();
    assert_eq!(end, AnnealedEnd::Completed);
    AnnealedEstimate::of(spec, problem.cutoff, problem.sigma, 1, &keeper.records).unwrap()
}

#[test]
#[ignore = "prints"]
fn look() {
    for (alpha, dimension) in [(2.0, 100usize), (1.5, 1000), (2.0, 10_000), (1.5, 10_000)] {
        let eigenvalues: Vec<f64> = (1..=dimension).map(|i| (i as f64).powf(-alpha)).collect();
        let center: Vec<f32> = normals(dimension, 5).iter().map(|z| 0.3 * z).collect();
        let body = Ellipsoid::new(eigenvalues, center);
        let truth = body.true_log_probability(1.0, 0.01);
        let began = std::time::Instant::now();
        let spec = AnnealedSpec { chains: 4, ..AnnealedSpec::default() };
        let e = estimate(&body, AnnealedProblem { sigma: 1.0, cutoff: 0.01, l2_reg: 0.0, seed: 1 }, &spec);
        println!(
            "alpha {alpha} D {dimension}: truth {truth:.2} found {:.2?} [{:.2}, {:.2?}] out {:.2?} in {:.2?} error {:.2} tail {:.2} rungs {} gradients {} acceptance {:.2} overlap {:.3} {:.1}s {:?}",
            e.log_probability,
            e.low,
            e.high,
            e.outward,
            e.inward,
            e.error,
            e.tail,
            e.rungs.len(),
            e.gradients,
            e.acceptance,
            e.overlap,
            began.elapsed().as_secs_f64(),
            e.warnings
        );
        if alpha == 1.5 && dimension == 1000 {
            for r in &e.rungs {
                println!(
                    "{:?} {:3} beta {:9.3e} loc {:9.3e} n {:3} C {:.5} y {:8.2} pull {:9.3} virial {:6.3} drift {:5.2} tau {:4.1} acc {:.2} step {:.4} contribution {:9.3} +- {:.3} grads {}",
                    r.phase,
                    r.rung,
                    r.beta,
                    r.localization,
                    r.trajectories,
                    r.mean_cost,
                    r.learning_coefficient,
                    r.pull,
                    r.virial,
                    r.drift,
                    r.autocorrelation,
                    r.acceptance,
                    r.step,
                    r.contribution,
                    r.error,
                    r.gradients
                );
            }
        }
    }
}
