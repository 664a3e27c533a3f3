//! The estimator itself.

use super::density::{Density, moves};
use super::error::LlcError;
use super::record::{CenterCost, LlcRecord};
use super::result::{LlcEstimate, replay};
use crate::estimator::annealed::measured_cost::{Scratch, Work};
use crate::estimator::annealed::{AnnealedEnd, AnnealedError, AnnealedEstimator, Keeper, Metrics};
use crate::interrupt::Interrupt;
use crate::objective::Differentiable;
use crate::question::Question;
use crate::spec::LlcSpec;

/// The estimator of the local learning coefficient.
#[derive(Debug, Clone)]
pub struct LlcEstimator<'a> {
    /// The chains, which stay at one rung.
    chains: AnnealedEstimator<'a>,
    density: Density,
    spec: LlcSpec,
}

impl<'a> LlcEstimator<'a> {
    /// Checks the settings. `center` is the objective's.
    ///
    /// # Errors
    /// If a setting is out of range, or nothing says what `n_beta` or the localization is.
    ///
    /// # Panics
    /// If `center` has another length than the dimension.
    pub fn new(objective: &'a dyn Differentiable, center: &'a [f32], question: Question, spec: LlcSpec) -> Result<Self, LlcError> {
        let density = Density::of(&question, &spec)?;
        let chains = AnnealedEstimator::of_density(objective, center, question, density.sigma, moves(&spec));
        Ok(Self { chains, density, spec })
    }

    /// Where the metric of [`LlcSpec::metric`] comes from, if one is set.
    #[must_use]
    pub fn with_metrics(self, metrics: &'a dyn Metrics) -> Self {
        Self { chains: self.chains.with_metrics(metrics), ..self }
    }

    /// Checks what is asked, before anything is computed.
    ///
    /// # Errors
    /// As [`LlcEstimator::new`].
    pub fn check(question: &Question, spec: &LlcSpec) -> Result<(), LlcError> {
        Density::of(question, spec).map(|_| ())
    }

    /// `||c||^2`.
    #[must_use]
    pub fn center_norm_squared(&self) -> f64 {
        self.chains.center_norm_squared()
    }

    /// Goes on from `records` until `rounds` are complete or `interrupt` is raised, which ends the run within the evaluations that are begun: the
    /// trajectories that are done are kept. `observe` is called now and then, at most after every block.
    ///
    /// # Errors
    /// If the objective or the keeper fails, or the cost at the center is not finite.
    pub fn run(
        &self,
        rounds: u32,
        records: &[LlcRecord],
        keeper: &mut dyn Keeper<LlcRecord>,
        interrupt: &Interrupt,
        observe: &mut dyn FnMut(&LlcEstimate),
    ) -> Result<AnnealedEnd, LlcError> {
        if self.spec.has_metric() && !self.chains.has_metrics() {
            return Err(AnnealedError::NoMetrics.into());
        }
        let dimension = self.chains.measured.center.values.len();
        let mut bad_center = None;
        let end = self.chains.until_interrupted(interrupt, |chains| {
            let center_cost = match LlcRecord::center_of(records) {
                Some(cost) => cost,
                None => {
                    let measured = &chains.measured;
                    let cost = measured.cost(measured.center.here, &mut Scratch::default(), &mut Work::default())?;
                    if !cost.is_finite() {
                        bad_center = Some(cost);
                        return Ok(());
                    }
                    keeper.keep_records(&[LlcRecord::Center(CenterCost { cost })])?;
                    cost
                }
            };
            let mut schedule = replay(&self.spec, self.density, center_cost, rounds, records);
            chains.walk(&mut schedule, records, keeper, &mut |schedule| {
                if schedule.is_look() {
                    observe(&LlcEstimate::from_schedule(&self.spec, self.density, schedule, dimension));
                }
            })
        })?;
        match bad_center {
            Some(cost) => Err(LlcError::Center(cost)),
            None => Ok(end),
        }
    }
}
