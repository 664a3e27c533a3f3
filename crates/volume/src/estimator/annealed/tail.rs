//! The last step: from the density of the last rung to the set under the cutoff.

use statrs::function::erf::erfc;
use statrs::function::gamma::{gamma_lr, ln_gamma};

use super::series::{autocorrelation, standard_error};
use super::stay::Stay;
use crate::statistics::{mean, variance};

/// A difference of the share of states under the cutoff from the expected one that does not matter.
const SHARES: f64 = 0.1;
/// Share of the states of a hard cost that are under the cutoff at the last rung.
const ENOUGH: f64 = 0.3;
/// Costs of a gamma distribution would have less than this part of the states under the cutoff that a hard cost has.
const EXPECTED: f64 = 0.5;
/// A gamma distribution of a larger shape is a normal one: costs that are known within a part in ten thousand.
const NORMAL_SHAPE: f64 = 1e8;
/// The relative change of a moment that shows its influence.
const SHIFT: f64 = 1e-4;

/// How many states of a rung are under the cutoff, and how many would be if the costs had a gamma distribution.
///
/// A cost may be *hard*: nearly zero for some states, and thousands of nats for the others. The mean cost is then that of the few states that are
/// wrong, and says nothing of the others; counting says it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shares {
    /// `beta` times the cutoff: how much states under the cutoff differ in what they count.
    exponent: f64,
    pub found: f64,
    pub expected: f64,
    /// States that are worth one independent one each.
    independent: f64,
}

impl Shares {
    pub fn of(stay: &Stay, cutoff: f64) -> Option<Self> {
        let costs = stay.series(|o| o.cost).concat();
        let (center, spread) = (mean(&costs), variance(&costs));
        if !(center > 0.0 && spread > 0.0) {
            return None;
        }
        let under = stay.series(|o| f64::from(u8::from(o.cost <= cutoff)));
        let expected = gamma_lr(center * center / spread, cutoff * center / spread);
        let independent = costs.len() as f64 / autocorrelation(&under);
        Some(Self { exponent: stay.point.beta * cutoff, found: mean(&under.concat()), expected, independent })
    }

    /// Whether the states under the cutoff are enough to end the ladder though the mean cost is above it.
    pub fn are_enough(&self) -> bool {
        self.is_hard() && self.found >= ENOUGH
    }

    /// Whether the cost is hard, and states under the cutoff count alike.
    fn is_hard(&self) -> bool {
        self.exponent <= 1.0 && self.found >= 0.5 * ENOUGH && self.expected <= EXPECTED * self.found
    }

    /// Whether the gamma distribution that the last step is computed from is not that of the costs.
    pub fn disagree(&self) -> bool {
        let error = (self.expected * (1.0 - self.expected) / self.independent.max(1.0)).sqrt();
        !self.is_hard() && (self.found - self.expected).abs() > 4.0 * error + SHARES
    }

    /// Standard error of the logarithm of the share: as if half a state more were on either side.
    fn error(&self) -> f64 {
        let states = self.independent.max(1.0);
        let share = (self.found * states + 0.5) / (states + 1.0);
        ((1.0 - share) / (share * states)).sqrt()
    }
}

/// `ln E_beta[exp(beta C) 1(C <= cutoff)]` at the last rung, and its standard error.
///
/// A hard cost is averaged over the states. Otherwise the distribution of the cost is taken for a gamma distribution of the same mean and
/// variance: exact for a quadratic cost whose directions are all far narrower than the prior. The error is then that of the two moments, whose
/// influence on the logarithm is the same for every state (the delta method).
pub(super) fn tail(stay: &Stay, cutoff: f64) -> (f64, f64) {
    let costs = stay.series(|o| o.cost).concat();
    let beta = stay.point.beta;
    if let Some(shares) = Shares::of(stay, cutoff).filter(Shares::is_hard) {
        let factor = |&cost: &f64| if cost <= cutoff { (beta * cost).exp() } else { 0.0 };
        return (mean(&costs.iter().map(factor).collect::<Vec<_>>()).ln(), shares.error());
    }
    let (center, spread) = (mean(&costs), variance(&costs));
    let value = tail_of(beta, center, spread, cutoff);
    let slope = |of: &dyn Fn(f64) -> f64| (of(1.0 + SHIFT) - of(1.0 - SHIFT)) / (2.0 * SHIFT);
    // By the logarithms of the mean and of the variance.
    let of_mean = slope(&|factor| tail_of(beta, factor * center, spread, cutoff)) / center;
    let of_spread = slope(&|factor| tail_of(beta, center, factor * spread, cutoff)) / spread;
    let influence = |cost: f64| of_mean * (cost - center) + of_spread * ((cost - center).powi(2) - spread);
    let error = standard_error(&stay.series(|o| influence(o.cost)));
    (value, if error.is_finite() { error } else { 0.0 })
}

