//! Why the spectral estimator could not work.

use crate::fisher::FisherError;
use crate::objective::ObjectiveError;

/// Why the estimator could not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpectralError {
    /// A setting is out of range.
    #[error("`{name}` is {value}: expected {expected}")]
    Setting {
        /// Name of the setting.
        name: &'static str,
        /// The given value.
        value: f64,
        /// What is allowed.
        expected: String,
    },
    /// Several vectors at once, and not all of them kept orthogonal.
    #[error("several vectors in a block have to be kept orthogonal: choose `reorthogonalization=full`, or `block=1`")]
    Block,
    /// The prior is not Gaussian.
    #[error("the spectral estimator knows the Gaussian prior alone: choose `prior=gaussian`, or `estimator=radial`")]
    Prior,
    /// The factor of the Fisher matrix is asked for where there is none.
    #[error("the cost of this model offers neither a Gram matrix nor exact products: choose {choose}")]
    NoFactor {
        /// What to do.
        choose: &'static str,
    },
    /// The Gram matrix is not finite.
    #[error("the Gram matrix of the gradients is not finite: check the weights of the model")]
    Gram,
    /// An interrupt is raised.
    #[error("interrupted")]
    Interrupted,
    /// What an interrupt left cannot be kept or read.
    #[error("{0}")]
    Keep(Box<dyn std::error::Error + Send + Sync>),
    /// A product failed.
    #[error(transparent)]
    Fisher(#[from] FisherError),
    /// The cost could not be evaluated.
    #[error(transparent)]
    Objective(#[from] ObjectiveError),
}

impl SpectralError {
    /// Whether it is no failure: an interrupt is raised.
    #[must_use]
    pub fn is_interrupt(&self) -> bool {
        match self {
            Self::Interrupted => true,
            Self::Fisher(error) => error.is_interrupt(),
            Self::Objective(error) => error.is_interrupt(),
            _ => false,
        }
    }
}
