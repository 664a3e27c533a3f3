//! The forward pass of some images, channels-last, all layers in a row on one thread.

use super::kernels::BlockKernels;
use super::places::{Block, Stage};
use super::{ConvNextV2Config, EPSILON, EXPANSION, Kernels, Places};
use crate::nn::depthwise::{ImageShape, depthwise};
use crate::nn::rows::{
    add_column_sums, add_rows, bias_gelu_squares, bias_gelu_squares_kept, layer_norm, layer_norm_kept, scale_shift, scale_shift_to,
};
use crate::products::{Matrix, Sizes, product_strided};

/// Numbers of the inner activations of a block that are made before they are used: they should stay in the second cache.
pub(super) const INNER: usize = 160 << 10;

/// A network with its weights.
#[derive(Clone, Copy)]
pub(crate) struct Network<'a> {
    pub(crate) config: &'a ConvNextV2Config,
    pub(crate) places: &'a Places,
    pub(crate) weights: &'a [f32],
    pub(crate) kernels: &'a Kernels,
}

/// Buffers of one forward or backward pass; they grow as they are needed.
#[derive(Debug, Default)]
pub(crate) struct Space {
    /// The activations between blocks.
    pub(super) main: Vec<f32>,
    pub(super) other: Vec<f32>,
    /// Of some images: after the depthwise convolution, after the norm, inside the block, and after it.
    pub(super) mixed: Vec<f32>,
    pub(super) normal: Vec<f32>,
    pub(super) inner: Vec<f32>,
    pub(super) second: Vec<f32>,
    pub(super) out: Vec<f32>,
    pub(super) padded: Vec<f32>,
    /// Per channel of the inner layer.
    pub(super) channels: Channels,
    pub(super) logits: Vec<f32>,
}

/// Numbers for every channel of a block's inner layer.
#[derive(Debug, Default)]
pub(super) struct Channels {
    pub(super) squares: Vec<f32>,
    pub(super) scale: Vec<f32>,
    pub(super) sums: Vec<f32>,
    pub(super) products: Vec<f32>,
    pub(super) change: Vec<f32>,
}

/// What a backward pass needs of the forward pass.
#[derive(Debug, Default)]
pub(crate) struct Tape {
    pub(super) patch: NormTape,
    /// Per stage after the first: the norm, and its outputs by windows.
    pub(super) reductions: Vec<(NormTape, Vec<f32>)>,
    pub(super) blocks: Vec<BlockTape>,
    pub(super) head: NormTape,
    /// What the head reads, `[images, channels]`.
    pub(super) features: Vec<f32>,
    /// Factor of every block's result for every image, `[blocks, images]`; empty when all are 1.
    pub(crate) factors: Vec<f32>,
}

/// A layer norm's rows and scales.
#[derive(Debug, Default)]
pub(super) struct NormTape {
    pub(super) normal: Vec<f32>,
    pub(super) scales: Vec<f32>,
}

/// One block.
#[derive(Debug, Default)]
pub(super) struct BlockTape {
    pub(super) input: Vec<f32>,
    pub(super) norm: NormTape,
    /// After the activation, and its derivatives.
    pub(super) values: Vec<f32>,
    pub(super) derivatives: Vec<f32>,
    /// Norm of every channel of every image after the activation.
    pub(super) responses: Vec<f32>,
}

/// Makes a buffer long enough.
pub(super) fn sized(buffer: &mut Vec<f32>, length: usize) -> &mut [f32] {
    if buffer.len() < length {
        buffer.resize(length, 0.0);
    }
    &mut buffer[..length]
}

/// `output = rows * matrix`, `matrix` `[inputs, outputs]`, one row a position.
fn multiply(output: &mut [f32], rows: &[f32], matrix: &[f32], inputs: usize) {
    let (count, outputs) = (rows.len() / inputs, matrix.len() / inputs);
    let left = Matrix::rows(rows, inputs);
    let right = Matrix::rows(matrix, outputs);
    product_strided(output, outputs, left, right, Sizes { rows: count, inner: inputs, columns: outputs }, false);
}

