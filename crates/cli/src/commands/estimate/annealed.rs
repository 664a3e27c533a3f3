//! `--estimator annealed`: chains between a spring to the center and the tilted prior.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::anyhow;
use basin_volume::coordinates::Coordinates;
use basin_volume::estimator::annealed::{
    AnnealedEnd, AnnealedError, AnnealedEstimate, AnnealedEstimator, AnnealedProblem, AnnealedProgress, AnnealedRecord, Phase, Relaxation,
    RungSummary,
};
use basin_volume::max_cost::MaxCost;
use basin_volume::objective::{Differentiable, ObjectiveError};
use basin_volume::prior::Prior;
use basin_volume::run::answer::Answer;
use basin_volume::run::driver::RunEnd;
use basin_volume::run::folder::{self, RunFolder, names};
use basin_volume::run::manifest::Manifest;
use basin_volume::run::record::Record;
use basin_volume::run::states::FolderKeeper;
use basin_volume::spec::{AnnealedSpec, CoordinateChoice, EstimatorSpec, Metric, PreconditionerSpec, RunSpec, SetKind};
use basin_volume_models::curvature::StateMetrics;
use basin_volume_models::memory::size;
use comfy_table::{Table, presets};
use rayon::ThreadPoolBuilder;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Family, Prepared, Request, Runs};
use crate::args::{EstimateArgs, EstimatorChoice, SetChoice, given};
use crate::curvature::{allowed, backward_bytes};
use crate::error::{CommandError, CommandResult};
use crate::plot::{self, ladder};
use crate::present::{align_right, nats, problem_name};
use crate::problem::{Problem, Resources};
use crate::target::eprintln_status;

/// More sweeps than anyone can wait for.
const MOST_SWEEPS: u64 = 10_000;
/// Vectors of length `D` that a chain takes, its states on the way to the disk included.
const VECTORS: u64 = 11;

/// Chains.
pub struct Annealed;

impl Family for Annealed {
    fn name(&self) -> &'static str {
        "annealed"
    }

    fn prepare<'a>(&self, request: &'a Request<'a>) -> Result<Box<dyn Prepared + 'a>, CommandError> {
        Ok(Box::new(prepare(request)?))
    }

    fn read(&self, folders: &[PathBuf]) -> Result<Box<dyn Runs>, CommandError> {
        let runs = folders.iter().map(|folder| read(folder)).collect::<Result<_, _>>()?;
        Ok(Box::new(AnnealedRuns { runs }))
    }

    fn has_shards(&self) -> bool {
        false
    }

    fn own_flags(&self, args: &EstimateArgs) -> Vec<&'static str> {
        given(&[("--set-kind", args.set_kind.is_some()), ("--continue", args.extend)])
    }

    fn merge(&self, _folders: &[PathBuf], _out: &Path) -> CommandResult {
        Err(CommandError::usage("chains have no shards to be joined: run them with different --seed and compare"))
    }
}

/// `result.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct AnnealedResult {
    format: String,
    format_version: u32,
    /// The common view.
    answer: Answer,
    bits_per_parameter: Option<f64>,
    seconds: f64,
    #[serde(flatten)]
    estimate: Option<AnnealedEstimate>,
}

impl AnnealedResult {
    fn of(manifest: &Manifest, spec: &AnnealedSpec, estimate: Option<AnnealedEstimate>, seconds: f64) -> Self {
        let answer = match &estimate {
            Some(estimate) => estimate.answer(spec, seconds),
            None => Answer {
                estimator: "annealed".to_owned(),
                measures: AnnealedEstimate::measured(spec),
                quantity: "log-probability".to_owned(),
                log_probability: f64::NAN,
                interval: (None, None),
                trust: basin_volume::run::answer::Trust::NotAnAnswer,
                reasons: vec!["Nothing is computed yet.".to_owned()],
                seconds,
                gradients: 0,
                evaluations: 0,
            },
        };
        let bits = estimate.as_ref().and_then(|e| e.log_probability);
        Self {
            format: basin_volume::run::result::FORMAT.to_owned(),
            format_version: basin_volume::run::manifest::FORMAT_VERSION,
            bits_per_parameter: bits.map(|value| -value / (manifest.spec.dimension as f64 * std::f64::consts::LN_2)),
            answer,
            seconds,
            estimate,
        }
    }
}

