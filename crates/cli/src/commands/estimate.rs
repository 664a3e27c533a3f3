//! `estimate`: the main job. One file per estimator; this one resolves what they share and shows them together.

mod annealed;
pub mod comparison;
mod joint;
mod radial;
mod spectral;

use std::fmt::Display;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::anyhow;
use basin_volume::run::answer::Answer;
use basin_volume::run::driver::RunEnd;
use basin_volume::run::folder::{self, names};
use basin_volume::run::manifest::Manifest;
use basin_volume::spec::{EstimatorSpec, PreconditionerSpec, RunSpec};
use serde_json::Value;

use self::comparison::{Shelf, present_shelves};
use crate::args::{Device, EstimateArgs, EstimatorChoice};
use crate::commands::threads;
use crate::error::{CommandError, CommandResult};
use crate::problem::Problem;
use crate::target::eprintln_status;

/// More samples than anyone can mean.
const MOST_SAMPLES: u64 = 1_000_000_000;

/// Rays of a run, unless `--samples` says otherwise.
pub const RAYS: u64 = radial::SAMPLES;

/// What several runs say side by side, in the folder above them.
pub const COMPARISON: &str = "comparison.json";

/// The estimators that there are, in the order in which they are shown.
pub const FAMILIES: &[&dyn Family] = &[&radial::Radial, &spectral::Spectral, &annealed::Annealed];

/// An estimator as the commands see it: `estimate`, `merge` and `report` know no other.
pub trait Family: Sync {
    /// The name on the command line, in manifests and of folders.
    fn name(&self) -> &'static str;

    /// Understands the request and refuses what cannot be, before anything is computed.
    fn prepare<'a>(&self, request: &'a Request<'a>) -> Result<Box<dyn Prepared + 'a>, CommandError>;

    /// Reads run folders of this estimator and computes their results again.
    fn read(&self, folders: &[PathBuf]) -> Result<Box<dyn Runs>, CommandError>;

    /// Whether its runs can be split into shards.
    fn has_shards(&self) -> bool {
        true
    }

    /// Flags of its own that were typed, for other estimators to refuse.
    fn own_flags(&self, args: &EstimateArgs) -> Vec<&'static str> {
        let _ = args;
        Vec::new()
    }

    /// Joins the shards of one run into a new folder, result included.
    fn merge(&self, folders: &[PathBuf], out: &Path) -> CommandResult;
}

/// A request that an estimator has understood.
pub trait Prepared {
    /// What decides the answers, as far as it is known before anything is computed: one per run.
    fn specs(&self) -> &[RunSpec];

    /// How many records a complete run has over all shards; `None` where only the estimator itself can tell whether a run is complete.
    fn records(&self) -> Option<u64>;

    /// Computes what the folder lacks: a run folder, or a folder of them if there are several specs.
    fn run(self: Box<Self>, out: &Path) -> Result<(Box<dyn Runs>, RunEnd), CommandError>;
}

/// Runs of one estimator that answer the same question, computed or read.
pub trait Runs: Send {
    /// Their folders and manifests.
    fn manifests(&self) -> Vec<(&Path, &Manifest)>;

    /// Writes results and figures of every run, and of all together into the folder above them if there is one.
    fn write(&self, group: Option<&Path>) -> CommandResult;

    /// Heading, table and words.
    fn text(&self) -> String;

    /// The results, one per run.
    fn json(&self) -> Result<Vec<Value>, CommandError>;

    /// Their common view.
    fn answers(&self) -> Vec<Answer>;

    /// What they say together, where they measure different sets and none of them stands for all.
    fn verdict(&self) -> Option<String> {
        None
    }
}

/// What was asked of an estimator, resolved as far as all have it in common.
pub struct Request<'a> {
    pub args: &'a EstimateArgs,
    pub problem: &'a Problem,
    pub threads: NonZeroUsize,
    pub interrupt: &'a AtomicBool,
    /// Names and values of `--set` that are meant for this estimator.
    settings: Vec<(&'a str, &'a str)>,
    /// Whether `--samples` is meant for this estimator.
    takes_samples: bool,
}

