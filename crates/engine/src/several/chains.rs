//! Chains through several data: a ladder for each, and one for the largest of the costs.
//!
//! The numbers are found apart, and the interval of the dependence takes each of them at the end that hurts.

use std::path::{Path, PathBuf};

use basin_volume::estimator::joint;
use basin_volume::run::answer::Trust;
use basin_volume::spec::RunSpec;
use serde_json::json;

use super::{DependenceWords, Dependent, Job};
use crate::error::Error;
use crate::estimate::Outcome;
use crate::estimators::annealed::{self, Asked};
use crate::estimators::chains::nothing_to_continue;
use crate::estimators::{Prepared, Run, until_interrupted};

/// Computes what is missing.
pub(super) fn run(job: &Job<'_>) -> Result<Outcome, Error> {
    let mut asked = job.requests.iter().map(|request| annealed::prepare(request, true)).collect::<Result<Vec<_>, _>>()?;
    let subjects = job.requests.iter().map(|request| request.subject).collect();
    asked.push(annealed::prepare_together(&job.requests[0], subjects, &job.all_record)?);
    let specs: Vec<RunSpec> = asked.iter().flat_map(|asked| asked.specs().iter().cloned()).collect();
    let out = job.out(specs[0].clone())?;
    job.check(&out, specs.into_iter())?;
    let paths: Vec<PathBuf> = job.folders.iter().map(|folder| out.join(folder)).chain([out.join(job.all_folder)]).collect();
    let sweeps = sweeps(&asked, &paths, &out)?;
    // The last needs the most memory: it is refused before the others are computed.
    let plans = asked.iter().map(Asked::plan).collect::<Result<Vec<_>, _>>()?;
    job.tell_forecast(&out, asked.iter().map(Prepared::work))?;
    let all_name = job.names.join(" and ");
    let names = job.names.iter().chain([&all_name]);
    let jobs = asked.iter().zip(&plans).zip(&paths).zip(names);
    let (runs, end) = until_interrupted(jobs, |(((asked, plan), path), name)| {
        job.session.note(&format!("On {name}:"));
        asked.compute(plan, path, sweeps)
    })?;
    job.outcome(out, runs, end)
}

/// How many sweeps each run is to have: all the same number, so that a job that was stopped on its way means the same when it is repeated.
fn sweeps(asked: &[Asked<'_>], paths: &[PathBuf], out: &Path) -> Result<u64, Error> {
    if !asked.first().is_some_and(Asked::extends) {
        return Ok(asked.first().map_or(1, Asked::sweeps));
    }
    let states = paths.iter().map(|path| annealed::state(path)).collect::<Result<Vec<_>, _>>()?;
    let Some(most) = states.iter().flatten().map(|state| state.samples).max() else { return Err(nothing_to_continue(out)) };
    let are_complete = states.iter().all(|state| state.is_some_and(|state| state.samples == most && state.is_complete));
    Ok(most + u64::from(are_complete))
}

/// The dependence, in words whether it is an answer.
pub(super) fn dependence_of(names: &[String], parts: &[Run], all: &Run, nested: f64) -> Dependent {
    let (nats, interval) = joint::dependence_of(&all.answer, &parts.iter().map(|part| &part.answer).collect::<Vec<_>>());
    let value = json!({ "nats": nats, "interval": interval, "level": 0.95 });
    let Some(nats) = nats else {
        return Dependent { value, words: "The dependence is unknown: not every volume has a number.".to_owned() };
    };
    let without = "without an interval: not every volume has both ends of one";
    let mut words = DependenceWords { names, reference: None, nats, interval, without, nested: Some(nested) }.say();
    let all_name = names.join(" and ");
    let named = names.iter().zip(parts).chain([(&all_name, all)]);
    let doubtful: Vec<String> =
        named.filter(|(_, run)| run.answer.trust != Trust::Answer).map(|(name, _)| format!("ln P({name})")).collect();
    if !doubtful.is_empty() {
        let are = if doubtful.len() == 1 { "is none" } else { "are none" };
        words += &format!(" It is not an answer, since {} {are}.", doubtful.join(", "));
    }
    Dependent { value, words }
}
