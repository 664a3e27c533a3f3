//! The answers of a radial run for every part of the data, from its manifest and samples alone.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::sample::Sample;
use crate::run::answer::Trust;
use crate::run::manifest::Manifest;
use crate::statistics::{Interval, IntervalSettings, OutcomeCounts, Reliability, summarize};

/// Key of the parts among a manifest's notes: a list of [`PartNote`].
pub const PARTS: &str = "parts";

/// What a part of the data is, for tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartNote {
    /// Tokens of the sequence.
    pub tokens: usize,
    /// How it begins, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// The volume of one part of the data: the answer of a run whose data are that part alone, along the same rays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartResult {
    /// Which part, from 0.
    pub index: usize,
    /// Its size, in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<usize>,
    /// How it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The logarithm of the volume (the log-mean-exp over rays), nats.
    pub log_volume: Option<f64>,
    /// Its interval, as that of the whole.
    pub interval: (Option<f64>, Option<f64>),
    /// Mean of the rays' log-volumes, nats: the typical ray.
    pub mean_log_volume: Option<f64>,
    /// Standard error of the mean.
    pub standard_error: Option<f64>,
    /// How far the volume can be believed.
    pub trust: Trust,
    /// How its rays ended.
    pub outcomes: OutcomeCounts,
}

impl PartResult {
    /// The results of all parts, in their order; `None` where the samples don't have them. A part in which nothing counts has no result.
    #[must_use]
    pub fn of(manifest: &Manifest, samples: &[Sample]) -> Option<Vec<Self>> {
        let rays: Vec<_> = samples.iter().filter_map(|sample| sample.volumes_by_part.as_ref()).collect();
        let first = rays.first()?;
        let notes: Vec<PartNote> =
            manifest.notes.get(PARTS).and_then(|notes| serde_json::from_value(notes.clone()).ok()).unwrap_or_default();
        let settings = IntervalSettings { seed: manifest.spec.question.seed(), ..IntervalSettings::default() };
        let result = |index: usize| {
            let outcomes: OutcomeCounts = rays.iter().filter_map(|ray| ray.outcome.get(index).copied().flatten()).collect();
            let column = |values: fn(&super::VolumesByPart) -> &Vec<f64>| -> Vec<f64> {
                rays.iter().filter(|ray| ray.outcome.get(index).is_some_and(Option::is_some)).map(|ray| values(ray)[index]).collect()
            };
            let log_volumes = column(|ray| &ray.log_volume);
            if log_volumes.is_empty() {
                return None;
            }
            let summary = summarize(&log_volumes, &column(|ray| &ray.radius_error_nats), &outcomes, settings);
            let finite = |value: f64| Some(value).filter(|value| value.is_finite());
            let Interval { low, high } = summary.interval;
            let note = notes.get(index);
            Some(Self {
                index,
                tokens: note.map(|note| note.tokens),
                text: note.and_then(|note| note.text.clone()),
                log_volume: finite(summary.log_mean_exp),
                interval: (finite(low), high.and_then(finite)),
                mean_log_volume: finite(summary.diagnostics.mean),
                standard_error: finite(summary.diagnostics.sd / (log_volumes.len() as f64).sqrt()),
                trust: Trust::of_rays(summary.diagnostics.reliability, summary.log_mean_exp),
                outcomes,
            })
        };
        Some((0..first.outcome.len()).into_par_iter().filter_map(result).collect())
    }

    /// The parts with the largest volume first.
    #[must_use]
    pub fn sorted(parts: &[Self]) -> Vec<&Self> {
        let mut sorted: Vec<&Self> = parts.iter().collect();
        let key = |part: &Self| part.log_volume.unwrap_or(f64::NEG_INFINITY);
        sorted.sort_by(|a, b| key(b).total_cmp(&key(a)).then(a.index.cmp(&b.index)));
        sorted
    }
}

impl Trust {
    /// Of the log-mean-exp of rays.
    pub(super) fn of_rays(reliability: Reliability, log_mean_exp: f64) -> Self {
        match reliability {
            _ if !log_mean_exp.is_finite() => Self::NotAnAnswer,
            Reliability::WellDetermined => Self::Answer,
            Reliability::Degenerate => Self::NotAnAnswer,
            _ => Self::LowerBound,
        }
    }
}
