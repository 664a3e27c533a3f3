//! A repository at a revision: what it has, and its files in the cache.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::address::{self, Kind};
use super::blob::check;
use super::cache::{Folder, Lock, is_safe_name, is_safe_path, link};
use super::client::{Fault, Metadata};
use super::download::{Broken, Download};
use super::{Hub, HubError, Report};
use crate::weights::{WeightsError, sharded};

/// A repository at a revision.
#[derive(Debug)]
pub(super) struct Place<'a> {
    hub: &'a Hub,
    kind: Kind,
    name: String,
    revision: String,
    folder: Folder,
}

/// The files of a repository.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) commit: String,
    pub(super) names: Vec<String>,
    /// Their lengths, as far as the hub tells them.
    sizes: HashMap<String, u64>,
    /// Whether they are those of the cache, because the hub was not asked.
    pub(super) cached: bool,
}

impl Found {
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.iter().any(|file| file == name)
    }

    /// What a model has beside its weights: configuration and tokenizer.
    pub(super) fn small_files(&self) -> Vec<String> {
        const NAMES: [&str; 6] =
            ["config.json", "generation_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"];
        let top = self.names.iter().filter(|file| !file.contains('/'));
        top.filter(|file| NAMES.contains(&file.as_str()) || file.starts_with("tokenizer")).cloned().collect()
    }
}

/// The hub's answer about a repository.
#[derive(Deserialize)]
struct Listing {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
}

impl<'a> Place<'a> {
    pub(super) fn new(hub: &'a Hub, kind: Kind, name: &str, revision: &str) -> Self {
        let folder = Folder::new(&hub.settings.cache, kind, name);
        Self { hub, kind, name: name.to_owned(), revision: revision.to_owned(), folder }
    }

    fn what(&self) -> String {
        format!("{}@{}", self.name, self.revision)
    }

    fn endpoint(&self) -> String {
        self.hub.settings.endpoint.clone()
    }

    /// The commit and the files, from the hub, or from the cache when offline or without a network.
    pub(super) fn files(&self) -> Result<Found, HubError> {
        if self.hub.settings.offline {
            return self.cached().ok_or_else(|| HubError::Offline { what: self.what(), cache: self.hub.settings.cache.clone() });
        }
        match self.listed() {
            // As the hub's other tools do: an unreachable hub does not matter when the files are here.
            Err(failure @ HubError::Network { .. }) => self.cached().ok_or(failure),
            other => other,
        }
    }

    fn listed(&self) -> Result<Found, HubError> {
        let address = address::listing(&self.hub.settings.endpoint, self.kind, &self.name, &self.revision);
        let text = self.hub.patiently(|client| client.text(&address)).map_err(|fault| self.failure(&fault, &self.what()))?;
        let listing: Listing = serde_json::from_slice(&text)
            .map_err(|_| self.network("its answer is no list of files: is this address a hub?".to_owned(), &self.what()))?;
        if !is_safe_name(&listing.sha) {
            return Err(self.network("the hub's answer has no usable commit".to_owned(), &self.what()));
        }
        let files: Vec<Sibling> = listing.siblings.into_iter().filter(|file| is_safe_path(&file.rfilename)).collect();
        let sizes = files.iter().filter_map(|file| Some((file.rfilename.clone(), file.size?))).collect();
        Ok(Found { commit: listing.sha, names: files.into_iter().map(|file| file.rfilename).collect(), sizes, cached: false })
    }

    fn cached(&self) -> Option<Found> {
        // A revision may also be the commit itself.
        let commit = self.folder.commit(&self.revision).unwrap_or_else(|| self.revision.clone());
        let names = self.folder.names(&commit)?;
        Some(Found { commit, names, sizes: HashMap::new(), cached: true })
    }

    /// Notes which commit the revision is, for work without a network.
    pub(super) fn remember(&self, found: &Found) {
        if !found.cached {
            self.folder.note(&self.revision, &found.commit);
        }
    }

    /// Why files are missing: the repository has none, or the cache has not.
    pub(super) fn lacks(&self, found: &Found, wanted: &'static str) -> HubError {
        let what = self.what();
        match (found.cached, self.hub.settings.offline) {
            (false, _) => HubError::Lacks { what, wanted },
            (true, true) => HubError::Offline { what: format!("{wanted} of {what}"), cache: self.hub.settings.cache.clone() },
            (true, false) => self.network(format!("the hub cannot be reached, and the cache has no {wanted}"), &what),
        }
    }

    /// The folder of several files, which are downloaded if need be, and of the shards that an index among them names.
    pub(super) fn get_all(&self, files: &[String], found: &Found, report: Report) -> Result<PathBuf, HubError> {
        for file in files {
            let path = self.get(file, found, report)?;
            if file.ends_with(".index.json") {
                let damaged =
                    |error: WeightsError| HubError::Damaged { what: format!("{file} of {}", self.what()), problem: error.to_string() };
                for shard in sharded::shards(&path).map_err(damaged)? {
                    self.get(&shard, found, report)?;
                }
            }
        }
        self.remember(found);
        Ok(self.folder.snapshot(&found.commit))
    }

