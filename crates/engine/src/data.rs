//! What data mean, for the kind of model at hand.

use std::path::{Path, PathBuf};

use basin_volume_data::text::is_text_file;
use basin_volume_data::tokens::Provenance;
use basin_volume_data::{Dataset, digits, tensors};
use basin_volume_models::checkpoint::TrainingRecord;
use serde_json::{Value, json};

use crate::error::Error;
use crate::hub;
use crate::model::Model;
use crate::numbers::grouped;
use crate::request::CostRequest;
use crate::session::Session;

mod images;
mod random;
pub(crate) mod split;
pub mod tasks;
pub mod text;

pub use images::read_set;
pub use text::Tokens;

use text::Kept;

/// Data of the right kind for a model.
#[derive(Debug)]
pub enum Data {
    /// Rows of numbers.
    Rows(Dataset),
    /// Sequences of tokens.
    Tokens(Box<Tokens>),
}

impl Data {
    /// What the cost averages over.
    #[must_use]
    pub fn unit(&self) -> &'static str {
        match self {
            Self::Rows(_) => "rows",
            Self::Tokens(_) => "kept positions",
        }
    }

    /// What identifies the data in a manifest.
    #[must_use]
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

    /// How much of the data counts, in a line.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Rows(data) => format!("Data: {} rows of {} numbers of {}.", grouped(data.rows()), grouped(data.features()), data.name()),
            Self::Tokens(tokens) => tokens.words(),
        }
    }

    /// Where the data was found and what was asked for, for a manifest's notes.
    #[must_use]
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
                    "tokenizer": tokens.tokenizer.as_deref().map(crate::model::text_of),
                    "read": read,
                })
            }
        }
    }
}

/// Resolves the data of a request for a model; None when a language model is given none.
///
/// # Errors
/// When there are no such data, they are of another kind than the model reads, or a setting means nothing for this kind of model.
pub fn resolve_data(request: &CostRequest, model: &Model, session: &Session) -> Result<Option<Data>, Error> {
    let model_type = model.checkpoint.architecture.model_type();
    if session.memory.is_some() && !model.takes_memory() {
        return Err(Error::usage(format!(
            "`memory` is for language models and classifiers of images, but {} is of the type \"{model_type}\"",
            model.name
        )));
    }
    let settings = request.language_model_settings();
    let Some(language_model) = model.language_model() else {
        if let Some(setting) = settings.first() {
            return Err(Error::usage(format!("`{setting}` is for language models, but {} is of the type \"{model_type}\"", model.name)));
        }
        let data = rows(request.data.one()?, model)?;
        check_logits(model, &data)?;
        return Ok(Some(Data::Rows(data)));
    };
    match request.data.one()? {
        None => match settings.first().copied().or(session.memory.map(|_| "memory")) {
            Some(setting) => Err(Error::usage(format!("`{setting}` needs `data`: {}", text::EXAMPLE))),
            None => Ok(None),
        },
        Some(data) if data.split(':').next() == Some("digits") && !Path::new(data).exists() => Err(Error::usage(format!(
            "{} is a language model, which reads text, but `data={data}` is images: {}",
            model.name,
            text::EXAMPLE
        ))),
        Some(data) => {
            let kept = Kept { pad: request.cost.pad_token_id, positions: request.cost.positions.unwrap_or_default() };
            let tokens = text::resolve(data, &request.data, kept, model, language_model, session)?;
            Ok(Some(Data::Tokens(Box::new(tokens))))
        }
    }
}

/// What a job without data says: only language models have no default.
#[must_use]
pub fn data_needed(model: &Model) -> Error {
    Error::usage(format!("{} is a language model, so `data` has no default: {}", model.name, text::EXAMPLE))
}

/// Rows whose logits are computed again: of images fewer, because that is slow in f64.
const CHECKED: (usize, usize) = (256, 4);
/// How far logits may differ, relative to the largest: those of half-precision programs still agree.
const AGREE: f64 = 2e-3;

/// Refuses a model that gives other logits than the data say: it is another network than whoever wrote them had.
fn check_logits(model: &Model, data: &Dataset) -> Result<(), Error> {
    let network = model.checkpoint.architecture.network();
    let checked = if model.images().is_some() { CHECKED.1 } else { CHECKED.0 };
    let weights = model.checkpoint.parameters.values();
    for row in 0..data.rows().min(checked) {
        let Some(said) = data.logits(row) else { return Ok(()) };
        let input = &data.inputs()[row * data.features()..(row + 1) * data.features()];
        // Inputs of another width are refused, with both numbers, where the cost is made.
        let Some(found) = network.logits_exact(&weights, input) else { return Ok(()) };
        let largest = found.iter().fold(1.0f64, |most, logit| most.max(logit.abs()));
        let differs = |(_, (found, said)): &(usize, (&f64, &f32))| {
            let error = (*found - f64::from(**said)).abs();
            error.is_nan() || error > AGREE * largest
        };
        let problem = match found.iter().zip(said).enumerate().find(differs) {
            _ if found.len() != said.len() => format!("it has {} logits and not {}", found.len(), said.len()),
            Some((class, (found, said))) => format!("its logit of class {class} is {found:.5} and not {said:.5}"),
            None => continue,
        };
        return Err(Error::failed(format!(
            "{} is another network than the one whose `logits` are in {}: for row {row} {problem}; look at `activation` and at the order of the \
             layers in its config.json",
            model.name,
            data.name()
        )));
    }
    Ok(())
}

/// Rows for a multilayer perceptron, images for a classifier of images.
fn rows(data: Option<&str>, model: &Model) -> Result<Dataset, Error> {
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
                _ => Err(Error::usage(format!("`data={part}`: expected a number of inputs from 1 to {} after {name}:", whole.rows()))),
            }
        }
        Some(path) if Path::new(path).is_dir() => Err(Error::usage(format!(
            "`data={path}` is a folder, but {} reads rows of numbers: give 'digits', 'digits:test' or a .safetensors file with a tensor 'inputs'",
            model.name
        ))),
        Some(path) if Path::new(path).exists() && !is_text_file(Path::new(path)) => Ok(tensors::read(Path::new(path))?),
        Some(other) if Path::new(other).exists() || hub::id(other).is_some() => Err(Error::usage(format!(
            "{} is of the type \"{}\", which reads rows of numbers, but `data={other}` is text: give 'digits', 'digits:test' or a .safetensors file with a tensor 'inputs'",
            model.name,
            model.checkpoint.architecture.model_type()
        ))),
        Some(other) => Err(Error::usage(format!(
            "there is no data '{other}': expected 'digits', 'digits:train', 'digits:test' or a .safetensors file with a tensor 'inputs'"
        ))),
    }
}

/// The last part of a path.
pub(crate) fn file_name(path: &Path) -> String {
    let path: PathBuf = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
