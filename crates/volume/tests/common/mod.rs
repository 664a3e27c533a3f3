//! An objective from a closure over the whole weight vector.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use basin_volume::direction::Direction;
use basin_volume::objective::{Cost, Objective, ObjectiveError, RayPoint};

pub struct FromClosure<F> {
    pub center: Vec<f32>,
    pub cost: F,
    pub evaluations: AtomicU64,
}

impl<F: Fn(&[f64]) -> f64 + Sync> FromClosure<F> {
    pub fn new(center: Vec<f32>, cost: F) -> Self {
        Self { center, cost, evaluations: AtomicU64::new(0) }
    }
}

impl<F: Fn(&[f64]) -> f64 + Sync> Objective for FromClosure<F> {
    fn dimension(&self) -> usize {
        self.center.len()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        out.copy_from_slice(&self.center[range]);
    }

    fn cost(&self, direction: &Direction, point: RayPoint) -> Result<Cost, ObjectiveError> {
        self.evaluations.fetch_add(1, Ordering::Relaxed);
        let mut y = vec![0.0; self.center.len()];
        direction.fill(0..y.len(), &mut y);
        let step = point.direction * direction.scale();
        let w: Vec<f64> = self.center.iter().zip(&y).map(|(&c, &y)| point.center * f64::from(c) + step * f64::from(y)).collect();
        Ok(Cost::exact((self.cost)(&w)))
    }
}
