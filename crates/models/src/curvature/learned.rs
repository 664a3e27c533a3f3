//! A diagonal map learned for the mean log-volume of the rays.

use std::sync::Arc;

use basin_volume::estimator::radial::{Directions, RadialError, RadialEstimator, Sample};
use basin_volume::objective::Differentiable;
use basin_volume::preconditioner::{Diagonal, Preconditioner};
use basin_volume::prior::Prior;
use basin_volume::question::Question;
use basin_volume::radial_integral::RayGeometry;
use basin_volume::run::manifest::Pilot;
use basin_volume::spec::RadialSpec;
use rayon::prelude::*;

use super::scores::observe;
use super::{Curvature, CurvatureError, Observer};
use crate::parameters::ParameterLayout;

/// Coordinates that one task works on.
const CHUNK: usize = 1 << 14;

/// The largest step of a logarithm before the rate: single rays know nothing of their own outliers.
const LARGEST_STEP: f64 = 3.0;

/// Steps after which the rate has fallen to a half.
const HALF_RATE: f64 = 10.0;

/// Number of the first direction that the gain is measured on; those of the steps count from 0.
const HELD_OUT: u64 = 1 << 40;

/// How a map is learned.
#[derive(Debug, Clone, PartialEq)]
pub struct LearnSettings {
    /// What the rays are asked; not under the spherical prior.
    pub question: Question,
    /// Steps: a radius search and a gradient each.
    pub steps: usize,
    /// Size of the first steps, in logarithms of factors; it falls as `1 / (1 + step / 10)`.
    pub rate: f64,
    /// Weights of one tensor, neighbours in the order of their first factors, that share a correction: 1 learns every factor by itself.
    pub group: usize,
    /// Rays that the gain is measured on, with both maps.
    pub held_out: usize,
}

impl LearnSettings {
    /// 200 steps from the rate 1/2, a correction per 64 weights, the gain on 16 rays.
    #[must_use]
    pub fn new(question: Question) -> Self {
        Self { question, steps: 200, rate: 0.5, group: 64, held_out: 16 }
    }
}

/// What learning brought.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LearnReport {
    /// Mean log-volume of the held-out rays with the first map, in nats.
    pub before: f64,
    /// With the learned map, on rays from the same normal vectors.
    pub after: f64,
    /// Their mean difference, with its standard error.
    pub gain: (f64, f64),
    /// Held-out rays that both maps have a finite log-volume for.
    pub compared: usize,
    /// Whether the first map is returned, because the learned one is no better.
    pub kept_first: bool,
    /// Cost evaluations of all searches.
    pub evaluations: u64,
    /// Gradients.
    pub gradients: usize,
    /// Steps left out because their ray has no finite log-volume or no usable gradient.
    pub unusable: usize,
}

