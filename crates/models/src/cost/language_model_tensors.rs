//! The same cost as [`super::LanguageModelKl`], computed with candle's tensors: for accelerators.
//!
//! Center, working copy and direction live on the device; of every evaluation only one number per position comes back. Nothing in this file
//! knows which device it is.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use basin_volume::center::Center;
use basin_volume::direction::Direction;
use basin_volume::objective::{Cost, Objective, ObjectiveError, RayPoint};
use basin_volume_data::tokens::TokenSequences;
use candle_core::{D, DType, Device, Result as CandleResult, Tensor};
use rayon::prelude::*;

use super::language_model_kl::{checked_lengths, grouped};
use super::noise::Noise;
use super::{CenterOutputs, CostError};
use crate::arch::LanguageModel;
use crate::arch::decoder::differentiable::{Sequences, TensorHead, Tensors};
use crate::parameters::{Moving, ParameterLayout};

/// A kind of device beside the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// NVIDIA: needs the crate's feature `cuda`.
    Cuda,
    /// Apple: needs the crate's feature `metal`.
    Metal,
}

impl Accelerator {
    /// Whether this program was built for it.
    #[must_use]
    pub fn is_built(self) -> bool {
        match self {
            Self::Cuda => cfg!(feature = "cuda"),
            Self::Metal => cfg!(feature = "metal"),
        }
    }
}

/// Precision of the weights and activations of a forward pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Precision {
    /// Single.
    #[default]
    F32,
    /// The upper half of single precision. Small steps along a ray vanish in its rounding: the noise is measured and stated.
    Bf16,
}

/// Logits that exist at the same time, per network.
const LOGITS: usize = 1 << 25;

/// Coordinates of a direction that one task writes for the device.
const UPLOAD: usize = 1 << 18;

/// Below this `|d|`, `expm1(d) - d` comes from its series: `f32` would cancel.
const SERIES_BOUND: f64 = 0.25;

/// `C(w) = mean over the kept positions of KL(p_c(.|x) || p_w(.|x))`, in nats, of a causal language model on a device of candle.
///
/// Weights are combined in `f64` where the device has it (metal has not: there the step along a ray is rounded to `f32`), then rounded to
/// the precision of the forward pass, `f32` or `bf16`. What follows the logits is `f32`, with a divergence whose terms are all nonnegative;
/// positions are summed in `f64` in order. Results are those of the device: they agree with the CPU's to within the stated resolution.
#[derive(Debug)]
pub struct LanguageModelTensorKl {
    model: LanguageModel,
    moving: Moving,
    device: Device,
    dtype: DType,
    /// One per parameter, `f32`.
    center: Vec<Tensor>,
    groups: Vec<Group>,
    outputs: CenterOutputs,
    sequences: usize,
    kept: usize,
    noise: Noise,
    /// The direction used last, on the device.
    direction: Mutex<Option<Uploaded>>,
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

#[derive(Debug)]
struct Uploaded {
    identity: u64,
    /// One per moving parameter, `f32`.
    tensors: Vec<Tensor>,
}

fn failed(error: candle_core::Error) -> CostError {
    CostError::Device { problem: error.to_string().lines().next().unwrap_or_default().to_owned() }
}

impl LanguageModelTensorKl {
    /// [`LanguageModelTensorKl::new`] on the first accelerator of this kind.
    ///
    /// # Errors
    /// As there; and when this program was not built for the accelerator, or the machine has none.
    pub fn on(
        accelerator: Accelerator,
        precision: Precision,
        model: &LanguageModel,
        moving: impl Into<Moving>,
        tokens: &TokenSequences,
        outputs: CenterOutputs,
    ) -> Result<Self, CostError> {
        let device = match accelerator {
            Accelerator::Cuda => Device::new_cuda(0),
            Accelerator::Metal => Device::new_metal(0),
        };
        let dtype = match precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        };
        Self::new(model, moving, tokens, outputs, &device.map_err(failed)?, dtype)
    }

