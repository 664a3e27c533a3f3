//! Causal language models: a decoder with its settings and the order of its tensors.

mod gradient;

use std::sync::Arc;

use serde_json::{Map, Value};

use super::decoder::{Batch, Builder, Decoder, Settings, Workspace, logits_exact};
use super::{Architecture, ArchitectureError, Network};
use crate::parameters::ParameterLayout;
use crate::products::product;

pub use gradient::GradientError;
#[cfg(feature = "tensors")]
pub(crate) use gradient::fits;
pub(crate) use gradient::{GradientSpace, Rows, Sequences, Target, TokenBatch};

/// Keys of a checkpoint's `config.json` that do not describe the network.
const OTHER_KEYS: [&str; 3] = ["model_type", "format", "training"];

/// A causal language model without its weights.
#[derive(Debug, Clone)]
pub struct LanguageModel {
    model_type: &'static str,
    settings: Map<String, Value>,
    pub(crate) layout: ParameterLayout,
    decoder: Decoder,
}

/// Why a language model refuses its input. Every message is one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The lengths are not those of the ids.
    #[error("the sequences have {lengths} tokens together but {ids} token ids are given")]
    Lengths {
        /// Sum of the lengths.
        lengths: usize,
        /// Number of ids.
        ids: usize,
    },
    /// A sequence without tokens.
    #[error("sequence {sequence} is empty: every sequence needs at least one token")]
    Empty {
        /// Its number, from 0.
        sequence: usize,
    },
    /// A token that the model does not know.
    #[error("token {id} at position {position} is not in the vocabulary of {vocabulary}: use the model's own tokenizer")]
    Vocabulary {
        /// The id.
        id: u32,
        /// Its position in the joined sequences.
        position: usize,
        /// Number of tokens the model knows.
        vocabulary: usize,
    },
    /// A sequence longer than the model's positions.
    #[error("sequence {sequence} has {length} tokens but the model has {positions} positions: cut it shorter")]
    Positions {
        /// Its number, from 0.
        sequence: usize,
        /// Its length.
        length: usize,
        /// What the model takes.
        positions: usize,
    },
}

impl LanguageModel {
    pub(super) fn shared(
        model_type: &'static str,
        config: &Value,
        builder: Builder,
        decoder: Decoder,
    ) -> Result<Arc<dyn Architecture>, ArchitectureError> {
        Settings(config).expect_ordinary()?;
        let mut settings = config.as_object().cloned().unwrap_or_default();
        OTHER_KEYS.iter().for_each(|key| _ = settings.remove(*key));
        Ok(Arc::new(Self { model_type, settings, layout: builder.finish()?, decoder }))
    }

    pub(crate) fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Number of weights.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.layout.dimension()
    }

    /// Number of tokens the model knows.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.decoder.vocabulary
    }

    /// Length of the longest sequence it takes.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.decoder.positions
    }

    /// Width of the states between layers.
    #[must_use]
    pub fn hidden(&self) -> usize {
        self.decoder.hidden
    }

    /// Checks token ids, `lengths` of the sequences one after the other in `ids`.
    ///
    /// # Errors
    /// When the lengths do not add up, a sequence is empty or too long, or an id is not in the vocabulary.
    pub fn check(&self, ids: &[u32], lengths: &[usize]) -> Result<(), TokenError> {
        let sum = lengths.iter().try_fold(0usize, |sum, &length| sum.checked_add(length)).unwrap_or(usize::MAX);
        if sum != ids.len() {
            return Err(TokenError::Lengths { lengths: sum, ids: ids.len() });
        }
        for (sequence, &length) in lengths.iter().enumerate() {
            if length == 0 {
                return Err(TokenError::Empty { sequence });
            }
            if length > self.decoder.positions {
                return Err(TokenError::Positions { sequence, length, positions: self.decoder.positions });
            }
        }
        let vocabulary = self.decoder.vocabulary;
        match ids.iter().position(|&id| id as usize >= vocabulary) {
            Some(position) => Err(TokenError::Vocabulary { id: ids[position], position, vocabulary }),
            None => Ok(()),
        }
    }

    /// Logits of every position, row-major `[tokens, vocabulary]`, of sequences of the given lengths, one after the other in `ids`.
    /// `weights` are flat, in the layout's order.
    ///
    /// # Errors
    /// As [`LanguageModel::check`].
    ///
    /// # Panics
    /// If `weights` has another length than the layout says.
    pub fn logits(&self, weights: &[f32], ids: &[u32], lengths: &[usize]) -> Result<Vec<f32>, TokenError> {
        assert_eq!(weights.len(), self.layout.dimension(), "as many weights as the layout says");
        self.check(ids, lengths)?;
        let decoder = &self.decoder;
        let batch = Batch::new(decoder, ids, lengths);
        let mut workspace = Workspace::default();
        let outputs = decoder.forward(weights, &batch, &mut workspace);
        let vocabulary = decoder.vocabulary;
        let mut logits = vec![0.0f32; ids.len() * vocabulary];
        let head = &weights[decoder.head.weight.clone()];
        let mut tile = Vec::new();
        for block in &batch.blocks {
            let columns = block.columns;
            tile.resize(vocabulary * columns, 0.0);
            let inputs = &outputs[Batch::part(block, decoder.head_inputs())];
            product(&mut tile, head, inputs, vocabulary, decoder.head_inputs(), columns);
            decoder.finish_logits(decoder.head.bias.as_ref().map(|range| &weights[range.clone()]), &mut tile, columns);
            for (token, row) in tile.chunks_exact(columns).enumerate() {
                for (column, value) in row[..block.count].iter().enumerate() {
                    logits[(block.start + column) * vocabulary + token] = *value;
                }
            }
        }
        Ok(logits)
    }

    /// [`LanguageModel::logits`] of one sequence in `f64` with plain loops: slow, the oracle of everything else.
    ///
    /// # Errors
    /// As [`LanguageModel::check`].
    ///
    /// # Panics
    /// If `weights` has another length than the layout says.
    pub fn logits_exact(&self, weights: &[f32], ids: &[u32]) -> Result<Vec<f64>, TokenError> {
        assert_eq!(weights.len(), self.layout.dimension(), "as many weights as the layout says");
        self.check(ids, &[ids.len()])?;
        Ok(logits_exact(&self.decoder, weights, ids))
    }

    /// Bytes of the activations of a forward pass over `count` positions in sequences of at most `longest`, on `threads` threads.
    /// Linear in both lengths; the logits are not included.
    #[must_use]
    pub(crate) fn activation_bytes(&self, count: usize, longest: usize, threads: usize) -> usize {
        Workspace::bytes(&self.decoder, count, longest, threads)
    }
}

impl Architecture for LanguageModel {
    fn model_type(&self) -> &'static str {
        self.model_type
    }

    fn layout(&self) -> ParameterLayout {
        self.layout.clone()
    }

    fn settings(&self) -> Map<String, Value> {
        self.settings.clone()
    }

    fn network(&self) -> Network<'_> {
        Network::Tokens(self)
    }
}

#[cfg(test)]
mod tests;
