//! The same cost as [`crate::cost::LanguageModelKl`], with its gradients, for accelerators.
//!
//! Center, working copy and direction live on the device; of every evaluation only one number per position comes back. Nothing in this file
//! knows which device it is.

mod cut;
mod gradient;
mod normals;
mod vectors;
mod weights;

use std::ops::Range;
use std::sync::OnceLock;

use basin_volume::center::Center;
use basin_volume::direction::Direction;
use basin_volume::objective::{Cost, CostByPart, Objective, ObjectiveError, RayPoint};
use basin_volume_data::tokens::TokenSequences;
use candle_core::{D, DType, Device, Result as CandleResult, Tensor};

use self::vectors::TensorVectors;
use self::weights::DeviceWeights;
use super::decoder::{Sequences, Tensors};
use super::head::{divergence_terms, log_softmax};
use crate::arch::LanguageModel;
use crate::cost::language_model_kl::{checked_lengths, grouped, means};
use crate::cost::{Accelerator, CenterOutputs, CostError, LOGITS, Noise, OnDevice, Precision};
use crate::parameters::{Moving, Parameter};

/// `C(w) = mean over the kept positions of KL(p_c(.|x) || p_w(.|x))`, in nats, of a causal language model on a device of candle.
///
/// Weights are combined in `f64` where the device has it (metal has not: there the step along a ray is rounded to `f32`), then rounded to
/// the precision of the forward pass, `f32` or `bf16`. What follows the logits is `f32`, with a divergence whose terms are all nonnegative;
/// positions are summed in `f64` in order. Results are those of the device: they agree with the CPU's to within the stated resolution.
#[derive(Debug)]
pub struct LanguageModelTensorKl {
    pub(crate) model: LanguageModel,
    pub(crate) moving: Moving,
    pub(crate) tokens: TokenSequences,
    device: Device,
    dtype: DType,
    weights: DeviceWeights,
    vectors: TensorVectors,
    groups: Vec<Group>,
    outputs: CenterOutputs,
    kept: usize,
    noise: Noise,
    /// What the center's head reads, `[positions, head inputs]`; made for the first gradient.
    center_states: OnceLock<Tensor>,
}

struct Group {
    sequences: Sequences,
    /// Kept positions of the group, and the sequence of each counted over all groups.
    positions: Tensor,
    sequence_of: Vec<usize>,
    /// Log-probabilities or states of the center, in tiles of positions.
    center: Vec<Tensor>,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("positions", &self.sequence_of.len()).finish_non_exhaustive()
    }
}

fn device(accelerator: Accelerator) -> CandleResult<Device> {
    match accelerator {
        Accelerator::Cuda { card } => Device::new_cuda(card),
        Accelerator::Metal => Device::new_metal(0),
        Accelerator::Processor => Ok(Device::Cpu),
    }
}

fn dtype(precision: Precision) -> DType {
    match precision {
        Precision::F32 => DType::F32,
        Precision::Bf16 => DType::BF16,
    }
}

impl LanguageModelTensorKl {
    /// [`LanguageModelTensorKl::new`] on this accelerator.
    ///
    /// # Errors
    /// As there; and when this program was not built for the accelerator, or the machine has none.
    pub fn on(
        accelerator: Accelerator,
        precision: Precision,
        model: &LanguageModel,
        moving: impl Into<Moving>,
        tokens: &TokenSequences,
        keeps: OnDevice,
    ) -> Result<Self, CostError> {
        Self::new(model, moving, tokens, keeps, &device(accelerator)?, dtype(precision))
    }