    /// The cost of `model` around a center over the kept positions of `tokens`, on `device`, with forward passes in `dtype`.
    ///
    /// # Errors
    /// As [`super::LanguageModelKl::new`]; and when the device fails.
    pub fn new(
        model: &LanguageModel,
        moving: impl Into<Moving>,
        tokens: &TokenSequences,
        outputs: CenterOutputs,
        device: &Device,
        dtype: DType,
    ) -> Result<Self, CostError> {
        let moving = moving.into();
        let lengths = checked_lengths(model, &moving, tokens)?;
        let layout = moving.center().layout().clone();
        let mut scratch = Vec::new();
        let mut center = Vec::with_capacity(layout.parameters().len());
        for parameter in layout.parameters() {
            let values = moving.center().slice(parameter.range(), &mut scratch);
            center.push(Tensor::from_slice(values, parameter.shape.as_slice(), device).map_err(failed)?);
        }
        let mut cost = Self {
            model: model.clone(),
            moving,
            device: device.clone(),
            dtype,
            center,
            groups: Vec::new(),
            outputs,
            sequences: tokens.count(),
            kept: tokens.kept_count(),
            noise: Noise::floor(),
            direction: Mutex::default(),
        };
        let mut weights = cost.moving.center().values().into_owned();
        cost.noise =
            Noise::measure(model, &mut weights, tokens.sequence(0).ids, |weights, ids| cost.logits(weights, ids).unwrap_or_default());
        drop(weights);
        let own = cost.forward_weights(&cost.center).map_err(failed)?;
        for group in grouped(&lengths) {
            let group = cost.group(tokens, group, &layout, &own)?;
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

    /// The weights in the precision of the forward pass.
    fn forward_weights(&self, weights: &[Tensor]) -> CandleResult<Vec<Option<Tensor>>> {
        weights.iter().map(|weight| weight.to_dtype(self.dtype).map(Some)).collect()
    }

    /// What the head reads at every position.
    fn states(&self, tensors: Tensors<'_>, sequences: &Sequences) -> CandleResult<Tensor> {
        let decoder = self.model.decoder();
        let embedded = tensors.at(&decoder.embedding)?.index_select(sequences.ids(), 0)?;
        let places = decoder.learned_positions.as_ref().zip(sequences.places());
        let placed = places.map(|((range, _), places)| tensors.at(range)?.index_select(places, 0)).transpose()?;
        decoder.differentiable_states(tensors, sequences, &embedded, placed.as_ref())
    }

    /// The logits of states `[positions, head inputs]`, `f32`.
    fn head(&self, tensors: Tensors<'_>, states: &Tensor) -> CandleResult<Tensor> {
        let decoder = self.model.decoder();
        let weight = tensors.at(&decoder.head.weight)?.clone();
        let bias = decoder.head.bias.as_ref().map(|range| tensors.at(range).cloned()).transpose()?;
        TensorHead { weight, bias, cap: decoder.logit_cap.map(f64::from) }.logits(states)?.to_dtype(DType::F32)
    }

    /// All logits of a short sequence at weights in memory, for the measurement of the noise.
    fn logits(&self, weights: &[f32], ids: &[u32]) -> CandleResult<Vec<f64>> {
        let layout = self.moving.center().layout();
        let tensors = layout
            .unflatten(weights)
            .map(|(parameter, values)| Tensor::from_slice(values, parameter.shape.as_slice(), &self.device)?.to_dtype(self.dtype).map(Some))
            .collect::<CandleResult<Vec<_>>>()?;
        let tensors = Tensors { layout, tensors: &tensors, witness: None };
        let states = self.states(tensors, &Sequences::new(self.model.decoder(), ids, &[ids.len()], &self.device)?)?;
        let logits = self.head(tensors, &states)?;
        Ok(logits.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f64::from).collect())
    }

    /// Positions whose logits fit together.
    fn tile(&self) -> usize {
        (LOGITS / self.model.vocabulary()).max(1)
    }

    fn group(
        &self,
        tokens: &TokenSequences,
        sequences: Range<usize>,
        layout: &ParameterLayout,
        own: &[Option<Tensor>],
    ) -> Result<Group, CostError> {
        let decoder = self.model.decoder();
        let places = tokens.offsets()[sequences.start]..tokens.offsets()[sequences.end];
        let lengths: Vec<usize> = sequences.clone().map(|sequence| tokens.sequence(sequence).ids.len()).collect();
        let kept: Vec<usize> = places.clone().filter(|&position| tokens.kept()[position]).collect();
        let sequence_of: Vec<usize> = kept.iter().map(|position| tokens.offsets().partition_point(|o| o <= position) - 1).collect();
        let build = || -> CandleResult<(Group, Option<usize>)> {
            let batch = Sequences::new(decoder, &tokens.ids()[places.clone()], &lengths, &self.device)?;
            let rows: Vec<u32> = kept.iter().map(|position| (position - places.start) as u32).collect();
            let positions = Tensor::from_slice(&rows, rows.len(), &self.device)?;
            let tensors = Tensors { layout, tensors: own, witness: None };
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
        match build().map_err(failed)? {
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
        let logits = self.head(tensors, states)?;
        let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
        shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)
    }

    /// The divergence of every kept position.
    fn positions(&self, weights: &[Tensor]) -> CandleResult<Vec<f64>> {
        let layout = self.moving.center().layout();
        let forward = self.forward_weights(weights)?;
        let tensors = Tensors { layout, tensors: &forward, witness: None };
        // Only states need the center's own head again; its other tensors are converted for nothing, but stay small beside it.
        let own = match self.outputs {
            CenterOutputs::States => Some(self.forward_weights(&self.center)?),
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
                    Some(own) => self.log_probabilities(Tensors { layout, tensors: own, witness: None }, kept)?,
                    None => kept.clone(),
                };
                all.extend(divergence(&log_p, &log_q)?);
                start += count;
            }
        }
        Ok(all)
    }

