//! The largest of several costs: the set where it stays under the cutoff is where all of them do.

use std::ops::Range;

use crate::center::Center;
use crate::direction::{BLOCK, Direction};
use crate::objective::{Cost, Differentiable, Objective, ObjectiveError, RayPoint, SoftGradient};
use crate::vectors::{Vector, Vectors, View};

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

impl<O: Objective + ?Sized> Center for MaxCost<'_, O> {
    fn dimension(&self) -> usize {
        self.costs[0].dimension()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        self.costs[0].center(range, out);
    }
}

impl<O: Objective + ?Sized> Objective for MaxCost<'_, O> {
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

/// The softness of a largest cost is this part of it at most: where all costs are small nearly all would have a share, and a gradient each.
const MOST_SOFTNESS: f64 = 0.05;
/// Costs that are further below the largest than so many times the softness have no share.
const REACH: f64 = 5.0;

/// Turns costs into the shares that each has in the gradient of a soft largest, `exp((C_k - max C) / softness)` before they are made to add up
/// to one, and returns the largest; none if one is not finite, and for no costs at all.
#[must_use]
pub fn soft_shares(costs: &mut [f64], softness: f64) -> Option<f64> {
    if costs.is_empty() || costs.iter().any(|cost| !cost.is_finite()) {
        return None;
    }
    let highest = costs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let softness = softness.min(MOST_SOFTNESS * highest).max(f64::MIN_POSITIVE);
    let mut total = 0.0;
    for cost in costs.iter_mut() {
        let below = (highest - *cost) / softness;
        *cost = if below <= REACH { (-below).exp() } else { 0.0 };
        total += *cost;
    }
    costs.iter_mut().for_each(|share| *share /= total);
    Some(highest)
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

    fn has_kinks(&self) -> bool {
        self.costs.len() > 1 || self.costs.iter().any(|cost| cost.has_kinks())
    }

    fn vectors(&self) -> &dyn Vectors {
        self.costs[0].vectors()
    }

    fn gradient_of(&self, weights: View<'_>, gradient: &mut Vector) -> Result<f64, ObjectiveError> {
        let (index, cost) = self.largest(|cost| cost.cost_of(weights))?;
        if !cost.nats.is_finite() {
            return Ok(cost.nats);
        }
        self.costs[index].gradient_of(weights, gradient)
    }

    fn cost_of(&self, weights: View<'_>) -> Result<Cost, ObjectiveError> {
        Ok(self.largest(|cost| cost.cost_of(weights))?.1)
    }

    fn soft_gradient(
        &self,
        weights: View<'_>,
        softness: f64,
        gradient: &mut Vector,
        scratch: &mut Option<Vector>,
    ) -> Result<SoftGradient, ObjectiveError> {
        let mut shares = self.costs.iter().map(|cost| Ok(cost.cost_of(weights)?.nats)).collect::<Result<Vec<_>, ObjectiveError>>()?;
        let evaluations = shares.len() as u64;
        let Some(nats) = soft_shares(&mut shares, softness) else {
            return Ok(SoftGradient { nats: f64::NAN, gradients: 0, evaluations });
        };
        let vectors = self.vectors();
        vectors.clear(gradient)?;
        let own = match scratch {
            Some(own) => own,
            None => scratch.insert(vectors.zeros(self.dimension())?),
        };
        let mut gradients = 0;
        for (cost, share) in self.costs.iter().zip(shares).filter(|(_, share)| *share > 0.0) {
            cost.gradient_of(weights, own)?;
            gradients += 1;
            vectors.kick(gradient, -share, own.view())?;
        }
        Ok(SoftGradient { nats, gradients, evaluations })
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
    fn the_soft_gradient_turns_from_one_side_of_a_kink_to_the_other() {
        let (a, b) = bodies();
        let both = MaxCost::new(vec![&a, &b]).unwrap();
        assert!(both.has_kinks() && !a.has_kinks() && !MaxCost::new(vec![&a]).unwrap().has_kinks());
        let (mut soft, mut first, mut second, mut scratch) = (Vector::Slice(vec![0.0; 3]), [0.0f32; 3], [0.0f32; 3], None);
        // From where the first is larger to where the second is.
        let mut shares = Vec::new();
        for k in 0..=100u8 {
            let part = f32::from(k) / 100.0;
            let weights = [0.5 + (1.0 - part), -1.0 + part, 0.25];
            let softness = 0.02;
            let found = both.soft_gradient(View::Slice(&weights), softness, &mut soft, &mut scratch).unwrap();
            let soft = soft.view().slice();
            assert!(found.evaluations == 2 && (1..=2).contains(&found.gradients));
            let cost = found.nats;
            let (x, y) =
                (a.gradient(&weights, 0..a.parts(), &mut first).unwrap(), b.gradient(&weights, 0..b.parts(), &mut second).unwrap());
            assert!((cost - x.max(y)).abs() < 1e-6 * cost);
            let width = softness.min(MOST_SOFTNESS * cost);
            let share = 1.0 / (1.0 + ((x - y) / width).exp());
            let expected = if (x - y).abs() > 1.01 * REACH * width { f64::from(u8::from(y > x)) } else { share };
            let found = f64::from((soft[1] - first[1]) / (second[1] - first[1]));
            assert!(k == 0 || (found - expected).abs() < 0.01, "{k}: {found} instead of {expected}");
            shares.push(share);
        }
        assert!(shares.iter().filter(|share| (0.05..0.95).contains(*share)).count() > 3, "{shares:?}");
        let mut costs = [0.0, 0.0];
        assert_eq!((soft_shares(&mut costs, 1.0), costs), (Some(0.0), [0.5, 0.5]));
        assert_eq!(soft_shares(&mut [1.0, f64::NAN], 1.0), None);
    }

    #[test]
    fn a_cost_that_is_not_finite_is_the_largest() {
        struct Broken;
        impl Center for Broken {
            fn dimension(&self) -> usize {
                3
            }
            fn center(&self, range: Range<usize>, out: &mut [f32]) {
                out.copy_from_slice(&[0.5, -1.0, 0.25][range]);
            }
        }

        impl Objective for Broken {
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
