//! A decoder in coordinates in which the mean of what every dense layer makes stands alone.
//!
//! The outputs of a layer are `W h + b`. Their mean over the data is `(W, b) . (mu, 1)`, with `mu` the mean of what the layer reads: few hundredths of
//! the coordinates, and what a step shifts first. So every row `(W, b)` is reflected, by the reflection that takes `(mu, 1)` to the axis of the bias.
//! There stands, up to a factor, the mean of the output, whatever the layers before do. `mu` depends on what comes before the layer alone, so the
//! Jacobian is one. Without a bias `mu` goes to the axis of the input where it was largest at the center.
//!
//! Where attention and multilayer perceptron read the same states, the last layers of both are reflected together: the mean of what a layer adds to the
//! states is then one coordinate for each of their features. Where attention comes first that would not keep volumes, and each has its own. A head that
//! is the embedding too stays what it is: what it reads depends on it.

use super::batch::Block;
use super::forward::{apply_norm, by_block, for_each, inner_features, keep};
use super::reverse::{LayerSpace, ReverseSpace};
use super::tape::Keep;
use super::workspace::Workspace;
use super::{BLOCK, Batch, Decoder, Layer, Linear, Norm, attention};
use crate::reflection::Reflection;
use basin_volume::direction::dot;

/// To sum by inner products.
const ONES: [f32; BLOCK] = [1.0; BLOCK];

/// What the rows of a dense layer are multiplied with.
#[derive(Debug, Clone, Copy)]
enum Read {
    /// Normed states, by queries, keys and values.
    Projection,
    /// Attended values.
    Attended,
    /// Normed states, by the multilayer perceptron.
    Inner,
    /// Its features behind the activation.
    Activated,
    /// What the head reads.
    Head,
}

/// Dense layers of as many outputs, whose rows stand side by side: each as `(W, b)`, or `W` where it has no bias.
#[derive(Debug, Clone)]
pub(super) struct RowGroup {
    parts: Vec<(Linear, Read)>,
    /// Number of its reflection.
    number: usize,
    axis: usize,
    sign: f64,
}

/// The groups of a layer by when they are known on the way forward; an empty list where the other branch has them.
#[derive(Debug, Clone)]
pub(super) struct LayerGroups {
    pub(super) projection: Vec<RowGroup>,
    pub(super) inner: Vec<RowGroup>,
    pub(super) output: Vec<RowGroup>,
    pub(super) down: Vec<RowGroup>,
}

/// Which rows of a decoder are reflected.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(super) layers: Vec<LayerGroups>,
    pub(super) head: Vec<RowGroup>,
    count: usize,
}

/// The means of what layers read, of one layer of the decoder.
#[derive(Debug, Default)]
struct Means {
    projection: Vec<f64>,
    attended: Vec<f64>,
    inner: Vec<f64>,
    activated: Vec<f64>,
    head: Vec<f64>,
}

impl Means {
    fn of(&self, read: Read) -> &[f64] {
        match read {
            Read::Projection => &self.projection,
            Read::Attended => &self.attended,
            Read::Inner => &self.inner,
            Read::Activated => &self.activated,
            Read::Head => &self.head,
        }
    }
}

/// What every position adds to the slopes of what layers read, because their mean depends on it; empty where nothing does.
#[derive(Debug, Default)]
pub(super) struct MeanSlopes {
    pub(super) projection: Vec<f32>,
    pub(super) attended: Vec<f32>,
    pub(super) inner: Vec<f32>,
    pub(super) activated: Vec<f32>,
    pub(super) head: Vec<f32>,
}

impl MeanSlopes {
    fn of(&mut self, read: Read) -> &mut Vec<f32> {
        match read {
            Read::Projection => &mut self.projection,
            Read::Attended => &mut self.attended,
            Read::Inner => &mut self.inner,
            Read::Activated => &mut self.activated,
            Read::Head => &mut self.head,
        }
    }
}

/// Adds to the columns of a block's positions, not to those beyond.
pub(super) fn add_means(slopes: &mut [f32], means: &[f32], block: &Block) {
    for (row, mean) in slopes.chunks_exact_mut(block.columns).zip(means) {
        row[..block.count].iter_mut().for_each(|slope| *slope += mean);
    }
}

