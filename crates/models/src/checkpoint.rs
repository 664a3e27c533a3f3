//! Checkpoint folders: `config.json`, `model.safetensors`, `optimizer.safetensors`, `training.jsonl`, and optionally `step-<N>/` folders
//! of the same kind.
//!
//! A folder is written under another name beside its place and renamed when complete, so it is never seen half-written. Everything is
//! checked on reading: each tensor's presence, type, shape and finiteness, and that no tensor is left over.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use basin_volume_data::{json, pointer};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::arch::{self, Architecture};
use crate::parameters::{ParameterLayout, Parameters};
use crate::weights::adapter::{Adapter, AdapterError, Base};
use crate::weights::file::has_extension;
use crate::weights::{self, BindOptions, Center, Element, TensorStore};

mod error;
pub mod optimizer;
mod perceptron;
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
    /// The folder, or the gguf file, it was read from; of an adapter, its own.
    pub folder: PathBuf,
    /// The folder or file of the base, if this is an adapter merged into one.
    pub base: Option<PathBuf>,
    /// The network.
    pub architecture: Arc<dyn Architecture>,
    /// The weights.
    pub parameters: Parameters,
    /// How it was trained, if the configuration says.
    pub training: Option<TrainingRecord>,
    /// The files of the weights.
    pub files: Vec<PathBuf>,
    /// How the weights are stored there.
    pub elements: Vec<Element>,
    /// Names of parameters that the network of the files does not have: zeros, which are not to move.
    pub fixed: Vec<String>,
    /// What a person should know about how the weights were read, each a sentence without a full stop.
    pub notes: Vec<String>,
}

impl Checkpoint {
    /// Reads and checks a checkpoint: a folder with `config.json` and weights in any of the formats of [`crate::weights`], or a `.gguf`
    /// file, or a folder with one, or an [`Adapter`] whose base is on this machine. The weights of language models stay in their mapped
    /// files.
    ///
    /// # Errors
    /// When a file is missing, truncated or of another format; when the model is unknown; when a tensor is missing, left over, of another
    /// shape or type, or has a NaN or infinity. Each message is one sentence that names the file.
    pub fn load(path: &Path) -> Result<Self, CheckpointError> {
        match Adapter::find(path)? {
            None => Self::load_whole(path),
            Some(adapter) => match adapter.base() {
                Base::Here(base) => Self::load_adapted(&adapter, &base),
                Base::Named(_) | Base::Unknown => Err(adapter.without_base(None).into()),
            },
        }
    }

    /// As [`Checkpoint::load`], passing over an adapter that stands beside whole weights.
    ///
    /// # Errors
    /// As [`Checkpoint::load`].
    pub fn load_whole(path: &Path) -> Result<Self, CheckpointError> {
        let Opened { config_path, mut config, mut store } = Opened::at(path)?;
        let mut names = perceptron::Names::default();
        if perceptron::is_one(&config) {
            let weights = store.take().map_or_else(|| TensorStore::open(path), Ok)?;
            names = perceptron::complete(&mut config, &weights)
                .map_err(|problem| CheckpointError::Config { path: config_path.clone(), problem })?;
            store = Some(weights);
        }
        // What is wrong with the configuration is said before the weights are looked for.
        let architecture =
            arch::from_config(&config).map_err(|source| CheckpointError::Architecture { path: config_path.clone(), source })?;
        let training = match config.get("training") {
            None | Some(Value::Null) => None,
            Some(record) => Some(TrainingRecord::deserialize(record).map_err(|error| CheckpointError::Config {
                path: config_path,
                problem: format!("has a wrong `training` record ({error})"),
            })?),
        };
        let store = store.map_or_else(|| TensorStore::open(path), Ok)?;
        let absent = names.absent();
        let bind = |layout: &ParameterLayout| weights::bind(&store, layout, &|name| names.of(name), &BindOptions::default());
        let mut found = if absent.is_empty() {
            Self::of(path, architecture.clone(), bind(&architecture.layout())?)
        } else {
            Self::of_some(path, architecture.clone(), &absent, bind)?
        };
        found.training = training;
        found.fixed = absent;
        found.notes.extend(names.words(store.path()));
        Ok(found)
    }

    /// An adapter merged into the model at `base`.
    ///
    /// # Errors
    /// As [`Checkpoint::load`], and when the adapter does not fit the base.
    pub fn load_adapted(adapter: &Adapter, base: &Path) -> Result<Self, CheckpointError> {
        let Opened { config_path, mut config, store } = Opened::at(base)?;
        let store = store.map_or_else(|| TensorStore::open(base), Ok)?;
        let mut build = |untied: bool| {
            if untied {
                config["tie_word_embeddings"] = false.into();
            }
            arch::from_config(&config).map_err(|source| AdapterError::Architecture { path: config_path.clone(), source })
        };
        let merged = adapter.merge(&mut build, &store)?;
        // What the base was trained on is not what the adapter was.
        Ok(Self { base: Some(base.to_owned()), ..Self::of(adapter.folder(), merged.architecture, merged.center) })
    }

