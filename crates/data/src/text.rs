//! Documents of text from files: `.jsonl` (also `.json` and `.ndjson`, one object a line), `.csv` with a header, `.txt` (one document a
//! file), each of them plain or compressed with gzip or zstandard; `.parquet`; `.arrow`; or a folder of those, in the order of their names.
//! Of a folder that `save_to_disk` of the library `datasets` wrote, the files in the order that it says.
//!
//! Everything is read as it is asked for: taking ten documents of a large file reads its beginning only (of a parquet file its footer
//! and the first pages of one column), and of a `.txt` file no more than is wanted of its one document.

mod arrow;
mod comma_separated;
mod document;
mod error;
mod json_lines;
pub(crate) mod parquet_column;
mod plain;
mod saved;
pub(crate) mod source;

use std::path::{Path, PathBuf};

pub use document::Document;
pub use error::{Place, TextError};
pub use saved::{SavedSplit, saved_splits};
use source::Format;

/// The field that holds the text when nothing else is asked for.
pub const DEFAULT_TEXT_KEY: &str = "text";

/// The documents of one file.
type OfFile = Box<dyn Iterator<Item = Result<Document, TextError>>>;

/// The documents of a file or a folder, one after the other. After an error the iterator ends.
///
/// A source without a single document gives one error, [`TextError::Empty`], in place of the end.
pub struct Documents {
    source: PathBuf,
    text_key: String,
    files: std::vec::IntoIter<PathBuf>,
    current: Option<OfFile>,
    count: u64,
    finished: bool,
}

