//! What can be wrong with a checkpoint folder.

use std::path::PathBuf;

use super::optimizer::OptimizerError;
use crate::arch::ArchitectureError;
use crate::weights::WeightsError;

/// Why a checkpoint could not be read or written. Every message is one sentence that names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The path is not a folder.
    #[error("{} is not a checkpoint: give a folder with config.json and model.safetensors, or a .gguf file", path.display())]
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
    /// The state of the optimizer is not usable.
    #[error(transparent)]
    Optimizer(#[from] OptimizerError),
    /// A file is not a complete safetensors file of the expected kind.
    #[error("{} is not a usable safetensors file: {problem}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Tensors of the network are not in the file.
    #[error("{} lacks {}: the file belongs to another network, or is incomplete", path.display(), names(tensors))]
    Missing {
        /// The file.
        path: PathBuf,
        /// The missing tensors.
        tensors: Vec<String>,
    },
    /// The file has tensors that the network does not.
    #[error("{} has {}, which the configured network does not use: the file belongs to another network", path.display(), names(tensors))]
    Extra {
        /// The file.
        path: PathBuf,
        /// The tensors that nothing uses.
        tensors: Vec<String>,
    },
    /// A tensor has the wrong type or shape, or a value that is not allowed.
    #[error("tensor `{tensor}` of {} {problem}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// "tensor `a`", "tensors `a`, `b`", or the first three and the number of others.
fn names(tensors: &[String]) -> String {
    let shown: Vec<String> = tensors.iter().take(3).map(|name| format!("`{name}`")).collect();
    let plural = if tensors.len() == 1 { "" } else { "s" };
    let others = if tensors.len() > 3 { format!(" and {} others", tensors.len() - 3) } else { String::new() };
    format!("tensor{plural} {}{others}", shown.join(", "))
}
