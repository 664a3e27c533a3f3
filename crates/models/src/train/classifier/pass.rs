//! The forward and the reverse pass of some rows through a perceptron: its loss, its accuracy and its gradient.
//!
//! Activations are feature-major, `[features, rows]`. Threads share out whole entries of products and whole rows of activations, and what is
//! summed over rows is summed in their order: the same bits on any number of threads.

use basin_volume_data::Dataset;
use rayon::prelude::*;

use crate::arch::MlpConfig;
use crate::nn::label::{cross_entropy, label_log_probability};
use crate::products::{Matrix, Sizes, product_parallel};

/// Rows per forward pass when a whole dataset is evaluated.
const EVALUATION_ROWS: usize = 256;

/// Labelled rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows<'a> {
    /// `[rows, features]`.
    inputs: &'a [f32],
    labels: &'a [u32],
}

impl<'a> Rows<'a> {
    /// All rows of labelled data.
    pub(super) fn of(data: &'a Dataset) -> Self {
        Self { inputs: data.inputs(), labels: data.labels().unwrap_or_default() }
    }

    fn count(self) -> usize {
        self.labels.len()
    }
}

/// What a network says of labelled rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Evaluation {
    /// Mean cross-entropy, nats.
    pub(super) loss: f64,
    /// Share of rows whose largest logit is the label's.
    pub(super) accuracy: f64,
}

/// Buffers of the passes; used again from one to the next.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// Outputs of every layer, `[width, rows]`: activations, and at the end logits.
    outputs: Vec<Vec<f32>>,
    /// The derivatives of the hidden layers' activations, and in their place the slopes of their sums.
    slopes: Vec<Vec<f32>>,
    /// Slopes of activations.
    spare: Vec<f32>,
}

/// Weights and biases of every layer among the flat weights, from the first to the last.
fn layers<'a>(widths: &'a [usize], weights: &'a [f32]) -> impl Iterator<Item = (&'a [f32], &'a [f32])> {
    let mut rest = weights;
    widths.windows(2).map(move |pair| {
        let (weight, after) = rest.split_at(pair[0] * pair[1]);
        let (bias, after) = after.split_at(pair[1]);
        rest = after;
        (weight, bias)
    })
}

impl Space {
    /// Leaves the outputs of all layers, and the derivatives of the hidden ones.
    fn forward(&mut self, network: &MlpConfig, weights: &[f32], inputs: &[f32]) {
        let widths = network.widths();
        let (count, last) = (inputs.len() / widths[0], widths.len() - 2);
        self.outputs.resize_with(last + 1, Vec::new);
        self.slopes.resize_with(last + 1, Vec::new);
        for (layer, (weight, bias)) in layers(widths, weights).enumerate() {
            let sizes = Sizes { rows: widths[layer + 1], inner: widths[layer], columns: count };
            let (before, own) = self.outputs.split_at_mut(layer);
            let right = match before.last() {
                None => Matrix::columns(inputs, widths[0]),
                Some(before) => Matrix::rows(before, count),
            };
            let (outputs, sums) = (&mut own[0], &mut self.slopes[layer]);
            outputs.resize(sizes.rows * count, 0.0);
            sums.resize(sizes.rows * count, 0.0);
            let left = Matrix::rows(weight, widths[layer]);
            if layer == last {
                product_parallel(outputs, count, left, right, sizes, false);
                outputs.chunks_exact_mut(count).zip(bias).for_each(|(row, bias)| row.iter_mut().for_each(|value| *value += bias));
            } else {
                product_parallel(sums, count, left, right, sizes, false);
                let rows = sums.par_chunks_exact_mut(count).zip(outputs.par_chunks_exact_mut(count)).zip(bias);
                rows.for_each(|((sums, outputs), &bias)| network.activation().add_bias_with_derivative(sums, bias, outputs));
            }
        }
    }

    /// The logits of a row.
    fn logits(&self, row: usize, count: usize) -> Vec<f64> {
        let logits = self.outputs.last().map_or(&[][..], Vec::as_slice);
        logits.iter().skip(row).step_by(count).map(|&logit| f64::from(logit)).collect()
    }

    /// Mean cross-entropy over the rows in nats; its gradient goes to `gradient`, flat in the layout's order.
    pub(super) fn loss_and_gradient(&mut self, network: &MlpConfig, weights: &[f32], rows: Rows<'_>, gradient: &mut [f32]) -> f64 {
        self.forward(network, weights, rows.inputs);
        let (widths, count) = (network.widths(), rows.count());
        let last = widths.len() - 2;
        let mut loss = 0.0;
        for (row, &label) in rows.labels.iter().enumerate() {
            let (nats, slopes) = cross_entropy(&self.logits(row, count), label as usize, 1.0 / count as f64);
            loss += nats;
            slopes.into_iter().enumerate().for_each(|(class, slope)| self.slopes[last][class * count + row] = slope as f32);
        }
        let (mut rest, mut rest_of_gradient) = (weights, gradient);
        for layer in (0..=last).rev() {
            let (inputs, outputs) = (widths[layer], widths[layer + 1]);
            let place = rest.len() - (inputs + 1) * outputs;
            let weight = &rest[place..place + inputs * outputs];
            rest = &rest[..place];
            let (before, own) = rest_of_gradient.split_at_mut(place);
            rest_of_gradient = before;
            let (to_weight, to_bias) = own.split_at_mut(inputs * outputs);
            let (before, own) = self.slopes.split_at_mut(layer);
            let slopes = &own[0][..];
            let values = match layer {
                0 => Matrix::rows(rows.inputs, inputs),
                _ => Matrix::columns(&self.outputs[layer - 1], count),
            };
            let sizes = Sizes { rows: outputs, inner: count, columns: inputs };
            product_parallel(to_weight, inputs, Matrix::rows(slopes, count), values, sizes, false);
            for (bias, slopes) in to_bias.iter_mut().zip(slopes.chunks_exact(count)) {
                *bias = slopes.iter().map(|&slope| f64::from(slope)).sum::<f64>() as f32;
            }
            if let Some(derivatives) = before.last_mut() {
                self.spare.resize(inputs * count, 0.0);
                let sizes = Sizes { rows: inputs, inner: outputs, columns: count };
                product_parallel(&mut self.spare, count, Matrix::columns(weight, inputs), Matrix::rows(slopes, count), sizes, false);
                derivatives.iter_mut().zip(&self.spare).for_each(|(derivative, slope)| *derivative *= slope);
            }
        }
        loss
    }

    /// Loss and accuracy over all rows.
    pub(super) fn evaluate(&mut self, network: &MlpConfig, weights: &[f32], rows: Rows<'_>) -> Evaluation {
        let (mut loss, mut correct) = (0.0, 0usize);
        let batches = rows.inputs.chunks(EVALUATION_ROWS * network.inputs()).zip(rows.labels.chunks(EVALUATION_ROWS));
        for (inputs, labels) in batches {
            self.forward(network, weights, inputs);
            for (row, &label) in labels.iter().enumerate() {
                let (log_p, best) = label_log_probability(&self.logits(row, labels.len()), label as usize);
                loss -= log_p;
                correct += usize::from(best == label as usize);
            }
        }
        Evaluation { loss: loss / rows.count() as f64, accuracy: correct as f64 / rows.count() as f64 }
    }
}
