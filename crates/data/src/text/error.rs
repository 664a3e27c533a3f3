//! What can be wrong with files of text.

use std::fmt;
use std::path::PathBuf;

use crate::pointer;

/// Where in a file a document stands, counted from one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// The file as a whole.
    File,
    /// A line of a text file.
    Line(u64),
    /// A row of a table.
    Row(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => Ok(()),
            Self::Line(line) => write!(formatter, ", line {line}"),
            Self::Row(row) => write!(formatter, ", row {row}"),
        }
    }
}

/// Why documents could not be read. Every message is one sentence that names the file and place and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The file could not be opened or read.
    #[error("cannot read the text {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error underneath.
        #[source]
        source: std::io::Error,
    },
    /// Nothing is there.
    #[error("there is no file or folder {}: check the path of the data", path.display())]
    Missing {
        /// What was asked for.
        path: PathBuf,
    },
    /// The file is of an unknown kind.
    #[error(
        "{} has an unknown extension: give a .jsonl, .json (one object a line), .csv, .txt (these also as .gz or .zst), .parquet or .arrow file, or a folder of those",
        path.display()
    )]
    Extension {
        /// The file.
        path: PathBuf,
    },
    /// A folder without a single file that can be read.
    #[error(
        "the folder {} holds no .jsonl, .json, .csv, .txt (these also as .gz or .zst), .parquet or .arrow file of documents: give the folder that has them (folders inside it are not entered)",
        path.display()
    )]
    NoFiles {
        /// The folder.
        path: PathBuf,
    },
    /// A folder with several splits of a data set, of which one has to be chosen.
    #[error("the folder {} holds a data set of {} splits, {}: choose with `split`, or give the folder of one", path.display(), splits.len(), list(splits))]
    Splits {
        /// The folder.
        path: PathBuf,
        /// The names of the splits.
        splits: Vec<String>,
    },
    /// A folder that a data set was saved to lacks a file of it.
    #[error("the data set saved in {} lacks its file {}: copy or save it again", path.display(), file.display())]
    Incomplete {
        /// The folder.
        path: PathBuf,
        /// The missing file.
        file: PathBuf,
    },
    /// No document in the file or in any file of the folder.
    #[error("{} has no document in it: give data with at least one row", path.display())]
    Empty {
        /// The file or folder.
        path: PathBuf,
    },
    /// The content is not what the extension says.
    #[error("{}{place} is not valid {format} ({problem}): repair it, or write or download the file again", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where in it.
        place: Place,
        /// The format that the extension promises.
        format: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The file is compressed as a whole, in a way that is not read.
    #[error("{} is compressed with {name}, which is not read here: decompress it first", path.display())]
    Compressed {
        /// The file.
        path: PathBuf,
        /// The compression.
        name: &'static str,
    },
    /// The file stands for another one that was not fetched.
    #[error("{} is not usable: {}", path.display(), pointer::PROBLEM)]
    Pointer {
        /// The file.
        path: PathBuf,
    },
    /// A document that would fill the memory.
    #[error("{}{place} is longer than the {most} MiB that one document of a compressed file may have: decompress or split it", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Where in it.
        place: Place,
        /// The limit.
        most: usize,
    },
    /// A column is compressed in a way this build cannot read.
    #[error("{} compresses column `{column}` with {codec}, which this build does not read: write it again with {better} or no compression", path.display())]
    Compression {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// The compression.
        codec: String,
        /// What is read.
        better: &'static str,
    },
    /// The text key is not there.
    #[error("{}{place} has no `{key}`: set `text_key` to one of {}", path.display(), list(found))]
    Key {
        /// The file.
        path: PathBuf,
        /// Where in it.
        place: Place,
        /// The key that was asked for.
        key: String,
        /// The keys that exist.
        found: Vec<String>,
    },
    /// The text key is missing in one place, and was there before.
    #[error("{}{place} has no `{key}`, which the rows before it have: add it there, or remove this entry", path.display())]
    KeyGone {
        /// The file.
        path: PathBuf,
        /// Where in it.
        place: Place,
        /// The key.
        key: String,
    },
    /// The text key holds something else than a string.
    #[error("`{key}` of {}{place} is {found}, not a string: set `text_key` to a key that holds the text, or remove this entry", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// Where in it.
        place: Place,
        /// The key.
        key: String,
        /// What is there instead.
        found: String,
    },
    /// The text is not UTF-8.
    #[error("{}{place} is not UTF-8 text: convert the file to UTF-8", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Where in it.
        place: Place,
    },
}

/// The keys in backquotes; a file with hundreds of columns shows the first twenty, and of a long name its beginning.
fn list(keys: &[String]) -> String {
    const SHOWN: usize = 20;
    if keys.is_empty() {
        return "its keys (it has none)".to_owned();
    }
    let mut text = keys.iter().take(SHOWN).map(|key| format!("`{}`", beginning(key))).collect::<Vec<_>>().join(", ");
    if keys.len() > SHOWN {
        text.push_str(&format!(" and {} more", keys.len() - SHOWN));
    }
    text
}

/// The first characters of a name that a file of anything may have.
fn beginning(name: &str) -> String {
    name.chars().take(40).map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}
