//! A model with its data, cost and prior: what a command line asks for, resolved.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::anyhow;
use basin_volume::coordinates::Coordinates;
use basin_volume::direction::Direction;
use basin_volume::estimator::radial::{Directions, RadialError, RadialProblem};
use basin_volume::objective::{Cost, Objective, ObjectiveError, RayPoint};
use basin_volume::prior::Prior;
use basin_volume::run::driver::Workers;
use basin_volume::spec::Proposal;
use basin_volume_models::cost::{self, Accelerator, CenterOutputs, LanguageModelKl, LanguageModelTensorKl, Precision};
use basin_volume_models::curvature::Scores;
use basin_volume_models::memory::{self, Budget, Plan};
use basin_volume_models::parameters::Moving;

use crate::args::{PriorKind, ProblemArgs, RayArgs};
use crate::error::CommandError;
use crate::preconditioning::Preconditioning;
use crate::target::{self, Data, Model, problem_record, resolve_data};

/// A model with its data, cost and prior: what `estimate` and `profile` have in common.
pub struct Problem {
    pub model: Model,
    pub moving: Moving,
    pub data: Data,
    pub record: serde_json::Map<String, serde_json::Value>,
    pub prior: Prior,
    pub sigma_choice: &'static str,
    accelerator: Option<Accelerator>,
    precision: Precision,
}

