//! The run folder: `manifest.json`, `samples.jsonl` (append and flush, one line a sample), `result.json`.
//!
//! A kill at any moment loses at most the samples in flight: a line counts once its newline is on disk, and a torn last line is cut off
//! when the folder is opened again. Manifest and result are written to a temporary file beside them and renamed.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::answer::Answer;
use super::manifest::{Doubled, FORMAT, FORMAT_VERSION, Manifest};
use super::record::Record;
use super::result::{self, ResultFile};
use crate::random;

/// File names inside a run folder.
pub mod names {
    /// What was asked.
    pub const MANIFEST: &str = "manifest.json";
    /// One line a sample.
    pub const SAMPLES: &str = "samples.jsonl";
    /// Summary and diagnostics.
    pub const RESULT: &str = "result.json";
    /// The curvature that was computed for the run's preconditioner, if one was.
    pub const CURVATURE: &str = "curvature.safetensors";
    /// Folder of the shards that a run is joined from, where they stand beside what they become.
    pub const SHARDS: &str = "shards";
}

/// The manifest before it gets its name.
const PARTIAL_MANIFEST: &str = "manifest.partial";

/// What can go wrong with a run folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// Reading or writing failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// `read`, `write`, `create`, ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// No manifest where one is needed.
    #[error("{} is not a run folder: it holds no {}", path.display(), names::MANIFEST)]
    NotARun {
        /// The folder.
        path: PathBuf,
    },
    /// The folder holds other things and no manifest.
    #[error("{} exists and is not a run folder (it holds '{found}' and no {}): choose an empty or new folder", path.display(), names::MANIFEST)]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// One of the things in it.
        found: String,
    },
    /// A folder is needed, and there is a file.
    #[error("{} is a file: choose a new or empty folder", path.display())]
    IsAFile {
        /// The file.
        path: PathBuf,
    },
    /// A manifest that is not one.
    #[error("{} cannot be understood ({reason}): restore it or choose another folder", path.display())]
    BadManifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A line that is complete but not a sample.
    #[error("line {line} of {} is not a sample ({reason}): remove the line and repeat the estimate", path.display())]
    BadLine {
        /// The samples file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The folder belongs to another command.
    #[error("{} holds a different run; choose another folder or repeat its settings. It differs in: {}", path.display(), differences.join("; "))]
    DifferentRun {
        /// The folder.
        path: PathBuf,
        /// What differs.
        differences: Vec<String>,
    },
    /// Its samples lie in directions that are not made any more.
    #[error(
        "the samples of {} lie in directions of version {found}, and this program makes those of version {}: report it as it is, or choose another folder for new samples",
        path.display(),
        random::VERSION
    )]
    OtherDirections {
        /// The folder.
        path: PathBuf,
        /// Version of its directions.
        found: u32,
    },
    /// Folders to be joined are not parts of one run.
    #[error("{} is no part of the same run as {}: merge each run by itself. They differ in: {}", second.display(), first.display(), differences.join("; "))]
    NotOneRun {
        /// The folder that came first.
        first: PathBuf,
        /// The folder that is of another run.
        second: PathBuf,
        /// What differs.
        differences: Vec<String>,
    },
    /// Another process is at work in the folder.
    #[error("{} is in use by another process: wait for it or choose another folder", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// Two shards disagree about a sample.
    #[error("sample {index} of {} differs from the one in {}: the shards were not computed by the same program on the same data", second.display(), first.display())]
    Conflict {
        /// The sample.
        index: u64,
        /// The folder that had it first.
        first: PathBuf,
        /// The folder that disagrees.
        second: PathBuf,
    },
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> FolderError + 'a {
    move |source| FolderError::Io { action, path: path.to_owned(), source }
}

/// Writes `bytes` to `path` so that the file is either the old one or the new one, whatever happens.
///
/// # Errors
/// If the folder cannot be written.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
    write_beside(path, |temporary| {
        let mut file = File::create(temporary)?;
        file.write_all(bytes)?;
        file.sync_all()
    })
}

/// Has a file written beside `path`, and gives it that name: the file is either the old one or the new one, whatever happens. What is written has to
/// be on the disk.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn write_beside(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), FolderError> {
    let temporary = path.with_extension("partial");
    let all = || -> io::Result<()> {
        write(&temporary)?;
        fs::rename(&temporary, path)?;
        // The new name itself has to reach the disk; where folders cannot be synced there is nothing more to do.
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            let _ = File::open(folder).and_then(|folder| folder.sync_all());
        }
        Ok(())
    };
    all().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        io_error("write", path)(error)
    })
}

