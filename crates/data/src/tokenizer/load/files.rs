//! The files of a model folder that say something about its tokenizer.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::Tokenizer;

use super::added::{Settings, token};
use crate::guard::guarded;
use crate::json;
use crate::pointer;
use crate::tokenizer::TokenizerError;

/// What the files say; those that are not there say nothing.
pub(super) struct Files {
    /// `tokenizer_config.json`.
    pub(super) settings: Map<String, Value>,
    /// `special_tokens_map.json`.
    pub(super) map: Map<String, Value>,
    /// `added_tokens.json`.
    pub(super) added: Map<String, Value>,
    /// `config.json`.
    pub(super) config: Map<String, Value>,
    generation: Map<String, Value>,
    /// The content of `tokenizer.json`.
    fast: Option<Vec<u8>>,
}

impl Files {
    pub(super) fn read(folder: &Path) -> Result<Self, TokenizerError> {
        let object = |name: &str| read_object(&folder.join(name));
        Ok(Self {
            settings: object("tokenizer_config.json")?,
            map: object("special_tokens_map.json")?,
            added: object("added_tokens.json")?,
            config: object("config.json")?,
            generation: object("generation_config.json")?,
            fast: read_file(&folder.join("tokenizer.json"))?,
        })
    }

    /// The file that the vocabulary is in.
    pub(super) fn main(&self, folder: &Path) -> PathBuf {
        folder.join(if self.fast.is_some() { "tokenizer.json" } else { "vocab.json" })
    }

    /// The tokenizer of `tokenizer.json`, if there is that file.
    pub(super) fn fast(&self, folder: &Path) -> Result<Option<Tokenizer>, TokenizerError> {
        let Some(content) = &self.fast else { return Ok(None) };
        let malformed = |problem: String| TokenizerError::Malformed { path: folder.join("tokenizer.json"), problem };
        let content = content.strip_prefix(json::BYTE_ORDER_MARK).unwrap_or(content);
        guarded("its vocabulary is damaged", || Tokenizer::from_bytes(content)).map(Some).map_err(malformed)
    }

    /// Whether there is a `tokenizer.json`.
    pub(super) fn has_fast(&self) -> bool {
        self.fast.is_some()
    }

    /// Whether `tokenizer.json` is byte-level.
    pub(super) fn is_byte_level(&self) -> bool {
        let word = b"\"ByteLevel\"";
        self.fast.as_ref().is_some_and(|content| content.windows(word.len()).any(|window| window == word))
    }

    /// The class of the tokenizer that a file names.
    pub(super) fn class_name(&self) -> Option<&str> {
        [&self.settings, &self.config].iter().find_map(|file| file.get("tokenizer_class")?.as_str())
    }

    /// The type of the model.
    pub(super) fn model_type(&self) -> &str {
        self.config.get("model_type").and_then(Value::as_str).unwrap_or_default()
    }

    /// The word of a special token in `special_tokens_map.json`.
    pub(super) fn mapped_word(&self, name: &str) -> Option<&str> {
        let value = self.map.get(&format!("{name}_token"))?;
        value.as_str().or_else(|| value.get("content")?.as_str())
    }

    /// The id of a special token, or the first of a list of ids. Some configurations write -1 for "none".
    pub(super) fn named_id(&self, name: &str) -> Option<u32> {
        [&self.generation, &self.config].iter().find_map(|file| {
            let value = file.get(&format!("{name}_token_id"))?;
            let id = value.as_u64().or_else(|| value.as_array()?.first()?.as_u64())?;
            u32::try_from(id).ok()
        })
    }

    /// Says where the two files of special tokens name different ones.
    pub(super) fn note_words(&self, words: &Settings, notes: &mut Vec<String>) {
        for name in ["bos", "eos", "pad", "unk"] {
            let key = format!("{name}_token");
            let own = self.settings.get(&key).and_then(|value| token(value, true)).map(|token| token.content);
            if let (Some(own), Some(mapped)) = (own, self.mapped_word(name))
                && own != mapped
                && let Some(chosen) = words.named(name)
            {
                let winner = if chosen.content == own { "tokenizer_config.json" } else { "special_tokens_map.json" };
                notes.push(format!(
                    "`{key}` is {own:?} in tokenizer_config.json and {mapped:?} in special_tokens_map.json: {winner} wins, as in transformers 5"
                ));
            }
        }
    }
}

/// The content of a file; `None` when it is not there.
pub(super) fn read_file(path: &Path) -> Result<Option<Vec<u8>>, TokenizerError> {
    match std::fs::read(path) {
        Ok(content) if pointer::is_pointer(&content) => {
            Err(TokenizerError::Malformed { path: path.to_owned(), problem: pointer::PROBLEM.to_owned() })
        }
        Ok(content) => Ok(Some(content)),
        Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TokenizerError::Io { path: path.to_owned(), source }),
    }
}

/// The content of a JSON file; empty when the file is not there.
fn read_object(path: &Path) -> Result<Map<String, Value>, TokenizerError> {
    let Some(content) = read_file(path)? else { return Ok(Map::new()) };
    json::from_slice(&content).map_err(|problem| TokenizerError::Malformed { path: path.to_owned(), problem })
}
