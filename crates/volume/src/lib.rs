//! How much of weight space behaves like this network?
//!
//! Given a vector of trained parameters and a cost that is zero there, this crate estimates the log prior probability (the *local
//! volume*) of the parameters whose cost stays under a cutoff. It knows numbers only: no ML framework, no files beyond the run folder.
//!
//! The word list and the formulas stand in the module docs: [`radial_integral`] (what one ray contributes), [`radius_search`] (where
//! the cost crosses the cutoff), [`direction`] and [`preconditioner`] (which rays), [`statistics`] (how rays combine), [`run`] (files).

pub mod center;
pub mod coordinates;
pub mod direction;
pub mod double_double;
pub mod estimator;
pub mod fisher;
pub mod guarded;
pub mod interrupt;
pub mod max_cost;
pub mod numbers;
pub mod objective;
pub mod preconditioner;
pub mod prior;
pub mod prior_mean;
pub(crate) mod quadratic_form;
pub(crate) mod quadrature;
pub mod question;
pub mod radial_integral;
pub mod radius_search;
pub mod random;
pub mod run;
pub mod saddle_point;
pub mod spec;
pub(crate) mod special;
pub mod statistics;
#[cfg(feature = "testkit")]
pub mod testkit;
pub mod vectors;
