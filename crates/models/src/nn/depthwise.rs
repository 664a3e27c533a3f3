//! The depthwise 7x7 convolution of channels-last images, as one operation with its backward passes.
//!
//! Channels are taken a vector's width at a time: a block of channels of one image is copied into a buffer with a border of zeros, where it
//! fits into the first cache, and every tap is then one multiply-add of whole vectors.

use rten_simd::ops::{BitOps, NumOps};
use rten_simd::{Isa, SimdOp};

use super::rows::put;

/// Side of the window.
pub(crate) const SIDE: usize = 7;

/// Weights of one channel.
pub(crate) const TAPS: usize = SIDE * SIDE;

/// Rows and columns of zeros on each side.
const BORDER: usize = SIDE / 2;

/// A stack of channels-last images, `[images, height, width, channels]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ImageShape {
    /// Number of images.
    pub(crate) images: usize,
    /// Rows of pixels.
    pub(crate) height: usize,
    /// Pixels of a row.
    pub(crate) width: usize,
    /// Features of a pixel.
    pub(crate) channels: usize,
}

impl ImageShape {
    /// Pixels of one image.
    #[must_use]
    pub(crate) fn positions(&self) -> usize {
        self.height * self.width
    }

    /// Pixels of all images.
    #[must_use]
    pub(crate) fn rows(&self) -> usize {
        self.images * self.positions()
    }

    /// Numbers of all images.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.rows() * self.channels
    }

    /// Whether there are none.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Numbers of a block of channels of one image with its border.
    fn padded(&self, lanes: usize) -> usize {
        (self.height + 2 * BORDER) * (self.width + 2 * BORDER) * lanes
    }
}

/// Kernels `[channels, 7, 7]` and biases in the order in which they are used: block by block of channels, tap by tap.
#[derive(Debug, Clone, Default)]
pub(crate) struct DepthwiseKernel {
    channels: usize,
    taps: Vec<f32>,
    /// The taps in reverse order, for the gradient of the inputs.
    reversed: Vec<f32>,
    bias: Vec<f32>,
}

/// Numbers of a vector on this machine.
fn lanes() -> usize {
    struct Lanes;
    impl SimdOp for Lanes {
        type Output = usize;

        #[inline(always)]
        fn eval<I: Isa>(self, isa: I) -> usize {
            isa.f32().len()
        }
    }
    Lanes.dispatch()
}

impl DepthwiseKernel {
    /// Takes over other weights, `[channels, 1, 7, 7]` as in checkpoints, and biases `[channels]`.
    ///
    /// # Panics
    /// If there are not 49 weights per bias.
    pub(crate) fn set(&mut self, weights: &[f32], bias: &[f32]) {
        assert_eq!(weights.len(), bias.len() * TAPS, "49 weights per channel");
        let lanes = lanes();
        let blocks = bias.len().div_ceil(lanes);
        self.channels = bias.len();
        for buffer in [&mut self.taps, &mut self.reversed] {
            buffer.clear();
            buffer.resize(blocks * TAPS * lanes, 0.0);
        }
        self.bias.clear();
        self.bias.resize(blocks * lanes, 0.0);
        self.bias[..bias.len()].copy_from_slice(bias);
        for (channel, weights) in weights.chunks_exact(TAPS).enumerate() {
            let start = channel / lanes * TAPS * lanes + channel % lanes;
            for (tap, &weight) in weights.iter().enumerate() {
                self.taps[start + tap * lanes] = weight;
                self.reversed[start + (TAPS - 1 - tap) * lanes] = weight;
            }
        }
    }
}

/// Writes the convolution of `input` with zeros around it, bias added, to `output`; both have this shape. `space` is scratch of any length.
/// Single-threaded. Sums are `f32`, tap by tap: relative error of a few 1e-7 (oracle: plain loops in `f64`).
///
/// # Panics
/// If a length does not fit.
pub(crate) fn depthwise(kernel: &DepthwiseKernel, input: &[f32], output: &mut [f32], shape: ImageShape, space: &mut Vec<f32>) {
    check(kernel, shape, [input.len(), output.len()]);
    Forward { kernel, input, output, shape, space }.dispatch();
}

