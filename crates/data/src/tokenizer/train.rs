//! Training of a byte-level BPE tokenizer, and its files in a model folder.

use std::path::Path;

use serde_json::json;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Model, Tokenizer};

use super::{TextTokenizer, TokenizerError};

/// How the one special token is written: beginning and end of a document, and what stands for unknown words (there are none).
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// The smallest vocabulary of a byte-level tokenizer: the bytes and [`END_OF_TEXT`].
pub const SMALLEST_VOCABULARY: usize = 257;

/// A byte-level BPE tokenizer as GPT-NeoX has it, trained on documents and not yet written.
pub struct TrainedTokenizer {
    tokenizer: Tokenizer,
}

impl TrainedTokenizer {
    /// Learns merges until there are `vocabulary` words; fewer when no pair of words occurs twice. [`END_OF_TEXT`] has id 0, then come
    /// the 256 bytes. The result depends on the documents only: ties between pairs are decided by their ids.
    ///
    /// # Errors
    /// When `vocabulary` is less than [`SMALLEST_VOCABULARY`], or the training itself fails.
    pub fn train<'a>(documents: impl Iterator<Item = &'a str> + Send, vocabulary: usize) -> Result<Self, TokenizerError> {
        if vocabulary < SMALLEST_VOCABULARY {
            return Err(TokenizerError::Vocabulary { vocabulary, smallest: SMALLEST_VOCABULARY });
        }
        let fault = |problem: tokenizers::Error| TokenizerError::Training { problem: problem.to_string() };
        let mut trainer = BpeTrainer::builder()
            .vocab_size(vocabulary)
            .min_frequency(2)
            .show_progress(false)
            .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        // The trainer needs the model's own type; the general tokenizer is put together afterwards.
        let mut bpe = BPE::default();
        let words = ByteLevel::new(false, true, true);
        feed(&mut trainer, documents, &words).map_err(fault)?;
        let special = tokenizers::Trainer::train(&trainer, &mut bpe).map_err(fault)?;
        let mut tokenizer = Tokenizer::new(bpe);
        // As the class does that reads these files in transformers 5, and here.
        tokenizer.with_normalizer(Some(NFC)).map_err(fault)?;
        tokenizer.with_pre_tokenizer(Some(words)).with_decoder(Some(words)).with_post_processor(Some(ByteLevel::new(false, false, true)));
        tokenizer.add_special_tokens(special).map_err(fault)?;
        Ok(Self { tokenizer })
    }

    /// Number of words.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_model().get_vocab_size()
    }

    /// Writes `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json` into a folder, as `transformers` reads them for a
    /// GPT-NeoX model of `positions` positions.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path, positions: usize) -> Result<(), TokenizerError> {
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(|source| TokenizerError::Io { path, source })
        };
        // Through a value: its objects are sorted, so the same tokenizer gives the same bytes.
        let value = serde_json::to_value(&self.tokenizer).map_err(|problem| TokenizerError::Training { problem: problem.to_string() })?;
        write("tokenizer.json", format!("{value:#}\n"))?;
        let special = json!({ "bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT });
        write("special_tokens_map.json", format!("{special:#}\n"))?;
        let config = json!({
            "add_prefix_space": false,
            "bos_token": END_OF_TEXT,
            "clean_up_tokenization_spaces": false,
            "eos_token": END_OF_TEXT,
            "model_max_length": positions,
            // The class has one of its own, which this vocabulary has not.
            "pad_token": null,
            "tokenizer_class": "GPTNeoXTokenizer",
            "unk_token": END_OF_TEXT,
        });
        write("tokenizer_config.json", format!("{config:#}\n"))
    }
}

