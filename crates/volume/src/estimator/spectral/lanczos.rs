//! Lanczos' recursion with the Fisher matrix: from a start vector to a small tridiagonal matrix.

use faer::{Mat, Side};
use rayon::prelude::*;

use crate::direction::dot;
use crate::fisher::{FisherError, FisherMatrix};
use crate::spec::Reorthogonalization;

/// Coordinates that one task works on: fixed, so that no sum depends on the number of threads.
const CHUNK: usize = 1 << 14;

/// A vector that is this much shorter than the largest product is rounding: the space of the vectors before is exhausted.
const EXHAUSTED: f64 = 1e-6;

/// Rounding of the inner products of `f32` vectors, relative to their lengths.
const ROUNDING: f64 = 6e-8;

/// Inner product, in fixed chunks on rayon's current pool.
pub(super) fn inner(x: &[f32], y: &[f32]) -> f64 {
    let sums: Vec<f64> = x.par_chunks(CHUNK).zip(y.par_chunks(CHUNK)).map(|(x, y)| dot(x, y)).collect();
    sums.iter().sum()
}

/// `y += factor * x`.
pub(super) fn add(y: &mut [f32], factor: f64, x: &[f32]) {
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = factor.mul_add(f64::from(x), f64::from(*y)) as f32);
    });
}

pub(super) fn scale(x: &mut [f32], factor: f64) {
    x.par_chunks_mut(CHUNK).for_each(|x| x.iter_mut().for_each(|x| *x = (factor * f64::from(*x)) as f32));
}

/// Makes a vector a unit vector and returns its length; a vector of zero stays.
pub(super) fn normalize(x: &mut [f32]) -> f64 {
    let norm = inner(x, x).sqrt();
    if norm > 0.0 {
        scale(x, 1.0 / norm);
    }
    norm
}

/// Makes vectors orthonormal in their order, and returns `R` (upper triangular, row-major) of `vectors = Q R`. A vector without a part of its own, at
/// most `least` long, becomes zero. Twice, because what is left of a vector that was nearly dependent is rounding of the first time.
fn orthonormalize(vectors: &mut [Vec<f32>], least: f64) -> Vec<f64> {
    let width = vectors.len();
    let mut factor = vec![0.0; width * width];
    for i in 0..width {
        let (before, rest) = vectors.split_at_mut(i);
        let own = &mut rest[0];
        for _ in 0..2 {
            for (k, row) in before.iter().enumerate() {
                let along = inner(row, own);
                add(own, -along, row);
                factor[k * width + i] += along;
            }
        }
        let norm = inner(own, own).sqrt();
        if norm > least {
            scale(own, 1.0 / norm);
            factor[i * width + i] = norm;
        } else {
            own.fill(0.0);
        }
    }
    factor
}

/// Removes the components along orthonormal rows, and once more where most of the vector was along them (Daniel, Gragg, Kaufman & Stewart,
/// *Math. Comp.* 30 (1976) 772): what is left then holds rounding of the first time.
fn reorthogonalize(rows: &[Vec<f32>], w: &mut [f32]) {
    let before = inner(w, w);
    project_out(rows, w);
    if inner(w, w) < 0.5 * before {
        project_out(rows, w);
    }
}

/// Removes the components along orthonormal rows. Sums are `f64`.
pub(super) fn project_out(rows: &[Vec<f32>], w: &mut [f32]) {
    if rows.is_empty() {
        return;
    }
    let coefficients: Vec<f64> = rows.iter().map(|row| inner(row, w)).collect();
    w.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, w)| {
        let mut sums: Vec<f64> = w.iter().map(|&x| f64::from(x)).collect();
        for (row, coefficient) in rows.iter().zip(&coefficients) {
            let row = &row[chunk * CHUNK..][..w.len()];
            sums.iter_mut().zip(row).for_each(|(sum, &q)| *sum -= coefficient * f64::from(q));
        }
        w.iter_mut().zip(sums).for_each(|(w, sum)| *w = sum as f32);
    });
}

/// What the recursion is run on: the Fisher matrix between projections that take some eigenvectors out.
#[derive(Clone, Copy)]
pub(super) struct Deflated<'a> {
    pub fisher: &'a dyn FisherMatrix,
    /// Orthonormal.
    pub removed: &'a [Vec<f32>],
}

