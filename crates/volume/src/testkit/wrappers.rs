//! Objectives around other objectives, and around closures.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::direction::Direction;
use crate::objective::{Cost, Objective, ObjectiveError, RayPoint};

/// An objective from a function of all coordinates of `w` in `f64`. Its measure is whatever the function makes it.
pub struct Closure<F> {
    center: Vec<f32>,
    cost: F,
}

impl<F> fmt::Debug for Closure<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closure").field("dimension", &self.center.len()).finish_non_exhaustive()
    }
}

impl<F: Fn(&[f64]) -> Cost + Sync> Closure<F> {
    /// `cost(w)` around `center`; it should be zero there.
    pub fn new(center: Vec<f32>, cost: F) -> Self {
        Self { center, cost }
    }
}

impl<F: Fn(&[f64]) -> Cost + Sync> Objective for Closure<F> {
    fn dimension(&self) -> usize {
        self.center.len()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        out.copy_from_slice(&self.center[range]);
    }

    fn cost(&self, direction: &Direction, point: RayPoint) -> Result<Cost, ObjectiveError> {
        let mut values = vec![0.0f32; self.center.len()];
        direction.fill(0..values.len(), &mut values);
        let along = point.direction * direction.scale();
        let weights: Vec<f64> =
            values.iter().zip(&self.center).map(|(y, c)| point.center * f64::from(*c) + along * f64::from(*y)).collect();
        Ok((self.cost)(&weights))
    }
}

/// Counts the evaluations of another objective.
#[derive(Debug, Default)]
pub struct Counting<O> {
    inner: O,
    evaluations: AtomicU64,
}

impl<O: Objective> Counting<O> {
    /// Starts at zero.
    pub fn new(inner: O) -> Self {
        Self { inner, evaluations: AtomicU64::new(0) }
    }

    /// Cost evaluations so far, over all threads.
    pub fn evaluations(&self) -> u64 {
        self.evaluations.load(Ordering::Relaxed)
    }

    /// The objective that is counted.
    pub fn inner(&self) -> &O {
        &self.inner
    }
}

impl<O: Objective> Objective for Counting<O> {
    fn dimension(&self) -> usize {
        self.inner.dimension()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        self.inner.center(range, out);
    }

    fn cost(&self, direction: &Direction, point: RayPoint) -> Result<Cost, ObjectiveError> {
        self.evaluations.fetch_add(1, Ordering::Relaxed);
        self.inner.cost(direction, point)
    }
}

/// Adds rounding noise to another objective: `C (1 + size g)` with `g` standard normal, a pure function of (seed, direction, point).
///
/// The stated resolution is honest: `sqrt((size C)^2 + resolution^2)`.
#[derive(Debug, Clone)]
pub struct Noisy<O> {
    inner: O,
    size: f64,
    seed: u64,
}

impl<O: Objective> Noisy<O> {
    /// Noise of relative standard deviation `size`.
    ///
    /// # Panics
    /// If the size is negative or not finite.
    pub fn new(inner: O, size: f64, seed: u64) -> Self {
        assert!(size >= 0.0 && size.is_finite(), "the size of noise must be finite and not negative: {size}");
        Self { inner, size, seed }
    }

    /// The objective that is disturbed.
    pub fn inner(&self) -> &O {
        &self.inner
    }
}

/// A bijection of 64-bit words that scatters its input (the finaliser of splitmix64: Steele, Lea & Flood 2014).
fn scatter(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

fn unit_interval(word: u64) -> f64 {
    ((word >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

impl<O: Objective> Objective for Noisy<O> {
    fn dimension(&self) -> usize {
        self.inner.dimension()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        self.inner.center(range, out);
    }

    fn cost(&self, direction: &Direction, point: RayPoint) -> Result<Cost, ObjectiveError> {
        let cost = self.inner.cost(direction, point)?;
        let word = [direction.index(), point.center.to_bits(), point.direction.to_bits(), cost.nats.to_bits()]
            .into_iter()
            .fold(self.seed, |state, word| scatter(state ^ scatter(word)));
        // Box-Muller
        let normal = (-2.0 * unit_interval(word).ln()).sqrt() * (std::f64::consts::TAU * unit_interval(scatter(word))).cos();
        Ok(Cost { nats: cost.nats * (1.0 + self.size * normal), resolution: (self.size * cost.nats).hypot(cost.resolution) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::Ball;

    fn direction() -> Direction {
        Direction::from_values(vec![3.0, 1.0], 0.5, &[1.0, -2.0])
    }

    #[test]
    fn a_closure_sees_the_whole_point() {
        let objective = Closure::new(vec![1.0, -2.0], |w: &[f64]| Cost::exact(w[0] + 100.0 * w[1]));
        // w = 0.5 c + 2 * 0.5 * (3, 1) = (3.5, 0)
        let cost = objective.cost(&direction(), RayPoint { center: 0.5, direction: 2.0 }).unwrap();
        assert_eq!(cost.nats, 3.5);
        assert_eq!(objective.dimension(), 2);
    }

    #[test]
    fn evaluations_are_counted() {
        let objective = Counting::new(Ball::new(vec![1.0, -2.0]));
        assert_eq!(objective.evaluations(), 0);
        for _ in 0..3 {
            let cost = objective.cost(&direction(), RayPoint::straight(1.0)).unwrap();
            assert_eq!(cost, objective.inner().cost(&direction(), RayPoint::straight(1.0)).unwrap());
        }
        assert_eq!(objective.evaluations(), 3);
    }

    #[test]
    fn noise_has_the_stated_size_and_is_reproducible() {
        let plain = Ball::new(vec![1.0, -2.0]);
        let objective = Noisy::new(plain.clone(), 1e-3, 7);
        let errors: Vec<f64> = (1..4000)
            .map(|i| {
                let point = RayPoint::straight(f64::from(i) * 1e-3);
                let (exact, noisy) = (plain.cost(&direction(), point).unwrap(), objective.cost(&direction(), point).unwrap());
                assert_eq!(noisy, objective.cost(&direction(), point).unwrap());
                (noisy.nats - exact.nats) / noisy.resolution
            })
            .collect();
        let (mean, variance) = (crate::statistics::mean(&errors), crate::statistics::variance(&errors));
        // 4,000 draws: sd of the mean 0.016, of the variance 0.022.
        assert!(mean.abs() < 0.07 && (variance - 1.0).abs() < 0.1, "mean {mean}, variance {variance}");
    }
}
