//! The parts of a perceptron: its layers.

use super::tree::Part;
use crate::arch::MlpConfig;
use crate::parameters::{Chosen, ParameterLayout};

/// Layers, each its matrix and biases.
pub(super) fn tree(network: &MlpConfig, layout: &ParameterLayout) -> Vec<Part> {
    let mut start = 0;
    let layers = network.widths().windows(2).enumerate().map(|(number, pair)| {
        let range = start..start + (pair[0] + 1) * pair[1];
        start = range.end;
        Part::numbered("l", number, Chosen::of_range(layout, &range))
    });
    layers.collect()
}