impl RowGroup {
    fn of(parts: Vec<(&Linear, Read)>, count: &mut usize) -> Self {
        let number = *count;
        *count += 1;
        let parts: Vec<_> = parts.into_iter().map(|(linear, read)| (linear.clone(), read)).collect();
        let mut group = Self { parts, number, axis: 0, sign: 1.0 };
        group.axis = group.last_bias().unwrap_or(0);
        group
    }

    /// Entries of a row.
    fn width(&self) -> usize {
        self.parts.iter().map(|(linear, _)| width_of(linear)).sum()
    }

    /// Where the last bias stands in a row.
    fn last_bias(&self) -> Option<usize> {
        let ends = self.parts.iter().scan(0, |end, (linear, _)| {
            *end += width_of(linear);
            Some((*end, linear.bias.is_some()))
        });
        ends.filter(|(_, has_bias)| *has_bias).last().map(|(end, _)| end - 1)
    }

    /// What is reflected to the axis.
    fn vector(&self, means: &Means) -> Vec<f64> {
        let parts = self.parts.iter();
        parts.flat_map(|(linear, read)| means.of(*read).iter().copied().chain(linear.bias.as_ref().map(|_| 1.0))).collect()
    }

    fn rows(&self) -> usize {
        self.parts.first().map_or(0, |(linear, _)| linear.outputs)
    }

    /// A row out of flat weights.
    fn gather(&self, weights: &[f32], row: usize, out: &mut [f32]) {
        let mut rest = out;
        for (linear, _) in &self.parts {
            let (own, after) = std::mem::take(&mut rest).split_at_mut(width_of(linear));
            let matrix = &weights[linear.weight.clone()];
            if linear.transposed {
                own.iter_mut().zip(matrix[row..].iter().step_by(linear.outputs)).for_each(|(to, from)| *to = *from);
            } else {
                own[..linear.inputs].copy_from_slice(&matrix[row * linear.inputs..(row + 1) * linear.inputs]);
            }
            if let Some(bias) = &linear.bias {
                own[linear.inputs] = weights[bias.start + row];
            }
            rest = after;
        }
    }

    /// The same into them.
    fn scatter(&self, row_values: &[f32], row: usize, weights: &mut [f32]) {
        let mut rest = row_values;
        for (linear, _) in &self.parts {
            let (own, after) = rest.split_at(width_of(linear));
            let matrix = &mut weights[linear.weight.clone()];
            if linear.transposed {
                matrix[row..].iter_mut().step_by(linear.outputs).zip(own).for_each(|(to, from)| *to = *from);
            } else {
                matrix[row * linear.inputs..(row + 1) * linear.inputs].copy_from_slice(&own[..linear.inputs]);
            }
            if let Some(bias) = &linear.bias {
                weights[bias.start + row] = own[linear.inputs];
            }
            rest = after;
        }
    }
}

/// Entries of a layer's row.
fn width_of(linear: &Linear) -> usize {
    linear.inputs + usize::from(linear.bias.is_some())
}

/// Whether the rows that are given are those of the network, or become those of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Given {
    Weights,
    Coordinates,
}

/// What passes in coordinates need beside the buffers of others.
#[derive(Debug, Default)]
pub(crate) struct ReflectedSpace {
    /// What was given, reflected.
    pub(crate) rows: Vec<f32>,
    reflections: Vec<Reflection>,
    row: Vec<f32>,
}

impl ReflectedSpace {
    fn reflect(&mut self, groups: &[RowGroup], means: &Means) {
        for group in groups {
            let reflection = Reflection::of(&group.vector(means), group.axis, group.sign);
            self.row.resize(group.width(), 0.0);
            for row in 0..group.rows() {
                group.gather(&self.rows, row, &mut self.row);
                let along = reflection.along(&self.row);
                reflection.reflect(&mut self.row, along);
                group.scatter(&self.row, row, &mut self.rows);
            }
            self.reflections[group.number] = reflection;
        }
    }

    /// What a reverse pass needs that is to give the gradient of the coordinates.
    pub(crate) fn mirror<'a>(&'a self, plan: &'a Plan, coordinates: &'a [f32], batch: &Batch) -> Mirror<'a> {
        Mirror { plan, coordinates, reflections: &self.reflections, positions: batch.ids.len() }
    }
}

