//! Mean KL divergence of a multilayer perceptron's outputs from those of the center.

mod fisher;
mod gradient;
mod rotated;
mod scores;
mod segment;

use std::ops::Range;
use std::sync::{Mutex, OnceLock};

use basin_volume::center::Center;
use basin_volume::direction::Direction;
use basin_volume::objective::{Cost, Objective, ObjectiveError, RayPoint};
use basin_volume_data::Dataset;

pub use rotated::RotatedMlpKl;
pub use scores::EXACT_CLASSES;

use super::CostError;
use super::pool::{give_back, take};
use super::tiles::{LogitNoise, mean_cost, sum_tiles};
use crate::arch::{Architecture, MlpConfig};
use crate::nn::{Divergence, KeptProbabilities, product};
use crate::parameters::{Moving, Parameters};

/// Positions that go through all layers together. Measured: see the benchmark `digits_cost`.
const TILE: usize = 128;

/// Tiles are padded to a multiple of this many positions, the height of gemm's widest kernel: other heights are copied first.
const PADDING: usize = 16;

/// Positions whose logits are compared with `f64` to measure the rounding noise.
const CALIBRATION_POSITIONS: usize = 32;

/// `C(w) = mean_i KL(p_c(.|x_i) || p_w(.|x_i))` over the rows of a dataset, in nats, for a multilayer perceptron.
///
/// Forward passes are `f32`, everything after the logits `f64` (see `KeptProbabilities::divergence`); the center's probabilities come
/// from the same code, so `C(c)` is exactly zero. Against an `f64` forward pass of the same `f32` weights the relative error is below
/// 1e-3 at 1e-8 nats and below 1e-6 at 1e-2 nats (digits network).
///
/// # Resolution
/// Let `n_ik` be the rounding noise of logit `k` at input `i`, of deviation `eta`. Since `dKL_i/dlogit_k = q_k - p_k`,
///
/// `dC = 1/N sum_i sum_k (q_ik - p_ik) n_ik`,      `sd(C) = eta/N sqrt(sum_ik (q_ik - p_ik)^2) + eta^2/2`
///
/// for independent noise (about `eta sqrt(2 C / N)` when `q` is close to `p`, because `KL ~ sum d^2 p / 2`). The sum is accumulated beside
/// the cost, not approximated. `eta` is measured when the cost is built: the deviation of the center's `f32` logits from an
/// `f64` forward pass, common shifts of all classes removed, relative to the rms of the logits; at other weights it grows with theirs.
/// The last term is what noise alone adds when `q = p`.
///
/// This is the error against exact arithmetic. The scatter between neighbouring points is smaller where they share their roundings: on a
/// random network of 96 units the two agree within a factor 3 from 1e-6 to 1e-2 nats (tested); on the trained digits network (three rays)
/// the scatter is 0.3 to 0.8 of this figure at 1e-2 nats, 0.2 to 0.7 at 1e-4, 0.06 to 0.2 at 1e-6 and 0.03 at 1e-8.
///
/// # Threads
/// One evaluation is sequential when rayon's current pool has one thread, else its tiles run in parallel. Tiles are fixed and summed in
/// order: the bits are the same. Buffers are kept and reused, one set per concurrent evaluation.
#[derive(Debug)]
pub struct MlpKl {
    network: MlpConfig,
    moving: Moving,
    tiles: Vec<Tile>,
    positions: usize,
    relative_noise: f64,
    workspaces: Mutex<Vec<Workspace>>,
    buffers: Mutex<Vec<Buffers>>,
    spaces: Mutex<Vec<gradient::Space>>,
    score_spaces: Mutex<Vec<scores::Space>>,
    segments: Mutex<Vec<segment::Space>>,
    /// What [`segment`] keeps of the center.
    first_sums: OnceLock<Vec<f32>>,
}

/// Some positions, feature-major and padded, with the center's outputs.
#[derive(Debug)]
struct Tile {
    /// `[features, columns]`; the columns beyond the positions are zero.
    inputs: Vec<f32>,
    columns: usize,
    kept: KeptProbabilities,
}

/// What one evaluation needs: the perturbed weights and the sums of its tiles.
#[derive(Debug, Default)]
struct Workspace {
    weights: Vec<f32>,
    sums: Vec<Divergence>,
}

/// What one tile needs: the activations before and after a layer, `[features, columns]`.
#[derive(Debug, Default)]
struct Buffers {
    front: Vec<f32>,
    back: Vec<f32>,
}

impl MlpKl {
    /// The cost of `network` around a center over all rows of `data`. Keeps the inputs, and the center's output probabilities
    /// (16 bytes per row and class).
    ///
    /// # Errors
    /// When the widths of data and network differ, or the weights' number, or the center's own logits are not finite.
    pub fn new(network: MlpConfig, moving: impl Into<Moving>, data: &Dataset) -> Result<Self, CostError> {
        let moving = moving.into();
        let center = moving.center().values();
        if data.features() != network.inputs() {
            let (found, expected) = (data.features(), network.inputs());
            return Err(CostError::Features { dataset: data.name().to_owned(), found, expected });
        }
        let expected = network.layout().dimension();
        if center.len() != expected {
            return Err(CostError::Dimension { found: center.len(), expected });
        }
        let mut buffers = Buffers::new(&network);
        let mut tiles = Vec::new();
        let mut noise = LogitNoise::default();
        for start in (0..data.rows()).step_by(TILE) {
            let rows = start..(start + TILE).min(data.rows());
            let columns = rows.len().next_multiple_of(PADDING);
            let inputs = feature_major(data, rows.clone(), columns);
            let logits = forward(&network, &center, &inputs, columns, &mut buffers);
            let bias = last_bias(&network, &center);
            let kept = KeptProbabilities::new(logits, bias, columns, rows.len());
            if !kept.is_finite() {
                return Err(CostError::Center { dataset: data.name().to_owned(), row: start });
            }
            let compared = rows.start..rows.end.min(CALIBRATION_POSITIONS);
            for position in compared {
                let input = &data.inputs()[position * data.features()..(position + 1) * data.features()];
                let exact = network.logits_exact(&center, input);
                let value = |class: usize| f64::from(logits[class * columns + position]) + f64::from(bias[class]);
                noise.compare(&exact, value);
            }
            tiles.push(Tile { inputs, columns, kept });
        }
        let positions = data.rows();
        let buffers = Mutex::new(vec![buffers]);
        drop(center);
        Ok(Self {
            network,
            moving,
            tiles,
            positions,
            relative_noise: noise.relative(),
            workspaces: Mutex::default(),
            buffers,
            spaces: Mutex::default(),
            score_spaces: Mutex::default(),
            segments: Mutex::default(),
            first_sums: OnceLock::new(),
        })
    }