    /// A network with its weights: those of language models stay where they are, smaller ones are kept in memory.
    fn of(path: &Path, architecture: Arc<dyn Architecture>, center: Center) -> Self {
        let (files, elements, notes) =
            (center.files().into_iter().map(Path::to_owned).collect(), center.elements(), center.notes().to_vec());
        let mapped = Parameters::from(center);
        let parameters = if architecture.language_model().is_some() {
            mapped
        } else {
            Parameters::new(mapped.layout().clone(), mapped.values().into_owned())
        };
        Self { folder: path.to_owned(), base: None, architecture, parameters, training: None, files, elements, fixed: Vec::new(), notes }
    }

    /// The same for a network of which the files lack some parameters, which are zeros.
    fn of_some(
        path: &Path,
        architecture: Arc<dyn Architecture>,
        absent: &[String],
        bind: impl FnOnce(&ParameterLayout) -> Result<Center, weights::WeightsError>,
    ) -> Result<Self, CheckpointError> {
        let whole = architecture.layout();
        let present = whole.parameters().iter().filter(|parameter| !absent.contains(&parameter.name));
        let layout = ParameterLayout::new(present.map(|parameter| (parameter.name.clone(), parameter.shape.clone())));
        let some = Self::of(path, architecture, bind(&layout)?);
        let values = some.parameters.values();
        let mut all = vec![0.0f32; whole.dimension()];
        for parameter in layout.parameters() {
            if let Some(place) = whole.parameters().iter().find(|other| other.name == parameter.name) {
                all[place.range()].copy_from_slice(&values[parameter.range()]);
            }
        }
        Ok(Self { parameters: Parameters::new(whole, all), ..some })
    }

    /// The folder that the tokenizer is looked for in: an adapter's own, if there is one, else that of its base.
    #[must_use]
    pub fn tokenizer_folder(&self) -> &Path {
        match &self.base {
            Some(base) if !TOKENIZERS.iter().any(|name| self.folder.join(name).is_file()) => base,
            _ => &self.folder,
        }
    }

    /// Adam's moments in any of the layouts of [`optimizer`], flat in the order of the parameters; None when the folder has none.
    ///
    /// # Errors
    /// When the state does not belong to the network, is ambiguous, or damaged; and when a second moment is negative.
    pub fn moments(&self) -> Result<Option<Moments>, CheckpointError> {
        if self.folder.is_file() || self.base.is_some() {
            // A gguf file has no state of an optimizer, and that of an adapter's training is not one of all weights.
            return Ok(None);
        }
        Ok(optimizer::read(&self.folder, self.parameters.layout(), &|range, out| self.parameters.fill(range, out))?)
    }
}

/// Files that make a tokenizer.
const TOKENIZERS: [&str; 2] = ["tokenizer.json", "vocab.json"];

/// The configuration of a model.
struct Opened {
    /// What the configuration was read from: its own file, or a gguf file.
    config_path: PathBuf,
    config: Value,
    /// The gguf file, which is open then.
    store: Option<TensorStore>,
}

impl Opened {
    fn at(path: &Path) -> Result<Self, CheckpointError> {
        let config_path = path.join(CONFIG);
        if !path.exists() || (path.is_file() && !has_extension(path, &["gguf"])) {
            return Err(CheckpointError::NoFolder { path: path.to_owned() });
        }
        if path.is_dir() && config_path.is_file() {
            return Ok(Self { config: read_config(&config_path)?, config_path, store: None });
        }
        if path.is_dir() && !TensorStore::is_in(path) {
            return Err(CheckpointError::NoFolder { path: path.to_owned() });
        }
        let store = TensorStore::open(path)?;
        match store.gguf() {
            Some(gguf) => Ok(Self { config_path: store.path().to_owned(), config: Value::Object(gguf.config()?), store: Some(store) }),
            // Weights alone do not say what network they are of.
            None => Err(CheckpointError::NoFolder { path: path.to_owned() }),
        }
    }
}

fn read_config(path: &Path) -> Result<Value, CheckpointError> {
    let text = fs::read(path).map_err(|source| CheckpointError::Io { path: path.to_owned(), source })?;
    let fault = |problem: String| CheckpointError::Config { path: path.to_owned(), problem };
    if pointer::is_pointer(&text) {
        return Err(fault(format!("is not usable: {}", pointer::PROBLEM)));
    }
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