/// One run, read or just computed.
pub struct Run {
    pub folder: PathBuf,
    pub manifest: Manifest,
    spec: AnnealedSpec,
    result: AnnealedResult,
}

impl Run {
    /// Result and figure.
    pub fn write(&self) -> CommandResult {
        folder::write_json(&self.folder.join(names::RESULT), &self.result)?;
        self.result.estimate.as_ref().map_or(Ok(()), |estimate| figure(self, estimate))
    }

    /// Heading, answer, ladder and words.
    pub fn text(&self) -> String {
        text(self)
    }

    pub fn json(&self) -> Result<Value, CommandError> {
        Ok(serde_json::to_value(&self.result)?)
    }

    pub fn answer(&self) -> &Answer {
        &self.result.answer
    }
}

struct AnnealedRuns {
    runs: Vec<Run>,
}

impl Runs for AnnealedRuns {
    fn manifests(&self) -> Vec<(&Path, &Manifest)> {
        self.runs.iter().map(|run| (run.folder.as_path(), &run.manifest)).collect()
    }

    fn write(&self, _group: Option<&Path>) -> CommandResult {
        self.runs.iter().try_for_each(Run::write)
    }

    fn text(&self) -> String {
        self.runs.iter().map(Run::text).collect::<Vec<_>>().join("\n")
    }

    fn json(&self) -> Result<Vec<Value>, CommandError> {
        self.runs.iter().map(Run::json).collect()
    }

    fn answers(&self) -> Vec<Answer> {
        self.runs.iter().map(|run| run.answer().clone()).collect()
    }
}

fn annealed_spec(manifest: &Manifest) -> Result<&AnnealedSpec, CommandError> {
    match &manifest.spec.estimator {
        EstimatorSpec::Annealed(spec) => Ok(spec),
        other => Err(anyhow!("the run is one of the {} estimator", other.name()).into()),
    }
}

fn sigma_of(prior: Prior) -> Result<f64, CommandError> {
    match prior {
        Prior::Gaussian { sigma } => Ok(sigma),
        _ => Err(CommandError::usage("--estimator annealed needs the Gaussian prior, whose mass is finite: use --prior gaussian")),
    }
}

fn estimate(manifest: &Manifest, spec: &AnnealedSpec, records: &[AnnealedRecord]) -> Result<Option<AnnealedEstimate>, CommandError> {
    let sigma = sigma_of(manifest.spec.prior)?;
    Ok(AnnealedEstimate::of(spec, manifest.spec.cutoff, sigma, manifest.samples as u32, records))
}

/// Reads a run folder and computes its result again.
pub fn read(path: &Path) -> Result<Run, CommandError> {
    let manifest = folder::read_manifest(path)?;
    let spec = annealed_spec(&manifest)?.clone();
    let records: Vec<AnnealedRecord> = folder::read_samples(path)?;
    let seconds = folder::read_result(path).map_or(0.0, |result: AnnealedResult| result.seconds);
    let result = AnnealedResult::of(&manifest, &spec, estimate(&manifest, &spec, &records)?, seconds);
    Ok(Run { folder: path.to_owned(), manifest, spec, result })
}

/// What is asked, before anything is computed.
pub struct Asked<'a> {
    request: &'a Request<'a>,
    /// The problems the largest of whose costs is the cost.
    problems: Vec<&'a Problem>,
    spec: AnnealedSpec,
    sweeps: Option<u64>,
    specs: Vec<RunSpec>,
}

