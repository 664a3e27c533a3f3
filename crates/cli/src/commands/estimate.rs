//! `estimate`: the main job.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::anyhow;
use basin_volume::estimator::radial::{RadialError, RadialEstimator, Sample};
use basin_volume::run::driver::{self, Plan, RunEnd};
use basin_volume::run::folder::{self, RunFolder, names};
use basin_volume::run::manifest::Manifest;
use basin_volume::run::record::Record;
use basin_volume::run::result::RunResult;
use basin_volume::spec::{EstimatorSpec, PreconditionerSpec, RadialSpec, RunSpec};
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde_json::json;

use super::{print, print_json, report};
use crate::args::EstimateArgs;
use crate::curvature::Session;
use crate::error::{CommandError, CommandResult};
use crate::preconditioning::{self, Preconditioning};
use crate::present::{self, Run};
use crate::problem::{Interruptible, Problem, Resources, radial_error};
use crate::progress::RunProgress;
use crate::target::eprintln_status;

/// More samples than anyone can mean.
const MOST_SAMPLES: u64 = 1_000_000_000;

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
    let threads = args.threads.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
    let session = Session { threads, budget: args.problem.memory, interrupt };
    let resolve = |choice: &String, folder: Option<&Path>| Preconditioning::resolve(choice, &problem, &args.rays, &session, folder);
    // What has to be computed first has to know its folder, so that a run that is continued finds it there.
    let at_hand: Vec<Option<Preconditioning>> = choices
        .iter()
        .map(|choice| if preconditioning::computed(choice).is_some() { Ok(None) } else { resolve(choice, None).map(Some) })
        .collect::<Result<_, _>>()?;
    if args.per_sequence && problem.model.language_model().is_none() {
        return Err(CommandError::usage(format!("--per-sequence is for language models, which {} is not", problem.model.name)));
    }
    let settings = RadialSpec {
        radius_tolerance: args.rays.radius_tolerance,
        profile_points: args.profile,
        costs_by_part: args.per_sequence,
        ..RadialSpec::default()
    };
    let spec = |preconditioner: PreconditionerSpec| RunSpec {
        problem: problem.record.clone(),
        dimension: problem.moving.dimension(),
        prior: problem.prior,
        cutoff: args.rays.cutoff,
        l2_reg: args.rays.l2_reg,
        seed: args.rays.seed,
        preconditioner,
        estimator: EstimatorSpec::Radial(settings),
    };
    let asked: Vec<RunSpec> = at_hand
        .iter()
        .zip(&choices)
        .map(|(found, choice)| {
            spec(found.as_ref().map_or_else(|| preconditioning::placeholder(choice, &args.rays), |found| found.spec.clone()))
        })
        .collect();
    let out = match &args.out {
        Some(out) => out.clone(),
        None => default_out(&problem.model.name, &asked, args)?,
    };
    let is_group = asked.len() > 1;
    if is_group && out.join(names::MANIFEST).exists() {
        return Err(
            anyhow!("{} holds a single run, but several preconditioners are asked for: choose another folder", out.display()).into()
        );
    }
    if let Some(twice) =
        asked.iter().enumerate().find(|(i, s)| asked[..*i].iter().any(|t| t.preconditioner.label() == s.preconditioner.label()))
    {
        let label = twice.1.preconditioner.label();
        return Err(CommandError::usage(format!(
            "two preconditioners are called '{label}': rename one of the files or estimate them apart"
        )));
    }
    let folder = |label: &str| if is_group { out.join(label) } else { out.clone() };
    if is_group && out.exists() {
        // A group of another question is refused before anything is computed.
        let known: Vec<RunSpec> = at_hand.iter().zip(&asked).filter(|(found, _)| found.is_some()).map(|(_, spec)| spec.clone()).collect();
        check_group(&out, &known)?;
    }
    let preconditionings: Vec<Preconditioning> = at_hand
        .into_iter()
        .zip(&choices)
        .map(|(found, choice)| found.map_or_else(|| resolve(choice, Some(&folder(choice))), Ok))
        .collect::<Result<_, _>>()?;
    let specs: Vec<RunSpec> = preconditionings.iter().map(|preconditioning| spec(preconditioning.spec.clone())).collect();
    if is_group {
        check_group(&out, &specs)?;
    }
    let resources = problem.resources(&preconditionings, threads, args.problem.memory)?;
    if let Some(plan) = &resources.memory {
        eprintln_status(&plan.to_string());
    }
    let pool = ThreadPoolBuilder::new().num_threads(threads.get()).build()?;
    let objective = pool.install(|| problem.objective(&resources))?;
    let objective = Interruptible { objective: &*objective, interrupt, is_calibrating: AtomicBool::new(false) };
    let setup = Setup { args, problem: &problem, objective, resources, settings, pool };
    let mut runs = Vec::new();
    let mut end = RunEnd::Completed;
    for (preconditioning, spec) in preconditionings.iter().zip(specs) {
        if end == RunEnd::Interrupted {
            break;
        }
        let folder = folder(spec.preconditioner.label());
        match one_run(&setup, preconditioning, spec, &folder) {
            Ok((run, ended)) => {
                end = ended;
                runs.push(run);
            }
            // What the preconditioners before this one gave is there to be shown.
            Err(CommandError::Interrupted) if !runs.is_empty() => end = RunEnd::Interrupted,
            Err(error) => return Err(error),
        }
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

/// What all preconditioners have in common.
struct Setup<'a> {
    args: &'a EstimateArgs,
    problem: &'a Problem,
    objective: Interruptible<'a>,
    resources: Resources,
    settings: RadialSpec,
    /// All threads, for what is done once.
    pool: ThreadPool,
}

