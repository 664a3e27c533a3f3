//! KL divergence between kept probabilities and those of `f32` logits, in `f64`, without cancellation.

use std::ops::Range;

/// Below this `|d|`, `expm1(d) - d` comes from its series; above, the difference loses at most one and a half digits.
const SERIES_BOUND: f64 = 0.25;

/// The center's output probabilities for one tile: `log p` and `p`, feature-major `[classes, positions]`, `f64`.
#[derive(Debug, Clone)]
pub(crate) struct KeptProbabilities {
    classes: usize,
    positions: usize,
    log_probabilities: Vec<f64>,
    probabilities: Vec<f64>,
}

/// Sums over the positions of one tile.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Divergence {
    /// Sum of `KL(p || q)` in nats. NaN when a logit is not finite.
    pub(crate) nats: f64,
    /// Sum of `|q - p|^2`: the squared sensitivity of [`Divergence::nats`] to independent noise of the logits.
    pub(crate) sensitivity_squared: f64,
    /// Sum of the squared logits: the scale of their rounding noise.
    pub(crate) logits_squared: f64,
}

impl Divergence {
    /// Adds another tile. Tiles must be added in a fixed order for the same bits.
    pub(crate) fn add(&mut self, other: &Self) {
        self.nats += other.nats;
        self.sensitivity_squared += other.sensitivity_squared;
        self.logits_squared += other.logits_squared;
    }
}

/// Logit `class` of `position`: the product of the last layer plus its bias, in `f64`.
#[inline(always)]
pub(crate) fn logit(products: &[f32], bias: &[f32], stride: usize, class: usize, position: usize) -> f64 {
    f64::from(products[class * stride + position]) + f64::from(bias[class])
}

/// `log sum exp` over the classes of one position.
#[inline(always)]
pub(crate) fn log_normaliser(products: &[f32], bias: &[f32], stride: usize, position: usize) -> f64 {
    let value = |class| logit(products, bias, stride, class, position);
    let largest = (0..bias.len()).map(value).fold(f64::NEG_INFINITY, f64::max);
    largest + (0..bias.len()).map(|class| (value(class) - largest).exp()).sum::<f64>().ln()
}

impl KeptProbabilities {
    /// Keeps the softmax of `products + bias` for the first `positions` columns of the feature-major `products` `[classes, stride]`.
    ///
    /// # Panics
    /// If `products` is shorter than the shape.
    #[must_use]
    pub(crate) fn new(products: &[f32], bias: &[f32], stride: usize, positions: usize) -> Self {
        let classes = bias.len();
        assert!(positions <= stride && products.len() == classes * stride, "the products must be [classes, stride]");
        let mut log_probabilities = vec![0.0; classes * positions];
        for position in 0..positions {
            let normaliser = log_normaliser(products, bias, stride, position);
            for class in 0..classes {
                log_probabilities[class * positions + position] = logit(products, bias, stride, class, position) - normaliser;
            }
        }
        let probabilities = log_probabilities.iter().map(|value| value.exp()).collect();
        Self { classes, positions, log_probabilities, probabilities }
    }

    /// Number of positions kept.
    #[must_use]
    pub(crate) fn positions(&self) -> usize {
        self.positions
    }

    /// Whether every kept number is finite.
    #[must_use]
    pub(crate) fn is_finite(&self) -> bool {
        self.log_probabilities.iter().all(|value| value.is_finite())
    }

