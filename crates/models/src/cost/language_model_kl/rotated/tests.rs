use basin_volume::direction::dot;
use basin_volume::random::{NormalVector, Purpose};
use basin_volume_data::tokens::{ModelLimits, Positions, Provenance};
use serde_json::{Value, json};

use super::super::CenterOutputs;
use super::super::tests::{checkpoint, exact, model, tokens};
use super::*;
use crate::arch::from_config;
use crate::parameters::Parameters;
use crate::reflection::testkit::{determinant, jacobian};

fn normals(count: usize, scale: f32, seed: u64) -> Vec<f32> {
    let mut out = vec![0.0f32; count];
    NormalVector::new(Purpose::Trials, seed, 0, count).fill(0..count, &mut out);
    out.iter_mut().for_each(|x| *x *= scale);
    out
}

fn length(values: &[f32]) -> f64 {
    dot(values, values).sqrt()
}

/// Every way in which families differ: parallel or not, with biases or without, gated, stacked, stored the other way, tied.
const FAMILIES: [&str; 12] = [
    "gpt_neox_pythia",
    "gpt_neox_sequential_tied",
    "gpt2",
    "gemma2",
    "llama_tied_llama3",
    "qwen3",
    "phi3",
    "phi",
    "stablelm_parallel_norms",
    "olmo2_biases",
    "opt_after_projected",
    "granite",
];

fn of_golden(name: &str) -> (RotatedLanguageModelKl, Vec<f32>, TokenSequences, LanguageModel) {
    let checkpoint = checkpoint(name);
    let tokens = tokens(&[9, 1, 30, 12], Some(5), Positions::All);
    let cost = LanguageModelKl::new(model(&checkpoint), checkpoint.parameters.clone(), &tokens, CenterOutputs::States).unwrap();
    let rotated = RotatedLanguageModelKl::new(cost).unwrap().unwrap();
    (rotated, checkpoint.parameters.values().to_vec(), tokens, model(&checkpoint).clone())
}

#[test]
fn coordinates_have_the_length_of_the_weights_and_lead_back_to_them() {
    for name in FAMILIES {
        let (rotated, center, tokens, model) = of_golden(name);
        let size = length(&center) / (center.len() as f64).sqrt();
        for seed in 0..2 {
            let start: Vec<f32> = center.iter().zip(normals(center.len(), 0.5 * size as f32, seed)).map(|(c, by)| c + by).collect();
            let mut there = start.clone();
            rotated.enter(&mut there);
            assert!((length(&there) / length(&start) - 1.0).abs() < 1e-6, "{name}");
            let moved = there.iter().zip(&start).filter(|(a, b)| (**a - **b).abs() > 1e-3 * size as f32).count();
            assert!(3 * moved > start.len(), "{name}: {moved} of {}", start.len());
            let (expected, _) = exact(&model, &center, &start, &tokens);
            let found = rotated.cost_at(&there).unwrap().nats;
            assert!((found / expected - 1.0).abs() < 2e-4, "{name}: {found} instead of {expected}");
            let mut back = there.clone();
            rotated.leave(&mut back);
            let error = back.iter().zip(&start).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(f64::from(error) < 1e-4 * size.max(0.1), "{name}: {error}");
        }
        let mut coordinates = vec![0.0; rotated.dimension()];
        rotated.center(0..coordinates.len(), &mut coordinates);
        assert!(rotated.cost_at(&coordinates).unwrap().nats < 1e-8, "{name}");
    }
}

