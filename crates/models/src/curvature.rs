//! Curvatures of the cost at the center: what preconditioners are made of, in the forms they are computed, kept in files and applied.
//!
//! All coordinates here are those of one [`ParameterLayout`]: the moving weights, in their order. A curvature stands for a symmetric
//! matrix `H` without negative eigenvalues that resembles the Hessian of the cost at the center (nats per squared unit of weight).

use basin_volume::preconditioner::Rest;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::parameters::ParameterLayout;

mod diagonal;
mod error;
mod file;
mod hutchinson;
mod kronecker;
mod learned;
mod low_rank;
mod memory;
mod products;
mod scores;
mod states;

pub use diagonal::{fisher_diagonal, squared_gradient};
pub use error::CurvatureError;
pub use file::{read, read_provenance, write};
pub use hutchinson::{ProbeReport, hessian_diagonal};
pub use kronecker::kronecker;
pub use learned::{LearnReport, LearnSettings, learn_diagonal};
pub use low_rank::{LowRankReport, LowRankSettings, low_rank};
pub use memory::{diagonal_bytes, hessian_diagonal_bytes, kronecker_bytes, learn_diagonal_bytes, low_rank_bytes};
pub use products::{PERTURBATION, fisher_product};
pub(crate) use scores::add_squared_sums;
pub use scores::{DenseMatrix, Labels, Moments, Observer, Scores, Silent, add_squares, probe_seed};
pub use states::{CoordinateMetrics, Recenter, StateMetrics};

/// Names of the kinds of curvature that this crate computes, as files have them in [`Provenance::kind`]. Others may compute kinds of
/// their own: the form of a file's numbers does not depend on the name.
pub mod kinds {
    /// Diagonal of the Fisher matrix, labels drawn from the model.
    pub const FISHER_DIAGONAL: &str = "fisher-diagonal";
    /// Mean of the squared gradients of the loss on the data's own labels (the "empirical Fisher" diagonal).
    pub const SQUARED_GRADIENT: &str = "squared-gradient";
    /// Diagonal of the Hessian of the cost by Hutchinson's probes.
    pub const HESSIAN_DIAGONAL: &str = "hessian-diagonal";
    /// Kronecker factors per linear layer (K-FAC).
    pub const KRONECKER: &str = "kronecker";
    /// Leading eigenvectors, and a diagonal for the rest.
    pub const LOW_RANK: &str = "low-rank";
    /// Factors of a diagonal map, optimized for the mean log-volume of the rays.
    pub const LEARNED: &str = "learned";
}

/// Where a curvature comes from: everything that decides its numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Name of what was computed: one of [`kinds`], or of somebody else's.
    pub kind: String,
    /// Hash of all weights of the model ([`crate::parameters::Parameters::hash`]).
    pub weights_sha256: String,
    /// What identifies the data, as in a run's manifest (name, size, hash).
    pub data: Value,
    /// Seed of labels and probes.
    pub seed: u64,
    /// Settings of the computation by name: probes, rank, steps.
    #[serde(default)]
    pub settings: Map<String, Value>,
    /// Program and version that computed it.
    pub software: String,
}

/// Rows and columns of a weight as a matrix: those of a convolution are its outputs, and all its inputs in all places of the window.
fn matrix_sides(shape: &[usize]) -> Option<(usize, usize)> {
    match shape {
        [rows, rest @ ..] if !rest.is_empty() => Some((*rows, rest.iter().product())),
        _ => None,
    }
}

/// Kronecker factors of one matrix of weights.
#[derive(Debug, Clone, PartialEq)]
pub struct KroneckerBlock {
    /// Name of the weight, a matrix of shape `[rows, columns]` as it is stored (of a convolution `[rows, ...]`, `columns` their product).
    pub parameter: String,
    /// Symmetric `[rows, rows]`, row-major. For a weight stored as `[out, in]` the second moment `G` of the output gradients, for a
    /// transposed one (GPT-2) that of the inputs.
    pub row_factor: Vec<f32>,
    /// Symmetric `[columns, columns]`, row-major. For a weight stored as `[out, in]` the second moment `A` of the inputs.
    pub column_factor: Vec<f32>,
    /// `H_(i,j),(k,l) = scale * row_factor_ik * column_factor_jl`.
    pub scale: f64,
}

