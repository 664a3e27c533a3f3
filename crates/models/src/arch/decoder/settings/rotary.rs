//! Rotary settings: a base and `rope_scaling`, or the newer `rope_parameters`, which has the base in it too and may have a dictionary for
//! each kind of layer.

use serde_json::Value;

use super::{Settings, fault};
use crate::arch::ArchitectureError;
use crate::arch::decoder::rotary::{Rotary, Scaling};

/// Names of the dictionary, the older one first.
const DICTIONARIES: [&str; 2] = ["rope_scaling", "rope_parameters"];

/// The kinds of layers that may have dictionaries of their own inside `rope_parameters`: without a window, and with one.
const LAYERS: [&str; 2] = ["full_attention", "sliding_attention"];

/// Entries that any dictionary may have, whether or not its type reads them.
const ENTRIES: [&str; 8] = [
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
];

/// Types of scaling, and what their dictionaries may have beside that.
const TYPES: [(&str, &[&str]); 6] = [
    ("default", &[]),
    ("linear", &[]),
    ("dynamic", &[]),
    ("llama3", &[]),
    ("yarn", &["attention_factor", "beta_fast", "beta_slow"]),
    ("longrope", &["attention_factor", "short_factor", "long_factor"]),
];

/// Turns within the original positions between which YaRN passes over, unless the dictionary says others.
const YARN_TURNS: (f64, f64) = (32.0, 1.0);

/// What a family has where its settings are silent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RotaryDefaults {
    /// Key of the base outside of the dictionary.
    pub(crate) base_key: &'static str,
    pub(crate) base: f64,
    /// Longest sequence.
    pub(crate) positions: usize,
    /// What always counts as `original_max_position_embeddings` when there is none outside of the dictionary.
    pub(crate) original_positions: Option<usize>,
    /// Other names of types, each with the type's own.
    pub(crate) other_names: &'static [(&'static str, &'static str)],
}

impl RotaryDefaults {
    /// Those of most families.
    pub(crate) fn plain(positions: usize) -> Self {
        Self { base_key: "rope_theta", base: 10_000.0, positions, original_positions: None, other_names: &[] }
    }
}

/// Features of a head, and how many of them rotate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rotated {
    pub(crate) width: usize,
    pub(crate) of: usize,
}

impl Rotated {
    /// A share of a head's features, rounded down.
    pub(crate) fn share(fraction: f64, of: usize) -> Self {
        Self { width: (of as f64 * fraction) as usize, of }
    }

    fn check(self) -> Result<(), ArchitectureError> {
        let Self { width, of } = self;
        if width < 2 || !width.is_multiple_of(2) || width > of {
            return fault(format!("{width} of the {of} features of a head are to rotate: expected an even number from 2 on"));
        }
        Ok(())
    }
}

/// A dictionary of rotary settings.
struct Dictionary<'a> {
    /// Its own name, for messages.
    name: String,
    entries: Settings<'a>,
    kind: &'a str,
}

impl<'a> Settings<'a> {
    /// The rotation of a head's features.
    pub(crate) fn rotary(self, rotated: Rotated, defaults: RotaryDefaults) -> Result<Rotary, ArchitectureError> {
        rotated.check()?;
        let base = self.number_or(defaults.base_key, defaults.base)?;
        let Some((name, value)) = self.rotary_value() else { return Ok(Rotary::new(rotated.width, base, &Scaling::Unscaled, 1.0)) };
        let dictionary = Dictionary::new(name.to_owned(), value, defaults.other_names)?;
        // Outside of the dictionary it counts for more.
        let original = match self.optional_size("original_max_position_embeddings")? {
            None => defaults.original_positions,
            outside => outside,
        };
        dictionary.rotary(rotated.width, base, RotaryDefaults { original_positions: original, ..defaults })
    }

    /// The rotations of all features of a head, in layers without a window and in layers with one: `rope_parameters` has a dictionary for
    /// each kind, or there are bases beside each other and `rope_scaling` for the layers without a window.
    pub(crate) fn rotaries(self, width: usize, full: RotaryDefaults, sliding: RotaryDefaults) -> Result<[Rotary; 2], ArchitectureError> {
        let whole = Rotated { width, of: width };
        whole.check()?;
        let [older, newer] = DICTIONARIES.map(|name| self.get(name));
        if let (Some(_), Some(value)) = (older, newer) {
            return fault(format!("`rope_parameters` is {value} beside `rope_scaling`, which is not supported: expected one of them"));
        }
        let inner = newer.map(Settings);
        if let Some(key) = newer.and_then(Value::as_object).and_then(|entries| entries.keys().find(|key| !LAYERS.contains(&key.as_str()))) {
            return fault(format!("`rope_parameters.{key}` is not supported by this family: expected {} and {}", LAYERS[0], LAYERS[1]));
        }
        let rotary = |kind: &str, older: Option<&'a Value>, defaults: RotaryDefaults| {
            let base = self.number_or(defaults.base_key, defaults.base)?;
            let newer = inner.and_then(|inner| inner.get(kind)).map(|value| (format!("rope_parameters.{kind}"), value));
            let Some((name, value)) = newer.or_else(|| Some((DICTIONARIES[0].to_owned(), older?))) else {
                return Ok(Rotary::new(width, base, &Scaling::Unscaled, 1.0));
            };
            let dictionary = Dictionary::new(name, value, &[])?;
            let fraction = dictionary.entries.number_or("partial_rotary_factor", 1.0)?;
            if fraction != 1.0 {
                let name = &dictionary.name;
                return fault(format!("`{name}.partial_rotary_factor` is {fraction}, which is not supported by this family: expected 1"));
            }
            // Without the newer name of its type a scaling of this kind is ignored elsewhere.
            if dictionary.entries.get("rope_type").is_none() && dictionary.entries.get("type").is_some() {
                return fault(format!("`{}.rope_type` is missing: expected a name", dictionary.name));
            }
            dictionary.rotary(width, base, defaults)
        };
        Ok([rotary(LAYERS[0], older, full)?, rotary(LAYERS[1], None, sliding)?])
    }

    /// Share of a head's features that rotate: that of the dictionary, or of the key outside of it.
    pub(crate) fn partial_rotary(self, key: &str, default: f64) -> Result<f64, ArchitectureError> {
        let inside = match self.rotary_value() {
            Some((_, value)) => Settings(value).optional_number("partial_rotary_factor")?,
            None => None,
        };
        inside.map_or_else(|| self.number_or(key, default), Ok)
    }

    fn rotary_value(self) -> Option<(&'static str, &'a Value)> {
        DICTIONARIES.into_iter().find_map(|name| Some((name, self.get(name)?)))
    }
}

