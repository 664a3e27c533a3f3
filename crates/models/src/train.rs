//! Training of classifiers: cross-entropy with an L2 penalty, AdamW, a cosine schedule, all reproducible from one seed.
//!
//! The same [`TrainSpec`] gives the same bits on any number of threads: candle's threads only share out whole entries of a product, and
//! everything else here is sequential.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use basin_volume_data::shuffle::permutation;
use basin_volume_data::{DataError, Dataset, Split, digits};
use candle_core::{D, Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::arch::{Architecture, ArchitectureError, MlpConfig};
use crate::checkpoint::{self, Checkpoint, CheckpointError, Draft, Moments, TrainingRecord};
use crate::parameters::{ParameterLayout, Parameters};

mod adam;

/// Rows per forward pass when a whole dataset is evaluated.
const EVALUATION_ROWS: usize = 256;

/// Everything that decides a training run. Plain data: every field can be set by a flag, and the record of the run is made from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSpec {
    /// Units of each hidden layer.
    pub hidden_width: usize,
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
            hidden_width: 512,
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

/// Why a training run ended without a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A setting is out of range.
    #[error("the training setting `{name}` is {value}: expected {expected}")]
    Setting {
        /// The field of [`TrainSpec`].
        name: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// The network's settings are impossible.
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
    /// The data cannot be split as asked.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The data have no labels, or train and test rows differ in width.
    #[error("the dataset {dataset} cannot be trained on: {problem}")]
    Unusable {
        /// Name of the dataset.
        dataset: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The observer asked to stop. Nothing was left behind.
    #[error("training was interrupted at step {step} of {total}; nothing was saved")]
    Interrupted {
        /// Steps done.
        step: usize,
        /// Steps of the whole run.
        total: usize,
    },
    /// The loss is no longer a number.
    #[error("the loss became {loss} at step {step} of {total}: use a smaller learning rate")]
    Diverged {
        /// The first bad step.
        step: usize,
        /// Steps of the whole run.
        total: usize,
        /// The loss there.
        loss: f64,
    },
    /// The checkpoint could not be written or read back.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// candle failed.
    #[error("a tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// Watches a training run and may stop it.
pub trait Observer {
    /// Called after every step with the mean cross-entropy of its batch (nats, before the update).
    fn step(&mut self, step: usize, total: usize, loss: f64) {
        let _ = (step, total, loss);
    }

    /// Asked before every step; true ends the run with [`TrainError::Interrupted`].
    fn interrupted(&self) -> bool {
        false
    }
}

/// An observer that neither looks nor stops.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {}

impl TrainSpec {
    /// Refuses settings that cannot be meant.
    ///
    /// # Errors
    /// Names the first field out of range.
    pub fn check(&self) -> Result<(), TrainError> {
        let fault = |name, value: String, expected| Err(TrainError::Setting { name, value, expected });
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let nonnegative = |value: f64| value.is_finite() && value >= 0.0;
        if self.hidden_width == 0 {
            return fault("hidden_width", "0".to_owned(), "at least 1");
        }
        if self.epochs == 0 {
            return fault("epochs", "0".to_owned(), "at least 1");
        }
        if self.batch_size == 0 || self.batch_size > self.train_size {
            return fault("batch_size", self.batch_size.to_string(), "between 1 and the number of training rows");
        }
        if !positive(self.learning_rate) {
            return fault("learning_rate", self.learning_rate.to_string(), "a finite number above 0");
        }
        if !nonnegative(self.l2) {
            return fault("l2", self.l2.to_string(), "a finite number, 0 or more");
        }
        if !nonnegative(self.weight_decay) {
            return fault("weight_decay", self.weight_decay.to_string(), "a finite number, 0 or more");
        }
        if !positive(self.epsilon) {
            return fault("epsilon", self.epsilon.to_string(), "a finite number above 0");
        }
        if let Some(beta) = self.betas.iter().find(|beta| !(0.0..1.0).contains(*beta)) {
            return fault("betas", beta.to_string(), "0 or more and below 1");
        }
        Ok(())
    }

    /// Optimizer steps of the whole run.
    #[must_use]
    pub fn total_steps(&self) -> usize {
        self.epochs * self.train_size.div_ceil(self.batch_size)
    }

    /// Learning rate of step `step` (counted from 0): `learning_rate/2 (1 + cos(pi step / total))`.
    #[must_use]
    pub fn rate(&self, step: usize) -> f64 {
        let phase = step as f64 / self.total_steps() as f64;
        self.learning_rate / 2.0 * (1.0 + (std::f64::consts::PI * phase).cos())
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
    let mut run = Run::new(spec, split)?;
    let mut curve =
        fs::File::create(draft.path().join(checkpoint::CURVE)).map(std::io::BufWriter::new).map_err(|source| io(out, source))?;
    let total = spec.total_steps();
    if spec.save_steps {
        run.save(&draft.path().join("step-0"))?;
    }
    let mut epoch_order = Vec::new();
    let batches = spec.train_size.div_ceil(spec.batch_size);
    for step in 0..total {
        if observer.interrupted() {
            return Err(TrainError::Interrupted { step, total });
        }
        if step % batches == 0 {
            // Stream 0 of the permutations is the split.
            epoch_order = permutation(spec.seed, 1 + (step / batches) as u64, spec.train_size);
        }
        let start = step % batches * spec.batch_size;
        let rows = &epoch_order[start..(start + spec.batch_size).min(spec.train_size)];
        let loss = run.step(rows)?;
        if !loss.is_finite() {
            return Err(TrainError::Diverged { step, total, loss });
        }
        let line = serde_json::json!({"step": step + 1, "epoch": step / batches + 1, "learning_rate": spec.rate(step), "loss": loss});
        writeln!(curve, "{line}").map_err(|source| io(out, source))?;
        if spec.save_steps && (step + 1).is_power_of_two() {
            run.save(&draft.path().join(format!("step-{}", step + 1)))?;
        }
        observer.step(step + 1, total, loss);
    }
    curve.into_inner().map_err(|error| io(out, error.into_error()))?;
    run.write(draft.path())?;
    draft.publish()?;
    Ok(Checkpoint::load(out)?)
}

fn io(path: &Path, source: std::io::Error) -> TrainError {
    CheckpointError::Io { path: PathBuf::from(path), source }.into()
}

/// The state of one training run.
struct Run<'a> {
    spec: &'a TrainSpec,
    split: &'a Split,
    network: MlpConfig,
    layout: ParameterLayout,
    weights: Vec<f32>,
    gradient: Vec<f32>,
    moments: Moments,
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
        let network = MlpConfig::new(split.train.features(), spec.hidden_width, spec.depth, (largest + 1).max(2))?;
        let layout = network.layout();
        let dimension = layout.dimension();
        let weights = network.initial_parameters(spec.seed).values().to_vec();
        let moments = Moments { first: vec![0.0; dimension], second: vec![0.0; dimension], step: 0 };
        Ok(Self { spec, split, network, layout, weights, gradient: vec![0.0; dimension], moments })
    }

    /// One step on the given training rows; returns the mean cross-entropy before the update.
    fn step(&mut self, rows: &[usize]) -> Result<f64, TrainError> {
        let loss = loss_and_gradient(&self.network, &self.layout, &self.weights, &self.split.train.select(rows)?, &mut self.gradient)?;
        let rate = self.spec.rate(self.moments.step as usize);
        adam::update(self.spec, rate, &mut self.weights, &self.gradient, &mut self.moments);
        Ok(loss)
    }

    fn write(&self, folder: &Path) -> Result<(), TrainError> {
        let (train_loss, train_accuracy) = evaluate(&self.network, &self.layout, &self.weights, &self.split.train)?;
        let (test_loss, test_accuracy) = evaluate(&self.network, &self.layout, &self.weights, &self.split.test)?;
        let spec = self.spec;
        let record = TrainingRecord {
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
            step: self.moments.step as usize,
            total_steps: spec.total_steps(),
            train_accuracy,
            test_accuracy,
            train_loss,
            test_loss,
        };
        let parameters = Parameters::new(self.layout.clone(), self.weights.clone());
        Ok(checkpoint::write_files(folder, &self.network, &parameters, &self.moments, &record)?)
    }

    fn save(&self, folder: &Path) -> Result<(), TrainError> {
        fs::create_dir(folder).map_err(|source| io(folder, source))?;
        self.write(folder)
    }
}

/// The tensors of a flat vector, on the CPU.
fn tensors(layout: &ParameterLayout, weights: &[f32]) -> candle_core::Result<Vec<Tensor>> {
    layout.unflatten(weights).map(|(parameter, values)| Tensor::from_slice(values, parameter.shape.as_slice(), &Device::Cpu)).collect()
}

/// Log-probability of each row's label, `[rows, 1]`. Composed of differentiable operations: candle's fused log-softmax has no gradient.
fn label_log_probabilities(logits: &Tensor, labels: &[u32]) -> candle_core::Result<Tensor> {
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
    let log_probabilities = shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)?;
    log_probabilities.gather(&Tensor::from_slice(labels, (labels.len(), 1), &Device::Cpu)?, 1)
}

/// Mean cross-entropy over all rows of `data` in nats; its gradient goes to `gradient`, flat in the layout's order.
fn loss_and_gradient(
    network: &MlpConfig,
    layout: &ParameterLayout,
    weights: &[f32],
    data: &Dataset,
    gradient: &mut [f32],
) -> Result<f64, TrainError> {
    let variables: Vec<Var> = tensors(layout, weights)?.iter().map(Var::from_tensor).collect::<Result<_, _>>()?;
    let parameters: Vec<Tensor> = variables.iter().map(|variable| variable.as_tensor().clone()).collect();
    let inputs = Tensor::from_slice(data.inputs(), (data.rows(), data.features()), &Device::Cpu)?;
    let logits = network.forward(&parameters, &inputs)?;
    let loss = label_log_probabilities(&logits, data.labels().unwrap_or_default())?.mean_all()?.neg()?;
    let gradients = loss.backward()?;
    for (parameter, variable) in layout.parameters().iter().zip(&variables) {
        let tensor =
            gradients.get(variable).ok_or_else(|| candle_core::Error::Msg(format!("no gradient reached the tensor {}", parameter.name)))?;
        gradient[parameter.range()].copy_from_slice(&tensor.flatten_all()?.to_vec1::<f32>()?);
    }
    Ok(f64::from(loss.to_scalar::<f32>()?))
}

/// Mean cross-entropy in nats, and the share of rows whose largest logit is the label's.
fn evaluate(network: &MlpConfig, layout: &ParameterLayout, weights: &[f32], data: &Dataset) -> Result<(f64, f64), TrainError> {
    let parameters = tensors(layout, weights)?;
    let labels = data.labels().unwrap_or_default();
    let (mut loss, mut correct) = (0.0, 0usize);
    for (inputs, labels) in data.inputs().chunks(EVALUATION_ROWS * data.features()).zip(labels.chunks(EVALUATION_ROWS)) {
        let inputs = Tensor::from_slice(inputs, (labels.len(), data.features()), &Device::Cpu)?;
        let logits = network.forward(&parameters, &inputs)?;
        let log_probabilities = label_log_probabilities(&logits, labels)?.flatten_all()?.to_vec1::<f32>()?;
        loss -= log_probabilities.iter().map(|&value| f64::from(value)).sum::<f64>();
        let predicted = logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
        correct += predicted.iter().zip(labels).filter(|(predicted, label)| predicted == label).count();
    }
    let rows = data.rows() as f64;
    Ok((loss / rows, correct as f64 / rows))
}

#[cfg(test)]
mod tests;
