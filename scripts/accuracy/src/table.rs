//! Runs of one method on one problem over many seeds, and the tables made of them.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use basin_volume::statistics::Interval;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::Selection;
use crate::method::{Answer, Method};
use crate::output::{Output, progress};
use crate::problem::{Problem, Set};

/// All seeds of one method on one problem.
pub struct Row {
    pub body: String,
    pub dimension: usize,
    pub method: String,
    pub set: Set,
    /// `None`: the method is compared with nothing.
    pub truth: Option<f64>,
    pub answers: Vec<Answer>,
}

/// One run, for the file.
#[derive(Serialize, Deserialize)]
struct Record {
    body: String,
    dimension: usize,
    method: String,
    set: Set,
    seed: usize,
    truth: Option<f64>,
    estimate: Option<f64>,
    interval: Interval,
    warned: bool,
    evaluations: u64,
    gradients: u64,
    seconds: f64,
}

/// Whether an interval has the truth in it, but for rounding: where all rays are the same it has no width.
fn contains(interval: Interval, truth: f64) -> bool {
    let rounding = 1e-13 * truth.abs();
    Interval { low: interval.low - rounding, high: interval.high.map(|high| high + rounding) }.contains(truth)
}

/// The rows of files that [`row`] wrote, in their order; runs of the same method on the same problem are put together.
pub fn read(files: &[PathBuf]) -> anyhow::Result<Vec<Row>> {
    let mut rows: Vec<Row> = Vec::new();
    for path in files {
        let text = fs::read_to_string(path).with_context(|| format!("{} could not be read: expected a file of runs", path.display()))?;
        for (number, line) in text.lines().enumerate() {
            let run: Record = serde_json::from_str(line)
                .with_context(|| format!("line {} of {} is not a run: expected what a study wrote", number + 1, path.display()))?;
            let answer = Answer {
                estimate: run.estimate.unwrap_or(f64::NAN),
                interval: run.interval,
                warned: run.warned,
                evaluations: run.evaluations,
                gradients: run.gradients,
                seconds: run.seconds,
            };
            let same = |row: &&mut Row| row.body == run.body && row.dimension == run.dimension && row.method == run.method;
            match rows.iter_mut().find(same) {
                Some(row) => row.answers.push(answer),
                None => rows.push(Row {
                    body: run.body,
                    dimension: run.dimension,
                    method: run.method,
                    set: run.set,
                    truth: run.truth,
                    answers: vec![answer],
                }),
            }
        }
    }
    Ok(rows)
}

/// Runs a method on a problem with all its seeds, several at a time; `None` where it is not run.
pub fn row(body: &str, problem: &Problem, method: &dyn Method, selection: &Selection, output: &mut Output) -> anyhow::Result<Option<Row>> {
    let name = method.name();
    let seeds = method.seeds(problem.dimension()).min(selection.seeds.unwrap_or(u64::MAX));
    if seeds == 0 || !Selection::contains(selection.method.as_ref(), &name) {
        return Ok(None);
    }
    let answers: Vec<Answer> = (0..seeds).into_par_iter().map(|seed| method.run(problem, seed)).collect::<Result<_, _>>()?;
    let row = Row {
        body: body.to_owned(),
        dimension: problem.dimension(),
        method: name,
        set: method.set(),
        truth: problem.truth(method.set()),
        answers,
    };
    for (seed, answer) in row.answers.iter().enumerate() {
        output.run(&Record {
            body: row.body.clone(),
            dimension: row.dimension,
            method: row.method.clone(),
            set: row.set,
            seed,
            truth: row.truth.filter(|truth| truth.is_finite()),
            estimate: Some(answer.estimate).filter(|e| e.is_finite()),
            interval: answer.interval,
            warned: answer.warned,
            evaluations: answer.evaluations,
            gradients: answer.gradients,
            seconds: answer.seconds,
        })?;
    }
    progress(&row.line());
    Ok(Some(row))
}

/// What counts as right: `max(1 nat, 1 %)`.
fn allowed(truth: f64) -> f64 {
    (0.01 * truth.abs()).max(1.0)
}

/// Farther from the truth than allowed, or no number at all.
fn is_miss(estimate: f64, truth: f64) -> bool {
    let error = (estimate - truth).abs();
    error.is_nan() || error > allowed(truth)
}

fn mean(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let count = values.clone().count() as f64;
    values.sum::<f64>() / count
}