impl NormTape {
    pub(super) fn norm(&mut self, input: &[f32], output: &mut [f32], pair: (&[f32], &[f32]), epsilon: f32) {
        let rows = input.len() / pair.0.len();
        let (normal, scales) = (sized(&mut self.normal, input.len()), sized(&mut self.scales, rows));
        layer_norm_kept(input, output, pair, epsilon, normal, scales);
    }
}

impl Network<'_> {
    fn pair(&self, pair: &super::places::Pair) -> (&[f32], &[f32]) {
        (&self.weights[pair.weight.clone()], &self.weights[pair.bias.clone()])
    }

    /// Images whose inner activations are made together in a block of this stage.
    pub(super) fn together(stage: &Stage, images: usize) -> usize {
        (INNER / (EXPANSION * stage.channels * stage.side * stage.side)).clamp(1, images)
    }

    /// Logits without the bias of the head, `[classes, images]`, of images given as patches ([`ConvNextV2Config::patches`]). With a tape
    /// what a backward pass needs is kept, and blocks have the factors of [`Tape::factors`].
    pub(crate) fn logits<'s>(&self, patches: &[f32], space: &'s mut Space, mut tape: Option<&mut Tape>) -> &'s mut [f32] {
        let images = patches.len() / self.config.features();
        let first = &self.places.stages[0];
        let (rows, channels) = (images * first.side * first.side, first.channels);
        let inputs = self.config.features() / (first.side * first.side);
        if let Some(tape) = tape.as_deref_mut() {
            tape.reductions.resize_with(self.places.stages.len(), Default::default);
            tape.blocks.resize_with(self.config.depths.iter().sum(), Default::default);
        }
        let mut main = std::mem::take(&mut space.main);
        let mut other = std::mem::take(&mut space.other);
        {
            let embedded = sized(&mut other, rows * channels);
            multiply(embedded, patches, &self.kernels.patch, inputs);
            let out = sized(&mut main, rows * channels);
            out.fill(0.0);
            add_rows(out, embedded, &self.weights[self.places.patch.bias.clone()], 1.0);
            let pair = self.pair(&self.places.patch_norm);
            let normed = sized(&mut other, rows * channels);
            match tape.as_deref_mut() {
                Some(tape) => tape.patch.norm(out, normed, pair, EPSILON),
                None => layer_norm(out, normed, pair, EPSILON),
            }
        }
        std::mem::swap(&mut main, &mut other);
        let mut number = 0;
        let mut before = first;
        for (index, stage) in self.places.stages.iter().enumerate() {
            if stage.reduction.is_some() {
                self.reduce(index, (before, stage), images, (&mut main, &mut other), space, tape.as_deref_mut());
            }
            let length = images * stage.side * stage.side * stage.channels;
            for (block, kernels) in stage.blocks.iter().zip(&self.kernels.blocks[index]) {
                let (own, factors) = match tape.as_deref_mut() {
                    Some(Tape { blocks, factors, .. }) => {
                        let factors = if factors.is_empty() { &[][..] } else { &factors[number * images..(number + 1) * images] };
                        (Some(&mut blocks[number]), factors)
                    }
                    None => (None, &[][..]),
                };
                self.block(stage, block, kernels, images, &mut main[..length], space, own, factors);
                number += 1;
            }
            before = stage;
        }
        self.head(before, images, &main, space, tape);
        (space.main, space.other) = (main, other);
        &mut space.logits[..self.config.classes * images]
    }

    /// Norm and 2x2 convolution between two stages; reads and replaces `main`.
    fn reduce(
        &self,
        index: usize,
        (before, stage): (&Stage, &Stage),
        images: usize,
        (main, other): (&mut Vec<f32>, &mut Vec<f32>),
        space: &mut Space,
        tape: Option<&mut Tape>,
    ) {
        let Some((norm, convolution)) = &stage.reduction else { return };
        let length = images * before.side * before.side * before.channels;
        let normed = sized(other, length);
        let (own, kept) = match tape {
            Some(tape) => {
                let (own, windows) = &mut tape.reductions[index];
                (Some(own), Some(windows))
            }
            None => (None, None),
        };
        match own {
            Some(own) => own.norm(&main[..length], normed, self.pair(norm), EPSILON),
            None => layer_norm(&main[..length], normed, self.pair(norm), EPSILON),
        }
        let windows = sized(kept.unwrap_or(&mut space.mixed), length);
        gather(normed, before.side, before.channels, windows);
        let rows = images * stage.side * stage.side;
        let product = sized(other, rows * stage.channels);
        multiply(product, windows, &self.kernels.reductions[index], 4 * before.channels);
        let out = sized(main, rows * stage.channels);
        out.fill(0.0);
        add_rows(out, product, &self.weights[convolution.bias.clone()], 1.0);
    }

    /// One block, in place.
    #[allow(clippy::too_many_arguments)]
    fn block(
        &self,
        stage: &Stage,
        block: &Block,
        kernels: &BlockKernels,
        images: usize,
        main: &mut [f32],
        space: &mut Space,
        mut tape: Option<&mut BlockTape>,
        factors: &[f32],
    ) {
        let (channels, inner) = (stage.channels, EXPANSION * stage.channels);
        let positions = stage.side * stage.side;
        let together = Self::together(stage, images);
        if let Some(tape) = tape.as_deref_mut() {
            sized(&mut tape.input, main.len()).copy_from_slice(main);
            sized(&mut tape.norm.normal, main.len());
            sized(&mut tape.norm.scales, images * positions);
            sized(&mut tape.values, images * positions * inner);
            sized(&mut tape.derivatives, images * positions * inner);
            sized(&mut tape.responses, images * inner);
        }
        let norm = self.pair(&block.norm);
        let response = self.pair(&block.response);
        let (up_bias, down_bias) = (&self.weights[block.up.bias.clone()], &self.weights[block.down.bias.clone()]);
        for first in (0..images).step_by(together) {
            let count = together.min(images - first);
            let rows = first * positions..(first + count) * positions;
            let part = rows.start * channels..rows.end * channels;
            let shape = ImageShape { images: count, height: stage.side, width: stage.side, channels };
            let mixed = sized(&mut space.mixed, part.len());
            depthwise(&kernels.depthwise, &main[part.clone()], mixed, shape, &mut space.padded);
            let normal = sized(&mut space.normal, part.len());
            match tape.as_deref_mut() {
                Some(tape) => {
                    let kept = (&mut tape.norm.normal[part.clone()], &mut tape.norm.scales[rows.clone()]);
                    layer_norm_kept(mixed, normal, norm, EPSILON, kept.0, kept.1);
                }
                None => layer_norm(mixed, normal, norm, EPSILON),
            }
            let wide = rows.start * inner..rows.end * inner;
            let scaled = sized(&mut space.inner, wide.len());
            match tape.as_deref_mut() {
                Some(tape) => {
                    let values = &mut tape.values[wide.clone()];
                    multiply(values, normal, &kernels.up, channels);
                    for image in 0..count {
                        let own = image * positions * inner..(image + 1) * positions * inner;
                        let responses = &mut tape.responses[(first + image) * inner..][..inner];
                        let derivatives = &mut tape.derivatives[wide.clone()][own.clone()];
                        bias_gelu_squares_kept(&mut values[own.clone()], up_bias, responses, derivatives);
                        responses.iter_mut().for_each(|square| *square = square.sqrt());
                        response_scale(responses, response.0, &mut space.channels.scale);
                        scale_shift_to(&values[own.clone()], &space.channels.scale, response.1, &mut scaled[own]);
                    }
                }
                None => {
                    multiply(scaled, normal, &kernels.up, channels);
                    for values in scaled.chunks_exact_mut(positions * inner) {
                        let squares = sized(&mut space.channels.squares, inner);
                        bias_gelu_squares(values, up_bias, squares);
                        squares.iter_mut().for_each(|square| *square = square.sqrt());
                        response_scale(squares, response.0, &mut space.channels.scale);
                        scale_shift(values, &space.channels.scale, response.1);
                    }
                }
            }
            let out = sized(&mut space.out, part.len());
            multiply(out, scaled, &kernels.down, inner);
            let images = main[part].chunks_exact_mut(positions * channels).zip(out.chunks_exact(positions * channels));
            for (image, (main, out)) in images.enumerate() {
                match factors.get(first + image) {
                    Some(0.0) => (),
                    factor => add_rows(main, out, down_bias, factor.copied().unwrap_or(1.0)),
                }
            }
        }
    }

    /// Mean over positions, norm and head.
    fn head(&self, stage: &Stage, images: usize, main: &[f32], space: &mut Space, tape: Option<&mut Tape>) {
        let (channels, positions) = (stage.channels, stage.side * stage.side);
        let pooled = sized(&mut space.mixed, images * channels);
        pooled.fill(0.0);
        for (mean, image) in pooled.chunks_exact_mut(channels).zip(main.chunks_exact(positions * channels)) {
            add_column_sums(image, mean, None);
            mean.iter_mut().for_each(|sum| *sum /= positions as f32);
        }
        let (pair, epsilon) = (self.pair(&self.places.norm), self.config.layer_norm_eps as f32);
        let features = match tape {
            Some(Tape { head, features, .. }) => {
                let features = sized(features, images * channels);
                head.norm(pooled, features, pair, epsilon);
                features
            }
            None => {
                let features = sized(&mut space.normal, images * channels);
                layer_norm(pooled, features, pair, epsilon);
                features
            }
        };
        let classes = self.config.classes;
        let logits = sized(&mut space.logits, classes * images);
        let left = Matrix::rows(&self.weights[self.places.head.weight.clone()], channels);
        let right = Matrix::columns(features, channels);
        product_strided(logits, images, left, right, Sizes { rows: classes, inner: channels, columns: images }, false);
    }

    /// The bias of the head, which [`Network::logits`] leaves to be added in `f64`.
    pub(crate) fn head_bias(&self) -> &[f32] {
        &self.weights[self.places.head.bias.clone()]
    }
}

