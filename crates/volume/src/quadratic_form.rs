//! The distribution of a weighted sum of noncentral chi-squares, in the logarithm, to about ten digits in any dimension.

use rayon::prelude::*;

use crate::special::ordered_sum;

/// `multiplicity` independent squares `1/2 weight (z + mu)^2` of standard normals `z`, whose `mu^2` add up to `noncentrality`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChiSquareTerm {
    /// The weight, `>= 0`.
    pub weight: f64,
    /// How many squares share it.
    pub multiplicity: f64,
    /// Sum of their squared means.
    pub noncentrality: f64,
}

/// Step and shape of the contour of [`log_probability_below`]; other values than the default serve to check it against itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Contour {
    /// Nodes per standard deviation of the integrand, or per 0.3 of the contour's parameter where that is shorter.
    pub resolution: f64,
    /// How far the contour bends to the left, as a part of how far it goes up.
    pub bend: f64,
}

impl Default for Contour {
    fn default() -> Self {
        Self { resolution: 6.0, bend: 0.5 }
    }
}

/// `ln P(Q <= cutoff)` in nats for `Q = 1/2 sum weight (z + mu)^2`, by inversion of the Laplace transform.
///
/// ```text
/// ln E exp(-s Q) = A(s) = -1/2 sum m ln(1 + s weight) - 1/2 sum noncentrality s weight / (1 + s weight)
///
/// P(Q <= cutoff) = 1/(2 pi i) INT exp(A(s) + s cutoff) ds/s      over any contour right of zero
/// ```
///
/// All singularities (the pole and the branch points `-1/weight`) lie on the real axis at or left of zero. The contour is the hyperbola
/// `s(u) = s0 + i s0 sinh u - bend s0 (cosh u - 1)` through the minimum `s0 > 0` of `A(s) + s cutoff - ln s` on the real axis, which
/// always exists and is unique because the function is convex. The pole is part of the exponent, so nothing special happens where the cutoff is
/// above the mean of `Q` and the probability near one. Bent to the left, the integrand falls off like a double exponential even
/// for one degree of freedom, and the trapezoid rule in `u` converges exponentially. Everything on the contour is relative to `s0`:
///
/// ```text
/// A(s) - A(s0) = -1/2 sum m ln(1 + d r) - 1/2 sum g d r / (1 + d r),    d = s - s0,  r = weight / (1 + s0 weight),  g = noncentrality / (1 + s0 weight)
/// ```
///
/// Error: below `1e-10 + 4e-14 |result|` nats against closed forms from one degree of freedom to 1e6 (tests). Sources: Imhof,
/// *Biometrika* 48 (1961) 419; Rice, *SIAM J. Sci. Stat. Comput.* 1 (1980) 438 (saddle-point contours); Trefethen, Weideman &
/// Schmelzer, *BIT* 46 (2006) 653 (hyperbolas).
///
/// A cutoff of zero or less gives `-inf`; all weights zero gives 0.
#[must_use]
pub fn log_probability_below(terms: &[ChiSquareTerm], cutoff: f64, contour: Contour) -> f64 {
    if cutoff <= 0.0 {
        return f64::NEG_INFINITY;
    }
    if terms.iter().all(|term| term.weight == 0.0) {
        return 0.0;
    }
    let s0 = saddle(terms, cutoff);
    let exponent = -0.5
        * compensated_sum(terms.iter().map(|&ChiSquareTerm { weight, multiplicity, noncentrality }| {
            multiplicity * (s0 * weight).ln_1p() + noncentrality * s0 * weight / (1.0 + s0 * weight)
        }));
    let curvature = 1.0
        + ordered_sum(terms.len(), |i| {
            let ChiSquareTerm { weight, multiplicity, noncentrality } = terms[i];
            let part = s0 * weight / (1.0 + s0 * weight);
            part * part * (0.5 * multiplicity + noncentrality / (1.0 + s0 * weight))
        });
    // r, multiplicity and g of every term, scaled so that s0 = 1.
    let scaled: Vec<(f64, f64, f64)> = terms
        .iter()
        .map(|term| {
            let shrink = 1.0 + s0 * term.weight;
            (s0 * term.weight / shrink, term.multiplicity, term.noncentrality / shrink)
        })
        .collect();
    let step = curvature.sqrt().recip().min(0.3) / contour.resolution;
    let sum = trapezoid(|u| integrand(&scaled, s0 * cutoff, contour.bend, u), step);
    exponent + s0 * cutoff + (step * sum / std::f64::consts::PI).ln()
}

/// Neumaier's sum: equal terms, a million of them, would otherwise round the same way each time.
fn compensated_sum(terms: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut lost) = (0.0f64, 0.0f64);
    for term in terms {
        let next = sum + term;
        lost += if sum.abs() >= term.abs() { (sum - next) + term } else { (term - next) + sum };
        sum = next;
    }
    sum + lost
}

