//! What can be wrong with a file of weights.

use std::path::PathBuf;

pub(crate) use basin_volume_data::pickle::printable;

/// Why weights could not be read. Every message is one sentence that names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The path holds no weights.
    #[error(
        "{} holds no weights: expected model.safetensors, pytorch_model.bin, an index of either, one .gguf file, or one other file of weights",
        path.display()
    )]
    NoWeights {
        /// The given path.
        path: PathBuf,
    },
    /// The folder holds several files, of which any may be the weights.
    #[error(
        "{} holds {} {kind} ({}): give the path of one .gguf file, or leave one file there",
        path.display(),
        names.len(),
        some(names)
    )]
    Several {
        /// The folder.
        path: PathBuf,
        /// What they are, in the plural.
        kind: &'static str,
        /// Their names.
        names: Vec<String>,
    },
    /// The file stands for another one that was not fetched.
    #[error("{} is not usable: {}", path.display(), basin_volume_data::pointer::PROBLEM)]
    Pointer {
        /// The file.
        path: PathBuf,
    },
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error underneath.
        #[source]
        source: std::io::Error,
    },
    /// A file is truncated, corrupt, or of another format than its name says.
    #[error("{} is not usable: {problem}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Shards that the index names are not there.
    #[error("{} lists {}, which {} not beside it", path.display(), listed(names, "shard"), if names.len() == 1 { "is" } else { "are" })]
    MissingShards {
        /// The index.
        path: PathBuf,
        /// The missing files.
        names: Vec<String>,
    },
    /// The index and the shards disagree.
    #[error("{} does not agree with its shards: {} {problem}", path.display(), listed(tensors, "tensor"))]
    Index {
        /// The index.
        path: PathBuf,
        /// The tensors concerned.
        tensors: Vec<String>,
        /// What is wrong with them.
        problem: &'static str,
    },
    /// Tensors of the network are not in the file.
    #[error("{} lacks {}: the weights belong to another network, or are incomplete", path.display(), listed(tensors, "tensor"))]
    Missing {
        /// The file.
        path: PathBuf,
        /// The missing tensors.
        tensors: Vec<String>,
    },
    /// The file has tensors that the network does not.
    #[error("{} has {}, which the configured network does not use", path.display(), listed(tensors, "tensor"))]
    Extra {
        /// The file.
        path: PathBuf,
        /// The tensors that nothing uses.
        tensors: Vec<String>,
    },
    /// Tensors have other shapes than the network.
    #[error("{} has {} of another shape than configured: {first}", path.display(), listed(tensors, "tensor"))]
    Shapes {
        /// The file.
        path: PathBuf,
        /// The tensors concerned.
        tensors: Vec<String>,
        /// The shapes of the first of them.
        first: String,
    },
    /// A tensor cannot be read, or has a value that is not allowed.
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
pub(crate) fn listed(names: &[String], noun: &str) -> String {
    let plural = if names.len() == 1 { "" } else { "s" };
    format!("{noun}{plural} {}", some(names))
}

/// The first three of some names, and the number of the others.
fn some(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(3).map(|name| format!("`{}`", printable(name))).collect();
    let others = match names.len() {
        0..=3 => String::new(),
        4 => " and 1 other".to_owned(),
        count => format!(" and {} others", count - 3),
    };
    format!("{}{others}", shown.join(", "))
}
