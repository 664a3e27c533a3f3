//! Leading eigenvectors of the Fisher matrix, and a diagonal for the rest.

use basin_volume_models::curvature::{self, CurvatureError, LowRankSettings, Observer, Scores, kinds};

use super::{Found, Recipe, Settings, Work};

/// See the module.
pub(super) struct LowRank;

fn with(settings: &Settings) -> LowRankSettings {
    LowRankSettings { probes: settings.probes, ..LowRankSettings::new(settings.rank, settings.question.seed()) }
}

impl Recipe for LowRank {
    fn name(&self) -> &'static str {
        "low-rank"
    }

    fn kind(&self) -> &'static str {
        kinds::LOW_RANK
    }

    fn takes(&self) -> &'static [&'static str] {
        &["probes", "rank"]
    }

    fn bytes(&self, model: &dyn Scores, settings: &Settings) -> u64 {
        curvature::low_rank_bytes(model, with(settings).steps)
    }

    fn compute(&self, work: &Work<'_>, observer: &mut dyn Observer) -> Result<Found, CurvatureError> {
        let (curvature, report) = curvature::low_rank(work.model, with(&work.settings), observer)?;
        Ok(Found::new(curvature, 2 * report.products + work.settings.probes))
    }
}