/// Minimum of `A(s) + s cutoff - ln s`. Only the position of the contour depends on it, so six digits are plenty.
fn saddle(terms: &[ChiSquareTerm], cutoff: f64) -> f64 {
    // s cutoff = 1 - s A'(s) =: demand(s), and demand(s)/s falls with s.
    let demand = |s: f64| {
        1.0 + ordered_sum(terms.len(), |i| {
            let ChiSquareTerm { weight, multiplicity, noncentrality } = terms[i];
            let part = s * weight / (1.0 + s * weight);
            0.5 * part * (multiplicity + noncentrality / (1.0 + s * weight))
        })
    };
    let excess = |log_s: f64| log_s + cutoff.ln() - demand(log_s.exp()).ln();
    // demand lies between 1 and 1 + sum (m + noncentrality)/2.
    let mut low = -cutoff.ln() - 1e-9;
    let mut high = low + (1.0 + ordered_sum(terms.len(), |i| 0.5 * (terms[i].multiplicity + terms[i].noncentrality))).ln() + 2e-9;
    let (mut at_low, mut at_high) = (excess(low), excess(high));
    let mut guess = 0.5 * (low + high);
    for _ in 0..60 {
        if high - low < 1e-6 {
            break;
        }
        let value = excess(guess);
        // Illinois: halve the value at an end that stays, so that neither end sticks.
        if value > 0.0 {
            (high, at_high, at_low) = (guess, value, 0.5 * at_low);
        } else {
            (low, at_low, at_high) = (guess, value, 0.5 * at_high);
        }
        if value.abs() < 1e-7 {
            break;
        }
        guess = (low * at_high - high * at_low) / (at_high - at_low);
        if !(low < guess && guess < high) {
            guess = 0.5 * (low + high);
        }
    }
    guess.exp()
}

/// Imaginary part of `exp(A(s) - A(s0) + (s - s0) cutoff) (s0/s) ds/du`, and the modulus, with `s0 = 1`.
fn integrand(scaled: &[(f64, f64, f64)], cutoff: f64, bend: f64, u: f64) -> (f64, f64) {
    let (x, y) = (-bend * 2.0 * (0.5 * u).sinh().powi(2), u.sinh());
    let real = ordered_sum(scaled.len(), |i| {
        let (r, multiplicity, g) = scaled[i];
        let (a, b) = (x * r, y * r);
        let modulus = (1.0 + a) * (1.0 + a) + b * b;
        // Re ln(1 + d r) and Re d r/(1 + d r)
        multiplicity * 0.5 * (a * (2.0 + a) + b * b).ln_1p() + g * (a * (1.0 + a) + b * b) / modulus
    });
    let imaginary = ordered_sum(scaled.len(), |i| {
        let (r, multiplicity, g) = scaled[i];
        let (a, b) = (x * r, y * r);
        let modulus = (1.0 + a) * (1.0 + a) + b * b;
        multiplicity * b.atan2(1.0 + a) + g * b / modulus
    });
    let pole_modulus = (1.0 + x).hypot(y);
    let (slope_x, slope_y) = (-bend * u.sinh(), u.cosh());
    let size = (x * cutoff - 0.5 * real).exp() / pole_modulus * slope_x.hypot(slope_y);
    let phase = y * cutoff - 0.5 * imaginary - y.atan2(1.0 + x) + slope_y.atan2(slope_x);
    (size * phase.sin(), size)
}

