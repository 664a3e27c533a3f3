//! The folder of a scan: what was asked, and the run folders of its points.

use std::fs;
use std::path::{Path, PathBuf};

use basin_volume::run::folder::{self, names};
use basin_volume::run::manifest::software;
use basin_volume::run::shard::Shard;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::points::{Point, Target};
use super::request::{ScanKind, differences, to_toml};
use super::table::{self, Row};
use crate::error::{Context, Error};
use crate::estimators::family;

/// What was asked, by name, and where each point is.
const SCAN: &str = "scan.json";
/// The same as a TOML file.
const CONFIG: &str = "scan.toml";
/// The table.
pub(super) const CSV: &str = "table.csv";
pub(super) const PARQUET: &str = "table.parquet";
/// Table, differences and slopes.
pub(super) const SUMMARY: &str = "summary.json";

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
    scan: ScanKind,
    /// What decides the results, by name, defaults included.
    pub settings: Map<String, Value>,
    /// The part of the samples of all points that is computed.
    pub shard: Shard,
    /// The models.
    pub targets: Vec<Target>,
    /// The runs.
    pub points: Vec<Point>,
    /// The scale of the one prior of all points, where it comes from one of several models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sigma: Option<CommonSigma>,
}

/// The scale of the Gaussian prior of all points of a scan: volumes that are compared have one prior.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommonSigma {
    /// The standard deviation.
    pub value: f64,
    /// Where it comes from: `rms of small, step 512`.
    pub from: String,
}

impl CommonSigma {
    /// In a sentence.
    #[must_use]
    pub fn words(&self) -> String {
        format!("One prior for all points: sigma {:.6} ({}).", self.value, self.from)
    }
}

/// Whether a folder is that of a scan.
#[must_use]
pub fn is_scan(folder: &Path) -> bool {
    folder.join(SCAN).exists()
}

impl ScanFile {
    /// A scan of these points.
    pub(super) fn new(kind: ScanKind, settings: Map<String, Value>, targets: Vec<Target>, points: Vec<Point>, shard: Shard) -> Self {
        Self {
            format: FORMAT.to_owned(),
            format_version: FORMAT_VERSION,
            software: software(),
            scan: kind,
            settings,
            shard,
            targets,
            points,
            sigma: None,
        }
    }

    /// Reads the scan of a folder.
    ///
    /// # Errors
    /// When there is none, or it cannot be understood.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(SCAN);
        let text = fs::read_to_string(&path).context(|| format!("cannot read {}", path.display()))?;
        let bad = |reason: String| {
            Error::failed(format!("{} cannot be understood ({reason}): restore it or choose another folder", path.display()))
        };
        let value: Value = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        if value["format"] != FORMAT {
            return Err(bad(format!("its \"format\" is not \"{FORMAT}\"")));
        }
        if value["format_version"] != FORMAT_VERSION {
            let found = &value["format_version"];
            return Err(bad(format!("its format_version is {found}, this program reads version {FORMAT_VERSION}")));
        }
        let file: Self = serde_json::from_value(value).map_err(|error| bad(error.to_string()))?;
        let is_inside = |path: &Path| path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        if let Some(outside) = file.points.iter().find(|point| !is_inside(&point.folder)) {
            return Err(bad(format!("the point {} lies outside the folder", outside.folder.display())));
        }
        Ok(file)
    }

    /// What is varied.
    #[must_use]
    pub fn kind(&self) -> ScanKind {
        self.scan
    }

    /// Makes the folder that of this scan, or refuses it if it is that of another. What has grown is written down.
    pub(super) fn open(&mut self, folder: &Path) -> Result<(), Error> {
        if is_scan(folder) {
            let existing = Self::read(folder)?;
            let mut differences = differences(&existing.settings, &self.settings);
            if existing.shard != self.shard {
                differences.push(format!("shard: {} in the folder, {} asked for", existing.shard, self.shard));
            }
            if !differences.is_empty() {
                return Err(Error::failed(format!(
                    "{} holds another scan; choose another folder or repeat its settings. It differs in: {}",
                    folder.display(),
                    differences.join("; ")
                )));
            }
            // A scan that has grown keeps the prior of the points that it has.
            (self.software, self.sigma) = (existing.software, existing.sigma);
            return self.write(folder);
        }
        if folder.join(names::MANIFEST).exists() {
            return Err(Error::failed(format!("{} holds a single run: choose another folder for the scan", folder.display())));
        }
        // The parts that a scan is joined from may stand beside it.
        if let Some(entry) = folder.read_dir().into_iter().flatten().flatten().find(|entry| entry.file_name() != names::SHARDS) {
            let found = entry.file_name().to_string_lossy().into_owned();
            return Err(Error::failed(format!(
                "{} exists and is no folder of a scan (it holds '{found}'): choose an empty or new folder",
                folder.display()
            )));
        }
        fs::create_dir_all(folder).context(|| format!("cannot create {}", folder.display()))?;
        self.write(folder)
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), Error> {
        folder::write_atomically(&folder.join(CONFIG), to_toml(&self.settings)?.as_bytes())?;
        Ok(folder::write_json(&folder.join(SCAN), self)?)
    }

    /// The numbers of rays of a scan of samples.
    pub(super) fn sample_counts(&self) -> Vec<u64> {
        if self.kind() != ScanKind::Samples {
            return Vec::new();
        }
        self.settings.get("grid").and_then(Value::as_array).into_iter().flatten().filter_map(|n| Some(n.as_f64()? as u64)).collect()
    }

    /// The rows of all points that are there.
    pub(super) fn read_rows(&self, folder: &Path) -> Result<Vec<Row>, Error> {
        let counts = self.sample_counts();
        let mut rows = Vec::new();
        for point in &self.points {
            let path = folder.join(&point.folder);
            if path.join(names::MANIFEST).exists() {
                let run = family(&point.estimator)?.read(&path)?;
                rows.extend(table::rows(self.kind(), &counts, point, std::slice::from_ref(&run))?);
            }
        }
        Ok(rows)
    }
}

