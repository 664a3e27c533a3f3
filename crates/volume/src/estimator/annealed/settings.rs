//! What may be asked of chains.

use super::error::AnnealedError;
use crate::question::Question;
use crate::spec::{Anchor, AnnealedSpec, SetKind};

/// Each takes a ladder there and back.
const MOST_ANCHORS: u32 = 16;

/// Checks what is asked, before anything is computed, and returns the prior's sigma.
///
/// # Errors
/// If the prior is not Gaussian or a setting is out of range.
pub(super) fn check(question: &Question, spec: &AnnealedSpec) -> Result<f64, AnnealedError> {
    let sigma = question.sigma().ok_or(AnnealedError::Prior)?;
    check_motion(spec)?;
    let at_least = |name, value: u32, least: u32, expected| {
        if value >= least { Ok(()) } else { Err(AnnealedError::Setting { name, value: f64::from(value), expected }) }
    };
    at_least("trajectories", spec.trajectories, 4, "a number from 4")?;
    at_least("patience", spec.patience, 1, "a number from 1")?;
    at_least("settle", spec.settle, 1, "a number from 1")?;
    at_least("star_points", spec.star_points, 2, "a number from 2")?;
    if !(spec.spacing > 0.0 && spec.spacing <= 2.0) {
        return Err(AnnealedError::Setting { name: "spacing", value: spec.spacing, expected: "a number > 0 and <= 2" });
    }
    if !(spec.warmth >= 1.0 && spec.warmth.is_finite()) {
        return Err(AnnealedError::Setting { name: "warmth", value: spec.warmth, expected: "a finite number >= 1" });
    }
    if spec.anchor == Anchor::Settled && spec.set_kind == SetKind::Star {
        return Err(AnnealedError::StarElsewhere);
    }
    if !(1..=MOST_ANCHORS).contains(&spec.anchors) {
        return Err(AnnealedError::Setting { name: "anchors", value: f64::from(spec.anchors), expected: "a number from 1 to 16" });
    }
    if spec.anchors > 1 && !spec.is_anchor_settled() {
        return Err(AnnealedError::OneAnchor { anchors: spec.anchors });
    }
    if !(spec.tolerance >= 0.0 && spec.tolerance.is_finite()) {
        return Err(AnnealedError::Setting { name: "tolerance", value: spec.tolerance, expected: "a finite number >= 0" });
    }
    Ok(sigma)
}

/// The part of it that is about how chains move, whatever they measure.
pub(in crate::estimator) fn check_motion(spec: &AnnealedSpec) -> Result<(), AnnealedError> {
    for (name, value) in [("chains", spec.chains), ("block", spec.block)] {
        if !(1..=255).contains(&value) {
            return Err(AnnealedError::Setting { name, value: f64::from(value), expected: "a number from 1 to 255" });
        }
    }
    if !(spec.angle > 0.0 && spec.angle.is_finite()) {
        return Err(AnnealedError::Setting { name: "angle", value: spec.angle, expected: "a finite number > 0" });
    }
    if !(spec.acceptance > 0.2 && spec.acceptance < 1.0) {
        return Err(AnnealedError::Setting { name: "acceptance", value: spec.acceptance, expected: "a number between 0.2 and 1" });
    }
    Ok(())
}
