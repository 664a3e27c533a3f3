//! From the blocks of a run to its answer.

use serde::{Deserialize, Serialize};

use super::convergence::{covariance, split_r_hat};
use super::density::Density;
use super::record::LlcRecord;
use super::schedule::{LlcProgress, Schedule};
use crate::estimator::annealed::Observation;
use crate::estimator::annealed::schedule::AT_REST;
use crate::estimator::annealed::series::{autocorrelation, halves, standard_error};
use crate::estimator::annealed::stay::Stay;
use crate::estimator::annealed::walk;
use crate::run::answer::{Answer, Measured, Trust};
use crate::run::manifest::Manifest;
use crate::spec::{EstimatorSpec, LlcSpec};
use crate::statistics::{maximum, mean, minimum, null_is_nan, nulls_are_nan, student_quantile, variance};

/// Split R-hat above which chains have not mixed well, in the words of Vehtari et al. 2021; whatever is asked for, it is said.
const GOOD_R_HAT: f64 = 1.01;
/// Above this they are at different places, and their mean is no expectation.
const BAD_R_HAT: f64 = 1.1;
/// Halves that differ by so many standard errors drift.
const DRIFT: f64 = 4.0;
/// With fewer independent values the standard error is a guess itself.
const FEW: f64 = 10.0;
/// Costs below the center's by less than this part of it are its rounding.
const ROUNDING: f64 = 1e-5;
/// `d ln lambda / d ln gamma` below which the spring decides as much as the cost: it is -1 where the spring alone holds the chains, 0 where it matters
/// to nothing.
const DOMINATES: f64 = -0.5;
/// The same where it is worth a word.
const MATTERS: f64 = -0.1;
/// Share of the spring in the distance from which on it is worth a word.
const LARGE_SHARE: f64 = 0.9;

/// What a run says beside its answer. Numbers that are not finite, or not known yet, are `null` in JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LlcResult {
    /// Inverse temperature of the mean cost, per nat.
    #[serde(deserialize_with = "null_is_nan")]
    pub n_beta: f64,
    /// Strength of the spring to the center, per squared unit of weight.
    #[serde(deserialize_with = "null_is_nan")]
    pub localization: f64,
    /// Whether the prior is a factor of the density.
    pub with_prior: bool,
    /// Standard error of the learning coefficient, autocorrelation included.
    #[serde(deserialize_with = "null_is_nan")]
    pub standard_error: f64,
    /// Split R-hat of the cost over the chains.
    #[serde(deserialize_with = "null_is_nan")]
    pub r_hat: f64,
    /// Independent values of the cost that the counted trajectories are worth.
    #[serde(deserialize_with = "null_is_nan")]
    pub effective_sample_size: f64,
    /// Trajectories per independent value of the cost.
    #[serde(deserialize_with = "null_is_nan")]
    pub autocorrelation: f64,
    /// Counted trajectories, over all chains.
    pub trajectories: usize,
    /// Trajectories of all chains, those of the warm-up and those at the begin of a stay included.
    pub trajectories_in_all: usize,
    /// The learning coefficient by each chain alone.
    #[serde(deserialize_with = "nulls_are_nan")]
    pub chains: Vec<f64>,
    /// `C(c)`, nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub center_cost: f64,
    /// `E[C]`, nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub mean_cost: f64,
    /// The least cost of a counted state, nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub least_cost: f64,
    /// Share of the counted states with a cost below the center's, beyond rounding.
    #[serde(deserialize_with = "null_is_nan")]
    pub share_below_center: f64,
    /// `n_beta^2 Var[C]`: the learning coefficient at another temperature is larger by itself minus this per `ln n_beta`.
    #[serde(deserialize_with = "null_is_nan")]
    pub cost_fluctuation: f64,
    /// Second half of the cost minus the first, in standard errors, autocorrelation included.
    #[serde(deserialize_with = "null_is_nan")]
    pub drift: f64,
    /// Mean of the virial residual, in its own standard deviations of one state; zero in equilibrium.
    #[serde(deserialize_with = "null_is_nan")]
    pub virial: f64,
    /// Standard error of that.
    #[serde(deserialize_with = "null_is_nan")]
    pub virial_error: f64,
    /// `gamma E|w - c|^2 / D`: 1 where the spring alone keeps the chains at their distance from the center, 0 where the cost does.
    #[serde(deserialize_with = "null_is_nan")]
    pub localization_share: f64,
    /// `d ln lambda / d ln gamma = - gamma/2 n_beta Cov(C, |w - c|^2) / lambda`.
    #[serde(deserialize_with = "null_is_nan")]
    pub localization_slope: f64,
    /// Standard error of that.
    #[serde(deserialize_with = "null_is_nan")]
    pub localization_slope_error: f64,
    /// Mean of `|w - c|^2`.
    #[serde(deserialize_with = "null_is_nan")]
    pub distance_squared: f64,
    /// Mean acceptance of the blocks after the warm-up.
    #[serde(deserialize_with = "null_is_nan")]
    pub acceptance: f64,
    /// Radians of a leapfrog step at the end.
    #[serde(deserialize_with = "null_is_nan")]
    pub step: f64,
    /// Trajectories whose energy ran away.
    pub diverged: u32,
    /// Trajectories that met a cost that is not finite.
    pub not_finite: u32,
    /// Gradients of the warm-up.
    pub warmup_gradients: u64,
    /// Trajectories of each chain after which each complete round was over.
    pub rounds: Vec<usize>,
    /// Whether every round is complete.
    pub complete: bool,
}

