//! Why a cost cannot be set up.

use crate::arch::TokenError;

/// Why a cost could not be set up. Every message is one sentence.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CostError {
    /// The inputs have another width than the network.
    #[error("the dataset {dataset} has {found} features per row but the network takes {expected}: give it data of that width")]
    Features {
        /// Name of the dataset.
        dataset: String,
        /// Features per row.
        found: usize,
        /// What the network takes.
        expected: usize,
    },
    /// The inputs are no images of the network's size.
    #[error(
        "the dataset {dataset} has {found} features per row but the network takes images of {side} x {side} pixels with {channels} colors, {} features: give it images of that size",
        channels * side * side
    )]
    Images {
        /// Name of the dataset.
        dataset: String,
        /// Features per row.
        found: usize,
        /// Colors that the network takes.
        channels: usize,
        /// Side of the images that the network takes.
        side: usize,
    },
    /// A label is no class of the network.
    #[error(
        "image {row} of the dataset {dataset} has the label {label} but the network has {classes} classes: give it data of its own classes"
    )]
    Classes {
        /// Name of the dataset.
        dataset: String,
        /// The image, from 0.
        row: usize,
        /// Its label.
        label: u32,
        /// Classes of the network.
        classes: usize,
    },
    /// The weights are not those of the network.
    #[error("the center has {found} weights but the network has {expected}: give it the checkpoint's own configuration")]
    Dimension {
        /// Weights given.
        found: usize,
        /// Weights of the network.
        expected: usize,
    },
    /// A language model was given numbers.
    #[error("the model type \"{model_type}\" reads tokens but the dataset {dataset} has rows of numbers: give it text")]
    NotTokens {
        /// The model's family.
        model_type: &'static str,
        /// Name of the dataset.
        dataset: String,
    },
    /// The sequences do not fit the language model.
    #[error("the dataset {dataset} does not fit the model: {source}")]
    Tokens {
        /// Name of the dataset.
        dataset: String,
        /// What does not fit.
        #[source]
        source: TokenError,
    },
    /// An accelerator failed, or lacks memory.
    #[error("the device could not compute the cost: {problem}")]
    Device {
        /// What it said.
        problem: String,
    },
    /// The center itself gives NaN or infinite logits.
    #[error(
        "the model's own logits are not finite at position {position} of sequence {sequence} of the dataset {dataset}: the weights are broken, or the model overflows single precision"
    )]
    CenterTokens {
        /// Name of the dataset.
        dataset: String,
        /// The sequence, from 1.
        sequence: usize,
        /// The position in it, from 1.
        position: usize,
    },
    /// The center itself gives NaN or infinite logits.
    #[error("the network's own outputs are not finite on row {row} of the dataset {dataset}: the checkpoint is broken or diverged")]
    Center {
        /// Name of the dataset.
        dataset: String,
        /// First row of the tile with a bad output.
        row: usize,
    },
}
