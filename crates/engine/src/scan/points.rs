//! The points of a scan: which runs there are, and where they stand.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::grid::{self, GridValue, HUB_STEPS};
use super::request::{Scan, ScanKind};
use crate::digits::Builtin;
use crate::error::Error;
use crate::estimators::Family;
use crate::preconditioning::{SHIFTED, check_maps};

/// A model with its name in tables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// The name.
    pub name: String,
    /// The model, as it was asked for.
    pub model: String,
}

/// One run of a scan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Name of the model.
    pub target: String,
    /// What is measured: the model itself, or one of its checkpoints.
    pub model: String,
    /// The components whose weights move, in a scan of them; none for all weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// What is varied; none where the run does not depend on it.
    pub value: Option<f64>,
    /// Whether the value is a multiple of the model's own sigma.
    #[serde(default)]
    pub is_multiple: bool,
    /// Name of the estimator.
    pub estimator: String,
    /// For estimators that have one.
    pub preconditioner: Option<String>,
    /// The run folder, below that of the scan.
    pub folder: PathBuf,
}

/// A preconditioner as `estimate` knows it, and whether its Gaussian is shifted.
pub(super) fn parts(choice: &str) -> (&str, bool) {
    choice.strip_suffix(SHIFTED).map_or((choice, false), |name| (name, true))
}

impl Point {
    /// The preconditioner as `estimate` knows it.
    #[must_use]
    pub fn preconditioner_name(&self) -> Option<&str> {
        self.preconditioner.as_deref().map(|choice| parts(choice).0)
    }

    /// The point in words.
    #[must_use]
    pub fn words(&self, kind: ScanKind) -> String {
        let mut words = self.target.clone();
        if let Some(value) = self.value {
            let value = GridValue { number: value, is_multiple: self.is_multiple };
            words += &format!(", {} {value}", kind.value_name());
        }
        words += &format!(", {}", self.estimator);
        if let Some(preconditioner) = &self.preconditioner {
            words += &format!(" {}", file_name(preconditioner));
        }
        words
    }
}

/// The models asked for.
pub(super) fn targets(scan: &Scan) -> Result<Vec<Target>, Error> {
    let mut targets: Vec<Target> = Vec::new();
    for text in &scan.targets {
        let (name, model) = match text.split_once('=') {
            Some((name, model)) if !name.is_empty() && !model.is_empty() && !Path::new(text).exists() => {
                (name.to_owned(), model.to_owned())
            }
            _ => (default_name(text), text.clone()),
        };
        let name = plain(&name);
        if targets.iter().any(|other| other.name == name) {
            return Err(Error::usage(format!("two of the models are called {name}: give one of them another name, as NAME={model}")));
        }
        targets.push(Target { name, model });
    }
    Ok(targets)
}

