//! Runs that are interrupted every few evaluations, and go on until they are complete: not one bit differs from a run that never was, nothing is
//! evaluated once the interrupt is raised, and next to nothing is evaluated twice.

use std::collections::BTreeSet;
use std::fs;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use basin_volume::center::Center;
use basin_volume::coordinates::Coordinates;
use basin_volume::direction::Direction;
use basin_volume::estimator::annealed::states::{FolderKeeper, STATES, UNFINISHED};
use basin_volume::estimator::annealed::{AnnealedEnd, AnnealedEstimator, AnnealedRecord, InMemory, Metrics};
use basin_volume::estimator::radial::{Directions, RadialEstimator, Sample};
use basin_volume::estimator::spectral::{FolderRecursions, RECURSIONS, SpectralEstimator, SpectralRecord};
use basin_volume::fisher::{DifferenceProducts, FisherError, FisherFactor, FisherMatrix};
use basin_volume::guarded::Guarded;
use basin_volume::interrupt::Interrupt;
use basin_volume::max_cost::MaxCost;
use basin_volume::objective::{Cost, Differentiable, Objective, ObjectiveError, RayPoint};
use basin_volume::preconditioner::{Damping, Diagonal, Identity, Preconditioner};
use basin_volume::prior::Prior;
use basin_volume::question::Question;
use basin_volume::random::{NormalVector, Purpose};
use basin_volume::run::driver::{self, RunEnd, SamplePlan, Workers};
use basin_volume::run::folder::{self, RunFolder};
use basin_volume::run::manifest::Manifest;
use basin_volume::run::record::Record;
use basin_volume::run::shard::Shard;
use basin_volume::spec::{
    Anchor, AnnealedSpec, EstimatorSpec, Ladder, Metric, PreconditionerSpec, RadialSpec, Reorthogonalization, RunSpec, SetKind,
    SpectralRoute, SpectralSpec,
};
use basin_volume::testkit::{Ellipsoid, Interrupting};

fn question() -> Question {
    Question::new(Prior::Gaussian { sigma: 1.0 }, 0.01, 0.0, 7).unwrap()
}

fn body(dimension: usize, alpha: f64) -> Ellipsoid {
    let mut center = vec![0.0f32; dimension];
    NormalVector::new(Purpose::Trials, 5, 0, dimension).fill(0..dimension, &mut center);
    center.iter_mut().for_each(|x| *x *= 0.3);
    Ellipsoid::new((1..=dimension).map(|i| (i as f64).powf(-alpha)).collect(), center)
}

fn manifest(dimension: usize, estimator: EstimatorSpec, samples: u64) -> Manifest {
    let spec =
        RunSpec { problem: serde_json::Map::new(), dimension, question: question(), preconditioner: PreconditionerSpec::None, estimator };
    Manifest::new(spec, 0.0, None, samples, Shard::ALL)
}

fn workers(rays: usize) -> Workers {
    Workers { rays: NonZeroUsize::new(rays).unwrap(), threads_per_ray: NonZeroUsize::MIN }
}

/// Evaluations until the next interrupt: more and more where they are too few for anything to be done.
struct Patience {
    least: u64,
    sessions: u64,
    idle: u64,
    done: usize,
}

impl Patience {
    fn new(least: u64) -> Self {
        Self { least, sessions: 0, idle: 0, done: 0 }
    }

    fn next(&mut self, done: usize) -> u64 {
        self.idle = if done > self.done { 0 } else { self.idle + 1 };
        (self.done, self.sessions) = (done, self.sessions + 1);
        self.least * (1 + self.idle)
    }
}

#[test]
fn rays() {
    let body = Interrupting::new(body(60, 1.0));
    let settings = RadialSpec::default();
    let compute = |path: &Path, threads: usize, least: u64| -> (Vec<Sample>, u64) {
        let mut patience = Patience::new(least);
        let mut pilot = None;
        loop {
            let interrupt = Interrupt::new();
            body.arm(&interrupt, patience.next(if pilot.is_some() { folder::read_samples::<Sample>(path).unwrap().len() } else { 0 }));
            let guarded = Guarded::new(&body, &interrupt);
            let estimator = match RadialEstimator::new(&guarded, question(), Arc::new(Identity), settings, pilot, Directions::Kept) {
                Err(error) => {
                    assert!(error.is_interrupt(), "{error}");
                    continue;
                }
                Ok(estimator) => estimator,
            };
            pilot = Some(estimator.pilot());
            let (mut folder, present) = RunFolder::open::<Sample>(path, &manifest(60, EstimatorSpec::Radial(settings), 40)).unwrap();
            let present: BTreeSet<u64> = present.iter().map(Record::index).collect();
            let plan = SamplePlan { samples: 40, shard: Shard::ALL, present: &present, workers: workers(threads), interrupt: &interrupt };
            if driver::run(&estimator, &mut folder, plan, |_| {}).unwrap() == RunEnd::Completed {
                return (folder::read_samples(path).unwrap(), patience.sessions);
            }
        }
    };
    let folder = tempfile::tempdir().unwrap();
    let (whole, sessions) = compute(&folder.path().join("whole"), 1, u64::MAX / 1000);
    assert_eq!((whole.len(), sessions), (40, 1));
    let mut late_allowed = 0;
    for (least, threads) in [(1, 1), (4, 1), (9, 1), (25, 1), (1, 3), (9, 3), (25, 3)] {
        let (found, sessions) = compute(&folder.path().join(format!("{least} {threads}")), threads, least);
        assert!(sessions > 1, "{least} evaluations, {threads} threads: never interrupted, {} evaluations in all", body.evaluations());
        assert_eq!(found, whole, "{least} evaluations, {threads} threads");
        late_allowed += sessions * (threads as u64 - 1);
    }
    // With one thread at work none begins late; of three, two may while the interrupt is raised.
    assert!(body.late() <= late_allowed, "{} evaluations begin late", body.late());
}

