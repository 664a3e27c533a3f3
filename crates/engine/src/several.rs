//! Several data: the volume on each, the volume on all, and how they depend on each other.
//!
//! Every data set has a run folder of its own, as if it had been estimated alone; one more is that of all, the set where the largest of the costs
//! stays under the cutoff.

mod chains;
mod rays;

use std::path::{Path, PathBuf};

use basin_volume::run::driver::RunEnd;
use basin_volume::run::folder::{self, names};
use basin_volume::run::manifest::Manifest;
use basin_volume::spec::{EstimatorSpec, RunSpec};
use serde_json::{Map, Value, json};

use crate::comparison;
use crate::error::Error;
use crate::estimate::{Outcome, default_out};
use crate::estimators::{FAMILIES, Family, Request, Run, family, refuse_settings_of_others};
use crate::forecast::{Forecast, Pace, Work};
use crate::loaded::Loaded;
use crate::numbers::nats;
use crate::request::{CUTOFF, CostRequest, Estimate, REFERENCE_SCALE};
use crate::runs::{RunGroup, check_same, runs_inside};
use crate::session::Session;
use crate::spread::Task;
use crate::subject::Subject;

/// A subject on one of several data.
pub struct OnData<'a> {
    /// What the data are called.
    pub name: String,
    /// The subject on them.
    pub subject: &'a dyn Subject,
}

/// What data are called: a path by its last part, everything else as it was asked for.
#[must_use]
pub fn data_name(data: &str) -> String {
    match Path::new(data).file_name() {
        Some(name) if Path::new(data).exists() => name.to_string_lossy().into_owned(),
        _ => data.to_owned(),
    }
}

/// A model on each of the data of a request, and on the reference behind them if there is one.
///
/// # Errors
/// When data are given twice, or one cannot be loaded.
pub fn load(model: &str, request: &CostRequest, estimate: &Estimate, session: &Session) -> Result<Vec<(String, Loaded)>, Error> {
    let data: Vec<&String> = request.data.data.iter().chain(&estimate.reference).collect();
    if let Some(twice) = data.iter().enumerate().find(|(k, data_set)| data[..*k].contains(*data_set)) {
        return Err(Error::usage(format!("`data` names {} twice: leave one out", twice.1)));
    }
    let names: Vec<String> = data.iter().map(|data| data_name(data)).collect();
    folder_names(&names, name_of_all(request.data.data.len()))?;
    let load = |(name, data): (String, &&String)| Ok((name, Loaded::load(model, &request.on(data), session)?));
    names.into_iter().zip(&data).map(load).collect()
}

/// The estimator for several data, and what else can be seen to be wrong without any.
///
/// # Errors
/// [`Error::Usage`].
pub fn check(estimate: &Estimate) -> Result<&'static dyn Family, Error> {
    let capable: Vec<&str> = FAMILIES.iter().filter(|family| family.capabilities().several_data).map(|family| family.name()).collect();
    if !capable.contains(&estimate.estimator.as_str()) {
        return Err(Error::usage(format!(
            "several `data` are for `estimator={}`: leave all but one out with `estimator={}`",
            capable.join("` or `estimator="),
            estimate.estimator
        )));
    }
    let family = family(&estimate.estimator)?;
    estimate.ask.check()?;
    refuse_settings_of_others(estimate, &[family])?;
    if estimate.reference.is_some() && !family.capabilities().preconditioners {
        return Err(Error::usage(format!(
            "`reference` is for rays, which all data share: leave it out, or `estimator={}`",
            estimate.estimator
        )));
    }
    reference_scale(estimate)?;
    if family.capabilities().preconditioners {
        rays::preconditioner(estimate)?;
    }
    Ok(family)
}

/// How many times the cost of the reference counts; none without a reference.
fn reference_scale(estimate: &Estimate) -> Result<Option<f64>, Error> {
    match (&estimate.reference, estimate.reference_scale) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(Error::usage("`reference_scale` is of the data of `reference`: give both or none")),
        (Some(_), scale) => match scale.unwrap_or(REFERENCE_SCALE) {
            scale if scale > 0.0 && scale.is_finite() => Ok(Some(scale)),
            scale => Err(Error::usage(format!("`reference_scale` is {scale}: expected a number > 0"))),
        },
    }
}

