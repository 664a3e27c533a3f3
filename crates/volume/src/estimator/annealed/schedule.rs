//! Which block comes next: a pure function of the blocks so far, so that a run resumes where it stopped and gives the same bits.

use super::plan::Plan;
use super::record::{Block, Observation, Phase, Start};
use super::rung::Rung;
use super::series::{autocorrelation, halves, standard_error};
use super::stay::Stay;
use super::tail::Shares;
use super::walk::Walk;
use super::way::Way;
use crate::question::Question;
use crate::spec::{AnnealedSpec, Ladder};

/// A step is never longer than this: a rotation by more would step over the cost.
pub(in crate::estimator) const LONGEST_STEP: f64 = 0.8;
/// With a shorter step the cost is not smooth enough for chains: a trajectory would take hundreds of thousands of gradients.
pub(in crate::estimator) const SHORTEST_STEP: f64 = 1e-5;
/// The step with which a ladder begins.
pub(in crate::estimator) const FIRST_STEP: f64 = 0.4;
/// Blocks with a lower acceptance only adapt the step.
pub(in crate::estimator) const LEAST_ACCEPTANCE: f64 = 0.2;
/// The localization counts as zero below this share of the prior's curvature.
const LAST_LOCALIZATION: f64 = 0.04;
/// The largest factor of beta from one rung to the next.
const LARGEST_FACTOR: f64 = 2.0;
/// Where the cost is above the warm one by more than this factor, the spring is not loosened.
const HOT: f64 = 1.5;
/// A change of the logarithm of `beta E[C]` from one rung to the next after which the next one is closer.
const LARGEST_BEND: f64 = 0.25;
/// A change of `beta E[C]` that is none, nats.
const LEAST_BEND: f64 = 1.0;
/// Where `beta E[C]` is known within this part of it, noise is not what limits the answer, and rungs of beta alone may be twice as far apart.
const PRECISE: f64 = 0.01;
/// The least distance of rungs in `ln beta`.
const SHORTEST_STRIDE: f64 = 0.05;
/// A virial residual of so many standard errors says that a stay has not come to rest.
pub(in crate::estimator) const AT_REST: f64 = 4.0;
/// A chain whose cost is below this part of the prior's has not melted.
const COLD_SHARE: f64 = 20.0;
/// Rungs after which a ladder gives up.
pub(super) const MOST_RUNGS: usize = 400;

/// Where a run of chains stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The stay that the chains are at, from 1: outward, at the end, and inward.
    pub rung: usize,
    /// About how many there are of a sweep.
    pub rungs: usize,
    /// About how many gradients are left.
    pub gradients_left: u64,
}

/// What the chains are to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::estimator) struct Task {
    /// Number of the block in the run.
    pub sequence: u64,
    pub sweep: u32,
    pub phase: Phase,
    pub rung: usize,
    pub block: u32,
    /// Blocks of its stay that only adapted what moves the chains.
    pub failed: u32,
    pub point: Rung,
    pub step: f64,
    /// Where the chains begin the block, when not where they are.
    pub begin: Begin,
    /// Where they began the stay.
    pub origin: Begin,
}

impl Task {
    /// The block before the stay.
    pub fn before(&self) -> Option<u64> {
        (self.sequence - u64::from(self.block)).checked_sub(1)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::estimator) enum Begin {
    /// Where the block before ended.
    Here,
    /// At draws from the Gaussian part.
    Drawn,
    /// Where the spring would be attached.
    Anchor,
}

/// The state of a run.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    pub spec: AnnealedSpec,
    pub cutoff: f64,
    pub sigma: f64,
    /// The rungs known so far.
    pub path: Vec<Rung>,
    pub stays: Vec<Stay>,
    step: f64,
    sequence: u64,
    sweeps: u32,
    start: Start,
    finished: bool,
    /// How long each sweep stays at every rung, where the ways of those before it say so.
    plans: Vec<Option<Plan>>,
    /// Why the ladder was given up.
    pub failure: Option<String>,
    /// Distance of the last two rungs in `ln beta`.
    last_stride: f64,
}

impl Schedule {
    pub fn new(spec: &AnnealedSpec, question: &Question, sigma: f64, sweeps: u32, start: &Start) -> Self {
        let first = Rung { beta: start.beta, localization: start.localization };
        let chains = spec.chains as usize;
        Self {
            spec: spec.clone(),
            cutoff: question.cutoff(),
            sigma,
            path: vec![first],
            stays: vec![Stay::new(0, Phase::Outward, 0, first, chains, FIRST_STEP)],
            step: FIRST_STEP,
            sequence: 0,
            sweeps,
            start: *start,
            finished: false,
            plans: vec![None],
            failure: None,
            last_stride: spec.spacing,
        }
    }