impl<'a> Request<'a> {
    /// What is asked of one estimator of those in `settings`, which are (estimator, name, value) of every `--set`.
    pub fn new(
        family: &dyn Family,
        args: &'a EstimateArgs,
        problem: &'a Problem,
        settings: &[(&'static str, &'a str, &'a str)],
        interrupt: &'a AtomicBool,
    ) -> Self {
        let settings = settings.iter().filter(|(name, ..)| *name == family.name()).map(|&(_, name, value)| (name, value)).collect();
        // Rays, probes and chains are not the same thing.
        let takes_samples = args.estimator != EstimatorChoice::All || family.name() == "radial";
        Self { args, problem, threads: threads(args.threads), interrupt, settings, takes_samples }
    }

    /// Refuses an accelerator: this estimator needs gradients, which are computed on the processor.
    pub fn needs_processor(&self, estimator: &str) -> Result<(), CommandError> {
        if self.args.problem.device.is_some_and(|device| device != Device::Cpu) {
            return Err(CommandError::usage(format!(
                "--device does not go with --estimator {estimator}: gradients are computed on the processor"
            )));
        }
        Ok(())
    }

    /// Writes the values of `--set` into the settings.
    pub fn apply_settings(&self, spec: &mut EstimatorSpec) -> CommandResult {
        for (name, value) in &self.settings {
            let typed = if self.args.estimator == EstimatorChoice::All { format!("{}.{name}", spec.name()) } else { (*name).to_owned() };
            spec.set(name, value).map_err(|error| CommandError::usage(format!("--set {typed}={value}: {error}")))?;
        }
        Ok(())
    }

    /// Whether `--set` names this setting.
    pub fn is_set(&self, name: &str) -> bool {
        self.settings.iter().any(|(set, _)| *set == name)
    }

    /// The number of samples asked for.
    pub fn samples(&self, default: u64) -> Result<u64, CommandError> {
        match self.args.samples.filter(|_| self.takes_samples) {
            Some(samples) if !(1..=MOST_SAMPLES).contains(&samples) => {
                Err(CommandError::usage(format!("--samples is {samples}: expected 1 to {MOST_SAMPLES}")))
            }
            samples => Ok(samples.unwrap_or(default)),
        }
    }

    /// What decides the answer of one run.
    pub fn spec(&self, preconditioner: PreconditionerSpec, estimator: EstimatorSpec) -> RunSpec {
        RunSpec {
            problem: self.problem.record.clone(),
            dimension: self.problem.moving.dimension(),
            prior: self.problem.prior,
            cutoff: self.args.rays.cutoff,
            l2_reg: self.args.rays.l2_reg,
            seed: self.args.rays.seed,
            preconditioner,
            estimator,
        }
    }
}

pub fn run(args: &EstimateArgs, interrupt: &AtomicBool) -> CommandResult {
    if args.samples == Some(0) {
        return Err(CommandError::usage(format!("--samples is 0: expected 1 to {MOST_SAMPLES}")));
    }
    if args.problem.data.data.len() > 1 {
        return joint::run(args, interrupt);
    }
    let families = chosen(args)?;
    refuse_flags_of_others(args, &families)?;
    let settings = parse_settings(args, &families)?;
    let problem = Problem::resolve(&args.problem, &args.rays, interrupt)?;
    if families.iter().any(|family| family.name() == radial::Radial.name()) {
        radial::check_maps(args, &problem)?;
    }
    let is_all = args.estimator == EstimatorChoice::All;
    let requests: Vec<Request<'_>> = families.iter().map(|family| Request::new(*family, args, &problem, &settings, interrupt)).collect();
    let prepared: Vec<_> = families.iter().zip(&requests).map(|(family, request)| family.prepare(request)).collect::<Result<_, _>>()?;
    let specs: Vec<RunSpec> = prepared.iter().flat_map(|prepared| prepared.specs().iter().cloned()).collect();
    let out = match &args.out {
        Some(out) => out.clone(),
        None => default_out(&problem.model.name, &specs, args)?,
    };
    if is_all && out.join(names::MANIFEST).exists() {
        return Err(anyhow!("{} holds a single run, but all estimators are asked for: choose another folder", out.display()).into());
    }
    if is_all {
        folder::check_vacant_group(&out, families.iter().map(|family| family.name()))?;
    }
    let (shelves, end) = until_interrupted(families.iter().zip(prepared), |(family, prepared)| {
        let folder = if is_all { out.join(family.name()) } else { out.clone() };
        let is_group = prepared.specs().len() > 1;
        let (runs, end) = prepared.run(&folder)?;
        Ok((Shelf { folder, is_group, runs }, end))
    })?;
    present_shelves(&shelves, is_all.then_some(out.as_path()), &out, args.json)?;
    ended(end)
}

/// Does one job after the other until one is interrupted: what those before it gave is there to be shown.
fn until_interrupted<J, R>(
    jobs: impl IntoIterator<Item = J>,
    mut work: impl FnMut(J) -> Result<(R, RunEnd), CommandError>,
) -> Result<(Vec<R>, RunEnd), CommandError> {
    let mut done = Vec::new();
    for job in jobs {
        match work(job) {
            Ok((result, end)) => {
                done.push(result);
                if end == RunEnd::Interrupted {
                    return Ok((done, end));
                }
            }
            Err(CommandError::Interrupted) if !done.is_empty() => return Ok((done, RunEnd::Interrupted)),
            Err(error) => return Err(error),
        }
    }
    Ok((done, RunEnd::Completed))
}

/// What a run says at its end.
fn ended(end: RunEnd) -> CommandResult {
    match end {
        RunEnd::Completed => Ok(()),
        RunEnd::Interrupted => {
            eprintln_status("Interrupted: everything computed is in the run folder; the same command continues it.");
            Err(CommandError::Interrupted)
        }
    }
}

/// Refuses flags of estimators that are not asked for.
pub fn refuse_flags_of_others(args: &EstimateArgs, families: &[&'static dyn Family]) -> CommandResult {
    for other in FAMILIES.iter().filter(|other| families.iter().all(|family| family.name() != other.name())) {
        if let (Some(flag), Some(asked)) = (other.own_flags(args).first(), families.first()) {
            let (owner, name) = (other.name(), asked.name());
            return Err(CommandError::usage(format!("{flag} belongs to --estimator {owner}: leave it out with --estimator {name}")));
        }
    }
    Ok(())
}

/// The estimator with this name.
pub fn family(name: &str) -> Result<&'static dyn Family, CommandError> {
    FAMILIES.iter().copied().find(|family| family.name() == name).ok_or_else(|| {
        let known: Vec<&str> = FAMILIES.iter().map(|family| family.name()).collect();
        CommandError::usage(format!("the {name} estimator is not built in: expected {}", known.join(" or ")))
    })
}

fn chosen(args: &EstimateArgs) -> Result<Vec<&'static dyn Family>, CommandError> {
    match args.estimator {
        EstimatorChoice::All if args.shard.is_all() => Ok(FAMILIES.to_vec()),
        EstimatorChoice::All => {
            let (with, without): (Vec<_>, Vec<_>) = FAMILIES.iter().copied().partition(|family| family.has_shards());
            let names: Vec<&str> = without.iter().map(|family| family.name()).collect();
            eprintln_status(&format!("A shard leaves out what has none: run --estimator {} by itself.", names.join(", ")));
            Ok(with)
        }
        one => Ok(vec![family(one.name())?]),
    }
}

/// `--set name=value`, as (estimator, name, value). With several estimators the name says which: `radial.max_evaluations=40`.
pub fn parse_settings<'a>(
    args: &'a EstimateArgs,
    families: &[&'static dyn Family],
) -> Result<Vec<(&'static str, &'a str, &'a str)>, CommandError> {
    let refuse = |text: &str, why: &dyn Display| CommandError::usage(format!("--set {text}: {why}"));
    let parse = |text: &'a String| {
        let (name, value) = text.split_once('=').ok_or_else(|| refuse(text, &"expected NAME=VALUE"))?;
        match (name.split_once('.'), families) {
            (None, [one]) if args.estimator != EstimatorChoice::All => Ok((one.name(), name, value)),
            (None, _) => Err(refuse(text, &"with several estimators the name says which, ESTIMATOR.NAME=VALUE, such as spectral.steps=40")),
            (Some((estimator, name)), _) => match families.iter().find(|family| family.name() == estimator) {
                Some(family) => Ok((family.name(), name, value)),
                None => Err(refuse(text, &format!("there is no estimator '{estimator}' in this run"))),
            },
        }
    };
    args.set.iter().map(parse).collect()
}

/// `runs/MODEL-HASH`: the hash is that of everything that decides the samples, so that every question has its own folder.
fn default_out(model: &str, specs: &[RunSpec], args: &EstimateArgs) -> Result<PathBuf, CommandError> {
    let text = serde_json::to_string(&(specs, args.shard))?;
    Ok(Path::new("runs").join(format!("{model}-{}", short_hash(&text))))
}

/// Eight hexadecimal digits of a text.
pub fn short_hash(text: &str) -> String {
    use sha2::{Digest, Sha256};
    basin_volume_data::hexadecimal(&Sha256::digest(text.as_bytes())[..4])
}
