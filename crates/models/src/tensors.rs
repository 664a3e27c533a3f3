//! Language models in candle's tensors: what `--device` computes with, and what the tests hold the kernels of the processor against. Built
//! with the feature `tensors` alone.
//!
//! The same networks as in [`crate::arch::decoder`], composed of differentiable operations that every device has, position-major.

mod cost;
mod decoder;
mod head;
mod operations;
mod tape;

pub use cost::LanguageModelTensorKl;

#[cfg(test)]
pub(crate) use decoder::Tensors;
#[cfg(test)]
pub(crate) use head::TensorHead;
#[cfg(test)]
pub(crate) use tape::{TensorTape, TensorTarget};

use crate::arch::GradientError;
use crate::cost::CostError;

/// The first line of what a device says; the rest is its stack.
fn problem(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

impl From<candle_core::Error> for GradientError {
    fn from(error: candle_core::Error) -> Self {
        Self::Device { problem: problem(&error) }
    }
}

impl From<candle_core::Error> for CostError {
    fn from(error: candle_core::Error) -> Self {
        Self::Device { problem: problem(&error) }
    }
}

/// How many cards this process sees.
#[cfg(feature = "cuda")]
pub(crate) fn cards() -> u64 {
    candle_core::cuda_backend::cudarc::driver::CudaContext::device_count().map_or(0, |count| u64::try_from(count).unwrap_or(0))
}

/// Bytes that are free on a card.
#[cfg(feature = "cuda")]
pub(crate) fn free_on_card(card: usize) -> Option<u64> {
    let Ok(candle_core::Device::Cuda(device)) = candle_core::Device::new_cuda(card) else { return None };
    device.cuda_stream().context().mem_get_info().ok().map(|(free, _)| free as u64)
}
