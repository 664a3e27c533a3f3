//! The stay of all chains at one rung.

use super::record::{Block, Observation, Phase};
use super::rung::Rung;
use super::series::standard_error;
use crate::statistics::mean;

/// Share of a stay's trajectories that is not counted.
pub(super) const BURN_IN: f64 = 0.3;

/// Until a block has this acceptance in every chain, a stay only adapts the step: chains that come from a colder rung must take up energy, which
/// the error of a step that is right in equilibrium forbids them; they would stand still, and be counted.
const BEGINNING_ACCEPTANCE: f64 = 0.4;
/// Blocks after which a stay has begun nevertheless.
const BEGINNING_BLOCKS: u32 = 8;

/// The stay of all chains at one rung.
#[derive(Debug, Clone)]
pub(in crate::estimator) struct Stay {
    pub sweep: u32,
    pub phase: Phase,
    pub rung: usize,
    pub point: Rung,
    /// Blocks so far.
    pub blocks: u32,
    /// Those of them that only adapted what moves the chains.
    pub failed: u32,
    /// Per chain one observation per trajectory, blocks that only adapted the step left out.
    pub observations: Vec<Vec<Observation>>,
    pub acceptance: Vec<f64>,
    pub gradients: u64,
    pub evaluations: u64,
    /// Share of its trajectories that is not counted, from its begin.
    pub burn_in: f64,
    pub step: f64,
    pub diverged: u32,
    pub not_finite: u32,
}

impl Stay {
    pub fn new(sweep: u32, phase: Phase, rung: usize, point: Rung, chains: usize, step: f64) -> Self {
        Self {
            sweep,
            phase,
            rung,
            point,
            blocks: 0,
            failed: 0,
            observations: vec![Vec::new(); chains],
            acceptance: Vec::new(),
            gradients: 0,
            evaluations: 0,
            burn_in: BURN_IN,
            step,
            diverged: 0,
            not_finite: 0,
        }
    }

    /// Trajectories of each chain.
    pub fn length(&self) -> usize {
        self.observations.first().map_or(0, Vec::len)
    }

    /// Whether its trajectories count after one more block of all chains: chains that come from elsewhere may need a shorter step first.
    pub fn has_begun_by(&self, blocks: &[&Block]) -> bool {
        let least = blocks.iter().map(|block| block.acceptance).fold(f64::INFINITY, f64::min);
        self.length() > 0 || self.blocks >= BEGINNING_BLOCKS || least >= BEGINNING_ACCEPTANCE
    }

    /// Takes a block of all chains, made with this step, whose trajectories count or do not.
    pub fn take(&mut self, blocks: &[&Block], step: f64, counts: bool) {
        self.blocks += 1;
        self.failed += u32::from(!counts);
        self.step = step;
        for (chain, block) in blocks.iter().enumerate() {
            self.gradients += block.gradients;
            self.evaluations += block.evaluations;
            self.diverged += block.diverged;
            self.not_finite += block.not_finite;
            if counts {
                self.observations[chain].extend_from_slice(&block.observations);
            }
        }
    }

    /// Per chain one value per counted trajectory.
    pub fn series(&self, value: impl Fn(&Observation) -> f64) -> Vec<Vec<f64>> {
        let skip = (self.burn_in * self.length() as f64).ceil() as usize;
        self.observations.iter().map(|chain| chain.iter().skip(skip).map(&value).collect()).collect()
    }

    /// The derivative with respect to `ln a` at an observation: the combination of pull and stretch with the least variance over the stay. The
    /// pull is the better one where the cost hardly matters, the stretch where it is stiff.
    pub fn derivative(&self) -> impl Fn(&Observation) -> f64 + Copy + use<> {
        let share = self.share_of_stretch();
        move |o| (1.0 - share) * o.pull + share * o.stretch
    }

    fn share_of_stretch(&self) -> f64 {
        let (pull, stretch) = (self.series(|o| o.pull).concat(), self.series(|o| o.stretch).concat());
        let (pull_mean, stretch_mean) = (mean(&pull), mean(&stretch));
        let (mut covariance, mut variance) = (0.0, 0.0);
        for (pull, stretch) in pull.iter().zip(&stretch) {
            let difference = (stretch - stretch_mean) - (pull - pull_mean);
            covariance += (pull - pull_mean) * difference;
            variance += difference * difference;
        }
        if variance > 0.0 { (-covariance / variance).clamp(0.0, 1.0) } else { 0.0 }
    }

    /// Mean of the virial residual, and its standard error: that of independent values of its own scatter at least.
    pub fn virial(&self) -> (f64, f64) {
        let series = self.series(|o| o.virial);
        let count = series.iter().map(Vec::len).sum::<usize>() as f64;
        (mean(&series.concat()), standard_error(&series).max(count.sqrt().recip()))
    }

    pub fn mean(&self, value: impl Fn(&Observation) -> f64) -> f64 {
        let values: Vec<f64> = self.series(value).concat();
        mean(&values)
    }
}
