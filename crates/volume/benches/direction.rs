//! One direction with its norms, at the size of pythia-14m, on one thread and on all of them.

use std::hint::black_box;
use std::sync::Arc;

use basin_volume::direction::DirectionFamily;
use basin_volume::preconditioner::{Diagonal, DiagonalMap, Identity, Preconditioner};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn directions(criterion: &mut Criterion) {
    let dimension = 14_067_712;
    let center: Vec<f32> = (0..dimension).map(|i| (i as f32).sin()).collect();
    let curvature: Vec<f32> = center.iter().map(|x| x * x).collect();
    let diagonal: Arc<dyn Preconditioner> = Arc::new(Diagonal::from_curvature(&curvature, DiagonalMap::default()).unwrap());
    let mut group = criterion.benchmark_group("direction of 14,067,712 coordinates");
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

criterion_group!(benches, directions);
criterion_main!(benches);
