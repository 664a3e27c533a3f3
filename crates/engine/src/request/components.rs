//! The names of components as a setting: one name, a list, or several joined by commas.

use basin_volume_models::components::{plain_name, split};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Names of components as they were given. What they mean depends on the model ([`crate::model::Model::moving`]).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ComponentNames(Vec<String>);

impl ComponentNames {
    /// These names.
    #[must_use]
    pub fn new(names: Vec<String>) -> Self {
        Self(names)
    }

    /// Whether nothing is asked for: then all weights that the other settings leave move.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names as they were given.
    #[must_use]
    pub fn given(&self) -> &[String] {
        &self.0
    }

    /// The names as records have them, in one form and order: what is the same question has the same names.
    #[must_use]
    pub fn plain(&self) -> Vec<String> {
        let mut names: Vec<String> = self.0.iter().flat_map(|names| split(names)).map(|name| plain_name(&name)).collect();
        names.sort();
        names.dedup();
        names
    }
}

impl Serialize for ComponentNames {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.plain().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ComponentNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected the name of a component, or a list of names")]
        enum Written {
            One(String),
            Several(Vec<String>),
        }
        Ok(Self(match Written::deserialize(deserializer)? {
            Written::One(name) => vec![name],
            Written::Several(names) => names,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_or_several_and_written_in_one_form() {
        let read = |text: &str| serde_json::from_str::<ComponentNames>(text).unwrap();
        for text in ["\"L1.h2, l0 attn\"", "[\"l0.attn\", \"l1h2\"]", "[\"l1h2\",\"l0 attn\",\"l0attn\"]"] {
            assert_eq!(read(text).plain(), ["l0 attn", "l1h2"], "{text}");
            assert_eq!(serde_json::to_string(&read(text)).unwrap(), "[\"l0 attn\",\"l1h2\"]");
        }
        assert!(ComponentNames::default().is_empty() && !read("\"\"").is_empty());
        let message = serde_json::from_str::<ComponentNames>("3").unwrap_err().to_string();
        assert!(message.contains("expected the name of a component"), "{message}");
    }
}
