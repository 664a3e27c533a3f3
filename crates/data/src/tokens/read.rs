//! From documents to sequences: one a document, or chunks of equal length.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{ModelLimits, Positions, Provenance, TokenSequences, TokensError};
use crate::text::{Document, Documents};
use crate::tokenizer::encode::Allowance;
use crate::tokenizer::{SpecialTokens, TextTokenizer};

/// How documents become sequences.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    /// One document a sequence, cut at the maximum length, with the special tokens that the tokenizer adds. Documents without a token
    /// of their own are passed over.
    #[default]
    Documents,
    /// All documents joined, EOS before each, and cut into sequences of exactly the maximum length; the last short one is dropped, and
    /// no other special token is added.
    Chunks,
}

/// How many sequences are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "sequences", rename_all = "snake_case")]
pub enum SequenceCount {
    /// This many; fewer are an error. For a number that somebody asked for.
    Exactly(usize),
    /// This many, or as many as there are. For a default.
    AtMost(usize),
}

/// What to take from the documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadSettings {
    /// How documents become sequences.
    pub reading: Reading,
    /// The maximum length of a sequence, special tokens included; the length of every chunk.
    pub max_seq_len: usize,
    /// How many sequences.
    pub count: SequenceCount,
    /// Sequences passed over first.
    pub skip: usize,
    /// Which positions count.
    pub positions: Positions,
}

impl Default for ReadSettings {
    /// The reference's: up to 10 documents cut at 2048 tokens, all positions.
    fn default() -> Self {
        let (reading, positions) = (Reading::Documents, Positions::All);
        Self { reading, max_seq_len: 2048, count: SequenceCount::AtMost(10), skip: 0, positions }
    }
}

/// What was read, for the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextReport {
    /// The field or column of the text.
    pub text_key: String,
    /// What was asked for.
    pub settings: ReadSettings,
    /// The special tokens in use.
    pub special_tokens: SpecialTokens,
    /// Documents read, those passed over included.
    pub documents: usize,
    /// Of those, documents without a token of their own. They are passed over when documents are sequences; in chunks their EOS stays.
    pub empty_documents: usize,
    /// Chosen sequences that are the beginning of a longer document.
    pub cut_documents: usize,
    /// Whether there are documents behind those that were read.
    pub more_documents: bool,
}

/// Reads sequences from a file or folder of documents. Nothing is read beyond the last sequence taken.
///
/// # Errors
/// When a document cannot be read or encoded, when there are fewer sequences than [`SequenceCount::Exactly`] says (or none), when
/// chunks have no EOS token, and as [`TokenSequences::new`].
pub fn read_text(
    source: &Path,
    text_key: &str,
    tokenizer: &TextTokenizer,
    settings: ReadSettings,
    limits: ModelLimits,
) -> Result<TokenSequences, TokensError> {
    read_documents(Documents::open(source, text_key)?, tokenizer, settings, limits)
}

/// As [`read_text`], from documents that are open already.
///
/// # Errors
/// As [`read_text`].
pub fn read_documents(
    documents: Documents,
    tokenizer: &TextTokenizer,
    settings: ReadSettings,
    limits: ModelLimits,
) -> Result<TokenSequences, TokensError> {
    read_documents_within(documents, tokenizer, settings, limits, None)
}