/// Reads the manifest of a run folder.
///
/// # Errors
/// If there is none, or it is of another format or version.
pub fn read_manifest(folder: &Path) -> Result<Manifest, FolderError> {
    let path = folder.join(names::MANIFEST);
    if folder.is_file() {
        return Err(FolderError::IsAFile { path: folder.to_owned() });
    }
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(FolderError::NotARun { path: folder.to_owned() }),
        Err(error) => return Err(io_error("read", &path)(error)),
    };
    let bad = |reason: String| FolderError::BadManifest { path: path.clone(), reason };
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    if value.get("format").and_then(|f| f.as_str()) != Some(FORMAT) {
        return Err(bad(format!("its \"format\" is not \"{FORMAT}\"")));
    }
    let version = value.get("format_version").and_then(serde_json::Value::as_u64);
    if version != Some(u64::from(FORMAT_VERSION)) {
        let found = version.map_or("missing".to_owned(), |v| v.to_string());
        return Err(bad(format!("its format_version is {found}, this program reads version {FORMAT_VERSION}")));
    }
    serde_json::from_value(value).map_err(|error| bad(error.to_string()))
}

/// Reads the result of the estimator called `name` from a run folder: the answer, and the estimator's own block. None if there is none of this
/// format: it can always be computed again.
#[must_use]
pub fn read_result<T: DeserializeOwned>(folder: &Path, name: &str) -> Option<(Answer, T)> {
    let (answer, mut own) = result::parse(&fs::read_to_string(folder.join(names::RESULT)).ok()?)?;
    let own = own.get_mut(name)?.take();
    Some((answer, serde_json::from_value(own).ok()?))
}

/// Reads the answer alone, of any estimator.
#[must_use]
pub fn read_answer(folder: &Path) -> Option<Answer> {
    Some(result::parse(&fs::read_to_string(folder.join(names::RESULT)).ok()?)?.0)
}

/// Writes `result.json` into a run folder.
///
/// # Errors
/// If it cannot be written.
pub fn write_result<T: Serialize>(folder: &Path, result: &ResultFile<'_, T>) -> Result<(), FolderError> {
    write_json(&folder.join(names::RESULT), result)
}

/// Reads the samples of a run folder, in the order of their indices. A torn last line is ignored.
///
/// # Errors
/// If a complete line is not a sample.
pub fn read_samples<R: Record>(folder: &Path) -> Result<Vec<R>, FolderError> {
    let path = folder.join(names::SAMPLES);
    let mut text = String::new();
    match File::open(&path) {
        Ok(mut file) => file.read_to_string(&mut text).map_err(io_error("read", &path))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error("read", &path)(error)),
    };
    parse_samples(&path, &text).map(|(samples, _)| samples)
}

/// The samples by index, and the number of bytes of complete lines.
fn parse_samples<R: Record>(path: &Path, text: &str) -> Result<(Vec<R>, usize), FolderError> {
    let complete = text.rfind('\n').map_or(0, |end| end + 1);
    let mut samples = BTreeMap::new();
    for (number, line) in text[..complete].lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let sample: R = serde_json::from_str(line).map_err(|error| FolderError::BadLine {
            path: path.to_owned(),
            line: number + 1,
            reason: error.to_string(),
        })?;
        samples.entry(sample.index()).or_insert(sample);
    }
    Ok((samples.into_values().collect(), complete))
}

/// An open run folder that this process alone appends to.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    samples: File,
}

