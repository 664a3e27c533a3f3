//! The ellipsoid of the quadratic cost, by the spectrum of the Fisher matrix.

mod progress;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use basin_volume::estimator::spectral::{
    FolderRecursions, Forecast, SpectralEstimator, SpectralRecord, SpectralResult, check, resolve, spectrum,
};
use basin_volume::fisher::{DifferenceProducts, FisherError, FisherFactor, FisherMatrix};
use basin_volume::guarded::Guarded;
use basin_volume::objective::Differentiable;
use basin_volume::run::driver::{RunEnd, Workers};
use basin_volume::run::folder;
use basin_volume::run::manifest::Manifest;
use basin_volume::spec::{EstimatorSpec, FisherProducts, PreconditionerSpec, Reorthogonalization, RunSpec, SpectralRoute, SpectralSpec};
use basin_volume_models::memory::size;

use self::progress::{Counted, Progress};
use super::run_folder::{self, Outcome, Spread};
use super::{Capabilities, Computed, Family, Prepared, Request, Run, other_settings};
use crate::error::{Context, Error};
use crate::events::Event;
use crate::files::{check_file_place, make_folder_of};
use crate::forecast::Work;
use crate::request::{Estimate, given};
use crate::resources::{self, Needs, Resources};
use crate::subject::{BoxedDifferentiable, BoxedScores};

/// Probes of the route lanczos, and draws of the route gram, unless something else is asked for.
const PROBES: u64 = 6;
const DRAWS: u64 = 4;

/// What only this estimator knows of a run.
#[derive(Debug)]
pub struct Spectrum {
    /// Recursions.
    pub records: Vec<SpectralRecord>,
    /// Summary and diagnostics.
    pub result: SpectralResult,
}

/// The quadratic cost by its spectrum.
pub struct Spectral;

impl Family for Spectral {
    fn name(&self) -> &'static str {
        "spectral"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { shards: true, preconditioners: false, gradients: true, several_data: false, volume: true }
    }

    fn own_settings(&self, estimate: &Estimate) -> Vec<&'static str> {
        given(&[("spectrum_out", estimate.spectrum_out.is_some())])
    }

    fn folders(&self) -> &'static [&'static str] {
        &["spectral"]
    }

    fn prepare<'a>(&self, request: &'a Request<'a>) -> Result<Box<dyn Prepared + 'a>, Error> {
        Ok(Box::new(prepare(request)?))
    }

    fn read(&self, folder: &Path) -> Result<Run, Error> {
        let manifest = folder::read_manifest(folder)?;
        let records: Vec<SpectralRecord> = folder::read_samples(folder)?;
        conclude(folder.to_owned(), manifest, records, run_folder::seconds_in(folder))
    }

    fn merge(&self, folders: &[PathBuf], out: &Path) -> Result<(), Error> {
        run_folder::merge::<SpectralRecord>(folders, out, |out| self.read(out))
    }
}

fn conclude(folder: PathBuf, manifest: Manifest, records: Vec<SpectralRecord>, seconds: f64) -> Result<Run, Error> {
    let (answer, own) = SpectralResult::of(&manifest, &records, seconds);
    run_folder::run_of(folder, manifest, Outcome { answer, own }, |result| Spectrum { records, result })
}

/// What is asked, before anything is computed.
struct Asked<'a> {
    request: &'a Request<'a>,
    settings: SpectralSpec,
    /// Records, the center's included.
    samples: u64,
    specs: Vec<RunSpec>,
}

fn prepare<'a>(request: &'a Request<'a>) -> Result<Asked<'a>, Error> {
    let subject = request.subject;
    request.needs_gradients()?;
    if let Some(path) = &request.estimate.spectrum_out {
        check_file_place("spectrum_out", path)?;
        spectrum_format(path)?;
    }
    let mut settings = EstimatorSpec::Spectral(SpectralSpec::default());
    request.apply_settings(&mut settings)?;
    let EstimatorSpec::Spectral(mut settings) = settings else { return Err(other_settings(&settings)) };
    let dimension = subject.dimension();
    if !request.is_set("steps") {
        settings.steps = settings.steps.min(dimension);
    }
    check(&request.question, &settings, dimension)?;
    let rows = if subject.offers().has_factor {
        subject.scores(&subject.resources(Needs::gradients(0), request.session)?)?.fisher_rows()
    } else {
        None
    };
    let settings = resolve(settings, rows)?;
    let default = if settings.route == SpectralRoute::Gram { DRAWS } else { PROBES };
    let samples = 1 + request.samples(default)?;
    let specs = vec![request.spec(PreconditionerSpec::None, EstimatorSpec::Spectral(settings))];
    Ok(Asked { request, settings, samples, specs })
}

