//! Products of the Fisher matrix with vectors, by differences of the gradient of the cost.

use basin_volume::direction::dot;
use basin_volume::objective::Differentiable;
use rayon::prelude::*;

use super::CurvatureError;

/// Length of the perturbation, by default: large enough that the gradient's `f32` rounding does not matter, small enough that the cost
/// is quadratic.
pub const PERTURBATION: f64 = 1e-2;

/// Coordinates that one task works on.
const CHUNK: usize = 1 << 14;

/// Products `F v` of the Fisher matrix at the center, which is the Hessian of the cost there:
///
/// `F v = [ grad C(c + h v) - grad C(c - h v) ] / 2h  +  O(h^2)`,      `h = perturbation / |v|`
///
/// Two gradients each; the second-order terms of the gradient cancel. The gradients are `f32`, so a product is good to about 1e-3 of its
/// length (tested on small networks); what rounding adds is a multiple of the largest eigenvalue rather than of the product. Memory:
/// three vectors of length `D` beside what a gradient takes.
pub struct FisherProducts<'a> {
    objective: &'a dyn Differentiable,
    perturbation: f64,
    center: Vec<f32>,
    weights: Vec<f32>,
    other: Vec<f32>,
    count: usize,
}

impl<'a> FisherProducts<'a> {
    /// Products with perturbations of this length.
    ///
    /// # Errors
    /// When the length is not a positive number.
    pub fn new(objective: &'a dyn Differentiable, perturbation: f64) -> Result<Self, CurvatureError> {
        if !(perturbation > 0.0 && perturbation.is_finite()) {
            return Err(CurvatureError::Setting { name: "the perturbation", value: perturbation, expected: "a finite number > 0" });
        }
        let dimension = objective.dimension();
        let mut center = vec![0.0f32; dimension];
        objective.center(0..dimension, &mut center);
        Ok(Self { objective, perturbation, center, weights: vec![0.0; dimension], other: vec![0.0; dimension], count: 0 })
    }

    /// Number of products made so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Writes `F v` into `out`; zero for a `v` of zero.
    ///
    /// # Errors
    /// When the evaluation fails, or the gradient is not finite at the perturbed weights.
    ///
    /// # Panics
    /// If a length is not `D`.
    pub fn product(&mut self, v: &[f32], out: &mut [f32]) -> Result<(), CurvatureError> {
        assert!(v.len() == self.center.len() && out.len() == v.len(), "vectors of length D");
        let norm = dot(v, v).sqrt();
        if norm == 0.0 {
            out.fill(0.0);
            return Ok(());
        }
        let step = self.perturbation / norm;
        let parts = 0..self.objective.parts();
        self.move_by(v, step);
        self.objective.gradient(&self.weights, parts.clone(), out)?;
        self.move_by(v, -step);
        self.objective.gradient(&self.weights, parts, &mut self.other)?;
        let scale = 0.5 / step;
        let pairs = out.par_chunks_mut(CHUNK).zip(self.other.par_chunks(CHUNK));
        pairs.for_each(|(out, other)| {
            out.iter_mut().zip(other).for_each(|(out, &other)| *out = (scale * (f64::from(*out) - f64::from(other))) as f32);
        });
        self.count += 1;
        match out.iter().position(|value| !value.is_finite()) {
            None => Ok(()),
            Some(index) => Err(CurvatureError::NotFinite { what: "product of the Fisher matrix", index, value: f64::from(out[index]) }),
        }
    }

    fn move_by(&mut self, v: &[f32], step: f64) {
        let triples = self.weights.par_chunks_mut(CHUNK).zip(self.center.par_chunks(CHUNK)).zip(v.par_chunks(CHUNK));
        triples.for_each(|((weights, center), v)| {
            for ((weight, &center), &v) in weights.iter_mut().zip(center).zip(v) {
                *weight = step.mul_add(f64::from(v), f64::from(center)) as f32;
            }
        });
    }
}

/// One product `F v` with the default perturbation, written into `out`: see [`FisherProducts`].
///
/// # Errors
/// As [`FisherProducts::product`].
///
/// # Panics
/// If a length is not `D`.
pub fn fisher_product(objective: &dyn Differentiable, v: &[f32], out: &mut [f32]) -> Result<(), CurvatureError> {
    FisherProducts::new(objective, PERTURBATION)?.product(v, out)
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
        assert!(FisherProducts::new(&net.cost, 0.0).is_err());
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