/// What is known before the first record.
impl Default for LlcResult {
    fn default() -> Self {
        let unknown = f64::NAN;
        Self {
            n_beta: unknown,
            localization: unknown,
            with_prior: false,
            standard_error: unknown,
            r_hat: unknown,
            effective_sample_size: unknown,
            autocorrelation: unknown,
            trajectories: 0,
            trajectories_in_all: 0,
            chains: Vec::new(),
            center_cost: unknown,
            mean_cost: unknown,
            least_cost: unknown,
            share_below_center: unknown,
            cost_fluctuation: unknown,
            drift: unknown,
            virial: unknown,
            virial_error: unknown,
            localization_share: unknown,
            localization_slope: unknown,
            localization_slope_error: unknown,
            distance_squared: unknown,
            acceptance: unknown,
            step: unknown,
            diverged: 0,
            not_finite: 0,
            warmup_gradients: 0,
            rounds: Vec::new(),
            complete: false,
        }
    }
}

/// What a run has found so far.
#[derive(Debug, Clone, PartialEq)]
pub struct LlcEstimate {
    /// `n_beta (E[C] - C(c))`; none before the first counted trajectory.
    pub learning_coefficient: Option<f64>,
    /// The interval of 95 %.
    pub interval: (f64, f64),
    /// Gradients spent.
    pub gradients: u64,
    /// Costs computed beside them, that at the center included.
    pub evaluations: u64,
    /// How far the number can be trusted.
    pub trust: Trust,
    /// Why it is not trusted more, and what else is to be known, in words.
    pub warnings: Vec<String>,
    /// Where it stands; none where everything is done.
    pub progress: Option<LlcProgress>,
    /// What it is made of.
    pub details: LlcResult,
}

impl LlcResult {
    /// The result of these records (in the order of their indices), on which so many seconds were spent. The samples of the manifest are rounds.
    #[must_use]
    pub fn of(manifest: &Manifest, records: &[LlcRecord], seconds: f64) -> (Answer, Self) {
        let mut answer = Answer::nothing_yet("llc", Measured::Posterior, "local learning coefficient, n_beta (E[C] - C(c))", seconds);
        let rounds = u32::try_from(manifest.samples).unwrap_or(u32::MAX);
        let EstimatorSpec::Llc(spec) = &manifest.spec.estimator else { return (answer, Self::default()) };
        let density = Density::of(&manifest.spec.question, spec).ok();
        let Some((density, center)) = density.zip(LlcRecord::center_of(records)) else { return (answer, Self::default()) };
        let schedule = replay(spec, density, center, rounds, records);
        let estimate = LlcEstimate::from_schedule(spec, density, &schedule, manifest.spec.dimension);
        let finite = |value: f64| Some(value).filter(|value| value.is_finite());
        answer.learning_coefficient = estimate.learning_coefficient;
        answer.interval = (finite(estimate.interval.0), finite(estimate.interval.1));
        answer.trust = estimate.trust;
        answer.reasons = estimate.warnings;
        answer.gradients = estimate.gradients;
        answer.evaluations = estimate.evaluations;
        answer.overlap = schedule.settled().map(|stay| stay.mean(|o| o.overlap)).and_then(finite);
        (answer, estimate.details)
    }
}

