//! What a model means.

use std::path::{Path, PathBuf};

use basin_volume_models::arch::{ConvNextV2Config, LanguageModel};
use basin_volume_models::checkpoint::{Checkpoint, Moments, TrainingRecord};
use basin_volume_models::components::Components;
use basin_volume_models::parameters::{Chosen, Moving, SelectionError};
use basin_volume_models::weights::adapter::{Adapter, Base};
use basin_volume_models::weights::{HubError, TensorStore};
use serde_json::{Value, json};

use crate::digits::{self, Builtin};
use crate::error::Error;
use crate::hub::{self, Origin};
use crate::request::{ComponentNames, CostRequest, Sigma};
use crate::session::Session;
use crate::subject::{ChosenSigma, rms};

/// A model that was asked for.
#[derive(Debug)]
pub struct Model {
    /// Short name for folders and titles.
    pub name: String,
    /// Which of the built-in networks it is, which have their own defaults.
    pub builtin: Option<Builtin>,
    /// The network and its weights.
    pub checkpoint: Checkpoint,
    /// Where on the hub it came from, if it did.
    pub origin: Option<Origin>,
    /// Where on the hub the base of an adapter came from, if it did.
    pub base_origin: Option<Origin>,
}

impl Model {
    /// Whether there is a memory plan.
    #[must_use]
    pub fn takes_memory(&self) -> bool {
        self.language_model().is_some() || self.images().is_some()
    }

    /// The network as a classifier of images, if it is one.
    #[must_use]
    pub fn images(&self) -> Option<&ConvNextV2Config> {
        self.checkpoint.architecture.images()
    }

    /// The weights that a request lets move: of the tensors whose names it chooses, those of its components.
    ///
    /// # Errors
    /// When an expression is malformed, there is no such component, or nothing is left.
    pub fn moving(&self, request: &CostRequest) -> Result<Moving, Error> {
        let (include, exclude) = (request.cost.parameters.as_deref(), request.cost.exclude.as_deref());
        let fixed = &self.checkpoint.fixed;
        let component = self.chosen(&request.cost.component)?;
        Moving::matching_but(self.checkpoint.parameters.clone(), include, exclude, fixed, component.as_ref()).map_err(|error| {
            let settings = match (&error, include, exclude) {
                (SelectionError::Apart { .. }, ..) => "`component`",
                (_, Some(_), Some(_)) => "`parameters` and `exclude`",
                (_, Some(_), None) => "`parameters`",
                _ => "`exclude`",
            };
            Error::usage(format!("{settings}: {error}"))
        })
    }

    /// The weights of some components; none if none are named.
    fn chosen(&self, names: &ComponentNames) -> Result<Option<Chosen>, Error> {
        if names.is_empty() {
            return Ok(None);
        }
        let components = Components::of(self.checkpoint.architecture.as_ref());
        components.chosen(names.given()).map(Some).map_err(|error| Error::usage(format!("`component`: {error}")))
    }

    /// Resolves a name: trains the built-in network on first use, loads a folder or file, or asks the hub. A path that exists is never taken for
    /// a name on the hub.
    ///
    /// # Errors
    /// When there is no such model, or it cannot be read.
    pub fn resolve(text: &str, session: &Session) -> Result<Self, Error> {
        if let Some(builtin) = Builtin::of(text) {
            let checkpoint = digits::builtin(builtin, session)?;
            return Ok(Self { name: text.to_owned(), builtin: Some(builtin), checkpoint, origin: None, base_origin: None });
        }
        let path = Path::new(text);
        if path.exists() {
            return Self::load(path_name(path), path, None, session);
        }
        let Some(id) = hub::model_id(text) else {
            let is_near = |builtin: &Builtin| builtin.name().starts_with(text) || builtin.name().eq_ignore_ascii_case(text);
            if let Some(near) = Builtin::ALL.into_iter().find(is_near) {
                return Err(Error::usage(format!("there is no model '{text}': did you mean '{}'?", near.name())));
            }
            return Err(Error::usage(format!(
                "there is no model '{text}': expected 'digits', 'digits-mlp', an existing checkpoint folder or .gguf file, or a model of the hub as owner/name or owner/name@revision"
            )));
        };
        let (folder, origin) = hub::model(text, &id, session)?;
        Self::load(hub::short_name(text), &folder, Some(origin), session)
    }

