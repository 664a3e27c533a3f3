//! One column of a file in Arrow's stream or file format, which `save_to_disk` of the library `datasets` writes.
//!
//! The crate `arrow-ipc` would do it too, with ten more crates to compile; of all that only the columns of text are needed here. Texts are
//! read from the file one by one, as they are asked for. Columns of words by number (dictionaries) and buffers compressed with lz4 are
//! refused by name: `datasets` writes neither of them for text.

mod flat;
mod schema;

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use self::flat::{DAMAGED, Table};
use self::schema::{Column, Layout, SchemaFault};
use super::error::{Place, TextError};
use super::source::{LONGEST, refuse_wrapped};

/// What a file in the file format, as opposed to the stream format, begins and ends with.
const MAGIC: &[u8; 6] = b"ARROW1";

/// What stands before the length of a message.
const CONTINUES: u32 = u32::MAX;

/// Kinds of messages.
const SCHEMA: u8 = 1;
const RECORDS: u8 = 3;

/// The text of every row.
pub(super) struct ArrowColumn {
    path: PathBuf,
    key: String,
    file: File,
    length: u64,
    /// Where the next message begins.
    next: u64,
    column: Column,
    batch: Option<Batch>,
    row: u64,
}

/// The rows of one batch that are still to come.
struct Batch {
    /// One bit a row, of a column with nulls.
    valid: Vec<u8>,
    texts: Texts,
    rows: usize,
    row: usize,
}

/// Where the texts of a batch are.
enum Texts {
    /// One after the other, between these places of their data.
    Offsets(Vec<u64>, Data),
    /// By views of 16 bytes, into these data.
    Views(Vec<u8>, Vec<Data>),
}

/// Where the bytes of texts are.
enum Data {
    /// In the file, from a place on.
    File { start: u64, length: u64 },
    /// Decompressed.
    Memory(Vec<u8>),
}

/// The buffers of the column in a batch: where they begin in its body, and how long they are.
struct Buffers {
    rows: usize,
    valid: [u64; 2],
    /// Offsets or views.
    index: [u64; 2],
    data: Vec<[u64; 2]>,
    codec: Option<u8>,
}

/// A message: its description, and where its body is.
struct Message {
    metadata: Vec<u8>,
    body: u64,
    kind: u8,
}

