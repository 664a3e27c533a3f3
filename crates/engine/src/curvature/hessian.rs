//! The diagonal of the Hessian of the cost, by random probes.

use basin_volume::objective::Differentiable;
use basin_volume_models::curvature::{self, CurvatureError, Observer, PERTURBATION, Scores, kinds};

use super::{Found, Recipe, Settings, Work};

/// The relative error of an entry is of the order of one over the root of their number.
const PROBES: usize = 32;

/// See the module.
pub(super) struct Hessian;

impl Recipe for Hessian {
    fn name(&self) -> &'static str {
        "hessian"
    }

    fn kind(&self) -> &'static str {
        kinds::HESSIAN_DIAGONAL
    }

    fn takes(&self) -> &'static [&'static str] {
        &["probes"]
    }

    fn probes(&self) -> usize {
        PROBES
    }

    fn bytes(&self, model: &dyn Scores, _settings: &Settings) -> u64 {
        curvature::hessian_diagonal_bytes(model)
    }

    fn compute(&self, work: &Work<'_>, observer: &mut dyn Observer) -> Result<Found, CurvatureError> {
        let Settings { probes, question, .. } = work.settings;
        let objective: &dyn Differentiable = work.model;
        let (curvature, report) = curvature::hessian_diagonal(objective, (probes, question.seed()), PERTURBATION, observer)?;
        Ok(Found { relative_error: Some(report.relative_error), ..Found::new(curvature, 2 * report.products) })
    }
}
