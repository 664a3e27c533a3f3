//! The coordinates that a ray moves: all weights, or those of some tensors, with the others fixed at the center.

use std::cell::RefCell;
use std::ops::Range;

use basin_volume::direction::{self, BLOCK, Direction};
use basin_volume::objective::RayPoint;
use rayon::prelude::*;
use regex::Regex;
use rten_simd::{Isa, SimdOp};

use super::cells::{Block, sides};
use super::{Chosen, Parameter, ParameterLayout, Parameters};

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
    /// A component has no weight of the tensors that are chosen by name.
    #[error("none of the {tensors} tensors chosen by name has a weight of the component")]
    Apart {
        /// Number of tensors that the names choose.
        tensors: usize,
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

/// What moves of one tensor: all of it, or a matrix cut out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cut {
    /// Number of the tensor among all.
    tensor: usize,
    block: Block,
}

/// What moves of one tensor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MovingTensor<'a> {
    /// Number of the tensor among all.
    #[cfg_attr(not(feature = "tensors"), expect(dead_code, reason = "devices hold tensor by tensor"))]
    pub(crate) number: usize,
    /// The whole tensor, at its place among all weights.
    pub(crate) whole: &'a Parameter,
    /// What moves of it as a tensor of its own, at its place among the moving weights.
    pub(crate) own: &'a Parameter,
    /// Its rows and columns.
    pub(crate) block: &'a Block,
}

impl MovingTensor<'_> {
    /// Whether all of the tensor moves.
    pub(crate) fn is_whole(&self) -> bool {
        self.own.len() == self.whole.len()
    }
}

/// A center and which of its weights a ray moves. The `D` moving weights are numbered in the order of the layout; everything that an
/// estimator asks for (dimension, norm, rms) is about them alone.
///
/// Of a tensor that moves in part, the rows and columns that move are a tensor of their own, named after both (`q.weight[0:16, :]`). Several of
/// them, where the elements that move are no matrix.
#[derive(Debug, Clone)]
pub struct Moving {
    center: Parameters,
    layout: ParameterLayout,
    /// One for every tensor of the layout.
    cuts: Vec<Cut>,
    /// In the order of both numberings.
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
        let cut = |(tensor, parameter): (usize, &Parameter)| {
            let (rows, columns) = sides(parameter);
            Cut { tensor, block: Block { rows: (0..rows).into(), columns: (0..columns).into() } }
        };
        Self {
            layout: center.layout().clone(),
            cuts: center.layout().parameters().iter().enumerate().map(cut).collect(),
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
        Self::matching_but(center, include, exclude, &[], None)
    }

    /// The same without the tensors of these names, and of what is left only the weights of a component.
    ///
    /// # Errors
    /// As [`Moving::matching`].
    pub fn matching_but(
        center: Parameters,
        include: Option<&str>,
        exclude: Option<&str>,
        fixed: &[String],
        component: Option<&Chosen>,
    ) -> Result<Self, SelectionError> {
        let (include, exclude) = (include.map(expression).transpose()?, exclude.map(expression).transpose()?);
        let is_left_out = |name: &str| exclude.as_ref().is_some_and(|e| e.is_match(name)) || fixed.iter().any(|fixed| fixed == name);
        let chosen = |name: &str| include.as_ref().is_none_or(|e| e.is_match(name)) && !is_left_out(name);
        let by_name = Chosen::of_names(center.layout(), chosen);
        if by_name.count() == 0 {
            let parameters = center.layout().parameters();
            let name = |parameter: Option<&Parameter>| parameter.map_or_else(String::new, |parameter| parameter.name.clone());
            return Err(SelectionError::Empty { count: parameters.len(), first: name(parameters.first()), last: name(parameters.last()) });
        }
        let meant = component.map_or_else(|| by_name.clone(), |component| by_name.intersection(component));
        Self::of(center, &meant).ok_or_else(|| SelectionError::Apart { tensors: by_name.tensors().count() })
    }

