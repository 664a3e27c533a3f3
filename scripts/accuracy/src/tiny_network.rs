//! A network so small that draws from the prior find its basin.
//!
//! The network 2-6-3 has 39 weights. Everything with a cost at or under a loose cutoff is counted among draws from the prior, and so is the
//! star (the cost on 12 points of the straight way to the center). Which of the rest hangs together with the center can not be
//! seen by counting: a share is shown to, by a path that goes towards the center and downhill in turn. (The 720 orders of the six hidden
//! units are as many copies of the center.) At tight cutoffs long annealings take the place of draws.

use basin_volume::objective::Differentiable;
use basin_volume::spec::{Proposal, SetKind};
use basin_volume::testkit::Truth;
use basin_volume_data::Dataset;
use basin_volume_models::arch::{Architecture, MlpConfig};
use basin_volume_models::cost::MlpKl;
use basin_volume_models::parameters::Parameters;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;

use crate::Selection;
use crate::method::{Annealed, Curvature, Method, Rays, Spectral};
use crate::output::{Output, progress};
use crate::problem::{Problem, curvature_at_center};
use crate::table::{self, Row};

const INPUTS: usize = 2;
const HIDDEN: usize = 6;
const CLASSES: usize = 3;
const ROWS: usize = 16;
const WEIGHTS: usize = HIDDEN * (INPUTS + 1) + CLASSES * (HIDDEN + 1);
/// Where draws are counted, the largest first.
const LOOSE: [f64; 4] = [0.4, 0.2, 0.1, 0.05];
const TIGHT: [f64; 2] = [0.01, 0.001];
/// Points of the straight way, as the star of an annealing has.
const STAR_POINTS: u32 = 12;
const DRAWS: u64 = 200_000_000;
/// Seeds of every method, unless fewer are asked for.
const SEEDS: u64 = 20;
const CHUNK: u64 = 1_000_000;
/// Draws inside whose way to the center is looked for, per cutoff.
const PATHS: usize = 400;

/// The cost with the formulas written out, in `f64`, row by row.
struct SmallCost {
    inputs: [[f64; INPUTS]; ROWS],
    /// The center's probabilities, and the sum of `p ln p`, for every row.
    center: [([f64; CLASSES], f64); ROWS],
}

fn logits(weights: &[f32], input: &[f64; INPUTS]) -> [f64; CLASSES] {
    let (first, rest) = weights.split_at(HIDDEN * INPUTS);
    let (first_bias, rest) = rest.split_at(HIDDEN);
    let (second, second_bias) = rest.split_at(CLASSES * HIDDEN);
    let hidden: [f64; HIDDEN] = std::array::from_fn(|j| {
        let sum: f64 = (0..INPUTS).map(|i| f64::from(first[j * INPUTS + i]) * input[i]).sum();
        let x = sum + f64::from(first_bias[j]);
        0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x)).tanh())
    });
    std::array::from_fn(|k| f64::from(second_bias[k]) + (0..HIDDEN).map(|j| f64::from(second[k * HIDDEN + j]) * hidden[j]).sum::<f64>())
}

fn log_sum_exp(z: &[f64; CLASSES]) -> f64 {
    let top = z.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
    top + z.iter().map(|z| (z - top).exp()).sum::<f64>().ln()
}

impl SmallCost {
    fn new(data: &Dataset, center: &[f32]) -> Self {
        let inputs: [[f64; INPUTS]; ROWS] = std::array::from_fn(|row| std::array::from_fn(|i| f64::from(data.inputs()[row * INPUTS + i])));
        let center = inputs.map(|input| {
            let z = logits(center, &input);
            let log_p = z.map(|z_k| z_k - log_sum_exp(&z));
            (log_p.map(f64::exp), log_p.iter().map(|l| l.exp() * l).sum())
        });
        Self { inputs, center }
    }

    /// The cost, or some number above `limit` as soon as it must be above.
    fn cost(&self, weights: &[f32], limit: f64) -> f64 {
        let limit = limit * ROWS as f64;
        let mut sum = 0.0;
        for (input, (p, entropy)) in self.inputs.iter().zip(&self.center) {
            let z = logits(weights, input);
            sum += entropy + log_sum_exp(&z) - p.iter().zip(&z).map(|(p, z)| p * z).sum::<f64>();
            if sum > limit {
                return f64::INFINITY;
            }
        }
        sum / ROWS as f64
    }

