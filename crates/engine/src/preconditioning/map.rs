//! Which map makes factors of curvatures: what `exponent`, `eps` and `damping` mean.

use std::sync::Arc;

use basin_volume::estimator::matching::{Matching, matched_damping};
use basin_volume::guarded::Guarded;
use basin_volume::preconditioner::{CurvatureMap, Damping, Diagonal, DiagonalMap, Preconditioner, PreconditionerError};
use basin_volume::saddle_point::{Mode, QuadraticCost};
use basin_volume_models::curvature::kinds;

use super::Wanted;
use crate::error::{Context, Error};
use crate::request::DampingChoice;
use crate::resources::Needs;

/// A map with one damping.
pub(super) type Built = Result<Arc<dyn Preconditioner>, PreconditionerError>;

/// The modes of a curvature: its eigenvalues, with the center's part in each.
pub(super) struct Modes<F> {
    /// How many.
    pub count: usize,
    /// Each by its number.
    pub mode: F,
}

/// The settings, checked, with what automatic damping needs.
pub(super) struct Maps<'a> {
    wanted: &'a Wanted<'a>,
    power: DiagonalMap,
    is_power_given: bool,
    damping: Option<DampingChoice>,
}

impl<'a> Maps<'a> {
    /// Checks the settings.
    pub fn new(wanted: &'a Wanted<'a>) -> Result<Self, Error> {
        let (ask, default) = (wanted.ask, wanted.subject.defaults().map);
        let power = DiagonalMap { exponent: ask.exponent.unwrap_or(default.exponent), eps: ask.eps.unwrap_or(default.eps) };
        power.validate().map_err(|error| Error::usage(error.to_string()))?;
        let is_power_given = ask.exponent.is_some() || ask.eps.is_some();
        Ok(Self { wanted, power, is_power_given, damping: ask.damping })
    }

    /// Refuses settings that no curvature of this kind can be mapped with, before it is computed.
    pub fn check_curvature(&self, kind: &str) -> Result<(), Error> {
        if kind == kinds::LOW_RANK {
            self.check_damping_only(kind)?;
        }
        if !self.is_power_given && !matches!(self.damping, Some(DampingChoice::Value(_))) {
            self.sigma_for_auto()?;
        }
        Ok(())
    }

    /// Refuses settings that make factors of curvatures where the file gives the covariance itself.
    pub fn check_moments(&self, source: &str) -> Result<(), Error> {
        if self.is_power_given || self.damping.is_some() {
            return Err(Error::usage(format!(
                "`exponent`, `eps` and `damping` are for curvatures, but {source} gives a covariance: leave them out"
            )));
        }
        Ok(())
    }

    fn sigma_for_auto(&self) -> Result<f64, Error> {
        self.wanted.question.sigma().ok_or_else(|| {
            let name = if self.damping == Some(DampingChoice::Match) { "match" } else { "auto" };
            Error::usage(format!("`damping={name}` needs `prior=gaussian`: give `damping` a number, or `exponent` and `eps`"))
        })
    }

    /// With `damping=match` the damping at which draws of the proposal have the cost of the cutoff, found from `start` on; else `start`.
    fn matched(&self, start: Damping, build: impl FnMut(Damping) -> Built + Send) -> Result<Damping, Error> {
        if self.damping != Some(DampingChoice::Match) {
            return Ok(start);
        }
        self.sigma_for_auto()?;
        let Wanted { subject, question, session, proposal, .. } = *self.wanted;
        let resources = subject.resources(Needs::rays(super::proposal_bytes(question, proposal, 0, subject.dimension())), session)?;
        let pool = session.pool()?;
        let objective = pool.install(|| subject.objective(&resources))?;
        let objective = Guarded::new(&*objective, &session.interrupt);
        let found = pool.install(|| matched_damping(&objective, &Matching { question, proposal }, start, build));
        if session.interrupt.is_raised() {
            session.note("Interrupted before the first sample.");
            return Err(Error::Interrupted);
        }
        let found = found.context(|| "`damping=match` found no beta")?;
        session.note(&format!("`damping=match`: beta {:.4e}, where that of the quadratic cost is {:.4e}", found.beta, start.beta));
        Ok(found)
    }

