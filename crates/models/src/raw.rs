//! The only unsafe code of the crate: the call into `gemm`, and mapping a file.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;

use gemm::Parallelism;
use memmap2::Mmap;

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

/// Maps a file into memory, read-only.
pub(crate) fn map_file(file: &File) -> io::Result<Mmap> {
    // SAFETY: the mapping is private to this crate and only read, as bytes that are validated before use. As with every mapped file,
    // another process that truncates it meanwhile ends this one with a bus error; checkpoints are written by rename, never in place.
    unsafe { Mmap::map(file) }
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
    #[should_panic(expected = "the input must be")]
    fn a_short_input_is_refused() {
        product(&mut [0.0; 4], &[0.0; 4], &[0.0; 3], 2, 2, 2);
    }
}
