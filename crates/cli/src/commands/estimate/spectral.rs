//! `--estimator spectral`: the ellipsoid of the quadratic cost.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, anyhow};
use basin_volume::estimator::spectral::{
    Forecast, SpectralError, SpectralEstimator, SpectralProblem, SpectralRecord, SpectralResult, check, resolve, spectrum,
};
use basin_volume::fisher::{DifferenceProducts, FisherError, FisherFactor, FisherMatrix};
use basin_volume::run::answer::Answer;
use basin_volume::run::driver::{self, Plan, RunEnd, Workers};
use basin_volume::run::folder::{self, RunFolder, names};
use basin_volume::run::manifest::Manifest;
use basin_volume::run::record::Record;
use basin_volume::spec::{EstimatorSpec, FisherProducts, PreconditionerSpec, RunSpec, SpectralRoute, SpectralSpec};
use basin_volume_models::curvature::Scores;
use basin_volume_models::memory::size;
use rayon::ThreadPoolBuilder;
use serde_json::{Value, json};

use super::{COMPARISON, Family, Prepared, Request, Runs};
use crate::args::EstimateArgs;
use crate::commands::{check_file_place, make_folder_of};
use crate::curvature::{allowed, backward_bytes};
use crate::error::{CommandError, CommandResult};
use crate::present;
use crate::present::spectral::Run;
use crate::progress::counted;
use crate::target::{Data, eprintln_status};

/// Probes of the route lanczos, and draws of the route gram, unless `--samples` says otherwise.
const PROBES: u64 = 6;
const DRAWS: u64 = 4;

/// The quadratic cost by its spectrum.
pub struct Spectral;

impl Family for Spectral {
    fn name(&self) -> &'static str {
        "spectral"
    }

    fn own_flags(&self, args: &EstimateArgs) -> Vec<&'static str> {
        if args.spectrum_out.is_some() { vec!["--spectrum-out"] } else { Vec::new() }
    }

    fn prepare<'a>(&self, request: &'a Request<'a>) -> Result<Box<dyn Prepared + 'a>, CommandError> {
        Ok(Box::new(prepare(request)?))
    }

    fn read(&self, folders: &[PathBuf]) -> Result<Box<dyn Runs>, CommandError> {
        let runs = folders.iter().map(|folder| read(folder)).collect::<Result<_, _>>()?;
        Ok(Box::new(SpectralRuns { runs }))
    }

    fn merge(&self, folders: &[PathBuf], out: &Path) -> CommandResult {
        let results = folders.iter().filter_map(|folder| folder::read_result(folder));
        let seconds: f64 = results.map(|result: SpectralResult| result.seconds).sum();
        folder::merge::<SpectralRecord>(folders, out)?;
        let mut run = read(out)?;
        run.result.seconds = seconds;
        folder::write_json(&out.join(names::RESULT), &run.result)?;
        Ok(())
    }
}

fn read(path: &Path) -> Result<Run, CommandError> {
    let manifest = folder::read_manifest(path)?;
    let records: Vec<SpectralRecord> = folder::read_samples(path)?;
    let seconds = folder::read_result(path).map_or(0.0, |result: SpectralResult| result.seconds);
    let result = SpectralResult::of(&manifest, &records, seconds);
    Ok(Run { folder: path.to_owned(), manifest, records, result })
}

/// Runs of the same question: one, unless somebody has put several folders into one.
struct SpectralRuns {
    runs: Vec<Run>,
}

impl Runs for SpectralRuns {
    fn manifests(&self) -> Vec<(&Path, &Manifest)> {
        self.runs.iter().map(|run| (run.folder.as_path(), &run.manifest)).collect()
    }

    fn write(&self, group: Option<&Path>) -> CommandResult {
        for run in &self.runs {
            folder::write_json(&run.folder.join(names::RESULT), &run.result)?;
            present::spectral::figures(run)?;
        }
        if let Some(group) = group {
            let results: Vec<&SpectralResult> = self.runs.iter().map(|run| &run.result).collect();
            folder::write_json(&group.join(COMPARISON), &results)?;
        }
        Ok(())
    }