/// The backward pass: from the gradient `slopes` of the outputs to that of the inputs, written to `input_slopes`, and those of the weights
/// `[channels, 1, 7, 7]` and biases, which are added up.
///
/// # Panics
/// If a length does not fit.
pub(crate) fn depthwise_backward(
    kernel: &DepthwiseKernel,
    input: &[f32],
    slopes: &[f32],
    shape: ImageShape,
    input_slopes: &mut [f32],
    (weight_slopes, bias_slopes): (&mut [f32], &mut [f32]),
    space: &mut Vec<f32>,
) {
    check(kernel, shape, [input.len(), slopes.len()]);
    assert_eq!(input_slopes.len(), input.len(), "one gradient per input");
    assert!(weight_slopes.len() == TAPS * shape.channels && bias_slopes.len() == shape.channels, "one gradient per weight");
    Backward { kernel, input, slopes, shape, input_slopes, weight_slopes, bias_slopes, space }.dispatch();
}

fn check(kernel: &DepthwiseKernel, shape: ImageShape, lengths: [usize; 2]) {
    assert_eq!(kernel.channels, shape.channels, "as many channels as the kernel has");
    assert!(lengths.iter().all(|&length| length == shape.len()), "the images must be [images, height, width, channels]");
}

/// Copies channels `first..` of one image, at most a vector of them, into `padded`, where zeros stand around them.
#[inline(always)]
fn pad<I: Isa>(isa: I, image: &[f32], shape: ImageShape, first: usize, padded: &mut [f32]) {
    let ops = isa.f32();
    let lanes = ops.len();
    let ImageShape { height, width, channels, .. } = shape;
    let stride = (width + 2 * BORDER) * lanes;
    let (top, rest) = padded.split_at_mut(BORDER * stride);
    top.fill(0.0);
    let (middle, bottom) = rest.split_at_mut(height * stride);
    bottom[..BORDER * stride].fill(0.0);
    for (row, pixels) in middle.chunks_exact_mut(stride).zip(image.chunks_exact(width * channels)) {
        row[..BORDER * lanes].fill(0.0);
        row[(BORDER + width) * lanes..].fill(0.0);
        let cells = row[BORDER * lanes..].chunks_exact_mut(lanes).zip(pixels.chunks_exact(channels));
        if channels - first >= lanes {
            cells.for_each(|(cell, pixel)| ops.store(ops.load(&pixel[first..]), cell));
        } else {
            cells.for_each(|(cell, pixel)| ops.store(ops.load_pad(&pixel[first..]).0, cell));
        }
    }
}

/// `X` neighbouring outputs: `rows` starts at the upper left of the first window, `N = X + 6`.
#[inline(always)]
fn strip<I: Isa, const X: usize, const N: usize>(isa: I, rows: &[f32], stride: usize, taps: &[f32], bias: I::F32) -> [I::F32; X] {
    let ops = isa.f32();
    let lanes = ops.len();
    let mut sums = [bias; X];
    for line in 0..SIDE {
        let inputs = ops.load_many::<N>(&rows[line * stride..]);
        let taps = ops.load_many::<SIDE>(&taps[line * SIDE * lanes..]);
        for (place, &tap) in taps.iter().enumerate() {
            for (sum, &input) in sums.iter_mut().zip(&inputs[place..]) {
                *sum = ops.mul_add(input, tap, *sum);
            }
        }
    }
    sums
}

/// All outputs of one image and block of channels.
#[inline(always)]
fn convolve<I: Isa>(isa: I, padded: &[f32], taps: &[f32], bias: I::F32, shape: ImageShape, first: usize, output: &mut [f32]) {
    let lanes = isa.f32().len();
    let ImageShape { width, channels, .. } = shape;
    let stride = (width + 2 * BORDER) * lanes;
    for (y, line) in output.chunks_exact_mut(width * channels).enumerate() {
        let rows = &padded[y * stride..];
        let mut x = 0;
        while x < width {
            let rows = &rows[x * lanes..];
            let pixels = &mut line[x * channels..];
            match width - x {
                8.. => {
                    let sums = strip::<I, 8, 14>(isa, rows, stride, taps, bias);
                    sums.into_iter().zip(pixels.chunks_exact_mut(channels)).for_each(|(sum, pixel)| put(isa, sum, pixel, first));
                    x += 8;
                }
                4..8 => {
                    let sums = strip::<I, 4, 10>(isa, rows, stride, taps, bias);
                    sums.into_iter().zip(pixels.chunks_exact_mut(channels)).for_each(|(sum, pixel)| put(isa, sum, pixel, first));
                    x += 4;
                }
                _ => {
                    let [sum] = strip::<I, 1, 7>(isa, rows, stride, taps, bias);
                    put(isa, sum, &mut pixels[..channels], first);
                    x += 1;
                }
            }
        }
    }
}

