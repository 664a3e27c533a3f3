//! Plain data that says what is computed: the provenance record of a run.

use serde::{Deserialize, Serialize};

use crate::preconditioner::{CurvatureMap, Damping};
use crate::prior::Prior;

pub mod settings;
mod spectral;

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
    /// The density that the volume is measured under.
    pub prior: Prior,
    /// The cost at which behaviour counts as changed, in nats.
    pub cutoff: f64,
    /// `l2_reg / 2 ||w - c||^2` is added to the cost.
    pub l2_reg: f64,
    /// Seed of the directions.
    pub seed: u64,
    /// Where the preconditioner comes from.
    pub preconditioner: PreconditionerSpec,
    /// Which estimator, with its settings.
    pub estimator: EstimatorSpec,
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

/// Which estimator, with its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum EstimatorSpec {
    /// Rays from the center: [`crate::estimator::radial`].
    Radial(RadialSpec),
    /// The quadratic cost with the Fisher matrix: [`crate::estimator::spectral`].
    Spectral(SpectralSpec),
    /// Chains from the center to the prior: [`crate::estimator::annealed`].
    Annealed(AnnealedSpec),
}

impl EstimatorSpec {
    /// Names of all estimators, in the order in which they are shown; each is the `kind` in manifests.
    pub const NAMES: [&'static str; 3] = ["radial", "spectral", "annealed"];

    /// The name in manifests, folders and tables.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Radial(_) => "radial",
            Self::Spectral(_) => "spectral",
            Self::Annealed(_) => "annealed",
        }
    }

    /// Replaces one setting by its name, as [`settings::set`] does.
    ///
    /// # Errors
    /// If there is no such setting, or the value is of another type.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), SettingError> {
        match self {
            Self::Radial(spec) => settings::set(spec, name, value),
            Self::Spectral(spec) => settings::set(spec, name, value),
            Self::Annealed(spec) => settings::set(spec, name, value),
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
pub struct RadialSpec {
    /// Accepted error of one ray's log-volume due to its radius, in nats; `None`: `min(1, 1e-5 D)`.
    pub radius_tolerance: Option<f64>,
    /// Cost evaluations allowed on one ray.
    pub max_evaluations: u32,
    /// Extra evaluations per ray that look for earlier crossings and returns under the cutoff; 0 for none.
    pub profile_points: u32,
    /// Record the cost of every part of the data (every sequence) at the radius, at the price of one more evaluation per ray.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub costs_by_part: bool,
    /// Where the Gaussian that directions are drawn from lies. Not written where it is the center, so that earlier runs go on.
    #[serde(default, skip_serializing_if = "Proposal::is_centered")]
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

impl CoordinateChoice {
    /// What runs had before there was a choice.
    fn before() -> Self {
        Self::Weights
    }
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
    #[serde(default = "CoordinateChoice::before")]
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

    /// Least and most trajectories at a rung.
    pub(crate) fn lengths(&self, phase: crate::estimator::annealed::Phase) -> (usize, usize) {
        let least = match phase {
            crate::estimator::annealed::Phase::Settle => (self.trajectories as usize).saturating_mul(self.settle as usize),
            _ => self.trajectories as usize,
        };
        (least, least.saturating_mul(self.patience as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preconditioner::DiagonalMap;

    #[test]
    fn preconditioners_of_older_manifests_are_read_and_written_as_they_were() {
        let text = r#"{"kind":"diagonal","source":"adam2","hash":"ab","exponent":0.3,"eps":0.002}"#;
        let spec: PreconditionerSpec = serde_json::from_str(text).unwrap();
        let map = DiagonalMap { exponent: 0.3, eps: 2e-3 }.into();
        assert_eq!(spec, PreconditionerSpec::Diagonal { source: "adam2".to_owned(), curvature: None, hash: "ab".to_owned(), map });
        assert_eq!(serde_json::to_string(&spec).unwrap(), text);
    }

    #[test]
    fn rays_around_the_center_are_written_as_they_were() {
        let text = r#"{"kind":"radial","radius_tolerance":null,"max_evaluations":80,"profile_points":0}"#;
        let spec: EstimatorSpec = serde_json::from_str(text).unwrap();
        assert_eq!(spec, EstimatorSpec::Radial(RadialSpec::default()));
        assert_eq!(serde_json::to_string(&spec).unwrap(), text);
        let shifted = EstimatorSpec::Radial(RadialSpec { proposal: Proposal::Shifted, ..RadialSpec::default() });
        let text = serde_json::to_string(&shifted).unwrap();
        assert!(text.contains(r#""proposal":"shifted""#), "{text}");
        assert_eq!(serde_json::from_str::<EstimatorSpec>(&text).unwrap(), shifted);
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
