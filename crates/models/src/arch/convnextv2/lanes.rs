//! Gradients of many images: tile by tile on all threads, with sums that do not depend on their number.

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::backward::Sink;
use super::forward::{Network, Space, Tape};

/// Images that go through all layers together.
pub(crate) const TILE: usize = 8;

/// Most parts that the tiles are cut into; the gradients of the parts are added in order.
const MOST_LANES: usize = 32;

/// Numbers that one task adds.
const CHUNK: usize = 1 << 15;

/// What the gradient of some tiles is made of.
pub(crate) trait Tiles: Sync {
    /// Number of tiles.
    fn count(&self) -> usize;

    /// The images of a tile as patches; `space` is scratch.
    fn patches<'s>(&'s self, tile: usize, space: &'s mut Vec<f32>) -> &'s [f32];

    /// Fills in the factors of the blocks, `[blocks, images]`; none means that all are 1.
    fn factors(&self, tile: usize, factors: &mut Vec<f32>) {
        let _ = tile;
        factors.clear();
    }

    /// Replaces the logits `[classes, images]`, which lack the head's `bias`, by the gradient of the loss; returns the loss, in nats.
    fn slopes(&self, tile: usize, logits: &mut [f32], bias: &[f32]) -> f64;
}

/// Buffers of one part.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    pub(crate) gradient: Vec<f32>,
    pub(crate) space: Space,
    pub(crate) tape: Tape,
    pub(crate) patches: Vec<f32>,
}

/// Buffers that are kept from one gradient to the next.
pub(crate) type Lanes = Mutex<Vec<Lane>>;

fn take(lanes: &Lanes, count: usize) -> Vec<Lane> {
    let mut pool = lanes.lock().unwrap_or_else(PoisonError::into_inner);
    (0..count).map(|_| pool.pop().unwrap_or_default()).collect()
}

fn give_back(lanes: &Lanes, used: Vec<Lane>) {
    lanes.lock().unwrap_or_else(PoisonError::into_inner).extend(used);
}

/// Parts that so many units of work are cut into: a function of their number alone, so that no sum depends on the machine.
pub(crate) fn parts(units: usize) -> usize {
    (units / 2).clamp(1, MOST_LANES)
}

/// The units of one of `parts` parts.
pub(crate) fn part(units: usize, parts: usize, index: usize) -> std::ops::Range<usize> {
    index * units / parts..(index + 1) * units / parts
}

/// `sums += values`, on all threads.
pub(crate) fn add(values: &[f32], sums: &mut [f32]) {
    sums.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK)).for_each(|(sums, values)| {
        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    });
}

/// Writes the gradient of the sum of the tiles' losses to `gradient` and returns the sum.
pub(crate) fn gradient(network: Network<'_>, tiles: &dyn Tiles, lanes: &Lanes, gradient: &mut [f32]) -> f64 {
    gradient.fill(0.0);
    let count = tiles.count();
    let parts = parts(count);
    let run = |index: usize, lane: &mut Lane, gradient: &mut [f32]| -> f64 {
        let Lane { space, tape, patches, .. } = lane;
        let mut nats = 0.0;
        for tile in part(count, parts, index) {
            let patches = tiles.patches(tile, patches);
            tiles.factors(tile, &mut tape.factors);
            let logits = network.logits(patches, space, Some(tape));
            nats += tiles.slopes(tile, logits, network.head_bias());
            network.add_gradient(patches, space, tape, &mut Sink { gradient, watcher: None });
        }
        nats
    };
    if parts == 1 {
        let mut used = take(lanes, 1);
        let nats = run(0, &mut used[0], gradient);
        give_back(lanes, used);
        return nats;
    }
    let mut nats = 0.0;
    let together = rayon::current_num_threads().max(1);
    for first in (0..parts).step_by(together) {
        let mut used = take(lanes, together.min(parts - first));
        let sums: Vec<f64> = used
            .par_iter_mut()
            .enumerate()
            .map(|(index, lane)| {
                let mut own = std::mem::take(&mut lane.gradient);
                own.resize(gradient.len(), 0.0);
                own.fill(0.0);
                let nats = run(first + index, lane, &mut own);
                lane.gradient = own;
                nats
            })
            .collect();
        for (lane, sum) in used.iter().zip(sums) {
            add(&lane.gradient, gradient);
            nats += sum;
        }
        give_back(lanes, used);
    }
    nats
}

/// Bytes of the buffers of one part, for a tile of so many images.
pub(crate) fn lane_bytes(config: &super::ConvNextV2Config, images: usize) -> u64 {
    use crate::arch::Architecture;
    let gradient = config.layout().dimension() as u64;
    4 * (gradient + images as u64 * config.tape_numbers()) + space_bytes(config, images)
}

/// Bytes of the buffers of a forward pass of so many images.
pub(crate) fn space_bytes(config: &super::ConvNextV2Config, images: usize) -> u64 {
    let largest = |stage: usize| (config.side(stage).pow(2) * config.hidden_sizes[stage]) as u64;
    let widest = (0..config.depths.len()).map(largest).max().unwrap_or(0);
    let inner = widest * super::EXPANSION as u64;
    4 * (5 * widest * images as u64 + 2 * inner.max(super::forward::INNER as u64))
}
