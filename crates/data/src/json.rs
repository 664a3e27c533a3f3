//! JSON as Python's `json` writes and reads it, which is a little more than the standard allows.
//!
//! Python writes `NaN`, `Infinity` and `-Infinity` for such numbers, in fields that often nobody reads: a perplexity in a row of text, a
//! limit in a configuration. [`from_slice`] reads them as the texts `"NaN"`, `"Infinity"` and `"-Infinity"`: who passes over the field never
//! notices, and who asks it for a number is told what stands there.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

/// UTF-8's byte order mark, which some editors write at the start of a file.
pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The words that Python writes and the standard does not know.
const WORDS: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];

/// Reads a JSON text. A byte order mark at its start is skipped, and numbers that are not finite are read as texts (see [the
/// module](self)).
///
/// # Errors
/// A phrase that says what is wrong with the text and where.
pub fn from_slice<T: DeserializeOwned>(content: &[u8]) -> Result<T, String> {
    let content = content.strip_prefix(BYTE_ORDER_MARK).unwrap_or(content);
    let content = standard(content);
    serde_json::from_slice(&content).map_err(|problem| surrogate_problem(&content, &problem).unwrap_or_else(|| problem.to_string()))
}

/// What is wrong where the library stumbled over half of a surrogate pair; its own words for that name neither the escape nor the cause.
pub(crate) fn surrogate_problem(content: &[u8], problem: &serde_json::Error) -> Option<String> {
    let escape = half_surrogate(content).filter(|_| problem.to_string().contains("hex escape"))?;
    Some(format!("the escape {escape} is one half of a surrogate pair, which stands for no character"))
}

/// The text with every `NaN`, `Infinity` and `-Infinity` outside strings in quotes. A text without them is not copied.
pub(crate) fn standard(content: &[u8]) -> Cow<'_, [u8]> {
    let mut changed = Vec::new();
    let (mut copied, mut place) = (0, 0);
    while place < content.len() {
        match content[place] {
            b'"' => place = string_end(content, place),
            b'N' | b'I' | b'-' => match WORDS.iter().find(|word| content[place..].starts_with(word)) {
                Some(word) => {
                    changed.extend_from_slice(&content[copied..place]);
                    changed.push(b'"');
                    changed.extend_from_slice(word);
                    changed.push(b'"');
                    place += word.len();
                    copied = place;
                }
                None => place += 1,
            },
            _ => place += 1,
        }
    }
    if copied == 0 {
        return Cow::Borrowed(content);
    }
    changed.extend_from_slice(&content[copied..]);
    Cow::Owned(changed)
}

/// The place after the string that opens at `start`; the end of the text when it is never closed.
fn string_end(content: &[u8], start: usize) -> usize {
    let mut place = start + 1;
    while let Some(byte) = content.get(place) {
        match byte {
            b'"' => return place + 1,
            b'\\' => place += 2,
            _ => place += 1,
        }
    }
    content.len()
}

/// The first escape `\ud800` to `\udfff` that has no partner, as it is written.
fn half_surrogate(content: &[u8]) -> Option<String> {
    let unit = |place: usize| {
        let digits = content.get(place..place + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let mut place = 0;
    while place < content.len() {
        if content[place] != b'\\' {
            place += 1;
            continue;
        }
        match unit(place) {
            Some(0xd800..=0xdbff) if matches!(unit(place + 6), Some(0xdc00..=0xdfff)) => place += 12,
            Some(0xd800..=0xdfff) => return Some(String::from_utf8_lossy(&content[place..place + 6]).into_owned()),
            Some(_) => place += 6,
            None => place += 2,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn numbers_that_are_not_finite_become_texts_outside_of_strings_only() {
        let cases = [
            (r#"{"a": NaN, "b": [Infinity, -Infinity, -1]}"#, json!({"a": "NaN", "b": ["Infinity", "-Infinity", -1]})),
            (r#"{"NaN": "NaN, \"Infinity", "b": "\\"}"#, json!({"NaN": "NaN, \"Infinity", "b": "\\"})),
            ("\u{feff} [1]", json!([1])),
            ("-Infinity", json!("-Infinity")),
        ];
        for (content, expected) in cases {
            assert_eq!(from_slice::<Value>(content.as_bytes()).unwrap(), expected, "{content}");
        }
        assert!(matches!(standard(b"{\"a\": \"NaN\", \"b\": -2}"), Cow::Borrowed(_)), "nothing to change, nothing to copy");
        let number: Result<Vec<f64>, String> = from_slice(b"[NaN]");
        assert!(number.unwrap_err().contains("string \"NaN\""), "who asks for a number is told");
    }

    #[test]
    fn what_is_wrong_is_wrong_still() {
        for content in ["{\"a\": nan}", "[+Infinity]", "[NaNa]", "[Infinit]", "", "{\"a\": \"NaN", "[NaN NaN]"] {
            assert!(from_slice::<Value>(content.as_bytes()).is_err(), "{content}");
        }
    }

    #[test]
    fn half_of_a_surrogate_pair_is_named() {
        for (content, escape) in [
            (r#"{"a": "\ud83d jumps"}"#, "\\ud83d"),
            (r#"["\ud83e\udd8a", "\udce9"]"#, "\\udce9"),
            (r#"["\ud83d\ud83d\ude00"]"#, "\\ud83d"),
            (r#"["\uDC00"]"#, "\\uDC00"),
        ] {
            let message = from_slice::<Value>(content.as_bytes()).unwrap_err();
            assert!(message.contains(escape) && message.contains("surrogate"), "{content}: {message}");
        }
        assert_eq!(half_surrogate(br#"["\\ud83d", "\ud83e\udd8a", "\u00e9", "\"#), None);
    }
}
