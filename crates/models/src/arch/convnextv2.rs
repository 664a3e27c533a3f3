//! ConvNeXt V2 with a classification head: `transformers`' `ConvNextV2ForImageClassification`.

use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Architecture, ArchitectureError};
use crate::nn::depthwise::TAPS;
use crate::parameters::{ParameterLayout, Parameters, draw_weights};

mod backward;
mod forward;
mod kernels;
pub(crate) mod lanes;
mod places;
mod reference;

pub(crate) use backward::{Gradients, Sink};
#[cfg(test)]
pub(crate) use forward::Tape;
pub(crate) use forward::{Network, Space};
pub(crate) use kernels::Kernels;
pub(crate) use places::{Pair, Places};

pub(super) const MODEL_TYPE: &str = "convnextv2";

/// More weights than this are a mistake in the configuration.
const LARGEST_DIMENSION: usize = 1 << 40;

/// Epsilon of all norms but the last, which has the configuration's.
const EPSILON: f32 = 1e-6;

/// Width of a block's inner layer, in widths of the block.
const EXPANSION: usize = 4;

/// Settings of a ConvNeXt V2, by their names in `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct ConvNextV2Config {
    /// Colors of a pixel.
    pub num_channels: usize,
    /// Side of the images.
    pub image_size: usize,
    /// Side of the patches that become a position of the first stage.
    pub patch_size: usize,
    /// Channels of every stage.
    pub hidden_sizes: Vec<usize>,
    /// Blocks of every stage.
    pub depths: Vec<usize>,
    /// Number of classes.
    pub classes: usize,
    /// Chance that the last block is passed over for an image in training; it rises to that linearly from 0 for the first.
    pub drop_path_rate: f64,
    /// Epsilon of the norm before the head.
    pub layer_norm_eps: f64,
    /// Standard deviation of initial weights.
    pub initializer_range: f64,
}

/// `config.json`, with the defaults of `transformers`.
#[derive(Deserialize)]
#[serde(default)]
struct Written {
    num_channels: usize,
    image_size: usize,
    patch_size: usize,
    num_stages: Option<usize>,
    hidden_sizes: Option<Vec<usize>>,
    depths: Option<Vec<usize>>,
    hidden_act: String,
    drop_path_rate: f64,
    layer_norm_eps: f64,
    initializer_range: f64,
    id2label: Option<Map<String, Value>>,
    num_labels: Option<usize>,
}

impl Default for Written {
    fn default() -> Self {
        Self {
            num_channels: 3,
            image_size: 224,
            patch_size: 4,
            num_stages: None,
            hidden_sizes: None,
            depths: None,
            hidden_act: "gelu".to_owned(),
            drop_path_rate: 0.0,
            layer_norm_eps: 1e-12,
            initializer_range: 0.02,
            id2label: None,
            num_labels: None,
        }
    }
}

/// Reads and checks the family's settings.
pub(super) fn read(config: &Value) -> Result<Arc<dyn Architecture>, ArchitectureError> {
    Ok(Arc::new(ConvNextV2Config::read(config)?))
}

impl ConvNextV2Config {
    /// The settings of a `config.json`, checked.
    ///
    /// # Errors
    /// When one is of the wrong type or out of range: the message names it.
    pub fn read(config: &Value) -> Result<Self, ArchitectureError> {
        let fault = |message: String| Err(ArchitectureError::Setting(message));
        let written = Written::deserialize(config).map_err(|error| ArchitectureError::Setting(format!("{error}")))?;
        if !matches!(written.hidden_act.as_str(), "gelu" | "gelu_python") {
            return fault(format!("`hidden_act` is \"{}\": only \"gelu\" is known for this family", written.hidden_act));
        }
        let read = Self {
            num_channels: written.num_channels,
            image_size: written.image_size,
            patch_size: written.patch_size,
            hidden_sizes: written.hidden_sizes.unwrap_or_else(|| vec![96, 192, 384, 768]),
            depths: written.depths.unwrap_or_else(|| vec![3, 3, 9, 3]),
            classes: written.id2label.map(|labels| labels.len()).or(written.num_labels).unwrap_or(2),
            drop_path_rate: written.drop_path_rate,
            layer_norm_eps: written.layer_norm_eps,
            initializer_range: written.initializer_range,
        };
        if let Some(stages) = written.num_stages.filter(|&stages| stages != read.depths.len()) {
            return fault(format!("`num_stages` is {stages} but `depths` has {} entries: expected as many", read.depths.len()));
        }
        read.check()?;
        Ok(read)
    }

