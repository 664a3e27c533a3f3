//! The reverse pass on slices: from the gradient of what the head reads to that of all weights, layer by layer, with the blocks, layouts and
//! products of the forward pass.
//!
//! What runs in parallel are blocks (slopes of activations), heads of sequences (attention) and rows of matrices (gradients of weights); sums
//! over blocks run in their order, so the bits are the same on any number of threads, and no thread has a gradient of its own.

mod attention;
mod layer;
mod weights;

pub(super) use self::layer::LayerSpace;
use self::weights::{Source, WeightSlopes, add_weight_slopes};
use super::batch::padded;
use super::forward::{apply_norm, by_block, for_each};
use super::reflected::{MeanSlopes, Mirror, add_means};
use super::tape::{Keep, Kept, Tape};
use super::{Batch, Decoder, Linear, Norm, Workspace};
use crate::nn::normalize_backward;
use crate::products::{Matrix, Sizes, product_strided};

/// Sees the inputs `[positions, inputs]` and the gradients of the outputs `[positions, outputs]` of every dense layer but the head, and
/// where its weight begins in the flat weights.
pub(crate) type Watcher<'a> = dyn Fn(usize, &[f32], &[f32]) + Sync + 'a;

/// What a pass is made at.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub(crate) weights: &'a [f32],
    pub(crate) batch: &'a Batch,
    pub(crate) keep: Keep,
    pub(crate) watcher: Option<&'a Watcher<'a>>,
    /// Where the gradient is that of coordinates: what the weights were made with.
    pub(crate) mirror: Option<&'a Mirror<'a>>,
}

/// Buffers of a forward and reverse pass; used again from one to the next.
#[derive(Debug, Default)]
pub(crate) struct ReverseSpace {
    pub(super) body: Workspace,
    pub(super) tape: Tape,
    /// Of the states, `[hidden, columns]`.
    slopes: Vec<f32>,
    pub(super) layer: LayerSpace,
}

impl ReverseSpace {
    /// Bytes of a batch of `count` positions, sequences up to `longest`, on `threads` threads.
    pub(crate) fn bytes(decoder: &Decoder, count: usize, longest: usize, threads: usize, keep: Keep) -> usize {
        let slopes = 4 * padded(count) * (decoder.hidden + decoder.head_inputs());
        let body = Workspace::bytes(decoder, count, longest, threads);
        Tape::bytes(decoder, count, keep) + LayerSpace::bytes(decoder, count, longest, threads) + body + slopes
    }
}

impl ReverseSpace {
    /// [`Decoder::forward`], keeping nothing.
    pub(crate) fn forward(&mut self, decoder: &Decoder, weights: &[f32], batch: &Batch) -> &[f32] {
        decoder.forward(weights, batch, &mut self.body)
    }
}

impl Decoder {
    /// The forward pass ([`Decoder::forward`], to the bit), keeping what [`Decoder::add_gradient`] needs.
    pub(crate) fn forward_kept<'a>(&self, pass: Pass<'_>, space: &'a mut ReverseSpace) -> &'a [f32] {
        let Pass { weights, batch, keep, .. } = pass;
        let ReverseSpace { body, tape, .. } = space;
        tape.resize(self, batch, keep);
        let mut states = std::mem::take(&mut tape.last);
        self.embed_all(weights, batch, &mut states, body);
        for (index, layer) in self.layers.iter().enumerate() {
            tape.inputs[index].copy_from_slice(&states);
            match keep {
                Keep::Everything => {
                    let (projected, kept) = tape.layers[index].parts();
                    self.run_layer(layer, weights, batch, &mut states, projected, kept, body);
                }
                Keep::Inputs => {
                    tape.layers[0].resize(self, layer, batch.padded());
                    let (projected, _) = tape.layers[0].parts();
                    self.run_layer(layer, weights, batch, &mut states, projected, Kept::default(), body);
                }
            }
        }
        tape.last = states;
        self.finish(weights, batch, &tape.last, body)
    }

