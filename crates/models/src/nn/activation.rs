//! The activations of decoders, in place on vectors.

use rten_simd::ops::{FloatOps, NumOps};
use rten_simd::{Isa, Simd, SimdOp};

use super::exponential::exp;
use super::gelu_tanh;

/// `exp(y^2/2) (1 - Phi(y))` as a polynomial in `1 / (1 + y/4)`: relative error 1.7e-8 for `0 <= y <= 14`, a least-squares fit.
const TAIL: [f32; 10] = [
    -2.279_62e-5,
    0.100_253_46,
    0.094_605_54,
    0.122_629_08,
    -0.023_638_664,
    0.310_915_1,
    -0.341_654_2,
    0.401_489_1,
    -0.199_086_86,
    0.034_510_21,
];

/// Numbers that are on their way at once where a function and its derivative are both wanted.
const BLOCK: usize = 256;

/// What stands between the matrices of a multilayer perceptron.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum ActivationFunction {
    /// `max(x, 0)`.
    Relu,
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `x Phi(x)` with the normal distribution function.
    Gelu,
    /// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
    GeluTanh,
    /// `x / (1 + exp(-1.702 x))`.
    QuickGelu,
    /// The hyperbolic tangent.
    Tanh,
}

impl ActivationFunction {
    /// The function of the name that `config.json` uses.
    #[must_use]
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "relu" => Self::Relu,
            "silu" | "swish" => Self::Silu,
            "gelu" | "gelu_python" => Self::Gelu,
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_accurate" => Self::GeluTanh,
            "quick_gelu" => Self::QuickGelu,
            _ => return None,
        })
    }

    /// Applies the function to every element. Relative error at most 6e-7 for `x >= -1`, absolute error 1e-7 below (oracle: `f64`). NaN and
    /// infinite inputs come out as NaN or infinite, never as an ordinary number, except that `-infinity` is 0 after [`Self::Relu`].
    pub(crate) fn apply(self, values: &mut [f32]) {
        match self {
            // `f32::max` would drop a NaN.
            Self::Relu => values.iter_mut().for_each(|value| *value = if *value < 0.0 { 0.0 } else { *value }),
            Self::GeluTanh => gelu_tanh(values),
            Self::Silu => Sigmoid { values, slope: 1.0 }.dispatch(),
            Self::QuickGelu => Sigmoid { values, slope: 1.702 }.dispatch(),
            Self::Gelu => Gelu { values }.dispatch(),
            Self::Tanh => Tanh { values }.dispatch(),
        }
    }

    /// Adds `bias[row]` to row `row` of the feature-major `values` `[bias.len(), positions]` and applies the function, in place.
    ///
    /// # Panics
    /// If the length of `values` is not `bias.len() * positions`.
    pub(crate) fn add_bias_and_apply(self, values: &mut [f32], bias: &[f32], positions: usize) {
        assert_eq!(values.len(), bias.len() * positions, "the values must be [features, positions]");
        if self == Self::GeluTanh {
            return super::add_bias_gelu(values, bias, positions);
        }
        for (row, bias) in values.chunks_exact_mut(positions.max(1)).zip(bias) {
            row.iter_mut().for_each(|value| *value += bias);
        }
        self.apply(values);
    }

    /// Adds `bias` to `sums`, writes the function of them to `outputs` and leaves its derivative in their place: a row where a backward pass follows.
    ///
    /// # Panics
    /// If the lengths differ.
    pub(crate) fn add_bias_with_derivative(self, sums: &mut [f32], bias: f32, outputs: &mut [f32]) {
        if self == Self::GeluTanh {
            return super::add_bias_gelu_with_derivative(sums, bias, outputs);
        }
        assert_eq!(sums.len(), outputs.len(), "one output per sum");
        // In blocks, so that the inputs of the derivative are still in the first cache.
        for (sums, outputs) in sums.chunks_mut(BLOCK).zip(outputs.chunks_mut(BLOCK)) {
            let mut inputs = [0.0f32; BLOCK];
            let inputs = &mut inputs[..sums.len()];
            inputs.iter_mut().zip(&*sums).for_each(|(input, sum)| *input = sum + bias);
            outputs.copy_from_slice(inputs);
            self.apply(outputs);
            sums.fill(1.0);
            self.multiply_by_derivative(sums, inputs);
        }
    }

    /// Multiplies each element of `gradient` by the derivative of the function at the same element of `inputs`: the backward pass.
    /// Absolute error of the derivative at most 6e-7 (oracle: central differences in `f64`).
    ///
    /// # Panics
    /// If the lengths differ.
    pub(crate) fn multiply_by_derivative(self, gradient: &mut [f32], inputs: &[f32]) {
        assert_eq!(gradient.len(), inputs.len(), "one gradient per input");
        match self {
            Self::Relu => gradient.iter_mut().zip(inputs).for_each(|(gradient, &x)| *gradient *= if x > 0.0 { 1.0 } else { 0.0 }),
            Self::GeluTanh => super::multiply_by_gelu_derivative(gradient, inputs),
            Self::Silu => SigmoidDerivative { gradient, inputs, slope: 1.0 }.dispatch(),
            Self::QuickGelu => SigmoidDerivative { gradient, inputs, slope: 1.702 }.dispatch(),
            Self::Gelu => GeluDerivative { gradient, inputs }.dispatch(),
            Self::Tanh => TanhDerivative { gradient, inputs }.dispatch(),
        }
    }

    /// The function in `f64`: the oracle.
    #[must_use]
    pub(crate) fn exact(self, x: f64) -> f64 {
        match self {
            Self::Relu => x.max(0.0),
            Self::Silu => x / (1.0 + (-x).exp()),
            Self::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
            Self::GeluTanh => super::gelu_tanh_exact(x),
            Self::Gelu => x * normal_distribution(x),
            Self::Tanh => x.tanh(),
        }
    }
}

