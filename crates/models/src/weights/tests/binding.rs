use std::collections::HashMap;
use std::path::Path;

use ::safetensors::Dtype;
use ::safetensors::tensor::TensorView;

use super::*;

fn same(name: &str) -> String {
    name.to_owned()
}

/// A file of f32 tensors.
fn write(path: &Path, tensors: &[(&str, &[usize], Vec<f32>)]) {
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|tensor| tensor.2.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
    let views =
        tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| (*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap()));
    ::safetensors::serialize_to_file(views, None::<HashMap<String, String>>, path).unwrap();
}

#[test]
fn a_center_is_the_flat_vector_of_the_layout() {
    for name in ["model.safetensors", "pytorch_model.bin", "shards-bin", "llama.gguf", "gpt2.gguf"] {
        let store = TensorStore::open(&golden(name)).unwrap();
        let mut options = BindOptions::default();
        options.buffers.push("steps_done".to_owned());
        let layout = layout_of(name);
        let center = bind(&store, &layout, &same, &options).unwrap();
        let mut values = vec![f32::NAN; center.dimension()];
        center.fill(0..values.len(), &mut values);
        let whole = Parameters::new(layout, values.clone());
        assert_eq!((center.hash(), center.sum_of_squares()), (whole.hash().as_str(), whole.sum_of_squares()), "{name}");
        assert_eq!(center.rms(), whole.rms());
        if !name.ends_with(".gguf") {
            assert_eq!(center.hash(), flat_of(name).hash(), "{name}");
        }
        for start in (0..values.len()).step_by(1 + values.len() / 50) {
            let range = start..(start + 97).min(values.len());
            let mut part = vec![f32::NAN; range.len()];
            center.fill(range.clone(), &mut part);
            assert_eq!(part, values[range], "{name} from {start}");
        }
        assert!(!center.elements().is_empty() && !center.files().is_empty());
    }
}

#[test]
fn every_tensor_must_be_used_and_fit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let embedding = vec![1.0, 2.0, 3.0, 4.0];
    let layout = ParameterLayout::new([("model.embed_tokens.weight".to_owned(), vec![2, 2]), ("model.norm.weight".to_owned(), vec![2])]);
    let try_bind = |tensors: &[(&str, &[usize], Vec<f32>)]| {
        write(&path, tensors);
        bind(&TensorStore::open(&path).unwrap(), &layout, &same, &BindOptions::default())
    };
    let norm = ("norm.weight", &[2usize][..], vec![1.0, 1.0]);
    let word = ("embed_tokens.weight", &[2usize, 2][..], embedding.clone());
    // Without the optional prefix, with computed buffers, and with a head that repeats the embedding.
    let buffer = ("layers.0.self_attn.rotary_emb.inv_freq", &[1usize][..], vec![1.0]);
    let head = ("lm_head.weight", &[2usize, 2][..], embedding);
    let center = try_bind(&[norm.clone(), word.clone(), buffer, head.clone()]).unwrap();
    assert_eq!(center.sum_of_squares(), 32.0);
    // Of two tied tensors, the head may be the one that was kept.
    assert_eq!(try_bind(&[norm.clone(), head.clone()]).unwrap().sum_of_squares(), 32.0);

    let cases = [
        (vec![word.clone()], "lacks tensor `model.norm.weight`: "),
        (vec![norm.clone(), ("embed_tokens.weight", &[4][..], vec![0.0; 4])], "another shape than configured: [4] instead of [2, 2]"),
        (
            vec![norm.clone(), word.clone(), ("a.bias", &[1][..], vec![0.0])],
            "has tensor `a.bias`, which the configured network does not use",
        ),
        (vec![norm.clone(), word.clone(), ("lm_head.weight", &[2, 2][..], vec![9.0; 4])], "tensor `lm_head.weight` of "),
        (vec![norm.clone(), word.clone(), ("lm_head.weight", &[2, 2][..], vec![9.0; 4])], "differs from `model.embed_tokens.weight`"),
        (vec![norm.clone(), ("embed_tokens.weight", &[2, 2][..], vec![0.0, 1.0, f32::NAN, 0.0])], "`model.embed_tokens.weight` of "),
        (vec![norm, ("embed_tokens.weight", &[2, 2][..], vec![0.0, 1.0, f32::NAN, 0.0])], "is NaN at element 2: every value must be"),
        (vec![("norm.weight", &[2][..], vec![0.0, f32::NEG_INFINITY]), word], "is -inf at element 1"),
    ];
    for (tensors, problem) in cases {
        assert_sentence(&try_bind(&tensors).unwrap_err().to_string(), problem);
    }
}

#[test]
fn many_missing_tensors_are_counted() {
    let store = TensorStore::open(&golden("shards-bin")).unwrap();
    let layout = ParameterLayout::new((0..9).map(|index| (format!("w{index}"), vec![1])));
    let message = bind(&store, &layout, &|name| format!("x.{name}"), &BindOptions::default()).unwrap_err().to_string();
    assert_sentence(&message, "lacks tensors `x.w0`, `x.w1`, `x.w2` and 6 others");
}
