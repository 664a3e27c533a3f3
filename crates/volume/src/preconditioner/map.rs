//! How a curvature becomes a factor of the map.

use serde::{Deserialize, Serialize};

use super::PreconditionerError;

/// How a curvature value becomes a factor: `p = 1 / (|s|^exponent + eps)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DiagonalMap {
    /// Power of the curvature; 0 gives the identity, 1/2 whitens a quadratic cost.
    pub exponent: f64,
    /// Added to `|s|^exponent`; bounds the factor of directions without curvature.
    pub eps: f64,
}

impl Default for DiagonalMap {
    /// The reference's defaults: exponent 0.5, eps 1e-5.
    fn default() -> Self {
        Self { exponent: 0.5, eps: 1e-5 }
    }
}

impl DiagonalMap {
    /// Refuses an exponent or eps outside its range.
    ///
    /// # Errors
    /// [`PreconditionerError::Setting`].
    pub fn validate(&self) -> Result<(), PreconditionerError> {
        let setting = |name, value: f64, expected| Err(PreconditionerError::Setting { name, value, expected });
        if !self.exponent.is_finite() || self.exponent < 0.0 {
            return setting("exponent", self.exponent, "a finite number >= 0");
        }
        if !self.eps.is_finite() || self.eps < 0.0 {
            return setting("eps", self.eps, "a finite number >= 0");
        }
        Ok(())
    }

    /// The factor for one curvature, before normalisation.
    #[must_use]
    pub fn factor(&self, curvature: f64) -> f64 {
        1.0 / (curvature.abs().powf(self.exponent) + self.eps)
    }
}

/// The map `p` proportional to `(beta s + 1/sigma^2)^(-1/2)`, for curvatures `s >= 0`.
///
/// For a quadratic cost with Hessian `H` this is the inverse root of the precision of the prior tilted by `exp(-beta C)`, which at the
/// beta of the saddle point ([`crate::saddle_point`]) has the mean cost of the cutoff: the best Gaussian family of directions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Damping {
    /// Inverse temperature, per nat; 0 gives the identity.
    pub beta: f64,
    /// Standard deviation of the Gaussian prior (1 where the prior has none).
    pub sigma: f64,
}

impl Damping {
    /// The map `(s + value)^(-1/2)` up to a factor, for a prior of this standard deviation: `beta = 1 / (value sigma^2)`.
    #[must_use]
    pub fn from_value(value: f64, sigma: f64) -> Self {
        Self { beta: 1.0 / (value * sigma * sigma), sigma }
    }

    /// What is added to the curvature, `1 / (beta sigma^2)`.
    #[must_use]
    pub fn value(&self) -> f64 {
        1.0 / self.gain()
    }

    /// `beta sigma^2`: the map is `(1 + gain s)^(-1/2)` up to a factor.
    #[must_use]
    pub fn gain(&self) -> f64 {
        self.beta * self.sigma * self.sigma
    }

    /// Refuses a beta or sigma outside its range.
    ///
    /// # Errors
    /// [`PreconditionerError::Setting`].
    pub fn validate(&self) -> Result<(), PreconditionerError> {
        let setting = |name, value: f64, expected| Err(PreconditionerError::Setting { name, value, expected });
        if !(self.beta.is_finite() && self.beta >= 0.0) {
            return setting("beta", self.beta, "a finite number >= 0");
        }
        if !(self.sigma.is_finite() && self.sigma > 0.0) {
            return setting("sigma", self.sigma, "a finite number > 0");
        }
        if !self.gain().is_finite() {
            return setting("beta", self.beta, "a number whose product with sigma^2 is finite");
        }
        Ok(())
    }

    /// The factor for one curvature, before normalisation: `(1 + beta sigma^2 s)^(-1/2)`.
    #[must_use]
    pub fn factor(&self, curvature: f64) -> f64 {
        1.0 / self.gain().mul_add(curvature, 1.0).sqrt()
    }
}

