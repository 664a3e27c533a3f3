//! What a forward pass needs beside weights and batch: activations that are kept from one pass to the next.

use std::sync::{Mutex, PoisonError};

use super::batch::padded;
use super::{BLOCK, Decoder};

/// Activations of a whole batch; reused from one forward pass to the next.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    pub(super) states: Vec<f32>,
    pub(super) queries: Vec<f32>,
    pub(super) keys: Vec<f32>,
    pub(super) values: Vec<f32>,
    pub(super) outputs: Vec<f32>,
    pub(super) scratch: Mutex<Vec<Scratch>>,
}

/// What one task needs for one block.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) normed: Vec<f32>,
    pub(super) wide: Vec<f32>,
    pub(super) gate: Vec<f32>,
    pub(super) branch: Vec<f32>,
    pub(super) attended: Vec<f32>,
    pub(super) scores: Vec<f32>,
    pub(super) reciprocals: Vec<f32>,
}

impl Workspace {
    /// Bytes of the activations of a batch of `count` positions, sequences up to `longest`, on `threads` threads.
    pub(crate) fn bytes(decoder: &Decoder, count: usize, longest: usize, threads: usize) -> usize {
        let batch = padded(count) * (decoder.hidden + decoder.heads.query_width() + 2 * decoder.heads.key_width() + decoder.head_inputs());
        let scratch = BLOCK * (2 * decoder.hidden + 2 * decoder.widest() + decoder.heads.query_width()) + longest * 64;
        4 * (batch + threads * scratch)
    }

    pub(super) fn with_scratch<T>(&self, decoder: &Decoder, longest: usize, work: impl FnOnce(&mut Scratch) -> T) -> T {
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        let size = |buffer: &mut Vec<f32>, length: usize| buffer.resize(buffer.len().max(length), 0.0);
        size(&mut scratch.normed, decoder.hidden.max(decoder.embedding_width) * BLOCK);
        size(&mut scratch.wide, decoder.widest() * BLOCK);
        size(&mut scratch.gate, decoder.widest() * BLOCK);
        size(&mut scratch.branch, decoder.hidden * BLOCK);
        size(&mut scratch.attended, decoder.heads.query_width() * BLOCK);
        size(&mut scratch.scores, longest * 64);
        size(&mut scratch.reciprocals, 64);
        let result = work(&mut scratch);
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
        result
    }
}
