//! Gradients of losses of a language model with respect to all its weights.

use candle_core::{DType, Device, Tensor, Var};

use super::{LanguageModel, TokenError};
use crate::arch::decoder::differentiable::{
    HeadGradient, Sequences, Targets, TensorHead, TensorTargets, Tensors, has_kernels, head_loss, head_loss_composed,
};

/// Why a gradient could not be computed. Every message is one sentence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GradientError {
    /// The model refuses the tokens.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// Something per position has another length than the tokens.
    #[error("{what} has {found} entries for {expected} positions")]
    Positions {
        /// What it is.
        what: &'static str,
        /// Its length.
        found: usize,
        /// Number of positions.
        expected: usize,
    },
    /// An operation without a gradient stands between a tensor and the loss.
    #[error("no gradient reaches the tensor {name}: an operation on its way has none")]
    Cut {
        /// The tensor's name.
        name: String,
    },
    /// candle failed.
    #[error("a tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// Sequences of tokens, one after the other.
#[derive(Debug, Clone, Copy)]
pub struct TokenBatch<'a> {
    /// Token ids.
    pub ids: &'a [u32],
    /// Lengths of the sequences.
    pub lengths: &'a [usize],
    /// Weight of every position in the loss; 0 leaves it out.
    pub weights: &'a [f32],
}

/// What the outputs are compared with.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// Cross-entropy with one label per position (nats). Labels of positions of weight 0 only have to be in the vocabulary.
    Labels(&'a [u32]),
    /// `KL(center || model)` (nats) from the outputs of the same model with other weights.
    Center(Center<'a>),
}

/// The outputs of the center.
#[derive(Debug, Clone, Copy)]
pub struct Center<'a> {
    /// All its weights, flat.
    pub weights: &'a [f32],
    /// What its head reads at every position, `[positions, head inputs]`, as [`Tape::states`] gives it.
    pub states: &'a [f32],
}

/// A language model with its weights as differentiable tensors on a device: computes losses with their gradients, batch after batch.
#[derive(Debug)]
pub struct Tape<'a> {
    model: &'a LanguageModel,
    weights: &'a [f32],
    device: Device,
    dtype: DType,
    variables: Vec<Tensor>,
}

impl LanguageModel {
    /// Puts weights, flat in the layout's order, on a device as `f32`. On the CPU this takes their bytes once more.
    ///
    /// # Errors
    /// When the device fails.
    ///
    /// # Panics
    /// If `weights` has another length than the layout says.
    pub fn tape<'a>(&'a self, weights: &'a [f32], device: &Device) -> Result<Tape<'a>, GradientError> {
        self.tape_in(weights, device, DType::F32)
    }

    pub(super) fn tape_in<'a>(&'a self, weights: &'a [f32], device: &Device, dtype: DType) -> Result<Tape<'a>, GradientError> {
        let variable = |(parameter, values): (&crate::parameters::Parameter, &[f32])| -> candle_core::Result<Tensor> {
            let tensor = Tensor::from_slice(values, parameter.shape.as_slice(), device)?.to_dtype(dtype)?;
            Ok(Var::from_tensor(&tensor)?.into_inner())
        };
        let variables = self.layout.unflatten(weights).map(variable).collect::<Result<_, _>>()?;
        Ok(Tape { model: self, weights, device: device.clone(), dtype, variables })
    }
}

