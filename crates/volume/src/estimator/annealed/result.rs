//! From the blocks of a run to its answer.

use serde::{Deserialize, Serialize};

use super::record::{AnnealedRecord, Phase, Relaxation, Start};
use super::schedule::{AT_REST, Progress, Schedule};
use super::stay::Stay;
use super::tail::{Shares, tail};
use super::walk::{self, Walk};
use super::way::{Way, integrate};
use super::works::Works;
use crate::question::Question;
use crate::run::answer::{Answer, Measured, Trust, forgotten};
use crate::run::manifest::Manifest;
use crate::spec::{AnnealedSpec, EstimatorSpec, SetKind};
use crate::statistics::{mean, null_is_nan, nulls_are_nan};

/// One stay at a rung, for the table of the ladder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RungSummary {
    /// How many times the ladder was run through before.
    pub sweep: u32,
    /// Which part of the sweep.
    pub phase: Phase,
    /// Number of the rung from the known end.
    pub rung: usize,
    /// Inverse temperature, per nat.
    pub beta: f64,
    /// Strength of the spring to the center.
    pub localization: f64,
    /// Counted trajectories, over all chains.
    pub trajectories: usize,
    /// `E[C]`, nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub mean_cost: f64,
    /// `beta E[C]`: the integrand of the learning coefficient.
    #[serde(deserialize_with = "null_is_nan")]
    pub learning_coefficient: f64,
    /// `beta^2 Var[C]`; `d y / d ln beta` is `y` minus this.
    #[serde(deserialize_with = "null_is_nan")]
    pub cost_fluctuation: f64,
    /// The derivative of the log-volume with respect to `ln a`, nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub pull: f64,
    /// `c.w / c.c`.
    #[serde(deserialize_with = "null_is_nan")]
    pub overlap: f64,
    /// Mean of `|w - c|^2`.
    #[serde(deserialize_with = "null_is_nan")]
    pub distance_squared: f64,
    /// Mean of the virial residual, in its own standard deviations of one state; zero in equilibrium.
    #[serde(deserialize_with = "null_is_nan")]
    pub virial: f64,
    /// Standard error of that: the residual of a center off the mean varies by far more than its own standard deviations say.
    #[serde(deserialize_with = "null_is_nan")]
    pub virial_error: f64,
    /// Second half of the pull minus the first, in standard errors as if trajectories were independent.
    #[serde(deserialize_with = "null_is_nan")]
    pub drift: f64,
    /// Trajectories per independent value of the pull.
    #[serde(deserialize_with = "null_is_nan")]
    pub autocorrelation: f64,
    /// Mean acceptance.
    #[serde(deserialize_with = "null_is_nan")]
    pub acceptance: f64,
    /// Radians for each gradient.
    pub step: f64,
    /// Trajectories whose energy ran away.
    pub diverged: u32,
    /// Trajectories that met a cost that is not finite.
    pub not_finite: u32,
    /// Gradients spent.
    pub gradients: u64,
    /// What this rung adds to the log-volume, nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub contribution: f64,
    /// Standard error of that.
    #[serde(deserialize_with = "null_is_nan")]
    pub error: f64,
    /// `ln E exp(-beta C)` over the Gaussian part at this rung, integrated from the known end over the rungs of this way, nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub log_laplace: f64,
}

