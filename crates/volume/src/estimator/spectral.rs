//! The spectral estimator: the prior mass of the ellipsoid `{(w-c)'(F + l2)(w-c)/2 <= cutoff}` with the Fisher matrix `F` at the center.
//!
//! With the spectrum of `F` and the components of the center in its eigenvectors the mass is a distribution function that is inverted
//! exactly ([`crate::quadratic_form`]). Where the spectrum comes from:
//!
//! - **gram**: all eigenvalues above zero, from the inner products of the gradients of single positions ([`FisherFactor::gram`]); the
//!   center's part by Lanczos' recursion in their space. No sampling error.
//! - **lanczos**: stochastic Lanczos quadrature. A random unit vector `u` has the spectral measure of `F` in expectation, divided by `D`;
//!   `m` products give its Gauss rule. The measure of the center is that of `c/|c|`, without sampling. Leading eigenvectors can be taken
//!   out before (deflation).
//!
//! The Gauss rule makes `A(beta) = -1/2 tr ln(1 + beta s^2 F) - ...` too low, since the even derivatives of `ln(1 + x)` and of `x/(1 + x)`
//! are negative; the Gauss-Radau rule with a node at zero makes it too high. The estimate is made from both, half and half; the interval
//! reaches from one to the other, and is widened by the sampling error of the probes,
//!
//! ```text
//! variance of A(beta) for one probe = 1/2 D/(D+2) [ sum f_i^2 - (sum f_i)^2 / D ],    f_i = ln(1 + beta s^2 l_i)
//! ```
//!
//! (fourth moments of a uniform direction), or the spread between the probes if that is larger.
//!
//! Every probe also gives a draw of the estimator's own Gaussian `N(mu, S)`, `S = (beta F + 1/s^2)^-1`, `mu = -S c/s^2`, made in the spaces
//! of the two recursions: `c - (1 + beta s^2 F)^-1 c + s (1 + beta s^2 F)^(-1/2) z`. There the true cost is compared with the quadratic one,
//! which says whether the ellipsoid has anything to do with the set.
//!
//! Sources: Ubaru, Chen & Saad, *SIAM J. Matrix Anal. Appl.* 38 (2017) 1075; Golub & Meurant, *Matrices, Moments and Quadrature* (2010).

mod lanczos;
mod measure;
mod result;

use std::sync::{Arc, Mutex, PoisonError};

use faer::{MatRef, Side};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::direction::NormalVector;
use crate::fisher::{FisherError, FisherFactor, FisherMatrix};
use crate::interrupt::Interrupt;
use crate::objective::{Differentiable, ObjectiveError};
use crate::question::Question;
use crate::run::driver::IndexedEstimator;
use crate::run::record::{Record, null_as_infinity};
use crate::saddle_point::{Mode, QuadraticCost};
use crate::spec::{FisherProducts, Reorthogonalization, SpectralRoute, SpectralSpec};

use lanczos::{Deflated, Krylov, Recursion, Tridiagonal, add, inner, lanczos, normalize, project_out};
use measure::Measure;

pub use measure::SpectralNode;
pub use result::{Bracket, Prefix, SpectralResult, TrueCost, spectrum};

/// Index of the random vector that deflation starts from; probes count up from 1.
const DEFLATION_INDEX: u64 = u64::MAX - (1 << 32);

/// Distance of the indices of the random vectors of one probe.
const BLOCK_STRIDE: u64 = 1 << 40;

/// The recursion in the space of the Gram matrix is so cheap that it gets at least so many steps.
const GRAM_STEPS: usize = 200;

