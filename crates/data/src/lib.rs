//! Datasets for basin-volume: reading, splitting and hashing. No ML framework: rows of `f32` and labels, and sequences of token ids.
//!
//! [`digits`] holds the embedded handwritten digits, [`cifar`] reads CIFAR-10 and makes sets of the same form, [`tensors`] reads `.safetensors` files, [`shuffle`] is the seeded permutation
//! that every split and every epoch uses, [`pickle`] a reader of Python's pickles that runs nothing, [`json`] one of JSON as Python writes it, [`mod@pointer`] knows what git-lfs leaves in the place of files. For language models, [`text`] reads documents, [`tokenizer`] encodes them and [`tokens`] makes
//! the sequences that the cost is measured on.

#![deny(missing_docs)]

pub mod cifar;
mod dataset;
pub mod digits;
mod error;
mod guard;
pub mod json;
pub mod pickle;
pub mod pointer;
pub mod random;
pub mod shuffle;
pub mod tensors;
pub mod text;
pub mod tokenizer;
pub mod tokens;

pub use dataset::{Dataset, Split, hexadecimal};
pub use error::DataError;
