//! Files from the Hugging Face hub, in the cache that its other tools share.
//!
//! Downloads go through the `hf-hub` crate. Around it: the settings that it does not read, work without a network, a check of every file's
//! size and hash (the crate renames whatever arrived), and a second try after a part that turned out wrong.

use std::fmt::Display;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Component, Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::api::{Progress, RepoInfo};
use hf_hub::{Cache, Repo, RepoType};

use super::sharded;

mod blob;
mod error;
mod settings;

use blob::{check, link};
pub use error::HubError;
pub use settings::HubSettings;

/// Where the hub is.
pub const ENDPOINT: &str = "https://huggingface.co";

/// The branch on which the hub keeps every data set as parquet files.
const PARQUET_BRANCH: &str = "refs/convert/parquet";

/// A client of the hub.
#[derive(Debug)]
pub struct Hub {
    settings: HubSettings,
    api: Api,
}

/// A repository at a revision.
struct Place<'a> {
    hub: &'a Hub,
    api: ApiRepo,
    repo: Repo,
    what: String,
}

/// Bytes that arrived, told to the caller: file, bytes so far, bytes in all. The answer says whether to go on.
pub type Report<'a> = &'a mut dyn FnMut(&str, usize, usize) -> bool;

/// Unwinds out of a download that is to stop, which the client has no other way to do.
struct Stopped;

struct Reporter<'a, 'b> {
    report: &'a mut (dyn FnMut(&str, usize, usize) -> bool + 'b),
    file: String,
    done: usize,
    total: usize,
}

impl Progress for Reporter<'_, '_> {
    fn init(&mut self, size: usize, _filename: &str) {
        (self.done, self.total) = (0, size);
    }

    fn update(&mut self, size: usize) {
        self.done += size;
        if !(self.report)(&self.file, self.done, self.total) {
            // Past the panic hook: nothing is printed.
            resume_unwind(Box::new(Stopped));
        }
    }

    fn finish(&mut self) {}
}

impl Hub {
    /// A client with the given settings. Nothing is sent yet.
    ///
    /// # Errors
    /// When the client cannot be set up.
    pub fn new(settings: HubSettings) -> Result<Self, HubError> {
        let api = ApiBuilder::from_cache(Cache::new(settings.cache.clone()))
            .with_endpoint(settings.endpoint.clone())
            .with_token(settings.token.clone())
            .with_retries(settings.retries)
            .with_progress(false)
            .build()
            .map_err(|error| HubError::Network {
                what: "a client".to_owned(),
                endpoint: settings.endpoint.clone(),
                problem: one_line(&error),
            })?;
        Ok(Self { settings, api })
    }

    /// The local folder of a model `owner/name[@revision]`, with its configuration, tokenizer files, and weights: safetensors if there are
    /// any, else PyTorch's. What the cache has is not downloaded again. Without a network, what the cache has is used.
    ///
    /// # Errors
    /// When the repository does not exist, may not be read, cannot be reached and is not cached, has no weights, or arrives damaged.
    pub fn model(&self, id: &str, report: Report) -> Result<PathBuf, HubError> {
        let (name, revision) = split(id)?;
        let place = self.place(name, RepoType::Model, revision.unwrap_or("main"));
        let found = place.files()?;
        let weights = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"]
            .into_iter()
            .find(|file| found.has(file));
        let Some(weights) = weights else {
            return Err(place.lacks(&found, "model.safetensors, pytorch_model.bin, or index of either"));
        };
        let mut wanted = found.small_files();
        wanted.push(weights.to_owned());
        place.get_all(&wanted, &found, report)
    }

    /// One file of a model: a `.gguf`, say.
    ///
    /// # Errors
    /// As [`Hub::model`].
    pub fn model_file(&self, id: &str, file: &str, report: Report) -> Result<PathBuf, HubError> {
        let (name, revision) = split(id)?;
        let place = self.place(name, RepoType::Model, revision.unwrap_or("main"));
        let found = place.files()?;
        let path = place.get(file, &found, report)?;
        place.remember(&found);
        Ok(path)
    }

