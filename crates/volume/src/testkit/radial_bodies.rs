//! Bodies of revolution: a shell around an inner ball, and a ball with spikes.

use super::functions::ln_gamma;
use crate::prior::Prior;
use crate::quadrature::gauss_legendre;
use crate::testkit::Ball;
use crate::testkit::shape::{Shape, objective_from_shape};
use crate::testkit::truth::Truth;

/// `ln` of the measure of the ball of this radius, nats.
fn log_ball(ball: &Ball, prior: Prior, radius: f64) -> f64 {
    match prior {
        Prior::Gaussian { sigma } => ball.true_log_probability(sigma, 0.5 * radius * radius),
        Prior::Lebesgue => ball.true_log_volume_lebesgue(0.5 * radius * radius),
        Prior::Sphere => panic!("the measure under the spherical prior is not known"),
    }
}

/// A ball, a wall around it, and a shell beyond the wall where the cost is under the cutoff again:
///
/// ```text
/// C = height [ 1 + (s - s_1)(s - s_2)(s - s_3) / (s_1 s_2 s_3) ],     s = ‖w - c‖^2, s_i = r_i^2
/// ```
///
/// is zero at the center and equal to `height` at the three radii, above between the first two and under it between the last two. At the cutoff
/// `height`, star and basin are the inner ball; everything is the shell as well, which has nearly all of the volume in high dimension.
#[derive(Debug, Clone)]
pub struct Shell {
    ball: Ball,
    height: f64,
    squares: [f64; 3],
}

impl Shell {
    /// The radii `r_1 < r_2 < r_3`.
    ///
    /// # Panics
    /// If the height is not positive, the radii do not increase, or the cost would be negative in the shell.
    #[must_use]
    pub fn new(height: f64, radii: [f64; 3], center: Vec<f32>) -> Self {
        assert!(height > 0.0 && height.is_finite(), "the wall needs a positive height");
        assert!(0.0 < radii[0] && radii[0] < radii[1] && radii[1] < radii[2] && radii[2].is_finite(), "radii must increase: {radii:?}");
        let squares = radii.map(|r| r * r);
        let body = Self { ball: Ball::new(center), height, squares };
        // The cubic is least at its second stationary point.
        let sum: f64 = squares.iter().sum();
        let pairs = squares[0] * squares[1] + squares[0] * squares[2] + squares[1] * squares[2];
        let least = (sum + (sum * sum - 3.0 * pairs).sqrt()) / 3.0;
        assert!(body.profile(least).0 >= 0.0, "the shell is too thick beside the ball: its cost would be negative");
        body
    }

    /// The cost, and its derivative in the squared radius.
    fn profile(&self, s: f64) -> (f64, f64) {
        let [a, b, c] = self.squares.map(|r| s - r);
        let scale = self.height / self.squares.iter().product::<f64>();
        (self.height + scale * a * b * c, scale * (a * b + a * c + b * c))
    }

    /// The cost of the lowest way from the ball to the shell.
    #[must_use]
    pub fn pass(&self) -> f64 {
        let sum: f64 = self.squares.iter().sum();
        let [a, b, c] = self.squares;
        self.profile((sum - (sum * sum - 3.0 * (a * b + a * c + b * c)).sqrt()) / 3.0).0
    }

    /// The measures at the cutoff `height`, to the accuracy of [`Ball::true_log_probability`].
    ///
    /// # Panics
    /// If the prior is the sphere.
    #[must_use]
    pub fn truth(&self, prior: Prior) -> Truth {
        let [inner, second, third] = self.squares.map(|s| log_ball(&self.ball, prior, s.sqrt()));
        let shell = third + (-(second - third).exp()).ln_1p();
        let top = inner.max(shell);
        Truth { star: Some(inner), basin: inner, everything: top + ((inner - top).exp() + (shell - top).exp()).ln() }
    }

    /// The only cutoff at which [`Shell::truth`] holds.
    #[must_use]
    pub fn cutoff(&self) -> f64 {
        self.height
    }
}

impl Shape for Shell {
    fn center_values(&self) -> &[f32] {
        &self.ball.center
    }

    fn value(&self, displacement: &[f64], gradient: Option<&mut [f64]>) -> f64 {
        let (cost, slope) = self.profile(displacement.iter().map(|x| x * x).sum());
        if let Some(gradient) = gradient {
            gradient.iter_mut().zip(displacement).for_each(|(out, x)| *out = 2.0 * slope * x);
        }
        cost.max(0.0)
    }
}

objective_from_shape!(Shell);

