//! Time of every kind of curvature beside that of the cost: the digits network (1024 inputs), and a language model of the shape of
//! Pythia-14m with random weights on 4 x 256 tokens.
//!
//!     cargo bench -p basin-volume-models --bench curvature -- [--threads N] [--repeats N] [--rank K] [--probes N] [--steps N] [--kind NAME]
//!
//! Prints the least time of each and its multiple of the cost's; the kinds with many products or steps run once. Cost and curvature
//! alternate, so that a busy neighbour slows both.

#![allow(clippy::print_stdout, missing_docs)]

mod common;

use std::hint::black_box;
use std::time::Instant;

use basin_volume::prior::Prior;
use basin_volume::question::Question;
use basin_volume_data::digits;
use basin_volume_models::arch::MlpConfig;
use basin_volume_models::cost::MlpKl;
use basin_volume_models::curvature::{
    Curvature, LearnSettings, LowRankSettings, PERTURBATION, Scores, Silent, fisher_diagonal, fisher_product, hessian_diagonal, kronecker,
    learn_diagonal, low_rank, squared_gradient,
};

struct Plan {
    repeats: usize,
    rank: usize,
    probes: usize,
    steps: usize,
    kind: Option<String>,
}

fn measure(title: &str, plan: &Plan, model: &dyn Scores, labels: Option<&[u32]>, cost: &dyn Fn()) {
    println!("{title}");
    let timed = |work: &mut dyn FnMut()| {
        let began = Instant::now();
        work();
        began.elapsed().as_secs_f64() * 1e3
    };
    let line = |what: &str, repeats: usize, work: &mut dyn FnMut()| {
        if plan.kind.as_ref().is_some_and(|kind| !what.starts_with(kind.as_str())) {
            return;
        }
        let (mut own, mut others) = (f64::INFINITY, f64::INFINITY);
        cost();
        for _ in 0..repeats {
            others = others.min(timed(&mut || cost())).min(timed(&mut || cost()));
            own = own.min(timed(work));
        }
        println!("  {what:<34} {own:10.1} ms  = {:8.1} costs of {others:.1} ms", own / others);
    };
    let done = |curvature: Curvature| _ = black_box(curvature);
    let v: Vec<f32> = (0..model.dimension()).map(|i| (i as f32 * 0.7).sin()).collect();
    let mut out = vec![0.0f32; v.len()];
    line("fisher-diagonal", plan.repeats, &mut || done(fisher_diagonal(model, 1, 1, &mut Silent).expect("a diagonal")));
    line("squared-gradient", plan.repeats, &mut || done(squared_gradient(model, labels, 1, 1, &mut Silent).expect("a diagonal")));
    line("product", plan.repeats, &mut || fisher_product(model, &v, &mut out).expect("a product"));
    line("kronecker", plan.repeats, &mut || done(kronecker(model, 1, 1, &mut Silent).expect("factors")));
    line(&format!("hessian-diagonal, {} probes", plan.probes), 1, &mut || {
        let (curvature, report) = hessian_diagonal(model, (plan.probes, 1), PERTURBATION, &mut Silent).expect("a diagonal");
        println!("    {report:?}");
        done(curvature);
    });
    line(&format!("low-rank, rank {}", plan.rank), 1, &mut || {
        let (curvature, report) = low_rank(model, LowRankSettings::new(plan.rank, 1), &mut Silent).expect("eigenvectors");
        println!("    {report:?}");
        done(curvature);
    });
    line(&format!("learned, {} steps", plan.steps), 1, &mut || {
        let Ok(Curvature::Diagonal { values }) = fisher_diagonal(model, 1, 1, &mut Silent) else { return };
        let first: Vec<f32> = values.iter().map(|value| 1.0 / (value.sqrt() + 1e-4)).collect();
        let question = Question::new(Prior::Gaussian { sigma: model.moving().rms() }, 0.01, 0.0, 1).expect("a question");
        let settings = LearnSettings { steps: plan.steps, held_out: 4, ..LearnSettings::new(question) };
        let (curvature, report) = learn_diagonal(model, model.moving().layout(), &first, &settings, &mut Silent).expect("a map");
        println!("    {report:?}");
        done(curvature);
    });
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let text = |flag: &str| arguments.iter().position(|a| a == flag).and_then(|i| arguments.get(i + 1).cloned());
    let value = |flag: &str, default: usize| text(flag).and_then(|value| value.parse().ok()).unwrap_or(default);
    let plan = Plan {
        repeats: value("--repeats", 5),
        rank: value("--rank", 16),
        probes: value("--probes", 8),
        steps: value("--steps", 20),
        kind: text("--kind"),
    };
    let threads = value("--threads", 1);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
    pool.install(|| {
        let network = MlpConfig::new(64, 512, 5, 10).expect("a valid network");
        let data = digits::split(0, digits::TRAIN_ROWS).expect("the digits").train;
        let cost = MlpKl::new(network.clone(), network.initial_parameters(1), &data).expect("a valid cost");
        let weights: Vec<f32> = cost.parameters().values().iter().map(|weight| weight * 1.01).collect();
        let title = format!("digits: {} weights, {} inputs, {threads} threads", weights.len(), data.rows());
        measure(&title, &plan, &cost, data.labels(), &|| _ = black_box(cost.cost_of_weights(&weights)));

        let (cost, weights) = common::pythia_14m();
        let title = format!("pythia-14m: {} weights, 4 x 256 tokens, {threads} threads", weights.len());
        measure(&title, &plan, &cost, None, &|| _ = black_box(cost.cost_of_weights(&weights)));
    });
}