/// What an annealed run says beside its answer. Numbers that are not finite, or not known yet, are `null` in JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnnealedResult {
    /// The log-probability per sweep, from the known end outward, nats.
    #[serde(deserialize_with = "nulls_are_nan")]
    pub outward: Vec<f64>,
    /// Per sweep, from the wanted density inward, nats.
    #[serde(deserialize_with = "nulls_are_nan")]
    pub inward: Vec<f64>,
    /// The sweeps that the answer is made of, by their numbers from 0. One that stayed longer where the ways of those before differed replaces
    /// them, and those after it that stay as long count beside it: their numbers are those of the longest stay at every rung.
    #[serde(default)]
    pub counted: Vec<u32>,
    /// Mean outward minus mean inward, over the sweeps that count.
    pub gap: Option<f64>,
    /// Statistical standard error of one direction.
    #[serde(deserialize_with = "null_is_nan")]
    pub error: f64,
    /// By how much the sweeps around different states differ, each the mean of both ways: the largest less the smallest, nats; none around one state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchors_differ: Option<f64>,
    /// What the single chains say about the gap; none where they are fewer than four.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub works: Option<Works>,
    /// `ln P(C <= cutoff) - A(beta)`.
    #[serde(deserialize_with = "null_is_nan")]
    pub tail: f64,
    /// Where the spring was attached, if not to the center.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<Relaxation>,
    /// Final beta.
    #[serde(deserialize_with = "null_is_nan")]
    pub beta: f64,
    /// Mean cost there.
    #[serde(deserialize_with = "null_is_nan")]
    pub mean_cost: f64,
    /// Overlap with the center there.
    #[serde(deserialize_with = "null_is_nan")]
    pub overlap: f64,
    /// Whether both directions of every sweep are complete.
    pub complete: bool,
    /// Mean acceptance of all blocks.
    #[serde(deserialize_with = "null_is_nan")]
    pub acceptance: f64,
    /// Trajectories that met a cost that is not finite.
    pub not_finite: u32,
    /// The ladder.
    pub rungs: Vec<RungSummary>,
    /// Whether something is wrong at the last rung, which both ways have in common: their agreement says nothing about it.
    pub last_rung_is_doubtful: bool,
}

/// What is known before the first record.
impl Default for AnnealedResult {
    fn default() -> Self {
        Self {
            outward: Vec::new(),
            inward: Vec::new(),
            counted: Vec::new(),
            gap: None,
            error: f64::NAN,
            anchors_differ: None,
            works: None,
            tail: f64::NAN,
            anchor: None,
            beta: f64::NAN,
            mean_cost: f64::NAN,
            overlap: f64::NAN,
            complete: false,
            acceptance: f64::NAN,
            not_finite: 0,
            rungs: Vec::new(),
            last_rung_is_doubtful: false,
        }
    }
}

/// What a run of the annealed estimator has found so far.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AnnealedEstimate {
    /// The log-probability, nats: the mean of the directions, or the one there is; none before the first way outward is complete.
    pub log_probability: Option<f64>,
    /// Low end of the interval.
    pub low: f64,
    /// High end; none when nothing bounds it.
    pub high: Option<f64>,
    /// Gradients spent.
    pub gradients: u64,
    /// Costs computed beside them.
    pub evaluations: u64,
    /// What is wrong with the number, in words; empty when nothing is.
    pub warnings: Vec<String>,
    /// Where it stands; none where everything is done.
    #[serde(skip)]
    pub progress: Option<Progress>,
    /// What it is made of.
    #[serde(flatten)]
    pub details: AnnealedResult,
}

/// What one way of a sweep says.
struct OfSweep {
    sweep: u32,
    value: f64,
    error: f64,
    chains: Vec<f64>,
}

/// The gap between the directions that still counts as agreement, relative to the answer, and in nats.
const AGREEMENT: f64 = 0.05;
const AGREEMENT_NATS: f64 = 2.0;

impl AnnealedResult {
    /// The result of these records (in the order of their indices), on which so many seconds were spent. The samples of the manifest are sweeps.
    #[must_use]
    pub fn of(manifest: &Manifest, records: &[AnnealedRecord], seconds: f64) -> (Answer, Self) {
        let default = AnnealedSpec::default();
        let spec = if let EstimatorSpec::Annealed(spec) = &manifest.spec.estimator { spec } else { &default };
        let question = &manifest.spec.question;
        let measures = match spec.set_kind {
            SetKind::Basin => Measured::Basin,
            SetKind::Star => Measured::Star,
        };
        let mut answer = Answer::nothing_yet("annealed", measures, question.prior().quantity(), seconds);
        let sweeps = u32::try_from(manifest.samples).unwrap_or(u32::MAX);
        let Some(estimate) = AnnealedEstimate::of(spec, question, sweeps, records) else { return (answer, Self::default()) };
        answer.log_probability = estimate.log_probability.unwrap_or(f64::NAN);
        answer.interval = (Some(estimate.low).filter(|low| low.is_finite()), estimate.high);
        if estimate.is_answer() {
            answer.trust = Trust::Answer;
        }
        answer.bits_per_parameter = manifest.spec.bits_per_parameter(answer.log_probability);
        answer.gradients = estimate.gradients;
        answer.evaluations = estimate.evaluations;
        answer.reasons = estimate.warnings;
        answer.overlap = estimate.log_probability.and(Some(estimate.details.overlap).filter(|overlap| overlap.is_finite()));
        if answer.is_of_behaviour() {
            answer.meaning = forgotten(estimate.details.overlap);
            answer.reasons.push(answer.meaning.clone());
        }
        (answer, estimate.details)
    }
}

