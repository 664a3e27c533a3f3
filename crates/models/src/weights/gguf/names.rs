//! From llama.cpp's tensor names and layouts back to those of the checkpoints it converts: one table per architecture.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use super::metadata::Gguf;
use crate::weights::error::WeightsError;
use crate::weights::stored::{MappedFile, Order, RowOrder, StoredTensor};

/// What llama.cpp's converter did to a tensor besides renaming it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    None,
    /// The rows of every query head were interleaved.
    RotaryQuery,
    /// The rows of every key head were interleaved.
    RotaryKey,
    /// Query, key and value were grouped, instead of head by head.
    Grouped,
    /// The rows of query, key and value were stacked, three tensors of their own.
    Stacked,
    /// The matrix was transposed.
    Transposed,
    /// 1 was added.
    PlusOne,
}

use Change::{Grouped, None as Same, PlusOne, RotaryKey, RotaryQuery, Stacked, Transposed};

/// gguf name and Hugging Face name, without `.weight` or `.bias`; `*` stands for the number of the layer.
type Rule = (&'static str, &'static str, Change);

const COMMON: &[Rule] = &[
    ("token_embd", "model.embed_tokens", Same),
    ("output", "lm_head", Same),
    ("blk.*.attn_v", "model.layers.*.self_attn.v_proj", Same),
    ("blk.*.attn_output", "model.layers.*.self_attn.o_proj", Same),
    ("blk.*.ffn_gate", "model.layers.*.mlp.gate_proj", Same),
    ("blk.*.ffn_up", "model.layers.*.mlp.up_proj", Same),
    ("blk.*.ffn_down", "model.layers.*.mlp.down_proj", Same),
];
const PLAIN_ROTARY: &[Rule] =
    &[("blk.*.attn_q", "model.layers.*.self_attn.q_proj", Same), ("blk.*.attn_k", "model.layers.*.self_attn.k_proj", Same)];
const INTERLEAVED_ROTARY: &[Rule] =
    &[("blk.*.attn_q", "model.layers.*.self_attn.q_proj", RotaryQuery), ("blk.*.attn_k", "model.layers.*.self_attn.k_proj", RotaryKey)];
const HEAD_NORMS: &[Rule] =
    &[("blk.*.attn_q_norm", "model.layers.*.self_attn.q_norm", Same), ("blk.*.attn_k_norm", "model.layers.*.self_attn.k_norm", Same)];
