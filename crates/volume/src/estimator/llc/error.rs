//! Why the estimator of the learning coefficient can't be set up, or stopped.

use crate::estimator::annealed::AnnealedError;
use crate::objective::ObjectiveError;

/// Why the estimator can't be set up, or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LlcError {
    /// A setting is out of range.
    #[error("`{name}` is {value}: expected {expected}")]
    Setting {
        /// Name of the setting.
        name: &'static str,
        /// The given value.
        value: f64,
        /// What it has to be.
        expected: &'static str,
    },
    /// Nothing says how many observations the cost is a mean over.
    #[error("`n_beta` is not set, and this cost does not say over how many observations n it is a mean: give a number, such as n/ln n")]
    NoTemperature,
    /// Nothing says how strong the spring is.
    #[error("`localization` is not set, and without `prior=gaussian` there is no sigma for 1/sigma^2: give a number > 0")]
    NoLocalization,
    /// The density has no prior to have as a factor.
    #[error("`with_prior=true` needs `prior=gaussian`: leave it out, and the spring to the center alone holds the chains")]
    Prior,
    /// Nothing holds the chains.
    #[error(
        "`localization` is 0, and nothing holds the chains along directions that the cost does not see: give a number > 0, or `with_prior=true`"
    )]
    NoSpring,
    /// The cost has no value at the center.
    #[error("the cost at the center is {0}: without a finite one there is no learning coefficient")]
    Center(f64),
    /// The chains failed.
    #[error(transparent)]
    Chains(#[from] AnnealedError),
}

impl From<ObjectiveError> for LlcError {
    fn from(error: ObjectiveError) -> Self {
        Self::Chains(error.into())
    }
}
