//! Several `--data`: the volume on each, the volume on all, and how they depend on each other.
//!
//! All data sets share their rays, so that the crossing of the largest of the costs is the first of the crossings and the sampling error
//! that they have in common cancels from the dependence. Every data set has a run folder of its own, as if it had been estimated alone; one
//! more holds the rays of all.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::anyhow;
use basin_volume::estimator::joint::{Dependence, dependence, first_crossings};
use basin_volume::estimator::radial::Sample;
use basin_volume::prior::Prior;
use basin_volume::run::answer::Answer;
use basin_volume::run::driver::RunEnd;
use basin_volume::run::folder::{self, RunFolder, names};
use basin_volume::run::manifest::Manifest;
use basin_volume::run::record::Record;
use basin_volume::run::result::RunResult;
use basin_volume::spec::{EstimatorSpec, RunSpec};
use basin_volume::statistics::IntervalSettings;
use rayon::ThreadPoolBuilder;
use serde_json::{Map, Value, json};

use super::comparison::{Shelf, check_same, present_shelves};
use super::radial::{self, Setup};
use super::{COMPARISON, Request, Runs, chosen, default_out, ended, parse_settings, refuse_flags_of_others};
use crate::args::{EstimateArgs, EstimatorChoice};
use crate::commands::report;
use crate::error::{CommandError, CommandResult};
use crate::preconditioning;
use crate::present::{self, By, Run, nats};
use crate::problem::{Interruptible, Problem};

