mod gradient;

use std::path::{Path, PathBuf};

use serde_json::json;

use super::super::decoder::Rotary;
use super::super::from_config;
use super::*;
use crate::cost::language_model_tests::log_softmax;

/// What the fixture script wrote for one tiny model.
struct Golden {
    architecture: Arc<dyn Architecture>,
    weights: Vec<f32>,
    sequences: Vec<Vec<u32>>,
    logits: Vec<Vec<f64>>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/language_models")
}

fn cases() -> Vec<String> {
    let entries = std::fs::read_dir(folder()).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(names.len() >= 53, "the fixtures are missing: {names:?}");
    names
}

fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn load(case: &str) -> Golden {
    let folder = folder().join(case);
    let architecture = from_config(&json_file(&folder.join("config.json"))).unwrap_or_else(|error| panic!("{case}: {error}"));
    let golden = json_file(&folder.join("golden.json"));
    let layout = architecture.layout();
    let names: Vec<Value> = layout.parameters().iter().map(|parameter| json!([parameter.name, parameter.shape])).collect();
    assert_eq!(Value::Array(names), golden["parameters"], "{case}: order, names and shapes");
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut weights = Vec::new();
    for parameter in layout.parameters() {
        let tensor = tensors.tensor(&parameter.name).unwrap();
        weights.extend(tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
    }
    let sequences = serde_json::from_value(golden["sequences"].clone()).unwrap();
    let logits = serde_json::from_value(golden["logits"].clone()).unwrap();
    Golden { architecture, weights, sequences, logits }
}

/// Largest logit difference relative to the range of the expected logits, and the mean divergence in nats.
fn distance(found: &[f64], expected: &[f64], vocabulary: usize) -> (f64, f64) {
    assert_eq!(found.len(), expected.len());
    let (least, most) = expected.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), &x| (least.min(x), most.max(x)));
    let difference = found.iter().zip(expected).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
    let rows = found.chunks(vocabulary).zip(expected.chunks(vocabulary));
    let nats: f64 = rows
        .map(|(found, expected)| {
            let (q, p) = (log_softmax(found), log_softmax(expected));
            p.iter().zip(&q).map(|(p, q)| p.exp() * ((q - p).exp_m1() - (q - p))).sum::<f64>()
        })
        .sum();
    assert!(difference.is_finite() && nats.is_finite());
    (difference / (most - least), nats / (found.len() / vocabulary) as f64)
}

#[test]
fn every_fixture_has_the_logits_of_transformers() {
    let mut failures = Vec::new();
    let mut report = String::new();
    for case in cases() {
        let golden = load(&case);
        let model = golden.architecture.language_model().unwrap();
        let ids: Vec<u32> = golden.sequences.concat();
        let lengths: Vec<usize> = golden.sequences.iter().map(Vec::len).collect();
        let found: Vec<f64> = model.logits(&golden.weights, &ids, &lengths).unwrap().into_iter().map(f64::from).collect();
        let exact: Vec<f64> = golden.sequences.iter().flat_map(|ids| model.logits_exact(&golden.weights, ids).unwrap()).collect();
        let expected = golden.logits.concat();
        let (difference, nats) = distance(&found, &expected, model.vocabulary());
        let (reference, reference_nats) = distance(&exact, &expected, model.vocabulary());
        report += &format!("{case}: logits {difference:.1e}, {nats:.1e} nats; f64 {reference:.1e}, {reference_nats:.1e} nats\n");
        // The f64 reference differs only by what transformers itself rounds to f32. A wrong option shows at 1e-3 and above.
        if difference > 1e-5 || nats > 1e-11 || reference > 2e-6 {
            failures.push(case);
        }
    }
    assert!(failures.is_empty(), "{failures:?} failed:\n{report}");
    if let Some(path) = std::env::var_os("PARITY_REPORT") {
        std::fs::write(path, report).unwrap();
    }
}

