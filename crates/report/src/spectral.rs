//! How results of the spectral estimator look.

use std::path::Path;

use basin_volume::estimator::spectral::spectrum;
use basin_volume::spec::SpectralRoute;
use basin_volume_engine::error::Error;
use basin_volume_engine::estimators::Run;
use basin_volume_engine::estimators::spectral::Spectrum;
use basin_volume_engine::numbers::{grouped, interval_words, nats};

use crate::heading::{heading, problem_name};
use crate::plot::{self, SpectralDensity};
use crate::presenter::Presenter;
use crate::table::{or_unknown, plain_table};

/// Spectra.
pub(crate) struct OfSpectra;

impl Presenter for OfSpectra {
    fn estimator(&self) -> &'static str {
        "spectral"
    }

    fn text(&self, runs: &[&Run]) -> String {
        let Some(first) = runs.first() else { return "no runs".to_owned() };
        let reasons = runs.iter().flat_map(|run| &run.answer.reasons);
        format!("{}\n\n{}\n{}", heading(first), table(runs), reasons.map(|reason| format!("\nspectral: {reason}\n")).collect::<String>())
    }

    fn figures(&self, runs: &[&Run], folder: &Path) -> Result<(), Error> {
        match runs {
            [run] => figure(run, folder),
            _ => Ok(()),
        }
    }
}

fn table(runs: &[&Run]) -> String {
    let names = [
        "estimator",
        "route",
        "log-probability (nats)",
        "numerical error (nats)",
        "rules (Gauss, Radau)",
        "probes x steps",
        "effective dimension",
        "true / quadratic cost",
        "bits/weight",
        "gradients",
        "seconds",
    ];
    let row = |run: &&Run| {
        let (answer, result) = (&run.answer, &run.details::<Spectrum>()?.result);
        let (route, size) = match result.route {
            SpectralRoute::Gram => ("gram", or_unknown(result.rank, |rank| format!("all {} eigenvalues", grouped(rank)))),
            _ => ("lanczos", format!("{} x {}", result.probes, result.steps)),
        };
        Some(vec![
            "quadratic (guide)".to_owned(),
            route.to_owned(),
            nats(answer.log_probability),
            or_unknown(answer.numerical_error, nats),
            or_unknown(result.bracket.as_ref(), |bracket| interval_words((Some(bracket.gauss), Some(bracket.radau)))),
            size,
            nats(result.effective_dimension),
            or_unknown(result.true_cost.as_ref(), |found| format!("{:.3}", found.ratio)),
            or_unknown(answer.bits_per_parameter, |bits| format!("{bits:.5}")),
            grouped(answer.gradients),
            format!("{:.1}", answer.seconds),
        ])
    };
    plain_table(&names, &[], runs.iter().filter_map(row))
}

/// Draws the spectral density into the run's folder.
fn figure(run: &Run, folder: &Path) -> Result<(), Error> {
    let Some(Spectrum { records, result }) = run.details() else { return Ok(()) };
    let spec = &run.manifest.spec;
    let nodes = spectrum(spec.dimension, records);
    let nodes: Vec<(f64, f64)> =
        nodes.iter().map(|node| (node.curvature, node.multiplicity)).filter(|node| node.0 > 0.0 && node.1 > 0.0).collect();
    if nodes.is_empty() {
        return Ok(());
    }
    let model = problem_name(&run.manifest, "model");
    let threshold = spec.question.sigma().filter(|_| result.beta > 0.0).map(|sigma| 1.0 / (result.beta * sigma * sigma));
    let title = format!("Spectrum of the Fisher matrix: {model}, {} weights", grouped(spec.dimension));
    plot::save(&SpectralDensity { title, nodes, threshold }, folder, "spectrum")?;
    Ok(())
}