    /// The weights `point.center * c + point.direction * v`, one tensor per parameter; those that do not move are the center's.
    fn at(&self, direction: &Direction, point: RayPoint) -> CandleResult<Vec<Tensor>> {
        let mut uploaded = self.direction.lock().unwrap_or_else(PoisonError::into_inner);
        if uploaded.as_ref().is_none_or(|uploaded| uploaded.identity != direction.identity()) {
            // The old one goes first: both together may not fit.
            *uploaded = None;
            let mut buffer = Vec::new();
            let mut tensors = Vec::new();
            for parameter in self.moving.layout().parameters() {
                buffer.resize(parameter.len(), 0.0);
                let range = parameter.range();
                // Directions that are not kept are drawn here, which is more work than all that the device does with them.
                buffer.par_chunks_mut(UPLOAD).enumerate().for_each(|(chunk, out)| {
                    let start = range.start + chunk * UPLOAD;
                    direction.fill(start..start + out.len(), out);
                });
                tensors.push(Tensor::from_slice(&buffer, parameter.shape.as_slice(), &self.device)?);
            }
            *uploaded = Some(Uploaded { identity: direction.identity(), tensors });
        }
        let directions = uploaded.as_ref().map_or(&[][..], |uploaded| &uploaded.tensors);
        let step = point.direction * direction.scale();
        let precise = if self.device.is_metal() { DType::F32 } else { DType::F64 };
        let mut weights = self.center.clone();
        let mut moved = self.moving.layout().parameters().iter().zip(directions).peekable();
        for (parameter, weight) in self.moving.center().layout().parameters().iter().zip(&mut weights) {
            if let Some((_, direction)) = moved.next_if(|(own, _)| own.name == parameter.name) {
                let scaled = (direction.to_dtype(precise)? * step)?;
                *weight = ((weight.to_dtype(precise)? * point.center)? + scaled)?.to_dtype(DType::F32)?;
            }
        }
        Ok(weights)
    }

    fn evaluate(&self, direction: &Direction, point: RayPoint) -> Result<Vec<f64>, ObjectiveError> {
        self.enter()
            .and_then(|()| self.at(direction, point))
            .and_then(|weights| self.positions(&weights))
            .map_err(|error| ObjectiveError::new(failed(error)))
    }
}

