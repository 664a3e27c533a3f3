//! The Fisher matrix at the center, which is the Hessian of a KL cost there, as a linear map: `F v` without the matrix.
//!
//! [`DifferenceProducts`] needs no more than gradients. Costs that can do better implement [`FisherMatrix`] themselves, and where the
//! data are few they offer a factor, `F = J'J`, whose rows are the gradients of single positions ([`FisherFactor`]).

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::direction::dot;
use crate::interrupt::Interrupt;
use crate::objective::{Differentiable, ObjectiveError};

/// Length of the perturbation, by default: large enough that the gradient's `f32` rounding does not matter, small enough that the cost
/// is quadratic.
pub const PERTURBATION: f64 = 1e-2;

/// Coordinates that one task works on.
const CHUNK: usize = 1 << 14;

/// Why a product could not be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FisherError {
    /// A setting is out of range.
    #[error("`{name}` is {value}: expected {expected}")]
    Setting {
        /// Which setting.
        name: &'static str,
        /// Its value.
        value: f64,
        /// What is allowed.
        expected: &'static str,
    },
    /// The objective failed.
    #[error(transparent)]
    Objective(#[from] ObjectiveError),
    /// A number came out that is not finite.
    #[error(
        "the product of the Fisher matrix has the entry {value} at weight {index} of the moving ones: the model's gradients are not finite near its own weights"
    )]
    NotFinite {
        /// Which entry.
        index: usize,
        /// Its value.
        value: f64,
    },
}

impl FisherError {
    /// Whether it is no failure: an interrupt is raised.
    #[must_use]
    pub fn is_interrupt(&self) -> bool {
        matches!(self, Self::Objective(error) if error.is_interrupt())
    }
}

/// The Fisher matrix at the center: symmetric, no negative eigenvalues, nats per squared unit of weight. Called from several threads at
/// once; heavy work inside one product should use rayon's current pool.
pub trait FisherMatrix: Sync {
    /// Number of parameters, `D`.
    fn dimension(&self) -> usize;

    /// Writes `F v` into `out`; equal arguments give equal bits on any number of threads.
    ///
    /// # Errors
    /// When an evaluation fails, or the result is not finite.
    ///
    /// # Panics
    /// If a length is not `D`.
    fn product(&self, v: &[f32], out: &mut [f32]) -> Result<(), FisherError>;

    /// Gradients of the whole cost that one product takes, or work of the same price, rounded up.
    fn gradients_per_product(&self) -> u64;

    /// Bytes of scratch that one product takes, beside what a gradient of the cost does.
    fn scratch_bytes(&self) -> u64 {
        0
    }

    /// Bytes that are kept for all products.
    fn held_bytes(&self) -> u64 {
        0
    }

    /// A factor `J` with `F = J'J`, where the cost has one.
    fn factor(&self) -> Option<&dyn FisherFactor> {
        None
    }
}

/// A matrix `J`, `[rows, D]`, with `F = J'J`: in its rows scaled gradients of single positions.
pub trait FisherFactor: Sync {
    /// Number of rows. `F` has at most so many eigenvalues above zero.
    fn rows(&self) -> usize;

    /// No more eigenvalues than these can be above zero; what is left beyond is rounding.
    fn largest_rank(&self) -> usize {
        self.rows()
    }

    /// Writes `J v` into `out` (length `rows`).
    ///
    /// # Errors
    /// When an evaluation fails, or the result is not finite.
    fn apply(&self, v: &[f32], out: &mut [f32]) -> Result<(), FisherError>;

    /// The Gram matrix `J J'`, `[rows, rows]`, whose eigenvalues above zero are those of `F`. Takes far longer than a gradient, and looks at the
    /// interrupt on its way.
    ///
    /// # Errors
    /// When an evaluation fails, or the interrupt is raised.
    fn gram(&self, interrupt: &Interrupt) -> Result<Vec<f64>, FisherError>;
}

/// Products by differences of the gradient of the cost:
///
/// `F v = [ grad C(c + h v) - grad C(c - h v) ] / 2h  +  O(h^2)`,      `h = perturbation / |v|`
///
/// Two gradients each; the second-order terms of the gradient cancel. The gradients are `f32`, so a product is good to about 1e-3 of its
/// length; what rounding adds is a multiple of the largest eigenvalue rather than of the product. Memory: the center, and two vectors of
/// length `D` for every product that is computed at the same time.
pub struct DifferenceProducts<'a> {
    objective: &'a dyn Differentiable,
    perturbation: f64,
    center: Vec<f32>,
    /// Perturbed weights and the second gradient.
    scratch: Mutex<Vec<[Vec<f32>; 2]>>,
}

impl<'a> DifferenceProducts<'a> {
    /// Products with perturbations of this length.
    ///
    /// # Errors
    /// When the length is not a positive number.
    pub fn new(objective: &'a dyn Differentiable, perturbation: f64) -> Result<Self, FisherError> {
        if !(perturbation > 0.0 && perturbation.is_finite()) {
            return Err(FisherError::Setting { name: "perturbation", value: perturbation, expected: "a finite number > 0" });
        }
        let mut center = vec![0.0f32; objective.dimension()];
        objective.center(0..center.len(), &mut center);
        Ok(Self { objective, perturbation, center, scratch: Mutex::default() })
    }

    fn move_by(&self, v: &[f32], step: f64, weights: &mut [f32]) {
        let triples = weights.par_chunks_mut(CHUNK).zip(self.center.par_chunks(CHUNK)).zip(v.par_chunks(CHUNK));
        triples.for_each(|((weights, center), v)| {
            for ((weight, &center), &v) in weights.iter_mut().zip(center).zip(v) {
                *weight = step.mul_add(f64::from(v), f64::from(center)) as f32;
            }
        });
    }
}

impl FisherMatrix for DifferenceProducts<'_> {
    fn dimension(&self) -> usize {
        self.center.len()
    }

    /// Zero for a `v` of zero.
    fn product(&self, v: &[f32], out: &mut [f32]) -> Result<(), FisherError> {
        assert!(v.len() == self.center.len() && out.len() == v.len(), "vectors of length D");
        let norm = dot(v, v).sqrt();
        if norm == 0.0 {
            out.fill(0.0);
            return Ok(());
        }
        let step = self.perturbation / norm;
        let parts = 0..self.objective.parts();
        let pooled = self.scratch.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let [mut weights, mut other] = pooled.unwrap_or_else(|| [vec![0.0; v.len()], vec![0.0; v.len()]]);
        self.move_by(v, step, &mut weights);
        self.objective.gradient(&weights, parts.clone(), out)?;
        self.move_by(v, -step, &mut weights);
        self.objective.gradient(&weights, parts, &mut other)?;
        let scale = 0.5 / step;
        let pairs = out.par_chunks_mut(CHUNK).zip(other.par_chunks(CHUNK));
        pairs.for_each(|(out, other)| {
            out.iter_mut().zip(other).for_each(|(out, &other)| *out = (scale * (f64::from(*out) - f64::from(other))) as f32);
        });
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner).push([weights, other]);
        check_finite(out)
    }

    fn gradients_per_product(&self) -> u64 {
        2
    }

    fn scratch_bytes(&self) -> u64 {
        8 * self.center.len() as u64
    }

    fn held_bytes(&self) -> u64 {
        4 * self.center.len() as u64
    }
}

/// Refuses NaN and infinity.
///
/// # Errors
/// [`FisherError::NotFinite`], with the first of them.
pub fn check_finite(product: &[f32]) -> Result<(), FisherError> {
    match product.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(index) => Err(FisherError::NotFinite { index, value: f64::from(product[index]) }),
    }
}
