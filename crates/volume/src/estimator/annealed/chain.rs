//! Hamiltonian Monte Carlo with the Gaussian part of the density integrated exactly.
//!
//! With `a` and `m` of [`Rung`], and `z = sqrt(a) (w - m c)`, the density is `exp(-|z|^2/2 - beta C)`. A trajectory alternates rotations
//! of position and velocity, `z' = z cos h + v sin h`, which are the exact motion without the cost, with kicks `v -= h beta/sqrt(a) grad C`
//! (a symplectic splitting, Neal 2011, section 5.5.1; for Gaussian priors Beskos et al. 2011). So the step is limited by the cost's
//! curvature alone, and a trajectory of some radians forgets the directions that the cost does not see.
//!
//! With a metric `R` ([`Frame`]) the chain moves in `z = R^-1 (w - m c)`, and the kicks are all of the force but the `-z` that the rotation
//! takes in: `v -= h [ R'(beta grad C + a (w - m c)) - z ]`. With `R = a^(-1/2)` this is what stands above.

use rayon::prelude::*;

use super::measured_cost::{MeasuredCost, Scratch, Work};
use super::metric::{Frame, Place};
use super::record::Observation;
use super::rung::Rung;
use super::vector::{CHUNK, fill_normal, squared};
use crate::direction::dot;
use crate::objective::ObjectiveError;
use crate::random::NormalVector;

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
    pub weights: Vec<f32>,
    /// Cost at the state.
    pub cost: f64,
    /// What drives the chain at the state, and the inverse temperature it is for.
    gradient: Vec<f32>,
    beta: f64,
    position: Vec<f32>,
    velocity: Vec<f32>,
    proposal: Vec<f32>,
    slope: Vec<f32>,
    scratch: Scratch,
}

impl Chain {
    /// A chain at `weights`, which is to move at inverse temperature `beta`.
    pub(super) fn at(weights: Vec<f32>, measured: &MeasuredCost<'_>, beta: f64) -> Result<Self, ObjectiveError> {
        let empty = || vec![0.0f32; weights.len()];
        let (position, velocity, proposal, slope, mut gradient, mut scratch) =
            (empty(), empty(), empty(), empty(), empty(), Scratch::default());
        let cost = measured.evaluate(&weights, beta, &mut gradient, &mut scratch, &mut Work::default())?;
        Ok(Self { weights, cost, gradient, beta, position, velocity, proposal, slope, scratch })
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
        let Self { weights, gradient, position, velocity, proposal, slope, scratch, .. } = self;
        if measured.has_kinks() && self.beta != rung.beta {
            // Where its steps lead must be the same from both ends of a trajectory. (Not counted: a run that goes on has it from the start.)
            measured.evaluate(weights, rung.beta, gradient, scratch, &mut Work::default())?;
        }
        self.beta = rung.beta;
        let Motion { step, leapfrogs } = motion;
        fill_normal(impulse.momentum, velocity);
        frame.enter(weights, measured.anchor, position);
        let before = frame.gaussian_energy(position, weights, measured.anchor) + 0.5 * squared(velocity) + rung.beta * self.cost;
        let start = Place { gradient, weights, center: measured.anchor };
        frame.kick(velocity, position, start, 0.5 * step, &mut scratch.weights);
        let mut cost = self.cost;
        let mut failed = false;
        for leapfrog in 1..=leapfrogs {
            frame.rotate(position, velocity, proposal, measured.anchor, step);
            cost = measured.evaluate(proposal, rung.beta, slope, scratch, work)?;
            // beta C alone above the whole energy by so much: nothing can bring it back.
            let potential = rung.beta * cost;
            if potential.is_nan() || potential > before + DIVERGED {
                failed = true;
                break;
            }
            let share = if leapfrog == leapfrogs { 0.5 } else { 1.0 };
            let here = Place { gradient: slope, weights: proposal, center: measured.anchor };
            frame.kick(velocity, position, here, share * step, &mut scratch.weights);
        }
        let after = frame.gaussian_energy(position, proposal, measured.anchor) + 0.5 * squared(velocity) + rung.beta * cost;
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
        let gradient = if measured.has_kinks() {
            measured.slope(weights, slope, scratch, work)?;
            slope
        } else {
            gradient
        };
        let (a, m) = (rung.curvature(measured.sigma), rung.shrinkage(measured.sigma));
        let chunks = weights.par_chunks(CHUNK).zip(gradient.par_chunks(CHUNK)).zip(measured.anchor.par_chunks(CHUNK));
        let sums: Vec<[f64; 4]> = chunks.map(|((w, g), c)| [dot(w, w), dot(w, c), dot(w, g), dot(c, g)]).collect();
        let total = |k: usize| sums.iter().map(|sum| sum[k]).sum::<f64>();
        let (ww, wc, wg, cg) = (total(0), total(1), total(2), total(3));
        let cc = measured.anchor_squared;
        let dimension = weights.len() as f64;
        let distance_squared = ww - 2.0 * wc + cc;
        Ok(Observation {
            cost: self.cost,
            // beta/2 E[(w - c).g - (1 - m) c.g]
            pull: 0.5 * rung.beta * (wg - (2.0 - m) * cg),
            overlap: measured.overlap(weights, wc),
            stretch: 0.5 * (dimension + a * ((1.0 - m).powi(2) * cc - distance_squared)),
            distance_squared,
            virial: (dimension - a * (ww - 2.0 * m * wc + m * m * cc) - rung.beta * (wg - m * cg)) / (2.0 * dimension).sqrt(),
        })
    }
}

/// A draw from the Gaussian part alone, `N(m c, 1/a)`.
pub(super) fn draw(measured: &MeasuredCost<'_>, rung: Rung, normal: NormalVector, weights: &mut [f32]) {
    let (a, m) = (rung.curvature(measured.sigma), rung.shrinkage(measured.sigma));
    let scale = 1.0 / a.sqrt();
    fill_normal(normal, weights);
    weights.par_chunks_mut(CHUNK).zip(measured.anchor.par_chunks(CHUNK)).for_each(|(w, c)| {
        for (w, &c) in w.iter_mut().zip(c) {
            *w = (m * f64::from(c) + scale * f64::from(*w)) as f32;
        }
    });
}
