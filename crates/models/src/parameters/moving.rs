//! The coordinates that a ray moves: all weights, or those of some tensors, with the others fixed at the center.

use std::cell::RefCell;
use std::ops::Range;

use basin_volume::direction::{self, BLOCK, Direction};
use basin_volume::objective::RayPoint;
use rayon::prelude::*;
use regex::Regex;
use rten_simd::{Isa, SimdOp};

use super::{ParameterLayout, Parameters};

/// Why a choice of tensors cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectionError {
    /// Not a regular expression.
    #[error("`{pattern}` is not a regular expression ({problem})")]
    Pattern {
        /// What was given.
        pattern: String,
        /// What is wrong with it, in one line.
        problem: String,
    },
    /// Nothing is left to move.
    #[error("no tensor of the model is chosen: its {count} tensors have names like {first} and {last}")]
    Empty {
        /// Number of tensors.
        count: usize,
        /// Name of the first tensor.
        first: String,
        /// Name of the last tensor.
        last: String,
    },
}

/// Consecutive coordinates that move, and where they stand among all weights.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    moving: usize,
    full: usize,
    length: usize,
}

/// A center and which of its weights a ray moves. The `D` moving weights are numbered in the order of the layout; everything that an
/// estimator asks for (dimension, norm, rms) is about them alone.
#[derive(Debug, Clone)]
pub struct Moving {
    center: Parameters,
    layout: ParameterLayout,
    pieces: Vec<Piece>,
    sum_of_squares: f64,
}

