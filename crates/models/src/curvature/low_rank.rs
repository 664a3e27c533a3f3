//! Leading eigenvectors of the Fisher matrix by the Lanczos method, and a diagonal for the rest.

use basin_volume::direction::dot;
use basin_volume::fisher::{DifferenceProducts, FisherMatrix};
use basin_volume::random::{NormalVector, Purpose};
use faer::{Mat, Side};
use rayon::prelude::*;

use super::diagonal::{check_probes, fisher_diagonal};
use super::scores::observe;
use super::{Curvature, CurvatureError, Observer, PERTURBATION, RestDiagonal, Scores};
use crate::products::{Matrix, Sizes, product_parallel};

/// Coordinates that one task works on.
const CHUNK: usize = 1 << 12;

/// The least share of its own diagonal that the rest keeps at every weight: what sampled labels leave below it is noise.
const FLOOR: f64 = 1e-3;

/// A vector that is this much shorter than the largest product is rounding: the space of the vectors before is exhausted.
const EXHAUSTED: f64 = 1e-6;

/// How leading eigenvectors are computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LowRankSettings {
    /// Number of eigenvectors, `K`.
    pub rank: usize,
    /// Lanczos steps, at least `K`: products of the Fisher matrix, and vectors of length `D` kept at the same time.
    pub steps: usize,
    /// Seed of the first vector and of the labels.
    pub seed: u64,
    /// Draws per position for the diagonal ([`fisher_diagonal`]).
    pub probes: usize,
    /// Length of the perturbations of the products.
    pub perturbation: f64,
    /// One number for the rest instead of a diagonal.
    pub uniform_rest: bool,
}

impl LowRankSettings {
    /// `K` eigenvectors by `2 K + 8` steps, with a diagonal of one draw per position.
    #[must_use]
    pub fn new(rank: usize, seed: u64) -> Self {
        Self { rank, steps: 2 * rank + 8, seed, probes: 1, perturbation: PERTURBATION, uniform_rest: false }
    }
}

/// How good the eigenvectors are.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRankReport {
    /// The eigenvalues found, from the largest; fewer than asked for when no more are positive.
    pub eigenvalues: Vec<f64>,
    /// `|F u - l u|` of each, with the products as they were computed: some eigenvalue of the matrix is within this distance.
    pub residuals: Vec<f64>,
    /// Products made.
    pub products: usize,
    /// Norm of the antisymmetric part of the projected matrix, relative to its norm: the error of the products.
    pub asymmetry: f64,
    /// Trace of the Fisher matrix from its diagonal.
    pub trace: f64,
    /// Share of it that the eigenvectors have.
    pub explained: f64,
}

