//! A `config.json` in Hugging Face's terms from the metadata of a gguf file.

use serde_json::{Map, Value, json};

use super::error::printable;
use super::gguf::{Gguf, GgufValue};
use super::gguf_names;

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
    ("attention.sliding_window", "sliding_window", Integer, false),
];
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
    &[("attention.layer_norm_epsilon", "layer_norm_eps", Number, true), ("rope.freq_base", "rope_theta", Number, false)];

/// The configuration, or a phrase that says what is missing.
pub(super) fn build(gguf: &Gguf) -> Result<Map<String, Value>, String> {
    let architecture = gguf.architecture().ok_or("its metadata lacks `general.architecture`")?;
    let model_type = gguf_names::model_type(&architecture).ok_or_else(|| {
        format!("its architecture is `{}`, which is not known: expected one of {}", printable(&architecture), gguf_names::known())
    })?;
    let groups: &[&[Field]] = match model_type {
        "phi" => &[COMMON, PHI],
        "gpt2" => &[GPT2],
        "gpt_neox" => &[COMMON, GPT_NEOX],
        "gemma2" => &[COMMON, LLAMA_LIKE, GEMMA2],
        _ => &[COMMON, LLAMA_LIKE],
    };
    let mut config = Map::new();
    config.insert("model_type".to_owned(), model_type.into());
    for &(key, name, kind, required) in groups.iter().copied().flatten() {
        let key = format!("{architecture}.{key}");
        let value = match (gguf.get(&key), kind) {
            (None, _) if required => return Err(format!("its metadata lacks `{key}`")),
            (None, _) => continue,
            (Some(value), Integer) => value.as_u64().map(Value::from),
            (Some(value), Number) => value.as_f64().filter(|value| value.is_finite()).map(Value::from),
        };
        config.insert(name.to_owned(), value.ok_or_else(|| format!("its metadata has `{key}` of another kind than expected"))?);
    }
    let has = |name: &str| gguf.shape(name).is_some();
    let vocabulary = gguf.shape("token_embd.weight").and_then(|shape| shape.first()).ok_or("it lacks the tensor `token_embd.weight`")?;
    config.insert("vocab_size".to_owned(), json!(vocabulary));
    config.insert("tie_word_embeddings".to_owned(), json!(!has("output.weight")));
    for token in ["bos", "eos"] {
        if let Some(id) = gguf.get(&format!("tokenizer.ggml.{token}_token_id")).and_then(|value| value.as_u64()) {
            config.insert(format!("{token}_token_id"), json!(id));
        }
    }
    match model_type {
        "llama" => {
            config.insert("attention_bias".to_owned(), json!(has("blk.0.attn_q.bias")));
            config.insert("mlp_bias".to_owned(), json!(has("blk.0.ffn_up.bias")));
            config.insert("hidden_act".to_owned(), json!("silu"));
        }
        "qwen2" | "qwen3" | "olmo2" => {
            config.insert("hidden_act".to_owned(), json!("silu"));
        }
        "gemma2" => {
            config.insert("hidden_activation".to_owned(), json!("gelu_pytorch_tanh"));
        }
        "gpt2" => {
            config.insert("activation_function".to_owned(), json!("gelu_new"));
        }
        "phi" => {
            config.insert("hidden_act".to_owned(), json!("gelu_new"));
            partial_rotary(gguf, &architecture, "partial_rotary_factor", &mut config)?;
        }
        "gpt_neox" => {
            config.insert("hidden_act".to_owned(), json!("gelu"));
            let parallel = gguf.get(&format!("{architecture}.use_parallel_residual")).and_then(|value| value.as_bool());
            config.insert("use_parallel_residual".to_owned(), json!(parallel.unwrap_or(true)));
            partial_rotary(gguf, &architecture, "rotary_pct", &mut config)?;
        }
        _ => (),
    }
    rotary_scaling(gguf, &architecture, &mut config)?;
    Ok(config)
}

/// The share of a head that is rotated.
fn partial_rotary(gguf: &Gguf, architecture: &str, name: &str, config: &mut Map<String, Value>) -> Result<(), String> {
    let number = |key: &str| {
        let key = format!("{architecture}.{key}");
        gguf.get(&key).and_then(|value| value.as_u64()).filter(|&value| value > 0).ok_or_else(|| format!("its metadata lacks `{key}`"))
    };
    let width = number("embedding_length")? / number("attention.head_count")?;
    let rotated = number("rope.dimension_count")?;
    if rotated > width {
        return Err(format!("its `{architecture}.rope.dimension_count` is {rotated}, but heads are {width} wide"));
    }
    config.insert(name.to_owned(), json!(rotated as f64 / width as f64));
    Ok(())
}

/// `factor`, `low_freq_factor`, `high_freq_factor` and `original_max_position_embeddings` of the released Llama 3 models.
const LLAMA3: &[(f64, f64, f64, f64)] = &[(8.0, 1.0, 4.0, 8192.0), (32.0, 1.0, 4.0, 8192.0)];

/// How the rotary frequencies are changed for long contexts.
fn rotary_scaling(gguf: &Gguf, architecture: &str, config: &mut Map<String, Value>) -> Result<(), String> {
    if let Some(factors) = &gguf.rotary_factors {
        // The file keeps what the settings came to for every frequency, not the settings: find those that give it.
        let base = gguf.get(&format!("{architecture}.rope.freq_base")).and_then(|value| value.as_f64()).unwrap_or(10000.0);
        let known = LLAMA3.iter().find(|&&settings| {
            factors.iter().enumerate().all(|(index, &factor)| {
                let expected = llama3_factor(base.powf(-(index as f64) / factors.len() as f64), settings);
                (f64::from(factor) / expected - 1.0).abs() < 1e-4
            })
        });
        let &(factor, low, high, original) =
            known.ok_or("its `rope_freqs.weight` is not that of a Llama 3 model: the rotary scaling cannot be told")?;
        let scaling = json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": original as u64,
        });
        config.insert("rope_scaling".to_owned(), scaling);
        return Ok(());
    }
    let key = |name: &str| format!("{architecture}.rope.scaling.{name}");
    match gguf.get(&key("type")).as_ref().and_then(GgufValue::as_str) {
        None | Some("none") => Ok(()),
        Some(kind) => {
            let factor = gguf.get(&key("factor")).and_then(|value| value.as_f64()).filter(|value| value.is_finite());
            let factor = factor.ok_or_else(|| format!("its metadata lacks `{}`", key("factor")))?;
            let mut scaling = Map::new();
            scaling.insert("rope_type".to_owned(), json!(printable(kind)));
            scaling.insert("factor".to_owned(), json!(factor));
            if let Some(original) = gguf.get(&key("original_context_length")).and_then(|value| value.as_u64()) {
                scaling.insert("original_max_position_embeddings".to_owned(), json!(original));
            }
            config.insert("rope_scaling".to_owned(), Value::Object(scaling));
            Ok(())
        }
    }
}

/// By how much Llama 3's scaling divides a frequency: 1 for short waves, `factor` for long ones, between the two in between.
fn llama3_factor(frequency: f64, (factor, low, high, original): (f64, f64, f64, f64)) -> f64 {
    let turns = original * frequency / (2.0 * std::f64::consts::PI);
    if turns < low {
        factor
    } else if turns > high {
        1.0
    } else {
        let smooth = (turns - low) / (high - low);
        1.0 / ((1.0 - smooth) / factor + smooth)
    }
}
