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
    let window = settings.optional_size("sliding_window")?;
    let windows = settings.windows(|_| window)?;
    build(config, Variant { windows, ..Variant::plain(MODEL_TYPE, settings)? })
}
