//! The multilayer perceptron: dense layers with an activation between them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Architecture, ArchitectureError, Network};
use crate::nn::{ActivationFunction, logits_exact};
use crate::parameters::{ParameterLayout, Parameters, draw_weights};

pub(super) const MODEL_TYPE: &str = "mlp";

/// More weights than this are a mistake in the configuration.
const LARGEST_DIMENSION: usize = 1 << 40;

/// What stands between two layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `x Phi(x)` with the normal distribution function.
    Gelu,
    /// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
    GeluTanh,
    /// The hyperbolic tangent.
    Tanh,
    /// `x / (1 + exp(-x))`.
    Silu,
}

impl Activation {
    fn function(self) -> ActivationFunction {
        match self {
            Self::Relu => ActivationFunction::Relu,
            Self::Gelu => ActivationFunction::Gelu,
            Self::GeluTanh => ActivationFunction::GeluTanh,
            Self::Tanh => ActivationFunction::Tanh,
            Self::Silu => ActivationFunction::Silu,
        }
    }
}

/// Widths of a multilayer perceptron: input, hidden layers, output; and what stands between them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MlpConfig {
    widths: Vec<usize>,
    activation: Activation,
}

/// Reads and checks the family's settings.
pub(super) fn read(config: &Value) -> Result<Arc<dyn Architecture>, ArchitectureError> {
    let read: MlpConfig = MlpConfig::deserialize(config).map_err(|error| ArchitectureError::Setting(format!("{error}")))?;
    Ok(Arc::new(MlpConfig::from_widths(read.widths)?.with_activation(read.activation)))
}

impl MlpConfig {
    /// `depth` hidden layers of equal width; depth 0 is a single dense layer (softmax regression).
    ///
    /// # Errors
    /// When a width is 0, there are fewer than 2 outputs, or there would be more than 2^40 weights.
    pub fn new(inputs: usize, hidden_width: usize, depth: usize, outputs: usize) -> Result<Self, ArchitectureError> {
        if depth > 10_000 {
            return Err(ArchitectureError::Setting(format!("the depth is {depth}: expected at most 10000 hidden layers")));
        }
        let mut widths = vec![inputs];
        widths.extend(std::iter::repeat_n(hidden_width, depth));
        widths.push(outputs);
        Self::from_widths(widths)
    }

    /// The same with another activation than gelu in its tanh form.
    #[must_use]
    pub fn with_activation(self, activation: Activation) -> Self {
        Self { activation, ..self }
    }

    /// What stands between two layers.
    pub(crate) fn activation(&self) -> ActivationFunction {
        self.activation.function()
    }

    /// Logits of one input `[inputs]` in `f64`. `weights` are flat, in the order of the layout.
    ///
    /// # Panics
    /// If `weights` or `input` are shorter than the widths say.
    #[must_use]
    pub fn logits_exact(&self, weights: &[f32], input: &[f32]) -> Vec<f64> {
        logits_exact(&self.widths, self.activation(), weights, input)
    }

    /// Any widths, from the input to the output.
    ///
    /// # Errors
    /// As [`MlpConfig::new`], and when there are fewer than two widths.
    pub fn from_widths(widths: Vec<usize>) -> Result<Self, ArchitectureError> {
        let fault = |message: String| Err(ArchitectureError::Setting(message));
        if widths.len() < 2 {
            return fault(format!("`widths` has {} entries: expected at least two, input and output", widths.len()));
        }
        if let Some(index) = widths.iter().position(|&width| width == 0) {
            return fault(format!("widths[{index}] is 0: every layer needs at least one unit"));
        }
        if widths[widths.len() - 1] < 2 {
            return fault("the last of `widths` is 1: a divergence needs at least 2 classes".to_owned());
        }
        let dimension = widths
            .windows(2)
            .try_fold(0usize, |sum, pair| sum.checked_add(pair[0].checked_add(1)?.checked_mul(pair[1])?))
            .filter(|&sum| sum <= LARGEST_DIMENSION);
        if dimension.is_none() {
            return fault(format!("`widths` {widths:?} ask for too many weights: at most 2^40 are read"));
        }
        Ok(Self { widths, activation: Activation::GeluTanh })
    }

    /// Widths from the input to the output.
    #[must_use]
    pub fn widths(&self) -> &[usize] {
        &self.widths
    }

    /// Features of one input.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.widths[0]
    }

    /// Classes of the output.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.widths[self.widths.len() - 1]
    }

    /// Initial weights and biases, all from N(0, 1/fan_in): a pure function of the seed.
    #[must_use]
    pub fn initial_parameters(&self, seed: u64) -> Parameters {
        let layout = self.layout();
        let mut values = vec![0.0f32; layout.dimension()];
        for (index, parameter) in layout.parameters().iter().enumerate() {
            let deviation = 1.0 / (self.widths[index / 2] as f64).sqrt();
            draw_weights(&mut values[parameter.range()], seed, index, deviation);
        }
        Parameters::new(layout, values)
    }
}

impl Architecture for MlpConfig {
    fn model_type(&self) -> &'static str {
        MODEL_TYPE
    }

    fn layout(&self) -> ParameterLayout {
        ParameterLayout::new(self.widths.windows(2).enumerate().flat_map(|(layer, pair)| {
            [(format!("layers.{layer}.weight"), vec![pair[1], pair[0]]), (format!("layers.{layer}.bias"), vec![pair[1]])]
        }))
    }

    fn settings(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(settings)) => settings,
            _ => unreachable!("a struct of integers and names is an object"),
        }
    }

    fn network(&self) -> Network<'_> {
        Network::Perceptron(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_network_has_its_weights_and_order() {
        let config = MlpConfig::new(64, 512, 5, 10).unwrap();
        let layout = config.layout();
        assert_eq!(layout.dimension(), 1_089_034);
        let names: Vec<&str> = layout.parameters().iter().map(|parameter| parameter.name.as_str()).collect();
        assert_eq!(names[..3], ["layers.0.weight", "layers.0.bias", "layers.1.weight"]);
        assert_eq!(layout.parameters()[0].shape, [512, 64]);
        assert_eq!(layout.parameters()[11].shape, [10]);
        assert_eq!(MlpConfig::new(64, 512, 0, 10).unwrap().layout().dimension(), 650);
    }

    #[test]
    fn initial_weights_have_variance_one_over_fan_in_biases_too() {
        let config = MlpConfig::new(64, 512, 5, 10).unwrap();
        let initial = config.initial_parameters(3);
        assert_eq!(initial, config.initial_parameters(3));
        assert_ne!(initial.hash(), config.initial_parameters(4).hash());
        for (index, (parameter, values)) in initial.layout().unflatten(&initial.values()).enumerate() {
            let count = values.len() as f64;
            let variance = values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>() / count;
            let expected = 1.0 / config.widths()[index / 2] as f64;
            // The variance of a sample of n has relative deviation sqrt(2/n).
            assert!((variance / expected - 1.0).abs() < 5.0 * (2.0 / count).sqrt(), "{}: {variance}", parameter.name);
        }
    }
}
