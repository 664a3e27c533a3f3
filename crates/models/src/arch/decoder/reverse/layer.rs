//! One layer: from the gradient of its output to that of its input, and of its weights.

use super::attention::{self, AttentionSpace};
use super::weights::{Source, WeightSlopes, add_weight_slopes};
use super::{Pass, add_norm_sums, linear_backward, norm_backward, sums_by_block, sums_of, sums_width};
use crate::arch::decoder::batch::{Block, padded};
use crate::arch::decoder::forward::{apply_norm, by_block, for_each};
use crate::arch::decoder::reflected::{LayerGroups, MeanSlopes, Mirror, RowGroup, add_means};
use crate::arch::decoder::tape::LayerTape;
use crate::arch::decoder::workspace::Scratch;
use crate::arch::decoder::{Batch, Decoder, Inner, Layer, Norm, Projection, Workspace};

/// What the reverse pass of one layer needs, `[features, columns]`, block after block: inputs of the dense layers and slopes of their outputs.
#[derive(Debug, Default)]
pub(in crate::arch::decoder) struct LayerSpace {
    /// What the multilayer perceptron reads; then what the projections of attention read.
    pub(super) normed: Vec<f32>,
    pub(super) of_normed: Vec<f32>,
    /// What its last layer reads; on the way forward of a pass with reflections too.
    pub(in crate::arch::decoder) inner: Vec<f32>,
    of_inner: Vec<f32>,
    of_down: Vec<f32>,
    /// Of the output projection of attention.
    of_output: Vec<f32>,
    of_attended: Vec<f32>,
    /// Of queries, keys and values, in the order of the projection's rows.
    of_projection: Vec<f32>,
    attention: AttentionSpace,
    /// What weights and biases of the norms get, per block.
    pub(super) norm_sums: Vec<f32>,
}

impl LayerSpace {
    /// Bytes for a batch of `count` positions, sequences up to `longest`, on `threads` threads.
    pub(super) fn bytes(decoder: &Decoder, count: usize, longest: usize, threads: usize) -> usize {
        let inner = decoder.layers.iter().map(|layer| layer.inner.outputs() + layer.down.inputs).max().unwrap_or(0);
        let projected = decoder.heads.query_width() + 2 * decoder.heads.key_width();
        let features = 4 * decoder.hidden + inner + decoder.heads.query_width() + projected;
        4 * padded(count) * features + AttentionSpace::bytes(decoder, count, longest, threads)
    }
}

impl Layer {
    fn norms(&self) -> [Option<&Norm>; 6] {
        [
            self.before_attention.as_ref(),
            self.attention.query_norm.as_ref(),
            self.attention.key_norm.as_ref(),
            self.after_attention.as_ref(),
            self.before_mlp.as_ref(),
            self.after_mlp.as_ref(),
        ]
    }
}

/// The parts of a block's sums that belong to the norms of a layer, in the order of [`Layer::norms`].
fn split_sums<'a>(norms: &[Option<&Norm>; 6], sums: &'a mut [f32]) -> [&'a mut [f32]; 6] {
    let mut rest = sums;
    norms.map(|norm| {
        let (part, after) = std::mem::take(&mut rest).split_at_mut(norm.map_or(0, sums_of));
        rest = after;
        part
    })
}

/// What the weights of some rows leave to what they read, by their dependence on its mean: nothing where there is no mirror.
fn mirror_back(
    mirror: Option<&Mirror<'_>>,
    groups: impl FnOnce(&[LayerGroups]) -> &[RowGroup],
    gradient: &mut [f32],
    means: &mut MeanSlopes,
) {
    if let Some(mirror) = mirror {
        mirror.back(groups(&mirror.plan.layers), gradient, means);
    }
}

/// A block's part of what a tape may have kept.
fn kept_part<'a>(values: &'a [f32], block: &Block, features: usize) -> &'a [f32] {
    if values.is_empty() { values } else { &values[Batch::part(block, features)] }
}

/// One block on its way back through the branches of a layer.
struct BranchBlock<'a> {
    block: &'a Block,
    slopes: &'a mut [f32],
    inner: &'a mut [f32],
    of_down: &'a mut [f32],
    of_output: &'a mut [f32],
    sums: &'a mut [f32],
}

