//! Kronecker-factored curvature (K-FAC) of the matrices of dense layers.

use std::collections::BTreeMap;

use super::diagonal::{check, check_probes};
use super::scores::observe;
use super::{Curvature, CurvatureError, KroneckerBlock, Moments, Observer, Scores};
use crate::parameters::cells::Intervals;

/// Kronecker factors of every dense layer's matrix, and the Fisher diagonal of all other tensors (biases, norms, embeddings, and the head
/// of a language model, whose output factor would have the side of the vocabulary).
///
/// The score of a matrix `W` is `sum_t g_t a_t'` over the positions `t`, `a` the layer's input, `g` the gradient of the log-likelihood of
/// drawn labels with respect to its output. If inputs and gradients are independent of each other, and gradients of different positions
/// uncorrelated, its second moment per counting position is
///
/// `F_W = A (x) G`,      `A = mean_t a_t a_t'`,      `G = 1/N sum_t E g_t g_t'`
///
/// Of a matrix that moves in part the block is that of its rows and columns: the same rows and columns of both factors, which is this second
/// moment of the weights that move. Blocks of different layers are taken as uncorrelated. Its trace is that of the Fisher matrix as far as the squares `|a|^2` and `|g|^2` are
/// uncorrelated. For multilayer perceptrons the expectation over up to [`EXACT_CLASSES`](crate::cost::EXACT_CLASSES) classes is exact; else
/// `probes` labels are drawn per position.
///
/// Sums are `f32`, position by position. Costs about what [`super::fisher_diagonal`] does and one product per factor and label. Memory:
/// the factors (twice for language models), and two vectors of length `D`.
///
/// # Errors
/// When `probes` is 0, no matrix of a dense layer moves, the observer interrupts, the evaluation fails, or an entry is not finite.
pub fn kronecker(model: &dyn Scores, probes: usize, seed: u64, observer: &mut dyn Observer) -> Result<Curvature, CurvatureError> {
    check_probes(probes)?;
    let matrices = model.dense_matrices();
    if matrices.is_empty() {
        return Err(CurvatureError::Unsupported {
            kind: "Kronecker-factored",
            model: "a choice of tensors without the matrix of a dense layer".to_owned(),
            instead: "fisher-diagonal",
        });
    }
    let zeros = |size: usize| vec![0.0f32; size * size];
    let mut moments: Vec<Moments> =
        matrices.iter().map(|matrix| Moments { inputs: zeros(matrix.inputs), outputs: zeros(matrix.outputs) }).collect();
    let mut squares = vec![0.0f32; model.dimension()];
    let mut space = Vec::new();
    let batches = model.batches();
    let total = batches.len();
    observe(observer, 0, total)?;
    for (done, batch) in batches.into_iter().enumerate() {
        model.add_moments(batch, (probes, seed), &mut space, &mut moments, &mut squares)?;
        observe(observer, done + 1, total)?;
    }
    check(&squares, "Fisher diagonal")?;
    let mut factors = BTreeMap::new();
    for (matrix, Moments { mut inputs, mut outputs }) in matrices.into_iter().zip(moments) {
        symmetrize(&mut inputs);
        symmetrize(&mut outputs);
        let (row_factor, column_factor) = if matrix.transposed { (inputs, outputs) } else { (outputs, inputs) };
        for factor in [&row_factor, &column_factor] {
            if let Some(index) = factor.iter().position(|value| !value.is_finite()) {
                return Err(CurvatureError::NotFinite { what: "Kronecker factor", index, value: f64::from(factor[index]) });
            }
        }
        factors.insert(matrix.name, (row_factor, column_factor));
    }
    let (mut blocks, mut diagonal) = (Vec::new(), Vec::new());
    for tensor in model.moving().tensors() {
        let Some((rows, columns)) = factors.get(&tensor.whole.name) else {
            diagonal.extend_from_slice(&squares[tensor.own.range()]);
            continue;
        };
        // Rows and columns that move alone have the parts of the factors that are theirs.
        blocks.push(KroneckerBlock {
            parameter: tensor.own.name.clone(),
            row_factor: part_of(rows, &tensor.block.rows),
            column_factor: part_of(columns, &tensor.block.columns),
            scale: 1.0,
        });
    }
    Ok(Curvature::Kronecker { blocks, diagonal })
}

/// Bytes of all factors.
pub(super) fn factor_bytes(model: &dyn Scores) -> u64 {
    let bytes = |size: usize| 4 * (size as u64).pow(2);
    model.dense_matrices().iter().map(|matrix| bytes(matrix.inputs) + bytes(matrix.outputs)).sum()
}

/// Some rows of a square matrix and the same columns.
fn part_of(matrix: &[f32], chosen: &Intervals) -> Vec<f32> {
    let size = matrix.len().isqrt();
    if chosen.count() == size {
        return matrix.to_vec();
    }
    chosen.numbers().flat_map(|row| chosen.numbers().map(move |column| matrix[row * size + column])).collect()
}

/// Replaces a matrix by the mean of itself and its transpose: products may round the two halves differently.
fn symmetrize(matrix: &mut [f32]) {
    let size = matrix.len().isqrt();
    for (row, column) in (0..size).flat_map(|row| (0..row).map(move |column| (row, column))) {
        let mean = 0.5 * (matrix[row * size + column] + matrix[column * size + row]);
        matrix[row * size + column] = mean;
        matrix[column * size + row] = mean;
    }
}

#[cfg(test)]
mod tests;
