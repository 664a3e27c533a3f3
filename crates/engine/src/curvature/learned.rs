//! A diagonal map learned for the mean log-volume of the rays, from the Fisher diagonal on.

use basin_volume::objective::ObjectiveError;
use basin_volume::preconditioner::{CurvatureMap, Damping, Diagonal, DiagonalMap};
use basin_volume::saddle_point::{Mode, QuadraticCost};
use basin_volume_models::curvature::{self, Curvature, CurvatureError, LearnSettings, Observer, Scores, kinds};

use super::{Found, Recipe, Settings, Work};

/// A map must not be learned on the very rays that it is measured on afterwards, which have the seed of the question.
const OTHER_RAYS: u64 = u64::from_be_bytes(*b"learning");

/// See the module.
pub(super) struct Learned;

impl Recipe for Learned {
    fn name(&self) -> &'static str {
        "learned"
    }

    fn kind(&self) -> &'static str {
        kinds::LEARNED
    }

    fn takes(&self) -> &'static [&'static str] {
        &["steps", "cutoff", "sigma"]
    }

    fn is_for_question(&self) -> bool {
        true
    }

    fn bytes(&self, model: &dyn Scores, _settings: &Settings) -> u64 {
        curvature::learn_diagonal_bytes(model)
    }

    fn compute(&self, work: &Work<'_>, observer: &mut dyn Observer) -> Result<Found, CurvatureError> {
        let Settings { probes, question, steps, .. } = work.settings;
        let fisher = curvature::fisher_diagonal(work.model, probes, question.seed(), observer)?;
        let first = first_factors(&fisher, work)?;
        let learning = LearnSettings { steps, ..LearnSettings::new(question.with_seed(question.seed() ^ OTHER_RAYS)) };
        let (curvature, report) = curvature::learn_diagonal(work.model, &work.subject.layout(), &first, &learning, observer)?;
        Ok(Found { learned: Some(report), ..Found::new(curvature, probes + report.gradients) })
    }
}

/// Where learning starts: the damped Fisher map, the power map where the prior has no scale.
fn first_factors(fisher: &Curvature, work: &Work<'_>) -> Result<Vec<f32>, CurvatureError> {
    let Curvature::Diagonal { values } = fisher else { return Ok(vec![1.0; work.subject.dimension()]) };
    let question = work.settings.question;
    let map: CurvatureMap = match question.sigma() {
        Some(sigma) => {
            let mut center = vec![0.0f32; values.len()];
            work.subject.center(0..center.len(), &mut center);
            let beta = QuadraticCost::new(values.len(), sigma, |i| Mode::single(values[i], center[i]))
                .and_then(|cost| cost.saddle_point(question.cutoff()))
                .map_err(|error| CurvatureError::Objective(ObjectiveError::new(error)))?
                .beta;
            Damping { beta, sigma }.into()
        }
        None => DiagonalMap::default().into(),
    };
    let diagonal = Diagonal::from_curvature(values, map).map_err(|error| CurvatureError::Objective(ObjectiveError::new(error)))?;
    Ok(diagonal.factors().to_vec())
}
