//! Mean KL divergence of an image classifier's outputs from those of the center.

mod gradient;
mod scores;

use std::ops::Range;
use std::sync::Mutex;

use basin_volume::center::Center;
use basin_volume::direction::Direction;
use basin_volume::objective::{Cost, Objective, ObjectiveError, RayPoint};
use basin_volume_data::Dataset;
use rayon::prelude::*;

use super::CostError;
use super::pool::{give_back, take};
use super::tiles::{LogitNoise, mean_cost, sum_tiles};
use crate::arch::convnextv2::lanes::{Lanes, TILE, lane_bytes, space_bytes};
use crate::arch::convnextv2::{Kernels, Network, Places, Space};
use crate::arch::{Architecture, ConvNextV2Config};
use crate::nn::{Divergence, KeptProbabilities};
use crate::parameters::{Moving, Parameters};

/// Multiply-adds in `f64` that measuring the rounding noise may take, and the most images it is measured on.
const CALIBRATION: (f64, usize) = (1.5e9, 16);

/// `C(w) = mean_i KL(p_c(.|x_i) || p_w(.|x_i))` over the images of a dataset, in nats, for a ConvNeXt V2.
///
/// As [`super::MlpKl`]: forward passes are `f32`, everything after the logits `f64`, and the center's probabilities come from the same
/// code, so `C(c)` is exactly zero. The resolution follows the same formula, with the noise of the logits measured on a few images against
/// the network in `f64`.
///
/// Images are kept once, as patches, and shared by all rays. Tiles of eight go through all layers on one thread each, and are summed in
/// order: the bits do not depend on the threads. Buffers are kept and reused, one set per concurrent evaluation.
#[derive(Debug)]
pub struct ImageKl {
    network: ConvNextV2Config,
    places: Places,
    moving: Moving,
    tiles: Vec<Tile>,
    positions: usize,
    relative_noise: f64,
    workspaces: Mutex<Vec<Workspace>>,
    spaces: Mutex<Vec<Space>>,
    lanes: Lanes,
    score_lanes: Mutex<Vec<scores::ScoreLane>>,
}

/// Some images, with the center's outputs.
#[derive(Debug)]
struct Tile {
    patches: Vec<f32>,
    kept: KeptProbabilities,
}

/// What one evaluation needs.
#[derive(Debug, Default)]
struct Workspace {
    weights: Vec<f32>,
    /// The gradient with respect to all weights, when only some move.
    full: Vec<f32>,
    kernels: Kernels,
    sums: Vec<Divergence>,
}

impl ImageKl {
    /// The cost of `network` around a center over all images of `data`. Keeps the images and the center's output probabilities.
    ///
    /// # Errors
    /// When the images have another size than the network takes, the number of weights is wrong, labels are beyond the classes, or the
    /// center's own logits are not finite.
    pub fn new(network: ConvNextV2Config, moving: impl Into<Moving>, data: &Dataset) -> Result<Self, CostError> {
        let moving = moving.into();
        let center = moving.center().values();
        if data.features() != network.features() {
            return Err(CostError::Images {
                dataset: data.name().to_owned(),
                found: data.features(),
                channels: network.num_channels,
                side: network.image_size,
            });
        }
        let expected = network.layout().dimension();
        if center.len() != expected {
            return Err(CostError::Dimension { found: center.len(), expected });
        }
        if let Some((row, &label)) = data.labels().into_iter().flatten().enumerate().find(|(_, label)| **label as usize >= network.classes)
        {
            return Err(CostError::Classes { dataset: data.name().to_owned(), row, label, classes: network.classes });
        }
        let places = Places::new(&network);
        let mut kernels = Kernels::default();
        kernels.set(&network, &places, &center);
        let pass = Network { config: &network, places: &places, weights: &center, kernels: &kernels };
        let features = network.features();
        let tile = |(number, images): (usize, &[f32])| -> Result<(Tile, LogitNoise), CostError> {
            let patches = network.patches(images);
            let count = images.len() / features;
            let mut space = Space::default();
            let logits = pass.logits(&patches, &mut space, None);
            let kept = KeptProbabilities::new(logits, pass.head_bias(), count, count);
            if !kept.is_finite() {
                return Err(CostError::Center { dataset: data.name().to_owned(), row: number * TILE });
            }
            let mut noise = LogitNoise::default();
            let most = (CALIBRATION.0 / network.operations()) as usize;
            for (image, pixels) in images.chunks_exact(features).enumerate() {
                if number * TILE + image < most.clamp(1, CALIBRATION.1) {
                    let exact = network.logits_exact(&center, pixels);
                    let value = |class: usize| f64::from(logits[class * count + image]) + f64::from(pass.head_bias()[class]);
                    noise.compare(&exact, value);
                }
            }
            Ok((Tile { patches, kept }, noise))
        };
        let tiles = data.inputs().par_chunks(TILE * features).enumerate().map(tile).collect::<Result<Vec<_>, _>>()?;
        let mut noise = LogitNoise::default();
        tiles.iter().for_each(|(_, own)| noise.add(own));
        drop(center);
        Ok(Self {
            network,
            places,
            moving,
            tiles: tiles.into_iter().map(|(tile, _)| tile).collect(),
            positions: data.rows(),
            relative_noise: noise.relative(),
            workspaces: Mutex::default(),
            spaces: Mutex::default(),
            lanes: Mutex::default(),
            score_lanes: Mutex::default(),
        })
    }

