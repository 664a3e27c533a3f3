//! Training, reproducible from one seed: classifiers on labelled rows, ConvNeXt V2 on images, language models on text.
//!
//! The same specification gives the same bits on any number of threads: threads only share out whole entries of a product or blocks of
//! fixed size, and everything else here is sequential.

mod adam;
mod classifier;
mod convnext;
mod driver;
mod language_model;
mod schedule;

use std::path::{Path, PathBuf};

use basin_volume_data::DataError;
use basin_volume_data::text::TextError;
use basin_volume_data::tokenizer::TokenizerError;

pub use classifier::{TrainSpec, train, train_digits};
pub use convnext::{ConvNextSpec, train_convnext};
pub use language_model::{Duration, LanguageModelSpec, TextSource, train_language_model};

pub use crate::checkpoint::RandAugment;

use crate::arch::{ArchitectureError, GradientError};
use crate::checkpoint::CheckpointError;

/// Why a training run ended without a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A setting is out of range.
    #[error("the training setting `{name}` is {value}: expected {expected}")]
    Setting {
        /// The field of [`TrainSpec`], [`ConvNextSpec`] or [`LanguageModelSpec`].
        name: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// The network's settings are impossible.
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
    /// The data cannot be split as asked.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The data have no labels, or train and test rows differ in width.
    #[error("the dataset {dataset} cannot be trained on: {problem}")]
    Unusable {
        /// Name of the dataset.
        dataset: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The text cannot be read.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The tokenizer cannot be trained or used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The text has fewer sequences than a batch needs.
    #[error(
        "the text {} has {tokens} tokens, which is {found} sequences of {length}: {needed} are needed for a batch and one held-out \
         sequence, so give more text or lower the sequence length or the batch size",
        path.display()
    )]
    TooLittleText {
        /// File or folder of the text.
        path: PathBuf,
        /// Tokens in it.
        tokens: usize,
        /// Sequences it gives.
        found: usize,
        /// Length of a sequence.
        length: usize,
        /// Sequences needed.
        needed: usize,
    },
    /// A loss or gradient of a language model failed.
    #[error(transparent)]
    Gradient(#[from] GradientError),
    /// The observer asked to stop. Nothing was left behind.
    #[error("training was interrupted at step {step} of {total}; nothing was saved")]
    Interrupted {
        /// Steps done.
        step: usize,
        /// Steps of the whole run.
        total: usize,
    },
    /// The observer asked to stop, and the run can be taken up again.
    #[error("training was interrupted at step {step} of {total}: the same command goes on from there, in {}", path.display())]
    Stopped {
        /// Steps done.
        step: usize,
        /// Steps of the whole run.
        total: usize,
        /// The folder.
        path: PathBuf,
    },
    /// A folder cannot be taken up.
    #[error("the training in {} cannot be taken up: {problem}; choose another folder, or remove it first", path.display())]
    Resume {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it, or different.
        problem: String,
    },
    /// The loss is no longer a number.
    #[error("the loss became {loss} at step {step} of {total}: use a smaller learning rate")]
    Diverged {
        /// The first bad step.
        step: usize,
        /// Steps of the whole run.
        total: usize,
        /// The loss there.
        loss: f64,
    },
    /// The checkpoint could not be written or read back.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// Watches a training run and may stop it.
pub trait Observer {
    /// Called after every step with the mean cross-entropy of its batch (nats, before the update).
    fn step(&mut self, step: usize, total: usize, loss: f64) {
        let _ = (step, total, loss);
    }

    /// Called when something else than steps begins: reading, training a tokenizer.
    fn phase(&mut self, name: &str) {
        let _ = name;
    }

    /// Asked before every step; true ends the run with [`TrainError::Interrupted`].
    fn interrupted(&self) -> bool {
        false
    }
}

/// An observer that neither looks nor stops.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {}

fn io(path: &Path, source: std::io::Error) -> TrainError {
    CheckpointError::Io { path: PathBuf::from(path), source }.into()
}

fn setting<T>(name: &'static str, value: impl ToString, expected: &'static str) -> Result<T, TrainError> {
    Err(TrainError::Setting { name, value: value.to_string(), expected })
}

/// Refuses numbers that cannot be meant: name, value and whether it must be above zero.
fn check_numbers(numbers: &[(&'static str, f64, bool)], betas: [f64; 2]) -> Result<(), TrainError> {
    for &(name, value, positive) in numbers {
        if !value.is_finite() || value < 0.0 || (positive && value == 0.0) {
            return setting(name, value, if positive { "a finite number above 0" } else { "a finite number, 0 or more" });
        }
    }
    match betas.iter().find(|beta| !(0.0..1.0).contains(*beta)) {
        Some(beta) => setting("betas", beta, "0 or more and below 1"),
        None => Ok(()),
    }
}
