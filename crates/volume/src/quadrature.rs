//! Integrals of log-concave functions, relative to the value at a reference point.

use std::sync::LazyLock;

/// Nodes of the Gauss-Legendre rule of one panel.
const NODES: usize = 24;

/// Falls in nats below the reference value at which panels end. What lies beyond the last is left out: `e^-45 = 3e-20`.
const PANEL_FALLS: [f64; 3] = [9.0, 24.0, 45.0];

/// How much farther than asked for a panel may reach, relative to its fall.
const FALL_SLACK: f64 = 0.25;

/// The non-negative nodes on `[-1, 1]` with their weights; the others follow by symmetry.
static GAUSS_LEGENDRE: LazyLock<[(f64, f64); NODES / 2]> = LazyLock::new(|| std::array::from_fn(gauss_legendre_node));

/// Node number `index` (from 1 down) of the rule with [`NODES`] nodes and its weight `2 / ((1 - x^2) P'(x)^2)`, by Newton's method.
fn gauss_legendre_node(index: usize) -> (f64, f64) {
    let count = NODES as f64;
    let mut node = (std::f64::consts::PI * (index as f64 + 0.75) / (count + 0.5)).cos();
    let mut derivative = 1.0;
    // Six quadratic steps from a start good to 1e-3.
    for _ in 0..6 {
        let (mut before, mut polynomial) = (1.0, node);
        for degree in 2..=NODES {
            let degree = degree as f64;
            (before, polynomial) = (polynomial, ((2.0 * degree - 1.0) * node * polynomial - (degree - 1.0) * before) / degree);
        }
        derivative = count * (before - node * polynomial) / (1.0 - node * node);
        node -= polynomial / derivative;
    }
    (node, 2.0 / ((1.0 - node * node) * derivative * derivative))
}

/// `INT_start^end f(x) dx` with one panel of 24 Gauss-Legendre nodes: exact for polynomials up to degree 47.
pub fn gauss_legendre(integrand: impl Fn(f64) -> f64, start: f64, end: f64) -> f64 {
    let center = 0.5 * (start + end);
    let half_width = 0.5 * (end - start);
    let sum: f64 = GAUSS_LEGENDRE
        .iter()
        .map(|&(node, weight)| weight * (integrand(center + half_width * node) + integrand(center - half_width * node)))
        .sum();
    half_width * sum
}

/// Shape of a log-integrand at its reference point 0 and the interval it lives on, for [`log_integral`].
#[derive(Debug, Clone, Copy)]
pub struct LogConcaveShape {
    /// First derivative at 0.
    pub slope: f64,
    /// Minus the second derivative at 0; `>= 0`.
    pub curvature: f64,
    /// Lower end, `<= 0`, finite.
    pub lower: f64,
    /// Upper end, `>= 0`, may be infinite.
    pub upper: f64,
}

/// `ln INT_lower^upper exp g(x) dx` in nats, for `g` concave with `g(0) = 0`, analytic inside the interval, and a maximum no more than a few
/// nats above 0. The shape's slope and curvature only say where to look first.
///
/// The interval is cut on both sides where `g` has fallen by 9, 24 and 45 nats (or where it ends) and every panel gets 24 nodes.
/// For a Gaussian, an exponential or a power times an exponential that leaves a relative error of about 1e-14 (oracle: closed forms
/// and the mpmath fixture), so the rounding of `g` itself decides: an error `e` in `g` near its top is an error `e` in nats here.
///
/// -inf when the interval is empty.
pub fn log_integral(log_integrand: impl Fn(f64) -> f64, shape: LogConcaveShape) -> f64 {
    let right = one_side(&log_integrand, -shape.slope, shape.curvature, shape.upper);
    let left = one_side(|x| log_integrand(-x), shape.slope, shape.curvature, -shape.lower);
    (left + right).ln()
}

/// `INT_0^extent exp g(x) dx`; `descent` is `-g'(0)`.
fn one_side(log_integrand: impl Fn(f64) -> f64, descent: f64, curvature: f64, extent: f64) -> f64 {
    let mut total = 0.0;
    let mut start = 0.0;
    for fall in PANEL_FALLS {
        if start >= extent {
            break;
        }
        let end = fall_distance(&log_integrand, fall, descent, curvature, start, extent);
        total += gauss_legendre(|x| log_integrand(x).exp(), start, end);
        start = end;
    }
    total
}

