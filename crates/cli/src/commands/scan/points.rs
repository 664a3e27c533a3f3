//! The points of a scan: which runs there are, where they stand, and what each is asked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Parser;
use serde::{Deserialize, Serialize};

use super::config::one_line;
use super::grid::{self, GridValue, HUB_STEPS};
use crate::args::{Cli, Command, EstimateArgs, EstimatorChoice, ScanArgs, ScanKind};
use crate::commands::estimate::{FAMILIES, Family, family};
use crate::error::CommandError;
use crate::preconditioning::{SHIFTED, check_maps};

/// Rays of a histogram, unless `--samples` says otherwise.
const HISTOGRAM_SAMPLES: u64 = 1000;

/// A model with its name in tables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Target {
    pub name: String,
    pub model: String,
}

/// One run of a scan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Name of the model.
    pub target: String,
    /// What is measured: the model itself, or one of its checkpoints.
    pub model: String,
    /// What is varied; none where the run does not depend on it.
    pub value: Option<f64>,
    /// Whether the value is a multiple of the model's own sigma.
    #[serde(default)]
    pub is_multiple: bool,
    pub estimator: String,
    /// For estimators that have one.
    pub preconditioner: Option<String>,
    /// The run folder, below that of the scan.
    pub folder: PathBuf,
}

/// A preconditioner as `estimate` knows it, and whether its Gaussian is shifted.
fn parts(choice: &str) -> (&str, bool) {
    choice.strip_suffix(SHIFTED).map_or((choice, false), |name| (name, true))
}

impl Point {
    /// The preconditioner as `estimate` knows it.
    pub fn preconditioner_name(&self) -> Option<&str> {
        self.preconditioner.as_deref().map(|choice| parts(choice).0)
    }

    /// The point in words.
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

/// The estimators asked for.
pub fn families(args: &ScanArgs) -> Result<Vec<&'static dyn Family>, CommandError> {
    if args.estimator.contains(&EstimatorChoice::All) {
        return Ok(FAMILIES.to_vec());
    }
    let mut names: Vec<&str> = args.estimator.iter().map(|choice| choice.name()).collect();
    if names.is_empty() {
        names.push("radial");
    }
    if let Some(twice) = names.iter().enumerate().find(|(k, name)| names[..*k].contains(name)) {
        return Err(CommandError::usage(format!("--estimator names {} twice", twice.1)));
    }
    names.into_iter().map(family).collect()
}

