//! GPT-2: learned positions, weights stored transposed.

use std::sync::Arc;

use serde_json::Value;

use super::decoder::{Attention, Builder, Decoder, Inner, Layer, Projection, Settings};
use super::{Architecture, ArchitectureError, LanguageModel};
use crate::nn::NormKind;

pub(super) const MODEL_TYPE: &str = "gpt2";

/// Reads and checks the family's settings.
pub(super) fn read(config: &Value) -> Result<Arc<dyn Architecture>, ArchitectureError> {
    let settings = Settings(config);
    let (vocabulary, hidden, count) = (settings.size("vocab_size")?, settings.size("n_embd")?, settings.layers("n_layer")?);
    let intermediate = settings.size_or("n_inner", 4 * hidden)?;
    let heads = settings.heads(hidden, settings.size("n_head")?, None, None)?;
    let positions = settings.size_or("n_positions", 1024)?;
    let epsilon = settings.number_or("layer_norm_epsilon", 1e-5)? as f32;
    let activation = settings.activation("activation_function", "gelu_new")?;
    let scaled = settings.flag_or("scale_attn_weights", true)?;
    let by_layer = settings.flag_or("scale_attn_by_inverse_layer_idx", false)?;
    let tied = settings.flag_or("tie_word_embeddings", true)?;

    let mut tensors = Builder::default();
    let embedding = tensors.tensor("transformer.wte.weight".to_owned(), &[vocabulary, hidden]);
    let learned = tensors.tensor("transformer.wpe.weight".to_owned(), &[positions, hidden]);
    let layers = (0..count)
        .map(|index| {
            let name = |part: &str| format!("transformer.h.{index}.{part}");
            let before_attention = tensors.norm(&name("ln_1"), NormKind::Layer, hidden, epsilon);
            let all = tensors.transposed(&name("attn.c_attn"), hidden, 3 * hidden);
            let output = tensors.transposed(&name("attn.c_proj"), hidden, hidden);
            let before_mlp = tensors.norm(&name("ln_2"), NormKind::Layer, hidden, epsilon);
            let up = tensors.transposed(&name("mlp.c_fc"), hidden, intermediate);
            let down = tensors.transposed(&name("mlp.c_proj"), intermediate, hidden);
            let mut attention = Attention::plain(Projection::Stacked(all), output, heads.width);
            if !scaled {
                attention.scale = 1.0;
            }
            if by_layer {
                attention.scale /= (index + 1) as f32;
            }
            Layer {
                before_attention: Some(before_attention),
                before_mlp: Some(before_mlp),
                ..Layer::plain(attention, Inner::Plain(up), down, activation)
            }
        })
        .collect();
    let final_norm = Some(tensors.norm("transformer.ln_f", NormKind::Layer, hidden, epsilon));
    let head = tensors.head("lm_head", &embedding, tied, hidden, vocabulary, false);
    let decoder =
        Decoder { positions, learned_positions: Some((learned, 0)), layers, final_norm, ..Decoder::plain(hidden, heads, embedding, head) };
    LanguageModel::shared(MODEL_TYPE, config, tensors, decoder)
}
