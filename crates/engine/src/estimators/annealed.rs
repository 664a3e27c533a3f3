//! Chains between a spring to the center and the tilted prior.

use std::path::{Path, PathBuf};

use basin_volume::coordinates::Coordinates;
use basin_volume::estimator::annealed::states::FolderKeeper;
use basin_volume::estimator::annealed::{AnnealedEnd, AnnealedEstimator, AnnealedProgress, AnnealedRecord, AnnealedResult, Metrics};
use basin_volume::guarded::Guarded;
use basin_volume::max_cost::MaxCost;
use basin_volume::objective::{Differentiable, ObjectiveError};
use basin_volume::run::driver::RunEnd;
use basin_volume::run::folder;
use basin_volume::run::manifest::Manifest;
use basin_volume::spec::{AnnealedSpec, CoordinateChoice, EstimatorSpec, Integrator, Metric, PreconditionerSpec, RunSpec, SetKind};
use basin_volume_models::curvature::{CoordinateMetrics, StateMetrics};
use serde_json::{Map, Value};

use super::chains::{self, ChainNeeds};
use super::run_folder::{self, Outcome};
use super::{Capabilities, Computed, Family, Part, Prepared, Request, Run, other_settings};
use crate::error::Error;
use crate::events::Event;
use crate::forecast::Work;
use crate::request::{Estimate, given};
use crate::resources::Resources;
use crate::subject::{BoxedDifferentiable, Rotated, RotatedCost, Subject};

/// More sweeps than anyone can wait for.
const MOST_SWEEPS: u64 = 10_000;
/// Gradients that ladders with the usual settings have taken, from a perceptron of 1,210 weights to the last checkpoints of a language model of
/// 44,672 (the tables of docs/accuracy.md).
const LADDER: (f64, f64) = (20_000.0, 950_000.0);
/// What a ladder takes without any effort that is asked for, in parts of the usual one.
const LEAST_EFFORT: f64 = 0.25;
/// How many times as many steps a ladder of the star takes in the weights, whose cost has kinks; gradients that a step of it takes, and the part of its
/// points whose cost is evaluated.
const STEEPER: f64 = 2.5;
const SHARES: f64 = 1.8;
const LOOKS: f64 = 0.5;
/// The folder of the star beside that of the basin.
const STAR: &str = "star";

/// What only this estimator knows of a run.
#[derive(Debug)]
pub struct Chains {
    /// The settings.
    pub spec: AnnealedSpec,
    /// What the records say.
    pub result: AnnealedResult,
}

/// Chains.
pub struct Annealed;

impl Family for Annealed {
    fn name(&self) -> &'static str {
        "annealed"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { shards: false, preconditioners: false, gradients: true, several_data: true, volume: true }
    }

    fn own_settings(&self, estimate: &Estimate) -> Vec<&'static str> {
        given(&[("set_kind", estimate.ask.set_kind.is_some()), ("continue", estimate.extend)])
    }

    fn folders(&self) -> &'static [&'static str] {
        &["annealed", STAR]
    }

    /// The basin, and the star, unless one of them is asked for.
    fn in_all(&self, estimate: &Estimate) -> Vec<Part> {
        let is_chosen = estimate.ask.set_kind.is_some() || estimate.ask.set.iter().any(|setting| setting.name == "annealed.set_kind");
        let basin = Part::of(Annealed.name(), estimate);
        if is_chosen {
            return vec![basin];
        }
        let mut star = Part { folder: STAR, words: "the star by chains".to_owned(), ..basin.clone() };
        star.estimate.ask.set_kind = Some(SetKind::Star);
        vec![basin, star]
    }

    fn prepare<'a>(&self, request: &'a Request<'a>) -> Result<Box<dyn Prepared + 'a>, Error> {
        Ok(Box::new(prepare(request, false)?))
    }

    fn read(&self, folder: &Path) -> Result<Run, Error> {
        let manifest = folder::read_manifest(folder)?;
        let records: Vec<AnnealedRecord> = folder::read_samples(folder)?;
        conclude(folder.to_owned(), manifest, records, run_folder::seconds_in(folder))
    }

    fn merge(&self, _folders: &[PathBuf], _out: &Path) -> Result<(), Error> {
        Err(chains::no_shards())
    }
}

fn spec_of(manifest: &Manifest) -> Result<&AnnealedSpec, Error> {
    match &manifest.spec.estimator {
        EstimatorSpec::Annealed(spec) => Ok(spec),
        other => Err(Error::failed(format!("the run is one of the {} estimator", other.name()))),
    }
}

