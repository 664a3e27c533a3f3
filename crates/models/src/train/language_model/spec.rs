//! What decides the training of a language model, and the network that it decides.

use std::path::PathBuf;

use basin_volume_data::text::DEFAULT_TEXT_KEY;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::{TrainError, check_numbers, setting};
use crate::parameters::{ParameterLayout, draw_weights};

/// What every head rotates of its features: Pythia's fraction.
const ROTARY_FRACTION: f64 = 0.25;

/// Where the text comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextSource {
    /// File (`.txt`, `.jsonl`, `.csv`, `.parquet`) or folder of those.
    pub path: PathBuf,
    /// Field or column of the text.
    pub text_key: String,
}

impl TextSource {
    /// A source whose field, if it has fields, is called `text`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), text_key: DEFAULT_TEXT_KEY.to_owned() }
    }
}

/// How long to train.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Duration {
    /// Optimizer steps.
    Steps(usize),
    /// Passes over the training sequences.
    Epochs(usize),
}

/// Everything that decides the training of a language model but the text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LanguageModelSpec {
    /// Width of the states between layers.
    pub hidden_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Attention heads; they divide the hidden size.
    pub heads: usize,
    /// Words of the tokenizer; a short text may give fewer.
    pub vocab_size: usize,
    /// Tokens of a sequence, and positions of the model.
    pub max_seq_len: usize,
    /// Sequences per step.
    pub batch_size: usize,
    /// How long to train.
    pub duration: Duration,
    /// Largest learning rate.
    pub learning_rate: f64,
    /// Steps of the straight rise to it; a cosine to zero follows.
    pub warmup_steps: usize,
    /// Decoupled weight decay of AdamW, for matrices only: biases and norms have none.
    pub weight_decay: f64,
    /// Decay rates of Adam's two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Gradients longer than this are cut to it.
    pub gradient_clip: f64,
    /// Share of the sequences that is held out; at least one is.
    pub held_out: f64,
    /// Seed of the initial weights, the split and the order of the batches.
    pub seed: u64,
    /// Also save a `step-<N>` checkpoint at the start and after 1, 2, 4, 8, ... steps.
    pub save_steps: bool,
}

impl Default for LanguageModelSpec {
    /// About a million weights (1,055,488 with the full vocabulary).
    fn default() -> Self {
        Self {
            hidden_size: 128,
            layers: 4,
            heads: 4,
            vocab_size: 1024,
            max_seq_len: 128,
            batch_size: 16,
            duration: Duration::Steps(600),
            learning_rate: 3e-3,
            warmup_steps: 100,
            weight_decay: 0.1,
            betas: [0.9, 0.95],
            epsilon: 1e-8,
            gradient_clip: 1.0,
            held_out: 0.02,
            seed: 0,
            save_steps: true,
        }
    }
}

impl LanguageModelSpec {
    /// Refuses settings that cannot be meant.
    ///
    /// # Errors
    /// Names the first field out of range.
    pub fn check(&self) -> Result<(), TrainError> {
        let steps = match self.duration {
            Duration::Steps(steps) => ("steps", steps),
            Duration::Epochs(epochs) => ("epochs", epochs),
        };
        let sizes =
            [("hidden_size", self.hidden_size), ("layers", self.layers), ("heads", self.heads), ("batch_size", self.batch_size), steps];
        for (name, size) in sizes {
            if size == 0 {
                return setting(name, 0, "at least 1");
            }
        }
        if self.max_seq_len < 2 {
            return setting("max_seq_len", self.max_seq_len, "at least 2");
        }
        if !self.hidden_size.is_multiple_of(self.heads) {
            return setting("heads", self.heads, "a divisor of the hidden size");
        }
        if self.hidden_size / self.heads < 8 {
            return setting("heads", self.heads, "few enough that every head has 8 features or more, so that 2 of them can rotate");
        }
        if !(self.held_out > 0.0 && self.held_out < 1.0) {
            return setting("held_out", self.held_out, "a share above 0 and below 1");
        }
        let numbers = [
            ("learning_rate", self.learning_rate, true),
            ("weight_decay", self.weight_decay, false),
            ("epsilon", self.epsilon, true),
            ("gradient_clip", self.gradient_clip, true),
        ];
        check_numbers(&numbers, self.betas)
    }

    /// The `config.json` of the network, but for what the checkpoint adds: all fields of `transformers`' `GPTNeoXConfig` that it needs.
    pub(super) fn config(&self, vocabulary: usize) -> Value {
        json!({
            "architectures": ["GPTNeoXForCausalLM"],
            "attention_bias": true,
            "attention_dropout": 0.0,
            "bos_token_id": 0,
            "classifier_dropout": 0.1,
            "eos_token_id": 0,
            "hidden_act": "gelu",
            "hidden_dropout": 0.0,
            "hidden_size": self.hidden_size,
            "initializer_range": self.deviation(),
            "intermediate_size": 4 * self.hidden_size,
            "layer_norm_eps": 1e-5,
            "max_position_embeddings": self.max_seq_len,
            "model_type": "gpt_neox",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "rope_scaling": null,
            "rotary_emb_base": 10000,
            "rotary_pct": ROTARY_FRACTION,
            "tie_word_embeddings": false,
            "torch_dtype": "float32",
            "use_cache": true,
            "use_parallel_residual": true,
            "vocab_size": vocabulary,
        })
    }

    /// Standard deviation of the initial matrices, `sqrt(2 / (5 hidden))`: Pythia's ("small init").
    fn deviation(&self) -> f64 {
        (2.0 / (5.0 * self.hidden_size as f64)).sqrt()
    }

    /// Initial weights: matrices from `N(0, 2/(5 hidden))`, those that write to the states from `N(0, 4/(layers^2 hidden))` as Pythia's
    /// ("Wang init"), biases 0, norms 1. A pure function of the seed.
    pub(super) fn initial_weights(&self, layout: &ParameterLayout) -> Vec<f32> {
        let last = 2.0 / (self.layers as f64 * (self.hidden_size as f64).sqrt());
        let mut weights = vec![0.0f32; layout.dimension()];
        for (index, parameter) in layout.parameters().iter().enumerate() {
            let values = &mut weights[parameter.range()];
            if parameter.shape.len() == 1 {
                values.fill(if parameter.name.ends_with(".weight") { 1.0 } else { 0.0 });
                continue;
            }
            let writes = parameter.name.ends_with("attention.dense.weight") || parameter.name.ends_with("dense_4h_to_h.weight");
            let deviation = if writes { last } else { self.deviation() };
            draw_weights(values, self.seed, index, deviation);
        }
        weights
    }
}
