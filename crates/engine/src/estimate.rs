//! The main job: an estimate of the volume of a subject, in a folder.

use std::path::{Path, PathBuf};

use basin_volume::run::driver::RunEnd;
use basin_volume::run::folder::{self, names};
use basin_volume::spec::RunSpec;
use basin_volume_data::hexadecimal;
use sha2::{Digest, Sha256};

use crate::comparison;
use crate::error::Error;
use crate::estimators::{FAMILIES, Family, Request, families, refuse_settings_of_others, until_interrupted};
use crate::events::Event;
use crate::request::Estimate;
use crate::runs::RunGroup;
use crate::session::Session;
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
    estimate.ask.check()?;
    let mut families = families(&estimate.estimator)?;
    if estimate.is_all() && !estimate.shard.is_all() {
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
    let families = check(estimate)?;
    let is_all = estimate.is_all();
    if is_all && families.len() < FAMILIES.len() {
        let without: Vec<&str> = FAMILIES.iter().filter(|family| !family.capabilities().shards).map(|family| family.name()).collect();
        let names = without.join(", ");
        session.note(&format!("A shard leaves out what has none: estimate with `estimator={names}` by itself."));
    }
    let requests =
        families.iter().map(|family| Request::new(*family, &families, estimate, subject, session)).collect::<Result<Vec<_>, Error>>()?;
    let prepared = families.iter().zip(&requests).map(|(family, request)| family.prepare(request)).collect::<Result<Vec<_>, Error>>()?;
    let specs: Vec<RunSpec> = prepared.iter().flat_map(|prepared| prepared.specs().iter().cloned()).collect();
    let out = match &estimate.out {
        Some(out) => out.clone(),
        None => default_out(subject.name(), &specs, estimate)?,
    };
    session.tell(&Event::Folder(&out));
    if is_all {
        if out.join(names::MANIFEST).exists() {
            return Err(Error::failed(format!(
                "{} holds a single run, but all estimators are asked for: choose another folder",
                out.display()
            )));
        }
        folder::check_vacant_group(&out, families.iter().map(|family| family.name()))?;
    }
    let (groups, end) = until_interrupted(families.iter().zip(prepared), |(family, prepared)| {
        let folder = if is_all { out.join(family.name()) } else { out.clone() };
        let is_group = prepared.specs().len() > 1;
        let computed = prepared.run(&folder)?;
        Ok((RunGroup { folder, is_group, runs: computed.runs, together: None }, computed.end))
    })?;
    let outcome = Outcome { groups, folder: out, is_together: is_all, end };
    comparison::write(&outcome.groups, outcome.together())?;
    Ok(outcome)
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