/// Why the estimator could not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpectralError {
    /// A setting is out of range.
    #[error("`{name}` is {value}: expected {expected}")]
    Setting {
        /// Name of the setting.
        name: &'static str,
        /// The given value.
        value: f64,
        /// What is allowed.
        expected: String,
    },
    /// Several vectors at once, and not all of them kept orthogonal.
    #[error("several vectors in a block have to be kept orthogonal: choose `reorthogonalization=full`, or `block=1`")]
    Block,
    /// The prior is not Gaussian.
    #[error("the spectral estimator knows the Gaussian prior alone: choose `prior=gaussian`, or `estimator=radial`")]
    Prior,
    /// The factor of the Fisher matrix is asked for where there is none.
    #[error("the cost of this model offers neither a Gram matrix nor exact products: choose {choose}")]
    NoFactor {
        /// What to do.
        choose: &'static str,
    },
    /// The Gram matrix is not finite.
    #[error("the Gram matrix of the gradients is not finite: check the weights of the model")]
    Gram,
    /// Stopped before the first record.
    #[error("interrupted")]
    Interrupted,
    /// A product failed.
    #[error(transparent)]
    Fisher(#[from] FisherError),
    /// The cost could not be evaluated.
    #[error(transparent)]
    Objective(#[from] ObjectiveError),
}

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
    fn new(index: u64, part: Part, mass: f64) -> Self {
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

    fn tridiagonal(&self) -> Tridiagonal {
        Tridiagonal { width: self.width, alphas: self.alphas.clone(), betas: self.betas.clone() }
    }

    fn with(mut self, tridiagonal: &Tridiagonal) -> Self {
        self.width = tridiagonal.width;
        self.alphas.clone_from(&tridiagonal.alphas);
        self.betas.clone_from(&tridiagonal.betas);
        self
    }
}

/// Chooses route and products for a model whose Fisher matrix has so many rows in its factor, if it has one.
///
/// # Errors
/// If the factor is asked for and there is none.
pub fn resolve(spec: SpectralSpec, rows: Option<usize>) -> Result<SpectralSpec, SpectralError> {
    let (route, products) = match rows {
        None if spec.route == SpectralRoute::Gram => return Err(SpectralError::NoFactor { choose: "`route=lanczos`" }),
        None if spec.products == FisherProducts::Exact => return Err(SpectralError::NoFactor { choose: "`products=differences`" }),
        None => (SpectralRoute::Lanczos, FisherProducts::Differences),
        Some(rows) => {
            let route = if rows <= spec.gram_limit { SpectralRoute::Gram } else { SpectralRoute::Lanczos };
            (route, FisherProducts::Exact)
        }
    };
    let route = if spec.route == SpectralRoute::Auto { route } else { spec.route };
    let products = if spec.products == FisherProducts::Auto { products } else { spec.products };
    Ok(SpectralSpec { route, products, ..spec })
}

/// The most memory that the estimator takes at once beside the cost itself, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forecast {
    /// Lanczos vectors that are kept: `steps x D x 4` for every recursion at the same time, and for the center.
    pub vectors: u64,
    /// The Gram matrix and the copy that its eigenvalues are computed in.
    pub gram: u64,
    /// What is needed for the products, and single vectors.
    pub scratch: u64,
}

impl Forecast {
    /// For `workers` records at the same time.
    #[must_use]
    pub fn new(spec: &SpectralSpec, route: SpectralRoute, fisher: &dyn FisherMatrix, workers: usize) -> Self {
        let vector = 4 * fisher.dimension() as u64;
        let (workers, block) = (workers as u64, spec.block as u64);
        let recursions = if spec.reorthogonalization.keeps_vectors() { (workers * block + 1) * spec.steps as u64 } else { 0 };
        let deflation = if spec.deflation > 0 { (spec.deflation + deflation_steps(spec, fisher.dimension())) as u64 } else { 0 };
        let rows = fisher.factor().map_or(0, FisherFactor::rows) as u64;
        let gram = if route == SpectralRoute::Gram { 2 * 8 * rows * rows } else { 0 };
        Self {
            vectors: (recursions + deflation) * vector,
            gram,
            scratch: workers * ((3 + 3 * block) * vector + fisher.scratch_bytes()) + 2 * vector + fisher.held_bytes(),
        }
    }

    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.vectors + self.gram + self.scratch
    }
}

fn deflation_steps(spec: &SpectralSpec, dimension: usize) -> usize {
    (2 * spec.deflation + 8).min(dimension)
}

/// What index 0 leaves behind for the draws of the others.
struct Middle {
    record: SpectralRecord,
    /// The recursion started at the center, and the length of its part outside the deflated space.
    krylov: Krylov,
    norm: f64,
}

/// The estimator: a pure function from index to [`SpectralRecord`].
pub struct SpectralEstimator<'a> {
    model: &'a dyn Differentiable,
    fisher: &'a dyn FisherMatrix,
    question: Question,
    sigma: f64,
    spec: SpectralSpec,
    center: Vec<f32>,
    /// Orthonormal eigenvectors, with their record.
    removed: Vec<Vec<f32>>,
    pairs: Vec<Eigenpair>,
    deflation_products: u64,
    middle: Mutex<Option<Arc<Middle>>>,
    interrupt: Interrupt,
}

