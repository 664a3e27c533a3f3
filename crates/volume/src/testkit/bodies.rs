//! Ellipsoids, balls and half-spaces.

use std::ops::Range;

use crate::center::Center;
use crate::direction::{BLOCK, Direction};
use crate::objective::{Cost, Objective, ObjectiveError, RayPoint};
use crate::quadratic_form::{ChiSquareTerm, Contour, log_probability_below};
use crate::random::{NormalVector, Purpose};
use crate::special::ordered_sum;
use crate::testkit::functions::{ln_gamma, ln_normal_cdf};

/// Normals of tests and studies.
fn normals(seed: u64, index: u64, count: usize) -> Vec<f64> {
    let mut z = vec![0.0f32; count];
    NormalVector::new(Purpose::Trials, seed, index, count).fill(0..count, &mut z);
    z.into_iter().map(f64::from).collect()
}

/// Calls `block(first coordinate, x)` with the displacement `x = w - c` of `point`, in blocks, in `f64`:
/// `x = (point.center - 1) c + point.direction * scale * y`.
fn for_each_block(center: &[f32], direction: &Direction, point: RayPoint, mut block: impl FnMut(usize, &[f64])) {
    let dimension = center.len();
    assert_eq!(direction.dimension(), dimension, "the direction must be as long as the center");
    let mut scratch = vec![0.0f32; if direction.stored().is_some() { 0 } else { BLOCK.min(dimension) }];
    let mut displacement = vec![0.0f64; BLOCK.min(dimension)];
    let (along_center, along_direction) = (point.center - 1.0, point.direction * direction.scale());
    for start in (0..dimension).step_by(BLOCK) {
        let range = start..dimension.min(start + BLOCK);
        let values = if let Some(stored) = direction.stored() {
            &stored[range.clone()]
        } else {
            direction.fill(range.clone(), &mut scratch[..range.len()]);
            &scratch[..range.len()]
        };
        let out = &mut displacement[..range.len()];
        for ((x, y), c) in out.iter_mut().zip(values).zip(&center[range]) {
            *x = along_center * f64::from(*c) + along_direction * f64::from(*y);
        }
        block(start, out);
    }
}

/// `sum term(x_i)` over 16 running sums, so that it vectorises.
pub(super) fn lane_sum(count: usize, term: impl Fn(usize) -> f64) -> f64 {
    const LANES: usize = 16;
    let mut sums = [0.0f64; LANES];
    let whole = count / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += term(start + lane);
        }
    }
    sums.iter().sum::<f64>() + (whole..count).map(term).sum::<f64>()
}

/// `x - 2 h (h . x)` for a unit vector `h`.
fn reflect(axis: &[f64], x: &mut [f64]) {
    let along = 2.0 * lane_sum(x.len(), |i| axis[i] * x[i]);
    x.iter_mut().zip(axis).for_each(|(x, a)| *x -= along * a);
}

pub(super) fn check_sigma(sigma: f64) {
    assert!(sigma > 0.0 && sigma.is_finite(), "the prior's sigma must be positive: {sigma}");
}

/// `ln` of the volume of the unit ball of `R^D`, nats: `D/2 ln pi - ln Gamma(D/2 + 1)`.
pub(super) fn log_unit_ball(dimension: f64) -> f64 {
    0.5 * dimension * std::f64::consts::PI.ln() - ln_gamma(0.5 * dimension + 1.0)
}

/// The quadratic cost `C(w) = 1/2 sum l_i (R (w - c))_i^2` with eigenvalues `l_i >= 0` and an orthogonal matrix `R`.
///
/// `R` is the identity unless [`Ellipsoid::mixed`] makes it a product of seeded Householder reflections, so that the Hessian
/// `R' diag(l) R` is not diagonal at a price of `O(D)` per reflection and evaluation.
///
/// Measure of `{C <= cutoff}` under `N(0, sigma^2 I)`: the distribution function of `1/2 sum sigma^2 l_i (z_i - (R c)_i/sigma)^2`, a
/// weighted sum of noncentral chi-squares (`log_probability_below`). Its volume:
/// `(2 pi cutoff)^(D/2) / Gamma(D/2 + 1) * prod l_i^(-1/2)`.
#[derive(Debug, Clone)]
pub struct Ellipsoid {
    pub(super) eigenvalues: Vec<f64>,
    pub(super) center: Vec<f32>,
    pub(super) reflections: Vec<Vec<f64>>,
}

