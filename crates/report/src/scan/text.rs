//! The table of a scan and its words.

use basin_volume::statistics::Interval;
use basin_volume_engine::numbers::{interval_words, nats};
use basin_volume_engine::scan::{Difference, Row, ScanKind, Summary, short};

use crate::groups::{Detail, error_words};
use crate::table::{or_unknown, plain_table};

/// Differences that are printed; all of them are in the file.
const DIFFERENCES_SHOWN: usize = 30;

/// Table and words.
#[must_use]
pub fn text(summary: &Summary, detail: Detail) -> String {
    let is_full = detail == Detail::Full;
    let is_of_models = summary.scan == ScanKind::Models.name();
    let mut text = if is_of_models {
        format!("Models beside each other: {} estimates\n", summary.rows.len())
    } else {
        format!("Scan of {}: {} points\n", summary.scan, summary.rows.len())
    };
    if let Some(sigma) = &summary.sigma {
        text += &format!("{}\n", sigma.words());
    }
    text += &format!("\n{}\n", if is_full { table(summary) } else { short_table(summary) });
    for sentence in summary.slope_words().iter().chain(&summary.verdict()) {
        text += &format!("\n{sentence}\n");
    }
    // Whoever puts models beside each other asks how they differ.
    if !summary.differences.is_empty() && (is_full || is_of_models) {
        text += &format!("\nDifferences along common rays (nats):\n\n{}\n", difference_table(summary));
        if summary.differences.len() > DIFFERENCES_SHOWN {
            text += &format!("The first {DIFFERENCES_SHOWN} of {}: summary.json has them all.\n", summary.differences.len());
        }
    }
    for (reason, places) in summary.reasons().iter().filter(|_| is_full) {
        text += &format!("\n{places}: {reason}\n");
    }
    text
}

/// On a screen.
fn short_table(summary: &Summary) -> String {
    let is_of_parts = !summary.parts.is_empty();
    let has_models = summary.rows.iter().any(|row| row.target != summary.rows[0].target);
    let has_values = summary.scan != ScanKind::Models.name();
    let row = |row: &Row| {
        let name = if has_models { format!("{} {}", row.target, row.method()) } else { row.method() };
        let mean = or_unknown(row.mean, nats);
        let trust = row.answer.trust.words().to_owned();
        let value = if is_of_parts { row.dimension.to_string() } else { or_unknown(row.value, short) };
        let mut cells = vec![name, value, or_unknown(row.estimate(), nats), error_words(&row.answer), trust, mean];
        if !has_values {
            cells.remove(1);
        }
        cells
    };
    if has_values {
        let names =
            ["method", if is_of_parts { "weights" } else { &summary.scan }, "estimate (nats)", "95 % interval", "trust", "mean ray"];
        plain_table(&names, &[1, 2, 5], summary.rows.iter().map(row))
    } else {
        let names = ["method", "estimate (nats)", "95 % interval", "trust", "mean ray"];
        plain_table(&names, &[1, 4], summary.rows.iter().map(row))
    }
}

fn table(summary: &Summary) -> String {
    let names = [
        "model",
        "method",
        &summary.scan,
        "log-probability (nats)",
        "95 % interval",
        "trust",
        "mean of the rays",
        "ESS",
        "samples",
        "seconds",
    ];
    let row = |row: &Row| {
        vec![
            row.target.clone(),
            row.method(),
            or_unknown(row.value, short),
            or_unknown(row.estimate(), nats),
            error_words(&row.answer),
            row.answer.trust.words().to_owned(),
            or_unknown(row.mean, nats),
            or_unknown(row.effective_sample_size, |size| format!("{size:.1}")),
            or_unknown(row.samples, |count| count.to_string()),
            format!("{:.1}", row.answer.seconds),
        ]
    };
    plain_table(&names, &[2, 3, 4, 6, 7, 8, 9], summary.rows.iter().map(row))
}

fn difference_table(summary: &Summary) -> String {
    let names = ["point", "less", "log-probability", "95 % interval", "typical ray", "95 % interval", "rays"];
    let interval = |found: Option<Interval>| found.map_or_else(|| "unknown".to_owned(), |interval| interval_words(interval.into()));
    let row = |difference: &Difference| {
        let (this, other) = difference.words(&summary.scan);
        let found = &difference.found;
        vec![
            this,
            other,
            or_unknown(found.value, nats),
            interval(found.interval),
            or_unknown(found.typical, nats),
            interval(found.typical_interval),
            found.rays.to_string(),
        ]
    };
    plain_table(&names, &[2, 3, 4, 5, 6], summary.differences.iter().take(DIFFERENCES_SHOWN).map(row))
}
