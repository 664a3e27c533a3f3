//! Everything between a question about a network and numbers in a folder, for any front: a command line, a Python package, a study.
//!
//! What is asked is plain data ([`request`]); whose volume it is, is a [`subject`] (a model of ours with its data is [`loaded::Loaded`], any closure
//! [`subject::Foreign`]); what happens is told to one observer ([`events`]); how it ends is an [`error::Error`] or results in run folders.
//!
//! - [`estimate::run`] does the main job on the calling thread, [`door::start`] on threads of its own.
//! - [`several`] asks about several data, [`scan`] about a grid of questions, [`profile`] about one ray, [`curvature`] for what preconditioners are
//!   made of.
//! - [`runs`], [`merge`] and [`comparison`] read, join and compare what is there.
//!
//! Settings have one name each, that of their field; an error of usage has them in backticks, and every front says them in its own words.

#![deny(missing_docs)]
#![deny(unsafe_code)]

pub mod comparison;
pub mod curvature;
pub mod data;
pub mod digits;
pub mod door;
pub mod error;
pub mod estimate;
pub mod estimators;
pub mod events;
pub mod files;
pub mod forecast;
mod guard;
pub mod hub;
pub mod ladders;
pub mod loaded;
pub mod merge;
pub mod model;
pub mod preconditioning;
pub mod prior_mean;
pub mod profile;
pub mod request;
pub mod resources;
pub mod runs;
pub mod scan;
pub mod session;
pub mod several;
pub mod spread;
pub mod subject;

pub use basin_volume::numbers;
