//! Other coordinates of weight space.

use crate::objective::{Differentiable, ObjectiveError};

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
}
