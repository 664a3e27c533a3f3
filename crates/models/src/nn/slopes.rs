//! Gradients of cross-entropy and KL divergence with respect to the logits, over a tile of the vocabulary, in place.

use rten_simd::ops::NumOps;
use rten_simd::{Isa, SimdOp};

use super::exponential::{exp, exp_m1};

/// Replaces the logits `[rows, stride]` by `weight * exp(logit - logarithm)` of their column: the weighted probabilities, which are the
/// gradient of the cross-entropy but for the label's own entry. With a soft limit of the logits, `cap`, times `1 - (logit/cap)^2`: the
/// gradient with respect to the logits before the limit.
///
/// # Panics
/// If a length does not fit the shapes, or `stride` is not a multiple of 16.
pub(crate) fn entropy_slopes(logits: &mut [f32], stride: usize, logarithms: &[f32], weights: &[f32], cap: Option<f32>) {
    check(logits.len(), stride, [logarithms, weights]);
    EntropySlopes { logits, stride, logarithms, weights, cap }.dispatch();
}

/// Replaces the logits `[rows, stride]` by `weight * (q - p)`: the gradient of the weighted KL divergence from the center's distribution
/// `p = exp(center - logarithm)`, as `p expm1(log q - log p)` with `log q - log p = logit - center - shift`, which keeps its digits when
/// the two are close. `cap` as in [`entropy_slopes`].
///
/// # Panics
/// If a length does not fit the shapes, or `stride` is not a multiple of 16.
pub(crate) fn divergence_slopes(
    logits: &mut [f32],
    center: &[f32],
    stride: usize,
    logarithms: &[f32],
    shifts: &[f32],
    weights: &[f32],
    cap: Option<f32>,
) {
    check(logits.len(), stride, [logarithms, weights]);
    assert!(center.len() == logits.len() && shifts.len() == stride, "both networks have the same vocabulary");
    DivergenceSlopes { logits, center, stride, logarithms, shifts, weights, cap }.dispatch();
}

fn check(length: usize, stride: usize, columns: [&[f32]; 2]) {
    assert!(stride > 0 && stride.is_multiple_of(16), "columns come in groups of 16");
    assert!(length.is_multiple_of(stride), "the logits must be [rows, columns]");
    assert!(columns.iter().all(|values| values.len() == stride), "one log-normalizer and weight per column");
}

struct EntropySlopes<'a> {
    logits: &'a mut [f32],
    stride: usize,
    logarithms: &'a [f32],
    weights: &'a [f32],
    cap: Option<f32>,
}

impl SimdOp for EntropySlopes<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        use rten_simd::ops::BitOps;
        let ops = isa.f32();
        let lanes = ops.len();
        let inverse = self.cap.map(|cap| ops.splat(1.0 / cap));
        for row in self.logits.chunks_exact_mut(self.stride) {
            for start in (0..self.stride).step_by(lanes) {
                let place = start..start + lanes;
                let logit = ops.load(&row[place.clone()]);
                let p = exp(isa, ops.sub(logit, ops.load(&self.logarithms[place.clone()])));
                let mut slope = ops.mul(p, ops.load(&self.weights[place.clone()]));
                if let Some(inverse) = inverse {
                    let relative = ops.mul(logit, inverse);
                    slope = ops.mul(slope, ops.sub(ops.one(), ops.mul(relative, relative)));
                }
                ops.store(slope, &mut row[place]);
            }
        }
    }
}

struct DivergenceSlopes<'a> {
    logits: &'a mut [f32],
    center: &'a [f32],
    stride: usize,
    logarithms: &'a [f32],
    shifts: &'a [f32],
    weights: &'a [f32],
    cap: Option<f32>,
}