    /// Refuses settings that no network has.
    ///
    /// # Errors
    /// Names the first setting out of range.
    pub fn check(&self) -> Result<(), ArchitectureError> {
        let fault = |message: String| Err(ArchitectureError::Setting(message));
        for (name, value) in [("num_channels", self.num_channels), ("image_size", self.image_size), ("patch_size", self.patch_size)] {
            if value == 0 || value > 1 << 16 {
                return fault(format!("`{name}` is {value}: expected a number from 1 to 65536"));
            }
        }
        if self.depths.is_empty() || self.depths.len() != self.hidden_sizes.len() {
            let (depths, sizes) = (self.depths.len(), self.hidden_sizes.len());
            return fault(format!("`depths` has {depths} entries and `hidden_sizes` {sizes}: expected one of each per stage"));
        }
        if self.depths.len() > 16 || self.depths.iter().any(|&depth| depth > 10_000) {
            return fault(format!("`depths` is {:?}: expected at most 16 stages of at most 10000 blocks", self.depths));
        }
        if let Some(stage) = self.hidden_sizes.iter().position(|&size| size == 0 || size > 1 << 24) {
            return fault(format!("hidden_sizes[{stage}] is {}: expected a number from 1 to 2^24", self.hidden_sizes[stage]));
        }
        if self.classes < 2 {
            return fault(format!("the number of labels is {}: a divergence needs at least 2 classes", self.classes));
        }
        let total = self.patch_size << (self.depths.len() - 1);
        if !self.image_size.is_multiple_of(total) {
            let (size, stages) = (self.image_size, self.depths.len());
            return fault(format!(
                "`image_size` is {size}: expected a multiple of {total}, which {stages} stages make one position of (set `patch_size`)"
            ));
        }
        if !(0.0..1.0).contains(&self.drop_path_rate) {
            return fault(format!("`drop_path_rate` is {}: expected 0 or more and less than 1", self.drop_path_rate));
        }
        for (name, value) in [("layer_norm_eps", self.layer_norm_eps), ("initializer_range", self.initializer_range)] {
            if !(value >= 0.0 && value.is_finite()) {
                return fault(format!("`{name}` is {value}: expected a finite number, 0 or more"));
            }
        }
        if self.weights().is_none_or(|count| count > LARGEST_DIMENSION) {
            return fault(format!("`hidden_sizes` {:?} ask for too many weights: at most 2^40 are read", self.hidden_sizes));
        }
        Ok(())
    }

    /// Number of weights, if it can be counted.
    fn weights(&self) -> Option<usize> {
        let (mut count, mut before) = (0u128, 0u128);
        for (&size, &depth) in self.hidden_sizes.iter().zip(&self.depths) {
            let size = size as u128;
            count += depth as u128 * (2 * EXPANSION as u128 * size * size + (TAPS as u128 + 16) * size)
                + 4 * before * size
                + 2 * before
                + 6 * size;
            before = size;
        }
        let (patch, colors) = (self.patch_size as u128, self.num_channels as u128);
        // At least as many as there are.
        count += colors * patch * patch * self.hidden_sizes[0] as u128 + (before + 3) * self.classes as u128;
        usize::try_from(count).ok()
    }

    /// Numbers of one image, color by color and row by row.
    #[must_use]
    pub fn features(&self) -> usize {
        self.num_channels * self.image_size * self.image_size
    }

    /// Chance that each block is passed over in training: a line from 0 to [`ConvNextV2Config::drop_path_rate`].
    #[must_use]
    pub(crate) fn drop_rates(&self) -> Vec<f64> {
        let blocks = self.depths.iter().sum::<usize>();
        (0..blocks).map(|block| self.drop_path_rate * block as f64 / (blocks - 1).max(1) as f64).collect()
    }

    /// Side of the maps of a stage.
    pub(crate) fn side(&self, stage: usize) -> usize {
        (self.image_size / self.patch_size) >> stage
    }

    /// Numbers of one image that a backward pass needs of the forward pass.
    pub(crate) fn tape_numbers(&self) -> u64 {
        let mut sum = 0;
        for (stage, (&size, &depth)) in self.hidden_sizes.iter().zip(&self.depths).enumerate() {
            // Per block the input, the norm's rows, and twice the inner layer; per reduction the norm's rows and the windows.
            let map = (self.side(stage).pow(2) * size) as u64;
            sum += map * (depth as u64 * (2 + 2 * EXPANSION as u64) + 2);
        }
        sum
    }

