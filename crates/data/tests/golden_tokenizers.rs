//! Tokenizers of every class of the supported families, from files as repositories have them, against `AutoTokenizer` of transformers 5
//! (`scripts/fixtures/tokenizer_classes.py`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use basin_volume_data::tokenizer::{SpecialTokenOverrides, TextTokenizer};
use serde::Deserialize;

#[derive(Deserialize)]
struct Expected {
    texts: Vec<String>,
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    class: String,
    words: BTreeMap<String, Option<u32>>,
    ids: Vec<Vec<u32>>,
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tokenizers").join(name)
}

fn expected() -> Expected {
    serde_json::from_slice(&std::fs::read(golden("expected.json")).unwrap()).unwrap()
}

fn load(name: &str) -> TextTokenizer {
    TextTokenizer::load(&golden(name), SpecialTokenOverrides::default()).unwrap_or_else(|problem| panic!("{name}: {problem}"))
}

#[test]
fn ids_are_those_of_transformers() {
    let Expected { texts, cases } = expected();
    assert_eq!(cases.len(), 40);
    let mut failures = Vec::new();
    for (name, case) in &cases {
        let tokenizer = load(name);
        for (text, ids) in texts.iter().zip(&case.ids) {
            let own = tokenizer.encode(text, None).unwrap().ids;
            if own != *ids {
                failures.push(format!("{name} ({}), {text:?}:\n  {own:?}\n  {ids:?}", case.class));
            }
        }
        let special = tokenizer.special_tokens();
        for (word, own) in [("bos", &special.bos), ("eos", &special.eos), ("unk", &special.unk), ("pad", &special.pad)] {
            let own = own.as_ref().map(|token| token.id);
            // Where a file of other special tokens or a configuration has one that transformers leaves out, it is taken here.
            if own != case.words[word] && case.words[word].is_some() {
                failures.push(format!("{name} ({}), {word} is {own:?}, not {:?}", case.class, case.words[word]));
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn a_line_says_which_of_two_files_won() {
    let cases: [(&str, &[&str]); 16] = [
        ("neox_flag_false", &["tokenizer.json puts BOS before a text, but GPTNeoXTokenizer of transformers 5 does not: the class wins"]),
        (
            "neox_flag_true",
            &["`add_bos_token` is true, but tokenizer.json puts no BOS before a text: tokenizer.json wins", "`add_eos_token` is true"],
        ),
        ("neox_other_class", &["`add_bos_token` is false, but tokenizer.json puts BOS before a text: tokenizer.json wins"]),
        ("neox_slow_files", &[]),
        ("gpt2_bare", &[]),
        ("gpt2_prefix_space_fast", &["another pre-tokenizer than GPT2Tokenizer"]),
        ("opt_slow", &[]),
        ("opt_fast", &[]),
        ("llama_legacy", &["another normalizer than LlamaTokenizer", "another pre-tokenizer", "`add_bos_token` is false"]),
        ("llama_plain", &[]),
        ("llama_bytes", &["`add_bos_token` is false, but tokenizer.json puts BOS before a text: tokenizer.json wins"]),
        ("olmo2", &["`add_prefix_space` is true, but in tokenizer.json it is false: tokenizer.json wins"]),
        ("decoder", &[]),
        ("decoder_other_ids", &["the token \"<|im_start|>\" the id 305, but it is 300", "\"<|im_end|>\" the id 310, but it is 301"]),
        (
            "map_over_settings",
            &[
                "`eos_token` is \"<|im_end|>\" in tokenizer_config.json and \"<|im_start|>\" in special_tokens_map.json: special_tokens_map.json wins",
            ],
        ),
        ("settings_over_map", &["tokenizer_config.json wins"]),
    ];
    for (name, expected) in cases {
        let tokenizer = load(name);
        let notes = tokenizer.notes();
        assert_eq!(notes.len(), expected.len(), "{name}: {notes:#?}");
        for part in expected {
            assert!(notes.iter().any(|note| note.contains(part) && !note.contains('\n')), "{name}: {notes:#?} should have `{part}`");
        }
    }
}
