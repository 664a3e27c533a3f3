//! Memory forecasts: bytes that computing a curvature takes at most, its result included, beside the objective and what a gradient takes
//! (see [`crate::memory`]). Vectors of length `D` are in `f32`.

use super::Scores;
use super::kronecker::factor_bytes;

/// Of [`super::fisher_diagonal`] and [`super::squared_gradient`].
#[must_use]
pub fn diagonal_bytes(model: &dyn Scores) -> u64 {
    // Result, gradient, and the center's weights, once as they are and once transposed; all weights twice when only some move.
    vectors(model, 4)
}

/// Of [`super::hessian_diagonal`].
#[must_use]
pub fn hessian_diagonal_bytes(model: &dyn Scores) -> u64 {
    vectors(model, 7)
}

/// Of [`super::kronecker`].
#[must_use]
pub fn kronecker_bytes(model: &dyn Scores) -> u64 {
    // Language models add up in a copy.
    vectors(model, 4) + 2 * factor_bytes(model)
}

/// Of [`super::low_rank`] with this many Lanczos steps.
#[must_use]
pub fn low_rank_bytes(model: &dyn Scores, steps: usize) -> u64 {
    vectors(model, steps.min(model.dimension()) + 6)
}

/// Of [`super::learn_diagonal`].
#[must_use]
pub fn learn_diagonal_bytes(model: &dyn Scores) -> u64 {
    // Two maps, their corrections' groups, a direction, the center, a point and its gradient.
    vectors(model, 11)
}

/// So many vectors, and what a choice of weights takes beside them.
fn vectors(model: &dyn Scores, count: usize) -> u64 {
    let part = if model.moving().is_whole() { 0 } else { 8 * model.moving().center().dimension() as u64 };
    4 * count as u64 * model.dimension() as u64 + part
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curvature::testkit::perceptron;
    use crate::curvature::{LowRankSettings, Silent, kronecker, low_rank};

    #[test]
    fn results_fit_into_the_forecast() {
        let net = perceptron(&[9, 7, 6, 4], 20);
        let settings = LowRankSettings::new(5, 1);
        let (curvature, _) = low_rank(&net.cost, settings, &mut Silent).unwrap();
        let forecast = low_rank_bytes(&net.cost, settings.steps);
        assert!(curvature.bytes() < forecast && forecast < 10 * curvature.bytes());
        let vector = 4 * net.cost.moving().dimension() as u64;
        assert_eq!(diagonal_bytes(&net.cost), 4 * vector);
        assert!(hessian_diagonal_bytes(&net.cost) < learn_diagonal_bytes(&net.cost));
        let curvature = kronecker(&net.cost, 1, 3, &mut Silent).unwrap();
        assert!(kronecker_bytes(&net.cost) > 2 * curvature.bytes());
    }
}
