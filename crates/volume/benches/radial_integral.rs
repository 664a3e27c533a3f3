//! The log-volume of one ray: called once per sample.

use std::hint::black_box;

use basin_volume::radial_integral::{RayGeometry, gaussian_log_volume, lebesgue_log_volume, sphere_log_volume};
use criterion::{Criterion, criterion_group, criterion_main};

fn log_volumes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log-volume of a ray");
    for dimension in [1.0, 10.0, 1089034.0, 1e12] {
        let root = f64::sqrt(dimension);
        let geometry = RayGeometry { dimension, norm: 1.3, center_dot: -0.2, center_norm_squared: 0.01 * dimension };
        for (name, radius) in [("inside", 0.02 * root), ("at the shell", 0.08 * root), ("infinite", f64::INFINITY)] {
            group.bench_function(format!("Gaussian, D = {dimension:e}, {name}"), |bencher| {
                bencher.iter(|| gaussian_log_volume(black_box(&geometry), black_box(0.1), black_box(radius)));
            });
        }
        group.bench_function(format!("Lebesgue, D = {dimension:e}"), |bencher| {
            bencher.iter(|| lebesgue_log_volume(black_box(&geometry), black_box(0.3)));
        });
        group.bench_function(format!("sphere, D = {dimension:e}"), |bencher| {
            bencher.iter(|| sphere_log_volume(black_box(1.2), black_box(dimension)));
        });
    }
    group.finish();
}

criterion_group!(benches, log_volumes);
criterion_main!(benches);
