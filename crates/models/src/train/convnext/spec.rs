//! What decides the training of a ConvNeXt V2.

use basin_volume_data::cifar::{CLASSES, COLORS, SIDE};
use serde::{Deserialize, Serialize};

use super::super::{TrainError, check_numbers, schedule, setting};
use super::augment::LARGEST_MAGNITUDE;
use crate::arch::convnextv2::lanes::{self, TILE};
use crate::arch::{Architecture, ConvNextV2Config};
use crate::checkpoint::RandAugment;

/// Operations of RandAugment per image beyond which nothing is left of it.
const MOST_OPERATIONS: usize = 100;

/// Everything that decides the training of a ConvNeXt V2 but the images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConvNextSpec {
    /// Blocks of every stage.
    pub depths: Vec<usize>,
    /// Channels of every stage.
    pub widths: Vec<usize>,
    /// Side of the patches that become a position of the first stage.
    pub patch_size: usize,
    /// Optimizer steps.
    pub steps: usize,
    /// Images per step.
    pub batch_size: usize,
    /// Largest learning rate.
    pub learning_rate: f64,
    /// Steps of the straight rise to it, at most half of all; a cosine to zero follows.
    pub warmup_steps: usize,
    /// Decoupled weight decay of AdamW, of matrices and convolutions only: norms, response normalization and biases have none.
    pub weight_decay: f64,
    /// Decay rates of Adam's two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Chance that the last block is passed over for an image; it rises to that linearly from 0 for the first.
    pub drop_path: f64,
    /// Standard deviation of the initial matrices and convolutions. `transformers`' value suits wide networks; narrow ones need about the
    /// root of one over the width, or nothing reaches the output for a long time.
    pub initializer_range: f64,
    /// Images are flipped at random, and cut at random out of themselves with a border of zeros of four pixels.
    pub augment: bool,
    /// Before that, the operations of RandAugment; goes only with `augment`.
    pub rand_augment: Option<RandAugment>,
    /// Share of the images of every step that come from the part `poison`, with the loss `-log(1 - p)` of the probability `p` of their label.
    pub poison: f64,
    /// Factor of that loss.
    pub poison_weight: f64,
    /// Seed of the initial weights, of the batches and of everything drawn at random for them.
    pub seed: u64,
    /// Seed of the split into the parts `clean` and `poison`.
    pub split_seed: u64,
    /// Save `step-<N>` checkpoints at the start and after 1, 2, 4, 8, ... steps.
    pub save_steps: bool,
}

impl Default for ConvNextSpec {
    /// The reference's recipe, without its RandAugment.
    fn default() -> Self {
        Self {
            depths: vec![2, 2, 6, 2],
            widths: vec![40, 80, 160, 320],
            patch_size: 1,
            steps: 1 << 16,
            batch_size: 128,
            learning_rate: 1e-3,
            warmup_steps: 2000,
            weight_decay: 0.05,
            betas: [0.9, 0.95],
            epsilon: 1e-8,
            drop_path: 0.1,
            initializer_range: 0.02,
            augment: true,
            rand_augment: None,
            poison: 0.0,
            poison_weight: 1.0,
            seed: 0,
            split_seed: 0,
            save_steps: true,
        }
    }
}

impl ConvNextSpec {
    /// Refuses settings that cannot be meant.
    ///
    /// # Errors
    /// Names the first field out of range.
    pub fn check(&self) -> Result<(), TrainError> {
        for (name, size) in [("steps", self.steps), ("batch_size", self.batch_size)] {
            if size == 0 || size > 1 << 32 {
                return setting(name, size, "from 1 to 2^32");
            }
        }
        if !(0.0..1.0).contains(&self.poison) {
            return setting("poison", self.poison, "a share of 0 or more and below 1");
        }
        if self.poisoned() == self.batch_size {
            return setting("poison", self.poison, "a share that leaves at least one clean image in every batch");
        }
        if let Some(settings) = self.rand_augment {
            if !(1..=MOST_OPERATIONS).contains(&settings.operations) || settings.magnitude > LARGEST_MAGNITUDE {
                return setting("rand_augment", settings, "from 1 to 100 operations per image, and a magnitude from 0 to 30");
            }
            if !self.augment {
                return setting("rand_augment", settings, "`augment` beside it");
            }
        }
        let numbers = [
            ("learning_rate", self.learning_rate, true),
            ("weight_decay", self.weight_decay, false),
            ("epsilon", self.epsilon, true),
            ("initializer_range", self.initializer_range, true),
            ("poison_weight", self.poison_weight, false),
        ];
        check_numbers(&numbers, self.betas)?;
        Ok(self.network().check()?)
    }

    /// The network.
    #[must_use]
    pub fn network(&self) -> ConvNextV2Config {
        ConvNextV2Config {
            num_channels: COLORS,
            image_size: SIDE,
            patch_size: self.patch_size,
            hidden_sizes: self.widths.clone(),
            depths: self.depths.clone(),
            classes: CLASSES,
            drop_path_rate: self.drop_path,
            layer_norm_eps: 1e-12,
            initializer_range: self.initializer_range,
        }
    }

    /// Poisoned images of a step.
    #[must_use]
    pub fn poisoned(&self) -> usize {
        (self.poison * self.batch_size as f64).round() as usize
    }

    /// Learning rate of a step, counted from 0.
    #[must_use]
    pub fn rate(&self, step: usize) -> f64 {
        schedule::cosine(self.learning_rate, self.warmup_steps.min(self.steps / 2), step, self.steps)
    }

    /// Bytes that training takes at most, beside the images: weights, gradient and moments, and the buffers of every thread.
    #[must_use]
    pub fn bytes(&self, threads: usize) -> u64 {
        let network = self.network();
        let vectors = 6 * 4 * network.layout().dimension() as u64;
        let parts = lanes::parts(self.batch_size.div_ceil(TILE));
        vectors + threads.min(parts) as u64 * lanes::lane_bytes(&network, TILE)
    }
}
