//! The annealed estimator: chains of weights between a density whose volume is known and the tilted prior at the cutoff.
//!
//! With `Delta(beta, gamma) = ln E[exp(-beta C)]` over the Gaussian part `N(m c, 1/a)` of the density `prior(w) exp(-beta C(w) -
//! gamma/2 |w - c|^2)`, the log-probability of `{C <= cutoff}` is `Delta(beta, 0)`, at the `beta` where the mean cost is the cutoff, and
//! what the tail of the cost's distribution there adds. A ladder of rungs `(beta, gamma)` leads from a strong spring `gamma`, where
//! `Delta` is found by independent draws, to none; beta is raised on the way so that the mean cost stays at the cutoff. Chains of
//! Hamiltonian Monte Carlo stay at every rung and measure the derivatives of `Delta`.
//!
//! The way outward lags behind equilibrium on one side, the way back inward on the other: their gap is part of the result. Sources:
//! Gelman & Meng 1998 (path sampling); Neal 2011 (Hamiltonian Monte Carlo); Grosse, Ghahramani & Adams 2015 (both directions).

mod block;
mod chain;
mod error;
mod estimator;
mod integral;
mod keeper;
pub(in crate::estimator) mod measured_cost;
mod metric;
mod plan;
mod record;
mod relaxation;
mod result;
pub(in crate::estimator) mod rung;
pub(in crate::estimator) mod schedule;
pub(in crate::estimator) mod series;
pub(in crate::estimator) mod settings;
mod start;
pub mod states;
pub(in crate::estimator) mod stay;
mod tail;
pub(in crate::estimator) mod walk;
mod way;
mod works;

pub use error::AnnealedError;
pub use estimator::{AnnealedEnd, AnnealedEstimator, AnnealedProgress};
pub use keeper::{InMemory, Keeper, UnfinishedChains};
pub use metric::Metrics;
pub use record::{AnnealedRecord, Block, Observation, Phase, Relaxation, Start, UnfinishedBlock};
pub use result::{AnnealedEstimate, AnnealedResult, RungSummary};
pub use schedule::Progress;
pub use works::Works;

#[cfg(test)]
mod tests;
