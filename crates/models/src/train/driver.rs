//! What every training run has in common: the folder that appears only when complete, the curve, the saved steps, the interrupt.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Observer, TrainError, io};
use crate::checkpoint::{CURVE, Draft};

/// A training run, step by step.
pub(super) trait Job {
    /// Steps of the whole run.
    fn total(&self) -> usize;

    /// Whether the start and the steps 1, 2, 4, 8, ... are saved too.
    fn saves_steps(&self) -> bool;

    /// One step, counted from 0: the loss before the update, and what else the curve's line should say.
    fn step(&mut self, step: usize) -> Result<(f64, Map<String, Value>), TrainError>;

    /// Writes a checkpoint's files into an existing folder.
    fn write(&mut self, folder: &Path) -> Result<(), TrainError>;
}

/// Runs all steps and publishes the draft. When anything fails, or the observer interrupts, the draft is dropped and nothing is left.
pub(super) fn drive(job: &mut dyn Job, draft: Draft, observer: &mut dyn Observer) -> Result<(), TrainError> {
    let curve_path = draft.path().join(CURVE);
    let mut curve = fs::File::create(&curve_path).map(BufWriter::new).map_err(|source| io(&curve_path, source))?;
    let total = job.total();
    if job.saves_steps() {
        save(job, draft.path(), 0)?;
    }
    for step in 0..total {
        if observer.interrupted() {
            return Err(TrainError::Interrupted { step, total });
        }
        let loss = advance(job, step, (&mut curve, &curve_path))?;
        if job.saves_steps() && (step + 1).is_power_of_two() {
            save(job, draft.path(), step + 1)?;
        }
        observer.step(step + 1, total, loss);
    }
    curve.into_inner().map_err(|error| io(&curve_path, error.into_error()))?;
    job.write(draft.path())?;
    Ok(draft.publish()?)
}

/// One step, counted from 0, with its line in the curve. Returns the loss before the update.
pub(super) fn advance(job: &mut dyn Job, step: usize, (curve, path): (&mut dyn Write, &Path)) -> Result<f64, TrainError> {
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

fn save(job: &mut dyn Job, folder: &Path, step: usize) -> Result<(), TrainError> {
    let folder = folder.join(format!("step-{step}"));
    fs::create_dir(&folder).map_err(|source| io(&folder, source))?;
    job.write(&folder)
}
