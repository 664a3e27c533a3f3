//! The folder of a run that can be taken up again.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{ConvNextSpec, Run};
use crate::checkpoint::{CONFIG, CURVE, Draft, MODEL, OPTIMIZER};
use crate::train::driver::{Job, advance};
use crate::train::{Observer, TrainError, io};

/// What the run was begun with.
const RECIPE: &str = "recipe.json";

/// The state at the last interrupt or thousandth step.
const RESUME: &str = "resume";

/// Its name until it is complete.
const RESUME_NEW: &str = "resume-new";

/// Steps between two states that a killed run is taken up from.
const KEPT_STEPS: usize = 1000;

/// Runs all steps that the folder lacks.
pub(super) fn drive(run: &mut Run<'_>, out: &Path, observer: &mut dyn Observer) -> Result<(), TrainError> {
    let total = run.total();
    let mut step = open(run, out)?;
    let curve_path = out.join(CURVE);
    let fault = |source| io(&curve_path, source);
    let lines = cut_curve(&curve_path, step)?;
    fs::write(&curve_path, lines).map_err(fault)?;
    let mut curve = fs::File::options().append(true).open(&curve_path).map(std::io::BufWriter::new).map_err(fault)?;
    if step == 0 && run.saves_steps() {
        save(run, out, 0)?;
    }
    while step < total {
        if observer.interrupted() {
            curve.flush().map_err(fault)?;
            keep(run, out)?;
            return Err(TrainError::Stopped { step, total, path: out.to_owned() });
        }
        let loss = advance(run, step, (&mut curve, &curve_path))?;
        step += 1;
        let saves = run.saves_steps() && step.is_power_of_two();
        let keeps = step % KEPT_STEPS == 0 && step < total;
        if saves || keeps {
            curve.flush().map_err(fault)?;
        }
        if saves {
            save(run, out, step)?;
        }
        if keeps {
            keep(run, out)?;
        }
        observer.step(step, total, loss);
    }
    curve.flush().map_err(fault)?;
    finish(run, out)
}

/// Makes the folder, or checks that it is the run's own; returns the steps it has done.
fn open(run: &mut Run<'_>, out: &Path) -> Result<usize, TrainError> {
    let recipe_path = out.join(RECIPE);
    let problem = |problem: String| TrainError::Resume { path: out.to_owned(), problem };
    if !out.exists() {
        fs::create_dir_all(out).map_err(|source| io(out, source))?;
        let text = format!("{:#}\n", run.recipe());
        // Written under another name first: a folder with half a recipe could not be taken up.
        let partial = out.join(format!(".{RECIPE}.partial"));
        fs::write(&partial, text).and_then(|()| fs::rename(&partial, &recipe_path)).map_err(|source| io(&recipe_path, source))?;
        return Ok(0);
    }
    if out.join(CONFIG).exists() {
        return Err(crate::checkpoint::CheckpointError::Exists { path: out.to_owned() }.into());
    }
    let text = fs::read_to_string(&recipe_path).map_err(|_| problem("it is no folder of an unfinished training".to_owned()))?;
    let mut found: Value = serde_json::from_str(&text).map_err(|error| problem(format!("its {RECIPE} is not JSON ({error})")))?;
    // A setting that came after the folder was begun has its default there, which is how the run went.
    if let Ok(recipe) = ConvNextSpec::deserialize(&found["recipe"]) {
        found["recipe"] = json!(recipe);
    }
    let asked = run.recipe();
    if found != asked {
        return Err(problem(format!("it was begun with another {}", difference(&found, &asked))));
    }
    let mut steps: Vec<(usize, PathBuf)> = Vec::new();
    for entry in out.read_dir().map_err(|source| io(out, source))? {
        let entry = entry.map_err(|source| io(out, source))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(step) = name.strip_prefix("step-").and_then(|step| step.parse().ok()) {
            steps.push((step, entry.path()));
        }
    }
    let last = steps.into_iter().max();
    // A kill between the two renames leaves the new state under its first name.
    let (new, kept) = (out.join(RESUME_NEW), out.join(RESUME));
    if new.exists() {
        let result = if kept.exists() { fs::remove_dir_all(&new) } else { fs::rename(&new, &kept) };
        result.map_err(|source| io(&new, source))?;
    }
    let kept = Some(kept).filter(|folder| folder.join(CONFIG).is_file());
    let kept_step = kept.as_deref().map(|folder| run.restore(folder)).transpose()?;
    match (kept_step, last) {
        (Some(kept), Some((step, _))) if kept >= step => Ok(kept),
        (_, Some((_, folder))) => run.restore(&folder),
        (Some(kept), None) => Ok(kept),
        (None, None) => Ok(0),
    }
}

/// The name of a setting that differs.
fn difference(found: &Value, asked: &Value) -> String {
    if found["images_sha256"] != asked["images_sha256"] {
        return "set of images".to_owned();
    }
    let settings = asked["recipe"].as_object().into_iter().flatten();
    let different = settings.map(|(name, value)| (name, value, &found["recipe"][name])).find(|(_, value, found)| value != found);
    different.map_or_else(|| "recipe".to_owned(), |(name, value, found)| format!("`{name}` ({found} there, {value} now)"))
}

/// The lines of the curve up to a step.
fn cut_curve(path: &Path, step: usize) -> Result<String, TrainError> {
    if !path.exists() {
        return Ok(String::new());
    }
    let text = fs::read_to_string(path).map_err(|source| io(path, source))?;
    let lines: Vec<&str> = text.lines().take(step).collect();
    Ok(lines.iter().map(|line| format!("{line}\n")).collect())
}

/// Saves `step-<N>`, unless an earlier run has.
fn save(run: &mut Run<'_>, out: &Path, step: usize) -> Result<(), TrainError> {
    let target = out.join(format!("step-{step}"));
    if target.exists() {
        return Ok(());
    }
    let draft = Draft::new(&target)?;
    run.write(draft.path())?;
    Ok(draft.publish()?)
}

/// Replaces the state that a run is taken up from.
fn keep(run: &mut Run<'_>, out: &Path) -> Result<(), TrainError> {
    let target = out.join(RESUME);
    let draft = Draft::new(&out.join(RESUME_NEW))?;
    run.write(draft.path())?;
    if target.exists() {
        fs::remove_dir_all(&target).map_err(|source| io(&target, source))?;
    }
    draft.publish()?;
    let new = out.join(RESUME_NEW);
    fs::rename(&new, &target).map_err(|source| io(&target, source))
}

/// Writes the checkpoint itself; its configuration comes last, because it tells that all is there.
fn finish(run: &mut Run<'_>, out: &Path) -> Result<(), TrainError> {
    let draft = Draft::new(&out.join("final"))?;
    run.write(draft.path())?;
    for name in [MODEL, OPTIMIZER, CONFIG] {
        let to = out.join(name);
        fs::rename(draft.path().join(name), &to).map_err(|source| io(&to, source))?;
    }
    let kept = out.join(RESUME);
    if kept.exists() {
        fs::remove_dir_all(&kept).map_err(|source| io(&kept, source))?;
    }
    Ok(())
}
