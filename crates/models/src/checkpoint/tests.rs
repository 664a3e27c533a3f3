use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::*;
use crate::arch::MlpConfig;

fn record() -> TrainingRecord {
    TrainingRecord::Classifier(ClassifierTraining {
        dataset: "digits".to_owned(),
        dataset_hash: "0".repeat(64),
        seed: 1,
        split_seed: 2,
        train_size: 1024,
        l2: 5e-4,
        weight_decay: 0.0,
        learning_rate: 0.005,
        betas: [0.9, 0.999],
        epsilon: 1e-8,
        epochs: 25,
        batch_size: 64,
        step: 400,
        total_steps: 400,
        train_accuracy: 1.0,
        test_accuracy: 0.1 + 0.2,
        train_loss: 1e-300,
        test_loss: 0.25,
    })
}

#[test]
fn records_tell_their_recipe_and_older_ones_are_classifiers() {
    let written = serde_json::to_value(record()).unwrap();
    assert_eq!(written["recipe"], "classifier");
    let mut older = written.clone();
    older.as_object_mut().unwrap().remove("recipe");
    assert_eq!(TrainingRecord::deserialize(older).unwrap(), record());
    let message = |change: &dyn Fn(&mut Map<String, Value>)| {
        let mut changed = written.clone();
        change(changed.as_object_mut().unwrap());
        TrainingRecord::deserialize(changed).unwrap_err().to_string()
    };
    let cases = [
        (message(&|record| _ = record.remove("l2")), "missing field `l2`"),
        (message(&|record| _ = record.insert("recipe".to_owned(), "language_model".into())), "missing field `text`"),
        (message(&|record| _ = record.insert("recipe".to_owned(), 7.into())), "`recipe` is 7, expected \"classifier\""),
    ];
    for (found, expected) in cases {
        assert!(found.contains(expected), "`{found}` should contain `{expected}`");
    }
}

/// A checkpoint with 12 layers: in a safetensors file `layers.10` sorts before `layers.2`.
fn example(folder: &Path) -> (Parameters, Moments) {
    let network = MlpConfig::new(3, 4, 11, 2).unwrap();
    let parameters = network.initial_parameters(9);
    let dimension = parameters.dimension();
    let moments = Moments {
        first: (0..dimension).map(|i| i as f32 - 7.5).collect(),
        second: (0..dimension).map(|i| i as f32 * 0.5).collect(),
        step: 400,
    };
    let draft = Draft::new(folder).unwrap();
    write_files(draft.path(), &network, &parameters, &moments, &record()).unwrap();
    draft.publish().unwrap();
    (parameters, moments)
}

#[test]
fn everything_comes_back_in_parameter_order() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("new").join("checkpoint");
    let (parameters, moments) = example(&folder);
    let loaded = Checkpoint::load(&folder).unwrap();
    assert_eq!(loaded.parameters, parameters);
    assert_eq!(loaded.training, Some(record()));
    assert_eq!(loaded.moments().unwrap().unwrap(), moments);
    assert_eq!(loaded.architecture.model_type(), "mlp");
    assert_eq!(fs::read_dir(base.path().join("new")).unwrap().count(), 1, "no temporary folder is left");
    fs::remove_file(folder.join(OPTIMIZER)).unwrap();
    assert_eq!(loaded.moments().unwrap(), None);
}

#[test]
fn the_same_checkpoint_is_the_same_bytes() {
    let base = tempfile::tempdir().unwrap();
    example(&base.path().join("a"));
    example(&base.path().join("b"));
    for file in [CONFIG, MODEL, OPTIMIZER] {
        assert_eq!(fs::read(base.path().join("a").join(file)).unwrap(), fs::read(base.path().join("b").join(file)).unwrap());
    }
}

#[test]
fn an_abandoned_draft_leaves_nothing_and_an_existing_folder_is_kept() {
    let base = tempfile::tempdir().unwrap();
    let target = base.path().join("x");
    let draft = Draft::new(&target).unwrap();
    fs::write(draft.path().join(CONFIG), "{}").unwrap();
    drop(draft);
    assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
    example(&target);
    assert!(matches!(Draft::new(&target), Err(CheckpointError::Exists { .. })));
}

