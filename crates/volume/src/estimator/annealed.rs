//! The annealed estimator: chains of weights between a density whose volume is known and the tilted prior at the cutoff.
//!
//! With `Delta(beta, gamma) = ln E[exp(-beta C)]` over the Gaussian part `N(m c, 1/a)` of the density `prior(w) exp(-beta C(w) -
//! gamma/2 |w - c|^2)`, the log-probability of `{C <= cutoff}` is `Delta(beta, 0)`, at the `beta` where the mean cost is the cutoff, and
//! what the tail of the cost's distribution there adds. A ladder of rungs `(beta, gamma)` leads from a strong spring `gamma`, where
//! `Delta` is found by independent draws, to none; beta is raised on the way so that the mean cost stays at the cutoff. Chains of
//! Hamiltonian Monte Carlo stay at every rung and measure the derivatives of `Delta`.
//!
//! The way outward lags behind equilibrium on one side, the way back inward on the other: their gap is part of the result. Sources:
//! Gelman & Meng 1998 (path sampling); Neal 2011 (Hamiltonian Monte Carlo); Grosse, Ghahramani & Adams 2015 (both directions).

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::coordinates::Coordinates;
use crate::direction::{NormalVector, dot};
use crate::interrupt::Interrupt;
use crate::objective::{Differentiable, ObjectiveError};
use crate::question::Question;
use crate::run::record::Record;
use crate::spec::{self, Anchor, AnnealedSpec, CoordinateChoice, Ladder, SetKind};
use crate::statistics::{log_mean_exp, mean, variance};

mod chain;
mod integral;
mod metric;
mod record;
mod relaxation;
mod result;
mod schedule;
pub mod states;
mod tail;
mod target;

pub use metric::Metrics;
pub use record::{AnnealedRecord, Block, Observation, Phase, Start};
pub use relaxation::Relaxation;
pub use result::{AnnealedEstimate, AnnealedResult, RungSummary};
pub use target::Rung;

use chain::{Chain, draw, squared};
use metric::{Frame, Metric};
use schedule::{Begin, Task};
use target::{Scratch, Target, Work};

/// The stream of random numbers that all chains share, beside one of each chain's number.
const COMMON: usize = 1 << 20;

/// Marks the key of the generator as belonging to chains.
const KEY_TAG: &[u8; 16] = b"basin annealings";
/// Numbers of normal vectors from here on are the draws of the start.
const START_DRAWS: u64 = 1 << 61;
/// Numbers of normal vectors from here on are those of chains.
const CHAIN_DRAWS: u64 = 1 << 62;
/// Draws whose mean cost places the first rung.
const PLACING_DRAWS: u64 = 4;
/// Draws that give the first rung's log-volume.
const FIRST_DRAWS: u64 = 64;
/// Draws for the place where one chain begins, until its cost is finite.
const BEGINNING_DRAWS: u64 = 256;

/// Why the estimator can't be set up, or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnnealedError {
    /// A setting is out of range.
    #[error("`{name}` is {value}: expected {expected}")]
    Setting {
        /// Name of the setting.
        name: &'static str,
        /// The given value.
        value: f64,
        /// What it has to be.
        expected: &'static str,
    },
    /// The prior is not Gaussian.
    #[error("the annealed estimator needs the Gaussian prior, whose mass is finite: choose `prior=gaussian`, or `estimator=radial`")]
    Prior,
    /// The objective failed.
    #[error(transparent)]
    Objective(#[from] ObjectiveError),
    /// Nothing is as good as the center: the cost is not under the cutoff there, or not however close the draws are.
    #[error("the mean cost of draws around the center stays above the cutoff however close they are: is the cost zero at the center?")]
    NoStart,
    /// No draw has a finite cost.
    #[error(
        "none of {draws} draws has a finite cost and gradient: a smaller `sigma` makes the prior narrower, and `ladder=localization` begins around the center"
    )]
    NoFiniteDraw {
        /// How many there were.
        draws: u64,
    },
    /// The star is seen from the center.
    #[error("the star is seen from the center: choose `anchor=center`, or `set_kind=basin`")]
    StarElsewhere,
    /// No state that a spring could be attached to was found.
    #[error(
        "after {trajectories} trajectories from the center the cost of the chain is {cost} and not under the cutoff: choose `anchor=center`, or `ladder=temperature`"
    )]
    NoRelaxation {
        /// Trajectories that were tried.
        trajectories: u64,
        /// Cost at the last state.
        cost: f64,
    },
    /// A metric is set, but nothing that computes it.
    #[error("a metric is set but there is nothing that knows curvatures away from the center: choose `metric=none`")]
    NoMetrics,
    /// Rotated coordinates are set, but nothing that knows them.
    #[error("rotated coordinates are set but the objective is a function of the weights: choose `coordinates=weights`")]
    NoCoordinates,
    /// A state that was kept has another length than the network.
    #[error("a kept state has {found} weights, but {expected} move: the folder belongs to another network")]
    State {
        /// Its length.
        found: usize,
        /// The dimension.
        expected: usize,
    },
    /// The keeper of records and states failed.
    #[error("{0}")]
    Keep(Box<dyn std::error::Error + Send + Sync>),
}

