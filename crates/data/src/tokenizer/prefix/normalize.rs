//! What a normalizer makes of the characters around a place, where that is certain whatever the rest of the text is.

use serde_json::Value;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::{NormalizedString, Normalizer};

use super::pattern::{Cache, Pattern};

/// The characters around a place in a text: the two before it and the two after it. The outer ones may be unknown, or have become so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Around {
    pub(super) outer_before: Option<char>,
    pub(super) before: char,
    pub(super) after: char,
    pub(super) outer_after: Option<char>,
}

/// The steps of a normalizer, as far as they are understood.
pub(super) struct Steps(Vec<Step>);

enum Step {
    /// Every character of ASCII becomes what it becomes alone, next to other ones of ASCII. For lower case the same holds of all characters.
    EachAlone { normalizer: NormalizerWrapper, ascii_only: bool },
    /// Composition of characters with marks that follow them.
    Compose,
    /// Strips white space at the ends.
    Strip,
    /// Puts something at the beginning.
    Prepend,
    /// Replaces a text.
    Replace { text: String, content: String },
    /// Replaces what an expression matches.
    ReplaceMatches { pattern: Box<Pattern> },
}

impl Steps {
    /// Understands a normalizer; `None` when a step is of a kind that is not known.
    pub(super) fn new(normalizer: Option<&NormalizerWrapper>) -> Option<Self> {
        let mut steps = Vec::new();
        if let Some(normalizer) = normalizer {
            collect(&serde_json::to_value(normalizer).ok()?, &mut steps)?;
        }
        Some(Self(steps))
    }

    /// What the characters around a place become. When this is `Some`, what becomes of the text before the place does not depend on what
    /// stands behind it, and the place is where the two results meet.
    pub(super) fn apply(&self, around: Around, caches: &mut Vec<Cache>) -> Option<Around> {
        caches.resize_with(caches.len().max(self.0.len()), Cache::default);
        self.0.iter().zip(caches).try_fold(around, |around, (step, cache)| step.apply(around, cache))
    }
}

fn collect(normalizer: &Value, steps: &mut Vec<Step>) -> Option<()> {
    let text = |name: &str| Some(normalizer.get(name)?.as_str()?.to_owned());
    let alone = |ascii_only| {
        let normalizer = serde_json::from_value(normalizer.clone()).ok()?;
        Some(Step::EachAlone { normalizer, ascii_only })
    };
    steps.push(match normalizer.get("type")?.as_str()? {
        "Sequence" => return normalizer.get("normalizers")?.as_array()?.iter().try_for_each(|step| collect(step, steps)),
        "BertNormalizer" | "Precompiled" | "NFD" | "NFKC" | "NFKD" | "Nmt" | "StripAccents" => alone(true)?,
        "Lowercase" => alone(false)?,
        "NFC" => Step::Compose,
        "Strip" => Step::Strip,
        "Prepend" => Step::Prepend,
        "Replace" => {
            let pattern = normalizer.get("pattern")?;
            match (pattern.get("String"), pattern.get("Regex")) {
                (Some(text_), _) => Step::Replace { text: text_.as_str()?.to_owned(), content: text("content")? },
                (_, Some(expression)) => Step::ReplaceMatches { pattern: Box::new(Pattern::new(expression.as_str()?)?) },
                _ => return None,
            }
        }
        _ => return None,
    });
    Some(())
}

impl Around {
    fn all(self) -> impl Iterator<Item = char> {
        [self.outer_before, Some(self.before), Some(self.after), self.outer_after].into_iter().flatten()
    }

    /// Changes every character by itself, the first and last of what it becomes counting.
    fn map(self, change: impl Fn(char) -> Option<Vec<char>>) -> Option<Self> {
        Some(Self {
            outer_before: self.outer_before.and_then(|letter| change(letter)?.last().copied()),
            before: *change(self.before)?.last()?,
            after: *change(self.after)?.first()?,
            outer_after: self.outer_after.and_then(|letter| change(letter)?.first().copied()),
        })
    }
}

