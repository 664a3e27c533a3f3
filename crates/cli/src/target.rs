//! What MODEL and DATA mean.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Context, anyhow};
use basin_volume_data::{Dataset, digits, tensors};
use basin_volume_models::checkpoint::Checkpoint;
use basin_volume_models::train::{self, TrainError, TrainSpec};
use serde_json::{Map, Value, json};

use crate::args::{ProblemArgs, SigmaChoice};
use crate::error::CommandError;
use crate::progress::TrainingProgress;

/// The word for the built-in network.
const DIGITS: &str = "digits";

/// A model that was asked for.
pub struct Model {
    /// Short name for folders and titles.
    pub name: String,
    /// Whether it is the built-in digits network, which has its own defaults (those of the reference's notebook).
    pub is_builtin: bool,
    /// The network and its weights.
    pub checkpoint: Checkpoint,
}

impl Model {
    /// Resolves MODEL: trains the built-in network on first use, otherwise loads a folder.
    pub fn resolve(text: &str, interrupt: &AtomicBool) -> Result<Self, CommandError> {
        if text == DIGITS {
            let checkpoint = builtin_digits(interrupt)?;
            return Ok(Self { name: DIGITS.to_owned(), is_builtin: true, checkpoint });
        }
        let folder = Path::new(text);
        if !folder.exists() {
            return Err(CommandError::usage(format!("there is no model '{text}': expected `digits` or a checkpoint folder")));
        }
        let checkpoint = Checkpoint::load(folder)?;
        let name = folder.canonicalize().ok().and_then(|p| Some(p.file_name()?.to_string_lossy().into_owned()));
        Ok(Self { name: name.unwrap_or_else(|| "model".to_owned()), is_builtin: false, checkpoint })
    }

    /// The standard deviation of the Gaussian prior, and how it was chosen.
    pub fn sigma(&self, choice: Option<SigmaChoice>) -> Result<(f64, &'static str), CommandError> {
        let choice = choice.unwrap_or(if self.is_builtin { SigmaChoice::WeightDecay } else { SigmaChoice::Rms });
        match choice {
            SigmaChoice::Value(sigma) => Ok((sigma, "given")),
            SigmaChoice::Rms => {
                let rms = self.checkpoint.parameters.rms();
                if rms > 0.0 {
                    Ok((rms, "rms"))
                } else {
                    Err(anyhow!("all weights are zero, so sigma = rms is zero: give --sigma a value").into())
                }
            }
            SigmaChoice::WeightDecay => {
                let training = self.checkpoint.training.as_ref();
                let sigma = training.and_then(basin_volume_models::checkpoint::TrainingRecord::weight_decay_sigma);
                sigma.map(|sigma| (sigma, "weight-decay")).ok_or_else(|| {
                    anyhow!(
                        "the checkpoint {} does not say with which l2 penalty it was trained, so --sigma weight-decay has no value: give a number or `rms`",
                        self.checkpoint.folder.display()
                    )
                    .into()
                })
            }
        }
    }

    /// What identifies the model in a manifest.
    pub fn record(&self) -> Value {
        json!({
            "name": self.name,
            "model_type": self.checkpoint.architecture.model_type(),
            "settings": self.checkpoint.architecture.settings(),
            "weights_sha256": self.checkpoint.parameters.hash(),
        })
    }
}

/// Where trained built-in networks are kept: `$BASIN_VOLUME_CACHE`, else the user's cache folder.
fn cache_folder() -> Result<PathBuf, CommandError> {
    if let Some(folder) = std::env::var_os("BASIN_VOLUME_CACHE").filter(|folder| !folder.is_empty()) {
        return Ok(PathBuf::from(folder));
    }
    let folder = dirs::cache_dir().ok_or_else(|| anyhow!("there is no cache folder for this user: set BASIN_VOLUME_CACHE to a folder"))?;
    Ok(folder.join("basin-volume"))
}

fn builtin_digits(interrupt: &AtomicBool) -> Result<Checkpoint, CommandError> {
    // The version in the name changes whenever the recipe does.
    let folder = cache_folder()?.join("digits-1");
    if !folder.exists() {
        eprintln_status("Training the digits network (first use; kept in the cache)");
        train_digits(&TrainSpec::default(), &folder, interrupt).or_else(|error| match error {
            // Another process finished the same training first: its result is the same, bit for bit.
            CommandError::Failure(_) if folder.exists() => Ok(()),
            other => Err(other),
        })?;
    }
    let load = Checkpoint::load(&folder)
        .with_context(|| format!("the cached digits network is damaged; remove {} to train it again", folder.display()))?;
    Ok(load)
}

/// Trains the digits network with a progress bar.
pub fn train_digits(spec: &TrainSpec, out: &Path, interrupt: &AtomicBool) -> Result<(), CommandError> {
    let mut observer = TrainingProgress::new(interrupt);
    let result = train::train_digits(spec, out, &mut observer);
    observer.finish();
    match result {
        Ok(_) => Ok(()),
        Err(TrainError::Interrupted { .. }) => {
            eprintln_status("Interrupted: training leaves nothing behind.");
            Err(CommandError::Interrupted)
        }
        Err(TrainError::Setting { name, value, expected }) => {
            let flag = if name == "hidden_width" { "width".to_owned() } else { name.replace('_', "-") };
            Err(CommandError::usage(format!("--{flag} is {value}: expected {expected}")))
        }
        Err(error @ (TrainError::Architecture(_) | TrainError::Data(_))) => Err(CommandError::usage(error.to_string())),
        Err(error) => Err(error.into()),
    }
}

/// Resolves DATA for a model.
pub fn resolve_data(args: &ProblemArgs, model: &Model) -> Result<Dataset, CommandError> {
    let training = model.checkpoint.training.as_ref().and_then(basin_volume_models::checkpoint::TrainingRecord::classifier);
    let split = || {
        let (seed, size) = training.map_or((0, digits::TRAIN_ROWS), |t| (t.split_seed, t.train_size));
        digits::split(seed, size)
    };
    match args.data.as_str() {
        "digits" | "digits:train" => Ok(split()?.train),
        "digits:test" => Ok(split()?.test),
        path if Path::new(path).exists() => Ok(tensors::read(Path::new(path))?),
        other => Err(CommandError::usage(format!(
            "there is no data '{other}': expected `digits`, `digits:train`, `digits:test` or a .safetensors file with a tensor `inputs`"
        ))),
    }
}

/// What identifies model, data and cost in a manifest.
pub fn problem_record(model: &Model, data: &Dataset) -> Map<String, Value> {
    let mut record = Map::new();
    record.insert("model".to_owned(), model.record());
    record.insert(
        "data".to_owned(),
        json!({ "name": data.name(), "rows": data.rows(), "features": data.features(), "sha256": data.hash(), "order": data.order() }),
    );
    record.insert("cost".to_owned(), json!("mean over the rows of KL(center || perturbed), nats"));
    record
}

/// A line for the user on standard error.
#[expect(clippy::print_stderr, reason = "the binary talks to its user")]
pub fn eprintln_status(text: &str) {
    eprintln!("{text}");
}