impl Decoder {
    /// Replaces the gradient of a layer's output by that of its `input`; `tape` is what the layer left. The weights of a layer are done before the
    /// gradient of what they read is used: that may depend on all of theirs.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn reverse_layer(
        &self,
        index: usize,
        pass: Pass<'_>,
        input: &[f32],
        tape: &LayerTape,
        slopes: &mut [f32],
        (body, space): (&Workspace, &mut LayerSpace),
        gradient: &mut [f32],
    ) {
        let Pass { weights, batch, mirror, .. } = pass;
        let layer = &self.layers[index];
        let columns = batch.padded();
        let norms = layer.norms();
        let width = sums_width(&norms);
        let LayerSpace { normed, of_normed: _, inner, of_inner, of_down, of_output, of_attended, of_projection, attention, norm_sums } =
            space;
        normed.resize(self.hidden * columns, 0.0);
        inner.resize(layer.down.inputs * columns, 0.0);
        of_inner.resize(layer.inner.outputs() * columns, 0.0);
        of_down.resize(self.hidden * columns, 0.0);
        of_output.resize(self.hidden * columns, 0.0);
        of_attended.resize(self.heads.query_width() * columns, 0.0);
        of_projection.resize((self.heads.query_width() + 2 * self.heads.key_width()) * columns, 0.0);
        norm_sums.clear();
        norm_sums.resize(width * batch.blocks.len(), 0.0);

        // Back through the sums of branches and states; the weights of the branches' last layers.
        let buffers = by_block(slopes, batch).into_iter().zip(by_block(inner, batch)).zip(by_block(of_down, batch));
        let buffers = buffers.zip(by_block(of_output, batch)).zip(sums_by_block(norm_sums, width, batch));
        let items = batch.blocks.iter().zip(buffers);
        let items = items.map(|(block, ((((slopes, inner), of_down), of_output), sums))| BranchBlock {
            block,
            slopes,
            inner,
            of_down,
            of_output,
            sums,
        });
        for_each(items.collect(), |own| {
            body.with_scratch(self, batch.longest, |scratch| self.reverse_branches(layer, weights, tape, own, scratch));
        });
        let down = WeightSlopes {
            linear: &layer.down,
            inputs: Source { values: inner, features: layer.down.inputs, first: 0 },
            slopes: Source { values: of_down, features: self.hidden, first: 0 },
        };
        add_weight_slopes(&[down], pass, gradient);
        if layer.parallel {
            self.add_output_slopes(layer, pass, &tape.attended, of_output, gradient);
        }
        let mut means = MeanSlopes::default();
        mirror_back(mirror, |layers| &layers[index].down, gradient, &mut means);

        // Through the activation; the weights before it.
        let buffers = by_block(of_inner, batch).into_iter().zip(by_block(of_down, batch)).zip(by_block(normed, batch));
        for_each(batch.blocks.iter().zip(buffers).collect(), |(block, ((of_inner, of_down), normed))| {
            body.with_scratch(self, batch.longest, |scratch| {
                self.reverse_activation(layer, weights, block, tape, (of_down, of_inner), &means.activated, scratch);
                let read = kept_part(if layer.parallel { input } else { &tape.middle }, block, self.hidden);
                apply_norm(layer.before_mlp.as_ref(), weights, read, normed, block.columns);
            });
        });
        self.add_inner_slopes(layer, pass, normed, of_inner, gradient);
        mirror_back(mirror, |layers| &layers[index].inner, gradient, &mut means);

        // To what both branches read.
        let buffers = by_block(slopes, batch).into_iter().zip(by_block(of_inner, batch)).zip(by_block(of_output, batch));
        let buffers = buffers.zip(sums_by_block(norm_sums, width, batch));
        for_each(batch.blocks.iter().zip(buffers).collect(), |(block, (((slopes, of_inner), of_output), sums))| {
            body.with_scratch(self, batch.longest, |scratch| {
                let own = (slopes, &*of_inner, of_output, sums);
                self.reverse_inner(layer, weights, input, tape, block, own, &means.inner, scratch);
            });
        });
        if !layer.parallel {
            self.add_output_slopes(layer, pass, &tape.attended, of_output, gradient);
            mirror_back(mirror, |layers| &layers[index].output, gradient, &mut means);
        }
        let buffers = by_block(of_output, batch).into_iter().zip(by_block(of_attended, batch));
        for_each(batch.blocks.iter().zip(buffers).collect(), |(block, (of_output, of_attended))| {
            linear_backward(&layer.attention.output, weights, of_output, of_attended, block.columns, false);
            add_means(of_attended, &means.attended, block);
        });

        attention::backward(self, &layer.attention, batch, tape, of_attended, attention);
        let items: Vec<_> = (batch.blocks.iter().zip(by_block(normed, batch)))
            .zip(by_block(of_projection, batch))
            .zip(sums_by_block(norm_sums, width, batch))
            .collect();
        for_each(items, |(((block, normed), of_projection), sums)| {
            body.with_scratch(self, batch.longest, |scratch| {
                self.reverse_heads(layer, weights, batch, block, tape, attention, (of_projection, sums), scratch);
            });
            let read = &input[Batch::part(block, self.hidden)];
            apply_norm(layer.before_attention.as_ref(), weights, read, normed, block.columns);
        });
        self.add_projection_slopes(layer, pass, normed, of_projection, gradient);
        mirror_back(mirror, |layers| &layers[index].projection, gradient, &mut means);
        let items: Vec<_> = (batch.blocks.iter().zip(by_block(slopes, batch)))
            .zip(by_block(of_projection, batch))
            .zip(sums_by_block(norm_sums, width, batch))
            .collect();
        for_each(items, |(((block, slopes), of_projection), sums)| {
            body.with_scratch(self, batch.longest, |scratch| {
                let read = &input[Batch::part(block, self.hidden)];
                self.reverse_projection(layer, weights, block, read, (slopes, &*of_projection, sums), &means.projection, scratch);
            });
        });
        add_norm_sums(&norms, norm_sums, gradient);
    }

    /// From the layer's output to the slopes of the branches, and the inner features once more.
    fn reverse_branches(&self, layer: &Layer, weights: &[f32], tape: &LayerTape, own: BranchBlock<'_>, scratch: &mut Scratch) {
        let BranchBlock { block, slopes, inner, of_down, of_output, sums } = own;
        let columns = block.columns;
        let [_, _, _, after_attention, _, after_mlp] = split_sums(&layer.norms(), sums);
        let branch = kept_part(&tape.mlp_branch, block, self.hidden);
        self.reverse_join(layer, layer.after_mlp.as_ref(), weights, branch, slopes, of_down, columns, after_mlp);
        if layer.parallel {
            let branch = kept_part(&tape.attention_branch, block, self.hidden);
            self.reverse_join(layer, layer.after_attention.as_ref(), weights, branch, slopes, of_output, columns, after_attention);
        }
        let raw = &tape.inner[Batch::part(block, layer.inner.outputs())];
        match &layer.inner {
            Inner::Plain(_) => {
                inner.copy_from_slice(raw);
                layer.activation.apply(inner);
            }
            Inner::Gated { .. } | Inner::Stacked(_) => {
                let (raw_gate, up) = raw.split_at(raw.len() / 2);
                let gate = &mut scratch.gate[..raw_gate.len()];
                gate.copy_from_slice(raw_gate);
                layer.activation.apply(gate);
                inner.iter_mut().zip(&*gate).zip(up).for_each(|((value, gate), up)| *value = gate * up);
            }
        }
    }

    /// From the slopes of the last layer's outputs to those of the inner features before the activation.
    #[allow(clippy::too_many_arguments)]
    fn reverse_activation(
        &self,
        layer: &Layer,
        weights: &[f32],
        block: &Block,
        tape: &LayerTape,
        (of_down, of_inner): (&[f32], &mut [f32]),
        means: &[f32],
        scratch: &mut Scratch,
    ) {
        let columns = block.columns;
        let raw = &tape.inner[Batch::part(block, layer.inner.outputs())];
        match &layer.inner {
            Inner::Plain(_) => {
                linear_backward(&layer.down, weights, of_down, of_inner, columns, false);
                add_means(of_inner, means, block);
                layer.activation.multiply_by_derivative(of_inner, raw);
            }
            Inner::Gated { .. } | Inner::Stacked(_) => {
                let (raw_gate, up) = raw.split_at(raw.len() / 2);
                let (of_gate, of_up) = of_inner.split_at_mut(raw.len() / 2);
                let gate = &mut scratch.gate[..raw_gate.len()];
                gate.copy_from_slice(raw_gate);
                layer.activation.apply(gate);
                linear_backward(&layer.down, weights, of_down, of_up, columns, false);
                add_means(of_up, means, block);
                of_gate.iter_mut().zip(&*of_up).zip(up).for_each(|((slope, of_inner), up)| *slope = of_inner * up);
                of_up.iter_mut().zip(&*gate).for_each(|(slope, gate)| *slope *= gate);
                layer.activation.multiply_by_derivative(of_gate, raw_gate);
            }
        }
    }

    /// From the inner features to what they are made from, whose slopes are added to the states'; then, where attention comes before, back through
    /// its sum with the states.
    #[allow(clippy::too_many_arguments)]
    fn reverse_inner(
        &self,
        layer: &Layer,
        weights: &[f32],
        input: &[f32],
        tape: &LayerTape,
        block: &Block,
        (slopes, of_inner, of_output, sums): (&mut [f32], &[f32], &mut [f32], &mut [f32]),
        means: &[f32],
        scratch: &mut Scratch,
    ) {
        let columns = block.columns;
        let [_, _, _, after_attention, before_mlp, _] = split_sums(&layer.norms(), sums);
        let read = kept_part(if layer.parallel { input } else { &tape.middle }, block, self.hidden);
        let of_normed = &mut scratch.normed[..self.hidden * columns];
        let mut row = 0;
        for linear in layer.inner.layers() {
            let rows = row * columns..(row + linear.outputs) * columns;
            linear_backward(linear, weights, &of_inner[rows], of_normed, columns, row > 0);
            row += linear.outputs;
        }
        add_means(of_normed, means, block);
        norm_backward(layer.before_mlp.as_ref(), weights, read, of_normed, columns, before_mlp);
        slopes.iter_mut().zip(&*of_normed).for_each(|(slope, own)| *slope += own);
        if !layer.parallel {
            let branch = kept_part(&tape.attention_branch, block, self.hidden);
            self.reverse_join(layer, layer.after_attention.as_ref(), weights, branch, slopes, of_output, columns, after_attention);
        }
    }

    /// Back through a branch's sum with the states: `slopes`, those of the states behind it, become those of the states before it but for what
    /// comes through the branch, whose own are written to `of_branch`. `read` is what the norm read.
    #[allow(clippy::too_many_arguments)]
    fn reverse_join(
        &self,
        layer: &Layer,
        norm: Option<&Norm>,
        weights: &[f32],
        read: &[f32],
        slopes: &mut [f32],
        of_branch: &mut [f32],
        columns: usize,
        sums: &mut [f32],
    ) {
        of_branch.copy_from_slice(slopes);
        norm_backward(norm, weights, read, of_branch, columns, sums);
        if layer.norm_on_sum {
            slopes.copy_from_slice(of_branch);
        }
        if self.branch_scale != 1.0 {
            of_branch.iter_mut().for_each(|slope| *slope *= self.branch_scale);
        }
    }

    fn add_inner_slopes(&self, layer: &Layer, pass: Pass<'_>, normed: &[f32], of_inner: &[f32], gradient: &mut [f32]) {
        let features = layer.inner.outputs();
        let mut first = 0;
        let products: Vec<WeightSlopes<'_>> = (layer.inner.layers())
            .map(|linear| {
                let slopes = Source { values: of_inner, features, first };
                first += linear.outputs;
                WeightSlopes { linear, inputs: Source { values: normed, features: self.hidden, first: 0 }, slopes }
            })
            .collect();
        add_weight_slopes(&products, pass, gradient);
    }

    fn add_output_slopes(&self, layer: &Layer, pass: Pass<'_>, attended: &[f32], of_output: &[f32], gradient: &mut [f32]) {
        let output = WeightSlopes {
            linear: &layer.attention.output,
            inputs: Source { values: attended, features: self.heads.query_width(), first: 0 },
            slopes: Source { values: of_output, features: self.hidden, first: 0 },
        };
        add_weight_slopes(&[output], pass, gradient);
    }

    /// From queries, keys and values of a block to the outputs of their layers.
    #[allow(clippy::too_many_arguments)]
    fn reverse_heads(
        &self,
        layer: &Layer,
        weights: &[f32],
        batch: &Batch,
        block: &Block,
        tape: &LayerTape,
        space: &AttentionSpace,
        (of_projection, sums): (&mut [f32], &mut [f32]),
        scratch: &mut Scratch,
    ) {
        let columns = block.columns;
        let attention = &layer.attention;
        let [_, query_sums, key_sums, ..] = split_sums(&layer.norms(), sums);
        let lengths = [self.heads.query_width() * columns, self.heads.key_width() * columns];
        let interleaved = matches!(attention.projection, Projection::Interleaved(_));
        {
            let all = if interleaved { &mut scratch.wide[..of_projection.len()] } else { &mut *of_projection };
            let (queries, rest) = all.split_at_mut(lengths[0]);
            let (keys, values) = rest.split_at_mut(lengths[1]);
            space.gather(self, batch, block, [queries, keys, values]);
            if let Some(index) = attention.rotary {
                let (rotary, turns) = (&self.rotaries[index], &batch.turns[index]);
                let angles = Batch::part(block, rotary.width / 2);
                let (cosines, sines) = (&turns.cosines[angles.clone()], &turns.sines[angles]);
                rotary.apply_back(queries, self.heads.width, columns, cosines, sines);
                rotary.apply_back(keys, self.heads.width, columns, cosines, sines);
            }
            let raw_queries = kept_part(&tape.raw_queries, block, self.heads.query_width());
            let raw_keys = kept_part(&tape.raw_keys, block, self.heads.key_width());
            norm_backward(attention.query_norm.as_ref(), weights, raw_queries, queries, columns, query_sums);
            norm_backward(attention.key_norm.as_ref(), weights, raw_keys, keys, columns, key_sums);
        }
        if interleaved {
            // Per head its query, key and value.
            let length = self.heads.width * columns;
            let (queries, rest) = scratch.wide.split_at(lengths[0]);
            let (keys, values) = rest.split_at(lengths[1]);
            for (head, parts) in of_projection.chunks_exact_mut(3 * length).enumerate() {
                let place = head * length..(head + 1) * length;
                parts[..length].copy_from_slice(&queries[place.clone()]);
                parts[length..2 * length].copy_from_slice(&keys[place.clone()]);
                parts[2 * length..].copy_from_slice(&values[place]);
            }
        }
    }

    /// From the outputs of the layers of queries, keys and values to what the layer reads, whose slopes are added to its input's.
    #[allow(clippy::too_many_arguments)]
    fn reverse_projection(
        &self,
        layer: &Layer,
        weights: &[f32],
        block: &Block,
        read: &[f32],
        (slopes, of_projection, sums): (&mut [f32], &[f32], &mut [f32]),
        means: &[f32],
        scratch: &mut Scratch,
    ) {
        let columns = block.columns;
        let [before, ..] = split_sums(&layer.norms(), sums);
        let of_normed = &mut scratch.normed[..self.hidden * columns];
        let mut row = 0;
        for linear in layer.attention.projection.layers() {
            let rows = row * columns..(row + linear.outputs) * columns;
            linear_backward(linear, weights, &of_projection[rows], of_normed, columns, row > 0);
            row += linear.outputs;
        }
        add_means(of_normed, means, block);
        norm_backward(layer.before_attention.as_ref(), weights, read, of_normed, columns, before);
        slopes.iter_mut().zip(&*of_normed).for_each(|(slope, own)| *slope += own);
    }

    fn add_projection_slopes(&self, layer: &Layer, pass: Pass<'_>, normed: &[f32], of_projection: &[f32], gradient: &mut [f32]) {
        let features = self.heads.query_width() + 2 * self.heads.key_width();
        let mut first = 0;
        let products: Vec<WeightSlopes<'_>> = (layer.attention.projection.layers())
            .map(|linear| {
                let slopes = Source { values: of_projection, features, first };
                first += linear.outputs;
                WeightSlopes { linear, inputs: Source { values: normed, features: self.hidden, first: 0 }, slopes }
            })
            .collect();
        add_weight_slopes(&products, pass, gradient);
    }
}
