//! Listing a family's tensors in the checkpoint's order.

use std::ops::Range;

use super::{Linear, Norm};
use crate::arch::ArchitectureError;
use crate::nn::NormKind;
use crate::parameters::ParameterLayout;

/// More weights than this are a mistake in the configuration.
const LARGEST_DIMENSION: usize = 1 << 40;

/// The tensors listed so far.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    tensors: Vec<(String, Vec<usize>)>,
    dimension: usize,
}

impl Builder {
    pub(crate) fn tensor(&mut self, name: String, shape: &[usize]) -> Range<usize> {
        let start = self.dimension;
        let length = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size)).unwrap_or(usize::MAX);
        // Saturated sums are refused by `finish`.
        self.dimension = self.dimension.saturating_add(length);
        self.tensors.push((name, shape.to_vec()));
        start..self.dimension
    }

    /// Tensors of the same shape one after the other, as one range.
    pub(crate) fn consecutive(&mut self, names: impl Iterator<Item = String>, shape: &[usize]) -> Range<usize> {
        let start = self.dimension;
        names.for_each(|name| _ = self.tensor(name, shape));
        start..self.dimension
    }

    /// `{name}.weight` `[outputs, inputs]` and `{name}.bias`.
    pub(crate) fn linear(&mut self, name: &str, inputs: usize, outputs: usize, bias: bool) -> Linear {
        let weight = self.tensor(format!("{name}.weight"), &[outputs, inputs]);
        let bias = bias.then(|| self.tensor(format!("{name}.bias"), &[outputs]));
        Linear { weight, bias, inputs, outputs, transposed: false }
    }

    /// `{name}.weight` `[inputs, outputs]` and `{name}.bias`, as GPT-2 stores its dense layers.
    pub(crate) fn transposed(&mut self, name: &str, inputs: usize, outputs: usize) -> Linear {
        let weight = self.tensor(format!("{name}.weight"), &[inputs, outputs]);
        let bias = Some(self.tensor(format!("{name}.bias"), &[outputs]));
        Linear { weight, bias, inputs, outputs, transposed: true }
    }

    /// `{name}.weight`, and `{name}.bias` for LayerNorm.
    pub(crate) fn norm(&mut self, name: &str, kind: NormKind, width: usize, epsilon: f32) -> Norm {
        let weight = Some(self.tensor(format!("{name}.weight"), &[width]));
        let bias = (kind == NormKind::Layer).then(|| self.tensor(format!("{name}.bias"), &[width]));
        Norm { kind, weight, bias, width, epsilon }
    }

    /// The head: its own tensor, or the embedding's again.
    pub(crate) fn head(
        &mut self,
        name: &str,
        embedding: &Range<usize>,
        tied: bool,
        inputs: usize,
        vocabulary: usize,
        bias: bool,
    ) -> Linear {
        if tied {
            let bias = bias.then(|| self.tensor(format!("{name}.bias"), &[vocabulary]));
            Linear { weight: embedding.clone(), bias, inputs, outputs: vocabulary, transposed: false }
        } else {
            self.linear(name, inputs, vocabulary, bias)
        }
    }

    pub(crate) fn finish(self) -> Result<ParameterLayout, ArchitectureError> {
        if self.dimension > LARGEST_DIMENSION {
            return Err(ArchitectureError::Setting("the sizes ask for too many weights: at most 2^40 are read".to_owned()));
        }
        Ok(ParameterLayout::new(self.tensors))
    }
}