/// `Phi(x)` in `f64`: its series near zero, a continued fraction in the tails; absolute error below 1e-15.
fn normal_distribution(x: f64) -> f64 {
    let y = x.abs();
    let density = (-y * y / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if y < 4.0 {
        let (mut term, mut sum, mut odd) = (y, y, 1.0);
        while term > 1e-18 * sum {
            odd += 2.0;
            term *= y * y / odd;
            sum += term;
        }
        0.5 + x.signum() * density * sum
    } else {
        let tail = density / (1..80).rev().fold(y, |fraction, k| y + f64::from(k) / fraction);
        if x < 0.0 { tail } else { 1.0 - tail }
    }
}

/// Applies `function` to whole vectors of `values`, the last one padded.
#[inline(always)]
fn for_vectors<I: Isa>(isa: I, values: &mut [f32], function: impl Fn(I::F32) -> I::F32) {
    use rten_simd::ops::BitOps;
    let ops = isa.f32();
    for chunk in values.chunks_mut(ops.len()) {
        let (x, _) = ops.load_pad(chunk);
        let result = function(x).to_array();
        let kept = chunk.len();
        chunk.copy_from_slice(&result.as_ref()[..kept]);
    }
}

/// `x / (1 + exp(-slope x))`.
struct Sigmoid<'a> {
    values: &'a mut [f32],
    slope: f32,
}

impl SimdOp for Sigmoid<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        use rten_simd::ops::BitOps;
        let ops = isa.f32();
        let slope = ops.splat(-self.slope);
        for_vectors(isa, self.values, |x| ops.div(x, ops.add(ops.one(), exp(isa, ops.mul(x, slope)))));
    }
}

/// Replaces `gradient` by `function(gradient, inputs)`, vector by vector, the last one padded.
#[inline(always)]
fn for_pairs<I: Isa>(isa: I, gradient: &mut [f32], inputs: &[f32], function: impl Fn(I::F32, I::F32) -> I::F32) {
    use rten_simd::ops::BitOps;
    let ops = isa.f32();
    for (gradient, inputs) in gradient.chunks_mut(ops.len()).zip(inputs.chunks(ops.len())) {
        let result = function(ops.load_pad(gradient).0, ops.load_pad(inputs).0).to_array();
        let kept = gradient.len();
        gradient.copy_from_slice(&result.as_ref()[..kept]);
    }
}

/// With `e = exp(-slope x)`, `s = 1/(1 + e)`: the derivative is `s (1 + slope x (1 - s))`, and `1 - s = e s`.
struct SigmoidDerivative<'a> {
    gradient: &'a mut [f32],
    inputs: &'a [f32],
    slope: f32,
}