    /// Loads a folder or file; an adapter with its base, from wherever that is.
    fn load(name: String, path: &Path, origin: Option<Origin>, session: &Session) -> Result<Self, Error> {
        // Whole weights that are published beside an adapter have it merged already; on this machine somebody may have put the base there.
        let is_whole = origin.is_some() && TensorStore::is_in(path);
        let (checkpoint, base_origin) = match if is_whole { None } else { Adapter::find(path)? } {
            None => (Checkpoint::load_whole(path)?, None),
            Some(adapter) => adapted(&adapter, session)?,
        };
        checkpoint.notes.iter().for_each(|note| session.note(note));
        Ok(Self { name, builtin: None, checkpoint, origin, base_origin })
    }

    /// The moments of Adam that the model's training left: those of its folder, or what the hub has beside its weights.
    ///
    /// # Errors
    /// When they are there but cannot be read, or cannot be fetched.
    pub fn moments(&self, session: &Session) -> Result<Option<Moments>, Error> {
        let own = self.checkpoint.moments()?;
        match &self.origin {
            Some(origin) if own.is_none() && self.checkpoint.base.is_none() && hub::optimizer(origin, session)? => {
                Ok(self.checkpoint.moments()?)
            }
            _ => Ok(own),
        }
    }

    /// The network as a language model, if it is one.
    #[must_use]
    pub fn language_model(&self) -> Option<&LanguageModel> {
        self.checkpoint.architecture.language_model()
    }

    /// The standard deviation of the Gaussian prior of the moving weights.
    ///
    /// # Errors
    /// When the choice has no value for this model.
    pub fn sigma(&self, moving: &Moving, choice: Sigma) -> Result<ChosenSigma, Error> {
        match choice {
            Sigma::Value(sigma) => Ok(ChosenSigma { sigma, choice: "given" }),
            Sigma::Rms => {
                let which = if moving.is_whole() { "all weights" } else { "all moving weights" };
                rms(moving.sum_of_squares(), moving.dimension(), which)
            }
            Sigma::WeightDecay => {
                let sigma = self.checkpoint.training.as_ref().and_then(TrainingRecord::weight_decay_sigma);
                sigma.map(|sigma| ChosenSigma { sigma, choice: "weight-decay" }).ok_or_else(|| {
                    Error::failed(format!(
                        "the checkpoint {} does not say with which l2 penalty it was trained, so `sigma=weight-decay` has no value: give a number or `sigma=rms`",
                        self.checkpoint.folder.display()
                    ))
                })
            }
        }
    }

    /// How the weights are stored in their files.
    #[must_use]
    pub fn stored(&self) -> Vec<String> {
        self.checkpoint.elements.iter().map(|element| element.name()).collect()
    }

    /// The files of the weights.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.checkpoint.files
    }

    /// What identifies the model in a manifest. Where it was found and how it is stored is not part of it: the hash says it all.
    #[must_use]
    pub fn record(&self) -> Value {
        json!({
            "name": self.name,
            "model_type": self.checkpoint.architecture.model_type(),
            "settings": self.checkpoint.architecture.settings(),
            "weights_sha256": self.checkpoint.parameters.hash(),
        })
    }

    /// Where the model was found and how it is stored, for a manifest's notes.
    #[must_use]
    pub fn provenance(&self) -> Value {
        let mut found = json!({ "folder": text_of(&self.checkpoint.folder), "hub": self.origin, "stored_as": self.stored() });
        if let Some(base) = &self.checkpoint.base {
            found["base"] = json!({ "folder": text_of(base), "hub": self.base_origin });
        }
        found
    }
}

/// An adapter merged into its base.
fn adapted(adapter: &Adapter, session: &Session) -> Result<(Checkpoint, Option<Origin>), Error> {
    match adapter.base() {
        Base::Here(base) => Ok((Checkpoint::load_adapted(adapter, &base)?, None)),
        Base::Named(name) => {
            let Some(id) = hub::model_id(&name) else { return Err(adapter.without_base(None).into()) };
            let (folder, origin) = hub::base(&id, session).map_err(|error| match error {
                HubError::Interrupted => Error::Interrupted,
                other => adapter.without_base(Some(other.to_string())).into(),
            })?;
            Ok((Checkpoint::load_adapted(adapter, &folder)?, Some(origin)))
        }
        Base::Unknown => Err(adapter.without_base(None).into()),
    }
}

/// A path as text for a record; what is not UTF-8 in it is replaced.
#[must_use]
pub fn text_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The last part of a path, without the extension of a file.
fn path_name(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = if path.is_file() { path.file_stem() } else { path.file_name() };
    name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}
