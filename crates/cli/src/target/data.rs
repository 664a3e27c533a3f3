//! What DATA means, for the kind of model at hand.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use basin_volume_data::text::is_text_file;
use basin_volume_data::tokens::Provenance;
use basin_volume_data::{Dataset, digits, tensors};
use basin_volume_models::checkpoint::TrainingRecord;
use serde_json::{Value, json};

use super::text::{self, Tokens};
use super::{Model, hub, images};
use crate::args::ProblemArgs;
use crate::error::CommandError;

/// Data of the right kind for a model.
pub enum Data {
    /// Rows of numbers.
    Rows(Dataset),
    /// Sequences of tokens.
    Tokens(Box<Tokens>),
}

impl Data {
    /// What the cost averages over.
    pub fn unit(&self) -> &'static str {
        match self {
            Self::Rows(_) => "rows",
            Self::Tokens(_) => "kept positions",
        }
    }

    /// What identifies the data in a manifest.
    pub fn record(&self) -> Value {
        match self {
            Self::Rows(data) => {
                let (rows, features) = (data.rows(), data.features());
                json!({ "name": data.name(), "rows": rows, "features": features, "sha256": data.hash(), "order": data.order() })
            }
            Self::Tokens(tokens) => {
                let sequences = &tokens.sequences;
                json!({
                    "name": tokens.name,
                    "sequences": sequences.count(),
                    "tokens": sequences.ids().len(),
                    "kept_positions": sequences.kept_count(),
                    "positions": sequences.positions(),
                    "pad_token_id": sequences.pad(),
                    "sha256": sequences.hash(),
                })
            }
        }
    }

    /// Where the data was found and what was asked for, for a manifest's notes.
    pub fn provenance(&self) -> Value {
        match self {
            Self::Rows(_) => Value::Null,
            Self::Tokens(tokens) => {
                let read = match tokens.sequences.provenance() {
                    Provenance::Text(report) => json!(report),
                    Provenance::Ids => json!("token ids"),
                };
                json!({
                    "source": tokens.sequences.name(),
                    "hub": tokens.origin,
                    "files": tokens.choice,
                    "tokenizer": tokens.tokenizer,
                    "read": read,
                })
            }
        }
    }
}

/// Resolves DATA for a model; None when a language model is given none.
///
/// Flags that mean nothing for this kind of model are refused.
pub fn resolve_data(args: &ProblemArgs, model: &Model, interrupt: &AtomicBool) -> Result<Option<Data>, CommandError> {
    let model_type = model.checkpoint.architecture.model_type();
    let Some(language_model) = model.language_model() else {
        let takes = |flag: &str| flag == "--memory" && model.takes_memory();
        if let Some(flag) = args.language_model_flags().into_iter().find(|flag| !takes(flag)) {
            let whom = if flag == "--memory" { "language models and classifiers of images" } else { "language models" };
            return Err(CommandError::usage(format!("{flag} is for {whom}, but {} is of the type \"{model_type}\"", model.name)));
        }
        return rows(args.data.one()?, model).map(|data| Some(Data::Rows(data)));
    };
    match args.data.one()? {
        None => match args.language_model_flags().first() {
            Some(flag) => Err(CommandError::usage(format!("{flag} needs --data: {}", text::EXAMPLE))),
            None => Ok(None),
        },
        Some(data) if data.split(':').next() == Some("digits") && !Path::new(data).exists() => Err(CommandError::usage(format!(
            "{} is a language model, which reads text, but --data {data} is images: {}",
            model.name,
            text::EXAMPLE
        ))),
        Some(data) => {
            let positions = args.positions.map_or_else(Default::default, Into::into);
            let tokens = text::resolve(data, &args.data, (args.pad_token_id, positions), model, language_model, interrupt)?;
            Ok(Some(Data::Tokens(Box::new(tokens))))
        }
    }
}

/// Rows for a multilayer perceptron, images for a classifier of images.
fn rows(data: Option<&str>, model: &Model) -> Result<Dataset, CommandError> {
    if let Some(images) = images::resolve(data, model) {
        return images;
    }
    let training = model.checkpoint.training.as_ref().and_then(TrainingRecord::classifier);
    let split = || {
        let (seed, size) = training.map_or((0, digits::TRAIN_ROWS), |t| (t.split_seed, t.train_size));
        digits::split(seed, size)
    };
    match data {
        None | Some("digits" | "digits:train") => Ok(split()?.train),
        Some("digits:test") => Ok(split()?.test),
        Some(part) if part.starts_with("digits:train:") || part.starts_with("digits:test:") => {
            let split = split()?;
            let (name, count) = part.rsplit_once(':').unwrap_or((part, ""));
            let whole = if name == "digits:train" { split.train } else { split.test };
            match count.parse::<usize>() {
                Ok(count) if (1..=whole.rows()).contains(&count) => Ok(whole.select(&(0..count).collect::<Vec<_>>())?),
                _ => {
                    Err(CommandError::usage(format!("--data {part}: expected a number of inputs from 1 to {} after {name}:", whole.rows())))
                }
            }
        }
        Some(path) if Path::new(path).is_dir() => Err(CommandError::usage(format!(
            "--data {path} is a folder, but {} reads rows of numbers: give `digits`, `digits:test` or a .safetensors file with a tensor `inputs`",
            model.name
        ))),
        Some(path) if Path::new(path).exists() && !is_text_file(Path::new(path)) => Ok(tensors::read(Path::new(path))?),
        Some(other) if Path::new(other).exists() || hub::id(other).is_some() => Err(CommandError::usage(format!(
            "{} is of the type \"{}\", which reads rows of numbers, but --data {other} is text: give `digits`, `digits:test` or a .safetensors file with a tensor `inputs`",
            model.name,
            model.checkpoint.architecture.model_type()
        ))),
        Some(other) => Err(CommandError::usage(format!(
            "there is no data '{other}': expected `digits`, `digits:train`, `digits:test` or a .safetensors file with a tensor `inputs`"
        ))),
    }
}

/// The last part of a path.
pub fn file_name(path: &Path) -> String {
    let path: PathBuf = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
