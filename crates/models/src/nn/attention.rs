//! One sequence and one head of keys and values, with the heads of queries that share them: forward, and backward by computing the
//! probabilities again. Memory is linear in the length of the sequence.

use rten_simd::{Isa, SimdOp};

use super::{exponentiate_columns, soft_cap};
use crate::products::{Matrix, Sizes, product_strided};

/// Queries whose scores are computed together.
const QUERIES: usize = 64;

/// Heads and the treatment of their scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct AttentionShape {
    pub(crate) heads: usize,
    /// Divides `heads`: consecutive heads share keys and values.
    pub(crate) key_value_heads: usize,
    /// Features of one head.
    pub(crate) width: usize,
    /// Factor of the scores.
    pub(crate) scale: f32,
    /// Soft limit of the scores.
    pub(crate) cap: Option<f32>,
    /// Keys each query sees, itself included.
    pub(crate) window: Option<usize>,
}

/// Some queries and the keys they can see.
struct Tile {
    first: usize,
    count: usize,
    start: usize,
    /// Number of keys from `start` on.
    keys: usize,
    /// Columns of the scores `[keys, stride]`: `count` rounded up.
    stride: usize,
}

fn tiles(shape: &AttentionShape, length: usize) -> impl Iterator<Item = Tile> {
    let window = shape.window.unwrap_or(usize::MAX);
    (0..length).step_by(QUERIES).map(move |first| {
        let end = (first + QUERIES).min(length);
        let start = (first + 1).saturating_sub(window);
        Tile { first, count: end - first, start, keys: end - start, stride: (end - first).next_multiple_of(16) }
    })
}

impl Tile {
    /// The rows of `[length, width]` that are this tile's queries.
    fn queries<'a>(&self, values: &'a [f32], width: usize) -> &'a [f32] {
        &values[self.first * width..(self.first + self.count) * width]
    }

    /// The rows that are the keys it sees.
    fn keys<'a>(&self, values: &'a [f32], width: usize) -> &'a [f32] {
        &values[self.start * width..(self.start + self.keys) * width]
    }

    /// Writes `value` where a query does not see a key.
    fn mask(&self, shape: &AttentionShape, scores: &mut [f32], value: f32) {
        for (row, scores) in scores.chunks_exact_mut(self.stride).enumerate() {
            let key = self.start + row;
            scores[..key.saturating_sub(self.first).min(self.count)].fill(value);
            if let Some(window) = shape.window {
                scores[(key + window).saturating_sub(self.first).min(self.count)..self.count].fill(value);
            }
        }
    }

    /// Exponentials of the scores, and the reciprocals of their sums; `capped` receives the scores before the softmax where there is a
    /// soft limit.
    fn scores(
        &self,
        shape: &AttentionShape,
        queries: &[f32],
        keys: &[f32],
        scores: &mut [f32],
        reciprocals: &mut [f32],
        capped: Option<&mut [f32]>,
    ) {
        let width = shape.width;
        scores.fill(0.0);
        let left = Matrix::rows(self.keys(keys, width), width);
        let right = Matrix::columns(self.queries(queries, width), width);
        product_strided(scores, self.stride, left, right, Sizes { rows: self.keys, inner: width, columns: self.count }, false);
        let mut scale = shape.scale;
        if let Some(cap) = shape.cap {
            soft_cap(scores, scale, cap);
            scale = 1.0;
            if let Some(capped) = capped {
                capped.copy_from_slice(scores);
            }
        }
        self.mask(shape, scores, f32::NEG_INFINITY);
        exponentiate_columns(scores, self.stride, scale, reciprocals);
    }
}

/// What one head of queries reads, `[length, width]` each; queries and keys turned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadInputs<'a> {
    pub(crate) queries: &'a [f32],
    pub(crate) keys: &'a [f32],
    pub(crate) values: &'a [f32],
}

/// Their gradients: of the queries written, of keys and values, which several heads may share, added up.
#[derive(Debug)]
pub(crate) struct HeadSlopes<'a> {
    pub(crate) queries: &'a mut [f32],
    pub(crate) keys: &'a mut [f32],
    pub(crate) values: &'a mut [f32],
}

/// Buffers of one tile; used again from one to the next.
#[derive(Debug, Default)]
pub(crate) struct TileSpace {
    scores: Vec<f32>,
    changes: Vec<f32>,
    capped: Vec<f32>,
}

