//! `--estimator radial`: rays from the center, one run per preconditioner.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::anyhow;
use basin_volume::estimator::radial::{RadialError, RadialEstimator, Sample};
use basin_volume::run::answer::Answer;
use basin_volume::run::driver::{self, Plan, RunEnd};
use basin_volume::run::folder::{self, RunFolder, names};
use basin_volume::run::manifest::Manifest;
use basin_volume::run::record::Record;
use basin_volume::run::result::RunResult;
use basin_volume::spec::{EstimatorSpec, PreconditionerSpec, Proposal, RadialSpec, RunSpec};
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde_json::{Value, json};

use super::{COMPARISON, Family, Prepared, Request, Runs, until_interrupted};
use crate::args::{EstimateArgs, given};
use crate::commands::report;
use crate::curvature::Session;
use crate::error::{CommandError, CommandResult};
use crate::preconditioning::{self, Preconditioning};
use crate::present::{self, By, Run};
use crate::problem::{Interruptible, Problem, Resources, radial_error};
use crate::progress::RunProgress;
use crate::target::eprintln_status;

/// Flags of the radial estimator that were typed.
fn own_flags(args: &EstimateArgs) -> Vec<&'static str> {
    let rays = &args.rays;
    let first = given(&[("--preconditioner", !args.preconditioner.is_empty())]);
    let others = given(&[
        ("--proposal", rays.proposal.is_some()),
        ("--radius-tolerance", rays.radius_tolerance.is_some()),
        ("--profile", args.profile > 0),
        ("--per-sequence", args.per_sequence),
    ]);
    [first, rays.map_flags(), others].concat()
}

/// Rays per preconditioner, unless `--samples` says otherwise.
pub const SAMPLES: u64 = 100;

/// Rays from the center.
pub struct Radial;

impl Family for Radial {
    fn name(&self) -> &'static str {
        "radial"
    }

    fn prepare<'a>(&self, request: &'a Request<'a>) -> Result<Box<dyn Prepared + 'a>, CommandError> {
        Ok(Box::new(prepare(request)?))
    }

    fn read(&self, folders: &[PathBuf]) -> Result<Box<dyn Runs>, CommandError> {
        let runs = folders.iter().map(|folder| read(folder)).collect::<Result<_, _>>()?;
        Ok(Box::new(RadialRuns { runs }))
    }

    fn own_flags(&self, args: &EstimateArgs) -> Vec<&'static str> {
        own_flags(args)
    }

    fn merge(&self, folders: &[PathBuf], out: &Path) -> CommandResult {
        let seconds: f64 = folders.iter().filter_map(|folder| folder::read_result(folder)).map(|result: RunResult| result.seconds).sum();
        folder::merge::<Sample>(folders, out)?;
        let mut run = read(out)?;
        run.result.seconds = seconds;
        folder::write_json(&out.join(names::RESULT), &run.result)?;
        Ok(())
    }
}

/// Reads a run folder and computes its result again.
pub fn read(path: &Path) -> Result<Run, CommandError> {
    let manifest = folder::read_manifest(path)?;
    let samples: Vec<Sample> = folder::read_samples(path)?;
    let seconds = folder::read_result(path).map_or(0.0, |result: RunResult| result.seconds);
    let result = RunResult::of(&manifest, &samples, seconds);
    Ok(Run { folder: path.to_owned(), manifest, samples, result, data: None })
}

/// One run per preconditioner.
struct RadialRuns {
    runs: Vec<Run>,
}

impl Runs for RadialRuns {
    fn manifests(&self) -> Vec<(&Path, &Manifest)> {
        self.runs.iter().map(|run| (run.folder.as_path(), &run.manifest)).collect()
    }

