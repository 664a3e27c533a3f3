//! What a line of `samples.jsonl` has to offer.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// One indexed record of a run.
pub trait Record: Serialize + DeserializeOwned + PartialEq + Send {
    /// The index that the record is a pure function of.
    fn index(&self) -> u64;

    /// By how many nats this record differs from one of the same index that was computed elsewhere; none where they cannot be of the same question.
    fn difference(&self, other: &Self) -> Option<f64> {
        (self == other).then_some(0.0)
    }
}

/// Serialises infinity as `null` (JSON has none) and minus infinity as `"-inf"`; NaN, which no field has for a meaning, as `null` too.
pub mod null_as_infinity {
    use serde::{Deserialize, Deserializer, Serializer, de};

    const MINUS_INFINITY: &str = "-inf";

    /// Writes a number, `null` or `"-inf"`.
    ///
    /// # Errors
    /// Those of the serialiser.
    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        match *value {
            f64::NEG_INFINITY => serializer.serialize_str(MINUS_INFINITY),
            value if value.is_finite() => serializer.serialize_f64(value),
            _ => serializer.serialize_none(),
        }
    }

    /// Reads what [`serialize`] writes.
    ///
    /// # Errors
    /// Those of the deserialiser, and for any other string.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Extended {
            Number(f64),
            Word(String),
        }
        match Option::<Extended>::deserialize(deserializer)? {
            None => Ok(f64::INFINITY),
            Some(Extended::Number(value)) => Ok(value),
            Some(Extended::Word(word)) if word == MINUS_INFINITY => Ok(f64::NEG_INFINITY),
            Some(Extended::Word(word)) => Err(de::Error::custom(format!("expected a number, null or \"-inf\", not \"{word}\""))),
        }
    }

    #[cfg(test)]
    mod tests {
        #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
        struct Line(#[serde(with = "super")] f64);

        #[test]
        fn every_extended_number_comes_back() {
            for value in [0.0, -1.5e-300, 1e308, 0.1 + 0.2, f64::INFINITY, f64::NEG_INFINITY] {
                let text = serde_json::to_string(&Line(value)).unwrap();
                assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), Line(value), "{text}");
            }
            assert!(serde_json::from_str::<Line>("\"lots\"").is_err());
        }
    }
}

/// [`null_as_infinity`] for lists.
pub mod nulls_as_infinity {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Number(#[serde(with = "super::null_as_infinity")] f64);

    /// Writes a list of numbers, `null` or `"-inf"`.
    ///
    /// # Errors
    /// Those of the serialiser.
    pub fn serialize<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(|&value| Number(value)))
    }

    /// Reads what [`serialize`] writes.
    ///
    /// # Errors
    /// Those of the deserialiser.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
        Ok(Vec::<Number>::deserialize(deserializer)?.into_iter().map(|Number(value)| value).collect())
    }
}
