//! Complete models in gguf files: names, changes of the tensors and configuration together give the logits of the original.

use std::fs;

use serde_json::{Value, json};

use super::*;
use crate::arch::from_config;

fn folder(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden")).join(name)
}

fn json_file(path: &std::path::Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn model(name: &str) -> (TensorStore, Value) {
    let store = TensorStore::open(&folder("gguf_models").join(format!("{name}.gguf"))).unwrap();
    let config = Value::Object(store.gguf().unwrap().config().unwrap_or_else(|error| panic!("{name}: {error}")));
    (store, config)
}

#[test]
fn every_architecture_has_the_logits_of_the_original() {
    let cases = json_file(&folder("gguf_models/cases.json"));
    let mut report = String::new();
    let mut failures = Vec::new();
    for (name, case) in cases["cases"].as_object().unwrap() {
        let (store, config) = model(name);
        let architecture = from_config(&config).unwrap_or_else(|error| panic!("{name}: {error}"));
        let center = bind(&store, &architecture.layout(), &str::to_owned, &BindOptions::default());
        let center = center.unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut weights = vec![f32::NAN; center.dimension()];
        center.fill(0..weights.len(), &mut weights);
        let golden = json_file(&folder("language_models").join(case.as_str().unwrap()).join("golden.json"));
        // The layout is that of the original: the embedding is one parameter where it was.
        let names: Vec<Value> = center.layout().parameters().iter().map(|parameter| json!([parameter.name, parameter.shape])).collect();
        assert_eq!(Value::Array(names), golden["parameters"], "{name}");
        let sequences: Vec<Vec<u32>> = serde_json::from_value(golden["sequences"].clone()).unwrap();
        let logits: Vec<Vec<f64>> = serde_json::from_value(golden["logits"].clone()).unwrap();
        let model = architecture.language_model().unwrap();
        for (ids, expected) in sequences.iter().zip(&logits) {
            let found = model.logits_exact(&weights, ids).unwrap();
            let largest = expected.iter().map(|logit| logit.abs()).fold(0.0, f64::max);
            let difference = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            report += &format!("{name}: {difference:.1e} of {largest:.1}\n");
            // 1 added to a norm's weight and taken off again costs a rounding.
            if difference > 2e-6 * largest {
                failures.push(name.clone());
            }
        }
    }
    assert!(failures.is_empty(), "{failures:?}\n{report}");
}

/// What is replaced, and by what.
type Replacement<'a> = (&'a [u8], &'a [u8]);

/// A file changed in place: every occurrence of a text by one of the same length.
fn with(name: &str, changes: &[Replacement]) -> Result<Value, WeightsError> {
    let mut bytes = fs::read(folder("gguf_models").join(format!("{name}.gguf"))).unwrap();
    for (old, new) in changes {
        assert_eq!(old.len(), new.len());
        let places: Vec<usize> = (0..=bytes.len() - old.len()).filter(|&at| bytes[at..].starts_with(old)).collect();
        assert!(!places.is_empty(), "{name} should contain {:?}", String::from_utf8_lossy(old));
        places.iter().for_each(|&at| bytes[at..at + new.len()].copy_from_slice(new));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    let store = TensorStore::open(&path)?;
    Ok(Value::Object(store.gguf().unwrap().config()?))
}

/// A key of 32-bit type `kind` with its value, as it stands in the file.
fn key(name: &str, kind: u8, value: u32) -> Vec<u8> {
    [&(name.len() as u64).to_le_bytes()[..], name.as_bytes(), &[kind, 0, 0, 0], &value.to_le_bytes()].concat()
}

#[test]
fn settings_of_other_models_are_refused_by_name() {
    let cases: &[(&str, &[Replacement], &str)] = &[
        ("llama", &[(&key("llama.attention.value_length", 4, 4), &key("llama.attention.value_length", 4, 8))], "value_length` is 8"),
        ("llama", &[(&key("llama.rope.dimension_count", 4, 4), &key("llama.rope.dimension_count", 4, 2))], "dimension_count` is 2"),
        // Keys of the same length take the place of ones that need not be there.
        ("llama", &[(b"llama.rope.freq_base", b"llama.residual_scale")], "its `llama.residual_scale` is 10000, which is not supported"),
        ("llama", &[(b"llama.feed_forward_length", b"llama.feed_forward_lengt_")], "lacks `llama.feed_forward_length`"),
        ("llama", &[(&key("llama.block_count", 4, 2), &key("llama.block_count", 6, 2))], "`llama.block_count` of another kind"),
        ("llama", &[(b"token_embd.weight", b"token_embd.weighs")], "lacks the tensor `token_embd.weight`"),
        ("llama", &[(b"general.architecture", b"general.architectura")], "lacks `general.architecture`"),
        (
            "phi2",
            &[(&key("phi2.rope.dimension_count", 4, 2), &key("phi2.rope.dimension_count", 4, 0))],
            "rope.dimension_count`, or it is 0",
        ),
        ("phi2", &[(&key("phi2.rope.dimension_count", 4, 2), &key("phi2.rope.dimension_count", 4, 6))], "is 6, but heads are 4 wide"),
    ];
    for (name, changes, problem) in cases {
        assert_sentence(&with(name, changes).unwrap_err().to_string(), problem);
    }
}

#[test]
fn factors_that_are_not_those_of_llama_3_are_refused() {
    let bytes = fs::read(folder("gguf_models/llama3.gguf")).unwrap();
    let (store, config) = model("llama3");
    assert_eq!(config["rope_scaling"]["original_max_position_embeddings"], json!(16));
    assert_eq!(config["rope_scaling"]["factor"], json!(8.0));
    let factors: Vec<u8> = store.gguf().unwrap().rotary_factors.as_ref().unwrap().iter().flat_map(|factor| factor.to_le_bytes()).collect();
    let at = (0..bytes.len()).rfind(|&at| bytes[at..].starts_with(&factors)).unwrap();
    let mut changed = bytes;
    changed[at..at + 4].copy_from_slice(&3.7f32.to_le_bytes());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, changed).unwrap();
    let message = TensorStore::open(&path).unwrap().gguf().unwrap().config().unwrap_err().to_string();
    assert_sentence(&message, "its `rope_freqs.weight` is not that of a Llama 3 model");
}

#[test]
fn the_score_scale_of_gemma_2_goes_by_the_depth() {
    assert_eq!(model("gemma2").1["query_pre_attn_scalar"], json!(4));
    let wide = |name: &str| (key(name, 4, 4), key(name, 4, 8));
    let pairs = ["gemma2.attention.key_length", "gemma2.attention.value_length", "gemma2.rope.dimension_count"].map(wide);
    let mut changes: Vec<Replacement> = pairs.iter().map(|(old, new)| (old.as_slice(), new.as_slice())).collect();
    assert_eq!(with("gemma2", &changes).unwrap()["query_pre_attn_scalar"], json!(8));
    let depth = (key("gemma2.block_count", 4, 2), key("gemma2.block_count", 4, 46));
    changes.push((&depth.0, &depth.1));
    let config = with("gemma2", &changes).unwrap();
    // The 27B model: the hidden size over the heads.
    assert_eq!((&config["query_pre_attn_scalar"], &config["head_dim"]), (&json!(4), &json!(8)));
}

#[test]
fn a_part_of_a_model_is_refused() {
    let name = b"split.count";
    let mut bytes = [&b"GGUF"[..], &3u32.to_le_bytes(), &0u64.to_le_bytes(), &1u64.to_le_bytes()].concat();
    bytes.extend([&(name.len() as u64).to_le_bytes()[..], name, &2u32.to_le_bytes(), &3u16.to_le_bytes()].concat());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model-00001-of-00003.gguf");
    fs::write(&path, bytes).unwrap();
    assert_sentence(&TensorStore::open(&path).unwrap_err().to_string(), "one of 3 parts of a model: join them with `llama-gguf-split");
}
