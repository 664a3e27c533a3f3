//! What a scan says: its table, paired differences along common rays, and for cutoffs the learning coefficient.

use std::collections::BTreeMap;
use std::path::Path;

use basin_volume::estimator::common_rays::{Combination, cutoff_slope, difference, slope_coefficients};
use basin_volume::estimator::radial::Sample;
use basin_volume::run::folder;
use basin_volume::statistics::{Interval, IntervalSettings};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::folder::{CommonSigma, ScanFile};
use super::grid::short;
use super::parts::Parts;
use super::request::ScanKind;
use super::table::Row;
use crate::error::Error;
use crate::numbers::{interval_words, nats};

/// `summary.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Summary {
    /// What is varied.
    pub scan: String,
    /// Version of the program that began the scan.
    pub software: String,
    /// What was asked.
    pub settings: Map<String, Value>,
    /// The scale of the one prior of all points, where it comes from one of several models.
    pub sigma: Option<CommonSigma>,
    /// One for each point.
    pub rows: Vec<Row>,
    /// Pairs of points with common rays.
    pub differences: Vec<Difference>,
    /// Of a scan of the cutoff.
    pub slopes: Vec<Slope>,
    /// Of a scan of components.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Parts>,
}

/// What two points are compared for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Between {
    /// Models at the same value.
    Models,
    /// Preconditioners of one model.
    Preconditioners,
    /// One value and the one before it.
    Neighbors,
}

/// One point less another along the rays that both have.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Difference {
    /// What the points are compared for.
    pub between: Between,
    /// The point that is compared.
    pub this: Place,
    /// What it is compared with.
    pub other: Place,
    /// Their difference, or the slope.
    #[serde(flatten)]
    pub found: Combination,
}

/// A point by its names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// Name of the model.
    pub target: String,
    /// Estimator and preconditioner.
    pub method: String,
    /// What is varied.
    pub value: Option<f64>,
}

impl Place {
    fn of(row: &Row) -> Self {
        Self { target: row.target.clone(), method: row.method(), value: row.value }
    }
}

/// How a log-volume grows with the logarithm of the cutoff.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Slope {
    /// Name of the model.
    pub target: String,
    /// Estimator and preconditioner.
    pub method: String,
    /// `D/2`: what a quadratic cost in every direction has.
    pub half_dimension: f64,
    /// Over all cutoffs.
    pub whole: Segment,
    /// From each cutoff to the next.
    pub local: Vec<Segment>,
}

/// A slope between two cutoffs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Segment {
    /// Smaller cutoff, nats.
    pub from: f64,
    /// Larger cutoff, nats.
    pub to: f64,
    /// Their difference, or the slope.
    #[serde(flatten)]
    pub found: Combination,
}

impl Summary {
    /// The summary of these rows, whose run folders are below `folder`.
    ///
    /// # Errors
    /// When a run cannot be read.
    pub fn of(folder: &Path, file: &ScanFile, rows: &[Row]) -> Result<Self, Error> {
        let kind = file.kind();
        let mut rays: BTreeMap<&str, Vec<Sample>> = BTreeMap::new();
        for row in rows.iter().filter(|row| row.is_of_rays) {
            if !rays.contains_key(row.folder.as_str()) {
                rays.insert(&row.folder, folder::read_samples(&folder.join(&row.folder))?);
            }
        }
        let mut radial: Vec<(&Row, &[Sample])> = Vec::new();
        for row in rows {
            // Of the beginnings of one run the longest is the run.
            let Some(samples) = rays.get(row.folder.as_str()) else { continue };
            match radial.last_mut().filter(|(last, _)| last.folder == row.folder) {
                Some(last) => last.0 = row,
                None => radial.push((row, samples)),
            }
        }
        let slopes = if kind == ScanKind::Cutoff { slopes(rows, &rays) } else { Vec::new() };
        Ok(Self {
            scan: kind.name().to_owned(),
            software: file.software.clone(),
            settings: file.settings.clone(),
            sigma: file.sigma.clone(),
            rows: rows.to_vec(),
            differences: differences(&radial, kind),
            slopes,
            parts: if kind == ScanKind::Components { Parts::of(rows) } else { Vec::new() },
        })
    }

    /// A sentence for every slope.
    #[must_use]
    pub fn slope_words(&self) -> Vec<String> {
        self.slopes.iter().map(Slope::words).collect()
    }

