//! Sums over a tile of the vocabulary for the KL divergence of language models: logits of the center and of the perturbed network go
//! in, a few `f64` sums per position come out, so that no probability is ever stored.
//!
//! With center logits `a_k`, perturbed logits `b_k`, `p = softmax(a)`, `q = softmax(b)` and any number `s` (the *shift*; best is the
//! change of the center's most probable logit), let `d_k = b_k - a_k - s`. Then
//!
//! `KL(p || q) = log(1 + x) - M = E - (x - log(1 + x))`,  `M = sum p d`,  `E = sum p (expm1(d) - d)`,  `x = M + E`.
//!
//! Every term of `E` is nonnegative and of second order in `d`, and `x - log(1+x) ~ x^2/2` is too: nothing cancels however small the
//! divergence is, one pass over the vocabulary is enough, and sums of different tiles just add.

use rten_simd::ops::NumOps;
use rten_simd::{Isa, Simd, SimdOp};

use super::exponential::{exp, exp_m1};

/// Rows whose sums are kept in `f32` before they go to `f64`.
const CHUNK: usize = 32;

/// Above this change of a logit the `f32` terms could overflow and `f64` takes over.
const LARGEST_CHANGE: f32 = 40.0;

/// Sums over the vocabulary for one position.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Sums {
    /// `M = sum p d`.
    pub(crate) change: f64,
    /// `E = sum p (expm1(d) - d)`.
    pub(crate) excess: f64,
    /// `sum b^2`; not finite when a logit is not.
    pub(crate) logits_squared: f64,
}

impl Sums {
    /// Adds another tile's sums.
    pub(crate) fn add(&mut self, other: &Self) {
        self.change += other.change;
        self.excess += other.excess;
        self.logits_squared += other.logits_squared;
    }

    /// `log sum exp(b) - log sum exp(a) - s` of the whole vocabulary: with the shift, what makes `log q - log p` of the difference of two
    /// logits. Without cancellation where the divergence is small; `-infinity` and NaN where the sums leave nothing.
    #[must_use]
    pub(crate) fn log_ratio(&self, probability: f64) -> f64 {
        ((self.change + self.excess) / probability).ln_1p()
    }

    /// `KL(p || q)` of the whole vocabulary, in nats. `probability` is the sum of [`center_sums`]: rounded probabilities do not add up to
    /// 1 exactly, and dividing by their sum removes the error.
    /// NaN when a logit is not finite, infinite when one has grown more than 700 beyond that of the center's favorite.
    #[must_use]
    pub(crate) fn divergence(&self, probability: f64) -> f64 {
        if !self.logits_squared.is_finite() {
            return f64::NAN;
        }
        let (change, excess) = (self.change / probability, self.excess / probability);
        let x = change + excess;
        if x.abs() < 1e-4 {
            // x - log(1 + x) from its series, where the difference would lose digits.
            excess - x * x * (0.5 - x * (1.0 / 3.0 - x * 0.25))
        } else if x < 1.0 {
            excess - (x - x.ln_1p())
        } else {
            // Here E and x may be huge and nearly equal; their difference is -M.
            x.ln_1p() - change
        }
    }
}

/// The largest logit of one position, its row, and `sum exp(logit - largest)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Normalizer {
    /// The largest logit.
    pub(crate) largest: f32,
    /// Its vocabulary entry, the first of equals.
    pub(crate) row: usize,
    /// `sum exp(logit - largest)`.
    pub(crate) sum: f64,
}

impl Default for Normalizer {
    fn default() -> Self {
        Self { largest: f32::NEG_INFINITY, row: 0, sum: 0.0 }
    }
}

impl Normalizer {
    /// Joins another part of the vocabulary, whose rows come later.
    pub(crate) fn add(&mut self, other: &Self) {
        let largest = self.largest.max(other.largest);
        let scaled = |part: &Self| if part.sum == 0.0 { 0.0 } else { part.sum * (f64::from(part.largest) - f64::from(largest)).exp() };
        self.sum = scaled(self) + scaled(other);
        if other.largest > self.largest {
            self.row = other.row;
        }
        self.largest = largest;
    }

