//! The folder of a scan: what was asked, and the run folders of its points.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use basin_volume::run::folder::{self, names};
use basin_volume::run::shard::Shard;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::config::{differences, to_toml};
use super::points::{Point, Target};
use super::table::{self, Row};
use crate::args::ScanKind;
use crate::commands::estimate::family;
use crate::error::CommandError;

/// What was asked, by flag, and where each point is.
const SCAN: &str = "scan.json";
/// The same as a file for `--config`.
const CONFIG: &str = "scan.toml";
/// The table.
pub const CSV: &str = "table.csv";
pub const PARQUET: &str = "table.parquet";
/// Table, differences and slopes.
pub const SUMMARY: &str = "summary.json";

const FORMAT: &str = "basin-volume scan";
const FORMAT_VERSION: u32 = 1;

/// `scan.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScanFile {
    format: String,
    format_version: u32,
    /// Version of the program that began the scan.
    pub software: String,
    /// What is varied.
    scan: String,
    /// What decides the results, by the names of the flags, defaults included.
    pub settings: Map<String, Value>,
    pub shard: Shard,
    pub targets: Vec<Target>,
    pub points: Vec<Point>,
}

/// Whether a folder is that of a scan.
pub fn is_scan(folder: &Path) -> bool {
    folder.join(SCAN).exists()
}

impl ScanFile {
    pub fn new(kind: ScanKind, settings: Map<String, Value>, targets: Vec<Target>, points: Vec<Point>, shard: Shard) -> Self {
        Self {
            format: FORMAT.to_owned(),
            format_version: FORMAT_VERSION,
            software: format!("basin-volume {}", env!("CARGO_PKG_VERSION")),
            scan: kind.name().to_owned(),
            settings,
            shard,
            targets,
            points,
        }
    }

    /// Reads the scan of a folder.
    pub fn read(folder: &Path) -> Result<Self, CommandError> {
        let path = folder.join(SCAN);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let bad = |reason: String| anyhow!("{} cannot be understood ({reason}): restore it or choose another folder", path.display());
        let value: Value = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        if value["format"] != FORMAT {
            return Err(bad(format!("its \"format\" is not \"{FORMAT}\"")).into());
        }
        if value["format_version"] != FORMAT_VERSION {
            let found = &value["format_version"];
            return Err(bad(format!("its format_version is {found}, this program reads version {FORMAT_VERSION}")).into());
        }
        let file: Self = serde_json::from_value(value).map_err(|error| bad(error.to_string()))?;
        let is_inside = |path: &Path| path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        if let Some(outside) = file.points.iter().find(|point| !is_inside(&point.folder)) {
            return Err(bad(format!("the point {} lies outside the folder", outside.folder.display())).into());
        }
        ScanKind::from_str(&file.scan, false).map_err(bad)?;
        Ok(file)
    }

    /// What is varied.
    pub fn kind(&self) -> ScanKind {
        // Read and made from the names of kinds alone.
        ScanKind::from_str(&self.scan, false).unwrap_or(ScanKind::Histogram)
    }

    /// Makes the folder that of this scan, or refuses it if it is that of another. What has grown is written down.
    pub fn open(&self, folder: &Path) -> Result<(), CommandError> {
        if is_scan(folder) {
            let existing = Self::read(folder)?;
            let mut differences = differences(&existing.settings, &self.settings);
            if existing.shard != self.shard {
                differences.push(format!("shard: {} in the folder, {} asked for", existing.shard, self.shard));
            }
            if !differences.is_empty() {
                return Err(anyhow!(
                    "{} holds another scan; choose another folder or repeat its settings. It differs in: {}",
                    folder.display(),
                    differences.join("; ")
                )
                .into());
            }
            return Self { software: existing.software, ..self.clone() }.write(folder);
        }
        if folder.join(names::MANIFEST).exists() {
            return Err(anyhow!("{} holds a single run: choose another folder for the scan", folder.display()).into());
        }
        if let Some(entry) = folder.read_dir().into_iter().flatten().flatten().next() {
            let found = entry.file_name().to_string_lossy().into_owned();
            return Err(anyhow!(
                "{} exists and is no folder of a scan (it holds '{found}'): choose an empty or new folder",
                folder.display()
            )
            .into());
        }
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        self.write(folder)
    }

