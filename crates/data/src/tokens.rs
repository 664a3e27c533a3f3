//! Sequences of token ids: what a language model is evaluated on.
//!
//! [`read_text`] takes them from documents, [`read_json`] from a file of ids. No padding is stored.

mod error;
mod json;
mod read;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use error::TokensError;
pub use json::{is_token_file, read_json};
pub use read::{ReadSettings, Reading, SequenceCount, TextReport, read_documents, read_documents_within, read_text};

/// Which positions of a sequence count in the mean.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// Every position whose input token is not the pad token.
    #[default]
    All,
    /// Of those, the last of every sequence.
    Last,
}

/// What the model can take: checked once, here, so that no evaluation meets an id or a length it has no weights for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelLimits {
    /// Rows of the embedding: ids are below this.
    pub vocabulary: usize,
    /// Positions the model has, if it has a limit.
    pub positions: Option<usize>,
}

/// Where sequences came from, for the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Provenance {
    /// Documents through a tokenizer.
    Text(Box<TextReport>),
    /// Ids given as such.
    Ids,
}

/// Checked token sequences: at least one, none empty, at least one position kept, ids and lengths within the model's limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSequences {
    name: String,
    ids: Vec<u32>,
    offsets: Vec<usize>,
    kept: Vec<bool>,
    positions: Positions,
    pad: Option<u32>,
    provenance: Provenance,
}

/// One sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenSequence<'a> {
    /// The ids.
    pub ids: &'a [u32],
    /// For every position, whether it counts in the mean.
    pub kept: &'a [bool],
}

impl TokenSequences {
    /// Checks sequences and marks the kept positions: all, or the last, of those whose input token is not `pad`. A sequence of pad
    /// tokens only is legal as long as another one has a position that counts. `name` appears in messages.
    ///
    /// # Errors
    /// When there is no sequence, one is empty or longer than the model's positions, an id is outside the vocabulary, or no position
    /// counts.
    pub fn new(
        name: impl Into<String>,
        sequences: impl IntoIterator<Item = Vec<u32>>,
        limits: ModelLimits,
        pad: Option<u32>,
        positions: Positions,
        provenance: Provenance,
    ) -> Result<Self, TokensError> {
        let name = name.into();
        let (mut ids, mut offsets, mut kept) = (Vec::new(), vec![0], Vec::new());
        for (index, sequence) in sequences.into_iter().enumerate() {
            let number = index + 1;
            if sequence.is_empty() {
                return Err(TokensError::EmptySequence { name, sequence: number });
            }
            if let Some(positions) = limits.positions.filter(|&positions| sequence.len() > positions) {
                return Err(TokensError::TooLong { name, sequence: number, length: sequence.len(), positions });
            }
            if let Some(position) = sequence.iter().position(|&id| id as usize >= limits.vocabulary) {
                let (id, vocabulary) = (u64::from(sequence[position]), limits.vocabulary);
                return Err(TokensError::OutsideVocabulary { name, sequence: number, position: position + 1, id, vocabulary });
            }
            let start = kept.len();
            kept.extend(sequence.iter().map(|&id| Some(id) != pad));
            if positions == Positions::Last
                && let Some(last) = kept[start..].iter().rposition(|&kept| kept)
            {
                kept[start..start + last].fill(false);
            }
            ids.extend(sequence);
            offsets.push(ids.len());
        }
        if ids.is_empty() {
            return Err(TokensError::NoSequences { name });
        }
        if let Some(pad) = pad.filter(|_| !kept.contains(&true)) {
            return Err(TokensError::OnlyPadding { name, pad });
        }
        Ok(Self { name, ids, offsets, kept, positions, pad, provenance })
    }

    /// File or folder the sequences came from, for messages and manifests.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of sequences.
    #[must_use]
    pub fn count(&self) -> usize {
        self.offsets.len() - 1
    }