    /// The local path of a file, downloaded if need be.
    pub(super) fn get(&self, file: &str, found: &Found, report: Report) -> Result<PathBuf, HubError> {
        let what = format!("{file} of {}", self.what());
        if !is_safe_path(file) {
            return Err(HubError::NotFound { what, endpoint: self.endpoint() });
        }
        let path = self.folder.snapshot(&found.commit).join(file);
        if let Ok(data) = fs::metadata(&path) {
            // Other tools may have left a file that broke off.
            if found.sizes.get(file).is_none_or(|&size| size == data.len()) {
                return Ok(path);
            }
            Self::forget(&path).map_err(|source| HubError::Io { path: path.clone(), source })?;
        }
        if found.cached {
            return Err(if self.hub.settings.offline {
                HubError::Offline { what, cache: self.hub.settings.cache.clone() }
            } else {
                self.network("the hub cannot be reached, and the file is not in the cache".to_owned(), &what)
            });
        }
        let address = address::file(&self.hub.settings.endpoint, self.kind, &self.name, &self.revision, file);
        let mut metadata = self.hub.patiently(|client| client.metadata(&address)).map_err(|fault| self.failure(&fault, &what))?;
        metadata.size = metadata.size.or_else(|| found.sizes.get(file).copied());
        // Both become names in the cache.
        if !is_safe_name(&metadata.tag) || metadata.commit != found.commit {
            return Err(self.network("the hub's answers do not agree: try again, the repository may just have changed".to_owned(), &what));
        }
        let blob = self.folder.blob(&metadata.tag);
        self.fill(&blob, &address, &metadata, file, report)?;
        link(&blob, &path, file).map_err(|source| HubError::Io { path: path.clone(), source })?;
        Ok(path)
    }

    /// Removes a file of the cache, and what it is a link to.
    fn forget(path: &Path) -> std::io::Result<()> {
        if let Ok(blob) = path.canonicalize()
            && path.is_symlink()
        {
            fs::remove_file(blob)?;
        }
        fs::remove_file(path)
    }

    /// Sees to it that a blob is there and is what the hub announced.
    fn fill(&self, blob: &Path, address: &str, metadata: &Metadata, file: &str, report: Report) -> Result<(), HubError> {
        let what = format!("{file} of {}", self.what());
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| HubError::Io { path, source }
        };
        let folder = blob.parent().unwrap_or(blob);
        fs::create_dir_all(folder).map_err(io(folder))?;
        let part = blob.with_extension("part");
        let total = metadata.size.map_or(0, |size| usize::try_from(size).unwrap_or(usize::MAX));
        // What another process downloads meanwhile is told as if it were ours: it soon is.
        let mut waiting = || report(file, fs::metadata(&part).map_or(0, |part| part.len() as usize), total);
        let _lock: Lock = self.folder.lock(&metadata.tag, &mut waiting).ok_or(HubError::Interrupted)?;
        let mut problem = String::new();
        for _ in 0..2 {
            // Another revision may have the same file, or another process was quicker.
            let arrived = if blob.exists() { blob } else { part.as_path() };
            if arrived == part {
                let mut go_on = |done: u64| report(file, done as usize, total.max(done as usize));
                let client = &self.hub.client;
                let download = Download { client, address, size: metadata.size, retries: self.hub.settings.retries, go_on: &mut go_on };
                download.run(&part).map_err(|broken| match broken {
                    Broken::Stopped => HubError::Interrupted,
                    Broken::Fault(fault) => self.failure(&fault, &what),
                    Broken::Io(source) => io(&part)(source),
                })?;
            }
            match check(arrived, &metadata.tag, metadata.size).map_err(io(arrived))? {
                None if arrived == part => return fs::rename(&part, blob).map_err(io(blob)),
                None => return Ok(()),
                Some(wrong) => problem = wrong,
            }
            // What is wrong must not be found by the next run.
            fs::remove_file(arrived).map_err(io(arrived))?;
        }
        Err(HubError::Damaged { what, problem })
    }

    fn network(&self, problem: String, what: &str) -> HubError {
        HubError::Network { what: what.to_owned(), endpoint: self.endpoint(), problem }
    }

    /// What a fault of a request means.
    fn failure(&self, fault: &Fault, what: &str) -> HubError {
        let (what, endpoint) = (what.to_owned(), self.endpoint());
        match fault {
            Fault::Status(404) => HubError::NotFound { what, endpoint },
            Fault::Status(status @ (401 | 403)) => {
                let advice = if self.hub.settings.token.is_some() {
                    "the token of HF_TOKEN is not accepted for it"
                } else {
                    "set HF_TOKEN to a token of an account that may read it"
                };
                HubError::Denied { what, endpoint, status: *status, advice }
            }
            Fault::Status(status) => HubError::Network { what, endpoint, problem: format!("it answers with status {status}") },
            Fault::Transport(problem) => HubError::Network { what, endpoint, problem: problem.clone() },
        }
    }
}
