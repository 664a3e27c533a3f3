//! Where along one ray the costs of many parts (sequences) first cross the cutoff, each at its own radius, from evaluations that all share.
//!
//! One evaluation at `t` gives the costs of all parts, so every part keeps a bracket on the same points `s = ln t`, and its root is
//! that of a polynomial through the points nearest to it, of `h(s) = ln C(e^s) - ln cutoff`. `h` is nearly a line and smooth, so with
//! points spread over the range of the roots the polynomials converge for all parts at once: a new point serves every part, not only
//! the one it was chosen for.
//!
//! # Which point comes next
//! 1. While a part is under the cutoff everywhere: a little beyond the farthest root that such a part expects.
//! 2. While a part is above it everywhere: a little before the nearest.
//! 3. Then the root of the part whose error is the largest (its bracket's middle where interpolation does not help). The points settle as
//!    for interpolation that is good over a range, densest where the costs bend.
//!
//! A part may lead the search [`SearchSettings::max_evaluations`] times; so the worst case is that of searches apart.
//!
//! # The error of a root
//! A polynomial through `m` points is off by the next divided difference times the distances of all of them. That difference is taken to be
//! no larger than the largest of those known, grown once more as they grew, times three; and the error no smaller than a quarter of what
//! the last point but one changed. Two and three points, and roots beyond the points known, are held to rules like those of
//! [`super::RadiusSearch`]; where the slopes on both sides of a crossing differ (a kink), the error is that difference over the distance to
//! the nearest point. The rounding noise comes with its Lagrange weights. Of all `m` the smallest bound counts. A jump is bracketed.
//!
//! For smooth costs the bound held in each of 60 000 random cases (of polynomials whose scales and powers differ), by a factor of 1.7. For
//! costs with one kink within half an e-fold of the root it fails for three parts of a hundred, by more than the tolerance for one.

use super::{FIRST_STEP_LIMIT, LARGEST_ERROR, NOISE_SIGMAS, Outcome, SLOPE_RANGE, SearchSettings, UNRESOLVED, log_ratio};
use crate::objective::Cost;

/// Points that one polynomial goes through at most.
const NODES: usize = 9;

/// By what the estimate of the error of an interpolation is multiplied.
const SAFETY: f64 = 3.0;

/// Differences are not believed to grow faster than this from one to the next (per unit of `ln t`).
const GROWTH: f64 = 100.0;

/// How far a point beyond the expected root lies at least (in `ln t`), so that the root has points on both sides.
const MARGIN: f64 = 2e-3;

/// Slopes around a crossing that differ by this share are taken for a kink.
const KINK: f64 = 0.2;

/// Longest such margin.
const LARGEST_MARGIN: f64 = 0.3;

/// The radius of one part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PartCrossing {
    /// The first `t` where the part's cost is the cutoff; infinite if there is none.
    pub radius: f64,
    /// Bound of the error that the radius leaves in the log-volume, in nats, the cost's rounding noise included.
    pub error_nats: f64,
    /// How it ended.
    pub outcome: Outcome,
}

/// Of one part, between two evaluations.
#[derive(Debug, Clone)]
struct Part {
    /// The answer, once it is known.
    found: Option<PartCrossing>,
    /// It has no cost: it is not searched.
    is_absent: bool,
    /// Where it looks next.
    wish: Wish,
    /// Evaluations that were made for its sake.
    leads: u32,
    /// Of these, how many went beyond the points known.
    outward: i32,
    /// Width of its bracket when it was last seen halved, and evaluations for its sake since then.
    last_width: f64,
    since_halved: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Wish {
    /// Under the cutoff at all points: farther out.
    Out(f64),
    /// Above the cutoff at all points: farther in.
    In(f64),
    /// Between two points: at the root expected, or in their middle.
    Between {
        /// The root.
        s: f64,
        /// Its error as a multiple of the accepted one.
        excess: f64,
        /// The middle.
        middle: f64,
        /// Their distance.
        width: f64,
    },
}

/// One evaluation as one part sees it.
#[derive(Debug, Clone, Copy)]
struct End {
    s: f64,
    /// `ln C - ln cutoff`, infinite where it has to be.
    h: f64,
    /// Resolution of `h`.
    noise: f64,
}

/// The points on both sides of a part's first crossing; positions in the order of `s`.
#[derive(Debug, Clone, Copy)]
struct Bracket {
    low: Option<usize>,
    high: Option<usize>,
    returned_below: bool,
}

#[derive(Debug, Clone, Copy)]
struct Root {
    s: f64,
    /// Error of the interpolation.
    error: f64,
    /// One standard deviation of the noise of `s`.
    noise: f64,
    /// `d ln C / d ln t`.
    slope: f64,
    /// Whether the point nearest to the cutoff is within half a nat of it.
    is_near: bool,
}

/// The search of all parts on one ray: owns what has been evaluated so far.
pub struct TogetherSearch<'a> {
    settings: SearchSettings,
    /// What an error of `ln t` is in nats.
    nats: &'a dyn Fn(f64, f64) -> f64,
    parts: Vec<Part>,
    /// `ln t` of the evaluations, in their order, and their numbers in the order of `ln t`.
    points: Vec<f64>,
    order: Vec<usize>,
    /// Of every evaluation and part: `h`, and its resolution.
    h: Vec<f64>,
    noise: Vec<f64>,
}