/// Where records and states go. A record counts once the states of its block are kept.
pub trait Keeper {
    /// Keeps the state of every chain after block number `sequence`; `settled` marks states at the wanted density, which are worth
    /// keeping for good. The states after block number `origin` are still needed.
    ///
    /// # Errors
    /// When it can't be written.
    fn keep_states(&mut self, sequence: u64, states: &[&[f32]], settled: bool, origin: Option<u64>) -> Result<(), AnnealedError>;

    /// The states after block number `sequence`, if they are kept.
    ///
    /// # Errors
    /// When they can't be read.
    fn states(&mut self, sequence: u64) -> Result<Option<Vec<Vec<f32>>>, AnnealedError>;

    /// Keeps the records of a block.
    ///
    /// # Errors
    /// When it can't be written.
    fn keep_records(&mut self, records: &[AnnealedRecord]) -> Result<(), AnnealedError>;

    /// Keeps how far the search of a state for the spring has come, and its state, in place of what was kept before.
    ///
    /// # Errors
    /// When it can't be written.
    fn keep_anchor(&mut self, progress: &Relaxation, state: &[f32]) -> Result<(), AnnealedError>;

    /// What [`Keeper::keep_anchor`] kept; without it the search begins again, and finds the same.
    ///
    /// # Errors
    /// When it can't be read.
    fn anchor(&mut self) -> Result<Option<(Relaxation, Vec<f32>)>, AnnealedError>;
}

/// A keeper that keeps records in memory and no states.
#[derive(Debug, Default)]
pub struct InMemory {
    /// The records so far.
    pub records: Vec<AnnealedRecord>,
}

impl Keeper for InMemory {
    fn keep_states(&mut self, _sequence: u64, _states: &[&[f32]], _settled: bool, _origin: Option<u64>) -> Result<(), AnnealedError> {
        Ok(())
    }

    fn states(&mut self, _sequence: u64) -> Result<Option<Vec<Vec<f32>>>, AnnealedError> {
        Ok(None)
    }

    fn keep_records(&mut self, records: &[AnnealedRecord]) -> Result<(), AnnealedError> {
        self.records.extend_from_slice(records);
        Ok(())
    }

    fn keep_anchor(&mut self, _progress: &Relaxation, _state: &[f32]) -> Result<(), AnnealedError> {
        Ok(())
    }

    fn anchor(&mut self) -> Result<Option<(Relaxation, Vec<f32>)>, AnnealedError> {
        Ok(None)
    }
}

/// What a run shows of itself on its way.
#[derive(Debug, Clone, Copy)]
pub enum AnnealedProgress<'a> {
    /// A state for the spring is searched.
    Relaxation(&'a Relaxation),
    /// The estimate after a block.
    Ladder(&'a AnnealedEstimate),
}

/// How a call of [`AnnealedEstimator::run`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnnealedEnd {
    /// Every sweep is complete, or the ladder was given up.
    Completed,
    /// The interrupt flag was raised.
    Interrupted,
}