struct Forward<'a> {
    kernel: &'a DepthwiseKernel,
    input: &'a [f32],
    output: &'a mut [f32],
    shape: ImageShape,
    space: &'a mut Vec<f32>,
}

impl SimdOp for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { kernel, input, output, shape, space } = self;
        if shape.is_empty() {
            return;
        }
        let ops = isa.f32();
        let lanes = ops.len();
        let size = shape.positions() * shape.channels;
        space.resize(space.len().max(shape.padded(lanes)), 0.0);
        let padded = &mut space[..shape.padded(lanes)];
        for (input, output) in input.chunks_exact(size).zip(output.chunks_exact_mut(size)) {
            for (block, taps) in kernel.taps.chunks_exact(TAPS * lanes).enumerate() {
                let first = block * lanes;
                pad(isa, input, shape, first, padded);
                convolve(isa, padded, taps, ops.load(&kernel.bias[first..]), shape, first, output);
            }
        }
    }
}

struct Backward<'a> {
    kernel: &'a DepthwiseKernel,
    input: &'a [f32],
    slopes: &'a [f32],
    shape: ImageShape,
    input_slopes: &'a mut [f32],
    weight_slopes: &'a mut [f32],
    bias_slopes: &'a mut [f32],
    space: &'a mut Vec<f32>,
}

impl SimdOp for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { kernel, input, slopes, shape, input_slopes, weight_slopes, bias_slopes, space } = self;
        if shape.is_empty() {
            return;
        }
        let ops = isa.f32();
        let lanes = ops.len();
        let channels = shape.channels;
        let size = shape.positions() * channels;
        let length = shape.padded(lanes);
        space.resize(space.len().max(2 * length + (TAPS + 1) * lanes), 0.0);
        let (padded, rest) = space.split_at_mut(length);
        let (padded_slopes, rest) = rest.split_at_mut(length);
        let sums = &mut rest[..(TAPS + 1) * lanes];
        for (block, taps) in kernel.reversed.chunks_exact(TAPS * lanes).enumerate() {
            let first = block * lanes;
            sums.fill(0.0);
            let images = input.chunks_exact(size).zip(slopes.chunks_exact(size)).zip(input_slopes.chunks_exact_mut(size));
            for ((input, slopes), input_slopes) in images {
                pad(isa, slopes, shape, first, padded_slopes);
                convolve(isa, padded_slopes, taps, ops.zero(), shape, first, input_slopes);
                pad(isa, input, shape, first, padded);
                correlate(isa, padded, padded_slopes, shape, sums);
            }
            let kept = lanes.min(channels - first);
            for channel in 0..kept {
                let own = &mut weight_slopes[(first + channel) * TAPS..][..TAPS];
                own.iter_mut().zip(sums[channel..].iter().step_by(lanes)).for_each(|(slope, sum)| *slope += sum);
                bias_slopes[first + channel] += sums[TAPS * lanes + channel];
            }
        }
    }
}

/// Adds the products of the gradients of the outputs with the inputs under every tap to `sums`, and behind them their own sum.
#[inline(always)]
fn correlate<I: Isa>(isa: I, padded: &[f32], padded_slopes: &[f32], shape: ImageShape, sums: &mut [f32]) {
    let ops = isa.f32();
    let lanes = ops.len();
    let ImageShape { height, width, .. } = shape;
    let stride = (width + 2 * BORDER) * lanes;
    for line in 0..SIDE {
        let mut own = ops.load_many::<SIDE>(&sums[line * SIDE * lanes..]);
        for y in 0..height {
            let slopes = &padded_slopes[(y + BORDER) * stride + BORDER * lanes..];
            let inputs = &padded[(y + line) * stride..];
            let mut x = 0;
            while x < width {
                if width - x >= 8 {
                    own = products::<I, 8, 14>(isa, &slopes[x * lanes..], &inputs[x * lanes..], own);
                    x += 8;
                } else if width - x >= 4 {
                    own = products::<I, 4, 10>(isa, &slopes[x * lanes..], &inputs[x * lanes..], own);
                    x += 4;
                } else {
                    own = products::<I, 1, 7>(isa, &slopes[x * lanes..], &inputs[x * lanes..], own);
                    x += 1;
                }
            }
        }
        let places = sums[line * SIDE * lanes..].chunks_exact_mut(lanes);
        own.into_iter().zip(places).for_each(|(sum, place)| ops.store(sum, place));
    }
    let mut total = ops.load(&sums[TAPS * lanes..]);
    for row in padded_slopes.chunks_exact(stride).skip(BORDER).take(height) {
        for cell in row[BORDER * lanes..].chunks_exact(lanes).take(width) {
            total = ops.add(total, ops.load(cell));
        }
    }
    ops.store(total, &mut sums[TAPS * lanes..]);
}

