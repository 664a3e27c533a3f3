//! The largest of several costs: the set where it stays under the cutoff is where all of them do.

use std::ops::Range;

use crate::direction::{BLOCK, Direction};
use crate::objective::{Cost, Differentiable, Objective, ObjectiveError, RayPoint};

/// Why costs cannot be taken together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MaxCostError {
    /// No costs.
    #[error("the largest of no costs is no cost: at least one is needed")]
    Empty,
    /// Costs of different numbers of parameters.
    #[error("cost {index} is of {found} parameters and the first of {expected}: costs are taken together only around the same center")]
    Dimension {
        /// Which, from 0.
        index: usize,
        /// Its number of parameters.
        found: usize,
        /// That of the first.
        expected: usize,
    },
    /// Costs around different weights.
    #[error(
        "cost {index} is around other weights than the first, from coordinate {coordinate} on: costs are taken together only around the same center"
    )]
    Center {
        /// Which, from 0.
        index: usize,
        /// First coordinate that differs.
        coordinate: usize,
    },
}

/// `C(w) = max_k C_k(w)` for costs around the same center, in nats.
///
/// Along a ray its first crossing of a cutoff is the smallest of the first crossings of the `C_k`. A cost that is NaN or infinite is the
/// largest. Where it has to choose, the first of equal costs is taken.
///
/// As [`Differentiable`] it is one part: which cost is the largest is decided by all their positions. Its gradient is that of the largest,
/// a subgradient where two are equal; so are its likelihood gradients, with which the Fisher matrix at the center (where all costs are
/// zero) is that of the first cost alone.
#[derive(Debug, Clone)]
pub struct MaxCost<'a, O: ?Sized> {
    costs: Vec<&'a O>,
}

impl<'a, O: Objective + ?Sized> MaxCost<'a, O> {
    /// Takes costs together. Compares their centers once.
    ///
    /// # Errors
    /// If there is none, or they are not around the same center.
    pub fn new(costs: Vec<&'a O>) -> Result<Self, MaxCostError> {
        let (first, others) = costs.split_first().ok_or(MaxCostError::Empty)?;
        let expected = first.dimension();
        let (mut here, mut there) = (vec![0.0f32; expected.min(BLOCK)], vec![0.0f32; expected.min(BLOCK)]);
        for (other, index) in others.iter().zip(1..) {
            if other.dimension() != expected {
                return Err(MaxCostError::Dimension { index, found: other.dimension(), expected });
            }
            for start in (0..expected).step_by(BLOCK) {
                let range = start..expected.min(start + BLOCK);
                let (here, there) = (&mut here[..range.len()], &mut there[..range.len()]);
                first.center(range.clone(), here);
                other.center(range, there);
                if let Some(at) = here.iter().zip(there).position(|(a, b)| a != b) {
                    return Err(MaxCostError::Center { index, coordinate: start + at });
                }
            }
        }
        Ok(Self { costs })
    }

    /// The costs, in the order given.
    #[must_use]
    pub fn costs(&self) -> &[&'a O] {
        &self.costs
    }

    /// The largest cost and its number.
    fn largest(&self, cost: impl Fn(&O) -> Result<Cost, ObjectiveError>) -> Result<(usize, Cost), ObjectiveError> {
        let mut largest = (0, cost(self.costs[0])?);
        for (other, index) in self.costs[1..].iter().zip(1..) {
            if !largest.1.nats.is_finite() {
                break;
            }
            let cost = cost(other)?;
            if !cost.nats.is_finite() || cost.nats > largest.1.nats {
                largest = (index, cost);
            }
        }
        Ok(largest)
    }
}

impl<O: Objective + ?Sized> Objective for MaxCost<'_, O> {
    fn dimension(&self) -> usize {
        self.costs[0].dimension()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        self.costs[0].center(range, out);
    }

    fn cost(&self, direction: &Direction, point: RayPoint) -> Result<Cost, ObjectiveError> {
        Ok(self.largest(|cost| cost.cost(direction, point))?.1)
    }
}

impl<O: Differentiable + ?Sized> MaxCost<'_, O> {
    /// The largest cost at these weights, and the objective it belongs to.
    fn largest_at(&self, weights: &[f32]) -> Result<(&O, Cost), ObjectiveError> {
        let (index, cost) = self.largest(|cost| cost.cost_at(weights))?;
        Ok((self.costs[index], cost))
    }
}

/// Nothing, of no parts.
fn nothing(parts: &Range<usize>, gradient: &mut [f32]) -> bool {
    assert!(parts.end <= 1, "parts {parts:?} of one");
    if parts.is_empty() {
        gradient.fill(0.0);
    }
    parts.is_empty()
}

