//! What one ray contributes: the exact log-volume of the part of the prior that lies along it.
//!
//! Along `c + t v`, `0 <= t <= r`, with `D` parameters and `A(D) = 2 pi^(D/2) / Gamma(D/2)` the area of the unit sphere:
//!
//! ```text
//! Gaussian   f = ln A(D) - D/2 ln(2 pi sigma^2) - k + ln INT_0^r t^(D-1) exp(-a t^2/2 + b t) dt
//!            a = ||v||^2 / sigma^2,   b = -(v.c) / sigma^2,   k = ||c||^2 / (2 sigma^2)
//! Lebesgue   f = D ln r + ln A(D) - ln D
//! sphere     f = ln( INT_0^r sin^(D-2) / INT_0^pi sin^(D-2) ),   r an angle
//! ```
//!
//! No `-D ln ||v||` appears: `t` is measured along `v`, and the preconditioner has determinant 1.
//!
//! # Accuracy
//! The absolute error of `f` is at most `1e-8 max(1, |f| 2^-20)` nats for the given `f64` inputs, for `D` from 1 to 1e12 and every radius from 0 to
//! infinity, with any center as long as `||c||/sigma <= 1e10`. Oracle: `tests/golden/radial_integral.json` (mpmath, two rules of
//! quadrature and closed forms); the largest error over its cases is 3e-3 of that where `|f| < 2^20`, and above it the rounding of `f` to
//! `f64`. There is no tolerance to set and nothing that can fail.
//!
//! # How
//! At D = 1e12 the terms of `f` are near 1e14 and may sum to 1: this is done in [`DoubleDouble`]. A reference point `p` is taken at the
//! maximum `t*` of the log-integrand, or at `r` if that comes first, and with `t = p (1 + x)`
//!
//! ```text
//! ln INT = D ln p - a p^2/2 + b p + ln INT_-1^(r/p - 1) exp g(x) dx
//! g(x)   = (D-1) (ln(1+x) - x) - a p^2 x^2 / 2 + s x,      s = (D-1) - a p^2 + b p
//! ```
//!
//! Everything before the last integral is exact to 30 digits, `s` included (its terms cancel near `t*`). In `g` the first two terms are `<= 0` and
//! there is no other cancellation left than that of `ln(1+x) - x`, which has a series of its own; so `f64` suffices for `quadrature::log_integral`.

use crate::double_double::{DoubleDouble, ln_gamma, mantissa_and_exponent};
use crate::quadrature::{LogConcaveShape, log_integral};

/// A ray as the volume sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RayGeometry {
    /// Number of parameters `D`: a whole number `>= 1` (as `f64`, exact up to 2^53; tested up to 1e12).
    pub dimension: f64,
    /// `||v||`, the length that one unit of the radius has; `> 0`.
    pub norm: f64,
    /// `v . c`.
    pub center_dot: f64,
    /// `||c||^2`.
    pub center_norm_squared: f64,
}

/// Beyond this number of standard deviations between center and origin the square leaves the range of `f64`.
const FARTHEST_CENTER: f64 = 1e150;

/// `m 2^e`: a [`DoubleDouble`] without overflow, underflow or lost digits at either end of the range.
#[derive(Debug, Clone, Copy)]
struct Scaled {
    /// In `[1, 2)` up to sign and rounding; or 0 or infinite, with exponent 0.
    mantissa: DoubleDouble,
    exponent: i64,
}

impl Scaled {
    fn new(value: impl Into<DoubleDouble>) -> Self {
        let value = value.into();
        let (_, exponent) = mantissa_and_exponent(value.to_f64());
        Self { mantissa: value.scaled_by_power_of_two(-exponent), exponent }
    }

    fn renormalized(mantissa: DoubleDouble, exponent: i64) -> Self {
        let small = Self::new(mantissa);
        Self { mantissa: small.mantissa, exponent: small.exponent + exponent }
    }

    fn times(self, other: Self) -> Self {
        Self::renormalized(self.mantissa * other.mantissa, self.exponent + other.exponent)
    }

    fn over(self, other: Self) -> Self {
        Self::renormalized(self.mantissa / other.mantissa, self.exponent - other.exponent)
    }

    fn negated(self) -> Self {
        Self { mantissa: -self.mantissa, ..self }
    }

