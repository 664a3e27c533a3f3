//! Functions that closed forms are written in.

/// `ln Gamma(x)` rounded to `f64`.
pub(crate) fn ln_gamma(x: f64) -> f64 {
    crate::double_double::ln_gamma(x).to_f64()
}

/// `ln Phi(x)`, the logarithm of the standard normal distribution function; relative error of the probability below 1e-13.
///
/// The power series of DLMF 7.6.2 above -2 and the continued fraction of Mills' ratio (Abramowitz & Stegun 26.2.14) below.
pub(crate) fn ln_normal_cdf(x: f64) -> f64 {
    let ln_density = -0.5 * x * x - 0.5 * std::f64::consts::TAU.ln();
    if x < -2.0 {
        // 1/(z + 1/(z + 2/(z + 3/(z + ...)))) from the far end; 400 levels are enough from z = 2 on.
        let z = -x;
        let denominator = (1..400).rev().fold(z, |tail, level| z + f64::from(level) / tail);
        return ln_density - denominator.ln();
    }
    if x > 9.0 {
        return -ln_normal_cdf(-x).exp();
    }
    let (mut term, mut sum, mut odd) = (x, x, 1.0);
    while term.abs() > 1e-18 * sum.abs() {
        odd += 2.0;
        term *= x * x / odd;
        sum += term;
    }
    (0.5 + ln_density.exp() * sum).ln()
}

/// Where a function with one minimum between `low` and `high` has it, by golden section.
pub(crate) fn minimum_between(function: impl Fn(f64) -> f64, mut low: f64, mut high: f64, steps: usize) -> f64 {
    const RATIO: f64 = 0.618_033_988_749_894_9;
    let (mut left, mut right) = (high - RATIO * (high - low), low + RATIO * (high - low));
    let (mut at_left, mut at_right) = (function(left), function(right));
    for _ in 0..steps {
        if at_left < at_right {
            (high, right, at_right) = (right, left, at_left);
            left = high - RATIO * (high - low);
            at_left = function(left);
        } else {
            (low, left, at_left) = (left, right, at_right);
            right = low + RATIO * (high - low);
            at_right = function(right);
        }
    }
    0.5 * (low + high)
}
