//! Opening files: what they are by their names, and what they are compressed with by their content.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use super::error::TextError;
use crate::pointer;

/// The longest line, and the longest document or record of a compressed file, in bytes: what is asked for must not fill the memory. A
/// document of a plain file takes what it has on the disk.
pub(crate) const LONGEST: usize = 1 << 28;

/// The kinds of file, by extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    JsonLines,
    CommaSeparated,
    Parquet,
    Arrow,
    Plain,
}

impl Format {
    /// The kind of a file by its name. What is read from beginning to end may be compressed, which its name may say: `.jsonl.gz`.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let Extension { name, compressed } = Extension::of(path)?;
        let format = Self::named(&name)?;
        (!compressed || matches!(format, Self::JsonLines | Self::CommaSeparated | Self::Plain)).then_some(format)
    }

    fn named(extension: &str) -> Option<Self> {
        match extension {
            "jsonl" | "json" | "ndjson" => Some(Self::JsonLines),
            "csv" => Some(Self::CommaSeparated),
            "parquet" => Some(Self::Parquet),
            "arrow" => Some(Self::Arrow),
            "txt" => Some(Self::Plain),
            _ => None,
        }
    }
}

/// The end of a file's name, in lower case.
struct Extension {
    /// Without that of the compression.
    name: String,
    /// Whether there is one of a compression behind it.
    compressed: bool,
}

impl Extension {
    fn of(path: &Path) -> Option<Self> {
        let extension = |path: &Path| Some(path.extension()?.to_str()?.to_ascii_lowercase());
        let name = extension(path)?;
        if ["gz", "gzip", "zst", "zstd"].contains(&name.as_str()) {
            return Some(Self { name: extension(Path::new(path.file_stem()?))?, compressed: true });
        }
        Some(Self { name, compressed: false })
    }
}

/// Whether a file is called `.json`, compressed or not.
pub(crate) fn is_json(path: &Path) -> bool {
    Extension::of(path).is_some_and(|extension| extension.name == "json")
}

/// What a file is by its first bytes, where that is another thing than its name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Gzip,
    Zstandard,
    /// Compressed in a way that is not read, by its name.
    Foreign(&'static str),
    /// A file of a few lines that git-lfs puts in the place of a large one.
    Pointer,
    Other,
}

/// Bytes that are looked at to know what a file is.
const LOOKED_AT: usize = 48;

impl Content {
    fn of(start: &[u8]) -> Self {
        // Three letters may begin a text as well: what stands behind them in every file of this kind is looked at too.
        if start.starts_with(b"BZh") && start.get(4..10) == Some(b"1AY&SY") {
            return Self::Foreign("bzip2");
        }
        if pointer::is_pointer(start) {
            return Self::Pointer;
        }
        let signatures: [(&[u8], Self); 6] = [
            (b"\x1f\x8b", Self::Gzip),
            (b"\x28\xb5\x2f\xfd", Self::Zstandard),
            (b"\xfd7zXZ\0", Self::Foreign("xz")),
            (b"PK\x03\x04", Self::Foreign("zip")),
            (b"7z\xbc\xaf\x27\x1c", Self::Foreign("7-zip")),
            (b"\x04\x22\x4d\x18", Self::Foreign("lz4")),
        ];
        signatures.iter().find(|(signature, _)| start.starts_with(signature)).map_or(Self::Other, |found| found.1)
    }
}

/// A file that is read from its beginning, decompressed on the way.
pub(crate) struct Source {
    reader: Box<dyn BufRead>,
    compressed: bool,
}

impl Source {
    /// Opens a file that is plain, or compressed with gzip or zstandard, whatever its name says.
    pub(crate) fn open(path: &Path) -> Result<Self, TextError> {
        let fault = |source: io::Error| TextError::Io { path: path.to_owned(), source };
        let mut reader = BufReader::new(File::open(path).map_err(fault)?);
        let mut start = [0; LOOKED_AT];
        let length = fill(&mut reader, &mut start).map_err(fault)?;
        let whole = BufReader::new(io::Cursor::new(start[..length].to_vec()).chain(reader));
        let content = Content::of(&start[..length]);
        let reader: Box<dyn BufRead> = match content {
            Content::Gzip => Box::new(BufReader::new(Decompressed { reader: MultiGzDecoder::new(whole), name: "gzip" })),
            Content::Zstandard => {
                let reader = zstd::stream::read::Decoder::with_buffer(whole).map_err(fault)?;
                Box::new(BufReader::new(Decompressed { reader, name: "zstandard" }))
            }
            Content::Foreign(name) => return Err(TextError::Compressed { path: path.to_owned(), name }),
            Content::Pointer => return Err(TextError::Pointer { path: path.to_owned() }),
            Content::Other => Box::new(whole),
        };
        Ok(Self { reader, compressed: matches!(content, Content::Gzip | Content::Zstandard) })
    }