/// The schedule after these records.
pub(super) fn replay(spec: &LlcSpec, density: Density, center_cost: f64, rounds: u32, records: &[LlcRecord]) -> Schedule {
    let blocks = records.iter().filter_map(|record| if let LlcRecord::Block(block) = record { Some(block) } else { None });
    let mut schedule = Schedule::new(spec, density, center_cost, rounds);
    walk::replay(&mut schedule, spec.chains, blocks.collect(), |_, _, _| true);
    schedule
}

impl LlcEstimate {
    pub(super) fn from_schedule(spec: &LlcSpec, density: Density, schedule: &Schedule, dimension: usize) -> Self {
        let total = |f: &dyn Fn(&Stay) -> u64| schedule.stays.iter().map(f).sum::<u64>();
        let mut estimate = Self {
            learning_coefficient: None,
            interval: (f64::NAN, f64::NAN),
            gradients: total(&|stay| stay.gradients),
            evaluations: 1 + total(&|stay| stay.evaluations),
            trust: Trust::NotAnAnswer,
            warnings: Vec::new(),
            progress: schedule.progress(),
            details: LlcResult {
                n_beta: density.rung.beta,
                localization: density.rung.localization,
                with_prior: density.sigma.is_finite(),
                center_cost: schedule.center_cost,
                warmup_gradients: schedule.stays.first().map_or(0, |stay| stay.gradients),
                trajectories_in_all: total(&|stay| stay.observations.iter().map(|chain| chain.len() as u64).sum()) as usize,
                diverged: total(&|stay| u64::from(stay.diverged)) as u32,
                not_finite: total(&|stay| u64::from(stay.not_finite)) as u32,
                rounds: schedule.ends.clone(),
                complete: schedule.is_complete(),
                ..LlcResult::default()
            },
        };
        if let Some(stay) = schedule.settled().filter(|stay| stay.length() > 0) {
            estimate.measure(density, stay, dimension);
        }
        estimate.judge(spec, schedule, dimension);
        estimate
    }

    /// What the counted trajectories say.
    fn measure(&mut self, density: Density, stay: &Stay, dimension: usize) {
        let details = &mut self.details;
        let (n_beta, gamma) = (density.rung.beta, density.rung.localization);
        let series = stay.series(|o| o.cost);
        let (costs, distances) = (series.concat(), stay.series(|o| o.distance_squared).concat());
        let coefficient = |cost: f64| n_beta * (cost - details.center_cost);
        let lambda = coefficient(mean(&costs));
        details.trajectories = costs.len();
        details.chains = series.iter().map(|chain| coefficient(mean(chain))).collect();
        details.autocorrelation = autocorrelation(&series);
        details.effective_sample_size = costs.len() as f64 / details.autocorrelation;
        details.standard_error = n_beta * standard_error(&series);
        details.r_hat = split_r_hat(&series);
        details.mean_cost = mean(&costs);
        details.least_cost = minimum(&costs);
        let floor = details.center_cost - ROUNDING * details.center_cost.abs();
        details.share_below_center = costs.iter().filter(|cost| **cost < floor).count() as f64 / costs.len() as f64;
        details.cost_fluctuation = n_beta * n_beta * variance(&costs);
        let (difference, error) = halves(&series);
        details.drift = if difference == 0.0 { 0.0 } else { difference / (error * details.autocorrelation.sqrt()) };
        (details.virial, details.virial_error) = stay.virial();
        details.distance_squared = mean(&distances);
        details.localization_share = gamma * details.distance_squared / dimension as f64;
        let slope = -0.5 * gamma * n_beta / lambda;
        details.localization_slope = slope * covariance(&costs, &distances);
        let centered = |o: &Observation| (o.cost - details.mean_cost) * (o.distance_squared - details.distance_squared);
        details.localization_slope_error = slope.abs() * standard_error(&stay.series(centered));
        details.acceptance = mean(&stay.acceptance);
        details.step = stay.step;
        self.learning_coefficient = Some(lambda).filter(|lambda| lambda.is_finite());
        // As many degrees of freedom as there are independent values less one.
        let half = student_quantile(0.975, (details.effective_sample_size - 1.0).max(1.0)) * details.standard_error;
        self.interval = (lambda - half, lambda + half);
    }

