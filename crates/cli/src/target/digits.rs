//! The built-in digits network.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Context, anyhow};
use basin_volume_models::checkpoint::Checkpoint;
use basin_volume_models::train::{self, TrainSpec};

use super::eprintln_status;
use crate::error::{CommandError, training_error};
use crate::progress::TrainingProgress;

/// Where trained built-in networks are kept: `$BASIN_VOLUME_CACHE`, else the user's cache folder.
fn cache_folder() -> Result<PathBuf, CommandError> {
    if let Some(folder) = std::env::var_os("BASIN_VOLUME_CACHE").filter(|folder| !folder.is_empty()) {
        return Ok(PathBuf::from(folder));
    }
    let folder = dirs::cache_dir().ok_or_else(|| anyhow!("there is no cache folder for this user: set BASIN_VOLUME_CACHE to a folder"))?;
    Ok(folder.join("basin-volume"))
}

/// The network, trained on first use.
pub fn builtin_digits(interrupt: &AtomicBool) -> Result<Checkpoint, CommandError> {
    // The version in the name changes whenever the recipe does.
    let folder = cache_folder()?.join("digits-1");
    if !folder.exists() {
        eprintln_status("Training the digits network (first use; kept in the cache)");
        train_digits(&TrainSpec::default(), &folder, interrupt).or_else(|error| match error {
            // Another process finished the same training first: its result is the same, bit for bit.
            CommandError::Failure(_) if folder.exists() => Ok(()),
            other => Err(other),
        })?;
    }
    let load = Checkpoint::load(&folder)
        .with_context(|| format!("the cached digits network is damaged; remove {} to train it again", folder.display()))?;
    Ok(load)
}

/// Trains the digits network with a progress bar.
pub fn train_digits(spec: &TrainSpec, out: &Path, interrupt: &AtomicBool) -> Result<(), CommandError> {
    let mut observer = TrainingProgress::new(interrupt);
    let result = train::train_digits(spec, out, &mut observer);
    observer.finish();
    result.map(|_| ()).map_err(training_error)
}
