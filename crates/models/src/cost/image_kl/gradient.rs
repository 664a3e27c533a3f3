//! The gradient of the cost of an image classifier.

use std::ops::Range;

use basin_volume::objective::{Cost, Differentiable, ObjectiveError};

use super::{ImageKl, Workspace};
use crate::arch::convnextv2::Network;
use crate::arch::convnextv2::lanes::{self, TILE, Tiles};
use crate::cost::draw::uniforms;
use crate::cost::pool::{give_back, take};

/// What the outputs are compared with.
#[derive(Clone, Copy)]
enum Target<'a> {
    /// The center's outputs.
    Center,
    /// Labels drawn with one number in `[0, 1)` for every image.
    Draws(&'a [f64]),
}

/// Some images of the cost.
struct Images<'a> {
    cost: &'a ImageKl,
    images: Range<usize>,
    target: Target<'a>,
}

impl Images<'_> {
    /// Which of the cost's tiles, and which of its images are meant.
    fn place(&self, tile: usize) -> (usize, Range<usize>) {
        let index = self.images.start / TILE + tile;
        let start = index * TILE;
        (index, self.images.start.max(start) - start..self.images.end.min(start + TILE) - start)
    }
}

impl Tiles for Images<'_> {
    fn count(&self) -> usize {
        if self.images.is_empty() { 0 } else { self.images.end.div_ceil(TILE) - self.images.start / TILE }
    }

    fn patches<'s>(&'s self, tile: usize, _space: &'s mut Vec<f32>) -> &'s [f32] {
        let (index, inside) = self.place(tile);
        let features = self.cost.network.features();
        &self.cost.tiles[index].patches[inside.start * features..inside.end * features]
    }

    fn slopes(&self, tile: usize, logits: &mut [f32], bias: &[f32]) -> f64 {
        let (index, inside) = self.place(tile);
        let kept = &self.cost.tiles[index].kept;
        let (own, whole) = (inside.len(), kept.positions());
        // The images meant, at their columns in the tile.
        let mut spread = vec![0.0f32; bias.len() * whole];
        for (spread, logits) in spread.chunks_exact_mut(whole).zip(logits.chunks_exact(own)) {
            spread[inside.clone()].copy_from_slice(logits);
        }
        let scale = 1.0 / self.cost.positions as f64;
        let nats = match self.target {
            Target::Center => kept.divergence_slopes(&mut spread, bias, whole, inside.clone(), scale),
            Target::Draws(draws) => {
                let first = index * TILE + inside.start - self.images.start;
                kept.drawn_slopes(&mut spread, bias, whole, inside.clone(), &draws[first..first + own], scale)
            }
        };
        for (spread, logits) in spread.chunks_exact(whole).zip(logits.chunks_exact_mut(own)) {
            logits.copy_from_slice(&spread[inside.clone()]);
        }
        nats
    }
}

impl ImageKl {
    fn differentiate(&self, weights: &[f32], images: Range<usize>, target: Target<'_>, gradient: &mut [f32]) -> f64 {
        let dimension = self.moving.dimension();
        assert!(weights.len() == dimension && gradient.len() == dimension, "as many weights and gradients as move");
        assert!(images.start <= images.end && images.end <= self.positions, "the images must be among those of the data");
        let mut workspace = take(&self.workspaces);
        let Workspace { weights: all, full, kernels, .. } = &mut workspace;
        let tiles = Images { cost: self, images, target };
        let nats = if self.moving.is_whole() {
            kernels.set(&self.network, &self.places, weights);
            let network = Network { config: &self.network, places: &self.places, weights, kernels };
            lanes::gradient(network, &tiles, &self.lanes, gradient)
        } else {
            self.moving.prepare(all);
            self.moving.scatter(weights, all);
            full.resize(all.len(), 0.0);
            kernels.set(&self.network, &self.places, all);
            let network = Network { config: &self.network, places: &self.places, weights: all, kernels };
            let nats = lanes::gradient(network, &tiles, &self.lanes, full);
            self.moving.gather(full, gradient);
            nats
        };
        give_back(&self.workspaces, workspace);
        nats / self.positions as f64
    }
}

/// Parts are images. Products and sums over positions are `f32`, those over tiles in their order; nats are `f64`.
impl Differentiable for ImageKl {
    fn parts(&self) -> usize {
        self.positions
    }

    fn gradient(&self, weights: &[f32], parts: Range<usize>, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        Ok(self.differentiate(weights, parts, Target::Center, gradient))
    }

    fn cost_at(&self, weights: &[f32]) -> Result<Cost, ObjectiveError> {
        if self.moving.is_whole() {
            return Ok(self.cost_of_weights(weights));
        }
        assert_eq!(weights.len(), self.moving.dimension(), "as many weights as move");
        let mut workspace = take(&self.workspaces);
        let Workspace { weights: all, kernels, sums, .. } = &mut workspace;
        self.moving.prepare(all);
        self.moving.scatter(weights, all);
        let cost = self.evaluate(all, kernels, sums);
        give_back(&self.workspaces, workspace);
        Ok(cost)
    }

    fn likelihood_gradient(&self, weights: &[f32], parts: Range<usize>, seed: u64, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        let draws = uniforms(seed, parts.clone());
        Ok(self.differentiate(weights, parts, Target::Draws(&draws), gradient))
    }
}
