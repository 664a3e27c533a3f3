//! The gradient of the cost of a language model, a few sequences at a time.

use std::ops::Range;

use basin_volume::objective::{Cost, Differentiable, ObjectiveError};

use super::LanguageModelKl;
use crate::arch::decoder::differentiable::LayerWitness;
use crate::arch::{Center, GradientError, Target, TokenBatch};
use crate::cost::joined::{Compared, for_joined, mean_of};
use crate::cost::pool::{give_back, take};

/// Buffers of one gradient, for a choice of tensors.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// All weights.
    weights: Vec<f32>,
    /// The gradient with respect to all of them.
    gradient: Vec<f32>,
}

impl LanguageModelKl {
    /// What the center's head reads at every position of all sequences, from the same code as the gradient, so that at the
    /// center the roundings of both agree.
    fn center_states(&self) -> Result<&[f32], GradientError> {
        if let Some(states) = self.center_states.get() {
            return Ok(states);
        }
        let width = self.model.decoder().head_inputs();
        let mut states = vec![0.0f32; self.tokens.ids().len() * width];
        let center = self.moving.center().values();
        let tape = self.model.tape(&center)?;
        for_joined(&self.model, &self.tokens, 0..self.tokens.count(), |joined| {
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
        let tape = self.model.tape(weights)?.witnessed(witness.cloned());
        gradient.fill(0.0);
        let mut total = 0.0;
        for_joined(&self.model, &self.tokens, parts, |joined| {
            let mut batch = TokenBatch { ids: &joined.ids, lengths: &joined.lengths, weights: &joined.weights };
            let (draws, states, labels, signed);
            let target = match compared {
                Compared::Drawn(seed) => {
                    draws = joined.draws(seed);
                    Target::Drawn(&draws)
                }
                Compared::Signed(seed) => {
                    (labels, signed) = joined.signed(seed);
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
        Ok(mean_of(total, self.kept))
    }

    pub(in crate::cost) fn differentiate(
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