impl Step {
    fn apply(&self, around: Around, cache: &mut Cache) -> Option<Around> {
        match self {
            Self::EachAlone { normalizer, ascii_only } => {
                // Marks change the letters before them, and a carriage return stays with its line feed.
                let known = around.outer_before.is_some() && around.outer_after.is_some();
                let letters: Vec<char> = around.all().collect();
                let joined = letters.windows(2).any(|pair| pair == ['\r', '\n']);
                if *ascii_only && (!known || joined || !letters.iter().all(char::is_ascii)) {
                    return None;
                }
                around.map(|letter| {
                    let mut text = NormalizedString::from(letter.to_string());
                    normalizer.normalize(&mut text).ok()?;
                    let become_: Vec<char> = text.get().chars().collect();
                    (!become_.is_empty()).then_some(become_)
                })
            }
            Self::Compose => {
                let known = around.outer_before.is_some() && around.outer_after.is_some();
                (known && around.all().all(stands_alone)).then_some(around)
            }
            // A text that ends in white space would lose it; what is stripped at the beginning ends before a character that is none.
            Self::Strip => (!around.before.is_whitespace()).then_some(around),
            Self::Prepend => Some(around),
            Self::Replace { text, content } => {
                let mut letters = text.chars();
                match (letters.next(), letters.next()) {
                    (Some(only), None) => around.map(|letter| {
                        let become_: Vec<char> = if letter == only { content.chars().collect() } else { vec![letter] };
                        (!become_.is_empty()).then_some(become_)
                    }),
                    (Some(_), Some(_)) => around.all().all(|letter| !text.contains(letter)).then_some(around),
                    (None, _) => Some(around),
                }
            }
            Self::ReplaceMatches { pattern } => {
                let Around { outer_before, before, after, outer_after } = around;
                let stays =
                    pattern.leaves(outer_before, before, Some(after), cache) && pattern.leaves(Some(before), after, outer_after, cache);
                let mut outer = |letter: Option<char>, inside: char, is_before: bool| {
                    let letter = letter?;
                    let (left, right) = if is_before { (None, Some(inside)) } else { (Some(inside), None) };
                    pattern.leaves(left, letter, right, cache).then_some(letter)
                };
                let outer_before = outer(outer_before, before, true);
                let outer_after = outer(outer_after, after, false);
                stays.then_some(Around { outer_before, before, after, outer_after })
            }
        }
    }
}

