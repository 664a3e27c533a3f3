//! A `config.json` in Hugging Face's terms from the metadata of a gguf file.

use serde_json::{Map, Value, json};

use super::metadata::{Gguf, GgufValue};
use super::names;
use crate::weights::error::{WeightsError, printable};

/// How a value is taken over.
#[derive(Clone, Copy)]
enum Kind {
    Integer,
    Number,
}

/// Key under the architecture's name, name in the configuration, kind, and whether it must be there.
type Field = (&'static str, &'static str, Kind, bool);

use Kind::{Integer, Number};

const COMMON: &[Field] = &[
    ("block_count", "num_hidden_layers", Integer, true),
    ("embedding_length", "hidden_size", Integer, true),
    ("attention.head_count", "num_attention_heads", Integer, true),
    ("context_length", "max_position_embeddings", Integer, true),
    ("feed_forward_length", "intermediate_size", Integer, true),
];
const LLAMA_LIKE: &[Field] = &[
    ("attention.head_count_kv", "num_key_value_heads", Integer, false),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps", Number, true),
    ("attention.key_length", "head_dim", Integer, false),
    ("rope.freq_base", "rope_theta", Number, false),
];
const WINDOW: &[Field] = &[("attention.sliding_window", "sliding_window", Integer, false)];
const GEMMA2: &[Field] = &[
    ("attn_logit_softcapping", "attn_logit_softcapping", Number, false),
    ("final_logit_softcapping", "final_logit_softcapping", Number, false),
];
const PHI: &[Field] = &[
    ("attention.head_count_kv", "num_key_value_heads", Integer, false),
    ("attention.layer_norm_epsilon", "layer_norm_eps", Number, true),
    ("rope.freq_base", "rope_theta", Number, false),
];
const GPT2: &[Field] = &[
    ("block_count", "n_layer", Integer, true),
    ("embedding_length", "n_embd", Integer, true),
    ("attention.head_count", "n_head", Integer, true),
    ("context_length", "n_positions", Integer, true),
    ("feed_forward_length", "n_inner", Integer, true),
    ("attention.layer_norm_epsilon", "layer_norm_epsilon", Number, true),
];
const GPT_NEOX: &[Field] =
    &[("attention.layer_norm_epsilon", "layer_norm_eps", Number, true), ("rope.freq_base", "rotary_emb_base", Number, false)];

/// Settings of other models under the same architecture's name, with the value that changes nothing: any other is refused.
const NEUTRAL: &[(&str, f64)] = &[
    ("expert_count", 0.0),
    ("attention.clamp_kqv", 0.0),
    ("attention.max_alibi_bias", 0.0),
    ("attention.scale", 0.0),
    ("embedding_scale", 0.0),
    ("residual_scale", 0.0),
    ("logit_scale", 0.0),
    ("rope.scaling.attn_factor", 1.0),
];

/// A value under the architecture's own name.
struct Keys<'a> {
    gguf: &'a Gguf,
    architecture: &'a str,
}

impl Keys<'_> {
    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// The value of a key, converted; None when it is not there.
    fn get<T>(&self, key: &str, convert: impl Fn(&GgufValue) -> Option<T>) -> Result<Option<T>, String> {
        let key = self.full(key);
        let Some(value) = self.gguf.scalar(&key) else { return Ok(None) };
        convert(&value).map(Some).ok_or_else(|| format!("its metadata has `{key}` of another kind than expected"))
    }

    fn integer(&self, key: &str) -> Result<Option<u64>, String> {
        self.get(key, GgufValue::as_u64)
    }

    fn number(&self, key: &str) -> Result<Option<f64>, String> {
        self.get(key, |value| value.as_f64().filter(|value| value.is_finite()))
    }

    /// A count that must be there and not be 0.
    fn count(&self, key: &str) -> Result<u64, String> {
        self.integer(key)?.filter(|&value| value > 0).ok_or_else(|| format!("its metadata lacks `{}`, or it is 0", self.full(key)))
    }

    /// Features of a head.
    fn head_width(&self) -> Result<u64, String> {
        match self.integer("attention.key_length")? {
            Some(width) => Ok(width),
            None => Ok(self.count("embedding_length")? / self.count("attention.head_count")?),
        }
    }
}

impl Gguf {
    /// A `config.json` in Hugging Face's terms, made from the metadata.
    ///
    /// # Errors
    /// When the architecture is unknown, or a key that it needs is missing or of another kind.
    pub fn config(&self) -> Result<Map<String, Value>, WeightsError> {
        build(self).map_err(|problem| self.file.fault(problem))
    }
}

