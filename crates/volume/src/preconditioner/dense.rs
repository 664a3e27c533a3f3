//! Dense symmetric maps, from the eigendecomposition of a curvature matrix (small `D`).

use std::ops::Range;

use faer::linalg::solvers::SelfAdjointEigen;
use faer::{Mat, Side};

use super::{CurvatureMap, Preconditioner, PreconditionerError};

/// `P = Q diag(p) Q^T` with `Q` the eigenvectors of a symmetric matrix and `p` its eigenvalues under a [`CurvatureMap`], normalised to
/// determinant one. Stored in `f64` (8 `D^2` bytes): rounding a matrix to `f32` would move its determinant.
#[derive(Debug, Clone)]
pub struct Dense {
    dimension: usize,
    /// Row-major, symmetric.
    map: Vec<f64>,
    inverse: Vec<f64>,
    log_determinant: f64,
    root_scale: Option<f64>,
}

/// Relative asymmetry up to which a matrix counts as symmetric: what `f32` storage of a symmetric matrix may leave.
const SYMMETRY_TOLERANCE: f64 = 1e-5;

impl Dense {
    /// From a symmetric matrix `H` (row-major, `dimension * dimension` entries), `O(D^3)`.
    ///
    /// # Errors
    /// If the matrix is empty, not square, not symmetric, not finite, or has an eigenvalue that the map sends to zero or infinity.
    pub fn from_curvature(matrix: &[f64], dimension: usize, map: impl Into<CurvatureMap>) -> Result<Self, PreconditionerError> {
        let map = map.into();
        map.validate()?;
        let (dense, mean_log) = Self::normalized(matrix, dimension, |index, eigenvalue| map.checked_factor(index, eigenvalue))?;
        Ok(Self { root_scale: map.root_scale(mean_log), ..dense })
    }

    /// The root of a covariance matrix (row-major, `dimension * dimension` entries), `O(D^3)`.
    ///
    /// # Errors
    /// If the matrix is empty, not square, not symmetric, not finite or not positive definite.
    pub fn from_covariance(matrix: &[f64], dimension: usize) -> Result<Self, PreconditionerError> {
        Self::root(matrix, dimension, "a positive definite covariance", f64::sqrt)
    }

    /// The root of the inverse of a precision matrix (row-major, `dimension * dimension` entries), `O(D^3)`.
    ///
    /// # Errors
    /// As [`Dense::from_covariance`].
    pub fn from_precision(matrix: &[f64], dimension: usize) -> Result<Self, PreconditionerError> {
        Self::root(matrix, dimension, "a positive definite precision", |eigenvalue| 1.0 / eigenvalue.sqrt())
    }

    fn root(matrix: &[f64], dimension: usize, expected: &'static str, factor: impl Fn(f64) -> f64) -> Result<Self, PreconditionerError> {
        let (dense, mean_log) = Self::normalized(matrix, dimension, |index, eigenvalue| match factor(eigenvalue) {
            factor if eigenvalue > 0.0 && factor.is_finite() && factor > 0.0 => Ok(factor),
            _ => Err(PreconditionerError::Eigenvalue { index, value: eigenvalue, expected }),
        })?;
        Ok(Self { root_scale: Some(mean_log.exp()), ..dense })
    }

    /// The map with these factors of the eigenvalues, normalised, and the mean logarithm that was taken out.
    fn normalized(
        matrix: &[f64],
        dimension: usize,
        factor: impl Fn(usize, f64) -> Result<f64, PreconditionerError>,
    ) -> Result<(Self, f64), PreconditionerError> {
        let eigen = decompose(matrix, dimension)?;
        let eigenvalues = eigen.S();
        let logs: Vec<f64> = (0..dimension).map(|i| factor(i, eigenvalues[i]).map(f64::ln)).collect::<Result<_, _>>()?;
        let mean = logs.iter().sum::<f64>() / dimension as f64;
        let compose = |sign: f64| {
            let factors: Vec<f64> = logs.iter().map(|log| (sign * (log - mean)).exp()).collect();
            let vectors = eigen.U();
            let scaled = Mat::from_fn(dimension, dimension, |i, k| vectors[(i, k)] * factors[k]);
            let product = scaled * vectors.transpose();
            let mut entries = vec![0.0; dimension * dimension];
            for i in 0..dimension {
                for j in 0..dimension {
                    entries[i * dimension + j] = 0.5 * (product[(i, j)] + product[(j, i)]);
                }
            }
            entries
        };
        let (map, inverse) = (compose(1.0), compose(-1.0));
        let log_determinant = logs.iter().map(|log| log - mean).sum();
        Ok((Self { dimension, map, inverse, log_determinant, root_scale: None }, mean))
    }

    /// The eigenvalues of a symmetric matrix that a map is chosen for.
    ///
    /// # Errors
    /// If the matrix is empty, not square, not symmetric or not finite.
    pub fn eigenvalues(matrix: &[f64], dimension: usize) -> Result<Vec<f64>, PreconditionerError> {
        let eigen = decompose(matrix, dimension)?;
        Ok((0..dimension).map(|k| eigen.S()[k]).collect())
    }

    /// The entries of `P`, row-major.
    #[must_use]
    pub fn entries(&self) -> &[f64] {
        &self.map
    }

    fn row_times(&self, matrix: &[f64], row: usize, x: &[f32]) -> f64 {
        matrix[row * self.dimension..][..self.dimension].iter().zip(x).map(|(&m, &x)| m * f64::from(x)).sum()
    }
}