    /// What is to be known of the table before anything is read off it, in sentences.
    #[must_use]
    pub fn verdict(&self) -> Vec<String> {
        let mut words: Vec<String> = self.parts.iter().map(Parts::words).collect();
        let bounds = self.rows.iter().filter(|row| row.is_lower_bound()).count();
        if bounds > 0 {
            words.push(format!(
                "{bounds} of {} numbers are lower bounds: compare points by the differences along common rays, not by these numbers.",
                self.rows.len()
            ));
        }
        // What makes a number another one than its name says.
        let cases: [fn(&Row) -> bool; 2] = [|row| row.answer.is_of_behaviour(), |row| row.answer.is_of_the_prior()];
        for case in cases {
            let rows: Vec<&Row> = self.rows.iter().filter(|row| case(row)).collect();
            match rows.as_slice() {
                [] => {}
                [one] if self.rows.len() == 1 => words.push(one.answer.meaning.clone()),
                [first, ..] => words.push(format!("{} of {} points: {}", rows.len(), self.rows.len(), first.answer.meaning)),
            }
        }
        words
    }

    /// Every reason that points have not to be trusted more, with the points it is said of.
    #[must_use]
    pub fn reasons(&self) -> Vec<(String, String)> {
        let mut said: Vec<(&String, Vec<&Row>)> = Vec::new();
        for row in &self.rows {
            for reason in &row.answer.reasons {
                // Numbers within a sentence differ from point to point; how it begins does not.
                let start = |text: &str| text.chars().filter(|c| c.is_alphabetic()).take(30).collect::<String>();
                match said.iter_mut().find(|(other, _)| start(other) == start(reason)) {
                    Some((_, rows)) => rows.push(row),
                    None => said.push((reason, vec![row])),
                }
            }
        }
        said.into_iter()
            .map(|(reason, rows)| {
                let mut methods: Vec<String> = Vec::new();
                for row in &rows {
                    let name = format!("{} {}", row.target, row.method());
                    if !methods.contains(&name) {
                        methods.push(name);
                    }
                }
                let count = if rows.len() > 1 { format!(" ({} points, here the first)", rows.len()) } else { String::new() };
                (reason.clone(), format!("{}{count}", methods.join("; ")))
            })
            .collect()
    }
}

impl Difference {
    /// Both sides in words: what they have in common is said once.
    #[must_use]
    pub fn words(&self, scan: &str) -> (String, String) {
        let value = |place: &Place| place.value.map_or_else(String::new, |value| format!(", {scan} {}", short(value)));
        let whole = |place: &Place| format!("{}, {}{}", place.target, place.method, value(place));
        let other = match self.between {
            Between::Models => self.other.target.clone(),
            Between::Preconditioners => self.other.method.clone(),
            Between::Neighbors => self.other.value.map_or_else(|| "all".to_owned(), |value| format!("{scan} {}", short(value))),
        };
        (whole(&self.this), other)
    }
}

fn settings(row: &Row) -> IntervalSettings {
    IntervalSettings { seed: row.seed, ..IntervalSettings::default() }
}

/// Models, preconditioners and neighbouring values, each against the first or the one before it, where rays and prior are common.
fn differences(radial: &[(&Row, &[Sample])], kind: ScanKind) -> Vec<Difference> {
    let mut found = Vec::new();
    for (k, &(row, samples)) in radial.iter().enumerate() {
        let mut add = |between: Between, &(other, others): &(&Row, &[Sample])| {
            // Volumes under different priors are not compared.
            let has_same = other.dimension == row.dimension && other.seed == row.seed && other.sigma == row.sigma;
            if has_same && !samples.is_empty() && !others.is_empty() {
                let found_here = difference(samples, others, settings(row));
                found.push(Difference { between, this: Place::of(row), other: Place::of(other), found: found_here });
            }
        };
        // Components are of all sizes, and each is compared with the first of its own.
        let has_size = |other: &Row| kind != ScanKind::Components || other.dimension == row.dimension;
        let has_value = |other: &Row| (other.value == row.value || other.value.is_none()) && has_size(other);
        if let Some(first) = radial.iter().find(|(other, _)| other.preconditioner == row.preconditioner && has_value(other))
            && first.0.target != row.target
            && first.0.value == row.value
        {
            add(Between::Models, first);
        }
        if let Some(first) =
            radial.iter().find(|(other, _)| other.target == row.target && (other.value == row.value || other.value.is_none()))
            && first.0.preconditioner != row.preconditioner
        {
            add(Between::Preconditioners, first);
        }
        let is_series = |other: &Row| other.target == row.target && other.preconditioner == row.preconditioner;
        if let Some(before) = radial[..k].iter().rev().find(|(other, _)| is_series(other)) {
            add(Between::Neighbors, before);
        }
    }
    found
}

