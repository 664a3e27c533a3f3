//! The radial estimator: the star-shaped neighbourhood of the center, one ray at a time.
//!
//! Along direction `v = P u` (u uniform on the unit sphere, `log det P = 0`) the cost first crosses the cutoff at `t = r`. The prior
//! mass of the neighbourhood is `E_u[exp f(u)]` with `f` the log of the prior mass of one ray, an exact integral
//! ([`crate::radial_integral`]). Source: Scherlis & Belrose 2025 (arXiv 2501.18812), sections 3 and 4.
//!
//! # Proposals
//! The directions may be those of any Gaussian `x = w - c ~ N(mu, Sigma)`, `Sigma = s^2 P P'`, which is importance sampling over
//! directions: with `x = s P n`, `n ~ N(q, I)` and `mu = s P q`, the unit vector `u = n/||n||` has the density `g(u)` relative to the uniform
//! one, and the weight of a ray is corrected by it,
//!
//! ```text
//! ln weight = f(u) - ln g(u),    g(u) = A(D) (2 pi)^(-D/2) e^(-||q||^2/2) INT_0^inf t^(D-1) exp(-t^2/2 + (u.q) t) dt
//! ```
//!
//! `g` is what `f` is for a ray of infinite length from a center at `-q` under `N(0, I)`, so one routine computes both. For `q = 0` it is one:
//! only the shape of `P` matters. The estimate is unbiased for every `q`; its spread is another matter.
//!
//! For a quadratic cost with Hessian `H` and the prior `N(0, sigma^2 I)` the prior tilted by `exp(-beta C)` is the Gaussian with
//! `Sigma = (beta H + I/sigma^2)^-1` and `mu = -Sigma c/sigma^2`, that is `q = -(s/sigma^2) P'c`; with beta at the saddle point
//! ([`crate::saddle_point`]) the weights of its rays are equal up to a fraction of a nat. The centered Gaussian of the same covariance looks
//! along directions of which hardly any leads towards the origin, where the prior's mass is.
//!
//! # The spherical prior
//! Under the spherical prior the rays are great circles. The tangent direction is `v` without its part along `n = c/||c||`; with a
//! preconditioner it is not uniform but angular central Gaussian, and the weight of a ray is corrected by the ratio of the densities,
//!
//! ```text
//! ln weight = 1/2 ln g + (D-1)/2 [ ln(1 - (u.q)^2 / g) - ln(||v||^2 - (v.n)^2) ],     q = P^-1 n,  g = ||q||^2
//! ```
//!
//! (the density of `y/||y||` for `y` normal with covariance `L` in `m = D-1` dimensions is `|L|^-1/2 (y'L^-1 y)^(-m/2)` relative to the
//! uniform one; Tyler 1987, eq. 1. Here `L` is `PP'` restricted to the tangent space: `|L| = det(PP') g`).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::direction::{BLOCK, Direction, DirectionFamily, PILOT_INDICES, dot};
use crate::objective::{Cost, CostByPart, Objective, ObjectiveError, RayPoint};
use crate::preconditioner::Preconditioner;
use crate::prior::Prior;
use crate::question::Question;
use crate::radial_integral::{RayGeometry, gaussian_log_volume, lebesgue_log_volume, sphere_log_volume};
use crate::radius_search::{Crossing, PartCrossing, RadiusSearch, SearchSettings, TogetherSearch};
use crate::run::driver::IndexedEstimator;
use crate::run::manifest::Pilot;
use crate::spec::{Proposal, RadialSpec};

mod by_part;
mod result;
mod sample;

pub use by_part::{PARTS, PartNote, PartResult};
pub use result::RadialResult;
pub use sample::{Sample, VolumesByPart};

