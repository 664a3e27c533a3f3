use std::fs;

use serde_json::json;

use super::*;

/// Compares every tensor of a fixture: whole, and by pieces that start and end anywhere.
fn compare(name: &str, tolerance: f32) -> TensorStore {
    let store = TensorStore::open(&golden(name)).unwrap();
    for (tensor, shape, values) in expected(name) {
        assert_eq!(store.shape(&tensor), Some(shape.as_slice()), "{name}: {tensor}");
        let mut read = vec![f32::NAN; values.len()];
        store.read_f32(&tensor, 0..values.len(), &mut read).unwrap();
        for (index, (&a, &b)) in read.iter().zip(&values).enumerate() {
            assert!((a - b).abs() <= tolerance * b.abs(), "{name}: {tensor}[{index}] is {a} instead of {b}");
        }
        for start in (0..values.len()).step_by(1 + values.len() / 7) {
            for count in [1, 5, 33, 300] {
                let range = start..(start + count).min(values.len());
                let mut part = vec![f32::NAN; range.len()];
                store.read_f32(&tensor, range.clone(), &mut part).unwrap();
                assert_eq!(part, read[range], "{name}: {tensor} from {start}, {count} elements");
            }
        }
    }
    store
}

#[test]
fn safetensors_of_every_type_are_read() {
    let store = compare("model.safetensors", 0.0);
    assert_eq!(store.element("half"), Some(Element::F16));
    assert_eq!(store.element("h.0.attn.bias"), Some(Element::Other("BOOL")));
    let message = store.read_f32("h.0.attn.bias", 0..1, &mut [0.0]).unwrap_err().to_string();
    assert_sentence(&message, "tensor `h.0.attn.bias` of ");
    assert_sentence(&message, "has elements of type BOOL");
    assert_sentence(&store.read_f32("no\nsuch", 0..0, &mut []).unwrap_err().to_string(), "lacks tensor `no?such`");
}

#[test]
fn pickles_of_every_type_and_stride_are_read() {
    let store = compare("pytorch_model.bin", 0.0);
    assert_eq!(store.element("permuted_brain"), Some(Element::BF16));
    assert_eq!(store.element("steps_done"), Some(Element::Other("Long")));
    assert!(store.readable("h.0.attn.bias").is_err());
    compare("protocol4.bin", 0.0);
}

#[test]
fn shards_are_joined() {
    compare("shards-safetensors", 0.0);
    compare("shards-bin", 0.0);
}

