use basin_volume::objective::Differentiable;

use super::tests::{exact_cost, example, log_softmax};
use super::*;

fn moved(cost: &MlpKl) -> Vec<f32> {
    let center = cost.parameters().values();
    center.iter().enumerate().map(|(i, w)| w + 0.05 * (i as f32 * 0.77).sin()).collect()
}

fn close(found: &[f32], expected: &[f32]) -> bool {
    let scale = expected.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let error = found.iter().zip(expected).map(|(&x, &y)| f64::from(x - y).powi(2)).sum::<f64>().sqrt();
    error <= 1e-5 * scale
}

#[test]
fn the_gradient_of_every_tensor_matches_differences_of_the_exact_cost() {
    for (widths, rows) in [(vec![64, 24, 17, 10], 150), (vec![64, 10], 130), (vec![5, 7, 3], 1), (vec![64, 140, 12, 2], 20)] {
        let (cost, data) = example_with_data(&widths, rows);
        let weights = moved(&cost);
        let mut gradient = vec![f32::NAN; weights.len()];
        let nats = cost.gradient(&weights, 0..rows, &mut gradient).unwrap();
        assert!((nats / cost.cost_of_weights(&weights).nats - 1.0).abs() < 1e-6);
        for parameter in cost.network().layout().parameters() {
            let slopes = &gradient[parameter.range()];
            let norm = slopes.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
            assert!(norm > 0.0, "{widths:?}: {} has no gradient", parameter.name);
            let at = |step: f64| {
                let mut moved = weights.clone();
                let mut predicted = 0.0;
                for (index, (weight, &slope)) in moved[parameter.range()].iter_mut().zip(slopes).enumerate() {
                    let before = f64::from(*weight);
                    let direction = f64::from(slope) / norm + (index as f64 * 0.61).sin() / (slopes.len() as f64).sqrt();
                    *weight = (before + step * direction) as f32;
                    predicted += (f64::from(*weight) - before) * f64::from(slope);
                }
                (exact_cost(&cost, &data, &moved), predicted)
            };
            let ((up, predicted_up), (down, predicted_down)) = (at(1e-3), at(-1e-3));
            let (change, predicted) = (up - down, predicted_up - predicted_down);
            assert!((change - predicted).abs() < 1e-3 * change.abs(), "{widths:?}, {}: {change} not {predicted}", parameter.name);
        }
    }
}

#[test]
fn contributions_of_parts_add_up() {
    // More rows than one batch of tiles.
    let rows = TILE * 16 + 300;
    let (cost, _) = repeated_example(rows);
    let weights = moved(&cost);
    let mut whole = vec![0.0f32; weights.len()];
    let nats = cost.gradient(&weights, 0..rows, &mut whole).unwrap();
    let (mut sum, mut total) = (0.0, vec![0.0f64; weights.len()]);
    for range in [0..1, 1..100, 100..TILE + 3, TILE + 3..TILE + 3, TILE + 3..2000, 2000..rows] {
        let mut part = vec![f32::NAN; weights.len()];
        sum += cost.gradient(&weights, range, &mut part).unwrap();
        total.iter_mut().zip(&part).for_each(|(total, &part)| *total += f64::from(part));
    }
    assert!((sum / nats - 1.0).abs() < 1e-12);
    // Of a tile only the columns that are asked for are computed; on several threads, too.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    for range in [0..20, 5..33, TILE - 3..TILE + 17] {
        let (mut one, mut two) = (vec![f32::NAN; weights.len()], vec![f32::NAN; weights.len()]);
        let nats = cost.gradient(&weights, range.clone(), &mut one).unwrap();
        assert_eq!(pool.install(|| cost.gradient(&weights, range.clone(), &mut two)).unwrap(), nats);
        assert_eq!(one, two, "{range:?}");
    }
    let total: Vec<f32> = total.into_iter().map(|value| value as f32).collect();
    assert!(close(&total, &whole));
}

#[test]
fn the_center_is_a_minimum_and_threads_do_not_matter() {
    let cost = example(&[64, 150, 40, 10], 700);
    let center = cost.parameters().values().to_vec();
    let mut gradient = vec![f32::NAN; center.len()];
    assert_eq!(cost.gradient(&center, 0..700, &mut gradient).unwrap(), 0.0);
    assert!(gradient.iter().all(|&slope| slope == 0.0));
    let weights = moved(&cost);
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let run = || {
        let (mut first, mut second) = (vec![0.0f32; weights.len()], vec![0.0f32; weights.len()]);
        let nats =
            (cost.gradient(&weights, 3..650, &mut first).unwrap(), cost.likelihood_gradient(&weights, 3..650, 9, &mut second).unwrap());
        (nats, first, second)
    };
    let one = pool(1).install(run);
    for threads in [2, 3] {
        assert!(pool(threads).install(run) == one, "{threads} threads");
    }
}