/// The cutoff of a reference whose cost counts `scale` times, nats, without the last digits of the division: 0.0125 for 0.01 over 0.8.
fn reference_cutoff(cutoff: f64, scale: f64) -> f64 {
    let exact = cutoff / scale;
    format!("{exact:.9e}").parse().unwrap_or(exact)
}

/// Refuses what is for several data.
///
/// # Errors
/// [`Error::Usage`].
pub(crate) fn refuse_reference(estimate: &Estimate) -> Result<(), Error> {
    match estimate.reference.is_some() || estimate.reference_scale.is_some() {
        true => Err(Error::usage("`reference` is for the dependence of several `data`: give two or more, or leave it out")),
        false => Ok(()),
    }
}

/// Estimates the volume on each of several data, and on all of them; with a reference its data are the last.
///
/// # Errors
/// When something cannot be, or fails; what was computed before is kept.
pub fn run(estimate: &Estimate, on: &[OnData<'_>], session: &Session) -> Result<Outcome, Error> {
    if let Some(task) = Task::of(estimate.shard, estimate.out.as_deref())? {
        return task.estimate(estimate, session, |own, share| {
            let out = own.out.clone().map(|out| share.inside(out));
            run(&Estimate { out, ..own.clone() }, on, session)
        });
    }
    let family = check(estimate)?;
    let scale = reference_scale(estimate)?;
    if on.len() < 2 + usize::from(scale.is_some()) {
        refuse_reference(estimate)?;
    }
    let names: Vec<String> = on.iter().map(|on| on.name.clone()).collect();
    let all_folder = name_of_all(names.len() - usize::from(scale.is_some()));
    let folders = folder_names(&names, all_folder)?;
    let records: Vec<Map<String, Value>> = on.iter().map(|on| on.subject.record()).collect();
    if let Some((k, twice)) =
        records.iter().enumerate().find(|(k, record)| records[..*k].iter().any(|other| other.get("data") == record.get("data")))
    {
        let first = records.iter().position(|other| other.get("data") == twice.get("data")).unwrap_or(0);
        return Err(Error::usage(format!("`data={}` and `data={}` are the same data: leave one out", names[first], names[k])));
    }
    // Where its cost counts less, the reference's set is that of a larger cutoff.
    let mut on_reference = estimate.clone();
    on_reference.ask.cutoff = Some(reference_cutoff(estimate.ask.cutoff.unwrap_or(CUTOFF), scale.unwrap_or(1.0)));
    let asked = |k: usize| if scale.is_some() && k + 1 == on.len() { &on_reference } else { estimate };
    let requests = on
        .iter()
        .enumerate()
        .map(|(k, on)| Request::new(family, &[family], asked(k), on.subject, session))
        .collect::<Result<Vec<_>, Error>>()?;
    on.iter().filter_map(|on| on.subject.data_words()).for_each(|words| session.note(&words));
    let job = Job { estimate, session, requests, all_record: joint_record(&records, &names, scale), all_folder, names, folders, scale };
    if family.capabilities().preconditioners { rays::run(&job) } else { chains::run(&job) }
}

/// A question on several data, and what is asked of the estimator on each.
struct Job<'a> {
    estimate: &'a Estimate,
    session: &'a Session,
    requests: Vec<Request<'a>>,
    /// What the data are called.
    names: Vec<String>,
    /// The folder of each run, and of that of all.
    folders: Vec<String>,
    all_folder: &'static str,
    /// How many times the cost of the last counts, the reference's; none without one.
    scale: Option<f64>,
    /// What the run of all is about.
    all_record: Map<String, Value>,
}

