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
use crate::spec::Integrator;
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
    /// Radians for each gradient.
    pub step: f64,
    /// Gradients.
    pub gradients: usize,
    pub integrator: Integrator,
}

/// First kick and first rotation of the three-stage splitting, in units of the whole (Blanes, Casas & Sanz-Serna 2014, table 1).
const THREE_STAGE: (f64, f64) = (0.118_880_109_665_48, 0.296_195_042_611_26);

impl Motion {
    /// At least so many radians, in steps of this many for each gradient.
    pub fn of(angle: f64, step: f64, integrator: Integrator) -> Self {
        let stages = integrator.stages();
        let whole = (angle / (step * stages as f64)).ceil() as usize;
        Self { step, gradients: whole.max(1).saturating_mul(stages), integrator }
    }

    /// What a kick before the first gradient takes, in radians.
    fn first_kick(self) -> f64 {
        match self.integrator {
            Integrator::Leapfrog => 0.5 * self.step,
            Integrator::ThreeStage => 3.0 * THREE_STAGE.0 * self.step,
        }
    }

    /// The rotation before a gradient, counted from 1, and the kick after it, in radians.
    fn stage(self, gradient: usize) -> (f64, f64) {
        let is_last = gradient == self.gradients;
        match self.integrator {
            Integrator::Leapfrog => (self.step, if is_last { 0.5 * self.step } else { self.step }),
            Integrator::ThreeStage => {
                let (kick, rotation) = THREE_STAGE;
                let whole = 3.0 * self.step;
                let (rotation, kick) = match gradient % 3 {
                    1 => (rotation, 0.5 - kick),
                    2 => (1.0 - 2.0 * rotation, 0.5 - kick),
                    _ => (rotation, if is_last { kick } else { 2.0 * kick }),
                };
                (whole * rotation, whole * kick)
            }
        }
    }
}

impl Integrator {
    /// Gradients of one step.
    pub(super) fn stages(self) -> usize {
        match self {
            Self::Leapfrog => 1,
            Self::ThreeStage => 3,
        }
    }
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
        vectors.fill_normal(impulse.momentum, velocity)?;
        frame.enter(weights.view(), position)?;
        let kinetic = 0.5 * vectors.inner(velocity.view(), velocity.view())?;
        let before = frame.gaussian_energy(position.view(), weights.view())? + kinetic + rung.beta * self.cost;
        let start = Place { gradient: gradient.view(), weights: weights.view() };
        frame.kick(velocity, position.view(), start, motion.first_kick(), force)?;
        let mut cost = self.cost;
        let mut failed = false;
        for gradient in 1..=motion.gradients {
            let (rotation, kick) = motion.stage(gradient);
            frame.rotate(position, velocity, proposal, rotation)?;
            cost = measured.evaluate(proposal.view(), frame.points, rung.beta, slope, scratch, work)?;
            if gradient == motion.gradients {
                cost = measured.largest(proposal.view(), frame.points, cost, scratch, work)?;
            }
            // beta C alone above the whole energy by so much: nothing can bring it back.
            let potential = rung.beta * cost;
            if potential.is_nan() || potential > before + DIVERGED {
                failed = true;
                break;
            }
            let here = Place { gradient: slope.view(), weights: proposal.view() };
            frame.kick(velocity, position.view(), here, kick, force)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kicks_and_rotations_of_a_trajectory_are_as_long_as_it_is_and_the_same_backward() {
        for integrator in [Integrator::Leapfrog, Integrator::ThreeStage] {
            let motion = Motion::of(1.7, 0.13, integrator);
            assert!(motion.gradients.is_multiple_of(integrator.stages()), "{motion:?}");
            let whole = motion.gradients as f64 * motion.step;
            assert!((1.7..1.7 + 3.0 * 0.13).contains(&whole), "{motion:?}");
            let stages: Vec<(f64, f64)> = (1..=motion.gradients).map(|gradient| motion.stage(gradient)).collect();
            let rotations: Vec<f64> = stages.iter().map(|stage| stage.0).collect();
            let kicks: Vec<f64> = [motion.first_kick()].into_iter().chain(stages.iter().map(|stage| stage.1)).collect();
            for times in [rotations, kicks] {
                assert!((times.iter().sum::<f64>() - whole).abs() < 1e-12, "{integrator:?}");
                assert!(times.iter().zip(times.iter().rev()).all(|(there, back)| (there - back).abs() < 1e-12), "{integrator:?}");
            }
        }
    }
}
