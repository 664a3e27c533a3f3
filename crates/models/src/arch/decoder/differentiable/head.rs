//! The output head with its loss, tile by tile: cross-entropy or KL divergence, and their gradients with respect to the final states and
//! the head's own weights, without an array of positions x vocabulary.

use rayon::prelude::*;

use crate::arch::decoder::Decoder;
use crate::nn::soft_cap;
use crate::nn::vocabulary::{Normalizer, Sums, center_sums, divergence_sums, normalize_columns};
use crate::nn::{divergence_slopes, entropy_slopes};
use crate::products::{Matrix, Sizes, product_strided};

/// Vocabulary entries that one task works on: fixed, so that sums over tasks do not depend on the number of threads.
const CHUNK: usize = 512;

/// Most positions of a tile.
const COLUMNS: usize = 128;

/// Bytes of the logits of a tile, for large vocabularies.
const TILE_BYTES: usize = 32 << 20;

/// The head's weights.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    /// `[vocabulary, inputs]`.
    pub(crate) weight: &'a [f32],
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) inputs: usize,
    /// Soft limit of the logits.
    pub(crate) cap: Option<f32>,
}

/// What the outputs are compared with.
#[derive(Clone, Copy)]
pub(crate) enum Targets<'a> {
    /// Cross-entropy with one label per position.
    Labels(&'a [u32]),
    /// Cross-entropy with labels drawn from the outputs: one number in `[0, 1)` per position, and the label is the first entry at which the
    /// running sum of the probabilities exceeds it.
    Drawn(&'a [f64]),
    /// KL divergence from the distribution of another head and its states, `[positions, inputs]`.
    Center(Head<'a>, &'a [f32]),
}

/// Where gradients are added.
pub(crate) struct HeadGradient<'a> {
    /// `[positions, inputs]`; written, not added to.
    pub(crate) states: &'a mut [f32],
    pub(crate) weight: &'a mut [f32],
    pub(crate) bias: Option<&'a mut [f32]>,
}

impl Decoder {
    /// The head inside flat weights.
    pub(crate) fn head_of<'a>(&self, weights: &'a [f32]) -> Head<'a> {
        Head {
            weight: &weights[self.head.weight.clone()],
            bias: self.head.bias.clone().map(|range| &weights[range]),
            inputs: self.head.inputs,
            cap: self.logit_cap,
        }
    }
}

/// Positions of a tile for a vocabulary: a multiple of 16.
pub(crate) fn tile_columns(vocabulary: usize) -> usize {
    (TILE_BYTES / (4 * vocabulary) / 16 * 16).clamp(16, COLUMNS)
}

/// Some positions and what is known of their distribution.
struct Tile {
    columns: usize,
    /// `[columns, inputs]`, padded with zeros.
    states: Vec<f32>,
    /// `[vocabulary, columns]`.
    logits: Vec<f32>,
    normalizers: Vec<Normalizer>,
    /// Those of every chunk of the vocabulary.
    parts: Vec<Vec<Normalizer>>,
}

impl Tile {
    fn new(head: Head<'_>, columns: usize) -> Self {
        let vocabulary = head.weight.len() / head.inputs;
        let (states, logits) = (vec![0.0; columns * head.inputs], vec![0.0; columns * vocabulary]);
        Self { columns, states, logits, normalizers: vec![Normalizer::default(); columns], parts: Vec::new() }
    }

    /// Computes the logits of `states` `[count, inputs]`, `count` at most the columns, and their normalizers.
    fn fill(&mut self, head: Head<'_>, states: &[f32]) {
        let (columns, inputs) = (self.columns, head.inputs);
        self.states[..states.len()].copy_from_slice(states);
        self.states[states.len()..].fill(0.0);
        let right = Matrix::columns(&self.states, inputs);
        let chunks = self.logits.par_chunks_mut(CHUNK * columns).enumerate();
        self.parts = chunks
            .map(|(chunk, logits)| {
                let (first, rows) = (chunk * CHUNK, logits.len() / columns);
                let left = Matrix::rows(&head.weight[first * inputs..], inputs);
                product_strided(logits, columns, left, right, Sizes { rows, inner: inputs, columns }, false);
                if let Some(bias) = head.bias {
                    for (row, &bias) in logits.chunks_exact_mut(columns).zip(&bias[first..]) {
                        row.iter_mut().for_each(|value| *value += bias);
                    }
                }
                if let Some(cap) = head.cap {
                    soft_cap(logits, 1.0, cap);
                }
                let mut normalizers = vec![Normalizer::default(); columns];
                normalize_columns(logits, columns, first, &mut normalizers);
                normalizers
            })
            .collect();
        self.normalizers.fill(Normalizer::default());
        for part in &self.parts {
            self.normalizers.iter_mut().zip(part).for_each(|(total, part)| total.add(part));
        }
    }

