//! Adapters of PEFT against what it makes of them itself; the fixtures are those of scripts/fixtures/adapters.py.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::*;
use crate::checkpoint::Checkpoint;
use crate::weights::stored::MappedFile;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn cases() -> Vec<String> {
    let entries = fs::read_dir(golden("adapters")).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(names.len() >= 11, "the fixtures are missing: {names:?}");
    names
}

/// A copy of an adapter and of its base, with the base's path in its settings changed.
fn copy(case: &str, change: impl FnOnce(&mut Value)) -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("adapter");
    fs::create_dir(&folder).unwrap();
    for entry in fs::read_dir(golden("adapters").join(case)).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("adapter_") {
            fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
        }
    }
    let mut settings = json_of(&folder.join(SETTINGS));
    change(&mut settings);
    fs::write(folder.join(SETTINGS), settings.to_string()).unwrap();
    (home, folder)
}

fn put_base(folder: &Path, base: &str) {
    fs::create_dir_all(folder).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(golden("language_models").join(base).join(name), folder.join(name)).unwrap();
    }
}

fn message(folder: &Path) -> String {
    let message = Checkpoint::load(folder).unwrap_err().to_string();
    assert!(!message.contains('\n') && message.len() < 1000, "{message}");
    message
}

#[test]
fn merged_weights_and_logits_are_those_of_peft() {
    for case in cases() {
        let folder = golden("adapters").join(&case);
        let golden = json_of(&folder.join("golden.json"));
        let checkpoint = Checkpoint::load(&folder).unwrap_or_else(|error| panic!("{case}: {error}"));
        let expected = TensorStore::open(&folder.join("expected.safetensors")).unwrap();
        let layout = checkpoint.parameters.layout().clone();
        let mut compared = 0;
        for parameter in layout.parameters() {
            let name = match (expected.shape(&parameter.name), parameter.name.as_str()) {
                (Some(_), name) => name,
                (None, "embed_out.weight") if expected.shape("lm_head.weight").is_some() => "lm_head.weight",
                _ => continue,
            };
            let (mut own, mut theirs) = (vec![0.0; parameter.len()], vec![0.0; parameter.len()]);
            checkpoint.parameters.fill(parameter.range(), &mut own);
            expected.read_f32(name, 0..parameter.len(), &mut theirs).unwrap();
            let largest = theirs.iter().fold(0.0f32, |most, value| most.max(value.abs()));
            for (index, (a, b)) in own.iter().zip(&theirs).enumerate() {
                assert!((a - b).abs() <= 1e-6 * largest, "{case}: {name}[{index}] is {a} instead of {b}");
            }
            compared += 1;
        }
        assert_eq!(compared, expected.names().count(), "{case}: every tensor that PEFT changed");
        // All others are the base's.
        let base = Checkpoint::load(checkpoint.base.as_ref().unwrap()).unwrap();
        for parameter in base.parameters.layout().parameters().iter().filter(|parameter| expected.shape(&parameter.name).is_none()) {
            let Some(same) = layout.parameters().iter().find(|other| other.name == parameter.name) else { continue };
            let (mut own, mut theirs) = (vec![0.0; parameter.len()], vec![0.0; parameter.len()]);
            checkpoint.parameters.fill(same.range(), &mut own);
            base.parameters.fill(parameter.range(), &mut theirs);
            assert!(own == theirs || parameter.name == "embed_out.weight", "{case}: {}", parameter.name);
        }
        let sequences: Vec<Vec<u32>> = serde_json::from_value(golden["sequences"].clone()).unwrap();
        let logits: Vec<Vec<f64>> = serde_json::from_value(golden["logits"].clone()).unwrap();
        let model = checkpoint.architecture.language_model().unwrap();
        let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
        let found = model.logits(&checkpoint.parameters.values(), &sequences.concat(), &lengths).unwrap();
        let logits = logits.concat();
        let range = logits.iter().fold(0.0f64, |most, value| most.max(value.abs()));
        let difference = found.iter().zip(&logits).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        assert!(difference <= 3e-6 * range, "{case}: logits differ by {difference} of {range}");
        let is_untied = ["tied_head", "tied_head_saved", "tied_embedding"].contains(&case.as_str());
        assert_eq!(checkpoint.notes.iter().any(|note| note.contains("no longer tied")), is_untied, "{case}: {:?}", checkpoint.notes);
        assert!(checkpoint.notes[0].contains("is a LoRA adapter: it is merged into the weights"), "{:?}", checkpoint.notes);
    }
}