    /// The largest cost on the way from the center, or infinity as soon as it is above `limit`.
    fn ray_max(&self, center: &[f32], weights: &[f32], limit: f64) -> f64 {
        let mut largest = 0.0f64;
        for k in (1..=STAR_POINTS).rev() {
            let part = k as f32 / STAR_POINTS as f32;
            let point: [f32; WEIGHTS] = std::array::from_fn(|i| center[i] + part * (weights[i] - center[i]));
            let cost = self.cost(&point, limit);
            if cost > limit {
                return f64::INFINITY;
            }
            largest = largest.max(cost);
        }
        largest
    }
}

/// What draws from the prior show at every loose cutoff.
#[derive(Clone, Default)]
struct Counts {
    inside: [u64; LOOSE.len()],
    seen: [u64; LOOSE.len()],
    /// Some draws inside each cutoff.
    kept: Vec<Vec<[f32; WEIGHTS]>>,
}

impl Counts {
    fn add(mut self, other: Self) -> Self {
        for i in 0..LOOSE.len() {
            self.inside[i] += other.inside[i];
            self.seen[i] += other.seen[i];
        }
        self.kept.resize(LOOSE.len(), Vec::new());
        for (mine, theirs) in self.kept.iter_mut().zip(other.kept) {
            mine.extend(theirs.into_iter().take(PATHS - mine.len()));
        }
        self
    }
}

fn count(small: &SmallCost, center: &[f32], sigma: f64, draws: u64) -> Counts {
    let chunk = |number: u64| {
        let mut rng = ChaCha8Rng::seed_from_u64(17);
        rng.set_stream(number);
        let mut counts = Counts { kept: vec![Vec::new(); LOOSE.len()], ..Counts::default() };
        for _ in 0..CHUNK {
            let weights: [f32; WEIGHTS] = std::array::from_fn(|_| {
                let z: f32 = StandardNormal.sample(&mut rng);
                sigma as f32 * z
            });
            let cost = small.cost(&weights, LOOSE[0]);
            if cost > LOOSE[0] {
                continue;
            }
            let on_the_way = small.ray_max(center, &weights, LOOSE[0]);
            for (i, cutoff) in LOOSE.iter().enumerate().filter(|(_, cutoff)| cost <= **cutoff) {
                counts.inside[i] += 1;
                counts.seen[i] += u64::from(on_the_way <= *cutoff);
                if counts.kept[i].len() < PATHS {
                    counts.kept[i].push(weights);
                }
            }
        }
        counts
    };
    // In rounds, so that the order of chunks is fixed and somebody can see how far it is.
    let chunks = draws.div_ceil(CHUNK);
    let mut total = Counts { kept: vec![Vec::new(); LOOSE.len()], ..Counts::default() };
    for first in (0..chunks).step_by(32) {
        let round: Vec<Counts> = (first..(first + 32).min(chunks)).into_par_iter().map(chunk).collect();
        total = round.into_iter().fold(total, Counts::add);
        progress(&format!("{} million draws, inside {:?}, seen {:?}", (first + 32).min(chunks), total.inside, total.seen));
    }
    total
}

