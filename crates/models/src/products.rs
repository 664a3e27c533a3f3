//! Matrix products: the calls into `gemm`, with the checks that make them safe.
#![allow(unsafe_code)]

use gemm::Parallelism;

/// `output = weights * input` with every matrix row-major and dense: `weights` `[outputs, inputs]`, `input` `[inputs, columns]`,
/// `output` `[outputs, columns]`. Runs on the calling thread, so the result depends on the arguments only.
///
/// This layout (the columns are the positions) is the fast one: `gemm` broadcasts the weights straight from their rows, so that
/// nothing but the small activations is ever packed. With positions as rows the weights are packed again for every tile, which at
/// 128 positions costs as much as the product itself.
///
/// # Panics
/// If a length does not fit the shapes.
pub(crate) fn product(output: &mut [f32], weights: &[f32], input: &[f32], outputs: usize, inputs: usize, columns: usize) {
    assert_eq!(weights.len(), outputs * inputs, "the weights must be [outputs, inputs]");
    assert_eq!(input.len(), inputs * columns, "the input must be [inputs, columns]");
    assert_eq!(output.len(), outputs * columns, "the output must be [outputs, columns]");
    // SAFETY: the lengths just checked cover every element that the shapes and strides address (row stride = row length, column
    // stride 1; none of them exceeds isize because the slices exist), and `output` is borrowed mutably, so it overlaps neither input.
    // The output is only written (`read_dst` is false).
    unsafe {
        gemm::gemm(
            outputs,
            columns,
            inputs,
            output.as_mut_ptr(),
            1,
            columns as isize,
            false,
            weights.as_ptr(),
            1,
            inputs as isize,
            input.as_ptr(),
            1,
            columns as isize,
            0.0f32,
            1.0f32,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// A matrix inside a slice: element `(row, column)` is `values[row * row_stride + column * column_stride]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) row_stride: usize,
    pub(crate) column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of so many columns, one after the other.
    pub(crate) fn rows(values: &'a [f32], columns: usize) -> Self {
        Self { values, row_stride: columns, column_stride: 1 }
    }

    /// Columns of so many rows, one after the other: the transpose of [`Matrix::rows`].
    pub(crate) fn columns(values: &'a [f32], rows: usize) -> Self {
        Self { values, row_stride: 1, column_stride: rows }
    }

    fn holds(&self, rows: usize, columns: usize) -> bool {
        holds(self.values.len(), rows, columns, self.row_stride, self.column_stride)
    }
}

/// Sizes of a product: `[rows, inner]` times `[inner, columns]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) rows: usize,
    pub(crate) inner: usize,
    pub(crate) columns: usize,
}

/// Whether a slice of `length` holds every element of the shape.
fn holds(length: usize, rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> bool {
    let last = (rows - 1).checked_mul(row_stride).zip((columns - 1).checked_mul(column_stride));
    last.and_then(|(row, column)| row.checked_add(column)).is_some_and(|last| last < length)
}

/// `output = left * right`, or `output += left * right` with `add`, for any strides; `left` is `[rows, inner]`, `right`
/// `[inner, columns]`, `output` `[rows, columns]` with rows `output_stride` apart. Runs on the calling thread, so the result depends on
/// the arguments only. Does nothing when a dimension is 0.
///
/// # Panics
/// If a slice is shorter than its shape, or `output_stride` is less than `columns`.
pub(crate) fn product_strided(output: &mut [f32], output_stride: usize, left: Matrix<'_>, right: Matrix<'_>, sizes: Sizes, add: bool) {
    product_on(Parallelism::None, output, output_stride, left, right, sizes, add);
}

/// [`product_strided`] on all threads of rayon's current pool. They share out whole entries of the output and the sums inside an entry
/// are cut the same way for any number of threads, so the bits do not depend on it.
///
/// # Panics
/// As [`product_strided`].
pub(crate) fn product_parallel(output: &mut [f32], output_stride: usize, left: Matrix<'_>, right: Matrix<'_>, sizes: Sizes, add: bool) {
    let threads = rayon::current_num_threads();
    let parallelism = if threads > 1 { Parallelism::Rayon(threads) } else { Parallelism::None };
    product_on(parallelism, output, output_stride, left, right, sizes, add);
}

fn product_on(
    parallelism: Parallelism,
    output: &mut [f32],
    output_stride: usize,
    left: Matrix<'_>,
    right: Matrix<'_>,
    Sizes { rows, inner, columns }: Sizes,
    add: bool,
) {
    if rows == 0 || inner == 0 || columns == 0 {
        return;
    }
    assert!(left.holds(rows, inner), "the left matrix must be [rows, inner]");
    assert!(right.holds(inner, columns), "the right matrix must be [inner, columns]");
    assert!(output_stride >= columns && holds(output.len(), rows, columns, output_stride, 1), "the output must be [rows, columns]");
    // SAFETY: the bounds just checked cover every element that the shapes and strides address (strides that do not overflow a slice's
    // length fit isize), distinct elements of the output are distinct in memory because its rows do not overlap, and `output` is
    // borrowed mutably, so it overlaps neither input. gemm's threads write disjoint parts of the output and end before it returns.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            output.as_mut_ptr(),
            1,
            output_stride as isize,
            add,
            left.values.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.values.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            1.0f32,
            1.0f32,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn product_equals_the_plain_loops() {
        for (outputs, inputs, columns) in [(1, 1, 1), (3, 5, 16), (7, 64, 48), (10, 33, 128), (64, 17, 19)] {
            let weights: Vec<f32> = (0..outputs * inputs).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect();
            let input: Vec<f32> = (0..inputs * columns).map(|i| ((i * 53 % 97) as f32 - 48.0) / 32.0).collect();
            let mut output = vec![f32::NAN; outputs * columns];
            product(&mut output, &weights, &input, outputs, inputs, columns);
            for row in 0..outputs {
                for column in 0..columns {
                    let exact: f64 =
                        (0..inputs).map(|i| f64::from(weights[row * inputs + i]) * f64::from(input[i * columns + column])).sum();
                    let value = f64::from(output[row * columns + column]);
                    assert!((value - exact).abs() < 1e-4, "[{outputs} {inputs} {columns}] at {row},{column}: {value} not {exact}");
                }
            }
        }
    }

    #[test]
    fn strided_products_equal_the_plain_loops() {
        let left: Vec<f32> = (0..200).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect();
        let right: Vec<f32> = (0..400).map(|i| ((i * 53 % 97) as f32 - 48.0) / 32.0).collect();
        for (row_stride, column_stride) in [(1, 9), (11, 1), (2, 20)] {
            let (rows, inner, columns, stride) = (9, 7, 18, 21);
            let mut output = vec![0.25f32; rows * stride];
            for (repeat, add) in [false, true].into_iter().enumerate() {
                let left = Matrix { values: &left, row_stride, column_stride };
                let right = Matrix::rows(&right, 20);
                product_strided(&mut output, stride, left, right, Sizes { rows, inner, columns }, add);
                for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
                    let term =
                        |i: usize| f64::from(left.values[row * row_stride + i * column_stride]) * f64::from(right.values[i * 20 + column]);
                    let exact = (repeat + 1) as f64 * (0..inner).map(term).sum::<f64>();
                    assert!((f64::from(output[row * stride + column]) - exact).abs() < 1e-4, "{row},{column} added {repeat} times");
                }
            }
            assert_eq!(output[columns], 0.25, "the gap between rows is untouched");
        }
    }

    #[test]
    #[should_panic(expected = "the input must be")]
    fn a_short_input_is_refused() {
        product(&mut [0.0; 4], &[0.0; 4], &[0.0; 3], 2, 2, 2);
    }
}
