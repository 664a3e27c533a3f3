//! Thermodynamic integration along a ladder.
//!
//! With `Delta(beta, localization)` the logarithm of `E exp(-beta C)` over the Gaussian part of the density,
//!
//! ```text
//! d Delta = - y d ln beta + p d ln a,      y = beta E[C],   p = beta/2 E[x.g - (1-m) c.g]
//! ```
//!
//! (`p` is `(a/2) (E_ref|x|^2 - E|x|^2)` after integration by parts, with far less noise than the distances themselves). Each part is
//! integrated as a function of its own logarithm by Hermite's rule, with slopes from parabolas through three rungs: the trapezoid is
//! wrong by hundreds of nats where this is by tenths.

/// Share of a panel that nodes of a slope are apart from each other at least.
const CLOSEST: f64 = 0.3;

/// The weights `w_i` for which `sum w_i f_i` is the integral of `f dx` over the nodes `x`, in their order; nodes may go up or down, and
/// equal neighbours contribute nothing.
pub(super) fn weights(nodes: &[f64]) -> Vec<f64> {
    let count = nodes.len();
    let mut weights = vec![0.0; count];
    // Neighbours with the same abscissa are one node, whose value is the first of them on one side and the last on the other: pieces.
    let mut start = 0;
    while start + 1 < count {
        let mut end = start;
        while end + 1 < count && nodes[end + 1] != nodes[end] {
            end += 1;
        }
        add_piece(&nodes[start..=end], &mut weights[start..=end]);
        start = end + 1;
    }
    weights
}

fn add_piece(x: &[f64], weights: &mut [f64]) {
    for i in 0..x.len().saturating_sub(1) {
        let h = x[i + 1] - x[i];
        weights[i] += 0.5 * h;
        weights[i + 1] += 0.5 * h;
        add_slope(x, i, h, h * h / 12.0, weights);
        add_slope(x, i + 1, h, -h * h / 12.0, weights);
    }
}

/// Adds `factor` times the weights of the slope at node `i`, from nodes that are not much closer to each other than the panel is long: a
/// difference of two values with noise, over a distance near zero, would be nothing but noise. Without such nodes the slope is left out.
fn add_slope(x: &[f64], i: usize, panel: f64, factor: f64, weights: &mut [f64]) {
    let far = |from: usize, to: usize| (x[to] - x[from]).abs() >= CLOSEST * panel.abs();
    let left = |from: usize| (0..from).rev().find(|&j| far(from, j));
    let right = |from: usize| (from + 1..x.len()).find(|&j| far(from, j));
    let nodes = match (left(i), right(i)) {
        (Some(a), Some(c)) => [a, i, c],
        (None, Some(b)) => match right(b) {
            Some(c) => [i, b, c],
            None => return,
        },
        (Some(b), None) => match left(b) {
            Some(a) => [a, b, i],
            None => return,
        },
        (None, None) => return,
    };
    let [a, b, c] = nodes.map(|node| x[node]);
    let at = x[i];
    // Derivatives of Lagrange's polynomials.
    weights[nodes[0]] += factor * (2.0 * at - b - c) / ((a - b) * (a - c));
    weights[nodes[1]] += factor * (2.0 * at - a - c) / ((b - a) * (b - c));
    weights[nodes[2]] += factor * (2.0 * at - a - b) / ((c - a) * (c - b));
}

#[cfg(test)]
mod tests {
    use super::weights;

    fn integrate(x: &[f64], f: impl Fn(f64) -> f64) -> f64 {
        weights(x).iter().zip(x).map(|(w, &x)| w * f(x)).sum()
    }

    #[test]
    fn polynomials_of_second_degree_are_exact_either_way() {
        let up = [0.0, 0.3, 1.0, 1.2, 2.0];
        let mut down = up;
        down.reverse();
        let f = |x: f64| 1.0 - 2.0 * x + 3.0 * x * x;
        let exact = 2.0 - 4.0 + 8.0;
        assert!((integrate(&up, f) - exact).abs() < 1e-12);
        assert!((integrate(&down, f) + exact).abs() < 1e-12);
        assert!((integrate(&[0.0, 2.0], |x| x) - 2.0).abs() < 1e-15);
        assert_eq!(integrate(&[1.0], |x| x), 0.0);
        assert_eq!(integrate(&[1.0, 1.0, 1.0], |x| x), 0.0);
    }

    #[test]
    fn nodes_close_to_each_other_do_not_blow_up_the_weights() {
        // Two temperatures a thousandth apart between panels of a half.
        for x in [vec![0.0, 0.001, 0.5, 1.0], vec![0.0, 0.5, 0.501, 1.0], vec![0.0, 0.001], vec![0.0, 0.5, 0.501]] {
            assert!(weights(&x).iter().all(|weight| weight.abs() < 1.0), "{x:?}: {:?}", weights(&x));
            let linear = |x: f64| 2.0 + 3.0 * x;
            let end = x[x.len() - 1];
            assert!((integrate(&x, linear) - (2.0 * end + 1.5 * end * end)).abs() < 1e-12, "{x:?}");
        }
    }

    #[test]
    fn smooth_functions_converge_with_the_fourth_power() {
        let error = |n: usize| {
            let x: Vec<f64> = (0..=n).map(|i| 3.0 * i as f64 / n as f64).collect();
            (integrate(&x, f64::exp) - (3f64.exp() - 1.0)).abs()
        };
        assert!(error(20) < 2e-3 && error(40) < error(20) / 7.0, "{} {}", error(20), error(40));
    }
}
