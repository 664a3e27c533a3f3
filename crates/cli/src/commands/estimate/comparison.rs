//! Runs of one or several estimators in a folder: found, checked against each other and shown.

use std::path::{Path, PathBuf};

use basin_volume::run::answer::{Answer, compared_half_width, verdict};
use basin_volume::run::folder::{self, FolderError};
use basin_volume::run::manifest::Manifest;
use basin_volume::spec::RunSpec;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Map, Value, json};

use super::{COMPARISON, FAMILIES, Runs, family, joint};
use crate::commands::{print, print_json};
use crate::error::{CommandError, CommandResult};
use crate::present::{align_right, interval_words, nats};

/// Runs of one estimator, and the folder that they stand in: their own if there is one, the folder above if they are a group.
pub struct Shelf {
    pub folder: PathBuf,
    pub is_group: bool,
    pub runs: Box<dyn Runs>,
}

/// Reads the runs that a folder of estimators (or run folder, or group) is made of.
pub fn read_shelf(folder: PathBuf, runs: &[PathBuf], is_group: bool) -> Result<Shelf, CommandError> {
    let manifests = runs.iter().map(|run| folder::read_manifest(run)).collect::<Result<Vec<Manifest>, _>>()?;
    if joint::is_joint(&manifests) {
        return Ok(Shelf { folder, is_group, runs: joint::read(runs, &manifests)? });
    }
    let name = manifests.first().map_or("radial", |manifest| manifest.spec.estimator.name());
    // Within a group only the preconditioners differ.
    for (run, manifest) in runs.iter().zip(&manifests) {
        check_same(&manifests[0], manifest, run, |first, other| RunSpec { preconditioner: first.preconditioner.clone(), ..other.clone() })?;
    }
    Ok(Shelf { folder, is_group, runs: family(name)?.read(runs)? })
}

/// Refuses a run whose spec, with what may differ replaced, is not that of the first.
pub fn check_same(first: &Manifest, other: &Manifest, folder: &Path, replaced: impl Fn(&RunSpec, &RunSpec) -> RunSpec) -> CommandResult {
    let same = Manifest { spec: replaced(&first.spec, &other.spec), ..other.clone() };
    let differences = first.differences(&same, false);
    if differences.is_empty() { Ok(()) } else { Err(FolderError::DifferentRun { path: folder.to_owned(), differences }.into()) }
}

/// Writes what the shelves hold, and shows it: one estimator as it shows itself, several with a table of all (in the folder `together`).
pub fn present_shelves(shelves: &[Shelf], together: Option<&Path>, out: &Path, as_json: bool) -> CommandResult {
    for shelf in shelves {
        shelf.runs.write(shelf.is_group.then_some(shelf.folder.as_path()))?;
    }
    let Some(together) = together else {
        return match shelves {
            [one] if as_json => print_results(one.runs.json()?),
            [one] => print(&format!("{}\nRun folder: {}", one.runs.text(), out.display())),
            _ => print("no runs"),
        };
    };
    let manifests: Vec<(&Path, &Manifest)> = shelves.iter().flat_map(|shelf| shelf.runs.manifests()).collect();
    if let Some(&(_, first)) = manifests.first() {
        for (folder, manifest) in &manifests {
            // Another estimator may be asked the same question.
            check_same(first, manifest, folder, |first, other| RunSpec {
                preconditioner: first.preconditioner.clone(),
                estimator: first.estimator.clone(),
                ..other.clone()
            })?;
        }
    }
    let answers: Vec<Answer> = shelves.iter().flat_map(|shelf| shelf.runs.answers()).collect();
    let verdict = verdict(&answers);
    let mut comparison = json!({ "answers": answers, "verdict": verdict });
    folder::write_json(&together.join(COMPARISON), &comparison)?;
    if as_json {
        let mut results = Map::new();
        for shelf in shelves {
            if let Some((_, manifest)) = shelf.runs.manifests().first() {
                results.insert(manifest.spec.estimator.name().to_owned(), Value::Array(shelf.runs.json()?));
            }
        }
        comparison["results"] = Value::Object(results);
        return print_json(&comparison);
    }
    let mut text = String::new();
    for shelf in shelves {
        text += &shelf.runs.text();
        text += "\n";
    }
    print(&format!("{text}All estimators together:\n{}\n\n{verdict}\nRun folder: {}", table(&answers), out.display()))
}

/// An object for one run, an array for several.
fn print_results(mut results: Vec<Value>) -> CommandResult {
    match results.len() {
        1 => print_json(&results.remove(0)),
        _ => print_json(&results),
    }
}

/// Seconds and gradients until the interval is one per cent wide to either side (a nat, if that is more): where the run is not there yet, a
/// forecast.
fn work_until(answer: &Answer) -> String {
    match answer.work_until(compared_half_width(answer.log_probability)) {
        None => "\u{2013}".to_owned(),
        Some(factor) if answer.gradients > 0 => {
            format!("{:.1} s, {:.0} gradients", factor * answer.seconds, (factor * answer.gradients as f64).ceil())
        }
        Some(factor) => format!("{:.1} s, {:.0} evaluations", factor * answer.seconds, (factor * answer.evaluations as f64).ceil()),
    }
}

/// One row per answer.
fn table(answers: &[Answer]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic).set_header([
        "estimator",
        "measures",
        "log-probability (nats)",
        "95 % interval",
        "trust",
        "seconds",
        "gradients",
        "evaluations",
        "until +-1 %",
        "to know",
    ]);
    // Only the words in the last column wrap.
    table.set_width(180);
    for answer in answers {
        table.add_row([
            answer.estimator.clone(),
            answer.measures.name().to_owned(),
            nats(answer.log_probability),
            interval_words(answer.interval),
            answer.trust.words().to_owned(),
            format!("{:.1}", answer.seconds),
            answer.gradients.to_string(),
            answer.evaluations.to_string(),
            work_until(answer),
            answer.reasons.first().cloned().unwrap_or_default(),
        ]);
    }
    align_right(&mut table, [2, 5, 6, 7]);
    table.to_string()
}

/// The folders that a folder of all estimators is made of: named after them, each a run folder or a group. Empty for any other folder.
pub fn estimator_folders(path: &Path) -> Vec<PathBuf> {
    FAMILIES.iter().map(|family| path.join(family.name())).filter(|folder| folder.is_dir()).collect()
}