    /// Whether what is read may be far longer than the file.
    pub(crate) fn is_compressed(&self) -> bool {
        self.compressed
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

impl BufRead for Source {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.reader.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.reader.consume(amount);
    }
}

/// Says of a table that is compressed as a whole, or is no table but a pointer to one, what it is.
pub(super) fn refuse_wrapped(path: &Path) -> Result<(), TextError> {
    let fault = |source: io::Error| TextError::Io { path: path.to_owned(), source };
    let mut start = [0; LOOKED_AT];
    let length = fill(&mut File::open(path).map_err(fault)?, &mut start).map_err(fault)?;
    let compressed = |name| Err(TextError::Compressed { path: path.to_owned(), name });
    match Content::of(&start[..length]) {
        Content::Gzip => compressed("gzip"),
        Content::Zstandard => compressed("zstandard"),
        Content::Foreign(name) => compressed(name),
        Content::Pointer => Err(TextError::Pointer { path: path.to_owned() }),
        Content::Other => Ok(()),
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match reader.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(problem) if problem.kind() == io::ErrorKind::Interrupted => {}
            Err(problem) => return Err(problem),
        }
    }
    Ok(length)
}

/// Says of what is wrong in a compressed file that the compression is.
struct Decompressed<R> {
    reader: R,
    name: &'static str,
}

impl<R: Read> Read for Decompressed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer).map_err(|problem| match problem.kind() {
            io::ErrorKind::Interrupted => problem,
            kind => io::Error::new(kind, format!("its {} compression is truncated or damaged ({problem})", self.name)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn read(content: &[u8]) -> Result<Vec<u8>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let mut source = Source::open(file.path()).map_err(|problem| problem.to_string())?;
        let mut all = Vec::new();
        source.read_to_end(&mut all).map_err(|problem| problem.to_string())?;
        Ok(all)
    }

    #[test]
    fn names_say_what_is_inside() {
        let of = |name: &str| Format::of(Path::new(name));
        let cases = [
            ("a.jsonl", Some(Format::JsonLines)),
            ("a.JSONL.GZ", Some(Format::JsonLines)),
            ("a.json.zst", Some(Format::JsonLines)),
            ("b.csv.gz", Some(Format::CommaSeparated)),
            ("c.txt.zst", Some(Format::Plain)),
            ("c.tar.gz", None),
            ("c.gz", None),
            ("a.parquet.gz", None),
            ("a.arrow", Some(Format::Arrow)),
            ("gz", None),
        ];
        for (name, expected) in cases {
            assert_eq!(of(name), expected, "{name}");
        }
    }

    #[test]
    fn content_decides_about_compression() {
        let text = b"one\ntwo\n".repeat(1000);
        let frame = zstd::encode_all(text.as_slice(), 3).unwrap();
        for content in [&text, &gzip(&text), &frame] {
            assert_eq!(read(content).unwrap(), text);
        }
        // Several members, as `cat a.gz b.gz` and parallel compressors make them.
        assert_eq!(read(&[gzip(&text), gzip(b"end")].concat()).unwrap(), [&text[..], b"end"].concat());
        assert_eq!(read(&[frame, zstd::encode_all(&b"end"[..], 1).unwrap()].concat()).unwrap(), [&text[..], b"end"].concat());
        assert_eq!(read(b"").unwrap(), b"");
        for text in [&b"\x1f"[..], b"BZhang was here", b"PK"] {
            assert_eq!(read(text).unwrap(), text);
        }
    }

    #[test]
    fn damage_and_foreign_compression_are_named() {
        let text: Vec<u8> = (0..5000u32).flat_map(u32::to_le_bytes).collect();
        let (gz, zst) = (gzip(&text), zstd::encode_all(text.as_slice(), 3).unwrap());
        let mut flipped = gz.clone();
        flipped[gz.len() / 2] ^= 0x10;
        for (content, name) in
            [(&gz[..gz.len() - 9], "gzip"), (&gz[..12], "gzip"), (&flipped, "gzip"), (&zst[..zst.len() - 5], "zstandard")]
        {
            let message = read(content).unwrap_err();
            assert!(message.contains(name) && message.contains("truncated or damaged"), "{message}");
        }
        for (content, name) in [(&b"BZh91AY&SY"[..], "bzip2"), (b"\xfd7zXZ\0\0", "xz"), (b"PK\x03\x04\x14", "zip")] {
            let message = read(content).unwrap_err();
            assert!(message.contains(name) && message.contains("decompress it"), "{message}");
        }
        let message = read(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n").unwrap_err();
        assert!(message.contains("git lfs pull"), "{message}");
    }
}