impl<'a> TogetherSearch<'a> {
    /// A search that has seen nothing yet. `nats(s, ds)` is the change of the log-volume when `s = ln t` is off by `ds`.
    #[must_use]
    pub fn new(settings: SearchSettings, parts: usize, nats: &'a dyn Fn(f64, f64) -> f64) -> Self {
        let part = Part {
            found: None,
            is_absent: false,
            wish: Wish::Out(settings.start.ln()),
            leads: 0,
            outward: 0,
            last_width: f64::INFINITY,
            since_halved: 0,
        };
        Self { settings, nats, parts: vec![part; parts], points: Vec::new(), order: Vec::new(), h: Vec::new(), noise: Vec::new() }
    }

    /// Takes an evaluation that was made already. A part without a cost (a sequence without positions that count) is not searched.
    pub fn record(&mut self, t: f64, costs: &[Option<Cost>]) {
        let s = t.ln();
        let place = self.order.partition_point(|&point| self.points[point] < s);
        self.order.insert(place, self.points.len());
        self.points.push(s);
        for (k, part) in self.parts.iter_mut().enumerate() {
            let cost = costs.get(k).copied().flatten();
            part.is_absent |= cost.is_none();
            let (h, noise) = log_ratio(cost.unwrap_or(Cost { nats: f64::NAN, resolution: 0.0 }), self.settings.cutoff);
            self.h.push(h);
            self.noise.push(noise);
        }
    }

    /// Evaluates until every part's radius is known. The radii are in the order of the parts: `None` for one without a cost.
    ///
    /// # Errors
    /// Whatever `costs` returns as an error.
    pub fn run<E>(mut self, mut costs: impl FnMut(f64) -> Result<Vec<Option<Cost>>, E>) -> Result<Vec<Option<PartCrossing>>, E> {
        let max_s = self.settings.max_radius.ln();
        while let Some(s) = self.next() {
            // The radius handed out is exp(s) rounded; what is recorded is that rounded radius.
            let t = if s >= max_s { self.settings.max_radius } else { s.exp() };
            let values = costs(t)?;
            self.record(t, &values);
        }
        Ok(self.parts.into_iter().map(|part| part.found).collect())
    }

    /// The next `ln t` to evaluate; none when every part is found.
    fn next(&mut self) -> Option<f64> {
        if self.points.is_empty() {
            return (!self.parts.is_empty()).then(|| self.settings.start.ln().min(self.settings.max_radius.ln()));
        }
        for k in 0..self.parts.len() {
            if self.parts[k].found.is_none() && !self.parts[k].is_absent {
                self.look(k);
            }
        }
        let mut leader: Option<usize> = None;
        for (k, part) in self.parts.iter().enumerate().filter(|(_, part)| part.found.is_none() && !part.is_absent) {
            if leader.is_none_or(|leader| part.wish.is_before(self.parts[leader].wish)) {
                leader = Some(k);
            }
        }
        let leader = &mut self.parts[leader?];
        leader.leads += 1;
        Some(match leader.wish {
            Wish::Out(s) | Wish::In(s) => {
                leader.outward += 1;
                s
            }
            Wish::Between { s, middle, width, .. } => {
                if width <= 0.5 * leader.last_width {
                    leader.last_width = width;
                    leader.since_halved = 0;
                } else {
                    leader.since_halved += 1;
                }
                if leader.since_halved > 2 {
                    leader.since_halved = 0;
                    middle
                } else {
                    s
                }
            }
        })
    }

