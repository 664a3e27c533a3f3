//! One causal decoder for all families: plain data that says which tensors stand where, and the forward pass that reads it.

mod attention;
mod batch;
mod builder;
mod forward;
mod loss;
mod reference;
mod reflected;
mod reverse;
mod rotary;
mod settings;
mod tape;
mod workspace;

use std::ops::Range;

pub(crate) use batch::{BLOCK, Batch, head_blocks};
pub(crate) use builder::Builder;
pub(crate) use forward::for_each;
pub(crate) use loss::{CenterSource, CenterSpace, CenterTile, LossSpace, TILE, Target};
pub(crate) use reference::logits_exact;
pub(crate) use reflected::{Given, Plan, ReflectedSpace};
pub(crate) use reverse::{Pass, ReverseSpace, Watcher};
pub(crate) use rotary::Rotary;
pub(crate) use settings::{RotaryDefaults, Rotated, Settings};
pub(crate) use tape::{Keep, Tape};
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
    /// One factor for each feature of a group, the same for all groups; or those of every group, one after the other.
    pub(crate) weight: Option<Range<usize>>,
    /// As the weight.
    pub(crate) bias: Option<Range<usize>>,
    pub(crate) width: usize,
    pub(crate) epsilon: f32,
}

impl Norm {
    /// Whether every group has factors of its own.
    pub(crate) fn has_own_factors(&self) -> bool {
        self.weight.as_ref().is_some_and(|weight| weight.len() > self.width)
    }

    /// The norm of one group alone.
    pub(crate) fn of_group(&self, group: usize) -> Self {
        let own = |all: &Range<usize>| {
            if all.len() > self.width { all.start + group * self.width..all.start + (group + 1) * self.width } else { all.clone() }
        };
        Self { weight: self.weight.as_ref().map(own), bias: self.bias.as_ref().map(own), ..self.clone() }
    }
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

impl Projection {
    /// The dense layers.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &Linear> {
        let (first, others) = match self {
            Self::Separate { query, key, value } => (query, Some([key, value])),
            Self::Stacked(linear) | Self::Interleaved(linear) => (linear, None),
        };
        std::iter::once(first).chain(others.into_iter().flatten())
    }
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
    /// Which of [`Decoder::rotaries`] turns queries and keys.
    pub(crate) rotary: Option<usize>,
}

impl Attention {
    /// Unlimited, without rotation, with scores scaled by `1/sqrt(head width)`.
    pub(crate) fn plain(projection: Projection, output: Linear, head_width: usize) -> Self {
        let scale = (1.0 / (head_width as f64).sqrt()) as f32;
        Self { projection, query_norm: None, key_norm: None, output, scale, cap: None, window: None, rotary: None }
    }
}

/// How the inner features of a multilayer perceptron are made.
#[derive(Debug, Clone)]
pub(crate) enum Inner {
    /// One layer and the activation.
    Plain(Linear),
    /// The activation of one layer's features times another's.
    Gated { gate: Linear, up: Linear },
    /// The same, both in one layer: all of the gate's features, then all others (Phi 3).
    Stacked(Linear),
}

impl Inner {
    /// The dense layers.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &Linear> {
        let (first, second) = match self {
            Self::Plain(linear) | Self::Stacked(linear) => (linear, None),
            Self::Gated { gate, up } => (gate, Some(up)),
        };
        std::iter::once(first).chain(second)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) before_attention: Option<Norm>,
    pub(crate) attention: Attention,
    /// On the branch before the sum, or on the sum when [`Layer::norm_on_sum`].
    pub(crate) after_attention: Option<Norm>,
    pub(crate) before_mlp: Option<Norm>,
    pub(crate) inner: Inner,
    pub(crate) activation: ActivationFunction,
    pub(crate) down: Linear,
    pub(crate) after_mlp: Option<Norm>,
    pub(crate) norm_on_sum: bool,
    /// Whether attention and multilayer perceptron both read the layer's input.
    pub(crate) parallel: bool,
}

impl Layer {
    /// Without norms, attention first.
    pub(crate) fn plain(attention: Attention, inner: Inner, down: Linear, activation: ActivationFunction) -> Self {
        Self {
            before_attention: None,
            attention,
            after_attention: None,
            before_mlp: None,
            inner,
            activation,
            down,
            after_mlp: None,
            norm_on_sum: false,
            parallel: false,
        }
    }
}