    /// The cost of `model` around a center over the kept positions of `tokens`, on `device`, with forward passes in `dtype`.
    ///
    /// # Errors
    /// As [`crate::cost::LanguageModelKl::new`]; and when the device fails.
    pub fn new(
        model: &LanguageModel,
        moving: impl Into<Moving>,
        tokens: &TokenSequences,
        keeps: OnDevice,
        device: &Device,
        dtype: DType,
    ) -> Result<Self, CostError> {
        let moving = moving.into();
        let lengths = checked_lengths(model, &moving, tokens)?;
        let mut cost = Self {
            model: model.clone(),
            weights: DeviceWeights::new(&moving, device, dtype, keeps.direction)?,
            vectors: TensorVectors::new(device),
            moving,
            tokens: tokens.clone(),
            device: device.clone(),
            dtype,
            groups: Vec::new(),
            outputs: keeps.center_outputs,
            kept: tokens.kept_count(),
            noise: Noise::floor(),
            center_states: OnceLock::new(),
        };
        cost.enter()?;
        let mut weights = cost.moving.center().values().into_owned();
        cost.noise =
            Noise::measure(model, &mut weights, tokens.sequence(0).ids, |weights, ids| cost.logits(weights, ids).unwrap_or_default());
        drop(weights);
        let own = cost.weights.center(&cost.moving, |_| true)?;
        for group in grouped(&lengths) {
            let group = cost.group(group, &own)?;
            cost.groups.push(group);
        }
        Ok(cost)
    }

    /// The rounding noise as measured at construction, on this device.
    #[must_use]
    pub fn noise(&self) -> Noise {
        self.noise
    }

    /// Lets this thread use the device: CUDA knows its context thread by thread, and candle binds it in some operations only.
    #[cfg_attr(not(feature = "cuda"), allow(clippy::unused_self, clippy::unnecessary_wraps))]
    fn enter(&self) -> CandleResult<()> {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(device) = &self.device {
            device.cuda_stream().context().bind_to_thread().map_err(candle_core::Error::wrap)?;
        }
        Ok(())
    }

    fn tensors<'a>(&'a self, weights: &'a [Option<Tensor>]) -> Tensors<'a> {
        Tensors { layout: self.moving.center().layout(), tensors: weights, taps: None }
    }

    fn is_head(&self, parameter: &Parameter) -> bool {
        let head = &self.model.decoder().head;
        let range = parameter.range();
        range == head.weight || Some(&range) == head.bias.as_ref()
    }

    /// What the head reads at every position.
    fn states(&self, tensors: Tensors<'_>, sequences: &Sequences) -> CandleResult<Tensor> {
        self.model.decoder().tensor_states(tensors, sequences)
    }

    /// The logits of states `[positions, head inputs]`, `f32`.
    fn head(&self, tensors: Tensors<'_>, states: &Tensor) -> CandleResult<Tensor> {
        self.model.decoder().tensor_head(tensors)?.logits(states)
    }