/// Factors of a diagonal `P` that maximise the mean over directions of the log-volume `f(u)`, starting from `first` (length `D`, for instance
/// the factors of a Fisher map).
///
/// With `v = P u`, `theta_i = ln p_i` and the radius defined by `C(c + r v) = cutoff`, differentiating that equation gives
///
/// `d ln r / d theta_i = - v_i g_i / (g . v)`,      `g = grad C(c + r v)`
///
/// and, as the log-volume sees the ray as `ln r`, `|v|` and `v.c` only ([`RayGeometry`]),
///
/// `df / d theta_i = df/d(ln r) d(ln r)/d theta_i + df/d(ln |v|) v_i^2/|v|^2 + df/d(v.c) v_i c_i`
///
/// with the three outer derivatives from differences of the exact radial integral. Its mean over `i` is subtracted (the determinant stays 1);
/// each step goes along the mean over the weights of a group. The map is the mean (of logarithms) over the second half of the steps. The gain is measured
/// on rays that no step has seen; where there is none, the first map is returned and the report says so.
///
/// The mean log-volume is what is maximised, since the log-mean-exp that an estimate reports is carried by single rays.
///
/// Costs a radius search (about five cost evaluations) and a gradient per step, and twice `held_out` searches. Arithmetic: `f64` from `f32`
/// coordinates and gradients. Memory: ten vectors of length `D` beside what a gradient takes. A function of the seed, for any number of threads.
///
/// # Errors
/// When a setting is out of range, the prior is the sphere, a first factor is not positive, the observer interrupts, or the objective fails.
pub fn learn_diagonal(
    objective: &dyn Differentiable,
    layout: &ParameterLayout,
    first: &[f32],
    settings: &LearnSettings,
    observer: &mut dyn Observer,
) -> Result<(Curvature, LearnReport), CurvatureError> {
    let dimension = objective.dimension();
    check(settings, layout, first, dimension)?;
    let groups = Groups::new(layout, first, settings.group);
    let total = settings.steps + 2 * settings.held_out;
    let mut report = LearnReport {
        before: f64::NAN,
        after: f64::NAN,
        gain: (f64::NAN, f64::NAN),
        compared: 0,
        kept_first: false,
        evaluations: 0,
        gradients: 0,
        unusable: 0,
    };
    let mut state =
        State { objective, settings, center: vec![0.0; dimension], weights: vec![0.0; dimension], gradient: vec![0.0; dimension] };
    objective.center(0..dimension, &mut state.center);
    observe(observer, 0, total)?;
    let mut logs = vec![0.0f64; groups.count];
    let mut means = vec![0.0f64; groups.count];
    let mut averaged = 0.0;
    let mut pilot = None;
    for step in 0..settings.steps {
        let factors = groups.factors(first, &logs);
        let estimator = state.estimator(&factors, pilot, 1e-3 * dimension as f64)?;
        if pilot.is_none() {
            report.evaluations += u64::from(estimator.pilot().evaluations);
        }
        pilot = Some(Pilot { evaluations: 0, ..estimator.pilot() });
        let sample = estimator.sample(step as u64)?;
        report.evaluations += u64::from(sample.evaluations);
        match state.slopes(&estimator, &sample, &groups)? {
            Some(slopes) => {
                report.gradients += 1;
                if sample.radius.is_finite() {
                    pilot = Some(Pilot { radius: sample.radius, slope: sample.slope, ..estimator.pilot() });
                }
                let rate = settings.rate / (1.0 + step as f64 / HALF_RATE);
                for (log, slope) in logs.iter_mut().zip(slopes) {
                    *log += rate * slope.clamp(-LARGEST_STEP, LARGEST_STEP);
                }
            }
            None => report.unusable += 1,
        }
        if 2 * step >= settings.steps {
            averaged += 1.0;
            means.iter_mut().zip(&logs).for_each(|(mean, log)| *mean += (log - *mean) / averaged);
        }
        observe(observer, step + 1, total)?;
    }
    let learned = groups.factors(first, &means);
    let mut volumes: [Vec<f64>; 2] = Default::default();
    for (which, factors) in [first, &learned].into_iter().enumerate() {
        let estimator = state.estimator(factors, None, RadialSpec::default().tolerance_nats(dimension))?;
        report.evaluations += u64::from(estimator.pilot().evaluations);
        for ray in 0..settings.held_out {
            let sample = estimator.sample(HELD_OUT + ray as u64)?;
            report.evaluations += u64::from(sample.evaluations);
            volumes[which].push(sample.log_volume);
            observe(observer, settings.steps + which * settings.held_out + ray + 1, total)?;
        }
    }
    let pairs: Vec<(f64, f64)> =
        volumes[0].iter().copied().zip(volumes[1].iter().copied()).filter(|(a, b)| a.is_finite() && b.is_finite()).collect();
    let count = pairs.len() as f64;
    let mean = |value: &dyn Fn(&(f64, f64)) -> f64| pairs.iter().map(value).sum::<f64>() / count;
    let gain = mean(&|(a, b)| b - a);
    let error = (pairs.iter().map(|(a, b)| (b - a - gain).powi(2)).sum::<f64>() / (count * (count - 1.0))).sqrt();
    report.before = mean(&|(a, _)| *a);
    report.after = mean(&|(_, b)| *b);
    report.gain = (gain, error);
    report.compared = pairs.len();
    // Also where nothing could be compared.
    report.kept_first = gain.is_nan() || gain <= 0.0;
    let values = if report.kept_first { first.to_vec() } else { learned };
    Ok((Curvature::Factors { values }, report))
}

