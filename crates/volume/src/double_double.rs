//! Numbers of about 32 digits, as the unevaluated sum of two `f64`.
//!
//! The radial integral at dimension 1e12 is a difference of terms near 1e14 that must be known to 1e-8: 22 digits, six more than an
//! `f64` has. These terms are evaluated once per ray, so this module is small rather than fast (a logarithm takes under a
//! microsecond). Products are split after Dekker (1971) and not formed with `f64::mul_add`, which is a library
//! call unless the target is compiled with fused multiply-add. Algorithms: Hida, Li & Bailey 2001, *Quad-double arithmetic*.

use std::ops::{Add, Div, Mul, Neg, Sub};
use std::sync::LazyLock;

/// `hi + lo` with `|lo| <= ulp(hi)/2`: about 106 bits.
///
/// Domain: sums and products whose parts are normal numbers (`hi` between about 1e-270 and 1e300 in absolute value, or 0); outside it the
/// second part loses digits, the first stays right. An infinite or NaN result has `lo = 0`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct DoubleDouble {
    hi: f64,
    lo: f64,
}

/// `a + b` and its rounding error, exactly. Any order of magnitudes.
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let b_part = sum - a;
    (sum, (a - (sum - b_part)) + (b - b_part))
}

/// [`two_sum`] for `|a| >= |b|`.
fn quick_two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    (sum, b - (sum - a))
}

/// `a = high + low` with at most 26 bits each.
fn split(a: f64) -> (f64, f64) {
    const SPLITTER: f64 = 134_217_729.0; // 2^27 + 1
    let shifted = SPLITTER * a;
    let high = shifted - (shifted - a);
    (high, a - high)
}

/// `a b` and its rounding error, exactly unless the error underflows.
fn two_product(a: f64, b: f64) -> (f64, f64) {
    let product = a * b;
    let (a_high, a_low) = split(a);
    let (b_high, b_low) = split(b);
    (product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low)
}

impl DoubleDouble {
    /// Zero.
    pub const ZERO: Self = Self { hi: 0.0, lo: 0.0 };
    /// One.
    pub const ONE: Self = Self { hi: 1.0, lo: 0.0 };
    /// The circle number.
    pub const PI: Self = Self { hi: std::f64::consts::PI, lo: 1.224_646_799_147_353_2e-16 };
    /// `ln 2`.
    pub const LN_2: Self = Self { hi: std::f64::consts::LN_2, lo: 2.319_046_813_846_299_6e-17 };
    /// `ln pi`.
    pub const LN_PI: Self = Self { hi: 1.144_729_885_849_400_2, lo: 1.026_595_116_270_782_6e-17 };
    /// `ln(2 pi) / 2`.
    const HALF_LN_TAU: Self = Self { hi: 0.918_938_533_204_672_8, lo: -3.878_294_158_067_241_4e-17 };

    /// The sum of two numbers, exactly.
    #[must_use]
    pub fn from_sum(a: f64, b: f64) -> Self {
        Self::checked(two_sum(a, b))
    }

    /// The product of two numbers, exactly (unless its last digits underflow).
    #[must_use]
    pub fn from_product(a: f64, b: f64) -> Self {
        Self::checked(two_product(a, b))
    }

    fn checked((hi, lo): (f64, f64)) -> Self {
        // The error of an overflow is NaN or infinite, and must not spoil it.
        if hi.is_finite() && lo.is_finite() { Self { hi, lo } } else { Self { hi, lo: 0.0 } }
    }

    /// The nearest `f64`.
    #[must_use]
    pub fn to_f64(self) -> f64 {
        self.hi
    }

    /// What [`DoubleDouble::to_f64`] leaves out.
    #[must_use]
    pub fn low(self) -> f64 {
        self.lo
    }

    /// Multiplied by `2^exponent`; exact unless it overflows or underflows.
    #[must_use]
    pub fn scaled_by_power_of_two(self, exponent: i64) -> Self {
        let hi = scale_by_power_of_two(self.hi, exponent);
        Self::checked((hi, scale_by_power_of_two(self.lo, exponent)))
    }

    /// The square root; relative error under `2^-102` (oracle: mpmath). Negative: NaN.
    #[must_use]
    pub fn sqrt(self) -> Self {
        if self.hi == 0.0 || !self.hi.is_finite() {
            return Self::from(self.hi.sqrt());
        }
        // One Newton step for x^-2 = a, written so that only the residual needs all digits (Karp & Markstein).
        let inverse = 1.0 / self.hi.sqrt();
        let root = self.hi * inverse;
        let residual = (self - Self::from_product(root, root)).hi;
        Self::checked(quick_two_sum(root, 0.5 * residual * inverse))
    }

