//! Rays through several data: all share them.
//!
//! The crossing of the largest of the costs is the first of the crossings, and the sampling error that the runs have in common cancels from the
//! dependence.

use std::path::Path;

use basin_volume::estimator::joint::{dependence, dependence_given, first_crossings};
use basin_volume::estimator::radial::Sample;
use basin_volume::prior::Prior;
use basin_volume::run::driver::RunEnd;
use basin_volume::run::manifest::Manifest;
use basin_volume::run::record::Record;
use basin_volume::spec::{EstimatorSpec, RunSpec};
use basin_volume::statistics::IntervalSettings;
use serde_json::json;

use super::{DependenceWords, Dependent, Job, Together};
use crate::error::Error;
use crate::estimate::Outcome;
use crate::estimators::radial::{self, AtHand, Rays, Setup};
use crate::estimators::{Request, Run, run_folder, until_interrupted};
use crate::preconditioning::check_maps;
use crate::request::Estimate;

/// The one preconditioner.
pub(super) fn preconditioner(estimate: &Estimate) -> Result<&str, Error> {
    match estimate.preconditioner.as_slice() {
        [] => Ok("none"),
        [one] => Ok(one),
        several => Err(Error::usage(format!(
            "several `data` share their rays, so they take one preconditioner: leave all but one of {} out",
            several.join(", ")
        ))),
    }
}

/// Computes what is missing.
pub(super) fn run(job: &Job<'_>) -> Result<Outcome, Error> {
    let choice = preconditioner(job.estimate)?;
    let first = &job.requests[0];
    let settings = radial::settings(first)?;
    let samples = first.samples(radial::SAMPLES)?;
    check_maps(&job.estimate.ask, &[choice])?;
    let AtHand { preconditioning, spec: asked } = radial::at_hand(first, settings.proposal, choice)?;
    let estimator = EstimatorSpec::Radial(settings);
    let out = job.out(first.spec(asked, estimator.clone()))?;
    job.check_folder(&out)?;
    job.tell_forecast(&out, job.requests.iter().map(|request| Some(radial::work(request, 1, samples, &settings))))?;
    // A curvature is that of the cost on the first data: the rays have to be the same for all.
    let preconditioning = match preconditioning {
        Some(found) => found,
        None => radial::resolve(first, settings.proposal, choice, Some(&out.join(&job.folders[0])))?,
    };
    let spec = |request: &Request<'_>| request.spec(preconditioning.spec.clone(), estimator.clone());
    let all_spec = RunSpec { problem: job.all_record.clone(), ..spec(first) };
    job.check(&out, job.requests.iter().map(spec).chain([all_spec.clone()]))?;
    let (mut runs, end) = until_interrupted(job.requests.iter().zip(&job.folders), |(request, name)| {
        let setup = Setup::new(request, std::slice::from_ref(&preconditioning), settings, samples)?;
        setup.run(&preconditioning, spec(request), name, &out.join(name))
    })?;
    if runs.len() == job.requests.len() {
        let all = first_of(&runs, all_spec, &out.join(job.all_folder))?;
        runs.push(all);
    }
    job.outcome(out, runs, end)
}

/// The samples of each part.
fn samples(parts: &[Run]) -> Vec<&[Sample]> {
    parts.iter().map(|part| part.details::<Rays>().map_or(&[][..], |rays| &rays.samples)).collect()
}

/// The run of all data: the first crossings of every ray that all parts have.
fn first_of(parts: &[Run], spec: RunSpec, folder: &Path) -> Result<Run, Error> {
    let first = &parts[0].manifest;
    let mut manifest = Manifest::new(spec, first.center_norm_squared, None, first.samples, first.shard);
    manifest.dual_norm_squared = first.dual_norm_squared;
    manifest.notes = first.notes.clone();
    manifest.notes.remove("data");
    let crossings = first_crossings(&samples(parts));
    let seconds: f64 = parts.iter().map(|part| part.answer.seconds).sum();
    let drive = |at_work: &mut run_folder::AtWork<Sample>| {
        for sample in &crossings {
            if !at_work.records.iter().any(|present| present.index() == sample.index()) {
                at_work.folder.append(sample)?;
            }
        }
        at_work.records.clone_from(&crossings);
        Ok(RunEnd::Completed)
    };
    // It took as long as its parts.
    let conclude = |folder, manifest, samples, _| radial::conclude(folder, manifest, samples, seconds);
    Ok(run_folder::in_folder(folder, &manifest, drive, conclude)?.0)
}

/// The dependence given the last of the data, whose cost counts so many times.
pub(super) fn given_reference(names: &[String], runs: &[Run], scale: f64) -> Together {
    let samples = samples(runs);
    let seed = runs.first().map_or(0, |run| run.manifest.spec.question.seed());
    let none: &[Sample] = &[];
    let (reference, parts) = samples.split_last().map_or((none, &[][..]), |(last, parts)| (*last, parts));
    let found = dependence_given(parts, reference, IntervalSettings { seed, ..IntervalSettings::default() });
    let nested = found.nested();
    let (own, reference_name) = (&names[..parts.len()], names.last().map_or("", String::as_str));
    let words = match found.dependence.nats {
        None => "The dependence is unknown: not every volume has a finite estimate.".to_owned(),
        Some(nats) => {
            let interval = found.dependence.interval.as_ref().and_then(|interval| Some((interval.low, interval.high?)));
            let without = "without an interval: a volume that is carried by few rays leaves both ends unknown";
            let said = DependenceWords { names: own, reference: Some(reference_name), nats, interval, without, nested: Some(nested) }.say();
            let cutoff = runs.last().map_or(f64::NAN, |run| run.manifest.spec.question.cutoff());
            let inside = found.parts.iter().map(|part| part - found.reference).fold(f64::INFINITY, f64::min);
            let hint = if inside > -1e-6 * found.reference.abs() {
                " The reference's set lies inside the others: it leaves nothing to find. Take other reference data, or a smaller `reference_scale`."
            } else {
                ""
            };
            format!(
                "{said} All are looked at inside the set of {reference_name}, whose cutoff is {cutoff} nats (the others' over {scale}).{hint}"
            )
        }
    };
    let mut value = json!(found);
    value["reference_scale"] = json!(scale);
    value["normalized"] = json!(found.dependence.nats.map(|nats| nats / nested).filter(|share| share.is_finite()));
    Together { names: names.to_vec(), dependence: Some(value), nested, words: Some(words) }
}

/// The dependence along the rays that all parts have.
pub(super) fn dependence_of(names: &[String], parts: &[Run], nested: f64) -> Dependent {
    let seed = parts.first().map_or(0, |part| part.manifest.spec.question.seed());
    let found = dependence(&samples(parts), IntervalSettings { seed, ..IntervalSettings::default() });
    let value = json!(found);
    let Some(nats) = found.nats else {
        return Dependent { value, words: "The dependence is unknown: not every volume has a finite estimate.".to_owned() };
    };
    let is_flat = parts.iter().any(|part| matches!(part.manifest.spec.question.prior(), Prior::Lebesgue));
    let interval = found.interval.and_then(|interval| Some((interval.low, interval.high?)));
    let without = "without an interval: a volume that is carried by few rays leaves both ends unknown";
    let mut words = DependenceWords { names, reference: None, nats, interval, without, nested: (!is_flat).then_some(nested) }.say();
    if is_flat {
        words += " These are volumes, whose logarithms depend on units, so only differences between dependences mean something.";
    }
    Dependent { value, words }
}
