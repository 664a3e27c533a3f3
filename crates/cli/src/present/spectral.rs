//! How results of the spectral estimator look.

use std::path::PathBuf;

use anyhow::Result;
use basin_volume::estimator::spectral::{SpectralRecord, SpectralResult, spectrum};
use basin_volume::prior::Prior;
use basin_volume::run::manifest::Manifest;
use basin_volume::spec::SpectralRoute;
use comfy_table::{Table, presets};

use super::{grouped, heading, nats, problem_name};
use crate::plot::{self, SpectralDensity};

/// One run, read or just computed.
pub struct Run {
    pub folder: PathBuf,
    pub manifest: Manifest,
    pub records: Vec<SpectralRecord>,
    pub result: SpectralResult,
}

/// Title line, table and words.
pub fn report(runs: &[Run]) -> String {
    let Some(first) = runs.first() else { return "no runs".to_owned() };
    let mut text =
        format!("{}\n{}\n", heading(&first.manifest, &problem_name(&first.manifest, "data"), &first.result.quantity), table(runs));
    for run in runs {
        for warning in &run.result.warnings {
            text += &format!("\nspectral: {warning}\n");
        }
    }
    text
}

fn table(runs: &[Run]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header([
        "estimator",
        "route",
        "log-probability (nats)",
        "95 % interval",
        "rules (Gauss, Radau)",
        "probes x steps",
        "effective dimension",
        "true / quadratic cost",
        "bits/weight",
        "gradients",
        "seconds",
    ]);
    let unknown = || "\u{2013}".to_owned();
    for Run { result, .. } in runs {
        let pair = |low: f64, high: f64| format!("[{}, {}]", nats(low), nats(high));
        let (route, size) = match result.route {
            SpectralRoute::Gram => ("gram", result.rank.map_or_else(unknown, |rank| format!("all {} eigenvalues", grouped(rank)))),
            _ => ("lanczos", format!("{} x {}", result.probes, result.steps)),
        };
        table.add_row([
            "quadratic (guide)".to_owned(),
            route.to_owned(),
            nats(result.log_probability),
            result.interval.map_or_else(unknown, |(low, high)| pair(low, high)),
            result.bracket.map_or_else(unknown, |bracket| pair(bracket.gauss, bracket.radau)),
            size,
            nats(result.effective_dimension),
            result.true_cost.map_or_else(unknown, |found| format!("{:.3}", found.ratio)),
            result.bits_per_parameter.map_or_else(unknown, |bits| format!("{bits:.5}")),
            grouped(result.gradients),
            format!("{:.1}", result.seconds),
        ]);
    }
    table.to_string()
}

/// Draws the spectral density into the run's folder.
pub fn figures(run: &Run) -> Result<()> {
    let nodes = spectrum(run.manifest.spec.dimension, &run.records);
    let nodes: Vec<(f64, f64)> =
        nodes.iter().map(|node| (node.curvature, node.multiplicity)).filter(|node| node.0 > 0.0 && node.1 > 0.0).collect();
    if nodes.is_empty() {
        return Ok(());
    }
    let spec = &run.manifest.spec;
    let model = problem_name(&run.manifest, "model");
    let threshold = match spec.prior {
        Prior::Gaussian { sigma } if run.result.beta > 0.0 => Some(1.0 / (run.result.beta * sigma * sigma)),
        _ => None,
    };
    let figure =
        SpectralDensity { title: format!("Spectrum of the Fisher matrix: {model}, {} weights", grouped(spec.dimension)), nodes, threshold };
    plot::save(&figure, &run.folder, "spectrum")?;
    Ok(())
}
