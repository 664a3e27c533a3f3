//! Where tensors are computed, in which precision, and what is free there.

use candle_core::{DType, Device};

/// A device whose operations are candle's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// NVIDIA: needs the crate's feature `cuda`.
    Cuda,
    /// Apple: needs the crate's feature `metal`.
    Metal,
    /// The processor, by the operations of the others instead of its own kernels: slower, and in every program.
    Processor,
}

impl Accelerator {
    /// Whether this program was built for it.
    #[must_use]
    pub fn is_built(self) -> bool {
        match self {
            Self::Cuda => cfg!(feature = "cuda"),
            Self::Metal => cfg!(feature = "metal"),
            Self::Processor => true,
        }
    }

    /// What memory it has: bytes that are free now, where that can be known.
    #[must_use]
    pub fn memory(self) -> CardMemory {
        match self {
            Self::Processor => CardMemory::Shared,
            Self::Metal => CardMemory::Own(None),
            Self::Cuda => CardMemory::Own(free_on_card()),
        }
    }

    pub(super) fn device(self) -> candle_core::Result<Device> {
        match self {
            Self::Cuda => Device::new_cuda(0),
            Self::Metal => Device::new_metal(0),
            Self::Processor => Ok(Device::Cpu),
        }
    }
}

#[cfg(feature = "cuda")]
fn free_on_card() -> Option<u64> {
    let Ok(Device::Cuda(device)) = Device::new_cuda(0) else { return None };
    device.cuda_stream().context().mem_get_info().ok().map(|(free, _)| free as u64)
}

#[cfg(not(feature = "cuda"))]
fn free_on_card() -> Option<u64> {
    None
}

/// The memory that tensors are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CardMemory {
    /// The processor's.
    Shared,
    /// The device's own, with so many bytes free, where that is known.
    Own(Option<u64>),
}

/// Precision of the weights and activations of a forward pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Precision {
    /// Single.
    #[default]
    F32,
    /// The upper half of single precision. Small steps along a ray vanish in its rounding: the noise is measured and stated.
    Bf16,
}

impl Precision {
    pub(super) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }
}