/// The configuration, or a phrase that says what is missing.
fn build(gguf: &Gguf) -> Result<Map<String, Value>, String> {
    let architecture = gguf.architecture().ok_or("its metadata lacks `general.architecture`")?;
    let mut model_type = names::model_type(&architecture).ok_or_else(|| {
        format!("its architecture is `{}`, which is not known: expected one of {}", printable(&architecture), names::known())
    })?;
    let keys = Keys { gguf, architecture: &architecture };
    if keys.integer("attention.sliding_window")?.is_some() && model_type == "llama" {
        model_type = "mistral";
    }
    let groups: &[&[Field]] = match model_type {
        "phi" => &[COMMON, PHI],
        "gpt2" => &[GPT2],
        "gpt_neox" => &[COMMON, GPT_NEOX],
        "gemma2" => &[COMMON, LLAMA_LIKE, WINDOW, GEMMA2],
        "mistral" => &[COMMON, LLAMA_LIKE, WINDOW],
        _ => &[COMMON, LLAMA_LIKE],
    };
    let mut config = Map::new();
    config.insert("model_type".to_owned(), model_type.into());
    for &(key, name, kind, required) in groups.iter().copied().flatten() {
        let value = match kind {
            Integer => keys.integer(key)?.map(Value::from),
            Number => keys.number(key)?.map(Value::from),
        };
        match value {
            Some(value) => _ = config.insert(name.to_owned(), value),
            None if required => return Err(format!("its metadata lacks `{}`", keys.full(key))),
            None => (),
        }
    }
    for &(key, neutral) in NEUTRAL {
        if let Some(value) = keys.number(key)?.filter(|&value| value != neutral) {
            return Err(format!("its `{}` is {value}, which is not supported: expected {neutral}", keys.full(key)));
        }
    }
    let has = |name: &str| gguf.shape(name).is_some();
    let vocabulary = gguf.shape("token_embd.weight").and_then(|shape| shape.first()).ok_or("it lacks the tensor `token_embd.weight`")?;
    config.insert("vocab_size".to_owned(), json!(vocabulary));
    config.insert("tie_word_embeddings".to_owned(), json!(!has("output.weight") || gguf.tied_output));
    for token in ["bos", "eos"] {
        if let Some(id) = gguf.scalar(&format!("tokenizer.ggml.{token}_token_id")).and_then(|value| value.as_u64()) {
            config.insert(format!("{token}_token_id"), json!(id));
        }
    }
    match model_type {
        "llama" => {
            config.insert("attention_bias".to_owned(), json!(has("blk.0.attn_q.bias")));
            config.insert("mlp_bias".to_owned(), json!(has("blk.0.ffn_up.bias")));
            config.insert("hidden_act".to_owned(), json!("silu"));
        }
        "mistral" | "qwen2" => {
            config.insert("hidden_act".to_owned(), json!("silu"));
        }
        "qwen3" | "olmo2" => {
            config.insert("attention_bias".to_owned(), json!(has("blk.0.attn_q.bias")));
            config.insert("head_dim".to_owned(), json!(keys.head_width()?));
            config.insert("hidden_act".to_owned(), json!("silu"));
        }
        "gemma2" => {
            let width = keys.head_width()?;
            // The file does not hold the scale of the scores: llama.cpp knows the 27B model, of 46 layers, by its depth.
            let scale = if keys.count("block_count")? == 46 {
                keys.count("embedding_length")? / keys.count("attention.head_count")?
            } else {
                width
            };
            config.insert("query_pre_attn_scalar".to_owned(), json!(scale));
            config.insert("head_dim".to_owned(), json!(width));
            config.insert("hidden_activation".to_owned(), json!("gelu_pytorch_tanh"));
        }
        "gpt2" => {
            config.insert("activation_function".to_owned(), json!("gelu_new"));
        }
        "phi" => {
            config.insert("hidden_act".to_owned(), json!("gelu_new"));
            partial_rotary(&keys, "partial_rotary_factor", &mut config)?;
        }
        "gpt_neox" => {
            config.insert("hidden_act".to_owned(), json!("gelu"));
            config.insert("attention_bias".to_owned(), json!(has("blk.0.attn_qkv.bias")));
            let parallel = keys.get("use_parallel_residual", GgufValue::as_bool)?;
            config.insert("use_parallel_residual".to_owned(), json!(parallel.unwrap_or(true)));
            partial_rotary(&keys, "rotary_pct", &mut config)?;
        }
        _ => (),
    }
    if config.contains_key("rms_norm_eps") {
        // Every head is rotated whole, and values are as wide as keys.
        let width = keys.head_width()?;
        for key in ["rope.dimension_count", "attention.value_length"] {
            if let Some(other) = keys.integer(key)?.filter(|&other| other != width) {
                return Err(format!("its `{}` is {other}, but heads are {width} wide: a model of that kind is not known", keys.full(key)));
            }
        }
    }
    rotary_scaling(&keys, &mut config)?;
    Ok(config)
}

