//! Weights as training tools wrap them, against the same weights without; the files are those of scripts/fixtures/wrapped.py.

use std::fs;
use std::path::Path;

use ::safetensors::tensor::TensorView;

use super::*;
use crate::checkpoint::Checkpoint;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden")).join(name)
}

/// Copies a model with the names of its tensors changed.
fn renamed(model: &Path, folder: &Path, file: &str, rename: &dyn Fn(&str) -> String) {
    fs::create_dir_all(folder).unwrap();
    fs::copy(model.join("config.json"), folder.join("config.json")).unwrap();
    let bytes = fs::read(model.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let views: Vec<(String, TensorView)> = tensors.tensors().into_iter().map(|(name, view)| (rename(&name), view)).collect();
    fs::write(folder.join(file), ::safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn wrappers_of_every_tool_are_taken_off_and_said() {
    let plain = TensorStore::open(&fixture("wrapped/plain.safetensors")).unwrap();
    let cases = [
        ("compiled", "the prefix `_orig_mod.` of torch.compile is taken off"),
        ("parallel", "the prefix `module._orig_mod.` of torch.compile and DistributedDataParallel"),
        ("lightning", "the prefix `model._orig_mod.` of torch.compile and a module that holds the network"),
        ("safetensors", "the prefix `module._orig_mod.` of torch.compile and DistributedDataParallel"),
    ];
    for (case, note) in cases {
        let checkpoint = Checkpoint::load(&fixture("wrapped").join(case)).unwrap_or_else(|error| panic!("{case}: {error}"));
        for parameter in checkpoint.parameters.layout().parameters() {
            let (mut own, mut theirs) = (vec![0.0; parameter.len()], vec![0.0; parameter.len()]);
            checkpoint.parameters.fill(parameter.range(), &mut own);
            plain.read_f32(&parameter.name, 0..parameter.len(), &mut theirs).unwrap();
            assert_eq!(own, theirs, "{case}: {}", parameter.name);
        }
        assert!(checkpoint.notes.len() == 1 && checkpoint.notes[0].contains(note), "{case}: {:?}", checkpoint.notes);
    }
}

#[test]
fn language_models_and_networks_of_images_may_be_wrapped_too() {
    let home = tempfile::tempdir().unwrap();
    let models =
        ["language_models/llama_untied", "language_models/qwen2_tied", "language_models/gpt_neox_plain", "convnextv2/three_stages"];
    for (number, model) in models.iter().enumerate() {
        let whole = Checkpoint::load(&fixture(model)).unwrap_or_else(|error| panic!("{model}: {error}"));
        assert!(whole.notes.is_empty());
        for prefix in ["_orig_mod.", "module.", "model.", "model._orig_mod.module.", "_fsdp_wrapped_module."] {
            let folder = home.path().join(format!("{number}{prefix}"));
            renamed(&fixture(model), &folder, "model.safetensors", &|name| format!("{prefix}{name}"));
            let wrapped = Checkpoint::load(&folder).unwrap_or_else(|error| panic!("{model} in {prefix}: {error}"));
            assert_eq!(wrapped.parameters.hash(), whole.parameters.hash(), "{model} in {prefix}");
            assert!(wrapped.notes.len() == 1 && wrapped.notes[0].contains(&format!("`{prefix}`")), "{:?}", wrapped.notes);
        }
        // Layers that are compiled or checkpointed by themselves.
        let folder = home.path().join(format!("{number} inside"));
        renamed(&fixture(model), &folder, "model.safetensors", &|name| name.replace(".0.", ".0._orig_mod."));
        let wrapped = Checkpoint::load(&folder).unwrap_or_else(|error| panic!("{model}: {error}"));
        assert_eq!(wrapped.parameters.hash(), whole.parameters.hash());
        assert!(wrapped.notes[0].contains("`_orig_mod` is taken off"), "{:?}", wrapped.notes);
    }
}

#[test]
fn what_only_some_names_carry_is_no_wrapper() {
    let home = tempfile::tempdir().unwrap();
    let model = fixture("language_models/llama_untied");
    let load = |rename: &dyn Fn(&str) -> String| {
        let folder = home.path().join("m");
        renamed(&model, &folder, "model.safetensors", rename);
        Checkpoint::load(&folder).unwrap_err().to_string()
    };
    let some = load(&|name| if name.contains("norm") { name.to_owned() } else { format!("_orig_mod.{name}") });
    assert_sentence(&some, "lacks tensors `model.embed_tokens.weight`");
    // A wrapper around another network: what is missing is said of the names that come nearest.
    let other = load(&|name| format!("_orig_mod.{}", name.replace("layers.1.mlp.up_proj", "layers.1.mlp.up")));
    assert_sentence(&other, "lacks tensor `model.layers.1.mlp.up_proj.weight`: ");
}

#[test]
fn names_of_any_case_are_found() {
    let home = tempfile::tempdir().unwrap();
    let model = fixture("language_models/llama_untied");
    let expected = Checkpoint::load(&model).unwrap().parameters.hash();
    for name in ["Model.SafeTensors", "MODEL.SAFETENSORS", "weights.safetensors"] {
        let folder = home.path().join(name);
        renamed(&model, &folder, name, &str::to_owned);
        assert_eq!(Checkpoint::load(&folder).unwrap().parameters.hash(), expected, "{name}");
        // What trainers write beside is not taken for weights.
        fs::write(folder.join("training_args.bin"), "x").unwrap();
        fs::write(folder.join("optimizer.pt"), "x").unwrap();
        assert_eq!(Checkpoint::load(&folder).unwrap().parameters.hash(), expected, "{name}");
    }
    let gguf = home.path().join("LLAMA.GGUF");
    fs::copy(fixture("gguf_models/llama3.gguf"), &gguf).unwrap();
    let file = Checkpoint::load(&gguf).unwrap();
    assert_eq!(file.parameters.hash(), Checkpoint::load(&fixture("gguf_models/llama3.gguf")).unwrap().parameters.hash());
    let folder = home.path().join("of gguf");
    fs::create_dir(&folder).unwrap();
    fs::rename(&gguf, folder.join("LLAMA.GGUF")).unwrap();
    assert_eq!(Checkpoint::load(&folder).unwrap().parameters.hash(), file.parameters.hash());
    let two = home.path().join("two");
    renamed(&model, &two, "a.safetensors", &str::to_owned);
    fs::copy(two.join("a.safetensors"), two.join("b.safetensors")).unwrap();
    assert_sentence(
        &Checkpoint::load(&two).unwrap_err().to_string(),
        "holds 2 files that may be weights (`a.safetensors`, `b.safetensors`)",
    );
}

#[test]
fn pointers_of_git_lfs_are_named() {
    let home = tempfile::tempdir().unwrap();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";
    for name in ["model.safetensors", "pytorch_model.bin", "model.gguf", "model.pt", "last.ckpt", "adapter_model.safetensors"] {
        let folder = home.path().join(name);
        fs::create_dir(&folder).unwrap();
        fs::copy(fixture("language_models/llama_untied/config.json"), folder.join("config.json")).unwrap();
        if name.starts_with("adapter") {
            renamed(&fixture("language_models/llama_untied"), &folder, "model.safetensors", &str::to_owned);
            fs::copy(fixture("adapters/plain/adapter_config.json"), folder.join("adapter_config.json")).unwrap();
        }
        fs::write(folder.join(name), pointer).unwrap();
        let message = Checkpoint::load(&folder).unwrap_err().to_string();
        assert_sentence(&message, name);
        assert_sentence(&message, "it is a pointer of git-lfs and not the file itself: run `git lfs pull`");
    }
    let folder = home.path().join("config");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("config.json"), pointer).unwrap();
    assert_sentence(&Checkpoint::load(&folder).unwrap_err().to_string(), "git lfs pull");
}

#[cfg(unix)]
#[test]
fn paths_that_are_not_text_are_read() {
    use std::os::unix::ffi::OsStrExt;
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join(std::ffi::OsStr::from_bytes(b"mod\xff\xe8le"));
    let model = fixture("language_models/llama_untied");
    renamed(&model, &folder, "model.safetensors", &str::to_owned);
    assert_eq!(Checkpoint::load(&folder).unwrap().parameters.hash(), Checkpoint::load(&model).unwrap().parameters.hash());
    fs::write(folder.join("model.safetensors"), "x").unwrap();
    assert_sentence(&Checkpoint::load(&folder).unwrap_err().to_string(), "is not usable");
}
