//! What a recursion leaves behind.

use serde::{Deserialize, Serialize};

use super::tridiagonal::Tridiagonal;
use crate::run::record::{Record, null_as_infinity};

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Part {
    /// Index 0 of the route lanczos: the recursion started at the center.
    Center,
    /// The recursion started at a random vector.
    Probe,
    /// Index 0 of the route gram: all eigenvalues above zero, and the center's recursion in the space of the Gram matrix.
    Spectrum,
    /// A draw alone, of the route gram.
    Draw,
}

/// An eigenvector that was taken out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Eigenpair {
    /// The eigenvalue, nats per squared unit of weight.
    pub curvature: f64,
    /// Square of the center's component.
    pub center_squared: f64,
    /// `|F u - l u|`.
    pub residual: f64,
}

/// The costs at a draw of the estimator's own Gaussian, without the penalty `l2_reg`, in nats.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Draw {
    /// The beta of the Gaussian.
    pub beta: f64,
    /// `d'Fd/2` for the displacement `d` from the center.
    pub quadratic: f64,
    /// The cost itself; `null` if it is not finite.
    #[serde(with = "null_as_infinity")]
    pub cost: f64,
}

/// A line of `samples.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpectralRecord {
    /// 0: the center (or the whole spectrum); from 1: probes (or draws).
    pub index: u64,
    /// What it holds.
    pub part: Part,
    /// What the weights of the recursion's rule are multiplied with: `|c|^2` or `D`, less what was deflated; `c'Fc` for a whole spectrum.
    pub mass: f64,
    /// `|c|^2`, of index 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub center_norm_squared: Option<f64>,
    /// Random vectors of a probe; 1 where it is not written.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub width: usize,
    /// Diagonal of the recursion's matrix; with several vectors `width x width` blocks, row by row.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alphas: Vec<f64>,
    /// Beside the diagonal, in the same form; the last leads out of the matrix.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub betas: Vec<f64>,
    /// All eigenvalues above zero, from the largest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub eigenvalues: Vec<f64>,
    /// Eigenvectors taken out before, of index 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deflated: Vec<Eigenpair>,
    /// The costs at a draw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draw: Option<Draw>,
    /// Products with the Fisher matrix.
    pub products: u64,
    /// Gradients of the whole cost, or work of the same price.
    pub gradients: u64,
}

fn one() -> usize {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_one(width: &usize) -> bool {
    *width == 1
}

impl Record for SpectralRecord {
    fn index(&self) -> u64 {
        self.index
    }
}

impl SpectralRecord {
    pub(super) fn new(index: u64, part: Part, mass: f64) -> Self {
        Self {
            index,
            part,
            mass,
            center_norm_squared: None,
            width: 1,
            alphas: Vec::new(),
            betas: Vec::new(),
            eigenvalues: Vec::new(),
            deflated: Vec::new(),
            draw: None,
            products: 0,
            gradients: 0,
        }
    }

    pub(super) fn tridiagonal(&self) -> Tridiagonal {
        Tridiagonal { width: self.width, alphas: self.alphas.clone(), betas: self.betas.clone() }
    }

    pub(super) fn with(mut self, tridiagonal: &Tridiagonal) -> Self {
        self.width = tridiagonal.width;
        self.alphas.clone_from(&tridiagonal.alphas);
        self.betas.clone_from(&tridiagonal.betas);
        self
    }
}