/// As [`read_documents`], with so many bytes of memory for encoding. Most long documents need little of it, since only the beginning that
/// is kept is encoded; one that has no place where it can be cut is encoded as a whole, at
/// [`BYTES_PER_BYTE`](crate::tokenizer::BYTES_PER_BYTE) bytes a byte, and refused before that when it would take more.
///
/// # Errors
/// As [`read_text`], and [`TokenizerError::Memory`](crate::tokenizer::TokenizerError::Memory).
pub fn read_documents_within(
    documents: Documents,
    tokenizer: &TextTokenizer,
    settings: ReadSettings,
    limits: ModelLimits,
    memory: Option<u64>,
) -> Result<TokenSequences, TokensError> {
    let (asked, SequenceCount::Exactly(wanted) | SequenceCount::AtMost(wanted)) =
        (matches!(settings.count, SequenceCount::Exactly(_)), settings.count);
    for (setting, value) in [("max_seq_len", settings.max_seq_len), ("val_size", wanted)] {
        if value == 0 {
            return Err(TokensError::Setting { setting, value, least: 1 });
        }
    }
    let name = documents.source().display().to_string();
    let report = TextReport {
        text_key: documents.text_key().to_owned(),
        settings,
        special_tokens: tokenizer.special_tokens().clone(),
        documents: 0,
        empty_documents: 0,
        cut_documents: 0,
        more_documents: false,
    };
    let mut reader = Reader { documents, tokenizer, settings, wanted, allowance: Allowance { memory, name: &name }, report };
    let Taken { skipped, sequences, left } = match settings.reading {
        Reading::Documents => reader.documents()?,
        Reading::Chunks => reader.chunks()?,
    };
    let mut report = reader.report;
    // One that cannot be read is one as well.
    report.more_documents = reader.documents.next_document().is_some();
    let found = sequences.len();
    if found == 0 || (found < wanted && asked) {
        if found == 0 && report.empty_documents == report.documents && skipped == 0 {
            return Err(TokensError::NoTokens { name, documents: report.documents });
        }
        if found == 0 && settings.reading == Reading::Chunks && skipped == 0 {
            return Err(TokensError::TooShort { name, tokens: left, length: settings.max_seq_len });
        }
        let remedy = match (settings.reading, asked) {
            (Reading::Documents, true) => "lower `val_size` or `skip`, or give more documents",
            (Reading::Chunks, true) => "lower `val_size`, `skip` or `max_seq_len`, or give more text",
            (Reading::Documents, false) => "lower `skip`, or give more documents",
            (Reading::Chunks, false) => "lower `skip` or `max_seq_len`, or give more text",
        };
        return Err(TokensError::TooFew { name, found, skipped, wanted: asked.then_some(wanted), remedy });
    }
    let pad = tokenizer.special_tokens().pad.as_ref().map(|token| token.id);
    TokenSequences::new(name, sequences, limits, pad, settings.positions, Provenance::Text(Box::new(report)))
}

struct Reader<'a> {
    documents: Documents,
    tokenizer: &'a TextTokenizer,
    settings: ReadSettings,
    wanted: usize,
    allowance: Allowance<'a>,
    report: TextReport,
}

/// What came out of the documents.
struct Taken {
    /// Sequences passed over first.
    skipped: usize,
    /// The chosen ones.
    sequences: Vec<Vec<u32>>,
    /// Tokens behind the last one that fill none.
    left: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Result<Option<Document>, TokensError> {
        let document = self.documents.next_document().transpose()?;
        self.report.documents += usize::from(document.is_some());
        Ok(document)
    }

    /// Documents, one a sequence.
    fn documents(&mut self) -> Result<Taken, TokensError> {
        let mut taken = Taken { skipped: 0, sequences: Vec::new(), left: 0 };
        while taken.sequences.len() < self.wanted {
            let Some(mut document) = self.next()? else { break };
            // Of one that is passed over, only whether it has a token matters.
            let skip = taken.skipped < self.settings.skip;
            let maximum = if skip { self.tokenizer.added_tokens() + 1 } else { self.settings.max_seq_len };
            let encoded = self.tokenizer.encode_source::<_, TokensError>(&mut document, Some(maximum), self.allowance)?;
            if encoded.content == 0 {
                self.report.empty_documents += 1;
            } else if skip {
                taken.skipped += 1;
            } else {
                self.report.cut_documents += usize::from(encoded.cut);
                taken.sequences.push(encoded.ids);
            }
        }
        Ok(taken)
    }

