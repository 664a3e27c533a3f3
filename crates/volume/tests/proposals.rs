//! Shifted and centered Gaussian proposals against ellipsoids of known probability: exact ones, wrong ones, and what is said of them.

mod common;

use std::sync::Arc;

use basin_volume::estimator::radial::{Directions, RadialError, RadialEstimator, Sample};
use basin_volume::objective::Objective;
use basin_volume::preconditioner::{
    Damping, Dense, Diagonal, DiagonalMap, Gaussian, Identity, Kronecker, KroneckerCurvature, KroneckerTensor, LowRankDiagonal,
    Preconditioner, Rest,
};
use basin_volume::prior::Prior;
use basin_volume::question::Question;
use basin_volume::random::{NormalVector, Purpose};
use basin_volume::saddle_point::{Mode, QuadraticCost};
use basin_volume::spec::{Proposal, RadialSpec};
use basin_volume::statistics::{IntervalSettings, Reliability, Summary, log_mean_exp, summarize};
use basin_volume::testkit::{Ball, Ellipsoid};
use rayon::prelude::*;

const CUTOFF: f64 = 0.01;

fn normals(seed: u64, count: usize) -> Vec<f32> {
    let mut z = vec![0.0f32; count];
    NormalVector::new(Purpose::Trials, seed, 0, count).fill(0..count, &mut z);
    z
}

/// `c ~ N(0, 0.09 I)`.
fn center(dimension: usize) -> Vec<f32> {
    normals(1, dimension).into_iter().map(|z| 0.3 * z).collect()
}

#[derive(Debug, Clone, Copy)]
enum Spectrum {
    /// `i^-alpha`.
    Power(f64),
    Flat,
    /// A tenth of the eigenvalues 1, the others 1e-3.
    TwoLevel,
}

fn ellipsoid(spectrum: Spectrum, dimension: usize) -> Ellipsoid {
    let eigenvalue = |i: usize| match spectrum {
        Spectrum::Power(alpha) => ((i + 1) as f64).powf(-alpha),
        Spectrum::Flat => 1.0,
        Spectrum::TwoLevel => f64::from(u8::from(10 * i < dimension)) * (1.0 - 1e-3) + 1e-3,
    };
    Ellipsoid::new((0..dimension).map(eigenvalue).collect(), center(dimension))
}

/// The damping of the saddle point, where the tilted prior has the mean cost of the cutoff.
fn damping(body: &Ellipsoid, sigma: f64) -> Damping {
    let (eigenvalues, center) = (body.eigenvalues(), body.center_values());
    let cost = QuadraticCost::new(eigenvalues.len(), sigma, |i| Mode::single(eigenvalues[i], f64::from(center[i]))).unwrap();
    Damping { beta: cost.saddle_point(CUTOFF).unwrap().beta, sigma }
}

/// The exact map, or one whose eigenvalues are wrong by `e^(error N)`.
fn diagonal(body: &Ellipsoid, sigma: f64, error: f64) -> Arc<dyn Preconditioner> {
    let noise = normals(2, body.eigenvalues().len());
    let curvature: Vec<f32> = body.eigenvalues().iter().zip(&noise).map(|(l, n)| (l * (error * f64::from(*n)).exp()) as f32).collect();
    Arc::new(Diagonal::from_curvature(&curvature, damping(body, sigma)).unwrap())
}

fn rays(
    objective: &dyn Objective,
    map: &Arc<dyn Preconditioner>,
    proposal: Proposal,
    sigma: f64,
    seed: u64,
    count: u64,
) -> Result<Vec<Sample>, RadialError> {
    let question = Question::new(Prior::Gaussian { sigma }, CUTOFF, 0.0, seed).unwrap();
    let settings = RadialSpec { proposal, ..RadialSpec::default() };
    let estimator = RadialEstimator::new(objective, question, Arc::clone(map), settings, None, Directions::Kept)?;
    Ok((0..count).into_par_iter().map(|index| estimator.sample(index).unwrap()).collect())
}

