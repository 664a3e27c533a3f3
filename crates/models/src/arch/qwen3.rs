//! Qwen 3: Llama with norms of every head's query and key.

use std::sync::Arc;

use serde_json::Value;

use super::decoder::Settings;
use super::llama::{KeyNorm, Variant, build};
use super::{Architecture, ArchitectureError, qwen2};

pub(super) const MODEL_TYPE: &str = "qwen3";

/// Reads and checks the family's settings.
pub(super) fn read(config: &Value) -> Result<Arc<dyn Architecture>, ArchitectureError> {
    let settings = Settings(config);
    let bias = settings.flag_or("attention_bias", false)?;
    let head_width = Some(settings.size_or("head_dim", 128)?);
    let shared = qwen2::shared(MODEL_TYPE, settings)?;
    build(config, Variant { biases: (bias, bias, false), key_norm: KeyNorm::Heads, head_width, ..shared })
}
