//! Checkpoint folders: `config.json`, `model.safetensors`, `optimizer.safetensors`, `training.jsonl`, and optionally `step-<N>/` folders
//! of the same kind.
//!
//! A folder is written under another name beside its place and renamed when complete, so it is never seen half-written. Everything is
//! checked on reading: each tensor's presence, type, shape and finiteness, and that no tensor is left over.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use basin_volume_data::json;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::arch::{self, Architecture};
use crate::parameters::Parameters;
use crate::weights::{self, BindOptions, TensorStore};

mod error;
pub mod optimizer;
mod tensors;
mod training;

pub use error::CheckpointError;
pub use training::{ClassifierTraining, ImageTraining, LanguageModelTraining, RandAugment, TrainingRecord};

/// Name of the configuration file in a checkpoint folder.
pub const CONFIG: &str = "config.json";
/// Name of the file of the weights.
pub const MODEL: &str = "model.safetensors";
/// Name of the file of Adam's moments.
pub const OPTIMIZER: &str = "optimizer.safetensors";
/// Name of the loss curve.
pub const CURVE: &str = "training.jsonl";

/// Version of the folder's layout that this crate writes, and the newest it reads.
pub const FORMAT: u64 = 1;

/// Prefixes of the moments' tensor names.
const FIRST_MOMENT: &str = "exp_avg.";
const SECOND_MOMENT: &str = "exp_avg_sq.";

/// Adam's moments, flat, in the order of the parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// Running mean of the gradient, `exp_avg`.
    pub first: Vec<f32>,
    /// Running mean of the squared gradient, `exp_avg_sq`.
    pub second: Vec<f32>,
    /// Optimizer steps behind them.
    pub step: u64,
}

/// A loaded checkpoint.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The folder, or the gguf file, it was read from.
    pub folder: PathBuf,
    /// The network.
    pub architecture: Arc<dyn Architecture>,
    /// The weights.
    pub parameters: Parameters,
    /// How it was trained, if the configuration says.
    pub training: Option<TrainingRecord>,
}

impl Checkpoint {
    /// Reads and checks a checkpoint: a folder with `config.json` and weights in any of the formats of [`crate::weights`], or a `.gguf`
    /// file, or a folder with one. The weights of language models stay in their mapped files.
    ///
    /// # Errors
    /// When a file is missing, truncated or of another format; when the model is unknown; when a tensor is missing, left over, of another
    /// shape or type, or has a NaN or infinity. Each message is one sentence that names the file.
    pub fn load(path: &Path) -> Result<Self, CheckpointError> {
        let config_path = path.join(CONFIG);
        if !path.exists() || (path.is_file() && path.extension().is_none_or(|extension| extension != "gguf")) {
            return Err(CheckpointError::NoFolder { path: path.to_owned() });
        }
        if !config_path.is_file()
            && let Ok(store) = TensorStore::open(path)
            && let Some(gguf) = store.gguf()
        {
            let config = Value::Object(gguf.config()?);
            let architecture =
                arch::from_config(&config).map_err(|source| CheckpointError::Architecture { path: store.path().to_owned(), source })?;
            return Self::bound(path, architecture, None, &store);
        }
        if path.is_file() {
            // Not a gguf file after all: the reader says what is wrong with it.
            TensorStore::open(path)?;
        }
        if path.is_dir() && !config_path.exists() {
            return Err(CheckpointError::NoFolder { path: path.to_owned() });
        }
        let config = read_config(&config_path)?;
        let architecture =
            arch::from_config(&config).map_err(|source| CheckpointError::Architecture { path: config_path.clone(), source })?;
        let training = match config.get("training") {
            None | Some(Value::Null) => None,
            Some(record) => Some(TrainingRecord::deserialize(record).map_err(|error| CheckpointError::Config {
                path: config_path,
                problem: format!("has a wrong `training` record ({error})"),
            })?),
        };
        let elsewhere = architecture.images().is_some() && !path.join(MODEL).is_file();
        if architecture.language_model().is_some() || elsewhere {
            return Self::bound(path, architecture, training, &TensorStore::open(path)?);
        }
        let layout = architecture.layout();
        let file = tensors::TensorFile::open(&path.join(MODEL))?;
        let values = file.read(&layout)?;
        file.refuse_extra(&layout)?;
        Ok(Self { folder: path.to_owned(), architecture, parameters: Parameters::new(layout, values), training })
    }

    /// With the weights of a store, left where they are.
    fn bound(
        path: &Path,
        architecture: Arc<dyn Architecture>,
        training: Option<TrainingRecord>,
        store: &TensorStore,
    ) -> Result<Self, CheckpointError> {
        let center = weights::bind(store, &architecture.layout(), &str::to_owned, &BindOptions::default())?;
        Ok(Self { folder: path.to_owned(), architecture, parameters: center.into(), training })
    }