const NORMS: &[Rule] = &[
    ("output_norm", "model.norm", Same),
    ("blk.*.attn_norm", "model.layers.*.input_layernorm", Same),
    ("blk.*.ffn_norm", "model.layers.*.post_attention_layernorm", Same),
];
const OLMO2_NORMS: &[Rule] = &[
    ("output_norm", "model.norm", Same),
    ("blk.*.post_attention_norm", "model.layers.*.post_attention_layernorm", Same),
    ("blk.*.post_ffw_norm", "model.layers.*.post_feedforward_layernorm", Same),
];
const GEMMA2_NORMS: &[Rule] = &[
    ("output_norm", "model.norm", PlusOne),
    ("blk.*.attn_norm", "model.layers.*.input_layernorm", PlusOne),
    ("blk.*.post_attention_norm", "model.layers.*.post_attention_layernorm", PlusOne),
    ("blk.*.ffn_norm", "model.layers.*.pre_feedforward_layernorm", PlusOne),
    ("blk.*.post_ffw_norm", "model.layers.*.post_feedforward_layernorm", PlusOne),
];
const PHI: &[Rule] = &[
    ("token_embd", "model.embed_tokens", Same),
    ("output_norm", "model.final_layernorm", Same),
    ("output", "lm_head", Same),
    ("blk.*.attn_norm", "model.layers.*.input_layernorm", Same),
    ("blk.*.attn_q", "model.layers.*.self_attn.q_proj", Same),
    ("blk.*.attn_k", "model.layers.*.self_attn.k_proj", Same),
    ("blk.*.attn_v", "model.layers.*.self_attn.v_proj", Same),
    // Files of the first months have one tensor for the three.
    ("blk.*.attn_qkv", "model.layers.*.self_attn.{q,k,v}_proj", Stacked),
    ("blk.*.attn_output", "model.layers.*.self_attn.dense", Same),
    ("blk.*.ffn_up", "model.layers.*.mlp.fc1", Same),
    ("blk.*.ffn_down", "model.layers.*.mlp.fc2", Same),
];
const GPT2: &[Rule] = &[
    ("token_embd", "transformer.wte", Same),
    ("position_embd", "transformer.wpe", Same),
    ("output_norm", "transformer.ln_f", Same),
    ("output", "lm_head", Same),
    ("blk.*.attn_norm", "transformer.h.*.ln_1", Same),
    ("blk.*.attn_qkv", "transformer.h.*.attn.c_attn", Transposed),
    ("blk.*.attn_output", "transformer.h.*.attn.c_proj", Transposed),
    ("blk.*.ffn_norm", "transformer.h.*.ln_2", Same),
    ("blk.*.ffn_up", "transformer.h.*.mlp.c_fc", Transposed),
    ("blk.*.ffn_down", "transformer.h.*.mlp.c_proj", Transposed),
];
const GPT_NEOX: &[Rule] = &[
    ("token_embd", "gpt_neox.embed_in", Same),
    ("output_norm", "gpt_neox.final_layer_norm", Same),
    ("output", "embed_out", Same),
    ("blk.*.attn_norm", "gpt_neox.layers.*.input_layernorm", Same),
    ("blk.*.attn_qkv", "gpt_neox.layers.*.attention.query_key_value", Grouped),
    ("blk.*.attn_output", "gpt_neox.layers.*.attention.dense", Same),
    ("blk.*.ffn_norm", "gpt_neox.layers.*.post_attention_layernorm", Same),
    ("blk.*.ffn_up", "gpt_neox.layers.*.mlp.dense_h_to_4h", Same),
    ("blk.*.ffn_down", "gpt_neox.layers.*.mlp.dense_4h_to_h", Same),
];

/// llama.cpp's architecture, Hugging Face's `model_type`, and the rules. A Mistral model is a `llama` to llama.cpp.
const ARCHITECTURES: &[(&str, &str, &[&[Rule]])] = &[
    ("llama", "llama", &[COMMON, INTERLEAVED_ROTARY, NORMS]),
    ("qwen2", "qwen2", &[COMMON, PLAIN_ROTARY, NORMS]),
    ("qwen3", "qwen3", &[COMMON, PLAIN_ROTARY, HEAD_NORMS, NORMS]),
    ("olmo2", "olmo2", &[COMMON, PLAIN_ROTARY, HEAD_NORMS, OLMO2_NORMS]),
    ("gemma2", "gemma2", &[COMMON, PLAIN_ROTARY, GEMMA2_NORMS]),
    ("phi2", "phi", &[PHI]),
    ("gpt2", "gpt2", &[GPT2]),
    ("gptneox", "gpt_neox", &[GPT_NEOX]),
];

/// Hugging Face's `model_type` of one of llama.cpp's architectures.
pub(super) fn model_type(architecture: &str) -> Option<&'static str> {
    ARCHITECTURES.iter().find(|known| known.0 == architecture).map(|known| known.1)
}

/// The architectures that are known, for messages.
pub(super) fn known() -> String {
    ARCHITECTURES.iter().map(|known| known.0).collect::<Vec<_>>().join(", ")
}

/// Hugging Face's name of a tensor, and what was done to it.
fn translate(rules: &[&[Rule]], name: &str) -> Option<(String, Change)> {
    let (stem, ending) = name.rsplit_once('.').filter(|(_, ending)| ["weight", "bias"].contains(ending))?;
    let (pattern, layer) = match stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        Some((layer, rest)) if layer.bytes().all(|byte| byte.is_ascii_digit()) => (format!("blk.*.{rest}"), layer),
        _ => (stem.to_owned(), ""),
    };
    let (_, target, change) = rules.iter().copied().flatten().find(|rule| rule.0 == pattern)?;
    Some((format!("{}.{ending}", target.replace('*', layer)), *change))
}

