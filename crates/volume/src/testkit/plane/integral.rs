//! The integral over the plane, and the distribution of the quadratic coordinates.

use std::fmt;

use rayon::prelude::*;

use crate::quadratic_form::{ChiSquareTerm, Contour, log_probability_below};
use crate::quadrature::gauss_legendre;
use crate::testkit::bodies::log_unit_ball;
use crate::testkit::functions::minimum_between;
use crate::testkit::truth::Interpolant;

/// A cost `g` of the two displacements `x_0, x_1` from the center, zero at the center.
pub trait PlaneCost: fmt::Debug + Sync + Send {
    /// What messages call it.
    fn name(&self) -> &'static str;

    /// `g(x)`, nats.
    fn cost(&self, x: [f64; 2]) -> f64;

    /// The gradient of `g`.
    fn gradient(&self, x: [f64; 2]) -> [f64; 2];

    /// `J' z` with the Jacobian of the means `m` for which `g = 1/2 ‖m(x) - m(0)‖^2`; `None` if there are none.
    fn pull_back(&self, x: [f64; 2], z: [f64; 2]) -> Option<[f64; 2]>;

    /// Coordinates in which `{g <= cutoff}` is easy to integrate over: the displacement at `q`, and the logarithm of the Jacobian.
    fn chart(&self, q: [f64; 2], sigma: Option<f64>) -> ([f64; 2], f64);

    /// Rectangles of those coordinates: outside of number `k` there are no points of piece `k`.
    fn rectangles(&self, cutoff: f64, sigma: Option<f64>) -> Vec<[[f64; 2]; 2]>;

    /// Which piece of the plane a displacement belongs to. Pieces are integrated over one by one, each where it matters.
    fn piece(&self, _: [f64; 2]) -> usize {
        0
    }

    /// Whether `{g <= cutoff}` has a finite area for every cutoff.
    fn is_bounded(&self) -> bool {
        true
    }

    /// The measure of the part that hangs together with the center, where that is not everything.
    #[doc(hidden)]
    fn detached_measure(&self, _: &PlaneIntegral<'_>) -> Option<f64> {
        None
    }
}

/// What lies farther below the top than this many nats is left out.
const NEGLIGIBLE: f64 = 50.0;

/// `ln P(R <= rho)` (or the logarithm of a volume) for the quadratic coordinates, as a table in `ln rho`.
#[derive(Debug)]
pub(super) struct Rest {
    low: f64,
    table: Interpolant,
}

impl Rest {
    pub(super) fn new(eigenvalues: &[f64], center: &[f32], sigma: Option<f64>, cutoff: f64) -> Self {
        let count = eigenvalues.len() as f64;
        let log_measure: Box<dyn Fn(f64) -> f64> = if let Some(sigma) = sigma {
            let terms: Vec<ChiSquareTerm> = eigenvalues
                .iter()
                .zip(center)
                .map(|(l, c)| ChiSquareTerm {
                    weight: sigma * sigma * l,
                    multiplicity: 1.0,
                    noncentrality: (f64::from(*c) / sigma).powi(2),
                })
                .collect();
            Box::new(move |log_rho: f64| log_probability_below(&terms, log_rho.exp(), Contour::default()))
        } else {
            let constant = log_unit_ball(count) - 0.5 * eigenvalues.iter().map(|l| l.ln()).sum::<f64>();
            Box::new(move |log_rho: f64| constant + 0.5 * count * (std::f64::consts::LN_2 + log_rho))
        };
        let high = cutoff.ln();
        let top = log_measure(high);
        // Powers of one half of a coordinate fall by 50 nats within 100/count; probabilities near one fall later.
        let mut span = 2.0 * NEGLIGIBLE / count;
        while top - log_measure(high - span) < NEGLIGIBLE {
            span *= 1.3;
        }
        Self { low: high - span, table: Interpolant::new(high - span, high, 64, log_measure) }
    }

    /// `-inf` where it is negligible beside its value at the cutoff.
    fn log_measure(&self, rho: f64) -> f64 {
        if rho <= 0.0 || rho.ln() < self.low { f64::NEG_INFINITY } else { self.table.at(rho.ln()) }
    }
}

/// The integrals over the plane of one problem.
#[derive(Debug)]
pub struct PlaneIntegral<'a> {
    pub(super) plane: &'a dyn PlaneCost,
    pub(super) rest: &'a Rest,
    /// The first two coordinates of the center.
    pub(super) center: [f64; 2],
    /// `None`: the flat prior.
    pub(super) sigma: Option<f64>,
    pub(super) cutoff: f64,
    /// Panels of 24 nodes in each direction.
    pub(super) panels: usize,
}

