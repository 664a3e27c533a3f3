//! The density that a volume is measured under.

use serde::{Deserialize, Serialize};

use crate::radial_integral::{RayGeometry, gaussian_log_volume, lebesgue_log_volume, sphere_log_volume};

/// The density that a volume is measured under; [`Question`](crate::question::Question) checks it. In JSON: `{"kind": "gaussian", "sigma": 0.1}`, `{"kind": "lebesgue"}`, `{"kind": "sphere"}`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Prior {
    /// The normal distribution `N(0, sigma^2 I)`: volumes are probabilities.
    Gaussian {
        /// Standard deviation of one parameter.
        sigma: f64,
    },
    /// The flat density 1: volumes are those of Lebesgue measure, and may be infinite.
    Lebesgue,
    /// The uniform distribution on the sphere `||w|| = ||c||` through the center: volumes are probabilities, radii are angles.
    Sphere,
}

impl Prior {
    /// What the logarithm of a volume under this prior is of, in words.
    #[must_use]
    pub fn quantity(&self) -> &'static str {
        match self {
            Self::Gaussian { .. } => "ln of the probability under the Gaussian prior N(0, sigma^2 I)",
            Self::Lebesgue => "ln of the volume (Lebesgue measure)",
            Self::Sphere => "ln of the probability under the uniform distribution on the sphere ||w|| = ||c||",
        }
    }

    /// Log-volume of a ray of this radius, in nats: [`gaussian_log_volume`], [`lebesgue_log_volume`], or, with the radius an angle,
    /// [`sphere_log_volume`]. The last is the mass of the cap alone: the weight of a direction that is not uniform is the caller's.
    #[must_use]
    pub fn log_volume(&self, geometry: &RayGeometry, radius: f64) -> f64 {
        match *self {
            Self::Gaussian { sigma } => gaussian_log_volume(geometry, sigma, radius),
            Self::Lebesgue => lebesgue_log_volume(geometry, radius),
            Self::Sphere => sphere_log_volume(radius, geometry.dimension),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_tagged_and_round_trips() {
        for (prior, json) in [
            (Prior::Gaussian { sigma: 0.1 }, r#"{"kind":"gaussian","sigma":0.1}"#),
            (Prior::Lebesgue, r#"{"kind":"lebesgue"}"#),
            (Prior::Sphere, r#"{"kind":"sphere"}"#),
        ] {
            assert_eq!(serde_json::to_string(&prior).unwrap(), json);
            assert_eq!(serde_json::from_str::<Prior>(json).unwrap(), prior);
        }
    }

    #[test]
    fn each_prior_has_its_own_volume() {
        let geometry = RayGeometry { dimension: 3.0, norm: 1.0, center_dot: 0.0, center_norm_squared: 0.0 };
        let at = |prior: Prior| prior.log_volume(&geometry, 1.0);
        assert_eq!(at(Prior::Gaussian { sigma: 2.0 }), gaussian_log_volume(&geometry, 2.0, 1.0));
        assert!((at(Prior::Lebesgue) - (4.0 / 3.0 * std::f64::consts::PI).ln()).abs() < 1e-14);
        assert!((at(Prior::Sphere) - (0.5 * (1.0 - 1f64.cos())).ln()).abs() < 1e-14);
    }
}
