//! The head in candle's own operations; with its loss, tile by tile. The
//! gradients are written out, so nothing here needs candle's autograd.

#[cfg(test)]
use candle_core::{D, DType};
use candle_core::{Result, Tensor};

#[cfg(test)]
use crate::nn::label::drawn_label;

/// Most positions of a tile.
#[cfg(test)]
const COLUMNS: usize = 128;

/// Bytes of the logits of a tile, for large vocabularies.
#[cfg(test)]
const TILE_BYTES: usize = 32 << 20;

/// Positions of a tile for a vocabulary.
#[cfg(test)]
fn tile_columns(vocabulary: usize) -> usize {
    (TILE_BYTES / (4 * vocabulary) / 16 * 16).clamp(16, COLUMNS)
}

/// The head's tensors.
#[derive(Clone)]
pub(crate) struct TensorHead {
    /// `[vocabulary, inputs]`.
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
    /// Soft limit of the logits.
    pub(crate) cap: Option<f64>,
}

/// What the outputs are compared with.
#[cfg(test)]
pub(crate) enum TensorTargets<'a> {
    /// One label per position, `u32`.
    Labels(&'a Tensor),
    /// Another head and its states `[positions, inputs]`.
    Center(&'a TensorHead, &'a Tensor),
}

/// The loss and its gradients.
#[cfg(test)]
pub(crate) struct TensorGradient {
    pub(crate) loss: f64,
    /// `[positions, inputs]`.
    pub(crate) states: Tensor,
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
}

impl TensorHead {
    /// `[positions, vocabulary]`.
    pub(crate) fn logits(&self, states: &Tensor) -> Result<Tensor> {
        let mut logits = states.matmul(&self.weight.t()?)?;
        if let Some(bias) = &self.bias {
            logits = logits.broadcast_add(bias)?;
        }
        match self.cap {
            Some(cap) => (logits / cap)?.tanh()? * cap,
            None => Ok(logits),
        }
    }
}

#[cfg(test)]
impl TensorHead {
    /// Labels drawn with one number in `[0, 1)` per position.
    pub(crate) fn draw(&self, states: &Tensor, draws: &[f64]) -> Result<Vec<u32>> {
        let columns = tile_columns(self.weight.dim(0)?);
        let mut labels = Vec::with_capacity(draws.len());
        for (start, draws) in (0..draws.len()).step_by(columns).zip(draws.chunks(columns)) {
            let log_q = log_softmax(&self.logits(&states.narrow(0, start, draws.len())?)?)?;
            for (row, &draw) in log_q.to_dtype(DType::F64)?.to_vec2::<f64>()?.into_iter().zip(draws) {
                let q: Vec<f64> = row.iter().map(|log_q| log_q.exp()).collect();
                labels.push(drawn_label(&q, draw) as u32);
            }
        }
        Ok(labels)
    }
}

#[cfg(test)]
fn log_softmax(logits: &Tensor) -> Result<Tensor> {
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
    shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)
}

/// The sum over positions of `weights` times the loss, in the precision of the tensors: the divergence is `sum q - p - p (log q - log p)`, whose terms cancel to the
/// rounding of their type.
#[cfg(test)]
pub(crate) fn head_loss_composed(
    head: &TensorHead,
    states: &Tensor,
    targets: &TensorTargets<'_>,
    weights: &Tensor,
) -> Result<TensorGradient> {
    let (positions, _) = states.dims2()?;
    let (vocabulary, _) = head.weight.dims2()?;
    let columns = tile_columns(vocabulary);
    let mut loss = 0.0;
    let mut to_states = Vec::new();
    let mut to_weight = head.weight.zeros_like()?;
    let mut to_bias = head.bias.as_ref().map(Tensor::zeros_like).transpose()?;
    for start in (0..positions).step_by(columns) {
        let count = columns.min(positions - start);
        let states = states.narrow(0, start, count)?;
        let weights = weights.narrow(0, start, count)?.reshape((count, 1))?;
        let logits = head.logits(&states)?;
        let log_q = log_softmax(&logits)?;
        let q = log_q.exp()?;
        let (losses, mut slopes) = match targets {
            TensorTargets::Labels(labels) => {
                let labels = labels.narrow(0, start, count)?.reshape((count, 1))?.contiguous()?;
                let losses = log_q.gather(&labels, 1)?.neg()?;
                let ones = losses.ones_like()?;
                (losses, q.scatter_add(&labels, &ones.neg()?, 1)?)
            }
            TensorTargets::Center(center, center_states) => {
                let log_p = log_softmax(&center.logits(&center_states.narrow(0, start, count)?)?)?;
                let p = log_p.exp()?;
                let change = (&q - &p)?;
                let losses = (&change - (&p * (&log_q - &log_p)?)?)?.sum_keepdim(1)?;
                (losses, change)
            }
        };
        loss += (losses * &weights)?.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?;
        slopes = slopes.broadcast_mul(&weights)?;
        if let Some(cap) = head.cap {
            slopes = (&slopes - (&slopes * (&logits / cap)?.sqr()?)?)?;
        }
        to_states.push(slopes.matmul(&head.weight)?);
        to_weight = (to_weight + slopes.t()?.matmul(&states)?)?;
        if let Some(bias) = to_bias {
            to_bias = Some((bias + slopes.sum(0)?)?);
        }
    }
    Ok(TensorGradient { loss, states: Tensor::cat(&to_states, 0)?, weight: to_weight, bias: to_bias })
}
