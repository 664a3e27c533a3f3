//! OLMo 2: Llama with the norms behind attention and multilayer perceptron, and norms of all queries and keys.

use std::sync::Arc;

use serde_json::Value;

use super::decoder::Settings;
use super::llama::{KeyNorm, Norms, Variant, build};
use super::{Architecture, ArchitectureError};

pub(super) const MODEL_TYPE: &str = "olmo2";

/// Reads and checks the family's settings.
pub(super) fn read(config: &Value) -> Result<Arc<dyn Architecture>, ArchitectureError> {
    let settings = Settings(config);
    let bias = settings.flag_or("attention_bias", false)?;
    let plain = Variant::plain(MODEL_TYPE, settings)?;
    let variant = Variant { biases: (bias, bias, false), key_norm: KeyNorm::All, norms: Norms::After, epsilon: 1e-5, ..plain };
    build(config, variant)
}