    /// The network.
    #[must_use]
    pub fn network(&self) -> &MlpConfig {
        &self.network
    }

    /// The weights at the center.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        self.moving.center()
    }

    /// Number of inputs the cost averages over.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Deviation of the rounding noise of a logit relative to the rms of the logits, as measured at construction.
    #[must_use]
    pub fn relative_noise(&self) -> f64 {
        self.relative_noise
    }

    /// Multiply-adds of one evaluation, times two.
    #[must_use]
    pub fn operations(&self) -> f64 {
        2.0 * self.positions as f64 * self.network.widths().windows(2).map(|pair| (pair[0] * pair[1]) as f64).sum::<f64>()
    }

    /// The cost of the given weights, as [`Objective::cost`] computes it.
    ///
    /// # Panics
    /// If `weights` has another length than the dimension.
    #[must_use]
    pub fn cost_of_weights(&self, weights: &[f32]) -> Cost {
        assert_eq!(weights.len(), self.parameters().dimension(), "as many weights as the network has");
        let mut workspace = take(&self.workspaces);
        let cost = self.evaluate(weights, &mut workspace.sums);
        give_back(&self.workspaces, workspace);
        cost
    }

    fn evaluate(&self, weights: &[f32], sums: &mut Vec<Divergence>) -> Cost {
        let bias = last_bias(&self.network, weights);
        let tile_sum = |tile: &Tile, buffers: &mut Buffers| {
            let logits = forward(&self.network, weights, &tile.inputs, tile.columns, buffers);
            tile.kept.divergence(logits, bias, tile.columns)
        };
        let buffers = || take(&self.buffers).sized(&self.network);
        let total = sum_tiles(&self.tiles, sums, &self.buffers, buffers, tile_sum);
        mean_cost(&total, (self.positions, self.network.outputs()), self.relative_noise)
    }
}

impl Center for MlpKl {
    fn dimension(&self) -> usize {
        self.moving.dimension()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        self.moving.fill(range, out);
    }
}

impl Objective for MlpKl {
    fn cost(&self, direction: &Direction, point: RayPoint) -> Result<Cost, ObjectiveError> {
        let mut workspace = take(&self.workspaces);
        let Workspace { weights, sums } = &mut workspace;
        self.moving.prepare(weights);
        self.moving.write_point(direction, point, weights);
        let cost = self.evaluate(weights, sums);
        give_back(&self.workspaces, workspace);
        Ok(cost)
    }
}

impl Buffers {
    fn new(network: &MlpConfig) -> Self {
        Self::default().sized(network)
    }

    /// Long enough for the widest layer after the input; does nothing when it already is.
    fn sized(mut self, network: &MlpConfig) -> Self {
        let length = network.widths()[1..].iter().max().map_or(0, |width| width * TILE);
        self.front.resize(length, 0.0);
        self.back.resize(length, 0.0);
        self
    }
}

/// The rows of a dataset as `[features, columns]`, padded with zeros.
fn feature_major(data: &Dataset, rows: Range<usize>, columns: usize) -> Vec<f32> {
    let features = data.features();
    let mut inputs = vec![0.0f32; features * columns];
    for (column, row) in rows.enumerate() {
        for feature in 0..features {
            inputs[feature * columns + column] = data.inputs()[row * features + feature];
        }
    }
    inputs
}

/// The bias of the last layer, which [`forward`] leaves to be added in `f64`.
fn last_bias<'a>(network: &MlpConfig, weights: &'a [f32]) -> &'a [f32] {
    &weights[weights.len() - network.outputs()..]
}

/// Logits without the last bias, `[outputs, columns]`, of feature-major inputs.
fn forward<'a>(network: &MlpConfig, weights: &[f32], inputs: &[f32], columns: usize, buffers: &'a mut Buffers) -> &'a [f32] {
    let Buffers { front, back } = buffers;
    let layers = network.widths().len() - 1;
    let mut rest = weights;
    for (layer, pair) in network.widths().windows(2).enumerate() {
        let (weight, after) = rest.split_at(pair[0] * pair[1]);
        let (bias, after) = after.split_at(pair[1]);
        rest = after;
        let input = if layer == 0 { inputs } else { &front[..pair[0] * columns] };
        let output = &mut back[..pair[1] * columns];
        product(output, weight, input, pair[1], pair[0], columns);
        if layer + 1 < layers {
            network.activation().add_bias_and_apply(output, bias, columns);
        }
        std::mem::swap(front, back);
    }
    &front[..network.outputs() * columns]
}

#[cfg(test)]
mod gradient_tests;
#[cfg(test)]
mod perceptron_tests;
#[cfg(test)]
mod tests;
