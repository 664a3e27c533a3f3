//! The coordinates that a chain moves in.
//!
//! Where the cost is far stiffer in some directions than in others the steps are as short as the stiffest one asks for. A metric `R`, a root of
//! `(beta H + a I)^-1` with `H` a curvature of the cost where the chains are, makes all directions alike: it is made anew for every stay at
//! a rung, from the states in which the chains begin it, and stays the same until its end, so that the stay samples the right density.

use super::measured_cost::MeasuredCost;
use super::rung::Rung;
use crate::coordinates::Coordinates;
use crate::objective::ObjectiveError;
use crate::preconditioner::{Damping, Preconditioner};
use crate::vectors::{Shift, Turn, Vector, Vectors, View};

/// Knows the curvature of the cost away from the center.
pub trait Metrics: Sync {
    /// A root of `(damping.beta H + 1/damping.sigma^2)^-1`, `H` the mean over `states` (of length `D` each) of the cost's curvature there. A function of
    /// its arguments, for any number of threads.
    ///
    /// # Errors
    /// When it can't be computed.
    fn metric(&self, states: &[&[f32]], damping: Damping) -> Result<Box<dyn Preconditioner>, ObjectiveError>;

    /// Gradients of the whole cost that a metric takes for each state, or work of the same price.
    fn gradients(&self) -> u64;
}

/// The metric of a stay.
pub(super) enum ChainMetric {
    /// `R = root P`.
    Map(RootMap),
    /// `R` is diagonal, and lives where the cost is computed.
    Diagonal(DiagonalRoot),
    /// `R = a^(-1/2)` but along some axes, where it is shorter by a factor.
    Axes(Vec<(usize, f64)>),
}

pub(super) struct RootMap {
    map: Box<dyn Preconditioner>,
    root: f64,
    /// What it took for each state.
    gradients: u64,
}

pub(super) struct DiagonalRoot {
    factors: Vector,
    inverses: Vector,
    /// What it took for each state.
    gradients: u64,
}

impl ChainMetric {
    /// The factors `(a / (a + beta h))^(1/2)` of axes along which the cost has the curvature `h`, at the states in which the chains begin the stay.
    pub fn of_axes(coordinates: &dyn Coordinates, states: &[&[f32]], rung: Rung, sigma: f64) -> Result<Self, ObjectiveError> {
        let a = rung.curvature(sigma);
        let factor = |h: f64| if h.is_finite() { (a / (a + rung.beta * h.max(0.0))).sqrt() } else { 1.0 };
        Ok(Self::Axes(coordinates.stiff_axes(states)?.into_iter().map(|(axis, h)| (axis, factor(h))).collect()))
    }

    /// From the states in which the chains begin the stay, for chains whose vectors are such.
    pub fn at(metrics: &dyn Metrics, states: &[&[f32]], rung: Rung, sigma: f64, vectors: &dyn Vectors) -> Result<Self, ObjectiveError> {
        let damping = Damping { beta: rung.beta, sigma: 1.0 / rung.curvature(sigma).sqrt() };
        let map = metrics.metric(states, damping)?;
        let root = map.root_scale().ok_or_else(|| ObjectiveError::new("a metric needs the scale of its covariance"))?;
        let gradients = metrics.gradients();
        if vectors.are_slices() {
            return Ok(Self::Map(RootMap { map, root, gradients }));
        }
        let factors = map.diagonal().ok_or_else(|| {
            ObjectiveError::new("a metric of chains whose states live on a device must be diagonal: choose metric diagonal or none")
        })?;
        let whole = root * map.scale();
        let scaled = |f: &dyn Fn(f64) -> f64| vectors.vector_of(factors.iter().map(|&x| f(whole * f64::from(x)) as f32).collect());
        Ok(Self::Diagonal(DiagonalRoot { factors: scaled(&|x| x)?, inverses: scaled(&f64::recip)?, gradients }))
    }

