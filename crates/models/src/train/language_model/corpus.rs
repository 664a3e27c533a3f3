//! The text of a language model: documents, the tokenizer trained on them, sequences, and the entropies to compare a loss with.

use std::collections::BTreeMap;

use basin_volume_data::shuffle::permutation;
use basin_volume_data::text::Documents;
use basin_volume_data::tokenizer::{SpecialTokenOverrides, TextTokenizer, TokenizerError, TrainedTokenizer};
use sha2::{Digest, Sha256};

use super::super::{Observer, TrainError};
use super::spec::{LanguageModelSpec, TextSource};

/// A text as training needs it.
pub(super) struct Corpus {
    pub(super) name: String,
    pub(super) text_key: String,
    pub(super) hash: String,
    pub(super) documents: usize,
    pub(super) tokenizer: TrainedTokenizer,
    /// All documents joined.
    pub(super) ids: Vec<u32>,
    length: usize,
    /// Numbers of the sequences, in the order of the split.
    pub(super) train: Vec<usize>,
    pub(super) held_out: Vec<usize>,
    pub(super) unigram_entropy: f64,
    pub(super) bigram_entropy: f64,
}

impl Corpus {
    /// Reads the documents, trains the tokenizer and splits the sequences.
    pub(super) fn read(spec: &LanguageModelSpec, source: &TextSource, observer: &mut dyn Observer) -> Result<Self, TrainError> {
        let interrupted = |observer: &dyn Observer| match observer.interrupted() {
            true => Err(TrainError::Interrupted { step: 0, total: 0 }),
            false => Ok(()),
        };
        observer.phase("reading the text");
        let mut documents = Vec::new();
        for document in Documents::open(&source.path, &source.text_key)? {
            documents.push(document?);
            interrupted(observer)?;
        }
        let mut hasher = Sha256::new();
        for document in &documents {
            hasher.update((document.len() as u64).to_le_bytes());
            hasher.update(document.as_bytes());
        }
        let hash = basin_volume_data::hexadecimal(&hasher.finalize());
        observer.phase("training the tokenizer");
        let tokenizer = TrainedTokenizer::train(documents.iter().map(String::as_str), spec.vocab_size)?;
        interrupted(observer)?;
        observer.phase("encoding the text");
        // Through the files that it will be used from.
        let folder = tempfile::tempdir().map_err(|problem| TokenizerError::Io { path: std::env::temp_dir(), source: problem })?;
        tokenizer.save(folder.path(), spec.max_seq_len)?;
        let encoder = TextTokenizer::load(folder.path(), SpecialTokenOverrides::default())?;
        let ids = encoder.encode_stream(documents.iter().map(String::as_str))?;
        interrupted(observer)?;

        let length = spec.max_seq_len;
        // Every token of a sequence has the one after it as label.
        let found = (ids.len() - 1) / length;
        let needed = spec.batch_size + 1;
        if found < needed {
            return Err(TrainError::TooLittleText { path: source.path.clone(), tokens: ids.len(), found, length, needed });
        }
        let mut train = permutation(spec.seed, 0, found);
        let held_out = ((found as f64 * spec.held_out).round() as usize).clamp(1, found - spec.batch_size);
        let held_out = train.split_off(found - held_out);
        let (unigram_entropy, bigram_entropy) = entropies(&ids);
        let name = source.path.file_name().map_or_else(|| source.path.display().to_string(), |name| name.to_string_lossy().into_owned());
        let (text_key, documents) = (source.text_key.clone(), documents.len());
        Ok(Self { name, text_key, hash, documents, tokenizer, ids, length, train, held_out, unigram_entropy, bigram_entropy })
    }

    /// Tokens and labels of some sequences, one after the other.
    pub(super) fn batch(&self, sequences: &[usize]) -> (Vec<u32>, Vec<u32>) {
        let part = |shift: usize| {
            let places = sequences.iter().map(|&index| index * self.length + shift);
            places.flat_map(|start| &self.ids[start..start + self.length]).copied().collect()
        };
        (part(0), part(1))
    }
}

/// Entropy of the tokens, and of a token given the one before it, in nats.
fn entropies(ids: &[u32]) -> (f64, f64) {
    // Sorted, so that the sums always have the same order.
    let (mut single, mut first, mut pairs) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for id in ids {
        *single.entry(*id).or_insert(0u64) += 1;
    }
    for pair in ids.windows(2) {
        *first.entry(pair[0]).or_insert(0u64) += 1;
        *pairs.entry((pair[0], pair[1])).or_insert(0u64) += 1;
    }
    (entropy(single.values()), entropy(pairs.values()) - entropy(first.values()))
}

/// `log n - 1/n sum k log k` of the counts `k` with sum `n`.
fn entropy<'a>(counts: impl Iterator<Item = &'a u64>) -> f64 {
    let (mut total, mut sum) = (0.0, 0.0);
    for &count in counts {
        total += count as f64;
        sum += count as f64 * (count as f64).ln();
    }
    if total > 0.0 { total.ln() - sum / total } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropies_are_those_of_the_frequencies() {
        let (single, pair) = entropies(&[0, 1, 0, 1, 0, 1, 0, 1]);
        assert!((single - 2f64.ln()).abs() < 1e-15 && pair.abs() < 1e-15, "{single}, {pair}");
        // Of 0 0 1 1 0: the pairs 00, 01, 11, 10, each once.
        let (single, pair) = entropies(&[0, 0, 1, 1, 0]);
        let exact = -(0.6 * 0.6f64.ln() + 0.4 * 0.4f64.ln());
        assert!((single - exact).abs() < 1e-15 && (pair - 2f64.ln()).abs() < 1e-15, "{single}, {pair}");
    }
}