/// A ball around the origin with spikes along the first coordinates: `C = 1/2 ‖w‖^2 / rho(u)^2` with
///
/// ```text
/// rho(u) = 1 + (length - 1) b( (cos t - cos t0) / (1 - cos t0) ),     b(x) = 3 x^2 - 2 x^3
/// ```
///
/// inside the cone `t < t0` around each of the directions `e_0, e_1, ...`, and one elsewhere. All sets are star-shaped. The measure is
/// that of the ball plus an integral over the angle for every spike.
#[derive(Debug, Clone)]
pub struct Spikes {
    ball: Ball,
    count: usize,
    length: f64,
    angle: f64,
}

impl Spikes {
    /// `count` spikes, `length` times as long as the ball's radius, in cones of half-angle `angle` (radians).
    ///
    /// # Panics
    /// If there are more spikes than coordinates or fewer than two coordinates, the length is not above one, or the angle is not between 0
    /// and pi/4 (the cones would overlap).
    #[must_use]
    pub fn new(dimension: usize, count: usize, length: f64, angle: f64) -> Self {
        assert!(dimension >= 2 && count <= dimension, "{count} spikes in {dimension} dimensions");
        assert!(length > 1.0 && length.is_finite(), "spikes must be longer than the ball: {length}");
        assert!(angle > 0.0 && angle < std::f64::consts::FRAC_PI_4, "cones of half-angle {angle} would overlap");
        Self { ball: Ball::new(vec![0.0; dimension]), count, length, angle }
    }

    /// `rho` and its derivative at the cosine of the angle to a spike.
    fn profile(&self, cosine: f64) -> (f64, f64) {
        let edge = self.angle.cos();
        if cosine <= edge {
            return (1.0, 0.0);
        }
        let x = (cosine - edge) / (1.0 - edge);
        (1.0 + (self.length - 1.0) * x * x * (3.0 - 2.0 * x), (self.length - 1.0) * 6.0 * x * (1.0 - x) / (1.0 - edge))
    }

    /// The measure under the Gaussian or the flat prior; error below 1e-8 nats.
    ///
    /// # Panics
    /// If the prior is the sphere, or the cutoff is not positive.
    #[must_use]
    pub fn truth(&self, prior: Prior, cutoff: f64) -> Truth {
        assert!(cutoff > 0.0 && cutoff.is_finite(), "the cutoff must be positive: {cutoff}");
        const PANELS: usize = 60;
        let dimension = self.ball.center.len() as f64;
        let radius = (2.0 * cutoff).sqrt();
        let ball = log_ball(&self.ball, prior, radius);
        // Density of the angle to a fixed direction.
        let constant = ln_gamma(0.5 * dimension) - ln_gamma(0.5 * (dimension - 1.0)) - 0.5 * std::f64::consts::PI.ln();
        let log_integrand = |t: f64| {
            let beyond = log_ball(&self.ball, prior, radius * self.profile(t.cos()).0);
            constant + (dimension - 2.0) * t.sin().ln() + beyond + (-(ball - beyond).exp()).ln_1p()
        };
        let edges: Vec<f64> = (0..=PANELS).map(|k| self.angle * k as f64 / PANELS as f64).collect();
        let top = edges[1..PANELS].iter().map(|t| log_integrand(*t)).fold(ball, f64::max);
        let spike: f64 = edges.windows(2).map(|ends| gauss_legendre(|t| (log_integrand(t) - top).exp(), ends[0], ends[1])).sum();
        Truth::same(top + ((ball - top).exp() + self.count as f64 * spike).ln())
    }

    /// The measure of the ball alone, which is what rays find that meet no spike.
    ///
    /// # Panics
    /// As [`Spikes::truth`].
    #[must_use]
    pub fn log_measure_of_ball(&self, prior: Prior, cutoff: f64) -> f64 {
        log_ball(&self.ball, prior, (2.0 * cutoff).sqrt())
    }
}

impl Shape for Spikes {
    fn center_values(&self) -> &[f32] {
        &self.ball.center
    }

    fn value(&self, displacement: &[f64], gradient: Option<&mut [f64]>) -> f64 {
        let square: f64 = displacement.iter().map(|x| x * x).sum();
        let radius = square.sqrt();
        // Cones do not overlap: the largest of the first coordinates is the only one that can lie in one.
        let (axis, along) = displacement[..self.count].iter().enumerate().fold((0, 0.0), |a, (i, x)| if *x > a.1 { (i, *x) } else { a });
        let cosine = if radius > 0.0 { along / radius } else { 0.0 };
        let (length, slope) = self.profile(cosine);
        if let Some(gradient) = gradient {
            // grad cos t = (e - cos t u)/r
            let (inward, sideways) = (1.0 / (length * length), -slope / length.powi(3));
            gradient.iter_mut().zip(displacement).for_each(|(out, x)| *out = (inward - sideways * cosine) * x);
            if slope != 0.0 {
                gradient[axis] += sideways * radius;
            }
        }
        0.5 * square / (length * length)
    }
}

