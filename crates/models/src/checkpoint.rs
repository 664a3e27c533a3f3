//! Checkpoint folders: `config.json`, `model.safetensors`, `optimizer.safetensors`, `training.jsonl`, and optionally `step-<N>/` folders
//! of the same kind.
//!
//! A folder is written under another name beside its place and renamed when complete, so it is never seen half-written. Everything is
//! checked on reading: each tensor's presence, type, shape and finiteness, and that no tensor is left over.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::arch::{self, Architecture};
use crate::parameters::Parameters;

mod error;
pub mod optimizer;
mod tensors;

pub use error::CheckpointError;

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

/// How a checkpoint was made: what `config.json` holds under `training`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingRecord {
    /// Name of the dataset.
    pub dataset: String,
    /// Hash of the training inputs ([`basin_volume_data::Dataset::hash`]).
    pub dataset_hash: String,
    /// Seed of the initial weights and of the order of the batches.
    pub seed: u64,
    /// Seed of the split into training and test rows.
    pub split_seed: u64,
    /// Number of training rows.
    pub train_size: usize,
    /// L2 penalty: `l2/2 ||w||^2` was added to the loss.
    pub l2: f64,
    /// Decoupled weight decay of AdamW.
    pub weight_decay: f64,
    /// First learning rate of the cosine schedule.
    pub learning_rate: f64,
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Passes over the training rows asked for.
    pub epochs: usize,
    /// Rows per step.
    pub batch_size: usize,
    /// Steps done when this checkpoint was written.
    pub step: usize,
    /// Steps of the whole run.
    pub total_steps: usize,
    /// Share of the training rows classified correctly.
    pub train_accuracy: f64,
    /// Share of the test rows classified correctly.
    pub test_accuracy: f64,
    /// Mean cross-entropy on the training rows, nats, without the penalty.
    pub train_loss: f64,
    /// Mean cross-entropy on the test rows, nats.
    pub test_loss: f64,
}

impl TrainingRecord {
    /// The prior scale that the penalty stands for, `1/sqrt(l2 * train_size)`: `N * l2/2 ||w||^2 = ||w||^2 / (2 sigma^2)`. None without
    /// a penalty.
    #[must_use]
    pub fn weight_decay_sigma(&self) -> Option<f64> {
        (self.l2 > 0.0).then(|| 1.0 / (self.l2 * self.train_size as f64).sqrt())
    }
}

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
    /// Where it was read from.
    pub folder: PathBuf,
    /// The network.
    pub architecture: Arc<dyn Architecture>,
    /// The weights.
    pub parameters: Parameters,
    /// How it was trained, if the configuration says.
    pub training: Option<TrainingRecord>,
}

impl Checkpoint {
    /// Reads and checks `config.json` and `model.safetensors` of a folder.
    ///
    /// # Errors
    /// When a file is missing, truncated or of another format; when the model is unknown; when a tensor is missing, left over, of another
    /// shape or type, or has a NaN or infinity. Each message is one sentence that names the file.
    pub fn load(folder: &Path) -> Result<Self, CheckpointError> {
        if !folder.is_dir() {
            return Err(CheckpointError::NoFolder { path: folder.to_owned() });
        }
        let path = folder.join(CONFIG);
        let config = read_config(&path)?;
        let architecture = arch::from_config(&config).map_err(|source| CheckpointError::Architecture { path: path.clone(), source })?;
        let training = match config.get("training") {
            None | Some(Value::Null) => None,
            Some(record) => Some(
                TrainingRecord::deserialize(record)
                    .map_err(|error| CheckpointError::Config { path, problem: format!("has a wrong `training` record ({error})") })?,
            ),
        };
        let layout = architecture.layout();
        let file = tensors::TensorFile::open(&folder.join(MODEL))?;
        let values = file.read(&layout, "")?;
        file.refuse_extra(&layout, &[""])?;
        Ok(Self { folder: folder.to_owned(), architecture, parameters: Parameters::new(layout, values), training })
    }

    /// Adam's moments from `optimizer.safetensors`, flat in the order of the parameters; None when the folder has no such file.
    ///
    /// # Errors
    /// As [`Checkpoint::load`], for the tensors `exp_avg.<name>` and `exp_avg_sq.<name>`; and when a second moment is negative.
    pub fn moments(&self) -> Result<Option<Moments>, CheckpointError> {
        let path = self.folder.join(OPTIMIZER);
        if !path.exists() {
            return Ok(None);
        }
        let layout = self.parameters.layout();
        let file = tensors::TensorFile::open(&path)?;
        let first = file.read(layout, FIRST_MOMENT)?;
        let second = file.read(layout, SECOND_MOMENT)?;
        file.refuse_extra(layout, &[FIRST_MOMENT, SECOND_MOMENT])?;
        if let Some((parameter, _)) = layout.unflatten(&second).find(|(_, values)| values.iter().any(|&value| value < 0.0)) {
            let tensor = format!("{SECOND_MOMENT}{}", parameter.name);
            return Err(CheckpointError::Tensor { path, tensor, problem: "has a negative entry: a mean of squares cannot".to_owned() });
        }
        let step = file.metadata("step").and_then(|step| step.parse().ok()).ok_or_else(|| CheckpointError::Format {
            path,
            problem: "its metadata lacks `step`, the number of optimizer steps".to_owned(),
        })?;
        Ok(Some(Moments { first, second, step }))
    }
}

fn read_config(path: &Path) -> Result<Value, CheckpointError> {
    let text = fs::read_to_string(path).map_err(|source| CheckpointError::Io { path: path.to_owned(), source })?;
    let fault = |problem: String| CheckpointError::Config { path: path.to_owned(), problem };
    let config: Value = serde_json::from_str(&text).map_err(|error| fault(format!("is not JSON ({error})")))?;
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
    tensors::write(&folder.join(MODEL), layout, &[("", parameters.values())], &[("format", "pt".to_owned())])?;
    tensors::write(
        &folder.join(OPTIMIZER),
        layout,
        &[(FIRST_MOMENT, &moments.first), (SECOND_MOMENT, &moments.second)],
        &[("step", moments.step.to_string())],
    )
}

#[cfg(test)]
mod tests;