/// The models asked for.
pub fn targets(args: &ScanArgs) -> Result<Vec<Target>, CommandError> {
    let mut targets: Vec<Target> = Vec::new();
    for text in &args.targets {
        let (name, model) = match text.split_once('=') {
            Some((name, model)) if !name.is_empty() && !model.is_empty() && !Path::new(text).exists() => {
                (name.to_owned(), model.to_owned())
            }
            _ => (default_name(text), text.clone()),
        };
        let name = plain(&name);
        if targets.iter().any(|other| other.name == name) {
            return Err(CommandError::usage(format!(
                "two of the models are called {name}: give one of them another name, as NAME={model}"
            )));
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
fn preconditioners(args: &ScanArgs, kind: ScanKind, target: &Target) -> Result<Vec<String>, CommandError> {
    let names: Vec<String> = if !args.preconditioner.is_empty() {
        args.preconditioner.clone()
    } else if target.model == "digits" || matches!(kind, ScanKind::Exponent | ScanKind::Epsilon) {
        vec!["none".to_owned(), "adam2".to_owned()]
    } else {
        vec!["none".to_owned()]
    };
    let labels: Vec<String> = names.iter().map(|name| plain(&file_name(name))).collect();
    if let Some(twice) = labels.iter().enumerate().find(|(k, name)| labels[..*k].contains(name)) {
        return Err(CommandError::usage(format!("two preconditioners are called '{}': rename one of the files or leave one out", twice.1)));
    }
    Ok(names)
}

/// The values of the grid that is asked for, or of the usual one.
fn values(args: &ScanArgs, kind: ScanKind) -> Result<Vec<GridValue>, CommandError> {
    let texts = if args.grid.is_empty() { grid::default_grid(kind).unwrap_or_default() } else { args.grid.clone() };
    grid::parse(kind, &texts)
}

/// All points in the order in which they are computed: model by model and value by value, so that what is loaded is used.
pub fn points(args: &ScanArgs, kind: ScanKind, targets: &[Target]) -> Result<Vec<Point>, CommandError> {
    let values = values(args, kind)?;
    let families = families(args)?;
    let mut points = Vec::new();
    for target in targets {
        let preconditioners = preconditioners(args, kind, target)?;
        let of_maps = ["exponent", "eps", "damping"];
        if let Some(flag) = args.given.0.iter().find(|flag| flag.is_typed && of_maps.contains(&flag.name.as_str())) {
            let names: Vec<String> = preconditioners.iter().map(|choice| parts(choice).0.to_owned()).collect();
            check_maps(&[&format!("--{}", flag.name)], &names)?;
        }
        let places: Vec<(Option<GridValue>, String)> = match kind {
            ScanKind::Histogram | ScanKind::Samples => vec![(None, target.model.clone())],
            ScanKind::Checkpoints => checkpoints(target, &values)?.into_iter().map(|(value, model)| (Some(value), model)).collect(),
            _ => values.iter().map(|value| (Some(*value), target.model.clone())).collect(),
        };
        let mut seen = BTreeMap::new();
        for (value, model) in &places {
            for family in &families {
                let choices: Vec<Option<&String>> =
                    if family.name() == "radial" { preconditioners.iter().map(Some).collect() } else { vec![None] };
                for choice in choices {
                    // The map of the preconditioner is nothing to what has none.
                    let has_no_map = choice.is_none_or(|name| name == "none");
                    let value = value.filter(|_| !(matches!(kind, ScanKind::Exponent | ScanKind::Epsilon) && has_no_map));
                    let place = value.map_or_else(|| "all".to_owned(), |value| format!("{}-{value}", kind.name()));
                    let mut folder = Path::new("points").join(&target.name).join(place).join(family.name());
                    if let Some(choice) = choice {
                        folder.push(plain(&file_name(choice)));
                    }
                    if seen.insert(folder.clone(), ()).is_none() {
                        points.push(Point {
                            target: target.name.clone(),
                            model: model.clone(),
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
fn checkpoints(target: &Target, grid: &[GridValue]) -> Result<Vec<(GridValue, String)>, CommandError> {
    let value = |step: u64| GridValue { number: step as f64, is_multiple: false };
    let path = Path::new(&target.model);
    if path.is_dir() {
        let steps = grid::steps_in(path)?;
        let model = |path: &Path| path.to_string_lossy().into_owned();
        if grid.is_empty() {
            if let [(step, _)] = steps.as_slice() {
                return Err(CommandError::usage(format!(
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
                    || CommandError::usage(format!("{} has no checkpoint of step {wanted}: it has {}", path.display(), known.join(", ")));
                found.map(|(_, path)| (*wanted, model(path))).ok_or_else(missing)
            })
            .collect();
    }
    if target.model == "digits" {
        return Err(CommandError::usage(
            "digits is kept without the checkpoints of its training: give the folder of `train digits --checkpoints` instead",
        ));
    }
    if path.exists() || !target.model.contains('/') || target.model.contains('@') {
        return Err(CommandError::usage(format!(
            "{} has no checkpoints by step: expected a folder with step-N in it, or a model of the hub as owner/name",
            target.model
        )));
    }
    let steps = if grid.is_empty() { HUB_STEPS.iter().map(|step| value(*step)).collect() } else { grid.to_vec() };
    Ok(steps.into_iter().map(|step| (step, format!("{}@step{step}", target.model))).collect())
}

/// The number of samples at every point; none where the estimators have their own.
pub fn samples(args: &ScanArgs, kind: ScanKind) -> Result<Option<u64>, CommandError> {
    let given = args.given.0.iter().find(|flag| flag.name == "samples").and_then(|flag| flag.values.first());
    if kind == ScanKind::Samples {
        if given.is_some() {
            return Err(CommandError::usage("--samples is what a scan of the samples varies: give the numbers as --grid"));
        }
        return Ok(values(args, kind)?.last().map(|value| value.number as u64));
    }
    // The parser of the flag has seen that it is a number.
    let given = given.and_then(|text| text.parse().ok());
    Ok(given.or((kind == ScanKind::Histogram).then_some(HISTOGRAM_SAMPLES)))
}

/// What `estimate` would have been asked for a point, by its own parser: the flags of the scan with those that the point stands for.
pub fn estimate_args(args: &ScanArgs, kind: ScanKind, point: &Point, is_alone: bool) -> Result<EstimateArgs, CommandError> {
    let mut argv = vec!["basin-volume".to_owned(), "estimate".to_owned(), point.model.clone()];
    for flag in args.given.0.iter().filter(|flag| flag.is_estimates && flag.is_typed) {
        let mut add = |name: &str, value: &str| argv.push(format!("--{name}={value}"));
        match flag.name.as_str() {
            "samples" => {}
            // The settings of this estimator, by their own names.
            "set" => {
                for text in &flag.values {
                    match text.split_once('.').filter(|(estimator, _)| FAMILIES.iter().any(|family| family.name() == *estimator)) {
                        Some((estimator, rest)) if estimator == point.estimator => add("set", rest),
                        Some(_) => {}
                        None if is_alone => add("set", text),
                        None => {
                            return Err(CommandError::usage(format!(
                                "--set {text}: with several estimators the name says which, ESTIMATOR.NAME=VALUE, such as spectral.steps=40"
                            )));
                        }
                    }
                }
            }
            name if flag.values.is_empty() => argv.push(format!("--{name}")),
            name => flag.values.iter().for_each(|value| add(name, value)),
        }
    }
    let mut add = |name: &str, value: &str| argv.push(format!("--{name}={value}"));
    add("estimator", &point.estimator);
    if let Some((name, is_shifted)) = point.preconditioner.as_deref().map(parts) {
        add("preconditioner", name);
        if is_shifted {
            if args.given.0.iter().any(|flag| flag.name == "proposal" && flag.is_typed) {
                return Err(CommandError::usage(format!(
                    "--proposal is for all preconditioners: leave it out, or write {name} without '{SHIFTED}'"
                )));
            }
            add("proposal", "shifted");
        }
    }
    // Rays, probes and chains are not the same thing.
    let is_typed = args.given.0.iter().any(|flag| flag.name == "samples" && flag.is_typed);
    if let Some(samples) = samples(args, kind)?.filter(|_| point.estimator == "radial" || (is_alone && is_typed)) {
        add("samples", &samples.to_string());
    }
    if let Some((value, flag)) = point.value.filter(|_| !point.is_multiple).zip(kind.replaced_flag()) {
        add(flag, &format!("{value:e}"));
    }
    match Cli::try_parse_from(&argv) {
        Ok(Cli { command: Command::Estimate(args) }) => Ok(args),
        Ok(_) => Err(CommandError::usage("the point of the scan is no estimate")),
        Err(error) => Err(CommandError::usage(one_line(&error))),
    }
}