    fn text(&self) -> String {
        present::spectral::report(&self.runs)
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
    problem: SpectralProblem,
    settings: SpectralSpec,
    /// Records, the center's included.
    samples: u64,
    specs: Vec<RunSpec>,
}

fn prepare<'a>(request: &'a Request<'a>) -> Result<Asked<'a>, CommandError> {
    let Request { args, problem, .. } = request;
    request.needs_processor("spectral")?;
    if let Some(path) = &args.spectrum_out {
        check_file_place("--spectrum-out", path)?;
        spectrum_format(path)?;
    }
    let mut settings = EstimatorSpec::Spectral(SpectralSpec::default());
    request.apply_settings(&mut settings)?;
    let EstimatorSpec::Spectral(mut settings) = settings else { return Err(anyhow!("the settings are not those of spectra").into()) };
    let asked = SpectralProblem { prior: problem.prior, cutoff: args.rays.cutoff, l2_reg: args.rays.l2_reg, seed: args.rays.seed };
    let dimension = problem.moving.dimension();
    let is_default = !request.is_set("steps");
    if is_default {
        settings.steps = settings.steps.min(dimension);
    }
    check(&asked, &settings, dimension).map_err(usage)?;
    // Only classifiers have factors, and their cost is quickly made.
    let rows = match &problem.data {
        Data::Rows(_) => problem.scores(&problem.processor_resources(0, request.threads, args.problem.memory)?)?.fisher_rows(),
        Data::Tokens(_) => None,
    };
    let settings = resolve(settings, rows).map_err(usage)?;
    let default = if settings.route == SpectralRoute::Gram { DRAWS } else { PROBES };
    let samples = 1 + request.samples(default)?;
    let specs = vec![request.spec(PreconditionerSpec::None, EstimatorSpec::Spectral(settings))];
    Ok(Asked { request, problem: asked, settings, samples, specs })
}

/// Settings are usage, the rest is not.
fn usage(error: SpectralError) -> CommandError {
    match error {
        SpectralError::Setting { .. } | SpectralError::Prior | SpectralError::NoFactor { .. } => CommandError::usage(error.to_string()),
        error => error.into(),
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
        let Request { args, problem, threads, .. } = self.request;
        let backward = backward_bytes(problem);
        let resources = problem.processor_resources(backward, *threads, args.problem.memory)?;
        let (planned, allowed) = match &resources.memory {
            Some(plan) => (plan.total(), plan.budget),
            None => (backward, allowed(args.problem.memory)),
        };
        let pool = ThreadPoolBuilder::new().num_threads(threads.get()).build()?;
        let model = pool.install(|| problem.scores(&resources))?;
        let wants_differences = self.settings.products == FisherProducts::Differences;
        // Even then the Gram matrix comes from the factor.
        let is_gram = self.settings.route == SpectralRoute::Gram;
        let exact = if wants_differences && !is_gram { None } else { pool.install(|| model.fisher_matrix()) };
        let differences;
        let both;
        let fisher: &dyn FisherMatrix = match &exact {
            Some(exact) if !wants_differences => &**exact,
            found => {
                differences = DifferenceProducts::new(&*model, self.settings.perturbation)?;
                both = WithFactor { products: &differences, factor: found.as_ref().and_then(|exact| exact.factor()) };
                &both
            }
        };
        let workers = self.workers(fisher, planned, allowed)?;
        let forecast = Forecast::new(&self.settings, self.settings.route, fisher, workers.rays.get());
        if resources.memory.is_some() {
            eprintln_status(&format!("spectral: memory {} of {} allowed", size(planned + forecast.total()), size(allowed)));
        }
        let (run, end) = self.compute(out, &*model, fisher, workers, &pool)?;
        if let Some(path) = &args.spectrum_out {
            write_spectrum(path, &run)?;
        }
        Ok((Box::new(SpectralRuns { runs: vec![run] }), end))
    }
}

/// Products by one way, and a factor from another.
struct WithFactor<'a> {
    products: &'a DifferenceProducts<'a>,
    factor: Option<&'a dyn FisherFactor>,
}

impl FisherMatrix for WithFactor<'_> {
    fn dimension(&self) -> usize {
        self.products.dimension()
    }

    fn product(&self, v: &[f32], out: &mut [f32]) -> Result<(), FisherError> {
        self.products.product(v, out)
    }

    fn gradients_per_product(&self) -> u64 {
        self.products.gradients_per_product()
    }

    fn scratch_bytes(&self) -> u64 {
        self.products.scratch_bytes()
    }

    fn held_bytes(&self) -> u64 {
        self.products.held_bytes()
    }

    fn factor(&self) -> Option<&dyn FisherFactor> {
        self.factor
    }
}