/// Understands the request.
pub fn prepare<'a>(request: &'a Request<'a>) -> Result<Asked<'a>, CommandError> {
    let Request { args, problem, .. } = request;
    let sigma = sigma_of(problem.prior)?;
    if !args.shard.is_all() {
        return Err(CommandError::usage(
            "--shard does not go with --estimator annealed, whose chains go on from each other: use different --seed instead",
        ));
    }
    request.needs_processor("annealed")?;
    let mut settings = EstimatorSpec::Annealed(AnnealedSpec {
        set_kind: match args.set_kind {
            Some(SetChoice::Star) => SetKind::Star,
            Some(SetChoice::Basin) | None => SetKind::Basin,
        },
        ..AnnealedSpec::default()
    });
    request.apply_settings(&mut settings)?;
    let EstimatorSpec::Annealed(mut spec) = settings else { return Err(anyhow!("the settings are not those of chains").into()) };
    AnnealedEstimator::check(&AnnealedProblem { sigma, cutoff: args.rays.cutoff, l2_reg: args.rays.l2_reg, seed: args.rays.seed }, &spec)
        .map_err(failure)?;
    spec.coordinates = coordinates(request, &spec)?;
    let sweeps = args.samples.filter(|_| args.estimator != EstimatorChoice::All);
    if let Some(sweeps) = sweeps.filter(|sweeps| !(1..=MOST_SWEEPS).contains(sweeps)) {
        return Err(CommandError::usage(format!("--samples is {sweeps}: expected 1 to {MOST_SWEEPS} sweeps of the ladder")));
    }
    if args.extend && sweeps.is_some() {
        return Err(CommandError::usage(
            "--continue adds one sweep: leave --samples out, or give the number of all sweeps without --continue",
        ));
    }
    let specs = vec![request.spec(PreconditionerSpec::None, EstimatorSpec::Annealed(spec.clone()))];
    Ok(Asked { request, problems: vec![problem], spec, sweeps, specs })
}

/// Which coordinates the chains move in: rotated ones unless something speaks against them. On several data each is asked in the same way.
fn coordinates(request: &Request<'_>, spec: &AnnealedSpec) -> Result<CoordinateChoice, CommandError> {
    let Request { args, problem, .. } = request;
    let obstacle = if spec.set_kind == SetKind::Star {
        Some("the star is seen along ways that are straight in weights")
    } else if spec.metric != Metric::None {
        Some("a metric is one of weights")
    } else if args.rays.l2_reg > 0.0 {
        Some("--l2-reg is a penalty of weights")
    } else if args.problem.data.data.len() > 1 {
        Some("each of several --data has its own")
    } else if !problem.has_rotated() {
        Some("none are known for this model, or not all of its weights move")
    } else {
        None
    };
    // A run that has begun goes on in its own.
    if !request.is_set("coordinates")
        && let Some(begun) = args.out.iter().flat_map(|out| [out.clone(), out.join(Annealed.name())]).find_map(|out| choice_of(&out))
    {
        return Ok(begun);
    }
    match (spec.coordinates, obstacle) {
        (CoordinateChoice::Rotated, Some(obstacle)) => {
            Err(CommandError::usage(format!("--set coordinates=rotated: {obstacle}, leave it out")))
        }
        (CoordinateChoice::Auto, Some(_)) => Ok(CoordinateChoice::Weights),
        (CoordinateChoice::Auto, None) => Ok(CoordinateChoice::Rotated),
        (choice, _) => Ok(choice),
    }
}

/// The coordinates of the annealed run in a folder, if there is one.
fn choice_of(out: &Path) -> Option<CoordinateChoice> {
    match folder::read_manifest(out).ok()?.spec.estimator {
        EstimatorSpec::Annealed(spec) => Some(spec.coordinates),
        _ => None,
    }
}

/// The same on several data, with the record of all: the set where the largest of the costs stays under the cutoff.
pub fn prepare_together<'a>(
    request: &'a Request<'a>,
    problems: Vec<&'a Problem>,
    record: &Map<String, Value>,
) -> Result<Asked<'a>, CommandError> {
    let mut asked = prepare(request)?;
    if asked.spec.metric != Metric::None {
        return Err(CommandError::usage(
            "--set metric is for one --data: the largest of several costs has no curvature of its own, leave metric out",
        ));
    }
    asked.problems = problems;
    asked.specs.iter_mut().for_each(|spec| spec.problem = record.clone());
    Ok(asked)
}

