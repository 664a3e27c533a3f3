//! The same network in `f64` with plain loops: the oracle of the tests, and the yardstick for the rounding noise.

use super::ActivationFunction;

/// `gelu(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))` in `f64`, as `x / (1 + exp(-2y))` to keep the digits at negative `x`.
#[must_use]
pub(crate) fn gelu_tanh_exact(x: f64) -> f64 {
    let y = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
    x / (1.0 + (-2.0 * y).exp())
}

/// Logits of one input in `f64`. `weights` are the flat parameters of a multilayer perceptron with these `widths` (weight `[out, in]`
/// then bias, layer by layer), with `function` between layers.
///
/// # Panics
/// If `weights` or `input` are shorter than the widths say.
#[must_use]
pub(crate) fn logits_exact(widths: &[usize], function: ActivationFunction, weights: &[f32], input: &[f32]) -> Vec<f64> {
    let mut values: Vec<f64> = input.iter().map(|&value| f64::from(value)).collect();
    let mut rest = weights;
    for (layer, pair) in widths.windows(2).enumerate() {
        let (inputs, outputs) = (pair[0], pair[1]);
        let (weight, after) = rest.split_at(inputs * outputs);
        let (bias, after) = after.split_at(outputs);
        rest = after;
        values = weight
            .chunks_exact(inputs)
            .zip(bias)
            .map(|(row, &bias)| {
                let sum = row.iter().zip(&values).map(|(&weight, value)| f64::from(weight) * value).sum::<f64>() + f64::from(bias);
                if layer + 2 < widths.len() { function.exact(sum) } else { sum }
            })
            .collect();
    }
    values
}
