//! Weights before training.

use basin_volume::random::{NormalVector, Purpose};
use rayon::prelude::*;

/// Coordinates that one task draws.
const CHUNK: usize = 1 << 16;

/// Draws the weights of a tensor from `N(0, deviation^2)`: a pure function of the seed and the
/// tensor's number.
pub(crate) fn draw_weights(values: &mut [f32], seed: u64, tensor: usize, deviation: f64) {
    let normals = NormalVector::new(Purpose::InitialWeights, seed, tensor as u64, values.len());
    values.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
        let start = chunk * CHUNK;
        normals.fill(start..start + values.len(), values);
        values.iter_mut().for_each(|value| *value = (f64::from(*value) * deviation) as f32);
    });
}
