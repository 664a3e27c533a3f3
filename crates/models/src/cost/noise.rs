//! How much of a language model's cost is rounding noise.

use rayon::prelude::*;

use crate::arch::LanguageModel;

/// Multiply-adds that the measurement may cost.
const WORK: usize = 1 << 29;

/// Least and most positions of the measurement.
const POSITIONS: (usize, usize) = (2, 24);

/// Perturbations that are compared.
const PERTURBATIONS: usize = 3;

/// Changes of the step until a perturbation has the wanted divergence.
const ATTEMPTS: usize = 4;

/// The mean divergence at which they are compared, in nats: that of the usual cutoff.
const LEVEL: f64 = 1e-2;

/// Weights whose signs follow from one number: a block of them is a task of its own.
const SIGNS: usize = 1 << 16;

/// Rounding noise of `f32` forward passes in the KL divergence.
///
/// The divergence `K_i` of a position is a squared distance, so an error of the logits changes it by something that grows like
/// `sqrt(K_i)`: `error_i = a sqrt(K_i) x` with `x` of deviation 1. Over `N` positions whose errors have the correlation `rho`,
///
/// `sd(C) = a sqrt(C (1/N + rho)) + a^2/4`
///
/// where the last term is what noise alone leaves at `C = 0`. Both numbers are measured: at a few positions the `f32` divergences of random
/// perturbations of the center are compared with those of an `f64` forward pass (same weights, same inputs). A model for the errors of single
/// logits, independent of each other, would be too small by the root of vocabulary over hidden width, because most of the noise comes
/// through the hidden state.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Noise {
    /// `a`, in the root of nats.
    pub amplitude: f64,
    /// `rho`: how much the errors of different positions agree, beyond what chance explains.
    pub correlation: f64,
}

impl Noise {
    /// One standard deviation of the noise of a cost, in nats, over this many positions.
    #[must_use]
    pub fn resolution(&self, nats: f64, positions: usize) -> f64 {
        let share = 1.0 / positions as f64 + self.correlation;
        self.amplitude * (nats.max(0.0) * share).sqrt() + 0.25 * self.amplitude * self.amplitude
    }

    /// Measures at the center `weights` (which come back moved), with the first tokens of `ids`; `logits` is the forward pass in question:
    /// all logits of a sequence at given weights.
    pub(crate) fn measure(model: &LanguageModel, weights: &mut [f32], ids: &[u32], logits: impl Fn(&[f32], &[u32]) -> Vec<f64>) -> Self {
        let most = WORK / (weights.len() * (PERTURBATIONS + 1));
        let ids = &ids[..most.clamp(POSITIONS.0, POSITIONS.1).min(ids.len())];
        let vocabulary = model.vocabulary();
        // The ids have been checked.
        let exact = |weights: &[f32]| model.logits_exact(weights, ids).unwrap_or_default();
        let rounded = |weights: &[f32]| logits(weights, ids);
        let center = (exact(weights), rounded(weights));
        let rms = root_mean_square(weights);
        let (mut squares, mut sums, mut count) = (0.0, 0.0, 0.0);
        let mut step = 1e-3 * rms;
        for perturbation in 0..PERTURBATIONS {
            // The step of the wanted level, from a few tries; the one found last serves the next perturbation.
            shift(weights, step, perturbation);
            for attempt in 0.. {
                let level = mean(&divergences(&center.1, &rounded(weights), vocabulary));
                if !(level.is_finite() && level > 0.0) {
                    return Self::floor();
                }
                let factor = (LEVEL / level).sqrt();
                if (0.5..2.0).contains(&factor) || attempt == ATTEMPTS {
                    break;
                }
                let next = step * factor.clamp(0.01, 100.0);
                shift(weights, next - step, perturbation);
                step = next;
            }
            let truth = divergences(&center.0, &exact(weights), vocabulary);
            let found = divergences(&center.1, &rounded(weights), vocabulary);
            let errors: Vec<f64> = truth.iter().zip(&found).filter(|(t, _)| **t > 0.0).map(|(t, f)| (f - t) / t.sqrt()).collect();
            squares += errors.iter().map(|e| e * e).sum::<f64>();
            let weighted: f64 = truth.iter().zip(&found).map(|(t, f)| f - t).sum();
            sums += weighted * weighted / truth.iter().sum::<f64>();
            count += errors.len() as f64;
            shift(weights, -step, perturbation);
        }
        let variance = squares / count;
        if !(variance > 0.0 && variance.is_finite()) {
            return Self::floor();
        }
        // For independent errors (sum of errors)^2 / sum of K has the mean a^2, with a relative deviation of sqrt(2/perturbations).
        let chance = 1.0 + 2.0 * (2.0 / PERTURBATIONS as f64).sqrt();
        let excess = (sums / PERTURBATIONS as f64 / variance - chance).max(0.0);
        let correlation = if ids.len() > 1 { (excess / (ids.len() - 1) as f64).min(1.0) } else { 0.0 };
        Self { amplitude: variance.sqrt().max(Self::floor().amplitude), correlation }
    }

    /// What is assumed at least: an eighth of the rounding unit of `f32`.
    pub(crate) fn floor() -> Self {
        Self { amplitude: f64::from(f32::EPSILON) / 8.0, correlation: 0.0 }
    }
}

/// Adds `step` times a fixed pseudorandom sign pattern, different for every perturbation.
fn shift(weights: &mut [f32], step: f64, perturbation: usize) {
    weights.par_chunks_mut(SIGNS).enumerate().for_each(|(block, weights)| {
        let mut state = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul((((perturbation as u64) << 40) | block as u64) + 1);
        for weights in weights.chunks_mut(64) {
            // Xorshift: quality does not matter here, only that the pattern is that of no structure of the network.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            for (bit, weight) in weights.iter_mut().enumerate() {
                let step = if state >> bit & 1 == 0 { step } else { -step };
                *weight = (f64::from(*weight) + step) as f32;
            }
        }
    });
}

/// The root of the mean square, summed block by block: the same for any number of threads.
fn root_mean_square(weights: &[f32]) -> f64 {
    let squares: Vec<f64> = weights.par_chunks(SIGNS).map(|block| block.iter().map(|&w| f64::from(w).powi(2)).sum()).collect();
    (squares.iter().sum::<f64>() / weights.len() as f64).sqrt()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// `KL(softmax(center) || softmax(logits))` of every row, in the form without cancellation.
fn divergences(center: &[f64], logits: &[f64], vocabulary: usize) -> Vec<f64> {
    let log_normalizer = |row: &[f64]| {
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        largest + row.iter().map(|x| (x - largest).exp()).sum::<f64>().ln()
    };
    let row = |(a, b): (&[f64], &[f64])| {
        let (log_a, log_b) = (log_normalizer(a), log_normalizer(b));
        let term = |(a, b): (&f64, &f64)| {
            let (log_p, log_q) = (a - log_a, b - log_b);
            let d = log_q - log_p;
            if d.abs() < 1e-3 { log_p.exp() * d * d * (0.5 + d / 6.0 + d * d / 24.0) } else { log_p.exp() * (d.exp_m1() - d) }
        };
        a.iter().zip(b).map(term).sum()
    };
    center.chunks(vocabulary).zip(logits.chunks(vocabulary)).map(row).collect()
}
