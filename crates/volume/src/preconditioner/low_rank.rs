//! Maps from a diagonal and a few eigenvectors.

use std::ops::Range;

use faer::{Mat, Side};
use rayon::prelude::*;

use super::{Damping, Preconditioner, PreconditionerError};
use crate::direction::BLOCK;
use crate::special::ordered_sum;

/// The diagonal beside low-rank curvature.
#[derive(Debug, Clone, Copy)]
pub enum Rest<'a> {
    /// One number for all coordinates.
    Uniform(f32),
    /// One number per coordinate.
    PerCoordinate(&'a [f32]),
}

impl Rest<'_> {
    /// The number of a coordinate.
    #[must_use]
    pub fn at(&self, index: usize) -> f64 {
        match self {
            Self::Uniform(value) => f64::from(*value),
            Self::PerCoordinate(values) => f64::from(values[index]),
        }
    }
}

/// A square root of `(beta H + I/sigma^2)^-1` for `H = diag(d) + U diag(l) U'`, with `U` `[D, K]` (orthonormal or not).
///
/// With `gain = beta sigma^2`, `E = (1 + gain d)^(1/2)` and `V = E^-1 U (gain l)^(1/2)`, up to a factor
///
/// ```text
/// P = E^-1 (I + V V')^(-1/2) = E^-1 (I + V C V'),   C = X diag( ((1+m)^(-1/2) - 1)/m ) X',   V'V = X diag(m) X'
/// ```
///
/// so that `P P' = (E (I + V V') E)^-1` is the wanted covariance. (`P` is not symmetric; directions `P u` with `u` uniform depend on `P P'`
/// alone.) `C` is computed in `f64` from the `V` that is stored, in `f32`, so the determinant `-sum ln E_i - 1/2 sum ln(1 + m_k)` and the
/// inverse are those of the stored map, whatever its rounding. Memory `4 D (K + 1)` bytes; a product takes `4 D K` operations.
#[derive(Debug, Clone)]
pub struct LowRankDiagonal {
    /// `E^-1`.
    factors: Vec<f32>,
    /// `V'`, row-major `[K, D]`.
    basis: Vec<f32>,
    rank: usize,
    /// `C`, row-major `[K, K]`.
    shrink: Vec<f64>,
    /// `X diag( ((1+m)^(1/2) - 1)/m ) X'`: the same for the inverse.
    stretch: Vec<f64>,
    scale: f64,
    log_determinant: f64,
    root_scale: f64,
}

/// Coordinates whose results are accumulated in `f64` at the same time.
const CHUNK: usize = 512;

impl LowRankDiagonal {
    /// From the rows of `U'` (`basis`, row-major `[K, D]`, taken over and rescaled in place), `l` (length `K`) and `d`.
    ///
    /// # Errors
    /// If the lengths do not fit each other, or a number is not finite or negative where it may not be.
    pub fn new(
        mut basis: Vec<f32>,
        eigenvalues: &[f32],
        rest: Rest<'_>,
        dimension: usize,
        damping: Damping,
    ) -> Result<Self, PreconditionerError> {
        damping.validate()?;
        let rank = eigenvalues.len();
        if dimension == 0 {
            return Err(PreconditionerError::Empty);
        }
        if basis.len() != rank * dimension {
            return Err(PreconditionerError::Matrix(format!("has {} entries, but {rank} x {dimension} were expected", basis.len())));
        }
        if let Rest::PerCoordinate(values) = rest
            && values.len() != dimension
        {
            return Err(PreconditionerError::Matrix(format!("has a diagonal of {} entries, not {dimension}", values.len())));
        }
        let not_negative = |index: usize, value: f64| {
            if !value.is_finite() {
                Err(PreconditionerError::NotFinite { index, value })
            } else if value < 0.0 {
                Err(PreconditionerError::Negative { index, value, expected: "a curvature >= 0" })
            } else {
                Ok(())
            }
        };
        eigenvalues.iter().enumerate().try_for_each(|(index, &value)| not_negative(index, f64::from(value)))?;
        (0..dimension).try_for_each(|index| not_negative(index, rest.at(index)))?;
        let factors: Vec<f32> = (0..dimension).map(|i| damping.factor(rest.at(i)) as f32).collect();
        for (row, &eigenvalue) in basis.chunks_exact_mut(dimension).zip(eigenvalues) {
            let root = (damping.gain() * f64::from(eigenvalue)).sqrt();
            row.par_iter_mut().zip(&factors).for_each(|(value, &factor)| *value = (f64::from(*value) * root * f64::from(factor)) as f32);
        }
        if let Some(index) = basis.par_iter().position_first(|value| !value.is_finite()) {
            return Err(PreconditionerError::NotFinite { index: index % dimension, value: f64::from(basis[index]) });
        }
        let (shrink, stretch) = (Vec::new(), Vec::new());
        let mut map = Self { factors, basis, rank, shrink, stretch, scale: 1.0, log_determinant: 0.0, root_scale: damping.sigma };
        let moments = map.spectrum_of_gram()?;
        let sum_log = ordered_sum(dimension, |i| f64::from(map.factors[i]).ln()) - 0.5 * moments.iter().map(|m| m.ln_1p()).sum::<f64>();
        let mean = sum_log / dimension as f64;
        map.scale = (-mean).exp();
        map.root_scale = damping.sigma * mean.exp();
        map.log_determinant = (dimension as f64).mul_add(map.scale.ln(), sum_log);
        if !map.scale.is_finite() || map.factors.iter().any(|factor| !factor.is_normal()) {
            let index = map.factors.iter().position(|factor| !factor.is_normal()).unwrap_or(0);
            return Err(PreconditionerError::Singular { index, value: rest.at(index), factor: f64::from(map.factors[index]) });
        }
        Ok(map)
    }

