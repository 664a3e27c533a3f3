//! The decoder: the same network as the forward pass and the reference of [`crate::arch::decoder`], `[positions, features]`, the sequences
//! one after the other.

use std::cell::RefCell;
use std::ops::Range;

use candle_core::{Device, Result, Tensor, Var};

use super::head::TensorHead;
use super::operations::{self, Angles, Packing, activation};
use crate::arch::decoder::{Decoder, Inner, Layer, Linear, Norm, Projection, Rotary};
use crate::nn::attention::AttentionShape;
use crate::parameters::ParameterLayout;

/// One tensor per parameter of a layout, found by their place in the flat weights.
#[derive(Clone, Copy)]
pub(crate) struct Tensors<'a> {
    pub(crate) layout: &'a ParameterLayout,
    /// `None` for tables that are read from the flat weights.
    pub(crate) tensors: &'a [Option<Tensor>],
    /// Keeps what passes through the dense layers.
    pub(crate) taps: Option<&'a Taps>,
}

/// What passed through the dense layers of a composed network: inputs and outputs of each, whose gradients there are after the backward pass.
#[derive(Default)]
pub(crate) struct Taps(RefCell<Vec<Tap>>);

/// One dense layer.
pub(crate) struct Tap {
    /// Where its weight begins in the flat weights.
    pub(crate) place: usize,
    /// `[positions, inputs]`.
    pub(crate) inputs: Tensor,
    /// Zeros that were added to the outputs `[positions, outputs]`: their gradient is that of the outputs.
    pub(crate) outputs: Tensor,
}

impl Taps {
    /// All layers that were passed.
    pub(crate) fn into_layers(self) -> Vec<Tap> {
        self.0.into_inner()
    }

    fn keep(&self, place: usize, inputs: &Tensor, outputs: &Tensor) -> Result<Tensor> {
        let zeros = Var::from_tensor(&outputs.zeros_like()?)?.into_inner();
        let sum = (outputs + &zeros)?;
        self.0.borrow_mut().push(Tap { place, inputs: inputs.detach(), outputs: zeros });
        Ok(sum)
    }
}

impl<'a> Tensors<'a> {
    pub(crate) fn at(self, range: &Range<usize>) -> Result<&'a Tensor> {
        let found = self.layout.parameters().binary_search_by_key(&range.start, |parameter| parameter.offset);
        found
            .ok()
            .and_then(|index| self.tensors.get(index)?.as_ref())
            .ok_or_else(|| candle_core::Error::Msg("a parameter is missing".to_owned()))
    }

    fn optional(self, range: Option<&Range<usize>>) -> Result<Option<&'a Tensor>> {
        range.map(|range| self.at(range)).transpose()
    }
}

/// Sequences with everything about them that does not depend on the weights.
pub(crate) struct Sequences {
    ids: Tensor,
    /// Rows of the learned positions.
    places: Option<Tensor>,
    lengths: Vec<usize>,
    /// One for each of the decoder's rotations.
    angles: Vec<Angles>,
}

impl Sequences {
    /// Sequences of the given lengths, one after the other in `ids`.
    pub(crate) fn new(decoder: &Decoder, ids: &[u32], lengths: &[usize], device: &Device) -> Result<Self> {
        let places = || lengths.iter().flat_map(|&length| 0..length);
        let rows = |offset: usize| -> Result<Tensor> {
            let rows: Vec<u32> = places().map(|place| (place + offset) as u32).collect();
            Tensor::from_vec(rows, ids.len(), device)
        };
        let angles = |rotary: &Rotary| {
            let mut angles = Vec::with_capacity(ids.len() * rotary.width / 2);
            for &length in lengths {
                let frequencies = rotary.frequencies(length);
                // The angle is rounded to f32 as the models' own code does.
                angles.extend((0..length).flat_map(|place| frequencies.iter().map(move |frequency| f64::from(place as f32 * frequency))));
            }
            Angles { pairs: rotary.width / 2, factor: rotary.factor, angles }
        };
        Ok(Self {
            ids: Tensor::from_slice(ids, ids.len(), device)?,
            places: decoder.learned_positions.as_ref().map(|(_, offset)| rows(*offset)).transpose()?,
            lengths: lengths.into(),
            angles: decoder.rotaries.iter().map(angles).collect(),
        })
    }
}

impl Decoder {
    /// What the head reads at every position, `[positions, head_inputs]`.
    pub(super) fn tensor_states(&self, tensors: Tensors<'_>, sequences: &Sequences) -> Result<Tensor> {
        let mut states = scaled(tensors.at(&self.embedding)?.index_select(&sequences.ids, 0)?, self.embedding_scale)?;
        if let Some(project) = &self.project_in {
            states = linear(project, tensors, &states)?;
        }
        if let Some(((range, _), places)) = self.learned_positions.as_ref().zip(sequences.places.as_ref()) {
            states = (states + tensors.at(range)?.index_select(places, 0)?)?;
        }
        for layer in &self.layers {
            states = self.tensor_layer(layer, tensors, sequences, &states)?;
        }
        states = norm(self.final_norm.as_ref(), tensors, &states)?;
        if let Some(project) = &self.project_out {
            states = linear(project, tensors, &states)?;
        }
        scaled(states, self.output_scale)
    }