impl AnnealedEstimate {
    /// Reads the records of a run; `None` before its first, or under a prior that is not Gaussian.
    #[must_use]
    pub fn of(spec: &AnnealedSpec, question: &Question, sweeps: u32, records: &[AnnealedRecord]) -> Option<Self> {
        let (starts, sigma) = (AnnealedRecord::starts_of(records), question.sigma()?);
        let schedule = replay(spec, question, sigma, sweeps, starts.first()?, records);
        Some(Self::from_schedule(&schedule, &starts))
    }

    /// `starts` are those of the states that the spring has been attached to, one at least.
    pub(super) fn from_schedule(schedule: &Schedule, starts: &[Start]) -> Self {
        let Schedule { cutoff, sigma, .. } = *schedule;
        let mut rungs = Vec::new();
        let (mut outward, mut inward) = (Vec::new(), Vec::new());
        let (mut tails, mut tail_errors) = (Vec::new(), Vec::new());
        let mut counted = Vec::new();
        let last_sweep = schedule.stays.last().map_or(0, |stay| stay.sweep);
        // A stay that is not over says nothing yet, nor does the one at which the ladder was given up.
        let is_running = schedule.next().is_some() || schedule.failure.is_some();
        let current = if is_running { schedule.stays.len().saturating_sub(1) } else { schedule.stays.len() };
        let stays = &schedule.stays[..current];
        for sweep in 0..=last_sweep {
            // A stay is recorded after the start that it goes out from.
            let anchor = schedule.spec.anchor_of(sweep);
            let start = &starts[anchor.min(starts.len() - 1)];
            let has_settled = schedule.stays.iter().any(|stay| stay.sweep == sweep && stay.phase == Phase::Settle);
            let is_back = Way::Inward.longest(stays, |other| other == sweep).first().is_some_and(|stay| stay.rung == 0);
            // A sweep that stayed longer where the ways of those before differed replaces them; one that stays as long counts beside it.
            let plan = schedule.plan_of(sweep);
            let replaces = plan.is_some_and(|plan| plan.replaces);
            if replaces && is_back {
                counted.retain(|other| schedule.spec.anchor_of(*other) != anchor);
            }
            if !replaces || is_back {
                counted.push(sweep);
            }
            for (way, is_complete, values) in [(Way::Outward, has_settled, &mut outward), (Way::Inward, is_back, &mut inward)] {
                let own = way.longest(stays, |other| other == sweep);
                let mut integrated = integrate(&own, start, sigma);
                rungs.append(&mut integrated.rungs);
                if plan.is_some() {
                    let all = way.longest(stays, |other| other <= sweep && schedule.spec.anchor_of(other) == anchor);
                    integrated = integrate(&all, start, sigma);
                }
                if is_complete && !own.is_empty() {
                    values.push(OfSweep { sweep, value: integrated.value, error: integrated.error, chains: integrated.chains });
                }
            }
            for stay in stays.iter().filter(|stay| stay.sweep == sweep && stay.phase == Phase::Settle) {
                let (value, error) = tail(stay, cutoff);
                tails.push(value);
                tail_errors.push(error);
            }
        }
        let settled = stays.iter().rev().find(|stay| stay.phase == Phase::Settle);
        let tail = if tails.is_empty() { f64::NAN } else { mean(&tails) };
        let mean_square = |errors: &[f64]| mean(&errors.iter().map(|e| e * e).collect::<Vec<_>>());
        let of_tail = if tail_errors.is_empty() { 0.0 } else { mean_square(&tail_errors).sqrt() };
        for of_sweep in outward.iter_mut().chain(&mut inward) {
            of_sweep.value += tail;
            of_sweep.chains.iter_mut().for_each(|chain| *chain += tail);
        }
        let every = |way: &[OfSweep]| way.iter().map(|of| of.value).collect::<Vec<f64>>();
        let (every_outward, every_inward) = (every(&outward), every(&inward));
        for way in [&mut outward, &mut inward] {
            way.retain(|of| counted.contains(&of.sweep));
        }
        let errors: Vec<f64> = outward.iter().chain(&inward).map(|of| of.error).collect();
        let of_way = if errors.is_empty() { f64::NAN } else { mean_square(&errors).sqrt() };
        let error = of_way.hypot(of_tail);
        let chains = |way: &[OfSweep]| way.iter().flat_map(|of| of.chains.iter().copied()).collect::<Vec<f64>>();
        let works = Works::of(chains(&outward), chains(&inward), of_way);
        let (outward, inward) = (every(&outward), every(&inward));
        let gap = (!outward.is_empty() && !inward.is_empty()).then(|| mean(&outward) - mean(&inward));
        let all: Vec<f64> = outward.iter().chain(&inward).copied().collect();
        let has_value = settled.is_some() && !all.is_empty() && all.iter().all(|value| value.is_finite());
        // Where nearly all of the prior is under the cutoff, noise may lift the number above that of certainty. NaN stays NaN.
        let probability = |value: f64| if value > 0.0 { 0.0 } else { value };
        let log_probability =
            has_value.then(|| probability(if gap.is_some() { 0.5 * (mean(&outward) + mean(&inward)) } else { mean(&all) }));
        let deciding = works.as_ref().filter(|works| works.decide);
        let means: Vec<f64> = outward.iter().zip(&inward).map(|(out, back)| 0.5 * (out + back)).collect();
        let (least_mean, largest_mean) = (crate::statistics::minimum(&means), crate::statistics::maximum(&means));
        let is_around_several = means.len().min(schedule.spec.anchors as usize) > 1;
        let anchors_differ = is_around_several.then_some(largest_mean - least_mean);
        let (lowest, highest) = match (deciding, gap, log_probability) {
            (Some(works), Some(gap), Some(value)) => {
                let half = works.half_width(gap, of_way, of_tail);
                if is_around_several {
                    (least_mean.min(value - half), largest_mean.max(value + half))
                } else {
                    (value - half, value + half)
                }
            }
            _ => (crate::statistics::minimum(&all) - 2.0 * error, crate::statistics::maximum(&all) + 2.0 * error),
        };
        let low = if has_value { probability(lowest) } else { f64::NEG_INFINITY };
        let high = (has_value && gap.is_some()).then(|| probability(highest));
        let total = |f: &dyn Fn(&Stay) -> u64| schedule.stays.iter().map(f).sum::<u64>();
        let of_starts = |f: &dyn Fn(&Start) -> u64| starts.iter().map(f).sum::<u64>();
        let acceptance: Vec<f64> = schedule.stays.iter().flat_map(|stay| stay.acceptance.iter().copied()).collect();
        let mut estimate = Self {
            log_probability,
            low,
            high,
            gradients: of_starts(&|start| start.anchor.map_or(0, |a| a.gradients)) + total(&|stay| stay.gradients),
            evaluations: of_starts(&|start| start.evaluations + start.anchor.map_or(0, |a| a.evaluations))
                + total(&|stay| stay.evaluations),
            warnings: Vec::new(),
            progress: schedule.progress(),
            details: AnnealedResult {
                outward: every_outward,
                inward: every_inward,
                counted,
                gap,
                error,
                anchors_differ,
                works,
                tail,
                anchor: starts[0].anchor,
                beta: settled.map_or(f64::NAN, |stay| stay.point.beta),
                mean_cost: settled.map_or(f64::NAN, |stay| stay.mean(|o| o.cost)),
                overlap: settled.map_or(f64::NAN, |stay| stay.mean(|o| o.overlap)),
                complete: schedule.next().is_none() && schedule.failure.is_none(),
                acceptance: mean(&acceptance),
                not_finite: schedule.stays.iter().map(|stay| stay.not_finite).sum(),
                rungs,
                last_rung_is_doubtful: false,
            },
        };
        estimate.warn(schedule, settled.and_then(|stay| Shares::of(stay, cutoff)));
        estimate
    }

