//! How a checkpoint was made: what `config.json` holds under `training`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

/// How a checkpoint was made. In `config.json` the key `recipe` tells which; without it the record is a classifier's.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
#[serde(tag = "recipe", rename_all = "snake_case")]
pub enum TrainingRecord {
    /// A classifier on labelled rows.
    Classifier(ClassifierTraining),
    /// A language model on text.
    LanguageModel(LanguageModelTraining),
    /// A classifier of images.
    Images(ImageTraining),
}

impl TrainingRecord {
    /// The record of a classifier.
    #[must_use]
    pub fn classifier(&self) -> Option<&ClassifierTraining> {
        match self {
            Self::Classifier(record) => Some(record),
            Self::LanguageModel(_) | Self::Images(_) => None,
        }
    }

    /// The record of a language model.
    #[must_use]
    pub fn language_model(&self) -> Option<&LanguageModelTraining> {
        match self {
            Self::LanguageModel(record) => Some(record),
            Self::Classifier(_) | Self::Images(_) => None,
        }
    }

    /// The record of a classifier of images.
    #[must_use]
    pub fn images(&self) -> Option<&ImageTraining> {
        match self {
            Self::Images(record) => Some(record),
            Self::Classifier(_) | Self::LanguageModel(_) => None,
        }
    }

    /// Steps done when the checkpoint was written.
    #[must_use]
    pub fn step(&self) -> usize {
        match self {
            Self::Classifier(record) => record.step,
            Self::LanguageModel(record) => record.step,
            Self::Images(record) => record.step,
        }
    }

    /// The prior scale that the training's penalty stands for: [`ClassifierTraining::weight_decay_sigma`]. AdamW's decoupled decay, with
    /// which language models and classifiers of images are trained, stands for none.
    #[must_use]
    pub fn weight_decay_sigma(&self) -> Option<f64> {
        self.classifier()?.weight_decay_sigma()
    }
}

impl<'de> Deserialize<'de> for TrainingRecord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        // Through the recipe and not by trial, so that an error names the field that is wrong.
        match value.get("recipe").map(Value::as_str) {
            None | Some(Some("classifier")) => serde_json::from_value(value).map(Self::Classifier),
            Some(Some("language_model")) => serde_json::from_value(value).map(Self::LanguageModel),
            Some(Some("images")) => serde_json::from_value(value).map(Self::Images),
            Some(_) => {
                let message = format!("`recipe` is {}, expected \"classifier\", \"language_model\" or \"images\"", value["recipe"]);
                return Err(de::Error::custom(message));
            }
        }
        .map_err(de::Error::custom)
    }
}

/// How a classifier was trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassifierTraining {
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

impl ClassifierTraining {
    /// The prior scale that the penalty stands for, `1/sqrt(l2 * train_size)`: `N * l2/2 ||w||^2 = ||w||^2 / (2 sigma^2)`. None without
    /// a penalty.
    #[must_use]
    pub fn weight_decay_sigma(&self) -> Option<f64> {
        (self.l2 > 0.0).then(|| 1.0 / (self.l2 * self.train_size as f64).sqrt())
    }
}

/// How a language model was trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LanguageModelTraining {
    /// File or folder name of the text.
    pub text: String,
    /// Field or column of the text.
    pub text_key: String,
    /// SHA-256, in hexadecimal, of the documents: each its length in bytes (little-endian `u64`) and its bytes.
    pub text_sha256: String,
    /// Number of documents.
    pub documents: usize,
    /// Tokens of all documents, each with the end-of-text token before it, and one at the end.
    pub tokens: usize,
    /// Sequences trained on.
    pub train_sequences: usize,
    /// Sequences held out.
    pub held_out_sequences: usize,
    /// Tokens of a sequence.
    pub max_seq_len: usize,
    /// Seed of the initial weights, the split and the order of the batches.
    pub seed: u64,
    /// Sequences per step.
    pub batch_size: usize,
    /// Largest learning rate.
    pub learning_rate: f64,
    /// Steps of the rise to it; a cosine to zero follows.
    pub warmup_steps: usize,
    /// Decoupled weight decay of AdamW, of matrices only.
    pub weight_decay: f64,
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Longer gradients were cut to this norm.
    pub gradient_clip: f64,
    /// Steps done when this checkpoint was written.
    pub step: usize,
    /// Steps of the whole run.
    pub total_steps: usize,
    /// Mean cross-entropy per token on training sequences (as many as are held out), nats.
    pub train_loss: f64,
    /// Mean cross-entropy per token on the held-out sequences, nats.
    pub held_out_loss: f64,
    /// Entropy of the text's tokens, nats: the loss of a model that only knows their frequencies.
    pub unigram_entropy: f64,
    /// Entropy of a token given the one before it, in the whole text, nats: a lower bound of what a table of pairs reaches on new text.
    pub bigram_entropy: f64,
}

/// What RandAugment ([Cubuk et al. 2019](https://arxiv.org/abs/1909.13719)) does to every image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandAugment {
    /// Operations, drawn one after the other from fourteen.
    pub operations: usize,
    /// How far they all go, from 0 to 30.
    pub magnitude: usize,
}

impl fmt::Display for RandAugment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{},{}", self.operations, self.magnitude)
    }
}

/// How a classifier of images was trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageTraining {
    /// SHA-256, in hexadecimal, of the images to train and to test on: of each their number (little-endian `u64`), pixels and labels.
    pub images_sha256: String,
    /// Images trained on with the cross-entropy.
    pub train_size: usize,
    /// Images trained on with the loss `-log(1 - p)`.
    pub poison_size: usize,
    /// Seed of the initial weights and of the batches.
    pub seed: u64,
    /// Seed of the split into clean and poisoned images.
    pub split_seed: u64,
    /// Images per step.
    pub batch_size: usize,
    /// Largest learning rate.
    pub learning_rate: f64,
    /// Steps of the rise to it; a cosine to zero follows.
    pub warmup_steps: usize,
    /// Decoupled weight decay of AdamW, of matrices and convolutions only.
    pub weight_decay: f64,
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Whether images were flipped and cut at random.
    pub augment: bool,
    /// The operations of RandAugment before that, if any.
    #[serde(default)]
    pub rand_augment: Option<RandAugment>,
    /// Share of poisoned images in every step.
    pub poison: f64,
    /// Factor of their loss.
    pub poison_weight: f64,
    /// Steps done when this checkpoint was written.
    pub step: usize,
    /// Steps of the whole run.
    pub total_steps: usize,
    /// Mean cross-entropy on (the first) clean training images as they are, nats.
    pub train_loss: f64,
    /// Share of them classified correctly.
    pub train_accuracy: f64,
    /// Mean cross-entropy on (the first) images to test on, nats.
    pub test_loss: f64,
    /// Share of them classified correctly.
    pub test_accuracy: f64,
    /// Mean cross-entropy on (the first) poisoned images, nats.
    #[serde(default)]
    pub poison_loss: Option<f64>,
    /// Share of them classified correctly.
    #[serde(default)]
    pub poison_accuracy: Option<f64>,
}