fn check(settings: &LearnSettings, layout: &ParameterLayout, first: &[f32], dimension: usize) -> Result<(), CurvatureError> {
    let setting = |name, value: f64, expected| Err(CurvatureError::Setting { name, value, expected });
    if matches!(settings.question.prior(), Prior::Sphere) {
        return Err(CurvatureError::Unsupported {
            kind: "learned",
            model: "the spherical prior".to_owned(),
            instead: "the gaussian or lebesgue prior to learn under, or another kind",
        });
    }
    if settings.steps == 0 {
        return setting("steps", 0.0, "a number from 1");
    }
    if settings.group == 0 {
        return setting("group", 0.0, "a number from 1");
    }
    if settings.held_out < 2 {
        return setting("held_out", settings.held_out as f64, "a number from 2");
    }
    if !(settings.rate > 0.0 && settings.rate.is_finite()) {
        return setting("rate", settings.rate, "a finite number > 0");
    }
    if first.len() != dimension || layout.dimension() != dimension {
        return Err(CurvatureError::Length { what: "the first map".to_owned(), found: first.len(), expected: dimension });
    }
    match first.iter().position(|&factor| !(factor > 0.0 && factor.is_finite())) {
        None => Ok(()),
        Some(index) => {
            let value = f64::from(first[index]);
            Err(CurvatureError::Entry { what: "the first map".to_owned(), index, value, expected: "a finite number > 0" })
        }
    }
}

/// Weights that share a correction.
struct Groups {
    count: usize,
    /// Group of every weight.
    of: Vec<u32>,
    /// Sizes of the groups.
    sizes: Vec<f64>,
}

impl Groups {
    fn new(layout: &ParameterLayout, first: &[f32], size: usize) -> Self {
        let mut groups = Self { count: 0, of: vec![0; first.len()], sizes: Vec::new() };
        for parameter in layout.parameters() {
            let mut order: Vec<usize> = parameter.range().collect();
            // By factor, and by place among equals.
            order.sort_by(|&a, &b| first[a].total_cmp(&first[b]));
            for members in order.chunks(size) {
                members.iter().for_each(|&member| groups.of[member] = groups.count as u32);
                groups.sizes.push(members.len() as f64);
                groups.count += 1;
            }
        }
        groups
    }

    /// The first factors with the corrections of their groups, all logarithms shifted so that the corrections have the mean zero.
    fn factors(&self, first: &[f32], logs: &[f64]) -> Vec<f32> {
        let mean = logs.iter().zip(&self.sizes).map(|(log, size)| log * size).sum::<f64>() / first.len() as f64;
        let corrections: Vec<f64> = logs.iter().map(|log| (log - mean).exp()).collect();
        let mut factors = vec![0.0f32; first.len()];
        let chunks = factors.par_chunks_mut(CHUNK).zip(first.par_chunks(CHUNK)).zip(self.of.par_chunks(CHUNK));
        chunks.for_each(|((factors, first), of)| {
            for ((factor, &first), &group) in factors.iter_mut().zip(first).zip(of) {
                *factor = ((f64::from(first) * corrections[group as usize]) as f32).clamp(f32::MIN_POSITIVE, f32::MAX);
            }
        });
        factors
    }

    /// Means over the groups of one number per weight.
    fn means(&self, value: impl Fn(usize) -> f64) -> Vec<f64> {
        let mut means = vec![0.0; self.count];
        for (index, &group) in self.of.iter().enumerate() {
            means[group as usize] += value(index);
        }
        means.iter_mut().zip(&self.sizes).for_each(|(mean, size)| *mean /= size);
        means
    }
}

/// What the steps have in common.
struct State<'a> {
    objective: &'a dyn Differentiable,
    settings: &'a LearnSettings,
    center: Vec<f32>,
    weights: Vec<f32>,
    gradient: Vec<f32>,
}

