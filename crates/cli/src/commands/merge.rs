//! `merge`: shards become one run.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use basin_volume::run::folder;

use super::estimate::comparison::{Shelf, present_shelves, read_shelf};
use super::estimate::family;
use super::report::{run_folders, shelf_folders};
use super::scan;
use crate::args::MergeArgs;
use crate::error::{CommandError, CommandResult};

pub fn run(args: &MergeArgs) -> CommandResult {
    match args.folders.iter().filter(|folder| scan::is_scan(folder)).count() {
        0 => {}
        scans if scans == args.folders.len() => return scan::merge(&args.folders, &args.out, args.json),
        _ => return Err(anyhow!("some of the folders are scans and some are not: merge them separately").into()),
    }
    // Shards of all estimators are merged estimator by estimator.
    let mut by_estimator: BTreeMap<OsString, Vec<PathBuf>> = BTreeMap::new();
    let mut together = 0;
    for folder in &args.folders {
        let (inside, is_together) = shelf_folders(folder)?;
        together += usize::from(is_together);
        for shelf in inside {
            let name = if is_together { shelf.file_name().unwrap_or_default().to_owned() } else { OsString::new() };
            by_estimator.entry(name).or_default().push(shelf);
        }
    }
    if together != 0 && together != args.folders.len() {
        return Err(anyhow!("some of the folders hold all estimators and some a single one: merge them separately").into());
    }
    if together > 0 {
        folder::check_vacant_group(&args.out, by_estimator.keys())?;
    }
    let shelves: Vec<Shelf> = by_estimator
        .iter()
        .map(|(name, folders)| if name.is_empty() { merge_shelf(folders, &args.out) } else { merge_shelf(folders, &args.out.join(name)) })
        .collect::<Result<_, _>>()?;
    present_shelves(&shelves, (together > 0).then_some(args.out.as_path()), &args.out, args.json)
}

/// Merges run folders, or groups of them (several preconditioners) name by name.
fn merge_shelf(shards: &[PathBuf], out: &Path) -> Result<Shelf, CommandError> {
    let mut by_name: BTreeMap<OsString, Vec<PathBuf>> = BTreeMap::new();
    let mut groups = 0;
    for folder in shards {
        let (inside, is_group) = run_folders(folder)?;
        groups += usize::from(is_group);
        for run in inside {
            let name = if is_group { run.file_name().unwrap_or_default().to_owned() } else { OsString::new() };
            by_name.entry(name).or_default().push(run);
        }
    }
    if groups != 0 && groups != shards.len() {
        return Err(anyhow!("some of the folders are single runs and some hold several: merge them separately").into());
    }
    if groups > 0 {
        folder::check_vacant_group(out, by_name.keys())?;
    }
    let mut merged = Vec::new();
    for (name, folders) in &by_name {
        let out = if name.is_empty() { out.to_owned() } else { out.join(name) };
        let estimator = folder::read_manifest(&folders[0])?.spec.estimator.name();
        family(estimator)?.merge(folders, &out)?;
        merged.push(out);
    }
    merged.sort_by_key(|run| (!run.ends_with("none"), run.clone()));
    read_shelf(out.to_owned(), &merged, groups > 0)
}
