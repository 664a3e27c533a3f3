//! The space of a finished recursion.

use super::tridiagonal::Tridiagonal;
use super::unfinished::UnfinishedRecursion;
use super::vector::{add, normalize, project_out};
use crate::fisher::{FisherError, FisherMatrix};

/// What a recursion is run on: the Fisher matrix between projections that take some eigenvectors out.
#[derive(Clone, Copy)]
pub(super) struct Deflated<'a> {
    pub fisher: &'a dyn FisherMatrix,
    /// Orthonormal.
    pub removed: &'a [Vec<f32>],
}

impl Deflated<'_> {
    pub(super) fn product(&self, v: &[f32], out: &mut [f32]) -> Result<(), FisherError> {
        self.fisher.product(v, out)?;
        project_out(self.removed, out);
        Ok(())
    }
}

/// A finished recursion.
pub(super) struct Krylov {
    pub tridiagonal: Tridiagonal,
    /// The first vector.
    pub start: Vec<f32>,
    /// The vectors, where they are kept.
    pub basis: Option<Vec<Vec<f32>>>,
}

/// A sum over vectors that are computed again, on its way.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Again {
    /// Vectors that are in the sum.
    step: usize,
    sum: Vec<f32>,
    /// The last two of them.
    before: Vec<f32>,
    current: Vec<f32>,
}

impl Krylov {
    /// `sum_j coefficients_j q_j` over the vectors of the recursion; computes them again where they were not kept. A product that fails leaves in
    /// `again` what it takes to go on, a sum that is complete what it takes to have it at once.
    pub(super) fn combine(&self, matrix: Deflated<'_>, coefficients: &[f64], again: &mut Option<Again>) -> Result<Vec<f32>, FisherError> {
        let length = self.start.len();
        if let Some(basis) = &self.basis {
            let mut sum = vec![0.0f32; length];
            basis.iter().zip(coefficients).for_each(|(row, &c)| add(&mut sum, c, row));
            return Ok(sum);
        }
        let again = again.get_or_insert_with(|| {
            let mut sum = vec![0.0f32; length];
            coefficients.first().into_iter().for_each(|&first| add(&mut sum, first, &self.start));
            Again { step: 1, sum, before: Vec::new(), current: self.start.clone() }
        });
        let Tridiagonal { alphas, betas, .. } = &self.tridiagonal;
        while again.step < coefficients.len() {
            let step = again.step;
            let mut next = vec![0.0f32; length];
            matrix.product(&again.current, &mut next)?;
            add(&mut next, -alphas[step - 1], &again.current);
            if step > 1 {
                add(&mut next, -betas[step - 2], &again.before);
            }
            // The same rounding as in the first pass.
            normalize(&mut next);
            add(&mut again.sum, coefficients[step], &next);
            again.before = std::mem::replace(&mut again.current, next);
            again.step += 1;
        }
        Ok(again.sum.clone())
    }

    /// In the form that [`Lanczos::restore`](super::lanczos::Lanczos::restore) reads.
    pub(super) fn save(&self) -> UnfinishedRecursion<'_> {
        let mut kept = UnfinishedRecursion::default();
        kept.put("alphas", &self.tridiagonal.alphas);
        kept.put("betas", &self.tridiagonal.betas);
        kept.put("flags", &[1.0, 0.0]);
        kept.put("orthogonality-before", &[]);
        kept.put("orthogonality", &[]);
        kept.put_vectors("basis", self.basis.as_deref().unwrap_or(&[]));
        kept
    }
}

impl Again {
    pub(super) fn save<'a>(&'a self, name: &str, kept: &mut UnfinishedRecursion<'a>) {
        kept.put(name, &[self.step as f64]);
        kept.put_vectors(name, std::slice::from_ref(&self.sum));
        kept.put_vectors(&format!("{name}-current"), std::slice::from_ref(&self.current));
        if !self.before.is_empty() {
            kept.put_vectors(&format!("{name}-before"), std::slice::from_ref(&self.before));
        }
    }

    pub(super) fn restore(name: &str, length: usize, kept: &mut UnfinishedRecursion<'_>) -> Option<Self> {
        let step = *kept.take(name)?.first()? as usize;
        let mut one = |name: &str| kept.take_vectors(name, length).and_then(|mut found| found.pop());
        let (sum, current) = (one(name)?, one(&format!("{name}-current"))?);
        let before = one(&format!("{name}-before")).unwrap_or_default();
        (step == 1 || !before.is_empty()).then_some(Self { step, sum, before, current })
    }
}
