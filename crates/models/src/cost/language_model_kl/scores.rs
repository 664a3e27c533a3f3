//! Second moments of the scores of a language model, sequence by sequence.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::LanguageModelKl;
use super::gradient::Compared;
use crate::arch::decoder::differentiable::LayerWitness;
use crate::curvature::{CurvatureError, DenseMatrix, Labels, Moments, Scores, add_squared_sums, add_squares, probe_seed};
use crate::parameters::Moving;
use crate::products::{Matrix, Sizes, product_parallel};

impl LanguageModelKl {
    /// Positions that count and have a next token.
    fn labelled(&self) -> usize {
        let own = |kept: &[bool]| kept.split_last().map_or(0, |(_, before)| before.iter().filter(|&&kept| kept).count());
        self.tokens.iter().map(|sequence| own(sequence.kept)).sum()
    }
}

/// The center's weights that move.
fn moving_center(moving: &Moving) -> Vec<f32> {
    let mut center = vec![0.0f32; moving.dimension()];
    moving.fill(0..center.len(), &mut center);
    center
}

impl Scores for LanguageModelKl {
    fn moving(&self) -> &Moving {
        &self.moving
    }

    fn positions(&self) -> usize {
        self.kept
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
        let center = moving_center(&self.moving);
        let (probes, seed) = labels.probes();
        match labels {
            Labels::Model { .. } => Ok(add_squared_sums(self, (&center, self.kept), parts, (probes, seed), space, squares)?),
            Labels::Data { rows: Some(_), .. } => {
                Err(CurvatureError::Labels { problem: "a language model's labels are its next tokens, so give none".to_owned() })
            }
            Labels::Data { rows: None, .. } => {
                let labelled = self.labelled();
                if labelled == 0 {
                    let problem = "no position that counts has a next token, so choose all positions, or longer sequences".to_owned();
                    return Err(CurvatureError::Labels { problem });
                }
                space.resize(center.len(), 0.0);
                for part in parts {
                    for probe in 0..probes {
                        self.differentiate(&center, part..part + 1, Compared::Signed(probe_seed(seed, probe)), None, space)?;
                        // The gradient is 1/N sum of signed losses, with all kept positions; the mean is over the labelled ones.
                        let scale = (self.kept as f64).powi(2) / (labelled as f64 * probes as f64);
                        add_squares(space, scale, squares);
                    }
                }
                Ok(())
            }
        }
    }

    fn dense_matrices(&self) -> Vec<DenseMatrix> {
        self.moving_matrices().into_iter().map(|(_, matrix)| matrix).collect()
    }

    fn add_moments(
        &self,
        parts: Range<usize>,
        (probes, seed): (usize, u64),
        space: &mut Vec<f32>,
        moments: &mut [Moments],
        squares: &mut [f32],
    ) -> Result<(), CurvatureError> {
        let center = moving_center(&self.moving);
        let places: Vec<usize> = self.moving_matrices().into_iter().map(|(place, _)| place).collect();
        // The inputs of all positions that go through, and N/probes times the squares of the slopes of -1/N log p.
        let input_scale = 1.0 / (self.processed() as f64 * probes as f64);
        let output_scale = self.kept as f64 / probes as f64;
        let sums = Arc::new(Mutex::new(moments.to_vec()));
        let witness = {
            let sums = Arc::clone(&sums);
            LayerWitness(Arc::new(move |place, inputs, slopes| {
                let Ok(index) = places.binary_search(&place) else { return };
                let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
                let Moments { inputs: to_inputs, outputs: to_outputs } = &mut sums[index];
                add_second_moment(inputs, to_inputs, input_scale);
                add_second_moment(slopes, to_outputs, output_scale);
            }))
        };
        space.resize(center.len(), 0.0);
        for part in parts {
            for probe in 0..probes {
                let compared = Compared::Drawn(probe_seed(seed, probe));
                self.differentiate(&center, part..part + 1, compared, Some(&witness), space)?;
                add_squares(space, self.kept as f64 / probes as f64, squares);
            }
        }
        moments.clone_from_slice(&sums.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }
}

impl LanguageModelKl {
    /// Positions of all sequences that go through the network.
    fn processed(&self) -> usize {
        self.tokens.iter().map(|sequence| self.needed(sequence.kept)).sum()
    }

    /// The matrices whose weights move, and where they begin among all weights, in that order.
    fn moving_matrices(&self) -> Vec<(usize, DenseMatrix)> {
        let layout = self.moving.center().layout();
        let moving = |name: &str| self.moving.layout().parameters().iter().any(|parameter| parameter.name == name);
        let mut all: Vec<(usize, DenseMatrix)> = Vec::new();
        for linear in self.model.decoder().dense_layers() {
            let found = layout.parameters().binary_search_by_key(&linear.weight.start, |parameter| parameter.offset);
            let Some(parameter) = found.ok().map(|index| &layout.parameters()[index]).filter(|parameter| moving(&parameter.name)) else {
                continue;
            };
            let (inputs, outputs, transposed) = (linear.inputs, linear.outputs, linear.transposed);
            all.push((linear.weight.start, DenseMatrix { name: parameter.name.clone(), inputs, outputs, transposed }));
        }
        all.sort_by_key(|(place, _)| *place);
        all
    }
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