impl Job<'_> {
    /// The folder of the runs: the one that was asked for, or one named after the question.
    fn out(&self, spec: RunSpec) -> Result<PathBuf, Error> {
        if let Some(out) = &self.estimate.out {
            return Ok(out.clone());
        }
        let spec = RunSpec { problem: self.all_record.clone(), ..spec };
        default_out(self.requests[0].subject.name(), &[spec], self.estimate)
    }

    /// Says how long it will take: the work on each of the data and, where there is one more, that on all, whose every cost is evaluated. What
    /// has begun has no forecast: nobody knows how much of it is left.
    fn tell_forecast(&self, out: &Path, works: impl Iterator<Item = Option<Work>>) -> Result<(), Error> {
        if out.exists() {
            return Ok(());
        }
        let needs_gradients = family(&self.estimate.estimator)?.capabilities().gradients;
        let mut paces =
            self.requests.iter().map(|request| Pace::of(request.subject, needs_gradients, self.session)).collect::<Result<Vec<_>, _>>()?;
        paces.push(Pace::together(&paces));
        let forecasts: Option<Vec<Forecast>> = works.zip(&paces).map(|(work, pace)| work.map(|work| work.at(pace))).collect();
        if let Some(forecasts) = forecasts {
            let words = Forecast::sum(&forecasts).words();
            self.session.note(&format!("Forecast for {} data: {words} on {} threads.", self.requests.len(), self.session.threads));
        }
        Ok(())
    }

    /// Refuses a folder that holds anything but these runs, and folders of another question, before anything is computed. The last spec is that of
    /// all.
    fn check(&self, out: &Path, specs: impl Iterator<Item = RunSpec>) -> Result<(), Error> {
        self.check_folder(out)?;
        for (asked, name) in specs.zip(self.folders.iter().map(String::as_str).chain([self.all_folder])) {
            let folder = out.join(name);
            if folder.join(names::MANIFEST).exists() {
                let existing = folder::read_manifest(&folder)?;
                folder::check_directions(&folder, &existing)?;
                check_same(&existing, &Manifest { spec: asked, ..existing.clone() }, &folder, |_, asked| asked.clone())?;
            }
        }
        Ok(())
    }

    /// Refuses a folder that holds anything but these runs.
    fn check_folder(&self, out: &Path) -> Result<(), Error> {
        let Self { folders, all_folder, .. } = self;
        if out.join(names::MANIFEST).exists() {
            return Err(Error::failed(format!(
                "{} holds a single run, but several data sets are asked for: choose another folder",
                out.display()
            )));
        }
        if !out.exists() {
            return Ok(());
        }
        folder::check_vacant_group(out, folders.iter().map(String::as_str).chain([*all_folder]))?;
        for folder in runs_inside(out)? {
            let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name != *all_folder && !folders.contains(&name) {
                return Err(Error::failed(format!("{} holds a run of other data, {name}: choose another folder", out.display())));
            }
        }
        Ok(())
    }

    /// What the runs say, the last of which is that of all if it is there.
    fn outcome(&self, folder: PathBuf, mut runs: Vec<Run>, end: RunEnd) -> Result<Outcome, Error> {
        runs.iter_mut().zip(labels(&self.names, self.scale)).for_each(|(run, name)| run.data = Some(name));
        let together = Some(Together::of(&self.names, &runs, self.scale));
        let group = RunGroup { folder: folder.clone(), is_group: true, runs, together, ladders: None };
        let outcome = Outcome { groups: vec![group], folder, is_together: false, end, left_out: Vec::new() };
        comparison::write(&outcome.groups, None)?;
        Ok(outcome)
    }
}

/// What runs of several data say together.
#[derive(Debug, Clone)]
pub struct Together {
    /// What the data are called.
    pub names: Vec<String>,
    /// The dependence as the estimator finds it, where the run of all is there.
    pub dependence: Option<Value>,
    /// What nested sets would have, nats.
    pub nested: f64,
    /// Both in words.
    pub words: Option<String>,
}

impl Together {
    /// The runs of each data, and that of all behind them if it is there.
    fn of(names: &[String], runs: &[Run], scale: Option<f64>) -> Self {
        let count = names.len().min(runs.len());
        let (parts, all) = (&runs[..count], runs.get(names.len()));
        if let (Some(_), Some(scale)) = (all, scale) {
            return rays::given_reference(names, parts, scale);
        }
        let nested = nested(parts.iter().map(|part| part.answer.log_probability));
        let mut together = Self { names: names.to_vec(), dependence: None, nested, words: None };
        if let Some(all) = all {
            let found = match &all.manifest.spec.estimator {
                EstimatorSpec::Radial(_) => rays::dependence_of(names, parts, nested),
                _ => chains::dependence_of(names, parts, all, nested),
            };
            together.dependence = Some(found.value);
            together.words = Some(found.words);
        }
        together
    }

