//! The forward pass on flat `f32` weights: activations feature-major, blocks of positions in parallel, the same bits on any number of
//! threads because every block is computed by one task in one order.

use rayon::prelude::*;

use super::batch::Block;
use super::tape::Kept;
use super::workspace::{Scratch, Workspace};
use super::{Batch, Decoder, Inner, Layer, Linear, Norm, Projection, attention};
use crate::nn::{normalize, soft_cap};
use crate::products::{Matrix, Sizes, product, product_strided};

/// Runs `work` over items: in parallel when the current pool has several threads.
pub(crate) fn for_each<T: Send>(items: Vec<T>, work: impl Fn(T) + Sync + Send) {
    if rayon::current_num_threads() > 1 && items.len() > 1 {
        items.into_par_iter().for_each(work);
    } else {
        items.into_iter().for_each(work);
    }
}

/// The parts of `[features, columns]` blocks, as many features as the buffer has; empty ones of an empty buffer.
pub(super) fn by_block<'a>(buffer: &'a mut [f32], batch: &Batch) -> Vec<&'a mut [f32]> {
    let features = buffer.len() / batch.padded().max(1);
    let mut rest = buffer;
    let mut parts = Vec::with_capacity(batch.blocks.len());
    for block in &batch.blocks {
        let (part, after) = std::mem::take(&mut rest).split_at_mut(features * block.columns);
        parts.push(part);
        rest = after;
    }
    parts
}

/// Copies what is to be kept.
pub(super) fn keep(kept: &mut [f32], values: &[f32]) {
    if !kept.is_empty() {
        kept.copy_from_slice(values);
    }
}

