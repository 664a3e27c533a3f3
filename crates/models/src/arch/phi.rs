//! Phi (1, 1.5, 2): partial rotary positions, one norm for attention and multilayer perceptron side by side, a head with bias.

use std::sync::Arc;

use serde_json::Value;

use super::decoder::{Attention, Builder, Decoder, Inner, Layer, Projection, RotaryDefaults, Rotated, Settings};
use super::{Architecture, ArchitectureError, LanguageModel};
use crate::nn::NormKind;

pub(super) const MODEL_TYPE: &str = "phi";

/// Reads and checks the family's settings.
pub(super) fn read(config: &Value) -> Result<Arc<dyn Architecture>, ArchitectureError> {
    let settings = Settings(config);
    let (vocabulary, hidden, count) = (settings.size("vocab_size")?, settings.size("hidden_size")?, settings.layers("num_hidden_layers")?);
    let intermediate = settings.size("intermediate_size")?;
    let grouped = settings.optional_size("num_key_value_heads")?;
    let width = settings.optional_size("head_dim")?;
    let heads = settings.heads(hidden, settings.size("num_attention_heads")?, grouped, width)?;
    let epsilon = settings.number_or("layer_norm_eps", 1e-5)? as f32;
    let activation = settings.activation("hidden_act", "gelu_new")?;
    let normed = settings.flag_or("qk_layernorm", false)?;
    let tied = settings.flag_or("tie_word_embeddings", false)?;
    let fraction = settings.partial_rotary("partial_rotary_factor", 0.5)?;
    let positions = settings.size_or("max_position_embeddings", 2048)?;
    let rotary = settings.rotary(Rotated::share(fraction, heads.width), RotaryDefaults::plain(positions))?;

    let mut tensors = Builder::default();
    let embedding = tensors.tensor("model.embed_tokens.weight".to_owned(), &[vocabulary, hidden]);
    let layers = (0..count)
        .map(|index| {
            let name = |part: &str| format!("model.layers.{index}.{part}");
            let query = tensors.linear(&name("self_attn.q_proj"), hidden, heads.query_width(), true);
            let key = tensors.linear(&name("self_attn.k_proj"), hidden, heads.key_width(), true);
            let value = tensors.linear(&name("self_attn.v_proj"), hidden, heads.key_width(), true);
            let output = tensors.linear(&name("self_attn.dense"), heads.query_width(), hidden, true);
            let projection = Projection::Separate { query, key, value };
            let mut attention = Attention { rotary: Some(0), ..Attention::plain(projection, output, heads.width) };
            if normed {
                attention.query_norm = Some(tensors.norm(&name("self_attn.q_layernorm"), NormKind::Layer, heads.width, epsilon));
                attention.key_norm = Some(tensors.norm(&name("self_attn.k_layernorm"), NormKind::Layer, heads.width, epsilon));
            }
            let up = tensors.linear(&name("mlp.fc1"), hidden, intermediate, true);
            let down = tensors.linear(&name("mlp.fc2"), intermediate, hidden, true);
            let norm = tensors.norm(&name("input_layernorm"), NormKind::Layer, hidden, epsilon);
            let before_attention = Some(norm.clone());
            Layer {
                before_attention,
                before_mlp: Some(norm),
                parallel: true,
                ..Layer::plain(attention, Inner::Plain(up), down, activation)
            }
        })
        .collect();
    let final_norm = Some(tensors.norm("model.final_layernorm", NormKind::Layer, hidden, epsilon));
    let head = tensors.head("lm_head", &embedding, tied, hidden, vocabulary, true);
    let decoder = Decoder { positions, rotaries: vec![rotary], layers, final_norm, ..Decoder::plain(hidden, heads, embedding, head) };
    LanguageModel::shared(MODEL_TYPE, config, tensors, decoder)
}
