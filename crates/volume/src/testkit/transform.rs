//! The distribution of a sum of independent costs whose Laplace transforms are known.

use faer::c64;
use rayon::prelude::*;

use crate::quadrature::gauss_legendre;

/// `ln P(Q <= cutoff)` in nats, from `A(s) = ln E exp(-s Q)` for complex `s` with a positive real part; also for measures that are
/// not normalized, as long as `A` exists there. `Q >= 0`.
///
/// ```text
/// P(Q <= cutoff) = 1/(2 pi i) INT exp(A(s) + s cutoff) ds/s,      s(u) = s0 (1 + i sinh u)
/// ```
///
/// with `s0` where `A(s) + s cutoff - ln s` is least on the real axis, by the trapezoid rule in `u`. For a sum of `n` costs with
/// `P(cost <= x) ~ x^(1/p)` the integrand falls like `cosh(u)^(-n/p)`, and its oscillation is resolved until it has fallen below `1e-9` for
/// `n/p >= 4`; the error is then below 1e-7 nats (tests: chi-squares, and other steps). `A` must be right to many digits relative to
/// its value at `s0` only.
pub(super) fn log_measure_below(log_transform: impl Fn(c64) -> c64 + Sync, cutoff: f64) -> f64 {
    log_measure_with_steps(log_transform, cutoff, 60.0)
}

fn log_measure_with_steps(log_transform: impl Fn(c64) -> c64 + Sync, cutoff: f64, steps_per_width: f64) -> f64 {
    let exponent = |log_s: f64| log_transform(c64::new(log_s.exp(), 0.0)).re + log_s.exp() * cutoff - log_s;
    let log_s0 = minimum(exponent, -cutoff.ln());
    let (s0, top) = (log_s0.exp(), exponent(log_s0));
    // The second derivative in ln s at the minimum is the squared inverse of the width in u.
    let curvature = (exponent(log_s0 + 1e-3) - 2.0 * top + exponent(log_s0 - 1e-3)) / 1e-6;
    let step = curvature.max(1.0).sqrt().recip() / steps_per_width;
    let at = |u: f64| {
        let s = c64::new(s0, s0 * u.sinh());
        let log_value = log_transform(s) + s * cutoff - c64::new(top + log_s0, 0.0);
        // ds / (i s) with the exponential; the real part of the whole is what the two halves of the contour add up to.
        let value = log_value.exp() * (s0 * u.cosh()) / s;
        (value.re, value.norm())
    };
    let mut sum = 0.5 * at(0.0).0;
    const BATCH: usize = 64;
    let mut first = 1;
    loop {
        let batch: Vec<(f64, f64)> = (first..first + BATCH).into_par_iter().map(|k| at(k as f64 * step)).collect();
        sum += batch.iter().map(|v| v.0).sum::<f64>();
        first += BATCH;
        if batch.iter().all(|v| v.1 < 1e-13) || first as f64 * step > 20.0 {
            break;
        }
    }
    top + log_s0 + (step * sum / std::f64::consts::PI).ln()
}

/// `INT f(x) dx` over consecutive panels, 24 nodes each, for a complex function of a real variable.
pub(super) fn integral(edges: &[f64], f: impl Fn(f64) -> c64) -> c64 {
    let panel = |ends: &[f64]| c64::new(gauss_legendre(|x| f(x).re, ends[0], ends[1]), gauss_legendre(|x| f(x).im, ends[0], ends[1]));
    edges.windows(2).map(panel).fold(c64::new(0.0, 0.0), |sum, part| sum + part)
}

/// The different ones of `items` with the number of times they occur.
pub(super) fn with_counts<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<(T, f64)> {
    let mut groups: Vec<(T, f64)> = Vec::new();
    for item in items {
        match groups.iter_mut().find(|(other, _)| *other == item) {
            Some((_, count)) => *count += 1.0,
            None => groups.push((item, 1.0)),
        }
    }
    groups
}

/// Where a convex function is least, from a first guess: steps of doubling size, then golden section.
fn minimum(function: impl Fn(f64) -> f64, guess: f64) -> f64 {
    let (mut low, mut high) = (guess - 1.0, guess + 1.0);
    let mut size = 1.0;
    while function(low) < function(low + 0.5 * size) {
        size *= 2.0;
        low -= size;
    }
    size = 1.0;
    while function(high) < function(high - 0.5 * size) {
        size *= 2.0;
        high += size;
    }
    crate::testkit::functions::minimum_between(function, low, high, 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quadratic_form::{ChiSquareTerm, Contour, log_probability_below};

    #[test]
    fn chi_squares_by_their_transform() {
        for count in [8.0, 40.0, 1000.0] {
            for cutoff in [1e-4 * count, 0.3 * count, 0.9 * count] {
                let transform = |s: c64| -0.5 * count * (c64::new(1.0, 0.0) + s).ln();
                let expected = log_probability_below(
                    &[ChiSquareTerm { weight: 1.0, multiplicity: count, noncentrality: 0.0 }],
                    cutoff,
                    Contour::default(),
                );
                let value = log_measure_below(transform, cutoff);
                assert!((value - expected).abs() < 1e-7, "{count}, {cutoff}: {value} instead of {expected}");
                let finer = log_measure_with_steps(transform, cutoff, 171.0);
                assert!((value - finer).abs() < 1e-7, "{count}, {cutoff}: {value} and {finer}");
            }
        }
    }
}
