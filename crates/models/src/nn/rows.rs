//! Kernels on channels-last activations, `[positions, channels]`: the features of a position are neighbours.
//!
//! Sums over positions are `f32`, in groups of `GROUP` positions and then over groups, so that their error stays at a few 1e-7 of the
//! sum of absolute values; those over the channels of a position are `f32` in as many lanes as the machine's vectors have.

use rten_simd::ops::{BitOps, FloatOps, NumOps};
use rten_simd::{Isa, Simd, SimdOp};

use super::exponential::exp;

/// Positions whose terms are added up before they are added to a running sum.
const GROUP: usize = 32;

/// Beyond this `|x|` the normal distribution function is 0 or 1 but for 1e-8.
const LIMIT: f32 = 5.6;

/// `(Phi(x) - 1/2) / x` for `|x| <= LIMIT` as a quotient of polynomials in `x^2`: `Phi` to 2.4e-8, a reweighted least-squares fit.
const NUMERATOR: [f32; 7] = [0.398_942_1, 0.037_110_735, 0.004_587_428_6, 1.824_425_3e-4, 3.361_057e-6, -2.199_374_4e-8, 1.080_067_3e-10];
const DENOMINATOR: [f32; 5] = [1.0, 0.259_686_95, 0.029_784_923, 0.001_901_352_4, 6.623_701e-5];

/// `1/sqrt(2 pi)`.
const HEIGHT: f32 = 0.398_942_3;

/// The vector of `values` that begins at `start`, with zeros where it leaves them.
#[inline(always)]
pub(super) fn get<I: Isa>(isa: I, values: &[f32], start: usize) -> I::F32 {
    let ops = isa.f32();
    let rest = &values[start..];
    if rest.len() >= ops.len() { ops.load(rest) } else { ops.load_pad(rest).0 }
}

/// Writes a vector to `values` from `start` on, as far as they go.
#[inline(always)]
pub(super) fn put<I: Isa>(isa: I, vector: I::F32, values: &mut [f32], start: usize) {
    let ops = isa.f32();
    let rest = &mut values[start..];
    if rest.len() >= ops.len() {
        ops.store(vector, rest);
    } else {
        let kept = rest.len();
        rest.copy_from_slice(&vector.to_array().as_ref()[..kept]);
    }
}

/// Layer norm of every row of `input` `[rows, weight.len()]`, written to `output`: `(x - mean) / sqrt(variance + epsilon) * weight + bias`.
/// Relative to the largest output the error is a few 1e-7 (oracle: `f64`).
///
/// # Panics
/// If a length does not fit.
pub(crate) fn layer_norm(input: &[f32], output: &mut [f32], (weight, bias): (&[f32], &[f32]), epsilon: f32) {
    assert_eq!(input.len(), output.len(), "one output per input");
    check_norm(input.len(), weight, bias);
    LayerNorm { input, output, weight, bias, epsilon, kept: None }.dispatch();
}

/// [`layer_norm`] that keeps what its backward pass needs: the rows before weight and bias, and `1 / sqrt(variance + epsilon)` of each.
///
/// # Panics
/// If a length does not fit.
pub(crate) fn layer_norm_kept(
    input: &[f32],
    output: &mut [f32],
    (weight, bias): (&[f32], &[f32]),
    epsilon: f32,
    normal: &mut [f32],
    scales: &mut [f32],
) {
    assert!(input.len() == output.len() && normal.len() == output.len(), "one output per input");
    check_norm(input.len(), weight, bias);
    assert_eq!(scales.len() * weight.len(), input.len(), "one scale per row");
    LayerNorm { input, output, weight, bias, epsilon, kept: Some((normal, scales)) }.dispatch();
}

fn check_norm(length: usize, weight: &[f32], bias: &[f32]) {
    assert!(!weight.is_empty() && weight.len() == bias.len(), "one weight and bias per channel");
    assert!(length.is_multiple_of(weight.len()), "whole rows");
}

struct LayerNorm<'a> {
    input: &'a [f32],
    output: &'a mut [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    epsilon: f32,
    kept: Option<(&'a mut [f32], &'a mut [f32])>,
}

