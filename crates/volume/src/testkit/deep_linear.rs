//! A linear network of any depth, whose learning coefficient is known for all widths.

use crate::testkit::shape::{Shape, objective_from_shape};

/// The cost `1/2 |W_L ... W_1 - V_L ... V_1|^2` (Frobenius norm) of the weights `w = (W_1, ..., W_L)`, `W_l` of `widths[l] x widths[l - 1]` row by row;
/// the center is `(V_1, ..., V_L)`. It is the population loss of a linear network with unit noise whose inputs are white.
#[derive(Debug, Clone)]
pub struct DeepLinear {
    widths: Vec<usize>,
    center: Vec<f32>,
    /// The product of the center's matrices.
    product: Vec<f64>,
}

impl DeepLinear {
    /// The network of these widths, from the inputs to the outputs, with the matrices of the center one after the other.
    ///
    /// # Panics
    /// If there is no matrix, a layer is empty, or the center has another size.
    #[must_use]
    pub fn new(widths: Vec<usize>, center: Vec<f32>) -> Self {
        assert!(widths.len() >= 2 && widths.iter().all(|width| *width > 0), "a matrix at least, and every layer needs a unit");
        assert_eq!(center.len(), widths.windows(2).map(|pair| pair[0] * pair[1]).sum::<usize>(), "as many weights as the matrices have");
        let mut body = Self { widths, center, product: Vec::new() };
        let weights: Vec<f64> = body.center.iter().copied().map(f64::from).collect();
        body.product = body.partial_products(&weights).pop().unwrap_or_default();
        body
    }

    /// The network of these widths around zero.
    ///
    /// # Panics
    /// If there is no matrix, or a layer is empty.
    #[must_use]
    pub fn at_zero(widths: Vec<usize>) -> Self {
        let count = widths.windows(2).map(|pair| pair[0] * pair[1]).sum();
        Self::new(widths, vec![0.0; count])
    }

    /// The learning coefficient of the zeros of the cost of networks of these widths, with its multiplicity, where the product has rank `rank`: the
    /// smallest over all of them (Aoyagi 2024, "Consideration on the learning efficiency of multiple-layered neural networks with linear units", Neural
    /// Networks 172, main theorem; as given by Lau et al. 2023, appendix).
    ///
    /// With `M_s = widths_s - rank` there is a set of layers, the `l + 1` smallest of them, whose `M` are all less than their sum over `l`, while no
    /// other is. With `m` that sum over `l`, rounded up, and `a = sum - (m - 1) l`:
    ///
    /// ```text
    /// lambda = (r (H_0 + H_L) - r^2)/2 + a (l - a)/(4 l) - l (l - 1)/4 (sum/l)^2 + 1/2 sum_(i<j) M_i M_j,     multiplicity a (l - a) + 1
    /// ```
    ///
    /// # Panics
    /// If there are fewer than two widths, or one is less than the rank.
    #[must_use]
    pub fn learning_coefficient_of(widths: &[usize], rank: usize) -> (f64, u32) {
        assert!(widths.len() >= 2 && widths.iter().all(|width| *width >= rank), "at least two layers, none narrower than the rank");
        let mut left: Vec<i64> = widths.iter().map(|width| (width - rank) as i64).collect();
        left.sort_unstable();
        let r = rank as f64;
        let of_rank = 0.5 * (r * (widths[0] + widths[widths.len() - 1]) as f64 - r * r);
        // The smallest set whose next layer is no less than its sum over l.
        let l = (1..left.len() - 1).find(|&l| left[l + 1] * l as i64 >= left[..=l].iter().sum()).unwrap_or(left.len() - 1);
        let chosen = &left[..=l];
        let (l, sum) = (l as i64, chosen.iter().sum::<i64>());
        let a = sum - ((sum + l - 1) / l - 1) * l;
        let pairs_twice = sum * sum - chosen.iter().map(|m| m * m).sum::<i64>();
        // Over the denominator 4 l, so that halves come out as halves.
        let numerator = a * (l - a) - (l - 1) * sum * sum + l * pairs_twice;
        (of_rank + numerator as f64 / (4 * l) as f64, (a * (l - a) + 1) as u32)
    }

    /// `W_1`, `W_2 W_1`, ... up to all of them.
    fn partial_products(&self, weights: &[f64]) -> Vec<Vec<f64>> {
        let inputs = self.widths[0];
        let mut products: Vec<Vec<f64>> = Vec::with_capacity(self.widths.len() - 1);
        let mut start = 0;
        for pair in self.widths.windows(2) {
            let (from, to) = (pair[0], pair[1]);
            let matrix = &weights[start..start + from * to];
            start += from * to;
            let next = match products.last() {
                None => matrix.to_vec(),
                Some(before) => (0..to * inputs)
                    .map(|place| {
                        let (o, i) = (place / inputs, place % inputs);
                        (0..from).map(|k| matrix[o * from + k] * before[k * inputs + i]).sum()
                    })
                    .collect(),
            };
            products.push(next);
        }
        products
    }
}

