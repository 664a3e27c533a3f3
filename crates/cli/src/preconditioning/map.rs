//! Which map makes factors of curvatures: what `--exponent`, `--eps` and `--damping` mean.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use basin_volume::estimator::matching::{Matching, matched_damping};
use basin_volume::preconditioner::{CurvatureMap, Damping, Diagonal, DiagonalMap, Preconditioner, PreconditionerError};
use basin_volume::prior::Prior;
use basin_volume::saddle_point::{Mode, QuadraticCost};
use basin_volume::spec::Proposal;
use basin_volume_models::curvature::kinds;
use rayon::ThreadPoolBuilder;

use crate::args::{DampingChoice, RayArgs};
use crate::curvature::Session;
use crate::error::CommandError;
use crate::problem::{Interruptible, Problem};
use crate::target::eprintln_status;

/// A map with one damping.
pub type Built = Result<Arc<dyn Preconditioner>, PreconditionerError>;

/// Exponent and eps of the reference's notebook on the digits network.
const DIGITS_MAP: DiagonalMap = DiagonalMap { exponent: 0.3, eps: 2e-3 };

/// The flags, checked, with what automatic damping needs.
pub struct Maps<'a> {
    problem: &'a Problem,
    power: DiagonalMap,
    is_power_given: bool,
    damping: Option<DampingChoice>,
    rays: &'a RayArgs,
    session: &'a Session<'a>,
    proposal: Proposal,
}

impl<'a> Maps<'a> {
    /// Checks the flags.
    pub fn new(problem: &'a Problem, rays: &'a RayArgs, session: &'a Session<'a>, proposal: Proposal) -> Result<Self, CommandError> {
        let default = if problem.model.is_builtin { DIGITS_MAP } else { DiagonalMap::default() };
        let power = DiagonalMap { exponent: rays.exponent.unwrap_or(default.exponent), eps: rays.eps.unwrap_or(default.eps) };
        power.validate().map_err(|error| CommandError::usage(error.to_string()))?;
        let is_power_given = rays.exponent.is_some() || rays.eps.is_some();
        Ok(Self { problem, power, is_power_given, damping: rays.damping, rays, session, proposal })
    }

    /// Refuses flags that no curvature can be mapped with, before it is computed.
    pub fn check_curvature(&self, kind: &str) -> Result<(), CommandError> {
        if kind == kinds::LOW_RANK {
            self.check_damping_only(kind)?;
        }
        if !self.is_power_given && !matches!(self.damping, Some(DampingChoice::Value(_))) {
            self.sigma_for_auto()?;
        }
        Ok(())
    }

    /// Refuses flags that make factors of curvatures where the file gives the covariance itself.
    pub fn check_moments(&self, source: &str) -> Result<(), CommandError> {
        if self.is_power_given || self.damping.is_some() {
            return Err(CommandError::usage(format!(
                "--exponent, --eps and --damping are for curvatures, but {source} gives a covariance: leave them out"
            )));
        }
        Ok(())
    }

    fn sigma_for_auto(&self) -> Result<f64, CommandError> {
        match self.problem.prior {
            Prior::Gaussian { sigma } => Ok(sigma),
            _ => {
                let name = if self.damping == Some(DampingChoice::Match) { "match" } else { "auto" };
                Err(CommandError::usage(format!(
                    "--damping {name} needs --prior gaussian: give --damping a number, or --exponent and --eps"
                )))
            }
        }
    }

    /// With `--damping match` the damping at which draws of the proposal have the cost of the cutoff, found from `start` on; else `start`.
    fn matched(&self, start: Damping, build: impl FnMut(Damping) -> Built + Send) -> Result<Damping, CommandError> {
        if self.damping != Some(DampingChoice::Match) {
            return Ok(start);
        }
        let Session { threads, budget, interrupt } = self.session;
        let RayArgs { cutoff, l2_reg, seed, .. } = *self.rays;
        let matching = Matching { sigma: self.sigma_for_auto()?, cutoff, l2_reg, seed, proposal: self.proposal };
        let resources = self.problem.resources(&[], self.proposal, *threads, *budget)?;
        let pool = ThreadPoolBuilder::new().num_threads(threads.get()).build()?;
        let objective = pool.install(|| self.problem.objective(&resources))?;
        let objective = Interruptible { objective: &*objective, interrupt, is_calibrating: AtomicBool::new(true) };
        let found = pool.install(|| matched_damping(&objective, &matching, start, build));
        if interrupt.load(Ordering::Relaxed) {
            eprintln_status("Interrupted before the first sample.");
            return Err(CommandError::Interrupted);
        }
        let found = found.context("--damping match found no beta")?;
        eprintln_status(&format!("--damping match: beta {:.4e}, where that of the quadratic cost is {:.4e}", found.beta, start.beta));
        Ok(found)
    }