    /// What is wrong with the number, the gravest first.
    fn judge(&mut self, spec: &LlcSpec, schedule: &Schedule, dimension: usize) {
        let details = &self.details;
        let (mut wrong, mut doubtful, mut known) = (Vec::new(), Vec::new(), Vec::new());
        if let Some(failure) = &schedule.failure {
            wrong.push(format!("The run was given up: {failure}."));
        } else if !details.complete {
            doubtful.push("The run is not complete: repeat the estimate to go on.".to_owned());
        }
        let Some(lambda) = self.learning_coefficient else {
            wrong.push("No trajectory counts yet.".to_owned());
            self.warnings = wrong;
            return;
        };
        let n_beta = details.n_beta;
        let depth = n_beta * (details.center_cost - details.least_cost);
        if lambda <= 0.0 {
            wrong.push(format!(
                "The number is not positive: the states cost less on average than the center, which is no minimum of this cost. Train it further, or take another `n_beta` or a stronger `localization`; the least cost found is {:.3e} nats, that of the center {:.3e}.",
                details.least_cost, details.center_cost
            ));
        } else if details.share_below_center > 0.0 {
            let words = format!(
                "{:.1} % of the states cost less than the center, the least of them by {depth:.3} in units of 1/n_beta: the center is no minimum, and with respect to that state the number would be larger by as much.",
                100.0 * details.share_below_center
            );
            if depth > spec.tolerance * lambda { &mut doubtful } else { &mut known }.push(words);
        }
        if details.virial.abs() > AT_REST * details.virial_error {
            wrong.push(format!(
                "The virial residual is {:.3} standard deviations of one state where equilibrium allows {:.3}: the chains are not in equilibrium. A longer `warmup`, or more trajectories with `continue`, may bring them there.",
                details.virial,
                AT_REST * details.virial_error
            ));
        }
        if details.r_hat.is_nan() || details.r_hat > GOOD_R_HAT {
            let target = if details.r_hat <= spec.r_hat { &mut known } else { &mut doubtful };
            let target = if details.r_hat > BAD_R_HAT { &mut wrong } else { target };
            target.push(format!(
                "R-hat over the halves of the chains is {:.3}, and {GOOD_R_HAT} where they have mixed well: each chain by itself says {}. More trajectories help, with `continue`.",
                details.r_hat,
                spread(&details.chains)
            ));
        }
        if details.drift.abs() > DRIFT {
            doubtful.push(format!(
                "The cost drifts: the second half of the chains differs from the first by {:.1} standard errors. More trajectories help, with `continue`.",
                details.drift
            ));
        }
        if details.effective_sample_size < FEW {
            doubtful.push(format!(
                "All trajectories are worth {:.1} independent values: the standard error itself is a guess.",
                details.effective_sample_size
            ));
        }
        if lambda > 0.0 && details.standard_error > spec.tolerance * lambda {
            doubtful.push(format!(
                "The standard error is {:.1} % of the number where {:.1} % are asked for: `continue` doubles the trajectories, and `budget` allows more of them at once.",
                100.0 * details.standard_error / lambda,
                100.0 * spec.tolerance
            ));
        }
        let (slope, error) = (details.localization_slope, details.localization_slope_error);
        if slope + 2.0 * error < MATTERS {
            let words = format!(
                "The number depends on the localization: with twice of it, it would change by a factor of about {:.2}.",
                slope.max(-1.0).exp2()
            );
            if slope + 2.0 * error < DOMINATES {
                doubtful.push(format!(
                    "{words} The spring dominates the cost, at this n_beta of {n_beta:.4}: take a weaker `localization`, or a larger `n_beta`."
                ));
            } else {
                known.push(words);
            }
        }
        if details.localization_share > LARGE_SHARE {
            known.push(format!(
                "{:.1} % of the distance of the states from the center is what the spring alone would leave: the cost is felt in about {:.0} of {dimension} directions.",
                100.0 * details.localization_share.min(1.0),
                (1.0 - details.localization_share).max(0.0) * dimension as f64
            ));
        }
        if details.not_finite > 0 {
            known.push(format!(
                "{} trajectories met a cost that is NaN or infinite and were begun again with half the step.",
                details.not_finite
            ));
        }
        self.trust = if !wrong.is_empty() {
            Trust::NotAnAnswer
        } else if doubtful.is_empty() {
            Trust::Answer
        } else {
            Trust::Guide
        };
        self.warnings = [wrong, doubtful, known].concat();
    }
}

/// The least and the largest of some numbers.
fn spread(values: &[f64]) -> String {
    format!("{:.2} to {:.2}", minimum(values), maximum(values))
}
