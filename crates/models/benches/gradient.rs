//! The gradient of the cost beside the cost itself: the digits network (256 inputs and 1024), and a language model of the shape of Pythia-14m with
//! random weights on 4 x 256 tokens.
//!
//!     cargo bench --workspace --bench gradient -- [--threads N] [--repeats N] [--only digits|language-model]
//!
//! Prints milliseconds (median and least), those of all threads' processors where Linux tells them, and the ratios of the medians to the
//! first line. Cost and gradient alternate, so that a busy neighbour slows both.

#![allow(clippy::print_stdout, missing_docs)]

mod common;

use std::hint::black_box;
use std::time::Instant;

use basin_volume::objective::Differentiable;
use basin_volume_data::digits;
use basin_volume_models::arch::MlpConfig;
use basin_volume_models::cost::{MlpKl, RotatedLanguageModelKl, RotatedMlpKl};

/// Milliseconds that the threads of this process have run.
fn processor_time() -> Option<f64> {
    let threads = std::fs::read_dir("/proc/self/task").ok()?;
    let own = |path: std::path::PathBuf| std::fs::read_to_string(path.join("schedstat")).ok()?.split(' ').next()?.parse::<f64>().ok();
    threads.map(|thread| own(thread.ok()?.path())).sum::<Option<f64>>().map(|nanoseconds| nanoseconds * 1e-6)
}

/// Times each of some pieces of work, in turn.
fn compare(title: &str, repeats: usize, work: &mut [(&str, &mut dyn FnMut())]) {
    let mut times = vec![(Vec::new(), Vec::new()); work.len()];
    for round in 0..=repeats {
        for ((_, work), times) in work.iter_mut().zip(&mut times) {
            let (began, before) = (Instant::now(), processor_time());
            work();
            // The first round fills the buffers.
            if round > 0 {
                times.0.push(began.elapsed().as_secs_f64() * 1e3);
                times.1.push(processor_time().zip(before).map_or(f64::NAN, |(after, before)| after - before));
            }
        }
    }
    println!("{title}");
    for (wall, processor) in &mut times {
        wall.sort_by(f64::total_cmp);
        processor.sort_by(f64::total_cmp);
    }
    let first = (times[0].0[repeats / 2], times[0].1[repeats / 2]);
    for ((what, _), (wall, processor)) in work.iter().zip(&times) {
        let (median, own) = (wall[repeats / 2], processor[repeats / 2]);
        let ratios = format!("{:.2} and {:.2} of the first", median / first.0, own / first.1);
        println!("  {what:<20} {median:9.2} ms  (least {:.2}), processors {own:9.2} ms  (least {:.2}); {ratios}", wall[0], processor[0]);
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |flag: &str| arguments.iter().position(|a| a == flag).and_then(|i| arguments.get(i + 1)?.parse::<usize>().ok());
    let threads = value("--threads").unwrap_or(1);
    let repeats = value("--repeats").unwrap_or(7).max(1);
    let only = arguments.iter().position(|a| a == "--only").and_then(|i| arguments.get(i + 1).cloned());
    let wanted = |what: &str| only.as_ref().is_none_or(|only| only == what);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
    pool.install(|| {
        let network = MlpConfig::new(64, 512, 5, 10).expect("a valid network");
        for rows in [256, digits::TRAIN_ROWS].into_iter().filter(|_| wanted("digits")) {
            let data = digits::split(0, rows).expect("the digits").train;
            let cost = MlpKl::new(network.clone(), network.initial_parameters(1), &data).expect("a valid cost");
            let weights: Vec<f32> = cost.parameters().values().iter().map(|weight| weight * 1.01).collect();
            let (mut first, mut second) = (vec![0.0f32; weights.len()], vec![0.0f32; weights.len()]);
            let other = MlpKl::new(network.clone(), network.initial_parameters(1), &data).expect("a valid cost");
            let (rotated, mut third) = (RotatedMlpKl::new(other).expect("all weights move"), first.clone());
            compare(
                &format!("digits: {} weights, {} inputs, {threads} threads", weights.len(), data.rows()),
                repeats,
                &mut [
                    ("cost", &mut || _ = black_box(cost.cost_of_weights(&weights))),
                    ("gradient", &mut || _ = black_box(cost.gradient(&weights, 0..cost.parts(), &mut first))),
                    ("rotated gradient", &mut || _ = black_box(rotated.gradient(&weights, 0..1, &mut third))),
                    ("likelihood gradient", &mut || _ = black_box(cost.likelihood_gradient(&weights, 0..cost.parts(), 1, &mut second))),
                ],
            );
        }

        if !wanted("language-model") {
            return;
        }
        let (cost, weights) = common::pythia_14m();
        let (mut first, mut second) = (vec![0.0f32; weights.len()], vec![0.0f32; weights.len()]);
        let (rotated, mut third) = (RotatedLanguageModelKl::new(common::pythia_14m().0).expect("valid tokens"), first.clone());
        let rotated = rotated.expect("what is kept fits");
        compare(
            &format!("pythia-14m: {} weights, 4 x 256 tokens, {threads} threads", weights.len()),
            repeats,
            &mut [
                ("cost", &mut || _ = black_box(cost.cost_of_weights(&weights))),
                ("gradient", &mut || _ = black_box(cost.gradient(&weights, 0..4, &mut first))),
                ("rotated gradient", &mut || _ = black_box(rotated.gradient(&weights, 0..1, &mut third))),
                ("likelihood gradient", &mut || _ = black_box(cost.likelihood_gradient(&weights, 0..4, 1, &mut second))),
            ],
        );
    });
}
