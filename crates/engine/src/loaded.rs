//! A model of our own with its data: the subject that a command line and a name ask for.

use std::num::NonZeroUsize;
use std::ops::Range;

use basin_volume::center::Center;
use basin_volume::estimator::radial::PartNote;
use basin_volume::preconditioner::DiagonalMap;
use basin_volume::spec::Metric;
use basin_volume_models::arch::Network;
use basin_volume_models::checkpoint::Moments;
use basin_volume_models::cost::{self, Accelerator, ImageKl, LanguageModelKl, Precision, RotatedLanguageModelKl};
use basin_volume_models::memory::{self, Beside, Card, Plan};
use basin_volume_models::parameters::{Moving, ParameterLayout};
use serde_json::{Map, Value, json};

use crate::data::{Data, data_needed, resolve_data};
use crate::digits::Builtin;
use crate::error::Error;
use crate::model::Model;
use crate::request::{ComponentNames, CostRequest, Device, Dtype, Sigma};
use crate::resources::{Needs, Resources};
use crate::session::Session;
use crate::subject::{BoxedDifferentiable, BoxedObjective, BoxedScores, ChosenSigma, Defaults, Offers, Rotated, RotatedCost, Subject};

/// Exponent and eps of the reference's notebook on the digits network.
const DIGITS_MAP: DiagonalMap = DiagonalMap { exponent: 0.3, eps: 2e-3 };

/// A model with its data and the weights that move.
#[derive(Debug)]
pub struct Loaded {
    /// The model.
    pub model: Model,
    /// The center, and what moves.
    pub moving: Moving,
    /// The data.
    pub data: Data,
    record: Map<String, Value>,
    placement: Placement,
}

/// Where forward passes run, and in which precision.
#[derive(Debug, Clone, Copy)]
pub struct Placement {
    /// None for the processor.
    pub accelerator: Option<Accelerator>,
    /// Of the weights.
    pub precision: Precision,
}

impl Placement {
    /// Understands what is asked for. Of several tasks on a machine every one has a card of its own, where there are as many.
    ///
    /// # Errors
    /// For devices and precisions that this program was not built with.
    pub fn of(request: &CostRequest, session: &Session) -> Result<Self, Error> {
        let dtype = request.cost.dtype.unwrap_or_default();
        let device = request.cost.device.unwrap_or_default();
        let accelerator = match device {
            Device::Cpu if dtype == Dtype::Bf16 => {
                return Err(Error::usage("`dtype=bf16` needs a device that multiplies it, which the CPU does not: use `dtype=f32`"));
            }
            Device::Cpu => None,
            Device::Cuda => Some(Accelerator::card_of(session.task_here)),
            Device::Metal => Some(Accelerator::Metal),
            Device::CpuTensors => Some(Accelerator::Processor),
        };
        if accelerator.is_some_and(|accelerator| !accelerator.is_built()) {
            let name = device.name();
            return Err(Error::usage(format!(
                "`device={name}` is not part of this build: use `device=cpu`, or build with 'cargo build --release --features {name}'"
            )));
        }
        Ok(Self { accelerator, precision: dtype.into() })
    }
}

/// Refuses settings of language models for the built-in network, before it is trained on first use.
///
/// # Errors
/// [`Error::Usage`].
pub fn check_builtin(model: &str, request: &CostRequest, session: &Session) -> Result<(), Error> {
    let memory = session.memory.map(|_| "memory");
    match request.language_model_settings().first().copied().or(memory).filter(|_| Builtin::of(model).is_some()) {
        Some(setting) => Err(Error::usage(format!("`{setting}` is for language models, but {model} is of the type \"mlp\""))),
        None => Ok(()),
    }
}

impl Loaded {
    /// Whether the cost has coordinates in which it is less stiff.
    fn has_rotated(&self) -> Rotated {
        match (&self.data, self.model.language_model()) {
            (Data::Rows(_), _) if cost::has_rotated(self.network(), &self.moving) => Rotated::AlongAxes,
            (Data::Tokens(tokens), Some(network))
                if self.placement.accelerator.is_none() && RotatedLanguageModelKl::fits(network, &self.moving, &tokens.sequences) =>
            {
                Rotated::WithDiagonal
            }
            _ => Rotated::No,
        }
    }