/// Settings are usage, the rest is not.
fn failure(error: AnnealedError) -> CommandError {
    match error {
        AnnealedError::Setting { .. } | AnnealedError::StarElsewhere => CommandError::usage(error.to_string()),
        other => other.into(),
    }
}

impl Prepared for Asked<'_> {
    fn specs(&self) -> &[RunSpec] {
        &self.specs
    }

    fn records(&self) -> Option<u64> {
        None
    }

    fn run(self: Box<Self>, out: &Path) -> Result<(Box<dyn Runs>, RunEnd), CommandError> {
        let (run, end) = self.compute(&self.plan()?, out, self.sweeps_in(out)?)?;
        Ok((Box::new(AnnealedRuns { runs: vec![run] }), end))
    }
}

/// How far a run folder has come.
#[derive(Clone, Copy)]
pub struct State {
    /// Sweeps that it is to have.
    pub sweeps: u64,
    /// Whether it has them.
    pub is_complete: bool,
}

/// There is no run that could have one more sweep.
pub fn nothing_to_continue(out: &Path) -> CommandError {
    anyhow!("--continue: {} is not a run folder, so there is nothing to go on from", out.display()).into()
}

impl Asked<'_> {
    /// What is kept in memory for each problem; refused where it does not fit.
    pub fn plan(&self) -> Result<Vec<Resources>, CommandError> {
        let Request { args, threads, .. } = *self.request;
        let dimension = self.specs[0].dimension;
        let vectors = VECTORS * u64::from(self.spec.chains) + 1 + StateMetrics::vectors(self.spec.metric, self.spec.chains.into());
        // Beside a cost there are the chains, and the costs before it.
        let backward: u64 = self.problems.iter().map(|problem| backward_bytes(problem)).sum();
        let mut needed = 4 * dimension as u64 * vectors + u64::from(self.spec.chains).min(threads.get() as u64) * backward;
        let mut allowed = allowed(args.problem.memory);
        let mut resources = Vec::new();
        for problem in &self.problems {
            let own = problem.processor_resources(needed, threads, args.problem.memory)?;
            if let Some(plan) = &own.memory {
                (needed, allowed) = (plan.total(), plan.budget);
            }
            resources.push(own);
        }
        if needed > allowed {
            return Err(anyhow!(
                "{} chains of {dimension} weights need {} of memory but {} may be used: take fewer with --set chains=N",
                self.spec.chains,
                size(needed),
                size(allowed)
            )
            .into());
        }
        eprintln_status(&format!("annealed: memory {} of {} allowed", size(needed), size(allowed)));
        Ok(resources)
    }

    /// Computes what the folder lacks of so many sweeps, with what was planned.
    pub fn compute(&self, resources: &[Resources], out: &Path, sweeps: u64) -> Result<(Run, RunEnd), CommandError> {
        let Request { args, problem, threads, interrupt, .. } = *self.request;
        let run_spec = self.specs[0].clone();
        let sigma = sigma_of(run_spec.prior)?;
        let dimension = run_spec.dimension;
        let pool = ThreadPoolBuilder::new().num_threads(threads.get()).build()?;
        pool.install(|| {
            let rotated = if self.spec.coordinates == CoordinateChoice::Rotated { problem.rotated()? } else { None };
            let coordinates = rotated.as_deref().map(|rotated| rotated as &dyn Coordinates);
            let costs = match coordinates {
                Some(_) => Vec::new(),
                None => self.problems.iter().zip(resources).map(|(problem, own)| problem.scores(own)).collect::<Result<Vec<_>, _>>()?,
            };
            let largest;
            let objective: &dyn Differentiable = match (coordinates, costs.as_slice()) {
                (Some(coordinates), _) => coordinates,
                (None, [one]) => &**one,
                (None, several) => {
                    largest = MaxCost::new(several.iter().map(|cost| &**cost as &dyn Differentiable).collect())?;
                    &largest
                }
            };
            let mut center = vec![0.0f32; dimension];
            objective.center(0..dimension, &mut center);
            let question = AnnealedProblem { sigma, cutoff: run_spec.cutoff, l2_reg: run_spec.l2_reg, seed: run_spec.seed };
            let recenter = |moving| {
                problem.scores_around(moving, &resources[0]).map_err(|error| match error {
                    CommandError::Failure(error) => ObjectiveError::new(error),
                    _ => ObjectiveError::new("the cost around the states of the chains could not be set up"),
                })
            };
            let metrics = StateMetrics::new(self.spec.metric, problem.moving.clone(), run_spec.seed, Box::new(recenter));
            let estimator =
                AnnealedEstimator::new(objective, &center, question, self.spec.clone()).map_err(failure)?.with_metrics(&metrics);
            let estimator = coordinates.into_iter().fold(estimator, AnnealedEstimator::with_coordinates);
            let mut manifest = Manifest::new(run_spec.clone(), estimator.center_norm_squared(), None, sweeps, args.shard);
            manifest.notes.insert("model".to_owned(), problem.model.provenance());
            let data = problem.data.provenance();
            if !data.is_null() && self.problems.len() == 1 {
                manifest.notes.insert("data".to_owned(), data);
            }
            manifest.notes.insert("sigma_choice".to_owned(), json!(problem.sigma_choice));
            let (mut run_folder, mut records) = RunFolder::open::<AnnealedRecord>(out, &manifest)?;
            records.sort_by_key(Record::index);
            // The folder's own record counts: it may ask for more sweeps than this command.
            let manifest = folder::read_manifest(out)?;
            let mut seconds = folder::read_result(out).map_or(0.0, |result: AnnealedResult| result.seconds);
            let began = Instant::now();
            let keeper = FolderKeeper::new(&mut run_folder).map_err(failure)?;
            let mut keeper = coordinates.into_iter().fold(keeper, FolderKeeper::with_coordinates);
            let mut table = LiveTable::new(records.len());
            let outcome = estimator.run(manifest.samples as u32, &records, &mut keeper, interrupt, &mut |progress| match progress {
                AnnealedProgress::Relaxation(relaxation) => show_relaxation(relaxation),
                AnnealedProgress::Ladder(estimate) => table.show(estimate),
            });
            let ended = outcome.map_err(|error| match failure(error) {
                CommandError::Failure(error) => anyhow!("{error}; what was computed before is in {}", out.display()).into(),
                other => other,
            })?;
            let records: Vec<AnnealedRecord> = folder::read_samples(out)?;
            seconds += began.elapsed().as_secs_f64();
            let result = AnnealedResult::of(&manifest, &self.spec, estimate(&manifest, &self.spec, &records)?, seconds);
            run_folder.write_result(&result)?;
            let run = Run { folder: out.to_owned(), manifest, spec: self.spec.clone(), result };
            let end = if ended == AnnealedEnd::Interrupted { RunEnd::Interrupted } else { RunEnd::Completed };
            Ok((run, end))
        })
    }

    /// Whether one more sweep is asked for.
    pub fn extends(&self) -> bool {
        self.request.args.extend
    }

    /// How many sweeps in all: one, or as many as asked for.
    pub fn sweeps(&self) -> u64 {
        self.sweeps.unwrap_or(1)
    }

    /// The same, or with `--continue` one more than a complete run has.
    fn sweeps_in(&self, out: &Path) -> Result<u64, CommandError> {
        if !self.extends() {
            return Ok(self.sweeps());
        }
        let state = self.state(out)?.ok_or_else(|| nothing_to_continue(out))?;
        Ok(state.sweeps + u64::from(state.is_complete))
    }

    /// How far the run in a folder has come; none when there is none.
    pub fn state(&self, out: &Path) -> Result<Option<State>, CommandError> {
        if !out.join(names::MANIFEST).exists() {
            return Ok(None);
        }
        let manifest = folder::read_manifest(out)?;
        let found = manifest.spec.estimator.name();
        if found != Annealed.name() {
            return Err(anyhow!(
                "--continue: {} holds a run of the {found} estimator, not of annealed: choose another folder",
                out.display()
            )
            .into());
        }
        let records: Vec<AnnealedRecord> = folder::read_samples(out)?;
        let is_complete = estimate(&manifest, &self.spec, &records)?.is_some_and(|estimate| estimate.complete);
        Ok(Some(State { sweeps: manifest.samples, is_complete }))
    }
}

