//! Maps from Kronecker factors: one pair of small matrices per matrix of weights.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par, Side};
use rayon::prelude::*;

use super::{CurvatureMap, Preconditioner, PreconditionerError};
use crate::special::ordered_sum;

/// Curvature of consecutive coordinates.
#[derive(Debug, Clone)]
pub enum KroneckerTensor<'a> {
    /// A matrix of weights `[rows, columns]`, row-major: `H_(i,j),(k,l) = scale * row_factor_ik * column_factor_jl`.
    Product {
        /// Symmetric, row-major.
        row_factor: &'a [f32],
        /// Symmetric, row-major.
        column_factor: &'a [f32],
        /// Common factor.
        scale: f64,
    },
    /// One number per coordinate.
    Diagonal(&'a [f32]),
}

/// A square matrix of orthonormal columns in `f32`, row-major, and the logarithm of its determinant as stored.
#[derive(Debug, Clone)]
struct Basis {
    size: usize,
    vectors: Vec<f32>,
    values: Vec<f64>,
    log_determinant: f64,
}

/// Eigenvalues of a factor that are negative by no more than this share of the largest are rounding.
const ROUNDING: f64 = 1e-4;

impl Basis {
    fn of(factor: &[f32], offset: usize) -> Result<Self, PreconditionerError> {
        let size = factor.len().isqrt();
        if size == 0 || size * size != factor.len() {
            return Err(PreconditionerError::Matrix(format!("has a Kronecker factor of {} entries, which is no square", factor.len())));
        }
        if let Some(index) = factor.iter().position(|x| !x.is_finite()) {
            return Err(PreconditionerError::NotFinite { index: offset, value: f64::from(factor[index]) });
        }
        let symmetric = Mat::from_fn(size, size, |i, j| 0.5 * (f64::from(factor[i * size + j]) + f64::from(factor[j * size + i])));
        let eigen = symmetric
            .self_adjoint_eigen(Side::Lower)
            .map_err(|error| PreconditionerError::Matrix(format!("has no eigendecomposition ({error:?})")))?;
        let largest = (0..size).fold(0.0f64, |m, k| m.max(eigen.S()[k].abs()));
        let mut values = Vec::with_capacity(size);
        for k in 0..size {
            let value = eigen.S()[k];
            if value < -ROUNDING * largest {
                return Err(PreconditionerError::Negative {
                    index: offset,
                    value,
                    expected: "Kronecker factors without negative eigenvalues",
                });
            }
            values.push(value.max(0.0));
        }
        let vectors: Vec<f32> = (0..size * size).map(|at| eigen.U()[(at / size, at % size)] as f32).collect();
        // Rounding the vectors moves their determinant away from one, and a tensor has it many times.
        let stored = Mat::from_fn(size, size, |i, j| f64::from(vectors[i * size + j]));
        let factors = stored.partial_piv_lu();
        let log_determinant = (0..size).map(|k| factors.U()[(k, k)].abs().ln()).sum();
        Ok(Self { size, vectors, values, log_determinant })
    }

    fn matrix(&self) -> MatRef<'_, f32> {
        MatRef::from_row_major_slice(&self.vectors, self.size, self.size)
    }
}

#[derive(Debug, Clone)]
enum Part {
    Product {
        rows: Basis,
        columns: Basis,
        scale: f64,
    },
    /// Curvatures before a map is chosen, factors after.
    Diagonal(Vec<f32>),
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Self::Product { rows, columns, .. } => rows.size * columns.size,
            Self::Diagonal(values) => values.len(),
        }
    }
}

/// Block-diagonal curvature, decomposed: eigenvalues and eigenvectors of every factor.
#[derive(Debug, Clone)]
pub struct KroneckerCurvature {
    /// Each with the coordinate that it starts at.
    parts: Vec<(usize, Part)>,
    dimension: usize,
}