    /// Number of vectors.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Fills `shrink` and `stretch` and returns the eigenvalues `m` of `V'V`.
    fn spectrum_of_gram(&mut self) -> Result<Vec<f64>, PreconditionerError> {
        let (rank, dimension) = (self.rank, self.factors.len());
        if rank == 0 {
            return Ok(Vec::new());
        }
        let row = |k: usize, range: Range<usize>| &self.basis[k * dimension..][range];
        // One task per block of coordinates; the blocks' sums are added in order.
        let blocks: Vec<Range<usize>> = (0..dimension).step_by(BLOCK).map(|start| start..(start + BLOCK).min(dimension)).collect();
        let mut gram = vec![0.0f64; rank * rank];
        // A few blocks at a time, so that their partial sums stay small.
        for group in blocks.chunks(64) {
            let partial: Vec<Vec<f64>> = group
                .par_iter()
                .map(|block| {
                    let mut sums = vec![0.0; rank * rank];
                    for i in 0..rank {
                        for j in 0..=i {
                            sums[i * rank + j] = crate::direction::dot(row(i, block.clone()), row(j, block.clone()));
                        }
                    }
                    sums
                })
                .collect();
            for sums in partial {
                gram.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
            }
        }
        let symmetric = Mat::from_fn(rank, rank, |i, j| gram[i.max(j) * rank + i.min(j)]);
        let eigen = symmetric
            .self_adjoint_eigen(Side::Lower)
            .map_err(|error| PreconditionerError::Matrix(format!("has no eigendecomposition ({error:?})")))?;
        // Rounding may push the smallest ones below zero.
        let moments: Vec<f64> = (0..rank).map(|k| eigen.S()[k].max(0.0)).collect();
        let compose = |value: fn(f64) -> f64| {
            let vectors = eigen.U();
            let entry = |i: usize, j: usize| (0..rank).map(|k| vectors[(i, k)] * value(moments[k]) * vectors[(j, k)]).sum();
            (0..rank * rank).map(|at| entry(at / rank, at % rank)).collect::<Vec<f64>>()
        };
        // ((1+m)^(-1/2) - 1)/m and ((1+m)^(1/2) - 1)/m, in forms without cancellation.
        self.shrink = compose(|m| {
            let root = (1.0 + m).sqrt();
            -1.0 / (root * (1.0 + root))
        });
        self.stretch = compose(|m| 1.0 / (1.0 + (1.0 + m).sqrt()));
        Ok(moments)
    }

    /// `matrix * V' x`, length `K`: the sums run over fixed blocks.
    fn coefficients(&self, matrix: &[f64], x: &[f32]) -> Vec<f64> {
        let dimension = self.factors.len();
        let partial: Vec<Vec<f64>> = x
            .par_chunks(BLOCK)
            .enumerate()
            .map(|(block, x)| {
                let row = |k: usize| &self.basis[k * dimension + block * BLOCK..][..x.len()];
                (0..self.rank).map(|k| crate::direction::dot(row(k), x)).collect()
            })
            .collect();
        let inner: Vec<f64> = (0..self.rank).map(|k| partial.iter().map(|sums| sums[k]).sum()).collect();
        matrix.chunks_exact(self.rank.max(1)).map(|row| row.iter().zip(&inner).map(|(m, x)| m * x).sum()).collect()
    }