/// `1/2 f(0) + f(h) + f(2h) + ...` until the modulus has fallen below what matters. The bits do not depend on threads.
fn trapezoid(f: impl Fn(f64) -> (f64, f64) + Sync, step: f64) -> f64 {
    const BATCH: usize = 16;
    const NEGLIGIBLE: f64 = 1e-19;
    const FARTHEST: f64 = 40.0;
    let mut sum = 0.5 * f(0.0).0;
    let mut first = 1;
    loop {
        let batch: Vec<(f64, f64)> = (first..first + BATCH).into_par_iter().map(|k| f(k as f64 * step)).collect();
        sum += batch.iter().map(|v| v.0).sum::<f64>();
        first += BATCH;
        // The modulus at zero is one. A whole batch under the limit, so that a dip does not end the sum.
        if batch.iter().all(|v| v.1 < NEGLIGIBLE) || first as f64 * step > FARTHEST {
            return sum;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::functions::{ln_gamma, ln_normal_cdf};
    use statrs::function::gamma::gamma_lr;

    fn close(name: &str, value: f64, expected: f64, tolerance: f64) {
        assert!((value - expected).abs() <= tolerance, "{name}: {value} instead of {expected}, off by {:e}", value - expected);
    }

    /// `ln P(a, x)`, regularised lower incomplete gamma, by its power series (DLMF 8.11.4): all terms positive. For `x` not far above `a`.
    fn ln_lower_gamma(a: f64, x: f64) -> f64 {
        let (mut term, mut sum, mut n) = (1.0, 1.0, 0.0);
        while term > 1e-18 * sum {
            n += 1.0;
            term *= x / (a + n);
            sum += term;
        }
        a * x.ln() - x - ln_gamma(a + 1.0) + f64::ln(sum)
    }

    fn central(dimension: f64, weight: f64) -> [ChiSquareTerm; 1] {
        [ChiSquareTerm { weight, multiplicity: dimension, noncentrality: 0.0 }]
    }

    #[test]
    fn special_functions() {
        for (x, expected) in [(0.5, 0.572_364_942_924_700_1), (1.0, 0.0), (3.0, 2.0f64.ln()), (101.0, 363.739_375_555_563_5)] {
            close("ln_gamma", ln_gamma(x), expected, 1e-15 * expected.abs() + 1e-14);
        }
        // Phi(-20) = 2.753624118606234e-89
        close("ln_normal_cdf", ln_normal_cdf(-20.0), 2.753_624_118_606_234e-89f64.ln(), 1e-12);
        close("ln_normal_cdf", ln_normal_cdf(-2.000_000_000_001), ln_normal_cdf(-1.999_999_999_999), 1e-11);
        close("ln_normal_cdf", ln_normal_cdf(-2.0), 0.022_750_131_948_179_21f64.ln(), 1e-13);
        close("ln_normal_cdf", ln_normal_cdf(0.0), 0.5f64.ln(), 1e-15);
        close("ln_normal_cdf", ln_normal_cdf(1.0), 0.841_344_746_068_542_9f64.ln(), 1e-15);
    }

    #[test]
    fn equal_weights_are_a_chi_square() {
        for dimension in [1.0, 2.0, 3.0, 7.0, 10.0, 30.0, 100.0, 300.0, 1000.0] {
            for ratio in [1e-12, 1e-3, 0.1, 0.5, 0.9, 1.0, 1.1, 2.0] {
                // Q = weight/2 chi^2_D has the mean weight D/2.
                let weight = 0.37;
                let cutoff = ratio * weight * 0.5 * dimension;
                let value = log_probability_below(&central(dimension, weight), cutoff, Contour::default());
                let expected = ln_lower_gamma(0.5 * dimension, cutoff / weight);
                close(&format!("D {dimension}, ratio {ratio}"), value, expected, 1e-11 + 4e-16 * expected.abs());
            }
        }
    }

    #[test]
    fn probabilities_near_one() {
        for dimension in [1.0, 2.0, 10.0, 100.0] {
            for ratio in [3.0, 5.0, 20.0, 1e3] {
                let cutoff = ratio * 0.5 * dimension;
                let value = log_probability_below(&central(dimension, 1.0), cutoff, Contour::default());
                close(&format!("D {dimension}, ratio {ratio}"), value, gamma_lr(0.5 * dimension, cutoff).ln(), 1e-11);
            }
        }
    }

    #[test]
    fn a_million_equal_weights_one_by_one() {
        // One term per coordinate: what rounding in the sums does.
        let terms = vec![ChiSquareTerm { weight: 2.5, multiplicity: 1.0, noncentrality: 0.0 }; 1_000_000];
        let cutoff = 0.3 * 2.5 * 500_000.0;
        let expected = ln_lower_gamma(500_000.0, cutoff / 2.5);
        close("1e6", log_probability_below(&terms, cutoff, Contour::default()), expected, 4e-9);
    }

    #[test]
    fn noncentral_chi_square_is_a_poisson_mixture() {
        for dimension in [1.0, 2.0, 5.0, 50.0, 1000.0] {
            for noncentrality in [0.01, 1.0, 30.0, 800.0] {
                for ratio in [1e-6, 0.05, 0.5, 1.0] {
                    let x: f64 = ratio * 0.5 * (dimension + noncentrality);
                    let terms = [ChiSquareTerm { weight: 1.0, multiplicity: dimension, noncentrality }];
                    let half = 0.5 * noncentrality;
                    let logs: Vec<f64> = (0..3000)
                        .map(f64::from)
                        .map(|j| -half + j * half.ln() - ln_gamma(j + 1.0) + ln_lower_gamma(0.5 * dimension + j, x))
                        .collect();
                    let expected = crate::statistics::log_mean_exp(&logs) + 3000.0f64.ln();
                    let value = log_probability_below(&terms, x, Contour::default());
                    close(&format!("D {dimension}, nc {noncentrality}, {ratio}"), value, expected, 2e-11 + 1e-15 * expected.abs());
                }
            }
        }
    }

    #[test]
    fn one_dimension_is_an_interval() {
        for (mean, weight, cutoff) in [(0.0f64, 1.0, 0.5), (1.3, 4.0, 1e-6), (1.3, 0.2, 3.0), (5.0, 1.0, 0.02), (2.0, 1.0, 40.0)] {
            let half = f64::sqrt(2.0 * cutoff / weight);
            // Phi(mean + half) - Phi(mean - half), by Gauss-Legendre with four points on 2000 panels: nothing cancels.
            let expected = panels(-half, half, 2000, |x| (-0.5 * (mean + x) * (mean + x)).exp()) / std::f64::consts::TAU.sqrt();
            let terms = [ChiSquareTerm { weight, multiplicity: 1.0, noncentrality: mean * mean }];
            close(&format!("{mean} {weight} {cutoff}"), log_probability_below(&terms, cutoff, Contour::default()), expected.ln(), 1e-11);
        }
    }

    #[test]
    fn two_dimensions_by_direct_integration() {
        for (means, weights, cutoff) in [([0.4, -1.1], [1.0, 3.0], 0.3), ([2.0, 0.0], [0.01, 10.0], 0.05), ([0.0, 0.0], [1.0, 100.0], 5.0)]
        {
            let [a, b]: [f64; 2] = weights;
            let width = (2.0f64 * cutoff / a).sqrt();
            // x = width sin(phi) takes the square-root ends out.
            let half_pi = std::f64::consts::FRAC_PI_2;
            let density = |x: f64| (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
            let expected = panels(-half_pi, half_pi, 400, |phi| {
                let x = width * phi.sin();
                let half = (2.0f64 * cutoff / b).sqrt() * phi.cos();
                let inner = panels(-half, half, 40, |y| density(y + means[1]));
                density(x + means[0]) * inner * width * phi.cos()
            });
            let terms: Vec<ChiSquareTerm> =
                (0..2).map(|i| ChiSquareTerm { weight: weights[i], multiplicity: 1.0, noncentrality: means[i] * means[i] }).collect();
            close(&format!("{means:?}"), log_probability_below(&terms, cutoff, Contour::default()), expected.ln(), 1e-10);
        }
    }

    /// Four-point Gauss-Legendre on equal panels.
    fn panels(from: f64, to: f64, count: usize, f: impl Fn(f64) -> f64) -> f64 {
        const NODES: [(f64, f64); 2] =
            [(0.339_981_043_584_856_26, 0.652_145_154_862_546_1), (0.861_136_311_594_052_6, 0.347_854_845_137_453_86)];
        let half = 0.5 * (to - from) / count as f64;
        (0..count)
            .map(|panel| {
                let middle = from + half * (2 * panel + 1) as f64;
                NODES.iter().map(|(x, w)| w * half * (f(middle + half * x) + f(middle - half * x))).sum::<f64>()
            })
            .sum()
    }

    #[test]
    fn other_contours_and_steps_agree() {
        for (dimension, alpha) in [(2usize, 0.0), (3, 2.0), (100, 2.0), (1000, 1.5), (20_000, 1.5), (20_000, 0.5)] {
            for noncentrality in [0.0, 0.09, 4.0] {
                let terms: Vec<ChiSquareTerm> =
                    (1..=dimension).map(|i| ChiSquareTerm { weight: (i as f64).powf(-alpha), multiplicity: 1.0, noncentrality }).collect();
                let mean = 0.5 * (1.0 + noncentrality) * terms.iter().map(|t| t.weight).sum::<f64>();
                for cutoff in [0.01 * mean, 0.7 * mean, 1.5 * mean] {
                    let value = log_probability_below(&terms, cutoff, Contour::default());
                    for contour in [
                        Contour { resolution: 13.0, bend: 0.5 },
                        Contour { resolution: 9.0, bend: 0.9 },
                        Contour { resolution: 9.0, bend: 0.3 },
                    ] {
                        let other = log_probability_below(&terms, cutoff, contour);
                        let name = format!("D {dimension}, alpha {alpha}, nc {noncentrality}, cutoff {cutoff}, {contour:?}");
                        close(&name, value, other, 1e-11 + 4e-16 * value.abs());
                    }
                }
            }
        }
    }

    #[test]
    fn edges() {
        assert_eq!(log_probability_below(&central(5.0, 1.0), 0.0, Contour::default()), f64::NEG_INFINITY);
        assert_eq!(log_probability_below(&central(5.0, 0.0), 1e-3, Contour::default()), 0.0);
        // A weight of zero changes nothing.
        let with = [central(5.0, 1.0)[0], ChiSquareTerm { weight: 0.0, multiplicity: 9.0, noncentrality: 2.0 }];
        close("zero weight", log_probability_below(&with, 0.2, Contour::default()), ln_lower_gamma(2.5, 0.2), 1e-12);
    }
}