    /// The damping of a curvature with these modes, before it is matched.
    fn damping<F: Fn(usize) -> Mode + Sync>(&self, modes: Modes<F>) -> Result<Damping, Error> {
        match self.damping.unwrap_or(DampingChoice::Auto) {
            DampingChoice::Value(value) => Ok(Damping::from_value(value, self.wanted.question.sigma().unwrap_or(1.0))),
            DampingChoice::Auto | DampingChoice::Match => {
                let sigma = self.sigma_for_auto()?;
                let solve = || QuadraticCost::new(modes.count, sigma, modes.mode)?.saddle_point(self.wanted.question.cutoff());
                let beta = solve().context(|| "`damping=auto` found no beta")?.beta;
                if beta == 0.0 {
                    self.wanted.session.note(
                        "The quadratic cost stays under the cutoff over all of the prior's mass, so beta is 0 and this preconditioner is the same as `preconditioner=none`.",
                    );
                }
                Ok(Damping { beta, sigma })
            }
        }
    }

    fn check_damping_only(&self, what: &str) -> Result<(), Error> {
        if self.is_power_given {
            return Err(Error::usage(format!("`exponent` and `eps` are not for {what} curvature: use `damping`")));
        }
        Ok(())
    }

    /// The damping of a curvature that has no power map; `build` makes the map of a damping.
    pub fn damping_only<F: Fn(usize) -> Mode + Sync>(
        &self,
        what: &str,
        modes: Modes<F>,
        build: impl FnMut(Damping) -> Built + Send,
    ) -> Result<Damping, Error> {
        self.check_damping_only(what)?;
        self.matched(self.damping(modes)?, build)
    }

    /// The map of a curvature: damped, unless the power map was asked for; `build` makes the map of a damping.
    pub fn curvature<F: Fn(usize) -> Mode + Sync>(
        &self,
        modes: Modes<F>,
        build: impl FnMut(Damping) -> Built + Send,
    ) -> Result<CurvatureMap, Error> {
        if self.is_power_given { Ok(self.power.into()) } else { Ok(self.matched(self.damping(modes)?, build)?.into()) }
    }

    /// The map of a vector that need not be a curvature (Adam's moments, plain files): the power map, unless damping was asked for.
    pub fn plain_diagonal(&self, source: &str, values: &[f32]) -> Result<CurvatureMap, Error> {
        if self.damping.is_none() {
            return Ok(self.power.into());
        }
        if let Some(index) = values.iter().position(|&value| value < 0.0) {
            return Err(Error::usage(format!(
                "`damping` needs curvatures >= 0, but entry {index} of {source} is {}: use `exponent` and `eps`",
                values[index]
            )));
        }
        let center = self.center();
        let start = self.damping(Modes { count: values.len(), mode: |i| Mode::single(values[i], center[i]) })?;
        Ok(self.matched(start, |damping| Ok(Arc::new(Diagonal::from_curvature(values, damping)?)))?.into())
    }

    /// The same for a plain matrix; its eigenvalues are asked for only if they are needed. `build` makes the map of a damping.
    pub fn plain(
        &self,
        eigenvalues: impl FnOnce() -> Result<Vec<f64>, Error>,
        build: impl FnMut(Damping) -> Built + Send,
    ) -> Result<CurvatureMap, Error> {
        match self.damping {
            None => Ok(self.power.into()),
            Some(DampingChoice::Value(_)) => Ok(self.damping(Modes { count: 0, mode: |_| Mode::single(0.0, 0.0) })?.into()),
            Some(DampingChoice::Auto | DampingChoice::Match) => {
                let values = eigenvalues()?;
                let start = self.damping(Modes { count: values.len(), mode: |i| Mode::single(values[i], 0.0) })?;
                Ok(self.matched(start, build)?.into())
            }
        }
    }

    /// The center's moving weights, for the saddle point.
    pub fn center(&self) -> Vec<f32> {
        let mut center = vec![0.0; self.wanted.subject.dimension()];
        self.wanted.subject.center(0..center.len(), &mut center);
        center
    }
}