/// A Llama whose sequences span several blocks, with a sliding window.
fn long_model() -> (Arc<dyn Architecture>, Vec<f32>) {
    let config = json!({"model_type": "mistral", "vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 40, "max_position_embeddings": 512, "sliding_window": 150});
    let architecture = from_config(&config).unwrap();
    let weights = (0..architecture.layout().dimension()).map(|i| ((i * i % 7919) as f32 * 0.37).sin() * 0.4).collect();
    (architecture, weights)
}

#[test]
fn blocks_windows_and_threads_do_not_matter() {
    let (architecture, weights) = long_model();
    let model = architecture.language_model().unwrap();
    let lengths = [300usize, 1, 130, 17];
    let ids: Vec<u32> = (0..lengths.iter().sum::<usize>()).map(|i| (i * 31 % 50) as u32).collect();
    let found = model.logits(&weights, &ids, &lengths).unwrap();
    let mut start = 0;
    for length in lengths {
        let exact = model.logits_exact(&weights, &ids[start..start + length]).unwrap();
        let part: Vec<f64> = found[start * 50..(start + length) * 50].iter().map(|&x| f64::from(x)).collect();
        let (difference, nats) = distance(&part, &exact, 50);
        assert!(difference < 1e-5 && nats < 1e-11, "length {length}: {difference:e}, {nats:e}");
        start += length;
    }
    for threads in [1, 2, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(|| model.logits(&weights, &ids, &lengths)).unwrap(), found, "{threads} threads");
    }
}

#[test]
fn wrong_tokens_are_named() {
    let (architecture, _) = long_model();
    let model = architecture.language_model().unwrap();
    let cases: [(&[u32], &[usize], &str); 4] = [
        (&[1, 2], &[3], "3 tokens together but 2"),
        (&[1, 2], &[2, 0], "sequence 1 is empty"),
        (&[1, 50], &[2], "token 50 at position 1"),
        (&[1; 513], &[513], "513 tokens but the model has 512"),
    ];
    for (ids, lengths, expected) in cases {
        let message = model.check(ids, lengths).unwrap_err().to_string();
        assert!(message.contains(expected), "`{message}` should contain `{expected}`");
    }
}

#[test]
fn unsupported_options_are_named() {
    let set = |case: &str, key: &str, value: Value| {
        let mut config = json_file(&folder().join(case).join("config.json"));
        config[key] = value;
        from_config(&config).unwrap_err().to_string()
    };
    let cases = [
        ("llama_untied", "rope_scaling", json!({"rope_type": "proportional", "factor": 4.0}), "\"proportional\""),
        ("llama_untied", "rope_scaling", json!({"rope_type": "yarn", "factor": 4.0}), "`rope_scaling.original_max_position_embeddings` is"),
        ("llama_untied", "rope_scaling", json!({"rope_type": "linear", "factor": 4.0, "beta_fast": 2}), "`rope_scaling.beta_fast` is not"),
        ("llama_yarn", "rope_parameters", json!({"rope_type": "yarn", "factor": 4.0, "truncate": false}), "`rope_parameters.truncate` is"),
        (
            "llama_yarn",
            "rope_parameters",
            json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, "rope_theta": 0.5}),
            "a base above 1",
        ),
        (
            "phi3_longrope",
            "rope_parameters",
            json!({"rope_type": "longrope", "short_factor": [1.0]}),
            "`rope_parameters.short_factor` is [1.0]",
        ),
        (
            "phi3_longrope",
            "original_max_position_embeddings",
            json!(1),
            "`original_max_position_embeddings` is 1: expected an integer from 2",
        ),
        ("phi3", "attention_bias", json!(true), "`attention_bias` is true"),
        ("phi3", "layer_types", json!(["full_attention", "full_attention"]), "`layer_types` is"),
        ("phi3", "sliding_window", json!(0), "`sliding_window` is 0"),
        ("gemma3_text", "attn_logit_softcapping", json!(50.0), "`attn_logit_softcapping` is 50.0"),
        ("gemma3_text", "rope_scaling", json!({"rope_type": "linear", "factor": 2.0}), "beside `rope_scaling`"),
        (
            "gemma3_text",
            "rope_parameters",
            json!({"rope_type": "default", "rope_theta": 1e4}),
            "`rope_parameters.rope_theta` is not supported",
        ),
        ("gemma3_text", "rope_parameters", json!({"full_attention": {"rope_type": "default", "partial_rotary_factor": 0.5}}), "is 0.5"),
        ("gemma3_text", "use_bidirectional_attention", json!(true), "`use_bidirectional_attention` is true"),
        ("gemma3_text", "sliding_window", Value::Null, "`sliding_window` is null"),
        ("gemma3_text_older", "rope_scaling", json!({"type": "linear", "factor": 2.0}), "`rope_scaling.rope_type` is missing"),
        ("olmo3_older", "rope_theta", json!(700.0), "`rope_theta` is 700.0"),
        ("stablelm", "num_key_value_heads", Value::Null, "not a multiple of the 32 key-value heads"),
        ("granite", "residual_multiplier", json!(-1.0), "`residual_multiplier` is -1.0"),
        ("llama_untied", "rope_scaling", json!({"rope_type": "linear"}), "`rope_scaling.factor` is missing"),
        ("llama_untied", "rope_scaling", json!({"rope_type": "default", "mrope_section": [1, 1]}), "`rope_scaling.mrope_section` is not"),
        ("llama_untied", "rope_scaling", json!({"rope_type": 3}), "`rope_scaling.rope_type` is 3"),
        ("llama_untied", "rope_parameters", json!({"full_attention": {"rope_theta": 1e4}}), "`rope_parameters.full_attention` is not"),
        (
            "llama_untied",
            "rope_parameters",
            json!({"rope_type": "default", "partial_rotary_factor": 0.5}),
            "`partial_rotary_factor` is 0.5",
        ),
        ("llama_untied", "partial_rotary_factor", json!(0.25), "`partial_rotary_factor` is 0.25"),
        ("llama_parameters", "rope_parameters", json!({"rope_type": "llama3", "rope_theta": 0.0}), "`rope_theta` is 0.0"),
        ("llama_untied", "quantization_config", json!({"quant_method": "gptq", "bits": 4}), "the method \"gptq\""),
        ("llama_untied", "rope_interleaved", json!(true), "`rope_interleaved` is true"),
        ("qwen2_tied", "use_mrope", json!(true), "`use_mrope` is true"),
        ("llama_untied", "is_encoder_decoder", json!(true), "`is_encoder_decoder` is true"),
        ("gpt2", "pruned_heads", json!({"0": [1]}), "`pruned_heads`"),
        ("gemma2", "use_bidirectional_attention", json!(true), "`use_bidirectional_attention` is true"),
        ("gpt_neox_pythia", "head_dim", json!(8), "`head_dim` is 8"),
        ("qwen2_window", "max_window_layers", json!(-1), "`max_window_layers` is -1"),
        ("llama_untied", "hidden_act", json!("mish"), "`hidden_act` is \"mish\""),
        ("llama_untied", "hidden_size", json!(0), "`hidden_size` is 0"),
        ("llama_untied", "hidden_size", json!("wide"), "`hidden_size` is \"wide\""),
        ("llama_untied", "vocab_size", Value::Null, "`vocab_size` is missing"),
        ("llama_untied", "num_key_value_heads", json!(3), "not a multiple of the 3 key-value heads"),
        ("llama_untied", "tie_word_embeddings", json!(1), "`tie_word_embeddings` is 1"),
        ("gpt2", "n_head", json!(5), "not a multiple of the 5"),
        ("gpt2", "add_cross_attention", json!(true), "`add_cross_attention` is true"),
        ("gpt_neox_pythia", "rotary_pct", json!(7.0), "28 of the 4 features"),
        ("gemma2", "layer_types", json!(["chunked", "full_attention"]), "\"chunked\""),
        ("qwen3", "layer_types", json!(["full_attention"]), "`layer_types`"),
        ("llama_untied", "num_hidden_layers", json!(1 << 24), "at most 10000"),
    ];
    for (case, key, value, expected) in cases {
        let message = set(case, key, value);
        assert!(message.contains(expected), "`{message}` should contain `{expected}`");
    }
}

