//! Rays from the center, one run per preconditioner.

use std::path::{Path, PathBuf};

use basin_volume::estimator::radial::{PARTS, RadialEstimator, RadialResult, Sample};
use basin_volume::guarded::Guarded;
use basin_volume::prior::Prior;
use basin_volume::run::driver::{RunEnd, Workers};
use basin_volume::run::folder::{self, FolderError, names};
use basin_volume::run::manifest::Manifest;
use basin_volume::spec::{EstimatorSpec, PreconditionerSpec, Proposal, RadialSpec, RunSpec};
use serde_json::json;

use super::run_folder::{self, Outcome, Spread};
use super::{Capabilities, Computed, Family, Prepared, Request, Run, other_settings, until_interrupted};
use crate::error::Error;
use crate::events::Event;
use crate::forecast::Work;
use crate::preconditioning::{self, Preconditioning, check_maps, check_proposal, placeholder, proposal_bytes};
use crate::request::{Estimate, PerSequence, given};
use crate::resources::{Needs, Resources};
use crate::runs::runs_inside;
use crate::subject::BoxedObjective;

mod sequences;

/// Rays per preconditioner, unless something else is asked for.
pub const SAMPLES: u64 = 100;

/// What only this estimator knows of a run.
#[derive(Debug)]
pub struct Rays {
    /// The rays.
    pub samples: Vec<Sample>,
    /// Summary and diagnostics.
    pub result: RadialResult,
}

/// Rays from the center.
pub struct Radial;

impl Family for Radial {
    fn name(&self) -> &'static str {
        "radial"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { shards: true, preconditioners: true, gradients: false, several_data: true, volume: true }
    }

    fn own_settings(&self, estimate: &Estimate) -> Vec<&'static str> {
        let ask = &estimate.ask;
        let first = given(&[("preconditioner", !estimate.preconditioner.is_empty())]);
        let others = given(&[
            ("proposal", ask.proposal.is_some()),
            ("radius_tolerance", ask.radius_tolerance.is_some()),
            ("profile", ask.profile.is_some_and(|points| points > 0)),
            ("per_sequence", ask.per_sequence.is_some()),
        ]);
        [first, ask.map_settings(), others].concat()
    }

    fn folders(&self) -> &'static [&'static str] {
        &["radial"]
    }

    fn prepare<'a>(&self, request: &'a Request<'a>) -> Result<Box<dyn Prepared + 'a>, Error> {
        Ok(Box::new(Asked::new(request)?))
    }

    fn read(&self, folder: &Path) -> Result<Run, Error> {
        let manifest = folder::read_manifest(folder)?;
        let samples: Vec<Sample> = folder::read_samples(folder)?;
        conclude(folder.to_owned(), manifest, samples, run_folder::seconds_in(folder))
    }

    fn merge(&self, folders: &[PathBuf], out: &Path) -> Result<(), Error> {
        run_folder::merge::<Sample>(folders, out, |out| self.read(out))?;
        sequences::write(&self.read(out)?)
    }
}