    fn logit(&self, row: usize, column: usize) -> f32 {
        self.logits[row * self.columns + column]
    }

    fn logarithms(&self) -> Vec<f64> {
        self.normalizers.iter().map(Normalizer::logarithm).collect()
    }

    /// The label of a column for a number in `[0, 1)`.
    fn draw(&self, column: usize, draw: f64) -> u32 {
        let logarithm = self.normalizers[column].logarithm();
        let vocabulary = self.logits.len() / self.columns;
        let mut sum = 0.0;
        for (chunk, part) in self.parts.iter().enumerate() {
            let share = part[column].sum * (f64::from(part[column].largest) - logarithm).exp();
            if sum + share > draw {
                for row in chunk * CHUNK..((chunk + 1) * CHUNK).min(vocabulary) {
                    sum += (f64::from(self.logit(row, column)) - logarithm).exp();
                    if sum > draw {
                        return row as u32;
                    }
                }
            } else {
                sum += share;
            }
        }
        // Rounding: the sum of all ended just below the number.
        (vocabulary - 1) as u32
    }
}

/// The sum over positions of `weights` times the cross-entropy or divergence, in nats (`f64`), of the outputs for `states`
/// `[positions, inputs]`. With `gradient`, the gradient is added there. Not finite when a logit is not.
pub(crate) fn head_loss(
    head: Head<'_>,
    states: &[f32],
    targets: Targets<'_>,
    weights: &[f32],
    mut gradient: Option<HeadGradient<'_>>,
) -> f64 {
    let inputs = head.inputs;
    assert_eq!(states.len(), weights.len() * inputs, "one weight per position");
    let columns = tile_columns(head.weight.len() / inputs);
    let mut tile = Tile::new(head, columns);
    let mut reference = match targets {
        Targets::Labels(_) | Targets::Drawn(_) => None,
        Targets::Center(center, _) => Some(Tile::new(center, columns)),
    };
    let mut total = 0.0;
    for (index, tile_weights) in weights.chunks(columns).enumerate() {
        let positions = index * columns..index * columns + tile_weights.len();
        let rows = positions.start * inputs..positions.end * inputs;
        tile.fill(head, &states[rows.clone()]);
        let mut padded = vec![0.0f32; columns];
        padded[..tile_weights.len()].copy_from_slice(tile_weights);
        let losses = match (targets, &mut reference) {
            (Targets::Labels(labels), _) => tile.cross_entropy(head.cap, &labels[positions.clone()], &padded, gradient.is_some()),
            (Targets::Drawn(draws), _) => {
                let labels: Vec<u32> = draws[positions.clone()].iter().enumerate().map(|(column, &draw)| tile.draw(column, draw)).collect();
                tile.cross_entropy(head.cap, &labels, &padded, gradient.is_some())
            }
            (Targets::Center(center, center_states), Some(reference)) => {
                let stride = center.inputs;
                reference.fill(center, &center_states[positions.start * stride..positions.end * stride]);
                let losses = divergences(&tile, reference);
                if gradient.is_some() {
                    divergence_gradient(&mut tile, reference, head.cap, &padded);
                }
                losses
            }
            (Targets::Center(..), None) => unreachable!("made above"),
        };
        // A position that does not count must not spoil the sum either.
        let counted = losses.iter().zip(tile_weights).filter(|(_, weight)| **weight != 0.0);
        total += counted.map(|(loss, &weight)| loss * f64::from(weight)).sum::<f64>();
        if let Some(gradient) = &mut gradient {
            let bias = gradient.bias.as_deref_mut();
            add_gradient(&tile, head, &mut gradient.states[rows], gradient.weight, bias);
        }
    }
    total
}

