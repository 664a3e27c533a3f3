//! Documents of text from files: `.jsonl` (also `.json`, one object a line), `.csv` with a header, `.parquet`, `.txt` (one document a
//! file), or a folder of those, in the order of their names.
//!
//! Everything is read as it is asked for: taking ten documents of a large file reads its beginning only (of a parquet file its footer
//! and the first pages of one column).

mod comma_separated;
mod error;
mod json_lines;
pub(crate) mod parquet_column;

use std::path::{Path, PathBuf};

pub use error::{Place, TextError};

/// The field that holds the text when nothing else is asked for.
pub const DEFAULT_TEXT_KEY: &str = "text";

/// The kinds of file, by extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    JsonLines,
    CommaSeparated,
    Parquet,
    Plain,
}

impl Format {
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "jsonl" | "json" => Some(Self::JsonLines),
            "csv" => Some(Self::CommaSeparated),
            "parquet" => Some(Self::Parquet),
            "txt" => Some(Self::Plain),
            _ => None,
        }
    }
}

/// The documents of a file or a folder, one after the other. After an error the iterator ends.
///
/// A source without a single document gives one error, [`TextError::Empty`], in place of the end.
pub struct Documents {
    source: PathBuf,
    text_key: String,
    files: std::vec::IntoIter<PathBuf>,
    current: Option<Box<dyn Iterator<Item = Result<String, TextError>>>>,
    count: u64,
    finished: bool,
}

impl Documents {
    /// Finds the files of `source`; none is opened yet. `text_key` is the field or column that holds the text (`.txt` has none).
    ///
    /// In a folder, files with other extensions and hidden files are passed over (a data set usually has a `README.md`), and folders
    /// inside it are not entered.
    ///
    /// # Errors
    /// When the file is missing or its extension unknown, or when a folder holds no file that can be read.
    pub fn open(source: &Path, text_key: &str) -> Result<Self, TextError> {
        let fault = |problem: std::io::Error| match problem.kind() {
            std::io::ErrorKind::NotFound => TextError::Missing { path: source.to_owned() },
            _ => TextError::Io { path: source.to_owned(), source: problem },
        };
        let mut files = Vec::new();
        if std::fs::metadata(source).map_err(fault)?.is_dir() {
            for entry in std::fs::read_dir(source).map_err(fault)? {
                let path = entry.map_err(fault)?.path();
                let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
                if !hidden && Format::of(&path).is_some() && path.is_file() {
                    files.push(path);
                }
            }
            files.sort();
            if files.is_empty() {
                return Err(TextError::NoFiles { path: source.to_owned() });
            }
        } else {
            if Format::of(source).is_none() {
                return Err(TextError::Extension { path: source.to_owned() });
            }
            files.push(source.to_owned());
        }
        let (source, text_key) = (source.to_owned(), text_key.to_owned());
        Ok(Self { source, text_key, files: files.into_iter(), current: None, count: 0, finished: false })
    }

    /// Documents of these files in this order. `source` stands for all of them in messages: the data set that they belong to.
    ///
    /// # Errors
    /// When there is no file, or the extension of one is unknown.
    pub fn of_files(source: &Path, files: Vec<PathBuf>, text_key: &str) -> Result<Self, TextError> {
        if files.is_empty() {
            return Err(TextError::NoFiles { path: source.to_owned() });
        }
        if let Some(unknown) = files.iter().find(|file| Format::of(file).is_none()) {
            return Err(TextError::Extension { path: unknown.clone() });
        }
        let (source, text_key) = (source.to_owned(), text_key.to_owned());
        Ok(Self { source, text_key, files: files.into_iter(), current: None, count: 0, finished: false })
    }

    /// The file or folder asked for.
    #[must_use]
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// The field or column that holds the text.
    #[must_use]
    pub fn text_key(&self) -> &str {
        &self.text_key
    }

    fn open_file(&self, path: &Path) -> Result<Box<dyn Iterator<Item = Result<String, TextError>>>, TextError> {
        Ok(match Format::of(path) {
            Some(Format::JsonLines) => Box::new(json_lines::JsonLines::open(path, &self.text_key)?),
            Some(Format::CommaSeparated) => Box::new(comma_separated::CommaSeparated::open(path, &self.text_key)?),
            Some(Format::Parquet) => Box::new(parquet_column::ParquetColumn::open(path, &self.text_key)?),
            Some(Format::Plain) => Box::new(std::iter::once(read_plain(path))),
            None => return Err(TextError::Extension { path: path.to_owned() }),
        })
    }

