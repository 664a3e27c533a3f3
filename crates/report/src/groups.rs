//! How groups of runs look: text, and figures in their folders.

use std::fmt::Write;
use std::path::Path;

use basin_volume::run::answer::{Answer, compared_half_width};
use basin_volume_engine::comparison::Comparison;
use basin_volume_engine::error::{Context, Error};
use basin_volume_engine::estimators::Run;
use basin_volume_engine::numbers::{interval_words, nats};
use basin_volume_engine::runs::RunGroup;

use crate::presenter::presenter;
use crate::several;
use crate::table::{Columns, UNKNOWN};

/// Draws the figures of every run into its folder, and those of groups into the folder above.
///
/// # Errors
/// When a figure cannot be drawn or written.
pub fn draw(groups: &[RunGroup]) -> Result<(), Error> {
    for group in groups {
        for run in &group.runs {
            presenter(run.estimator()).figures(&[run], &run.folder)?;
        }
        if let Some(first) = group.runs.first().filter(|_| group.is_group) {
            let presenter = presenter(first.estimator());
            if presenter.draws_groups() {
                std::fs::create_dir_all(&group.folder).context(|| format!("cannot create {}", group.folder.display()))?;
                presenter.figures(&group.runs.iter().collect::<Vec<_>>(), &group.folder)?;
            }
        }
    }
    Ok(())
}

/// Heading, table and words of one group.
#[must_use]
pub fn group_text(group: &RunGroup) -> String {
    match (&group.together, group.runs.first()) {
        (Some(together), _) => several::text(group, together),
        (None, Some(first)) => presenter(first.estimator()).text(&group.runs.iter().collect::<Vec<&Run>>()),
        (None, None) => "no runs".to_owned(),
    }
}

/// Everything as text: one estimator as it shows itself, several with a table of all.
///
/// # Errors
/// When the runs do not answer the same question.
pub fn text(groups: &[RunGroup], is_together: bool, folder: &Path) -> Result<String, Error> {
    let mut text: String = groups.iter().map(|group| group_text(group) + "\n").collect();
    if is_together {
        let Comparison { answers, verdict } = Comparison::of(groups)?;
        // Writing to a string cannot fail.
        let _ = write!(text, "All estimators together:\n{}\n\n{verdict}\n", table(&answers));
    }
    Ok(text + &format!("Run folder: {}", folder.display()))
}

/// Seconds and gradients until the interval is one per cent wide to either side (a nat, if that is more): where the run is not there yet, a
/// forecast.
fn work_until(answer: &Answer) -> String {
    match answer.work_until(compared_half_width(answer.log_probability)) {
        None => UNKNOWN.to_owned(),
        Some(factor) if answer.gradients > 0 => {
            format!("{:.1} s, {:.0} gradients", factor * answer.seconds, (factor * answer.gradients as f64).ceil())
        }
        Some(factor) => format!("{:.1} s, {:.0} evaluations", factor * answer.seconds, (factor * answer.evaluations as f64).ceil()),
    }
}

/// One row per answer.
fn table(answers: &[Answer]) -> String {
    let names = [
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
    ];
    let row = |answer: &Answer| {
        vec![
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
        ]
    };
    // Only the words in the last column wrap.
    Columns { width: Some(180), ..Columns::boxed(&names, &[2, 5, 6, 7]) }.table(answers.iter().map(row))
}
