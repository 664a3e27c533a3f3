//! Networks, checkpoints, training and costs: everything between a folder of weights and an [`basin_volume::objective::Objective`].
//!
//! [`parameters`] gives the flat order of the weights, [`arch`] the networks, [`checkpoint`] their folders, [`train`] how they are made,
//! [`cost`] what is measured along a ray, [`curvature`] what preconditioners are made of, [`memory`] whether it fits.

#![deny(missing_docs)]
#![deny(unsafe_code)]

pub mod arch;
pub mod checkpoint;
pub mod components;
pub mod cost;
pub mod curvature;
mod mapping;
pub mod memory;
mod nn;
pub mod parameters;
mod products;
mod reflection;
#[cfg(feature = "tensors")]
mod tensors;
pub mod train;
pub mod weights;

/// What the benchmarks time by itself.
#[doc(hidden)]
pub mod kernels {
    pub use crate::nn::{add_bias_gelu, product};
}