/// The share of a head that is rotated.
fn partial_rotary(keys: &Keys, name: &str, config: &mut Map<String, Value>) -> Result<(), String> {
    let (width, rotated) = (keys.head_width()?, keys.count("rope.dimension_count")?);
    if rotated > width {
        return Err(format!("its `{}` is {rotated}, but heads are {width} wide", keys.full("rope.dimension_count")));
    }
    // The least fraction whose product with the width does not fall under the whole number.
    let mut share = rotated as f64 / width as f64;
    if ((width as f64 * share) as u64) < rotated {
        share = share.next_up();
    }
    config.insert(name.to_owned(), json!(share));
    Ok(())
}

/// How the rotary frequencies are changed for long contexts.
fn rotary_scaling(keys: &Keys, config: &mut Map<String, Value>) -> Result<(), String> {
    let kind = keys.get("rope.scaling.type", |value| value.as_str().map(str::to_owned))?;
    // The first files had only a factor; a factor without a type is linear to llama.cpp too.
    let factor = match keys.number("rope.scaling.factor")? {
        None => keys.number("rope.scale_linear")?,
        factor => factor,
    };
    let factor = factor.filter(|&factor| factor != 0.0);
    if let Some(factors) = &keys.gguf.rotary_factors {
        if kind.as_deref().is_some_and(|kind| kind != "none") || factor.is_some_and(|factor| factor != 1.0) {
            return Err("it has both `rope_freqs.weight` and a scaling in its metadata: the rotary scaling cannot be told".to_owned());
        }
        let base = keys.number("rope.freq_base")?.unwrap_or(10000.0);
        let (factor, original) =
            llama3(factors, base).ok_or("its `rope_freqs.weight` is not that of a Llama 3 model: the rotary scaling cannot be told")?;
        let scaling = json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": LOW,
            "high_freq_factor": HIGH,
            "original_max_position_embeddings": original,
        });
        config.insert("rope_scaling".to_owned(), scaling);
        return Ok(());
    }
    match (kind.as_deref(), factor) {
        (None | Some("none"), None) | (Some("none"), Some(_)) => return Ok(()),
        (None, Some(1.0)) => return Ok(()),
        _ => (),
    }
    let factor = factor.ok_or_else(|| format!("its metadata lacks `{}`", keys.full("rope.scaling.factor")))?;
    let mut scaling = Map::new();
    scaling.insert("rope_type".to_owned(), json!(printable(kind.as_deref().unwrap_or("linear"))));
    scaling.insert("factor".to_owned(), json!(factor));
    if let Some(original) = keys.integer("rope.scaling.original_context_length")? {
        scaling.insert("original_max_position_embeddings".to_owned(), json!(original));
    }
    config.insert("rope_scaling".to_owned(), Value::Object(scaling));
    Ok(())
}

/// `low_freq_factor` and `high_freq_factor` of every released Llama 3 model.
const LOW: f64 = 1.0;
const HIGH: f64 = 4.0;

/// `factor` and `original_max_position_embeddings` of Llama 3's scaling. The file keeps what the settings came to for every frequency, not
/// the settings: find those that give it.
fn llama3(factors: &[f32], base: f64) -> Option<(f64, u64)> {
    let factor = f64::from(factors.iter().copied().fold(0.0, f32::max));
    let matches = |original: u64| {
        factors.iter().enumerate().all(|(index, &found)| {
            let expected = llama3_factor(base.powf(-(index as f64) / factors.len() as f64), factor, original as f64);
            (f64::from(found) / expected - 1.0).abs() < 1e-4
        })
    };
    // The released models have 8192.
    std::iter::once(8192).chain((4..=24).map(|power| 1 << power)).find(|&original| matches(original)).map(|original| (factor, original))
}

/// By how much Llama 3's scaling divides a frequency: 1 for short waves, `factor` for long ones, between the two in between.
fn llama3_factor(frequency: f64, factor: f64, original: f64) -> f64 {
    let turns = original * frequency / (2.0 * std::f64::consts::PI);
    if turns < LOW {
        factor
    } else if turns > HIGH {
        1.0
    } else {
        let smooth = (turns - LOW) / (HIGH - LOW);
        1.0 / ((1.0 - smooth) / factor + smooth)
    }
}
