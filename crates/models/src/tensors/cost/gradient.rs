//! The gradient of the cost, a few sequences at a time, by composed operations on the device.

use std::ops::Range;

use basin_volume::objective::{Cost, Differentiable, ObjectiveError};
use basin_volume::vectors::{Vector, Vectors, View};
use candle_core::{DType, Tensor};

use super::LanguageModelTensorKl;
use super::cut;
use super::weights::DeviceWeights;
use crate::arch::decoder::Watcher;
use crate::arch::{GradientError, TokenBatch};
use crate::cost::joined::{Compared, for_joined, mean_of};
use crate::cost::{CostError, POSITIONS};
use crate::tensors::decoder::Tensors;
use crate::tensors::head::TensorHead;
use crate::tensors::tape::{TensorTape, TensorTarget};

impl LanguageModelTensorKl {
    /// The center's head in the type of the forward pass.
    fn center_head(&self) -> candle_core::Result<TensorHead> {
        let own = self.weights.center(&self.moving, |parameter| self.is_head(parameter))?;
        let tensors = Tensors { layout: self.moving.center().layout(), tensors: &own, taps: None };
        self.model.decoder().tensor_head(tensors)
    }

    /// What the center's head reads at every position of all sequences, `[positions, head inputs]`, from the same code as the gradient, so
    /// that at the center the roundings of both agree.
    fn center_states(&self) -> Result<&Tensor, GradientError> {
        if let Some(states) = self.center_states.get() {
            return Ok(states);
        }
        let center: Vec<Tensor> = self.weights.center(&self.moving, |_| true)?.into_iter().flatten().collect();
        let nothing_moves = vec![false; center.len()];
        let tape = TensorTape::new(&self.model, center, nothing_moves, &self.device)?;
        let shape = (self.tokens.ids().len(), self.model.decoder().head_inputs());
        let all = Tensor::zeros(shape, self.dtype, &self.device)?;
        for_joined(&self.model, &self.tokens, 0..self.tokens.count(), POSITIONS, |joined| {
            let states = tape.states(&joined.ids, &joined.lengths)?;
            let mut first = 0;
            for &length in &joined.lengths {
                all.slice_set(&states.narrow(0, first, length)?.contiguous()?, 0, joined.places[first])?;
                first += length;
            }
            Ok(())
        })?;
        Ok(self.center_states.get_or_init(|| all))
    }

    /// The loss of some parts at moving weights, which are put on the device as `weights` says, and its gradient by tensors.
    fn sum(
        &self,
        weights: impl FnOnce(&DeviceWeights) -> candle_core::Result<Vec<Tensor>>,
        parts: Range<usize>,
        compared: Compared,
        watcher: Option<&Watcher<'_>>,
    ) -> Result<(f64, Vec<Option<Tensor>>), GradientError> {
        self.enter()?;
        if matches!(compared, Compared::Center) {
            // Before the weights are there too.
            self.center_states()?;
        }
        let weights = weights(&self.weights)?;
        let tape = TensorTape::new(&self.model, weights, DeviceWeights::moves(&self.moving), &self.device)?;
        let head = self.center_head()?;
        let (mut total, mut sums): (f64, Vec<Option<Tensor>>) = (0.0, Vec::new());
        for_joined(&self.model, &self.tokens, parts, POSITIONS, |joined| {
            let mut batch = TokenBatch { ids: &joined.ids, lengths: &joined.lengths, weights: &joined.weights };
            let (draws, states, labels, signed);
            let target = match compared {
                Compared::Drawn(seed) => {
                    draws = joined.draws(seed);
                    TensorTarget::Drawn(&draws)
                }
                Compared::Signed(seed) => {
                    (labels, signed) = joined.signed(seed);
                    batch.weights = &signed;
                    TensorTarget::Labels(&labels)
                }
                Compared::Center => {
                    let places: Vec<u32> = joined.places.iter().map(|&place| place as u32).collect();
                    let places = Tensor::from_vec(places, joined.places.len(), &self.device)?;
                    states = self.center_states()?.index_select(&places, 0)?;
                    TensorTarget::Center(&head, &states)
                }
            };
            let (loss, own) = tape.gradient(batch, target, watcher)?;
            total += loss;
            if sums.is_empty() {
                sums = own;
                return Ok(());
            }
            for (sum, own) in sums.iter_mut().zip(own) {
                if let (Some(before), Some(own)) = (sum.take(), own) {
                    *sum = Some((before + own)?);
                }
            }
            Ok(())
        })?;
        Ok((mean_of(total, self.kept), sums))
    }