/// Keys that say nothing about the logits of a plain forward pass: names, token ids, training (dropout, initial values), generation, number
/// types, and options that only choose between ways of computing the same.
const IRRELEVANT: &[&str] = &[
    "architectures",
    "attention_dropout",
    "attn_pdrop",
    "bos_token_id",
    "cache_implementation",
    "classifier_dropout",
    "dropout",
    "dtype",
    "embd_pdrop",
    "eos_token_id",
    "hidden_dropout",
    "init_std",
    "initializer_range",
    "layerdrop",
    "model_type",
    "pad_token_id",
    "pretraining_tp",
    "reorder_and_upcast_attn",
    "resid_pdrop",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "torch_dtype",
    "transformers_version",
    "use_cache",
];

/// Keys that a family writes, but does not read itself.
fn is_ignored(family: &str, key: &str) -> bool {
    match family {
        // What the class was made from; `layer_types` say it too.
        "gemma3_text" => key == "_sliding_window_pattern",
        // Both repeat `rotary_emb_base` and `rotary_pct`.
        "gpt_neox" => ["rope_theta", "partial_rotary_factor"].contains(&key),
        _ => false,
    }
}

#[test]
fn every_key_of_the_fixtures_is_read_or_irrelevant() {
    let mut silent = Vec::new();
    for case in cases() {
        let config = json_file(&folder().join(&case).join("config.json"));
        for key in config.as_object().unwrap().keys().filter(|key| !IRRELEVANT.contains(&key.as_str())) {
            // A key that is read is refused when it holds nonsense.
            let mut changed = config.clone();
            changed[key] = json!({"nonsense": [true]});
            let family = config["model_type"].as_str().unwrap();
            if from_config(&changed).is_ok() && !is_ignored(family, key) {
                silent.push(format!("{case}: {key}"));
            }
        }
    }
    assert!(silent.is_empty(), "ignored without a word: {silent:?}");
}

