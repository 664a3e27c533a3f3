//! Where along a ray the cost first crosses the cutoff, in as few evaluations as possible.
//!
//! The search works on `h(s) = ln C(e^s) - ln cutoff` in `s = ln t`. Near the center `C ~ t^2`, so `h` is close to a line of slope 2 and
//! inverse interpolation through the points already evaluated converges in three or four evaluations; a bracket, kept all along,
//! takes over (bisection) where the cost is kinked, noisy, saturating or not finite.
//!
//! The root is the *interpolated* one, with a bound of its error that is deliberately wider than the interpolation error of a smooth
//! function, and that falls back to the change of the slope itself where the slope jumps.
//!
//! In nats an error `ds` of `ln t` is `D ds`, because the volume of a ray grows like `t^D`.

use serde::{Deserialize, Serialize};

use crate::objective::Cost;

mod together;

pub use together::{PartCrossing, TogetherSearch};

/// How the search on one ray ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// The first crossing known is found to within the tolerance or the cost's own resolution.
    Converged,
    /// The cost stays under the cutoff as far as the prior has mass: the radius is infinite.
    Unbounded,
    /// Converged on the first crossing seen, but the cost was seen under the cutoff again further out.
    NonMonotone,
    /// The cost is under the cutoff up to the radius and NaN or infinite beyond it.
    NotFinite,
    /// The cost's rounding noise is of the size of the cutoff: where it crosses cannot be told.
    Unresolved,
    /// The evaluations ran out; the error bound says how much is left open.
    BudgetExhausted,
}

impl Outcome {
    /// The name written to files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Converged => "converged",
            Self::Unbounded => "unbounded",
            Self::NonMonotone => "non_monotone",
            Self::NotFinite => "not_finite",
            Self::Unresolved => "unresolved",
            Self::BudgetExhausted => "budget_exhausted",
        }
    }
}

/// What to search for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SearchSettings {
    /// The cutoff, in nats.
    pub cutoff: f64,
    /// `D`, the factor between an error of `ln t` and an error in nats.
    pub dimension: f64,
    /// Accepted error, in nats. The cost's own resolution is accepted as well, whichever is larger.
    pub tolerance_nats: f64,
    /// First guess of the radius.
    pub start: f64,
    /// First guess of `d ln C / d ln t` at the root: 2 near the center.
    pub slope: f64,
    /// First guess of the second derivative of `ln C` by `ln t` there: 0 near the center.
    pub curvature: f64,
    /// Largest `t` that matters; a cost still under the cutoff there makes the ray [`Outcome::Unbounded`].
    pub max_radius: f64,
    /// Evaluations allowed in total.
    pub max_evaluations: u32,
}

/// An evaluation actually made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Distance along the ray, in units of `v`.
    pub t: f64,
    /// Cost there.
    pub cost: Cost,
}

/// The answer of the search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Crossing {
    /// The interpolated root: the first `t` with `C = cutoff`; infinite if there is none.
    pub radius: f64,
    /// Bound of the error that the radius leaves in the log-volume, in nats (`D |ds|`), the cost's rounding noise included.
    pub error_nats: f64,
    /// The evaluation closest to the root.
    pub nearest: Evaluation,
    /// `d ln C / d ln t` at the root, from the evaluations nearest to it.
    pub slope: f64,
    /// Second derivative of `ln C` by `ln t` there, if three evaluations show it.
    pub curvature: Option<f64>,
    /// Number of cost evaluations.
    pub evaluations: u32,
    /// How many of them were NaN or infinite.
    pub not_finite: u32,
    /// How it ended.
    pub outcome: Outcome,
}

#[derive(Debug, Clone, Copy)]
struct Probe {
    s: f64,
    /// `ln C - ln cutoff`; +inf where the cost is NaN or infinite, -inf where it is zero (or below, from rounding).
    h: f64,
    /// Resolution of `h`.
    noise: f64,
    evaluation: Evaluation,
}

/// Slopes of `ln C` against `ln t` outside this range are not believed when extrapolating.
const SLOPE_RANGE: (f64, f64) = (0.5, 8.0);

/// First limit of a step (in `ln t`) beyond the points known; doubled whenever it is used up.
const FIRST_STEP_LIMIT: f64 = 1.4;

/// Error of `ln t` that is accepted at most, however little it matters for the volume (a ray that has left the prior's mass).
const LARGEST_ERROR: f64 = 0.01;

