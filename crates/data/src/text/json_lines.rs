//! One JSON object a line.

use std::fmt;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::error::{Place, TextError};
use super::source::{LONGEST, Source};
use crate::json::{self, BYTE_ORDER_MARK};

/// The text of every line of a file. Blank lines are passed over.
pub(super) struct JsonLines {
    path: PathBuf,
    key: String,
    source: Source,
    line: u64,
    /// Whether a line before had the key.
    found: bool,
    buffer: Vec<u8>,
}

impl JsonLines {
    pub(super) fn open(path: &Path, key: &str) -> Result<Self, TextError> {
        let source = Source::open(path)?;
        Ok(Self { path: path.to_owned(), key: key.to_owned(), source, line: 0, found: false, buffer: Vec::new() })
    }

    fn advance(&mut self) -> Result<Option<String>, TextError> {
        loop {
            self.buffer.clear();
            // A file without line ends must not fill the memory.
            let read = (&mut self.source).take(LONGEST as u64).read_until(b'\n', &mut self.buffer);
            let length = read.map_err(|source| TextError::Io { path: self.path.clone(), source })?;
            if length == 0 {
                return Ok(None);
            }
            self.line += 1;
            if length == LONGEST {
                return Err(self.malformed(format!("the line is longer than {} MiB", LONGEST >> 20)));
            }
            let start = if self.line == 1 && self.buffer.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
            let content = self.buffer[start..].trim_ascii();
            if !content.is_empty() {
                let text = self.text(content)?;
                self.found = true;
                return Ok(Some(text));
            }
        }
    }

    fn text(&self, content: &[u8]) -> Result<String, TextError> {
        let (path, place) = (self.path.clone(), Place::Line(self.line));
        if std::str::from_utf8(content).is_err() {
            return Err(TextError::NotUtf8 { path, place });
        }
        if self.line == 1 && content.starts_with(b"[") {
            return Err(self.malformed("it is a JSON array, where one object a line is needed".to_owned()));
        }
        let content = json::standard(content);
        let mut reader = serde_json::Deserializer::from_slice(&content);
        let row = Row { key: &self.key }.deserialize(&mut reader).and_then(|row| reader.end().map(|()| row));
        let row = row.map_err(|problem| {
            // serde_json ends its message with "at line 1 column N", where the line is that of our slice: say the column only.
            let cause = json::surrogate_problem(&content, &problem);
            let cause = cause.unwrap_or_else(|| problem.to_string().split(" at line ").next().unwrap_or_default().to_owned());
            self.malformed(format!("{cause}, column {}", problem.column()))
        })?;
        let key = self.key.clone();
        match row {
            Field::Object(Some(field), _) => match *field {
                Field::Text(text) => Ok(text),
                other => Err(TextError::NotText { path, place, key, found: other.kind().to_owned() }),
            },
            Field::Object(None, _) if self.found => Err(TextError::KeyGone { path, place, key }),
            Field::Object(None, found) => Err(TextError::Key { path, place, key, found }),
            other => Err(self.malformed(format!("it is {}, where an object is needed", other.kind()))),
        }
    }

    fn malformed(&self, problem: String) -> TextError {
        TextError::Malformed { path: self.path.clone(), place: Place::Line(self.line), format: "JSON", problem }
    }
}

impl Iterator for JsonLines {
    type Item = Result<String, TextError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

/// A value as far as it matters here: of an object the field of the key and the names of the others, and of anything else what it is.
/// What nobody asked for is passed over without being kept, or understood further than to find its end.
enum Field {
    Null,
    Truth,
    Number,
    Text(String),
    List,
    Object(Option<Box<Field>>, Vec<String>),
}

impl Field {
    /// What a JSON value is, in words.
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Truth => "a boolean",
            Self::Number => "a number",
            Self::Text(_) => "a string",
            Self::List => "a list",
            Self::Object(..) => "an object",
        }
    }
}

/// Reads a value as a [`Field`]; within one that is read already, objects are passed over as wholes.
#[derive(Clone, Copy)]
struct Row<'a> {
    key: &'a str,
}