/// The run of these samples.
pub(crate) fn conclude(folder: PathBuf, manifest: Manifest, samples: Vec<Sample>, seconds: f64) -> Result<Run, Error> {
    let (answer, own) = RadialResult::of(&manifest, &samples, seconds);
    run_folder::run_of(folder, manifest, Outcome { answer, own }, |result| Rays { samples, result })
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

/// Up to so many weights the factors of `kronecker` are found in seconds.
const CHEAP: usize = 2_000_000;
/// Evaluations of a ray that is quickly found, and of one that is not.
const EVALUATIONS: (f64, f64) = (3.0, 8.0);
/// The same where every sequence has its own radius.
const EVALUATIONS_OF_PARTS: (f64, f64) = (6.0, 20.0);

/// The preconditioners asked for.
fn choices(request: &Request<'_>) -> Vec<String> {
    let (subject, estimate) = (request.subject, request.estimate);
    if !estimate.preconditioner.is_empty() {
        return estimate.preconditioner.clone();
    }
    let mut choices = subject.defaults().preconditioners;
    // A better bound is cheap where the curvature is, and its damping is known.
    let is_known = matches!(request.question.prior(), Prior::Gaussian { .. }) && estimate.ask.map_settings().is_empty();
    if estimate.is_all() && is_known && subject.offers().scores {
        choices.push("fisher".to_owned());
        if subject.dimension() <= CHEAP {
            choices.push("kronecker".to_owned());
        }
    }
    choices
}

/// The settings of rays that are asked for.
pub(crate) fn settings(request: &Request<'_>) -> Result<RadialSpec, Error> {
    let (ask, subject) = (&request.estimate.ask, request.subject);
    let has_parts = subject.offers().parts;
    if ask.per_sequence.is_some() && !has_parts {
        return Err(Error::usage(format!("`per_sequence` is for language models, which {} is not", subject.name())));
    }
    let profile = ask.profile.unwrap_or(0);
    let from_ask = RadialSpec {
        radius_tolerance: ask.radius_tolerance,
        profile_points: profile,
        costs_by_part: ask.per_sequence == Some(PerSequence::Cost),
        volumes_by_part: ask.per_sequence == Some(PerSequence::Volume),
        proposal: ask.proposal.unwrap_or_default(),
        ..RadialSpec::default()
    };
    let given = [
        ("radius_tolerance", "radius_tolerance", ask.radius_tolerance.is_some()),
        ("profile", "profile_points", profile > 0),
        ("per_sequence", "costs_by_part", ask.per_sequence == Some(PerSequence::Cost)),
        ("per_sequence", "volumes_by_part", ask.per_sequence == Some(PerSequence::Volume)),
        ("proposal", "proposal", ask.proposal.is_some()),
    ];
    if let Some((setting, name, _)) = given.into_iter().find(|(_, name, is_given)| *is_given && request.is_set(name)) {
        return Err(Error::usage(format!("`{setting}` and `set={name}` say the same: leave one of them out")));
    }
    let mut settings = EstimatorSpec::Radial(from_ask);
    request.apply_settings(&mut settings)?;
    match settings {
        EstimatorSpec::Radial(settings) if settings.costs_by_part && !has_parts => {
            Err(Error::usage(format!("`set=costs_by_part` is for language models, which {} is not", subject.name())))
        }
        EstimatorSpec::Radial(settings) if settings.volumes_by_part && !has_parts => {
            Err(Error::usage(format!("`set=volumes_by_part` is for language models, which {} is not", subject.name())))
        }
        // Said before anything is timed.
        EstimatorSpec::Radial(RadialSpec { max_evaluations: 0, .. }) => {
            Err(Error::usage("`max_evaluations` is 0: expected a number from 1"))
        }
        EstimatorSpec::Radial(settings) => Ok(settings),
        other => Err(other_settings(&other)),
    }
}

/// Resolves a preconditioner for rays with these settings. A curvature that has to be computed is kept in `folder`.
pub(crate) fn resolve(request: &Request<'_>, proposal: Proposal, choice: &str, folder: Option<&Path>) -> Result<Preconditioning, Error> {
    let wanted = request.wanted(proposal);
    let preconditioning = Preconditioning::resolve(choice, &wanted, folder)?;
    preconditioning.check(&wanted)?;
    Ok(preconditioning)
}

/// One preconditioner before its curvature is computed: what needs none, and what its spec looks like.
pub(crate) struct AtHand {
    pub preconditioning: Option<Preconditioning>,
    pub spec: PreconditionerSpec,
}

/// Resolves what needs no computing, and refuses what cannot be.
pub(crate) fn at_hand(request: &Request<'_>, proposal: Proposal, choice: &str) -> Result<AtHand, Error> {
    check_proposal(choice, &request.wanted(proposal))?;
    if preconditioning::computed(choice).is_some() {
        return Ok(AtHand { preconditioning: None, spec: placeholder(choice, &request.estimate.ask) });
    }
    let found = resolve(request, proposal, choice, None)?;
    Ok(AtHand { spec: found.spec.clone(), preconditioning: Some(found) })
}

impl<'a> Asked<'a> {
    fn new(request: &'a Request<'a>) -> Result<Self, Error> {
        let choices = choices(request);
        check_maps(&request.estimate.ask, &choices)?;
        if let Some(twice) = choices.iter().enumerate().find(|(i, c)| choices[..*i].contains(c)) {
            return Err(Error::usage(format!("`preconditioner` names {} twice", twice.1)));
        }
        let settings = settings(request)?;
        let samples = request.samples(SAMPLES)?;
        let mut asked = Self { request, choices, settings, samples, at_hand: Vec::new(), specs: Vec::new() };
        for choice in &asked.choices {
            let AtHand { preconditioning, spec } = at_hand(request, settings.proposal, choice)?;
            asked.at_hand.push(preconditioning);
            asked.specs.push(request.spec(spec, EstimatorSpec::Radial(settings)));
        }
        let label = |spec: &RunSpec| spec.preconditioner.label().to_owned();
        let specs = &asked.specs;
        if let Some((_, twice)) = specs.iter().enumerate().find(|(i, s)| specs[..*i].iter().any(|t| label(t) == label(s))) {
            return Err(Error::usage(format!(
                "two preconditioners are called '{}': rename one of the files or estimate them apart",
                label(twice)
            )));
        }
        Ok(asked)
    }

    /// The name of a run among others.
    fn label(&self, k: usize) -> &str {
        let choice = &self.choices[k];
        if preconditioning::computed(choice).is_some() { choice } else { self.specs[k].preconditioner.label() }
    }

    /// Refuses the folder of another run before a curvature is computed that would be kept there.
    fn check_single(&self, out: &Path) -> Result<(), Error> {
        let existing = folder::read_manifest(out)?;
        folder::check_directions(out, &existing)?;
        let spec = &self.specs[0];
        let (here, asked) = (existing.spec.preconditioner.label(), self.label(0));
        let is_known = self.at_hand[0].is_some();
        let preconditioner = if is_known { spec.preconditioner.clone() } else { existing.spec.preconditioner.clone() };
        let manifest = Manifest { spec: RunSpec { preconditioner, ..spec.clone() }, ..existing.clone() };
        let mut differences = existing.differences(&manifest, false);
        let is_same_estimator = existing.spec.estimator.name() == spec.estimator.name();
        if is_same_estimator && !is_known && here != asked {
            differences.push(format!("preconditioner: {here} in the folder, {asked} asked for"));
        }
        if differences.is_empty() { Ok(()) } else { Err(FolderError::DifferentRun { path: out.to_owned(), differences }.into()) }
    }

    fn spec(&self, preconditioner: PreconditionerSpec) -> RunSpec {
        self.request.spec(preconditioner, EstimatorSpec::Radial(self.settings))
    }

    /// Folders of another question, or of something else, are refused before anything is computed.
    fn check_folder(&self, out: &Path) -> Result<(), Error> {
        let is_single = out.join(names::MANIFEST).exists();
        if self.specs.len() == 1 {
            return if is_single { self.check_single(out) } else { Ok(()) };
        }
        if is_single {
            return Err(Error::failed(format!(
                "{} holds a single run, but several preconditioners are asked for: choose another folder",
                out.display()
            )));
        }
        folder::check_vacant_group(out, (0..self.specs.len()).map(|k| self.label(k)))?;
        let known: Vec<RunSpec> =
            self.at_hand.iter().zip(&self.specs).filter(|(found, _)| found.is_some()).map(|(_, spec)| spec.clone()).collect();
        check_group(out, &known)
    }
}

/// The work of so many runs of so many samples.
pub(crate) fn work(request: &Request<'_>, runs: usize, samples: u64, settings: &RadialSpec) -> Work {
    let evaluations = if settings.volumes_by_part { EVALUATIONS_OF_PARTS } else { EVALUATIONS };
    let workers = Workers::automatic(request.session.threads, request.subject.dimension());
    let rays = (runs * request.estimate.shard.part().indices(samples).count()) as f64;
    Work {
        evaluations: (evaluations.0 * rays, evaluations.1 * rays),
        gradients: (0.0, 0.0),
        // A cost with a plan of its own is timed with all threads.
        at_once: if request.subject.offers().memory { 1.0 } else { workers.rays.get() as f64 },
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
        Some(work(self.request, self.choices.len(), self.samples, &self.settings))
    }

    fn run(self: Box<Self>, out: &Path) -> Result<Computed, Error> {
        let is_group = self.specs.len() > 1;
        let folder = |label: &str| if is_group { out.join(label) } else { out.to_owned() };
        self.check_folder(out)?;
        let proposal = self.settings.proposal;
        let preconditionings: Vec<Preconditioning> = self
            .at_hand
            .iter()
            .zip(&self.choices)
            .map(|(found, choice)| found.clone().map_or_else(|| resolve(self.request, proposal, choice, Some(&folder(choice))), Ok))
            .collect::<Result<_, _>>()?;
        let specs: Vec<RunSpec> = preconditionings.iter().map(|preconditioning| self.spec(preconditioning.spec.clone())).collect();
        if is_group {
            check_group(out, &specs)?;
        }
        let rays = Setup::new(self.request, &preconditionings, self.settings, self.samples)?;
        let (runs, end) = until_interrupted(preconditionings.iter().zip(specs), |(preconditioning, spec)| {
            let name = spec.preconditioner.label().to_owned();
            rays.run(preconditioning, spec, &name, &folder(&name))
        })?;
        Ok(Computed { runs, end })
    }
}

/// Refuses a group folder that holds runs of another question, before anything is computed: its table would mix them.
fn check_group(out: &Path, specs: &[RunSpec]) -> Result<(), Error> {
    if !out.exists() {
        return Ok(());
    }
    for folder in runs_inside(out)? {
        let existing = folder::read_manifest(&folder)?;
        folder::check_directions(&folder, &existing)?;
        for spec in specs {
            let same_name = folder.ends_with(spec.preconditioner.label());
            // Runs of other preconditioners may stand beside this one; everything else has to agree.
            let preconditioner = if same_name { spec.preconditioner.clone() } else { existing.spec.preconditioner.clone() };
            let asked = Manifest { spec: RunSpec { preconditioner, ..spec.clone() }, ..existing.clone() };
            let differences = existing.differences(&asked, false);
            if !differences.is_empty() {
                return Err(FolderError::DifferentRun { path: folder, differences }.into());
            }
        }
    }
    Ok(())
}

/// What the runs of all preconditioners have in common.
pub(crate) struct Setup<'a> {
    request: &'a Request<'a>,
    objective: BoxedObjective<'a>,
    resources: Resources,
    settings: RadialSpec,
    samples: u64,
}