impl TileSpace {
    /// Numbers for each key of a sequence.
    pub(crate) const WIDTH: usize = 3 * QUERIES;
}

/// The gradients of what one head of queries reads from those of its attended values, `[length, width]`. The probabilities are computed
/// again, tile by tile: memory is linear in the length.
pub(crate) fn head_backward(
    shape: &AttentionShape,
    inputs: HeadInputs<'_>,
    slopes: &[f32],
    results: HeadSlopes<'_>,
    space: &mut TileSpace,
) {
    let width = shape.width;
    let length = inputs.keys.len() / width;
    let TileSpace { scores, changes, capped } = space;
    let size = |buffer: &mut Vec<f32>| buffer.resize(buffer.len().max(length * QUERIES), 0.0);
    size(scores);
    size(changes);
    if shape.cap.is_some() {
        size(capped);
    }
    let mut reciprocals = [0.0f32; QUERIES];
    for tile in tiles(shape, length) {
        let (keys, count, stride) = (tile.keys, tile.count, tile.stride);
        let (scores, changes) = (&mut scores[..keys * stride], &mut changes[..keys * stride]);
        let reciprocals = &mut reciprocals[..stride];
        let capped = match shape.cap {
            Some(cap) => {
                let capped = &mut capped[..keys * stride];
                tile.scores(shape, inputs.queries, inputs.keys, scores, reciprocals, Some(capped));
                Some((cap, &*capped))
            }
            None => {
                tile.scores(shape, inputs.queries, inputs.keys, scores, reciprocals, None);
                None
            }
        };
        // Exact zeros: products of the tiny values that stand there would be denormal and slow.
        tile.mask(shape, scores, 0.0);
        changes.fill(0.0);
        let outgoing = tile.queries(slopes, width);
        let left = Matrix::rows(tile.keys(inputs.values, width), width);
        let right = Matrix::columns(outgoing, width);
        product_strided(changes, stride, left, right, Sizes { rows: keys, inner: width, columns: count }, false);
        SoftmaxBackward { scores, reciprocals, changes, capped, scale: shape.scale, stride }.dispatch();
        let place = tile.start * width..(tile.start + keys) * width;
        let sizes = Sizes { rows: keys, inner: count, columns: width };
        let right = Matrix::rows(outgoing, width);
        product_strided(&mut results.values[place.clone()], width, Matrix::rows(scores, stride), right, sizes, true);
        let right = Matrix::rows(tile.queries(inputs.queries, width), width);
        product_strided(&mut results.keys[place], width, Matrix::rows(changes, stride), right, sizes, true);
        let right = Matrix::rows(tile.keys(inputs.keys, width), width);
        let sizes = Sizes { rows: count, inner: keys, columns: width };
        let target = &mut results.queries[tile.first * width..][..count * width];
        product_strided(target, width, Matrix::columns(changes, stride), right, sizes, false);
    }
}

/// Makes probabilities of the exponentials `scores` and, of their gradients `changes`, those of the products of queries and keys:
/// `p (dp - sum p dp) scale`, times `1 - (s/cap)^2` with a soft limit. An operation of `rten_simd` only to have the plain loops compiled
/// for the widest vectors of the machine.
struct SoftmaxBackward<'a> {
    scores: &'a mut [f32],
    reciprocals: &'a [f32],
    changes: &'a mut [f32],
    capped: Option<(f32, &'a [f32])>,
    scale: f32,
    stride: usize,
}

impl SimdOp for SoftmaxBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _isa: I) {
        let stride = self.stride;
        let mut sums = [0.0f32; QUERIES];
        for (scores, changes) in self.scores.chunks_exact_mut(stride).zip(self.changes.chunks_exact(stride)) {
            for (((score, change), reciprocal), sum) in scores.iter_mut().zip(changes).zip(self.reciprocals).zip(&mut sums) {
                *score *= reciprocal;
                *sum += *score * change;
            }
        }
        for (changes, scores) in self.changes.chunks_exact_mut(stride).zip(self.scores.chunks_exact(stride)) {
            for ((change, score), sum) in changes.iter_mut().zip(scores).zip(&sums) {
                *change = (*change - sum) * score * self.scale;
            }
        }
        if let Some((cap, capped)) = self.capped {
            for (change, score) in self.changes.iter_mut().zip(capped) {
                let relative = score / cap;
                *change *= 1.0 - relative * relative;
            }
        }
    }
}
