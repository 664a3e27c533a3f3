//! Which block comes next: a pure function of the blocks so far, so that a run resumes where it stopped and gives the same bits.
//!
//! First the warm-up, from the center, then one stay. The first round of it is over when the standard error and R-hat are what is asked for, or the
//! budget is used; every further one is as long as all before it together.

use super::convergence::split_r_hat;
use super::density::Density;
use crate::estimator::annealed::schedule::{AT_REST, Begin, FIRST_STEP, LEAST_ACCEPTANCE, LONGEST_STEP, SHORTEST_STEP, Task};
use crate::estimator::annealed::series::standard_error;
use crate::estimator::annealed::stay::Stay;
use crate::estimator::annealed::walk::Walk;
use crate::estimator::annealed::{Block, Phase};
use crate::spec::LlcSpec;

/// The step follows the acceptance of a counted block by this power of its number less each time, so that it settles and the chain is one of Markov in
/// the limit (Andrieu & Thoms 2008, section 4).
const VANISHING: f64 = 0.6;
/// Of so many blocks one is looked at: the statistics of all values are computed again there.
const LOOKS: u32 = 16;

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LlcProgress {
    /// Trajectories of each chain so far, those of the warm-up included.
    pub trajectories: u64,
    /// About how many there will be.
    pub of: u64,
    /// About how many gradients are left.
    pub gradients_left: u64,
}

/// The state of a run.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    spec: LlcSpec,
    density: Density,
    /// The cost at the center.
    pub center_cost: f64,
    /// The warm-up, and what follows it.
    pub stays: Vec<Stay>,
    step: f64,
    sequence: u64,
    rounds: u32,
    /// Trajectories of each chain after which each complete round was over.
    pub ends: Vec<usize>,
    /// Why the run was given up.
    pub failure: Option<String>,
}

impl Schedule {
    pub fn new(spec: &LlcSpec, density: Density, center_cost: f64, rounds: u32) -> Self {
        let warmup = Stay::new(0, Phase::Outward, 0, density.rung, spec.chains as usize, FIRST_STEP);
        Self {
            spec: spec.clone(),
            density,
            center_cost,
            stays: vec![warmup],
            step: FIRST_STEP,
            sequence: 0,
            rounds,
            ends: Vec::new(),
            failure: None,
        }
    }

    /// The stay whose trajectories count, once it has begun.
    pub fn settled(&self) -> Option<&Stay> {
        self.stays.get(1)
    }

    /// Whether all rounds are over.
    pub fn is_complete(&self) -> bool {
        self.ends.len() >= self.rounds as usize
    }

    /// Whether the statistics are worth computing after this block: there are at most so many looks for every doubling of the run.
    pub fn is_look(&self) -> bool {
        self.is_complete() || self.stays.last().is_some_and(|stay| stay.blocks.is_multiple_of((stay.blocks / LOOKS).max(1)))
    }

    /// Where it stands; none when everything is done.
    pub fn progress(&self) -> Option<LlcProgress> {
        self.next()?;
        let stay = self.stays.last()?;
        let (spec, done) = (&self.spec, self.stays.iter().map(Stay::length).sum::<usize>() as u64);
        let of = match (self.settled(), self.ends.last()) {
            (Some(_), Some(&end)) => 2.0 * end as f64,
            (Some(stay), None) => {
                let (excess, r_hat) = (self.relative_error(stay) / spec.tolerance, self.r_hat(stay));
                let by_chains = if r_hat > spec.r_hat { (r_hat - 1.0) / (spec.r_hat - 1.0) } else { 1.0 };
                let factor = (excess * excess).max(by_chains);
                let wanted = if factor.is_finite() { factor * stay.length() as f64 } else { f64::from(spec.trajectories) };
                wanted.clamp(f64::from(spec.trajectories), f64::from(spec.budget))
            }
            (None, _) => f64::from(spec.trajectories),
        };
        let warmup = self.stays.first().map_or(0, Stay::length).max(spec.warmup as usize) as u64;
        let of = (warmup + of as u64).max(done + u64::from(spec.block));
        let gradients_left = stay.gradients * (of - done) / (stay.length().max(1) as u64);
        Some(LlcProgress { trajectories: done, of, gradients_left })
    }

    /// Standard error of the mean cost above the center's, in parts of it.
    fn relative_error(&self, stay: &Stay) -> f64 {
        let excess = stay.mean(|o| o.cost) - self.center_cost;
        standard_error(&stay.series(|o| o.cost)) / excess.abs()
    }

    fn r_hat(&self, stay: &Stay) -> f64 {
        split_r_hat(&stay.series(|o| o.cost))
    }

    /// Whether the round is over.
    fn is_over(&self, stay: &Stay) -> bool {
        let length = stay.length();
        if let Some(end) = self.ends.last() {
            return length >= 2 * end;
        }
        if length < self.spec.trajectories as usize || !self.is_look() {
            return length >= self.spec.budget as usize;
        }
        let (virial, error) = stay.virial();
        length >= self.spec.budget as usize
            || (self.relative_error(stay) <= self.spec.tolerance && self.r_hat(stay) <= self.spec.r_hat && virial.abs() <= AT_REST * error)
    }
}

impl Walk for Schedule {
    fn next(&self) -> Option<Task> {
        if self.is_complete() || self.failure.is_some() {
            return None;
        }
        let stay = self.stays.last()?;
        // The warm-up begins at the center, what follows where that ended.
        let origin = if stay.phase == Phase::Outward { Begin::Anchor } else { Begin::Here };
        Some(Task {
            sequence: self.sequence,
            sweep: 0,
            phase: stay.phase,
            rung: stay.rung,
            block: stay.blocks,
            failed: stay.failed,
            point: stay.point,
            step: self.step,
            begin: if stay.blocks == 0 { origin } else { Begin::Here },
            origin,
        })
    }

    fn complete(&mut self, blocks: &[&Block]) {
        let Some(stay) = self.stays.last_mut() else { return };
        self.sequence += 1;
        let acceptance = blocks.iter().map(|block| block.acceptance).sum::<f64>() / blocks.len().max(1) as f64;
        let has_begun = stay.has_begun_by(blocks);
        let is_warmup = stay.phase == Phase::Outward;
        stay.take(blocks, self.step, has_begun);
        let gain = if is_warmup || !has_begun { 1.0 } else { f64::from(stay.blocks).powf(-VANISHING) };
        if has_begun {
            stay.acceptance.push(acceptance);
        }
        self.step *= if acceptance < LEAST_ACCEPTANCE { 0.5 } else { ((acceptance - self.spec.acceptance) * gain).exp() };
        self.step = self.step.min(LONGEST_STEP);
        if self.step < SHORTEST_STEP {
            self.failure = Some(format!("the step fell below {SHORTEST_STEP:e} radians: the cost is not smooth around the center"));
            return;
        }
        let Some(stay) = self.stays.last() else { return };
        if is_warmup {
            if stay.length() >= self.spec.warmup as usize {
                let mut settled = Stay::new(0, Phase::Settle, 1, self.density.rung, self.spec.chains as usize, self.step);
                settled.burn_in = self.spec.burn_in;
                self.stays.push(settled);
            }
        } else if self.is_over(stay) {
            let end = stay.length();
            self.ends.push(end);
        }
    }
}
