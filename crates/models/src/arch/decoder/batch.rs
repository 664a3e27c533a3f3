//! Token sequences of different lengths laid side by side: no padding is computed but the last block's.

use std::ops::Range;

use super::{Decoder, Rotary};

/// Positions that go through a layer together; their activations are `[features, columns]`. A guess that keeps
/// them in the second-level cache; not measured yet.
pub(crate) const BLOCK: usize = 128;

/// Blocks are padded to a multiple of this many columns, the height of gemm's widest kernel.
const PADDING: usize = 16;

/// Consecutive positions of the batch.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    /// First position; a multiple of [`BLOCK`].
    pub(crate) start: usize,
    /// Number of positions.
    pub(crate) count: usize,
    /// `count` rounded up.
    pub(crate) columns: usize,
    /// The parts of sequences inside: the sequence's first position, and the positions here.
    pub(crate) segments: Vec<(usize, Range<usize>)>,
}

/// Sequences with everything about them that does not depend on the weights.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) ids: Vec<u32>,
    /// Place of each position in its sequence.
    pub(crate) places: Vec<usize>,
    pub(crate) blocks: Vec<Block>,
    /// One for each of the decoder's rotations.
    pub(crate) turns: Vec<Turns>,
    pub(crate) longest: usize,
    /// Positions of every sequence.
    pub(crate) sequences: Vec<Range<usize>>,
}

/// What a rotation multiplies by: per block `[rotary width / 2, columns]`, block after block.
#[derive(Debug, Clone)]
pub(crate) struct Turns {
    pub(crate) cosines: Vec<f32>,
    pub(crate) sines: Vec<f32>,
}

impl Turns {
    /// `places` are those of all positions in their sequences, `lengths` those of the sequences of all positions.
    fn new(rotary: &Rotary, blocks: &[Block], places: &[usize], lengths: &[usize]) -> Self {
        let (mut cosines, mut sines) = (Vec::new(), Vec::new());
        for block in blocks {
            for pair in 0..rotary.width / 2 {
                for column in 0..block.columns {
                    let (place, length) =
                        if column < block.count { (places[block.start + column], lengths[block.start + column]) } else { (0, 0) };
                    // The angle is rounded to f32 as the models' own code does.
                    let angle = f64::from(place as f32 * rotary.frequencies(length)[pair]);
                    cosines.push((angle.cos() * rotary.factor) as f32);
                    sines.push((angle.sin() * rotary.factor) as f32);
                }
            }
        }
        Self { cosines, sines }
    }
}

/// `count` positions in blocks: start, count, columns.
pub(crate) fn blocks_of(count: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..count).step_by(BLOCK).map(move |start| {
        let count = BLOCK.min(count - start);
        (start, count, count.next_multiple_of(PADDING))
    })
}

/// Columns of all blocks together.
pub(crate) fn padded(count: usize) -> usize {
    blocks_of(count).map(|(_, _, columns)| columns).sum()
}

/// Positions in runs of up to [`BLOCK`], each with its number of columns, for what is computed at some positions only.
pub(crate) fn head_blocks(positions: &[usize]) -> impl Iterator<Item = (&[usize], usize)> {
    positions.chunks(BLOCK).map(|positions| (positions, positions.len().next_multiple_of(PADDING)))
}

impl Batch {
    /// Copies the columns of some positions out of block-wise `[features, columns]` values into one block `[features, columns]`; the
    /// columns beyond the positions become zero.
    pub(crate) fn gather(&self, values: &[f32], features: usize, positions: &[usize], columns: usize, out: &mut [f32]) {
        assert_eq!(out.len(), features * columns, "the output must be [features, columns]");
        if positions.len() < columns {
            out.fill(0.0);
        }
        // Runs of consecutive positions in the same block are copied row by row.
        let mut column = 0;
        while column < positions.len() {
            let first = positions[column];
            let block = &self.blocks[first / BLOCK];
            let mut length = 1;
            while column + length < positions.len()
                && positions[column + length] == first + length
                && first + length < block.start + block.count
            {
                length += 1;
            }
            let part = &values[Self::part(block, features)];
            for (feature, out) in out.chunks_exact_mut(columns).enumerate() {
                let start = feature * block.columns + (first - block.start);
                out[column..column + length].copy_from_slice(&part[start..start + length]);
            }
            column += length;
        }
    }

    /// Adds one block `[features, columns]`, as [`Batch::gather`] makes it, to the positions' columns of block-wise values.
    pub(crate) fn scatter(&self, block_values: &[f32], features: usize, positions: &[usize], columns: usize, out: &mut [f32]) {
        for (column, &position) in positions.iter().enumerate() {
            let block = &self.blocks[position / BLOCK];
            let part = &mut out[Self::part(block, features)];
            let targets = part[position - block.start..].iter_mut().step_by(block.columns);
            targets.zip(block_values[column..].iter().step_by(columns)).for_each(|(target, value)| *target += value);
        }
    }

    /// Length of the sequence that begins at a position.
    pub(super) fn length_from(&self, start: usize) -> usize {
        let index = self.sequences.partition_point(|sequence| sequence.start < start);
        self.sequences[index].len()
    }

    /// The blocks that hold some positions.
    pub(super) fn blocks_of(&self, positions: Range<usize>) -> &[Block] {
        &self.blocks[positions.start / BLOCK..positions.end.div_ceil(BLOCK)]
    }

    /// Sequences of the given lengths, one after the other in `ids`.
    pub(crate) fn new(decoder: &Decoder, ids: &[u32], lengths: &[usize]) -> Self {
        let places: Vec<usize> = lengths.iter().flat_map(|&length| 0..length).collect();
        assert_eq!(places.len(), ids.len(), "the lengths must add up to the number of ids");
        let blocks: Vec<Block> = blocks_of(ids.len())
            .map(|(start, count, columns)| {
                let mut segments = Vec::new();
                let mut position = start;
                while position < start + count {
                    let sequence = position - places[position];
                    let mut end = position + 1;
                    while end < start + count && places[end] != 0 {
                        end += 1;
                    }
                    segments.push((sequence, position..end));
                    position = end;
                }
                Block { start, count, columns, segments }
            })
            .collect();
        let lengths_of: Vec<usize> = lengths.iter().flat_map(|&length| std::iter::repeat_n(length, length)).collect();
        let turns = decoder.rotaries.iter().map(|rotary| Turns::new(rotary, &blocks, &places, &lengths_of)).collect();
        let mut start = 0;
        let mut next = |&length: &usize| {
            start += length;
            start - length..start
        };
        let sequences = lengths.iter().map(&mut next).collect();
        Self { ids: ids.to_vec(), places, blocks, turns, longest: lengths.iter().copied().max().unwrap_or(0), sequences }
    }

    /// Columns of all blocks together.
    pub(crate) fn padded(&self) -> usize {
        padded(self.ids.len())
    }

    /// The part of `[features, columns]` blocks in `buffer` that belongs to `block`.
    pub(crate) fn part(block: &Block, features: usize) -> Range<usize> {
        block.start * features..block.start * features + block.columns * features
    }
}
