//! `report`: the result of a run folder, from its files alone.

pub mod page;
mod runs;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use basin_volume::run::folder::names;

use super::estimate::comparison::{Shelf, estimator_folders, present_shelves, read_shelf};
use super::scan;
use crate::args::ReportArgs;
use crate::error::{CommandError, CommandResult};

pub fn run(args: &ReportArgs) -> CommandResult {
    if scan::is_scan(&args.folder) {
        let file = scan::ScanFile::read(&args.folder)?;
        let summary = scan::present(&args.folder, &file, args.json)?;
        return match &args.html {
            Some(path) => Ok(scan::page(&args.folder, &file, &summary).write(path)?),
            None => Ok(()),
        };
    }
    let (folders, is_together) = shelf_folders(&args.folder)?;
    let shelves: Vec<Shelf> = folders
        .into_iter()
        .map(|folder| {
            let (runs, is_group) = run_folders(&folder)?;
            read_shelf(folder, &runs, is_group)
        })
        .collect::<Result<_, _>>()?;
    present_shelves(&shelves, is_together.then_some(args.folder.as_path()), &args.folder, args.json)?;
    match &args.html {
        Some(path) => Ok(runs::page(&shelves, &args.folder)?.write(path)?),
        None => Ok(()),
    }
}

/// The folders of single estimators that a folder stands for: itself, or, in a folder of all estimators, those in it. The flag says which.
pub fn shelf_folders(path: &Path) -> Result<(Vec<PathBuf>, bool), CommandError> {
    let inside = if path.join(names::MANIFEST).exists() { Vec::new() } else { estimator_folders(path) };
    let is_together = !inside.is_empty();
    Ok(if is_together { (inside, true) } else { (vec![path.to_owned()], false) })
}

/// The run folders that a folder stands for: itself, or those in it (in the order of the comparison). The flag says which.
pub fn run_folders(path: &Path) -> Result<(Vec<PathBuf>, bool), CommandError> {
    if path.join(names::MANIFEST).exists() {
        return Ok((vec![path.to_owned()], false));
    }
    let inside = runs_inside(path)?;
    if inside.is_empty() {
        return Err(anyhow!("{} is not a run folder: it holds no {}, nor do the folders in it", path.display(), names::MANIFEST).into());
    }
    Ok((inside, true))
}

/// The run folders in a folder: without a preconditioner first, as `estimate` shows them.
pub fn runs_inside(path: &Path) -> Result<Vec<PathBuf>, CommandError> {
    let entries = fs::read_dir(path).with_context(|| format!("cannot read the run folder {}", path.display()))?;
    let mut inside = Vec::new();
    for entry in entries {
        let folder = entry.with_context(|| format!("cannot read the run folder {}", path.display()))?.path();
        if folder.join(names::MANIFEST).exists() {
            inside.push(folder);
        }
    }
    inside.sort_by_key(|folder| (!folder.ends_with("none"), folder.clone()));
    Ok(inside)
}
