//! One whole sample on the digits network's shape (1,089,034 weights, 1024 inputs): direction, radius search, log-volume.
//!
//! The weights are an untrained network's: the work is the same, and nothing has to be trained first. For the trained network see the
//! column `ms/ray` of `basin-volume estimate digits`.

use std::hint::black_box;
use std::sync::Arc;

use basin_volume::estimator::radial::{Directions, RadialEstimator};
use basin_volume::preconditioner::Identity;
use basin_volume::prior::Prior;
use basin_volume::question::Question;
use basin_volume::spec::RadialSpec;
use basin_volume_data::digits;
use basin_volume_models::arch::MlpConfig;
use basin_volume_models::cost::MlpKl;
use criterion::{Criterion, criterion_group, criterion_main};

fn sample(criterion: &mut Criterion) {
    let network = MlpConfig::new(64, 512, 5, 10).expect("a valid network");
    let data = digits::split(0, digits::TRAIN_ROWS).expect("the embedded data").train;
    let objective = MlpKl::new(network.clone(), network.initial_parameters(0), &data).expect("a valid cost");
    let question = Question::new(Prior::Gaussian { sigma: 1.3975 }, 1e-2, 0.0, 42).expect("a question");
    let (map, settings) = (Arc::new(Identity), RadialSpec::default());
    let estimator = RadialEstimator::new(&objective, question, map, settings, None, Directions::Kept).expect("valid settings");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    let mut group = criterion.benchmark_group("digits sample, one thread");
    group.sample_size(20);
    let mut index = 0;
    group.bench_function("whole sample", |bencher| {
        bencher.iter(|| {
            index += 1;
            black_box(pool.install(|| estimator.sample(index)).expect("a cost"))
        });
    });
    group.bench_function("direction and norms alone", |bencher| {
        bencher.iter(|| {
            index += 1;
            black_box(pool.install(|| estimator.direction(index)))
        });
    });
    group.finish();
}

criterion_group!(benches, sample);
criterion_main!(benches);
