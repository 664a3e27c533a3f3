//! Classes of transformers 5 that bring a normalizer and a pre-tokenizer of their own.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value, json};
use tokenizers::Tokenizer;
use tokenizers::models::bpe::BPE;
use tokenizers::processors::byte_level::ByteLevel;

use super::added::Settings;
use super::files::{Files, read_file};
use crate::guard::guarded;
use crate::json as lenient;
use crate::tokenizer::TokenizerError;

/// A class of tokenizers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tokenizer) enum Class {
    /// `TokenizersBackend` (`PreTrainedTokenizerFast`), and all that are not known here: what `tokenizer.json` says.
    AsItIs,
    Gpt2,
    CodeGen,
    GptNeoX,
    Qwen2,
    Llama,
    Gemma,
}

/// The words that Qwen2 splits texts into.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl Class {
    /// The class of this name, with or without `Fast`.
    fn named(name: &str) -> Self {
        match name.strip_suffix("Fast").unwrap_or(name) {
            "GPT2Tokenizer" => Self::Gpt2,
            "CodeGenTokenizer" => Self::CodeGen,
            "GPTNeoXTokenizer" => Self::GptNeoX,
            "Qwen2Tokenizer" => Self::Qwen2,
            "LlamaTokenizer" => Self::Llama,
            "GemmaTokenizer" => Self::Gemma,
            _ => Self::AsItIs,
        }
    }

    /// The class that is registered for a type of model; `None` when there is none.
    fn registered(model_type: &str) -> Option<Self> {
        match model_type {
            "gpt2" | "opt" | "phi" | "codegen" => Some(Self::Gpt2),
            "gpt_neox" | "olmo" | "olmoe" => Some(Self::GptNeoX),
            "qwen2" | "qwen3" => Some(Self::Qwen2),
            "gemma" | "gemma2" => Some(Self::Gemma),
            "mistral" | "olmo2" | "olmo3" => Some(Self::AsItIs),
            _ => None,
        }
    }

    /// The class of a folder's tokenizer: the one that a file names, unless the type of the model knows better.
    pub(super) fn choose(files: &Files) -> Self {
        let registered = Self::registered(files.model_type());
        let Some(name) = files.class_name() else {
            // A folder in which no file names a class, nor the type of a model, has the files of GPT-2 where it has no other.
            let unnamed = if files.model_type().is_empty() && !files.has_fast() { Self::Gpt2 } else { Self::AsItIs };
            return registered.unwrap_or(unnamed);
        };
        let named = Self::named(name);
        // Many repositories of this family are wrong about it.
        let is_overruled = files.model_type() == "qwen2";
        if named == Self::Llama && !is_overruled && files.is_byte_level() {
            return Self::AsItIs;
        }
        match registered {
            Some(Self::AsItIs) if named != Self::AsItIs => Self::AsItIs,
            Some(own) if is_overruled => own,
            _ => named,
        }
    }

    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AsItIs => "TokenizersBackend",
            Self::Gpt2 => "GPT2Tokenizer",
            Self::CodeGen => "CodeGenTokenizer",
            Self::GptNeoX => "GPTNeoXTokenizer",
            Self::Qwen2 => "Qwen2Tokenizer",
            Self::Llama => "LlamaTokenizer",
            Self::Gemma => "GemmaTokenizer",
        }
    }

    /// The special tokens that it has where the files name none.
    pub(super) fn words(self) -> &'static [(&'static str, &'static str)] {
        const END: &str = "<|endoftext|>";
        match self {
            Self::AsItIs => &[],
            Self::Gpt2 | Self::CodeGen => &[("unk_token", END), ("bos_token", END), ("eos_token", END)],
            Self::GptNeoX => &[("unk_token", END), ("bos_token", END), ("eos_token", END), ("pad_token", "<|padding|>")],
            Self::Qwen2 => &[("unk_token", END), ("eos_token", END), ("pad_token", END)],
            Self::Llama => &[("unk_token", "<unk>"), ("bos_token", "<s>"), ("eos_token", "</s>")],
            Self::Gemma => {
                &[("unk_token", "<unk>"), ("bos_token", "<bos>"), ("eos_token", "<eos>"), ("pad_token", "<pad>"), ("mask_token", "<mask>")]
            }
        }
    }

    /// Its normalizer and its pre-tokenizer.
    pub(super) fn steps(self, words: &Settings) -> [Value; 2] {
        let bytes = |add_prefix_space: bool, use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": use_regex});
        let prefix = words.flag("add_prefix_space");
        match self {
            Self::AsItIs => [Value::Null, Value::Null],
            Self::Gpt2 | Self::CodeGen => [Value::Null, bytes(prefix, true)],
            Self::GptNeoX => [json!({"type": "NFC"}), bytes(prefix, true)],
            Self::Qwen2 => {
                let split = json!({"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": false});
                [json!({"type": "NFC"}), json!({"type": "Sequence", "pretokenizers": [split, bytes(prefix, false)]})]
            }
            Self::Llama => {
                let scheme = match (words.maybe("add_prefix_space"), words.flag("legacy")) {
                    (Some(false), _) => "never",
                    (_, true) => "always",
                    (_, false) => "first",
                };
                [Value::Null, json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false})]
            }
            Self::Gemma => [
                json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}),
                json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false}),
            ],
        }
    }

    /// Sets what the class gives its model beside words and merges.
    pub(super) fn set_model(self, model: &mut BPE, words: &Settings) {
        let has_bytes = matches!(self, Self::Llama | Self::Gemma);
        model.unk_token = if self == Self::Gemma { words.named("unk").map(|token| token.content.clone()) } else { None };
        model.fuse_unk = has_bytes;
        model.byte_fallback = has_bytes;
        model.ignore_merges = false;
        model.dropout = None;
        model.continuing_subword_prefix = None;
        model.end_of_word_suffix = None;
    }

    /// The tokenizer of a folder without `tokenizer.json`, from `vocab.json` and `merges.txt`. Added tokens come later.
    pub(super) fn of_vocabulary(self, folder: &Path, files: &Files) -> Result<Tokenizer, TokenizerError> {
        let paths = [folder.join("vocab.json"), folder.join("merges.txt")];
        let [Some(vocabulary), Some(merges)] = [read_file(&paths[0])?, read_file(&paths[1])?] else {
            let sentencepiece = folder.join("tokenizer.model").is_file();
            return Err(TokenizerError::Missing { folder: folder.to_owned(), sentencepiece });
        };
        if matches!(self, Self::AsItIs | Self::Llama | Self::Gemma) {
            let class = files.class_name().unwrap_or(self.name()).to_owned();
            return Err(TokenizerError::Class { folder: folder.to_owned(), class });
        }
        let malformed = |place: usize, problem: String| TokenizerError::Malformed { path: paths[place].clone(), problem };
        let words: HashMap<String, u32> = lenient::from_slice(&vocabulary).map_err(|problem| malformed(0, problem))?;
        let merges = merge_list(&merges).map_err(|problem| malformed(1, problem))?;
        for (first, second) in &merges {
            // The library takes it for granted that there are no longer words than those of the vocabulary.
            let whole = format!("{first}{second}");
            if let Some(absent) = [first, second, &whole].into_iter().find(|word| !words.contains_key(*word)) {
                return Err(malformed(1, format!("the pair {first:?} {second:?} needs the word {absent:?}, which vocab.json lacks")));
            }
        }
        let words: tokenizers::models::bpe::Vocab = words.into_iter().collect();
        let model = guarded("its vocabulary is damaged", || BPE::builder().vocab_and_merges(words, merges).build());
        let model = model.map_err(|problem| malformed(1, problem))?;
        let mut tokenizer = Tokenizer::new(model);
        let settings = Settings::new(files, self, None);
        let step = |problem: serde_json::Error| malformed(0, problem.to_string());
        let [normalizer, pre_tokenizer] = self.steps(&settings);
        let normalizer: Option<tokenizers::NormalizerWrapper> = serde_json::from_value(normalizer).map_err(step)?;
        let pre_tokenizer: Option<tokenizers::PreTokenizerWrapper> = serde_json::from_value(pre_tokenizer).map_err(step)?;
        tokenizer.with_normalizer(normalizer).map_err(|problem| malformed(0, problem.to_string()))?;
        tokenizer.with_pre_tokenizer(pre_tokenizer);
        if self == Self::CodeGen {
            tokenizer.with_post_processor(Some(ByteLevel::new(true, false, true)));
        }
        Ok(tokenizer)
    }
}

