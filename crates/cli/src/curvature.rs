//! Computing curvatures: settings, the memory forecast, and the file in the run folder.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use basin_volume::objective::{Differentiable, ObjectiveError};
use basin_volume::preconditioner::{CurvatureMap, Damping, Diagonal, DiagonalMap};
use basin_volume::prior::Prior;
use basin_volume::run::folder::{self, names};
use basin_volume::saddle_point::{Mode, QuadraticCost};
use basin_volume_models::cost::ImageKl;
use basin_volume_models::curvature::{
    self, Curvature, CurvatureError, LearnReport, LearnSettings, LowRankSettings, PERTURBATION, Provenance, Scores,
};
use basin_volume_models::memory::{self, Budget, size};
use rayon::ThreadPoolBuilder;
use serde_json::{Map, Value, json};

use crate::args::CurvatureChoice;
use crate::error::CommandError;
use crate::problem::Problem;
use crate::progress::CurvatureProgress;
use crate::target::{Data, eprintln_status};

/// Probes of the Hessian's diagonal: the relative error of an entry is of the order of one over their root.
const HESSIAN_PROBES: usize = 32;
/// A diagonal by probes that is off by more than this is worth a word.
const TOO_NOISY: f64 = 0.3;
/// A map must not be learned on the very rays that it is measured on afterwards, which have the seed of the command line.
const OTHER_RAYS: u64 = u64::from_be_bytes(*b"learning");
/// Eigenvectors of low-rank curvature.
const RANK: usize = 16;

/// With what the work is done.
pub struct Session<'a> {
    pub threads: NonZeroUsize,
    pub budget: Option<Budget>,
    pub interrupt: &'a AtomicBool,
}

/// What decides the numbers beside model and data.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub choice: CurvatureChoice,
    /// Draws per position, or probes.
    pub probes: usize,
    /// Eigenvectors, for low-rank curvature.
    pub rank: usize,
    pub seed: u64,
    /// The rays that a map is learned for.
    pub rays: LearnedFor,
    /// Steps of learning.
    pub steps: usize,
}

/// What a learned map is for.
#[derive(Debug, Clone, Copy)]
pub struct LearnedFor {
    pub prior: Prior,
    pub cutoff: f64,
    pub l2_reg: f64,
}

impl Settings {
    /// The defaults where nothing is given.
    pub fn new(choice: CurvatureChoice, seed: u64, rays: LearnedFor, problem: &Problem) -> Self {
        let usual = if choice == CurvatureChoice::Hessian { HESSIAN_PROBES } else { 1 };
        let rank = RANK.min(problem.moving.dimension());
        Self { choice, probes: usual, rank, seed, rays, steps: LearnSettings::new(rays.prior, rays.cutoff, seed).steps }
    }

    /// With what was given on the command line.
    pub fn with(self, probes: Option<NonZeroUsize>, rank: Option<NonZeroUsize>, steps: Option<NonZeroUsize>) -> Self {
        let or = |given: Option<NonZeroUsize>, usual| given.map_or(usual, NonZeroUsize::get);
        Self { probes: or(probes, self.probes), rank: or(rank, self.rank), steps: or(steps, self.steps), ..self }
    }

    fn provenance(&self, problem: &Problem) -> Provenance {
        let mut settings: Map<String, Value> = Map::new();
        settings.insert("probes".to_owned(), json!(self.probes));
        if self.choice == CurvatureChoice::LowRank {
            settings.insert("rank".to_owned(), json!(self.rank));
        }
        if self.choice == CurvatureChoice::Learned {
            settings.insert("steps".to_owned(), json!(self.steps));
            settings.insert("cutoff".to_owned(), json!(self.rays.cutoff));
            settings.insert("l2_reg".to_owned(), json!(self.rays.l2_reg));
            settings.insert("prior".to_owned(), json!(self.rays.prior));
        }
        Provenance {
            kind: self.choice.kind().to_owned(),
            weights_sha256: problem.model.checkpoint.parameters.hash(),
            data: problem.data.record(),
            seed: self.seed,
            settings,
            software: format!("basin-volume {}", env!("CARGO_PKG_VERSION")),
        }
    }
}

/// A curvature with what it took.
pub struct Computed {
    pub curvature: Curvature,
    pub provenance: Provenance,
    pub time: Duration,
    /// Gradients over all the data, or passes of the same price.
    pub gradients: usize,
    /// Of a diagonal by probes: error relative to the entries, root mean square.
    pub relative_error: Option<f64>,
    /// What learning brought.
    pub learned: Option<LearnReport>,
}