/// Where `g` has fallen by `fall` to `1.25 fall`, or the end of the interval. `start` is a point where it has not.
fn fall_distance(log_integrand: impl Fn(f64) -> f64, fall: f64, descent: f64, curvature: f64, start: f64, extent: f64) -> f64 {
    if extent.is_finite() && log_integrand(extent) >= -fall {
        return extent;
    }
    // The root of descent x + curvature x^2 / 2 = fall, without cancellation for either sign of the descent.
    let root = descent.hypot((2.0 * curvature * fall).sqrt());
    let guess = if descent >= 0.0 { 2.0 * fall / (descent + root) } else { (root - descent) / curvature };
    let (mut inside, mut outside) = (start, extent);
    let mut distance = if guess > start && guess < extent { guess } else { outside.min(2.0 * start.max(0.5)) };
    // Each turn doubles or halves the distance or halves the bracket: far fewer than this many are ever needed.
    for _ in 0..4000 {
        let fallen = -log_integrand(distance);
        if fallen < fall {
            inside = distance;
            distance = (2.0 * inside).min(0.5 * (inside + outside));
        } else if fallen > fall * (1.0 + FALL_SLACK) {
            outside = distance;
            distance = 0.5 * (inside + outside);
        } else {
            break;
        }
        if distance <= inside || distance >= outside {
            break;
        }
    }
    distance
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_panel_is_exact_for_polynomials_of_degree_47() {
        // Legendre's rule integrates x^46 and no x^48.
        for degree in [0, 1, 2, 7, 46, 47] {
            let value = gauss_legendre(|x| x.powi(degree), 0.0, 1.0);
            let truth = 1.0 / (f64::from(degree) + 1.0);
            assert!((value / truth - 1.0).abs() < 4e-15, "degree {degree}: {value}");
        }
        assert!((gauss_legendre(|x| x.powi(48), -1.0, 1.0) / (2.0 / 49.0) - 1.0).abs() > 1e-15);
        let total: f64 = GAUSS_LEGENDRE.iter().map(|&(_, weight)| 2.0 * weight).sum();
        assert!((total - 2.0).abs() < 1e-14);
        assert!(GAUSS_LEGENDRE.windows(2).all(|pair| pair[0].0 > pair[1].0) && GAUSS_LEGENDRE[11].0 > 0.0);
    }

    fn check(name: &str, value: f64, truth: f64) {
        assert!((value - truth).abs() < 1e-13 * truth.abs().max(1.0), "{name}: {value} instead of {truth}");
    }

    #[test]
    fn known_integrals() {
        let tau = std::f64::consts::TAU;
        for scale in [1e-200, 1e-9, 1.0, 1e9] {
            // Slope and curvature hints that are right, and ones that are wrong by orders of magnitude.
            for hint in [1.0, 1e-6, 1e6] {
                let gaussian = LogConcaveShape { slope: 0.0, curvature: hint / scale / scale, lower: -60.0 * scale, upper: f64::INFINITY };
                check("Gaussian", log_integral(|x| -0.5 * (x / scale).powi(2), gaussian), (scale * tau.sqrt()).ln());
                let exponential = LogConcaveShape { slope: -hint / scale, curvature: 0.0, lower: 0.0, upper: f64::INFINITY };
                check("exponential", log_integral(|x| -x / scale, exponential), scale.ln());
            }
        }
        let short = LogConcaveShape { slope: -1.0, curvature: 0.0, lower: 0.0, upper: 1e-9 };
        check("short", log_integral(|x| -x, short), 1e-9f64.ln() - 0.5e-9);
        let empty = LogConcaveShape { slope: 1.0, curvature: 1.0, lower: 0.0, upper: 0.0 };
        assert_eq!(log_integral(|x| -x * x, empty), f64::NEG_INFINITY);
    }

    #[test]
    fn gamma_functions() {
        // INT (1 + x)^m e^(-m x) dx over x > -1 is Gamma(m + 1) e^m / m^(m + 1).
        for m in [1.0f64, 2.0, 10.0, 60.0, 150.0] {
            let shape = LogConcaveShape { slope: 0.0, curvature: m, lower: -1.0, upper: f64::INFINITY };
            let value = log_integral(|x| m * (x.ln_1p() - x), shape);
            let truth = crate::double_double::ln_gamma(m + 1.0).to_f64() + m - (m + 1.0) * m.ln();
            assert!((value - truth).abs() < 1e-12, "m = {m}: {value} instead of {truth}");
        }
    }
}
