//! Plain data that says what is computed: the provenance record of a run.

use serde::{Deserialize, Serialize};

use crate::preconditioner::{CurvatureMap, Damping};
use crate::prior::Prior;
use crate::question::Question;

mod estimator;
pub mod settings;
mod spectral;

pub use estimator::EstimatorSpec;
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

/// Where a preconditioner comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PreconditionerSpec {
    /// The identity.
    None,
    /// A diagonal from a vector with one entry per parameter.
    Diagonal {
        /// Name of the source: `adam1`, `adam2`, a kind of curvature or a file name.
        source: String,
        /// What the source holds, if it says: `fisher-diagonal`, `squared-gradient`, `hessian-diagonal`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        curvature: Option<String>,
        /// SHA-256 of the source vector.
        hash: String,
        /// How a source value becomes a factor.
        #[serde(flatten)]
        map: CurvatureMap,
    },
    /// A Gaussian of the displacement `w - c`, given by its moments.
    Gaussian {
        /// Name of the source file.
        source: String,
        /// SHA-256 of the moments.
        hash: String,
        /// How the covariance is given: `variance`, `covariance` or `precision`.
        covariance: String,
        /// Whether the source has a mean.
        mean: bool,
    },
    /// A diagonal of given factors, such as learned ones.
    Factors {
        /// Name of the source.
        source: String,
        /// SHA-256 of the source vector.
        hash: String,
    },
    /// A dense symmetric matrix.
    Dense {
        /// Name of the source file.
        source: String,
        /// SHA-256 of the source matrix.
        hash: String,
        /// How an eigenvalue becomes a factor.
        #[serde(flatten)]
        map: CurvatureMap,
    },
    /// Kronecker factors per matrix of weights, a diagonal for the other tensors.
    Kronecker {
        /// Name of the source.
        source: String,
        /// SHA-256 of the factors.
        hash: String,
        /// How an eigenvalue becomes a factor.
        #[serde(flatten)]
        map: CurvatureMap,
    },
    /// A few eigenvectors and a diagonal.
    LowRank {
        /// Name of the source.
        source: String,
        /// SHA-256 of vectors, eigenvalues and diagonal.
        hash: String,
        /// Number of vectors.
        rank: usize,
        /// The damping of the curvature.
        #[serde(flatten)]
        map: Damping,
    },
}

impl PreconditionerSpec {
    /// Short name for tables and figures.
    #[must_use]
    pub fn label(&self) -> &str {
        match self {
            Self::None => "none",
            Self::Diagonal { source, .. }
            | Self::Factors { source, .. }
            | Self::Gaussian { source, .. }
            | Self::Dense { source, .. }
            | Self::Kronecker { source, .. }
            | Self::LowRank { source, .. } => source,
        }
    }
}

/// Where the Gaussian that directions are drawn from lies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proposal {
    /// Around the center: only the shape of the covariance matters.
    #[default]
    Centered,
    /// Around a mean: that of the prior tilted by the cost, `-Sigma c / sigma^2`, or the Gaussian's own.
    Shifted,
}

impl Proposal {
    /// The name written to files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Centered => "centered",
            Self::Shifted => "shifted",
        }
    }

    /// Whether directions are drawn around the center.
    #[must_use]
    pub fn is_centered(&self) -> bool {
        *self == Self::Centered
    }

    /// A preconditioner, and the proposal if it does not lie around the center: `fisher, shifted`.
    #[must_use]
    pub fn directions(self, preconditioner: &str) -> String {
        if self.is_centered() { preconditioner.to_owned() } else { format!("{preconditioner}, {}", self.name()) }
    }
}

/// Settings of the radial estimator.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RadialSpec {
    /// Accepted error of one ray's log-volume due to its radius, in nats; `None`: `min(1, 1e-5 D)`.
    pub radius_tolerance: Option<f64>,
    /// Cost evaluations allowed on one ray.
    pub max_evaluations: u32,
    /// Extra evaluations per ray that look for earlier crossings and returns under the cutoff; 0 for none.
    pub profile_points: u32,
    /// Record the cost of every part of the data (every sequence) at the radius, at the price of one more evaluation per ray.
    pub costs_by_part: bool,
    /// Where the Gaussian that directions are drawn from lies.
    pub proposal: Proposal,
}

impl Default for RadialSpec {
    fn default() -> Self {
        Self { radius_tolerance: None, max_evaluations: 80, profile_points: 0, costs_by_part: false, proposal: Proposal::Centered }
    }
}

impl RadialSpec {
    /// The tolerance in nats for a problem of this dimension.
    #[must_use]
    pub fn tolerance_nats(&self, dimension: usize) -> f64 {
        self.radius_tolerance.unwrap_or_else(|| (1e-5 * dimension as f64).min(1.0))
    }
}

/// Which set of weights is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SetKind {
    /// `{w : C(w) <= cutoff}`, the part that chains from the center reach.
    Basin,
    /// `{w : C <= cutoff on the whole segment from the center to w}`, on a grid of points.
    Star,
}

