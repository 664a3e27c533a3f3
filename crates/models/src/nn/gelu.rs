//! The tanh approximation of gelu, fused with the bias, on the widest vectors the machine has.

use rten_simd::ops::{BitOps, FloatOps, IntOps, NumOps};
use rten_simd::{Isa, Simd, SimdOp};

/// `-2 sqrt(2/pi) log2(e)`, and the same times 0.044715: the exponent of two in `x / (1 + 2^z)` is `z = x (LINEAR + CUBIC x^2)`.
const LINEAR: f32 = -2.302_208_2;
const CUBIC: f32 = -0.102_943_24;

/// `2^f` for `|f| <= 1/2`: relative error 1.6e-8, a least-squares fit at Chebyshev nodes.
const EXP2: [f32; 7] = [1.0, std::f32::consts::LN_2, 0.240_226_46, 0.055_503_29, 0.009_618_52, 0.001_339_986, 0.000_153_375_77];

/// Adding and subtracting `1.5 * 2^23` rounds to an integer and leaves it in the low bits of the sum.
const ROUND: f32 = 12_582_912.0;

/// Adds `bias[row]` to row `row` of the feature-major `values` `[bias.len(), positions]` and applies gelu, in place.
///
/// `gelu(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`, computed as `x / (1 + exp(-2y))`, which is the same number without the
/// cancellation of `1 + tanh` at negative `x`, and half the work. Oracle: `f64`. Error at most 3 units in the last place of the result
/// for `x >= -1` and at most 6e-8 below; NaN and infinite inputs give NaN, so that no infinite weight goes unseen.
///
/// # Panics
/// If the length of `values` is not `bias.len() * positions`.
pub fn add_bias_gelu(values: &mut [f32], bias: &[f32], positions: usize) {
    assert_eq!(values.len(), bias.len() * positions, "the values must be [features, positions]");
    if positions > 0 {
        BiasGelu { values, bias, positions }.dispatch();
    }
}

/// Gelu (tanh form) of every element, in place: [`add_bias_gelu`] without a bias.
pub(crate) fn gelu_tanh(values: &mut [f32]) {
    let positions = values.len();
    add_bias_gelu(values, &[0.0], positions);
}

/// Adds `bias` to `sums`, writes their gelu to `outputs` and leaves its derivative in their place: [`add_bias_gelu`] of one row where a
/// backward pass follows, which then needs no exponential of its own.
///
/// The outputs have the bits of [`add_bias_gelu`], the derivatives those of [`multiply_by_gelu_derivative`] of ones.
///
/// # Panics
/// If the lengths differ.
pub(crate) fn add_bias_gelu_with_derivative(sums: &mut [f32], bias: f32, outputs: &mut [f32]) {
    assert_eq!(sums.len(), outputs.len(), "one output per sum");
    WithDerivative { sums, bias, outputs }.dispatch();
}

/// Multiplies each element of `gradient` by the derivative of gelu (tanh form) at the same element of `inputs`: the backward pass.
///
/// With `s = 1/(1 + 2^z)`: `gelu'(x) = s + x s (1-s) sqrt(8/pi) (1 + 0.134145 x^2)`. Oracle: central differences in `f64`; error at most
/// 4e-7.
///
/// # Panics
/// If the lengths differ.
pub(crate) fn multiply_by_gelu_derivative(gradient: &mut [f32], inputs: &[f32]) {
    assert_eq!(gradient.len(), inputs.len(), "one gradient per input");
    Derivative { gradient, inputs }.dispatch();
}

struct Derivative<'a> {
    gradient: &'a mut [f32],
    inputs: &'a [f32],
}

impl SimdOp for Derivative<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let lanes = ops.len();
        let mut gradients = self.gradient.chunks_exact_mut(lanes);
        let inputs = self.inputs.chunks_exact(lanes);
        let last = inputs.remainder();
        for (gradient, inputs) in (&mut gradients).zip(inputs) {
            let result = ops.mul(ops.load(gradient), vector_derivative(isa, ops.load(inputs)));
            ops.store(result, gradient);
        }
        let gradient = gradients.into_remainder();
        let result = ops.mul(ops.load_pad(gradient).0, vector_derivative(isa, ops.load_pad(last).0)).to_array();
        let kept = gradient.len();
        gradient.copy_from_slice(&result.as_ref()[..kept]);
    }
}

struct WithDerivative<'a> {
    sums: &'a mut [f32],
    bias: f32,
    outputs: &'a mut [f32],
}

