//! How results look: the table, the words, the figures of run folders.

use std::path::{Path, PathBuf};

use anyhow::Result;
use basin_volume::estimator::radial::Sample;
use basin_volume::prior::Prior;
use basin_volume::run::manifest::Manifest;
use basin_volume::run::result::RunResult;
use comfy_table::{CellAlignment, Table, presets};

pub mod spectral;

use crate::plot::{self, Histogram, RadiusTrace, RayProfile, histogram, profile, trace};

/// One run, read or just computed.
pub struct Run {
    pub folder: PathBuf,
    pub manifest: Manifest,
    pub samples: Vec<Sample>,
    pub result: RunResult,
    /// What tells it from runs of other data, as it was typed.
    pub data: Option<String>,
}

/// What tells the runs of a table apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Where the directions come from.
    Preconditioner,
    /// What the behaviour is compared on.
    Data,
}

impl By {
    /// The heading of its column.
    fn heading(self) -> &'static str {
        match self {
            Self::Preconditioner => "preconditioner",
            Self::Data => "data",
        }
    }

    /// The cell of a run.
    pub fn name(self, run: &Run) -> String {
        match self {
            Self::Preconditioner => run.result.directions(),
            Self::Data => run.data.clone().unwrap_or_else(|| problem_name(&run.manifest, "data")),
        }
    }

    /// The legend of a run.
    fn label(self, run: &Run) -> String {
        match (self, self.name(run).as_str()) {
            (Self::Preconditioner, "none") => "no preconditioner".to_owned(),
            (Self::Preconditioner, name) => format!("preconditioner {name}"),
            (Self::Data, name) => name.to_owned(),
        }
    }
}

/// The name of the model or of the data.
pub fn problem_name(manifest: &Manifest, key: &str) -> String {
    let problem = &manifest.spec.problem;
    problem.get(key).and_then(|m| m.get("name")).and_then(|n| n.as_str()).unwrap_or("?").to_owned()
}

/// How many rays of each run are drawn in the figure of the costs.
const RAYS_DRAWN: usize = 8;

/// A number of nats: grouped by thousands, two decimals where they can be told from the error.
pub fn nats(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() {
            "unknown".to_owned()
        } else if value > 0.0 {
            "\u{221e}".to_owned()
        } else {
            "\u{2212}\u{221e}".to_owned()
        };
    }
    let decimals = if value.abs() < 1e4 { 2 } else { 0 };
    let text = format!("{:.decimals$}", value.abs());
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(w, f)| (w, Some(f)));
    let grouped = grouped(whole);
    let sign = if value < 0.0 && text.chars().any(|c| ('1'..='9').contains(&c)) { "\u{2212}" } else { "" };
    match fraction {
        Some(fraction) => format!("{sign}{grouped}.{fraction}"),
        None => format!("{sign}{grouped}"),
    }
}

