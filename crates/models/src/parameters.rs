//! Ordered, named parameters over one flat vector: the center `c`, and [`Moving`], the part of it that a ray moves.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use basin_volume::direction::{self, BLOCK};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::weights::Center;

mod moving;

pub use moving::{Moving, SelectionError};

/// One tensor of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Its name, as in the checkpoint.
    pub name: String,
    /// Its shape; weights are `[out, in]`.
    pub shape: Vec<usize>,
    /// Where it starts in the flat vector.
    pub offset: usize,
}

impl Parameter {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements' places in the flat vector.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len()
    }
}

/// The model's tensors in the model's own order, which is the order of the flat vector.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ParameterLayout {
    parameters: Vec<Parameter>,
    dimension: usize,
}

impl ParameterLayout {
    /// A layout of tensors in the given order, one after the other.
    #[must_use]
    pub fn new(tensors: impl IntoIterator<Item = (String, Vec<usize>)>) -> Self {
        let mut layout = Self::default();
        for (name, shape) in tensors {
            let parameter = Parameter { name, shape, offset: layout.dimension };
            layout.dimension += parameter.len();
            layout.parameters.push(parameter);
        }
        layout
    }

    /// Number of weights, `D`.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// The tensors, in order.
    #[must_use]
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// One flat vector from one slice per tensor, in the layout's order.
    ///
    /// # Panics
    /// If the number of tensors or a length differs.
    #[must_use]
    pub fn flatten(&self, tensors: &[&[f32]]) -> Vec<f32> {
        assert_eq!(tensors.len(), self.parameters.len(), "one slice per tensor");
        let mut flat = Vec::with_capacity(self.dimension);
        for (parameter, tensor) in self.parameters.iter().zip(tensors) {
            assert_eq!(tensor.len(), parameter.len(), "length of tensor {}", parameter.name);
            flat.extend_from_slice(tensor);
        }
        flat
    }

    /// The tensors of a flat vector, in order, each with its description.
    ///
    /// # Panics
    /// If `flat` has another length than the dimension.
    pub fn unflatten<'a>(&'a self, flat: &'a [f32]) -> impl Iterator<Item = (&'a Parameter, &'a [f32])> {
        assert_eq!(flat.len(), self.dimension, "the flat vector must be as long as the layout says");
        self.parameters.iter().map(|parameter| (parameter, &flat[parameter.range()]))
    }
}

/// A layout with its weights: the center `c`, in memory or read from mapped files. Cheap to clone: the weights are shared.
#[derive(Debug, Clone)]
pub struct Parameters {
    layout: Arc<ParameterLayout>,
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    Memory(Arc<Vec<f32>>),
    Mapped(Arc<Center>),
}

impl PartialEq for Parameters {
    fn eq(&self, other: &Self) -> bool {
        self.layout == other.layout && self.values() == other.values()
    }
}

impl From<Center> for Parameters {
    fn from(center: Center) -> Self {
        Self { layout: Arc::new(center.layout().clone()), source: Source::Mapped(Arc::new(center)) }
    }
}

impl Parameters {
    /// Weights in the order of `layout`.
    ///
    /// # Panics
    /// If the lengths differ.
    #[must_use]
    pub fn new(layout: ParameterLayout, values: Vec<f32>) -> Self {
        assert_eq!(values.len(), layout.dimension(), "as many values as the layout says");
        Self { layout: Arc::new(layout), source: Source::Memory(Arc::new(values)) }
    }

    /// Names, shapes and order.
    #[must_use]
    pub fn layout(&self) -> &ParameterLayout {
        &self.layout
    }

