//! The entries of a zip archive whose contents are stored without compression, as PyTorch writes them: found, not read.

use std::ops::Range;

/// One file of an archive.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its name.
    pub(crate) name: String,
    /// Its content, as a range of the archive's bytes.
    pub(crate) content: Range<usize>,
}

const END: [u8; 4] = *b"PK\x05\x06";
const END_64: [u8; 4] = *b"PK\x06\x06";
const LOCATOR_64: [u8; 4] = *b"PK\x06\x07";
const CENTRAL: [u8; 4] = *b"PK\x01\x02";
const LOCAL: [u8; 4] = *b"PK\x03\x04";

const TRUNCATED: &str = "the zip archive is truncated or corrupt";

fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], String> {
    let part = at.checked_add(N).and_then(|end| bytes.get(at..end)).ok_or(TRUNCATED)?;
    part.try_into().map_err(|_| TRUNCATED.to_owned())
}

fn short(bytes: &[u8], at: usize) -> Result<usize, String> {
    Ok(u16::from_le_bytes(field(bytes, at)?).into())
}

fn word(bytes: &[u8], at: usize) -> Result<u64, String> {
    Ok(u32::from_le_bytes(field(bytes, at)?).into())
}

fn long(bytes: &[u8], at: usize) -> Result<u64, String> {
    Ok(u64::from_le_bytes(field(bytes, at)?))
}

fn place(value: u64) -> Result<usize, String> {
    usize::try_from(value).map_err(|_| TRUNCATED.to_owned())
}

/// The entries of an archive, or a phrase that says what is wrong.
pub(super) fn entries(bytes: &[u8]) -> Result<Vec<Entry>, String> {
    // The end record is 22 bytes before the end, or earlier by the length of a comment of at most 65,535 bytes.
    let last = bytes.len().checked_sub(22).ok_or(TRUNCATED)?;
    let end = (last.saturating_sub(usize::from(u16::MAX))..=last).rev().find(|&at| bytes[at..].starts_with(&END)).ok_or(TRUNCATED)?;
    let (mut count, mut directory) = (short(bytes, end + 10)? as u64, word(bytes, end + 16)?);
    if end >= 20 && bytes[end - 20..].starts_with(&LOCATOR_64) {
        let record = place(long(bytes, end - 12)?)?;
        if field(bytes, record)? != END_64 {
            return Err(TRUNCATED.to_owned());
        }
        (count, directory) = (long(bytes, record + 32)?, long(bytes, record + 48)?);
    }
    // Every entry of the directory takes 46 bytes or more.
    if count > bytes.len() as u64 / 46 {
        return Err(TRUNCATED.to_owned());
    }
    let mut entries = Vec::new();
    let mut at = place(directory)?;
    for _ in 0..count {
        if field(bytes, at)? != CENTRAL {
            return Err(TRUNCATED.to_owned());
        }
        let (flags, method) = (short(bytes, at + 8)?, short(bytes, at + 10)?);
        let (name_length, extra_length, comment_length) = (short(bytes, at + 28)?, short(bytes, at + 30)?, short(bytes, at + 32)?);
        let name = bytes.get(at + 46..at + 46 + name_length).ok_or(TRUNCATED)?;
        let name = String::from_utf8(name.to_vec()).map_err(|_| "a name in the zip archive is not UTF-8".to_owned())?;
        let extra = bytes.get(at + 46 + name_length..at + 46 + name_length + extra_length).ok_or(TRUNCATED)?;
        let (size, local) = sizes(bytes, at, extra)?;
        if flags & 1 != 0 || method != 0 {
            return Err("an entry of the zip archive is compressed or encrypted: PyTorch stores them plainly".to_owned());
        }
        let local = place(local)?;
        if field(bytes, local)? != LOCAL {
            return Err(TRUNCATED.to_owned());
        }
        let start = local + 30 + short(bytes, local + 26)? + short(bytes, local + 28)?;
        let stop = start.checked_add(place(size)?).filter(|&stop| stop <= bytes.len()).ok_or(TRUNCATED)?;
        entries.push(Entry { name, content: start..stop });
        at += 46 + name_length + extra_length + comment_length;
    }
    Ok(entries)
}

/// Size and local offset of the directory's entry at `at`: in the entry, or in the 64-bit field of its extras when they are all ones.
fn sizes(bytes: &[u8], at: usize, extra: &[u8]) -> Result<(u64, u64), String> {
    let (compressed, mut size, mut local) = (word(bytes, at + 20)?, word(bytes, at + 24)?, word(bytes, at + 42)?);
    let ones = u64::from(u32::MAX);
    let mut cursor = 0;
    while cursor + 4 <= extra.len() {
        let (kind, length) = (short(extra, cursor)?, short(extra, cursor + 2)?);
        cursor += 4;
        if kind == 1 {
            // Only the fields that are all ones in the entry are present, in this order.
            let mut field = cursor;
            if size == ones {
                size = long(extra, field)?;
                field += 8;
            }
            if compressed == ones {
                field += 8;
            }
            if local == ones {
                local = long(extra, field)?;
            }
            break;
        }
        cursor += length;
    }
    Ok((size, local))
}
