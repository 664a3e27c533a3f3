//! The first tokens of a text, at a cost near theirs.
//!
//! Of a long text of which a few tokens are wanted, a beginning is encoded that is cut where the tokens before the cut are those of the
//! whole text ([`cuts`]), and a longer one when it has too few. Texts without such a place near enough (one word of many megabytes, or a
//! tokenizer with a part that is not understood) are encoded as wholes: that costs [`BYTES_PER_BYTE`] bytes of memory for every byte of
//! text, and is refused when it is more than is allowed.

mod cuts;
mod normalize;
mod pattern;

use std::sync::OnceLock;

use tokenizers::utils::truncation::TruncationDirection;
use tokenizers::{Encoding, Model, OffsetType, PreTokenizer, Tokenizer};

use self::cuts::{Caches, Cuts};
use self::normalize::Around;
use crate::guard::guarded;

/// Bytes of memory that encoding takes for a byte of text, at most. Measured, with byte-level and other tokenizers: 110 for English, 140 for
/// one word of 5 MB, 190 for emoji, 280 for words of one letter.
pub const BYTES_PER_BYTE: u64 = 300;

/// Texts up to this length are encoded as they are, and allowed to be.
const SHORT: usize = 64;

/// Places that are tried for one beginning.
const PLACES: usize = 1 << 16;

/// A text that is there, or is read as far as it is asked for.
pub(crate) trait Source {
    /// Why it could not be read.
    type Fault;

    /// The text as far as it is read.
    fn text(&self) -> &str;

    /// Whether that is all of it.
    fn is_whole(&self) -> bool;

    /// Reads on until there are `least` bytes, or all of it.
    fn grow(&mut self, least: usize) -> Result<(), Self::Fault>;
}

/// A text that is there.
impl Source for &str {
    type Fault = std::convert::Infallible;

    fn text(&self) -> &str {
        self
    }

    fn is_whole(&self) -> bool {
        true
    }

    fn grow(&mut self, _: usize) -> Result<(), Self::Fault> {
        Ok(())
    }
}

/// Why the first tokens are not to be had.
pub(super) enum Fault<S> {
    /// The text cannot be read.
    Source(S),
    /// The tokenizer fails.
    Tokenizer(String),
    /// Encoding this many bytes would take more memory than is allowed.
    Memory(usize),
}

/// The first tokens of a text.
pub(super) struct Beginning {
    /// As many as were asked for, or a few more, or all of them.
    pub(super) encoding: Encoding,
    /// Whether these are all.
    pub(super) is_all: bool,
}

/// What is known about where texts can be cut, found out when it is needed first.
#[derive(Default)]
pub(super) struct Beginnings {
    cuts: OnceLock<Option<Cuts>>,
}

impl Beginnings {
    /// At least `wanted` tokens of a text, or all that it has, encoded in pieces for which `allowed` bytes of memory are enough.
    pub(super) fn of<S: Source>(
        &self,
        tokenizer: &Tokenizer,
        source: &mut S,
        wanted: usize,
        allowed: Option<u64>,
    ) -> Result<Beginning, Fault<S::Fault>> {
        let encode = |text: &str| {
            if allowed.is_some_and(|allowed| text.len() as u64 * BYTES_PER_BYTE > allowed.max(SHORT as u64 * BYTES_PER_BYTE)) {
                return Err(Fault::Memory(text.len()));
            }
            tokens(tokenizer, text, wanted).map_err(Fault::Tokenizer)
        };
        let mut caches = Caches::default();
        // A token has four or five bytes in most texts.
        let mut length = wanted.saturating_mul(8).saturating_add(SHORT);
        let mut done = 0;
        loop {
            // Two characters more: what stands behind a place decides about it.
            source.grow(length.saturating_add(8)).map_err(Fault::Source)?;
            let text = source.text();
            if source.is_whole() && text.len() <= length {
                let encoding = encode(text)?;
                let is_all = encoding.len() < wanted;
                return Ok(Beginning { encoding, is_all });
            }
            let cuts = self.cuts.get_or_init(|| Cuts::new(tokenizer)).as_ref();
            if let Some(end) = cuts.and_then(|cuts| last_cut(cuts, tokenizer, text, done, length, &mut caches)) {
                let encoding = encode(&text[..end])?;
                if encoding.len() >= wanted {
                    return Ok(Beginning { encoding, is_all: false });
                }
                done = end;
            }
            // Without a place to cut the whole text would be read piece by piece, which is no cheaper.
            length = if cuts.is_none() { usize::MAX - 8 } else { length.saturating_mul(2).min(usize::MAX - 8) };
        }
    }
}

/// The last place between two lengths where a text can be cut.
fn last_cut(cuts: &Cuts, tokenizer: &Tokenizer, text: &str, least: usize, most: usize, caches: &mut Caches) -> Option<usize> {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut behind = text[end..].chars();
    let mut after = behind.next();
    let mut outer_after = behind.next();
    for _ in 0..PLACES {
        if end <= least {
            return None;
        }
        let mut ahead = text[..end].chars().rev();
        let before = ahead.next()?;
        // What comes after the last characters that were read is not known yet.
        if let Some(after) = after.filter(|_| outer_after.is_some()) {
            let around = Around { outer_before: ahead.next(), before, after, outer_after };
            if cuts.is_safe(around, tokenizer.get_model(), caches) {
                return Some(end);
            }
        }
        (outer_after, after) = (after, Some(before));
        end -= before.len_utf8();
    }
    None
}

/// The tokens of a text, at least `wanted` of them or all: words behind those are not looked up.
pub(super) fn tokens(tokenizer: &Tokenizer, text: &str, wanted: usize) -> Result<Encoding, String> {
    guarded("its files are damaged", || encode(tokenizer, text, wanted))
}

fn encode(tokenizer: &Tokenizer, text: &str, wanted: usize) -> tokenizers::Result<Encoding> {
    let mut words = tokenizer.get_added_vocabulary().extract_and_normalize(tokenizer.get_normalizer(), text);
    if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
        pre_tokenizer.pre_tokenize(&mut words)?;
    }
    tokenizer.get_model().tokenize_in_pretokenized(&mut words, Some((wanted, TruncationDirection::Right)))?;
    words.into_encoding(None, 0, OffsetType::None)
}

#[cfg(test)]
mod tests;