/// The tensors under their Hugging Face names, with the changes undone on reading. Names that no rule knows stay as they are, so that
/// they are refused as left over when the tensors are bound; with an unknown architecture all do.
pub(super) fn rename(
    gguf: &Gguf,
    file: &Arc<MappedFile>,
    tensors: BTreeMap<String, StoredTensor>,
) -> Result<BTreeMap<String, StoredTensor>, WeightsError> {
    let architecture = gguf.architecture().unwrap_or_default();
    let Some((_, _, rules)) = ARCHITECTURES.iter().find(|known| known.0 == architecture) else {
        return Ok(tensors);
    };
    let number = |key: &str| {
        let value = gguf.scalar(&format!("{architecture}.{key}")).and_then(|value| value.as_u64());
        value.and_then(|value| usize::try_from(value).ok()).filter(|&value| value > 0)
    };
    let heads = number("attention.head_count");
    let key_heads = number("attention.head_count_kv").or(heads);
    let mut renamed = BTreeMap::new();
    for (name, mut tensor) in tensors {
        let (target, change) = translate(rules, &name).unwrap_or((name.clone(), Same));
        let rows = tensor.shape.first().copied().unwrap_or(0);
        // Features of a head, when the rows are those of `heads` of them.
        let width = |heads: Option<usize>| {
            heads
                .filter(|&heads| heads > 0)
                .map(|heads| (heads, rows / heads))
                .filter(|&(heads, width)| width > 0 && rows.is_multiple_of(heads))
                .map(|(_, width)| width)
                .ok_or_else(|| file.tensor_fault(&name, "has rows that do not divide into the heads that the metadata gives"))
        };
        let interleaved = |heads: Option<usize>| match width(heads)? {
            width if width.is_multiple_of(2) => Ok(Order::Rows(RowOrder::Interleaved { width })),
            width => Err(file.tensor_fault(&name, format!("has heads of {width} rows: an even number is rotated"))),
        };
        match change {
            Same => (),
            RotaryQuery => tensor.order = interleaved(heads)?,
            RotaryKey => tensor.order = interleaved(key_heads)?,
            Grouped => {
                let width = width(heads.and_then(|heads| heads.checked_mul(3)))?;
                tensor.order = Order::Rows(RowOrder::Grouped { heads: rows / (3 * width), width });
            }
            Stacked => {
                let (heads, key_heads) = (heads.unwrap_or(0), key_heads.unwrap_or(0));
                let width = width(key_heads.checked_mul(2).and_then(|both| both.checked_add(heads)))?;
                if !tensor.bytes.len().is_multiple_of(rows) {
                    return Err(file.tensor_fault(&name, "is quantized across its rows, and cannot be taken apart"));
                }
                let row_bytes = tensor.bytes.len() / rows;
                let mut first = 0;
                for (part, heads) in [("q", heads), ("k", key_heads), ("v", key_heads)] {
                    let mut piece = tensor.clone();
                    piece.shape[0] = heads * width;
                    let start = tensor.bytes.start + first * row_bytes;
                    piece.bytes = start..start + heads * width * row_bytes;
                    first += heads * width;
                    insert(&mut renamed, file, target.replace("{q,k,v}", part), piece)?;
                }
                continue;
            }
            Transposed => {
                if let [rows, columns] = tensor.shape[..] {
                    tensor.shape = vec![columns, rows];
                    tensor.order = Order::Transposed;
                }
            }
            PlusOne => tensor.shift = 1.0,
        }
        insert(&mut renamed, file, target, tensor)?;
    }
    Ok(renamed)
}

fn insert(tensors: &mut BTreeMap<String, StoredTensor>, file: &MappedFile, name: String, tensor: StoredTensor) -> Result<(), WeightsError> {
    match tensors.entry(name) {
        Entry::Occupied(known) => Err(file.tensor_fault(known.key(), "occurs twice under different names")),
        Entry::Vacant(place) => {
            place.insert(tensor);
            Ok(())
        }
    }
}
