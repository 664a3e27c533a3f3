//! Several `--data`: the volume on each, the volume on all, and how they depend on each other.
//!
//! Every data set has a run folder of its own, as if it had been estimated alone; one more is that of all, the set where the largest of the costs
//! stays under the cutoff.

mod chains;
mod rays;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::anyhow;
use basin_volume::run::folder::{self, names};
use basin_volume::run::manifest::Manifest;
use basin_volume::spec::{EstimatorSpec, PreconditionerSpec, RunSpec};
use serde_json::{Map, Value, json};

use super::comparison::check_same;
use super::{Request, Runs, chosen, default_out, parse_settings, refuse_flags_of_others};
use crate::args::{EstimateArgs, EstimatorChoice};
use crate::commands::report;
use crate::error::{CommandError, CommandResult};
use crate::present::nats;
use crate::problem::Problem;

/// `estimate` with several data sets.
pub fn run(args: &EstimateArgs, interrupt: &AtomicBool) -> CommandResult {
    let together = match args.estimator {
        EstimatorChoice::Radial => rays::run,
        EstimatorChoice::Annealed => chains::run,
        other => {
            return Err(CommandError::usage(format!(
                "several --data are for --estimator radial or annealed: leave all but one out with --estimator {}",
                other.name()
            )));
        }
    };
    let families = chosen(args)?;
    let Some(&family) = families.first() else { return Err(anyhow!("no estimator is asked for").into()) };
    refuse_flags_of_others(args, &families)?;
    let settings = parse_settings(args, &families)?;
    if args.estimator == EstimatorChoice::Radial {
        rays::preconditioner(args)?;
    }
    let question = Question::resolve(args, interrupt)?;
    let requests = question.problems.iter().map(|problem| Request::new(family, args, problem, &settings, interrupt)).collect();
    together(&Together { args, interrupt, question: &question, requests })
}

/// What is asked on several data.
struct Question {
    /// What the data are called.
    names: Vec<String>,
    /// The folder of each run, and of that of all.
    folders: Vec<String>,
    all_folder: &'static str,
    problems: Vec<Problem>,
    /// What the run of all is about.
    all_record: Map<String, Value>,
}

impl Question {
    /// Refuses data that are given twice, reads the rest.
    fn resolve(args: &EstimateArgs, interrupt: &AtomicBool) -> Result<Self, CommandError> {
        let data = &args.problem.data.data;
        if let Some(twice) = data.iter().enumerate().find(|(k, data_set)| data[..*k].contains(data_set)) {
            return Err(CommandError::usage(format!("--data names {} twice: leave one out", twice.1)));
        }
        let names: Vec<String> = data.iter().map(|data| data_name(data)).collect();
        let folders = folder_names(&names)?;
        let problems: Vec<Problem> =
            data.iter().map(|data| Problem::resolve(&args.problem.on(data), &args.rays, interrupt)).collect::<Result<_, _>>()?;
        let records: Vec<&Map<String, Value>> = problems.iter().map(|problem| &problem.record).collect();
        if let Some((k, twice)) =
            records.iter().enumerate().find(|(k, record)| records[..*k].iter().any(|other| other.get("data") == record.get("data")))
        {
            let first = records.iter().position(|other| other.get("data") == twice.get("data")).unwrap_or(0);
            return Err(CommandError::usage(format!("--data {} and --data {} are the same data: leave one out", data[first], data[k])));
        }
        let all_record = joint_record(&records, &names);
        let all_folder = name_of_all(names.len());
        Ok(Self { names, folders, all_folder, problems, all_record })
    }
}

/// A question on several data, and what is asked of the estimator on each.
struct Together<'a> {
    args: &'a EstimateArgs,
    interrupt: &'a AtomicBool,
    question: &'a Question,
    requests: Vec<Request<'a>>,
}

impl Together<'_> {
    /// The folder of the runs: the one that was typed, or one named after the question.
    fn out(&self, preconditioner: PreconditionerSpec, estimator: EstimatorSpec) -> Result<PathBuf, CommandError> {
        if let Some(out) = &self.args.out {
            return Ok(out.clone());
        }
        let spec = self.requests[0].spec(preconditioner, estimator);
        let spec = RunSpec { problem: self.question.all_record.clone(), ..spec };
        default_out(&self.question.problems[0].model.name, &[spec], self.args)
    }

    /// Refuses a folder that holds anything but these runs, and folders of another question, before anything is computed. The last spec is that of
    /// all.
    fn check(&self, out: &Path, specs: impl Iterator<Item = RunSpec>) -> CommandResult {
        let Question { folders, all_folder, .. } = self.question;
        check_folder(out, folders, all_folder)?;
        for (asked, name) in specs.zip(folders.iter().map(String::as_str).chain([*all_folder])) {
            let folder = out.join(name);
            if folder.join(names::MANIFEST).exists() {
                let existing = folder::read_manifest(&folder)?;
                check_same(&existing, &Manifest { spec: asked, ..existing.clone() }, &folder, |_, asked| asked.clone())?;
            }
        }
        Ok(())
    }
}

/// The name of the run of all data.
fn name_of_all(count: usize) -> &'static str {
    if count == 2 { "both" } else { "all" }
}

/// What data are called: a path by its last part, everything else as it was typed.
fn data_name(data: &str) -> String {
    match Path::new(data).file_name() {
        Some(name) if Path::new(data).exists() => name.to_string_lossy().into_owned(),
        _ => data.to_owned(),
    }
}