    /// What the points say about a part: its radius, or where it looks next.
    fn look(&mut self, k: usize) {
        let bracket = self.bracket(k);
        let root = self.root(k, bracket);
        let max_s = self.settings.max_radius.ln();
        let end = |place: Option<usize>| place.map(|place| self.end(k, place));
        let (low, high) = (end(bracket.low), end(bracket.high));
        let tolerance = self.settings.tolerance_nats;
        let mut excess = f64::INFINITY;
        let mut found = None;
        if let Some(root) = root.filter(|root| low.is_some() || root.is_near) {
            let bound = root.error + NOISE_SIGMAS * root.noise;
            let nats = if bound <= LARGEST_MARGIN { (self.nats)(root.s, bound) } else { f64::INFINITY };
            excess = (bound / LARGEST_ERROR).max(nats / tolerance);
            // Below twice the noise more evaluations cannot tell more.
            if excess <= 1.0 || root.error <= 2.0 * root.noise {
                let error_nats = if nats.is_finite() { nats } else { (self.nats)(root.s, bound) };
                let outcome = match bracket.returned_below {
                    _ if root.noise * root.slope >= UNRESOLVED => Outcome::Unresolved,
                    true => Outcome::NonMonotone,
                    false => Outcome::Converged,
                };
                found = Some(PartCrossing { radius: root.s.exp(), error_nats, outcome });
            }
        }
        if let (Some(low), Some(high), None) = (low, high, found) {
            let width = high.s - low.s;
            let noise = low.noise.max(high.noise);
            let fine = width <= LARGEST_ERROR && (self.nats)(0.5 * (low.s + high.s), 0.5 * width) <= tolerance;
            if fine || (noise >= UNRESOLVED && width <= 0.7) || width <= 4.0 * f64::EPSILON * low.s.abs().max(1.0) {
                found = Some(self.closed_bracket(low, high, bracket.returned_below, None));
            }
        }
        if found.is_none() && high.is_none() && low.is_some_and(|low| low.s >= max_s) {
            found = Some(PartCrossing { radius: f64::INFINITY, error_nats: 0.0, outcome: Outcome::Unbounded });
        }
        if found.is_none() && self.parts[k].leads >= self.settings.max_evaluations {
            found = Some(match (low, high) {
                (Some(low), Some(high)) => self.closed_bracket(low, high, false, Some(Outcome::BudgetExhausted)),
                _ => {
                    let s = low.or(high).map_or(max_s, |end| end.s);
                    PartCrossing { radius: s.exp(), error_nats: f64::INFINITY, outcome: Outcome::BudgetExhausted }
                }
            });
        }
        let outward = self.parts[k].outward;
        let margin = |root: &Root| (2.0 * root.error).clamp(MARGIN, LARGEST_MARGIN);
        let wish = match (low, high) {
            (Some(low), Some(high)) => {
                let middle = 0.5 * (low.s + high.s);
                let apart = 4.0 * f64::EPSILON * low.s.abs().max(1.0);
                let inside = root.map(|root| root.s).filter(|&s| s > low.s + apart && s < high.s - apart);
                Wish::Between { s: inside.unwrap_or(middle), excess, middle, width: high.s - low.s }
            }
            (Some(low), None) => {
                let wanted = root.map(|root| root.s - low.s + margin(&root));
                Wish::Out((low.s + outward_step(wanted, low.h, outward, self.settings.slope)).min(max_s))
            }
            (None, Some(high)) => {
                let wanted = root.map(|root| high.s - root.s + margin(&root));
                Wish::In(high.s - outward_step(wanted, high.h, outward, self.settings.slope))
            }
            (None, None) => Wish::In(self.settings.start.ln()),
        };
        let part = &mut self.parts[k];
        part.found = found;
        part.wish = wish;
    }

    fn end(&self, k: usize, place: usize) -> End {
        let point = self.order[place];
        let at = point * self.parts.len() + k;
        End { s: self.points[point], h: self.h[at], noise: self.noise[at] }
    }

    /// The bracket is always [the point before the first one above the cutoff, that one].
    fn bracket(&self, k: usize) -> Bracket {
        let places = 0..self.order.len();
        let high = places.clone().find(|&place| self.end(k, place).h >= 0.0);
        let low = high.unwrap_or(self.order.len()).checked_sub(1);
        let returned_below = high.is_some_and(|high| {
            places.skip(high).any(|place| {
                let end = self.end(k, place);
                end.h < 0.0 && end.h.abs() > 5.0 * end.noise
            })
        });
        Bracket { low, high, returned_below }
    }

