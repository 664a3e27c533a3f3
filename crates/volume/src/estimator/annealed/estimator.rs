//! The estimator itself: along the ladder, block by block.

use std::borrow::Cow;

use rayon::prelude::*;

use super::chain::Chain;
use super::error::AnnealedError;
use super::keeper::Keeper;
use super::measured_cost::{MeasuredCost, Point, StarOfWeights};
use super::metric::{ChainMetric, Metrics};
use super::record::{AnnealedRecord, Block, Relaxation, Start};
use super::result::{AnnealedEstimate, replay};
use super::rung::Rung;
use super::schedule::{Schedule, Task};
use super::settings::check;
use super::walk::Walk;
use crate::center::Center;
use crate::coordinates::Coordinates;
use crate::guarded::Guarded;
use crate::interrupt::Interrupt;
use crate::objective::{Differentiable, ObjectiveError};
use crate::question::Question;
use crate::random::{Draws, NormalVector, Purpose};
use crate::spec::{Anchor, AnnealedSpec, CoordinateChoice, SetKind};
use crate::vectors::{Vector, View};

/// The stream of random numbers that all chains share, beside one of each chain's number.
pub(super) const ALL_CHAINS: u32 = 1 << 20;

/// What a run shows of itself on its way.
#[derive(Debug, Clone, Copy)]
pub enum AnnealedProgress<'a> {
    /// A state for the spring is searched.
    Relaxation(&'a Relaxation),
    /// The estimate after a block.
    Ladder(&'a AnnealedEstimate),
}

/// What is known of a ladder.
struct Known {
    schedule: Schedule,
    /// For every state that the spring has been attached to.
    starts: Vec<Start>,
}

/// The sweeps of a ladder as long as the spring is attached to one of its states.
struct AroundAnchor<'a> {
    schedule: &'a mut Schedule,
    number: usize,
}

impl Walk for AroundAnchor<'_> {
    fn next(&self) -> Option<Task> {
        self.schedule.next().filter(|task| self.schedule.spec.anchor_of(task.sweep) == self.number)
    }

    fn complete(&mut self, blocks: &[&Block]) {
        self.schedule.complete(blocks);
    }
}

/// How a run of chains ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnnealedEnd {
    /// Everything asked for is complete, or the run was given up.
    Completed,
    /// The interrupt was raised.
    Interrupted,
}