/// The cost with gradients, and with scores where there are any.
enum Model<'a> {
    Scores(BoxedScores<'a>),
    Gradients(BoxedDifferentiable<'a>),
}

impl Model<'_> {
    fn differentiable(&self) -> &(dyn Differentiable + Send + Sync) {
        match self {
            Self::Scores(model) => &**model,
            Self::Gradients(model) => &**model,
        }
    }

    fn fisher_matrix(&self) -> Option<Box<dyn FisherMatrix + Send + '_>> {
        match self {
            Self::Scores(model) => model.fisher_matrix(),
            Self::Gradients(_) => None,
        }
    }
}

impl Prepared for Asked<'_> {
    fn specs(&self) -> &[RunSpec] {
        &self.specs
    }

    fn records(&self) -> Option<u64> {
        Some(self.samples)
    }

    fn work(&self) -> Option<Work> {
        let most = match self.settings.route {
            // A row for every position and class, each a backward pass of one position.
            SpectralRoute::Gram => 200.0,
            _ => 2.0 * self.samples as f64 * self.settings.steps as f64,
        };
        // Recursions end early where the number has settled.
        Some(Work { evaluations: (0.0, 0.0), gradients: (0.1 * most, most), at_once: 1.0 })
    }

    fn run(self: Box<Self>, out: &Path) -> Result<Computed, Error> {
        let Request { subject, session, .. } = *self.request;
        let resources = subject.resources(Needs::gradients(subject.gradient_bytes(session.threads)), session)?;
        let pool = session.pool()?;
        let model = pool.install(|| {
            Ok::<_, Error>(if subject.offers().scores {
                Model::Scores(subject.scores(&resources)?)
            } else {
                Model::Gradients(subject.differentiable(&resources)?)
            })
        })?;
        let guarded = Guarded::new(model.differentiable(), &session.interrupt);
        let wants_differences = self.settings.products == FisherProducts::Differences;
        // Even then the Gram matrix comes from the factor.
        let is_gram = self.settings.route == SpectralRoute::Gram;
        let exact = if wants_differences && !is_gram { None } else { pool.install(|| model.fisher_matrix()) };
        let differences;
        let both;
        let fisher: &dyn FisherMatrix = match &exact {
            Some(exact) if !wants_differences => &**exact,
            found => {
                differences = DifferenceProducts::new(&guarded, self.settings.perturbation)?;
                both = WithFactor { products: &differences, factor: found.as_ref().and_then(|exact| exact.factor()) };
                &both
            }
        };
        let workers = self.workers(fisher, &resources)?;
        let forecast = Forecast::new(&self.settings, self.settings.route, fisher, workers.rays.get());
        if resources.memory.is_some() {
            let needed = resources.needed + forecast.total();
            session.note(&format!("spectral: memory {} of {} allowed", size(needed), size(resources.allowed)));
        }
        let (run, end) = self.compute(out, &guarded, fisher, workers)?;
        if let Some(path) = &self.request.estimate.spectrum_out {
            write_spectrum(path, &run)?;
        }
        Ok(Computed { runs: vec![run], end })
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
    fn workers(&self, fisher: &dyn FisherMatrix, resources: &Resources) -> Result<Workers, Error> {
        let Request { subject, session, .. } = *self.request;
        let offers = subject.offers();
        // The Gram matrix wants all threads; so do gradients that are planned for one at a time.
        let is_gram = self.settings.route == SpectralRoute::Gram;
        let is_one = is_gram || offers.one_gradient;
        let most = if is_one { 1 } else { Workers::automatic(session.threads, fisher.dimension()).rays.get() };
        let forecast_of = |settings: &SpectralSpec, rays: usize| Forecast::new(settings, settings.route, fisher, rays);
        let fits = |forecast: &Forecast| resources.needed + forecast.total() <= resources.allowed;
        for rays in (1..=most).rev() {
            if fits(&forecast_of(&self.settings, rays)) {
                return Ok(resources::workers(NonZeroUsize::new(rays).unwrap_or(NonZeroUsize::MIN), session.threads));
            }
        }
        let forecast = forecast_of(&self.settings, 1);
        let what = if forecast.gram > forecast.vectors {
            format!("{} for the Gram matrix", size(forecast.gram))
        } else {
            format!("{} for Lanczos vectors, steps x D x 4 bytes for a probe and for the center", size(forecast.vectors))
        };
        // Only what would fit is worth saying.
        let with_steps = |steps: usize| forecast_of(&SpectralSpec { steps, ..self.settings }, 1);
        let most_steps = (1..self.settings.steps).rev().find(|&steps| fits(&with_steps(steps)));
        let without_vectors = SpectralSpec { reorthogonalization: Reorthogonalization::None, ..self.settings };
        let remedy = if is_gram {
            "choose `set=route=lanczos`".to_owned()
        } else if let Some(steps) = most_steps {
            format!("`set=steps={steps}` fits")
        } else if fits(&forecast_of(&without_vectors, 1)) {
            "`set=reorthogonalization=none` fits".to_owned()
        } else {
            "no setting of it fits".to_owned()
        };
        let or_more = if offers.memory { ", or give a larger `memory`" } else { "" };
        Err(Error::failed(format!(
            "the spectral estimator needs {} of memory ({what}) but {} may be used: {remedy}{or_more}",
            size(resources.needed + forecast.total()),
            size(resources.allowed),
        )))
    }

    fn compute(
        &self,
        folder: &Path,
        model: &dyn Differentiable,
        fisher: &dyn FisherMatrix,
        workers: Workers,
    ) -> Result<(Run, RunEnd), Error> {
        let Request { question, session, .. } = *self.request;
        let unfinished = FolderRecursions::new(folder);
        let progress = Progress::new(&self.settings, session);
        let fisher = &Counted { matrix: fisher, progress: &progress };
        let estimator = SpectralEstimator::new(model, fisher, question, self.settings, &session.interrupt)?.with_keeper(&unfinished);
        let manifest = self.request.manifest(self.specs[0].clone(), estimator.center_norm_squared(), None, self.samples);
        let drive = |at_work: &mut run_folder::AtWork<SpectralRecord>| {
            let total = at_work.manifest.shard.indices(at_work.manifest.samples).count() as u64;
            progress.begin(at_work.records.len() as u64, total);
            let end = run_folder::drive(&estimator, at_work, &Spread { workers, session }, |record, _| progress.finished(record));
            session.tell(&Event::Done);
            end
        };
        run_folder::in_folder(folder, &manifest, drive, conclude)
    }
}