impl Ellipsoid {
    /// An ellipsoid with axes along the coordinates.
    ///
    /// # Panics
    /// If the lengths differ or are zero, or an eigenvalue is negative or not finite.
    #[must_use]
    pub fn new(eigenvalues: Vec<f64>, center: Vec<f32>) -> Self {
        assert!(!center.is_empty(), "an ellipsoid needs at least one dimension");
        assert_eq!(eigenvalues.len(), center.len(), "one eigenvalue per coordinate");
        assert!(eigenvalues.iter().all(|l| *l >= 0.0 && l.is_finite()), "eigenvalues must be finite and not negative");
        Self { eigenvalues, center, reflections: Vec::new() }
    }

    /// The same ellipsoid turned about its center by `reflections` random Householder reflections `x - 2 h (h . x)`.
    #[must_use]
    pub fn mixed(mut self, seed: u64, reflections: usize) -> Self {
        self.reflections = (0..reflections)
            .map(|reflection| {
                let mut axis = normals(seed, reflection as u64, self.center.len());
                let norm = lane_sum(axis.len(), |i| axis[i] * axis[i]).sqrt();
                axis.iter_mut().for_each(|a| *a /= norm);
                axis
            })
            .collect();
        self
    }

    /// The eigenvalues `l_i`.
    #[must_use]
    pub fn eigenvalues(&self) -> &[f64] {
        &self.eigenvalues
    }

    /// The coordinates of the center `c`.
    #[must_use]
    pub fn center_values(&self) -> &[f32] {
        &self.center
    }

    /// Replaces `x` by `R x`.
    pub(super) fn rotate(&self, x: &mut [f64]) {
        self.reflections.iter().for_each(|axis| reflect(axis, x));
    }

    /// Replaces `x` by `R' x`.
    pub(super) fn rotate_back(&self, x: &mut [f64]) {
        self.reflections.iter().rev().for_each(|axis| reflect(axis, x));
    }

    /// The Hessian `R' diag(l) R`, row by row (`D^2` numbers: small `D` only).
    #[must_use]
    pub fn hessian(&self) -> Vec<f64> {
        let dimension = self.center.len();
        let mut matrix = vec![0.0; dimension * dimension];
        let mut columns = vec![0.0; dimension * dimension];
        for (j, column) in columns.chunks_mut(dimension).enumerate() {
            column[j] = 1.0;
            self.rotate(column);
        }
        for i in 0..dimension {
            for j in 0..dimension {
                let (x, y) = (&columns[i * dimension..(i + 1) * dimension], &columns[j * dimension..(j + 1) * dimension]);
                matrix[i * dimension + j] = lane_sum(dimension, |k| x[k] * self.eigenvalues[k] * y[k]);
            }
        }
        matrix
    }

    /// `ln P(C(w) <= cutoff)` for `w ~ N(0, sigma^2 I)`, in nats; error below `1e-10 + 4e-14 |result|`.
    ///
    /// # Panics
    /// If `sigma` is not positive and finite.
    #[must_use]
    pub fn true_log_probability(&self, sigma: f64, cutoff: f64) -> f64 {
        check_sigma(sigma);
        let mut rotated: Vec<f64> = self.center.iter().map(|c| f64::from(*c)).collect();
        self.rotate(&mut rotated);
        let terms: Vec<ChiSquareTerm> = self
            .eigenvalues
            .iter()
            .zip(&rotated)
            .map(|(l, c)| ChiSquareTerm { weight: sigma * sigma * l, multiplicity: 1.0, noncentrality: (c / sigma).powi(2) })
            .collect();
        log_probability_below(&terms, cutoff, Contour::default())
    }

    /// `ln` of the volume of `{C <= cutoff}`, in nats; infinite if an eigenvalue is zero, `-inf` for a cutoff of zero or less.
    #[must_use]
    pub fn true_log_volume_lebesgue(&self, cutoff: f64) -> f64 {
        if cutoff <= 0.0 {
            return f64::NEG_INFINITY;
        }
        let dimension = self.center.len();
        let log_determinant = ordered_sum(dimension, |i| self.eigenvalues[i].ln());
        log_unit_ball(dimension as f64) + 0.5 * (dimension as f64 * (2.0 * cutoff).ln() - log_determinant)
    }
}

impl Center for Ellipsoid {
    fn dimension(&self) -> usize {
        self.center.len()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        out.copy_from_slice(&self.center[range]);
    }
}

