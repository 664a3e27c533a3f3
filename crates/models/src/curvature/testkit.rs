//! Networks small enough for dense matrices, and their Fisher matrices from `f64` forward passes.

use basin_volume_data::tokens::Positions;
use basin_volume_data::{Dataset, digits};

use super::Scores;
use crate::arch::{Architecture, LanguageModel, MlpConfig};
use crate::checkpoint::Checkpoint;
use crate::cost::language_model_tests::{checkpoint, log_softmax, tokens};
use crate::cost::{CenterOutputs, LanguageModelKl, MlpKl};
use crate::parameters::{Moving, Parameters};

/// A perceptron on a few digits, with probabilities that are not all equal.
pub(crate) struct Perceptron {
    pub(crate) cost: MlpKl,
    pub(crate) data: Dataset,
}

pub(crate) fn perceptron(widths: &[usize], rows: usize) -> Perceptron {
    let network = MlpConfig::from_widths(widths.to_vec()).unwrap();
    let layout = network.layout();
    let mut values = network.initial_parameters(11).values().into_owned();
    values.iter_mut().enumerate().for_each(|(i, value)| *value = 2.0 * *value + 0.05 * (i as f32 * 0.7).sin());
    let all = digits::all();
    let inputs = all.inputs().chunks(64).take(rows).flat_map(|row| row[18..18 + widths[0]].to_vec()).collect();
    let labels = (0..rows).map(|row| (row * 7 % widths[widths.len() - 1]) as u32).collect();
    let data = Dataset::new("cut", widths[0], inputs, Some(labels)).unwrap();
    Perceptron { cost: MlpKl::new(network, Parameters::new(layout, values), &data).unwrap(), data }
}

impl Perceptron {
    /// Log-probabilities of all rows, `[rows][classes]`.
    fn log_probabilities(&self, weights: &[f32]) -> Vec<Vec<f64>> {
        self.data.inputs().chunks(self.data.features()).map(|row| log_softmax(&self.cost.network().logits_exact(weights, row))).collect()
    }

    /// Scores of every row and class with respect to some weights, `[row][class][weight]`, with the probabilities.
    pub(crate) fn scores(&self, chosen: &[usize]) -> (Vec<Vec<f64>>, Vec<Vec<Vec<f64>>>) {
        let center = self.cost.parameters().values().into_owned();
        scores(&center, chosen, |weights| self.log_probabilities(weights))
    }

    /// The Fisher matrix, row-major.
    pub(crate) fn fisher(&self) -> Vec<f64> {
        let dimension = self.cost.parameters().dimension();
        let (probabilities, scores) = self.scores(&(0..dimension).collect::<Vec<_>>());
        let mut fisher = vec![0.0; dimension * dimension];
        for (probabilities, scores) in probabilities.iter().zip(&scores) {
            for (p, s) in probabilities.iter().zip(scores) {
                for (row, si) in fisher.chunks_mut(dimension).zip(s) {
                    row.iter_mut().zip(s).for_each(|(entry, sj)| *entry += p * si * sj / self.data.rows() as f64);
                }
            }
        }
        fisher
    }
}

/// A golden language model on a few tokens.
pub(crate) struct Language {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) cost: LanguageModelKl,
}

pub(crate) fn language(name: &str, lengths: &[usize], include: Option<&str>) -> Language {
    let checkpoint = checkpoint(name);
    let moving = Moving::matching(checkpoint.parameters.clone(), include, None).unwrap();
    let model = checkpoint.architecture.language_model().unwrap();
    let cost = LanguageModelKl::new(model, moving, &tokens(lengths, None, Positions::All), CenterOutputs::Logits).unwrap();
    Language { checkpoint, cost }
}

impl Language {
    pub(crate) fn model(&self) -> &LanguageModel {
        self.checkpoint.architecture.language_model().unwrap()
    }

    /// As [`Perceptron::scores`], per position of all sequences; `chosen` are moving weights.
    pub(crate) fn scores(&self, lengths: &[usize], chosen: &[usize]) -> (Vec<Vec<f64>>, Vec<Vec<Vec<f64>>>) {
        let moving = self.cost.moving();
        let mut own = vec![0.0f32; moving.dimension()];
        moving.fill(0..own.len(), &mut own);
        let tokens = tokens(lengths, None, Positions::All);
        let mut full = moving.center().values().into_owned();
        scores(&own, chosen, |weights| {
            moving.scatter(weights, &mut full);
            let logits = tokens.iter().flat_map(|sequence| self.model().logits_exact(&full, sequence.ids).unwrap()).collect::<Vec<f64>>();
            logits.chunks(self.model().vocabulary()).map(log_softmax).collect()
        })
    }
}

/// Central differences of log-probabilities.
fn scores(
    center: &[f32],
    chosen: &[usize],
    mut log_probabilities: impl FnMut(&[f32]) -> Vec<Vec<f64>>,
) -> (Vec<Vec<f64>>, Vec<Vec<Vec<f64>>>) {
    let at_center = log_probabilities(center);
    let probabilities: Vec<Vec<f64>> = at_center.iter().map(|row| row.iter().map(|l| l.exp()).collect()).collect();
    let mut scores: Vec<Vec<Vec<f64>>> = at_center.iter().map(|row| vec![Vec::new(); row.len()]).collect();
    let mut weights = center.to_vec();
    for &index in chosen {
        weights[index] = center[index] + 5e-4;
        let (above, up) = (f64::from(weights[index]), log_probabilities(&weights));
        weights[index] = center[index] - 5e-4;
        let (below, down) = (f64::from(weights[index]), log_probabilities(&weights));
        weights[index] = center[index];
        for ((scores, up), down) in scores.iter_mut().zip(up).zip(down) {
            for ((scores, up), down) in scores.iter_mut().zip(up).zip(down) {
                scores.push((up - down) / (above - below));
            }
        }
    }
    (probabilities, scores)
}

/// `1/N sum_i sum_y p s^2` of every chosen weight.
pub(crate) fn expected_squares((probabilities, scores): &(Vec<Vec<f64>>, Vec<Vec<Vec<f64>>>)) -> Vec<f64> {
    let mut squares = vec![0.0; scores[0][0].len()];
    for (probabilities, scores) in probabilities.iter().zip(scores) {
        for (p, s) in probabilities.iter().zip(scores) {
            squares.iter_mut().zip(s).for_each(|(square, s)| *square += p * s * s);
        }
    }
    let positions = scores.len() as f64;
    squares.iter_mut().for_each(|square| *square /= positions);
    squares
}

/// Some weights, spread over all tensors of a model.
pub(crate) fn spread(model: &dyn Scores, count: usize) -> Vec<usize> {
    let dimension = model.dimension();
    (0..count).map(|i| (i * dimension / count + i * 7 % (dimension / count).max(1)).min(dimension - 1)).collect()
}
