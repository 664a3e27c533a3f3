//! The cost that chains feel: on a set, with its penalty and without kinks.

use crate::coordinates::Straight;
use crate::direction::dot;
use crate::max_cost::soft_shares;
use crate::objective::{Differentiable, ObjectiveError, SoftGradient};
use crate::spec::SetKind;
use crate::vectors::{Shift, Vector, Vectors, View};

/// A point that everything is seen from: its coordinates, and the same where the cost is computed.
#[derive(Clone, Copy)]
pub(in crate::estimator) struct Point<'a> {
    pub values: &'a [f32],
    pub here: View<'a>,
    /// `|c|^2`.
    pub squared: f64,
}

impl<'a> Point<'a> {
    /// A point in the computer's memory.
    pub fn new(values: &'a [f32]) -> Self {
        Self { values, here: View::Slice(values), squared: dot(values, values) }
    }
}

/// The star where chains move in other coordinates: its ways are straight in weights.
#[derive(Clone, Copy)]
pub(in crate::estimator) struct StarOfWeights<'a> {
    pub coordinates: &'a dyn Straight,
    /// The cost of the weights, and its center.
    pub objective: &'a dyn Differentiable,
    pub center: Point<'a>,
}

/// The cost whose sublevel set is measured.
#[derive(Clone, Copy)]
pub(in crate::estimator) struct MeasuredCost<'a> {
    pub objective: &'a dyn Differentiable,
    /// The objective's center: penalty, star and overlap are with respect to it.
    pub center: Point<'a>,
    /// Where the spring is attached.
    pub anchor: Point<'a>,
    pub sigma: f64,
    pub l2_reg: f64,
    pub set: SetKind,
    /// Points on the segment from the center whose largest cost counts, for the star.
    pub star_points: u32,
    /// Where the objective is one of other coordinates, for the star.
    pub of_weights: Option<StarOfWeights<'a>>,
}

/// Whether a cost is less than the cutoff; NaN is not.
pub(super) fn is_under(cost: f64, cutoff: f64) -> bool {
    cost < cutoff
}

/// Gradients and costs that were computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::estimator) struct Work {
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
#[derive(Debug, Default)]
pub(in crate::estimator) struct Scratch {
    weights: Option<Vector>,
    gradient: Option<Vector>,
    /// For costs that have kinks themselves.
    other: Option<Vector>,
    /// Costs on the segment from the center, then their shares of the force.
    costs: Vec<f64>,
    /// How far on the segment they are.
    parts: Vec<f64>,
    /// What coordinates stand for.
    weights_there: Vec<f32>,
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
    ///
    /// Of the star's points only those of `points` take part (a stay has the same ones from beginning to end), in the cost as well:
    /// [`MeasuredCost::largest`] takes the others in.
    pub(super) fn evaluate(
        &self,
        weights: View<'_>,
        points: &[u32],
        beta: f64,
        gradient: &mut Vector,
        scratch: &mut Scratch,
        work: &mut Work,
    ) -> Result<f64, ObjectiveError> {
        let softness = SOFTNESS / beta;
        if self.set == SetKind::Basin {
            return self.soft_gradient_at(weights, softness, gradient, &mut scratch.other, work);
        }
        if let Some(star) = &self.of_weights {
            work.gradients += 1;
            let seen = self.in_weights(star);
            return star.coordinates.pull_back(weights.slice(), gradient, &mut |weights, gradient| {
                seen.evaluate(View::Slice(weights), points, beta, gradient, scratch, work)
            });
        }
        if self.l2_reg == 0.0 {
            scratch.parts.clear();
            scratch.parts.extend(points.iter().map(|&point| self.part(point)));
            let found = self.objective.soft_segment(weights, &scratch.parts, softness, gradient, &mut scratch.costs)?;
            if let Some(SoftGradient { nats, gradients, evaluations }) = found {
                work.add(Work { gradients, evaluations });
                return Ok(nats);
            }
        }
        self.costs(weights, points.iter().copied(), scratch, work)?;
        let Some(highest) = soft_shares(&mut scratch.costs, softness) else { return Ok(f64::NAN) };
        let vectors = self.vectors();
        vectors.clear(gradient)?;
        let own = self.room(&mut scratch.gradient)?;
        for (place, &point) in points.iter().enumerate() {
            let share = scratch.costs[place];
            if share == 0.0 {
                continue;
            }
            let at = self.toward(weights, point, &mut scratch.weights)?;
            self.soft_gradient_at(at, softness, own, &mut scratch.other, work)?;
            vectors.kick(gradient, -(share * self.part(point)), own.view())?;
        }
        Ok(highest)
    }

