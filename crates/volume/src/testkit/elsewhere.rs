//! A device of its own for tests: vectors that are no slices, and a cost that lives with them.

use std::ops::Range;

use crate::center::Center;
use crate::direction::Direction;
use crate::objective::{Cost, Differentiable, Objective, ObjectiveError, RayPoint};
use crate::random::NormalVector;
use crate::vectors::{Shift, Slices, Turn, Vector, Vectors, View};

/// What a vector is on the device.
#[derive(Debug)]
struct Tensor(Vector);

/// Vectors that only this type can read: the least that a device has to offer, every other operation composed of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Elsewhere;

fn wrap(vector: Vector) -> Vector {
    Vector::Foreign(Box::new(Tensor(vector)))
}

fn tensor(view: View<'_>) -> View<'_> {
    view.foreign::<Tensor>().0.view()
}

fn tensor_mut(vector: &mut Vector) -> &mut Vector {
    &mut vector.foreign_mut::<Tensor>().0
}

fn shift(shift: Shift<'_>) -> Shift<'_> {
    Shift { center: tensor(shift.center), ..shift }
}

impl Vectors for Elsewhere {
    fn zeros(&self, dimension: usize) -> Result<Vector, ObjectiveError> {
        Slices.zeros(dimension).map(wrap)
    }

    fn vector_of(&self, values: Vec<f32>) -> Result<Vector, ObjectiveError> {
        Slices.vector_of(values).map(wrap)
    }

    fn read(&self, x: View<'_>, out: &mut [f32]) -> Result<(), ObjectiveError> {
        Slices.read(tensor(x), out)
    }

    fn fill_normal(&self, normal: NormalVector, out: &mut Vector) -> Result<(), ObjectiveError> {
        Slices.fill_normal(normal, tensor_mut(out))
    }

    fn clear(&self, out: &mut Vector) -> Result<(), ObjectiveError> {
        Slices.clear(tensor_mut(out))
    }

    fn offset(&self, out: &mut Vector, x: View<'_>, by: Shift<'_>, factor: f64) -> Result<(), ObjectiveError> {
        Slices.offset(tensor_mut(out), tensor(x), shift(by), factor)
    }

    fn place(&self, x: &mut Vector, by: Shift<'_>, factor: f64) -> Result<(), ObjectiveError> {
        Slices.place(tensor_mut(x), shift(by), factor)
    }

    fn add(&self, y: &mut Vector, factor: f64, x: View<'_>) -> Result<(), ObjectiveError> {
        Slices.add(tensor_mut(y), factor, tensor(x))
    }

    fn multiply(&self, x: &mut Vector, factors: View<'_>) -> Result<(), ObjectiveError> {
        Slices.multiply(tensor_mut(x), tensor(factors))
    }

    fn turn(&self, z: &mut Vector, v: &mut Vector, turn: Turn) -> Result<(), ObjectiveError> {
        Slices.turn(tensor_mut(z), tensor_mut(v), turn)
    }

    fn inner(&self, x: View<'_>, y: View<'_>) -> Result<f64, ObjectiveError> {
        Slices.inner(tensor(x), tensor(y))
    }

    fn distance_squared(&self, x: View<'_>, by: Shift<'_>) -> Result<f64, ObjectiveError> {
        Slices.distance_squared(tensor(x), shift(by))
    }
}

/// A cost whose chains live on that device.
#[derive(Debug, Clone)]
pub struct OnDevice<O>(pub O);

impl<O: Center> Center for OnDevice<O> {
    fn dimension(&self) -> usize {
        self.0.dimension()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        self.0.center(range, out);
    }
}

impl<O: Objective> Objective for OnDevice<O> {
    fn cost(&self, direction: &Direction, point: RayPoint) -> Result<Cost, ObjectiveError> {
        self.0.cost(direction, point)
    }
}

impl<O: Differentiable> Differentiable for OnDevice<O> {
    fn parts(&self) -> usize {
        self.0.parts()
    }

    fn gradient(&self, weights: &[f32], parts: Range<usize>, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        self.0.gradient(weights, parts, gradient)
    }

    fn vectors(&self) -> &dyn Vectors {
        &Elsewhere
    }

    fn gradient_of(&self, weights: View<'_>, gradient: &mut Vector) -> Result<f64, ObjectiveError> {
        self.0.gradient_of(tensor(weights), tensor_mut(gradient))
    }

    fn cost_of(&self, weights: View<'_>) -> Result<Cost, ObjectiveError> {
        self.0.cost_of(tensor(weights))
    }

    fn likelihood_gradient(&self, weights: &[f32], parts: Range<usize>, seed: u64, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        self.0.likelihood_gradient(weights, parts, seed, gradient)
    }
}
