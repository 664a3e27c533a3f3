//! Training of classifiers: cross-entropy with an L2 penalty, AdamW, a cosine schedule.

mod pass;

use std::path::Path;

use basin_volume_data::{Dataset, Split, digits};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::adam::{Adam, Decay};
use super::driver::{EpochOrder, Job, Recipe, State, drive};
use super::{Observer, TrainError, check_numbers, schedule, setting};
use crate::arch::{Architecture, MlpConfig};
use crate::checkpoint::{self, Checkpoint, ClassifierTraining, Draft, TrainingRecord};

use pass::{Evaluation, Rows, Space};

/// Everything that decides a training run. Plain data: every field can be set by a flag, and the record of the run is made from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSpec {
    /// Units of each hidden layer.
    pub width: usize,
    /// Number of hidden layers; 0 is softmax regression.
    pub depth: usize,
    /// Seed of the initial weights and of the order of the batches.
    pub seed: u64,
    /// Seed of the split into training and test rows.
    pub split_seed: u64,
    /// Number of training rows.
    pub train_size: usize,
    /// `l2/2 ||w||^2` is added to the loss (through its gradient), so Adam's moments see it.
    pub l2: f64,
    /// Decoupled weight decay of AdamW: each step also multiplies the weights by `1 - rate * weight_decay`.
    pub weight_decay: f64,
    /// First learning rate; it falls along half a cosine to zero over all steps.
    pub learning_rate: f64,
    /// Decay rates of Adam's two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Rows per step; the last batch of an epoch may be smaller.
    pub batch_size: usize,
    /// Passes over the training rows.
    pub epochs: usize,
    /// Also save a `step-<N>` checkpoint at the start and after 1, 2, 4, 8, ... steps.
    pub save_steps: bool,
}

impl Default for TrainSpec {
    /// The reference's digits network, but for the learning rate: its 0.05 kills the network (five seeds of six end at chance).
    fn default() -> Self {
        Self {
            width: 512,
            depth: 5,
            seed: 0,
            split_seed: 0,
            train_size: digits::TRAIN_ROWS,
            l2: 5e-4,
            weight_decay: 0.0,
            learning_rate: 0.005,
            betas: [0.9, 0.999],
            epsilon: 1e-8,
            batch_size: 64,
            epochs: 25,
            save_steps: false,
        }
    }
}

impl TrainSpec {
    /// Refuses settings that cannot be meant.
    ///
    /// # Errors
    /// Names the first field out of range.
    pub fn check(&self) -> Result<(), TrainError> {
        if self.width == 0 {
            return setting("width", 0, "at least 1");
        }
        if self.epochs == 0 {
            return setting("epochs", 0, "at least 1");
        }
        if self.batch_size == 0 || self.batch_size > self.train_size {
            return setting("batch_size", self.batch_size, "between 1 and the number of training rows");
        }
        let numbers = [
            ("learning_rate", self.learning_rate, true),
            ("l2", self.l2, false),
            ("weight_decay", self.weight_decay, false),
            ("epsilon", self.epsilon, true),
        ];
        check_numbers(&numbers, self.betas)
    }

    /// Optimizer steps of the whole run.
    #[must_use]
    pub fn total_steps(&self) -> usize {
        self.epochs * self.train_size.div_ceil(self.batch_size)
    }

    /// Learning rate of step `step` (counted from 0): `learning_rate/2 (1 + cos(pi step / total))`.
    #[must_use]
    pub fn rate(&self, step: usize) -> f64 {
        schedule::cosine(self.learning_rate, 0, step, self.total_steps())
    }
}

/// Trains a network on the embedded digits and saves it as the checkpoint folder `out`, which must not exist.
///
/// # Errors
/// When a setting is out of range, `out` exists or cannot be written, the loss diverges, or the observer interrupts: then nothing is left
/// at `out`.
pub fn train_digits(spec: &TrainSpec, out: &Path, observer: &mut dyn Observer) -> Result<Checkpoint, TrainError> {
    spec.check()?;
    let split = digits::split(spec.split_seed, spec.train_size)?;
    train(spec, &split, out, observer)
}

