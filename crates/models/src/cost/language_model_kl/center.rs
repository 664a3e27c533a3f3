//! The center's outputs as the gradient needs them: what the cost keeps, tile by tile of the positions that count.

use std::ops::Range;

use super::{CenterOutputs, HeadBlock, LanguageModelKl, TILE, tiles};
use crate::arch::decoder::{BLOCK, CenterSource, CenterSpace, CenterTile, for_each};
use crate::cost::pool::{give_back, take};
use crate::products::product;

/// The outputs at the kept positions from one on.
pub(super) struct KeptCenter<'a> {
    pub(super) cost: &'a LanguageModelKl,
    /// Its number among those of all sequences.
    pub(super) first: usize,
}

impl LanguageModelKl {
    /// The block of a kept position, and its column there.
    fn head_block(&self, kept: usize) -> (&HeadBlock, usize) {
        let group = &self.groups[self.groups.partition_point(|group| group.kept.end <= kept)];
        let place = kept - group.kept.start;
        (&group.heads[place / BLOCK], place % BLOCK)
    }

    /// The center's logits from what its head reads, `[head inputs, columns]`, in the tiles of the cost.
    fn center_logits(&self, inputs: &[f32], columns: usize, logits: &mut [f32]) {
        let decoder = self.model.decoder();
        let (width, center) = (decoder.head_inputs(), self.moving.center());
        let rows = tiles(0..decoder.vocabulary).zip(logits.chunks_mut(TILE * columns));
        for_each(rows.collect(), |(rows, logits)| {
            let mut space = take(&self.tiles);
            let start = decoder.head.weight.start;
            let matrix = center.slice(start + rows.start * width..start + rows.end * width, &mut space.weights);
            product(logits, matrix, inputs, rows.len(), width, columns);
            let bias = decoder.head.bias.as_ref().map(|range| range.start + rows.start..range.start + rows.end);
            let bias = bias.map(|range| center.slice(range, &mut space.bias));
            decoder.finish_logits(bias, logits, columns);
            give_back(&self.tiles, space);
        });
    }
}

impl CenterSource for KeptCenter<'_> {
    fn tile<'a>(&'a self, counted: Range<usize>, columns: usize, space: &'a mut CenterSpace) -> CenterTile<'a> {
        let cost = self.cost;
        let vocabulary = cost.model.vocabulary();
        let positions = self.first + counted.start..self.first + counted.end;
        let (block, column) = cost.head_block(positions.start);
        let is_block = column == 0 && block.positions.len() == positions.len() && block.columns == columns;
        let keeps_logits = cost.outputs == CenterOutputs::Logits;
        if is_block {
            let logits = if keeps_logits {
                &block.center
            } else {
                space.logits.resize(vocabulary * columns, 0.0);
                cost.center_logits(&block.center, columns, &mut space.logits);
                &space.logits
            };
            let HeadBlock { favorites, favorite_logits, logarithms, probabilities, .. } = block;
            return CenterTile { logits, logarithms, probabilities, favorites, favorite_logits };
        }
        // Sequences that were not asked for stand between: the columns are collected.
        let CenterSpace { inputs, logits, logarithms, probabilities, favorites, favorite_logits } = space;
        logits.resize(vocabulary * columns, 0.0);
        let kept = if keeps_logits {
            &mut *logits
        } else {
            inputs.resize(cost.model.decoder().head_inputs() * columns, 0.0);
            &mut *inputs
        };
        kept.fill(0.0);
        [&mut *logarithms, &mut *favorite_logits].into_iter().for_each(Vec::clear);
        probabilities.clear();
        favorites.clear();
        let mut done = 0;
        while done < positions.len() {
            let (block, column) = cost.head_block(positions.start + done);
            let count = (block.positions.len() - column).min(positions.len() - done);
            for (target, source) in kept.chunks_exact_mut(columns).zip(block.center.chunks_exact(block.columns)) {
                target[done..done + count].copy_from_slice(&source[column..column + count]);
            }
            let own = column..column + count;
            logarithms.extend_from_slice(&block.logarithms[own.clone()]);
            probabilities.extend_from_slice(&block.probabilities[own.clone()]);
            favorites.extend_from_slice(&block.favorites[own.clone()]);
            favorite_logits.extend_from_slice(&block.favorite_logits[own]);
            done += count;
        }
        logarithms.resize(columns, 0.0);
        probabilities.resize(columns, 1.0);
        favorites.resize(columns, 0);
        favorite_logits.resize(columns, 0.0);
        if !keeps_logits {
            cost.center_logits(inputs, columns, logits);
        }
        CenterTile { logits, logarithms, probabilities, favorites, favorite_logits }
    }
}
