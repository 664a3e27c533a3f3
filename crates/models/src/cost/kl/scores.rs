//! Second moments of the scores of a multilayer perceptron, exact over the classes.

use std::ops::Range;

use basin_volume::fisher::FisherMatrix;

use super::gradient::places;
use super::{MlpKl, TILE, Tile, last_bias};
use crate::arch::Architecture;
use crate::cost::draw::uniforms;
use crate::cost::pool::{give_back, take};
use crate::cost::tiles::check_labels;
use crate::curvature::{CurvatureError, DenseMatrix, Labels, Moments, Scores, probe_seed};
use crate::nn::label::{drawn_label, label_slopes};
use crate::parameters::Moving;
use crate::products::{Matrix, Sizes, product_parallel};

/// Up to this many classes expectations over the labels are sums over all classes; beyond it labels are drawn.
pub const EXACT_CLASSES: usize = 64;

/// Tiles whose scores are computed between two looks at the observer.
const BATCH: usize = 4;

/// Labels whose slopes go into one product of Kronecker factors.
const LABELS: usize = 10;

/// Forward passes of one tile, and the slopes of one choice of labels.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// Outputs of the hidden layers, `[width, columns]`, layer by layer.
    activations: Vec<f32>,
    /// Derivatives of the hidden layers' activations.
    derivatives: Vec<f32>,
    /// Slopes of the sums of all layers.
    slopes: Vec<f32>,
    /// All matrices but the first, transposed: read along its columns, a matrix would be packed again for every label.
    transposed: Vec<f32>,
    /// Probabilities of the model at the weights given, `[positions, classes]`.
    probabilities: Vec<f64>,
}

/// Which label a position has in a round, and the weight of its score's square.
#[derive(Clone, Copy)]
enum Rule<'a> {
    /// Round `k` is class `k` with its probability.
    Expected,
    /// Labels of a probe.
    Drawn { seed: u64, share: f64 },
    /// Labels of all rows.
    Given(&'a [u32]),
}

