//! The estimator itself: recursions and draws by index.

use std::sync::{Arc, Mutex, PoisonError};

use faer::{MatRef, Side};

use super::error::SpectralError;
use super::gram::Gram;
use super::lanczos::{Deflated, Krylov, Recursion, Tridiagonal, add, inner, lanczos, normalize, project_out};
use super::measure::Measure;
use super::record::{Draw, Eigenpair, Part, SpectralRecord};
use super::settings::{check, deflation_steps};
use crate::direction::NormalVector;
use crate::fisher::FisherMatrix;
use crate::interrupt::Interrupt;
use crate::objective::Differentiable;
use crate::question::Question;
use crate::run::driver::IndexedEstimator;
use crate::saddle_point::{Mode, QuadraticCost};
use crate::spec::{Reorthogonalization, SpectralRoute, SpectralSpec};

/// Index of the random vector that deflation starts from; probes count up from 1.
const DEFLATION_INDEX: u64 = u64::MAX - (1 << 32);

/// Distance of the indices of the random vectors of one probe.
const BLOCK_STRIDE: u64 = 1 << 40;

/// The recursion in the space of the Gram matrix is so cheap that it gets at least so many steps.
const GRAM_STEPS: usize = 200;

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