/// Rows, as of the gradients of single positions.
struct Rows {
    rows: Vec<Vec<f32>>,
    products: Interrupting<Ellipsoid>,
}

impl Rows {
    fn times(&self, v: &[f32]) -> Vec<f64> {
        self.rows.iter().map(|row| row.iter().zip(v).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()).collect()
    }
}

impl FisherMatrix for Rows {
    fn dimension(&self) -> usize {
        self.products.dimension()
    }

    fn product(&self, v: &[f32], out: &mut [f32]) -> Result<(), FisherError> {
        // For the count.
        self.products.cost_at(v)?;
        let image = self.times(v);
        for (k, out) in out.iter_mut().enumerate() {
            *out = self.rows.iter().zip(&image).map(|(row, x)| f64::from(row[k]) * x).sum::<f64>() as f32;
        }
        Ok(())
    }

    fn gradients_per_product(&self) -> u64 {
        1
    }

    fn factor(&self) -> Option<&dyn FisherFactor> {
        Some(self)
    }
}

impl FisherFactor for Rows {
    fn rows(&self) -> usize {
        self.rows.len()
    }

    fn apply(&self, v: &[f32], out: &mut [f32]) -> Result<(), FisherError> {
        out.iter_mut().zip(self.times(v)).for_each(|(out, x)| *out = x as f32);
        Ok(())
    }

    fn gram(&self, interrupt: &Interrupt) -> Result<Vec<f64>, FisherError> {
        if interrupt.is_raised() {
            return Err(ObjectiveError::interrupted().into());
        }
        Ok(self.rows.iter().flat_map(|row| self.times(row)).collect())
    }
}

/// A run in a folder, interrupted every so many evaluations of `body`: the records, and the number of sessions.
fn spectral(
    path: &Path,
    body: &Interrupting<Ellipsoid>,
    fisher: &dyn FisherMatrix,
    spec: SpectralSpec,
    threads: usize,
    least: u64,
) -> (Vec<SpectralRecord>, u64) {
    let mut patience = Patience::new(least);
    let manifest = manifest(body.dimension(), EstimatorSpec::Spectral(spec), 6);
    loop {
        let interrupt = Interrupt::new();
        body.arm(&interrupt, patience.next(patience.done));
        let (mut folder, present) = RunFolder::open::<SpectralRecord>(path, &manifest).unwrap();
        let present: BTreeSet<u64> = present.iter().map(Record::index).collect();
        let keeper = FolderRecursions::new(path);
        let estimator = SpectralEstimator::new(body, fisher, question(), spec, &interrupt).unwrap().with_keeper(&keeper);
        let plan = SamplePlan { samples: 6, shard: Shard::ALL, present: &present, workers: workers(threads), interrupt: &interrupt };
        if driver::run(&estimator, &mut folder, plan, |_| {}).unwrap() == RunEnd::Completed {
            assert!(!path.join(RECURSIONS).exists(), "nothing is kept of a complete run");
            return (folder::read_samples(path).unwrap(), patience.sessions);
        }
    }
}

