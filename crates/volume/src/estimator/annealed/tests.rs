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

fn powers(alpha: f64, dimension: usize) -> Ellipsoid {
    let eigenvalues: Vec<f64> = (1..=dimension).map(|i| (i as f64).powf(-alpha)).collect();
    Ellipsoid::new(eigenvalues, normals(dimension, 5).iter().map(|z| 0.3 * z).collect())
}

#[test]
#[ignore = "prints"]
fn look() {
    let trajectories: u32 = std::env::var("TRAJ").map_or(12, |t| t.parse().unwrap());
    let seeds: u64 = std::env::var("SEEDS").map_or(20, |t| t.parse().unwrap());
    let pool = ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    for (name, body) in [
        ("2, 100", powers(2.0, 100)),
        ("0, 30", powers(0.0, 30)),
        ("1.5, 1000", powers(1.5, 1000)),
        ("1, 1000", powers(1.0, 1000)),
        ("2, 10000", powers(2.0, 10_000)),
    ] {
        let truth = body.true_log_probability(1.0, 0.01);
        let began = std::time::Instant::now();
        let spec = AnnealedSpec { chains: 4, trajectories, ..AnnealedSpec::default() };
        let (mut errors, mut covered, mut widths, mut gaps, mut answers, mut gradients) = (Vec::new(), 0, Vec::new(), Vec::new(), 0, 0);
        for seed in 0..seeds {
            let problem = AnnealedProblem { sigma: 1.0, cutoff: 0.01, l2_reg: 0.0, seed };
            let e = pool.install(|| estimate(&body, problem, &spec));
            errors.push(e.log_probability.unwrap() - truth);
            covered += usize::from(e.low <= truth && truth <= e.high.unwrap());
            widths.push(e.high.unwrap() - e.low);
            gaps.push(e.gap.unwrap());
            answers += usize::from(e.is_answer());
            gradients += e.gradients;
        }
        println!(
            "{name}: truth {truth:.2} bias {:.2} sd {:.2} covered {covered}/{seeds} width {:.1} gap {:.2} sd {:.2} answers {answers} gradients {} seconds {:.2}",
            mean(&errors),
            variance(&errors).sqrt(),
            mean(&widths),
            mean(&gaps),
            variance(&gaps).sqrt(),
            gradients / seeds,
            began.elapsed().as_secs_f64() / seeds as f64
        );
    }
}