    /// `log sum exp` of the logits; not finite when a logit is not.
    #[must_use]
    pub(crate) fn logarithm(&self) -> f64 {
        f64::from(self.largest) + self.sum.ln()
    }
}

/// Joins the logits `[rows, stride]` of the vocabulary entries from `first_row` on to `normalizers` (length `stride`, a multiple of 16).
///
/// # Panics
/// If a length does not fit the shapes, or `stride` is not a multiple of 16.
pub(crate) fn normalize_columns(logits: &[f32], stride: usize, first_row: usize, normalizers: &mut [Normalizer]) {
    check(logits, stride, normalizers.len());
    NormalizeColumns { logits, stride, first_row, normalizers }.dispatch();
}

/// Adds the sums of the center's probabilities (1 but for rounding) over the logits `[rows, stride]`; `logarithms` are the log-normalizers of the columns.
///
/// # Panics
/// If a length does not fit the shapes, or `stride` is not a multiple of 16.
pub(crate) fn center_sums(logits: &[f32], stride: usize, logarithms: &[f32], sums: &mut [f64]) {
    check(logits, stride, sums.len());
    assert_eq!(logarithms.len(), stride, "one log-normalizer per column");
    Center { logits, stride, logarithms, sums }.dispatch();
}

/// Adds the sums over a tile: center logits and perturbed logits `[rows, stride]`, log-normalizers of the center and shifts per column.
///
/// # Panics
/// If a length does not fit the shapes, or `stride` is not a multiple of 16.
pub(crate) fn divergence_sums(center: &[f32], logits: &[f32], stride: usize, logarithms: &[f32], shifts: &[f32], sums: &mut [Sums]) {
    check(logits, stride, sums.len());
    assert_eq!(center.len(), logits.len(), "both networks have the same vocabulary");
    assert!(logarithms.len() == stride && shifts.len() == stride, "one log-normalizer and shift per column");
    DivergenceSums { center, logits, stride, logarithms, shifts, sums }.dispatch();
}

fn check(logits: &[f32], stride: usize, columns: usize) {
    assert!(stride > 0 && stride.is_multiple_of(16) && columns == stride, "columns come in groups of 16");
    assert!(logits.len().is_multiple_of(stride), "the logits must be [rows, columns]");
}

struct NormalizeColumns<'a> {
    logits: &'a [f32],
    stride: usize,
    first_row: usize,
    normalizers: &'a mut [Normalizer],
}

impl SimdOp for NormalizeColumns<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        use rten_simd::ops::BitOps;
        let ops = isa.f32();
        let lanes = ops.len();
        for start in (0..self.stride).step_by(lanes) {
            let mut parts = [Normalizer::default(); 16];
            let parts = &mut parts[..lanes];
            for (row, values) in self.logits.chunks_exact(self.stride).enumerate() {
                for (part, &value) in parts.iter_mut().zip(&values[start..start + lanes]) {
                    if value > part.largest {
                        (part.largest, part.row) = (value, self.first_row + row);
                    }
                }
            }
            let mut largest = [0.0f32; 16];
            parts.iter().zip(&mut largest).for_each(|(part, largest)| *largest = part.largest);
            let largest = ops.load(&largest);
            for rows in self.logits.chunks(CHUNK * self.stride) {
                let mut sum = ops.zero();
                for values in rows.chunks_exact(self.stride) {
                    sum = ops.add(sum, exp(isa, ops.sub(ops.load(&values[start..start + lanes]), largest)));
                }
                let sums = sum.to_array();
                parts.iter_mut().zip(sums.as_ref()).for_each(|(part, &sum)| part.sum += f64::from(sum));
            }
            self.normalizers[start..start + lanes].iter_mut().zip(parts).for_each(|(total, part)| total.add(part));
        }
    }
}

