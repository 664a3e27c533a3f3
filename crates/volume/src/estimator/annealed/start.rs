//! Where a ladder begins, and where its chains do.

use std::ops::Range;

use super::chain::draw;
use super::error::AnnealedError;
use super::estimator::AnnealedEstimator;
use super::measured_cost::{Scratch, Work, is_under};
use super::record::Start;
use super::rung::Rung;
use super::schedule::{Begin, Task};
use crate::objective::ObjectiveError;
use crate::spec::Ladder;
use crate::statistics::{log_mean_exp, mean, variance};

/// Draws whose mean cost places the first rung.
const PLACING_DRAWS: u64 = 4;
/// Draws that give the first rung's log-volume.
const FIRST_DRAWS: u64 = 64;
/// Draws for the place where one chain begins, until its cost is finite.
const BEGINNING_DRAWS: u64 = 256;

impl AnnealedEstimator<'_> {
    /// Places the first rung: draws from the Gaussian part have a mean cost of about a quarter of the cutoff (for the temperature
    /// ladder, they are draws from the prior).
    pub(super) fn start(&self) -> Result<Start, AnnealedError> {
        let cutoff = self.question.cutoff();
        let prior = 1.0 / (self.sigma * self.sigma);
        let mut work = Work::default();
        let mut costs = |localization: f64, draws: Range<u64>| self.costs_of_draws(localization, draws, &mut work);
        let prior_cost = mean(&costs(0.0, 0..PLACING_DRAWS)?);
        let anchor_cost = self.measured.cost(self.measured.anchor.here, &mut Scratch::default(), &mut Work::default())?;
        // Zero, unless the spring is not where the objective's center is; NaN is no start either.
        if !is_under(anchor_cost, cutoff) {
            return Err(AnnealedError::NoStart);
        }
        let mut localization = 0.0;
        if self.spec.ladder == Ladder::Localization && prior_cost - anchor_cost > 0.5 * cutoff {
            let (mut low, mut high) = (0.0, f64::INFINITY);
            localization = prior;
            loop {
                let ratio = (mean(&costs(localization, 0..PLACING_DRAWS)?) - anchor_cost) / cutoff;
                if (0.125..=0.5).contains(&ratio) {
                    break;
                }
                if ratio > 0.5 {
                    low = localization;
                } else {
                    high = localization;
                }
                if high.is_infinite() {
                    localization *= 8.0;
                    if localization > 1e40 * prior {
                        return Err(AnnealedError::NoStart);
                    }
                } else {
                    localization = if low == 0.0 { high / 8.0 } else { (low * high).sqrt() };
                    if high / low < 1.0 + 1e-6 {
                        break;
                    }
                }
            }
        }
        let costs = costs(localization, PLACING_DRAWS..PLACING_DRAWS + FIRST_DRAWS)?;
        let mut start = self.start_of(None, localization, &costs)?;
        (start.prior_cost, start.evaluations) = (prior_cost, work.evaluations);
        Ok(start)
    }

    /// The same at the first rung that is known, where the spring is attached to another state; `number` is that of the state.
    pub(super) fn start_again(&self, first: &Start, number: usize) -> Result<Start, AnnealedError> {
        let mut work = Work::default();
        let draws = ((number as u64) << 48)..((number as u64) << 48) + FIRST_DRAWS;
        let costs = self.costs_of_draws(first.localization, draws, &mut work)?;
        let mut start = self.start_of(Some(first.beta), first.localization, &costs)?;
        (start.prior_cost, start.evaluations) = (first.prior_cost, work.evaluations);
        Ok(start)
    }

    /// Costs of independent draws from the Gaussian part, infinite where they are not finite.
    fn costs_of_draws(&self, localization: f64, draws: Range<u64>, work: &mut Work) -> Result<Vec<f64>, AnnealedError> {
        let rung = Rung { beta: 0.0, localization };
        let one = |number: u64| -> Result<(f64, Work), ObjectiveError> {
            let (mut weights, mut scratch, mut work) = (self.measured.zeros()?, Scratch::default(), Work::default());
            draw(&self.measured, rung, self.start_draw(number), &mut weights)?;
            let cost = self.measured.cost(weights.view(), &mut scratch, &mut work)?;
            Ok((if cost.is_nan() { f64::INFINITY } else { cost }, work))
        };
        // In other coordinates every evaluation keeps all activations: one at a time, which the threads share.
        let results: Vec<(f64, Work)> =
            if self.coordinates.is_some() { draws.map(one).collect::<Result<_, _>>()? } else { self.each(draws.collect(), one)? };
        results.iter().for_each(|(_, own)| work.add(*own));
        Ok(results.into_iter().map(|(cost, _)| cost).collect())
    }

    /// What the costs of draws say of a rung, whose beta is chosen if none is given.
    fn start_of(&self, beta: Option<f64>, localization: f64, costs: &[f64]) -> Result<Start, AnnealedError> {
        let finite: Vec<f64> = costs.iter().copied().filter(|cost| cost.is_finite()).collect();
        if finite.is_empty() {
            return Err(AnnealedError::NoFiniteDraw { draws: FIRST_DRAWS });
        }
        let deviation = variance(&finite).sqrt();
        let mean_cost = mean(&finite);
        // Costs that are next to nothing beside the cutoff need not be told apart.
        let chosen = 0.5 / deviation.max(1e-6 * mean_cost).max(1e-6 * self.question.cutoff());
        let beta = beta.unwrap_or(chosen);
        let exponents: Vec<f64> = costs.iter().map(|cost| -beta * cost).collect();
        let factors: Vec<f64> = exponents.iter().map(|e| (e + beta * mean_cost).exp()).collect();
        let error = (variance(&factors) / factors.len() as f64).sqrt() / mean(&factors);
        let log_laplace = log_mean_exp(&exponents);
        Ok(Start { beta, localization, log_laplace, error, mean_cost, prior_cost: f64::INFINITY, evaluations: 0, anchor: self.relaxation })
    }

    /// Where the chains of a stay begin that do not go on from the one before. Draws with a cost that is not finite are drawn again: a chain would
    /// never leave such a place.
    pub(super) fn beginning(&self, task: &Task) -> Result<Vec<Vec<f32>>, AnnealedError> {
        let points: Vec<u32> = (1..=self.measured.star_points).collect();
        let one = |chain: u64| {
            if task.origin == Begin::Anchor {
                return Ok(self.measured.anchor.values.to_vec());
            }
            let (mut weights, mut slope, mut scratch) = (self.measured.zeros()?, self.measured.zeros()?, Scratch::default());
            for attempt in 0..BEGINNING_DRAWS {
                let number = (1 << 32) + ((u64::from(task.sweep) << 20) | (attempt << 8) | chain);
                draw(&self.measured, task.point, self.start_draw(number), &mut weights)?;
                let cost =
                    self.measured.evaluate(weights.view(), &points, task.point.beta, &mut slope, &mut scratch, &mut Work::default())?;
                if cost.is_finite() && self.measured.vectors().inner(slope.view(), slope.view())?.is_finite() {
                    return Ok(self.values_of(weights)?);
                }
            }
            Err(AnnealedError::NoFiniteDraw { draws: BEGINNING_DRAWS })
        };
        self.each((0..u64::from(self.spec.chains)).collect(), one)
    }
}