    /// `x_i + sum_k V_ik coefficient_k` for the coordinates of a chunk that starts at `start`, in `f64`.
    fn corrected(&self, start: usize, x: &[f32], coefficients: &[f64], sums: &mut [f64; CHUNK]) {
        let dimension = self.factors.len();
        for (sum, &x) in sums.iter_mut().zip(x) {
            *sum = f64::from(x);
        }
        for (k, &coefficient) in coefficients.iter().enumerate() {
            let row = &self.basis[k * dimension + start..][..x.len()];
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += coefficient * f64::from(value);
            }
        }
    }
}

impl Preconditioner for LowRankDiagonal {
    fn dimension(&self) -> Option<usize> {
        Some(self.factors.len())
    }

    fn scale(&self) -> f64 {
        self.scale
    }

    fn log_determinant(&self) -> f64 {
        self.log_determinant
    }

    fn support(&self, _range: Range<usize>) -> Range<usize> {
        0..self.factors.len()
    }

    fn apply(&self, range: Range<usize>, normals: &[f32], out: &mut [f32]) {
        let coefficients = self.coefficients(&self.shrink, normals);
        let first = range.start;
        out.par_chunks_mut(CHUNK).zip(normals[range].par_chunks(CHUNK)).enumerate().for_each(|(chunk, (out, x))| {
            let start = first + chunk * CHUNK;
            let mut sums = [0.0; CHUNK];
            self.corrected(start, x, &coefficients, &mut sums);
            for ((out, sum), &factor) in out.iter_mut().zip(sums).zip(&self.factors[start..]) {
                *out = (sum * f64::from(factor)) as f32;
            }
        });
    }

