//! Other coordinates of weight space.

use crate::objective::{Differentiable, ObjectiveError};
use crate::vectors::Vector;

/// A cost as a function of other coordinates of weight space, in which it is less stiff.
///
/// The map from weights to coordinates keeps the length of every vector and has Jacobian one, as an orthogonal matrix does that may depend on the
/// coordinates that it leaves alone. So a Gaussian prior `N(0, sigma^2 I)` of the weights is the same one of the coordinates, and every set of
/// weights has the same probability there.
///
/// As an objective it takes coordinates where others take weights, its center too.
pub trait Coordinates: Differentiable {
    /// Replaces weights by their coordinates.
    ///
    /// # Panics
    /// If the length is not `D`.
    fn enter(&self, weights: &mut [f32]);

    /// Replaces coordinates by their weights.
    ///
    /// # Panics
    /// If the length is not `D`.
    fn leave(&self, coordinates: &mut [f32]);

    /// Coordinates along which the cost is far stiffer than along others wherever it is: their numbers, and the curvature along each, as the mean over
    /// `states` (coordinates of length `D`) of that of the KL divergence from the network there.
    ///
    /// # Errors
    /// When the evaluation itself failed.
    fn stiff_axes(&self, states: &[&[f32]]) -> Result<Vec<(usize, f64)>, ObjectiveError>;

    /// How what is straight in weights is followed in these coordinates, where that is known.
    fn straight(&self) -> Option<&dyn Straight> {
        None
    }
}

/// Something that is computed of weights (length `D`), which leaves its gradient and returns nats.
pub type OfWeights<'a> = dyn FnMut(&[f32], &mut Vector) -> Result<f64, ObjectiveError> + 'a;

/// Coordinates in which ways that are straight in weights can be followed, as those of the star are.
pub trait Straight: Coordinates {
    /// The same cost as a function of the weights, around the same center.
    fn cost_of_weights(&self) -> &dyn Differentiable;

    /// Calls `work` with the weights at `coordinates` (length `D`) and with `gradient`, where it leaves a gradient with respect to these weights, which
    /// is then replaced by that with respect to the coordinates. Returns what `work` does. Takes about one gradient of the cost.
    ///
    /// # Errors
    /// Those of `work`.
    ///
    /// # Panics
    /// If a length is not `D`.
    fn pull_back(&self, coordinates: &[f32], gradient: &mut Vector, work: &mut OfWeights<'_>) -> Result<f64, ObjectiveError>;
}
