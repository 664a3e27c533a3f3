//! The coordinates that a chain moves in.
//!
//! Where the cost is far stiffer in some directions than in others the steps are as short as the stiffest one asks for. A metric `R`, a root of
//! `(beta H + a I)^-1` with `H` a curvature of the cost where the chains are, makes all directions alike: it is made anew for every stay at
//! a rung, from the states in which the chains begin it, and stays the same until its end, so that the stay samples the right density.

use rayon::prelude::*;

use super::rung::Rung;
use super::vector::{CHUNK, squared};
use crate::coordinates::Coordinates;
use crate::objective::ObjectiveError;
use crate::preconditioner::{Damping, Preconditioner};

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
    /// `R = a^(-1/2)` but along some axes, where it is shorter by a factor.
    Axes(Vec<(usize, f64)>),
}

pub(super) struct RootMap {
    map: Box<dyn Preconditioner>,
    root: f64,
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

    /// From the states in which the chains begin the stay.
    pub fn at(metrics: &dyn Metrics, states: &[&[f32]], rung: Rung, sigma: f64) -> Result<Self, ObjectiveError> {
        let damping = Damping { beta: rung.beta, sigma: 1.0 / rung.curvature(sigma).sqrt() };
        let map = metrics.metric(states, damping)?;
        let root = map.root_scale().ok_or_else(|| ObjectiveError::new("a metric needs the scale of its covariance"))?;
        Ok(Self::Map(RootMap { map, root, gradients: metrics.gradients() }))
    }

    /// Gradients that it took for each state.
    pub fn gradients(&self) -> u64 {
        match self {
            Self::Map(map) => map.gradients,
            Self::Axes(_) => 0,
        }
    }
}

/// Where a force acts.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// What drives the chain there.
    pub gradient: &'a [f32],
    pub weights: &'a [f32],
    /// Where the spring is attached.
    pub center: &'a [f32],
}

/// How coordinates of a chain become weights at a rung: `w = m c + R z`.
pub(super) struct Frame<'a> {
    beta: f64,
    curvature: f64,
    shrinkage: f64,
    metric: Option<&'a ChainMetric>,
}

impl<'a> Frame<'a> {
    /// `R` is the metric, or `a^(-1/2)` without one.
    pub fn new(rung: Rung, sigma: f64, metric: Option<&'a ChainMetric>) -> Self {
        Self { beta: rung.beta, curvature: rung.curvature(sigma), shrinkage: rung.shrinkage(sigma), metric }
    }

    fn map(&self) -> Option<&RootMap> {
        match self.metric {
            Some(ChainMetric::Map(map)) => Some(map),
            _ => None,
        }
    }

    fn axes(&self) -> &[(usize, f64)] {
        match self.metric {
            Some(ChainMetric::Axes(axes)) => axes,
            _ => &[],
        }
    }

    /// The coordinates `z` of `weights`.
    pub fn enter(&self, weights: &[f32], center: &[f32], position: &mut [f32]) {
        let scale = if self.map().is_some() { 1.0 } else { self.curvature.sqrt() };
        self.for_each(position, weights, center, |z, x| *z = (scale * x) as f32);
        for &(axis, factor) in self.axes() {
            position[axis] = (f64::from(position[axis]) / factor) as f32;
        }
        if let Some(metric) = self.map() {
            metric.map.apply_inverse(position);
            let root = 1.0 / metric.root;
            position.par_chunks_mut(CHUNK).for_each(|z| z.iter_mut().for_each(|z| *z = (root * f64::from(*z)) as f32));
        }
    }

    /// `a/2 |w - m c|^2`.
    pub fn gaussian_energy(&self, position: &[f32], weights: &[f32], center: &[f32]) -> f64 {
        if self.map().is_none() {
            let shorter: f64 = self.axes().iter().map(|&(axis, factor)| (factor * factor - 1.0) * f64::from(position[axis]).powi(2)).sum();
            return 0.5 * (squared(position) + shorter);
        }
        let pairs = weights.par_chunks(CHUNK).zip(center.par_chunks(CHUNK));
        let sums: Vec<f64> = pairs
            .map(|(w, c)| w.iter().zip(c).map(|(&w, &c)| (f64::from(w) - self.shrinkage * f64::from(c)).powi(2)).sum::<f64>())
            .collect();
        0.5 * self.curvature * sums.iter().sum::<f64>()
    }