/// `F ~ U diag(l) U' + diag(rest)`: the leading eigenvectors by the Lanczos method with products by differences of the gradient
/// ([`DifferenceProducts`]), every vector orthogonalised twice against all before (sums in `f64`), Rayleigh-Ritz in the space of all of them;
/// the rest is the Fisher diagonal less that of the low-rank part, at least 1/1000 of itself, or its mean.
///
/// Costs two gradients per step, and the diagonal. Memory: `steps + 6` vectors of length `D` in `f32`, of which `K + 1` stay.
///
/// # Errors
/// When a setting is out of range, the observer interrupts, the evaluation fails, or no eigenvalue is positive.
pub fn low_rank(
    model: &dyn Scores,
    settings: LowRankSettings,
    observer: &mut dyn Observer,
) -> Result<(Curvature, LowRankReport), CurvatureError> {
    let dimension = model.dimension();
    let setting = |name, value: usize, expected| Err(CurvatureError::Setting { name, value: value as f64, expected });
    if settings.rank == 0 || settings.rank > dimension {
        return setting("rank", settings.rank, "a number from 1 to the number of moving weights");
    }
    if settings.steps < settings.rank {
        return setting("steps", settings.steps, "a number from the rank");
    }
    check_probes(settings.probes)?;
    let steps = settings.steps.min(dimension);
    let total = steps + model.batches().len();
    let mut lanczos = Lanczos { dimension, seed: settings.seed, basis: Vec::with_capacity(steps * dimension), columns: Vec::new() };
    let products = DifferenceProducts::new(model, settings.perturbation)?;
    let mut next = vec![0.0f32; dimension];
    lanczos.restart(&mut next);
    observe(observer, 0, total)?;
    for step in 0..steps {
        lanczos.basis.extend_from_slice(&next);
        products.product(&lanczos.basis[step * dimension..], &mut next)?;
        lanczos.orthogonalize(&mut next);
        observe(observer, step + 1, total)?;
    }
    let count = steps;
    drop(products);
    drop(next);
    let Lanczos { mut basis, columns, .. } = lanczos;
    let (values, weights, residuals, asymmetry) = ritz(&columns, settings.rank)?;
    if values.is_empty() {
        return Err(CurvatureError::Zero { what: "Fisher matrix" });
    }
    rotate(&mut basis, dimension, &weights, values.len());
    basis.truncate(values.len() * dimension);
    basis.shrink_to_fit();
    let mut observer = Behind { observer, done: steps, total };
    let Curvature::Diagonal { values: mut rest } = fisher_diagonal(model, settings.probes, settings.seed, &mut observer)? else {
        unreachable!("a Fisher diagonal is a diagonal")
    };
    let trace: f64 = rest.iter().map(|&x| f64::from(x)).sum();
    let low: f64 = values.iter().sum();
    rest.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, rest)| {
        for (index, rest) in rest.iter_mut().enumerate() {
            let column = basis.iter().skip(chunk * CHUNK + index).step_by(dimension);
            let own: f64 = column.zip(&values).map(|(&u, l)| l * f64::from(u) * f64::from(u)).sum();
            *rest = (f64::from(*rest) - own).max(FLOOR * f64::from(*rest)) as f32;
        }
    });
    let rest = if settings.uniform_rest {
        RestDiagonal::Uniform(((trace - low) / dimension as f64).max(FLOOR * trace / dimension as f64) as f32)
    } else {
        RestDiagonal::PerWeight(rest)
    };
    let eigenvalues = values.iter().map(|&l| l as f32).collect();
    let report = LowRankReport { explained: low / trace, eigenvalues: values, residuals, products: count, asymmetry, trace };
    Ok((Curvature::LowRankDiagonal { basis, eigenvalues, rest }, report))
}

/// The observer of a part of a computation, behind so many steps.
struct Behind<'a> {
    observer: &'a mut dyn Observer,
    done: usize,
    total: usize,
}

impl Observer for Behind<'_> {
    fn step(&mut self, done: usize, _total: usize) {
        self.observer.step(self.done + done, self.total);
    }

    fn interrupted(&self) -> bool {
        self.observer.interrupted()
    }
}

/// Orthonormal vectors, and what the products with them were made of: `F q_j = sum_i columns[j][i] q_i`.
struct Lanczos {
    dimension: usize,
    seed: u64,
    /// Row-major, one row per vector.
    basis: Vec<f32>,
    /// Of every vector: its product's coefficients along the vectors up to itself and the next.
    columns: Vec<Vec<f64>>,
}

impl Lanczos {
    fn rows(&self) -> usize {
        self.basis.len() / self.dimension
    }

    /// Removes the components along all vectors from `w`, and returns them. Sums are `f64`.
    fn project_out(&self, w: &mut [f32]) -> Vec<f64> {
        let coefficients: Vec<f64> = self.basis.par_chunks(self.dimension).map(|row| dot(row, w)).collect();
        w.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, w)| {
            let mut sums: Vec<f64> = w.iter().map(|&x| f64::from(x)).collect();
            for (row, coefficient) in self.basis.chunks(self.dimension).zip(&coefficients) {
                let row = &row[chunk * CHUNK..][..w.len()];
                sums.iter_mut().zip(row).for_each(|(sum, &q)| *sum -= coefficient * f64::from(q));
            }
            w.iter_mut().zip(sums).for_each(|(w, sum)| *w = sum as f32);
        });
        coefficients
    }

    /// Turns a product into the next vector.
    fn orthogonalize(&mut self, w: &mut [f32]) {
        let mut column = self.project_out(w);
        column.iter_mut().zip(self.project_out(w)).for_each(|(first, second)| *first += second);
        let norm = dot(w, w).sqrt();
        let largest = self.columns.iter().flatten().chain(&column).fold(0.0f64, |largest, x| largest.max(x.abs()));
        column.push(norm);
        self.columns.push(column);
        if norm > EXHAUSTED * largest {
            w.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
        } else {
            self.restart(w);
        }
    }

    /// A random unit vector orthogonal to all others; zero if there is none.
    fn restart(&self, w: &mut [f32]) {
        let rows = self.rows();
        // Directions of an estimate with the same seed count up from 0.
        NormalVector::new(Purpose::Probes, self.seed, u64::MAX - rows as u64, self.dimension).fill(0..self.dimension, w);
        for _ in 0..3 {
            self.project_out(w);
            let norm = dot(w, w).sqrt();
            w.iter_mut().for_each(|x| *x = if rows < self.dimension { (f64::from(*x) / norm) as f32 } else { 0.0 });
        }
    }
}