/// A folder for each of the data: its name, with a dash for what file systems may not like.
fn folder_names(names: &[String]) -> Result<Vec<String>, CommandError> {
    let folder = |name: &String| -> String {
        let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' }).collect();
        if plain.trim_start_matches('.').is_empty() { "data".to_owned() } else { plain.trim_start_matches('.').to_owned() }
    };
    let folders: Vec<String> = names.iter().map(folder).collect();
    let all = name_of_all(names.len());
    for (k, name) in folders.iter().enumerate() {
        if folders[..k].contains(name) || name == all {
            return Err(CommandError::usage(format!(
                "two of the run folders would be called '{name}': rename one of the data files or estimate them apart"
            )));
        }
    }
    Ok(folders)
}

/// The record of all data: that of the first, with all data in the place of its own.
fn joint_record(records: &[&Map<String, Value>], names: &[String]) -> Map<String, Value> {
    let mut joint = records[0].clone();
    let parts: Vec<Value> = records.iter().filter_map(|record| record.get("data").cloned()).collect();
    joint.insert("data".to_owned(), json!({ "name": names.join(" and "), "names": names, "parts": parts }));
    if let Some(cost) = joint.get("cost").and_then(Value::as_str).map(str::to_owned) {
        joint.insert("cost".to_owned(), json!(format!("largest over the parts of the data of: {cost}")));
    }
    joint
}

/// Refuses a folder that holds anything but these runs.
fn check_folder(out: &Path, folders: &[String], all: &str) -> CommandResult {
    if out.join(names::MANIFEST).exists() {
        return Err(anyhow!("{} holds a single run, but several data sets are asked for: choose another folder", out.display()).into());
    }
    if !out.exists() {
        return Ok(());
    }
    folder::check_vacant_group(out, folders.iter().map(String::as_str).chain([all]))?;
    for folder in report::runs_inside(out)? {
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name != all && !folders.contains(&name) {
            return Err(anyhow!("{} holds a run of other data, {name}: choose another folder", out.display()).into());
        }
    }
    Ok(())
}

/// The data that a run is the run of all of.
fn parts_of(manifest: &Manifest) -> Option<&Vec<Value>> {
    manifest.spec.problem.get("data")?.get("parts")?.as_array()
}

/// Whether these are runs of several data and of all of them.
pub fn is_joint(manifests: &[Manifest]) -> bool {
    manifests.len() > 1 && manifests.iter().any(|manifest| parts_of(manifest).is_some())
}

/// Reads the runs of several data.
pub fn read(folders: &[PathBuf], manifests: &[Manifest]) -> Result<Box<dyn Runs>, CommandError> {
    let at = manifests.iter().position(|manifest| parts_of(manifest).is_some());
    let Some((at, order)) = at.and_then(|at| Some((at, parts_of(&manifests[at])?))) else {
        return Err(anyhow!("none of the runs is that of several data").into());
    };
    let all = &manifests[at];
    for (folder, manifest) in folders.iter().zip(manifests) {
        // The parts are asked the same question on other data.
        check_same(all, manifest, folder, |all, part| {
            let mut problem = part.problem.clone();
            for key in ["data", "cost"] {
                all.problem.get(key).map(|value| problem.insert(key.to_owned(), value.clone()));
            }
            RunSpec { problem, ..part.clone() }
        })?;
    }
    let mut parts = Vec::new();
    let names = all.spec.problem["data"]["names"].as_array().cloned().unwrap_or_default();
    for (k, data) in order.iter().enumerate() {
        let found = manifests.iter().position(|manifest| manifest.spec.problem.get("data") == Some(data));
        let name = names.get(k).and_then(Value::as_str).unwrap_or("data").to_owned();
        let missing = || anyhow!("{} is the run of several data, but that of {name} is not beside it", folders[at].display());
        let folder = folders[found.ok_or_else(missing)?].as_path();
        parts.push((folder, name));
    }
    if parts.len() + 1 != folders.len() {
        let other = folders.iter().find(|folder| **folder != folders[at] && parts.iter().all(|(part, _)| part != folder));
        let other = other.map_or_else(String::new, |folder| folder.display().to_string());
        return Err(anyhow!("{other} is the run of other data than {} is of: move it away", folders[at].display()).into());
    }
    match &all.spec.estimator {
        EstimatorSpec::Radial(_) => rays::read(&parts, &folders[at]),
        EstimatorSpec::Annealed(_) => chains::read(&parts, &folders[at]),
        other => Err(anyhow!("{}: the {} estimator has no runs of several data", folders[at].display(), other.name()).into()),
    }
}

/// What the sets have in common, in words: the dependence with its interval in nats, and that of nested sets to compare it with.
fn dependence_words(names: &[String], value: f64, interval: Option<(f64, f64)>, without: &str, nested: Option<f64>) -> String {
    let interval = match interval {
        Some((low, high)) => format!(", 95 % interval [{}, {}]", nats(low), nats(high)),
        None => format!(", {without}"),
    };
    let of = |name: &str| format!("ln P({name})");
    let terms: Vec<String> = names.iter().map(|name| of(name)).collect();
    let mut text =
        format!("Dependence: {} \u{2212} {} = {} nats{interval}.", of(&names.join(" and ")), terms.join(" \u{2212} "), nats(value));
    if let Some(nested) = nested {
        text += &format!(
            " Independent sets have 0, nested ones {}: this is {} of that.",
            nats(nested),
            if nested > 0.0 { format!("{:.1} %", 100.0 * value / nested) } else { "an unknown part".to_owned() }
        );
    }
    text
}

/// What one set inside all the others would have: the largest dependence there can be.
fn nested(volumes: impl Iterator<Item = f64> + Clone) -> f64 {
    volumes.clone().fold(f64::INFINITY, f64::min) - volumes.sum::<f64>()
}
