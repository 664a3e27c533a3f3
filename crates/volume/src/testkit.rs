//! Bodies of known measure as objectives, and wrappers that count, disturb or replace a cost. Behind the cargo feature `testkit`.
//!
//! A body is the set `{w : cost(w) <= cutoff}`. With the Gaussian prior `N(0, sigma^2 I)` its measure is the probability that a draw lies in
//! it; with the Lebesgue prior, its volume. All logarithms are natural (nats).
//!
//! | objective | cost | set | true measure |
//! |---|---|---|---|
//! | [`Ellipsoid`] | `1/2 sum l_i (R (w - c))_i^2` | ellipsoid | weighted noncentral chi-square, closed form for Lebesgue |
//! | [`Ball`] | `1/2 ‖w - c‖^2` | ball | noncentral chi-square, closed form for Lebesgue |
//! | [`HalfSpace`] | `max(0, n . (w - c))` | half-space | `Phi` |
//! | [`Closure`], [`ClosureWithGradient`] | any function of `w` in `f64` | | |
//! | [`Counting`], [`Noisy`] | that of another objective | | |
//!
//! All but [`Closure`] have gradients, in one part. Where the cost is a divergence between normal distributions with the means `w`
//! and `c` (of `H^(1/2) w` with unit covariance for a Hessian `H`), likelihoods have gradients too, and their Fisher matrix is `H`.

mod bodies;
pub(crate) mod functions;
mod gradients;
mod scratch;
mod wrappers;

pub use crate::quadratic_form;
pub use crate::quadratic_form::{ChiSquareTerm, Contour, log_probability_below};
pub use bodies::{Ball, Ellipsoid, HalfSpace};
pub use wrappers::{Closure, ClosureWithGradient, Counting, Noisy};
