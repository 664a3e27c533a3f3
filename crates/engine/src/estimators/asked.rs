//! What is asked of one estimator, as far as all have it in common.

use basin_volume::prior::Prior;
use basin_volume::question::Question;
use basin_volume::run::manifest::{Manifest, Origin, Pilot};
use basin_volume::spec::{EstimatorSpec, PreconditionerSpec, Proposal, RunSpec};
use serde_json::{Map, Value, json};

use super::Family;
use crate::error::Error;
use crate::preconditioning::Wanted;
use crate::request::{Ask, Assignment, Estimate, MOST_SAMPLES, PriorKind};
use crate::session::Session;
use crate::subject::{ChosenSigma, Subject};

impl Ask {
    /// Refuses numbers that cannot be, before a subject is known.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check(&self) -> Result<(), Error> {
        Question::new(Prior::Lebesgue, self.cutoff(), self.l2_reg, self.seed)?;
        if let Some(tolerance) = self.radius_tolerance.filter(|tolerance| !(*tolerance > 0.0 && tolerance.is_finite())) {
            return Err(Error::usage(format!("`radius_tolerance` is {tolerance}: expected a finite number > 0")));
        }
        if self.sigma.is_some() && self.prior != PriorKind::Gaussian {
            return Err(Error::usage("`sigma` belongs to `prior=gaussian`: leave one of the two out"));
        }
        if self.samples == Some(0) {
            return Err(Error::usage(format!("`samples` is 0: expected 1 to {MOST_SAMPLES}")));
        }
        Ok(())
    }
}

/// The question to a subject, checked, and how sigma was chosen.
///
/// # Errors
/// When a number cannot be, or sigma has no value for this subject.
pub fn question(ask: &Ask, subject: &dyn Subject) -> Result<(Question, &'static str), Error> {
    ask.check()?;
    let (prior, choice) = match ask.prior {
        PriorKind::Gaussian => {
            let ChosenSigma { sigma, choice } = subject.sigma(ask.sigma)?;
            (Prior::Gaussian { sigma }, choice)
        }
        PriorKind::Lebesgue => (Prior::Lebesgue, "none"),
        PriorKind::Sphere => (Prior::Sphere, "none"),
    };
    Ok((Question::new(prior, ask.cutoff(), ask.l2_reg, ask.seed)?, choice))
}

/// What is asked of an estimator about a subject.
pub struct Request<'a> {
    /// What was asked.
    pub estimate: &'a Estimate,
    /// Whose volume.
    pub subject: &'a dyn Subject,
    /// What decides it, checked.
    pub question: Question,
    /// How sigma was chosen.
    pub sigma_choice: &'static str,
    /// With what.
    pub session: &'a Session,
    /// The settings by name that are meant for this estimator.
    settings: Vec<Assignment>,
    /// Whether the number of samples is meant for this estimator.
    takes_samples: bool,
}

impl<'a> Request<'a> {
    /// What is asked of one estimator of `families`.
    ///
    /// # Errors
    /// When a number or a setting's name cannot be.
    pub fn new(
        family: &dyn Family,
        families: &[&'static dyn Family],
        estimate: &'a Estimate,
        subject: &'a dyn Subject,
        session: &'a Session,
    ) -> Result<Self, Error> {
        let (question, sigma_choice) = question(&estimate.ask, subject)?;
        let settings = settings_of(family, families, estimate)?;
        // Rays, probes and chains are not the same thing.
        let takes_samples = !estimate.is_all() || family.capabilities().preconditioners;
        Ok(Self { estimate, subject, question, sigma_choice, session, settings, takes_samples })
    }

    /// Refuses a subject without gradients.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn needs_gradients(&self) -> Result<(), Error> {
        if self.subject.offers().gradients { Ok(()) } else { Err(crate::subject::no_gradients(self.subject.name())) }
    }

    /// Writes the settings by name into the estimator's own.
    ///
    /// # Errors
    /// When there is no such setting, or the value is of another type.
    pub fn apply_settings(&self, spec: &mut EstimatorSpec) -> Result<(), Error> {
        for Assignment { name, value } in &self.settings {
            let asked = if self.estimate.is_all() { format!("{}.{name}", spec.name()) } else { name.clone() };
            spec.set(name, value).map_err(|error| Error::usage(format!("`set={asked}={value}`: {error}")))?;
        }
        Ok(())
    }

    /// Whether this setting is given by name.
    #[must_use]
    pub fn is_set(&self, name: &str) -> bool {
        self.settings.iter().any(|setting| setting.name == name)
    }

    /// The number of samples asked for, if it is meant for this estimator.
    #[must_use]
    pub fn asked_samples(&self) -> Option<u64> {
        self.estimate.ask.samples.filter(|_| self.takes_samples)
    }

    /// The number of samples.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn samples(&self, default: u64) -> Result<u64, Error> {
        match self.asked_samples() {
            Some(samples) if !(1..=MOST_SAMPLES).contains(&samples) => {
                Err(Error::usage(format!("`samples` is {samples}: expected 1 to {MOST_SAMPLES}")))
            }
            samples => Ok(samples.unwrap_or(default)),
        }
    }

    /// What decides the answer of one run.
    #[must_use]
    pub fn spec(&self, preconditioner: PreconditionerSpec, estimator: EstimatorSpec) -> RunSpec {
        RunSpec { problem: self.subject.record(), dimension: self.subject.dimension(), question: self.question, preconditioner, estimator }
    }

    /// The manifest of a run, with where subject and sigma come from among its notes.
    #[must_use]
    pub fn manifest(&self, spec: RunSpec, center_norm_squared: f64, pilot: Option<Pilot>, samples: u64) -> Manifest {
        let mut manifest = Manifest::new(spec, center_norm_squared, pilot, samples, self.estimate.shard.part());
        manifest.notes = self.notes();
        let device = manifest.spec.problem.get("device").and_then(|device| device.get("kind")).and_then(Value::as_str).unwrap_or("cpu");
        manifest.origins = vec![Origin::here(device, self.session.threads.get())];
        manifest
    }

    fn notes(&self) -> Map<String, Value> {
        let mut notes = self.subject.provenance();
        notes.insert("sigma_choice".to_owned(), json!(self.sigma_choice));
        notes
    }

    /// The directions that are wanted.
    #[must_use]
    pub fn wanted(&self, proposal: Proposal) -> Wanted<'a> {
        Wanted { subject: self.subject, ask: &self.estimate.ask, question: self.question, proposal, session: self.session }
    }
}

/// The settings by name that are meant for one estimator of several: with several the name says which, `radial.max_evaluations=40`.
fn settings_of(family: &dyn Family, families: &[&'static dyn Family], estimate: &Estimate) -> Result<Vec<Assignment>, Error> {
    let mut own = Vec::new();
    for setting in &estimate.ask.set {
        let refuse = |why: &str| Err(Error::usage(format!("`set={setting}`: {why}")));
        match setting.name.split_once('.') {
            None if families.len() == 1 && !estimate.is_all() => own.push(setting.clone()),
            None => {
                return refuse("with several estimators the name says which, ESTIMATOR.NAME=VALUE, such as spectral.steps=40");
            }
            Some((estimator, name)) if families.iter().any(|family| family.name() == estimator) => {
                if estimator == family.name() {
                    own.push(Assignment { name: name.to_owned(), value: setting.value.clone() });
                }
            }
            Some((estimator, _)) => return refuse(&format!("there is no estimator '{estimator}' in this run")),
        }
    }
    Ok(own)
}