/// Why the estimator could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RadialError {
    /// A setting is out of range.
    #[error("`{name}` is {value}: expected {expected}")]
    Setting {
        /// Name of the setting.
        name: &'static str,
        /// The given value.
        value: f64,
        /// What is allowed.
        expected: &'static str,
    },
    /// The preconditioner was made for another number of parameters.
    #[error("the preconditioner has {found} entries but the model has {expected} parameters: it belongs to another model")]
    Dimension {
        /// Entries of the preconditioner.
        found: usize,
        /// Parameters of the model.
        expected: usize,
    },
    /// A shifted proposal under a prior that is not Gaussian.
    #[error(
        "a shifted proposal is for the Gaussian prior, whose mass lies towards the origin: choose `proposal=centered`, or `prior=gaussian`"
    )]
    ShiftedPrior,
    /// A shifted proposal from a map that has only a shape.
    #[error(
        "a shifted proposal needs a covariance in absolute units, and this preconditioner has only a shape: use one from a damped curvature"
    )]
    ShiftedShape,
    /// The shift leaves the range of `f32`.
    #[error("coordinate {index} of the shifted proposal's mean is {value} standard deviations: it must be finite")]
    ShiftNotFinite {
        /// Which.
        index: usize,
        /// Its value.
        value: f64,
    },
    /// The sphere through a center at the origin is a point.
    #[error("the spherical prior needs a center different from zero")]
    CenterAtOrigin,
    /// The objective failed.
    #[error(transparent)]
    Objective(#[from] ObjectiveError),
}

impl RadialError {
    /// Whether it is no failure: an interrupt is raised.
    #[must_use]
    pub fn is_interrupt(&self) -> bool {
        matches!(self, Self::Objective(error) if error.is_interrupt())
    }
}

/// What becomes of the coordinates of a direction while its ray is searched. The answer is the same, bit for bit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Directions {
    /// Kept: 4 bytes per parameter and ray.
    #[default]
    Kept,
    /// Produced again at every evaluation.
    Regenerated,
}

/// What the search of the parts on one ray came to.
struct FoundParts {
    volumes: VolumesByPart,
    /// Evaluations beside those that were known.
    evaluations: u32,
}

/// Error of `ln t` accepted on pilot rays.
const PILOT_TOLERANCE: f64 = 2e-3;

/// The estimator: a pure function from index to [`Sample`].
pub struct RadialEstimator<'a> {
    objective: &'a dyn Objective,
    question: Question,
    settings: RadialSpec,
    family: DirectionFamily,
    center_norm_squared: f64,
    /// `q = P^-1 c / ||c||` and its squared norm: only for a preconditioned spherical prior.
    dual: Option<(Vec<f32>, f64)>,
    /// `||q||^2` of a shifted proposal; the vector is the family's shift.
    shift_norm_squared: Option<f64>,
    pilot: Pilot,
    directions: Directions,
}

/// `||c||^2` in `f64`, in fixed blocks.
#[must_use]
pub fn center_norm_squared(objective: &dyn Objective) -> f64 {
    let dimension = objective.dimension();
    let mut buffer = vec![0.0f32; dimension.min(BLOCK)];
    let blocks = (0..dimension).step_by(BLOCK);
    blocks
        .map(|start| {
            let block = start..(start + BLOCK).min(dimension);
            let values = &mut buffer[..block.len()];
            objective.center(block, values);
            dot(values, values)
        })
        .sum()
}

/// `q = P^-1 mu / s` of the shifted proposal: of the Gaussian's own mean if it has one, else of `mu = -Sigma c / sigma^2`, which is
/// `-(s/sigma^2) P'c`. For the identity, whose scale is that of the prior, the proposal is the prior itself.
pub(crate) fn proposal_shift(
    objective: &dyn Objective,
    prior: Prior,
    preconditioner: &dyn Preconditioner,
) -> Result<Vec<f32>, RadialError> {
    let Prior::Gaussian { sigma } = prior else { return Err(RadialError::ShiftedPrior) };
    let scale = if preconditioner.is_identity() { Some(sigma) } else { preconditioner.root_scale() };
    let scale = scale.ok_or(RadialError::ShiftedShape)?;
    let dimension = objective.dimension();
    let mut q;
    let factor = if let Some(mean) = preconditioner.mean() {
        q = mean.to_vec();
        preconditioner.apply_inverse(&mut q);
        1.0 / scale
    } else {
        q = vec![0.0f32; dimension];
        objective.center(0..dimension, &mut q);
        preconditioner.apply_transpose(&mut q);
        -scale / (sigma * sigma)
    };
    for (index, x) in q.iter_mut().enumerate() {
        let value = f64::from(*x) * factor;
        *x = value as f32;
        if !x.is_finite() {
            return Err(RadialError::ShiftNotFinite { index, value });
        }
    }
    Ok(q)
}