    /// The coordinates that a set has; none if it has none.
    #[must_use]
    pub fn of(center: Parameters, chosen: &Chosen) -> Option<Self> {
        let dimension = chosen.count();
        if dimension == 0 {
            return None;
        }
        if dimension == center.dimension() {
            return Some(center.into());
        }
        let (mut pieces, mut cuts, mut tensors): (Vec<Piece>, Vec<Cut>, Vec<_>) = (Vec::new(), Vec::new(), Vec::new());
        let mut moving = 0;
        for (tensor, cells) in chosen.tensors() {
            let parameter = &center.layout().parameters()[tensor];
            for block in cells.blocks() {
                for place in block.places(parameter) {
                    let full = parameter.offset + place.start;
                    match pieces.last_mut() {
                        Some(last) if last.full + last.length == full => last.length += place.len(),
                        _ => pieces.push(Piece { moving, full, length: place.len() }),
                    }
                    moving += place.len();
                }
                tensors.push(block.described(parameter));
                cuts.push(Cut { tensor, block });
            }
        }
        let mut moving = Self { center, layout: ParameterLayout::new(tensors), cuts, pieces, sum_of_squares: 0.0 };
        let mut block = vec![0.0f32; BLOCK.min(dimension)];
        for start in (0..dimension).step_by(BLOCK) {
            let range = start..(start + BLOCK).min(dimension);
            let values = &mut block[..range.len()];
            moving.fill(range, values);
            moving.sum_of_squares += direction::dot(values, values);
        }
        Some(moving)
    }

    /// What moves of every tensor of which something does, in the order of the layout.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = MovingTensor<'_>> {
        let all = self.center.layout().parameters();
        self.cuts.iter().zip(self.layout.parameters()).map(move |(cut, own)| MovingTensor {
            number: cut.tensor,
            whole: &all[cut.tensor],
            own,
            block: &cut.block,
        })
    }

    /// Whether a weight of the tensor of this name moves.
    pub(crate) fn touches(&self, name: &str) -> bool {
        self.tensors().any(|tensor| tensor.whole.name == name)
    }

    /// Of how many tensors of the model weights move.
    #[must_use]
    pub fn tensors_touched(&self) -> usize {
        let mut numbers: Vec<usize> = self.cuts.iter().map(|cut| cut.tensor).collect();
        numbers.dedup();
        numbers.len()
    }

    /// Whether of some tensors a part moves and the rest does not.
    #[must_use]
    pub fn has_parts_of_tensors(&self) -> bool {
        self.tensors().any(|tensor| !tensor.is_whole())
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
        Self { center, layout: self.layout.clone(), cuts: self.cuts.clone(), pieces: self.pieces.clone(), sum_of_squares }
    }

    /// Writes those of all weights' values (a gradient) that belong to moving weights into `out`: the other way of [`Moving::scatter`].
    ///
    /// # Panics
    /// If a length is wrong.
    pub fn gather(&self, values: &[f32], out: &mut [f32]) {
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
        if self.pieces.len() > 1 && self.dimension() / self.pieces.len() < SHORT {
            return self.write_short(direction, factors, weights);
        }
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

    /// [`Moving::write_point`] for many short pieces: the moving weights by blocks, then each piece to its place.
    fn write_short(&self, direction: &Direction, factors: (f64, f64), weights: &mut [f32]) {
        let mut values = vec![0.0f32; self.dimension().min(BLOCK * rayon::current_num_threads())];
        let group = values.len();
        for first in (0..self.dimension()).step_by(group) {
            let values = &mut values[..group.min(self.dimension() - first)];
            values.par_chunks_mut(BLOCK).enumerate().for_each(|(block, out)| {
                let start = first + block * BLOCK;
                let range = start..start + out.len();
                CENTER_BLOCK.with_borrow_mut(|scratch| {
                    scratch.resize(scratch.len().max(out.len()), 0.0);
                    let center = &mut scratch[..out.len()];
                    self.fill(range.clone(), center);
                    match direction.stored() {
                        Some(values) => Combine { center, direction: &values[range], factors, out }.dispatch(),
                        None => {
                            direction.fill(range, out);
                            CombineInPlace { center, factors, out }.dispatch();
                        }
                    }
                });
            });
            let mut rest = &*values;
            for (full, length) in self.parts(first..first + values.len()) {
                let (own, tail) = rest.split_at(length);
                weights[full..full + length].copy_from_slice(own);
                rest = tail;
            }
        }
    }
}

