//! What can be wrong with a checkpoint folder.

use std::path::PathBuf;

use super::optimizer::OptimizerError;
use crate::arch::ArchitectureError;
use crate::weights::WeightsError;
use crate::weights::adapter::AdapterError;

/// Why a checkpoint could not be read or written. Every message is one sentence that names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The path is not a folder.
    #[error("{} is not a checkpoint: give a folder with config.json and model.safetensors or pytorch_model.bin, or a .gguf file", path.display())]
    NoFolder {
        /// The given path.
        path: PathBuf,
    },
    /// A checkpoint would overwrite something.
    #[error("{} exists already: choose another folder, or remove it first", path.display())]
    Exists {
        /// The given path.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("cannot read or write {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error underneath.
        #[source]
        source: std::io::Error,
    },
    /// `config.json` is not what it should be.
    #[error("the configuration {} {problem}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// `config.json` describes a network that is unknown or impossible.
    #[error("the configuration {} is not usable: {source}", path.display())]
    Architecture {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ArchitectureError,
    },
    /// The weights are not usable.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// An adapter cannot be merged.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// The state of the optimizer is not usable.
    #[error(transparent)]
    Optimizer(#[from] OptimizerError),
    /// A file of tensors could not be written.
    #[error("{} cannot be written as safetensors: {problem}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}