/// The pairs of `merges.txt`: two words a line, in the order of their ranks.
fn merge_list(content: &[u8]) -> Result<Vec<(String, String)>, String> {
    let content = content.strip_prefix(lenient::BYTE_ORDER_MARK).unwrap_or(content);
    let text = std::str::from_utf8(content).map_err(|_| "it is not UTF-8 text".to_owned())?;
    let mut merges = Vec::new();
    if text.trim().is_empty() {
        return Ok(merges);
    }
    for (number, line) in text.trim_end_matches(['\r', '\n']).lines().enumerate() {
        if line.starts_with("#version") {
            continue;
        }
        match line.split_once(' ') {
            Some((first, second)) if !first.is_empty() && !second.is_empty() && !second.contains(' ') => {
                merges.push((first.to_owned(), second.to_owned()));
            }
            _ => return Err(format!("line {} is not two words with a space between them", number + 1)),
        }
    }
    Ok(merges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_are_two_words_a_line() {
        let list = |text: &str| merge_list(text.as_bytes());
        let pair = |first: &str, second: &str| (first.to_owned(), second.to_owned());
        assert_eq!(list("\u{feff}#version: 0.2\r\na b\r\n# c\n\n").unwrap(), [pair("a", "b"), pair("#", "c")]);
        assert_eq!(list("\n\n").unwrap(), []);
        assert_eq!(list("a b\nc d").unwrap(), [pair("a", "b"), pair("c", "d")], "no line end at the end");
        for (text, line) in [("a b\nc\n", "line 2"), ("a b c", "line 1"), ("a b\n\nc d", "line 2"), ("a ", "line 1")] {
            assert!(list(text).unwrap_err().contains(line), "{text}");
        }
        assert!(merge_list(b"a \xff").is_err());
    }
}