impl SimdOp for DivergenceSlopes<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        use rten_simd::ops::{BitOps, FloatOps};
        let ops = isa.f32();
        let lanes = ops.len();
        let inverse = self.cap.map(|cap| ops.splat(1.0 / cap));
        // Beyond this change p expm1(d) could overflow, and q comes from its own logarithm.
        let large = ops.splat(40.0);
        for (row, center) in self.logits.chunks_exact_mut(self.stride).zip(self.center.chunks_exact(self.stride)) {
            for start in (0..self.stride).step_by(lanes) {
                let place = start..start + lanes;
                let logit = ops.load(&row[place.clone()]);
                let center = ops.load(&center[place.clone()]);
                let (logarithm, shift) = (ops.load(&self.logarithms[place.clone()]), ops.load(&self.shifts[place.clone()]));
                // The difference of two close numbers is exact.
                let d = ops.sub(ops.sub(logit, center), shift);
                let p = exp(isa, ops.sub(center, logarithm));
                let (growth, _) = exp_m1(isa, d);
                let near = ops.mul(p, growth);
                let far = ops.sub(exp(isa, ops.sub(ops.sub(logit, logarithm), shift)), p);
                let mut slope = ops.select(far, near, ops.gt(ops.abs(d), large));
                slope = ops.mul(slope, ops.load(&self.weights[place.clone()]));
                if let Some(inverse) = inverse {
                    let relative = ops.mul(logit, inverse);
                    slope = ops.mul(slope, ops.sub(ops.one(), ops.mul(relative, relative)));
                }
                ops.store(slope, &mut row[place]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logarithm(logits: &[f32], stride: usize, column: usize) -> f64 {
        logits.iter().skip(column).step_by(stride).map(|&x| f64::from(x).exp()).sum::<f64>().ln()
    }

    #[test]
    fn slopes_are_those_of_f64() {
        let (rows, stride) = (37, 32);
        let center: Vec<f32> = (0..rows * stride).map(|i| (i as f32 * 1.37).sin() * 6.0).collect();
        let weights: Vec<f32> = (0..stride).map(|i| i as f32 * 0.1).collect();
        for (size, cap) in [(1e-4f32, None), (1e-2, Some(8.0f32)), (3.0, None), (60.0, None)] {
            let logits: Vec<f32> = center.iter().enumerate().map(|(i, c)| c + size * (i as f32 * 0.71).cos()).collect();
            let of = |values: &[f32]| -> Vec<f64> { (0..stride).map(|column| logarithm(values, stride, column)).collect() };
            let (log_p, log_q) = (of(&center), of(&logits));
            let logarithms: Vec<f32> = log_p.iter().map(|&value| value as f32).collect();
            let shifts: Vec<f32> = log_q.iter().zip(&logarithms).map(|(q, &p)| (q - f64::from(p)) as f32).collect();
            let mut divergence = logits.clone();
            divergence_slopes(&mut divergence, &center, stride, &logarithms, &shifts, &weights, cap);
            let mut entropy = logits.clone();
            let own: Vec<f32> = log_q.iter().map(|&value| value as f32).collect();
            entropy_slopes(&mut entropy, stride, &own, &weights, cap);
            for (i, (&a, &b)) in center.iter().zip(&logits).enumerate() {
                let column = i % stride;
                let limit = cap.map_or(1.0, |cap| 1.0 - (f64::from(b) / f64::from(cap)).powi(2)) * f64::from(weights[column]);
                let (p, q) = ((f64::from(a) - log_p[column]).exp(), (f64::from(b) - log_q[column]).exp());
                let error = (f64::from(divergence[i]) - (q - p) * limit).abs();
                assert!(
                    error <= (2e-5 * (q - p).abs() + (1e-6 + 2e-7 * f64::from(size)) * p.max(q)) * (1.0 + limit.abs()),
                    "{size}: {} not {}",
                    divergence[i],
                    (q - p) * limit
                );
                assert!(
                    (f64::from(entropy[i]) - q * limit).abs() <= 1e-5 * q * (1.0 + limit.abs()) + 1e-36,
                    "{size}: {} not {}",
                    entropy[i],
                    q * limit
                );
            }
        }
    }
}
