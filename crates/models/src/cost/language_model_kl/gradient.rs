//! The gradient of the cost of a language model, a few sequences at a time.

use std::ops::Range;

use basin_volume::objective::{Cost, Differentiable, ObjectiveError};
use basin_volume_data::tokens::TokenSequences;

use super::center::KeptCenter;
use super::{LanguageModelKl, grouped, lengths};
use crate::arch::decoder::Watcher;
use crate::arch::decoder::differentiable::LayerWitness;
use crate::arch::{GradientError, LanguageModel, Sequences, Target, TokenBatch};
use crate::cost::draw::uniforms;
use crate::cost::pool::{give_back, take};

/// Buffers of one gradient, for a choice of tensors.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// All weights.
    weights: Vec<f32>,
    /// The gradient with respect to all of them.
    gradient: Vec<f32>,
}

/// Some sequences, cut behind the positions that go through the network.
#[derive(Debug, Default)]
struct Joined {
    ids: Vec<u32>,
    lengths: Vec<usize>,
    weights: Vec<f32>,
    /// The positions among those of all sequences.
    places: Vec<usize>,
    /// The token that follows, where there is one.
    next: Vec<Option<u32>>,
}

/// The same, ready for the network.
#[derive(Debug)]
pub(super) struct Prepared {
    joined: Joined,
    sequences: Sequences,
    /// The number of their first kept position among those of all sequences.
    first: usize,
}

/// What the outputs are compared with.
#[derive(Debug, Clone, Copy)]
pub(super) enum Compared {
    /// The center's outputs.
    Center,
    /// Labels drawn with this seed.
    Drawn(u64),
    /// The next tokens, every position with a sign drawn with this seed.
    Signed(u64),
}

impl LanguageModelKl {
    /// Bytes of one gradient beside cost, weights and gradient, on a pool of this many threads.
    #[must_use]
    pub fn gradient_bytes(model: &LanguageModel, tokens: &TokenSequences, threads: usize) -> u64 {
        model.gradient_bytes(tokens.ids().len(), tokens.longest(), threads) as u64
    }

    /// How many of a sequence's positions go through the network: up to the last kept one. Nothing behind it matters to what is before,
    /// unless the model turns its positions by the length of the sequence.
    pub(super) fn needed(&self, kept: &[bool]) -> usize {
        match kept.iter().rposition(|&kept| kept) {
            None => 0,
            Some(_) if self.model.decoder().depends_on_length() => kept.len(),
            Some(last) => last + 1,
        }
    }

    /// Calls `visit` with some sequences after the other, in order; sequences without a kept position are left out.
    fn for_joined(&self, parts: Range<usize>, mut visit: impl FnMut(Joined) -> Result<(), GradientError>) -> Result<(), GradientError> {
        let (weight, together) = (1.0 / self.kept as f32, self.model.positions_together());
        let mut joined = Joined::default();
        for part in parts {
            let sequence = self.tokens.sequence(part);
            let length = self.needed(sequence.kept);
            if !joined.ids.is_empty() && joined.ids.len() + length > together {
                visit(std::mem::take(&mut joined))?;
            }
            if length > 0 {
                joined.ids.extend(&sequence.ids[..length]);
                joined.weights.extend(sequence.kept[..length].iter().map(|&kept| if kept { weight } else { 0.0 }));
                joined.lengths.push(length);
                let first = self.tokens.offsets()[part];
                joined.places.extend(first..first + length);
                joined.next.extend((0..length).map(|place| sequence.ids.get(place + 1).copied()));
            }
        }
        if joined.ids.is_empty() { Ok(()) } else { visit(joined) }
    }

    /// Some sequences ready for the network, in order; not more at a time than a group of the cost has, so that their positions are its blocks.
    fn prepare(&self, parts: Range<usize>) -> Result<Vec<Prepared>, GradientError> {
        let mut all: Vec<Prepared> = Vec::new();
        let mut first = self.tokens.kept()[..self.tokens.offsets()[parts.start]].iter().filter(|&&kept| kept).count();
        for group in grouped(&lengths(&self.tokens)) {
            let own = group.start.max(parts.start)..group.end.min(parts.end);
            self.for_joined(own, |joined| {
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
        witness: Option<&LayerWitness>,
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
        let watcher = witness.map(|witness| &*witness.0 as &Watcher<'_>);
        let mut space = take(&self.gradients);
        let mut total = 0.0;
        for prepared in all {
            let joined = &prepared.joined;
            let draws = |seed: u64| uniforms(seed, joined.places.iter().copied());
            let model = &self.model;
            total += match compared {
                Compared::Drawn(seed) => {
                    let target = Target::Drawn(&draws(seed));
                    model.add_gradient(weights, &prepared.sequences, target, watcher, &mut space, gradient)
                }
                Compared::Signed(seed) => {
                    let sign = |draw: f64| if draw < 0.5 { -1.0 } else { 1.0 };
                    let weight = |((weight, next), draw): ((&f32, &Option<u32>), f64)| next.map_or(0.0, |_| weight * sign(draw));
                    let signed: Vec<f32> = joined.weights.iter().zip(&joined.next).zip(draws(seed)).map(weight).collect();
                    let labels: Vec<u32> = joined.next.iter().map(|next| next.unwrap_or(0)).collect();
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
        // The weights of the positions are 1/N rounded to f32.
        Ok(total / (f64::from(1.0 / self.kept as f32) * self.kept as f64))
    }

    pub(super) fn differentiate(
        &self,
        weights: &[f32],
        parts: Range<usize>,
        compared: Compared,
        witness: Option<&LayerWitness>,
        gradient: &mut [f32],
    ) -> Result<f64, ObjectiveError> {
        let dimension = self.moving.dimension();
        assert!(weights.len() == dimension && gradient.len() == dimension, "as many weights and gradients as move");
        assert!(parts.start <= parts.end && parts.end <= self.tokens.count(), "the parts must be among the sequences");
        if self.moving.is_whole() {
            return self.add_up(weights, parts, compared, witness, gradient).map_err(ObjectiveError::new);
        }
        let mut space = take(&self.spaces);
        self.moving.prepare(&mut space.weights);
        self.moving.scatter(weights, &mut space.weights);
        space.gradient.resize(space.weights.len(), 0.0);
        let result = self.add_up(&space.weights, parts, compared, witness, &mut space.gradient);
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