    /// Sum over the positions of `KL(p || q)` with `q` the softmax of `products + bias`, as
    ///
    /// `KL = sum_k p_k (expm1(d_k) - d_k)`, `d = log q - log p`.
    ///
    /// This equals `-sum p d` because `sum p expm1(d) = sum q - sum p = 0`, but all its terms are nonnegative: nothing cancels however
    /// small the divergence is. `expm1(d) - d` comes from its Taylor series for `|d| < 1/4` and from `q - p - p d` elsewhere, which also
    /// stands when `p` underflows to zero. Relative error of the arithmetic below 1e-13 (oracle: exact fractions); what limits the
    /// result is the `f32` rounding of the logits. Identical logits give exactly zero.
    ///
    /// # Panics
    /// If the shapes differ from those of the kept probabilities.
    #[must_use]
    pub(crate) fn divergence(&self, products: &[f32], bias: &[f32], stride: usize) -> Divergence {
        assert_eq!(bias.len(), self.classes, "as many classes as were kept");
        assert!(self.positions <= stride && products.len() == self.classes * stride, "the products must be [classes, stride]");
        let mut total = Divergence::default();
        for position in 0..self.positions {
            let normaliser = log_normaliser(products, bias, stride, position);
            for class in 0..self.classes {
                let value = logit(products, bias, stride, class, position);
                // In f64 the square of a finite f32 is finite, so this sum also tells whether any logit is not.
                total.logits_squared += value * value;
                let index = class * self.positions + position;
                let (log_p, p) = (self.log_probabilities[index], self.probabilities[index]);
                let log_q = value - normaliser;
                let d = log_q - log_p;
                if d.abs() < SERIES_BOUND {
                    total.nats += p * expm1_minus_identity_series(d);
                    let change = p * d * (1.0 + d * 0.5);
                    total.sensitivity_squared += change * change;
                } else {
                    let q = log_q.exp();
                    total.nats += q - p - p * d;
                    total.sensitivity_squared += (q - p) * (q - p);
                }
            }
        }
        if !total.logits_squared.is_finite() {
            total.nats = f64::NAN;
        }
        total
    }
}

impl KeptProbabilities {
    /// Replaces the `products` of the last layer by `scale (q - p)`, the gradient of `scale` times [`KeptProbabilities::divergence`] with
    /// respect to the logits, at the `positions` given, and by zero elsewhere. Computed in `f64`, as `p expm1(d)` where `d` is small, and
    /// rounded once. Returns the sum of the divergences of these positions in nats, NaN when a logit is not finite.
    ///
    /// There may be fewer columns than kept positions, if those given are among them.
    ///
    /// # Panics
    /// If the lengths do not fit, or the positions are not all kept ones with a column.
    #[must_use]
    pub(crate) fn divergence_slopes(&self, products: &mut [f32], bias: &[f32], stride: usize, positions: Range<usize>, scale: f64) -> f64 {
        self.check(products, bias, stride, &positions);
        let mut nats = 0.0;
        for position in 0..stride {
            if !positions.contains(&position) {
                (0..self.classes).for_each(|class| products[class * stride + position] = 0.0);
                continue;
            }
            let normaliser = log_normaliser(products, bias, stride, position);
            for class in 0..self.classes {
                let index = class * self.positions + position;
                let (log_p, p) = (self.log_probabilities[index], self.probabilities[index]);
                let log_q = logit(products, bias, stride, class, position) - normaliser;
                let d = log_q - log_p;
                let change = if d.abs() < SERIES_BOUND {
                    let excess = expm1_minus_identity_series(d);
                    nats += p * excess;
                    p * (d + excess)
                } else {
                    let q = log_q.exp();
                    nats += q - p - p * d;
                    q - p
                };
                products[class * stride + position] = (scale * change) as f32;
            }
        }
        nats
    }

    /// As [`KeptProbabilities::divergence_slopes`] for the cross-entropy with labels drawn from `q`: the gradient is `scale (q - 1)` for
    /// the label and `scale q` for the other classes. `draws` has a number in `[0, 1)` for each of the positions; the label is the first
    /// class at which the running sum of `q` exceeds it.
    ///
    /// # Panics
    /// As [`KeptProbabilities::divergence_slopes`], or if there is not one draw for each of the positions.
    #[must_use]
    pub(crate) fn drawn_slopes(
        &self,
        products: &mut [f32],
        bias: &[f32],
        stride: usize,
        positions: Range<usize>,
        draws: &[f64],
        scale: f64,
    ) -> f64 {
        self.check(products, bias, stride, &positions);
        assert_eq!(draws.len(), positions.len(), "one draw for each position");
        let mut nats = 0.0;
        for position in 0..stride {
            if !positions.contains(&position) {
                (0..self.classes).for_each(|class| products[class * stride + position] = 0.0);
                continue;
            }
            let normaliser = log_normaliser(products, bias, stride, position);
            let draw = draws[position - positions.start];
            let (mut sum, mut label) = (0.0, None);
            for class in 0..self.classes {
                let log_q = logit(products, bias, stride, class, position) - normaliser;
                let q = log_q.exp();
                sum += q;
                // The running sum may end just below 1: then the last class is meant.
                let chosen = label.is_none() && (sum > draw || class + 1 == self.classes);
                if chosen {
                    label = Some(class);
                    nats -= log_q;
                }
                products[class * stride + position] = (scale * if chosen { q - 1.0 } else { q }) as f32;
            }
        }
        nats
    }

