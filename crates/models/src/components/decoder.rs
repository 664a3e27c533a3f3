//! The parts of a language model, read off the places where its forward pass finds its tensors: one declaration for all families.

use std::ops::Range;

use super::tree::{Part, everywhere};
use crate::arch::decoder::{Attention, Decoder, Heads, Inner, Layer, Linear, Norm, Projection};
use crate::parameters::cells::Intervals;
use crate::parameters::{Chosen, ParameterLayout};

/// Layers (with attention, multilayer perceptron, norms, heads and groups of heads), embedding, norms, unembedding.
///
/// The parts `embed`, `attn` and `mlp` of all layers, `norms` and `unembed` (part of `embed` where they are tied) have every weight once. The norms of queries and keys are part of
/// the attention.
pub(super) fn tree(decoder: &Decoder, layout: &ParameterLayout) -> Vec<Part> {
    let place = Places { layout, heads: decoder.heads };
    let mut parts: Vec<Part> = decoder.layers.iter().enumerate().map(|(number, layer)| place.layer(number, layer)).collect();
    let mut embed = place.range(&decoder.embedding);
    if let Some((positions, _)) = &decoder.learned_positions {
        embed.extend(&place.range(positions));
    }
    decoder.project_in.iter().for_each(|linear| embed.extend(&place.linear(linear)));
    let mut norms = everywhere("norms", &parts).map(|part| part.chosen).unwrap_or_default();
    decoder.final_norm.iter().for_each(|norm| norms.extend(&place.norm(norm)));
    let others = ["attn", "mlp"].map(|word| everywhere(word, &parts));
    // What a head has beside the embedding's weights is moved with them.
    let is_tied = decoder.head.weight == decoder.embedding;
    let mut unembed = if is_tied { Chosen::default() } else { place.range(&decoder.head.weight) };
    decoder.head.bias.iter().for_each(|bias| unembed.extend(&place.range(bias)));
    decoder.project_out.iter().for_each(|linear| unembed.extend(&place.linear(linear)));
    if is_tied {
        embed.extend(&unembed);
    }
    parts.push(Part::new("embed", embed));
    parts.extend(others.into_iter().flatten());
    if norms.count() > 0 {
        parts.push(Part::new("norms", norms));
    }
    parts.push(if is_tied { Part::tied("unembed", "embed") } else { Part::new("unembed", unembed) });
    parts
}

struct Places<'a> {
    layout: &'a ParameterLayout,
    heads: Heads,
}

impl Places<'_> {
    fn range(&self, range: &Range<usize>) -> Chosen {
        Chosen::of_range(self.layout, range)
    }

    fn linear(&self, linear: &Linear) -> Chosen {
        let mut chosen = self.range(&linear.weight);
        linear.bias.iter().for_each(|bias| chosen.extend(&self.range(bias)));
        chosen
    }

    fn norm(&self, norm: &Norm) -> Chosen {
        let mut chosen = Chosen::default();
        norm.weight.iter().chain(&norm.bias).for_each(|range| chosen.extend(&self.range(range)));
        chosen
    }

    /// What makes some of a dense layer's outputs: their weights and biases.
    fn outputs(&self, linear: &Linear, outputs: &Intervals) -> Chosen {
        let inputs = (0..linear.inputs).into();
        let (rows, columns) = if linear.transposed { (&inputs, outputs) } else { (outputs, &inputs) };
        let mut chosen = Chosen::of_block(self.layout, linear.weight.start, rows, columns);
        if let Some(bias) = &linear.bias {
            chosen.extend(&Chosen::of_block(self.layout, bias.start, outputs, &(0..1).into()));
        }
        chosen
    }

    /// What a dense layer reads some of its inputs with. Its bias belongs to none of them.
    fn inputs(&self, linear: &Linear, inputs: &Intervals) -> Chosen {
        let outputs = (0..linear.outputs).into();
        let (rows, columns) = if linear.transposed { (inputs, &outputs) } else { (&outputs, inputs) };
        Chosen::of_block(self.layout, linear.weight.start, rows, columns)
    }

    fn layer(&self, number: usize, layer: &Layer) -> Part {
        let mut norms = Chosen::default();
        for norm in [&layer.before_attention, &layer.after_attention, &layer.before_mlp, &layer.after_mlp].into_iter().flatten() {
            norms.extend(&self.norm(norm));
        }
        let attention = self.attention(&layer.attention);
        let mut mlp = self.linear(&layer.down);
        match &layer.inner {
            Inner::Plain(linear) | Inner::Stacked(linear) => mlp.extend(&self.linear(linear)),
            Inner::Gated { gate, up } => [gate, up].into_iter().for_each(|linear| mlp.extend(&self.linear(linear))),
        }
        let mut whole = attention.clone();
        whole.extend(&mlp);
        whole.extend(&norms);
        let mut parts = vec![Part::new("attn", attention), Part::new("mlp", mlp)];
        if norms.count() > 0 {
            parts.push(Part::new("norms", norms));
        }
        let (heads, keys) = (self.heads.queries, self.heads.keys);
        parts.extend((0..heads).map(|head| Part::numbered("h", head, self.head(&layer.attention, head..head + 1))));
        if keys < heads {
            let group = heads / keys;
            let of_group = |number: usize| self.head(&layer.attention, number * group..(number + 1) * group);
            parts.extend((0..keys).map(|number| Part::numbered("g", number, of_group(number))));
        }
        Part::numbered("l", number, whole).with(parts)
    }

    fn attention(&self, attention: &Attention) -> Chosen {
        let mut chosen = self.linear(&attention.output);
        attention.projection.layers().for_each(|linear| chosen.extend(&self.linear(linear)));
        attention.query_norm.iter().chain(&attention.key_norm).for_each(|norm| chosen.extend(&self.norm(norm)));
        chosen
    }

    /// What some heads of queries are made of: their queries, the keys and values that they read (which other heads may read too), and what
    /// the output reads of them. Of the norms of queries and keys the factors that are theirs alone.
    fn head(&self, attention: &Attention, queries: Range<usize>) -> Chosen {
        let (width, count) = (self.heads.width, self.heads.queries);
        let keys = self.heads.shared(queries.start)..self.heads.shared(queries.end - 1) + 1;
        let features = |heads: &Range<usize>, start: usize| start + heads.start * width..start + heads.end * width;
        let mut chosen = self.inputs(&attention.output, &features(&queries, 0).into());
        match &attention.projection {
            Projection::Separate { query, key, value } => {
                chosen.extend(&self.outputs(query, &features(&queries, 0).into()));
                [key, value].into_iter().for_each(|linear| chosen.extend(&self.outputs(linear, &features(&keys, 0).into())));
            }
            Projection::Stacked(linear) => {
                let (first, second) = (count * width, (count + self.heads.keys) * width);
                let ranges = [features(&queries, 0), features(&keys, first), features(&keys, second)];
                chosen.extend(&self.outputs(linear, &Intervals::new(ranges)));
            }
            // Query, key and value of a head stand together.
            Projection::Interleaved(linear) => {
                chosen.extend(&self.outputs(linear, &(queries.start * 3 * width..queries.end * 3 * width).into()));
            }
        }
        for (norm, own) in [(&attention.query_norm, &queries), (&attention.key_norm, &keys)] {
            for range in norm.iter().flat_map(|norm| norm.weight.iter().chain(&norm.bias)).filter(|range| range.len() > width) {
                chosen.extend(&self.range(&(range.start + own.start * width..range.start + own.end * width)));
            }
        }
        chosen
    }
}
