//! The gradient of the cost of a language model, a few sequences at a time.

use std::ops::Range;

use basin_volume::objective::{Cost, Differentiable, ObjectiveError};
use basin_volume_data::tokens::TokenSequences;

use super::center::KeptCenter;
use super::{LanguageModelKl, grouped, lengths};
use crate::arch::decoder::Watcher;
use crate::arch::{GradientError, LanguageModel, Sequences, Target, TokenBatch};
use crate::cost::joined::{Compared, Joined, for_joined, mean_of};
use crate::cost::pool::{give_back, take};

/// Buffers of one gradient, for a choice of tensors.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// All weights.
    weights: Vec<f32>,
    /// The gradient with respect to all of them.
    gradient: Vec<f32>,
}

/// Some sequences, ready for the network.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) joined: Joined,
    pub(super) sequences: Sequences,
    /// The number of their first kept position among those of all sequences.
    first: usize,
}

impl LanguageModelKl {
    /// Bytes of one gradient beside cost, weights and gradient, on a pool of this many threads.
    #[must_use]
    pub fn gradient_bytes(model: &LanguageModel, tokens: &TokenSequences, threads: usize) -> u64 {
        model.gradient_bytes(tokens.ids().len(), tokens.longest(), threads) as u64
    }

    /// Some sequences ready for the network, in order; not more at a time than a group of the cost has, so that their positions are its blocks.
    fn prepare(&self, parts: Range<usize>) -> Result<Vec<Prepared>, GradientError> {
        let own = |group: Range<usize>| group.start.max(parts.start)..group.end.min(parts.end);
        self.prepare_groups(grouped(&lengths(&self.tokens)).into_iter().map(own), parts.start, self.model.positions_together())
    }

    /// All sequences, to go through the network together; none where no position counts.
    pub(super) fn prepare_together(&self) -> Result<Option<Prepared>, GradientError> {
        Ok(self.prepare_groups(std::iter::once(0..self.tokens.count()), 0, usize::MAX)?.pop())
    }

    fn prepare_groups(
        &self,
        groups: impl Iterator<Item = Range<usize>>,
        start: usize,
        together: usize,
    ) -> Result<Vec<Prepared>, GradientError> {
        let mut all: Vec<Prepared> = Vec::new();
        let mut first = self.tokens.kept()[..self.tokens.offsets()[start]].iter().filter(|&&kept| kept).count();
        for own in groups {
            for_joined(&self.model, &self.tokens, own, together, |joined| {
                let tokens = TokenBatch { ids: &joined.ids, lengths: &joined.lengths, weights: &joined.weights };
                let sequences = self.model.sequences(tokens)?;
                let count = joined.weights.iter().filter(|&&weight| weight != 0.0).count();
                all.push(Prepared { joined, sequences, first });
                first += count;
                Ok(())
            })?;
        }
        Ok(all)
    }

    fn add_up(
        &self,
        weights: &[f32],
        parts: Range<usize>,
        compared: Compared,
        watcher: Option<&Watcher<'_>>,
        gradient: &mut [f32],
    ) -> Result<f64, GradientError> {
        gradient.fill(0.0);
        let some;
        let all = match self.prepared.get() {
            Some(all) if parts == (0..self.tokens.count()) => all,
            _ => {
                let prepared = self.prepare(parts.clone())?;
                if parts == (0..self.tokens.count()) {
                    self.prepared.get_or_init(|| prepared)
                } else {
                    some = prepared;
                    &some
                }
            }
        };
        let mut space = take(&self.gradients);
        let mut total = 0.0;
        for prepared in all {
            let joined = &prepared.joined;
            let model = &self.model;
            total += match compared {
                Compared::Drawn(seed) => {
                    let target = Target::Drawn(&joined.draws(seed));
                    model.add_gradient(weights, &prepared.sequences, target, watcher, &mut space, gradient)
                }
                Compared::Signed(seed) => {
                    let (labels, signed) = joined.signed(seed);
                    let tokens = TokenBatch { ids: &joined.ids, lengths: &joined.lengths, weights: &signed };
                    model.add_gradient(weights, &model.sequences(tokens)?, Target::Labels(&labels), watcher, &mut space, gradient)
                }
                Compared::Center => {
                    let center = KeptCenter { cost: self, first: prepared.first };
                    model.add_gradient(weights, &prepared.sequences, Target::Center(&center), watcher, &mut space, gradient)
                }
            }?;
        }
        give_back(&self.gradients, space);
        Ok(mean_of(total, self.kept))
    }

    pub(in crate::cost) fn differentiate(
        &self,
        weights: &[f32],
        parts: Range<usize>,
        compared: Compared,
        watcher: Option<&Watcher<'_>>,
        gradient: &mut [f32],
    ) -> Result<f64, ObjectiveError> {
        let dimension = self.moving.dimension();
        assert!(weights.len() == dimension && gradient.len() == dimension, "as many weights and gradients as move");
        assert!(parts.start <= parts.end && parts.end <= self.tokens.count(), "the parts must be among the sequences");
        if self.moving.is_whole() {
            return self.add_up(weights, parts, compared, watcher, gradient).map_err(ObjectiveError::new);
        }
        let mut space = take(&self.spaces);
        self.moving.prepare(&mut space.weights);
        self.moving.scatter(weights, &mut space.weights);
        space.gradient.resize(space.weights.len(), 0.0);
        let result = self.add_up(&space.weights, parts, compared, watcher, &mut space.gradient);
        self.moving.gather(&space.gradient, gradient);
        give_back(&self.spaces, space);
        result.map_err(ObjectiveError::new)
    }
}

/// Parts are sequences. Products and sums are `f32`, but for those of norms, biases and losses, which are `f64`; the gradients of the
/// sequences are added in their order, and the bits are the same on any number of threads. The center's logits are those of the cost: at the
/// center the gradient is exactly zero. Memory beside the arguments: [`LanguageModelKl::gradient_bytes`].
impl Differentiable for LanguageModelKl {
    fn parts(&self) -> usize {
        self.tokens.count()
    }

    fn gradient(&self, weights: &[f32], parts: Range<usize>, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        self.differentiate(weights, parts, Compared::Center, None, gradient)
    }

    fn cost_at(&self, weights: &[f32]) -> Result<Cost, ObjectiveError> {
        assert_eq!(weights.len(), self.moving.dimension(), "as many weights as move");
        Ok(self.at(|all| self.moving.scatter(weights, all), |positions| self.mean(positions)))
    }

    fn likelihood_gradient(&self, weights: &[f32], parts: Range<usize>, seed: u64, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        self.differentiate(weights, parts, Compared::Drawn(seed), None, gradient)
    }
}
