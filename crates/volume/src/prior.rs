//! The density that a volume is measured under.

use serde::{Deserialize, Deserializer, Serialize};

use crate::radial_integral::{RayGeometry, gaussian_log_volume, lebesgue_log_volume, sphere_log_volume};

/// The density that a volume is measured under. In JSON: `{"kind": "gaussian", "sigma": 0.1}`, `{"kind": "lebesgue"}`, `{"kind": "sphere"}`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Prior {
    /// The normal distribution `N(0, sigma^2 I)`: volumes are probabilities.
    Gaussian {
        /// Standard deviation of one parameter.
        #[serde(deserialize_with = "positive_sigma")]
        sigma: f64,
    },
    /// The flat density 1: volumes are those of Lebesgue measure, and may be infinite.
    Lebesgue,
    /// The uniform distribution on the sphere `||w|| = ||c||` through the center: volumes are probabilities, radii are angles.
    Sphere,
}

/// Why a prior can't be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PriorError {
    /// The standard deviation is not a finite positive number.
    #[error("sigma of the Gaussian prior is {0}: expected a finite number > 0")]
    Sigma(f64),
}

impl Prior {
    /// Checks the parameters.
    ///
    /// # Errors
    /// If sigma isn't finite and positive.
    pub fn validate(&self) -> Result<(), PriorError> {
        match *self {
            Self::Gaussian { sigma } if !(sigma > 0.0 && sigma.is_finite()) => Err(PriorError::Sigma(sigma)),
            _ => Ok(()),
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

fn positive_sigma<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let sigma = f64::deserialize(deserializer)?;
    Prior::Gaussian { sigma }.validate().map_err(serde::de::Error::custom)?;
    Ok(sigma)
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
    fn a_bad_sigma_is_named() {
        for sigma in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Prior::Gaussian { sigma }.validate().is_err(), "{sigma}");
        }
        assert_eq!(Prior::Gaussian { sigma: 1e-3 }.validate(), Ok(()));
        assert_eq!(Prior::Lebesgue.validate(), Ok(()));
        let error = serde_json::from_str::<Prior>(r#"{"kind":"gaussian","sigma":-2.0}"#).unwrap_err().to_string();
        assert!(error.contains("sigma of the Gaussian prior is -2"), "{error}");
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
