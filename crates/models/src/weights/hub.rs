//! Files from the Hugging Face hub, in the cache that its other tools share.
//!
//! What arrives is checked: every file's size and its hash. A download that breaks off is taken up again where it did, also by the next run;
//! of two processes that want the same file one waits for the other; and without a network, what the cache has is used.

use std::path::PathBuf;
use std::time::Duration;

mod address;
mod blob;
mod cache;
mod client;
mod download;
mod error;
mod place;
mod settings;

use address::Kind;
use client::{Client, Fault};
pub use error::HubError;
use place::{Found, Place};
pub use settings::HubSettings;

use super::{adapter, store};
use crate::checkpoint::optimizer;

/// Where the hub is.
pub const ENDPOINT: &str = "https://huggingface.co";

/// The branch on which the hub keeps every data set as parquet files.
const PARQUET_BRANCH: &str = "refs/convert/parquet";

/// Before a request that a busy hub refused is made again.
const PAUSE: Duration = Duration::from_millis(500);

/// A client of the hub.
#[derive(Debug)]
pub struct Hub {
    settings: HubSettings,
    client: Client,
}

/// Bytes that arrived, told to the caller: file, bytes so far, bytes in all. The answer says whether to go on.
pub type Report<'a> = &'a mut dyn FnMut(&str, usize, usize) -> bool;

impl Hub {
    /// A client with the given settings. Nothing is sent yet.
    #[must_use]
    pub fn new(settings: HubSettings) -> Self {
        let client = Client::new(settings.token.clone());
        Self { settings, client }
    }

    /// The local folder of a model `owner/name[@revision]`, with its configuration, tokenizer files, and weights: safetensors if there are
    /// any, else PyTorch's, else those of an adapter. What the cache has is not downloaded again. Without a network, what the cache has is
    /// used.
    ///
    /// # Errors
    /// When the repository does not exist, may not be read, cannot be reached and is not cached, has no weights, or arrives damaged.
    pub fn model(&self, id: &str, report: Report) -> Result<PathBuf, HubError> {
        let (place, found) = self.find(id)?;
        let mut wanted = found.small_files();
        if let Some(weights) = store::FILES.iter().find(|file| found.has(file)) {
            wanted.push((*weights).to_owned());
        } else if let Some(weights) = adapter::FILES.iter().find(|file| found.has(file) && found.has(adapter::SETTINGS)) {
            wanted.extend([adapter::SETTINGS, weights].map(str::to_owned));
        } else {
            return Err(place.lacks(&found, "model.safetensors, pytorch_model.bin, index of either, or adapter"));
        }
        place.get_all(&wanted, &found, report)
    }

    /// One file of a model: a `.gguf`, say.
    ///
    /// # Errors
    /// As [`Hub::model`].
    pub fn model_file(&self, id: &str, file: &str, report: Report) -> Result<PathBuf, HubError> {
        let (place, found) = self.find(id)?;
        let path = place.get(file, &found, report)?;
        place.remember(&found);
        Ok(path)
    }

    /// The local folder of the optimizer's state that a model `owner/name[@revision]` has beside its weights, in one of the layouts of
    /// [`crate::checkpoint::optimizer`]; None when it has none.
    ///
    /// # Errors
    /// As [`Hub::model`].
    pub fn optimizer(&self, id: &str, report: Report) -> Result<Option<PathBuf>, HubError> {
        let (place, found) = self.find(id)?;
        match optimizer::files_of(&found.names) {
            files if files.is_empty() => Ok(None),
            files => place.get_all(&files, &found, report).map(Some),
        }
    }

    /// The local folder with the configuration and tokenizer files of a model `owner/name[@revision]`, without its weights.
    ///
    /// # Errors
    /// As [`Hub::model`]; when the repository has no `tokenizer.json`.
    pub fn tokenizer(&self, id: &str, report: Report) -> Result<PathBuf, HubError> {
        let (place, found) = self.find(id)?;
        if !found.has("tokenizer.json") {
            return Err(place.lacks(&found, "tokenizer.json"));
        }
        place.get_all(&found.small_files(), &found, report)
    }

    /// The parquet files of a data set `owner/name[@revision]`: its own, or those that the hub made of it. None is downloaded yet.
    ///
    /// # Errors
    /// As [`Hub::model`]; when there are none.
    pub fn dataset(&self, id: &str) -> Result<DataSetFiles<'_>, HubError> {
        let (name, revision) = split(id)?;
        let is_parquet = |name: &String| name.ends_with(".parquet");
        let mut place = Place::new(self, Kind::DataSet, name, revision.unwrap_or("main"));
        let mut found = place.files();
        let has_own = found.as_ref().is_ok_and(|found| found.names.iter().any(is_parquet));
        // Offline, the cache may have only the converted files.
        let may_be_converted = matches!(found, Ok(_) | Err(HubError::Offline { .. } | HubError::Network { .. }));
        if revision.is_none() && !has_own && may_be_converted {
            let converted = Place::new(self, Kind::DataSet, name, PARQUET_BRANCH);
            match (converted.files(), &found) {
                // What is wrong with the data set itself is the more useful message.
                (Err(_), Err(_)) => {}
                (files, _) => (place, found) = (converted, files),
            }
        }
        let mut found = found?;
        found.names.retain(is_parquet);
        found.names.sort();
        if found.names.is_empty() {
            return Err(place.lacks(&found, "parquet files"));
        }
        Ok(DataSetFiles { place, found })
    }

    /// A model's repository, and what it has.
    fn find(&self, id: &str) -> Result<(Place<'_>, Found), HubError> {
        let (name, revision) = split(id)?;
        let place = Place::new(self, Kind::Model, name, revision.unwrap_or("main"));
        let found = place.files()?;
        Ok((place, found))
    }

    /// Makes a request, and makes it again while the hub is too busy. A hub that cannot be reached at all is not waited for: the cache may do.
    fn patiently<T>(&self, request: impl Fn(&Client) -> Result<T, Fault>) -> Result<T, Fault> {
        let mut attempt = 0;
        loop {
            match request(&self.client) {
                Err(fault @ Fault::Status(_)) if fault.may_pass() && attempt < self.settings.retries => {
                    std::thread::sleep(PAUSE * (1 << attempt.min(5)));
                    attempt += 1;
                }
                other => return other,
            }
        }
    }
}

/// Owner and name, and the revision if there is one. The parts become names of folders, so nothing else is let through.
fn split(id: &str) -> Result<(&str, Option<&str>), HubError> {
    let (name, revision) = id.split_once('@').map_or((id, None), |(name, revision)| (name, Some(revision)));
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.len() <= 200
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte))
    };
    let good = name.split('/').all(plain) && name.split('/').count() <= 2 && revision.is_none_or(|revision| revision.split('/').all(plain));
    if good { Ok((name, revision)) } else { Err(HubError::Id { id: super::error::printable(id) }) }
}

/// The parquet files of a data set at a revision.
#[derive(Debug)]
pub struct DataSetFiles<'a> {
    place: Place<'a>,
    found: Found,
}

impl DataSetFiles<'_> {
    /// The files' names in the repository, sorted. When the hub was not asked, those in the cache.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.found.names
    }

    /// The commit of the revision.
    #[must_use]
    pub fn commit(&self) -> &str {
        &self.found.commit
    }

    /// The local path of one of the files, downloaded if need be.
    ///
    /// # Errors
    /// As [`Hub::model`].
    pub fn get(&self, name: &str, report: Report) -> Result<PathBuf, HubError> {
        let path = self.place.get(name, &self.found, report)?;
        self.place.remember(&self.found);
        Ok(path)
    }
}