/// Pieces that are shorter than this on average are written by blocks of moving weights instead of one by one.
const SHORT: usize = 1024;

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
    fn slices_move_alone_and_are_tensors_of_their_own() {
        let layout = ParameterLayout::new([("a", vec![4, 6]), ("b", vec![4]), ("c", vec![300, 400])].map(|(n, s)| (n.to_owned(), s)));
        let center = Parameters::new(layout.clone(), (0..layout.dimension()).map(|i| (i as f32 * 0.7).sin()).collect());
        // Rows of one tensor, and of another rows and columns that make no matrix.
        let mut chosen = Chosen::of_range(&layout, &(6..18));
        chosen.extend(&Chosen::of_range(&layout, &(25..26)));
        chosen.extend(&Chosen::of_block(&layout, 28, &(0..300).into(), &(8..16).into()));
        chosen.extend(&Chosen::of_block(&layout, 28, &(100..150).into(), &(0..400).into()));
        let moving = Moving::of(center.clone(), &chosen).unwrap();
        let names: Vec<&str> = moving.layout().parameters().iter().map(|parameter| parameter.name.as_str()).collect();
        assert_eq!(names, ["a[1:3, :]", "b[1:2]", "c[0:100, 8:16]", "c[100:150, :]", "c[150:300, 8:16]"]);
        assert_eq!((moving.dimension(), chosen.count()), (13 + 250 * 8 + 50 * 400, 13 + 250 * 8 + 50 * 400));
        assert!(moving.has_parts_of_tensors() && moving.touches("c") && !moving.is_whole());
        // What is gathered and scattered is what a mask has.
        let all = center.values();
        let is_in = |i: usize| match i {
            0..28 => (6..18).contains(&i) || i == 25,
            _ => (100..150).contains(&((i - 28) / 400)) || (8..16).contains(&((i - 28) % 400)),
        };
        let own: Vec<f32> = (0..all.len()).filter(|&i| is_in(i)).map(|i| all[i]).collect();
        let mut filled = vec![0.0; moving.dimension()];
        moving.fill(0..filled.len(), &mut filled);
        assert_eq!(filled, own);
        let exact: f64 = own.iter().map(|&x| f64::from(x).powi(2)).sum();
        assert!((moving.sum_of_squares() / exact - 1.0).abs() < 1e-12 && (moving.rms() - (exact / own.len() as f64).sqrt()).abs() < 1e-12);
        let mut gathered = vec![0.0; own.len()];
        moving.gather(&all, &mut gathered);
        assert_eq!(gathered, own);
        // A point has the moved values in their places and the center elsewhere, on any number of threads.
        let values: Vec<f32> = (0..own.len()).map(|i| (i as f32 * 1.3).cos()).collect();
        let direction = Direction::from_values(values.clone(), 1.0, &own);
        let mut moved = own.iter().zip(&values).map(|(&c, &y)| (f64::from(c) + 0.5 * f64::from(y)) as f32);
        let expected: Vec<f32> = all.iter().enumerate().map(|(i, &c)| if is_in(i) { moved.next().unwrap() } else { c }).collect();
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut weights = Vec::new();
            moving.prepare(&mut weights);
            pool.install(|| moving.write_point(&direction, RayPoint::straight(0.5), &mut weights));
            assert_eq!(weights, expected, "{threads} threads");
        }
        // With names: what both leave.
        let rows = Chosen::of_range(&layout, &(6..18));
        let both = Moving::matching_but(center.clone(), Some("a|b"), None, &[], Some(&rows)).unwrap();
        assert_eq!((both.dimension(), both.layout().parameters()[0].name.as_str()), (12, "a[1:3, :]"));
        let message = Moving::matching_but(center, Some("b"), None, &[], Some(&rows)).unwrap_err().to_string();
        assert_eq!(message, "none of the 1 tensors chosen by name has a weight of the component");
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
