//! Causal attention over sequences that lie one after the other, with rotary positions, windows, soft caps and grouped heads.

use candle_core::{D, DType, Device, Result, Tensor};

use super::wide;
use crate::nn::attention::AttentionShape;

/// How queries, keys and values lie in the features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    /// In three tensors.
    Separate,
    /// In one: all queries, then all keys, then all values.
    Stacked,
    /// In one: per head its query, key and value.
    Interleaved,
}

/// Rotation of the features `i` and `pairs + i` of every head, per position.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Angles {
    pub(crate) pairs: usize,
    /// Factor of cosines and sines.
    pub(crate) factor: f64,
    /// `[positions, pairs]`.
    pub(crate) angles: Vec<f64>,
}

/// Which of the three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Queries,
    Keys,
    Values,
}

/// The attended values `[positions, heads * width]`. `sources` are queries `[positions, heads * width]`, keys and values
/// `[positions, key_value_heads * width]`, or the one tensor that packs them; `lengths` are those of the sequences.
pub(crate) fn attention(
    shape: AttentionShape,
    packing: Packing,
    sources: &[Tensor],
    lengths: &[usize],
    angles: Option<&Angles>,
) -> Result<Tensor> {
    let [queries, keys, values] = [Part::Queries, Part::Keys, Part::Values].map(|part| heads(shape, packing, sources, part));
    let (queries, keys, values) = (rotate(&queries?, angles)?, rotate(&keys?, angles)?, values?);
    // Sequences of the same length, one after the other, go together.
    let mut parts = Vec::new();
    let (mut start, mut sequence) = (0, 0);
    while sequence < lengths.len() {
        let length = lengths[sequence];
        let count = lengths[sequence..].iter().take_while(|&&other| other == length).count();
        let part = |tensor: &Tensor| -> Result<Tensor> {
            let (_, heads, width) = tensor.dims3()?;
            tensor.narrow(0, start, count * length)?.reshape((count, length, heads, width))?.transpose(1, 2)?.contiguous()
        };
        parts.push(attend(shape, &part(&queries)?, &part(&keys)?, &part(&values)?)?);
        start += count * length;
        sequence += count;
    }
    Tensor::cat(&parts, 0)
}

/// Queries, keys or values `[positions, heads, width]`.
fn heads(shape: AttentionShape, packing: Packing, sources: &[Tensor], part: Part) -> Result<Tensor> {
    let count = if part == Part::Queries { shape.heads } else { shape.key_value_heads };
    let source = match packing {
        Packing::Separate => &sources[part as usize],
        Packing::Stacked | Packing::Interleaved => &sources[0],
    };
    let positions = source.dim(0)?;
    match packing {
        Packing::Separate => source.reshape((positions, count, shape.width)),
        Packing::Stacked => {
            let offset = match part {
                Part::Queries => 0,
                Part::Keys => shape.heads * shape.width,
                Part::Values => (shape.heads + shape.key_value_heads) * shape.width,
            };
            source.narrow(1, offset, count * shape.width)?.reshape((positions, count, shape.width))
        }
        Packing::Interleaved => source.reshape((positions, count, 3, shape.width))?.narrow(2, part as usize, 1)?.squeeze(2),
    }
}

fn rotate(values: &Tensor, angles: Option<&Angles>) -> Result<Tensor> {
    let Some(angles) = angles else { return Ok(values.clone()) };
    let pairs = angles.pairs;
    let (positions, _, width) = values.dims3()?;
    let table = |function: fn(f64) -> f64| -> Result<Tensor> {
        let turned: Vec<f64> = angles.angles.iter().map(|&angle| function(angle) * angles.factor).collect();
        // Devices without f64 take the table in their own type.
        Tensor::from_vec(turned, (positions, 1, pairs), &Device::Cpu)?.to_dtype(values.dtype())?.to_device(values.device())
    };
    let (cosines, sines) = (table(f64::cos)?, table(f64::sin)?);
    let (first, second) = (values.narrow(2, 0, pairs)?, values.narrow(2, pairs, pairs)?);
    let turned = [
        (first.broadcast_mul(&cosines)? - second.broadcast_mul(&sines)?)?,
        (second.broadcast_mul(&cosines)? + first.broadcast_mul(&sines)?)?,
    ];
    let [first, second] = &turned;
    if width == 2 * pairs {
        Tensor::cat(&[first, second], 2)
    } else {
        Tensor::cat(&[first, second, &values.narrow(2, 2 * pairs, width - 2 * pairs)?], 2)
    }
}

/// `[sequences * length, heads * width]` of queries `[sequences, heads, length, width]`, and keys and values of fewer heads.
fn attend(shape: AttentionShape, queries: &Tensor, keys: &Tensor, values: &Tensor) -> Result<Tensor> {
    let (count, heads, length, width) = queries.dims4()?;
    let repeated = |tensor: &Tensor| -> Result<Tensor> {
        let (group, shared) = (shape.heads / shape.key_value_heads, shape.key_value_heads);
        if group == 1 {
            return Ok(tensor.clone());
        }
        let wide = tensor.unsqueeze(2)?.broadcast_as((count, shared, group, length, width))?;
        wide.contiguous()?.reshape((count, heads, length, width))
    };
    let mut scores = (wide(&queries.matmul(&repeated(keys)?.t()?)?)? * f64::from(shape.scale))?;
    if let Some(cap) = shape.cap.map(f64::from) {
        scores = ((scores / cap)?.tanh()? * cap)?;
    }
    scores = scores.broadcast_add(&mask(length, shape.window, scores.dtype(), scores.device())?)?;
    let powers = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
    let probabilities = powers.broadcast_div(&powers.sum_keepdim(D::Minus1)?)?;
    probabilities.to_dtype(values.dtype())?.matmul(&repeated(values)?)?.transpose(1, 2)?.reshape((count * length, heads * width))
}

/// `[length, length]`: 0 where a query sees a key, else `-infinity`.
fn mask(length: usize, window: Option<usize>, dtype: DType, device: &Device) -> Result<Tensor> {
    let window = window.unwrap_or(usize::MAX);
    let seen = |query: usize, key: usize| key <= query && query - key < window;
    let entry = |index: usize| if seen(index / length, index % length) { 0.0f32 } else { f32::NEG_INFINITY };
    let values: Vec<f32> = (0..length * length).map(entry).collect();
    Tensor::from_vec(values, (length, length), &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
}
