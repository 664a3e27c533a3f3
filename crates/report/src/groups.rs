//! How groups of runs look: text, and figures in their folders.

use std::path::Path;

use basin_volume::prior::Prior;
use basin_volume::run::answer::{Answer, Trust, verdict};
use basin_volume::spec::EstimatorSpec;
use basin_volume_engine::comparison::Comparison;
use basin_volume_engine::error::{Context, Error};
use basin_volume_engine::estimators::Run;
use basin_volume_engine::ladders::{self, ladder_name};
use basin_volume_engine::numbers::{grouped, interval_words, nats};
use basin_volume_engine::runs::RunGroup;

use crate::heading::{density_words, heading, prior_mean, problem_name};
use crate::improvement::{best, improvement};
use crate::presenter::presenter;
use crate::prose::said_once;
use crate::run_page::DRAWINGS;
use crate::several;
use crate::table::{UNKNOWN, plain_table};

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

/// How much is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Detail {
    /// The numbers, what they mean and how far they can be trusted, on a screen.
    #[default]
    Short,
    /// Tables of everything, and every reason.
    Full,
}

/// Everything as text: the numbers and what they say, before that in full what each estimator shows itself.
///
/// # Errors
/// When the runs do not answer the same question.
pub fn text(groups: &[RunGroup], is_together: bool, folder: &Path, detail: Detail) -> Result<String, Error> {
    let mut text = String::new();
    let is_full = detail == Detail::Full;
    if is_full {
        groups.iter().for_each(|group| text += &(group_text(group) + "\n"));
    } else {
        text += &of_all(groups);
    }
    let answers: Vec<Answer> = groups.iter().flat_map(RunGroup::answers).collect();
    if !is_full || is_together {
        text += &if is_full { table_of_work(&answers) } else { table(groups) };
        text += "\n";
    }
    let together: Vec<&String> = groups.iter().filter_map(|group| group.together.as_ref()?.words.as_ref()).collect();
    let joint = joint_answer(groups);
    let verdict = if is_together {
        Comparison::of(groups)?.verdict
    } else {
        verdict(joint.as_ref().map_or(answers.as_slice(), std::slice::from_ref))
    };
    // What is said of several data is about each by itself.
    let verdict = if together.is_empty() { verdict } else { together.into_iter().cloned().collect() };
    verdict.iter().for_each(|sentence| text += &format!("\n{sentence}\n"));
    for ladders in groups.iter().filter_map(|group| group.ladders.as_ref()) {
        text += &format!("\n{}\n", ladders::words(ladders));
    }
    for sentence in [to_quote(groups, joint.as_ref()).filter(|_| !is_full), improvement(groups)].into_iter().flatten() {
        text += &format!("\n{sentence}\n");
    }
    if !is_full {
        let runs = groups.iter().flat_map(|group| &group.runs);
        runs.filter_map(|run| presenter(run.estimator()).parts(run)).for_each(|parts| text += &parts);
        gravest(groups).iter().for_each(|(names, reason)| text += &format!("\n{}: {reason}\n", names.join("; ")));
        let figures = figures(groups);
        if !figures.is_empty() {
            text += &format!("\nFigures: {}\n", figures.join(", "));
        }
    }
    Ok(text + &format!("\nRun folder: {}", folder.display()))
}

/// What was measured, above the short table; of several data the last run is that of all.
fn of_all(groups: &[RunGroup]) -> String {
    let [group, ..] = groups else { return String::new() };
    match (&group.together, group.runs.first(), group.runs.last()) {
        (Some(_), _, Some(last)) => format!("{}; {}\n\n", heading(last), last.answer.estimator),
        (None, Some(first), _) => format!("{}\n\n", heading(first)),
        _ => String::new(),
    }
}

/// What the ladders say together one of which is the best answer.
fn joint_answer(groups: &[RunGroup]) -> Option<Answer> {
    let best = best(groups)?;
    groups.iter().find(|group| group.runs.iter().any(|run| std::ptr::eq(run, best)))?.joint()
}

/// The best answer, or the joint one of ladders, in a sentence that can be quoted as it is.
fn to_quote(groups: &[RunGroup], joint: Option<&Answer>) -> Option<String> {
    let run = best(groups)?;
    if joint.is_some_and(|joint| joint.trust != Trust::Answer) {
        return None;
    }
    let (answer, manifest) = (joint.unwrap_or(&run.answer), &run.manifest);
    if let (Some(number), EstimatorSpec::Llc(spec)) = (answer.learning_coefficient, &manifest.spec.estimator) {
        return Some(format!(
            "To quote: the local learning coefficient of {} on {} is {} {} ({}).",
            problem_name(manifest, "model"),
            problem_name(manifest, "data"),
            nats(number),
            interval_words(answer.interval),
            density_words(spec, manifest)
        ));
    }
    let Prior::Gaussian { sigma } = manifest.spec.question.prior() else { return None };
    let mean = prior_mean(manifest).unwrap_or("0");
    let bits = answer.bits_per_parameter.map_or_else(String::new, |bits| format!(", {bits:.3} bits per weight"));
    Some(format!(
        "To quote: under the prior N({mean}, {sigma:.4}^2) the {} of {} on {} at a cutoff of {} nats has log-probability {} {} nats (a description length of {} nats{bits}).",
        answer.set(),
        problem_name(manifest, "model"),
        problem_name(manifest, "data"),
        manifest.spec.question.cutoff(),
        nats(answer.log_probability),
        interval_words(answer.interval),
        nats(-answer.log_probability),
    ))
}

