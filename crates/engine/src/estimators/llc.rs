//! The local learning coefficient, by chains at one temperature.

use std::path::{Path, PathBuf};

use basin_volume::estimator::annealed::AnnealedEnd;
use basin_volume::estimator::annealed::states::FolderKeeper;
use basin_volume::estimator::llc::{LlcEstimator, LlcRecord, LlcResult};
use basin_volume::guarded::Guarded;
use basin_volume::objective::ObjectiveError;
use basin_volume::run::driver::RunEnd;
use basin_volume::run::folder;
use basin_volume::run::manifest::Manifest;
use basin_volume::spec::{AnnealedSpec, EstimatorSpec, LlcSpec, Metric, PreconditionerSpec, RunSpec};
use basin_volume_models::curvature::StateMetrics;

use super::chains::{self, ChainNeeds};
use super::run_folder::{self, Outcome};
use super::{Capabilities, Computed, Family, Prepared, Request, Run, other_settings};
use crate::error::Error;
use crate::estimators::Part;
use crate::events::Event;
use crate::forecast::Work;
use crate::request::{Estimate, PriorKind, given};
use crate::resources::Resources;

/// Rounds double the trajectories: more than these end in no lifetime.
const MOST_ROUNDS: u64 = 16;
/// Gradients that a trajectory has taken, from a language model of 44,672 weights to a perceptron without a metric (docs/llc.md).
const PER_TRAJECTORY: (f64, f64) = (3.0, 40.0);
/// Trajectories of a chain beside the warm-up that a run with the usual settings has taken.
const TRAJECTORIES: (f64, f64) = (24.0, 300.0);

/// What only this estimator knows of a run.
#[derive(Debug)]
pub struct Coefficient {
    /// The settings, with what was chosen.
    pub spec: LlcSpec,
    /// What the records say.
    pub result: LlcResult,
}

/// The local learning coefficient.
pub struct Llc;

impl Family for Llc {
    fn name(&self) -> &'static str {
        "llc"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { shards: false, preconditioners: false, gradients: true, several_data: false, volume: false }
    }

    fn own_settings(&self, estimate: &Estimate) -> Vec<&'static str> {
        given(&[("continue", estimate.extend)])
    }

    /// None: it measures no volume.
    fn folders(&self) -> &'static [&'static str] {
        &[]
    }

    fn in_all(&self, _estimate: &Estimate) -> Vec<Part> {
        Vec::new()
    }

    fn prepare<'a>(&self, request: &'a Request<'a>) -> Result<Box<dyn Prepared + 'a>, Error> {
        Ok(Box::new(prepare(request)?))
    }

    fn read(&self, folder: &Path) -> Result<Run, Error> {
        let manifest = folder::read_manifest(folder)?;
        let records: Vec<LlcRecord> = folder::read_samples(folder)?;
        conclude(folder.to_owned(), manifest, records, run_folder::seconds_in(folder))
    }

    fn merge(&self, _folders: &[PathBuf], _out: &Path) -> Result<(), Error> {
        Err(chains::no_shards())
    }
}

fn conclude(folder: PathBuf, manifest: Manifest, records: Vec<LlcRecord>, seconds: f64) -> Result<Run, Error> {
    let spec = match &manifest.spec.estimator {
        EstimatorSpec::Llc(spec) => spec.clone(),
        other => return Err(Error::failed(format!("the run is one of the {} estimator", other.name()))),
    };
    let (answer, own) = LlcResult::of(&manifest, &records, seconds);
    let is_complete = own.complete;
    run_folder::run_of(folder, manifest, Outcome { answer, own }, |result| Coefficient { spec, result })
        .map(|run| Run { is_complete, ..run })
}

/// What is asked, before anything is computed.
struct Asked<'a> {
    request: &'a Request<'a>,
    spec: LlcSpec,
    rounds: Option<u64>,
    specs: Vec<RunSpec>,
}

/// Understands the request, and chooses what is not said, so that the manifest has it in numbers.
fn prepare<'a>(request: &'a Request<'a>) -> Result<Asked<'a>, Error> {
    let Request { estimate, subject, question, .. } = *request;
    chains::check(request, Llc.name())?;
    if estimate.ask.cutoff.is_some() {
        return Err(Error::usage("`cutoff` is of volumes, and the learning coefficient has none: leave it out with `estimator=llc`"));
    }
    if estimate.ask.prior == PriorKind::Sphere {
        return Err(Error::usage("the spring of `estimator=llc` is one in all weights: choose `prior=gaussian` or `prior=lebesgue`"));
    }
    let mut settings = EstimatorSpec::Llc(LlcSpec::default());
    request.apply_settings(&mut settings)?;
    let EstimatorSpec::Llc(mut spec) = settings else { return Err(other_settings(&settings)) };
    if estimate.ask.sigma.is_some() && spec.localization.is_some() && !spec.with_prior {
        return Err(Error::usage("`sigma` has no part in this density: leave `sigma` or `localization` out, or give `with_prior=true`"));
    }
    spec.n_beta = spec.n_beta.or_else(|| LlcSpec::n_beta_of(subject.observations()?));
    spec.localization = spec.localization.or_else(|| question.sigma().map(|sigma| 1.0 / (sigma * sigma)));
    if spec.metric == Metric::Auto {
        spec.metric = if subject.offers().scores { Metric::Diagonal } else { Metric::None };
    }
    chains::check_metric(spec.has_metric(), subject)?;
    if spec.has_metric() && !request.is_set("angle") {
        spec.angle = AnnealedSpec::ANGLE_WITH_METRIC;
    }
    LlcEstimator::check(&question, &spec)?;
    let rounds = request.asked_samples();
    if let Some(rounds) = rounds.filter(|rounds| !(1..=MOST_ROUNDS).contains(rounds)) {
        return Err(Error::usage(format!("`samples` is {rounds}: expected 1 to {MOST_ROUNDS} rounds, each as long as all before it")));
    }
    if estimate.extend && rounds.is_some() {
        return Err(Error::usage("`continue` adds one round: leave `samples` out, or give the number of all rounds without `continue`"));
    }
    let specs = vec![request.spec(PreconditionerSpec::None, EstimatorSpec::Llc(spec.clone()))];
    Ok(Asked { request, spec, rounds, specs })
}

