//! Settings of the annealed estimator.

use serde::{Deserialize, Serialize};

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
    /// What is best for the kind of network, where that is known, else none.
    #[default]
    Auto,
    /// Nothing: weights as they are.
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

/// How trajectories are followed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Integrator {
    /// One kick for each rotation.
    #[default]
    Leapfrog,
    /// Three kicks and rotations of unequal lengths (Blanes, Casas & Sanz-Serna 2014), whose energy error is far smaller up to a length of the step
    /// where it becomes far larger.
    ThreeStage,
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
    /// Settled states that it is attached to, one after the other, sweep by sweep.
    pub anchors: u32,
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
    /// How trajectories are followed.
    pub integrator: Integrator,
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
            anchors: 1,
            chains: 2,
            trajectories: 12,
            effort: 500,
            patience: 4,
            independent: 0,
            settle: 4,
            block: 4,
            angle: 3.0,
            metric: Metric::Auto,
            coordinates: CoordinateChoice::Auto,
            integrator: Integrator::Leapfrog,
            spacing: 0.5,
            warmth: 10.0,
            acceptance: 0.8,
            tolerance: 2e-3,
            star_points: 8,
        }
    }
}

impl AnnealedSpec {
    /// Mean length of a trajectory with a metric where nothing is asked for, in radians: all stiff directions then turn alike, and after half a
    /// turn of theirs each would be where it began.
    pub const ANGLE_WITH_METRIC: f64 = 1.5;

    /// Acceptance that the step is adapted to with [`Integrator::ThreeStage`] where nothing is asked for: beyond it the energy error grows at once.
    pub const ACCEPTANCE_IN_STAGES: f64 = 0.9;

    /// Whether chains move in coordinates that are stretched.
    #[must_use]
    pub fn has_metric(&self) -> bool {
        !matches!(self.metric, Metric::Auto | Metric::None)
    }

    /// To which of its states the spring is attached in a sweep.
    pub(crate) fn anchor_of(&self, sweep: u32) -> usize {
        (sweep % self.anchors.max(1)) as usize
    }

    /// Whether the spring is attached to a state that is found first.
    #[must_use]
    pub(crate) fn is_anchor_settled(&self) -> bool {
        match self.anchor {
            Anchor::Auto => self.set_kind == SetKind::Basin && self.ladder == Ladder::Localization,
            Anchor::Center => false,
            Anchor::Settled => true,
        }
    }
}
