//! Dense layers.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::{Way, elements, elements_of};
use crate::products::{Matrix, Sizes, product_parallel};

/// `inputs weight^T + bias`: `inputs` `[positions, inputs]`, `weight` `[outputs, inputs]`, or `[inputs, outputs]` when `transposed`.
pub(crate) fn linear(way: Way, inputs: &Tensor, weight: &Tensor, bias: Option<&Tensor>, transposed: bool) -> Result<Tensor> {
    if way == Way::Kernels {
        let (inputs, weight, operation) = (inputs.contiguous()?, weight.contiguous()?, Linear { transposed });
        return match bias {
            Some(bias) => inputs.apply_op3(&weight, &bias.contiguous()?, operation),
            None => inputs.apply_op2(&weight, operation),
        };
    }
    let product = if transposed { inputs.matmul(weight)? } else { inputs.matmul(&weight.t()?)? };
    bias.map_or(Ok(product.clone()), |bias| product.broadcast_add(bias))
}

struct Linear {
    transposed: bool,
}

impl Linear {
    /// Sizes of the forward product: positions, inputs, outputs.
    fn sizes(&self, inputs: &Shape, weight: &Shape) -> Result<Sizes> {
        let ((positions, inputs), weight) = (inputs.dims2()?, weight.dims2()?);
        let (outputs, expected) = if self.transposed { (weight.1, weight.0) } else { weight };
        if expected != inputs {
            candle_core::bail!("a dense layer of {expected} inputs was given {inputs} features");
        }
        Ok(Sizes { rows: positions, inner: inputs, columns: outputs })
    }

    fn forward(&self, inputs: &[f32], weight: &[f32], bias: Option<&[f32]>, sizes: Sizes) -> Vec<f32> {
        let Sizes { rows: positions, inner: width, columns: outputs } = sizes;
        let mut values = vec![0.0f32; positions * outputs];
        let right = if self.transposed { Matrix::rows(weight, outputs) } else { Matrix::columns(weight, width) };
        product_parallel(&mut values, outputs, Matrix::rows(inputs, width), right, sizes, false);
        if let Some(bias) = bias {
            values.chunks_exact_mut(outputs).for_each(|row| row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias));
        }
        values
    }

    fn backward(&self, inputs: &Tensor, weight: &Tensor, gradient: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let sizes = self.sizes(inputs.shape(), weight.shape())?;
        let Sizes { rows: positions, inner: width, columns: outputs } = sizes;
        let gradient = gradient.contiguous()?;
        let slopes = elements_of(&gradient)?;
        let wanted = |tensor: &Tensor, values: Vec<f32>| Tensor::from_vec(values, tensor.shape(), tensor.device());
        let to_inputs = inputs.track_op().then(|| {
            let weight = elements_of(weight)?;
            let mut values = vec![0.0f32; positions * width];
            let left = Matrix::rows(&slopes, outputs);
            let right = if self.transposed { Matrix::columns(&weight, outputs) } else { Matrix::rows(&weight, width) };
            product_parallel(&mut values, width, left, right, Sizes { rows: positions, inner: outputs, columns: width }, false);
            wanted(inputs, values)
        });
        let to_weight = weight.track_op().then(|| {
            let inputs = elements_of(inputs)?;
            wanted(weight, self.weight_gradient(&inputs, &slopes, sizes))
        });
        Ok((to_inputs.transpose()?, to_weight.transpose()?))
    }

    fn weight_gradient(&self, inputs: &[f32], slopes: &[f32], sizes: Sizes) -> Vec<f32> {
        let Sizes { rows: positions, inner: width, columns: outputs } = sizes;
        let mut values = vec![0.0f32; width * outputs];
        if self.transposed {
            let left = Matrix::columns(inputs, width);
            let right = Matrix::rows(slopes, outputs);
            product_parallel(&mut values, outputs, left, right, Sizes { rows: width, inner: positions, columns: outputs }, false);
        } else {
            let left = Matrix::columns(slopes, outputs);
            let right = Matrix::rows(inputs, width);
            product_parallel(&mut values, width, left, right, Sizes { rows: outputs, inner: positions, columns: width }, false);
        }
        values
    }
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, inputs: &CpuStorage, shape: &Layout, weight: &CpuStorage, weight_shape: &Layout) -> Result<(CpuStorage, Shape)> {
        let sizes = self.sizes(shape.shape(), weight_shape.shape())?;
        let values = self.forward(elements(inputs, shape)?, elements(weight, weight_shape)?, None, sizes);
        Ok((CpuStorage::F32(values), (sizes.rows, sizes.columns).into()))
    }

    fn bwd(&self, inputs: &Tensor, weight: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.backward(inputs, weight, gradient)
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear_with_bias"
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
        let sizes = self.sizes(shape.shape(), weight_shape.shape())?;
        if bias_shape.shape().elem_count() != sizes.columns {
            candle_core::bail!("a dense layer of {} outputs was given a bias of shape {:?}", sizes.columns, bias_shape.shape());
        }
        let bias = elements(bias, bias_shape)?;
        let values = self.forward(elements(inputs, shape)?, elements(weight, weight_shape)?, Some(bias), sizes);
        Ok((CpuStorage::F32(values), (sizes.rows, sizes.columns).into()))
    }

    fn bwd(
        &self,
        inputs: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (to_inputs, to_weight) = self.backward(inputs, weight, gradient)?;
        let to_bias = bias.track_op().then(|| {
            let gradient = gradient.contiguous()?;
            let mut sums = vec![0.0f64; bias.elem_count()];
            for row in elements_of(&gradient)?.chunks_exact(sums.len()) {
                sums.iter_mut().zip(row).for_each(|(sum, &slope)| *sum += f64::from(slope));
            }
            Tensor::from_vec(sums.into_iter().map(|sum| sum as f32).collect(), bias.shape(), bias.device())
        });
        Ok((to_inputs, to_weight, to_bias.transpose()?))
    }
}
