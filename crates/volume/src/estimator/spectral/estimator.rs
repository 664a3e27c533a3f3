//! The estimator itself: recursions and draws by index.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use faer::{MatRef, Side};

use super::deflation::Deflation;
use super::error::SpectralError;
use super::gram::Gram;
use super::krylov::{Again, Deflated, Krylov};
use super::lanczos::Lanczos;
use super::measure::Measure;
use super::record::{Draw, Part, SpectralRecord};
use super::settings::{check, deflation_steps};
use super::tridiagonal::Tridiagonal;
use super::unfinished::{KeepNothing, RecursionKeeper, UnfinishedRecursion};
use super::vector::{add, inner, normalize, project_out};
use crate::fisher::FisherMatrix;
use crate::guarded::Guarded;
use crate::interrupt::Interrupt;
use crate::objective::Differentiable;
use crate::question::Question;
use crate::random::{NormalVector, Purpose};
use crate::run::driver::IndexedEstimator;
use crate::saddle_point::{Mode, QuadraticCost};
use crate::spec::{Reorthogonalization, SpectralRoute, SpectralSpec};

/// Index of the random vector that deflation starts from; probes count up from 1.
const DEFLATION_INDEX: u64 = u64::MAX - (1 << 32);

/// Distance of the indices of the random vectors of one probe.
const BLOCK_STRIDE: u64 = 1 << 40;

/// The recursion in the space of the Gram matrix is so cheap that it gets at least so many steps.
const GRAM_STEPS: usize = 200;

/// Names under which what all records have in common is kept.
const DEFLATION: &str = "deflation";
const CENTER: &str = "center";

/// What index 0 leaves behind for the draws of the others.
struct CenterSpace {
    record: SpectralRecord,
    /// The recursion started at the center, and the length of its part outside the deflated space.
    krylov: Krylov,
    norm: f64,
}

/// How far the two sums of a draw have come, where they take products.
#[derive(Default)]
struct DrawProgress {
    own: Option<Again>,
    mean: Option<Again>,
}

/// What all records share, computed by whoever needs it first while the others wait.
type Shared<T> = Mutex<Option<Arc<T>>>;

/// The estimator: a pure function from index to [`SpectralRecord`].
pub struct SpectralEstimator<'a> {
    model: Guarded<'a, dyn Differentiable + 'a>,
    fisher: Guarded<'a, dyn FisherMatrix + 'a>,
    question: Question,
    sigma: f64,
    spec: SpectralSpec,
    center: Vec<f32>,
    keeper: &'a dyn RecursionKeeper,
    deflation: Shared<Deflation>,
    center_space: Shared<CenterSpace>,
    interrupt: Interrupt,
}

