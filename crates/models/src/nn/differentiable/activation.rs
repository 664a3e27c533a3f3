//! Activations.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{Way, elements, elements_of, tensor_like};
use crate::nn::ActivationFunction;

/// Elements that one task works on.
const CHUNK: usize = 1 << 14;

/// The function of every element.
pub(crate) fn activation(way: Way, function: ActivationFunction, inputs: &Tensor) -> Result<Tensor> {
    if way == Way::Kernels {
        return inputs.contiguous()?.apply_op1(Activation(function));
    }
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

struct Activation(ActivationFunction);

impl CustomOp1 for Activation {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut values = elements(storage, layout)?.to_vec();
        values.par_chunks_mut(CHUNK).for_each(|chunk| self.0.apply(chunk));
        Ok((CpuStorage::F32(values), layout.shape().clone()))
    }

    fn bwd(&self, inputs: &Tensor, _outputs: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (inputs, gradient) = (inputs.contiguous()?, gradient.contiguous()?);
        let (source, mut values) = (elements_of(&inputs)?, elements_of(&gradient)?.to_vec());
        let pairs = values.par_chunks_mut(CHUNK).zip(source.par_chunks(CHUNK));
        pairs.for_each(|(values, inputs)| self.0.multiply_by_derivative(values, inputs));
        Ok(Some(tensor_like(values, &inputs)?))
    }
}