impl SimdOp for WithDerivative<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let lanes = ops.len();
        let bias = ops.splat(self.bias);
        let mut sums = self.sums.chunks_exact_mut(lanes);
        let mut outputs = self.outputs.chunks_exact_mut(lanes);
        for (sums, outputs) in (&mut sums).zip(&mut outputs) {
            let (value, derivative) = vector_gelu_with_derivative(isa, ops.add(ops.load(sums), bias));
            ops.store(derivative, sums);
            ops.store(value, outputs);
        }
        let (sums, outputs) = (sums.into_remainder(), outputs.into_remainder());
        let (value, derivative) = vector_gelu_with_derivative(isa, ops.add(ops.load_pad(sums).0, bias));
        let (kept, value, derivative) = (sums.len(), value.to_array(), derivative.to_array());
        sums.copy_from_slice(&derivative.as_ref()[..kept]);
        outputs.copy_from_slice(&value.as_ref()[..kept]);
    }
}

struct BiasGelu<'a> {
    values: &'a mut [f32],
    bias: &'a [f32],
    positions: usize,
}

impl SimdOp for BiasGelu<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let lanes = ops.len();
        for (row, &bias) in self.values.chunks_exact_mut(self.positions).zip(self.bias) {
            let bias = ops.splat(bias);
            let mut pairs = row.chunks_exact_mut(2 * lanes);
            for pair in &mut pairs {
                // Two independent chains hide the latency of the polynomial.
                let (left, right) = pair.split_at_mut(lanes);
                let first = ops.add(ops.load(left), bias);
                let second = ops.add(ops.load(right), bias);
                let first = vector_gelu(isa, first);
                let second = vector_gelu(isa, second);
                ops.store(first, left);
                ops.store(second, right);
            }
            for chunk in pairs.into_remainder().chunks_mut(lanes) {
                let (x, _) = ops.load_pad(chunk);
                let result = vector_gelu(isa, ops.add(x, bias));
                let result = result.to_array();
                let kept = chunk.len();
                chunk.copy_from_slice(&result.as_ref()[..kept]);
            }
        }
    }
}

/// The exponent `z` of `x / (1 + 2^z)`, limited to where the result is `x` or 0 to the last bit. The order of arguments keeps NaN.
#[inline(always)]
fn exponent<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    let ops = isa.f32();
    let z = ops.mul(x, ops.mul_add(ops.mul(x, x), ops.splat(CUBIC), ops.splat(LINEAR)));
    ops.max(ops.splat(-125.0), ops.min(ops.splat(125.0), z))
}

/// `2^z` for `|z| <= 125`.
#[inline(always)]
fn power_of_two<I: Isa>(isa: I, z: I::F32) -> I::F32 {
    let (ops, integers) = (isa.f32(), isa.i32());
    let shifted = ops.add(z, ops.splat(ROUND));
    let fraction = ops.sub(z, ops.sub(shifted, ops.splat(ROUND)));
    let mut power = ops.splat(EXP2[6]);
    for coefficient in EXP2[..6].iter().rev() {
        power = ops.mul_add(power, fraction, ops.splat(*coefficient));
    }
    // 2^k by adding k to the exponent bits: the constant in `shifted` is a multiple of 2^9 and leaves in the shift.
    let bits: I::I32 = shifted.reinterpret_cast();
    integers.add(power.reinterpret_cast(), integers.shift_left::<23>(bits)).reinterpret_cast()
}

/// `gelu'(x)` for one vector.
#[inline(always)]
fn vector_derivative<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    derivative_of_power(isa, x, power_of_two(isa, exponent(isa, x)))
}

/// `gelu'(x)` where `power` is `2^z`.
#[inline(always)]
fn derivative_of_power<I: Isa>(isa: I, x: I::F32, power: I::F32) -> I::F32 {
    let ops = isa.f32();
    let sigmoid = ops.div(ops.one(), ops.add(ops.one(), power));
    // 1 - s without cancellation.
    let complement = ops.mul(power, sigmoid);
    // -ln 2 (LINEAR + 3 CUBIC x^2); beyond |x| = 20 the derivative is 0 or 1, and squares would overflow.
    let limited = ops.max(ops.splat(-20.0), ops.min(ops.splat(20.0), x));
    let slope = ops.mul_add(
        ops.mul(limited, limited),
        ops.splat(-3.0 * std::f32::consts::LN_2 * CUBIC),
        ops.splat(-std::f32::consts::LN_2 * LINEAR),
    );
    let change = ops.mul(ops.mul(limited, sigmoid), ops.mul(complement, slope));
    ops.add(sigmoid, change)
}

/// `x / (1 + 2^z)` for one vector.
#[inline(always)]
fn vector_gelu<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    gelu_of_power(isa, x, power_of_two(isa, exponent(isa, x)))
}

