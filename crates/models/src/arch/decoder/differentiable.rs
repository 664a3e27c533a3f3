//! The decoder in candle's differentiable operations, on any device: the same network as [`super::forward`] and [`super::reference`],
//! position-major, `[positions, features]`, the sequences one after the other.

mod head;
mod head_composed;

use std::fmt::{self, Debug};
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use head::tile_columns;
pub(crate) use head::{Head, HeadGradient, Targets, head_loss};
pub(crate) use head_composed::{TensorHead, TensorTargets, head_loss_composed};

use super::{Decoder, Layer, Linear, Norm, Projection};
use crate::nn::differentiable::{self, Angles, AttentionShape, Packing, activation};
use crate::parameters::ParameterLayout;

/// One tensor per parameter of a layout, found by their place in the flat weights.
#[derive(Clone, Copy)]
pub(crate) struct Tensors<'a> {
    pub(crate) layout: &'a ParameterLayout,
    /// `None` for tables that are read from the flat weights.
    pub(crate) tensors: &'a [Option<Tensor>],
    /// Sees what passes through the dense layers in the backward pass.
    pub(crate) witness: Option<&'a LayerWitness>,
}

/// A [`differentiable::Witness`] of all dense layers, which are told apart by where their weight begins in the flat weights.
#[derive(Clone)]
pub(crate) struct LayerWitness(pub(crate) Arc<Witness>);

type Witness = dyn Fn(usize, &[f32], &[f32]) + Send + Sync;

impl Debug for LayerWitness {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("LayerWitness")
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
    lengths: Arc<[usize]>,
    angles: Option<Arc<Angles>>,
}

impl Sequences {
    /// Sequences of the given lengths, one after the other in `ids`.
    pub(crate) fn new(decoder: &Decoder, ids: &[u32], lengths: &[usize], device: &Device) -> Result<Self> {
        let places = || lengths.iter().flat_map(|&length| 0..length);
        let rows = |offset: usize| -> Result<Tensor> {
            let rows: Vec<u32> = places().map(|place| (place + offset) as u32).collect();
            Tensor::from_vec(rows, ids.len(), device)
        };
        let angles = decoder.rotary.as_ref().map(|rotary| {
            // The angle is rounded to f32 as the models' own code does.
            let angle = |place: usize| rotary.frequencies.iter().map(move |frequency| f64::from(place as f32 * frequency));
            Arc::new(Angles { pairs: rotary.width / 2, angles: places().flat_map(angle).collect() })
        });
        Ok(Self {
            ids: Tensor::from_slice(ids, ids.len(), device)?,
            places: decoder.learned_positions.as_ref().map(|(_, offset)| rows(*offset)).transpose()?,
            lengths: lengths.into(),
            angles,
        })
    }
}

impl Sequences {
    /// Token ids.
    pub(crate) fn ids(&self) -> &Tensor {
        &self.ids
    }

    /// Rows of the learned positions.
    pub(crate) fn places(&self) -> Option<&Tensor> {
        self.places.as_ref()
    }
}

impl Decoder {
    /// All dense layers between embedding and head.
    pub(crate) fn dense_layers(&self) -> Vec<&Linear> {
        let mut all: Vec<&Linear> = self.project_in.iter().collect();
        for layer in &self.layers {
            match &layer.attention.projection {
                Projection::Separate { query, key, value } => all.extend([query, key, value]),
                Projection::Stacked(stacked) | Projection::Interleaved(stacked) => all.push(stacked),
            }
            all.push(&layer.attention.output);
            all.extend(&layer.gate);
            all.extend([&layer.up, &layer.down]);
        }
        all.extend(&self.project_out);
        all
    }

    /// What the head reads at every position, `[positions, head_inputs]`, from the rows of the embedding `[positions, embedding_width]`
    /// and those of the learned positions `[positions, hidden]`.
    pub(crate) fn differentiable_states(
        &self,
        tensors: Tensors<'_>,
        sequences: &Sequences,
        embedded: &Tensor,
        placed: Option<&Tensor>,
    ) -> Result<Tensor> {
        let mut states = embedded.clone();
        if self.embedding_scale != 1.0 {
            states = (states * f64::from(self.embedding_scale))?;
        }
        if let Some(project) = &self.project_in {
            states = linear(project, tensors, &states)?;
        }
        if let Some(placed) = placed {
            states = (states + placed)?;
        }
        for layer in &self.layers {
            states = self.differentiable_layer(layer, tensors, sequences, &states)?;
        }
        states = norm(self.final_norm.as_ref(), tensors, &states)?;
        match &self.project_out {
            Some(project) => linear(project, tensors, &states),
            None => Ok(states),
        }
    }

    /// One layer.
    fn differentiable_layer(&self, layer: &Layer, tensors: Tensors<'_>, sequences: &Sequences, states: &Tensor) -> Result<Tensor> {
        let normed = norm(layer.before_attention.as_ref(), tensors, states)?;
        let attended = self.attend(layer, tensors, sequences, &normed)?;
        let branch = linear(&layer.attention.output, tensors, &attended)?;
        let after = join(layer, layer.after_attention.as_ref(), tensors, states, &branch)?;
        let normed = norm(layer.before_mlp.as_ref(), tensors, if layer.parallel { states } else { &after })?;
        let up = linear(&layer.up, tensors, &normed)?;
        let inner = match &layer.gate {
            Some(gate) => (activation(layer.activation, &linear(gate, tensors, &normed)?)? * up)?,
            None => activation(layer.activation, &up)?,
        };
        join(layer, layer.after_mlp.as_ref(), tensors, &after, &linear(&layer.down, tensors, &inner)?)
    }

    fn attend(&self, layer: &Layer, tensors: Tensors<'_>, sequences: &Sequences, inputs: &Tensor) -> Result<Tensor> {
        let attention = &layer.attention;
        let shape = AttentionShape {
            heads: self.heads,
            key_value_heads: self.key_value_heads,
            width: self.head_width,
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
        differentiable::attention(shape, packing, &sources, &sequences.lengths, sequences.angles.as_ref())
    }
}

fn linear(linear: &Linear, tensors: Tensors<'_>, inputs: &Tensor) -> Result<Tensor> {
    let (weight, bias) = (tensors.at(&linear.weight)?, tensors.optional(linear.bias.as_ref())?);
    let witness = tensors.witness.map(|all| {
        let (all, place) = (Arc::clone(&all.0), linear.weight.start);
        Arc::new(move |inputs: &[f32], slopes: &[f32]| all(place, inputs, slopes)) as differentiable::Witness
    });
    differentiable::linear_with(inputs, weight, bias, linear.transposed, witness)
}

fn norm(norm: Option<&Norm>, tensors: Tensors<'_>, inputs: &Tensor) -> Result<Tensor> {
    let Some(norm) = norm else { return Ok(inputs.clone()) };
    let (weight, bias) = (tensors.optional(norm.weight.as_ref())?, tensors.optional(norm.bias.as_ref())?);
    differentiable::norm(norm.kind, norm.epsilon, norm.width, weight, bias, inputs)
}

/// Adds a branch to the states, with the norm on the branch or on the sum.
fn join(layer: &Layer, after: Option<&Norm>, tensors: Tensors<'_>, states: &Tensor, branch: &Tensor) -> Result<Tensor> {
    if layer.norm_on_sum { norm(after, tensors, &(states + branch)?) } else { states + norm(after, tensors, branch)? }
}

/// Whether the head has kernels for tensors of this kind: `f32` on the CPU.
pub(crate) fn has_kernels(device: &Device, dtype: DType) -> bool {
    device.is_cpu() && dtype == DType::F32
}