    /// The natural logarithm; absolute error under `2^-100 max(1, |ln|)` (oracle: mpmath). Zero: -inf; negative: NaN.
    ///
    /// With `x = 2^e m`, `m` in `[0.7, 1.5)`, and `y` the `f64` logarithm of `m`: `ln x = e ln 2 + y + (m e^-y - 1)`. The bracket is about 1e-16, and
    /// what Newton's step neglects about 1e-33.
    #[must_use]
    pub fn ln(self) -> Self {
        if self.hi <= 0.0 || !self.hi.is_finite() {
            return Self::from(self.hi.ln());
        }
        let (mut mantissa, mut exponent) = mantissa_and_exponent(self.hi);
        if mantissa > std::f64::consts::SQRT_2 {
            mantissa *= 0.5;
            exponent += 1;
        }
        let reduced = Self { hi: mantissa, lo: scale_by_power_of_two(self.lo, -exponent) };
        let estimate = mantissa.ln();
        // m e^-y - 1 = (m - 1) + m expm1(-y): the 1 is gone before digits are lost to it.
        let correction = (reduced - Self::ONE) + reduced * expm1(-estimate);
        Self::LN_2 * exponent as f64 + (correction + estimate)
    }
}

/// `e^x - 1` for `|x| < 0.4`; relative error about `2^-100`.
fn expm1(x: f64) -> DoubleDouble {
    const HALVINGS: i32 = 9;
    const TERMS: i32 = 10;
    let small = DoubleDouble::from(scale_by_power_of_two(x, -i64::from(HALVINGS)));
    // Horner: x (1 + x/2 (1 + x/3 (...))).
    let mut sum = DoubleDouble::ONE;
    for n in (2..=TERMS).rev() {
        sum = DoubleDouble::ONE + sum * small / f64::from(n);
    }
    let mut value = sum * small;
    for _ in 0..HALVINGS {
        // e^2x - 1 = 2 (e^x - 1) + (e^x - 1)^2
        value = value + value + value * value;
    }
    value
}

/// `x = m 2^e` with `1 <= |m| < 2`, subnormal numbers included; 0, infinity and NaN come back with exponent 0.
pub(crate) fn mantissa_and_exponent(x: f64) -> (f64, i64) {
    if x == 0.0 || !x.is_finite() {
        return (x, 0);
    }
    const SUBNORMAL_SHIFT: i64 = 64;
    if x.abs() < f64::MIN_POSITIVE {
        let (mantissa, exponent) = mantissa_and_exponent(scale_by_power_of_two(x, SUBNORMAL_SHIFT));
        return (mantissa, exponent - SUBNORMAL_SHIFT);
    }
    let bits = x.to_bits();
    let exponent = ((bits >> 52) & 0x7ff) as i64 - 1023;
    (f64::from_bits((bits & !(0x7ff << 52)) | (1023 << 52)), exponent)
}

fn scale_by_power_of_two(x: f64, exponent: i64) -> f64 {
    let mut value = x;
    let mut rest = exponent.clamp(-3000, 3000);
    while rest != 0 {
        let step = rest.clamp(-1000, 1000);
        value *= f64::from_bits(((step + 1023) as u64) << 52);
        rest -= step;
    }
    value
}

/// `ln Gamma(z)` for `z > 0`; absolute error under `1e-30 max(1, |ln Gamma(z)|)` (oracle: mpmath, 0.5 to 5e11).
///
/// Stirling's series from `z >= 24`; below, `ln Gamma(z) = ln Gamma(z + n) - ln( z (z+1) ... (z+n-1) )`, whose digits are absolute, so near the
/// zeros at 1 and 2 the relative error is not small.
#[must_use]
pub fn ln_gamma(z: f64) -> DoubleDouble {
    /// From here 15 terms of the series are good to 1e-34.
    const STIRLING_FROM: f64 = 24.0;
    /// `B_2k / (2k (2k-1))` from the Bernoulli numbers as fractions, which are exact in `f64`.
    static COEFFICIENTS: LazyLock<[DoubleDouble; 15]> = LazyLock::new(|| {
        const BERNOULLI: [(f64, f64); 15] = [
            (1.0, 6.0),
            (-1.0, 30.0),
            (1.0, 42.0),
            (-1.0, 30.0),
            (5.0, 66.0),
            (-691.0, 2730.0),
            (7.0, 6.0),
            (-3617.0, 510.0),
            (43_867.0, 798.0),
            (-174_611.0, 330.0),
            (854_513.0, 138.0),
            (-236_364_091.0, 2730.0),
            (8_553_103.0, 6.0),
            (-23_749_461_029.0, 870.0),
            (8_615_841_276_005.0, 14_322.0),
        ];
        std::array::from_fn(|index| {
            let (numerator, denominator) = BERNOULLI[index];
            let two_k = 2.0 * (index as f64 + 1.0);
            DoubleDouble::from(numerator) / (denominator * two_k * (two_k - 1.0))
        })
    });
    let mut shifted = z;
    let mut product = DoubleDouble::ONE;
    while shifted < STIRLING_FROM {
        product = product * shifted;
        shifted += 1.0;
    }
    let inverse = DoubleDouble::ONE / shifted;
    let inverse_squared = inverse * inverse;
    let mut power = inverse;
    let mut series = DoubleDouble::ZERO;
    for &coefficient in &*COEFFICIENTS {
        let term = coefficient * power;
        series = series + term;
        if term.hi.abs() < 1e-35 {
            break;
        }
        power = power * inverse_squared;
    }
    let main = DoubleDouble::from(shifted).ln() * DoubleDouble::from_sum(shifted, -0.5) - shifted;
    let value = main + (DoubleDouble::HALF_LN_TAU + series);
    if z < STIRLING_FROM { value - product.ln() } else { value }
}