impl<'a> SpectralEstimator<'a> {
    /// Checks the settings, whose route has to be [resolved](super::resolve). Once the interrupt is raised nothing more is evaluated, and records
    /// end in an error that [says so](SpectralError::is_interrupt).
    ///
    /// # Errors
    /// If the prior is not Gaussian, or a setting is out of range.
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
        Ok(Self {
            model: Guarded::new(model, interrupt),
            fisher: Guarded::new(fisher, interrupt),
            question,
            sigma,
            spec,
            center,
            keeper: &KeepNothing,
            deflation: Mutex::default(),
            center_space: Mutex::default(),
            interrupt: interrupt.clone(),
        })
    }

    /// Keeps there what an interrupt leaves unfinished, and goes on from what is kept there.
    #[must_use]
    pub fn with_keeper(self, keeper: &'a dyn RecursionKeeper) -> Self {
        Self { keeper, ..self }
    }

    /// `||c||^2`.
    #[must_use]
    pub fn center_norm_squared(&self) -> f64 {
        inner(&self.center, &self.center)
    }

    fn normal(&self, index: u64) -> Vec<f32> {
        let mut z = vec![0.0f32; self.center.len()];
        NormalVector::new(Purpose::Probes, self.question.seed(), index, z.len()).fill(0..z.len(), &mut z);
        z
    }

    fn without<'b>(&'b self, deflation: &'b Deflation) -> Deflated<'b> {
        Deflated { fisher: &self.fisher, removed: &deflation.vectors }
    }

    /// Runs a recursion to its end, from where it was interrupted if it was, and gives what else was kept with it. An interrupt keeps it.
    fn finish(
        &self,
        name: &str,
        mut recursion: Lanczos,
        matrix: Deflated<'_>,
        steps: usize,
        enough: &dyn Fn(&Tridiagonal) -> bool,
    ) -> Result<(Krylov, UnfinishedRecursion<'static>), SpectralError> {
        let mut kept = self.keeper.kept(name)?.unwrap_or_default();
        recursion.restore(&mut kept);
        match recursion.run(matrix, steps, enough) {
            Ok(()) => Ok((recursion.into_krylov(), kept)),
            Err(error) => {
                if error.is_interrupt() && recursion.has_begun() {
                    self.keeper.keep(name, &recursion.save())?;
                }
                Err(error.into())
            }
        }
    }

    /// What all records share.
    fn shared<T>(&self, slot: &Shared<T>, make: impl FnOnce() -> Result<T, SpectralError>) -> Result<Arc<T>, SpectralError> {
        let mut slot = lock(slot);
        if let Some(found) = &*slot {
            return Ok(Arc::clone(found));
        }
        // Another one may have been interrupted on its way there, and have kept how far it came.
        if self.interrupt.is_raised() {
            return Err(SpectralError::Interrupted);
        }
        let made = Arc::new(make()?);
        *slot = Some(Arc::clone(&made));
        Ok(made)
    }

    fn deflation(&self) -> Result<Arc<Deflation>, SpectralError> {
        self.shared(&self.deflation, || self.deflate())
    }

    /// Leading eigenvectors from a recursion with all its vectors.
    fn deflate(&self) -> Result<Deflation, SpectralError> {
        if self.spec.deflation == 0 || self.spec.route == SpectralRoute::Gram {
            return Ok(Deflation::default());
        }
        if let Some(mut kept) = self.keeper.kept(DEFLATION)?
            && let Some(found) = Deflation::restore(&mut kept, self.center.len())
        {
            return Ok(found);
        }
        let mut start = self.normal(DEFLATION_INDEX);
        normalize(&mut start);
        let steps = deflation_steps(&self.spec, self.center.len());
        let recursion = Lanczos::new(vec![start], Reorthogonalization::Full);
        let matrix = Deflated { fisher: &self.fisher, removed: &[] };
        let (krylov, _) = self.finish(DEFLATION, recursion, matrix, steps, &|_| false)?;
        Ok(Deflation::of(&krylov, matrix, self.spec.deflation, &self.center)?)
    }

    /// The recursion from vectors without their parts in the deflated space, the length of the rest of the first, and what else was kept with it.
    fn recursion(
        &self,
        name: &str,
        mut starts: Vec<Vec<f32>>,
        deflation: &Deflation,
        enough: &dyn Fn(&Tridiagonal) -> bool,
    ) -> Result<(Krylov, f64, UnfinishedRecursion<'static>), SpectralError> {
        starts.iter_mut().for_each(|start| project_out(&deflation.vectors, start));
        let norm = normalize(&mut starts[0]);
        let recursion = Lanczos::new(starts, self.spec.reorthogonalization);
        let (krylov, kept) = self.finish(name, recursion, self.without(deflation), self.spec.steps, enough)?;
        Ok((krylov, norm, kept))
    }

    /// What the weights of a probe's rule are multiplied with.
    fn probe_mass(&self, deflation: &Deflation) -> f64 {
        (self.center.len() - deflation.vectors.len()) as f64
    }

    /// Whether the two quadrature rules of a probe agree about its own part of the log-probability, `-D/2 sum w ln(1 + beta s^2 l)`, at the beta of
    /// that probe alone. Further steps would not change the answer by what matters beside the scatter of the probes.
    fn is_converged(&self, tridiagonal: &Tridiagonal, mass: f64) -> bool {
        if self.spec.tolerance <= 0.0 {
            return false;
        }
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

    fn center_space(&self, deflation: &Deflation) -> Result<Arc<CenterSpace>, SpectralError> {
        self.shared(&self.center_space, || {
            let (krylov, norm, _) = self.recursion(CENTER, vec![self.center.clone()], deflation, &|_| false)?;
            let steps = krylov.tridiagonal.steps() as u64;
            let mut record = if self.spec.route == SpectralRoute::Gram {
                let spectrum = self.whole_spectrum();
                if spectrum.as_ref().is_err_and(SpectralError::is_interrupt) {
                    self.keeper.keep(CENTER, &krylov.save())?;
                }
                spectrum?
            } else {
                let mut record = SpectralRecord::new(0, Part::Center, norm * norm).with(&krylov.tridiagonal);
                record.deflated.clone_from(&deflation.pairs);
                record
            };
            record.center_norm_squared = Some(self.center_norm_squared());
            record.products = steps + deflation.products;
            record.gradients += record.products * self.fisher.gradients_per_product();
            Ok(CenterSpace { record, krylov, norm })
        })
    }

    fn whole_spectrum(&self) -> Result<SpectralRecord, SpectralError> {
        let factor = self.fisher.factor().ok_or(SpectralError::NoFactor { choose: "`route=lanczos`" })?;
        let rows = factor.rows();
        let mut image = vec![0.0f32; rows];
        if self.interrupt.is_raised() {
            return Err(SpectralError::Interrupted);
        }
        factor.apply(&self.center, &mut image)?;
        let gram = Gram { rows, values: factor.gram(&self.interrupt)? };
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
            let steps = GRAM_STEPS.max(self.spec.steps).min(rows);
            let mut recursion = Lanczos::new(vec![image], Reorthogonalization::Full);
            let gram = Guarded::new(&gram, &self.interrupt);
            recursion.run(Deflated { fisher: &gram, removed: &[] }, steps, &|_| false)?;
            record = record.with(&recursion.into_krylov().tridiagonal);
        }
        Ok(record)
    }

    /// A draw of the Gaussian from the normal vector `z` with its recursion (and its length before), and the costs there.
    fn draw(
        &self,
        z: &[f32],
        krylov: &Krylov,
        norm: f64,
        deflation: &Deflation,
        progress: &mut DrawProgress,
    ) -> Result<Draw, SpectralError> {
        let space = self.center_space(deflation)?;
        let measure = match space.record.part {
            Part::Spectrum => Measure::of(self.center.len(), &space.record, &[]),
            _ => {
                let own = SpectralRecord::new(1, Part::Probe, self.probe_mass(deflation)).with(&krylov.tridiagonal);
                Measure::of(self.center.len(), &space.record, &[&own])
            }
        };
        let beta = measure.with_penalty(self.question.l2_reg()).saddle_point(self.sigma, self.question.cutoff()).beta;
        let stiffness = |l: f64| 1.0 + beta * self.sigma * self.sigma * (l + self.question.l2_reg());
        let spread = |l: f64| self.sigma / stiffness(l).sqrt();
        let shift = |l: f64| -1.0 / stiffness(l);
        let matrix = self.without(deflation);
        let mut d = krylov.combine(matrix, &krylov.tridiagonal.function(|l| norm * spread(l)), &mut progress.own)?;
        let of_mean = space.krylov.tridiagonal.function(|l| space.norm * shift(l));
        let mean = space.krylov.combine(matrix, &of_mean, &mut progress.mean)?;
        add(&mut d, 1.0, &mean);
        for (vector, pair) in deflation.vectors.iter().zip(&deflation.pairs) {
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

    fn is_gram(&self) -> bool {
        self.spec.route == SpectralRoute::Gram
    }

    /// Whether the record of this index has a draw.
    fn has_draw(&self, index: u64) -> bool {
        self.is_gram() || index <= self.spec.cost_samples as u64
    }

    /// One record.
    ///
    /// # Errors
    /// If a product or the cost fails, or the interrupt is raised: then what was done is kept.
    pub fn record(&self, index: u64) -> Result<SpectralRecord, SpectralError> {
        let deflation = self.deflation()?;
        if index == 0 {
            return Ok(self.center_space(&deflation)?.record.clone());
        }
        let (name, length) = (name_of(index), self.center.len());
        let z = self.normal(index);
        let mass = self.probe_mass(&deflation);
        let enough = |tridiagonal: &Tridiagonal| self.is_converged(tridiagonal, mass);
        // The draws of the route gram have no use for more than one vector.
        let width = if self.is_gram() { 1 } else { self.spec.block as u64 };
        let starts = (0..width).map(|member| self.normal(index + member * BLOCK_STRIDE)).collect();
        let (krylov, norm, mut kept) = self.recursion(&name, starts, &deflation, &enough)?;
        let part = if self.is_gram() { Part::Draw } else { Part::Probe };
        let mut record = SpectralRecord::new(index, part, mass);
        if !self.is_gram() {
            record = record.with(&krylov.tridiagonal);
        }
        record.products = krylov.tridiagonal.steps() as u64 * width;
        if self.has_draw(index) {
            let mut restore = |sum: &str| Again::restore(sum, length, &mut kept);
            let mut progress = DrawProgress { own: restore("own"), mean: restore("mean") };
            let draw = self.draw(&z, &krylov, norm, &deflation, &mut progress);
            if draw.as_ref().is_err_and(SpectralError::is_interrupt) {
                let mut kept = krylov.save();
                progress.own.iter().for_each(|sum| sum.save("own", &mut kept));
                progress.mean.iter().for_each(|sum| sum.save("mean", &mut kept));
                self.keeper.keep(&name, &kept)?;
            }
            record.draw = Some(draw?);
            // Vectors that are not kept cost their products again.
            let again = if self.spec.reorthogonalization.keeps_vectors() { 0 } else { 2 * (record.products - 1) };
            record.products += 1 + again;
        }
        record.gradients = record.products * self.fisher.gradients_per_product();
        Ok(record)
    }
}

/// Under which what an interrupt leaves of a record is kept.
fn name_of(index: u64) -> String {
    format!("record-{index}")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl IndexedEstimator for SpectralEstimator<'_> {
    type Record = SpectralRecord;
    type Error = SpectralError;

    fn compute(&self, index: u64) -> Result<SpectralRecord, SpectralError> {
        self.record(index)
    }

    fn is_interrupt(error: &SpectralError) -> bool {
        error.is_interrupt()
    }

    fn written(&self, index: u64) {
        self.keeper.forget(&name_of(index));
    }

    fn stopped(&self, is_complete: bool) -> Result<(), SpectralError> {
        if is_complete {
            self.keeper.forget_all();
            return Ok(());
        }
        // What is not there was kept where it stopped.
        if let Some(deflation) = lock(&self.deflation).as_deref().filter(|deflation| !deflation.vectors.is_empty()) {
            self.keeper.keep(DEFLATION, &deflation.save())?;
        }
        // Only draws have a use for it.
        if let Some(space) = lock(&self.center_space).as_deref().filter(|_| self.has_draw(1)) {
            self.keeper.keep(CENTER, &space.krylov.save())?;
        }
        Ok(())
    }
}
