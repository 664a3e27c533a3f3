//! What a run keeps: the cost at the center, and every block of trajectories of every chain.

use serde::{Deserialize, Serialize};

use crate::estimator::annealed::Block;
use crate::run::record::{Record, null_as_infinity};

/// The cost at the center.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CenterCost {
    /// `C(c)`, nats.
    #[serde(with = "null_as_infinity")]
    pub cost: f64,
}

/// One line of the run's samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum LlcRecord {
    /// The first line.
    Center(CenterCost),
    /// All others. `beta` is `n_beta`; outward is the warm-up, and settled what follows.
    Block(Block),
}

impl LlcRecord {
    /// The cost at the center, if it is known already.
    pub(super) fn center_of(records: &[Self]) -> Option<f64> {
        records.iter().find_map(|record| if let Self::Center(center) = record { Some(center.cost) } else { None })
    }
}

impl From<Block> for LlcRecord {
    fn from(block: Block) -> Self {
        Self::Block(block)
    }
}

impl Record for LlcRecord {
    fn index(&self) -> u64 {
        match self {
            Self::Center(_) => 0,
            Self::Block(block) => block.index,
        }
    }
}