    /// Everything side by side, as it is written to the folder above the runs.
    ///
    /// # Errors
    /// When a result cannot be written as JSON.
    pub fn json(&self, runs: &[Run]) -> Result<Value, Error> {
        let result = |run: &Run| -> Result<Value, Error> {
            let mut result = serde_json::to_value(run.result())?;
            result["data"] = json!(run.data);
            Ok(result)
        };
        let mut parts: Vec<Value> = runs.iter().map(result).collect::<Result<_, _>>()?;
        let Some(dependence) = &self.dependence else { return Ok(json!({ "parts": parts })) };
        let all = parts.pop();
        Ok(json!({ "parts": parts, "all": all, "dependence": dependence, "nested": self.nested, "verdict": self.words }))
    }
}

/// A dependence as its estimator finds it.
struct Dependent {
    value: Value,
    words: String,
}

/// The name of the run of all data.
fn name_of_all(count: usize) -> &'static str {
    if count == 2 { "both" } else { "all" }
}

/// What the runs are called: those of the data, the last a reference's where its cost counts so many times, and that of all.
fn labels(names: &[String], scale: Option<f64>) -> Vec<String> {
    let mut labels = names.to_vec();
    if let (Some(last), Some(_)) = (labels.last_mut(), scale) {
        *last += " (reference)";
    }
    labels.push(names.join(" and "));
    labels
}

/// A folder for each of the data: its name, with a dash for what file systems may not like.
fn folder_names(names: &[String], all: &str) -> Result<Vec<String>, Error> {
    let folder = |name: &String| -> String {
        let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' }).collect();
        if plain.trim_start_matches('.').is_empty() { "data".to_owned() } else { plain.trim_start_matches('.').to_owned() }
    };
    let folders: Vec<String> = names.iter().map(folder).collect();
    for (k, name) in folders.iter().enumerate() {
        if folders[..k].contains(name) || name == all {
            return Err(Error::usage(format!(
                "two of the run folders would be called '{name}': rename one of the data files or estimate them apart"
            )));
        }
    }
    Ok(folders)
}

/// The record of all data: that of the first, with all data in the place of its own.
fn joint_record(records: &[Map<String, Value>], names: &[String], scale: Option<f64>) -> Map<String, Value> {
    let mut joint = records[0].clone();
    let parts: Vec<Value> = records.iter().filter_map(|record| record.get("data").cloned()).collect();
    let mut data = json!({ "name": names.join(" and "), "names": names, "parts": parts });
    if let Some(scale) = scale {
        data["reference_scale"] = json!(scale);
    }
    joint.insert("data".to_owned(), data);
    if let Some(cost) = joint.get("cost").and_then(Value::as_str).map(str::to_owned) {
        joint.insert("cost".to_owned(), json!(format!("largest over the parts of the data of: {cost}")));
    }
    joint
}

/// How many times the cost of the last of the data counts in the run of all, if that is a reference.
fn scale_of(all: &Manifest) -> Option<f64> {
    all.spec.problem.get("data")?.get("reference_scale")?.as_f64()
}

/// The data that a run is the run of all of.
fn parts_of(manifest: &Manifest) -> Option<&Vec<Value>> {
    manifest.spec.problem.get("data")?.get("parts")?.as_array()
}

/// Whether these are runs of several data and of all of them.
pub(crate) fn is_of_several(manifests: &[Manifest]) -> bool {
    manifests.len() > 1 && manifests.iter().any(|manifest| parts_of(manifest).is_some())
}

