//! Ordered, named parameters over one flat vector: the center `c` and points of the plane spanned by it and a direction.

use std::ops::Range;

use basin_volume::direction::{self, BLOCK, Direction};
use basin_volume::objective::RayPoint;
use rayon::prelude::*;
use rten_simd::{Isa, SimdOp};
use sha2::{Digest, Sha256};

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

/// A layout with its weights: the center `c`.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters {
    layout: ParameterLayout,
    values: Vec<f32>,
}

impl Parameters {
    /// Weights in the order of `layout`.
    ///
    /// # Panics
    /// If the lengths differ.
    #[must_use]
    pub fn new(layout: ParameterLayout, values: Vec<f32>) -> Self {
        assert_eq!(values.len(), layout.dimension(), "as many values as the layout says");
        Self { layout, values }
    }

    /// Names, shapes and order.
    #[must_use]
    pub fn layout(&self) -> &ParameterLayout {
        &self.layout
    }

    /// The flat weights.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Number of weights, `D`.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.values.len()
    }

    /// `||c||^2`, accumulated in `f64` by blocks of [`BLOCK`] in order: the same bits on any number of threads.
    #[must_use]
    pub fn sum_of_squares(&self) -> f64 {
        let blocks: Vec<f64> = self.values.par_chunks(BLOCK).map(|block| direction::dot(block, block)).collect();
        blocks.iter().sum()
    }

    /// Root mean square of the weights: the default scale of the prior.
    #[must_use]
    pub fn rms(&self) -> f64 {
        (self.sum_of_squares() / self.values.len() as f64).sqrt()
    }

    /// SHA-256, in hexadecimal, of the weights as little-endian `f32` in the layout's order.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        for block in self.values.chunks(BLOCK) {
            let bytes: Vec<u8> = block.iter().flat_map(|value| value.to_le_bytes()).collect();
            hasher.update(&bytes);
        }
        hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Writes the coordinates `range` of `w = point.center * c + point.direction * v` into `out`.
    ///
    /// Every element is computed in `f64` and rounded once to `f32`, so the step `t` itself is never rounded. Runs over blocks on
    /// rayon's current pool when it has several threads; the bits depend on the arguments only. Nothing is allocated.
    ///
    /// # Panics
    /// If `out` has another length than `range`, or the direction another dimension.
    pub fn write_point(&self, direction: &Direction, point: RayPoint, range: Range<usize>, out: &mut [f32]) {
        assert_eq!(range.len(), out.len(), "the output must be as long as the range");
        assert_eq!(direction.dimension(), self.values.len(), "the direction must be as long as the center");
        // v = scale * y: the product of step and scale stays in f64.
        let step = point.direction * direction.scale();
        let write = |start: usize, out: &mut [f32]| {
            let range = start..start + out.len();
            let center = &self.values[range.clone()];
            match direction.stored() {
                Some(values) => Combine { center, direction: &values[range], factors: (point.center, step), out }.dispatch(),
                None => {
                    direction.fill(range, out);
                    CombineInPlace { center, factors: (point.center, step), out }.dispatch();
                }
            }
        };
        // Pieces end at multiples of BLOCK, where regenerated directions start cheapest.
        let head = (BLOCK - range.start % BLOCK).min(out.len());
        let (first, rest) = out.split_at_mut(head);
        if rayon::current_num_threads() > 1 && rest.len() > BLOCK {
            write(range.start, first);
            rest.par_chunks_mut(BLOCK).enumerate().for_each(|(block, out)| write(range.start + head + block * BLOCK, out));
        } else {
            write(range.start, first);
            rest.chunks_mut(BLOCK).enumerate().for_each(|(block, out)| write(range.start + head + block * BLOCK, out));
        }
    }
}

/// `out = a c + b y` through `f64`. An operation of `rten_simd` only to have the plain loop compiled for the widest vectors of the
/// machine; multiplication and addition stay separate, so the bits are the same on all of them.
struct Combine<'a> {
    center: &'a [f32],
    direction: &'a [f32],
    factors: (f64, f64),
    out: &'a mut [f32],
}

impl SimdOp for Combine<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _isa: I) {
        let (a, b) = self.factors;
        for ((out, &center), &direction) in self.out.iter_mut().zip(self.center).zip(self.direction) {
            *out = (a * f64::from(center) + b * f64::from(direction)) as f32;
        }
    }
}

/// [`Combine`] with the direction already in `out`.
struct CombineInPlace<'a> {
    center: &'a [f32],
    factors: (f64, f64),
    out: &'a mut [f32],
}

impl SimdOp for CombineInPlace<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _isa: I) {
        let (a, b) = self.factors;
        for (out, &center) in self.out.iter_mut().zip(self.center) {
            *out = (a * f64::from(center) + b * f64::from(*out)) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(dimension: usize) -> (Parameters, Vec<f32>) {
        let layout = ParameterLayout::new([("a".to_owned(), vec![dimension / 2]), ("b".to_owned(), vec![dimension - dimension / 2])]);
        let center: Vec<f32> = (0..dimension).map(|i| (i as f32 * 0.7).sin()).collect();
        let values = (0..dimension).map(|i| (i as f32 * 1.3).cos()).collect();
        (Parameters::new(layout, center), values)
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
    fn a_point_is_rounded_once_and_does_not_depend_on_threads() {
        let dimension = 3 * BLOCK + 17;
        let (center, values) = example(dimension);
        let direction = Direction::from_values(values.clone(), 1.0 / 3.0, center.values());
        let point = RayPoint { center: 0.75, direction: 1e-7 + 2.0 };
        let step = point.direction * (1.0 / 3.0);
        let exact: Vec<f32> =
            (center.values().iter().zip(&values)).map(|(&c, &y)| (0.75 * f64::from(c) + step * f64::from(y)) as f32).collect();
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut out = vec![0.0f32; dimension];
            pool.install(|| center.write_point(&direction, point, 0..dimension, &mut out));
            assert_eq!(out, exact, "{threads} threads");
            let range = 100..2 * BLOCK + 5;
            let mut part = vec![0.0f32; range.len()];
            pool.install(|| center.write_point(&direction, point, range.clone(), &mut part));
            assert_eq!(part, exact[range], "{threads} threads, a part");
        }
    }

    #[test]
    fn sums_are_those_of_f64() {
        let (center, _) = example(200_000);
        let exact: f64 = center.values().iter().map(|&value| f64::from(value).powi(2)).sum();
        assert!((center.sum_of_squares() / exact - 1.0).abs() < 1e-12);
        assert!((center.rms() - (exact / 200_000.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn the_hash_sees_one_bit() {
        let (center, _) = example(1000);
        let mut values = center.values().to_vec();
        values[999] = f32::from_bits(values[999].to_bits() ^ 1);
        assert_ne!(center.hash(), Parameters::new(center.layout().clone(), values).hash());
        assert_eq!(Parameters::new(ParameterLayout::new([("e".to_owned(), vec![0])]), vec![]).hash()[..8], *"e3b0c442");
    }
}
