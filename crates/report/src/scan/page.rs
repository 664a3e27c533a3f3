//! The page of a scan.

use std::path::Path;

use basin_volume_engine::numbers::{interval_words, nats};
use basin_volume_engine::scan::{Row, ScanFile, ScanKind, Summary, short};
use serde_json::{Value, json};

use super::figures::DRAWINGS;
use crate::page::{Cell, Page, Part, columns, drawings, flat};

/// The page of a scan whose figures are drawn already.
#[must_use]
pub fn page(folder: &Path, file: &ScanFile, summary: &Summary) -> Page {
    let mut models: Vec<&str> = file.targets.iter().map(|target| target.name.as_str()).collect();
    if file.kind() == ScanKind::Components {
        // The parts of one model.
        models = file.targets.iter().take(1).map(|target| target.model.as_str()).collect();
    }
    let what = match file.kind() {
        ScanKind::Histogram => "Log-volumes of rays".to_owned(),
        ScanKind::Models => "Local volumes".to_owned(),
        ScanKind::Checkpoints => "Local volume along the training".to_owned(),
        ScanKind::Components => "Local volume of the parts of a network".to_owned(),
        kind => format!("Local volume against {}", kind.name()),
    };
    let mut figures = drawings(folder, &DRAWINGS, "");
    let captioned = |(caption, svg): (String, String)| match &file.sigma {
        Some(sigma) => (format!("{caption}; sigma {:.4} for all points", sigma.value), svg),
        None => (caption, svg),
    };
    if models.len() > 1 {
        for model in &models {
            figures.extend(drawings(folder, &[(&format!("histogram_{model}"), "log-volumes of the rays")], &format!("{model}: ")));
        }
    }
    let slopes = summary.slope_words().into_iter().zip(&summary.slopes).map(|(words, slope)| {
        let name = format!("{}, {}", slope.target, slope.method);
        let words = words.strip_prefix(&format!("{name}: f")).map_or(words.clone(), |rest| format!("F{rest}"));
        (name, words)
    });
    let reasons = summary.reasons().into_iter().map(|(reason, places)| (places, reason));
    let prior = file.sigma.as_ref().map_or_else(String::new, |sigma| format!("{} ", sigma.words()));
    let lead = format!("{} of {} points are there. {prior}Folder: {}.", count_points(&summary.rows), file.points.len(), folder.display());
    Page {
        title: format!("{what}: {}", models.join(", ")),
        lead,
        parts: vec![
            verdict(summary),
            Part::Figures { heading: "Figures".to_owned(), figures: figures.into_iter().map(captioned).collect() },
            Part::Words { heading: "Slope against ln cutoff".to_owned(), said: slopes.collect() },
            table(file.kind(), &summary.rows),
            Part::Words { heading: "What to know".to_owned(), said: reasons.collect() },
            differences(summary),
            Part::Settings { heading: "Settings".to_owned(), values: flat(&Value::Object(file.settings.clone())) },
            Part::Settings { heading: "Provenance".to_owned(), values: provenance(folder, file) },
        ],
    }
}

/// What is said of all points.
fn verdict(summary: &Summary) -> Part {
    let of_all = |sentence: String| (String::new(), sentence);
    Part::Words { heading: "Verdict".to_owned(), said: summary.verdict().into_iter().map(of_all).collect() }
}

/// Runs, not the beginnings of one.
fn count_points(rows: &[Row]) -> usize {
    let mut folders: Vec<&str> = rows.iter().map(|row| row.folder.as_str()).collect();
    folders.dedup();
    folders.len()
}

fn table(kind: ScanKind, rows: &[Row]) -> Part {
    let row = |row: &Row| {
        vec![
            Cell::text(&row.target),
            Cell::text(row.method()),
            Cell::number(row.value, short),
            Cell::number(row.estimate(), nats),
            Cell::sorted_by(interval_words(row.answer.interval), row.answer.interval.0),
            Cell::text(row.answer.trust.words()),
            Cell::number(row.bits_per_parameter, |bits| format!("{bits:.4}")),
            Cell::number(row.mean, nats),
            Cell::number(row.sd, nats),
            Cell::number(row.effective_sample_size, |size| format!("{size:.1}")),
            Cell::number(row.pareto_k, |k| format!("{k:.2}")),
            Cell::number(row.samples.map(|n| n as f64), |n| n.to_string()),
            Cell::number(Some(row.answer.seconds), |seconds| format!("{seconds:.1}")),
        ]
    };
    let value = format!("{}#", kind.value_name());
    let names = [
        "model",
        "method",
        &value,
        "log-probability, nats#",
        "95 % interval#",
        "trust",
        "bits per weight#",
        "mean of the rays#",
        "their sd#",
        "ESS#",
        "Pareto k#",
        "samples#",
        "seconds#",
    ];
    Part::Table { heading: "Points".to_owned(), columns: columns(&names), rows: rows.iter().map(row).collect() }
}

fn differences(summary: &Summary) -> Part {
    let rows = summary.differences.iter().map(|difference| {
        let (this, other) = difference.words(&summary.scan);
        let found = &difference.found;
        let interval = |interval: Option<basin_volume::statistics::Interval>| {
            let words = interval.map_or_else(|| "unknown".to_owned(), |interval| interval_words(interval.into()));
            Cell::sorted_by(words, interval.map(|interval| interval.low))
        };
        vec![
            Cell::text(this),
            Cell::text(other),
            Cell::number(found.value, nats),
            interval(found.interval),
            Cell::number(found.typical, nats),
            interval(found.typical_interval),
            Cell::number(Some(found.rays as f64), |n| n.to_string()),
        ]
    });
    Part::Table {
        heading: "Differences along common rays".to_owned(),
        columns: columns(&[
            "point",
            "less",
            "log-probability, nats#",
            "95 % interval#",
            "typical ray, nats#",
            "its 95 % interval#",
            "rays#",
        ]),
        rows: rows.collect(),
    }
}

/// The program, and where the first run of every model says that it comes from.
fn provenance(folder: &Path, file: &ScanFile) -> Vec<(String, String)> {
    let mut values = vec![("software".to_owned(), file.software.clone())];
    for target in &file.targets {
        let mut runs = file.points.iter().filter(|point| point.target == target.name).map(|point| folder.join(&point.folder));
        if let Some(manifest) = runs.find_map(|run| basin_volume::run::folder::read_manifest(&run).ok()) {
            let spec = json!({ "problem": manifest.spec.problem, "notes": manifest.notes, "dimension": manifest.spec.dimension });
            values.extend(flat(&spec).into_iter().map(|(name, value)| (format!("{}: {name}", target.name), value)));
        }
    }
    values
}