/// Reads the runs of several data.
pub(crate) fn read(folder: PathBuf, folders: &[PathBuf], manifests: &[Manifest]) -> Result<RunGroup, Error> {
    let at = manifests.iter().position(|manifest| parts_of(manifest).is_some());
    let Some((at, order)) = at.and_then(|at| Some((at, parts_of(&manifests[at])?))) else {
        return Err(Error::failed("none of the runs is that of several data"));
    };
    let all = &manifests[at];
    let scale = scale_of(all);
    for (folder, manifest) in folders.iter().zip(manifests) {
        let is_reference = scale.is_some() && order.last() == manifest.spec.problem.get("data");
        // The parts are asked the same question on other data; a reference has a cutoff of its own.
        check_same(all, manifest, folder, |all, part| {
            let own = reference_cutoff(all.question.cutoff(), scale.unwrap_or(1.0));
            let is_its_own = is_reference && part.question.cutoff() == own;
            let question = if is_its_own { all.question } else { part.question };
            let mut problem = part.problem.clone();
            for key in ["data", "cost"] {
                all.problem.get(key).map(|value| problem.insert(key.to_owned(), value.clone()));
            }
            RunSpec { problem, question, ..part.clone() }
        })?;
    }
    let family = family(all.spec.estimator.name())?;
    if !family.capabilities().several_data {
        return Err(Error::failed(format!("{}: the {} estimator has no runs of several data", folders[at].display(), family.name())));
    }
    let (mut runs, mut names, mut used) = (Vec::new(), Vec::new(), Vec::new());
    let given = all.spec.problem["data"]["names"].as_array().cloned().unwrap_or_default();
    for (k, data) in order.iter().enumerate() {
        let found = manifests.iter().position(|manifest| manifest.spec.problem.get("data") == Some(data));
        let name = given.get(k).and_then(Value::as_str).unwrap_or("data").to_owned();
        let missing =
            || Error::failed(format!("{} is the run of several data, but that of {name} is not beside it", folders[at].display()));
        let found = found.ok_or_else(missing)?;
        runs.push(family.read(&folders[found])?);
        names.push(name);
        used.push(found);
    }
    if let Some(other) = (0..folders.len()).find(|k| *k != at && !used.contains(k)) {
        return Err(Error::failed(format!(
            "{} is the run of other data than {} is of: move it away",
            folders[other].display(),
            folders[at].display()
        )));
    }
    runs.push(family.read(&folders[at])?);
    let together = Some(Together::of(&names, &runs, scale));
    runs.iter_mut().zip(labels(&names, scale)).for_each(|(run, name)| run.data = Some(name));
    Ok(RunGroup { folder, is_group: true, runs, together, ladders: None })
}

/// What the sets have in common, in words: the dependence with its interval in nats, and that of nested sets to compare it with.
struct DependenceWords<'a> {
    names: &'a [String],
    /// The data inside whose set they are looked at.
    reference: Option<&'a str>,
    nats: f64,
    interval: Option<(f64, f64)>,
    /// Why there is no interval, where there is none.
    without: &'a str,
    nested: Option<f64>,
}

impl DependenceWords<'_> {
    fn say(&self) -> String {
        let interval = match self.interval {
            Some((low, high)) => format!(", 95 % interval [{}, {}]", nats(low), nats(high)),
            None => format!(", {}", self.without),
        };
        let given = self.reference.map_or_else(String::new, |reference| format!(" | {reference}"));
        let of = |name: &str| format!("ln P({name}{given})");
        let terms: Vec<String> = self.names.iter().map(|name| of(name)).collect();
        let (all, value) = (of(&self.names.join(" and ")), self.nats);
        let head = self.reference.map_or_else(|| "Dependence".to_owned(), |reference| format!("Dependence given {reference}"));
        let mut text = format!("{head}: {all} \u{2212} {} = {} nats{interval}.", terms.join(" \u{2212} "), nats(value));
        if let Some(nested) = self.nested {
            text += &format!(
                " Independent sets have 0, nested ones {}: this is {} of that.",
                nats(nested),
                if nested > 0.0 { format!("{:.1} %", 100.0 * value / nested) } else { "an unknown part".to_owned() }
            );
        }
        text
    }
}

/// What one set inside all the others would have: the largest dependence there can be.
fn nested(volumes: impl Iterator<Item = f64> + Clone) -> f64 {
    volumes.clone().fold(f64::INFINITY, f64::min) - volumes.sum::<f64>()
}
