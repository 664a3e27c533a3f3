//! A model under a prior around another one of the same shape: the base that it was fine-tuned from.
//!
//! Its description length is then that of the fine-tuning: what has to be said to whoever has the base.

use std::num::NonZeroUsize;
use std::ops::Range;

use basin_volume::center::Center;
use basin_volume::prior_mean::AroundMean;
use basin_volume_models::checkpoint::Moments;
use basin_volume_models::parameters::ParameterLayout;
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::loaded::Loaded;
use crate::model::Model;
use crate::request::{CostRequest, Device, Estimate, PriorKind, Sigma};
use crate::resources::{Needs, Resources};
use crate::session::Session;
use crate::subject::{BoxedDifferentiable, BoxedObjective, ChosenSigma, Defaults, Offers, Subject, rms};

/// A model under a prior whose mean is another one.
#[derive(Debug)]
pub struct AroundBase {
    model: Loaded,
    base_name: String,
    base_record: Value,
    /// The base where the model's weights move: a copy, because a gradient needs it at once, wherever the base is stored.
    mean: Vec<f32>,
    sum_of_squares: f64,
}

/// Refuses what a prior with a mean cannot have.
///
/// # Errors
/// [`Error::Usage`].
pub fn check(estimate: &Estimate, cost: &CostRequest) -> Result<(), Error> {
    let Some(base) = &estimate.prior_mean else { return Ok(()) };
    if estimate.ask.prior != PriorKind::Gaussian {
        return Err(Error::usage(format!("`prior_mean={base}` moves the mean of a Gaussian: leave `prior` out")));
    }
    if cost.data.data.len() > 1 {
        return Err(Error::usage("`prior_mean` is for one `data`: leave all but one out"));
    }
    if cost.cost.device.is_some_and(|device| device != Device::Cpu) {
        return Err(Error::usage("`prior_mean` is for the CPU: leave `device` out"));
    }
    if estimate.ask.sigma == Some(Sigma::WeightDecay) {
        return Err(Error::usage(
            "`sigma=weight-decay` is of a prior around zero: give a number, or `sigma=rms`, which is that of the difference",
        ));
    }
    Ok(())
}

impl AroundBase {
    /// The model with its prior around the base of this name.
    ///
    /// # Errors
    /// When there is no such model, or it has other tensors.
    pub fn load(model: Loaded, base: &str, request: &CostRequest, session: &Session) -> Result<Self, Error> {
        let found = Model::resolve(base, session)?;
        let (own, other) = (model.moving.center().layout(), found.checkpoint.parameters.layout());
        if own != other {
            let differs = own.parameters().iter().zip(other.parameters()).find(|(own, other)| own != other);
            let words = differs.map_or_else(
                || format!("{} tensors and {}", own.parameters().len(), other.parameters().len()),
                |(own, other)| format!("{} {:?} and {} {:?}", own.name, own.shape, other.name, other.shape),
            );
            return Err(Error::usage(format!(
                "`prior_mean={base}` is another network than {}, which has {words}: give the model that it was fine-tuned from",
                model.name()
            )));
        }
        let moving = found.moving(request)?;
        let mut mean = vec![0.0; moving.dimension()];
        moving.fill(0..mean.len(), &mut mean);
        let mut around = Self { model, base_name: found.name.clone(), base_record: found.record(), mean, sum_of_squares: 0.0 };
        let mut difference = vec![0.0f32; around.mean.len()];
        around.center(0..difference.len(), &mut difference);
        around.sum_of_squares = difference.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        Ok(around)
    }
}

impl Center for AroundBase {
    fn dimension(&self) -> usize {
        self.mean.len()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        self.model.center(range.clone(), out);
        out.iter_mut().zip(&self.mean[range]).for_each(|(c, m)| *c -= m);
    }
}

impl Subject for AroundBase {
    fn name(&self) -> &str {
        self.model.name()
    }

    fn record(&self) -> Map<String, Value> {
        let mut record = self.model.record();
        record.insert("prior_mean".to_owned(), json!({ "name": self.base_name, "model": self.base_record }));
        record
    }

    fn provenance(&self) -> Map<String, Value> {
        self.model.provenance()
    }

    fn observations(&self) -> Option<usize> {
        self.model.observations()
    }

    fn data_words(&self) -> Option<String> {
        self.model.data_words()
    }

    /// Scores and coordinates are those of weights, and not of differences.
    fn offers(&self) -> Offers {
        let Offers { gradients, parts, memory, one_gradient, .. } = self.model.offers();
        Offers { gradients, parts, memory, one_gradient, ..Offers::default() }
    }

    fn defaults(&self) -> Defaults {
        Defaults::default()
    }

    fn sigma(&self, choice: Option<Sigma>) -> Result<ChosenSigma, Error> {
        match choice {
            Some(Sigma::Value(sigma)) => Ok(ChosenSigma { sigma, choice: "given" }),
            _ => rms(self.sum_of_squares, self.dimension(), "the differences from the base"),
        }
    }

    fn sum_of_squares(&self) -> f64 {
        self.sum_of_squares
    }

    fn resources(&self, needs: Needs, session: &Session) -> Result<Resources, Error> {
        self.model.resources(needs, session)
    }

    fn objective(&self, resources: &Resources) -> Result<BoxedObjective<'_>, Error> {
        Ok(self.differentiable(resources)?)
    }

    fn differentiable(&self, resources: &Resources) -> Result<BoxedDifferentiable<'_>, Error> {
        Ok(Box::new(AroundMean::new(self.model.differentiable(resources)?, &self.mean)))
    }

    fn gradient_bytes(&self, threads: NonZeroUsize) -> u64 {
        // The weights themselves, once for every thread.
        self.model.gradient_bytes(threads) + 4 * self.dimension() as u64 * threads.get() as u64
    }

    fn layout(&self) -> ParameterLayout {
        self.model.layout()
    }

    fn has_parameter(&self, name: &str) -> bool {
        self.model.has_parameter(name)
    }

    fn center_hash(&self) -> String {
        self.model.center_hash()
    }

    fn labels(&self) -> Option<&[u32]> {
        self.model.labels()
    }

    fn moments(&self, session: &Session) -> Result<Option<Moments>, Error> {
        self.model.moments(session)
    }

    fn moments_place(&self) -> String {
        self.model.moments_place()
    }
}