impl<'a> SpectralEstimator<'a> {
    /// Checks the settings, whose route has to be [resolved](resolve), and computes the eigenvectors to take out. `interrupt` ends
    /// that early; a record that is begun is finished.
    ///
    /// # Errors
    /// If a setting is out of range, a product fails, or the interrupt is raised.
    pub fn new(
        model: &'a dyn Differentiable,
        fisher: &'a dyn FisherMatrix,
        question: Question,
        spec: SpectralSpec,
        interrupt: &Interrupt,
    ) -> Result<Self, SpectralError> {
        let dimension = fisher.dimension();
        let sigma = check(&question, &spec, dimension)?;
        if spec.route == SpectralRoute::Gram && fisher.factor().is_none() {
            return Err(SpectralError::NoFactor { choose: "`route=lanczos`" });
        }
        let mut center = vec![0.0f32; dimension];
        model.center(0..dimension, &mut center);
        let mut estimator = Self {
            model,
            fisher,
            question,
            sigma,
            spec,
            center,
            removed: Vec::new(),
            pairs: Vec::new(),
            deflation_products: 0,
            middle: Mutex::default(),
            interrupt: interrupt.clone(),
        };
        if spec.deflation > 0 && spec.route != SpectralRoute::Gram {
            estimator.deflate()?;
        }
        Ok(estimator)
    }

    /// `||c||^2`.
    #[must_use]
    pub fn center_norm_squared(&self) -> f64 {
        inner(&self.center, &self.center)
    }