    /// The head among the tensors.
    pub(crate) fn tensor_head(&self, tensors: Tensors<'_>) -> Result<TensorHead> {
        let weight = tensors.at(&self.head.weight)?.clone();
        let bias = tensors.optional(self.head.bias.as_ref())?.cloned();
        Ok(TensorHead { weight, bias, cap: self.logit_cap.map(f64::from) })
    }

    /// One layer.
    fn tensor_layer(&self, layer: &Layer, tensors: Tensors<'_>, sequences: &Sequences, states: &Tensor) -> Result<Tensor> {
        let normed = norm(layer.before_attention.as_ref(), tensors, states)?;
        let attended = self.attend(layer, tensors, sequences, &normed)?;
        let branch = scaled(linear(&layer.attention.output, tensors, &attended)?, self.branch_scale)?;
        let after = join(layer, layer.after_attention.as_ref(), tensors, states, &branch)?;
        let normed = norm(layer.before_mlp.as_ref(), tensors, if layer.parallel { states } else { &after })?;
        let inner = match &layer.inner {
            Inner::Plain(up) => activation(layer.activation, &linear(up, tensors, &normed)?)?,
            Inner::Gated { gate, up } => {
                let up = linear(up, tensors, &normed)?;
                (activation(layer.activation, &linear(gate, tensors, &normed)?)? * up)?
            }
            Inner::Stacked(all) => {
                let (all, width) = (linear(all, tensors, &normed)?, all.outputs / 2);
                (activation(layer.activation, &all.narrow(1, 0, width)?)? * all.narrow(1, width, width)?)?
            }
        };
        let branch = scaled(linear(&layer.down, tensors, &inner)?, self.branch_scale)?;
        join(layer, layer.after_mlp.as_ref(), tensors, &after, &branch)
    }

    fn attend(&self, layer: &Layer, tensors: Tensors<'_>, sequences: &Sequences, inputs: &Tensor) -> Result<Tensor> {
        let attention = &layer.attention;
        let shape = AttentionShape {
            heads: self.heads.queries,
            key_value_heads: self.heads.keys,
            width: self.heads.width,
            scale: attention.scale,
            cap: attention.cap,
            window: attention.window,
        };
        let (packing, mut sources) = match &attention.projection {
            Projection::Separate { query, key, value } => {
                (Packing::Separate, vec![linear(query, tensors, inputs)?, linear(key, tensors, inputs)?, linear(value, tensors, inputs)?])
            }
            Projection::Stacked(all) => (Packing::Stacked, vec![linear(all, tensors, inputs)?]),
            Projection::Interleaved(all) => (Packing::Interleaved, vec![linear(all, tensors, inputs)?]),
        };
        let norms = [attention.query_norm.as_ref(), attention.key_norm.as_ref()];
        if norms.iter().any(Option::is_some) {
            let [queries, keys, _] = &mut sources[..] else {
                candle_core::bail!("norms of queries and keys need projections of their own");
            };
            *queries = norm(norms[0], tensors, queries)?;
            *keys = norm(norms[1], tensors, keys)?;
        }
        operations::attention(shape, packing, &sources, &sequences.lengths, attention.rotary.map(|index| &sequences.angles[index]))
    }
}

fn linear(linear: &Linear, tensors: Tensors<'_>, inputs: &Tensor) -> Result<Tensor> {
    let (weight, bias) = (tensors.at(&linear.weight)?, tensors.optional(linear.bias.as_ref())?);
    let outputs = operations::linear(inputs, weight, bias, linear.transposed)?;
    match tensors.taps {
        Some(taps) => taps.keep(linear.weight.start, inputs, &outputs),
        None => Ok(outputs),
    }
}

fn norm(norm: Option<&Norm>, tensors: Tensors<'_>, inputs: &Tensor) -> Result<Tensor> {
    let Some(norm) = norm else { return Ok(inputs.clone()) };
    if norm.has_own_factors() {
        let groups = inputs.dim(1)? / norm.width;
        let group = |group| self::norm(Some(&norm.of_group(group)), tensors, &inputs.narrow(1, group * norm.width, norm.width)?);
        return Tensor::cat(&(0..groups).map(group).collect::<Result<Vec<_>>>()?, 1);
    }
    let (weight, bias) = (tensors.optional(norm.weight.as_ref())?, tensors.optional(norm.bias.as_ref())?);
    operations::norm(norm.kind, norm.epsilon, norm.width, weight, bias, inputs)
}

fn scaled(values: Tensor, factor: f32) -> Result<Tensor> {
    if factor == 1.0 { Ok(values) } else { values * f64::from(factor) }
}

/// Adds a branch to the states, with the norm on the branch or on the sum.
fn join(layer: &Layer, after: Option<&Norm>, tensors: Tensors<'_>, states: &Tensor, branch: &Tensor) -> Result<Tensor> {
    if layer.norm_on_sum { norm(after, tensors, &(states + branch)?) } else { states + norm(after, tensors, branch)? }
}
