//! Which estimator, with its settings: those of this crate, and any other.

use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::annealed::AnnealedSpec;
use super::llc::LlcSpec;
use super::radial::RadialSpec;
use super::settings::{self, SettingError};
use super::spectral::SpectralSpec;

/// The key under which the name stands in JSON.
const KIND: &str = "kind";

/// Which estimator, with its settings. In JSON its name stands beside the settings: `{"kind": "radial", "max_evaluations": 80, ...}`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum EstimatorSpec {
    /// Rays from the center: [`crate::estimator::radial`].
    Radial(RadialSpec),
    /// The quadratic cost with the Fisher matrix: [`crate::estimator::spectral`].
    Spectral(SpectralSpec),
    /// Chains from the center to the prior: [`crate::estimator::annealed`].
    Annealed(AnnealedSpec),
    /// The local learning coefficient by chains at one temperature: [`crate::estimator::llc`].
    Llc(LlcSpec),
    /// An estimator that is not of this crate. One whose name is of this crate, or with a setting called `kind`, cannot be written.
    Custom {
        /// Its name.
        name: String,
        /// Its settings, which are compared and shown here, and understood there.
        settings: Map<String, Value>,
    },
}

/// A name beside settings.
#[derive(Serialize)]
struct Tagged<'a, T> {
    kind: &'a str,
    #[serde(flatten)]
    settings: &'a T,
}

impl EstimatorSpec {
    /// Names of all estimators of this crate, in the order in which they are shown; each is the `kind` in manifests.
    pub const NAMES: [&'static str; 4] = ["radial", "spectral", "annealed", "llc"];

    /// The name in manifests, folders and tables.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Radial(_) => "radial",
            Self::Spectral(_) => "spectral",
            Self::Annealed(_) => "annealed",
            Self::Llc(_) => "llc",
            Self::Custom { name, .. } => name,
        }
    }

    /// Replaces one setting by its name, as [`settings::set`] does. An estimator that is not of this crate has the settings that it was made with.
    ///
    /// # Errors
    /// If there is no such setting, or the value is of another type.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), SettingError> {
        match self {
            Self::Radial(spec) => settings::set(spec, name, value),
            Self::Spectral(spec) => settings::set(spec, name, value),
            Self::Annealed(spec) => settings::set(spec, name, value),
            Self::Llc(spec) => settings::set(spec, name, value),
            Self::Custom { settings, .. } => match settings.get_mut(name) {
                Some(setting) => {
                    *setting = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
                    Ok(())
                }
                None => Err(SettingError::Unknown { name: name.to_owned(), known: settings.keys().cloned().collect() }),
            },
        }
    }
}

impl Serialize for EstimatorSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let kind = self.name();
        match self {
            Self::Radial(settings) => Tagged { kind, settings }.serialize(serializer),
            Self::Spectral(settings) => Tagged { kind, settings }.serialize(serializer),
            Self::Annealed(settings) => Tagged { kind, settings }.serialize(serializer),
            Self::Llc(settings) => Tagged { kind, settings }.serialize(serializer),
            // What would come back as something else is not written.
            Self::Custom { name, .. } if Self::NAMES.contains(&name.as_str()) => {
                Err(S::Error::custom(format!("an estimator of another crate cannot be called '{name}'")))
            }
            Self::Custom { name, settings } if settings.contains_key(KIND) => {
                Err(S::Error::custom(format!("a setting of the estimator '{name}' cannot be called '{KIND}'")))
            }
            Self::Custom { settings, .. } => Tagged { kind, settings }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for EstimatorSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fields = Map::deserialize(deserializer)?;
        let name = match fields.remove(KIND) {
            Some(Value::String(name)) => name,
            Some(other) => return Err(D::Error::custom(format!("invalid {KIND} of estimator {other}: expected its name"))),
            None => return Err(D::Error::missing_field(KIND)),
        };
        let settings = Value::Object(fields);
        let spec = match name.as_str() {
            "radial" => RadialSpec::deserialize(settings).map(Self::Radial),
            "spectral" => SpectralSpec::deserialize(settings).map(Self::Spectral),
            "annealed" => AnnealedSpec::deserialize(settings).map(Self::Annealed),
            "llc" => LlcSpec::deserialize(settings).map(Self::Llc),
            _ => Map::deserialize(settings).map(|settings| Self::Custom { name, settings }),
        };
        spec.map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Proposal;

    fn read(text: &str) -> Result<EstimatorSpec, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn every_estimator_comes_back_with_its_name_first() {
        let custom = EstimatorSpec::Custom {
            name: "shells".to_owned(),
            settings: serde_json::from_str(r#"{"count":12,"shape":"round","nested":{"kind":1}}"#).unwrap(),
        };
        for (spec, name) in [
            (EstimatorSpec::Radial(RadialSpec { proposal: Proposal::Shifted, ..RadialSpec::default() }), "radial"),
            (EstimatorSpec::Spectral(SpectralSpec { tolerance: 1.0 / 3.0, ..SpectralSpec::default() }), "spectral"),
            (EstimatorSpec::Annealed(AnnealedSpec { spacing: 0.1 + 0.2, ..AnnealedSpec::default() }), "annealed"),
            (EstimatorSpec::Llc(LlcSpec { n_beta: Some(1.0 / 3.0), ..LlcSpec::default() }), "llc"),
            (custom, "shells"),
        ] {
            let text = serde_json::to_string(&spec).unwrap();
            assert!(text.starts_with(&format!(r#"{{"kind":"{name}","#)) && spec.name() == name, "{text}");
            assert_eq!(read(&text).unwrap(), spec);
        }
    }

    #[test]
    fn settings_of_this_crate_that_do_not_fit_are_no_other_estimator() {
        for (text, words) in [
            (r#"{"kind":"radial","max_evaluations":"many"}"#, "invalid type: string \"many\", expected u32"),
            (r#"{"kind":"spectral","route":"grams"}"#, "unknown variant `grams`"),
            (r#"{"kind":"annealed","chains":-2}"#, "invalid value: integer `-2`"),
            (r#"{"max_evaluations":3}"#, "missing field `kind`"),
            (r#"{"kind":3}"#, "invalid kind of estimator 3"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
        assert_eq!(read(r#"{"kind":"radial"}"#).unwrap(), EstimatorSpec::Radial(RadialSpec::default()));
    }

    #[test]
    fn names_that_would_come_back_as_something_else_are_not_written() {
        let named = |name: &str, text: &str| EstimatorSpec::Custom { name: name.to_owned(), settings: serde_json::from_str(text).unwrap() };
        let error = serde_json::to_string(&named("annealed", "{}")).unwrap_err().to_string();
        assert!(error.contains("cannot be called 'annealed'"), "{error}");
        let error = serde_json::to_string(&named("shells", r#"{"kind":"radial"}"#)).unwrap_err().to_string();
        assert!(error.contains("cannot be called 'kind'"), "{error}");
    }

    #[test]
    fn settings_of_another_crate_are_those_that_it_was_made_with() {
        let mut spec =
            EstimatorSpec::Custom { name: "shells".to_owned(), settings: serde_json::from_str(r#"{"count":12,"shape":"round"}"#).unwrap() };
        spec.set("count", "13").unwrap();
        spec.set("shape", "flat").unwrap();
        assert_eq!(serde_json::to_string(&spec).unwrap(), r#"{"kind":"shells","count":13,"shape":"flat"}"#);
        let error = spec.set("size", "1").unwrap_err().to_string();
        assert_eq!(error, "there is no setting 'size': expected one of count, shape");
    }
}