    /// Chunks. What is skipped is not kept.
    fn chunks(&mut self) -> Result<Taken, TokensError> {
        let Some(eos) = self.tokenizer.special_tokens().eos.as_ref().map(|token| token.id) else {
            return Err(TokensError::NoEos { folder: self.tokenizer.folder().to_owned() });
        };
        let length = self.settings.max_seq_len;
        let (mut taken, mut open) = (Taken { skipped: 0, sequences: Vec::new(), left: 0 }, Vec::new());
        while taken.sequences.len() < self.wanted {
            let Some(mut document) = self.next()? else { break };
            let missing = self.settings.skip - taken.skipped + self.wanted - taken.sequences.len();
            // Two at least, which tell whether the document has a token of its own.
            let wanted = missing.saturating_mul(length).saturating_sub(open.len()).max(2);
            let ids = self.tokenizer.encode_source_after_eos::<_, TokensError>(&mut document, eos, wanted, self.allowance)?;
            self.report.empty_documents += usize::from(ids.len() == 1);
            open.extend(ids);
            let mut start = 0;
            while open.len() - start >= length && taken.sequences.len() < self.wanted {
                if taken.skipped < self.settings.skip {
                    taken.skipped += 1;
                } else {
                    taken.sequences.push(open[start..start + length].to_vec());
                }
                start += length;
            }
            open.drain(..start);
        }
        taken.left = open.len();
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::SpecialTokenOverrides;
    use crate::tokenizer::tests::{WORDS, folder};

    const LIMITS: ModelLimits = ModelLimits { vocabulary: 6, positions: Some(8) };

    fn settings(reading: Reading, max_seq_len: usize, count: SequenceCount, skip: usize) -> ReadSettings {
        ReadSettings { reading, max_seq_len, count, skip, positions: Positions::All }
    }

    /// The sequences of a file with the documents "a b c", "", "b", "c c c c", "a", and a damaged line after them.
    fn read(settings: ReadSettings, overrides: SpecialTokenOverrides, damaged: bool) -> Result<TokenSequences, TokensError> {
        let mut lines = String::new();
        for text in ["a b c", "", "b", "c c c c", "a"] {
            lines.push_str(&format!("{{\"text\": \"{text}\"}}\n"));
        }
        if damaged {
            lines.push_str("damaged\n");
        }
        let folder = folder(&[("tokenizer.json", WORDS), ("data.jsonl", &lines)]);
        let tokenizer = TextTokenizer::load(folder.path(), overrides)?;
        read_text(&folder.path().join("data.jsonl"), "text", &tokenizer, settings, LIMITS)
    }

    const PYTHIA: SpecialTokenOverrides = SpecialTokenOverrides { pad: Some(1), eos: Some(0) };

    fn sequences(tokens: &TokenSequences) -> Vec<Vec<u32>> {
        tokens.iter().map(|sequence| sequence.ids.to_vec()).collect()
    }

    fn report(tokens: &TokenSequences) -> (usize, usize, usize) {
        match tokens.provenance() {
            Provenance::Text(report) => (report.documents, report.empty_documents, report.cut_documents),
            Provenance::Ids => unreachable!("read from text"),
        }
    }

    #[test]
    fn documents_are_cut_and_empty_ones_passed_over_and_counted() {
        let tokens = read(settings(Reading::Documents, 2, SequenceCount::Exactly(3), 0), PYTHIA, true).unwrap();
        assert_eq!(sequences(&tokens), [vec![3, 4], vec![4], vec![5, 5]]);
        assert_eq!(report(&tokens), (4, 1, 2));
        let tokens = read(settings(Reading::Documents, 8, SequenceCount::Exactly(2), 2), PYTHIA, true).unwrap();
        assert_eq!(sequences(&tokens), [vec![5, 5, 5, 5], vec![3]]);
        assert_eq!(report(&tokens), (5, 1, 0));
    }

    #[test]
    fn chunks_begin_with_eos_and_the_last_short_one_is_dropped() {
        // Joined: 0 3 4 5 | 0 0 4 0 | 5 5 5 5 | 0 3
        let all = [vec![0, 3, 4, 5], vec![0, 0, 4, 0], vec![5, 5, 5, 5]];
        let tokens = read(settings(Reading::Chunks, 4, SequenceCount::AtMost(10), 0), PYTHIA, false).unwrap();
        assert_eq!(sequences(&tokens), all);
        assert_eq!(report(&tokens), (5, 1, 0));
        let tokens = read(settings(Reading::Chunks, 4, SequenceCount::Exactly(2), 1), PYTHIA, true).unwrap();
        assert_eq!(sequences(&tokens), all[1..]);
        let tokens = read(settings(Reading::Chunks, 1, SequenceCount::Exactly(3), 9), PYTHIA, true).unwrap();
        assert_eq!(sequences(&tokens), [vec![5], vec![5], vec![5]], "one document fills several chunks");
    }

    #[test]
    fn nothing_is_read_beyond_the_last_sequence() {
        let enough = settings(Reading::Documents, 8, SequenceCount::Exactly(4), 0);
        assert!(read(enough, PYTHIA, true).is_ok(), "the damaged line comes after the last sequence");
        let more = settings(Reading::Documents, 8, SequenceCount::AtMost(5), 0);
        assert!(matches!(read(more, PYTHIA, true), Err(TokensError::Text(_))));
    }

    #[test]
    fn too_few_sequences_are_refused_with_the_numbers() {
        let cases = [
            (settings(Reading::Documents, 8, SequenceCount::Exactly(4), 1), "3 sequences after 1 skipped ones, fewer than the 4"),
            (
                settings(Reading::Documents, 8, SequenceCount::AtMost(4), 9),
                "0 sequences after 4 skipped ones, so that none is left: lower `skip`",
            ),
            (settings(Reading::Chunks, 8, SequenceCount::Exactly(2), 0), "1 sequences after 0 skipped ones, fewer than the 2"),
            (settings(Reading::Chunks, 8, SequenceCount::Exactly(2), 0), "lower `val_size`, `skip` or `max_seq_len`"),
            (settings(Reading::Chunks, 100, SequenceCount::AtMost(2), 0), "have 14 tokens together, fewer than one sequence of 100"),
            (settings(Reading::Chunks, 0, SequenceCount::AtMost(2), 0), "`max_seq_len` is 0"),
            (settings(Reading::Documents, 8, SequenceCount::AtMost(0), 0), "`val_size` is 0"),
        ];
        for (settings, expected) in cases {
            let message = read(settings, PYTHIA, false).unwrap_err().to_string();
            assert!(message.contains(expected), "`{message}` should contain `{expected}`");
        }
        let plenty = settings(Reading::Documents, 8, SequenceCount::AtMost(100), 0);
        assert_eq!(read(plenty, PYTHIA, false).unwrap().count(), 4);
    }

    #[test]
    fn documents_without_a_token_are_said_to_be_so() {
        for reading in [Reading::Documents, Reading::Chunks] {
            let folder = folder(&[("tokenizer.json", WORDS), ("data.jsonl", "{\"text\": \"\"}\n{\"text\": \" \\n\"}\n")]);
            let tokenizer = TextTokenizer::load(folder.path(), PYTHIA).unwrap();
            for count in [SequenceCount::AtMost(10), SequenceCount::Exactly(3)] {
                let problem = read_text(&folder.path().join("data.jsonl"), "text", &tokenizer, settings(reading, 4, count, 0), LIMITS);
                let message = problem.unwrap_err().to_string();
                assert!(message.contains("none of the 2 documents") && message.contains("data.jsonl"), "{message}");
            }
        }
    }

    #[test]
    fn chunks_need_an_eos_token_and_documents_do_not() {
        let none = SpecialTokenOverrides::default();
        let error = read(settings(Reading::Chunks, 4, SequenceCount::AtMost(1), 0), none, false).unwrap_err();
        assert!(matches!(error, TokensError::NoEos { .. }), "{error}");
        let tokens = read(settings(Reading::Documents, 4, SequenceCount::AtMost(1), 0), none, false).unwrap();
        assert_eq!((tokens.pad(), tokens.kept_count()), (None, 3));
    }

    #[test]
    fn the_model_limits_apply() {
        let foreign = SpecialTokenOverrides { pad: None, eos: Some(6) };
        let message = read(settings(Reading::Chunks, 4, SequenceCount::AtMost(1), 0), foreign, false).unwrap_err().to_string();
        assert!(message.contains("token 6") && message.contains("0..6"), "{message}");
        let message = read(settings(Reading::Chunks, 9, SequenceCount::AtMost(1), 0), PYTHIA, false).unwrap_err().to_string();
        assert!(message.contains("9 tokens") && message.contains("8 positions"), "{message}");
    }
}
