//! Adapters of PEFT: LoRA's `W + scale B A`, merged into the weights of a base model.
//!
//! An adapter is a folder with `adapter_config.json` and `adapter_model.safetensors` (or `.bin`), as `save_pretrained` of a `PeftModel` writes
//! them. The base is in the same folder, or where `base_model_name_or_path` says. What is merged is what `merge_and_unload` makes, in `f32`
//! whatever the base is stored as. Adapters of other types, and options that change more than a product that is added, are refused by
//! name.

mod error;
mod merge;
mod parts;
mod settings;

use std::path::{Path, PathBuf};

pub use error::AdapterError;
use parts::Parts;
use settings::Settings;

use super::bind::{Bound, lay_out};
use super::file::{files, first_named, has_extension};
use super::store::TensorStore;
use super::{BindOptions, Center};
use crate::arch::Architecture;
use crate::checkpoint::CONFIG;

/// Name of the file of the settings.
pub(super) const SETTINGS: &str = "adapter_config.json";

/// Names of the file of the tensors, in order of preference.
pub(super) const FILES: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

/// An adapter, of which only the settings are read yet.
#[derive(Debug, Clone)]
pub struct Adapter {
    folder: PathBuf,
    tensors: PathBuf,
    settings: Settings,
}

/// Where the base model of an adapter is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// In a folder or file of this machine.
    Here(PathBuf),
    /// Nothing here has this name: it may be the id of a model of the hub, `owner/name` or `owner/name@revision`.
    Named(String),
    /// The adapter does not say.
    Unknown,
}

/// Weights with an adapter merged into them.
pub(crate) struct Merged {
    pub(crate) architecture: std::sync::Arc<dyn Architecture>,
    pub(crate) center: Center,
}

/// How a network is made: of its settings, with its head untied from its embedding if that is asked for.
pub(crate) type Build<'a> = &'a mut dyn FnMut(bool) -> Result<std::sync::Arc<dyn Architecture>, AdapterError>;

impl Adapter {
    /// The adapter in a folder; None when there is none.
    ///
    /// # Errors
    /// When one of its two files is missing; when its settings cannot be read, or are of a kind that cannot be merged.
    pub fn find(folder: &Path) -> Result<Option<Self>, AdapterError> {
        if !folder.is_dir() {
            return Ok(None);
        }
        let files = files(folder)?;
        let missing = |present: &str, missing: &'static str| {
            Err(AdapterError::Incomplete { folder: folder.to_owned(), present: present.to_owned(), missing })
        };
        match (first_named(&files, &[SETTINGS]), first_named(&files, &FILES)) {
            (Some(settings), Some(tensors)) => {
                let settings = Settings::read(settings)?;
                Ok(Some(Self { folder: folder.to_owned(), tensors: tensors.clone(), settings }))
            }
            (Some(_), None) => missing(SETTINGS, "adapter_model.safetensors"),
            (None, Some(_)) if !TensorStore::is_in(folder) => missing("adapter_model", SETTINGS),
            (None, _) => Ok(None),
        }
    }

    /// The folder of the adapter.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether a whole model stands beside the adapter. Tensors alone may be anything.
    fn has_model_beside(&self) -> bool {
        let is_gguf = |files: Vec<PathBuf>| files.iter().any(|path| has_extension(path, &["gguf"]));
        (self.folder.join(CONFIG).is_file() && TensorStore::is_in(&self.folder)) || files(&self.folder).is_ok_and(is_gguf)
    }

    /// Where the base is: beside the adapter, or where its settings say.
    #[must_use]
    pub fn base(&self) -> Base {
        if self.has_model_beside() {
            return Base::Here(self.folder.clone());
        }
        let Some(name) = self.settings.base() else { return Base::Unknown };
        // As training said it, or beside the adapter, where a folder that was moved as a whole has it.
        let own = self.folder.canonicalize().ok();
        let places = [PathBuf::from(name), self.folder.join(name)];
        match places.into_iter().find(|place| place.exists() && place.canonicalize().ok() != own) {
            Some(place) => Base::Here(place),
            None => Base::Named(self.settings.revision().map_or(name.to_owned(), |revision| format!("{name}@{revision}"))),
        }
    }

    /// What to say where the base cannot be had.
    #[must_use]
    pub fn without_base(&self, problem: Option<String>) -> AdapterError {
        let base = self.settings.base().map(super::printable);
        AdapterError::NoBase { folder: self.folder.clone(), base, problem }
    }

    /// The weights of `store` with the adapter merged into them.
    ///
    /// PEFT changes head and embedding each by itself, also where the base ties them: then the network that is returned has them untied.
    pub(crate) fn merge(&self, build: Build, store: &TensorStore) -> Result<Merged, AdapterError> {
        let options = BindOptions::default();
        let mut parts = Parts::read(&self.tensors)?;
        let adds_nothing = parts.adds_nothing();
        let mut architecture = build(false)?;
        let mut notes =
            vec![format!("{} is a LoRA adapter: it is merged into the weights {}", self.folder.display(), store.path().display())];
        let is_tied = !architecture.layout().parameters().iter().any(|parameter| options.is_head(&parameter.name));
        if is_tied && parts.unties(&options, self.settings.keeps_ties(), &self.tensors)? {
            architecture = build(true)?;
            notes.push(format!("{} changes the embedding and the head apart: they are no longer tied", self.folder.display()));
        }
        let layout = architecture.layout();
        let options = BindOptions { heads_from_embeddings: true, ..options };
        let bound = lay_out(store, &layout, &str::to_owned, &options)?;
        let tensors = merge::merged(&parts, &self.settings, &self.tensors, architecture.as_ref(), &options, bound.tensors)?;
        notes.extend(bound.notes);
        if adds_nothing {
            notes.push(format!("{}: all products of the adapter are zero, so the weights are those of the base", self.folder.display()));
        }
        let center = Center::new(layout, Bound { tensors, notes })?;
        Ok(Merged { architecture, center })
    }
}

#[cfg(test)]
mod tests;
