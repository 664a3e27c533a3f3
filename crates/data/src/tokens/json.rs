//! Token ids from a JSON file: `[[1, 2, 3], [4, 5]]`.

use std::io::{BufRead, Read};
use std::path::Path;

use serde_json::Value;

use super::{ModelLimits, Positions, Provenance, TokenSequences, TokensError};
use crate::json::{self, BYTE_ORDER_MARK};
use crate::text::TextError;
use crate::text::source::{LONGEST, Source, is_json};

/// Whether a file holds lists of ids: a `.json` file, compressed or not, whose outermost value is a list, and not one of objects. One
/// object a line is text.
#[must_use]
pub fn is_token_file(path: &Path) -> bool {
    let Some(mut source) = is_json(path).then(|| Source::open(path).ok()).flatten() else { return false };
    let mut next = || {
        loop {
            let byte = *source.fill_buf().ok()?.first()?;
            source.consume(1);
            if !byte.is_ascii_whitespace() && !BYTE_ORDER_MARK.contains(&byte) {
                return Some(byte);
            }
        }
    };
    next() == Some(b'[') && next() != Some(b'{')
}

/// Reads sequences of ids from a JSON file, a list of lists, which may be compressed with gzip or zstandard.
///
/// # Errors
/// When the file is missing or of another shape, and as [`TokenSequences::new`].
pub fn read_json(path: &Path, limits: ModelLimits, pad: Option<u32>, positions: Positions) -> Result<TokenSequences, TokensError> {
    let io = |source| TokensError::Io { path: path.to_owned(), source };
    let shape = |problem: String| TokensError::Json { path: path.to_owned(), problem };
    let mut source = Source::open(path).map_err(|problem| match problem {
        TextError::Io { source, .. } => io(source),
        other => other.into(),
    })?;
    // A plain file takes what it has on the disk, a compressed one so much at most.
    let most = if source.is_compressed() { LONGEST as u64 } else { u64::MAX };
    let mut content = Vec::new();
    (&mut source).take(most).read_to_end(&mut content).map_err(io)?;
    if content.len() as u64 == most {
        return Err(shape(format!("it has more than {} MiB when it is decompressed", LONGEST >> 20)));
    }
    let lists: Value = json::from_slice(&content).map_err(shape)?;
    let lists = lists.as_array().ok_or_else(|| shape("its outermost value is not a list".to_owned()))?;
    let name = path.display().to_string();
    let mut sequences = Vec::with_capacity(lists.len());
    for (index, list) in lists.iter().enumerate() {
        let sequence = index + 1;
        let list = list.as_array().ok_or_else(|| shape(format!("entry {sequence} is not a list")))?;
        let mut ids = Vec::with_capacity(list.len());
        for (index, value) in list.iter().enumerate() {
            let position = index + 1;
            let id = value.as_u64().ok_or_else(|| shape(format!("sequence {sequence}, position {position} is {value}")))?;
            // An id beyond u32 is beyond every vocabulary: the same message as for any other.
            ids.push(u32::try_from(id).map_err(|_| {
                let (name, vocabulary) = (name.clone(), limits.vocabulary);
                TokensError::OutsideVocabulary { name, sequence, position, id, vocabulary }
            })?);
        }
        sequences.push(ids);
    }
    TokenSequences::new(name, sequences, limits, pad, positions, Provenance::Ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &str) -> Result<TokenSequences, TokensError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ids.json");
        std::fs::write(&path, content).unwrap();
        read_json(&path, ModelLimits { vocabulary: 9, positions: None }, Some(8), Positions::All)
    }

    #[test]
    fn lists_of_ids_come_back() {
        let tokens = read(" [[1, 2, 3],\n [4, 8]] ").unwrap();
        assert_eq!((tokens.ids(), tokens.offsets()), (&[1, 2, 3, 4, 8][..], &[0, 3, 5][..]));
        assert_eq!(tokens.kept(), [true, true, true, true, false]);
        assert_eq!(*tokens.provenance(), Provenance::Ids);
    }

    #[test]
    fn the_byte_order_mark_is_skipped_and_compressed_files_are_read() {
        assert_eq!(read("\u{feff}[[1, 2], [3]]").unwrap().ids(), [1, 2, 3]);
        let folder = tempfile::tempdir().unwrap();
        let (path, limits) = (folder.path().join("ids.json.gz"), ModelLimits { vocabulary: 9, positions: None });
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, b"\xef\xbb\xbf [[1, 2]]").unwrap();
        std::fs::write(&path, encoder.finish().unwrap()).unwrap();
        assert!(is_token_file(&path));
        assert_eq!(read_json(&path, limits, None, Positions::All).unwrap().ids(), [1, 2]);
    }

    #[test]
    fn lists_are_told_from_objects() {
        let folder = tempfile::tempdir().unwrap();
        let cases = [
            ("a.json", "\u{feff} [[1]]", true),
            ("b.JSON", "[]", true),
            ("c.json", "{\"text\": \"a\"}", false),
            ("d.json", "[\n {\"text\": \"a\"}]", false),
            ("e.jsonl", "[[1]]", false),
            ("f.json", "", false),
        ];
        for (name, content, expected) in cases {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            assert_eq!(is_token_file(&path), expected, "{name}");
        }
        assert!(!is_token_file(&folder.path().join("absent.json")));
    }

    #[test]
    fn faults_name_the_sequence() {
        let cases = [
            ("[[NaN]]", "position 1 is \"NaN\""),
            ("[[1, 2], [3", "EOF"),
            ("{\"input_ids\": [[1]]}", "outermost"),
            ("[1, 2]", "entry 1 is not a list"),
            ("[[1], [2, -1]]", "sequence 2, position 2 is -1"),
            ("[[1.5]]", "position 1 is 1.5"),
            ("[[\"1\"]]", "position 1 is \"1\""),
            ("[[1], [2, 9]]", "sequence 2, position 2 of"),
            ("[[4294967296]]", "token 4294967296, outside the model's vocabulary 0..9"),
            ("[]", "no token sequence"),
            ("[[1], []]", "sequence 2 of"),
        ];
        for (content, expected) in cases {
            let message = read(content).unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains("ids.json"), "`{message}` should contain `{expected}`");
        }
        let absent = read_json(Path::new("absent.json"), ModelLimits { vocabulary: 9, positions: None }, None, Positions::All);
        assert!(matches!(absent, Err(TokensError::Io { .. })));
    }
}