/// Rounding noise, as a share of the cost, from which the crossing counts as unresolved.
const UNRESOLVED: f64 = 1.0 / 3.0;

/// How many standard deviations of rounding noise go into a bound.
const NOISE_SIGMAS: f64 = 3.0;

/// The search on one ray: owns what has been evaluated so far.
pub struct RadiusSearch<'a> {
    settings: SearchSettings,
    /// What an error of `ln t` is in nats, if not `D` times it.
    nats: Option<&'a dyn Fn(f64, f64) -> f64>,
    probes: Vec<Probe>,
    low: Option<Probe>,
    high: Option<Probe>,
    returned_below: bool,
    step_limit: f64,
    /// `|h|` at the last step beyond the points known, and how often in a row such a step hardly changed it.
    outward_h: f64,
    stalled: i32,
    since_halved: u32,
    last_width: f64,
}

struct RootEstimate {
    s: f64,
    error: f64,
    slope: f64,
    curvature: Option<f64>,
    nearest: Probe,
}

impl<'a> RadiusSearch<'a> {
    /// A search that has seen nothing yet.
    #[must_use]
    pub fn new(settings: SearchSettings) -> Self {
        Self {
            settings,
            nats: None,
            probes: Vec::with_capacity(16),
            low: None,
            high: None,
            returned_below: false,
            step_limit: FIRST_STEP_LIMIT,
            outward_h: f64::INFINITY,
            stalled: 0,
            since_halved: 0,
            last_width: f64::INFINITY,
        }
    }

    /// Measures errors by `nats(s, ds)`, the change of the log-volume when `s = ln t` is off by `ds`, instead of `D ds`: under a
    /// Gaussian prior the factor is larger than `D` on rays towards the origin, and falls to zero beyond the prior's mass.
    #[must_use]
    pub(crate) fn with_error_in_nats(mut self, nats: &'a dyn Fn(f64, f64) -> f64) -> Self {
        self.nats = Some(nats);
        self
    }

    fn in_nats(&self, s: f64, error: f64) -> f64 {
        match self.nats {
            _ if error == 0.0 => 0.0,
            _ if !error.is_finite() => f64::INFINITY,
            Some(nats) => nats(s, error),
            None => self.settings.dimension * error,
        }
    }

    /// Evaluates until the first crossing is known well enough, the ray proves unbounded or the budget is spent.
    ///
    /// # Errors
    /// Whatever `cost` returns as an error. A cost that is NaN or infinite is no error.
    pub fn run<E>(mut self, mut cost: impl FnMut(f64) -> Result<Cost, E>) -> Result<Crossing, E> {
        self.search(&mut cost)
    }

    /// Like [`RadiusSearch::run`], then evaluates `points` more places spread evenly over `(0, 2 r]` (at most the largest radius that
    /// matters). Where one of them lies above the cutoff before `r`, the earlier crossing is searched and returned; where one lies
    /// below the cutoff after `r`, the outcome is [`Outcome::NonMonotone`].
    ///
    /// # Errors
    /// As [`RadiusSearch::run`].
    pub(crate) fn run_with_scan<E>(mut self, points: u32, mut cost: impl FnMut(f64) -> Result<Cost, E>) -> Result<Crossing, E> {
        let first = self.search(&mut cost)?;
        if points == 0 {
            return Ok(first);
        }
        let end = (2.0 * first.radius).min(self.settings.max_radius);
        self.settings.max_evaluations += points;
        for k in 1..=points {
            let t = end * f64::from(k) / f64::from(points);
            self.record(t, cost(t)?);
        }
        if self.high.is_none() {
            // Converged from below, and every point of the scan lies under the cutoff: also those beyond the crossing.
            return Ok(match first.outcome {
                Outcome::Unbounded => self.unbounded(),
                Outcome::Converged => Crossing { outcome: Outcome::NonMonotone, ..self.with_counts(first) },
                _ => self.with_counts(first),
            });
        }
        self.last_width = f64::INFINITY;
        self.search(&mut cost)
    }