impl Objective for Ellipsoid {
    fn cost(&self, direction: &Direction, point: RayPoint) -> Result<Cost, ObjectiveError> {
        let mut total = 0.0;
        if self.reflections.is_empty() {
            for_each_block(&self.center, direction, point, |start, x| {
                let eigenvalues = &self.eigenvalues[start..start + x.len()];
                total += lane_sum(x.len(), |i| eigenvalues[i] * x[i] * x[i]);
            });
        } else {
            let mut whole = vec![0.0; self.center.len()];
            for_each_block(&self.center, direction, point, |start, x| whole[start..start + x.len()].copy_from_slice(x));
            self.rotate(&mut whole);
            total = lane_sum(whole.len(), |i| self.eigenvalues[i] * whole[i] * whole[i]);
        }
        Ok(Cost::exact(0.5 * total))
    }
}

/// The cost `C(w) = 1/2 ‖w - c‖^2`: `{C <= cutoff}` is the ball of radius `sqrt(2 cutoff)` around `c`.
///
/// Measure under `N(0, sigma^2 I)`: the noncentral chi-square distribution with `D` degrees of freedom and noncentrality
/// `‖c‖^2/sigma^2` at `2 cutoff/sigma^2`. Volume: `(2 pi cutoff)^(D/2) / Gamma(D/2 + 1)`.
#[derive(Debug, Clone)]
pub struct Ball {
    pub(super) center: Vec<f32>,
}

impl Ball {
    /// A ball around `center`.
    ///
    /// # Panics
    /// If the center has no coordinates.
    #[must_use]
    pub fn new(center: Vec<f32>) -> Self {
        assert!(!center.is_empty(), "a ball needs at least one dimension");
        Self { center }
    }

    /// `ln P(C(w) <= cutoff)` for `w ~ N(0, sigma^2 I)`, in nats; error below `1e-10 + 4e-14 |result|`.
    ///
    /// # Panics
    /// If `sigma` is not positive and finite.
    #[must_use]
    pub fn true_log_probability(&self, sigma: f64, cutoff: f64) -> f64 {
        check_sigma(sigma);
        let norm_squared = lane_sum(self.center.len(), |i| f64::from(self.center[i]).powi(2));
        let term =
            ChiSquareTerm { weight: sigma * sigma, multiplicity: self.center.len() as f64, noncentrality: norm_squared / (sigma * sigma) };
        log_probability_below(&[term], cutoff, Contour::default())
    }

    /// `ln` of the volume of `{C <= cutoff}`, in nats; `-inf` for a cutoff of zero or less.
    #[must_use]
    pub fn true_log_volume_lebesgue(&self, cutoff: f64) -> f64 {
        if cutoff <= 0.0 {
            return f64::NEG_INFINITY;
        }
        let dimension = self.center.len() as f64;
        log_unit_ball(dimension) + 0.5 * dimension * (2.0 * cutoff).ln()
    }
}

impl Center for Ball {
    fn dimension(&self) -> usize {
        self.center.len()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        out.copy_from_slice(&self.center[range]);
    }
}

impl Objective for Ball {
    fn cost(&self, direction: &Direction, point: RayPoint) -> Result<Cost, ObjectiveError> {
        let mut total = 0.0;
        for_each_block(&self.center, direction, point, |_, x| total += lane_sum(x.len(), |i| x[i] * x[i]));
        Ok(Cost::exact(0.5 * total))
    }
}

/// The cost `C(w) = max(0, n . (w - c))` with a unit vector `n`: linear on one side of a hyperplane through the center, zero on the other.
///
/// Half of all rays never reach any cutoff. Measure of `{C <= cutoff}` under `N(0, sigma^2 I)`: `Phi((cutoff + n . c)/sigma)`. Its volume is
/// infinite.
#[derive(Debug, Clone)]
pub struct HalfSpace {
    pub(super) normal: Vec<f64>,
    pub(super) center: Vec<f32>,
}

impl HalfSpace {
    /// The half-space with outward normal along `normal` (any length but zero).
    ///
    /// # Panics
    /// If the lengths differ, or the normal is zero or not finite.
    #[must_use]
    pub fn new(mut normal: Vec<f64>, center: Vec<f32>) -> Self {
        assert_eq!(normal.len(), center.len(), "the normal must be as long as the center");
        let norm = lane_sum(normal.len(), |i| normal[i] * normal[i]).sqrt();
        assert!(norm > 0.0 && norm.is_finite(), "the normal must have a direction");
        normal.iter_mut().for_each(|n| *n /= norm);
        Self { normal, center }
    }

    /// `ln P(C(w) <= cutoff)` for `w ~ N(0, sigma^2 I)`, in nats; relative error of the probability below 1e-13. `-inf` for a
    /// negative cutoff.
    ///
    /// # Panics
    /// If `sigma` is not positive and finite.
    #[must_use]
    pub fn true_log_probability(&self, sigma: f64, cutoff: f64) -> f64 {
        check_sigma(sigma);
        if cutoff < 0.0 {
            return f64::NEG_INFINITY;
        }
        let offset = lane_sum(self.center.len(), |i| self.normal[i] * f64::from(self.center[i]));
        ln_normal_cdf((cutoff + offset) / sigma)
    }
}

