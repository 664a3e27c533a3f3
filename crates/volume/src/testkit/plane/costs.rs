//! Costs in the plane: a curved valley, two wells, a normal crossing.

use crate::testkit::functions::minimum_between;
use crate::testkit::plane::integral::{PlaneCost, PlaneIntegral};

/// A valley whose floor is a parabola: `g = 1/2 (l_0 x_0^2 + l_1 (x_1 - b x_0^2)^2)`.
///
/// The shear `(x_0, x_1) -> (x_0, x_1 - b x_0^2)` has Jacobian one, so that the body has the volume of the ellipsoid with `b = 0`. It
/// hangs together as the image of an ellipsoid does, but the center does not see the ends of the valley.
#[derive(Debug, Clone, Copy)]
pub struct CurvedValley {
    eigenvalues: [f64; 2],
    bend: f64,
}

impl CurvedValley {
    /// Curvatures along the floor and across it, and the bend `b`.
    ///
    /// # Panics
    /// If a curvature is not positive and finite or the bend is not finite.
    #[must_use]
    pub fn new(along: f64, across: f64, bend: f64) -> Self {
        assert!(along > 0.0 && across > 0.0 && (along + across + bend).is_finite(), "a valley needs positive curvatures and a finite bend");
        Self { eigenvalues: [along, across], bend }
    }
}

impl PlaneCost for CurvedValley {
    fn name(&self) -> &'static str {
        "a curved valley"
    }

    fn cost(&self, [x, y]: [f64; 2]) -> f64 {
        let height = y - self.bend * x * x;
        0.5 * (self.eigenvalues[0] * x * x + self.eigenvalues[1] * height * height)
    }

    fn gradient(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let pull = self.eigenvalues[1] * (y - self.bend * x * x);
        [self.eigenvalues[0] * x - 2.0 * self.bend * x * pull, pull]
    }

    fn pull_back(&self, [x, _]: [f64; 2], z: [f64; 2]) -> Option<[f64; 2]> {
        let roots = self.eigenvalues.map(f64::sqrt);
        Some([roots[0] * z[0] - 2.0 * self.bend * x * roots[1] * z[1], roots[1] * z[1]])
    }

    fn chart(&self, [along, height]: [f64; 2], _: Option<f64>) -> ([f64; 2], f64) {
        ([along, height + self.bend * along * along], 0.0)
    }

    fn rectangles(&self, cutoff: f64, _: Option<f64>) -> Vec<[[f64; 2]; 2]> {
        vec![self.eigenvalues.map(|l| (2.0 * cutoff / l).sqrt()).map(|half| [-half, half])]
    }
}

/// Two wells: `g = min( 1/2 sum l_i x_i^2, 1/2 sum m_i (x_i - d_i)^2 )`, so that `{C <= cutoff}` is the union of two ellipsoids.
#[derive(Debug, Clone, Copy)]
pub struct TwoWells {
    first: [f64; 2],
    second: [f64; 2],
    offset: [f64; 2],
}

impl TwoWells {
    /// Curvatures of the well at the center, of the other one, and where that lies.
    ///
    /// # Panics
    /// If a curvature is not positive and finite, or the offset is not finite.
    #[must_use]
    pub fn new(first: [f64; 2], second: [f64; 2], offset: [f64; 2]) -> Self {
        assert!(first.iter().chain(&second).all(|l| *l > 0.0 && l.is_finite()), "wells need positive curvatures");
        assert!(offset.iter().all(|d| d.is_finite()), "the second well must lie somewhere");
        Self { first, second, offset }
    }

    /// The two quadratic costs whose minimum is taken.
    fn both(&self, x: [f64; 2]) -> [f64; 2] {
        let half_square = |curvatures: [f64; 2], x: [f64; 2]| 0.5 * (curvatures[0] * x[0] * x[0] + curvatures[1] * x[1] * x[1]);
        [half_square(self.first, x), half_square(self.second, [x[0] - self.offset[0], x[1] - self.offset[1]])]
    }

    /// The cost of the lowest pass between the wells: `min_x max(C_1, C_2) = max_s min_x [ s C_1 + (1 - s) C_2 ]` (both are convex), with
    ///
    /// ```text
    /// min_x [ s C_1 + (1 - s) C_2 ] = 1/2 sum d_i^2 s l_i (1 - s) m_i / (s l_i + (1 - s) m_i)
    /// ```
    #[must_use]
    pub fn pass(&self) -> f64 {
        let lower = |s: f64| {
            let part = |i: usize| {
                let (l, m) = (s * self.first[i], (1.0 - s) * self.second[i]);
                0.5 * self.offset[i].powi(2) * l * m / (l + m)
            };
            part(0) + part(1)
        };
        lower(minimum_between(|s| -lower(s), 0.0, 1.0, 80))
    }
}

