//! The layers of the networks as candle operations with a gradient.
//!
//! On the CPU in `f32` they are vectorised kernels with a backward of their own (candle's exponentials and small reductions are several
//! times slower, and its fused softmax and norms have no backward at all). For every other device and type they are composed of candle's
//! differentiable operations ([`Way::Composed`]), which the CPU has too. Both are tested against finite differences.
//!
//! Tensors are position-major, `[positions, features]`. All results are the same bits on any number of threads: threads only share out
//! whole entries, or blocks of fixed size whose sums are added in order.

mod activation;
mod attention;
mod linear;
mod norm;

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, DType, Error, Layout, Result, Storage, StorageRef, Tensor};

pub(crate) use activation::activation;
pub(crate) use attention::{Angles, AttentionShape, Packing, attention};
pub(crate) use linear::linear;
pub(crate) use norm::norm;

/// How the operations of this module are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// By kernels of our own: `f32` on the CPU alone.
    Kernels,
    /// By candle's operations, on any device: sums of norms and of softmax in `f32` at least.
    Composed,
}

impl Way {
    /// By kernels, where they are for such tensors.
    pub(crate) fn of(tensor: &Tensor) -> Self {
        if tensor.device().is_cpu() && tensor.dtype() == DType::F32 { Self::Kernels } else { Self::Composed }
    }
}

/// A tensor in a type that sums can be made in: half precision becomes `f32`, everything else stays.
pub(crate) fn wide(tensor: &Tensor) -> Result<Tensor> {
    match tensor.dtype() {
        DType::BF16 | DType::F16 => tensor.to_dtype(DType::F32),
        _ => Ok(tensor.clone()),
    }
}

/// The elements of a contiguous `f32` tensor on the CPU.
struct Elements<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

impl Deref for Elements<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            _ => unreachable!("checked when the elements were taken"),
        }
    }
}

/// Borrows the elements of a tensor; an error when it is not contiguous, not `f32` or not on the CPU.
fn elements_of(tensor: &Tensor) -> Result<Elements<'_>> {
    let (storage, layout) = tensor.storage_and_layout();
    let range = contiguous(layout)?;
    match &*storage {
        Storage::Cpu(CpuStorage::F32(_)) => {}
        _ => return Err(Error::Msg("this operation needs f32 tensors on the CPU".to_owned())),
    }
    Ok(Elements { storage, range })
}

/// The elements of an operation's argument.
fn elements<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    Ok(&storage.as_slice::<f32>()?[contiguous(layout)?])
}

fn contiguous(layout: &Layout) -> Result<Range<usize>> {
    let (start, end) = layout.contiguous_offsets().ok_or_else(|| Error::Msg("this operation needs contiguous tensors".to_owned()))?;
    Ok(start..end)
}

/// A tensor of the shape of `like`, on the CPU.
fn tensor_like(values: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, like.shape(), like.device())
}

#[cfg(test)]
mod tests;
