//! Estimators under test, with their settings.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use basin_volume::estimator::annealed::{AnnealedEstimate, AnnealedEstimator, AnnealedProgress, InMemory};
use basin_volume::estimator::radial::{Directions, RadialEstimator, Sample};
use basin_volume::estimator::spectral::{SpectralEstimator, SpectralRecord, SpectralResult};
use basin_volume::fisher::DifferenceProducts;
use basin_volume::interrupt::Interrupt;
use basin_volume::objective::Differentiable;
use basin_volume::preconditioner::{Diagonal, Identity, Preconditioner};
use basin_volume::question::Question;
use basin_volume::random::{NormalVector, Purpose};
use basin_volume::run::manifest::Manifest;
use basin_volume::run::shard::Shard;
use basin_volume::spec::{
    AnnealedSpec, EstimatorSpec, PreconditionerSpec, Proposal, RadialSpec, RunSpec, SetKind, SpectralRoute, SpectralSpec,
};
use basin_volume::statistics::{Interval, IntervalSettings, summarize};
use rayon::prelude::*;

use crate::problem::{Problem, Set};

/// What one run says.
pub struct Answer {
    /// `ln P`, nats; NaN if there is none.
    pub estimate: f64,
    pub interval: Interval,
    /// Whether the result says in words, or by an interval without an upper end, that it is not to be trusted.
    pub warned: bool,
    pub evaluations: u64,
    pub gradients: u64,
    pub seconds: f64,
}

/// An estimator with its settings.
pub trait Method: Sync {
    /// For tables.
    fn name(&self) -> String;

    fn set(&self) -> Set;

    /// How many seeds are worth their time in this dimension; zero where the method is not run.
    fn seeds(&self, dimension: usize) -> u64;

    fn run(&self, problem: &Problem, seed: u64) -> anyhow::Result<Answer>;
}

/// The Gaussian that rays come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Curvature {
    /// All directions alike.
    None,
    /// The Hessian's diagonal at the center, wrong by a factor `e^(error N)` in each coordinate.
    Diagonal { error: f64 },
}

/// Rays from the center.
pub struct Rays {
    pub curvature: Curvature,
    pub proposal: Proposal,
    pub count: u64,
    /// Extra evaluations per ray that look for earlier crossings.
    pub profile: u32,
}

impl Method for Rays {
    fn name(&self) -> String {
        let shift = if self.proposal == Proposal::Shifted { "shifted" } else { "centered" };
        match self.curvature {
            Curvature::None if self.profile > 0 => "rays with profiles".to_owned(),
            Curvature::None => "rays".to_owned(),
            Curvature::Diagonal { error: 0.0 } => shift.to_owned(),
            Curvature::Diagonal { error } => format!("{shift}, wrong by e^({error} N)"),
        }
    }

    fn set(&self) -> Set {
        Set::Star
    }

    fn seeds(&self, dimension: usize) -> u64 {
        match dimension {
            0..=10_000 => 100,
            10_001..=100_000 => 20,
            _ => 5,
        }
    }