/// The products of `X` neighbouring outputs' gradients with the inputs of one line of their windows.
#[inline(always)]
fn products<I: Isa, const X: usize, const N: usize>(isa: I, slopes: &[f32], inputs: &[f32], mut sums: [I::F32; SIDE]) -> [I::F32; SIDE] {
    let ops = isa.f32();
    let slopes = ops.load_many::<X>(slopes);
    let inputs = ops.load_many::<N>(inputs);
    for (x, &slope) in slopes.iter().enumerate() {
        for (sum, &input) in sums.iter_mut().zip(&inputs[x..]) {
            *sum = ops.mul_add(slope, input, *sum);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, step: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * step + 0.3).sin()).collect()
    }

    /// Calls `visit` with every product of the convolution: output, input and weight by their places.
    fn for_products(shape: ImageShape, mut visit: impl FnMut(usize, usize, usize)) {
        let ImageShape { images, height, width, channels } = shape;
        let place = |image: usize, y: usize, x: usize, channel: usize| ((image * height + y) * width + x) * channels + channel;
        for image in 0..images {
            for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
                for (line, column) in (0..SIDE).flat_map(|line| (0..SIDE).map(move |column| (line, column))) {
                    let (from_y, from_x) = (y + line, x + column);
                    if (BORDER..height + BORDER).contains(&from_y) && (BORDER..width + BORDER).contains(&from_x) {
                        for channel in 0..channels {
                            let from = place(image, from_y - BORDER, from_x - BORDER, channel);
                            visit(place(image, y, x, channel), from, channel * TAPS + line * SIDE + column);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn all_three_passes_are_those_of_the_plain_loops() {
        let mut space = vec![f32::NAN; 10];
        for (images, height, width, channels) in [(2, 8, 8, 40), (1, 5, 13, 16), (3, 4, 4, 33), (1, 1, 2, 3), (2, 9, 32, 1)] {
            let shape = ImageShape { images, height, width, channels };
            let (input, slopes) = (numbers(shape.len(), 0.7), numbers(shape.len(), 1.1));
            let (weights, bias) = (numbers(TAPS * channels, 0.37), numbers(channels, 2.0));
            let mut kernel = DepthwiseKernel::default();
            kernel.set(&weights, &bias);
            let mut output = vec![f32::NAN; shape.len()];
            depthwise(&kernel, &input, &mut output, shape, &mut space);
            let (mut input_slopes, mut weight_slopes, mut bias_slopes) =
                (vec![f32::NAN; shape.len()], vec![1.0; weights.len()], vec![2.0; channels]);
            let weight = (&mut weight_slopes[..], &mut bias_slopes[..]);
            depthwise_backward(&kernel, &input, &slopes, shape, &mut input_slopes, weight, &mut space);

            let mut exact: Vec<f64> = (0..shape.len()).map(|i| f64::from(bias[i % channels])).collect();
            let (mut exact_input, mut exact_weight) = (vec![0.0; shape.len()], vec![1.0; weights.len()]);
            for_products(shape, |to, from, tap| {
                let (x, w, g) = (f64::from(input[from]), f64::from(weights[tap]), f64::from(slopes[to]));
                exact[to] += x * w;
                exact_input[from] += g * w;
                exact_weight[tap] += g * x;
            });
            let mut exact_bias = vec![2.0; channels];
            slopes.iter().enumerate().for_each(|(i, &slope)| exact_bias[i % channels] += f64::from(slope));
            for (what, found, exact) in [
                ("outputs", &output, &exact),
                ("inputs", &input_slopes, &exact_input),
                ("weights", &weight_slopes, &exact_weight),
                ("biases", &bias_slopes, &exact_bias),
            ] {
                for (place, (&found, &exact)) in found.iter().zip(exact).enumerate() {
                    assert!(
                        (f64::from(found) - exact).abs() < 1e-5 * (1.0 + exact.abs()),
                        "{what} {place} of {shape:?}: {found} not {exact}"
                    );
                }
            }
        }
    }
}
