//! Training of ConvNeXt V2 on images: AdamW, warm-up and cosine, RandAugment, flips and padded crops, stochastic depth, and poison.

mod augment;
mod batch;

use std::path::Path;

use basin_volume_data::cifar::{CLASSES, COLORS, Cifar, Part, SIDE};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use self::batch::{Batch, Source};
use super::adam::{Adam, Decay};
use super::driver::{Job, Recipe, State, check, drive};
use super::{Observer, TrainError, check_numbers, schedule, setting};
use crate::arch::convnextv2::lanes::{self, Lanes, TILE};
use crate::arch::convnextv2::{Kernels, Network, Places, Space, is_norm};
use crate::arch::{Architecture, ConvNextV2Config};
use crate::checkpoint::{self, Checkpoint, ImageTraining, RandAugment, TrainingRecord};

/// Images of every part on which a checkpoint's losses and accuracies are measured.
const MEASURED: usize = 1024;

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
            if !(1..=MOST_OPERATIONS).contains(&settings.operations) || settings.magnitude > augment::LARGEST_MAGNITUDE {
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

/// Trains a network on the part `clean` of a set of images, with a share of each batch from the part `poison` if that is asked for, and saves it
/// as the checkpoint folder `out`.
///
/// A folder that an interrupted run of the same settings on the same images left is taken up where it ended: weights, moments and curve come
/// out as if nothing had happened, bit for bit. Meanwhile the folder has the checkpoints so far, `recipe.json`, and `resume`, the state at the
/// last interrupt or thousandth step.
///
/// # Errors
/// When a setting is out of range, a part is empty, the folder holds something else or cannot be written, the loss diverges, or the observer
/// interrupts.
pub fn train_convnext(spec: &ConvNextSpec, data: &Cifar, out: &Path, observer: &mut dyn Observer) -> Result<Checkpoint, TrainError> {
    spec.check()?;
    check(out)?;
    let mut run = Run::new(spec, data)?;
    drive(&mut run, out, observer)?;
    Ok(Checkpoint::load(out)?)
}

/// The state of one training run.
struct Run<'a> {
    spec: &'a ConvNextSpec,
    data: &'a Cifar,
    network: ConvNextV2Config,
    places: Places,
    state: State,
    groups: Vec<(usize, Decay)>,
    clean: Source,
    poison: Source,
    kernels: Kernels,
    lanes: Lanes,
    hash: String,
}

impl<'a> Run<'a> {
    fn new(spec: &'a ConvNextSpec, data: &'a Cifar) -> Result<Self, TrainError> {
        let network = spec.network();
        let layout = network.layout();
        let clean = Source::new(data.rows(Part::Clean, spec.split_seed)?);
        let poison = Source::new(if spec.poisoned() > 0 { data.rows(Part::Poison, spec.split_seed)? } else { Vec::new() });
        let decays = |name: &str| name.ends_with("weight") && !is_norm(name) && !name.contains(".grn.");
        let decay = |name: &str| Decay { l2: 0.0, decoupled: if decays(name) { spec.weight_decay } else { 0.0 } };
        let groups = layout.parameters().iter().map(|parameter| (parameter.range().end, decay(&parameter.name))).collect();
        let mut hasher = Sha256::new();
        for images in [&data.train, &data.test] {
            hasher.update((images.count() as u64).to_le_bytes());
            hasher.update(&images.pixels);
            hasher.update(&images.labels);
        }
        Ok(Self {
            spec,
            data,
            places: Places::new(&network),
            state: State::new(layout, network.initial_parameters(spec.seed).values().into_owned()),
            kernels: Kernels::default(),
            lanes: Lanes::default(),
            hash: basin_volume_data::hexadecimal(&hasher.finalize()),
            network,
            groups,
            clean,
            poison,
        })
    }

