//! How results of chains look.

use std::path::Path;

use basin_volume::estimator::annealed::{AnnealedResult, Phase, RungSummary};
use basin_volume::run::answer::Trust;
use basin_volume::spec::SetKind;
use basin_volume_engine::error::Error;
use basin_volume_engine::estimators::Run;
use basin_volume_engine::estimators::annealed::Chains;
use basin_volume_engine::numbers::{grouped, nats};

use crate::heading::{heading, problem_name};
use crate::plot::{self, ladder};
use crate::presenter::Presenter;
use crate::table::{UNKNOWN, or_unknown, plain_table};

/// Chains.
pub(crate) struct OfChains;

impl Presenter for OfChains {
    fn estimator(&self) -> &'static str {
        "annealed"
    }

    fn text(&self, runs: &[&Run]) -> String {
        runs.iter().map(|run| text(run)).collect::<Vec<_>>().join("\n")
    }

    fn figures(&self, runs: &[&Run], folder: &Path) -> Result<(), Error> {
        match runs {
            [run] => run.details::<Chains>().map_or(Ok(()), |chains| figure(run, &chains.result, folder)),
            _ => Ok(()),
        }
    }
}

/// Heading, answer, ladder and words.
fn text(run: &Run) -> String {
    let Some(Chains { spec, result }) = run.details() else { return String::new() };
    let set = match spec.set_kind {
        SetKind::Basin => "basin: the weights under the cutoff that chains from the center reach",
        SetKind::Star => "star: the weights whose straight line to the center stays under the cutoff",
    };
    let mut out = format!("{}\n\nThe {set}.\n\n", heading(run));
    if result.rungs.is_empty() {
        return out + "Nothing is computed yet.\n";
    }
    out += &answer_table(run, result);
    out += &format!("\n{}\n", ladder_table(&result.rungs));
    let has_number = !run.answer.log_probability.is_nan();
    if run.answer.trust == Trust::Answer {
        out += "\nBoth ways agree: the number is the answer for this set, within the interval.\n";
    } else if has_number {
        out += "\nThis number is not an answer:\n";
    }
    for reason in &run.answer.reasons {
        out += &format!("\n{reason}\n");
    }
    if result.counted.len() < result.outward.len() {
        let counted: Vec<String> = result.counted.iter().map(|sweep| (sweep + 1).to_string()).collect();
        out += &format!(
            "\nSweeps that count: {}. They stayed longer where the ways of those before them differed, and their numbers are those of the longest stay at every rung.\n",
            counted.join(", ")
        );
    }
    if let Some((works, gap)) = result.works.as_ref().zip(result.gap) {
        let verdict = if works.decide {
            "that of chains near equilibrium, and the interval is that of their works with an eighth of the gap"
        } else if works.near_equilibrium {
            "no more than the noise of both ways, which the interval spans"
        } else {
            "not that of chains near equilibrium, and the interval spans the gap"
        };
        out += &format!(
            "\nThe works of single chains have the variance {:.1}: near equilibrium the ways differ by as many nats, and with so few works by up to {:.1}. They differ by {:.1}: {verdict}.\n",
            works.variance,
            works.largest_gap,
            gap.abs()
        );
    }
    if let Some(anchor) = &result.anchor {
        out += &format!(
            "\nThe spring was attached to a state of cost {:.2e} (overlap {:.3} with the center), which a chain from the center had come to in {} trajectories.\n",
            anchor.cost, anchor.overlap, anchor.trajectories
        );
    }
    out
}

fn answer_table(run: &Run, result: &AnnealedResult) -> String {
    let names = [
        "log-probability (nats)",
        "interval",
        "outward",
        "inward",
        "gap",
        "standard error",
        "overlap c.w/c.c",
        "bits/weight",
        "acceptance",
        "gradients",
        "seconds",
    ];
    let ways = |values: &[f64]| {
        if values.is_empty() { UNKNOWN.to_owned() } else { values.iter().map(|v| nats(*v)).collect::<Vec<_>>().join(", ") }
    };
    let answer = &run.answer;
    let end = |value: Option<f64>, otherwise: f64| {
        value.map_or_else(|| if otherwise.is_nan() { "unknown".to_owned() } else { nats(otherwise) }, nats)
    };
    let row = vec![
        if answer.log_probability.is_nan() { UNKNOWN.to_owned() } else { nats(answer.log_probability) },
        format!("[{}, {}]", end(answer.interval.0, f64::NEG_INFINITY), end(answer.interval.1, f64::NAN)),
        ways(&result.outward),
        ways(&result.inward),
        or_unknown(result.gap, nats),
        format!("{:.2}", result.error),
        format!("{:.3}", result.overlap),
        or_unknown(answer.bits_per_parameter, |bits| format!("{bits:.4}")),
        format!("{:.2}", result.acceptance),
        grouped(answer.gradients),
        format!("{:.1}", answer.seconds),
    ];
    plain_table(&names, &[], [row])
}

fn ladder_table(rungs: &[RungSummary]) -> String {
    let names = [
        "way",
        "rung",
        "beta",
        "localization",
        "trajectories",
        "E[C]",
        "beta E[C]",
        "pull",
        "log-volume",
        "overlap",
        "virial",
        "drift",
        "correlated",
        "acceptance",
        "step",
    ];
    let row = |rung: &RungSummary| {
        vec![
            rung.phase.name().to_owned(),
            rung.rung.to_string(),
            format!("{:.3e}", rung.beta),
            format!("{:.3e}", rung.localization),
            rung.trajectories.to_string(),
            format!("{:.2e}", rung.mean_cost),
            format!("{:.2}", rung.learning_coefficient),
            format!("{:.2}", rung.pull),
            nats(rung.log_laplace),
            format!("{:.3}", rung.overlap),
            format!("{:.2}", rung.virial),
            format!("{:.1}", rung.drift),
            format!("{:.1}", rung.autocorrelation),
            format!("{:.2}", rung.acceptance),
            format!("{:.4}", rung.step),
        ]
    };
    plain_table(&names, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14], rungs.iter().map(row))
}

fn figure(run: &Run, result: &AnnealedResult, folder: &Path) -> Result<(), Error> {
    let sweeps = result.rungs.iter().map(|rung| rung.sweep).max().unwrap_or(0);
    let mut series = Vec::new();
    for sweep in 0..=sweeps {
        for is_back in [false, true] {
            let mut points: Vec<(f64, f64)> = result
                .rungs
                .iter()
                .filter(|rung| rung.sweep == sweep && (rung.phase == Phase::Outward) != is_back)
                .map(|rung| (rung.rung as f64, rung.log_laplace))
                .collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            let way = if is_back { "inward" } else { "outward" };
            let number = if sweeps > 0 { format!(", sweep {}", sweep + 1) } else { String::new() };
            // The way back is known from its known end only when it has come there.
            if points.first().is_some_and(|point| point.0 == 0.0) {
                series.push(ladder::Series { label: format!("{way}{number}"), points });
            }
        }
    }
    if series.is_empty() {
        return Ok(());
    }
    let (model, cutoff) = (problem_name(&run.manifest, "model"), run.manifest.spec.question.cutoff());
    let title = format!("Annealed log-volume along the ladder: {model}, cutoff {cutoff} nats");
    plot::save(&ladder::Ladder { title, series }, folder, "ladder")?;
    Ok(())
}