/// Digits with a comma between groups of three.
pub fn grouped(digits: impl ToString) -> String {
    let digits = digits.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn interval(run: &Run) -> String {
    let interval = run.result.summary.log_volume.interval;
    interval_words((Some(interval.low).filter(|low| low.is_finite() || interval.high.is_some()), interval.high))
}

/// An interval in words, whose ends may be unknown.
pub fn interval_words(interval: (Option<f64>, Option<f64>)) -> String {
    match interval {
        (Some(low), Some(high)) => format!("[{}, {}]", nats(low), nats(high)),
        (Some(low), None) => format!("\u{2265} {}", nats(low)),
        (None, Some(high)) => format!("\u{2264} {}", nats(high)),
        (None, None) => "unknown".to_owned(),
    }
}

/// Sets the cells of these columns, which hold numbers, at their right edge.
pub fn align_right(table: &mut Table, columns: impl IntoIterator<Item = usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// The table of one or several runs.
fn table(runs: &[&Run], by: By) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header([
        by.heading(),
        "rays",
        "log-mean-exp (nats)",
        "95 % interval",
        "mean",
        "sd",
        "max",
        "ESS",
        "Pareto k",
        "bits/weight",
        "evaluations/ray",
        "ms/ray",
    ]);
    for run in runs {
        let (result, volume) = (&run.result, &run.result.summary.log_volume);
        table.add_row([
            by.name(run),
            result.samples.to_string(),
            nats(volume.log_mean_exp),
            interval(run),
            nats(volume.mean),
            nats(volume.sd),
            nats(volume.max),
            format!("{:.1}", result.summary.effective_sample_size),
            result.summary.pareto_k.map_or("\u{2013}".to_owned(), |k| if k > 10.0 { "> 10".to_owned() } else { format!("{k:.2}") }),
            result.bits_per_parameter.map_or("\u{2013}".to_owned(), |bits| format!("{bits:.4}")),
            format!("{:.1} (median {})", result.evaluations_per_sample, result.evaluations_median),
            format!("{:.1}", 1e3 * result.seconds / result.samples.max(1) as f64),
        ]);
    }
    align_right(&mut table, 1..12);
    table.to_string()
}

/// What was measured on which data, in a line.
fn heading(manifest: &Manifest, data: &str, quantity: &str) -> String {
    let spec = &manifest.spec;
    let sigma = match spec.prior {
        Prior::Gaussian { sigma } => format!(", sigma {sigma:.6}"),
        _ => String::new(),
    };
    format!("Local volume of {} on {data}: {quantity}, cutoff {} nats{sigma}", problem_name(manifest, "model"), spec.cutoff)
}

/// Title line, table and words. Of several data the last run is that of all.
pub fn report(runs: &[&Run], by: By) -> String {
    let Some(last) = runs.last() else { return "no runs".to_owned() };
    let directions = match by {
        By::Preconditioner => String::new(),
        By::Data => format!(", preconditioner {}", last.result.directions()),
    };
    let heading = heading(&last.manifest, &By::Data.name(last), &last.result.quantity);
    let mut text = format!("{heading}{directions}\n{}\n", table(runs, by));
    // The same sentence about several runs is said once.
    let mut said: Vec<(&String, Vec<String>)> = Vec::new();
    for run in runs {
        for warning in &run.result.summary.warnings {
            match said.iter_mut().find(|(other, _)| *other == warning) {
                Some((_, names)) => names.push(by.name(run)),
                None => said.push((warning, vec![by.name(run)])),
            }
        }
    }
    for (warning, names) in said {
        text += &format!("\n{}: {warning}\n", names.join(", "));
    }
    text
}

/// Draws the figures of these runs into `folder`.
pub fn figures(runs: &[&Run], by: By, folder: &Path) -> Result<Vec<PathBuf>> {
    let Some(first) = runs.first() else { return Ok(Vec::new()) };
    let drawable: Vec<&Run> = runs.iter().copied().filter(|run| !run.samples.is_empty()).collect();
    if drawable.is_empty() {
        return Ok(Vec::new());
    }
    let spec = &first.manifest.spec;
    let model = problem_name(&first.manifest, "model");
    let label = |run: &Run| by.label(run);
    let is_sphere = matches!(spec.prior, Prior::Sphere);
    let mut written = plot::save(
        &Histogram {
            title: format!("Log-volumes of rays: {model}, {} weights, cutoff {} nats", grouped(spec.dimension), spec.cutoff),
            series: drawable
                .iter()
                .map(|run| histogram::Series {
                    label: label(run),
                    values: run.samples.iter().map(|s| s.log_volume).collect(),
                    log_mean_exp: run.result.summary.log_volume.log_mean_exp,
                })
                .collect(),
        },
        folder,
        "log_volumes",
    )?;
    // The distance in weight space makes the radii of different preconditioners comparable.
    let distance = |sample: &Sample, t: f64| if is_sphere { t } else { t * sample.norm };
    let distance_label = if is_sphere { "angle from the center  (radians)" } else { "distance from the center, ||w \u{2212} c||" };
    written.extend(plot::save(
        &RadiusTrace {
            title: format!("Radius of each ray: {model}, cutoff {} nats", spec.cutoff),
            radius_label: if is_sphere { "radius  (radians)".to_owned() } else { "radius, ||w \u{2212} c||".to_owned() },
            series: drawable
                .iter()
                .map(|run| trace::Series {
                    label: label(run),
                    points: run.samples.iter().map(|s| (s.index, distance(s, s.radius))).collect(),
                })
                .collect(),
        },
        folder,
        "radii",
    )?);
    let mut series = Vec::new();
    for (number, run) in drawable.iter().enumerate() {
        for (ray, sample) in run.samples.iter().filter(|s| s.profile.is_some()).take(RAYS_DRAWN).enumerate() {
            series.push(profile::Series {
                label: (ray == 0).then(|| label(run)),
                color: number,
                points: sample.profile.iter().flatten().filter_map(|&(t, cost)| Some((distance(sample, t), cost?))).collect(),
                radius: Some(distance(sample, sample.radius)),
            });
        }
    }
    if !series.is_empty() {
        let figure = RayProfile {
            title: format!("Cost along the first {RAYS_DRAWN} rays: {model}"),
            distance_label: distance_label.to_owned(),
            cutoff: spec.cutoff,
            series,
        };
        written.extend(plot::save(&figure, folder, "cost_along_rays")?);
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::nats;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(nats(-2_952_411.4), "\u{2212}2,952,411");
        assert_eq!(nats(-328.126), "\u{2212}328.13");
        assert_eq!(nats(1234.5), "1,234.50");
        assert_eq!(nats(-0.001), "0.00");
        assert_eq!(nats(f64::NEG_INFINITY), "\u{2212}\u{221e}");
    }
}
