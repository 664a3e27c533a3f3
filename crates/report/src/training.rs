//! The curve of a training.

use std::path::{Path, PathBuf};

use basin_volume_engine::error::Error;

use crate::plot::{self, LossCurve};

/// Points of a curve: (step, nats).
pub type Curve = Vec<(f64, f64)>;

/// What a training left.
#[derive(Debug, Clone)]
pub struct Training {
    /// Loss of every step's batch.
    pub losses: Curve,
    /// Cross-entropy of images at checkpoints, with what the images are called.
    pub checkpoints: Vec<(String, Curve)>,
}

/// Draws the losses into a folder, and returns the paths.
///
/// # Errors
/// When it cannot be drawn or written.
pub fn draw_training(training: Training, folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let Training { losses, checkpoints } = training;
    plot::save(&LossCurve { title: "Loss in training".to_owned(), losses, checkpoints }, folder, "curve")
}
