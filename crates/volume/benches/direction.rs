//! Normals by each kind of vector instructions, beside a stream cipher with a ziggurat; and one
//! direction with its norms, at the sizes of pythia-14m and SmolLM2-135M, on one thread and on all.

use std::hint::black_box;
use std::sync::Arc;

use basin_volume::direction::DirectionFamily;
use basin_volume::preconditioner::{Diagonal, DiagonalMap, Identity, Preconditioner};
use basin_volume::random::{Lanes, NormalVector, Purpose};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

fn normals(criterion: &mut Criterion) {
    // What fits into the cache of a core: a task's part of a direction.
    let mut out = vec![0.0f32; 1 << 16];
    let mut group = criterion.benchmark_group("65,536 normals");
    group.throughput(Throughput::Elements(out.len() as u64));
    // Directions of version 1 were made like this.
    let mut cipher = ChaCha8Rng::seed_from_u64(0);
    group.bench_function("ChaCha8 and a ziggurat", |bencher| {
        bencher.iter(|| black_box(&mut out).iter_mut().for_each(|value| *value = StandardNormal.sample(&mut cipher)));
    });
    for lanes in Lanes::all() {
        let mut index = 0;
        group.bench_function(format!("{lanes:?}"), |bencher| {
            bencher.iter(|| {
                index += 1;
                let vector = NormalVector::new(Purpose::Trials, 0, index, out.len());
                vector.fill_with(lanes, 0..vector.dimension(), black_box(&mut out));
            });
        });
    }
    group.finish();
}

fn directions(criterion: &mut Criterion) {
    for (shape, dimension) in [("pythia-14m", 14_067_712), ("SmolLM2-135M", 134_515_008)] {
        let center: Vec<f32> = (0..dimension).map(|i| (i as f32).sin()).collect();
        let curvature: Vec<f32> = center.iter().map(|x| x * x).collect();
        let diagonal: Arc<dyn Preconditioner> = Arc::new(Diagonal::from_curvature(&curvature, DiagonalMap::default()).unwrap());
        let mut group = criterion.benchmark_group(format!("direction of {shape}"));
        group.throughput(Throughput::Elements(dimension as u64)).sample_size(10);
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        for threads in [1, all] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for (name, preconditioner, keep) in [
                ("identity, stored", Arc::new(Identity) as Arc<dyn Preconditioner>, true),
                ("identity, measured only", Arc::new(Identity), false),
                ("diagonal, measured only", Arc::clone(&diagonal), false),
            ] {
                let family = DirectionFamily::new(0, dimension, preconditioner);
                let mut index = 0;
                group.bench_function(format!("{name}, {threads} threads"), |bencher| {
                    bencher.iter(|| {
                        index += 1;
                        black_box(pool.install(|| family.direction(index, &center, None, keep)))
                    });
                });
            }
        }
        group.finish();
    }
}

criterion_group!(benches, normals, directions);
criterion_main!(benches);
