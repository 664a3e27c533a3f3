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
//! | [`PlaneBody`] | one of the next three in a plane, quadratic in the other coordinates | | star and all: quadrature |
//! | - [`CurvedValley`] | a parabolic valley | image of an ellipsoid under a shear | volume of the ellipsoid |
//! | - [`TwoWells`] | the lower of two quadratic costs | union of two ellipsoids | |
//! | - [`NormalCrossing`] | `k w_0^2 w_1^2` | two sheets that cross | learning coefficient 1/2, multiplicity 2 |
//! | [`CurvedValleys`] | one curved valley for every two coordinates | image of an ellipsoid | transform inversion; volume in closed form |
//! | [`PowerBall`] | `k sum |w_i - c_i|^p` | ball of a p-norm | transform inversion; volume in closed form |
//! | [`ReducedRank`] | `1/2 |B A - B_0 A_0|^2` of two matrices | matrices with nearly the same product | learning coefficient by formula |
//! | [`DeepLinear`] | the same of any number of matrices | | learning coefficient by formula |
//! | [`Shell`] | a cubic of the squared distance | a ball, and a shell behind a wall | those of balls |
//! | [`Spikes`] | `1/2 ‖w‖^2/rho(u)^2` | a ball with spikes | integral over the angle |
//! | [`Closure`], [`ClosureWithGradient`] | any function of `w` in `f64` | | |
//! | [`Counting`], [`Noisy`], [`Interrupting`], [`OnDevice`] | that of another objective | | |
//!
//! All but [`Closure`] have gradients, in one part. Where the cost is a divergence between normal distributions with the means `w`
//! and `c` (of `H^(1/2) w` with unit covariance for a Hessian `H`), likelihoods have gradients too, and their Fisher matrix is `H`.

mod bodies;
mod deep_linear;
mod elsewhere;
pub(crate) mod functions;
mod gradients;
mod interrupting;
pub mod plane;
mod power_ball;
mod radial_bodies;
mod reduced_rank;
mod scratch;
mod shape;
mod transform;
mod truth;
mod valleys;
mod wrappers;

pub use bodies::{Ball, Ellipsoid, HalfSpace};
pub use deep_linear::DeepLinear;
pub use elsewhere::{Elsewhere, OnDevice};
pub use interrupting::Interrupting;
pub use plane::{CurvedValley, NormalCrossing, PlaneBody, TwoWells};
pub use power_ball::PowerBall;
pub use radial_bodies::{Shell, Spikes};
pub use reduced_rank::ReducedRank;
pub use truth::Truth;
pub use valleys::CurvedValleys;
pub use wrappers::{Closure, ClosureWithGradient, Counting, Noisy};