/// The formats of a spectrum.
enum SpectrumFormat {
    Json,
    Csv,
}

fn spectrum_format(path: &Path) -> Result<SpectrumFormat, Error> {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("json") => Ok(SpectrumFormat::Json),
        Some("csv") => Ok(SpectrumFormat::Csv),
        _ => Err(Error::usage(format!("`spectrum_out={}`: expected a name that ends in .json or .csv", path.display()))),
    }
}

/// Eigenvalues (nodes of a quadrature rule) from the largest, with their weights and the center's.
fn write_spectrum(path: &Path, run: &Run) -> Result<(), Error> {
    let records = run.details::<Spectrum>().map_or(&[][..], |details| &details.records);
    let nodes = spectrum(run.manifest.spec.dimension, records);
    let text = match spectrum_format(path)? {
        SpectrumFormat::Json => serde_json::to_string_pretty(&nodes)? + "\n",
        SpectrumFormat::Csv => {
            let lines = nodes.iter().map(|node| format!("{},{},{}\n", node.curvature, node.multiplicity, node.center_squared));
            "curvature,multiplicity,center_squared\n".to_owned() + &lines.collect::<String>()
        }
    };
    make_folder_of(path)?;
    std::fs::write(path, text).context(|| format!("cannot write the spectrum to {}", path.display()))
}