fn conclude(folder: PathBuf, manifest: Manifest, records: Vec<AnnealedRecord>, seconds: f64) -> Result<Run, Error> {
    let spec = spec_of(&manifest)?.clone();
    let (answer, own) = AnnealedResult::of(&manifest, &records, seconds);
    let is_complete = own.complete;
    run_folder::run_of(folder, manifest, Outcome { answer, own }, |result| Chains { spec, result }).map(|run| Run { is_complete, ..run })
}

/// What is asked, before anything is computed.
pub(crate) struct Asked<'a> {
    request: &'a Request<'a>,
    /// The subjects the largest of whose costs is the cost.
    subjects: Vec<&'a dyn Subject>,
    spec: AnnealedSpec,
    sweeps: Option<u64>,
    specs: Vec<RunSpec>,
}

/// Understands the request; on one of several data where it says so.
pub(crate) fn prepare<'a>(request: &'a Request<'a>, is_one_of_several: bool) -> Result<Asked<'a>, Error> {
    let estimate = request.estimate;
    chains::check(request, Annealed.name())?;
    let mut settings =
        EstimatorSpec::Annealed(AnnealedSpec { set_kind: estimate.ask.set_kind.unwrap_or(SetKind::Basin), ..AnnealedSpec::default() });
    request.apply_settings(&mut settings)?;
    let EstimatorSpec::Annealed(mut spec) = settings else { return Err(other_settings(&settings)) };
    AnnealedEstimator::check(&request.question, &spec)?;
    let begun = begun(request);
    choose_metric(&mut spec, begun.as_ref(), request, is_one_of_several);
    chains::check_metric(spec.has_metric(), request.subject)?;
    spec.coordinates = coordinates(request, &spec, begun.as_ref(), is_one_of_several)?;
    let sweeps = request.asked_samples();
    if let Some(sweeps) = sweeps.filter(|sweeps| !(1..=MOST_SWEEPS).contains(sweeps)) {
        return Err(Error::usage(format!("`samples` is {sweeps}: expected 1 to {MOST_SWEEPS} sweeps of the ladder")));
    }
    if let Some(sweeps) = sweeps.filter(|sweeps| *sweeps < u64::from(spec.anchors)) {
        return Err(Error::usage(format!("`samples` is {sweeps}: `set=anchors={}` takes a sweep around each", spec.anchors)));
    }
    if estimate.extend && sweeps.is_some() {
        return Err(Error::usage("`continue` adds one sweep: leave `samples` out, or give the number of all sweeps without `continue`"));
    }
    let specs = vec![request.spec(PreconditionerSpec::None, EstimatorSpec::Annealed(spec.clone()))];
    Ok(Asked { request, subjects: vec![request.subject], spec, sweeps, specs })
}

/// Which coordinates the chains move in: rotated ones unless something speaks against them. On several data each is asked in the same way.
fn coordinates(
    request: &Request<'_>,
    spec: &AnnealedSpec,
    begun: Option<&AnnealedSpec>,
    is_one_of_several: bool,
) -> Result<CoordinateChoice, Error> {
    let rotated = request.subject.offers().rotated;
    let obstacle = if rotated == Rotated::No {
        Some("none are known for this model, or not all of its weights move, or the activations of its data are too many to be kept")
    } else if rotated == Rotated::AlongAxes && spec.has_metric() {
        Some("a metric is one of weights")
    } else if rotated == Rotated::WithDiagonal && spec.metric != Metric::Diagonal {
        Some("those of this model are stretched by `metric=diagonal`")
    } else if request.question.l2_reg() > 0.0 {
        Some("`l2_reg` is a penalty of weights")
    } else if is_one_of_several {
        Some("each of several `data` has its own")
    } else {
        None
    };
    if let Some(begun) = begun.filter(|_| !request.is_set("coordinates")) {
        return Ok(begun.coordinates);
    }
    match (spec.coordinates, obstacle) {
        (CoordinateChoice::Rotated, Some(obstacle)) => Err(Error::usage(format!("`set=coordinates=rotated`: {obstacle}, leave it out"))),
        (CoordinateChoice::Auto, Some(_)) => Ok(CoordinateChoice::Weights),
        (CoordinateChoice::Auto, None) => Ok(CoordinateChoice::Rotated),
        (choice, _) => Ok(choice),
    }
}