impl Decoder {
    /// What the head reads at every position: `[head_inputs, columns]`, block after block.
    ///
    /// # Panics
    /// If `weights` is shorter than the layout, or an id is not below the vocabulary, or a sequence is longer than the positions.
    pub(crate) fn forward<'a>(&self, weights: &[f32], batch: &Batch, workspace: &'a mut Workspace) -> &'a [f32] {
        let columns = batch.padded();
        let size = |buffer: &mut Vec<f32>, features: usize| {
            let mut buffer = std::mem::take(buffer);
            buffer.resize(features * columns, 0.0);
            buffer
        };
        let mut states = size(&mut workspace.states, self.hidden);
        let mut queries = size(&mut workspace.queries, self.heads.query_width());
        let mut keys = size(&mut workspace.keys, self.heads.key_width());
        let mut values = size(&mut workspace.values, self.heads.key_width());
        self.embed_all(weights, batch, &mut states, workspace);
        for layer in &self.layers {
            let projected = [&mut queries[..], &mut keys[..], &mut values[..]];
            self.run_layer(layer, weights, batch, &mut states, projected, Kept::default(), workspace);
        }
        self.finish(weights, batch, &states, workspace);
        (workspace.states, workspace.queries, workspace.keys, workspace.values) = (states, queries, keys, values);
        &workspace.outputs
    }

    /// The states before the first layer.
    pub(super) fn embed_all(&self, weights: &[f32], batch: &Batch, states: &mut [f32], space: &Workspace) {
        for_each(batch.blocks.iter().zip(by_block(states, batch)).collect(), |(block, states)| {
            space.with_scratch(self, batch.longest, |scratch| self.embed(weights, batch, block, states, scratch));
        });
    }

    /// One layer: from its input, in `states`, to its output there.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn run_layer(
        &self,
        layer: &Layer,
        weights: &[f32],
        batch: &Batch,
        states: &mut [f32],
        [queries, keys, values]: [&mut [f32]; 3],
        kept: Kept<'_>,
        space: &Workspace,
    ) {
        let longest = batch.longest;
        let items: Vec<_> = (batch.blocks.iter())
            .zip(by_block(states, batch))
            .zip(by_block(queries, batch).into_iter().zip(by_block(keys, batch)).zip(by_block(values, batch)))
            .zip(by_block(kept.raw_queries, batch).into_iter().zip(by_block(kept.raw_keys, batch)))
            .collect();
        for_each(items, |(((block, states), ((queries, keys), values)), raw)| {
            space.with_scratch(self, longest, |scratch| {
                self.project(layer, weights, batch, block, states, (queries, keys, values), raw, scratch);
            });
        });
        let (queries, keys, values) = (&*queries, &*keys, &*values);
        let (attended, attention_branch) = (by_block(kept.attended, batch), by_block(kept.attention_branch, batch));
        let (middle, inner, mlp_branch) = (by_block(kept.middle, batch), by_block(kept.inner, batch), by_block(kept.mlp_branch, batch));
        let kept = attended.into_iter().zip(attention_branch).zip(middle).zip(inner).zip(mlp_branch);
        let items: Vec<_> = batch.blocks.iter().zip(by_block(states, batch)).zip(kept).collect();
        for_each(items, |((block, states), ((((attended, attention_branch), middle), inner), mlp_branch))| {
            space.with_scratch(self, longest, |scratch| {
                let own = &queries[Batch::part(block, self.heads.query_width())];
                attention::attend(self, &layer.attention, batch, block, (own, keys, values), scratch);
                keep(attended, &scratch.attended[..self.heads.query_width() * block.columns]);
                let kept = Kept { attention_branch, middle, inner, mlp_branch, ..Kept::default() };
                self.mix(layer, weights, block, states, kept, scratch);
            });
        });
    }

    /// What the head reads, from the states behind the last layer.
    pub(super) fn finish<'a>(&self, weights: &[f32], batch: &Batch, states: &[f32], space: &'a mut Workspace) -> &'a [f32] {
        let mut outputs = std::mem::take(&mut space.outputs);
        outputs.resize(self.head_inputs() * batch.padded(), 0.0);
        for_each(batch.blocks.iter().zip(by_block(&mut outputs, batch)).collect(), |(block, outputs)| {
            space.with_scratch(self, batch.longest, |scratch| {
                let columns = block.columns;
                let states = &states[Batch::part(block, self.hidden)];
                match &self.project_out {
                    Some(linear) => {
                        let normed = &mut scratch.normed[..self.hidden * columns];
                        apply_norm(self.final_norm.as_ref(), weights, states, normed, columns);
                        apply_linear(linear, weights, normed, outputs, columns);
                    }
                    None => apply_norm(self.final_norm.as_ref(), weights, states, outputs, columns),
                }
                if self.output_scale != 1.0 {
                    outputs.iter_mut().for_each(|value| *value *= self.output_scale);
                }
            });
        });
        space.outputs = outputs;
        &space.outputs
    }

    /// Bias (one for every row) and soft limit of the logits `[rows, columns]`.
    pub(crate) fn finish_logits(&self, bias: Option<&[f32]>, logits: &mut [f32], columns: usize) {
        if let Some(bias) = bias {
            for (row, &bias) in logits.chunks_exact_mut(columns).zip(bias) {
                row.iter_mut().for_each(|value| *value += bias);
            }
        }
        if let Some(cap) = self.logit_cap {
            soft_cap(logits, 1.0, cap);
        }
    }

    fn embed(&self, weights: &[f32], batch: &Batch, block: &Block, states: &mut [f32], scratch: &mut Scratch) {
        let columns = block.columns;
        match &self.project_in {
            Some(linear) => {
                let rows = &mut scratch.normed[..self.embedding_width * columns];
                self.embed_rows(weights, batch, block, rows);
                apply_linear(linear, weights, rows, states, columns);
            }
            None => self.embed_rows(weights, batch, block, states),
        }
        if let Some((range, offset)) = &self.learned_positions {
            let table = &weights[range.clone()];
            for column in 0..block.count {
                let row = batch.places[block.start + column] + offset;
                for (feature, &value) in table[row * self.hidden..(row + 1) * self.hidden].iter().enumerate() {
                    states[feature * columns + column] += value;
                }
            }
        }
    }

    /// The rows of the embedding, scaled, `[embedding_width, columns]`.
    pub(super) fn embed_rows(&self, weights: &[f32], batch: &Batch, block: &Block, target: &mut [f32]) {
        let (columns, width) = (block.columns, self.embedding_width);
        let table = &weights[self.embedding.clone()];
        for column in 0..columns {
            if column < block.count {
                let id = batch.ids[block.start + column] as usize;
                for (feature, &value) in table[id * width..(id + 1) * width].iter().enumerate() {
                    target[feature * columns + column] = value * self.embedding_scale;
                }
            } else {
                (0..width).for_each(|feature| target[feature * columns + column] = 0.0);
            }
        }
    }

    /// Queries, keys and values of a block.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn project(
        &self,
        layer: &Layer,
        weights: &[f32],
        batch: &Batch,
        block: &Block,
        states: &[f32],
        (queries, keys, values): (&mut [f32], &mut [f32], &mut [f32]),
        (raw_queries, raw_keys): (&mut [f32], &mut [f32]),
        scratch: &mut Scratch,
    ) {
        let columns = block.columns;
        let normed = &mut scratch.normed[..self.hidden * columns];
        apply_norm(layer.before_attention.as_ref(), weights, states, normed, columns);
        match &layer.attention.projection {
            Projection::Separate { query, key, value } => {
                apply_linear(query, weights, normed, queries, columns);
                apply_linear(key, weights, normed, keys, columns);
                apply_linear(value, weights, normed, values, columns);
            }
            Projection::Stacked(linear) => {
                let all = &mut scratch.wide[..linear.outputs * columns];
                apply_linear(linear, weights, normed, all, columns);
                let (first, rest) = all.split_at(queries.len());
                let (second, third) = rest.split_at(keys.len());
                queries.copy_from_slice(first);
                keys.copy_from_slice(second);
                values.copy_from_slice(third);
            }
            Projection::Interleaved(linear) => {
                let all = &mut scratch.wide[..linear.outputs * columns];
                apply_linear(linear, weights, normed, all, columns);
                let length = self.heads.width * columns;
                for (head, parts) in all.chunks_exact(3 * length).enumerate() {
                    let place = head * length..(head + 1) * length;
                    queries[place.clone()].copy_from_slice(&parts[..length]);
                    keys[place.clone()].copy_from_slice(&parts[length..2 * length]);
                    values[place].copy_from_slice(&parts[2 * length..]);
                }
            }
        }
        keep(raw_queries, queries);
        keep(raw_keys, keys);
        norm_groups(layer.attention.query_norm.as_ref(), weights, queries, &mut scratch.wide, columns);
        norm_groups(layer.attention.key_norm.as_ref(), weights, keys, &mut scratch.wide, columns);
        if let Some(index) = layer.attention.rotary {
            let (rotary, turns) = (&self.rotaries[index], &batch.turns[index]);
            let angles = Batch::part(block, rotary.width / 2);
            let (cosines, sines) = (&turns.cosines[angles.clone()], &turns.sines[angles]);
            rotary.apply(queries, self.heads.width, columns, cosines, sines);
            rotary.apply(keys, self.heads.width, columns, cosines, sines);
        }
    }

    /// The rest of a layer, from the attended values in `scratch` on.
    fn mix(&self, layer: &Layer, weights: &[f32], block: &Block, states: &mut [f32], kept: Kept<'_>, scratch: &mut Scratch) {
        let columns = block.columns;
        let Scratch { normed, wide, gate, branch, attended, .. } = scratch;
        let normed = &mut normed[..self.hidden * columns];
        let branch = &mut branch[..self.hidden * columns];
        if layer.parallel {
            apply_norm(layer.before_mlp.as_ref(), weights, states, normed, columns);
        }
        let attended = &attended[..self.heads.query_width() * columns];
        self.add_attended(layer, weights, attended, states, branch, (kept.attention_branch, gate), columns);
        keep(kept.middle, states);
        if !layer.parallel {
            apply_norm(layer.before_mlp.as_ref(), weights, states, normed, columns);
        }
        let inner = inner_features(layer, weights, normed, (wide, gate), kept.inner, columns);
        self.add_inner(layer, weights, inner, states, branch, (kept.mlp_branch, gate), columns);
    }

    /// Adds what attention makes of the attended values to the states.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn add_attended(
        &self,
        layer: &Layer,
        weights: &[f32],
        attended: &[f32],
        states: &mut [f32],
        branch: &mut [f32],
        kept: (&mut [f32], &mut [f32]),
        columns: usize,
    ) {
        apply_linear(&layer.attention.output, weights, attended, branch, columns);
        self.join(layer, layer.after_attention.as_ref(), weights, states, branch, kept, columns);
    }

    /// Adds what the multilayer perceptron makes of its inner features to the states.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn add_inner(
        &self,
        layer: &Layer,
        weights: &[f32],
        inner: &[f32],
        states: &mut [f32],
        branch: &mut [f32],
        kept: (&mut [f32], &mut [f32]),
        columns: usize,
    ) {
        apply_linear(&layer.down, weights, inner, branch, columns);
        self.join(layer, layer.after_mlp.as_ref(), weights, states, branch, kept, columns);
    }

    /// Adds a branch to the states, with the norm on the branch or on the sum; what it reads is kept.
    #[allow(clippy::too_many_arguments)]
    fn join(
        &self,
        layer: &Layer,
        norm: Option<&Norm>,
        weights: &[f32],
        states: &mut [f32],
        branch: &mut [f32],
        (kept, spare): (&mut [f32], &mut [f32]),
        columns: usize,
    ) {
        if self.branch_scale != 1.0 {
            branch.iter_mut().for_each(|value| *value *= self.branch_scale);
        }
        if layer.norm_on_sum {
            branch.iter_mut().zip(states.iter()).for_each(|(branch, state)| *branch += state);
            keep(kept, branch);
            apply_norm(norm, weights, branch, states, columns);
        } else {
            keep(kept, branch);
            norm_groups(norm, weights, branch, spare, columns);
            states.iter_mut().zip(branch.iter()).for_each(|(state, branch)| *state += branch);
        }
    }
}