impl Center for HalfSpace {
    fn dimension(&self) -> usize {
        self.center.len()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        out.copy_from_slice(&self.center[range]);
    }
}

impl Objective for HalfSpace {
    fn cost(&self, direction: &Direction, point: RayPoint) -> Result<Cost, ObjectiveError> {
        let mut total = 0.0;
        for_each_block(&self.center, direction, point, |start, x| {
            let normal = &self.normal[start..start + x.len()];
            total += lane_sum(x.len(), |i| normal[i] * x[i]);
        });
        Ok(Cost::exact(total.max(0.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::direction::DirectionFamily;
    use crate::preconditioner::Identity;
    use std::sync::Arc;

    fn center(seed: u64, count: usize) -> Vec<f32> {
        normals(seed, 0, count).into_iter().map(|z| 0.3 * z as f32).collect()
    }

    /// Cost at a point given by its coordinates: a stored direction from the center to it.
    fn cost_at(objective: &dyn Objective, point: &[f64]) -> f64 {
        let mut center = vec![0.0f32; point.len()];
        objective.center(0..point.len(), &mut center);
        let difference: Vec<f32> = point.iter().zip(&center).map(|(w, c)| (w - f64::from(*c)) as f32).collect();
        objective.cost(&Direction::from_values(difference, 1.0, &center), RayPoint::straight(1.0)).unwrap().nats
    }

    /// `ln` of the part of a million prior draws that is inside, and one standard deviation of it.
    fn monte_carlo(objective: &dyn Objective, sigma: f64, cutoff: f64) -> (f64, f64) {
        let (draws, dimension) = (200_000, objective.dimension());
        let all = normals(77, 0, draws * dimension);
        let inside =
            all.chunks(dimension).filter(|z| cost_at(objective, &z.iter().map(|z| sigma * z).collect::<Vec<f64>>()) <= cutoff).count()
                as f64;
        ((inside / draws as f64).ln(), inside.sqrt().recip())
    }

    #[test]
    fn truths_agree_with_prior_draws() {
        let ellipsoid = Ellipsoid::new(vec![3.0, 0.2, 1.0], vec![0.5, -1.0, 0.25]);
        let mixed = ellipsoid.clone().mixed(3, 2);
        let half_space = HalfSpace::new(vec![1.0, -2.0, 0.5], vec![0.5, 0.3, -0.25]);
        let ball = Ball::new(vec![0.5, 0.3, -0.25]);
        for (name, value, (estimate, sd)) in [
            ("ellipsoid", ellipsoid.true_log_probability(0.9, 0.3), monte_carlo(&ellipsoid, 0.9, 0.3)),
            ("mixed", mixed.true_log_probability(0.9, 0.3), monte_carlo(&mixed, 0.9, 0.3)),
            ("half-space", half_space.true_log_probability(0.7, 0.1), monte_carlo(&half_space, 0.7, 0.1)),
            ("ball", ball.true_log_probability(0.7, 0.2), monte_carlo(&ball, 0.7, 0.2)),
        ] {
            assert!((value - estimate).abs() < 4.0 * sd && sd < 0.02, "{name}: {value}, draws {estimate} +- {sd}");
        }
        // Turning the body about its center matters when the center is not the prior's.
        assert!((ellipsoid.true_log_probability(0.9, 0.3) - mixed.true_log_probability(0.9, 0.3)).abs() > 0.05);
    }

    #[test]
    fn costs_by_hand_and_on_great_circles() {
        let center = vec![1.0f32, -2.0];
        let direction = Direction::from_values(vec![3.0, 1.0], 0.5, &center);
        let point = RayPoint { center: 0.5, direction: 2.0 };
        // x = -0.5 c + 2 * 0.5 * (3, 1) = (2.5, 2)
        let ellipsoid = Ellipsoid::new(vec![2.0, 10.0], center.clone());
        assert_eq!(ellipsoid.cost(&direction, point).unwrap().nats, 0.5 * (2.0 * 6.25 + 10.0 * 4.0));
        assert_eq!(Ball::new(center.clone()).cost(&direction, point).unwrap().nats, 0.5 * 10.25);
        assert_eq!(HalfSpace::new(vec![0.0, 3.0], center.clone()).cost(&direction, point).unwrap().nats, 2.0);
        assert_eq!(HalfSpace::new(vec![0.0, -3.0], center).cost(&direction, point).unwrap().nats, 0.0);
    }

    #[test]
    fn hessian_is_that_of_the_cost() {
        let ellipsoid = Ellipsoid::new(vec![1.0, 2.0, 5.0, 0.5], center(1, 4)).mixed(9, 3);
        let hessian = ellipsoid.hessian();
        assert!(hessian[1].abs() > 0.01, "not mixed: {hessian:?}");
        let x = [0.3f32, -0.7, 1.1, 0.2];
        let by_hessian: f64 = (0..4)
            .flat_map(|i| (0..4).map(move |j| (i, j)))
            .map(|(i, j)| 0.5 * f64::from(x[i]) * hessian[4 * i + j] * f64::from(x[j]))
            .sum();
        let direction = Direction::from_values(x.to_vec(), 1.0, ellipsoid.center_values());
        assert!((ellipsoid.cost(&direction, RayPoint::straight(1.0)).unwrap().nats - by_hessian).abs() < 1e-13);
        let trace: f64 = (0..4).map(|i| hessian[5 * i]).sum();
        assert!((trace - 8.5).abs() < 1e-13);
    }

    #[test]
    fn stored_and_regenerated_directions_cost_the_same() {
        let dimension = BLOCK + 1000;
        let plain = Ellipsoid::new((0..dimension).map(|i| 1.0 / (1.0 + i as f64)).collect(), center(2, dimension));
        let mixed = plain.clone().mixed(5, 1);
        let family = DirectionFamily::new(11, dimension, Arc::new(Identity));
        for objective in [&plain, &mixed] {
            let stored = family.direction(3, objective, None, true);
            let regenerated = family.direction(3, objective, None, false);
            let at = |direction| objective.cost(direction, RayPoint::straight(7.0)).unwrap().nats;
            assert_eq!(at(&stored).to_bits(), at(&regenerated).to_bits());
            assert!(at(&stored) > 0.0);
        }
    }

    #[test]
    fn an_ellipsoid_with_equal_axes_is_a_ball() {
        for dimension in [2, 30, 1000] {
            let center = center(4, dimension);
            let (ball, round) = (Ball::new(center.clone()), Ellipsoid::new(vec![1.0; dimension], center).mixed(1, 2));
            for cutoff in [1e-3, 0.4 * dimension as f64, 2.0 * dimension as f64] {
                let (a, b) = (ball.true_log_probability(0.8, cutoff), round.true_log_probability(0.8, cutoff));
                assert!((a - b).abs() < 1e-10 + 1e-15 * a.abs(), "D {dimension}, cutoff {cutoff}: {a} {b}");
                let (a, b) = (ball.true_log_volume_lebesgue(cutoff), round.true_log_volume_lebesgue(cutoff));
                assert!((a - b).abs() < 1e-12 * a.abs().max(1.0));
            }
        }
    }

    #[test]
    fn volumes_by_hand_and_as_the_limit_of_a_wide_prior() {
        let pi = std::f64::consts::PI;
        // Half axes sqrt(2 cutoff / l).
        let ellipse = Ellipsoid::new(vec![2.0, 8.0], vec![0.0; 2]);
        assert!((ellipse.true_log_volume_lebesgue(1.0) - (pi * 0.5).ln()).abs() < 1e-14);
        let ball = Ball::new(vec![1.0; 3]);
        assert!((ball.true_log_volume_lebesgue(0.5) - (4.0 * pi / 3.0).ln()).abs() < 1e-14);
        assert_eq!(Ellipsoid::new(vec![1.0, 0.0], vec![0.0; 2]).true_log_volume_lebesgue(1.0), f64::INFINITY);
        // P -> volume * (2 pi sigma^2)^(-D/2) as sigma grows.
        let (sigma, body) = (1e4f64, Ellipsoid::new(vec![3.0, 0.2, 1.0, 1.0, 2.0], vec![0.5; 5]));
        let limit = body.true_log_volume_lebesgue(0.3) - 2.5 * (2.0 * pi * sigma * sigma).ln();
        assert!((body.true_log_probability(sigma, 0.3) - limit).abs() < 1e-7);
    }

    #[test]
    fn half_space_truth() {
        let body = HalfSpace::new(vec![0.0, 4.0], vec![7.0, -1.0]);
        // Phi((0.5 - 1)/0.25) = Phi(-2)
        assert!((body.true_log_probability(0.25, 0.5) - 0.022_750_131_948_179_21f64.ln()).abs() < 1e-13);
        assert_eq!(body.true_log_probability(1.0, -1.0), f64::NEG_INFINITY);
    }
}
