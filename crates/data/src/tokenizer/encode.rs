//! Ids of texts: of one with the special tokens around it, or of one that is joined to others.

use tokenizers::utils::truncation::TruncationDirection;

use super::prefix::{Beginning, Fault, Source, tokens};
use super::{EncodedText, TextTokenizer, TokenizerError};
use crate::guard::guarded;
use crate::text::{Document, TextError};

/// A document is read as far as its tokens are wanted.
impl Source for Document {
    type Fault = TextError;

    fn text(&self) -> &str {
        Document::text(self)
    }

    fn is_whole(&self) -> bool {
        Document::is_whole(self)
    }

    fn grow(&mut self, least: usize) -> Result<(), TextError> {
        Document::grow(self, least)
    }
}

/// The beginning of a joined text: EOS, a document, and EOS again.
struct Framed<'a, S> {
    separator: &'a str,
    source: &'a mut S,
    text: String,
    /// Bytes of the document that are in the text already.
    copied: usize,
    closed: bool,
}

impl<S: Source> Source for Framed<'_, S> {
    type Fault = S::Fault;

    fn text(&self) -> &str {
        &self.text
    }

    fn is_whole(&self) -> bool {
        self.closed
    }

    fn grow(&mut self, least: usize) -> Result<(), S::Fault> {
        while !self.closed && self.text.len() < least {
            self.source.grow(least)?;
            // Only as much as is wanted, so that a long document which is there is not copied as a whole.
            let rest = &self.source.text()[self.copied..];
            let mut length = rest.len().min(least.saturating_sub(self.text.len()));
            while !rest.is_char_boundary(length) {
                length += 1;
            }
            self.text.push_str(&rest[..length]);
            self.copied += length;
            if length == rest.len() && self.source.is_whole() {
                self.text.push_str(self.separator);
                self.closed = true;
            }
        }
        Ok(())
    }
}

/// Memory that encoding may take, and what the text belongs to, for the message when that is not enough.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance<'a> {
    /// Bytes; `None` for any number.
    pub(crate) memory: Option<u64>,
    /// The file or folder of the text.
    pub(crate) name: &'a str,
}

impl TextTokenizer {
    /// The ids of `text` with the special tokens that the post-processor of the tokenizer adds: the `input_ids` of transformers'
    /// `tokenizer(text, truncation=True, max_length=maximum)`, or without the two options for `None`. The text is cut, not the special
    /// tokens around it.
    ///
    /// Of a long text only a beginning is encoded that has `maximum` tokens, cut where they do not depend on what follows. Where there is no
    /// such place (a single word of megabytes; a tokenizer with steps of an unknown kind), the whole text is encoded, at
    /// [`BYTES_PER_BYTE`](super::BYTES_PER_BYTE) bytes of memory for a byte of text.
    ///
    /// # Errors
    /// When the tokenizer fails, or `maximum` leaves no room for the text.
    pub fn encode(&self, mut text: &str, maximum: Option<usize>) -> Result<EncodedText, TokenizerError> {
        self.encode_source(&mut text, maximum, Allowance { memory: None, name: "" })
    }

    /// As [`TextTokenizer::encode`], of a text that may not be read yet.
    pub(crate) fn encode_source<S: Source, E>(
        &self,
        source: &mut S,
        maximum: Option<usize>,
        allowance: Allowance<'_>,
    ) -> Result<EncodedText, E>
    where
        E: From<TokenizerError> + From<S::Fault>,
    {
        let room = match maximum {
            Some(maximum) if maximum <= self.added => return Err(TokenizerError::NoRoom { maximum, special: self.added }.into()),
            maximum => maximum.map_or(usize::MAX, |maximum| maximum - self.added),
        };
        // One more than there is room for tells whether the text is cut.
        let mut encoding = self.beginning::<_, E>(source, room.saturating_add(1), allowance)?.encoding;
        let cut = encoding.len() > room;
        if cut {
            encoding.truncate(room, 0, TruncationDirection::Right);
            // The rest is of no use, and the post-processor would work on it.
            encoding.take_overflowing();
        }
        let content = encoding.len();
        let whole = guarded("its files are damaged", || self.tokenizer.post_process(encoding, None, true));
        let encoding = whole.map_err(|problem| self.fault(source.text(), problem))?;
        Ok(EncodedText { ids: encoding.get_ids().to_vec(), content, cut })
    }