#[test]
fn every_quantized_type_is_read_and_metadata_too() {
    let store = compare("quantized.gguf", 0.0);
    assert_eq!(store.names().count(), 13);
    let gguf = store.gguf().unwrap();
    assert_eq!(gguf.architecture().as_deref(), Some("unnamed"));
    assert_eq!(gguf.get("some.negative"), Some(GgufValue::Signed(-5)));
    assert_eq!(gguf.get("some.truth").and_then(|value| value.as_bool()), Some(true));
    let texts = ["a", "bc", ""].map(|text| GgufValue::Text(text.to_owned()));
    assert_eq!(gguf.get("some.texts"), Some(GgufValue::Array(texts.to_vec())));
    let GgufValue::Array(numbers) = gguf.get("some.numbers").unwrap() else { panic!("an array") };
    assert_eq!(numbers.iter().map(|value| value.as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(gguf.keys().any(|key| key == "some.texts"));
    assert_sentence(&gguf.config().unwrap_err().to_string(), "its architecture is `unnamed`, which is not known: expected one of llama");
}

#[test]
fn the_changes_of_the_gguf_converter_are_undone() {
    for name in ["llama.gguf", "qwen3.gguf", "gemma2.gguf", "gpt2.gguf", "gptneox.gguf"] {
        let store = compare(name, 3e-6);
        assert_eq!(store.names().count(), expected(name).len(), "{name}");
    }
}

#[test]
fn configurations_are_built_from_gguf_metadata() {
    let config = |name: &str| TensorStore::open(&golden(name)).unwrap().gguf().unwrap().config().unwrap();
    let expected = json!({
        "model_type": "llama", "num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 128, "intermediate_size": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "vocab_size": 10,
        "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2, "attention_bias": false, "mlp_bias": false,
        "hidden_act": "silu",
    });
    assert_eq!(serde_json::Value::Object(config("llama.gguf")), expected);
    let qwen3 = config("qwen3.gguf");
    assert_eq!((&qwen3["head_dim"], &qwen3["tie_word_embeddings"]), (&json!(8), &json!(false)));
    assert_eq!(config("gemma2.gguf")["final_logit_softcapping"], json!(30.0));
    let gpt2 = config("gpt2.gguf");
    assert_eq!((&gpt2["n_embd"], &gpt2["n_positions"], &gpt2["n_inner"]), (&json!(32), &json!(16), &json!(128)));
    let neox = config("gptneox.gguf");
    assert_eq!((&neox["rotary_pct"], &neox["use_parallel_residual"]), (&json!(0.5), &json!(true)));
}

#[test]
fn a_folder_is_searched_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let message = TensorStore::open(folder.path()).unwrap_err().to_string();
    assert_sentence(&message, "holds no weights: expected model.safetensors");
    for (source, target) in
        [("llama.gguf", "any-name.gguf"), ("pytorch_model.bin", "pytorch_model.bin"), ("model.safetensors", "model.safetensors")]
    {
        fs::copy(golden(source), folder.path().join(target)).unwrap();
        assert!(TensorStore::open(folder.path()).unwrap().path().ends_with(target));
    }
    for name in ["pytorch_model.bin", "model.safetensors"] {
        fs::remove_file(folder.path().join(name)).unwrap();
    }
    fs::copy(golden("gpt2.gguf"), folder.path().join("other.gguf")).unwrap();
    assert_sentence(&TensorStore::open(folder.path()).unwrap_err().to_string(), "holds 2 gguf files");
}

#[test]
fn unusable_files_are_refused_in_one_sentence() {
    let cases = [
        ("legacy.bin", "before version 1.6, which is not read: load it in Python"),
        ("hostile.bin", "system`, which a file of weights does not need: refused, nothing was run"),
        ("not-a-tensor.bin", "its entry `epoch` is an integer instead of a tensor"),
        ("versions.json", "it is not a complete safetensors file"),
        ("absent.safetensors", "cannot read"),
    ];
    for (name, problem) in cases {
        let message = TensorStore::open(&golden(name)).unwrap_err().to_string();
        assert_sentence(&message, problem);
        assert_sentence(&message, name);
    }
    assert!(!PathBuf::from("basin-volume-was-fooled").exists());
}

#[test]
fn views_outside_their_storage_are_refused_by_name() {
    // One tensor [5, 3] with strides [3, 1]: its description is changed in place.
    let original = fs::read(golden("protocol4.bin")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pytorch_model.bin");
    let sizes = original.windows(5).position(|bytes| bytes == b"K\x05K\x03\x86").unwrap();
    let strides = original.windows(5).position(|bytes| bytes == b"K\x03K\x01\x86").unwrap();
    let length = original.windows(3).position(|bytes| bytes == b"K\x0ft").unwrap();
    let cases: &[(usize, u8, &str)] = &[
        (sizes + 1, 6, "has 18 elements in a storage of 15"),
        (strides + 1, 4, "reaches past the 15 elements of its storage"),
        (strides + 3, 2, "reaches past the 15 elements of its storage"),
        (length + 1, 16, "is in a storage of 16 elements, of which the file holds 15"),
    ];
    for &(place, byte, problem) in cases {
        let mut bytes = original.clone();
        bytes[place] = byte;
        fs::write(&path, bytes).unwrap();
        let message = TensorStore::open(&path).unwrap_err().to_string();
        assert_sentence(&message, problem);
        assert_sentence(&message, "tensor `single` of ");
    }
}

#[test]
fn an_index_that_disagrees_with_its_shards_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors.index.json");
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    for shard in shards {
        fs::copy(golden("shards-safetensors").join(shard), folder.path().join(shard)).unwrap();
    }
    let (a, b) = (shards[0], shards[1]);
    let cases = [
        (json!({"single": a, "half": a, "brain": b, "double": b, "ghost": b}), "tensor `ghost` listed, but not in the shard"),
        (json!({"single": a, "half": b, "brain": b, "double": b}), "tensor `half` found in another shard than listed"),
        (json!({"single": a, "half": a, "double": b}), "tensor `brain` found in a shard, but not listed"),
        (json!({"single": a, "half": "c.safetensors"}), "lists shard `c.safetensors`, which is not beside it"),
        (json!({"single": "../x.safetensors"}), "its shard `../x.safetensors` is not a plain file name"),
        (json!({"single": 3}), "it is not an index with a `weight_map`"),
    ];
    for (map, problem) in cases {
        fs::write(&path, json!({ "weight_map": map }).to_string()).unwrap();
        assert_sentence(&TensorStore::open(folder.path()).unwrap_err().to_string(), problem);
    }
}
