//! Reading a family's `config.json`, and listing its tensors in the checkpoint's order.

use std::ops::Range;

use serde_json::{Map, Value};

use super::rotary::{Rotary, Scaling};
use super::{Linear, Norm};
use crate::arch::ArchitectureError;
use crate::nn::{ActivationFunction, NormKind};
use crate::parameters::ParameterLayout;

/// Larger sizes are a mistake in the configuration.
const LARGEST_SIZE: usize = 1 << 24;

/// More layers are a mistake in the configuration.
const LARGEST_DEPTH: usize = 10_000;

/// More weights than this are a mistake in the configuration.
const LARGEST_DIMENSION: usize = 1 << 40;

/// The tensors listed so far.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    tensors: Vec<(String, Vec<usize>)>,
    dimension: usize,
}

impl Builder {
    pub(crate) fn tensor(&mut self, name: String, shape: &[usize]) -> Range<usize> {
        let start = self.dimension;
        let length = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size)).unwrap_or(usize::MAX);
        // Saturated sums are refused by `finish`.
        self.dimension = self.dimension.saturating_add(length);
        self.tensors.push((name, shape.to_vec()));
        start..self.dimension
    }

    /// `{name}.weight` `[outputs, inputs]` and `{name}.bias`.
    pub(crate) fn linear(&mut self, name: &str, inputs: usize, outputs: usize, bias: bool) -> Linear {
        let weight = self.tensor(format!("{name}.weight"), &[outputs, inputs]);
        let bias = bias.then(|| self.tensor(format!("{name}.bias"), &[outputs]));
        Linear { weight, bias, inputs, outputs, transposed: false }
    }

    /// `{name}.weight` `[inputs, outputs]` and `{name}.bias`, as GPT-2 stores its dense layers.
    pub(crate) fn transposed(&mut self, name: &str, inputs: usize, outputs: usize) -> Linear {
        let weight = self.tensor(format!("{name}.weight"), &[inputs, outputs]);
        let bias = Some(self.tensor(format!("{name}.bias"), &[outputs]));
        Linear { weight, bias, inputs, outputs, transposed: true }
    }

    /// `{name}.weight`, and `{name}.bias` for LayerNorm.
    pub(crate) fn norm(&mut self, name: &str, kind: NormKind, width: usize, epsilon: f32) -> Norm {
        let weight = Some(self.tensor(format!("{name}.weight"), &[width]));
        let bias = (kind == NormKind::Layer).then(|| self.tensor(format!("{name}.bias"), &[width]));
        Norm { kind, weight, bias, width, epsilon }
    }

    /// The head: its own tensor, or the embedding's again.
    pub(crate) fn head(
        &mut self,
        name: &str,
        embedding: &Range<usize>,
        tied: bool,
        inputs: usize,
        vocabulary: usize,
        bias: bool,
    ) -> Linear {
        if tied {
            let bias = bias.then(|| self.tensor(format!("{name}.bias"), &[vocabulary]));
            Linear { weight: embedding.clone(), bias, inputs, outputs: vocabulary, transposed: false }
        } else {
            self.linear(name, inputs, vocabulary, bias)
        }
    }

    pub(crate) fn finish(self) -> Result<ParameterLayout, ArchitectureError> {
        if self.dimension > LARGEST_DIMENSION {
            return Err(ArchitectureError::Setting("the sizes ask for too many weights: at most 2^40 are read".to_owned()));
        }
        Ok(ParameterLayout::new(self.tensors))
    }
}

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

    /// `(heads, key-value heads, head width)`, checked against each other.
    pub(crate) fn heads(
        self,
        hidden: usize,
        heads: usize,
        grouped: Option<usize>,
        width: Option<usize>,
    ) -> Result<(usize, usize, usize), ArchitectureError> {
        let width = match width {
            Some(width) => width,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => return fault(format!("the hidden size {hidden} is not a multiple of the {heads} attention heads")),
        };
        let grouped = grouped.unwrap_or(heads);
        if !heads.is_multiple_of(grouped) {
            return fault(format!("the {heads} attention heads are not a multiple of the {grouped} key-value heads"));
        }
        if heads.checked_mul(width).is_none_or(|features| features > LARGEST_SIZE) {
            return fault(format!("{heads} attention heads of width {width} are too many"));
        }
        Ok((heads, grouped, width))
    }

    /// Fraction of a head's features that rotate.
    pub(crate) fn partial_rotary(self, key: &str, default: f64) -> Result<f64, ArchitectureError> {
        match self.rotary_settings()?.map(|(_, newer)| newer.optional_number("partial_rotary_factor")).transpose()?.flatten() {
            Some(fraction) => Ok(fraction),
            None => self.number_or(key, default),
        }
    }

    /// The dictionary of rotary settings and its name: `rope_scaling`, or the newer `rope_parameters`, which has the base in it too.
    fn rotary_settings(self) -> Result<Option<(&'static str, Settings<'a>)>, ArchitectureError> {
        let found = ["rope_scaling", "rope_parameters"].into_iter().find_map(|name| Some((name, self.get(name)?)));
        let Some((name, value)) = found else { return Ok(None) };
        let Some(entries) = value.as_object() else { return fault(format!("`{name}` is {value}: expected a dictionary")) };
        let settings = Settings(value);
        let kind = settings.rotary_kind(name)?;
        if !["default", "linear", "dynamic", "llama3"].contains(&kind) {
            return fault(format!("`{name}` has the type \"{kind}\", which is not supported: expected default, linear, dynamic or llama3"));
        }
        match entries.iter().find(|(key, value)| !ROTARY_KEYS.contains(&key.as_str()) && !value.is_null()) {
            Some((key, _)) => fault(format!("`{name}.{key}` is not supported: expected one of {}", ROTARY_KEYS.join(", "))),
            None => Ok(Some((name, settings))),
        }
    }

    fn rotary_kind(self, name: &str) -> Result<&'a str, ArchitectureError> {
        match self.get("rope_type").or_else(|| self.get("type")) {
            None => Ok("default"),
            Some(Value::String(kind)) => Ok(kind),
            Some(value) => fault(format!("`{name}.rope_type` is {value}: expected a name")),
        }
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

    /// The rotation of the first `width` features of every head, from `rope_theta` (or `base_key`) and `rope_scaling`, or from the
    /// newer `rope_parameters`.
    pub(crate) fn rotary(self, width: usize, head_width: usize, base_key: &str) -> Result<Rotary, ArchitectureError> {
        if width < 2 || !width.is_multiple_of(2) || width > head_width {
            return fault(format!("{width} of the {head_width} features of a head are to rotate: expected an even number from 2 on"));
        }
        let own_base = self.number_or(base_key, 10_000.0)?;
        let Some((name, settings)) = self.rotary_settings()? else { return Ok(Rotary::new(width, own_base, Scaling::Unscaled)) };
        let base = settings.number_or("rope_theta", own_base)?;
        let needed =
            |key: &str| settings.optional_number(key)?.map_or_else(|| fault(format!("`{name}.{key}` is missing: expected a number")), Ok);
        let scaling = match settings.rotary_kind(name)? {
            "linear" => Scaling::Linear(needed("factor")?),
            "llama3" => {
                let (low, high) = (needed("low_freq_factor")?, needed("high_freq_factor")?);
                if low >= high {
                    return fault(format!("`{name}.low_freq_factor` is {low}: expected less than `high_freq_factor`, {high}"));
                }
                Scaling::Llama3 { factor: needed("factor")?, low, high, original_positions: needed("original_max_position_embeddings")? }
            }
            // Dynamic scaling starts beyond `max_position_embeddings`, where sequences are refused.
            _ => Scaling::Unscaled,
        };
        Ok(Rotary::new(width, base, scaling))
    }
}

/// What a dictionary of rotary settings may hold.
const ROTARY_KEYS: [&str; 8] = [
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
];