objective_from_shape!(Spikes);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objective::Differentiable;
    use crate::testkit::gradients::tests::{check_gradient, normals};

    fn draws_inside(body: &dyn Differentiable, sigma: f32, cutoff: f64) -> (f64, f64) {
        let (count, dimension) = (400_000, body.dimension());
        let all = normals(8, count * dimension, sigma);
        let inside = all.chunks(dimension).filter(|w| body.cost_at(w).unwrap().nats <= cutoff).count() as f64;
        ((inside / count as f64).ln(), inside.sqrt().recip())
    }

    #[test]
    fn a_shell_has_its_three_radii() {
        let center = vec![0.2f32, -0.4, 0.1];
        let body = Shell::new(0.7, [0.5, 1.1, 1.4], center.clone());
        let at = |radius: f32| body.cost_at(&[center[0], center[1] + radius, center[2]]).unwrap().nats;
        assert!(at(0.0).abs() < 1e-15);
        for (radius, under) in [(0.49, true), (0.51, false), (1.09, false), (1.11, true), (1.39, true), (1.41, false)] {
            assert_eq!(at(radius) <= 0.7, under, "{radius}: {}", at(radius));
        }
        let highest = (50..110).map(|r| at(r as f32 / 100.0)).fold(0.0, f64::max);
        assert!((body.pass() - highest).abs() < 1e-3, "{} {highest}", body.pass());
        let (estimate, sd) = draws_inside(&body, 0.8, body.cutoff());
        let truth = body.truth(Prior::Gaussian { sigma: 0.8 });
        assert!((truth.everything - estimate).abs() < 3.5 * sd, "{truth:?}, draws {estimate} +- {sd}");
        assert!(truth.star == Some(truth.basin) && truth.basin < truth.everything - 1.0);
        let flat = body.truth(Prior::Lebesgue).everything;
        let by_hand = 4.0 / 3.0 * std::f64::consts::PI * (0.5f64.powi(3) + 1.4f64.powi(3) - 1.1f64.powi(3));
        assert!((flat - by_hand.ln()).abs() < 1e-12);
        check_gradient("shell", &body, &[0.9, 0.3, -0.2], 5, 2e-3);
    }

    #[test]
    fn spikes_agree_with_draws() {
        for (dimension, count, length, angle) in [(2, 1, 3.0, 0.5), (3, 3, 3.0, 0.7), (6, 2, 4.0, 0.75)] {
            let body = Spikes::new(dimension, count, length, angle);
            let cutoff = 0.4 * dimension as f64;
            let truth = body.truth(Prior::Gaussian { sigma: 1.1 }, cutoff).basin;
            let (estimate, sd) = draws_inside(&body, 1.1, cutoff);
            assert!((truth - estimate).abs() < 3.5 * sd && sd < 0.01, "D {dimension}: {truth}, draws {estimate} +- {sd}");
            assert!(truth - body.log_measure_of_ball(Prior::Gaussian { sigma: 1.1 }, cutoff) > 3.0 * sd || dimension == 6);
        }
        // In the plane, the flat measure by hand: pi r^2 + 2 r^2 INT_0^t0 (rho^2 - 1)/2 dt.
        let body = Spikes::new(2, 1, 3.0, 0.5);
        let steps = 200_000;
        let sector: f64 =
            (0..steps).map(|k| (body.profile((0.5 * (k as f64 + 0.5) / steps as f64).cos()).0.powi(2) - 1.0) * 0.5 / steps as f64).sum();
        assert!((body.truth(Prior::Lebesgue, 0.5).basin - (std::f64::consts::PI + sector).ln()).abs() < 1e-8);
    }

    #[test]
    fn gradients_inside_and_outside_of_a_spike() {
        let body = Spikes::new(8, 3, 4.0, 0.7);
        let outside = normals(2, 8, 1.0);
        check_gradient("outside", &body, &outside, 5, 2e-3);
        let mut inside = normals(3, 8, 0.2);
        inside[1] = 1.5;
        assert!(body.profile(f64::from(inside[1]) / inside.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()).1 > 0.0);
        check_gradient("inside", &body, &inside, 5, 2e-3);
        assert_eq!(body.cost_at(&[0.0; 8]).unwrap().nats, 0.0);
    }
}
