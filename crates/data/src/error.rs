//! What can be wrong with a dataset.

use std::path::PathBuf;

use crate::pointer;

/// Why a dataset could not be read or split. Every message is one sentence that names the file or setting and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The file could not be opened or read.
    #[error("cannot read the dataset {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error underneath.
        #[source]
        source: std::io::Error,
    },
    /// The file is not in the safetensors format, or is truncated.
    #[error("{} is not a complete safetensors file ({source}): write it again with tensors `inputs` [n, features] and optionally `labels` [n]", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The error underneath.
        #[source]
        source: safetensors::SafeTensorError,
    },
    /// The file stands for another one that was not fetched.
    #[error("the dataset {} is not usable: {}", path.display(), pointer::PROBLEM)]
    Pointer {
        /// The file.
        path: PathBuf,
    },
    /// A tensor is missing, or has the wrong type or shape.
    #[error("tensor `{tensor}` of the dataset {origin} {problem}: expected {expected}")]
    Tensor {
        /// File or name of the dataset.
        origin: String,
        /// The tensor's name.
        tensor: String,
        /// What is wrong with it.
        problem: String,
        /// What is needed.
        expected: &'static str,
    },
    /// An input value is NaN or infinite.
    #[error("row {row}, feature {feature} of the dataset {origin} is {value}: every input must be finite")]
    NotFinite {
        /// File or name of the dataset.
        origin: String,
        /// Row of the value.
        row: usize,
        /// Column of the value.
        feature: usize,
        /// The value.
        value: f32,
    },
    /// A set of images is missing, truncated, damaged, or of another kind.
    #[error("{} is not a usable set of images: {problem}", path.display())]
    Images {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A split that leaves one side empty.
    #[error("cannot take {train} training rows out of {rows}: choose between 1 and {}", rows.saturating_sub(1))]
    Split {
        /// Training rows asked for.
        train: usize,
        /// Rows there are.
        rows: usize,
    },
}