impl ArrowColumn {
    pub(super) fn open(path: &Path, key: &str) -> Result<Self, TextError> {
        refuse_wrapped(path)?;
        let fault = |source: io::Error| TextError::Io { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(fault)?;
        let length = file.metadata().map_err(fault)?.len();
        let mut start = [0; 8];
        let mut opened = Self {
            path: path.to_owned(),
            key: key.to_owned(),
            length,
            next: 0,
            column: Column::default(),
            batch: None,
            row: 0,
            file: {
                file.read_exact(&mut start[..length.min(8) as usize]).map_err(fault)?;
                file
            },
        };
        if start.starts_with(MAGIC) {
            // The file format is a stream between two marks, followed by an index that nobody needs who reads from the beginning.
            opened.next = 8;
            let mut end = [0; 6];
            let place = length.saturating_sub(6);
            opened.read(place, &mut end)?;
            if end != *MAGIC {
                return Err(opened.malformed("its end is missing"));
            }
        }
        let message = opened.message()?.ok_or_else(|| opened.malformed("it is empty"))?;
        if message.kind != SCHEMA {
            return Err(opened.malformed("it does not begin with the description of its columns"));
        }
        let found = header(&message.metadata).map_err(SchemaFault::Damaged).and_then(|schema| Column::find(schema, key));
        opened.column = found.map_err(|problem| match problem {
            SchemaFault::Absent(found) => TextError::Key { path: path.to_owned(), place: Place::File, key: key.to_owned(), found },
            SchemaFault::NotText(found) => TextError::NotText { path: path.to_owned(), place: Place::File, key: key.to_owned(), found },
            SchemaFault::Damaged(problem) => opened.malformed(problem),
        })?;
        Ok(opened)
    }

    /// Fills the buffer with what stands in the file at a place.
    fn read(&mut self, place: u64, buffer: &mut [u8]) -> Result<(), TextError> {
        let read = self.file.seek(SeekFrom::Start(place)).and_then(|_| self.file.read_exact(buffer));
        read.map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => self.malformed("it is truncated"),
            _ => TextError::Io { path: self.path.clone(), source },
        })
    }

    /// A part of the file as bytes. Its length is compared with that of the file before memory is taken.
    fn part(&mut self, place: u64, length: u64) -> Result<Vec<u8>, TextError> {
        if place.checked_add(length).is_none_or(|end| end > self.length) {
            return Err(self.malformed("it is truncated"));
        }
        let mut bytes = vec![0; length as usize];
        self.read(place, &mut bytes)?;
        Ok(bytes)
    }

    /// The next message; `None` at the end.
    fn message(&mut self) -> Result<Option<Message>, TextError> {
        if self.next >= self.length {
            return Ok(None);
        }
        let mut word = [0; 4];
        self.read(self.next, &mut word)?;
        self.next += 4;
        // Before version 0.15 the length came first.
        if u32::from_le_bytes(word) == CONTINUES {
            self.read(self.next, &mut word)?;
            self.next += 4;
        }
        let length = u64::from(u32::from_le_bytes(word));
        if length == 0 {
            return Ok(None);
        }
        let metadata = self.part(self.next, length)?;
        let described = Table::root(&metadata).and_then(|message| Ok((message.byte(1)?, message.count(3)?)));
        let (kind, size) = described.map_err(|problem| self.malformed(problem))?;
        let body = self.next + length;
        self.next = body.checked_add(size).filter(|&end| end <= self.length).ok_or_else(|| self.malformed("it is truncated"))?;
        Ok(Some(Message { metadata, body, kind }))
    }

    fn advance(&mut self) -> Result<Option<String>, TextError> {
        loop {
            if self.batch.as_ref().is_some_and(|batch| batch.row < batch.rows) {
                self.row += 1;
                return self.text().map(Some);
            }
            match self.message()? {
                None => return Ok(None),
                Some(message) if message.kind == RECORDS => self.batch = Some(self.batch(&message)?),
                // Dictionaries of other columns.
                Some(_) => {}
            }
        }
    }

    /// Where a batch has the buffers of the column.
    fn buffers(&self, message: &Message) -> Result<Buffers, &'static str> {
        let size = self.next - message.body;
        let records = header(&message.metadata)?;
        let buffers = records.pairs(2)?;
        let counts = records.counts(4)?;
        let views = counts.iter().take(self.column.views_before).try_fold(0u64, |sum, &count| sum.checked_add(count)).ok_or(DAMAGED)?;
        let first = usize::try_from(views).ok().and_then(|views| views.checked_add(self.column.buffers_before)).ok_or(DAMAGED)?;
        let data = match self.column.layout {
            Layout::Views => usize::try_from(*counts.get(self.column.views_before).ok_or(DAMAGED)?).map_err(|_| DAMAGED)?,
            _ => 1,
        };
        let own = buffers.get(first..).and_then(|own| own.get(..data.checked_add(2)?)).ok_or(DAMAGED)?;
        if own.iter().any(|&[offset, length]| offset.checked_add(length).is_none_or(|end| end > size)) {
            return Err(DAMAGED);
        }
        let rows = usize::try_from(records.count(0)?).map_err(|_| DAMAGED)?;
        let codec = records.table(3)?.map(|compression| compression.byte(0)).transpose()?;
        Ok(Buffers { rows, valid: own[0], index: own[1], data: own[2..].to_vec(), codec })
    }

    /// A batch up to its texts.
    fn batch(&mut self, message: &Message) -> Result<Batch, TextError> {
        let Buffers { rows, valid, index, data, codec } = self.buffers(message).map_err(|problem| self.malformed(problem))?;
        if let Some(codec) = codec.filter(|&codec| codec != 1) {
            let codec = if codec == 0 { "lz4" } else { "an unknown method" }.to_owned();
            return Err(TextError::Compression { path: self.path.clone(), column: self.key.clone(), codec, better: "zstd" });
        }
        let valid = self.buffer(message.body, valid, codec)?;
        let index = self.buffer(message.body, index, codec)?;
        let (width, entries) = match self.column.layout {
            _ if rows == 0 => (1, Some(0)),
            Layout::Offsets => (4, rows.checked_add(1)),
            Layout::WideOffsets => (8, rows.checked_add(1)),
            Layout::Views => (VIEW, Some(rows)),
        };
        let needed = entries.and_then(|entries| entries.checked_mul(width)).filter(|&needed| needed <= index.len());
        let index = &index[..needed.ok_or_else(|| self.malformed("a batch has fewer texts than rows"))?];
        if !valid.is_empty() && valid.len() < rows.div_ceil(8) {
            return Err(self.malformed(DAMAGED));
        }
        let data = data.into_iter().map(|[offset, length]| match codec {
            None => Ok(Data::File { start: message.body + offset, length }),
            Some(_) => self.buffer(message.body, [offset, length], codec).map(Data::Memory),
        });
        let mut data = data.collect::<Result<Vec<_>, _>>()?;
        let texts = match (self.column.layout, data.pop()) {
            (Layout::Views, last) => {
                data.extend(last);
                Texts::Views(index.to_vec(), data)
            }
            (_, Some(data)) => Texts::Offsets(index.chunks_exact(width).map(unsigned).collect(), data),
            (_, None) => return Err(self.malformed(DAMAGED)),
        };
        Ok(Batch { valid, texts, rows, row: 0 })
    }

    /// The content of a buffer, decompressed.
    fn buffer(&mut self, body: u64, [offset, length]: [u64; 2], codec: Option<u8>) -> Result<Vec<u8>, TextError> {
        let bytes = self.part(body + offset, length)?;
        if codec.is_none() || bytes.is_empty() {
            return Ok(bytes);
        }
        let (size, compressed) = bytes.split_first_chunk::<8>().ok_or_else(|| self.malformed(DAMAGED))?;
        let size = i64::from_le_bytes(*size);
        if size == -1 {
            return Ok(compressed.to_vec());
        }
        let size = u64::try_from(size).ok().filter(|&size| size <= 4 * LONGEST as u64);
        let size = size.ok_or_else(|| self.malformed("a compressed batch is too long"))?;
        let mut content = Vec::new();
        // As long as the stream really is, whatever it claims to be.
        let decoder = zstd::stream::read::Decoder::with_buffer(Cursor::new(compressed));
        let read = decoder.and_then(|decoder| decoder.take(size + 1).read_to_end(&mut content));
        match read {
            Ok(length) if length as u64 == size => Ok(content),
            _ => Err(self.malformed("the zstandard compression of a batch is damaged")),
        }
    }

    /// The text of the next row, of which there is one.
    fn text(&mut self) -> Result<String, TextError> {
        let (path, place) = (self.path.clone(), Place::Row(self.row));
        let Some(batch) = &mut self.batch else { return Err(self.malformed(DAMAGED)) };
        let row = batch.row;
        batch.row += 1;
        if batch.valid.get(row / 8).is_some_and(|bits| bits >> (row % 8) & 1 == 0) {
            return Err(TextError::NotText { path, place, key: self.key.clone(), found: "null".to_owned() });
        }
        let outside =
            || TextError::Malformed { path: path.clone(), place, format: FORMAT, problem: "its text is outside of the file".to_owned() };
        let bytes = match batch.texts.find(row).ok_or_else(outside)? {
            Found::Here(bytes) => bytes,
            Found::InFile(start, length) => self.part(start, length)?,
        };
        String::from_utf8(bytes).map_err(|_| TextError::NotUtf8 { path, place })
    }

    fn malformed(&self, problem: &str) -> TextError {
        let place = if self.row == 0 { Place::File } else { Place::Row(self.row + 1) };
        TextError::Malformed { path: self.path.clone(), place, format: FORMAT, problem: problem.to_owned() }
    }
}