/// Whether a path from `start` to the center stays at or under the cutoff: a step towards the center, then downhill until the cost is under
/// nine tenths of the cutoff again. Steps that would leave are halved; the straight rest of the way ends it.
fn is_connected(cost: &dyn Differentiable, small: &SmallCost, center: &[f32], start: &[f32; WEIGHTS], cutoff: f64) -> bool {
    let mut weights = *start;
    let mut gradient = [0.0f32; WEIGHTS];
    let mut step = 0.05f32;
    for _ in 0..3000 {
        if small.ray_max(center, &weights, cutoff) <= cutoff {
            return true;
        }
        let closer: [f32; WEIGHTS] = std::array::from_fn(|i| weights[i] + step * (center[i] - weights[i]));
        if small.cost(&closer, cutoff) <= cutoff {
            weights = closer;
            step = (2.0 * step).min(0.2);
        } else {
            step *= 0.5;
        }
        for _ in 0..4 {
            let Ok(nats) = cost.gradient(&weights, 0..cost.parts(), &mut gradient) else { return false };
            if nats < 0.9 * cutoff {
                break;
            }
            // The component towards or away from the center is left out: only sideways is downhill.
            let toward: Vec<f64> = (0..WEIGHTS).map(|i| f64::from(center[i] - weights[i])).collect();
            let along = (0..WEIGHTS).map(|i| toward[i] * f64::from(gradient[i])).sum::<f64>() / toward.iter().map(|t| t * t).sum::<f64>();
            let sideways: Vec<f64> = (0..WEIGHTS).map(|i| f64::from(gradient[i]) - along.min(0.0) * toward[i]).collect();
            let square: f64 = sideways.iter().map(|s| s * s).sum();
            let scale = 0.2 * nats / square.max(1e-12);
            let moved: [f32; WEIGHTS] = std::array::from_fn(|i| (f64::from(weights[i]) - scale * sideways[i]) as f32);
            if small.cost(&moved, cutoff) > nats {
                break;
            }
            weights = moved;
        }
        if step < 1e-4 {
            return false;
        }
    }
    false
}

fn methods() -> Vec<Box<dyn Method>> {
    let rays = |curvature: Curvature, proposal: Proposal, profile: u32| Rays { curvature, proposal, count: 10_000, profile };
    vec![
        Box::new(rays(Curvature::None, Proposal::Centered, 0)),
        Box::new(rays(Curvature::None, Proposal::Centered, STAR_POINTS)),
        Box::new(rays(Curvature::Diagonal { error: 0.0 }, Proposal::Centered, 0)),
        Box::new(rays(Curvature::Diagonal { error: 0.0 }, Proposal::Shifted, 0)),
        Box::new(Spectral { steps: 39, probes: 16 }),
        Box::new(Annealed::new(SetKind::Basin)),
        Box::new(Annealed::new(SetKind::Star)),
        Box::new(long(SetKind::Basin)),
        Box::new(long(SetKind::Star)),
    ]
}

fn long(set: SetKind) -> Annealed {
    Annealed { set, trajectories: 400, suffix: ", long" }
}

/// The network with weights that know something, and its inputs.
fn network() -> anyhow::Result<(MlpKl, Dataset)> {
    let config = MlpConfig::from_widths(vec![INPUTS, HIDDEN, CLASSES])?;
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let inputs: Vec<f32> = (0..ROWS * INPUTS).map(|_| StandardNormal.sample(&mut rng)).collect();
    let data = Dataset::new("sixteen points", INPUTS, inputs, None)?;
    let weights: Vec<f32> = (0..WEIGHTS).map(|_| StandardNormal.sample(&mut rng)).collect();
    let cost = MlpKl::new(config.clone(), Parameters::new(config.layout(), weights), &data)?;
    Ok((cost, data))
}

