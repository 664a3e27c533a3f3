//! A Gaussian given by its moments.

use std::ops::Range;
use std::sync::Arc;

use super::{Preconditioner, PreconditionerError};

/// The Gaussian `N(mean, s^2 P P')` of the displacement `w - c`: a map that knows its scale, with a mean of its own.
#[derive(Debug, Clone)]
pub struct Gaussian {
    map: Arc<dyn Preconditioner>,
    mean: Vec<f32>,
}

impl Gaussian {
    /// From a root of the covariance ([`super::Diagonal::from_variances`], [`super::Dense::from_covariance`] and others) and the mean of
    /// `w - c` (length `D`).
    ///
    /// # Errors
    /// If the mean has another length than the covariance, or an entry that is not finite.
    pub fn new(map: Arc<dyn Preconditioner>, mean: Vec<f32>) -> Result<Self, PreconditionerError> {
        if let Some(dimension) = map.dimension()
            && dimension != mean.len()
        {
            return Err(PreconditionerError::Mean { mean: mean.len(), dimension });
        }
        match mean.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(PreconditionerError::NotFinite { index, value: f64::from(mean[index]) }),
            None => Ok(Self { map, mean }),
        }
    }
}

impl Preconditioner for Gaussian {
    fn dimension(&self) -> Option<usize> {
        Some(self.mean.len())
    }

    fn scale(&self) -> f64 {
        self.map.scale()
    }

    fn log_determinant(&self) -> f64 {
        self.map.log_determinant()
    }

    fn support(&self, range: Range<usize>) -> Range<usize> {
        self.map.support(range)
    }

    fn apply(&self, range: Range<usize>, normals: &[f32], out: &mut [f32]) {
        self.map.apply(range, normals, out);
    }

    fn apply_inverse(&self, x: &mut [f32]) {
        self.map.apply_inverse(x);
    }

    fn apply_transpose(&self, x: &mut [f32]) {
        self.map.apply_transpose(x);
    }

    fn root_scale(&self) -> Option<f64> {
        self.map.root_scale()
    }