    /// The flat weights: borrowed when they are in memory, else read from the files as a whole. For small networks.
    #[must_use]
    pub fn values(&self) -> Cow<'_, [f32]> {
        match &self.source {
            Source::Memory(values) => Cow::Borrowed(values),
            Source::Mapped(_) => {
                let mut values = vec![0.0; self.dimension()];
                self.fill(0..values.len(), &mut values);
                Cow::Owned(values)
            }
        }
    }

    /// Number of weights.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.layout.dimension()
    }

    /// Where the weights are read from, when they are not in memory.
    #[must_use]
    pub fn mapped(&self) -> Option<&Center> {
        match &self.source {
            Source::Memory(_) => None,
            Source::Mapped(center) => Some(center),
        }
    }

    /// Writes the weights `range` into `out`.
    ///
    /// # Panics
    /// If `out` has another length than `range`, or the range leaves the vector.
    pub fn fill(&self, range: Range<usize>, out: &mut [f32]) {
        match &self.source {
            Source::Memory(values) => out.copy_from_slice(&values[range]),
            Source::Mapped(center) => center.fill(range, out),
        }
    }

    /// The weights `range`: borrowed where they stand as `f32` in memory or in a mapped file, else written to `scratch`.
    ///
    /// # Panics
    /// If the range leaves the vector.
    pub fn slice<'a>(&'a self, range: Range<usize>, scratch: &'a mut Vec<f32>) -> &'a [f32] {
        match &self.source {
            Source::Memory(values) => &values[range],
            Source::Mapped(center) => match center.as_f32(range.clone()) {
                Some(values) => values,
                None => {
                    scratch.resize(scratch.len().max(range.len()), 0.0);
                    let out = &mut scratch[..range.len()];
                    center.fill(range, out);
                    out
                }
            },
        }
    }

    /// `||c||^2`, accumulated in `f64` by blocks of [`BLOCK`] in order: the same bits on any number of threads.
    #[must_use]
    pub fn sum_of_squares(&self) -> f64 {
        match &self.source {
            Source::Memory(values) => {
                let blocks: Vec<f64> = values.par_chunks(BLOCK).map(|block| direction::dot(block, block)).collect();
                blocks.iter().sum()
            }
            Source::Mapped(center) => center.sum_of_squares(),
        }
    }

    /// Root mean square of the weights: the default scale of the prior.
    #[must_use]
    pub fn rms(&self) -> f64 {
        (self.sum_of_squares() / self.dimension() as f64).sqrt()
    }

    /// SHA-256, in hexadecimal, of the weights as little-endian `f32` in the layout's order.
    #[must_use]
    pub fn hash(&self) -> String {
        match &self.source {
            Source::Memory(values) => {
                let mut hasher = Sha256::new();
                for block in values.chunks(BLOCK) {
                    let bytes: Vec<u8> = block.iter().flat_map(|value| value.to_le_bytes()).collect();
                    hasher.update(&bytes);
                }
                basin_volume_data::hexadecimal(&hasher.finalize())
            }
            Source::Mapped(center) => center.hash().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(dimension: usize) -> Parameters {
        let layout = ParameterLayout::new([("a".to_owned(), vec![dimension / 2]), ("b".to_owned(), vec![dimension - dimension / 2])]);
        let center: Vec<f32> = (0..dimension).map(|i| (i as f32 * 0.7).sin()).collect();
        Parameters::new(layout, center)
    }

    #[test]
    fn flatten_and_unflatten_are_inverse() {
        let layout = ParameterLayout::new([("w".to_owned(), vec![2, 3]), ("s".to_owned(), vec![]), ("b".to_owned(), vec![2])]);
        assert_eq!(layout.dimension(), 9);
        let flat: Vec<f32> = (0..9).map(|i| i as f32).collect();
        let tensors: Vec<&[f32]> = layout.unflatten(&flat).map(|(_, values)| values).collect();
        assert_eq!(tensors[1], [6.0]);
        assert_eq!(layout.flatten(&tensors), flat);
        assert_eq!(layout.parameters()[2].range(), 7..9);
    }

    #[test]
    fn sums_are_those_of_f64() {
        let center = example(200_000);
        let exact: f64 = center.values().iter().map(|&value| f64::from(value).powi(2)).sum();
        assert!((center.sum_of_squares() / exact - 1.0).abs() < 1e-12);
        assert!((center.rms() - (exact / 200_000.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn the_hash_sees_one_bit() {
        let center = example(1000);
        let mut values = center.values().to_vec();
        values[999] = f32::from_bits(values[999].to_bits() ^ 1);
        assert_ne!(center.hash(), Parameters::new(center.layout().clone(), values).hash());
        assert_eq!(Parameters::new(ParameterLayout::new([("e".to_owned(), vec![0])]), vec![]).hash()[..8], *"e3b0c442");
    }
}