impl<'a> Setup<'a> {
    /// Decides what is kept, says so, and evaluates the center once.
    pub fn new(request: &'a Request<'a>, preconditionings: &[Preconditioning], settings: RadialSpec, samples: u64) -> Result<Self, Error> {
        let (subject, session) = (request.subject, request.session);
        let dimension = subject.dimension();
        let maps: u64 = preconditionings.iter().map(|preconditioning| preconditioning.bytes(dimension)).sum();
        let bytes = proposal_bytes(request.question, settings.proposal, maps, dimension);
        let resources = subject.resources(Needs::rays(bytes), session)?;
        if let Some(plan) = &resources.memory {
            session.note(&plan.to_string());
        }
        let objective = session.pool()?.install(|| subject.objective(&resources))?;
        Ok(Self { request, objective, resources, settings, samples })
    }

    /// One preconditioner: calibrate, open the folder, compute what it lacks, write the result. `name` tells it from the other runs of its group.
    pub fn run(&self, preconditioning: &Preconditioning, spec: RunSpec, name: &str, folder: &Path) -> Result<(Run, RunEnd), Error> {
        let Self { request, objective, resources, settings, samples } = self;
        let session = request.session;
        // A folder that holds this very run knows the pilot already.
        let pilot = folder::read_manifest(folder).ok().filter(|manifest| manifest.spec == spec).and_then(|manifest| manifest.pilot);
        let objective = Guarded::new(&**objective, &session.interrupt);
        let map = preconditioning.map.clone();
        let calibrated =
            session.pool()?.install(|| RadialEstimator::new(&objective, request.question, map, *settings, pilot, resources.directions));
        let estimator = calibrated.map_err(Error::from).inspect_err(|error| {
            if matches!(error, Error::Interrupted) {
                session.note("Interrupted before the first sample.");
            }
        })?;
        let mut manifest = request.manifest(spec, estimator.center_norm_squared(), Some(estimator.pilot()), *samples);
        manifest.dual_norm_squared = estimator.dual_norm_squared();
        if let Some(provenance) = &preconditioning.provenance {
            manifest.notes.insert("curvature".to_owned(), json!(provenance));
        }
        if settings.volumes_by_part {
            manifest.notes.insert(PARTS.to_owned(), json!(request.subject.parts()));
        }
        if let Some(plan) = &resources.memory {
            manifest.notes.insert("memory".to_owned(), json!(plan));
        }
        let drive = |at_work: &mut run_folder::AtWork<Sample>| {
            let total = at_work.manifest.shard.indices(at_work.manifest.samples).count() as u64;
            session.tell(&Event::RaysOpened { run: name, present: &at_work.records, total });
            let spread = Spread { workers: resources.workers, session };
            let end = run_folder::drive(&estimator, at_work, &spread, |sample, _| session.tell(&Event::Ray(sample)));
            session.tell(&Event::Done);
            end
        };
        let (run, end) = run_folder::in_folder(folder, &manifest, drive, conclude)?;
        sequences::write(&run)?;
        Ok((run, end))
    }
}
