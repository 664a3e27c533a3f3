//! KL divergences of rows of logits, one row a position: the form in which forward passes of other programs give them. The formula, its notation and
//! its error are those of [`vocabulary`](super::vocabulary), whose tiles have one column a position.

use rten_simd::ops::{BitOps, FloatOps, NumOps};
use rten_simd::{Isa, Simd, SimdOp};

use super::exponential::{exp, exp_m1};
use super::vocabulary::Sums;

/// Logits whose sums are kept in `f32` before they go to `f64`.
const CHUNK: usize = 512;

/// Above this change of a logit the `f32` terms could overflow and `f64` takes over.
const LARGEST_CHANGE: f32 = 40.0;

/// The outputs of one position.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    /// Logits of the center.
    pub(crate) center: &'a [f32],
    /// The log of their normalization.
    pub(crate) logarithm: f32,
    /// Logits of the moved network.
    pub(crate) logits: &'a [f32],
    /// How much the center's largest logit has changed, or any other number.
    pub(crate) shift: f32,
}

/// What a row's logits say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RowDivergence {
    /// `KL(p || q)`, nats: NaN when a logit is not finite.
    pub(crate) nats: f64,
    /// `log q - log p` is the change of a logit less this.
    pub(crate) normalization: f64,
}

/// The divergence of a row: relative error a few 1e-7, and 1e-4 at 1e-9 nats (oracle: `f64`).
///
/// # Panics
/// If the lengths differ.
pub(crate) fn divergence(row: Row<'_>) -> RowDivergence {
    assert_eq!(row.center.len(), row.logits.len(), "both networks have the same outputs");
    let (mut sums, probability, largest) = RowSums(row).dispatch();
    let mut probability = probability;
    if largest > LARGEST_CHANGE {
        (sums, probability) = exact(row, 0..row.center.len());
    }
    let x = (sums.change + sums.excess) / probability;
    RowDivergence { nats: sums.divergence(probability), normalization: f64::from(row.shift) + x.ln_1p() }
}

/// Writes `scale (q - p)`, the slopes of `scale KL(p || q)` by the logits; `normalization` is that of [`divergence`].
///
/// # Panics
/// If the lengths differ.
pub(crate) fn slopes(row: Row<'_>, normalization: f64, scale: f32, out: &mut [f32]) {
    assert!(row.center.len() == row.logits.len() && row.center.len() == out.len(), "both networks have the same outputs");
    RowSlopes { row, normalization, scale, out }.dispatch();
}

struct RowSums<'a>(Row<'a>);

impl SimdOp for RowSums<'_> {
    /// The sums, that of the probabilities, and the largest change.
    type Output = (Sums, f64, f32);

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        let Row { center, logarithm, logits, shift } = self.0;
        let ops = isa.f32();
        let lanes = ops.len();
        let whole = center.len() / lanes * lanes;
        let (wide_logarithm, wide_shift) = (ops.splat(logarithm), ops.splat(shift));
        let (mut sums, mut probability, mut largest) = (Sums::default(), 0.0, f32::NEG_INFINITY);
        let total = |vector: I::F32| vector.to_array().as_ref().iter().map(|&x| f64::from(x)).sum::<f64>();
        for (center, logits) in center[..whole].chunks(CHUNK).zip(logits[..whole].chunks(CHUNK)) {
            let (mut p_sum, mut change, mut excess, mut squares) = (ops.zero(), ops.zero(), ops.zero(), ops.zero());
            let mut most = ops.splat(f32::NEG_INFINITY);
            for (center, logits) in center.chunks_exact(lanes).zip(logits.chunks_exact(lanes)) {
                let (a, b) = (ops.load(center), ops.load(logits));
                let p = exp(isa, ops.sub(a, wide_logarithm));
                let d = ops.sub(ops.sub(b, a), wide_shift);
                let (_, beyond) = exp_m1(isa, d);
                p_sum = ops.add(p_sum, p);
                change = ops.mul_add(p, d, change);
                excess = ops.mul_add(p, beyond, excess);
                squares = ops.mul_add(b, b, squares);
                most = ops.max(d, most);
            }
            probability += total(p_sum);
            sums.add(&Sums { change: total(change), excess: total(excess), logits_squared: total(squares) });
            largest = most.to_array().as_ref().iter().fold(largest, |largest, &x| largest.max(x));
        }
        let (rest, rest_probability) = exact(self.0, whole..center.len());
        sums.add(&rest);
        (sums, probability + rest_probability, largest)
    }
}

/// The sums of some outputs in `f64`, and that of their probabilities.
fn exact(row: Row<'_>, range: std::ops::Range<usize>) -> (Sums, f64) {
    let (mut sums, mut probability) = (Sums::default(), 0.0);
    for (&a, &b) in row.center[range.clone()].iter().zip(&row.logits[range]) {
        let (a, b) = (f64::from(a), f64::from(b));
        let log_p = a - f64::from(row.logarithm);
        let d = b - a - f64::from(row.shift);
        let p = log_p.exp();
        probability += p;
        sums.change += p * d;
        // p exp(d) in one exponential: p alone may underflow.
        sums.excess += if d.abs() < 0.25 { p * (d.exp_m1() - d) } else { (log_p + d).exp() - p - p * d };
        sums.logits_squared += b * b;
    }
    (sums, probability)
}