#[test]
fn missing_keys_have_the_values_of_the_family_and_null_means_none() {
    let windows = |case: &str, key: &str, value: Option<Value>| {
        let mut config = json_file(&folder().join(case).join("config.json"));
        match value {
            Some(value) => config[key] = value,
            None => _ = config.as_object_mut().unwrap().remove(key),
        }
        let decoder = &from_config(&config).unwrap().language_model().unwrap().decoder.clone();
        let attention = &decoder.layers[0].attention;
        (attention.window, attention.cap, decoder.logit_cap)
    };
    assert_eq!(windows("mistral_window", "sliding_window", None).0, Some(4096));
    assert_eq!(windows("mistral_window", "sliding_window", Some(Value::Null)).0, None);
    assert_eq!(windows("gemma2", "sliding_window", None).0, Some(4096));
    assert_eq!(windows("gemma2", "attn_logit_softcapping", None).1, Some(50.0));
    assert_eq!(windows("gemma2", "final_logit_softcapping", None).2, Some(30.0));
    assert_eq!(windows("gemma2", "final_logit_softcapping", Some(Value::Null)).2, None);
}

#[test]
fn every_number_of_the_newer_settings_shows_in_the_logits_or_is_refused() {
    // What says how long sequences may be, and what is overruled by a key beside it.
    let silent = |case: &str, path: &str| match path {
        "max_position_embeddings" | "bos_token_id" | "eos_token_id" | "initializer_range" | "attention_dropout" => true,
        "hidden_dropout" | "resid_pdrop" | "embd_pdrop" | "_sliding_window_pattern" | "pretraining_tp" => true,
        "rope_scaling.original_max_position_embeddings" => ["phi3_su_window", "olmo3_older"].contains(&case),
        "rope_parameters.original_max_position_embeddings" => case == "phi3_longrope",
        // Only the layer types count.
        "sliding_window_pattern" => case != "gemma3_text_older",
        // Without longrope, or as long as the longest sequence.
        "original_max_position_embeddings" => ["phi3", "phi3_factors"].contains(&case),
        // `attention_factor` is there too.
        "rope_scaling.factor" => case == "phi3_factors",
        _ => false,
    };
    let mut failures = Vec::new();
    for case in cases().into_iter().filter(|case| folder().join(case).join("gradient.safetensors").exists()) {
        let golden = load(&case);
        let config = json_file(&folder().join(&case).join("config.json"));
        let logits = |architecture: &dyn Architecture| -> Vec<f64> {
            let model = architecture.language_model().unwrap();
            golden.sequences.iter().flat_map(|ids| model.logits_exact(&golden.weights, ids).unwrap()).collect()
        };
        let expected = logits(&*golden.architecture);
        for path in numbers(&config, "") {
            let mut changed = config.clone();
            let place = path.split('.').fold(&mut changed, |value, key| &mut value[key]);
            *place = if place.is_u64() { json!(place.as_u64().unwrap() * 2) } else { json!(place.as_f64().unwrap() * 1.5) };
            let Ok(architecture) = from_config(&changed) else { continue };
            if architecture.layout() == golden.architecture.layout() && logits(&*architecture) == expected && !silent(&case, &path) {
                failures.push(format!("{case}: {path}"));
            }
        }
    }
    assert!(failures.is_empty(), "without effect: {failures:?}");
}

