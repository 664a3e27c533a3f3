//! What is kept in memory, and how the work is spread. The samples do not depend on it.

use std::num::NonZeroUsize;

use basin_volume::estimator::radial::Directions;
use basin_volume::run::driver::Workers;
use basin_volume_models::cost::{CenterOutputs, OnDevice};
use basin_volume_models::memory::{Beside, Plan, size};

use crate::error::Error;
use crate::session::Session;

/// What a job asks for beside the cost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// What is kept beside the cost: preconditioners, gradients, chains.
    pub beside: Beside,
    /// How many gradients are computed at once; none for a cost on rays alone.
    pub gradients: Option<u64>,
    /// Bytes of the vectors of chains, which are where the cost is computed.
    pub vectors: u64,
}

impl Needs {
    /// So many bytes of preconditioners beside a cost on rays.
    #[must_use]
    pub fn rays(bytes: u64) -> Self {
        let advice = "`preconditioner=none` or one that keeps less".to_owned();
        Self { beside: Beside { what: "preconditioners".to_owned(), bytes, advice }, gradients: None, vectors: 0 }
    }

    /// A cost with gradients that take so many bytes.
    #[must_use]
    pub fn gradients(bytes: u64) -> Self {
        Self { beside: Beside { what: "gradients".to_owned(), bytes, advice: String::new() }, gradients: Some(1), vectors: 0 }
    }

    /// A cost with so many gradients at once, so many bytes of vectors where it is computed, and this beside it.
    #[must_use]
    pub fn beside_gradients(beside: Beside, at_once: u64, vectors: u64) -> Self {
        Self { beside, gradients: Some(at_once), vectors }
    }
}

/// What is kept, and how the work is spread.
#[derive(Debug, Clone)]
pub struct Resources {
    /// What becomes of the coordinates of a direction.
    pub directions: Directions,
    /// How rays are spread over threads.
    pub workers: Workers,
    /// For costs that have one, the plan and its forecast.
    pub memory: Option<Plan>,
    /// Bytes that are known to be needed.
    pub needed: u64,
    /// Bytes that may be used.
    pub allowed: u64,
}

impl Resources {
    /// For a cost that fits whatever is done: everything is kept, and small costs are spread over rays.
    #[must_use]
    pub fn automatic(dimension: usize, needs: &Needs, session: &Session) -> Self {
        Self {
            directions: Directions::Kept,
            workers: Workers::automatic(session.threads, dimension),
            memory: None,
            needed: needs.beside.bytes,
            allowed: session.allowed(),
        }
    }

    /// As a plan says.
    #[must_use]
    pub fn planned(plan: Plan, threads: NonZeroUsize) -> Self {
        let rays = NonZeroUsize::new(plan.rays).unwrap_or(NonZeroUsize::MIN);
        let directions = if plan.keep_directions { Directions::Kept } else { Directions::Regenerated };
        let (needed, allowed) = (plan.total(), plan.budget);
        Self { directions, workers: workers(rays, threads), memory: Some(plan), needed, allowed }
    }

    /// What is kept of the center's outputs.
    #[must_use]
    pub fn center_outputs(&self) -> CenterOutputs {
        self.memory.as_ref().map_or(CenterOutputs::Logits, |plan| plan.center_outputs)
    }

    /// What a device that evaluates the cost keeps.
    #[must_use]
    pub fn on_device(&self) -> OnDevice {
        let everything = OnDevice { center_outputs: CenterOutputs::Logits, direction: true };
        self.memory.as_ref().map_or(everything, Plan::on_device)
    }

    /// Refuses what does not fit beside what is planned: `what` needs so many bytes more, and `remedy` says what would help.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn check(&self, what: &str, more: u64, remedy: &str) -> Result<(), Error> {
        let needed = self.needed + more;
        if needed <= self.allowed {
            return Ok(());
        }
        Err(Error::failed(format!("{what} {} of memory but {} may be used: {remedy}", size(needed), size(self.allowed))))
    }
}

/// So many records at once, each with its share of the threads.
#[must_use]
pub fn workers(rays: NonZeroUsize, threads: NonZeroUsize) -> Workers {
    Workers { rays, threads_per_ray: NonZeroUsize::new(threads.get() / rays).unwrap_or(NonZeroUsize::MIN) }
}
