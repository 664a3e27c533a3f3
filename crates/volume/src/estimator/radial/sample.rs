//! What one ray leaves behind.

use serde::{Deserialize, Serialize};

use crate::radius_search::Outcome;
use crate::run::record::{Record, null_as_infinity, nulls_as_infinity};

/// One ray: a line of `samples.jsonl`. Infinite numbers are written as `null`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Index of the direction.
    pub index: u64,
    /// First `t` with `C(c + t v) = cutoff` (interpolated), in units of `v`; an angle in radians under the spherical prior; `null` if infinite.
    #[serde(with = "null_as_infinity")]
    pub radius: f64,
    /// Bound of the error that the radius leaves in `log_volume`, in nats.
    #[serde(with = "null_as_infinity")]
    pub radius_error_nats: f64,
    /// `||v||`.
    pub norm: f64,
    /// `v . c`.
    pub center_dot: f64,
    /// `u . q`: for a preconditioned spherical prior with `q = P^-1 c / ||c||`, for a shifted proposal with `q = P^-1 mu / s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dual_dot: Option<f64>,
    /// Cost at `evaluated_radius`, in nats.
    #[serde(with = "null_as_infinity")]
    pub cost: f64,
    /// The evaluation nearest to the radius.
    pub evaluated_radius: f64,
    /// `f(u)`, in nats.
    #[serde(with = "null_as_infinity")]
    pub log_volume: f64,
    /// `d ln C / d ln t` at the radius.
    pub slope: f64,
    /// Cost evaluations spent, those for the parts included.
    pub evaluations: u32,
    /// How many of them were NaN or infinite.
    pub not_finite: u32,
    /// How the search ended.
    pub outcome: Outcome,
    /// With `costs_by_part`: the cost of every part of the data (every sequence) at `evaluated_radius`, in nats; `null` where it is not finite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub costs_by_part: Option<Vec<Option<f64>>>,
    /// With `volumes_by_part`: the radius and log-volume of every part of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes_by_part: Option<VolumesByPart>,
    /// With `profile_points`: every evaluation on the ray as (t, cost), in order of t; a cost that is not finite is `null`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Vec<(f64, Option<f64>)>>,
}

/// What one ray says of every part of the data (every sequence): lists in the order of the parts. A part in which nothing counts has no outcome,
/// and `null` for numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VolumesByPart {
    /// The radius where the part's own cost is the cutoff, in units of `v`; `null` if infinite.
    #[serde(with = "nulls_as_infinity")]
    pub radius: Vec<f64>,
    /// Bound of the error that it leaves in `log_volume`, nats.
    #[serde(with = "nulls_as_infinity")]
    pub radius_error_nats: Vec<f64>,
    /// `f(u)` of the part's own radius, nats.
    #[serde(with = "nulls_as_infinity")]
    pub log_volume: Vec<f64>,
    /// How the part's search ended.
    pub outcome: Vec<Option<Outcome>>,
}

/// Relative difference of the norm of one direction between machines.
const SAME_DIRECTION: f64 = 1e-5;
/// Relative difference of the log-volume of one ray between machines that is not another question.
const SAME_RAY: f64 = 1e-3;

impl Record for Sample {
    fn index(&self) -> u64 {
        self.index
    }

    /// Rays in the same direction, whose radii may differ by what a cost in float32 comes to on another device.
    fn difference(&self, other: &Self) -> Option<f64> {
        if self == other {
            return Some(0.0);
        }
        let is_close = |here: f64, there: f64| (here - there).abs() <= SAME_DIRECTION * here.abs().max(there.abs());
        // Rays that both never end, or are both given up, have the same infinity.
        let difference = if self.log_volume == other.log_volume { 0.0 } else { (self.log_volume - other.log_volume).abs() };
        // What has no bound says nothing, and the search of one of them may have ended in another way at the same place.
        let bound = Some(self.radius_error_nats + other.radius_error_nats).filter(|bound| bound.is_finite()).unwrap_or(0.0);
        let allowed = bound.max(SAME_RAY * self.log_volume.abs().min(other.log_volume.abs())).max(1.0);
        let is_same = is_close(self.norm, other.norm) && difference <= allowed;
        is_same.then_some(difference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rays_of_unlike_machines_are_told_from_those_of_another_question() {
        let ray = Sample {
            index: 3,
            radius: 2.0,
            radius_error_nats: 0.01,
            norm: 4.0,
            center_dot: 0.5,
            dual_dot: None,
            cost: 0.01,
            evaluated_radius: 2.0,
            log_volume: -400.0,
            slope: 2.0,
            evaluations: 3,
            not_finite: 0,
            outcome: Outcome::Converged,
            costs_by_part: None,
            volumes_by_part: None,
            profile: None,
        };
        assert_eq!(ray.difference(&ray), Some(0.0));
        let other = |log_volume: f64| Sample { log_volume, evaluations: 4, ..ray.clone() };
        assert!((ray.difference(&other(-400.5)).unwrap() - 0.5).abs() < 1e-9);
        assert_eq!(ray.difference(&other(-402.0)), None);
        assert_eq!(ray.difference(&Sample { norm: 4.1, ..other(-400.0) }), None);
        // A search may end in another way at the same place.
        let noisy = Sample { outcome: Outcome::NonMonotone, ..other(-400.2) };
        assert!(noisy.outcome != ray.outcome && ray.difference(&noisy).is_some());
        // Both without an end are alike; one of them is not.
        let endless = Sample { radius: f64::INFINITY, log_volume: f64::INFINITY, ..ray.clone() };
        assert_eq!(endless.difference(&Sample { evaluations: 9, ..endless.clone() }), Some(0.0));
        assert_eq!(endless.difference(&other(-400.0)), None);
        // No bound is no excuse.
        let unbounded = Sample { radius_error_nats: f64::INFINITY, ..other(-500.0) };
        assert_eq!(ray.difference(&unbounded), None);
    }
}