impl Asked<'_> {
    /// As many records at once as fit, each with its share of the threads.
    fn workers(&self, fisher: &dyn FisherMatrix, planned: u64, allowed: u64) -> Result<Workers, CommandError> {
        let threads = self.request.threads;
        // The Gram matrix wants all threads; so do gradients of language models, whose memory is planned for one at a time.
        let is_one = self.settings.route == SpectralRoute::Gram || self.request.problem.model.language_model().is_some();
        let most = if is_one { 1 } else { Workers::automatic(threads, fisher.dimension()).rays.get() };
        for rays in (1..=most).rev() {
            if planned + Forecast::new(&self.settings, self.settings.route, fisher, rays).total() <= allowed {
                let rays = NonZeroUsize::new(rays).unwrap_or(NonZeroUsize::MIN);
                let threads_per_ray = NonZeroUsize::new(threads.get() / rays).unwrap_or(NonZeroUsize::MIN);
                return Ok(Workers { rays, threads_per_ray });
            }
        }
        let forecast = Forecast::new(&self.settings, self.settings.route, fisher, 1);
        let (what, remedy) = if forecast.gram > forecast.vectors {
            (format!("{} for the Gram matrix", size(forecast.gram)), "choose --set route=lanczos")
        } else {
            let vectors = format!("{} for Lanczos vectors, steps x D x 4 bytes for a probe and for the center", size(forecast.vectors));
            (vectors, "choose fewer steps (--set steps=N) or --set reorthogonalization=none")
        };
        Err(anyhow!(
            "the spectral estimator needs {} of memory ({what}) but {} may be used: {remedy}{}",
            size(planned + forecast.total()),
            size(allowed),
            self.request.problem.or_more_memory()
        )
        .into())
    }

    fn compute(
        &self,
        folder: &Path,
        model: &(dyn Scores + Send + Sync),
        fisher: &dyn FisherMatrix,
        workers: Workers,
        pool: &rayon::ThreadPool,
    ) -> Result<(Run, RunEnd), CommandError> {
        let Request { args, problem, interrupt, .. } = self.request;
        let spec = self.specs[0].clone();
        let began = Instant::now();
        let estimator = match pool.install(|| SpectralEstimator::new(model, fisher, self.problem, self.settings, interrupt)) {
            Err(SpectralError::Interrupted) => {
                eprintln_status("Interrupted before the first sample.");
                return Err(CommandError::Interrupted);
            }
            estimator => estimator.map_err(usage)?,
        };
        let mut manifest = Manifest::new(spec, estimator.center_norm_squared(), None, self.samples, args.shard);
        manifest.notes.insert("model".to_owned(), problem.model.provenance());
        let data = problem.data.provenance();
        if !data.is_null() {
            manifest.notes.insert("data".to_owned(), data);
        }
        manifest.notes.insert("sigma_choice".to_owned(), json!(problem.sigma_choice));
        let (mut run_folder, mut records) = RunFolder::open::<SpectralRecord>(folder, &manifest)?;
        let manifest = folder::read_manifest(folder)?;
        let present: BTreeSet<u64> = records.iter().map(Record::index).collect();
        let total = args.shard.indices(self.samples).count() as u64;
        let progress = counted("spectral", "recursions", total);
        progress.set_position(present.len() as u64);
        let before = records.len();
        let plan = Plan { samples: self.samples, shard: args.shard, present: &present, workers, interrupt };
        let outcome = driver::run(&estimator, &mut run_folder, plan, |record| {
            progress.inc(1);
            records.push(record);
        });
        progress.finish_and_clear();
        let end = outcome.map_err(|error| anyhow!("{error}; what was computed before is in {}", folder.display()))?;
        records.sort_by_key(|record| record.index);
        let mut seconds = folder::read_result(folder).map_or(0.0, |result: SpectralResult| result.seconds);
        if records.len() > before {
            seconds += began.elapsed().as_secs_f64();
        }
        let result = SpectralResult::of(&manifest, &records, seconds);
        run_folder.write_result(&result)?;
        Ok((Run { folder: folder.to_owned(), manifest, records, result }, end))
    }
}

/// The formats of `--spectrum-out`.
enum SpectrumFormat {
    Json,
    Csv,
}

fn spectrum_format(path: &Path) -> Result<SpectrumFormat, CommandError> {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("json") => Ok(SpectrumFormat::Json),
        Some("csv") => Ok(SpectrumFormat::Csv),
        _ => Err(CommandError::usage(format!("--spectrum-out {}: expected a name that ends in .json or .csv", path.display()))),
    }
}

/// Eigenvalues (nodes of a quadrature rule) from the largest, with their weights and the center's.
fn write_spectrum(path: &Path, run: &Run) -> CommandResult {
    let nodes = spectrum(run.manifest.spec.dimension, &run.records);
    let text = match spectrum_format(path)? {
        SpectrumFormat::Json => serde_json::to_string_pretty(&nodes)? + "\n",
        SpectrumFormat::Csv => {
            let lines = nodes.iter().map(|node| format!("{},{},{}\n", node.curvature, node.multiplicity, node.center_squared));
            "curvature,multiplicity,center_squared\n".to_owned() + &lines.collect::<String>()
        }
    };
    make_folder_of(path)?;
    std::fs::write(path, text).with_context(|| format!("cannot write the spectrum to {}", path.display()))?;
    Ok(())
}