/// Eigenvalues, from the largest, with the coefficients of their vectors (row by row), their residuals, and the relative asymmetry.
type Ritz = (Vec<f64>, Vec<f32>, Vec<f64>, f64);

fn ritz(columns: &[Vec<f64>], rank: usize) -> Result<Ritz, CurvatureError> {
    let size = columns.len();
    let entry = |i: usize, j: usize| columns[j].get(i).copied().unwrap_or(0.0);
    let mut norms = (0.0, 0.0);
    for (i, j) in (0..size).flat_map(|i| (0..size).map(move |j| (i, j))) {
        norms.0 += (0.5 * (entry(i, j) - entry(j, i))).powi(2);
        norms.1 += entry(i, j).powi(2);
    }
    let symmetric = Mat::from_fn(size, size, |i, j| 0.5 * (entry(i, j) + entry(j, i)));
    let broken = CurvatureError::NotFinite { what: "projected Fisher matrix", index: 0, value: f64::NAN };
    let eigen = symmetric.self_adjoint_eigen(Side::Lower).map_err(|_| broken)?;
    let (values, vectors) = (eigen.S(), eigen.U());
    let mut order: Vec<usize> = (0..size).filter(|&k| values[k] > 0.0).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order.truncate(rank);
    let residual = |&k: &usize| {
        let along = |i: usize| (0..size).map(|j| entry(i, j) * vectors[(j, k)]).sum::<f64>();
        let own = |i: usize| if i < size { values[k] * vectors[(i, k)] } else { 0.0 };
        (0..=size).map(|i| (along(i) - own(i)).powi(2)).sum::<f64>().sqrt()
    };
    let residuals = order.iter().map(residual).collect();
    let coefficients = order.iter().flat_map(|&k| (0..size).map(move |j| (j, k))).map(|place| vectors[place] as f32).collect();
    Ok((order.iter().map(|&k| values[k]).collect(), coefficients, residuals, (norms.0 / norms.1).sqrt()))
}

