//! Settings of the estimator of the learning coefficient.

use serde::{Deserialize, Serialize};

use super::annealed::Metric;

/// Settings of the estimator of the local learning coefficient (`estimator::llc`). The number of samples of the run is that of its rounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LlcSpec {
    /// Inverse temperature of the mean cost, per nat. None for `n / ln n`, with `n` what the cost is a mean over (Watanabe 2013); manifests hold the
    /// number.
    pub n_beta: Option<f64>,
    /// Strength `gamma` of the spring to the center, per squared unit of weight. None for `1/sigma^2` of the question's prior; manifests hold the number.
    pub localization: Option<f64>,
    /// Whether the density has the question's Gaussian prior as a factor beside the spring.
    pub with_prior: bool,
    /// Chains that run side by side, all of them from the center.
    pub chains: u32,
    /// Trajectories of each chain between the center and where it begins to be counted: they adapt the step, and the metric is taken after them.
    pub warmup: u32,
    /// Trajectories of each chain after those, at least.
    pub trajectories: u32,
    /// And at most, in the first round.
    pub budget: u32,
    /// Relative standard error at which the first round ends.
    pub tolerance: f64,
    /// Split R-hat of the cost over the chains below which it may end.
    pub r_hat: f64,
    /// Share of the trajectories after the warm-up that is not counted.
    pub burn_in: f64,
    /// Trajectories between two looks at the step and at the disk.
    pub block: u32,
    /// Mean length of a trajectory, in radians of the oscillation in the spring.
    pub angle: f64,
    /// What the chains' coordinates are stretched by.
    pub metric: Metric,
    /// Acceptance that the step is adapted to.
    pub acceptance: f64,
}

impl Default for LlcSpec {
    fn default() -> Self {
        Self {
            n_beta: None,
            localization: None,
            with_prior: false,
            chains: 4,
            warmup: 16,
            trajectories: 24,
            budget: 2000,
            tolerance: 0.05,
            r_hat: 1.01,
            burn_in: 0.2,
            block: 4,
            angle: 3.0,
            metric: Metric::Auto,
            acceptance: 0.8,
        }
    }
}

impl LlcSpec {
    /// Whether chains move in coordinates that are stretched.
    #[must_use]
    pub fn has_metric(&self) -> bool {
        !matches!(self.metric, Metric::Auto | Metric::None)
    }

    /// `n / ln n`: the inverse temperature at which the mean cost says what the free energy of `n` observations is, to leading order (Watanabe 2013).
    /// None for fewer than three, where it is not defined or falls with `n`.
    #[must_use]
    pub fn n_beta_of(observations: usize) -> Option<f64> {
        let n = observations as f64;
        (observations >= 3).then(|| n / n.ln())
    }
}
