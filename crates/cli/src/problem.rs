//! A model with its data, cost and prior: what a command line asks for, resolved.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use basin_volume::estimator::radial::{RadialError, RadialProblem};
use basin_volume::objective::Objective;
use basin_volume::prior::Prior;
use basin_volume_models::parameters::Moving;

use crate::args::{PriorKind, ProblemArgs, RayArgs};
use crate::error::CommandError;
use crate::preconditioning::Preconditioning;
use crate::target::{self, Data, Model, problem_record, resolve_data};

/// A model with its data, cost and prior: what `estimate` and `profile` have in common.
pub struct Problem {
    pub model: Model,
    pub moving: Moving,
    pub objective: Box<dyn Objective + Send + Sync>,
    pub record: serde_json::Map<String, serde_json::Value>,
    /// Where the data came from.
    pub provenance: serde_json::Value,
    pub prior: Prior,
    pub sigma_choice: &'static str,
}

impl Problem {
    /// Checks the numbers first (usage), then reads model and data (failure).
    pub fn resolve(args: &ProblemArgs, rays: &RayArgs, interrupt: &AtomicBool) -> Result<Self, CommandError> {
        let positive = |flag: &str, value: f64| {
            if value > 0.0 && value.is_finite() {
                Ok(())
            } else {
                Err(CommandError::usage(format!("{flag} is {value}: expected a finite number > 0")))
            }
        };
        positive("--cutoff", rays.cutoff)?;
        if let Some(tolerance) = rays.radius_tolerance {
            positive("--radius-tolerance", tolerance)?;
        }
        if !(rays.l2_reg >= 0.0 && rays.l2_reg.is_finite()) {
            return Err(CommandError::usage(format!("--l2-reg is {}: expected a finite number >= 0", rays.l2_reg)));
        }
        if rays.sigma.is_some() && rays.prior != PriorKind::Gaussian {
            return Err(CommandError::usage("--sigma belongs to --prior gaussian: leave one of the two out"));
        }
        let model = Model::resolve(&args.model, interrupt)?;
        let moving = target::choose(&model.checkpoint.parameters, args)?;
        let data = resolve_data(args, &model)?.ok_or_else(|| target::data_needed(&model))?;
        let record = problem_record(&model, &moving, args, &data);
        let (prior, sigma_choice) = match rays.prior {
            PriorKind::Gaussian => {
                let (sigma, choice) = model.sigma(&moving, rays.sigma)?;
                (Prior::Gaussian { sigma }, choice)
            }
            PriorKind::Lebesgue => (Prior::Lebesgue, "none"),
            PriorKind::Sphere => (Prior::Sphere, "none"),
        };
        let provenance = data.provenance();
        let objective = match &data {
            Data::Rows(data) => model.checkpoint.architecture.kl_cost(moving.clone(), data)?,
            Data::Tokens(_) => return Err(CommandError::usage("language models can be inspected, but not measured yet")),
        };
        Ok(Self { model, moving, objective, record, provenance, prior, sigma_choice })
    }

    /// What the rays of one preconditioner measure.
    pub fn radial(&self, rays: &RayArgs, preconditioning: &Preconditioning) -> RadialProblem {
        RadialProblem {
            prior: self.prior,
            cutoff: rays.cutoff,
            l2_reg: rays.l2_reg,
            seed: rays.seed,
            preconditioner: Arc::clone(&preconditioning.map),
        }
    }
}

/// A failure of the estimator's set-up: settings are usage, the rest is not.
pub fn radial_error(error: RadialError) -> CommandError {
    match error {
        RadialError::Setting { .. } => CommandError::usage(error.to_string()),
        other => other.into(),
    }
}