fn decompose(matrix: &[f64], dimension: usize) -> Result<SelfAdjointEigen<f64>, PreconditionerError> {
    if dimension == 0 {
        return Err(PreconditionerError::Empty);
    }
    if matrix.len() != dimension * dimension {
        let message = format!("has {} entries, but {dimension} x {dimension} were expected", matrix.len());
        return Err(PreconditionerError::Matrix(message));
    }
    if let Some(index) = matrix.iter().position(|x| !x.is_finite()) {
        return Err(PreconditionerError::NotFinite { index, value: matrix[index] });
    }
    let largest = matrix.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    for i in 0..dimension {
        for j in 0..i {
            let (lower, upper) = (matrix[i * dimension + j], matrix[j * dimension + i]);
            if (lower - upper).abs() > SYMMETRY_TOLERANCE * largest {
                let message = format!("is not symmetric: entry ({i}, {j}) is {lower} and entry ({j}, {i}) is {upper}");
                return Err(PreconditionerError::Matrix(message));
            }
        }
    }
    let symmetric = Mat::from_fn(dimension, dimension, |i, j| 0.5 * (matrix[i * dimension + j] + matrix[j * dimension + i]));
    symmetric.self_adjoint_eigen(Side::Lower).map_err(|error| PreconditionerError::Matrix(format!("has no eigendecomposition ({error:?})")))
}

impl Preconditioner for Dense {
    fn dimension(&self) -> Option<usize> {
        Some(self.dimension)
    }

    fn log_determinant(&self) -> f64 {
        self.log_determinant
    }

    fn support(&self, _range: Range<usize>) -> Range<usize> {
        0..self.dimension
    }

    fn apply(&self, range: Range<usize>, normals: &[f32], out: &mut [f32]) {
        for (out, row) in out.iter_mut().zip(range) {
            *out = self.row_times(&self.map, row, normals) as f32;
        }
    }

    fn apply_inverse(&self, x: &mut [f32]) {
        let y: Vec<f32> = (0..self.dimension).map(|row| self.row_times(&self.inverse, row, x) as f32).collect();
        x.copy_from_slice(&y);
    }

    fn apply_transpose(&self, x: &mut [f32]) {
        // The map is symmetric.
        let y: Vec<f32> = (0..self.dimension).map(|row| self.row_times(&self.map, row, x) as f32).collect();
        x.copy_from_slice(&y);
    }

    fn root_scale(&self) -> Option<f64> {
        self.root_scale
    }
}

#[cfg(test)]
mod tests {
    use super::super::DiagonalMap;
    use super::*;
    use faer::Mat;

    /// A symmetric positive matrix with known eigenvalues: a Householder reflection of a diagonal.
    fn reflected(eigenvalues: &[f64]) -> Vec<f64> {
        let n = eigenvalues.len();
        let v: Vec<f64> = (0..n).map(|i| ((i * 7 + 3) % 11) as f64 - 4.5).collect();
        let norm: f64 = v.iter().map(|x| x * x).sum();
        let q = |i: usize, j: usize| f64::from(u8::from(i == j)) - 2.0 * v[i] * v[j] / norm;
        let mut h = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..n {
                h[i * n + j] = (0..n).map(|k| q(i, k) * eigenvalues[k] * q(j, k)).sum();
            }
        }
        h
    }

    #[test]
    fn determinant_is_one_and_the_map_whitens() {
        let n = 60;
        let eigenvalues: Vec<f64> = (1..=n).map(|i| (i as f64).powi(-2)).collect();
        let h = reflected(&eigenvalues);
        let p = Dense::from_curvature(&h, n, DiagonalMap { exponent: 0.5, eps: 0.0 }).unwrap();
        assert!(p.log_determinant().abs() < 1e-9);
        let entries = Mat::from_fn(n, n, |i, j| p.entries()[i * n + j]);
        // An independent determinant: the product of the singular values of the composed matrix.
        let log_determinant: f64 = entries.svd().unwrap().S().column_vector().iter().map(|s| s.ln()).sum();
        assert!(log_determinant.abs() < 1e-9, "log determinant {log_determinant}");
        // P H P is a multiple of the identity.
        let h = Mat::from_fn(n, n, |i, j| h[i * n + j]);
        let white = &entries * &h * &entries;
        let level = white[(0, 0)];
        for i in 0..n {
            for j in 0..n {
                let expected = if i == j { level } else { 0.0 };
                assert!((white[(i, j)] - expected).abs() < 1e-9 * level, "({i}, {j})");
            }
        }
        let mut x: Vec<f32> = (0..n).map(|i| i as f32).collect();
        let original = x.clone();
        let mut y = vec![0.0; n];
        p.apply(0..n, &x, &mut y);
        x.copy_from_slice(&y);
        p.apply_inverse(&mut x);
        for (a, b) in original.iter().zip(&x) {
            assert!((a - b).abs() < 1e-3, "{a} {b}");
        }
    }

    #[test]
    fn bad_matrices_are_refused() {
        let map = DiagonalMap { exponent: 0.5, eps: 0.0 };
        assert!(matches!(Dense::from_curvature(&[1.0, 2.0], 2, map), Err(PreconditionerError::Matrix(_))));
        assert!(matches!(Dense::from_curvature(&[1.0, 2.0, 0.0, 1.0], 2, map), Err(PreconditionerError::Matrix(_))));
        assert!(matches!(Dense::from_curvature(&[1.0, 0.0, 0.0, f64::NAN], 2, map), Err(PreconditionerError::NotFinite { .. })));
        assert!(matches!(Dense::from_curvature(&[1.0, 0.0, 0.0, 0.0], 2, map), Err(PreconditionerError::Singular { .. })));
    }
}
