//! The main job: an estimate of the volume of a subject, in a folder.

use std::path::{Path, PathBuf};

use basin_volume::run::driver::RunEnd;
use basin_volume::run::folder::{self, names};
use basin_volume::spec::RunSpec;
use basin_volume_data::hexadecimal;
use sha2::{Digest, Sha256};

use crate::comparison;
use crate::error::Error;
use crate::estimators::{Family, Part, Prepared, Request, families, refuse_settings_of_others, until_interrupted, volumes};
use crate::events::Event;
use crate::forecast::{Forecast, Pace, duration};
use crate::numbers::capitalized;
use crate::request::{Estimate, TIME_LIMIT};
use crate::runs::RunGroup;
use crate::session::Session;
use crate::several;
use crate::spread::{ShardChoice, Task};
use crate::subject::Subject;

/// Characters of a subject's name in the name of a folder.
const LONGEST_NAME: usize = 50;

/// What an estimate has come to.
#[derive(Debug)]
pub struct Outcome {
    /// The runs, a group for each estimator.
    pub groups: Vec<RunGroup>,
    /// Where they are.
    pub folder: PathBuf,
    /// Whether several estimators stand in it side by side.
    pub is_together: bool,
    /// Whether they are complete.
    pub end: RunEnd,
    /// What would have taken too long, and is not among them, in sentences.
    pub left_out: Vec<String>,
}

impl Outcome {
    /// The folder that all estimators stand in, if there are several.
    #[must_use]
    pub fn together(&self) -> Option<&Path> {
        self.is_together.then_some(self.folder.as_path())
    }
}

/// The estimators that are asked for, and what can be seen to be wrong without a subject.
///
/// # Errors
/// [`Error::Usage`].
pub fn check(estimate: &Estimate) -> Result<Vec<&'static dyn Family>, Error> {
    several::refuse_reference(estimate)?;
    estimate.ask.check()?;
    let mut families = families(&estimate.estimator)?;
    if estimate.is_all() && !estimate.shard.part().is_all() {
        families.retain(|family| family.capabilities().shards);
    }
    refuse_settings_of_others(estimate, &families)?;
    Ok(families)
}

/// Estimates the volume of a subject: computes what the folder lacks, and writes every result.
///
/// # Errors
/// When something cannot be, or fails; what was computed before is kept.
pub fn run(estimate: &Estimate, subject: &dyn Subject, session: &Session) -> Result<Outcome, Error> {
    if let Some(task) = Task::of(estimate.shard, estimate.out.as_deref())? {
        return task.estimate(estimate, session, |own, share| run_share(own, share, subject, session));
    }
    let outcome = run_share(estimate, &Share::Whole, subject, session)?;
    comparison::write_beside(&outcome.groups, outcome.together())?;
    Ok(outcome)
}

/// Which of the estimates that a request stands for are computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Share {
    /// All that can be.
    Whole,
    /// Those that have parts.
    Parts,
    /// Those that have none, each in a folder of this name inside its own.
    Ladders(String),
}

impl Share {
    fn has(&self, family: &dyn Family) -> bool {
        match self {
            Self::Whole => true,
            Self::Parts => family.capabilities().shards,
            Self::Ladders(_) => !family.capabilities().shards,
        }
    }

    /// The folder of an estimator.
    pub fn inside(&self, folder: PathBuf) -> PathBuf {
        if let Self::Ladders(name) = self { folder.join(name) } else { folder }
    }
}

/// A share of an estimate, without what its runs say side by side.
fn run_share(estimate: &Estimate, share: &Share, subject: &dyn Subject, session: &Session) -> Result<Outcome, Error> {
    // What belongs to a share of the estimators that is not computed here belongs to the job.
    let asked =
        if *share == Share::Whole { check(estimate)? } else { check(&Estimate { shard: ShardChoice::default(), ..estimate.clone() })? };
    let families: Vec<&'static dyn Family> = asked.iter().copied().filter(|family| share.has(*family)).collect();
    let is_all = estimate.is_all();
    if is_all && *share == Share::Whole && families.len() < volumes().len() {
        let without: Vec<&str> = volumes().iter().filter(|family| !family.capabilities().shards).map(|family| family.name()).collect();
        let names = without.join(", ");
        session.note(&format!("A shard leaves out what has none: estimate with `estimator={names}` by itself."));
    }
    let estimates = parts(estimate, share, &families);
    let requests = estimates
        .iter()
        .map(|(family, part)| Request::new(*family, &asked, &part.estimate, subject, session))
        .collect::<Result<Vec<_>, Error>>()?;
    let prepared =
        estimates.iter().zip(&requests).map(|((family, _), request)| family.prepare(request)).collect::<Result<Vec<_>, Error>>()?;
    let specs: Vec<RunSpec> = prepared.iter().flat_map(|prepared| prepared.specs().iter().cloned()).collect();
    let out = match &estimate.out {
        Some(out) => out.clone(),
        None => default_out(subject.name(), &specs, estimate)?,
    };
    let folder_of = |part: &Part| share.inside(if is_all { out.join(part.folder) } else { out.clone() });
    session.tell(&Event::Folder(&out));
    if is_all {
        if out.join(names::MANIFEST).exists() {
            return Err(Error::failed(format!(
                "{} holds a single run, but all estimators are asked for: choose another folder",
                out.display()
            )));
        }
        folder::check_vacant_group(&out, families.iter().flat_map(|family| family.folders()))?;
    }
    let jobs = estimates.iter().zip(prepared).map(|(by_family, prepared)| Job { folder: folder_of(&by_family.1), by_family, prepared });
    let (jobs, left_out) = within_time(estimate, subject, session, jobs.collect())?;
    if jobs.is_empty() && matches!(share, Share::Whole | Share::Parts) {
        let limit = estimate.time_limit.unwrap_or(TIME_LIMIT).0;
        return Err(Error::usage(format!("nothing ends within `time_limit={limit}s`: {}", left_out.join(" "))));
    }
    left_out.iter().for_each(|words| session.note(words));
    let (groups, end) = until_interrupted(jobs, |Job { folder, prepared, .. }| {
        let is_group = prepared.specs().len() > 1;
        let computed = prepared.run(&folder)?;
        Ok((RunGroup { folder, is_group, runs: computed.runs, together: None, ladders: None }, computed.end))
    })?;
    groups.iter().try_for_each(|group| comparison::write_runs(&group.runs))?;
    Ok(Outcome { groups, folder: out, is_together: is_all, end, left_out })
}

