//! Llama (2 and 3, SmolLM2, TinyLlama), and what its descendants share with it.

use std::sync::Arc;

use serde_json::Value;

use super::decoder::{Attention, Builder, Decoder, Inner, Layer, Projection, RotaryDefaults, Rotated, Settings};
use super::{Architecture, ArchitectureError, LanguageModel};
use crate::nn::NormKind;

pub(super) const MODEL_TYPE: &str = "llama";

/// What distinguishes the descendants of Llama.
#[derive(Debug, Clone)]
pub(super) struct Variant {
    pub(super) model_type: &'static str,
    /// Biases of queries, keys and values; of the attention's output; of the multilayer perceptron.
    pub(super) biases: (bool, bool, bool),
    /// Norm of queries and keys.
    pub(super) key_norm: KeyNorm,
    pub(super) norms: Norms,
    pub(super) norm_kind: NormKind,
    pub(super) epsilon: f64,
    pub(super) activation: (&'static str, &'static str),
    pub(super) tied: bool,
    pub(super) head_width: Option<usize>,
    /// Heads of keys and values; `None` for as many as there are of queries.
    pub(super) key_value_heads: Option<usize>,
    /// Longest sequence, when the configuration does not say.
    pub(super) positions: usize,
    pub(super) embedding_scale: f32,
    /// Factor of what attention and multilayer perceptron add to the states.
    pub(super) branch_scale: f32,
    /// Factor of what the head reads.
    pub(super) output_scale: f32,
    /// Score scale, when it is not that of the head's width.
    pub(super) score_scale: Option<f32>,
    pub(super) score_cap: Option<f32>,
    pub(super) logit_cap: Option<f32>,
    /// Window of each layer; `None` for none at all.
    pub(super) windows: Vec<Option<usize>>,
    pub(super) bases: Bases,
}

/// Bases of the rotations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Bases {
    /// One, `rope_theta`.
    Same,
    /// One for the layers without a window and one for those with a window (Gemma 3, OLMo 3): key and value when the key is not there.
    ByWindow { full: (&'static str, f64), sliding: (&'static str, f64) },
}

/// Norms of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyNorm {
    Absent,
    /// One norm over each head's features (Qwen 3).
    Heads,
    /// One norm over the features of all heads (OLMo 2).
    All,
}

/// Where the norms of a layer stand, and their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Norms {
    Before,
    /// On the branches only (OLMo 2).
    After,
    /// Both (Gemma 2).
    Both,
}

impl Variant {
    /// Llama itself, but for its own options.
    pub(super) fn plain(model_type: &'static str, settings: Settings<'_>) -> Result<Self, ArchitectureError> {
        Ok(Self {
            model_type,
            biases: (false, false, false),
            key_norm: KeyNorm::Absent,
            norms: Norms::Before,
            norm_kind: NormKind::Rms,
            epsilon: 1e-6,
            activation: ("hidden_act", "silu"),
            tied: settings.flag_or("tie_word_embeddings", false)?,
            head_width: settings.optional_size("head_dim")?,
            key_value_heads: settings.optional_size("num_key_value_heads")?,
            positions: 2048,
            embedding_scale: 1.0,
            branch_scale: 1.0,
            output_scale: 1.0,
            score_scale: None,
            score_cap: None,
            logit_cap: None,
            windows: Vec::new(),
            bases: Bases::Same,
        })
    }
}

/// Reads and checks the family's settings.
pub(super) fn read(config: &Value) -> Result<Arc<dyn Architecture>, ArchitectureError> {
    let settings = Settings(config);
    let attention = settings.flag_or("attention_bias", false)?;
    let biases = (attention, attention, settings.flag_or("mlp_bias", false)?);
    build(config, Variant { biases, ..Variant::plain(MODEL_TYPE, settings)? })
}

