use basin_volume::center::Center;
use basin_volume_data::tokens::Positions;

use super::*;
use crate::arch::{Architecture, MlpConfig};
use crate::cost::language_model_tests::{exact, tokens};
use crate::cost::{EXACT_CLASSES, MlpKl};
use crate::curvature::testkit::{expected_squares, language, perceptron, spread};
use crate::curvature::{Silent, probe_seed};
use crate::parameters::{Moving, Parameters};

fn values(curvature: Curvature) -> Vec<f32> {
    match curvature {
        Curvature::Diagonal { values } => values,
        other => panic!("a diagonal, not {other:?}"),
    }
}

fn fisher(model: &dyn Scores, probes: usize, seed: u64) -> Vec<f32> {
    values(fisher_diagonal(model, probes, seed, &mut Silent).unwrap())
}

#[test]
fn the_diagonal_of_a_perceptron_is_that_of_the_fisher_matrix() {
    // Rows over more than one tile.
    let net = perceptron(&[9, 7, 6, 4], 150);
    let found = fisher(&net.cost, 1, 0);
    let dense = net.fisher();
    let largest = dense.iter().copied().fold(0.0, f64::max);
    for (index, &found) in found.iter().enumerate() {
        let expected = dense[index * net.cost.dimension() + index];
        assert!((f64::from(found) - expected).abs() < 1e-4 * expected + 1e-9 * largest, "{index}: {found:e} not {expected:e}");
    }
}

#[test]
fn it_is_the_second_difference_of_the_cost() {
    let net = perceptron(&[9, 7, 6, 4], 40);
    let center = net.cost.parameters().values().into_owned();
    let found = fisher(&net.cost, 1, 0);
    let mut tested = 0;
    for index in spread(&net.cost, 30).into_iter().filter(|&index| found[index] > 1e-4) {
        let at = |step: f32| {
            let mut weights = center.clone();
            weights[index] += step;
            let moved = f64::from(weights[index]) - f64::from(center[index]);
            net.cost.cost_of_weights(&weights).nats / (moved * moved)
        };
        let second = at(1e-2) + at(-1e-2);
        assert!((f64::from(found[index]) / second - 1.0).abs() < 5e-3, "{index}: {} not {second}", found[index]);
        tested += 1;
    }
    assert!(tested > 15, "{tested}");

    let lengths = [20, 11];
    let language = language("gpt_neox_pythia", &lengths, None);
    let center = language.checkpoint.parameters.values().into_owned();
    let data = tokens(&lengths, None, Positions::All);
    let chosen = spread(&language.cost, 12);
    let squares = expected_squares(&language.scores(&lengths, &chosen));
    for (index, square) in chosen.into_iter().zip(squares).filter(|(_, square)| *square > 1e-5) {
        let at = |step: f32| {
            let mut weights = center.clone();
            weights[index] += step;
            let moved = f64::from(weights[index]) - f64::from(center[index]);
            exact(language.model(), &center, &weights, &data).0 / (moved * moved)
        };
        let second = at(1e-3) + at(-1e-3);
        assert!((square / second - 1.0).abs() < 1e-3, "{index}: {square} not {second}");
    }
}

#[test]
fn many_classes_are_drawn() {
    let net = perceptron(&[6, 5, EXACT_CLASSES + 6], 40);
    let expected = expected_squares(&net.scores(&(0..net.cost.dimension()).collect::<Vec<_>>()));
    // Not the weights of classes that are hardly ever drawn: their error is far from normal.
    let largest = expected.iter().copied().fold(0.0, f64::max);
    let chosen: Vec<usize> = (0..expected.len()).filter(|&index| expected[index] > 1e-2 * largest).collect();
    let expected: Vec<f64> = chosen.iter().map(|&index| expected[index]).collect();
    let run = |run: u64| {
        let all = fisher(&net.cost, 100, 1000 + run);
        chosen.iter().map(|&index| all[index]).collect()
    };
    within_errors(&(0..24).map(run).collect::<Vec<Vec<f32>>>(), &expected);
}

#[test]
fn language_models_have_the_diagonal_on_average() {
    let lengths = [17, 4, 9];
    for name in ["gpt_neox_pythia", "gpt2", "gemma2"] {
        let language = language(name, &lengths, None);
        let chosen = spread(&language.cost, 60);
        let expected = expected_squares(&language.scores(&lengths, &chosen));
        let run = |run: u64| {
            let all = fisher(&language.cost, 40, run * 77);
            chosen.iter().map(|&index| all[index]).collect()
        };
        within_errors(&(0..24).map(run).collect::<Vec<Vec<f32>>>(), &expected);
    }
}

/// Whether the means of independent runs are the expected values within the error that their scatter shows: every entry that a run
/// knows to better than a half, which must be most, and the sum of all.
pub(in crate::curvature) fn within_errors(runs: &[Vec<f32>], expected: &[f64]) {
    let count = runs.len() as f64;
    let z = |values: &[f64], expected: f64| {
        let mean = values.iter().sum::<f64>() / count;
        let deviation = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt();
        ((mean - expected) / (deviation / count.sqrt()), deviation)
    };
    let (mut sum, mut tested, mut nonzero) = (0.0, 0.0, 0.0);
    let largest = expected.iter().copied().fold(0.0, f64::max);
    for (index, &expected) in expected.iter().enumerate() {
        let values: Vec<f64> = runs.iter().map(|run| f64::from(run[index])).collect();
        if expected < 1e-7 * largest {
            assert!(values.iter().sum::<f64>() < 1e-6 * count * largest, "{index}: {values:?} where {expected} is expected");
            continue;
        }
        nonzero += 1.0;
        let (z, deviation) = z(&values, expected);
        // Rare labels come too seldom for a normal error.
        if deviation == 0.0 || deviation > 0.5 * expected {
            continue;
        }
        assert!(z.abs() < 6.5, "{index}: {z} errors from {expected:e}");
        sum += z * z;
        tested += 1.0;
    }
    // Student's t with 23 degrees of freedom has the variance 1.1; the entries of one run are correlated, and skewed.
    assert!(tested > 0.6 * nonzero && tested > 8.0 && sum / tested < 2.5, "{} over {tested} of {nonzero}", sum / tested);
    let totals: Vec<f64> = runs.iter().map(|run| run.iter().map(|&value| f64::from(value)).sum()).collect();
    let (z, _) = z(&totals, expected.iter().sum());
    assert!(z.abs() < 5.0, "the sum is {z} errors off");
}

