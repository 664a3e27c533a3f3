//! Whatever is measured: a vector of parameters with a cost, and what it can do beside.
//!
//! A model with its data is one ([`crate::loaded::Loaded`]), a closure in a test another ([`Foreign`]), a module of another framework a third. The
//! engine asks a subject for what an estimator needs; what a subject cannot do is refused in a sentence that says what it lacks.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;

use basin_volume::center::Center;
use basin_volume::coordinates::Coordinates;
use basin_volume::direction::{BLOCK, dot};
use basin_volume::estimator::radial::PartNote;
use basin_volume::guarded::Guarded;
use basin_volume::interrupt::Interrupt;
use basin_volume::objective::{Differentiable, Objective};
use basin_volume::preconditioner::DiagonalMap;
use basin_volume::spec::Metric;
use basin_volume_data::hexadecimal;
use basin_volume_models::checkpoint::Moments;
use basin_volume_models::curvature::Scores;
use basin_volume_models::parameters::{Moving, ParameterLayout};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::request::Sigma;
use crate::resources::{Needs, Resources};
use crate::session::Session;

/// A standard deviation of the prior, and how it was chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChosenSigma {
    /// The standard deviation.
    pub sigma: f64,
    /// `given`, `rms` or `weight-decay`.
    pub choice: &'static str,
}

/// Whether a cost has coordinates in which it is less stiff, and how chains move in them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Rotated {
    /// It has none.
    #[default]
    No,
    /// Stretched along a few axes, without a metric.
    AlongAxes,
    /// Stretched by a diagonal metric.
    WithDiagonal,
}

/// What a subject can do beside giving its cost on a ray.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offers {
    /// Gradients at any weights.
    pub gradients: bool,
    /// Scores of single positions, which curvatures are computed from.
    pub scores: bool,
    /// Coordinates in which the cost is less stiff.
    pub rotated: Rotated,
    /// Costs of the parts of the data.
    pub parts: bool,
    /// An exact factor of the Fisher matrix, which the cost with scores knows.
    pub has_factor: bool,
    /// Whether the memory that may be used decides what is kept.
    pub memory: bool,
    /// Whether one gradient keeps all threads busy, and is planned for one at a time.
    pub one_gradient: bool,
}

/// A cost in coordinates.
pub struct RotatedCost<'a> {
    /// The cost.
    pub coordinates: Box<dyn Coordinates + Send + Sync + 'a>,
    /// Positions that it is the mean over.
    pub positions: usize,
}

/// What is used where nothing is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Defaults {
    /// How sigma is chosen.
    pub sigma: Sigma,
    /// The power map of diagonals.
    pub map: DiagonalMap,
    /// Where directions come from.
    pub preconditioners: Vec<String>,
    /// What the coordinates of chains are stretched by.
    pub metric: Metric,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { sigma: Sigma::Rms, map: DiagonalMap::default(), preconditioners: vec!["none".to_owned()], metric: Metric::None }
    }
}

/// A cost on rays that can be shared.
pub type BoxedObjective<'a> = Box<dyn Objective + Send + Sync + 'a>;
/// A cost with gradients.
pub type BoxedDifferentiable<'a> = Box<dyn Differentiable + Send + Sync + 'a>;
/// A cost with gradients and scores.
pub type BoxedScores<'a> = Box<dyn Scores + Send + Sync + 'a>;

/// Whatever is measured.
pub trait Subject: Center + Send {
    /// Short name for folders and titles.
    fn name(&self) -> &str;

    /// What identifies subject, data and cost in a manifest: everything that decides the samples, and nothing that does not.
    fn record(&self) -> Map<String, Value>;

    /// Where it was found and how it is stored, for a manifest's notes.
    fn provenance(&self) -> Map<String, Value> {
        Map::new()
    }

    /// Over how many observations the cost is a mean: rows, or positions of sequences. None where that is not known.
    fn observations(&self) -> Option<usize> {
        None
    }

    /// How much of the data counts, in a line, where that can be said.
    fn data_words(&self) -> Option<String> {
        None
    }

    /// What the parts of its data are, for tables; empty where that is not known.
    fn parts(&self) -> Vec<PartNote> {
        Vec::new()
    }

