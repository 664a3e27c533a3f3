//! Models, tokenizers and data sets of the Hugging Face hub.

use std::path::{Path, PathBuf};

use basin_volume_models::weights::{Hub, HubError, HubSettings, Report};
use serde::Serialize;

use crate::data::split::{self, Choice};
use crate::error::Error;
use crate::events::Event;
use crate::session::Session;

/// Models that the hub knows without an owner, and who owns them now.
const LEGACY: &[(&str, &str)] = &[
    ("gpt2", "openai-community/gpt2"),
    ("gpt2-medium", "openai-community/gpt2-medium"),
    ("gpt2-large", "openai-community/gpt2-large"),
    ("gpt2-xl", "openai-community/gpt2-xl"),
    ("distilgpt2", "distilbert/distilgpt2"),
];

/// Extensions that say "file": a missing one is not looked for on the hub.
const FILES: &[&str] = &["gguf", "safetensors", "bin", "json", "jsonl", "csv", "parquet", "txt"];

/// Where on the hub something came from.
#[derive(Debug, Clone, Serialize)]
pub struct Origin {
    /// `owner/name`.
    pub id: String,
    /// Branch, tag or commit that was asked for.
    pub revision: String,
    /// The commit that it was.
    pub commit: String,
}

impl Origin {
    fn new(id: &str, commit: &str) -> Self {
        let (id, revision) = id.split_once('@').unwrap_or((id, "main"));
        Self { id: id.to_owned(), revision: revision.to_owned(), commit: commit.to_owned() }
    }
}

/// The id, if a text can be one: `owner/name`, possibly with `@revision`.
pub(crate) fn id(text: &str) -> Option<String> {
    let name = text.split_once('@').map_or(text, |(name, _)| name);
    let (owner, rest) = name.split_once('/')?;
    let plain =
        |part: &str| !part.starts_with(['.', '~']) && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte));
    let is_file = Path::new(name).extension().is_some_and(|extension| FILES.iter().any(|known| extension.eq_ignore_ascii_case(known)));
    (!owner.is_empty() && !rest.is_empty() && plain(owner) && plain(rest) && !is_file).then(|| text.to_owned())
}

/// The id of a model: also one of the few without an owner.
pub(crate) fn model_id(text: &str) -> Option<String> {
    let (name, revision) = text.split_once('@').map_or((text, None), |(name, revision)| (name, Some(revision)));
    let owned = LEGACY.iter().find(|(legacy, _)| *legacy == name).map(|(_, owned)| *owned);
    match (owned, revision) {
        (Some(owned), Some(revision)) => Some(format!("{owned}@{revision}")),
        (Some(owned), None) => Some(owned.to_owned()),
        (None, _) => id(text),
    }
}

/// The name without its owner, fit for a folder: `pythia-14m@step1000`.
pub(crate) fn short_name(id: &str) -> String {
    let (name, revision) = id.split_once('@').map_or((id, None), |(name, revision)| (name, Some(revision)));
    let name = name.rsplit('/').next().unwrap_or(name);
    match revision {
        Some(revision) => format!("{name}@{}", revision.replace('/', "-")),
        None => name.to_owned(),
    }
}

fn client() -> Hub {
    Hub::new(HubSettings::from_env())
}

/// An error of the hub; where the hub may not have been meant, that no such path exists either.
fn failure(text: &str, error: HubError) -> Error {
    match error {
        HubError::NotFound { .. } | HubError::Denied { .. } | HubError::Offline { .. } | HubError::Network { .. } => {
            Error::failed(format!("there is no file or folder {text}, and {error}"))
        }
        HubError::Id { .. } => Error::usage(format!("there is no file or folder {text}, and {error}")),
        other => other.into(),
    }
}

/// The commit of a file or folder in the cache: the name of its snapshot.
fn commit(folder: &Path) -> String {
    folder.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// Downloads with what arrives told, and ended when that is asked for: a part of a file is taken up again by the next download.
fn download<T>(session: &Session, get: impl FnOnce(Report<'_>) -> Result<T, HubError>) -> Result<T, HubError> {
    let result = get(&mut |file, done, total| {
        session.tell(&Event::Download { file, done: done as u64, total: total as u64 });
        !session.interrupt.is_raised()
    });
    session.tell(&Event::Done);
    if matches!(result, Err(HubError::Interrupted)) {
        session.note("Interrupted: the same command takes the download up again.");
    }
    result
}

/// The local folder of a model.
pub(crate) fn model(text: &str, id: &str, session: &Session) -> Result<(PathBuf, Origin), Error> {
    base(id, session).map_err(|error| failure(text, error))
}

/// The local folder of a model that another one names: no file of this machine was meant.
pub(crate) fn base(id: &str, session: &Session) -> Result<(PathBuf, Origin), HubError> {
    let folder = download(session, |report| client().model(id, report))?;
    let origin = Origin::new(id, &commit(&folder));
    Ok((folder, origin))
}

/// Fetches the optimizer's state that a model of the hub has beside its weights, into the same folder. Whether there is one.
pub(crate) fn optimizer(origin: &Origin, session: &Session) -> Result<bool, Error> {
    // The state of the weights that are measured, though the revision may have moved on.
    let id = format!("{}@{}", origin.id, origin.commit);
    Ok(download(session, |report| client().optimizer(&id, report))?.is_some())
}

/// The local folder of a model's tokenizer.
pub(crate) fn tokenizer(text: &str, id: &str, session: &Session) -> Result<PathBuf, Error> {
    download(session, |report| client().tokenizer(id, report)).map_err(|error| failure(text, error))
}

/// The chosen files of a data set.
#[derive(Debug)]
pub(crate) struct DataFiles {
    /// In the order in which they are read.
    pub files: Vec<PathBuf>,
    /// How they were chosen.
    pub choice: Choice,
    /// Where they are from.
    pub origin: Origin,
}

/// The files of a data set that these configurations and splits choose.
pub(crate) fn dataset(id: &str, configs: &[String], splits: &[String], session: &Session) -> Result<DataFiles, Error> {
    let client = client();
    let found = client.dataset(id).map_err(|error| failure(id, error))?;
    let choice = split::choose(id, found.names(), configs, splits)?;
    let files = download(session, |report| choice.names.iter().map(|name| found.get(name, &mut *report)).collect());
    let files = files.map_err(|error| failure(id, error))?;
    Ok(DataFiles { files, choice, origin: Origin::new(id, found.commit()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_paths() {
        for text in ["EleutherAI/pythia-14m", "a/b@step1000", "a/b@refs/pr/1", "HuggingFaceTB/SmolLM2-135M", "a/b-1.5", "a/model.v2"] {
            assert_eq!(id(text).as_deref(), Some(text));
        }
        for text in ["", "gpt2", "a/b/c", "./a", "../a", "/a", "~/a", "a/", "/b", "a b/c", "a/b.gguf", "data/x.JSONL", "a\\b/c"] {
            assert_eq!(id(text), None, "{text}");
        }
        assert_eq!(model_id("gpt2@v1").as_deref(), Some("openai-community/gpt2@v1"));
        assert_eq!(model_id("distilgpt2").as_deref(), Some("distilbert/distilgpt2"));
        assert_eq!(model_id("no-such-model"), None);
    }

    #[test]
    fn names_are_fit_for_folders() {
        assert_eq!(short_name("EleutherAI/pythia-14m@step1000"), "pythia-14m@step1000");
        assert_eq!(short_name("a/b@refs/pr/1"), "b@refs-pr-1");
        assert_eq!(short_name("gpt2"), "gpt2");
    }
}
