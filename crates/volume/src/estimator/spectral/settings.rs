//! Settings of the spectral estimator against a model: what is allowed, what is chosen, and what it takes.

use serde::{Deserialize, Serialize};

use super::error::SpectralError;
use crate::fisher::{FisherFactor, FisherMatrix};
use crate::question::Question;
use crate::spec::{FisherProducts, Reorthogonalization, SpectralRoute, SpectralSpec};

/// Checks what is asked, before anything is computed, and returns the prior's sigma.
///
/// # Errors
/// If the prior is not Gaussian or a setting is out of range.
pub fn check(question: &Question, spec: &SpectralSpec, dimension: usize) -> Result<f64, SpectralError> {
    let sigma = question.sigma().ok_or(SpectralError::Prior)?;
    let setting = |name, value: f64, expected: String| Err(SpectralError::Setting { name, value, expected });
    if !(spec.perturbation > 0.0 && spec.perturbation.is_finite()) {
        return setting("perturbation", spec.perturbation, "a finite number > 0".to_owned());
    }
    if !(spec.tolerance >= 0.0 && spec.tolerance.is_finite()) {
        return setting("tolerance", spec.tolerance, "a finite number >= 0".to_owned());
    }
    if spec.steps == 0 || spec.steps > dimension {
        return setting("steps", spec.steps as f64, format!("1 to {dimension}, the number of moving weights"));
    }
    if spec.block == 0 || spec.block > dimension / spec.steps {
        let expected = format!("1 to {}, the number of moving weights by that of the steps", dimension / spec.steps);
        return setting("block", spec.block as f64, expected);
    }
    if spec.block > 1 && spec.reorthogonalization != Reorthogonalization::Full {
        return Err(SpectralError::Block);
    }
    if spec.deflation >= dimension {
        return setting("deflation", spec.deflation as f64, format!("less than {dimension}, the number of moving weights"));
    }
    Ok(sigma)
}

/// Chooses route and products for a model whose Fisher matrix has so many rows in its factor, if it has one.
///
/// # Errors
/// If the factor is asked for and there is none.
pub fn resolve(spec: SpectralSpec, rows: Option<usize>) -> Result<SpectralSpec, SpectralError> {
    let (route, products) = match rows {
        None if spec.route == SpectralRoute::Gram => return Err(SpectralError::NoFactor { choose: "`route=lanczos`" }),
        None if spec.products == FisherProducts::Exact => return Err(SpectralError::NoFactor { choose: "`products=differences`" }),
        None => (SpectralRoute::Lanczos, FisherProducts::Differences),
        Some(rows) => {
            let route = if rows <= spec.gram_limit { SpectralRoute::Gram } else { SpectralRoute::Lanczos };
            (route, FisherProducts::Exact)
        }
    };
    let route = if spec.route == SpectralRoute::Auto { route } else { spec.route };
    let products = if spec.products == FisherProducts::Auto { products } else { spec.products };
    Ok(SpectralSpec { route, products, ..spec })
}

/// The most memory that the estimator takes at once beside the cost itself, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forecast {
    /// Lanczos vectors that are kept: `steps x D x 4` for every recursion at the same time, and for the center.
    pub vectors: u64,
    /// The Gram matrix and the copy that its eigenvalues are computed in.
    pub gram: u64,
    /// What is needed for the products, and single vectors.
    pub scratch: u64,
}

impl Forecast {
    /// For `workers` records at the same time.
    #[must_use]
    pub fn new(spec: &SpectralSpec, route: SpectralRoute, fisher: &dyn FisherMatrix, workers: usize) -> Self {
        let vector = 4 * fisher.dimension() as u64;
        let (workers, block) = (workers as u64, spec.block as u64);
        let recursions = if spec.reorthogonalization.keeps_vectors() { (workers * block + 1) * spec.steps as u64 } else { 0 };
        let deflation = if spec.deflation > 0 { (spec.deflation + deflation_steps(spec, fisher.dimension())) as u64 } else { 0 };
        let rows = fisher.factor().map_or(0, FisherFactor::rows) as u64;
        let gram = if route == SpectralRoute::Gram { 2 * 8 * rows * rows } else { 0 };
        Self {
            vectors: (recursions + deflation) * vector,
            gram,
            scratch: workers * ((3 + 3 * block) * vector + fisher.scratch_bytes()) + 2 * vector + fisher.held_bytes(),
        }
    }

    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.vectors + self.gram + self.scratch
    }
}

pub(super) fn deflation_steps(spec: &SpectralSpec, dimension: usize) -> usize {
    (2 * spec.deflation + 8).min(dimension)
}
