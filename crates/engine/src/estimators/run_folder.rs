//! A run in its folder: opened, driven, timed, its result written. The one copy of what all estimators do around their work.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use basin_volume::run::answer::Answer;
use basin_volume::run::driver::{self, IndexedEstimator, RunEnd, SamplePlan, Workers};
use basin_volume::run::folder::{self, RunFolder, names};
use basin_volume::run::manifest::Manifest;
use basin_volume::run::record::Record;
use serde::Serialize;

use super::Run;
use crate::error::Error;
use crate::session::Session;

/// A result as its estimator computes it from manifest, records and seconds.
pub(crate) struct Outcome<T> {
    /// The common view.
    pub answer: Answer,
    /// The estimator's own block.
    pub own: T,
}

/// An open run folder at work.
pub(crate) struct AtWork<R> {
    /// The folder.
    pub folder: RunFolder,
    /// What it says was asked, which may be more samples than this time.
    pub manifest: Manifest,
    /// What is there, in the order of the indices.
    pub records: Vec<R>,
}

/// Opens the folder, lets `drive` add what it lacks, and writes the result that `conclude` makes of everything.
pub(crate) fn in_folder<R: Record>(
    path: &Path,
    manifest: &Manifest,
    drive: impl FnOnce(&mut AtWork<R>) -> Result<RunEnd, Error>,
    conclude: impl FnOnce(PathBuf, Manifest, Vec<R>, f64) -> Result<Run, Error>,
) -> Result<(Run, RunEnd), Error> {
    let (folder, mut records) = RunFolder::open::<R>(path, manifest)?;
    records.sort_by_key(Record::index);
    // The folder's own record counts: it may ask for more samples than this job, and holds the time spent so far.
    let manifest = folder::read_manifest(path)?;
    let mut seconds = seconds_in(path);
    let mut at_work = AtWork { folder, manifest, records };
    let (began, before) = (Instant::now(), at_work.records.len());
    let end = drive(&mut at_work).map_err(|error| error.keeping(path))?;
    let AtWork { folder, manifest, mut records } = at_work;
    records.sort_by_key(Record::index);
    if records.len() > before {
        seconds += began.elapsed().as_secs_f64();
    }
    let run = conclude(path.to_owned(), manifest, records, seconds)?;
    folder.write_result(&run.result())?;
    Ok((run, end))
}

/// Wall-clock seconds spent in a run folder so far.
pub(crate) fn seconds_in(path: &Path) -> f64 {
    folder::read_answer(path).map_or(0.0, |answer| answer.seconds)
}

/// How records that are pure functions of their index are computed.
pub(crate) struct Spread<'a> {
    /// How the work is spread.
    pub workers: Workers,
    /// With what.
    pub session: &'a Session,
}

/// Computes the records of an estimator that the folder lacks; `observe` is called when one is on disk, with the number of those there.
pub(crate) fn drive<E: IndexedEstimator>(
    estimator: &E,
    at_work: &mut AtWork<E::Record>,
    spread: &Spread<'_>,
    mut observe: impl FnMut(&E::Record, u64),
) -> Result<RunEnd, Error>
where
    E::Error: std::error::Error + Into<Error> + 'static,
{
    let AtWork { folder, manifest, records } = at_work;
    let present: BTreeSet<u64> = records.iter().map(Record::index).collect();
    let plan = SamplePlan {
        samples: manifest.samples,
        shard: manifest.shard,
        present: &present,
        workers: spread.workers,
        interrupt: &spread.session.interrupt,
    };
    let outcome = driver::run(estimator, folder, plan, |record| {
        observe(&record, records.len() as u64 + 1);
        records.push(record);
    });
    outcome.map_err(|error| Error::failed(error.to_string()))
}

/// Joins shards into a new folder, with the time that all of them took; `read` makes the result.
pub(crate) fn merge<R: Record>(folders: &[PathBuf], out: &Path, read: impl FnOnce(&Path) -> Result<Run, Error>) -> Result<(), Error> {
    let seconds: f64 = folders.iter().map(|folder| seconds_in(folder)).sum();
    folder::merge::<R>(folders, out)?;
    let mut run = read(out)?;
    run.answer.seconds = seconds;
    Ok(folder::write_json(&out.join(names::RESULT), &run.result())?)
}

/// A run of what an estimator's own type says.
pub(crate) fn run_of<T: Serialize + Clone + Send + Sync + 'static, D: Send + Sync + 'static>(
    folder: PathBuf,
    manifest: Manifest,
    outcome: Outcome<T>,
    details: impl FnOnce(T) -> D,
) -> Result<Run, Error> {
    let Outcome { answer, own } = outcome;
    let block = serde_json::to_value(&own)?;
    Ok(Run::new(folder, manifest, answer, block, details(own)))
}
