//! Every format against the values that PyTorch and llama.cpp's own Python package read from the same files.

use std::path::PathBuf;

use ::safetensors::SafeTensors;

use super::*;
use crate::parameters::{ParameterLayout, Parameters};

mod binding;
mod downloads;
mod formats;
mod gguf_models;
mod hostile;
mod wrapped;

/// A fixture of scripts/fixtures/weights.py.
fn golden(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/weights")).join(name)
}

/// What a fixture holds: name, shape and values.
fn expected(name: &str) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let bytes = std::fs::read(golden(&format!("{name}.expected.safetensors"))).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let decode = |data: &[u8]| data.as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word)).collect();
    tensors.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec(), decode(view.data()))).collect()
}

/// Asserts that a message is one sentence that contains what is expected.
fn assert_sentence(message: &str, expected: &str) {
    assert!(message.contains(expected), "`{message}` should contain `{expected}`");
    assert!(!message.contains('\n') && message.len() < 1000, "{message}");
}

/// A layout with the tensors of a fixture, in the order of their names.
fn layout_of(name: &str) -> ParameterLayout {
    let mut tensors: Vec<_> = expected(name).into_iter().map(|(name, shape, _)| (name, shape)).collect();
    tensors.sort();
    ParameterLayout::new(tensors)
}

/// The flat vector of such a layout.
fn flat_of(name: &str) -> Parameters {
    let layout = layout_of(name);
    let mut tensors = expected(name);
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    Parameters::new(layout, tensors.into_iter().flat_map(|(_, _, values)| values).collect())
}