/// A gradient with respect to the coordinates against differences of the value, along the gradient and across it.
fn check_gradient(name: &str, start: &[f32], gradient: &[f32], value: impl Fn(Vec<f32>) -> f64) {
    let norm = length(gradient);
    for direction in 0..4usize {
        let at = |step: f64| {
            let mut moved = start.to_vec();
            let mut predicted = 0.0;
            for (index, (x, &slope)) in moved.iter_mut().zip(gradient).enumerate() {
                let before = f64::from(*x);
                let across = (((index + 3) * (direction * 31 + 7)) as f64 * 0.61).sin() / (gradient.len() as f64).sqrt();
                *x = (before + step * (f64::from(slope) / norm + across)) as f32;
                predicted += (f64::from(*x) - before) * f64::from(slope);
            }
            (value(moved), predicted)
        };
        let ((up, predicted_up), (down, predicted_down)) = (at(1e-3), at(-1e-3));
        let (change, predicted) = (up - down, predicted_up - predicted_down);
        assert!((change - predicted).abs() < 5e-3 * change.abs(), "{name}: {change:e} not {predicted:e}");
    }
}

#[test]
fn the_gradient_is_that_of_the_cost_for_any_number_of_threads() {
    for name in FAMILIES {
        let (rotated, center, tokens, model) = of_golden(name);
        let mut start: Vec<f32> = center.iter().enumerate().map(|(i, w)| w + 0.02 * (i as f32 * 0.77).sin()).collect();
        rotated.enter(&mut start);
        let mut gradient = vec![f32::NAN; start.len()];
        let nats = rotated.gradient(&start, 0..1, &mut gradient).unwrap();
        assert!((nats / rotated.cost_at(&start).unwrap().nats - 1.0).abs() < 1e-6, "{name}");
        // By the f64 forward pass at the weights that the coordinates lead to.
        check_gradient(name, &start, &gradient, |mut moved| {
            rotated.leave(&mut moved);
            exact(&model, &center, &moved, &tokens).0
        });
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut again = vec![1.0f32; start.len()];
            assert_eq!(pool.install(|| rotated.gradient(&start, 0..1, &mut again).unwrap()), nats, "{name}");
            assert_eq!(again, gradient, "{name}, {threads} threads");
        }
        assert_eq!(rotated.gradient(&start, 0..0, &mut gradient).unwrap(), 0.0);
        assert!(gradient.iter().all(|g| *g == 0.0));
    }
}

/// That of the cost half the way to the center, where the star looks.
#[test]
fn a_gradient_of_weights_is_pulled_back_to_the_coordinates() {
    for name in FAMILIES {
        let (rotated, center, tokens, model) = of_golden(name);
        let mut start: Vec<f32> = center.iter().enumerate().map(|(i, w)| w + 0.03 * (i as f32 * 0.77).sin()).collect();
        rotated.enter(&mut start);
        let part = 0.5f32;
        let on_the_way = |weights: &[f32]| -> Vec<f32> { weights.iter().zip(&center).map(|(w, c)| c + part * (w - c)).collect() };
        let straight = rotated.straight().unwrap();
        let pull = |gradient: &mut Vector| {
            let mut work = |weights: &[f32], gradient: &mut Vector| {
                let cost = straight.cost_of_weights();
                let nats = cost.gradient(&on_the_way(weights), 0..cost.parts(), gradient.slice_mut())?;
                gradient.slice_mut().iter_mut().for_each(|g| *g *= part);
                Ok(nats)
            };
            straight.pull_back(&start, gradient, &mut work).unwrap()
        };
        let mut gradient = Vector::Slice(vec![f32::NAN; start.len()]);
        let nats = pull(&mut gradient);
        let slopes = gradient.view().slice();
        check_gradient(name, &start, slopes, |mut moved| {
            rotated.leave(&mut moved);
            exact(&model, &center, &on_the_way(&moved), &tokens).0
        });
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let mut again = Vector::Slice(vec![1.0f32; start.len()]);
        assert_eq!(pool.install(|| pull(&mut again)), nats, "{name}");
        assert_eq!(again.view().slice(), slopes, "{name}, three threads");
    }
}

