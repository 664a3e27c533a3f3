//! `result.json`: the answer of a run, computed from its manifest and samples alone.

use serde::{Deserialize, Serialize};

use super::manifest::Manifest;
use crate::estimator::radial::Sample;
use crate::prior::Prior;
use crate::spec::{EstimatorSpec, Proposal};
use crate::statistics::{IntervalSettings, OutcomeCounts, Summary, summarize};

/// Name of the format, in every result.
pub const FORMAT: &str = "basin-volume result";

/// The answer of a run of the radial estimator. Numbers that are not finite are `null` in JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// [`FORMAT`].
    pub format: String,
    /// Version of the run folder's format.
    pub format_version: u32,
    /// Which set is measured: `star`, the points seen from the center without crossing the cutoff.
    pub measures: String,
    /// What the logarithm is of, in words.
    pub quantity: String,
    /// Name of the preconditioner.
    pub preconditioner: String,
    /// Where the Gaussian of the directions lies; not written where it is the center.
    #[serde(default, skip_serializing_if = "Proposal::is_centered")]
    pub proposal: Proposal,
    /// Samples that the result is made of.
    pub samples: usize,
    /// Samples asked for, over all shards.
    pub samples_requested: u64,
    /// The estimate, its interval, its diagnostics and what they mean in words.
    #[serde(flatten)]
    pub summary: Summary,
    /// `-log_mean_exp / (D ln 2)`: the description length in bits per parameter; none for a volume, whose logarithm depends on units.
    pub bits_per_parameter: Option<f64>,
    /// Mean number of cost evaluations per sample.
    pub evaluations_per_sample: f64,
    /// Median number of cost evaluations per sample.
    pub evaluations_median: f64,
    /// Evaluations that were NaN or infinite, over all samples.
    pub not_finite_evaluations: u64,
    /// How the rays ended.
    pub outcomes: OutcomeCounts,
    /// Wall-clock seconds spent on the samples, over all sessions that ended in an orderly way.
    pub seconds: f64,
}

impl RunResult {
    /// The result of these samples (in the order of their indices).
    #[must_use]
    pub fn of(manifest: &Manifest, samples: &[Sample], seconds: f64) -> Self {
        let log_volumes: Vec<f64> = samples.iter().map(|s| s.log_volume).collect();
        let errors: Vec<f64> = samples.iter().map(|s| s.radius_error_nats).collect();
        let outcomes: OutcomeCounts = samples.iter().map(|s| s.outcome).collect();
        let settings = IntervalSettings { seed: manifest.spec.seed, ..IntervalSettings::default() };
        let mut summary = summarize(&log_volumes, &errors, &outcomes, settings);
        let missing = manifest.shard.indices(manifest.samples).count().saturating_sub(samples.len());
        if missing > 0 {
            let warning = format!(
                "{missing} of the samples asked for are not computed yet: repeat the estimate, or merge the shards that are missing."
            );
            summary.warnings.push(warning);
        }
        if !manifest.shard.is_all() {
            summary.warnings.push(format!("This is shard {} alone: join the shards with merge.", manifest.shard));
        }
        let mut evaluations: Vec<u32> = samples.iter().map(|s| s.evaluations).collect();
        evaluations.sort_unstable();
        let bits = -summary.log_volume.log_mean_exp / (manifest.spec.dimension as f64 * std::f64::consts::LN_2);
        let quantity = match manifest.spec.prior {
            Prior::Gaussian { .. } => "ln of the probability under the Gaussian prior N(0, sigma^2 I)",
            Prior::Lebesgue => "ln of the volume (Lebesgue measure)",
            Prior::Sphere => "ln of the probability under the uniform distribution on the sphere ||w|| = ||c||",
        };
        Self {
            format: FORMAT.to_owned(),
            format_version: manifest.format_version,
            measures: "star".to_owned(),
            quantity: quantity.to_owned(),
            preconditioner: manifest.spec.preconditioner.label().to_owned(),
            proposal: match &manifest.spec.estimator {
                EstimatorSpec::Radial(spec) => spec.proposal,
                _ => Proposal::Centered,
            },
            samples: samples.len(),
            samples_requested: manifest.samples,
            summary,
            bits_per_parameter: (bits.is_finite() && !matches!(manifest.spec.prior, Prior::Lebesgue)).then_some(bits),
            evaluations_per_sample: evaluations.iter().map(|&e| f64::from(e)).sum::<f64>() / samples.len().max(1) as f64,
            evaluations_median: median(&evaluations),
            not_finite_evaluations: samples.iter().map(|s| u64::from(s.not_finite)).sum(),
            outcomes,
            seconds,
        }
    }
}

impl RunResult {
    /// [`Proposal::directions`].
    #[must_use]
    pub fn directions(&self) -> String {
        self.proposal.directions(&self.preconditioner)
    }
}

fn median(sorted: &[u32]) -> f64 {
    match sorted.len() {
        0 => 0.0,
        n => 0.5 * (f64::from(sorted[(n - 1) / 2]) + f64::from(sorted[n / 2])),
    }
}
