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

/// The tridiagonal matrix of a recursion: diagonal `alphas` (length `m`), `betas[j]` between rows `j` and `j + 1`; the last of the `m`
/// betas leads out of the matrix, and is zero when the space is exhausted.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tridiagonal {
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

/// Runs `steps` steps from a unit vector; fewer if the space is exhausted, or once `enough` says so, which is asked every
/// [`LOOKS`] steps. `proceed` is asked between steps.
pub(super) fn lanczos(
    matrix: Deflated<'_>,
    start: Vec<f32>,
    steps: usize,
    reorthogonalization: Reorthogonalization,
    proceed: &(dyn Fn() -> bool + Sync),
    enough: &dyn Fn(&Tridiagonal) -> bool,
) -> Result<Option<Krylov>, FisherError> {
    let mut tridiagonal = Tridiagonal { alphas: Vec::new(), betas: Vec::new() };
    let keeps = reorthogonalization.keeps_vectors();
    let mut basis: Vec<Vec<f32>> = Vec::new();
    let (mut before, mut current, mut next) = (Vec::new(), start.clone(), vec![0.0f32; start.len()]);
    let mut watch = Orthogonality::default();
    for step in 0..steps {
        if !proceed() {
            return Ok(None);
        }
        matrix.product(&current, &mut next)?;
        let alpha = inner(&current, &next);
        add(&mut next, -alpha, &current);
        if step > 0 {
            add(&mut next, -tridiagonal.betas[step - 1], &before);
        }
        tridiagonal.alphas.push(alpha);
        if keeps {
            basis.push(current.clone());
        }
        let full = match reorthogonalization {
            Reorthogonalization::Full => true,
            Reorthogonalization::Selective => watch.is_lost(&tridiagonal, inner(&next, &next).sqrt()),
            Reorthogonalization::None => false,
        };
        if full {
            project_out(&basis, &mut next);
            project_out(&basis, &mut next);
        }
        let largest = tridiagonal.alphas.iter().chain(&tridiagonal.betas).fold(0.0f64, |largest, x| largest.max(x.abs()));
        let beta = normalize(&mut next);
        if beta <= EXHAUSTED * largest {
            tridiagonal.betas.push(0.0);
            break;
        }
        tridiagonal.betas.push(beta);
        if (step + 1) % LOOKS == 0 && enough(&tridiagonal) {
            break;
        }
        before = std::mem::replace(&mut current, std::mem::take(&mut next));
        next = vec![0.0f32; start.len()];
    }
    Ok(Some(Krylov { tridiagonal, start, basis: keeps.then_some(basis) }))
}

/// Simon's recurrence for the inner products of the new vector with those before it (*Math. Comp.* 42 (1984) 115).
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
        let largest = alphas.iter().chain(betas).fold(0.0f64, |largest, x| largest.max(x.abs()));
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
        let Tridiagonal { alphas, betas } = &self.tridiagonal;
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
    /// Number of steps.
    pub(super) fn steps(&self) -> usize {
        self.alphas.len()
    }

    /// Whether the space is exhausted: the rules are exact.
    pub(super) fn is_exhausted(&self) -> bool {
        self.betas.last().is_none_or(|&beta| beta == 0.0)
    }

    /// That of the first `steps` steps.
    pub(super) fn prefix(&self, steps: usize) -> Self {
        let steps = steps.clamp(1, self.steps().max(1)).min(self.steps());
        Self { alphas: self.alphas[..steps].to_vec(), betas: self.betas[..steps].to_vec() }
    }

    /// Gauss' rule: exact for polynomials of degree `2m - 1`. Eigenvalues below zero are rounding and become zero.
    pub(super) fn gauss(&self) -> Rule {
        rule(&self.alphas, &self.betas)
    }

    /// The Gauss-Radau rule with a node at zero, the lower end of the spectrum (Golub & Meurant 2010, chapter 6): one node more, its
    /// diagonal entry is the last component of the solution of `(T - 0) d = beta^2 e_m`.
    pub(super) fn radau_at_zero(&self) -> Rule {
        if self.is_exhausted() {
            return self.gauss();
        }
        // d_m = beta_m^2 / (last pivot of T's LDL' factorisation).
        let mut pivot = self.alphas[0];
        let least = f64::EPSILON * self.alphas.iter().chain(&self.betas).fold(0.0f64, |largest, x| largest.max(x.abs()));
        for (alpha, beta) in self.alphas[1..].iter().zip(&self.betas) {
            pivot = alpha - beta * beta / pivot.max(least);
        }
        let last = self.betas[self.steps() - 1];
        // Rounding may leave an eigenvalue at or below zero; then the node is there already.
        if pivot <= least {
            return self.gauss();
        }
        let mut alphas = self.alphas.clone();
        alphas.push(last * last / pivot);
        rule(&alphas, &self.betas)
    }

    /// `sum_j f(theta_j) u_j (u_j)_1`: the coefficients of `f(F) q_1` in the recursion's vectors.
    pub(super) fn function(&self, f: impl Fn(f64) -> f64) -> Vec<f64> {
        let Some((values, vectors)) = eigen(&self.alphas, &self.betas) else { return vec![f64::NAN; self.steps()] };
        (0..self.steps()).map(|row| (0..values.len()).map(|j| f(values[j].max(0.0)) * vectors[(0, j)] * vectors[(row, j)]).sum()).collect()
    }

    /// The largest eigenvalues with the coefficients of their vectors, and the residuals `|F u - theta u|`.
    pub(super) fn leading(&self, count: usize) -> Vec<(f64, Vec<f64>, f64)> {
        let Some((values, vectors)) = eigen(&self.alphas, &self.betas) else { return Vec::new() };
        let size = values.len();
        let out = self.betas.last().copied().unwrap_or(0.0);
        (0..count.min(size))
            .map(|k| size - 1 - k)
            .map(|j| (values[j], (0..size).map(|row| vectors[(row, j)]).collect(), (out * vectors[(size - 1, j)]).abs()))
            .collect()
    }
}

fn eigen(alphas: &[f64], betas: &[f64]) -> Option<(Vec<f64>, Mat<f64>)> {
    let size = alphas.len();
    let entry = |i: usize, j: usize| match i.abs_diff(j) {
        0 => alphas[i],
        1 => betas[i.min(j)],
        _ => 0.0,
    };
    let eigen = Mat::from_fn(size, size, entry).self_adjoint_eigen(Side::Lower).ok()?;
    let values = (0..size).map(|j| eigen.S()[j]).collect();
    Some((values, eigen.U().to_owned()))
}

fn rule(alphas: &[f64], betas: &[f64]) -> Rule {
    match eigen(alphas, betas) {
        Some((values, vectors)) => values.iter().enumerate().map(|(j, value)| (value.max(0.0), vectors[(0, j)].powi(2))).collect(),
        // Not finite: whoever sums sees it.
        None => vec![(f64::NAN, 1.0)],
    }
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
        let matrix = Deflated { fisher: matrix, removed: &[] };
        lanczos(matrix, start(matrix.fisher.dimension()), steps, reorthogonalization, &|| true, &|_| false).unwrap().unwrap()
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
}