impl Tile {
    /// The cross-entropies; with `slopes`, the logits are replaced by the gradient of their weighted sum with respect to them, before their
    /// soft limit.
    fn cross_entropy(&mut self, cap: Option<f32>, labels: &[u32], weights: &[f32], slopes: bool) -> Vec<f64> {
        let columns = self.columns;
        let own: Vec<f32> = labels.iter().enumerate().map(|(column, &label)| self.logit(label as usize, column)).collect();
        let logarithms = self.logarithms();
        let losses = logarithms.iter().zip(&own).map(|(logarithm, &own)| logarithm - f64::from(own)).collect();
        if slopes {
            let logarithms: Vec<f32> = logarithms.into_iter().map(|value| value as f32).collect();
            self.logits.par_chunks_mut(CHUNK * columns).for_each(|logits| entropy_slopes(logits, columns, &logarithms, weights, cap));
            for (column, (&label, logit)) in labels.iter().zip(own).enumerate() {
                let slope = cap.map_or(1.0, |cap| 1.0 - (logit / cap) * (logit / cap));
                self.logits[label as usize * columns + column] -= weights[column] * slope;
            }
        }
        losses
    }
}

/// `KL(center || tile)` of every column.
fn divergences(tile: &Tile, center: &Tile) -> Vec<f64> {
    let columns = tile.columns;
    let logarithms: Vec<f32> = center.logarithms().into_iter().map(|value| value as f32).collect();
    let shift = |column: usize| tile.logit(center.normalizers[column].row, column) - center.logit(center.normalizers[column].row, column);
    let shifts: Vec<f32> = (0..columns).map(shift).collect();
    let chunks = tile.logits.par_chunks(CHUNK * columns).zip(center.logits.par_chunks(CHUNK * columns));
    let parts: Vec<(Vec<Sums>, Vec<f64>)> = chunks
        .map(|(logits, center)| {
            let (mut sums, mut probabilities) = (vec![Sums::default(); columns], vec![0.0; columns]);
            divergence_sums(center, logits, columns, &logarithms, &shifts, &mut sums);
            center_sums(center, columns, &logarithms, &mut probabilities);
            (sums, probabilities)
        })
        .collect();
    let (mut sums, mut probabilities) = (vec![Sums::default(); columns], vec![0.0; columns]);
    for part in &parts {
        sums.iter_mut().zip(&part.0).for_each(|(total, part)| total.add(part));
        probabilities.iter_mut().zip(&part.1).for_each(|(total, part)| *total += part);
    }
    sums.iter().zip(probabilities).map(|(sums, probability)| sums.divergence(probability)).collect()
}

/// Replaces the logits by the gradient of the weighted divergence with respect to them, before their soft limit.
fn divergence_gradient(tile: &mut Tile, center: &Tile, cap: Option<f32>, weights: &[f32]) {
    let columns = tile.columns;
    let logarithms: Vec<f32> = center.logarithms().into_iter().map(|value| value as f32).collect();
    // Against the rounded logarithm, so that the two add up.
    let shifts: Vec<f32> = tile.logarithms().iter().zip(center.logarithms()).map(|(own, center)| (own - center) as f32).collect();
    let chunks = tile.logits.par_chunks_mut(CHUNK * columns).zip(center.logits.par_chunks(CHUNK * columns));
    chunks.for_each(|(logits, center)| divergence_slopes(logits, center, columns, &logarithms, &shifts, weights, cap));
}

/// From the gradients of the logits, in place of the logits, to those of states (`[count, inputs]`, written) and weights (added to).
fn add_gradient(tile: &Tile, head: Head<'_>, states: &mut [f32], weight: &mut [f32], bias: Option<&mut [f32]>) {
    let (columns, inputs) = (tile.columns, head.inputs);
    let count = states.len() / inputs;
    let chunks = tile.logits.par_chunks(CHUNK * columns).zip(weight.par_chunks_mut(CHUNK * inputs)).enumerate();
    let parts: Vec<Vec<f32>> = chunks
        .map(|(chunk, (slopes, weight))| {
            let rows = slopes.len() / columns;
            let left = Matrix::rows(slopes, columns);
            let right = Matrix::rows(&tile.states, inputs);
            product_strided(weight, inputs, left, right, Sizes { rows, inner: count, columns: inputs }, true);
            let mut part = vec![0.0f32; count * inputs];
            let left = Matrix::columns(slopes, columns);
            let right = Matrix::rows(&head.weight[chunk * CHUNK * inputs..], inputs);
            product_strided(&mut part, inputs, left, right, Sizes { rows: count, inner: rows, columns: inputs }, false);
            part
        })
        .collect();
    states.fill(0.0);
    for part in &parts {
        states.iter_mut().zip(part).for_each(|(total, value)| *total += value);
    }
    if let Some(bias) = bias {
        for (bias, slopes) in bias.iter_mut().zip(tile.logits.chunks_exact(columns)) {
            *bias += slopes[..count].iter().sum::<f32>();
        }
    }
}
