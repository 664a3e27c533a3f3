//! Gradients of ellipsoids, balls and half-spaces.

use std::ops::Range;

use crate::objective::{Cost, Differentiable, ObjectiveError};
use crate::random::{NormalVector, Purpose};
use crate::testkit::bodies::lane_sum;
use crate::testkit::scratch::with_buffer;
use crate::testkit::{Ball, Ellipsoid, HalfSpace};

/// Whether the one part is asked for.
///
/// # Panics
/// If the range leaves the parts or a length is not `dimension`.
pub(super) fn asks_for_all(dimension: usize, weights: &[f32], parts: &Range<usize>, gradient: &[f32]) -> bool {
    assert!(weights.len() == dimension && gradient.len() == dimension, "weights and gradient must have {dimension} coordinates");
    assert!(parts.end <= 1, "parts {parts:?} of one");
    !parts.is_empty()
}

/// Writes `z`, the distance of the drawn label from the mean of its unit normal distribution, and gives `-ln` of its density.
pub(super) fn draw_label(seed: u64, z: &mut [f32]) -> f64 {
    NormalVector::new(Purpose::Labels, seed, 0, z.len()).fill(0..z.len(), z);
    0.5 * (lane_sum(z.len(), |i| f64::from(z[i]).powi(2)) + z.len() as f64 * std::f64::consts::TAU.ln())
}

/// The sum `1/2 sum l_i x_i^2` with `x = weights - center`, and `l_i x_i` if asked for.
fn half_weighted_square(eigenvalues: &[f64], center: &[f32], weights: &[f32], gradient: Option<&mut [f32]>) -> f64 {
    const LANES: usize = 16;
    let displacement = |i: usize| f64::from(weights[i]) - f64::from(center[i]);
    let Some(gradient) = gradient else {
        return 0.5 * lane_sum(center.len(), |i| eigenvalues[i] * displacement(i) * displacement(i));
    };
    let mut sums = [0.0f64; LANES];
    let (out, out_rest) = gradient.as_chunks_mut::<LANES>();
    let (w, w_rest) = weights.as_chunks::<LANES>();
    let (c, c_rest) = center.as_chunks::<LANES>();
    let (l, l_rest) = eigenvalues.as_chunks::<LANES>();
    for (((out, w), c), l) in out.iter_mut().zip(w).zip(c).zip(l) {
        for lane in 0..LANES {
            let x = f64::from(w[lane]) - f64::from(c[lane]);
            out[lane] = (l[lane] * x) as f32;
            sums[lane] += l[lane] * x * x;
        }
    }
    let mut rest = 0.0;
    for (((out, w), c), l) in out_rest.iter_mut().zip(w_rest).zip(c_rest).zip(l_rest) {
        let x = f64::from(*w) - f64::from(*c);
        *out = (l * x) as f32;
        rest += l * x * x;
    }
    // The order of `lane_sum`: a gradient's cost has the bits of the cost.
    0.5 * (sums.iter().sum::<f64>() + rest)
}

impl Ellipsoid {
    fn value(&self, weights: &[f32], gradient: Option<&mut [f32]>) -> f64 {
        if self.reflections.is_empty() {
            return half_weighted_square(&self.eigenvalues, &self.center, weights, gradient);
        }
        with_buffer(weights.len(), |x| {
            for ((x, w), c) in x.iter_mut().zip(weights).zip(&self.center) {
                *x = f64::from(*w) - f64::from(*c);
            }
            self.rotate(x);
            let total = lane_sum(x.len(), |i| self.eigenvalues[i] * x[i] * x[i]);
            if let Some(gradient) = gradient {
                x.iter_mut().zip(&self.eigenvalues).for_each(|(x, l)| *x *= l);
                self.rotate_back(x);
                gradient.iter_mut().zip(&*x).for_each(|(out, x)| *out = *x as f32);
            }
            0.5 * total
        })
    }

    /// Replaces `z` by `H^(1/2)' z = R' diag(l)^(1/2) z`.
    fn apply_transposed_root(&self, z: &mut [f32]) {
        with_buffer(z.len(), |x| {
            for ((x, z), l) in x.iter_mut().zip(&*z).zip(&self.eigenvalues) {
                *x = l.sqrt() * f64::from(*z);
            }
            self.rotate_back(x);
            z.iter_mut().zip(&*x).for_each(|(z, x)| *z = *x as f32);
        });
    }
}

/// The label is `diag(l)^(1/2) R w` plus a standard normal vector.
impl Differentiable for Ellipsoid {
    fn parts(&self) -> usize {
        1
    }