    /// Mean cross-entropy in nats and share of right answers on some images as they are.
    fn evaluate(&mut self, part: Part) -> Result<(f64, f64), TrainError> {
        let count = self.data.rows(part, self.spec.split_seed)?.len().min(MEASURED);
        let data = self.data.part(part, self.spec.split_seed, Some(count))?;
        self.kernels.set(&self.network, &self.places, &self.state.weights);
        let pass = Network { config: &self.network, places: &self.places, weights: &self.state.weights, kernels: &self.kernels };
        let labels = data.labels().unwrap_or_default();
        let tile = |space: &mut Space, (images, labels): (&[f32], &[u32])| {
            let logits = pass.logits(&self.network.patches(images), space, None);
            let mut sum = (0.0, 0usize);
            for (image, &label) in labels.iter().enumerate() {
                let values = batch::values(logits, pass.head_bias(), labels.len(), image);
                let (log_p, best) = batch::label_log_probability(&values, label as usize);
                sum.0 -= log_p;
                sum.1 += usize::from(best == label as usize);
            }
            sum
        };
        let sums: Vec<(f64, usize)> =
            data.inputs().par_chunks(TILE * self.network.features()).zip(labels.par_chunks(TILE)).map_init(Space::default, tile).collect();
        let (loss, right) = sums.into_iter().fold((0.0, 0), |sum, tile| (sum.0 + tile.0, sum.1 + tile.1));
        Ok((loss / count as f64, right as f64 / count as f64))
    }

    fn record(&mut self) -> Result<ImageTraining, TrainError> {
        let (train_loss, train_accuracy) = self.evaluate(Part::Clean)?;
        let (test_loss, test_accuracy) = self.evaluate(Part::Val)?;
        let poisoned = self.spec.poisoned() > 0;
        let (poison_loss, poison_accuracy) =
            if poisoned { self.evaluate(Part::Poison).map(|(l, a)| (Some(l), Some(a)))? } else { (None, None) };
        let spec = self.spec;
        Ok(ImageTraining {
            images_sha256: self.hash.clone(),
            train_size: self.clean.count(),
            poison_size: self.poison.count(),
            seed: spec.seed,
            split_seed: spec.split_seed,
            batch_size: spec.batch_size,
            learning_rate: spec.learning_rate,
            warmup_steps: spec.warmup_steps,
            weight_decay: spec.weight_decay,
            betas: spec.betas,
            epsilon: spec.epsilon,
            augment: spec.augment,
            rand_augment: spec.rand_augment,
            poison: spec.poison,
            poison_weight: spec.poison_weight,
            step: self.state.step(),
            total_steps: spec.steps,
            train_loss,
            train_accuracy,
            test_loss,
            test_accuracy,
            poison_loss,
            poison_accuracy,
        })
    }
}

impl Job for Run<'_> {
    fn total(&self) -> usize {
        self.spec.steps
    }

    fn saves_steps(&self) -> bool {
        self.spec.save_steps
    }

    fn recipe(&self) -> Recipe {
        Recipe::new(self.spec, ("images", self.hash.clone()))
    }

    fn state(&mut self) -> &mut State {
        &mut self.state
    }

    fn step(&mut self, step: usize) -> Result<(f64, Map<String, Value>), TrainError> {
        let spec = self.spec;
        let batch = Batch::new(spec, &self.network, &self.data.train, (&self.clean, &self.poison), step);
        self.kernels.set(&self.network, &self.places, &self.state.weights);
        let pass = Network { config: &self.network, places: &self.places, weights: &self.state.weights, kernels: &self.kernels };
        let loss = lanes::gradient(pass, &batch, &self.lanes, &mut self.state.gradient);
        let rate = spec.rate(step);
        let adam = Adam { betas: spec.betas, epsilon: spec.epsilon, rate };
        self.state.update(adam, &self.groups);
        let rest = [("learning_rate", json!(rate))];
        Ok((loss, rest.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()))
    }

    fn write(&mut self, folder: &Path) -> Result<(), TrainError> {
        let record = TrainingRecord::Images(self.record()?);
        Ok(checkpoint::write_files(folder, &self.network, &self.state.parameters(), &self.state.moments, &record)?)
    }
}

#[cfg(test)]
mod tests;
