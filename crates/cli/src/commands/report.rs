//! `report`: the result of a run folder, from its files alone.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use basin_volume::estimator::radial::Sample;
use basin_volume::run::folder::{self, FolderError, names};
use basin_volume::run::manifest::Manifest;
use basin_volume::run::result::RunResult;
use basin_volume::spec::RunSpec;

use super::estimate::{finish, print_results};
use super::print;
use crate::args::ReportArgs;
use crate::error::{CommandError, CommandResult};
use crate::present::{self, Run};

pub fn run(args: &ReportArgs) -> CommandResult {
    let (folders, is_group) = run_folders(&args.folder)?;
    let runs: Vec<Run> = folders.into_iter().map(|folder| read(&folder)).collect::<Result<_, _>>()?;
    for run in &runs[1..] {
        let same = Manifest {
            spec: RunSpec { preconditioner: runs[0].manifest.spec.preconditioner.clone(), ..run.manifest.spec.clone() },
            ..run.manifest.clone()
        };
        let differences = runs[0].manifest.differences(&same, false);
        if !differences.is_empty() {
            return Err(FolderError::DifferentRun { path: run.folder.clone(), differences }.into());
        }
    }
    for run in &runs {
        folder::write_json(&run.folder.join(names::RESULT), &run.result)?;
    }
    finish(&runs, is_group.then_some(args.folder.as_path()))?;
    if args.json { print_results(&runs) } else { print(&format!("{}\nRun folder: {}", present::report(&runs), args.folder.display())) }
}

/// Reads a run folder and computes its result again.
pub fn read(path: &Path) -> Result<Run, CommandError> {
    let manifest = folder::read_manifest(path)?;
    let samples: Vec<Sample> = folder::read_samples(path)?;
    let seconds = folder::read_result(path).map_or(0.0, |result: RunResult| result.seconds);
    let result = RunResult::of(&manifest, &samples, seconds);
    Ok(Run { folder: path.to_owned(), manifest, samples, result })
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