/// Heads of the attention.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    /// Of queries.
    pub(crate) queries: usize,
    /// Of keys, and of values; so many consecutive heads of queries share one that these divide those.
    pub(crate) keys: usize,
    /// Features of one.
    pub(crate) width: usize,
}

impl Heads {
    /// The head of keys that a head of queries reads.
    pub(crate) fn shared(self, head: usize) -> usize {
        head / (self.queries / self.keys)
    }

    /// Features of all queries of a position.
    pub(crate) fn query_width(self) -> usize {
        self.queries * self.width
    }

    /// Features of all keys of a position, and of all values.
    pub(crate) fn key_width(self) -> usize {
        self.keys * self.width
    }
}

/// A decoder without its weights.
#[derive(Debug, Clone)]
pub(crate) struct Decoder {
    pub(crate) vocabulary: usize,
    pub(crate) hidden: usize,
    pub(crate) heads: Heads,
    /// Longest sequence.
    pub(crate) positions: usize,
    /// `[vocabulary, embedding_width]`.
    pub(crate) embedding: Range<usize>,
    pub(crate) embedding_width: usize,
    pub(crate) embedding_scale: f32,
    /// Learned positions: the tensor `[positions + offset, hidden]` and the row of position 0.
    pub(crate) learned_positions: Option<(Range<usize>, usize)>,
    pub(crate) project_in: Option<Linear>,
    /// Rotations, of which every layer names one or none.
    pub(crate) rotaries: Vec<Rotary>,
    pub(crate) layers: Vec<Layer>,
    /// Factor of what a layer's attention and its multilayer perceptron add to the states.
    pub(crate) branch_scale: f32,
    pub(crate) final_norm: Option<Norm>,
    pub(crate) project_out: Option<Linear>,
    /// Factor of what the head reads.
    pub(crate) output_scale: f32,
    /// Never transposed.
    pub(crate) head: Linear,
    /// Soft limit of the logits.
    pub(crate) logit_cap: Option<f32>,
}

impl Decoder {
    /// Without layers and positions.
    pub(crate) fn plain(hidden: usize, heads: Heads, embedding: Range<usize>, head: Linear) -> Self {
        Self {
            vocabulary: head.outputs,
            hidden,
            heads,
            positions: 0,
            embedding,
            embedding_width: hidden,
            embedding_scale: 1.0,
            learned_positions: None,
            project_in: None,
            rotaries: Vec::new(),
            layers: Vec::new(),
            branch_scale: 1.0,
            final_norm: None,
            project_out: None,
            output_scale: 1.0,
            head,
            logit_cap: None,
        }
    }

    /// Where the weights stand that are stored `[inputs, outputs]`.
    pub(crate) fn transposed(&self) -> impl Iterator<Item = &Range<usize>> {
        let all = self.layers.iter().flat_map(|layer| {
            layer.attention.projection.layers().chain(layer.inner.layers()).chain([&layer.attention.output, &layer.down])
        });
        all.filter(|linear| linear.transposed).map(|linear| &linear.weight)
    }

    /// All dense layers between embedding and head.
    pub(crate) fn dense_layers(&self) -> Vec<&Linear> {
        let mut all: Vec<&Linear> = self.project_in.iter().collect();
        for layer in &self.layers {
            all.extend(layer.attention.projection.layers());
            all.push(&layer.attention.output);
            all.extend(layer.inner.layers());
            all.push(&layer.down);
        }
        all.extend(&self.project_out);
        all
    }

    /// Features that the head reads.
    pub(crate) fn head_inputs(&self) -> usize {
        self.head.inputs
    }

    /// The most features between two matrices of a layer.
    pub(crate) fn widest(&self) -> usize {
        let layers = self.layers.iter().flat_map(|layer| layer.inner.layers()).map(|linear| linear.outputs).max().unwrap_or(0);
        layers.max(self.hidden).max(self.heads.query_width() + 2 * self.heads.key_width()).max(self.embedding_width)
    }

    /// Whether the outputs at a position depend on how many positions follow: then no sequence may be cut.
    pub(crate) fn depends_on_length(&self) -> bool {
        self.rotaries.iter().any(Rotary::depends_on_length)
    }
}
