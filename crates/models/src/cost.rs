//! What is measured along a ray: implementations of [`basin_volume::objective::Objective`].

mod accelerator;
mod draw;
mod error;
mod image_kl;
pub(crate) mod joined;
mod kl;
pub(crate) mod language_model_kl;
mod noise;
mod pool;
mod rows;
mod sequence_scores;
mod tiles;

use basin_volume::coordinates::Coordinates;
use basin_volume_data::Dataset;

pub(crate) use accelerator::DeviceForecast;
pub use accelerator::{Accelerator, CardMemory, OnDevice, Precision};
#[cfg(feature = "tensors")]
pub(crate) use accelerator::{LOGITS, PIECE, POSITIONS, tile_columns};
pub(crate) use draw::signs as draw_signs;
pub use draw::uniforms as label_uniforms;
pub use error::CostError;
pub use image_kl::ImageKl;
pub use kl::{EXACT_CLASSES, MlpKl, RotatedMlpKl};
pub use language_model_kl::{CenterOutputs, LanguageModelKl, RotatedLanguageModelKl};
pub use noise::Noise;
pub use rows::OutputRows;

#[cfg(test)]
pub(crate) use language_model_kl::tests as language_model_tests;

use crate::arch::{Architecture, Network};
use crate::curvature::Scores;
use crate::parameters::Moving;
#[cfg(feature = "tensors")]
pub use crate::tensors::LanguageModelTensorKl;

/// `C(w) = mean over the rows of data of KL(p_c || p_w)`, in nats, around a center, in the weights that move, with its gradients and scores.
///
/// # Errors
/// When data and network do not fit, or the center's own outputs are not finite.
pub fn for_rows(network: Network<'_>, moving: Moving, data: &Dataset) -> Result<Box<dyn Scores + Send + Sync>, CostError> {
    match network {
        Network::Perceptron(network) => Ok(Box::new(MlpKl::new(network.clone(), moving, data)?)),
        Network::Images(network) => Ok(Box::new(ImageKl::new(network.clone(), moving, data)?)),
        Network::Tokens(model) => Err(CostError::NotTokens { model_type: model.model_type(), dataset: data.name().to_owned() }),
    }
}

/// Whether [`rotated`] knows coordinates for this network and these weights.
#[must_use]
pub fn has_rotated(network: Network<'_>, moving: &Moving) -> bool {
    matches!(network, Network::Perceptron(_)) && moving.is_whole()
}

/// The cost of [`for_rows`] in coordinates in which it is less stiff, where [`has_rotated`] says that there are any.
///
/// # Errors
/// As [`for_rows`].
pub fn rotated(network: Network<'_>, moving: Moving, data: &Dataset) -> Result<Option<Box<dyn Coordinates + Send + Sync>>, CostError> {
    let Network::Perceptron(network) = network else { return Ok(None) };
    if !moving.is_whole() {
        return Ok(None);
    }
    let rotated = RotatedMlpKl::new(MlpKl::new(network.clone(), moving, data)?);
    Ok(rotated.map(|rotated| Box::new(rotated) as Box<dyn Coordinates + Send + Sync>))
}