/// Takes back what [`ScanFile::open`] made of a folder in which nothing was computed.
pub(super) fn remove(folder: &Path) {
    let _ = fs::remove_file(folder.join(SCAN));
    let _ = fs::remove_file(folder.join(CONFIG));
    let _ = fs::remove_dir(folder);
}

/// Joins the shards of a scan, point by point, into a new folder.
pub(super) fn merge(folders: &[PathBuf], out: &Path) -> Result<ScanFile, Error> {
    let files = folders.iter().map(|folder| ScanFile::read(folder)).collect::<Result<Vec<_>, _>>()?;
    let Some(first) = files.first() else { return Err(Error::failed("no scans to be joined")) };
    for (file, folder) in files.iter().zip(folders) {
        let differences = differences(&first.settings, &file.settings);
        if !differences.is_empty() || first.points != file.points || first.sigma != file.sigma {
            let what = if differences.is_empty() { "its points or their sigma".to_owned() } else { differences.join("; ") };
            return Err(Error::failed(format!(
                "{} is of another scan than {}: it differs in {what}",
                folder.display(),
                folders[0].display()
            )));
        }
    }
    let mut merged = ScanFile { shard: Shard::ALL, ..first.clone() };
    merged.open(out)?;
    for point in &merged.points {
        let parts: Vec<PathBuf> =
            folders.iter().map(|folder| folder.join(&point.folder)).filter(|path| path.join(names::MANIFEST).exists()).collect();
        let target = out.join(&point.folder);
        let family = family(&point.estimator)?;
        match parts.as_slice() {
            [] => {}
            [one] if !family.capabilities().shards => copy(one, &target)?,
            [first, second, ..] if !family.capabilities().shards => {
                return Err(Error::failed(format!(
                    "{} and {} are the same run, which has no shards: leave one out",
                    first.display(),
                    second.display()
                )));
            }
            parts => family.merge(parts, &target)?,
        }
    }
    Ok(merged)
}

/// Copies a folder with all that is in it.
fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let context = || format!("cannot copy {} to {}", from.display(), to.display());
    fs::create_dir_all(to).context(context)?;
    for entry in fs::read_dir(from).context(context)? {
        let entry = entry.context(context)?;
        let target = to.join(entry.file_name());
        if entry.file_type().context(context)?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).context(context)?;
        }
    }
    Ok(())
}
