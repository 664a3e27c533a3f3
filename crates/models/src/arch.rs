//! The networks, and the registry that finds them by the `model_type` of a checkpoint's `config.json`.
//!
//! A new architecture is one file here, one line in the `FAMILIES` table, and a golden fixture.

use std::fmt::Debug;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::parameters::ParameterLayout;

pub(crate) mod convnextv2;
pub(crate) mod decoder;
mod gemma2;
mod gemma3;
mod gpt2;
mod gpt_neox;
mod granite;
mod language_model;
mod llama;
mod mistral;
mod mlp;
mod olmo2;
mod olmo3;
mod opt;
mod phi;
mod phi3;
mod qwen2;
mod qwen3;
mod stablelm;

pub use convnextv2::ConvNextV2Config;
#[cfg(feature = "tensors")]
pub(crate) use language_model::fits;
pub use language_model::{GradientError, LanguageModel, TokenError};
pub(crate) use language_model::{GradientSpace, Rows, Sequences, Target, TokenBatch};
pub use mlp::{Activation, MlpConfig};

/// A network without its weights.
pub trait Architecture: Debug + Send + Sync {
    /// The family's name in `config.json`.
    fn model_type(&self) -> &'static str;

    /// Names, shapes and order of the parameters.
    fn layout(&self) -> ParameterLayout;

    /// The settings as written to `config.json`, without `model_type`.
    fn settings(&self) -> Map<String, Value>;

    /// The network by what it reads.
    fn network(&self) -> Network<'_>;

    /// The network as a language model, if it is one: its inputs are tokens.
    fn language_model(&self) -> Option<&LanguageModel> {
        match self.network() {
            Network::Tokens(model) => Some(model),
            _ => None,
        }
    }

    /// The network as a classifier of images, if it is one.
    fn images(&self) -> Option<&ConvNextV2Config> {
        match self.network() {
            Network::Images(network) => Some(network),
            _ => None,
        }
    }
}

/// The kinds of networks: costs, curvatures and memory are decided by the kind, not by the family.
#[derive(Debug, Clone, Copy)]
pub enum Network<'a> {
    /// A classifier of rows of numbers.
    Perceptron(&'a MlpConfig),
    /// A classifier of images.
    Images(&'a ConvNextV2Config),
    /// A causal language model.
    Tokens(&'a LanguageModel),
}

impl Network<'_> {
    /// Logits of one input in `f64`, of flat weights in the layout's order; none for an input of another width, and for what reads tokens.
    ///
    /// # Panics
    /// If there are other weights than the network's.
    #[must_use]
    pub fn logits_exact(&self, weights: &[f32], input: &[f32]) -> Option<Vec<f64>> {
        match self {
            Self::Perceptron(network) => (input.len() == network.inputs()).then(|| network.logits_exact(weights, input)),
            Self::Images(network) => (input.len() == network.features()).then(|| network.logits_exact(weights, input)),
            Self::Tokens(_) => None,
        }
    }
}

/// What is wrong with a model's settings: a phrase that names the key, the value and what is expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArchitectureError {
    /// `model_type` is missing or not a string.
    #[error("`model_type` is missing: expected one of {known}")]
    NoModelType {
        /// The families there are.
        known: String,
    },
    /// No such family.
    #[error("`model_type` is \"{model_type}\", which is not known: expected one of {known}")]
    UnknownModelType {
        /// The given name.
        model_type: String,
        /// The families there are.
        known: String,
    },
    /// A setting is missing or out of range.
    #[error("{0}")]
    Setting(String),
}

type Read = fn(&Value) -> Result<Arc<dyn Architecture>, ArchitectureError>;

/// One line per family: its `model_type` and how to read its settings.
const FAMILIES: &[(&str, Read)] = &[
    (mlp::MODEL_TYPE, mlp::read),
    (convnextv2::MODEL_TYPE, convnextv2::read),
    (gpt_neox::MODEL_TYPE, gpt_neox::read),
    (gpt2::MODEL_TYPE, gpt2::read),
    (llama::MODEL_TYPE, llama::read),
    (mistral::MODEL_TYPE, mistral::read),
    (qwen2::MODEL_TYPE, qwen2::read),
    (qwen3::MODEL_TYPE, qwen3::read),
    (phi::MODEL_TYPE, phi::read),
    (olmo2::MODEL_TYPE, olmo2::read),
    (gemma2::MODEL_TYPE, gemma2::read),
    (opt::MODEL_TYPE, opt::read),
    (gemma3::MODEL_TYPE, gemma3::read),
    (phi3::MODEL_TYPE, phi3::read),
    (stablelm::MODEL_TYPE, stablelm::read),
    (olmo3::MODEL_TYPE, olmo3::read),
    (granite::MODEL_TYPE, granite::read),
];

/// The `model_type`s that [`from_config`] reads.
pub fn known_model_types() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|(name, _)| *name)
}

/// The network that a `config.json` describes.
///
/// # Errors
/// When `model_type` is missing or unknown, or a setting of the family is missing or out of range.
pub fn from_config(config: &Value) -> Result<Arc<dyn Architecture>, ArchitectureError> {
    let known = || known_model_types().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    let model_type = config.get("model_type").and_then(Value::as_str).ok_or_else(|| ArchitectureError::NoModelType { known: known() })?;
    match FAMILIES.iter().find(|(name, _)| *name == model_type) {
        Some((_, read)) => read(config),
        None => Err(ArchitectureError::UnknownModelType { model_type: model_type.to_owned(), known: known() }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_come_back_through_the_registry() {
        let config = MlpConfig::new(64, 512, 5, 10).unwrap();
        let mut written = config.settings();
        written.insert("model_type".to_owned(), json!(config.model_type()));
        let read = from_config(&Value::Object(written)).unwrap();
        assert_eq!(read.layout(), config.layout());
        assert_eq!(read.settings(), config.settings());
    }

    #[test]
    fn wrong_configurations_are_named() {
        let cases = [
            (json!({}), "`model_type` is missing: expected one of \"mlp\""),
            (json!({"model_type": 3}), "`model_type` is missing"),
            (json!({"model_type": "gpt9"}), "\"gpt9\", which is not known: expected one of \"mlp\""),
            (json!({"model_type": "mlp"}), "widths"),
            (json!({"model_type": "mlp", "widths": [64], "activation": "gelu_tanh"}), "at least two"),
            (json!({"model_type": "mlp", "widths": [64, 0, 10], "activation": "gelu_tanh"}), "widths[1] is 0"),
            (json!({"model_type": "mlp", "widths": [64, 1], "activation": "gelu_tanh"}), "at least 2 classes"),
            (json!({"model_type": "mlp", "widths": [64, 10], "activation": "softplus"}), "softplus"),
            (json!({"model_type": "mlp", "widths": [64, -1], "activation": "gelu_tanh"}), "invalid value"),
            (json!({"model_type": "mlp", "widths": [1u64 << 40, 1u64 << 40], "activation": "gelu_tanh"}), "too many weights"),
        ];
        for (config, expected) in cases {
            let message = from_config(&config).unwrap_err().to_string();
            assert!(message.contains(expected), "`{message}` should contain `{expected}`");
        }
    }
}