    fn write(&self, group: Option<&Path>) -> CommandResult {
        for run in &self.runs {
            folder::write_json(&run.folder.join(names::RESULT), &run.result)?;
            present::figures(&[run], By::Preconditioner, &run.folder)?;
        }
        if let Some(group) = group {
            present::figures(&self.runs.iter().collect::<Vec<_>>(), By::Preconditioner, group)?;
            let results: Vec<&RunResult> = self.runs.iter().map(|run| &run.result).collect();
            folder::write_json(&group.join(COMPARISON), &results)?;
        }
        Ok(())
    }

    fn text(&self) -> String {
        present::report(&self.runs.iter().collect::<Vec<_>>(), By::Preconditioner)
    }

    fn json(&self) -> Result<Vec<Value>, CommandError> {
        Ok(self.runs.iter().map(|run| serde_json::to_value(&run.result)).collect::<Result<_, _>>()?)
    }

    fn answers(&self) -> Vec<Answer> {
        self.runs.iter().map(|run| Answer::from(&run.result)).collect()
    }
}

/// What is asked, before anything is computed.
struct Asked<'a> {
    request: &'a Request<'a>,
    choices: Vec<String>,
    settings: RadialSpec,
    samples: u64,
    /// What needs no computing; the rest has to know its folder, so that a run that is continued finds it there.
    at_hand: Vec<Option<Preconditioning>>,
    specs: Vec<RunSpec>,
}

fn prepare<'a>(request: &'a Request<'a>) -> Result<Asked<'a>, CommandError> {
    let Request { args, problem, .. } = request;
    let choices = choices(args, problem);
    if let Some(twice) = choices.iter().enumerate().find(|(i, c)| choices[..*i].contains(c)) {
        return Err(CommandError::usage(format!("--preconditioner names {} twice", twice.1)));
    }
    let settings = settings(request)?;
    for choice in &choices {
        preconditioning::check_proposal(choice, problem, &args.rays, settings.proposal)?;
    }
    let mut asked = Asked { request, choices, settings, samples: request.samples(SAMPLES)?, at_hand: Vec::new(), specs: Vec::new() };
    let resolve = |choice: &String| {
        if preconditioning::computed(choice).is_some() { Ok(None) } else { resolve(request, settings, choice, None).map(Some) }
    };
    let at_hand = asked.choices.iter().map(resolve).collect::<Result<Vec<_>, _>>()?;
    asked.specs = at_hand
        .iter()
        .zip(&asked.choices)
        .map(|(found, choice)| {
            asked.spec(found.as_ref().map_or_else(|| preconditioning::placeholder(choice, &args.rays), |found| found.spec.clone()))
        })
        .collect();
    asked.at_hand = at_hand;
    let label = |spec: &RunSpec| spec.preconditioner.label().to_owned();
    let specs = &asked.specs;
    if let Some((_, twice)) = specs.iter().enumerate().find(|(i, s)| specs[..*i].iter().any(|t| label(t) == label(s))) {
        return Err(CommandError::usage(format!(
            "two preconditioners are called '{}': rename one of the files or estimate them apart",
            label(twice)
        )));
    }
    Ok(asked)
}

/// The preconditioners asked for.
fn choices(args: &EstimateArgs, problem: &Problem) -> Vec<String> {
    match args.preconditioner.as_slice() {
        [] if problem.model.is_builtin => vec!["none".to_owned(), "adam2".to_owned()],
        [] => vec!["none".to_owned()],
        given => given.to_vec(),
    }
}

/// Refuses flags of maps where no preconditioner has one.
pub fn check_maps(args: &EstimateArgs, problem: &Problem) -> CommandResult {
    preconditioning::check_maps(&args.rays.map_flags(), &choices(args, problem))
}