impl SimdOp for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { input, output, weight, bias, epsilon, mut kept } = self;
        let ops = isa.f32();
        let lanes = ops.len();
        let channels = weight.len();
        let last = channels / lanes * lanes;
        for (row, (input, output)) in input.chunks_exact(channels).zip(output.chunks_exact_mut(channels)).enumerate() {
            let mut sum = ops.zero();
            for start in (0..channels).step_by(lanes) {
                sum = ops.add(sum, get(isa, input, start));
            }
            let mean = ops.splat(ops.sum(sum) / channels as f32);
            let mut squares = ops.zero();
            for chunk in input[..last].chunks_exact(lanes) {
                let centered = ops.sub(ops.load(chunk), mean);
                squares = ops.mul_add(centered, centered, squares);
            }
            if last < channels {
                let (x, mask) = ops.load_pad(&input[last..]);
                let centered = ops.select(ops.sub(x, mean), ops.zero(), mask);
                squares = ops.mul_add(centered, centered, squares);
            }
            let scale = 1.0 / (ops.sum(squares) / channels as f32 + epsilon).sqrt();
            let factor = ops.splat(scale);
            for start in (0..channels).step_by(lanes) {
                let normal = ops.mul(ops.sub(get(isa, input, start), mean), factor);
                if let Some((rows, _)) = &mut kept {
                    put(isa, normal, &mut rows[row * channels..][..channels], start);
                }
                put(isa, ops.mul_add(normal, get(isa, weight, start), get(isa, bias, start)), output, start);
            }
            if let Some((_, scales)) = &mut kept {
                scales[row] = scale;
            }
        }
    }
}

/// The backward pass of [`layer_norm_kept`]: `slopes` hold the gradient of the outputs and receive that of the inputs; the gradients of
/// weight and bias are added up.
///
/// # Panics
/// If a length does not fit.
pub(crate) fn layer_norm_backward(
    slopes: &mut [f32],
    normal: &[f32],
    scales: &[f32],
    weight: &[f32],
    (weight_slopes, bias_slopes): (&mut [f32], &mut [f32]),
) {
    check_norm(slopes.len(), weight, bias_slopes);
    assert!(normal.len() == slopes.len() && scales.len() * weight.len() == slopes.len(), "what the forward pass kept");
    assert_eq!(weight_slopes.len(), weight.len(), "one gradient per weight");
    LayerNormBackward { slopes, normal, scales, weight, weight_slopes, bias_slopes }.dispatch();
}

struct LayerNormBackward<'a> {
    slopes: &'a mut [f32],
    normal: &'a [f32],
    scales: &'a [f32],
    weight: &'a [f32],
    weight_slopes: &'a mut [f32],
    bias_slopes: &'a mut [f32],
}

impl SimdOp for LayerNormBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { slopes, normal, scales, weight, weight_slopes, bias_slopes } = self;
        let ops = isa.f32();
        let lanes = ops.len();
        let channels = weight.len();
        let count = 1.0 / channels as f32;
        let rows = slopes.chunks_exact_mut(channels).zip(normal.chunks_exact(channels)).zip(scales);
        for ((slopes, normal), &scale) in rows {
            let (mut sum, mut along) = (ops.zero(), ops.zero());
            for start in (0..channels).step_by(lanes) {
                let (slope, x) = (get(isa, slopes, start), get(isa, normal, start));
                let own = ops.mul(slope, get(isa, weight, start));
                sum = ops.add(sum, own);
                along = ops.mul_add(own, x, along);
                put(isa, ops.mul_add(slope, x, get(isa, weight_slopes, start)), weight_slopes, start);
                put(isa, ops.add(slope, get(isa, bias_slopes, start)), bias_slopes, start);
            }
            let (mean, along) = (ops.splat(ops.sum(sum) * count), ops.splat(ops.sum(along) * count));
            let scale = ops.splat(scale);
            for start in (0..channels).step_by(lanes) {
                let own = ops.mul(get(isa, slopes, start), get(isa, weight, start));
                let rest = ops.sub(ops.sub(own, mean), ops.mul(get(isa, normal, start), along));
                put(isa, ops.mul(rest, scale), slopes, start);
            }
        }
    }
}

/// Adds `bias` to every row of `values`, applies `x Phi(x)`, in place, and writes the sum of the squares of every column to `squares`.
///
/// Error of the function at most 1e-6 for `x <= 1` and relative to it 1e-6 above (oracle: `f64`); NaN stays NaN and infinity does not
/// become an ordinary number.
///
/// # Panics
/// If a length does not fit.
pub(crate) fn bias_gelu_squares(values: &mut [f32], bias: &[f32], squares: &mut [f32]) {
    check_norm(values.len(), bias, squares);
    BiasGelu { values, bias, squares, derivatives: None }.dispatch();
}

