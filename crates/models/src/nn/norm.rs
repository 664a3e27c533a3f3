//! LayerNorm and RMSNorm over the rows of feature-major activations.

use std::ops::Range;

use rten_simd::{Isa, SimdOp};

/// Which norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum NormKind {
    /// `(x - mean) / sqrt(variance + epsilon) * weight + bias`.
    Layer,
    /// `x / sqrt(mean of squares + epsilon) * weight`.
    Rms,
    /// `x / sqrt(mean of squares + epsilon) * (1 + weight)`.
    RmsPlusOne,
}

/// Columns that are normalized together: their sums live in registers and the first cache.
const STRIP: usize = 32;

/// Normalizes every column of the feature-major `input` `[features, columns]` into `output`. Sums are `f64`.
///
/// # Panics
/// If lengths do not fit, or `weight` or `bias` (when given) have another length than the features.
pub(crate) fn normalize(
    kind: NormKind,
    epsilon: f32,
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    input: &[f32],
    output: &mut [f32],
    columns: usize,
) {
    assert_eq!(input.len(), output.len(), "input and output must have the same shape");
    if columns == 0 || input.is_empty() {
        return;
    }
    let features = input.len() / columns;
    assert!(weight.is_none_or(|weight| weight.len() == features), "one weight per feature");
    assert!(bias.is_none_or(|bias| bias.len() == features), "one bias per feature");
    Normalize { kind, epsilon, weight, bias, input, output, columns }.dispatch();
}

/// Mean (0 without centering) and the reciprocal of the deviation of some columns.
#[inline(always)]
fn moments(kind: NormKind, epsilon: f32, input: &[f32], columns: usize, strip: Range<usize>) -> ([f32; STRIP], [f32; STRIP]) {
    let features = input.len() / columns;
    let mut means = [0.0f64; STRIP];
    if kind == NormKind::Layer {
        for row in input.chunks_exact(columns) {
            for (mean, &x) in means.iter_mut().zip(&row[strip.clone()]) {
                *mean += f64::from(x);
            }
        }
        means.iter_mut().for_each(|mean| *mean /= features as f64);
    }
    let mut squares = [0.0f64; STRIP];
    for row in input.chunks_exact(columns) {
        for ((square, mean), &x) in squares.iter_mut().zip(&means).zip(&row[strip.clone()]) {
            let centered = f64::from(x) - mean;
            *square += centered * centered;
        }
    }
    let mut scales = [0.0f32; STRIP];
    let mut centers = [0.0f32; STRIP];
    for lane in 0..STRIP {
        scales[lane] = (1.0 / (squares[lane] / features as f64 + f64::from(epsilon)).sqrt()) as f32;
        centers[lane] = means[lane] as f32;
    }
    (centers, scales)
}

/// The reverse pass of [`normalize`]: replaces the `slopes` of its output by those of its `input`, both `[features, columns]`, and adds what
/// weight and bias get to `sums`, which are empty where there is none.
///
/// With `y = (x - mean) scale` and `h = slope * weight`: the gradient of `x` is `scale (h - mean(h) - y mean(h y))`, the mean of `h` only
/// where the norm centers; that of the weight is `slope y`, that of the bias `slope`, summed over columns. Sums over features are `f64`, those
/// over the columns of a strip `f32`.
///
/// # Panics
/// If lengths do not fit.
pub(crate) fn normalize_backward(
    (kind, epsilon): (NormKind, f32),
    weight: Option<&[f32]>,
    input: &[f32],
    slopes: &mut [f32],
    columns: usize,
    (weight_sums, bias_sums): (&mut [f32], &mut [f32]),
) {
    assert_eq!(input.len(), slopes.len(), "one slope per input");
    if columns == 0 || input.is_empty() {
        return;
    }
    let features = input.len() / columns;
    assert!(weight.is_none_or(|weight| weight.len() == features), "one weight per feature");
    assert!([weight_sums.len(), bias_sums.len()].iter().all(|&length| length == 0 || length == features), "one sum per feature");
    NormalizeBackward { kind, epsilon, weight, input, slopes, columns, weight_sums, bias_sums }.dispatch();
}

/// An operation of `rten_simd` only to have the plain loops compiled for the widest vectors of the machine.
struct Normalize<'a> {
    kind: NormKind,
    epsilon: f32,
    weight: Option<&'a [f32]>,
    bias: Option<&'a [f32]>,
    input: &'a [f32],
    output: &'a mut [f32],
    columns: usize,
}