    /// Adds the gradient with respect to all weights but the head's, given that of what the head reads in `outputs` (`[head_inputs, columns]`,
    /// block after block, 0 where there is no position), of the pass that filled the space.
    pub(crate) fn add_gradient(&self, pass: Pass<'_>, outputs: &mut [f32], space: &mut ReverseSpace, gradient: &mut [f32]) {
        let Pass { weights, batch, keep, .. } = pass;
        let ReverseSpace { body, tape, slopes, layer: own } = space;
        let columns = batch.padded();
        slopes.resize(self.hidden * columns, 0.0);
        if let Some(mirror) = pass.mirror {
            let mut means = MeanSlopes::default();
            mirror.back(&mirror.plan.head, gradient, &mut means);
            batch.blocks.iter().zip(by_block(outputs, batch)).for_each(|(block, outputs)| add_means(outputs, &means.head, block));
        }
        self.reverse_outputs(pass, &tape.last, outputs, slopes, own, gradient);
        for (index, layer) in self.layers.iter().enumerate().rev() {
            let tape_index = if keep == Keep::Everything { index } else { 0 };
            let kept = &mut tape.layers[tape_index];
            if keep == Keep::Inputs {
                kept.resize(self, layer, columns);
                tape.last.copy_from_slice(&tape.inputs[index]);
                let (projected, parts) = kept.parts();
                self.run_layer(layer, weights, batch, &mut tape.last, projected, parts, body);
            }
            self.reverse_layer(index, pass, &tape.inputs[index], kept, slopes, (body, own), gradient);
        }
        self.reverse_embedding(pass, slopes, own, gradient);
    }

    /// Through scale, projection and last norm.
    fn reverse_outputs(
        &self,
        pass: Pass<'_>,
        last: &[f32],
        outputs: &mut [f32],
        slopes: &mut [f32],
        own: &mut LayerSpace,
        gradient: &mut [f32],
    ) {
        let Pass { weights, batch, .. } = pass;
        if self.output_scale != 1.0 {
            outputs.iter_mut().for_each(|slope| *slope *= self.output_scale);
        }
        let columns = batch.padded();
        let norms = [self.final_norm.as_ref()];
        let width = sums_width(&norms);
        own.norm_sums.clear();
        own.norm_sums.resize(width * batch.blocks.len(), 0.0);
        own.normed.resize(if self.project_out.is_some() { self.hidden * columns } else { 0 }, 0.0);
        let items: Vec<_> = (batch.blocks.iter().zip(by_block(slopes, batch)).zip(by_block(outputs, batch)))
            .zip(by_block(&mut own.normed, batch))
            .zip(sums_by_block(&mut own.norm_sums, width, batch))
            .collect();
        for_each(items, |((((block, slopes), outputs), normed), sums)| {
            let columns = block.columns;
            let part = &last[Batch::part(block, self.hidden)];
            match &self.project_out {
                Some(linear) => {
                    apply_norm(self.final_norm.as_ref(), weights, part, normed, columns);
                    linear_backward(linear, weights, outputs, slopes, columns, false);
                }
                None => slopes.copy_from_slice(outputs),
            }
            norm_backward(self.final_norm.as_ref(), weights, part, slopes, columns, sums);
        });
        add_norm_sums(&norms, &own.norm_sums, gradient);
        if let Some(linear) = &self.project_out {
            let product = WeightSlopes {
                linear,
                inputs: Source { values: &own.normed, features: self.hidden, first: 0 },
                slopes: Source { values: outputs, features: linear.outputs, first: 0 },
            };
            add_weight_slopes(&[product], pass, gradient);
        }
    }

    /// Into the tables of tokens and positions.
    fn reverse_embedding(&self, pass: Pass<'_>, slopes: &[f32], own: &mut LayerSpace, gradient: &mut [f32]) {
        let Pass { weights, batch, .. } = pass;
        if let Some((range, offset)) = &self.learned_positions {
            let table = &mut gradient[range.clone()];
            add_rows(table, self.hidden, batch, slopes, 1.0, |position| batch.places[position] + offset);
        }
        let token = |position: usize| batch.ids[position] as usize;
        let Some(linear) = &self.project_in else {
            add_rows(&mut gradient[self.embedding.clone()], self.hidden, batch, slopes, self.embedding_scale, token);
            return;
        };
        let width = self.embedding_width;
        own.normed.resize(width * batch.padded(), 0.0);
        own.of_normed.resize(width * batch.padded(), 0.0);
        let items: Vec<_> = batch.blocks.iter().zip(by_block(&mut own.normed, batch)).zip(by_block(&mut own.of_normed, batch)).collect();
        for_each(items, |((block, embedded), out)| {
            self.embed_rows(weights, batch, block, embedded);
            linear_backward(linear, weights, &slopes[Batch::part(block, self.hidden)], out, block.columns, false);
        });
        let product = WeightSlopes {
            linear,
            inputs: Source { values: &own.normed, features: width, first: 0 },
            slopes: Source { values: slopes, features: self.hidden, first: 0 },
        };
        add_weight_slopes(&[product], pass, gradient);
        add_rows(&mut gradient[self.embedding.clone()], width, batch, &own.of_normed, self.embedding_scale, token);
    }
}