impl RunFolder {
    /// Opens the folder for the run that `manifest` describes: creates it, or continues it if it holds the same run.
    /// Returns the samples already there, in the order of their indices.
    ///
    /// # Errors
    /// If the folder holds a different run (the differences are named), is occupied by other files, is in use, or cannot be written.
    /// A folder that this call created is removed again.
    pub fn open<R: Record>(path: &Path, manifest: &Manifest) -> Result<(Self, Vec<R>), FolderError> {
        let existing = match read_manifest(path) {
            Ok(existing) => Some(existing),
            Err(FolderError::NotARun { .. }) => None,
            Err(error) => return Err(error),
        };
        if let Some(existing) = &existing {
            // Joined samples of another version may be written into a folder of their own.
            if existing.directions != manifest.directions {
                check_directions(path, existing)?;
            }
            let differences = existing.differences(manifest, true);
            if !differences.is_empty() {
                return Err(FolderError::DifferentRun { path: path.to_owned(), differences });
            }
        } else if let Some(found) = foreign_entry(path) {
            return Err(FolderError::Occupied { path: path.to_owned(), found });
        }
        let is_new = existing.is_none();
        let created = if is_new { create_folder(path)? } else { None };
        let opened = Self::open_files(path, manifest, existing.as_ref());
        // A folder in use belongs to the process that holds its lock; otherwise what this call made is removed again, and folders
        // only while they are empty.
        if is_new && matches!(&opened, Err(error) if !matches!(error, FolderError::InUse { .. })) {
            let _ = fs::remove_file(path.join(names::MANIFEST));
            let _ = fs::remove_file(path.join(names::SAMPLES));
            if let Some(topmost) = created {
                for folder in path.ancestors().take_while(|folder| folder.starts_with(&topmost)) {
                    let _ = fs::remove_dir(folder);
                }
            }
        }
        opened
    }

    fn open_files<R: Record>(path: &Path, manifest: &Manifest, existing: Option<&Manifest>) -> Result<(Self, Vec<R>), FolderError> {
        let samples_path = path.join(names::SAMPLES);
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).open(&samples_path).map_err(io_error("write", &samples_path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(FolderError::InUse { path: path.to_owned() }),
            // A file system without locks: better to run unguarded than not at all.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(io_error("lock", &samples_path)(error)),
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(io_error("read", &samples_path))?;
        let (samples, complete) = parse_samples(&samples_path, &text)?;
        if complete < text.len() {
            file.set_len(complete as u64).map_err(io_error("repair", &samples_path))?;
        }
        let current = match existing {
            // An extension keeps the record of who began the run.
            Some(existing) => {
                let mut current = Manifest { samples: manifest.samples.max(existing.samples), ..existing.clone() };
                if samples.len() < current.shard.indices(current.samples).count() {
                    current.add_origins(manifest);
                }
                current.doubled = manifest.doubled.or(current.doubled);
                current
            }
            None => manifest.clone(),
        };
        if existing != Some(&current) {
            write_json(&path.join(names::MANIFEST), &current)?;
        }
        file.seek(SeekFrom::End(0)).map_err(io_error("read", &samples_path))?;
        Ok((Self { path: path.to_owned(), samples: file }, samples))
    }

    /// Where the folder is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends one sample and waits until it is on disk.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn append<R: Record>(&mut self, record: &R) -> Result<(), FolderError> {
        let path = self.path.join(names::SAMPLES);
        let mut line = serde_json::to_string(record).map_err(|error| io_error("write", &path)(error.into()))?;
        line.push('\n');
        // One write call per line: a kill can tear a line only at the end of the file.
        self.samples.write_all(line.as_bytes()).map_err(io_error("write", &path))?;
        self.samples.sync_data().map_err(io_error("write", &path))
    }

    /// [`write_result`] into this folder.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_result<T: Serialize>(&self, result: &ResultFile<'_, T>) -> Result<(), FolderError> {
        write_result(&self.path, result)
    }
}

/// Writes pretty JSON atomically.
///
/// # Errors
/// If the folder cannot be written.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), FolderError> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| io_error("write", path)(error.into()))?;
    text.push('\n');
    write_atomically(path, text.as_bytes())
}

/// Something in a folder without a manifest that is not what a kill may leave of the making of a run folder.
fn foreign_entry(path: &Path) -> Option<String> {
    let entries = fs::read_dir(path).ok()?;
    entries.flatten().find_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_empty = entry.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0);
        let is_curvature = name == names::CURVATURE || (name.starts_with(".curvature.") && name.ends_with(".partial"));
        let is_ours = is_curvature || name == PARTIAL_MANIFEST || name == names::SHARDS || (name == names::SAMPLES && is_empty);
        (!is_ours).then_some(name)
    })
}