impl SimdOp for Normalize<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _isa: I) {
        let columns = self.columns;
        for start in (0..columns).step_by(STRIP) {
            let strip = start..(start + STRIP).min(columns);
            let (centers, scales) = moments(self.kind, self.epsilon, self.input, columns, strip.clone());
            let rows = self.input.chunks_exact(columns).zip(self.output.chunks_exact_mut(columns));
            for (feature, (input, output)) in rows.enumerate() {
                let weight = self.weight.map_or(1.0, |weight| weight[feature] + if self.kind == NormKind::RmsPlusOne { 1.0 } else { 0.0 });
                let bias = self.bias.map_or(0.0, |bias| bias[feature]);
                let input = &input[strip.clone()];
                let factors = scales.iter().zip(&centers);
                for ((output, &x), (scale, center)) in output[strip.clone()].iter_mut().zip(input).zip(factors) {
                    *output = (x - center) * scale * weight + bias;
                }
            }
        }
    }
}

struct NormalizeBackward<'a> {
    kind: NormKind,
    epsilon: f32,
    weight: Option<&'a [f32]>,
    input: &'a [f32],
    slopes: &'a mut [f32],
    columns: usize,
    weight_sums: &'a mut [f32],
    bias_sums: &'a mut [f32],
}

/// The sum of a strip, in pairs.
#[inline(always)]
fn sum(terms: &mut [f32; STRIP]) -> f32 {
    let mut width = STRIP / 2;
    while width > 0 {
        let (first, second) = terms.split_at_mut(width);
        first.iter_mut().zip(second).for_each(|(first, second)| *first += *second);
        width /= 2;
    }
    terms[0]
}

