//! The local learning coefficient: how fast the volume around the center grows with the cost, `ln V(eps) ~ lambda ln eps` (Watanabe 2009).
//!
//! Chains of Hamiltonian Monte Carlo, those of [`crate::estimator::annealed`], stay at one rung: the density
//!
//! ```text
//! exp(-n_beta C(w) - gamma/2 |w - c|^2),      lambda = n_beta (E[C] - C(c))
//! ```
//!
//! the estimator of Lau et al. 2023 (arXiv 2308.12108), with trajectories that are accepted or not in place of Langevin steps of mini-batches, so that
//! no step size biases it. The expectation is that of this density, exactly, at this temperature and with this spring; the learning coefficient of the
//! theory is its limit for `n_beta` to infinity. `n_beta E[C]` along the ladder of the annealed estimator is the same integrand.

mod convergence;
mod density;
mod error;
mod estimator;
mod record;
mod result;
mod schedule;

pub use error::LlcError;
pub use estimator::LlcEstimator;
pub use record::{CenterCost, LlcRecord};
pub use result::{LlcEstimate, LlcResult};
pub use schedule::LlcProgress;

#[cfg(test)]
mod tests;
