//! Gradients of losses of a language model on any device.

use candle_core::{DType, Device, Tensor, Var};

use super::decoder::{Sequences, Taps, Tensors};
use super::head::{TensorGradient, TensorHead, TensorTargets, head_loss};
use super::operations::wide;
use crate::arch::decoder::Watcher;
use crate::arch::{GradientError, LanguageModel, TokenBatch, fits};

/// What the outputs are compared with.
#[derive(Debug, Clone, Copy)]
pub(crate) enum TensorTarget<'a> {
    /// As [`crate::arch::Target::Labels`].
    Labels(&'a [u32]),
    /// As [`crate::arch::Target::Drawn`].
    Drawn(&'a [f64]),
    /// `KL(center || model)` (nats): the center's head, and what it reads at every position, `[positions, head inputs]`, as
    /// [`TensorTape::states`] gives it.
    Center(&'a TensorHead, &'a Tensor),
}

/// A language model with its weights as differentiable tensors on a device: computes losses with their gradients, batch after batch.
#[derive(Debug)]
pub(crate) struct TensorTape<'a> {
    model: &'a LanguageModel,
    device: Device,
    /// One tensor per parameter of the layout, and whether its gradient is asked for.
    weights: Vec<Option<Tensor>>,
    moves: Vec<bool>,
}

/// The positions of a batch that count.
struct Counted {
    /// Their numbers, on the device too; none where all count.
    rows: Vec<usize>,
    index: Option<Tensor>,
    weights: Vec<f32>,
}

impl Counted {
    fn of<T: Copy>(&self, values: &[T]) -> Vec<T> {
        self.rows.iter().map(|&row| values[row]).collect()
    }

    /// Those rows of `[positions, ..]`.
    fn select(&self, values: &Tensor) -> candle_core::Result<Tensor> {
        self.index.as_ref().map_or_else(|| Ok(values.clone()), |index| values.index_select(index, 0))
    }
}

impl<'a> TensorTape<'a> {
    /// Weights on a device, one tensor per parameter in the layout's order and in the type of the forward pass. `moves` says whose
    /// gradients are asked for: those take their bytes once more, the others are shared.
    ///
    /// # Errors
    /// When the device fails.
    ///
    /// # Panics
    /// If there is not one of each per parameter.
    pub(crate) fn new(model: &'a LanguageModel, weights: Vec<Tensor>, moves: Vec<bool>, device: &Device) -> Result<Self, GradientError> {
        assert!(weights.len() == model.layout.parameters().len() && moves.len() == weights.len(), "one tensor per parameter");
        // Each is given back before the next one is copied.
        let variable =
            |(weight, &moves): (Tensor, &bool)| if moves { Var::from_tensor(&weight).map(Var::into_inner) } else { Ok(weight) }.map(Some);
        let weights = weights.into_iter().zip(&moves).map(variable).collect::<candle_core::Result<_>>()?;
        Ok(Self { model, device: device.clone(), weights, moves })
    }

    /// The sum over positions of weight times loss, in nats (`f64`), and its gradient: one tensor for each parameter that moves, `f32` for
    /// weights in half precision, else of their own type. Not finite when a logit is not.
    ///
    /// The logits of at most 128 positions exist at once, and the activations of the whole batch. A watcher sees what passes through every
    /// dense layer but the head.
    ///
    /// # Errors
    /// As [`LanguageModel::check`]; when something has another length than the tokens; when the device fails.
    pub(crate) fn gradient(
        &self,
        batch: TokenBatch<'_>,
        target: TensorTarget<'_>,
        watcher: Option<&Watcher<'_>>,
    ) -> Result<(f64, Vec<Option<Tensor>>), GradientError> {
        let counted = self.counted(batch, target)?;
        if counted.rows.is_empty() {
            let zeros = |(weight, &moves): (&Option<Tensor>, &bool)| {
                weight.as_ref().filter(|_| moves).map(|weight| wide(&weight.zeros_like()?)).transpose()
            };
            return Ok((0.0, self.weights.iter().zip(&self.moves).map(zeros).collect::<candle_core::Result<_>>()?));
        }
        let taps = watcher.map(|_| Taps::default());
        let states = counted.select(&self.body(&self.weights, batch, taps.as_ref())?)?;
        let head = self.head(&states, &counted, target)?;
        let (mut to_weight, mut to_bias) = (Some(head.weight), head.bias);
        // A product with the slopes hands them to candle as the gradient of the states.
        let slopes = head.states.to_dtype(states.dtype())?;
        let mut gradients = (&states * slopes)?.sum_all()?.backward()?;
        if let Some((taps, watcher)) = taps.zip(watcher) {
            for tap in taps.into_layers() {
                let slopes = gradients.get(&tap.outputs).ok_or_else(|| cut("of a dense layer"))?;
                watcher(tap.place, &values(&tap.inputs)?, &values(slopes)?);
            }
        }
        let decoder = self.model.decoder();
        let mut all = Vec::with_capacity(self.weights.len());
        for ((parameter, weight), &moves) in self.model.layout.parameters().iter().zip(&self.weights).zip(&self.moves) {
            let Some(weight) = weight.as_ref().filter(|_| moves) else {
                all.push(None);
                continue;
            };
            let range = parameter.range();
            let body = gradients.remove(weight).map(|gradient| wide(&gradient)).transpose()?;
            let own = if range == decoder.head.weight {
                to_weight.take()
            } else if Some(&range) == decoder.head.bias.as_ref() {
                to_bias.take()
            } else {
                None
            };
            all.push(Some(match (body, own) {
                (Some(body), Some(own)) => (body + own)?,
                (Some(one), None) | (None, Some(one)) => one,
                (None, None) => return Err(cut(&parameter.name)),
            }));
        }
        Ok((head.loss, all))
    }