/// The densities between one whose volume is known and the one that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ladder {
    /// A spring, from strong to none.
    Localization,
    /// The temperature, from the prior down.
    Temperature,
}

/// Where the spring of a ladder is attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Anchor {
    /// A settled state for the basin on a ladder of springs, else the center.
    #[default]
    Auto,
    /// The center.
    Center,
    /// A state that a chain from the center comes to while its cost is held below the cutoff.
    Settled,
}

/// What the coordinates are stretched by in which chains move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Nothing: weights as they are.
    #[default]
    None,
    /// The diagonal of the Fisher matrix at the states of the chains.
    Diagonal,
    /// Its leading eigenvectors and a diagonal for the rest.
    LowRank,
    /// Kronecker factors per dense layer (K-FAC).
    Kronecker,
}

/// The coordinates that chains move in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CoordinateChoice {
    /// Rotated ones where they are known and nothing speaks against them, else the weights.
    #[default]
    Auto,
    /// The weights.
    Weights,
    /// Those of [`crate::coordinates::Coordinates`].
    Rotated,
}

/// Settings of the annealed estimator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AnnealedSpec {
    /// Which set.
    pub set_kind: SetKind,
    /// Which densities lie between.
    pub ladder: Ladder,
    /// Where the spring is attached.
    pub anchor: Anchor,
    /// Chains that run side by side.
    pub chains: u32,
    /// Trajectories of each chain at a rung, at least.
    pub trajectories: u32,
    /// Gradients of each chain at a rung, at least.
    pub effort: u32,
    /// How many times as many a rung may take while its halves disagree.
    pub patience: u32,
    /// Independent values that a rung is to have of what is integrated there, from all chains: it goes on, as long as `patience` lets it, until it has
    /// them. 0 for no such demand.
    pub independent: u32,
    /// Trajectories at the density that is wanted, in units of `trajectories`.
    pub settle: u32,
    /// Trajectories between two looks at the step and at the disk.
    pub block: u32,
    /// Mean length of a trajectory, in radians of the prior's oscillation.
    pub angle: f64,
    /// What the chains' coordinates are stretched by, refreshed from their states at every rung.
    pub metric: Metric,
    /// The coordinates themselves.
    pub coordinates: CoordinateChoice,
    /// Distance of rungs in the logarithm of the localization, or the largest in that of beta; without a spring rungs may be twice as far apart
    /// where the mean cost is known within a hundredth.
    pub spacing: f64,
    /// Cost that the chains may have while the spring holds them, in cutoffs: warm chains move faster.
    pub warmth: f64,
    /// Acceptance that the step is adapted to.
    pub acceptance: f64,
    /// A relative drift of a rung's derivative that is accepted.
    pub tolerance: f64,
    /// Points of the segment from the center whose largest cost is that of the star.
    pub star_points: u32,
}

impl Default for AnnealedSpec {
    fn default() -> Self {
        Self {
            set_kind: SetKind::Basin,
            ladder: Ladder::Localization,
            anchor: Anchor::Auto,
            chains: 2,
            trajectories: 12,
            effort: 500,
            patience: 4,
            independent: 0,
            settle: 4,
            block: 4,
            angle: 3.0,
            metric: Metric::None,
            coordinates: CoordinateChoice::Auto,
            spacing: 0.5,
            warmth: 10.0,
            acceptance: 0.8,
            tolerance: 2e-3,
            star_points: 8,
        }
    }
}

impl AnnealedSpec {
    /// Whether the spring is attached to a state that is found first.
    #[must_use]
    pub fn is_anchor_settled(&self) -> bool {
        match self.anchor {
            Anchor::Auto => self.set_kind == SetKind::Basin && self.ladder == Ladder::Localization,
            Anchor::Center => false,
            Anchor::Settled => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preconditioner::DiagonalMap;

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

    #[test]
    fn every_preconditioner_comes_back() {
        let (source, hash) = ("file.safetensors".to_owned(), "cd".to_owned());
        let map = Damping { beta: 1.0 / 3.0, sigma: 0.1 };
        let (s, h) = (|| source.clone(), || hash.clone());
        for spec in [
            PreconditionerSpec::None,
            PreconditionerSpec::Diagonal { source: s(), curvature: Some("fisher-diagonal".to_owned()), hash: h(), map: map.into() },
            PreconditionerSpec::Factors { source: s(), hash: h() },
            PreconditionerSpec::Gaussian { source: s(), hash: h(), covariance: "precision".to_owned(), mean: true },
            PreconditionerSpec::Dense { source: s(), hash: h(), map: DiagonalMap::default().into() },
            PreconditionerSpec::Kronecker { source: s(), hash: h(), map: map.into() },
            PreconditionerSpec::LowRank { source: s(), hash: h(), rank: 3, map },
        ] {
            let text = serde_json::to_string(&spec).unwrap();
            assert_eq!(serde_json::from_str::<PreconditionerSpec>(&text).unwrap(), spec, "{text}");
        }
    }
}
