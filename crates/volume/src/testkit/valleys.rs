//! Many curved valleys at once: curved in every direction of a space of any dimension.

use faer::c64;

use crate::objective::ObjectiveError;
use crate::prior::Prior;
use crate::testkit::bodies::log_unit_ball;
use crate::testkit::plane::{CurvedValley, PlaneCost};
use crate::testkit::shape::{Shape, objective_from_shape};
use crate::testkit::transform::{integral, log_measure_below, with_counts};
use crate::testkit::truth::Truth;

/// The sum of one [`CurvedValley`] for every two coordinates `(x_0, x_1), (x_2, x_3), ...`.
///
/// It is an ellipsoid after a shear with Jacobian one, so that its volume is known, and it hangs together. Under `N(0, sigma^2 I)` the Laplace
/// transform of a pair is an integral over one coordinate, as the other is Gaussian given that one:
///
/// ```text
/// E exp(-s g) = (1 + s l_1 sigma^2)^(-1/2) INT density(c_0 + x) exp( -1/2 s l_0 x^2 - 1/2 (c_1 + b x^2)^2 s l_1/(1 + s l_1 sigma^2) ) dx
/// ```
///
/// The star is not known: along a ray the costs of the pairs do not separate.
#[derive(Debug, Clone)]
pub struct CurvedValleys {
    along: f64,
    across: f64,
    bend: f64,
    valley: CurvedValley,
    center: Vec<f32>,
}

impl CurvedValleys {
    /// Curvatures along the floors and across them, and the bend, the same for all pairs.
    ///
    /// # Panics
    /// If [`CurvedValley::new`] does, or the number of coordinates is odd or zero.
    #[must_use]
    pub fn new(along: f64, across: f64, bend: f64, center: Vec<f32>) -> Self {
        assert!(!center.is_empty() && center.len().is_multiple_of(2), "valleys need pairs of coordinates");
        Self { along, across, bend, valley: CurvedValley::new(along, across, bend), center }
    }

    /// The measures under the Gaussian or the flat prior; error below 1e-6 nats from `D = 8` on. The work is proportional to the number of
    /// different pairs of coordinates of the center.
    ///
    /// # Panics
    /// If the prior is the sphere, or the cutoff is not positive.
    #[must_use]
    pub fn truth(&self, prior: Prior, cutoff: f64) -> Truth {
        assert!(cutoff > 0.0 && cutoff.is_finite(), "the cutoff must be positive: {cutoff}");
        let dimension = self.center.len() as f64;
        let measure = match prior {
            Prior::Lebesgue => {
                let log_determinant = 0.5 * dimension * (self.along.ln() + self.across.ln());
                log_unit_ball(dimension) + 0.5 * (dimension * (2.0 * cutoff).ln() - log_determinant)
            }
            Prior::Gaussian { sigma } => {
                let groups = with_counts(self.center.chunks(2).map(|pair| [f64::from(pair[0]).abs(), f64::from(pair[1])]));
                let transform = |s: c64| {
                    groups.iter().map(|(c, count)| self.log_transform(s, *c, sigma) * *count).fold(c64::new(0.0, 0.0), |a, b| a + b)
                };
                log_measure_below(transform, cutoff)
            }
            Prior::Sphere => panic!("the measure under the spherical prior is not known"),
        };
        Truth { star: None, basin: measure, everything: measure }
    }

    fn log_transform(&self, s: c64, center: [f64; 2], sigma: f64) -> c64 {
        let one = c64::new(1.0, 0.0);
        let across = one + s * (self.across * sigma * sigma);
        let pull = s * self.across / across * 0.5;
        let along = s * (0.5 * self.along);
        // Turned by a quarter of the argument of s, both the square and the fourth power fall.
        let angle = 0.25 * s.im.atan2(s.re);
        let turn = c64::new(angle.cos(), -angle.sin());
        let half = 0.5 / (sigma * sigma);
        let rate = ((along + c64::new(half, 0.0)) * turn * turn).re;
        let reach = (60.0 / rate).sqrt() + 2.0 * center[0] * half / rate;
        let edges: Vec<f64> = (0..=24).map(|k| reach * (f64::from(k) / 12.0 - 1.0)).collect();
        let value = integral(&edges, |rho| {
            let x = turn * rho;
            let (w, middle) = (x + c64::new(center[0], 0.0), x * x * self.bend + c64::new(center[1], 0.0));
            (-(w * w) * half - along * x * x - pull * middle * middle).exp()
        });
        (value * turn / (sigma * std::f64::consts::TAU.sqrt())).ln() - across.ln() * 0.5
    }
}

impl Shape for CurvedValleys {
    fn center_values(&self) -> &[f32] {
        &self.center
    }

    fn value(&self, displacement: &[f64], gradient: Option<&mut [f64]>) -> f64 {
        let pairs = displacement.as_chunks::<2>().0;
        if let Some(gradient) = gradient {
            for (out, pair) in gradient.as_chunks_mut::<2>().0.iter_mut().zip(pairs) {
                *out = self.valley.gradient(*pair);
            }
        }
        pairs.iter().map(|pair| self.valley.cost(*pair)).sum()
    }