/// Characters that never change under composition (NFC), whatever stands around them but marks: neither themselves marks, nor parts of
/// syllables that join. A safe choice, not all there are.
fn stands_alone(letter: char) -> bool {
    matches!(letter,
        '\0'..='\u{2ff}'
        | '\u{370}'..='\u{373}' | '\u{376}'..='\u{377}' | '\u{388}'..='\u{3ff}'
        | '\u{400}'..='\u{482}' | '\u{48a}'..='\u{52f}'
        | '\u{531}'..='\u{556}' | '\u{561}'..='\u{586}'
        | '\u{5d0}'..='\u{5ea}' | '\u{620}'..='\u{64a}'
        | '\u{e01}'..='\u{e30}' | '\u{e40}'..='\u{e46}'
        | '\u{10a0}'..='\u{10ff}'
        | '\u{1e00}'..='\u{1eff}'
        | '\u{2010}'..='\u{205e}' | '\u{20a0}'..='\u{20bf}' | '\u{2190}'..='\u{21ff}'
        | '\u{3001}'..='\u{3029}' | '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30fa}' | '\u{30fc}'
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{ff01}'..='\u{ff5e}'
        | '\u{1f300}'..='\u{1f64f}' | '\u{1f680}'..='\u{1f6ff}' | '\u{1f900}'..='\u{1f9ff}')
        && letter != '\u{387}'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nfc(text: &str) -> String {
        let mut text = NormalizedString::from(text);
        tokenizers::normalizers::NFC.normalize(&mut text).unwrap();
        text.get().to_owned()
    }

    #[test]
    fn characters_that_stand_alone_do_not_change_under_composition() {
        let alone: Vec<char> = ('\0'..=char::MAX).filter(|&letter| stands_alone(letter)).collect();
        assert!(alone.len() > 40_000);
        // A composition would show with one of these before or after.
        let partners = ['a', 'e', 'o', '<', '=', 'é', 'α', 'и', 'か', '\u{1100}', '가', '각', '\u{5d0}', '\u{627}', ' '];
        for &letter in &alone {
            assert_eq!(nfc(&letter.to_string()), letter.to_string(), "{letter:?}");
        }
        for &letter in alone.iter().filter(|&&letter| !('\u{3500}'..='\u{4d00}').contains(&letter)).step_by(3) {
            for partner in partners {
                let (before, after) = (format!("{letter}{partner}"), format!("{partner}{letter}"));
                assert!(!stands_alone(partner) || nfc(&before) == before, "{before:?}");
                let expected = format!("{}{letter}", nfc(&partner.to_string()));
                assert_eq!(nfc(&after), expected, "{after:?}");
            }
        }
        assert!(!stands_alone('\u{301}') && !stands_alone('\u{1161}') && !stands_alone('\u{3099}'));
    }

    fn steps(json: &str) -> Option<Steps> {
        Steps::new(Some(&serde_json::from_str(json).unwrap()))
    }

    fn around(text: &str) -> Around {
        let letters: Vec<char> = text.chars().collect();
        Around { outer_before: Some(letters[0]), before: letters[1], after: letters[2], outer_after: Some(letters[3]) }
    }

    #[test]
    fn characters_become_what_the_normalizer_makes_of_them() {
        let gemma = r#"{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}"#;
        let t5 = r#"{"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}, {"type": "Strip", "strip_left": true, "strip_right": true}]}"#;
        let bert =
            r#"{"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true}"#;
        let cases = [
            (gemma, "ab cd", Some("ab▁c")),
            (t5, "ab cd", Some("ab c")),
            (t5, "a  cd", None),
            (t5, "a cde", None),
            (bert, "aB Cd", Some("ab c")),
            (bert, "aé bc", None),
            (bert, "ab\nc", Some("ab c")),
            (bert, "ab\u{0}c", None),
            (bert, "a\r\nb", None),
            (r#"{"type": "NFC"}"#, "ab c", Some("ab c")),
            (r#"{"type": "NFC"}"#, "字字，字", Some("字字，字")),
            (r#"{"type": "NFC"}"#, "ab c\u{301}", Some("ab c")),
            (r#"{"type": "NFC"}"#, "abc\u{301}", None),
            (r#"{"type": "NFC"}"#, "ae\u{301}b", None),
            (r#"{"type": "NFKC"}"#, "ab，c", None),
            (r#"{"type": "Lowercase"}"#, "aÉ É", Some("aé é")),
            (r#"{"type": "Replace", "pattern": {"String": "``"}, "content": "\""}"#, "ab c", Some("ab c")),
            (r#"{"type": "Replace", "pattern": {"String": "``"}, "content": "\""}"#, "a`bc", None),
            (r#"{"type": "Replace", "pattern": {"String": "b"}, "content": ""}"#, "ab c", None),
        ];
        for (json, text, expected) in cases {
            let letters: String = text.chars().take(4).collect();
            let found = steps(json).unwrap().apply(around(&letters), &mut Vec::new());
            assert_eq!(found, expected.map(around), "{json} {text}");
        }
        assert!(steps(r#"{"type": "ByteLevel"}"#).is_none(), "not understood");
        assert!(steps(r#"{"type": "Replace", "pattern": {"Regex": "a*"}, "content": "b"}"#).is_none());
    }
}
