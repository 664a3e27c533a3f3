//! The digits cost (1024 inputs, 1,089,034 weights) against the machine's own matrix-multiply peak, measured in the same run.
//!
//! `cargo bench -p basin-volume-models --bench digits_cost`. Besides criterion's timings it prints a table of GFLOP/s and fractions of
//! the peak (the best of rounds that alternate between peak and cost, so that a busy neighbour slows both).

#![allow(clippy::print_stdout)] // The table is the benchmark's result.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use basin_volume::direction::Direction;
use basin_volume::objective::{Objective, RayPoint};
use basin_volume_data::digits;
use basin_volume_models::arch::MlpConfig;
use basin_volume_models::cost::MlpKl;
use basin_volume_models::kernels::{add_bias_gelu, product};
use basin_volume_models::parameters::Moving;
use criterion::{BatchSize, Criterion, Throughput};

/// Sizes of the square products whose fastest is the peak.
const SQUARES: [usize; 4] = [512, 1024, 2048, 4096];

/// Rounds of the table; the fastest of each row counts.
const ROUNDS: usize = 7;

fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// The slowest of `threads` copies of `work` that start together, each in a rayon pool of one thread, as the driver runs small models.
fn seconds_on(threads: usize, work: impl Fn(usize) + Sync) -> f64 {
    let barrier = Barrier::new(threads);
    std::thread::scope(|scope| {
        let run = |index: usize| {
            let (barrier, work) = (&barrier, &work);
            scope.spawn(move || {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool of one thread");
                pool.install(|| {
                    barrier.wait();
                    seconds(|| work(index))
                })
            })
        };
        let running: Vec<_> = (0..threads).map(run).collect();
        running.into_iter().map(|thread| thread.join().expect("no panic")).fold(0.0, f64::max)
    })
}

/// GFLOP/s of a square product on each of `threads` threads, all together.
fn square(size: usize, threads: usize) -> f64 {
    let elements = size * size;
    let matrices: Vec<_> = (0..threads).map(|_| (vec![0.5f32; elements], vec![0.25f32; elements])).collect();
    let outputs: Vec<_> = (0..threads).map(|_| std::sync::Mutex::new(vec![0.0f32; elements])).collect();
    let repeats = (1024usize.pow(3) / size.pow(3)).max(1);
    let work = |index: usize| {
        let mut output = outputs[index].lock().expect("one user each");
        for _ in 0..repeats {
            product(&mut output, &matrices[index].0, &matrices[index].1, size, size, size);
        }
        black_box(&output);
    };
    let elapsed = seconds_on(threads, work);
    2.0 * (size as f64).powi(3) * (repeats * threads) as f64 / elapsed / 1e9
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args().sample_size(20);
    let network = MlpConfig::new(digits::FEATURES, 512, 5, digits::CLASSES).expect("the reference's network");
    let center = network.initial_parameters(1);
    let split = digits::split(0, digits::TRAIN_ROWS).expect("the usual split");
    let directions: Vec<Direction> =
        (2..4).map(|seed| Direction::from_values(network.initial_parameters(seed).values().to_vec(), 0.1, &center.values())).collect();
    let cost = MlpKl::new(network.clone(), center.clone(), &split.train).expect("the digits fit");
    let evaluate = |ray: usize| black_box(cost.cost(&directions[ray], RayPoint::straight(0.3)).expect("no failure"));

    // Criterion's objects stay on this thread, so the work is handed to a pool of one thread (a few microseconds each time).
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool of one thread");
    let mut group = criterion.benchmark_group("digits_cost");
    group.throughput(Throughput::Elements(cost.operations() as u64));
    group.bench_function("one_thread", |bencher| bencher.iter(|| one.install(|| evaluate(0))));
    group.bench_function("one_evaluation_all_threads", |bencher| bencher.iter(|| evaluate(0)));
    let mut weights = vec![0.0f32; center.dimension()];
    let moving = Moving::from(center.clone());
    group.bench_function("write_weights", |bencher| {
        bencher.iter(|| one.install(|| moving.write_point(&directions[0], RayPoint::straight(0.3), &mut weights)));
    });
    // What five layers of 1024 positions spend on bias and gelu, in tiles as the cost does it.
    let bias = vec![0.1f32; 512];
    group.bench_function("bias_gelu", |bencher| {
        bencher.iter_batched_ref(
            || vec![0.5f32; 512 * 128],
            |values| (0..40).for_each(|_| add_bias_gelu(values, &bias, 128)),
            BatchSize::LargeInput,
        );
    });
    group.finish();
    criterion.final_summary();

    // cargo test runs benchmarks once to see that they work; the table is for cargo bench.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    table(&cost, &evaluate);
    batching();
}

fn table(cost: &MlpKl, evaluate: &(impl Fn(usize) -> basin_volume::objective::Cost + Sync)) {
    println!("\n{:<28}{:>12}{:>12}{:>14}", "", "GFLOP/s", "of peak", "ms/evaluation");
    for threads in [1, 2] {
        let mut squares = [0.0f64; SQUARES.len()];
        let mut fastest = f64::INFINITY;
        for _ in 0..ROUNDS {
            for (best, size) in squares.iter_mut().zip(SQUARES) {
                *best = best.max(square(size, threads));
            }
            for _ in 0..10 {
                fastest = fastest.min(seconds_on(threads, |ray| _ = evaluate(ray)));
            }
        }
        let peak = squares.iter().copied().fold(0.0, f64::max);
        for (rate, size) in squares.iter().zip(SQUARES) {
            println!("{:<28}{rate:>12.1}{:>11.0}%", format!("{threads} x square {size}"), 100.0 * rate / peak);
        }
        let rate = cost.operations() * threads as f64 / fastest / 1e9;
        println!("{:<28}{rate:>12.1}{:>11.0}%{:>14.2}", format!("{threads} x digits cost"), 100.0 * rate / peak, fastest * 1e3);
    }
}

/// What two rays gain from sharing one product in the first layer, the only one whose input they share.
fn batching() {
    let (inputs, outputs, positions, tiles) = (64, 512, 128, 8);
    let weights = vec![0.1f32; 2 * outputs * inputs];
    let input = vec![0.5f32; inputs * positions];
    let mut output = vec![0.0f32; 2 * outputs * positions];
    let (mut apart, mut together) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..200 {
        apart = apart.min(seconds(|| {
            for _ in 0..tiles {
                for (weights, output) in weights.chunks_exact(outputs * inputs).zip(output.chunks_exact_mut(outputs * positions)) {
                    product(output, weights, &input, outputs, inputs, positions);
                }
            }
        }));
        together = together.min(seconds(|| {
            for _ in 0..tiles {
                product(&mut output, &weights, &input, 2 * outputs, inputs, positions);
            }
        }));
        black_box(&output);
    }
    println!("\nfirst layer of two rays: {:.3} ms apart, {:.3} ms as one product", apart * 1e3, together * 1e3);
}