/// [`bias_gelu_squares`] that also writes the derivative of the function at every sum, with an error of at most 6e-7.
///
/// # Panics
/// If a length does not fit.
pub(crate) fn bias_gelu_squares_kept(values: &mut [f32], bias: &[f32], squares: &mut [f32], derivatives: &mut [f32]) {
    check_norm(values.len(), bias, squares);
    assert_eq!(derivatives.len(), values.len(), "one derivative per value");
    BiasGelu { values, bias, squares, derivatives: Some(derivatives) }.dispatch();
}

struct BiasGelu<'a> {
    values: &'a mut [f32],
    bias: &'a [f32],
    squares: &'a mut [f32],
    derivatives: Option<&'a mut [f32]>,
}

/// `Phi(x)`.
#[inline(always)]
fn normal_distribution<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    let ops = isa.f32();
    // This order of arguments keeps NaN.
    let limited = ops.max(ops.splat(-LIMIT), ops.min(ops.splat(LIMIT), x));
    let square = ops.mul(limited, limited);
    let polynomial = |coefficients: &[f32]| {
        let (highest, lower) = (coefficients[coefficients.len() - 1], &coefficients[..coefficients.len() - 1]);
        lower.iter().rev().fold(ops.splat(highest), |sum, &coefficient| ops.mul_add(sum, square, ops.splat(coefficient)))
    };
    let quotient = ops.div(polynomial(&NUMERATOR), polynomial(&DENOMINATOR));
    ops.mul_add(limited, quotient, ops.splat(0.5))
}

/// `x Phi(x)`: far below zero `Phi` is a rounding error, and the limit keeps its product with `x` small.
#[inline(always)]
fn gelu<I: Isa>(isa: I, x: I::F32, phi: I::F32) -> I::F32 {
    let ops = isa.f32();
    let factor = ops.max(ops.splat(-LIMIT), x);
    // 0 * x is NaN for NaN and infinite x and changes nothing else.
    ops.mul_add(x, ops.zero(), ops.mul(factor, phi))
}

impl SimdOp for BiasGelu<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { values, bias, squares, derivatives } = self;
        let ops = isa.f32();
        let lanes = ops.len();
        let channels = bias.len();
        let rows = values.len() / channels;
        let mut derivatives = derivatives;
        for start in (0..channels).step_by(lanes) {
            let own = get(isa, bias, start);
            let mut total = ops.zero();
            for group in (0..rows).step_by(GROUP) {
                let mut sum = ops.zero();
                for row in group..(group + GROUP).min(rows) {
                    let place = row * channels..(row + 1) * channels;
                    let values = &mut values[place.clone()];
                    let x = ops.add(get(isa, values, start), own);
                    let phi = normal_distribution(isa, x);
                    let result = gelu(isa, x, phi);
                    sum = ops.mul_add(result, result, sum);
                    put(isa, result, values, start);
                    if let Some(derivatives) = &mut derivatives {
                        let density = ops.mul(exp(isa, ops.mul(ops.mul(x, x), ops.splat(-0.5))), ops.splat(HEIGHT));
                        put(isa, ops.mul_add(x, density, phi), &mut derivatives[place], start);
                    }
                }
                total = ops.add(total, sum);
            }
            put(isa, total, squares, start);
        }
    }
}

/// Writes `values * scale + shift`, column by column, to `output`.
///
/// # Panics
/// If a length does not fit.
pub(crate) fn scale_shift_to(values: &[f32], scale: &[f32], shift: &[f32], output: &mut [f32]) {
    assert_eq!(values.len(), output.len(), "one output per input");
    check_norm(values.len(), scale, shift);
    ScaleShift { values, scale, shift, output }.dispatch();
}

struct ScaleShift<'a> {
    values: &'a [f32],
    scale: &'a [f32],
    shift: &'a [f32],
    output: &'a mut [f32],
}

impl SimdOp for ScaleShift<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let channels = self.scale.len();
        for (row, output) in self.values.chunks_exact(channels).zip(self.output.chunks_exact_mut(channels)) {
            for start in (0..channels).step_by(ops.len()) {
                let scaled = ops.mul_add(get(isa, row, start), get(isa, self.scale, start), get(isa, self.shift, start));
                put(isa, scaled, output, start);
            }
        }
    }
}