impl<'a> Dictionary<'a> {
    fn new(name: String, value: &'a Value, other_names: &[(&str, &'static str)]) -> Result<Self, ArchitectureError> {
        let Some(all) = value.as_object() else { return fault(format!("`{name}` is {value}: expected a dictionary")) };
        let entries = Settings(value);
        let kind = match entries.get("rope_type").or_else(|| entries.get("type")) {
            None => "default",
            Some(Value::String(kind)) => other_names.iter().find(|(other, _)| other == kind).map_or(kind.as_str(), |(_, own)| own),
            Some(value) => return fault(format!("`{name}.rope_type` is {value}: expected a name")),
        };
        let Some((_, own)) = TYPES.iter().find(|(name, _)| *name == kind) else {
            let known = TYPES.map(|(name, _)| name).join(", ");
            return fault(format!("`{name}` has the type \"{kind}\", which is not supported: expected one of {known}"));
        };
        let known = [&ENTRIES[..], own].concat();
        match all.iter().find(|(key, value)| !known.contains(&key.as_str()) && !value.is_null()) {
            Some((key, _)) => fault(format!("`{name}.{key}` is not supported with the type {kind}: expected one of {}", known.join(", "))),
            None => Ok(Self { name, entries, kind }),
        }
    }

    /// The rotation, where `base` is not overruled in the dictionary.
    fn rotary(&self, width: usize, base: f64, defaults: RotaryDefaults) -> Result<Rotary, ArchitectureError> {
        let base = self.entries.number_or("rope_theta", base)?;
        let original = || match defaults.original_positions {
            Some(positions) => Ok(positions as f64),
            None => self.needed("original_max_position_embeddings"),
        };
        let mut factor = 1.0;
        let scaling = match self.kind {
            "linear" => Scaling::Linear(self.needed("factor")?),
            "llama3" => {
                let (low, high) = (self.needed("low_freq_factor")?, self.needed("high_freq_factor")?);
                if low >= high {
                    return fault(format!("`{}.low_freq_factor` is {low}: expected less than `high_freq_factor`, {high}", self.name));
                }
                Scaling::Llama3 { factor: self.needed("factor")?, low, high, original_positions: original()? }
            }
            "yarn" => {
                let stretch = self.needed("factor")?;
                let (fast, slow) = (self.entries.number_or("beta_fast", YARN_TURNS.0)?, self.entries.number_or("beta_slow", YARN_TURNS.1)?);
                if fast < slow || base <= 1.0 {
                    let name = &self.name;
                    return fault(format!(
                        "`{name}` has beta_fast {fast}, beta_slow {slow} and the base {base}: expected them to fall, and a base above 1"
                    ));
                }
                factor = self.entries.number_or("attention_factor", 0.1 * stretch.ln().max(0.0) + 1.0)?;
                Scaling::Yarn { factor: stretch, fast, slow, original_positions: original()? }
            }
            "longrope" => {
                let original = original()?;
                let stretch = self.entries.number_or("factor", defaults.positions as f64 / original)?;
                let usual = if stretch > 1.0 { (1.0 + stretch.ln() / original.ln()).sqrt() } else { 1.0 };
                factor = self.entries.number_or("attention_factor", usual)?;
                if !factor.is_finite() {
                    return fault(format!("`original_max_position_embeddings` is {original}: expected an integer from 2 on"));
                }
                let (short, long) = (self.divisors("short_factor", width / 2)?, self.divisors("long_factor", width / 2)?);
                Scaling::LongRope { short, long, original_positions: original as usize }
            }
            // Dynamic scaling starts beyond `max_position_embeddings`, where sequences are refused.
            _ => Scaling::Unscaled,
        };
        Ok(Rotary::new(width, base, &scaling, factor))
    }

    fn needed(&self, key: &str) -> Result<f64, ArchitectureError> {
        match self.entries.optional_number(key)? {
            Some(value) => Ok(value),
            None => fault(format!("`{}.{key}` is missing: expected a number", self.name)),
        }
    }

    /// One positive number for each pair of features.
    fn divisors(&self, key: &str, pairs: usize) -> Result<Vec<f64>, ArchitectureError> {
        let value = self.entries.get(key).unwrap_or(&Value::Null);
        let number = |value: &Value| value.as_f64().filter(|number| *number > 0.0 && number.is_finite());
        let numbers: Option<Vec<f64>> = value.as_array().and_then(|values| values.iter().map(number).collect());
        match numbers.filter(|numbers| numbers.len() == pairs) {
            Some(numbers) => Ok(numbers),
            None => fault(format!(
                "`{}.{key}` is {value}: expected a list of {pairs} positive numbers, one for each pair of features",
                self.name
            )),
        }
    }
}