/// One preconditioner: calibrate, open the folder, compute what it lacks, write the result.
fn one_run(setup: &Setup<'_>, preconditioning: &Preconditioning, spec: RunSpec, folder: &Path) -> Result<(Run, RunEnd), CommandError> {
    let Setup { args, problem, objective, resources, settings, pool } = setup;
    // A folder that holds this very run knows the pilot already.
    let pilot = folder::read_manifest(folder).ok().filter(|manifest| manifest.spec == spec).map(|manifest| manifest.pilot);
    let radial = problem.radial(&args.rays, preconditioning);
    objective.is_calibrating.store(true, Ordering::Relaxed);
    let estimator = pool.install(|| RadialEstimator::new(objective, radial, *settings, pilot, resources.directions));
    objective.is_calibrating.store(false, Ordering::Relaxed);
    let estimator = match estimator {
        Err(RadialError::Objective(_)) if objective.interrupt.load(Ordering::Relaxed) => {
            eprintln_status("Interrupted before the first sample.");
            return Err(CommandError::Interrupted);
        }
        estimator => estimator.map_err(radial_error)?,
    };
    let label = spec.preconditioner.label().to_owned();
    let mut manifest = Manifest::new(spec, estimator.center_norm_squared(), estimator.pilot(), args.samples, args.shard);
    manifest.dual_norm_squared = estimator.dual_norm_squared();
    manifest.notes.insert("model".to_owned(), problem.model.provenance());
    if let Some(provenance) = &preconditioning.provenance {
        manifest.notes.insert("curvature".to_owned(), json!(provenance));
    }
    let data = problem.data.provenance();
    if !data.is_null() {
        manifest.notes.insert("data".to_owned(), data);
    }
    if let Some(plan) = &resources.memory {
        manifest.notes.insert("memory".to_owned(), json!(plan));
    }
    manifest.notes.insert("sigma_choice".to_owned(), json!(problem.sigma_choice));
    let (mut run_folder, mut samples) = RunFolder::open::<Sample>(folder, &manifest)?;
    // The folder's own record counts: it may ask for more samples than this command, and holds the time spent so far.
    let manifest = folder::read_manifest(folder)?;
    let present: BTreeSet<u64> = samples.iter().map(Record::index).collect();
    let total = args.shard.indices(args.samples).count() as u64;
    let mut progress = RunProgress::new(&label, total, &samples);
    let began = Instant::now();
    let computed_before = samples.len();
    let plan =
        Plan { samples: args.samples, shard: args.shard, present: &present, workers: resources.workers, interrupt: objective.interrupt };
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