/// `sum p (expm1(d) - d)` of every row, with `d = log q - log p`; NaN where a number is not finite.
fn divergence(log_p: &Tensor, log_q: &Tensor) -> CandleResult<Vec<f64>> {
    let p = log_p.exp()?;
    let d = (log_q - log_p)?;
    // d^2 (1/2 + d/6 + d^2/24 + d^3/120 + d^4/720 + d^5/5040) by Horner's rule.
    let mut series = (&d * (1.0 / 5040.0))?;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0] {
        series = ((series + coefficient)? * &d)?;
    }
    let series = ((series + 0.5)? * d.sqr()?)?;
    // p exp(d) = q: p alone may underflow.
    let plain = ((log_q.exp()? - &p)? - (&p * &d)?)?;
    let terms = d.abs()?.lt(SERIES_BOUND)?.where_cond(&(series * p)?, &plain)?;
    Ok(terms.sum(D::Minus1)?.to_vec1::<f32>()?.into_iter().map(f64::from).collect())
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
        let positions = self.evaluate(direction, point)?;
        let nats = positions.iter().sum::<f64>() / self.kept as f64;
        Ok(Cost { nats, resolution: self.noise.resolution(nats, self.kept) })
    }

    fn cost_by_part(&self, direction: &Direction, point: RayPoint) -> Result<Option<Vec<f64>>, ObjectiveError> {
        let positions = self.evaluate(direction, point)?;
        let sequences = self.groups.iter().flat_map(|group| &group.sequence_of);
        Ok(Some(super::language_model_kl::means(self.sequences, &positions, sequences)))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use basin_volume_data::tokens::{ModelLimits, Positions, Provenance};

    use super::super::LanguageModelKl;
    use super::*;
    use crate::checkpoint::Checkpoint;

    /// Costs and their parts of every family on `device`, against the kernels of the CPU; `bound` says how far apart two costs may be.
    fn check(device: &Device, dtype: DType, bound: impl Fn(&Cost, &Cost) -> f64) {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/language_models");
        let mut failures = Vec::new();
        for entry in std::fs::read_dir(base).unwrap() {
            let folder = entry.unwrap().path();
            let checkpoint = Checkpoint::load(&folder).unwrap();
            let model = checkpoint.architecture.language_model().unwrap();
            let vocabulary = model.vocabulary();
            let sequences = [19, 7, 30].map(|n: usize| (0..n).map(|j| ((n * 17 + j * 13 + j * j) % vocabulary) as u32).collect());
            let limits = ModelLimits { vocabulary, positions: Some(32) };
            let tokens = TokenSequences::new("t", sequences, limits, Some(13), Positions::All, Provenance::Ids).unwrap();
            let moving = Moving::matching(checkpoint.parameters.clone(), None, Some("bias")).unwrap();
            let slices = LanguageModelKl::new(model, moving.clone(), &tokens, CenterOutputs::Logits).unwrap();
            let values: Vec<f32> = (0..moving.dimension()).map(|i| (i as f32 * 0.37).sin()).collect();
            let mut own = vec![0.0; values.len()];
            moving.fill(0..own.len(), &mut own);
            let direction = Direction::from_values(values, 1e-2, &own);
            for outputs in [CenterOutputs::Logits, CenterOutputs::States] {
                let tensors = LanguageModelTensorKl::new(model, moving.clone(), &tokens, outputs, device, dtype).unwrap();
                for t in [0.0, 0.05, 1.0] {
                    let point = RayPoint::straight(t);
                    let (found, expected) = (tensors.cost(&direction, point).unwrap(), slices.cost(&direction, point).unwrap());
                    if (found.nats - expected.nats).abs() > bound(&found, &expected) {
                        failures.push(format!("{} at {t}, {outputs:?}: {found:?} not {expected:?}", folder.display()));
                    }
                    // From another thread, as rays are.
                    let again = std::thread::scope(|scope| scope.spawn(|| tensors.cost(&direction, point)).join()).unwrap().unwrap();
                    assert_eq!(again.nats.to_bits(), found.nats.to_bits(), "the same cost twice: {}", folder.display());
                }
                let point = RayPoint::straight(0.5);
                let parts = tensors.cost_by_part(&direction, point).unwrap().unwrap();
                let total = tensors.cost(&direction, point).unwrap().nats;
                let kept = |range: &[usize]| tokens.kept()[range[0]..range[1]].iter().filter(|&&kept| kept).count() as f64;
                let counts: Vec<f64> = tokens.offsets().windows(2).map(kept).collect();
                let mean = counts.iter().zip(&parts).map(|(count, part)| count * part).sum::<f64>() / counts.iter().sum::<f64>();
                assert_eq!(parts.len(), counts.len());
                assert!((mean / total - 1.0).abs() < 1e-6, "{parts:?} {total}");
                if dtype == DType::F32 {
                    let expected = slices.cost_by_part(&direction, point).unwrap().unwrap();
                    assert!(parts.iter().zip(&expected).all(|(a, b)| (a / b - 1.0).abs() < 1e-3), "{parts:?} {expected:?}");
                }
            }
        }
        assert!(failures.is_empty(), "{failures:#?}");
    }

    fn single(found: &Cost, expected: &Cost) -> f64 {
        10.0 * found.resolution.max(expected.resolution) + 5e-6 * expected.nats
    }

    #[test]
    fn every_family_has_the_cost_of_the_slices() {
        check(&Device::Cpu, DType::F32, single);
    }

    #[cfg(feature = "cuda")]
    #[test]
    #[ignore = "needs a graphics card: cargo test --release --features cuda -p basin-volume-models -- --ignored"]
    fn every_family_has_the_same_cost_on_a_graphics_card() {
        let device = Device::new_cuda(0).unwrap();
        check(&device, DType::F32, single);
        // The weights themselves are rounded to eight bits, center and displaced alike.
        check(&device, DType::BF16, |found, expected| 10.0 * found.resolution + 0.25 * expected.nats);
    }
}