/// Scales and shifts in place: [`scale_shift_to`].
///
/// # Panics
/// If a length does not fit.
pub(crate) fn scale_shift(values: &mut [f32], scale: &[f32], shift: &[f32]) {
    check_norm(values.len(), scale, shift);
    ScaleShiftInPlace { values, scale, shift }.dispatch();
}

struct ScaleShiftInPlace<'a> {
    values: &'a mut [f32],
    scale: &'a [f32],
    shift: &'a [f32],
}

impl SimdOp for ScaleShiftInPlace<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let channels = self.scale.len();
        for row in self.values.chunks_exact_mut(channels) {
            for start in (0..channels).step_by(ops.len()) {
                let scaled = ops.mul_add(get(isa, row, start), get(isa, self.scale, start), get(isa, self.shift, start));
                put(isa, scaled, row, start);
            }
        }
    }
}

/// `sums += factor (values + bias)`, `bias` for every row.
///
/// # Panics
/// If a length does not fit.
pub(crate) fn add_rows(sums: &mut [f32], values: &[f32], bias: &[f32], factor: f32) {
    assert_eq!(values.len(), sums.len(), "one value per sum");
    check_norm(values.len(), bias, bias);
    AddRows { sums, values, bias, factor }.dispatch();
}

struct AddRows<'a> {
    sums: &'a mut [f32],
    values: &'a [f32],
    bias: &'a [f32],
    factor: f32,
}

impl SimdOp for AddRows<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let channels = self.bias.len();
        let factor = ops.splat(self.factor);
        for (sums, values) in self.sums.chunks_exact_mut(channels).zip(self.values.chunks_exact(channels)) {
            for start in (0..channels).step_by(ops.len()) {
                let value = ops.add(get(isa, values, start), get(isa, self.bias, start));
                put(isa, ops.mul_add(value, factor, get(isa, sums, start)), sums, start);
            }
        }
    }
}

/// Adds the sum of every column of `values` to `sums`, and with `factors` that of `values * factors` to `products`.
///
/// # Panics
/// If a length does not fit.
pub(crate) fn add_column_sums(values: &[f32], sums: &mut [f32], with: Option<(&[f32], &mut [f32])>) {
    check_norm(values.len(), sums, sums);
    if let Some((factors, products)) = &with {
        assert!(factors.len() == values.len() && products.len() == sums.len(), "one factor per value");
    }
    ColumnSums { values, sums, with }.dispatch();
}

struct ColumnSums<'a> {
    values: &'a [f32],
    sums: &'a mut [f32],
    with: Option<(&'a [f32], &'a mut [f32])>,
}

impl SimdOp for ColumnSums<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { values, sums, mut with } = self;
        let ops = isa.f32();
        let lanes = ops.len();
        let channels = sums.len();
        let rows = values.len() / channels;
        for start in (0..channels).step_by(lanes) {
            let (mut total, mut total_product) = (ops.zero(), ops.zero());
            for group in (0..rows).step_by(GROUP) {
                let (mut sum, mut product) = (ops.zero(), ops.zero());
                for row in group..(group + GROUP).min(rows) {
                    let place = row * channels..(row + 1) * channels;
                    let value = get(isa, &values[place.clone()], start);
                    sum = ops.add(sum, value);
                    if let Some((factors, _)) = &with {
                        product = ops.mul_add(value, get(isa, &factors[place], start), product);
                    }
                }
                total = ops.add(total, sum);
                total_product = ops.add(total_product, product);
            }
            put(isa, ops.add(get(isa, sums, start), total), sums, start);
            if let Some((_, products)) = &mut with {
                put(isa, ops.add(get(isa, products, start), total_product), products, start);
            }
        }
    }
}

/// `slopes = (slopes * scale + values * change) * derivatives`, `scale` and `change` for every column: the backward pass through global
/// response normalization and the activation before it.
///
/// # Panics
/// If a length does not fit.
pub(crate) fn response_backward(slopes: &mut [f32], values: &[f32], derivatives: &[f32], scale: &[f32], change: &[f32]) {
    assert!(values.len() == slopes.len() && derivatives.len() == slopes.len(), "one value and derivative per gradient");
    check_norm(slopes.len(), scale, change);
    ResponseBackward { slopes, values, derivatives, scale, change }.dispatch();
}