    fn search<E>(&mut self, cost: &mut impl FnMut(f64) -> Result<Cost, E>) -> Result<Crossing, E> {
        loop {
            if let Some(estimate) = self.estimate()
                && (self.low.is_some() || estimate.nearest.h.abs() < 0.5)
            {
                let noise = estimate.nearest.noise / estimate.slope;
                let bound = estimate.error + NOISE_SIGMAS * noise;
                let fine = bound <= LARGEST_ERROR && self.in_nats(estimate.s, bound) <= self.settings.tolerance_nats;
                // Below twice the noise more evaluations cannot tell more.
                if fine || estimate.error <= 2.0 * noise {
                    return Ok(self.crossing(&estimate, Outcome::Converged));
                }
            }
            if let (Some(low), Some(high)) = (self.low, self.high) {
                let width = high.s - low.s;
                let fine = width <= LARGEST_ERROR && self.in_nats(0.5 * (low.s + high.s), 0.5 * width) <= self.settings.tolerance_nats;
                let noise = low.noise.max(high.noise);
                if fine || (noise >= UNRESOLVED && width <= 0.7) || width <= 4.0 * f64::EPSILON * low.s.abs().max(1.0) {
                    return Ok(self.closed_bracket(Outcome::Converged));
                }
            }
            let max_s = self.settings.max_radius.ln();
            if self.high.is_none() && self.low.is_some_and(|low| low.s >= max_s) {
                return Ok(self.unbounded());
            }
            if self.probes.len() as u32 >= self.settings.max_evaluations {
                return Ok(self.closed_bracket(Outcome::BudgetExhausted));
            }
            let s = self.propose().min(max_s);
            // The radius handed out is exp(s) rounded; what is recorded is that rounded radius.
            let t = if s >= max_s { self.settings.max_radius } else { s.exp() };
            let value = cost(t)?;
            self.record(t, value);
        }
    }

    fn record(&mut self, t: f64, cost: Cost) {
        let s = t.ln();
        let (h, noise) = log_ratio(cost, self.settings.cutoff);
        let probe = Probe { s, h, noise, evaluation: Evaluation { t, cost } };
        self.probes.push(probe);
        // The bracket is always [largest point under the cutoff before the first one above it, first one above it].
        if h >= 0.0 && self.high.is_none_or(|high| s < high.s) {
            self.high = Some(probe);
            self.step_limit = FIRST_STEP_LIMIT;
        }
        let high_s = self.high.map_or(f64::INFINITY, |high| high.s);
        self.low = self.probes.iter().filter(|p| p.h < 0.0 && p.s < high_s).max_by(|a, b| a.s.total_cmp(&b.s)).copied();
        self.returned_below = self.probes.iter().any(|p| p.h < 0.0 && p.s > high_s && !p.within_noise());
        if let (Some(low), Some(high)) = (self.low, self.high) {
            let width = high.s - low.s;
            if width <= 0.5 * self.last_width {
                self.last_width = width;
                self.since_halved = 0;
            } else {
                self.since_halved += 1;
            }
        }
    }

    /// The finite evaluations that the interpolation may use, nearest to the cutoff first. Points beyond the first known crossing
    /// do not count once the cost is known to come back under the cutoff there.
    fn usable(&self) -> Vec<Probe> {
        let limit = self.high.map_or(f64::INFINITY, |high| high.s);
        let mut usable: Vec<Probe> =
            self.probes.iter().filter(|p| p.h.is_finite() && (!self.returned_below || p.s <= limit)).copied().collect();
        usable.sort_by(|a, b| a.h.abs().total_cmp(&b.h.abs()).then(a.s.total_cmp(&b.s)));
        usable
    }

