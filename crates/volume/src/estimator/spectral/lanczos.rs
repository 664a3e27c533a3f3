//! Lanczos' recursion with the Fisher matrix: from a start vector to a small tridiagonal matrix.

use super::krylov::{Deflated, Krylov};
use super::tridiagonal::Tridiagonal;
use super::unfinished::UnfinishedRecursion;
use super::vector::{add, inner, orthonormalize, reorthogonalize};
use crate::fisher::FisherError;
use crate::spec::Reorthogonalization;

/// A vector that is this much shorter than the largest product is rounding: the space of the vectors before is exhausted.
const EXHAUSTED: f64 = 1e-6;

/// Rounding of the inner products of `f32` vectors, relative to their lengths.
const ROUNDING: f64 = 6e-8;

/// Steps between two looks at whether they are enough.
const LOOKS: usize = 8;

/// A recursion on its way. A product that fails leaves it as it was before: it may be kept, and goes on with the same bits.
pub(super) struct Lanczos {
    reorthogonalization: Reorthogonalization,
    tridiagonal: Tridiagonal,
    start: Vec<f32>,
    /// All vectors before the current ones, where they are kept, else those of the last step.
    basis: Vec<Vec<f32>>,
    current: Vec<Vec<f32>>,
    /// Products with the current vectors, as far as they are computed.
    products: Vec<Vec<f32>>,
    watch: Orthogonality,
    is_done: bool,
}

impl Lanczos {
    /// From some vectors at a time, which are made orthonormal first. Several vectors need the full reorthogonalisation. Golub & Underwood 1977 for
    /// blocks.
    pub(super) fn new(mut starts: Vec<Vec<f32>>, reorthogonalization: Reorthogonalization) -> Self {
        let longest = starts.iter().map(|start| inner(start, start).sqrt()).fold(0.0, f64::max);
        orthonormalize(&mut starts, EXHAUSTED * longest);
        Self {
            reorthogonalization,
            tridiagonal: Tridiagonal { width: starts.len(), alphas: Vec::new(), betas: Vec::new() },
            start: starts[0].clone(),
            basis: Vec::new(),
            current: starts,
            products: Vec::new(),
            watch: Orthogonality::default(),
            is_done: false,
        }
    }

    /// Goes on to the end: `steps` steps, or fewer if the space is exhausted, or these are `enough`, which is asked now and then.
    pub(super) fn run(&mut self, matrix: Deflated<'_>, steps: usize, enough: &dyn Fn(&Tridiagonal) -> bool) -> Result<(), FisherError> {
        while !self.is_done {
            for vector in &self.current[self.products.len()..] {
                let mut product = vec![0.0f32; vector.len()];
                matrix.product(vector, &mut product)?;
                self.products.push(product);
            }
            self.step();
            let done = self.tridiagonal.steps();
            let is_enough = || done.is_multiple_of(LOOKS) && enough(&self.tridiagonal);
            self.is_done = self.is_done || is_enough() || done >= steps;
        }
        Ok(())
    }

    /// What follows from the products: `F Q = Q_before R' + Q A + Q_next R_next`.
    fn step(&mut self) {
        let Self { tridiagonal, basis, current, watch, .. } = self;
        let (width, step) = (tridiagonal.width, tridiagonal.steps());
        let mut next = std::mem::take(&mut self.products);
        let mut alpha: Vec<f64> = current.iter().flat_map(|row| next.iter().map(|next| inner(row, next))).collect();
        for (i, j) in (0..width).flat_map(|i| (0..i).map(move |j| (i, j))) {
            let both = 0.5 * (alpha[i * width + j] + alpha[j * width + i]);
            (alpha[i * width + j], alpha[j * width + i]) = (both, both);
        }
        let before = &basis[basis.len().saturating_sub(width)..];
        for (i, next) in next.iter_mut().enumerate() {
            current.iter().enumerate().for_each(|(k, row)| add(next, -alpha[k * width + i], row));
            let beta = before.iter().enumerate().map(|(k, row)| (tridiagonal.beta(step - 1, i, k), row));
            beta.for_each(|(beta, row)| add(next, -beta, row));
        }
        tridiagonal.alphas.append(&mut alpha);
        if !self.reorthogonalization.keeps_vectors() {
            basis.clear();
        }
        basis.append(current);
        let full = match self.reorthogonalization {
            Reorthogonalization::Full => true,
            Reorthogonalization::Selective => watch.is_lost(tridiagonal, inner(&next[0], &next[0]).sqrt()),
            Reorthogonalization::None => false,
        };
        if full {
            next.iter_mut().for_each(|next| reorthogonalize(basis, next));
        }
        let mut beta = orthonormalize(&mut next, EXHAUSTED * tridiagonal.largest());
        self.is_done = (0..width).all(|i| beta[i * width + i] == 0.0);
        if self.is_done {
            beta.fill(0.0);
        }
        tridiagonal.betas.append(&mut beta);
        self.current = next;
    }