fn tail_of(beta: f64, mean: f64, variance: f64, cutoff: f64) -> f64 {
    if !(variance > 0.0 && mean > 0.0) {
        return if mean <= cutoff { beta * mean } else { f64::NEG_INFINITY };
    }
    let (shape, rate) = (mean * mean / variance, mean / variance);
    if shape > NORMAL_SHAPE {
        // E[exp(beta C)] of a normal distribution, and what of it is under the cutoff.
        let tilted = mean + beta * variance;
        return beta * (mean + 0.5 * beta * variance) + ln_normal_cdf((cutoff - tilted) / variance.sqrt());
    }
    // INT_0^eps exp((beta - rate) c) c^(k-1) dc * rate^k / Gamma(k) in s = ln c, downward from where there is something: from the cutoff, or from
    // nine deviations of the logarithm above the largest value of the integrand (exp(-40) of it) where that lies deep under the cutoff.
    let end = cutoff.ln();
    let peak = if beta < rate { (shape / (rate - beta)).ln() } else { f64::INFINITY };
    let top = end.min(peak + 9.0 / shape.sqrt());
    let scale = (beta - rate) * top.exp();
    // The logarithm of the integrand at top - u less that at the top.
    let log_integrand = |u: f64| -shape * u + scale * (-u).exp_m1();
    // Steps so fine that the fall at the end and the width of the largest value are resolved.
    let step = 0.02 / (1.0 + (shape + scale).abs() + shape.sqrt());
    let (mut sum, mut u) = (0.0, 0.0);
    // Simpson's rule in panels, until nothing is left, or only a power.
    loop {
        let panel = [0.0, 0.5, 1.0].map(|part| log_integrand(u + part * step).exp());
        let area = step / 6.0 * (panel[0] + 4.0 * panel[1] + panel[2]);
        sum += area;
        u += step;
        if scale.abs() * (-u).exp() < 1e-16 {
            sum += log_integrand(u).exp() / shape;
            break;
        }
        if top - u < peak && area < 1e-14 * sum {
            break;
        }
    }
    shape * top + scale + sum.ln() + shape * rate.ln() - ln_gamma(shape)
}

/// `ln Phi(x)` of the normal distribution.
fn ln_normal_cdf(x: f64) -> f64 {
    if x < -30.0 {
        // The leading term of its asymptotic series.
        return -0.5 * x * x - (-x * (2.0 * std::f64::consts::PI).sqrt()).ln();
    }
    (0.5 * erfc(-x / std::f64::consts::SQRT_2)).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_gamma_distribution_has_a_closed_form() {
        // At beta = k/mean the integrand is a power: (rate eps)^k / (k Gamma(k)).
        for (k, eps) in [(0.5f64, 0.01), (3.0, 0.01), (40.0, 1.0), (2600.0, 0.01)] {
            let beta = k / eps;
            let found = tail_of(beta, eps, eps * eps / k, eps);
            let expected = k * k.ln() - k.ln() - ln_gamma(k);
            assert!((found - expected).abs() < 1e-6, "{k}: {found} not {expected}");
        }
        // Against a coarse sum elsewhere.
        let (k, mean, beta, eps) = (5.0f64, 0.012f64, 300.0f64, 0.01f64);
        let rate = k / mean;
        let n = 200_000;
        let sum: f64 = (0..n)
            .map(|i| {
                let c = (f64::from(i) + 0.5) * eps / f64::from(n);
                (beta * c + (k - 1.0) * c.ln() - rate * c).exp()
            })
            .sum();
        let expected = (sum * eps / f64::from(n)).ln() + k * rate.ln() - ln_gamma(k);
        assert!((tail_of(beta, mean, mean * mean / k, eps) - expected).abs() < 1e-5);
    }

    #[test]
    fn costs_that_hardly_vary_are_all_under_the_cutoff_or_none() {
        // Far under the cutoff all of the distribution is: E exp(beta C) = (1 - beta/rate)^-shape.
        let (beta, mean, cutoff) = (0.3, 2.2, 3.0);
        for deviation in [0.1, 1e-2, 1e-4, 1e-6, 1e-8, 1e-12] {
            let variance: f64 = deviation * deviation;
            let expected = -(mean * mean / variance) * (-beta * variance / mean).ln_1p();
            let found = tail_of(beta, mean, variance, cutoff);
            assert!((found - expected).abs() < 1e-3 && (found - beta * mean).abs() < 0.01, "{deviation}: {found}, expected {expected}");
        }
        // Far above it there is next to nothing; at the cutoff it is half.
        assert!(tail_of(beta, 3.1, 1e-12, cutoff) < -1e8);
        let half = tail_of(0.3, 3.0, 1e-12, cutoff) - 0.9;
        assert!((half - 0.5f64.ln()).abs() < 1e-5, "{half}");
        // Around the change from one formula to the other.
        let around = [0.99, 1.01].map(|part| tail_of(50.0, 1.0, part / NORMAL_SHAPE, 1.0001));
        assert!((around[0] - around[1]).abs() < 5e-3, "{around:?}");
    }
}
