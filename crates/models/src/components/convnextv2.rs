//! The parts of a ConvNeXt V2, read off the places of its tensors.

use super::tree::Part;
use crate::arch::ConvNextV2Config;
use crate::arch::convnextv2::{Pair, Places};
use crate::parameters::{Chosen, ParameterLayout};

/// Stages (with blocks and the reduction before them), stem, norms, classifier. Numbers are those of the tensors' names, from 0.
pub(super) fn tree(network: &ConvNextV2Config, layout: &ParameterLayout) -> Vec<Part> {
    let places = Places::new(network);
    let of = |pairs: &[&Pair]| {
        let mut chosen = Chosen::default();
        pairs.iter().flat_map(|pair| [&pair.weight, &pair.bias]).for_each(|range| chosen.extend(&Chosen::of_range(layout, range)));
        chosen
    };
    let mut norms = of(&[&places.patch_norm, &places.norm]);
    let mut parts = Vec::new();
    for (number, stage) in places.stages.iter().enumerate() {
        let mut whole = Chosen::default();
        let mut children = Vec::new();
        if let Some((norm, convolution)) = &stage.reduction {
            norms.extend(&of(&[norm]));
            children.push(Part::new("reduction", of(&[norm, convolution])));
        }
        for (number, block) in stage.blocks.iter().enumerate() {
            norms.extend(&of(&[&block.norm]));
            let own = of(&[&block.depthwise, &block.norm, &block.up, &block.response, &block.down]);
            children.push(Part::numbered("block", number, own));
        }
        children.iter().for_each(|child| whole.extend(&child.chosen));
        parts.push(Part::numbered("stage", number, whole).with(children));
    }
    parts.push(Part::new("stem", of(&[&places.patch, &places.patch_norm])));
    parts.push(Part::new("norms", norms));
    parts.push(Part::new("classifier", of(&[&places.head])));
    parts
}
