//! Kronecker factors per linear layer (K-FAC).

use basin_volume_models::curvature::{self, CurvatureError, Observer, Scores, kinds};

use super::{Found, Recipe, Settings, Work};

/// See the module.
pub(super) struct Kronecker;

impl Recipe for Kronecker {
    fn name(&self) -> &'static str {
        "kronecker"
    }

    fn kind(&self) -> &'static str {
        kinds::KRONECKER
    }

    fn takes(&self) -> &'static [&'static str] {
        &["probes"]
    }

    fn bytes(&self, model: &dyn Scores, _settings: &Settings) -> u64 {
        curvature::kronecker_bytes(model)
    }

    fn compute(&self, work: &Work<'_>, observer: &mut dyn Observer) -> Result<Found, CurvatureError> {
        let Settings { probes, question, .. } = work.settings;
        Ok(Found::new(curvature::kronecker(work.model, probes, question.seed(), observer)?, probes))
    }
}
