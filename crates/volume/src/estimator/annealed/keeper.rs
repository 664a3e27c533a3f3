//! Where records and states go.

use super::error::AnnealedError;
use super::record::{AnnealedRecord, Relaxation, UnfinishedBlock};
use crate::run::record::Record;

/// What an interrupt leaves of a block.
#[derive(Debug, Clone, PartialEq)]
pub struct UnfinishedChains {
    /// What is done, of every chain.
    pub done: Vec<UnfinishedBlock>,
    /// Their states, of length `D`.
    pub states: Vec<Vec<f32>>,
}

/// Keeps what a run of chains has found, whose records are `R`. A record counts once the states of its block are kept.
pub trait Keeper<R = AnnealedRecord> {
    /// Keeps the state of every chain after block number `sequence`; `settled` marks states at the wanted density, which are worth
    /// keeping for good. The states after block number `origin` are still needed.
    ///
    /// # Errors
    /// When it can't be written.
    fn keep_states(&mut self, sequence: u64, states: &[&[f32]], settled: bool, origin: Option<u64>) -> Result<(), AnnealedError>;

    /// The states after block number `sequence`, if they are kept.
    ///
    /// # Errors
    /// When they can't be read.
    fn states(&mut self, sequence: u64) -> Result<Option<Vec<Vec<f32>>>, AnnealedError>;

    /// Keeps the records of a block.
    ///
    /// # Errors
    /// When it can't be written.
    fn keep_records(&mut self, records: &[R]) -> Result<(), AnnealedError>;

    /// Keeps what an interrupt leaves of block number `sequence`: of every chain what is done, and its state, in place of what was kept before. Of no use
    /// any more once the records of that block are kept.
    ///
    /// # Errors
    /// When it can't be written.
    fn keep_unfinished(&mut self, sequence: u64, done: &[UnfinishedBlock], states: &[&[f32]]) -> Result<(), AnnealedError>;

    /// What [`Keeper::keep_unfinished`] kept of this block; without it the block begins again, and comes out the same.
    ///
    /// # Errors
    /// When it can't be read.
    fn unfinished(&mut self, sequence: u64) -> Result<Option<UnfinishedChains>, AnnealedError>;

    /// Keeps how far the search of state `number` for the spring has come, and its state, in place of what was kept before.
    ///
    /// # Errors
    /// When it can't be written.
    fn keep_anchor(&mut self, number: usize, progress: &Relaxation, state: &[f32]) -> Result<(), AnnealedError>;

    /// What [`Keeper::keep_anchor`] kept; without it the search begins again, and finds the same.
    ///
    /// # Errors
    /// When it can't be read.
    fn anchor(&mut self, number: usize) -> Result<Option<(Relaxation, Vec<f32>)>, AnnealedError>;
}

/// A keeper that keeps records in memory and no states.
#[derive(Debug)]
pub struct InMemory<R = AnnealedRecord> {
    /// The records so far.
    pub records: Vec<R>,
}

impl<R> Default for InMemory<R> {
    fn default() -> Self {
        Self { records: Vec::new() }
    }
}

impl<R: Record + Clone> Keeper<R> for InMemory<R> {
    fn keep_states(&mut self, _sequence: u64, _states: &[&[f32]], _settled: bool, _origin: Option<u64>) -> Result<(), AnnealedError> {
        Ok(())
    }

    fn states(&mut self, _sequence: u64) -> Result<Option<Vec<Vec<f32>>>, AnnealedError> {
        Ok(None)
    }

    fn keep_records(&mut self, records: &[R]) -> Result<(), AnnealedError> {
        self.records.extend_from_slice(records);
        Ok(())
    }

    fn keep_unfinished(&mut self, _sequence: u64, _done: &[UnfinishedBlock], _states: &[&[f32]]) -> Result<(), AnnealedError> {
        Ok(())
    }

    fn unfinished(&mut self, _sequence: u64) -> Result<Option<UnfinishedChains>, AnnealedError> {
        Ok(None)
    }

    fn keep_anchor(&mut self, _number: usize, _progress: &Relaxation, _state: &[f32]) -> Result<(), AnnealedError> {
        Ok(())
    }

    fn anchor(&mut self, _number: usize) -> Result<Option<(Relaxation, Vec<f32>)>, AnnealedError> {
        Ok(None)
    }
}