    fn gradient(&self, weights: &[f32], parts: Range<usize>, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        if !asks_for_all(self.center.len(), weights, &parts, gradient) {
            gradient.fill(0.0);
            return Ok(0.0);
        }
        Ok(self.value(weights, Some(gradient)))
    }

    fn cost_at(&self, weights: &[f32]) -> Result<Cost, ObjectiveError> {
        assert_eq!(weights.len(), self.center.len(), "one weight per coordinate");
        Ok(Cost::exact(self.value(weights, None)))
    }

    fn likelihood_gradient(&self, weights: &[f32], parts: Range<usize>, seed: u64, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        if !asks_for_all(self.center.len(), weights, &parts, gradient) {
            gradient.fill(0.0);
            return Ok(0.0);
        }
        let nats = draw_label(seed, gradient);
        gradient.iter_mut().for_each(|z| *z = -*z);
        self.apply_transposed_root(gradient);
        Ok(nats)
    }
}

/// The label is `w` plus a standard normal vector.
impl Differentiable for Ball {
    fn parts(&self) -> usize {
        1
    }

    fn gradient(&self, weights: &[f32], parts: Range<usize>, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        if !asks_for_all(self.center.len(), weights, &parts, gradient) {
            gradient.fill(0.0);
            return Ok(0.0);
        }
        for ((out, w), c) in gradient.iter_mut().zip(weights).zip(&self.center) {
            *out = (f64::from(*w) - f64::from(*c)) as f32;
        }
        Ok(self.cost_at(weights)?.nats)
    }

    fn cost_at(&self, weights: &[f32]) -> Result<Cost, ObjectiveError> {
        assert_eq!(weights.len(), self.center.len(), "one weight per coordinate");
        let square = |i: usize| (f64::from(weights[i]) - f64::from(self.center[i])).powi(2);
        Ok(Cost::exact(0.5 * lane_sum(weights.len(), square)))
    }

    fn likelihood_gradient(&self, weights: &[f32], parts: Range<usize>, seed: u64, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        if !asks_for_all(self.center.len(), weights, &parts, gradient) {
            gradient.fill(0.0);
            return Ok(0.0);
        }
        let nats = draw_label(seed, gradient);
        gradient.iter_mut().for_each(|z| *z = -*z);
        Ok(nats)
    }
}

/// The gradient is zero on the plane itself, where the cost has a kink. There is no likelihood: no divergence is linear at its minimum.
impl Differentiable for HalfSpace {
    fn parts(&self) -> usize {
        1
    }

    fn gradient(&self, weights: &[f32], parts: Range<usize>, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        let all = asks_for_all(self.center.len(), weights, &parts, gradient);
        let nats = if all { self.cost_at(weights)?.nats } else { 0.0 };
        if nats > 0.0 {
            gradient.iter_mut().zip(&self.normal).for_each(|(out, n)| *out = *n as f32);
        } else {
            gradient.fill(0.0);
        }
        Ok(nats)
    }

    fn cost_at(&self, weights: &[f32]) -> Result<Cost, ObjectiveError> {
        assert_eq!(weights.len(), self.center.len(), "one weight per coordinate");
        let along = lane_sum(weights.len(), |i| self.normal[i] * (f64::from(weights[i]) - f64::from(self.center[i])));
        Ok(Cost::exact(along.max(0.0)))
    }

    fn likelihood_gradient(&self, _: &[f32], _: Range<usize>, _: u64, _: &mut [f32]) -> Result<f64, ObjectiveError> {
        Err(no_likelihood("a half-space"))
    }
}

