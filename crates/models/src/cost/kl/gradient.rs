//! The gradient of the cost of a multilayer perceptron: forward and backward tile by tile, then the products that give the weights'
//! gradients, a fixed number of tiles at a time.

use std::ops::Range;

use basin_volume::objective::{Cost, Differentiable, ObjectiveError, SoftGradient};
use basin_volume::vectors::{Vector, View};
use rayon::prelude::*;

use super::{MlpKl, PADDING, TILE, Tile, last_bias};
use crate::cost::draw::uniforms;
use crate::cost::pool::{give_back, take};
use crate::nn::{KeptProbabilities, product};
use crate::products::{Matrix, Sizes, product_strided};

/// Tiles whose activations are kept at once.
const BATCH: usize = 16;

/// Rows of a weight matrix whose gradient one task computes: fixed, so that no sum depends on the number of threads.
const ROWS: usize = 256;

/// What the outputs are compared with.
#[derive(Clone, Copy)]
enum Target<'a> {
    /// The center's outputs.
    Center,
    /// Labels drawn with one number in `[0, 1)` for every row.
    Draws(&'a [f64]),
}

/// Activations of a batch of tiles.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// Per tile the outputs of the hidden layers, `[width, columns]` each.
    activations: Vec<f32>,
    /// Per tile and layer the sums before the activation, then the activation's derivatives, then the sums' gradients.
    slopes: Vec<f32>,
    /// The gradient with respect to all weights, when only some move.
    full: Vec<f32>,
    /// All weights, when only some move.
    weights: Vec<f32>,
    /// Per tile one layer's gradient.
    spare: Vec<f32>,
    /// The inputs of the rows of the last tile, where not all of it is asked for.
    narrow: Vec<f32>,
}

/// Inputs that go through the network together, `[features, columns]`.
#[derive(Clone, Copy)]
pub(super) struct Columns<'a> {
    pub inputs: &'a [f32],
    pub columns: usize,
}

impl Tile {
    pub(super) fn all(&self) -> Columns<'_> {
        Columns { inputs: &self.inputs, columns: self.columns }
    }
}

impl MlpKl {
    /// The contribution of some rows, and its gradient with respect to all weights of the network, written to `gradient`.
    fn add_up(&self, weights: &[f32], rows: Range<usize>, target: Target<'_>, space: &mut Space, gradient: &mut [f32]) -> f64 {
        gradient.fill(0.0);
        if rows.is_empty() {
            return 0.0;
        }
        let widths = self.network.widths();
        let stride: usize = widths[1..].iter().sum::<usize>() * TILE;
        let widest = widths[1..].iter().max().map_or(0, |width| width * TILE);
        let sized = |buffer: &mut Vec<f32>, length: usize| buffer.resize(buffer.len().max(length), 0.0);
        let tiles = rows.start / TILE..rows.end.div_ceil(TILE);
        // A thread alone takes each product while its factors are still in the cache.
        let alone = rayon::current_num_threads() == 1;
        let most = if alone { 1 } else { BATCH.min(tiles.len()) };
        let Space { activations, slopes, spare, narrow, .. } = space;
        sized(activations, most * stride);
        sized(slopes, most * stride);
        sized(spare, most * widest);
        // Of the last tile only the columns that are asked for.
        let last = tiles.end - 1;
        let (tile, needed) = (&self.tiles[last], (rows.end - last * TILE).next_multiple_of(PADDING));
        if needed < tile.columns {
            narrow.clear();
            tile.inputs.chunks_exact(tile.columns).for_each(|row| narrow.extend_from_slice(&row[..needed]));
        }
        let columns_of = |index: usize| {
            if index == last && needed < tile.columns { Columns { inputs: narrow, columns: needed } } else { self.tiles[index].all() }
        };
        let part = |index: usize| {
            let start = index * TILE;
            let inside = rows.start.max(start) - start..rows.end.min(start + self.tiles[index].kept.positions()) - start;
            let target = match target {
                Target::Center => Target::Center,
                Target::Draws(draws) => Target::Draws(&draws[start + inside.start - rows.start..start + inside.end - rows.start]),
            };
            (columns_of(index), &self.tiles[index].kept, inside, target)
        };
        let mut nats = 0.0;
        if alone {
            for index in tiles {
                nats += self.tile_slopes(weights, part(index), (activations, slopes, spare), Some(&mut *gradient));
            }
            return nats / self.positions as f64;
        }
        for batch in tiles.clone().step_by(BATCH) {
            let batch = batch..(batch + BATCH).min(tiles.end);
            let parts = batch
                .clone()
                .into_par_iter()
                .zip(activations.par_chunks_mut(stride))
                .zip(slopes.par_chunks_mut(stride))
                .zip(spare.par_chunks_mut(widest.max(1)));
            let sums: Vec<f64> = parts
                .map(|(((index, activations), slopes), spare)| self.tile_slopes(weights, part(index), (activations, slopes, spare), None))
                .collect();
            nats = sums.iter().fold(nats, |nats, sum| nats + sum);
            let batch: Vec<Columns<'_>> = batch.map(columns_of).collect();
            self.add_products(&batch, activations, slopes, stride, gradient);
        }
        nats / self.positions as f64
    }

