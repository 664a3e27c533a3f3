//! A linear network with one hidden layer: the singular model whose learning coefficient is known for every shape.

use crate::testkit::shape::{Shape, objective_from_shape};

/// The cost `1/2 |B A - B_0 A_0|^2` (Frobenius norm) of the weights `w = (A, B)`, `A` hidden x inputs and `B` outputs x hidden, both row by
/// row; the center is `(A_0, B_0)`.
///
/// From a center at zero every ray sees the set to its end: the cost is `t^4 |B A|^2/2` there.
#[derive(Debug, Clone)]
pub struct ReducedRank {
    inputs: usize,
    hidden: usize,
    outputs: usize,
    center: Vec<f32>,
}

impl ReducedRank {
    /// The network with these units, and the matrices of the center, row by row.
    ///
    /// # Panics
    /// If a layer is empty or a matrix has another size.
    #[must_use]
    pub fn new(inputs: usize, hidden: usize, outputs: usize, a: Vec<f32>, b: Vec<f32>) -> Self {
        assert!(inputs > 0 && hidden > 0 && outputs > 0, "every layer needs a unit");
        assert!(a.len() == hidden * inputs && b.len() == outputs * hidden, "the matrices must have the size of the layers");
        Self { inputs, hidden, outputs, center: [a, b].concat() }
    }

    /// The network with these units around zero.
    ///
    /// # Panics
    /// If a layer is empty.
    #[must_use]
    pub fn at_zero(inputs: usize, hidden: usize, outputs: usize) -> Self {
        Self::new(inputs, hidden, outputs, vec![0.0; hidden * inputs], vec![0.0; outputs * hidden])
    }

    /// The learning coefficient of the zeros of the cost with its multiplicity, the smallest over all of them (Aoyagi & Watanabe 2005,
    /// "Stochastic complexities of reduced rank regression in Bayesian estimation", theorem 1).
    #[must_use]
    pub fn learning_coefficient(&self) -> (f64, u32) {
        let (m, h, n, r) = (self.inputs as i64, self.hidden as i64, self.outputs as i64, self.rank() as i64);
        let eighths = |twelve: i64| twelve as f64 / 8.0;
        if n + r <= m + h && m + r <= n + h && h + r <= m + n {
            let sum = -(h + r).pow(2) - m * m - n * n + 2 * (h + r) * m + 2 * (h + r) * n + 2 * m * n;
            return if (m + h + n + r) % 2 == 0 { (eighths(sum), 1) } else { (eighths(sum + 1), 2) };
        }
        let halves = if m + h < n + r {
            h * m - h * r + n * r
        } else if n + h < m + r {
            h * n - h * r + m * r
        } else {
            m * n
        };
        (halves as f64 / 2.0, 1)
    }

    /// The rank of `B_0 A_0`, by elimination.
    fn rank(&self) -> usize {
        let (a, b) = self.center.split_at(self.hidden * self.inputs);
        let entry = |o: usize, i: usize| -> f64 {
            (0..self.hidden).map(|k| f64::from(b[o * self.hidden + k]) * f64::from(a[k * self.inputs + i])).sum()
        };
        let mut rows: Vec<Vec<f64>> = (0..self.outputs).map(|o| (0..self.inputs).map(|i| entry(o, i)).collect()).collect();
        let scale = rows.iter().flatten().fold(0.0f64, |most, x| most.max(x.abs()));
        let mut rank = 0;
        for column in 0..self.inputs {
            let Some(pivot) = (rank..rows.len()).max_by(|&p, &q| rows[p][column].abs().total_cmp(&rows[q][column].abs())) else { break };
            if rows[pivot][column].abs() <= 1e-9 * scale {
                continue;
            }
            rows.swap(rank, pivot);
            let (upper, lower) = rows.split_at_mut(rank + 1);
            let pivot = &upper[rank];
            for row in lower {
                let factor = row[column] / pivot[column];
                row[column..].iter_mut().zip(&pivot[column..]).for_each(|(value, above)| *value -= factor * above);
            }
            rank += 1;
        }
        rank
    }
}

impl Shape for ReducedRank {
    fn center_values(&self) -> &[f32] {
        &self.center
    }

    fn value(&self, displacement: &[f64], gradient: Option<&mut [f64]>) -> f64 {
        let (inputs, hidden, outputs) = (self.inputs, self.hidden, self.outputs);
        let split = hidden * inputs;
        let (a0, b0) = self.center.split_at(split);
        let (x, y) = displacement.split_at(split);
        // B A - B_0 A_0 = B X + Y A_0, so that nothing large cancels.
        let error = |o: usize, i: usize| -> f64 {
            (0..hidden)
                .map(|k| {
                    let b = f64::from(b0[o * hidden + k]) + y[o * hidden + k];
                    b * x[k * inputs + i] + y[o * hidden + k] * f64::from(a0[k * inputs + i])
                })
                .sum()
        };
        let mut square = 0.0;
        match gradient {
            None => {
                for o in 0..outputs {
                    for i in 0..inputs {
                        square += error(o, i).powi(2);
                    }
                }
            }
            Some(gradient) => {
                gradient.fill(0.0);
                for o in 0..outputs {
                    for i in 0..inputs {
                        let e = error(o, i);
                        square += e * e;
                        for k in 0..hidden {
                            let (a, b) = (k * inputs + i, o * hidden + k);
                            gradient[a] += e * (f64::from(b0[b]) + y[b]);
                            gradient[split + b] += e * (f64::from(a0[a]) + x[a]);
                        }
                    }
                }
            }
        }
        0.5 * square
    }
}

objective_from_shape!(ReducedRank);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::gradients::tests::{check_gradient, normals};

    #[test]
    fn coefficients_of_the_cases_of_the_theorem() {
        let rank_one = |m: usize, h: usize, n: usize| {
            let (mut a, mut b) = (vec![0.0; h * m], vec![0.0; n * h]);
            (a[0], b[0]) = (1.0, 2.0);
            ReducedRank::new(m, h, n, a, b)
        };
        // As many hidden units as the rank needs: regular, half the free parameters (m + n - 1).
        assert_eq!(rank_one(3, 1, 4).learning_coefficient(), (3.0, 1));
        assert_eq!(ReducedRank::at_zero(1, 1, 1).learning_coefficient(), (0.5, 2));
        // A hidden layer wider than both sides: the product is any matrix.
        assert_eq!(ReducedRank::at_zero(2, 9, 2).learning_coefficient(), (2.0, 1));
        assert_eq!(ReducedRank::at_zero(1, 2, 7).learning_coefficient(), (1.0, 1));
        assert_eq!(ReducedRank::at_zero(7, 2, 1).learning_coefficient(), (1.0, 1));
    }

    #[test]
    fn the_gradient_is_that_of_the_cost() {
        let center = normals(1, 6 + 8, 0.7);
        let body = ReducedRank::new(3, 2, 4, center[..6].to_vec(), center[6..].to_vec());
        assert_eq!(body.rank(), 2);
        check_gradient("reduced rank", &body, &normals(2, 14, 1.0), 8, 2e-3);
    }
}
