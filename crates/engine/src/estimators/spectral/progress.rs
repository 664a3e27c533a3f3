//! How far recursions have come, while they are on their way.

use std::sync::{Mutex, PoisonError};

use basin_volume::estimator::spectral::SpectralRecord;
use basin_volume::fisher::{FisherError, FisherFactor, FisherMatrix};
use basin_volume::spec::SpectralSpec;

use crate::events::Event;
use crate::session::Session;

/// How far the recursions of a run have come, in products with the Fisher matrix. A recursion that ends before its last step counts as whole then.
pub(super) struct Progress<'a> {
    session: &'a Session,
    /// Products of a recursion that goes to its last step.
    per_record: u64,
    at: Mutex<At>,
}

/// What [`Progress`] has seen.
#[derive(Default)]
struct At {
    /// Recursions that the run is to have, and has.
    total: u64,
    finished: u64,
    /// Products of this session that belong to recursions which are not finished.
    open: u64,
}

impl<'a> Progress<'a> {
    pub fn new(settings: &SpectralSpec, session: &'a Session) -> Self {
        Self { session, per_record: (settings.steps * settings.block).max(1) as u64, at: Mutex::default() }
    }

    /// Changes what was seen, and tells it.
    fn update(&self, change: impl FnOnce(&mut At)) {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut at);
        let total = at.total * self.per_record;
        let done = (at.finished * self.per_record + at.open).min(total);
        self.session.tell(&Event::Records { run: "spectral", noun: "products", done, total });
    }

    pub fn begin(&self, finished: u64, total: u64) {
        self.update(|at| (at.finished, at.total) = (finished, total));
    }

    pub fn finished(&self, record: &SpectralRecord) {
        self.update(|at| {
            at.finished += 1;
            at.open = at.open.saturating_sub(record.products);
        });
    }
}

/// A matrix whose products are counted.
pub(super) struct Counted<'a> {
    pub matrix: &'a dyn FisherMatrix,
    pub progress: &'a Progress<'a>,
}

impl FisherMatrix for Counted<'_> {
    fn dimension(&self) -> usize {
        self.matrix.dimension()
    }

    fn product(&self, v: &[f32], out: &mut [f32]) -> Result<(), FisherError> {
        self.matrix.product(v, out)?;
        self.progress.update(|at| at.open += 1);
        Ok(())
    }

    fn gradients_per_product(&self) -> u64 {
        self.matrix.gradients_per_product()
    }

    fn scratch_bytes(&self) -> u64 {
        self.matrix.scratch_bytes()
    }

    fn held_bytes(&self) -> u64 {
        self.matrix.held_bytes()
    }

    fn factor(&self) -> Option<&dyn FisherFactor> {
        self.matrix.factor()
    }
}
