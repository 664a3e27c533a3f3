//! Shards become one run.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use basin_volume::run::folder;

use crate::comparison;
use crate::error::Error;
use crate::estimators::family;
use crate::runs::{EstimatorFolders, RunFolders, RunGroup, estimator_folders, read_group, run_folders, sort};
use crate::scan::{self, ScanFile, Summary, is_scan};

/// What shards have become.
#[derive(Debug)]
pub enum Merged {
    /// A scan.
    Scan {
        /// What was asked.
        file: ScanFile,
        /// What its points say.
        summary: Box<Summary>,
    },
    /// Runs, a group for each estimator.
    Runs {
        /// The groups.
        groups: Vec<RunGroup>,
        /// Whether they are of several estimators.
        is_together: bool,
    },
}

/// Joins run folders, folders of them, or scans, name by name, into a new folder, and writes every result.
///
/// # Errors
/// When they are not shards of the same thing, or the folder is occupied.
pub fn merge(folders: &[PathBuf], out: &Path) -> Result<Merged, Error> {
    match folders.iter().filter(|folder| is_scan(folder)).count() {
        0 => {}
        scans if scans == folders.len() => {
            let (file, summary) = scan::merge(folders, out)?;
            return Ok(Merged::Scan { file, summary: Box::new(summary) });
        }
        _ => return Err(Error::failed("some of the folders are scans and some are not: merge them separately")),
    }
    // Shards of all estimators are merged estimator by estimator.
    let mut by_estimator: BTreeMap<OsString, Vec<PathBuf>> = BTreeMap::new();
    let mut together = 0;
    for folder in folders {
        let EstimatorFolders { folders: inside, is_together } = estimator_folders(folder);
        together += usize::from(is_together);
        for group in inside {
            let name = if is_together { group.file_name().unwrap_or_default().to_owned() } else { OsString::new() };
            by_estimator.entry(name).or_default().push(group);
        }
    }
    if together != 0 && together != folders.len() {
        return Err(Error::failed("some of the folders hold all estimators and some a single one: merge them separately"));
    }
    let is_together = together > 0;
    if is_together {
        folder::check_vacant_group(out, by_estimator.keys())?;
    }
    let groups = by_estimator
        .iter()
        .map(|(name, folders)| if name.is_empty() { group(folders, out) } else { group(folders, &out.join(name)) })
        .collect::<Result<Vec<_>, Error>>()?;
    comparison::write(&groups, is_together.then_some(out))?;
    Ok(Merged::Runs { groups, is_together })
}

/// Merges run folders, or groups of them (several preconditioners) name by name.
fn group(shards: &[PathBuf], out: &Path) -> Result<RunGroup, Error> {
    let mut by_name: BTreeMap<OsString, Vec<PathBuf>> = BTreeMap::new();
    let mut groups = 0;
    for folder in shards {
        let RunFolders { folders: inside, is_group } = run_folders(folder)?;
        groups += usize::from(is_group);
        for run in inside {
            let name = if is_group { run.file_name().unwrap_or_default().to_owned() } else { OsString::new() };
            by_name.entry(name).or_default().push(run);
        }
    }
    if groups != 0 && groups != shards.len() {
        return Err(Error::failed("some of the folders are single runs and some hold several: merge them separately"));
    }
    if groups > 0 {
        folder::check_vacant_group(out, by_name.keys())?;
    }
    let mut merged = Vec::new();
    for (name, folders) in &by_name {
        let out = if name.is_empty() { out.to_owned() } else { out.join(name) };
        family(folder::read_manifest(&folders[0])?.spec.estimator.name())?.merge(folders, &out)?;
        merged.push(out);
    }
    sort(&mut merged);
    read_group(out.to_owned(), &RunFolders { folders: merged, is_group: groups > 0 })
}
