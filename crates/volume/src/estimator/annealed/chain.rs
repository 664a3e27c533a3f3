//! Hamiltonian Monte Carlo with the Gaussian part of the density integrated exactly.
//!
//! With `a` and `m` of [`Rung`], and `z = sqrt(a) (w - m c)`, the density is `exp(-|z|^2/2 - beta C)`. A trajectory alternates rotations
//! of position and velocity, `z' = z cos h + v sin h`, which are the exact motion without the cost, with kicks `v -= h beta/sqrt(a) grad C`
//! (a symplectic splitting, Neal 2011, section 5.5.1; for Gaussian priors Beskos et al. 2011). So the step is limited by the cost's
//! curvature alone, and a trajectory of some radians forgets the directions that the cost does not see.
//!
//! With a metric `R` ([`Frame`]) the chain moves in `z = R^-1 (w - m c)`, and the kicks are all of the force but the `-z` that the rotation
//! takes in: `v -= h [ R'(beta grad C + a (w - m c)) - z ]`. With `R = a^(-1/2)` this is what stands above.

use super::measured_cost::{MeasuredCost, Scratch, Work};
use super::metric::{Frame, Place};
use super::record::Observation;
use super::rung::Rung;
use crate::objective::ObjectiveError;
use crate::random::NormalVector;
use crate::vectors::{Shift, Vector};

/// An energy that grew by so many nats along a trajectory has left the region where the integrator follows the motion.
const DIVERGED: f64 = 1000.0;

/// How one trajectory ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    /// Probability of acceptance; 0 where the cost was not finite.
    pub acceptance: f64,
    /// The energy ran away, or a cost was not finite.
    pub diverged: bool,
    /// A cost or an energy was NaN or infinite.
    pub not_finite: bool,
    /// Whether the state is the end of the trajectory.
    is_accepted: bool,
}

/// How far a trajectory goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Motion {
    /// Radians of a leapfrog step.
    pub step: f64,
    pub leapfrogs: usize,
}

/// What is random in a trajectory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Impulse {
    /// The velocity that it begins with.
    pub momentum: NormalVector,
    /// In `[0, 1)`: decides about acceptance.
    pub uniform: f64,
}

/// One chain: its state, and what a trajectory needs. Six vectors of length `D`.
pub(super) struct Chain {
    /// The state.
    pub weights: Vector,
    /// Cost at the state.
    pub cost: f64,
    /// What drives the chain at the state, and the inverse temperature it is for.
    gradient: Vector,
    beta: f64,
    /// The points of the star that drive it.
    points: Vec<u32>,
    position: Vector,
    velocity: Vector,
    proposal: Vector,
    slope: Vector,
    /// Of a metric.
    force: Option<Vector>,
    scratch: Scratch,
}

impl Chain {
    /// A chain at `weights`, which is to move at inverse temperature `beta`, driven by these points of the star.
    pub(super) fn at(weights: Vec<f32>, measured: &MeasuredCost<'_>, points: &[u32], beta: f64) -> Result<Self, ObjectiveError> {
        let vectors = measured.vectors();
        let (dimension, weights) = (weights.len(), vectors.vector_of(weights)?);
        let empty = || vectors.zeros(dimension);
        let (mut gradient, mut scratch) = (empty()?, Scratch::default());
        let known = measured.evaluate(weights.view(), points, beta, &mut gradient, &mut scratch, &mut Work::default())?;
        let cost = measured.largest(weights.view(), points, known, &mut scratch, &mut Work::default())?;
        let (position, velocity, proposal, slope) = (empty()?, empty()?, empty()?, empty()?);
        Ok(Self { weights, cost, gradient, beta, points: points.to_vec(), position, velocity, proposal, slope, force: None, scratch })
    }

