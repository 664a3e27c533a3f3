//! One causal decoder for all families: plain data that says which tensors stand where, and the forward pass that reads it.

mod attention;
mod batch;
mod build;
pub(crate) mod differentiable;
mod forward;
mod reference;
mod rotary;
mod workspace;

use std::ops::Range;

pub(crate) use batch::{BLOCK, Batch, head_blocks};
pub(crate) use build::{Builder, Settings};
pub(crate) use reference::logits_exact;
pub(crate) use rotary::Rotary;
pub(crate) use workspace::Workspace;

use crate::nn::{ActivationFunction, NormKind};

/// A dense layer: where its tensors stand in the flat weights.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    pub(crate) weight: Range<usize>,
    pub(crate) bias: Option<Range<usize>>,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// Whether the weight is stored `[inputs, outputs]` (GPT-2) instead of `[outputs, inputs]`.
    pub(crate) transposed: bool,
}

/// A norm over groups of `width` features.
#[derive(Debug, Clone)]
pub(crate) struct Norm {
    pub(crate) kind: NormKind,
    pub(crate) weight: Option<Range<usize>>,
    pub(crate) bias: Option<Range<usize>>,
    pub(crate) width: usize,
    pub(crate) epsilon: f32,
}

/// How queries, keys and values are made.
#[derive(Debug, Clone)]
pub(crate) enum Projection {
    /// Three layers.
    Separate { query: Linear, key: Linear, value: Linear },
    /// One layer, all queries, then all keys, then all values (GPT-2).
    Stacked(Linear),
    /// One layer, per head its query, key and value (GPT-NeoX).
    Interleaved(Linear),
}

#[derive(Debug, Clone)]
pub(crate) struct Attention {
    pub(crate) projection: Projection,
    pub(crate) query_norm: Option<Norm>,
    pub(crate) key_norm: Option<Norm>,
    pub(crate) output: Linear,
    /// Factor of the scores; positive.
    pub(crate) scale: f32,
    /// Soft limit of the scores.
    pub(crate) cap: Option<f32>,
    /// Keys each query sees, itself included.
    pub(crate) window: Option<usize>,
}

impl Attention {
    /// Unlimited, with scores scaled by `1/sqrt(head width)`.
    pub(crate) fn plain(projection: Projection, output: Linear, head_width: usize) -> Self {
        let scale = (1.0 / (head_width as f64).sqrt()) as f32;
        Self { projection, query_norm: None, key_norm: None, output, scale, cap: None, window: None }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) before_attention: Option<Norm>,
    pub(crate) attention: Attention,
    /// On the branch before the sum, or on the sum when [`Layer::norm_on_sum`].
    pub(crate) after_attention: Option<Norm>,
    pub(crate) before_mlp: Option<Norm>,
    pub(crate) gate: Option<Linear>,
    pub(crate) up: Linear,
    pub(crate) activation: ActivationFunction,
    pub(crate) down: Linear,
    pub(crate) after_mlp: Option<Norm>,
    pub(crate) norm_on_sum: bool,
    /// Whether attention and multilayer perceptron both read the layer's input.
    pub(crate) parallel: bool,
}

impl Layer {
    /// Without norms and gate, attention first.
    pub(crate) fn plain(attention: Attention, up: Linear, down: Linear, activation: ActivationFunction) -> Self {
        Self {
            before_attention: None,
            attention,
            after_attention: None,
            before_mlp: None,
            gate: None,
            up,
            activation,
            down,
            after_mlp: None,
            norm_on_sum: false,
            parallel: false,
        }
    }
}

/// A decoder without its weights.
#[derive(Debug, Clone)]
pub(crate) struct Decoder {
    pub(crate) vocabulary: usize,
    pub(crate) hidden: usize,
    pub(crate) heads: usize,
    pub(crate) key_value_heads: usize,
    pub(crate) head_width: usize,
    /// Longest sequence.
    pub(crate) positions: usize,
    /// `[vocabulary, embedding_width]`.
    pub(crate) embedding: Range<usize>,
    pub(crate) embedding_width: usize,
    pub(crate) embedding_scale: f32,
    /// Learned positions: the tensor `[positions + offset, hidden]` and the row of position 0.
    pub(crate) learned_positions: Option<(Range<usize>, usize)>,
    pub(crate) project_in: Option<Linear>,
    pub(crate) rotary: Option<Rotary>,
    pub(crate) layers: Vec<Layer>,
    pub(crate) final_norm: Option<Norm>,
    pub(crate) project_out: Option<Linear>,
    /// Never transposed.
    pub(crate) head: Linear,
    /// Soft limit of the logits.
    pub(crate) logit_cap: Option<f32>,
}

impl Decoder {
    /// Without layers and positions. `sizes` are vocabulary and hidden width, `heads` those of queries, of keys, and their width.
    pub(crate) fn plain(sizes: (usize, usize), heads: (usize, usize, usize), embedding: Range<usize>, head: Linear) -> Self {
        Self {
            vocabulary: sizes.0,
            hidden: sizes.1,
            heads: heads.0,
            key_value_heads: heads.1,
            head_width: heads.2,
            positions: 0,
            embedding,
            embedding_width: sizes.1,
            embedding_scale: 1.0,
            learned_positions: None,
            project_in: None,
            rotary: None,
            layers: Vec::new(),
            final_norm: None,
            project_out: None,
            head,
            logit_cap: None,
        }
    }

    /// Features of all queries of a position.
    pub(crate) fn query_width(&self) -> usize {
        self.heads * self.head_width
    }

    /// Features of all keys of a position, and of all values.
    pub(crate) fn key_width(&self) -> usize {
        self.key_value_heads * self.head_width
    }

    /// Features that the head reads.
    pub(crate) fn head_inputs(&self) -> usize {
        self.head.inputs
    }

    /// The most features between two matrices of a layer.
    pub(crate) fn widest(&self) -> usize {
        let layers = self.layers.iter().map(|layer| layer.up.outputs).max().unwrap_or(0);
        layers.max(self.hidden).max(self.query_width() + 2 * self.key_width()).max(self.embedding_width)
    }
}
