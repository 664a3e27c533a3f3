//! What a forward pass leaves for the reverse pass: per layer its input and what is dearer to compute again than to keep.

use super::batch::padded;
use super::{Batch, Decoder, Inner, Layer};

/// Of one layer; all `[features, columns]`, block after block. Empty where the layer has no use for it.
#[derive(Debug, Default)]
pub(super) struct LayerTape {
    /// What attention reads: normed and turned.
    pub(super) queries: Vec<f32>,
    pub(super) keys: Vec<f32>,
    pub(super) values: Vec<f32>,
    /// Before their norms, where they have any.
    pub(super) raw_queries: Vec<f32>,
    pub(super) raw_keys: Vec<f32>,
    pub(super) attended: Vec<f32>,
    /// What the norm behind attention reads, where there is one.
    pub(super) attention_branch: Vec<f32>,
    /// States between attention and multilayer perceptron, unless both read the layer's input.
    pub(super) middle: Vec<f32>,
    /// Before the activation: of a gated one those of the gate, then the others.
    pub(super) inner: Vec<f32>,
    /// What the norm behind the multilayer perceptron reads, where there is one.
    pub(super) mlp_branch: Vec<f32>,
}

/// [`LayerTape`] as a pass over the layer fills it, without queries, keys and values; empty slices where nothing is kept.
#[derive(Default)]
pub(super) struct Kept<'a> {
    pub(super) raw_queries: &'a mut [f32],
    pub(super) raw_keys: &'a mut [f32],
    pub(super) attended: &'a mut [f32],
    pub(super) attention_branch: &'a mut [f32],
    pub(super) middle: &'a mut [f32],
    pub(super) inner: &'a mut [f32],
    pub(super) mlp_branch: &'a mut [f32],
}

/// Of a whole pass.
#[derive(Debug, Default)]
pub(crate) struct Tape {
    /// The input of every layer.
    pub(super) inputs: Vec<Vec<f32>>,
    /// One for every layer; or one alone, which is filled again for each.
    pub(super) layers: Vec<LayerTape>,
    /// The states behind the last layer.
    pub(super) last: Vec<f32>,
}

/// Whether a tape holds all layers or one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// What the layers leave: the reverse pass computes only what is quickly made.
    Everything,
    /// The layers' inputs: the reverse pass computes every layer once more.
    Inputs,
}

impl Inner {
    /// Features before the activation.
    pub(super) fn outputs(&self) -> usize {
        self.layers().map(|linear| linear.outputs).sum()
    }
}

impl LayerTape {
    /// Features of every buffer, in the order of the fields.
    fn features(decoder: &Decoder, layer: &Layer) -> [usize; 10] {
        let (hidden, queries, keys) = (decoder.hidden, decoder.heads.query_width(), decoder.heads.key_width());
        let attention = &layer.attention;
        let only = |wanted: bool, features: usize| if wanted { features } else { 0 };
        [
            queries,
            keys,
            keys,
            only(attention.query_norm.is_some(), queries),
            only(attention.key_norm.is_some(), keys),
            queries,
            only(layer.after_attention.is_some(), hidden),
            only(!layer.parallel, hidden),
            layer.inner.outputs(),
            only(layer.after_mlp.is_some(), hidden),
        ]
    }

    pub(super) fn resize(&mut self, decoder: &Decoder, layer: &Layer, columns: usize) {
        let Self { queries, keys, values, raw_queries, raw_keys, attended, attention_branch, middle, inner, mlp_branch } = self;
        let buffers = [queries, keys, values, raw_queries, raw_keys, attended, attention_branch, middle, inner, mlp_branch];
        for (buffer, features) in buffers.into_iter().zip(Self::features(decoder, layer)) {
            buffer.resize(features * columns, 0.0);
        }
    }

    /// Queries, keys and values, and the rest.
    pub(super) fn parts(&mut self) -> ([&mut [f32]; 3], Kept<'_>) {
        let Self { queries, keys, values, raw_queries, raw_keys, attended, attention_branch, middle, inner, mlp_branch } = self;
        ([queries, keys, values], Kept { raw_queries, raw_keys, attended, attention_branch, middle, inner, mlp_branch })
    }
}

impl Tape {
    pub(super) fn resize(&mut self, decoder: &Decoder, batch: &Batch, keep: Keep) {
        let columns = batch.padded();
        self.inputs.resize_with(decoder.layers.len(), Vec::new);
        self.inputs.iter_mut().for_each(|input| input.resize(decoder.hidden * columns, 0.0));
        self.last.resize(decoder.hidden * columns, 0.0);
        match keep {
            Keep::Everything => {
                self.layers.resize_with(decoder.layers.len(), LayerTape::default);
                self.layers.iter_mut().zip(&decoder.layers).for_each(|(tape, layer)| tape.resize(decoder, layer, columns));
            }
            Keep::Inputs => self.layers.resize_with(1, LayerTape::default),
        }
    }

    /// Bytes for a batch of `count` positions.
    pub(crate) fn bytes(decoder: &Decoder, count: usize, keep: Keep) -> usize {
        let layers = decoder.layers.iter().map(|layer| LayerTape::features(decoder, layer).iter().sum::<usize>());
        let kept = match keep {
            Keep::Everything => layers.sum::<usize>(),
            Keep::Inputs => layers.max().unwrap_or(0),
        };
        4 * padded(count) * (kept + (decoder.layers.len() + 1) * decoder.hidden)
    }
}
