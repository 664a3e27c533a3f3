//! The readers of data sets and tokenizers; see [the crate](crate).

use std::fs;
use std::path::Path;

use basin_volume_data::cifar::Cifar;
use basin_volume_data::text::Documents;
use basin_volume_data::tokenizer::{SpecialTokenOverrides, TextTokenizer};

/// A file of documents in Arrow's stream or file format.
pub fn arrow(bytes: &[u8]) -> Result<(), String> {
    documents("a.arrow", bytes)
}

/// Rows of JSON, plain or compressed: the content decides.
pub fn lines(bytes: &[u8]) -> Result<(), String> {
    documents("a.jsonl", bytes)
}

/// A table of comma-separated values, plain or compressed.
pub fn csv(bytes: &[u8]) -> Result<(), String> {
    documents("a.csv", bytes)
}

/// Two files in one input: the first two bytes are the length of the first.
fn pair(bytes: &[u8]) -> Result<(&[u8], &[u8]), String> {
    let (length, rest) = bytes.split_first_chunk::<2>().ok_or("no length")?;
    rest.split_at_checked(u16::from_le_bytes(*length).into()).ok_or_else(|| "no first file".to_owned())
}

/// A `vocab.json` and a `merges.txt` of GPT-2's class; the first two bytes are the length of the former.
pub fn vocabulary(bytes: &[u8]) -> Result<(), String> {
    let (words, merges) = pair(bytes)?;
    tokenizer(&[("vocab.json", words), ("merges.txt", merges)])
}

/// A `tokenizer_config.json` and a `tokenizer.json`; the first two bytes are the length of the former.
pub fn tokenizer_files(bytes: &[u8]) -> Result<(), String> {
    let (settings, fast) = pair(bytes)?;
    tokenizer(&[("tokenizer_config.json", settings), ("tokenizer.json", fast)])
}

/// One batch of a set of images, pickled, as all batches of the set.
pub fn images(bytes: &[u8]) -> Result<(), String> {
    with_folder(|folder| {
        let folder = folder.join("images");
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        for name in ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"] {
            write(&folder.join(name), bytes)?;
        }
        let images = Cifar::read(&folder).map_err(|error| error.to_string())?;
        assert_eq!(images.train.count(), 5 * images.test.count(), "five times the same batch");
        assert!(images.test.pixels.len() <= bytes.len(), "more pixels than bytes");
        Ok(())
    })
}

/// Reads the documents of one file.
fn documents(name: &str, bytes: &[u8]) -> Result<(), String> {
    with_folder(|folder| {
        let path = folder.join(name);
        write(&path, bytes)?;
        for document in Documents::open(&path, "text").map_err(|error| error.to_string())? {
            document.map_err(|error| error.to_string())?;
        }
        Ok(())
    })
}

/// Loads a tokenizer and encodes a few texts, of which one is cut.
fn tokenizer(files: &[(&str, &[u8])]) -> Result<(), String> {
    let long = "the quick brown fox, 42 dogs\n".repeat(40);
    with_folder(|folder| {
        for name in ["vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"] {
            _ = fs::remove_file(folder.join(name));
        }
        for (name, content) in files {
            write(&folder.join(name), content)?;
        }
        let tokenizer = TextTokenizer::load(folder, SpecialTokenOverrides::default()).map_err(|error| error.to_string())?;
        let whole = tokenizer.encode(&long, None).map_err(|error| error.to_string())?;
        let most = tokenizer.added_tokens() + 5;
        let cut = tokenizer.encode(&long, Some(most)).map_err(|error| error.to_string())?;
        assert!(cut.content <= 5 && cut.content <= whole.content, "more tokens than were asked for");
        tokenizer.encode("caf\u{e9} <|endoftext|> \u{1f642}", None).map_err(|error| error.to_string())?;
        Ok(())
    })
}

/// Runs `task` with a folder of its own, which all calls on a thread share: making one takes longer than reading a small file.
fn with_folder<T>(task: impl FnOnce(&Path) -> Result<T, String>) -> Result<T, String> {
    thread_local!(static FOLDER: std::io::Result<tempfile::TempDir> = tempfile::tempdir());
    FOLDER.with(|folder| match folder {
        Ok(folder) => task(folder.path()),
        Err(error) => Err(error.to_string()),
    })
}

/// Writes a new file: taking the place of an old one is quicker than overwriting it.
fn write(path: &Path, content: &[u8]) -> Result<(), String> {
    _ = fs::remove_file(path);
    fs::write(path, content).map_err(|error| error.to_string())
}