impl Deflated<'_> {
    fn product(&self, v: &[f32], out: &mut [f32]) -> Result<(), FisherError> {
        self.fisher.product(v, out)?;
        project_out(self.removed, out);
        Ok(())
    }
}

/// The symmetric matrix of a recursion with `width` vectors at a time, block tridiagonal: `width x width` blocks, row-major, one after the other. The
/// diagonal blocks are `alphas`; `betas[j]`, upper triangular, stands between block rows `j + 1` and `j`. The last of them leads out of the
/// matrix, and is zero when the space is exhausted. With a width of one they are the numbers of the plain recursion.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tridiagonal {
    pub width: usize,
    pub alphas: Vec<f64>,
    pub betas: Vec<f64>,
}

/// Steps between two looks at whether they are enough.
const LOOKS: usize = 8;

/// A finished recursion.
pub(super) struct Krylov {
    pub tridiagonal: Tridiagonal,
    start: Vec<f32>,
    /// The vectors, where they are kept.
    basis: Option<Vec<Vec<f32>>>,
}

/// How long a recursion is, and what keeps its vectors orthogonal.
#[derive(Clone, Copy)]
pub(super) struct Recursion<'a> {
    pub steps: usize,
    pub reorthogonalization: Reorthogonalization,
    /// Asked between steps.
    pub proceed: &'a (dyn Fn() -> bool + Sync),
    /// Asked every [`LOOKS`] steps: whether they are enough.
    pub enough: &'a dyn Fn(&Tridiagonal) -> bool,
}

/// Runs the recursion from some vectors at a time, which are made orthonormal first; fewer steps if the space is exhausted. Several vectors need the
/// full reorthogonalisation. Golub & Underwood 1977 for blocks.
pub(super) fn lanczos(matrix: Deflated<'_>, mut current: Vec<Vec<f32>>, recursion: Recursion<'_>) -> Result<Option<Krylov>, FisherError> {
    let (width, length) = (current.len(), current[0].len());
    let longest = current.iter().map(|start| inner(start, start).sqrt()).fold(0.0, f64::max);
    orthonormalize(&mut current, EXHAUSTED * longest);
    let start = current[0].clone();
    let mut tridiagonal = Tridiagonal { width, alphas: Vec::new(), betas: Vec::new() };
    let Recursion { steps, reorthogonalization, proceed, enough } = recursion;
    let keeps = reorthogonalization.keeps_vectors();
    let mut basis: Vec<Vec<f32>> = Vec::new();
    let mut before: Vec<Vec<f32>> = Vec::new();
    let mut watch = Orthogonality::default();
    for step in 0..steps {
        if !proceed() {
            return Ok(None);
        }
        let mut next = vec![vec![0.0f32; length]; width];
        for (current, next) in current.iter().zip(&mut next) {
            matrix.product(current, next)?;
        }
        // F Q = Q_before R' + Q A + Q_next R_next.
        let mut alpha: Vec<f64> = current.iter().flat_map(|row| next.iter().map(|next| inner(row, next))).collect();
        for (i, j) in (0..width).flat_map(|i| (0..i).map(move |j| (i, j))) {
            let both = 0.5 * (alpha[i * width + j] + alpha[j * width + i]);
            (alpha[i * width + j], alpha[j * width + i]) = (both, both);
        }
        for (i, next) in next.iter_mut().enumerate() {
            current.iter().enumerate().for_each(|(k, row)| add(next, -alpha[k * width + i], row));
            let beta = before.iter().enumerate().map(|(k, row)| (tridiagonal.beta(step - 1, i, k), row));
            beta.for_each(|(beta, row)| add(next, -beta, row));
        }
        tridiagonal.alphas.append(&mut alpha);
        if keeps {
            basis.extend(current.iter().cloned());
        }
        let full = match reorthogonalization {
            Reorthogonalization::Full => true,
            Reorthogonalization::Selective => watch.is_lost(&tridiagonal, inner(&next[0], &next[0]).sqrt()),
            Reorthogonalization::None => false,
        };
        if full {
            next.iter_mut().for_each(|next| reorthogonalize(&basis, next));
        }
        let mut beta = orthonormalize(&mut next, EXHAUSTED * tridiagonal.largest());
        let is_exhausted = (0..width).all(|i| beta[i * width + i] == 0.0);
        if is_exhausted {
            beta.fill(0.0);
        }
        tridiagonal.betas.append(&mut beta);
        if is_exhausted || ((step + 1) % LOOKS == 0 && enough(&tridiagonal)) {
            break;
        }
        before = std::mem::replace(&mut current, next);
    }
    Ok(Some(Krylov { tridiagonal, start, basis: keeps.then_some(basis) }))
}