    /// EOS and then the ids of `text`, without other special tokens: one document of an EOS-joined text. Joining the results gives the
    /// `input_ids` of transformers' `tokenizer(eos + first + eos + second + ..., add_special_tokens=False)`.
    ///
    /// Documents are encoded with EOS written around them, because tokenizers may treat the beginning of a text apart (a word separator
    /// is put before the first word only) and EOS may take up the white space beside it. Where the tokenizer does not recognise EOS
    /// inside a text, its id is put before the ids of the text. (White space at the very end of the last document is the one thing that
    /// can differ from transformers, when EOS takes it up: there, no EOS follows.)
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode_after_eos(&self, mut text: &str, eos: u32) -> Result<Vec<u32>, TokenizerError> {
        self.encode_source_after_eos(&mut text, eos, usize::MAX, Allowance { memory: None, name: "" })
    }

    /// As [`TextTokenizer::encode_after_eos`], the first `wanted` ids, or all if there are fewer, of a text that may not be read yet.
    pub(crate) fn encode_source_after_eos<S: Source, E>(
        &self,
        source: &mut S,
        eos: u32,
        wanted: usize,
        allowance: Allowance<'_>,
    ) -> Result<Vec<u32>, E>
    where
        E: From<TokenizerError> + From<S::Fault>,
    {
        if let Some(separator) = &self.separator {
            // EOS behind the text is recognised whatever the text is, or it has to be there to see.
            let wanted = if self.ends_in_any_case(separator) { wanted } else { usize::MAX };
            let text = separator.clone();
            let mut framed = Framed { separator, source: &mut *source, text, copied: 0, closed: false };
            // One more, which may be that EOS.
            let Beginning { encoding, is_all } = self.beginning::<_, E>(&mut framed, wanted.saturating_add(1), allowance)?;
            let ids = encoding.get_ids();
            if ids.first() == Some(&eos) && !is_all {
                return Ok(ids[..wanted].to_vec());
            }
            if let [first, content @ .., last] = ids
                && [*first, *last] == [eos, eos]
            {
                return Ok([&[eos], content].concat());
            }
        }
        let mut ids = vec![eos];
        ids.extend(self.beginning::<_, E>(source, wanted.saturating_sub(1), allowance)?.encoding.get_ids());
        ids.truncate(wanted);
        Ok(ids)
    }

    /// Whether a separator behind any text is taken for what it is: it is an added token that is looked for in the text as it is written,
    /// and no other one can hold its beginning.
    fn ends_in_any_case(&self, separator: &str) -> bool {
        let tokens = self.tokenizer.get_added_vocabulary().get_added_tokens_decoder();
        let own = tokens.values().find(|token| token.content == separator);
        let Some(first) = separator.chars().next().filter(|_| own.is_some_and(|own| !own.normalized && !own.single_word)) else {
            return false;
        };
        !tokens.values().any(|token| token.content.chars().skip(1).any(|letter| letter == first))
    }

    fn beginning<S: Source, E>(&self, source: &mut S, wanted: usize, allowance: Allowance<'_>) -> Result<Beginning, E>
    where
        E: From<TokenizerError> + From<S::Fault>,
    {
        self.beginnings.of(&self.tokenizer, source, wanted, allowance.memory).map_err(|fault| match fault {
            Fault::Source(fault) => fault.into(),
            Fault::Tokenizer(problem) => self.fault(source.text(), problem).into(),
            Fault::Memory(bytes) => {
                let (name, beginning) = (allowance.name.to_owned(), beginning_of(source.text()));
                TokenizerError::Memory { name, beginning, bytes, allowed: allowance.memory.unwrap_or_default() }.into()
            }
        })
    }

    /// The ids of a text, without special tokens.
    pub(super) fn ids(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        tokens(&self.tokenizer, text, usize::MAX).map(|encoding| encoding.get_ids().to_vec()).map_err(|problem| self.fault(text, problem))
    }

    fn fault(&self, text: &str, problem: String) -> TokenizerError {
        TokenizerError::Encode { folder: self.folder.clone(), beginning: beginning_of(text), problem }
    }
}

/// The first characters of a text, for messages.
fn beginning_of(text: &str) -> String {
    text.chars().take(40).collect()
}
