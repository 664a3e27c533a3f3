//! A cost with scores that is not evaluated any more once a job is to stop.

use std::ops::Range;

use basin_volume::center::Center;
use basin_volume::direction::Direction;
use basin_volume::fisher::FisherMatrix;
use basin_volume::guarded::Guarded;
use basin_volume::interrupt::Interrupt;
use basin_volume::objective::{Cost, CostByPart, Differentiable, Objective, ObjectiveError, RayPoint, SoftGradient};
use basin_volume::vectors::{Vector, Vectors, View};
use basin_volume_models::curvature::{CurvatureError, DenseMatrix, Labels, Moments, Scores};
use basin_volume_models::parameters::Moving;

/// What [`Guarded`] is for costs with gradients, with scores beside.
pub(crate) struct GuardedScores<'a> {
    scores: &'a (dyn Scores + Send + Sync),
    cost: Guarded<'a, dyn Scores + Send + Sync + 'a>,
}

impl<'a> GuardedScores<'a> {
    /// The cost as long as the interrupt is not raised.
    pub fn new(scores: &'a (dyn Scores + Send + Sync), interrupt: &Interrupt) -> Self {
        Self { scores, cost: Guarded::new(scores, interrupt) }
    }
}

impl Center for GuardedScores<'_> {
    fn dimension(&self) -> usize {
        self.scores.dimension()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        self.scores.center(range, out);
    }
}

impl Objective for GuardedScores<'_> {
    fn cost(&self, direction: &Direction, point: RayPoint) -> Result<Cost, ObjectiveError> {
        self.cost.cost(direction, point)
    }

    fn cost_by_part(&self, direction: &Direction, point: RayPoint) -> Result<Option<CostByPart>, ObjectiveError> {
        self.cost.cost_by_part(direction, point)
    }
}

impl Differentiable for GuardedScores<'_> {
    fn parts(&self) -> usize {
        self.scores.parts()
    }

    fn gradient(&self, weights: &[f32], parts: Range<usize>, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        self.cost.gradient(weights, parts, gradient)
    }

    fn cost_at(&self, weights: &[f32]) -> Result<Cost, ObjectiveError> {
        self.cost.cost_at(weights)
    }

    fn has_kinks(&self) -> bool {
        self.scores.has_kinks()
    }

    fn vectors(&self) -> &dyn Vectors {
        self.scores.vectors()
    }

    fn gradient_of(&self, weights: View<'_>, gradient: &mut Vector) -> Result<f64, ObjectiveError> {
        self.cost.gradient_of(weights, gradient)
    }

    fn cost_of(&self, weights: View<'_>) -> Result<Cost, ObjectiveError> {
        self.cost.cost_of(weights)
    }

    fn soft_gradient(
        &self,
        weights: View<'_>,
        softness: f64,
        gradient: &mut Vector,
        scratch: &mut Option<Vector>,
    ) -> Result<SoftGradient, ObjectiveError> {
        self.cost.soft_gradient(weights, softness, gradient, scratch)
    }

    fn soft_segment(
        &self,
        weights: View<'_>,
        shares: &[f64],
        softness: f64,
        gradient: &mut Vector,
        costs: &mut Vec<f64>,
    ) -> Result<Option<SoftGradient>, ObjectiveError> {
        self.cost.soft_segment(weights, shares, softness, gradient, costs)
    }

    fn likelihood_gradient(&self, weights: &[f32], parts: Range<usize>, seed: u64, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        self.cost.likelihood_gradient(weights, parts, seed, gradient)
    }
}

impl Scores for GuardedScores<'_> {
    fn moving(&self) -> &Moving {
        self.scores.moving()
    }

    fn fisher_matrix(&self) -> Option<Box<dyn FisherMatrix + Send + '_>> {
        self.scores.fisher_matrix()
    }

    fn fisher_rows(&self) -> Option<usize> {
        self.scores.fisher_rows()
    }

    fn positions(&self) -> usize {
        self.scores.positions()
    }

    fn batches(&self) -> Vec<Range<usize>> {
        self.scores.batches()
    }

    fn add_squared_scores(
        &self,
        parts: Range<usize>,
        labels: Labels<'_>,
        space: &mut Vec<f32>,
        squares: &mut [f32],
    ) -> Result<(), CurvatureError> {
        self.cost.unless_raised(|scores| scores.add_squared_scores(parts, labels, space, squares))
    }

    fn dense_matrices(&self) -> Vec<DenseMatrix> {
        self.scores.dense_matrices()
    }

    fn add_moments(
        &self,
        parts: Range<usize>,
        draws: (usize, u64),
        space: &mut Vec<f32>,
        moments: &mut [Moments],
        squares: &mut [f32],
    ) -> Result<(), CurvatureError> {
        self.cost.unless_raised(|scores| scores.add_moments(parts, draws, space, moments, squares))
    }
}
