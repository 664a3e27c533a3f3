//! Weights in the order in which the forward pass reads them.

use super::{ConvNextV2Config, EXPANSION, Places};
use crate::nn::depthwise::DepthwiseKernel;

/// Weights once more, in another order: made for every evaluation, one pass over them. Matrices are `[inputs, outputs]`: with positions as
/// rows that is what a product reads along its lines.
#[derive(Debug, Default)]
pub(crate) struct Kernels {
    pub(super) patch: Vec<f32>,
    /// Per stage after the first `[4 x inputs, outputs]`, the inputs' channels behind their place in the window.
    pub(super) reductions: Vec<Vec<f32>>,
    pub(super) blocks: Vec<Vec<BlockKernels>>,
}

/// Those of a block.
#[derive(Debug, Default)]
pub(super) struct BlockKernels {
    pub(super) depthwise: DepthwiseKernel,
    pub(super) up: Vec<f32>,
    pub(super) down: Vec<f32>,
}

impl Kernels {
    /// Takes over all weights of a network.
    pub(crate) fn set(&mut self, config: &ConvNextV2Config, places: &Places, weights: &[f32]) {
        let inputs = config.num_channels * config.patch_size.pow(2);
        transpose(&weights[places.patch.weight.clone()], inputs, &mut self.patch);
        self.reductions.resize_with(places.stages.len(), Vec::new);
        self.blocks.resize_with(places.stages.len(), Vec::new);
        let mut before = 0;
        let mut space = Vec::new();
        for ((stage, reduction), blocks) in places.stages.iter().zip(&mut self.reductions).zip(&mut self.blocks) {
            if let Some((_, convolution)) = &stage.reduction {
                space.resize(convolution.weight.len(), 0.0);
                by_place(&weights[convolution.weight.clone()], before, &mut space);
                transpose(&space, 4 * before, reduction);
            }
            before = stage.channels;
            blocks.resize_with(stage.blocks.len(), BlockKernels::default);
            for (block, own) in stage.blocks.iter().zip(blocks) {
                own.depthwise.set(&weights[block.depthwise.weight.clone()], &weights[block.depthwise.bias.clone()]);
                transpose(&weights[block.up.weight.clone()], stage.channels, &mut own.up);
                transpose(&weights[block.down.weight.clone()], EXPANSION * stage.channels, &mut own.down);
            }
        }
    }
}

/// A 2x2 convolution `[outputs, inputs, 2, 2]` as `[outputs, 2, 2, inputs]`.
pub(super) fn by_place(weights: &[f32], inputs: usize, out: &mut [f32]) {
    for (out, weights) in out.chunks_exact_mut(4 * inputs).zip(weights.chunks_exact(4 * inputs)) {
        for (input, places) in weights.chunks_exact(4).enumerate() {
            for (place, &weight) in places.iter().enumerate() {
                out[place * inputs + input] = weight;
            }
        }
    }
}

/// Adds a gradient `[outputs, 2, 2, inputs]` to that of the weights `[outputs, inputs, 2, 2]`.
pub(super) fn add_by_place(slopes: &[f32], inputs: usize, out: &mut [f32]) {
    for (out, slopes) in out.chunks_exact_mut(4 * inputs).zip(slopes.chunks_exact(4 * inputs)) {
        for (input, places) in out.chunks_exact_mut(4).enumerate() {
            for (place, slope) in places.iter_mut().enumerate() {
                *slope += slopes[place * inputs + input];
            }
        }
    }
}

/// Rows and columns of the squares in which a matrix is transposed: both sides of a square stay in the first cache.
const SQUARE: usize = 16;

/// `[rows, columns]` as `[columns, rows]`.
fn transpose(matrix: &[f32], columns: usize, out: &mut Vec<f32>) {
    out.resize(matrix.len(), 0.0);
    let rows = matrix.len() / columns;
    for first in (0..rows).step_by(SQUARE) {
        let last = (first + SQUARE).min(rows);
        for start in (0..columns).step_by(SQUARE) {
            for column in start..(start + SQUARE).min(columns) {
                let to = &mut out[column * rows + first..column * rows + last];
                to.iter_mut().enumerate().for_each(|(row, to)| *to = matrix[(first + row) * columns + column]);
            }
        }
    }
}
