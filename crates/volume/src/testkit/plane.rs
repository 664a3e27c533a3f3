//! Bodies that are anything in a plane of two coordinates and quadratic in the others.
//!
//! ```text
//! C(c + x) = g(x_0, x_1) + R(x),      R(x) = 1/2 sum_{i >= 2} l_i x_i^2
//! ```
//!
//! The measure of `{C <= cutoff}` is an integral over the plane of the distribution function `F` of `R`, a weighted sum of noncentral
//! chi-squares that is known exactly. So is that of the star: on the way to `x` the cost is `g(t x_0, t x_1) + t^2 R(x)`, so that the
//! center sees `x` if and only if `R(x) <= rho(x_0, x_1)`,
//!
//! ```text
//! ln P(everything) = ln INT density(x_0, x_1) F(cutoff - g(x_0, x_1)) dx_0 dx_1
//! ln P(star)       = ln INT density(x_0, x_1) F(rho(x_0, x_1)) dx_0 dx_1,      rho = min_{0 < t <= 1} (cutoff - g(t x_0, t x_1))/t^2
//! ```

mod costs;
mod integral;

pub use costs::{CurvedValley, NormalCrossing, TwoWells};
pub use integral::PlaneCost;

use crate::objective::ObjectiveError;
use crate::prior::Prior;
use crate::testkit::gradients::no_likelihood;
use crate::testkit::shape::{Shape, objective_from_shape, quadratic};
use crate::testkit::truth::Truth;
use integral::{PlaneIntegral, Rest};

/// The cost `g(x_0, x_1) + 1/2 sum_{i >= 2} l_i x_i^2` of `x = w - c`.
#[derive(Debug, Clone)]
pub struct PlaneBody<G> {
    plane: G,
    /// `l_2, l_3, ...`
    rest: Vec<f64>,
    center: Vec<f32>,
}

impl<G: PlaneCost> PlaneBody<G> {
    /// `plane` is `g`; `rest` are the eigenvalues of the other coordinates, so that the center is longer by two.
    ///
    /// # Panics
    /// If the lengths do not fit, `rest` is empty, or one of it is not positive and finite.
    #[must_use]
    pub fn new(plane: G, rest: Vec<f64>, center: Vec<f32>) -> Self {
        assert_eq!(rest.len() + 2, center.len(), "the center has two coordinates more than there are eigenvalues");
        assert!(!rest.is_empty() && rest.iter().all(|l| *l > 0.0 && l.is_finite()), "eigenvalues must be finite and positive");
        Self { plane, rest, center }
    }

    /// The cost in the plane.
    #[must_use]
    pub fn plane(&self) -> &G {
        &self.plane
    }

    /// The measures under the Gaussian or the flat prior, by quadrature; error about 1e-6 nats, 1e-5 for two wells, whose cost has a kink (tests: coarser rules, draws).
    ///
    /// # Panics
    /// If the prior is the sphere, or the cutoff is not positive.
    #[must_use]
    pub fn truth(&self, prior: Prior, cutoff: f64) -> Truth {
        self.truth_with_panels(prior, cutoff, 40)
    }

    fn truth_with_panels(&self, prior: Prior, cutoff: f64, panels: usize) -> Truth {
        assert!(cutoff > 0.0 && cutoff.is_finite(), "the cutoff must be positive: {cutoff}");
        let density = match prior {
            Prior::Gaussian { sigma } => Some(sigma),
            Prior::Lebesgue => None,
            Prior::Sphere => panic!("the measure under the spherical prior is not known"),
        };
        if density.is_none() && !self.plane.is_bounded() {
            return Truth::same(f64::INFINITY);
        }
        let rest = Rest::new(&self.rest, &self.center[2..], density, cutoff);
        let center = [f64::from(self.center[0]), f64::from(self.center[1])];
        let integral = PlaneIntegral { plane: &self.plane, rest: &rest, center, sigma: density, cutoff, panels };
        let everything = integral.everything();
        let basin = self.plane.detached_measure(&integral).unwrap_or(everything);
        Truth { star: Some(integral.star()), basin, everything }
    }
}

impl<G: PlaneCost> Shape for PlaneBody<G> {
    fn center_values(&self) -> &[f32] {
        &self.center
    }

    fn value(&self, displacement: &[f64], gradient: Option<&mut [f64]>) -> f64 {
        let (plane, rest) = displacement.split_at(2);
        let plane = [plane[0], plane[1]];
        let Some(gradient) = gradient else { return self.plane.cost(plane) + quadratic(&self.rest, rest, None) };
        let (in_plane, in_rest) = gradient.split_at_mut(2);
        in_plane.copy_from_slice(&self.plane.gradient(plane));
        self.plane.cost(plane) + quadratic(&self.rest, rest, Some(in_rest))
    }

    fn pull_back_label(&self, displacement: &[f64], deviations: &mut [f32]) -> Result<(), ObjectiveError> {
        let z = [f64::from(deviations[0]), f64::from(deviations[1])];
        let pulled = self.plane.pull_back([displacement[0], displacement[1]], z).ok_or_else(|| no_likelihood(self.plane.name()))?;
        deviations[0] = -pulled[0] as f32;
        deviations[1] = -pulled[1] as f32;
        for (z, l) in deviations[2..].iter_mut().zip(&self.rest) {
            *z = -(l.sqrt() * f64::from(*z)) as f32;
        }
        Ok(())
    }
}

objective_from_shape!(PlaneBody<G>, [G: PlaneCost]);

#[cfg(test)]
mod tests;