#[test]
fn wrong_configurations_are_refused_in_one_sentence() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("c");
    example(&folder);
    let cases = [
        ("", "is not JSON"),
        ("{\"model_type\": ", "is not JSON"),
        ("[]", "`model_type` is missing"),
        ("{\"model_type\": \"resnet\", \"widths\": [3, 2]}", "\"resnet\", which is not known: expected one of \"mlp\""),
        ("{\"format\": 2, \"model_type\": \"mlp\"}", "has format 2"),
        ("{\"format\": \"new\", \"model_type\": \"mlp\"}", "has format \"new\""),
        ("{\"model_type\": \"mlp\", \"widths\": [3, 2], \"activation\": \"gelu_tanh\", \"training\": 5}", "wrong `training` record"),
        // A good configuration of another network fails on the weights.
        (
            "{\"model_type\": \"mlp\", \"widths\": [3, 2], \"activation\": \"gelu_tanh\"}",
            "of another shape than configured: [4, 3] instead of [2, 3]",
        ),
        (
            "{\"model_type\": \"mlp\", \"widths\": [3, 4, 4, 2], \"activation\": \"gelu_tanh\"}",
            "of another shape than configured: [4, 4] instead of [2, 4]",
        ),
    ];
    for (config, expected) in cases {
        fs::write(folder.join(CONFIG), config).unwrap();
        let message = Checkpoint::load(&folder).unwrap_err().to_string();
        assert!(message.contains(expected), "`{message}` should contain `{expected}`");
        assert!(message.contains("config.json") || message.contains("model.safetensors"), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
    fs::remove_file(folder.join(CONFIG)).unwrap();
    assert!(Checkpoint::load(&folder).unwrap_err().to_string().contains("config.json"));
    assert!(Checkpoint::load(&base.path().join("absent")).unwrap_err().to_string().contains("is not a checkpoint"));
}

/// Writes tensors over one of the files of the example.
fn overwrite(path: &Path, tensors: &[(&str, Dtype, Vec<usize>, Vec<f32>)]) {
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|tensor| tensor.3.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
    let views =
        tensors.iter().zip(&bytes).map(|((name, dtype, shape, _), bytes)| (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn wrong_tensors_are_named() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("t");
    example(&folder);
    fs::write(folder.join(CONFIG), "{\"model_type\": \"mlp\", \"widths\": [3, 2], \"activation\": \"gelu_tanh\"}").unwrap();
    let weight = ("layers.0.weight", Dtype::F32, vec![2, 3], vec![0.5; 6]);
    let bias = ("layers.0.bias", Dtype::F32, vec![2], vec![0.25; 2]);
    let model = folder.join(MODEL);
    overwrite(&model, &[weight.clone(), bias.clone()]);
    assert_eq!(Checkpoint::load(&folder).unwrap().parameters.values()[..], [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]);
    let mut bad = vec![0.5; 6];
    bad[4] = f32::NEG_INFINITY;
    let cases = [
        (vec![weight.clone()], "lacks tensor `layers.0.bias`"),
        (vec![], "lacks tensors `layers.0.weight`, `layers.0.bias`"),
        (vec![weight.clone(), bias.clone(), ("head", Dtype::F32, vec![1], vec![1.0])], "has tensor `head`, which"),
        (
            vec![("layers.0.weight", Dtype::F32, vec![3, 2], vec![0.5; 6]), bias.clone()],
            "of another shape than configured: [3, 2] instead of [2, 3]",
        ),
        (vec![("layers.0.weight", Dtype::I32, vec![2, 3], vec![0.5; 6]), bias.clone()], "`layers.0.weight`"),
        (vec![("layers.0.weight", Dtype::F32, vec![2, 3], bad), bias.clone()], "is -inf at element 4"),
        (vec![weight.clone(), ("layers.0.bias", Dtype::F32, vec![2], vec![0.0, f32::NAN])], "`layers.0.bias`"),
    ];
    for (tensors, expected) in cases {
        overwrite(&model, &tensors);
        let message = Checkpoint::load(&folder).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains("model.safetensors"), "`{message}` should contain `{expected}`");
    }
}

#[test]
fn truncated_and_corrupt_files_are_refused() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("t");
    example(&folder);
    for file in [MODEL, OPTIMIZER] {
        let path = folder.join(file);
        let whole = fs::read(&path).unwrap();
        let mut corrupt = whole.clone();
        corrupt[0] = 0xff;
        corrupt[7] = 0xff;
        let mut garbled = whole.clone();
        garbled[20] ^= 0x80;
        for content in [&whole[..0], &whole[..7], &whole[..100], &whole[..whole.len() - 4], &corrupt[..], &garbled[..]] {
            fs::write(&path, content).unwrap();
            let result = Checkpoint::load(&folder).and_then(|checkpoint| checkpoint.moments());
            let message = result.unwrap_err().to_string();
            assert!(message.contains("usable") && message.contains(file) && !message.contains('\n'), "{message}");
        }
        fs::write(&path, &whole).unwrap();
    }
    assert!(Checkpoint::load(&folder).unwrap().moments().unwrap().is_some());
}

#[test]
fn moments_are_checked_too() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("m");
    example(&folder);
    fs::write(folder.join(CONFIG), "{\"model_type\": \"mlp\", \"widths\": [1, 2], \"activation\": \"gelu_tanh\"}").unwrap();
    overwrite(
        &folder.join(MODEL),
        &[("layers.0.weight", Dtype::F32, vec![2, 1], vec![1.0; 2]), ("layers.0.bias", Dtype::F32, vec![2], vec![1.0; 2])],
    );
    let checkpoint = Checkpoint::load(&folder).unwrap();
    let moment = |kind: &'static str, value: f32| {
        let [weight, bias] = match kind {
            "exp_avg" => ["exp_avg.layers.0.weight", "exp_avg.layers.0.bias"],
            _ => ["exp_avg_sq.layers.0.weight", "exp_avg_sq.layers.0.bias"],
        };
        [(weight, Dtype::F32, vec![2, 1], vec![value; 2]), (bias, Dtype::F32, vec![2], vec![value; 2])]
    };
    let path = folder.join(OPTIMIZER);
    let cases = [
        (moment("exp_avg", 1.0).to_vec(), "lacks parameters `layers.0.weight`"),
        ([moment("exp_avg", 1.0), moment("exp_avg_sq", 1.0)].concat(), "`step`"),
    ];
    for (tensors, expected) in cases {
        overwrite(&path, &tensors);
        let message = checkpoint.moments().unwrap_err().to_string();
        assert!(message.contains(expected), "`{message}` should contain `{expected}`");
    }
}