/// `estimate` with several data sets.
pub fn run(args: &EstimateArgs, interrupt: &AtomicBool) -> CommandResult {
    if args.estimator != EstimatorChoice::Radial {
        return Err(CommandError::usage(format!(
            "several --data are for --estimator radial, whose rays they share: leave all but one out with --estimator {}",
            args.estimator.name()
        )));
    }
    let choice = match args.preconditioner.as_slice() {
        [] => "none",
        [one] => one,
        several => {
            return Err(CommandError::usage(format!(
                "several --data share their rays, so they take one preconditioner: leave all but one of {} out",
                several.join(", ")
            )));
        }
    };
    let families = chosen(args)?;
    refuse_flags_of_others(args, &families)?;
    let set = parse_settings(args, &families)?;
    let data = &args.problem.data.data;
    if let Some(twice) = data.iter().enumerate().find(|(k, data_set)| data[..*k].contains(data_set)) {
        return Err(CommandError::usage(format!("--data names {} twice: leave one out", twice.1)));
    }
    let names: Vec<String> = data.iter().map(|data| data_name(data)).collect();
    let folders = folder_names(&names)?;
    let problems: Vec<Problem> =
        data.iter().map(|data| Problem::resolve(&args.problem.on(data), &args.rays, interrupt)).collect::<Result<_, _>>()?;
    let requests: Vec<Request<'_>> = problems.iter().map(|problem| Request::new(families[0], args, problem, &set, interrupt)).collect();
    let first = &requests[0];
    let settings = radial::settings(first)?;
    let samples = first.samples(radial::SAMPLES)?;
    radial::check_maps(args, first.problem)?;
    preconditioning::check_proposal(choice, first.problem, &args.rays, settings.proposal)?;
    let at_hand = match preconditioning::computed(choice) {
        Some(_) => None,
        None => Some(radial::resolve(first, settings, choice, None)?),
    };
    let records: Vec<&Map<String, Value>> = problems.iter().map(|problem| &problem.record).collect();
    if let Some((k, twice)) =
        records.iter().enumerate().find(|(k, record)| records[..*k].iter().any(|other| other.get("data") == record.get("data")))
    {
        let first = records.iter().position(|other| other.get("data") == twice.get("data")).unwrap_or(0);
        return Err(CommandError::usage(format!("--data {} and --data {} are the same data: leave one out", data[first], data[k])));
    }
    let (all_record, all_folder) = (joint_record(&records, &names), name_of_all(records.len()));
    let asked = at_hand.as_ref().map_or_else(|| preconditioning::placeholder(choice, &args.rays), |found| found.spec.clone());
    let estimator = EstimatorSpec::Radial(settings);
    let out = match &args.out {
        Some(out) => out.clone(),
        None => {
            let spec = first.spec(asked, estimator.clone());
            default_out(&first.problem.model.name, &[RunSpec { problem: all_record.clone(), ..spec }], args)?
        }
    };
    check_folder(&out, &folders, all_folder)?;
    // A curvature is that of the cost on the first data: the rays have to be the same for all.
    let preconditioning = match at_hand {
        Some(found) => found,
        None => radial::resolve(first, settings, choice, Some(&out.join(&folders[0])))?,
    };
    let spec = |request: &Request<'_>| request.spec(preconditioning.spec.clone(), estimator.clone());
    let all_spec = RunSpec { problem: all_record, ..spec(first) };
    // Folders of another question are refused before anything is computed.
    let specs = requests.iter().map(spec).chain([all_spec.clone()]);
    for (asked, name) in specs.zip(folders.iter().map(String::as_str).chain([all_folder])) {
        let folder = out.join(name);
        if folder.join(names::MANIFEST).exists() {
            let existing = folder::read_manifest(&folder)?;
            check_same(&existing, &Manifest { spec: asked, ..existing.clone() }, &folder, |_, asked| asked.clone())?;
        }
    }
    let mut parts = Vec::new();
    let mut end = RunEnd::Completed;
    for (request, name) in requests.iter().zip(&folders) {
        if end == RunEnd::Interrupted {
            break;
        }
        let problem = request.problem;
        let resources = radial::resources(request, std::slice::from_ref(&preconditioning), settings)?;
        let pool = ThreadPoolBuilder::new().num_threads(request.threads.get()).build()?;
        let objective = pool.install(|| problem.objective(&resources))?;
        let objective = Interruptible { objective: &*objective, interrupt, is_calibrating: AtomicBool::new(false) };
        let setup = Setup { args, problem, objective, resources, settings, samples, pool };
        match radial::one_run(&setup, &preconditioning, (spec(request), name), &out.join(name)) {
            Ok((run, ended)) => {
                end = ended;
                parts.push(Run { data: Some(names[parts.len()].clone()), ..run });
            }
            Err(CommandError::Interrupted) if !parts.is_empty() => end = RunEnd::Interrupted,
            Err(error) => return Err(error),
        }
    }
    let all = if parts.len() == requests.len() { Some(together(&parts, all_spec, &out.join(all_folder))?) } else { None };
    let runs: Box<dyn Runs> = Box::new(JointRuns { parts, all });
    present_shelves(&[Shelf { folder: out.clone(), is_group: true, runs }], None, &out, args.json)?;
    ended(end)
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

/// The run of all data: the first crossings of every ray that all parts have.
fn together(parts: &[Run], spec: RunSpec, folder: &Path) -> Result<Run, CommandError> {
    let first = &parts[0].manifest;
    let mut manifest = Manifest::new(spec, first.center_norm_squared, None, first.samples, first.shard);
    manifest.dual_norm_squared = first.dual_norm_squared;
    manifest.notes = first.notes.clone();
    manifest.notes.remove("data");
    let slices: Vec<&[Sample]> = parts.iter().map(|part| part.samples.as_slice()).collect();
    let (mut run_folder, present) = RunFolder::open::<Sample>(folder, &manifest)?;
    let present: BTreeSet<u64> = present.iter().map(Record::index).collect();
    let samples = first_crossings(&slices);
    for sample in samples.iter().filter(|sample| !present.contains(&sample.index)) {
        run_folder.append(sample)?;
    }
    let manifest = folder::read_manifest(folder)?;
    let result = RunResult::of(&manifest, &samples, parts.iter().map(|part| part.result.seconds).sum());
    run_folder.write_result(&result)?;
    Ok(Run { folder: folder.to_owned(), manifest, samples, result, data: None })
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
        let name = names.get(k).and_then(Value::as_str).unwrap_or("data");
        let missing = || anyhow!("{} is the run of several data, but that of {name} is not beside it", folders[at].display());
        let run = radial::read(&folders[found.ok_or_else(missing)?])?;
        parts.push(Run { data: Some(name.to_owned()), ..run });
    }
    if parts.len() + 1 != folders.len() {
        let other = folders.iter().find(|folder| **folder != folders[at] && parts.iter().all(|part| part.folder != **folder));
        let other = other.map_or_else(String::new, |folder| folder.display().to_string());
        return Err(anyhow!("{other} is the run of other data than {} is of: move it away", folders[at].display()).into());
    }
    Ok(Box::new(JointRuns { parts, all: Some(radial::read(&folders[at])?) }))
}

/// One run per data set, and that of all unless it was interrupted before.
struct JointRuns {
    parts: Vec<Run>,
    all: Option<Run>,
}

