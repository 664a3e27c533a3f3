//! Objectives around other objectives, and around closures.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::center::Center;
use crate::direction::Direction;
use crate::objective::{Cost, Differentiable, Objective, ObjectiveError, RayPoint};
use crate::testkit::gradients::{asks_for_all, no_likelihood};
use crate::testkit::scratch::with_buffer;
use crate::vectors::{Vector, Vectors, View};

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

impl<F: Fn(&[f64]) -> Cost + Sync> Center for Closure<F> {
    fn dimension(&self) -> usize {
        self.center.len()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        out.copy_from_slice(&self.center[range]);
    }
}

impl<F: Fn(&[f64]) -> Cost + Sync> Objective for Closure<F> {
    fn cost(&self, direction: &Direction, point: RayPoint) -> Result<Cost, ObjectiveError> {
        Ok(with_point(&self.center, direction, point, |weights| (self.cost)(weights)))
    }
}

/// Calls `work` with the coordinates of `point` in `f64`.
pub(super) fn with_point<T>(center: &[f32], direction: &Direction, point: RayPoint, work: impl FnOnce(&[f64]) -> T) -> T {
    let along = point.direction * direction.scale();
    let write = |weights: &mut [f64], values: &[f32]| {
        for ((w, y), c) in weights.iter_mut().zip(values).zip(center) {
            *w = point.center * f64::from(*c) + along * f64::from(*y);
        }
    };
    with_buffer(center.len(), |weights| {
        if let Some(values) = direction.stored() {
            write(weights, values);
        } else {
            let mut values = vec![0.0f32; center.len()];
            direction.fill(0..values.len(), &mut values);
            write(weights, &values);
        }
        work(weights)
    })
}

/// An objective from two functions of all coordinates of `w` in `f64`: the cost, and the cost in nats together with its gradient.
pub struct ClosureWithGradient<F, G> {
    cost: Closure<F>,
    gradient: G,
}

impl<F, G> fmt::Debug for ClosureWithGradient<F, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClosureWithGradient").field("dimension", &self.cost.center.len()).finish_non_exhaustive()
    }
}

impl<F: Fn(&[f64]) -> Cost + Sync, G: Fn(&[f64], &mut [f64]) -> f64 + Sync> ClosureWithGradient<F, G> {
    /// `cost(w)` around `center`, where it should be zero; `gradient(w, out)` gives the same cost and writes all of `out`.
    pub fn new(center: Vec<f32>, cost: F, gradient: G) -> Self {
        Self { cost: Closure::new(center, cost), gradient }
    }
}

impl<F: Fn(&[f64]) -> Cost + Sync, G: Fn(&[f64], &mut [f64]) -> f64 + Sync> Center for ClosureWithGradient<F, G> {
    fn dimension(&self) -> usize {
        self.cost.dimension()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        self.cost.center(range, out);
    }
}

impl<F: Fn(&[f64]) -> Cost + Sync, G: Fn(&[f64], &mut [f64]) -> f64 + Sync> Objective for ClosureWithGradient<F, G> {
    fn cost(&self, direction: &Direction, point: RayPoint) -> Result<Cost, ObjectiveError> {
        self.cost.cost(direction, point)
    }
}

/// Calls `work` with `weights` in `f64`.
pub(super) fn with_wide<T>(weights: &[f32], work: impl FnOnce(&[f64]) -> T) -> T {
    with_buffer(weights.len(), |wide| {
        wide.iter_mut().zip(weights).for_each(|(x, w)| *x = f64::from(*w));
        work(wide)
    })
}

impl<F: Fn(&[f64]) -> Cost + Sync, G: Fn(&[f64], &mut [f64]) -> f64 + Sync> Differentiable for ClosureWithGradient<F, G> {
    fn parts(&self) -> usize {
        1
    }

    fn gradient(&self, weights: &[f32], parts: Range<usize>, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        if !asks_for_all(self.dimension(), weights, &parts, gradient) {
            gradient.fill(0.0);
            return Ok(0.0);
        }
        Ok(with_wide(weights, |wide| {
            with_buffer(wide.len(), |slopes| {
                let nats = (self.gradient)(wide, slopes);
                gradient.iter_mut().zip(&*slopes).for_each(|(out, g)| *out = *g as f32);
                nats
            })
        }))
    }

