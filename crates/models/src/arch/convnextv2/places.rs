//! Names and order of the tensors, and where they stand among all weights.

use std::ops::Range;

use super::{ConvNextV2Config, EXPANSION, shifted};
use crate::nn::depthwise::{SIDE, TAPS};

/// Names and shapes in the order of `transformers`.
pub(super) fn tensors(config: &ConvNextV2Config) -> Vec<(String, Vec<usize>)> {
    let mut all = Vec::new();
    let mut pair = |name: String, shape: Vec<usize>, bias: usize| {
        all.push((format!("{name}.weight"), shape));
        all.push((format!("{name}.bias"), vec![bias]));
    };
    let first = config.hidden_sizes[0];
    let patch = config.patch_size;
    pair("convnextv2.embeddings.patch_embeddings".to_owned(), vec![first, config.num_channels, patch, patch], first);
    pair("convnextv2.embeddings.layernorm".to_owned(), vec![first], first);
    let mut before = first;
    for (stage, (&size, &depth)) in config.hidden_sizes.iter().zip(&config.depths).enumerate() {
        let name = format!("convnextv2.encoder.stages.{stage}");
        if stage > 0 {
            pair(format!("{name}.downsampling_layer.0"), vec![before], before);
            pair(format!("{name}.downsampling_layer.1"), vec![size, before, 2, 2], size);
        }
        let inner = EXPANSION * size;
        for block in 0..depth {
            let name = format!("{name}.layers.{block}");
            pair(format!("{name}.dwconv"), vec![size, 1, SIDE, SIDE], size);
            pair(format!("{name}.layernorm"), vec![size], size);
            pair(format!("{name}.pwconv1"), vec![inner, size], inner);
            pair(format!("{name}.grn"), vec![1, 1, 1, inner], inner);
            pair(format!("{name}.pwconv2"), vec![size, inner], size);
        }
        before = size;
    }
    pair("convnextv2.layernorm".to_owned(), vec![before], before);
    pair("classifier".to_owned(), vec![config.classes, before], config.classes);
    for (name, shape) in &mut all {
        if name.ends_with(".grn.bias") {
            *shape = vec![1, 1, 1, shape[0]];
        }
    }
    all
}

/// Weight and bias of a layer.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) weight: Range<usize>,
    pub(crate) bias: Range<usize>,
}

/// The tensors of a block.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) depthwise: Pair,
    pub(crate) norm: Pair,
    pub(crate) up: Pair,
    pub(crate) response: Pair,
    pub(crate) down: Pair,
}

/// The tensors of a stage.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    /// Norm and convolution between the stage before and this one.
    pub(crate) reduction: Option<(Pair, Pair)>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) channels: usize,
    /// Side of its maps.
    pub(crate) side: usize,
}

/// Where all tensors stand.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) patch: Pair,
    pub(crate) patch_norm: Pair,
    pub(crate) stages: Vec<Stage>,
    pub(crate) norm: Pair,
    pub(crate) head: Pair,
}

impl Places {
    pub(crate) fn new(config: &ConvNextV2Config) -> Self {
        let mut start = 0;
        let mut pair = |weight: usize, bias: usize| Pair { weight: shifted(&mut start, weight), bias: shifted(&mut start, bias) };
        let first = config.hidden_sizes[0];
        let patch = pair(first * config.num_channels * config.patch_size.pow(2), first);
        let patch_norm = pair(first, first);
        let mut stages = Vec::new();
        let mut before = first;
        for (stage, (&channels, &depth)) in config.hidden_sizes.iter().zip(&config.depths).enumerate() {
            let reduction = (stage > 0).then(|| (pair(before, before), pair(4 * before * channels, channels)));
            let inner = EXPANSION * channels;
            let blocks = (0..depth).map(|_| Block {
                depthwise: pair(TAPS * channels, channels),
                norm: pair(channels, channels),
                up: pair(inner * channels, inner),
                response: pair(inner, inner),
                down: pair(inner * channels, channels),
            });
            stages.push(Stage { reduction, blocks: blocks.collect(), channels, side: config.side(stage) });
            before = channels;
        }
        let norm = pair(before, before);
        let head = pair(config.classes * before, config.classes);
        Self { patch, patch_norm, stages, norm, head }
    }
}
