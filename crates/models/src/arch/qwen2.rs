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
    let windows = windows(settings)?;
    build(config, Variant { biases: (true, false, false), windows, ..Variant::plain(MODEL_TYPE, settings)? })
}

/// With `use_sliding_window` the layers from `max_window_layers` on have one.
pub(super) fn windows(settings: Settings<'_>) -> Result<Vec<Option<usize>>, ArchitectureError> {
    let window = if settings.flag_or("use_sliding_window", false)? { Some(settings.size_or("sliding_window", 4096)?) } else { None };
    let first = settings.get("max_window_layers").and_then(Value::as_u64).unwrap_or(28);
    settings.windows(|layer| window.filter(|_| layer as u64 >= first))
}