    fn advance(&mut self) -> Result<Option<String>, TextError> {
        loop {
            if let Some(document) = self.current.as_mut().and_then(Iterator::next) {
                self.count += 1;
                return document.map(Some);
            }
            match self.files.next() {
                Some(path) => self.current = Some(self.open_file(&path)?),
                None if self.count == 0 => return Err(TextError::Empty { path: self.source.clone() }),
                None => return Ok(None),
            }
        }
    }
}

impl Iterator for Documents {
    type Item = Result<String, TextError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let next = self.advance().transpose();
        self.finished = !matches!(next, Some(Ok(_)));
        next
    }
}

/// A whole file as one document. A byte order mark is no part of the text.
fn read_plain(path: &Path) -> Result<String, TextError> {
    let mut content = std::fs::read(path).map_err(|source| TextError::Io { path: path.to_owned(), source })?;
    if content.starts_with(BYTE_ORDER_MARK) {
        content.drain(..BYTE_ORDER_MARK.len());
    }
    String::from_utf8(content).map_err(|problem| {
        let line = problem.as_bytes()[..problem.utf8_error().valid_up_to()].iter().filter(|&&byte| byte == b'\n').count() + 1;
        TextError::NotUtf8 { path: path.to_owned(), place: Place::Line(line as u64) }
    })
}

/// Whether files with the extension of this path are read as text.
#[must_use]
pub fn is_text_file(path: &Path) -> bool {
    Format::of(path).is_some()
}

/// UTF-8's byte order mark, which some editors write at the start of a file.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> Result<Vec<String>, TextError> {
        Documents::open(path, "text")?.collect()
    }

    #[test]
    fn a_folder_is_read_in_the_order_of_names_and_other_files_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in [
            ("c.txt", "three\nlines\n"),
            ("a.jsonl", "{\"text\": \"one\"}\n"),
            ("b.csv", "text\ntwo\n"),
            ("README.md", "no document"),
            (".hidden.txt", "no document"),
        ] {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        std::fs::create_dir(folder.path().join("d.txt")).unwrap();
        assert_eq!(read(folder.path()).unwrap(), ["one", "two", "three\nlines\n"]);
    }

    #[test]
    fn files_are_read_in_the_order_given_and_errors_name_the_source() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let (a, b) = (write("a.csv", "text\none\n"), write("b.txt", "two"));
        let source = Path::new("owner/name");
        let documents = Documents::of_files(source, vec![b, a], "text").unwrap();
        assert_eq!(documents.map(Result::unwrap).collect::<Vec<_>>(), ["two", "one"]);
        let empty = Documents::of_files(source, vec![write("c.csv", "text\n")], "text").unwrap();
        assert!(empty.last().unwrap().unwrap_err().to_string().contains("owner/name has no document"));
        assert!(matches!(Documents::of_files(source, vec![], "text"), Err(TextError::NoFiles { .. })));
        assert!(matches!(Documents::of_files(source, vec![write("d.md", "x")], "text"), Err(TextError::Extension { .. })));
    }

    #[test]
    fn documents_come_before_a_fault_further_on() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.jsonl"), "{\"text\": \"one\"}\nnonsense\n").unwrap();
        std::fs::write(folder.path().join("b.txt"), b"\xff").unwrap();
        let mut documents = Documents::open(folder.path(), "text").unwrap();
        assert_eq!(documents.next().unwrap().unwrap(), "one");
        assert!(documents.next().unwrap().is_err());
        assert!(documents.next().is_none(), "nothing comes after an error");
    }

    #[test]
    fn plain_text_loses_its_byte_order_mark_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.TXT");
        std::fs::write(&path, "\u{feff} é\r\n").unwrap();
        assert_eq!(read(&path).unwrap(), [" é\r\n"]);
    }

    #[test]
    fn faults_name_the_file_and_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let empty_folder = folder.path().join("folder");
        std::fs::create_dir(&empty_folder).unwrap();
        let cases = [
            (folder.path().join("absent.jsonl"), "absent.jsonl", "no file or folder"),
            (file("a.xml", b"x"), "a.xml", ".parquet"),
            (file("noextension", b"x"), "noextension", ".jsonl"),
            (empty_folder, "folder", "holds no"),
            (file("latin.txt", b"one\ncaf\xe9"), "latin.txt, line 2", "UTF-8"),
            (file("empty.jsonl", b"\n"), "empty.jsonl", "no document"),
            (file("empty.csv", b"text\n"), "empty.csv", "no document"),
        ];
        for (path, place, problem) in cases {
            let message = read(&path).unwrap_err().to_string();
            for part in [place, problem] {
                assert!(message.contains(part), "`{message}` should contain `{part}`");
            }
        }
    }
}