impl SimdOp for SigmoidDerivative<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        use rten_simd::ops::BitOps;
        let ops = isa.f32();
        let slope = ops.splat(self.slope);
        for_pairs(isa, self.gradient, self.inputs, |gradient, x| {
            let argument = ops.mul(x, slope);
            let power = exp(isa, ops.sub(ops.zero(), argument));
            let sigmoid = ops.div(ops.one(), ops.add(ops.one(), power));
            let derivative = ops.mul(sigmoid, ops.mul_add(argument, ops.mul(power, sigmoid), ops.one()));
            ops.mul(gradient, derivative)
        });
    }
}

/// `Phi(x) + x phi(x)`, with the smaller of `Phi` and `1 - Phi` from [`TAIL`].
struct GeluDerivative<'a> {
    gradient: &'a mut [f32],
    inputs: &'a [f32],
}

impl SimdOp for GeluDerivative<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        use rten_simd::ops::BitOps;
        let ops = isa.f32();
        // 1/sqrt(2 pi).
        let height = ops.splat(0.398_942_3);
        for_pairs(isa, self.gradient, self.inputs, |gradient, x| {
            let y = ops.abs(x);
            let t = ops.div(ops.one(), ops.mul_add(y, ops.splat(0.25), ops.one()));
            let mut series = ops.splat(TAIL[9]);
            for coefficient in TAIL[..9].iter().rev() {
                series = ops.mul_add(series, t, ops.splat(*coefficient));
            }
            let density = exp(isa, ops.mul(ops.mul(y, y), ops.splat(-0.5)));
            let tail = ops.mul(series, density);
            let distribution = ops.select(tail, ops.sub(ops.one(), tail), ops.lt(x, ops.zero()));
            let derivative = ops.mul_add(ops.mul(x, height), density, distribution);
            ops.mul(gradient, derivative)
        });
    }
}

/// `max(x, 0) - |x| (1 - Phi(|x|))`: no cancellation on either side.
struct Gelu<'a> {
    values: &'a mut [f32],
}

impl SimdOp for Gelu<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        use rten_simd::ops::BitOps;
        let ops = isa.f32();
        for_vectors(isa, self.values, |x| {
            let y = ops.abs(x);
            let t = ops.div(ops.one(), ops.mul_add(y, ops.splat(0.25), ops.one()));
            let mut series = ops.splat(TAIL[9]);
            for coefficient in TAIL[..9].iter().rev() {
                series = ops.mul_add(series, t, ops.splat(*coefficient));
            }
            let density = exp(isa, ops.mul(ops.mul(y, y), ops.splat(-0.5)));
            let tail = ops.mul(ops.mul(y, series), density);
            let positive = ops.mul(ops.add(x, y), ops.splat(0.5));
            // 0 * x is NaN for NaN and infinite x and changes nothing else.
            ops.mul_add(x, ops.zero(), ops.sub(positive, tail))
        });
    }
}

struct Tanh<'a> {
    values: &'a mut [f32],
}

impl SimdOp for Tanh<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        use rten_simd::ops::BitOps;
        let ops = isa.f32();
        // The limits of the exponential would make an ordinary number of NaN.
        for_vectors(isa, self.values, |x| ops.mul_add(x, ops.zero(), super::exponential::tanh(isa, x)));
    }
}

/// `1 - tanh(x)^2`, as `4 e / (1 + e)^2` with `e = exp(-2|x|)`: no cancellation in the tails.
struct TanhDerivative<'a> {
    gradient: &'a mut [f32],
    inputs: &'a [f32],
}

impl SimdOp for TanhDerivative<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        use rten_simd::ops::BitOps;
        let ops = isa.f32();
        for_pairs(isa, self.gradient, self.inputs, |gradient, x| {
            let power = exp(isa, ops.mul(ops.abs(x), ops.splat(-2.0)));
            let sum = ops.add(power, ops.one());
            ops.mul(gradient, ops.div(ops.mul(power, ops.splat(4.0)), ops.mul(sum, sum)))
        });
    }
}

/// `values = cap * tanh(scale * values / cap)`: a soft limit of scores or logits.
pub(crate) fn soft_cap(values: &mut [f32], scale: f32, cap: f32) {
    SoftCap { values, scale, cap }.dispatch();
}

struct SoftCap<'a> {
    values: &'a mut [f32],
    scale: f32,
    cap: f32,
}