impl<'a> RadialEstimator<'a> {
    /// Checks the settings and calibrates the search on the pilot rays (unless `pilot` is known from an earlier session). The directions are those
    /// of the map `P`, the preconditioner.
    ///
    /// # Errors
    /// If a setting is out of range, the preconditioner does not fit, or the objective fails.
    pub fn new(
        objective: &'a dyn Objective,
        question: Question,
        preconditioner: Arc<dyn Preconditioner>,
        settings: RadialSpec,
        pilot: Option<Pilot>,
        directions: Directions,
    ) -> Result<Self, RadialError> {
        let setting = |name, value, expected| Err(RadialError::Setting { name, value, expected });
        if let Some(tolerance) = settings.radius_tolerance
            && !(tolerance > 0.0 && tolerance.is_finite())
        {
            return setting("radius_tolerance", tolerance, "a finite number of nats > 0");
        }
        if settings.max_evaluations == 0 {
            return setting("max_evaluations", 0.0, "a number from 1");
        }
        let dimension = objective.dimension();
        if let Some(found) = preconditioner.dimension()
            && found != dimension
        {
            return Err(RadialError::Dimension { found, expected: dimension });
        }
        let center_norm_squared = center_norm_squared(objective);
        let mut dual = None;
        if matches!(question.prior(), Prior::Sphere) {
            if center_norm_squared == 0.0 || dimension < 2 {
                return Err(RadialError::CenterAtOrigin);
            }
            if !preconditioner.is_identity() {
                let mut q = vec![0.0f32; dimension];
                objective.center(0..dimension, &mut q);
                preconditioner.apply_inverse(&mut q);
                let scale = 1.0 / center_norm_squared.sqrt();
                q.iter_mut().for_each(|x| *x = (f64::from(*x) * scale) as f32);
                let g = q.chunks(BLOCK).map(|block| dot(block, block)).sum();
                dual = Some((q, g));
            }
        }
        let mut family = DirectionFamily::new(question.seed(), dimension, Arc::clone(&preconditioner));
        let mut shift_norm_squared = None;
        if settings.proposal == Proposal::Shifted {
            let shift = proposal_shift(objective, question.prior(), &*preconditioner)?;
            shift_norm_squared = Some(shift.chunks(BLOCK).map(|block| dot(block, block)).sum());
            family = family.shifted(shift.into());
        }
        let start = Pilot { radius: f64::NAN, slope: 2.0, curvature: 0.0, evaluations: 0 };
        let mut estimator =
            Self { objective, question, settings, family, center_norm_squared, dual, shift_norm_squared, pilot: start, directions };
        estimator.pilot = match pilot {
            Some(pilot) => pilot,
            None => estimator.calibrate()?,
        };
        Ok(estimator)
    }

    /// `||q||^2` of [`Sample::dual_dot`], which the weights of a preconditioned spherical prior and of a shifted proposal need.
    #[must_use]
    pub fn dual_norm_squared(&self) -> Option<f64> {
        self.dual.as_ref().map(|(_, g)| *g).or(self.shift_norm_squared)
    }

    /// What the pilot rays found.
    #[must_use]
    pub fn pilot(&self) -> Pilot {
        self.pilot
    }

    /// `||c||^2`.
    #[must_use]
    pub fn center_norm_squared(&self) -> f64 {
        self.center_norm_squared
    }

    /// Direction number `index`.
    #[must_use]
    pub fn direction(&self, index: u64) -> Direction {
        let dual = self.dual.as_ref().map(|(q, _)| q.as_slice());
        self.family.direction(index, self.objective, dual, self.directions == Directions::Kept)
    }