    /// Multiply-adds of one image, times two.
    #[must_use]
    pub fn operations(&self) -> f64 {
        let mut sum = 0usize;
        let mut before = 0;
        for (stage, (&size, &depth)) in self.hidden_sizes.iter().zip(&self.depths).enumerate() {
            let positions = self.side(stage).pow(2);
            sum += positions * depth * (2 * EXPANSION * size * size + TAPS * size);
            let inputs = if stage == 0 { self.num_channels * self.patch_size.pow(2) } else { 4 * before };
            sum += positions * inputs * size;
            before = size;
        }
        2.0 * (sum + before * self.classes) as f64
    }

    /// Initial weights as `transformers` draws them: matrices and kernels from `N(0, initializer_range^2)`, biases 0, norms 1, global
    /// response normalization 0. A pure function of the seed.
    #[must_use]
    pub fn initial_parameters(&self, seed: u64) -> Parameters {
        let layout = self.layout();
        let mut values = vec![0.0f32; layout.dimension()];
        for (index, parameter) in layout.parameters().iter().enumerate() {
            let values = &mut values[parameter.range()];
            if is_norm(&parameter.name) {
                values.fill(if parameter.name.ends_with("weight") { 1.0 } else { 0.0 });
            } else if parameter.name.ends_with("weight") && !parameter.name.contains(".grn.") {
                draw_weights(values, seed, index, self.initializer_range);
            }
        }
        Parameters::new(layout, values)
    }

    /// The images of a dataset `[rows, colors x height x width]` as patches `[rows, side, side, colors x patch x patch]`.
    pub(crate) fn patches(&self, images: &[f32]) -> Vec<f32> {
        let (patch, side, size) = (self.patch_size, self.side(0), self.image_size);
        let mut patches = Vec::with_capacity(images.len());
        for image in images.chunks_exact(self.features()) {
            for (y, x) in (0..side).flat_map(|y| (0..side).map(move |x| (y, x))) {
                for (color, line) in (0..self.num_channels).flat_map(|color| (0..patch).map(move |line| (color, line))) {
                    let start = (color * size + y * patch + line) * size + x * patch;
                    patches.extend_from_slice(&image[start..start + patch]);
                }
            }
        }
        patches
    }
}

/// Whether a tensor is the weight or bias of a layer norm.
pub(crate) fn is_norm(name: &str) -> bool {
    name.contains("layernorm") || name.contains("downsampling_layer.0.")
}

impl Architecture for ConvNextV2Config {
    fn model_type(&self) -> &'static str {
        MODEL_TYPE
    }

    fn layout(&self) -> ParameterLayout {
        ParameterLayout::new(places::tensors(self))
    }

    fn settings(&self) -> Map<String, Value> {
        let labels: Map<String, Value> = (0..self.classes).map(|class| (class.to_string(), json!(format!("LABEL_{class}")))).collect();
        let numbers: Map<String, Value> = (0..self.classes).map(|class| (format!("LABEL_{class}"), json!(class))).collect();
        let stages = self.depths.len();
        let names: Vec<String> = (0..=stages).map(|stage| if stage == 0 { "stem".to_owned() } else { format!("stage{stage}") }).collect();
        let settings = json!({
            "architectures": ["ConvNextV2ForImageClassification"],
            "num_channels": self.num_channels,
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "num_stages": stages,
            "hidden_sizes": self.hidden_sizes,
            "depths": self.depths,
            "hidden_act": "gelu",
            "drop_path_rate": self.drop_path_rate,
            "layer_norm_eps": self.layer_norm_eps,
            "initializer_range": self.initializer_range,
            "id2label": labels,
            "label2id": numbers,
            "stage_names": names,
            "out_features": [names[stages]],
            "out_indices": [stages],
            "torch_dtype": "float32",
        });
        if let Value::Object(settings) = settings { settings } else { Map::new() }
    }

    fn network(&self) -> super::Network<'_> {
        super::Network::Images(self)
    }
}

/// A range moved by where it starts.
fn shifted(start: &mut usize, length: usize) -> Range<usize> {
    let range = *start..*start + length;
    *start = range.end;
    range
}

#[cfg(test)]
pub(crate) mod tests;
