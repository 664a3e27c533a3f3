//! Settings by name: how `name=value`, from whatever language, gets into a spec, without a list of names anywhere.

use std::fmt;

use serde::de::{DeserializeOwned, Deserializer, Visitor};
use serde::{Serialize, forward_to_deserialize_any};
use serde_json::{Map, Value};

/// Why a setting cannot be replaced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingError {
    /// No setting has this name.
    #[error("there is no setting '{name}': expected one of {}", known.join(", "))]
    Unknown {
        /// The name.
        name: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// The value is of another type.
    #[error("the setting {name} cannot be '{value}': {reason}")]
    Value {
        /// The name.
        name: String,
        /// The given value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// The names of the fields of a struct, in their order, as its deserialiser asks for them. Empty for anything but a plain struct.
#[must_use]
pub fn names<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // The deserialiser only listens: it always ends in an error.
    let _ = T::deserialize(FieldNames(&mut names));
    names
}

/// Replaces the field `name` of a struct of settings by a value in the form that JSON files have; words need no quotation marks.
///
/// # Errors
/// If the struct has no such field, or the value does not fit it.
pub fn set<T: Serialize + DeserializeOwned>(spec: &mut T, name: &str, value: &str) -> Result<(), SettingError> {
    let known = names::<T>();
    if !known.contains(&name) {
        return Err(SettingError::Unknown { name: name.to_owned(), known: known.iter().map(|&name| name.to_owned()).collect() });
    }
    let error = |reason: String| SettingError::Value { name: name.to_owned(), value: value.to_owned(), reason };
    let Ok(Value::Object(fields)) = serde_json::to_value(&*spec) else {
        return Err(error("the settings are not a list of names and values".to_owned()));
    };
    let with = |value: Value| {
        let mut fields: Map<String, Value> = fields.clone();
        fields.insert(name.to_owned(), value);
        serde_json::from_value::<T>(Value::Object(fields))
    };
    // What reads as JSON (numbers, true, null, [1, 2]) is that; the rest, and numbers where a word is expected, are words.
    let word = || with(Value::String(value.to_owned()));
    let replaced = match serde_json::from_str::<Value>(value) {
        Ok(json) => with(json).or_else(|reason| word().map_err(|_| reason)),
        Err(_) => word(),
    };
    // Backticks are for names of settings.
    *spec = replaced.map_err(|reason| error(reason.to_string().replace('`', "'")))?;
    Ok(())
}

/// A deserialiser that notes which fields are asked for.
struct FieldNames<'a>(&'a mut &'static [&'static str]);

#[derive(Debug)]
struct OnlyNames;

impl fmt::Display for OnlyNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("only the names of the fields are wanted")
    }
}

impl std::error::Error for OnlyNames {}

impl serde::de::Error for OnlyNames {
    fn custom<M: fmt::Display>(_message: M) -> Self {
        Self
    }
}

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = OnlyNames;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, OnlyNames> {
        Err(OnlyNames)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, OnlyNames> {
        *self.0 = fields;
        Err(OnlyNames)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq tuple
        tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{EstimatorSpec, RadialSpec, Reorthogonalization, SpectralRoute, SpectralSpec};

    #[test]
    fn every_field_can_be_named() {
        assert_eq!(
            names::<RadialSpec>(),
            ["radius_tolerance", "max_evaluations", "profile_points", "costs_by_part", "volumes_by_part", "proposal"]
        );
        assert!(names::<SpectralSpec>().contains(&"reorthogonalization"));
        assert!(names::<Vec<f64>>().is_empty());
    }

    #[test]
    fn values_of_every_type_are_understood() {
        let mut radial = EstimatorSpec::Radial(RadialSpec::default());
        for (name, value) in [("radius_tolerance", "0.5"), ("max_evaluations", "7"), ("costs_by_part", "true")] {
            radial.set(name, value).unwrap();
        }
        let expected = RadialSpec { radius_tolerance: Some(0.5), max_evaluations: 7, costs_by_part: true, ..RadialSpec::default() };
        assert_eq!(radial, EstimatorSpec::Radial(expected));
        radial.set("radius_tolerance", "null").unwrap();
        assert_eq!(radial, EstimatorSpec::Radial(RadialSpec { radius_tolerance: None, ..expected }));
        let mut spectral = EstimatorSpec::Spectral(SpectralSpec::default());
        spectral.set("route", "lanczos").unwrap();
        spectral.set("reorthogonalization", "\"none\"").unwrap();
        let expected =
            SpectralSpec { route: SpectralRoute::Lanczos, reorthogonalization: Reorthogonalization::None, ..SpectralSpec::default() };
        assert_eq!(spectral, EstimatorSpec::Spectral(expected));
    }

    #[test]
    fn what_does_not_fit_gets_one_sentence() {
        let mut spec = EstimatorSpec::Spectral(SpectralSpec::default());
        let unknown = spec.set("stepps", "3").unwrap_err().to_string();
        assert!(unknown.starts_with("there is no setting 'stepps': expected one of route, products, steps,"), "{unknown}");
        for (name, value, part) in [
            ("steps", "many", "invalid type: string \"many\", expected usize"),
            ("steps", "-3", "invalid value: integer '-3', expected usize"),
            ("route", "grams", "unknown variant 'grams'"),
            ("route", "3", "expected"),
        ] {
            let error = spec.set(name, value).unwrap_err().to_string();
            assert!(error.starts_with(&format!("the setting {name} cannot be '{value}': ")) && error.contains(part), "{error}");
        }
        assert_eq!(spec, EstimatorSpec::Spectral(SpectralSpec::default()));
    }
}
