//! Spectral measures: of the whole matrix, and of the center; and what follows from them.

use serde::{Deserialize, Serialize};

use super::record::{Part, SpectralRecord};
use super::tridiagonal::{Rule, Tridiagonal};
use crate::quadratic_form::{ChiSquareTerm, Contour, log_probability_below};
use crate::saddle_point::{Mode, QuadraticCost, Tilted};

/// Eigenvalues that are near each other, or one eigenvalue.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SpectralNode {
    /// The eigenvalue, nats per squared unit of weight.
    pub curvature: f64,
    /// How many; a quadrature rule's weights need not be whole.
    pub multiplicity: f64,
    /// Sum of the squares of the center's components there.
    pub center_squared: f64,
}

/// Which rule stands for a recursion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// Gauss: `A` is too low.
    Low,
    /// Gauss-Radau with a node at zero: `A` is too high.
    High,
    /// Half of each.
    Both,
}

/// A spectral measure with the center's.
#[derive(Debug, Clone, Default)]
pub(super) struct Measure {
    nodes: Vec<SpectralNode>,
}

/// The center's part of record 0.
fn center_nodes(record: &SpectralRecord, rule: Rule) -> Vec<SpectralNode> {
    let node = |curvature: f64, center_squared: f64| SpectralNode { curvature, multiplicity: 0.0, center_squared };
    if record.part != Part::Spectrum {
        let mut nodes: Vec<SpectralNode> = rule.into_iter().map(|(l, w)| node(l, record.mass * w)).collect();
        let pairs = record.deflated.iter();
        nodes.extend(pairs.map(|pair| SpectralNode { multiplicity: 1.0, ..node(pair.curvature.max(0.0), pair.center_squared) }));
        return nodes;
    }
    // The recursion ran on J c, whose squared component at an eigenvalue l is l c^2. Rounding at small eigenvalues is blown up by the
    // division, but no more than what the center has can lie there.
    let mut left = record.center_norm_squared.unwrap_or(f64::INFINITY);
    let mut nodes = Vec::new();
    for (l, w) in rule.into_iter().rev().filter(|(l, _)| *l > 0.0) {
        let center_squared = (record.mass * w / l).min(left);
        left -= center_squared;
        nodes.push(node(l, center_squared));
    }
    if left.is_finite() {
        nodes.push(node(0.0, left));
    }
    nodes
}

fn rule(tridiagonal: &Tridiagonal, ends: Ends) -> Rule {
    if tridiagonal.steps() == 0 {
        return Vec::new();
    }
    match ends {
        Ends::Low => tridiagonal.gauss(),
        Ends::High => tridiagonal.radau_at_zero(),
        Ends::Both => {
            let halves = tridiagonal.gauss().into_iter().chain(tridiagonal.radau_at_zero());
            halves.map(|(node, weight)| (node, 0.5 * weight)).collect()
        }
    }
}

impl Measure {
    /// From record 0 and probes, with the middle rule.
    pub(super) fn of(dimension: usize, center: &SpectralRecord, probes: &[&SpectralRecord]) -> Self {
        Self::with_ends(dimension, center, probes, Ends::Both, 1.0)
    }

    /// From the first part (`share`) of the steps of every recursion.
    pub(super) fn with_ends(dimension: usize, center: &SpectralRecord, probes: &[&SpectralRecord], ends: Ends, share: f64) -> Self {
        let cut = |record: &SpectralRecord| {
            let tridiagonal = record.tridiagonal();
            if share < 1.0 { tridiagonal.prefix((share * tridiagonal.steps() as f64).ceil() as usize) } else { tridiagonal }
        };
        // In the space of the Gram matrix there are steps to spare.
        let (own, own_ends) = if center.part == Part::Spectrum { (center.tridiagonal(), Ends::Low) } else { (cut(center), ends) };
        let mut nodes = center_nodes(center, rule(&own, own_ends));
        if center.part == Part::Spectrum {
            nodes.extend(center.eigenvalues.iter().map(|&curvature| SpectralNode { curvature, multiplicity: 1.0, center_squared: 0.0 }));
            let rest = dimension as f64 - center.eigenvalues.len() as f64;
            nodes.push(SpectralNode { curvature: 0.0, multiplicity: rest.max(0.0), center_squared: 0.0 });
        }
        let count = probes.len() as f64;
        for record in probes {
            let rule = rule(&cut(record), ends);
            nodes.extend(rule.into_iter().map(|(curvature, weight)| SpectralNode {
                curvature,
                multiplicity: record.mass * weight / count,
                center_squared: 0.0,
            }));
        }
        Self { nodes }
    }