#[test]
fn scores_of_drawn_labels_are_those_of_the_weights_turned() {
    // A reflection of rows keeps the length of a gradient but for what the means get: at the center both lengths are alike, and the mean over draws
    // of a squared score is the curvature along an axis.
    let (rotated, center, ..) = of_golden("gpt_neox_pythia");
    let mut start = center;
    rotated.enter(&mut start);
    let (size, positions) = (start.len(), rotated.positions() as f64);
    let mut squares = vec![0.0f64; size];
    let draws = 400;
    let mut gradient = vec![0.0f32; size];
    for seed in 0..draws {
        rotated.likelihood_gradient(&start, 0..1, seed, &mut gradient).unwrap();
        squares.iter_mut().zip(&gradient).for_each(|(sum, g)| *sum += f64::from(*g).powi(2) * positions / draws as f64);
    }
    let mut order: Vec<usize> = (0..size).collect();
    order.sort_by(|&a, &b| squares[b].total_cmp(&squares[a]));
    for &axis in &order[..3] {
        let at = |by: f32| {
            let mut moved = start.clone();
            moved[axis] += by;
            rotated.cost_at(&moved).unwrap().nats
        };
        let step = 3e-3f32;
        let expected = (at(step) + at(-step)) / f64::from(step * step);
        assert!((squares[axis] / expected - 1.0).abs() < 0.25, "{axis}: {} instead of {expected}", squares[axis]);
    }
}

/// A network of so few weights that the determinant of the map can be found by differences.
fn tiny(config: &Value) -> (RotatedLanguageModelKl, Vec<f32>) {
    let network = from_config(config).unwrap();
    let model = network.language_model().unwrap();
    let ids = [[0u32, 2, 1, 1, 0], [1, 1, 2, 0, 2]].map(Vec::from);
    let limits = ModelLimits { vocabulary: 3, positions: Some(8) };
    let tokens = TokenSequences::new("t", ids, limits, None, Positions::All, Provenance::Ids).unwrap();
    let weights = normals(model.dimension(), 0.7, 5);
    let cost = LanguageModelKl::new(model, Parameters::new(network.layout(), weights.clone()), &tokens, CenterOutputs::Logits).unwrap();
    (RotatedLanguageModelKl::new(cost).unwrap().unwrap(), weights)
}

#[test]
fn the_map_keeps_volumes() {
    let parallel = json!({"model_type": "gpt_neox", "vocab_size": 3, "hidden_size": 4, "num_hidden_layers": 2, "num_attention_heads": 1,
        "intermediate_size": 3, "max_position_embeddings": 8, "rotary_pct": 0.5, "hidden_act": "gelu", "tie_word_embeddings": false,
        "use_parallel_residual": true, "layer_norm_eps": 1e-5});
    let in_turn = json!({"model_type": "llama", "vocab_size": 3, "hidden_size": 4, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "intermediate_size": 3, "max_position_embeddings": 8, "hidden_act": "silu", "tie_word_embeddings": false,
        "rms_norm_eps": 1e-5});
    for config in [parallel, in_turn] {
        let (rotated, mut start) = tiny(&config);
        rotated.enter(&mut start);
        let jacobian = jacobian(&rotated, &start, 5e-3);
        // It is no orthogonal matrix: the means move.
        let off = jacobian.iter().map(|row| (row.iter().map(|x| x * x).sum::<f64>() - 1.0).abs()).fold(0.0, f64::max);
        assert!(off > 0.05, "{off}");
        let determinant = determinant(jacobian);
        assert!((determinant.abs() - 1.0).abs() < 1e-2, "{determinant}");
    }
}

#[test]
fn some_weights_or_too_many_tokens_have_no_coordinates() {
    let checkpoint = checkpoint("gpt_neox_pythia");
    let model = model(&checkpoint);
    let moving = Moving::from(checkpoint.parameters.clone());
    let tokens = tokens(&[9, 12], None, Positions::All);
    assert!(RotatedLanguageModelKl::fits(model, &moving, &tokens));
    assert!(!model.can_reflect(1 << 24));
}