    /// When the bracket itself is the best that is known.
    fn closed_bracket(&self, low: End, high: End, returned_below: bool, outcome: Option<Outcome>) -> PartCrossing {
        let s = 0.5 * (low.s + high.s);
        let noise = low.noise.max(high.noise);
        let half = 0.5 * (high.s - low.s) + NOISE_SIGMAS * noise / self.settings.slope;
        let outcome = outcome.unwrap_or(match returned_below {
            _ if noise >= UNRESOLVED => Outcome::Unresolved,
            _ if !high.h.is_finite() => Outcome::NotFinite,
            true => Outcome::NonMonotone,
            false => Outcome::Converged,
        });
        PartCrossing { radius: s.exp(), error_nats: (self.nats)(s, half), outcome }
    }

    /// Root of the polynomial through the nearest points whose error is bounded best.
    fn root(&self, k: usize, bracket: Bracket) -> Option<Root> {
        let last = if bracket.returned_below { bracket.high? + 1 } else { self.order.len() };
        let finite = |place: usize| Some(self.end(k, place)).filter(|end| end.h.is_finite());
        let nearest = (0..last).filter_map(finite).min_by(|a, b| a.h.abs().total_cmp(&b.h.abs()))?;
        // Around which the points are taken.
        let ends = bracket.low.and_then(finite).zip(bracket.high.and_then(finite));
        let around = match ends {
            Some((low, high)) => low.s - low.h * (high.s - low.s) / (high.h - low.h),
            None => nearest.s - nearest.h / self.settings.slope,
        };
        let bend = self.bend(k, bracket, last);
        let mut nodes = Nodes::default();
        // The two around the crossing, then the nearest ones, walking outwards on both sides.
        let place = (0..last).position(|place| self.end(k, place).s >= around).unwrap_or(last);
        let (mut below, mut above) = match (bracket.low, bracket.high) {
            (Some(low), Some(high)) => (low + 1, high),
            _ => (place, place),
        };
        let mut around_it = usize::from(ends.is_some()) * 2;
        let mut best: Option<Root> = None;
        let (mut s, mut change) = (nearest.s, f64::INFINITY);
        while nodes.count < NODES {
            let lower = below.checked_sub(1).map(|place| self.end(k, place));
            let upper = (above < last).then(|| self.end(k, above));
            let takes_lower = match (lower, upper) {
                (Some(_), Some(_)) if around_it > 0 => around_it == 2,
                (Some(lower), Some(upper)) => around - lower.s <= upper.s - around,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => break,
            };
            around_it = around_it.saturating_sub(1);
            let Some(node) = (if takes_lower { lower } else { upper }) else { break };
            if takes_lower {
                below -= 1
            } else {
                above += 1
            }
            // Points too near to each other for their noise say nothing about the slope.
            if !node.h.is_finite() || nodes.is_blurred(&node) {
                continue;
            }
            nodes.push(node);
            if nodes.count < 2 {
                s = node.s;
                continue;
            }
            let Some((root, slope)) = nodes.solve(s) else { break };
            let before = change;
            change = (root - s).abs();
            s = root;
            // A polynomial that contradicts the bracket (by more than its rounding) says nothing.
            let apart = 1e-13 * s.abs().max(1.0);
            let is_outside = |place: usize, sign: f64| sign * (s - self.end(k, place).s) > apart;
            if bracket.low.is_some_and(|low| is_outside(low, -1.0)) || bracket.high.is_some_and(|high| is_outside(high, 1.0)) {
                continue;
            }
            let jump = if bend >= KINK { 2.0 * bend * nodes.two_nearest(s).0 } else { 0.0 };
            let error = nodes.error(s, slope, change, before).max(jump);
            let noise = nodes.noise(s) / slope;
            if best.is_none_or(|best| error + NOISE_SIGMAS * noise < best.error + NOISE_SIGMAS * best.noise) {
                best = Some(Root { s, error, noise, slope, is_near: nearest.h.abs() < 0.5 });
            }
        }
        best
    }

    /// By how much the slopes of the two pairs of points on both sides of the crossing, and of the pair around it, differ, as a share of the
    /// largest; 1 where one does not rise, 0 where there are no such points.
    fn bend(&self, k: usize, bracket: Bracket, last: usize) -> f64 {
        let (Some(low), Some(high)) = (bracket.low, bracket.high) else { return 0.0 };
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        for place in low.saturating_sub(1)..(high + 1).min(last - 1) {
            let (a, b) = (self.end(k, place), self.end(k, place + 1));
            if (b.h - a.h).is_finite() && (b.h - a.h).abs() > 30.0 * (a.noise + b.noise) {
                let slope = (b.h - a.h) / (b.s - a.s);
                (least, most) = (least.min(slope), most.max(slope));
            }
        }
        match least {
            least if least > most => 0.0,
            least if least > 0.0 => 1.0 - least / most,
            _ => 1.0,
        }
    }
}