    /// The local folder with the configuration and tokenizer files of a model `owner/name[@revision]`, without its weights.
    ///
    /// # Errors
    /// As [`Hub::model`]; when the repository has no `tokenizer.json`.
    pub fn tokenizer(&self, id: &str, report: Report) -> Result<PathBuf, HubError> {
        let (name, revision) = split(id)?;
        let place = self.place(name, RepoType::Model, revision.unwrap_or("main"));
        let found = place.files()?;
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
        let mut place = self.place(name, RepoType::Dataset, revision.unwrap_or("main"));
        let mut found = place.files();
        let has_own = found.as_ref().is_ok_and(|found| found.names.iter().any(is_parquet));
        // Offline, the cache may have only the converted files.
        let may_be_converted = matches!(found, Ok(_) | Err(HubError::Offline { .. } | HubError::Network { .. }));
        if revision.is_none() && !has_own && may_be_converted {
            let converted = self.place(name, RepoType::Dataset, PARQUET_BRANCH);
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

    fn place(&self, name: &str, kind: RepoType, revision: &str) -> Place<'_> {
        let repo = Repo::with_revision(name.to_owned(), kind, revision.to_owned());
        let api = self.api.repo(repo.clone());
        Place { hub: self, api, repo, what: format!("{name}@{revision}") }
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

/// The files of a repository.
struct Found {
    commit: String,
    names: Vec<String>,
    /// Whether they are those of the cache, because the hub was not asked.
    cached: bool,
}

impl Found {
    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|file| file == name)
    }

    /// What a model has beside its weights: configuration and tokenizer.
    fn small_files(&self) -> Vec<String> {
        const NAMES: [&str; 6] =
            ["config.json", "generation_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"];
        let top = self.names.iter().filter(|file| !file.contains('/'));
        top.filter(|file| NAMES.contains(&file.as_str()) || file.starts_with("tokenizer")).cloned().collect()
    }
}

/// The parquet files of a data set at a revision.
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

/// Whether a hub's text may become a name in the cache's folder.
fn is_safe_path(name: &str) -> bool {
    let path = Path::new(name);
    !name.is_empty() && !name.contains(['\\', '\0', ':']) && path.components().all(|component| matches!(component, Component::Normal(_)))
}

impl Place<'_> {
    fn endpoint(&self) -> String {
        self.hub.settings.endpoint.clone()
    }

    /// The commit and the files, from the hub, or from the cache when offline or without a network.
    fn files(&self) -> Result<Found, HubError> {
        if self.hub.settings.offline {
            return self.cached().ok_or_else(|| HubError::Offline { what: self.what.clone(), cache: self.hub.settings.cache.clone() });
        }
        match self.api.info() {
            Ok(RepoInfo { siblings, sha }) => {
                let names: Vec<String> = siblings.into_iter().map(|file| file.rfilename).collect();
                if !is_safe_path(&sha) || sha.contains('/') {
                    return Err(self.network("the hub's answer has no usable commit".to_owned(), &self.what));
                }
                Ok(Found { commit: sha, names: names.into_iter().filter(|name| is_safe_path(name)).collect(), cached: false })
            }
            Err(error) => match self.failure(&error, &self.what) {
                // As the hub's other tools do: an unreachable hub does not matter when the files are here.
                failure @ HubError::Network { .. } => self.cached().ok_or(failure),
                failure => Err(failure),
            },
        }
    }

    fn cached(&self) -> Option<Found> {
        let folder = self.hub.settings.cache.join(self.repo.folder_name());
        let revision = self.repo.revision();
        let commit = fs::read_to_string(folder.join("refs").join(revision)).ok();
        // A revision may also be the commit itself.
        let commit = commit.map_or_else(|| revision.to_owned(), |commit| commit.trim().to_owned());
        let snapshot = folder.join("snapshots").join(&commit);
        let mut names = Vec::new();
        collect(&snapshot, &snapshot, &mut names)?;
        Some(Found { commit, names, cached: true })
    }

    /// Notes which commit the revision is, for work without a network: `hf-hub` does so only when it downloads a file.
    fn remember(&self, found: &Found) {
        let cache = Cache::new(self.hub.settings.cache.clone()).repo(self.repo.clone());
        let noted = fs::read_to_string(self.hub.settings.cache.join(self.repo.folder_name()).join("refs").join(self.repo.revision()));
        if !found.cached && noted.map_or(true, |noted| noted.trim() != found.commit) {
            // All files are there: a cache that cannot be written to is no failure.
            _ = cache.create_ref(&found.commit);
        }
    }

    /// Why files are missing: the repository has none, or the cache has not.
    fn lacks(&self, found: &Found, wanted: &'static str) -> HubError {
        let what = self.what.clone();
        match (found.cached, self.hub.settings.offline) {
            (false, _) => HubError::Lacks { what, wanted },
            (true, true) => HubError::Offline { what: format!("{wanted} of {what}"), cache: self.hub.settings.cache.clone() },
            (true, false) => self.network(format!("the hub cannot be reached, and the cache has no {wanted}"), &what),
        }
    }

    /// The folder of several files, which are downloaded if need be, and of the shards that an index among them names.
    fn get_all(&self, files: &[String], found: &Found, report: Report) -> Result<PathBuf, HubError> {
        let mut folder = PathBuf::new();
        for file in files {
            let path = self.get(file, found, report)?;
            folder = path.parent().map(Path::to_owned).unwrap_or_default();
            if file.ends_with(".index.json") {
                let damaged =
                    |error: super::WeightsError| HubError::Damaged { what: format!("{file} of {}", self.what), problem: error.to_string() };
                for shard in sharded::shards(&path).map_err(damaged)? {
                    self.get(&shard, found, report)?;
                }
            }
        }
        self.remember(found);
        Ok(folder)
    }

