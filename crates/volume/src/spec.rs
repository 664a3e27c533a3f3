//! Plain data that says what is computed: the provenance record of a run.

use serde::{Deserialize, Serialize};

use crate::prior::Prior;
use crate::question::Question;

mod annealed;
mod estimator;
mod llc;
mod preconditioner;
mod radial;
pub mod settings;
mod spectral;

pub use annealed::{Anchor, AnnealedSpec, CoordinateChoice, Integrator, Ladder, Metric, SetKind};
pub use estimator::EstimatorSpec;
pub use llc::LlcSpec;
pub use preconditioner::PreconditionerSpec;
pub use radial::{Proposal, RadialSpec};
pub use settings::SettingError;
pub use spectral::{FisherProducts, Reorthogonalization, SpectralRoute, SpectralSpec};

/// Everything that decides the answer of a run, fully resolved. Two runs with equal specs give the same samples, bit for bit
/// (on the same kind of processor).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    /// What was measured: model, data, hashes. Written by the layer that knows models; compared, never interpreted, here.
    pub problem: serde_json::Map<String, serde_json::Value>,
    /// Number of parameters, `D`.
    pub dimension: usize,
    /// What is asked about them.
    #[serde(flatten)]
    pub question: Question,
    /// Where the preconditioner comes from.
    pub preconditioner: PreconditionerSpec,
    /// Which estimator, with its settings.
    pub estimator: EstimatorSpec,
}

impl RunSpec {
    /// `-log_probability / (D ln 2)`, the description length in bits per parameter; none where there is no such number, nor for a volume,
    /// whose logarithm depends on units.
    #[must_use]
    pub fn bits_per_parameter(&self, log_probability: f64) -> Option<f64> {
        let bits = -log_probability / (self.dimension as f64 * std::f64::consts::LN_2);
        (bits.is_finite() && self.question.prior() != Prior::Lebesgue).then_some(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_those_of_probabilities() {
        let spec = |prior| RunSpec {
            problem: serde_json::Map::new(),
            dimension: 10,
            question: Question::new(prior, 0.01, 0.0, 1).unwrap(),
            preconditioner: PreconditionerSpec::None,
            estimator: EstimatorSpec::Radial(RadialSpec::default()),
        };
        let bits = spec(Prior::Sphere).bits_per_parameter(-20.0 * std::f64::consts::LN_2).unwrap();
        assert!((bits - 2.0).abs() < 1e-12, "{bits}");
        assert_eq!(spec(Prior::Sphere).bits_per_parameter(f64::NAN), None);
        assert_eq!(spec(Prior::Lebesgue).bits_per_parameter(-1.0), None);
    }

    #[test]
    fn a_spec_is_flat_and_in_order() {
        let spec = RunSpec {
            problem: serde_json::Map::new(),
            dimension: 10,
            question: Question::new(Prior::Gaussian { sigma: 0.5 }, 0.01, 0.0, 7).unwrap(),
            preconditioner: PreconditionerSpec::None,
            estimator: EstimatorSpec::Radial(RadialSpec::default()),
        };
        let text = concat!(
            r#"{"problem":{},"dimension":10,"prior":{"kind":"gaussian","sigma":0.5},"cutoff":0.01,"l2_reg":0.0,"seed":7,"#,
            r#""preconditioner":{"kind":"none"},"estimator":{"kind":"radial","radius_tolerance":null,"max_evaluations":80,"#,
            r#""profile_points":0,"costs_by_part":false,"proposal":"centered"}}"#
        );
        assert_eq!(serde_json::to_string(&spec).unwrap(), text);
        assert_eq!(serde_json::from_str::<RunSpec>(text).unwrap(), spec);
        let error = serde_json::from_str::<RunSpec>(&text.replace("0.01", "-0.01")).unwrap_err().to_string();
        assert!(error.contains("`cutoff` is -0.01: expected a finite number of nats > 0"), "{error}");
    }
}