#[test]
fn given_labels_give_the_empirical_matrix() {
    let net = perceptron(&[9, 7, 6, 4], 150);
    let labels = net.data.labels().unwrap();
    let found = values(squared_gradient(&net.cost, Some(labels), 1, 0, &mut Silent).unwrap());
    let (_, scores) = net.scores(&(0..net.cost.dimension()).collect::<Vec<_>>());
    for (index, &found) in found.iter().enumerate() {
        let expected = scores.iter().zip(labels).map(|(scores, &label)| scores[label as usize][index].powi(2)).sum::<f64>() / 150.0;
        assert!((f64::from(found) - expected).abs() < 1e-4 * expected + 1e-8, "{index}: {found:e} not {expected:e}");
    }

    let lengths = [17, 1, 9];
    let language = language("llama_tied_llama3", &lengths, None);
    let chosen = spread(&language.cost, 60);
    let (_, scores) = language.scores(&lengths, &chosen);
    let data = tokens(&lengths, None, Positions::All);
    let next: Vec<Option<u32>> = data.iter().flat_map(|s| (0..s.ids.len()).map(move |i| s.ids.get(i + 1).copied())).collect();
    let mut expected = vec![0.0; chosen.len()];
    for (scores, next) in scores.iter().zip(&next) {
        let Some(next) = next else { continue };
        expected.iter_mut().zip(&scores[*next as usize]).for_each(|(sum, s)| *sum += s * s / 24.0);
    }
    let run = |run: u64| {
        let all = values(squared_gradient(&language.cost, None, 20, run * 77, &mut Silent).unwrap());
        chosen.iter().map(|&index| all[index]).collect()
    };
    within_errors(&(0..24).map(run).collect::<Vec<Vec<f32>>>(), &expected);
}

#[test]
fn moving_tensors_threads_and_probes() {
    let whole = perceptron(&[9, 7, 6, 4], 300);
    let center = whole.cost.parameters().clone();
    let chosen = Moving::matching(center.clone(), Some("weight"), Some("layers.1")).unwrap();
    let part = MlpKl::new(whole.cost.network().clone(), chosen, &whole.data).unwrap();
    let (all, own) = (fisher(&whole.cost, 1, 0), fisher(&part, 1, 0));
    let mut expected = vec![0.0; own.len()];
    part.moving().gather(&all, &mut expected);
    // The batches of rows are added in another order.
    assert!(own.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 1e-5 * b));

    let language = language("qwen3", &[20, 30], Some("mlp"));
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let run = || (fisher(&whole.cost, 1, 0), fisher(&language.cost, 2, 5));
    let one = pool(1).install(run);
    for threads in [2, 3] {
        assert!(pool(threads).install(run) == one, "{threads} threads");
    }
    // The mean over probes is that of one-probe runs.
    let (first, second) = (fisher(&language.cost, 1, 5), fisher(&language.cost, 1, probe_seed(5, 1)));
    for ((both, first), second) in one.1.iter().zip(first).zip(second) {
        assert!((both - 0.5 * (first + second)).abs() <= 1e-5 * both);
    }
}

#[test]
fn what_cannot_be_computed_is_said_in_one_sentence() {
    struct Stop;
    impl Observer for Stop {
        fn step(&mut self, _: usize, _: usize) {}
        fn interrupted(&self) -> bool {
            true
        }
    }
    let net = perceptron(&[9, 7, 4], 20);
    let labels = |labels: Option<&[u32]>| squared_gradient(&net.cost, labels, 1, 0, &mut Silent).unwrap_err().to_string();
    let language = language("opt", &[1, 1], None);
    let dead = {
        let network = MlpConfig::from_widths(vec![9, 4]).unwrap();
        let moving = Moving::matching(Parameters::new(network.layout(), vec![0.0; 40]), Some("weight"), None);
        let data = basin_volume_data::Dataset::new("zeros", 9, vec![0.0; 27], None).unwrap();
        MlpKl::new(network, moving.unwrap(), &data).unwrap()
    };
    let cases = [
        (fisher_diagonal(&net.cost, 0, 0, &mut Silent).unwrap_err().to_string(), "`probes` is 0"),
        (fisher_diagonal(&net.cost, 1, 0, &mut Stop).unwrap_err().to_string(), "interrupted after 0 of 1"),
        (labels(None), "has none"),
        (labels(Some(&[1; 7])), "7 for 20 rows"),
        (labels(Some(&[4; 20])), "row 0 has the label 4"),
        (squared_gradient(&language.cost, Some(&[1]), 1, 0, &mut Silent).unwrap_err().to_string(), "next tokens"),
        (squared_gradient(&language.cost, None, 1, 0, &mut Silent).unwrap_err().to_string(), "no position that counts"),
        (fisher_diagonal(&dead, 1, 0, &mut Silent).unwrap_err().to_string(), "zero everywhere"),
    ];
    for (message, words) in cases {
        assert!(message.contains(words) && !message.contains('\n'), "{message}");
    }
}
