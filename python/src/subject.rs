//! A subject whose cost is Python's.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};

use basin_volume::center::Center;
use basin_volume::direction::Direction;
use basin_volume::estimator::radial::Directions;
use basin_volume::guarded::Guarded;
use basin_volume::interrupt::Interrupt;
use basin_volume::objective::{Cost, CostByPart, Differentiable, Objective, ObjectiveError, RayPoint};
use basin_volume::vectors::{Slices, Vector as VolumeVector, Vectors, View};
use basin_volume_engine::error::Error;
use basin_volume_engine::resources::{Needs, Resources, workers};
use basin_volume_engine::session::Session;
use basin_volume_engine::subject::{BoxedDifferentiable, BoxedObjective, BoxedScores, Offers, Subject as EngineSubject};
use basin_volume_models::parameters::{Moving, ParameterLayout, Parameters};
use pyo3::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::device::DeviceVectors;
use crate::error::{UsageError, request};
use crate::mailbox::{Answer, Mailbox, Message, What, cost_of, unexpected};
use crate::scores::{Dense, PythonScores};
use crate::vectors::Borrowed;

/// The share of the memory that may be used which a direction may take to be kept, instead of being drawn twice.
const KEPT_SHARE: u64 = 20;

/// What Python says of a subject.
#[derive(Debug, Clone, Deserialize)]
pub struct Description {
    name: String,
    /// What identifies model, data and cost; the center's hash is added.
    record: Map<String, Value>,
    provenance: Map<String, Value>,
    /// Names and shapes of the parameters.
    layout: Vec<(String, Vec<usize>)>,
    parts: usize,
    pub(crate) positions: usize,
    has_gradients: bool,
    has_scores: bool,
    has_parts: bool,
    /// Whether Python makes directions itself, on the device of its weights.
    #[serde(default)]
    makes_directions: bool,
    /// Whether Python keeps the states of chains where its weights are.
    #[serde(default)]
    keeps_vectors: bool,
    #[serde(default)]
    pub(crate) dense: Vec<Dense>,
}

/// What is measured, as Python describes it: its settings as JSON and its center, a buffer of float32 that nobody writes to any more.
#[pyclass(frozen, name = "Subject")]
pub struct Subject {
    description: Description,
    center: Arc<Borrowed>,
}

#[pymethods]
impl Subject {
    #[new]
    fn new(description: &str, center: &Bound<'_, PyAny>) -> PyResult<Self> {
        let description: Description = request(description)?;
        let center = Arc::new(Borrowed::new(center)?);
        let layout = ParameterLayout::new(description.layout.clone());
        if layout.dimension() != center.len() {
            let message = format!("`center` has {} entries, but the parameters {}", center.len(), layout.dimension());
            return Err(UsageError::new_err(message));
        }
        Ok(Self { description, center })
    }

    /// Number of weights.
    #[getter]
    fn dimension(&self) -> usize {
        self.center.len()
    }
}

impl Subject {
    /// The subject whose calls go to this mailbox.
    pub fn with_mailbox(&self, number: usize, sender: Sender<Message>) -> PythonSubject {
        let mailbox = Mailbox::new(number, self.description.makes_directions, sender);
        PythonSubject {
            vectors: self.description.keeps_vectors.then(|| DeviceVectors::new(mailbox.line().clone())),
            layout: ParameterLayout::new(self.description.layout.clone()),
            description: self.description.clone(),
            center: Arc::clone(&self.center),
            mailbox,
            moving: OnceLock::new(),
            hash: OnceLock::new(),
        }
    }
}

/// A subject whose cost is evaluated by whoever waits at the other end of the mailbox.
pub struct PythonSubject {
    pub(crate) description: Description,
    layout: ParameterLayout,
    center: Arc<Borrowed>,
    pub(crate) mailbox: Mailbox,
    /// Where the states of chains live, if not here.
    vectors: Option<DeviceVectors>,
    moving: OnceLock<Moving>,
    hash: OnceLock<String>,
}

impl PythonSubject {
    /// The center as the curvatures want it. A copy, made when the first one asks.
    fn made_moving(&self) -> &Moving {
        self.moving.get_or_init(|| Parameters::new(self.layout.clone(), self.center.to_vec()).into())
    }
}

impl Center for PythonSubject {
    fn dimension(&self) -> usize {
        self.center.len()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        out.copy_from_slice(&self.center[range]);
    }
}

impl Objective for PythonSubject {
    fn cost(&self, direction: &Direction, point: RayPoint) -> Result<Cost, ObjectiveError> {
        cost_of(self.mailbox.ask_on_ray(direction, point, false)?)
    }