#[test]
fn the_base_is_beside_the_adapter_or_where_it_says() {
    let expected = Checkpoint::load(&golden("adapters/plain")).unwrap().parameters.hash();
    let base = |settings: &mut Value, path: &Path| settings["base_model_name_or_path"] = json!(path);
    let (home, folder) = copy("plain", |_| ());
    // An absolute path, and one from the adapter's folder.
    for path in [home.path().join("base"), PathBuf::from("../base")] {
        let mut settings = json_of(&folder.join(SETTINGS));
        base(&mut settings, &path);
        fs::write(folder.join(SETTINGS), settings.to_string()).unwrap();
        put_base(&home.path().join("base"), "llama_untied");
        assert_eq!(Checkpoint::load(&folder).unwrap().parameters.hash(), expected, "{}", path.display());
        fs::remove_dir_all(home.path().join("base")).unwrap();
        assert!(message(&folder).contains("which is not here"));
    }
    // The same folder, whatever the settings say.
    put_base(&folder, "llama_untied");
    let checkpoint = Checkpoint::load(&folder).unwrap();
    assert_eq!((checkpoint.parameters.hash(), checkpoint.base.as_deref()), (expected.clone(), Some(folder.as_path())));
    assert_ne!(Checkpoint::load_whole(&folder).unwrap().parameters.hash(), expected);
    // A base that was itself saved through a wrapper.
    let file = MappedFile::open(&folder.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(file.bytes()).unwrap();
    let wrapped: Vec<_> = tensors.tensors().into_iter().map(|(name, view)| (format!("module._orig_mod.{name}"), view)).collect();
    let bytes = safetensors::serialize(wrapped, None).unwrap();
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    fs::write(folder.join("model.safetensors"), bytes).unwrap();
    let checkpoint = Checkpoint::load(&folder).unwrap();
    assert_eq!(checkpoint.parameters.hash(), expected);
    assert!(checkpoint.notes.iter().any(|note| note.contains("`module._orig_mod.`")), "{:?}", checkpoint.notes);
}

#[test]
fn names_with_the_adapters_own_name_and_of_models_wrapped_twice_are_read() {
    let plain = Checkpoint::load(&golden("adapters/plain")).unwrap().parameters.hash();
    for (from, to) in [("lora_A.weight", "lora_A.default.weight"), ("base_model.model.model", "base_model.model.base_model.model.model")] {
        let (_home, folder) = copy("plain", |settings| {
            settings["base_model_name_or_path"] = golden("language_models/llama_untied").to_str().unwrap().into();
        });
        let path = folder.join("adapter_model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let views: Vec<_> = tensors.tensors().into_iter().map(|(name, view)| (name.replace(from, to), view)).collect();
        fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        assert_eq!(Checkpoint::load(&folder).unwrap().parameters.hash(), plain, "{to}");
    }
}

#[test]
fn what_is_missing_is_said_with_what_to_do() {
    let (_home, folder) = copy("plain", |settings| settings["base_model_name_or_path"] = "org/base".into());
    let adapter = Adapter::find(&folder).unwrap().unwrap();
    assert_eq!(adapter.base(), Base::Named("org/base".to_owned()));
    let absent = message(&folder);
    assert!(
        absent.contains("is a LoRA adapter of the base model `org/base`, which is not here: set `base_model_name_or_path`"),
        "{absent}"
    );
    let failed = adapter.without_base(Some("no network".to_owned())).to_string();
    assert!(failed.contains("which cannot be had (no network)"), "{failed}");
    let (_home, unnamed) = copy("plain", |settings| settings["base_model_name_or_path"] = Value::Null);
    assert!(message(&unnamed).contains("a base model that it does not name: set"));
    let (_home, pinned) = copy("plain", |settings| {
        settings["base_model_name_or_path"] = "org/base".into();
        settings["revision"] = "v2".into();
    });
    assert_eq!(Adapter::find(&pinned).unwrap().unwrap().base(), Base::Named("org/base@v2".to_owned()));
    fs::remove_file(folder.join("adapter_model.safetensors")).unwrap();
    assert!(message(&folder).contains("has adapter_config.json, but no adapter_model.safetensors"));
    let (_home, bare) = copy("plain", |_| ());
    fs::remove_file(bare.join(SETTINGS)).unwrap();
    assert!(message(&bare).contains("but no adapter_config.json"));
    fs::write(bare.join(SETTINGS), "{").unwrap();
    assert!(message(&bare).contains("the adapter's settings") && message(&bare).contains("are not usable"));
}

#[test]
fn adapters_of_other_models_are_refused() {
    let change = |case: &str, change: &dyn Fn(&mut Value)| {
        let (home, folder) = copy(case, |settings| {
            settings["base_model_name_or_path"] = golden("language_models/llama_untied").to_str().unwrap().into();
            change(settings);
        });
        (home, message(&folder))
    };
    type Change<'a> = &'a dyn Fn(&mut Value);
    let cases: [(&str, Change, &str); 5] = [
        ("transposed", &|_| (), "the base has no tensor `transformer.h.0.attn.c_attn.weight`"),
        ("plain", &|settings| settings["r"] = 5.into(), "have rank 4, but its settings say 5"),
        ("compiled", &|_| (), "does not fit its base model: the base has no tensor `model.layers.0.mlp.gate_up_proj.weight`"),
        ("plain", &|settings| settings["use_dora"] = true.into(), "because it is DoRA"),
        ("plain", &|settings| settings["peft_type"] = "LOHA".into(), "its type is LOHA, and only LORA is read: merge it in Python"),
    ];
    for (case, changed, expected) in cases {
        let (_home, message) = change(case, changed);
        assert!(message.contains(expected), "{case}: `{message}` should contain `{expected}`");
    }
}

/// Reads an adapter of these tensors (all zeros) for the base with two layers.
fn with_tensors(tensors: &[(&str, &[usize])]) -> Result<Vec<String>, String> {
    let (_home, folder) = copy("plain", |settings| {
        settings["base_model_name_or_path"] = golden("language_models/llama_untied").to_str().unwrap().into();
    });
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, shape)| vec![0; 4 * shape.iter().product::<usize>()]).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape), bytes)| {
        (format!("base_model.model.{name}"), safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes).unwrap())
    });
    fs::write(folder.join("adapter_model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    Checkpoint::load(&folder).map(|checkpoint| checkpoint.notes).map_err(|error| error.to_string())
}

#[test]
fn an_adapter_that_changes_nothing_is_told() {
    let q = "model.layers.0.self_attn.q_proj";
    let (a, b) = (format!("{q}.lora_A.weight"), format!("{q}.lora_B.weight"));
    let notes = with_tensors(&[(&a, &[4, 16]), (&b, &[16, 4])]).unwrap();
    assert!(notes.iter().any(|note| note.contains("all products of the adapter are zero")), "{notes:?}");
    assert!(with_tensors(&[]).unwrap_err().contains("it has no tensors"));
    let changed = Checkpoint::load(&golden("adapters/plain")).unwrap().notes;
    assert!(changed.len() == 1, "{changed:?}");
}

#[test]
fn tensors_that_are_no_product_are_named() {
    let q = "model.layers.0.self_attn.q_proj";
    let name = |rest: &str| format!("{q}.{rest}");
    let (a, b) = (name("lora_A.weight"), name("lora_B.weight"));
    type Tensors<'a> = &'a [(&'a str, &'a [usize])];
    let cases: [(Tensors, &str); 9] = [
        (&[(&a, &[0]), (&b, &[16, 4])], "is empty: shards were not gathered before it was saved"),
        (&[(&a, &[4, 16])], "has only one of the two factors"),
        (&[(&a, &[4, 16]), (&b, &[16, 3])], "which is no change of a weight of shape [16, 16]"),
        (&[(&a, &[4, 16]), (&b, &[8, 4])], "which is no change of a weight of shape [16, 16]"),
        (&[(&a, &[4, 16, 1]), (&b, &[16, 4])], "matrices are expected"),
        (&[(&name("lora_B.bias"), &[16])], "is a bias of a product"),
        (&[(&name("lora_magnitude_vector.weight"), &[16])], "is that of DoRA"),
        (&[("model.embed_tokens.token_adapter.trainable_tokens_delta", &[2, 16])], "is none of a plain LoRA"),
        (&[("model.embed_tokens.weight", &[43, 16])], "has shape [43, 16], but the base [41, 16]: if tokens were added"),
    ];
    for (tensors, expected) in cases {
        let message = with_tensors(tensors).unwrap_err();
        assert!(message.contains(expected), "`{message}` should contain `{expected}`");
    }
}
