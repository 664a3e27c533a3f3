//! What MODEL means.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::anyhow;
use basin_volume_models::arch::LanguageModel;
use basin_volume_models::checkpoint::{Checkpoint, TrainingRecord};
use basin_volume_models::parameters::Moving;
use serde_json::{Value, json};

use super::digits::builtin_digits;
use super::hub::{self, Origin};
use crate::args::SigmaChoice;
use crate::error::CommandError;

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
    /// Where on the hub it came from, if it did.
    pub origin: Option<Origin>,
}

impl Model {
    /// Whether there is a memory plan, and so a flag for it.
    pub fn takes_memory(&self) -> bool {
        self.language_model().is_some() || self.checkpoint.architecture.images().is_some()
    }

    /// Resolves MODEL: trains the built-in network on first use, loads a folder or file, or asks the hub. A path that exists is never
    /// taken for a name on the hub.
    pub fn resolve(text: &str, interrupt: &AtomicBool) -> Result<Self, CommandError> {
        if text == DIGITS {
            let checkpoint = builtin_digits(interrupt)?;
            return Ok(Self { name: DIGITS.to_owned(), is_builtin: true, checkpoint, origin: None });
        }
        let path = Path::new(text);
        if path.exists() {
            let checkpoint = Checkpoint::load(path)?;
            return Ok(Self { name: path_name(path), is_builtin: false, checkpoint, origin: None });
        }
        let Some(id) = hub::model_id(text) else {
            return Err(CommandError::usage(format!(
                "there is no model '{text}': expected `digits`, an existing checkpoint folder or .gguf file, or a model of the hub as owner/name or owner/name@revision"
            )));
        };
        let (folder, origin) = hub::model(text, &id, interrupt)?;
        let checkpoint = Checkpoint::load(&folder)?;
        Ok(Self { name: hub::short_name(text), is_builtin: false, checkpoint, origin: Some(origin) })
    }

    /// The network as a language model, if it is one.
    pub fn language_model(&self) -> Option<&LanguageModel> {
        self.checkpoint.architecture.language_model()
    }

    /// The standard deviation of the Gaussian prior of the moving weights, and how it was chosen.
    pub fn sigma(&self, moving: &Moving, choice: Option<SigmaChoice>) -> Result<(f64, &'static str), CommandError> {
        let choice = choice.unwrap_or(if self.is_builtin { SigmaChoice::WeightDecay } else { SigmaChoice::Rms });
        match choice {
            SigmaChoice::Value(sigma) => Ok((sigma, "given")),
            SigmaChoice::Rms => {
                let rms = moving.rms();
                if rms > 0.0 {
                    Ok((rms, "rms"))
                } else {
                    let which = if moving.is_whole() { "all weights" } else { "all moving weights" };
                    Err(anyhow!("{which} are zero, so sigma = rms is zero: give --sigma a value").into())
                }
            }
            SigmaChoice::WeightDecay => {
                let sigma = self.checkpoint.training.as_ref().and_then(TrainingRecord::weight_decay_sigma);
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

    /// How the weights are stored in their files.
    pub fn stored(&self) -> Vec<String> {
        let center = self.checkpoint.parameters.mapped();
        center.map_or_else(|| vec!["F32".to_owned()], |center| center.elements().iter().map(|element| element.name()).collect())
    }

    /// The files of the weights.
    pub fn files(&self) -> Vec<PathBuf> {
        match self.checkpoint.parameters.mapped() {
            Some(center) => center.files().into_iter().map(Path::to_owned).collect(),
            None => vec![self.checkpoint.folder.join(basin_volume_models::checkpoint::MODEL)],
        }
    }

    /// What identifies the model in a manifest. Where it was found and how it is stored is not part of it: the hash says it all.
    pub fn record(&self) -> Value {
        json!({
            "name": self.name,
            "model_type": self.checkpoint.architecture.model_type(),
            "settings": self.checkpoint.architecture.settings(),
            "weights_sha256": self.checkpoint.parameters.hash(),
        })
    }

    /// Where the model was found and how it is stored, for a manifest's notes.
    pub fn provenance(&self) -> Value {
        json!({ "folder": self.checkpoint.folder, "hub": self.origin, "stored_as": self.stored() })
    }
}

/// The last part of a path, without the extension of a file.
fn path_name(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = if path.is_file() { path.file_stem() } else { path.file_name() };
    name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}
