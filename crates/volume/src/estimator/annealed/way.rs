//! A way along the ladder: its stays, and what they integrate to.

use super::integral;
use super::record::{Observation, Phase, Start};
use super::result::RungSummary;
use super::series::{autocorrelation, halves, standard_error};
use super::stay::Stay;
use crate::statistics::{mean, variance};

/// Which way a stay belongs to. The settled one ends the way outward and begins the one inward, whose last rung it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Outward,
    Inward,
}

impl Way {
    /// Of the stays of a part of a sweep.
    pub fn of(phase: Phase) -> Self {
        if phase == Phase::Outward { Self::Outward } else { Self::Inward }
    }

    /// The longest stay at every rung of these sweeps this way, the last of those that are as long, from the known end; a single sweep has one at each.
    pub fn longest(self, stays: &[Stay], is_of: impl Fn(u32) -> bool) -> Vec<&Stay> {
        let mut longest: Vec<&Stay> = Vec::new();
        for stay in stays.iter().filter(|stay| Self::of(stay.phase) == self && is_of(stay.sweep)) {
            match longest.iter_mut().find(|other| other.rung == stay.rung) {
                Some(other) if stay.length() >= other.length() => *other = stay,
                Some(_) => {}
                None => longest.push(stay),
            }
        }
        longest.sort_by_key(|stay| stay.rung);
        longest
    }
}

/// What a way along the ladder gives.
pub(super) struct Integrated {
    /// `Delta` at the last of its rungs (from the known end), nats.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
    /// The same from every chain alone.
    pub chains: Vec<f64>,
    /// Its stays, from the known end.
    pub rungs: Vec<RungSummary>,
}

/// Integrates along the stays of a way, ordered from the known end.
pub(super) fn integrate(stays: &[&Stay], start: &Start, sigma: f64) -> Integrated {
    let ln_beta: Vec<f64> = stays.iter().map(|stay| stay.point.beta.ln()).collect();
    let ln_a: Vec<f64> = stays.iter().map(|stay| stay.point.curvature(sigma).ln()).collect();
    let (of_cost, of_pull) = (integral::weights(&ln_beta), integral::weights(&ln_a));
    let (mut sum, mut error_squared) = (start.log_laplace, start.error * start.error);
    let mut chains = vec![start.log_laplace; stays.first().map_or(0, |stay| stay.observations.len())];
    let mut summaries = Vec::new();
    // Delta at every rung: the integral up to it.
    let derivatives: Vec<_> = stays.iter().map(|stay| stay.derivative()).collect();
    let means: Vec<(f64, f64)> =
        stays.iter().zip(&derivatives).map(|(stay, pull)| (stay.point.beta * stay.mean(|o| o.cost), stay.mean(pull))).collect();
    let up_to = |end: usize| {
        let (cost, pull) = (integral::weights(&ln_beta[..=end]), integral::weights(&ln_a[..=end]));
        let terms = means.iter().zip(cost.iter().zip(&pull)).map(|((y, p), (cost, pull))| pull * p - cost * y);
        start.log_laplace + terms.sum::<f64>()
    };
    for (place, ((stay, &cost_weight), &pull_weight)) in stays.iter().zip(&of_cost).zip(&of_pull).enumerate() {
        let beta = stay.point.beta;
        let (pull, (learning_coefficient, mean_pull)) = (derivatives[place], means[place]);
        let value = |o: &Observation| pull_weight * pull(o) - cost_weight * beta * o.cost;
        let series = stay.series(value);
        let contribution = mean(&series.concat());
        chains.iter_mut().zip(&series).for_each(|(chain, own)| *chain += mean(own));
        let count = series.iter().map(Vec::len).sum::<usize>() as f64;
        let error = standard_error(&series);
        sum += contribution;
        error_squared += error * error;
        let (difference, deviation) = halves(&stay.series(pull));
        summaries.push(RungSummary {
            sweep: stay.sweep,
            phase: stay.phase,
            rung: stay.rung,
            beta,
            localization: stay.point.localization,
            trajectories: count as usize,
            mean_cost: stay.mean(|o| o.cost),
            learning_coefficient,
            cost_fluctuation: beta * beta * variance(&stay.series(|o| o.cost).concat()),
            pull: mean_pull,
            overlap: stay.mean(|o| o.overlap),
            distance_squared: stay.mean(|o| o.distance_squared),
            virial: stay.mean(|o| o.virial),
            virial_error: standard_error(&stay.series(|o| o.virial)),
            drift: if difference == 0.0 { 0.0 } else { difference / deviation },
            autocorrelation: autocorrelation(&stay.series(pull)),
            acceptance: mean(&stay.acceptance),
            step: stay.step,
            diverged: stay.diverged,
            not_finite: stay.not_finite,
            gradients: stay.gradients,
            contribution,
            error,
            log_laplace: up_to(place),
        });
    }
    Integrated { value: sum, error: error_squared.sqrt(), chains, rungs: summaries }
}
