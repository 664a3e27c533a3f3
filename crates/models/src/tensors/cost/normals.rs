//! The normals of a direction made where they are used, with the bits of `basin_volume::random::NormalVector`.

use std::ops::Range;

use basin_volume::direction::{BLOCK, Direction};
use basin_volume::random::NormalVector;
use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

#[cfg(feature = "cuda")]
use basin_volume::random::Purpose;

#[cfg(feature = "cuda")]
mod cuda;

/// The coordinates `range` of a direction (without its scale), as a vector on a device.
///
/// A card of NVIDIA makes those of a direction without map and shift itself; all others are made by the processor and sent.
pub(super) fn coordinates(direction: &Direction, range: Range<usize>, device: &Device) -> Result<Tensor> {
    if let Some(values) = direction.stored() {
        let length = range.len();
        return Tensor::from_slice(&values[range], length, device);
    }
    #[cfg(feature = "cuda")]
    if let Some(seed) = direction.seed().filter(|_| device.is_cuda()) {
        let normals = NormalVector::new(Purpose::Directions, seed, direction.index(), direction.dimension());
        return cuda::tensor(normals, range, device);
    }
    made_here(range, device, |range, out| direction.fill(range, out))
}

/// The coordinates `range` of a normal vector, as a vector on a device.
pub(super) fn normals(normals: NormalVector, range: Range<usize>, device: &Device) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return cuda::tensor(normals, range, device);
    }
    made_here(range, device, |range, out| normals.fill(range, out))
}

/// Made by the processor, block by block on all threads, and sent.
fn made_here(range: Range<usize>, device: &Device, fill: impl Fn(Range<usize>, &mut [f32]) + Sync) -> Result<Tensor> {
    let mut buffer = vec![0.0f32; range.len()];
    let fill = |start: usize, out: &mut [f32]| fill(start..start + out.len(), out);
    buffer.par_chunks_mut(BLOCK).enumerate().for_each(|(block, out)| fill(range.start + block * BLOCK, out));
    let length = buffer.len();
    Tensor::from_vec(buffer, length, device)
}
