//! Qwen 2 and 2.5: Llama with biases of queries, keys and values.

use std::sync::Arc;

use serde_json::Value;

use super::decoder::Settings;
use super::llama::{Variant, build};
use super::{Architecture, ArchitectureError};

pub(super) const MODEL_TYPE: &str = "qwen2";

/// Reads and checks the family's settings.
pub(super) fn read(config: &Value) -> Result<Arc<dyn Architecture>, ArchitectureError> {
    let settings = Settings(config);
    build(config, Variant { biases: (true, false, false), ..shared(MODEL_TYPE, settings)? })
}

/// What Qwen 2 and 3 have in common.
pub(super) fn shared(model_type: &'static str, settings: Settings<'_>) -> Result<Variant, ArchitectureError> {
    let key_value_heads = settings.nullable_size("num_key_value_heads", 32)?;
    Ok(Variant { windows: windows(settings)?, key_value_heads, positions: 32_768, ..Variant::plain(model_type, settings)? })
}

/// With `use_sliding_window` the layers from `max_window_layers` on have one.
fn windows(settings: Settings<'_>) -> Result<Vec<Option<usize>>, ArchitectureError> {
    let window = settings.nullable_size("sliding_window", 4096)?;
    let window = if settings.flag_or("use_sliding_window", false)? { window } else { None };
    let first = settings.whole_or("max_window_layers", 28)?;
    settings.windows(|layer| window.filter(|_| layer as u64 >= first))
}
