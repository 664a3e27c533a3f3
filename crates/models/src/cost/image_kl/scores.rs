//! Second moments of the scores of an image classifier: image by image, since the score of an image is the sum over all its positions.

use std::ops::Range;
use std::sync::PoisonError;

use rayon::prelude::*;

use super::{ImageKl, Workspace};
use crate::arch::Architecture;
use crate::arch::convnextv2::lanes::{self, Lane, TILE};
use crate::arch::convnextv2::{Gradients, Network, Sink};
use crate::cost::draw::uniforms;
use crate::cost::pool::{give_back, take};
use crate::cost::tiles::check_labels;
use crate::curvature::{CurvatureError, DenseMatrix, Labels, Moments, Scores, add_squares, probe_seed};
use crate::nn::label;
use crate::parameters::Moving;
use crate::products::{Matrix, Sizes, product_strided};

/// Images whose scores are computed between two looks at the observer.
const BATCH: usize = 64;

/// Buffers of one part of a batch.
#[derive(Debug, Default)]
pub(super) struct ScoreLane {
    lane: Lane,
    /// Sums of squares of all weights, and behind them the moments.
    sums: Vec<f32>,
}

/// A linear layer, over positions where there are several.
#[derive(Debug, Clone)]
struct Layer {
    /// Where its weight begins.
    start: usize,
    matrix: DenseMatrix,
    /// Channels of the inputs, when the inputs are windows of 2x2 positions.
    windows: Option<usize>,
    /// Positions of an image that go through it.
    positions: usize,
}

impl Layer {
    fn numbers(&self) -> usize {
        self.matrix.inputs.pow(2) + self.matrix.outputs.pow(2)
    }
}

/// Adds the moments of one image.
struct Watcher<'a> {
    layers: &'a [Layer],
    images: usize,
    sums: &'a mut [f32],
}

impl Gradients for Watcher<'_> {
    fn layer(&mut self, weight: usize, inputs: &[f32], slopes: &[f32]) {
        let mut start = 0;
        for layer in self.layers {
            if layer.start == weight {
                let DenseMatrix { inputs: width, outputs, .. } = layer.matrix;
                let (of_inputs, rest) = self.sums[start..].split_at_mut(width * width);
                // The mean over images and positions; the gradients have their share of 1/N already.
                let share = 1.0 / (self.images * layer.positions) as f32;
                let scaled: Vec<f32> = inputs.iter().map(|value| share * value).collect();
                add_moment(of_inputs, &scaled, inputs, width);
                add_moment(&mut rest[..outputs * outputs], slopes, slopes, outputs);
                return;
            }
            start += layer.numbers();
        }
    }
}

/// Adds `left' right` for rows of this width.
fn add_moment(moment: &mut [f32], left: &[f32], right: &[f32], width: usize) {
    let count = left.len() / width;
    let left = Matrix::columns(left, width);
    let right = Matrix::rows(right, width);
    product_strided(moment, width, left, right, Sizes { rows: width, inner: count, columns: width }, true);
}

impl ImageKl {
    /// The linear layers of which weights move, in the order of the layout.
    fn layers(&self) -> Vec<Layer> {
        let layout = self.network.layout();
        let moves = |name: &str| self.moving.touches(name);
        let is_linear = |name: &str| {
            ["patch_embeddings.weight", "pwconv1.weight", "pwconv2.weight", "downsampling_layer.1.weight", "classifier.weight"]
                .iter()
                .any(|end| name.ends_with(end))
        };
        let chosen = layout.parameters().iter().filter(|parameter| is_linear(&parameter.name) && moves(&parameter.name));
        chosen
            .map(|parameter| {
                let outputs = parameter.shape[0];
                let side = |name: &str| {
                    let stage = name.split('.').skip_while(|part| *part != "stages").nth(1).and_then(|stage| stage.parse().ok());
                    self.network.side(stage.unwrap_or(0))
                };
                let name = parameter.name.clone();
                let positions = if name.starts_with("classifier") { 1 } else { side(&name).pow(2) };
                let windows = name.contains("downsampling").then(|| parameter.shape[1]);
                let matrix = DenseMatrix { name, inputs: parameter.len() / outputs, outputs, transposed: false };
                Layer { start: parameter.offset, matrix, windows, positions }
            })
            .collect()
    }

    fn check(&self, labels: Labels<'_>) -> Result<(), CurvatureError> {
        let Labels::Data { rows, .. } = labels else { return Ok(()) };
        check_labels(rows, (self.positions, self.network.classes), ("image", "images"))?;
        Ok(())
    }

    /// Adds the squared scores of some images with respect to all weights, and the moments of these layers, to one part's sums.
    fn add_part(&self, network: Network<'_>, images: Range<usize>, labels: Labels<'_>, layers: &[Layer], own: &mut ScoreLane) {
        let dimension = network.weights.len();
        let numbers: usize = layers.iter().map(Layer::numbers).sum();
        own.sums.clear();
        own.sums.resize(dimension + numbers, 0.0);
        let (squares, moments) = own.sums.split_at_mut(dimension);
        let features = self.network.features();
        let (probes, seed) = labels.probes();
        // A label of the data is the same for every probe.
        let probes = if matches!(labels, Labels::Data { .. }) { 1 } else { probes };
        let Lane { gradient, space, tape, .. } = &mut own.lane;
        gradient.resize(dimension, 0.0);
        tape.factors.clear();
        let share = (1.0 / (self.positions * probes) as f64).sqrt();
        for image in images {
            let place = image % TILE;
            let patches = &self.tiles[image / TILE].patches[place * features..(place + 1) * features];
            for probe in 0..probes {
                let logits = network.logits(patches, space, Some(tape));
                let label = match labels {
                    Labels::Data { rows, .. } => Label::Given(rows.map_or(0, |rows| rows[image] as usize)),
                    Labels::Model { .. } => Label::Drawn(uniforms(probe_seed(seed, probe), image..image + 1)[0]),
                };
                label_slopes(logits, network.head_bias(), label, share);
                gradient.fill(0.0);
                let watcher = Watcher { layers, images: self.positions * probes, sums: moments };
                let mut watcher = watcher;
                let sink_watcher: Option<&mut dyn Gradients> = if layers.is_empty() { None } else { Some(&mut watcher) };
                network.add_gradient(patches, space, tape, &mut Sink { gradient, watcher: sink_watcher });
                add_squares(gradient, 1.0, squares);
            }
        }
    }

