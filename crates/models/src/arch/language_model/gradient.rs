//! Gradients of losses of a language model with respect to all its weights.

use std::ops::Range;

use candle_core::{DType, Device, Tensor, Var};

use super::{LanguageModel, TokenError};
use crate::arch::decoder::differentiable::{Head, HeadGradient, LayerWitness, Sequences, Targets, Tensors, head_loss};
use crate::nn::differentiable::Way;
use crate::parameters::Parameter;

/// Why a gradient could not be computed. Every message is one sentence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GradientError {
    /// The model refuses the tokens.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// Something has another length than tokens or model ask for.
    #[error("{what} has {found} entries: expected {expected}")]
    Length {
        /// What it is.
        what: &'static str,
        /// Its length.
        found: usize,
        /// What is needed.
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
pub(crate) struct TokenBatch<'a> {
    /// Token ids.
    pub ids: &'a [u32],
    /// Lengths of the sequences.
    pub lengths: &'a [usize],
    /// Weight of every position in the loss; 0 leaves it out.
    pub weights: &'a [f32],
}

/// What the outputs are compared with.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target<'a> {
    /// Cross-entropy with one label per position (nats). Labels of positions of weight 0 only have to be in the vocabulary.
    Labels(&'a [u32]),
    /// `KL(center || model)` (nats) from the outputs of the same model with other weights.
    Center(Center<'a>),
    /// Cross-entropy (nats) with labels drawn from the model's own outputs: a number in `[0, 1)` per position, and the label is the first
    /// at which the running sum of the probabilities exceeds it.
    Drawn(&'a [f64]),
}

/// The outputs of the center.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Center<'a> {
    /// Its head's matrix, `[vocabulary, head inputs]`.
    pub head: &'a [f32],
    /// Its head's bias, if the model has one.
    pub bias: Option<&'a [f32]>,
    /// What its head reads at every position, `[positions, head inputs]`, as [`Tape::states`] gives it.
    pub states: &'a [f32],
}

/// A language model with its weights as differentiable tensors on the CPU, for its kernels: computes losses with their gradients, batch
/// after batch. [`super::TensorTape`] is the same on any device.
#[derive(Debug)]
pub(crate) struct Tape<'a> {
    model: &'a LanguageModel,
    weights: &'a [f32],
    /// One tensor per parameter of the layout. The tables (embedding, learned positions, head) are `None`: the flat weights are read
    /// instead.
    variables: Vec<Option<Tensor>>,
    witness: Option<LayerWitness>,
}

/// The states that the head reads, and the rows of the tables that went in, as variables of their own: a table is large and only its used
/// rows have a gradient.
struct Body {
    states: Tensor,
    embedded: Tensor,
    placed: Option<Tensor>,
}

impl LanguageModel {
    /// Weights, flat in the layout's order, as variables. This takes the bytes of the layers (not of embedding and head) once more.
    ///
    /// # Errors
    /// When candle fails.
    ///
    /// # Panics
    /// If `weights` has another length than the layout says.
    pub(crate) fn tape<'a>(&'a self, weights: &'a [f32]) -> Result<Tape<'a>, GradientError> {
        let decoder = &self.decoder;
        let tables = [
            Some(&decoder.embedding),
            decoder.learned_positions.as_ref().map(|(range, _)| range),
            Some(&decoder.head.weight),
            decoder.head.bias.as_ref(),
        ];
        let variable = |(parameter, values): (&Parameter, &[f32])| -> candle_core::Result<Option<Tensor>> {
            if tables.contains(&Some(&parameter.range())) {
                return Ok(None);
            }
            Ok(Some(Var::from_slice(values, parameter.shape.as_slice(), &Device::Cpu)?.into_inner()))
        };
        let variables = self.layout.unflatten(weights).map(variable).collect::<Result<_, _>>()?;
        Ok(Tape { model: self, weights, variables, witness: None })
    }
}

/// Refuses a list that has not one entry per position, or whatever it should have one for.
pub(super) fn fits(what: &'static str, found: usize, expected: usize) -> Result<(), GradientError> {
    if found == expected { Ok(()) } else { Err(GradientError::Length { what, found, expected }) }
}

impl LanguageModel {
    /// Refuses labels that are not in the vocabulary, or not one per position.
    pub(super) fn check_labels(&self, labels: &[u32], positions: usize) -> Result<(), GradientError> {
        fits("the list of labels", labels.len(), positions)?;
        let vocabulary = self.vocabulary();
        match labels.iter().position(|&label| label as usize >= vocabulary) {
            Some(position) => Err(TokenError::Vocabulary { id: labels[position], position, vocabulary }.into()),
            None => Ok(()),
        }
    }

