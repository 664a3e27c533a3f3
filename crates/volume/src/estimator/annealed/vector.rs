//! Vectors of length `D`, in fixed chunks on rayon's current pool, so that no bit depends on threads.

use rayon::prelude::*;

use crate::direction::{BLOCK, dot};
use crate::random::NormalVector;

/// Coordinates that one task works on; sums run over fixed chunks, so no bit depends on threads.
pub(super) const CHUNK: usize = 1 << 14;

/// Writes a standard normal vector into `out`.
pub(super) fn fill_normal(normal: NormalVector, out: &mut [f32]) {
    let length = out.len();
    out.par_chunks_mut(BLOCK).enumerate().for_each(|(block, out)| {
        let start = block * BLOCK;
        normal.fill(start..(start + BLOCK).min(length), out);
    });
}

/// `|x|^2`.
pub(super) fn squared(x: &[f32]) -> f64 {
    let sums: Vec<f64> = x.par_chunks(CHUNK).map(|x| dot(x, x)).collect();
    sums.iter().sum()
}