impl KroneckerCurvature {
    /// Tensors one after the other. `O(rows^3 + columns^3)` for each product.
    ///
    /// # Errors
    /// If there is no coordinate, a factor is not square or not finite or has a negative eigenvalue, or a scale or a diagonal is negative.
    /// Positions in messages are coordinates (of the tensor's first weight, for factors).
    pub fn new<'a>(tensors: impl IntoIterator<Item = KroneckerTensor<'a>>) -> Result<Self, PreconditionerError> {
        let (mut parts, mut dimension) = (Vec::new(), 0);
        for tensor in tensors {
            let part = match tensor {
                KroneckerTensor::Product { row_factor, column_factor, scale } => {
                    if !(scale >= 0.0 && scale.is_finite()) {
                        return Err(PreconditionerError::Scale { value: scale });
                    }
                    Part::Product { rows: Basis::of(row_factor, dimension)?, columns: Basis::of(column_factor, dimension)?, scale }
                }
                KroneckerTensor::Diagonal(values) => {
                    if let Some(index) = values.iter().position(|x| !x.is_finite()) {
                        return Err(PreconditionerError::NotFinite { index: dimension + index, value: f64::from(values[index]) });
                    }
                    if let Some(index) = values.iter().position(|&x| x < 0.0) {
                        let value = f64::from(values[index]);
                        return Err(PreconditionerError::Negative { index: dimension + index, value, expected: "a curvature >= 0" });
                    }
                    Part::Diagonal(values.to_vec())
                }
            };
            let length = part.len();
            parts.push((dimension, part));
            dimension += length;
        }
        if dimension == 0 { Err(PreconditionerError::Empty) } else { Ok(Self { parts, dimension }) }
    }

    /// Number of coordinates.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// All eigenvalues, as many as coordinates: those of a product are at `(row eigenvector, column eigenvector)`, row-major.
    #[must_use]
    pub fn eigenvalues(&self) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.dimension);
        for (_, part) in &self.parts {
            match part {
                Part::Product { rows, columns, scale } => {
                    values.extend(rows.values.iter().flat_map(|g| columns.values.iter().map(move |a| (scale * g * a) as f32)));
                }
                Part::Diagonal(curvatures) => values.extend_from_slice(curvatures),
            }
        }
        values
    }

    /// The components of `x` (length `D`) in the eigenvectors, in the order of [`KroneckerCurvature::eigenvalues`], in its place.
    ///
    /// # Panics
    /// If the length is wrong.
    pub fn rotate(&self, x: &mut [f32]) {
        assert_eq!(x.len(), self.dimension, "as many numbers as coordinates");
        for (start, part) in &self.parts {
            if let Part::Product { rows, columns, .. } = part {
                let x = &mut x[*start..start + part.len()];
                // Q_G' X Q_A.
                let half = product(rows.matrix().transpose(), MatRef::from_row_major_slice(x, rows.size, columns.size));
                product_into(MatRef::from_row_major_slice(&half, rows.size, columns.size), columns.matrix(), x);
            }
        }
    }
}

/// Rows of a result that one task computes; fixed, so that the bits do not depend on the number of threads.
const ROWS: usize = 128;

/// `left * right`, row-major into `out`.
fn product_into(left: MatRef<'_, f32>, right: MatRef<'_, f32>, out: &mut [f32]) {
    let columns = right.ncols();
    out.par_chunks_mut(ROWS * columns).enumerate().for_each(|(chunk, out)| {
        let rows = out.len() / columns;
        let part = left.subrows(chunk * ROWS, rows);
        matmul(MatMut::from_row_major_slice_mut(out, rows, columns), Accum::Replace, part, right, 1.0f32, Par::Seq);
    });
}

fn product(left: MatRef<'_, f32>, right: MatRef<'_, f32>) -> Vec<f32> {
    let mut out = vec![0.0f32; left.nrows() * right.ncols()];
    product_into(left, right, &mut out);
    out
}