    /// Whether there is anything to be kept.
    pub(super) fn has_begun(&self) -> bool {
        self.tridiagonal.steps() > 0 || !self.products.is_empty()
    }

    /// All of a recursion that is not done but the start, which its maker knows.
    pub(super) fn save(&self) -> UnfinishedRecursion<'_> {
        let mut kept = UnfinishedRecursion::default();
        kept.put("alphas", &self.tridiagonal.alphas);
        kept.put("betas", &self.tridiagonal.betas);
        kept.put("flags", &[0.0, f64::from(u8::from(self.watch.again))]);
        kept.put("orthogonality-before", &self.watch.before);
        kept.put("orthogonality", &self.watch.current);
        kept.put_vectors("basis", &self.basis);
        kept.put_vectors("current", &self.current);
        kept.put_vectors("products", &self.products);
        kept
    }

    /// Goes on where another one with the same start was. What does not fit is left alone: the recursion begins from its start.
    pub(super) fn restore(&mut self, kept: &mut UnfinishedRecursion<'_>) {
        if let Some(found) = self.read(kept) {
            *self = found;
        }
    }

    fn read(&self, kept: &mut UnfinishedRecursion<'_>) -> Option<Self> {
        let (width, length) = (self.tridiagonal.width, self.start.len());
        let [is_done, again] = kept.take("flags")?[..] else { return None };
        let found = Self {
            reorthogonalization: self.reorthogonalization,
            tridiagonal: Tridiagonal { width, alphas: kept.take("alphas")?, betas: kept.take("betas")? },
            start: self.start.clone(),
            basis: kept.take_vectors("basis", length)?,
            current: kept.take_vectors("current", length)?,
            products: kept.take_vectors("products", length)?,
            watch: Orthogonality { before: kept.take("orthogonality-before")?, current: kept.take("orthogonality")?, again: again != 0.0 },
            is_done: is_done != 0.0,
        };
        let steps = found.tridiagonal.steps();
        let entries = steps * width * width;
        let keeps = self.reorthogonalization.keeps_vectors();
        let rows = if keeps { steps } else { steps.min(1) };
        let is_whole = (found.tridiagonal.alphas.len(), found.tridiagonal.betas.len()) == (entries, entries)
            && (found.basis.len() == rows * width || found.is_done && !keeps)
            && (found.current.len() == width || found.is_done)
            && found.products.len() <= width;
        is_whole.then_some(found)
    }

    /// What it has found once it is done.
    pub(super) fn into_krylov(self) -> Krylov {
        let basis = self.reorthogonalization.keeps_vectors().then_some(self.basis);
        Krylov { tridiagonal: self.tridiagonal, start: self.start, basis }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimator::spectral::tridiagonal::Rule;
    use crate::estimator::spectral::vector::normalize;
    use crate::fisher::FisherMatrix;

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
        let mut recursion = Lanczos::new(starts, reorthogonalization);
        recursion.run(Deflated { fisher: matrix, removed: &[] }, steps, &|_| false).unwrap();
        recursion.into_krylov()
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
            let x = found.combine(Deflated { fisher: &matrix, removed: &[] }, &coefficients, &mut None).unwrap();
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
        let x = found.combine(Deflated { fisher: &matrix, removed: &[] }, &coefficients, &mut None).unwrap();
        for ((x, q), l) in x.iter().zip(&starts[0]).zip(&matrix.0) {
            assert!((f64::from(*x) - f64::from(*q) / (1.0 + l)).abs() < 1e-5);
        }
    }
}
