//! What can be wrong with an adapter.

use std::path::PathBuf;

use crate::arch::ArchitectureError;
use crate::weights::WeightsError;

/// What always helps.
const IN_PYTHON: &str = "merge it in Python (`PeftModel.merge_and_unload`, then `save_pretrained`) and give that folder";

/// Why an adapter could not be merged. Every message is one sentence that names the file and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// One of its files is missing.
    #[error("{} has {present}, but no {missing}: an adapter needs both, as `save_pretrained` writes them", folder.display())]
    Incomplete {
        /// The folder.
        folder: PathBuf,
        /// The file that is there.
        present: String,
        /// The one that is not.
        missing: &'static str,
    },
    /// The settings cannot be read.
    #[error("the adapter's settings {} {problem}", path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        problem: String,
    },
    /// The adapter is more than products that are added to the weights.
    #[error("the adapter {} cannot be merged here, because {problem}: {IN_PYTHON}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it is or does.
        problem: String,
    },
    /// Its tensors are not those of an adapter of the base.
    #[error("the adapter {} does not fit its base model: {problem}", path.display())]
    Mismatch {
        /// The file of the tensors.
        path: PathBuf,
        /// What differs.
        problem: String,
    },
    /// The base model is not here.
    #[error(
        "{} is a LoRA adapter of {}{}: set `base_model_name_or_path` in its adapter_config.json to the folder of the base model, put \
         config.json and weights of the base beside it, or {IN_PYTHON}",
        folder.display(),
        base.as_deref().map_or("a base model that it does not name".to_owned(), |base| format!("the base model `{base}`")),
        problem.as_ref().map_or_else(
            || if base.is_some() { ", which is not here".to_owned() } else { String::new() },
            |problem| format!(", which cannot be had ({problem})")
        ),
    )]
    NoBase {
        /// The adapter's folder.
        folder: PathBuf,
        /// What it calls its base.
        base: Option<String>,
        /// Why that could not be had.
        problem: Option<String>,
    },
    /// The merged weights would not fit the memory.
    #[error("merging the adapter {} takes {needed} bytes of memory, and {free} are free: {IN_PYTHON}", path.display())]
    Memory {
        /// The file of the tensors.
        path: PathBuf,
        /// Bytes of the merged tensors.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The base's configuration is not usable.
    #[error("the configuration {} is not usable: {source}", path.display())]
    Architecture {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ArchitectureError,
    },
    /// A file of tensors, the adapter's or the base's, is not usable.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}