/// For recursions of one vector: Simon's recurrence for the inner products of the new vector with those before it (*Math. Comp.* 42 (1984) 115).
#[derive(Default)]
struct Orthogonality {
    before: Vec<f64>,
    current: Vec<f64>,
    /// The vector after one that was reorthogonalised has to be, too.
    again: bool,
}

impl Orthogonality {
    /// Whether the vector that comes out of the last step, of length `beta`, has lost its orthogonality.
    fn is_lost(&mut self, matrix: &Tridiagonal, beta: f64) -> bool {
        let (alphas, betas) = (&matrix.alphas, &matrix.betas);
        let last = alphas.len() - 1;
        let largest = matrix.largest();
        let at = |values: &[f64], k: usize| if k == last { 1.0 } else { values.get(k).copied().unwrap_or(0.0) };
        let mut next: Vec<f64> = (0..last)
            .map(|k| {
                let above = betas[k] * at(&self.current, k + 1);
                let below = if k > 0 { betas[k - 1] * at(&self.current, k - 1) } else { 0.0 };
                let behind = betas[last - 1] * self.before.get(k).copied().unwrap_or(if k + 1 == last { 1.0 } else { 0.0 });
                let sum = above + (alphas[k] - alphas[last]) * at(&self.current, k) + below - behind;
                (sum + sum.signum() * 2.0 * ROUNDING * largest) / beta.max(f64::MIN_POSITIVE)
            })
            .collect();
        let lost = next.iter().any(|omega| omega.abs() > ROUNDING.sqrt());
        let act = lost || self.again;
        self.again = lost && !self.again;
        if act {
            next.fill(ROUNDING);
        }
        next.push(ROUNDING);
        self.before = std::mem::replace(&mut self.current, next);
        act
    }
}

impl Krylov {
    /// `sum_j coefficients_j q_j` over the vectors of the recursion; computes them again where they were not kept.
    pub(super) fn combine(&self, matrix: Deflated<'_>, coefficients: &[f64]) -> Result<Vec<f32>, FisherError> {
        let mut sum = vec![0.0f32; self.start.len()];
        if let Some(basis) = &self.basis {
            basis.iter().zip(coefficients).for_each(|(row, &c)| add(&mut sum, c, row));
            return Ok(sum);
        }
        let Tridiagonal { alphas, betas, .. } = &self.tridiagonal;
        let (mut before, mut current, mut next) = (Vec::new(), self.start.clone(), vec![0.0f32; self.start.len()]);
        for (step, &coefficient) in coefficients.iter().enumerate() {
            add(&mut sum, coefficient, &current);
            if step + 1 == coefficients.len() {
                break;
            }
            matrix.product(&current, &mut next)?;
            add(&mut next, -alphas[step], &current);
            if step > 0 {
                add(&mut next, -betas[step - 1], &before);
            }
            // The same rounding as in the first pass.
            normalize(&mut next);
            before = std::mem::replace(&mut current, std::mem::take(&mut next));
            next = vec![0.0f32; self.start.len()];
        }
        Ok(sum)
    }
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

    fn beta(&self, step: usize, i: usize, j: usize) -> f64 {
        self.betas[(step * self.width + i) * self.width + j]
    }