    /// Position and velocity turn by `step`; the weights follow. In `f64`: cosine and sine rounded to `f32` would let the norm drift.
    pub fn rotate(&self, position: &mut [f32], velocity: &mut [f32], weights: &mut [f32], center: &[f32], step: f64) {
        let (sine, cosine) = step.sin_cos();
        let m = self.shrinkage;
        let turn = |z: &mut f32, v: &mut f32| {
            let (old, speed) = (f64::from(*z), f64::from(*v));
            let new = cosine * old + sine * speed;
            *v = (cosine * speed - sine * old) as f32;
            *z = new as f32;
            new
        };
        let pairs = position.par_chunks_mut(CHUNK).zip(velocity.par_chunks_mut(CHUNK));
        let Some(metric) = self.map() else {
            let scale = 1.0 / self.curvature.sqrt();
            let follow = |w: &mut f32, c: f32, z: &mut f32, v: &mut f32| *w = (m * f64::from(c) + scale * turn(z, v)) as f32;
            pairs.zip(weights.par_chunks_mut(CHUNK)).zip(center.par_chunks(CHUNK)).for_each(|(((z, v), w), c)| {
                // Arrays of a fixed length: the compiler does several coordinates at once.
                const LANES: usize = 16;
                let ((z, z_rest), (v, v_rest)) = (z.as_chunks_mut::<LANES>(), v.as_chunks_mut::<LANES>());
                let ((w, w_rest), (c, c_rest)) = (w.as_chunks_mut::<LANES>(), c.as_chunks::<LANES>());
                for (((z, v), w), c) in z.iter_mut().zip(v).zip(w).zip(c) {
                    for lane in 0..LANES {
                        follow(&mut w[lane], c[lane], &mut z[lane], &mut v[lane]);
                    }
                }
                for (((z, v), w), &c) in z_rest.iter_mut().zip(v_rest).zip(w_rest).zip(c_rest) {
                    follow(w, c, z, v);
                }
            });
            for &(axis, factor) in self.axes() {
                weights[axis] = (m * f64::from(center[axis]) + factor * scale * f64::from(position[axis])) as f32;
            }
            return;
        };
        pairs.for_each(|(z, v)| {
            for (z, v) in z.iter_mut().zip(v) {
                turn(z, v);
            }
        });
        metric.map.apply(0..weights.len(), position, weights);
        let root = metric.map.scale() * metric.root;
        weights.par_chunks_mut(CHUNK).zip(center.par_chunks(CHUNK)).for_each(|(w, c)| {
            w.iter_mut().zip(c).for_each(|(w, &c)| *w = (m * f64::from(c) + root * f64::from(*w)) as f32);
        });
    }

    /// The velocity after the force of the cost, and of what the metric leaves of the Gaussian part, has acted for `time`.
    pub fn kick(&self, velocity: &mut [f32], position: &[f32], at: Place<'_>, time: f64, scratch: &mut Vec<f32>) {
        let Place { gradient, weights, center } = at;
        let Some(metric) = self.map() else {
            let factor = (time * self.beta / self.curvature.sqrt()) as f32;
            velocity.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK)).for_each(|(v, g)| {
                v.iter_mut().zip(g).for_each(|(v, g)| *v -= factor * g);
            });
            // Along a shorter axis: the force by its factor, and what that leaves of the -z that the rotation takes in.
            let whole = time * self.beta / self.curvature.sqrt();
            for &(axis, factor) in self.axes() {
                let left = whole * (1.0 - factor) * f64::from(gradient[axis]) + time * (1.0 - factor * factor) * f64::from(position[axis]);
                velocity[axis] = (f64::from(velocity[axis]) + left) as f32;
            }
            return;
        };
        scratch.resize(weights.len(), 0.0);
        let (a, beta) = (self.curvature, self.beta);
        self.for_each(scratch, weights, center, |force, x| *force = (a * x) as f32);
        scratch.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK)).for_each(|(force, g)| {
            force.iter_mut().zip(g).for_each(|(force, &g)| *force = (f64::from(*force) + beta * f64::from(g)) as f32);
        });
        metric.map.apply_transpose(scratch);
        let root = metric.root;
        velocity.par_chunks_mut(CHUNK).zip(scratch.par_chunks(CHUNK)).zip(position.par_chunks(CHUNK)).for_each(|((v, force), z)| {
            for ((v, &force), &z) in v.iter_mut().zip(force).zip(z) {
                *v = (f64::from(*v) - time * (root * f64::from(force) - f64::from(z))) as f32;
            }
        });
    }

    /// Calls `f` with every coordinate of `out` and of `w - m c`.
    fn for_each(&self, out: &mut [f32], weights: &[f32], center: &[f32], f: impl Fn(&mut f32, f64) + Sync) {
        let m = self.shrinkage;
        let chunks = out.par_chunks_mut(CHUNK).zip(weights.par_chunks(CHUNK)).zip(center.par_chunks(CHUNK));
        chunks.for_each(|((out, w), c)| {
            for ((out, &w), &c) in out.iter_mut().zip(w).zip(c) {
                f(out, f64::from(w) - m * f64::from(c));
            }
        });
    }
}