    /// What the head reads at every position, `[positions, head inputs]`.
    ///
    /// # Errors
    /// As [`LanguageModel::check`]; when the device fails.
    pub(crate) fn states(&self, ids: &[u32], lengths: &[usize]) -> Result<Tensor, GradientError> {
        self.model.check(ids, lengths)?;
        Ok(self.body(&self.detached(), TokenBatch { ids, lengths, weights: &[] }, None)?)
    }

    /// The weights without a graph.
    fn detached(&self) -> Vec<Option<Tensor>> {
        self.weights.iter().map(|weight| weight.as_ref().map(Tensor::detach)).collect()
    }

    fn body(&self, weights: &[Option<Tensor>], batch: TokenBatch<'_>, taps: Option<&Taps>) -> candle_core::Result<Tensor> {
        let decoder = self.model.decoder();
        let tensors = Tensors { layout: &self.model.layout, tensors: weights, taps };
        decoder.tensor_states(tensors, &Sequences::new(decoder, batch.ids, batch.lengths, &self.device)?)
    }

    /// The loss, and its gradients with respect to the states that count and the head's own weights.
    fn head(&self, states: &Tensor, counted: &Counted, target: TensorTarget<'_>) -> candle_core::Result<TensorGradient> {
        let weights = self.detached();
        let tensors = Tensors { layout: &self.model.layout, tensors: &weights, taps: None };
        let head = self.model.decoder().tensor_head(tensors)?;
        let states = states.detach();
        let labels_of = |labels: Vec<u32>| Tensor::from_vec(labels, counted.rows.len(), &self.device);
        let (labels, center_states);
        let targets = match target {
            TensorTarget::Labels(all) => {
                labels = labels_of(counted.of(all))?;
                TensorTargets::Labels(&labels)
            }
            TensorTarget::Drawn(draws) => {
                labels = labels_of(head.draw(&states, &counted.of(draws))?)?;
                TensorTargets::Labels(&labels)
            }
            TensorTarget::Center(center, all) => {
                center_states = counted.select(all)?;
                TensorTargets::Center(center, &center_states)
            }
        };
        head_loss(&head, &states, &targets, &counted.weights)
    }

    fn counted(&self, batch: TokenBatch<'_>, target: TensorTarget<'_>) -> Result<Counted, GradientError> {
        self.model.check(batch.ids, batch.lengths)?;
        let positions = batch.ids.len();
        fits("the list of weights", batch.weights.len(), positions)?;
        match target {
            TensorTarget::Labels(labels) => self.model.check_labels(labels, positions)?,
            TensorTarget::Drawn(draws) => fits("the list of draws", draws.len(), positions)?,
            TensorTarget::Center(_, states) => fits("the center's states", states.dim(0)?, positions)?,
        }
        let rows: Vec<usize> = (0..positions).filter(|&position| batch.weights[position] != 0.0).collect();
        let numbers = || rows.iter().map(|&row| row as u32).collect::<Vec<u32>>();
        let index =
            (rows.len() < positions && !rows.is_empty()).then(|| Tensor::from_vec(numbers(), rows.len(), &self.device)).transpose()?;
        let weights = rows.iter().map(|&row| batch.weights[row]).collect();
        Ok(Counted { rows, index, weights })
    }
}

fn cut(name: &str) -> GradientError {
    GradientError::Cut { name: name.to_owned() }
}

fn values(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.detach().to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}
