//! The small matrix that a recursion leaves behind, and its quadrature rules.

use faer::{Mat, Side};

/// The symmetric matrix of a recursion with `width` vectors at a time, block tridiagonal: `width x width` blocks, row-major, one after the other. The
/// diagonal blocks are `alphas`; `betas[j]`, upper triangular, stands between block rows `j + 1` and `j`. The last of them leads out of the
/// matrix, and is zero when the space is exhausted. With a width of one they are the numbers of the plain recursion.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tridiagonal {
    pub width: usize,
    pub alphas: Vec<f64>,
    pub betas: Vec<f64>,
}

/// Nodes (eigenvalues, from the smallest) and weights that add up to one: a quadrature rule for the spectral measure of the start vector.
pub(super) type Rule = Vec<(f64, f64)>;

impl Tridiagonal {
    /// Number of steps, `width` products each.
    pub(super) fn steps(&self) -> usize {
        self.alphas.len() / (self.width * self.width)
    }

    fn alpha(&self, step: usize, i: usize, j: usize) -> f64 {
        self.alphas[(step * self.width + i) * self.width + j]
    }

    pub(super) fn beta(&self, step: usize, i: usize, j: usize) -> f64 {
        self.betas[(step * self.width + i) * self.width + j]
    }

    /// The largest entry.
    pub(super) fn largest(&self) -> f64 {
        self.alphas.iter().chain(&self.betas).fold(0.0f64, |largest, x| largest.max(x.abs()))
    }

    /// Whether the space is exhausted: the rules are exact.
    pub(super) fn is_exhausted(&self) -> bool {
        let last = self.betas.len().saturating_sub(self.width * self.width);
        self.betas[last..].iter().all(|&beta| beta == 0.0)
    }

    /// That of the first `steps` steps.
    pub(super) fn prefix(&self, steps: usize) -> Self {
        let steps = steps.clamp(1, self.steps().max(1)).min(self.steps());
        let length = steps * self.width * self.width;
        Self { width: self.width, alphas: self.alphas[..length].to_vec(), betas: self.betas[..length].to_vec() }
    }

    /// Gauss' rule: exact for polynomials of degree `2m - 1`. Eigenvalues below zero are rounding and become zero. With several vectors it is the mean
    /// of their rules.
    pub(super) fn gauss(&self) -> Rule {
        self.rule(None)
    }

    /// The Gauss-Radau rule with nodes at zero, the lower end of the spectrum, as many as vectors (Golub & Meurant 2010, chapter 6): one block row more,
    /// whose diagonal is `R S^-1 R'` with `R` what leads out of the matrix and `S` the last pivot of its block factorisation `LSL'`.
    pub(super) fn radau_at_zero(&self) -> Rule {
        if self.is_exhausted() {
            return self.gauss();
        }
        let least = f64::EPSILON * self.largest();
        let diagonal = |step: usize| Mat::from_fn(self.width, self.width, |i, j| self.alpha(step, i, j));
        let beside = |step: usize| Mat::from_fn(self.width, self.width, |i, j| self.beta(step, i, j));
        let mut pivot = diagonal(0);
        for step in 1..self.steps() {
            let (r, Some((inverse, _))) = (beside(step - 1), floored_inverse(&pivot, least)) else { return self.gauss() };
            pivot = diagonal(step) - &r * inverse * r.transpose();
        }
        let r = beside(self.steps() - 1);
        // Rounding may leave an eigenvalue at or below zero; then the node is there already.
        match floored_inverse(&pivot, least) {
            Some((inverse, smallest)) if smallest > least => self.rule(Some(&r * inverse * r.transpose())),
            _ => self.gauss(),
        }
    }

    /// Eigenvalues and eigenvectors, with `last` as one more diagonal block.
    fn eigen(&self, last: Option<Mat<f64>>) -> Option<(Vec<f64>, Mat<f64>)> {
        let (width, own) = (self.width, self.width * self.steps());
        let size = own + last.as_ref().map_or(0, |_| width);
        let entry = |row: usize, column: usize| {
            let (i, j) = (row % width, column % width);
            match (row / width, column / width) {
                (a, b) if a == b && row < own => self.alpha(a, i, j),
                (a, b) if a == b => last.as_ref().map_or(0.0, |last| last[(i, j)]),
                (a, b) if a == b + 1 => self.beta(b, i, j),
                (a, b) if b == a + 1 => self.beta(a, j, i),
                _ => 0.0,
            }
        };
        let eigen = Mat::from_fn(size, size, entry).self_adjoint_eigen(Side::Lower).ok()?;
        let values = (0..size).map(|j| eigen.S()[j]).collect();
        Some((values, eigen.U().to_owned()))
    }

    fn rule(&self, last: Option<Mat<f64>>) -> Rule {
        let share = 1.0 / self.width as f64;
        match self.eigen(last) {
            Some((values, vectors)) => {
                let weight = |j: usize| share * (0..self.width).map(|k| vectors[(k, j)].powi(2)).sum::<f64>();
                values.iter().enumerate().map(|(j, value)| (value.max(0.0), weight(j))).collect()
            }
            // Not finite: whoever sums sees it.
            None => vec![(f64::NAN, 1.0)],
        }
    }

    /// `sum_j f(theta_j) u_j (u_j)_1`: the coefficients of `f(F) q_1` in the recursion's vectors.
    pub(super) fn function(&self, f: impl Fn(f64) -> f64) -> Vec<f64> {
        let size = self.width * self.steps();
        let Some((values, vectors)) = self.eigen(None) else { return vec![f64::NAN; size] };
        (0..size).map(|row| (0..size).map(|j| f(values[j].max(0.0)) * vectors[(0, j)] * vectors[(row, j)]).sum()).collect()
    }

    /// The largest eigenvalues with the coefficients of their vectors, and the residuals `|F u - theta u|`.
    pub(super) fn leading(&self, count: usize) -> Vec<(f64, Vec<f64>, f64)> {
        let Some((values, vectors)) = self.eigen(None) else { return Vec::new() };
        let (width, size) = (self.width, values.len());
        let residual = |j: usize| {
            let out = |i: usize| (0..width).map(|k| self.beta(self.steps() - 1, i, k) * vectors[(size - width + k, j)]).sum::<f64>();
            (0..width).map(|i| out(i).powi(2)).sum::<f64>().sqrt()
        };
        let of = |j: usize| (values[j], (0..size).map(|row| vectors[(row, j)]).collect(), residual(j));
        (0..count.min(size)).map(|k| of(size - 1 - k)).collect()
    }
}

/// The inverse of a symmetric matrix with its eigenvalues raised to `least`, and the smallest of them.
fn floored_inverse(matrix: &Mat<f64>, least: f64) -> Option<(Mat<f64>, f64)> {
    let eigen = matrix.self_adjoint_eigen(Side::Lower).ok()?;
    let (u, size) = (eigen.U(), matrix.nrows());
    let values: Vec<f64> = (0..size).map(|k| eigen.S()[k]).collect();
    let entry = |i: usize, j: usize| (0..size).map(|k| u[(i, k)] * u[(j, k)] / values[k].max(least)).sum::<f64>();
    Some((Mat::from_fn(size, size, entry), crate::statistics::minimum(&values)))
}