    /// One sample.
    ///
    /// # Errors
    /// If the objective fails.
    pub fn sample(&self, index: u64) -> Result<Sample, ObjectiveError> {
        let direction = self.direction(index);
        let mut evaluations = Vec::new();
        let mut by_part = Vec::new();
        let scan_points = self.settings.profile_points;
        let tolerance = self.settings.tolerance_nats(self.objective.dimension());
        let crossing = self.search(&direction, self.pilot, tolerance, scan_points, |t| {
            let cost = match self.settings.volumes_by_part {
                false => self.cost(&direction, t)?,
                true => match self.cost_by_part(&direction, t)? {
                    Some(CostByPart { whole, parts }) => {
                        by_part.push((t, parts));
                        whole
                    }
                    None => self.cost(&direction, t)?,
                },
            };
            if scan_points > 0 {
                evaluations.push((t, cost.nats.is_finite().then_some(cost.nats)));
            }
            Ok(cost)
        })?;
        evaluations.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut costs_by_part = None;
        if self.settings.costs_by_part {
            let found = self.objective.cost_by_part(&direction, self.point(&direction, crossing.nearest.t))?;
            let nats = |cost: Option<Cost>| cost.map(|cost| cost.nats).filter(|nats| nats.is_finite());
            costs_by_part = found.map(|found| found.parts.into_iter().map(nats).collect());
        }
        let parts = if by_part.is_empty() { None } else { Some(self.search_parts(&direction, tolerance, &by_part)?) };
        let (volumes_by_part, further) = parts.map_or((None, 0), |found| (Some(found.volumes), found.evaluations));
        Ok(Sample {
            index,
            radius: crossing.radius,
            radius_error_nats: crossing.error_nats,
            norm: direction.norm(),
            center_dot: direction.center_dot(),
            dual_dot: self.dual_norm_squared().map(|_| direction.dual_dot()),
            cost: crossing.nearest.cost.nats,
            evaluated_radius: crossing.nearest.t,
            log_volume: self.log_volume(&direction, crossing.radius),
            slope: crossing.slope,
            evaluations: crossing.evaluations + further,
            not_finite: crossing.not_finite,
            outcome: crossing.outcome,
            costs_by_part,
            volumes_by_part,
            profile: (scan_points > 0).then_some(evaluations),
        })
    }

    /// The point at distance `t` along a ray (an angle under the spherical prior).
    #[must_use]
    pub fn point(&self, direction: &Direction, t: f64) -> RayPoint {
        if matches!(self.question.prior(), Prior::Sphere) {
            // w = cos(t) c + sin(t) ||c|| y / ||y||,  y = v - (v.c / c.c) c
            let step = t.sin() * self.center_norm_squared.sqrt() / self.tangent_norm_squared(direction).sqrt();
            let along = direction.center_dot() / self.center_norm_squared;
            RayPoint { center: t.cos() - step * along, direction: step }
        } else {
            RayPoint::straight(t)
        }
    }

    /// The cost at distance `t`, the penalty `l2_reg / 2 ||w - c||^2` included.
    ///
    /// # Errors
    /// If the objective fails.
    pub fn cost(&self, direction: &Direction, t: f64) -> Result<Cost, ObjectiveError> {
        let mut cost = self.objective.cost(direction, self.point(direction, t))?;
        cost.nats += self.penalty(direction, t);
        Ok(cost)
    }

    /// The same with the costs of the parts, each with the penalty; `None` where there are no parts.
    fn cost_by_part(&self, direction: &Direction, t: f64) -> Result<Option<CostByPart>, ObjectiveError> {
        let mut found = self.objective.cost_by_part(direction, self.point(direction, t))?;
        if let Some(found) = &mut found {
            let penalty = self.penalty(direction, t);
            found.whole.nats += penalty;
            found.parts.iter_mut().flatten().for_each(|cost| cost.nats += penalty);
        }
        Ok(found)
    }

    /// `l2_reg / 2 ||w - c||^2` at distance `t`, nats.
    fn penalty(&self, direction: &Direction, t: f64) -> f64 {
        if self.question.l2_reg() <= 0.0 {
            return 0.0;
        }
        let distance_squared = if matches!(self.question.prior(), Prior::Sphere) {
            4.0 * self.center_norm_squared * (0.5 * t).sin().powi(2)
        } else {
            (t * direction.norm()).powi(2)
        };
        0.5 * self.question.l2_reg() * distance_squared
    }

