//! One column of a CSV file with a header.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::error::{Place, TextError};
use super::source::{LONGEST, Source};
use crate::json::BYTE_ORDER_MARK;

/// The text of every record.
pub(super) struct CommaSeparated {
    path: PathBuf,
    column: usize,
    reader: csv::Reader<QuoteWatch<Source>>,
    record: csv::ByteRecord,
}

impl CommaSeparated {
    pub(super) fn open(path: &Path, key: &str) -> Result<Self, TextError> {
        let source = Source::open(path)?;
        let longest = if source.is_compressed() { LONGEST } else { usize::MAX };
        let mut reader = csv::Reader::from_reader(QuoteWatch::new(source, longest));
        let header = reader.byte_headers().map_err(|problem| fault(path, problem))?.clone();
        if reader.get_ref().is_unclosed() {
            return Err(unclosed(path, Place::Line(1)));
        }
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
        if self.reader.get_ref().is_unclosed() {
            return Err(unclosed(&self.path, place));
        }
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

/// Follows the quotes of what is read through it. The `csv` crate takes the end of the file for the end of a quoted field, so that a
/// quote which is never closed would swallow the rest of a file without a word.
struct QuoteWatch<R> {
    reader: R,
    state: Quotes,
    ended: bool,
    started: bool,
    /// Bytes since the last line that ended outside of quotes, and the most there may be: a record of a small compressed file must not
    /// fill the memory.
    length: usize,
    longest: usize,
}

/// Where in a field a byte stands; the rules are those of the `csv` crate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    /// Before the first byte of a field.
    Start,
    /// In a field without quotes, or after them: further quotes are text.
    Plain,
    Quoted,
    /// After a quote inside quotes: its end, or one half of a quote that is text.
    AfterQuote,
}

impl<R> QuoteWatch<R> {
    fn new(reader: R, longest: usize) -> Self {
        Self { reader, state: Quotes::Start, ended: false, started: false, length: 0, longest }
    }

    /// Whether the end was reached inside quotes.
    fn is_unclosed(&self) -> bool {
        self.ended && self.state == Quotes::Quoted
    }
}

impl<R: Read> Read for QuoteWatch<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.ended |= count == 0 && !buffer.is_empty();
        let mut bytes = &buffer[..count];
        if !self.started && count > 0 {
            self.started = true;
            bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
        }
        for &byte in bytes {
            self.state = match (self.state, byte) {
                (Quotes::Quoted, b'"') => Quotes::AfterQuote,
                (Quotes::Quoted, _) | (Quotes::AfterQuote | Quotes::Start, b'"') => Quotes::Quoted,
                (_, b',' | b'\r' | b'\n') => Quotes::Start,
                _ => Quotes::Plain,
            };
            let ends = self.state == Quotes::Start && matches!(byte, b'\r' | b'\n');
            self.length = if ends { 0 } else { self.length + 1 };
        }
        if self.length > self.longest {
            return Err(io::Error::other(format!("a record is longer than {} MiB: decompress the file", self.longest >> 20)));
        }
        Ok(count)
    }
}

fn unclosed(path: &Path, place: Place) -> TextError {
    TextError::Malformed { path: path.to_owned(), place, format: "CSV", problem: "a quote is opened, but never closed".to_owned() }
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
    fn long_fields_and_zero_bytes_are_text() {
        let long = "x".repeat(200_000);
        let content = format!("text,id\n{long},1\n\"a\0b\",2\n\"c\0\",3\n");
        assert_eq!(read(content.as_bytes()).unwrap(), [long.as_str(), "a\0b", "c\0"]);
    }

    #[test]
    fn quotes_that_are_text_are_not_taken_for_open_ones() {
        let content = "text\n5\" pipe\n\"a\"b\"\n\"\"\n\"c\"\"\"\n\"d\"";
        assert_eq!(read(content.as_bytes()).unwrap(), ["5\" pipe", "ab\"", "", "c\"", "d"]);
    }

    #[test]
    fn the_fields_that_end_open_are_those_of_the_library() {
        // Every short file of these letters: it is refused exactly when one more quote would end the last field.
        let letters = b"\"a,\n";
        for number in 0..4usize.pow(7) {
            let content: Vec<u8> = (0..7).map(|place| letters[number / 4usize.pow(place) % 4]).collect();
            let mut watch = QuoteWatch::new(content.as_slice(), usize::MAX);
            let fields = |content: &[u8]| {
                let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(content);
                reader.byte_records().map(|record| record.unwrap().iter().map(<[u8]>::to_vec).collect::<Vec<_>>()).collect::<Vec<_>>()
            };
            io::copy(&mut watch, &mut io::sink()).unwrap();
            // Inside quotes a line end is text, and adds no record.
            let longer = [content.as_slice(), b"\nz"].concat();
            let inside = fields(&longer).last().and_then(|record| record.last().cloned()) != Some(b"z".to_vec());
            assert_eq!(watch.is_unclosed(), inside, "{:?}", String::from_utf8_lossy(&content));
        }
    }

    #[test]
    fn faults_name_the_line() {
        let cases: [(&[u8], &str, &str); 7] = [
            (b"id,text\n1,a\n2,\"b\nc\n\n3,d\n", "line 3", "a quote is opened, but never closed"),
            (b"id,text\n1,\"a\"\"", "line 2", "a quote is opened, but never closed"),
            (b"\xef\xbb\xbf\"id,text\n1,a\n", "line 1", "a quote is opened, but never closed"),
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
