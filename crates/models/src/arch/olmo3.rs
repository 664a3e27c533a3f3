//! OLMo 3: OLMo 2 with a layer without a window after every three with one, whose rotary frequencies alone are scaled.

use std::sync::Arc;

use serde_json::{Value, json};

use super::decoder::Settings;
use super::llama::{Bases, KeyNorm, Norms, Variant, build};
use super::{Architecture, ArchitectureError};

pub(super) const MODEL_TYPE: &str = "olmo3";

/// Layers from one without a window to the next.
const PATTERN: usize = 4;

/// Rotary base of the released models.
const BASE: f64 = 500_000.0;

/// Reads and checks the family's settings.
pub(super) fn read(config: &Value) -> Result<Arc<dyn Architecture>, ArchitectureError> {
    let settings = Settings(config);
    let bias = settings.flag_or("attention_bias", false)?;
    // Versions of `transformers` disagree whether another base counts for the layers with a window too; in `rope_parameters` it is clear.
    settings.expect("rope_theta", &json!(BASE))?;
    let window = settings.needed_window(4096)?;
    let variant = Variant {
        biases: (bias, bias, false),
        key_norm: KeyNorm::All,
        norms: Norms::After,
        epsilon: 1e-5,
        windows: settings.windows(|layer| Some(window).filter(|_| !(layer + 1).is_multiple_of(PATTERN)))?,
        bases: Bases::ByWindow { full: ("rope_theta", BASE), sliding: ("rope_theta", BASE) },
        ..Variant::plain(MODEL_TYPE, settings)?
    };
    build(config, variant)
}
