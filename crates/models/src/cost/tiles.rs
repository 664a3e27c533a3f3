//! What the costs of classifiers have in common: rows in tiles, the noise of logits, labels.

use std::sync::Mutex;

use basin_volume::objective::Cost;
use rayon::prelude::*;

use super::pool::give_back;
use crate::curvature::CurvatureError;
use crate::nn::Divergence;

/// Deviations of `f32` logits from exact ones.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LogitNoise {
    /// Sum of their variances, common shifts removed.
    variance: f64,
    /// Sum of the mean squares of the exact logits.
    square: f64,
}

impl LogitNoise {
    /// Takes in one row's logits `value(class)` beside the exact ones.
    pub fn compare(&mut self, exact: &[f64], value: impl Fn(usize) -> f64) {
        let classes = exact.len() as f64;
        let errors: Vec<f64> = exact.iter().enumerate().map(|(class, exact)| value(class) - exact).collect();
        let shift = errors.iter().sum::<f64>() / classes;
        self.variance += errors.iter().map(|error| (error - shift).powi(2)).sum::<f64>() / (classes - 1.0);
        self.square += exact.iter().map(|logit| logit * logit).sum::<f64>() / classes;
    }

    pub fn add(&mut self, other: &Self) {
        self.variance += other.variance;
        self.square += other.square;
    }

    /// Deviation relative to the rms of the logits. An eighth of the `f32` rounding unit is a floor for networks whose calibration happens to
    /// be exact.
    pub fn relative(&self) -> f64 {
        let measured = if self.square > 0.0 { (self.variance / self.square).sqrt() } else { 0.0 };
        measured.max(f64::from(f32::EPSILON) / 8.0)
    }
}

/// The sum over all tiles, in their order: in parallel when rayon's current pool has several threads, with the same bits. `sums` is scratch;
/// `buffers` takes a set from the pool that it goes back to.
pub(super) fn sum_tiles<T: Sync, B: Send>(
    tiles: &[T],
    sums: &mut Vec<Divergence>,
    pool: &Mutex<Vec<B>>,
    buffers: impl Fn() -> B + Sync,
    tile_sum: impl Fn(&T, &mut B) -> Divergence + Sync,
) -> Divergence {
    sums.resize(tiles.len(), Divergence::default());
    if rayon::current_num_threads() > 1 && tiles.len() > 1 {
        sums.par_iter_mut().zip(tiles).for_each(|(sum, tile)| {
            // Taken and given back between tiles, never held while another task can be stolen.
            let mut own = buffers();
            *sum = tile_sum(tile, &mut own);
            give_back(pool, own);
        });
    } else {
        let mut own = buffers();
        for (sum, tile) in sums.iter_mut().zip(tiles) {
            *sum = tile_sum(tile, &mut own);
        }
        give_back(pool, own);
    }
    let mut total = Divergence::default();
    sums.iter().for_each(|sum| total.add(sum));
    total
}

/// The mean over `positions` with its resolution: see [`super::MlpKl`] for the formula.
pub(super) fn mean_cost(total: &Divergence, (positions, classes): (usize, usize), relative_noise: f64) -> Cost {
    let count = positions as f64;
    let logit_rms = (total.logits_squared / (count * classes as f64)).sqrt();
    let noise = relative_noise * logit_rms;
    Cost { nats: total.nats / count, resolution: noise * total.sensitivity_squared.sqrt() / count + noise * noise / 2.0 }
}

/// Labels of the data, one for each of `positions` rows and each a class; in messages a row is called `row`, and all of them `rows`.
pub(super) fn check_labels<'a>(
    labels: Option<&'a [u32]>,
    (positions, classes): (usize, usize),
    (row, rows): (&str, &str),
) -> Result<&'a [u32], CurvatureError> {
    let problem = |problem: String| CurvatureError::Labels { problem };
    let labels = labels.ok_or_else(|| problem("the dataset has none, so give one with labels".to_owned()))?;
    if labels.len() != positions {
        return Err(problem(format!("there are {} for {positions} {rows}", labels.len())));
    }
    match labels.iter().position(|&label| label as usize >= classes) {
        Some(index) => Err(problem(format!("{row} {index} has the label {} but the network has {classes} classes", labels[index]))),
        None => Ok(labels),
    }
}
