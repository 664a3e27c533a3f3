//! LayerNorm and RMSNorm over the rows of feature-major activations.

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
        let features = self.input.len() / columns;
        for start in (0..columns).step_by(STRIP) {
            let strip = start..(start + STRIP).min(columns);
            let mut means = [0.0f64; STRIP];
            if self.kind == NormKind::Layer {
                for row in self.input.chunks_exact(columns) {
                    for (mean, &x) in means.iter_mut().zip(&row[strip.clone()]) {
                        *mean += f64::from(x);
                    }
                }
                means.iter_mut().for_each(|mean| *mean /= features as f64);
            }
            let mut squares = [0.0f64; STRIP];
            for row in self.input.chunks_exact(columns) {
                for ((square, mean), &x) in squares.iter_mut().zip(&means).zip(&row[strip.clone()]) {
                    let centered = f64::from(x) - mean;
                    *square += centered * centered;
                }
            }
            let mut scales = [0.0f32; STRIP];
            let mut centers = [0.0f32; STRIP];
            for lane in 0..STRIP {
                scales[lane] = (1.0 / (squares[lane] / features as f64 + f64::from(self.epsilon)).sqrt()) as f32;
                centers[lane] = means[lane] as f32;
            }
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
}
