//! StableLM (3B 4E1T, 2 and Zephyr): partial rotary positions, LayerNorm, and for some models norms of queries and keys with factors of every
//! head's own, or attention and multilayer perceptron side by side.

use std::sync::Arc;

use serde_json::Value;

use super::decoder::{Attention, Builder, Decoder, Inner, Layer, Norm, Projection, RotaryDefaults, Rotated, Settings};
use super::{Architecture, ArchitectureError, LanguageModel};
use crate::nn::NormKind;

pub(super) const MODEL_TYPE: &str = "stablelm";

/// Reads and checks the family's settings.
pub(super) fn read(config: &Value) -> Result<Arc<dyn Architecture>, ArchitectureError> {
    let settings = Settings(config);
    let (vocabulary, hidden, count) = (settings.size("vocab_size")?, settings.size("hidden_size")?, settings.layers("num_hidden_layers")?);
    let intermediate = settings.size("intermediate_size")?;
    let heads = settings.heads(hidden, settings.size("num_attention_heads")?, Some(settings.size_or("num_key_value_heads", 32)?), None)?;
    let epsilon = settings.number_or("layer_norm_eps", 1e-5)? as f32;
    let activation = settings.activation("hidden_act", "silu")?;
    let bias = settings.flag_or("use_qkv_bias", false)?;
    let normed = settings.flag_or("qk_layernorm", false)?;
    let parallel = settings.flag_or("use_parallel_residual", false)?;
    let tied = settings.flag_or("tie_word_embeddings", false)?;
    let positions = settings.size_or("max_position_embeddings", 4096)?;
    let rotated = Rotated::share(settings.partial_rotary("partial_rotary_factor", 0.25)?, heads.width);
    let rotary = settings.rotary(rotated, RotaryDefaults::plain(positions))?;

    let mut tensors = Builder::default();
    let embedding = tensors.tensor("model.embed_tokens.weight".to_owned(), &[vocabulary, hidden]);
    let layers = (0..count)
        .map(|index| {
            let name = |part: &str| format!("model.layers.{index}.{part}");
            let query = tensors.linear(&name("self_attn.q_proj"), hidden, heads.query_width(), bias);
            let key = tensors.linear(&name("self_attn.k_proj"), hidden, heads.key_width(), bias);
            let value = tensors.linear(&name("self_attn.v_proj"), hidden, heads.key_width(), bias);
            let output = tensors.linear(&name("self_attn.o_proj"), hidden, hidden, false);
            let mut attention = Attention::plain(Projection::Separate { query, key, value }, output, heads.width);
            attention.rotary = Some(0);
            if normed {
                let mut norms = |part: &str, count: usize| {
                    let names = (0..count).map(|head| name(&format!("self_attn.{part}.norms.{head}.weight")));
                    let weight = Some(tensors.consecutive(names, &[heads.width]));
                    Some(Norm { kind: NormKind::Layer, weight, bias: None, width: heads.width, epsilon })
                };
                attention.query_norm = norms("q_layernorm", heads.queries);
                attention.key_norm = norms("k_layernorm", heads.keys);
            }
            let gate = tensors.linear(&name("mlp.gate_proj"), hidden, intermediate, false);
            let up = tensors.linear(&name("mlp.up_proj"), hidden, intermediate, false);
            let down = tensors.linear(&name("mlp.down_proj"), intermediate, hidden, false);
            let first = tensors.norm(&name("input_layernorm"), NormKind::Layer, hidden, epsilon);
            let second =
                if parallel { first.clone() } else { tensors.norm(&name("post_attention_layernorm"), NormKind::Layer, hidden, epsilon) };
            let plain = Layer::plain(attention, Inner::Gated { gate, up }, down, activation);
            Layer { before_attention: Some(first), before_mlp: Some(second), parallel, ..plain }
        })
        .collect();
    let final_norm = Some(tensors.norm("model.norm", NormKind::Layer, hidden, epsilon));
    let head = tensors.head("lm_head", &embedding, tied, hidden, vocabulary, false);
    let decoder = Decoder { positions, rotaries: vec![rotary], layers, final_norm, ..Decoder::plain(hidden, heads, embedding, head) };
    LanguageModel::shared(MODEL_TYPE, config, tensors, decoder)
}