    /// The cost at `weights`, where that of `points` alone is known.
    pub(super) fn largest(
        &self,
        weights: View<'_>,
        points: &[u32],
        known: f64,
        scratch: &mut Scratch,
        work: &mut Work,
    ) -> Result<f64, ObjectiveError> {
        if self.set == SetKind::Basin || known.is_nan() || points.len() == self.star_points as usize {
            return Ok(known);
        }
        let others = (1..=self.star_points).filter(|point| !points.contains(point));
        let (_, highest) = self.seen(weights, scratch, |seen, weights, scratch| seen.costs(weights, others, scratch, work))?;
        Ok(if highest.is_nan() || highest > known { highest } else { known })
    }

    /// How near the largest cost those of the segment's points are: their part of it, the largest over these states; infinite where one is not known.
    /// Empty for the basin.
    pub(super) fn nearness(&self, states: &[&[f32]]) -> Result<Vec<f64>, ObjectiveError> {
        if self.set == SetKind::Basin {
            return Ok(Vec::new());
        }
        let (mut scratch, mut unused) = (Scratch::default(), Work::default());
        let mut nearness = vec![0.0f64; self.star_points as usize];
        for state in states {
            let state = self.vectors().vector_of(state.to_vec())?;
            let points = 1..=self.star_points;
            let (_, highest) =
                self.seen(state.view(), &mut scratch, |seen, state, scratch| seen.costs(state, points, scratch, &mut unused))?;
            for (nearness, &cost) in nearness.iter_mut().zip(&scratch.costs) {
                let own = cost / highest;
                *nearness = if own.is_nan() { f64::INFINITY } else { nearness.max(own) };
            }
        }
        Ok(nearness)
    }

    /// Whether the gradient that drives chains is another than that of the cost.
    pub(super) fn has_kinks(&self) -> bool {
        self.set == SetKind::Star || self.objective.has_kinks()
    }

    /// The gradient of the cost itself: for the star that of the largest, `k/K grad C(c + k/K (w - c))`.
    pub(super) fn slope(
        &self,
        weights: View<'_>,
        gradient: &mut Vector,
        scratch: &mut Scratch,
        work: &mut Work,
    ) -> Result<(), ObjectiveError> {
        if self.set == SetKind::Basin {
            self.gradient_at(weights, gradient, work)?;
            return Ok(());
        }
        if let Some(star) = &self.of_weights {
            work.gradients += 1;
            let seen = self.in_weights(star);
            let mut slope = |weights: &[f32], gradient: &mut Vector| {
                seen.slope(View::Slice(weights), gradient, scratch, work)?;
                Ok(0.0)
            };
            star.coordinates.pull_back(weights.slice(), gradient, &mut slope)?;
            return Ok(());
        }
        let (point, _) = self.costs(weights, 1..=self.star_points, scratch, work)?;
        let at = self.toward(weights, point, &mut scratch.weights)?;
        let vectors = self.vectors();
        if point == self.star_points {
            self.gradient_at(at, gradient, work)?;
            return Ok(());
        }
        let own = self.room(&mut scratch.gradient)?;
        self.gradient_at(at, own, work)?;
        vectors.clear(gradient)?;
        vectors.kick(gradient, -self.part(point), own.view())
    }

    /// The same where the star's ways are straight.
    fn in_weights<'s>(&'s self, star: &StarOfWeights<'s>) -> MeasuredCost<'s> {
        MeasuredCost { objective: star.objective, center: star.center, anchor: star.center, of_weights: None, ..*self }
    }

    /// Looks at a state where the star's ways are straight: in weights.
    fn seen<T>(
        &self,
        state: View<'_>,
        scratch: &mut Scratch,
        look: impl FnOnce(&MeasuredCost<'_>, View<'_>, &mut Scratch) -> Result<T, ObjectiveError>,
    ) -> Result<T, ObjectiveError> {
        let Some(star) = &self.of_weights else { return look(self, state, scratch) };
        let mut weights = std::mem::take(&mut scratch.weights_there);
        weights.clear();
        weights.extend_from_slice(state.slice());
        star.coordinates.leave(&mut weights);
        let result = look(&self.in_weights(star), View::Slice(&weights), scratch);
        scratch.weights_there = weights;
        result
    }

    /// What chains do with vectors, where the cost is computed.
    pub(super) fn vectors(&self) -> &dyn Vectors {
        self.objective.vectors()
    }

    /// The same point where the cost is computed: on a device it is the copy that `copy` then holds.
    pub(super) fn here<'p>(&self, point: Point<'p>, copy: &'p mut Option<Vector>) -> Result<Point<'p>, ObjectiveError> {
        if self.vectors().are_slices() {
            return Ok(point);
        }
        let copy = copy.insert(self.vectors().vector_of(point.values.to_vec())?);
        Ok(Point { here: copy.view(), ..point })
    }