impl SimdOp for SoftCap<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        use rten_simd::ops::BitOps;
        let ops = isa.f32();
        let (inner, cap) = (ops.splat(self.scale / self.cap), ops.splat(self.cap));
        for_vectors(isa, self.values, |x| {
            let capped = ops.mul(cap, super::exponential::tanh(isa, ops.mul(x, inner)));
            ops.mul_add(x, ops.zero(), capped)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_are_those_of_f64() {
        use ActivationFunction::{Gelu, GeluTanh, QuickGelu, Relu, Silu, Tanh};
        let inputs: Vec<f32> = (-120_000..=120_003).map(|i| i as f32 * 1e-4).collect();
        for function in [Relu, Silu, Gelu, GeluTanh, QuickGelu, Tanh] {
            let mut values = inputs.clone();
            function.apply(&mut values);
            for (&x, &value) in inputs.iter().zip(&values) {
                let exact = function.exact(f64::from(x));
                let bound = match function {
                    Tanh => 1e-6 * exact.abs(),
                    _ if x < -1.0 => 1e-7,
                    _ => 6e-7 * exact.abs(),
                };
                // Near -1 and beyond the zero of x the bound is on the value itself.
                assert!((f64::from(value) - exact).abs() <= bound + 1e-12, "{function:?}({x}) = {value}, exact {exact}");
            }
            let mut bad = [f32::NAN, f32::INFINITY];
            function.apply(&mut bad);
            // An infinite weight shows even where the function has a limit.
            assert!(bad[0].is_nan() && !bad[1].is_finite(), "{function:?}: {bad:?}");
        }
        assert!((normal_distribution(1.0) - 0.841_344_746_068_542_9).abs() < 1e-15);
        assert!((normal_distribution(-5.0) / 2.866_515_718_791_939e-7 - 1.0).abs() < 1e-12);
    }

    #[test]
    fn derivatives_are_those_of_f64() {
        use ActivationFunction::{Gelu, GeluTanh, QuickGelu, Relu, Silu, Tanh};
        let inputs: Vec<f32> = (-120_000..=120_003).map(|i| i as f32 * 1e-4 + 3e-5).collect();
        for function in [Relu, Silu, Gelu, GeluTanh, QuickGelu, Tanh] {
            let mut gradient = vec![2.0f32; inputs.len()];
            function.multiply_by_derivative(&mut gradient, &inputs);
            for (&x, &value) in inputs.iter().zip(&gradient) {
                let (x, step) = (f64::from(x), 1e-5);
                let exact = (function.exact(x + step) - function.exact(x - step)) / (2.0 * step);
                assert!((f64::from(value) / 2.0 - exact).abs() < 6e-7, "{function:?} at {x}: {} not {exact}", value / 2.0);
            }
        }
    }

    #[test]
    fn sums_with_their_derivatives_are_those_of_both_steps() {
        use ActivationFunction::{Gelu, GeluTanh, Relu, Silu, Tanh};
        let sums: Vec<f32> = (-600..=603).map(|i| i as f32 * 0.01 + 3e-4).collect();
        for function in [Relu, Silu, Gelu, GeluTanh, Tanh] {
            let (mut outputs, mut derivatives) = (vec![0.0f32; sums.len()], sums.clone());
            function.add_bias_with_derivative(&mut derivatives, 0.25, &mut outputs);
            let mut both = sums.clone();
            let half = sums.len() / 2;
            function.add_bias_and_apply(&mut both, &[0.25, 0.25], half);
            assert_eq!(both, outputs, "{function:?}");
            for (&sum, &derivative) in sums.iter().zip(&derivatives) {
                let (x, step) = (f64::from(sum + 0.25), 1e-5);
                let exact = (function.exact(x + step) - function.exact(x - step)) / (2.0 * step);
                assert!((f64::from(derivative) - exact).abs() < 1e-6, "{function:?} at {x}: {derivative} not {exact}");
            }
        }
    }

    #[test]
    fn the_soft_cap_is_that_of_f64() {
        let mut values: Vec<f32> = (-2000..2001).map(|i| i as f32 * 0.1).collect();
        let exact: Vec<f64> = values.iter().map(|&x| 30.0 * (f64::from(x) * 0.25 / 30.0).tanh()).collect();
        soft_cap(&mut values, 0.25, 30.0);
        for (value, exact) in values.iter().zip(exact) {
            assert!((f64::from(*value) - exact).abs() <= 2e-6 * exact.abs(), "{value} not {exact}");
        }
    }
}
