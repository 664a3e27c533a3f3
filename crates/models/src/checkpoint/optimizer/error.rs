//! What can be wrong with the state of an optimizer.

use std::path::PathBuf;

use crate::weights::WeightsError;

/// Why the state of an optimizer could not be read. Every message is one sentence that names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OptimizerError {
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error underneath.
        #[source]
        source: std::io::Error,
    },
    /// A file is truncated, corrupt, hostile, or of another format.
    #[error(transparent)]
    File(#[from] WeightsError),
    /// A file is not the state of an optimizer in a known layout.
    #[error("{} is not a usable optimizer state: {problem}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The state is that of another network.
    #[error("the optimizer state {} does not fit the network: {problem}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// Which tensors differ, and how.
        problem: String,
    },
    /// Parameters of the network have no state.
    #[error("the optimizer state {} lacks {}: it is incomplete, or belongs to another network", path.display(), names(parameters))]
    Missing {
        /// The file.
        path: PathBuf,
        /// Their names.
        parameters: Vec<String>,
    },
    /// Which state belongs to which parameter cannot be told.
    #[error("which parameter's state is which in {} cannot be told: {problem}", path.display())]
    Ambiguous {
        /// The file.
        path: PathBuf,
        /// What could be exchanged.
        problem: String,
    },
    /// The state of a parameter has a value that is not allowed.
    #[error("the state of parameter `{parameter}` in {} {problem}", path.display())]
    Parameter {
        /// The file.
        path: PathBuf,
        /// The parameter.
        parameter: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// "parameter `a`", "parameters `a`, `b`", or the first three and the number of others.
fn names(parameters: &[String]) -> String {
    crate::weights::listed(parameters, "parameter")
}