/// The inner features of a multilayer perceptron, in the first of the spare buffers, from what it reads; those before the activation are kept.
pub(super) fn inner_features<'a>(
    layer: &Layer,
    weights: &[f32],
    normed: &[f32],
    (wide, gate): (&'a mut [f32], &mut [f32]),
    kept: &mut [f32],
    columns: usize,
) -> &'a [f32] {
    match &layer.inner {
        Inner::Plain(linear) => {
            let inner = &mut wide[..linear.outputs * columns];
            apply_linear(linear, weights, normed, inner, columns);
            keep(kept, inner);
            layer.activation.apply(inner);
            inner
        }
        Inner::Gated { gate: linear, up } => {
            let (inner, gate) = (&mut wide[..up.outputs * columns], &mut gate[..linear.outputs * columns]);
            apply_linear(up, weights, normed, inner, columns);
            apply_linear(linear, weights, normed, gate, columns);
            if !kept.is_empty() {
                let (first, second) = kept.split_at_mut(gate.len());
                keep(first, gate);
                keep(second, inner);
            }
            layer.activation.apply(gate);
            inner.iter_mut().zip(gate).for_each(|(value, gate)| *value *= *gate);
            inner
        }
        Inner::Stacked(linear) => {
            let all = &mut wide[..linear.outputs * columns];
            apply_linear(linear, weights, normed, all, columns);
            keep(kept, all);
            let (gate, inner) = all.split_at_mut(linear.outputs / 2 * columns);
            layer.activation.apply(gate);
            inner.iter_mut().zip(gate).for_each(|(value, gate)| *value *= *gate);
            inner
        }
    }
}