/// A line on standard error for every block of a relaxation.
fn show_relaxation(relaxation: &Relaxation) {
    let Relaxation { trajectories, beta, cost, overlap, distance_squared, gradients, .. } = relaxation;
    let what = if relaxation.is_done { "the spring is attached to" } else { "looking for a typical state:" };
    eprintln_status(&format!(
        "  {what} cost {cost:.2e} at beta {beta:.2e}, {distance_squared:.1} (squared) from the center, overlap {overlap:.3}, after {trajectories} trajectories, {gradients} gradients"
    ));
}

/// A line on standard error for every rung that is left.
struct LiveTable {
    shown: usize,
    has_heading: bool,
}

impl LiveTable {
    fn new(records: usize) -> Self {
        // What is in the folder already is not shown again.
        Self { shown: if records > 0 { usize::MAX } else { 0 }, has_heading: false }
    }

    fn show(&mut self, estimate: &AnnealedEstimate) {
        let count = estimate.rungs.len();
        if self.shown == usize::MAX {
            self.shown = count;
        }
        if count <= self.shown {
            return;
        }
        if !self.has_heading {
            eprintln_status(
                "  way      rung       beta  localization  trajectories      E[C]    beta E[C]  overlap  acceptance  gradients",
            );
            self.has_heading = true;
        }
        let order = |rung: &&RungSummary| match rung.phase {
            Phase::Outward => (rung.sweep, 0, rung.rung as i64),
            Phase::Settle => (rung.sweep, 1, 0),
            Phase::Inward => (rung.sweep, 2, -(rung.rung as i64)),
        };
        let mut rungs: Vec<&RungSummary> = estimate.rungs.iter().collect();
        rungs.sort_by_key(order);
        for rung in &rungs[self.shown..] {
            eprintln_status(&format!(
                "  {:8} {:4}  {:9.3e}     {:9.3e}  {:12}  {:8.2e}  {:11.2}  {:7.3}  {:10.2}  {:9}",
                rung.phase.name(),
                rung.rung,
                rung.beta,
                rung.localization,
                rung.trajectories,
                rung.mean_cost,
                rung.learning_coefficient,
                rung.overlap,
                rung.acceptance,
                rung.gradients
            ));
        }
        self.shown = count;
    }
}

