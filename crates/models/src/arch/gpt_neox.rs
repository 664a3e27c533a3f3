//! GPT-NeoX (Pythia): partial rotary positions, interleaved projection, parallel residual.

use std::sync::Arc;

use serde_json::{Value, json};

use super::decoder::{Attention, Builder, Decoder, Inner, Layer, Projection, RotaryDefaults, Rotated, Settings};
use super::{Architecture, ArchitectureError, LanguageModel};
use crate::nn::NormKind;

pub(super) const MODEL_TYPE: &str = "gpt_neox";

/// Reads and checks the family's settings.
pub(super) fn read(config: &Value) -> Result<Arc<dyn Architecture>, ArchitectureError> {
    let settings = Settings(config);
    let (vocabulary, hidden, count) = (settings.size("vocab_size")?, settings.size("hidden_size")?, settings.layers("num_hidden_layers")?);
    let intermediate = settings.size("intermediate_size")?;
    let heads = settings.heads(hidden, settings.size("num_attention_heads")?, None, None)?;
    // The family derives it; a head of another width would only break the rotation.
    settings.expect("head_dim", &json!(heads.width))?;
    let epsilon = settings.number_or("layer_norm_eps", 1e-5)? as f32;
    let activation = settings.activation("hidden_act", "gelu")?;
    let parallel = settings.flag_or("use_parallel_residual", true)?;
    let bias = settings.flag_or("attention_bias", true)?;
    let tied = settings.flag_or("tie_word_embeddings", false)?;
    let fraction = settings.partial_rotary("rotary_pct", 0.25)?;
    let positions = settings.size_or("max_position_embeddings", 2048)?;
    let defaults = RotaryDefaults { base_key: "rotary_emb_base", ..RotaryDefaults::plain(positions) };
    let rotary = settings.rotary(Rotated::share(fraction, heads.width), defaults)?;

    let mut tensors = Builder::default();
    let embedding = tensors.tensor("gpt_neox.embed_in.weight".to_owned(), &[vocabulary, hidden]);
    let layers = (0..count)
        .map(|index| {
            let name = |part: &str| format!("gpt_neox.layers.{index}.{part}");
            let before_attention = tensors.norm(&name("input_layernorm"), NormKind::Layer, hidden, epsilon);
            let before_mlp = tensors.norm(&name("post_attention_layernorm"), NormKind::Layer, hidden, epsilon);
            let all = tensors.linear(&name("attention.query_key_value"), hidden, 3 * hidden, bias);
            let output = tensors.linear(&name("attention.dense"), hidden, hidden, bias);
            let up = tensors.linear(&name("mlp.dense_h_to_4h"), hidden, intermediate, true);
            let down = tensors.linear(&name("mlp.dense_4h_to_h"), intermediate, hidden, true);
            let attention = Attention { rotary: Some(0), ..Attention::plain(Projection::Interleaved(all), output, heads.width) };
            Layer {
                before_attention: Some(before_attention),
                before_mlp: Some(before_mlp),
                parallel,
                ..Layer::plain(attention, Inner::Plain(up), down, activation)
            }
        })
        .collect();
    let final_norm = Some(tensors.norm("gpt_neox.final_layer_norm", NormKind::Layer, hidden, epsilon));
    let head = tensors.head("embed_out", &embedding, tied, hidden, vocabulary, false);
    let decoder = Decoder { positions, rotaries: vec![rotary], layers, final_norm, ..Decoder::plain(hidden, heads, embedding, head) };
    LanguageModel::shared(MODEL_TYPE, config, tensors, decoder)
}