    /// Root by inverse interpolation through the points nearest to the cutoff, with a bound of its error (both in `ln t`).
    fn estimate(&self) -> Option<RootEstimate> {
        let usable = self.usable();
        let nearest = *usable.first()?;
        // Slopes of pairs far enough apart for the noise not to matter, the nearest pairs first.
        let mut pairs = Vec::with_capacity(2);
        let mut partner = None;
        for other in &usable[1..] {
            if let Some(slope) = nearest.slope_to(other) {
                if partner.is_none() {
                    partner = Some(*other);
                    pairs.push(slope);
                } else {
                    // The slope known before: from the partner onwards, so that it shares no noise with the newest.
                    if let Some(before) = partner.and_then(|p: Probe| p.slope_to(other)) {
                        pairs.push(before);
                    } else {
                        pairs.push(slope);
                    }
                    break;
                }
            }
        }
        let newest = *pairs.first()?;
        if !(newest.is_finite() && newest > 0.0) {
            return None;
        }
        let secant = nearest.s - nearest.h / newest;
        let third = partner.and_then(|partner| Some((partner, usable.iter().find(|p| self.is_third(&nearest, Some(partner), p))?)));
        let (mut s, curvature) = match (third, partner) {
            (Some((partner, third)), _) => {
                (inverse_quadratic(&nearest, &partner, third), Some(second_derivative(&nearest, &partner, third)))
            }
            // Two points: the bend that the pilots had.
            (None, Some(partner)) => {
                let slope = newest - 0.5 * self.settings.curvature * (partner.s - nearest.s);
                (nearest.s + step_to_zero(nearest.h, slope, self.settings.curvature).unwrap_or(-nearest.h / newest), None)
            }
            (None, None) => (secant, None),
        };
        if let (Some(low), Some(high)) = (self.low, self.high) {
            s = s.clamp(low.s, high.s);
        }
        // How far off the root may be. With two points only: a quarter of the last step, since that the first guess of the slope agrees
        // with the pair may be an accident. With three, four times the correction by their bend, and never less than if the slope were
        // uncertain by a tenth of the distance (in `h`) over which it was taken. A slope that changes by half or more is a kink or a
        // jump, where interpolation says nothing: twice the change, over the whole last step.
        let last_step = nearest.h.abs() / newest;
        let error = match (third, pairs.get(1)) {
            (Some((partner, _)), Some(&before)) if before > 0.0 => {
                let change = (1.0 - newest / before).abs();
                if change < 0.5 { (4.0 * (s - secant).abs()).max(0.1 * partner.h.abs() * last_step) } else { 2.0 * change * last_step }
            }
            // Two points: what is known of the slope is that pair and the pilots'.
            (None, None) if (newest / self.settings.slope - 1.0).abs() < 0.2 => 0.25 * last_step,
            _ => last_step,
        };
        Some(RootEstimate { s, error, slope: newest, curvature, nearest })
    }

    fn is_third(&self, nearest: &Probe, partner: Option<Probe>, p: &Probe) -> bool {
        partner.is_some_and(|partner| {
            nearest.slope_to(p).is_some_and(|m| m > 0.0)
                && partner.slope_to(p).is_some_and(|m| m > 0.0)
                && nearest.slope_to(&partner).is_some_and(|m| m > 0.0)
        })
    }

    /// The next `ln t` to evaluate.
    fn propose(&mut self) -> f64 {
        if self.probes.is_empty() {
            return self.settings.start.ln();
        }
        let guess = self.estimate().map(|e| e.s).or_else(|| {
            let nearest = *self.usable().first()?;
            let step = step_to_zero(nearest.h, self.settings.slope, self.settings.curvature);
            Some(nearest.s + step.unwrap_or(-nearest.h / self.settings.slope))
        });
        match (self.low, self.high) {
            (Some(low), Some(high)) => {
                let middle = 0.5 * (low.s + high.s);
                if self.since_halved >= 2 {
                    self.since_halved = 0;
                    return middle;
                }
                // Strictly inside, and not on top of a point already known.
                let margin = 4.0 * f64::EPSILON * low.s.abs().max(1.0);
                match guess {
                    Some(s) if s > low.s + margin && s < high.s - margin => s,
                    _ => middle,
                }
            }
            (Some(low), None) => low.s + self.outward_step(guess.map(|s| s - low.s), &low),
            (None, Some(high)) => high.s - self.outward_step(guess.map(|s| high.s - s), &high),
            (None, None) => unreachable!("every evaluation is under or above the cutoff"),
        }
    }

    /// Length of a step beyond the points known, given the step that the interpolation asks for. Steps grow while they lead nowhere
    /// (a cost that saturates), and their first length is limited (an extrapolation from far away).
    fn outward_step(&mut self, wanted: Option<f64>, from: &Probe) -> f64 {
        let distance = from.h.abs();
        self.stalled = if distance > 0.25 * self.outward_h { self.stalled + 1 } else { 0 };
        self.outward_h = distance;
        let floor = if self.stalled > 0 { 0.35 * 2f64.powi(self.stalled) } else { 0.0 };
        let step = match wanted {
            Some(step) if distance.is_finite() && step.is_finite() => step.clamp(distance / SLOPE_RANGE.1, distance / SLOPE_RANGE.0),
            _ => self.step_limit,
        };
        let step = step.max(floor);
        if step >= self.step_limit {
            self.step_limit *= 2.0;
            return (0.5 * self.step_limit).max(floor);
        }
        // A step that vanishes (a point exactly on the cutoff, one-sided) still has to move.
        step.max(1e-14)
    }