/// What happens to a tile.
pub(super) enum Event<'a> {
    /// The forward pass is done: outputs of all layers, `[width, columns]` at their [`places`], and which columns are meant.
    Forward(&'a [f32], Range<usize>),
    /// Slopes of the sums of all layers for one choice of labels, at the same places.
    Slopes(&'a [f32]),
    /// All labels are through.
    End(&'a [f32]),
}

impl MlpKl {
    fn rounds<'a>(&self, labels: Labels<'a>) -> Result<Vec<Rule<'a>>, CurvatureError> {
        let classes = self.network.outputs();
        match labels {
            Labels::Model { .. } if classes <= EXACT_CLASSES => Ok(vec![Rule::Expected; classes]),
            Labels::Model { probes, seed } => {
                Ok((0..probes).map(|probe| Rule::Drawn { seed: probe_seed(seed, probe), share: 1.0 / probes as f64 }).collect())
            }
            Labels::Data { rows, .. } => Ok(vec![Rule::Given(check_labels(rows, (self.positions, classes), ("row", "rows of data"))?)]),
        }
    }

    /// Calls `visit` with every tile that has some of `rows`, in order, then for every round of labels with the slopes. The slopes are
    /// those of `sqrt(weight / N) log p(y|x)`, so that sums of their squares are means over all rows.
    pub(super) fn for_slopes(
        &self,
        weights: &[f32],
        rows: Range<usize>,
        labels: Labels<'_>,
        visit: &mut dyn FnMut(&Tile, Event<'_>),
    ) -> Result<(), CurvatureError> {
        let rules = self.rounds(labels)?;
        let mut space = take(&self.score_spaces);
        self.transpose(weights, &mut space.transposed);
        for index in rows.start / TILE..rows.end.div_ceil(TILE) {
            let tile = &self.tiles[index];
            let start = index * TILE;
            let inside = rows.start.max(start) - start..rows.end.min(start + tile.kept.positions()) - start;
            self.tile_forward(weights, tile, &mut space);
            visit(tile, Event::Forward(&space.activations, inside.clone()));
            for (round, rule) in rules.iter().enumerate() {
                self.label_slopes(tile, start, inside.clone(), round, *rule, &mut space);
                self.tile_backward(tile, &mut space);
                visit(tile, Event::Slopes(&space.slopes));
            }
            visit(tile, Event::End(&space.activations));
        }
        give_back(&self.score_spaces, space);
        Ok(())
    }

    fn tile_forward(&self, weights: &[f32], tile: &Tile, space: &mut Space) {
        let widths = self.network.widths();
        let (layers, columns) = (widths.len() - 1, tile.columns);
        let places = places(widths, columns);
        let length = places.last().map_or(0, |place| place.end);
        for buffer in [&mut space.activations, &mut space.derivatives, &mut space.slopes] {
            buffer.resize(length, 0.0);
        }
        let mut rest = weights;
        for (layer, pair) in widths.windows(2).enumerate() {
            let (weight, after) = rest.split_at(pair[0] * pair[1]);
            let (bias, after) = after.split_at(pair[1]);
            rest = after;
            let (before, own) = space.activations.split_at_mut(places[layer].start);
            let input = if layer == 0 { &tile.inputs[..] } else { &before[places[layer - 1].clone()] };
            let sums = &mut own[..pair[1] * columns];
            let left = Matrix::rows(weight, pair[0]);
            let right = Matrix::rows(input, columns);
            product_parallel(sums, columns, left, right, Sizes { rows: pair[1], inner: pair[0], columns }, false);
            if layer + 1 < layers {
                for (row, &bias) in sums.chunks_exact_mut(columns).zip(bias) {
                    row.iter_mut().for_each(|value| *value += bias);
                }
                let derivatives = &mut space.derivatives[places[layer].clone()];
                derivatives.fill(1.0);
                self.network.activation().multiply_by_derivative(derivatives, sums);
                self.network.activation().apply(sums);
            }
        }
        let (classes, positions) = (self.network.outputs(), tile.kept.positions());
        let bias = last_bias(&self.network, weights);
        let logits = &space.activations[places[layers - 1].clone()];
        space.probabilities.clear();
        for position in 0..positions {
            let value = |class: usize| f64::from(logits[class * columns + position]) + f64::from(bias[class]);
            let largest = (0..classes).map(value).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = (0..classes).map(|class| (value(class) - largest).exp()).sum();
            space.probabilities.extend((0..classes).map(|class| (value(class) - largest).exp() / sum));
        }
    }

    /// Slopes of the logits.
    fn label_slopes(&self, tile: &Tile, start: usize, inside: Range<usize>, round: usize, rule: Rule<'_>, space: &mut Space) {
        let widths = self.network.widths();
        let (classes, columns) = (self.network.outputs(), tile.columns);
        let logits = &mut space.slopes[places(widths, columns)[widths.len() - 2].clone()];
        logits.fill(0.0);
        let draws = match rule {
            Rule::Drawn { seed, .. } => uniforms(seed, start + inside.start..start + inside.end),
            _ => Vec::new(),
        };
        let share = 1.0 / self.positions as f64;
        for position in inside.clone() {
            let q = &space.probabilities[position * classes..(position + 1) * classes];
            let (label, weight) = match rule {
                Rule::Expected => (round, share * q[round]),
                Rule::Drawn { share: own, .. } => (drawn_label(q, draws[position - inside.start]), share * own),
                Rule::Given(labels) => (labels[start + position] as usize, share),
            };
            let scale = weight.sqrt();
            for (class, slope) in label_slopes(q, label).enumerate() {
                logits[class * columns + position] = (scale * slope) as f32;
            }
        }
    }

    /// The matrices `[outputs, inputs]` of all layers but the first as `[inputs, outputs]`, at the places of the originals.
    fn transpose(&self, weights: &[f32], transposed: &mut Vec<f32>) {
        transposed.resize(weights.len(), 0.0);
        let mut start = 0;
        for (layer, pair) in self.network.widths().windows(2).enumerate() {
            let (inputs, outputs) = (pair[0], pair[1]);
            let range = start..start + inputs * outputs;
            start = range.end + outputs;
            if layer > 0 {
                let matrix = &weights[range.clone()];
                for (input, row) in transposed[range].chunks_exact_mut(outputs).enumerate() {
                    row.iter_mut().zip(matrix.iter().skip(input).step_by(inputs)).for_each(|(to, from)| *to = *from);
                }
            }
        }
    }

    /// From the slopes of the logits to those of all layers.
    fn tile_backward(&self, tile: &Tile, space: &mut Space) {
        let widths = self.network.widths();
        let (layers, columns) = (widths.len() - 1, tile.columns);
        let places = places(widths, columns);
        let mut end = space.transposed.len();
        for layer in (1..layers).rev() {
            let (inputs, outputs) = (widths[layer], widths[layer + 1]);
            let start = end - outputs - inputs * outputs;
            let left = Matrix::rows(&space.transposed[start..end - outputs], outputs);
            end = start;
            let (before, own) = space.slopes.split_at_mut(places[layer].start);
            let right = Matrix::rows(&own[..outputs * columns], columns);
            let result = &mut before[places[layer - 1].clone()];
            product_parallel(result, columns, left, right, Sizes { rows: inputs, inner: outputs, columns }, false);
            result.iter_mut().zip(&space.derivatives[places[layer - 1].clone()]).for_each(|(slope, derivative)| *slope *= derivative);
        }
    }
}

impl MlpKl {
    /// Adds the squared scores of some rows with respect to all weights: per tile `sum_y weight slopes^2`, then one product with the squared
    /// inputs per layer, since the gradient of a weight at one position is the product of its slope and its input.
    fn add_squares_of(&self, weights: &[f32], rows: Range<usize>, labels: Labels<'_>, full: &mut [f32]) -> Result<(), CurvatureError> {
        let widths = self.network.widths();
        let (mut squares, mut inputs) = (Vec::new(), Vec::new());
        self.for_slopes(weights, rows, labels, &mut |tile, event| {
            let columns = tile.columns;
            match event {
                Event::Forward(activations, _) => {
                    squares.clear();
                    squares.resize(activations.len(), 0.0f32);
                }
                Event::Slopes(slopes) => squares.iter_mut().zip(slopes).for_each(|(sum, slope)| *sum += slope * slope),
                Event::End(activations) => {
                    let places = places(widths, columns);
                    let mut rest = &mut *full;
                    for (layer, pair) in widths.windows(2).enumerate() {
                        let (weight, after) = std::mem::take(&mut rest).split_at_mut(pair[0] * pair[1]);
                        let (bias, after) = after.split_at_mut(pair[1]);
                        rest = after;
                        let values = if layer == 0 { &tile.inputs[..] } else { &activations[places[layer - 1].clone()] };
                        inputs.clear();
                        inputs.extend(values.iter().map(|value| value * value));
                        let slopes = &squares[places[layer].clone()];
                        let left = Matrix::rows(slopes, columns);
                        let right = Matrix::columns(&inputs, columns);
                        product_parallel(weight, pair[0], left, right, Sizes { rows: pair[1], inner: columns, columns: pair[0] }, true);
                        for (bias, slopes) in bias.iter_mut().zip(slopes.chunks_exact(columns)) {
                            *bias += slopes.iter().sum::<f32>();
                        }
                    }
                }
            }
        })
    }
}

impl MlpKl {
    /// Adds the second moments of some rows in all layers whose weights move.
    fn add_moments_of(&self, rows: Range<usize>, labels: Labels<'_>, moments: &mut [Moments]) -> Result<(), CurvatureError> {
        let weights = self.moving.center().values();
        let widths = self.network.widths();
        let layers = self.moving_layers();
        let share = (1.0 / self.positions as f64).sqrt() as f32;
        let mut scaled = Vec::new();
        // Slopes of some labels side by side, `[width, LABELS * columns]` per layer: one long product instead of many short ones.
        let (mut beside, mut labels_beside) = (vec![Vec::new(); layers.len()], 0);
        let flush = |beside: &[Vec<f32>], moments: &mut [Moments], columns: usize| {
            for (beside, moments) in beside.iter().zip(moments) {
                add_second_moment(beside, LABELS * columns, &mut moments.outputs);
            }
        };
        self.for_slopes(&weights, rows, labels, &mut |tile, event| {
            let columns = tile.columns;
            let places = places(widths, columns);
            match event {
                Event::Forward(activations, inside) => {
                    for (&layer, moments) in layers.iter().zip(&mut *moments) {
                        let values = if layer == 0 { &tile.inputs[..] } else { &activations[places[layer - 1].clone()] };
                        // Only the columns of the rows: padding has activations of its own.
                        scaled.clear();
                        scaled.extend(values.chunks_exact(columns).flat_map(|row| &row[inside.clone()]).map(|value| share * value));
                        add_second_moment(&scaled, inside.len(), &mut moments.inputs);
                    }
                }
                Event::Slopes(slopes) => {
                    for (&layer, beside) in layers.iter().zip(&mut beside) {
                        let slopes = &slopes[places[layer].clone()];
                        if labels_beside == 0 {
                            beside.clear();
                            beside.resize(LABELS * slopes.len(), 0.0);
                        }
                        let rows = beside.chunks_exact_mut(LABELS * columns).zip(slopes.chunks_exact(columns));
                        rows.for_each(|(to, from)| to[labels_beside * columns..][..columns].copy_from_slice(from));
                    }
                    labels_beside += 1;
                    if labels_beside == LABELS {
                        flush(&beside, moments, columns);
                        labels_beside = 0;
                    }
                }
                Event::End(_) => {
                    if labels_beside > 0 {
                        flush(&beside, moments, columns);
                        labels_beside = 0;
                    }
                }
            }
        })
    }

    /// The layers of whose matrices weights move.
    fn moving_layers(&self) -> Vec<usize> {
        let layout = self.network.layout();
        (0..self.network.widths().len() - 1).filter(|layer| self.moving.touches(&layout.parameters()[2 * layer].name)).collect()
    }
}

/// Adds `values values'` for feature-major `values` `[width, columns]`.
fn add_second_moment(values: &[f32], columns: usize, moment: &mut [f32]) {
    if columns == 0 {
        return;
    }
    let width = values.len() / columns;
    let left = Matrix::rows(values, columns);
    let right = Matrix::columns(values, columns);
    product_parallel(moment, width, left, right, Sizes { rows: width, inner: columns, columns: width }, true);
}

impl Scores for MlpKl {
    fn fisher_matrix(&self) -> Option<Box<dyn FisherMatrix + Send + '_>> {
        self.fisher().map(|fisher| Box::new(fisher) as Box<dyn FisherMatrix + Send + '_>)
    }

    fn fisher_rows(&self) -> Option<usize> {
        self.has_factor().then(|| self.positions * self.network.outputs())
    }

    fn moving(&self) -> &Moving {
        &self.moving
    }

    fn positions(&self) -> usize {
        self.positions
    }

    fn batches(&self) -> Vec<Range<usize>> {
        let rows = BATCH * TILE;
        (0..self.positions).step_by(rows).map(|start| start..(start + rows).min(self.positions)).collect()
    }

    fn add_squared_scores(
        &self,
        parts: Range<usize>,
        labels: Labels<'_>,
        space: &mut Vec<f32>,
        squares: &mut [f32],
    ) -> Result<(), CurvatureError> {
        let weights = self.moving.center().values();
        if self.moving.is_whole() {
            return self.add_squares_of(&weights, parts, labels, squares);
        }
        let dimension = weights.len();
        // Behind the squares of all weights those of the moving ones.
        space.resize(dimension + squares.len(), 0.0);
        let (full, own) = space.split_at_mut(dimension);
        full.fill(0.0);
        self.add_squares_of(&weights, parts, labels, full)?;
        self.moving.gather(full, own);
        squares.iter_mut().zip(own).for_each(|(square, own)| *square += *own);
        Ok(())
    }

    fn dense_matrices(&self) -> Vec<DenseMatrix> {
        let (layout, widths) = (self.network.layout(), self.network.widths());
        let matrix = |layer: usize| DenseMatrix {
            name: layout.parameters()[2 * layer].name.clone(),
            inputs: widths[layer],
            outputs: widths[layer + 1],
            transposed: false,
        };
        self.moving_layers().into_iter().map(matrix).collect()
    }

    fn add_moments(
        &self,
        parts: Range<usize>,
        (probes, seed): (usize, u64),
        space: &mut Vec<f32>,
        moments: &mut [Moments],
        squares: &mut [f32],
    ) -> Result<(), CurvatureError> {
        let labels = Labels::Model { probes, seed };
        self.add_moments_of(parts.clone(), labels, moments)?;
        self.add_squared_scores(parts, labels, space, squares)
    }
}