/// How the weights came from coordinates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mirror<'a> {
    pub(super) plan: &'a Plan,
    coordinates: &'a [f32],
    reflections: &'a [Reflection],
    positions: usize,
}

impl Mirror<'_> {
    /// Makes the gradient of the weights of some rows that of their coordinates, and notes what the means of what they read get.
    pub(super) fn back(&self, groups: &[RowGroup], gradient: &mut [f32], means: &mut MeanSlopes) {
        for group in groups {
            let reflection = &self.reflections[group.number];
            let width = group.width();
            let (mut slopes, mut row_values) = (vec![0.0f32; width], vec![0.0f32; width]);
            let mut unit_gradient = vec![0.0f64; width];
            for row in 0..group.rows() {
                group.gather(gradient, row, &mut slopes);
                group.gather(self.coordinates, row, &mut row_values);
                let (along, other) = (reflection.along(&slopes), reflection.along(&row_values));
                for ((sum, value), slope) in unit_gradient.iter_mut().zip(&row_values).zip(&slopes) {
                    *sum -= 2.0 * (along * f64::from(*value) + other * f64::from(*slope));
                }
                reflection.reflect(&mut slopes, along);
                group.scatter(&slopes, row, gradient);
            }
            let vector = reflection.back(&unit_gradient);
            let mut rest = &vector[..];
            for (linear, read) in &group.parts {
                let (own, after) = rest.split_at(width_of(linear));
                let target = means.of(*read);
                target.resize(linear.inputs, 0.0);
                target.iter_mut().zip(own).for_each(|(sum, slope)| *sum += (slope / self.positions as f64) as f32);
                rest = after;
            }
        }
    }
}

impl Plan {
    fn groups_mut(&mut self) -> impl Iterator<Item = &mut RowGroup> {
        let layers = self.layers.iter_mut();
        let layers = layers.flat_map(|LayerGroups { projection, inner, output, down }| [projection, inner, output, down]);
        layers.flatten().chain(&mut self.head)
    }
}

impl Decoder {
    /// The rows that can be reflected, with the axes that suit these weights.
    pub(crate) fn reflection_plan(&self, weights: &[f32], batch: &Batch) -> Plan {
        let mut count = 0;
        let layers = self.layers.iter().map(|layer| LayerGroups::of(layer, &mut count)).collect();
        let is_tied = self.head.weight.start == self.embedding.start;
        let head = if is_tied { Vec::new() } else { vec![RowGroup::of(vec![(&self.head, Read::Head)], &mut count)] };
        let mut plan = Plan { layers, head, count };
        // Without a bias: the axis that is nearest. It stays, so that the map does.
        let (mut space, mut own) = (ReverseSpace::default(), ReflectedSpace::default());
        self.forward_reflected((weights, Given::Weights), batch, &plan, &mut space, &mut own);
        for group in plan.groups_mut().filter(|group| group.last_bias().is_none()) {
            let toward = &own.reflections[group.number].toward;
            let largest = (0..toward.len()).max_by(|&a, &b| toward[a].abs().total_cmp(&toward[b].abs())).unwrap_or(0);
            (group.axis, group.sign) = (largest, if toward[largest] < 0.0 { -1.0 } else { 1.0 });
        }
        plan
    }