    /// Gradients that it took for each state.
    pub fn gradients(&self) -> u64 {
        match self {
            Self::Map(map) => map.gradients,
            Self::Diagonal(diagonal) => diagonal.gradients,
            Self::Axes(_) => 0,
        }
    }
}

/// What chains are guided by during a stay, from the states in which they begin it.
#[derive(Default)]
pub(super) struct Guide {
    pub metric: Option<ChainMetric>,
    /// Of the star's points, how near the largest cost theirs is where the stay begins.
    pub nearness: Vec<f64>,
}

/// A point of the star's segment drives the chains of a stay if its cost is above this part of the largest where one of them begins it; half as much
/// after every block in which too many trajectories were rejected, as they are where a point that does not drive them becomes the largest on the way.
const NEAR: f64 = 0.8;
/// After so many all points drive them.
const ALL_AFTER: u32 = 4;

impl Guide {
    /// The points of the star that drive the chains, from 1, after so many blocks of the stay that did not count. The last one is always there.
    pub fn points(&self, failed: u32) -> Vec<u32> {
        let near = if failed < ALL_AFTER { NEAR * 0.5f64.powi(failed as i32) } else { 0.0 };
        let last = self.nearness.len() as u32;
        (1..=last).zip(&self.nearness).filter(|&(point, nearness)| point == last || *nearness >= near).map(|(point, _)| point).collect()
    }
}

/// Where a force acts.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// What drives the chain there.
    pub gradient: View<'a>,
    pub weights: View<'a>,
}

/// How coordinates of a chain become weights at a rung: `w = m c + R z`, `c` where the spring is attached.
pub(super) struct Frame<'a> {
    vectors: &'a dyn Vectors,
    dimension: usize,
    beta: f64,
    curvature: f64,
    shift: Shift<'a>,
    metric: Option<&'a ChainMetric>,
    /// The points of the star that drive the chains.
    pub points: &'a [u32],
}

impl<'a> Frame<'a> {
    /// `R` is the metric, or `a^(-1/2)` without one.
    pub fn new(measured: &'a MeasuredCost<'_>, rung: Rung, metric: Option<&'a ChainMetric>, points: &'a [u32]) -> Self {
        let shift = Shift { center: measured.anchor.here, shrinkage: rung.shrinkage(measured.sigma) };
        Self {
            vectors: measured.vectors(),
            dimension: measured.anchor.values.len(),
            beta: rung.beta,
            curvature: rung.curvature(measured.sigma),
            shift,
            metric,
            points,
        }
    }

    /// Whether the metric is made of axes, or there is none: `z` is then `a^(1/2) (w - m c)` but along those.
    fn axes(&self) -> Option<&[(usize, f64)]> {
        match self.metric {
            None => Some(&[]),
            Some(ChainMetric::Axes(axes)) => Some(axes),
            Some(ChainMetric::Map(_) | ChainMetric::Diagonal(_)) => None,
        }
    }

    /// The coordinates `z` of `weights`.
    pub fn enter(&self, weights: View<'_>, position: &mut Vector) -> Result<(), ObjectiveError> {
        let scale = if self.axes().is_some() { self.curvature.sqrt() } else { 1.0 };
        self.vectors.offset(position, weights, self.shift, scale)?;
        match self.metric {
            None => {}
            Some(ChainMetric::Axes(axes)) => {
                let position = if axes.is_empty() { &mut [] } else { position.slice_mut() };
                for &(axis, factor) in axes {
                    position[axis] = (f64::from(position[axis]) / factor) as f32;
                }
            }
            Some(ChainMetric::Map(metric)) => {
                metric.map.apply_inverse(position.slice_mut());
                self.vectors.place(position, Shift { shrinkage: 0.0, ..self.shift }, 1.0 / metric.root)?;
            }
            Some(ChainMetric::Diagonal(metric)) => self.vectors.multiply(position, metric.inverses.view())?,
        }
        Ok(())
    }