    fn cost_by_part(&self, direction: &Direction, point: RayPoint) -> Result<Option<CostByPart>, ObjectiveError> {
        match self.mailbox.ask_on_ray(direction, point, true)? {
            Answer::Parts(parts) => Ok(parts),
            _ => Err(unexpected()),
        }
    }
}

impl Differentiable for PythonSubject {
    fn parts(&self) -> usize {
        self.description.parts
    }

    fn gradient(&self, weights: &[f32], parts: Range<usize>, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        self.mailbox.gradient(What::Gradient { weights: weights.to_vec(), parts }, gradient)
    }

    fn cost_at(&self, weights: &[f32]) -> Result<Cost, ObjectiveError> {
        self.mailbox.cost(What::Cost { weights: weights.to_vec() })
    }

    fn vectors(&self) -> &dyn Vectors {
        match &self.vectors {
            Some(vectors) => vectors,
            None => &Slices,
        }
    }

    fn gradient_of(&self, weights: View<'_>, gradient: &mut VolumeVector) -> Result<f64, ObjectiveError> {
        match &self.vectors {
            Some(vectors) => vectors.gradient(weights, gradient),
            None => self.gradient(weights.slice(), 0..self.description.parts, gradient.slice_mut()),
        }
    }

    fn cost_of(&self, weights: View<'_>) -> Result<Cost, ObjectiveError> {
        match &self.vectors {
            Some(vectors) => vectors.cost(weights),
            None => self.cost_at(weights.slice()),
        }
    }

    fn likelihood_gradient(&self, weights: &[f32], parts: Range<usize>, seed: u64, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        let what = What::Likelihood { weights: weights.to_vec(), parts, seed, of_data: false };
        self.mailbox.gradient(what, gradient)
    }
}

impl EngineSubject for PythonSubject {
    fn name(&self) -> &str {
        &self.description.name
    }

    fn record(&self) -> Map<String, Value> {
        let mut record = self.description.record.clone();
        let model = record.entry("model").or_insert_with(|| json!({ "name": self.description.name }));
        if let Value::Object(model) = model {
            model.insert("center_sha256".to_owned(), json!(self.center_hash()));
        }
        record
    }

    fn provenance(&self) -> Map<String, Value> {
        self.description.provenance.clone()
    }

    fn observations(&self) -> Option<usize> {
        Some(self.description.positions)
    }

    fn offers(&self) -> Offers {
        let Description { has_gradients: gradients, has_scores: scores, has_parts: parts, .. } = self.description;
        // Python is called one call at a time.
        Offers { gradients, scores, parts, one_gradient: true, ..Offers::default() }
    }

    fn resources(&self, needs: Needs, session: &Session) -> Result<Resources, Error> {
        let automatic = Resources::automatic(self.dimension(), &needs, session);
        let direction = 4 * self.dimension() as u64;
        // What is made on a device need not be kept here: it is drawn once more here for its norm alone.
        let is_kept = !self.description.makes_directions && direction <= automatic.allowed / KEPT_SHARE;
        let directions = if is_kept { Directions::Kept } else { Directions::Regenerated };
        Ok(Resources { directions, workers: workers(NonZeroUsize::MIN, session.threads), ..automatic })
    }

    fn objective(&self, _resources: &Resources) -> Result<BoxedObjective<'_>, Error> {
        // A guard that is never raised is the cost itself.
        Ok(Box::new(Guarded::new(self, &Interrupt::new())))
    }

    fn differentiable(&self, _resources: &Resources) -> Result<BoxedDifferentiable<'_>, Error> {
        if !self.description.has_gradients {
            let name = self.name();
            return Err(Error::usage(format!(
                "{name} has a cost without a gradient, which every other estimator needs: use `estimator=radial`"
            )));
        }
        Ok(Box::new(Guarded::new(self, &Interrupt::new())))
    }

    fn scores(&self, resources: &Resources) -> Result<BoxedScores<'_>, Error> {
        self.scores_around(self.made_moving().clone(), resources)
    }

    fn scores_around(&self, moving: Moving, _resources: &Resources) -> Result<BoxedScores<'_>, Error> {
        if !self.description.has_scores {
            return Err(Error::usage(format!(
                "{} does not give the scores of its single positions, which curvatures are computed from: use `preconditioner=none` or a file",
                self.name()
            )));
        }
        Ok(Box::new(PythonScores::new(self, moving)))
    }

    fn moving(&self) -> Option<&Moving> {
        self.description.has_scores.then(|| self.made_moving())
    }

    fn layout(&self) -> ParameterLayout {
        self.layout.clone()
    }

    fn center_hash(&self) -> String {
        self.hash.get_or_init(|| Parameters::new(self.layout.clone(), self.center.to_vec()).hash()).clone()
    }
}