/// Bytes of a view: the length, and the text itself if it has up to twelve bytes, else its first four, the number of a buffer, and the
/// place in it.
const VIEW: usize = 16;

/// A text, or where in the file it is.
enum Found {
    Here(Vec<u8>),
    InFile(u64, u64),
}

impl Texts {
    /// The text of a row; `None` when it is outside of its data.
    fn find(&self, row: usize) -> Option<Found> {
        match self {
            Self::Offsets(offsets, data) => data.find(*offsets.get(row)?, *offsets.get(row + 1)?),
            Self::Views(views, data) => {
                let view = views.get(VIEW * row..)?.get(..VIEW)?;
                let length = unsigned(&view[..4]);
                if let Some(text) = view[4..].get(..length as usize) {
                    return Some(Found::Here(text.to_vec()));
                }
                let start = unsigned(&view[12..]);
                data.get(unsigned(&view[8..12]) as usize)?.find(start, start + length)
            }
        }
    }
}

impl Data {
    fn find(&self, start: u64, end: u64) -> Option<Found> {
        let length = end.checked_sub(start)?;
        match self {
            Self::Memory(content) => {
                content.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?).map(|text| Found::Here(text.to_vec()))
            }
            &Self::File { start: first, length: whole } => (end <= whole).then_some(Found::InFile(first + start, length)),
        }
    }
}

/// The name of the format in messages.
const FORMAT: &str = "Arrow IPC";

impl Iterator for ArrowColumn {
    type Item = Result<String, TextError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

/// What a message carries: the description of columns or of a batch.
fn header(metadata: &[u8]) -> Result<Table<'_>, &'static str> {
    Table::root(metadata)?.table(2)?.ok_or(DAMAGED)
}

/// A number of four or eight bytes. One that is negative becomes so large that it is outside of every file.
fn unsigned(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests;
