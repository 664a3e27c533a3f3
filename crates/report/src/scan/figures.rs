//! The figures of a scan, as those of the paper: histogram, log-volume against what is varied, and slopes.

use std::path::{Path, PathBuf};

use basin_volume::estimator::radial::Sample;
use basin_volume::run::folder;
use basin_volume_engine::error::Error;
use basin_volume_engine::scan::{Between, Row, ScanFile, ScanKind, Summary};

use crate::plot::curve::{Point, Scale, Series};
use crate::plot::heat_map::{Cell, HeatMap};
use crate::plot::{self, Curve, Histogram, histogram};

/// The figures that a scan may have, in the order in which they are shown, with their captions.
pub(super) const DRAWINGS: [(&str, &str); 6] = [
    ("components", "log-volume of every component"),
    ("log_volume", "log-volume at every point, with 95 % intervals where both ends are known"),
    ("description_length", "the same with its sign turned, on a logarithmic axis"),
    ("differences", "differences of the models along the rays that they have in common"),
    ("slopes", "slope of the log-volume from each cutoff to the next"),
    ("histogram", "log-volumes of the rays"),
];

/// Estimates that differ by more than this factor cannot be read off one straight axis.
const WIDE: f64 = 20.0;
/// A description length below this many nats is none: the set is all there is.
const LEAST: f64 = 0.01;

/// Draws the figures into the folder of the scan, and returns their paths.
///
/// # Errors
/// When a figure cannot be drawn or written.
pub fn draw(folder: &Path, file: &ScanFile, summary: &Summary) -> Result<Vec<PathBuf>, Error> {
    let kind = file.kind();
    let mut written = Vec::new();
    if kind == ScanKind::Components {
        written.extend(components(folder, file, &summary.rows)?);
        return Ok(written);
    }
    if kind.has_no_values() {
        written.extend(histograms(folder, &summary.rows, &prior_of(file))?);
        return Ok(written);
    }
    let axis = Axis::of(kind);
    let series = series(&summary.rows);
    if series.iter().all(|series| series.points.is_empty()) {
        return Ok(written);
    }
    let numbers: Vec<f64> = summary.rows.iter().filter_map(Row::estimate).map(|y| -y).collect();
    let (least, most) = numbers.iter().fold((f64::INFINITY, 0.0f64), |(least, most), &y| (least.min(y), most.max(y)));
    let figure = Curve {
        title: format!("Local volume against {}{}", axis.title, names_of(file)),
        x_label: axis.label.to_owned(),
        scale: axis.scale,
        y_label: "log-probability".to_owned(),
        y_unit: "nats",
        is_y_logarithmic: false,
        series,
    };
    written.extend(plot::save(&figure, folder, "log_volume")?);
    if least > -LEAST && most > WIDE * least {
        written.extend(plot::save(&description_lengths(&figure), folder, "description_length")?);
    }
    if let Some(figure) = differences(summary, &axis, &prior_of(file)) {
        written.extend(plot::save(&figure, folder, "differences")?);
    }
    if let Some(figure) = slopes(summary, &prior_of(file)) {
        written.extend(plot::save(&figure, folder, "slopes")?);
    }
    Ok(written)
}

/// The scale of the prior that all points share, behind a comma.
fn prior_of(file: &ScanFile) -> String {
    file.sigma.as_ref().map_or_else(String::new, |sigma| format!(", sigma {:.4}", sigma.value))
}

/// The name of the model, where there is one, and the prior.
fn names_of(file: &ScanFile) -> String {
    let name = match file.targets.as_slice() {
        [one] => format!(": {}", one.name),
        _ => String::new(),
    };
    name + &prior_of(file)
}

/// What is varied, on the axis.
struct Axis {
    title: &'static str,
    label: &'static str,
    scale: Scale,
}

impl Axis {
    fn of(kind: ScanKind) -> Self {
        let (title, label, scale) = match kind {
            ScanKind::Histogram | ScanKind::Models | ScanKind::Components => ("nothing", "", Scale::Linear),
            ScanKind::Cutoff => ("the cutoff", "cutoff  (nats)", Scale::Logarithmic),
            ScanKind::Checkpoints => ("training", "step of the training", Scale::Logarithmic),
            ScanKind::Exponent => ("the preconditioner's exponent", "exponent of the preconditioner", Scale::Linear),
            ScanKind::Epsilon => ("the preconditioner's epsilon", "eps of the preconditioner", Scale::Logarithmic),
            ScanKind::Sigma => ("the width of the prior", "standard deviation of the prior, sigma", Scale::Logarithmic),
            ScanKind::Samples => ("the number of rays", "rays", Scale::Logarithmic),
        };
        Self { title, label, scale }
    }
}

