//! Weights in the formats they are published in, read lazily from memory maps, without regard to any architecture.
//!
//! [`TensorStore`] opens a file or a folder (safetensors, PyTorch's zipped pickles, both possibly in shards, or gguf) and reads any range
//! of any tensor as `f32`. [`bind()`] lays the tensors of a store out in the order of a [`crate::parameters::ParameterLayout`] and checks
//! that each is there, of the right shape and finite, and that none is left over; the [`Center`] it gives serves the flat vector from the
//! maps, so the weights are never copied as a whole. [`hub`] brings files from the Hugging Face hub.
//!
//! Files are not trusted: a pickle's code is never run, no length is believed before it is compared with the file's size, and every
//! error is one sentence that names the file and the tensor.

pub mod adapter;
mod bind;
mod blocks;
mod element;
mod error;
pub(crate) mod file;
mod gguf;
pub mod hub;
pub(crate) mod safetensors;
mod sharded;
mod store;
pub(crate) mod stored;
pub(crate) mod torch;
mod wrapper;
mod zip;

pub use bind::{BindOptions, Center, bind};
pub use blocks::BlockFormat;
pub use element::Element;
pub use error::WeightsError;
pub(crate) use error::{listed, printable};
pub use gguf::{Gguf, GgufValue};
pub use hub::{DataSetFiles, Hub, HubError, HubSettings, Report};
pub use store::TensorStore;

#[cfg(test)]
mod tests;