    /// All logits of a short sequence at weights in memory, for the measurement of the noise.
    fn logits(&self, weights: &[f32], ids: &[u32]) -> CandleResult<Vec<f64>> {
        let layout = self.moving.center().layout();
        let tensors = layout
            .unflatten(weights)
            .map(|(parameter, values)| Tensor::from_slice(values, parameter.shape.as_slice(), &self.device)?.to_dtype(self.dtype).map(Some))
            .collect::<CandleResult<Vec<_>>>()?;
        let tensors = self.tensors(&tensors);
        let states = self.states(tensors, &Sequences::new(self.model.decoder(), ids, &[ids.len()], &self.device)?)?;
        let logits = self.head(tensors, &states)?;
        Ok(logits.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f64::from).collect())
    }

    /// Positions whose logits fit together.
    fn tile(&self) -> usize {
        (LOGITS / self.model.vocabulary()).max(1)
    }

    fn group(&self, sequences: Range<usize>, own: &[Option<Tensor>]) -> Result<Group, CostError> {
        let (decoder, tokens) = (self.model.decoder(), &self.tokens);
        let places = tokens.offsets()[sequences.start]..tokens.offsets()[sequences.end];
        let lengths: Vec<usize> = sequences.clone().map(|sequence| tokens.sequence(sequence).ids.len()).collect();
        let kept: Vec<usize> = places.clone().filter(|&position| tokens.kept()[position]).collect();
        let sequence_of: Vec<usize> = kept.iter().map(|position| tokens.offsets().partition_point(|o| o <= position) - 1).collect();
        let build = || -> CandleResult<(Group, Option<usize>)> {
            let batch = Sequences::new(decoder, &tokens.ids()[places.clone()], &lengths, &self.device)?;
            let rows: Vec<u32> = kept.iter().map(|position| (position - places.start) as u32).collect();
            let positions = Tensor::from_slice(&rows, rows.len(), &self.device)?;
            let tensors = self.tensors(own);
            let states = self.states(tensors, &batch)?.index_select(&positions, 0)?;
            let (mut center, mut bad) = (Vec::new(), None);
            for start in (0..kept.len()).step_by(self.tile()) {
                let states = states.narrow(0, start, self.tile().min(kept.len() - start))?.contiguous()?;
                let logs = self.log_probabilities(tensors, &states)?;
                // A NaN or infinite logit makes the sum of its row NaN.
                let sums = logs.exp()?.sum(D::Minus1)?.to_vec1::<f32>()?;
                bad = bad.or_else(|| sums.iter().position(|sum| !sum.is_finite()).map(|row| start + row));
                center.push(if self.outputs == CenterOutputs::Logits { logs } else { states });
            }
            Ok((Group { sequences: batch, positions, sequence_of: sequence_of.clone(), center }, bad))
        };
        match build()? {
            (group, None) => Ok(group),
            (_, Some(row)) => {
                let sequence = sequence_of[row];
                let position = kept[row] - tokens.offsets()[sequence];
                Err(CostError::CenterTokens { dataset: tokens.name().to_owned(), sequence: sequence + 1, position: position + 1 })
            }
        }
    }

    /// `log softmax` of the logits, `f32`.
    fn log_probabilities(&self, tensors: Tensors<'_>, states: &Tensor) -> CandleResult<Tensor> {
        log_softmax(&self.head(tensors, states)?)
    }

    /// The divergence of every kept position at weights in the type of the forward pass.
    fn positions(&self, weights: &[Option<Tensor>]) -> CandleResult<Vec<f64>> {
        let tensors = self.tensors(weights);
        // Only states need the center's own head again.
        let own = match self.outputs {
            CenterOutputs::States => Some(self.weights.center(&self.moving, |parameter| self.is_head(parameter))?),
            CenterOutputs::Logits => None,
        };
        let mut all = Vec::with_capacity(self.kept);
        for group in &self.groups {
            let states = self.states(tensors, &group.sequences)?.index_select(&group.positions, 0)?;
            let mut start = 0;
            for kept in &group.center {
                let count = kept.dim(0)?;
                let log_q = self.log_probabilities(tensors, &states.narrow(0, start, count)?.contiguous()?)?;
                let log_p = match &own {
                    Some(own) => self.log_probabilities(self.tensors(own), kept)?,
                    None => kept.clone(),
                };
                let divergences = divergence_terms(&log_p, &log_q)?.sum(D::Minus1)?.to_vec1::<f32>()?;
                all.extend(divergences.into_iter().map(f64::from));
                start += count;
            }
        }
        Ok(all)
    }

    fn evaluate(&self, direction: &Direction, point: RayPoint) -> Result<Vec<f64>, ObjectiveError> {
        self.enter()
            .and_then(|()| self.weights.at(&self.moving, direction, point))
            .and_then(|weights| self.positions(&weights))
            .map_err(|error| ObjectiveError::new(CostError::from(error)))
    }

    fn mean(&self, positions: &[f64]) -> Cost {
        let nats = positions.iter().sum::<f64>() / self.kept as f64;
        Cost { nats, resolution: self.noise.resolution(nats, self.kept) }
    }
}

impl Center for LanguageModelTensorKl {
    fn dimension(&self) -> usize {
        self.moving.dimension()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        self.moving.fill(range, out);
    }
}

impl Objective for LanguageModelTensorKl {
    fn cost(&self, direction: &Direction, point: RayPoint) -> Result<Cost, ObjectiveError> {
        Ok(self.mean(&self.evaluate(direction, point)?))
    }

    fn cost_by_part(&self, direction: &Direction, point: RayPoint) -> Result<Option<CostByPart>, ObjectiveError> {
        let positions = self.evaluate(direction, point)?;
        let sequences = self.groups.iter().flat_map(|group| &group.sequence_of);
        let parts = means(self.tokens.count(), &positions, sequences, self.noise);
        Ok(Some(CostByPart { whole: self.mean(&positions), parts }))
    }
}

#[cfg(test)]
mod tests;