    /// What it can do.
    fn offers(&self) -> Offers;

    /// What is used where nothing is asked for.
    fn defaults(&self) -> Defaults {
        Defaults::default()
    }

    /// The standard deviation of the Gaussian prior.
    ///
    /// # Errors
    /// When the choice has no value for this subject.
    fn sigma(&self, choice: Option<Sigma>) -> Result<ChosenSigma, Error> {
        match choice.unwrap_or(self.defaults().sigma) {
            Sigma::Value(sigma) => Ok(ChosenSigma { sigma, choice: "given" }),
            Sigma::Rms => rms(self.sum_of_squares(), self.dimension(), "all weights"),
            Sigma::WeightDecay => Err(Error::usage(format!(
                "{} does not say with which l2 penalty it was trained, so `sigma=weight-decay` has no value: give a number or `sigma=rms`",
                self.name()
            ))),
        }
    }

    /// `||c||^2`.
    fn sum_of_squares(&self) -> f64 {
        let mut sum = 0.0;
        each_block(self.dimension(), |block, values| {
            self.center(block, values);
            sum += dot(values, values);
        });
        sum
    }

    /// Decides what is kept in memory and how the work is spread.
    ///
    /// # Errors
    /// When it cannot fit.
    fn resources(&self, needs: Needs, session: &Session) -> Result<Resources, Error> {
        Ok(Resources::automatic(self.dimension(), &needs, session))
    }

    /// The cost on rays.
    ///
    /// # Errors
    /// When it cannot be set up.
    fn objective(&self, resources: &Resources) -> Result<BoxedObjective<'_>, Error>;

    /// The cost with its gradients.
    ///
    /// # Errors
    /// When there are none, or it cannot be set up.
    fn differentiable(&self, resources: &Resources) -> Result<BoxedDifferentiable<'_>, Error> {
        let _ = resources;
        Err(no_gradients(self.name()))
    }

    /// The cost with its gradients and scores.
    ///
    /// # Errors
    /// When there are none, or it cannot be set up.
    fn scores(&self, resources: &Resources) -> Result<BoxedScores<'_>, Error> {
        let _ = resources;
        Err(no_scores(self.name()))
    }

    /// The same around another center.
    ///
    /// # Errors
    /// As [`Subject::scores`].
    fn scores_around(&self, moving: Moving, resources: &Resources) -> Result<BoxedScores<'_>, Error> {
        let _ = (moving, resources);
        Err(no_scores(self.name()))
    }

    /// The center with the tensors that move, where there are tensors.
    fn moving(&self) -> Option<&Moving> {
        None
    }

    /// The cost in coordinates in which it is less stiff, where there are any.
    ///
    /// # Errors
    /// When it cannot be set up.
    fn rotated(&self, resources: &Resources) -> Result<Option<RotatedCost<'_>>, Error> {
        let _ = resources;
        Ok(None)
    }

    /// Bytes that a gradient takes beside the cost.
    fn gradient_bytes(&self, threads: NonZeroUsize) -> u64 {
        let _ = threads;
        8 * self.dimension() as u64
    }

    /// Names and shapes of the parameters, for files with one tensor each.
    fn layout(&self) -> ParameterLayout {
        ParameterLayout::new([("weights".to_owned(), vec![self.dimension()])])
    }

    /// Names of all parameters that such files may have, those that do not move included.
    fn has_parameter(&self, name: &str) -> bool {
        self.layout().parameters().iter().any(|parameter| parameter.name == name)
    }

    /// Hash of the center, for files that belong to it.
    fn center_hash(&self) -> String {
        let mut hasher = Sha256::new();
        each_block(self.dimension(), |block, values| {
            self.center(block, values);
            values.iter().for_each(|value| hasher.update(value.to_le_bytes()));
        });
        hexadecimal(&hasher.finalize())
    }

    /// Classes of the rows of the data.
    fn labels(&self) -> Option<&[u32]> {
        None
    }

    /// The moments of Adam that a training left, of the parameters that move. They may have to be fetched.
    ///
    /// # Errors
    /// When they are there but cannot be read.
    fn moments(&self, session: &Session) -> Result<Option<Moments>, Error> {
        _ = session;
        Ok(None)
    }

    /// Where moments were looked for, in words.
    fn moments_place(&self) -> String {
        self.name().to_owned()
    }
}

