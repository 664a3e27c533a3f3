//! The softmax of attention scores, over the rows of a feature-major tile.

use rten_simd::ops::NumOps;
use rten_simd::{Isa, Simd, SimdOp};

use super::exponential::exp;

/// Replaces the scores `[rows, stride]` by `exp(scale * (score - largest of its column))` and writes the reciprocal of each column's sum
/// to `reciprocals` (length `stride`). `stride` must be a multiple of 16. Scores of `-infinity` give at most 2e-38.
pub(crate) fn exponentiate_columns(scores: &mut [f32], stride: usize, scale: f32, reciprocals: &mut [f32]) {
    assert!(stride.is_multiple_of(16) && reciprocals.len() == stride, "columns come in groups of 16");
    assert!(stride > 0 && scores.len().is_multiple_of(stride), "the scores must be [rows, stride]");
    Exponentiate { scores, stride, scale, reciprocals }.dispatch();
}

struct Exponentiate<'a> {
    scores: &'a mut [f32],
    stride: usize,
    scale: f32,
    reciprocals: &'a mut [f32],
}

impl SimdOp for Exponentiate<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        use rten_simd::ops::BitOps;
        let ops = isa.f32();
        let lanes = ops.len();
        let scale = ops.splat(self.scale);
        for start in (0..self.stride).step_by(lanes) {
            let mut largest = ops.splat(f32::NEG_INFINITY);
            for row in self.scores.chunks_exact(self.stride) {
                largest = ops.max(ops.load(&row[start..start + lanes]), largest);
            }
            let mut sum = ops.zero();
            for row in self.scores.chunks_exact_mut(self.stride) {
                let place = &mut row[start..start + lanes];
                // A NaN in one score makes the whole column NaN through the sum.
                let value = exp(isa, ops.mul(ops.sub(ops.load(place), largest), scale));
                sum = ops.add(sum, value);
                ops.store(value, place);
            }
            let sums = sum.to_array();
            for (reciprocal, sum) in self.reciprocals[start..start + lanes].iter_mut().zip(sums.as_ref()) {
                *reciprocal = 1.0 / sum;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_softmaxes() {
        let (rows, stride) = (23, 32);
        let source: Vec<f32> = (0..rows * stride).map(|i| (i as f32 * 1.37).sin() * 9.0).collect();
        let (mut scores, mut reciprocals) = (source.clone(), vec![0.0; stride]);
        scores[3 * stride + 1] = f32::NEG_INFINITY;
        scores[4 * stride + 2] = f32::NAN;
        exponentiate_columns(&mut scores, stride, 0.5, &mut reciprocals);
        for column in 0..stride {
            let kept = (0..rows).filter(|&row| (row, column) != (3, 1));
            let exact: f64 = kept.map(|row| (0.5 * f64::from(source[row * stride + column])).exp()).sum();
            for row in 0..rows {
                let value = f64::from(scores[row * stride + column]) * f64::from(reciprocals[column]);
                let expected = (0.5 * f64::from(source[row * stride + column])).exp() / exact;
                match (row, column) {
                    (3, 1) => assert!(value < 1e-37),
                    (_, 2) => assert!(value.is_nan()),
                    _ => assert!((value / expected - 1.0).abs() < 2e-6, "{row},{column}: {value} not {expected}"),
                }
            }
        }
    }
}