    /// Forward and backward through the rows `inside` one tile: `slopes` receives the gradients of the sums of all layers, zero for other
    /// rows, and the products of every layer are added to `gradient`, where it is given, as soon as their factors are known. Returns nats.
    fn tile_slopes(
        &self,
        weights: &[f32],
        (Columns { inputs, columns }, kept, inside, target): (Columns<'_>, &KeptProbabilities, Range<usize>, Target<'_>),
        (activations, slopes, spare): (&mut [f32], &mut [f32], &mut [f32]),
        mut gradient: Option<&mut [f32]>,
    ) -> f64 {
        let widths = self.network.widths();
        let layers = widths.len() - 1;
        let places = places(widths, columns);
        let mut rest = weights;
        for (layer, pair) in widths.windows(2).enumerate() {
            let (weight, after) = rest.split_at(pair[0] * pair[1]);
            let (bias, after) = after.split_at(pair[1]);
            rest = after;
            let sums = &mut slopes[places[layer].clone()];
            let input = if layer == 0 { inputs } else { &activations[places[layer - 1].clone()] };
            product(sums, weight, input, pair[1], pair[0], columns);
            if layer + 1 < layers {
                let outputs = activations[places[layer].clone()].chunks_exact_mut(columns);
                for ((sums, outputs), &bias) in sums.chunks_exact_mut(columns).zip(outputs).zip(bias) {
                    self.network.activation().add_bias_with_derivative(sums, bias, outputs);
                }
            }
        }
        let scale = 1.0 / self.positions as f64;
        let bias = last_bias(&self.network, weights);
        let logits = &mut slopes[places[layers - 1].clone()];
        let nats = match target {
            Target::Center => kept.divergence_slopes(logits, bias, columns, inside, scale),
            Target::Draws(draws) => kept.drawn_slopes(logits, bias, columns, inside, draws, scale),
        };
        let mut end = weights.len();
        for layer in (0..layers).rev() {
            let (width, outputs) = (widths[layer], widths[layer + 1]);
            let start = end - outputs - width * outputs;
            let weight = Matrix::columns(&weights[start..end - outputs], width);
            let (before, own) = slopes.split_at_mut(places[layer].start);
            let own = &own[..outputs * columns];
            if let Some(gradient) = &mut gradient {
                let (weight, bias) = gradient[start..end].split_at_mut(width * outputs);
                let inputs = if layer == 0 { inputs } else { &activations[places[layer - 1].clone()] };
                add_layer(weight, bias, own, inputs, columns);
            }
            if layer == 0 {
                break;
            }
            end = start;
            let right = Matrix::rows(own, columns);
            let result = &mut spare[..width * columns];
            product_strided(result, columns, weight, right, Sizes { rows: width, inner: outputs, columns }, false);
            let sums = &mut before[places[layer - 1].clone()];
            sums.iter_mut().zip(&*result).for_each(|(derivative, slope)| *derivative *= slope);
        }
        nats
    }

