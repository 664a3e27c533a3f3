//! What a body has to say about itself to become an objective.

use crate::objective::ObjectiveError;
use crate::testkit::gradients::no_likelihood;

/// A cost as a function of the displacement `x = w - c`, all in `f64`.
pub(super) trait Shape: Sync {
    /// The coordinates of `c`.
    fn center_values(&self) -> &[f32];

    /// The cost, in nats; with its gradient written to all of `gradient` where that is given.
    fn value(&self, displacement: &[f64], gradient: Option<&mut [f64]>) -> f64;

    /// For costs that are divergences between normal distributions with unit covariance and the means `m(x)` and `m(0)`: the labels'
    /// deviations `z` are replaced by `-J' z`, `J` the Jacobian of `m`.
    ///
    /// # Errors
    /// If the cost is no such divergence.
    fn pull_back_label(&self, displacement: &[f64], deviations: &mut [f32]) -> Result<(), ObjectiveError> {
        let _ = (displacement, deviations);
        Err(no_likelihood("this body"))
    }
}

/// `Objective` and `Differentiable` for a type that has a [`Shape`].
macro_rules! objective_from_shape {
    ($body:ty $(, [$($generics:tt)*])?) => {
        impl$(<$($generics)*>)? $crate::center::Center for $body {
            fn dimension(&self) -> usize {
                $crate::testkit::shape::Shape::center_values(self).len()
            }

            fn center(&self, range: std::ops::Range<usize>, out: &mut [f32]) {
                out.copy_from_slice(&$crate::testkit::shape::Shape::center_values(self)[range]);
            }
        }

        impl$(<$($generics)*>)? $crate::objective::Objective for $body {
            fn cost(
                &self,
                direction: &$crate::direction::Direction,
                point: $crate::objective::RayPoint,
            ) -> Result<$crate::objective::Cost, $crate::objective::ObjectiveError> {
                use $crate::testkit::shape::Shape;
                // w - c, so that nothing cancels near the center.
                let displacement = $crate::objective::RayPoint { center: point.center - 1.0, direction: point.direction };
                Ok($crate::testkit::wrappers::with_point(self.center_values(), direction, displacement, |x| {
                    $crate::objective::Cost::exact(self.value(x, None))
                }))
            }
        }

        impl$(<$($generics)*>)? $crate::objective::Differentiable for $body {
            fn parts(&self) -> usize {
                1
            }

            fn gradient(
                &self,
                weights: &[f32],
                parts: std::ops::Range<usize>,
                gradient: &mut [f32],
            ) -> Result<f64, $crate::objective::ObjectiveError> {
                use $crate::testkit::shape::{Shape, with_displacement};
                if !$crate::testkit::gradients::asks_for_all(self.center_values().len(), weights, &parts, gradient) {
                    gradient.fill(0.0);
                    return Ok(0.0);
                }
                Ok(with_displacement(self.center_values(), weights, |x| {
                    $crate::testkit::scratch::with_buffer(x.len(), |slopes| {
                        let nats = self.value(x, Some(slopes));
                        gradient.iter_mut().zip(&*slopes).for_each(|(out, slope)| *out = *slope as f32);
                        nats
                    })
                }))
            }

            fn cost_at(&self, weights: &[f32]) -> Result<$crate::objective::Cost, $crate::objective::ObjectiveError> {
                use $crate::testkit::shape::{Shape, with_displacement};
                Ok(with_displacement(self.center_values(), weights, |x| $crate::objective::Cost::exact(self.value(x, None))))
            }

            fn likelihood_gradient(
                &self,
                weights: &[f32],
                parts: std::ops::Range<usize>,
                seed: u64,
                gradient: &mut [f32],
            ) -> Result<f64, $crate::objective::ObjectiveError> {
                use $crate::testkit::shape::{Shape, with_displacement};
                if !$crate::testkit::gradients::asks_for_all(self.center_values().len(), weights, &parts, gradient) {
                    gradient.fill(0.0);
                    return Ok(0.0);
                }
                let nats = $crate::testkit::gradients::draw_label(seed, gradient);
                with_displacement(self.center_values(), weights, |x| self.pull_back_label(x, gradient))?;
                Ok(nats)
            }
        }
    };
}
pub(super) use objective_from_shape;

/// Calls `work` with `weights - center`.
///
/// # Panics
/// If the lengths differ.
pub(super) fn with_displacement<T>(center: &[f32], weights: &[f32], work: impl FnOnce(&[f64]) -> T) -> T {
    assert_eq!(weights.len(), center.len(), "one weight per coordinate");
    crate::testkit::scratch::with_buffer(center.len(), |x| {
        for ((x, w), c) in x.iter_mut().zip(weights).zip(center) {
            *x = f64::from(*w) - f64::from(*c);
        }
        work(x)
    })
}

/// `1/2 sum l_i x_i^2`, with `l_i x_i` written to `gradient`.
pub(super) fn quadratic(eigenvalues: &[f64], x: &[f64], gradient: Option<&mut [f64]>) -> f64 {
    if let Some(gradient) = gradient {
        for ((out, l), x) in gradient.iter_mut().zip(eigenvalues).zip(x) {
            *out = l * x;
        }
    }
    0.5 * crate::testkit::bodies::lane_sum(x.len(), |i| eigenvalues[i] * x[i] * x[i])
}
