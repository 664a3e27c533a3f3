//! What is evaluated, until an interrupt is raised.

use std::ops::Range;

use crate::center::Center;
use crate::coordinates::{Coordinates, Straight};
use crate::direction::Direction;
use crate::fisher::{FisherError, FisherFactor, FisherMatrix};
use crate::interrupt::Interrupt;
use crate::objective::{Cost, CostByPart, Differentiable, Objective, ObjectiveError, RayPoint, SoftGradient};
use crate::vectors::{Vector, Vectors, View};

/// An objective (with a gradient, in other coordinates) or a Fisher matrix that refuses to evaluate once an interrupt is raised, so that whatever
/// works with it stops within the evaluation that it has begun. What it refuses with says that it is an [interrupt](ObjectiveError::is_interrupt).
#[derive(Debug, Clone)]
pub struct Guarded<'a, T: ?Sized> {
    inner: &'a T,
    interrupt: Interrupt,
}

impl<'a, T: ?Sized> Guarded<'a, T> {
    /// Evaluates `inner` until the interrupt is raised.
    #[must_use]
    pub fn new(inner: &'a T, interrupt: &Interrupt) -> Self {
        Self { inner, interrupt: interrupt.clone() }
    }

    /// Evaluates something else of what is guarded, in the same way.
    ///
    /// # Errors
    /// Its own, and an interrupt.
    pub fn unless_raised<R, E: From<ObjectiveError>>(&self, evaluate: impl FnOnce(&'a T) -> Result<R, E>) -> Result<R, E> {
        if self.interrupt.is_raised() {
            return Err(ObjectiveError::interrupted().into());
        }
        self.interrupt.timed(|| evaluate(self.inner))
    }
}

impl<T: Center + ?Sized> Center for Guarded<'_, T> {
    fn dimension(&self) -> usize {
        self.inner.dimension()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        self.inner.center(range, out);
    }
}

impl<T: Objective + ?Sized> Objective for Guarded<'_, T> {
    fn cost(&self, direction: &Direction, point: RayPoint) -> Result<Cost, ObjectiveError> {
        self.unless_raised(|inner| inner.cost(direction, point))
    }

    fn cost_by_part(&self, direction: &Direction, point: RayPoint) -> Result<Option<CostByPart>, ObjectiveError> {
        self.unless_raised(|inner| inner.cost_by_part(direction, point))
    }
}

impl<T: Differentiable + ?Sized> Differentiable for Guarded<'_, T> {
    fn parts(&self) -> usize {
        self.inner.parts()
    }

    fn gradient(&self, weights: &[f32], parts: Range<usize>, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        self.unless_raised(|inner| inner.gradient(weights, parts, gradient))
    }

    fn cost_at(&self, weights: &[f32]) -> Result<Cost, ObjectiveError> {
        self.unless_raised(|inner| inner.cost_at(weights))
    }

    fn has_kinks(&self) -> bool {
        self.inner.has_kinks()
    }

    fn vectors(&self) -> &dyn Vectors {
        self.inner.vectors()
    }

    fn gradient_of(&self, weights: View<'_>, gradient: &mut Vector) -> Result<f64, ObjectiveError> {
        self.unless_raised(|inner| inner.gradient_of(weights, gradient))
    }

    fn cost_of(&self, weights: View<'_>) -> Result<Cost, ObjectiveError> {
        self.unless_raised(|inner| inner.cost_of(weights))
    }

    fn soft_gradient(
        &self,
        weights: View<'_>,
        softness: f64,
        gradient: &mut Vector,
        scratch: &mut Option<Vector>,
    ) -> Result<SoftGradient, ObjectiveError> {
        self.unless_raised(|inner| inner.soft_gradient(weights, softness, gradient, scratch))
    }

    fn soft_segment(
        &self,
        weights: View<'_>,
        shares: &[f64],
        softness: f64,
        gradient: &mut Vector,
        costs: &mut Vec<f64>,
    ) -> Result<Option<SoftGradient>, ObjectiveError> {
        self.unless_raised(|inner| inner.soft_segment(weights, shares, softness, gradient, costs))
    }

    fn likelihood_gradient(&self, weights: &[f32], parts: Range<usize>, seed: u64, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        self.unless_raised(|inner| inner.likelihood_gradient(weights, parts, seed, gradient))
    }
}