/// The slopes of every series of a scan of the cutoff.
fn slopes(rows: &[Row], rays: &BTreeMap<&str, Vec<Sample>>) -> Vec<Slope> {
    let mut series: Vec<Vec<&Row>> = Vec::new();
    for row in rows.iter().filter(|row| row.value.is_some()) {
        match series.iter_mut().find(|rows| rows[0].target == row.target && rows[0].method() == row.method()) {
            Some(rows) => rows.push(row),
            None => series.push(vec![row]),
        }
    }
    let slope = |rows: &[&Row]| -> Option<Segment> {
        let found = if rows[0].is_of_rays {
            let points: Vec<(f64, &[Sample])> =
                rows.iter().filter_map(|row| Some((row.value?, rays.get(row.folder.as_str())?.as_slice()))).collect();
            cutoff_slope(&points, settings(rows[0])).filter(|found| found.rays > 0)
        } else {
            independent_slope(rows)
        };
        Some(Segment { from: rows.first()?.value?, to: rows.last()?.value?, found: found? })
    };
    series
        .iter()
        .filter_map(|rows| {
            Some(Slope {
                target: rows[0].target.clone(),
                method: rows[0].method(),
                half_dimension: rows[0].dimension as f64 / 2.0,
                whole: slope(rows)?,
                local: rows.windows(2).filter_map(slope).collect(),
            })
        })
        .collect()
}

/// The slope through answers whose errors are taken to be independent.
fn independent_slope(rows: &[&Row]) -> Option<Combination> {
    let known: Vec<(f64, f64, Option<f64>)> = rows
        .iter()
        .filter_map(|row| {
            let half = match row.answer.interval {
                (Some(low), Some(high)) => Some(0.5 * (high - low)),
                _ => None,
            };
            Some((row.value?, row.estimate()?, half))
        })
        .collect();
    let coefficients = slope_coefficients(&known.iter().map(|(cutoff, ..)| *cutoff).collect::<Vec<_>>())?;
    let value: f64 = coefficients.iter().zip(&known).map(|(a, (_, y, _))| a * y).sum();
    let square: Option<f64> = coefficients.iter().zip(&known).map(|(a, (.., half))| Some((a * (*half)?).powi(2))).sum();
    Some(Combination {
        value: Some(value),
        interval: square.map(|square| Interval { low: value - square.sqrt(), high: Some(value + square.sqrt()) }),
        // There are no rays, and nothing to say about a typical one.
        typical: None,
        typical_interval: None,
        level: IntervalSettings::default().level,
        rays: 0,
    })
}

impl Slope {
    fn words(&self) -> String {
        let Segment { from, to, found } = &self.whole;
        let interval = |found: Option<Interval>| found.map_or_else(String::new, |interval| format!(" {}", interval_words(interval.into())));
        let mut words = format!("{}, {}: from cutoff {} to {} ", self.target, self.method, short(*from), short(*to));
        match (found.value, found.interval) {
            (Some(value), Some(_)) => {
                words += &format!("the slope of the log-volume against ln cutoff is {}{}", nats(value), interval(found.interval));
            }
            (Some(value), None) => {
                words += &format!(
                    "the slope of the log-volume against ln cutoff is {}, without an interval: few rays carry some of the volumes",
                    nats(value)
                );
            }
            (None, _) => words += "the log-volume has no slope",
        }
        if let Some(typical) = found.typical {
            words += &format!(", that of a typical ray {}{}", nats(typical), interval(found.typical_interval));
        }
        if let Some(first) = self.local.first().filter(|_| self.local.len() > 1)
            && let Some(value) = first.found.value
        {
            let found = interval(first.found.interval);
            words += &format!("; between the two smallest cutoffs it is {}{found}", nats(value));
        }
        words + &format!(". A quadratic cost in every direction, under a flat prior, would have D/2 = {}.", nats(self.half_dimension))
    }
}