/// Norm from one buffer to another; a copy without a norm.
pub(super) fn apply_norm(norm: Option<&Norm>, weights: &[f32], input: &[f32], output: &mut [f32], columns: usize) {
    let Some(norm) = norm else { return output.copy_from_slice(input) };
    let part = |range: &Option<std::ops::Range<usize>>| range.as_ref().map(|range| &weights[range.clone()]);
    normalize(norm.kind, norm.epsilon, part(&norm.weight), part(&norm.bias), input, output, columns);
}

/// Norm in place over groups of `norm.width` features.
fn norm_groups(norm: Option<&Norm>, weights: &[f32], values: &mut [f32], spare: &mut [f32], columns: usize) {
    let Some(norm) = norm else { return };
    for (group, values) in values.chunks_exact_mut(norm.width * columns).enumerate() {
        let output = &mut spare[..values.len()];
        apply_norm(Some(&norm.of_group(group)), weights, values, output, columns);
        values.copy_from_slice(output);
    }
}

/// `output = weight * input + bias`.
pub(super) fn apply_linear(linear: &Linear, weights: &[f32], input: &[f32], output: &mut [f32], columns: usize) {
    let weight = &weights[linear.weight.clone()];
    if linear.transposed {
        let left = Matrix::columns(weight, linear.outputs);
        let right = Matrix::rows(input, columns);
        product_strided(output, columns, left, right, Sizes { rows: linear.outputs, inner: linear.inputs, columns }, false);
    } else {
        product(output, weight, input, linear.outputs, linear.inputs, columns);
    }
    if let Some(bias) = &linear.bias {
        for (row, &bias) in output.chunks_exact_mut(columns).zip(&weights[bias.clone()]) {
            row.iter_mut().for_each(|value| *value += bias);
        }
    }
}