#[test]
fn layers_of_several_tasks_have_the_same_bits_on_any_number_of_threads() {
    // More rows than one task has, and not a multiple of them.
    let (cost, _) = example_with_data(&[20, 600, 530, 10], TILE + 50);
    let weights = moved(&cost);
    let gradient = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut gradient = vec![0.0f32; weights.len()];
        let nats = pool.install(|| cost.gradient(&weights, 0..cost.parts(), &mut gradient)).unwrap();
        (nats, gradient)
    };
    assert!(gradient(1) == gradient(3));
}

#[test]
fn a_choice_of_tensors_has_its_part_of_the_gradient() {
    let whole = example(&[64, 20, 10], 64);
    let (network, data) = (whole.network().clone(), basin_volume_data::digits::all().select(&(0..64).collect::<Vec<_>>()).unwrap());
    let chosen = Moving::matching(whole.parameters().clone(), Some("weight"), Some("layers.0")).unwrap();
    let range = network.layout().parameters()[2].range();
    let part = MlpKl::new(network, chosen, &data).unwrap();
    let mut weights = whole.parameters().values().to_vec();
    weights[range.clone()].iter_mut().for_each(|weight| *weight *= 1.1);
    let (mut all, mut own) = (vec![0.0f32; weights.len()], vec![0.0f32; range.len()]);
    let first = whole.gradient(&weights, 0..64, &mut all).unwrap();
    let second = part.gradient(&weights[range.clone()], 0..64, &mut own).unwrap();
    assert!(first == second && own == all[range]);
}

#[test]
fn squared_scores_of_drawn_labels_are_the_curvature_of_the_cost() {
    // sum over classes of q s^2 by equally spaced seeds would need their distribution; many seeds give it within their error.
    let rows = 4;
    let (cost, data) = example_with_data(&[64, 6, 3], rows);
    let center = cost.parameters().values().to_vec();
    let probe: Vec<f64> = (0..center.len()).map(|i| (i as f64 * 0.37).sin()).collect();
    let draws = 3000u64;
    let mut squares = Vec::new();
    for seed in 0..draws {
        let mut sum = 0.0;
        for row in 0..rows {
            let mut gradient = vec![0.0f32; center.len()];
            cost.likelihood_gradient(&center, row..row + 1, seed, &mut gradient).unwrap();
            let along: f64 = gradient.iter().zip(&probe).map(|(&g, p)| f64::from(g) * p).sum::<f64>() * rows as f64;
            sum += along * along;
        }
        squares.push(sum / rows as f64);
    }
    let mean = squares.iter().sum::<f64>() / draws as f64;
    let deviation = (squares.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws as f64).sqrt() / (draws as f64).sqrt();
    // C(c + t v) = t^2/2 v'Fv + ...; both signs remove the cubic term.
    let step = 2e-3;
    let at = |step: f64| {
        let weights: Vec<f32> = center.iter().zip(&probe).map(|(&w, p)| (f64::from(w) + step * p) as f32).collect();
        exact_cost(&cost, &data, &weights)
    };
    let curvature = (at(step) + at(-step)) / (step * step);
    assert!((mean - curvature).abs() < 5.0 * deviation, "{mean} +- {deviation} not {curvature}");
}

#[test]
fn the_negative_log_likelihood_of_draws_is_the_entropy_on_average() {
    let (cost, data) = example_with_data(&[64, 20, 10], 100);
    let center = cost.parameters().values().to_vec();
    let mut gradient = vec![0.0f32; center.len()];
    let draws: Vec<f64> = (0..200).map(|seed| cost.likelihood_gradient(&center, 0..100, seed, &mut gradient).unwrap()).collect();
    let mean = draws.iter().sum::<f64>() / 200.0;
    let deviation = (draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 200.0).sqrt() / 200f64.sqrt();
    let rows = data.inputs().chunks(64);
    let entropy = rows.map(|input| log_softmax(&cost.network().logits_exact(&center, input)).iter().map(|l| -l.exp() * l).sum::<f64>());
    let entropy = entropy.sum::<f64>() / 100.0;
    assert!((mean - entropy).abs() < 5.0 * deviation, "{mean} +- {deviation} not {entropy}");
}

fn example_with_data(widths: &[usize], rows: usize) -> (MlpKl, Dataset) {
    let cost = example(widths, rows);
    let inputs: Vec<f32> = cost
        .tiles
        .iter()
        .flat_map(|tile| (0..tile.kept.positions()).flat_map(move |row| tile.inputs.iter().skip(row).step_by(tile.columns)))
        .copied()
        .collect();
    (cost, Dataset::new("rows", widths[0], inputs, None).unwrap())
}

/// More rows than there are digits, each several times.
fn repeated_example(rows: usize) -> (MlpKl, Dataset) {
    let cost = example(&[64, 12, 10], 2);
    let all = basin_volume_data::digits::all();
    let data = all.select(&(0..rows).map(|row| row % all.rows()).collect::<Vec<_>>()).unwrap();
    (MlpKl::new(cost.network().clone(), cost.parameters().clone(), &data).unwrap(), data)
}
