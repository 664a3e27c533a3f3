//! The page of one run, or of several that answer the same question.

use std::path::Path;

use basin_volume::prior::Prior;
use basin_volume::run::answer::{Answer, verdict};
use basin_volume::run::manifest::Manifest;
use basin_volume::spec::EstimatorSpec;
use basin_volume_engine::comparison;
use basin_volume_engine::error::Error;
use basin_volume_engine::estimators::{Run, family};
use basin_volume_engine::numbers::{capitalized, grouped, nats};
use basin_volume_engine::runs::RunGroup;
use serde_json::json;

use crate::groups::error_words;
use crate::heading::{density_words, problem_name};
use crate::improvement::improvement;
use crate::page::{Cell, Page, Part, columns, drawings, flat};
use crate::prose::said_once;

/// The figures that a run or a group of runs may have, with their captions.
pub(crate) const DRAWINGS: [(&str, &str); 5] = [
    ("log_volumes", "log-volumes of the rays"),
    ("radii", "radius of each ray"),
    ("cost_along_rays", "cost along the first rays"),
    ("spectrum", "spectrum of the Fisher matrix"),
    ("ladder", "log-volume along the ladder, outward and back"),
];

/// The page of these runs, whose figures are drawn already.
///
/// # Errors
/// When a result cannot be written as JSON.
pub fn run_page(groups: &[RunGroup], folder: &Path) -> Result<Page, Error> {
    let runs: Vec<&Run> = groups.iter().flat_map(|group| &group.runs).collect();
    let answers: Vec<Answer> = groups.iter().flat_map(RunGroup::answers).collect();
    let (title, lead) = runs.first().map_or_else(|| ("Local volume".to_owned(), String::new()), |first| heading(&first.manifest));
    let together: Vec<String> = groups.iter().filter_map(|group| group.together.as_ref()?.words.clone()).collect();
    let mut verdict = if together.is_empty() { verdict(&answers) } else { together };
    verdict.extend(improvement(groups));
    let of_all = |sentence: String| (String::new(), sentence);
    let reasons = answers.iter().flat_map(|answer| {
        let others = answer.reasons.iter().filter(|reason| **reason != answer.meaning);
        others.map(|reason| (answer.estimator.clone(), reason.as_str()))
    });
    let said = said_once(reasons).into_iter().map(|(names, reason)| (names.join("; "), reason.to_owned())).collect();
    let mut parts = vec![
        Part::Words { heading: "Verdict".to_owned(), said: verdict.into_iter().map(of_all).collect() },
        answer_table(&answers),
        Part::Words { heading: "What to know".to_owned(), said },
    ];
    // Of a group the figures of all stand for those of each.
    let mut figures = Vec::new();
    for group in groups {
        let of_group = if group.is_group { drawings(&group.folder, &DRAWINGS, "") } else { Vec::new() };
        if of_group.is_empty() {
            for run in &group.runs {
                let prefix = if runs.len() > 1 { format!("{}: ", name(&run.manifest)) } else { String::new() };
                figures.extend(drawings(&run.folder, &DRAWINGS, &prefix));
            }
        } else {
            figures.extend(of_group);
        }
    }
    parts.push(Part::Figures { heading: "Figures".to_owned(), figures });
    for group in groups {
        if group.together.is_some() {
            let values = flat(&comparison::json(std::slice::from_ref(group), false)?);
            parts.push(Part::Settings { heading: "Result and diagnostics: all runs".to_owned(), values });
            continue;
        }
        for run in &group.runs {
            let heading = format!("Result and diagnostics: {}", name(&run.manifest));
            parts.push(Part::Settings { heading, values: flat(&json!(run.result())) });
        }
    }
    for run in &runs {
        let mut values = vec![("folder".to_owned(), run.folder.display().to_string())];
        values.extend(flat(&json!(run.manifest)));
        parts.push(Part::Settings { heading: format!("Settings and provenance: {}", name(&run.manifest)), values });
    }
    let lead = format!("{lead} Folder: {}.", folder.display());
    Ok(Page { title, lead, parts })
}

/// Estimator and preconditioner of a run, and its data if it is one of several.
fn name(manifest: &Manifest) -> String {
    let spec = &manifest.spec;
    let estimator = spec.estimator.name();
    if family(estimator).is_ok_and(|family| family.capabilities().preconditioners) {
        format!("{estimator}, {}", spec.preconditioner.label())
    } else {
        estimator.to_owned()
    }
}

fn heading(manifest: &Manifest) -> (String, String) {
    let spec = &manifest.spec;
    if let EstimatorSpec::Llc(settings) = &spec.estimator {
        let title = format!("Learning coefficient of {} on {}", problem_name(manifest, "model"), problem_name(manifest, "data"));
        let (dimension, seed) = (grouped(spec.dimension), spec.question.seed());
        return (title, format!("{dimension} weights, {}, seed {seed}.", density_words(settings, manifest)));
    }
    let prior = match spec.question.prior() {
        Prior::Gaussian { sigma } => format!("Gaussian prior, sigma {sigma:.6}"),
        Prior::Lebesgue => "flat prior".to_owned(),
        Prior::Sphere => "uniform prior on the sphere".to_owned(),
        _ => "a prior of its own".to_owned(),
    };
    let title = format!("Local volume of {} on {}", problem_name(manifest, "model"), problem_name(manifest, "data"));
    (title, format!("{} weights, cutoff {} nats, {prior}, seed {}.", grouped(spec.dimension), spec.question.cutoff(), spec.question.seed()))
}

fn answer_table(answers: &[Answer]) -> Part {
    let row = |answer: &Answer| {
        vec![
            Cell::text(&answer.estimator),
            Cell::number(Some(answer.number()), nats),
            Cell::sorted_by(error_words(answer), answer.interval.0),
            Cell::text(answer.set()),
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
            if answers.iter().all(Answer::is_volume) { "log-probability, nats#" } else { "estimate#" },
            "95 % interval#",
            "set",
            "trust",
            "evaluations#",
            "gradients#",
            "seconds#",
        ]),
        rows: answers.iter().map(row).collect(),
    }
}
