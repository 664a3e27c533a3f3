//! Settings of the spectral estimator.

use serde::{Deserialize, Serialize};

/// How the spectrum of the Fisher matrix is obtained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SpectralRoute {
    /// [`SpectralRoute::Gram`] where it is offered and small enough, else [`SpectralRoute::Lanczos`]. Manifests hold what was chosen.
    #[default]
    Auto,
    /// All eigenvalues, from the matrix of inner products of the gradients of single positions.
    Gram,
    /// Stochastic Lanczos quadrature with matrix-free products.
    Lanczos,
}

/// How products with the Fisher matrix are computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FisherProducts {
    /// [`FisherProducts::Exact`] where the model offers it. Manifests hold what was chosen.
    #[default]
    Auto,
    /// By the factor `F = J'J`.
    Exact,
    /// By differences of the gradient of the cost.
    Differences,
}

/// What keeps the vectors of Lanczos' recursion orthogonal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reorthogonalization {
    /// Every new vector is made orthogonal to all before it: `steps x block x D x 4` bytes are kept per probe.
    #[default]
    Full,
    /// The vectors are kept, but used only in the steps where an estimate of the lost orthogonality (Simon's recurrence) asks for it.
    Selective,
    /// Only the last two vectors are kept: copies of converged eigenvalues appear, with weights that share the weight of the eigenvalue.
    None,
}

impl Reorthogonalization {
    /// Whether all vectors of a recursion are kept.
    #[must_use]
    pub(crate) fn keeps_vectors(self) -> bool {
        self != Self::None
    }
}

/// Settings of the spectral estimator (`estimator::spectral`). The number of probes is the number of samples of the run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SpectralSpec {
    /// How the spectrum is obtained.
    pub route: SpectralRoute,
    /// How products with the Fisher matrix are computed.
    pub products: FisherProducts,
    /// Lanczos steps, one product with the Fisher matrix each, for every probe and for the center.
    pub steps: usize,
    /// Random vectors of a probe: with several the recursion runs on all of them at once, with one product each a step.
    pub block: usize,
    /// A probe stops before `steps` once its two quadrature rules agree to this part of its log-probability; 0 for never.
    pub tolerance: f64,
    /// Leading eigenvectors that are taken out before the probes.
    pub deflation: usize,
    /// What keeps the Lanczos vectors orthogonal.
    pub reorthogonalization: Reorthogonalization,
    /// Length of the perturbation of a product with the Fisher matrix by a difference of gradients.
    pub perturbation: f64,
    /// Draws of the estimator's own Gaussian at which the true cost is compared with the quadratic one.
    pub cost_samples: usize,
    /// Largest number of rows of a Gram matrix that the automatic route accepts.
    pub gram_limit: usize,
}

impl Default for SpectralSpec {
    fn default() -> Self {
        Self {
            route: SpectralRoute::Auto,
            products: FisherProducts::Auto,
            steps: 80,
            block: 1,
            tolerance: 1e-3,
            deflation: 0,
            reorthogonalization: Reorthogonalization::Full,
            perturbation: 1e-2,
            cost_samples: 4,
            gram_limit: 4_096,
        }
    }
}
