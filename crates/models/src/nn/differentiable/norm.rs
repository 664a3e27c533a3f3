//! LayerNorm and RMSNorm over the last dimension.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use rten_simd::{Isa, SimdOp};

use super::{Way, elements, elements_of, wide};
use crate::nn::NormKind;

/// Rows whose weight gradients are summed in `f32` before they go to `f64`.
const BLOCK: usize = 64;

/// Partial sums of one row that are kept apart, so that the loop is one of vectors.
const LANES: usize = 8;

/// Normalizes groups of `width` features of every row of `inputs` `[positions, features]`; `width` divides the number of features.
pub(crate) fn norm(
    way: Way,
    kind: NormKind,
    epsilon: f32,
    width: usize,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    inputs: &Tensor,
) -> Result<Tensor> {
    if way == Way::Kernels {
        let inputs = inputs.contiguous()?;
        let operation = Norm { kind, epsilon, width };
        return match (weight, bias) {
            (None, _) => inputs.apply_op1(operation),
            (Some(weight), None) => inputs.apply_op2(&weight.contiguous()?, operation),
            (Some(weight), Some(bias)) => inputs.apply_op3(&weight.contiguous()?, &bias.contiguous()?, operation),
        };
    }
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

struct Norm {
    kind: NormKind,
    epsilon: f32,
    width: usize,
}

/// Gradients of the inputs, the weight and the bias.
struct Gradients {
    inputs: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Norm {
    /// The factors of the features.
    fn factors(&self, weight: Option<&[f32]>) -> Vec<f32> {
        let one = if self.kind == NormKind::RmsPlusOne { 1.0 } else { 0.0 };
        weight.map_or_else(|| vec![1.0; self.width], |weight| weight.iter().map(|value| value + one).collect())
    }

    fn forward(&self, inputs: &[f32], weight: Option<&[f32]>, bias: Option<&[f32]>) -> Result<Vec<f32>> {
        let width = self.width;
        let fits = |values: Option<&[f32]>| values.is_none_or(|values| values.len() == width);
        if !inputs.len().is_multiple_of(width) || !fits(weight) || !fits(bias) {
            candle_core::bail!("a norm over {width} features does not fit its {} inputs, weight or bias", inputs.len());
        }
        let factors = self.factors(weight);
        let shifts = bias.map_or_else(|| vec![0.0; width], <[f32]>::to_vec);
        let mut values = vec![0.0f32; inputs.len()];
        values.par_chunks_mut(BLOCK * width).zip(inputs.par_chunks(BLOCK * width)).for_each(|(values, inputs)| {
            Forward { norm: self, factors: &factors, shifts: &shifts, inputs, values }.dispatch();
        });
        Ok(values)
    }

    fn backward(&self, inputs: &Tensor, weight: Option<&Tensor>, gradient: &Tensor) -> Result<Gradients> {
        let width = self.width;
        let gradient = gradient.contiguous()?;
        let weight = weight.map(elements_of).transpose()?;
        let factors = self.factors(weight.as_deref());
        let (inputs, slopes) = (elements_of(inputs)?, elements_of(&gradient)?);
        let mut values = vec![0.0f32; inputs.len()];
        let blocks = values.par_chunks_mut(BLOCK * width).zip(inputs.par_chunks(BLOCK * width)).zip(slopes.par_chunks(BLOCK * width));
        // Of every block the sums for weight and bias.
        let sums: Vec<[Vec<f32>; 2]> = blocks
            .map(|((values, inputs), slopes)| {
                let [mut weight, mut bias] = [vec![0.0f32; width], vec![0.0f32; width]];
                Backward { norm: self, factors: &factors, inputs, slopes, values, weight: &mut weight, bias: &mut bias }.dispatch();
                [weight, bias]
            })
            .collect();
        let total = |which: usize| -> Vec<f32> {
            let mut totals = vec![0.0f64; width];
            for sum in &sums {
                totals.iter_mut().zip(&sum[which]).for_each(|(total, &value)| *total += f64::from(value));
            }
            totals.into_iter().map(|total| total as f32).collect()
        };
        Ok(Gradients { inputs: values, weight: total(0), bias: total(1) })
    }
}

/// `sum f(i)` over a row in `f64`.
#[inline(always)]
fn sum(length: usize, value: impl Fn(usize) -> f64) -> f64 {
    let mut sums = [0.0f64; LANES];
    let whole = length - length % LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += value(start + lane);
        }
    }
    let rest: f64 = (whole..length).map(value).sum();
    sums.iter().sum::<f64>() + rest
}

/// Mean (0 without centering) and the reciprocal of the deviation of a row.
#[inline(always)]
fn moments(norm: &Norm, row: &[f32]) -> (f32, f32) {
    let count = row.len() as f64;
    let mean = if norm.kind == NormKind::Layer { sum(row.len(), |i| f64::from(row[i])) / count } else { 0.0 };
    let variance = sum(row.len(), |i| (f64::from(row[i]) - mean).powi(2)) / count;
    (mean as f32, (1.0 / (variance + f64::from(norm.epsilon)).sqrt()) as f32)
}

