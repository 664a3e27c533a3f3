//! From the center to a typical state of what behaves like it.
//!
//! A trained network may be far from what most weights that behave like it look like. A ladder whose spring holds the chains near such a place crosses
//! a jump on its way: its chains leave the neighbourhood all at once, and come back late. A ladder around a typical state does not.
//!
//! A chain without a spring starts at the center, so cold that its cost stays below the cutoff even if every direction were stiff, and is warmed
//! until its cost is held just below the cutoff: it never melts, and long trajectories forget the center within a few.

use super::chain::{Chain, Impulse, Motion};
use super::error::AnnealedError;
use super::estimator::AnnealedEstimator;
use super::keeper::Keeper;
use super::measured_cost::{Work, is_under};
use super::metric::{ChainMetric, Frame};
use super::record::Relaxation;
use super::rung::Rung;
use super::schedule::{FIRST_STEP, LONGEST_STEP, SHORTEST_STEP};

/// The cost that the chain is held at, in cutoffs.
const HELD: f64 = 0.7;
/// Gradients of a trajectory while the chain is only warmed.
const SHORT: usize = 20;
/// Below this part of the wanted cost a chain is only warmed.
const WARM: f64 = 0.5;
/// With less of `beta C` nothing holds the chain any more.
const FREE: f64 = 0.05;
/// With a lower acceptance the step is too long, and the cost says nothing about the temperature.
const TELLING: f64 = 0.3;
/// Trajectories of full length that a state takes at least, however short the stays at rungs are. The center is forgotten after a few, but energy still
/// goes down for some tens, and chains that set out from a state that is not at rest yet carry that all the way outward.
const LEAST_FULL: u32 = 24;
/// Trajectories after which the search is given up, in units of those that are asked for and ten more.
const MOST: u64 = 40;
/// The draws of this chain are those of a block that no ladder has.
const SEQUENCE: u64 = 1 << 40;

impl AnnealedEstimator<'_> {
    /// A state under the cutoff that has forgotten how the center is special, and how it was found: one for every number. An interrupt keeps how far
    /// it came.
    pub(super) fn relax(
        &self,
        number: usize,
        keeper: &mut dyn Keeper,
        observe: &mut dyn FnMut(&Relaxation),
    ) -> Result<(Relaxation, Vec<f32>), AnnealedError> {
        let cutoff = self.question.cutoff();
        let dimension = self.measured.center.values.len();
        let held = HELD * cutoff;
        let (mut progress, state) = match keeper.anchor(number)? {
            Some((progress, state)) if state.len() == dimension => (progress, state),
            Some((_, state)) => return Err(AnnealedError::State { found: state.len(), expected: dimension }),
            None => {
                let progress = Relaxation {
                    trajectories: 0,
                    full: 0,
                    // E[beta C] of a quadratic cost is at most half the dimension.
                    beta: 0.5 * dimension as f64 / held,
                    step: FIRST_STEP,
                    cost: 0.0,
                    overlap: 1.0,
                    distance_squared: 0.0,
                    gradients: 0,
                    evaluations: 0,
                    is_done: false,
                };
                (progress, self.measured.center.values.to_vec())
            }
        };
        if progress.is_done {
            return Ok((progress, state));
        }
        let mut kept = progress.trajectories;
        let mut chain = Chain::at(state, &self.measured, &[], progress.beta)?;
        if !is_under(chain.cost, cutoff) && progress.trajectories == 0 {
            return Err(AnnealedError::NoStart);
        }
        let least = self.full_trajectories();
        while !progress.is_done {
            if let Err(error) = self.relax_once(number, &mut chain, &mut progress) {
                if error.is_interrupt() && progress.trajectories > kept {
                    keeper.keep_anchor(number, &progress, &self.state_of(&chain)?)?;
                }
                return Err(error);
            }
            progress.is_done = progress.full >= least && is_under(chain.cost, cutoff);
            let is_time = progress.trajectories.is_multiple_of(u64::from(self.spec.block));
            if progress.is_done || is_time {
                keeper.keep_anchor(number, &progress, &self.state_of(&chain)?)?;
                kept = progress.trajectories;
                observe(&progress);
            }
            if progress.step < SHORTEST_STEP || progress.trajectories > MOST * (u64::from(least) + 10) {
                return Err(AnnealedError::NoRelaxation { trajectories: progress.trajectories, cost: chain.cost });
            }
        }
        Ok((progress, self.state_of(&chain)?.into_owned()))
    }

    /// Trajectories of full length after which the state is taken.
    fn full_trajectories(&self) -> u32 {
        self.spec.trajectories.max(LEAST_FULL)
    }

    /// One trajectory, and what follows from it for the next. An error leaves state and progress as they were before it.
    fn relax_once(&self, number: usize, chain: &mut Chain, progress: &mut Relaxation) -> Result<(), AnnealedError> {
        let rung = Rung { beta: progress.beta, localization: 0.0 };
        let sequence = SEQUENCE + ((number as u64) << 32) + progress.trajectories;
        let mut rng = self.steps(sequence, 0);
        let angle = self.spec.angle * (0.5 + rng.uniform());
        let is_warmed = progress.full > 0;
        // Short trajectories are cheaper than a metric, but for that of axes.
        let metric = if is_warmed || (self.coordinates.is_some() && self.maps().is_none()) {
            self.metric(rung, &[&*self.state_of(chain)?])?
        } else {
            None
        };
        let mut work = Work { gradients: metric.as_ref().map_or(0, ChainMetric::gradients), ..Work::default() };
        let frame = Frame::new(&self.measured, rung, metric.as_ref(), &[]);
        let mut motion = Motion::of(angle, progress.step, self.spec.integrator);
        if !is_warmed {
            motion.gradients = motion.gradients.min(SHORT.next_multiple_of(self.spec.integrator.stages()));
        }
        let momentum = self.momentum((SEQUENCE << 20) + ((number as u64) << 52) + progress.trajectories);
        let impulse = Impulse { momentum, uniform: rng.uniform() };
        let outcome = chain.trajectory(&self.measured, rung, &frame, motion, impulse, &mut work)?;
        let observed = chain.observe(&self.measured, rung, &mut work).inspect_err(|_| chain.undo(&outcome))?;
        progress.trajectories += 1;
        progress.cost = observed.cost;
        progress.overlap = observed.overlap;
        progress.distance_squared = observed.distance_squared;
        progress.gradients += work.gradients;
        progress.evaluations += work.evaluations;
        progress.step = (progress.step * (outcome.acceptance - self.spec.acceptance).exp()).min(LONGEST_STEP);
        if outcome.acceptance < TELLING {
            return Ok(());
        }
        // After those that were asked for the cost is held lower and lower, until a state is below the cutoff.
        let late = progress.full.saturating_sub(self.full_trajectories());
        let held = HELD * self.question.cutoff() * 0.8f64.powi(late as i32);
        let ratio = progress.cost / held;
        progress.full += u32::from(is_warmed || ratio > WARM || progress.beta * held < FREE);
        // Held at the cost: the mean is about inversely proportional to beta.
        let factor = ratio.clamp(0.5, 2.0).powf(if is_warmed { 0.5 } else { 1.0 });
        progress.beta *= factor;
        progress.step = (progress.step / factor.sqrt()).min(LONGEST_STEP);
        Ok(())
    }
}
