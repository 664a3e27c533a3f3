//! Gradients of the weights of dense layers: products of slopes and inputs over all blocks.

use std::ops::Range;

use super::Pass;
use crate::arch::decoder::batch::Block;
use crate::arch::decoder::forward::for_each;
use crate::arch::decoder::{Batch, Linear};
use crate::products::{Matrix, Sizes, product_strided};

/// Rows of a matrix whose gradient one task computes: fixed, so that no sum depends on the number of threads.
const ROWS: usize = 512;

/// Some features of a buffer `[features, columns]`, block after block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) values: &'a [f32],
    /// Of the buffer.
    pub(super) features: usize,
    /// The first of those meant.
    pub(super) first: usize,
}

impl<'a> Source<'a> {
    /// `count` features of a block, from one of those meant on.
    fn rows(&self, block: &Block, from: usize, count: usize) -> &'a [f32] {
        let part = &self.values[Batch::part(block, self.features)];
        let first = self.first + from;
        &part[first * block.columns..(first + count) * block.columns]
    }
}

/// A dense layer, what it read, and the slopes of its outputs.
#[derive(Debug, Clone, Copy)]
pub(super) struct WeightSlopes<'a> {
    pub(super) linear: &'a Linear,
    pub(super) inputs: Source<'a>,
    pub(super) slopes: Source<'a>,
}

/// What one task computes.
enum Task<'a> {
    /// Rows of the stored matrix, from one on.
    Weight(&'a WeightSlopes<'a>, usize, &'a mut [f32]),
    Bias(&'a WeightSlopes<'a>, &'a mut [f32]),
}

/// Adds the gradients of weights and biases of some layers; the watcher sees each of them first.
pub(super) fn add_weight_slopes(products: &[WeightSlopes<'_>], pass: Pass<'_>, gradient: &mut [f32]) {
    let Pass { batch, watcher, .. } = pass;
    if let Some(watcher) = watcher {
        for product in products {
            let linear = product.linear;
            let inputs = by_position(&product.inputs, linear.inputs, batch);
            watcher(linear.weight.start, &inputs, &by_position(&product.slopes, linear.outputs, batch));
        }
    }
    let mut ranges: Vec<(Range<usize>, &WeightSlopes<'_>, bool)> = Vec::with_capacity(2 * products.len());
    for product in products {
        ranges.push((product.linear.weight.clone(), product, false));
        ranges.extend(product.linear.bias.clone().map(|range| (range, product, true)));
    }
    ranges.sort_by_key(|(range, ..)| range.start);
    let mut tasks = Vec::new();
    let (mut rest, mut before) = (gradient, 0);
    for (range, product, is_bias) in ranges {
        let (_, after) = std::mem::take(&mut rest).split_at_mut(range.start - before);
        let (own, after) = after.split_at_mut(range.len());
        (rest, before) = (after, range.end);
        if is_bias {
            tasks.push(Task::Bias(product, own));
        } else {
            let width = own.len() / stored_rows(product.linear);
            let chunks = own.chunks_mut(ROWS * width).enumerate();
            tasks.extend(chunks.map(|(index, own)| Task::Weight(product, index * ROWS, own)));
        }
    }
    for_each(tasks, |task| match task {
        Task::Weight(product, first, own) => add_rows(product, first, batch, own),
        Task::Bias(product, own) => add_bias(product, batch, own),
    });
}

fn stored_rows(linear: &Linear) -> usize {
    if linear.transposed { linear.inputs } else { linear.outputs }
}

fn add_rows(product: &WeightSlopes<'_>, first: usize, batch: &Batch, own: &mut [f32]) {
    let linear = product.linear;
    // Stored `[outputs, inputs]`: slopes times inputs; else the other way.
    let (left, right, width) =
        if linear.transposed { (product.inputs, product.slopes, linear.outputs) } else { (product.slopes, product.inputs, linear.inputs) };
    let rows = own.len() / width;
    for block in &batch.blocks {
        let left = Matrix::rows(left.rows(block, first, rows), block.columns);
        let right = Matrix::columns(right.rows(block, 0, width), block.columns);
        product_strided(own, width, left, right, Sizes { rows, inner: block.count, columns: width }, true);
    }
}

fn add_bias(product: &WeightSlopes<'_>, batch: &Batch, own: &mut [f32]) {
    let outputs = own.len();
    for block in &batch.blocks {
        let slopes = product.slopes.rows(block, 0, outputs);
        for (total, row) in own.iter_mut().zip(slopes.chunks_exact(block.columns)) {
            *total += row[..block.count].iter().map(|&slope| f64::from(slope)).sum::<f64>() as f32;
        }
    }
}

/// Copied to `[positions, features]`.
fn by_position(source: &Source<'_>, features: usize, batch: &Batch) -> Vec<f32> {
    let mut values = Vec::with_capacity(features * batch.ids.len());
    for block in &batch.blocks {
        let part = source.rows(block, 0, features);
        values.extend((0..block.count).flat_map(|column| part[column..].iter().step_by(block.columns)));
    }
    values
}
