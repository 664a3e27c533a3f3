//! What a job tells while it works: the one channel to whoever watches.

use std::path::Path;

use basin_volume::estimator::annealed::{AnnealedEstimate, Relaxation};
use basin_volume::estimator::llc::LlcEstimate;
use basin_volume::estimator::radial::Sample;

/// Watches a job. Called from the thread that drives it, never from several at once.
pub trait Observer: Send {
    /// Something happened.
    fn event(&mut self, event: &Event<'_>);
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&mut self, _event: &Event<'_>) {}
}

/// Something that happened.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A line for a person.
    Note(&'a str),
    /// The folder that the runs will be in.
    Folder(&'a Path),
    /// So many bytes of a file have arrived.
    Download {
        /// Its name.
        file: &'a str,
        /// Bytes here.
        done: u64,
        /// Bytes of the whole file.
        total: u64,
    },
    /// A training has come so far.
    Training {
        /// Steps done.
        step: usize,
        /// Steps of the whole training.
        total: usize,
        /// Mean loss of the last step's batch, nats.
        loss: f64,
    },
    /// Something else than steps of a training begins: reading, training a tokenizer.
    TrainingPhase(&'a str),
    /// The computation of a curvature has come so far.
    Curvature {
        /// Its name.
        kind: &'a str,
        /// Steps done.
        done: usize,
        /// Steps of the whole computation.
        total: usize,
    },
    /// A run of rays was opened.
    RaysOpened {
        /// What tells the run from others of its group.
        run: &'a str,
        /// What is in its folder already.
        present: &'a [Sample],
        /// Rays that it is to have.
        total: u64,
    },
    /// A ray is on disk.
    Ray(&'a Sample),
    /// A run has come so far.
    Records {
        /// What tells the run from others.
        run: &'a str,
        /// What is counted: `products`.
        noun: &'a str,
        /// Done so far.
        done: u64,
        /// Of so many, at most.
        total: u64,
    },
    /// A run of chains was opened, in whose folder there are so many records already.
    ChainsOpened {
        /// How many.
        present: usize,
    },
    /// A chain looks for a typical state.
    Relaxation(&'a Relaxation),
    /// A block of a ladder is on disk; this is what follows from all of them.
    Ladder(&'a AnnealedEstimate),
    /// Blocks of chains at one temperature are on disk; this is the learning coefficient that follows from all of them.
    LearningCoefficient(&'a LlcEstimate),
    /// What counted last is over.
    Done,
}