/// The curvature with default settings from the run folder, or computed and then kept there.
pub fn cached(
    choice: CurvatureChoice,
    problem: &Problem,
    (seed, rays): (u64, LearnedFor),
    session: &Session<'_>,
    run: Option<&Path>,
) -> Result<(Curvature, Provenance), CommandError> {
    let settings = Settings::new(choice, seed, rays, problem);
    let Some(run) = run else {
        let computed = compute(&settings, problem, session)?;
        return Ok((computed.curvature, computed.provenance));
    };
    let path = run.join(names::CURVATURE);
    if path.exists() {
        let (curvature, found) = curvature::read(&path, problem.moving.layout(), &problem.model.checkpoint.parameters.hash())?;
        let asked = Provenance { software: found.software.clone(), ..settings.provenance(problem) };
        if found != asked {
            let different = [
                ("kind", found.kind == asked.kind),
                ("data", found.data == asked.data),
                ("seed", found.seed == asked.seed),
                ("settings", found.settings == asked.settings),
            ];
            let names: Vec<&str> = different.iter().filter(|(_, same)| !same).map(|(name, _)| *name).collect();
            return Err(anyhow!(
                "{} was computed for another question (other {}): choose another folder, or give the file as --preconditioner",
                path.display(),
                names.join(", ")
            )
            .into());
        }
        return Ok((curvature, found));
    }
    folder::check_vacant(run)?;
    let computed = compute(&settings, problem, session)?;
    curvature::write(&path, &computed.curvature, &computed.provenance, problem.moving.layout())?;
    eprintln_status(&format!("{} computed in {:.1} s, kept in {}", computed.provenance.kind, computed.time.as_secs_f64(), path.display()));
    Ok((computed.curvature, computed.provenance))
}

/// Computes a curvature; says before how much memory that takes, and refuses what does not fit.
pub fn compute(settings: &Settings, problem: &Problem, session: &Session<'_>) -> Result<Computed, CommandError> {
    if settings.choice == CurvatureChoice::LowRank && settings.rank > problem.moving.dimension() {
        return Err(CommandError::usage(format!(
            "--rank is {}: expected at most the number of moving weights, {}",
            settings.rank,
            problem.moving.dimension()
        )));
    }
    let backward = backward_bytes(problem);
    let resources = problem.processor_resources(backward, session.threads, session.budget)?;
    let (planned, allowed) = match &resources.memory {
        Some(plan) => (plan.total(), plan.budget),
        None => (backward, allowed(session.budget)),
    };
    let pool = ThreadPoolBuilder::new().num_threads(session.threads.get()).build()?;
    pool.install(|| {
        let model = problem.scores(&resources)?;
        let kind = settings.choice.kind();
        let needed = planned
            + match settings.choice {
                CurvatureChoice::Fisher | CurvatureChoice::SquaredGradient => curvature::diagonal_bytes(&*model),
                CurvatureChoice::Hessian => curvature::hessian_diagonal_bytes(&*model),
                CurvatureChoice::Kronecker => curvature::kronecker_bytes(&*model),
                CurvatureChoice::LowRank => {
                    curvature::low_rank_bytes(&*model, LowRankSettings::new(settings.rank, settings.seed).steps)
                }
                CurvatureChoice::Learned => curvature::learn_diagonal_bytes(&*model),
            };
        if needed > allowed {
            return Err(anyhow!(
                "the {} curvature needs {} of memory but {} may be used: choose another kind or fewer eigenvectors (precondition --rank){}",
                kind,
                size(needed),
                size(allowed),
                problem.or_more_memory()
            )
            .into());
        }
        eprintln_status(&format!("{kind}: memory {} of {} allowed", size(needed), size(allowed)));
        let mut progress = CurvatureProgress::new(kind, session.interrupt);
        let began = Instant::now();
        let result = dispatch(settings, problem, &*model, &mut progress);
        progress.finish();
        let (curvature, gradients, quality) = result.map_err(failure)?;
        let (relative_error, learned) = match quality {
            Quality::Sampled => (None, None),
            Quality::Probes(error) => (Some(error).filter(|error| error.is_finite()), None),
            Quality::Learned(report) => (None, Some(report)),
        };
        if let Some(error) = relative_error.filter(|error| *error > TOO_NOISY) {
            eprintln_status(&format!(
                "The entries of the diagonal are off by {:.0} % after {} probes, and those that came out negative are zero: fisher, or more \
                 probes (precondition --probes), will serve better.",
                100.0 * error,
                settings.probes
            ));
        }
        Ok(Computed { curvature, provenance: settings.provenance(problem), time: began.elapsed(), gradients, relative_error, learned })
    })
}

