//! An objective that raises an interrupt.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::center::Center;
use crate::coordinates::Coordinates;
use crate::direction::Direction;
use crate::interrupt::Interrupt;
use crate::objective::{Cost, Differentiable, Objective, ObjectiveError, RayPoint, SoftGradient};
use crate::vectors::{Vector, Vectors, View};

/// Raises an interrupt after so many evaluations (costs and gradients alike) of another objective, during the last of them, and counts those that begin
/// nevertheless.
#[derive(Debug)]
pub struct Interrupting<O> {
    inner: O,
    armed: Mutex<Option<Armed>>,
    evaluations: AtomicU64,
    late: AtomicU64,
}

#[derive(Debug)]
struct Armed {
    interrupt: Interrupt,
    left: u64,
}

impl<O> Interrupting<O> {
    /// Raises nothing before it is armed.
    pub fn new(inner: O) -> Self {
        Self { inner, armed: Mutex::default(), evaluations: AtomicU64::new(0), late: AtomicU64::new(0) }
    }

    /// Raises this interrupt with the evaluation number `after` from now, counted from 1.
    pub fn arm(&self, interrupt: &Interrupt, after: u64) {
        let armed = Armed { interrupt: interrupt.clone(), left: after };
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = Some(armed);
    }

    /// Evaluations so far, over all threads.
    pub fn evaluations(&self) -> u64 {
        self.evaluations.load(Ordering::Relaxed)
    }

    /// Evaluations that began while the interrupt was raised already.
    pub fn late(&self) -> u64 {
        self.late.load(Ordering::Relaxed)
    }

    fn evaluating(&self) -> &O {
        self.evaluations.fetch_add(1, Ordering::Relaxed);
        if let Some(armed) = &mut *self.armed.lock().unwrap_or_else(PoisonError::into_inner) {
            if armed.interrupt.is_raised() {
                self.late.fetch_add(1, Ordering::Relaxed);
            }
            armed.left = armed.left.saturating_sub(1);
            if armed.left == 0 {
                armed.interrupt.raise();
            }
        }
        &self.inner
    }
}

impl<O: Center> Center for Interrupting<O> {
    fn dimension(&self) -> usize {
        self.inner.dimension()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        self.inner.center(range, out);
    }
}

impl<O: Objective> Objective for Interrupting<O> {
    fn cost(&self, direction: &Direction, point: RayPoint) -> Result<Cost, ObjectiveError> {
        self.evaluating().cost(direction, point)
    }
}

impl<O: Differentiable> Differentiable for Interrupting<O> {
    fn parts(&self) -> usize {
        self.inner.parts()
    }

    fn gradient(&self, weights: &[f32], parts: Range<usize>, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        self.evaluating().gradient(weights, parts, gradient)
    }

    fn cost_at(&self, weights: &[f32]) -> Result<Cost, ObjectiveError> {
        self.evaluating().cost_at(weights)
    }

    fn has_kinks(&self) -> bool {
        self.inner.has_kinks()
    }

    fn vectors(&self) -> &dyn Vectors {
        self.inner.vectors()
    }

    fn gradient_of(&self, weights: View<'_>, gradient: &mut Vector) -> Result<f64, ObjectiveError> {
        self.evaluating().gradient_of(weights, gradient)
    }

    fn cost_of(&self, weights: View<'_>) -> Result<Cost, ObjectiveError> {
        self.evaluating().cost_of(weights)
    }

    fn soft_gradient(
        &self,
        weights: View<'_>,
        softness: f64,
        gradient: &mut Vector,
        scratch: &mut Option<Vector>,
    ) -> Result<SoftGradient, ObjectiveError> {
        self.evaluating().soft_gradient(weights, softness, gradient, scratch)
    }

    fn soft_segment(
        &self,
        weights: View<'_>,
        shares: &[f64],
        softness: f64,
        gradient: &mut Vector,
        costs: &mut Vec<f64>,
    ) -> Result<Option<SoftGradient>, ObjectiveError> {
        self.evaluating().soft_segment(weights, shares, softness, gradient, costs)
    }

    fn likelihood_gradient(&self, weights: &[f32], parts: Range<usize>, seed: u64, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        self.evaluating().likelihood_gradient(weights, parts, seed, gradient)
    }
}

impl<O: Coordinates> Coordinates for Interrupting<O> {
    fn enter(&self, weights: &mut [f32]) {
        self.inner.enter(weights);
    }

    fn leave(&self, coordinates: &mut [f32]) {
        self.inner.leave(coordinates);
    }

    fn stiff_axes(&self, states: &[&[f32]]) -> Result<Vec<(usize, f64)>, ObjectiveError> {
        self.evaluating().stiff_axes(states)
    }
}
