//! `adapter_config.json`: the scale of every product, and options that cannot be merged.

use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use basin_volume_data::{json, pointer};
use regex::Regex;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::AdapterError;
use crate::weights::printable;

/// Beginnings of the product that leave the base as it is. Others take something off its weights first, which only they know.
const BEGINNINGS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// Options that make more of an adapter than products that are added to matrices, and what they make of it.
const UNSUPPORTED: [(&str, &str); 10] = [
    ("use_dora", "it is DoRA, which scales the merged rows"),
    ("use_qalora", "it is QA-LoRA, whose inputs are pooled"),
    ("use_bdlora", "its products are block-diagonal"),
    ("lora_bias", "its products have biases"),
    ("layer_replication", "it replicates layers of the base"),
    ("alora_invocation_tokens", "it acts only after certain tokens"),
    ("trainable_token_indices", "it replaces single rows of the embedding"),
    ("target_parameters", "it changes parameters that are no matrices of layers"),
    ("arrow_config", "it chooses among several adapters by the input"),
    ("kasa_config", "it changes the base by its singular values"),
];

/// Options whose name begins as those of variants do, and that are none.
const PLAIN_USES: [&str; 1] = ["use_rslora"];

/// The settings of an adapter that can be merged.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    base: Option<String>,
    revision: Option<String>,
    rank: f64,
    alpha: f64,
    by_root: bool,
    keeps_ties: bool,
    ranks: Patterns,
    alphas: Patterns,
}

/// What stands in the file.
#[derive(serde::Deserialize)]
struct Written {
    peft_type: Option<String>,
    base_model_name_or_path: Option<String>,
    revision: Option<String>,
    r: Option<f64>,
    lora_alpha: Option<f64>,
    use_rslora: Option<bool>,
    ensure_weight_tying: Option<bool>,
    init_lora_weights: Option<Value>,
    rank_pattern: Option<Ordered<f64>>,
    alpha_pattern: Option<Ordered<f64>>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// Numbers for the modules whose names end as a regular expression says. The first that fits counts.
#[derive(Debug, Clone, Default)]
struct Patterns(Vec<(Regex, f64)>);

/// A map whose entries stay in the order of the file.
struct Ordered<T>(Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Ordered<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a map from patterns to numbers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Ordered(entries))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

impl Patterns {
    fn new(written: Option<Ordered<f64>>, name: &str) -> Result<Self, String> {
        let entries = written.map(|ordered| ordered.0).unwrap_or_default();
        let compiled = entries.into_iter().map(|(pattern, value)| {
            // As PEFT does it: the pattern is the end of a module's name, from a dot on.
            let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$"));
            Ok((
                regex.map_err(|_| {
                    format!("have `{}` in `{name}`, which is no regular expression that is known here", printable(&pattern))
                })?,
                value,
            ))
        });
        compiled.collect::<Result<_, String>>().map(Self)
    }

    fn of(&self, module: &str) -> Option<f64> {
        self.0.iter().find(|(pattern, _)| pattern.is_match(module)).map(|(_, value)| *value)
    }
}

/// Whether an option is switched on: not false, null, 0 or empty.
fn is_on(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(value) => value.as_f64() != Some(0.0),
        Value::String(value) => !value.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(values) => !values.is_empty(),
    }
}

impl Settings {
    pub(super) fn read(path: &Path) -> Result<Self, AdapterError> {
        let fault = |problem: String| AdapterError::Settings { path: path.to_owned(), problem };
        let text = std::fs::read(path).map_err(|error| fault(format!("cannot be read: {error}")))?;
        if pointer::is_pointer(&text) {
            return Err(fault(format!("are not usable: {}", pointer::PROBLEM)));
        }
        let written: Written = json::from_slice(&text).map_err(|problem| fault(format!("are not usable: {}", printable(&problem))))?;
        if let Some(problem) = unsupported(&written) {
            return Err(AdapterError::Unsupported { path: path.to_owned(), problem });
        }
        let number = |name: &str, value: Option<f64>| match value {
            Some(value) if value.is_finite() && value >= 0.0 => Ok(value),
            Some(value) => Err(fault(format!("have `{name}` {value}: expected a number that is not negative"))),
            None => Err(fault(format!("lack `{name}`"))),
        };
        let named = |name: Option<String>| name.filter(|name| !name.trim().is_empty());
        Ok(Self {
            base: named(written.base_model_name_or_path),
            revision: named(written.revision),
            rank: number("r", written.r)?,
            alpha: number("lora_alpha", written.lora_alpha)?,
            by_root: written.use_rslora.unwrap_or(false),
            keeps_ties: written.ensure_weight_tying.unwrap_or(false),
            ranks: Patterns::new(written.rank_pattern, "rank_pattern").map_err(fault)?,
            alphas: Patterns::new(written.alpha_pattern, "alpha_pattern").map_err(fault)?,
        })
    }

    /// What the base is called.
    pub(super) fn base(&self) -> Option<&str> {
        self.base.as_deref()
    }

