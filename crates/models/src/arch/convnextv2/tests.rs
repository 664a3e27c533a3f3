use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use basin_volume_data::Dataset;
use safetensors::SafeTensors;
use serde_json::json;

use super::backward::Sink;
use super::*;
use crate::arch::from_config;
use crate::checkpoint::Checkpoint;
use crate::nn::KeptProbabilities;

pub(crate) const CASES: [&str; 3] = ["patches", "three_stages", "one_color"];

/// What transformers and torch computed.
pub(crate) struct Golden {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) config: ConvNextV2Config,
    tensors: HashMap<String, Vec<f32>>,
    pub(crate) labels: Vec<u32>,
    names: String,
}

impl Golden {
    pub(crate) fn folder(case: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/convnextv2").join(case)
    }

    pub(crate) fn load(case: &str) -> Self {
        let folder = Self::folder(case);
        let checkpoint = Checkpoint::load(&folder).unwrap();
        let bytes = fs::read(folder.join("golden.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let (mut tensors, mut labels, mut names) = (HashMap::new(), Vec::new(), String::new());
        for (name, view) in file.tensors() {
            match name.as_str() {
                "labels" => labels = view.data().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect(),
                "names" => names = String::from_utf8(view.data().to_vec()).unwrap(),
                _ => _ = tensors.insert(name, view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
            }
        }
        let config = checkpoint.architecture.images().unwrap().clone();
        Self { checkpoint, config, tensors, labels, names }
    }

    pub(crate) fn tensor(&self, name: &str) -> &[f32] {
        &self.tensors[name]
    }

    pub(crate) fn weights(&self) -> Vec<f32> {
        self.checkpoint.parameters.values().into_owned()
    }

    /// The weights of `moved_logits` and of the divergence.
    pub(crate) fn moved(&self) -> Vec<f32> {
        let mut weights = self.weights();
        for parameter in self.config.layout().parameters() {
            let values = &mut weights[parameter.range()];
            let count = values.len() as f64;
            let mean = values.iter().map(|&w| f64::from(w)).sum::<f64>() / count;
            let deviation = (values.iter().map(|&w| (f64::from(w) - mean).powi(2)).sum::<f64>() / count).sqrt() + 0.01;
            let wave = |(i, w): (usize, &mut f32)| *w = (f64::from(*w) + 0.1 * deviation * (7.0 * i as f64).sin()) as f32;
            values.iter_mut().enumerate().for_each(wave);
        }
        weights
    }

    pub(crate) fn dataset(&self) -> Dataset {
        Dataset::new("golden", self.config.features(), self.tensor("inputs").to_vec(), Some(self.labels.clone())).unwrap()
    }

    /// A gradient in the layout's order.
    pub(crate) fn flat(&self, prefix: &str) -> Vec<f32> {
        let layout = self.config.layout();
        let names: Vec<String> = layout.parameters().iter().map(|parameter| format!("{prefix}.{}", parameter.name)).collect();
        layout.flatten(&names.iter().map(|name| self.tensor(name)).collect::<Vec<_>>())
    }
}

/// Every tensor within `bound` of its largest entry.
pub(crate) fn compare(layout: &ParameterLayout, found: &[f32], expected: &[f32], bound: f32) {
    for ((parameter, found), (_, expected)) in layout.unflatten(found).zip(layout.unflatten(expected)) {
        let largest = expected.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        assert!(largest > 0.0, "{} has a gradient", parameter.name);
        for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!((found - expected).abs() <= bound * largest, "{} {place}: {found} not {expected}", parameter.name);
        }
    }
}

/// Logits with the bias of the head, `[images, classes]`.
fn logits(config: &ConvNextV2Config, weights: &[f32], images: &[f32], tape: Option<&mut Tape>) -> Vec<f32> {
    let places = Places::new(config);
    let mut kernels = Kernels::default();
    kernels.set(config, &places, weights);
    let network = Network { config, places: &places, weights, kernels: &kernels };
    let mut space = Space::default();
    let patches = config.patches(images);
    let count = images.len() / config.features();
    let found = network.logits(&patches, &mut space, tape).to_vec();
    let bias = network.head_bias();
    (0..count).flat_map(|image| (0..config.classes).map(move |class| (class, image))).map(|(c, i)| found[c * count + i] + bias[c]).collect()
}

#[test]
fn names_shapes_and_order_are_those_of_transformers() {
    for case in CASES {
        let golden = Golden::load(case);
        let layout = golden.config.layout();
        let names: Vec<&str> = layout.parameters().iter().map(|parameter| parameter.name.as_str()).collect();
        assert_eq!(names, golden.names.lines().collect::<Vec<_>>(), "{case}");
        assert_eq!(golden.checkpoint.parameters.dimension(), layout.dimension());
        assert!(golden.config.weights().unwrap() >= layout.dimension());
    }
    let atto = json!({"model_type": "convnextv2", "image_size": 32, "patch_size": 1, "depths": [2, 2, 6, 2],
        "hidden_sizes": [40, 80, 160, 320], "num_labels": 10});
    assert_eq!(from_config(&atto).unwrap().layout().dimension(), 3_388_810);
}

#[test]
fn logits_are_those_of_transformers() {
    for case in CASES {
        let golden = Golden::load(case);
        for (weights, expected) in [(golden.weights(), "logits"), (golden.moved(), "moved_logits")] {
            let expected = golden.tensor(expected);
            let images = golden.tensor("inputs");
            let exact: Vec<f64> =
                images.chunks(golden.config.features()).flat_map(|image| golden.config.logits_exact(&weights, image)).collect();
            let mut tape = Tape::default();
            let found = logits(&golden.config, &weights, images, None);
            assert_eq!(logits(&golden.config, &weights, images, Some(&mut tape)), found, "the tape changes nothing");
            let scale = expected.iter().fold(1.0f32, |largest, x| largest.max(x.abs()));
            for ((found, exact), &expected) in found.iter().zip(exact).zip(expected) {
                assert!((found - expected).abs() < 5e-6 * scale, "{case}: {found} not {expected}");
                assert!((exact - f64::from(expected)).abs() < 3e-7 * f64::from(scale), "{case}: {exact} not {expected}");
            }
        }
    }
}

#[test]
fn gradients_of_every_tensor_are_those_of_torch() {
    for case in CASES {
        let golden = Golden::load(case);
        let (config, weights) = (&golden.config, golden.weights());
        let places = Places::new(config);
        let mut kernels = Kernels::default();
        kernels.set(config, &places, &weights);
        let network = Network { config, places: &places, weights: &weights, kernels: &kernels };
        let (mut space, mut tape) = (Space::default(), Tape::default());
        let mut gradient = vec![0.0; weights.len()];
        let count = golden.labels.len();
        // Images in two parts of other sizes, with the same buffers.
        for (start, end) in [(0, 8), (8, count)] {
            let features = config.features();
            let patches = config.patches(&golden.tensor("inputs")[start * features..end * features]);
            let images = end - start;
            let logits = network.logits(&patches, &mut space, Some(&mut tape));
            for image in 0..images {
                let value = |class: usize| f64::from(logits[class * images + image]) + f64::from(network.head_bias()[class]);
                let sum: f64 = (0..config.classes).map(|class| value(class).exp()).sum();
                let slopes: Vec<f32> = (0..config.classes)
                    .map(|class| {
                        let hit = if class == golden.labels[start + image] as usize { 1.0 } else { 0.0 };
                        ((value(class).exp() / sum - hit) / count as f64) as f32
                    })
                    .collect();
                slopes.into_iter().enumerate().for_each(|(class, slope)| logits[class * images + image] = slope);
            }
            network.add_gradient(&patches, &mut space, &tape, &mut Sink { gradient: &mut gradient, watcher: None });
        }
        compare(&config.layout(), &gradient, &golden.flat("gradient"), 2e-5);
    }
}

/// With factors of the blocks, as in training: against differences of the loss.
#[test]
fn factors_of_blocks_have_their_gradients() {
    let golden = Golden::load("three_stages");
    let (config, weights) = (&golden.config, golden.weights());
    let images = 5;
    let blocks: usize = config.depths.iter().sum();
    let factors: Vec<f32> = (0..blocks * images).map(|i| [1.0, 0.0, 1.25, 1.0, 0.0, 1.5, 1.0][i % 7]).collect();
    let places = Places::new(config);
    let patches = config.patches(&golden.tensor("inputs")[..images * config.features()]);
    let kept = KeptProbabilities::new(&vec![0.0; config.classes * images], &vec![0.0; config.classes], images, images);
    let loss = |weights: &[f32], gradient: Option<&mut [f32]>| {
        let mut kernels = Kernels::default();
        kernels.set(config, &places, weights);
        let network = Network { config, places: &places, weights, kernels: &kernels };
        let (mut space, mut tape) = (Space::default(), Tape { factors: factors.clone(), ..Tape::default() });
        let logits = network.logits(&patches, &mut space, Some(&mut tape));
        let nats = kept.divergence_slopes(logits, network.head_bias(), images, 0..images, 1.0);
        if let Some(gradient) = gradient {
            network.add_gradient(&patches, &mut space, &tape, &mut Sink { gradient, watcher: None });
        }
        nats
    };
    let mut gradient = vec![0.0; weights.len()];
    loss(&weights, Some(&mut gradient));
    for parameter in config.layout().parameters() {
        let slice = &gradient[parameter.range()];
        let probe: Vec<f64> = (0..slice.len()).map(|i| (i as f64 * 0.61 + 1.0).sin()).collect();
        let shifted = |step: f64| {
            let mut moved = weights.clone();
            moved[parameter.range()].iter_mut().zip(&probe).for_each(|(weight, p)| *weight = (f64::from(*weight) + step * p) as f32);
            let actual: f64 = slice
                .iter()
                .zip(&moved[parameter.range()])
                .zip(&weights[parameter.range()])
                .map(|((&g, &after), &before)| f64::from(g) * (f64::from(after) - f64::from(before)))
                .sum();
            (loss(&moved, None), actual)
        };
        let step = 3e-3 / (slice.len() as f64).sqrt();
        let ((above, up), (below, down)) = (shifted(step), shifted(-step));
        let (found, expected) = (up - down, above - below);
        assert!((found - expected).abs() < 2e-2 * expected.abs() + 2e-6, "{}: {found} not {expected}", parameter.name);
    }
}

#[test]
fn a_saved_network_is_the_same_when_loaded() {
    let golden = Golden::load("patches");
    let mut written = golden.config.settings();
    written.insert("model_type".to_owned(), json!(MODEL_TYPE));
    let read = from_config(&Value::Object(written)).unwrap();
    assert_eq!(read.images().unwrap(), &golden.config);
    let own: Value = serde_json::from_str(&fs::read_to_string(Golden::folder("patches").join("config.json")).unwrap()).unwrap();
    for (key, value) in golden.config.settings() {
        assert_eq!(own[&key], value, "{key}");
    }
}

#[test]
fn moments_of_the_trainer_are_read_and_foreign_ones_refused() {
    for case in CASES {
        let golden = Golden::load(case);
        let moments = golden.checkpoint.moments().unwrap().unwrap();
        assert_eq!((moments.step, moments.second.as_slice()), (2, golden.flat("exp_avg_sq").as_slice()));
    }
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(Golden::folder("patches").join(file), folder.path().join(file)).unwrap();
    }
    fs::copy(Golden::folder("three_stages").join("optimizer.pt"), folder.path().join("optimizer.pt")).unwrap();
    let message = Checkpoint::load(folder.path()).unwrap().moments().unwrap_err().to_string();
    assert!(message.contains("does not fit the network") && message.contains("optimizer.pt") && message.lines().count() == 1, "{message}");
}

#[test]
fn wrong_settings_are_named() {
    let good =
        json!({"model_type": "convnextv2", "image_size": 16, "patch_size": 2, "depths": [1, 1], "hidden_sizes": [4, 8], "num_labels": 3});
    assert!(from_config(&good).is_ok());
    for (key, value, expected) in [
        ("hidden_act", json!("relu"), "`hidden_act` is \"relu\""),
        ("patch_size", json!(0), "`patch_size` is 0"),
        ("image_size", json!(18), "a multiple of 4"),
        ("depths", json!([1]), "one of each per stage"),
        ("num_stages", json!(4), "`num_stages` is 4"),
        ("hidden_sizes", json!([4, 0]), "hidden_sizes[1] is 0"),
        ("hidden_sizes", json!([4, 16_000_000]), "too many weights"),
        ("num_labels", json!(1), "at least 2 classes"),
        ("drop_path_rate", json!(1.0), "`drop_path_rate` is 1"),
        ("layer_norm_eps", json!(-1.0), "`layer_norm_eps` is -1"),
        ("depths", json!("deep"), "invalid type"),
    ] {
        let mut config = good.clone();
        config[key] = value;
        let message = from_config(&config).unwrap_err().to_string();
        assert!(message.contains(expected) && message.lines().count() == 1, "`{message}` should contain `{expected}`");
    }
}