/// The network of a variant.
pub(super) fn build(config: &Value, variant: Variant) -> Result<Arc<dyn Architecture>, ArchitectureError> {
    let settings = Settings(config);
    let (vocabulary, hidden, count) = (settings.size("vocab_size")?, settings.size("hidden_size")?, settings.layers("num_hidden_layers")?);
    let intermediate = settings.size("intermediate_size")?;
    let heads = settings.size("num_attention_heads")?;
    let heads = settings.heads(hidden, heads, variant.key_value_heads, variant.head_width)?;
    let epsilon = settings.number_or("rms_norm_eps", variant.epsilon)? as f32;
    let activation = settings.activation(variant.activation.0, variant.activation.1)?;
    let fraction = settings.partial_rotary("partial_rotary_factor", 1.0)?;
    if fraction != 1.0 {
        let message = format!("`partial_rotary_factor` is {fraction}, which is not supported by this family: expected 1");
        return Err(ArchitectureError::Setting(message));
    }
    let positions = settings.size_or("max_position_embeddings", variant.positions)?;
    let plain = RotaryDefaults::plain(positions);
    let rotaries = match variant.bases {
        Bases::Same => vec![settings.rotary(Rotated::share(1.0, heads.width), plain)?],
        Bases::ByWindow { full, sliding } => {
            let defaults = |(base_key, base)| RotaryDefaults { base_key, base, ..plain };
            settings.rotaries(heads.width, defaults(full), defaults(sliding))?.into()
        }
    };
    let (queries, keys) = (heads.query_width(), heads.key_width());
    let norm_kind = variant.norm_kind;

    let mut tensors = Builder::default();
    let embedding = tensors.tensor("model.embed_tokens.weight".to_owned(), &[vocabulary, hidden]);
    let layers = (0..count)
        .map(|index| {
            let name = |part: &str| format!("model.layers.{index}.{part}");
            let (input_bias, output_bias, mlp_bias) = variant.biases;
            let query = tensors.linear(&name("self_attn.q_proj"), hidden, queries, input_bias);
            let key = tensors.linear(&name("self_attn.k_proj"), hidden, keys, input_bias);
            let value = tensors.linear(&name("self_attn.v_proj"), hidden, keys, input_bias);
            let output = tensors.linear(&name("self_attn.o_proj"), queries, hidden, output_bias);
            let mut attention = Attention::plain(Projection::Separate { query, key, value }, output, heads.width);
            let key_norms = match variant.key_norm {
                KeyNorm::Absent => None,
                KeyNorm::Heads => Some((heads.width, heads.width)),
                KeyNorm::All => Some((queries, keys)),
            };
            if let Some((query_width, key_width)) = key_norms {
                attention.query_norm = Some(tensors.norm(&name("self_attn.q_norm"), norm_kind, query_width, epsilon));
                attention.key_norm = Some(tensors.norm(&name("self_attn.k_norm"), norm_kind, key_width, epsilon));
            }
            attention.scale = variant.score_scale.unwrap_or(attention.scale);
            attention.cap = variant.score_cap;
            attention.window = variant.windows.get(index).copied().flatten();
            attention.rotary = Some(if attention.window.is_some() { rotaries.len() - 1 } else { 0 });
            let gate = tensors.linear(&name("mlp.gate_proj"), hidden, intermediate, mlp_bias);
            let up = tensors.linear(&name("mlp.up_proj"), hidden, intermediate, mlp_bias);
            let down = tensors.linear(&name("mlp.down_proj"), intermediate, hidden, mlp_bias);
            let mut layer = Layer::plain(attention, Inner::Gated { gate, up }, down, activation);
            let mut norm = |part: &str| Some(tensors.norm(&name(part), norm_kind, hidden, epsilon));
            match variant.norms {
                Norms::Before => {
                    layer.before_attention = norm("input_layernorm");
                    layer.before_mlp = norm("post_attention_layernorm");
                }
                Norms::After => {
                    layer.after_attention = norm("post_attention_layernorm");
                    layer.after_mlp = norm("post_feedforward_layernorm");
                }
                Norms::Both => {
                    layer.before_attention = norm("input_layernorm");
                    layer.after_attention = norm("post_attention_layernorm");
                    layer.before_mlp = norm("pre_feedforward_layernorm");
                    layer.after_mlp = norm("post_feedforward_layernorm");
                }
            }
            layer
        })
        .collect();
    let final_norm = Some(tensors.norm("model.norm", norm_kind, hidden, epsilon));
    let head = tensors.head("lm_head", &embedding, variant.tied, hidden, vocabulary, false);
    let decoder = Decoder {
        positions,
        embedding_scale: variant.embedding_scale,
        branch_scale: variant.branch_scale,
        output_scale: variant.output_scale,
        rotaries,
        layers,
        final_norm,
        logit_cap: variant.logit_cap,
        ..Decoder::plain(hidden, heads, embedding, head)
    };
    LanguageModel::shared(variant.model_type, config, tensors, decoder)
}