    /// The base's revision on the hub.
    pub(super) fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    /// Whether what is changed of the embedding is changed of a tied head too.
    pub(super) fn keeps_ties(&self) -> bool {
        self.keeps_ties
    }

    /// The factor of the product of a module whose tensors have this rank.
    pub(super) fn scale(&self, module: &str, rank: usize) -> Result<f64, String> {
        let configured = self.ranks.of(module).unwrap_or(self.rank);
        if configured != rank as f64 {
            return Err(format!("the tensors of `{}` have rank {rank}, but its settings say {configured}", printable(module)));
        }
        let alpha = self.alphas.of(module).unwrap_or(self.alpha);
        Ok(alpha / if self.by_root { configured.sqrt() } else { configured })
    }
}

/// The option or type that cannot be merged, as a phrase.
fn unsupported(written: &Written) -> Option<String> {
    let kind = written.peft_type.as_deref().unwrap_or("none at all");
    if !kind.eq_ignore_ascii_case("LORA") {
        return Some(format!("its type is {}, and only LORA is read", printable(kind)));
    }
    let is_on_option = |name: &str| written.others.get(name).is_some_and(is_on);
    if let Some((name, what)) = UNSUPPORTED.iter().find(|(name, _)| is_on_option(name)) {
        return Some(format!("{what} (`{name}`)"));
    }
    // Variants that come after this was written are asked for in the same way.
    if let Some(name) =
        written.others.keys().find(|name| name.starts_with("use_") && !PLAIN_USES.contains(&name.as_str()) && is_on_option(name))
    {
        return Some(format!("it asks for `{}`, which is not known", printable(name)));
    }
    match &written.init_lora_weights {
        Some(Value::String(name)) if !BEGINNINGS.contains(&name.to_ascii_lowercase().as_str()) => {
            Some(format!("its beginning changed the weights of the base (`init_lora_weights` is {})", printable(name)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(change: &dyn Fn(&mut Value)) -> Result<Settings, String> {
        let mut settings = json!({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "base_model_name_or_path": "org/base", "use_dora": false});
        change(&mut settings);
        written(&settings.to_string())
    }

    fn written(text: &str) -> Result<Settings, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adapter_config.json");
        std::fs::write(&path, text).unwrap();
        Settings::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn the_scale_is_that_of_peft() {
        let plain = read(&|_| ()).unwrap();
        assert_eq!(plain.scale("model.layers.0.mlp.up_proj", 8), Ok(2.0));
        assert_eq!((plain.base(), plain.revision()), (Some("org/base"), None));
        assert!(plain.scale("x", 4).unwrap_err().contains("have rank 4, but its settings say 8"));
        let root = read(&|settings| settings["use_rslora"] = true.into()).unwrap();
        assert_eq!(root.scale("x", 8), Ok(16.0 / 8f64.sqrt()));
        // The order of the file decides, and the end of a name from a dot on.
        let text = r#"{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "rank_pattern": {"v_proj": 4, "layers\\.0.*": 2},
            "alpha_pattern": {"layers.1.q_proj": 3, "q_proj": 5}}"#;
        let patterns = written(text).unwrap();
        assert_eq!(patterns.scale("model.layers.0.v_proj", 4), Ok(4.0));
        assert_eq!(patterns.scale("model.layers.0.k_proj", 2), Ok(8.0));
        assert_eq!(patterns.scale("model.layers.1.q_proj", 8), Ok(3.0 / 8.0));
        assert_eq!(patterns.scale("model.layers.2.q_proj", 8), Ok(5.0 / 8.0));
        assert_eq!(patterns.scale("model.layers.2.q_projection", 8), Ok(2.0));
    }

    #[test]
    fn what_cannot_be_merged_is_named() {
        let cases: [(&str, Value, &str); 9] = [
            ("peft_type", json!("IA3"), "its type is IA3"),
            ("peft_type", Value::Null, "its type is none at all"),
            ("use_dora", json!(true), "it is DoRA"),
            ("layer_replication", json!([[0, 4], [2, 5]]), "replicates layers"),
            ("use_novelty", json!(true), "it asks for `use_novelty`"),
            ("init_lora_weights", json!("pissa_niter_16"), "`init_lora_weights` is pissa_niter_16"),
            ("r", json!("8"), "are not usable"),
            ("lora_alpha", json!(-1), "expected a number that is not negative"),
            ("rank_pattern", json!({"(": 4}), "no regular expression"),
        ];
        for (name, value, expected) in cases {
            let message = read(&|settings| settings[name] = value.clone()).unwrap_err();
            assert!(message.contains(expected) && message.contains("adapter_config.json") && !message.contains('\n'), "{message}");
        }
        for (name, value) in
            [("init_lora_weights", json!("gaussian")), ("init_lora_weights", json!(false)), ("layer_replication", json!([]))]
        {
            read(&|settings| settings[name] = value.clone()).unwrap();
        }
        assert!(written("version https://git-lfs.github.com/spec/v1\n").unwrap_err().contains("git lfs pull"));
    }
}
