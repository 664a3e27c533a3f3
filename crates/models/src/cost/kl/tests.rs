use basin_volume_data::digits;

use rayon::prelude::*;

use super::*;
pub(super) use crate::cost::language_model_tests::log_softmax;

/// A small network that knows something: initial weights with a sharper last layer, so that probabilities are not all equal.
pub(super) fn example(widths: &[usize], rows: usize) -> MlpKl {
    let network = MlpConfig::from_widths(widths.to_vec()).unwrap();
    let initial = network.initial_parameters(11);
    let layout = network.layout();
    let mut values = initial.values().into_owned();
    let last = layout.parameters()[layout.parameters().len() - 2].range();
    values[last].iter_mut().for_each(|value| *value *= 4.0);
    let data = digits::all().select(&(0..rows).collect::<Vec<_>>()).unwrap();
    let data = if widths[0] == 64 {
        data
    } else {
        let inputs = data.inputs().chunks(64).flat_map(|row| row[20..20 + widths[0]].to_vec()).collect();
        Dataset::new("cut", widths[0], inputs, None).unwrap()
    };
    MlpKl::new(network, Parameters::new(layout, values), &data).unwrap()
}

fn random_direction(cost: &MlpKl, seed: u64) -> Direction {
    let values = cost.network().initial_parameters(seed).values().to_vec();
    let norm = Parameters::new(cost.network().layout(), values.clone()).sum_of_squares().sqrt();
    Direction::from_values(values, 1.0 / norm, &cost.parameters().values())
}

/// The cost of the same f32 weights by f64 forward passes of center and point.
pub(super) fn exact_cost(cost: &MlpKl, data: &Dataset, weights: &[f32]) -> f64 {
    let network = cost.network();
    let rows = data.inputs().chunks(data.features()).map(|input| {
        let log_p = log_softmax(&network.logits_exact(&cost.parameters().values(), input));
        let log_q = log_softmax(&network.logits_exact(weights, input));
        log_p.iter().zip(&log_q).map(|(p, q)| p.exp() * ((q - p).exp_m1() - (q - p))).sum::<f64>()
    });
    rows.sum::<f64>() / data.rows() as f64
}

fn weights_at(cost: &MlpKl, direction: &Direction, t: f64) -> Vec<f32> {
    let mut weights = vec![0.0; cost.dimension()];
    Moving::from(cost.parameters().clone()).write_point(direction, RayPoint::straight(t), &mut weights);
    weights
}

/// The step where the cost is about `target`.
fn step_for(cost: &MlpKl, direction: &Direction, target: f64) -> f64 {
    let mut t = 1e-3;
    for _ in 0..80 {
        // The fourth root converges for costs between t^2 and t^7.
        let nats = cost.cost(direction, RayPoint::straight(t)).unwrap().nats;
        t *= (target / nats).powf(0.25).clamp(0.2, 5.0);
    }
    t
}

#[test]
fn the_center_costs_exactly_nothing() {
    for (widths, rows) in [(vec![64, 32, 32, 10], 200), (vec![64, 10], 129), (vec![5, 7, 3], 1), (vec![64, 48, 2], 128)] {
        let cost = example(&widths, rows);
        let direction = random_direction(&cost, 1);
        let at_center = cost.cost(&direction, RayPoint::straight(0.0)).unwrap();
        assert_eq!(at_center.nats, 0.0, "{widths:?}");
        assert!(at_center.resolution > 0.0 && at_center.resolution < 1e-10, "{at_center:?}");
        assert!(cost.cost(&direction, RayPoint::straight(0.1)).unwrap().nats > 0.0);
    }
}

#[test]
fn small_costs_keep_their_digits() {
    let data = digits::all().select(&(0..256).collect::<Vec<_>>()).unwrap();
    for widths in [vec![64, 96, 96, 96, 10], vec![64, 10]] {
        let cost = example(&widths, 256);
        let direction = random_direction(&cost, 2);
        for (target, bound) in [(1e-8, 1e-3), (1e-5, 3e-5), (1e-2, 1e-6), (1.0, 1e-6)] {
            let weights = weights_at(&cost, &direction, step_for(&cost, &direction, target));
            let (found, exact) = (cost.cost_of_weights(&weights), exact_cost(&cost, &data, &weights));
            assert!((exact / target).ln().abs() < 0.1, "the step search missed {target}: {exact}");
            let relative = (found.nats / exact - 1.0).abs();
            assert!(relative < bound, "{widths:?} at {target}: relative error {relative:e}");
            assert!(found.resolution / exact < bound, "the claimed resolution is no better than needed");
        }
    }
}

