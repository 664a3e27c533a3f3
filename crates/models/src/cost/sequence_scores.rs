//! Second moments of the scores of a language model, sequence by sequence, from its gradients.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use basin_volume::objective::{Differentiable, ObjectiveError};
use basin_volume_data::tokens::TokenSequences;

use super::LanguageModelKl;
#[cfg(feature = "tensors")]
use super::LanguageModelTensorKl;
use super::joined::{Compared, needed};
use crate::arch::LanguageModel;
use crate::arch::decoder::Watcher;
use crate::curvature::{CurvatureError, DenseMatrix, Labels, Moments, Scores, add_squared_sums, add_squares, probe_seed};
use crate::parameters::Moving;
use crate::products::{Matrix, Sizes, product_parallel};

/// A language model's cost that differentiates losses of whole sequences, and shows what passes through its dense layers meanwhile.
pub(super) trait SequenceGradients: Differentiable {
    fn model(&self) -> &LanguageModel;

    fn moving(&self) -> &Moving;

    fn tokens(&self) -> &TokenSequences;

    /// As [`Differentiable::gradient`], of the loss that `compared` says.
    fn differentiate(
        &self,
        weights: &[f32],
        parts: Range<usize>,
        compared: Compared,
        watcher: Option<&Watcher<'_>>,
        gradient: &mut [f32],
    ) -> Result<f64, ObjectiveError>;
}

/// Positions that count and have a next token.
fn labelled(tokens: &TokenSequences) -> usize {
    let own = |kept: &[bool]| kept.split_last().map_or(0, |(_, before)| before.iter().filter(|&&kept| kept).count());
    tokens.iter().map(|sequence| own(sequence.kept)).sum()
}

/// The center's weights that move.
fn moving_center(moving: &Moving) -> Vec<f32> {
    let mut center = vec![0.0f32; moving.dimension()];
    moving.fill(0..center.len(), &mut center);
    center
}

/// The rest of [`Scores`] is the same for both.
macro_rules! scores {
    ($cost:ty) => {
        impl SequenceGradients for $cost {
            fn model(&self) -> &LanguageModel {
                &self.model
            }

            fn moving(&self) -> &Moving {
                &self.moving
            }

            fn tokens(&self) -> &TokenSequences {
                &self.tokens
            }

            fn differentiate(
                &self,
                weights: &[f32],
                parts: Range<usize>,
                compared: Compared,
                watcher: Option<&Watcher<'_>>,
                gradient: &mut [f32],
            ) -> Result<f64, ObjectiveError> {
                <$cost>::differentiate(self, weights, parts, compared, watcher, gradient)
            }
        }

        impl Scores for $cost {
            fn moving(&self) -> &Moving {
                &self.moving
            }

            fn positions(&self) -> usize {
                self.tokens.kept_count()
            }

            fn batches(&self) -> Vec<Range<usize>> {
                (0..self.tokens.count()).map(|sequence| sequence..sequence + 1).collect()
            }

            fn add_squared_scores(
                &self,
                parts: Range<usize>,
                labels: Labels<'_>,
                space: &mut Vec<f32>,
                squares: &mut [f32],
            ) -> Result<(), CurvatureError> {
                add_squared_scores(self, parts, labels, space, squares)
            }

            fn dense_matrices(&self) -> Vec<DenseMatrix> {
                moving_matrices(self).into_iter().map(|(_, matrix)| matrix).collect()
            }

            fn add_moments(
                &self,
                parts: Range<usize>,
                draws: (usize, u64),
                space: &mut Vec<f32>,
                moments: &mut [Moments],
                squares: &mut [f32],
            ) -> Result<(), CurvatureError> {
                add_moments(self, parts, draws, space, moments, squares)
            }
        }
    };
}

scores!(LanguageModelKl);
#[cfg(feature = "tensors")]
scores!(LanguageModelTensorKl);

