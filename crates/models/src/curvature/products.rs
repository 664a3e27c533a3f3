//! Products of the Fisher matrix with vectors, by differences of the gradient of the cost.

use basin_volume::fisher::{DifferenceProducts, FisherMatrix};
use basin_volume::objective::Differentiable;

use super::CurvatureError;

pub use basin_volume::fisher::PERTURBATION;

/// One product `F v` with the default perturbation, written into `out`: see [`DifferenceProducts`].
///
/// # Errors
/// As [`FisherMatrix::product`].
///
/// # Panics
/// If a length is not `D`.
pub fn fisher_product(objective: &dyn Differentiable, v: &[f32], out: &mut [f32]) -> Result<(), CurvatureError> {
    Ok(DifferenceProducts::new(objective, PERTURBATION)?.product(v, out)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curvature::testkit::{language, perceptron};

    fn relative_error(found: &[f32], expected: &[f64]) -> f64 {
        let error: f64 = found.iter().zip(expected).map(|(&x, y)| (f64::from(x) - y).powi(2)).sum();
        (error / expected.iter().map(|y| y * y).sum::<f64>()).sqrt()
    }

    #[test]
    fn products_are_those_of_the_dense_matrix() {
        let net = perceptron(&[9, 7, 6, 4], 150);
        let fisher = net.fisher();
        let dimension = fisher.len().isqrt();
        for seed in 0..4 {
            let v: Vec<f32> = (0..dimension).map(|i| 30.0 * ((i * (seed + 2)) as f32 * 0.7).sin()).collect();
            let expected: Vec<f64> = fisher.chunks(dimension).map(|row| row.iter().zip(&v).map(|(f, &v)| f * f64::from(v)).sum()).collect();
            let mut found = vec![0.0f32; dimension];
            fisher_product(&net.cost, &v, &mut found).unwrap();
            let error = relative_error(&found, &expected);
            assert!(error < 1e-3, "{error}");
        }
        let mut found = vec![1.0f32; dimension];
        fisher_product(&net.cost, &vec![0.0; dimension], &mut found).unwrap();
        assert!(found.iter().all(|&x| x == 0.0));
        assert!(DifferenceProducts::new(&net.cost, 0.0).is_err());
    }

    #[test]
    fn products_of_language_models_too() {
        let lengths = [11, 6];
        let language = language("gpt_neox_pythia", &lengths, Some("layers.1.mlp|final_layer_norm"));
        let dimension = language.cost.moving().dimension();
        let chosen: Vec<usize> = (0..dimension).collect();
        let (probabilities, scores) = language.scores(&lengths, &chosen);
        let v: Vec<f32> = (0..dimension).map(|i| (i as f32 * 0.7).sin()).collect();
        let mut expected = vec![0.0; dimension];
        for (probabilities, scores) in probabilities.iter().zip(&scores) {
            for (p, s) in probabilities.iter().zip(scores) {
                let along: f64 = s.iter().zip(&v).map(|(s, &v)| s * f64::from(v)).sum();
                expected.iter_mut().zip(s).for_each(|(sum, s)| *sum += p * s * along / 17.0);
            }
        }
        let mut found = vec![0.0f32; dimension];
        fisher_product(&language.cost, &v, &mut found).unwrap();
        let error = relative_error(&found, &expected);
        assert!(error < 3e-3, "{error}");
    }
}