/// Counts the words of the documents.
fn feed<'a>(trainer: &mut BpeTrainer, documents: impl Iterator<Item = &'a str> + Send, words: &ByteLevel) -> tokenizers::Result<()> {
    use tokenizers::{NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Trainer};
    trainer.feed(documents, |document| {
        let mut text = NormalizedString::from(document);
        NFC.normalize(&mut text)?;
        let mut text = PreTokenizedString::from(text);
        words.pre_tokenize(&mut text)?;
        let splits = text.get_splits(OffsetReferential::Original, OffsetType::Byte);
        Ok(splits.into_iter().map(|(word, ..)| word.to_owned()).collect())
    })
}

impl TextTokenizer {
    /// The ids of documents joined, [`END_OF_TEXT`] (or the EOS of another tokenizer) before each and at the very end.
    ///
    /// # Errors
    /// When the tokenizer has no EOS token or fails.
    pub fn encode_stream<'a>(&self, documents: impl Iterator<Item = &'a str>) -> Result<Vec<u32>, TokenizerError> {
        let eos = self.special_tokens().eos.as_ref().map(|token| token.id);
        let eos = eos.ok_or_else(|| TokenizerError::NoEos { folder: self.folder().to_owned() })?;
        let mut ids = Vec::new();
        for document in documents {
            ids.extend(self.encode_after_eos(document, eos)?);
        }
        ids.push(eos);
        Ok(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::super::SpecialTokenOverrides;
    use super::*;

    const DOCUMENTS: [&str; 3] = ["the cat and the dog and the cat\n", "a caf\u{e9}, the caf\u{e9}; the 42 dogs", " the end  \u{1f600}"];

    fn train(vocabulary: usize) -> TrainedTokenizer {
        TrainedTokenizer::train(DOCUMENTS.into_iter(), vocabulary).unwrap()
    }

    #[test]
    fn every_text_comes_back_and_frequent_words_are_one_token() {
        let folder = tempfile::tempdir().unwrap();
        let trained = train(270);
        assert_eq!(trained.vocab_size(), 270);
        trained.save(folder.path(), 64).unwrap();
        let tokenizer = TextTokenizer::load(folder.path(), SpecialTokenOverrides::default()).unwrap();
        assert_eq!(tokenizer.vocab_size(), 270);
        assert!(tokenizer.notes().is_empty(), "{:?}", tokenizer.notes());
        assert_eq!(tokenizer.special_tokens().eos.as_ref().unwrap().id, 0);
        assert_eq!(tokenizer.encode(" the", None).unwrap().ids.len(), 1);
        let decoder = Tokenizer::from_file(folder.path().join("tokenizer.json")).unwrap();
        for text in DOCUMENTS.into_iter().chain(["\u{0}\t\u{7f} \u{4e2d}\u{6587}", ""]) {
            let ids = tokenizer.encode(text, None).unwrap().ids;
            assert_eq!(decoder.decode(&ids, false).unwrap(), text);
        }
        let stream = tokenizer.encode_stream(DOCUMENTS.into_iter()).unwrap();
        assert_eq!(stream.iter().filter(|&&id| id == 0).count(), DOCUMENTS.len() + 1);
        assert!(stream[0] == 0 && stream[stream.len() - 1] == 0);
        assert_eq!(decoder.decode(&stream, true).unwrap(), DOCUMENTS.concat());
    }

    #[test]
    fn the_same_documents_give_the_same_file() {
        let bytes = || {
            let folder = tempfile::tempdir().unwrap();
            train(300).save(folder.path(), 64).unwrap();
            std::fs::read(folder.path().join("tokenizer.json")).unwrap()
        };
        let first = bytes();
        assert!((0..4).all(|_| bytes() == first));
    }

    #[test]
    fn a_text_with_few_pairs_gives_fewer_words() {
        let trained = TrainedTokenizer::train(["ab ab"].into_iter(), 1000).unwrap();
        assert!((257..262).contains(&trained.vocab_size()), "{}", trained.vocab_size());
        let message = TrainedTokenizer::train(["ab"].into_iter(), 256).err().unwrap().to_string();
        assert!(message.contains("vocabulary of 256") && message.contains("257"), "{message}");
    }
}
