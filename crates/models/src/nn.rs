//! Fast kernels on slices, without a tensor type.
//!
//! Activations are *feature-major*: `[features, positions]`, the positions of one tile contiguous; in [`rows`] and [`depthwise`], for
//! images, they are *channels-last*. Each kernel states its accuracy and
//! oracle; all give the same bits on any number of threads.

mod activation;
pub(crate) mod attention;
pub(crate) mod depthwise;
mod divergence;
mod exponential;
mod gelu;
pub(crate) mod label;
mod norm;
mod reference;
pub(crate) mod row_divergence;
pub(crate) mod rows;
mod slopes;
mod softmax;
pub(crate) mod vocabulary;

pub(crate) use activation::{ActivationFunction, soft_cap};
pub(crate) use divergence::{Divergence, KeptProbabilities, log_normaliser, logit};
pub use gelu::add_bias_gelu;
pub(crate) use gelu::{add_bias_gelu_with_derivative, gelu_tanh, multiply_by_gelu_derivative};
pub(crate) use norm::{NormKind, normalize, normalize_backward};
pub(crate) use reference::{gelu_tanh_exact, logits_exact};
pub(crate) use slopes::{divergence_slopes, entropy_slopes};
pub(crate) use softmax::exponentiate_columns;

/// `output = weights * input` for row-major `weights` `[outputs, inputs]` and feature-major `input` `[inputs, positions]`.
/// Single-threaded. Fastest when `positions` is a multiple of 64.
///
/// # Panics
/// If a length does not fit the shapes.
pub fn product(output: &mut [f32], weights: &[f32], input: &[f32], outputs: usize, inputs: usize, positions: usize) {
    crate::products::product(output, weights, input, outputs, inputs, positions);
}
