//! The cost of a language model in coordinates in which the mean of what every dense layer makes stands alone: `arch::decoder::reflected`.

use std::ops::Range;
use std::sync::Mutex;

use basin_volume::center::Center;
use basin_volume::coordinates::{Coordinates, OfWeights, Straight};
use basin_volume::direction::Direction;
use basin_volume::objective::{Cost, Differentiable, Objective, ObjectiveError, RayPoint};
use basin_volume::vectors::Vector;
use basin_volume_data::tokens::TokenSequences;

use super::LanguageModelKl;
use super::center::KeptCenter;
use super::gradient::Prepared;
use crate::arch::decoder::{Given, Plan, ReflectedSpace};
use crate::arch::{GradientError, GradientSpace, LanguageModel, Rows, Target};
use crate::cost::joined::mean_of;
use crate::cost::pool::{give_back, take};
use crate::parameters::Moving;

/// [`LanguageModelKl`] in coordinates. All weights have to move, and all sequences go through the network together: what a layer reads on average is
/// known when all have passed the layers before.
///
/// The diagonal of the Fisher matrix in these coordinates is what chains have to be stretched by ([`crate::curvature::CoordinateMetrics`]).
#[derive(Debug)]
pub struct RotatedLanguageModelKl {
    cost: LanguageModelKl,
    all: Prepared,
    plan: Plan,
    /// Coordinates of the center.
    center: Vec<f32>,
    spaces: Mutex<Vec<Space>>,
}

/// What one evaluation needs.
#[derive(Debug, Default)]
struct Space {
    gradient: GradientSpace,
    reflected: ReflectedSpace,
}

impl RotatedLanguageModelKl {
    /// Whether there are coordinates: when all weights move, and what a gradient keeps of all tokens together fits.
    #[must_use]
    pub fn fits(model: &LanguageModel, moving: &Moving, tokens: &TokenSequences) -> bool {
        moving.is_whole() && model.can_reflect(tokens.ids().len())
    }

    /// The same cost in other coordinates; none where there are none ([`RotatedLanguageModelKl::fits`]).
    ///
    /// # Errors
    /// When the sequences do not fit the model.
    pub fn new(cost: LanguageModelKl) -> Result<Option<Self>, ObjectiveError> {
        if !Self::fits(&cost.model, &cost.moving, &cost.tokens) {
            return Ok(None);
        }
        let Some(all) = cost.prepare_together().map_err(ObjectiveError::new)? else { return Ok(None) };
        let mut center = vec![0.0f32; cost.moving.dimension()];
        cost.moving.fill(0..center.len(), &mut center);
        let plan = cost.model.reflection_plan(&center, &all.sequences);
        let mut rotated = Self { cost, all, plan, center: Vec::new(), spaces: Mutex::default() };
        rotated.enter(&mut center);
        rotated.center = center;
        Ok(Some(rotated))
    }

    /// Bytes of one evaluation or gradient beside cost, coordinates and gradient, on a pool of this many threads.
    #[must_use]
    pub fn gradient_bytes(model: &LanguageModel, tokens: &TokenSequences, threads: usize) -> u64 {
        model.reflected_bytes(tokens.ids().len(), tokens.longest(), threads) as u64
    }

    /// Number of positions the cost averages over.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.cost.kept
    }

    fn with_space<T>(&self, work: impl FnOnce(&mut Space) -> T) -> T {
        let mut space = take(&self.spaces);
        let result = work(&mut space);
        give_back(&self.spaces, space);
        result
    }

    fn loss(&self, coordinates: &[f32], target: Target<'_>, gradient: Option<&mut [f32]>) -> Result<f64, GradientError> {
        self.with_space(|Space { gradient: space, reflected }| {
            let model = &self.cost.model;
            let sum = model.reflected_loss(coordinates, &self.all.sequences, target, &self.plan, (space, reflected), gradient)?;
            Ok(mean_of(sum, self.cost.kept))
        })
    }

    /// The rows with which the network is passed, in what becomes of them.
    fn reflect(&self, rows: &mut [f32], given: Given) {
        self.with_space(|Space { gradient, reflected }| {
            self.cost.model.reflect(Rows { values: rows, given }, &self.all.sequences, &self.plan, gradient, reflected);
            rows.copy_from_slice(&reflected.rows);
        });
    }
}

impl Center for RotatedLanguageModelKl {
    fn dimension(&self) -> usize {
        self.cost.moving.dimension()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        out.copy_from_slice(&self.center[range]);
    }
}

impl Objective for RotatedLanguageModelKl {
    fn cost(&self, _: &Direction, _: RayPoint) -> Result<Cost, ObjectiveError> {
        Err(ObjectiveError::new("rays are straight in weights: use the cost itself"))
    }
}

/// One part: what one sequence contributes depends on the means over all.
impl Differentiable for RotatedLanguageModelKl {
    fn parts(&self) -> usize {
        1
    }

    fn gradient(&self, weights: &[f32], parts: Range<usize>, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        assert!(parts.end <= 1, "parts {parts:?} of one");
        if parts.is_empty() {
            gradient.fill(0.0);
            return Ok(0.0);
        }
        let center = KeptCenter { cost: &self.cost, first: 0 };
        self.loss(weights, Target::Center(&center), Some(gradient)).map_err(ObjectiveError::new)
    }

    fn cost_at(&self, weights: &[f32]) -> Result<Cost, ObjectiveError> {
        let center = KeptCenter { cost: &self.cost, first: 0 };
        let nats = self.loss(weights, Target::Center(&center), None).map_err(ObjectiveError::new)?;
        Ok(Cost { nats, resolution: self.cost.noise.resolution(nats, self.cost.kept) })
    }

    fn likelihood_gradient(&self, weights: &[f32], parts: Range<usize>, seed: u64, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        assert!(parts.end <= 1, "parts {parts:?} of one");
        if parts.is_empty() {
            gradient.fill(0.0);
            return Ok(0.0);
        }
        let draws = self.all.joined.draws(seed);
        self.loss(weights, Target::Drawn(&draws), Some(gradient)).map_err(ObjectiveError::new)
    }
}

impl Coordinates for RotatedLanguageModelKl {
    fn enter(&self, weights: &mut [f32]) {
        self.reflect(weights, Given::Weights);
    }

    fn leave(&self, coordinates: &mut [f32]) {
        self.reflect(coordinates, Given::Coordinates);
    }

    /// None: a diagonal metric knows all.
    fn stiff_axes(&self, _: &[&[f32]]) -> Result<Vec<(usize, f64)>, ObjectiveError> {
        Ok(Vec::new())
    }

    fn straight(&self) -> Option<&dyn Straight> {
        Some(self)
    }
}

impl Straight for RotatedLanguageModelKl {
    fn cost_of_weights(&self) -> &dyn Differentiable {
        &self.cost
    }

    fn pull_back(&self, coordinates: &[f32], gradient: &mut Vector, work: &mut OfWeights<'_>) -> Result<f64, ObjectiveError> {
        self.with_space(|Space { gradient: space, reflected }| {
            let (model, sequences) = (&self.cost.model, &self.all.sequences);
            let rows = Rows { values: coordinates, given: Given::Coordinates };
            model.reflect(rows, sequences, &self.plan, space, reflected);
            let nats = work(&reflected.rows, gradient)?;
            model.pull_back(coordinates, sequences, &self.plan, (space, reflected), gradient.slice_mut());
            Ok(nats)
        })
    }
}

#[cfg(test)]
mod tests;
