//! How results of rays look.

use std::path::Path;

use basin_volume::estimator::radial::{PartResult, Sample};
use basin_volume::prior::Prior;
use basin_volume_engine::error::Error;
use basin_volume_engine::estimators::Run;
use basin_volume_engine::estimators::radial::Rays;
use basin_volume_engine::numbers::{grouped, interval_words, nats};

use crate::heading::{heading, problem_name};
use crate::plot::{self, Histogram, RadiusTrace, RayProfile, histogram, profile, trace};
use crate::presenter::Presenter;
use crate::prose::said_once;
use crate::table::{or_unknown, plain_table};

/// How many rays of each run are drawn in the figure of the costs.
const RAYS_DRAWN: usize = 8;

/// Rays.
pub(crate) struct OfRays;

impl Presenter for OfRays {
    fn estimator(&self) -> &'static str {
        "radial"
    }

    fn text(&self, runs: &[&Run]) -> String {
        report(runs)
    }

    fn figures(&self, runs: &[&Run], folder: &Path) -> Result<(), Error> {
        figures(runs, folder)
    }

    fn parts(&self, run: &Run) -> Option<String> {
        let parts = rays(run)?.result.parts.as_deref()?;
        Some(sequences(&name(run), parts))
    }

    fn draws_groups(&self) -> bool {
        true
    }
}

/// What tells a run from the others of its table: the data where there are several, else where the directions come from.
fn name(run: &Run) -> String {
    run.data.clone().unwrap_or_else(|| rays(run).map_or_else(String::new, |rays| rays.result.directions()))
}

fn rays(run: &Run) -> Option<&Rays> {
    run.details()
}

/// The legend of a run.
fn label(run: &Run) -> String {
    match (&run.data, name(run).as_str()) {
        (Some(data), _) => data.clone(),
        (None, "none") => "no preconditioner".to_owned(),
        (None, name) => format!("preconditioner {name}"),
    }
}

/// The table of one or several runs.
fn table(runs: &[&Run]) -> String {
    let is_of_data = runs.iter().any(|run| run.data.is_some());
    let names = [
        if is_of_data { "data" } else { "preconditioner" },
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
    ];
    let row = |run: &&Run| {
        let result = &rays(run)?.result;
        let diagnostics = &result.diagnostics;
        Some(vec![
            name(run),
            result.samples.to_string(),
            nats(run.answer.log_probability),
            interval_words(run.answer.interval),
            nats(diagnostics.mean),
            nats(diagnostics.sd),
            nats(diagnostics.max),
            format!("{:.1}", diagnostics.effective_sample_size),
            or_unknown(diagnostics.pareto_k, |k| if k > 10.0 { "> 10".to_owned() } else { format!("{k:.2}") }),
            or_unknown(run.answer.bits_per_parameter, |bits| format!("{bits:.4}")),
            format!("{:.1} (median {})", result.evaluations_per_sample, result.evaluations_median),
            format!("{:.1}", 1e3 * run.answer.seconds / result.samples.max(1) as f64),
        ])
    };
    plain_table(&names, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], runs.iter().filter_map(row))
}

/// Title line, table and words. Of several data the last run is that of all.
fn report(runs: &[&Run]) -> String {
    let Some(last) = runs.last() else { return "no runs".to_owned() };
    let directions = match (&last.data, rays(last)) {
        (Some(_), Some(rays)) => format!(", preconditioner {}", rays.result.directions()),
        _ => String::new(),
    };
    let mut text = format!("{}{directions}\n\n{}\n", heading(last), table(runs));
    let reasons = runs.iter().flat_map(|run| run.answer.reasons.iter().map(|reason| (name(run), reason.as_str())));
    for (names, reason) in said_once(reasons) {
        text += &format!("\n{}: {reason}\n", names.join(", "));
    }
    runs.iter().filter_map(|run| OfRays.parts(run)).for_each(|parts| text += &parts);
    text
}

/// How many sequences are listed from either end.
const LISTED: usize = 10;
/// Characters of a sequence's text in the list.
const SHOWN: usize = 40;