    /// From one probe, with the middle rule.
    pub(super) fn probe_alone(probe: &SpectralRecord) -> Self {
        let nodes = rule(&probe.tridiagonal(), Ends::Both).into_iter();
        Self {
            nodes: nodes
                .map(|(curvature, weight)| SpectralNode { curvature, multiplicity: probe.mass * weight, center_squared: 0.0 })
                .collect(),
        }
    }

    /// The nodes.
    pub(super) fn into_nodes(self) -> Vec<SpectralNode> {
        self.nodes
    }

    /// With `l2` added to every eigenvalue.
    pub(super) fn with_penalty(mut self, l2: f64) -> Self {
        self.nodes.iter_mut().for_each(|node| node.curvature += l2);
        self
    }

    fn cost(&self, sigma: f64) -> Option<QuadraticCost<impl Fn(usize) -> Mode + Sync + '_>> {
        let mode = |i: usize| {
            let SpectralNode { curvature, multiplicity, center_squared } = self.nodes[i];
            Mode { multiplicity, curvature, center_squared }
        };
        QuadraticCost::new(self.nodes.len(), sigma, mode).ok()
    }

    /// Where the mean cost is the cutoff. Everything is NaN for a measure that is not finite.
    pub(super) fn saddle_point(&self, sigma: f64, cutoff: f64) -> Tilted {
        let unknown = Tilted { beta: f64::NAN, log_laplace: f64::NAN, mean_cost: f64::NAN, cost_variance: f64::NAN };
        self.cost(sigma).and_then(|cost| cost.saddle_point(cutoff).ok()).unwrap_or(unknown)
    }

    /// `ln P(cost <= cutoff)` under the prior, exactly for these nodes.
    pub(super) fn log_probability(&self, sigma: f64, cutoff: f64) -> f64 {
        let is_finite =
            |node: &SpectralNode| node.curvature.is_finite() && node.multiplicity.is_finite() && node.center_squared.is_finite();
        if !self.nodes.iter().all(is_finite) {
            return f64::NAN;
        }
        let terms: Vec<ChiSquareTerm> = self
            .nodes
            .iter()
            .filter(|node| node.curvature > 0.0 && (node.multiplicity > 0.0 || node.center_squared > 0.0))
            .map(|node| ChiSquareTerm {
                weight: sigma * sigma * node.curvature,
                multiplicity: node.multiplicity,
                noncentrality: node.center_squared / (sigma * sigma),
            })
            .collect();
        log_probability_below(&terms, cutoff, Contour::default())
    }

    /// `sum multiplicity f(curvature)`.
    pub(super) fn trace(&self, f: impl Fn(f64) -> f64) -> f64 {
        self.nodes.iter().map(|node| node.multiplicity * f(node.curvature)).sum()
    }

    /// `1/2 sum beta l c^2 / (1 + beta s^2 l)`: what the center costs.
    pub(super) fn center_term(&self, sigma: f64, beta: f64) -> f64 {
        let term = |node: &SpectralNode| node.curvature * node.center_squared / (1.0 + beta * sigma * sigma * node.curvature);
        0.5 * beta * self.nodes.iter().map(term).sum::<f64>()
    }

    /// The largest eigenvalue seen.
    pub(super) fn largest(&self) -> f64 {
        self.nodes.iter().map(|node| node.curvature).fold(0.0, f64::max)
    }
}
