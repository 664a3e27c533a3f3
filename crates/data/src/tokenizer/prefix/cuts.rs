//! Places where a text can be cut so that the tokens before them stay what they are.
//!
//! A place is told from the characters around it. It is one where every step of the tokenizer goes the same way before it, whatever stands
//! behind it, and where one of the steps ends a word in any case:
//!
//! - no added token holds the two characters side by side, or takes up white space across the place;
//! - the normalizer leaves the characters apart ([`Steps`]);
//! - no expression of the pre-tokenizer joins them ([`Pattern::joins`]);
//! - and either the pre-tokenizer splits there, or the model has no word that holds them side by side, so that its merges, or its best
//!   path, never cross.

use std::collections::HashSet;
use std::sync::OnceLock;

use serde_json::Value;
use tokenizers::models::ModelWrapper;
use tokenizers::{AddedToken, Model, NormalizedString, Normalizer, Tokenizer};

use super::normalize::{Around, Steps};
use super::pattern::{Cache, Pattern};

/// The expression of the byte-level pre-tokenizer, which `tokenizers` has built in.
const BYTE_LEVEL: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// That of the pre-tokenizer `Whitespace`.
const WORDS: &str = r"\w+|[^\w\s]+";

/// What is known of a tokenizer.
pub(super) struct Cuts {
    steps: Steps,
    splitters: Vec<Splitter>,
    /// Whether texts become characters that stand for bytes before the model sees them.
    is_bytes: bool,
    added: Added,
    joined: OnceLock<Joined>,
}

/// A step of a pre-tokenizer.
enum Splitter {
    Pattern {
        pattern: Box<Pattern>,
        at_ends: bool,
        at_starts: bool,
    },
    Metaspace {
        replacement: char,
        splits: bool,
    },
    Digits {
        individual: bool,
    },
    /// White space goes, and what is left falls apart there.
    WhiteSpace,
    Delimiter(char),
    /// Splits by what stands before each character only, where is not told.
    LeftToRight,
}

/// What added tokens hold that matters at a place.
#[derive(Default)]
struct Added {
    pairs: HashSet<(char, char)>,
    /// Last characters of tokens that must be words of their own.
    word_ends: HashSet<char>,
    /// First characters of tokens that take up white space before them.
    strips_before: HashSet<char>,
    strips_after: bool,
}

/// Characters side by side in words of the model, and characters that are words.
#[derive(Default)]
struct Joined {
    pairs: HashSet<(char, char)>,
    single: HashSet<char>,
    /// Whether the model never works across other pairs. One that knows whole words only does.
    tells: bool,
}

/// What is kept between places of one text.
#[derive(Default)]
pub(super) struct Caches {
    steps: Vec<Cache>,
    splitters: Vec<Cache>,
    known: std::collections::HashMap<Around, bool>,
}

