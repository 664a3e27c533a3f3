//! What curvatures are computed from, beyond gradients of the cost: second moments of the scores `s = d log p_w(y|x) / dw` of the
//! single positions.

use std::ops::Range;

use basin_volume::fisher::FisherMatrix;
use basin_volume::objective::{Differentiable, ObjectiveError};

use super::CurvatureError;
use crate::parameters::Moving;

/// Follows a computation, and may end it.
pub trait Observer {
    /// So many of the computation's steps are done.
    fn step(&mut self, done: usize, total: usize);

    /// Whether to stop; asked between steps.
    fn interrupted(&self) -> bool {
        false
    }
}

/// An [`Observer`] that shows nothing and never stops.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn step(&mut self, _done: usize, _total: usize) {}
}

/// Reports a step, and turns an interrupt into an error. Called with the number of steps done, 0 at the beginning.
pub(super) fn observe(observer: &mut dyn Observer, done: usize, total: usize) -> Result<(), CurvatureError> {
    observer.step(done, total);
    if done < total && observer.interrupted() { Err(CurvatureError::Interrupted { done, total }) } else { Ok(()) }
}

/// Whose scores are meant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Labels<'a> {
    /// Labels of the model's own distribution: the expectation is the Fisher matrix, which at the center is the Hessian of the cost.
    Model {
        /// Draws per position, where labels are drawn.
        probes: usize,
        /// Seed of the draws.
        seed: u64,
    },
    /// The labels of the data: one for every row, or the next tokens (`None`) of a language model.
    Data {
        /// Classes of the rows.
        rows: Option<&'a [u32]>,
        /// Seed of the signs that separate the positions of a sequence, and their number.
        probes: usize,
        /// Seed of the signs.
        seed: u64,
    },
}

impl Labels<'_> {
    /// Draws per position, and their seed.
    pub(crate) fn probes(&self) -> (usize, u64) {
        match *self {
            Self::Model { probes, seed } | Self::Data { probes, seed, .. } => (probes, seed),
        }
    }
}

/// The seed of one of several probes: another one for every probe, and the seed itself for the first.
#[must_use]
pub fn probe_seed(seed: u64, probe: usize) -> u64 {
    seed.wrapping_add((probe as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// A matrix of weights of a dense layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DenseMatrix {
    /// Its name.
    pub name: String,
    /// Width of what it reads.
    pub inputs: usize,
    /// Width of what it gives.
    pub outputs: usize,
    /// Whether it is stored `[inputs, outputs]` instead of `[outputs, inputs]`.
    pub transposed: bool,
}

/// Second moments of a dense layer, on the way to their means.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// `[inputs, inputs]`, row-major: adds up to the mean of `a a'` over the positions that go through the layer, `a` its input.
    pub inputs: Vec<f32>,
    /// `[outputs, outputs]`, row-major: adds up to `1/N sum g g'`, with `g` the gradient of the log-likelihood of drawn labels with
    /// respect to the layer's output at one position.
    pub outputs: Vec<f32>,
}

/// A differentiable objective that knows the scores of its positions.
pub trait Scores: Differentiable {
    /// The tensors whose weights move, and the center.
    fn moving(&self) -> &Moving;

    /// The Fisher matrix, where there is a better way than by differences of the gradient ([`basin_volume::fisher::DifferenceProducts`]):
    /// exact products, and a factor for small data.
    fn fisher_matrix(&self) -> Option<Box<dyn FisherMatrix + Send + '_>> {
        None
    }

    /// Number of rows of the factor that [`Scores::fisher_matrix`] has, without making it.
    fn fisher_rows(&self) -> Option<usize> {
        None
    }

    /// Number of positions that the cost averages over, `N`.
    fn positions(&self) -> usize;

    /// Parts whose squared scores are computed at once. The result does not depend on where a caller stops between them.
    fn batches(&self) -> Vec<Range<usize>>;

    /// Adds `1/N sum s_i^2` over the positions of `parts` (one of [`Scores::batches`]) at the center to `squares` (length `D`), or an
    /// estimate without bias. `space` is scratch of any length.
    ///
    /// # Errors
    /// When the labels are missing or do not fit, or the evaluation fails.
    fn add_squared_scores(
        &self,
        parts: Range<usize>,
        labels: Labels<'_>,
        space: &mut Vec<f32>,
        squares: &mut [f32],
    ) -> Result<(), CurvatureError>;

    /// The matrices of the dense layers whose weights move, in the order of the layout.
    fn dense_matrices(&self) -> Vec<DenseMatrix>;

    /// Adds the part that `parts` (one of [`Scores::batches`]) have in the second moments of every one of [`Scores::dense_matrices`], with
    /// labels of the model, and what [`Scores::add_squared_scores`] adds to `squares`.
    ///
    /// # Errors
    /// As [`Scores::add_squared_scores`].
    fn add_moments(
        &self,
        parts: Range<usize>,
        draws: (usize, u64),
        space: &mut Vec<f32>,
        moments: &mut [Moments],
        squares: &mut [f32],
    ) -> Result<(), CurvatureError>;
}

/// Adds `scale` times the squares of `gradient` to `squares`.
pub fn add_squares(gradient: &[f32], scale: f64, squares: &mut [f32]) {
    // The root keeps the squares of small scores inside the range of f32.
    let root = scale.sqrt() as f32;
    for (square, &slope) in squares.iter_mut().zip(gradient) {
        let slope = root * slope;
        *square += slope * slope;
    }
}

/// The unbiased estimate of the sum of squared scores that gradients of whole parts give: labels of different positions are drawn
/// independently and every score has the mean zero, so the square of the sum of a part's scores has the expectation of the sum of their
/// squares.
pub(crate) fn add_squared_sums(
    objective: &dyn Differentiable,
    (weights, positions): (&[f32], usize),
    parts: Range<usize>,
    (probes, seed): (usize, u64),
    space: &mut Vec<f32>,
    squares: &mut [f32],
) -> Result<(), ObjectiveError> {
    space.resize(weights.len(), 0.0);
    for part in parts {
        for probe in 0..probes {
            objective.likelihood_gradient(weights, part..part + 1, probe_seed(seed, probe), space)?;
            // The gradient is -1/N sum s; 1/N (sum s)^2 is N times its square.
            add_squares(space, positions as f64 / probes as f64, squares);
        }
    }
    Ok(())
}