    fn write(&self, folder: &Path) -> Result<(), CommandError> {
        folder::write_atomically(&folder.join(CONFIG), to_toml(self.kind(), &self.settings)?.as_bytes())?;
        Ok(folder::write_json(&folder.join(SCAN), self)?)
    }

    /// The numbers of rays of a scan of samples.
    pub fn sample_counts(&self) -> Vec<u64> {
        if self.kind() != ScanKind::Samples {
            return Vec::new();
        }
        self.settings.get("grid").and_then(Value::as_array).into_iter().flatten().filter_map(|n| Some(n.as_f64()? as u64)).collect()
    }

    /// The rows of all points that are there.
    pub fn read_rows(&self, folder: &Path) -> Result<Vec<Row>, CommandError> {
        let counts = self.sample_counts();
        let mut rows = Vec::new();
        for point in &self.points {
            let path = folder.join(&point.folder);
            if path.join(names::MANIFEST).exists() {
                let runs = family(&point.estimator)?.read(std::slice::from_ref(&path))?;
                rows.extend(table::rows(self.kind(), &counts, point, &*runs)?);
            }
        }
        Ok(rows)
    }
}

/// Takes back what [`ScanFile::open`] made of a folder in which nothing was computed.
pub fn remove(folder: &Path) {
    let _ = fs::remove_file(folder.join(SCAN));
    let _ = fs::remove_file(folder.join(CONFIG));
    let _ = fs::remove_dir(folder);
}

/// Joins the shards of a scan, point by point, into a new folder.
pub fn merge(folders: &[PathBuf], out: &Path) -> Result<ScanFile, CommandError> {
    let files = folders.iter().map(|folder| ScanFile::read(folder)).collect::<Result<Vec<_>, _>>()?;
    let Some(first) = files.first() else { return Err(anyhow!("no scans to be joined").into()) };
    for (file, folder) in files.iter().zip(folders) {
        let differences = differences(&first.settings, &file.settings);
        if !differences.is_empty() || first.points != file.points {
            let what = if differences.is_empty() { "its points".to_owned() } else { differences.join("; ") };
            return Err(anyhow!("{} is of another scan than {}: it differs in {what}", folder.display(), folders[0].display()).into());
        }
    }
    let merged = ScanFile { shard: Shard::ALL, ..first.clone() };
    merged.open(out)?;
    for point in &merged.points {
        let parts: Vec<PathBuf> =
            folders.iter().map(|folder| folder.join(&point.folder)).filter(|path| path.join(names::MANIFEST).exists()).collect();
        let target = out.join(&point.folder);
        let family = family(&point.estimator)?;
        match parts.as_slice() {
            [] => {}
            [one] if !family.has_shards() => copy(one, &target)?,
            [first, second, ..] if !family.has_shards() => {
                return Err(
                    anyhow!("{} and {} are the same run, which has no shards: leave one out", first.display(), second.display()).into()
                );
            }
            parts => family.merge(parts, &target)?,
        }
    }
    Ok(merged)
}

/// Copies a folder with all that is in it.
fn copy(from: &Path, to: &Path) -> Result<(), CommandError> {
    let context = || format!("cannot copy {} to {}", from.display(), to.display());
    fs::create_dir_all(to).with_context(context)?;
    for entry in fs::read_dir(from).with_context(context)? {
        let entry = entry.with_context(context)?;
        let target = to.join(entry.file_name());
        if entry.file_type().with_context(context)?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).with_context(context)?;
        }
    }
    Ok(())
}
