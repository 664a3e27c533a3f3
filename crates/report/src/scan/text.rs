//! The table of a scan and its words.

use std::fmt::Write;

use basin_volume::statistics::Interval;
use basin_volume_engine::numbers::{interval_words, nats};
use basin_volume_engine::scan::{Difference, Row, Summary, short};

use crate::table::{Columns, or_unknown};

/// Differences that are printed; all of them are in the file.
const DIFFERENCES_SHOWN: usize = 30;

/// Table and words.
#[must_use]
pub fn text(summary: &Summary) -> String {
    let mut text = format!("Scan of {}: {} points\n{}\n", summary.scan, summary.rows.len(), table(summary));
    // Writing to a string cannot fail.
    for sentence in summary.slope_words() {
        let _ = write!(text, "\n{sentence}\n");
    }
    if !summary.differences.is_empty() {
        let _ = write!(text, "\nDifferences along common rays (nats):\n{}\n", difference_table(summary));
        if summary.differences.len() > DIFFERENCES_SHOWN {
            let _ = writeln!(text, "The first {DIFFERENCES_SHOWN} of {}: summary.json has them all.", summary.differences.len());
        }
    }
    for (reason, places) in summary.reasons() {
        let _ = write!(text, "\n{places}: {reason}\n");
    }
    text
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
            interval_words(row.answer.interval),
            row.answer.trust.words().to_owned(),
            or_unknown(row.mean, nats),
            or_unknown(row.effective_sample_size, |size| format!("{size:.1}")),
            or_unknown(row.samples, |count| count.to_string()),
            format!("{:.1}", row.answer.seconds),
        ]
    };
    Columns::boxed(&names, &[2, 3, 4, 6, 7, 8, 9]).table(summary.rows.iter().map(row))
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
    Columns::boxed(&names, &[2, 3, 4, 5, 6]).table(summary.differences.iter().take(DIFFERENCES_SHOWN).map(row))
}
