//! The mean squared gradient of the loss on the labels of the data.

use basin_volume_models::curvature::{self, CurvatureError, Observer, Scores, kinds};

use super::{Found, Recipe, Settings, Work};

/// See the module.
pub(super) struct SquaredGradient;

impl Recipe for SquaredGradient {
    fn name(&self) -> &'static str {
        "squared-gradient"
    }

    fn kind(&self) -> &'static str {
        kinds::SQUARED_GRADIENT
    }

    fn takes(&self) -> &'static [&'static str] {
        &["probes"]
    }

    fn bytes(&self, model: &dyn Scores, _settings: &Settings) -> u64 {
        curvature::diagonal_bytes(model)
    }

    fn compute(&self, work: &Work<'_>, observer: &mut dyn Observer) -> Result<Found, CurvatureError> {
        let Settings { probes, question, .. } = work.settings;
        let labels = work.subject.labels();
        Ok(Found::new(curvature::squared_gradient(work.model, labels, probes, question.seed(), observer)?, probes))
    }
}
