//! What a run of the annealed estimator keeps: where it began, and every block of trajectories of every chain.

use serde::{Deserialize, Serialize};

use crate::run::record::{Record, null_as_infinity};

/// Measured at a chain's state after a trajectory. In the formulas `x = w - c` with `c` where the spring is attached,
/// `g = grad C(w)`, and `a`, `m` of the rung.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// `C(w)`, nats.
    #[serde(with = "null_as_infinity")]
    pub cost: f64,
    /// `beta/2 (x.g - (1-m) c.g)`, nats: its mean is the derivative of the log-volume with respect to `ln a`.
    pub pull: f64,
    /// `a/2 (E_ref|x|^2 - |x|^2)`, nats, with the mean over the Gaussian part alone: its mean is the same derivative.
    pub stretch: f64,
    /// `c.w / c.c` with the objective's center `c`: 1 there, 0 where the chain has forgotten it.
    pub overlap: f64,
    /// `|w - c|^2`.
    pub distance_squared: f64,
    /// `(D - a |w - mc|^2 - beta g.(w - mc)) / sqrt(2 D)`: its mean is zero in equilibrium.
    pub virial: f64,
}

/// Which part of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// From where the answer is known to the density that is wanted.
    Outward,
    /// At the density that is wanted.
    Settle,
    /// The same rungs in the opposite order.
    Inward,
}

impl Phase {
    /// Name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Outward => "outward",
            Self::Settle => "settle",
            Self::Inward => "inward",
        }
    }
}

/// How far a relaxation has come: what it takes to go on, beside the state.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Relaxation {
    /// Trajectories so far.
    pub trajectories: u64,
    /// Those of full length among them.
    pub full: u32,
    /// Inverse temperature of the next one, per nat.
    pub beta: f64,
    /// Radians for each gradient.
    pub step: f64,
    /// Cost of the state, nats.
    pub cost: f64,
    /// `c.w / c.c` with the center `c`.
    pub overlap: f64,
    /// `|w - c|^2`.
    pub distance_squared: f64,
    /// Gradients computed.
    pub gradients: u64,
    /// Costs computed beside them.
    pub evaluations: u64,
    /// Whether the state is where the spring is attached.
    pub is_done: bool,
}

/// Where the ladder begins: `ln E[exp(-beta C)]` over the Gaussian part of the first rung, by independent draws from it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// Beta of the first rung.
    pub beta: f64,
    /// Localization of the first rung.
    pub localization: f64,
    /// `ln E exp(-beta C)`, nats.
    pub log_laplace: f64,
    /// Its standard error, nats.
    pub error: f64,
    /// Mean cost of the draws, nats.
    pub mean_cost: f64,
    /// Mean cost of draws from the prior, nats.
    #[serde(with = "null_as_infinity")]
    pub prior_cost: f64,
    /// Cost evaluations spent.
    pub evaluations: u64,
    /// How the state was found that the spring is attached to; none when that is the center.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<Relaxation>,
}

/// Some trajectories of one chain at one rung.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// Number of the record in the run.
    pub index: u64,
    /// How many times the ladder was run through before.
    pub sweep: u32,
    /// Which part of the sweep.
    pub phase: Phase,
    /// Number of the rung on the ladder, from its known end.
    pub rung: u32,
    /// Number of the block at this rung.
    pub block: u32,
    /// Which chain.
    pub chain: u32,
    /// Inverse temperature, per nat.
    pub beta: f64,
    /// Strength of the spring.
    pub localization: f64,
    /// Radians for each gradient.
    pub step: f64,
    /// Mean probability of acceptance.
    pub acceptance: f64,
    /// Trajectories whose energy ran away.
    pub diverged: u32,
    /// Trajectories that met a cost that is NaN or infinite; the chain went on with half the step.
    pub not_finite: u32,
    /// Gradients computed.
    pub gradients: u64,
    /// Costs computed beside them.
    pub evaluations: u64,
    /// One per trajectory.
    pub observations: Vec<Observation>,
}

/// What a chain has of a block that is not done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnfinishedBlock {
    /// Radians for each gradient of the next trajectory.
    pub step: f64,
    /// Probability of acceptance of every trajectory.
    pub acceptance: Vec<f64>,
    /// As in [`Block`].
    pub diverged: u32,
    /// As in [`Block`].
    pub not_finite: u32,
    /// As in [`Block`].
    pub gradients: u64,
    /// As in [`Block`].
    pub evaluations: u64,
    /// One per trajectory.
    pub observations: Vec<Observation>,
}

impl UnfinishedBlock {
    /// Before the first trajectory.
    pub(super) fn new(step: f64) -> Self {
        Self { step, acceptance: Vec::new(), diverged: 0, not_finite: 0, gradients: 0, evaluations: 0, observations: Vec::new() }
    }
}

/// The numbers of [`AnnealedRecord::Anchor`] begin here, above those of all blocks.
const ANCHORS: u64 = 1 << 52;

/// One line of the run's samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum AnnealedRecord {
    /// The first line.
    Start(Start),
    /// What is known of the first rung when the spring is attached to another state.
    Anchor {
        /// Number of the record in the run.
        index: u64,
        /// That of the first rung of the ladder.
        start: Start,
    },
    /// All others.
    Block(Block),
}

impl From<Block> for AnnealedRecord {
    fn from(block: Block) -> Self {
        Self::Block(block)
    }
}

impl AnnealedRecord {
    /// What is known of the first rung when the spring is attached to state `number`, which is not the first.
    pub(super) fn of_anchor(number: usize, start: Start) -> Self {
        Self::Anchor { index: ANCHORS + number as u64, start }
    }

    /// Where a run began, if it has: for every state that the spring has been attached to.
    pub(super) fn starts_of(records: &[Self]) -> Vec<Start> {
        let mut starts: Vec<(u64, Start)> = records
            .iter()
            .filter_map(|record| match record {
                Self::Start(start) | Self::Anchor { start, .. } => Some((record.index(), *start)),
                Self::Block(_) => None,
            })
            .collect();
        starts.sort_by_key(|(index, _)| *index);
        starts.dedup_by_key(|(index, _)| *index);
        starts.into_iter().map(|(_, start)| start).collect()
    }
}

impl Record for AnnealedRecord {
    fn index(&self) -> u64 {
        match self {
            Self::Start(_) => 0,
            Self::Anchor { index, .. } => *index,
            Self::Block(block) => block.index,
        }
    }
}