    /// Whether the number is an answer: both directions are complete and agree, and the last rung is in equilibrium and such that the step from
    /// there to the set can be trusted.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        self.details.complete && self.agrees() && !self.details.last_rung_is_doubtful
    }

    pub(super) fn agrees(&self) -> bool {
        match (self.details.gap, self.log_probability) {
            // What both ways leave open: their gap, or where chains are near equilibrium what the interval says.
            (Some(gap), Some(value)) => {
                let open = match self.high.filter(|_| self.works_decide()) {
                    Some(high) => (high - self.low).min(gap.abs()),
                    None => gap.abs(),
                };
                let open = open.max(self.details.anchors_differ.unwrap_or(0.0));
                open <= (AGREEMENT * value.abs()).max(AGREEMENT_NATS).max(3.0 * self.details.error)
            }
            _ => false,
        }
    }

    /// By how much two sweeps may differ: as much as the ways of the one whose ways differ most, and two standard errors of a difference.
    fn spread_of_ways(&self) -> f64 {
        let AnnealedResult { outward, inward, counted, error, .. } = &self.details;
        let of_counted = outward.iter().zip(inward).enumerate().filter(|(sweep, _)| counted.contains(&(*sweep as u32)));
        let gaps = of_counted.map(|(_, (out, back))| (out - back).abs());
        gaps.fold(0.0, f64::max) + 2.0 * std::f64::consts::SQRT_2 * error
    }

    /// Whether the interval is that of single chains' works, which are those of chains that are driven slowly.
    fn works_decide(&self) -> bool {
        self.details.works.as_ref().is_some_and(|works| works.decide)
    }

    fn warn(&mut self, schedule: &Schedule, shares: Option<Shares>) {
        let mut warnings = Vec::new();
        if let Some(failure) = &schedule.failure {
            warnings.push(format!("The ladder was given up: {failure}."));
        } else if !self.details.complete {
            warnings.push("The ladder is not complete: repeat the estimate to go on.".to_owned());
        }
        if let (Some(gap), Some(value)) = (self.details.gap, self.log_probability)
            && !self.agrees()
        {
            warnings.push(format!(
                "The way outward and the way inward differ by {:.1} nats, {:.1} % of the answer: the chains were not in equilibrium on the way, and the truth lies between the two only if they lag behind it; raise `trajectories`.",
                gap.abs(),
                100.0 * (gap / value).abs()
            ));
        }
        if let Some(differ) = self.details.anchors_differ
            && differ > self.spread_of_ways()
        {
            warnings.push(format!(
                "Glass: anchors differ. The sweeps around {} typical states differ by {differ:.1} nats, more than their ways and errors ({:.1}): chains do not cross from one such state to another, and a number from one alone is that of its surroundings.",
                schedule.spec.anchors,
                self.spread_of_ways()
            ));
        }
        if let Some(settled) = self.details.rungs.iter().rfind(|rung| rung.phase == Phase::Settle) {
            let independent = (settled.trajectories as f64 / settled.autocorrelation.max(1.0)).max(1.0);
            let expected = AT_REST * settled.virial_error.max(1.0 / independent.sqrt());
            if settled.virial.abs() > expected {
                self.details.last_rung_is_doubtful = true;
                warnings.push(format!(
                    "At the last rung the virial residual is {:.2} standard deviations where equilibrium allows {expected:.2}: the chains are not in equilibrium.",
                    settled.virial
                ));
            }
        }
        if let Some(Shares { found, expected, .. }) = shares.filter(Shares::disagree) {
            self.details.last_rung_is_doubtful = true;
            warnings.push(format!(
                "At the last rung {:.0} % of the states are under the cutoff where costs of a gamma distribution with their mean and variance would be in {:.0} %: the last step, from that rung to the set, cannot be trusted (the cost may be nearly constant around the cutoff somewhere).",
                100.0 * found,
                100.0 * expected
            ));
        }
        if self.details.not_finite > 0 {
            warnings.push(format!(
                "{} trajectories met a cost that is NaN or infinite and were begun again with half the step.",
                self.details.not_finite
            ));
        }
        self.warnings = warnings;
    }
}

/// The schedule after these records.
pub(super) fn replay(
    spec: &AnnealedSpec,
    question: &Question,
    sigma: f64,
    sweeps: u32,
    start: &Start,
    records: &[AnnealedRecord],
) -> Schedule {
    let blocks = records.iter().filter_map(|record| if let AnnealedRecord::Block(block) = record { Some(block) } else { None });
    let mut schedule = Schedule::new(spec, question, sigma, sweeps, start);
    walk::replay(&mut schedule, spec.chains, blocks.collect(), |schedule, task, round| {
        let fits = round.iter().all(|block| (block.beta, block.localization) == (task.point.beta, task.point.localization));
        if !fits {
            let other = "the records do not lie on the ladder that these settings lead to: another version of the program made them, so begin again in a new folder";
            schedule.failure = Some(other.to_owned());
        }
        fits
    });
    schedule
}
