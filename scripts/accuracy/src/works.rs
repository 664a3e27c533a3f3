//! What the works of single chains say about the gap of both ways: where their test passes, the narrower interval must hold the truth.
//!
//! Four chains on bodies whose truth is known, with stays so short that the ways differ, and with the usual ones.

use basin_volume::spec::{AnnealedSpec, SetKind};
use rayon::prelude::*;
use serde::Serialize;

use crate::Selection;
use crate::bodies::{Case, SIGMA, cases};
use crate::method::anneal;
use crate::output::{Output, progress};
use crate::problem::{Problem, Set};

const DIMENSIONS: [usize; 2] = [10, 100];
/// Seeds of every row, unless fewer are asked for.
const SEEDS: u64 = 100;

/// Settings of the stays.
#[derive(Clone, Copy)]
struct Stays {
    name: &'static str,
    trajectories: u32,
    effort: u32,
    patience: u32,
}

const STAYS: [Stays; 2] =
    [Stays { name: "hasty", trajectories: 4, effort: 0, patience: 1 }, Stays { name: "usual", trajectories: 12, effort: 500, patience: 4 }];

/// One run.
#[derive(Serialize)]
struct Run {
    body: &'static str,
    dimension: usize,
    set: Set,
    stays: &'static str,
    seed: u64,
    truth: f64,
    estimate: f64,
    /// Of the result.
    interval: [f64; 2],
    /// Both ways, widened by two standard errors: what it is where the test fails.
    spanning: [f64; 2],
    gap: f64,
    near_equilibrium: bool,
    /// Whether the interval is that of the works.
    decided: bool,
    gradients: u64,
}

impl Run {
    fn holds([low, high]: [f64; 2], truth: f64) -> bool {
        low <= truth && truth <= high
    }

    /// How many times narrower the interval is than that which spans the gap.
    fn narrower(&self) -> f64 {
        (self.spanning[1] - self.spanning[0]) / (self.interval[1] - self.interval[0])
    }
}

fn one(case: &Case, problem: &Problem<'_>, set: Set, stays: Stays, seed: u64) -> anyhow::Result<Option<Run>> {
    let Some(truth) = problem.truth(set) else { return Ok(None) };
    let set_kind = if set == Set::Star { SetKind::Star } else { SetKind::Basin };
    let Stays { name, trajectories, effort, patience } = stays;
    let spec = AnnealedSpec { set_kind, chains: 4, trajectories, effort, patience, ..AnnealedSpec::default() };
    let found = anneal(problem.objective, &problem.center, None, problem.question(seed)?, &spec, &mut |_| {})?;
    let (Some(estimate), Some(high), details) = (found.log_probability, found.high, &found.details) else { return Ok(None) };
    let ways = || details.outward.iter().chain(&details.inward).copied();
    let (least, most) = (ways().fold(f64::INFINITY, f64::min), ways().fold(f64::NEG_INFINITY, f64::max));
    Ok(Some(Run {
        body: case.name,
        dimension: problem.dimension(),
        set,
        stays: name,
        seed,
        truth,
        estimate,
        interval: [found.low, high],
        spanning: [least - 2.0 * details.error, most + 2.0 * details.error],
        gap: details.gap.unwrap_or(f64::NAN),
        near_equilibrium: details.works.as_ref().is_some_and(|works| works.near_equilibrium),
        decided: details.works.as_ref().is_some_and(|works| works.decide),
        gradients: found.gradients,
    }))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn row(runs: &[Run]) -> Option<String> {
    let first = runs.first()?;
    let count = runs.len();
    let passing: Vec<&Run> = runs.iter().filter(|run| run.decided).collect();
    let held = passing.iter().filter(|run| Run::holds(run.interval, run.truth)).count();
    let spanned = runs.iter().filter(|run| Run::holds(run.spanning, run.truth)).count();
    let bias = runs.iter().map(|run| run.estimate - run.truth).sum::<f64>() / count as f64;
    let gap = median(runs.iter().map(|run| run.gap.abs()).collect());
    let narrower = median(passing.iter().map(|run| run.narrower()).collect());
    let gradients = runs.iter().map(|run| run.gradients).sum::<u64>() / count as u64;
    Some(format!(
        "| {} | {} | {} | {} | {:.1} | {bias:+.2} | {gap:.1} | {} of {count} | {held} of {} | {narrower:.1} | {spanned} of {count} | {gradients} |\n",
        first.body,
        first.dimension,
        first.set.name(),
        first.stays,
        first.truth,
        passing.len(),
        passing.len(),
    ))
}

/// Runs the study.
pub fn run(selection: &Selection, mut output: Output) -> anyhow::Result<()> {
    let seeds = selection.seeds.unwrap_or(SEEDS);
    let mut table = String::from(
        "| body | D | set | stays | truth | bias | median gap | test passes | then holds | times narrower | spanning holds | gradients |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for dimension in DIMENSIONS.into_iter().filter(|dimension| selection.has(*dimension)) {
        for case in cases(dimension).iter().filter(|case| Selection::contains(selection.body.as_ref(), case.name)) {
            let problem = Problem::new(&*case.body, Vec::new(), SIGMA, case.cutoff, case.truth);
            for (set, stays) in [Set::Basin, Set::Star].into_iter().flat_map(|set| STAYS.map(|stays| (set, stays))) {
                let found: Vec<Option<Run>> =
                    (1..=seeds).into_par_iter().map(|seed| one(case, &problem, set, stays, seed)).collect::<Result<_, _>>()?;
                let found: Vec<Run> = found.into_iter().flatten().collect();
                found.iter().try_for_each(|run| output.run(run))?;
                if let Some(line) = row(&found) {
                    progress(line.trim_end());
                    table += &line;
                }
                output.tables(&table)?;
            }
        }
    }
    output.finish(&table)
}