    /// The damping of a curvature with these modes, before it is matched.
    fn damping<F: Fn(usize) -> Mode + Sync>(&self, count: usize, mode: F) -> Result<Damping, CommandError> {
        match self.damping.unwrap_or(DampingChoice::Auto) {
            DampingChoice::Value(value) => {
                let sigma = if let Prior::Gaussian { sigma } = self.problem.prior { sigma } else { 1.0 };
                Ok(Damping::from_value(value, sigma))
            }
            DampingChoice::Auto | DampingChoice::Match => {
                let sigma = self.sigma_for_auto()?;
                let solve = || QuadraticCost::new(count, sigma, mode)?.saddle_point(self.rays.cutoff);
                let beta = solve().context("--damping auto found no beta")?.beta;
                Ok(Damping { beta, sigma })
            }
        }
    }

    fn check_damping_only(&self, what: &str) -> Result<(), CommandError> {
        if self.is_power_given {
            return Err(CommandError::usage(format!("--exponent and --eps are not for {what} curvature: use --damping")));
        }
        Ok(())
    }

    /// The damping of a curvature that has no power map; `build` makes the map of a damping.
    pub fn damping_only<F: Fn(usize) -> Mode + Sync>(
        &self,
        what: &str,
        (count, mode): (usize, F),
        build: impl FnMut(Damping) -> Built + Send,
    ) -> Result<Damping, CommandError> {
        self.check_damping_only(what)?;
        self.matched(self.damping(count, mode)?, build)
    }

    /// The map of a curvature: damped, unless the power map was asked for; `build` makes the map of a damping.
    pub fn curvature<F: Fn(usize) -> Mode + Sync>(
        &self,
        (count, mode): (usize, F),
        build: impl FnMut(Damping) -> Built + Send,
    ) -> Result<CurvatureMap, CommandError> {
        if self.is_power_given { Ok(self.power.into()) } else { Ok(self.matched(self.damping(count, mode)?, build)?.into()) }
    }

    /// The map of a vector that need not be a curvature (Adam's moments, plain files): the power map, unless damping was asked for.
    pub fn plain_diagonal(&self, source: &str, values: &[f32]) -> Result<CurvatureMap, CommandError> {
        if self.damping.is_none() {
            return Ok(self.power.into());
        }
        if let Some(index) = values.iter().position(|&value| value < 0.0) {
            return Err(CommandError::usage(format!(
                "--damping needs curvatures >= 0, but entry {index} of {source} is {}: use --exponent and --eps",
                values[index]
            )));
        }
        let center = self.center();
        let start = self.damping(values.len(), |i| Mode::single(values[i], center[i]))?;
        Ok(self.matched(start, |damping| Ok(Arc::new(Diagonal::from_curvature(values, damping)?)))?.into())
    }

    /// The same for a plain matrix; its eigenvalues are asked for only if they are needed. `build` makes the map of a damping.
    pub fn plain(
        &self,
        eigenvalues: impl FnOnce() -> anyhow::Result<Vec<f64>>,
        build: impl FnMut(Damping) -> Built + Send,
    ) -> Result<CurvatureMap, CommandError> {
        match self.damping {
            None => Ok(self.power.into()),
            Some(DampingChoice::Value(_)) => Ok(self.damping(0, |_| Mode::single(0.0, 0.0))?.into()),
            Some(DampingChoice::Auto | DampingChoice::Match) => {
                let values = eigenvalues()?;
                let start = self.damping(values.len(), |i| Mode::single(values[i], 0.0))?;
                Ok(self.matched(start, build)?.into())
            }
        }
    }

    /// The center's moving weights, for the saddle point.
    pub fn center(&self) -> Vec<f32> {
        let moving = &self.problem.moving;
        let mut center = vec![0.0; moving.dimension()];
        moving.fill(0..center.len(), &mut center);
        center
    }
}
