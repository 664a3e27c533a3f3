//! Scores of a subject whose cost is Python's: what curvatures are computed from.

use std::ops::Range;

use basin_volume::center::Center;
use basin_volume::direction::Direction;
use basin_volume::objective::{Cost, Differentiable, Objective, ObjectiveError, RayPoint};
use basin_volume_models::curvature::{CurvatureError, DenseMatrix, Labels, Moments, Scores, add_squares, probe_seed};
use basin_volume_models::parameters::Moving;
use serde::Deserialize;

use crate::mailbox::{Answer, What, unexpected};
use crate::subject::PythonSubject;

/// A matrix of weights of a dense layer, as Python says it.
#[derive(Debug, Clone, Deserialize)]
pub struct Dense {
    name: String,
    inputs: usize,
    outputs: usize,
    transposed: bool,
}

/// The scores around a center.
pub struct PythonScores<'a> {
    subject: &'a PythonSubject,
    moving: Moving,
    weights: Vec<f32>,
}

impl<'a> PythonScores<'a> {
    /// Of a subject, around a center that may be another than its own.
    pub fn new(subject: &'a PythonSubject, moving: Moving) -> Self {
        let mut weights = vec![0.0f32; moving.dimension()];
        moving.fill(0..weights.len(), &mut weights);
        Self { subject, moving, weights }
    }
}

impl Center for PythonScores<'_> {
    fn dimension(&self) -> usize {
        self.weights.len()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        out.copy_from_slice(&self.weights[range]);
    }
}

impl Objective for PythonScores<'_> {
    fn cost(&self, direction: &Direction, point: RayPoint) -> Result<Cost, ObjectiveError> {
        self.subject.cost(direction, point)
    }
}

impl Differentiable for PythonScores<'_> {
    fn parts(&self) -> usize {
        self.subject.parts()
    }

    fn gradient(&self, weights: &[f32], parts: Range<usize>, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        self.subject.gradient(weights, parts, gradient)
    }

    fn cost_at(&self, weights: &[f32]) -> Result<Cost, ObjectiveError> {
        self.subject.cost_at(weights)
    }

    fn likelihood_gradient(&self, weights: &[f32], parts: Range<usize>, seed: u64, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        self.subject.likelihood_gradient(weights, parts, seed, gradient)
    }
}

impl Scores for PythonScores<'_> {
    fn moving(&self) -> &Moving {
        &self.moving
    }

    fn positions(&self) -> usize {
        self.subject.description.positions
    }

    fn batches(&self) -> Vec<Range<usize>> {
        (0..self.parts()).map(|part| part..part + 1).collect()
    }

    /// Labels of different positions are drawn independently and every score has the mean zero (those of the data by a random sign), so the square of
    /// the sum of a part's scores has the expectation of the sum of their squares.
    fn add_squared_scores(
        &self,
        parts: Range<usize>,
        labels: Labels<'_>,
        space: &mut Vec<f32>,
        squares: &mut [f32],
    ) -> Result<(), CurvatureError> {
        let (probes, seed, of_data) = match labels {
            Labels::Model { probes, seed } => (probes, seed, false),
            Labels::Data { probes, seed, .. } => (probes, seed, true),
        };
        space.resize(self.weights.len(), 0.0);
        let scale = self.positions() as f64 / probes as f64;
        for part in parts {
            for probe in 0..probes {
                let seed = probe_seed(seed, probe);
                let what = What::Likelihood { weights: self.weights.clone(), parts: part..part + 1, seed, of_data };
                self.subject.mailbox.gradient(what, space)?;
                // The gradient is -1/N sum s; 1/N (sum s)^2 is N times its square.
                add_squares(space, scale, squares);
            }
        }
        Ok(())
    }

    fn dense_matrices(&self) -> Vec<DenseMatrix> {
        let matrix = |dense: &Dense| DenseMatrix {
            name: dense.name.clone(),
            inputs: dense.inputs,
            outputs: dense.outputs,
            transposed: dense.transposed,
        };
        self.subject.description.dense.iter().map(matrix).collect()
    }

    fn add_moments(
        &self,
        parts: Range<usize>,
        (probes, seed): (usize, u64),
        _space: &mut Vec<f32>,
        moments: &mut [Moments],
        squares: &mut [f32],
    ) -> Result<(), CurvatureError> {
        let add = |sum: &mut [f32], more: &[f32]| -> Result<(), ObjectiveError> {
            if sum.len() != more.len() {
                return Err(unexpected());
            }
            sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
            Ok(())
        };
        let what = What::Moments { weights: self.weights.clone(), parts, probes, seed };
        let Answer::Moments(found, found_squares) = self.subject.mailbox.ask(what)? else { return Err(unexpected().into()) };
        if found.len() != moments.len() {
            return Err(unexpected().into());
        }
        for (sum, (inputs, outputs)) in moments.iter_mut().zip(&found) {
            add(&mut sum.inputs, inputs)?;
            add(&mut sum.outputs, outputs)?;
        }
        Ok(add(squares, &found_squares)?)
    }
}
