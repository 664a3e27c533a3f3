//! Phi 3, 3.5 and 4: Llama with one layer for queries, keys and values and one for gate and up, rotary divisors that go by the length of the
//! sequence, and a share of every head's features that rotates.

use std::sync::Arc;

use serde_json::{Value, json};

use super::decoder::{Attention, Builder, Decoder, Inner, Layer, Projection, RotaryDefaults, Rotated, Settings};
use super::{Architecture, ArchitectureError, LanguageModel};
use crate::nn::NormKind;

pub(super) const MODEL_TYPE: &str = "phi3";

/// Earlier names of LongRoPE.
const LONGROPE: &[(&str, &str)] = &[("su", "longrope"), ("yarn", "longrope")];

/// Reads and checks the family's settings.
pub(super) fn read(config: &Value) -> Result<Arc<dyn Architecture>, ArchitectureError> {
    let settings = Settings(config);
    let (vocabulary, hidden, count) = (settings.size("vocab_size")?, settings.size("hidden_size")?, settings.layers("num_hidden_layers")?);
    let intermediate = settings.size("intermediate_size")?;
    let grouped = settings.optional_size("num_key_value_heads")?;
    let heads = settings.heads(hidden, settings.size("num_attention_heads")?, grouped, settings.optional_size("head_dim")?)?;
    let epsilon = settings.number_or("rms_norm_eps", 1e-5)? as f32;
    let activation = settings.activation("hidden_act", "silu")?;
    let window = settings.optional_size("sliding_window")?;
    let tied = settings.flag_or("tie_word_embeddings", false)?;
    // Some configurations have them; the family has no biases and one window for all layers.
    settings.expect("attention_bias", &json!(false))?;
    settings.expect("layer_types", &Value::Null)?;
    let positions = settings.size_or("max_position_embeddings", 4096)?;
    let rotated = Rotated::share(settings.partial_rotary("partial_rotary_factor", 1.0)?, heads.width);
    let defaults = RotaryDefaults { original_positions: Some(4096), other_names: LONGROPE, ..RotaryDefaults::plain(positions) };
    let rotary = settings.rotary(rotated, defaults)?;

    let mut tensors = Builder::default();
    let embedding = tensors.tensor("model.embed_tokens.weight".to_owned(), &[vocabulary, hidden]);
    let layers = (0..count)
        .map(|index| {
            let name = |part: &str| format!("model.layers.{index}.{part}");
            let output = tensors.linear(&name("self_attn.o_proj"), heads.query_width(), hidden, false);
            let all = tensors.linear(&name("self_attn.qkv_proj"), hidden, heads.query_width() + 2 * heads.key_width(), false);
            let inner = Inner::Stacked(tensors.linear(&name("mlp.gate_up_proj"), hidden, 2 * intermediate, false));
            let down = tensors.linear(&name("mlp.down_proj"), intermediate, hidden, false);
            let attention = Attention::plain(Projection::Stacked(all), output, heads.width);
            Layer {
                before_attention: Some(tensors.norm(&name("input_layernorm"), NormKind::Rms, hidden, epsilon)),
                before_mlp: Some(tensors.norm(&name("post_attention_layernorm"), NormKind::Rms, hidden, epsilon)),
                ..Layer::plain(Attention { window, rotary: Some(0), ..attention }, inner, down, activation)
            }
        })
        .collect();
    let final_norm = Some(tensors.norm("model.norm", NormKind::Rms, hidden, epsilon));
    let head = tensors.head("lm_head", &embedding, tied, hidden, vocabulary, false);
    let decoder = Decoder { positions, rotaries: vec![rotary], layers, final_norm, ..Decoder::plain(hidden, heads, embedding, head) };
    LanguageModel::shared(MODEL_TYPE, config, tensors, decoder)
}