#[test]
fn the_claimed_resolution_is_the_scatter_along_tiny_jitters() {
    let cost = example(&[64, 96, 96, 96, 10], 512);
    let direction = random_direction(&cost, 3);
    for target in [1e-6, 1e-4, 1e-2] {
        let t = step_for(&cost, &direction, target);
        // Jitters far below what the cost should notice: a straight line is subtracted.
        let count = 64;
        let points: Vec<(f64, f64)> = (0..count)
            .map(|i| {
                let x = f64::from(i) / f64::from(count) - 0.5;
                (x, cost.cost(&direction, RayPoint::straight(t * (1.0 + 1e-5 * x))).unwrap().nats)
            })
            .collect();
        let mean = |f: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(f).sum::<f64>() / f64::from(count);
        let (mean_x, mean_y) = (mean(&|p| p.0), mean(&|p| p.1));
        let slope = mean(&|p| (p.0 - mean_x) * (p.1 - mean_y)) / mean(&|p| (p.0 - mean_x).powi(2));
        let scatter = mean(&|p| (p.1 - mean_y - slope * (p.0 - mean_x)).powi(2)).sqrt();
        let claimed = cost.cost(&direction, RayPoint::straight(t)).unwrap().resolution;
        let ratio = scatter / claimed;
        assert!((1.0 / 3.0..3.0).contains(&ratio), "at {target}: scatter {scatter:e}, claimed {claimed:e}, ratio {ratio}");
    }
}

#[test]
fn threads_and_concurrent_rays_do_not_change_a_bit() {
    let cost = example(&[64, 64, 64, 10], 700);
    let directions: Vec<Direction> = (0..6).map(|seed| random_direction(&cost, seed)).collect();
    let all = || -> Vec<u64> { directions.par_iter().map(|d| cost.cost(d, RayPoint::straight(0.7)).unwrap().nats.to_bits()).collect() };
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let one = pool(1).install(all);
    for threads in [2, 3] {
        assert_eq!(pool(threads).install(all), one, "{threads} threads");
    }
}

#[test]
fn padding_and_tiles_do_not_matter() {
    // The same rows in another number of tiles: each row's divergence is the same to the last digits.
    let (whole, part) = (example(&[64, 32, 10], 300), example(&[64, 32, 10], 130));
    let direction = random_direction(&whole, 5);
    let data = digits::all();
    for (cost, rows) in [(&whole, 300), (&part, 130)] {
        let weights = weights_at(cost, &direction, 0.5);
        let exact = exact_cost(cost, &data.select(&(0..rows).collect::<Vec<_>>()).unwrap(), &weights);
        assert!((cost.cost_of_weights(&weights).nats / exact - 1.0).abs() < 1e-5);
    }
}

#[test]
fn weights_that_are_not_finite_give_nan() {
    let cost = example(&[64, 32, 32, 10], 64);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for parameter in cost.network().layout().parameters() {
            let mut weights = cost.parameters().values().to_vec();
            weights[parameter.offset + parameter.len() / 2] = bad;
            assert!(cost.cost_of_weights(&weights).nats.is_nan(), "{bad} in {}", parameter.name);
        }
    }
    let direction = random_direction(&cost, 1);
    assert!(cost.cost(&direction, RayPoint::straight(f64::INFINITY)).unwrap().nats.is_nan());
    assert!(cost.cost(&direction, RayPoint::straight(1e200)).unwrap().nats.is_nan());
}

#[test]
fn mismatches_are_refused() {
    let network = MlpConfig::from_widths(vec![5, 4, 3]).unwrap();
    let center = network.initial_parameters(1);
    let message = MlpKl::new(network.clone(), center.clone(), &digits::all()).unwrap_err().to_string();
    assert!(message.contains("64 features per row but the network takes 5"), "{message}");
    let data = Dataset::new("five", 5, vec![1.0; 10], None).unwrap();
    let other = MlpConfig::from_widths(vec![5, 3]).unwrap().initial_parameters(1);
    assert!(MlpKl::new(network.clone(), other, &data).unwrap_err().to_string().contains("18 weights but the network has 39"));
    let mut values = center.values().to_vec();
    values[38] = 1e39f64 as f32;
    let broken = Parameters::new(network.layout(), values);
    assert!(MlpKl::new(network, broken, &data).unwrap_err().to_string().contains("not finite on row 0"));
}