    /// One trajectory from the state.
    pub(super) fn trajectory(
        &mut self,
        measured: &MeasuredCost<'_>,
        rung: Rung,
        frame: &Frame<'_>,
        motion: Motion,
        impulse: Impulse,
        work: &mut Work,
    ) -> Result<Outcome, ObjectiveError> {
        let Self { weights, gradient, position, velocity, proposal, slope, force, scratch, .. } = self;
        let vectors = measured.vectors();
        if measured.has_kinks() && (self.beta != rung.beta || self.points != frame.points) {
            // Where its steps lead must be the same from both ends of a trajectory. (Not counted: a run that goes on has it from the start.)
            measured.evaluate(weights.view(), frame.points, rung.beta, gradient, scratch, &mut Work::default())?;
            self.points.clear();
            self.points.extend_from_slice(frame.points);
        }
        self.beta = rung.beta;
        let Motion { step, leapfrogs } = motion;
        vectors.fill_normal(impulse.momentum, velocity)?;
        frame.enter(weights.view(), position)?;
        let kinetic = 0.5 * vectors.inner(velocity.view(), velocity.view())?;
        let before = frame.gaussian_energy(position.view(), weights.view())? + kinetic + rung.beta * self.cost;
        let start = Place { gradient: gradient.view(), weights: weights.view() };
        frame.kick(velocity, position.view(), start, 0.5 * step, force)?;
        let mut cost = self.cost;
        let mut failed = false;
        for leapfrog in 1..=leapfrogs {
            frame.rotate(position, velocity, proposal, step)?;
            cost = measured.evaluate(proposal.view(), frame.points, rung.beta, slope, scratch, work)?;
            if leapfrog == leapfrogs {
                cost = measured.largest(proposal.view(), frame.points, cost, scratch, work)?;
            }
            // beta C alone above the whole energy by so much: nothing can bring it back.
            let potential = rung.beta * cost;
            if potential.is_nan() || potential > before + DIVERGED {
                failed = true;
                break;
            }
            let share = if leapfrog == leapfrogs { 0.5 } else { 1.0 };
            let here = Place { gradient: slope.view(), weights: proposal.view() };
            frame.kick(velocity, position.view(), here, share * step, force)?;
        }
        let kinetic = 0.5 * vectors.inner(velocity.view(), velocity.view())?;
        let after = frame.gaussian_energy(position.view(), proposal.view())? + kinetic + rung.beta * cost;
        let growth = after - before;
        let not_finite = !cost.is_finite() || !growth.is_finite();
        failed |= not_finite || growth > DIVERGED;
        let acceptance = if failed { 0.0 } else { (-growth).exp().min(1.0) };
        let is_accepted = impulse.uniform < acceptance;
        if is_accepted {
            std::mem::swap(weights, proposal);
            std::mem::swap(gradient, slope);
            self.cost = cost;
        }
        Ok(Outcome { acceptance, diverged: failed, not_finite, is_accepted })
    }

    /// The state before the last trajectory, where what is measured after it could not be. The weights alone: the chain is to be made anew from them.
    pub(super) fn undo(&mut self, outcome: &Outcome) {
        if outcome.is_accepted {
            std::mem::swap(&mut self.weights, &mut self.proposal);
        }
    }

    /// What is measured at the state.
    pub(super) fn observe(&mut self, measured: &MeasuredCost<'_>, rung: Rung, work: &mut Work) -> Result<Observation, ObjectiveError> {
        let Self { weights, gradient, slope, scratch, .. } = self;
        let gradient: &Vector = if measured.has_kinks() {
            measured.slope(weights.view(), slope, scratch, work)?;
            slope
        } else {
            gradient
        };
        let (a, m) = (rung.curvature(measured.sigma), rung.shrinkage(measured.sigma));
        let (vectors, w, c, g) = (measured.vectors(), weights.view(), measured.anchor.here, gradient.view());
        let (ww, wc, wg, cg) = (vectors.inner(w, w)?, vectors.inner(w, c)?, vectors.inner(w, g)?, vectors.inner(c, g)?);
        let cc = measured.anchor.squared;
        let dimension = measured.anchor.values.len() as f64;
        let distance_squared = ww - 2.0 * wc + cc;
        Ok(Observation {
            cost: self.cost,
            // beta/2 E[(w - c).g - (1 - m) c.g]
            pull: 0.5 * rung.beta * (wg - (2.0 - m) * cg),
            overlap: measured.overlap(w, wc)?,
            stretch: 0.5 * (dimension + a * ((1.0 - m).powi(2) * cc - distance_squared)),
            distance_squared,
            virial: (dimension - a * (ww - 2.0 * m * wc + m * m * cc) - rung.beta * (wg - m * cg)) / (2.0 * dimension).sqrt(),
        })
    }
}

/// A draw from the Gaussian part alone, `N(m c, 1/a)`.
pub(super) fn draw(measured: &MeasuredCost<'_>, rung: Rung, normal: NormalVector, weights: &mut Vector) -> Result<(), ObjectiveError> {
    let vectors = measured.vectors();
    vectors.fill_normal(normal, weights)?;
    let shift = Shift { center: measured.anchor.here, shrinkage: rung.shrinkage(measured.sigma) };
    vectors.place(weights, shift, 1.0 / rung.curvature(measured.sigma).sqrt())
}