/// One curve for each method on each model: the colour says which method, the style which model.
fn series(rows: &[Row]) -> Vec<Series> {
    let names = Names::of(rows);
    let mut all: Vec<(String, String, Series)> = Vec::new();
    for row in rows {
        let Some(y) = row.estimate() else { continue };
        let at = match all.iter().position(|(target, method, _)| *target == row.target && *method == row.method()) {
            Some(at) => at,
            None => {
                all.push((row.target.clone(), row.method(), names.empty(&row.target, &row.method())));
                all.len() - 1
            }
        };
        let series = &mut all[at].2;
        match row.value {
            Some(x) => {
                let (low, high) = row.answer.interval;
                series.points.push(Point { x, y, low, high, is_bound: row.is_lower_bound() });
            }
            None => series.level = Some(y),
        }
    }
    all.into_iter().map(|(.., series)| series).collect()
}

/// The models and methods of a table in their order.
struct Names {
    targets: Vec<String>,
    methods: Vec<String>,
}

impl Names {
    fn of(rows: &[Row]) -> Self {
        let mut names = Self { targets: Vec::new(), methods: Vec::new() };
        for row in rows {
            if !names.targets.contains(&row.target) {
                names.targets.push(row.target.clone());
            }
            if !names.methods.contains(&row.method()) {
                names.methods.push(row.method());
            }
        }
        names
    }

    fn empty(&self, target: &str, method: &str) -> Series {
        let place = |names: &[String], name: &str| names.iter().position(|other| other == name).unwrap_or(0);
        let (style, number) = (place(&self.targets, target), place(&self.methods, method));
        let readable =
            method.replace("radial, none", "rays, no preconditioner").replace("radial, ", "rays, ").replace("spectral", "spectral (guide)");
        let label = match (self.targets.len(), self.methods.len()) {
            (1, _) => readable,
            (_, 1) => target.to_owned(),
            _ => format!("{target}: {readable}"),
        };
        // With one method the colour is free to say which model it is.
        let color = if self.methods.len() == 1 { style } else { number };
        Series { label, color, style, points: Vec::new(), level: None }
    }
}

/// The same as lengths of a description, whose logarithm shows estimates of any size.
fn description_lengths(figure: &Curve) -> Curve {
    let positive = |y: f64| Some(-y).filter(|y| *y > LEAST);
    let point = |point: &Point| {
        let (low, high) = (point.high.and_then(positive), point.low.and_then(positive));
        Some(Point { y: positive(point.y)?, low, high, ..point.clone() })
    };
    let flipped = |series: &Series| Series {
        label: series.label.clone(),
        points: series.points.iter().filter_map(point).collect(),
        level: series.level.and_then(positive),
        ..*series
    };
    Curve {
        title: figure.title.replace("Local volume", "Description length"),
        x_label: figure.x_label.clone(),
        scale: figure.scale,
        y_label: "\u{2212} log-probability".to_owned(),
        y_unit: "nats",
        is_y_logarithmic: true,
        series: figure.series.iter().map(flipped).collect(),
    }
}

/// How the other models differ from the first, along the rays that they have in common.
fn differences(summary: &Summary, axis: &Axis, prior: &str) -> Option<Curve> {
    let names = Names::of(&summary.rows);
    let mut all: Vec<(String, String, Series)> = Vec::new();
    for found in summary.differences.iter().filter(|found| found.between == Between::Models) {
        let (Some(x), place) = (found.this.value, &found.this) else { continue };
        // The volumes where both are known, else the typical rays.
        for (y, interval, what) in [
            (found.found.value.filter(|_| found.found.interval.is_some()), found.found.interval, "volumes"),
            (found.found.typical, found.found.typical_interval, "typical rays"),
        ] {
            let (Some(y), Some(interval)) = (y, interval) else { continue };
            let key = format!("{}, {what}", place.method);
            let at = match all.iter().position(|(target, method, _)| *target == place.target && *method == key) {
                Some(at) => at,
                None => {
                    let series = names.empty(&place.target, &place.method);
                    let style = usize::from(what == "volumes");
                    all.push((place.target.clone(), key, Series { label: format!("{} ({what})", series.label), style, ..series }));
                    all.len() - 1
                }
            };
            all[at].2.points.push(Point { x, y, low: Some(interval.low), high: interval.high, is_bound: false });
        }
    }
    let zero = Series { label: "no difference".to_owned(), color: 5, style: 0, points: Vec::new(), level: Some(0.0) };
    let first = summary.rows.first()?.target.clone();
    (!all.is_empty()).then(|| Curve {
        title: format!("How the volume differs from that of {first}{prior}"),
        x_label: axis.label.to_owned(),
        scale: axis.scale,
        y_label: "difference of the log-volumes".to_owned(),
        y_unit: "nats",
        is_y_logarithmic: false,
        series: all.into_iter().map(|(.., series)| series).chain([zero]).collect(),
    })
}