#[test]
fn recursions() {
    let route = SpectralSpec { route: SpectralRoute::Lanczos, steps: 20, cost_samples: 2, ..SpectralSpec::default() };
    let folder = tempfile::tempdir().unwrap();
    for (name, spec) in [
        ("full", route),
        ("selective", SpectralSpec { reorthogonalization: Reorthogonalization::Selective, ..route }),
        ("none", SpectralSpec { reorthogonalization: Reorthogonalization::None, ..route }),
        ("block", SpectralSpec { block: 3, ..route }),
        ("deflation", SpectralSpec { deflation: 4, ..route }),
        ("deflation, none", SpectralSpec { deflation: 4, reorthogonalization: Reorthogonalization::None, ..route }),
    ] {
        let objective = Interrupting::new(body(80, 1.2));
        let products = DifferenceProducts::new(&objective, 1e-2).unwrap();
        let run = |threads: usize, least: u64| {
            let before = objective.evaluations();
            let path = folder.path().join(format!("{name} {threads} {least}"));
            let (records, sessions) = spectral(&path, &objective, &products, spec, threads, least);
            (records, sessions, objective.evaluations() - before)
        };
        let (whole, sessions, evaluations) = run(1, u64::MAX / 1000);
        assert_eq!((whole.len(), sessions), (6, 1));
        for (least, threads) in [(2, 1), (3, 1), (17, 1), (60, 1), (7, 3)] {
            // The patience of this run never grows: a single product is progress.
            let (found, sessions, again) = run(threads, least);
            assert!(sessions > 1, "{name}, {least} evaluations: never interrupted");
            assert_eq!(found, whole, "{name}, {least} evaluations, {threads} threads");
            // What is lost is what was in flight: a gradient of two, in every thread.
            let most = evaluations + sessions * threads as u64;
            assert!(again <= most, "{name}, {least} evaluations, {threads} threads: {again} in {sessions} sessions, {evaluations} in one");
        }
    }
}

#[test]
fn whole_spectra() {
    let row = |index: u64| {
        let mut row = vec![0.0f32; 50];
        NormalVector::new(Purpose::Trials, 9, index, 50).fill(0..50, &mut row);
        row
    };
    let fisher = Rows { rows: (0..12).map(row).collect(), products: Interrupting::new(body(50, 1.0)) };
    let spec = SpectralSpec { route: SpectralRoute::Gram, steps: 12, ..SpectralSpec::default() };
    let folder = tempfile::tempdir().unwrap();
    let (whole, _) = spectral(&folder.path().join("whole"), &fisher.products, &fisher, spec, 1, u64::MAX / 1000);
    assert_eq!((whole.len(), whole[0].eigenvalues.len()), (6, 12));
    for (least, threads) in [(1, 1), (2, 1), (5, 1), (13, 1), (3, 3)] {
        let path = folder.path().join(format!("{least} {threads}"));
        let (found, sessions) = spectral(&path, &fisher.products, &fisher, spec, threads, least);
        assert!(sessions > 1 && found == whole, "{least} evaluations, {threads} threads: {sessions} sessions");
    }
}

/// The curvature of an ellipsoid, with a part in a hundred that depends on the states.
struct OfEllipsoid(Ellipsoid);

impl Metrics for OfEllipsoid {
    fn metric(&self, states: &[&[f32]], damping: Damping) -> Result<Box<dyn Preconditioner>, ObjectiveError> {
        let wobble = 1.0 + 0.01 * f64::from(states[0][0]).sin();
        let curvature: Vec<f32> = self.0.eigenvalues().iter().map(|l| (l * wobble) as f32).collect();
        Ok(Box::new(Diagonal::from_curvature(&curvature, damping).map_err(ObjectiveError::new)?))
    }

    fn gradients(&self) -> u64 {
        1
    }
}

/// Weights as coordinates, some of whose axes are stiff.
struct Stiff(Ellipsoid);

impl Center for Stiff {
    fn dimension(&self) -> usize {
        self.0.dimension()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        self.0.center(range, out);
    }
}

impl Objective for Stiff {
    fn cost(&self, direction: &Direction, point: RayPoint) -> Result<Cost, ObjectiveError> {
        self.0.cost(direction, point)
    }
}

impl Differentiable for Stiff {
    fn parts(&self) -> usize {
        self.0.parts()
    }

    fn gradient(&self, weights: &[f32], parts: Range<usize>, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        self.0.gradient(weights, parts, gradient)
    }

    fn cost_at(&self, weights: &[f32]) -> Result<Cost, ObjectiveError> {
        self.0.cost_at(weights)
    }

    fn likelihood_gradient(&self, weights: &[f32], parts: Range<usize>, seed: u64, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        self.0.likelihood_gradient(weights, parts, seed, gradient)
    }
}

impl Coordinates for Stiff {
    fn enter(&self, _: &mut [f32]) {}

    fn leave(&self, _: &mut [f32]) {}

    fn stiff_axes(&self, states: &[&[f32]]) -> Result<Vec<(usize, f64)>, ObjectiveError> {
        let wobble = 1.0 + 0.01 * f64::from(states[0][0]).sin();
        let axes = self.0.eigenvalues().iter().enumerate().filter(|(_, eigenvalue)| **eigenvalue > 100.0);
        Ok(axes.map(|(axis, eigenvalue)| (axis, eigenvalue * wobble)).collect())
    }
}

