//! The built-in networks on digits.

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

/// A network that comes with the program, trained on first use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builtin {
    /// A perceptron 64-16-10 of 1,210 weights, whose volume is known within a minute.
    Digits,
    /// The perceptron of the paper, 1,089,034 weights in five hidden layers of 512.
    DigitsMlp,
}

impl Builtin {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Digits, Self::DigitsMlp];

    /// Its name in place of a model.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Digits => "digits",
            Self::DigitsMlp => "digits-mlp",
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|builtin| builtin.name() == name)
    }

    /// How it is trained.
    fn recipe(self) -> TrainSpec {
        match self {
            Self::Digits => TrainSpec { width: 16, depth: 1, ..TrainSpec::default() },
            Self::DigitsMlp => TrainSpec::default(),
        }
    }

    /// Its folder in the cache: the version in the name changes whenever the recipe does.
    fn folder(self) -> &'static str {
        match self {
            Self::Digits => "digits-3",
            Self::DigitsMlp => "digits-mlp-2",
        }
    }
}

/// A built-in network, trained on first use.
pub(crate) fn builtin(which: Builtin, session: &Session) -> Result<Checkpoint, Error> {
    let folder = cache_folder()?.join(which.folder());
    if !folder.exists() {
        session.note(&format!("Training the network {} (first use; kept in the cache)", which.name()));
        train_digits(&which.recipe(), &folder, session).or_else(|error| match error {
            // Another process finished the same training first: its result is the same, bit for bit.
            Error::Failed { .. } if folder.exists() => Ok(()),
            other => Err(other),
        })?;
    }
    let damaged = || format!("the cached network {} is damaged; remove {} to train it again", which.name(), folder.display());
    Checkpoint::load(&folder).context(damaged)
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