/// A square root of `f(H)^2` for block-diagonal `H`: per matrix `W` of weights with curvature `scale * G kron A`, `G = Q_G diag(g) Q_G'` and
/// `A = Q_A diag(a) Q_A'`,
///
/// ```text
/// P(Z) = Q_G (F o Z) Q_A',     F_ij = f(scale g_i a_j)
/// ```
///
/// with `f` the map of curvatures; an elementwise product for the other tensors. (The rotation that would make `P` symmetric is left out:
/// directions `P u` with `u` uniform depend on `P P'` alone.) `F` is computed where it is needed, in `f64`; the eigenvectors are stored in
/// `f32`, with the determinant that they have as stored. Memory is that of the factors, plus four bytes per weight of the other tensors.
#[derive(Debug, Clone)]
pub struct Kronecker {
    curvature: KroneckerCurvature,
    map: CurvatureMap,
    /// Brings the factors near one.
    level: f64,
    scale: f64,
    log_determinant: f64,
}

impl Kronecker {
    /// With this map of the eigenvalues, normalised to determinant one.
    ///
    /// # Errors
    /// If a setting of the map is out of range, or it sends an eigenvalue to zero or infinity.
    pub fn new(mut curvature: KroneckerCurvature, map: impl Into<CurvatureMap>) -> Result<Self, PreconditionerError> {
        let map = map.into();
        map.validate()?;
        let dimension = curvature.dimension as f64;
        let mut sum_log = 0.0;
        for (start, part) in &curvature.parts {
            sum_log += match part {
                Part::Product { rows, columns, scale } => {
                    let (g, a, width) = (&rows.values, &columns.values, columns.size);
                    for (i, &row) in g.iter().enumerate() {
                        for &column in a {
                            map.checked_factor(start + i * width, scale * row * column)?;
                        }
                    }
                    ordered_sum(part.len(), |at| map.factor(scale * g[at / width] * a[at % width]).ln())
                }
                Part::Diagonal(values) => {
                    for (index, &value) in values.iter().enumerate() {
                        map.checked_factor(start + index, f64::from(value))?;
                    }
                    ordered_sum(values.len(), |i| map.factor(f64::from(values[i])).ln())
                }
            };
        }
        let level = (-sum_log / dimension).exp();
        // What is stored decides the scale: rounded factors of the diagonals, rounded eigenvectors of the products.
        let mut stored = 0.0;
        for (start, part) in &mut curvature.parts {
            stored += match part {
                Part::Product { rows, columns, scale } => {
                    let (g, a, width) = (&rows.values, &columns.values, columns.size);
                    let factors = ordered_sum(rows.size * width, |at| (level * map.factor(*scale * g[at / width] * a[at % width])).ln());
                    factors + width as f64 * rows.log_determinant + rows.size as f64 * columns.log_determinant
                }
                Part::Diagonal(values) => {
                    for (index, value) in values.iter_mut().enumerate() {
                        let factor = (level * map.factor(f64::from(*value))) as f32;
                        if !factor.is_normal() {
                            let factor = f64::from(factor);
                            return Err(PreconditionerError::Singular { index: *start + index, value: f64::from(*value), factor });
                        }
                        *value = factor;
                    }
                    ordered_sum(values.len(), |i| f64::from(values[i]).ln())
                }
            };
        }
        let scale = (-stored / dimension).exp();
        Ok(Self { curvature, map, level, scale, log_determinant: dimension.mul_add(scale.ln(), stored) })
    }