    /// The forward pass of rows that are reflected on the way, keeping what the reverse pass needs: the rows in `own` become the weights of
    /// coordinates, or the coordinates of weights.
    pub(crate) fn forward_reflected<'a>(
        &self,
        (rows, given): (&[f32], Given),
        batch: &Batch,
        plan: &Plan,
        space: &'a mut ReverseSpace,
        own: &mut ReflectedSpace,
    ) -> &'a [f32] {
        own.rows.clear();
        own.rows.extend_from_slice(rows);
        own.reflections.resize(plan.count, Reflection::default());
        let ReverseSpace { body, tape, layer: LayerSpace { inner, .. }, .. } = space;
        tape.resize(self, batch, Keep::Everything);
        let mut states = std::mem::take(&mut tape.last);
        self.embed_all(rows, batch, &mut states, body);
        for (index, (layer, groups)) in self.layers.iter().zip(&plan.layers).enumerate() {
            tape.inputs[index].copy_from_slice(&states);
            let mut means =
                Means { projection: self.normed_mean(layer.before_attention.as_ref(), rows, batch, &states, body), ..Means::default() };
            own.reflect(&groups.projection, &means);
            if layer.parallel {
                means.inner = self.normed_mean(layer.before_mlp.as_ref(), rows, batch, &states, body);
                own.reflect(&groups.inner, &means);
            }
            let kept = &mut tape.layers[index];
            let weights = network(rows, given, own);
            let items: Vec<_> = (batch.blocks.iter())
                .zip(by_block(&mut states, batch))
                .zip(
                    by_block(&mut kept.queries, batch)
                        .into_iter()
                        .zip(by_block(&mut kept.keys, batch))
                        .zip(by_block(&mut kept.values, batch)),
                )
                .zip(by_block(&mut kept.raw_queries, batch).into_iter().zip(by_block(&mut kept.raw_keys, batch)))
                .collect();
            for_each(items, |(((block, states), ((queries, keys), values)), raw)| {
                body.with_scratch(self, batch.longest, |scratch| {
                    self.project(layer, weights, batch, block, states, (queries, keys, values), raw, scratch);
                });
            });
            let (queries, keys, values) = (&kept.queries, &kept.keys, &kept.values);
            for_each(batch.blocks.iter().zip(by_block(&mut kept.attended, batch)).collect(), |(block, attended)| {
                body.with_scratch(self, batch.longest, |scratch| {
                    let queries = &queries[Batch::part(block, self.heads.query_width())];
                    attention::attend(self, &layer.attention, batch, block, (queries, keys, values), scratch);
                    attended.copy_from_slice(&scratch.attended[..self.heads.query_width() * block.columns]);
                });
            });
            means.attended = mean_of(&kept.attended, batch);
            inner.resize(layer.down.inputs * batch.padded(), 0.0);
            let buffers = (&mut kept.attention_branch[..], &mut kept.middle[..]);
            if layer.parallel {
                // What the multilayer perceptron reads is known before the joint rows of both branches are.
                self.activate(layer, network(rows, given, own), batch, &states, &mut kept.inner, inner, body);
                means.activated = mean_of(inner, batch);
                own.reflect(&groups.down, &means);
                self.add_branch(layer, (network(rows, given, own), batch), &kept.attended, &mut states, buffers, body);
            } else {
                own.reflect(&groups.output, &means);
                self.add_branch(layer, (network(rows, given, own), batch), &kept.attended, &mut states, buffers, body);
                means.inner = self.normed_mean(layer.before_mlp.as_ref(), rows, batch, &states, body);
                own.reflect(&groups.inner, &means);
                self.activate(layer, network(rows, given, own), batch, &states, &mut kept.inner, inner, body);
                means.activated = mean_of(inner, batch);
                own.reflect(&groups.down, &means);
            }
            let weights = network(rows, given, own);
            let buffers = by_block(&mut states, batch).into_iter().zip(by_block(&mut kept.mlp_branch, batch));
            for_each(batch.blocks.iter().zip(buffers).collect(), |(block, (states, branch))| {
                body.with_scratch(self, batch.longest, |scratch| {
                    let inner = &inner[Batch::part(block, layer.down.inputs)];
                    let own = &mut scratch.branch[..self.hidden * block.columns];
                    self.add_inner(layer, weights, inner, states, own, (branch, &mut scratch.gate), block.columns);
                });
            });
        }
        tape.last = states;
        let outputs = self.finish(rows, batch, &tape.last, body);
        let means = Means { head: mean_of(outputs, batch), ..Means::default() };
        own.reflect(&plan.head, &means);
        outputs
    }

    /// The mean over all positions of what a norm makes of the states.
    fn normed_mean(&self, norm: Option<&Norm>, weights: &[f32], batch: &Batch, states: &[f32], body: &Workspace) -> Vec<f64> {
        let mut sums = vec![Vec::new(); batch.blocks.len()];
        for_each(batch.blocks.iter().zip(&mut sums).collect(), |(block, sums)| {
            body.with_scratch(self, batch.longest, |scratch| {
                let normed = &mut scratch.normed[..self.hidden * block.columns];
                apply_norm(norm, weights, &states[Batch::part(block, self.hidden)], normed, block.columns);
                *sums = sums_of(normed, block);
            });
        });
        mean(&sums, batch)
    }

    /// Adds what attention makes of the attended values to the states, and keeps what the reverse pass needs.
    fn add_branch(
        &self,
        layer: &Layer,
        (weights, batch): (&[f32], &Batch),
        attended: &[f32],
        states: &mut [f32],
        (branch, middle): (&mut [f32], &mut [f32]),
        body: &Workspace,
    ) {
        let buffers = by_block(states, batch).into_iter().zip(by_block(branch, batch)).zip(by_block(middle, batch));
        for_each(batch.blocks.iter().zip(buffers).collect(), |(block, ((states, branch), middle))| {
            body.with_scratch(self, batch.longest, |scratch| {
                let attended = &attended[Batch::part(block, self.heads.query_width())];
                let own = &mut scratch.branch[..self.hidden * block.columns];
                self.add_attended(layer, weights, attended, states, own, (branch, &mut scratch.gate), block.columns);
                keep(middle, states);
            });
        });
    }

    /// The inner features of the multilayer perceptron at the states, before and behind the activation.
    #[allow(clippy::too_many_arguments)]
    fn activate(
        &self,
        layer: &Layer,
        weights: &[f32],
        batch: &Batch,
        states: &[f32],
        kept: &mut [f32],
        activated: &mut [f32],
        body: &Workspace,
    ) {
        let buffers = by_block(kept, batch).into_iter().zip(by_block(activated, batch));
        for_each(batch.blocks.iter().zip(buffers).collect(), |(block, (kept, activated))| {
            body.with_scratch(self, batch.longest, |scratch| {
                let normed = &mut scratch.normed[..self.hidden * block.columns];
                apply_norm(layer.before_mlp.as_ref(), weights, &states[Batch::part(block, self.hidden)], normed, block.columns);
                let inner = inner_features(layer, weights, normed, (&mut scratch.wide, &mut scratch.gate), kept, block.columns);
                activated.copy_from_slice(inner);
            });
        });
    }
}

