//! The tokenizer of a model folder, from the files that transformers reads there. [`TrainedTokenizer`] makes a new one.

pub(crate) mod encode;
mod error;
mod load;
pub(crate) mod prefix;
mod train;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokenizers::{PostProcessor, Tokenizer};

pub use error::TokenizerError;
pub use prefix::BYTES_PER_BYTE;
use prefix::Beginnings;
pub use train::{END_OF_TEXT, SMALLEST_VOCABULARY, TrainedTokenizer};

/// One special token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecialToken {
    /// Its id.
    pub id: u32,
    /// How it is written; `None` for an id that the tokenizer has no word for.
    pub text: Option<String>,
}

/// The special tokens of a model, as far as its files name them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecialTokens {
    /// Beginning of the sequence.
    pub bos: Option<SpecialToken>,
    /// End of the sequence: what joins documents in chunks.
    pub eos: Option<SpecialToken>,
    /// Padding: positions with this input token are left out of the cost.
    pub pad: Option<SpecialToken>,
    /// Unknown word.
    pub unk: Option<SpecialToken>,
    /// `add_bos_token` of `tokenizer_config.json`, for the record: whether it wins over `tokenizer.json` is as in transformers 5.
    pub add_bos_token: Option<bool>,
}

/// Ids that replace what the files say (Pythia needs `pad: 1, eos: 0`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecialTokenOverrides {
    /// Id of the pad token.
    pub pad: Option<u32>,
    /// Id of the EOS token.
    pub eos: Option<u32>,
}

/// Ids of one text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncodedText {
    /// The ids, with the special tokens that the tokenizer adds.
    pub ids: Vec<u32>,
    /// How many of them stand for the text itself.
    pub content: usize,
    /// Whether the text was longer than the maximum.
    pub cut: bool,
}

/// A loaded tokenizer. Truncation and padding settings inside `tokenizer.json` are switched off.
pub struct TextTokenizer {
    folder: PathBuf,
    tokenizer: Tokenizer,
    special: SpecialTokens,
    /// Tokens that the post-processor adds to a single text.
    added: usize,
    /// How EOS is written, when writing it before a text gives EOS and nothing else.
    separator: Option<String>,
    beginnings: Beginnings,
    notes: Vec<String>,
}

impl TextTokenizer {
    /// Loads the tokenizer of a model folder, from `tokenizer.json`, or from `vocab.json` and `merges.txt` where the class of the tokenizer
    /// says what these mean. Texts get the ids that they have in transformers 5: its classes, the added tokens of all files, and what is put
    /// around a text. Where two files say different things, [`TextTokenizer::notes`] has a line that says which won.
    ///
    /// Special tokens come from `overrides`, else `tokenizer_config.json` and `special_tokens_map.json` (the latter wins where the former has
    /// no `added_tokens_decoder`), else the class, else the ids in `generation_config.json` and `config.json`.
    ///
    /// # Errors
    /// When there is no vocabulary, or one of the files is damaged.
    pub fn load(folder: &Path, overrides: SpecialTokenOverrides) -> Result<Self, TokenizerError> {
        let loaded = load::load(folder)?;
        let with_word = |id: u32| SpecialToken { id, text: loaded.tokenizer.id_to_token(id) };
        let find =
            |name: &str| loaded.word(name).and_then(|word| loaded.tokenizer.token_to_id(word)).or_else(|| loaded.id(name)).map(with_word);
        let special = SpecialTokens {
            bos: find("bos"),
            eos: overrides.eos.map(with_word).or_else(|| find("eos")),
            pad: overrides.pad.map(with_word).or_else(|| find("pad")),
            unk: find("unk"),
            add_bos_token: loaded.flag("add_bos_token"),
        };
        let (tokenizer, notes) = (loaded.tokenizer, loaded.notes);
        let added = tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        let (folder, beginnings) = (folder.to_owned(), Beginnings::default());
        let mut loaded = Self { folder, tokenizer, special, added, separator: None, beginnings, notes };
        if let Some(SpecialToken { id, text: Some(text) }) = loaded.special.eos.clone()
            && loaded.ids(&text)? == [id]
        {
            loaded.separator = Some(text);
        }
        Ok(loaded)
    }

    /// One line for every disagreement of two files of the folder, which says what won: for the user to see, once.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The model folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Number of words, added ones included. A model may have more rows in its embedding than this (Pythia has).
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// Bytes of the text that these ids stand for, special tokens apart; 0 where they cannot be turned back.
    #[must_use]
    pub fn text_bytes(&self, ids: &[u32]) -> usize {
        self.tokenizer.decode(ids, true).map_or(0, |text| text.len())
    }