/// The settings of rays that flags and `--set` ask for.
pub fn settings(request: &Request<'_>) -> Result<RadialSpec, CommandError> {
    let Request { args, problem, .. } = request;
    if args.per_sequence && problem.model.language_model().is_none() {
        return Err(CommandError::usage(format!("--per-sequence is for language models, which {} is not", problem.model.name)));
    }
    let flags = RadialSpec {
        radius_tolerance: args.rays.radius_tolerance,
        profile_points: args.profile,
        costs_by_part: args.per_sequence,
        proposal: args.rays.proposal.map_or_else(Proposal::default, Into::into),
        ..RadialSpec::default()
    };
    let typed = [
        ("--radius-tolerance", "radius_tolerance", args.rays.radius_tolerance.is_some()),
        ("--profile", "profile_points", args.profile > 0),
        ("--per-sequence", "costs_by_part", args.per_sequence),
        ("--proposal", "proposal", args.rays.proposal.is_some()),
    ];
    if let Some((flag, name, _)) = typed.into_iter().find(|(_, name, is_typed)| *is_typed && request.is_set(name)) {
        return Err(CommandError::usage(format!("{flag} and --set {name} say the same: leave one of them out")));
    }
    let mut settings = EstimatorSpec::Radial(flags);
    request.apply_settings(&mut settings)?;
    match settings {
        EstimatorSpec::Radial(settings) if settings.costs_by_part && problem.model.language_model().is_none() => {
            Err(CommandError::usage(format!("--set costs_by_part is for language models, which {} is not", problem.model.name)))
        }
        EstimatorSpec::Radial(settings) => Ok(settings),
        other => Err(anyhow!("the settings are those of the {} estimator", other.name()).into()),
    }
}

/// Resolves a preconditioner for rays with these settings. A curvature that has to be computed is kept in `folder`.
pub fn resolve(request: &Request<'_>, settings: RadialSpec, choice: &str, folder: Option<&Path>) -> Result<Preconditioning, CommandError> {
    let Request { args, problem, threads, interrupt, .. } = request;
    let session = Session { threads: *threads, budget: args.problem.memory, interrupt };
    let preconditioning = Preconditioning::resolve(choice, problem, (&args.rays, settings.proposal), &session, folder)?;
    preconditioning.check(settings.proposal, args.rays.proposal.is_some())?;
    Ok(preconditioning)
}

impl Asked<'_> {
    /// The name of a run among others.
    fn label<'s>(&self, spec: &'s RunSpec, choice: &'s str) -> &'s str {
        if preconditioning::computed(choice).is_some() { choice } else { spec.preconditioner.label() }
    }

    /// Refuses the folder of another run before a curvature is computed that would be kept there.
    fn check_single(&self, out: &Path) -> CommandResult {
        let existing = folder::read_manifest(out)?;
        let (spec, choice) = (&self.specs[0], &self.choices[0]);
        let (here, asked) = (existing.spec.preconditioner.label(), self.label(spec, choice));
        let is_known = self.at_hand[0].is_some();
        let preconditioner = if is_known { spec.preconditioner.clone() } else { existing.spec.preconditioner.clone() };
        let manifest = Manifest { spec: RunSpec { preconditioner, ..spec.clone() }, ..existing.clone() };
        let mut differences = existing.differences(&manifest, false);
        let is_same_estimator = existing.spec.estimator.name() == spec.estimator.name();
        if is_same_estimator && !is_known && here != asked {
            differences.push(format!("preconditioner: {here} in the folder, {asked} asked for"));
        }
        if differences.is_empty() { Ok(()) } else { Err(folder::FolderError::DifferentRun { path: out.to_owned(), differences }.into()) }
    }

    fn spec(&self, preconditioner: PreconditionerSpec) -> RunSpec {
        self.request.spec(preconditioner, EstimatorSpec::Radial(self.settings))
    }
}