impl From<f64> for DoubleDouble {
    fn from(hi: f64) -> Self {
        Self { hi, lo: 0.0 }
    }
}

impl Neg for DoubleDouble {
    type Output = Self;
    fn neg(self) -> Self {
        Self { hi: -self.hi, lo: -self.lo }
    }
}

impl Add for DoubleDouble {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        // The sum with two renormalisations: its relative error stays small when the high parts cancel.
        let (sum, error) = two_sum(self.hi, other.hi);
        if !sum.is_finite() {
            return Self::from(sum);
        }
        let (low_sum, low_error) = two_sum(self.lo, other.lo);
        let (sum, error) = quick_two_sum(sum, error + low_sum);
        Self::checked(quick_two_sum(sum, error + low_error))
    }
}

impl Sub for DoubleDouble {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl Mul for DoubleDouble {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        let (product, error) = two_product(self.hi, other.hi);
        if !(product.is_finite() && error.is_finite()) {
            return Self::from(product);
        }
        Self::checked(quick_two_sum(product, error + (self.hi * other.lo + self.lo * other.hi)))
    }
}

impl Div for DoubleDouble {
    type Output = Self;
    fn div(self, other: Self) -> Self {
        let first = self.hi / other.hi;
        if first == 0.0 || !first.is_finite() || !other.hi.is_finite() {
            return Self::from(first);
        }
        let rest = self - other * first;
        let second = rest.hi / other.hi;
        let third = (rest - other * second).hi / other.hi;
        let (hi, lo) = quick_two_sum(first, second);
        Self::checked((hi, lo)) + third
    }
}

macro_rules! with_f64 {
    ($($operation:ident :: $method:ident),*) => {$(
        impl $operation<f64> for DoubleDouble {
            type Output = Self;
            fn $method(self, other: f64) -> Self {
                $operation::$method(self, Self::from(other))
            }
        }
    )*};
}

with_f64!(Add::add, Sub::sub, Mul::mul, Div::div);

#[cfg(test)]
mod tests {
    use super::*;

    /// `(value - (hi + lo)) / scale`.
    fn error(value: DoubleDouble, truth: (f64, f64)) -> f64 {
        ((value.hi - truth.0) + (value.lo - truth.1)).abs()
    }

    /// Rows from `mpmath` at 80 digits: argument, and the value as its nearest `f64` and the rest.
    #[test]
    fn logarithms_agree_with_mpmath() {
        let table = [
            (3.0, (1.0986122886681098, -9.07129723500153e-17)),
            (0.1, (-2.3025850929940455, -1.7150243628057985e-16)),
            (1e-300, (-690.7755278982137, -2.3670096176709832e-14)),
            (1e300, (690.7755278982137, 2.3747660028800243e-14)),
            (1.0000000001, (1.000000082690371e-10, -4.2169170658954805e-27)),
            (0.7071067811865475, (-0.34657359027997275, 1.0775909101525876e-17)),
            (5e-324, (-744.4400719213812, -4.422444340918698e-14)),
            (f64::MAX, (709.782712893384, 2.3636017071323592e-14)),
            (1.0, (0.0, 0.0)),
        ];
        for (x, truth) in table {
            let error = error(DoubleDouble::from(x).ln(), truth);
            assert!(error <= 2f64.powi(-100) * truth.0.abs().max(1.0), "ln {x:e}: off by {error:e}");
        }
        assert_eq!(DoubleDouble::ZERO.ln().to_f64(), f64::NEG_INFINITY);
        assert!(DoubleDouble::from(-1.0).ln().to_f64().is_nan());
        assert_eq!(DoubleDouble::from(f64::INFINITY).ln().to_f64(), f64::INFINITY);
    }

