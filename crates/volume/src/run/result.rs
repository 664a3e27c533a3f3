//! `result.json`, of one shape for all estimators: what their answers have in common, and under the estimator's name what is its own.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::answer::Answer;
use super::manifest::FORMAT_VERSION;

/// Name of the format, in every result.
pub const FORMAT: &str = "basin-volume result";

/// What is written to `result.json`:
///
/// ```json
/// {"format": "basin-volume result", "format_version": 2, "answer": {...}, "radial": {...}}
/// ```
///
/// The last key is the name of the estimator. Its block does not repeat what the answer says. Numbers that are not finite are `null`.
#[derive(Debug, Clone, Copy)]
pub struct ResultFile<'a, T> {
    answer: &'a Answer,
    name: &'a str,
    own: &'a T,
}

impl<'a, T> ResultFile<'a, T> {
    /// The answer of the estimator called `name`, with what is its own. The name is none of the other keys.
    #[must_use]
    pub fn new(answer: &'a Answer, name: &'a str, own: &'a T) -> Self {
        Self { answer, name, own }
    }
}

impl<T: Serialize> Serialize for ResultFile<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("format", FORMAT)?;
        map.serialize_entry("format_version", &FORMAT_VERSION)?;
        map.serialize_entry("answer", self.answer)?;
        map.serialize_entry(self.name, self.own)?;
        map.end()
    }
}

/// The answer and the estimators' own blocks of a text in this format; none for another text.
pub(super) fn parse(text: &str) -> Option<(Answer, Value)> {
    let mut file: Value = serde_json::from_str(text).ok()?;
    let is_ours = file.get("format")? == FORMAT && file.get("format_version")? == FORMAT_VERSION;
    let answer = file.get_mut("answer").map(Value::take)?;
    is_ours.then_some((serde_json::from_value(answer).ok()?, file))
}