    /// `a/2 |w - m c|^2`.
    pub fn gaussian_energy(&self, position: View<'_>, weights: View<'_>) -> Result<f64, ObjectiveError> {
        let Some(axes) = self.axes() else {
            return Ok(0.5 * self.curvature * self.vectors.distance_squared(weights, self.shift)?);
        };
        let squared = self.vectors.inner(position, position)?;
        let shorter: f64 = axes.iter().map(|&(axis, factor)| (factor * factor - 1.0) * f64::from(position.slice()[axis]).powi(2)).sum();
        Ok(0.5 * (squared + shorter))
    }

    /// Position and velocity turn by `step`; the weights follow.
    pub fn rotate(&self, position: &mut Vector, velocity: &mut Vector, weights: &mut Vector, step: f64) -> Result<(), ObjectiveError> {
        let (sine, cosine) = step.sin_cos();
        let turn = Turn { sine, cosine };
        let Shift { center, shrinkage: m } = self.shift;
        match self.metric {
            None | Some(ChainMetric::Axes(_)) => {
                let scale = 1.0 / self.curvature.sqrt();
                self.vectors.turn_and_place(position, velocity, turn, weights, self.shift, scale)?;
                for &(axis, factor) in self.axes().unwrap_or_default() {
                    let (center, position) = (f64::from(center.slice()[axis]), f64::from(position.view().slice()[axis]));
                    weights.slice_mut()[axis] = (m * center + factor * scale * position) as f32;
                }
            }
            Some(ChainMetric::Map(metric)) => {
                self.vectors.turn(position, velocity, turn)?;
                let weights_slice = weights.slice_mut();
                metric.map.apply(0..weights_slice.len(), position.view().slice(), weights_slice);
                self.vectors.place(weights, self.shift, metric.map.scale() * metric.root)?;
            }
            Some(ChainMetric::Diagonal(metric)) => {
                self.vectors.turn(position, velocity, turn)?;
                self.vectors.offset(weights, position.view(), Shift { shrinkage: 0.0, ..self.shift }, 1.0)?;
                self.vectors.multiply(weights, metric.factors.view())?;
                self.vectors.place(weights, self.shift, 1.0)?;
            }
        }
        Ok(())
    }

    /// The velocity after the force of the cost, and of what the metric leaves of the Gaussian part, has acted for `time`. `force` is room that
    /// is kept from call to call.
    pub fn kick(
        &self,
        velocity: &mut Vector,
        position: View<'_>,
        at: Place<'_>,
        time: f64,
        force: &mut Option<Vector>,
    ) -> Result<(), ObjectiveError> {
        let Place { gradient, weights } = at;
        let vectors = self.vectors;
        if let Some(axes) = self.axes() {
            let whole = time * self.beta / self.curvature.sqrt();
            vectors.kick(velocity, whole, gradient)?;
            // Along a shorter axis: the force by its factor, and what that leaves of the -z that the rotation takes in.
            for &(axis, factor) in axes {
                let (gradient, position) = (f64::from(gradient.slice()[axis]), f64::from(position.slice()[axis]));
                let left = whole * (1.0 - factor) * gradient + time * (1.0 - factor * factor) * position;
                let velocity = &mut velocity.slice_mut()[axis];
                *velocity = (f64::from(*velocity) + left) as f32;
            }
            return Ok(());
        }
        let force = match force {
            Some(force) => force,
            None => force.insert(vectors.zeros(self.dimension)?),
        };
        vectors.offset(force, weights, self.shift, self.curvature)?;
        vectors.add(force, self.beta, gradient)?;
        let root = match self.metric {
            Some(ChainMetric::Map(metric)) => {
                metric.map.apply_transpose(force.slice_mut());
                metric.root
            }
            Some(ChainMetric::Diagonal(metric)) => {
                vectors.multiply(force, metric.factors.view())?;
                1.0
            }
            None | Some(ChainMetric::Axes(_)) => 1.0,
        };
        vectors.kick_against(velocity, time, root, force.view(), position)
    }
}
