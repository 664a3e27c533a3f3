//! The backward pass: from the gradient of the logits to that of all weights.

use super::forward::{BlockTape, NormTape, Space, Tape, for_windows, mean_response, response_scale, sized};
use super::kernels::{BlockKernels, add_by_place};
use super::places::{Block, Stage};
use super::{EXPANSION, Network};
use crate::nn::depthwise::{ImageShape, depthwise_backward};
use crate::nn::rows::{add_column_sums, layer_norm_backward, response_backward, scale_shift_to};
use crate::products::{Matrix, Sizes, product_strided};

/// What follows the gradients of some linear layers, position by position: for second moments.
pub(crate) trait Gradients {
    /// Inputs `[positions, inputs]` and gradients of the outputs `[positions, outputs]` of the layer whose weight begins at this place.
    fn layer(&mut self, weight: usize, inputs: &[f32], slopes: &[f32]);
}

/// Where the gradient of all weights is added up, and who else looks.
pub(crate) struct Sink<'a> {
    pub(crate) gradient: &'a mut [f32],
    pub(crate) watcher: Option<&'a mut dyn Gradients>,
}

impl Sink<'_> {
    /// Adds the gradient of a linear layer `[outputs, inputs]`: `slopes' inputs`.
    fn linear(&mut self, place: &super::places::Pair, inputs: &[f32], slopes: &[f32]) {
        let outputs = place.bias.len();
        let width = place.weight.len() / outputs;
        let count = slopes.len() / outputs;
        if let Some(watcher) = self.watcher.as_deref_mut() {
            watcher.layer(place.weight.start, inputs, slopes);
        }
        let weight = &mut self.gradient[place.weight.clone()];
        product_strided(
            weight,
            width,
            Matrix::columns(slopes, outputs),
            Matrix::rows(inputs, width),
            Sizes { rows: outputs, inner: count, columns: width },
            true,
        );
        add_column_sums(slopes, &mut self.gradient[place.bias.clone()], None);
    }

    /// The gradients of weight and bias of a layer.
    fn pair(&mut self, place: &super::places::Pair) -> (&mut [f32], &mut [f32]) {
        let (before, bias) = self.gradient.split_at_mut(place.bias.start);
        (&mut before[place.weight.clone()], &mut bias[..place.bias.len()])
    }

    fn norm(&mut self, place: &super::places::Pair, weights: &[f32], tape: &NormTape, slopes: &mut [f32]) {
        let weight = &weights[place.weight.clone()];
        let count = slopes.len() / weight.len();
        layer_norm_backward(slopes, &tape.normal[..slopes.len()], &tape.scales[..count], weight, self.pair(place));
    }
}