/// The settings of the run that goes on, which keeps those that were chosen for it.
fn begun(request: &Request<'_>) -> Option<AnnealedSpec> {
    let folders = request.estimate.out.iter().flat_map(|out| [out.clone(), out.join(Annealed.name())]);
    folders.into_iter().find_map(|out| spec_of(&folder::read_manifest(&out).ok()?).ok().cloned())
}

/// The metric, the length of trajectories that goes with it, and the acceptance that goes with the integrator, where nothing was asked for.
fn choose_metric(spec: &mut AnnealedSpec, begun: Option<&AnnealedSpec>, request: &Request<'_>, is_one_of_several: bool) {
    if spec.metric == Metric::Auto {
        let offers = request.subject.offers();
        // Rotated coordinates of some networks do without, those of others need it.
        let is_asked_without = spec.coordinates == CoordinateChoice::Rotated && offers.rotated == Rotated::AlongAxes;
        let is_free = !is_asked_without && !is_one_of_several && offers.scores;
        spec.metric = match begun {
            Some(begun) => begun.metric,
            None if is_free => request.subject.defaults().metric,
            None => Metric::None,
        };
    }
    if !request.is_set("angle") {
        spec.angle = match begun {
            Some(begun) => begun.angle,
            None if spec.has_metric() => AnnealedSpec::ANGLE_WITH_METRIC,
            None => spec.angle,
        };
    }
    if !request.is_set("acceptance") && spec.integrator == Integrator::ThreeStage {
        spec.acceptance = AnnealedSpec::ACCEPTANCE_IN_STAGES;
    }
}

/// The same on several data, with the record of all: the set where the largest of the costs stays under the cutoff.
pub(crate) fn prepare_together<'a>(
    request: &'a Request<'a>,
    subjects: Vec<&'a dyn Subject>,
    record: &Map<String, Value>,
) -> Result<Asked<'a>, Error> {
    let mut asked = prepare(request, true)?;
    if asked.spec.has_metric() {
        return Err(Error::usage(
            "`set=metric` is for one `data`: the largest of several costs has no curvature of its own, leave metric out",
        ));
    }
    asked.subjects = subjects;
    asked.specs.iter_mut().for_each(|spec| spec.problem = record.clone());
    Ok(asked)
}

impl Prepared for Asked<'_> {
    fn specs(&self) -> &[RunSpec] {
        &self.specs
    }

    fn records(&self) -> Option<u64> {
        None
    }

    fn work(&self) -> Option<Work> {
        let default = AnnealedSpec::default();
        let chains = f64::from(self.spec.chains);
        // Stays have a least number of trajectories whatever the effort.
        let effort = (f64::from(self.spec.effort) / f64::from(default.effort)).max(LEAST_EFFORT);
        let size = chains * effort / f64::from(default.chains);
        let ladders = |gradients: f64| size * self.sweeps() as f64 * gradients;
        let (least, most) = (ladders(LADDER.0), ladders(LADDER.1));
        let points = f64::from(self.spec.star_points);
        let steeper = if self.spec.coordinates == CoordinateChoice::Rotated { 1.0 } else { STEEPER };
        let is_star = self.spec.set_kind == SetKind::Star;
        let (evaluations, share) = if is_star { (steeper * LOOKS * points, steeper * SHARES) } else { (0.0, 1.0) };
        // The largest of several costs takes each of them.
        let costs = self.subjects.len() as f64;
        Some(Work {
            evaluations: (costs * evaluations * least, costs * evaluations * most),
            gradients: (costs * share * least, costs * share * most),
            at_once: chains.min(self.request.session.threads.get() as f64),
        })
    }

    fn run(self: Box<Self>, out: &Path) -> Result<Computed, Error> {
        let (run, end) = self.compute(&self.plan()?, out, self.sweeps_in(out)?)?;
        Ok(Computed { runs: vec![run], end })
    }
}