    #[test]
    fn square_roots_and_quotients_agree_with_mpmath() {
        let roots = [
            (2.0, (std::f64::consts::SQRT_2, -9.667293313452913e-17)),
            (0.1, (0.31622776601683794, 8.004969469767158e-19)),
            (10000000001.0, (100000.000005, 5.5831538348198e-12)),
        ];
        for (x, truth) in roots {
            let error = error(DoubleDouble::from(x).sqrt(), truth);
            assert!(error <= 2f64.powi(-102) * truth.0, "sqrt {x}: off by {error:e}");
        }
        let quotients = [
            (1.0, 3.0, (0.3333333333333333, 1.850371707708594e-17)),
            (0.1, 0.7, (0.14285714285714288, -2.8322015934315207e-18)),
            (1e20, 7.0, (1.4285714285714287e19, -877.7142857142857)),
        ];
        for (x, y, truth) in quotients {
            let error = error(DoubleDouble::from(x) / y, truth);
            assert!(error <= 2f64.powi(-102) * truth.0, "{x} / {y}: off by {error:e}");
        }
    }

    #[test]
    fn ln_gamma_agrees_with_mpmath() {
        let table = [
            (0.5, (0.5723649429247001, 5.132975581353913e-18)),
            (1.0, (0.0, 0.0)),
            (1.5, (-0.12078223763524522, -4.1797047492946264e-18)),
            (2.5, (0.2846828704729192, -2.0938630583071727e-17)),
            (10.0, (12.801827480081469, 5.206295788716661e-16)),
            (23.5, (50.03349410501915, 4.342607489672489e-16)),
            (24.0, (51.60667556776438, -3.3513402040623198e-15)),
            (50.5, (146.51925549072064, -1.1368682497816444e-14)),
            (1000.5, (5908.674175848678, -3.166499892097526e-13)),
            (544517.0, (6647269.688999487, -1.8786695391225574e-10)),
            (1e6, (12815504.569147611, 6.230802661575757e-10)),
            (5e11, (12968936967671.752, -0.0005021601467946639)),
            (499999999999.5, (12968936967658.283, -0.0006891278303461133)),
        ];
        for (z, truth) in table {
            let error = error(ln_gamma(z), truth);
            assert!(error <= 1e-30 * truth.0.abs().max(1.0), "ln Gamma({z}): off by {error:e}");
        }
    }

    #[test]
    fn arithmetic_keeps_what_an_f64_drops() {
        let tiny = 2f64.powi(-80);
        assert_eq!((DoubleDouble::ONE + tiny - 1.0).to_f64(), tiny);
        // (1 + e)(1 - e) = 1 - e^2
        let e = 2f64.powi(-40);
        assert_eq!((DoubleDouble::from_product(1.0 + e, 1.0 - e) - 1.0).to_f64(), -e * e);
        let third = DoubleDouble::ONE / 3.0;
        assert!((third * 3.0 - 1.0).to_f64().abs() < 2f64.powi(-104));
        assert!((DoubleDouble::PI.to_f64(), DoubleDouble::PI.low()) == (std::f64::consts::PI, 1.2246467991473532e-16));
    }

    #[test]
    fn infinities_do_not_become_nan() {
        let infinity = DoubleDouble::from(f64::INFINITY);
        for value in [infinity + 1.0, infinity - 1.0, infinity * 2.0, infinity / 2.0, DoubleDouble::from(1e200) * 1e200] {
            assert_eq!((value.to_f64(), value.low()), (f64::INFINITY, 0.0));
        }
        assert_eq!((DoubleDouble::ONE / f64::INFINITY).to_f64(), 0.0);
        assert_eq!(DoubleDouble::from_sum(f64::MAX, f64::MAX).to_f64(), f64::INFINITY);
    }

    #[test]
    fn mantissas_and_exponents_give_the_number_back() {
        for x in [1.0, -3.5, 1e-300, 5e-324, f64::MAX, f64::MIN_POSITIVE / 4.0] {
            let (mantissa, exponent) = mantissa_and_exponent(x);
            assert!((1.0..2.0).contains(&mantissa.abs()), "{x:e}: {mantissa}");
            assert_eq!(scale_by_power_of_two(mantissa, exponent), x);
        }
        assert_eq!(mantissa_and_exponent(0.0), (0.0, 0));
    }
}