/// Where the numbers of a configuration stand, those of dictionaries too.
fn numbers(value: &Value, prefix: &str) -> Vec<String> {
    let Some(entries) = value.as_object() else { return Vec::new() };
    let own = |(key, value): (&String, &Value)| {
        let path = format!("{prefix}{key}");
        if value.is_number() { vec![path] } else { numbers(value, &format!("{path}.")) }
    };
    entries.iter().flat_map(own).collect()
}

#[test]
fn missing_keys_of_the_newer_families_have_their_values() {
    let without = |case: &str, keys: &[&str]| {
        let mut config = json_file(&folder().join(case).join("config.json"));
        keys.iter().for_each(|key| _ = config.as_object_mut().unwrap().remove(*key));
        from_config(&config).unwrap().language_model().unwrap().decoder.clone()
    };
    let windows = |decoder: &Decoder| decoder.layers.iter().map(|layer| layer.attention.window).collect::<Vec<_>>();
    let gemma = without("gemma3_text_defaults", &["sliding_window", "max_position_embeddings", "head_dim", "query_pre_attn_scalar"]);
    assert_eq!(windows(&gemma), [Some(4096), Some(4096), Some(4096), Some(4096), Some(4096), None, Some(4096)]);
    assert_eq!((gemma.positions, gemma.heads.width, gemma.layers[0].attention.scale, gemma.logit_cap), (131_072, 256, 1.0 / 16.0, None));
    assert_eq!(gemma.head.weight, gemma.embedding);
    let base = |rotary: &Rotary, width: i32| f64::from(rotary.frequencies(1)[1]).powf(-f64::from(width) / 2.0);
    assert!((base(&gemma.rotaries[0], 256) / 1e6 - 1.0).abs() < 1e-4 && (base(&gemma.rotaries[1], 256) / 1e4 - 1.0).abs() < 1e-4);
    let olmo = without("olmo3", &["sliding_window", "layer_types", "rope_parameters", "rms_norm_eps", "max_position_embeddings"]);
    assert_eq!(windows(&olmo), [Some(4096), Some(4096), Some(4096), None]);
    assert_eq!((olmo.positions, olmo.final_norm.as_ref().unwrap().epsilon), (2048, 1e-5));
    assert!(olmo.rotaries[0] == olmo.rotaries[1] && (base(&olmo.rotaries[0], 16) / 5e5 - 1.0).abs() < 1e-4);
    let phi = without("phi3_longrope", &["original_max_position_embeddings", "rms_norm_eps", "hidden_act", "sliding_window"]);
    assert!(phi.rotaries[0].frequencies(4096) != phi.rotaries[0].frequencies(4097) && windows(&phi) == [None, None]);
    assert_eq!((phi.rotaries[0].factor, phi.final_norm.as_ref().unwrap().epsilon), (1.0, 1e-5));
    let stable = without("stablelm", &["partial_rotary_factor", "rope_parameters", "layer_norm_eps", "hidden_act", "qk_layernorm"]);
    assert_eq!((stable.rotaries[0].width, stable.final_norm.as_ref().unwrap().epsilon), (4, 1e-5));
    let keys = ["embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling"];
    let granite = without("granite", &keys);
    let scales = (granite.embedding_scale, granite.layers[0].attention.scale, granite.branch_scale, granite.output_scale);
    assert_eq!(scales, (1.0, 1.0, 1.0, 1.0));
}