    /// The logarithm of the weight of a ray with this radius, in nats: `f(u)`, less `ln g(u)` for a shifted proposal.
    #[must_use]
    pub fn log_volume(&self, direction: &Direction, radius: f64) -> f64 {
        self.prior_log_volume(direction, radius) - self.log_proposal_density(direction)
    }

    /// `ln g(u)` in nats, the density of the direction under a shifted proposal relative to the uniform one; 0 for a centered one.
    #[must_use]
    fn log_proposal_density(&self, direction: &Direction) -> f64 {
        self.shift_norm_squared.map_or(0.0, |norm_squared| {
            let geometry = RayGeometry {
                dimension: self.objective.dimension() as f64,
                norm: 1.0,
                center_dot: -direction.dual_dot(),
                center_norm_squared: norm_squared,
            };
            gaussian_log_volume(&geometry, 1.0, f64::INFINITY)
        })
    }

    /// `f(u)`, in nats.
    fn prior_log_volume(&self, direction: &Direction, radius: f64) -> f64 {
        let geometry = RayGeometry {
            dimension: self.objective.dimension() as f64,
            norm: direction.norm(),
            center_dot: direction.center_dot(),
            center_norm_squared: self.center_norm_squared,
        };
        match self.question.prior() {
            Prior::Gaussian { sigma } => gaussian_log_volume(&geometry, sigma, radius),
            Prior::Lebesgue => lebesgue_log_volume(&geometry, radius),
            Prior::Sphere => {
                let cap = sphere_log_volume(radius.min(std::f64::consts::PI), geometry.dimension);
                let weight = self.dual.as_ref().map_or(0.0, |(_, g)| {
                    let b = direction.dual_dot();
                    let tangent = self.tangent_norm_squared(direction).ln();
                    0.5 * g.ln() + 0.5 * (geometry.dimension - 1.0) * ((-b * b / g).ln_1p() - tangent)
                });
                cap + weight
            }
        }
    }

    fn tangent_norm_squared(&self, direction: &Direction) -> f64 {
        let along = direction.center_dot();
        direction.norm().powi(2) - along * along / self.center_norm_squared
    }

    /// The largest `t` that matters: beyond it the rest of the ray carries less than e^-60 of its prior mass.
    fn max_radius(&self, direction: &Direction) -> f64 {
        let dimension = self.objective.dimension() as f64;
        match self.question.prior() {
            Prior::Gaussian { sigma } => {
                // In units of sigma / ||v||, where nothing overflows: the log-integrand (D-1) ln x - x^2/2 + b x has its maximum at x, and
                // falls by at least y^2/2 at a distance y beyond it.
                let unit = sigma / direction.norm();
                let b = -direction.center_dot() / direction.norm() / sigma;
                let root = b.hypot(2.0 * (dimension - 1.0).sqrt());
                let peak = if b >= 0.0 { 0.5 * (b + root) } else { 2.0 * (dimension - 1.0) / (root - b) };
                (peak + 12.0) * unit
            }
            Prior::Lebesgue => 1e20 * self.center_norm_squared.sqrt().max(1.0) / direction.norm(),
            Prior::Sphere => std::f64::consts::PI,
        }
    }

    fn search(
        &self,
        direction: &Direction,
        pilot: Pilot,
        tolerance_nats: f64,
        scan_points: u32,
        cost: impl FnMut(f64) -> Result<Cost, ObjectiveError>,
    ) -> Result<Crossing, ObjectiveError> {
        let nats = |s: f64, ds: f64| self.change_of_volume(direction, s, ds);
        let search = RadiusSearch::new(self.search_settings(direction, pilot, tolerance_nats)).with_error_in_nats(&nats);
        search.run_with_scan(scan_points, cost)
    }

    /// What an error `ds` of `s = ln t` does to the log-volume, nats.
    fn change_of_volume(&self, direction: &Direction, s: f64, ds: f64) -> f64 {
        let volume = |s: f64| self.prior_log_volume(direction, s.exp());
        let middle = volume(s);
        (volume(s + ds) - middle).max(middle - volume(s - ds))
    }

