//! What can be wrong with a curvature and its file.

use std::path::PathBuf;

use basin_volume::fisher::FisherError;
use basin_volume::objective::ObjectiveError;

/// Why a curvature could not be computed, read or written. Every message is one sentence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CurvatureError {
    /// A file could not be read or written.
    #[error("cannot {action} the curvature file {}: {source}", path.display())]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The error underneath.
        #[source]
        source: std::io::Error,
    },
    /// Not a complete safetensors file with the metadata of a curvature.
    #[error("{} is not a usable curvature file: {problem}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The weights that it was computed at are others.
    #[error("{} was computed for another model: its weights have the hash {found}, those of this model {expected}", path.display())]
    OtherModel {
        /// The file.
        path: PathBuf,
        /// First digits of the hash in the file.
        found: String,
        /// First digits of the hash of the model.
        expected: String,
    },
    /// A tensor of the file is missing or of another shape or type.
    #[error("tensor `{tensor}` of {} {problem}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The numbers of a file cannot be a curvature's.
    #[error("{} cannot be used: {source}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        #[source]
        source: Box<CurvatureError>,
    },
    /// As many numbers as another model has.
    #[error("{what} has {found} entries, but the model needs {expected}: it belongs to another model")]
    Length {
        /// Which vector.
        what: String,
        /// Its length.
        found: usize,
        /// The length it should have.
        expected: usize,
    },
    /// A number that no curvature has.
    #[error("entry {index} of {what} is {value}: expected {expected}")]
    Entry {
        /// Which vector.
        what: String,
        /// Which entry.
        index: usize,
        /// Its value.
        value: f64,
        /// What is allowed.
        expected: &'static str,
    },
    /// Kronecker factors for something that is no matrix of the model.
    #[error("there are Kronecker factors for `{parameter}`, which is no matrix among the moving weights, or out of order")]
    Block {
        /// Name of the tensor.
        parameter: String,
    },
    /// The computation was told to stop.
    #[error("interrupted after {done} of {total} steps of the curvature: nothing was written")]
    Interrupted {
        /// Steps done.
        done: usize,
        /// Steps of the whole computation.
        total: usize,
    },
    /// The objective failed.
    #[error("the curvature could not be computed: {0}")]
    Objective(#[from] ObjectiveError),
    /// A setting is out of range.
    #[error("`{name}` is {value}: expected {expected}")]
    Setting {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: f64,
        /// What is allowed.
        expected: &'static str,
    },
    /// The labels that a curvature needs are missing or do not fit.
    #[error("the labels cannot be used: {problem}")]
    Labels {
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A number came out that is not finite.
    #[error(
        "the {what} has the entry {value} at weight {index} of the moving ones: the model's gradients are not finite at its own weights"
    )]
    NotFinite {
        /// What was computed.
        what: &'static str,
        /// Which entry.
        index: usize,
        /// Its value.
        value: f64,
    },
    /// Everything came out zero.
    #[error("the {what} is zero everywhere: the model's outputs do not depend on the moving weights on these data")]
    Zero {
        /// What was computed.
        what: &'static str,
    },
    /// No implementation for this model.
    #[error("{kind} curvature is not available for {model}: choose {instead}")]
    Unsupported {
        /// What was asked for.
        kind: &'static str,
        /// Which model.
        model: String,
        /// What to do.
        instead: &'static str,
    },
}

impl CurvatureError {
    /// Whether it is no failure: an observer or an interrupt asked to stop.
    #[must_use]
    pub fn is_interrupt(&self) -> bool {
        match self {
            Self::Interrupted { .. } => true,
            Self::Objective(error) => error.is_interrupt(),
            _ => false,
        }
    }
}

impl From<FisherError> for CurvatureError {
    fn from(error: FisherError) -> Self {
        match error {
            FisherError::Setting { name, value, expected } => Self::Setting { name, value, expected },
            FisherError::NotFinite { index, value } => Self::NotFinite { what: "product of the Fisher matrix", index, value },
            FisherError::Objective(error) => Self::Objective(error),
            other => Self::Objective(ObjectiveError::new(other)),
        }
    }
}