    fn count_not_finite(&self) -> u32 {
        self.probes.iter().filter(|p| !p.evaluation.cost.nats.is_finite()).count() as u32
    }

    fn crossing(&self, estimate: &RootEstimate, outcome: Outcome) -> Crossing {
        Crossing {
            radius: estimate.s.exp(),
            error_nats: self.in_nats(estimate.s, estimate.error + NOISE_SIGMAS * estimate.nearest.noise / estimate.slope),
            nearest: estimate.nearest.evaluation,
            slope: estimate.slope,
            curvature: estimate.curvature,
            evaluations: self.probes.len() as u32,
            not_finite: self.count_not_finite(),
            outcome: match outcome {
                Outcome::Converged if estimate.nearest.noise >= UNRESOLVED => Outcome::Unresolved,
                Outcome::Converged if self.returned_below => Outcome::NonMonotone,
                other => other,
            },
        }
    }

    /// The answer when the bracket itself is the best that is known (a jump, a kink, or the end of the budget).
    fn closed_bracket(&self, outcome: Outcome) -> Crossing {
        let (low, high) = (self.low, self.high);
        let (s, half_width) = match (low, high) {
            (Some(low), Some(high)) => (0.5 * (low.s + high.s), 0.5 * (high.s - low.s)),
            (Some(only), None) | (None, Some(only)) => (only.s, f64::INFINITY),
            (None, None) => (self.settings.start.ln(), f64::INFINITY),
        };
        let nearest = match (low, high) {
            (Some(low), Some(high)) if high.h.is_finite() && high.h <= -low.h => high,
            (Some(low), _) => low,
            (None, Some(high)) => high,
            (None, None) => unreachable!("a bracket is asked for only after an evaluation"),
        };
        let outcome = match (outcome, high) {
            (Outcome::Converged, Some(high)) if !high.h.is_finite() => Outcome::NotFinite,
            _ => outcome,
        };
        let (slope, curvature) = self.estimate().map_or((self.settings.slope, None), |e| (e.slope, e.curvature));
        // Either end may lie on the wrong side by its noise.
        let noise = low.map_or(0.0, |p| p.noise).max(high.map_or(0.0, |p| p.noise));
        let nearest = Probe { noise, ..nearest };
        let estimate = RootEstimate { s, error: half_width, slope, curvature, nearest };
        self.crossing(&estimate, outcome)
    }

    fn with_counts(&self, crossing: Crossing) -> Crossing {
        Crossing { evaluations: self.probes.len() as u32, not_finite: self.count_not_finite(), ..crossing }
    }

    fn unbounded(&self) -> Crossing {
        let nearest = self.low.expect("an unbounded ray has a point under the cutoff");
        Crossing {
            radius: f64::INFINITY,
            error_nats: 0.0,
            nearest: nearest.evaluation,
            slope: 0.0,
            curvature: None,
            evaluations: self.probes.len() as u32,
            not_finite: self.count_not_finite(),
            outcome: Outcome::Unbounded,
        }
    }
}

impl Probe {
    /// Slope of `h` to another point, if both are finite and the difference stands well out of the noise.
    fn slope_to(&self, other: &Self) -> Option<f64> {
        let (dh, ds) = (other.h - self.h, other.s - self.s);
        let clear = dh.is_finite() && ds != 0.0 && dh.abs() > 30.0 * (self.noise + other.noise);
        clear.then(|| dh / ds)
    }

    /// Whether the point may as well lie on the other side of the cutoff.
    fn within_noise(&self) -> bool {
        self.h.abs() <= 5.0 * self.noise
    }
}

/// `ln C - ln cutoff` (+inf where the cost is NaN or infinite, -inf where it is zero or, from rounding, below) with its resolution.
fn log_ratio(cost: Cost, cutoff: f64) -> (f64, f64) {
    if !cost.nats.is_finite() {
        (f64::INFINITY, 0.0)
    } else if cost.nats <= 0.0 {
        (f64::NEG_INFINITY, cost.resolution / cutoff)
    } else {
        (cost.nats.ln() - cutoff.ln(), cost.resolution / cost.nats)
    }
}