    fn search_settings(&self, direction: &Direction, pilot: Pilot, tolerance_nats: f64) -> SearchSettings {
        let max_radius = self.max_radius(direction);
        SearchSettings {
            cutoff: self.question.cutoff(),
            dimension: self.objective.dimension() as f64,
            tolerance_nats,
            start: pilot.radius.min(max_radius),
            slope: pilot.slope,
            curvature: pilot.curvature,
            max_radius,
            max_evaluations: self.settings.max_evaluations,
        }
    }

    /// The radii of the parts on one ray, from evaluations made already (each with its distance) and as many more as it takes.
    fn search_parts(
        &self,
        direction: &Direction,
        tolerance_nats: f64,
        known: &[(f64, Vec<Option<Cost>>)],
    ) -> Result<FoundParts, ObjectiveError> {
        let nats = |s: f64, ds: f64| if ds == 0.0 { 0.0 } else { self.change_of_volume(direction, s, ds) };
        let parts = known.first().map_or(0, |(_, parts)| parts.len());
        let mut search = TogetherSearch::new(self.search_settings(direction, self.pilot, tolerance_nats), parts, &nats);
        known.iter().for_each(|(t, costs)| search.record(*t, costs));
        let mut evaluations = 0;
        let found = search.run(|t| {
            evaluations += 1;
            Ok::<_, ObjectiveError>(self.cost_by_part(direction, t)?.map(|found| found.parts).unwrap_or_default())
        })?;
        let number = |value: fn(&PartCrossing) -> f64| found.iter().map(|part| part.as_ref().map_or(f64::INFINITY, value)).collect();
        let volumes = VolumesByPart {
            radius: number(|part| part.radius),
            radius_error_nats: number(|part| part.error_nats),
            log_volume: found.iter().map(|part| part.map_or(f64::INFINITY, |part| self.log_volume(direction, part.radius))).collect(),
            outcome: found.iter().map(|part| part.map(|part| part.outcome)).collect(),
        };
        Ok(FoundParts { volumes, evaluations })
    }

    /// A few rays that are never samples, the first searched from a guess, each of the others from where the one before ended.
    /// All searches start from their median: radii differ by ten per cent and more from ray to ray, and a single one may be an outlier.
    fn calibrate(&self) -> Result<Pilot, ObjectiveError> {
        let tolerance_nats = PILOT_TOLERANCE * self.objective.dimension() as f64;
        let mut guess = Pilot { radius: f64::NAN, slope: 2.0, curvature: 0.0, evaluations: 0 };
        let (mut radii, mut slopes, mut curvatures, mut evaluations) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for index in PILOT_INDICES {
            let direction = self.direction(index);
            if guess.radius.is_nan() {
                guess.radius = match self.question.prior() {
                    Prior::Sphere => 0.1,
                    _ if self.center_norm_squared > 0.0 => 0.1 * self.center_norm_squared.sqrt() / direction.norm(),
                    _ => 1.0,
                };
            }
            let crossing = self.search(&direction, guess, tolerance_nats, 0, |t| self.cost(&direction, t))?;
            evaluations += crossing.evaluations;
            guess.radius = crossing.radius.min(self.max_radius(&direction));
            if crossing.slope.is_finite() && crossing.slope > 0.1 {
                guess.slope = crossing.slope;
            }
            radii.push(guess.radius);
            slopes.push(guess.slope);
            curvatures.extend(crossing.curvature.filter(|c| c.is_finite()));
        }
        let median = |values: &mut Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(0.0)
        };
        Ok(Pilot { radius: median(&mut radii), slope: median(&mut slopes), curvature: median(&mut curvatures), evaluations })
    }
}

impl IndexedEstimator for RadialEstimator<'_> {
    type Record = Sample;
    type Error = ObjectiveError;

    fn compute(&self, index: u64) -> Result<Sample, ObjectiveError> {
        self.sample(index)
    }

    fn is_interrupt(error: &ObjectiveError) -> bool {
        error.is_interrupt()
    }
}
