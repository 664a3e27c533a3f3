//! What a chain samples: the prior, tilted by the cost and drawn to the center.

use crate::direction::dot;
use crate::objective::{Differentiable, ObjectiveError};
use crate::spec::SetKind;

/// A point of a ladder: the density `prior(w) exp(-beta C(w) - localization/2 |w - c|^2)`, `c` where the spring is attached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rung {
    /// Inverse temperature, per nat.
    pub beta: f64,
    /// Strength of the spring, per squared unit of weight.
    pub localization: f64,
}

impl Rung {
    /// `a = 1/sigma^2 + localization`: the curvature of what is Gaussian in the density.
    pub(super) fn curvature(self, sigma: f64) -> f64 {
        1.0 / (sigma * sigma) + self.localization
    }

    /// `m = localization / a`: the Gaussian part has its mean at `m c`.
    pub(super) fn shrinkage(self, sigma: f64) -> f64 {
        self.localization / self.curvature(sigma)
    }
}

/// The cost whose sublevel set is measured.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub objective: &'a dyn Differentiable,
    /// The objective's center: penalty, star and overlap are with respect to it.
    pub center: &'a [f32],
    pub center_squared: f64,
    /// Where the spring is attached.
    pub anchor: &'a [f32],
    pub anchor_squared: f64,
    pub sigma: f64,
    pub l2_reg: f64,
    pub set: SetKind,
    /// Points on the segment from the center whose largest cost counts, for the star.
    pub star_points: u32,
}

/// Gradients and costs that were computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Work {
    pub gradients: u64,
    pub evaluations: u64,
}

impl Work {
    pub(super) fn add(&mut self, other: Self) {
        self.gradients += other.gradients;
        self.evaluations += other.evaluations;
    }
}

impl Target<'_> {
    /// The cost at `weights` with its gradient. For the star the cost is the largest one on the segment from the center (on a grid of
    /// `star_points`), and the gradient that of the largest, `k/K grad C(c + k/K (w - c))`.
    pub(super) fn evaluate(
        &self,
        weights: &[f32],
        gradient: &mut [f32],
        scratch: &mut Vec<f32>,
        work: &mut Work,
    ) -> Result<f64, ObjectiveError> {
        let parts = 0..self.objective.parts();
        let mut cost = self.objective.gradient(weights, parts.clone(), gradient)?;
        work.gradients += 1;
        self.regularize(weights, &mut cost, gradient);
        if self.set == SetKind::Basin || !cost.is_finite() {
            return Ok(cost);
        }
        let mut highest = (self.star_points, cost);
        for point in 1..self.star_points {
            self.toward(weights, point, scratch);
            let at = self.cost_with_penalty(scratch, work)?;
            if at.is_nan() || at > highest.1 {
                highest = (point, at);
            }
        }
        let (point, highest) = highest;
        if point == self.star_points {
            return Ok(cost);
        }
        self.toward(weights, point, scratch);
        let mut at = self.objective.gradient(scratch, parts, gradient)?;
        work.gradients += 1;
        self.regularize(scratch, &mut at, gradient);
        let share = (f64::from(point) / f64::from(self.star_points)) as f32;
        gradient.iter_mut().for_each(|g| *g *= share);
        Ok(highest)
    }

    /// The cost of `weights` alone, as [`Target::evaluate`] has it.
    pub(super) fn cost(&self, weights: &[f32], scratch: &mut Vec<f32>, work: &mut Work) -> Result<f64, ObjectiveError> {
        let first = if self.set == SetKind::Basin { self.star_points } else { 1 };
        let mut highest = f64::NEG_INFINITY;
        for point in first..=self.star_points {
            self.toward(weights, point, scratch);
            let cost = self.cost_with_penalty(scratch, work)?;
            if cost.is_nan() || cost > highest {
                highest = cost;
            }
        }
        Ok(highest)
    }

    /// `c.w / c.c` with the center `c`: 1 there, 0 where it is forgotten. `with_anchor` is the inner product with the anchor.
    pub(super) fn overlap(&self, weights: &[f32], with_anchor: f64) -> f64 {
        if self.center_squared == 0.0 {
            return 0.0;
        }
        let inner = if std::ptr::eq(self.center, self.anchor) { with_anchor } else { dot(weights, self.center) };
        inner / self.center_squared
    }

    fn toward(&self, weights: &[f32], point: u32, scratch: &mut Vec<f32>) {
        scratch.resize(weights.len(), 0.0);
        if point == self.star_points {
            scratch.copy_from_slice(weights);
            return;
        }
        let share = f64::from(point) / f64::from(self.star_points);
        for ((to, &w), &c) in scratch.iter_mut().zip(weights).zip(self.center) {
            let c = f64::from(c);
            *to = (c + share * (f64::from(w) - c)) as f32;
        }
    }

    fn cost_with_penalty(&self, weights: &[f32], work: &mut Work) -> Result<f64, ObjectiveError> {
        let cost = self.objective.cost_at(weights)?.nats;
        work.evaluations += 1;
        Ok(if self.l2_reg > 0.0 { cost + self.penalty(weights) } else { cost })
    }

    /// `l2_reg/2 |w - c|^2`.
    fn penalty(&self, weights: &[f32]) -> f64 {
        0.5 * self.l2_reg * (dot(weights, weights) - 2.0 * dot(weights, self.center) + self.center_squared)
    }

    /// Adds the penalty.
    fn regularize(&self, weights: &[f32], cost: &mut f64, gradient: &mut [f32]) {
        if self.l2_reg > 0.0 {
            *cost += self.penalty(weights);
            let factor = self.l2_reg as f32;
            gradient.iter_mut().zip(weights).zip(self.center).for_each(|((g, w), c)| *g += factor * (w - c));
        }
    }
}
