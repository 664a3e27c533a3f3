//! Heads, and how queries, keys and values lie in the features of a position.

pub(crate) use crate::nn::attention::AttentionShape;

/// How queries, keys and values lie in the features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    /// In three tensors.
    Separate,
    /// In one: all queries, then all keys, then all values.
    Stacked,
    /// In one: per head its query, key and value.
    Interleaved,
}

/// Rotation of the features `i` and `pairs + i` of every head, per position.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Angles {
    pub(crate) pairs: usize,
    /// Factor of cosines and sines.
    pub(crate) factor: f64,
    /// `[positions, pairs]`.
    pub(crate) angles: Vec<f64>,
}

impl Angles {
    /// Cosines or sines of all angles, times the factor.
    pub(super) fn table(&self, function: fn(f64) -> f64) -> impl Iterator<Item = f64> {
        self.angles.iter().map(move |&angle| function(angle) * self.factor)
    }
}

/// Which of the three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Queries,
    Keys,
    Values,
}

impl AttentionShape {
    /// Distance of positions and the place of a head in the features.
    pub(super) fn place(&self, packing: Packing, part: Part, head: usize) -> (usize, usize) {
        let (all, shared) = (self.heads * self.width, self.key_value_heads * self.width);
        let packed = all + 2 * shared;
        let inside = head * self.width;
        match (packing, part) {
            (Packing::Separate, Part::Queries) => (all, inside),
            (Packing::Separate, _) => (shared, inside),
            (Packing::Stacked, Part::Queries) => (packed, inside),
            (Packing::Stacked, Part::Keys) => (packed, all + inside),
            (Packing::Stacked, Part::Values) => (packed, all + shared + inside),
            (Packing::Interleaved, part) => (packed, 3 * inside + part as usize * self.width),
        }
    }

    /// Heads that share keys and values.
    pub(super) fn group(&self) -> usize {
        self.heads / self.key_value_heads
    }
}
