//! A forward pass with its divergence, a gradient, and a step of the training, of ConvNeXt V2 "atto" with patch size 1 on images of 32 x 32.
//!
//!     cargo bench -p basin-volume-models --bench convnextv2 -- [--images N] [--threads N] [--repeats N] [--wait]
//!
//! The step is a whole one, as `train convnext` makes it: cut and flipped images, stochastic depth, forward, backward, AdamW.
//! Prints a line of JSON: milliseconds (median and least) of all. With `--wait` a line is measured and printed for every line that comes in,
//! so that `scripts/bench/convnextv2.py` can take turns with PyTorch.

#![allow(clippy::print_stdout, missing_docs)]

#[path = "common/timing.rs"]
mod timing;

use std::hint::black_box;
use std::io::BufRead;
use std::time::Instant;

use basin_volume::objective::Differentiable;
use basin_volume_data::Dataset;
use basin_volume_data::cifar::{Cifar, synthetic};
use basin_volume_models::arch::ConvNextV2Config;
use basin_volume_models::cost::ImageKl;
use basin_volume_models::train::{ConvNextSpec, Observer, train_convnext};
use serde_json::json;

use timing::time;

/// The network of the paper's runs.
fn atto() -> ConvNextV2Config {
    ConvNextV2Config {
        num_channels: 3,
        image_size: 32,
        patch_size: 1,
        hidden_sizes: vec![40, 80, 160, 320],
        depths: vec![2, 2, 6, 2],
        classes: 10,
        drop_path_rate: 0.0,
        layer_norm_eps: 1e-12,
        initializer_range: 0.02,
    }
}

/// When every step of a training was done.
#[derive(Default)]
struct Clock(Vec<Instant>);

impl Observer for Clock {
    fn step(&mut self, _: usize, _: usize, _: f64) {
        self.0.push(Instant::now());
    }
}

/// Median and least of the steps of a short training, in milliseconds.
fn training_step(images: usize, repeats: usize) -> (f64, f64) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let shapes = folder.path().join("shapes");
    synthetic::write(&shapes, 1, 4 * images.max(10), 10).expect("a set of images");
    let data = Cifar::read(&shapes).expect("the set that was written");
    let spec = ConvNextSpec { steps: repeats + 2, batch_size: images, save_steps: false, ..ConvNextSpec::default() };
    let mut clock = Clock::default();
    train_convnext(&spec, &data, &folder.path().join("network"), &mut clock).expect("a training");
    let mut times: Vec<f64> = clock.0.windows(2).skip(1).map(|pair| (pair[1] - pair[0]).as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[0])
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |flag: &str| arguments.iter().position(|a| a == flag).and_then(|i| arguments.get(i + 1)?.parse::<usize>().ok());
    let (images, threads, repeats) = (value("--images").unwrap_or(32), value("--threads").unwrap_or(1), value("--repeats").unwrap_or(5));
    let network = atto();
    let inputs = (0..images * network.features()).map(|i| ((i * 7919 % 1009) as f32) / 1009.0).collect();
    let data = Dataset::new("noise", network.features(), inputs, None).expect("finite images");
    let center = network.initial_parameters(1);
    let moved: Vec<f32> = center.values().iter().enumerate().map(|(i, w)| w + 1e-3 * (i as f32 * 0.7).sin()).collect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
    pool.install(|| {
        let cost = ImageKl::new(network.clone(), center, &data).expect("a valid cost");
        let mut gradient = vec![0.0f32; moved.len()];
        let mut measure = || {
            let forward = time(repeats, || _ = black_box(cost.cost_of_weights(&moved)));
            let backward = time(repeats, || _ = black_box(cost.gradient(&moved, 0..images, &mut gradient).expect("no failure")));
            let step = training_step(images, repeats);
            let line = json!({"images": images, "threads": threads, "gigaflop": network.operations() * images as f64 / 1e9,
                "forward": {"median": forward.0, "least": forward.1}, "gradient": {"median": backward.0, "least": backward.1},
                "step": {"median": step.0, "least": step.1}});
            println!("{line}");
        };
        if arguments.iter().any(|argument| argument == "--wait") {
            std::io::stdin().lock().lines().map_while(Result::ok).for_each(|_| measure());
        } else {
            measure();
        }
    });
}
