//! Our ids against those of transformers, and our documents against those pyarrow wrote (`scripts/fixtures/tokens.py`).

use std::path::{Path, PathBuf};

use basin_volume_data::text::{Documents, TextError};
use basin_volume_data::tokenizer::{SpecialTokenOverrides, TextTokenizer};
use basin_volume_data::tokens::{ModelLimits, Positions, ReadSettings, Reading, SequenceCount, read_text};
use serde::Deserialize;

#[derive(Deserialize)]
struct Expected {
    documents: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    tokenizer: String,
    reading: Reading,
    max_seq_len: usize,
    sequences: Vec<Vec<u32>>,
    kept: usize,
    sha256: String,
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tokens").join(name)
}

fn expected() -> Expected {
    serde_json::from_slice(&std::fs::read(golden("expected.json")).unwrap()).unwrap()
}

fn read(path: &Path, key: &str) -> Result<Vec<String>, TextError> {
    Documents::open(path, key)?.collect()
}

#[test]
fn ids_kept_positions_and_hashes_are_those_of_transformers() {
    let mut failures = Vec::new();
    let cases = expected().cases;
    assert_eq!(cases.len(), 18);
    for case in cases {
        let overrides = match case.tokenizer.as_str() {
            "neox" => SpecialTokenOverrides { pad: Some(1), eos: Some(0) },
            _ => SpecialTokenOverrides::default(),
        };
        let tokenizer = TextTokenizer::load(&golden(&case.tokenizer), overrides).unwrap();
        let limits = ModelLimits { vocabulary: tokenizer.vocab_size(), positions: None };
        let (reading, max_seq_len) = (case.reading, case.max_seq_len);
        for skip in [0, 2] {
            let count = SequenceCount::Exactly(case.sequences.len() - skip);
            let settings = ReadSettings { reading, max_seq_len, count, skip, positions: Positions::All };
            let label = format!("{} {reading:?} {max_seq_len} skip {skip}", case.tokenizer);
            let tokens = match read_text(&golden("documents.jsonl"), "text", &tokenizer, settings, limits) {
                Ok(tokens) => tokens,
                Err(problem) => {
                    failures.push(format!("{label}: {problem}"));
                    continue;
                }
            };
            let ours: Vec<_> = tokens.iter().map(|sequence| sequence.ids.to_vec()).collect();
            if let Some(index) = (0..ours.len()).find(|&index| ours[index] != case.sequences[skip + index]) {
                failures.push(format!("{label}: sequence {index}\n{:?}\n{:?}", ours[index], case.sequences[skip + index]));
            } else if skip == 0 && (tokens.kept_count(), tokens.hash()) != (case.kept, case.sha256.clone()) {
                failures.push(format!("{label}: {} kept instead of {}, or another hash", tokens.kept_count(), case.kept));
            }
            let more = ReadSettings { count: SequenceCount::Exactly(case.sequences.len() + 1), skip: 0, ..settings };
            assert!(read_text(&golden("documents.jsonl"), "text", &tokenizer, more, limits).is_err(), "{label}: sequences beyond the last");
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A long document is encoded as far as it is wanted: at every length, the ids are those of the whole one.
#[test]
fn a_cut_document_has_the_ids_of_the_whole_one() {
    let text = expected().documents.join(" ").repeat(3);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.txt");
    std::fs::write(&path, &text).unwrap();
    for name in ["neox", "llama", "llama_legacy"] {
        let tokenizer = TextTokenizer::load(&golden(name), SpecialTokenOverrides { pad: Some(1), eos: None }).unwrap();
        let limits = ModelLimits { vocabulary: tokenizer.vocab_size(), positions: None };
        let special = tokenizer.special_tokens();
        let eos = special.eos.as_ref().unwrap().id;
        let whole = tokenizer.encode(&text, None).unwrap().ids;
        let joined = tokenizer.encode_after_eos(&text, eos).unwrap();
        for length in (2..200).chain([300, 500, whole.len(), whole.len() + 1]) {
            let settings = ReadSettings { max_seq_len: length, count: SequenceCount::Exactly(1), ..ReadSettings::default() };
            let tokens = read_text(&path, "text", &tokenizer, settings, limits).unwrap();
            assert_eq!(tokens.ids(), &whole[..length.min(whole.len())], "{name}, {length} tokens");
            let chunk = ReadSettings { reading: Reading::Chunks, ..settings };
            if length <= joined.len() {
                let tokens = read_text(&path, "text", &tokenizer, chunk, limits).unwrap();
                assert_eq!(tokens.ids(), &joined[..length], "{name}, {length} tokens of a chunk");
            }
        }
    }
}

#[test]
fn every_format_gives_the_same_documents() {
    let documents = expected().documents;
    for name in ["documents.jsonl", "documents.csv", "snappy.parquet", "zstd.parquet", "gzip.parquet", "required.parquet"] {
        assert_eq!(read(&golden(name), "text").unwrap(), documents, "{name}");
    }
}

#[test]
fn parquet_faults_name_the_file_and_the_column() {
    let cases = [
        ("snappy.parquet", "body", &["no `body`", "`id`, `words`, `text`, `gaps`, `parts`"][..]),
        ("snappy.parquet", "id", &["a column of INT64"]),
        ("snappy.parquet", "words", &["a column of lists"]),
        ("snappy.parquet", "parts", &["lists or structures"]),
        ("snappy.parquet", "gaps", &["row 2", "null"]),
        ("brotli.parquet", "text", &["BROTLI", "write it again"]),
    ];
    for (name, key, parts) in cases {
        let message = read(&golden(name), key).unwrap_err().to_string();
        for part in parts.iter().chain([&name]) {
            assert!(message.contains(part), "`{message}` should contain `{part}`");
        }
    }
}

#[test]
fn a_parquet_file_is_read_only_as_far_as_asked() {
    // Damage in the pages of the last row groups must not matter to who takes the first rows.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.parquet");
    let mut content = std::fs::read(golden("snappy.parquet")).unwrap();
    let footer = u32::from_le_bytes(content[content.len() - 8..content.len() - 4].try_into().unwrap()) as usize;
    let pages = content.len() - 8 - footer;
    content[pages / 2..pages].fill(0xff);
    std::fs::write(&path, content).unwrap();
    let mut documents = Documents::open(&path, "text").unwrap();
    assert_eq!(documents.next().unwrap().unwrap(), expected().documents[0]);
    let message = documents.find_map(Result::err).unwrap().to_string();
    assert!(message.contains("damaged.parquet, row ") && message.contains("not valid parquet"), "{message}");
}

#[test]
fn damaged_parquet_files_give_one_sentence_and_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.parquet");
    let mut refused = 0;
    let mut tried = 0;
    for name in ["zstd.parquet", "required.parquet", "gzip.parquet"] {
        let whole = std::fs::read(golden(name)).unwrap();
        let cut = (0..whole.len()).step_by(13).map(|length| whole[..length].to_vec());
        let flipped = (0..whole.len()).step_by(3).map(|position| {
            let mut content = whole.clone();
            content[position] ^= 0x55;
            content
        });
        for (index, content) in cut.chain(flipped).enumerate() {
            std::fs::write(&path, &content).unwrap();
            tried += 1;
            match read(&path, "text") {
                // A flipped letter of the text or of a statistic can go unnoticed; a cut file cannot.
                Ok(_) => assert!(content.len() == whole.len(), "{name}: a file cut at {} passes", content.len()),
                Err(problem) => {
                    refused += 1;
                    let message = problem.to_string();
                    assert!(message.contains("damaged.parquet") && !message.contains('\n'), "{name} {index}: {message}");
                }
            }
        }
    }
    assert!(tried > 1000 && refused > tried / 3, "{refused} of {tried}");
}