impl JointRuns {
    fn dependence(&self) -> Dependence {
        let slices: Vec<&[Sample]> = self.parts.iter().map(|part| part.samples.as_slice()).collect();
        let seed = self.parts.first().map_or(0, |part| part.manifest.spec.seed);
        dependence(&slices, IntervalSettings { seed, ..IntervalSettings::default() })
    }

    fn runs(&self) -> impl Iterator<Item = &Run> {
        self.parts.iter().chain(&self.all)
    }

    /// What one set inside all the others would have: the largest dependence there can be.
    fn nested(&self) -> f64 {
        let volumes = self.parts.iter().map(|part| part.result.summary.log_volume.log_mean_exp);
        volumes.clone().fold(f64::INFINITY, f64::min) - volumes.sum::<f64>()
    }

    /// The dependence in words.
    fn verdict(&self, dependence: &Dependence) -> String {
        let Some(value) = dependence.nats else { return "The dependence is unknown: not every volume has a finite estimate.".to_owned() };
        let is_flat = self.parts.iter().any(|part| matches!(part.manifest.spec.prior, Prior::Lebesgue));
        let interval = match dependence.interval.and_then(|interval| Some((interval.low, interval.high?))) {
            Some((low, high)) => format!(", 95 % interval [{}, {}]", nats(low), nats(high)),
            None => ", without an interval: a volume that is carried by few rays leaves both ends unknown".to_owned(),
        };
        let names: Vec<String> = self.parts.iter().map(|part| By::Data.name(part)).collect();
        let of = |name: &str| format!("ln P({name})");
        let terms: Vec<String> = names.iter().map(|name| of(name)).collect();
        let mut text =
            format!("Dependence: {} \u{2212} {} = {} nats{interval}.", of(&names.join(" and ")), terms.join(" \u{2212} "), nats(value));
        if is_flat {
            text += " These are volumes, whose logarithms depend on units, so only differences between dependences mean something.";
        } else {
            text += &format!(
                " Independent sets have 0, nested ones {}: this is {} of that.",
                nats(self.nested()),
                if self.nested() > 0.0 { format!("{:.1} %", 100.0 * value / self.nested()) } else { "an unknown part".to_owned() }
            );
        }
        text
    }
}

impl Runs for JointRuns {
    fn manifests(&self) -> Vec<(&Path, &Manifest)> {
        self.runs().map(|run| (run.folder.as_path(), &run.manifest)).collect()
    }

    fn write(&self, group: Option<&Path>) -> CommandResult {
        for run in self.runs() {
            folder::write_json(&run.folder.join(names::RESULT), &run.result)?;
            present::figures(&[run], By::Data, &run.folder)?;
        }
        if let Some(group) = group {
            fs::create_dir_all(group)?;
            present::figures(&self.runs().collect::<Vec<_>>(), By::Data, group)?;
            folder::write_json(&group.join(COMPARISON), &self.comparison()?)?;
        }
        Ok(())
    }

    fn text(&self) -> String {
        let runs: Vec<&Run> = self.runs().collect();
        let mut text = present::report(&runs, By::Data);
        if self.all.is_some() {
            text += &format!("\n{}\n", self.verdict(&self.dependence()));
        }
        text
    }

    fn json(&self) -> Result<Vec<Value>, CommandError> {
        Ok(vec![self.comparison()?])
    }

    fn answers(&self) -> Vec<Answer> {
        self.runs()
            .map(|run| {
                let answer = Answer::from(&run.result);
                Answer { estimator: format!("{}, on {}", answer.estimator, By::Data.name(run)), ..answer }
            })
            .collect()
    }
}

impl JointRuns {
    /// Everything side by side, as it is written to the folder above the runs.
    fn comparison(&self) -> Result<Value, CommandError> {
        let result = |run: &Run| -> Result<Value, serde_json::Error> {
            let mut result = serde_json::to_value(&run.result)?;
            result["data"] = json!(By::Data.name(run));
            Ok(result)
        };
        let parts: Vec<Value> = self.parts.iter().map(result).collect::<Result<_, _>>()?;
        let Some(all) = &self.all else { return Ok(json!({ "parts": parts })) };
        let dependence = self.dependence();
        let verdict = self.verdict(&dependence);
        Ok(json!({ "parts": parts, "all": result(all)?, "dependence": dependence, "nested": self.nested(), "verdict": verdict }))
    }
}