/// A checkpoint as large ones are published: in two shards, in half the bits, with a head beside the embedding that it is tied to.
#[test]
fn sharded_bf16_checkpoints_are_the_rounded_model() {
    for case in ["gemma3_text", "phi3_su_window", "stablelm_parallel_norms", "olmo3_older", "granite_biases"] {
        let golden = load(case);
        let model = golden.architecture.language_model().unwrap();
        let rounded: Vec<half::bf16> = golden.weights.iter().map(|&weight| half::bf16::from_f32(weight)).collect();
        let target = tempfile::tempdir().unwrap();
        std::fs::copy(folder().join(case).join("config.json"), target.path().join("config.json")).unwrap();
        let bytes: Vec<u8> = rounded.iter().flat_map(|weight| weight.to_le_bytes()).collect();
        let mut map = Map::new();
        let parameters = model.layout.parameters();
        for (shard, parameters) in [&parameters[..3], &parameters[3..]].into_iter().enumerate() {
            let name = format!("model-{shard}.safetensors");
            let view = |range: std::ops::Range<usize>, shape: &[usize]| {
                let data = &bytes[2 * range.start..2 * range.end];
                safetensors::tensor::TensorView::new(safetensors::Dtype::BF16, shape.to_vec(), data).unwrap()
            };
            let mut tensors: Vec<_> = parameters.iter().map(|p| (p.name.clone(), view(p.range(), &p.shape))).collect();
            if shard == 1 && model.decoder.head.weight == model.decoder.embedding {
                tensors.push(("lm_head.weight".to_owned(), view(model.decoder.embedding.clone(), &[model.vocabulary(), model.hidden()])));
            }
            map.extend(tensors.iter().map(|(tensor, _)| (tensor.clone(), json!(name))));
            safetensors::serialize_to_file(tensors, None, &target.path().join(name)).unwrap();
        }
        std::fs::write(target.path().join("model.safetensors.index.json"), json!({"metadata": {}, "weight_map": map}).to_string()).unwrap();
        let loaded = crate::checkpoint::Checkpoint::load(target.path()).unwrap();
        let expected: Vec<f32> = rounded.iter().map(|weight| weight.to_f32()).collect();
        assert_eq!(loaded.parameters.values(), expected, "{case}");
        let (ids, found) = (&golden.sequences[0], loaded.architecture.language_model().unwrap());
        assert_eq!(found.logits_exact(&expected, ids), model.logits_exact(&expected, ids), "{case}");
    }
}