fn dispatch(
    settings: &Settings,
    problem: &Problem,
    model: &dyn Scores,
    progress: &mut CurvatureProgress<'_>,
) -> Result<(Curvature, usize, Quality), CurvatureError> {
    let Settings { choice, probes, rank, seed, rays, steps } = *settings;
    Ok(match choice {
        CurvatureChoice::Fisher => (curvature::fisher_diagonal(model, probes, seed, progress)?, probes, Quality::Sampled),
        CurvatureChoice::SquaredGradient => {
            let labels = if let Data::Rows(data) = &problem.data { data.labels() } else { None };
            (curvature::squared_gradient(model, labels, probes, seed, progress)?, probes, Quality::Sampled)
        }
        CurvatureChoice::Hessian => {
            let objective: &dyn Differentiable = model;
            let (curvature, report) = curvature::hessian_diagonal(objective, (probes, seed), PERTURBATION, progress)?;
            (curvature, 2 * report.products, Quality::Probes(report.relative_error))
        }
        CurvatureChoice::Kronecker => (curvature::kronecker(model, probes, seed, progress)?, probes, Quality::Sampled),
        CurvatureChoice::LowRank => {
            let settings = LowRankSettings { probes, ..LowRankSettings::new(rank, seed) };
            let (curvature, report) = curvature::low_rank(model, settings, progress)?;
            (curvature, 2 * report.products + probes, Quality::Sampled)
        }
        CurvatureChoice::Learned => {
            let fisher = curvature::fisher_diagonal(model, probes, seed, progress)?;
            let first = first_factors(&fisher, problem, rays)?;
            let learning = LearnSettings { l2_reg: rays.l2_reg, steps, ..LearnSettings::new(rays.prior, rays.cutoff, seed ^ OTHER_RAYS) };
            let (curvature, report) = curvature::learn_diagonal(model, problem.moving.layout(), &first, &learning, progress)?;
            (curvature, probes + report.gradients, Quality::Learned(report))
        }
    })
}

/// What is known about how good a curvature is.
enum Quality {
    Sampled,
    /// Relative error of a diagonal by probes.
    Probes(f64),
    Learned(LearnReport),
}

/// Where learning starts: the damped Fisher map, the power map where the prior has no scale.
fn first_factors(fisher: &Curvature, problem: &Problem, rays: LearnedFor) -> Result<Vec<f32>, CurvatureError> {
    let Curvature::Diagonal { values } = fisher else { return Ok(vec![1.0; problem.moving.dimension()]) };
    let map: CurvatureMap = match rays.prior {
        Prior::Gaussian { sigma } => {
            let mut center = vec![0.0f32; values.len()];
            problem.moving.fill(0..center.len(), &mut center);
            let beta = QuadraticCost::new(values.len(), sigma, |i| Mode::single(values[i], center[i]))
                .and_then(|cost| cost.saddle_point(rays.cutoff))
                .map_err(|error| CurvatureError::Objective(ObjectiveError::new(error)))?
                .beta;
            Damping { beta, sigma }.into()
        }
        _ => DiagonalMap::default().into(),
    };
    let diagonal = Diagonal::from_curvature(values, map).map_err(|error| CurvatureError::Objective(ObjectiveError::new(error)))?;
    Ok(diagonal.factors().to_vec())
}

/// Flags are usage, an interrupt is none of the program's faults.
fn failure(error: CurvatureError) -> CommandError {
    match error {
        CurvatureError::Interrupted { .. } => {
            eprintln_status(&format!("Interrupted: {error}."));
            CommandError::Interrupted
        }
        CurvatureError::Setting { .. } | CurvatureError::Labels { .. } | CurvatureError::Unsupported { .. } => {
            CommandError::usage(error.to_string())
        }
        error => error.into(),
    }
}

/// What a backward pass keeps of the longest sequence: input and output of every matrix, values and gradients.
pub fn backward_bytes(problem: &Problem) -> u64 {
    if let Some(network) = problem.model.checkpoint.architecture.images() {
        return rayon::current_num_threads() as u64 * ImageKl::gradient_bytes(network);
    }
    let positions = match &problem.data {
        Data::Tokens(tokens) => tokens.sequences.longest() as u64,
        Data::Rows(data) => data.rows() as u64,
    };
    let matrices = problem.moving.center().layout().parameters().iter().filter(|parameter| parameter.shape.len() == 2);
    let widths: u64 = matrices.map(|matrix| matrix.shape.iter().sum::<usize>() as u64).sum();
    4 * 2 * positions * widths
}

/// Memory that may be used, in bytes.
pub fn allowed(budget: Option<Budget>) -> u64 {
    match budget {
        Some(Budget::Bytes(bytes)) => bytes,
        // As for runs: four fifths of what is free.
        _ => memory::free_memory() / 5 * 4,
    }
}

/// Writes what was computed, and names the file when that fails.
pub fn save(path: &Path, computed: &Computed, problem: &Problem) -> Result<(), CommandError> {
    curvature::write(path, &computed.curvature, &computed.provenance, problem.moving.layout())
        .with_context(|| format!("the curvature was not saved to {}", path.display()))?;
    Ok(())
}