    fn sqrt(self) -> Self {
        let odd = self.exponent.rem_euclid(2);
        Self::renormalized(self.mantissa.scaled_by_power_of_two(odd).sqrt(), (self.exponent - odd) / 2)
    }

    fn ln(self) -> DoubleDouble {
        self.mantissa.ln() + DoubleDouble::LN_2 * self.exponent as f64
    }

    /// Back to the ordinary range; 0 or infinite outside it.
    fn value(self) -> DoubleDouble {
        self.mantissa.scaled_by_power_of_two(self.exponent)
    }
}

/// `ln(1 + x) - x` for `x > -1`; relative error about 1e-15.
///
/// The two terms cancel near 0, where with `s = x/(2+x)`: `ln(1+x) = 2 atanh s` and `2s - x = -x s`, so
/// `ln(1+x) - x = -x s + 2 s^3 (1/3 + s^2/5 + s^4/7 + ...)`; the second part is at most a tenth of the first there.
fn ln_1p_minus(x: f64) -> f64 {
    if x.abs() > 0.25 {
        return x.ln_1p() - x;
    }
    /// `1/3, 1/5, ...`: with `s^2 <= 1/49` eleven terms leave 1e-18 of the first.
    const COEFFICIENTS: [f64; 11] = {
        let mut coefficients = [0.0; 11];
        let mut index = 0;
        while index < 11 {
            coefficients[index] = 1.0 / (2 * index + 3) as f64;
            index += 1;
        }
        coefficients
    };
    let s = x / (2.0 + x);
    let s_squared = s * s;
    let series = COEFFICIENTS.iter().rev().fold(0.0, |sum, &coefficient| sum * s_squared + coefficient);
    2.0 * s * s_squared * series - x * s
}

/// Whether the exponent of [`unit_log_integral`] has the term `-t^2/2`.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Quadratic {
    One,
    Zero,
}

/// `ln INT_0^r t^(D-1) exp(-q t^2/2 + b t) dt` with `q` 0 or 1, `r > 0` (`None`: infinite, then `q = 1` or `b < 0`).
fn unit_log_integral(dimension: f64, quadratic: Quadratic, b: Scaled, radius: Option<Scaled>) -> DoubleDouble {
    let power = dimension - 1.0;
    let b_near = b.value().to_f64();
    // t* = (b + sqrt(b^2 + 4 (D-1))) / 2, in its conjugate form for b < 0; without the square term (D-1)/-b.
    let peak = match quadratic {
        Quadratic::One => {
            let root = b_near.hypot(2.0 * power.sqrt());
            if b_near >= 0.0 { 0.5 * (b_near + root) } else { 2.0 * power / (root - b_near) }
        }
        Quadratic::Zero if b_near < 0.0 => power / -b_near,
        Quadratic::Zero => f64::INFINITY,
    };
    // For D = 1 the maximum may lie at 0, or so near that it says nothing of the scale: then the length on which the integrand decays.
    let peak = peak.max(1.0 / (1.0 + b_near.abs()));
    let (reference, upper) = match radius {
        Some(radius) if radius.value().to_f64() <= peak => (radius, 0.0),
        _ if peak == f64::INFINITY => return DoubleDouble::from(f64::INFINITY),
        Some(radius) => {
            let reference = Scaled::new(peak);
            (reference, (radius.over(reference).value() - 1.0).to_f64())
        }
        None => (Scaled::new(peak), f64::INFINITY),
    };
    let square = match quadratic {
        Quadratic::One => reference.times(reference).value(),
        Quadratic::Zero => DoubleDouble::ZERO,
    };
    let linear = b.times(reference).value();
    if !linear.to_f64().is_finite() || !square.to_f64().is_finite() {
        // Only b > 0 gets here: for b < 0 the reference point is at most D/|b|.
        return DoubleDouble::from(f64::INFINITY);
    }
    let slope = (linear - square + power).to_f64();
    let square_near = square.to_f64();
    let log_integrand = |x: f64| power * ln_1p_minus(x) - x * (0.5 * square_near * x - slope);
    // Without this, 0 * ln(0) at x = -1.
    let flat_integrand = |x: f64| -x * (0.5 * square_near * x - slope);
    let shape = LogConcaveShape { slope, curvature: power + square_near, lower: -1.0, upper };
    let rest = if power == 0.0 { log_integral(flat_integrand, shape) } else { log_integral(log_integrand, shape) };
    reference.ln() * dimension + (linear - square * 0.5) + rest
}

