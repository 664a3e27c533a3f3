//! A prior whose mean is not the origin: the cost in coordinates `x = w - m` around the mean `m`, where it is one again.
//!
//! `N(m, sigma^2 I)` is `N(0, sigma^2 I)` of `x`, and the center is `c - m` there: how far a fine-tuned network has gone from its base, if `m` is that.
//! Straight rays and chains are the same in both coordinates; great circles around the origin are not.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::center::Center;
use crate::direction::Direction;
use crate::objective::{Cost, CostByPart, Differentiable, Objective, ObjectiveError, RayPoint, SoftGradient};
use crate::vectors::{Vector, View};

/// A cost with gradients in coordinates around the prior's mean.
pub struct AroundMean<'a> {
    cost: Box<dyn Differentiable + Send + Sync + 'a>,
    mean: &'a [f32],
    /// Weights of calls that are over: each call needs them once more, at the mean plus its coordinates.
    spare: Mutex<Vec<Vec<f32>>>,
}

impl std::fmt::Debug for AroundMean<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AroundMean").field("dimension", &self.mean.len()).finish_non_exhaustive()
    }
}

impl<'a> AroundMean<'a> {
    /// The cost around a mean of its dimension.
    ///
    /// # Panics
    /// If the dimensions differ, or the cost keeps its vectors on a device.
    #[must_use]
    pub fn new(cost: Box<dyn Differentiable + Send + Sync + 'a>, mean: &'a [f32]) -> Self {
        assert_eq!(cost.dimension(), mean.len(), "a mean of the cost's dimension");
        assert!(cost.vectors().are_slices(), "a cost whose vectors are in the computer's memory");
        Self { cost, mean, spare: Mutex::default() }
    }

    /// Does something at the weights of these coordinates.
    fn at<T>(&self, coordinates: &[f32], work: impl FnOnce(&[f32]) -> T) -> T {
        let mut weights = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        weights.clear();
        weights.extend(coordinates.iter().zip(self.mean).map(|(x, m)| x + m));
        let result = work(&weights);
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(weights);
        result
    }
}

impl Center for AroundMean<'_> {
    fn dimension(&self) -> usize {
        self.mean.len()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        self.cost.center(range.clone(), out);
        out.iter_mut().zip(&self.mean[range]).for_each(|(c, m)| *c -= m);
    }
}

impl Objective for AroundMean<'_> {
    fn cost(&self, direction: &Direction, point: RayPoint) -> Result<Cost, ObjectiveError> {
        if point.center != 1.0 {
            return Err(ObjectiveError::new("a prior with a mean has straight rays alone"));
        }
        self.cost.cost(direction, point)
    }

    fn cost_by_part(&self, direction: &Direction, point: RayPoint) -> Result<Option<CostByPart>, ObjectiveError> {
        self.cost.cost_by_part(direction, point)
    }
}

impl Differentiable for AroundMean<'_> {
    fn parts(&self) -> usize {
        self.cost.parts()
    }

    fn gradient(&self, weights: &[f32], parts: Range<usize>, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        self.at(weights, |weights| self.cost.gradient(weights, parts, gradient))
    }

    fn cost_at(&self, weights: &[f32]) -> Result<Cost, ObjectiveError> {
        self.at(weights, |weights| self.cost.cost_at(weights))
    }

    fn has_kinks(&self) -> bool {
        self.cost.has_kinks()
    }

    fn soft_gradient(
        &self,
        weights: View<'_>,
        softness: f64,
        gradient: &mut Vector,
        scratch: &mut Option<Vector>,
    ) -> Result<SoftGradient, ObjectiveError> {
        self.at(weights.slice(), |weights| self.cost.soft_gradient(View::Slice(weights), softness, gradient, scratch))
    }

    fn likelihood_gradient(&self, weights: &[f32], parts: Range<usize>, seed: u64, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        self.at(weights, |weights| self.cost.likelihood_gradient(weights, parts, seed, gradient))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::estimator::annealed::{AnnealedEstimate, AnnealedEstimator, InMemory};
    use crate::estimator::radial::{Directions, RadialEstimator};
    use crate::interrupt::Interrupt;
    use crate::preconditioner::{Diagonal, Preconditioner};
    use crate::prior::Prior;
    use crate::question::Question;
    use crate::spec::{AnnealedSpec, Proposal, RadialSpec};
    use crate::statistics::log_mean_exp;
    use crate::testkit::Ellipsoid;

    const CUTOFF: f64 = 0.02;

    #[test]
    fn a_body_around_a_mean_has_the_volume_of_one_around_the_difference() {
        let eigenvalues = vec![3.0, 1.0, 2.0, 0.5];
        let (center, mean) = (vec![1.3f32, -2.2, 0.1, 0.9], vec![1.0f32, -2.0, 0.0, 0.5]);
        let difference: Vec<f32> = center.iter().zip(&mean).map(|(c, m)| c - m).collect();
        let truth = Ellipsoid::new(eigenvalues.clone(), difference.clone()).true_log_probability(0.7, CUTOFF);
        let around_origin = Ellipsoid::new(eigenvalues.clone(), center.clone()).true_log_probability(0.7, CUTOFF);
        assert!((truth - around_origin).abs() > 1.0, "the mean matters: {truth} {around_origin}");
        let cost = AroundMean::new(Box::new(Ellipsoid::new(eigenvalues, center)), &mean);
        let question = Question::new(Prior::Gaussian { sigma: 0.7 }, CUTOFF, 0.0, 4).unwrap();
        let variances: Vec<f32> = [3.0f32, 1.0, 2.0, 0.5].iter().map(|l| 0.02 / l).collect();
        let map: Arc<dyn Preconditioner> = Arc::new(Diagonal::from_variances(&variances).unwrap());
        let settings = RadialSpec { radius_tolerance: Some(1e-6), proposal: Proposal::Shifted, ..RadialSpec::default() };
        let rays = RadialEstimator::new(&cost, question, map, settings, None, Directions::Kept).unwrap();
        let volumes: Vec<f64> = (0..10_000).map(|index| rays.sample(index).unwrap().log_volume).collect();
        assert!((log_mean_exp(&volumes) - truth).abs() < 0.1, "{} {truth}", log_mean_exp(&volumes));
        let mut own = vec![0.0; 4];
        cost.center(0..4, &mut own);
        assert_eq!(own, difference);
        let spec = AnnealedSpec { trajectories: 40, ..AnnealedSpec::default() };
        let chains = AnnealedEstimator::new(&cost, &own, question, spec.clone()).unwrap();
        let mut keeper = InMemory::default();
        chains.run(1, &[], &mut keeper, &Interrupt::new(), &mut |_| {}).unwrap();
        let found = AnnealedEstimate::of(&spec, &question, 1, &keeper.records).unwrap();
        assert!(found.low - 0.2 <= truth && truth <= found.high.unwrap() + 0.2, "{:?} {truth}", found.log_probability);
        let circle = cost.cost(&Direction::from_values(vec![1.0; 4], 1.0, &own), RayPoint { center: 0.5, direction: 0.5 });
        assert!(circle.unwrap_err().to_string().contains("straight rays"));
    }
}