/// The sequences of a run by volume, the largest first.
fn sequences(run: &str, parts: &[PartResult]) -> String {
    let sorted = PartResult::sorted(parts);
    let row = |part: &&PartResult| {
        let text = part.text.as_deref().map_or_else(String::new, |text| text.split_whitespace().collect::<Vec<_>>().join(" "));
        vec![
            part.index.to_string(),
            or_unknown(part.tokens, grouped),
            or_unknown(part.log_volume, nats),
            interval_words(part.interval),
            or_unknown(part.mean_log_volume, nats),
            or_unknown(part.standard_error, |error| format!("{error:.1}")),
            part.trust.words().to_owned(),
            text.chars().take(SHOWN).collect(),
        ]
    };
    let names = ["sequence", "tokens", "log-mean-exp (nats)", "95 % interval", "mean", "standard error", "trust", "text"];
    let ends = LISTED.min(sorted.len());
    let last = ends.max(sorted.len().saturating_sub(LISTED));
    let listed = sorted[..ends].iter().chain(&sorted[last..]);
    let left_out = last - ends;
    let words = if left_out == 0 { String::new() } else { format!(" ({left_out} in between are in sequences.csv)") };
    let table = plain_table(&names, &[0, 1, 2, 3, 4, 5], listed.map(row));
    format!(
        "\n{run}: the {} sequences by volume, the largest first{words}. Each has its own radius on the same rays. A mean over few rays misses the \
         largest: volumes are biased low, all of them alike, so differences say more than the numbers.\n\n{table}\n",
        sorted.len()
    )
}

/// Draws the figures of these runs into `folder`.
fn figures(runs: &[&Run], folder: &Path) -> Result<(), Error> {
    let Some(first) = runs.first() else { return Ok(()) };
    let with_rays = |run: &&'_ Run| rays(run).is_some_and(|rays| !rays.samples.is_empty());
    let drawable: Vec<(&Run, &Rays)> = runs.iter().copied().filter(with_rays).filter_map(|run| Some((run, rays(run)?))).collect();
    if drawable.is_empty() {
        return Ok(());
    }
    let spec = &first.manifest.spec;
    let model = problem_name(&first.manifest, "model");
    let is_sphere = matches!(spec.question.prior(), Prior::Sphere);
    plot::save(
        &Histogram {
            title: format!("Log-volumes of rays: {model}, {} weights, cutoff {} nats", grouped(spec.dimension), spec.question.cutoff()),
            series: drawable
                .iter()
                .map(|(run, rays)| histogram::Series {
                    label: label(run),
                    values: rays.samples.iter().map(|s| s.log_volume).collect(),
                    log_mean_exp: run.answer.log_probability,
                })
                .collect(),
        },
        folder,
        "log_volumes",
    )?;
    // The distance in weight space makes the radii of different preconditioners comparable.
    let distance = |sample: &Sample, t: f64| if is_sphere { t } else { t * sample.norm };
    let distance_label = if is_sphere { "angle from the center  (radians)" } else { "distance from the center, ||w \u{2212} c||" };
    plot::save(
        &RadiusTrace {
            title: format!("Radius of each ray: {model}, cutoff {} nats", spec.question.cutoff()),
            radius_label: if is_sphere { "radius  (radians)".to_owned() } else { "radius, ||w \u{2212} c||".to_owned() },
            series: drawable
                .iter()
                .map(|(run, rays)| trace::Series {
                    label: label(run),
                    points: rays.samples.iter().map(|s| (s.index, distance(s, s.radius))).collect(),
                })
                .collect(),
        },
        folder,
        "radii",
    )?;
    let mut series = Vec::new();
    for (number, (run, rays)) in drawable.iter().enumerate() {
        for (ray, sample) in rays.samples.iter().filter(|s| s.profile.is_some()).take(RAYS_DRAWN).enumerate() {
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
            cutoff: spec.question.cutoff(),
            series,
        };
        plot::save(&figure, folder, "cost_along_rays")?;
    }
    Ok(())
}