struct ResponseBackward<'a> {
    slopes: &'a mut [f32],
    values: &'a [f32],
    derivatives: &'a [f32],
    scale: &'a [f32],
    change: &'a [f32],
}

impl SimdOp for ResponseBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let channels = self.scale.len();
        let rows = self.slopes.chunks_exact_mut(channels).zip(self.values.chunks_exact(channels));
        for ((slopes, values), derivatives) in rows.zip(self.derivatives.chunks_exact(channels)) {
            for start in (0..channels).step_by(ops.len()) {
                let through = ops.mul(get(isa, slopes, start), get(isa, self.scale, start));
                let slope = ops.mul_add(get(isa, values, start), get(isa, self.change, start), through);
                put(isa, ops.mul(slope, get(isa, derivatives, start)), slopes, start);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::ActivationFunction;

    fn numbers(count: usize, step: f32, size: f32) -> Vec<f32> {
        (0..count).map(|i| size * (i as f32 * step + 0.3).sin()).collect()
    }

    fn compare(what: &str, found: &[f32], exact: impl IntoIterator<Item = f64>, bound: f64) {
        for (place, (&found, exact)) in found.iter().zip(exact).enumerate() {
            assert!((f64::from(found) - exact).abs() <= bound * (1.0 + exact.abs()), "{what} {place}: {found} not {exact}");
        }
    }

    #[test]
    fn the_activation_is_that_of_f64_with_its_derivative_and_squares() {
        let inputs: Vec<f32> = (-90_000..90_000).map(|i| i as f32 * 1e-4).chain([-1e30, 1e30, -87.0, 60.0]).collect();
        let channels = 4;
        let bias = [0.0f32, 0.5, -0.25, 0.0];
        let (mut values, mut squares, mut derivatives) = (inputs.clone(), vec![f32::NAN; channels], vec![f32::NAN; inputs.len()]);
        bias_gelu_squares_kept(&mut values, &bias, &mut squares, &mut derivatives);
        let at = |place: usize| f64::from(inputs[place] + bias[place % channels]);
        for place in 0..inputs.len() {
            let (x, value) = (at(place), f64::from(values[place]));
            let exact = ActivationFunction::Gelu.exact(x);
            assert!((value - exact).abs() <= 1e-6 * exact.abs().max(1.0), "gelu({x}) = {value} not {exact}");
            if x.abs() < 50.0 {
                let slope = (ActivationFunction::Gelu.exact(x + 1e-5) - ActivationFunction::Gelu.exact(x - 1e-5)) / 2e-5;
                assert!((f64::from(derivatives[place]) - slope).abs() <= 6e-7, "gelu'({x}) = {} not {slope}", derivatives[place]);
            }
        }
        let mut plain = inputs.clone();
        bias_gelu_squares(&mut plain, &bias, &mut squares);
        assert_eq!(plain, values);
        let few = 400;
        bias_gelu_squares(&mut inputs[..few].to_vec(), &bias, &mut squares);
        let exact = (0..channels).map(|c| (c..few).step_by(channels).map(|i| ActivationFunction::Gelu.exact(at(i)).powi(2)).sum::<f64>());
        compare("squares", &squares, exact, 1e-6);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = [0.0, bad, 1.0];
            bias_gelu_squares(&mut values, &[0.0; 3], &mut [0.0; 3]);
            assert!(!values[1].is_finite() && values[2].is_finite(), "{bad}");
        }
    }

    #[test]
    fn norms_and_their_gradients_are_those_of_f64() {
        for channels in [1usize, 6, 16, 40, 77] {
            let rows = 70;
            let (input, slopes) = (numbers(rows * channels, 0.77, 2.0), numbers(rows * channels, 1.3, 1.0));
            let (weight, bias) = (numbers(channels, 0.2, 1.5), numbers(channels, 0.4, 1.0));
            let (mut output, mut normal, mut scales) = (vec![f32::NAN; input.len()], vec![f32::NAN; input.len()], vec![0.0; rows]);
            layer_norm_kept(&input, &mut output, (&weight, &bias), 1e-3, &mut normal, &mut scales);
            let mut plain = vec![f32::NAN; input.len()];
            layer_norm(&input, &mut plain, (&weight, &bias), 1e-3);
            assert_eq!(plain, output);
            let norm = |row: &[f64]| -> Vec<f64> {
                let mean = row.iter().sum::<f64>() / channels as f64;
                let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / channels as f64;
                row.iter().map(|x| (x - mean) / (variance + 1e-3).sqrt()).collect()
            };
            let exact: Vec<f64> = input
                .chunks(channels)
                .flat_map(|row| norm(&row.iter().map(|&x| f64::from(x)).collect::<Vec<_>>()))
                .enumerate()
                .map(|(i, x)| x * f64::from(weight[i % channels]) + f64::from(bias[i % channels]))
                .collect();
            compare("norm", &output, exact, 2e-6);

            let mut own = slopes.clone();
            let (mut weight_slopes, mut bias_slopes) = (vec![1.0; channels], vec![2.0; channels]);
            layer_norm_backward(&mut own, &normal, &scales, &weight, (&mut weight_slopes, &mut bias_slopes));
            // The loss is the product of outputs and slopes.
            let mut exact = Vec::new();
            for (row, slopes) in input.chunks(channels).zip(slopes.chunks(channels)) {
                let row: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
                let loss = |row: &[f64]| -> f64 {
                    let terms = norm(row).into_iter().zip(&weight).zip(slopes);
                    terms.map(|((x, &w), &g)| x * f64::from(w) * f64::from(g)).sum()
                };
                for channel in 0..channels {
                    let [mut above, mut below] = [row.clone(), row.clone()];
                    above[channel] += 1e-5;
                    below[channel] -= 1e-5;
                    exact.push((loss(&above) - loss(&below)) / 2e-5);
                }
            }
            compare("inputs", &own, exact, 2e-5);
            let column = |c: usize, value: &dyn Fn(usize) -> f64| (0..rows).map(|row| value(row * channels + c)).sum::<f64>();
            compare("weights", &weight_slopes, (0..channels).map(|c| 1.0 + column(c, &|i| f64::from(normal[i] * slopes[i]))), 1e-5);
            compare("biases", &bias_slopes, (0..channels).map(|c| 2.0 + column(c, &|i| f64::from(slopes[i]))), 1e-5);
        }
    }

    #[test]
    fn rows_are_scaled_summed_and_added() {
        for channels in [1usize, 6, 16, 40] {
            let rows = 37;
            let (values, factors) = (numbers(rows * channels, 0.7, 2.0), numbers(rows * channels, 1.9, 1.0));
            let (scale, shift) = (numbers(channels, 0.2, 1.5), numbers(channels, 0.4, 1.0));
            let exact = |i: usize| f64::from(values[i]) * f64::from(scale[i % channels]) + f64::from(shift[i % channels]);
            let mut output = vec![f32::NAN; values.len()];
            scale_shift_to(&values, &scale, &shift, &mut output);
            compare("scaled", &output, (0..values.len()).map(exact), 1e-6);
            let mut own = values.clone();
            scale_shift(&mut own, &scale, &shift);
            assert_eq!(own, output);
            let mut sums = factors.clone();
            add_rows(&mut sums, &values, &shift, 0.5);
            let added = |i: usize| f64::from(factors[i]) + 0.5 * (f64::from(values[i]) + f64::from(shift[i % channels]));
            compare("added", &sums, (0..values.len()).map(added), 1e-6);
            let (mut totals, mut products) = (vec![1.0; channels], vec![2.0; channels]);
            add_column_sums(&values, &mut totals, Some((&factors, &mut products)));
            let column = |c: usize, value: &dyn Fn(usize) -> f64| (0..rows).map(|row| value(row * channels + c)).sum::<f64>();
            compare("sums", &totals, (0..channels).map(|c| 1.0 + column(c, &|i| f64::from(values[i]))), 1e-5);
            compare("products", &products, (0..channels).map(|c| 2.0 + column(c, &|i| f64::from(values[i] * factors[i]))), 1e-5);
            let mut slopes = factors.clone();
            response_backward(&mut slopes, &values, &output, &scale, &shift);
            let through = |i: usize| {
                let (g, v) =
                    (f64::from(factors[i]) * f64::from(scale[i % channels]), f64::from(values[i]) * f64::from(shift[i % channels]));
                (g + v) * f64::from(output[i])
            };
            compare("response", &slopes, (0..values.len()).map(through), 2e-6);
        }
    }
}