impl Shape for DeepLinear {
    fn center_values(&self) -> &[f32] {
        &self.center
    }

    fn value(&self, displacement: &[f64], gradient: Option<&mut [f64]>) -> f64 {
        let weights: Vec<f64> = displacement.iter().zip(&self.center).map(|(x, c)| x + f64::from(*c)).collect();
        let products = self.partial_products(&weights);
        let inputs = self.widths[0];
        let whole = products.last().map_or(&[][..], Vec::as_slice);
        // The gradient with respect to the product so far, from the last layer back.
        let mut above: Vec<f64> = whole.iter().zip(&self.product).map(|(product, wanted)| product - wanted).collect();
        let cost = 0.5 * above.iter().map(|e| e * e).sum::<f64>();
        let Some(gradient) = gradient else { return cost };
        let mut end = weights.len();
        for layer in (1..self.widths.len()).rev() {
            let (from, to) = (self.widths[layer - 1], self.widths[layer]);
            let start = end - from * to;
            let (matrix, slopes) = (&weights[start..end], &mut gradient[start..end]);
            if layer == 1 {
                slopes.copy_from_slice(&above);
                break;
            }
            let before = &products[layer - 2];
            for o in 0..to {
                for k in 0..from {
                    slopes[o * from + k] = (0..inputs).map(|i| above[o * inputs + i] * before[k * inputs + i]).sum();
                }
            }
            above = (0..from * inputs)
                .map(|place| {
                    let (k, i) = (place / inputs, place % inputs);
                    (0..to).map(|o| matrix[o * from + k] * above[o * inputs + i]).sum()
                })
                .collect();
            end = start;
        }
        cost
    }
}

objective_from_shape!(DeepLinear);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::ReducedRank;
    use crate::testkit::gradients::tests::{check_gradient, normals};

    /// With two matrices it is reduced-rank regression, whose theorem (Aoyagi & Watanabe 2005) has other cases and another formula.
    #[test]
    fn two_matrices_have_the_coefficient_of_reduced_rank_regression() {
        for (m, h, n) in (1..7).flat_map(|m| (1..7).flat_map(move |h| (1..7).map(move |n| (m, h, n)))) {
            for rank in 0..=m.min(h).min(n) {
                let (mut a, mut b) = (vec![0.0; h * m], vec![0.0; n * h]);
                (0..rank).for_each(|k| (a[k * m + k], b[k * h + k]) = (1.0, 1.0));
                let theirs = ReducedRank::new(m, h, n, a, b).learning_coefficient();
                let (lambda, multiplicity) = DeepLinear::learning_coefficient_of(&[m, h, n], rank);
                assert!((lambda - theirs.0).abs() < 1e-12, "{m} {h} {n} rank {rank}: {lambda} {theirs:?}");
                // The theorem gives multiplicities where the set holds all three layers.
                if theirs.1 == 2 {
                    assert_eq!(multiplicity, 2, "{m} {h} {n} rank {rank}");
                }
            }
        }
    }

    /// A chain of single units is a normal crossing of all its weights: 1/2, as often as there are layers. One unit between wide layers leaves a product
    /// of squared lengths, of which the fewest coordinates count.
    #[test]
    fn deep_networks_with_coefficients_that_can_be_seen() {
        assert_eq!(DeepLinear::learning_coefficient_of(&[1, 1, 1, 1, 1], 0), (0.5, 4));
        assert_eq!(DeepLinear::learning_coefficient_of(&[2, 2, 1, 2], 0), (1.0, 3));
        // A full rank: the product is any matrix near a regular one.
        assert_eq!(DeepLinear::learning_coefficient_of(&[3, 3, 3, 3], 3), (4.5, 1));
        assert_eq!(DeepLinear::learning_coefficient_of(&[3, 3, 3, 3], 0), (3.0, 1));
        assert_eq!(DeepLinear::learning_coefficient_of(&[2, 5], 0), (5.0, 1));
    }

    #[test]
    fn the_gradient_is_that_of_the_cost() {
        let body = DeepLinear::new(vec![2, 3, 2, 4], normals(1, 6 + 6 + 8, 0.7));
        check_gradient("deep linear", &body, &normals(2, 20, 1.0), 8, 2e-3);
    }
}