impl Asked<'_> {
    /// What is kept in memory for each subject; refused where it does not fit, with the number of chains that would.
    pub fn plan(&self) -> Result<Vec<Resources>, Error> {
        let (dimension, metric) = (self.specs[0].dimension, self.spec.metric);
        ChainNeeds { session: self.request.session, subjects: &self.subjects, dimension, metric }.plan(Annealed.name(), self.spec.chains)
    }

    /// Computes what the folder lacks of so many sweeps, with what was planned.
    pub fn compute(&self, resources: &[Resources], out: &Path, sweeps: u64) -> Result<(Run, RunEnd), Error> {
        let Request { subject, session, question, .. } = *self.request;
        session.pool()?.install(|| {
            let rotated = if self.spec.coordinates == CoordinateChoice::Rotated { subject.rotated(&resources[0])? } else { None };
            let coordinates = rotated.as_ref().map(|rotated| &*rotated.coordinates as &dyn Coordinates);
            let costs: Vec<BoxedDifferentiable<'_>> = match coordinates {
                Some(_) => Vec::new(),
                None => self.subjects.iter().zip(resources).map(|(subject, own)| subject.differentiable(own)).collect::<Result<_, _>>()?,
            };
            // One evaluation of the largest is one of each: an interrupt between them is obeyed.
            let guarded: Vec<Guarded<'_, _>> = costs.iter().map(|cost| Guarded::new(&**cost, &session.interrupt)).collect();
            let largest;
            let objective: &dyn Differentiable = match (coordinates, guarded.as_slice()) {
                (Some(coordinates), _) => coordinates,
                (None, [one]) => one,
                (None, several) => {
                    let costs = several.iter().map(|cost| cost as &dyn Differentiable).collect();
                    largest = MaxCost::new(costs).map_err(Error::of)?;
                    &largest
                }
            };
            let mut center = vec![0.0f32; subject.dimension()];
            objective.center(0..center.len(), &mut center);
            let (seed, interrupt) = (question.seed(), &session.interrupt);
            let recenter = |moving| subject.scores_around(moving, &resources[0]).map_err(|error| ObjectiveError::new(error.sentence()));
            let metrics: Option<Box<dyn Metrics + '_>> = match (&rotated, subject.moving()) {
                (Some(RotatedCost { coordinates, positions }), _) => {
                    Some(Box::new(CoordinateMetrics::new(&**coordinates, subject.layout(), *positions, seed, interrupt)))
                }
                (None, Some(moving)) => {
                    Some(Box::new(StateMetrics::new(self.spec.metric, moving.clone(), seed, Box::new(recenter), interrupt)))
                }
                (None, None) => None,
            };
            let mut estimator = AnnealedEstimator::new(objective, &center, question, self.spec.clone())?;
            if let Some(metrics) = &metrics {
                estimator = estimator.with_metrics(&**metrics);
            }
            if let Some(coordinates) = coordinates {
                estimator = estimator.with_coordinates(coordinates);
            }
            let mut manifest = self.request.manifest(self.specs[0].clone(), estimator.center_norm_squared(), None, sweeps);
            if self.subjects.len() > 1 {
                manifest.notes.remove("data");
            }
            let drive = |at_work: &mut run_folder::AtWork<AnnealedRecord>| {
                session.tell(&Event::ChainsOpened { present: at_work.records.len() });
                let mut keeper = FolderKeeper::new(&mut at_work.folder)?;
                if let Some(coordinates) = coordinates {
                    keeper = keeper.with_coordinates(coordinates);
                }
                let sweeps = at_work.manifest.samples as u32;
                let mut observe = |progress: AnnealedProgress<'_>| match progress {
                    AnnealedProgress::Relaxation(relaxation) => session.tell(&Event::Relaxation(relaxation)),
                    AnnealedProgress::Ladder(estimate) => session.tell(&Event::Ladder(estimate)),
                };
                let ended = estimator.run(sweeps, &at_work.records, &mut keeper, &session.interrupt, &mut observe)?;
                at_work.records = folder::read_samples(out)?;
                Ok(if ended == AnnealedEnd::Interrupted { RunEnd::Interrupted } else { RunEnd::Completed })
            };
            run_folder::in_folder(out, &manifest, drive, conclude)
        })
    }

    /// Whether one more sweep is asked for.
    pub fn extends(&self) -> bool {
        self.request.estimate.extend
    }

    /// How many sweeps in all: as many as asked for, else one around each anchor.
    pub fn sweeps(&self) -> u64 {
        self.sweeps.unwrap_or(u64::from(self.spec.anchors))
    }

    /// The same, or one more than a complete run has where that is asked for.
    fn sweeps_in(&self, out: &Path) -> Result<u64, Error> {
        if !self.extends() {
            return Ok(self.sweeps());
        }
        let state = state(out)?.ok_or_else(|| chains::nothing_to_continue(out))?;
        Ok(state.samples + u64::from(state.is_complete))
    }
}

/// How far the run in a folder has come; none when there is none.
pub(crate) fn state(out: &Path) -> Result<Option<chains::State>, Error> {
    chains::state(&Annealed, out)
}