/// `1 + weight response / (mean response + 1e-6)` of every channel.
pub(super) fn response_scale(responses: &[f32], weight: &[f32], scale: &mut Vec<f32>) {
    let inverse = 1.0 / mean_response(responses);
    scale.clear();
    scale.extend(responses.iter().zip(weight).map(|(response, weight)| 1.0 + weight * (response * inverse)));
}

/// The mean over channels, with what keeps it from zero.
pub(super) fn mean_response(responses: &[f32]) -> f32 {
    (responses.iter().map(|&response| f64::from(response)).sum::<f64>() / responses.len() as f64) as f32 + 1e-6
}

/// Maps `[images, side, side, channels]` as windows `[images, side/2, side/2, 2, 2, channels]`.
fn gather(maps: &[f32], side: usize, channels: usize, windows: &mut [f32]) {
    for_windows(side, channels, windows, |place, window| window.copy_from_slice(&maps[place..place + 2 * channels]));
}

/// Calls `visit` for every half of a window (two neighbours) with its place in the maps.
pub(super) fn for_windows(side: usize, channels: usize, windows: &mut [f32], mut visit: impl FnMut(usize, &mut [f32])) {
    let half = side / 2;
    for (number, window) in windows.chunks_exact_mut(2 * channels).enumerate() {
        let (place, line) = (number / 2, number % 2);
        let (image, y, x) = (place / (half * half), place / half % half, place % half);
        visit(((image * side + 2 * y + line) * side + 2 * x) * channels, window);
    }
}
