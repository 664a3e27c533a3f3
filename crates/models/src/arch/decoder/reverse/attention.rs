//! Attention backwards: one task for each sequence and head of keys, which computes the probabilities again tile by tile.

use std::sync::{Mutex, PoisonError};

use crate::arch::decoder::attention::shape_of;
use crate::arch::decoder::batch::Block;
use crate::arch::decoder::forward::for_each;
use crate::arch::decoder::tape::LayerTape;
use crate::arch::decoder::{Attention, Batch, Decoder, Heads};
use crate::nn::attention::{self, HeadInputs, HeadSlopes, TileSpace};

/// Slopes of queries, keys and values, sequence by sequence and head by head of the keys: those of the queries that share it, one head after
/// the other, of the keys, of the values, `[length, width]` each.
#[derive(Debug, Default)]
pub(super) struct AttentionSpace {
    slopes: Vec<f32>,
    tasks: Mutex<Vec<TaskSpace>>,
}

/// What one task needs: copies of its heads, `[length, width]`.
#[derive(Debug, Default)]
struct TaskSpace {
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    slopes: Vec<f32>,
    tiles: TileSpace,
}

impl AttentionSpace {
    pub(super) fn bytes(decoder: &Decoder, count: usize, longest: usize, threads: usize) -> usize {
        let projected = decoder.heads.query_width() + 2 * decoder.heads.key_width();
        4 * (count * projected + threads * longest * (4 * decoder.heads.width + TileSpace::WIDTH))
    }

    /// Copies the slopes of a block to `[features, columns]`; padding becomes zero.
    pub(super) fn gather(&self, decoder: &Decoder, batch: &Batch, block: &Block, [queries, keys, values]: [&mut [f32]; 3]) {
        let (heads, columns) = (decoder.heads, block.columns);
        let width = heads.width;
        if block.count < columns {
            queries.fill(0.0);
            keys.fill(0.0);
            values.fill(0.0);
        }
        for (start, positions) in &block.segments {
            let length = batch.length_from(*start);
            let sequence = &self.slopes[start * per_position(heads)..][..length * per_position(heads)];
            let from = positions.start - start..positions.end - start;
            let column = positions.start - block.start;
            for (shared, own) in sequence.chunks_exact(length * per_position(heads) / heads.keys).enumerate() {
                let group = heads.queries / heads.keys;
                for (index, part) in own.chunks_exact(length * width).enumerate() {
                    let (target, head) = match index {
                        _ if index < group => (&mut *queries, shared * group + index),
                        _ if index == group => (&mut *keys, shared),
                        _ => (&mut *values, shared),
                    };
                    let target = &mut target[head * width * columns..(head + 1) * width * columns];
                    let rows = part[from.start * width..from.end * width].chunks_exact(width);
                    for (row, column) in rows.zip(column..) {
                        for (target, slope) in target[column..].iter_mut().step_by(columns).zip(row) {
                            *target = *slope;
                        }
                    }
                }
            }
        }
    }
}

/// Features of queries, keys and values together.
fn per_position(heads: Heads) -> usize {
    heads.query_width() + 2 * heads.key_width()
}

/// Copies one head at the positions of a sequence to `[length, width]`.
fn gather_head(
    values: &[f32],
    features: usize,
    head: usize,
    width: usize,
    batch: &Batch,
    (start, length): (usize, usize),
    out: &mut Vec<f32>,
) {
    out.resize(length * width, 0.0);
    for block in batch.blocks_of(start..start + length) {
        let part = &values[Batch::part(block, features)][head * width * block.columns..(head + 1) * width * block.columns];
        let (from, until) = (start.max(block.start), (start + length).min(block.start + block.count));
        let rows = &mut out[(from - start) * width..(until - start) * width];
        for (feature, row) in part.chunks_exact(block.columns).enumerate() {
            let own = &row[from - block.start..until - block.start];
            rows[feature..].iter_mut().step_by(width).zip(own).for_each(|(target, value)| *target = *value);
        }
    }
}

/// From the slopes of the attended values, `[query features, columns]`, to those in `space`.
pub(super) fn backward(
    decoder: &Decoder,
    own: &Attention,
    batch: &Batch,
    tape: &LayerTape,
    of_attended: &[f32],
    space: &mut AttentionSpace,
) {
    let heads = decoder.heads;
    let (width, group) = (heads.width, heads.queries / heads.keys);
    let shape = shape_of(decoder, own);
    let AttentionSpace { slopes, tasks: spaces } = space;
    let spaces = &*spaces;
    slopes.resize(batch.ids.len() * per_position(heads), 0.0);
    let mut items = Vec::with_capacity(batch.sequences.len() * heads.keys);
    let mut rest = &mut slopes[..];
    for sequence in &batch.sequences {
        for shared in 0..heads.keys {
            let (own, after) = std::mem::take(&mut rest).split_at_mut(sequence.len() * (group + 2) * width);
            items.push((sequence, shared, own));
            rest = after;
        }
    }
    for_each(items, |(sequence, shared, own)| {
        let mut task = spaces.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        let place = (sequence.start, sequence.len());
        let length = sequence.len() * width;
        gather_head(&tape.keys, heads.key_width(), shared, width, batch, place, &mut task.keys);
        gather_head(&tape.values, heads.key_width(), shared, width, batch, place, &mut task.values);
        let (of_queries, of_rest) = own.split_at_mut(group * length);
        let (of_keys, of_values) = of_rest.split_at_mut(length);
        of_keys.fill(0.0);
        of_values.fill(0.0);
        for (index, of_queries) in of_queries.chunks_exact_mut(length).enumerate() {
            let head = shared * group + index;
            gather_head(&tape.queries, heads.query_width(), head, width, batch, place, &mut task.queries);
            gather_head(of_attended, heads.query_width(), head, width, batch, place, &mut task.slopes);
            let inputs = HeadInputs { queries: &task.queries, keys: &task.keys, values: &task.values };
            let results = HeadSlopes { queries: of_queries, keys: of_keys, values: of_values };
            attention::head_backward(&shape, inputs, &task.slopes, results, &mut task.tiles);
        }
        spaces.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    });
}