impl Network<'_> {
    /// Adds the gradient with respect to all weights, given that of the logits in `space.logits` `[classes, images]`, of the forward pass that
    /// filled `tape`.
    pub(crate) fn add_gradient(&self, patches: &[f32], space: &mut Space, tape: &Tape, sink: &mut Sink<'_>) {
        let images = patches.len() / self.config.features();
        let Some(last) = self.places.stages.last() else { return };
        let (channels, positions, classes) = (last.channels, last.side * last.side, self.config.classes);
        let mut slopes = std::mem::take(&mut space.main);
        let mut other = std::mem::take(&mut space.other);
        {
            let logits = &space.logits[..classes * images];
            let features = &tape.features[..images * channels];
            // The head, with the images as positions.
            let by_image = sized(&mut space.second, classes * images);
            for (image, row) in by_image.chunks_exact_mut(classes).enumerate() {
                row.iter_mut().enumerate().for_each(|(class, slope)| *slope = logits[class * images + image]);
            }
            sink.linear(&self.places.head, features, by_image);
            let pooled = sized(&mut other, images * channels);
            let head = Matrix::rows(&self.weights[self.places.head.weight.clone()], channels);
            product_strided(
                pooled,
                channels,
                Matrix::rows(by_image, classes),
                head,
                Sizes { rows: images, inner: classes, columns: channels },
                false,
            );
            sink.norm(&self.places.norm, self.weights, &tape.head, pooled);
            let share = 1.0 / positions as f32;
            pooled.iter_mut().for_each(|slope| *slope *= share);
            let out = sized(&mut slopes, images * positions * channels);
            for (pooled, image) in pooled.chunks_exact(channels).zip(out.chunks_exact_mut(positions * channels)) {
                image.chunks_exact_mut(channels).for_each(|row| row.copy_from_slice(pooled));
            }
        }
        let mut number = tape.blocks.len();
        for (index, stage) in self.places.stages.iter().enumerate().rev() {
            let length = images * stage.side * stage.side * stage.channels;
            for (block, kernels) in stage.blocks.iter().zip(&self.kernels.blocks[index]).rev() {
                number -= 1;
                let factors = if tape.factors.is_empty() { &[][..] } else { &tape.factors[number * images..(number + 1) * images] };
                let own = (&tape.blocks[number], factors);
                self.block_backward(stage, block, kernels, images, &mut slopes[..length], space, own, sink);
            }
            let Some((norm, convolution)) = &stage.reduction else { continue };
            let before = &self.places.stages[index - 1];
            let (own, windows) = &tape.reductions[index];
            let (count, width) = (length / stage.channels, 4 * before.channels);
            let windows = &windows[..count * width];
            if let Some(watcher) = sink.watcher.as_deref_mut() {
                watcher.layer(convolution.weight.start, windows, &slopes[..length]);
            }
            let by_place = sized(&mut space.second, convolution.weight.len());
            let sizes = Sizes { rows: stage.channels, inner: count, columns: width };
            product_strided(
                by_place,
                width,
                Matrix::columns(&slopes[..length], stage.channels),
                Matrix::rows(windows, width),
                sizes,
                false,
            );
            let (weight, bias) = sink.pair(convolution);
            add_by_place(by_place, before.channels, weight);
            add_column_sums(&slopes[..length], bias, None);
            let of_windows = sized(&mut space.inner, count * width);
            let kernel = Matrix::columns(&self.kernels.reductions[index], stage.channels);
            product_strided(
                of_windows,
                width,
                Matrix::rows(&slopes[..length], stage.channels),
                kernel,
                Sizes { rows: count, inner: stage.channels, columns: width },
                false,
            );
            let out = sized(&mut other, count * width);
            for_windows(before.side, before.channels, of_windows, |place, window| {
                out[place..place + window.len()].copy_from_slice(window);
            });
            sink.norm(norm, self.weights, own, out);
            std::mem::swap(&mut slopes, &mut other);
        }
        let first = &self.places.stages[0];
        let out = &mut slopes[..images * first.side * first.side * first.channels];
        sink.norm(&self.places.patch_norm, self.weights, &tape.patch, out);
        sink.linear(&self.places.patch, patches, out);
        (space.main, space.other) = (slopes, other);
    }

    /// Replaces the gradient of a block's output by that of its input.
    #[allow(clippy::too_many_arguments)]
    fn block_backward(
        &self,
        stage: &Stage,
        block: &Block,
        kernels: &BlockKernels,
        images: usize,
        slopes: &mut [f32],
        space: &mut Space,
        (tape, factors): (&BlockTape, &[f32]),
        sink: &mut Sink<'_>,
    ) {
        let (channels, inner) = (stage.channels, EXPANSION * stage.channels);
        let positions = stage.side * stage.side;
        let together = Self::together(stage, images);
        let weight = |place: &super::places::Pair| &self.weights[place.weight.clone()];
        let bias = |place: &super::places::Pair| &self.weights[place.bias.clone()];
        for first in (0..images).step_by(together) {
            let count = together.min(images - first);
            if (0..count).all(|image| factors.get(first + image) == Some(&0.0)) {
                continue;
            }
            let places = first * positions..(first + count) * positions;
            let part = places.start * channels..places.end * channels;
            let wide = places.start * inner..places.end * inner;
            let (values, derivatives) = (&tape.values[wide.clone()], &tape.derivatives[wide.clone()]);
            // Through the factor and the second matrix.
            let out = sized(&mut space.out, part.len());
            out.copy_from_slice(&slopes[part.clone()]);
            for (image, own) in out.chunks_exact_mut(positions * channels).enumerate() {
                if let Some(&factor) = factors.get(first + image) {
                    own.iter_mut().for_each(|slope| *slope *= factor);
                }
            }
            let scaled = sized(&mut space.inner, wide.len());
            for image in 0..count {
                let own = image * positions * inner..(image + 1) * positions * inner;
                let responses = &tape.responses[(first + image) * inner..][..inner];
                response_scale(responses, weight(&block.response), &mut space.channels.scale);
                scale_shift_to(&values[own.clone()], &space.channels.scale, bias(&block.response), &mut scaled[own]);
            }
            sink.linear(&block.down, scaled, out);
            let of_inner = scaled;
            let matrix = Matrix::rows(weight(&block.down), inner);
            product_strided(
                of_inner,
                inner,
                Matrix::rows(out, channels),
                matrix,
                Sizes { rows: places.len(), inner: channels, columns: inner },
                false,
            );
            // Through the normalization of the response, and the activation.
            for image in 0..count {
                let own = image * positions * inner..(image + 1) * positions * inner;
                let responses = &tape.responses[(first + image) * inner..][..inner];
                let of_image = &mut of_inner[own.clone()];
                let sums = sized(&mut space.channels.sums, inner);
                let products = sized(&mut space.channels.products, inner);
                sums.fill(0.0);
                products.fill(0.0);
                add_column_sums(of_image, sums, Some((&values[own.clone()], products)));
                response_scale(responses, weight(&block.response), &mut space.channels.scale);
                let (weight_slopes, bias_slopes) = sink.pair(&block.response);
                bias_slopes.iter_mut().zip(&*sums).for_each(|(slope, sum)| *slope += sum);
                response_change(responses, weight(&block.response), products, weight_slopes, &mut space.channels.change);
                response_backward(of_image, &values[own.clone()], &derivatives[own], &space.channels.scale, &space.channels.change);
            }
            // Through the first matrix, the norm and the convolution.
            let normal = sized(&mut space.normal, part.len());
            scale_shift_to(&tape.norm.normal[part.clone()], weight(&block.norm), bias(&block.norm), normal);
            sink.linear(&block.up, normal, of_inner);
            let mixed = sized(&mut space.mixed, part.len());
            let matrix = Matrix::rows(weight(&block.up), channels);
            product_strided(
                mixed,
                channels,
                Matrix::rows(of_inner, inner),
                matrix,
                Sizes { rows: places.len(), inner, columns: channels },
                false,
            );
            let pair = sink.pair(&block.norm);
            layer_norm_backward(mixed, &tape.norm.normal[part.clone()], &tape.norm.scales[places.clone()], weight(&block.norm), pair);
            let shape = ImageShape { images: count, height: stage.side, width: stage.side, channels };
            let pair = sink.pair(&block.depthwise);
            depthwise_backward(&kernels.depthwise, &tape.input[part.clone()], mixed, shape, normal, pair, &mut space.padded);
            slopes[part].iter_mut().zip(normal).for_each(|(slope, own)| *slope += *own);
        }
    }
}

/// With `N = G / m`, `m` the mean of the responses `G`, and `products` the sums of gradient times value of every channel: adds the gradient
/// of the weights, `products N`, and gives the factor of the values in the gradient that comes through the responses,
///
/// `(w_c p_c / m - sum_k w_k p_k G_k / (n m^2)) / G_c`,
///
/// 0 where the response is 0.
fn response_change(responses: &[f32], weight: &[f32], products: &[f32], weight_slopes: &mut [f32], change: &mut Vec<f32>) {
    let mean = mean_response(responses);
    let inverse = 1.0 / mean;
    let count = responses.len() as f64;
    let terms = weight.iter().zip(products).zip(responses);
    let sum: f64 = terms.map(|((&w, &p), &g)| f64::from(w) * f64::from(p) * f64::from(g)).sum();
    let common = (sum / (count * f64::from(mean) * f64::from(mean))) as f32;
    for ((slope, &product), &response) in weight_slopes.iter_mut().zip(products).zip(responses) {
        *slope += product * response * inverse;
    }
    change.clear();
    change.extend(weight.iter().zip(products).zip(responses).map(
        |((&w, &p), &g)| {
            if g > 0.0 { (w * p * inverse - common) / g } else { 0.0 }
        },
    ));
}