    fn cost_at(&self, weights: &[f32]) -> Result<Cost, ObjectiveError> {
        assert_eq!(weights.len(), self.dimension(), "one weight per coordinate");
        Ok(with_wide(weights, |wide| (self.cost.cost)(wide)))
    }

    fn likelihood_gradient(&self, _: &[f32], _: Range<usize>, _: u64, _: &mut [f32]) -> Result<f64, ObjectiveError> {
        Err(no_likelihood("a cost given by closures"))
    }
}

/// Counts the evaluations of another objective.
#[derive(Debug, Default)]
pub struct Counting<O> {
    inner: O,
    evaluations: AtomicU64,
    gradients: AtomicU64,
}

impl<O: Objective> Counting<O> {
    /// Starts at zero.
    pub fn new(inner: O) -> Self {
        Self { inner, evaluations: AtomicU64::new(0), gradients: AtomicU64::new(0) }
    }

    /// Cost evaluations so far, over all threads; gradients are not among them.
    pub fn evaluations(&self) -> u64 {
        self.evaluations.load(Ordering::Relaxed)
    }

    /// Gradients so far, of the cost and of likelihoods, over all threads.
    pub fn gradients(&self) -> u64 {
        self.gradients.load(Ordering::Relaxed)
    }

    /// The objective that is counted.
    pub fn inner(&self) -> &O {
        &self.inner
    }
}

impl<O: Objective> Center for Counting<O> {
    fn dimension(&self) -> usize {
        self.inner.dimension()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        self.inner.center(range, out);
    }
}

impl<O: Objective> Objective for Counting<O> {
    fn cost(&self, direction: &Direction, point: RayPoint) -> Result<Cost, ObjectiveError> {
        self.evaluations.fetch_add(1, Ordering::Relaxed);
        self.inner.cost(direction, point)
    }
}

impl<O: Differentiable> Differentiable for Counting<O> {
    fn parts(&self) -> usize {
        self.inner.parts()
    }

    fn vectors(&self) -> &dyn Vectors {
        self.inner.vectors()
    }

    fn gradient_of(&self, weights: View<'_>, gradient: &mut Vector) -> Result<f64, ObjectiveError> {
        self.gradients.fetch_add(1, Ordering::Relaxed);
        self.inner.gradient_of(weights, gradient)
    }

    fn cost_of(&self, weights: View<'_>) -> Result<Cost, ObjectiveError> {
        self.evaluations.fetch_add(1, Ordering::Relaxed);
        self.inner.cost_of(weights)
    }

    fn gradient(&self, weights: &[f32], parts: Range<usize>, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        self.gradients.fetch_add(1, Ordering::Relaxed);
        self.inner.gradient(weights, parts, gradient)
    }

    fn cost_at(&self, weights: &[f32]) -> Result<Cost, ObjectiveError> {
        self.evaluations.fetch_add(1, Ordering::Relaxed);
        self.inner.cost_at(weights)
    }

    fn likelihood_gradient(&self, weights: &[f32], parts: Range<usize>, seed: u64, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        self.gradients.fetch_add(1, Ordering::Relaxed);
        self.inner.likelihood_gradient(weights, parts, seed, gradient)
    }
}

/// Adds rounding noise to another objective: `C (1 + size g)` with `g` standard normal, a pure function of (seed, direction, point).
///
/// The stated resolution is honest: `sqrt((size C)^2 + resolution^2)`. Costs at given weights and beside gradients are disturbed in the
/// same way, by a noise that is a function of the weights; gradients and likelihoods are not disturbed.
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

impl<O: Objective> Center for Noisy<O> {
    fn dimension(&self) -> usize {
        self.inner.dimension()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        self.inner.center(range, out);
    }
}

