//! The entries of a zip archive whose contents are stored without compression, as PyTorch writes them: found, not read.

use std::io::Cursor;
use std::ops::Range;

use ::zip::{CompressionMethod, ZipArchive};

use super::error::printable;

/// One file of an archive.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its name.
    pub(crate) name: String,
    /// Its content, as a range of the archive's bytes.
    pub(crate) content: Range<usize>,
}

/// The entries of an archive, or a phrase that says what is wrong.
pub(super) fn entries(bytes: &[u8]) -> Result<Vec<Entry>, String> {
    let corrupt = |error: &dyn ToString| format!("the zip archive is truncated or corrupt ({})", printable(&error.to_string()));
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|error| corrupt(&error))?;
    let count = archive.len();
    let entry = |index: usize| {
        let entry = archive.by_index_raw(index).map_err(|error| corrupt(&error))?;
        if entry.encrypted() || entry.compression() != CompressionMethod::Stored {
            return Err("an entry of the zip archive is compressed or encrypted: PyTorch stores them plainly".to_owned());
        }
        let place = |value: u64| usize::try_from(value).ok();
        let start = entry.data_start().and_then(place);
        let stop = start.zip(place(entry.size())).and_then(|(start, size)| start.checked_add(size)).filter(|&stop| stop <= bytes.len());
        let (start, stop) = start.zip(stop).ok_or_else(|| corrupt(&"an entry leaves the file"))?;
        let name = entry.name().map_err(|error| corrupt(&error))?.into_owned();
        Ok(Entry { name, content: start..stop })
    };
    (0..count).map(entry).collect()
}