    /// Loads a model by its name, with the data of a request.
    ///
    /// # Errors
    /// When there is no such model, no such data, or they do not fit each other.
    pub fn load(model: &str, request: &CostRequest, session: &Session) -> Result<Self, Error> {
        let placement = Placement::of(request, session)?;
        check_builtin(model, request, session)?;
        request.data.one()?;
        let model = Model::resolve(model, session)?;
        let moving = model.moving(request)?;
        let data = resolve_data(request, &model, session)?.ok_or_else(|| data_needed(&model))?;
        if placement.accelerator.is_some() && model.language_model().is_none() {
            return Err(Error::usage("`device` is for language models: this network is evaluated on the CPU, leave it out"));
        }
        Ok(Self::of(model, moving, data, placement, request))
    }

    /// A model with the data that a request was resolved to.
    #[must_use]
    pub fn of(model: Model, moving: Moving, data: Data, placement: Placement, request: &CostRequest) -> Self {
        let record = record(&model, &moving, request, &data);
        Self { model, moving, data, record, placement }
    }

    /// The same with the weights of one component, or with all that the request lets move.
    ///
    /// # Errors
    /// When there is no such component.
    pub(crate) fn of_component(self, component: Option<&str>, request: &CostRequest) -> Result<Self, Error> {
        let mut request = request.clone();
        request.cost.component = ComponentNames::new(component.map(str::to_owned).into_iter().collect());
        let moving = self.model.moving(&request)?;
        Ok(Self::of(self.model, moving, self.data, self.placement, &request))
    }

    fn network(&self) -> Network<'_> {
        self.model.checkpoint.architecture.network()
    }

    /// What a command that needs no question asks for: the plan for rays without a preconditioner.
    ///
    /// # Errors
    /// When it cannot fit.
    pub fn plan(
        model: &Model,
        moving: &Moving,
        data: &Data,
        placement: Placement,
        needs: &Needs,
        session: &Session,
    ) -> Result<Option<Plan>, Error> {
        let beside = &needs.beside;
        let (budget, free) = (session.memory.unwrap_or_default(), memory::free_memory());
        if let (Data::Rows(rows), Some(network)) = (data, model.images()) {
            return Ok(Some(Plan::for_images(network, moving, rows.rows(), beside, session.threads, budget, free)?));
        }
        let (Data::Tokens(tokens), Some(network)) = (data, model.language_model()) else { return Ok(None) };
        let tokens = &tokens.sequences;
        Ok(Some(match placement.accelerator {
            None => Plan::new(network, moving, tokens, beside, session.threads, budget, free)?,
            Some(accelerator) => {
                let Needs { gradients, vectors, .. } = *needs;
                let card = Card { precision: placement.precision, memory: accelerator.memory(), gradients, vectors };
                // Chains are there too.
                let beside = Beside { bytes: beside.bytes.saturating_sub(vectors), ..beside.clone() };
                Plan::on_accelerator(network, moving, tokens, &beside, card, budget, free)?
            }
        }))
    }
}

/// What identifies model, data and cost in a manifest.
fn record(model: &Model, moving: &Moving, request: &CostRequest, data: &Data) -> Map<String, Value> {
    let mut record = Map::new();
    record.insert("model".to_owned(), model.record());
    record.insert("data".to_owned(), data.record());
    record.insert("cost".to_owned(), json!(format!("mean over the {} of KL(center || perturbed), nats", data.unit())));
    if !moving.is_whole() {
        let tensors = moving.layout().parameters().len();
        let mut moving = json!({ "parameters": request.cost.parameters, "exclude": request.cost.exclude, "tensors": tensors });
        if !request.cost.component.is_empty() {
            moving["component"] = json!(request.cost.component.plain());
        }
        record.insert("moving".to_owned(), moving);
    }
    // Accelerator and precision decide the last digits.
    if let Some(device) = request.cost.device.filter(|device| *device != Device::Cpu) {
        record.insert("device".to_owned(), json!({ "kind": device.name(), "precision": request.cost.dtype.unwrap_or_default() }));
    }
    record
}

