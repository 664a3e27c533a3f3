//! Vectors of length `D`, in fixed chunks on rayon's current pool, so that no sum depends on the number of threads.

use rayon::prelude::*;

use crate::vectors::CHUNK;
pub(super) use crate::vectors::inner;

/// `y += factor * x`.
pub(super) fn add(y: &mut [f32], factor: f64, x: &[f32]) {
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = factor.mul_add(f64::from(x), f64::from(*y)) as f32);
    });
}

pub(super) fn scale(x: &mut [f32], factor: f64) {
    x.par_chunks_mut(CHUNK).for_each(|x| x.iter_mut().for_each(|x| *x = (factor * f64::from(*x)) as f32));
}

/// Makes a vector a unit vector and returns its length; a vector of zero stays.
pub(super) fn normalize(x: &mut [f32]) -> f64 {
    let norm = inner(x, x).sqrt();
    if norm > 0.0 {
        scale(x, 1.0 / norm);
    }
    norm
}

/// Makes vectors orthonormal in their order, and returns `R` (upper triangular, row-major) of `vectors = Q R`. A vector without a part of its own, at
/// most `least` long, becomes zero. Twice, because what is left of a vector that was nearly dependent is rounding of the first time.
pub(super) fn orthonormalize(vectors: &mut [Vec<f32>], least: f64) -> Vec<f64> {
    let width = vectors.len();
    let mut factor = vec![0.0; width * width];
    for i in 0..width {
        let (before, rest) = vectors.split_at_mut(i);
        let own = &mut rest[0];
        for _ in 0..2 {
            for (k, row) in before.iter().enumerate() {
                let along = inner(row, own);
                add(own, -along, row);
                factor[k * width + i] += along;
            }
        }
        let norm = inner(own, own).sqrt();
        if norm > least {
            scale(own, 1.0 / norm);
            factor[i * width + i] = norm;
        } else {
            own.fill(0.0);
        }
    }
    factor
}

/// Removes the components along orthonormal rows, and once more where most of the vector was along them (Daniel, Gragg, Kaufman & Stewart,
/// *Math. Comp.* 30 (1976) 772): what is left then holds rounding of the first time.
pub(super) fn reorthogonalize(rows: &[Vec<f32>], w: &mut [f32]) {
    let before = inner(w, w);
    project_out(rows, w);
    if inner(w, w) < 0.5 * before {
        project_out(rows, w);
    }
}

/// Removes the components along orthonormal rows. Sums are `f64`.
pub(super) fn project_out(rows: &[Vec<f32>], w: &mut [f32]) {
    if rows.is_empty() {
        return;
    }
    let coefficients: Vec<f64> = rows.iter().map(|row| inner(row, w)).collect();
    w.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, w)| {
        let mut sums: Vec<f64> = w.iter().map(|&x| f64::from(x)).collect();
        for (row, coefficient) in rows.iter().zip(&coefficients) {
            let row = &row[chunk * CHUNK..][..w.len()];
            sums.iter_mut().zip(row).for_each(|(sum, &q)| *sum -= coefficient * f64::from(q));
        }
        w.iter_mut().zip(sums).for_each(|(w, sum)| *w = sum as f32);
    });
}