/// How long an estimate would take.
#[derive(Debug, Clone, PartialEq)]
pub struct PartForecast {
    /// The estimate, in words.
    pub words: String,
    /// Its time.
    pub forecast: Forecast,
}

/// How long every estimator that this subject can have would take as it is asked for, from one evaluation and one gradient that are timed.
///
/// # Errors
/// When something is asked for that cannot be, or the cost cannot be evaluated.
pub fn forecasts(estimate: &Estimate, subject: &dyn Subject, session: &Session) -> Result<Vec<PartForecast>, Error> {
    let families = check(estimate)?;
    let pace = Pace::of(subject, families.iter().any(|family| family.capabilities().gradients), session)?;
    let mut found = Vec::new();
    for (family, part) in parts(estimate, &Share::Whole, &families) {
        let request = Request::new(family, &families, &part.estimate, subject, session)?;
        let work = family.prepare(&request)?.work();
        found.extend(work.map(|work| PartForecast { words: part.words, forecast: work.at(&pace) }));
    }
    Ok(found)
}

/// An estimate by one of the estimators.
type ByFamily = (&'static dyn Family, Part);

/// The estimates that a request stands for: itself, or one or several of every estimator.
fn parts(estimate: &Estimate, share: &Share, families: &[&'static dyn Family]) -> Vec<ByFamily> {
    let of = |family: &'static dyn Family| {
        if !estimate.is_all() {
            let own = Estimate { out: estimate.out.clone().map(|out| share.inside(out)), ..estimate.clone() };
            return vec![Part::of(family.name(), &own)];
        }
        let mut parts = family.in_all(estimate);
        for part in &mut parts {
            part.estimate.out = estimate.out.as_ref().map(|out| share.inside(out.join(part.folder)));
        }
        parts
    };
    families.iter().flat_map(|&family| of(family).into_iter().map(move |part| (family, part))).collect()
}

/// An estimate with what is prepared for it.
struct Job<'a> {
    by_family: &'a ByFamily,
    prepared: Box<dyn Prepared + 'a>,
    /// Where its runs are.
    folder: PathBuf,
}

/// Says how long the jobs will take, and of several leaves out what is likely to take longer than somebody is ready to wait, unless it has begun: in
/// sentences.
fn within_time<'a>(
    estimate: &Estimate,
    subject: &dyn Subject,
    session: &Session,
    jobs: Vec<Job<'a>>,
) -> Result<(Vec<Job<'a>>, Vec<String>), Error> {
    let is_all = estimate.is_all();
    if let Some(words) = subject.data_words() {
        session.note(&words);
    }
    // What has begun is not begun again from its start.
    if jobs.is_empty() || !is_all && jobs[0].folder.exists() {
        return Ok((jobs, Vec::new()));
    }
    let needs_gradients = jobs.iter().any(|job| job.by_family.0.capabilities().gradients);
    let pace = Pace::of(subject, needs_gradients, session)?;
    let limit = estimate.time_limit.unwrap_or(TIME_LIMIT).0;
    let (mut kept, mut left_out) = (Vec::new(), Vec::new());
    for job in jobs {
        let (_, part) = job.by_family;
        let forecast = job.prepared.work().map(|work| work.at(&pace));
        let time = forecast.map_or_else(|| "an unknown time".to_owned(), |forecast| forecast.words());
        let has_begun = is_all && job.folder.exists();
        if is_all && !has_begun && forecast.is_some_and(|forecast| forecast.likely() > limit) {
            left_out.push(format!(
                "{} is left out: it would take {time} on {} threads, and the time limit is {}. Take it with `time_limit={}s`.",
                capitalized(&part.words),
                session.threads,
                duration(limit),
                forecast.map_or(0.0, |forecast| forecast.likely().ceil())
            ));
            continue;
        }
        if !has_begun {
            session.note(&format!("Forecast for {}: {time} on {} threads.", part.words, session.threads));
        }
        kept.push(job);
    }
    Ok((kept, left_out))
}

/// `runs/NAME-HASH`: the hash is that of everything that decides the samples, so that every question has its own folder.
pub(crate) fn default_out(name: &str, specs: &[RunSpec], estimate: &Estimate) -> Result<PathBuf, Error> {
    let text = serde_json::to_string(&(specs, estimate.shard))?;
    // No file system takes names of more than 255 bytes.
    let name: String = name.chars().take(LONGEST_NAME).collect();
    Ok(Path::new("runs").join(format!("{name}-{}", short_hash(&text))))
}

/// Eight hexadecimal digits of a text.
pub(crate) fn short_hash(text: &str) -> String {
    hexadecimal(&Sha256::digest(text.as_bytes())[..4])
}
