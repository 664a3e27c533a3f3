//! Measures that are known, and tables of functions that are costly to evaluate.

/// The log-measure of the sets that a cost, a cutoff and a center define, in nats: log-probabilities under the Gaussian prior, logarithms
/// of volumes under the flat one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Truth {
    /// Points that the center sees: the cost stays at or under the cutoff on the whole straight way to them. `None` where it is not known.
    pub star: Option<f64>,
    /// The part of `{cost <= cutoff}` that hangs together with the center.
    pub basin: f64,
    /// All of `{cost <= cutoff}`.
    pub everything: f64,
}

impl Truth {
    /// For sets that are star-shaped around the center.
    #[must_use]
    pub fn same(log_measure: f64) -> Self {
        Self { star: Some(log_measure), basin: log_measure, everything: log_measure }
    }
}

/// A function on an interval by its values at Chebyshev points, interpolated by the barycentric formula (Berrut & Trefethen, *SIAM Review*
/// 46 (2004) 501).
#[derive(Debug)]
pub(super) struct Interpolant {
    nodes: Vec<f64>,
    values: Vec<f64>,
}

impl Interpolant {
    pub(super) fn new(low: f64, high: f64, count: usize, function: impl Fn(f64) -> f64) -> Self {
        let nodes: Vec<f64> = (0..count)
            .map(|k| 0.5 * (low + high) + 0.5 * (high - low) * (std::f64::consts::PI * k as f64 / (count - 1) as f64).cos())
            .collect();
        let values = nodes.iter().map(|x| function(*x)).collect();
        Self { nodes, values }
    }

    pub(super) fn at(&self, x: f64) -> f64 {
        let (mut numerator, mut denominator) = (0.0, 0.0);
        let last = self.nodes.len() - 1;
        for (k, (node, value)) in self.nodes.iter().zip(&self.values).enumerate() {
            let distance = x - node;
            if distance == 0.0 {
                return *value;
            }
            let sign = if k % 2 == 0 { 1.0 } else { -1.0 };
            let weight = if k == 0 || k == last { 0.5 * sign } else { sign } / distance;
            numerator += weight * value;
            denominator += weight;
        }
        numerator / denominator
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpolation_of_smooth_functions_is_exact_to_rounding() {
        let table = Interpolant::new(-3.0, 2.0, 40, |x| (1.7 * x).sin() - 0.1 * x.exp());
        for i in 0..=50 {
            let x = -3.0 + 0.1 * f64::from(i);
            assert!((table.at(x) - ((1.7 * x).sin() - 0.1 * x.exp())).abs() < 1e-13, "{x}");
        }
    }
}
