//! The spectral estimator: the prior mass of the ellipsoid `{(w-c)'(F + l2)(w-c)/2 <= cutoff}` with the Fisher matrix `F` at the center.
//!
//! With the spectrum of `F` and the components of the center in its eigenvectors the mass is a distribution function that is inverted
//! exactly (`quadratic_form`). Where the spectrum comes from:
//!
//! - **gram**: all eigenvalues above zero, from the inner products of the gradients of single positions ([`FisherFactor::gram`](crate::fisher::FisherFactor::gram)); the
//!   center's part by Lanczos' recursion in their space. No sampling error.
//! - **lanczos**: stochastic Lanczos quadrature. A random unit vector `u` has the spectral measure of `F` in expectation, divided by `D`;
//!   `m` products give its Gauss rule. The measure of the center is that of `c/|c|`, without sampling. Leading eigenvectors can be taken
//!   out before (deflation).
//!
//! The Gauss rule makes `A(beta) = -1/2 tr ln(1 + beta s^2 F) - ...` too low, since the even derivatives of `ln(1 + x)` and of `x/(1 + x)`
//! are negative; the Gauss-Radau rule with a node at zero makes it too high. The estimate is made from both, half and half; the interval
//! reaches from one to the other, and is widened by the sampling error of the probes,
//!
//! ```text
//! variance of A(beta) for one probe = 1/2 D/(D+2) [ sum f_i^2 - (sum f_i)^2 / D ],    f_i = ln(1 + beta s^2 l_i)
//! ```
//!
//! (fourth moments of a uniform direction), or the spread between the probes if that is larger.
//!
//! Every probe also gives a draw of the estimator's own Gaussian `N(mu, S)`, `S = (beta F + 1/s^2)^-1`, `mu = -S c/s^2`, made in the spaces
//! of the two recursions: `c - (1 + beta s^2 F)^-1 c + s (1 + beta s^2 F)^(-1/2) z`. There the true cost is compared with the quadratic one,
//! which says whether the ellipsoid has anything to do with the set.
//!
//! Sources: Ubaru, Chen & Saad, *SIAM J. Matrix Anal. Appl.* 38 (2017) 1075; Golub & Meurant, *Matrices, Moments and Quadrature* (2010).

mod deflation;
mod error;
mod estimator;
mod gram;
mod krylov;
mod lanczos;
mod measure;
mod record;
mod result;
mod settings;
mod tridiagonal;
mod unfinished;
mod vector;

pub use error::SpectralError;
pub use estimator::SpectralEstimator;
pub use measure::SpectralNode;
pub use record::{Draw, Eigenpair, Part, SpectralRecord};
pub use result::{Bracket, Prefix, SpectralResult, TrueCost, spectrum};
pub use settings::{Forecast, check, resolve};
pub use unfinished::{FolderRecursions, RECURSIONS, RecursionKeeper, UnfinishedRecursion};

#[cfg(test)]
mod tests;
