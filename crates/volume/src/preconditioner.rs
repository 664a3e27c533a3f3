//! Linear maps `P` with zero log-determinant that reshape the directions: `v = P u`.
//!
//! Every map is stored as `scale * M`, with `M` in `f32` and the scale in `f64`, chosen so that the determinant of the *stored*
//! (rounded) map is one. A curvature `s` becomes a factor by a [`CurvatureMap`]: that of the paper's code,
//! `1 / (|s|^exponent + eps)`, or the inverse root of a damped curvature, `(beta s + 1/sigma^2)^(-1/2)`; the factors are then shifted in
//! the logarithm to mean zero. For [`Dense`], [`Kronecker`] and [`LowRankDiagonal`] the curvatures are the eigenvalues of a matrix.
//!
//! Maps that stand for a covariance in absolute units also know the factor that the normalisation took out, [`Preconditioner::root_scale`]:
//! `s P` is then a root of `Sigma = s^2 P P'`, and the map is a Gaussian proposal and not only a shape. Damped curvatures are such maps
//! (`Sigma = (beta F + 1/sigma^2)^-1`), and so is a [`Gaussian`] given by its moments.

use std::fmt::Debug;
use std::ops::Range;

mod dense;
mod diagonal;
mod gaussian;
mod kronecker;
mod low_rank;
mod map;

pub use dense::Dense;
pub use diagonal::Diagonal;
pub use gaussian::Gaussian;
pub use kronecker::{Kronecker, KroneckerCurvature, KroneckerTensor};
pub use low_rank::{LowRankDiagonal, Rest};
pub use map::{CurvatureMap, Damping, DiagonalMap};

/// Why a preconditioner could not be built.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PreconditionerError {
    /// No coordinates.
    #[error("the preconditioner is empty: it needs one entry per parameter")]
    Empty,
    /// An entry of the vector or matrix is NaN or infinite.
    #[error("entry {index} of the preconditioner's source is {value}: every entry must be finite")]
    NotFinite {
        /// Position of the entry.
        index: usize,
        /// Its value.
        value: f64,
    },
    /// An entry is below what the map takes.
    #[error("entry {index} of the preconditioner's source is {value}: expected {expected}")]
    Negative {
        /// Position of the entry.
        index: usize,
        /// Its value.
        value: f64,
        /// What is allowed.
        expected: &'static str,
    },
    /// The map sends an entry to zero or infinity, so its determinant cannot be one.
    #[error("entry {index} ({value}) of the preconditioner's source gives the factor {factor}: use eps > 0 or a smaller exponent")]
    Singular {
        /// Position of the entry.
        index: usize,
        /// Its value.
        value: f64,
        /// What the map makes of it.
        factor: f64,
    },
    /// A setting is out of range.
    #[error("the preconditioner's `{name}` is {value}: expected {expected}")]
    Setting {
        /// `exponent`, `eps`, `beta` or `sigma`.
        name: &'static str,
        /// The given value.
        value: f64,
        /// What is allowed.
        expected: &'static str,
    },
    /// The scale of a Kronecker product is out of range.
    #[error("the scale of a Kronecker product is {value}: expected a finite number >= 0")]
    Scale {
        /// The given value.
        value: f64,
    },
    /// A matrix that is not positive definite.
    #[error("eigenvalue {index} of the matrix is {value}: expected {expected}")]
    Eigenvalue {
        /// Its number, in nondecreasing order.
        index: usize,
        /// Its value.
        value: f64,
        /// What is allowed.
        expected: &'static str,
    },
    /// A mean whose length is not that of the covariance.
    #[error("the mean has {mean} entries but the covariance is of {dimension} coordinates: they must belong to the same Gaussian")]
    Mean {
        /// Entries of the mean.
        mean: usize,
        /// Coordinates of the covariance.
        dimension: usize,
    },
    /// A matrix that is not square or not symmetric.
    #[error("the preconditioner's matrix {0}")]
    Matrix(String),
}

/// A linear map `P = scale * M` on `R^D` with `log |det P| = 0`.
pub trait Preconditioner: Debug + Send + Sync {
    /// Number of coordinates, if the map has a fixed one.
    fn dimension(&self) -> Option<usize>;

    /// The factor kept out of the `f32` entries.
    fn scale(&self) -> f64 {
        1.0
    }

    /// `log |det P|` of the stored map, in nats: zero up to rounding.
    fn log_determinant(&self) -> f64 {
        0.0
    }

    /// Whether the identity, so that callers can skip work.
    fn is_identity(&self) -> bool {
        false
    }

    /// The input coordinates that the output coordinates `range` depend on: the same ones for elementwise maps, all of them for a
    /// dense matrix, those of the tensors that the range touches for Kronecker factors.
    fn support(&self, range: Range<usize>) -> Range<usize> {
        range
    }

    /// Coordinates `range` of `M z`, from the coordinates `self.support(range)` of `z`.
    fn apply(&self, range: Range<usize>, normals: &[f32], out: &mut [f32]);

    /// Replaces `x` (all `D` coordinates) by `P^-1 x`.
    fn apply_inverse(&self, x: &mut [f32]);

    /// Replaces `x` (all `D` coordinates) by `P' x`.
    fn apply_transpose(&self, x: &mut [f32]);

    /// `s > 0`, in units of a weight, with which `s^2 P P'` is the covariance that the map was made of; `None` for maps that have only a
    /// shape. `D ln s` is half the log-determinant of that covariance.
    fn root_scale(&self) -> Option<f64> {
        None
    }

    /// The entries of `M` (length `D`), if it is a diagonal matrix.
    fn diagonal(&self) -> Option<&[f32]> {
        None
    }

    /// The mean of `w - c` (length `D`) under the Gaussian that the map was made of, if it has one of its own.
    fn mean(&self) -> Option<&[f32]> {
        None
    }
}

/// `P = I`: directions uniform on the sphere.
#[derive(Debug, Clone, Copy, Default)]
pub struct Identity;

impl Preconditioner for Identity {
    fn dimension(&self) -> Option<usize> {
        None
    }

    fn is_identity(&self) -> bool {
        true
    }

    fn apply(&self, _range: Range<usize>, normals: &[f32], out: &mut [f32]) {
        out.copy_from_slice(normals);
    }

    fn apply_inverse(&self, _x: &mut [f32]) {}

    fn apply_transpose(&self, _x: &mut [f32]) {}
}