    /// One sequence.
    ///
    /// # Panics
    /// If there is no such sequence.
    #[must_use]
    pub fn sequence(&self, index: usize) -> TokenSequence<'_> {
        let range = self.offsets[index]..self.offsets[index + 1];
        TokenSequence { ids: &self.ids[range.clone()], kept: &self.kept[range] }
    }

    /// All sequences in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = TokenSequence<'_>> {
        (0..self.count()).map(|index| self.sequence(index))
    }

    /// The ids of all sequences, one after the other.
    #[must_use]
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Where each sequence begins in [`TokenSequences::ids`], and at the end the number of ids.
    #[must_use]
    pub fn offsets(&self) -> &[usize] {
        &self.offsets
    }

    /// For every id, whether its position counts in the mean.
    #[must_use]
    pub fn kept(&self) -> &[bool] {
        &self.kept
    }

    /// Number of positions that count.
    #[must_use]
    pub fn kept_count(&self) -> usize {
        self.kept.iter().filter(|&&kept| kept).count()
    }

    /// Length of the longest sequence.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.offsets.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
    }

    /// Which positions were asked for.
    #[must_use]
    pub fn positions(&self) -> Positions {
        self.positions
    }

    /// The pad token whose positions were left out.
    #[must_use]
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    /// Where the sequences came from.
    #[must_use]
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// SHA-256, in hexadecimal, of the number of sequences and their lengths (little-endian `u64`), the ids (little-endian `u32`) and
    /// the kept positions (a byte each, 0 or 1): all that the cost depends on.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update((self.count() as u64).to_le_bytes());
        for pair in self.offsets.windows(2) {
            hasher.update(((pair[1] - pair[0]) as u64).to_le_bytes());
        }
        for id in &self.ids {
            hasher.update(id.to_le_bytes());
        }
        for &kept in &self.kept {
            hasher.update([u8::from(kept)]);
        }
        crate::dataset::hexadecimal(&hasher.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ModelLimits = ModelLimits { vocabulary: 10, positions: Some(4) };

    fn build(sequences: &[&[u32]], pad: Option<u32>, positions: Positions) -> Result<TokenSequences, TokensError> {
        let sequences = sequences.iter().map(|sequence| sequence.to_vec());
        TokenSequences::new("d", sequences, LIMITS, pad, positions, Provenance::Ids)
    }

    #[test]
    fn sequences_lie_one_after_the_other() {
        let tokens = build(&[&[1, 2, 3], &[9], &[4, 5, 6, 7]], None, Positions::All).unwrap();
        assert_eq!((tokens.count(), tokens.longest(), tokens.kept_count()), (3, 4, 8));
        assert_eq!(tokens.offsets(), [0, 3, 4, 8]);
        assert_eq!(tokens.ids(), [1, 2, 3, 9, 4, 5, 6, 7]);
        let lengths: Vec<_> = tokens.iter().map(|sequence| (sequence.ids.len(), sequence.kept.len())).collect();
        assert_eq!(lengths, [(3, 3), (1, 1), (4, 4)]);
    }

    #[test]
    fn pad_tokens_and_positions_decide_what_is_kept() {
        let sequences: [&[u32]; 3] = [&[0, 2, 0, 3], &[2, 3, 0], &[0, 0]];
        let kept = |pad, positions| build(&sequences, pad, positions).unwrap().kept().iter().map(|&k| u8::from(k)).collect::<Vec<_>>();
        assert_eq!(kept(None, Positions::All), [1; 9]);
        assert_eq!(kept(Some(0), Positions::All), [0, 1, 0, 1, 1, 1, 0, 0, 0]);
        assert_eq!(kept(None, Positions::Last), [0, 0, 0, 1, 0, 0, 1, 0, 1]);
        assert_eq!(kept(Some(0), Positions::Last), [0, 0, 0, 1, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn the_hash_sees_ids_lengths_and_kept_positions() {
        let sequences: [&[u32]; 2] = [&[1, 2], &[3]];
        let base = build(&sequences, None, Positions::All).unwrap().hash();
        // Computed with Python: sha256(struct.pack("<3Q3I3B", 2, 2, 1, 1, 2, 3, 1, 1, 1)).
        assert_eq!(base, "674d96ed9b9754a421eda5b603b1a5d50ad6827aba8011786f858bf9cfa7c6b0");
        assert_eq!(base, build(&sequences, Some(7), Positions::All).unwrap().hash(), "a pad token that does not occur changes nothing");
        assert_ne!(base, build(&[&[1], &[2, 3]], None, Positions::All).unwrap().hash());
        assert_ne!(base, build(&[&[1, 2], &[4]], None, Positions::All).unwrap().hash());
        assert_ne!(base, build(&sequences, Some(1), Positions::All).unwrap().hash());
        assert_ne!(base, build(&sequences, None, Positions::Last).unwrap().hash());
    }

    #[test]
    fn nonsense_is_refused_with_the_numbers() {
        type Case<'a> = (&'a [&'a [u32]], Option<u32>, &'a [&'a str]);
        let cases: [Case<'_>; 5] = [
            (&[], None, &["d has no"]),
            (&[&[1], &[]], None, &["sequence 2", "empty"]),
            (&[&[1], &[1, 2, 3, 4, 5]], None, &["sequence 2", "5 tokens", "4 positions"]),
            (&[&[1, 10]], None, &["sequence 1", "position 2", "10", "0..10"]),
            (&[&[1], &[1, 1]], Some(1), &["pad token 1"]),
        ];
        for (sequences, pad, parts) in cases {
            let message = build(sequences, pad, Positions::All).unwrap_err().to_string();
            for part in parts {
                assert!(message.contains(part), "`{message}` should contain `{part}`");
            }
        }
    }
}