/// The estimator.
#[derive(Clone)]
pub struct AnnealedEstimator<'a> {
    target: Target<'a>,
    question: Question,
    sigma: f64,
    spec: AnnealedSpec,
    metrics: Option<&'a dyn Metrics>,
    /// What the objective is a function of, when not of weights.
    coordinates: Option<&'a dyn Coordinates>,
    /// How the anchor was found, when by a chain of this run.
    relaxation: Option<Relaxation>,
}

impl std::fmt::Debug for AnnealedEstimator<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnnealedEstimator").field("question", &self.question).field("spec", &self.spec).finish_non_exhaustive()
    }
}

impl<'a> AnnealedEstimator<'a> {
    /// Checks the settings. `center` is the objective's.
    ///
    /// # Errors
    /// If the prior is not Gaussian or a setting is out of range.
    ///
    /// # Panics
    /// If `center` has another length than the dimension.
    pub fn new(
        objective: &'a dyn Differentiable,
        center: &'a [f32],
        question: Question,
        spec: AnnealedSpec,
    ) -> Result<Self, AnnealedError> {
        assert_eq!(center.len(), objective.dimension(), "as many coordinates of the center as dimensions");
        let sigma = Self::check(&question, &spec)?;
        let center_squared = dot(center, center);
        let star_points = spec.star_points.max(1);
        let set = spec.set_kind;
        let target = Target {
            objective,
            center,
            center_squared,
            anchor: center,
            anchor_squared: center_squared,
            sigma,
            l2_reg: question.l2_reg(),
            set,
            star_points,
        };
        Ok(Self { target, question, sigma, spec, metrics: None, coordinates: None, relaxation: None })
    }

    /// Attaches the spring to `anchor`, any point whose cost is less than the cutoff, instead of what [`AnnealedSpec::anchor`] says. Chains that
    /// forget it measure the same from everywhere.
    ///
    /// # Panics
    /// If it has another length than the dimension, or the star is to be measured, which is seen from the center.
    #[must_use]
    pub fn with_anchor(mut self, anchor: &'a [f32]) -> Self {
        assert_eq!(anchor.len(), self.target.center.len(), "as many coordinates of the anchor as dimensions");
        assert_eq!(self.target.set, SetKind::Basin, "the star is seen from the center");
        self.target.anchor = anchor;
        self.target.anchor_squared = dot(anchor, anchor);
        self.spec.anchor = Anchor::Center;
        self
    }

    /// Where the metric of [`AnnealedSpec::metric`] comes from, if one is set.
    #[must_use]
    pub fn with_metrics(self, metrics: &'a dyn Metrics) -> Self {
        Self { metrics: Some(metrics), ..self }
    }

    /// Says that the objective is a function of these coordinates (which must be the objective), whose stiff axes are measured in units of their own.
    /// The set is the basin, without a penalty; overlaps and distances are those of coordinates, and so are the states that are kept.
    ///
    /// # Panics
    /// For the star, whose ways from the center are straight in weights, with a penalty, or with a metric.
    #[must_use]
    pub fn with_coordinates(self, coordinates: &'a dyn Coordinates) -> Self {
        let AnnealedSpec { set_kind, metric, .. } = self.spec;
        assert!(set_kind == SetKind::Basin && metric == spec::Metric::None && self.question.l2_reg() == 0.0, "the basin alone");
        Self { coordinates: Some(coordinates), ..self }
    }

