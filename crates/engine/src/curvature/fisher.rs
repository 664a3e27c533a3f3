//! The diagonal of the Fisher matrix, labels drawn from the model.

use basin_volume_models::curvature::{self, CurvatureError, Observer, Scores, kinds};

use super::{Found, Recipe, Settings, Work};

/// See the module.
pub(super) struct Fisher;

impl Recipe for Fisher {
    fn name(&self) -> &'static str {
        "fisher"
    }

    fn kind(&self) -> &'static str {
        kinds::FISHER_DIAGONAL
    }

    fn takes(&self) -> &'static [&'static str] {
        &["probes"]
    }

    fn bytes(&self, model: &dyn Scores, _settings: &Settings) -> u64 {
        curvature::diagonal_bytes(model)
    }

    fn compute(&self, work: &Work<'_>, observer: &mut dyn Observer) -> Result<Found, CurvatureError> {
        let Settings { probes, question, .. } = work.settings;
        Ok(Found::new(curvature::fisher_diagonal(work.model, probes, question.seed(), observer)?, probes))
    }
}