    /// The largest entry.
    fn largest(&self) -> f64 {
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

#[cfg(test)]
mod tests {
    use super::*;

    struct Diagonal(Vec<f64>);

    impl FisherMatrix for Diagonal {
        fn dimension(&self) -> usize {
            self.0.len()
        }

        fn product(&self, v: &[f32], out: &mut [f32]) -> Result<(), FisherError> {
            out.iter_mut().zip(v).zip(&self.0).for_each(|((out, &v), l)| *out = (l * f64::from(v)) as f32);
            Ok(())
        }

        fn gradients_per_product(&self) -> u64 {
            1
        }
    }

    fn start(dimension: usize) -> Vec<f32> {
        let mut start: Vec<f32> = (0..dimension).map(|i| 1.0 + (i as f32 * 1.7).sin()).collect();
        normalize(&mut start);
        start
    }

    fn run(matrix: &Diagonal, steps: usize, reorthogonalization: Reorthogonalization) -> Krylov {
        blocks(matrix, vec![start(matrix.dimension())], steps, reorthogonalization)
    }

    fn blocks(matrix: &Diagonal, starts: Vec<Vec<f32>>, steps: usize, reorthogonalization: Reorthogonalization) -> Krylov {
        let matrix = Deflated { fisher: matrix, removed: &[] };
        lanczos(matrix, starts, Recursion { steps, reorthogonalization, proceed: &|| true, enough: &|_| false }).unwrap().unwrap()
    }

    /// Orthonormal vectors.
    fn starts(dimension: usize, width: usize) -> Vec<Vec<f32>> {
        let vector = |k: usize| (0..dimension).map(|i| ((i * (k + 1)) as f32 * 1.7 + k as f32).sin()).collect();
        let mut starts: Vec<Vec<f32>> = (0..width).map(vector).collect();
        orthonormalize(&mut starts, 0.0);
        starts
    }

    #[test]
    fn rules_bracket_the_logarithm_and_converge() {
        let matrix = Diagonal((1..=400).map(|i| f64::from(i).powf(-1.5)).collect());
        let q = start(400);
        let f = |l: f64| (1e4 * l).ln_1p();
        let truth: f64 = q.iter().zip(&matrix.0).map(|(&q, &l)| f64::from(q).powi(2) * f(l)).sum();
        let sum = |rule: Rule| rule.iter().map(|(l, w)| w * f(*l)).sum::<f64>();
        let mut gaps = Vec::new();
        for steps in [4, 12, 36] {
            let found = run(&matrix, steps, Reorthogonalization::Full).tridiagonal;
            let (high, low) = (sum(found.gauss()), sum(found.radau_at_zero()));
            assert!(low <= truth + 1e-5 && truth <= high + 1e-5, "{steps}: {low} {truth} {high}");
            assert!((found.gauss().iter().map(|(_, w)| w).sum::<f64>() - 1.0).abs() < 1e-12);
            assert!(found.radau_at_zero()[0].0 < 1e-9);
            gaps.push(high - low);
        }
        assert!(gaps[2] < 0.1 * gaps[1] && gaps[1] < 0.5 * gaps[0], "{gaps:?}");
        for reorthogonalization in [Reorthogonalization::Selective, Reorthogonalization::None] {
            let found = run(&matrix, 60, reorthogonalization).tridiagonal;
            assert!((sum(found.gauss()) - truth).abs() < 1e-3, "{reorthogonalization:?}");
        }
    }

    #[test]
    fn selective_reorthogonalization_keeps_the_vectors_apart() {
        let matrix = Diagonal((1..=500).map(|i| f64::from(i).powi(-2)).collect());
        let worst = |reorthogonalization| {
            let found = run(&matrix, 80, reorthogonalization);
            let Some(basis) = found.basis else { return f64::NAN };
            let pairs = (0..basis.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
            pairs.map(|(i, j)| inner(&basis[i], &basis[j]).abs()).fold(0.0, f64::max)
        };
        assert!(worst(Reorthogonalization::Full) < 1e-6);
        let selective = worst(Reorthogonalization::Selective);
        assert!(selective < 1e-2, "{selective}");
    }

    #[test]
    fn a_small_space_is_exhausted_and_exact() {
        let matrix = Diagonal((0..300).map(|i| f64::from(i % 3)).collect());
        let found = run(&matrix, 20, Reorthogonalization::Full).tridiagonal;
        assert!(found.is_exhausted() && found.steps() == 3, "{found:?}");
        let rule = found.gauss();
        for (node, expected) in rule.iter().zip([0.0, 1.0, 2.0]) {
            assert!((node.0 - expected).abs() < 1e-5, "{rule:?}");
        }
        assert_eq!(found.radau_at_zero(), rule);
    }

    #[test]
    fn functions_of_the_matrix_come_out_with_and_without_kept_vectors() {
        let matrix = Diagonal((0..200).map(|i| 0.02 * f64::from(i)).collect());
        let q = start(200);
        for reorthogonalization in [Reorthogonalization::Full, Reorthogonalization::None] {
            let found = run(&matrix, 30, reorthogonalization);
            let coefficients = found.tridiagonal.function(|l| 1.0 / (1.0 + l));
            let x = found.combine(Deflated { fisher: &matrix, removed: &[] }, &coefficients).unwrap();
            for ((x, q), l) in x.iter().zip(&q).zip(&matrix.0) {
                assert!((f64::from(*x) - f64::from(*q) / (1.0 + l)).abs() < 1e-5, "{reorthogonalization:?}");
            }
        }
    }

    #[test]
    fn blocks_bracket_the_mean_of_their_vectors_and_converge() {
        let matrix = Diagonal((1..=400).map(|i| f64::from(i).powf(-1.5)).collect());
        let starts = starts(400, 3);
        let f = |l: f64| (1e4 * l).ln_1p();
        let of = |q: &Vec<f32>| q.iter().zip(&matrix.0).map(|(&q, &l)| f64::from(q).powi(2) * f(l)).sum::<f64>();
        let truth = starts.iter().map(of).sum::<f64>() / 3.0;
        let sum = |rule: Rule| rule.iter().map(|(l, w)| w * f(*l)).sum::<f64>();
        let mut gaps = Vec::new();
        for steps in [4, 12, 36] {
            let found = blocks(&matrix, starts.clone(), steps, Reorthogonalization::Full);
            let found = found.tridiagonal;
            assert_eq!((found.steps(), found.prefix(2).steps()), (steps, 2));
            let (high, low) = (sum(found.gauss()), sum(found.radau_at_zero()));
            assert!(low <= truth + 1e-5 && truth <= high + 1e-5, "{steps}: {low} {truth} {high}");
            assert!((found.gauss().iter().map(|(_, w)| w).sum::<f64>() - 1.0).abs() < 1e-12);
            // As many nodes at zero as vectors.
            assert_eq!(found.radau_at_zero().iter().filter(|(l, _)| *l < 1e-9).count(), 3);
            gaps.push(high - low);
        }
        assert!(gaps[2] < 0.1 * gaps[1] && gaps[1] < 0.5 * gaps[0], "{gaps:?}");
    }

    #[test]
    fn a_block_sees_what_one_vector_cannot() {
        // Three eigenvalues, each many times: one vector meets each of them once, a block of two in two directions.
        let matrix = Diagonal((0..300).map(|i| f64::from(i % 3)).collect());
        let found = blocks(&matrix, starts(300, 2), 20, Reorthogonalization::Full);
        assert!(found.tridiagonal.is_exhausted() && found.tridiagonal.steps() == 3, "{:?}", found.tridiagonal.steps());
        let rule = found.tridiagonal.gauss();
        for (node, expected) in rule.iter().zip([0.0, 0.0, 1.0, 1.0, 2.0, 2.0]) {
            assert!((node.0 - expected).abs() < 1e-5, "{rule:?}");
        }
        let leading = found.tridiagonal.leading(2);
        assert!(leading.iter().all(|(value, _, residual)| (value - 2.0).abs() < 1e-5 && *residual < 1e-5), "{leading:?}");
        // Dependent starts: the second vector has nothing of its own.
        let same = vec![start(300), start(300)];
        let found = blocks(&matrix, same, 20, Reorthogonalization::Full);
        let sum: f64 = found.tridiagonal.gauss().iter().filter(|(l, _)| *l > 1.5).map(|(_, w)| w).sum();
        let one: f64 = run(&matrix, 20, Reorthogonalization::Full).tridiagonal.gauss()[2].1;
        assert!((2.0 * sum - one).abs() < 1e-5, "{sum} {one}");
    }

    #[test]
    fn functions_come_out_of_blocks() {
        let matrix = Diagonal((0..200).map(|i| 0.02 * f64::from(i)).collect());
        let starts = starts(200, 2);
        let found = blocks(&matrix, starts.clone(), 20, Reorthogonalization::Full);
        let coefficients = found.tridiagonal.function(|l| 1.0 / (1.0 + l));
        let x = found.combine(Deflated { fisher: &matrix, removed: &[] }, &coefficients).unwrap();
        for ((x, q), l) in x.iter().zip(&starts[0]).zip(&matrix.0) {
            assert!((f64::from(*x) - f64::from(*q) / (1.0 + l)).abs() < 1e-5);
        }
    }
}
