//! Token ids from a JSON file: `[[1, 2, 3], [4, 5]]`.

use std::path::Path;

use serde_json::Value;

use super::{ModelLimits, Positions, Provenance, TokenSequences, TokensError};

/// Reads sequences of ids from a JSON file, a list of lists.
///
/// # Errors
/// When the file is missing or of another shape, and as [`TokenSequences::new`].
pub fn read_json(path: &Path, limits: ModelLimits, pad: Option<u32>, positions: Positions) -> Result<TokenSequences, TokensError> {
    let content = std::fs::read(path).map_err(|source| TokensError::Io { path: path.to_owned(), source })?;
    let shape = |problem: String| TokensError::Json { path: path.to_owned(), problem };
    let lists: Value = serde_json::from_slice(&content).map_err(|problem| shape(problem.to_string()))?;
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
    fn faults_name_the_sequence() {
        let cases = [
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