/// How a curvature becomes a factor. In JSON the fields of the one or the other: `exponent` and `eps`, or `beta` and `sigma`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum CurvatureMap {
    /// `1 / (|s|^exponent + eps)`.
    Power(DiagonalMap),
    /// `(beta s + 1/sigma^2)^(-1/2)`.
    Damped(Damping),
}

impl From<DiagonalMap> for CurvatureMap {
    fn from(map: DiagonalMap) -> Self {
        Self::Power(map)
    }
}

impl From<Damping> for CurvatureMap {
    fn from(map: Damping) -> Self {
        Self::Damped(map)
    }
}

impl CurvatureMap {
    /// Refuses settings outside their range.
    ///
    /// # Errors
    /// [`PreconditionerError::Setting`].
    pub fn validate(&self) -> Result<(), PreconditionerError> {
        match self {
            Self::Power(map) => map.validate(),
            Self::Damped(map) => map.validate(),
        }
    }

    /// The factor for one curvature, before normalisation.
    #[must_use]
    pub fn factor(&self, curvature: f64) -> f64 {
        match self {
            Self::Power(map) => map.factor(curvature),
            Self::Damped(map) => map.factor(curvature),
        }
    }

    /// The factor `s` between the root of a covariance and the normalised map, if the map stands for a covariance: `sigma` times the
    /// geometric mean of the factors, whose logarithms have this mean.
    pub(super) fn root_scale(&self, mean_log_factor: f64) -> Option<f64> {
        match self {
            Self::Power(_) => None,
            Self::Damped(map) => Some(map.sigma * mean_log_factor.exp()),
        }
    }

    /// Checks one curvature and maps it.
    pub(super) fn checked_factor(&self, index: usize, curvature: f64) -> Result<f64, PreconditionerError> {
        if !curvature.is_finite() {
            return Err(PreconditionerError::NotFinite { index, value: curvature });
        }
        if curvature < 0.0 && matches!(self, Self::Damped(_)) {
            return Err(PreconditionerError::Negative { index, value: curvature, expected: "a curvature >= 0" });
        }
        let factor = self.factor(curvature);
        if factor.is_finite() && factor > 0.0 { Ok(factor) } else { Err(PreconditionerError::Singular { index, value: curvature, factor }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_maps_keep_their_names_in_json() {
        let power: CurvatureMap = serde_json::from_str(r#"{"exponent": 0.3, "eps": 0.002}"#).unwrap();
        assert_eq!(power, DiagonalMap { exponent: 0.3, eps: 2e-3 }.into());
        let damped: CurvatureMap = Damping { beta: 1.0 / 3.0, sigma: 0.1 }.into();
        let text = serde_json::to_string(&damped).unwrap();
        assert_eq!(text, r#"{"beta":0.3333333333333333,"sigma":0.1}"#);
        assert_eq!(serde_json::from_str::<CurvatureMap>(&text).unwrap(), damped);
    }

    #[test]
    fn a_value_is_what_is_added_to_the_curvature() {
        let damping = Damping::from_value(0.02, 0.3);
        assert!((damping.value() / 0.02 - 1.0).abs() < 1e-14);
        let ratio = damping.factor(0.5) / damping.factor(0.0);
        assert!((ratio - (0.02f64 / 0.52).sqrt()).abs() < 1e-14);
        assert_eq!(Damping { beta: 0.0, sigma: 2.0 }.factor(1e30), 1.0);
    }

    #[test]
    fn settings_outside_their_range_are_refused() {
        for damping in [(-1.0, 1.0), (f64::NAN, 1.0), (1.0, 0.0), (1.0, f64::INFINITY), (1e300, 1e10)] {
            let damping = Damping { beta: damping.0, sigma: damping.1 };
            assert!(matches!(damping.validate(), Err(PreconditionerError::Setting { .. })), "{damping:?}");
        }
        let map: CurvatureMap = Damping { beta: 1.0, sigma: 1.0 }.into();
        assert!(matches!(map.checked_factor(3, -1.0), Err(PreconditionerError::Negative { index: 3, .. })));
        let map: CurvatureMap = DiagonalMap::default().into();
        assert_eq!(map.checked_factor(3, -1.0), map.checked_factor(3, 1.0));
    }
}
