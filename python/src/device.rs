//! Vectors of length D that live where Python's weights do: states, velocities and gradients of chains on a graphics card.
//!
//! Every operation is one call of Python, with numbers of vectors and factors: nothing of length D crosses the bus but where a chain begins, and where
//! its state is written to disk.

use std::sync::atomic::{AtomicU64, Ordering};

use basin_volume::objective::{Cost, ObjectiveError};
use basin_volume::random::NormalVector;
use basin_volume::vectors::{Shift, Turn, Vector, Vectors, View};

use crate::mailbox::{Answer, Line, Message, What, cost_of, unexpected};

/// What is to be done with vectors.
pub struct Operation {
    /// Its name, that of a method on the other side.
    pub name: &'static str,
    /// The vectors' numbers: what is written to comes first.
    pub vectors: Vec<u64>,
    /// Factors, in the order of the method.
    pub factors: Vec<f64>,
    /// What a vector of normals is made of: seed, index and the number of its purpose.
    pub normal: Option<(u64, u64, u64)>,
    /// Coordinates of a new vector.
    pub values: Option<Vec<f32>>,
}

impl Operation {
    fn new(name: &'static str, vectors: Vec<u64>, factors: Vec<f64>) -> Self {
        Self { name, vectors, factors, normal: None, values: None }
    }
}

/// The vectors of one subject.
pub struct DeviceVectors {
    line: Line,
    next: AtomicU64,
}

/// The number of a vector on the other side, which forgets it when this one is dropped.
struct Handle {
    number: u64,
    line: Line,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Whoever listened may be gone, and their vectors with them.
        let _ = self.line.tell(Message::Forget(self.line.subject(), self.number));
    }
}

fn number(view: View<'_>) -> u64 {
    view.foreign::<Handle>().number
}

impl DeviceVectors {
    /// Of the subject at the other end of this line.
    pub fn new(line: Line) -> Self {
        Self { line, next: AtomicU64::new(0) }
    }

    fn ask(&self, operation: Operation) -> Result<Answer, ObjectiveError> {
        self.line.ask(What::Vectors(operation))
    }

    fn run(&self, operation: Operation) -> Result<(), ObjectiveError> {
        match self.ask(operation)? {
            Answer::Done => Ok(()),
            _ => Err(unexpected()),
        }
    }

    fn number_of(&self, operation: Operation) -> Result<f64, ObjectiveError> {
        match self.ask(operation)? {
            Answer::Number(value) => Ok(value),
            _ => Err(unexpected()),
        }
    }

    fn made(&self, operation: impl FnOnce(u64) -> Operation) -> Result<Vector, ObjectiveError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let handle = Handle { number, line: self.line.clone() };
        self.run(operation(number))?;
        Ok(Vector::Foreign(Box::new(handle)))
    }

    /// The cost at a vector, and its gradient written to another.
    pub fn gradient(&self, weights: View<'_>, gradient: &Vector) -> Result<f64, ObjectiveError> {
        self.number_of(Operation::new("gradient", vec![number(gradient.view()), number(weights)], vec![]))
    }

    /// The cost at a vector.
    pub fn cost(&self, weights: View<'_>) -> Result<Cost, ObjectiveError> {
        cost_of(self.ask(Operation::new("cost", vec![number(weights)], vec![]))?)
    }
}

impl Vectors for DeviceVectors {
    fn zeros(&self, dimension: usize) -> Result<Vector, ObjectiveError> {
        self.made(|number| Operation::new("zeros", vec![number], vec![dimension as f64]))
    }

    fn vector_of(&self, values: Vec<f32>) -> Result<Vector, ObjectiveError> {
        self.made(|number| Operation { values: Some(values), ..Operation::new("vector_of", vec![number], vec![]) })
    }

    fn read(&self, x: View<'_>, out: &mut [f32]) -> Result<(), ObjectiveError> {
        match self.ask(Operation::new("read", vec![number(x)], vec![]))? {
            Answer::Values(values) if values.len() == out.len() => {
                out.copy_from_slice(&values);
                Ok(())
            }
            _ => Err(unexpected()),
        }
    }

    fn fill_normal(&self, normal: NormalVector, out: &mut Vector) -> Result<(), ObjectiveError> {
        let recipe = (normal.seed(), normal.index(), normal.purpose() as u64);
        self.run(Operation { normal: Some(recipe), ..Operation::new("fill_normal", vec![number(out.view())], vec![]) })
    }

    fn clear(&self, out: &mut Vector) -> Result<(), ObjectiveError> {
        self.run(Operation::new("clear", vec![number(out.view())], vec![]))
    }

    fn offset(&self, out: &mut Vector, x: View<'_>, shift: Shift<'_>, factor: f64) -> Result<(), ObjectiveError> {
        let vectors = vec![number(out.view()), number(x), number(shift.center)];
        self.run(Operation::new("offset", vectors, vec![shift.shrinkage, factor]))
    }

    fn place(&self, x: &mut Vector, shift: Shift<'_>, factor: f64) -> Result<(), ObjectiveError> {
        self.run(Operation::new("place", vec![number(x.view()), number(shift.center)], vec![shift.shrinkage, factor]))
    }

    fn add(&self, y: &mut Vector, factor: f64, x: View<'_>) -> Result<(), ObjectiveError> {
        self.run(Operation::new("add", vec![number(y.view()), number(x)], vec![factor]))
    }

    fn multiply(&self, x: &mut Vector, factors: View<'_>) -> Result<(), ObjectiveError> {
        self.run(Operation::new("multiply", vec![number(x.view()), number(factors)], vec![]))
    }

    fn turn(&self, z: &mut Vector, v: &mut Vector, turn: Turn) -> Result<(), ObjectiveError> {
        self.run(Operation::new("turn", vec![number(z.view()), number(v.view())], vec![turn.sine, turn.cosine]))
    }

    fn inner(&self, x: View<'_>, y: View<'_>) -> Result<f64, ObjectiveError> {
        self.number_of(Operation::new("inner", vec![number(x), number(y)], vec![]))
    }

    fn distance_squared(&self, x: View<'_>, shift: Shift<'_>) -> Result<f64, ObjectiveError> {
        self.number_of(Operation::new("distance_squared", vec![number(x), number(shift.center)], vec![shift.shrinkage]))
    }
}