    /// The network.
    #[must_use]
    pub fn network(&self) -> &ConvNextV2Config {
        &self.network
    }

    /// The weights at the center.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        self.moving.center()
    }

    /// Number of images the cost averages over.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Deviation of the rounding noise of a logit relative to the rms of the logits, as measured at construction.
    #[must_use]
    pub fn relative_noise(&self) -> f64 {
        self.relative_noise
    }

    /// The cost of the given weights (all of the network), as [`Objective::cost`] computes it.
    ///
    /// # Panics
    /// If `weights` has another length than the center.
    #[must_use]
    pub fn cost_of_weights(&self, weights: &[f32]) -> Cost {
        assert_eq!(weights.len(), self.parameters().dimension(), "as many weights as the network has");
        let mut workspace = take(&self.workspaces);
        let Workspace { kernels, sums, .. } = &mut workspace;
        let cost = self.evaluate(weights, kernels, sums);
        give_back(&self.workspaces, workspace);
        cost
    }

    /// Parts of so many images that are computed at the same time.
    #[must_use]
    pub fn tiles(images: usize) -> usize {
        images.div_ceil(TILE).max(1)
    }

    /// Bytes of what is kept of so many images of this network: patches and probabilities.
    #[must_use]
    pub(crate) fn kept_bytes(network: &ConvNextV2Config, images: usize) -> u64 {
        (images * (4 * network.features() + 16 * network.classes)) as u64
    }

    /// Bytes of the buffers of one thread in an evaluation.
    #[must_use]
    pub(crate) fn evaluation_bytes(network: &ConvNextV2Config) -> u64 {
        space_bytes(network, TILE)
    }

    /// Bytes of the buffers of one thread in a gradient.
    #[must_use]
    pub fn gradient_bytes(network: &ConvNextV2Config) -> u64 {
        lane_bytes(network, TILE)
    }

    fn evaluate(&self, weights: &[f32], kernels: &mut Kernels, sums: &mut Vec<Divergence>) -> Cost {
        kernels.set(&self.network, &self.places, weights);
        let pass = Network { config: &self.network, places: &self.places, weights, kernels };
        let tile_sum = |tile: &Tile, space: &mut Space| {
            let logits = pass.logits(&tile.patches, space, None);
            tile.kept.divergence(logits, pass.head_bias(), tile.kept.positions())
        };
        let total = sum_tiles(&self.tiles, sums, &self.spaces, || take(&self.spaces), tile_sum);
        mean_cost(&total, (self.positions, self.network.classes), self.relative_noise)
    }
}

impl Center for ImageKl {
    fn dimension(&self) -> usize {
        self.moving.dimension()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        self.moving.fill(range, out);
    }
}

impl Objective for ImageKl {
    fn cost(&self, direction: &Direction, point: RayPoint) -> Result<Cost, ObjectiveError> {
        let mut workspace = take(&self.workspaces);
        let Workspace { weights, kernels, sums, .. } = &mut workspace;
        self.moving.prepare(weights);
        self.moving.write_point(direction, point, weights);
        let cost = self.evaluate(weights, kernels, sums);
        give_back(&self.workspaces, workspace);
        Ok(cost)
    }
}

#[cfg(test)]
pub(crate) mod tests;
