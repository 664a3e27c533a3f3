//! Folders of runs: read, joined and shown, without any model.

use std::path::{Path, PathBuf};

use basin_volume_engine::comparison;
use basin_volume_engine::error::Error;
use basin_volume_engine::merge::{Merged, merge as join_folders};
use basin_volume_engine::runs::{RunGroup, estimator_folders, read_all};
use basin_volume_engine::scan::{ScanFile, is_scan, summarize};
use basin_volume_report::{Detail, draw, run_page, text};
use pyo3::prelude::*;
use serde_json::{Value, json};

use crate::error::raised;

/// What a folder holds, as JSON: a scan, or the runs of every estimator with their answers, computed again from manifest and records.
#[pyfunction]
pub fn read(py: Python<'_>, folder: PathBuf) -> PyResult<String> {
    py.detach(|| read_folder(&folder)).map_err(|error| raised(&error))
}

fn read_folder(folder: &Path) -> Result<String, Error> {
    if is_scan(folder) {
        let file = ScanFile::read(folder)?;
        let summary = summarize(folder, &file)?;
        return Ok(json!({ "kind": "scan", "folder": folder, "summary": summary }).to_string());
    }
    let is_together = estimator_folders(folder).is_together;
    let groups = read_all(folder)?;
    let runs = groups.iter().flat_map(|group| &group.runs).map(run_json).collect::<Result<Vec<Value>, Error>>()?;
    let answers: Vec<_> = groups.iter().flat_map(RunGroup::answers).collect();
    let compared = comparison::json(&groups, is_together)?;
    Ok(json!({
        "kind": "runs",
        "folder": folder,
        "is_together": is_together,
        "runs": runs,
        "verdict": basin_volume::run::answer::verdict(&answers).join(" "),
        "comparison": compared,
    })
    .to_string())
}

fn run_json(run: &basin_volume_engine::estimators::Run) -> Result<Value, Error> {
    Ok(json!({
        "folder": run.folder,
        "estimator": run.estimator(),
        "data": run.data,
        "manifest": run.manifest,
        "answer": run.answer,
        "block": run.block,
    }))
}

/// The text that the command line shows of a folder; settings stand in backticks.
#[pyfunction]
pub fn report(py: Python<'_>, folder: PathBuf) -> PyResult<String> {
    let shown = || {
        if is_scan(&folder) {
            let file = ScanFile::read(&folder)?;
            return Ok(basin_volume_report::scan::text(&summarize(&folder, &file)?, Detail::Full));
        }
        let is_together = estimator_folders(&folder).is_together;
        text(&read_all(&folder)?, is_together, &folder, Detail::Full)
    };
    py.detach(shown).map_err(|error: Error| raised(&error))
}

/// Writes a page about a folder that needs nothing but itself.
#[pyfunction]
pub fn page(py: Python<'_>, folder: PathBuf, file: PathBuf) -> PyResult<()> {
    let write = || {
        if is_scan(&folder) {
            let scan = ScanFile::read(&folder)?;
            let summary = summarize(&folder, &scan)?;
            return basin_volume_report::scan::page(&folder, &scan, &summary).write(&file);
        }
        run_page(&read_all(&folder)?, &folder)?.write(&file)
    };
    py.detach(write).map_err(|error: Error| raised(&error))
}

/// Joins the shards of a run, or of a scan, into a new folder.
#[pyfunction]
pub fn merge(py: Python<'_>, folders: Vec<PathBuf>, out: PathBuf) -> PyResult<()> {
    let join = || match join_folders(&folders, &out)? {
        Merged::Scan { file, summary } => basin_volume_report::scan::draw(&out, &file, &summary).map(|_| ()),
        Merged::Runs { groups, .. } => draw(&groups).map(|_| ()),
    };
    py.detach(join).map_err(|error: Error| raised(&error))
}
