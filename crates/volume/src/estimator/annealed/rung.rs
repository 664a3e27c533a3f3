//! A point of a ladder.

/// A point of a ladder: the density `prior(w) exp(-beta C(w) - localization/2 |w - c|^2)`, `c` where the spring is attached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::estimator) struct Rung {
    /// Inverse temperature, per nat.
    pub beta: f64,
    /// Strength of the spring, per squared unit of weight.
    pub localization: f64,
}

impl Rung {
    /// `a = 1/sigma^2 + localization`: the curvature of what is Gaussian in the density.
    pub(in crate::estimator) fn curvature(self, sigma: f64) -> f64 {
        1.0 / (sigma * sigma) + self.localization
    }

    /// `m = localization / a`: the Gaussian part has its mean at `m c`.
    pub(in crate::estimator) fn shrinkage(self, sigma: f64) -> f64 {
        self.localization / self.curvature(sigma)
    }
}
