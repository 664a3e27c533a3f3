//! The density that the chains stay at, and what may be asked of them.

use super::error::LlcError;
use crate::estimator::annealed::rung::Rung;
use crate::estimator::annealed::settings::check_motion;
use crate::question::Question;
use crate::spec::{Anchor, AnnealedSpec, CoordinateChoice, LlcSpec, SetKind};

/// `exp(-n_beta C - gamma/2 |w - c|^2)`, times the prior where that is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Density {
    /// `n_beta` and `gamma`.
    pub rung: Rung,
    /// Standard deviation of the prior that is a factor; infinite where none is.
    pub sigma: f64,
}

impl Density {
    /// Checks what is asked, before anything is computed. What is not said is chosen: `gamma = 1/sigma^2`, as wide as the prior of the question; for
    /// `n_beta` nothing can be chosen here.
    pub fn of(question: &Question, spec: &LlcSpec) -> Result<Self, LlcError> {
        check(spec)?;
        let beta = positive("n_beta", spec.n_beta.ok_or(LlcError::NoTemperature)?)?;
        let sigma = match (question.sigma(), spec.with_prior) {
            (_, false) => f64::INFINITY,
            (Some(sigma), true) => sigma,
            (None, true) => return Err(LlcError::Prior),
        };
        let localization = match (spec.localization, question.sigma()) {
            (Some(localization), _) => localization,
            (None, Some(sigma)) => 1.0 / (sigma * sigma),
            (None, None) => return Err(LlcError::NoLocalization),
        };
        if !(localization >= 0.0 && localization.is_finite()) {
            return Err(LlcError::Setting { name: "localization", value: localization, expected: "a finite number > 0" });
        }
        if localization == 0.0 && !spec.with_prior {
            return Err(LlcError::NoSpring);
        }
        Ok(Self { rung: Rung { beta, localization }, sigma })
    }
}

fn positive(name: &'static str, value: f64) -> Result<f64, LlcError> {
    if value > 0.0 && value.is_finite() { Ok(value) } else { Err(LlcError::Setting { name, value, expected: "a finite number > 0" }) }
}

fn check(spec: &LlcSpec) -> Result<(), LlcError> {
    check_motion(&moves(spec))?;
    let at_least = |name, value: u32, least: u32, expected| {
        if value >= least { Ok(()) } else { Err(LlcError::Setting { name, value: f64::from(value), expected }) }
    };
    at_least("warmup", spec.warmup, 1, "a number from 1")?;
    at_least("trajectories", spec.trajectories, 8, "a number from 8")?;
    at_least("budget", spec.budget, spec.trajectories, "at least as many as `trajectories`")?;
    let setting =
        |name, value: f64, is_good: bool, expected| if is_good { Ok(()) } else { Err(LlcError::Setting { name, value, expected }) };
    setting("tolerance", spec.tolerance, spec.tolerance > 0.0 && spec.tolerance < 1.0, "a number between 0 and 1")?;
    setting("r_hat", spec.r_hat, spec.r_hat > 1.0 && spec.r_hat.is_finite(), "a number > 1")?;
    setting("burn_in", spec.burn_in, (0.0..0.9).contains(&spec.burn_in), "a number from 0 to 0.9")
}

/// How the chains move, in the settings of those of the annealed estimator: in weights, since the spring is one of weights.
pub(super) fn moves(spec: &LlcSpec) -> AnnealedSpec {
    AnnealedSpec {
        set_kind: SetKind::Basin,
        anchor: Anchor::Center,
        chains: spec.chains,
        block: spec.block,
        angle: spec.angle,
        metric: spec.metric,
        coordinates: CoordinateChoice::Weights,
        acceptance: spec.acceptance,
        ..AnnealedSpec::default()
    }
}