pub(super) fn no_likelihood(what: &str) -> ObjectiveError {
    ObjectiveError::new(format!(
        "{what} is not a divergence between distributions, so no labels can be drawn: use a quantity that needs the gradient of the cost only"
    ))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::direction::Direction;
    use crate::objective::RayPoint;

    pub(in crate::testkit) fn normals(seed: u64, count: usize, scale: f32) -> Vec<f32> {
        let mut values = vec![0.0; count];
        NormalVector::new(Purpose::Trials, seed, 0, count).fill(0..count, &mut values);
        values.iter_mut().for_each(|z| *z *= scale);
        values
    }

    /// The gradient at `weights` against central differences along `directions` random directions, and the three ways to a cost against
    /// each other.
    pub(in crate::testkit) fn check_gradient(name: &str, body: &dyn Differentiable, weights: &[f32], directions: u64, tolerance: f64) {
        let dimension = body.dimension();
        let mut center = vec![0.0; dimension];
        body.center(0..dimension, &mut center);
        let mut gradient = vec![f32::NAN; dimension];
        let nats = body.gradient(weights, 0..1, &mut gradient).unwrap();
        assert_eq!(nats.to_bits(), body.cost_at(weights).unwrap().nats.to_bits(), "{name}: cost beside the gradient");
        let from_center: Vec<f32> = weights.iter().zip(&center).map(|(w, c)| w - c).collect();
        let on_ray = body.cost(&Direction::from_values(from_center.clone(), 1.0, &center), RayPoint::straight(1.0)).unwrap().nats;
        assert!((on_ray - nats).abs() < 1e-5 * nats.abs().max(1e-3), "{name}: {nats} at the point, {on_ray} on the ray");
        let size = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        for seed in 0..directions {
            let z = normals(100 + seed, dimension, 1.0);
            let step = 1e-3 / (dimension as f64).sqrt();
            let moved =
                |t: f64| -> Vec<f32> { from_center.iter().zip(&z).map(|(x, z)| (f64::from(*x) + t * f64::from(*z)) as f32).collect() };
            let (ahead, behind) = (moved(step), moved(-step));
            // What rounding to f32 made of the step counts.
            let expected: f64 = (0..dimension).map(|i| f64::from(gradient[i]) * (f64::from(ahead[i]) - f64::from(behind[i]))).sum();
            let at = |x: Vec<f32>| body.cost(&Direction::from_values(x, 1.0, &center), RayPoint::straight(1.0)).unwrap().nats;
            let difference = at(ahead) - at(behind);
            let largest = 2e-3 * size.max(1e-3);
            assert!(
                (difference - expected).abs() < tolerance * largest,
                "{name}: costs differ by {difference}, by the gradient {expected}"
            );
        }
        gradient.fill(f32::NAN);
        assert_eq!(body.gradient(weights, 0..0, &mut gradient).unwrap(), 0.0);
        assert!(gradient.iter().all(|g| *g == 0.0), "{name}: nothing asked for, nothing given");
    }

    #[test]
    fn gradients_are_the_slopes_of_the_cost() {
        for dimension in [3, 50, 333] {
            let eigenvalues: Vec<f64> = (0..dimension).map(|i| 3.0 / (1.0 + i as f64)).collect();
            let center = normals(1, dimension, 0.5);
            let weights = normals(2, dimension, 0.7);
            let plain = Ellipsoid::new(eigenvalues, center.clone());
            check_gradient("ellipsoid", &plain, &weights, 5, 1e-3);
            check_gradient("mixed", &plain.mixed(4, 3), &weights, 5, 1e-3);
            check_gradient("ball", &Ball::new(center.clone()), &weights, 5, 1e-3);
            let normal: Vec<f64> = normals(3, dimension, 1.0).into_iter().map(f64::from).collect();
            let inside = HalfSpace::new(normal.clone(), center.clone());
            let outside = HalfSpace::new(normal.iter().map(|n| -n).collect(), center);
            let costs = [&inside, &outside].map(|body| body.cost_at(&weights).unwrap().nats);
            assert!(costs[0].min(costs[1]) == 0.0 && costs[0].max(costs[1]) > 0.0);
            check_gradient("half-space", &inside, &weights, 5, 1e-3);
            check_gradient("half-space", &outside, &weights, 5, 1e-3);
        }
    }

    #[test]
    fn the_mean_square_of_scores_is_the_hessian() {
        let body = Ellipsoid::new(vec![4.0, 1.0, 0.25], vec![0.0; 3]).mixed(2, 2);
        let hessian = body.hessian();
        let draws = 40_000;
        let mut sums = [0.0; 9];
        let mut negative_log_likelihood = 0.0;
        for seed in 0..draws {
            let mut score = [0.0f32; 3];
            negative_log_likelihood += body.likelihood_gradient(&[0.3, 0.1, -2.0], 0..1, seed, &mut score).unwrap();
            for i in 0..9 {
                sums[i] += f64::from(score[i / 3]) * f64::from(score[i % 3]);
            }
        }
        for (sum, expected) in sums.iter().zip(&hessian) {
            // The sd of a mean of squares of normals with variance 4 is 4 sqrt(2/40,000) = 0.03.
            assert!((sum / draws as f64 - expected).abs() < 0.12, "{sums:?} {hessian:?}");
        }
        // Entropy of a standard normal vector: 3/2 (1 + ln 2 pi) = 4.257.
        assert!((negative_log_likelihood / draws as f64 - 4.2568).abs() < 0.03);
        let mut score = [0.0f32; 2];
        Ball::new(vec![0.0; 2]).likelihood_gradient(&[0.0; 2], 0..1, 5, &mut score).unwrap();
        assert!(score[0] != 0.0 && score[0] != score[1]);
        let error = HalfSpace::new(vec![1.0], vec![0.0]).likelihood_gradient(&[0.0], 0..1, 0, &mut [0.0]).unwrap_err();
        assert!(error.to_string().contains("half-space"), "{error}");
    }
}
