use std::path::{Path, PathBuf};

use basin_volume_data::tokens::{ModelLimits, Positions, Provenance};

use super::*;
use crate::checkpoint::Checkpoint;
use crate::curvature::Scores;

pub(super) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/language_models").join(name)
}

pub(crate) fn checkpoint(name: &str) -> Checkpoint {
    Checkpoint::load(&fixture(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub(super) fn model(checkpoint: &Checkpoint) -> &LanguageModel {
    checkpoint.architecture.language_model().unwrap()
}

/// Sequences of the given lengths in a vocabulary of 41.
pub(crate) fn tokens(lengths: &[usize], pad: Option<u32>, positions: Positions) -> TokenSequences {
    let sequences = lengths.iter().enumerate().map(|(i, &n)| (0..n).map(|j| ((i * 17 + j * 13 + j * j) % 41) as u32).collect());
    TokenSequences::new("t", sequences, ModelLimits { vocabulary: 41, positions: Some(32) }, pad, positions, Provenance::Ids).unwrap()
}

fn direction(moving: &Moving, seed: usize) -> Direction {
    let values: Vec<f32> = (0..moving.dimension()).map(|i| ((i * (seed + 3)) as f32 * 0.37).sin()).collect();
    let mut center = vec![0.0; values.len()];
    moving.fill(0..center.len(), &mut center);
    let scale = 1.0 / values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    Direction::from_values(values, scale, &center)
}

pub(crate) fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let normalizer = largest + logits.iter().map(|logit| (logit - largest).exp()).sum::<f64>().ln();
    logits.iter().map(|logit| logit - normalizer).collect()
}

/// Mean divergence of the kept positions by the `f64` forward pass, and of every sequence.
pub(crate) fn exact(model: &LanguageModel, center: &[f32], weights: &[f32], tokens: &TokenSequences) -> (f64, Vec<f64>) {
    let vocabulary = model.vocabulary();
    let (mut all, mut parts) = (Vec::new(), Vec::new());
    for sequence in tokens.iter() {
        let (a, b) = (model.logits_exact(center, sequence.ids).unwrap(), model.logits_exact(weights, sequence.ids).unwrap());
        let rows = a.chunks(vocabulary).zip(b.chunks(vocabulary)).zip(sequence.kept).filter(|(_, kept)| **kept);
        let own: Vec<f64> = rows
            .map(|((a, b), _)| {
                let (p, q) = (log_softmax(a), log_softmax(b));
                p.iter().zip(&q).map(|(p, q)| p.exp() * ((q - p).exp_m1() - (q - p))).sum()
            })
            .collect();
        parts.push(own.iter().sum::<f64>() / own.len() as f64);
        all.extend(own);
    }
    (all.iter().sum::<f64>() / all.len() as f64, parts)
}

#[test]
fn every_family_has_the_cost_of_the_exact_forward_pass() {
    let mut failures = Vec::new();
    let mut folders: Vec<_> =
        std::fs::read_dir(fixture("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    folders.sort();
    for name in folders {
        let checkpoint = checkpoint(&name);
        let model = model(&checkpoint);
        let data = tokens(&[19, 7, 1, 30], None, Positions::All);
        let cost = LanguageModelKl::new(model, checkpoint.parameters.clone(), &data, CenterOutputs::Logits).unwrap();
        let layout = checkpoint.parameters.layout();
        for matrix in cost.dense_matrices() {
            let parameter = layout.parameters().iter().find(|parameter| parameter.name == matrix.name).unwrap();
            let shape = if matrix.transposed { [matrix.inputs, matrix.outputs] } else { [matrix.outputs, matrix.inputs] };
            assert_eq!(parameter.shape, shape, "{name}: {}", matrix.name);
        }
        let center = checkpoint.parameters.values().into_owned();
        for t in [1e-3, 0.1] {
            let mut weights = Vec::new();
            cost.moving().prepare(&mut weights);
            cost.moving().write_point(&direction(cost.moving(), 1), RayPoint::straight(t), &mut weights);
            let (nats, _) = exact(model, &center, &weights, &data);
            let found = cost.cost(&direction(cost.moving(), 1), RayPoint::straight(t)).unwrap();
            // Ten deviations of the stated noise, and what the rounding of probabilities leaves.
            if (found.nats - nats).abs() > 10.0 * found.resolution + 3e-6 * nats {
                failures.push(format!("{name} at {t}: {:e} not {nats:e}, resolution {:e}", found.nats, found.resolution));
            }
            if found.resolution > 0.05 * nats {
                failures.push(format!("{name} at {t}: resolution {:e} of {nats:e}", found.resolution));
            }
        }
        assert_eq!(cost.cost(&direction(cost.moving(), 1), RayPoint::straight(0.0)).unwrap().nats, 0.0, "{name}: the center");
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn storage_threads_and_grouping_do_not_change_a_bit() {
    let checkpoint = checkpoint("llama_tied_llama3");
    let model = model(&checkpoint);
    let lengths = [30; 40];
    let data = tokens(&lengths, Some(13), Positions::All);
    let build = |outputs| LanguageModelKl::new(model, checkpoint.parameters.clone(), &data, outputs).unwrap();
    let (kept, recomputed) = (build(CenterOutputs::Logits), build(CenterOutputs::States));
    assert_eq!(kept.kept(), data.kept_count());
    let point = RayPoint::straight(0.05);
    let reference = kept.cost(&direction(kept.moving(), 2), point).unwrap();
    assert!(reference.nats > 1e-6);
    for threads in [1, 2, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for cost in [&kept, &recomputed] {
            let found = pool.install(|| cost.cost(&direction(cost.moving(), 2), point).unwrap());
            assert_eq!(found.nats.to_bits(), reference.nats.to_bits(), "{threads} threads, {:?}", cost.outputs());
        }
    }
}

#[test]
fn positions_sequences_and_moving_tensors_are_those_asked_for() {
    let checkpoint = checkpoint("gpt_neox_pythia");
    let model = model(&checkpoint);
    let center = checkpoint.parameters.values().into_owned();
    for (pad, positions) in [(None, Positions::All), (Some(13), Positions::All), (Some(13), Positions::Last), (None, Positions::Last)] {
        let data = tokens(&[19, 7, 30], pad, positions);
        let moving = Moving::matching(checkpoint.parameters.clone(), Some("mlp|embed_in"), Some("bias")).unwrap();
        let cost = LanguageModelKl::new(model, moving.clone(), &data, CenterOutputs::States).unwrap();
        assert_eq!(cost.dimension(), moving.dimension());
        assert!(cost.dimension() < center.len());
        let (direction, point) = (direction(&moving, 3), RayPoint::straight(0.2));
        let mut weights = Vec::new();
        moving.prepare(&mut weights);
        moving.write_point(&direction, point, &mut weights);
        let changed = weights.iter().zip(&center).filter(|(a, b)| a != b).count();
        assert!(changed <= moving.dimension() && changed > moving.dimension() / 2);
        let (nats, parts) = exact(model, &center, &weights, &data);
        let found = cost.cost(&direction, point).unwrap();
        assert!((found.nats / nats - 1.0).abs() < 1e-4, "{pad:?} {positions:?}: {} not {nats}", found.nats);
        let by_part = cost.cost_by_part(&direction, point).unwrap().unwrap();
        assert_eq!((by_part.parts.len(), by_part.whole), (parts.len(), found));
        for (found, exact) in by_part.parts.iter().zip(parts) {
            let found = found.unwrap();
            assert!((found.nats / exact - 1.0).abs() < 1e-4 && found.resolution > 0.0, "{found:?} not {exact}");
        }
        assert_eq!(cost.cost_of_weights(&weights).nats.to_bits(), found.nats.to_bits());
    }
}

#[test]
fn bad_centers_and_sequences_are_refused_in_one_sentence() {
    let checkpoint = checkpoint("gpt_neox_pythia");
    let model = model(&checkpoint);
    let mut weights = checkpoint.parameters.values().into_owned();
    let place = checkpoint.parameters.layout().parameters().iter().find(|p| p.name.contains("layers.1.mlp.dense_4h_to_h.weight")).unwrap();
    weights[place.offset] = 3e38;
    weights[place.offset + 1] = 3e38;
    let broken = crate::parameters::Parameters::new(checkpoint.parameters.layout().clone(), weights);
    let data = tokens(&[5, 4], None, Positions::All);
    let message = LanguageModelKl::new(model, broken, &data, CenterOutputs::Logits).unwrap_err().to_string();
    assert!(message.contains("sequence 1") && message.contains("not finite"), "{message}");
    let limits = ModelLimits { vocabulary: 1000, positions: None };
    let foreign = |ids: Vec<u32>| TokenSequences::new("f", [ids], limits, None, Positions::All, Provenance::Ids).unwrap();
    for (data, words) in [(foreign(vec![999]), "vocabulary"), (foreign(vec![0; 33]), "33 tokens")] {
        let message = LanguageModelKl::new(model, checkpoint.parameters.clone(), &data, CenterOutputs::Logits).unwrap_err().to_string();
        assert!(message.contains(words) && !message.contains('\n'), "{message}");
    }
}