    /// Adds the products of slopes and inputs of every layer, over all tiles, in their order: the same bits as tile by tile.
    pub(super) fn add_products(&self, tiles: &[Columns<'_>], activations: &[f32], slopes: &[f32], stride: usize, gradient: &mut [f32]) {
        let widths = self.network.widths();
        let mut tasks = Vec::new();
        let mut rest = gradient;
        for (layer, pair) in widths.windows(2).enumerate() {
            let (weight, after) = std::mem::take(&mut rest).split_at_mut(pair[0] * pair[1]);
            let (bias, after) = after.split_at_mut(pair[1]);
            rest = after;
            let parts = weight.chunks_mut(ROWS * pair[0]).zip(bias.chunks_mut(ROWS)).enumerate();
            tasks.extend(parts.map(|(chunk, (weight, bias))| (layer, chunk * ROWS, weight, bias)));
        }
        tasks.into_par_iter().for_each(|(layer, first, weight, bias)| {
            for (index, tile) in tiles.iter().enumerate() {
                let columns = tile.columns;
                let places = places(widths, columns);
                let place = index * stride + places[layer].start;
                let slopes = &slopes[place + first * columns..place + (first + bias.len()) * columns];
                let inputs = match layer {
                    0 => tile.inputs,
                    _ => &activations[index * stride..][places[layer - 1].clone()],
                };
                add_layer(weight, bias, slopes, inputs, columns);
            }
        });
    }

    fn differentiate(&self, weights: &[f32], rows: Range<usize>, target: Target<'_>, gradient: &mut [f32]) -> f64 {
        let dimension = self.moving.dimension();
        assert!(weights.len() == dimension && gradient.len() == dimension, "as many weights and gradients as move");
        assert!(rows.start <= rows.end && rows.end <= self.positions, "the rows must be among those of the data");
        let mut space = take(&self.spaces);
        let nats = if self.moving.is_whole() {
            self.add_up(weights, rows, target, &mut space, gradient)
        } else {
            let (mut all, mut full) = (std::mem::take(&mut space.weights), std::mem::take(&mut space.full));
            self.moving.prepare(&mut all);
            self.moving.scatter(weights, &mut all);
            full.resize(all.len(), 0.0);
            let nats = self.add_up(&all, rows, target, &mut space, &mut full);
            self.moving.gather(&full, gradient);
            (space.weights, space.full) = (all, full);
            nats
        };
        give_back(&self.spaces, space);
        nats
    }
}

/// Adds the products of slopes `[bias.len(), columns]` and inputs `[width, columns]` to the gradients of a layer's weights and biases.
pub(super) fn add_layer(weight: &mut [f32], bias: &mut [f32], slopes: &[f32], inputs: &[f32], columns: usize) {
    let width = inputs.len() / columns;
    let left = Matrix::rows(slopes, columns);
    let right = Matrix::columns(inputs, columns);
    product_strided(weight, width, left, right, Sizes { rows: bias.len(), inner: columns, columns: width }, true);
    for (bias, slopes) in bias.iter_mut().zip(slopes.chunks_exact(columns)) {
        *bias += sum(slopes);
    }
}

/// The sum of a row, [`PADDING`] numbers at a time: a single chain of additions would wait for each.
fn sum(row: &[f32]) -> f32 {
    let mut lanes = [0.0f32; PADDING];
    for chunk in row.chunks_exact(PADDING) {
        lanes.iter_mut().zip(chunk).for_each(|(lane, value)| *lane += value);
    }
    lanes.iter().sum()
}

/// Where the layers' `[width, columns]` stand in a tile's buffer.
pub(super) fn places(widths: &[usize], columns: usize) -> Vec<Range<usize>> {
    let mut start = 0;
    let place = |&width: &usize| {
        let range = start..start + width * columns;
        start = range.end;
        range
    };
    widths[1..].iter().map(place).collect()
}

/// Parts are rows. Products are `f32`, sums over positions too, those over tiles in their order; nats are `f64`.
impl Differentiable for MlpKl {
    fn parts(&self) -> usize {
        self.positions
    }

    fn gradient(&self, weights: &[f32], parts: Range<usize>, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        Ok(self.differentiate(weights, parts, Target::Center, gradient))
    }

    fn cost_at(&self, weights: &[f32]) -> Result<Cost, ObjectiveError> {
        if self.moving.is_whole() {
            return Ok(self.cost_of_weights(weights));
        }
        assert_eq!(weights.len(), self.moving.dimension(), "as many weights as move");
        let mut space = take(&self.spaces);
        self.moving.prepare(&mut space.weights);
        self.moving.scatter(weights, &mut space.weights);
        let cost = self.cost_of_weights(&space.weights);
        give_back(&self.spaces, space);
        Ok(cost)
    }

    fn soft_segment(
        &self,
        weights: View<'_>,
        shares: &[f64],
        softness: f64,
        gradient: &mut Vector,
        costs: &mut Vec<f64>,
    ) -> Result<Option<SoftGradient>, ObjectiveError> {
        Ok(self.segment(weights.slice(), shares, softness, gradient.slice_mut(), costs))
    }

    fn likelihood_gradient(&self, weights: &[f32], parts: Range<usize>, seed: u64, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        let draws = uniforms(seed, parts.clone());
        Ok(self.differentiate(weights, parts, Target::Draws(&draws), gradient))
    }
}
