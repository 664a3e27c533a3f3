//! Granite (3 and later, without experts): Llama with factors of the embedding, the scores, what every layer adds, and the logits.

use std::sync::Arc;

use serde_json::Value;

use super::decoder::Settings;
use super::llama::{Variant, build};
use super::{Architecture, ArchitectureError};

pub(super) const MODEL_TYPE: &str = "granite";

/// Reads and checks the family's settings.
pub(super) fn read(config: &Value) -> Result<Arc<dyn Architecture>, ArchitectureError> {
    let settings = Settings(config);
    let attention = settings.flag_or("attention_bias", false)?;
    let factor = |key: &str| settings.number_or(key, 1.0).map(|factor| factor as f32);
    let variant = Variant {
        biases: (attention, attention, settings.flag_or("mlp_bias", false)?),
        embedding_scale: factor("embedding_multiplier")?,
        score_scale: Some(factor("attention_multiplier")?),
        branch_scale: factor("residual_multiplier")?,
        // The head has no bias, so its inputs can be divided in place of the logits.
        output_scale: (1.0 / settings.number_or("logits_scaling", 1.0)?) as f32,
        ..Variant::plain(MODEL_TYPE, settings)?
    };
    build(config, variant)
}