impl PlaneCost for TwoWells {
    fn name(&self) -> &'static str {
        "the lower of two wells"
    }

    fn cost(&self, x: [f64; 2]) -> f64 {
        let [first, second] = self.both(x);
        first.min(second)
    }

    fn gradient(&self, x: [f64; 2]) -> [f64; 2] {
        let [first, second] = self.both(x);
        if first <= second {
            [self.first[0] * x[0], self.first[1] * x[1]]
        } else {
            [self.second[0] * (x[0] - self.offset[0]), self.second[1] * (x[1] - self.offset[1])]
        }
    }

    fn pull_back(&self, _: [f64; 2], _: [f64; 2]) -> Option<[f64; 2]> {
        None
    }

    fn chart(&self, q: [f64; 2], _: Option<f64>) -> ([f64; 2], f64) {
        (q, 0.0)
    }

    fn rectangles(&self, cutoff: f64, _: Option<f64>) -> Vec<[[f64; 2]; 2]> {
        let half = |curvature: f64| (2.0 * cutoff / curvature).sqrt();
        let around = |middle: f64, half: f64| [middle - half, middle + half];
        vec![[0, 1].map(|i| around(0.0, half(self.first[i]))), [0, 1].map(|i| around(self.offset[i], half(self.second[i])))]
    }

    fn piece(&self, x: [f64; 2]) -> usize {
        let [first, second] = self.both(x);
        usize::from(second < first)
    }

    fn detached_measure(&self, integral: &PlaneIntegral<'_>) -> Option<f64> {
        // Across the pass the quadratic coordinates are best at zero: the ellipsoids touch in the plane first.
        (self.pass() > integral.cutoff).then(|| integral.of_piece(0, &|x| integral.cutoff - self.cost(x)))
    }
}

/// Two smooth pieces of `{g = 0}` that cross: `g = k w_0^2 w_1^2`, with the center at `(a, 0)`.
///
/// At `a = 0` the Hessian in the plane is zero. For small cutoffs the measure goes like `cutoff^lambda |ln cutoff|^(m - 1)` with `lambda = 1/2`
/// and `m = 2` for the plane, plus 1/2 in `lambda` for every quadratic coordinate (Watanabe, *Algebraic Geometry and Statistical Learning
/// Theory*, 2009, section 2.3 and theorem 6.7). Its area is infinite.
#[derive(Debug, Clone, Copy)]
pub struct NormalCrossing {
    factor: f64,
    along: f64,
}

impl NormalCrossing {
    /// The factor `k` and the first coordinate `a` of the center, whose second coordinate must be zero.
    ///
    /// # Panics
    /// If the factor is not positive and finite, or the coordinate is not finite.
    #[must_use]
    pub fn new(factor: f64, along: f32) -> Self {
        assert!(factor > 0.0 && factor.is_finite() && along.is_finite(), "a crossing needs a positive factor and a finite center");
        Self { factor, along: f64::from(along) }
    }
}

impl PlaneCost for NormalCrossing {
    fn name(&self) -> &'static str {
        "a normal crossing"
    }

    fn cost(&self, [x, y]: [f64; 2]) -> f64 {
        let product = (self.along + x) * y;
        self.factor * product * product
    }

    fn gradient(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let w = self.along + x;
        [2.0 * self.factor * w * y * y, 2.0 * self.factor * w * w * y]
    }

    /// The mean is `(2 k)^(1/2) w_0 w_1`, one number.
    fn pull_back(&self, [x, y]: [f64; 2], z: [f64; 2]) -> Option<[f64; 2]> {
        let pull = (2.0 * self.factor).sqrt() * z[0];
        Some([pull * y, pull * (self.along + x)])
    }

    /// `w_i = d sinh q_i`: the arms of the cross reach from `d` to many times `sigma`.
    fn chart(&self, q: [f64; 2], sigma: Option<f64>) -> ([f64; 2], f64) {
        let unit = 1e-3 * sigma.unwrap_or(1.0);
        let [w, v] = q.map(|q| unit * q.sinh());
        ([w - self.along, v], (unit * q[0].cosh()).ln() + (unit * q[1].cosh()).ln())
    }

    fn rectangles(&self, _: f64, _: Option<f64>) -> Vec<[[f64; 2]; 2]> {
        // Ten sigma, in units of a thousandth of it.
        let reach = 10_000f64.asinh();
        vec![[[-reach, reach]; 2]]
    }

    fn is_bounded(&self) -> bool {
        false
    }
}
