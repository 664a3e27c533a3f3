//! Rows and columns of a tensor on a device: taken out of it, and put back.

use std::ops::Range;

use candle_core::{Result, Tensor};

use crate::parameters::MovingTensor;
use crate::parameters::cells::{Intervals, sides};

/// Each range with where it begins among all of them.
fn placed(intervals: &Intervals) -> impl Iterator<Item = (usize, &Range<usize>)> {
    intervals.ranges().iter().scan(0, |start, range| {
        let own = *start;
        *start += range.len();
        Some((own, range))
    })
}

/// The ranges of an axis one after the other.
fn along(tensor: &Tensor, axis: usize, intervals: &Intervals) -> Result<Tensor> {
    let parts = intervals.ranges().iter().map(|range| tensor.narrow(axis, range.start, range.len()));
    Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, axis)
}

/// What moves of a whole tensor, as a vector.
pub(super) fn taken(whole: &Tensor, tensor: MovingTensor<'_>) -> Result<Tensor> {
    if tensor.is_whole() {
        return whole.flatten_all();
    }
    let matrix = whole.reshape(sides(tensor.whole))?;
    along(&along(&matrix, 0, &tensor.block.rows)?, 1, &tensor.block.columns)?.contiguous()?.flatten_all()
}

/// The whole tensor with the vector `values` where it moves: a copy.
pub(super) fn put(whole: &Tensor, tensor: MovingTensor<'_>, values: &Tensor) -> Result<Tensor> {
    let mut matrix = whole.reshape(sides(tensor.whole))?;
    let values = values.reshape((tensor.block.rows.count(), tensor.block.columns.count()))?;
    for (row, rows) in placed(&tensor.block.rows) {
        for (column, columns) in placed(&tensor.block.columns) {
            let own = values.narrow(0, row, rows.len())?.narrow(1, column, columns.len())?.contiguous()?;
            matrix = matrix.slice_assign(&[rows.clone(), columns.clone()], &own)?;
        }
    }
    matrix.reshape(whole.shape())
}