impl<O: Objective> Objective for Noisy<O> {
    fn cost(&self, direction: &Direction, point: RayPoint) -> Result<Cost, ObjectiveError> {
        let cost = self.inner.cost(direction, point)?;
        Ok(self.disturb(cost, [direction.index(), point.center.to_bits(), point.direction.to_bits()]))
    }
}

impl<O> Noisy<O> {
    /// The cost with the noise that belongs to `words` and to the cost itself.
    fn disturb(&self, cost: Cost, words: impl IntoIterator<Item = u64>) -> Cost {
        let word = words.into_iter().chain([cost.nats.to_bits()]).fold(self.seed, |state, word| scatter(state ^ scatter(word)));
        // Box-Muller
        let normal = (-2.0 * unit_interval(word).ln()).sqrt() * (std::f64::consts::TAU * unit_interval(scatter(word))).cos();
        Cost { nats: cost.nats * (1.0 + self.size * normal), resolution: (self.size * cost.nats).hypot(cost.resolution) }
    }

    fn disturb_at(&self, cost: Cost, weights: &[f32]) -> Cost {
        self.disturb(cost, weights.iter().map(|w| u64::from(w.to_bits())))
    }
}

impl<O: Differentiable> Differentiable for Noisy<O> {
    fn parts(&self) -> usize {
        self.inner.parts()
    }

    fn gradient(&self, weights: &[f32], parts: Range<usize>, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        let nats = self.inner.gradient(weights, parts, gradient)?;
        Ok(self.disturb_at(Cost::exact(nats), weights).nats)
    }

    fn cost_at(&self, weights: &[f32]) -> Result<Cost, ObjectiveError> {
        Ok(self.disturb_at(self.inner.cost_at(weights)?, weights))
    }

    fn likelihood_gradient(&self, weights: &[f32], parts: Range<usize>, seed: u64, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        self.inner.likelihood_gradient(weights, parts, seed, gradient)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::Ball;
    use crate::testkit::gradients::tests::check_gradient;

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
    fn closures_with_gradients_and_counts_of_them() {
        let cost = |w: &[f64]| (w[0] - 1.0).powi(4) + (w[0] - 1.0) * (w[1] + 2.0);
        let objective = Counting::new(ClosureWithGradient::new(
            vec![1.0, -2.0],
            move |w: &[f64]| Cost::exact(cost(w)),
            move |w: &[f64], out: &mut [f64]| {
                out[0] = 4.0 * (w[0] - 1.0).powi(3) + w[1] + 2.0;
                out[1] = w[0] - 1.0;
                cost(w)
            },
        ));
        check_gradient("closure", &objective, &[1.7, 0.4], 4, 1e-3);
        // Two gradients, one cost at the weights, and one on a ray before eight for the differences.
        assert_eq!((objective.gradients(), objective.evaluations()), (2, 10));
        assert!(objective.likelihood_gradient(&[0.0; 2], 0..1, 0, &mut [0.0; 2]).is_err());
        assert_eq!(objective.gradients(), 3);
    }

    #[test]
    fn noise_at_given_weights_is_reproducible_and_leaves_gradients_alone() {
        let plain = Ball::new(vec![1.0, -2.0]);
        let noisy = Noisy::new(plain.clone(), 1e-3, 7);
        let errors: Vec<f64> = (1..4000u16)
            .map(|i| {
                let weights = [f32::from(i) * 1e-3, 0.5];
                let (exact, cost) = (plain.cost_at(&weights).unwrap(), noisy.cost_at(&weights).unwrap());
                let (mut gradient, mut undisturbed) = ([0.0; 2], [0.0; 2]);
                assert_eq!(noisy.gradient(&weights, 0..1, &mut gradient).unwrap(), cost.nats);
                plain.gradient(&weights, 0..1, &mut undisturbed).unwrap();
                assert_eq!(gradient, undisturbed);
                (cost.nats - exact.nats) / cost.resolution
            })
            .collect();
        let (mean, variance) = (crate::statistics::mean(&errors), crate::statistics::variance(&errors));
        assert!(mean.abs() < 0.07 && (variance - 1.0).abs() < 0.1, "mean {mean}, variance {variance}");
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