    fn apply_inverse(&self, x: &mut [f32]) {
        // (I + V C V')^-1 E, over the scale.
        x.par_iter_mut().zip(&self.factors).for_each(|(x, &factor)| *x = (f64::from(*x) / f64::from(factor)) as f32);
        let coefficients = self.coefficients(&self.stretch, x);
        x.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, x)| {
            let mut sums = [0.0; CHUNK];
            self.corrected(chunk * CHUNK, x, &coefficients, &mut sums);
            x.iter_mut().zip(sums).for_each(|(x, sum)| *x = (sum / self.scale) as f32);
        });
    }

    fn apply_transpose(&self, x: &mut [f32]) {
        // (I + V C V') E^-1, times the scale.
        x.par_iter_mut().zip(&self.factors).for_each(|(x, &factor)| *x = (f64::from(*x) * f64::from(factor)) as f32);
        let coefficients = self.coefficients(&self.shrink, x);
        x.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, x)| {
            let mut sums = [0.0; CHUNK];
            self.corrected(chunk * CHUNK, x, &coefficients, &mut sums);
            x.iter_mut().zip(sums).for_each(|(x, sum)| *x = (sum * self.scale) as f32);
        });
    }

    fn root_scale(&self) -> Option<f64> {
        Some(self.root_scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `P` as a dense matrix, by its columns.
    fn dense(map: &dyn Preconditioner, dimension: usize) -> Mat<f64> {
        let mut entries = Mat::zeros(dimension, dimension);
        for column in 0..dimension {
            let mut unit = vec![0.0f32; dimension];
            unit[column] = 1.0;
            let mut out = vec![0.0f32; dimension];
            map.apply(0..dimension, &unit, &mut out);
            for row in 0..dimension {
                entries[(row, column)] = map.scale() * f64::from(out[row]);
            }
        }
        entries
    }

    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        let mut z = vec![0.0; count];
        crate::random::NormalVector::new(crate::random::Purpose::Trials, seed, 0, count).fill(0..count, &mut z);
        z
    }

    proptest! {
        #[test]
        fn it_is_a_root_of_the_dense_inverse_with_determinant_one(
            dimension in 1usize..24, rank in 0usize..5, seed in 0u64..1000, exponent in -3.0f64..3.0, is_uniform in any::<bool>(),
        ) {
            let basis = numbers(rank * dimension, seed);
            let eigenvalues: Vec<f32> = numbers(rank, seed + 1).iter().map(|x| x.abs()).collect();
            let diagonal: Vec<f32> = numbers(dimension, seed + 2).iter().map(|x| x * x).collect();
            let rest = if is_uniform { Rest::Uniform(0.3) } else { Rest::PerCoordinate(&diagonal) };
            let damping = Damping { beta: 10f64.powf(exponent), sigma: 0.8 };
            let map = LowRankDiagonal::new(basis.clone(), &eigenvalues, rest, dimension, damping).unwrap();
            prop_assert!(map.log_determinant().abs() < 1e-12 * dimension as f64);
            let p = dense(&map, dimension);
            let log_determinant: f64 = p.svd().unwrap().S().column_vector().iter().map(|s| s.ln()).sum();
            prop_assert!(log_determinant.abs() < 1e-5, "{log_determinant}");
            // P P' (beta H + I/sigma^2) is a multiple of the identity.
            let precision = Mat::from_fn(dimension, dimension, |i, j| {
                let low: f64 = (0..rank)
                    .map(|k| f64::from(eigenvalues[k]) * f64::from(basis[k * dimension + i]) * f64::from(basis[k * dimension + j]))
                    .sum();
                damping.beta * (low + if i == j { rest.at(i) } else { 0.0 }) + if i == j { damping.sigma.powi(-2) } else { 0.0 }
            });
            let product = &p * p.transpose() * &precision;
            let level = product[(0, 0)];
            let tolerance = 2e-6 * precision.norm_max() * (&p * p.transpose()).norm_max() * dimension as f64;
            for i in 0..dimension {
                for j in 0..dimension {
                    let expected = if i == j { level } else { 0.0 };
                    prop_assert!((product[(i, j)] - expected).abs() < tolerance, "({i}, {j}): {} {expected}", product[(i, j)]);
                }
            }
            // Inverse.
            let x = numbers(dimension, seed + 3);
            let mut y = vec![0.0; dimension];
            map.apply(0..dimension, &x, &mut y);
            let size = y.iter().fold(0.0f32, |m, y| m.max(y.abs()));
            y.iter_mut().for_each(|y| *y = (f64::from(*y) * map.scale()) as f32);
            map.apply_inverse(&mut y);
            let condition = (precision.norm_max() * dimension as f64 * damping.sigma.powi(2)).sqrt() as f32;
            for (x, y) in x.iter().zip(&y) {
                prop_assert!((x - y).abs() < 4e-6 * condition * (size + 1.0), "{x} {y}");
            }
        }
    }

    #[test]
    fn parts_and_threads_give_the_same_bits() {
        let (dimension, rank) = (2 * BLOCK + 777, 3);
        let diagonal: Vec<f32> = numbers(dimension, 1).iter().map(|x| x.abs()).collect();
        let damping = Damping { beta: 100.0, sigma: 0.5 };
        let build = || {
            LowRankDiagonal::new(numbers(rank * dimension, 5), &[1.0, 0.1, 0.0], Rest::PerCoordinate(&diagonal), dimension, damping)
                .unwrap()
        };
        let run = |threads: usize, ranges: &[Range<usize>]| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let (map, normals) = (build(), numbers(dimension, 9));
                let mut out = Vec::new();
                for range in ranges {
                    let mut part = vec![0.0f32; range.len()];
                    map.apply(range.clone(), &normals, &mut part);
                    out.extend(part.iter().map(|x| x.to_bits()));
                }
                (out, map.scale().to_bits())
            })
        };
        let all = 0..dimension;
        let whole = run(1, std::slice::from_ref(&all));
        assert_eq!(whole, run(3, std::slice::from_ref(&all)));
        assert_eq!(whole, run(2, &[0..5, 5..BLOCK + 3, BLOCK + 3..dimension]));
    }

    #[test]
    fn bad_numbers_are_named() {
        let damping = Damping { beta: 1.0, sigma: 1.0 };
        let new =
            |basis: &[f32], eigenvalues: &[f32], rest| LowRankDiagonal::new(basis.to_vec(), eigenvalues, rest, 2, damping).unwrap_err();
        let zero = Rest::Uniform(0.0);
        assert!(matches!(new(&[1.0], &[1.0], zero), PreconditionerError::Matrix(_)));
        assert!(matches!(new(&[1.0, 0.0], &[-1.0], zero), PreconditionerError::Negative { index: 0, .. }));
        assert!(matches!(new(&[1.0, f32::NAN], &[1.0], zero), PreconditionerError::NotFinite { index: 1, .. }));
        assert!(matches!(new(&[1.0, 0.0], &[1.0], Rest::PerCoordinate(&[1.0, -2.0])), PreconditionerError::Negative { index: 1, .. }));
        assert!(matches!(new(&[1.0, 0.0], &[1.0], Rest::PerCoordinate(&[1.0])), PreconditionerError::Matrix(_)));
    }
}
