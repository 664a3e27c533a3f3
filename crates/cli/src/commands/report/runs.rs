//! The page of one run, or of several that answer the same question.

use std::path::Path;

use anyhow::Result;
use basin_volume::prior::Prior;
use basin_volume::run::answer::{Answer, verdict};
use basin_volume::run::manifest::Manifest;
use serde_json::{Value, json};

use super::page::{Cell, Page, Part, columns, drawings, flat};
use crate::commands::estimate::comparison::Shelf;
use crate::error::CommandError;
use crate::present::{grouped, interval_words, nats, problem_name};

/// The figures that a run or a group of runs may have, with their captions.
const DRAWINGS: [(&str, &str); 5] = [
    ("log_volumes", "log-volumes of the rays"),
    ("radii", "radius of each ray"),
    ("cost_along_rays", "cost along the first rays"),
    ("spectrum", "spectrum of the Fisher matrix"),
    ("ladder", "log-volume along the ladder, outward and back"),
];

/// The page of these runs, whose figures are drawn already.
pub fn page(shelves: &[Shelf], folder: &Path) -> Result<Page, CommandError> {
    let manifests: Vec<(&Path, &Manifest)> = shelves.iter().flat_map(|shelf| shelf.runs.manifests()).collect();
    let answers: Vec<Answer> = shelves.iter().flat_map(|shelf| shelf.runs.answers()).collect();
    let (title, lead) = manifests.first().map_or_else(|| ("Local volume".to_owned(), String::new()), |(_, first)| heading(first));
    let mut parts = vec![answer_table(&answers)];
    let mut said: Vec<(String, String)> = Vec::new();
    if answers.len() > 1 {
        let own: Vec<String> = shelves.iter().filter_map(|shelf| shelf.runs.verdict()).collect();
        said.push(("Together".to_owned(), if own.is_empty() { verdict(&answers) } else { own.join(" ") }));
    }
    for answer in &answers {
        if answer.reasons.is_empty() {
            said.push((answer.estimator.clone(), "Nothing speaks against this number.".to_owned()));
        }
        said.extend(answer.reasons.iter().map(|reason| (answer.estimator.clone(), reason.clone())));
    }
    parts.push(Part::Words { heading: "What to know".to_owned(), said });
    // Of a group the figures of all stand for those of each.
    let mut figures = Vec::new();
    for shelf in shelves {
        let of_group = if shelf.is_group { drawings(&shelf.folder, &DRAWINGS, "") } else { Vec::new() };
        if of_group.is_empty() {
            for (run, manifest) in shelf.runs.manifests() {
                let prefix = if manifests.len() > 1 { format!("{}: ", name(manifest)) } else { String::new() };
                figures.extend(drawings(run, &DRAWINGS, &prefix));
            }
        } else {
            figures.extend(of_group);
        }
    }
    parts.push(Part::Figures { heading: "Figures".to_owned(), figures });
    let results: Vec<Value> = shelves.iter().map(|shelf| shelf.runs.json()).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
    for (k, result) in results.iter().enumerate() {
        let name = if results.len() == manifests.len() { name(manifests[k].1) } else { "all runs".to_owned() };
        parts.push(Part::Settings { heading: format!("Result and diagnostics: {name}"), values: flat(result) });
    }
    for (run, manifest) in &manifests {
        let mut values = vec![("folder".to_owned(), run.display().to_string())];
        values.extend(flat(&json!(manifest)));
        parts.push(Part::Settings { heading: format!("Settings and provenance: {}", name(manifest)), values });
    }
    let lead = format!("{lead} Folder: {}.", folder.display());
    Ok(Page { title, lead, parts })
}

/// Estimator and preconditioner of a run, and its data if it is one of several.
fn name(manifest: &Manifest) -> String {
    let spec = &manifest.spec;
    match spec.estimator.name() {
        "radial" => format!("radial, {}", spec.preconditioner.label()),
        other => other.to_owned(),
    }
}

fn heading(manifest: &Manifest) -> (String, String) {
    let spec = &manifest.spec;
    let prior = match spec.prior {
        Prior::Gaussian { sigma } => format!("Gaussian prior, sigma {sigma:.6}"),
        Prior::Lebesgue => "flat prior".to_owned(),
        Prior::Sphere => "uniform prior on the sphere".to_owned(),
        _ => "a prior of its own".to_owned(),
    };
    let title = format!("Local volume of {} on {}", problem_name(manifest, "model"), problem_name(manifest, "data"));
    (title, format!("{} weights, cutoff {} nats, {prior}, seed {}.", grouped(spec.dimension), spec.cutoff, spec.seed))
}

fn answer_table(answers: &[Answer]) -> Part {
    let row = |answer: &Answer| {
        vec![
            Cell::text(&answer.estimator),
            Cell::text(answer.measures.name()),
            Cell::number(Some(answer.log_probability), nats),
            Cell::sorted_by(interval_words(answer.interval), answer.interval.0),
            Cell::text(answer.trust.words()),
            Cell::number(Some(answer.evaluations as f64), grouped),
            Cell::number(Some(answer.gradients as f64), grouped),
            Cell::number(Some(answer.seconds), |seconds| format!("{seconds:.1}")),
        ]
    };
    Part::Table {
        heading: answers.first().map_or_else(|| "Answer".to_owned(), |answer| capitalized(&answer.quantity)),
        columns: columns(&[
            "estimator",
            "measures",
            "log-probability, nats#",
            "95 % interval#",
            "trust",
            "evaluations#",
            "gradients#",
            "seconds#",
        ]),
        rows: answers.iter().map(row).collect(),
    }
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
