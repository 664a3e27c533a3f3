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

/// How long a sweep stays.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    /// Trajectories of every chain at every rung of the path.
    pub lengths: Vec<usize>,
    /// Whether the sweep stays longer than those before it where their ways differ, so that its answer replaces theirs. Otherwise it repeats one that
    /// did, and they count alike.
    pub replaces: bool,
}

impl Plan {
    /// For a sweep of as many gradients as those before took, of which these are the longest stays both ways, from the known end; none where the
    /// ways do not differ by more than their noise, and another sweep like those before says the most.
    pub fn of(outward: &[&Stay], inward: &[&Stay], start: &Start, sigma: f64) -> Option<Self> {
        let (out, back) = (integrate(outward, start, sigma), integrate(inward, start, sigma));
        let rungs = out.rungs.len();
        let differ_beyond_noise = (out.value - back.value).abs() > 2.0 * out.error.hypot(back.error);
        if rungs != back.rungs.len() || rungs < 2 || !differ_beyond_noise {
            return None;
        }
        let differences: Vec<f64> = out.rungs.iter().zip(&back.rungs).map(|(out, back)| out.contribution - back.contribution).collect();
        let noise: Vec<f64> = out.rungs.iter().zip(&back.rungs).map(|(out, back)| out.error.hypot(back.error)).collect();
        // Neighbours share a lag, and their noise does not add up.
        let around = |values: &[f64], at: usize| {
            let near = [at.saturating_sub(1), at, (at + 1).min(rungs - 1)].map(|place| values[place]);
            0.25 * near[0] + 0.5 * near[1] + 0.25 * near[2]
        };
        let mut gaps: Vec<f64> = (0..rungs).map(|at| (around(&differences, at).abs() - around(&noise, at)).max(0.0)).collect();
        if gaps.iter().all(|gap| *gap == 0.0) {
            // A lag that is spread thinly shows at no rung alone.
            gaps = (0..rungs).map(|at| around(&differences, at).abs()).collect();
        }
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
        Some(Self { lengths: lengths.collect(), replaces: true })
    }

    /// For a sweep that repeats one of this plan.
    pub fn again(&self) -> Self {
        Self { lengths: self.lengths.clone(), replaces: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimator::annealed::record::{Observation, Phase};
    use crate::estimator::annealed::rung::Rung;

    /// The stays of a way whose mean costs are these, with this scatter around them.
    fn stays(phase: Phase, cost: impl Fn(usize) -> f64, scatter: f64) -> Vec<Stay> {
        let rungs = 30;
        let one = |rung: usize| {
            let point = Rung { beta: 1.2f64.powi(rung as i32), localization: 0.0 };
            let mut stay = Stay::new(0, phase, rung, point, 2, 0.1);
            let observation = |number: usize| {
                let beside = if (number / 2).is_multiple_of(2) { scatter } else { -scatter };
                let cost = (cost(rung) + if number.is_multiple_of(2) { beside } else { -beside }) / point.beta;
                Observation { cost, pull: 0.0, stretch: 0.0, overlap: 0.0, distance_squared: 0.0, virial: 0.0 }
            };
            stay.observations.iter_mut().for_each(|chain| chain.extend((0..30).map(observation)));
            stay.gradients = 600;
            stay
        };
        (0..rungs).map(one).collect()
    }

    fn plan(cost: impl Fn(usize) -> f64, scatter: f64) -> Option<Plan> {
        let (outward, inward) = (stays(Phase::Outward, |_| 3.0, scatter), stays(Phase::Inward, cost, scatter));
        let start = Start {
            beta: 1.0,
            localization: 0.0,
            log_laplace: 0.0,
            error: 0.0,
            mean_cost: 3.0,
            prior_cost: 3.0,
            evaluations: 0,
            anchor: None,
        };
        Plan::of(&outward.iter().collect::<Vec<_>>(), &inward.iter().collect::<Vec<_>>(), &start, 1.0)
    }

    #[test]
    fn stays_are_longer_where_the_lag_is() {
        let plan = plan(|rung| if (8..12).contains(&rung) { 9.0 } else { 3.0 }, 0.5).unwrap();
        assert!(plan.replaces && !plan.again().replaces);
        assert!(plan.lengths[9..11].iter().all(|length| *length > 60) && plan.lengths[20] < 30, "{:?}", plan.lengths);
    }

    #[test]
    fn a_lag_that_is_spread_thinly_is_followed_by_stays_as_long() {
        // The error of one rung is larger than its lag; that of all is not.
        let plan = plan(|_| 3.4, 3.0).unwrap();
        let inner = &plan.lengths[2..28];
        assert!(inner.iter().all(|length| (25..=36).contains(length)), "{:?}", plan.lengths);
    }

    #[test]
    fn nothing_is_planned_from_noise_or_from_what_is_not_finite() {
        assert_eq!(plan(|_| 3.0, 3.0), None);
        assert_eq!(plan(|rung| if rung == 5 { f64::NAN } else { 4.0 }, 0.5), None);
    }
}
