//! What every training run has in common: steps, their curve, the saved steps, the interrupt, and a folder that a run is taken up from.

mod folder;

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

use basin_volume_data::shuffle::permutation;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::adam::{Adam, Decay};
use super::{Observer, TrainError, io};
use crate::checkpoint::{CURVE, Moments};
use crate::parameters::{ParameterLayout, Parameters};

pub(super) use self::folder::check;

/// What a run changes, and its checkpoints keep.
pub(super) struct State {
    pub(super) layout: ParameterLayout,
    pub(super) weights: Vec<f32>,
    pub(super) gradient: Vec<f32>,
    pub(super) moments: Moments,
}

impl State {
    pub(super) fn new(layout: ParameterLayout, weights: Vec<f32>) -> Self {
        let dimension = layout.dimension();
        let moments = Moments { first: vec![0.0; dimension], second: vec![0.0; dimension], step: 0 };
        Self { layout, weights, gradient: vec![0.0; dimension], moments }
    }

    /// The weights as a checkpoint has them.
    pub(super) fn parameters(&self) -> Parameters {
        Parameters::new(self.layout.clone(), self.weights.clone())
    }

    /// One step of AdamW by the gradient that is there ([`Adam::update`]).
    pub(super) fn update(&mut self, adam: Adam, groups: &[(usize, Decay)]) {
        adam.update(groups, &mut self.weights, &self.gradient, &mut self.moments);
    }

    /// Steps done.
    pub(super) fn step(&self) -> usize {
        self.moments.step as usize
    }
}

/// The order of the training examples in the running epoch.
#[derive(Debug, Default)]
pub(super) struct EpochOrder(Option<(usize, Vec<usize>)>);

impl EpochOrder {
    /// That of `count` examples in an epoch: drawn when an epoch is first asked for, so that a run can be taken up inside it.
    pub(super) fn of(&mut self, seed: u64, epoch: usize, count: usize) -> &[usize] {
        if self.0.as_ref().is_none_or(|(running, _)| *running != epoch) {
            // Stream 0 of the permutations is the split.
            self.0 = Some((epoch, permutation(seed, 1 + epoch as u64, count)));
        }
        self.0.as_ref().map_or(&[], |(_, order)| order)
    }
}

/// What a folder must have been begun with to be taken up.
pub(super) struct Recipe {
    settings: Value,
    /// Settings that a folder begun before they were there went on under.
    defaults: Value,
    /// What the data are, and their SHA-256.
    data: (&'static str, String),
}

impl Recipe {
    pub(super) fn new<S: Serialize + Default>(settings: &S, data: (&'static str, String)) -> Self {
        Self { settings: json!(settings), defaults: json!(S::default()), data }
    }
}

/// A training run, step by step.
pub(super) trait Job {
    /// Steps of the whole run.
    fn total(&self) -> usize;

    /// Whether the start and the steps 1, 2, 4, 8, ... are saved too.
    fn saves_steps(&self) -> bool;

    /// What decides it.
    fn recipe(&self) -> Recipe;

    /// Weights and moments as they are.
    fn state(&mut self) -> &mut State;

    /// One step, counted from 0: the loss before the update, and what else the curve's line should say.
    fn step(&mut self, step: usize) -> Result<(f64, Map<String, Value>), TrainError>;

    /// Writes a checkpoint's files into an existing folder.
    fn write(&mut self, folder: &Path) -> Result<(), TrainError>;
}

/// Runs all steps that the folder lacks. A run that was interrupted or killed is taken up at its last interrupt, saved or thousandth step:
/// weights, moments and curve come out as if nothing had happened, bit for bit.
pub(super) fn drive(job: &mut dyn Job, out: &Path, observer: &mut dyn Observer) -> Result<(), TrainError> {
    let total = job.total();
    let mut step = folder::open(job, out)?;
    let curve_path = out.join(CURVE);
    let fault = |source| io(&curve_path, source);
    let lines = folder::cut_curve(&curve_path, step)?;
    fs::write(&curve_path, lines).map_err(fault)?;
    let mut curve = fs::File::options().append(true).open(&curve_path).map(BufWriter::new).map_err(fault)?;
    if step == 0 && job.saves_steps() {
        folder::save(job, out, 0)?;
    }
    while step < total {
        if observer.interrupted() {
            curve.flush().map_err(fault)?;
            folder::keep(job, out)?;
            return Err(TrainError::Stopped { step, total, path: out.to_owned() });
        }
        let loss = advance(job, step, (&mut curve, &curve_path))?;
        step += 1;
        let saves = job.saves_steps() && step.is_power_of_two();
        let keeps = step % folder::KEPT_STEPS == 0 && step < total;
        if saves || keeps {
            curve.flush().map_err(fault)?;
        }
        if saves {
            folder::save(job, out, step)?;
        }
        if keeps {
            folder::keep(job, out)?;
        }
        observer.step(step, total, loss);
    }
    curve.flush().map_err(fault)?;
    folder::finish(job, out)
}

/// One step, counted from 0, with its line in the curve. Returns the loss before the update.
fn advance(job: &mut dyn Job, step: usize, (curve, path): (&mut dyn Write, &Path)) -> Result<f64, TrainError> {
    let (loss, rest) = job.step(step)?;
    if !loss.is_finite() {
        return Err(TrainError::Diverged { step, total: job.total(), loss });
    }
    let mut line = Map::new();
    line.insert("step".to_owned(), json!(step + 1));
    line.insert("loss".to_owned(), json!(loss));
    line.extend(rest);
    writeln!(curve, "{}", Value::Object(line)).map_err(|source| io(path, source))?;
    Ok(loss)
}