impl<'a> State<'a> {
    fn estimator(&self, factors: &[f32], pilot: Option<Pilot>, tolerance: f64) -> Result<RadialEstimator<'a>, CurvatureError> {
        let map = Diagonal::from_factors(factors)
            .map_err(|error| CurvatureError::Labels { problem: format!("the map cannot be used: {error}") })?;
        let preconditioner: Arc<dyn Preconditioner> = Arc::new(map);
        let spec = RadialSpec { radius_tolerance: Some(tolerance), ..RadialSpec::default() };
        RadialEstimator::new(self.objective, self.settings.question, preconditioner, spec, pilot, Directions::Kept).map_err(|error| {
            match error {
                RadialError::Objective(error) => error.into(),
                RadialError::Setting { name, value, expected } => CurvatureError::Setting { name, value, expected },
                other => CurvatureError::Unsupported { kind: "learned", model: other.to_string(), instead: "another kind" },
            }
        })
    }

    /// `df/d theta_i` averaged over groups, less its mean over all weights, in units of `D`'s share: `1` for a weight that the radius does
    /// not depend on. `None` when the ray has no finite log-volume, or a radius but no gradient along it.
    fn slopes(&mut self, estimator: &RadialEstimator<'_>, sample: &Sample, groups: &Groups) -> Result<Option<Vec<f64>>, CurvatureError> {
        if !(sample.radius > 0.0 && sample.log_volume.is_finite()) {
            return Ok(None);
        }
        let direction = estimator.direction(sample.index);
        let Some(values) = direction.stored() else { return Ok(None) };
        let (scale, radius) = (direction.scale(), sample.radius);
        // A ray that stays under the cutoff has the whole mass of its line, whatever the cost.
        let bounded = radius.is_finite();
        if bounded {
            let moved = self.weights.par_chunks_mut(CHUNK).zip(self.center.par_chunks(CHUNK)).zip(values.par_chunks(CHUNK));
            moved.for_each(|((weights, center), values)| {
                for ((weight, &center), &value) in weights.iter_mut().zip(center).zip(values) {
                    *weight = (radius * scale).mul_add(f64::from(value), f64::from(center)) as f32;
                }
            });
            self.objective.gradient(&self.weights, 0..self.objective.parts(), &mut self.gradient)?;
        }
        let l2_reg = self.settings.question.l2_reg();
        let (gradient, center) = (&self.gradient, &self.center);
        let v = |index: usize| scale * f64::from(values[index]);
        // v_i times the gradient of cost and penalty.
        let along = |index: usize| v(index) * (f64::from(gradient[index]) + l2_reg * radius * v(index));
        let total = if bounded { ordered_sum(values.len(), along) } else { f64::INFINITY };
        if total.is_nan() || total <= 0.0 || (bounded && total.is_infinite()) {
            return Ok(None);
        }
        let dimension = values.len() as f64;
        let geometry = RayGeometry {
            dimension,
            norm: sample.norm,
            center_dot: sample.center_dot,
            center_norm_squared: estimator.center_norm_squared(),
        };
        let [by_radius, by_norm, by_center] = outer_derivatives(self.settings.question.prior(), &geometry, radius);
        let norm_squared = sample.norm * sample.norm;
        let slope = |index: usize| {
            let by_cost = if bounded { -by_radius * along(index) / total } else { 0.0 };
            by_cost + by_norm * v(index).powi(2) / norm_squared + by_center * v(index) * f64::from(center[index])
        };
        let mean = (by_norm - by_radius + by_center * sample.center_dot) / dimension;
        Ok(Some(groups.means(|index| slope(index) - mean)))
    }
}

/// Sum in blocks of fixed size, so that it does not depend on the number of threads.
fn ordered_sum(count: usize, value: impl Fn(usize) -> f64 + Sync) -> f64 {
    let blocks: Vec<usize> = (0..count).step_by(CHUNK).collect();
    let sums: Vec<f64> = blocks.into_par_iter().map(|start| (start..(start + CHUNK).min(count)).map(&value).sum()).collect();
    sums.into_iter().sum()
}

/// Derivatives of the log-volume of a ray by `ln r`, `ln |v|` and `v.c`.
fn outer_derivatives(prior: Prior, geometry: &RayGeometry, radius: f64) -> [f64; 3] {
    let Prior::Gaussian { sigma } = prior else {
        // ln of r^D: t is measured along v, whose length is no part of it.
        return [geometry.dimension, 0.0, 0.0];
    };
    // The integrand changes over 1/sqrt(D) in the logarithm of t.
    let step = 1e-2 / geometry.dimension.sqrt();
    let value = |radius: f64, norm: f64, center_dot: f64| prior.log_volume(&RayGeometry { norm, center_dot, ..*geometry }, radius);
    let RayGeometry { norm, center_dot, .. } = *geometry;
    let difference = |up: f64, down: f64, step: f64| (up - down) / (2.0 * step);
    let (grown, shrunk) = (step.exp(), (-step).exp());
    // `v.c` enters as `t v.c / sigma^2`, and `t` is at most about `sigma sqrt(D) / |v|`.
    let along = step * norm * sigma;
    let by_radius = difference(value(radius * grown, norm, center_dot), value(radius * shrunk, norm, center_dot), step);
    [
        if radius.is_finite() { by_radius } else { 0.0 },
        difference(value(radius, norm * grown, center_dot), value(radius, norm * shrunk, center_dot), step),
        difference(value(radius, norm, center_dot + along), value(radius, norm, center_dot - along), along),
    ]
}

#[cfg(test)]
mod tests;