/// Refuses a folder that a run may not be opened in: one that holds other files, but no run. For what has to be prepared before.
///
/// # Errors
/// [`FolderError::Occupied`].
pub fn check_vacant(path: &Path) -> Result<(), FolderError> {
    match foreign_entry(path).filter(|_| !path.join(names::MANIFEST).exists()) {
        Some(found) => Err(FolderError::Occupied { path: path.to_owned(), found }),
        None => Ok(()),
    }
}

/// Refuses to add samples to a folder whose samples lie in directions of another version.
///
/// # Errors
/// [`FolderError::OtherDirections`].
pub fn check_directions(path: &Path, manifest: &Manifest) -> Result<(), FolderError> {
    if manifest.directions == random::VERSION {
        return Ok(());
    }
    Err(FolderError::OtherDirections { path: path.to_owned(), found: manifest.directions })
}

/// Refuses a folder in which no runs called `members` may be made, with figures and a comparison beside them: one that holds other things, and
/// none of these, nor any other run.
///
/// # Errors
/// [`FolderError::Occupied`], [`FolderError::IsAFile`].
pub fn check_vacant_group<M: AsRef<Path>>(path: &Path, members: impl IntoIterator<Item = M>) -> Result<(), FolderError> {
    if path.is_file() {
        return Err(FolderError::IsAFile { path: path.to_owned() });
    }
    let Ok(entries) = fs::read_dir(path) else { return Ok(()) };
    let members: Vec<M> = members.into_iter().collect();
    let names: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    let is_ours = |entry: &PathBuf| {
        let is_member = members.iter().any(|member| entry.ends_with(member));
        entry.is_dir() && (is_member || entry.ends_with(names::SHARDS) || entry.join(names::MANIFEST).exists())
    };
    match names.iter().min().filter(|_| !names.iter().any(is_ours)) {
        Some(found) => {
            let found = found.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Err(FolderError::Occupied { path: path.to_owned(), found })
        }
        None => Ok(()),
    }
}

/// Creates a folder and its parents; returns the topmost one that did not exist.
fn create_folder(path: &Path) -> Result<Option<PathBuf>, FolderError> {
    let topmost = path.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists()).last().map(Path::to_owned);
    fs::create_dir_all(path).map_err(io_error("create", path))?;
    Ok(topmost)
}

/// Joins shards (or partial runs) of the same spec into a new folder, and returns the merged manifest and samples.
///
/// # Errors
/// If a folder is not a run, two specs differ (the differences are named), two folders disagree about a sample, or `out` is occupied.
pub fn merge<R: Record>(folders: &[PathBuf], out: &Path) -> Result<(Manifest, Vec<R>), FolderError> {
    let mut merged: Option<Manifest> = None;
    let mut samples: BTreeMap<u64, (R, &Path)> = BTreeMap::new();
    let mut doubled: Option<Doubled> = None;
    for folder in folders {
        let manifest = read_manifest(folder)?;
        if let Some(first) = &mut merged {
            // Pilots only start the searches, and may differ between kinds of processors.
            let differences = first.between(&manifest);
            if !differences.is_empty() {
                return Err(FolderError::NotOneRun { first: folders[0].clone(), second: folder.clone(), differences });
            }
            first.samples = first.samples.max(manifest.samples);
            first.add_origins(&manifest);
        } else {
            merged = Some(manifest);
        }
        for sample in read_samples::<R>(folder)? {
            let Some((known, first)) = samples.get(&sample.index()) else {
                samples.insert(sample.index(), (sample, folder));
                continue;
            };
            let Some(difference) = known.difference(&sample) else {
                return Err(FolderError::Conflict { index: sample.index(), first: first.to_path_buf(), second: folder.clone() });
            };
            let before = doubled.unwrap_or(Doubled { samples: 0, largest_difference: 0.0 });
            doubled = Some(Doubled { samples: before.samples + 1, largest_difference: before.largest_difference.max(difference) });
        }
    }
    let Some(mut manifest) = merged else {
        return Err(FolderError::NotARun { path: PathBuf::new() });
    };
    manifest.shard = super::shard::Shard::ALL;
    manifest.doubled = doubled;
    let (mut folder, present) = RunFolder::open::<R>(out, &manifest)?;
    let present: std::collections::BTreeSet<u64> = present.iter().map(Record::index).collect();
    for (sample, _) in samples.values().filter(|(sample, _)| !present.contains(&sample.index())) {
        folder.append(sample)?;
    }
    drop(folder);
    let samples = read_samples(out)?;
    Ok((manifest, samples))
}
