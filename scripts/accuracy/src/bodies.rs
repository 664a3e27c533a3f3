//! Bodies that are not quadratic, their stars and basins kept apart.

use basin_volume::objective::Differentiable;
use basin_volume::prior::Prior;
use basin_volume::random::{NormalVector, Purpose};
use basin_volume::spec::{Proposal, SetKind};
use basin_volume::testkit::{CurvedValley, CurvedValleys, NormalCrossing, PlaneBody, PowerBall, Shell, Spikes, Truth, TwoWells};

use crate::Selection;
use crate::method::{Annealed, Curvature, Method, Rays, Spectral};
use crate::output::Output;
use crate::problem::{Problem, curvature_at_center};
use crate::table;

pub(crate) const SIGMA: f64 = 1.0;
const DIMENSIONS: [usize; 3] = [10, 100, 1000];

/// A body with its name, cutoff and truth.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) body: Box<dyn Differentiable>,
    pub(crate) cutoff: f64,
    pub(crate) truth: Truth,
}

impl Case {
    fn new(name: &'static str, body: impl Differentiable + 'static, cutoff: f64, truth: Truth) -> Self {
        Self { name, body: Box::new(body), cutoff, truth }
    }
}

/// One draw of `N(0, 0.09 I)`, with the first two coordinates as given.
fn center(dimension: usize, first: [f32; 2]) -> Vec<f32> {
    let mut values = vec![0.0f32; dimension];
    NormalVector::new(Purpose::Trials, 1, 0, dimension).fill(0..dimension, &mut values);
    values.iter_mut().for_each(|z| *z *= 0.3);
    values[..2].copy_from_slice(&first);
    values
}

pub(crate) fn cases(dimension: usize) -> Vec<Case> {
    let prior = Prior::Gaussian { sigma: SIGMA };
    // The mean cost of the quadratic coordinates under the prior is about 1/2 sum 1/i: cutoffs far below.
    let cutoff = 0.05;
    let rest: Vec<f64> = (0..dimension - 2).map(|i| 1.0 / (1.0 + i as f64)).collect();
    let mut cases = Vec::new();

    let valley = PlaneBody::new(CurvedValley::new(0.02, 20.0, 0.7), rest.clone(), center(dimension, [1.5, 0.8]));
    let truth = valley.truth(prior, cutoff);
    cases.push(Case::new("curved valley", valley, cutoff, truth));

    let pairs: Vec<f32> = (0..dimension).map(|i| if i % 2 == 0 { 0.8 } else { 0.3 }).collect();
    let valleys = CurvedValleys::new(0.05, 5.0, 1.0, pairs);
    let many = 0.02 * dimension as f64;
    let truth = valleys.truth(prior, many);
    cases.push(Case::new("curved valleys", valleys, many, truth));

    let second = center(dimension, [-0.6, 0.2]);
    let touching = PlaneBody::new(TwoWells::new([1.0, 1.0], [0.2, 0.2], [0.6, -0.2]), rest.clone(), second.clone());
    let truth = touching.truth(prior, cutoff);
    cases.push(Case::new("two wells that touch", touching, cutoff, truth));

    let apart = PlaneBody::new(TwoWells::new([1.0, 1.0], [0.2, 0.2], [1.6, -0.2]), rest.clone(), second);
    let truth = apart.truth(prior, cutoff);
    cases.push(Case::new("two wells apart", apart, cutoff, truth));

    let crossing = PlaneBody::new(NormalCrossing::new(1.0, 0.0), rest.clone(), center(dimension, [0.0, 0.0]));
    let truth = crossing.truth(prior, cutoff);
    cases.push(Case::new("crossing, from its middle", crossing, cutoff, truth));

    let arm = PlaneBody::new(NormalCrossing::new(1.0, 0.8), rest, center(dimension, [0.8, 0.0]));
    let truth = arm.truth(prior, cutoff);
    cases.push(Case::new("crossing, from an arm", arm, cutoff, truth));

    for (name, power) in [("ball of the norm 1", 1.0), ("ball of the norm 4", 4.0)] {
        let ball = PowerBall::new(power, 1.0, vec![0.2; dimension]);
        let cutoff = 0.1 * dimension as f64;
        let truth = ball.truth(prior, cutoff);
        cases.push(Case::new(name, ball, cutoff, truth));
    }

    let typical = (dimension as f64).sqrt();
    let shell = Shell::new(1.0, [0.2 * typical, 0.6 * typical, 0.75 * typical], vec![0.0; dimension]);
    let truth = shell.truth(prior);
    cases.push(Case::new("shell around a ball", shell, 1.0, truth));

    // Spikes that have a little more than the ball has, as far as the dimension allows.
    let spikes = Spikes::new(dimension, 3, if dimension > 100 { 1.6 } else { 4.0 }, 0.75);
    let cutoff = 0.005 * dimension as f64;
    let truth = spikes.truth(prior, cutoff);
    cases.push(Case::new("ball with spikes", spikes, cutoff, truth));
    cases
}

fn methods() -> Vec<Box<dyn Method>> {
    let rays = |proposal: Proposal| Rays { curvature: Curvature::Diagonal { error: 0.0 }, proposal, count: 1000, profile: 0 };
    vec![
        Box::new(Rays { curvature: Curvature::None, proposal: Proposal::Centered, count: 1000, profile: 0 }),
        Box::new(Rays { curvature: Curvature::None, proposal: Proposal::Centered, count: 1000, profile: 24 }),
        Box::new(rays(Proposal::Centered)),
        Box::new(rays(Proposal::Shifted)),
        Box::new(Spectral { steps: 120, probes: 64 }),
        Box::new(Annealed::new(SetKind::Basin)),
        Box::new(Annealed::new(SetKind::Star)),
    ]
}

/// Runs the study.
pub fn run(selection: &Selection, mut output: Output) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    let mut truths = String::from("| body | D | cutoff | star | basin | everything |\n|---|---|---|---|---|---|\n");
    for dimension in DIMENSIONS.into_iter().filter(|dimension| selection.has(*dimension)) {
        for case in cases(dimension) {
            if !Selection::contains(selection.body.as_ref(), case.name) {
                continue;
            }
            let Truth { star, basin, everything } = case.truth;
            let star = star.map_or_else(|| "-".to_owned(), |star| format!("{star:.4}"));
            truths += &format!("| {} | {dimension} | {} | {star} | {basin:.4} | {everything:.4} |\n", case.name, case.cutoff);
            let problem = Problem::new(&*case.body, curvature_at_center(&*case.body, 1e-2), SIGMA, case.cutoff, case.truth);
            for method in methods() {
                rows.extend(table::row(case.name, &problem, &*method, selection, &mut output)?);
            }
            output.tables(&tables(&truths, &rows))?;
        }
    }
    let text = tables(&truths, &rows);
    output.finish(&text)
}

fn tables(truths: &str, rows: &[table::Row]) -> String {
    format!("{truths}\n{}\n{}", table::short(rows), table::long(rows))
}