    fn check(&self, products: &[f32], bias: &[f32], stride: usize, positions: &Range<usize>) {
        assert_eq!(bias.len(), self.classes, "as many classes as were kept");
        assert_eq!(products.len(), self.classes * stride, "the products must be [classes, stride]");
        assert!(positions.end <= self.positions.min(stride), "the positions must be kept ones, each with its column");
    }
}

/// `expm1(d) - d = d^2 (1/2 + d/6 + ... + d^11/13!)` for `|d| < 1/4`, to a relative error of 1e-16.
#[inline(always)]
fn expm1_minus_identity_series(d: f64) -> f64 {
    const INVERSE_FACTORIALS: [f64; 12] = [
        1.0 / 2.0,
        1.0 / 6.0,
        1.0 / 24.0,
        1.0 / 120.0,
        1.0 / 720.0,
        1.0 / 5040.0,
        1.0 / 40320.0,
        1.0 / 362_880.0,
        1.0 / 3_628_800.0,
        1.0 / 39_916_800.0,
        1.0 / 479_001_600.0,
        1.0 / 6_227_020_800.0,
    ];
    let sum = INVERSE_FACTORIALS.iter().rev().fold(0.0, |sum, &coefficient| sum * d + coefficient);
    d * d * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two logits `(0, x)` against `(0, y)`: the divergence in closed form, `p ln(p/q) + (1-p) ln((1-p)/(1-q))`.
    fn two_class(x: f32, y: f32) -> Divergence {
        let bias = [0.0f32, 0.0];
        KeptProbabilities::new(&[0.0, x], &bias, 1, 1).divergence(&[0.0, y], &bias, 1)
    }

    #[test]
    fn series_and_difference_agree_where_they_meet() {
        for step in 0..1000 {
            let d = 0.2 + f64::from(step) * 1e-4;
            for d in [d, -d] {
                let difference = d.exp_m1() - d;
                assert!((expm1_minus_identity_series(d) / difference - 1.0).abs() < 2e-14, "{d}");
            }
        }
    }

    #[test]
    fn tiny_divergences_have_all_their_digits() {
        // For logits (0, x) and (0, x + h): KL = h^2/2 s(1-s) + h^3/6 s(1-s)(1-2s) + O(h^4), s = 1/(1+e^-x).
        for x in [0.0f32, 1.0, -2.5] {
            for h in [2f32.powi(-8), 2f32.powi(-14), 2f32.powi(-18)] {
                let (s, step) = (1.0 / (1.0 + (-f64::from(x)).exp()), f64::from(h));
                let (first, second) = (s * (1.0 - s), s * (1.0 - s) * (1.0 - 2.0 * s));
                let fourth = first * (1.0 - 6.0 * first);
                let exact = step.powi(2) / 2.0 * first + step.powi(3) / 6.0 * second + step.powi(4) / 24.0 * fourth;
                let value = two_class(x, x + h).nats;
                assert!((value / exact - 1.0).abs() < 2e-9 + step.powi(3), "x {x}, h {h}: {value} not {exact}");
            }
        }
    }

    #[test]
    fn large_divergences_and_underflow() {
        // p = (1/2, 1/2), q = (1, 0) to within e^-200: KL = 200/2 - ln 2.
        assert!((two_class(0.0, -200.0).nats - (100.0 - 2f64.ln())).abs() < 1e-12);
        // p = (1, 0) (p_2 underflows), q = (1/2, 1/2): KL = ln 2.
        assert!((two_class(-2000.0, 0.0).nats - 2f64.ln()).abs() < 1e-14);
        assert_eq!(two_class(-2000.0, -2000.0).nats, 0.0);
    }

    #[test]
    fn equal_logits_give_exactly_zero_and_bad_ones_nan() {
        assert_eq!(two_class(0.3, 0.3).nats, 0.0);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(two_class(0.3, bad).nats.is_nan(), "{bad}");
        }
    }

    #[test]
    fn padding_columns_are_ignored() {
        let bias = [0.1f32, -0.2];
        let kept = KeptProbabilities::new(&[1.0, 9.0, 2.0, 9.0], &bias, 2, 1);
        let narrow = KeptProbabilities::new(&[1.0, 2.0], &bias, 1, 1);
        let wide = kept.divergence(&[1.5, f32::NAN, 1.0, f32::NAN], &bias, 2);
        assert_eq!(wide, narrow.divergence(&[1.5, 1.0], &bias, 1));
        assert!(wide.nats > 0.0);
    }
}
