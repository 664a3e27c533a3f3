use basin_volume::objective::Differentiable;
use basin_volume_data::tokens::{ModelLimits, Positions, Provenance};

use super::tests::{checkpoint, exact, log_softmax, model, tokens};
use super::*;

fn moved(center: &[f32]) -> Vec<f32> {
    center.iter().enumerate().map(|(i, w)| w + 0.02 * (i as f32 * 0.77).sin()).collect()
}

fn length(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}

#[test]
fn the_gradient_matches_differences_of_the_exact_cost() {
    for (name, pad, positions) in [
        ("gpt_neox_pythia", None, Positions::All),
        ("gemma2", Some(5), Positions::All),
        ("opt_after_projected", None, Positions::Last),
        ("llama_tied_llama3", Some(5), Positions::Last),
    ] {
        let checkpoint = checkpoint(name);
        let tokens = tokens(&[9, 1, 30, 12], pad, positions);
        let cost = LanguageModelKl::new(model(&checkpoint), checkpoint.parameters.clone(), &tokens, CenterOutputs::Logits).unwrap();
        let center = checkpoint.parameters.values().to_vec();
        let weights = moved(&center);
        let mut gradient = vec![f32::NAN; weights.len()];
        let nats = cost.gradient(&weights, 0..4, &mut gradient).unwrap();
        let found = cost.cost_of_weights(&weights).nats;
        assert!((nats / found - 1.0).abs() < 1e-4, "{name}: {nats} beside the cost {found}");
        let norm = length(gradient.iter().map(|&g| f64::from(g)));
        for direction in 0..3usize {
            let step = 1e-4;
            let at = |step: f64| {
                let mut moved = weights.clone();
                let mut predicted = 0.0;
                for (index, (weight, &slope)) in moved.iter_mut().zip(&gradient).enumerate() {
                    let before = f64::from(*weight);
                    let across = (((index + 3) * (direction * 31 + 7)) as f64 * 0.61).sin() / (gradient.len() as f64).sqrt();
                    *weight = (before + step * (f64::from(slope) / norm + across)) as f32;
                    predicted += (f64::from(*weight) - before) * f64::from(slope);
                }
                (exact(model(&checkpoint), &center, &moved, &tokens).0, predicted)
            };
            let ((up, predicted_up), (down, predicted_down)) = (at(step), at(-step));
            let (change, predicted) = (up - down, predicted_up - predicted_down);
            assert!((change - predicted).abs() < 1e-3 * change.abs(), "{name}: {change:e} not {predicted:e}");
        }
    }
}

#[test]
fn parts_add_up_and_the_center_is_a_minimum() {
    let checkpoint = checkpoint("qwen3");
    // More positions than go through together.
    let lengths: Vec<usize> = (0..60).map(|i| 1 + i * 7 % 31).collect();
    let tokens = tokens(&lengths, Some(3), Positions::All);
    let cost = LanguageModelKl::new(model(&checkpoint), checkpoint.parameters.clone(), &tokens, CenterOutputs::States).unwrap();
    let center = checkpoint.parameters.values().to_vec();
    assert_eq!(cost.parts(), 60);
    let weights = moved(&center);
    let mut gradient = vec![f32::NAN; center.len()];
    let nats = cost.gradient(&weights, 0..60, &mut gradient).unwrap();
    let (mut sum, mut total) = (0.0, vec![0.0f64; center.len()]);
    for range in [0..1, 1..1, 1..17, 17..60] {
        let mut part = vec![f32::NAN; center.len()];
        sum += cost.gradient(&weights, range, &mut part).unwrap();
        total.iter_mut().zip(&part).for_each(|(total, &part)| *total += f64::from(part));
    }
    assert!((sum / nats - 1.0).abs() < 1e-6, "{sum} not {nats}");
    let size = length(gradient.iter().map(|&g| f64::from(g)));
    assert!(length(gradient.iter().zip(&total).map(|(&x, y)| f64::from(x) - y)) < 1e-5 * size);
    let at_center = cost.gradient(&center, 0..60, &mut gradient).unwrap();
    assert!(at_center.abs() < 1e-12 && length(gradient.iter().map(|&g| f64::from(g))) < 1e-6 * size, "{at_center}");
}

#[test]
fn the_gradient_at_the_center_is_exactly_zero_and_what_is_kept_of_it_does_not_matter() {
    for name in ["gpt_neox_pythia", "gemma2", "gpt2"] {
        let checkpoint = checkpoint(name);
        let tokens = tokens(&[31, 1, 30, 31, 31, 25], None, Positions::All);
        let cost = |outputs| LanguageModelKl::new(model(&checkpoint), checkpoint.parameters.clone(), &tokens, outputs).unwrap();
        let (logits, states) = (cost(CenterOutputs::Logits), cost(CenterOutputs::States));
        let center = checkpoint.parameters.values().to_vec();
        let weights = moved(&center);
        let (mut first, mut second) = (vec![f32::NAN; center.len()], vec![f32::NAN; center.len()]);
        // The whole takes the blocks of the cost as they are, the parts collect their columns.
        for parts in [0..6, 2..5, 5..6] {
            for cost in [&logits, &states] {
                let nats = cost.gradient(&center, parts.clone(), &mut first).unwrap();
                assert!(parts.len() < 6 || (nats == 0.0 && first.iter().all(|&slope| slope == 0.0)), "{name}: {nats}");
                assert!(nats.abs() < 1e-12, "{name}: {nats}");
            }
            let nats = [logits.gradient(&weights, parts.clone(), &mut first), states.gradient(&weights, parts.clone(), &mut second)];
            let [one, two] = nats.map(Result::unwrap);
            let size = length(first.iter().map(|&g| f64::from(g)));
            let error = length(first.iter().zip(&second).map(|(&x, &y)| f64::from(x - y)));
            assert!((one / two - 1.0).abs() < 1e-6 && error < 1e-6 * size, "{name}: {one}, {two}; {error:e} of {size:e}");
            if parts == (0..6) {
                assert!((one / logits.cost_of_weights(&weights).nats - 1.0).abs() < 1e-6, "{name}");
                assert!(one == two && first == second, "{name}");
            }
        }
    }
}