/// Length of a step beyond the points known, after `outward` such steps for the same part: what the interpolation wants, within what slopes are
/// believed; steps that lead nowhere grow.
fn outward_step(wanted: Option<f64>, h: f64, outward: i32, slope: f64) -> f64 {
    let limit = FIRST_STEP_LIMIT * 2f64.powi(outward);
    let distance = h.abs();
    let step = match wanted {
        _ if !distance.is_finite() => limit,
        Some(step) if step.is_finite() => step.clamp(distance / SLOPE_RANGE.1, distance / SLOPE_RANGE.0),
        _ => distance / slope,
    };
    let floor = if outward > 1 { 0.35 * 2f64.powi(outward - 1) } else { MARGIN };
    step.min(limit).max(floor)
}

impl Wish {
    /// Whether this one is served first.
    fn is_before(self, other: Self) -> bool {
        match (self, other) {
            (Self::Out(s), Self::Out(t)) => s > t,
            (Self::In(s), Self::In(t)) => s < t,
            (Self::Between { excess: a, .. }, Self::Between { excess: b, .. }) => a > b,
            (Self::Out(_), _) | (Self::In(_), Self::Between { .. }) => true,
            _ => false,
        }
    }
}

/// The points of one polynomial, in Newton's form.
#[derive(Debug, Default)]
struct Nodes {
    count: usize,
    s: [f64; NODES],
    h: [f64; NODES],
    noise: [f64; NODES],
    /// Divided differences `h[s_0]`, `h[s_0, s_1]`, ...
    coefficients: [f64; NODES],
    /// Those that end in the last point: `h[s_m]`, `h[s_(m-1), s_m]`, ..., of which the next are made.
    diagonal: [f64; NODES],
}

impl Nodes {
    fn is_blurred(&self, node: &End) -> bool {
        (0..self.count).any(|i| (self.h[i] - node.h).abs() <= 30.0 * (self.noise[i] + node.noise))
    }

    fn push(&mut self, node: End) {
        let m = self.count;
        (self.s[m], self.h[m], self.noise[m]) = (node.s, node.h, node.noise);
        let mut value = node.h;
        for order in 0..m {
            let before = std::mem::replace(&mut self.diagonal[order], value);
            value = (value - before) / (node.s - self.s[m - 1 - order]);
        }
        self.diagonal[m] = value;
        self.coefficients[m] = value;
        self.count += 1;
    }

    /// The polynomial and its derivative.
    fn at(&self, s: f64) -> (f64, f64) {
        let (mut value, mut slope) = (0.0, 0.0);
        for i in (0..self.count).rev() {
            slope = slope * (s - self.s[i]) + value;
            value = value * (s - self.s[i]) + self.coefficients[i];
        }
        (value, slope)
    }

    /// The root next to `start`, by Newton's method, with the slope there; none where the polynomial does not rise.
    fn solve(&self, start: f64) -> Option<(f64, f64)> {
        let mut s = start;
        for _ in 0..20 {
            let (value, slope) = self.at(s);
            if !(slope > 0.0 && slope.is_finite()) {
                return None;
            }
            let step = value / slope;
            s -= step;
            if step.abs() <= 1e-14 * s.abs().max(1.0) {
                return Some((s, slope));
            }
        }
        None
    }

    /// Distances of the two nearest points.
    fn two_nearest(&self, s: f64) -> (f64, f64) {
        let (mut first, mut second) = (f64::INFINITY, f64::INFINITY);
        for distance in self.s[..self.count].iter().map(|node| (node - s).abs()) {
            if distance < first {
                (first, second) = (distance, first);
            } else if distance < second {
                second = distance;
            }
        }
        (first, second)
    }

    /// Bound of the error of the root `s`, which the last point changed by `change`, and the one before by `before`.
    fn error(&self, s: f64, slope: f64, change: f64, before: f64) -> f64 {
        let (nearest, next) = self.two_nearest(s);
        // The rule for one ray: a tenth of the distance over which the slope was taken.
        let plain = 0.1 * slope * nearest * next;
        if self.count <= 2 {
            return nearest;
        }
        // The next difference is no larger than the largest of those known, grown as they did.
        let differences = &self.coefficients[2..self.count];
        let largest = differences.iter().fold(0.0f64, |largest, c| largest.max(c.abs()));
        let growth = differences.windows(2).map(|pair| (pair[1] / pair[0]).abs()).fold(1.0, f64::max);
        let distances: f64 = self.s[..self.count].iter().map(|node| (node - s).abs()).product();
        let error = SAFETY * largest * growth.min(GROWTH) * distances / slope;
        let floor = match self.count {
            3 => (4.0 * change).max(plain).max(0.2 * nearest),
            4 => before,
            _ => 0.25 * before,
        };
        error.max(floor).max(if self.encloses(s) { 0.0 } else { plain })
    }

