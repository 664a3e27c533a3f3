//! Folders of runs: found and read.

use std::fs;
use std::path::{Path, PathBuf};

use basin_volume::run::answer::Answer;
use basin_volume::run::folder::{self, FolderError, names};
use basin_volume::run::ladders::Ladders;
use basin_volume::run::manifest::Manifest;
use basin_volume::spec::RunSpec;

use crate::error::{Context, Error};
use crate::estimators::{FAMILIES, Run, family};
use crate::ladders;
use crate::several;

/// Runs of one estimator that answer the same question, and the folder that they stand in: their own if there is one, that above them if they are a
/// group.
#[derive(Debug)]
pub struct RunGroup {
    /// Where they are.
    pub folder: PathBuf,
    /// Whether they have a folder each below it.
    pub is_group: bool,
    /// The runs; of several data the last is that of all, unless the work was stopped before.
    pub runs: Vec<Run>,
    /// What runs of several data say together.
    pub together: Option<several::Together>,
    /// What those runs of chains that differ in their seeds say together that have gone all their way.
    pub ladders: Option<Ladders>,
}

impl RunGroup {
    /// The answers, named after the data where these tell the runs apart.
    #[must_use]
    pub fn answers(&self) -> Vec<Answer> {
        self.runs
            .iter()
            .map(|run| match &run.data {
                Some(data) => {
                    let estimator = format!("{}, on {data}", run.answer.estimator);
                    Answer { estimator, ..run.answer.clone() }
                }
                None => run.answer.clone(),
            })
            .collect()
    }

    /// What ladders of chains say together, those that have gone all their way.
    #[must_use]
    pub fn joint(&self) -> Option<Answer> {
        self.ladders.as_ref()?.answer(&complete_answers(&self.runs))
    }
}

fn complete_answers(runs: &[Run]) -> Vec<&Answer> {
    runs.iter().filter(|run| run.is_complete).map(|run| &run.answer).collect()
}

/// The folders of single estimators that a folder stands for.
#[derive(Debug)]
pub struct EstimatorFolders {
    /// Itself, or those in it.
    pub folders: Vec<PathBuf>,
    /// Whether they are in it: it is a folder of all estimators.
    pub is_together: bool,
}

/// The folders of single estimators that a folder stands for: itself, or, in a folder of all estimators, those in it.
#[must_use]
pub fn estimator_folders(path: &Path) -> EstimatorFolders {
    let inside: Vec<PathBuf> = if path.join(names::MANIFEST).exists() {
        Vec::new()
    } else {
        FAMILIES.iter().flat_map(|family| family.folders()).map(|name| path.join(name)).filter(|folder| folder.is_dir()).collect()
    };
    let is_together = !inside.is_empty();
    let folders = if is_together { inside } else { ladders_of_several(path).unwrap_or_else(|| vec![path.to_owned()]) };
    EstimatorFolders { folders, is_together }
}

/// The folders of ladders that are groups themselves, as those of several data are: in a folder that holds nothing else.
fn ladders_of_several(path: &Path) -> Option<Vec<PathBuf>> {
    if path.join(names::MANIFEST).exists() {
        return None;
    }
    let mut inside: Vec<PathBuf> = fs::read_dir(path).ok()?.flatten().map(|entry| entry.path()).collect();
    inside.retain(|folder| is_ladder(folder) && runs_inside(folder).is_ok_and(|runs| !runs.is_empty()));
    inside.sort();
    (!inside.is_empty()).then_some(inside)
}

/// The name of the folder of a ladder.
pub(crate) fn ladder_folder(seed: u64) -> String {
    format!("seed-{seed}")
}

fn is_ladder(folder: &Path) -> bool {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    name.strip_prefix("seed-").is_some_and(|seed| seed.parse::<u64>().is_ok())
}

/// The run folders that a folder stands for.
#[derive(Debug)]
pub struct RunFolders {
    /// Itself, or those in it, in the order in which they are shown.
    pub folders: Vec<PathBuf>,
    /// Whether they are in it.
    pub is_group: bool,
}

/// The run folders that a folder stands for: itself, or those in it.
///
/// # Errors
/// When there is none.
pub fn run_folders(path: &Path) -> Result<RunFolders, Error> {
    if path.join(names::MANIFEST).exists() {
        return Ok(RunFolders { folders: vec![path.to_owned()], is_group: false });
    }
    let folders = runs_inside(path)?;
    if folders.is_empty() {
        return Err(Error::failed(format!(
            "{} is not a run folder: it holds no {}, nor do the folders in it",
            path.display(),
            names::MANIFEST
        )));
    }
    Ok(RunFolders { folders, is_group: true })
}

/// The run folders in a folder: without a preconditioner first.
///
/// # Errors
/// When it cannot be read.
pub fn runs_inside(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let words = || format!("cannot read the run folder {}", path.display());
    let mut inside = Vec::new();
    for entry in fs::read_dir(path).context(words)? {
        let folder = entry.context(words)?.path();
        if folder.join(names::MANIFEST).exists() {
            inside.push(folder);
        }
    }
    sort(&mut inside);
    Ok(inside)
}

/// Without a preconditioner first, the others by name.
pub(crate) fn sort(folders: &mut [PathBuf]) {
    folders.sort_by_key(|folder| (!folder.ends_with("none"), folder.clone()));
}

/// Reads the runs that a folder of an estimator is made of.
///
/// # Errors
/// When one cannot be read, or they answer different questions.
pub fn read_group(folder: PathBuf, found: &RunFolders) -> Result<RunGroup, Error> {
    let RunFolders { folders: runs, is_group } = found;
    let manifests = runs.iter().map(|run| folder::read_manifest(run)).collect::<Result<Vec<Manifest>, _>>()?;
    if several::is_of_several(&manifests) {
        return several::read(folder, runs, &manifests);
    }
    // Within a group only the preconditioners differ, or the seeds of chains.
    let are_ladders = ladders::are_ladders(&manifests);
    for (run, manifest) in runs.iter().zip(&manifests) {
        check_same(&manifests[0], manifest, run, |first, other| {
            let other = if are_ladders { ladders::with_seed_of(other, first) } else { other.clone() };
            RunSpec { preconditioner: first.preconditioner.clone(), ..other }
        })?;
    }
    let runs = runs
        .iter()
        .zip(&manifests)
        .map(|(run, manifest)| family(manifest.spec.estimator.name())?.read(run))
        .collect::<Result<Vec<Run>, Error>>()?;
    let joint = if are_ladders { Ladders::of(&complete_answers(&runs)) } else { None };
    Ok(RunGroup { folder, is_group: *is_group, runs, together: None, ladders: joint })
}

/// Reads everything that a folder holds, a group for each estimator.
///
/// # Errors
/// As [`read_group`].
pub fn read_all(path: &Path) -> Result<Vec<RunGroup>, Error> {
    let read = |folder: PathBuf| {
        let found = run_folders(&folder)?;
        read_group(folder, &found)
    };
    estimator_folders(path).folders.into_iter().map(read).collect()
}

/// Refuses a run whose spec, with what may differ replaced, is not that of the first.
///
/// # Errors
/// [`FolderError::DifferentRun`].
pub fn check_same(
    first: &Manifest,
    other: &Manifest,
    folder: &Path,
    replaced: impl Fn(&RunSpec, &RunSpec) -> RunSpec,
) -> Result<(), Error> {
    let same = Manifest { spec: replaced(&first.spec, &other.spec), ..other.clone() };
    let differences = first.differences(&same, false);
    if differences.is_empty() { Ok(()) } else { Err(FolderError::DifferentRun { path: folder.to_owned(), differences }.into()) }
}