    /// Checks what is asked, before anything is computed, and returns the prior's sigma.
    ///
    /// # Errors
    /// If the prior is not Gaussian or a setting is out of range.
    pub fn check(question: &Question, spec: &AnnealedSpec) -> Result<f64, AnnealedError> {
        let sigma = question.sigma().ok_or(AnnealedError::Prior)?;
        let positive = |name, value: f64| {
            if value > 0.0 && value.is_finite() {
                Ok(())
            } else {
                Err(AnnealedError::Setting { name, value, expected: "a finite number > 0" })
            }
        };
        let at_least = |name, value: u32, least: u32, expected| {
            if value >= least { Ok(()) } else { Err(AnnealedError::Setting { name, value: f64::from(value), expected }) }
        };
        at_least("chains", spec.chains, 1, "a number from 1 to 255")?;
        if spec.chains > 255 {
            return Err(AnnealedError::Setting { name: "chains", value: f64::from(spec.chains), expected: "a number from 1 to 255" });
        }
        at_least("trajectories", spec.trajectories, 4, "a number from 4")?;
        at_least("patience", spec.patience, 1, "a number from 1")?;
        at_least("settle", spec.settle, 1, "a number from 1")?;
        at_least("block", spec.block, 1, "a number from 1 to 255")?;
        if spec.block > 255 {
            return Err(AnnealedError::Setting { name: "block", value: f64::from(spec.block), expected: "a number from 1 to 255" });
        }
        at_least("star_points", spec.star_points, 2, "a number from 2")?;
        positive("angle", spec.angle)?;
        if !(spec.spacing > 0.0 && spec.spacing <= 2.0) {
            return Err(AnnealedError::Setting { name: "spacing", value: spec.spacing, expected: "a number > 0 and <= 2" });
        }
        if !(spec.warmth >= 1.0 && spec.warmth.is_finite()) {
            return Err(AnnealedError::Setting { name: "warmth", value: spec.warmth, expected: "a finite number >= 1" });
        }
        if !(spec.acceptance > 0.2 && spec.acceptance < 1.0) {
            return Err(AnnealedError::Setting { name: "acceptance", value: spec.acceptance, expected: "a number between 0.2 and 1" });
        }
        if spec.anchor == Anchor::Settled && spec.set_kind == SetKind::Star {
            return Err(AnnealedError::StarElsewhere);
        }
        if !(spec.tolerance >= 0.0 && spec.tolerance.is_finite()) {
            return Err(AnnealedError::Setting { name: "tolerance", value: spec.tolerance, expected: "a finite number >= 0" });
        }
        Ok(sigma)
    }

    /// `||c||^2`.
    #[must_use]
    pub fn center_norm_squared(&self) -> f64 {
        self.target.center_squared
    }

