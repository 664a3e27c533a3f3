//! Diagonals of the Fisher matrix: `F_jj = 1/N sum_i E_y [ (d log p(y|x_i) / dw_j)^2 ]`, over the labels of the model or of the data.

use super::scores::observe;
use super::{Curvature, CurvatureError, Labels, Observer, Scores};

/// The diagonal of the Fisher matrix at the center, which is that of the Hessian of the cost (nats per squared unit of weight).
///
/// - Multilayer perceptrons: exact. Per position, the expectation over the classes is a sum weighted with their probabilities, and the squared
///   gradient of a weight is the product of the squared slope and the squared input; only more than
///   [`EXACT_CLASSES`](crate::cost::EXACT_CLASSES) classes are drawn, `probes` times per position. Costs about one backward pass per class.
/// - Language models: the squared gradient of every sequence's log-likelihood with `probes` labels drawn per position, each sequence and
///   probe an unbiased estimate. Relative standard error of one entry about `sqrt(2 / (sequences x probes))`, or more where few positions
///   matter to it. Costs `probes` gradients.
///
/// Sums of squares are `f32` (all terms are positive, so with `n` sequences and probes the relative error is at most `n` times 6e-8). The
/// result is a function of the seed, the same bits for any number of threads. Memory: two vectors of length `D` beside what a gradient
/// takes.
///
/// # Errors
/// When `probes` is 0, the observer interrupts, the evaluation fails, or an entry is not finite, or all are zero.
pub fn fisher_diagonal(model: &dyn Scores, probes: usize, seed: u64, observer: &mut dyn Observer) -> Result<Curvature, CurvatureError> {
    let values = squares(model, Labels::Model { probes, seed }, "Fisher diagonal", observer)?;
    Ok(Curvature::Diagonal { values })
}

/// The mean over positions of the squared gradient of the loss on the labels of the data (the diagonal of the *empirical* Fisher matrix, what
/// Adam's second moment estimates with batches of one position). It is the curvature of the cost only as far as the model's
/// probabilities are those of the labels: where the model is sure and right, it is nearly zero whatever the curvature.
///
/// - Multilayer perceptrons: `rows` has the class of every row; exact, at about two cost evaluations.
/// - Language models: the label of a position is the next token of its sequence (a sequence's last position has none, and does not count).
///   Scores of a given label do not have the mean zero, so every position's loss gets a random sign, which makes the square of the sum
///   unbiased as in [`fisher_diagonal`]; `probes` signs per position.
///
/// Precision, determinism and memory as in [`fisher_diagonal`].
///
/// # Errors
/// As [`fisher_diagonal`], and when the labels are missing, too few, or beyond the classes.
pub fn squared_gradient(
    model: &dyn Scores,
    rows: Option<&[u32]>,
    probes: usize,
    seed: u64,
    observer: &mut dyn Observer,
) -> Result<Curvature, CurvatureError> {
    let values = squares(model, Labels::Data { rows, probes, seed }, "mean squared gradient", observer)?;
    Ok(Curvature::Diagonal { values })
}

fn squares(model: &dyn Scores, labels: Labels<'_>, what: &'static str, observer: &mut dyn Observer) -> Result<Vec<f32>, CurvatureError> {
    check_probes(labels.probes().0)?;
    let mut values = vec![0.0f32; model.dimension()];
    let mut space = Vec::new();
    let batches = model.batches();
    let total = batches.len();
    observe(observer, 0, total)?;
    for (done, batch) in batches.into_iter().enumerate() {
        model.add_squared_scores(batch, labels, &mut space, &mut values)?;
        observe(observer, done + 1, total)?;
    }
    check(&values, what)?;
    Ok(values)
}

pub(super) fn check_probes(probes: usize) -> Result<(), CurvatureError> {
    if probes > 0 { Ok(()) } else { Err(CurvatureError::Setting { name: "probes", value: 0.0, expected: "a number from 1" }) }
}

/// Refuses what no preconditioner can be made of.
pub(super) fn check(values: &[f32], what: &'static str) -> Result<(), CurvatureError> {
    if let Some(index) = values.iter().position(|value| !value.is_finite()) {
        return Err(CurvatureError::NotFinite { what, index, value: f64::from(values[index]) });
    }
    if values.iter().all(|&value| value == 0.0) { Err(CurvatureError::Zero { what }) } else { Ok(()) }
}

#[cfg(test)]
pub(super) mod tests;