impl Cuts {
    /// Understands a tokenizer; `None` when it has a part that is not understood, and texts have to be encoded as wholes.
    pub(super) fn new(tokenizer: &Tokenizer) -> Option<Self> {
        let steps = Steps::new(tokenizer.get_normalizer())?;
        let (mut splitters, mut is_bytes) = (Vec::new(), false);
        if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
            collect(&serde_json::to_value(pre_tokenizer).ok()?, &mut splitters, &mut is_bytes)?;
        }
        let added = Added::new(tokenizer)?;
        if let ModelWrapper::BPE(model) = tokenizer.get_model()
            && model.dropout.is_some_and(|share| share > 0.0)
        {
            return None;
        }
        Some(Self { steps, splitters, is_bytes, added, joined: OnceLock::new() })
    }

    /// Whether a text can be cut between the two inner characters.
    pub(super) fn is_safe(&self, around: Around, model: &ModelWrapper, caches: &mut Caches) -> bool {
        if let Some(&known) = caches.known.get(&around) {
            return known;
        }
        let safe = self.decide(around, model, caches).unwrap_or(false);
        caches.known.insert(around, safe);
        safe
    }

    fn decide(&self, around: Around, model: &ModelWrapper, caches: &mut Caches) -> Option<bool> {
        if !self.added.leaves(around.before, around.after) {
            return Some(false);
        }
        let normal = self.steps.apply(around, &mut caches.steps)?;
        let (mut before, mut after) = (normal.before, normal.after);
        if !self.added.leaves(before, after) {
            return Some(false);
        }
        caches.splitters.resize_with(caches.splitters.len().max(self.splitters.len()), Cache::default);
        let mut splits = false;
        for (splitter, cache) in self.splitters.iter().zip(&mut caches.splitters) {
            match splitter {
                Splitter::Pattern { pattern, at_ends, at_starts } => {
                    if pattern.joins(Some(before), Some(after), cache) {
                        return Some(false);
                    }
                    splits |= (*at_ends && pattern.matches_alone(before, cache)) || (*at_starts && pattern.matches_alone(after, cache));
                }
                Splitter::Metaspace { replacement, splits: own } => {
                    let replaced = |letter| if letter == ' ' { *replacement } else { letter };
                    (before, after) = (replaced(before), replaced(after));
                    splits |= *own && after == *replacement;
                }
                Splitter::Digits { individual } => {
                    let (before, after) = (before.is_numeric(), after.is_numeric());
                    splits |= before != after || (*individual && before);
                }
                Splitter::WhiteSpace => splits |= before.is_whitespace() || after.is_whitespace(),
                Splitter::Delimiter(delimiter) => splits |= before == *delimiter || after == *delimiter,
                Splitter::LeftToRight => {}
            }
        }
        if self.is_bytes {
            (before, after) = (byte_letter(before, true), byte_letter(after, false));
        }
        Some(splits || self.joined.get_or_init(|| Joined::new(model)).leaves(before, after))
    }
}

/// The steps of a pre-tokenizer.
fn collect(pre_tokenizer: &Value, splitters: &mut Vec<Splitter>, is_bytes: &mut bool) -> Option<()> {
    // After it, expressions would read characters that stand for bytes.
    if *is_bytes {
        return None;
    }
    let flag = |name: &str| pre_tokenizer.get(name).and_then(Value::as_bool);
    let letter = |name: &str| pre_tokenizer.get(name)?.as_str()?.chars().next();
    let pattern =
        |expression: &str| Some(Splitter::Pattern { pattern: Box::new(Pattern::new(expression)?), at_ends: true, at_starts: true });
    splitters.push(match pre_tokenizer.get("type")?.as_str()? {
        "Sequence" => {
            let parts = pre_tokenizer.get("pretokenizers")?.as_array()?;
            return parts.iter().try_for_each(|part| collect(part, splitters, is_bytes));
        }
        "ByteLevel" => {
            *is_bytes = true;
            if !flag("use_regex").unwrap_or(true) {
                return Some(());
            }
            pattern(BYTE_LEVEL)?
        }
        "Split" => {
            let source = pre_tokenizer.get("pattern")?;
            let expression = match (source.get("String"), source.get("Regex")) {
                (Some(text), _) => regex::escape(text.as_str()?),
                (_, expression) => expression?.as_str()?.to_owned(),
            };
            let (mut at_ends, mut at_starts) = match pre_tokenizer.get("behavior")?.as_str()? {
                "Isolated" | "Removed" => (true, true),
                "MergedWithPrevious" => (true, false),
                "MergedWithNext" => (false, true),
                _ => (false, false),
            };
            if flag("invert")? && at_ends != at_starts {
                (at_ends, at_starts) = (false, false);
            }
            Splitter::Pattern { pattern: Box::new(Pattern::new(&expression)?), at_ends, at_starts }
        }
        "Metaspace" => Splitter::Metaspace { replacement: letter("replacement")?, splits: flag("split").unwrap_or(true) },
        "Whitespace" => pattern(WORDS)?,
        "WhitespaceSplit" | "BertPreTokenizer" => Splitter::WhiteSpace,
        "CharDelimiterSplit" => Splitter::Delimiter(letter("delimiter")?),
        "Digits" => Splitter::Digits { individual: flag("individual_digits")? },
        "Punctuation" | "UnicodeScripts" | "FixedLength" => Splitter::LeftToRight,
        _ => return None,
    });
    Some(())
}

