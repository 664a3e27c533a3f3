//! Two normals of two random words, with additions, multiplications, square roots and integer
//! operations alone.
//!
//! These operations round in one way everywhere, so a normal has the same bits on every machine: no
//! fused multiply-add, no function of a library, and a fixed order. `docs/directions.md` says what
//! is computed and how exact it is.

use super::lanes::Operations;

/// `-2 ln(1 + f) = f (-2 + f P(f))` on `sqrt(1/2) - 1 <= f < sqrt(2) - 1`: the coefficients of `P`,
/// of the highest power first. The relative error of the logarithm is at most 3.0e-8 before
/// rounding (minimax, by Remez' algorithm).
const LOGARITHM: [f32; 8] = [
    f32::from_bits(0xbe32_e3be),
    f32::from_bits(0x3e92_8250),
    f32::from_bits(0xbe98_c293),
    f32::from_bits(0x3ea9_ae98),
    f32::from_bits(0xbecc_6960),
    f32::from_bits(0x3f00_024d),
    f32::from_bits(0xbf2a_ab7a),
    f32::from_bits(0x3f7f_fffd),
];

/// `-2 ln 2`.
const DOUBLING: f32 = f32::from_bits(0xbfb1_7218);

/// `sin(pi/2 h) = h P(h^2)` on `|h| <= 1/2`, of the highest power first; relative error 3.2e-9
/// before rounding.
const SINE: [f32; 4] = [f32::from_bits(0xbb96_c981), f32::from_bits(0x3da3_2f49), f32::from_bits(0xbf25_5ddd), f32::from_bits(0x3fc9_0fdb)];

/// `cos(pi/2 h) = 1 + h^2 P(h^2)` on `|h| <= 1/2`, of the highest power first; relative error
/// 3.8e-8 before rounding.
const COSINE: [f32; 3] = [f32::from_bits(0xbca7_4225), f32::from_bits(0x3e81_d848), f32::from_bits(0xbf9d_e9ce)];

/// `2^-32`.
const UNIT: f32 = f32::from_bits(0x2f80_0000);

/// The bits of the largest number not above `sqrt(1/2)`.
const ROOT_HALF: u32 = 0x3f35_04f3;

const SIGN: u32 = 1 << 31;

/// Two normals of a word for the radius and a word for the angle.
#[inline(always)]
pub(super) fn normals<L: Operations>(lanes: L, [radius_word, angle_word]: [L::Bits; 2]) -> [L::Float; 2] {
    // The sign of both goes with the radius, and a bit decides which of them is the sine.
    let radius = lanes.to_bits(radius(lanes, radius_word));
    let radius = lanes.of_bits(lanes.xor(radius, lanes.and(angle_word, lanes.bits(SIGN))));
    let (sine, cosine) = sine_and_cosine(lanes, angle_word);
    let is_swapped = lanes.shift_left::<1>(angle_word);
    let first = lanes.select(is_swapped, sine, cosine);
    let second = lanes.select(is_swapped, cosine, sine);
    [lanes.multiply(radius, first), lanes.multiply(radius, second)]
}

/// `sqrt(-2 ln u)` with `u = (word + 1/2) / 2^32`.
#[inline(always)]
fn radius<L: Operations>(lanes: L, word: L::Bits) -> L::Float {
    // The distance from the nearer end of [0, 1], which a word of 32 bits knows to more digits than
    // a number near 1 could hold.
    let upper = lanes.shift_right::<31>(word);
    let end = lanes.to_float(lanes.xor(word, upper));
    let distance = lanes.multiply(lanes.add(end, lanes.float(0.5)), lanes.float(UNIT));
    let uniform = lanes.select(word, lanes.subtract(lanes.float(1.0), distance), distance);
    // u = 2^k m with m in [sqrt(1/2), sqrt(2)).
    let offset = lanes.subtract_bits(lanes.to_bits(uniform), lanes.bits(ROOT_HALF));
    let exponent = lanes.to_float(lanes.shift_right::<23>(offset));
    let mantissa = lanes.of_bits(lanes.add_bits(lanes.and(offset, lanes.bits(0x007f_ffff)), lanes.bits(ROOT_HALF)));
    // k = 0 is the upper end: m - 1 is minus the distance, without its rounding.
    let opposite = lanes.of_bits(lanes.xor(lanes.to_bits(distance), lanes.bits(SIGN)));
    let f = lanes.select(offset, lanes.subtract(mantissa, lanes.float(1.0)), opposite);
    let rest = lanes.add(lanes.multiply(horner(lanes, f, &LOGARITHM), f), lanes.float(-2.0));
    let logarithm = lanes.multiply(rest, f);
    lanes.square_root(lanes.add(lanes.multiply(exponent, lanes.float(DOUBLING)), logarithm))
}

/// Sine and cosine of an eighth of a turn to either side, by the lower 30 bits.
#[inline(always)]
fn sine_and_cosine<L: Operations>(lanes: L, word: L::Bits) -> (L::Float, L::Float) {
    // The last bit that is set puts the numbers symmetrically around zero.
    let place = lanes.or(lanes.shift_left::<2>(word), lanes.bits(2));
    let h = lanes.multiply(lanes.to_float(place), lanes.float(UNIT));
    let square = lanes.multiply(h, h);
    let sine = lanes.multiply(horner(lanes, square, &SINE), h);
    let cosine = lanes.add(lanes.multiply(horner(lanes, square, &COSINE), square), lanes.float(1.0));
    (sine, cosine)
}

#[inline(always)]
fn horner<L: Operations, const N: usize>(lanes: L, x: L::Float, coefficients: &[f32; N]) -> L::Float {
    let mut sum = lanes.float(coefficients[0]);
    for &coefficient in &coefficients[1..] {
        sum = lanes.add(lanes.multiply(sum, x), lanes.float(coefficient));
    }
    sum
}
