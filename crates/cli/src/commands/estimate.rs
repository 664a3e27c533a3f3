//! `estimate`: the main job.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::anyhow;
use basin_volume::estimator::radial::{Directions, RadialError, RadialEstimator, RadialProblem, Sample};
use basin_volume::objective::Objective;
use basin_volume::prior::Prior;
use basin_volume::run::driver::{self, Plan, RunEnd, Workers};
use basin_volume::run::folder::{self, RunFolder, names};
use basin_volume::run::manifest::Manifest;
use basin_volume::run::record::Record;
use basin_volume::run::result::RunResult;
use basin_volume::spec::{EstimatorSpec, RadialSpec, RunSpec};
use serde_json::json;

use super::{print, print_json, report};
use crate::args::{EstimateArgs, PriorKind, ProblemArgs, RayArgs};
use crate::error::{CommandError, CommandResult};
use crate::preconditioning::Preconditioning;
use crate::present::{self, Run};
use crate::progress::RunProgress;
use crate::target::{Model, eprintln_status, problem_record, resolve_data};

/// More samples than anyone can mean.
const MOST_SAMPLES: u64 = 1_000_000_000;

/// A model with its data, cost and prior: what `estimate` and `profile` have in common.
pub struct Problem {
    pub model: Model,
    pub objective: Box<dyn Objective + Send + Sync>,
    pub record: serde_json::Map<String, serde_json::Value>,
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
        if !(args.l2_reg >= 0.0 && args.l2_reg.is_finite()) {
            return Err(CommandError::usage(format!("--l2-reg is {}: expected a finite number >= 0", args.l2_reg)));
        }
        if rays.sigma.is_some() && rays.prior != PriorKind::Gaussian {
            return Err(CommandError::usage("--sigma belongs to --prior gaussian: leave one of the two out"));
        }
        let model = Model::resolve(&args.model, interrupt)?;
        let data = resolve_data(args, &model)?;
        let record = problem_record(&model, &data);
        let (prior, sigma_choice) = match rays.prior {
            PriorKind::Gaussian => {
                let (sigma, choice) = model.sigma(rays.sigma)?;
                (Prior::Gaussian { sigma }, choice)
            }
            PriorKind::Lebesgue => (Prior::Lebesgue, "none"),
            PriorKind::Sphere => (Prior::Sphere, "none"),
        };
        let objective = model.checkpoint.architecture.kl_cost(model.checkpoint.parameters.clone().into(), &data)?;
        Ok(Self { model, objective, record, prior, sigma_choice })
    }

    /// What the rays of one preconditioner measure.
    pub fn radial(&self, args: &ProblemArgs, rays: &RayArgs, preconditioning: &Preconditioning) -> RadialProblem {
        RadialProblem {
            prior: self.prior,
            cutoff: rays.cutoff,
            l2_reg: args.l2_reg,
            seed: rays.seed,
            preconditioner: std::sync::Arc::clone(&preconditioning.map),
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

pub fn run(args: &EstimateArgs, interrupt: &AtomicBool) -> CommandResult {
    if !(1..=MOST_SAMPLES).contains(&args.samples) {
        return Err(CommandError::usage(format!("--samples is {}: expected 1 to {MOST_SAMPLES}", args.samples)));
    }
    let problem = Problem::resolve(&args.problem, &args.rays, interrupt)?;
    let choices: Vec<String> = match args.preconditioner.as_slice() {
        [] if problem.model.is_builtin => vec!["none".to_owned(), "adam2".to_owned()],
        [] => vec!["none".to_owned()],
        given => given.to_vec(),
    };
    if let Some(twice) = choices.iter().enumerate().find(|(i, c)| choices[..*i].contains(c)) {
        return Err(CommandError::usage(format!("--preconditioner names {} twice", twice.1)));
    }
    let preconditionings: Vec<Preconditioning> =
        choices.iter().map(|choice| Preconditioning::resolve(choice, &problem.model, &args.rays)).collect::<Result<_, _>>()?;
    let settings = RadialSpec { radius_tolerance: args.rays.radius_tolerance, profile_points: args.profile, ..RadialSpec::default() };
    let specs: Vec<RunSpec> = preconditionings
        .iter()
        .map(|preconditioning| RunSpec {
            problem: problem.record.clone(),
            dimension: problem.objective.dimension(),
            prior: problem.prior,
            cutoff: args.rays.cutoff,
            l2_reg: args.problem.l2_reg,
            seed: args.rays.seed,
            preconditioner: preconditioning.spec.clone(),
            estimator: EstimatorSpec::Radial(settings),
        })
        .collect();
    let out = match &args.out {
        Some(out) => out.clone(),
        None => default_out(&problem.model.name, &specs, args)?,
    };
    let is_group = specs.len() > 1;
    if is_group && out.join(names::MANIFEST).exists() {
        return Err(
            anyhow!("{} holds a single run, but several preconditioners are asked for: choose another folder", out.display()).into()
        );
    }
    if let Some(twice) =
        specs.iter().enumerate().find(|(i, s)| specs[..*i].iter().any(|t| t.preconditioner.label() == s.preconditioner.label()))
    {
        let label = twice.1.preconditioner.label();
        return Err(CommandError::usage(format!(
            "two preconditioners are called '{label}': rename one of the files or estimate them apart"
        )));
    }
    if is_group {
        check_group(&out, &specs)?;
    }
    let mut runs = Vec::new();
    let mut end = RunEnd::Completed;
    for (preconditioning, spec) in preconditionings.iter().zip(specs) {
        if end == RunEnd::Interrupted {
            break;
        }
        let label = spec.preconditioner.label().to_owned();
        let folder = if is_group { out.join(&label) } else { out.clone() };
        let (run, ended) = one_run(args, &problem, preconditioning, spec, settings, &folder, interrupt)?;
        end = ended;
        runs.push(run);
    }
    finish(&runs, is_group.then_some(out.as_path()))?;
    if args.json {
        print_results(&runs)?;
    } else {
        print(&format!("{}\nRun folder: {}", present::report(&runs), out.display()))?;
    }
    match end {
        RunEnd::Completed => Ok(()),
        RunEnd::Interrupted => {
            eprintln_status("Interrupted: everything computed is in the run folder; the same command continues it.");
            Err(CommandError::Interrupted)
        }
    }
}

/// Refuses a group folder that holds runs of another question, before anything is computed: its table would mix them.
fn check_group(out: &Path, specs: &[RunSpec]) -> CommandResult {
    if !out.exists() {
        return Ok(());
    }
    for folder in report::runs_inside(out)? {
        let existing = folder::read_manifest(&folder)?;
        for spec in specs {
            let same_name = folder.ends_with(spec.preconditioner.label());
            // Runs of other preconditioners may stand beside this one; everything else has to agree.
            let preconditioner = if same_name { spec.preconditioner.clone() } else { existing.spec.preconditioner.clone() };
            let asked = Manifest { spec: RunSpec { preconditioner, ..spec.clone() }, ..existing.clone() };
            let differences = existing.differences(&asked, false);
            if !differences.is_empty() {
                return Err(folder::FolderError::DifferentRun { path: folder, differences }.into());
            }
        }
    }
    Ok(())
}

/// One preconditioner: calibrate, open the folder, compute what it lacks, write the result.
fn one_run(
    args: &EstimateArgs,
    problem: &Problem,
    preconditioning: &Preconditioning,
    spec: RunSpec,
    settings: RadialSpec,
    folder: &Path,
    interrupt: &AtomicBool,
) -> Result<(Run, RunEnd), CommandError> {
    // A folder that holds this very run knows the pilot already.
    let pilot = folder::read_manifest(folder).ok().filter(|manifest| manifest.spec == spec).map(|manifest| manifest.pilot);
    let threads = args.threads.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
    let radial = problem.radial(&args.problem, &args.rays, preconditioning);
    let estimator = RadialEstimator::new(&*problem.objective, radial, settings, pilot, Directions::Kept).map_err(radial_error)?;
    let label = spec.preconditioner.label().to_owned();
    let mut manifest = Manifest::new(spec, estimator.center_norm_squared(), estimator.pilot(), args.samples, args.shard);
    manifest.dual_norm_squared = estimator.dual_norm_squared();
    manifest.notes.insert("model_folder".to_owned(), json!(problem.model.checkpoint.folder));
    manifest.notes.insert("sigma_choice".to_owned(), json!(problem.sigma_choice));
    let (mut run_folder, mut samples) = RunFolder::open::<Sample>(folder, &manifest)?;
    // The folder's own record counts: it may ask for more samples than this command, and holds the time spent so far.
    let manifest = folder::read_manifest(folder)?;
    let present: BTreeSet<u64> = samples.iter().map(Record::index).collect();
    let total = args.shard.indices(args.samples).count() as u64;
    let mut progress = RunProgress::new(&label, total, &samples);
    let began = Instant::now();
    let workers = Workers::automatic(threads, problem.objective.dimension());
    let computed_before = samples.len();
    let plan = Plan { samples: args.samples, shard: args.shard, present: &present, workers, interrupt };
    let outcome = driver::run(&estimator, &mut run_folder, plan, |sample| {
        progress.add(&sample);
        samples.push(sample);
    });
    progress.finish();
    let end = outcome.map_err(|error| anyhow!("{error}; what was computed before is in {}", folder.display()))?;
    samples.sort_by_key(|sample| sample.index);
    let mut seconds = folder::read_result(folder).map_or(0.0, |result: RunResult| result.seconds);
    if samples.len() > computed_before {
        seconds += began.elapsed().as_secs_f64();
    }
    let result = RunResult::of(&manifest, &samples, seconds);
    run_folder.write_result(&result)?;
    Ok((Run { folder: folder.to_owned(), manifest, samples, result }, end))
}

/// Figures of every run, and of all together in the folder above them.
pub fn finish(runs: &[Run], group: Option<&Path>) -> CommandResult {
    for run in runs {
        present::figures(std::slice::from_ref(run), &run.folder)?;
    }
    if let Some(group) = group {
        present::figures(runs, group)?;
        let results: Vec<&RunResult> = runs.iter().map(|run| &run.result).collect();
        folder::write_json(&group.join("comparison.json"), &results)?;
    }
    Ok(())
}

/// An object for one run, an array for several.
pub fn print_results(runs: &[Run]) -> CommandResult {
    match runs {
        [one] => print_json(&one.result),
        several => print_json(&several.iter().map(|run| &run.result).collect::<Vec<_>>()),
    }
}

/// `runs/MODEL-HASH`: the hash is that of everything that decides the samples, so that every question has its own folder.
fn default_out(model: &str, specs: &[RunSpec], args: &EstimateArgs) -> Result<PathBuf, CommandError> {
    use sha2::{Digest, Sha256};
    let text = serde_json::to_string(&(specs, args.shard))?;
    let hash: String = Sha256::digest(text.as_bytes()).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    Ok(Path::new("runs").join(format!("{model}-{hash}")))
}
