//! Gemma 3 (text): Gemma 2 with norms of every head's query and key in place of the scores' limit, a layer without a window after every five
//! with one, and another rotary base for each of the two.

use std::sync::Arc;

use serde_json::Value;

use super::decoder::Settings;
use super::llama::{Bases, KeyNorm, Norms, Variant, build};
use super::{Architecture, ArchitectureError};
use crate::nn::NormKind;

pub(super) const MODEL_TYPE: &str = "gemma3_text";

/// Layers from one without a window to the next.
const PATTERN: usize = 6;

/// Reads and checks the family's settings.
pub(super) fn read(config: &Value) -> Result<Arc<dyn Architecture>, ArchitectureError> {
    let settings = Settings(config);
    let bias = settings.flag_or("attention_bias", false)?;
    // `transformers` has the key and does not use it.
    settings.expect("attn_logit_softcapping", &Value::Null)?;
    let window = settings.needed_window(4096)?;
    let pattern = settings.size_or("sliding_window_pattern", PATTERN)?;
    let variant = Variant {
        biases: (bias, bias, false),
        key_norm: KeyNorm::Heads,
        norms: Norms::Both,
        norm_kind: NormKind::RmsPlusOne,
        activation: ("hidden_activation", "gelu_pytorch_tanh"),
        tied: settings.flag_or("tie_word_embeddings", true)?,
        head_width: Some(settings.size_or("head_dim", 256)?),
        key_value_heads: settings.nullable_size("num_key_value_heads", 4)?,
        positions: 131_072,
        embedding_scale: (settings.size("hidden_size")? as f32).sqrt(),
        score_scale: Some(1.0 / settings.number_or("query_pre_attn_scalar", 256.0)?.sqrt() as f32),
        logit_cap: settings.optional_number("final_logit_softcapping")?.map(|cap| cap as f32),
        windows: settings.windows(|layer| Some(window).filter(|_| !(layer + 1).is_multiple_of(pattern)))?,
        bases: Bases::ByWindow { full: ("rope_theta", 1e6), sliding: ("rope_local_base_freq", 1e4) },
        ..Variant::plain(MODEL_TYPE, settings)?
    };
    build(config, variant)
}
