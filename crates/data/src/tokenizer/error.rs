//! What can be wrong with tokenizers.

use std::convert::Infallible;
use std::path::PathBuf;

use super::BYTES_PER_BYTE;

/// Why a tokenizer could not be loaded or used. Every message is one sentence that names the file and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The folder has no `tokenizer.json`, nor what could take its place.
    #[error(
        "the model folder {} has no tokenizer.json{}: save it there with the `save_pretrained` of a fast tokenizer, or set `tokenizer` to a folder that has one",
        folder.display(), if *sentencepiece { ", only a tokenizer.model of sentencepiece, which is not read" } else { "" }
    )]
    Missing {
        /// The folder.
        folder: PathBuf,
        /// Whether there is a vocabulary of sentencepiece.
        sentencepiece: bool,
    },
    /// The folder has words and merges, but it is not known what to do with them.
    #[error(
        "the model folder {} has vocab.json and merges.txt but no tokenizer.json, and how `{class}` uses them is not known: save tokenizer.json there with the `save_pretrained` of a fast tokenizer",
        folder.display()
    )]
    Class {
        /// The folder.
        folder: PathBuf,
        /// The class of the tokenizer.
        class: String,
    },
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error underneath.
        #[source]
        source: std::io::Error,
    },
    /// A file is damaged, or of a kind this version does not know.
    #[error("{} cannot be used ({problem}): download it again, or save it with a current version of `tokenizers`", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A text could not be encoded.
    #[error("the tokenizer of {} cannot encode the text that begins {beginning:?} ({problem}): remove this document", folder.display())]
    Encode {
        /// The model folder.
        folder: PathBuf,
        /// The first characters of the text.
        beginning: String,
        /// What is wrong.
        problem: String,
    },
    /// No room for the text beside the special tokens.
    #[error("a maximum of {maximum} tokens a sequence leaves no room beside the {special} special tokens: raise `max_seq_len`")]
    NoRoom {
        /// The maximum length of a sequence.
        maximum: usize,
        /// Tokens that the tokenizer adds to every text.
        special: usize,
    },
    /// A text would take too much memory.
    #[error(
        "the text of {} that begins {beginning:?} has {bytes} bytes without a place where it could be cut, and encoding them takes about {} MB, more than the {} MB that may be used: give more `memory`, or split the document",
        name, bytes.saturating_mul(BYTES_PER_BYTE as usize) / 1_000_000, allowed / 1_000_000
    )]
    Memory {
        /// The file or folder of the text, or the model folder where that is not known.
        name: String,
        /// The first characters of the text.
        beginning: String,
        /// Bytes of text that would be encoded at once.
        bytes: usize,
        /// What may be used.
        allowed: u64,
    },
    /// A new tokenizer cannot be so small.
    #[error(
        "a byte-level tokenizer cannot have a vocabulary of {vocabulary}: expected at least {smallest}, the bytes and one special token"
    )]
    Vocabulary {
        /// What was asked for.
        vocabulary: usize,
        /// The least.
        smallest: usize,
    },
    /// A new tokenizer could not be trained.
    #[error("the tokenizer could not be trained ({problem}): check the text")]
    Training {
        /// What is wrong.
        problem: String,
    },
    /// Documents cannot be joined.
    #[error("the tokenizer of {} names no EOS token to join documents with: add `eos_token` to its tokenizer_config.json", folder.display())]
    NoEos {
        /// The model folder.
        folder: PathBuf,
    },
}

impl From<Infallible> for TokenizerError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}
