//! The seam between the estimators and whatever is being measured: a vector of parameters with a cost.

use std::error::Error;
use std::ops::Range;

use crate::center::Center;
use crate::direction::Direction;
use crate::vectors::{Slices, Vector, Vectors, View};

/// Cost of one point of parameter space, in nats, with the size of its rounding noise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// The cost `C(w)`, in nats; `C(center) = 0` by construction. May be NaN or infinite: such a point counts as above every cutoff.
    pub nats: f64,
    /// One standard deviation of the rounding noise of [`Cost::nats`], in nats. Zero for costs that are exact in `f64`.
    pub resolution: f64,
}

impl Cost {
    /// A cost without rounding noise beyond that of `f64`.
    #[must_use]
    pub fn exact(nats: f64) -> Self {
        Self { nats, resolution: nats.abs() * f64::EPSILON }
    }
}

/// One evaluation, of all data and of every part of it.
#[derive(Debug, Clone, PartialEq)]
pub struct CostByPart {
    /// The cost of all data, as [`Objective::cost`] computes it.
    pub whole: Cost,
    /// The cost of every part; `None` for one in which nothing counts (a sequence without a position that does).
    pub parts: Vec<Option<Cost>>,
}

/// A point in the plane spanned by the center `c` and a direction `v`:  `w = center * c + direction * v`.
///
/// A straight ray has `center = 1`. The great circles of the spherical prior need both coefficients.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RayPoint {
    /// Multiple of the center.
    pub center: f64,
    /// Multiple of the direction `v`.
    pub direction: f64,
}

impl RayPoint {
    /// The point `c + t v` of a straight ray.
    #[must_use]
    pub fn straight(t: f64) -> Self {
        Self { center: 1.0, direction: t }
    }
}

/// A failure of the objective itself (device lost, out of memory, an exception in a callback), or that it was not evaluated because an interrupt
/// is raised. A cost that is NaN or infinite is *not* a failure: it is data.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ObjectiveError(Reason);

#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("the cost could not be evaluated: {0}")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
    #[error("interrupted")]
    Interrupted,
}

impl ObjectiveError {
    /// Wraps an error of the objective's own, which says in one sentence what went wrong.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Reason::Failed(error.into()))
    }

    /// Nothing was evaluated, because an interrupt is raised.
    #[must_use]
    pub fn interrupted() -> Self {
        Self(Reason::Interrupted)
    }

    /// Whether it is no failure: an interrupt is raised.
    #[must_use]
    pub fn is_interrupt(&self) -> bool {
        matches!(self.0, Reason::Interrupted)
    }
}

/// A vector of `D` trained parameters (the center) with a cost that is zero there.
///
/// Implementations are called from several threads at once, one ray each; heavy work inside one evaluation should use rayon's
/// current pool, whose size the driver chooses (one thread for small models, all of them for large ones).
pub trait Objective: Center {
    /// The cost at `point.center * c + point.direction * v`.
    ///
    /// # Errors
    /// Only when the evaluation itself failed; a cost that is not finite is returned as such.
    fn cost(&self, direction: &Direction, point: RayPoint) -> Result<Cost, ObjectiveError>;

    /// The cost at a point with those of the parts of the data (of the sequences, for a language model), when it is a mean over parts. A part's
    /// cost is what [`Objective::cost`] would be if that part were all data.
    ///
    /// # Errors
    /// As [`Objective::cost`].
    fn cost_by_part(&self, direction: &Direction, point: RayPoint) -> Result<Option<CostByPart>, ObjectiveError> {
        let _ = (direction, point);
        Ok(None)
    }
}

/// What [`Differentiable::soft_gradient`] found, and what it took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SoftGradient {
    /// The cost, nats.
    pub nats: f64,
    /// Gradients that were computed.
    pub gradients: u64,
    /// Costs that were computed beside them.
    pub evaluations: u64,
}

/// An objective whose cost has a gradient with respect to its parameters.
///
/// The cost is a mean over positions, which come in [parts](Differentiable::parts): rows of a data set, sequences of tokens. A gradient is
/// asked for some parts, at any weights: all parts for chains and for Fisher products by differences, some for stochastic gradients, one
/// for the score of a position.
///
/// Gradients are `f32`, the sums behind them as the implementation says; equal arguments give equal bits on any number of threads.
pub trait Differentiable: Objective {
    /// Number of parts that the cost is made of.
    fn parts(&self) -> usize;

