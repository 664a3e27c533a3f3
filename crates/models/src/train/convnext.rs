//! Training of ConvNeXt V2 on images: AdamW, warm-up and cosine, RandAugment, flips and padded crops, stochastic depth, and poison.

mod augment;
mod batch;
mod spec;

use std::path::Path;

use basin_volume_data::cifar::{Cifar, Part};
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use self::batch::{Batch, Source};
pub use self::spec::ConvNextSpec;
use super::adam::{Adam, Decay};
use super::driver::{Job, Recipe, State, check, drive};
use super::{Observer, TrainError};
use crate::arch::convnextv2::lanes::{self, Lanes, TILE};
use crate::arch::convnextv2::{Kernels, Network, Places, Space, is_norm};
use crate::arch::{Architecture, ConvNextV2Config};
use crate::checkpoint::{self, Checkpoint, ImageTraining, TrainingRecord};
use crate::nn::label::label_log_probability;

/// Images of every part on which a checkpoint's losses and accuracies are measured.
const MEASURED: usize = 1024;

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
                let (log_p, best) = label_log_probability(&values, label as usize);
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
