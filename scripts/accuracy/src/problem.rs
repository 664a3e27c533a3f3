//! One body with its center, prior, cutoff and truth.

use basin_volume::objective::Differentiable;
use basin_volume::preconditioner::Damping;
use basin_volume::prior::Prior;
use basin_volume::question::{Question, QuestionError};
use basin_volume::saddle_point::{Mode, QuadraticCost};
use basin_volume::testkit::Truth;
use serde::{Deserialize, Serialize};

/// What is estimated.
pub struct Problem<'a> {
    pub objective: &'a dyn Differentiable,
    pub center: Vec<f32>,
    pub sigma: f64,
    pub cutoff: f64,
    /// Diagonal of the Hessian at the center; of a body whose axes are the coordinates, its eigenvalues.
    pub curvature: Vec<f64>,
    pub truth: Truth,
}

/// The set that a method measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Set {
    /// What the center sees.
    Star,
    /// What hangs together with the center.
    Basin,
    /// The quadratic cost's `{C <= cutoff}`: right for ellipsoids; elsewhere it is set beside the basin.
    Ellipsoid,
}

impl Set {
    pub fn name(self) -> &'static str {
        match self {
            Self::Star => "star",
            Self::Basin => "basin",
            Self::Ellipsoid => "ellipsoid",
        }
    }
}

impl<'a> Problem<'a> {
    /// Around the objective's own center.
    pub fn new(objective: &'a dyn Differentiable, curvature: Vec<f64>, sigma: f64, cutoff: f64, truth: Truth) -> Self {
        let mut center = vec![0.0; objective.dimension()];
        objective.center(0..center.len(), &mut center);
        Self { objective, center, sigma, cutoff, curvature, truth }
    }

    pub fn dimension(&self) -> usize {
        self.center.len()
    }

    /// What a method is asked, with this seed.
    pub fn question(&self, seed: u64) -> Result<Question, QuestionError> {
        Question::new(Prior::Gaussian { sigma: self.sigma }, self.cutoff, 0.0, seed)
    }

    /// What a method that measures this set should find; `None` where it is not known.
    pub fn truth(&self, set: Set) -> Option<f64> {
        match set {
            Set::Star => self.truth.star,
            Set::Basin | Set::Ellipsoid => Some(self.truth.basin),
        }
    }

    /// The damping with which the quadratic cost's tilted prior has the mean cost of the cutoff.
    pub fn damping(&self) -> Damping {
        let mode = |i: usize| Mode::single(self.curvature[i], f64::from(self.center[i]));
        let cost = QuadraticCost::new(self.dimension(), self.sigma, mode).expect("curvatures of test bodies are finite and not negative");
        Damping { beta: cost.saddle_point(self.cutoff).expect("the cutoff is positive").beta, sigma: self.sigma }
    }
}

/// The diagonal of the Hessian at the center by central differences of the gradient, negative entries as zero.
pub fn curvature_at_center(objective: &dyn Differentiable, step: f32) -> Vec<f64> {
    let dimension = objective.dimension();
    let mut weights = vec![0.0f32; dimension];
    objective.center(0..dimension, &mut weights);
    let mut gradient = vec![0.0f32; dimension];
    (0..dimension)
        .map(|i| {
            let middle = weights[i];
            let mut at = |value: f32| {
                weights[i] = value;
                objective.gradient(&weights, 0..1, &mut gradient).expect("test bodies do not fail");
                f64::from(gradient[i])
            };
            let (ahead, behind) = (middle + step, middle - step);
            let slope = (at(ahead) - at(behind)) / (f64::from(ahead) - f64::from(behind));
            weights[i] = middle;
            slope.max(0.0)
        })
        .collect()
}