/// Runs the study.
pub fn run(selection: &Selection, mut output: Output) -> anyhow::Result<()> {
    let is_wanted = |cutoff: f64| Selection::contains(selection.body.as_ref(), &name(cutoff));
    let most = if LOOSE.into_iter().any(is_wanted) { DRAWS } else { 0 };
    let draws = selection.seeds.map_or(most, |seeds| (2_000_000 * seeds).min(most));
    let selection = &Selection { seeds: Some(selection.seeds.unwrap_or(SEEDS)), ..selection.clone() };
    let (cost, data) = network()?;
    let center: Vec<f32> = cost.parameters().values().into_owned();
    let sigma = cost.parameters().rms();
    let curvature = curvature_at_center(&cost, 1e-2);
    let small = SmallCost::new(&data, &center);
    let counts = count(&small, &center, sigma, draws);
    let mut counted = format!(
        "sigma = rms = {sigma:.4}; {draws} draws from the prior\n\n\
         | cutoff | draws inside | ln P of everything | ln P of the star | share seen | share with a path |\n|---|---|---|---|---|---|\n"
    );
    let log_share = |count: u64| (count as f64 / draws as f64).ln();
    let one_sd = |count: u64| (count as f64).sqrt().recip();
    let mut rows: Vec<Row> = Vec::new();
    for (i, cutoff) in LOOSE.into_iter().enumerate().filter(|(_, cutoff)| is_wanted(*cutoff)) {
        let (inside, seen) = (counts.inside[i], counts.seen[i]);
        let connected = counts.kept[i].par_iter().filter(|weights| is_connected(&cost, &small, &center, weights, cutoff)).count() as f64;
        counted += &format!(
            "| {cutoff} | {inside} | {:.3} +- {:.3} | {:.3} +- {:.3} | {:.4} | {:.3} of {} |\n",
            log_share(inside),
            one_sd(inside),
            log_share(seen),
            one_sd(seen),
            seen as f64 / inside as f64,
            connected / counts.kept[i].len().max(1) as f64,
            counts.kept[i].len()
        );
        let truth = Truth { star: Some(log_share(seen)), basin: log_share(inside), everything: log_share(inside) };
        let problem = Problem::new(&cost, curvature.clone(), sigma, cutoff, truth);
        for method in methods() {
            rows.extend(table::row(&name(cutoff), &problem, &*method, selection, &mut output)?);
        }
        output.tables(&tables(&counted, &rows))?;
    }
    for cutoff in TIGHT.into_iter().filter(|cutoff| is_wanted(*cutoff)) {
        let unknown = Truth { star: None, basin: f64::NAN, everything: f64::NAN };
        let mut problem = Problem::new(&cost, curvature.clone(), sigma, cutoff, unknown);
        // The mean of long annealings with other seeds than those of the rows.
        let reference = |set: SetKind| -> anyhow::Result<f64> {
            let values: Vec<f64> =
                (1000..1008u64).into_par_iter().map(|seed| Ok(long(set).run(&problem, seed)?.estimate)).collect::<anyhow::Result<_>>()?;
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let sd = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64).sqrt();
            progress(&format!("cutoff {cutoff}, {set:?}: {mean:.3} +- {:.3}, sd {sd:.3}", sd / (values.len() as f64).sqrt()));
            Ok(mean)
        };
        let (star, basin) = (reference(SetKind::Star)?, reference(SetKind::Basin)?);
        problem.truth = Truth { star: Some(star), basin, everything: basin };
        for method in methods() {
            rows.extend(table::row(&format!("{}, reference: long annealings", name(cutoff)), &problem, &*method, selection, &mut output)?);
        }
        output.tables(&tables(&counted, &rows))?;
    }
    let text = tables(&counted, &rows);
    output.finish(&text)
}

/// What `--body` selects rows by.
fn name(cutoff: f64) -> String {
    format!("cutoff {cutoff}")
}

fn tables(counted: &str, rows: &[Row]) -> String {
    format!("{counted}\n{}\n{}", table::short(rows), table::long(rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_written_out_cost_is_that_of_the_network() {
        let (cost, data) = network().unwrap();
        let center: Vec<f32> = cost.parameters().values().into_owned();
        assert_eq!(center.len(), WEIGHTS);
        let small = SmallCost::new(&data, &center);
        assert!(small.cost(&center, 1.0).abs() < 1e-12);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for size in [0.01f32, 0.1, 1.0] {
            for _ in 0..20 {
                let weights: Vec<f32> = center.iter().map(|c| c + size * Distribution::<f32>::sample(&StandardNormal, &mut rng)).collect();
                let (expected, value) = (cost.cost_of_weights(&weights).nats, small.cost(&weights, f64::INFINITY));
                assert!((value - expected).abs() < 1e-6 + 1e-4 * expected, "{value} instead of {expected}");
                assert!(small.cost(&weights, 0.9 * expected) > 0.9 * expected);
                assert!(small.ray_max(&center, &weights, f64::INFINITY) >= 0.999 * value);
            }
        }
    }

    #[test]
    fn a_point_near_the_center_is_connected_and_one_above_the_cutoff_is_not() {
        let (cost, data) = network().unwrap();
        let center: Vec<f32> = cost.parameters().values().into_owned();
        let small = SmallCost::new(&data, &center);
        let near: [f32; WEIGHTS] = std::array::from_fn(|i| center[i] * 1.001);
        assert!(is_connected(&cost, &small, &center, &near, 0.1));
        let far: [f32; WEIGHTS] = std::array::from_fn(|i| -3.0 * center[i]);
        assert!(small.cost(&far, f64::INFINITY) > 0.1);
        assert!(!is_connected(&cost, &small, &center, &far, 0.1));
    }
}