impl SimdOp for NormalizeBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _isa: I) {
        let Self { kind, epsilon, weight, input, slopes, columns, weight_sums, bias_sums } = self;
        let count = (input.len() / columns) as f64;
        let one = if kind == NormKind::RmsPlusOne { 1.0 } else { 0.0 };
        let factor = |feature: usize| weight.map_or(1.0, |weight| weight[feature] + one);
        for start in (0..columns).step_by(STRIP) {
            let strip = start..(start + STRIP).min(columns);
            let (centers, scales) = moments(kind, epsilon, input, columns, strip.clone());
            let (mut means, mut along) = ([0.0f64; STRIP], [0.0f64; STRIP]);
            for (feature, (input, slopes)) in input.chunks_exact(columns).zip(slopes.chunks_exact(columns)).enumerate() {
                let factor = factor(feature);
                let (mut of_weight, mut of_bias) = ([0.0f32; STRIP], [0.0f32; STRIP]);
                let rows = input[strip.clone()].iter().zip(&slopes[strip.clone()]);
                let totals = means.iter_mut().zip(&mut along).zip(of_weight.iter_mut().zip(&mut of_bias));
                for (((&x, &slope), (&center, &scale)), ((mean, along), (of_weight, of_bias))) in
                    rows.zip(centers.iter().zip(&scales)).zip(totals)
                {
                    let normal = (x - center) * scale;
                    let own = slope * factor;
                    *mean += f64::from(own);
                    *along += f64::from(own * normal);
                    *of_weight = slope * normal;
                    *of_bias = slope;
                }
                if let Some(total) = weight_sums.get_mut(feature) {
                    *total += sum(&mut of_weight);
                }
                if let Some(total) = bias_sums.get_mut(feature) {
                    *total += sum(&mut of_bias);
                }
            }
            let centering = |mean: f64| if kind == NormKind::Layer { (mean / count) as f32 } else { 0.0 };
            let means = means.map(centering);
            let along = along.map(|along| (along / count) as f32);
            for (feature, (input, slopes)) in input.chunks_exact(columns).zip(slopes.chunks_exact_mut(columns)).enumerate() {
                let factor = factor(feature);
                let factors = centers.iter().zip(&scales).zip(means.iter().zip(&along));
                for ((slope, &x), ((&center, &scale), (&mean, &along))) in
                    slopes[strip.clone()].iter_mut().zip(&input[strip.clone()]).zip(factors)
                {
                    *slope = scale * (*slope * factor - mean - (x - center) * scale * along);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_are_those_of_f64_whatever_the_width() {
        let features = 7;
        let weight: Vec<f32> = (0..features).map(|i| 0.5 + i as f32 * 0.1).collect();
        let bias: Vec<f32> = (0..features).map(|i| i as f32 - 3.0).collect();
        for columns in [1usize, 16, 33, 128] {
            let input: Vec<f32> = (0..features * columns).map(|i| (i as f32 * 0.77).sin() * 2.0 + 1.0).collect();
            for kind in [NormKind::Layer, NormKind::Rms, NormKind::RmsPlusOne] {
                let mut output = vec![0.0; input.len()];
                normalize(kind, 1e-3, Some(&weight), Some(&bias), &input, &mut output, columns);
                for column in 0..columns {
                    let values: Vec<f64> = (0..features).map(|row| f64::from(input[row * columns + column])).collect();
                    let mean = if kind == NormKind::Layer { values.iter().sum::<f64>() / features as f64 } else { 0.0 };
                    let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / features as f64;
                    for row in 0..features {
                        let one = if kind == NormKind::RmsPlusOne { 1.0 } else { 0.0 };
                        let exact = (values[row] - mean) / (variance + 1e-3).sqrt() * (f64::from(weight[row]) + one) + f64::from(bias[row]);
                        let value = f64::from(output[row * columns + column]);
                        assert!((value - exact).abs() < 2e-6, "{kind:?} [{row}, {column}] of {columns}: {value} not {exact}");
                    }
                }
            }
        }
    }

    /// Value of `sum probe * norm(input)` by plain loops in `f64`, at weights and biases given.
    fn exact(kind: NormKind, input: &[f64], weight: &[f64], bias: &[f64], probe: &[f64], columns: usize) -> f64 {
        let features = input.len() / columns;
        let mut total = 0.0;
        for column in 0..columns {
            let values: Vec<f64> = (0..features).map(|row| input[row * columns + column]).collect();
            let mean = if kind == NormKind::Layer { values.iter().sum::<f64>() / features as f64 } else { 0.0 };
            let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / features as f64;
            for (row, value) in values.iter().enumerate() {
                let factor = weight[row] + if kind == NormKind::RmsPlusOne { 1.0 } else { 0.0 };
                total += probe[row * columns + column] * ((value - mean) / (variance + 1e-3).sqrt() * factor + bias[row]);
            }
        }
        total
    }

    #[test]
    fn the_reverse_pass_has_the_differences_of_f64() {
        let features = 7;
        let weight: Vec<f32> = (0..features).map(|i| 0.5 + i as f32 * 0.1).collect();
        let bias: Vec<f32> = (0..features).map(|i| i as f32 - 3.0).collect();
        let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        for columns in [1usize, 16, 33, 128] {
            let input: Vec<f32> = (0..features * columns).map(|i| (i as f32 * 0.77).sin() * 2.0 + 1.0).collect();
            let probe: Vec<f32> = (0..features * columns).map(|i| (i as f32 * 0.31).cos()).collect();
            for kind in [NormKind::Layer, NormKind::Rms, NormKind::RmsPlusOne] {
                let mut slopes = probe.clone();
                let (mut of_weight, mut of_bias) = (vec![0.5f32; features], vec![0.25f32; features]);
                normalize_backward((kind, 1e-3), Some(&weight), &input, &mut slopes, columns, (&mut of_weight, &mut of_bias));
                // Without sums the slopes are the same.
                let mut alone = probe.clone();
                normalize_backward((kind, 1e-3), Some(&weight), &input, &mut alone, columns, (&mut [], &mut []));
                assert_eq!(alone, slopes);
                let found: Vec<f32> =
                    slopes.into_iter().chain(of_weight.iter().map(|x| x - 0.5)).chain(of_bias.iter().map(|x| x - 0.25)).collect();
                let start: Vec<f64> = wide(&input).into_iter().chain(wide(&weight)).chain(wide(&bias)).collect();
                for (index, &slope) in found.iter().enumerate() {
                    let at = |step: f64| {
                        let mut moved = start.clone();
                        moved[index] += step;
                        let (input, rest) = moved.split_at(features * columns);
                        exact(kind, input, &rest[..features], &rest[features..], &wide(&probe), columns)
                    };
                    let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
                    let error = (f64::from(slope) - difference).abs();
                    assert!(error < 2e-5 * difference.abs().max(1.0), "{kind:?}, {columns} columns, {index}: {slope} not {difference}");
                }
            }
        }
    }
}
