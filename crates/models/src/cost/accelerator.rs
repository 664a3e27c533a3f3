//! Where a language model's cost can be computed but on the processor: in which precision, what is free and what is kept there.

mod forecast;

use basin_volume_data::tokens::TokenSequences;

use super::{CenterOutputs, CostError};
use crate::arch::LanguageModel;
use crate::curvature::Scores;
use crate::parameters::Moving;

pub(crate) use forecast::DeviceForecast;
#[cfg(feature = "tensors")]
pub(crate) use forecast::tile_columns;

/// A device whose operations are candle's: needs the crate's feature `tensors`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// NVIDIA: needs the feature `cuda` too.
    Cuda {
        /// Its number among those that this process sees.
        card: usize,
    },
    /// Apple: needs the feature `metal` too.
    Metal,
    /// The processor, by the operations of the others instead of its own kernels: slower.
    Processor,
}

impl Accelerator {
    /// Whether this program was built for it.
    #[must_use]
    pub fn is_built(self) -> bool {
        match self {
            Self::Cuda { .. } => cfg!(feature = "cuda"),
            Self::Metal => cfg!(feature = "metal"),
            Self::Processor => cfg!(feature = "tensors"),
        }
    }

    /// What memory it has: bytes that are free now, where that can be known.
    #[must_use]
    pub fn memory(self) -> CardMemory {
        match self {
            Self::Processor => CardMemory::Shared,
            Self::Metal => CardMemory::Own(None),
            #[cfg(feature = "cuda")]
            Self::Cuda { card } => CardMemory::Own(crate::tensors::free_on_card(card)),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda { .. } => CardMemory::Own(None),
        }
    }

    /// The card of NVIDIA of one of several processes that were started on this machine, by its number among them: its own, where this process sees
    /// as many; the first, where it sees that one alone.
    #[must_use]
    pub fn card_of(process: u64) -> Self {
        #[cfg(feature = "cuda")]
        let cards = crate::tensors::cards();
        #[cfg(not(feature = "cuda"))]
        let cards = 1;
        Self::Cuda { card: (process % cards.max(1)) as usize }
    }

    /// The cost of `model` around a center over the kept positions of `tokens`, on this device.
    ///
    /// # Errors
    /// As [`super::LanguageModelKl::new`]; when this program was not built for the accelerator, when the machine has none, or it fails.
    pub fn cost(
        self,
        precision: Precision,
        model: &LanguageModel,
        moving: Moving,
        tokens: &TokenSequences,
        keeps: OnDevice,
    ) -> Result<Box<dyn Scores + Send + Sync>, CostError> {
        #[cfg(feature = "tensors")]
        return Ok(Box::new(crate::tensors::LanguageModelTensorKl::on(self, precision, model, moving, tokens, keeps)?));
        #[cfg(not(feature = "tensors"))]
        {
            let _ = (precision, model, moving, tokens, keeps);
            Err(CostError::Device { problem: format!("this program was not built for {self:?}") })
        }
    }
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
    /// Bytes of a number.
    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// What is kept on a device from evaluation to evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnDevice {
    /// Of the center's outputs.
    pub center_outputs: CenterOutputs,
    /// Whether a direction stays there while its ray is searched; else it is made again, block by block, at every evaluation.
    pub direction: bool,
}

/// Logits that exist at the same time, per network.
pub(crate) const LOGITS: usize = 1 << 25;

/// Sequences go through a gradient together up to this many positions: enough for fast products, few enough that their activations are small.
pub(crate) const POSITIONS: usize = 512;

/// Weights that are combined at a time: what double precision takes in between is small beside a large table of tokens.
pub(crate) const PIECE: usize = 1 << 24;