/// Replaces the first `rank` rows of the basis by its products with `weights` `[rank, rows]`, a range of columns at a time.
fn rotate(basis: &mut [f32], dimension: usize, weights: &[f32], rank: usize) {
    let rows = basis.len() / dimension;
    let mut part = vec![0.0f32; rank * CHUNK];
    for start in (0..dimension).step_by(CHUNK) {
        let width = CHUNK.min(dimension - start);
        let left = Matrix::rows(weights, rows);
        let right = Matrix::rows(&basis[start..], dimension);
        product_parallel(&mut part, width, left, right, Sizes { rows: rank, inner: rows, columns: width }, false);
        for (row, part) in part.chunks_exact(width).take(rank).enumerate() {
            basis[row * dimension + start..][..width].copy_from_slice(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curvature::Silent;
    use crate::curvature::testkit::{language, perceptron};

    fn eigenvalues(matrix: &[f64]) -> Vec<f64> {
        let dimension = matrix.len().isqrt();
        let eigen = Mat::from_fn(dimension, dimension, |i, j| matrix[i * dimension + j]).self_adjoint_eigen(Side::Lower).unwrap();
        (0..dimension).rev().map(|i| eigen.S()[i]).collect()
    }

    #[test]
    fn eigenvalues_are_those_of_the_dense_matrix() {
        let net = perceptron(&[9, 7, 6, 4], 60);
        let fisher = net.fisher();
        let dimension = fisher.len().isqrt();
        let exact = eigenvalues(&fisher);
        let (curvature, report) = low_rank(&net.cost, LowRankSettings::new(12, 1), &mut Silent).unwrap();
        assert_eq!((report.eigenvalues.len(), report.products), (12, 32));
        for (index, (found, exact)) in report.eigenvalues.iter().zip(&exact).enumerate() {
            let bound = report.residuals[index] + 1e-3 * exact + 1e-5 * report.eigenvalues[0];
            assert!((found - exact).abs() < bound, "{index}: {found} +- {} not {exact}", report.residuals[index]);
        }
        assert!(report.residuals[..6].iter().all(|&r| r < 3e-3 * exact[0]), "{:?}", report.residuals);
        let trace: f64 = exact.iter().sum();
        assert!((report.trace / trace - 1.0).abs() < 1e-4 && report.asymmetry < 1e-3, "{report:?}");
        // The whole has the trace and the diagonal of the matrix, and its leading vectors.
        curvature.validate(net.cost.moving().layout()).unwrap();
        assert!((curvature.trace(net.cost.moving().layout()) / trace - 1.0).abs() < 1e-2);
        let Curvature::LowRankDiagonal { basis, eigenvalues, rest: RestDiagonal::PerWeight(rest) } = &curvature else { panic!() };
        for (row, other) in (0..12).flat_map(|row| (0..12).map(move |other| (row, other))) {
            let product = dot(&basis[row * dimension..(row + 1) * dimension], &basis[other * dimension..(other + 1) * dimension]);
            assert!((product - f64::from(row == other)).abs() < 1e-4, "{row} {other}: {product}");
        }
        for index in 0..dimension {
            let low: f64 = (0..12).map(|k| f64::from(eigenvalues[k]) * f64::from(basis[k * dimension + index]).powi(2)).sum();
            let (whole, exact) = (low + f64::from(rest[index]), fisher[index * (dimension + 1)]);
            assert!(whole > 0.98 * exact - 1e-7 && whole < 1.05 * exact + 1e-3 * exact.max(1e-3), "{index}: {whole} not {exact}");
        }
        let first: Vec<f64> = fisher.chunks(dimension).map(|row| row.iter().zip(basis).map(|(f, &u)| f * f64::from(u)).sum()).collect();
        let error: f64 = first.iter().zip(basis).map(|(f, &u)| (f - exact[0] * f64::from(u)).powi(2)).sum::<f64>().sqrt();
        assert!(error < 2e-3 * exact[0], "{error}");
        let uniform = LowRankSettings { uniform_rest: true, ..LowRankSettings::new(3, 1) };
        let (curvature, _) = low_rank(&net.cost, uniform, &mut Silent).unwrap();
        assert!((curvature.trace(net.cost.moving().layout()) / trace - 1.0).abs() < 1e-3);
    }

    #[test]
    fn small_spaces_are_exhausted_without_harm() {
        // Fewer weights than steps, and a matrix of low rank: two classes and three rows.
        let net = perceptron(&[4, 2], 3);
        let exact = eigenvalues(&net.fisher());
        let (curvature, report) = low_rank(&net.cost, LowRankSettings::new(10, 5), &mut Silent).unwrap();
        assert_eq!(report.products, 10);
        for (found, exact) in report.eigenvalues.iter().zip(&exact) {
            assert!((found - exact).abs() < 2e-3 * report.eigenvalues[0], "{:?} not {exact}", report.eigenvalues);
        }
        curvature.validate(net.cost.moving().layout()).unwrap();
    }

    #[test]
    fn threads_do_not_matter_and_language_models_work() {
        let language = language("qwen3", &[20, 12], None);
        let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let run = || low_rank(&language.cost, LowRankSettings::new(4, 7), &mut Silent).unwrap();
        let one = pool(1).install(run);
        assert!(pool(3).install(run) == one);
        let report = &one.1;
        assert!(report.residuals[0] < 0.02 * report.eigenvalues[0] && report.explained > 0.05 && report.explained < 1.0, "{report:?}");
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let net = perceptron(&[4, 3], 5);
        for (settings, words) in [
            (LowRankSettings::new(0, 1), "`rank` is 0"),
            (LowRankSettings::new(16, 1), "`rank` is 16"),
            (LowRankSettings { steps: 2, ..LowRankSettings::new(3, 1) }, "`steps` is 2"),
            (LowRankSettings { probes: 0, ..LowRankSettings::new(3, 1) }, "`probes` is 0"),
        ] {
            let message = low_rank(&net.cost, settings, &mut Silent).unwrap_err().to_string();
            assert!(message.contains(words) && !message.contains('\n'), "{message}");
        }
    }
}