    fn run(&self, problem: &Problem, seed: u64) -> anyhow::Result<Answer> {
        let start = Instant::now();
        let preconditioner: Arc<dyn Preconditioner> = match self.curvature {
            Curvature::None => Arc::new(Identity),
            Curvature::Diagonal { error } => {
                let mut noise = vec![0.0f32; problem.dimension()];
                NormalVector::new(Purpose::Trials, seed, u64::MAX / 3, noise.len()).fill(0..noise.len(), &mut noise);
                let wrong = problem.curvature.iter().zip(&noise).map(|(l, n)| (l * (error * f64::from(*n)).exp()) as f32);
                Arc::new(Diagonal::from_curvature(&wrong.collect::<Vec<f32>>(), problem.damping())?)
            }
        };
        let settings = RadialSpec { proposal: self.proposal, profile_points: self.profile, ..RadialSpec::default() };
        let question = problem.question(seed)?;
        let estimator = RadialEstimator::new(problem.objective, question, preconditioner, settings, None, Directions::Kept)?;
        let samples: Vec<Sample> = (0..self.count).into_par_iter().map(|index| estimator.sample(index)).collect::<Result<_, _>>()?;
        let log_values: Vec<f64> = samples.iter().map(|s| s.log_volume).collect();
        let errors: Vec<f64> = samples.iter().map(|s| s.radius_error_nats).collect();
        let interval = IntervalSettings { seed, ..IntervalSettings::default() };
        let summary = summarize(&log_values, &errors, &samples.iter().map(|s| s.outcome).collect(), interval);
        Ok(Answer {
            estimate: summary.log_mean_exp,
            interval: summary.interval,
            warned: !summary.diagnostics.reliability.is_two_sided(),
            evaluations: u64::from(estimator.pilot().evaluations) + samples.iter().map(|s| u64::from(s.evaluations)).sum::<u64>(),
            gradients: 0,
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}

/// Chains of Hamiltonian Monte Carlo along a ladder.
pub struct Annealed {
    pub set: SetKind,
    pub trajectories: u32,
    /// Ends the name, for those that differ from the default.
    pub suffix: &'static str,
}

impl Annealed {
    /// With the default settings.
    pub fn new(set: SetKind) -> Self {
        Self { set, trajectories: AnnealedSpec::default().trajectories, suffix: "" }
    }
}

/// One sweep of chains whose spring is at the center or at `anchor`, kept nowhere; `observe` sees the estimate after every block.
pub fn anneal(
    objective: &dyn Differentiable,
    center: &[f32],
    anchor: Option<&[f32]>,
    question: Question,
    spec: &AnnealedSpec,
    observe: &mut dyn FnMut(&AnnealedEstimate),
) -> anyhow::Result<AnnealedEstimate> {
    let mut memory = InMemory::default();
    let mut estimator = AnnealedEstimator::new(objective, center, question, spec.clone())?;
    if let Some(anchor) = anchor {
        estimator = estimator.with_anchor(anchor);
    }
    estimator.run(1, &[], &mut memory, &Interrupt::new(), &mut |progress| {
        if let AnnealedProgress::Ladder(estimate) = progress {
            observe(estimate);
        }
    })?;
    AnnealedEstimate::of(spec, &question, 1, &memory.records).context("the annealing kept no records")
}

impl Method for Annealed {
    fn name(&self) -> String {
        match self.set {
            SetKind::Basin => format!("annealed{}", self.suffix),
            SetKind::Star => format!("annealed star{}", self.suffix),
        }
    }

    fn set(&self) -> Set {
        match self.set {
            SetKind::Basin => Set::Basin,
            SetKind::Star => Set::Star,
        }
    }

    fn seeds(&self, dimension: usize) -> u64 {
        match dimension {
            0..=1000 => 100,
            1001..=10_000 => 10,
            _ => 0,
        }
    }

    fn run(&self, problem: &Problem, seed: u64) -> anyhow::Result<Answer> {
        let start = Instant::now();
        let spec = AnnealedSpec { set_kind: self.set, trajectories: self.trajectories, ..AnnealedSpec::default() };
        let result = anneal(problem.objective, &problem.center, None, problem.question(seed)?, &spec, &mut |_| {})?;
        Ok(Answer {
            estimate: result.log_probability.unwrap_or(f64::NAN),
            interval: Interval { low: result.low, high: result.high },
            warned: !result.is_answer() || !result.warnings.is_empty(),
            evaluations: result.evaluations,
            gradients: result.gradients,
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}

/// The quadratic cost by Lanczos quadrature, with products by differences of gradients.
pub struct Spectral {
    pub steps: usize,
    pub probes: u64,
}

impl Method for Spectral {
    fn name(&self) -> String {
        "spectral".to_owned()
    }

    fn set(&self) -> Set {
        Set::Ellipsoid
    }

    fn seeds(&self, dimension: usize) -> u64 {
        match dimension {
            0..=1000 => 100,
            1001..=10_000 => 10,
            10_001..=100_000 => 4,
            _ => 2,
        }
    }

    fn run(&self, problem: &Problem, seed: u64) -> anyhow::Result<Answer> {
        let start = Instant::now();
        let question = problem.question(seed)?;
        let steps = self.steps.min(problem.dimension());
        let spec = SpectralSpec { route: SpectralRoute::Lanczos, steps, ..SpectralSpec::default() };
        let products = DifferenceProducts::new(problem.objective, spec.perturbation)?;
        let estimator = SpectralEstimator::new(problem.objective, &products, question, spec, &Interrupt::new())?;
        let records: Vec<SpectralRecord> = (0..=self.probes).map(|index| estimator.record(index)).collect::<Result<_, _>>()?;
        let spec = RunSpec {
            problem: serde_json::Map::new(),
            dimension: problem.dimension(),
            question,
            preconditioner: PreconditionerSpec::None,
            estimator: EstimatorSpec::Spectral(spec),
        };
        let manifest = Manifest::new(spec, estimator.center_norm_squared(), None, self.probes + 1, Shard::ALL);
        let (answer, result) = SpectralResult::of(&manifest, &records, start.elapsed().as_secs_f64());
        let interval = answer.interval.0.map_or(Interval::UNKNOWN, |low| Interval { low, high: answer.interval.1 });
        Ok(Answer {
            estimate: answer.log_probability,
            interval,
            // The first sentence is there always: that the ellipsoid is a guide. It says more where the cost is not quadratic.
            warned: answer.reasons.len() > 1 || !result.true_cost.is_some_and(|found| (0.5..2.0).contains(&found.ratio)),
            evaluations: answer.evaluations,
            gradients: answer.gradients,
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}