    /// The local path of a file, downloaded if need be.
    fn get(&self, file: &str, found: &Found, report: Report) -> Result<PathBuf, HubError> {
        let what = format!("{file} of {}", self.what);
        if !is_safe_path(file) {
            return Err(HubError::NotFound { what, endpoint: self.endpoint() });
        }
        let folder = self.hub.settings.cache.join(self.repo.folder_name());
        let path = folder.join("snapshots").join(&found.commit).join(file);
        if path.exists() {
            return Ok(path);
        }
        if found.cached {
            return Err(if self.hub.settings.offline {
                HubError::Offline { what, cache: self.hub.settings.cache.clone() }
            } else {
                self.network("the hub cannot be reached, and the file is not in the cache".to_owned(), &what)
            });
        }
        let metadata = self.hub.api.metadata(&self.api.url(file)).map_err(|error| self.failure(&error, &what))?;
        // Both become names in the cache.
        if !is_safe_path(metadata.etag()) || metadata.etag().contains('/') || metadata.commit_hash() != found.commit {
            return Err(self.network("the hub's answers do not agree: try again, the repository may just have changed".to_owned(), &what));
        }
        let blob = folder.join("blobs").join(metadata.etag());
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| HubError::Io { path, source }
        };
        // A link to a blob that is gone would be in the way.
        if path.symlink_metadata().is_ok() {
            fs::remove_file(&path).map_err(io(&path))?;
        }
        let mut problem = String::new();
        for _ in 0..2 {
            // hf-hub takes a part up again only if it is shorter than the file.
            let part = blob.with_extension("part");
            if fs::metadata(&part).is_ok_and(|part| part.len() >= metadata.size() as u64) {
                fs::remove_file(&part).map_err(io(&part))?;
            }
            if !blob.exists() {
                let reporter = Reporter { report: &mut *report, file: file.to_owned(), done: 0, total: 0 };
                // What is half done then is the part of a file on disk, which the next download takes up.
                let download = AssertUnwindSafe(|| self.api.download_with_progress(file, reporter));
                match catch_unwind(download) {
                    Ok(result) => drop(result.map_err(|error| self.failure(&error, &what))?),
                    Err(cause) if cause.is::<Stopped>() => return Err(HubError::Interrupted),
                    Err(cause) => resume_unwind(cause),
                }
            } else {
                // Another revision has the same file: only the link is missing.
                link(&blob, &path, file).map_err(io(&path))?;
            }
            match check(&blob, metadata.etag(), metadata.size() as u64).map_err(io(&blob))? {
                None => return Ok(path),
                Some(wrong) => problem = wrong,
            }
            // What is wrong must not be found by the next run.
            fs::remove_file(&blob).map_err(io(&blob))?;
            fs::remove_file(&path).map_err(io(&path))?;
        }
        Err(HubError::Damaged { what, problem })
    }

    fn network(&self, problem: String, what: &str) -> HubError {
        HubError::Network { what: what.to_owned(), endpoint: self.endpoint(), problem }
    }

    /// What an error of the client means.
    fn failure(&self, error: &ApiError, what: &str) -> HubError {
        match error {
            ApiError::TooManyRetries(inner) => self.failure(inner, what),
            ApiError::RequestError(inner) => match **inner {
                ureq::Error::StatusCode(404) => HubError::NotFound { what: what.to_owned(), endpoint: self.endpoint() },
                ureq::Error::StatusCode(status @ (401 | 403)) => {
                    let advice = if self.hub.settings.token.is_some() {
                        "the token of HF_TOKEN is not accepted for it"
                    } else {
                        "set HF_TOKEN to a token of an account that may read it"
                    };
                    HubError::Denied { what: what.to_owned(), endpoint: self.endpoint(), status, advice }
                }
                _ => self.network(one_line(inner), what),
            },
            other => self.network(one_line(other), what),
        }
    }
}

/// The files below a folder, by their paths in it; None when there is no such folder.
fn collect(base: &Path, folder: &Path, names: &mut Vec<String>) -> Option<()> {
    for entry in fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(base, &path, names)?;
        } else if let Some(name) = path.strip_prefix(base).ok().and_then(Path::to_str) {
            names.push(name.replace(std::path::MAIN_SEPARATOR, "/"));
        }
    }
    Some(())
}

/// A foreign message, made fit to stand inside a sentence.
fn one_line(error: &dyn Display) -> String {
    super::error::printable(&error.to_string())
}