#[test]
fn a_choice_of_tensors_has_its_part_and_threads_do_not_matter() {
    let checkpoint = checkpoint("gpt2");
    let tokens = tokens(&[20, 31], None, Positions::All);
    let whole = LanguageModelKl::new(model(&checkpoint), checkpoint.parameters.clone(), &tokens, CenterOutputs::Logits).unwrap();
    let chosen = Moving::matching(checkpoint.parameters.clone(), Some("mlp"), None).unwrap();
    let part = LanguageModelKl::new(model(&checkpoint), chosen, &tokens, CenterOutputs::Logits).unwrap();
    let mut weights = checkpoint.parameters.values().to_vec();
    let mut own = vec![0.0f32; part.dimension()];
    part.moving().fill(0..own.len(), &mut own);
    own.iter_mut().for_each(|weight| *weight *= 1.1);
    part.moving().scatter(&own, &mut weights);
    let (mut all, mut found, mut expected) = (vec![0.0f32; weights.len()], vec![0.0f32; own.len()], vec![0.0f32; own.len()]);
    let first = whole.gradient(&weights, 0..2, &mut all).unwrap();
    let second = part.gradient(&own, 0..2, &mut found).unwrap();
    part.moving().gather(&all, &mut expected);
    assert!(first == second && found == expected && first > 0.0);
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    for threads in [1, 2, 3] {
        let mut again = vec![0.0f32; weights.len()];
        let nats = pool(threads).install(|| whole.gradient(&weights, 0..2, &mut again).unwrap());
        assert!(nats == first && again == all, "{threads} threads");
    }
}

#[test]
fn drawn_labels_have_the_entropy_and_belong_to_their_positions() {
    let checkpoint = checkpoint("phi");
    let tokens = tokens(&[25, 18], None, Positions::All);
    let cost = LanguageModelKl::new(model(&checkpoint), checkpoint.parameters.clone(), &tokens, CenterOutputs::Logits).unwrap();
    let center = checkpoint.parameters.values().to_vec();
    let mut gradient = vec![0.0f32; center.len()];
    let draws: Vec<f64> = (0..100).map(|seed| cost.likelihood_gradient(&center, 0..2, seed, &mut gradient).unwrap()).collect();
    let mean = draws.iter().sum::<f64>() / 100.0;
    let deviation = (draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 100.0).sqrt() / 10.0;
    let logits = tokens.iter().flat_map(|sequence| model(&checkpoint).logits_exact(&center, sequence.ids).unwrap()).collect::<Vec<f64>>();
    let rows = logits.chunks(model(&checkpoint).vocabulary()).map(|row| log_softmax(row).iter().map(|l| -l.exp() * l).sum::<f64>());
    let entropy = rows.sum::<f64>() / 43.0;
    assert!(deviation > 0.0 && (mean - entropy).abs() < 5.0 * deviation, "{mean} +- {deviation} not {entropy}");
    // The draws of a sequence do not depend on which others are asked for.
    let mut part = vec![0.0f32; center.len()];
    let both = cost.likelihood_gradient(&center, 0..2, 3, &mut gradient).unwrap();
    let sum: f64 = (0..2).map(|i| cost.likelihood_gradient(&center, i..i + 1, 3, &mut part).unwrap()).sum();
    assert!((both / sum - 1.0).abs() < 1e-6, "{both} not {sum}");
}

#[test]
fn sequences_are_not_cut_where_their_length_decides_the_positions() {
    // With more than 12 tokens other frequencies apply; what the pads at the end leave has fewer.
    let checkpoint = checkpoint("phi3_longrope");
    let sequence: Vec<u32> = (0..15).map(|i| if i < 11 { (i * 7 + 1) % 41 } else { 0 }).collect();
    let limits = ModelLimits { vocabulary: 41, positions: Some(32) };
    let provenance = Provenance::Ids;
    let padded = TokenSequences::new("t", [sequence], limits, Some(0), Positions::All, provenance).unwrap();
    assert!(!padded.kept()[14] && padded.kept()[10]);
    let cost = LanguageModelKl::new(model(&checkpoint), checkpoint.parameters.clone(), &padded, CenterOutputs::Logits).unwrap();
    let center = checkpoint.parameters.values().to_vec();
    let weights = moved(&center);
    let mut gradient = vec![0.0f32; weights.len()];
    let nats = cost.gradient(&weights, 0..1, &mut gradient).unwrap();
    let (expected, _) = exact(model(&checkpoint), &center, &weights, &padded);
    assert!((nats / expected - 1.0).abs() < 1e-4, "{nats} not {expected}");
    assert!((cost.cost_of_weights(&weights).nats / expected - 1.0).abs() < 1e-4);
    let (short, _) = exact(model(&checkpoint), &center, &weights, &tokens(&[11], None, Positions::All));
    assert!((short / expected - 1.0).abs() > 1e-3, "the length matters");
}