/// With as many digits as say something.
fn nats(value: f64) -> String {
    if value.is_nan() {
        return "none".to_owned();
    }
    match value.abs() {
        size if size >= 1000.0 => {
            let digits = format!("{:.0}", size);
            let grouped: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|part| std::str::from_utf8(part).unwrap_or_default()).collect();
            format!("{}{}", if value < 0.0 { "-" } else { "" }, grouped.join(","))
        }
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn signed(value: f64) -> String {
    let text = nats(value);
    if value > 0.0 { format!("+{text}") } else { text }
}

impl Row {
    fn errors(&self) -> Vec<f64> {
        let truth = self.truth.unwrap_or(f64::NAN);
        self.answers.iter().map(|a| a.estimate - truth).collect()
    }

    /// Mean and standard deviation over the seeds of estimate minus truth, nats.
    fn bias(&self) -> (f64, f64) {
        let errors = self.errors();
        let middle = mean(errors.iter().copied());
        let variance = errors.iter().map(|e| (e - middle).powi(2)).sum::<f64>() / (errors.len().max(2) - 1) as f64;
        (middle, variance.sqrt())
    }

    /// Runs whose interval has two ends and contains the truth, and runs whose interval has two ends.
    fn covered(&self) -> (usize, usize) {
        let stated = self.answers.iter().filter(|a| a.interval.high.is_some() && !a.warned);
        (stated.clone().filter(|a| self.truth.is_some_and(|truth| contains(a.interval, truth))).count(), stated.count())
    }

    /// Runs farther from the truth than allowed, and those among them that say so.
    fn missed(&self) -> (usize, usize) {
        let truth = self.truth.unwrap_or(f64::NAN);
        let is_missed = |a: &&Answer| is_miss(a.estimate, truth);
        (self.answers.iter().filter(is_missed).count(), self.answers.iter().filter(is_missed).filter(|a| a.warned).count())
    }

    /// Missed runs that say nothing and whose interval excludes the truth.
    fn silent(&self) -> usize {
        let truth = self.truth.unwrap_or(f64::NAN);
        let wrong = |a: &&Answer| is_miss(a.estimate, truth) && !a.warned && !contains(a.interval, truth);
        self.answers.iter().filter(wrong).count()
    }

    /// Mean half-width of the intervals that are stated with two ends, nats.
    fn half_width(&self) -> f64 {
        let widths = self.answers.iter().filter(|a| !a.warned).filter_map(|a| Some(0.5 * (a.interval.high? - a.interval.low)));
        mean(widths.collect::<Vec<f64>>().into_iter())
    }

    fn work(&self) -> (f64, f64, f64) {
        let of = |f: fn(&Answer) -> f64| mean(self.answers.iter().map(f));
        (of(|a| a.evaluations as f64), of(|a| a.gradients as f64), of(|a| a.seconds))
    }

    fn line(&self) -> String {
        let ((bias, sd), (covered, stated), (missed, warned)) = (self.bias(), self.covered(), self.missed());
        let (evaluations, gradients, seconds) = self.work();
        let silent = if self.truth.is_some() { self.silent() } else { 0 };
        format!(
            "{}, D {}, {}: truth {:.3}, bias {bias:+.3}, sd {sd:.3}, covered {covered} of {stated} stated, missed {missed}, of these {warned} warned, {silent} silent; \
             {evaluations:.0} costs, {gradients:.0} gradients, {seconds:.2} s",
            self.body,
            self.dimension,
            self.method,
            self.truth.unwrap_or(f64::NAN)
        )
    }
}

/// The long table: one line per method and problem.
pub fn long(rows: &[Row]) -> String {
    let mut text = String::from(
        "| body | D | method | set | truth | bias | sd | half-width | covers / stated / runs | misses: warned, covered, silent | costs | gradients | s |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let (evaluations, gradients, seconds) = row.work();
        let ((bias, sd), (covered, stated), (missed, warned)) = (row.bias(), row.covered(), row.missed());
        let compared = row.truth.is_some();
        let dash = || "-".to_owned();
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {seconds:.2} |",
            row.body,
            nats(row.dimension as f64).replace(".00", "").replace(".0", ""),
            row.method,
            row.set.name(),
            row.truth.map_or_else(dash, nats),
            if compared { signed(bias) } else { dash() },
            if compared { nats(sd) } else { dash() },
            if stated > 0 { nats(row.half_width()) } else { dash() },
            if compared { format!("{covered} / {stated} / {}", row.answers.len()) } else { dash() },
            if missed == 0 || !compared {
                dash()
            } else {
                format!("{missed}: {warned}, {}, {}", missed - warned - row.silent(), row.silent())
            },
            nats(evaluations.round()).replace(".00", "").replace(".0", ""),
            if gradients == 0.0 { dash() } else { nats(gradients.round()).replace(".00", "").replace(".0", "") },
        );
    }
    text
}

/// The short table: one line per problem, one column per method with `bias (covers/stated/runs)`; `!` counts misses without
/// a warning whose interval excludes the truth.
pub fn short(rows: &[Row]) -> String {
    let mut methods: Vec<&str> = Vec::new();
    let mut problems: Vec<(&str, usize)> = Vec::new();
    for row in rows {
        if !methods.contains(&row.method.as_str()) {
            methods.push(&row.method);
        }
        if !problems.contains(&(row.body.as_str(), row.dimension)) {
            problems.push((&row.body, row.dimension));
        }
    }
    let mut text = format!("| body | D | star | basin | {} |\n|---|---|---|---|{}\n", methods.join(" | "), "---|".repeat(methods.len()));
    for (body, dimension) in problems {
        let of = |set: Set| rows.iter().find(|r| r.body == body && r.dimension == dimension && r.set == set).and_then(|r| r.truth);
        let dimension_text = nats(dimension as f64).replace(".00", "").replace(".0", "");
        let _ = write!(text, "| {body} | {dimension_text} |");
        for set in [Set::Star, Set::Basin] {
            let _ = write!(text, " {} |", of(set).map_or_else(|| "-".to_owned(), nats));
        }
        for method in &methods {
            let cell = rows.iter().find(|r| r.body == body && r.dimension == dimension && r.method == *method).map(|row| {
                let ((bias, _), (covered, stated)) = (row.bias(), row.covered());
                let silent = if row.silent() > 0 { format!(" !{}", row.silent()) } else { String::new() };
                if row.truth.is_none() {
                    "no truth".to_owned()
                } else {
                    format!("{} ({covered}/{stated}/{}){silent}", signed(bias), row.answers.len())
                }
            });
            let _ = write!(text, " {} |", cell.unwrap_or_default());
        }
        text.push('\n');
    }
    text
}