/// Trains a network on any labelled split and saves it as the checkpoint folder `out`, which must not exist. The split decides the
/// training rows; `spec.train_size` must agree with it.
///
/// # Errors
/// As [`train_digits`], and when the data have no labels.
pub fn train(spec: &TrainSpec, split: &Split, out: &Path, observer: &mut dyn Observer) -> Result<Checkpoint, TrainError> {
    spec.check()?;
    // Before any work: an existing or unwritable folder is refused at once.
    let draft = Draft::new(out)?;
    // A matter of seconds, and several processes may train the same network at once: the folder appears when it is complete.
    drive(&mut Run::new(spec, split)?, draft.path(), observer).map_err(|error| match error {
        TrainError::Stopped { step, total, .. } => TrainError::Interrupted { step, total },
        error => error,
    })?;
    draft.publish()?;
    Ok(Checkpoint::load(out)?)
}

/// The state of one training run.
struct Run<'a> {
    spec: &'a TrainSpec,
    split: &'a Split,
    network: MlpConfig,
    state: State,
    order: EpochOrder,
    space: Space,
}

impl<'a> Run<'a> {
    fn new(spec: &'a TrainSpec, split: &'a Split) -> Result<Self, TrainError> {
        let unusable = |problem: &str| TrainError::Unusable { dataset: split.train.name().to_owned(), problem: problem.to_owned() };
        let labels = |side: &'a Dataset| side.labels().ok_or_else(|| unusable("it has no labels"));
        if split.train.features() != split.test.features() {
            return Err(unusable("training and test rows have different numbers of features"));
        }
        if split.train.rows() != spec.train_size {
            return Err(unusable("its number of training rows differs from the setting `train_size`"));
        }
        let largest = labels(&split.train)?.iter().chain(labels(&split.test)?).max().map_or(0, |&label| label as usize);
        if largest > 1 << 20 {
            return Err(unusable("a label is above 2^20: labels are class numbers from 0"));
        }
        let network = MlpConfig::new(split.train.features(), spec.width, spec.depth, (largest + 1).max(2))?;
        let weights = network.initial_parameters(spec.seed).values().into_owned();
        let state = State::new(network.layout(), weights);
        Ok(Self { spec, split, network, state, order: EpochOrder::default(), space: Space::default() })
    }
}

impl Job for Run<'_> {
    fn total(&self) -> usize {
        self.spec.total_steps()
    }

    fn saves_steps(&self) -> bool {
        self.spec.save_steps
    }

    fn recipe(&self) -> Recipe {
        Recipe::new(self.spec, ("rows", self.split.train.hash()))
    }

    fn state(&mut self) -> &mut State {
        &mut self.state
    }

    fn step(&mut self, step: usize) -> Result<(f64, Map<String, Value>), TrainError> {
        let spec = self.spec;
        let batches = spec.train_size.div_ceil(spec.batch_size);
        let epoch = step / batches;
        let start = step % batches * spec.batch_size;
        let rows = &self.order.of(spec.seed, epoch, spec.train_size)[start..(start + spec.batch_size).min(spec.train_size)];
        let State { weights, gradient, .. } = &mut self.state;
        let batch = self.split.train.select(rows)?;
        let loss = self.space.loss_and_gradient(&self.network, weights, Rows::of(&batch), gradient);
        let rate = spec.rate(step);
        let groups = [(weights.len(), Decay { l2: spec.l2, decoupled: spec.weight_decay })];
        let adam = Adam { betas: spec.betas, epsilon: spec.epsilon, rate };
        self.state.update(adam, &groups);
        let rest = [("epoch", json!(epoch + 1)), ("learning_rate", json!(rate))];
        Ok((loss, rest.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()))
    }

    fn write(&mut self, folder: &Path) -> Result<(), TrainError> {
        let mut evaluate = |data| self.space.evaluate(&self.network, &self.state.weights, Rows::of(data));
        let Evaluation { loss: train_loss, accuracy: train_accuracy } = evaluate(&self.split.train);
        let Evaluation { loss: test_loss, accuracy: test_accuracy } = evaluate(&self.split.test);
        let spec = self.spec;
        let record = ClassifierTraining {
            dataset: self.split.train.name().to_owned(),
            dataset_hash: self.split.train.hash(),
            seed: spec.seed,
            split_seed: spec.split_seed,
            train_size: spec.train_size,
            l2: spec.l2,
            weight_decay: spec.weight_decay,
            learning_rate: spec.learning_rate,
            betas: spec.betas,
            epsilon: spec.epsilon,
            epochs: spec.epochs,
            batch_size: spec.batch_size,
            step: self.state.step(),
            total_steps: spec.total_steps(),
            train_accuracy,
            test_accuracy,
            train_loss,
            test_loss,
        };
        let record = TrainingRecord::Classifier(record);
        Ok(checkpoint::write_files(folder, &self.network, &self.state.parameters(), &self.state.moments, &record)?)
    }
}

#[cfg(test)]
mod tests;