/// `ln INT_0^r t^(D-1) exp(-a t^2/2 + b t) dt`, nats.
///
/// Domain: `D >= 1` a whole number, `r >= 0` (0: -inf; infinite is allowed if the integral exists), `b` any sign and size, and `a > 0`, or `a = 0` with a finite
/// `r` or `b < 0`; `a = 0`, `b >= 0`, `r = inf` gives +inf. Values beyond `f64` give ±inf.
///
/// Error: that of a quadrature in `f64` relative to the value at a reference point, about 1e-13, plus `1e-30` times the largest of `D ln r*`, `b r*` and
/// `a r*^2` at the point `r*` of the maximum. Oracle: mpmath, see the module's text, which also says what cancels.
#[must_use]
pub fn log_power_gaussian_integral(dimension: f64, a: DoubleDouble, b: DoubleDouble, radius: f64) -> DoubleDouble {
    if radius == 0.0 {
        return DoubleDouble::from(f64::NEG_INFINITY);
    }
    let b = Scaled::new(b);
    let finite_radius = radius.is_finite().then(|| Scaled::new(radius));
    if a.to_f64() > 0.0 {
        // In t sqrt(a) the square term is 1.
        let root = Scaled::new(a).sqrt();
        let unit_b = b.over(root);
        let unit_radius = finite_radius.map(|radius| radius.times(root));
        // Beyond this the square term changes nothing: it is under 1e-250 where the integrand lives.
        let square_matters = match unit_radius {
            Some(unit_radius) => unit_radius.value().to_f64() > 1e-130 && unit_b.value().to_f64() > -FARTHEST_CENTER,
            None => unit_b.value().to_f64() > -FARTHEST_CENTER,
        };
        if square_matters {
            return unit_log_integral(dimension, Quadratic::One, unit_b, unit_radius) - root.ln() * dimension;
        }
    }
    if b.mantissa.to_f64() < 0.0 {
        // In t |b| the linear term is -1.
        let unit = b.negated();
        let radius = finite_radius.map(|radius| radius.times(unit));
        return unit_log_integral(dimension, Quadratic::Zero, Scaled::new(-1.0), radius) - unit.ln() * dimension;
    }
    match finite_radius {
        Some(radius) => {
            let one = Scaled::new(1.0);
            unit_log_integral(dimension, Quadratic::Zero, b.times(radius), Some(one)) + radius.ln() * dimension
        }
        None => DoubleDouble::from(f64::INFINITY),
    }
}

/// Log of the prior mass of a ray under `N(0, sigma^2 I)`, nats:
///
/// ```text
/// f = ln A(D) - D/2 ln(2 pi sigma^2) - k + ln INT_0^r t^(D-1) exp(-a t^2/2 + b t) dt,   a = ||v||^2/sigma^2,  b = -(v.c)/sigma^2,  k = ||c||^2/(2 sigma^2)
/// ```
///
/// Domain: `sigma > 0` and `||v|| > 0` finite, `r >= 0`: 0 gives -inf, infinity is allowed. Centers farther than `1e150 sigma` from the origin have the
/// value -inf.
///
/// Error: `1e-8 max(1, |f| 2^-20)` nats plus `1e-30 k` (oracle and method: [module](self)). It is computed in `t ||v|| / sigma`, where
/// `sigma` leaves the sum of the logarithms altogether and only `-D ln ||v||` is left to cancel, in double-double:
/// `f = (1 - D/2) ln 2 - ln Gamma(D/2) - D ln ||v|| - k + ln INT_0^(r ||v||/sigma) s^(D-1) exp(-s^2/2 - (v.c)/(||v|| sigma) s) ds`.
#[must_use]
pub fn gaussian_log_volume(geometry: &RayGeometry, sigma: f64, radius: f64) -> f64 {
    let dimension = geometry.dimension;
    let (norm, sigma) = (Scaled::new(geometry.norm), Scaled::new(sigma));
    let center_norm_squared = Scaled::new(geometry.center_norm_squared);
    let distance = center_norm_squared.over(sigma.times(sigma)).value() * 0.5;
    if radius == 0.0 || distance.to_f64() > 0.5 * FARTHEST_CENTER * FARTHEST_CENTER {
        return f64::NEG_INFINITY;
    }
    let unit_b = Scaled::new(-geometry.center_dot).over(norm.times(sigma));
    let unit_radius = radius.is_finite().then(|| Scaled::new(radius).times(norm).over(sigma));
    let integral = unit_log_integral(dimension, Quadratic::One, unit_b, unit_radius);
    let area = DoubleDouble::LN_2 * DoubleDouble::from_sum(1.0, -0.5 * dimension) - ln_gamma(0.5 * dimension);
    (area - norm.ln() * dimension + (integral - distance)).to_f64()
}

