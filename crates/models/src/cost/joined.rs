//! Sequences that go through a forward and a backward pass together, and what their outputs are compared with.

use std::ops::Range;

use basin_volume_data::tokens::TokenSequences;

use super::draw::uniforms;
use crate::arch::{GradientError, LanguageModel};

/// Some sequences, cut behind the positions that go through the network.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    pub(crate) ids: Vec<u32>,
    pub(crate) lengths: Vec<usize>,
    /// Of every position in the mean; 0 for those that do not count.
    pub(crate) weights: Vec<f32>,
    /// The positions among those of all sequences.
    pub(crate) places: Vec<usize>,
    /// The token that follows, where there is one.
    next: Vec<Option<u32>>,
}

/// What the outputs are compared with.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Compared {
    /// The center's outputs.
    Center,
    /// Labels drawn with this seed.
    Drawn(u64),
    /// The next tokens, every position with a sign drawn with this seed.
    Signed(u64),
}

/// How many of a sequence's positions go through the network: up to the last kept one. Nothing behind it matters to what is before,
/// unless the model turns its positions by the length of the sequence.
pub(crate) fn needed(model: &LanguageModel, kept: &[bool]) -> usize {
    match kept.iter().rposition(|&kept| kept) {
        None => 0,
        Some(_) if model.decoder().depends_on_length() => kept.len(),
        Some(last) => last + 1,
    }
}

/// Calls `visit` with some sequences of `parts` after the other, in order, of at most `together` positions or one sequence; sequences
/// without a kept position are left out.
///
/// # Errors
/// The first of `visit`.
pub(crate) fn for_joined(
    model: &LanguageModel,
    tokens: &TokenSequences,
    parts: Range<usize>,
    together: usize,
    mut visit: impl FnMut(Joined) -> Result<(), GradientError>,
) -> Result<(), GradientError> {
    let weight = 1.0 / tokens.kept_count() as f32;
    let mut joined = Joined::default();
    for part in parts {
        let sequence = tokens.sequence(part);
        let length = needed(model, sequence.kept);
        if !joined.ids.is_empty() && joined.ids.len() + length > together {
            visit(std::mem::take(&mut joined))?;
        }
        if length > 0 {
            joined.ids.extend(&sequence.ids[..length]);
            joined.weights.extend(sequence.kept[..length].iter().map(|&kept| if kept { weight } else { 0.0 }));
            joined.lengths.push(length);
            let first = tokens.offsets()[part];
            joined.places.extend(first..first + length);
            joined.next.extend((0..length).map(|place| sequence.ids.get(place + 1).copied()));
        }
    }
    if joined.ids.is_empty() { Ok(()) } else { visit(joined) }
}

/// A sum over positions with the weights of [`Joined`] as the mean over all `kept` ones: those weights are `1/N` rounded to `f32`.
pub(crate) fn mean_of(total: f64, kept: usize) -> f64 {
    total / (f64::from(1.0 / kept as f32) * kept as f64)
}

impl Joined {
    /// A number in `[0, 1)` for every position, of this seed.
    pub(crate) fn draws(&self, seed: u64) -> Vec<f64> {
        uniforms(seed, self.places.iter().copied())
    }

    /// The next tokens as labels, and the weights with a sign of this seed; 0 where nothing follows.
    pub(crate) fn signed(&self, seed: u64) -> (Vec<u32>, Vec<f32>) {
        let sign = |draw: f64| if draw < 0.5 { -1.0 } else { 1.0 };
        let weight = |((weight, next), draw): ((&f32, &Option<u32>), f64)| next.map_or(0.0, |_| weight * sign(draw));
        let weights = self.weights.iter().zip(&self.next).zip(self.draws(seed)).map(weight).collect();
        (self.next.iter().map(|next| next.unwrap_or(0)).collect(), weights)
    }
}