/// The last part of a path or of a name on the hub.
fn default_name(model: &str) -> String {
    let path = Path::new(model);
    let path = if path.exists() { path.canonicalize().unwrap_or_else(|_| path.to_owned()) } else { path.to_owned() };
    let name = if path.is_file() { path.file_stem() } else { path.file_name() };
    name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// A name as every file system takes it.
fn plain(name: &str) -> String {
    let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-@+".contains(c) { c } else { '-' }).collect();
    let plain = plain.trim_start_matches('.');
    if plain.is_empty() { "model".to_owned() } else { plain.to_owned() }
}

/// A preconditioner without the folders of a file.
fn file_name(preconditioner: &str) -> String {
    Path::new(preconditioner).file_name().map_or_else(|| preconditioner.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The preconditioners of one model.
fn preconditioners(scan: &Scan, kind: ScanKind, target: &Target) -> Result<Vec<String>, Error> {
    let names: Vec<String> = if !scan.preconditioner.is_empty() {
        scan.preconditioner.clone()
    } else if Builtin::of(&target.model).is_some() || matches!(kind, ScanKind::Exponent | ScanKind::Epsilon) {
        vec!["none".to_owned(), "adam2".to_owned()]
    } else {
        vec!["none".to_owned()]
    };
    let labels: Vec<String> = names.iter().map(|name| plain(&file_name(name))).collect();
    if let Some(twice) = labels.iter().enumerate().find(|(k, name)| labels[..*k].contains(name)) {
        return Err(Error::usage(format!("two preconditioners are called '{}': rename one of the files or leave one out", twice.1)));
    }
    Ok(names)
}

/// All points in the order in which they are computed: model by model and value by value, so that what is loaded is used.
pub(super) fn points(
    scan: &Scan,
    kind: ScanKind,
    targets: &[Target],
    components: &[Option<String>],
    families: &[&'static dyn Family],
) -> Result<Vec<Point>, Error> {
    let values = scan.values(kind)?;
    let mut points = Vec::new();
    for (number, target) in targets.iter().enumerate() {
        let preconditioners = preconditioners(scan, kind, target)?;
        let names: Vec<&str> = preconditioners.iter().map(|choice| parts(choice).0).collect();
        check_maps(&scan.ask, &names)?;
        let places: Vec<(Option<GridValue>, String)> = match kind {
            ScanKind::Histogram | ScanKind::Models | ScanKind::Samples | ScanKind::Components => vec![(None, target.model.clone())],
            ScanKind::Checkpoints => checkpoints(target, &values)?.into_iter().map(|(value, model)| (Some(value), model)).collect(),
            _ => values.iter().map(|value| (Some(*value), target.model.clone())).collect(),
        };
        let mut seen = BTreeMap::new();
        for (value, model) in &places {
            for family in families {
                let choices: Vec<Option<&String>> =
                    if family.capabilities().preconditioners { preconditioners.iter().map(Some).collect() } else { vec![None] };
                for choice in choices {
                    // The map of the preconditioner is nothing to what has none.
                    let has_no_map = choice.is_none_or(|name| name == "none");
                    let value = value.filter(|_| !(matches!(kind, ScanKind::Exponent | ScanKind::Epsilon) && has_no_map));
                    let place = value.map_or_else(|| "all".to_owned(), |value| format!("{}-{value}", kind.name()));
                    let mut folder = Path::new("points").join(plain(&target.name)).join(place).join(family.name());
                    if let Some(choice) = choice {
                        folder.push(plain(&file_name(choice)));
                    }
                    if seen.insert(folder.clone(), ()).is_none() {
                        points.push(Point {
                            target: target.name.clone(),
                            model: model.clone(),
                            component: components.get(number).cloned().flatten(),
                            value: value.map(|value| value.number),
                            is_multiple: value.is_some_and(|value| value.is_multiple),
                            estimator: family.name().to_owned(),
                            preconditioner: choice.cloned(),
                            folder,
                        });
                    }
                }
            }
        }
    }
    Ok(points)
}

/// The checkpoints of a model at these steps, or at all there are.
fn checkpoints(target: &Target, grid: &[GridValue]) -> Result<Vec<(GridValue, String)>, Error> {
    let value = |step: u64| GridValue { number: step as f64, is_multiple: false };
    let path = Path::new(&target.model);
    if path.is_dir() {
        let steps = grid::steps_in(path)?;
        let model = |path: &Path| path.to_string_lossy().into_owned();
        if grid.is_empty() {
            if let [(step, _)] = steps.as_slice() {
                return Err(Error::usage(format!(
                    "{} holds one checkpoint, of step {step}: a scan of checkpoints needs two or more",
                    path.display()
                )));
            }
            return Ok(steps.iter().map(|(step, path)| (value(*step), model(path))).collect());
        }
        return grid
            .iter()
            .map(|wanted| {
                let found = steps.iter().find(|(step, _)| *step as f64 == wanted.number);
                let known: Vec<String> = steps.iter().map(|(step, _)| step.to_string()).collect();
                let missing =
                    || Error::usage(format!("{} has no checkpoint of step {wanted}: it has {}", path.display(), known.join(", ")));
                found.map(|(_, path)| (*wanted, model(path))).ok_or_else(missing)
            })
            .collect();
    }
    if Builtin::of(&target.model).is_some() {
        return Err(Error::usage(
            "the built-in networks are kept without the checkpoints of its training: give the folder of `train digits --checkpoints` instead",
        ));
    }
    if path.exists() || !target.model.contains('/') || target.model.contains('@') {
        return Err(Error::usage(format!(
            "{} has no checkpoints by step: expected a folder with step-N in it, or a model of the hub as owner/name",
            target.model
        )));
    }
    let steps = if grid.is_empty() { HUB_STEPS.iter().map(|step| value(*step)).collect() } else { grid.to_vec() };
    Ok(steps.into_iter().map(|step| (step, format!("{}@step{step}", target.model))).collect())
}
