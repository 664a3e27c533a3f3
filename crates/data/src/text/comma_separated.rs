//! One column of a CSV file with a header.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::error::{Place, TextError};

/// The text of every record.
pub(super) struct CommaSeparated {
    path: PathBuf,
    column: usize,
    reader: csv::Reader<File>,
    record: csv::ByteRecord,
}

impl CommaSeparated {
    pub(super) fn open(path: &Path, key: &str) -> Result<Self, TextError> {
        let file = File::open(path).map_err(|source| TextError::Io { path: path.to_owned(), source })?;
        let mut reader = csv::Reader::from_reader(file);
        let header = reader.byte_headers().map_err(|problem| fault(path, problem))?;
        if header.is_empty() {
            return Err(TextError::Empty { path: path.to_owned() });
        }
        let Some(column) = header.iter().position(|name| name == key.as_bytes()) else {
            // A file of something else has a "header" of any length: the message shows the beginning of every name.
            let found = header.iter().map(|name| String::from_utf8_lossy(name).chars().take(40).collect()).collect();
            return Err(TextError::Key { path: path.to_owned(), place: Place::Line(1), key: key.to_owned(), found });
        };
        Ok(Self { path: path.to_owned(), column, reader, record: csv::ByteRecord::new() })
    }

    fn advance(&mut self) -> Result<Option<String>, TextError> {
        if !self.reader.read_byte_record(&mut self.record).map_err(|problem| fault(&self.path, problem))? {
            return Ok(None);
        }
        let place = self.record.position().map_or(Place::File, |position| Place::Line(position.line()));
        // Every record has as many fields as the header: the reader refuses others.
        let field = self.record.get(self.column).unwrap_or_default();
        match std::str::from_utf8(field) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(TextError::NotUtf8 { path: self.path.clone(), place }),
        }
    }
}

impl Iterator for CommaSeparated {
    type Item = Result<String, TextError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

fn fault(path: &Path, problem: csv::Error) -> TextError {
    let path = path.to_owned();
    let place = problem.position().map_or(Place::File, |position| Place::Line(position.line()));
    match problem.into_kind() {
        csv::ErrorKind::Io(source) => TextError::Io { path, source },
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            let problem = format!("{len} fields, where the header has {expected_len}");
            TextError::Malformed { path, place, format: "CSV", problem }
        }
        other => TextError::Malformed { path, place, format: "CSV", problem: format!("{other:?}") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &[u8]) -> Result<Vec<String>, TextError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.csv");
        std::fs::write(&path, content).unwrap();
        CommaSeparated::open(&path, "text")?.collect()
    }

    #[test]
    fn quotes_line_ends_and_the_byte_order_mark() {
        let content = "\u{feff}text,id\r\n\"a, \"\"b\"\"\nc\",1\r\n,2\r\né,3\r\n";
        assert_eq!(read(content.as_bytes()).unwrap(), ["a, \"b\"\nc", "", "é"]);
    }

    #[test]
    fn faults_name_the_line() {
        let cases: [(&[u8], &str, &str); 4] = [
            (b"title,body\na,b\n", "line 1", "`title`, `body`"),
            (b"id,text\n1,a\n2\n", "line 3", "1 fields, where the header has 2"),
            (b"id,text\n1,a\n2,\xff\n", "line 3", "UTF-8"),
            (b"", "d.csv", "no document"),
        ];
        for (content, place, problem) in cases {
            let message = read(content).unwrap_err().to_string();
            for part in ["d.csv", place, problem] {
                assert!(message.contains(part), "`{message}` should contain `{part}`");
            }
        }
    }
}
