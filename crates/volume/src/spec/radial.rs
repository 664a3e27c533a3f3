//! Settings of the radial estimator.

use serde::{Deserialize, Serialize};

/// Where the Gaussian that directions are drawn from lies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proposal {
    /// Around the center: only the shape of the covariance matters.
    #[default]
    Centered,
    /// Around a mean: that of the prior tilted by the cost, `-Sigma c / sigma^2`, or the Gaussian's own.
    Shifted,
}

impl Proposal {
    /// The name written to files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Centered => "centered",
            Self::Shifted => "shifted",
        }
    }

    /// Whether directions are drawn around the center.
    #[must_use]
    pub fn is_centered(&self) -> bool {
        *self == Self::Centered
    }

    /// A preconditioner, and the proposal if it does not lie around the center: `fisher, shifted`.
    #[must_use]
    pub fn directions(self, preconditioner: &str) -> String {
        if self.is_centered() { preconditioner.to_owned() } else { format!("{preconditioner}, {}", self.name()) }
    }
}

/// Settings of the radial estimator.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RadialSpec {
    /// Accepted error of one ray's log-volume due to its radius, in nats; `None`: `min(1, 1e-5 D)`.
    pub radius_tolerance: Option<f64>,
    /// Cost evaluations allowed on one ray; with `volumes_by_part`, for each of the parts beside.
    pub max_evaluations: u32,
    /// Extra evaluations per ray that look for earlier crossings and returns under the cutoff; 0 for none.
    pub profile_points: u32,
    /// Record the cost of every part of the data (every sequence) at the radius, at the price of one more evaluation per ray.
    pub costs_by_part: bool,
    /// Find the radius and log-volume of every part of the data (every sequence) along the same rays, from evaluations that all share.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub volumes_by_part: bool,
    /// Where the Gaussian that directions are drawn from lies.
    pub proposal: Proposal,
}

impl Default for RadialSpec {
    fn default() -> Self {
        Self {
            radius_tolerance: None,
            max_evaluations: 80,
            profile_points: 0,
            costs_by_part: false,
            volumes_by_part: false,
            proposal: Proposal::Centered,
        }
    }
}

impl RadialSpec {
    /// The tolerance in nats for a problem of this dimension.
    #[must_use]
    pub fn tolerance_nats(&self, dimension: usize) -> f64 {
        self.radius_tolerance.unwrap_or_else(|| (1e-5 * dimension as f64).min(1.0))
    }
}
