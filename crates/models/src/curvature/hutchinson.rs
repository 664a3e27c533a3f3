//! The diagonal of the Hessian of the cost by Hutchinson's probes.

use basin_volume::fisher::{DifferenceProducts, FisherMatrix};
use basin_volume::objective::Differentiable;

use super::diagonal::check_probes;
use super::scores::observe;
use super::{Curvature, CurvatureError, Observer};
use crate::cost::draw_signs;

/// How good a diagonal by probes is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProbeReport {
    /// Products of the Fisher matrix made.
    pub products: usize,
    /// The trace, the mean of `v'Fv`, with its standard error (NaN for one probe).
    pub trace: (f64, f64),
    /// Root of the sum of the squared standard errors of the entries over the root of the sum of their squares (NaN for one probe).
    pub relative_error: f64,
    /// Entries that came out negative, set to zero.
    pub negative: usize,
}

/// `H_jj` as the mean of `v_j (F v)_j` over probes `v` of independent signs: without bias, since `E v_j v_k = 0` for `j != k`, and with
/// the variance `sum_(k != j) H_jk^2` per probe, which is much more than that of [`super::fisher_diagonal`] wherever large eigenvalues are
/// shared by many weights. For an objective that has gradients and nothing else.
///
/// Costs two gradients per probe. Means and variances are `f32` by Welford's recurrence. Memory: seven vectors of length `D` beside
/// what a gradient takes.
///
/// # Errors
/// When `probes` is 0, the observer interrupts, the evaluation fails, or everything comes out zero.
pub fn hessian_diagonal(
    objective: &dyn Differentiable,
    (probes, seed): (usize, u64),
    perturbation: f64,
    observer: &mut dyn Observer,
) -> Result<(Curvature, ProbeReport), CurvatureError> {
    check_probes(probes)?;
    let dimension = objective.dimension();
    let products = DifferenceProducts::new(objective, perturbation)?;
    let (mut v, mut product) = (vec![0.0f32; dimension], vec![0.0f32; dimension]);
    let (mut mean, mut spread) = (vec![0.0f32; dimension], vec![0.0f32; dimension]);
    let mut traces = Vec::new();
    observe(observer, 0, probes)?;
    for probe in 0..probes {
        draw_signs(seed, probe as u64, &mut v);
        products.product(&v, &mut product)?;
        let mut trace = 0.0;
        let share = 1.0 / (probe + 1) as f32;
        for (((mean, spread), &v), &product) in mean.iter_mut().zip(&mut spread).zip(&v).zip(&product) {
            let value = v * product;
            trace += f64::from(value);
            let before = value - *mean;
            *mean += before * share;
            *spread += before * (value - *mean);
        }
        traces.push(trace);
        observe(observer, probe + 1, probes)?;
    }
    let squares: f64 = mean.iter().map(|&x| f64::from(x).powi(2)).sum();
    if squares == 0.0 {
        return Err(CurvatureError::Zero { what: "diagonal of the Hessian" });
    }
    let count = probes as f64;
    let pairs = if probes > 1 { count * (count - 1.0) } else { f64::NAN };
    let trace = traces.iter().sum::<f64>() / count;
    let error = (traces.iter().map(|x| (x - trace).powi(2)).sum::<f64>() / pairs).sqrt();
    let relative_error = (spread.iter().map(|&x| f64::from(x)).sum::<f64>() / pairs / squares).sqrt();
    let negative = mean.iter().filter(|&&x| x < 0.0).count();
    mean.iter_mut().for_each(|x| *x = x.max(0.0));
    Ok((Curvature::Diagonal { values: mean }, ProbeReport { products: probes, trace: (trace, error), relative_error, negative }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curvature::testkit::perceptron;
    use crate::curvature::{PERTURBATION, Silent};

    #[test]
    fn it_is_the_diagonal_of_the_dense_matrix_within_the_stated_error() {
        let net = perceptron(&[9, 7, 6, 4], 60);
        let fisher = net.fisher();
        let dimension = fisher.len().isqrt();
        let exact: Vec<f64> = (0..dimension).map(|i| fisher[i * (dimension + 1)]).collect();
        let run = |probes| hessian_diagonal(&net.cost, (probes, 3), PERTURBATION, &mut Silent).unwrap();
        let (few, many) = (run(50), run(800));
        for (curvature, report) in [&few, &many] {
            let Curvature::Diagonal { values } = curvature else { panic!("a diagonal") };
            let error: f64 = values.iter().zip(&exact).map(|(&x, y)| (f64::from(x) - y).powi(2)).sum();
            let relative = (error / exact.iter().map(|y| y * y).sum::<f64>()).sqrt();
            // Zeroes in place of negative entries can only help.
            assert!(relative < 1.5 * report.relative_error && relative > 0.3 * report.relative_error, "{relative} and {report:?}");
            let z = (report.trace.0 - exact.iter().sum::<f64>()) / report.trace.1;
            assert!(z.abs() < 4.0, "{report:?}");
        }
        let ratio = few.1.relative_error / many.1.relative_error;
        assert!((2.5..6.0).contains(&ratio), "16 times the probes have a quarter of the error: {ratio}");
        assert_eq!(many.1.products, 800);
        assert!(run(1).1.relative_error.is_nan());
        assert!(hessian_diagonal(&net.cost, (0, 3), PERTURBATION, &mut Silent).is_err());
    }
}