    /// Where the run stands on its way, and what is left as far as it can be known; none when everything is done.
    pub fn progress(&self) -> Option<Progress> {
        let stay = self.stays.last().filter(|_| self.next().is_some())?;
        let ahead = if stay.phase == Phase::Outward { self.rungs_ahead(stay) } else { 0 };
        let rungs = self.path.len() + ahead;
        let of_sweep = |phase: Phase| self.stays.iter().filter(move |other| other.sweep == stay.sweep && other.phase == phase);
        // What the last rung took is what the next ones will take.
        let last = self.stays.iter().rev().nth(1).map_or(stay.gradients, |before| before.gradients.max(stay.gradients));
        let whole = of_sweep(Phase::Outward).map(|stay| stay.gradients).sum::<u64>() + ahead as u64 * last;
        let settling = last * u64::from(self.spec.settle);
        let (place, left) = match stay.phase {
            Phase::Outward => (self.path.len(), last.saturating_sub(stay.gradients) + ahead as u64 * last + settling + whole),
            Phase::Settle => (rungs + 1, settling.saturating_sub(stay.gradients) + whole),
            // The way inward takes what the same rungs took outward.
            Phase::Inward => {
                let below: u64 = of_sweep(Phase::Outward).filter(|other| other.rung < stay.rung).map(|stay| stay.gradients).sum();
                (2 * rungs - stay.rung, last.saturating_sub(stay.gradients) + below)
            }
        };
        let sweeps_left = u64::from(self.sweeps.saturating_sub(stay.sweep + 1));
        let gradients_left = left + sweeps_left * (2 * whole + settling);
        Some(Progress { rung: place, rungs: 2 * rungs + 1, gradients_left })
    }

    /// Rungs between this one and the end of the way outward, about: the spring is loosened by equal factors, and the mean cost falls like 1/beta.
    fn rungs_ahead(&self, stay: &Stay) -> usize {
        let spacing = self.spec.spacing;
        let mean_cost = if stay.length() == 0 { f64::NAN } else { stay.mean(|o| o.cost) };
        let localization = stay.point.localization;
        let loosened = (localization * self.sigma * self.sigma / LAST_LOCALIZATION).ln().max(0.0) / spacing;
        let cost = match self.spec.ladder {
            // Until the spring is gone the cost stays about the warm one.
            Ladder::Localization if localization > 0.0 => self.spec.warmth * self.cutoff,
            _ => mean_cost,
        };
        let colder = (cost / self.cutoff).ln().max(0.0) / spacing;
        let rungs = loosened + if colder.is_finite() { colder } else { 0.0 };
        if rungs.is_finite() { rungs.ceil() as usize } else { 0 }
    }

    /// Whether the current stay was long enough: so many trajectories, enough of them independent, and its halves agree, or the most that are
    /// allowed.
    fn is_over(&self) -> bool {
        let Some(stay) = self.stays.last() else { return true };
        let (mut least, most) = lengths(&self.spec, stay.phase);
        let length = stay.length();
        if stay.phase == Phase::Inward
            && let Some(outward) = self.earlier(stay.rung)
        {
            // What took long one way takes long the other way, and short stays hide it.
            least = least.max(outward.length()).min(most);
        }
        if stay.blocks as usize > most.saturating_mul(40) {
            return true;
        }
        if let (Some(plan), false) = (&self.plans[stay.sweep as usize], stay.phase == Phase::Settle) {
            return length >= plan.lengths[stay.rung];
        }
        // Where trajectories are cheap there are more of them: chains that are not at rest yet hide behind few.
        let effort = stay.gradients / u64::from(self.spec.chains);
        if length < least || (effort < u64::from(self.spec.effort) && length < most) {
            return false;
        }
        length >= most || !(self.is_correlated(stay) || self.drifts(stay))
    }

    /// How long a sweep stays at every rung, from where the ways of those around the same state differ: as long as the last of them where they do no
    /// longer.
    fn plan(&self, sweep: u32) -> Option<Plan> {
        let is_of = |other: u32| self.spec.anchor_of(other) == self.spec.anchor_of(sweep);
        let [outward, inward] = [Way::Outward, Way::Inward].map(|way| way.longest(&self.stays, is_of));
        let last = || (0..sweep).rev().filter(|other| is_of(*other)).find_map(|other| self.plan_of(other));
        Plan::of(&outward, &inward, &self.start, self.sigma).or_else(|| last().map(Plan::again))
    }

    /// How long a sweep stays where it does not go by the settings alone.
    pub fn plan_of(&self, sweep: u32) -> Option<&Plan> {
        self.plans.get(sweep as usize)?.as_ref()
    }

    /// The last complete stay at a rung.
    fn earlier(&self, rung: usize) -> Option<&Stay> {
        let (_, before) = self.stays.split_last()?;
        before.iter().rev().find(|stay| stay.rung == rung)
    }