    fn cost_with(&self, weights: impl FnOnce(&DeviceWeights) -> candle_core::Result<Vec<Tensor>>) -> Result<Cost, ObjectiveError> {
        let positions = self
            .enter()
            .and_then(|()| weights(&self.weights))
            .and_then(|weights| self.positions(&weights.into_iter().map(Some).collect::<Vec<_>>()))
            .map_err(|error| ObjectiveError::new(CostError::from(error)))?;
        Ok(self.mean(&positions))
    }

    pub(crate) fn differentiate(
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
        let (nats, sums) = self.sum(|own| own.with(&self.moving, weights), parts, compared, watcher).map_err(ObjectiveError::new)?;
        if sums.is_empty() {
            gradient.fill(0.0);
            return Ok(nats);
        }
        for tensor in self.moving.tensors() {
            let Some(sum) = &sums[tensor.number] else { continue };
            let values = cut::taken(sum, tensor).and_then(|own| own.to_dtype(DType::F32)?.to_vec1::<f32>()).map_err(ObjectiveError::new)?;
            gradient[tensor.own.range()].copy_from_slice(&values);
        }
        Ok(nats)
    }
}

/// Parts are sequences. Weights and activations are of the forward pass's type; norms, softmax, losses and the sums of gradients are `f32`,
/// those of losses over positions `f64`. The gradients of the sequences are added in their order.
impl Differentiable for LanguageModelTensorKl {
    fn parts(&self) -> usize {
        self.tokens.count()
    }

    fn gradient(&self, weights: &[f32], parts: Range<usize>, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        self.differentiate(weights, parts, Compared::Center, None, gradient)
    }

    fn cost_at(&self, weights: &[f32]) -> Result<Cost, ObjectiveError> {
        assert_eq!(weights.len(), self.moving.dimension(), "as many weights as move");
        self.cost_with(|own| own.with(&self.moving, weights))
    }

    fn vectors(&self) -> &dyn Vectors {
        &self.vectors
    }

    fn gradient_of(&self, weights: View<'_>, gradient: &mut Vector) -> Result<f64, ObjectiveError> {
        let (weights, gradient): (&Tensor, &mut Tensor) = (weights.foreign(), gradient.foreign_mut());
        assert!(weights.elem_count() == self.moving.dimension() && gradient.elem_count() == weights.elem_count(), "as many as move");
        let (nats, sums) =
            self.sum(|own| own.of(&self.moving, weights), 0..self.parts(), Compared::Center, None).map_err(ObjectiveError::new)?;
        for tensor in self.moving.tensors() {
            let Some(sum) = sums.get(tensor.number).and_then(Option::as_ref) else { continue };
            let written = cut::taken(sum, tensor).and_then(|own| gradient.slice_set(&own.to_dtype(DType::F32)?, 0, tensor.own.offset));
            written.map_err(|error| ObjectiveError::new(CostError::from(error)))?;
        }
        Ok(nats)
    }

    fn cost_of(&self, weights: View<'_>) -> Result<Cost, ObjectiveError> {
        self.cost_with(|own| own.of(&self.moving, weights.foreign()))
    }

    fn likelihood_gradient(&self, weights: &[f32], parts: Range<usize>, seed: u64, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        self.differentiate(weights, parts, Compared::Drawn(seed), None, gradient)
    }
}