/// Log of the volume of a ray under the flat density, nats: `f = D ln r + ln A(D) - ln D`. Radius 0 gives -inf, an infinite one +inf.
///
/// Error: a few units in the last place of `f`, or 1e-15 (oracle: mpmath). `D ln r` and `ln Gamma(D/2)` cancel near `r = sqrt(D / 2 pi e)`,
/// so both are double-double.
#[must_use]
pub fn lebesgue_log_volume(geometry: &RayGeometry, radius: f64) -> f64 {
    if radius == 0.0 || radius.is_infinite() {
        return radius.ln();
    }
    let half = 0.5 * geometry.dimension;
    // A(D)/D = pi^(D/2) / Gamma(D/2 + 1)
    (Scaled::new(radius).ln() * geometry.dimension + DoubleDouble::LN_PI * half - ln_gamma(half + 1.0)).to_f64()
}

/// Log of the part of the sphere `||w|| = ||c||` in `D` dimensions within the geodesic angle `angle` of the center, nats:
/// `f = ln( INT_0^angle sin^(D-2) / INT_0^pi sin^(D-2) )`.
///
/// Domain: `D >= 2` a whole number. Angle 0 gives -inf, pi and more exactly 0. (In one dimension the "sphere" is two points: 1/2 below pi.)
///
/// Error: `1e-8 max(1, |f| 2^-20)` nats, in practice 1e-12 (oracle: mpmath up to D = 1e12). Nothing is expanded for small angles. What
/// could cancel: `ln sin` near pi/2, formed from the distance to pi/2; `1 - (the other cap)` beyond pi/2, formed with `ln_1p`;
/// and `Gamma((D-1)/2) / Gamma(D/2)` inside the whole sphere, formed in double-double.
#[must_use]
pub fn sphere_log_volume(angle: f64, dimension: f64) -> f64 {
    use std::f64::consts::{FRAC_PI_2, PI};
    if angle >= PI {
        return 0.0;
    }
    if dimension < 2.0 {
        return -std::f64::consts::LN_2;
    }
    if angle <= 0.0 {
        return f64::NEG_INFINITY;
    }
    if angle > FRAC_PI_2 {
        // The angle of the other cap, with the digits of pi that an f64 lacks.
        let other = (PI - angle) + DoubleDouble::PI.low();
        return (-sphere_log_volume(other, dimension).exp()).ln_1p();
    }
    let power = dimension - 2.0;
    // sin(angle - y) / sin(angle) = cos y - sin y / tan(angle) = 1 - 2 sin(y/2)^2 - sin(y) / tan(angle): all that is taken off has one sign.
    let from_equator = (FRAC_PI_2 - angle) + 0.5 * DoubleDouble::PI.low();
    let tangent = if from_equator < 0.5 { 1.0 / from_equator.tan() } else { angle.tan() };
    let log_integrand = |x: f64| {
        let y = -x * angle;
        let half_sine = (0.5 * y).sin();
        power * (-2.0 * half_sine * half_sine - y.sin() / tangent).max(-1.0).ln_1p()
    };
    let sine = angle.sin();
    let slope = power * angle / tangent;
    let curvature = power * (angle / sine).powi(2);
    let shape = LogConcaveShape { slope, curvature, lower: -1.0, upper: 0.0 };
    let cap = if power == 0.0 { 0.0 } else { log_integral(log_integrand, shape) };
    let log_sine = if from_equator < 0.5 { 0.5 * (-from_equator.sin().powi(2)).ln_1p() } else { sine.ln() };
    let whole = DoubleDouble::LN_PI * 0.5 + (ln_gamma(0.5 * (dimension - 1.0)) - ln_gamma(0.5 * dimension));
    power * log_sine + (angle.ln() + cap - whole.to_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use statrs::function::erf::erf;

    fn centered(dimension: f64) -> RayGeometry {
        RayGeometry { dimension, norm: 1.0, center_dot: 0.0, center_norm_squared: 0.0 }
    }

    fn tolerance(value: f64) -> f64 {
        1e-8 * (value.abs() * 2f64.powi(-20)).max(1.0)
    }

    #[test]
    fn ends_of_the_range() {
        let geometry = RayGeometry { dimension: 7.0, norm: 2.0, center_dot: -1.0, center_norm_squared: 0.5 };
        assert_eq!(gaussian_log_volume(&geometry, 1.0, 0.0), f64::NEG_INFINITY);
        assert_eq!(lebesgue_log_volume(&geometry, 0.0), f64::NEG_INFINITY);
        assert_eq!(lebesgue_log_volume(&geometry, f64::INFINITY), f64::INFINITY);
        assert_eq!(sphere_log_volume(0.0, 7.0), f64::NEG_INFINITY);
        for dimension in [1.0, 2.0, 3.0, 1e6, 1e12] {
            assert_eq!(sphere_log_volume(std::f64::consts::PI, dimension), 0.0);
            assert_eq!(sphere_log_volume(f64::INFINITY, dimension), 0.0);
        }
        assert_eq!(sphere_log_volume(1.0, 1.0), -std::f64::consts::LN_2);
        let (zero, one) = (DoubleDouble::ZERO, DoubleDouble::ONE);
        assert_eq!(log_power_gaussian_integral(3.0, zero, one, f64::INFINITY).to_f64(), f64::INFINITY);
        assert_eq!(log_power_gaussian_integral(3.0, zero, zero, f64::INFINITY).to_f64(), f64::INFINITY);
        assert_eq!(log_power_gaussian_integral(3.0, one, one, 0.0).to_f64(), f64::NEG_INFINITY);
    }

    #[test]
    fn the_whole_gaussian_is_one() {
        for dimension in [1.0, 2.0, 3.0, 7.0, 48.0, 1e3, 1e5, 14067712.0, 1e9, 1e12] {
            // A center at the origin and a unit direction: the ray carries the mean mass of all rays.
            let value = gaussian_log_volume(&centered(dimension), 0.37, f64::INFINITY);
            assert!(value.abs() < 1e-11, "D = {dimension}: {value:e}");
        }
    }

    #[test]
    fn the_ball_in_even_dimensions_is_a_poisson_sum() {
        // P(||w|| <= r) = e^-x sum_{j >= D/2} x^j / j!,  x = r^2 / 2: all terms positive.
        for half in [1u32, 2, 3, 8] {
            for x in [1e-3f64, 0.5, 2.0, 9.0, 40.0] {
                let mut term = 1.0;
                let mut sum = 0.0;
                for j in 0..200u32 {
                    sum += if j >= half { term } else { 0.0 };
                    term *= x / f64::from(j + 1);
                }
                let truth = sum.ln() - x;
                let value = gaussian_log_volume(&centered(2.0 * f64::from(half)), 1.0, (2.0 * x).sqrt());
                assert!((value - truth).abs() < 3e-14 * truth.abs().max(1.0), "D = {}, x = {x}: {value} instead of {truth}", 2 * half);
            }
        }
    }

    #[test]
    fn opposite_ends_of_the_line_sum_to_the_normal_distribution() {
        // D = 1: the ray in direction s carries A(1) = 2 times the mass between c and c + s r.
        for center in [-30.0f64, -1.3, 0.0, 1e-9, 2.0, 25.0] {
            let half_line = |sign: f64| {
                let geometry =
                    RayGeometry { dimension: 1.0, norm: 3.0, center_dot: 3.0 * sign * center, center_norm_squared: center * center };
                gaussian_log_volume(&geometry, 1.0, f64::INFINITY)
            };
            let total = 0.5 * (half_line(1.0).exp() + half_line(-1.0).exp());
            // Both half-lines are measured in units of v, a third of the length.
            assert!((total * 3.0 - 1.0).abs() < 1e-12, "c = {center}: {total}");
        }
    }

    #[test]
    fn extreme_inputs_give_numbers() {
        let extremes = [1e-300, 1e-150, 1e-10, 1.0, 1e10, 1e150, 1e300];
        let signs = [-1.0, 0.0, 1.0];
        for dimension in [1.0, 2.0, 50.0, 1e6, 1e12] {
            for a in [0.0].into_iter().chain(extremes) {
                for b in extremes.iter().flat_map(|size| signs.map(|sign| sign * size)) {
                    for radius in extremes.into_iter().chain([5e-324, f64::MAX, f64::INFINITY]) {
                        let value = log_power_gaussian_integral(dimension, a.into(), b.into(), radius).to_f64();
                        assert!(!value.is_nan() && value > f64::NEG_INFINITY, "D {dimension:e}, a {a:e}, b {b:e}, r {radius:e}: {value}");
                    }
                }
            }
            for sigma in extremes {
                for norm in extremes {
                    for center in extremes.into_iter().map(|size: f64| size.min(1e150)) {
                        for cosine in signs {
                            let center_dot = cosine * norm * center;
                            if !center_dot.is_finite() {
                                continue;
                            }
                            let geometry = RayGeometry { dimension, norm, center_dot, center_norm_squared: center * center };
                            for radius in extremes.into_iter().chain([f64::INFINITY]) {
                                let value = gaussian_log_volume(&geometry, sigma, radius);
                                assert!(!value.is_nan(), "{geometry:?}, sigma {sigma:e}, r {radius:e}");
                            }
                        }
                    }
                }
            }
            for angle in extremes.into_iter().chain([5e-324, 3.1]) {
                assert!(!sphere_log_volume(angle, dimension).is_nan(), "D {dimension}, angle {angle:e}");
            }
        }
    }

    #[test]
    fn small_logarithms_do_not_cancel() {
        // ln(1 + x) - x against its own Taylor series, -x^2/2 + x^3/3 - ..., on both sides of the switch at 0.25.
        for x in [1e-12f64, -1e-8, 1e-3, -0.02, 0.2499, -0.2499, 0.2501, -0.2501] {
            let series: f64 = (2..80).rev().map(|n| -(-x).powi(n) / f64::from(n)).sum();
            assert!((ln_1p_minus(x) / series - 1.0).abs() < 2e-15, "{x}: {} instead of {series}", ln_1p_minus(x));
        }
        assert_eq!(ln_1p_minus(0.0), 0.0);
        assert_eq!(ln_1p_minus(-1.0), f64::NEG_INFINITY);
    }

    fn dimensions() -> impl Strategy<Value = f64> {
        prop_oneof![(1.0..40.0f64).prop_map(f64::floor), (0.0..12.0f64).prop_map(|log| 10f64.powf(log).floor())]
    }

    proptest! {
        #[test]
        fn more_radius_is_more_volume(
            dimension in dimensions(), cosine in -1.0..1.0f64, distance in 0.0..10.0f64, norm in 0.1..10.0f64,
            sigma in 0.1..10.0f64, place in -8.0..8.0f64, log_step in -9.0..1.0f64,
        ) {
            let length = distance * dimension.sqrt();
            let geometry = RayGeometry { dimension, norm, center_dot: cosine * norm * length, center_norm_squared: length * length };
            // In units of the width of the integrand around its maximum.
            let b = -cosine * length / sigma;
            let peak = 0.5 * (b + b.hypot(2.0 * (dimension - 1.0).sqrt()));
            let radius = |place: f64| (peak + place).max(0.01 * (place + 9.0)) * sigma / norm;
            let near = gaussian_log_volume(&geometry, sigma, radius(place));
            let far = gaussian_log_volume(&geometry, sigma, radius(place + 10f64.powf(log_step)));
            let all = gaussian_log_volume(&geometry, sigma, f64::INFINITY);
            prop_assert!(near <= far + tolerance(far) && far <= all + tolerance(all), "{near} {far} {all}");
            // Where the far part is not yet lost against 1.
            prop_assert!(log_step < 0.0 || place > 0.0 || near < far, "{near} {far}");
            let flat = |t: f64| lebesgue_log_volume(&geometry, t);
            prop_assert!(flat(radius(place)) <= flat(radius(place + 10f64.powf(log_step))));
        }

        #[test]
        fn in_the_plane_it_is_the_rayleigh_distribution(log_radius in -30.0..3.6f64, sigma in 0.01..100.0f64) {
            let radius = log_radius.exp();
            let truth = (-(-0.5 * radius * radius).exp_m1()).ln();
            let value = gaussian_log_volume(&centered(2.0), sigma, radius * sigma);
            prop_assert!((value - truth).abs() < 1e-12 * truth.abs().max(1.0), "{value} instead of {truth}");
        }

        #[test]
        fn on_the_line_it_is_the_error_function(radius in 1e-3..5.0f64, center in -2.0..2.0f64) {
            let geometry = RayGeometry { dimension: 1.0, norm: 1.0, center_dot: center, center_norm_squared: center * center };
            let phi = |x: f64| 0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2));
            let truth = (2.0 * (phi(center + radius) - phi(center))).ln();
            let value = gaussian_log_volume(&geometry, 1.0, radius);
            // statrs' error function is off by up to 1e-10 (mpmath sides with the integral): the tight check of D = 1 is in the fixture.
            prop_assert!((value - truth).abs() < 3e-10 / truth.exp(), "{value} instead of {truth}");
        }

        #[test]
        fn units_of_the_direction_and_of_space_do_not_matter(
            dimension in dimensions(), cosine in -1.0..1.0f64, stretch in -30i32..30, radius in 0.01..3.0f64,
        ) {
            let root = dimension.sqrt();
            let geometry = RayGeometry { dimension, norm: 1.0, center_dot: 0.5 * cosine * root, center_norm_squared: 0.25 * dimension };
            let value = gaussian_log_volume(&geometry, 1.0, radius * root);
            let scale = 2f64.powi(stretch);
            // All of space times a power of two: exactly the same mass.
            let scaled = RayGeometry { center_dot: geometry.center_dot * scale, center_norm_squared: 0.25 * dimension * scale * scale, ..geometry };
            let same = gaussian_log_volume(&scaled, scale, radius * root * scale);
            prop_assert!((same - value).abs() <= tolerance(value), "{same} {value}");
            // v longer, the radius shorter: the measure t^(D-1) dt changes by D ln(scale).
            let longer = RayGeometry { norm: scale, center_dot: geometry.center_dot * scale, ..geometry };
            let shifted = gaussian_log_volume(&longer, 1.0, radius * root / scale) + dimension * scale.ln();
            prop_assert!((shifted - value).abs() <= 2.0 * tolerance(dimension * scale.ln()) + tolerance(value), "{shifted} {value}");
        }

        #[test]
        fn caps_in_two_and_three_dimensions(angle in 1e-6..3.1f64, log_angle in -600.0..0.0f64) {
            for angle in [angle, log_angle.exp()] {
                let circle = (angle / std::f64::consts::PI).ln();
                prop_assert!((sphere_log_volume(angle, 2.0) - circle).abs() < 1e-12 * circle.abs().max(1.0));
                // (1 - cos) / 2 without its cancellation
                let sphere = 2.0 * (0.5 * angle).sin().ln();
                prop_assert!((sphere_log_volume(angle, 3.0) - sphere).abs() < 1e-12 * sphere.abs().max(1.0));
            }
        }

        #[test]
        fn a_cap_and_its_complement_are_the_sphere(dimension in dimensions(), place in -6.0..6.0f64) {
            let dimension = dimension.max(2.0);
            let angle = std::f64::consts::FRAC_PI_2 + place.clamp(-1.5 * dimension.sqrt(), 1.5 * dimension.sqrt()) / dimension.sqrt();
            let total = sphere_log_volume(angle, dimension).exp() + sphere_log_volume(std::f64::consts::PI - angle, dimension).exp();
            prop_assert!((total - 1.0).abs() < 1e-9, "{total}");
            prop_assert!(sphere_log_volume(angle, dimension) < sphere_log_volume(angle + 0.01 / dimension.sqrt(), dimension) + 1e-12);
        }
    }
}
