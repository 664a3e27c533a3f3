//! The gradient of the cost of a language model, a few sequences at a time.

use std::ops::Range;

use basin_volume::objective::{Cost, Differentiable, ObjectiveError};
use candle_core::Device;

use super::LanguageModelKl;
use crate::arch::decoder::differentiable::LayerWitness;
use crate::arch::{Center, GradientError, Target, TokenBatch};
use crate::cost::draw::uniforms;
use crate::cost::pool::{give_back, take};

/// Sequences are joined up to this many positions: enough for fast products, few enough that their activations are small.
const POSITIONS: usize = 512;

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
    fn for_joined(&self, parts: Range<usize>, mut visit: impl FnMut(&Joined) -> Result<(), GradientError>) -> Result<(), GradientError> {
        let weight = 1.0 / self.kept as f32;
        let mut joined = Joined::default();
        for part in parts.clone() {
            let sequence = self.tokens.sequence(part);
            let length = self.needed(sequence.kept);
            if !joined.ids.is_empty() && joined.ids.len() + length > POSITIONS {
                visit(&joined)?;
                joined = Joined::default();
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
        if joined.ids.is_empty() { Ok(()) } else { visit(&joined) }
    }

    /// What the center's head reads at every position of all sequences, from the same code as the gradient, so that at the
    /// center the roundings of both agree.
    fn center_states(&self) -> Result<&[f32], GradientError> {
        if let Some(states) = self.center_states.get() {
            return Ok(states);
        }
        let width = self.model.decoder().head_inputs();
        let mut states = vec![0.0f32; self.tokens.ids().len() * width];
        let center = self.moving.center().values();
        let tape = self.model.tape(&center, &Device::Cpu)?;
        self.for_joined(0..self.tokens.count(), |joined| {
            let found = tape.states(&joined.ids, &joined.lengths)?;
            for (found, &place) in found.chunks_exact(width).zip(&joined.places) {
                states[place * width..(place + 1) * width].copy_from_slice(found);
            }
            Ok(())
        })?;
        Ok(self.center_states.get_or_init(|| states))
    }

    fn add_up(
        &self,
        weights: &[f32],
        parts: Range<usize>,
        compared: Compared,
        witness: Option<&LayerWitness>,
        gradient: &mut [f32],
    ) -> Result<f64, GradientError> {
        let decoder = self.model.decoder();
        let center = self.moving.center();
        let (mut head_space, mut bias_space) = (Vec::new(), Vec::new());
        let head = center.slice(decoder.head.weight.clone(), &mut head_space);
        let bias = decoder.head.bias.clone().map(|range| center.slice(range, &mut bias_space));
        let width = decoder.head_inputs();
        let tape = self.model.tape(weights, &Device::Cpu)?.witnessed(witness.cloned());
        gradient.fill(0.0);
        let mut total = 0.0;
        self.for_joined(parts, |joined| {
            let mut batch = TokenBatch { ids: &joined.ids, lengths: &joined.lengths, weights: &joined.weights };
            let (draws, states, labels, signed);
            let target = match compared {
                Compared::Drawn(seed) => {
                    draws = uniforms(seed, joined.places.iter().copied());
                    Target::Drawn(&draws)
                }
                Compared::Signed(seed) => {
                    draws = uniforms(seed, joined.places.iter().copied());
                    let sign = |draw: f64| if draw < 0.5 { -1.0 } else { 1.0 };
                    let weight = |((weight, next), &draw): ((&f32, &Option<u32>), &f64)| next.map_or(0.0, |_| weight * sign(draw));
                    signed = joined.weights.iter().zip(&joined.next).zip(&draws).map(weight).collect::<Vec<f32>>();
                    labels = joined.next.iter().map(|next| next.unwrap_or(0)).collect::<Vec<u32>>();
                    batch.weights = &signed;
                    Target::Labels(&labels)
                }
                Compared::Center => {
                    let all = self.center_states()?;
                    states = joined.places.iter().flat_map(|&place| &all[place * width..(place + 1) * width]).copied().collect::<Vec<_>>();
                    Target::Center(Center { head, bias, states: &states })
                }
            };
            total += tape.add_gradient(batch, target, gradient)?;
            Ok(())
        })?;
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
/// sequences are added in their order. Memory beside the arguments: the weights of the layers and their gradient once each, the activations of
/// up to 512 positions (of one sequence, if it is longer), and the center's final states.
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