/// The slope from each cutoff to the next.
fn slopes(summary: &Summary, prior: &str) -> Option<Curve> {
    let names = Names::of(&summary.rows);
    let series: Vec<Series> = summary
        .slopes
        .iter()
        .map(|slope| {
            let points = slope.local.iter().filter_map(|segment| {
                let (low, high) = segment.found.interval.map_or((None, None), |interval| (Some(interval.low), interval.high));
                let y = segment.found.value?;
                Some(Point { x: (segment.from * segment.to).sqrt(), y, low, high, is_bound: false })
            });
            Series { points: points.collect(), ..names.empty(&slope.target, &slope.method) }
        })
        .collect();
    series.iter().any(|series| !series.points.is_empty()).then(|| Curve {
        title: format!("Slope of the log-volume against ln cutoff{prior}"),
        x_label: "cutoff  (nats)".to_owned(),
        scale: Scale::Logarithmic,
        y_label: "d ln V / d ln cutoff".to_owned(),
        y_unit: "nats for a factor of e",
        is_y_logarithmic: false,
        series,
    })
}

/// The estimates of all components by layer and head, of the first method that has any.
fn components(folder: &Path, file: &ScanFile, rows: &[Row]) -> Result<Vec<PathBuf>, Error> {
    let Some(method) = rows.first().map(Row::method) else { return Ok(Vec::new()) };
    let cells: Vec<Cell> = rows
        .iter()
        .filter(|row| row.method() == method)
        .filter_map(|row| {
            let mut numbers = row.target.split(|letter: char| !letter.is_ascii_digit()).filter_map(|digits| digits.parse().ok());
            Some(Cell { row: numbers.next()?, column: numbers.next().unwrap_or(0), value: row.estimate()? })
        })
        .collect();
    if cells.is_empty() {
        return Ok(Vec::new());
    }
    let is_of_heads = rows.iter().any(|row| row.target.contains('h'));
    let figure = HeatMap {
        title: format!("Log-volume of every component (nats), {method}{}", prior_of(file)),
        x_label: match (is_of_heads, cells.iter().any(|cell| cell.column > 0)) {
            (true, _) => "head",
            (_, true) => "block",
            _ => "",
        },
        y_label: if rows.iter().any(|row| row.target.contains("stage")) { "stage" } else { "layer" },
        cells,
    };
    plot::save(&figure, folder, "components")
}

/// The log-volumes of the rays: one figure of all, and with several models one of each.
fn histograms(folder: &Path, rows: &[Row], prior: &str) -> Result<Vec<PathBuf>, Error> {
    let names = Names::of(rows);
    let mut written = Vec::new();
    let mut all = Vec::new();
    for target in &names.targets {
        let mut of_target = Vec::new();
        for row in rows.iter().filter(|row| row.target == *target) {
            let values: Vec<f64> = if row.is_of_rays {
                let samples: Vec<Sample> = folder::read_samples(&folder.join(&row.folder))?;
                samples.iter().map(|sample| sample.log_volume).collect()
            } else {
                Vec::new()
            };
            let label = names.empty(target, &row.method()).label;
            let entry = || histogram::Series { label: label.clone(), values: values.clone(), log_mean_exp: row.answer.log_probability };
            of_target.push(entry());
            all.push(entry());
        }
        if names.targets.len() > 1 {
            let figure = Histogram { title: format!("Log-volumes of rays: {target}{prior}"), series: of_target };
            written.extend(plot::save(&figure, folder, &format!("histogram_{target}"))?);
        }
    }
    if !all.is_empty() {
        let title = match names.targets.as_slice() {
            [one] => format!("Log-volumes of rays: {one}"),
            _ => "Log-volumes of rays".to_owned(),
        };
        written.extend(plot::save(&Histogram { title, series: all }, folder, "histogram")?);
    }
    Ok(written)
}
