//! The folder of a run that can be taken up again.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{Job, Recipe, State};
use crate::checkpoint::{CONFIG, Checkpoint, CheckpointError, Draft};
use crate::train::{TrainError, io};

/// What the run was begun with.
const RECIPE: &str = "recipe.json";

/// The state at the last interrupt or thousandth step.
const RESUME: &str = "resume";

/// Its name until it is complete.
const RESUME_NEW: &str = "resume-new";

/// Steps between two states that a killed run is taken up from.
pub(super) const KEPT_STEPS: usize = 1000;

/// Refuses a folder that neither is new or empty nor was begun by a training that did not end. Costs nothing: before any work.
pub(in crate::train) fn check(out: &Path) -> Result<(), TrainError> {
    if !out.exists() || out.join(RECIPE).exists() && !out.join(CONFIG).exists() {
        return Ok(());
    }
    if out.join(CONFIG).exists() {
        return Err(CheckpointError::Exists { path: out.to_owned() }.into());
    }
    let mut entries = out.read_dir().map_err(|source| io(out, source))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(problem(out, "it is no folder of an unfinished training")),
    }
}

fn problem(out: &Path, problem: impl Into<String>) -> TrainError {
    TrainError::Resume { path: out.to_owned(), problem: problem.into() }
}

impl Recipe {
    fn data_key(&self) -> String {
        format!("{}_sha256", self.data.0)
    }

    fn file(&self) -> Value {
        let mut file = Map::new();
        file.insert("recipe".to_owned(), self.settings.clone());
        file.insert(self.data_key(), json!(self.data.1));
        Value::Object(file)
    }

    /// What differs from the file of a folder, in words.
    fn difference(&self, found: &Value) -> Option<String> {
        if found[self.data_key()] != json!(self.data.1) {
            return Some(format!("other {}", self.data.0));
        }
        let settings = found["recipe"].as_object();
        for (name, asked) in self.settings.as_object().into_iter().flatten() {
            // A setting that came after the folder was begun has its default there, which is how the run went.
            let found = settings.and_then(|settings| settings.get(name)).unwrap_or(&self.defaults[name]);
            if found != asked {
                return Some(format!("another `{name}` ({found} there, {asked} now)"));
            }
        }
        let unknown = settings.into_iter().flatten().find(|(name, _)| self.settings.get(name).is_none());
        unknown.map(|(name, _)| format!("a setting `{name}`, which this version does not know"))
    }
}

/// Makes the folder, or checks that it is the run's own; returns the steps it has done.
pub(super) fn open(job: &mut dyn Job, out: &Path) -> Result<usize, TrainError> {
    check(out)?;
    let recipe_path = out.join(RECIPE);
    let recipe = job.recipe();
    if !recipe_path.exists() {
        fs::create_dir_all(out).map_err(|source| io(out, source))?;
        let text = format!("{:#}\n", recipe.file());
        // Written under another name first: a folder with half a recipe could not be taken up.
        let partial = out.join(format!(".{RECIPE}.partial"));
        fs::write(&partial, text).and_then(|()| fs::rename(&partial, &recipe_path)).map_err(|source| io(&recipe_path, source))?;
        return Ok(0);
    }
    let text = fs::read_to_string(&recipe_path).map_err(|source| io(&recipe_path, source))?;
    let found: Value = serde_json::from_str(&text).map_err(|error| problem(out, format!("its {RECIPE} is not JSON ({error})")))?;
    if let Some(difference) = recipe.difference(&found) {
        return Err(problem(out, format!("it was begun with {difference}")));
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
    let state = job.state();
    let kept_step = kept.as_deref().map(|folder| restore(state, folder)).transpose()?;
    match (kept_step, last) {
        (Some(kept), Some((step, _))) if kept >= step => Ok(kept),
        (_, Some((_, folder))) => restore(state, &folder),
        (Some(kept), None) => Ok(kept),
        (None, None) => Ok(0),
    }
}

/// Takes over the state of a checkpoint of the same network; returns its step.
fn restore(state: &mut State, folder: &Path) -> Result<usize, TrainError> {
    let checkpoint = Checkpoint::load(folder)?;
    let fault = || problem(folder, "it has no state of the optimizer, or another network");
    let moments = checkpoint.moments()?.ok_or_else(fault)?;
    if *checkpoint.parameters.layout() != state.layout {
        return Err(fault());
    }
    state.weights = checkpoint.parameters.values().into_owned();
    state.moments = moments;
    Ok(state.step())
}

/// The lines of the curve up to a step.
pub(super) fn cut_curve(path: &Path, step: usize) -> Result<String, TrainError> {
    if !path.exists() {
        return Ok(String::new());
    }
    let text = fs::read_to_string(path).map_err(|source| io(path, source))?;
    let lines: Vec<&str> = text.lines().take(step).collect();
    Ok(lines.iter().map(|line| format!("{line}\n")).collect())
}

/// Saves `step-<N>`, unless an earlier run has.
pub(super) fn save(job: &mut dyn Job, out: &Path, step: usize) -> Result<(), TrainError> {
    let target = out.join(format!("step-{step}"));
    if target.exists() {
        return Ok(());
    }
    let draft = Draft::new(&target)?;
    job.write(draft.path())?;
    Ok(draft.publish()?)
}

/// Replaces the state that a run is taken up from.
pub(super) fn keep(job: &mut dyn Job, out: &Path) -> Result<(), TrainError> {
    let target = out.join(RESUME);
    let draft = Draft::new(&out.join(RESUME_NEW))?;
    job.write(draft.path())?;
    if target.exists() {
        fs::remove_dir_all(&target).map_err(|source| io(&target, source))?;
    }
    draft.publish()?;
    let new = out.join(RESUME_NEW);
    fs::rename(&new, &target).map_err(|source| io(&target, source))
}

/// Writes the checkpoint itself; its configuration comes last, because it tells that all is there.
pub(super) fn finish(job: &mut dyn Job, out: &Path) -> Result<(), TrainError> {
    let draft = Draft::new(&out.join("final"))?;
    job.write(draft.path())?;
    let entries = draft.path().read_dir().map_err(|source| io(out, source))?;
    let mut names =
        entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<Vec<_>, _>>().map_err(|source| io(out, source))?;
    names.sort_by_key(|name| name == CONFIG);
    for name in names {
        let to = out.join(&name);
        fs::rename(draft.path().join(&name), &to).map_err(|source| io(&to, source))?;
    }
    let kept = out.join(RESUME);
    if kept.exists() {
        fs::remove_dir_all(&kept).map_err(|source| io(&kept, source))?;
    }
    Ok(())
}
