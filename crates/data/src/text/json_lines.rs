//! One JSON object a line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::BYTE_ORDER_MARK;
use super::error::{Place, TextError};

/// Longest line that is read: a file without line ends must not fill the memory.
const LINE_LIMIT: u64 = 1 << 28;

/// The text of every line of a file. Blank lines are passed over.
pub(super) struct JsonLines {
    path: PathBuf,
    key: String,
    reader: BufReader<File>,
    line: u64,
    buffer: Vec<u8>,
}

impl JsonLines {
    pub(super) fn open(path: &Path, key: &str) -> Result<Self, TextError> {
        let file = File::open(path).map_err(|source| TextError::Io { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), key: key.to_owned(), reader: BufReader::new(file), line: 0, buffer: Vec::new() })
    }

    fn advance(&mut self) -> Result<Option<String>, TextError> {
        loop {
            self.buffer.clear();
            let read = self.reader.by_ref().take(LINE_LIMIT).read_until(b'\n', &mut self.buffer);
            let length = read.map_err(|source| TextError::Io { path: self.path.clone(), source })?;
            if length == 0 {
                return Ok(None);
            }
            self.line += 1;
            if length as u64 == LINE_LIMIT {
                return Err(self.malformed(format!("the line is longer than {} MiB", LINE_LIMIT >> 20)));
            }
            let start = if self.line == 1 && self.buffer.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
            let content = self.buffer[start..].trim_ascii();
            if !content.is_empty() {
                return self.text(content).map(Some);
            }
        }
    }

    fn text(&self, content: &[u8]) -> Result<String, TextError> {
        let content = std::str::from_utf8(content).map_err(|_| TextError::NotUtf8 { path: self.path.clone(), place: self.place() })?;
        if self.line == 1 && content.starts_with('[') {
            return Err(self.malformed("it is a JSON array, where one object a line is needed".to_owned()));
        }
        match serde_json::from_str(content) {
            // serde_json ends its message with "at line 1 column N", where the line is that of our slice: say the column only.
            Err(problem) => {
                let message = problem.to_string();
                let cause = message.split(" at line ").next().unwrap_or_default();
                Err(self.malformed(format!("{cause}, column {}", problem.column())))
            }
            Ok(Value::Object(mut fields)) => match fields.remove(&self.key) {
                Some(Value::String(text)) => Ok(text),
                Some(other) => Err(TextError::NotText {
                    path: self.path.clone(),
                    place: self.place(),
                    key: self.key.clone(),
                    found: kind(&other).to_owned(),
                }),
                None => Err(TextError::Key {
                    path: self.path.clone(),
                    place: self.place(),
                    key: self.key.clone(),
                    found: fields.into_iter().map(|(key, _)| key).collect(),
                }),
            },
            Ok(other) => Err(self.malformed(format!("it is {}, where an object is needed", kind(&other)))),
        }
    }

    fn place(&self) -> Place {
        Place::Line(self.line)
    }

    fn malformed(&self, problem: String) -> TextError {
        TextError::Malformed { path: self.path.clone(), place: self.place(), format: "JSON", problem }
    }
}

impl Iterator for JsonLines {
    type Item = Result<String, TextError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

/// What a JSON value is, in words.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
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
    fn faults_name_the_line() {
        let cases: [(&[u8], &str, &str); 8] = [
            (b"{\"text\": \"a\"}\n\n{\"body\": 1, \"title\": 2}", "line 3", "`body`, `title`"),
            (b"{}", "line 1", "it has none"),
            (b"{\"text\": 3}", "line 1", "a number, not a string"),
            (b"{\"text\": null}", "line 1", "null, not a string"),
            (b"{\"text\": \"a\"}\n{\"text\": \"b", "line 2", "EOF while parsing a string, column 11"),
            (b"[{\"text\": \"a\"}]", "line 1", "array"),
            (b"{\"text\": \"a\"}\n7", "line 2", "a number"),
            (b"{\"text\": \"\xff\"}", "line 1", "UTF-8"),
        ];
        for (content, place, problem) in cases {
            let message = read(content).unwrap_err().to_string();
            for part in ["d.jsonl", place, problem] {
                assert!(message.contains(part), "`{message}` should contain `{part}`");
            }
        }
    }
}