impl Problem {
    /// What else may be done where memory is short: the flag, for the models that take it.
    pub fn or_more_memory(&self) -> &'static str {
        if self.model.takes_memory() { ", or give a larger --memory" } else { "" }
    }

    /// Checks the numbers first (usage), then reads model and data (failure).
    pub fn resolve(args: &ProblemArgs, rays: &RayArgs, interrupt: &AtomicBool) -> Result<Self, CommandError> {
        check_rays(rays)?;
        let mut problem = Self::without_rays(args, interrupt)?;
        problem.ask(rays)?;
        Ok(problem)
    }

    /// Asks another question about the same model and data.
    pub fn ask(&mut self, rays: &RayArgs) -> Result<(), CommandError> {
        check_rays(rays)?;
        (self.prior, self.sigma_choice) = match rays.prior {
            PriorKind::Gaussian => {
                let (sigma, choice) = self.model.sigma(&self.moving, rays.sigma)?;
                (Prior::Gaussian { sigma }, choice)
            }
            PriorKind::Lebesgue => (Prior::Lebesgue, "none"),
            PriorKind::Sphere => (Prior::Sphere, "none"),
        };
        Ok(())
    }

    /// Model and data alone, with a flat prior: for what does not depend on rays.
    pub fn without_rays(args: &ProblemArgs, interrupt: &AtomicBool) -> Result<Self, CommandError> {
        let accelerator = args.accelerator()?;
        args.check_builtin()?;
        args.data.one()?;
        let model = Model::resolve(&args.model, interrupt)?;
        let moving = target::choose(&model.checkpoint.parameters, args)?;
        let data = resolve_data(args, &model, interrupt)?.ok_or_else(|| target::data_needed(&model))?;
        let record = problem_record(&model, &moving, args, &data);
        if accelerator.is_some() && model.language_model().is_none() {
            return Err(CommandError::usage("--device is for language models: this network is evaluated on the CPU, leave the flag out"));
        }
        let (prior, sigma_choice) = (Prior::Lebesgue, "none");
        Ok(Self { model, moving, data, record, prior, sigma_choice, accelerator, precision: args.precision() })
    }

    /// Decides what is kept in memory and how the work is spread, for all these preconditioners together.
    pub fn resources(
        &self,
        preconditionings: &[Preconditioning],
        proposal: Proposal,
        threads: NonZeroUsize,
        budget: Option<Budget>,
    ) -> Result<Resources, CommandError> {
        let mut preconditioners: u64 = preconditionings.iter().map(|preconditioning| preconditioning.bytes(self.moving.dimension())).sum();
        if (matches!(self.prior, Prior::Sphere) && preconditioners > 0) || proposal == Proposal::Shifted {
            // Great circles need the preimage of the center, shifted proposals that of their mean.
            preconditioners += 4 * self.moving.dimension() as u64;
        }
        let accelerator = self.accelerator.map(|_| self.precision);
        Resources::new(&self.model, &self.moving, &self.data, preconditioners, threads, budget, accelerator)
    }

    /// The same for what needs gradients: on the processor, with so many bytes beside the cost.
    pub fn processor_resources(&self, bytes: u64, threads: NonZeroUsize, budget: Option<Budget>) -> Result<Resources, CommandError> {
        Resources::new(&self.model, &self.moving, &self.data, bytes, threads, budget, None)
    }

    /// The cost. Evaluates the center once.
    pub fn objective(&self, resources: &Resources) -> Result<Box<dyn Objective + Send + Sync>, CommandError> {
        let moving = self.moving.clone();
        match (&self.data, self.model.language_model()) {
            (Data::Tokens(tokens), Some(network)) => {
                let (tokens, outputs) = (&tokens.sequences, resources.center_outputs());
                Ok(match self.accelerator {
                    None => Box::new(LanguageModelKl::new(network, moving, tokens, outputs)?),
                    Some(accelerator) => {
                        Box::new(LanguageModelTensorKl::on(accelerator, self.precision, network, moving, tokens, outputs)?)
                    }
                })
            }
            (Data::Tokens(_), None) => Err(anyhow!("{} does not read tokens", self.model.name).into()),
            (Data::Rows(data), _) => Ok(cost::for_rows(self.model.checkpoint.architecture.network(), moving, data)?),
        }
    }

    /// The cost with its gradients and scores, on the processor. Evaluates the center once.
    pub fn scores(&self, resources: &Resources) -> Result<Box<dyn Scores + Send + Sync>, CommandError> {
        self.scores_around(self.moving.clone(), resources)
    }

    /// The cost in coordinates in which it is less stiff, where there are any.
    pub fn rotated(&self) -> Result<Option<Box<dyn Coordinates + Send + Sync>>, CommandError> {
        match &self.data {
            Data::Rows(data) => Ok(cost::rotated(self.model.checkpoint.architecture.network(), self.moving.clone(), data)?),
            Data::Tokens(_) => Ok(None),
        }
    }

    /// Whether [`Problem::rotated`] has any.
    pub fn has_rotated(&self) -> bool {
        matches!(self.data, Data::Rows(_)) && cost::has_rotated(self.model.checkpoint.architecture.network(), &self.moving)
    }

    /// The same cost around another center.
    pub fn scores_around(&self, moving: Moving, resources: &Resources) -> Result<Box<dyn Scores + Send + Sync>, CommandError> {
        match (&self.data, self.model.language_model()) {
            (Data::Tokens(tokens), Some(network)) => {
                Ok(Box::new(LanguageModelKl::new(network, moving, &tokens.sequences, resources.center_outputs())?))
            }
            (Data::Tokens(_), None) => Err(anyhow!("{} does not read tokens", self.model.name).into()),
            (Data::Rows(data), _) => Ok(cost::for_rows(self.model.checkpoint.architecture.network(), moving, data)?),
        }
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

/// Refuses numbers that cannot be.
fn check_rays(rays: &RayArgs) -> Result<(), CommandError> {
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
    Ok(())
}

/// What is kept in memory, and how the work is spread. The samples do not depend on it.
pub struct Resources {
    pub directions: Directions,
    pub workers: Workers,
    /// For language models and images, the plan and its forecast.
    pub memory: Option<Plan>,
}

impl Resources {
    /// Decides for a model with its data; `preconditioners` are the bytes of what is kept of them. With a precision an accelerator evaluates
    /// the cost of a language model.
    pub fn new(
        model: &Model,
        moving: &Moving,
        data: &Data,
        preconditioners: u64,
        threads: NonZeroUsize,
        budget: Option<Budget>,
        accelerator: Option<Precision>,
    ) -> Result<Self, CommandError> {
        if let (Data::Rows(rows), Some(network)) = (data, model.checkpoint.architecture.images()) {
            let budget = budget.unwrap_or_default();
            let plan = Plan::for_images(network, moving, rows.rows(), preconditioners, threads, budget, memory::free_memory())?;
            return Ok(Self::planned(plan, threads));
        }
        let (Data::Tokens(tokens), Some(network)) = (data, model.language_model()) else {
            let workers = Workers::automatic(threads, moving.dimension());
            return Ok(Self { directions: Directions::Kept, workers, memory: None });
        };
        let (tokens, budget, free) = (&tokens.sequences, budget.unwrap_or_default(), memory::free_memory());
        let plan = match accelerator {
            None => Plan::new(network, moving, tokens, preconditioners, threads, budget, free)?,
            Some(precision) => Plan::on_accelerator(network, moving, tokens, preconditioners, precision, budget, free)?,
        };
        Ok(Self::planned(plan, threads))
    }

    fn planned(plan: Plan, threads: NonZeroUsize) -> Self {
        let rays = NonZeroUsize::new(plan.rays).unwrap_or(NonZeroUsize::MIN);
        let threads_per_ray = NonZeroUsize::new(threads.get() / rays).unwrap_or(NonZeroUsize::MIN);
        let directions = if plan.keep_directions { Directions::Kept } else { Directions::Regenerated };
        Self { directions, workers: Workers { rays, threads_per_ray }, memory: Some(plan) }
    }

    fn center_outputs(&self) -> CenterOutputs {
        self.memory.as_ref().map_or(CenterOutputs::Logits, |plan| plan.center_outputs)
    }
}

/// A cost whose calibration can be stopped; samples are always finished.
pub struct Interruptible<'a> {
    pub objective: &'a (dyn Objective + Send + Sync),
    pub interrupt: &'a AtomicBool,
    /// Raised while nothing would be lost.
    pub is_calibrating: AtomicBool,
}

impl Objective for Interruptible<'_> {
    fn dimension(&self) -> usize {
        self.objective.dimension()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        self.objective.center(range, out);
    }

    fn cost(&self, direction: &Direction, point: RayPoint) -> Result<Cost, ObjectiveError> {
        if self.is_calibrating.load(Ordering::Relaxed) && self.interrupt.load(Ordering::Relaxed) {
            return Err(ObjectiveError::new("interrupted"));
        }
        self.objective.cost(direction, point)
    }

    fn cost_by_part(&self, direction: &Direction, point: RayPoint) -> Result<Option<Vec<f64>>, ObjectiveError> {
        self.objective.cost_by_part(direction, point)
    }
}

/// A failure of the estimator's set-up: settings are usage, the rest is not.
pub fn radial_error(error: RadialError) -> CommandError {
    match error {
        RadialError::Setting { .. } => CommandError::usage(error.to_string()),
        other => other.into(),
    }
}
