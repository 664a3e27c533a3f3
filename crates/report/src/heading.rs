//! What was measured on which data, in a line.

use basin_volume::prior::Prior;
use basin_volume::run::manifest::Manifest;
use basin_volume::spec::{EstimatorSpec, LlcSpec};
use basin_volume_engine::estimators::Run;
use basin_volume_engine::numbers::grouped;

/// The name of the model or of the data.
#[must_use]
pub fn problem_name(manifest: &Manifest, key: &str) -> String {
    let problem = &manifest.spec.problem;
    problem.get(key).and_then(|m| m.get("name")).and_then(|n| n.as_str()).unwrap_or("?").to_owned()
}

/// What was measured on which data, and what the number is the logarithm of.
pub(crate) fn heading(run: &Run) -> String {
    let manifest = &run.manifest;
    let data = run.data.clone().unwrap_or_else(|| problem_name(manifest, "data"));
    if let EstimatorSpec::Llc(spec) = &manifest.spec.estimator {
        return format!(
            "Learning coefficient of {} ({} weights) on {data}; {}",
            problem_name(manifest, "model"),
            grouped(manifest.spec.dimension),
            density_words(spec, manifest)
        );
    }
    format!(
        "Local volume of {} ({} weights) on {data}: {}; cutoff {} nats{}",
        problem_name(manifest, "model"),
        grouped(manifest.spec.dimension),
        quantity(run),
        manifest.spec.question.cutoff(),
        prior_words(manifest)
    )
}

/// The model that the prior is around, if it is not around zero.
pub(crate) fn prior_mean(manifest: &Manifest) -> Option<&str> {
    manifest.spec.problem.get("prior_mean")?.get("name")?.as_str()
}

/// Of what the number is the logarithm.
fn quantity(run: &Run) -> String {
    match prior_mean(&run.manifest) {
        Some(base) => run.answer.quantity.replace("N(0,", &format!("N({base},")),
        None => run.answer.quantity.clone(),
    }
}

/// The density that chains stay at for a learning coefficient.
pub(crate) fn density_words(spec: &LlcSpec, manifest: &Manifest) -> String {
    let number = |value: Option<f64>| value.map_or_else(|| "?".to_owned(), |value| format!("{value:.4}"));
    let prior = if spec.with_prior { prior_words(manifest) } else { String::new() };
    format!("n_beta {}, localization {}{prior}", number(spec.n_beta), number(spec.localization))
}

/// The scale of a Gaussian prior and where it comes from, behind a comma.
fn prior_words(manifest: &Manifest) -> String {
    let Prior::Gaussian { sigma } = manifest.spec.question.prior() else { return String::new() };
    let from = manifest.notes.get("sigma_choice").and_then(|choice| choice.as_str());
    format!(", sigma {sigma:.6}{}", from.map_or_else(String::new, |from| format!(" ({from})")))
}