impl Documents {
    /// Finds the files of `source`; none is opened yet. `text_key` is the field or column that holds the text (`.txt` has none).
    ///
    /// In a folder, files with other extensions, hidden files and descriptions of data sets (`dataset_info.json` and its like) are passed
    /// over, and folders inside it are not entered. Of a data set that was saved with several splits, one has to be chosen
    /// ([`saved_splits`]).
    ///
    /// # Errors
    /// When the file is missing or its extension unknown, when a folder holds no file that can be read, and as [`saved_splits`].
    pub fn open(source: &Path, text_key: &str) -> Result<Self, TextError> {
        let fault = |problem: std::io::Error| match problem.kind() {
            std::io::ErrorKind::NotFound => TextError::Missing { path: source.to_owned() },
            _ => TextError::Io { path: source.to_owned(), source: problem },
        };
        if !std::fs::metadata(source).map_err(fault)?.is_dir() {
            return Self::of_files(source, vec![source.to_owned()], text_key);
        }
        if let Some(mut splits) = saved_splits(source)? {
            if splits.len() > 1 {
                let splits = splits.into_iter().filter_map(|split| split.name).collect();
                return Err(TextError::Splits { path: source.to_owned(), splits });
            }
            return Self::of_files(source, splits.pop().map(|split| split.files).unwrap_or_default(), text_key);
        }
        let mut files = Vec::new();
        for entry in std::fs::read_dir(source).map_err(fault)? {
            let path = entry.map_err(fault)?.path();
            let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if !hidden && is_text_file(&path) && path.is_file() {
                files.push(path);
            }
        }
        files.sort();
        Self::of_files(source, files, text_key)
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

    /// Documents that are at hand. `name` stands for all of them in messages.
    pub fn of_texts(name: &str, texts: impl Iterator<Item = String> + 'static) -> Self {
        let current: OfFile = Box::new(texts.map(|text| Ok(Document::from(text))));
        let text_key = DEFAULT_TEXT_KEY.to_owned();
        Self { source: name.into(), text_key, files: Vec::new().into_iter(), current: Some(current), count: 0, finished: false }
    }

    /// The file or folder asked for.
    #[must_use]
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// How many bytes of text there are, where nothing but plain text is: each file is one document, however long.
    #[must_use]
    pub fn plain_bytes(&self) -> Option<u64> {
        let bytes = |file: &PathBuf| (Format::of(file) == Some(Format::Plain)).then(|| file.metadata().map_or(0, |found| found.len()));
        if self.current.is_some() { None } else { self.files.as_slice().iter().map(bytes).sum() }
    }

    /// The field or column that holds the text.
    #[must_use]
    pub fn text_key(&self) -> &str {
        &self.text_key
    }

    /// The next document as far as it is read already; `None` at the end.
    pub fn next_document(&mut self) -> Option<Result<Document, TextError>> {
        if self.finished {
            return None;
        }
        let next = self.advance().transpose();
        self.finished = !matches!(next, Some(Ok(_)));
        next
    }

    fn open_file(&self, path: &Path) -> Result<OfFile, TextError> {
        let whole = |text: Result<String, TextError>| text.map(Document::from);
        Ok(match Format::of(path) {
            Some(Format::JsonLines) => Box::new(json_lines::JsonLines::open(path, &self.text_key)?.map(whole)),
            Some(Format::CommaSeparated) => Box::new(comma_separated::CommaSeparated::open(path, &self.text_key)?.map(whole)),
            Some(Format::Parquet) => Box::new(parquet_column::ParquetColumn::open(path, &self.text_key)?.map(whole)),
            Some(Format::Arrow) => Box::new(arrow::ArrowColumn::open(path, &self.text_key)?.map(whole)),
            Some(Format::Plain) => Box::new(std::iter::once(Document::open(path))),
            None => return Err(TextError::Extension { path: path.to_owned() }),
        })
    }

    fn advance(&mut self) -> Result<Option<Document>, TextError> {
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

    /// The next document as a whole.
    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_document()?.and_then(Document::into_text);
        self.finished |= next.is_err();
        Some(next)
    }
}

/// Whether a file is read as text in a folder of documents: by its extension, which says so for descriptions of data sets as well.
#[must_use]
pub fn is_text_file(path: &Path) -> bool {
    Format::of(path).is_some() && !saved::is_kept_beside(path)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

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
            ("dataset_info.json", "{\n  \"citation\": \"\"\n}"),
            ("dataset_infos.json", "{}"),
            ("d.jsonl.lock", ""),
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
    fn compressed_files_are_read_by_content_whatever_they_are_called() {
        let folder = tempfile::tempdir().unwrap();
        let gzip = |content: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        };
        let zstandard = |content: &[u8]| zstd::encode_all(content, 1).unwrap();
        for (name, content) in [
            ("a.jsonl", gzip(b"\xef\xbb\xbf{\"text\": \"1\"}\n{\"text\": \"2\"}\n")),
            ("b.json.gz", b"{\"text\": \"3\"}\n".to_vec()),
            ("c.csv.zst", zstandard(b"\xef\xbb\xbfid,text\n7,4\n")),
            ("d.txt.gz", gzip(b"\xef\xbb\xbf5")),
            ("e.txt", zstandard("6 é".as_bytes())),
        ] {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        assert_eq!(read(folder.path()).unwrap(), ["1", "2", "3", "4", "5", "6 é"]);
        let path = folder.path().join("f.jsonl.gz");
        let whole = gzip("{\"text\": \"a text of some length\"}\n".repeat(2000).as_bytes());
        std::fs::write(&path, &whole[..whole.len() - 12]).unwrap();
        let message = read(&path).unwrap_err().to_string();
        assert!(message.contains("f.jsonl.gz") && message.contains("gzip compression is truncated or damaged"), "{message}");
    }

    /// What a small file may ask for is bounded: a line, a record, and a document of a compressed file.
    #[test]
    fn compressed_files_do_not_fill_the_memory() {
        let folder = tempfile::tempdir().unwrap();
        for (name, start) in [("a.jsonl.zst", "{\"text\": \""), ("b.csv.zst", "text\n\""), ("c.txt.zst", "")] {
            let path = folder.path().join(name);
            let mut encoder = zstd::Encoder::new(std::fs::File::create(&path).unwrap(), 1).unwrap();
            encoder.write_all(start.as_bytes()).unwrap();
            let part = vec![b'a'; 1 << 20];
            for _ in 0..300 {
                encoder.write_all(&part).unwrap();
            }
            encoder.finish().unwrap();
            let message = read(&path).unwrap_err().to_string();
            assert!(message.contains("longer than") && message.contains("256 MiB") && message.contains(name), "{message}");
            if name.starts_with('c') {
                let mut document = Documents::open(&path, "text").unwrap().next_document().unwrap().unwrap();
                document.grow(1000).unwrap();
                assert!(document.text().len() < 2000 && !document.is_whole(), "only what is wanted is read");
            }
        }
    }

    #[test]
    fn saved_data_sets_are_read_and_their_splits_are_named() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/saved");
        assert_eq!(read(&golden.join("one")).unwrap(), ["the fox", "a dog jumps"]);
        let message = read(&golden.join("two")).unwrap_err().to_string();
        assert!(message.contains("`train`, `test`") && message.contains("`split`"), "{message}");
        let splits = saved_splits(&golden.join("two")).unwrap().unwrap();
        let documents = Documents::of_files(&golden.join("two"), splits[1].files.clone(), "text").unwrap();
        assert_eq!(documents.map(Result::unwrap).collect::<Vec<_>>(), ["a dog jumps"]);
    }

    #[test]
    #[cfg(unix)]
    fn names_need_not_be_utf8() {
        use std::os::unix::ffi::OsStrExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9.txt"));
        // Some file systems take no such names.
        if std::fs::write(&path, "text").is_ok() {
            assert_eq!(read(&path).unwrap(), ["text"]);
            assert_eq!(read(folder.path()).unwrap(), ["text"]);
        }
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
