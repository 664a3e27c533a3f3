//! Why the annealed estimator can't be set up, or stopped.

use crate::objective::ObjectiveError;

/// Why the estimator can't be set up, or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnnealedError {
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
    /// The prior is not Gaussian.
    #[error("the annealed estimator needs the Gaussian prior, whose mass is finite: choose `prior=gaussian`, or `estimator=radial`")]
    Prior,
    /// The objective failed.
    #[error(transparent)]
    Objective(#[from] ObjectiveError),
    /// Nothing is as good as the center: the cost is not under the cutoff there, or not however close the draws are.
    #[error("the mean cost of draws around the center stays above the cutoff however close they are: is the cost zero at the center?")]
    NoStart,
    /// No draw has a finite cost.
    #[error(
        "none of {draws} draws has a finite cost and gradient: a smaller `sigma` makes the prior narrower, and `ladder=localization` begins around the center"
    )]
    NoFiniteDraw {
        /// How many there were.
        draws: u64,
    },
    /// There is one place alone that the spring is attached to.
    #[error(
        "{anchors} anchors are states that chains settle in: choose `anchors=1`, or the basin with `ladder=localization` and without `anchor=center`"
    )]
    OneAnchor {
        /// What was asked for.
        anchors: u32,
    },
    /// The star is seen from the center.
    #[error("the star is seen from the center: choose `anchor=center`, or `set_kind=basin`")]
    StarElsewhere,
    /// No state that a spring could be attached to was found.
    #[error(
        "after {trajectories} trajectories from the center the cost of the chain is {cost} and not under the cutoff: choose `anchor=center`, or `ladder=temperature`"
    )]
    NoRelaxation {
        /// Trajectories that were tried.
        trajectories: u64,
        /// Cost at the last state.
        cost: f64,
    },
    /// A metric is set, but nothing that computes it.
    #[error("a metric is set but there is nothing that knows curvatures away from the center: choose `metric=none`")]
    NoMetrics,
    /// Rotated coordinates are set, but nothing that knows them.
    #[error("rotated coordinates are set but the objective is a function of the weights: choose `coordinates=weights`")]
    NoCoordinates,
    /// A state that was kept has another length than the network.
    #[error("a kept state has {found} weights, but {expected} move: the folder belongs to another network")]
    State {
        /// Its length.
        found: usize,
        /// The dimension.
        expected: usize,
    },
    /// The keeper of records and states failed.
    #[error("{0}")]
    Keep(Box<dyn std::error::Error + Send + Sync>),
}

impl AnnealedError {
    /// Whether it is no failure: an interrupt is raised.
    #[must_use]
    pub fn is_interrupt(&self) -> bool {
        matches!(self, Self::Objective(error) if error.is_interrupt())
    }
}
