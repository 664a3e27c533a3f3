use std::path::Path;

use basin_volume::objective::Differentiable;
use basin_volume_data::tokens::{ModelLimits, Positions, Provenance};

use super::*;
use crate::checkpoint::Checkpoint;
use crate::components::Components;
use crate::cost::LanguageModelKl;
use crate::curvature::{DenseMatrix, Labels, Moments, Scores};

/// Costs and their parts of every family on `device`, against the kernels of the CPU; `bound` says how far apart two costs may be.
fn check(device: &Device, dtype: DType, bound: impl Fn(&Cost, &Cost) -> f64) {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/language_models");
    let mut failures = Vec::new();
    for entry in std::fs::read_dir(base).unwrap() {
        let folder = entry.unwrap().path();
        let checkpoint = Checkpoint::load(&folder).unwrap();
        let model = checkpoint.architecture.language_model().unwrap();
        let vocabulary = model.vocabulary();
        let sequences = [19, 7, 30].map(|n: usize| (0..n).map(|j| ((n * 17 + j * 13 + j * j) % vocabulary) as u32).collect());
        let limits = ModelLimits { vocabulary, positions: Some(32) };
        let tokens = TokenSequences::new("t", sequences, limits, Some(13), Positions::All, Provenance::Ids).unwrap();
        let moving = Moving::matching(checkpoint.parameters.clone(), None, Some("bias")).unwrap();
        let slices = LanguageModelKl::new(model, moving.clone(), &tokens, CenterOutputs::Logits).unwrap();
        let values: Vec<f32> = (0..moving.dimension()).map(|i| (i as f32 * 0.37).sin()).collect();
        let mut own = vec![0.0; values.len()];
        moving.fill(0..own.len(), &mut own);
        let direction = Direction::from_values(values, 1e-2, &own);
        for (outputs, keeps) in [(CenterOutputs::Logits, true), (CenterOutputs::States, false)] {
            let keeps = OnDevice { center_outputs: outputs, direction: keeps };
            let tensors = LanguageModelTensorKl::new(model, moving.clone(), &tokens, keeps, device, dtype).unwrap();
            for t in [0.0, 0.05, 1.0] {
                let point = RayPoint::straight(t);
                let (found, expected) = (tensors.cost(&direction, point).unwrap(), slices.cost(&direction, point).unwrap());
                if (found.nats - expected.nats).abs() > bound(&found, &expected) {
                    failures.push(format!("{} at {t}, {outputs:?}: {found:?} not {expected:?}", folder.display()));
                }
                // From another thread, as rays are.
                let again = std::thread::scope(|scope| scope.spawn(|| tensors.cost(&direction, point)).join()).unwrap().unwrap();
                assert_eq!(again.nats.to_bits(), found.nats.to_bits(), "the same cost twice: {}", folder.display());
            }
            let point = RayPoint::straight(0.5);
            let nats = |by_part: CostByPart| -> Vec<f64> { by_part.parts.iter().map(|part| part.unwrap().nats).collect() };
            let by_part = tensors.cost_by_part(&direction, point).unwrap().unwrap();
            let total = tensors.cost(&direction, point).unwrap().nats;
            assert_eq!(by_part.whole.nats.to_bits(), total.to_bits());
            let parts = nats(by_part);
            let kept = |range: &[usize]| tokens.kept()[range[0]..range[1]].iter().filter(|&&kept| kept).count() as f64;
            let counts: Vec<f64> = tokens.offsets().windows(2).map(kept).collect();
            let mean = counts.iter().zip(&parts).map(|(count, part)| count * part).sum::<f64>() / counts.iter().sum::<f64>();
            assert_eq!(parts.len(), counts.len());
            assert!((mean / total - 1.0).abs() < 1e-6, "{parts:?} {total}");
            if dtype == DType::F32 {
                let expected = nats(slices.cost_by_part(&direction, point).unwrap().unwrap());
                assert!(parts.iter().zip(&expected).all(|(a, b)| (a / b - 1.0).abs() < 1e-3), "{parts:?} {expected:?}");
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

fn single(found: &Cost, expected: &Cost) -> f64 {
    10.0 * found.resolution.max(expected.resolution) + 5e-6 * expected.nats
}

#[test]
fn every_family_has_the_cost_of_the_slices() {
    check(&Device::Cpu, DType::F32, single);
}

#[cfg(feature = "cuda")]
#[test]
#[ignore = "needs a graphics card: cargo test --release --features cuda -p basin-volume-models -- --ignored"]
fn every_family_has_the_same_cost_on_a_graphics_card() {
    let device = Device::new_cuda(0).unwrap();
    check(&device, DType::F32, single);
    // The weights themselves are rounded to eight bits, center and displaced alike.
    check(&device, DType::BF16, |found, expected| 10.0 * found.resolution + 0.25 * expected.nats);
}

/// Fixtures of families with a few sequences, on the processor and on a device; weights of moving tensors near the center.
fn for_families(device: &Device, names: &[&str], visit: impl FnMut(&str, &LanguageModelKl, &LanguageModelTensorKl, &[f32], &[f32])) {
    for_moving(device, names, |checkpoint| Moving::matching(checkpoint.parameters.clone(), None, Some("bias")).unwrap(), visit);
}

/// The same with other weights that move.
fn for_moving(
    device: &Device,
    names: &[&str],
    moving_of: impl Fn(&Checkpoint) -> Moving,
    mut visit: impl FnMut(&str, &LanguageModelKl, &LanguageModelTensorKl, &[f32], &[f32]),
) {
    for name in names {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/language_models").join(name);
        let checkpoint = Checkpoint::load(&folder).unwrap();
        let model = checkpoint.architecture.language_model().unwrap();
        let vocabulary = model.vocabulary();
        let sequences = [19, 7, 30, 30].map(|n: usize| (0..n).map(|j| ((n * 17 + j * 13 + j * j) % vocabulary) as u32).collect());
        let limits = ModelLimits { vocabulary, positions: Some(32) };
        let tokens = TokenSequences::new("t", sequences, limits, Some(13), Positions::All, Provenance::Ids).unwrap();
        let moving = moving_of(&checkpoint);
        let slices = LanguageModelKl::new(model, moving.clone(), &tokens, CenterOutputs::Logits).unwrap();
        let keeps = OnDevice { center_outputs: CenterOutputs::States, direction: false };
        let tensors = LanguageModelTensorKl::new(model, moving.clone(), &tokens, keeps, device, DType::F32).unwrap();
        let mut center = vec![0.0f32; moving.dimension()];
        moving.fill(0..center.len(), &mut center);
        let weights: Vec<f32> = center.iter().enumerate().map(|(i, w)| w + 0.02 * (i as f32 * 0.77).sin()).collect();
        visit(name, &slices, &tensors, &center, &weights);
    }
}

fn length(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}

fn distance(x: &[f32], y: &[f32]) -> f64 {
    length(x.iter().zip(y).map(|(&x, &y)| f64::from(x) - f64::from(y))) / length(y.iter().map(|&y| f64::from(y)))
}

const FAMILIES: [&str; 8] =
    ["gpt_neox_pythia", "gpt2", "llama_tied_llama3", "gemma2", "opt_after_projected", "phi", "phi3_longrope", "qwen3"];

#[test]
fn gradients_are_those_of_the_processor() {
    check_gradients(&Device::Cpu);
}

#[cfg(feature = "cuda")]
#[test]
#[ignore = "needs a graphics card: cargo test --release --features cuda -p basin-volume-models -- --ignored"]
fn gradients_are_the_same_on_a_graphics_card() {
    check_gradients(&Device::new_cuda(0).unwrap());
}

/// A head, and of other tensors all or some rows: what moves of a tensor is cut out of its gradient.
fn some_components(checkpoint: &Checkpoint) -> Moving {
    let components = Components::of(checkpoint.architecture.as_ref());
    let embedding = format!("{}[3:9, 2:6]", checkpoint.parameters.layout().parameters()[0].name);
    let chosen = components.chosen(&["l0h1", "l1 mlp", &embedding]).unwrap();
    Moving::of(checkpoint.parameters.clone(), &chosen).unwrap()
}

fn check_gradients(device: &Device) {
    check_gradients_of(device, |checkpoint| Moving::matching(checkpoint.parameters.clone(), None, Some("bias")).unwrap());
    check_gradients_of(device, some_components);
}

fn check_gradients_of(device: &Device, moving_of: impl Fn(&Checkpoint) -> Moving) {
    for_moving(device, &FAMILIES, moving_of, |name, slices, tensors, center, weights| {
        let (mut found, mut expected) = (vec![f32::NAN; weights.len()], vec![f32::NAN; weights.len()]);
        for parts in [0..4, 1..2] {
            let nats = tensors.gradient(weights, parts.clone(), &mut found).unwrap();
            let exact = slices.gradient(weights, parts.clone(), &mut expected).unwrap();
            assert!((nats / exact - 1.0).abs() < 1e-4, "{name}: {nats} not {exact}");
            let error = distance(&found, &expected);
            assert!(error < 1e-4, "{name}, {parts:?}: gradients are {error:e} apart");
            // Labels are drawn at the same places.
            let nats = tensors.likelihood_gradient(weights, parts.clone(), 5, &mut found).unwrap();
            let exact = slices.likelihood_gradient(weights, parts.clone(), 5, &mut expected).unwrap();
            assert!((nats / exact - 1.0).abs() < 1e-5, "{name}: {nats} not {exact}");
            let error = distance(&found, &expected);
            assert!(error < 1e-4, "{name}, {parts:?}: gradients of likelihoods are {error:e} apart");
        }
        let (cost, exact) = (tensors.cost_at(weights).unwrap(), slices.cost_at(weights).unwrap());
        assert!((cost.nats - exact.nats).abs() < single(&cost, &exact), "{name}: {cost:?} not {exact:?}");
        // The center is a minimum, whose roundings cancel.
        let size = length(expected.iter().map(|&x| f64::from(x)));
        let nats = tensors.gradient(center, 0..4, &mut found).unwrap();
        assert!(nats.abs() < 1e-12 && length(found.iter().map(|&x| f64::from(x))) < 1e-6 * size, "{name}: {nats}");
        assert_eq!(tensors.gradient(weights, 2..2, &mut found).unwrap(), 0.0);
        assert!(found.iter().all(|&slope| slope == 0.0));
    });
}

#[test]
fn states_of_chains_have_the_gradients_and_costs_of_slices() {
    for_moving(&Device::Cpu, &["gpt2", "gemma2"], some_components, |name, _, tensors, _, weights| {
        let vectors = tensors.vectors();
        assert!(!vectors.are_slices());
        let here = vectors.vector_of(weights.to_vec()).unwrap();
        let mut gradient = vectors.zeros(weights.len()).unwrap();
        let (mut found, mut expected) = (vec![f32::NAN; weights.len()], vec![f32::NAN; weights.len()]);
        let nats = tensors.gradient_of(here.view(), &mut gradient).unwrap();
        vectors.read(gradient.view(), &mut found).unwrap();
        assert_eq!(nats, tensors.gradient(weights, 0..4, &mut expected).unwrap(), "{name}");
        assert!(found == expected, "{name}");
        assert_eq!(tensors.cost_of(here.view()).unwrap(), tensors.cost_at(weights).unwrap(), "{name}");
    });
}

#[test]
fn gradients_in_half_precision_point_the_same_way() {
    for_families(&Device::Cpu, &["llama_untied", "gemma2", "gpt2"], |name, slices, tensors, _, weights| {
        let keeps = OnDevice { center_outputs: CenterOutputs::Logits, direction: true };
        let moving = slices.moving().clone();
        let half = LanguageModelTensorKl::new(slices.model(), moving, &tensors.tokens, keeps, &Device::Cpu, DType::BF16).unwrap();
        let (mut found, mut expected) = (vec![f32::NAN; weights.len()], vec![f32::NAN; weights.len()]);
        let nats = half.gradient(weights, 0..4, &mut found).unwrap();
        let exact = slices.gradient(weights, 0..4, &mut expected).unwrap();
        // Eight bits of weights and activations.
        assert!((nats / exact - 1.0).abs() < 0.05, "{name}: {nats} not {exact}");
        let size = |values: &[f32]| length(values.iter().map(|&x| f64::from(x)));
        let along = found.iter().zip(&expected).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
        let (cosine, ratio) = (along / (size(&found) * size(&expected)), size(&found) / size(&expected));
        assert!(cosine > 0.98 && (ratio - 1.0).abs() < 0.1, "{name}: gradients have the cosine {cosine}, the ratio {ratio}");
    });
}

#[test]
fn moments_of_scores_are_those_of_the_processor() {
    for_families(&Device::Cpu, &["gpt_neox_pythia", "gpt2", "llama_tied_llama3"], |name, slices, tensors, _, weights| {
        let zeros = || -> (Vec<Moments>, Vec<f32>) {
            let moment = |matrix: &DenseMatrix| {
                let square = |width: usize| vec![0.0f32; width * width];
                Moments { inputs: square(matrix.inputs), outputs: square(matrix.outputs) }
            };
            (slices.dense_matrices().iter().map(moment).collect(), vec![0.0; weights.len()])
        };
        assert_eq!(slices.dense_matrices(), tensors.dense_matrices());
        let (mut space, (mut found, mut squares), (mut expected, mut exact)) = (Vec::new(), zeros(), zeros());
        tensors.add_moments(0..1, (2, 3), &mut space, &mut found, &mut squares).unwrap();
        slices.add_moments(0..1, (2, 3), &mut space, &mut expected, &mut exact).unwrap();
        assert!(distance(&squares, &exact) < 1e-3, "{name}");
        assert!(!found.is_empty());
        for (found, expected) in found.iter().zip(&expected) {
            assert!(distance(&found.inputs, &expected.inputs) < 1e-4 && distance(&found.outputs, &expected.outputs) < 1e-3, "{name}");
        }
        for labels in [Labels::Model { probes: 1, seed: 2 }, Labels::Data { rows: None, probes: 1, seed: 2 }] {
            let (mut squares, mut exact) = (vec![0.0f32; weights.len()], vec![0.0f32; weights.len()]);
            tensors.add_squared_scores(1..2, labels, &mut space, &mut squares).unwrap();
            slices.add_squared_scores(1..2, labels, &mut space, &mut exact).unwrap();
            assert!(distance(&squares, &exact) < 1e-3, "{name}, {labels:?}");
        }
    });
}