    fn check_batch(&self, batch: TokenBatch<'_>, target: Target<'_>) -> Result<(), GradientError> {
        self.check(batch.ids, batch.lengths)?;
        let positions = batch.ids.len();
        fits("the list of weights", batch.weights.len(), positions)?;
        let head = &self.decoder.head;
        match target {
            Target::Labels(labels) => self.check_labels(labels, positions),
            Target::Center(center) => {
                fits("the center's states", center.states.len(), positions * self.decoder.head_inputs())?;
                fits("the center's head", center.head.len(), head.weight.len())?;
                fits("the center's bias", center.bias.map_or(0, <[f32]>::len), head.bias.as_ref().map_or(0, Range::len))
            }
            Target::Drawn(draws) => fits("the list of draws", draws.len(), positions),
        }
    }
}

impl Tape<'_> {
    /// Shows somebody the inputs and the gradients of the outputs of every dense layer but the head, in every backward pass on the CPU.
    pub(crate) fn witnessed(self, witness: Option<LayerWitness>) -> Self {
        Self { witness, ..self }
    }

    /// The sum over positions of weight times loss, in nats (`f64`); its gradient is added to `gradient`, flat in the layout's order. Not
    /// finite when a logit is not.
    ///
    /// The logits of at most 128 positions exist at once. The activations of the whole batch do: give sequences one by one where memory
    /// is short.
    ///
    /// # Errors
    /// As [`LanguageModel::check`]; when something has another length than the tokens; when candle fails.
    ///
    /// # Panics
    /// If `gradient` has another length than the layout says.
    pub(crate) fn add_gradient(&self, batch: TokenBatch<'_>, target: Target<'_>, gradient: &mut [f32]) -> Result<f64, GradientError> {
        assert_eq!(gradient.len(), self.weights.len(), "one gradient per weight");
        let body = self.forward(batch, target)?;
        let (loss, slopes) = self.head(&body.states, batch, target, Some(&mut *gradient))?;
        // A product with the slopes hands them to candle as the gradient of the states.
        let gradients = (&body.states * slopes)?.sum_all()?.backward()?;
        let cut = |name: &str| GradientError::Cut { name: name.to_owned() };
        let decoder = &self.model.decoder;
        for (parameter, variable) in self.model.layout.parameters().iter().zip(&self.variables) {
            let Some(variable) = variable else { continue };
            let range = parameter.range();
            match gradients.get(variable) {
                Some(tensor) => add(&mut gradient[range], tensor)?,
                None => return Err(cut(&parameter.name)),
            }
        }
        let tensor = gradients.get(&body.embedded).ok_or_else(|| cut("of the embedding"))?;
        let places = batch.ids.iter().map(|&id| id as usize);
        add_rows(&mut gradient[decoder.embedding.clone()], places, decoder.embedding_width, tensor)?;
        if let Some((rows, (range, offset))) = body.placed.as_ref().zip(decoder.learned_positions.as_ref()) {
            let tensor = gradients.get(rows).ok_or_else(|| cut("of the positions"))?;
            let places = batch.lengths.iter().flat_map(|&length| (0..length).map(|place| place + offset));
            add_rows(&mut gradient[range.clone()], places, decoder.hidden, tensor)?;
        }
        Ok(loss)
    }

    /// The loss of [`Tape::add_gradient`] alone.
    ///
    /// # Errors
    /// As [`Tape::add_gradient`].
    pub(crate) fn loss(&self, batch: TokenBatch<'_>, target: Target<'_>) -> Result<f64, GradientError> {
        Ok(self.head(&self.forward(batch, target)?.states, batch, target, None)?.0)
    }

    /// What the head reads at every position, `[positions, head inputs]`: what makes these weights a [`Center`].
    ///
    /// # Errors
    /// As [`LanguageModel::check`]; when candle fails.
    pub(crate) fn states(&self, ids: &[u32], lengths: &[usize]) -> Result<Vec<f32>, GradientError> {
        self.model.check(ids, lengths)?;
        values(&self.body(ids, lengths)?.states)
    }

    fn body(&self, ids: &[u32], lengths: &[usize]) -> Result<Body, GradientError> {
        let decoder = &self.model.decoder;
        let (layout, witness) = (&self.model.layout, self.witness.as_ref());
        let tensors = Tensors { layout, tensors: &self.variables, witness, way: Way::Kernels, taps: None };
        let sequences = Sequences::new(decoder, ids, lengths, &Device::Cpu)?;
        let rows = |range: &Range<usize>, places: &mut dyn Iterator<Item = usize>, width: usize| -> candle_core::Result<Tensor> {
            let table = &self.weights[range.clone()];
            let values: Vec<f32> = places.flat_map(|place| &table[place * width..(place + 1) * width]).copied().collect();
            Ok(Var::from_tensor(&Tensor::from_vec(values, (ids.len(), width), &Device::Cpu)?)?.into_inner())
        };
        let embedded = rows(&decoder.embedding, &mut ids.iter().map(|&id| id as usize), decoder.embedding_width)?;
        let placed = decoder.learned_positions.as_ref().map(|(range, offset)| {
            let mut places = lengths.iter().flat_map(|&length| (0..length).map(|place| place + offset));
            rows(range, &mut places, decoder.hidden)
        });
        let placed = placed.transpose()?;
        let states = decoder.differentiable_states(tensors, &sequences, &embedded, placed.as_ref())?;
        Ok(Body { states, embedded, placed })
    }

    fn forward(&self, batch: TokenBatch<'_>, target: Target<'_>) -> Result<Body, GradientError> {
        self.model.check_batch(batch, target)?;
        self.body(batch.ids, batch.lengths)
    }

    /// Loss, and its gradient with respect to the states; that of the head's weights is added to `gradient`.
    fn head(
        &self,
        states: &Tensor,
        batch: TokenBatch<'_>,
        target: Target<'_>,
        gradient: Option<&mut [f32]>,
    ) -> Result<(f64, Tensor), GradientError> {
        let decoder = &self.model.decoder;
        let width = decoder.head_inputs();
        // Positions that do not count need no logits.
        let counted: Vec<usize> = (0..batch.weights.len()).filter(|&position| batch.weights[position] != 0.0).collect();
        let all = counted.len() == batch.weights.len();
        let rows =
            |values: &[f32]| -> Vec<f32> { counted.iter().flat_map(|&row| &values[row * width..(row + 1) * width]).copied().collect() };
        let flat = values(states)?;
        let (inputs, center_inputs, labels, draws);
        let targets = match target {
            Target::Labels(all) => {
                labels = counted.iter().map(|&position| all[position]).collect::<Vec<_>>();
                Targets::Labels(&labels)
            }
            Target::Drawn(all) => {
                draws = counted.iter().map(|&position| all[position]).collect::<Vec<_>>();
                Targets::Drawn(&draws)
            }
            Target::Center(center) => {
                let head = Head { weight: center.head, bias: center.bias, ..decoder.head_of(self.weights) };
                center_inputs = if all { Vec::new() } else { rows(center.states) };
                Targets::Center(head, if all { center.states } else { &center_inputs })
            }
        };
        let weights: Vec<f32> = counted.iter().map(|&position| batch.weights[position]).collect();
        let inputs_of = if all {
            &flat[..]
        } else {
            inputs = rows(&flat);
            &inputs
        };
        let mut slopes = vec![0.0f32; if gradient.is_some() { inputs_of.len() } else { 0 }];
        let wanted = gradient.is_some();
        let gradient = gradient.map(|gradient| {
            // The bias stands behind the weight in every layout.
            let weight = decoder.head.weight.clone();
            let (first, second) = gradient.split_at_mut(weight.end);
            let bias = decoder.head.bias.clone().map(|range| &mut second[range.start - weight.end..range.end - weight.end]);
            HeadGradient { states: &mut slopes, weight: &mut first[weight], bias }
        });
        let loss = head_loss(decoder.head_of(self.weights), inputs_of, targets, &weights, gradient);
        if !wanted {
            return Ok((loss, states.zeros_like()?));
        }
        if !all {
            let mut full = vec![0.0f32; flat.len()];
            for (slopes, &row) in slopes.chunks_exact(width).zip(&counted) {
                full[row * width..(row + 1) * width].copy_from_slice(slopes);
            }
            slopes = full;
        }
        Ok((loss, Tensor::from_vec(slopes, states.shape(), &Device::Cpu)?))
    }
}

/// Adds the rows of a tensor `[positions, width]` to those of a table, in their order.
fn add_rows(table: &mut [f32], places: impl Iterator<Item = usize>, width: usize, tensor: &Tensor) -> Result<(), GradientError> {
    for (place, row) in places.zip(values(tensor)?.chunks_exact(width)) {
        table[place * width..(place + 1) * width].iter_mut().zip(row).for_each(|(total, value)| *total += value);
    }
    Ok(())
}

fn values(tensor: &Tensor) -> Result<Vec<f32>, GradientError> {
    Ok(tensor.detach().to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?)
}

fn add(target: &mut [f32], tensor: &Tensor) -> Result<(), GradientError> {
    target.iter_mut().zip(values(tensor)?).for_each(|(total, value)| *total += value);
    Ok(())
}