/// Adds the columns of all positions, in order, to rows of a table.
fn add_rows(table: &mut [f32], width: usize, batch: &Batch, slopes: &[f32], factor: f32, row: impl Fn(usize) -> usize) {
    for block in &batch.blocks {
        let part = &slopes[Batch::part(block, width)];
        for column in 0..block.count {
            let place = row(block.start + column) * width;
            let column = part[column..].iter().step_by(block.columns);
            table[place..place + width].iter_mut().zip(column).for_each(|(total, slope)| *total += factor * slope);
        }
    }
}

/// `output = weight^T slopes`, or added.
fn linear_backward(linear: &Linear, weights: &[f32], slopes: &[f32], output: &mut [f32], columns: usize, add: bool) {
    let weight = &weights[linear.weight.clone()];
    let left = if linear.transposed { Matrix::rows(weight, linear.outputs) } else { Matrix::columns(weight, linear.inputs) };
    let sizes = Sizes { rows: linear.inputs, inner: linear.outputs, columns };
    product_strided(output, columns, left, Matrix::rows(slopes, columns), sizes, add);
}

/// Numbers of the gradients of weight and bias of some norms.
fn sums_width(norms: &[Option<&Norm>]) -> usize {
    norms.iter().flatten().map(|norm| sums_of(norm)).sum()
}

fn sums_of(norm: &Norm) -> usize {
    norm.weight.as_ref().map_or(0, std::ops::Range::len) + norm.bias.as_ref().map_or(0, std::ops::Range::len)
}

/// One part for each block.
fn sums_by_block<'a>(sums: &'a mut [f32], width: usize, batch: &Batch) -> Vec<&'a mut [f32]> {
    let mut rest = sums;
    let mut parts = Vec::with_capacity(batch.blocks.len());
    for _ in &batch.blocks {
        let (part, after) = std::mem::take(&mut rest).split_at_mut(width);
        parts.push(part);
        rest = after;
    }
    parts
}

/// Adds what the blocks' norms left, block by block.
fn add_norm_sums(norms: &[Option<&Norm>], sums: &[f32], gradient: &mut [f32]) {
    let width = sums_width(norms);
    if width == 0 {
        return;
    }
    for sums in sums.chunks_exact(width) {
        let mut rest = sums;
        for range in norms.iter().flatten().flat_map(|norm| norm.weight.iter().chain(&norm.bias)) {
            let (part, after) = rest.split_at(range.len());
            gradient[range.clone()].iter_mut().zip(part).for_each(|(total, slope)| *total += slope);
            rest = after;
        }
    }
}

/// Replaces the slopes of a norm's outputs by those of its inputs, group by group; `sums` receive what its weight and bias get, one after
/// the other. Nothing happens without a norm.
fn norm_backward(norm: Option<&Norm>, weights: &[f32], inputs: &[f32], slopes: &mut [f32], columns: usize, sums: &mut [f32]) {
    let Some(norm) = norm else { return };
    let (weight_sums, bias_sums) = sums.split_at_mut(norm.weight.as_ref().map_or(0, std::ops::Range::len));
    let length = norm.width * columns;
    for (group, (inputs, slopes)) in inputs.chunks_exact(length).zip(slopes.chunks_exact_mut(length)).enumerate() {
        let own = norm.of_group(group);
        let weight = own.weight.as_ref().map(|range| &weights[range.clone()]);
        // Groups that share their factors share these sums.
        let first = if norm.has_own_factors() { group * norm.width } else { 0 };
        let part = |sums: &mut [f32]| if sums.is_empty() { 0..0 } else { first..first + norm.width };
        let (weight_part, bias_part) = (part(weight_sums), part(bias_sums));
        let sums = (&mut weight_sums[weight_part], &mut bias_sums[bias_part]);
        normalize_backward((norm.kind, norm.epsilon), weight, inputs, slopes, columns, sums);
    }
}
