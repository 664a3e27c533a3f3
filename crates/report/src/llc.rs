//! How learning coefficients look.

use std::path::Path;

use basin_volume::run::answer::Trust;
use basin_volume_engine::error::Error;
use basin_volume_engine::estimators::Run;
use basin_volume_engine::estimators::llc::Coefficient;
use basin_volume_engine::numbers::{grouped, interval_words, nats};

use crate::heading::heading;
use crate::presenter::Presenter;
use crate::table::{or_unknown, plain_table};

/// Learning coefficients.
pub(crate) struct OfCoefficients;

impl Presenter for OfCoefficients {
    fn estimator(&self) -> &'static str {
        "llc"
    }

    fn text(&self, runs: &[&Run]) -> String {
        runs.iter().map(|run| text(run)).collect::<Vec<_>>().join("\n")
    }

    fn figures(&self, _runs: &[&Run], _folder: &Path) -> Result<(), Error> {
        Ok(())
    }
}

/// Heading, number, what it is made of, and words.
fn text(run: &Run) -> String {
    let Some(Coefficient { result, .. }) = run.details() else { return String::new() };
    let answer = &run.answer;
    let mut out = format!("{}\n\n{}\n\n", heading(run), answer.meaning);
    if result.trajectories == 0 {
        return out + "Nothing is computed yet.\n";
    }
    let names =
        ["learning coefficient", "standard error", "95 % interval", "R-hat", "independent values", "trajectories", "gradients", "seconds"];
    let row = vec![
        or_unknown(answer.learning_coefficient, nats),
        format!("{:.3}", result.standard_error),
        interval_words(answer.interval),
        format!("{:.3}", result.r_hat),
        format!("{:.0}", result.effective_sample_size),
        grouped(result.trajectories),
        grouped(answer.gradients),
        format!("{:.1}", answer.seconds),
    ];
    out += &plain_table(&names, &[], [row]);
    let values = [
        ("each chain by itself", result.chains.iter().map(|value| nats(*value)).collect::<Vec<_>>().join(", ")),
        ("E[C], nats", format!("{:.4e}", result.mean_cost)),
        ("C(c), nats", format!("{:.4e}", result.center_cost)),
        ("least C of a state, nats", format!("{:.4e}", result.least_cost)),
        ("n_beta^2 Var[C]", nats(result.cost_fluctuation)),
        ("virial residual", format!("{:.3} +- {:.3}", result.virial, result.virial_error)),
        ("drift, standard errors", format!("{:.1}", result.drift)),
        ("localization's share of E|x|^2", format!("{:.4}", result.localization_share)),
        ("d ln lambda / d ln localization", format!("{:.3} +- {:.3}", result.localization_slope, result.localization_slope_error)),
        ("overlap c.w/c.c", or_unknown(answer.overlap, |overlap| format!("{overlap:.3}"))),
        ("acceptance", format!("{:.2}", result.acceptance)),
        ("step, radians", format!("{:.4}", result.step)),
        ("trajectories per independent value", format!("{:.1}", result.autocorrelation)),
    ];
    out += &format!("\n\n{}\n", plain_table(&["", ""], &[], values.map(|(name, value)| vec![name.to_owned(), value])));
    if answer.trust != Trust::Answer {
        out += "\nThis number is not an answer:\n";
    }
    for reason in &answer.reasons {
        out += &format!("\n{reason}\n");
    }
    out
}
