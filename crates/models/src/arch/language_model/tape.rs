//! Losses and gradients on candle's tape, composed of its own operations: slow, and nothing of it is shared with the reverse pass on slices,
//! whose oracle it is.

use candle_core::{DType, Device, Result, Tensor, Var};

use super::{LanguageModel, TokenBatch};
use crate::arch::decoder::differentiable::{Sequences, TensorHead, TensorTargets, Tensors, head_loss_composed};

/// What the outputs are compared with.
#[derive(Debug, Clone, Copy)]
pub(super) enum TapeTarget<'a> {
    Labels(&'a [u32]),
    Drawn(&'a [f64]),
    /// The same model with these weights.
    Center(&'a [f32]),
}

/// A language model with its weights as differentiable tensors on the CPU.
pub(super) struct Tape<'a> {
    model: &'a LanguageModel,
    variables: Vec<Option<Tensor>>,
    dtype: DType,
}

impl<'a> Tape<'a> {
    pub(super) fn new(model: &'a LanguageModel, weights: &[f32], dtype: DType) -> Result<Self> {
        let variables = model.layout.unflatten(weights).map(|(parameter, values)| {
            let tensor = Tensor::from_slice(values, parameter.shape.as_slice(), &Device::Cpu)?.to_dtype(dtype)?;
            Ok(Some(Var::from_tensor(&tensor)?.into_inner()))
        });
        Ok(Self { model, variables: variables.collect::<Result<_>>()?, dtype })
    }

    fn states(&self, ids: &[u32], lengths: &[usize]) -> Result<Tensor> {
        let decoder = &self.model.decoder;
        let tensors = Tensors { layout: &self.model.layout, tensors: &self.variables, witness: None };
        let sequences = Sequences::new(decoder, ids, lengths, &Device::Cpu)?;
        let embedded = tensors.at(&decoder.embedding)?.index_select(sequences.ids(), 0)?;
        let placed = decoder.learned_positions.as_ref().zip(sequences.places());
        let placed = placed.map(|((range, _), places)| tensors.at(range)?.index_select(places, 0)).transpose()?;
        decoder.differentiable_states(tensors, &sequences, &embedded, placed.as_ref())
    }

    fn head(&self) -> Result<TensorHead> {
        let decoder = &self.model.decoder;
        let tensors = Tensors { layout: &self.model.layout, tensors: &self.variables, witness: None };
        let weight = tensors.at(&decoder.head.weight)?.detach();
        let bias = decoder.head.bias.as_ref().map(|range| Ok::<_, candle_core::Error>(tensors.at(range)?.detach())).transpose()?;
        Ok(TensorHead { weight, bias, cap: decoder.logit_cap.map(f64::from) })
    }

    /// Logits `[positions, vocabulary]`.
    pub(super) fn logits(&self, ids: &[u32], lengths: &[usize]) -> Result<Tensor> {
        self.head()?.logits(&self.states(ids, lengths)?)
    }

    /// The sum over positions of weight times loss (nats) and its gradient, flat in the layout's order.
    pub(super) fn gradient(&self, batch: TokenBatch<'_>, target: TapeTarget<'_>) -> Result<(f64, Vec<f64>)> {
        let head = self.head()?;
        let states = self.states(batch.ids, batch.lengths)?;
        let weights = Tensor::from_slice(batch.weights, batch.weights.len(), &Device::Cpu)?.to_dtype(self.dtype)?;
        let detached = states.detach();
        let labels = |labels: &[u32]| Tensor::from_slice(labels, labels.len(), &Device::Cpu);
        let result = match target {
            TapeTarget::Labels(all) => head_loss_composed(&head, &detached, &TensorTargets::Labels(&labels(all)?), &weights)?,
            TapeTarget::Drawn(draws) => {
                let drawn = labels(&head.draw(&detached, draws)?)?;
                head_loss_composed(&head, &detached, &TensorTargets::Labels(&drawn), &weights)?
            }
            TapeTarget::Center(center) => {
                let center = Tape::new(self.model, center, self.dtype)?;
                let center_states = center.states(batch.ids, batch.lengths)?.detach();
                head_loss_composed(&head, &detached, &TensorTargets::Center(&center.head()?, &center_states), &weights)?
            }
        };
        // A product with the slopes hands them to candle as the gradient of the states.
        let gradients = (&states * &result.states)?.sum_all()?.backward()?;
        let decoder = &self.model.decoder;
        let mut all = vec![0.0; self.model.dimension()];
        let mut add = |range: std::ops::Range<usize>, tensor: &Tensor| -> Result<()> {
            let values = tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
            all[range].iter_mut().zip(values).for_each(|(total, value)| *total += value);
            Ok(())
        };
        for (parameter, variable) in self.model.layout.parameters().iter().zip(self.variables.iter().flatten()) {
            if let Some(tensor) = gradients.get(variable) {
                add(parameter.range(), tensor)?;
            }
        }
        add(decoder.head.weight.clone(), &result.weight)?;
        if let Some((range, bias)) = decoder.head.bias.clone().zip(result.bias.as_ref()) {
            add(range, bias)?;
        }
        Ok((result.loss, all))
    }
}
