//! The layers of the networks as candle's differentiable operations. Tensors are `[positions, features]`.

mod attention;

use candle_core::{D, DType, Result, Tensor};

pub(super) use attention::{Angles, Packing, attention};

use crate::nn::{ActivationFunction, NormKind};

/// A tensor in a type that sums can be made in: half precision becomes `f32`, everything else stays.
pub(super) fn wide(tensor: &Tensor) -> Result<Tensor> {
    match tensor.dtype() {
        DType::BF16 | DType::F16 => tensor.to_dtype(DType::F32),
        _ => Ok(tensor.clone()),
    }
}

/// The function of every element.
pub(super) fn activation(function: ActivationFunction, inputs: &Tensor) -> Result<Tensor> {
    match function {
        ActivationFunction::Relu => inputs.relu(),
        ActivationFunction::Silu => inputs.silu(),
        ActivationFunction::Gelu => inputs.gelu_erf(),
        ActivationFunction::GeluTanh => inputs.gelu(),
        ActivationFunction::Tanh => inputs.tanh(),
        // x / (1 + exp(-1.702 x)): candle's silu of 1.702 x, divided by 1.702.
        ActivationFunction::QuickGelu => (inputs * 1.702)?.silu()? / 1.702,
    }
}

/// `inputs weight^T + bias`: `inputs` `[positions, inputs]`, `weight` `[outputs, inputs]`, or `[inputs, outputs]` when `transposed`.
pub(super) fn linear(inputs: &Tensor, weight: &Tensor, bias: Option<&Tensor>, transposed: bool) -> Result<Tensor> {
    let product = if transposed { inputs.matmul(weight)? } else { inputs.matmul(&weight.t()?)? };
    bias.map_or(Ok(product.clone()), |bias| product.broadcast_add(bias))
}

/// Normalizes groups of `width` features of every row of `inputs` `[positions, features]`; `width` divides the number of features. Sums are
/// made in `f32` at least.
pub(super) fn norm(
    kind: NormKind,
    epsilon: f32,
    width: usize,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    inputs: &Tensor,
) -> Result<Tensor> {
    let shape = inputs.shape();
    let rows = wide(&inputs.reshape((inputs.elem_count() / width, width))?)?;
    let count = width as f64;
    let centered = match kind {
        NormKind::Layer => rows.broadcast_sub(&(rows.sum_keepdim(D::Minus1)? / count)?)?,
        NormKind::Rms | NormKind::RmsPlusOne => rows,
    };
    let variance = (centered.sqr()?.sum_keepdim(D::Minus1)? / count)?;
    let mut values = centered.broadcast_div(&(variance + f64::from(epsilon))?.sqrt()?)?;
    if let Some(weight) = weight {
        values = match kind {
            NormKind::RmsPlusOne => values.broadcast_mul(&(wide(weight)? + 1.0)?)?,
            NormKind::Layer | NormKind::Rms => values.broadcast_mul(&wide(weight)?)?,
        };
    }
    if let Some(bias) = bias {
        values = values.broadcast_add(&wide(bias)?)?;
    }
    values.to_dtype(inputs.dtype())?.reshape(shape)
}

#[cfg(test)]
mod tests;