    fn mean(&self) -> Option<&[f32]> {
        Some(&self.mean)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Damping, Dense, Diagonal, Kronecker, KroneckerCurvature, KroneckerTensor, LowRankDiagonal, Rest};
    use super::*;
    use crate::direction::dot;
    use crate::random::{NormalVector, Purpose};

    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        let mut z = vec![0.0; count];
        NormalVector::new(Purpose::Trials, seed, 0, count).fill(0..count, &mut z);
        z
    }

    const D: usize = 6;

    /// A positive definite matrix and its entries in `f64`.
    fn curvature() -> Vec<f64> {
        let x = numbers(D * D, 3);
        let entry = |i: usize, j: usize| (0..D).map(|k| f64::from(x[i * D + k]) * f64::from(x[j * D + k])).sum::<f64>();
        (0..D * D).map(|at| entry(at / D, at % D)).collect()
    }

    /// Maps that stand for the covariance `(beta H + I/sigma^2)^-1`, with `beta H + I/sigma^2` dense.
    fn maps() -> Vec<(&'static str, Arc<dyn Preconditioner>, Vec<f64>)> {
        let damping = Damping { beta: 2.5, sigma: 0.7 };
        let precision = |h: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
            let entry = |i: usize, j: usize| damping.beta * h(i, j) + if i == j { damping.sigma.powi(-2) } else { 0.0 };
            (0..D * D).map(|at| entry(at / D, at % D)).collect()
        };
        let h = curvature();
        let values: Vec<f32> = numbers(D, 5).iter().map(|x| x * x).collect();
        let basis = numbers(2 * D, 8);
        let eigenvalues = [1.5f32, 0.2];
        let symmetric = |size: usize| -> Vec<f32> {
            let x = numbers(size * size, 11);
            let entry = |i: usize, j: usize| (0..size).map(|k| x[i * size + k] * x[j * size + k]).sum::<f32>();
            (0..size * size).map(|at| entry(at / size, at % size)).collect()
        };
        let (two, three) = (symmetric(2), symmetric(3));
        let product = KroneckerTensor::Product { row_factor: &two, column_factor: &three, scale: 0.4 };
        let kronecker = Kronecker::new(KroneckerCurvature::new([product]).unwrap(), damping).unwrap();
        let diagonal = Diagonal::from_curvature(&values, damping).unwrap();
        let variances: Vec<f32> = values.iter().map(|v| v + 0.1).collect();
        let on_diagonal = |i: usize, j: usize, value: f64| if i == j { value } else { 0.0 };
        let inverse: Vec<f64> = (0..D * D).map(|at| on_diagonal(at / D, at % D, 1.0 / f64::from(variances[at / D]))).collect();
        let low_rank = LowRankDiagonal::new(basis.clone(), &eigenvalues, Rest::PerCoordinate(&values), D, damping).unwrap();
        let low = |i: usize, j: usize| {
            let ranks = eigenvalues.iter().enumerate();
            ranks.map(|(k, l)| f64::from(*l) * f64::from(basis[k * D + i]) * f64::from(basis[k * D + j])).sum::<f64>()
                + on_diagonal(i, j, f64::from(values[i]))
        };
        vec![
            ("diagonal", Arc::new(diagonal), precision(&|i, j| on_diagonal(i, j, f64::from(values[i])))),
            ("variances", Arc::new(Diagonal::from_variances(&variances).unwrap()), inverse),
            ("dense", Arc::new(Dense::from_curvature(&h, D, damping).unwrap()), precision(&|i, j| h[i * D + j])),
            ("precision", Arc::new(Dense::from_precision(&h, D).unwrap()), h.clone()),
            ("low rank", Arc::new(low_rank), precision(&low)),
            (
                "Kronecker",
                Arc::new(kronecker),
                precision(&|i, j| 0.4 * f64::from(two[i / 3 * 2 + j / 3]) * f64::from(three[i % 3 * 3 + j % 3])),
            ),
        ]
    }

    #[test]
    fn the_scale_makes_the_map_a_root_of_the_covariance() {
        for (name, map, precision) in maps() {
            let s = map.root_scale().unwrap();
            // s^2 P P' (precision) x = x, with all three steps of the map.
            let x = numbers(D, 21);
            let mut y: Vec<f32> = (0..D).map(|i| (0..D).map(|j| precision[i * D + j] * f64::from(x[j])).sum::<f64>() as f32).collect();
            map.apply_transpose(&mut y);
            let mut back = vec![0.0f32; D];
            map.apply(0..D, &y, &mut back);
            for (i, (x, back)) in x.iter().zip(&back).enumerate() {
                let back = s * s * map.scale() * f64::from(*back);
                assert!((back - f64::from(*x)).abs() < 2e-4, "{name}, coordinate {i}: {back} instead of {x}");
            }
        }
    }

    #[test]
    fn the_transpose_is_the_transpose() {
        for (name, map, _) in maps() {
            let (x, mut y) = (numbers(D, 31), numbers(D, 32));
            let mut mapped = vec![0.0f32; D];
            map.apply(0..D, &x, &mut mapped);
            let left = map.scale() * dot(&mapped, &y);
            map.apply_transpose(&mut y);
            let right = dot(&x, &y);
            assert!((left - right).abs() < 1e-5 * left.abs().max(1.0), "{name}: {left} {right}");
        }
    }

    #[test]
    fn covariance_and_precision_are_inverses() {
        let variances = [0.5f32, 2.0, 9.0];
        let matrix =
            |value: &dyn Fn(usize) -> f64| -> Vec<f64> { (0..9).map(|at| if at % 4 == 0 { value(at / 4) } else { 0.0 }).collect() };
        let covariance = Dense::from_covariance(&matrix(&|i| f64::from(variances[i])), 3).unwrap();
        let precision = Dense::from_precision(&matrix(&|i| 1.0 / f64::from(variances[i])), 3).unwrap();
        let diagonal = Diagonal::from_variances(&variances).unwrap();
        for (a, b) in covariance.entries().iter().zip(precision.entries()) {
            assert!((a - b).abs() < 1e-12);
        }
        for map in [&covariance as &dyn Preconditioner, &precision, &diagonal] {
            assert!((map.root_scale().unwrap() - 9f64.powf(1.0 / 6.0)).abs() < 1e-6, "{map:?}");
        }
    }

    #[test]
    fn what_is_no_gaussian_is_refused() {
        let map = || Arc::new(Diagonal::from_variances(&[1.0, 2.0]).unwrap());
        assert_eq!(Gaussian::new(map(), vec![0.0]).unwrap_err(), PreconditionerError::Mean { mean: 1, dimension: 2 });
        assert!(matches!(Gaussian::new(map(), vec![0.0, f32::NAN]), Err(PreconditionerError::NotFinite { index: 1, .. })));
        assert!(matches!(Diagonal::from_variances(&[1.0, 0.0]), Err(PreconditionerError::Negative { index: 1, .. })));
        for (root, name) in [(Dense::from_covariance as fn(&[f64], usize) -> _, "covariance"), (Dense::from_precision, "precision")] {
            let error: PreconditionerError = root(&[1.0, 2.0, 2.0, 1.0], 2).unwrap_err();
            assert!(matches!(error, PreconditionerError::Eigenvalue { index: 0, .. }) && error.to_string().contains(name), "{error}");
        }
        assert_eq!(Diagonal::from_factors(&[1.0, 2.0]).unwrap().root_scale(), None);
    }
}