    /// What `parts` contribute to the cost at the parameters `weights` (length `D`), in nats: `1/N` times the sum over their positions, `N`
    /// the number of positions of **all** parts. Contributions of ranges that share nothing and cover everything add up to the cost. The
    /// gradient of the contribution is written to `gradient` (length `D`).
    ///
    /// # Errors
    /// Only when the evaluation itself failed; a cost that is not finite is returned as such, and the gradient is then of no use.
    ///
    /// # Panics
    /// If a length is not `D`, or the range leaves the parts.
    fn gradient(&self, weights: &[f32], parts: Range<usize>, gradient: &mut [f32]) -> Result<f64, ObjectiveError>;

    /// The cost of all parts at the parameters `weights` (length `D`), as [`Objective::cost`] computes it on a ray.
    ///
    /// This implementation computes a gradient and throws it away; costs that have a cheaper way should take it.
    ///
    /// # Errors
    /// As [`Differentiable::gradient`].
    ///
    /// # Panics
    /// If the length is not `D`.
    fn cost_at(&self, weights: &[f32]) -> Result<Cost, ObjectiveError> {
        let mut unused = vec![0.0f32; weights.len()];
        Ok(Cost::exact(self.gradient(weights, 0..self.parts(), &mut unused)?))
    }

    /// Whether the cost has kinks: places where its gradient jumps.
    fn has_kinks(&self) -> bool {
        false
    }

    /// Where the states of chains live, and what chains do with them there. By default in the computer's memory; a cost on a device keeps them
    /// on it, and then takes its own vectors in the functions below.
    fn vectors(&self) -> &dyn Vectors {
        &Slices
    }

    /// [`Differentiable::gradient`] of all parts, of vectors where [`Differentiable::vectors`] keeps them.
    ///
    /// # Errors
    /// As [`Differentiable::gradient`].
    ///
    /// # Panics
    /// If a length is not `D`.
    fn gradient_of(&self, weights: View<'_>, gradient: &mut Vector) -> Result<f64, ObjectiveError> {
        self.gradient(weights.slice(), 0..self.parts(), gradient.slice_mut())
    }

    /// [`Differentiable::cost_at`], of vectors where [`Differentiable::vectors`] keeps them.
    ///
    /// # Errors
    /// As [`Differentiable::gradient`].
    ///
    /// # Panics
    /// If the length is not `D`.
    fn cost_of(&self, weights: View<'_>) -> Result<Cost, ObjectiveError> {
        self.cost_at(weights.slice())
    }

    /// The cost of all parts, with a gradient that does not jump: across a kink it turns over `softness` nats from one side's to the other's. For
    /// chains, which follow it in longer steps; it is the gradient of no cost. `scratch` is room that is kept from call to call.
    ///
    /// This implementation is for costs without kinks.
    ///
    /// # Errors
    /// As [`Differentiable::gradient`].
    ///
    /// # Panics
    /// If the length is not `D`.
    fn soft_gradient(
        &self,
        weights: View<'_>,
        softness: f64,
        gradient: &mut Vector,
        scratch: &mut Option<Vector>,
    ) -> Result<SoftGradient, ObjectiveError> {
        let _ = (softness, scratch);
        let nats = self.gradient_of(weights, gradient)?;
        Ok(SoftGradient { nats, gradients: 1, evaluations: 0 })
    }

    /// The costs of all parts at points of the segment from the center to `weights`, a `share` of the way each, written to `costs`, with the
    /// gradient with respect to `weights` of a soft largest of them, as if each were computed by [`Differentiable::soft_gradient`]. `None` where
    /// there is no cheaper way than one point after the other.
    ///
    /// # Errors
    /// As [`Differentiable::gradient`].
    ///
    /// # Panics
    /// If a length is not `D`.
    fn soft_segment(
        &self,
        weights: View<'_>,
        shares: &[f64],
        softness: f64,
        gradient: &mut Vector,
        costs: &mut Vec<f64>,
    ) -> Result<Option<SoftGradient>, ObjectiveError> {
        let _ = (weights, shares, softness, gradient, costs);
        Ok(None)
    }

    /// The contribution of `parts` to the mean negative log-likelihood `-1/N sum log p_w(y|x)` of labels `y` that are drawn from the model
    /// `p_w` itself, with its gradient, as in [`Differentiable::gradient`]. The draws are a pure function of `seed` and the position.
    ///
    /// With `s` the gradient of `log p_w(y|x)` at one position, the mean of `s s'` over positions and draws is the Fisher matrix, which at
    /// the center is the Hessian of the cost. (For the contribution of one position, `s` is `-N` times its gradient.)
    ///
    /// # Errors
    /// As [`Differentiable::gradient`].
    ///
    /// # Panics
    /// As [`Differentiable::gradient`].
    fn likelihood_gradient(&self, weights: &[f32], parts: Range<usize>, seed: u64, gradient: &mut [f32]) -> Result<f64, ObjectiveError>;
}
