//! The built-in digits network.

use std::path::{Path, PathBuf};

use basin_volume_models::checkpoint::Checkpoint;
use basin_volume_models::train::{self, TrainError, TrainSpec};

use crate::error::{Context, Error};
use crate::events::Event;
use crate::session::Session;

/// Where trained built-in networks are kept: `$BASIN_VOLUME_CACHE`, else the user's cache folder.
fn cache_folder() -> Result<PathBuf, Error> {
    if let Some(folder) = std::env::var_os("BASIN_VOLUME_CACHE").filter(|folder| !folder.is_empty()) {
        return Ok(PathBuf::from(folder));
    }
    let none = || Error::failed("there is no cache folder for this user: set BASIN_VOLUME_CACHE to a folder");
    Ok(dirs::cache_dir().ok_or_else(none)?.join("basin-volume"))
}

/// The network, trained on first use.
pub(crate) fn builtin_digits(session: &Session) -> Result<Checkpoint, Error> {
    // The version in the name changes whenever the recipe does.
    let folder = cache_folder()?.join("digits-1");
    if !folder.exists() {
        session.note("Training the digits network (first use; kept in the cache)");
        train_digits(&TrainSpec::default(), &folder, session).or_else(|error| match error {
            // Another process finished the same training first: its result is the same, bit for bit.
            Error::Failed { .. } if folder.exists() => Ok(()),
            other => Err(other),
        })?;
    }
    Checkpoint::load(&folder).context(|| format!("the cached digits network is damaged; remove {} to train it again", folder.display()))
}

/// Trains a perceptron on the digits into a new folder.
///
/// # Errors
/// When a setting cannot be, the folder exists, or it is told to stop.
pub fn train_digits(spec: &TrainSpec, out: &Path, session: &Session) -> Result<(), Error> {
    ended(train::train_digits(spec, out, &mut session.training()), session).map(|_| ())
}

/// How a training ended, told to whoever watches; settings are usage, an interrupt is none of both.
///
/// # Errors
/// That of the training.
pub fn ended<T>(result: Result<T, TrainError>, session: &Session) -> Result<T, Error> {
    session.tell(&Event::Done);
    result.map_err(|error| {
        if matches!(error, TrainError::Stopped { .. } | TrainError::Interrupted { .. }) {
            session.note(&format!("Interrupted: {error}."));
        }
        error.into()
    })
}