impl Prepared for Asked<'_> {
    fn specs(&self) -> &[RunSpec] {
        &self.specs
    }

    fn records(&self) -> Option<u64> {
        Some(self.samples)
    }

    fn run(self: Box<Self>, out: &Path) -> Result<(Box<dyn Runs>, RunEnd), CommandError> {
        let Request { args, problem, threads, interrupt, .. } = self.request;
        let is_group = self.specs.len() > 1;
        if is_group && out.join(names::MANIFEST).exists() {
            return Err(
                anyhow!("{} holds a single run, but several preconditioners are asked for: choose another folder", out.display()).into()
            );
        }
        let folder = |label: &str| if is_group { out.join(label) } else { out.to_owned() };
        // Folders of another question, or of something else, are refused before anything is computed.
        if is_group {
            folder::check_vacant_group(out, self.specs.iter().zip(&self.choices).map(|(spec, choice)| self.label(spec, choice)))?;
            let known: Vec<RunSpec> =
                self.at_hand.iter().zip(&self.specs).filter(|(found, _)| found.is_some()).map(|(_, spec)| spec.clone()).collect();
            check_group(out, &known)?;
        } else if out.join(names::MANIFEST).exists() {
            self.check_single(out)?;
        }
        let preconditionings: Vec<Preconditioning> = self
            .at_hand
            .iter()
            .zip(&self.choices)
            .map(|(found, choice)| found.clone().map_or_else(|| resolve(self.request, self.settings, choice, Some(&folder(choice))), Ok))
            .collect::<Result<_, _>>()?;
        let specs: Vec<RunSpec> = preconditionings.iter().map(|preconditioning| self.spec(preconditioning.spec.clone())).collect();
        if is_group {
            check_group(out, &specs)?;
        }
        let resources = resources(self.request, &preconditionings, self.settings)?;
        let pool = ThreadPoolBuilder::new().num_threads(threads.get()).build()?;
        let objective = pool.install(|| problem.objective(&resources))?;
        let objective = Interruptible { objective: &*objective, interrupt, is_calibrating: AtomicBool::new(false) };
        let setup = Setup { args, problem, objective, resources, settings: self.settings, samples: self.samples, pool };
        let (runs, end) = until_interrupted(preconditionings.iter().zip(specs), |(preconditioning, spec)| {
            let name = spec.preconditioner.label().to_owned();
            one_run(&setup, preconditioning, (spec, &name), &folder(&name))
        })?;
        Ok((Box::new(RadialRuns { runs }), end))
    }
}

/// Decides what is kept and says so.
pub fn resources(request: &Request<'_>, preconditionings: &[Preconditioning], settings: RadialSpec) -> Result<Resources, CommandError> {
    let Request { args, problem, threads, .. } = request;
    let resources = problem.resources(preconditionings, settings.proposal, *threads, args.problem.memory)?;
    if let Some(plan) = &resources.memory {
        eprintln_status(&plan.to_string());
    }
    Ok(resources)
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
pub struct Setup<'a> {
    pub args: &'a EstimateArgs,
    pub problem: &'a Problem,
    pub objective: Interruptible<'a>,
    pub resources: Resources,
    pub settings: RadialSpec,
    pub samples: u64,
    /// All threads, for what is done once.
    pub pool: ThreadPool,
}

/// One preconditioner: calibrate, open the folder, compute what it lacks, write the result.
///
/// `name` is what tells it from the other runs of its group.
pub fn one_run(
    setup: &Setup<'_>,
    preconditioning: &Preconditioning,
    (spec, name): (RunSpec, &str),
    folder: &Path,
) -> Result<(Run, RunEnd), CommandError> {
    let Setup { args, problem, objective, resources, settings, samples: count, pool } = setup;
    // A folder that holds this very run knows the pilot already.
    let pilot = folder::read_manifest(folder).ok().filter(|manifest| manifest.spec == spec).and_then(|manifest| manifest.pilot);
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
    let mut manifest = Manifest::new(spec, estimator.center_norm_squared(), Some(estimator.pilot()), *count, args.shard);
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
    let total = args.shard.indices(*count).count() as u64;
    let mut progress = RunProgress::new(name, total, &samples);
    let began = Instant::now();
    let computed_before = samples.len();
    let plan = Plan { samples: *count, shard: args.shard, present: &present, workers: resources.workers, interrupt: objective.interrupt };
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
    Ok((Run { folder: folder.to_owned(), manifest, samples, result, data: None }, end))
}