    /// Goes on from `records` until `sweeps` are complete or `interrupt` is raised. `observe` is called after every block.
    ///
    /// # Errors
    /// If the objective or the keeper fails.
    pub fn run(
        &self,
        sweeps: u32,
        records: &[AnnealedRecord],
        keeper: &mut dyn Keeper,
        interrupt: &Interrupt,
        observe: &mut dyn FnMut(AnnealedProgress<'_>),
    ) -> Result<AnnealedEnd, AnnealedError> {
        if self.spec.metric != spec::Metric::None && self.metrics.is_none() {
            return Err(AnnealedError::NoMetrics);
        }
        if self.spec.coordinates == CoordinateChoice::Rotated && self.coordinates.is_none() {
            return Err(AnnealedError::NoCoordinates);
        }
        if self.spec.is_anchor_settled() {
            let found = self.relax(keeper, interrupt, &mut |progress| observe(AnnealedProgress::Relaxation(progress)))?;
            let Some((relaxation, state)) = found else { return Ok(AnnealedEnd::Interrupted) };
            let around = AnnealedEstimator { relaxation: Some(relaxation), ..self.clone() }.with_anchor(&state);
            return around.run(sweeps, records, keeper, interrupt, observe);
        }
        let start = match AnnealedRecord::start_of(records) {
            Some(start) => start,
            None => {
                let start = self.start(interrupt)?;
                let Some(start) = start else { return Ok(AnnealedEnd::Interrupted) };
                keeper.keep_records(&[AnnealedRecord::Start(start)])?;
                start
            }
        };
        let mut schedule = result::replay(&self.spec, &self.question, self.sigma, sweeps, &start, records);
        let mut chains: Vec<Chain> = Vec::new();
        let mut metric: Option<Metric> = None;
        let pools = self.pools()?;
        let present: BTreeSet<u64> = records.iter().map(Record::index).collect();
        while let Some(task) = schedule.next() {
            if interrupt.is_raised() {
                return Ok(AnnealedEnd::Interrupted);
            }
            if task.begin != Begin::Here {
                chains = self.chains_at(self.beginning(&task)?, task.point.beta)?;
            } else if chains.is_empty() {
                // A run that goes on, from the states of the block before.
                chains = self.chains_at(self.kept(keeper, task.sequence.checked_sub(1))?, task.point.beta)?;
                if task.block > 0 && (self.coordinates.is_some() || self.maps().is_some()) {
                    let origin = if task.origin == Begin::Here { self.kept(keeper, task.before())? } else { self.beginning(&task)? };
                    metric = self.metric(task.point, &origin.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
                }
            }
            if task.block == 0 {
                metric = self.metric(task.point, &chains.iter().map(|chain| chain.weights.as_slice()).collect::<Vec<_>>())?;
            }
            let mut blocks = self.block(&task, &mut chains, metric.as_ref(), &pools)?;
            if let Some(metric) = metric.as_ref().filter(|_| task.block == 0) {
                blocks.iter_mut().for_each(|block| block.gradients += metric.gradients());
            }
            let states: Vec<&[f32]> = chains.iter().map(|chain| chain.weights.as_slice()).collect();
            keeper.keep_states(task.sequence, &states, task.phase == Phase::Settle, task.before())?;
            // A kill between the records of a block's chains leaves some of them, which come out again as they are.
            let missing = blocks.iter().filter(|block| !present.contains(&block.index));
            let kept: Vec<AnnealedRecord> = missing.cloned().map(AnnealedRecord::Block).collect();
            keeper.keep_records(&kept)?;
            schedule.complete(&blocks.iter().collect::<Vec<_>>());
            observe(AnnealedProgress::Ladder(&AnnealedEstimate::from_schedule(&schedule, &start)));
        }
        Ok(AnnealedEnd::Completed)
    }

    /// Places the first rung: draws from the Gaussian part have a mean cost of about a quarter of the cutoff (for the temperature
    /// ladder, they are draws from the prior).
    fn start(&self, interrupt: &Interrupt) -> Result<Option<Start>, AnnealedError> {
        let cutoff = self.question.cutoff();
        let prior = 1.0 / (self.sigma * self.sigma);
        let mut work = Work::default();
        let mut costs = |localization: f64, draws: std::ops::Range<u64>| -> Result<Vec<f64>, AnnealedError> {
            let rung = Rung { beta: 0.0, localization };
            let one = |number: u64| -> Result<(f64, Work), ObjectiveError> {
                let (mut weights, mut scratch, mut work) = (vec![0.0f32; self.target.center.len()], Scratch::default(), Work::default());
                draw(&self.target, rung, self.normal(START_DRAWS + number), &mut weights);
                let cost = self.target.cost(&weights, &mut scratch, &mut work)?;
                Ok((if cost.is_nan() { f64::INFINITY } else { cost }, work))
            };
            // In other coordinates every evaluation keeps all activations: one at a time, which the threads share.
            let results: Vec<(f64, Work)> = match self.coordinates {
                Some(_) => draws.map(one).collect::<Result<_, _>>()?,
                None => draws.into_par_iter().map(one).collect::<Result<_, _>>()?,
            };
            results.iter().for_each(|(_, own)| work.add(*own));
            Ok(results.into_iter().map(|(cost, _)| cost).collect())
        };
        let prior_cost = mean(&costs(0.0, 0..PLACING_DRAWS)?);
        let anchor_cost = self.target.cost(self.target.anchor, &mut Scratch::default(), &mut Work::default())?;
        // Zero, unless the spring is not where the objective's center is; NaN is no start either.
        if !is_under(anchor_cost, cutoff) {
            return Err(AnnealedError::NoStart);
        }
        let mut localization = 0.0;
        if self.spec.ladder == Ladder::Localization && prior_cost - anchor_cost > 0.5 * cutoff {
            let (mut low, mut high) = (0.0, f64::INFINITY);
            localization = prior;
            loop {
                if interrupt.is_raised() {
                    return Ok(None);
                }
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
        let finite: Vec<f64> = costs.iter().copied().filter(|cost| cost.is_finite()).collect();
        if finite.is_empty() {
            return Err(AnnealedError::NoFiniteDraw { draws: FIRST_DRAWS });
        }
        let deviation = variance(&finite).sqrt();
        let mean_cost = mean(&finite);
        // Costs that are next to nothing beside the cutoff need not be told apart.
        let beta = 0.5 / deviation.max(1e-6 * mean_cost).max(1e-6 * cutoff);
        let exponents: Vec<f64> = costs.iter().map(|cost| -beta * cost).collect();
        let factors: Vec<f64> = exponents.iter().map(|e| (e + beta * mean_cost).exp()).collect();
        let error = (variance(&factors) / factors.len() as f64).sqrt() / mean(&factors);
        let log_laplace = log_mean_exp(&exponents);
        Ok(Some(Start {
            beta,
            localization,
            log_laplace,
            error,
            mean_cost,
            prior_cost,
            evaluations: work.evaluations,
            anchor: self.relaxation,
        }))
    }

    fn normal(&self, number: u64) -> NormalVector {
        NormalVector::new(self.question.seed(), number, self.target.center.len())
    }

    /// Where the chains of a stay begin that do not go on from the one before. Draws with a cost that is not finite are drawn again: a chain would
    /// never leave such a place.
    fn beginning(&self, task: &Task) -> Result<Vec<Vec<f32>>, AnnealedError> {
        let fresh = (0..u64::from(self.spec.chains)).into_par_iter().map(|chain| {
            if task.origin == Begin::Anchor {
                return Ok(self.target.anchor.to_vec());
            }
            let (mut weights, mut slope, mut scratch) =
                (vec![0.0f32; self.target.center.len()], vec![0.0f32; self.target.center.len()], Scratch::default());
            for attempt in 0..BEGINNING_DRAWS {
                let number = START_DRAWS + (1 << 32) + ((u64::from(task.sweep) << 20) | (attempt << 8) | chain);
                draw(&self.target, task.point, self.normal(number), &mut weights);
                let cost = self.target.evaluate(&weights, task.point.beta, &mut slope, &mut scratch, &mut Work::default())?;
                if cost.is_finite() && squared(&slope).is_finite() {
                    return Ok(weights);
                }
            }
            Err(AnnealedError::NoFiniteDraw { draws: BEGINNING_DRAWS })
        });
        fresh.collect()
    }

    /// The states after a block.
    fn kept(&self, keeper: &mut dyn Keeper, sequence: Option<u64>) -> Result<Vec<Vec<f32>>, AnnealedError> {
        let kept = match sequence {
            Some(sequence) => keeper.states(sequence)?,
            None => None,
        };
        let Some(states) = kept.filter(|states| states.len() == self.spec.chains as usize) else {
            return Err(AnnealedError::Keep("the states of the chains are missing: begin again in a new folder".into()));
        };
        match states.iter().find(|state| state.len() != self.target.center.len()) {
            Some(state) => Err(AnnealedError::State { found: state.len(), expected: self.target.center.len() }),
            None => Ok(states),
        }
    }

    fn chains_at(&self, states: Vec<Vec<f32>>, beta: f64) -> Result<Vec<Chain>, AnnealedError> {
        Ok(states.into_par_iter().map(|state| Chain::at(state, &self.target, beta)).collect::<Result<_, _>>()?)
    }

    /// Where metrics come from, if one is set.
    fn maps(&self) -> Option<&'a dyn Metrics> {
        self.metrics.filter(|_| self.spec.metric != spec::Metric::None)
    }

    /// What the chains' coordinates are stretched by while they stay at a point, from the states in which they begin.
    fn metric(&self, point: Rung, states: &[&[f32]]) -> Result<Option<Metric>, ObjectiveError> {
        let sigma = self.sigma;
        match (self.coordinates, self.maps()) {
            (Some(coordinates), _) => Metric::of_axes(coordinates, states, point, sigma).map(Some),
            (None, Some(metrics)) => Metric::at(metrics, states, point, sigma).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// All chains' trajectories of one block.
    fn block(&self, task: &Task, chains: &mut [Chain], metric: Option<&Metric>, pools: &[ThreadPool]) -> Result<Vec<Block>, AnnealedError> {
        let count = self.spec.chains as usize;
        let frame = Frame::new(task.point, self.sigma, metric);
        let work = |number: usize, chain: &mut Chain| -> Result<Block, ObjectiveError> {
            let mut rng = self.uniforms(task.sequence, number);
            // All chains have trajectories of the same lengths: those that run side by side end at the same time.
            let mut lengths = self.uniforms(task.sequence, COMMON);
            let mut step = task.step;
            let (mut acceptance, mut diverged, mut not_finite) = (Vec::new(), 0, 0);
            let (mut work, mut observations) = (Work::default(), Vec::new());
            for trajectory in 0..self.spec.block {
                let angle = self.spec.angle * (0.5 + uniform(&mut lengths));
                let leapfrogs = ((angle / step).ceil() as usize).max(1);
                let momentum = self.normal(CHAIN_DRAWS + ((task.sequence << 20) | ((number as u64) << 8) | u64::from(trajectory)));
                let outcome =
                    chain.trajectory(&self.target, task.point, &frame, (step, leapfrogs), (momentum, uniform(&mut rng)), &mut work)?;
                acceptance.push(outcome.acceptance);
                diverged += u32::from(outcome.diverged);
                if outcome.not_finite {
                    not_finite += 1;
                    step *= 0.5;
                }
                observations.push(chain.observe(&self.target, task.point, &mut work)?);
            }
            Ok(Block {
                index: 1 + task.sequence * count as u64 + number as u64,
                sweep: task.sweep,
                phase: task.phase,
                rung: task.rung as u32,
                block: task.block,
                chain: number as u32,
                beta: task.point.beta,
                localization: task.point.localization,
                step: task.step,
                acceptance: mean(&acceptance),
                diverged,
                not_finite,
                gradients: work.gradients,
                evaluations: work.evaluations,
                observations,
            })
        };
        let [pool] = pools else {
            let queue = Mutex::new(chains.iter_mut().enumerate());
            let done: Vec<Mutex<Option<Result<Block, ObjectiveError>>>> = (0..count).map(|_| Mutex::new(None)).collect();
            std::thread::scope(|scope| {
                for pool in pools {
                    let (queue, done, work) = (&queue, &done, &work);
                    scope.spawn(move || {
                        loop {
                            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                            let Some((number, chain)) = next else { break };
                            let block = pool.install(|| work(number, chain));
                            *done[number].lock().unwrap_or_else(PoisonError::into_inner) = Some(block);
                        }
                    });
                }
            });
            let lost = || ObjectiveError::new("a chain was lost");
            let blocks =
                done.into_iter().map(|block| block.into_inner().unwrap_or_else(PoisonError::into_inner).unwrap_or_else(|| Err(lost())));
            return Ok(blocks.collect::<Result<_, _>>()?);
        };
        Ok(pool.install(|| chains.iter_mut().enumerate().map(|(number, chain)| work(number, chain)).collect::<Result<_, _>>())?)
    }

    /// Threads of the current pool, shared out among as many chains as can run side by side: threads of one pool that work on several
    /// chains would steal each other's small pieces of work all the time.
    fn pools(&self) -> Result<Vec<ThreadPool>, AnnealedError> {
        let threads = rayon::current_num_threads();
        let workers = threads.min(self.spec.chains as usize);
        (0..workers)
            .map(|worker| ThreadPoolBuilder::new().num_threads(threads / workers + usize::from(worker < threads % workers)).build())
            .collect::<Result<_, _>>()
            .map_err(|error| AnnealedError::Keep(format!("cannot start the worker threads: {error}").into()))
    }

    fn uniforms(&self, sequence: u64, chain: usize) -> ChaCha8Rng {
        let mut key = [0u8; 32];
        key[..8].copy_from_slice(&self.question.seed().to_le_bytes());
        key[8..16].copy_from_slice(&sequence.to_le_bytes());
        key[16..].copy_from_slice(KEY_TAG);
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(chain as u64);
        rng
    }
}

/// A number in `[0, 1)`.
fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Whether a cost is less than the cutoff; NaN is not.
fn is_under(cost: f64, cutoff: f64) -> bool {
    cost < cutoff
}

#[cfg(test)]
mod tests;
