//! Reading a family's `config.json`.

mod rotary;

use serde_json::{Map, Value};

use super::Heads;
use crate::arch::ArchitectureError;
use crate::nn::ActivationFunction;

pub(crate) use rotary::{RotaryDefaults, Rotated};

/// Larger sizes are a mistake in the configuration.
const LARGEST_SIZE: usize = 1 << 24;

/// More layers are a mistake in the configuration.
const LARGEST_DEPTH: usize = 10_000;

/// The keys of a `config.json`; `null` counts as missing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings<'a>(pub(crate) &'a Value);

fn fault<T>(message: String) -> Result<T, ArchitectureError> {
    Err(ArchitectureError::Setting(message))
}

impl<'a> Settings<'a> {
    pub(crate) fn get(self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn optional_size(self, key: &str) -> Result<Option<usize>, ArchitectureError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64().and_then(|size| usize::try_from(size).ok()).filter(|size| (1..=LARGEST_SIZE).contains(size)) {
            Some(size) => Ok(Some(size)),
            None => fault(format!("`{key}` is {value}: expected an integer from 1 to 2^24")),
        }
    }

    pub(crate) fn size(self, key: &str) -> Result<usize, ArchitectureError> {
        self.optional_size(key)?.map_or_else(|| fault(format!("`{key}` is missing: expected an integer")), Ok)
    }

    /// Number of layers.
    pub(crate) fn layers(self, key: &str) -> Result<usize, ArchitectureError> {
        match self.size(key)? {
            count if count > LARGEST_DEPTH => fault(format!("`{key}` is {count}: expected at most {LARGEST_DEPTH} layers")),
            count => Ok(count),
        }
    }

    pub(crate) fn size_or(self, key: &str, default: usize) -> Result<usize, ArchitectureError> {
        Ok(self.optional_size(key)?.unwrap_or(default))
    }

    /// A size that may be null, which is not the same as missing: then the family's own value counts.
    pub(crate) fn nullable_size(self, key: &str, default: usize) -> Result<Option<usize>, ArchitectureError> {
        if self.0.get(key).is_some() { self.optional_size(key) } else { Ok(Some(default)) }
    }

    /// As [`Settings::nullable_size`].
    pub(crate) fn nullable_number(self, key: &str, default: f64) -> Result<Option<f64>, ArchitectureError> {
        if self.0.get(key).is_some() { self.optional_number(key) } else { Ok(Some(default)) }
    }

    /// An integer that may be 0.
    pub(crate) fn whole_or(self, key: &str, default: u64) -> Result<u64, ArchitectureError> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_u64().map_or_else(|| fault(format!("`{key}` is {value}: expected an integer from 0 on")), Ok),
        }
    }

    pub(crate) fn optional_number(self, key: &str) -> Result<Option<f64>, ArchitectureError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64().filter(|number| *number > 0.0 && number.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => fault(format!("`{key}` is {value}: expected a positive number")),
        }
    }

    pub(crate) fn number_or(self, key: &str, default: f64) -> Result<f64, ArchitectureError> {
        Ok(self.optional_number(key)?.unwrap_or(default))
    }

    pub(crate) fn flag_or(self, key: &str, default: bool) -> Result<bool, ArchitectureError> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => fault(format!("`{key}` is {value}: expected true or false")),
        }
    }

    /// Refuses a key that is set to anything but the given value (or missing).
    pub(crate) fn expect(self, key: &str, expected: &Value) -> Result<(), ArchitectureError> {
        match self.get(key) {
            Some(value) if value != expected => fault(format!("`{key}` is {value}, which is not supported: expected {expected}")),
            _ => Ok(()),
        }
    }

    /// Refuses what changes the network of any family and is not read.
    pub(crate) fn expect_ordinary(self) -> Result<(), ArchitectureError> {
        if let Some(value) = self.get("quantization_config") {
            let method = value.get("quant_method").and_then(Value::as_str).unwrap_or("unknown");
            return fault(format!(
                "`quantization_config` has the method \"{method}\", which is not read: give the weights before quantization"
            ));
        }
        self.expect("pruned_heads", &Value::Object(Map::new()))?;
        self.expect("is_encoder_decoder", &Value::Bool(false))?;
        self.expect("add_cross_attention", &Value::Bool(false))?;
        self.expect("use_bidirectional_attention", &Value::Bool(false))?;
        // Other orders of rotated features.
        self.expect("rope_interleaved", &Value::Bool(false))?;
        self.expect("use_mrope", &Value::Bool(false))
    }

    pub(crate) fn activation(self, key: &str, default: &str) -> Result<ActivationFunction, ArchitectureError> {
        let text = match self.get(key) {
            None => default,
            Some(Value::String(text)) => text,
            Some(value) => return fault(format!("`{key}` is {value}: expected the name of an activation")),
        };
        ActivationFunction::from_name(text).map_or_else(
            || fault(format!("`{key}` is \"{text}\", which is not supported: expected relu, silu, gelu, gelu_new or quick_gelu")),
            Ok,
        )
    }

    /// Heads of queries, of keys (as many without a number of their own) and their width (that of the hidden size's parts without one),
    /// checked against each other.
    pub(crate) fn heads(
        self,
        hidden: usize,
        queries: usize,
        keys: Option<usize>,
        width: Option<usize>,
    ) -> Result<Heads, ArchitectureError> {
        let width = match width {
            Some(width) => width,
            None if hidden.is_multiple_of(queries) => hidden / queries,
            None => return fault(format!("the hidden size {hidden} is not a multiple of the {queries} attention heads")),
        };
        let keys = keys.unwrap_or(queries);
        if !queries.is_multiple_of(keys) {
            return fault(format!("the {queries} attention heads are not a multiple of the {keys} key-value heads"));
        }
        if queries.checked_mul(width).is_none_or(|features| features > LARGEST_SIZE) {
            return fault(format!("{queries} attention heads of width {width} are too many"));
        }
        Ok(Heads { queries, keys, width })
    }

    /// The window of a family whose layers have one unless told otherwise; null would leave them without.
    pub(crate) fn needed_window(self, default: usize) -> Result<usize, ArchitectureError> {
        let window = self.nullable_size("sliding_window", default)?;
        window.map_or_else(
            || fault("`sliding_window` is null: expected an integer, since the family has layers with a window".to_owned()),
            Ok,
        )
    }

    /// The window of every layer: `layer_types` where the configuration has them, else the family's rule.
    pub(crate) fn windows(self, rule: impl Fn(usize) -> Option<usize>) -> Result<Vec<Option<usize>>, ArchitectureError> {
        let count = self.layers("num_hidden_layers")?;
        let window = self.optional_size("sliding_window")?;
        let Some(types) = self.get("layer_types") else { return Ok((0..count).map(rule).collect()) };
        let types = types.as_array().filter(|types| types.len() == count);
        let Some(types) = types else { return fault(format!("`layer_types` should name the kind of each of the {count} layers")) };
        let kind = |value: &Value| match (value.as_str(), window) {
            (Some("full_attention"), _) => Ok(None),
            (Some("sliding_attention"), Some(window)) => Ok(Some(window)),
            (Some("sliding_attention"), None) => fault("`sliding_window` is missing: `layer_types` names sliding layers".to_owned()),
            _ => fault(format!("`layer_types` has {value}, which is not supported: expected full_attention or sliding_attention")),
        };
        types.iter().map(kind).collect()
    }
}
