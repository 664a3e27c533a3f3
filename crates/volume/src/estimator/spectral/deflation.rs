//! Leading eigenvectors that are taken out before the probes.

use super::krylov::{Deflated, Krylov};
use super::record::Eigenpair;
use super::unfinished::UnfinishedRecursion;
use super::vector::{inner, normalize, project_out};
use crate::fisher::FisherError;

/// Orthonormal eigenvectors with their record, and the products that they took.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Deflation {
    pub vectors: Vec<Vec<f32>>,
    pub pairs: Vec<Eigenpair>,
    pub products: u64,
}

impl Deflation {
    /// The first `count` of a recursion on `matrix`.
    pub(super) fn of(krylov: &Krylov, matrix: Deflated<'_>, count: usize, center: &[f32]) -> Result<Self, FisherError> {
        let mut found = Self { products: krylov.tridiagonal.steps() as u64, ..Self::default() };
        for (curvature, coefficients, residual) in krylov.tridiagonal.leading(count) {
            let mut vector = krylov.combine(matrix, &coefficients, &mut None)?;
            project_out(&found.vectors, &mut vector);
            normalize(&mut vector);
            found.pairs.push(Eigenpair { curvature, center_squared: inner(&vector, center).powi(2), residual });
            found.vectors.push(vector);
        }
        Ok(found)
    }

    pub(super) fn save(&self) -> UnfinishedRecursion<'_> {
        let mut kept = UnfinishedRecursion::default();
        let list = |value: fn(&Eigenpair) -> f64| self.pairs.iter().map(value).collect::<Vec<f64>>();
        kept.put("curvatures", &list(|pair| pair.curvature));
        kept.put("center-squared", &list(|pair| pair.center_squared));
        kept.put("residuals", &list(|pair| pair.residual));
        kept.put("products", &[self.products as f64]);
        kept.put_vectors("eigenvector", &self.vectors);
        kept
    }

    /// None for anything else, as a recursion that is not finished.
    pub(super) fn restore(kept: &mut UnfinishedRecursion<'_>, length: usize) -> Option<Self> {
        let (curvatures, squares, residuals) = (kept.take("curvatures")?, kept.take("center-squared")?, kept.take("residuals")?);
        let pairs = curvatures.iter().zip(&squares).zip(&residuals);
        let pairs: Vec<Eigenpair> =
            pairs.map(|((&curvature, &center_squared), &residual)| Eigenpair { curvature, center_squared, residual }).collect();
        let found = Self { pairs, products: *kept.take("products")?.first()? as u64, vectors: kept.take_vectors("eigenvector", length)? };
        (found.pairs.len() == found.vectors.len()).then_some(found)
    }
}