impl Added {
    fn new(tokenizer: &Tokenizer) -> Option<Self> {
        let mut added = Self::default();
        for token in tokenizer.get_added_vocabulary().get_added_tokens_decoder().values() {
            added.note(token, &token.content);
            if token.normalized
                && let Some(normalizer) = tokenizer.get_normalizer()
            {
                let mut text = NormalizedString::from(token.content.as_str());
                normalizer.normalize(&mut text).ok()?;
                added.note(token, text.get());
            }
        }
        Some(added)
    }

    fn note(&mut self, token: &AddedToken, content: &str) {
        let letters: Vec<char> = content.chars().collect();
        self.pairs.extend(letters.windows(2).map(|pair| (pair[0], pair[1])));
        if token.single_word {
            self.word_ends.extend(letters.last());
        }
        if token.lstrip {
            self.strips_before.extend(letters.first());
        }
        self.strips_after |= token.rstrip;
    }

    /// Whether no added token reaches across the place between these characters, or looks across it.
    fn leaves(&self, before: char, after: char) -> bool {
        if self.pairs.contains(&(before, after)) || self.word_ends.contains(&before) {
            return false;
        }
        // White space before the place, which a token behind it may take up, or one before it together with what follows.
        let (space_before, space_after) = (before.is_whitespace(), after.is_whitespace());
        !(space_before && (self.strips_before.contains(&after) || (space_after && (self.strips_after || !self.strips_before.is_empty()))))
    }
}

impl Joined {
    fn new(model: &ModelWrapper) -> Self {
        let is_empty = |text: &Option<String>| text.as_ref().is_none_or(String::is_empty);
        match model {
            // What is a word as a whole is not merged: a text cut in two may have such a half.
            ModelWrapper::BPE(model) if model.ignore_merges => return Self::default(),
            ModelWrapper::BPE(model) if is_empty(&model.continuing_subword_prefix) && is_empty(&model.end_of_word_suffix) => {}
            ModelWrapper::Unigram(_) => {}
            _ => return Self::default(),
        }
        let mut joined = Self { tells: true, ..Self::default() };
        for word in model.get_vocab().keys() {
            let mut letters = word.chars();
            let Some(mut last) = letters.next() else { continue };
            if letters.as_str().is_empty() {
                joined.single.insert(last);
            }
            for letter in letters {
                joined.pairs.insert((last, letter));
                last = letter;
            }
        }
        joined
    }

    /// Whether no word holds the characters side by side. Both have to be words themselves, so that nothing unknown is there, which could be
    /// fused.
    fn leaves(&self, before: char, after: char) -> bool {
        self.tells && self.single.contains(&before) && self.single.contains(&after) && !self.pairs.contains(&(before, after))
    }
}

/// The character that stands for the last or the first byte of a character, in the byte-level alphabet of GPT-2.
fn byte_letter(letter: char, is_last: bool) -> char {
    let mut buffer = [0; 4];
    let bytes = letter.encode_utf8(&mut buffer).as_bytes();
    let byte = if is_last { bytes[bytes.len() - 1] } else { bytes[0] };
    // Bytes without a visible character of their own are numbered from 256 on.
    let visible = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if visible(byte) {
        return char::from(byte);
    }
    let number = (0..byte).filter(|&byte| !visible(byte)).count() as u32;
    char::from_u32(256 + number).unwrap_or(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_bytes_are_those_of_the_library() {
        let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        let ascii: HashSet<char> = (0u8..128).map(|byte| byte_letter(char::from(byte), true)).collect();
        assert!(ascii.len() == 128 && ascii.iter().all(|letter| alphabet.contains(letter)));
        assert_eq!((byte_letter(' ', true), byte_letter('\n', true), byte_letter('a', false)), ('Ġ', 'Ċ', 'a'));
        assert_eq!((byte_letter('é', false), byte_letter('é', true)), ('Ã', '©'));
    }
}