    fn matrix(&self) -> Deflated<'_> {
        Deflated { fisher: self.fisher, removed: &self.removed }
    }

    /// Leading eigenvectors from a recursion with all its vectors.
    fn deflate(&mut self) -> Result<(), SpectralError> {
        let steps = deflation_steps(&self.spec, self.center.len());
        let mut start = self.normal(DEFLATION_INDEX);
        normalize(&mut start);
        let proceed = || !self.interrupt.is_raised();
        let recursion = Recursion { steps, reorthogonalization: Reorthogonalization::Full, proceed: &proceed, enough: &|_| false };
        let krylov = lanczos(self.matrix(), vec![start], recursion)?.ok_or(SpectralError::Interrupted)?;
        let mut removed: Vec<Vec<f32>> = Vec::new();
        for (curvature, coefficients, residual) in krylov.tridiagonal.leading(self.spec.deflation) {
            let mut vector = krylov.combine(self.matrix(), &coefficients)?;
            project_out(&removed, &mut vector);
            normalize(&mut vector);
            self.pairs.push(Eigenpair { curvature, center_squared: inner(&vector, &self.center).powi(2), residual });
            removed.push(vector);
        }
        self.deflation_products = krylov.tridiagonal.steps() as u64;
        self.removed = removed;
        Ok(())
    }

    fn normal(&self, index: u64) -> Vec<f32> {
        let mut z = vec![0.0f32; self.center.len()];
        NormalVector::new(self.question.seed(), index, z.len()).fill(0..z.len(), &mut z);
        z
    }

    /// The recursion from vectors without their parts in the deflated space, and the length of the rest of the first.
    fn recursion(&self, mut starts: Vec<Vec<f32>>, enough: &dyn Fn(&Tridiagonal) -> bool) -> Result<(Krylov, f64), SpectralError> {
        starts.iter_mut().for_each(|start| project_out(&self.removed, start));
        let norm = normalize(&mut starts[0]);
        let SpectralSpec { steps, reorthogonalization, .. } = self.spec;
        match lanczos(self.matrix(), starts, Recursion { steps, reorthogonalization, proceed: &|| true, enough })? {
            Some(krylov) => Ok((krylov, norm)),
            None => Err(SpectralError::Interrupted),
        }
    }

    /// Whether the two quadrature rules of a probe agree about its own part of the log-probability, `-D/2 sum w ln(1 + beta s^2 l)`, at the beta of
    /// that probe alone. Further steps would not change the answer by what matters beside the scatter of the probes.
    fn is_converged(&self, tridiagonal: &Tridiagonal) -> bool {
        if self.spec.tolerance <= 0.0 {
            return false;
        }
        let mass = (self.center.len() - self.removed.len()) as f64;
        let (low, high) = (tridiagonal.gauss(), tridiagonal.radau_at_zero());
        let l2 = self.question.l2_reg();
        let mode = |i: usize| Mode { multiplicity: mass * low[i].1, curvature: low[i].0 + l2, center_squared: 0.0 };
        let saddle = QuadraticCost::new(low.len(), self.sigma, mode).and_then(|cost| cost.saddle_point(self.question.cutoff()));
        // Without a beta of its own a probe knows nothing: what matters then is the center's.
        let Some(saddle) = saddle.ok().filter(|saddle| saddle.beta > 0.0) else { return false };
        let scaled = saddle.beta * self.sigma * self.sigma;
        let sum = |rule: &[(f64, f64)]| rule.iter().map(|(l, w)| 0.5 * mass * w * (scaled * (l + l2)).ln_1p()).sum::<f64>();
        let (low, high) = (sum(&low), sum(&high));
        (high - low).abs() <= self.spec.tolerance * low.abs().max(1.0)
    }

    /// Index 0, computed once. Whoever needs it first computes it, the others wait.
    fn middle(&self) -> Result<Arc<Middle>, SpectralError> {
        let mut slot = self.middle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(middle) = &*slot {
            return Ok(Arc::clone(middle));
        }
        let (krylov, norm) = self.recursion(vec![self.center.clone()], &|_| false)?;
        let steps = krylov.tridiagonal.steps() as u64;
        let mut record = if self.spec.route == SpectralRoute::Gram {
            self.whole_spectrum()?
        } else {
            let mut record = SpectralRecord::new(0, Part::Center, norm * norm).with(&krylov.tridiagonal);
            record.deflated.clone_from(&self.pairs);
            record
        };
        record.center_norm_squared = Some(self.center_norm_squared());
        record.products = steps + self.deflation_products;
        record.gradients += record.products * self.fisher.gradients_per_product();
        let middle = Arc::new(Middle { record, krylov, norm });
        *slot = Some(Arc::clone(&middle));
        Ok(middle)
    }

    fn whole_spectrum(&self) -> Result<SpectralRecord, SpectralError> {
        let factor = self.fisher.factor().ok_or(SpectralError::NoFactor { choose: "`route=lanczos`" })?;
        let rows = factor.rows();
        let mut image = vec![0.0f32; rows];
        factor.apply(&self.center, &mut image)?;
        let gram = Gram { rows, values: factor.gram()? };
        let matrix = MatRef::from_column_major_slice(&gram.values, rows, rows);
        if gram.values.iter().any(|value| !value.is_finite()) {
            return Err(SpectralError::Gram);
        }
        let mut eigenvalues = matrix.self_adjoint_eigenvalues(Side::Lower).map_err(|_| SpectralError::Gram)?;
        eigenvalues.sort_by(|a, b| b.total_cmp(a));
        // What is left of rounding.
        let least = eigenvalues.first().map_or(0.0, |largest| 1e-12 * largest);
        eigenvalues.retain(|value| *value > least);
        eigenvalues.truncate(factor.largest_rank().min(self.center.len()));
        let norm = normalize(&mut image);
        let mut record = SpectralRecord::new(0, Part::Spectrum, norm * norm);
        record.eigenvalues = eigenvalues;
        if norm > 0.0 {
            let matrix = Deflated { fisher: &gram, removed: &[] };
            let steps = GRAM_STEPS.max(self.spec.steps).min(rows);
            let recursion = Recursion { steps, reorthogonalization: Reorthogonalization::Full, proceed: &|| true, enough: &|_| false };
            if let Some(krylov) = lanczos(matrix, vec![image], recursion)? {
                record = record.with(&krylov.tridiagonal);
            }
        }
        Ok(record)
    }

    /// A draw of the Gaussian from the normal vector `z` with its recursion, and the costs there.
    fn draw(&self, z: &[f32], (krylov, norm): (&Krylov, f64), middle: &Middle) -> Result<Draw, SpectralError> {
        let measure = match middle.record.part {
            Part::Spectrum => Measure::of(self.center.len(), &middle.record, &[]),
            _ => {
                let mass = (self.center.len() - self.removed.len()) as f64;
                let own = SpectralRecord::new(1, Part::Probe, mass).with(&krylov.tridiagonal);
                Measure::of(self.center.len(), &middle.record, &[&own])
            }
        };
        let beta = measure.with_penalty(self.question.l2_reg()).saddle_point(self.sigma, self.question.cutoff()).beta;
        let stiffness = |l: f64| 1.0 + beta * self.sigma * self.sigma * (l + self.question.l2_reg());
        let spread = |l: f64| self.sigma / stiffness(l).sqrt();
        let shift = |l: f64| -1.0 / stiffness(l);
        let mut d = krylov.combine(self.matrix(), &krylov.tridiagonal.function(|l| norm * spread(l)))?;
        let mean = middle.krylov.combine(self.matrix(), &middle.krylov.tridiagonal.function(|l| middle.norm * shift(l)))?;
        add(&mut d, 1.0, &mean);
        for (vector, pair) in self.removed.iter().zip(&self.pairs) {
            // Differences may leave an eigenvalue of zero below it.
            let curvature = pair.curvature.max(0.0);
            let along = spread(curvature) * inner(vector, z) + shift(curvature) * inner(vector, &self.center);
            add(&mut d, along, vector);
        }
        let mut product = mean;
        self.fisher.product(&d, &mut product)?;
        let quadratic = 0.5 * inner(&d, &product);
        add(&mut d, 1.0, &self.center);
        let cost = self.model.cost_at(&d)?.nats;
        Ok(Draw { beta, quadratic, cost: if cost.is_finite() { cost } else { f64::INFINITY } })
    }

    /// One record.
    ///
    /// # Errors
    /// If a product or the cost fails.
    pub fn record(&self, index: u64) -> Result<SpectralRecord, SpectralError> {
        if index == 0 {
            return Ok(self.middle()?.record.clone());
        }
        let z = self.normal(index);
        let enough = |tridiagonal: &Tridiagonal| self.is_converged(tridiagonal);
        let is_gram = self.spec.route == SpectralRoute::Gram;
        // The draws of the route gram have no use for more than one vector.
        let width = if is_gram { 1 } else { self.spec.block as u64 };
        let starts = (0..width).map(|member| self.normal(index + member * BLOCK_STRIDE)).collect();
        let (krylov, norm) = self.recursion(starts, &enough)?;
        let part = if is_gram { Part::Draw } else { Part::Probe };
        let mut record = SpectralRecord::new(index, part, (self.center.len() - self.removed.len()) as f64);
        if !is_gram {
            record = record.with(&krylov.tridiagonal);
        }
        record.products = krylov.tridiagonal.steps() as u64 * width;
        if is_gram || index <= self.spec.cost_samples as u64 {
            let middle = self.middle()?;
            record.draw = Some(self.draw(&z, (&krylov, norm), &middle)?);
            // Vectors that are not kept cost their products again.
            let again = if self.spec.reorthogonalization.keeps_vectors() { 0 } else { 2 * (record.products - 1) };
            record.products += 1 + again;
        }
        record.gradients = record.products * self.fisher.gradients_per_product();
        Ok(record)
    }
}