struct Center<'a> {
    logits: &'a [f32],
    stride: usize,
    logarithms: &'a [f32],
    sums: &'a mut [f64],
}

impl SimdOp for Center<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        use rten_simd::ops::BitOps;
        let ops = isa.f32();
        let lanes = ops.len();
        for start in (0..self.stride).step_by(lanes) {
            let logarithm = ops.load(&self.logarithms[start..start + lanes]);
            for rows in self.logits.chunks(CHUNK * self.stride) {
                let mut sum = ops.zero();
                for values in rows.chunks_exact(self.stride) {
                    sum = ops.add(sum, exp(isa, ops.sub(ops.load(&values[start..start + lanes]), logarithm)));
                }
                let sum = sum.to_array();
                for (total, &sum) in self.sums[start..start + lanes].iter_mut().zip(sum.as_ref()) {
                    *total += f64::from(sum);
                }
            }
        }
    }
}

struct DivergenceSums<'a> {
    center: &'a [f32],
    logits: &'a [f32],
    stride: usize,
    logarithms: &'a [f32],
    shifts: &'a [f32],
    sums: &'a mut [Sums],
}

impl SimdOp for DivergenceSums<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        use rten_simd::ops::BitOps;
        let ops = isa.f32();
        let lanes = ops.len();
        let stride = self.stride;
        for (center, logits) in self.center.chunks(CHUNK * stride).zip(self.logits.chunks(CHUNK * stride)) {
            for start in (0..stride).step_by(lanes) {
                let place = start..start + lanes;
                let logarithm = ops.load(&self.logarithms[place.clone()]);
                let shift = ops.load(&self.shifts[place.clone()]);
                let mut change = ops.zero();
                let mut excess = ops.zero();
                let mut logits_squared = ops.zero();
                let mut largest = ops.zero();
                for (center, logits) in center.chunks_exact(stride).zip(logits.chunks_exact(stride)) {
                    let (a, b) = (ops.load(&center[place.clone()]), ops.load(&logits[place.clone()]));
                    let p = exp(isa, ops.sub(a, logarithm));
                    let d = ops.sub(ops.sub(b, a), shift);
                    let (_, beyond) = exp_m1(isa, d);
                    change = ops.mul_add(p, d, change);
                    excess = ops.mul_add(p, beyond, excess);
                    logits_squared = ops.mul_add(b, b, logits_squared);
                    largest = ops.max(d, largest);
                }
                let totals = &mut self.sums[place];
                let largest = largest.to_array();
                let (change, excess) = (change.to_array(), excess.to_array());
                let logits_squared = logits_squared.to_array();
                for (lane, total) in totals.iter_mut().enumerate() {
                    if largest.as_ref()[lane] > LARGEST_CHANGE {
                        let column = start + lane;
                        total.add(&exact(center, logits, stride, column, self.logarithms[column], self.shifts[column]));
                        continue;
                    }
                    total.change += f64::from(change.as_ref()[lane]);
                    total.excess += f64::from(excess.as_ref()[lane]);
                    total.logits_squared += f64::from(logits_squared.as_ref()[lane]);
                }
            }
        }
    }
}

