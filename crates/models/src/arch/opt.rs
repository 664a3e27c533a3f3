//! OPT: learned positions that start at row 2, optional projections around the layers, norms before or behind.

use std::sync::Arc;

use serde_json::Value;

use super::decoder::{Attention, Builder, Decoder, Inner, Layer, Norm, Projection, Settings};
use super::{Architecture, ArchitectureError, LanguageModel};
use crate::nn::NormKind;

pub(super) const MODEL_TYPE: &str = "opt";

/// Row of position 0 in the tensor of learned positions.
const FIRST_POSITION: usize = 2;

const EPSILON: f32 = 1e-5;

/// Reads and checks the family's settings.
pub(super) fn read(config: &Value) -> Result<Arc<dyn Architecture>, ArchitectureError> {
    let settings = Settings(config);
    let (vocabulary, hidden, count) = (settings.size("vocab_size")?, settings.size("hidden_size")?, settings.layers("num_hidden_layers")?);
    let intermediate = settings.size("ffn_dim")?;
    let heads = settings.heads(hidden, settings.size("num_attention_heads")?, None, None)?;
    let positions = settings.size_or("max_position_embeddings", 2048)?;
    let outer = settings.size_or("word_embed_proj_dim", hidden)?;
    let activation = settings.activation("activation_function", "relu")?;
    let bias = settings.flag_or("enable_bias", true)?;
    let affine = settings.flag_or("layer_norm_elementwise_affine", true)?;
    let before = settings.flag_or("do_layer_norm_before", true)?;
    let removed = settings.flag_or("_remove_final_layer_norm", false)?;
    let last_norm = before && !removed;
    let tied = settings.flag_or("tie_word_embeddings", true)?;

    let mut tensors = Builder::default();
    let norm = |tensors: &mut Builder, name: &str| {
        if affine {
            tensors.norm(name, NormKind::Layer, hidden, EPSILON)
        } else {
            Norm { kind: NormKind::Layer, weight: None, bias: None, width: hidden, epsilon: EPSILON }
        }
    };
    let embedding = tensors.tensor("model.decoder.embed_tokens.weight".to_owned(), &[vocabulary, outer]);
    let learned = tensors.tensor("model.decoder.embed_positions.weight".to_owned(), &[positions + FIRST_POSITION, hidden]);
    let project_out = (outer != hidden).then(|| tensors.linear("model.decoder.project_out", hidden, outer, false));
    let project_in = (outer != hidden).then(|| tensors.linear("model.decoder.project_in", outer, hidden, false));
    let final_norm = last_norm.then(|| norm(&mut tensors, "model.decoder.final_layer_norm"));
    let layers = (0..count)
        .map(|index| {
            let name = |part: &str| format!("model.decoder.layers.{index}.{part}");
            let key = tensors.linear(&name("self_attn.k_proj"), hidden, hidden, bias);
            let value = tensors.linear(&name("self_attn.v_proj"), hidden, hidden, bias);
            let query = tensors.linear(&name("self_attn.q_proj"), hidden, hidden, bias);
            let output = tensors.linear(&name("self_attn.out_proj"), hidden, hidden, bias);
            let first = Some(norm(&mut tensors, &name("self_attn_layer_norm")));
            let up = tensors.linear(&name("fc1"), hidden, intermediate, bias);
            let down = tensors.linear(&name("fc2"), intermediate, hidden, bias);
            let second = Some(norm(&mut tensors, &name("final_layer_norm")));
            let attention = Attention::plain(Projection::Separate { query, key, value }, output, heads.width);
            let plain = Layer::plain(attention, Inner::Plain(up), down, activation);
            if before {
                Layer { before_attention: first, before_mlp: second, ..plain }
            } else {
                Layer { after_attention: first, after_mlp: second, norm_on_sum: true, ..plain }
            }
        })
        .collect();
    let head = tensors.head("lm_head", &embedding, tied, outer, vocabulary, false);
    let decoder = Decoder {
        positions,
        embedding_width: outer,
        learned_positions: Some((learned, FIRST_POSITION)),
        project_in,
        project_out,
        layers,
        final_norm,
        ..Decoder::plain(hidden, heads, embedding, head)
    };
    LanguageModel::shared(MODEL_TYPE, config, tensors, decoder)
}