/// What chains need beside an objective.
#[derive(Clone, Copy, Default)]
struct Beside<'a> {
    metrics: Option<&'a dyn Metrics>,
    coordinates: Option<&'a dyn Coordinates>,
}

fn chains<O: Differentiable>(name: &str, objective: &Interrupting<O>, beside: Beside<'_>, spec: &AnnealedSpec) {
    let mut center = vec![0.0f32; objective.dimension()];
    objective.center(0..center.len(), &mut center);
    let mut estimator = AnnealedEstimator::new(objective, &center, question(), spec.clone()).unwrap();
    estimator = beside.metrics.into_iter().fold(estimator, AnnealedEstimator::with_metrics);
    estimator = beside.coordinates.into_iter().fold(estimator, AnnealedEstimator::with_coordinates);
    let mut memory = InMemory::default();
    let before = objective.evaluations();
    assert_eq!(estimator.run(1, &[], &mut memory, &Interrupt::new(), &mut |_| {}).unwrap(), AnnealedEnd::Completed);
    let (whole, evaluations) = (memory.records, objective.evaluations() - before);
    let root = tempfile::tempdir().unwrap();
    let manifest = manifest(center.len(), EstimatorSpec::Annealed(spec.clone()), 1);
    for (least, threads) in [(17, 1), (150, 3)] {
        let (path, mut patience, before) = (root.path().join(least.to_string()), Patience::new(least), objective.evaluations());
        let late = objective.late();
        loop {
            let (mut folder, records) = RunFolder::open::<AnnealedRecord>(&path, &manifest).unwrap();
            let interrupt = Interrupt::new();
            objective.arm(&interrupt, patience.next(records.len()));
            let mut keeper = FolderKeeper::new(&mut folder).unwrap();
            keeper = beside.coordinates.into_iter().fold(keeper, FolderKeeper::with_coordinates);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            if pool.install(|| estimator.run(1, &records, &mut keeper, &interrupt, &mut |_| {})).unwrap() == AnnealedEnd::Completed {
                break;
            }
        }
        let found: Vec<AnnealedRecord> = folder::read_samples(&path).unwrap();
        assert!(patience.sessions > 4, "{name}, {least} evaluations: {} sessions", patience.sessions);
        assert_eq!(found, whole, "{name}, {least} evaluations, {threads} threads");
        assert!(!path.join(STATES).join(UNFINISHED).exists(), "{name}: nothing is unfinished in the end");
        // Others may have begun while the interrupt was being raised.
        let allowed = patience.sessions * (threads as u64 - 1);
        assert!(objective.late() - late <= allowed, "{name}, {least} evaluations: {} late", objective.late() - late);
        if least > 100 {
            let again = objective.evaluations() - before;
            assert!(again < 3 * evaluations, "{name}: {again} evaluations in {} sessions, {evaluations} in one", patience.sessions);
        }
    }
    let mut left: Vec<_> = fs::read_dir(root.path().join("17").join(STATES)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert!(left.len() <= 4, "{name}: left are the states {left:?}");
}

#[test]
fn chains_of_every_kind() {
    let spec = AnnealedSpec { chains: 3, trajectories: 4, effort: 30, spacing: 1.5, ..AnnealedSpec::default() };
    let plain = || Interrupting::new(body(12, 1.0));
    chains("settled", &plain(), Beside::default(), &spec);
    chains("center", &plain(), Beside::default(), &AnnealedSpec { anchor: Anchor::Center, ..spec.clone() });
    chains("temperature", &plain(), Beside::default(), &AnnealedSpec { ladder: Ladder::Temperature, ..spec.clone() });
    let metrics = OfEllipsoid(body(12, 1.0));
    let beside = Beside { metrics: Some(&metrics), ..Beside::default() };
    chains("metric", &plain(), beside, &AnnealedSpec { metric: Metric::Diagonal, ..spec.clone() });
    chains("star", &plain(), Beside::default(), &AnnealedSpec { set_kind: SetKind::Star, star_points: 3, ..spec.clone() });
    let eigenvalue = |k: usize| if k % 10 == 3 { 1e3 } else { 1.0 };
    let stiff = Interrupting::new(Stiff(Ellipsoid::new((0..20).map(eigenvalue).collect(), vec![0.0; 20])));
    chains("coordinates", &stiff, Beside { coordinates: Some(&stiff), ..Beside::default() }, &spec);
    // With kinks something is evaluated after a trajectory, too.
    let (a, b) = (body(12, 1.0), body(12, 0.0));
    let both = Interrupting::new(MaxCost::new(vec![&a as &dyn Differentiable, &b]).unwrap());
    chains("kinks", &both, Beside::default(), &spec);
}