impl Center for Loaded {
    fn dimension(&self) -> usize {
        self.moving.dimension()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        self.moving.fill(range, out);
    }
}

impl Subject for Loaded {
    fn name(&self) -> &str {
        &self.model.name
    }

    fn record(&self) -> Map<String, Value> {
        self.record.clone()
    }

    fn provenance(&self) -> Map<String, Value> {
        let mut notes = Map::new();
        notes.insert("model".to_owned(), self.model.provenance());
        let data = self.data.provenance();
        if !data.is_null() {
            notes.insert("data".to_owned(), data);
        }
        notes
    }

    fn observations(&self) -> Option<usize> {
        Some(match &self.data {
            Data::Rows(data) => data.rows(),
            Data::Tokens(tokens) => tokens.sequences.kept_count(),
        })
    }

    fn data_words(&self) -> Option<String> {
        Some(self.data.words())
    }

    fn parts(&self) -> Vec<PartNote> {
        match &self.data {
            Data::Rows(_) => Vec::new(),
            Data::Tokens(tokens) => tokens.parts(),
        }
    }

    fn offers(&self) -> Offers {
        let is_text = self.model.language_model().is_some();
        Offers {
            gradients: true,
            scores: true,
            rotated: self.has_rotated(),
            parts: is_text,
            // Only classifiers have factors, and their cost is quickly made.
            has_factor: !is_text,
            memory: self.model.takes_memory(),
            one_gradient: is_text,
        }
    }

    fn defaults(&self) -> Defaults {
        let Some(builtin) = self.model.builtin else {
            // Measured: docs/accuracy/language_model.md, docs/poisoned.md. Perceptrons have coordinates of their own.
            let metric = match self.data {
                Data::Tokens(_) => Metric::Diagonal,
                Data::Rows(_) => Metric::None,
            };
            return Defaults { metric, ..Defaults::default() };
        };
        // The paper's network has the settings of the reference's notebook.
        let sigma = if builtin == Builtin::DigitsMlp { Sigma::WeightDecay } else { Sigma::Rms };
        Defaults { sigma, map: DIGITS_MAP, preconditioners: vec!["none".to_owned(), "adam2".to_owned()], ..Defaults::default() }
    }

    fn sigma(&self, choice: Option<Sigma>) -> Result<ChosenSigma, Error> {
        self.model.sigma(&self.moving, choice.unwrap_or(self.defaults().sigma))
    }

    fn sum_of_squares(&self) -> f64 {
        self.moving.sum_of_squares()
    }

    fn resources(&self, needs: Needs, session: &Session) -> Result<Resources, Error> {
        Ok(match Self::plan(&self.model, &self.moving, &self.data, self.placement, &needs, session)? {
            Some(plan) => Resources::planned(plan, session.threads),
            None => Resources::automatic(self.dimension(), &needs, session),
        })
    }