impl<T: Coordinates + ?Sized> Coordinates for Guarded<'_, T> {
    fn enter(&self, weights: &mut [f32]) {
        self.inner.enter(weights);
    }

    fn leave(&self, coordinates: &mut [f32]) {
        self.inner.leave(coordinates);
    }

    fn stiff_axes(&self, states: &[&[f32]]) -> Result<Vec<(usize, f64)>, ObjectiveError> {
        self.unless_raised(|inner| inner.stiff_axes(states))
    }

    fn straight(&self) -> Option<&dyn Straight> {
        self.inner.straight()
    }
}

impl<T: FisherMatrix + ?Sized> FisherMatrix for Guarded<'_, T> {
    fn dimension(&self) -> usize {
        self.inner.dimension()
    }

    fn product(&self, v: &[f32], out: &mut [f32]) -> Result<(), FisherError> {
        self.unless_raised(|inner| inner.product(v, out))
    }

    fn gradients_per_product(&self) -> u64 {
        self.inner.gradients_per_product()
    }

    fn scratch_bytes(&self) -> u64 {
        self.inner.scratch_bytes()
    }

    fn held_bytes(&self) -> u64 {
        self.inner.held_bytes()
    }

    fn factor(&self) -> Option<&dyn FisherFactor> {
        self.inner.factor()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fisher::DifferenceProducts;
    use crate::testkit::{Counting, Ellipsoid};

    #[test]
    fn nothing_is_evaluated_once_the_interrupt_is_raised() {
        let body = Counting::new(Ellipsoid::new(vec![1.0, 2.0, 3.0], vec![0.5; 3]));
        let interrupt = Interrupt::new();
        let guarded = Guarded::new(&body, &interrupt);
        let products = DifferenceProducts::new(&guarded, 1e-2).unwrap();
        let guarded_products = Guarded::new(&products as &dyn FisherMatrix, &interrupt);
        let direction = Direction::from_values(vec![1.0, -1.0, 0.5], 1.0, &[0.5; 3]);
        let (weights, mut out, mut made) = ([0.1f32, 0.2, 0.3], [0.0f32; 3], Vector::Slice(vec![0.0; 3]));
        let mut evaluate = || -> Vec<Result<(), FisherError>> {
            vec![
                guarded.cost(&direction, RayPoint::straight(1.0)).map(|_| ()).map_err(Into::into),
                guarded.cost_by_part(&direction, RayPoint::straight(1.0)).map(|_| ()).map_err(Into::into),
                guarded.cost_at(&weights).map(|_| ()).map_err(Into::into),
                guarded.gradient(&weights, 0..1, &mut out).map(|_| ()).map_err(Into::into),
                guarded.soft_gradient(View::Slice(&weights), 0.1, &mut made, &mut None).map(|_| ()).map_err(Into::into),
                guarded.gradient_of(View::Slice(&weights), &mut made).map(|_| ()).map_err(Into::into),
                guarded.cost_of(View::Slice(&weights)).map(|_| ()).map_err(Into::into),
                guarded.likelihood_gradient(&weights, 0..1, 3, &mut out).map(|_| ()).map_err(Into::into),
                products.product(&weights, &mut out),
                guarded_products.product(&weights, &mut out),
            ]
        };
        assert!(evaluate().into_iter().all(|found| found.is_ok()));
        let before = (body.evaluations(), body.gradients());
        assert_eq!(before, (3, 8));
        interrupt.clone().raise();
        for found in evaluate() {
            let error = found.unwrap_err();
            assert!(error.is_interrupt() && error.to_string() == "interrupted", "{error}");
        }
        assert_eq!((body.evaluations(), body.gradients()), before);
        // Where everything is can still be asked.
        assert_eq!((Center::dimension(&guarded), guarded_products.dimension(), guarded.parts(), guarded.has_kinks()), (3, 3, 1, false));
        assert!(!ObjectiveError::new("a reason").is_interrupt());
    }
}
