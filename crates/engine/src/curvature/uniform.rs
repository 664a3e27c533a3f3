//! The same curvature in all directions. It says nothing, and exists in tests alone: to show all that a new preconditioner takes, this file and one
//! line in [`super::RECIPES`].

use basin_volume_models::curvature::{Curvature, CurvatureError, Observer, Scores};

use super::{Found, Recipe, Settings, Work};

/// See the module.
pub(super) struct Uniform;

impl Recipe for Uniform {
    fn name(&self) -> &'static str {
        "uniform"
    }

    fn kind(&self) -> &'static str {
        "uniform"
    }

    fn takes(&self) -> &'static [&'static str] {
        &[]
    }

    fn bytes(&self, model: &dyn Scores, _settings: &Settings) -> u64 {
        4 * model.dimension() as u64
    }

    fn compute(&self, work: &Work<'_>, observer: &mut dyn Observer) -> Result<Found, CurvatureError> {
        observer.step(1, 1);
        Ok(Found::new(Curvature::Diagonal { values: vec![2.0; work.model.dimension()] }, 0))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use basin_volume::interrupt::Interrupt;

    use crate::estimate;
    use crate::events::Silent;
    use crate::loaded::Loaded;
    use crate::request::{Ask, CostRequest, Estimate};
    use crate::session::Session;

    /// It is computed, kept in the run folder, read again, and gives the rays that no preconditioner gives.
    #[test]
    fn a_preconditioner_is_one_file_and_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let network = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/small_network");
        let session = Session::new(None, None, Interrupt::new(), Box::new(Silent));
        let request = CostRequest::default().on(network.join("inputs.safetensors").to_str().unwrap());
        let subject = Loaded::load(network.to_str().unwrap(), &request, &session).unwrap();
        let estimate = Estimate {
            ask: Ask { samples: Some(3), ..Ask::default() },
            preconditioner: vec!["none".to_owned(), "uniform".to_owned()],
            out: Some(folder.path().join("run")),
            ..Estimate::default()
        };
        let first = estimate::run(&estimate, &subject, &session).unwrap();
        assert!(folder.path().join("run/uniform/curvature.safetensors").is_file());
        let runs = &first.groups[0].runs;
        let (plain, uniform) = (runs[0].answer.log_probability, runs[1].answer.log_probability);
        assert!((plain - uniform).abs() < 1e-3 * plain.abs(), "{plain}, {uniform}");
        let again = estimate::run(&estimate, &subject, &session).unwrap();
        assert_eq!(again.groups[0].runs[1].block, runs[1].block);
    }
}
