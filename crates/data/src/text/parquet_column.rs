//! One column of a parquet file, page by page.

use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::basic::{Compression, ConvertedType, LogicalType, Type as PhysicalType};
use parquet::column::reader::{ColumnReaderImpl, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::error::{Place, TextError};
use super::source::refuse_wrapped;

/// Rows decoded at once: enough to make the call cheap, few enough that rows nobody asks for cost little.
const BATCH: usize = 16;

/// The text of every row.
pub(super) struct ParquetColumn {
    path: PathBuf,
    key: String,
    reader: SerializedFileReader<File>,
    column: usize,
    /// Definition level of a value that is present; lower levels are nulls.
    present: i16,
    next_group: usize,
    group: Option<ColumnReaderImpl<ByteArrayType>>,
    values: std::vec::IntoIter<ByteArray>,
    levels: std::vec::IntoIter<i16>,
    row: u64,
}

impl ParquetColumn {
    pub(super) fn open(path: &Path, key: &str) -> Result<Self, TextError> {
        refuse_wrapped(path)?;
        let file = File::open(path).map_err(|source| TextError::Io { path: path.to_owned(), source })?;
        let reader = guarded(|| SerializedFileReader::new(file)).map_err(|problem| malformed(path, Place::File, problem))?;
        let schema = reader.metadata().file_metadata().schema_descr_ptr();
        let fields = schema.root_schema().get_fields();
        let Some(field) = fields.iter().find(|field| field.name() == key) else {
            let found = fields.iter().map(|field| field.name().to_owned()).collect();
            return Err(TextError::Key { path: path.to_owned(), place: Place::File, key: key.to_owned(), found });
        };
        let not_text = |found: String| TextError::NotText { path: path.to_owned(), place: Place::File, key: key.to_owned(), found };
        let column = schema.columns().iter().position(|column| column.path().parts() == [key]);
        let Some(column) = column.filter(|_| field.is_primitive()) else {
            return Err(not_text("a column of lists or structures".to_owned()));
        };
        let description = schema.column(column);
        if description.max_rep_level() > 0 {
            return Err(not_text("a column of lists".to_owned()));
        }
        if description.physical_type() != PhysicalType::BYTE_ARRAY {
            return Err(not_text(format!("a column of {}", description.physical_type())));
        }
        let plain = matches!(description.logical_type_ref(), None | Some(LogicalType::String | LogicalType::Json | LogicalType::Enum));
        if !plain || description.converted_type() == ConvertedType::DECIMAL {
            return Err(not_text("a column of decimals or other binary values".to_owned()));
        }
        for group in reader.metadata().row_groups() {
            let codec = group.columns().get(column).map_or(Compression::UNCOMPRESSED, |chunk| chunk.compression());
            if !matches!(codec, Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::ZSTD(_) | Compression::GZIP(_)) {
                return Err(TextError::Compression {
                    path: path.to_owned(),
                    column: key.to_owned(),
                    codec: codec.to_string(),
                    better: "snappy, zstd, gzip",
                });
            }
        }
        Ok(Self {
            path: path.to_owned(),
            key: key.to_owned(),
            reader,
            column,
            present: description.max_def_level(),
            next_group: 0,
            group: None,
            values: Vec::new().into_iter(),
            levels: Vec::new().into_iter(),
            row: 0,
        })
    }

    fn advance(&mut self) -> Result<Option<String>, TextError> {
        loop {
            if let Some(level) = self.levels.next() {
                self.row += 1;
                return self.text(level).map(Some);
            }
            match &mut self.group {
                Some(group) => {
                    let (mut values, mut levels) = (Vec::new(), Vec::new());
                    let read = guarded(|| group.read_records(BATCH, Some(&mut levels), None, &mut values));
                    let (records, ..) = read.map_err(|problem| malformed(&self.path, Place::Row(self.row + 1), problem))?;
                    // A column that cannot be null has no levels.
                    levels.resize(records, self.present);
                    if records == 0 {
                        self.group = None;
                    }
                    (self.values, self.levels) = (values.into_iter(), levels.into_iter());
                }
                None if self.next_group < self.reader.num_row_groups() => {
                    let (group, column) = (self.next_group, self.column);
                    let opened = guarded(|| self.reader.get_row_group(group)?.get_column_reader(column));
                    let opened = opened.map_err(|problem| malformed(&self.path, Place::Row(self.row + 1), problem))?;
                    self.group = Some(get_typed_column_reader(opened));
                    self.next_group += 1;
                }
                None => return Ok(None),
            }
        }
    }

    fn text(&mut self, level: i16) -> Result<String, TextError> {
        let (path, place) = (self.path.clone(), Place::Row(self.row));
        if level < self.present {
            return Err(TextError::NotText { path, place, key: self.key.clone(), found: "null".to_owned() });
        }
        let Some(value) = self.values.next() else {
            return Err(malformed(&path, place, "fewer values than rows".to_owned()));
        };
        String::from_utf8(value.data().to_vec()).map_err(|_| TextError::NotUtf8 { path, place })
    }
}

impl Iterator for ParquetColumn {
    type Item = Result<String, TextError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

/// Runs a call of the parquet library, whose panics on damaged files are faults of these.
pub(crate) fn guarded<T>(call: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, String> {
    let result = crate::guard::guarded("its metadata or pages are damaged", call);
    result.map_err(|problem| problem.trim_start_matches("Parquet error: ").to_owned())
}

fn malformed(path: &Path, place: Place, problem: String) -> TextError {
    TextError::Malformed { path: path.to_owned(), place, format: "parquet", problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(name: &str) -> PathBuf {
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tokens")).join(name)
    }

    /// Changed files in a fixed order: cut short, bits flipped (most in the metadata at the end), runs of extreme bytes.
    #[test]
    fn damaged_files_are_refused_in_one_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("damaged.parquet");
        let mut state = 7u64;
        let mut below = |bound: usize| {
            // A linear congruential generator: the upper bits are good enough to pick places.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % bound as u64) as usize
        };
        let mut refused = 0;
        for name in ["gzip.parquet", "required.parquet", "snappy.parquet", "zstd.parquet"] {
            let original = std::fs::read(golden(name)).unwrap();
            let length = original.len();
            for round in 0..500 {
                let mut bytes = original.clone();
                match round % 4 {
                    0 => bytes.truncate(below(length)),
                    1 => bytes[below(length)] ^= 1 << below(8),
                    2 => bytes[length - 1 - below(length.min(400))] ^= 1 << below(8),
                    _ => {
                        let start = below(length);
                        bytes[start..(start + 5).min(length)].fill([0x00, 0xff, 0x7f, 0x80][below(4)]);
                    }
                }
                std::fs::write(&path, &bytes).unwrap();
                if let Err(error) = ParquetColumn::open(&path, "text").and_then(Iterator::collect::<Result<Vec<_>, _>>) {
                    let message = error.to_string();
                    assert!(message.contains("damaged.parquet") && !message.contains('\n') && message.len() < 1000, "{message}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 500, "only {refused} were refused");
    }

    /// What the library's panics print would stand between the program's own lines.
    #[test]
    fn nothing_of_the_library_is_printed() {
        let test = "text::parquet_column::tests::damaged_files_are_refused_in_one_sentence";
        let output = std::process::Command::new(std::env::current_exe().unwrap()).args([test, "--exact", "--nocapture"]).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{printed}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "the test should run");
        assert!(!printed.contains("panicked"), "{printed}");
    }
}