    /// The sums over some images, squares of all weights and then moments, added to `sums` in a fixed order.
    fn add_all(&self, images: Range<usize>, labels: Labels<'_>, layers: &[Layer], sums: &mut [f32]) -> Result<(), CurvatureError> {
        self.check(labels)?;
        let mut workspace = take(&self.workspaces);
        let Workspace { kernels, .. } = &mut workspace;
        let center = self.moving.center().values();
        kernels.set(&self.network, &self.places, &center);
        let network = Network { config: &self.network, places: &self.places, weights: &center, kernels };
        let parts = lanes::parts(images.len()).min(8);
        let together = rayon::current_num_threads().max(1);
        for first in (0..parts).step_by(together) {
            let mut used: Vec<ScoreLane> = {
                let mut pool = self.score_lanes.lock().unwrap_or_else(PoisonError::into_inner);
                (first..parts.min(first + together)).map(|_| pool.pop().unwrap_or_default()).collect()
            };
            used.par_iter_mut().enumerate().for_each(|(index, own)| {
                let part = lanes::part(images.len(), parts, first + index);
                self.add_part(network, images.start + part.start..images.start + part.end, labels, layers, own);
            });
            used.iter().for_each(|own| lanes::add(&own.sums, sums));
            used.into_iter().for_each(|own| give_back(&self.score_lanes, own));
        }
        give_back(&self.workspaces, workspace);
        Ok(())
    }

    /// Adds squares of all weights to those of the moving ones.
    fn add_moving(&self, full: &[f32], squares: &mut [f32]) {
        let mut own = vec![0.0f32; squares.len()];
        self.moving.gather(full, &mut own);
        squares.iter_mut().zip(own).for_each(|(square, own)| *square += own);
    }
}

#[derive(Clone, Copy)]
enum Label {
    Given(usize),
    Drawn(f64),
}

/// Replaces the logits of one image by `scale` times the gradient of minus the log-probability of a label.
fn label_slopes(logits: &mut [f32], bias: &[f32], label: Label, scale: f64) {
    let values: Vec<f64> = logits.iter().zip(bias).map(|(&logit, &bias)| f64::from(logit) + f64::from(bias)).collect();
    let q = label::probabilities(&values);
    let label = match label {
        Label::Given(label) => label,
        Label::Drawn(draw) => label::drawn_label(&q, draw),
    };
    logits.iter_mut().zip(label::label_slopes(&q, label)).for_each(|(logit, slope)| *logit = (scale * slope) as f32);
}

impl Scores for ImageKl {
    fn moving(&self) -> &Moving {
        &self.moving
    }

    fn positions(&self) -> usize {
        self.positions
    }

    fn batches(&self) -> Vec<Range<usize>> {
        (0..self.positions).step_by(BATCH).map(|start| start..(start + BATCH).min(self.positions)).collect()
    }

    fn add_squared_scores(
        &self,
        parts: Range<usize>,
        labels: Labels<'_>,
        space: &mut Vec<f32>,
        squares: &mut [f32],
    ) -> Result<(), CurvatureError> {
        if self.moving.is_whole() {
            return self.add_all(parts, labels, &[], squares);
        }
        space.clear();
        space.resize(self.moving.center().dimension(), 0.0);
        self.add_all(parts, labels, &[], space)?;
        self.add_moving(space, squares);
        Ok(())
    }

    fn dense_matrices(&self) -> Vec<DenseMatrix> {
        self.layers().into_iter().map(|layer| layer.matrix).collect()
    }

    fn add_moments(
        &self,
        parts: Range<usize>,
        (probes, seed): (usize, u64),
        space: &mut Vec<f32>,
        moments: &mut [Moments],
        squares: &mut [f32],
    ) -> Result<(), CurvatureError> {
        let layers = self.layers();
        let dimension = self.moving.center().dimension();
        space.clear();
        space.resize(dimension + layers.iter().map(Layer::numbers).sum::<usize>(), 0.0);
        self.add_all(parts, Labels::Model { probes, seed }, &layers, space)?;
        let (full, mut rest) = space.split_at(dimension);
        self.add_moving(full, squares);
        for (layer, moments) in layers.iter().zip(moments) {
            let width = layer.matrix.inputs;
            let (inputs, after) = rest.split_at(width * width);
            let (outputs, after) = after.split_at(layer.matrix.outputs.pow(2));
            rest = after;
            moments.outputs.iter_mut().zip(outputs).for_each(|(sum, value)| *sum += value);
            // Windows have their channels last, the weights of a convolution first.
            let place = |index: usize| layer.windows.map_or(index, |channels| index % 4 * channels + index / 4);
            for (row, sums) in moments.inputs.chunks_exact_mut(width).enumerate() {
                let values = &inputs[place(row) * width..][..width];
                sums.iter_mut().enumerate().for_each(|(column, sum)| *sum += values[place(column)]);
            }
        }
        Ok(())
    }
}
