//! The cost that chains feel: on a set, with its penalty and without kinks.

use crate::direction::dot;
use crate::max_cost::soft_shares;
use crate::objective::{Differentiable, ObjectiveError};
use crate::spec::SetKind;

/// The cost whose sublevel set is measured.
#[derive(Clone, Copy)]
pub(super) struct MeasuredCost<'a> {
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

/// Whether a cost is less than the cutoff; NaN is not.
pub(super) fn is_under(cost: f64, cutoff: f64) -> bool {
    cost < cutoff
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

/// What evaluations keep from one to the next, so that they allocate nothing.
#[derive(Debug, Clone, Default)]
pub(super) struct Scratch {
    pub weights: Vec<f32>,
    gradient: Vec<f32>,
    /// For costs that have kinks themselves.
    other: Vec<f32>,
    /// Costs on the segment from the center, then their shares of the force.
    costs: Vec<f64>,
}

/// Where two costs take turns to be the largest, the force turns from one's to the other's over so many nats of the potential `beta C`. More would
/// reject trajectories, whose energies are those of the largest; less would need shorter steps.
const SOFTNESS: f64 = 1.0;

impl MeasuredCost<'_> {
    /// The cost at `weights`, and the gradient that drives a chain at inverse temperature `beta`. For the basin of a cost without kinks this is the
    /// gradient of the cost. For the star the cost is the largest one on the segment from the center (on a grid of `star_points`), which has kinks
    /// where two points are equal: there the gradient of the largest jumps, and steps would have to be short beside the way between two kinks. So it
    /// is averaged over the points, as if the largest were a soft one; objectives that have kinks themselves do the same. Any force that depends on
    /// the place alone leaves the density as it is: the energies that decide about acceptance are those of the largest.
    pub(super) fn evaluate(
        &self,
        weights: &[f32],
        beta: f64,
        gradient: &mut [f32],
        scratch: &mut Scratch,
        work: &mut Work,
    ) -> Result<f64, ObjectiveError> {
        let softness = SOFTNESS / beta;
        if self.set == SetKind::Basin {
            return self.soft_gradient_at(weights, softness, gradient, &mut scratch.other, work);
        }
        self.costs(weights, scratch, work)?;
        let Some(highest) = soft_shares(&mut scratch.costs, softness) else { return Ok(f64::NAN) };
        gradient.fill(0.0);
        for point in 1..=self.star_points {
            let share = scratch.costs[point as usize - 1];
            if share == 0.0 {
                continue;
            }
            self.toward(weights, point, &mut scratch.weights);
            scratch.gradient.resize(weights.len(), 0.0);
            self.soft_gradient_at(&scratch.weights, softness, &mut scratch.gradient, &mut scratch.other, work)?;
            let factor = (share * self.part(point)) as f32;
            gradient.iter_mut().zip(&scratch.gradient).for_each(|(sum, g)| *sum += factor * g);
        }
        Ok(highest)
    }

    /// Whether the gradient that drives chains is another than that of the cost.
    pub(super) fn has_kinks(&self) -> bool {
        self.set == SetKind::Star || self.objective.has_kinks()
    }

    /// The gradient of the cost itself: for the star that of the largest, `k/K grad C(c + k/K (w - c))`.
    pub(super) fn slope(
        &self,
        weights: &[f32],
        gradient: &mut [f32],
        scratch: &mut Scratch,
        work: &mut Work,
    ) -> Result<(), ObjectiveError> {
        if self.set == SetKind::Basin {
            self.gradient_at(weights, gradient, work)?;
            return Ok(());
        }
        let (point, _) = self.costs(weights, scratch, work)?;
        self.toward(weights, point, &mut scratch.weights);
        self.gradient_at(&scratch.weights, gradient, work)?;
        let part = self.part(point) as f32;
        gradient.iter_mut().for_each(|g| *g *= part);
        Ok(())
    }

    fn soft_gradient_at(
        &self,
        weights: &[f32],
        softness: f64,
        gradient: &mut [f32],
        other: &mut Vec<f32>,
        work: &mut Work,
    ) -> Result<f64, ObjectiveError> {
        let mut found = self.objective.soft_gradient(weights, softness, gradient, other)?;
        work.add(Work { gradients: found.gradients, evaluations: found.evaluations });
        self.regularize(weights, &mut found.nats, gradient);
        Ok(found.nats)
    }

    fn gradient_at(&self, weights: &[f32], gradient: &mut [f32], work: &mut Work) -> Result<f64, ObjectiveError> {
        let mut cost = self.objective.gradient(weights, 0..self.objective.parts(), gradient)?;
        work.gradients += 1;
        self.regularize(weights, &mut cost, gradient);
        Ok(cost)
    }

    /// The costs on the segment, from the point next to the center on, into `scratch.costs`, and which is the largest: the last of equal ones, and one
    /// that is NaN before all others.
    fn costs(&self, weights: &[f32], scratch: &mut Scratch, work: &mut Work) -> Result<(u32, f64), ObjectiveError> {
        scratch.costs.clear();
        let mut highest = (self.star_points, f64::NEG_INFINITY);
        for point in 1..=self.star_points {
            self.toward(weights, point, &mut scratch.weights);
            let cost = self.cost_with_penalty(&scratch.weights, work)?;
            scratch.costs.push(cost);
            if cost.is_nan() || cost >= highest.1 {
                highest = (point, cost);
            }
        }
        Ok(highest)
    }

    /// How far on the segment a point is, in parts of it.
    fn part(&self, point: u32) -> f64 {
        f64::from(point) / f64::from(self.star_points)
    }

    /// The cost of `weights` alone, as [`MeasuredCost::evaluate`] has it.
    pub(super) fn cost(&self, weights: &[f32], scratch: &mut Scratch, work: &mut Work) -> Result<f64, ObjectiveError> {
        match self.set {
            SetKind::Basin => self.cost_with_penalty(weights, work),
            SetKind::Star => Ok(self.costs(weights, scratch, work)?.1),
        }
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
        let share = self.part(point);
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