/// The step `d` with `h + slope d + curvature d^2 / 2 = 0` that is nearest to zero; none if the parabola has no root.
fn step_to_zero(h: f64, slope: f64, curvature: f64) -> Option<f64> {
    let discriminant = slope * slope - 2.0 * curvature * h;
    (discriminant > 0.25 * slope * slope).then(|| -2.0 * h / (slope + slope.signum() * discriminant.sqrt()))
}

/// Second derivative of the parabola `h(s)` through three points.
fn second_derivative(a: &Probe, b: &Probe, c: &Probe) -> f64 {
    let ab = (b.h - a.h) / (b.s - a.s);
    let bc = (c.h - b.h) / (c.s - b.s);
    2.0 * (bc - ab) / (c.s - a.s)
}

/// `s` at `h = 0` of the parabola `s(h)` through three points.
fn inverse_quadratic(a: &Probe, b: &Probe, c: &Probe) -> f64 {
    // Newton form around the nearest point, so that the corrections are small numbers.
    let ab = (b.s - a.s) / (b.h - a.h);
    let bc = (c.s - b.s) / (c.h - b.h);
    let abc = (bc - ab) / (c.h - a.h);
    a.s - a.h * ab + a.h * b.h * abc
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use proptest::prelude::*;

    fn settings(dimension: f64, tolerance_nats: f64) -> SearchSettings {
        SearchSettings {
            cutoff: 1e-2,
            dimension,
            tolerance_nats,
            start: 1.0,
            slope: 2.0,
            curvature: 0.0,
            max_radius: 1e9,
            max_evaluations: 80,
        }
    }

    fn exact(f: impl Fn(f64) -> f64) -> impl FnMut(f64) -> Result<Cost, Infallible> {
        move |t| Ok(Cost::exact(f(t)))
    }

    fn find(settings: SearchSettings, f: impl Fn(f64) -> f64) -> Crossing {
        RadiusSearch::new(settings).run(exact(f)).unwrap()
    }

    fn assert_root(crossing: &Crossing, truth: f64, dimension: f64) {
        let error = dimension * (crossing.radius / truth).ln().abs();
        assert!(error <= crossing.error_nats + 1e-9 * dimension.max(1.0) * 1e-6, "off by {error} nats, bound {crossing:?}");
    }

    #[test]
    fn a_quadratic_takes_three_evaluations() {
        let mut s = settings(1e6, 1.0);
        s.start = 0.06;
        let crossing = find(s, |t| 0.5 * 7.3 * t * t);
        assert_eq!(crossing.outcome, Outcome::Converged);
        assert!(crossing.evaluations <= 3, "{crossing:?}");
        assert!(crossing.error_nats <= 1.0);
        assert_root(&crossing, (2e-2f64 / 7.3).sqrt(), 1e6);
    }

    #[test]
    fn a_network_like_cost_takes_four_evaluations_for_one_nat_in_a_million_dimensions() {
        // Quadratic at the center with cubic and quartic terms, started 12 % off, as between rays of a network.
        for (third, fourth) in [(0.0, 0.3), (0.4, 0.1), (-0.3, 0.2), (0.1, 1.0)] {
            let cost = |t: f64| 1e-2 * t * t * (1.0 + third * t + fourth * t * t) / (1.0 + third + fourth);
            for start in [0.88, 1.12] {
                let mut s = settings(1_089_034.0, 1.0);
                s.start = start;
                let crossing = find(s, cost);
                assert!(crossing.evaluations <= 4, "{third} {fourth} {start} {crossing:?}");
                assert!(crossing.error_nats <= 1.0);
                assert_root(&crossing, 1.0, s.dimension);
            }
        }
    }

    #[test]
    fn a_start_that_is_far_off_is_no_trouble() {
        for start in [1e-12, 1e-6, 1e3, 1e8] {
            let mut s = settings(1e4, 1e-3);
            s.start = start;
            let crossing = find(s, |t| 5.0 * (1.0 - (-t * t).exp()));
            assert_eq!(crossing.outcome, Outcome::Converged, "{start}");
            assert!(crossing.evaluations <= 16, "{start}: {}", crossing.evaluations);
            assert_root(&crossing, (-(1.0f64 - 1e-2 / 5.0).ln()).sqrt(), 1e4);
        }
    }

    #[test]
    fn kinks_and_jumps_are_bracketed() {
        // A kink at the root: slope 2 before, slope 6 after.
        let crossing = find(settings(1e5, 0.1), |t| if t < 0.5 { 0.04 * t * t } else { 0.64 * t.powi(6) });
        assert_eq!(crossing.outcome, Outcome::Converged);
        assert_root(&crossing, 0.5, 1e5);
        // A step across the cutoff.
        let crossing = find(settings(1e5, 0.1), |t| if t < 0.37 { 1e-3 * t } else { 0.5 });
        assert_eq!(crossing.outcome, Outcome::Converged);
        assert!(crossing.error_nats <= 0.1);
        assert_root(&crossing, 0.37, 1e5);
    }

    #[test]
    fn a_saturating_cost_is_unbounded() {
        let crossing = find(settings(100.0, 1e-3), |t| 9e-3 * t * t / (1.0 + t * t));
        assert_eq!(crossing.outcome, Outcome::Unbounded);
        assert!(crossing.radius.is_infinite() && crossing.error_nats == 0.0);
        assert!(crossing.evaluations <= 12, "{}", crossing.evaluations);
        let zero = find(settings(100.0, 1e-3), |_| 0.0);
        assert_eq!(zero.outcome, Outcome::Unbounded);
    }

    #[test]
    fn nan_counts_as_above() {
        // NaN far out only: an ordinary root.
        let crossing = find(settings(1e3, 1e-3), |t| if t > 0.5 { f64::NAN } else { t * t });
        assert_eq!(crossing.outcome, Outcome::Converged);
        assert!(crossing.not_finite >= 1);
        assert_root(&crossing, 0.1, 1e3);
        // NaN before the cutoff is reached: the ray ends where the cost ceases to be a number.
        let crossing = find(settings(1e3, 1e-3), |t| if t > 0.05 { f64::NAN } else { t * t });
        assert_eq!(crossing.outcome, Outcome::NotFinite);
        assert_root(&crossing, 0.05, 1e3);
        // Always NaN.
        let crossing = find(settings(1e3, 1e-3), |_| f64::NAN);
        assert_eq!(crossing.outcome, Outcome::BudgetExhausted);
        assert!(crossing.error_nats.is_infinite());
        assert_eq!(crossing.not_finite, crossing.evaluations);
    }

    #[test]
    fn a_scan_finds_the_first_crossing_of_a_wavy_cost() {
        // Over the cutoff in (0.3, 0.4) and beyond 1; the search started at 0.9 sees only the last crossing.
        let cost = |t: f64| if (0.3..0.4).contains(&t) { 0.02 } else { 1e-2 * t * t };
        let mut s = settings(1e3, 1e-3);
        s.start = 0.9;
        let blind = find(s, cost);
        assert_root(&blind, 1.0, 1e3);
        let scanned = RadiusSearch::new(s).run_with_scan(64, exact(cost)).unwrap();
        assert_eq!(scanned.outcome, Outcome::NonMonotone);
        assert_root(&scanned, 0.3, 1e3);
        // Back under the cutoff after the crossing.
        let dip = |t: f64| if (1.5..1.7).contains(&t) { 1e-3 } else { 1e-2 * t * t };
        let scanned = RadiusSearch::new(s).run_with_scan(64, exact(dip)).unwrap();
        assert_eq!(scanned.outcome, Outcome::NonMonotone);
        assert_root(&scanned, 1.0, 1e3);
        let plain = RadiusSearch::new(s).run_with_scan(64, exact(|t| 1e-2 * t * t)).unwrap();
        assert_eq!(plain.outcome, Outcome::Converged);
    }

    #[test]
    fn noise_stops_the_search_at_the_resolution() {
        // Multiplicative noise of 1e-5, deterministic in t; one nat would need 1e-8.
        let noise = 1e-5;
        for seed in 0..50u64 {
            let mut cost = |t: f64| -> Result<Cost, Infallible> {
                let mut x = t.to_bits() ^ (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                x = (x ^ (x >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                x = (x ^ (x >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb);
                let uniform = (x >> 11) as f64 / (1u64 << 53) as f64 - 0.5;
                let clean = 0.02 * t * t * (1.0 + 0.2 * t * t);
                Ok(Cost { nats: clean * (1.0 + 12f64.sqrt() * noise * uniform), resolution: noise * clean })
            };
            let dimension = 1e8;
            let crossing = RadiusSearch::new(settings(dimension, 1.0)).run(&mut cost).unwrap();
            assert_eq!(crossing.outcome, Outcome::Converged);
            assert!(crossing.evaluations <= 8, "{crossing:?}");
            // Truth: 0.2 x^2 + x - 0.5 = 0 for x = t^2.
            let truth = ((-1.0 + 1.4f64.sqrt()) / 0.4).sqrt();
            let error = dimension * (crossing.radius / truth).ln().abs();
            assert!(error <= 4.0 * crossing.error_nats, "{error} {crossing:?}");
        }
    }

    #[test]
    fn a_scan_that_sees_only_points_under_the_cutoff_keeps_the_crossing() {
        // Over the cutoff only in (1, 1.2): the search converges there from below, the single scan point at 2 lies under the cutoff.
        let cost = |t: f64| if t < 1.2 { 1e-2 * t * t } else { 1e-3 };
        let mut s = settings(10.0, 1e-2);
        s.start = 0.9;
        s.slope = 2.0 + 1e-9;
        let crossing = RadiusSearch::new(s).run_with_scan(1, exact(cost)).unwrap();
        assert_eq!(crossing.outcome, Outcome::NonMonotone, "{crossing:?}");
        assert_root(&crossing, 1.0, 10.0);
    }

    #[test]
    fn a_cutoff_below_the_noise_is_unresolved() {
        let noisy = |t: f64| -> Result<Cost, Infallible> {
            let noise = if ((t * 1e9) as u64).is_multiple_of(2) { 3e-13 } else { -3e-13 };
            Ok(Cost { nats: 1e-12 * t * t + noise, resolution: 3e-13 })
        };
        let mut s = settings(1e6, 1.0);
        s.cutoff = 1e-14;
        let crossing = RadiusSearch::new(s).run(noisy).unwrap();
        assert_eq!(crossing.outcome, Outcome::Unresolved, "{crossing:?}");
        assert!(crossing.error_nats > 1e5, "{crossing:?}");
        assert!(crossing.evaluations < 30, "{crossing:?}");
    }

    #[test]
    fn errors_are_measured_by_what_they_change() {
        // Ten times the dimension: the bound is ten times as large, and the search goes on until it is small enough.
        let steep = |_: f64, ds: f64| 1e7 * ds;
        let mut s = settings(1e6, 1.0);
        s.start = 0.8;
        let cost = |t: f64| 1e-2 * t * t * (1.0 + 0.3 * t * t) / 1.3;
        let crossing = RadiusSearch::new(s).with_error_in_nats(&steep).run(exact(cost)).unwrap();
        assert!(crossing.error_nats <= 1.0);
        assert_root(&crossing, 1.0, 1e7);
    }

    #[test]
    fn errors_of_the_cost_are_passed_on() {
        let result = RadiusSearch::new(settings(10.0, 1e-3)).run(|_| Err::<Cost, _>("device lost"));
        assert_eq!(result.unwrap_err(), "device lost");
    }

    proptest! {
        #[test]
        fn the_bound_holds_for_smooth_costs(
            curvature in -4.0f64..4.0, third in -0.5f64..0.5, fourth in 0.1f64..2.0, start in -3.0f64..3.0, d in 0.5f64..7.0,
        ) {
            let scale = (10f64.powf(curvature)).sqrt();
            let cost = |t: f64| { let x = t * scale; x * x * (1.0 + third * x + fourth * x * x) };
            let dimension = 10f64.powf(d);
            let mut s = settings(dimension, 1.0f64.min(1e-5 * dimension));
            s.start = 10f64.powf(start) / scale;
            s.max_radius = 1e12;
            let crossing = find(s, cost);
            prop_assert_eq!(crossing.outcome, Outcome::Converged);
            // Truth by bisection.
            let (mut low, mut high) = (0.0f64, 1.0f64);
            for _ in 0..200 {
                let middle = 0.5 * (low + high);
                if cost(middle / scale) < s.cutoff { low = middle } else { high = middle }
            }
            let error = dimension * (crossing.radius * scale / low).ln().abs();
            prop_assert!(error <= crossing.error_nats.max(1e-13 * dimension), "error {} {:?}", error, crossing);
            prop_assert!(crossing.evaluations <= 12, "{:?}", crossing);
        }
    }
}