/// An operation of `rten_simd` only to have the plain loops compiled for the widest vectors of the machine.
struct Forward<'a> {
    norm: &'a Norm,
    factors: &'a [f32],
    shifts: &'a [f32],
    inputs: &'a [f32],
    values: &'a mut [f32],
}

impl SimdOp for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _isa: I) {
        let width = self.norm.width;
        for (row, values) in self.inputs.chunks_exact(width).zip(self.values.chunks_exact_mut(width)) {
            let (mean, scale) = moments(self.norm, row);
            let parameters = self.factors.iter().zip(self.shifts);
            for ((value, &x), (&factor, &shift)) in values.iter_mut().zip(row).zip(parameters) {
                *value = (x - mean) * scale * factor + shift;
            }
        }
    }
}

/// With `y = (x - mean) scale`, `h = slope * factor`: the gradient of `x` is `scale (h - mean(h) - y mean(h y))`, the mean of `h` only
/// where the norm centers; that of the factor is `slope y`, that of the shift `slope`, summed over rows.
struct Backward<'a> {
    norm: &'a Norm,
    factors: &'a [f32],
    inputs: &'a [f32],
    slopes: &'a [f32],
    values: &'a mut [f32],
    weight: &'a mut [f32],
    bias: &'a mut [f32],
}

impl SimdOp for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _isa: I) {
        let width = self.norm.width;
        let factors = &self.factors[..width];
        let rows = self.inputs.chunks_exact(width).zip(self.slopes.chunks_exact(width)).zip(self.values.chunks_exact_mut(width));
        for ((row, slopes), values) in rows {
            let (mean, scale) = moments(self.norm, row);
            let count = width as f64;
            let centering = match self.norm.kind {
                NormKind::Layer => (sum(width, |i| f64::from(slopes[i] * factors[i])) / count) as f32,
                NormKind::Rms | NormKind::RmsPlusOne => 0.0,
            };
            let along = (sum(width, |i| f64::from(slopes[i] * factors[i]) * f64::from((row[i] - mean) * scale)) / count) as f32;
            for i in 0..width {
                let normed = (row[i] - mean) * scale;
                values[i] = scale * (slopes[i] * factors[i] - centering - normed * along);
                self.weight[i] += slopes[i] * normed;
                self.bias[i] += slopes[i];
            }
        }
    }
}

impl CustomOp1 for Norm {
    fn name(&self) -> &'static str {
        "norm_without_weight"
    }

    fn cpu_fwd(&self, inputs: &CpuStorage, shape: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.forward(elements(inputs, shape)?, None, None)?), shape.shape().clone()))
    }

    fn bwd(&self, inputs: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradients = self.backward(inputs, None, gradient)?;
        Ok(Some(Tensor::from_vec(gradients.inputs, inputs.shape(), inputs.device())?))
    }
}

impl CustomOp2 for Norm {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(&self, inputs: &CpuStorage, shape: &Layout, weight: &CpuStorage, weight_shape: &Layout) -> Result<(CpuStorage, Shape)> {
        let weight = elements(weight, weight_shape)?;
        Ok((CpuStorage::F32(self.forward(elements(inputs, shape)?, Some(weight), None)?), shape.shape().clone()))
    }

    fn bwd(&self, inputs: &Tensor, weight: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradients = self.backward(inputs, Some(weight), gradient)?;
        let to_inputs = Tensor::from_vec(gradients.inputs, inputs.shape(), inputs.device())?;
        Ok((Some(to_inputs), Some(Tensor::from_vec(gradients.weight, weight.shape(), weight.device())?)))
    }
}

impl CustomOp3 for Norm {
    fn name(&self) -> &'static str {
        "norm_with_bias"
    }

    fn cpu_fwd(
        &self,
        inputs: &CpuStorage,
        shape: &Layout,
        weight: &CpuStorage,
        weight_shape: &Layout,
        bias: &CpuStorage,
        bias_shape: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (weight, bias) = (elements(weight, weight_shape)?, elements(bias, bias_shape)?);
        Ok((CpuStorage::F32(self.forward(elements(inputs, shape)?, Some(weight), Some(bias))?), shape.shape().clone()))
    }

    fn bwd(
        &self,
        inputs: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gradients = self.backward(inputs, Some(weight), gradient)?;
        let to_inputs = Tensor::from_vec(gradients.inputs, inputs.shape(), inputs.device())?;
        let to_weight = Tensor::from_vec(gradients.weight, weight.shape(), weight.device())?;
        let to_bias = Tensor::from_vec(gradients.bias, bias.shape(), bias.device())?;
        Ok((Some(to_inputs), Some(to_weight), Some(to_bias)))
    }
}