    fn objective(&self, resources: &Resources) -> Result<BoxedObjective<'_>, Error> {
        Ok(self.scores(resources)?)
    }

    fn differentiable(&self, resources: &Resources) -> Result<BoxedDifferentiable<'_>, Error> {
        Ok(self.scores(resources)?)
    }

    fn scores(&self, resources: &Resources) -> Result<BoxedScores<'_>, Error> {
        self.scores_around(self.moving.clone(), resources)
    }

    fn scores_around(&self, moving: Moving, resources: &Resources) -> Result<BoxedScores<'_>, Error> {
        match (&self.data, self.model.language_model()) {
            (Data::Tokens(tokens), Some(network)) => Ok(match self.placement {
                Placement { accelerator: None, .. } => {
                    Box::new(LanguageModelKl::new(network, moving, &tokens.sequences, resources.center_outputs())?)
                }
                Placement { accelerator: Some(accelerator), precision } => {
                    let keeps = resources.on_device();
                    accelerator.cost(precision, network, moving, &tokens.sequences, keeps)?
                }
            }),
            (Data::Tokens(_), None) => Err(Error::failed(format!("{} does not read tokens", self.model.name))),
            (Data::Rows(data), _) => Ok(cost::for_rows(self.network(), moving, data)?),
        }
    }

    fn moving(&self) -> Option<&Moving> {
        Some(&self.moving)
    }

    fn rotated(&self, resources: &Resources) -> Result<Option<RotatedCost<'_>>, Error> {
        match (&self.data, self.model.language_model()) {
            (Data::Rows(data), _) => {
                let rotated = cost::rotated(self.network(), self.moving.clone(), data)?;
                Ok(rotated.map(|coordinates| RotatedCost { coordinates, positions: data.rows() }))
            }
            (Data::Tokens(tokens), Some(network)) => {
                let cost = LanguageModelKl::new(network, self.moving.clone(), &tokens.sequences, resources.center_outputs())?;
                let rotated = RotatedLanguageModelKl::new(cost)?;
                Ok(rotated.map(|rotated| RotatedCost { positions: rotated.positions(), coordinates: Box::new(rotated) }))
            }
            (Data::Tokens(_), None) => Ok(None),
        }
    }

    /// What a backward pass keeps: of a perceptron input and output of every matrix, values and gradients. On a device it is there.
    fn gradient_bytes(&self, threads: NonZeroUsize) -> u64 {
        if self.placement.accelerator.is_some() {
            // What comes back, tensor by tensor.
            return 4 * self.dimension() as u64;
        }
        if let Some(network) = self.model.images() {
            return threads.get() as u64 * ImageKl::gradient_bytes(network);
        }
        if let (Data::Tokens(tokens), Some(network)) = (&self.data, self.model.language_model()) {
            // All weights and their gradient, where only some move.
            let all = if self.moving.is_whole() { 0 } else { 8 * self.moving.center().dimension() as u64 };
            // Chains may move in coordinates, whose gradient keeps all tokens.
            let rotated = match self.has_rotated() {
                Rotated::WithDiagonal => RotatedLanguageModelKl::gradient_bytes(network, &tokens.sequences, threads.get()),
                Rotated::No | Rotated::AlongAxes => 0,
            };
            return all + rotated.max(LanguageModelKl::gradient_bytes(network, &tokens.sequences, threads.get()));
        }
        let positions = match &self.data {
            Data::Tokens(tokens) => tokens.sequences.longest() as u64,
            Data::Rows(data) => data.rows() as u64,
        };
        let matrices = self.moving.center().layout().parameters().iter().filter(|parameter| parameter.shape.len() == 2);
        let widths: u64 = matrices.map(|matrix| matrix.shape.iter().sum::<usize>() as u64).sum();
        4 * 2 * positions * widths
    }

    fn layout(&self) -> ParameterLayout {
        self.moving.layout().clone()
    }

    fn has_parameter(&self, name: &str) -> bool {
        self.moving.center().layout().parameters().iter().any(|parameter| parameter.name == name)
    }

    fn center_hash(&self) -> String {
        self.model.checkpoint.parameters.hash()
    }

    fn labels(&self) -> Option<&[u32]> {
        if let Data::Rows(data) = &self.data { data.labels() } else { None }
    }

    fn moments(&self, session: &Session) -> Result<Option<Moments>, Error> {
        let part = |full: Vec<f32>| part_of(&self.moving, full);
        Ok(self.model.moments(session)?.map(|moments| Moments { first: part(moments.first), second: part(moments.second), ..moments }))
    }

    fn moments_place(&self) -> String {
        self.model.checkpoint.folder.display().to_string()
    }
}

/// The moving part of a vector with one entry per weight of the network.
fn part_of(moving: &Moving, full: Vec<f32>) -> Vec<f32> {
    if moving.is_whole() {
        return full;
    }
    let mut part = vec![0.0; moving.dimension()];
    moving.gather(&full, &mut part);
    part
}