    /// Whether the spring changes on one side of a rung, or may.
    fn spring_changes(&self, rung: usize) -> bool {
        let point = self.path[rung];
        let differs = |other: Option<&Rung>| other.is_some_and(|other| other.localization != point.localization);
        point.localization > 0.0 && rung + 1 == self.path.len()
            || differs(self.path.get(rung + 1))
            || differs(rung.checked_sub(1).and_then(|before| self.path.get(before)))
    }

    /// Whether a stay has fewer independent values of what is integrated than are asked for.
    fn is_correlated(&self, stay: &Stay) -> bool {
        let wanted = f64::from(self.spec.independent);
        let has_few =
            |series: Vec<Vec<f64>>| (series.iter().map(Vec::len).sum::<usize>() as f64) < wanted * autocorrelation(&series).max(1.0);
        wanted > 0.0 && (has_few(stay.series(|o| o.cost)) || (self.spring_changes(stay.rung) && has_few(stay.series(stay.derivative()))))
    }

    fn drifts(&self, stay: &Stay) -> bool {
        let pull = stay.derivative();
        let scale = stay.mean(pull).abs().max(stay.point.beta * stay.mean(|o| o.cost));
        let differs = |value: &dyn Fn(&Observation) -> f64, tolerance: f64| {
            let (difference, error) = halves(&stay.series(value));
            difference.abs() > 2.0 * error && difference.abs() > tolerance
        };
        let beta = stay.point.beta;
        let accepted = self.spec.tolerance * scale;
        let (virial, error) = stay.virial();
        // Where the spring does not change the pull is not integrated, and its slowest part takes long without a spring.
        (self.spring_changes(stay.rung) && differs(&pull, accepted))
            || differs(&|o| beta * o.cost, accepted)
            || virial.abs() > AT_REST * error
    }

    fn advance(&mut self) {
        let Some(stay) = self.stays.last() else { return };
        let (sweep, rung, point) = (stay.sweep, stay.rung, stay.point);
        let next = match stay.phase {
            Phase::Outward if sweep == 0 => match self.continuation() {
                Some(point) => {
                    if self.path.len() >= MOST_RUNGS {
                        self.failure = Some(format!("the cutoff was not reached after {MOST_RUNGS} rungs"));
                        return;
                    }
                    self.path.push(point);
                    (sweep, Phase::Outward, rung + 1)
                }
                None => (sweep, Phase::Settle, rung),
            },
            Phase::Outward if rung + 1 < self.path.len() => (sweep, Phase::Outward, rung + 1),
            Phase::Outward => (sweep, Phase::Settle, rung),
            Phase::Settle if rung > 0 => (sweep, Phase::Inward, rung - 1),
            Phase::Inward if rung > 0 => (sweep, Phase::Inward, rung - 1),
            Phase::Settle | Phase::Inward => {
                if sweep + 1 >= self.sweeps {
                    self.finished = true;
                    return;
                }
                self.plans.push(self.plan(sweep + 1));
                (sweep + 1, Phase::Outward, 0)
            }
        };
        let (sweep, phase, rung) = next;
        let is_fresh = phase == Phase::Outward && rung == 0;
        // The step follows the stiffest direction, whose curvature grows with beta over a.
        let point_next = self.path[rung];
        let stiffness = |p: Rung| if self.spec.has_metric() { 1.0 } else { p.beta / p.curvature(self.sigma) };
        let ratio = (stiffness(point) / stiffness(point_next)).sqrt();
        let known = self.stays.iter().rev().find(|stay| stay.rung == rung).map(|stay| stay.step);
        self.step = match known {
            // Chains that come from a colder rung begin with shorter ones.
            Some(step) if phase == Phase::Inward && point_next.beta < point.beta => 0.5 * step,
            Some(step) => step,
            None if is_fresh => FIRST_STEP,
            None => (self.step * ratio.clamp(0.5, 1.5)).min(LONGEST_STEP),
        };
        self.stays.push(Stay::new(sweep, phase, rung, point_next, self.spec.chains as usize, self.step));
    }

    /// How far `ln beta` may go, at most `longest`: rungs where `y = beta E[C]` bends are set closer.
    fn stride(&mut self, longest: f64) -> f64 {
        let [.., before, stay] = self.stays.as_slice() else { return self.last_stride };
        let y = |stay: &Stay| stay.point.beta * stay.mean(|o| o.cost);
        let error = |stay: &Stay| stay.point.beta * standard_error(&stay.series(|o| o.cost));
        let (bend, noise) = ((y(stay) - y(before)).abs(), error(stay).hypot(error(before)));
        let has_bent = before.point.localization == stay.point.localization
            && (y(stay) / y(before)).ln().abs() > LARGEST_BEND
            && bend > LEAST_BEND.max(2.0 * noise);
        self.last_stride = (self.last_stride * if has_bent { 0.7 } else { 1.2 }).clamp(SHORTEST_STRIDE.min(longest), longest);
        self.last_stride
    }

