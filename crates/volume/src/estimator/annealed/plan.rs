//! How long a sweep stays at every rung, from where the ways of those before differ.
//!
//! What chains lag behind equilibrium at a rung falls like the inverse of the time that they stay there. With a gap `g_i` left by `t_i` gradients at
//! rung `i`, the gap of a sweep that stays `f_i` times as long is `sum g_i/f_i`, which is least for its gradients `sum f_i t_i` where `f_i` goes like
//! `(g_i/t_i)^(1/2)`.

use super::record::Start;
use super::stay::Stay;
use super::way::integrate;

/// A stay is so many times as long as before at most.
const MOST: f64 = 8.0;
/// And at least: chains that hurry through where they do not lag begin to lag there.
const LEAST: f64 = 1.0 / 3.0;
/// Fewer trajectories say nothing.
const FEWEST: usize = 4;

/// Trajectories of every chain at every rung of the path.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub lengths: Vec<usize>,
}

impl Plan {
    /// For a sweep of as many gradients as those before took, of which these are the longest stays both ways, from the known end; none where the
    /// ways do not differ by more than their noise, and another sweep like those before says the most.
    pub fn of(outward: &[&Stay], inward: &[&Stay], start: &Start, sigma: f64) -> Option<Self> {
        let (out, back) = (integrate(outward, start, sigma), integrate(inward, start, sigma));
        let rungs = out.rungs.len();
        if rungs != back.rungs.len() || rungs < 2 || (out.value - back.value).abs() <= 2.0 * out.error.hypot(back.error) {
            return None;
        }
        let differences: Vec<f64> = out.rungs.iter().zip(&back.rungs).map(|(out, back)| out.contribution - back.contribution).collect();
        let noise: Vec<f64> = out.rungs.iter().zip(&back.rungs).map(|(out, back)| out.error.hypot(back.error)).collect();
        // Neighbours share a lag, and their noise does not add up.
        let around = |values: &[f64], at: usize| {
            let near = [at.saturating_sub(1), at, (at + 1).min(rungs - 1)].map(|place| values[place]);
            0.25 * near[0] + 0.5 * near[1] + 0.25 * near[2]
        };
        let gaps: Vec<f64> = (0..rungs).map(|at| (around(&differences, at).abs() - around(&noise, at)).max(0.0)).collect();
        let gradients: Vec<f64> = outward.iter().zip(inward).map(|(out, back)| (out.gradients + back.gradients).max(1) as f64).collect();
        let wanted: Vec<f64> = gaps.iter().zip(&gradients).map(|(gap, gradients)| (gap / gradients).sqrt()).collect();
        let factors = |scale: f64| wanted.iter().map(move |wanted| (scale * wanted).clamp(LEAST, MOST));
        let cost = |scale: f64| factors(scale).zip(&gradients).map(|(factor, gradients)| factor * gradients).sum::<f64>();
        let budget = gradients.iter().sum::<f64>();
        let (mut low, mut high) = (0.0, MOST / wanted.iter().copied().filter(|wanted| *wanted > 0.0).fold(f64::INFINITY, f64::min));
        if !high.is_finite() || !budget.is_finite() {
            return None;
        }
        for _ in 0..60 {
            let middle = 0.5 * (low + high);
            if cost(middle) > budget { high = middle } else { low = middle }
        }
        let lengths = factors(low).zip(outward.iter().zip(inward)).map(|(factor, (out, back))| {
            let before = out.length().max(back.length()) as f64;
            ((factor * before).round() as usize).max(FEWEST)
        });
        Some(Self { lengths: lengths.collect() })
    }
}