impl IndexedEstimator for SpectralEstimator<'_> {
    type Record = SpectralRecord;
    type Error = SpectralError;

    fn compute(&self, index: u64) -> Result<SpectralRecord, SpectralError> {
        self.record(index)
    }
}

/// Checks what is asked, before anything is computed, and returns the prior's sigma.
///
/// # Errors
/// If the prior is not Gaussian or a setting is out of range.
pub fn check(question: &Question, spec: &SpectralSpec, dimension: usize) -> Result<f64, SpectralError> {
    let sigma = question.sigma().ok_or(SpectralError::Prior)?;
    let setting = |name, value: f64, expected: String| Err(SpectralError::Setting { name, value, expected });
    if !(spec.perturbation > 0.0 && spec.perturbation.is_finite()) {
        return setting("perturbation", spec.perturbation, "a finite number > 0".to_owned());
    }
    if !(spec.tolerance >= 0.0 && spec.tolerance.is_finite()) {
        return setting("tolerance", spec.tolerance, "a finite number >= 0".to_owned());
    }
    if spec.steps == 0 || spec.steps > dimension {
        return setting("steps", spec.steps as f64, format!("1 to {dimension}, the number of moving weights"));
    }
    if spec.block == 0 || spec.block > dimension / spec.steps {
        let expected = format!("1 to {}, the number of moving weights by that of the steps", dimension / spec.steps);
        return setting("block", spec.block as f64, expected);
    }
    if spec.block > 1 && spec.reorthogonalization != Reorthogonalization::Full {
        return Err(SpectralError::Block);
    }
    if spec.deflation >= dimension {
        return setting("deflation", spec.deflation as f64, format!("less than {dimension}, the number of moving weights"));
    }
    Ok(sigma)
}

/// A Gram matrix as a linear map.
struct Gram {
    rows: usize,
    values: Vec<f64>,
}

impl FisherMatrix for Gram {
    fn dimension(&self) -> usize {
        self.rows
    }

    fn product(&self, v: &[f32], out: &mut [f32]) -> Result<(), FisherError> {
        let rows = self.values.par_chunks(self.rows);
        out.par_iter_mut().zip(rows).for_each(|(out, row)| {
            *out = row.iter().zip(v).map(|(g, &v)| g * f64::from(v)).sum::<f64>() as f32;
        });
        Ok(())
    }

    fn gradients_per_product(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests;