thread_local! {
    /// A block of the center, converted.
    static CENTER_BLOCK: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl From<Parameters> for Moving {
    /// All weights move.
    fn from(center: Parameters) -> Self {
        Self {
            layout: center.layout().clone(),
            pieces: vec![Piece { moving: 0, full: 0, length: center.dimension() }],
            sum_of_squares: center.sum_of_squares(),
            center,
        }
    }
}

fn expression(pattern: &str) -> Result<Regex, SelectionError> {
    Regex::new(pattern).map_err(|error| {
        let text = error.to_string();
        let problem = text.lines().next_back().unwrap_or_default().trim_start_matches("error: ").to_owned();
        SelectionError::Pattern { pattern: pattern.to_owned(), problem }
    })
}

impl Moving {
    /// The tensors whose names `include` matches (all without it) and `exclude` does not. Expressions match anywhere in a name.
    ///
    /// # Errors
    /// When an expression is malformed, or nothing is left.
    pub fn matching(center: Parameters, include: Option<&str>, exclude: Option<&str>) -> Result<Self, SelectionError> {
        Self::matching_but(center, include, exclude, &[])
    }

    /// The same without the tensors of these names.
    ///
    /// # Errors
    /// As [`Moving::matching`].
    pub fn matching_but(
        center: Parameters,
        include: Option<&str>,
        exclude: Option<&str>,
        fixed: &[String],
    ) -> Result<Self, SelectionError> {
        let (include, exclude) = (include.map(expression).transpose()?, exclude.map(expression).transpose()?);
        let is_left_out = |name: &str| exclude.as_ref().is_some_and(|e| e.is_match(name)) || fixed.iter().any(|fixed| fixed == name);
        let chosen = |name: &str| include.as_ref().is_none_or(|e| e.is_match(name)) && !is_left_out(name);
        let mut pieces: Vec<Piece> = Vec::new();
        let mut tensors = Vec::new();
        let mut dimension = 0;
        for parameter in center.layout().parameters().iter().filter(|parameter| chosen(&parameter.name)) {
            match pieces.last_mut() {
                Some(last) if last.full + last.length == parameter.offset => last.length += parameter.len(),
                _ => pieces.push(Piece { moving: dimension, full: parameter.offset, length: parameter.len() }),
            }
            dimension += parameter.len();
            tensors.push((parameter.name.clone(), parameter.shape.clone()));
        }
        if dimension == 0 {
            let parameters = center.layout().parameters();
            let name = |parameter: Option<&super::Parameter>| parameter.map_or_else(String::new, |parameter| parameter.name.clone());
            return Err(SelectionError::Empty { count: parameters.len(), first: name(parameters.first()), last: name(parameters.last()) });
        }
        if dimension == center.dimension() {
            return Ok(center.into());
        }
        let mut moving = Self { center, layout: ParameterLayout::new(tensors), pieces, sum_of_squares: 0.0 };
        let mut block = vec![0.0f32; BLOCK.min(dimension)];
        for start in (0..dimension).step_by(BLOCK) {
            let range = start..(start + BLOCK).min(dimension);
            let values = &mut block[..range.len()];
            moving.fill(range, values);
            moving.sum_of_squares += direction::dot(values, values);
        }
        Ok(moving)
    }

    /// The whole center.
    #[must_use]
    pub fn center(&self) -> &Parameters {
        &self.center
    }

    /// Number of moving weights, `D`.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.layout.dimension()
    }

    /// Names, shapes and order of the moving tensors; offsets are among the moving weights.
    #[must_use]
    pub fn layout(&self) -> &ParameterLayout {
        &self.layout
    }

    /// Whether all weights move.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.dimension() == self.center.dimension()
    }

    /// Squared norm of the moving weights at the center, accumulated in `f64`.
    #[must_use]
    pub fn sum_of_squares(&self) -> f64 {
        self.sum_of_squares
    }

    /// Root mean square of the moving weights: the default scale of the prior.
    #[must_use]
    pub fn rms(&self) -> f64 {
        (self.sum_of_squares / self.dimension() as f64).sqrt()
    }

    /// The parts of `range` (of moving weights): first weight among all, and length.
    fn parts(&self, range: Range<usize>) -> impl Iterator<Item = (usize, usize)> {
        let first = self.pieces.partition_point(|piece| piece.moving + piece.length <= range.start);
        self.pieces[first..].iter().take_while(move |piece| piece.moving < range.end).map(move |piece| {
            let start = piece.moving.max(range.start);
            let end = (piece.moving + piece.length).min(range.end);
            (piece.full + (start - piece.moving), end - start)
        })
    }

    /// Writes the moving weights `range` of the center into `out`.
    ///
    /// # Panics
    /// If `out` has another length than `range`, or the range leaves the vector.
    pub fn fill(&self, range: Range<usize>, out: &mut [f32]) {
        assert_eq!(range.len(), out.len(), "the output must be as long as the range");
        assert!(range.end <= self.dimension(), "the range must lie inside the moving weights");
        let mut rest = out;
        for (full, length) in self.parts(range) {
            let (part, tail) = rest.split_at_mut(length);
            self.center.fill(full..full + length, part);
            rest = tail;
        }
    }

    /// Writes the moving weights given as a flat vector to their places among all weights.
    ///
    /// # Panics
    /// If a length is wrong.
    pub fn scatter(&self, values: &[f32], weights: &mut [f32]) {
        assert_eq!(values.len(), self.dimension(), "as many values as weights move");
        assert_eq!(weights.len(), self.center.dimension(), "the weights must be as long as the center");
        for piece in &self.pieces {
            weights[piece.full..piece.full + piece.length].copy_from_slice(&values[piece.moving..piece.moving + piece.length]);
        }
    }

    /// The same choice of weights around another center, which has `values` (length `D`) where they move. A copy of all weights.
    ///
    /// # Panics
    /// If the length is not `D`.
    #[must_use]
    pub(crate) fn centered_at(&self, values: &[f32]) -> Self {
        let mut weights = Vec::new();
        self.prepare(&mut weights);
        self.scatter(values, &mut weights);
        let sum_of_squares = values.chunks(BLOCK).map(|block| direction::dot(block, block)).sum();
        let center = Parameters::new(self.center.layout().clone(), weights);
        Self { center, layout: self.layout.clone(), pieces: self.pieces.clone(), sum_of_squares }
    }

    /// Writes those of all weights' values (a gradient) that belong to moving weights into `out`: the other way of [`Moving::scatter`].
    ///
    /// # Panics
    /// If a length is wrong.
    pub(crate) fn gather(&self, values: &[f32], out: &mut [f32]) {
        assert_eq!(values.len(), self.center.dimension(), "as many values as the center has weights");
        assert_eq!(out.len(), self.dimension(), "the output must be as long as the moving weights");
        for piece in &self.pieces {
            out[piece.moving..piece.moving + piece.length].copy_from_slice(&values[piece.full..piece.full + piece.length]);
        }
    }

    /// Makes `weights` a copy of the center unless it is one already but for the moving weights, which [`Moving::write_point`] writes.
    pub fn prepare(&self, weights: &mut Vec<f32>) {
        if weights.len() != self.center.dimension() {
            // Zeroed memory is not touched before it is written.
            *weights = vec![0.0; self.center.dimension()];
            if !self.is_whole() {
                self.center.fill(0..weights.len(), weights);
            }
        }
    }

    /// Writes the moving coordinates of `w = point.center * c + point.direction * v` to their places in `weights`, which holds all
    /// weights of the network ([`Moving::prepare`]).
    ///
    /// Every element is computed in `f64` and rounded once to `f32`, so the step `t` itself is never rounded. Runs over blocks on
    /// rayon's current pool when it has several threads; the bits depend on the arguments only.
    ///
    /// # Panics
    /// If `weights` or the direction have the wrong length.
    pub fn write_point(&self, direction: &Direction, point: RayPoint, weights: &mut [f32]) {
        assert_eq!(weights.len(), self.center.dimension(), "the weights must be as long as the center");
        assert_eq!(direction.dimension(), self.dimension(), "the direction must be as long as the moving weights");
        // v = scale * y: the product of step and scale stays in f64.
        let factors = (point.center, point.direction * direction.scale());
        let write = |start: usize, full: usize, out: &mut [f32]| {
            CENTER_BLOCK.with_borrow_mut(|scratch| {
                let center = self.center.slice(full..full + out.len(), scratch);
                let range = start..start + out.len();
                match direction.stored() {
                    Some(values) => Combine { center, direction: &values[range], factors, out }.dispatch(),
                    None => {
                        direction.fill(range, out);
                        CombineInPlace { center, factors, out }.dispatch();
                    }
                }
            });
        };
        let mut rest = weights;
        let mut passed = 0;
        for piece in &self.pieces {
            let (_, tail) = rest.split_at_mut(piece.full - passed);
            let (own, tail) = tail.split_at_mut(piece.length);
            (rest, passed) = (tail, piece.full + piece.length);
            // Parts end at multiples of BLOCK among the moving weights, where regenerated directions start cheapest.
            let head = (BLOCK - piece.moving % BLOCK).min(own.len());
            let (first, own) = own.split_at_mut(head);
            write(piece.moving, piece.full, first);
            let part = |(block, out): (usize, &mut [f32])| {
                let start = head + block * BLOCK;
                write(piece.moving + start, piece.full + start, out);
            };
            if rayon::current_num_threads() > 1 && own.len() > BLOCK {
                own.par_chunks_mut(BLOCK).enumerate().for_each(part);
            } else {
                own.chunks_mut(BLOCK).enumerate().for_each(part);
            }
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

    fn example(dimension: usize) -> Parameters {
        let sizes = [("a.weight", dimension / 2), ("a.bias", 3), ("b.weight", dimension - dimension / 2 - 10), ("b.bias", 7)];
        let layout = ParameterLayout::new(sizes.map(|(name, size)| (name.to_owned(), vec![size])));
        Parameters::new(layout, (0..dimension).map(|i| (i as f32 * 0.7).sin()).collect())
    }

    #[test]
    fn a_point_is_rounded_once_and_does_not_depend_on_threads() {
        let dimension = 3 * BLOCK + 17;
        let center = example(dimension);
        for exclude in [None, Some("a.bias"), Some("bias"), Some("^a")] {
            let moving = Moving::matching(center.clone(), None, exclude).unwrap();
            let values: Vec<f32> = (0..moving.dimension()).map(|i| (i as f32 * 1.3).cos()).collect();
            let mut own = vec![0.0; moving.dimension()];
            moving.fill(0..moving.dimension(), &mut own);
            let direction = Direction::from_values(values.clone(), 1.0 / 3.0, &own);
            let point = RayPoint { center: 0.75, direction: 1e-7 + 2.0 };
            let step = point.direction * (1.0 / 3.0);
            let moved: Vec<f32> = own.iter().zip(&values).map(|(&c, &y)| (0.75 * f64::from(c) + step * f64::from(y)) as f32).collect();
            let mut exact = center.values().to_vec();
            moving.scatter(&moved, &mut exact);
            for threads in [1, 2, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut weights = Vec::new();
                moving.prepare(&mut weights);
                pool.install(|| moving.write_point(&direction, point, &mut weights));
                assert_eq!(weights, exact, "{threads} threads, without {exclude:?}");
            }
        }
    }

    #[test]
    fn a_choice_of_tensors_has_its_own_dimension_norm_and_names() {
        let center = example(100);
        let moving = Moving::matching(center.clone(), Some("weight"), Some("^b")).unwrap();
        assert_eq!((moving.dimension(), moving.is_whole()), (50, false));
        assert_eq!(moving.layout().parameters()[0].name, "a.weight");
        let exact: f64 = center.values()[..50].iter().map(|&x| f64::from(x).powi(2)).sum();
        assert!((moving.sum_of_squares() / exact - 1.0).abs() < 1e-14 && (moving.rms() - (exact / 50.0).sqrt()).abs() < 1e-14);
        let biases = Moving::matching(center.clone(), Some("bias$"), None).unwrap();
        let mut part = [0.0; 4];
        biases.fill(1..5, &mut part);
        assert_eq!(part, [center.values()[51], center.values()[52], center.values()[93], center.values()[94]]);
        assert!(Moving::matching(center.clone(), Some("."), Some("nothing")).unwrap().is_whole());
        let message = Moving::matching(center.clone(), Some("c"), None).unwrap_err().to_string();
        assert!(message.contains("4 tensors") && message.contains("a.weight"), "{message}");
        let message = Moving::matching(center, Some("("), None).unwrap_err().to_string();
        assert!(message.starts_with("`(` is not a regular expression (") && message.lines().count() == 1, "{message}");
    }
}