    /// Adam's moments in any of the layouts of [`optimizer`], flat in the order of the parameters; None when the folder has none.
    ///
    /// # Errors
    /// When the state does not belong to the network, is ambiguous, or damaged; and when a second moment is negative.
    pub fn moments(&self) -> Result<Option<Moments>, CheckpointError> {
        if self.folder.is_file() {
            // A gguf file has no state of an optimizer.
            return Ok(None);
        }
        Ok(optimizer::read(&self.folder, self.parameters.layout(), &|range, out| self.parameters.fill(range, out))?)
    }
}

fn read_config(path: &Path) -> Result<Value, CheckpointError> {
    let text = fs::read(path).map_err(|source| CheckpointError::Io { path: path.to_owned(), source })?;
    let fault = |problem: String| CheckpointError::Config { path: path.to_owned(), problem };
    let config: Value = json::from_slice(&text).map_err(|error| fault(format!("is not JSON ({error})")))?;
    match config.get("format").map(Value::as_u64) {
        None | Some(Some(1..=FORMAT)) => Ok(config),
        Some(_) => Err(fault(format!("has format {}, but this version reads up to {FORMAT}", config["format"]))),
    }
}

/// A folder under construction: written under a hidden name beside `target`, removed when dropped before [`Draft::publish`].
#[derive(Debug)]
pub(crate) struct Draft {
    folder: tempfile::TempDir,
    target: PathBuf,
}

impl Draft {
    /// Starts a folder that will become `target`, which must not exist. Its parent folders are created.
    pub(crate) fn new(target: &Path) -> Result<Self, CheckpointError> {
        if target.exists() {
            return Err(CheckpointError::Exists { path: target.to_owned() });
        }
        let name = target.file_name().ok_or_else(|| CheckpointError::NoFolder { path: target.to_owned() })?.to_string_lossy();
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let io = |source| CheckpointError::Io { path: target.to_owned(), source };
        fs::create_dir_all(parent).map_err(io)?;
        let folder = tempfile::Builder::new().prefix(&format!(".{name}.")).suffix(".partial").tempdir_in(parent).map_err(io)?;
        Ok(Self { folder, target: target.to_owned() })
    }

    /// Where the files are written meanwhile.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Flushes the files to the disk and gives the folder its name.
    pub(crate) fn publish(self) -> Result<(), CheckpointError> {
        let Self { folder, target } = self;
        let io = |source| CheckpointError::Io { path: target.clone(), source };
        sync_tree(folder.path()).map_err(io)?;
        // A temporary folder is private to its owner; a checkpoint is an ordinary one.
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).map_err(io)?;
        }
        // Another process may have finished first: an existing folder with files in it makes the rename fail, and nothing is lost.
        fs::rename(folder.path(), &target).map_err(io)?;
        // The folder no longer has its temporary name: there is nothing left to remove.
        let _ = folder.keep();
        Ok(())
    }
}

fn sync_tree(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            fs::File::open(entry.path())?.sync_all()?;
        }
    }
    Ok(())
}

/// Writes configuration, weights and moments into an existing folder (a [`Draft`], or a `step-<N>` folder inside one).
pub(crate) fn write_files(
    folder: &Path,
    architecture: &dyn Architecture,
    parameters: &Parameters,
    moments: &Moments,
    training: &TrainingRecord,
) -> Result<(), CheckpointError> {
    let mut config = Map::new();
    config.insert("format".to_owned(), FORMAT.into());
    config.insert("model_type".to_owned(), architecture.model_type().into());
    config.append(&mut architecture.settings());
    let path = folder.join(CONFIG);
    let encode =
        |source: serde_json::Error| CheckpointError::Config { path: path.clone(), problem: format!("cannot be written ({source})") };
    config.insert("training".to_owned(), serde_json::to_value(training).map_err(encode)?);
    let mut text = serde_json::to_string_pretty(&config).map_err(encode)?;
    text.push('\n');
    fs::write(&path, text).map_err(|source| CheckpointError::Io { path: path.clone(), source })?;
    let layout = parameters.layout();
    tensors::write(&folder.join(MODEL), layout, &[("", &parameters.values())], &[("format", "pt".to_owned())])?;
    tensors::write(
        &folder.join(OPTIMIZER),
        layout,
        &[(FIRST_MOMENT, &moments.first), (SECOND_MOMENT, &moments.second)],
        &[("step", moments.step.to_string())],
    )
}

#[cfg(test)]
mod tests;