    /// The text that these ids stand for, special tokens apart; none where they cannot be turned back.
    #[must_use]
    pub fn text(&self, ids: &[u32]) -> Option<String> {
        self.tokenizer.decode(ids, true).ok()
    }

    /// Tokens that are put around a single text.
    #[must_use]
    pub fn added_tokens(&self) -> usize {
        self.added
    }

    /// The special tokens and their ids.
    #[must_use]
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A tokenizer of whole words, with truncation and padding switched on in its file as some models ship it.
    pub(crate) const WORDS: &str = r#"{
        "version": "1.0", "normalizer": null, "decoder": null,
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 1, "pad_type_id": 0, "pad_token": "<pad>"},
        "added_tokens": [{"id": 0, "content": "<eos>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": null,
        "model": {"type": "WordLevel", "unk_token": "unknown", "vocab": {"<eos>": 0, "<pad>": 1, "unknown": 2, "a": 3, "b": 4, "c": 5}}
    }"#;

    /// What puts token 3 first and EOS last.
    const AROUND: &str = r#"{"type": "TemplateProcessing", "pair": [],
        "single": [{"SpecialToken": {"id": "a", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<eos>", "type_id": 0}}],
        "special_tokens": {"a": {"id": "a", "ids": [3], "tokens": ["a"]}, "<eos>": {"id": "<eos>", "ids": [0], "tokens": ["<eos>"]}}}"#;

    pub(crate) fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        folder
    }

    fn load(files: &[(&str, &str)], overrides: SpecialTokenOverrides) -> Result<TextTokenizer, TokenizerError> {
        TextTokenizer::load(folder(files).path(), overrides)
    }

    #[test]
    fn truncation_and_padding_of_the_file_are_off() {
        let tokenizer = load(&[("tokenizer.json", WORDS)], SpecialTokenOverrides::default()).unwrap();
        assert_eq!(tokenizer.encode("a b c nothing", None).unwrap().ids, [3, 4, 5, 2]);
        assert_eq!(tokenizer.vocab_size(), 6);
        assert_eq!(*tokenizer.special_tokens(), SpecialTokens::default());
    }

    #[test]
    fn the_text_is_cut_and_not_the_tokens_around_it() {
        let file = WORDS.replace(r#""post_processor": null"#, &format!(r#""post_processor": {AROUND}"#));
        let tokenizer = load(&[("tokenizer.json", &file)], SpecialTokenOverrides::default()).unwrap();
        let encode = |text, maximum| tokenizer.encode(text, maximum).unwrap();
        assert_eq!(encode("b c b", None), EncodedText { ids: vec![3, 4, 5, 4, 0], content: 3, cut: false });
        assert_eq!(encode("b c b", Some(5)), encode("b c b", None));
        assert_eq!(encode("b c b", Some(4)), EncodedText { ids: vec![3, 4, 5, 0], content: 2, cut: true });
        assert_eq!(encode("", Some(4)), EncodedText { ids: vec![3, 0], content: 0, cut: false });
        let message = tokenizer.encode("b", Some(2)).unwrap_err().to_string();
        assert!(message.contains("2 tokens") && message.contains("the 2 special tokens"), "{message}");
        assert_eq!(tokenizer.encode_after_eos("b c", 0).unwrap(), [0, 4, 5], "no added tokens in a joined text");
    }

    #[test]
    fn special_tokens_come_from_overrides_then_words_then_ids() {
        let files = [
            ("tokenizer.json", WORDS),
            (
                "tokenizer_config.json",
                r#"{"eos_token": {"content": "<eos>", "lstrip": false}, "unk_token": null, "add_bos_token": true, "added_tokens_decoder": {}}"#,
            ),
            ("special_tokens_map.json", r#"{"eos_token": "c", "unk_token": "unknown"}"#),
            ("generation_config.json", r#"{"bos_token_id": [5, 4], "pad_token_id": -1, "score": NaN}"#),
            ("config.json", r#"{"bos_token_id": 3, "pad_token_id": 1, "eos_token_id": 2, "limit": Infinity}"#),
        ];
        let token = |id, text: &str| Some(SpecialToken { id, text: Some(text.to_owned()) });
        let found = load(&files, SpecialTokenOverrides::default()).unwrap();
        let expected = SpecialTokens {
            bos: token(5, "c"),
            eos: token(0, "<eos>"),
            pad: token(1, "<pad>"),
            unk: token(2, "unknown"),
            add_bos_token: Some(true),
        };
        assert_eq!(*found.special_tokens(), expected);
        assert!(found.notes().iter().any(|note| note.contains("`eos_token`") && note.contains("tokenizer_config.json wins")));
        let replaced = load(&files, SpecialTokenOverrides { pad: Some(4), eos: Some(77) }).unwrap();
        assert_eq!(replaced.special_tokens().pad, token(4, "b"));
        assert_eq!(replaced.special_tokens().eos, Some(SpecialToken { id: 77, text: None }));
        assert_eq!(replaced.encode_after_eos("a", 77).unwrap(), [77, 3], "an id without a word can still join");
    }

    #[test]
    fn a_word_that_the_vocabulary_lacks_gets_the_next_id() {
        let files = [("tokenizer.json", WORDS), ("tokenizer_config.json", r#"{"pad_token": "<new>"}"#)];
        let tokenizer = load(&files, SpecialTokenOverrides::default()).unwrap();
        assert_eq!(tokenizer.special_tokens().pad, Some(SpecialToken { id: 6, text: Some("<new>".to_owned()) }));
        assert_eq!((tokenizer.encode("a<new>b", None).unwrap().ids, tokenizer.vocab_size()), (vec![3, 6, 4], 7));
    }

    #[test]
    fn a_named_word_of_the_vocabulary_becomes_a_special_token() {
        // "<pad>" is no added token in the file: the pre-tokenizer would take it apart.
        let text = "a<pad>";
        let without = load(&[("tokenizer.json", WORDS)], SpecialTokenOverrides::default()).unwrap();
        assert_eq!(without.encode(text, None).unwrap().ids, [3, 2, 2, 2]);
        let files = [("tokenizer.json", WORDS), ("tokenizer_config.json", r#"{"pad_token": "<pad>"}"#)];
        let with = load(&files, SpecialTokenOverrides::default()).unwrap();
        assert_eq!(with.encode(text, None).unwrap().ids, [3, 1]);
        assert_eq!(with.vocab_size(), 6);
    }

    /// Versions of `tokenizers` before 0.20 wrote pairs as texts.
    #[test]
    fn merges_are_pairs_or_texts() {
        for merges in [r#"[["a", "b"], ["ab", "c"]]"#, r#"["a b", "ab c"]"#] {
            let model = format!(r#"{{"type": "BPE", "vocab": {{"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4}}, "merges": {merges}}}"#);
            let file = format!(r#"{{"version": "1.0", "added_tokens": [], "model": {model}}}"#);
            let tokenizer = load(&[("tokenizer.json", &file)], SpecialTokenOverrides::default()).unwrap();
            assert_eq!(tokenizer.encode("abcab", None).unwrap().ids, [4, 3], "{merges}");
        }
    }

    #[test]
    fn faults_name_the_file() {
        let merges = ("merges.txt", "#version: 0.2\na b\n");
        let cases: [(&[(&str, &str)], &str); 12] = [
            (&[("config.json", "{}")], "has no tokenizer.json:"),
            (&[("config.json", "{}"), ("vocab.json", "{}")], "has no tokenizer.json:"),
            (&[("tokenizer.model", "x")], "only a tokenizer.model of sentencepiece"),
            (&[("tokenizer.json", "{\"version\": ")], "tokenizer.json cannot be used"),
            (&[("tokenizer.json", "{\"version\": \"1.0\", \"model\": {\"type\": \"Future\"}}")], "tokenizer.json cannot be used"),
            (&[("tokenizer.json", WORDS), ("tokenizer_config.json", "[]")], "tokenizer_config.json cannot be used"),
            (&[("tokenizer.json", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n")], "a pointer of git-lfs"),
            (&[("vocab.json", r#"{"a": 0, "b": 1}"#), merges], "merges.txt cannot be used"),
            (&[("vocab.json", r#"{"a": -1}"#), merges], "vocab.json cannot be used"),
            (&[("vocab.json", r#"{"a": 0}"#), ("merges.txt", "a\n")], "merges.txt cannot be used (line 1 is not two words"),
            (&[("vocab.json", "{}"), merges, ("config.json", r#"{"model_type": "llama"}"#)], "`TokenizersBackend` uses them"),
            (
                &[("vocab.json", "{}"), merges, ("tokenizer_config.json", r#"{"tokenizer_class": "FooTokenizer"}"#)],
                "`FooTokenizer` uses them",
            ),
        ];
        for (files, expected) in cases {
            let message = load(files, SpecialTokenOverrides::default()).err().unwrap().to_string();
            assert!(message.contains(expected) && !message.contains('\n'), "`{message}` should contain `{expected}`");
        }
    }
}