/// The estimator.
#[derive(Clone)]
pub struct AnnealedEstimator<'a> {
    pub(in crate::estimator) measured: MeasuredCost<'a>,
    pub(super) question: Question,
    pub(super) sigma: f64,
    pub(super) spec: AnnealedSpec,
    pub(super) metrics: Option<&'a dyn Metrics>,
    /// What the objective is a function of, when not of weights.
    pub(super) coordinates: Option<&'a dyn Coordinates>,
    /// How the anchor was found, when by a chain of this run.
    pub(super) relaxation: Option<Relaxation>,
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
        let sigma = check(&question, &spec)?;
        Ok(Self::of_density(objective, center, question, sigma, spec))
    }

    /// Chains of a density whose Gaussian part has this sigma, infinite where the spring alone is; nothing is checked.
    pub(in crate::estimator) fn of_density(
        objective: &'a dyn Differentiable,
        center: &'a [f32],
        question: Question,
        sigma: f64,
        spec: AnnealedSpec,
    ) -> Self {
        assert_eq!(center.len(), objective.dimension(), "as many coordinates of the center as dimensions");
        let center = Point::new(center);
        let star_points = spec.star_points.max(1);
        let set = spec.set_kind;
        let l2_reg = question.l2_reg();
        let measured = MeasuredCost { objective, center, anchor: center, sigma, l2_reg, set, star_points, of_weights: None };
        Self { measured, question, sigma, spec, metrics: None, coordinates: None, relaxation: None }
    }

    /// Attaches the spring to `anchor`, any point whose cost is less than the cutoff, instead of what [`AnnealedSpec::anchor`] says. Chains that
    /// forget it measure the same from everywhere.
    ///
    /// # Panics
    /// If it has another length than the dimension, or the star is to be measured, which is seen from the center.
    #[must_use]
    pub fn with_anchor(self, anchor: &'a [f32]) -> Self {
        let mut attached = self.attached_to(anchor);
        attached.spec.anchor = Anchor::Center;
        attached
    }

    /// The spring at `anchor`.
    fn attached_to(mut self, anchor: &'a [f32]) -> Self {
        assert_eq!(anchor.len(), self.measured.center.values.len(), "as many coordinates of the anchor as dimensions");
        assert_eq!(self.measured.set, SetKind::Basin, "the star is seen from the center");
        self.measured.anchor = Point::new(anchor);
        self
    }

    /// Where the metric of [`AnnealedSpec::metric`] comes from, if one is set.
    #[must_use]
    pub fn with_metrics(self, metrics: &'a dyn Metrics) -> Self {
        Self { metrics: Some(metrics), ..self }
    }

    /// Says that the objective is a function of these coordinates (which must be the objective), whose stiff axes are measured in units of their own,
    /// or which the metric stretches, if one is set: its states are coordinates then.
    /// Overlaps and distances are those of coordinates, and so are the states that are kept.
    ///
    /// # Panics
    /// With a penalty; for the star, if the coordinates cannot follow [straight](Coordinates::straight) ways.
    #[must_use]
    pub fn with_coordinates(self, coordinates: &'a dyn Coordinates) -> Self {
        assert_eq!(self.question.l2_reg(), 0.0, "without a penalty");
        assert!(self.spec.set_kind == SetKind::Basin || coordinates.straight().is_some(), "the star's ways are straight");
        Self { coordinates: Some(coordinates), ..self }
    }

    /// Checks what is asked, before anything is computed, and returns the prior's sigma.
    ///
    /// # Errors
    /// If the prior is not Gaussian or a setting is out of range.
    pub fn check(question: &Question, spec: &AnnealedSpec) -> Result<f64, AnnealedError> {
        check(question, spec)
    }

    /// `||c||^2`.
    #[must_use]
    pub fn center_norm_squared(&self) -> f64 {
        self.measured.center.squared
    }

    /// Goes on from `records` until `sweeps` are complete or `interrupt` is raised, which ends the run within the evaluations that are begun: the
    /// trajectories that are done are kept. `observe` is called after every block.
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
        if self.spec.has_metric() && self.metrics.is_none() {
            return Err(AnnealedError::NoMetrics);
        }
        if self.spec.coordinates == CoordinateChoice::Rotated && self.coordinates.is_none() {
            return Err(AnnealedError::NoCoordinates);
        }
        self.until_interrupted(interrupt, |guarded| guarded.anchor_and_climb(sweeps, records, keeper, observe))
    }

    /// Does what chains do with a cost that the interrupt stops, and points that are where it is computed.
    pub(in crate::estimator) fn until_interrupted(
        &self,
        interrupt: &Interrupt,
        work: impl FnOnce(&AnnealedEstimator<'_>) -> Result<(), AnnealedError>,
    ) -> Result<AnnealedEnd, AnnealedError> {
        let objective = Guarded::new(self.measured.objective, interrupt);
        let coordinates = self.coordinates.map(|coordinates| Guarded::new(coordinates, interrupt));
        let straight = self.coordinates.filter(|_| self.measured.set == SetKind::Star).and_then(Coordinates::straight);
        let of_weights = straight.map(|straight| Guarded::new(straight.cost_of_weights(), interrupt));
        let mut center_of_weights = Vec::new();
        if let Some(cost) = &of_weights {
            center_of_weights.resize(cost.dimension(), 0.0);
            cost.center(0..center_of_weights.len(), &mut center_of_weights);
        }
        let of_weights = straight.zip(of_weights.as_ref()).map(|(coordinates, objective)| StarOfWeights {
            coordinates,
            objective,
            center: Point::new(&center_of_weights),
        });
        let measured = MeasuredCost { objective: &objective, of_weights, ..self.measured };
        let mut copies = [None, None];
        let [of_center, of_anchor] = &mut copies;
        let center = measured.here(measured.center, of_center)?;
        let anchor = if measured.center.here.is(measured.anchor.here) { center } else { measured.here(measured.anchor, of_anchor)? };
        let guarded = AnnealedEstimator {
            measured: MeasuredCost { center, anchor, ..measured },
            coordinates: coordinates.as_ref().map(|guarded| guarded as &dyn Coordinates),
            ..self.clone()
        };
        match work(&guarded) {
            Ok(()) => Ok(AnnealedEnd::Completed),
            Err(error) if error.is_interrupt() => Ok(AnnealedEnd::Interrupted),
            Err(error) => Err(error),
        }
    }

    /// Finds where the spring is attached, then runs the ladder. An interrupt is an error.
    fn anchor_and_climb(
        &self,
        sweeps: u32,
        records: &[AnnealedRecord],
        keeper: &mut dyn Keeper,
        observe: &mut dyn FnMut(AnnealedProgress<'_>),
    ) -> Result<(), AnnealedError> {
        let starts = AnnealedRecord::starts_of(records);
        let mut ladder = starts
            .first()
            .copied()
            .map(|first| Known { schedule: replay(&self.spec, &self.question, self.sigma, sweeps, &first, records), starts });
        loop {
            let number = match ladder.as_ref().map(|known| known.schedule.next()) {
                None => 0,
                Some(Some(task)) => self.spec.anchor_of(task.sweep),
                Some(None) => return Ok(()),
            };
            if !self.spec.is_anchor_settled() {
                return self.climb(number, sweeps, &mut ladder, records, keeper, observe);
            }
            let (relaxation, state) = self.relax(number, keeper, &mut |progress| observe(AnnealedProgress::Relaxation(progress)))?;
            let mut around = AnnealedEstimator { relaxation: Some(relaxation), ..self.clone() }.attached_to(&state);
            let mut copy = None;
            around.measured.anchor = around.measured.here(around.measured.anchor, &mut copy)?;
            around.climb(number, sweeps, &mut ladder, records, keeper, observe)?;
        }
    }

    /// The ladder, block by block, as long as the spring is attached to the state of this number.
    fn climb(
        &self,
        number: usize,
        sweeps: u32,
        ladder: &mut Option<Known>,
        records: &[AnnealedRecord],
        keeper: &mut dyn Keeper,
        observe: &mut dyn FnMut(AnnealedProgress<'_>),
    ) -> Result<(), AnnealedError> {
        let Known { schedule, starts } = match ladder {
            Some(known) => known,
            None => {
                let start = self.start()?;
                keeper.keep_records(&[AnnealedRecord::Start(start)])?;
                let schedule = Schedule::new(&self.spec, &self.question, self.sigma, sweeps, &start);
                ladder.insert(Known { schedule, starts: vec![start] })
            }
        };
        if starts.len() <= number {
            let start = self.start_again(&starts[0], number)?;
            keeper.keep_records(&[AnnealedRecord::of_anchor(number, start)])?;
            starts.push(start);
        }
        let mut around = AroundAnchor { schedule, number };
        self.walk(&mut around, records, keeper, &mut |around| {
            observe(AnnealedProgress::Ladder(&AnnealedEstimate::from_schedule(around.schedule, starts)));
        })
    }

    /// Normals for the start of a chain, or of the ladder.
    pub(super) fn start_draw(&self, number: u64) -> NormalVector {
        NormalVector::new(Purpose::Starts, self.question.seed(), number, self.measured.center.values.len())
    }

    /// The velocity that a trajectory begins with.
    pub(super) fn momentum(&self, number: u64) -> NormalVector {
        NormalVector::new(Purpose::Momenta, self.question.seed(), number, self.measured.center.values.len())
    }

    /// The uniform numbers of one chain in a block, or of all chains ([`ALL_CHAINS`]).
    pub(super) fn steps(&self, sequence: u64, chain: u32) -> Draws {
        Draws::new(Purpose::Steps, self.question.seed(), sequence, chain)
    }

    /// Evaluates several things side by side; on a device one after the other, where the activations of one gradient may be all that fits.
    pub(super) fn each<T: Send, R: Send, E: Send>(
        &self,
        items: Vec<T>,
        one: impl Fn(T) -> Result<R, E> + Sync + Send,
    ) -> Result<Vec<R>, E> {
        if self.measured.vectors().are_slices() { items.into_par_iter().map(one).collect() } else { items.into_iter().map(one).collect() }
    }

    /// The state of a chain, in the computer's memory.
    pub(super) fn state_of<'c>(&self, chain: &'c Chain) -> Result<Cow<'c, [f32]>, ObjectiveError> {
        Ok(match chain.weights.view() {
            View::Slice(values) => Cow::Borrowed(values),
            foreign @ View::Foreign(_) => Cow::Owned(self.read(foreign)?),
        })
    }

    /// A vector's coordinates.
    pub(super) fn values_of(&self, vector: Vector) -> Result<Vec<f32>, ObjectiveError> {
        match vector {
            Vector::Slice(values) => Ok(values),
            foreign @ Vector::Foreign(_) => self.read(foreign.view()),
        }
    }

    fn read(&self, vector: View<'_>) -> Result<Vec<f32>, ObjectiveError> {
        let mut values = vec![0.0f32; self.measured.center.values.len()];
        self.measured.vectors().read(vector, &mut values)?;
        Ok(values)
    }

    /// Whether something computes metrics.
    pub(in crate::estimator) fn has_metrics(&self) -> bool {
        self.metrics.is_some()
    }

    /// Where metrics come from, if one is set.
    pub(super) fn maps(&self) -> Option<&'a dyn Metrics> {
        self.metrics.filter(|_| self.spec.has_metric())
    }

    /// What the chains' coordinates are stretched by while they stay at a point, from the states in which they begin.
    pub(super) fn metric(&self, point: Rung, states: &[&[f32]]) -> Result<Option<ChainMetric>, ObjectiveError> {
        let sigma = self.sigma;
        match (self.maps(), self.coordinates) {
            (Some(metrics), _) => ChainMetric::at(metrics, states, point, sigma, self.measured.vectors()).map(Some),
            (None, Some(coordinates)) => ChainMetric::of_axes(coordinates, states, point, sigma).map(Some),
            (None, None) => Ok(None),
        }
    }
}
