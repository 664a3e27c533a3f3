//! What a line of `samples.jsonl` has to offer.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// One indexed record of a run.
pub trait Record: Serialize + DeserializeOwned + PartialEq + Send {
    /// The index that the record is a pure function of.
    fn index(&self) -> u64;
}

/// Serialises numbers that are not finite as `null` (JSON has no infinity) and reads `null` as positive infinity: the only value that
/// is not finite and legal in the fields which use this.
pub mod null_as_infinity {
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes a finite number, or `null`.
    ///
    /// # Errors
    /// Those of the serialiser.
    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if value.is_finite() { serializer.serialize_f64(*value) } else { serializer.serialize_none() }
    }

    /// Reads a number, or infinity from `null`.
    ///
    /// # Errors
    /// Those of the deserialiser.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::INFINITY))
    }
}