struct RowSlopes<'a> {
    row: Row<'a>,
    normalization: f64,
    scale: f32,
    out: &'a mut [f32],
}

impl SimdOp for RowSlopes<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { row: Row { center, logarithm, logits, .. }, normalization, scale, out } = self;
        let ops = isa.f32();
        let lanes = ops.len();
        let whole = center.len() / lanes * lanes;
        let (wide_logarithm, wide_shift, wide_scale) = (ops.splat(logarithm), ops.splat(normalization as f32), ops.splat(scale));
        let large = ops.splat(LARGEST_CHANGE);
        let places = center[..whole].chunks_exact(lanes).zip(logits[..whole].chunks_exact(lanes));
        for ((center, logits), out) in places.zip(out[..whole].chunks_exact_mut(lanes)) {
            let (a, b) = (ops.load(center), ops.load(logits));
            // The difference of two close numbers is exact.
            let d = ops.sub(ops.sub(b, a), wide_shift);
            let p = exp(isa, ops.sub(a, wide_logarithm));
            let (growth, _) = exp_m1(isa, d);
            let near = ops.mul(p, growth);
            // Beyond this change p expm1(d) could overflow, and q comes from its own logarithm.
            let far = ops.sub(exp(isa, ops.sub(ops.sub(b, wide_logarithm), wide_shift)), p);
            ops.store(ops.mul(ops.select(far, near, ops.gt(ops.abs(d), large)), wide_scale), out);
        }
        for ((&a, &b), out) in center[whole..].iter().zip(&logits[whole..]).zip(&mut out[whole..]) {
            let log_p = f64::from(a) - f64::from(logarithm);
            let d = f64::from(b) - f64::from(a) - normalization;
            *out = (f64::from(scale) * ((log_p + d).exp() - log_p.exp())) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logarithm(logits: &[f32]) -> f64 {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        f64::from(largest) + logits.iter().map(|&x| (f64::from(x) - f64::from(largest)).exp()).sum::<f64>().ln()
    }

    #[test]
    fn divergences_and_slopes_are_those_of_f64() {
        for classes in [2usize, 15, 16, 37, 1000, 5003] {
            let center: Vec<f32> = (0..classes).map(|i| (i as f32 * 1.37).sin() * 6.0).collect();
            let log_p = logarithm(&center);
            for size in [1e-5f32, 1e-3, 0.1, 3.0, 60.0, 300.0] {
                let logits: Vec<f32> = center.iter().enumerate().map(|(i, c)| c + size * (i as f32 * 0.71).cos() + 2.0 * size).collect();
                let log_q = logarithm(&logits);
                let terms = center.iter().zip(&logits).map(|(&a, &b)| {
                    let (p, d) = ((f64::from(a) - log_p).exp(), f64::from(b) - log_q - (f64::from(a) - log_p));
                    let excess = if d.abs() < 0.05 { d * d * (0.5 + d / 6.0 + d * d / 24.0 + d.powi(3) / 120.0) } else { d.exp_m1() - d };
                    if d > 300.0 { -p * d } else { p * excess }
                });
                let expected: f64 = terms.sum();
                let favorite = (0..classes).max_by(|&i, &j| center[i].total_cmp(&center[j])).unwrap_or(0);
                let row = Row { center: &center, logarithm: log_p as f32, logits: &logits, shift: logits[favorite] - center[favorite] };
                let found = divergence(row);
                if size < 200.0 {
                    let bound = if size < 1e-4 { 1e-3 } else { 2e-6 };
                    assert!((found.nats / expected - 1.0).abs() < bound, "{classes}, {size}: {} not {expected}", found.nats);
                } else {
                    assert!(found.nats > 1.0 || classes < 3, "{classes}: {}", found.nats);
                }
                let mut slopes_found = vec![0.0f32; classes];
                slopes(row, found.normalization, 0.5, &mut slopes_found);
                for ((&a, &b), &slope) in center.iter().zip(&logits).zip(&slopes_found) {
                    let (p, q) = ((f64::from(a) - log_p).exp(), (f64::from(b) - log_q).exp());
                    assert!(
                        (f64::from(slope) - 0.5 * (q - p)).abs() < 3e-6 * (p + q) * f64::from(size.max(1.0)) + 1e-12,
                        "{classes}, {size}"
                    );
                }
            }
            assert_eq!(divergence(Row { center: &center, logarithm: log_p as f32, logits: &center, shift: 0.0 }).nats, 0.0);
            let mut broken = center.clone();
            broken[classes / 2] = f32::NAN;
            assert!(divergence(Row { center: &center, logarithm: log_p as f32, logits: &broken, shift: 0.0 }).nats.is_nan());
        }
    }
}
