//! `sum |x_i|^p`: flatter or sharper than quadratic at the center.

use faer::c64;

use super::functions::ln_gamma;
use crate::prior::Prior;
use crate::testkit::shape::{Shape, objective_from_shape};
use crate::testkit::transform::{integral, log_measure_below, with_counts};
use crate::testkit::truth::Truth;

/// The cost `k sum |w_i - c_i|^p`, `p >= 1`. It grows along every ray, so that star, basin and everything are the same.
///
/// Volume of `{C <= cutoff}`: `(2 Gamma(1 + 1/p) (cutoff/k)^(1/p))^D / Gamma(1 + D/p)`. Its probability under `N(0, sigma^2 I)` comes from
/// the product of the coordinates' Laplace transforms `INT density(c_i + x) exp(-s k |x|^p) dx`, along the ray of the complex plane where
/// the exponential does not oscillate.
#[derive(Debug, Clone)]
pub struct PowerBall {
    power: f64,
    factor: f64,
    center: Vec<f32>,
}

impl PowerBall {
    /// The power `p` and the factor `k`.
    ///
    /// # Panics
    /// If the power is below one, the factor is not positive, one is not finite, or the center has no coordinates.
    #[must_use]
    pub fn new(power: f64, factor: f64, center: Vec<f32>) -> Self {
        assert!(power >= 1.0 && power.is_finite() && factor > 0.0 && factor.is_finite(), "a power >= 1 and a positive factor, please");
        assert!(!center.is_empty(), "a ball needs at least one dimension");
        Self { power, factor, center }
    }

    /// The measure under the Gaussian or the flat prior, in nats; error below 1e-6 (1e-12 for volumes). `D >= 4 p`, and the work is
    /// proportional to the number of different `|c_i|`.
    ///
    /// # Panics
    /// If the prior is the sphere, or the cutoff is not positive.
    #[must_use]
    pub fn truth(&self, prior: Prior, cutoff: f64) -> Truth {
        assert!(cutoff > 0.0 && cutoff.is_finite(), "the cutoff must be positive: {cutoff}");
        let dimension = self.center.len() as f64;
        match prior {
            Prior::Lebesgue => {
                let one = std::f64::consts::LN_2 + ln_gamma(1.0 + 1.0 / self.power) + (cutoff / self.factor).ln() / self.power;
                Truth::same(dimension * one - ln_gamma(1.0 + dimension / self.power))
            }
            Prior::Gaussian { sigma } => {
                let groups = with_counts(self.center.iter().map(|c| c.abs()));
                let transform = |s: c64| {
                    groups
                        .iter()
                        .map(|(c, count)| self.transform(s, f64::from(*c), sigma).ln() * *count)
                        .fold(c64::new(0.0, 0.0), |a, b| a + b)
                };
                Truth::same(log_measure_below(transform, cutoff))
            }
            Prior::Sphere => panic!("the measure under the spherical prior is not known"),
        }
    }

    /// `E exp(-s k |w - c|^p)` for one coordinate `w ~ N(0, sigma^2)`.
    fn transform(&self, s: c64, center: f64, sigma: f64) -> c64 {
        // x = e^(-i angle) rho: |x|^p turns against s, and the Gaussian must still fall.
        let argument = s.im.atan2(s.re);
        let angle = argument / self.power.max(2.0);
        let turn = c64::new(angle.cos(), -angle.sin());
        let rate = s * self.factor * c64::new((self.power * angle).cos(), -(self.power * angle).sin());
        let fallen = (48.0 / rate.re).powf(1.0 / self.power);
        let reach = fallen.min(sigma * (96.0 / (2.0 * angle).cos()).sqrt() + 2.0 * center);
        // Panels that shrink towards zero, where |x|^p is not smooth.
        let edges: Vec<f64> = std::iter::once(0.0).chain((0..11).rev().map(|k| reach * 0.5f64.powi(k))).collect();
        let half = 0.5 / (sigma * sigma);
        let value = integral(&edges, |rho| {
            let x = turn * rho;
            let gaussian = |w: c64| (-(w * w) * half).exp();
            let both = gaussian(x + c64::new(center, 0.0)) + gaussian(x - c64::new(center, 0.0));
            both * (-(rate * rho.powf(self.power))).exp()
        });
        value * turn / (sigma * std::f64::consts::TAU.sqrt())
    }
}

