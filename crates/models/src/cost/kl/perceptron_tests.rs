//! Perceptrons as PyTorch saves them: names, order, activations, logits and gradients are those of torch.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use basin_volume::fisher::{DifferenceProducts, FisherMatrix};
use basin_volume::objective::Differentiable;
use safetensors::{Dtype, SafeTensors};

use super::*;
use crate::arch::Network;
use crate::checkpoint::Checkpoint;
use crate::curvature::Scores;

const CASES: [&str; 5] = ["relu", "gelu", "gelu_tanh", "tanh", "silu"];

fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/perceptrons").join(case)
}

fn tensors(case: &str) -> HashMap<String, Vec<f64>> {
    let bytes = std::fs::read(folder(case).join("rows.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |name: &str| {
        let view = file.tensor(name).unwrap();
        match view.dtype() {
            Dtype::F32 => view.data().as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
            Dtype::F64 => view.data().as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
            other => panic!("{name} is {other:?}"),
        }
    };
    file.names().into_iter().map(|name| (name.to_owned(), numbers(name))).collect()
}

#[test]
fn logits_divergence_and_gradient_are_those_of_torch() {
    for case in CASES {
        let checkpoint = Checkpoint::load(&folder(case)).unwrap();
        let Network::Perceptron(network) = checkpoint.architecture.network() else { panic!("{case} is no perceptron") };
        assert_eq!(network.widths(), [6, 9, 7, 4], "{case}");
        assert!(checkpoint.notes.iter().any(|note| note.contains("its layers in order are")), "{case}: {:?}", checkpoint.notes);
        let golden = tensors(case);
        let data = basin_volume_data::tensors::read(&folder(case).join("rows.safetensors")).unwrap();
        let center = checkpoint.parameters.values();
        let moved: Vec<f32> = center.iter().enumerate().map(|(i, w)| w + (0.1 * (7.0 * i as f64).sin()) as f32).collect();
        for (weights, name) in [(&*center, "logits"), (&moved, "moved_logits")] {
            let found = data.inputs().chunks(6).flat_map(|row| network.logits_exact(weights, row));
            for (found, expected) in found.zip(&golden[name]) {
                // The golden logits of the center are in f32, and so are the moved weights.
                assert!((found - expected).abs() < 3e-7 * expected.abs().max(1.0), "{case}, {name}: {found} not {expected}");
            }
        }
        let cost = MlpKl::new(network.clone(), checkpoint.parameters.clone(), &data).unwrap();
        let mut gradient = vec![0.0f32; moved.len()];
        cost.gradient(&moved, 0..cost.parts(), &mut gradient).unwrap();
        let nats = cost.cost_at(&moved).unwrap().nats;
        let expected = golden["divergence"][0];
        assert!((nats / expected - 1.0).abs() < 1e-5, "{case}: {nats} not {expected}");
        // The layout has the layers in their order, the file in that of names.
        let notes = checkpoint.notes.join(" ");
        let mut layers: Vec<&str> = golden.keys().filter_map(|name| name.strip_prefix("gradient.")?.strip_suffix(".weight")).collect();
        layers.sort_by_key(|name| notes.find(&format!("{name} (")).unwrap());
        let expected: Vec<f64> = layers
            .iter()
            .flat_map(|layer| ["weight", "bias"].map(|part| &golden[&format!("gradient.{layer}.{part}")]))
            .flatten()
            .copied()
            .collect();
        let length = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
        let error = gradient.iter().zip(&expected).map(|(&x, y)| (f64::from(x) - y).powi(2)).sum::<f64>().sqrt();
        assert!(error < 1e-5 * length, "{case}: the gradient is off by {} of its length", error / length);
    }
}

#[test]
fn products_with_the_fisher_matrix_are_those_by_differences() {
    // The derivative of relu jumps, so that a difference is another number where a unit is near zero.
    for case in ["gelu", "gelu_tanh", "tanh", "silu"] {
        let checkpoint = Checkpoint::load(&folder(case)).unwrap();
        let Network::Perceptron(network) = checkpoint.architecture.network() else { panic!("{case} is no perceptron") };
        let data = basin_volume_data::tensors::read(&folder(case).join("rows.safetensors")).unwrap();
        let cost = MlpKl::new(network.clone(), checkpoint.parameters.clone(), &data).unwrap();
        let v: Vec<f32> = (0..network.layout().dimension()).map(|i| (3.0 * i as f32).cos()).collect();
        let (mut exact, mut differences) = (vec![0.0f32; v.len()], vec![0.0f32; v.len()]);
        cost.fisher_matrix().unwrap().product(&v, &mut exact).unwrap();
        DifferenceProducts::new(&cost, 1e-2).unwrap().product(&v, &mut differences).unwrap();
        let length = exact.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let error = exact.iter().zip(&differences).map(|(&x, &y)| f64::from(x - y).powi(2)).sum::<f64>().sqrt();
        assert!(error < 1e-3 * length, "{case}: off by {} of the length", error / length);
    }
}
