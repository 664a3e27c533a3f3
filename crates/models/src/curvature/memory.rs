//! Memory forecast of computations of curvature.

use super::{CurvatureKind, Scores, kronecker_bytes};

/// Bytes that computing a curvature takes at most, its result included, beside the objective and what a gradient takes (see
/// [`crate::memory`]): vectors of length `D` in `f32`, and the Kronecker factors. `steps` are the Lanczos steps of low-rank curvature.
#[must_use]
pub fn curvature_bytes(kind: CurvatureKind, model: &dyn Scores, steps: usize) -> u64 {
    let dimension = model.dimension();
    let vectors = |count: usize| 4 * count as u64 * dimension as u64;
    match kind {
        // Result, gradient, and the center's weights, once as they are and once transposed; all weights twice when only some move.
        CurvatureKind::FisherDiagonal | CurvatureKind::SquaredGradient => vectors(4) + part_of_model(model),
        CurvatureKind::HessianDiagonal => vectors(7) + part_of_model(model),
        CurvatureKind::LowRank => vectors(steps.min(dimension) + 6) + part_of_model(model),
        // Language models add up in a copy.
        CurvatureKind::Kronecker => vectors(4) + 2 * kronecker_bytes(model) + part_of_model(model),
        // Two maps, their corrections' groups, a direction, the center, a point and its gradient.
        CurvatureKind::Learned => vectors(11) + part_of_model(model),
    }
}

fn part_of_model(model: &dyn Scores) -> u64 {
    if model.moving().is_whole() { 0 } else { 8 * model.moving().center().dimension() as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curvature::testkit::perceptron;
    use crate::curvature::{LowRankSettings, Silent, low_rank};

    #[test]
    fn results_fit_into_the_forecast() {
        let net = perceptron(&[9, 7, 6, 4], 20);
        let settings = LowRankSettings::new(5, 1);
        let (curvature, _) = low_rank(&net.cost, settings, &mut Silent).unwrap();
        let forecast = curvature_bytes(CurvatureKind::LowRank, &net.cost, settings.steps);
        assert!(curvature.bytes() < forecast && forecast < 10 * curvature.bytes());
        for kind in CurvatureKind::ALL {
            assert!(curvature_bytes(kind, &net.cost, 1) >= 12 * net.cost.moving().dimension() as u64);
        }
        assert!(curvature_bytes(CurvatureKind::Kronecker, &net.cost, 1) > 2 * kronecker_bytes(&net.cost));
    }
}