impl Shape for PowerBall {
    fn center_values(&self) -> &[f32] {
        &self.center
    }

    fn value(&self, displacement: &[f64], gradient: Option<&mut [f64]>) -> f64 {
        if let Some(gradient) = gradient {
            for (out, x) in gradient.iter_mut().zip(displacement) {
                *out = if *x == 0.0 { 0.0 } else { self.factor * self.power * x.abs().powf(self.power - 1.0) * x.signum() };
            }
        }
        self.factor * displacement.iter().map(|x| x.abs().powf(self.power)).sum::<f64>()
    }
}

objective_from_shape!(PowerBall);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objective::Differentiable;
    use crate::testkit::Ellipsoid;
    use crate::testkit::gradients::tests::{check_gradient, normals};

    #[test]
    fn the_power_two_is_a_ball() {
        for (dimension, offset) in [(8, 0.0), (8, 0.7), (100, 0.3), (1000, 0.0)] {
            let center = vec![offset; dimension];
            let body = PowerBall::new(2.0, 1.5, center.clone());
            let ellipsoid = Ellipsoid::new(vec![3.0; dimension], center);
            for cutoff in [1e-2, 0.3 * dimension as f64] {
                let (value, expected) =
                    (body.truth(Prior::Gaussian { sigma: 0.8 }, cutoff).basin, ellipsoid.true_log_probability(0.8, cutoff));
                assert!((value - expected).abs() < 1e-7 + 1e-12 * expected.abs(), "D {dimension}, {cutoff}: {value} instead of {expected}");
                let (value, expected) = (body.truth(Prior::Lebesgue, cutoff).basin, ellipsoid.true_log_volume_lebesgue(cutoff));
                assert!((value - expected).abs() < 1e-12 * expected.abs().max(1.0), "volume, D {dimension}: {value} instead of {expected}");
            }
        }
    }

    #[test]
    fn other_powers_agree_with_prior_draws_and_with_volumes() {
        for (power, offset) in [(1.0, 0.0f32), (1.0, 0.4), (1.5, 0.4), (3.0, 0.2), (4.0, 0.0), (4.0, 0.4)] {
            let dimension = 5;
            let body = PowerBall::new(power, 1.5, vec![offset, -offset, offset, offset, -offset]);
            let (draws, cutoff, sigma) = (400_000, 1.5, 0.7f32);
            let all = normals(8, draws * dimension, sigma);
            let inside = all.chunks(dimension).filter(|w| body.cost_at(w).unwrap().nats <= cutoff).count() as f64;
            let (estimate, sd) = ((inside / draws as f64).ln(), inside.sqrt().recip());
            let value = body.truth(Prior::Gaussian { sigma: f64::from(sigma) }, cutoff).everything;
            assert!((value - estimate).abs() < 3.5 * sd && sd < 0.03, "p {power}, {offset}: {value}, draws {estimate} +- {sd}");
            // A wide prior is flat.
            let flat = PowerBall::new(power, 1.5, vec![offset; 20]);
            let wide = flat.truth(Prior::Gaussian { sigma: 1e4 }, 0.3).basin + 10.0 * (std::f64::consts::TAU * 1e8).ln();
            let volume = flat.truth(Prior::Lebesgue, 0.3).basin;
            assert!((wide - volume).abs() < 1e-5, "p {power}: {wide} instead of {volume}");
        }
    }

    #[test]
    fn gradients() {
        for power in [1.0, 1.5, 4.0] {
            let body = PowerBall::new(power, 0.7, normals(1, 30, 0.5));
            check_gradient("power ball", &body, &normals(2, 30, 1.0), 5, 5e-3);
        }
    }
}