/// Heading, answer, ladder and words.
fn text(run: &Run) -> String {
    let spec = &run.manifest.spec;
    let set = match run.spec.set_kind {
        SetKind::Basin => "basin: the weights under the cutoff that chains from the center reach",
        SetKind::Star => "star: the weights whose straight line to the center stays under the cutoff",
    };
    let sigma = run.manifest.sigma.unwrap_or(f64::NAN);
    let mut out = format!(
        "Annealed volume of {} on {} ({set}): cutoff {} nats, sigma {sigma:.6}\n",
        problem_name(&run.manifest, "model"),
        problem_name(&run.manifest, "data"),
        spec.cutoff
    );
    let Some(estimate) = &run.result.estimate else { return out + "Nothing is computed yet.\n" };
    let number = |value: Option<f64>| value.map_or("\u{2013}".to_owned(), nats);
    let ways = |values: &[f64]| {
        if values.is_empty() { "\u{2013}".to_owned() } else { values.iter().map(|v| nats(*v)).collect::<Vec<_>>().join(", ") }
    };
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header([
        "log-probability (nats)",
        "interval",
        "outward",
        "inward",
        "gap",
        "standard error",
        "overlap c.w/c.c",
        "bits/weight",
        "acceptance",
        "gradients",
        "seconds",
    ]);
    let high = estimate.high.map_or("unknown".to_owned(), nats);
    table.add_row([
        number(estimate.log_probability),
        format!("[{}, {high}]", nats(estimate.low)),
        ways(&estimate.outward),
        ways(&estimate.inward),
        number(estimate.gap),
        format!("{:.2}", estimate.error),
        format!("{:.3}", estimate.overlap),
        run.result.bits_per_parameter.map_or("\u{2013}".to_owned(), |bits| format!("{bits:.4}")),
        format!("{:.2}", estimate.acceptance),
        estimate.gradients.to_string(),
        format!("{:.1}", run.result.seconds),
    ]);
    out += &table.to_string();
    out += &format!("\n{}\n", ladder_table(&estimate.rungs));
    if estimate.is_answer() {
        out += "\nBoth ways agree: the number is the answer for this set, within the interval.\n";
    } else if estimate.log_probability.is_some() {
        out += "\nThis number is not an answer:\n";
    }
    for warning in &estimate.warnings {
        out += &format!("\n{warning}\n");
    }
    if let Some(anchor) = &estimate.anchor {
        out += &format!(
            "\nThe spring was attached to a state of cost {:.2e} (overlap {:.3} with the center), which a chain from the center had come to in {} trajectories.\n",
            anchor.cost, anchor.overlap, anchor.trajectories
        );
    }
    if estimate.overlap.abs() < 0.1 && estimate.log_probability.is_some() && run.spec.set_kind == SetKind::Basin {
        out += "\nThe chains have forgotten the center (overlap near zero): the number is the prior mass of the behaviour, not of a neighbourhood of these weights; --set-kind star measures that.\n";
    }
    out
}