impl Prepared for Asked<'_> {
    fn specs(&self) -> &[RunSpec] {
        &self.specs
    }

    fn records(&self) -> Option<u64> {
        None
    }

    fn work(&self) -> Option<Work> {
        let (spec, default) = (&self.spec, LlcSpec::default());
        let chains = f64::from(spec.chains);
        // A wider interval takes fewer, a smaller budget ends earlier, and rounds double.
        let wanted = (default.tolerance / spec.tolerance).powi(2) * f64::from(default.chains) / chains;
        let doubled = (self.rounds.unwrap_or(1) as f64 - 1.0).exp2();
        let gradients = |trajectories: f64, each: f64| {
            let counted = (trajectories * wanted).clamp(f64::from(spec.trajectories), f64::from(spec.budget));
            chains * (f64::from(spec.warmup) + doubled * counted) * each
        };
        Some(Work {
            evaluations: (1.0, 1.0),
            gradients: (gradients(TRAJECTORIES.0, PER_TRAJECTORY.0), gradients(TRAJECTORIES.1, PER_TRAJECTORY.1)),
            at_once: chains.min(self.request.session.threads.get() as f64),
        })
    }

    fn run(self: Box<Self>, out: &Path) -> Result<Computed, Error> {
        let subjects = [self.request.subject];
        let needs =
            ChainNeeds { session: self.request.session, subjects: &subjects, dimension: self.specs[0].dimension, metric: self.spec.metric };
        let planned = needs.plan(Llc.name(), self.spec.chains)?;
        let rounds = self.rounds_in(out)?;
        let (run, end) = self.compute(&planned[0], out, rounds)?;
        Ok(Computed { runs: vec![run], end })
    }
}

impl Asked<'_> {
    /// Computes what the folder lacks of so many rounds, with what was planned.
    fn compute(&self, resources: &Resources, out: &Path, rounds: u64) -> Result<(Run, RunEnd), Error> {
        let Request { subject, session, question, .. } = *self.request;
        session.pool()?.install(|| {
            let cost = subject.differentiable(resources)?;
            let objective = Guarded::new(&*cost, &session.interrupt);
            let mut center = vec![0.0f32; subject.dimension()];
            subject.center(0..center.len(), &mut center);
            let recenter = |moving| subject.scores_around(moving, resources).map_err(|error| ObjectiveError::new(error.sentence()));
            let metrics = subject
                .moving()
                .map(|moving| StateMetrics::new(self.spec.metric, moving.clone(), question.seed(), Box::new(recenter), &session.interrupt));
            let mut estimator = LlcEstimator::new(&objective, &center, question, self.spec.clone())?;
            if let Some(metrics) = &metrics {
                estimator = estimator.with_metrics(metrics);
            }
            let manifest = self.request.manifest(self.specs[0].clone(), estimator.center_norm_squared(), None, rounds);
            let drive = |at_work: &mut run_folder::AtWork<LlcRecord>| {
                session.tell(&Event::ChainsOpened { present: at_work.records.len() });
                let mut keeper = FolderKeeper::new(&mut at_work.folder)?;
                let rounds = at_work.manifest.samples as u32;
                let ended = estimator.run(rounds, &at_work.records, &mut keeper, &session.interrupt, &mut |estimate| {
                    session.tell(&Event::LearningCoefficient(estimate));
                })?;
                at_work.records = folder::read_samples(out)?;
                Ok(if ended == AnnealedEnd::Interrupted { RunEnd::Interrupted } else { RunEnd::Completed })
            };
            run_folder::in_folder(out, &manifest, drive, conclude)
        })
    }

    /// How many rounds in all: one, or as many as asked for; or one more than a complete run has where that is asked for.
    fn rounds_in(&self, out: &Path) -> Result<u64, Error> {
        if !self.request.estimate.extend {
            return Ok(self.rounds.unwrap_or(1));
        }
        let state = chains::state(&Llc, out)?.ok_or_else(|| chains::nothing_to_continue(out))?;
        Ok(state.samples + u64::from(state.is_complete))
    }
}