/// The diagonal beside low-rank curvature.
#[derive(Debug, Clone, PartialEq)]
pub enum RestDiagonal {
    /// One number for all weights.
    Uniform(f32),
    /// One number per weight.
    PerWeight(Vec<f32>),
}

impl RestDiagonal {
    /// As preconditioners take it.
    #[must_use]
    pub fn view(&self) -> Rest<'_> {
        match self {
            Self::Uniform(value) => Rest::Uniform(*value),
            Self::PerWeight(values) => Rest::PerCoordinate(values),
        }
    }
}

/// A symmetric matrix over the weights of a layout, in a form that fits into memory. Entries of diagonals and eigenvalues are finite and
/// not negative (estimates below zero are set to zero by whoever computes them).
#[derive(Debug, Clone, PartialEq)]
pub enum Curvature {
    /// `H = diag(values)`, one number per weight.
    Diagonal {
        /// Length `D`.
        values: Vec<f32>,
    },
    /// Block-diagonal: Kronecker products for some matrices, a diagonal for all other tensors.
    Kronecker {
        /// One per matrix, in the order of the layout.
        blocks: Vec<KroneckerBlock>,
        /// One number per weight of the tensors without a block, these tensors one after the other in the order of the layout.
        diagonal: Vec<f32>,
    },
    /// `H = diag(rest) + U diag(l) U'`.
    LowRankDiagonal {
        /// `U'`, row-major `[K, D]`: one row per vector; the vectors need not be orthonormal.
        basis: Vec<f32>,
        /// `l`, length `K`.
        eigenvalues: Vec<f32>,
        /// What the low-rank part lacks.
        rest: RestDiagonal,
    },
    /// Not a curvature but the map itself: `P = diag(values)` up to a factor. Every entry is greater than zero.
    Factors {
        /// Length `D`.
        values: Vec<f32>,
    },
}

impl Curvature {
    /// Refuses numbers of another model, and numbers that no curvature has.
    ///
    /// # Errors
    /// When a length does not fit the layout, a block names no matrix of it, or an entry is NaN, infinite or negative. Each message is
    /// one sentence that names the tensor.
    pub fn validate(&self, layout: &ParameterLayout) -> Result<(), CurvatureError> {
        let dimension = layout.dimension();
        let whole = |values: &[f32], what: &str, least: f32| {
            expect_length(what, values.len(), dimension)?;
            for (parameter, values) in layout.unflatten(values) {
                check_entries(&format!("{what} of {}", parameter.name), values, least)?;
            }
            Ok(())
        };
        match self {
            Self::Diagonal { values } => whole(values, "the diagonal", 0.0),
            Self::Factors { values } => whole(values, "the factors", f32::MIN_POSITIVE),
            Self::LowRankDiagonal { basis, eigenvalues, rest } => {
                check_entries("the eigenvalues", eigenvalues, 0.0)?;
                expect_length("the basis", basis.len(), eigenvalues.len() * dimension)?;
                check_entries("the basis", basis, f32::MIN)?;
                match rest {
                    RestDiagonal::Uniform(value) => check_entries("the diagonal", std::slice::from_ref(value), 0.0),
                    RestDiagonal::PerWeight(values) => whole(values, "the diagonal", 0.0),
                }
            }
            Self::Kronecker { blocks, diagonal } => {
                let mut rest = dimension;
                let mut parameters = layout.parameters().iter();
                for block in blocks {
                    let unknown = || CurvatureError::Block { parameter: block.parameter.clone() };
                    let parameter = parameters.find(|parameter| parameter.name == block.parameter).ok_or_else(unknown)?;
                    let (rows, columns) = matrix_sides(&parameter.shape).ok_or_else(unknown)?;
                    rest -= parameter.len();
                    for (side, factor, size) in [("row", &block.row_factor, rows), ("column", &block.column_factor, columns)] {
                        let what = format!("the {side} factor of {}", block.parameter);
                        expect_length(&what, factor.len(), size * size)?;
                        check_entries(&what, factor, f32::MIN)?;
                        let diagonal: Vec<f32> = factor.iter().step_by(size + 1).copied().collect();
                        check_entries(&format!("the diagonal of {what}"), &diagonal, 0.0)?;
                    }
                    if !(block.scale >= 0.0 && block.scale.is_finite()) {
                        let what = format!("the scale of {}", block.parameter);
                        return Err(CurvatureError::Entry { what, index: 0, value: block.scale, expected: "a finite number >= 0" });
                    }
                }
                expect_length("the diagonal of the other tensors", diagonal.len(), rest)?;
                check_entries("the diagonal of the other tensors", diagonal, 0.0)
            }
        }
    }

