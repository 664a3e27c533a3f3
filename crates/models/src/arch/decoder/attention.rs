//! Causal attention of one block of positions, memory linear in the length of the sequence.

use super::batch::Block;
use super::workspace::Scratch;
use super::{Attention, BLOCK, Batch, Decoder};
use crate::nn::attention::AttentionShape;
use crate::nn::{exponentiate_columns, soft_cap};
use crate::products::{Matrix, Sizes, product_strided};

/// Queries whose scores are computed together: smaller wastes less on the masked half of the diagonal.
const QUERIES: usize = 64;

/// Heads and scores of a layer's attention.
pub(super) fn shape_of(decoder: &Decoder, attention: &Attention) -> AttentionShape {
    let Attention { scale, cap, window, .. } = *attention;
    AttentionShape { heads: decoder.heads.queries, key_value_heads: decoder.heads.keys, width: decoder.heads.width, scale, cap, window }
}

/// Writes the attended values `[heads * head_width, columns]` of a block to `scratch.attended`. `queries` are the block's own,
/// `keys` and `values` those of all blocks.
pub(super) fn attend(
    decoder: &Decoder,
    attention: &Attention,
    batch: &Batch,
    block: &Block,
    (queries, keys, values): (&[f32], &[f32], &[f32]),
    scratch: &mut Scratch,
) {
    let columns = block.columns;
    let width = decoder.heads.width;
    let attended = &mut scratch.attended[..decoder.heads.query_width() * columns];
    if block.count < columns {
        // Padding columns are multiplied on, never read: they must only be finite.
        attended.fill(0.0);
    }
    for (sequence, segment) in &block.segments {
        for first in segment.clone().step_by(QUERIES) {
            let end = (first + QUERIES).min(segment.end);
            let count = end - first;
            let stride = count.next_multiple_of(16);
            let start = attention.window.map_or(*sequence, |window| (*sequence).max((first + 1).saturating_sub(window)));
            let rows = end - start;
            let scores = &mut scratch.scores[..rows * stride];
            for head in 0..decoder.heads.queries {
                let shared = decoder.heads.shared(head);
                let own = head * width * columns + (first - block.start)..(head + 1) * width * columns;
                let query = Matrix::rows(&queries[own], columns);
                for (offset, keys) in pieces(decoder, batch, keys, shared, start, end) {
                    let count_keys = keys.1;
                    let keys = Matrix::columns(keys.0, keys.2);
                    product_strided(
                        &mut scores[offset * stride..],
                        stride,
                        keys,
                        query,
                        Sizes { rows: count_keys, inner: width, columns: count },
                        false,
                    );
                }
                let mut scale = attention.scale;
                if let Some(cap) = attention.cap {
                    soft_cap(scores, scale, cap);
                    scale = 1.0;
                }
                for (row, scores) in scores.chunks_exact_mut(stride).enumerate() {
                    let key = start + row;
                    // Queries before the key do not see it, nor do those from `key + window` on.
                    scores[..key.saturating_sub(first).min(count)].fill(f32::NEG_INFINITY);
                    if let Some(window) = attention.window {
                        scores[(key + window).saturating_sub(first).min(count)..count].fill(f32::NEG_INFINITY);
                    }
                    scores[count..].fill(0.0);
                }
                exponentiate_columns(scores, stride, scale, &mut scratch.reciprocals[..stride]);
                let place = head * width * columns + (first - block.start);
                for (offset, values) in pieces(decoder, batch, values, shared, start, end) {
                    let count_keys = values.1;
                    let values = Matrix::rows(values.0, values.2);
                    let probabilities = Matrix::rows(&scores[offset * stride..], stride);
                    product_strided(
                        &mut attended[place..],
                        columns,
                        values,
                        probabilities,
                        Sizes { rows: width, inner: count_keys, columns: count },
                        offset > 0,
                    );
                }
                for row in attended[place..(head + 1) * width * columns].chunks_mut(columns) {
                    row[..count].iter_mut().zip(&scratch.reciprocals).for_each(|(value, reciprocal)| *value *= reciprocal);
                }
            }
        }
    }
}

/// The keys (or values) of one head at the positions `start..end`, block by block: offset from `start`, and the slice from the first of
/// them on with their number and the distance of features.
fn pieces<'a>(
    decoder: &Decoder,
    batch: &'a Batch,
    all: &'a [f32],
    head: usize,
    start: usize,
    end: usize,
) -> impl Iterator<Item = (usize, (&'a [f32], usize, usize))> {
    let (width, features) = (decoder.heads.width, decoder.heads.key_width());
    batch.blocks[start / BLOCK..end.div_ceil(BLOCK)].iter().map(move |block| {
        let part = &all[Batch::part(block, features)];
        let from = start.max(block.start);
        let until = end.min(block.start + block.count);
        let slice = &part[head * width * block.columns + (from - block.start)..(head + 1) * width * block.columns];
        (from - start, (slice, until - from, block.columns))
    })
}