/// The sums of one column in `f64`. Infinite when a logit has grown more than 700 beyond that of the center's favorite.
#[cold]
fn exact(center: &[f32], logits: &[f32], stride: usize, column: usize, logarithm: f32, shift: f32) -> Sums {
    let mut sums = Sums::default();
    for (center, logits) in center.chunks_exact(stride).zip(logits.chunks_exact(stride)) {
        let (a, b) = (f64::from(center[column]), f64::from(logits[column]));
        let log_p = a - f64::from(logarithm);
        let d = b - a - f64::from(shift);
        let p = log_p.exp();
        // p exp(d) in one exponential: p alone may underflow.
        let q = (log_p + d).exp();
        sums.change += p * d;
        sums.excess += if d.abs() < 0.25 { p * (d.exp_m1() - d) } else { q - p - p * d };
        sums.logits_squared += b * b;
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    /// KL by the kernels, for one position in every column, beside `f64` with the same logits.
    fn compare(center: &[f32], logits: &[f32]) -> (f64, f64) {
        const STRIDE: usize = 16;
        let spread = |values: &[f32]| -> Vec<f32> { values.iter().flat_map(|&value| [value; STRIDE]).collect() };
        let (a, b) = (spread(center), spread(logits));
        let mut normalizers = [Normalizer::default(); STRIDE];
        let half = center.len() / 2 * STRIDE;
        normalize_columns(&a[..half], STRIDE, 0, &mut normalizers);
        normalize_columns(&a[half..], STRIDE, center.len() / 2, &mut normalizers);
        let logarithms = normalizers.map(|normalizer| normalizer.logarithm() as f32);
        let favorite = normalizers[3].row;
        assert!(center.iter().all(|&value| value <= center[favorite]));
        let shifts = [logits[favorite] - center[favorite]; STRIDE];
        let (mut centers, mut sums) = ([0.0; STRIDE], [Sums::default(); STRIDE]);
        center_sums(&a, STRIDE, &logarithms, &mut centers);
        divergence_sums(&a, &b, STRIDE, &logarithms, &shifts, &mut sums);
        let found = sums[3].divergence(centers[3]);
        let exact_logarithm = |values: &[f32]| {
            let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            f64::from(largest) + values.iter().map(|&value| (f64::from(value) - f64::from(largest)).exp()).sum::<f64>().ln()
        };
        let (log_a, log_b) = (exact_logarithm(center), exact_logarithm(logits));
        let mut nats = 0.0;
        for (&a, &b) in center.iter().zip(logits) {
            let (log_p, log_q) = (f64::from(a) - log_a, f64::from(b) - log_b);
            let (p, d) = (log_p.exp(), log_q - log_p);
            nats += if d.abs() < 1e-3 { p * d * d * (0.5 + d / 6.0 + d * d / 24.0) } else { log_q.exp() - p - p * d };
        }
        (found, nats)
    }

    fn wave(count: usize, frequency: f32, size: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * frequency).sin() * size).collect()
    }

    #[test]
    fn divergences_keep_their_digits_at_every_size() {
        for size in [3.0f32, 12.0] {
            let center = wave(1003, 0.37, size);
            // Changes that f32 holds exactly on top of the logits would be too kind: the oracle sees the rounded logits.
            for step in [1e-4f32, 1e-2, 0.3, 2.0, 12.0, 60.0, 300.0] {
                for common in [0.0f32, 0.5] {
                    let change = wave(1003, 1.91, step);
                    let logits: Vec<f32> = center.iter().zip(&change).map(|(a, d)| a + d + common).collect();
                    let (nats, exact) = compare(&center, &logits);
                    // One position; the rounding of p and of the f32 sums averages out over many.
                    let bound = if exact > 1e-3 { 1e-6 } else { 1e-5 };
                    assert!((nats / exact - 1.0).abs() < bound, "size {size}, step {step}: {nats:e} not {exact:e}");
                }
            }
        }
    }

    #[test]
    fn confident_positions_and_equal_logits() {
        let mut center = wave(500, 0.9, 1.0);
        center[123] = 20.0;
        assert_eq!(compare(&center, &center).0, 0.0);
        for step in [1e-2f32, 1.0] {
            let logits: Vec<f32> = center.iter().enumerate().map(|(i, a)| a + (i as f32 * 2.1).sin() * step + 3.0).collect();
            let (nats, exact) = compare(&center, &logits);
            assert!((nats / exact - 1.0).abs() < 1e-5, "step {step}: {nats:e} not {exact:e}");
        }
    }

    #[test]
    fn logits_that_are_not_finite_give_nan() {
        let center = wave(100, 0.4, 2.0);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut logits = center.clone();
            logits[50] = bad;
            assert!(compare(&center, &logits).0.is_nan(), "{bad}");
        }
    }
}