/// Names of fields that are kept for a message.
const NAMES: usize = 1000;

impl<'de> DeserializeSeed<'de> for Row<'_> {
    type Value = Field;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Field, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Row<'_> {
    type Value = Field;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Field, E> {
        Ok(Field::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Field, E> {
        Ok(Field::Truth)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Field, E> {
        Ok(Field::Number)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Field, E> {
        Ok(Field::Number)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Field, E> {
        Ok(Field::Number)
    }

    fn visit_str<E>(self, text: &str) -> Result<Field, E> {
        Ok(Field::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Field, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Field::List)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Field, A::Error> {
        let (mut found, mut names) = (None, Vec::new());
        while let Some(name) = fields.next_key::<String>()? {
            if name == self.key {
                // As in Python, the last of several counts.
                found = Some(Box::new(fields.next_value_seed(self)?));
            } else {
                fields.next_value::<IgnoredAny>()?;
                if names.len() < NAMES {
                    names.push(name);
                }
            }
        }
        Ok(Field::Object(found, names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &[u8]) -> Result<Vec<String>, TextError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.jsonl");
        std::fs::write(&path, content).unwrap();
        JsonLines::open(&path, "text")?.collect()
    }

    #[test]
    fn blank_lines_line_ends_escapes_and_the_byte_order_mark() {
        let content = "\u{feff}{\"id\": 1, \"text\": \"a\\nb \\u00e9\"}\r\n\n  \n{\"text\": \"\"}\n{\"text\": \"no end of line\"}";
        assert_eq!(read(content.as_bytes()).unwrap(), ["a\nb é", "", "no end of line"]);
    }

    #[test]
    fn what_nobody_reads_need_not_be_understood() {
        let content = br#"{"score": NaN, "text": "a NaN", "ppl": [Infinity, {"x": -Infinity}], "n": 1e999}
{"meta": "\udce9", "text": "b"}
{"text": 1, "text": "the last counts"}"#;
        assert_eq!(read(content).unwrap(), ["a NaN", "b", "the last counts"]);
    }

    #[test]
    fn the_column_of_a_fault_is_that_of_the_file() {
        let message = read(br#"{"text": "a", "b": }"#).unwrap_err().to_string();
        assert!(message.contains("column 20"), "{message}");
    }

    #[test]
    fn faults_name_the_line() {
        let cases: [(&[u8], &str, &str); 14] = [
            (b"\n{\"body\": 1, \"title\": 2}", "line 2", "`body`, `title`"),
            (b"{}", "line 1", "it has none"),
            (b"{\"text\": 3}", "line 1", "a number, not a string"),
            (b"{\"text\": null}", "line 1", "null, not a string"),
            (b"{\"text\": \"a\"}\n{\"text\": \"b", "line 2", "EOF while parsing a string, column 11"),
            (b"[{\"text\": \"a\"}]", "line 1", "array"),
            (b"{\"text\": \"a\"}\n7", "line 2", "a number"),
            (b"{\"text\": \"\xff\"}", "line 1", "UTF-8"),
            (b"{\"text\": \"the fox \\ud83d jumps\"}", "line 1", "\\ud83d is one half of a surrogate pair"),
            (b"{\"text\": \"a\"}\n{\"content\": \"b\"}", "line 2", "which the rows before it have"),
            (b"{\"text\": {\"text\": \"a\"}}", "line 1", "an object, not a string"),
            (b"{\"text\": NaN, \"a\": nan}", "line 1", "not valid JSON"),
            // What redirection in PowerShell writes: UTF-16, with its mark or without.
            (b"\xff\xfe{\0\"\0t\0\"\0", "line 1", "UTF-8"),
            (b"{\0\"\0t\0\"\0:\0", "line 1", "not valid JSON"),
        ];
        for (content, place, problem) in cases {
            let message = read(content).unwrap_err().to_string();
            for part in ["d.jsonl", place, problem] {
                assert!(message.contains(part), "`{message}` should contain `{part}`");
            }
        }
    }
}
