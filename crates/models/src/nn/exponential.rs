//! `exp` and `expm1` on vectors: the building blocks of the kernels here.

use rten_simd::Isa;
use rten_simd::Simd;
use rten_simd::ops::{BitOps, FloatOps, IntOps, NumOps};

/// Adding and subtracting `1.5 * 2^23` rounds to an integer and leaves it in the low bits of the sum.
const ROUND: f32 = 12_582_912.0;

/// `ln 2` in two parts; the first has few enough bits that small multiples of it are exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// `(exp(f) - 1 - f) / f^2` for `|f| <= ln(2)/2`: relative error 1.1e-8, a least-squares fit at Chebyshev nodes.
const REMAINDER: [f32; 6] = [0.5, 0.166_666_67, 0.041_666_46, 0.008_333_375, 0.001_393_447, 0.000_198_496_83];

/// `x = k ln 2 + f` with `|f| <= ln(2)/2`: returns `(2^k, f, exp(f) - 1 - f)`. For `|x| <= 87`; NaN stays NaN in the last two.
#[inline(always)]
fn split<I: Isa>(isa: I, x: I::F32) -> (I::F32, I::F32, I::F32) {
    let (ops, integers) = (isa.f32(), isa.i32());
    let shifted = ops.mul_add(x, ops.splat(std::f32::consts::LOG2_E), ops.splat(ROUND));
    let multiple = ops.sub(shifted, ops.splat(ROUND));
    let fraction = ops.mul_add(multiple, ops.splat(-LN2_HIGH), x);
    let fraction = ops.mul_add(multiple, ops.splat(-LN2_LOW), fraction);
    let mut series = ops.splat(REMAINDER[5]);
    for coefficient in REMAINDER[..5].iter().rev() {
        series = ops.mul_add(series, fraction, ops.splat(*coefficient));
    }
    let remainder = ops.mul(series, ops.mul(fraction, fraction));
    // 2^k by adding k to the exponent bits of 1: the constant in `shifted` is a multiple of 2^9 and leaves in the shift.
    let bits: I::I32 = shifted.reinterpret_cast();
    let power = integers.add(ops.one().reinterpret_cast(), integers.shift_left::<23>(bits)).reinterpret_cast();
    (power, fraction, remainder)
}

/// `x` limited to `[-87, 87]`; the order of arguments keeps NaN.
#[inline(always)]
fn limited<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    let ops = isa.f32();
    ops.max(ops.splat(-87.0), ops.min(ops.splat(87.0), x))
}

/// `exp(x)`, `x` first limited to `[-87, 87]`: relative error at most 2e-7 (oracle: `f64`). NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    let ops = isa.f32();
    let (power, fraction, remainder) = split(isa, limited(isa, x));
    ops.mul(power, ops.add(ops.add(remainder, fraction), ops.one()))
}

/// `(exp(x) - 1, exp(x) - 1 - x)`, both with a relative error of at most a few 1e-7 where `|x| <= ln(2)/2` and at most 2e-6 beyond
/// (oracle: `f64`); the exponential's argument is limited to `[-87, 87]`.
///
/// `exp(x) - 1 - x = 2^k (exp(f) - 1 - f) + (2^k f - x) + (2^k - 1)`: for small `x`, where `k = 0`, the last two terms vanish and
/// nothing cancels.
#[inline(always)]
pub(crate) fn exp_m1<I: Isa>(isa: I, x: I::F32) -> (I::F32, I::F32) {
    let ops = isa.f32();
    let (power, fraction, remainder) = split(isa, limited(isa, x));
    let shift = ops.sub(power, ops.one());
    let value = ops.mul_add(power, ops.add(remainder, fraction), shift);
    let excess = ops.add(ops.mul_add(power, fraction, ops.sub(shift, x)), ops.mul(power, remainder));
    // Where k = 0 both are exact in form: power = 1, shift = 0, fraction = x.
    let small = ops.eq(power, ops.one());
    (value, ops.select(remainder, excess, small))
}

/// `tanh(x)` with a relative error of at most 1e-6 (oracle: `f64`).
#[inline(always)]
pub(crate) fn tanh<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    let ops = isa.f32();
    // Beyond 20 the result is 1 to the last bit; the square of the exponential would overflow.
    let doubled = ops.max(ops.splat(-40.0), ops.min(ops.splat(40.0), ops.add(x, x)));
    let (value, _) = exp_m1(isa, doubled);
    ops.div(value, ops.add(value, ops.splat(2.0)))
}

#[cfg(test)]
mod tests {
    use rten_simd::SimdOp;

    use super::*;

    struct All<'a>(&'a [f32], &'a mut Vec<[f32; 4]>);

    impl SimdOp for All<'_> {
        type Output = ();

        #[inline(always)]
        fn eval<I: Isa>(self, isa: I) {
            let ops = isa.f32();
            for inputs in self.0.chunks(ops.len()) {
                let (x, _) = ops.load_pad(inputs);
                let (first, second) = exp_m1(isa, x);
                let results = [exp(isa, x).to_array(), first.to_array(), second.to_array(), tanh(isa, x).to_array()];
                self.1.extend((0..inputs.len()).map(|lane| std::array::from_fn(|which| results[which].as_ref()[lane])));
            }
        }
    }

    #[test]
    fn within_the_stated_error_of_f64() {
        let mut inputs: Vec<f32> = (-86_000..=86_000).map(|i| i as f32 * 1e-3).collect();
        inputs.extend((-700..=700).map(|i| i as f32 * 1e-3));
        inputs.extend((-700..=700).map(|i| i as f32 * 1e-7));
        let mut results = Vec::new();
        All(&inputs, &mut results).dispatch();
        for (&x, &[exp, exp_m1, excess, tanh]) in inputs.iter().zip(&results) {
            let exact = f64::from(x);
            let bound = if x.abs() < 0.34 { 4e-7 } else { 2e-6 };
            let exact_excess = if x.abs() < 0.05 {
                exact * exact * (0.5 + exact / 6.0 + exact * exact / 24.0 + exact.powi(3) / 120.0 + exact.powi(4) / 720.0)
            } else {
                exact.exp_m1() - exact
            };
            assert!((f64::from(exp) / exact.exp() - 1.0).abs() < 2e-7, "exp({x}) = {exp}");
            assert!((f64::from(exp_m1) - exact.exp_m1()).abs() <= bound * exact.exp_m1().abs(), "expm1({x}) = {exp_m1}");
            assert!((f64::from(excess) - exact_excess).abs() <= bound * exact_excess, "expm1({x}) - {x} = {excess} not {exact_excess}");
            assert!((f64::from(tanh) - exact.tanh()).abs() <= 1e-6 * exact.tanh().abs(), "tanh({x}) = {tanh}");
        }
        let mut results = Vec::new();
        All(&[f32::NAN, f32::NEG_INFINITY, 1e9], &mut results).dispatch();
        assert!(results[0].iter().all(|value| value.is_nan()));
        assert!(results[1][0] < 1e-37 && results[1][3] == -1.0 && results[2][3] == 1.0);
    }
}
