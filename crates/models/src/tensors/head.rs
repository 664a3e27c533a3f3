//! The head with its loss, tile by tile. The gradients are written out, so nothing here needs candle's autograd.

use candle_core::{D, DType, Result, Tensor};

use super::operations::wide;
use crate::cost::tile_columns;
use crate::nn::label::drawn_label;

/// The head's tensors.
#[derive(Debug, Clone)]
pub(crate) struct TensorHead {
    /// `[vocabulary, inputs]`.
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
    /// Soft limit of the logits.
    pub(crate) cap: Option<f64>,
}

/// What the outputs are compared with.
pub(crate) enum TensorTargets<'a> {
    /// One label per position, `u32`.
    Labels(&'a Tensor),
    /// Another head and its states `[positions, inputs]`.
    Center(&'a TensorHead, &'a Tensor),
}

/// The loss and its gradients, `f32` at least.
pub(crate) struct TensorGradient {
    /// Nats.
    pub(crate) loss: f64,
    /// `[positions, inputs]`.
    pub(crate) states: Tensor,
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
}

impl TensorHead {
    /// `[positions, vocabulary]`, `f32` at least.
    pub(crate) fn logits(&self, states: &Tensor) -> Result<Tensor> {
        let mut logits = wide(&states.matmul(&self.weight.t()?)?)?;
        if let Some(bias) = &self.bias {
            logits = logits.broadcast_add(&wide(bias)?)?;
        }
        match self.cap {
            Some(cap) => (logits / cap)?.tanh()? * cap,
            None => Ok(logits),
        }
    }

    /// Labels drawn with one number in `[0, 1)` per position.
    pub(crate) fn draw(&self, states: &Tensor, draws: &[f64]) -> Result<Vec<u32>> {
        let columns = tile_columns(self.weight.dim(0)?);
        let mut labels = Vec::with_capacity(draws.len());
        for (start, draws) in (0..draws.len()).step_by(columns).zip(draws.chunks(columns)) {
            let log_q = log_softmax(&self.logits(&states.narrow(0, start, draws.len())?)?)?;
            for (row, &draw) in log_q.to_dtype(DType::F32)?.to_vec2::<f32>()?.into_iter().zip(draws) {
                let q: Vec<f64> = row.iter().map(|&log_q| f64::from(log_q).exp()).collect();
                labels.push(drawn_label(&q, draw) as u32);
            }
        }
        Ok(labels)
    }
}

/// `log softmax` of the last dimension.
pub(crate) fn log_softmax(logits: &Tensor) -> Result<Tensor> {
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
    shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)
}

/// Below this `|d|`, what is left of `expm1(d)` comes from its series: single precision would cancel.
const SERIES_BOUND: f64 = 0.25;

/// `p (expm1(d) - d)` with `d = log q - log p`, every term of which is nonnegative: summed over the vocabulary, the divergence (nats).
pub(crate) fn divergence_terms(log_p: &Tensor, log_q: &Tensor) -> Result<Tensor> {
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
    d.abs()?.lt(SERIES_BOUND)?.where_cond(&(series * p)?, &plain)
}

/// `q - p = p expm1(d)`: the gradient of the divergence with respect to the logits of `q`.
fn divergence_slopes(log_p: &Tensor, log_q: &Tensor) -> Result<Tensor> {
    let p = log_p.exp()?;
    let d = (log_q - log_p)?;
    let mut series = (&d * (1.0 / 5040.0))?;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0] {
        series = ((series + coefficient)? * &d)?;
    }
    let plain = (log_q.exp()? - &p)?;
    d.abs()?.lt(SERIES_BOUND)?.where_cond(&(series * p)?, &plain)
}

/// The sum over positions of `weights` times the cross-entropy or divergence (nats, summed in `f64`), with its gradient, in the precision
/// of the tensors and `f32` at least.
pub(crate) fn head_loss(head: &TensorHead, states: &Tensor, targets: &TensorTargets<'_>, weights: &[f32]) -> Result<TensorGradient> {
    let columns = tile_columns(head.weight.dim(0)?);
    let matrix = wide(&head.weight)?;
    let mut loss = 0.0;
    let mut to_states = Vec::new();
    let mut to_weight = matrix.zeros_like()?;
    let mut to_bias = head.bias.as_ref().map(|bias| wide(&bias.zeros_like()?)).transpose()?;
    for (start, own_weights) in (0..weights.len()).step_by(columns).zip(weights.chunks(columns)) {
        let count = own_weights.len();
        let states = states.narrow(0, start, count)?;
        let logits = head.logits(&states)?;
        let log_q = log_softmax(&logits)?;
        let (losses, mut slopes) = match targets {
            TensorTargets::Labels(labels) => {
                let labels = labels.narrow(0, start, count)?.reshape((count, 1))?.contiguous()?;
                let losses = log_q.gather(&labels, 1)?.neg()?;
                let less = losses.ones_like()?.neg()?;
                (losses, log_q.exp()?.scatter_add(&labels, &less, 1)?)
            }
            TensorTargets::Center(center, center_states) => {
                let log_p = log_softmax(&center.logits(&center_states.narrow(0, start, count)?)?)?;
                (divergence_terms(&log_p, &log_q)?.sum_keepdim(1)?, divergence_slopes(&log_p, &log_q)?)
            }
        };
        let losses = losses.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        loss += losses.iter().zip(own_weights).map(|(&loss, &weight)| f64::from(loss) * f64::from(weight)).sum::<f64>();
        let factors = Tensor::from_slice(own_weights, (count, 1), states.device())?.to_dtype(slopes.dtype())?;
        slopes = slopes.broadcast_mul(&factors)?;
        if let Some(cap) = head.cap {
            slopes = (&slopes - (&slopes * (&logits / cap)?.sqr()?)?)?;
        }
        to_states.push(slopes.matmul(&matrix)?);
        to_weight = (to_weight + slopes.t()?.matmul(&wide(&states)?)?)?;
        if let Some(bias) = to_bias {
            to_bias = Some((bias + slopes.sum(0)?)?);
        }
    }
    Ok(TensorGradient { loss, states: Tensor::cat(&to_states, 0)?, weight: to_weight, bias: to_bias })
}