    /// Trace of the matrix, which is the sum of its eigenvalues, for weights of this layout; that of the map itself for factors.
    #[must_use]
    pub fn trace(&self, layout: &ParameterLayout) -> f64 {
        let sum = |values: &[f32]| values.iter().map(|&x| f64::from(x)).sum::<f64>();
        match self {
            Self::Diagonal { values } | Self::Factors { values } => sum(values),
            Self::LowRankDiagonal { basis, eigenvalues, rest } => {
                let dimension = layout.dimension();
                let rows = basis.chunks_exact(dimension.max(1)).zip(eigenvalues);
                let low: f64 = rows.map(|(row, &l)| f64::from(l) * row.iter().map(|&u| f64::from(u).powi(2)).sum::<f64>()).sum();
                low + match rest {
                    RestDiagonal::Uniform(value) => f64::from(*value) * dimension as f64,
                    RestDiagonal::PerWeight(values) => sum(values),
                }
            }
            Self::Kronecker { blocks, diagonal } => {
                let trace = |factor: &[f32]| {
                    let size = factor.len().isqrt();
                    factor.iter().step_by(size + 1).map(|&x| f64::from(x)).sum::<f64>()
                };
                sum(diagonal) + blocks.iter().map(|block| block.scale * trace(&block.row_factor) * trace(&block.column_factor)).sum::<f64>()
            }
        }
    }

    /// Bytes that the numbers take.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let numbers = match self {
            Self::Diagonal { values } | Self::Factors { values } => values.len(),
            Self::LowRankDiagonal { basis, eigenvalues, rest } => {
                let rest = if let RestDiagonal::PerWeight(values) = rest { values.len() } else { 1 };
                basis.len() + eigenvalues.len() + rest
            }
            Self::Kronecker { blocks, diagonal } => {
                diagonal.len() + blocks.iter().map(|block| block.row_factor.len() + block.column_factor.len()).sum::<usize>()
            }
        };
        4 * numbers as u64
    }

    /// SHA-256 of the numbers and of their form, in hexadecimal: what a run's manifest says.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        let mut add = |name: &str, values: &[f32]| {
            hasher.update(name.as_bytes());
            hasher.update((values.len() as u64).to_le_bytes());
            let mut bytes = Vec::new();
            for block in values.chunks(1 << 16) {
                bytes.clear();
                bytes.extend(block.iter().flat_map(|value| value.to_le_bytes()));
                hasher.update(&bytes);
            }
        };
        match self {
            Self::Diagonal { values } => add("diagonal", values),
            Self::Factors { values } => add("factors", values),
            Self::LowRankDiagonal { basis, eigenvalues, rest } => {
                add("basis", basis);
                add("eigenvalues", eigenvalues);
                match rest {
                    RestDiagonal::Uniform(value) => add("rest", std::slice::from_ref(value)),
                    RestDiagonal::PerWeight(values) => add("diagonal", values),
                }
            }
            Self::Kronecker { blocks, diagonal } => {
                for block in blocks {
                    add(&block.parameter, &block.row_factor);
                    add("columns", &block.column_factor);
                    // The two halves of an f64, exactly.
                    let bits = block.scale.to_bits();
                    add("scale", &[f32::from_bits((bits >> 32) as u32), f32::from_bits(bits as u32)]);
                }
                add("diagonal", diagonal);
            }
        }
        basin_volume_data::hexadecimal(&hasher.finalize())
    }
}

fn expect_length(what: &str, found: usize, expected: usize) -> Result<(), CurvatureError> {
    if found == expected { Ok(()) } else { Err(CurvatureError::Length { what: what.to_owned(), found, expected }) }
}

/// Every entry finite and at least `least`.
fn check_entries(what: &str, values: &[f32], least: f32) -> Result<(), CurvatureError> {
    match values.iter().position(|value| !(*value >= least && value.is_finite())) {
        None => Ok(()),
        Some(index) => {
            let expected = match least {
                0.0 => "a finite number >= 0",
                least if least > 0.0 => "a finite number > 0",
                _ => "a finite number",
            };
            Err(CurvatureError::Entry { what: what.to_owned(), index, value: f64::from(values[index]), expected })
        }
    }
}

#[cfg(test)]
pub(crate) mod testkit;
#[cfg(test)]
mod tests;
