//! Estimators: each turns an [`crate::objective::Objective`] and a prior into numbers about the local volume.

pub mod annealed;
pub mod common_rays;
pub mod joint;
pub mod llc;
pub mod matching;
pub mod radial;
pub mod spectral;
