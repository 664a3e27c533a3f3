//! The damping at which draws of a Gaussian proposal have the cost of the cutoff.
//!
//! The saddle point of the quadratic cost ([`crate::saddle_point`]) makes the proposal `N(mu, (beta F + I/sigma^2)^-1)` exact for a quadratic
//! cost. The cost of a network grows faster: draws of that Gaussian cost 65 to 1100 times the cutoff, and rays towards them cross it far
//! too early. Here beta is raised until the cost *itself*, at draws `x = s P n` of the proposal, has the median of the cutoff. For
//! a quadratic cost that is the same beta, up to the spread of the cost over draws.

use std::sync::Arc;

use crate::direction::{DirectionFamily, PILOT_INDICES};
use crate::estimator::radial::{RadialError, proposal_shift};
use crate::objective::{Objective, ObjectiveError, RayPoint};
use crate::preconditioner::{Damping, Preconditioner, PreconditionerError};
use crate::question::Question;
use crate::spec::Proposal;

/// What the proposal is for.
#[derive(Debug, Clone, Copy)]
pub struct Matching {
    /// What the rays are asked. The draws are those of the pilot rays of its seed, which are never samples.
    pub question: Question,
    /// Where the Gaussian lies.
    pub proposal: Proposal,
}

/// Why there is no such damping.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MatchingError {
    /// The largest beta that was tried still has draws above the cutoff.
    #[error(
        "draws of the proposal cost {times:.3} times the cutoff however large beta is made ({beta:e}): the curvature leaves out weights that the cost depends on, use another"
    )]
    NotReached {
        /// The largest beta tried.
        beta: f64,
        /// Median of the cost over the cutoff there.
        times: f64,
    },
    /// No map with a beta on the way.
    #[error(transparent)]
    Preconditioner(#[from] PreconditionerError),
    /// No shift for a map on the way.
    #[error(transparent)]
    Radial(#[from] RadialError),
    /// The cost failed.
    #[error(transparent)]
    Objective(#[from] ObjectiveError),
}

impl MatchingError {
    /// Whether it is no failure: an interrupt is raised.
    #[must_use]
    pub fn is_interrupt(&self) -> bool {
        match self {
            Self::Objective(error) => error.is_interrupt(),
            Self::Radial(error) => error.is_interrupt(),
            _ => false,
        }
    }
}

/// Factor between the betas tried until two of them enclose the one looked for.
const STRIDE: f64 = 10.0;

/// How many strides are gone in one direction.
const STRIDES: usize = 16;

/// Halvings of a stride: the last two betas are within 4 %.
const HALVINGS: usize = 6;

/// Steps of `ln beta` that the answer is rounded to, so that the last digits of a cost, which depend on the processor, do not decide it.
const ROUNDED_TO: f64 = 0.05;

/// Finds the damping, beginning at `start`, with the map that `build` makes of one. About thirty evaluations of the cost, and a third as many
/// maps.
///
/// # Errors
/// If no beta up to `1e16` times the start is large enough, or a map or the cost fails.
pub fn matched_damping(
    objective: &dyn Objective,
    matching: &Matching,
    start: Damping,
    mut build: impl FnMut(Damping) -> Result<Arc<dyn Preconditioner>, PreconditionerError>,
) -> Result<Damping, MatchingError> {
    let mut excess = |beta: f64| -> Result<f64, MatchingError> {
        let map = build(Damping { beta, ..start })?;
        log_excess(objective, matching, &map)
    };
    // Without a saddle point the prior itself may do; else the search begins where the curvature begins to count.
    let first = if start.beta > 0.0 {
        start.beta
    } else {
        if excess(0.0)? <= 0.0 {
            return Ok(start);
        }
        start.sigma.powi(-2)
    };
    let (mut low, mut high) = (first, first);
    let mut last = excess(first)?;
    let is_above = last > 0.0;
    for _ in 0..STRIDES {
        if (last > 0.0) != is_above {
            break;
        }
        if is_above {
            (low, high) = (high, high * STRIDE);
            last = excess(high)?;
        } else {
            (high, low) = (low, low / STRIDE);
            last = excess(low)?;
        }
    }
    if is_above && last > 0.0 {
        return Err(MatchingError::NotReached { beta: high, times: last.exp() });
    }
    for _ in 0..HALVINGS {
        let middle = (low * high).sqrt();
        if excess(middle)? > 0.0 {
            low = middle;
        } else {
            high = middle;
        }
    }
    let beta = ((high.ln() / ROUNDED_TO).round() * ROUNDED_TO).exp();
    Ok(Damping { beta, ..start })
}

/// Median over draws of the proposal of `ln(C / cutoff)`; infinite where the cost is not finite.
fn log_excess(objective: &dyn Objective, matching: &Matching, map: &Arc<dyn Preconditioner>) -> Result<f64, MatchingError> {
    let mut family = DirectionFamily::new(matching.question.seed(), objective.dimension(), Arc::clone(map));
    if matching.proposal == Proposal::Shifted {
        family = family.shifted(proposal_shift(objective, matching.question.prior(), &**map)?.into());
    }
    let scale = map.root_scale().ok_or(RadialError::ShiftedShape)? * map.scale();
    let mut excesses = PILOT_INDICES.map(|index| {
        let direction = family.direction(index, objective, None, true);
        // x = s P n, and the direction is P n over the norm of n.
        let t = scale / direction.scale();
        let cost = objective.cost(&direction, RayPoint::straight(t))?.nats;
        let cost = cost + 0.5 * matching.question.l2_reg() * (t * direction.norm()).powi(2);
        Ok(if cost.is_finite() { (cost / matching.question.cutoff()).ln() } else { f64::INFINITY })
    });
    excesses.sort_by(|a: &Result<f64, ObjectiveError>, b| match (a, b) {
        (Ok(a), Ok(b)) => a.total_cmp(b),
        (a, b) => a.is_ok().cmp(&b.is_ok()),
    });
    let [first, median, _] = excesses;
    first?;
    Ok(median?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimator::radial::{Directions, RadialEstimator};
    use crate::objective::Cost;
    use crate::preconditioner::Diagonal;
    use crate::prior::Prior;
    use crate::random::{NormalVector, Purpose};
    use crate::saddle_point::{Mode, QuadraticCost};
    use crate::spec::RadialSpec;
    use crate::statistics::log_mean_exp;
    use crate::testkit::{Closure, Ellipsoid};

    const D: usize = 600;
    const CUTOFF: f64 = 0.01;

    fn center() -> Vec<f32> {
        let mut center = vec![0.0f32; D];
        NormalVector::new(Purpose::Trials, 1, 0, D).fill(0..D, &mut center);
        center.iter_mut().for_each(|x| *x *= 0.3);
        center
    }

    fn curvature() -> Vec<f32> {
        (0..D).map(|i| ((i + 1) as f32).powi(-2)).collect()
    }

    fn saddle(sigma: f64) -> Damping {
        let (curvature, center) = (curvature(), center());
        let cost = QuadraticCost::new(D, sigma, |i| Mode::single(curvature[i], center[i])).unwrap();
        Damping { beta: cost.saddle_point(CUTOFF).unwrap().beta, sigma }
    }

    fn build(damping: Damping) -> Result<Arc<dyn Preconditioner>, PreconditionerError> {
        Ok(Arc::new(Diagonal::from_curvature(&curvature(), damping)?))
    }

    fn question(cutoff: f64) -> Question {
        Question::new(Prior::Gaussian { sigma: 1.0 }, cutoff, 0.0, 3).unwrap()
    }

    fn matching(proposal: Proposal) -> Matching {
        Matching { question: question(CUTOFF), proposal }
    }

    #[test]
    fn of_a_quadratic_cost_it_is_the_saddle_point() {
        let body = Ellipsoid::new(curvature().into_iter().map(f64::from).collect(), center());
        let saddle = saddle(1.0);
        for start in [
            saddle,
            Damping { beta: 1e5 * saddle.beta, ..saddle },
            Damping { beta: 1e-4 * saddle.beta, ..saddle },
            Damping { beta: 0.0, ..saddle },
        ] {
            let found = matched_damping(&body, &matching(Proposal::Shifted), start, build).unwrap();
            // About 75 directions carry the cost, so that of one draw has a spread of 16 %, and it falls like the root of beta.
            assert!((found.beta / saddle.beta).ln().abs() < 0.8, "{found:?} {saddle:?}");
            assert_eq!(found.sigma, saddle.sigma);
        }
        // Around the center there is no cost of the mean: a smaller beta is enough.
        let shifted = matched_damping(&body, &matching(Proposal::Shifted), saddle, build).unwrap();
        let centered = matched_damping(&body, &matching(Proposal::Centered), saddle, build).unwrap();
        assert!(centered.beta <= shifted.beta, "{centered:?} {shifted:?}");
    }

    #[test]
    fn a_cost_that_grows_faster_gets_a_proposal_nearer_to_the_center() {
        let (c, l) = (center(), curvature());
        let quadratic = move |w: &[f64]| -> f64 {
            0.5 * w.iter().zip(&c).zip(&l).map(|((w, c), l)| f64::from(*l) * (w - f64::from(*c)).powi(2)).sum::<f64>()
        };
        // 51 times the quadratic cost where that is at the cutoff.
        let objective = Closure::new(center(), move |w: &[f64]| {
            let q = quadratic(w);
            Cost::exact(q + 5000.0 * q * q)
        });
        let saddle = saddle(1.0);
        let matched = matched_damping(&objective, &matching(Proposal::Shifted), saddle, build).unwrap();
        assert!(matched.beta > 5.0 * saddle.beta, "{matched:?} {saddle:?}");
        let estimate = |damping: Damping| {
            let settings = RadialSpec { proposal: Proposal::Shifted, ..RadialSpec::default() };
            let estimator =
                RadialEstimator::new(&objective, question(CUTOFF), build(damping).unwrap(), settings, None, Directions::Kept).unwrap();
            log_mean_exp(&(0..50).map(|index| estimator.sample(index).unwrap().log_volume).collect::<Vec<_>>())
        };
        // The set is the ellipsoid of a smaller cutoff, q + 5000 q^2 = 0.01, whose probability is known.
        let inner = ((1.0f64 + 4.0 * 5000.0 * CUTOFF).sqrt() - 1.0) / (2.0 * 5000.0);
        let truth = Ellipsoid::new(curvature().into_iter().map(f64::from).collect(), center()).true_log_probability(1.0, inner);
        let (with, without) = (estimate(matched), estimate(saddle));
        assert!((with - truth).abs() < 3.0 && (without - truth).abs() > 30.0, "{with} {without} {truth}");
    }

    #[test]
    fn what_no_damping_reaches_is_named() {
        // The curvature knows nothing of half of the weights.
        let body = Ellipsoid::new(vec![1.0; D], center());
        let half: Vec<f32> = (0..D).map(|i| if i % 2 == 0 { 1.0 } else { 0.0 }).collect();
        let error = matched_damping(&body, &matching(Proposal::Shifted), Damping { beta: 1.0, sigma: 1.0 }, |damping| {
            Ok(Arc::new(Diagonal::from_curvature(&half, damping)?))
        });
        let error = error.unwrap_err();
        assert!(matches!(error, MatchingError::NotReached { .. }) && error.to_string().contains("use another"), "{error}");
        // The prior itself is under a cutoff that is wide enough.
        let wide = Matching { question: question(1e6), ..matching(Proposal::Centered) };
        let prior = Damping { beta: 0.0, sigma: 1.0 };
        assert_eq!(matched_damping(&body, &wide, prior, build).unwrap(), prior);
        let broken = Closure::new(center(), |_: &[f64]| Cost::exact(f64::NAN));
        assert!(matches!(matched_damping(&broken, &matching(Proposal::Centered), prior, build), Err(MatchingError::NotReached { .. })));
    }
}
