//! Gemma 2: scaled embeddings, norms on both sides, soft limits of scores and logits, a window in every second layer.

use std::sync::Arc;

use serde_json::Value;

use super::decoder::Settings;
use super::llama::{Norms, Variant, build};
use super::{Architecture, ArchitectureError};
use crate::nn::NormKind;

pub(super) const MODEL_TYPE: &str = "gemma2";

/// Reads and checks the family's settings.
pub(super) fn read(config: &Value) -> Result<Arc<dyn Architecture>, ArchitectureError> {
    let settings = Settings(config);
    let bias = settings.flag_or("attention_bias", false)?;
    // Null means none; a missing key means that of the released models.
    let cap = |key: &str, default: f64| settings.nullable_number(key, default).map(|cap| cap.map(|cap| cap as f32));
    let window = settings.nullable_size("sliding_window", 4096)?;
    let variant = Variant {
        biases: (bias, bias, false),
        norms: Norms::Both,
        norm_kind: NormKind::RmsPlusOne,
        activation: ("hidden_activation", "gelu_pytorch_tanh"),
        tied: settings.flag_or("tie_word_embeddings", true)?,
        head_width: Some(settings.size_or("head_dim", 256)?),
        key_value_heads: settings.nullable_size("num_key_value_heads", 4)?,
        positions: 8192,
        embedding_scale: (settings.size("hidden_size")? as f32).sqrt(),
        score_scale: Some(1.0 / settings.number_or("query_pre_attn_scalar", 256.0)?.sqrt() as f32),
        score_cap: cap("attn_logit_softcapping", 50.0)?,
        logit_cap: cap("final_logit_softcapping", 30.0)?,
        windows: settings.windows(|layer| window.filter(|_| layer.is_multiple_of(2)))?,
        ..Variant::plain(MODEL_TYPE, settings)?
    };
    build(config, variant)
}
