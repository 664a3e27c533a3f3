//! What can be wrong with token sequences.

use std::path::PathBuf;

use crate::text::TextError;
use crate::tokenizer::TokenizerError;

/// Why sequences could not be made. Every message is one sentence that names the source and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokensError {
    /// The documents could not be read.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The tokenizer could not be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A setting that asks for nothing.
    #[error("`{setting}` is {value}: set it to {least} or more")]
    Setting {
        /// The setting.
        setting: &'static str,
        /// Its value.
        value: usize,
        /// The least value that makes sense.
        least: usize,
    },
    /// Chunks need an EOS token to join documents.
    #[error("the model folder {} names no EOS token, which chunks need between documents: set `eos_token_id`", folder.display())]
    NoEos {
        /// The model folder.
        folder: PathBuf,
    },
    /// Fewer sequences than were asked for, or none.
    #[error("{name} gives {found} sequences after {skipped} skipped ones, {}: {remedy}", shortfall(*wanted))]
    TooFew {
        /// File or folder.
        name: String,
        /// Sequences there are.
        found: usize,
        /// Sequences passed over before them.
        skipped: usize,
        /// Sequences asked for; `None` when any would do.
        wanted: Option<usize>,
        /// What to change.
        remedy: &'static str,
    },
    /// Documents without a single token.
    #[error(
        "none of the {documents} documents of {name} gives a token of its own, each is empty or holds nothing that the tokenizer knows: give documents with text"
    )]
    NoTokens {
        /// File or folder.
        name: String,
        /// Documents there are.
        documents: usize,
    },
    /// All documents together are shorter than one sequence.
    #[error(
        "the documents of {name} have {tokens} tokens together, fewer than one sequence of {length}: lower `max_seq_len`, or give more text"
    )]
    TooShort {
        /// File or folder.
        name: String,
        /// Tokens there are, those that join documents included.
        tokens: usize,
        /// The length of a sequence.
        length: usize,
    },
    /// Not a single sequence.
    #[error("{name} has no token sequence: give at least one document or list of ids")]
    NoSequences {
        /// File or folder.
        name: String,
    },
    /// A sequence without a token.
    #[error("sequence {sequence} of {name} is empty: remove it, or give it at least one id")]
    EmptySequence {
        /// File or folder.
        name: String,
        /// Number of the sequence, from one.
        sequence: usize,
    },
    /// A sequence does not fit the model.
    #[error(
        "sequence {sequence} of {name} has {length} tokens, more than the model's {positions} positions: set `max_seq_len` to {positions} or less"
    )]
    TooLong {
        /// File or folder.
        name: String,
        /// Number of the sequence, from one.
        sequence: usize,
        /// Its length.
        length: usize,
        /// The model's limit.
        positions: usize,
    },
    /// An id has no row in the embedding.
    #[error(
        "sequence {sequence}, position {position} of {name} is token {id}, outside the model's vocabulary 0..{vocabulary}: use the tokenizer that belongs to the model"
    )]
    OutsideVocabulary {
        /// File or folder.
        name: String,
        /// Number of the sequence, from one.
        sequence: usize,
        /// Position in it, from one.
        position: usize,
        /// The id.
        id: u64,
        /// The model's vocabulary.
        vocabulary: usize,
    },
    /// Nothing would be averaged over.
    #[error("every input token of {name} is the pad token {pad}, so no position counts: set another `pad_token_id`")]
    OnlyPadding {
        /// File or folder.
        name: String,
        /// The pad token.
        pad: u32,
    },
    /// The file of ids could not be read.
    #[error("cannot read the token ids {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error underneath.
        #[source]
        source: std::io::Error,
    },
    /// The file of ids is something else.
    #[error("{} is not a list of lists of token ids ({problem}): write it as [[1, 2, 3], [4, 5]]", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// What is missing, in words.
fn shortfall(wanted: Option<usize>) -> String {
    wanted.map_or_else(|| "so that none is left".to_owned(), |wanted| format!("fewer than the {wanted} asked for"))
}
