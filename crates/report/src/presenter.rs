//! How the results of each estimator are shown: one line each, and a plain form for those that have none of their own.

use std::path::Path;

use basin_volume_engine::error::Error;
use basin_volume_engine::estimators::Run;
use basin_volume_engine::numbers::{grouped, interval_words, nats};

use crate::annealed::OfChains;
use crate::heading::heading;
use crate::llc::OfCoefficients;
use crate::rays::OfRays;
use crate::spectral::OfSpectra;
use crate::table::{or_unknown, plain_table};

/// Shows runs of one estimator.
pub(crate) trait Presenter: Sync {
    /// Name of the estimator.
    fn estimator(&self) -> &'static str;

    /// Heading, table and words.
    fn text(&self, runs: &[&Run]) -> String;

    /// Draws figures of these runs into a folder.
    fn figures(&self, runs: &[&Run], folder: &Path) -> Result<(), Error>;

    /// What a run says of the parts of its data, where it was asked.
    fn parts(&self, _run: &Run) -> Option<String> {
        None
    }

    /// Whether there are figures of several runs together.
    fn draws_groups(&self) -> bool {
        false
    }
}

const PRESENTERS: &[&dyn Presenter] = &[&OfRays, &OfSpectra, &OfChains, &OfCoefficients];

/// How runs of this estimator are shown.
pub(crate) fn presenter(estimator: &str) -> &'static dyn Presenter {
    PRESENTERS.iter().copied().find(|presenter| presenter.estimator() == estimator).unwrap_or(&Plain)
}

/// Shows what every result has.
struct Plain;

impl Presenter for Plain {
    fn estimator(&self) -> &'static str {
        "any"
    }

    fn text(&self, runs: &[&Run]) -> String {
        let Some(first) = runs.first() else { return "no runs".to_owned() };
        let names = ["estimator", "estimate", "95 % interval", "trust", "bits/weight", "gradients", "evaluations", "seconds"];
        let row = |run: &&Run| {
            let answer = &run.answer;
            vec![
                answer.estimator.clone(),
                nats(answer.number()),
                interval_words(answer.interval),
                answer.trust.words().to_owned(),
                or_unknown(answer.bits_per_parameter, |bits| format!("{bits:.4}")),
                grouped(answer.gradients),
                grouped(answer.evaluations),
                format!("{:.1}", answer.seconds),
            ]
        };
        let table = plain_table(&names, &[1, 2, 4, 5, 6, 7], runs.iter().map(row));
        let reasons: String =
            runs.iter().flat_map(|run| run.answer.reasons.iter().map(|reason| format!("\n{}: {reason}\n", run.estimator()))).collect();
        format!("{}\n\n{table}\n{reasons}", heading(first))
    }

    fn figures(&self, _runs: &[&Run], _folder: &Path) -> Result<(), Error> {
        Ok(())
    }
}