impl Tape<'_> {
    /// The sum over positions of weight times loss, in nats (`f64`); its gradient is added to `gradient`, flat in the layout's order. Not
    /// finite when a logit is not.
    ///
    /// The logits of at most 128 positions exist at once. The activations of the whole batch do: give sequences one by one where memory
    /// is short.
    ///
    /// # Errors
    /// As [`LanguageModel::check`]; when something per position has another length; when candle fails.
    ///
    /// # Panics
    /// If `gradient` has another length than the layout says.
    pub fn add_gradient(&self, batch: TokenBatch<'_>, target: Target<'_>, gradient: &mut [f32]) -> Result<f64, GradientError> {
        assert_eq!(gradient.len(), self.weights.len(), "one gradient per weight");
        let states = self.forward(batch, target)?;
        let (loss, slopes) = if has_kernels(&self.device, self.dtype) {
            self.kernel_head(&states, batch, target, Some(gradient))?
        } else {
            self.composed_head(&states, batch, target, Some(gradient))?
        };
        // A product with the slopes hands them to candle as the gradient of the states.
        let gradients = (&states * slopes)?.sum_all()?.backward()?;
        let head = &self.model.decoder.head;
        for (parameter, variable) in self.model.layout.parameters().iter().zip(&self.variables) {
            let range = parameter.range();
            let Some(tensor) = gradients.get(variable) else {
                if range == head.weight || Some(&range) == head.bias.as_ref() {
                    continue;
                }
                return Err(GradientError::Cut { name: parameter.name.clone() });
            };
            add(&mut gradient[range], tensor)?;
        }
        Ok(loss)
    }

    /// The loss of [`Tape::add_gradient`] alone.
    ///
    /// # Errors
    /// As [`Tape::add_gradient`].
    pub fn loss(&self, batch: TokenBatch<'_>, target: Target<'_>) -> Result<f64, GradientError> {
        let states = self.forward(batch, target)?;
        let (loss, _) = if has_kernels(&self.device, self.dtype) {
            self.kernel_head(&states, batch, target, None)?
        } else {
            self.composed_head(&states, batch, target, None)?
        };
        Ok(loss)
    }

    /// What the head reads at every position, `[positions, head inputs]`: what makes these weights a [`Center`].
    ///
    /// # Errors
    /// As [`LanguageModel::check`]; when candle fails.
    pub fn states(&self, ids: &[u32], lengths: &[usize]) -> Result<Vec<f32>, GradientError> {
        self.model.check(ids, lengths)?;
        values(&self.body(ids, lengths)?)
    }

    /// Logits `[positions, vocabulary]` of sequences one after the other in `ids`. For short sequences: they are all there at once.
    ///
    /// # Errors
    /// As [`LanguageModel::check`]; when candle fails.
    pub fn logits(&self, ids: &[u32], lengths: &[usize]) -> Result<Tensor, GradientError> {
        self.model.check(ids, lengths)?;
        Ok(self.model.decoder.differentiable_logits(self.tensors(), &self.body(ids, lengths)?)?)
    }

    fn tensors(&self) -> Tensors<'_> {
        Tensors { layout: &self.model.layout, tensors: &self.variables }
    }

    fn body(&self, ids: &[u32], lengths: &[usize]) -> Result<Tensor, GradientError> {
        let sequences = Sequences::new(&self.model.decoder, ids, lengths, &self.device)?;
        Ok(self.model.decoder.differentiable_states(self.tensors(), &sequences)?)
    }

    fn forward(&self, batch: TokenBatch<'_>, target: Target<'_>) -> Result<Tensor, GradientError> {
        self.model.check(batch.ids, batch.lengths)?;
        let positions = batch.ids.len();
        let fits = |what, found, expected| if found == expected { Ok(()) } else { Err(GradientError::Positions { what, found, expected }) };
        fits("the list of weights", batch.weights.len(), positions)?;
        match target {
            Target::Labels(labels) => {
                fits("the list of labels", labels.len(), positions)?;
                let vocabulary = self.model.vocabulary();
                if let Some(position) = labels.iter().position(|&label| label as usize >= vocabulary) {
                    return Err(TokenError::Vocabulary { id: labels[position], position, vocabulary }.into());
                }
            }
            Target::Center(center) => {
                fits("the center's states", center.states.len(), positions * self.model.decoder.head_inputs())?;
                fits("the center", center.weights.len(), self.weights.len())?;
            }
        }
        self.body(batch.ids, batch.lengths)
    }

    /// Loss, and its gradient with respect to the states; that of the head's weights is added to `gradient`.
    fn kernel_head(
        &self,
        states: &Tensor,
        batch: TokenBatch<'_>,
        target: Target<'_>,
        gradient: Option<&mut [f32]>,
    ) -> Result<(f64, Tensor), GradientError> {
        let decoder = &self.model.decoder;
        let flat = values(states)?;
        let targets = match target {
            Target::Labels(labels) => Targets::Labels(labels),
            Target::Center(center) => Targets::Center(decoder.head_of(center.weights), center.states),
        };
        let mut slopes = vec![0.0f32; if gradient.is_some() { flat.len() } else { 0 }];
        let gradient = gradient.map(|gradient| {
            // The bias stands behind the weight in every layout.
            let weight = decoder.head.weight.clone();
            let (first, second) = gradient.split_at_mut(weight.end);
            let bias = decoder.head.bias.clone().map(|range| &mut second[range.start - weight.end..range.end - weight.end]);
            HeadGradient { states: &mut slopes, weight: &mut first[weight], bias }
        });
        let loss = head_loss(decoder.head_of(self.weights), &flat, targets, batch.weights, gradient);
        let slopes = if slopes.is_empty() { states.zeros_like()? } else { Tensor::from_vec(slopes, states.shape(), &self.device)? };
        Ok((loss, slopes))
    }

    fn composed_head(
        &self,
        states: &Tensor,
        batch: TokenBatch<'_>,
        target: Target<'_>,
        gradient: Option<&mut [f32]>,
    ) -> Result<(f64, Tensor), GradientError> {
        let (decoder, device) = (&self.model.decoder, &self.device);
        let head = &decoder.head;
        let cap = decoder.logit_cap.map(f64::from);
        let own = |range| self.tensors().at(range).map(Tensor::detach);
        let head_of = TensorHead { weight: own(&head.weight)?, bias: head.bias.as_ref().map(own).transpose()?, cap };
        let upload = |values: &[f32], shape: &[usize]| Tensor::from_slice(values, shape, device)?.to_dtype(self.dtype);
        let weights = upload(batch.weights, &[batch.weights.len()])?;
        let states = states.detach();
        let result = match target {
            Target::Labels(labels) => {
                let labels = Tensor::from_slice(labels, labels.len(), device)?;
                head_loss_composed(&head_of, &states, &TensorTargets::Labels(&labels), &weights)?
            }
            Target::Center(center) => {
                let range = head.weight.clone();
                let weight = upload(&center.weights[range], &[decoder.vocabulary, decoder.head_inputs()])?;
                let bias = head.bias.clone().map(|range| upload(&center.weights[range], &[decoder.vocabulary])).transpose()?;
                let other = upload(center.states, states.dims())?;
                head_loss_composed(&head_of, &states, &TensorTargets::Center(&TensorHead { weight, bias, cap }, &other), &weights)?
            }
        };
        if let Some(gradient) = gradient {
            add(&mut gradient[head.weight.clone()], &result.weight)?;
            if let Some((range, bias)) = head.bias.clone().zip(result.bias.as_ref()) {
                add(&mut gradient[range], bias)?;
            }
        }
        Ok((result.loss, result.states))
    }
}

fn values(tensor: &Tensor) -> Result<Vec<f32>, GradientError> {
    Ok(tensor.detach().to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?)
}

fn add(target: &mut [f32], tensor: &Tensor) -> Result<(), GradientError> {
    target.iter_mut().zip(values(tensor)?).for_each(|(total, value)| *total += value);
    Ok(())
}