fn summary(samples: &[Sample], seed: u64) -> Summary {
    let log_values: Vec<f64> = samples.iter().map(|s| s.log_volume).collect();
    let errors: Vec<f64> = samples.iter().map(|s| s.radius_error_nats).collect();
    let settings = IntervalSettings { seed, ..IntervalSettings::default() };
    summarize(&log_values, &errors, &samples.iter().map(|s| s.outcome).collect(), settings)
}

fn estimate(samples: &[Sample]) -> f64 {
    log_mean_exp(&samples.iter().map(|s| s.log_volume).collect::<Vec<_>>())
}

/// Bias up to which a result counts as right.
fn allowed(truth: f64) -> f64 {
    (0.01 * truth.abs()).max(1.0)
}

#[test]
fn the_exact_shifted_proposal_is_right_and_its_interval_covers() {
    const SEEDS: u64 = 100;
    let mut failures = Vec::new();
    for spectrum in [Spectrum::Power(1.0), Spectrum::Power(1.5), Spectrum::Power(2.0), Spectrum::Flat, Spectrum::TwoLevel] {
        for dimension in [100, 1000, 10_000] {
            let body = ellipsoid(spectrum, dimension);
            let truth = body.true_log_probability(1.0, CUTOFF);
            let map = diagonal(&body, 1.0, 0.0);
            let seeds = if dimension > 1000 { SEEDS / 4 } else { SEEDS };
            let (mut covered, mut two_sided, mut worst) = (0, 0, 0.0f64);
            for seed in 0..seeds {
                let result = summary(&rays(&body, &map, Proposal::Shifted, 1.0, seed, 100).unwrap(), seed);
                covered += u64::from(result.interval.contains(truth));
                two_sided += u64::from(result.interval.high.is_some());
                worst = worst.max((result.log_mean_exp - truth).abs());
            }
            let line =
                format!("{spectrum:?}, D {dimension}: {covered}/{seeds} covered, {two_sided} two-sided, worst {worst:.4} of {truth:.2}");
            // 25 seeds at a coverage of 94 % give 23.5 +- 1.2.
            let enough = if seeds == SEEDS { 90 } else { 20 };
            if worst > allowed(truth) || covered < enough || 10 * two_sided < 9 * seeds {
                failures.push(line);
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Every kind of map, on a body whose axes are not the coordinates.
#[test]
fn every_map_of_a_damped_curvature_can_be_shifted() {
    const SIDE: usize = 12;
    const DIMENSION: usize = SIDE * SIDE;
    let sigma = 0.6;
    // Kronecker product of two matrices: the body's Hessian is G kron A with known eigenvalues.
    let factor = |seed: u64, alpha: f64| {
        let eigenvalues: Vec<f64> = (0..SIDE).map(|i| ((i + 1) as f64).powf(-alpha)).collect();
        Ellipsoid::new(eigenvalues, vec![0.0; SIDE]).mixed(seed, 3).hessian()
    };
    let (g, a) = (factor(3, 1.5), factor(4, 0.7));
    let hessian: Vec<f64> = (0..DIMENSION * DIMENSION)
        .map(|at| {
            let (i, j) = (at / DIMENSION, at % DIMENSION);
            g[i / SIDE * SIDE + j / SIDE] * a[i % SIDE * SIDE + j % SIDE]
        })
        .collect();
    let center = center(DIMENSION);
    let c: Vec<f64> = center.iter().map(|&x| f64::from(x)).collect();
    let objective = common::closure(center.clone(), |w: &[f64]| {
        let x: Vec<f64> = w.iter().zip(&c).map(|(w, c)| w - c).collect();
        0.5 * hessian.chunks_exact(DIMENSION).zip(&x).map(|(row, xi)| xi * row.iter().zip(&x).map(|(h, x)| h * x).sum::<f64>()).sum::<f64>()
    });
    let narrow = |matrix: &[f64]| -> Vec<f32> { matrix.iter().map(|&x| x as f32).collect() };
    let (row_factor, column_factor) = (narrow(&g), narrow(&a));
    let curvature =
        KroneckerCurvature::new([KroneckerTensor::Product { row_factor: &row_factor, column_factor: &column_factor, scale: 1.0 }]).unwrap();
    let (eigenvalues, mut rotated) = (curvature.eigenvalues(), center.clone());
    curvature.rotate(&mut rotated);
    // The same body in its own axes, for the truth.
    let diagonal_body = Ellipsoid::new(eigenvalues.iter().map(|&l| f64::from(l)).collect(), rotated.clone());
    let truth = diagonal_body.true_log_probability(sigma, CUTOFF);
    let damping = damping(&diagonal_body, sigma);
    // All eigenvectors, the first of them as low rank and the rest left to the diagonal's mean.
    let mut basis = vec![0.0f32; DIMENSION * DIMENSION];
    for (k, row) in basis.chunks_exact_mut(DIMENSION).enumerate() {
        // Rotating a unit vector gives its components: a column of the matrix of eigenvectors.
        row[k] = 1.0;
        curvature.rotate(row);
    }
    let transposed: Vec<f32> = (0..DIMENSION * DIMENSION).map(|at| basis[at % DIMENSION * DIMENSION + at / DIMENSION]).collect();
    let maps: [(&str, Arc<dyn Preconditioner>); 5] = [
        ("Kronecker", Arc::new(Kronecker::new(curvature, damping).unwrap())),
        ("dense", Arc::new(Dense::from_curvature(&hessian, DIMENSION, damping).unwrap())),
        ("low rank", Arc::new(LowRankDiagonal::new(transposed, &eigenvalues, Rest::Uniform(0.0), DIMENSION, damping).unwrap())),
        ("precision", {
            let mut precision: Vec<f64> = hessian.iter().map(|h| damping.beta * h).collect();
            (0..DIMENSION).for_each(|i| precision[i * (DIMENSION + 1)] += sigma.powi(-2));
            Arc::new(Dense::from_precision(&precision, DIMENSION).unwrap())
        }),
        ("precision with a mean", {
            let mut precision: Vec<f64> = hessian.iter().map(|h| damping.beta * h).collect();
            (0..DIMENSION).for_each(|i| precision[i * (DIMENSION + 1)] += sigma.powi(-2));
            let root = Dense::from_precision(&precision, DIMENSION).unwrap();
            // -Sigma c / sigma^2 with the map's own numbers.
            let mut mean = center.clone();
            root.apply_transpose(&mut mean);
            let half = mean.clone();
            root.apply(0..DIMENSION, &half, &mut mean);
            let factor = -root.root_scale().unwrap().powi(2) / (sigma * sigma);
            mean.iter_mut().for_each(|x| *x = (f64::from(*x) * factor) as f32);
            Arc::new(Gaussian::new(Arc::new(root), mean).unwrap())
        }),
    ];
    for (name, map) in maps {
        let result = summary(&rays(&objective, &map, Proposal::Shifted, sigma, 5, 200).unwrap(), 5);
        let error = result.log_mean_exp - truth;
        assert!(error.abs() < 0.3, "{name}: off by {error} of {truth}");
        assert!(result.interval.contains(truth) || error.abs() < 0.1, "{name}: {result:?} {truth}");
        assert!(result.diagnostics.sd < 1.5, "{name}: {}", result.diagnostics.sd);
    }
}

#[test]
fn without_a_center_the_shift_changes_nothing() {
    let dimension = 500;
    let body = Ellipsoid::new(ellipsoid(Spectrum::Power(1.5), dimension).eigenvalues().to_vec(), vec![0.0; dimension]);
    let map = diagonal(&body, 1.0, 0.0);
    let (shifted, centered) = (rays(&body, &map, Proposal::Shifted, 1.0, 3, 20), rays(&body, &map, Proposal::Centered, 1.0, 3, 20));
    for (a, b) in shifted.unwrap().iter().zip(&centered.unwrap()) {
        assert_eq!((a.radius, a.norm), (b.radius, b.norm));
        assert!((a.log_volume - b.log_volume).abs() < 1e-9, "{a:?} {b:?}");
    }
}

/// Whatever the shift, the weights have the same mean: a body that the wrong proposals still cover.
#[test]
fn wrong_means_and_covariances_leave_the_mean_of_the_weights() {
    let dimension = 6;
    let body = Ball::new(vec![0.05, -0.02, 0.04, 0.0, 0.03, -0.06]);
    let sigma = 0.1;
    let truth = body.true_log_probability(sigma, CUTOFF);
    let maps: [Arc<dyn Preconditioner>; 3] = [
        Arc::new(Identity),
        Arc::new(Diagonal::from_variances(&[0.02, 0.01, 0.015, 0.01, 0.03, 0.01]).unwrap()),
        Arc::new(
            Gaussian::new(
                Arc::new(Diagonal::from_variances(&[0.02, 0.01, 0.015, 0.01, 0.03, 0.01]).unwrap()),
                vec![0.05, -0.08, 0.0, 0.06, 0.0, 0.02],
            )
            .unwrap(),
        ),
    ];
    for map in maps {
        assert!(map.dimension().is_none_or(|d| d == dimension));
        let samples = rays(&body, &map, Proposal::Shifted, sigma, 9, 40_000).unwrap();
        let result = summary(&samples, 9);
        let error = estimate(&samples) - truth;
        let sd = (40_000.0f64 / result.diagnostics.effective_sample_size - 1.0).max(0.0).sqrt() / 200.0;
        assert!(sd < 0.02 && error.abs() < 4.0 * sd + 1e-4, "{map:?}: off by {error} +- {sd} of {truth}");
    }
}

/// The picture of the table: what is off by more than a nat and a percent says so.
#[test]
fn wrong_proposals_are_flagged() {
    let mut rows = Vec::new();
    let mut biased = 0;
    for (alpha, dimension) in [(2.0, 100), (1.5, 1000), (2.0, 10_000), (1.5, 10_000)] {
        let body = ellipsoid(Spectrum::Power(alpha), dimension);
        let truth = body.true_log_probability(1.0, CUTOFF);
        let exact = diagonal(&body, 1.0, 0.0);
        for (name, map, proposal) in [
            ("naive", Arc::new(Identity) as Arc<dyn Preconditioner>, Proposal::Centered),
            ("the prior itself", Arc::new(Identity), Proposal::Shifted),
            ("centered, exact", Arc::clone(&exact), Proposal::Centered),
            ("shifted, exact", exact, Proposal::Shifted),
            ("shifted, e^(0.1 N)", diagonal(&body, 1.0, 0.1), Proposal::Shifted),
            ("shifted, e^(0.5 N)", diagonal(&body, 1.0, 0.5), Proposal::Shifted),
        ] {
            for seed in 0..4 {
                let samples = rays(&body, &map, proposal, 1.0, seed, 100).unwrap();
                let result = summary(&samples, seed);
                let bias = result.log_mean_exp - truth;
                let reliability = result.diagnostics.reliability;
                let warned = !result.warnings.is_empty() && reliability != Reliability::WellDetermined;
                let wrong = bias.abs() > allowed(truth);
                biased += u32::from(wrong);
                rows.push((wrong && !warned, format!("alpha {alpha}, D {dimension}, {name}: {bias:+.3} of {truth:.1}, {reliability:?}")));
            }
        }
    }
    let silent: Vec<&str> = rows.iter().filter(|row| row.0).map(|row| row.1.as_str()).collect();
    assert!(silent.is_empty(), "{}", silent.join("\n"));
    // The bad proposals are bad: without them this would test nothing.
    assert!(biased >= 30, "{biased} of {} rows are off", rows.len());
}

#[test]
fn proposals_that_cannot_be_shifted_are_refused() {
    let body = Ball::new(vec![0.5; 4]);
    let shape: Arc<dyn Preconditioner> = Arc::new(Diagonal::from_curvature(&[1.0; 4], DiagonalMap::default()).unwrap());
    assert!(matches!(rays(&body, &shape, Proposal::Shifted, 1.0, 0, 1), Err(RadialError::ShiftedShape)));
    let factors: Arc<dyn Preconditioner> = Arc::new(Diagonal::from_factors(&[1.0; 4]).unwrap());
    assert!(matches!(rays(&body, &factors, Proposal::Shifted, 1.0, 0, 1), Err(RadialError::ShiftedShape)));
    for prior in [Prior::Lebesgue, Prior::Sphere] {
        let question = Question::new(prior, CUTOFF, 0.0, 0).unwrap();
        let settings = RadialSpec { proposal: Proposal::Shifted, ..RadialSpec::default() };
        let error = RadialEstimator::new(&body, question, Arc::new(Identity), settings, None, Directions::Kept).err().unwrap();
        assert!(matches!(error, RadialError::ShiftedPrior), "{error}");
    }
    let long: Arc<dyn Preconditioner> =
        Arc::new(Gaussian::new(Arc::new(Diagonal::from_variances(&[1.0; 5]).unwrap()), vec![0.0; 5]).unwrap());
    assert!(matches!(rays(&body, &long, Proposal::Shifted, 1.0, 0, 1), Err(RadialError::Dimension { found: 5, expected: 4 })));
    // A center that no standard deviation of the proposal reaches.
    let far = Ball::new(vec![1e30; 4]);
    let identity: Arc<dyn Preconditioner> = Arc::new(Identity);
    assert!(matches!(rays(&far, &identity, Proposal::Shifted, 1e-10, 0, 1), Err(RadialError::ShiftNotFinite { index: 0, .. })));
}

#[test]
fn kept_and_regenerated_shifted_directions_give_the_same_samples() {
    let body = ellipsoid(Spectrum::Power(1.0), 3000);
    let map = diagonal(&body, 1.0, 0.0);
    let make = |directions| {
        let question = Question::new(Prior::Gaussian { sigma: 1.0 }, CUTOFF, 0.0, 8).unwrap();
        let settings = RadialSpec { proposal: Proposal::Shifted, ..RadialSpec::default() };
        let estimator = RadialEstimator::new(&body, question, Arc::clone(&map), settings, None, directions).unwrap();
        (0..4).map(|index| estimator.sample(index).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(make(Directions::Kept), make(Directions::Regenerated));
}

/// Rows of 100 rays (10,000 for proposals around the center at D <= 1e4), as a markdown table.
#[test]
#[ignore = "prints the table of proposals on exact quadratics up to D = 1e6: minutes"]
#[expect(clippy::print_stdout, reason = "the table is the purpose")]
fn table_of_proposals() {
    println!("| alpha, D, truth | naive | centered, exact | shifted, exact | shifted, e^(0.1 N) | shifted, e^(0.5 N) |");
    println!("|---|---|---|---|---|---|");
    for (alpha, dimension) in [(2.0, 100), (1.5, 1000), (2.0, 10_000), (1.5, 10_000), (1.5, 1_000_000)] {
        let body = ellipsoid(Spectrum::Power(alpha), dimension);
        let truth = body.true_log_probability(1.0, CUTOFF);
        let exact = diagonal(&body, 1.0, 0.0);
        let many = if dimension > 10_000 { 100 } else { 10_000 };
        let cells: Vec<String> = [
            (Arc::new(Identity) as Arc<dyn Preconditioner>, Proposal::Centered, many),
            (Arc::clone(&exact), Proposal::Centered, many),
            (exact, Proposal::Shifted, 100),
            (diagonal(&body, 1.0, 0.1), Proposal::Shifted, 100),
            (diagonal(&body, 1.0, 0.5), Proposal::Shifted, 100),
        ]
        .into_iter()
        .map(|(map, proposal, count)| {
            let samples = rays(&body, &map, proposal, 1.0, 3, count).unwrap();
            let result = summary(&samples, 3);
            let evaluations = samples.iter().map(|s| f64::from(s.evaluations)).sum::<f64>() / count as f64;
            format!(
                "{:+.3} (ESS {:.1}, {:?}, {evaluations:.1} evaluations)",
                estimate(&samples) - truth,
                result.diagnostics.effective_sample_size,
                result.diagnostics.reliability
            )
        })
        .collect();
        println!("| {alpha}, {dimension}, {truth:.2} | {} |", cells.join(" | "));
    }
}
