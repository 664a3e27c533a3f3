//! Ordered, named parameters over one flat vector: the center `c`, and [`Moving`], the part of it that a ray moves.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use basin_volume::direction::{self, BLOCK};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::weights::{Center, Element};

pub(crate) mod cells;
mod chosen;
mod initial;
mod layout;
mod moving;

pub use chosen::Chosen;
pub(crate) use initial::draw_weights;
pub use layout::{Parameter, ParameterLayout};
#[cfg(feature = "tensors")]
pub(crate) use moving::MovingTensor;
pub use moving::{Moving, SelectionError};

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

    /// The type that holds the weights of the tensor with this number (in the layout's order) as they are stored: half precision where they
    /// are read from files in it, else `f32`.
    #[must_use]
    pub(crate) fn held_as(&self, tensor: usize) -> Element {
        match self.mapped().and_then(|center| center.plain_element(tensor)) {
            Some(half @ (Element::BF16 | Element::F16)) => half,
            _ => Element::F32,
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