/// `x / (1 + power)` where `power` is `2^z`.
#[inline(always)]
fn gelu_of_power<I: Isa>(isa: I, x: I::F32, power: I::F32) -> I::F32 {
    let ops = isa.f32();
    // Below -11 gelu is 0 to the last bit, but x / 2^125 of a huge x is not.
    let numerator = ops.max(ops.splat(-11.0), x);
    let result = ops.div(numerator, ops.add(ops.one(), power));
    // 0 * x is NaN for NaN and infinite x and changes nothing else.
    ops.mul_add(x, ops.zero(), result)
}

/// `gelu(x)` and `gelu'(x)` for one vector.
#[inline(always)]
fn vector_gelu_with_derivative<I: Isa>(isa: I, x: I::F32) -> (I::F32, I::F32) {
    let power = power_of_two(isa, exponent(isa, x));
    (gelu_of_power(isa, x, power), derivative_of_power(isa, x, power))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::gelu_tanh_exact;

    fn ulp(value: f64) -> f64 {
        f64::from((value as f32).abs().next_up() - (value as f32).abs())
    }

    #[test]
    fn within_the_stated_error_of_f64() {
        let mut inputs: Vec<f32> = (-1_200_000..=1_200_000).map(|i| i as f32 * 1e-5).collect();
        for exponent in -120..=120 {
            for mantissa in [1.0f32, 1.37, 1.9] {
                let value = mantissa * (f64::from(exponent)).exp2() as f32;
                inputs.extend([value, -value]);
            }
        }
        let mut values = inputs.clone();
        gelu_tanh(&mut values);
        let (mut worst_ulp, mut worst_absolute) = (0.0f64, 0.0f64);
        for (&x, &value) in inputs.iter().zip(&values) {
            let exact = gelu_tanh_exact(f64::from(x));
            let error = (f64::from(value) - exact).abs();
            if x >= -1.0 {
                worst_ulp = worst_ulp.max(error / ulp(exact));
                assert!(error <= 3.0 * ulp(exact), "gelu({x}) = {value}, exact {exact}");
            } else {
                worst_absolute = worst_absolute.max(error);
                assert!(error <= 6e-8, "gelu({x}) = {value}, exact {exact}");
            }
        }
        // The bounds are not loose: a change of the method shows here.
        assert!(worst_ulp > 1.0 && worst_absolute > 5e-9, "{worst_ulp} ulp, {worst_absolute}");
    }

    #[test]
    fn values_that_are_not_finite_come_out_as_nan() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in [0, 15, 31, 32, 40] {
                let mut values = vec![1.0f32; 41];
                values[place] = bad;
                gelu_tanh(&mut values);
                for (index, value) in values.iter().enumerate() {
                    assert_eq!(value.is_nan(), index == place, "{bad} at {place}: element {index} is {value}");
                }
            }
        }
    }

    #[test]
    fn the_derivative_is_that_of_f64() {
        let inputs: Vec<f32> = (-30_007..=30_000).map(|i| i as f32 * 1e-3).collect();
        let mut gradient = vec![2.0f32; inputs.len()];
        multiply_by_gelu_derivative(&mut gradient, &inputs);
        for (&x, &value) in inputs.iter().zip(&gradient) {
            let (x, step) = (f64::from(x), 1e-5);
            let exact = (gelu_tanh_exact(x + step) - gelu_tanh_exact(x - step)) / (2.0 * step);
            assert!((f64::from(value) / 2.0 - exact).abs() < 4e-7, "derivative at {x}: {} not {exact}", value / 2.0);
        }
    }

    #[test]
    fn the_bias_belongs_to_its_row_whatever_the_width() {
        for positions in [1usize, 7, 16, 33, 64] {
            let bias = [0.5f32, -1.25, 2.0];
            let source: Vec<f32> = (0..3 * positions).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
            let mut values = source.clone();
            add_bias_gelu(&mut values, &bias, positions);
            let (mut sums, mut outputs) = (source.clone(), vec![f32::NAN; source.len()]);
            for ((sums, outputs), &bias) in sums.chunks_mut(positions).zip(outputs.chunks_mut(positions)).zip(&bias) {
                add_bias_gelu_with_derivative(sums, bias, outputs);
            }
            assert_eq!(outputs, values);
            let biased: Vec<f32> = source.iter().enumerate().map(|(index, value)| value + bias[index / positions]).collect();
            let mut derivatives = vec![1.0f32; source.len()];
            multiply_by_gelu_derivative(&mut derivatives, &biased);
            assert_eq!(sums, derivatives);
            for (index, &value) in values.iter().enumerate() {
                let exact = gelu_tanh_exact(f64::from(source[index] + bias[index / positions]));
                assert!((f64::from(value) - exact).abs() < 5e-7, "{positions} positions, element {index}");
            }
        }
    }
}