fn ladder_table(rungs: &[RungSummary]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header([
        "way",
        "rung",
        "beta",
        "localization",
        "trajectories",
        "E[C]",
        "beta E[C]",
        "pull",
        "log-volume",
        "overlap",
        "virial",
        "drift",
        "correlated",
        "acceptance",
        "step",
    ]);
    for rung in rungs {
        table.add_row([
            rung.phase.name().to_owned(),
            rung.rung.to_string(),
            format!("{:.3e}", rung.beta),
            format!("{:.3e}", rung.localization),
            rung.trajectories.to_string(),
            format!("{:.2e}", rung.mean_cost),
            format!("{:.2}", rung.learning_coefficient),
            format!("{:.2}", rung.pull),
            nats(rung.log_laplace),
            format!("{:.3}", rung.overlap),
            format!("{:.2}", rung.virial),
            format!("{:.1}", rung.drift),
            format!("{:.1}", rung.autocorrelation),
            format!("{:.2}", rung.acceptance),
            format!("{:.4}", rung.step),
        ]);
    }
    align_right(&mut table, 1..15);
    table.to_string()
}

fn figure(run: &Run, estimate: &AnnealedEstimate) -> CommandResult {
    let sweeps = estimate.rungs.iter().map(|rung| rung.sweep).max().unwrap_or(0);
    let mut series = Vec::new();
    for sweep in 0..=sweeps {
        for is_back in [false, true] {
            let mut points: Vec<(f64, f64)> = estimate
                .rungs
                .iter()
                .filter(|rung| rung.sweep == sweep && (rung.phase == Phase::Outward) != is_back)
                .map(|rung| (rung.rung as f64, rung.log_laplace))
                .collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            let way = if is_back { "inward" } else { "outward" };
            let number = if sweeps > 0 { format!(", sweep {}", sweep + 1) } else { String::new() };
            // The way back is known from its known end only when it has come there.
            if points.first().is_some_and(|point| point.0 == 0.0) {
                series.push(ladder::Series { label: format!("{way}{number}"), points });
            }
        }
    }
    if series.is_empty() {
        return Ok(());
    }
    let model = run.manifest.spec.problem.get("model").and_then(|m| m.get("name")).and_then(|n| n.as_str()).unwrap_or("model");
    let title = format!("Annealed log-volume along the ladder: {model}, cutoff {} nats", run.manifest.spec.cutoff);
    plot::save(&ladder::Ladder { title, series }, &run.folder, "ladder")?;
    Ok(())
}