    /// Bytes that the map takes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let part = |part: &Part| match part {
            Part::Product { rows, columns, .. } => 4 * (rows.vectors.len() + columns.vectors.len()) + 8 * (rows.size + columns.size),
            Part::Diagonal(values) => 4 * values.len(),
        };
        self.curvature.parts.iter().map(|(_, p)| part(p) as u64).sum()
    }

    /// The parts that a range touches.
    fn touched(&self, range: &Range<usize>) -> &[(usize, Part)] {
        let parts = &self.curvature.parts;
        let first = parts.partition_point(|(start, part)| start + part.len() <= range.start);
        let last = parts.partition_point(|(start, _)| *start < range.end);
        &parts[first..last.max(first)]
    }

    fn factor(&self, curvature: f64) -> f64 {
        self.level * self.map.factor(curvature)
    }

    /// Every component of `x` in the eigenvectors, replaced by `value` of itself and its factor.
    fn each_component(&self, x: &mut [f32], value: impl Fn(f64, f64) -> f64) {
        for (start, part) in &self.curvature.parts {
            let x = &mut x[*start..start + part.len()];
            let replace = |x: &mut f32, factor: f64| *x = value(f64::from(*x), self.scale * factor) as f32;
            match part {
                Part::Diagonal(factors) => x.iter_mut().zip(factors).for_each(|(x, &factor)| replace(x, f64::from(factor))),
                Part::Product { rows, columns, scale } => {
                    for (row, &g) in x.chunks_exact_mut(columns.size).zip(&rows.values) {
                        row.iter_mut().zip(&columns.values).for_each(|(x, &a)| replace(x, self.factor(scale * g * a)));
                    }
                }
            }
        }
    }
}

impl Preconditioner for Kronecker {
    fn dimension(&self) -> Option<usize> {
        Some(self.curvature.dimension)
    }

    fn scale(&self) -> f64 {
        self.scale
    }

    fn log_determinant(&self) -> f64 {
        self.log_determinant
    }

    fn support(&self, range: Range<usize>) -> Range<usize> {
        let touched = self.touched(&range);
        let (Some((first_start, first)), Some((last_start, last))) = (touched.first(), touched.last()) else { return range };
        let start = if matches!(first, Part::Product { .. }) { *first_start } else { range.start };
        let end = if matches!(last, Part::Product { .. }) { last_start + last.len() } else { range.end };
        start..end
    }

    fn apply(&self, range: Range<usize>, normals: &[f32], out: &mut [f32]) {
        let support = self.support(range.clone());
        for (start, part) in self.touched(&range) {
            let overlap = range.start.max(*start)..range.end.min(start + part.len());
            let out = &mut out[overlap.start - range.start..overlap.end - range.start];
            match part {
                Part::Diagonal(factors) => {
                    let normals = &normals[overlap.start - support.start..overlap.end - support.start];
                    let factors = &factors[overlap.start - start..overlap.end - start];
                    for ((out, &normal), &factor) in out.iter_mut().zip(normals).zip(factors) {
                        *out = normal * factor;
                    }
                }
                Part::Product { rows, columns, scale } => {
                    let (height, width) = (rows.size, columns.size);
                    let mut scaled = normals[start - support.start..][..part.len()].to_vec();
                    scaled.par_chunks_mut(width).zip(&rows.values).for_each(|(row, &g)| {
                        for (value, &a) in row.iter_mut().zip(&columns.values) {
                            *value = (f64::from(*value) * self.factor(scale * g * a)) as f32;
                        }
                    });
                    let half = product(rows.matrix(), MatRef::from_row_major_slice(&scaled, height, width));
                    let half = MatRef::from_row_major_slice(&half, height, width);
                    if out.len() == part.len() {
                        product_into(half, columns.matrix().transpose(), out);
                    } else {
                        product_into(half, columns.matrix().transpose(), &mut scaled);
                        out.copy_from_slice(&scaled[overlap.start - start..overlap.end - start]);
                    }
                }
            }
        }
    }

    fn apply_inverse(&self, x: &mut [f32]) {
        // The eigenvectors are orthonormal to the rounding of f32, which is that of the result.
        self.curvature.rotate(x);
        self.each_component(x, |x, factor| x / factor);
    }

    fn apply_transpose(&self, x: &mut [f32]) {
        // F o (Q_G' X Q_A), times the scale.
        self.curvature.rotate(x);
        self.each_component(x, |x, factor| x * factor);
    }

    fn root_scale(&self) -> Option<f64> {
        // The stored factors are those of the map times the level, so -ln(level scale) is their mean logarithm before both.
        self.map.root_scale(-(self.level.ln() + self.scale.ln()))
    }
}

#[cfg(test)]
mod tests;