    fn encloses(&self, s: f64) -> bool {
        let nodes = &self.s[..self.count];
        nodes.iter().any(|&node| node <= s) && nodes.iter().any(|&node| node >= s)
    }

    /// One standard deviation of the polynomial at `s`, from the noise of the points.
    fn noise(&self, s: f64) -> f64 {
        let weight = |i: usize| -> f64 { (0..self.count).filter(|&j| j != i).map(|j| (s - self.s[j]) / (self.s[i] - self.s[j])).product() };
        (0..self.count).map(|i| (weight(i) * self.noise[i]).powi(2)).sum::<f64>().sqrt()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use proptest::prelude::*;

    const CUTOFF: f64 = 1e-2;

    /// The radii of these costs, and the number of evaluations.
    fn find(dimension: f64, start: f64, costs: &[&dyn Fn(f64) -> Option<Cost>]) -> (Vec<Option<PartCrossing>>, usize) {
        let settings = SearchSettings {
            cutoff: CUTOFF,
            dimension,
            tolerance_nats: 1.0f64.min(1e-5 * dimension),
            start,
            slope: 2.0,
            curvature: 0.0,
            max_radius: 1e9,
            max_evaluations: 80,
        };
        let nats = |_: f64, ds: f64| dimension * ds;
        let mut count = 0;
        let found = TogetherSearch::new(settings, costs.len(), &nats).run(|t| {
            count += 1;
            Ok::<_, Infallible>(costs.iter().map(|cost| cost(t)).collect())
        });
        (found.unwrap(), count)
    }

    fn exact(f: impl Fn(f64) -> f64) -> impl Fn(f64) -> Option<Cost> {
        move |t| Some(Cost::exact(f(t)))
    }

    fn find_exact(dimension: f64, start: f64, costs: &[Box<dyn Fn(f64) -> f64>]) -> (Vec<PartCrossing>, usize) {
        let exact: Vec<Box<dyn Fn(f64) -> Option<Cost> + '_>> = costs.iter().map(|f| Box::new(exact(f)) as _).collect();
        let (found, count) = find(dimension, start, &exact.iter().map(|f| &**f).collect::<Vec<_>>());
        (found.into_iter().map(|found| found.unwrap()).collect(), count)
    }

    /// The first crossing, by a fine walk and bisection.
    fn truth(f: &dyn Fn(f64) -> f64, from: f64, to: f64) -> f64 {
        let (mut low, mut high) = (from, to);
        for _ in 0..200 {
            let middle = (low * high).sqrt();
            if f(middle) < CUTOFF { low = middle } else { high = middle }
        }
        low
    }

    fn assert_root(found: &PartCrossing, truth: f64, dimension: f64, bound: f64) {
        let error = dimension * (found.radius / truth).ln().abs();
        let slack = 1e-12 * dimension;
        assert!(error <= found.error_nats + slack && found.error_nats <= bound, "off by {error} nats of {truth}: {found:?}");
    }

    #[test]
    fn a_sum_of_quadratics_has_the_radii_that_are_known() {
        // Scales that differ by a factor of ten thousand.
        let curvatures: Vec<f64> = (0..200).map(|k| 10f64.powf(4.0 * f64::from(k * 37 % 200) / 199.0 - 2.0)).collect();
        let costs: Vec<Box<dyn Fn(f64) -> f64>> = curvatures.iter().map(|&a| Box::new(move |t: f64| 0.5 * a * t * t) as _).collect();
        let (found, count) = find_exact(1e6, 0.3, &costs);
        for (found, a) in found.iter().zip(&curvatures) {
            assert_eq!(found.outcome, Outcome::Converged);
            assert_root(found, (2.0 * CUTOFF / a).sqrt(), 1e6, 1.0);
        }
        assert!(count <= 6, "{count}");
    }

    #[test]
    fn costs_like_those_of_a_network_take_a_dozen_evaluations() {
        for (spread, limit) in [(0.1, 7), (0.3, 8), (1.0, 15), (3.0, 30)] {
            let mut costs: Vec<Box<dyn Fn(f64) -> f64>> = Vec::new();
            let mut truths = Vec::new();
            for k in 0..150 {
                let unit = |m: i32| f64::from((k * m) % 151) / 150.0;
                let (scale, third, fourth) = ((spread * (unit(37) - 0.5)).exp(), 0.8 * unit(53) - 0.4, 0.1 + 0.9 * unit(71));
                let f = move |t: f64| {
                    let x = t * scale;
                    CUTOFF * x * x * (1.0 + third * x + fourth * x * x) / (1.0 + third + fourth)
                };
                truths.push(1.0 / scale);
                costs.push(Box::new(f));
            }
            let (found, count) = find_exact(1e5, 1.1, &costs);
            found.iter().zip(&truths).for_each(|(found, &truth)| assert_root(found, truth, 1e5, 1.0));
            assert!(count <= limit, "{spread}: {count}");
        }
    }

    #[test]
    fn costs_that_saturate_kink_jump_or_never_reach_the_cutoff() {
        let costs: Vec<Box<dyn Fn(f64) -> f64>> = vec![
            Box::new(|t| 5.0 * (1.0 - (-t * t).exp())),
            Box::new(|t| if t < 0.5 { 0.04 * t * t } else { 0.64 * t.powi(6) }),
            Box::new(|t| if t < 0.37 { 1e-3 * t } else { 0.5 }),
            Box::new(|t| 9e-3 * t * t / (1.0 + t * t)),
            Box::new(|_| 0.0),
            Box::new(|t| if t > 0.05 { f64::NAN } else { t * t }),
            Box::new(|t| 1e-2 * t.powi(4)),
            Box::new(|t| 0.3 * t),
            Box::new(|t| if t < 0.6 { 0.02 * t * t } else { 0.02 * 0.36 + 0.1 * (t - 0.6) }),
        ];
        let (found, count) = find_exact(1e5, 0.2, &costs);
        assert!(count <= 80, "{count}");
        let outcomes: Vec<Outcome> = found.iter().map(|found| found.outcome).collect();
        use Outcome::{Converged, NotFinite, Unbounded};
        assert_eq!(outcomes, [Converged, Converged, Converged, Unbounded, Unbounded, NotFinite, Converged, Converged, Converged]);
        let truths =
            [(-(1.0f64 - CUTOFF / 5.0).ln()).sqrt(), 0.5, 0.37, f64::INFINITY, f64::INFINITY, 0.05, 1.0, 1.0 / 30.0, 0.6 + 0.0028 / 0.1];
        for (found, truth) in found.iter().zip(truths) {
            if truth.is_finite() {
                // A kink or a jump at the root itself: twice the bound.
                let error = 1e5 * (found.radius / truth).ln().abs();
                assert!(error <= 2.0 * found.error_nats && found.error_nats <= 1.0, "off by {error} nats of {truth}: {found:?}");
            } else {
                assert!(found.radius.is_infinite() && found.error_nats == 0.0)
            }
        }
    }

    #[test]
    fn a_part_without_a_cost_is_left_out_and_one_that_is_never_a_number_ends() {
        let square = exact(|t| t * t);
        let nothing = |_: f64| None;
        let (found, count) = find(1e4, 1.0, &[&square, &nothing]);
        assert_eq!(found[1], None);
        assert!(count <= 6, "{count}");
        assert_root(&found[0].unwrap(), 0.1, 1e4, 1.0);
        assert!(find(1e4, 1.0, &[]).0.is_empty());
        assert_eq!(find(1e4, 1.0, &[&nothing]), (vec![None], 1));
        let never = exact(|_| f64::NAN);
        let (found, count) = find(1e4, 1.0, &[&square, &never]);
        let never = found[1].unwrap();
        assert!(never.outcome == Outcome::BudgetExhausted && never.error_nats.is_infinite() && count <= 90, "{never:?} {count}");
        assert_root(&found[0].unwrap(), 0.1, 1e4, 1.0);
    }

    #[test]
    fn errors_of_the_costs_are_passed_on() {
        let nats = |_: f64, ds: f64| ds;
        let settings = SearchSettings {
            cutoff: CUTOFF,
            dimension: 1.0,
            tolerance_nats: 1.0,
            start: 1.0,
            slope: 2.0,
            curvature: 0.0,
            max_radius: 1e9,
            max_evaluations: 80,
        };
        assert_eq!(TogetherSearch::new(settings, 1, &nats).run(|_| Err::<Vec<_>, _>("device lost")).unwrap_err(), "device lost");
    }

    #[test]
    fn noise_is_part_of_the_bound() {
        let noise = 1e-5;
        let shake = |t: f64, k: u64| {
            let mut x = t.to_bits() ^ k.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            x = (x ^ (x >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb);
            12f64.sqrt() * ((x >> 11) as f64 / (1u64 << 53) as f64 - 0.5)
        };
        // 0.2 x^2 + x - 0.5 = 0 for x = (t scale)^2.
        let root = ((-1.0 + 1.4f64.sqrt()) / 0.4).sqrt();
        let scales: Vec<f64> = (0..100).map(|k| (0.01 * f64::from(k)).exp()).collect();
        let costs: Vec<Box<dyn Fn(f64) -> Option<Cost> + '_>> = (scales.iter().zip(0u64..))
            .map(|(scale, k)| {
                let cost = move |t: f64| {
                    let x = t * scale;
                    let clean = 0.02 * x * x * (1.0 + 0.2 * x * x);
                    Some(Cost { nats: clean * (1.0 + noise * shake(t, k)), resolution: noise * clean })
                };
                Box::new(cost) as _
            })
            .collect();
        let dimension = 1e8;
        let (found, count) = find(dimension, 1.0, &costs.iter().map(|f| &**f).collect::<Vec<_>>());
        assert!(count <= 16, "{count}");
        for (found, scale) in found.iter().zip(&scales) {
            let found = found.unwrap();
            let error = dimension * (found.radius * scale / root).ln().abs();
            assert_eq!(found.outcome, Outcome::Converged);
            assert!(error <= 2.0 * found.error_nats && found.error_nats < 1e-4 * dimension, "{error} {found:?}");
        }
    }

    proptest! {
        #[test]
        fn the_bounds_hold_for_smooth_costs(
            shapes in prop::collection::vec((-2.0f64..2.0, -0.5f64..0.5, 0.1f64..2.0, 1.0f64..3.0), 1..40),
            start in -2.0f64..2.0, d in 0.5f64..7.0,
        ) {
            let dimension = 10f64.powf(d);
            let costs: Vec<Box<dyn Fn(f64) -> f64>> = (shapes.iter().copied())
                .map(|(scale, third, fourth, power)| {
                    let scale = 10f64.powf(0.5 * scale);
                    Box::new(move |t: f64| { let x = t * scale; x.powf(power) * (1.0 + third * x + fourth * x * x) }) as _
                })
                .collect();
            let (found, count) = find_exact(dimension, 10f64.powf(start), &costs);
            for (found, cost) in found.iter().zip(&costs) {
                let truth = truth(cost, 1e-9, 1e9);
                let error = dimension * (found.radius / truth).ln().abs();
                prop_assert_eq!(found.outcome, Outcome::Converged);
                prop_assert!(error <= found.error_nats.max(1e-12 * dimension), "error {} {:?}", error, found);
                prop_assert!(found.error_nats <= 1.0f64.min(1e-5 * dimension));
            }
            prop_assert!(count <= 20 + shapes.len(), "{}", count);
        }
    }

    #[test]
    fn the_bounds_hold_for_most_kinks() {
        // The slope of ln C changes at a kink near the root: quasi-random scales, places and changes.
        let unit = |k: usize, irrational: f64| (k as f64 * irrational).fract();
        let (mut total, mut wrong) = (0, 0);
        for case in 0..100usize {
            let costs: Vec<Box<dyn Fn(f64) -> f64>> = (20 * case..20 * case + 20)
                .map(|k| {
                    let scale = 10f64.powf(unit(k, 2f64.sqrt()) - 0.5);
                    let (kink, factor) = (0.5 + unit(k, 3f64.sqrt()), 0.3 + 3.7 * unit(k, 7f64.sqrt()));
                    Box::new(move |t: f64| {
                        let x = t * scale;
                        CUTOFF * (if x < kink { x * x } else { kink * kink * (x / kink).powf(2.0 * factor) }) * (1.0 + 0.1 * x)
                    }) as _
                })
                .collect();
            let (found, count) = find_exact(1e5, 1.0, &costs);
            for (found, cost) in found.iter().zip(&costs) {
                total += 1;
                let error = 1e5 * (found.radius / truth(cost, 1e-9, 1e9)).ln().abs();
                assert!(error < 2000.0, "off by {error}: {found:?}");
                wrong += usize::from(error > found.error_nats.max(1e-6));
            }
            assert!(count <= 120, "{count}");
        }
        assert!(wrong * 20 <= total, "{wrong} of {total}");
    }
}
