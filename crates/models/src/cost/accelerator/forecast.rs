//! What a device has to hold, forecast from the shape of the network and the sequences.

use basin_volume_data::tokens::TokenSequences;

use super::{LOGITS, OnDevice, PIECE, POSITIONS, Precision};
use crate::arch::LanguageModel;
use crate::cost::CenterOutputs;
use crate::cost::language_model_kl::grouped;
use crate::parameters::Moving;
use crate::weights::Element;

/// Arrays of the size of a tile of logits that exist at once while a divergence is computed.
const TILES: u64 = 12;

/// Arrays of `[heads, length, length]` in `f32` at once in attention without a gradient, and those that a gradient keeps.
const SCORES: (u64, u64) = (4, 7);

/// Most positions of a tile.
const COLUMNS: usize = 128;

/// Bytes of the logits of a tile, for large vocabularies.
const TILE_BYTES: usize = 32 << 20;

/// Positions of a tile for a vocabulary: a multiple of 16.
pub(crate) fn tile_columns(vocabulary: usize) -> usize {
    (TILE_BYTES / (4 * vocabulary) / 16 * 16).clamp(16, COLUMNS)
}

/// Sizes that decide what a device has to hold.
#[derive(Debug, Clone)]
pub(crate) struct DeviceForecast {
    /// Bytes of the center as it is stored.
    pub(crate) center: u64,
    /// All weights, those that move, and those of the largest tensor.
    pub(crate) weights: u64,
    pub(crate) moving: u64,
    pub(crate) largest: u64,
    /// Bytes of a weight and of an activation.
    pub(crate) size: u64,
    /// Sequences: positions that count, all of them, the longest, and the most that go through the network together, without and with a
    /// gradient.
    pub(crate) kept: u64,
    pub(crate) positions: u64,
    pub(crate) longest: u64,
    pub(crate) together: (u64, u64),
    /// Gradients that are computed at once; none for rays alone.
    pub(crate) gradients: Option<u64>,
    /// Bytes of the vectors of chains.
    pub(crate) vectors: u64,
}

impl DeviceForecast {
    pub(crate) fn new(
        model: &LanguageModel,
        moving: &Moving,
        tokens: &TokenSequences,
        precision: Precision,
        gradients: Option<u64>,
    ) -> Self {
        let center = moving.center();
        let parameters = center.layout().parameters();
        let bytes = |(number, len): (usize, usize)| len as u64 * if center.held_as(number) == Element::F32 { 4 } else { 2 };
        let lengths: Vec<usize> = tokens.iter().map(|sequence| sequence.ids.len()).collect();
        let most = grouped(&lengths).into_iter().map(|group| lengths[group].iter().sum::<usize>()).max().unwrap_or(0);
        let most_with_gradient = tokens.ids().len().min(POSITIONS.max(tokens.longest()));
        Self {
            center: parameters.iter().map(|parameter| parameter.len()).enumerate().map(bytes).sum(),
            weights: model.dimension() as u64,
            moving: moving.dimension() as u64,
            largest: parameters.iter().map(|parameter| parameter.len() as u64).max().unwrap_or(0),
            size: precision.bytes() as u64,
            kept: tokens.kept_count() as u64,
            positions: tokens.ids().len() as u64,
            longest: tokens.longest() as u64,
            together: (most as u64, most_with_gradient as u64),
            gradients,
            vectors: 0,
        }
    }

    /// Bytes of the center's logits.
    pub(crate) fn logits(&self, model: &LanguageModel) -> u64 {
        4 * self.kept * model.vocabulary() as u64
    }

    /// Everything, by name.
    pub(crate) fn items(&self, model: &LanguageModel, keeps: OnDevice) -> Vec<(&'static str, u64)> {
        let decoder = model.decoder();
        let width = decoder.head_inputs() as u64;
        let at_once = self.gradients.unwrap_or(1).max(1);
        let piece = self.largest.min(PIECE as u64);
        let outputs = match keeps.center_outputs {
            CenterOutputs::Logits => ("center's logits", self.logits(model)),
            CenterOutputs::States => ("center's hidden states", self.size * self.kept * width),
        };
        let direction = if keeps.direction { ("direction", 4 * self.moving) } else { ("a block of the direction", 4 * piece) };
        // Double precision in between, and the largest tensor as a whole.
        let combined = 40 * piece + self.size * self.largest;
        let head = if keeps.center_outputs == CenterOutputs::States { self.size * self.head(model) } else { 0 };
        let mut all = vec![
            ("center as stored", self.center),
            ("weights along the ray", at_once * self.size * self.weights),
            direction,
            outputs,
            ("what is being computed", combined.max(self.evaluation(model) + head)),
        ];
        all.push(("states of chains", self.vectors));
        if self.gradients.is_some() {
            // The sums, and those of the sequences at hand.
            all.push(("gradients", at_once * 2 * 4 * self.moving));
            all.push(("center's states at all positions", self.size * self.positions * width));
            all.push(("activations with gradients", at_once * (self.backward(model) + self.size * self.head(model))));
        }
        all
    }

    fn head(&self, model: &LanguageModel) -> u64 {
        (model.vocabulary() * model.decoder().head_inputs()) as u64
    }

    /// Features between embedding and head: hidden, of queries, of keys, and the inner ones; and the number of layers.
    fn features(model: &LanguageModel) -> [u64; 5] {
        let decoder = model.decoder();
        let inner = decoder.layers.iter().map(|layer| layer.down.inputs).max().unwrap_or(0);
        [decoder.hidden, decoder.heads.query_width(), decoder.heads.key_width(), inner, decoder.layers.len()].map(|count| count as u64)
    }

    /// A forward pass without a gradient: one layer at a time, then a tile of logits.
    fn evaluation(&self, model: &LanguageModel) -> u64 {
        let [hidden, queries, keys, inner, _] = Self::features(model);
        let positions = self.together.0;
        let attention = self.size * positions * (3 * hidden + 6 * queries + 3 * keys) + SCORES.0 * self.scores(model, positions);
        let multilayer = self.size * positions * (4 * hidden + 4 * inner);
        let norms = 4 * positions * 4 * hidden;
        let vocabulary = model.vocabulary() as u64;
        let tile = 4 * vocabulary * self.kept.min((LOGITS as u64 / vocabulary).max(1));
        (attention.max(multilayer) + norms).max(TILES * tile + self.size * positions * hidden)
    }

    /// All that a backward pass needs of the positions that go through together.
    fn backward(&self, model: &LanguageModel) -> u64 {
        let [hidden, queries, keys, inner, layers] = Self::features(model);
        let positions = self.together.1;
        let norms = 4 * positions * 12 * hidden;
        let features = self.size * positions * (6 * hidden + 12 * queries + 9 * keys + 8 * inner);
        let layer = norms + features + SCORES.1 * self.scores(model, positions);
        let vocabulary = model.vocabulary() as u64;
        // The head has its gradient in single precision, and its matrix too.
        let head = 4 * TILES * vocabulary * tile_columns(model.vocabulary()) as u64 + 4 * 4 * self.head(model);
        // A layer's own gradients come on top.
        layer * (layers + 1) + head
    }

    /// One array of scores of all heads.
    fn scores(&self, model: &LanguageModel, positions: u64) -> u64 {
        4 * model.decoder().heads.queries as u64 * positions * self.longest
    }
}