    /// The rung after the last one of the path, or none when it is the one that is wanted.
    fn continuation(&mut self) -> Option<Rung> {
        let stay = self.stays.last()?;
        let Rung { beta, localization } = stay.point;
        let mean_cost = stay.mean(|o| o.cost);
        let excess = mean_cost / self.cutoff;
        // The states under the cutoff can be counted.
        if localization == 0.0 && Shares::of(stay, self.cutoff).is_some_and(|shares| shares.are_enough()) {
            return None;
        }
        let spacing = self.spec.spacing;
        match self.spec.ladder {
            Ladder::Localization => {
                if localization == 0.0 {
                    // beta moves until the mean cost is the cutoff; the mean is about y / beta.
                    let costs = stay.series(|o| o.cost);
                    let sd = crate::statistics::variance(&costs.concat()).sqrt() / self.cutoff;
                    let close = (0.3 * sd).clamp(0.01, 0.3);
                    if excess <= 1.0 + close {
                        return None;
                    }
                    let longest = if standard_error(&costs) < PRECISE * mean_cost { 2.0 * spacing } else { spacing };
                    let longest = self.stride(longest).exp().max(1.0 + close);
                    return Some(Rung { beta: beta * excess.min(longest), localization });
                }
                // On the way the cost may be higher than in the end: where the spring holds the chains, colder ones only move less.
                let warm = (self.spec.warmth * self.cutoff).min(self.start.prior_cost / COLD_SHARE).max(self.cutoff);
                if mean_cost > HOT * warm {
                    // First colder: chains that begin to melt would have to freeze again, which takes them long. And never both at once: each
                    // derivative is integrated over its own logarithm, as smooth as the other one leaves it.
                    return Some(Rung { beta: beta * (mean_cost / warm).clamp(1.0, LARGEST_FACTOR), localization });
                }
                let reduced = localization * (-spacing).exp();
                let localization = if reduced * self.sigma * self.sigma < LAST_LOCALIZATION { 0.0 } else { reduced };
                Some(Rung { beta, localization })
            }
            Ladder::Temperature => {
                if excess <= 1.0 {
                    return None;
                }
                let longest = self.stride(spacing);
                Some(Rung { beta: beta * longest.exp().min(excess.max(1.02)), localization })
            }
        }
    }
}

impl Walk for Schedule {
    fn next(&self) -> Option<Task> {
        if self.finished || self.failure.is_some() {
            return None;
        }
        let stay = self.stays.last()?;
        let origin = match (stay.phase, stay.rung, self.spec.ladder) {
            (Phase::Outward, 0, _) => Begin::Drawn,
            (Phase::Settle, _, Ladder::Temperature) => Begin::Anchor,
            _ => Begin::Here,
        };
        let begin = if stay.blocks == 0 { origin } else { Begin::Here };
        Some(Task {
            sequence: self.sequence,
            sweep: stay.sweep,
            phase: stay.phase,
            rung: stay.rung,
            block: stay.blocks,
            failed: stay.failed,
            point: stay.point,
            step: self.step,
            begin,
            origin,
        })
    }

    fn complete(&mut self, blocks: &[&Block]) {
        let Some(stay) = self.stays.last_mut() else { return };
        self.sequence += 1;
        let trajectories: usize = blocks.iter().map(|block| block.observations.len()).sum();
        let acceptance = blocks.iter().map(|b| b.acceptance * b.observations.len() as f64).sum::<f64>() / trajectories.max(1) as f64;
        let counts = stay.has_begun_by(blocks) && acceptance >= LEAST_ACCEPTANCE;
        stay.take(blocks, self.step, counts);
        if counts {
            stay.acceptance.push(acceptance);
            self.step *= (acceptance - self.spec.acceptance).exp();
        } else {
            self.step *= 0.5;
        }
        self.step = self.step.min(LONGEST_STEP);
        if self.step < SHORTEST_STEP {
            let other = match self.spec.ladder {
                Ladder::Localization => "; `ladder=temperature` ends earlier where states are either right or far too dear",
                Ladder::Temperature => "",
            };
            self.failure = Some(format!(
                "the step fell below {SHORTEST_STEP:e} radians at beta {:.3e}: the cost is not smooth there{other}",
                stay.point.beta
            ));
            return;
        }
        if self.is_over() {
            self.advance();
        }
    }
}

/// Least and most trajectories of a stay.
pub(super) fn lengths(spec: &AnnealedSpec, phase: Phase) -> (usize, usize) {
    let least = match phase {
        Phase::Settle => (spec.trajectories as usize).saturating_mul(spec.settle as usize),
        _ => spec.trajectories as usize,
    };
    (least, least.saturating_mul(spec.patience as usize))
}