impl LayerGroups {
    fn of(layer: &Layer, count: &mut usize) -> Self {
        let mut alone = |linear: &Linear, read: Read| RowGroup::of(vec![(linear, read)], count);
        let projection = layer.attention.projection.layers().map(|linear| alone(linear, Read::Projection)).collect();
        let inner = layer.inner.layers().map(|linear| alone(linear, Read::Inner)).collect();
        let (output, down) = (&layer.attention.output, &layer.down);
        if layer.parallel {
            let joint = RowGroup::of(vec![(output, Read::Attended), (down, Read::Activated)], count);
            return Self { projection, inner, output: Vec::new(), down: vec![joint] };
        }
        Self { projection, inner, output: vec![alone(output, Read::Attended)], down: vec![alone(down, Read::Activated)] }
    }
}

/// The weights that the network has: what was given, or what became of it.
fn network<'a>(rows: &'a [f32], given: Given, own: &'a ReflectedSpace) -> &'a [f32] {
    match given {
        Given::Weights => rows,
        Given::Coordinates => &own.rows,
    }
}

/// The sum over a block's positions of every feature.
fn sums_of(values: &[f32], block: &Block) -> Vec<f64> {
    values.chunks_exact(block.columns).map(|row| dot(&row[..block.count], &ONES[..block.count])).collect()
}

/// The mean over all positions of every feature of `[features, columns]`, block after block.
fn mean_of(values: &[f32], batch: &Batch) -> Vec<f64> {
    let features = values.len() / batch.padded().max(1);
    let sums: Vec<Vec<f64>> = batch.blocks.iter().map(|block| sums_of(&values[Batch::part(block, features)], block)).collect();
    mean(&sums, batch)
}

fn mean(sums: &[Vec<f64>], batch: &Batch) -> Vec<f64> {
    let features = sums.first().map_or(0, Vec::len);
    let positions = batch.ids.len() as f64;
    (0..features).map(|feature| sums.iter().map(|sums| sums[feature]).sum::<f64>() / positions).collect()
}
