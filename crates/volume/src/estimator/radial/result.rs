//! The answer of a radial run, from its manifest and samples alone.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use super::by_part::PartResult;
use super::sample::Sample;
use crate::prior::Prior;
use crate::radial_integral::RayGeometry;
use crate::run::answer::{Answer, Measured, OF_THE_PRIOR, Trust};
use crate::run::manifest::Manifest;
use crate::spec::{EstimatorSpec, Proposal};
use crate::statistics::{Diagnostics, IntervalSettings, OutcomeCounts, log_mean_exp, summarize};

/// What a radial run says beside its answer. Numbers that are not finite are `null` in JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RadialResult {
    /// Name of the preconditioner.
    pub preconditioner: String,
    /// Where the Gaussian of the directions lies.
    pub proposal: Proposal,
    /// Samples that the result is made of.
    pub samples: usize,
    /// Samples asked for, over all shards.
    pub samples_requested: u64,
    /// What the estimate is made of, and how far it can be believed.
    #[serde(flatten)]
    pub diagnostics: Diagnostics,
    /// Mean number of cost evaluations per sample.
    pub evaluations_per_sample: f64,
    /// Median number of cost evaluations per sample.
    pub evaluations_median: f64,
    /// Evaluations that were NaN or infinite, over all samples.
    pub not_finite_evaluations: u64,
    /// How the rays ended.
    pub outcomes: OutcomeCounts,
    /// Rays that reach the cutoff only where the prior's mass along them is behind already (less than a hundredth of a nat is cut off), or never.
    pub beyond_the_prior: usize,
    /// With `volumes_by_part`: the results of the parts of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<Vec<PartResult>>,
}

impl RadialResult {
    /// The result of these samples (in the order of their indices), on which so many seconds were spent.
    #[must_use]
    pub fn of(manifest: &Manifest, samples: &[Sample], seconds: f64) -> (Answer, Self) {
        let log_volumes: Vec<f64> = samples.iter().map(|s| s.log_volume).collect();
        let errors: Vec<f64> = samples.iter().map(|s| s.radius_error_nats).collect();
        let outcomes: OutcomeCounts = samples.iter().map(|s| s.outcome).collect();
        let spec = &manifest.spec;
        let settings = IntervalSettings { seed: spec.question.seed(), ..IntervalSettings::default() };
        let summary = summarize(&log_volumes, &errors, &outcomes, settings);
        let cut_off: Vec<f64> = samples.iter().map(|sample| cut_off(manifest, sample)).collect();
        let whole: Vec<f64> = log_volumes.iter().zip(&cut_off).map(|(volume, cut_off)| volume + cut_off).collect();
        // What the cutoff takes off the number: where that is nothing, any network would have had the same.
        let is_of_the_prior = log_mean_exp(&whole) - summary.log_mean_exp < CUT_OFF;
        let mut evaluations: Vec<u32> = samples.iter().map(|s| s.evaluations).collect();
        evaluations.sort_unstable();
        let total: u64 = evaluations.iter().map(|&e| u64::from(e)).sum();
        let result = Self {
            preconditioner: spec.preconditioner.label().to_owned(),
            proposal: match &spec.estimator {
                EstimatorSpec::Radial(spec) => spec.proposal,
                _ => Proposal::Centered,
            },
            samples: samples.len(),
            samples_requested: manifest.samples,
            diagnostics: summary.diagnostics,
            evaluations_per_sample: total as f64 / samples.len().max(1) as f64,
            evaluations_median: median(&evaluations),
            not_finite_evaluations: samples.iter().map(|s| u64::from(s.not_finite)).sum(),
            outcomes,
            beyond_the_prior: cut_off.iter().filter(|&&nats| nats < CUT_OFF).count(),
            parts: PartResult::of(manifest, samples),
        };
        let answer = Answer {
            estimator: format!("radial, {}", result.directions()),
            measures: Measured::Star,
            quantity: spec.question.prior().quantity().to_owned(),
            log_probability: summary.log_mean_exp,
            learning_coefficient: None,
            interval: (Some(summary.interval.low).filter(|low| low.is_finite()), summary.interval.high.filter(|high| high.is_finite())),
            numerical_error: None,
            overlap: None,
            meaning: if is_of_the_prior { OF_THE_PRIOR } else { Measured::Star.meaning() }.to_owned(),
            trust: match result.diagnostics.reliability {
                _ if samples.is_empty() => Trust::NotAnAnswer,
                reliability => Trust::of_rays(reliability, summary.log_mean_exp),
            },
            reasons: manifest
                .words_on_samples(samples.len())
                .into_iter()
                .chain(is_of_the_prior.then(|| OF_THE_PRIOR.to_owned()))
                .chain(summary.warnings)
                .collect(),
            bits_per_parameter: spec.bits_per_parameter(summary.log_mean_exp),
            seconds,
            gradients: 0,
            evaluations: total,
        };
        (answer, result)
    }

    /// [`Proposal::directions`].
    #[must_use]
    pub fn directions(&self) -> String {
        self.proposal.directions(&self.preconditioner)
    }
}

/// Nats that the cutoff must take off for a number to say something about the network.
const CUT_OFF: f64 = 0.01;

/// What the cutoff takes off a ray's log-volume, in nats: infinite where it takes off all of an infinite one.
fn cut_off(manifest: &Manifest, sample: &Sample) -> f64 {
    let geometry = RayGeometry {
        dimension: manifest.spec.dimension as f64,
        norm: sample.norm,
        center_dot: sample.center_dot,
        center_norm_squared: manifest.center_norm_squared,
    };
    let prior = manifest.spec.question.prior();
    let end = if matches!(prior, Prior::Sphere) { PI } else { f64::INFINITY };
    prior.log_volume(&geometry, end) - prior.log_volume(&geometry, sample.radius.min(end))
}

fn median(sorted: &[u32]) -> f64 {
    match sorted.len() {
        0 => 0.0,
        n => 0.5 * (f64::from(sorted[(n - 1) / 2]) + f64::from(sorted[n / 2])),
    }
}