impl PlaneIntegral<'_> {
    pub(super) fn everything(&self) -> f64 {
        self.of(|x| self.cutoff - self.plane.cost(x))
    }

    pub(super) fn star(&self) -> f64 {
        self.of(|x| self.seen(x))
    }

    /// `rho`: the largest `R` with which the center sees `x`. Minima between 64 equal steps of `t` are found to rounding.
    fn seen(&self, x: [f64; 2]) -> f64 {
        const STEPS: usize = 64;
        let at = |t: f64| (self.cutoff - self.plane.cost([t * x[0], t * x[1]])) / (t * t);
        let last = at(1.0);
        if last <= 0.0 || last.ln() < self.rest.low {
            return last;
        }
        let step = |k: usize| k as f64 / STEPS as f64;
        let (best, lowest) = (1..=STEPS).map(|k| (k, at(step(k)))).fold((0, f64::INFINITY), |a, b| if b.1 < a.1 { b } else { a });
        let (low, high) = (step(best.max(2) - 1), step((best + 1).min(STEPS)));
        lowest.min(at(minimum_between(at, low, high, 40)))
    }

    /// `ln INT density(x) F(rho(x)) dx`.
    pub(super) fn of(&self, rho: impl Fn([f64; 2]) -> f64 + Sync) -> f64 {
        let pieces = self.plane.rectangles(self.cutoff, self.sigma).len();
        let parts: Vec<f64> = (0..pieces).map(|piece| self.of_piece(piece, &rho)).collect();
        let top = parts.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
        if top.is_finite() { top + parts.iter().map(|part| (part - top).exp()).sum::<f64>().ln() } else { top }
    }

    /// The same over one piece of the plane.
    pub(super) fn of_piece(&self, piece: usize, rho: &(impl Fn([f64; 2]) -> f64 + Sync)) -> f64 {
        let log_integrand = |q: [f64; 2]| {
            let (x, log_jacobian) = self.plane.chart(q, self.sigma);
            if self.plane.piece(x) != piece {
                return f64::NEG_INFINITY;
            }
            let log_rest = self.rest.log_measure(rho(x));
            if log_rest == f64::NEG_INFINITY {
                return log_rest;
            }
            let log_density = self.sigma.map_or(0.0, |sigma| {
                let log_normal =
                    |i: usize| -0.5 * ((self.center[i] + x[i]) / sigma).powi(2) - sigma.ln() - 0.5 * std::f64::consts::TAU.ln();
                log_normal(0) + log_normal(1)
            });
            log_rest + log_density + log_jacobian
        };
        let (rectangle, top) = zoom(self.plane.rectangles(self.cutoff, self.sigma)[piece], &log_integrand);
        if top == f64::NEG_INFINITY {
            return top;
        }
        let width = |axis: usize| (rectangle[axis][1] - rectangle[axis][0]) / self.panels as f64;
        let panel = |axis: usize, k: usize| {
            let start = rectangle[axis][0] + k as f64 * width(axis);
            (start, start + width(axis))
        };
        let strips: Vec<f64> = (0..self.panels)
            .into_par_iter()
            .map(|k| {
                let (start, end) = panel(0, k);
                let inner = |a: f64| -> f64 {
                    let along = |(start, end): (f64, f64)| gauss_legendre(|b| (log_integrand([a, b]) - top).exp(), start, end);
                    (0..self.panels).map(|k| along(panel(1, k))).sum()
                };
                gauss_legendre(inner, start, end)
            })
            .collect();
        top + strips.iter().sum::<f64>().ln()
    }
}

/// The rectangle within `start` outside of which the integrand is negligible, as far as grids of 200 x 200 points show, and its top.
fn zoom(start: [[f64; 2]; 2], log_integrand: &(impl Fn([f64; 2]) -> f64 + Sync)) -> ([[f64; 2]; 2], f64) {
    const POINTS: usize = 200;
    let mut rectangle = start;
    let mut top = f64::NEG_INFINITY;
    for _ in 0..4 {
        let cell = rectangle.map(|[low, high]| (high - low) / POINTS as f64);
        let at = |axis: usize, k: usize| rectangle[axis][0] + (k as f64 + 0.5) * cell[axis];
        let rows: Vec<Vec<f64>> =
            (0..POINTS).into_par_iter().map(|i| (0..POINTS).map(|j| log_integrand([at(0, i), at(1, j)])).collect()).collect();
        top = rows.iter().flatten().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
        let matters = |i: usize, j: usize| rows[i][j] > top - NEGLIGIBLE;
        let range = |any: &dyn Fn(usize) -> bool| {
            let first = (0..POINTS).find(|k| any(*k))?;
            let last = (0..POINTS).rev().find(|k| any(*k))?;
            Some((first, last))
        };
        let (Some(first), Some(second)) = (range(&|i| (0..POINTS).any(|j| matters(i, j))), range(&|j| (0..POINTS).any(|i| matters(i, j))))
        else {
            return (rectangle, f64::NEG_INFINITY);
        };
        let shrunk = [(0, first), (1, second)].map(|(axis, (first, last))| {
            let [low, high] = start[axis];
            [(at(axis, first) - 1.5 * cell[axis]).max(low), (at(axis, last) + 1.5 * cell[axis]).min(high)]
        });
        let ratio = (0..2).map(|k| (shrunk[k][1] - shrunk[k][0]) / (rectangle[k][1] - rectangle[k][0])).fold(1.0, f64::min);
        rectangle = shrunk;
        if ratio > 0.7 {
            break;
        }
    }
    (rectangle, top)
}