impl<O: Differentiable + ?Sized> Differentiable for MaxCost<'_, O> {
    fn parts(&self) -> usize {
        1
    }

    fn gradient(&self, weights: &[f32], parts: Range<usize>, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        if nothing(&parts, gradient) {
            return Ok(0.0);
        }
        let (largest, cost) = self.largest_at(weights)?;
        if !cost.nats.is_finite() {
            return Ok(cost.nats);
        }
        largest.gradient(weights, 0..largest.parts(), gradient)
    }

    fn cost_at(&self, weights: &[f32]) -> Result<Cost, ObjectiveError> {
        Ok(self.largest_at(weights)?.1)
    }

    fn likelihood_gradient(&self, weights: &[f32], parts: Range<usize>, seed: u64, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        if nothing(&parts, gradient) {
            return Ok(0.0);
        }
        let (largest, _) = self.largest_at(weights)?;
        largest.likelihood_gradient(weights, 0..largest.parts(), seed, gradient)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::Ellipsoid;

    fn bodies() -> (Ellipsoid, Ellipsoid) {
        let center = vec![0.5f32, -1.0, 0.25];
        (Ellipsoid::new(vec![3.0, 0.2, 1.0], center.clone()), Ellipsoid::new(vec![0.5, 2.0, 1.0], center))
    }

    #[test]
    fn it_is_the_largest_everywhere() {
        let (a, b) = bodies();
        let both = MaxCost::new(vec![&a, &b]).unwrap();
        let (mut first, mut second) = (0, 0);
        for (seed, t) in (0..50u8).map(|k| (f32::from(k), 0.1 * f64::from(k) + 0.1)) {
            let direction = Direction::from_values(vec![seed.sin(), (2.0 * seed).cos(), 0.3], 1.0, a.center_values());
            let point = RayPoint::straight(t);
            let (x, y, z) = (a.cost(&direction, point).unwrap(), b.cost(&direction, point).unwrap(), both.cost(&direction, point).unwrap());
            assert_eq!(z, if y.nats > x.nats { y } else { x });
            first += u32::from(x.nats > y.nats);
            second += u32::from(y.nats > x.nats);
        }
        assert!(first > 5 && second > 5, "both must be the largest somewhere: {first} {second}");
    }

    #[test]
    fn the_gradient_is_that_of_the_largest() {
        let (a, b) = bodies();
        let both = MaxCost::new(vec![&a, &b]).unwrap();
        for weights in [[2.5f32, -1.0, 0.0], [0.5, 2.0, 0.25], [0.6, -1.1, 0.4]] {
            let (mut gradient, mut expected) = ([0.0f32; 3], [0.0f32; 3]);
            let cost = both.gradient(&weights, 0..1, &mut gradient).unwrap();
            let larger = if b.cost_at(&weights).unwrap().nats > a.cost_at(&weights).unwrap().nats { &b } else { &a };
            let alone = larger.gradient(&weights, 0..larger.parts(), &mut expected).unwrap();
            assert_eq!((cost, gradient), (alone, expected));
            assert_eq!(both.cost_at(&weights).unwrap(), larger.cost_at(&weights).unwrap());
            assert_eq!(both.gradient(&weights, 1..1, &mut gradient).unwrap(), 0.0);
            assert_eq!(gradient, [0.0; 3]);
        }
    }

    #[test]
    fn a_cost_that_is_not_finite_is_the_largest() {
        struct Broken;
        impl Objective for Broken {
            fn dimension(&self) -> usize {
                3
            }
            fn center(&self, range: Range<usize>, out: &mut [f32]) {
                out.copy_from_slice(&[0.5, -1.0, 0.25][range]);
            }
            fn cost(&self, _: &Direction, _: RayPoint) -> Result<Cost, ObjectiveError> {
                Ok(Cost { nats: f64::NAN, resolution: 0.0 })
            }
        }
        let (a, _) = bodies();
        let direction = Direction::from_values(vec![1.0, 0.0, 0.0], 1.0, a.center_values());
        let orders: [[&dyn Objective; 2]; 2] = [[&a, &Broken], [&Broken, &a]];
        for order in orders {
            assert!(MaxCost::new(order.to_vec()).unwrap().cost(&direction, RayPoint::straight(9.0)).unwrap().nats.is_nan());
        }
    }

    #[test]
    fn other_centers_are_refused() {
        let (a, _) = bodies();
        let moved = Ellipsoid::new(vec![1.0; 3], vec![0.5, -1.0, 0.5]);
        let longer = Ellipsoid::new(vec![1.0; 4], vec![0.5; 4]);
        assert_eq!(MaxCost::<Ellipsoid>::new(vec![]).unwrap_err(), MaxCostError::Empty);
        assert_eq!(MaxCost::new(vec![&a, &a, &moved]).unwrap_err(), MaxCostError::Center { index: 2, coordinate: 2 });
        assert_eq!(MaxCost::new(vec![&a, &longer]).unwrap_err(), MaxCostError::Dimension { index: 1, found: 4, expected: 3 });
    }
}
