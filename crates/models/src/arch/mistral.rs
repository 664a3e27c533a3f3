//! Mistral: Llama with a sliding window in every layer.

use std::sync::Arc;

use serde_json::Value;

use super::decoder::Settings;
use super::llama::{Variant, build};
use super::{Architecture, ArchitectureError};

pub(super) const MODEL_TYPE: &str = "mistral";

/// Reads and checks the family's settings.
pub(super) fn read(config: &Value) -> Result<Arc<dyn Architecture>, ArchitectureError> {
    let settings = Settings(config);
    // Null means no window; a missing key means that of the first model.
    let window = settings.nullable_size("sliding_window", 4096)?;
    let windows = settings.windows(|_| window)?;
    let key_value_heads = settings.nullable_size("num_key_value_heads", 8)?;
    build(config, Variant { windows, key_value_heads, positions: 131_072, ..Variant::plain(MODEL_TYPE, settings)? })
}