/// Every run with what tells it from the others of a table.
fn named(groups: &[RunGroup]) -> Vec<(String, &Run)> {
    let name = |group: &RunGroup, run: &Run| match &group.ladders {
        Some(_) => ladder_name(run),
        None => run.data.as_ref().unwrap_or(&run.answer.estimator).clone(),
    };
    groups.iter().flat_map(|group| group.runs.iter().map(move |run| (name(group, run), run))).collect()
}

/// Reasons that are told of each number on a screen; the others are told in full.
const REASONS: usize = 2;

/// The gravest of what speaks against each number, or was to be known of it, unless the verdict says it.
fn gravest(groups: &[RunGroup]) -> Vec<(Vec<String>, &str)> {
    said_once(named(groups).into_iter().flat_map(|(name, run)| {
        let others = run.answer.reasons.iter().filter(|reason| **reason != run.answer.meaning);
        others.take(REASONS).map(move |reason| (name.clone(), reason.as_str()))
    }))
}

/// The figures that these runs have on disk; of a group the figures of all stand for those of each.
fn figures(groups: &[RunGroup]) -> Vec<String> {
    let drawn = |folder: &Path| {
        let paths = DRAWINGS.iter().map(|(drawing, _)| folder.join(format!("{drawing}.svg")));
        paths.filter(|path| path.is_file()).map(|path| path.display().to_string()).collect::<Vec<_>>()
    };
    let of_one = |group: &RunGroup| {
        let of_group = if group.is_group { drawn(&group.folder) } else { Vec::new() };
        if of_group.is_empty() { group.runs.iter().flat_map(|run| drawn(&run.folder)).collect() } else { of_group }
    };
    groups.iter().flat_map(of_one).collect()
}

/// An interval, or what a guide has in its place.
pub(crate) fn error_words(answer: &Answer) -> String {
    match answer.numerical_error {
        Some(error) => format!("\u{b1}{} numerical", nats(error)),
        None => interval_words(answer.interval),
    }
}

/// The numbers on a screen, one row per run.
fn table(groups: &[RunGroup]) -> String {
    let runs = || groups.iter().flat_map(|group| &group.runs);
    let first = if runs().any(|run| run.data.is_some()) { "data" } else { "estimator" };
    let row = |(name, run): (String, &Run)| {
        let answer = &run.answer;
        vec![name, nats(answer.number()), error_words(answer), answer.set().to_owned(), answer.trust.words().to_owned()]
    };
    let estimate = if runs().all(|run| run.answer.is_volume()) { "estimate (nats)" } else { "estimate" };
    plain_table(&[first, estimate, "95 % interval", "set", "trust"], &[1], named(groups).into_iter().map(row))
}

/// Seconds and gradients until the interval is one per cent wide to either side (a nat, if that is more): where the run is not there yet, a
/// forecast.
fn work_until(answer: &Answer) -> String {
    match answer.work_until(answer.compared_half_width()) {
        None => UNKNOWN.to_owned(),
        Some(factor) if answer.gradients > 0 => {
            format!("{:.1} s, {} gradients", factor * answer.seconds, whole(factor * answer.gradients as f64))
        }
        Some(factor) => format!("{:.1} s, {} evaluations", factor * answer.seconds, whole(factor * answer.evaluations as f64)),
    }
}

fn whole(count: f64) -> String {
    grouped(format!("{:.0}", count.ceil()))
}

/// One row per answer, with the work that it took.
fn table_of_work(answers: &[Answer]) -> String {
    let (number, until) =
        if answers.iter().all(Answer::is_volume) { ("log-probability (nats)", "until +-1 %") } else { ("estimate", "until +-5 %") };
    let names = ["estimator", "set", number, "95 % interval", "trust", "seconds", "gradients", "evaluations", until];
    let row = |answer: &Answer| {
        vec![
            answer.estimator.clone(),
            answer.set().to_owned(),
            nats(answer.number()),
            error_words(answer),
            answer.trust.words().to_owned(),
            format!("{:.1}", answer.seconds),
            grouped(answer.gradients),
            grouped(answer.evaluations),
            work_until(answer),
        ]
    };
    plain_table(&names, &[2, 5, 6, 7], answers.iter().map(row))
}