    /// A vector of zeros, where the cost is computed.
    pub(super) fn zeros(&self) -> Result<Vector, ObjectiveError> {
        self.vectors().zeros(self.center.values.len())
    }

    /// A vector that is kept from call to call.
    fn room<'s>(&self, scratch: &'s mut Option<Vector>) -> Result<&'s mut Vector, ObjectiveError> {
        match scratch {
            Some(vector) => Ok(vector),
            None => Ok(scratch.insert(self.zeros()?)),
        }
    }

    fn soft_gradient_at(
        &self,
        weights: View<'_>,
        softness: f64,
        gradient: &mut Vector,
        other: &mut Option<Vector>,
        work: &mut Work,
    ) -> Result<f64, ObjectiveError> {
        let found = self.objective.soft_gradient(weights, softness, gradient, other)?;
        work.add(Work { gradients: found.gradients, evaluations: found.evaluations });
        Ok(found.nats + self.regularize(weights, gradient)?)
    }

    fn gradient_at(&self, weights: View<'_>, gradient: &mut Vector, work: &mut Work) -> Result<f64, ObjectiveError> {
        let cost = self.objective.gradient_of(weights, gradient)?;
        work.gradients += 1;
        Ok(cost + self.regularize(weights, gradient)?)
    }

    /// The costs at points of the segment, in the order from the center on, into `scratch.costs`, and which is the largest: the last of equal ones,
    /// and one that is NaN before all others.
    fn costs(
        &self,
        weights: View<'_>,
        points: impl Iterator<Item = u32>,
        scratch: &mut Scratch,
        work: &mut Work,
    ) -> Result<(u32, f64), ObjectiveError> {
        scratch.costs.clear();
        let mut highest = (self.star_points, f64::NEG_INFINITY);
        for point in points {
            let at = self.toward(weights, point, &mut scratch.weights)?;
            let cost = self.cost_with_penalty(at, work)?;
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
    pub(in crate::estimator) fn cost(&self, weights: View<'_>, scratch: &mut Scratch, work: &mut Work) -> Result<f64, ObjectiveError> {
        match self.set {
            SetKind::Basin => self.cost_with_penalty(weights, work),
            SetKind::Star => {
                let points = 1..=self.star_points;
                Ok(self.seen(weights, scratch, |seen, weights, scratch| seen.costs(weights, points, scratch, work))?.1)
            }
        }
    }

    /// `c.w / c.c` with the center `c`: 1 there, 0 where it is forgotten. `with_anchor` is the inner product with the anchor.
    pub(super) fn overlap(&self, weights: View<'_>, with_anchor: f64) -> Result<f64, ObjectiveError> {
        if self.center.squared == 0.0 {
            return Ok(0.0);
        }
        let inner = if self.center.here.is(self.anchor.here) { with_anchor } else { self.vectors().inner(weights, self.center.here)? };
        Ok(inner / self.center.squared)
    }

    /// The point of the segment from the center to `weights`, which are its last one.
    fn toward<'s>(&self, weights: View<'s>, point: u32, scratch: &'s mut Option<Vector>) -> Result<View<'s>, ObjectiveError> {
        if point == self.star_points {
            return Ok(weights);
        }
        let at = self.room(scratch)?;
        self.vectors().between(at, self.center.here, self.part(point), weights)?;
        Ok(at.view())
    }

    fn cost_with_penalty(&self, weights: View<'_>, work: &mut Work) -> Result<f64, ObjectiveError> {
        let cost = self.objective.cost_of(weights)?.nats;
        work.evaluations += 1;
        Ok(if self.l2_reg > 0.0 { cost + self.penalty(weights)? } else { cost })
    }

    /// `l2_reg/2 |w - c|^2`.
    fn penalty(&self, weights: View<'_>) -> Result<f64, ObjectiveError> {
        Ok(0.5 * self.l2_reg * self.vectors().distance_squared(weights, Shift { center: self.center.here, shrinkage: 1.0 })?)
    }

    /// Adds the penalty's gradient, and returns the penalty.
    fn regularize(&self, weights: View<'_>, gradient: &mut Vector) -> Result<f64, ObjectiveError> {
        if self.l2_reg == 0.0 {
            return Ok(0.0);
        }
        let vectors = self.vectors();
        vectors.add(gradient, self.l2_reg, weights)?;
        vectors.add(gradient, -self.l2_reg, self.center.here)?;
        self.penalty(weights)
    }
}