fn each_block(dimension: usize, mut work: impl FnMut(Range<usize>, &mut [f32])) {
    let mut buffer = vec![0.0f32; dimension.min(BLOCK)];
    for start in (0..dimension).step_by(BLOCK) {
        let block = start..(start + BLOCK).min(dimension);
        let length = block.len();
        work(block, &mut buffer[..length]);
    }
}

/// The root mean square of so many weights; `which` says what they are.
pub(crate) fn rms(sum_of_squares: f64, dimension: usize, which: &str) -> Result<ChosenSigma, Error> {
    let sigma = (sum_of_squares / dimension as f64).sqrt();
    if sigma > 0.0 {
        Ok(ChosenSigma { sigma, choice: "rms" })
    } else {
        Err(Error::failed(format!("{which} are zero, so `sigma=rms` is zero: give `sigma` a value")))
    }
}

/// There are no gradients.
pub(crate) fn no_gradients(name: &str) -> Error {
    Error::usage(format!("{name} has a cost without a gradient, which every other estimator needs: use `estimator=radial`"))
}

/// There are no scores.
pub(crate) fn no_scores(name: &str) -> Error {
    Error::usage(format!(
        "{name} does not give the scores of its single positions, which curvatures are computed from: use `preconditioner=none` or a file"
    ))
}

/// A cost that comes from somewhere else: a closure, a module of another framework.
#[derive(Clone)]
pub struct Foreign {
    name: String,
    record: Map<String, Value>,
    cost: ForeignCost,
}

/// The cost, as much of it as there is.
#[derive(Clone)]
enum ForeignCost {
    OnRays(Arc<dyn Objective + Send + Sync>),
    WithGradients(Arc<dyn Differentiable + Send + Sync>),
}

impl std::fmt::Debug for Foreign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Foreign").field("name", &self.name).field("dimension", &self.dimension()).finish_non_exhaustive()
    }
}

impl Foreign {
    /// A cost on rays alone. Runs with equal `record` (beside name and center) are taken for the same.
    pub fn on_rays(name: impl Into<String>, record: Map<String, Value>, cost: Arc<dyn Objective + Send + Sync>) -> Self {
        Self { name: name.into(), record, cost: ForeignCost::OnRays(cost) }
    }

    /// A cost with gradients.
    pub fn with_gradients(name: impl Into<String>, record: Map<String, Value>, cost: Arc<dyn Differentiable + Send + Sync>) -> Self {
        Self { name: name.into(), record, cost: ForeignCost::WithGradients(cost) }
    }

    fn as_objective(&self) -> &(dyn Objective + Send + Sync) {
        match &self.cost {
            ForeignCost::OnRays(cost) => &**cost,
            ForeignCost::WithGradients(cost) => &**cost,
        }
    }
}

impl Center for Foreign {
    fn dimension(&self) -> usize {
        self.as_objective().dimension()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        self.as_objective().center(range, out);
    }
}

impl Subject for Foreign {
    fn name(&self) -> &str {
        &self.name
    }

    fn record(&self) -> Map<String, Value> {
        let mut record = self.record.clone();
        record.insert("model".to_owned(), json!({ "name": self.name, "center_sha256": self.center_hash() }));
        record.entry("data").or_insert_with(|| json!({ "name": "its own data" }));
        record
    }

    fn offers(&self) -> Offers {
        Offers { gradients: matches!(self.cost, ForeignCost::WithGradients(_)), ..Offers::default() }
    }

    fn objective(&self, _resources: &Resources) -> Result<BoxedObjective<'_>, Error> {
        // A guard that is never raised is the cost itself.
        Ok(Box::new(Guarded::new(self.as_objective(), &Interrupt::new())))
    }

    fn differentiable(&self, _resources: &Resources) -> Result<BoxedDifferentiable<'_>, Error> {
        match &self.cost {
            ForeignCost::OnRays(_) => Err(no_gradients(&self.name)),
            ForeignCost::WithGradients(cost) => Ok(Box::new(Guarded::new(&**cost, &Interrupt::new()))),
        }
    }
}