    fn pull_back_label(&self, displacement: &[f64], deviations: &mut [f32]) -> Result<(), ObjectiveError> {
        for (z, pair) in deviations.as_chunks_mut::<2>().0.iter_mut().zip(displacement.as_chunks::<2>().0) {
            let pulled = self.valley.pull_back(*pair, z.map(f64::from));
            *z = pulled.expect("a valley is a divergence").map(|p| -p as f32);
        }
        Ok(())
    }
}

objective_from_shape!(CurvedValleys);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objective::Differentiable;
    use crate::testkit::gradients::tests::{check_gradient, normals};
    use crate::testkit::{Ellipsoid, PlaneBody};

    const PRIOR: Prior = Prior::Gaussian { sigma: 0.8 };

    #[test]
    fn straight_valleys_are_ellipsoids() {
        for dimension in [8, 100, 1000] {
            let center: Vec<f32> = (0..dimension).map(|i| if i % 2 == 0 { 0.3 } else { -0.2 }).collect();
            let eigenvalues = (0..dimension).map(|i| if i % 2 == 0 { 0.1 } else { 8.0 }).collect();
            let ellipsoid = Ellipsoid::new(eigenvalues, center.clone());
            for cutoff in [1e-2, 0.4 * dimension as f64] {
                let value = CurvedValleys::new(0.1, 8.0, 0.0, center.clone()).truth(PRIOR, cutoff).basin;
                let expected = ellipsoid.true_log_probability(0.8, cutoff);
                assert!((value - expected).abs() < 1e-7 + 1e-11 * expected.abs(), "D {dimension}, {cutoff}: {value} instead of {expected}");
                let value = CurvedValleys::new(0.1, 8.0, 3.0, center.clone()).truth(Prior::Lebesgue, cutoff).basin;
                let expected = ellipsoid.true_log_volume_lebesgue(cutoff);
                assert!((value - expected).abs() < 1e-12 * expected.abs(), "volume, D {dimension}: {value} instead of {expected}");
            }
        }
    }

    #[test]
    fn a_pair_beside_straight_ones_is_a_plane_body() {
        // One bent pair and 6 quadratic coordinates, by the transform of the pair and of the chi-squares, against the integral over the plane.
        let center = vec![0.3f32, -0.2, 0.4, 0.1, 0.0, 0.2, -0.5, 0.3];
        let rest = vec![1.0, 2.0, 0.5, 1.0, 3.0, 0.7];
        let bent = CurvedValleys::new(0.1, 8.0, 2.0, center[..2].to_vec());
        for cutoff in [0.05, 0.5] {
            let transform = |s: c64| {
                let one = c64::new(1.0, 0.0);
                let chi_squares = rest.iter().zip(&center[2..]).map(|(l, c)| {
                    let a = one + s * (l * 0.64);
                    -(a.ln() * 0.5) - s * (0.5 * l * f64::from(*c).powi(2)) / a
                });
                bent.log_transform(s, [f64::from(center[0]), f64::from(center[1])], 0.8)
                    + chi_squares.fold(c64::new(0.0, 0.0), |a, b| a + b)
            };
            let value = log_measure_below(transform, cutoff);
            let expected = PlaneBody::new(CurvedValley::new(0.1, 8.0, 2.0), rest.clone(), center.clone()).truth(PRIOR, cutoff).everything;
            assert!((value - expected).abs() < 1e-6, "{cutoff}: {value} instead of {expected}");
        }
    }

    #[test]
    fn bent_valleys_agree_with_prior_draws() {
        let center = vec![0.3f32, -0.2, -0.3, -0.2, 0.1, 0.4, 0.1, 0.4];
        let body = CurvedValleys::new(0.1, 8.0, 2.0, center.clone());
        let (draws, cutoff) = (400_000, 2.0);
        let inside = normals(4, draws * 8, 0.8).chunks(8).filter(|w| body.cost_at(w).unwrap().nats <= cutoff).count() as f64;
        let (estimate, sd) = ((inside / draws as f64).ln(), inside.sqrt().recip());
        let value = body.truth(PRIOR, cutoff).everything;
        assert!((value - estimate).abs() < 3.5 * sd && sd < 0.05, "{value}, draws {estimate} +- {sd}");
        let straight = CurvedValleys::new(0.1, 8.0, 0.0, center).truth(PRIOR, cutoff).everything;
        assert!((value - straight).abs() > 5.0 * sd, "the bend does not matter: {value} and {straight}");
    }

    #[test]
    fn gradients_and_labels() {
        let body = CurvedValleys::new(0.1, 8.0, 2.0, normals(1, 10, 0.3));
        check_gradient("valleys", &body, &normals(2, 10, 0.5), 5, 2e-3);
        let mut score = vec![0.0f32; 10];
        let mut square = 0.0;
        for seed in 0..20_000 {
            body.likelihood_gradient(&body.center, 0..1, seed, &mut score).unwrap();
            square += f64::from(score[3]).powi(2) / 20_000.0;
        }
        assert!((square - 8.0).abs() < 0.4, "{square}");
    }
}
