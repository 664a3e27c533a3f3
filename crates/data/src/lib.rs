//! Datasets for basin-volume: reading, splitting and hashing. No ML framework: rows of `f32` and labels.
//!
//! [`digits`] holds the embedded handwritten digits, [`tensors`] reads `.safetensors` files, [`shuffle`] is the seeded permutation
//! that every split and every epoch uses.

#![deny(missing_docs)]

mod dataset;
pub mod digits;
mod error;
pub mod shuffle;
pub mod tensors;

pub use dataset::{Dataset, Split};
pub use error::DataError;