fn add_squared_scores(
    cost: &impl SequenceGradients,
    parts: Range<usize>,
    labels: Labels<'_>,
    space: &mut Vec<f32>,
    squares: &mut [f32],
) -> Result<(), CurvatureError> {
    let (center, kept) = (moving_center(cost.moving()), cost.tokens().kept_count());
    let (probes, seed) = labels.probes();
    match labels {
        Labels::Model { .. } => Ok(add_squared_sums(cost, (&center, kept), parts, (probes, seed), space, squares)?),
        Labels::Data { rows: Some(_), .. } => {
            Err(CurvatureError::Labels { problem: "a language model's labels are its next tokens, so give none".to_owned() })
        }
        Labels::Data { rows: None, .. } => {
            let labelled = labelled(cost.tokens());
            if labelled == 0 {
                let problem = "no position that counts has a next token, so choose all positions, or longer sequences".to_owned();
                return Err(CurvatureError::Labels { problem });
            }
            space.resize(center.len(), 0.0);
            for part in parts {
                for probe in 0..probes {
                    cost.differentiate(&center, part..part + 1, Compared::Signed(probe_seed(seed, probe)), None, space)?;
                    // The gradient is 1/N sum of signed losses, with all kept positions; the mean is over the labelled ones.
                    let scale = (kept as f64).powi(2) / (labelled as f64 * probes as f64);
                    add_squares(space, scale, squares);
                }
            }
            Ok(())
        }
    }
}

fn add_moments(
    cost: &impl SequenceGradients,
    parts: Range<usize>,
    (probes, seed): (usize, u64),
    space: &mut Vec<f32>,
    moments: &mut [Moments],
    squares: &mut [f32],
) -> Result<(), CurvatureError> {
    let (center, kept) = (moving_center(cost.moving()), cost.tokens().kept_count());
    let places: Vec<usize> = moving_matrices(cost).into_iter().map(|(place, _)| place).collect();
    // The inputs of all positions that go through, and N/probes times the squares of the slopes of -1/N log p.
    let input_scale = 1.0 / (processed(cost) as f64 * probes as f64);
    let output_scale = kept as f64 / probes as f64;
    let sums = Mutex::new(moments);
    let watcher = |place: usize, inputs: &[f32], slopes: &[f32]| {
        let Ok(index) = places.binary_search(&place) else { return };
        let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
        let Moments { inputs: to_inputs, outputs: to_outputs } = &mut sums[index];
        add_second_moment(inputs, to_inputs, input_scale);
        add_second_moment(slopes, to_outputs, output_scale);
    };
    space.resize(center.len(), 0.0);
    for part in parts {
        for probe in 0..probes {
            let compared = Compared::Drawn(probe_seed(seed, probe));
            cost.differentiate(&center, part..part + 1, compared, Some(&watcher), space)?;
            add_squares(space, kept as f64 / probes as f64, squares);
        }
    }
    Ok(())
}

/// Positions of all sequences that go through the network.
fn processed(cost: &impl SequenceGradients) -> usize {
    cost.tokens().iter().map(|sequence| needed(cost.model(), sequence.kept)).sum()
}

/// The matrices of which weights move, and where they begin among all weights, in that order.
fn moving_matrices(cost: &impl SequenceGradients) -> Vec<(usize, DenseMatrix)> {
    let layout = cost.moving().center().layout();
    let mut all: Vec<(usize, DenseMatrix)> = Vec::new();
    for linear in cost.model().decoder().dense_layers() {
        let found = layout.parameters().binary_search_by_key(&linear.weight.start, |parameter| parameter.offset);
        let Some(parameter) =
            found.ok().map(|index| &layout.parameters()[index]).filter(|parameter| cost.moving().touches(&parameter.name))
        else {
            continue;
        };
        let (inputs, outputs, transposed) = (linear.inputs, linear.outputs, linear.transposed);
        all.push((linear.weight.start, DenseMatrix { name: parameter.name.clone(), inputs, outputs, transposed }));
    }
    all.sort_by_key(|(place, _)| *place);
    all
}

/// Adds `scale values' values` for position-major `values` `[positions, width]`.
fn add_second_moment(values: &[f32], moment: &mut [f32], scale: f64) {
    let width = moment.len().isqrt();
    let root = scale.sqrt() as f32;
    let scaled: Vec<f32> = values.iter().map(|value| root * value).collect();
    let left = Matrix::columns(&scaled, width);
    let right = Matrix::rows(&scaled, width);
    product_parallel(moment, width, left, right, Sizes { rows: width, inner: values.len() / width, columns: width }, true);
}
