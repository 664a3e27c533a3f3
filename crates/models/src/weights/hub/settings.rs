//! Where the hub and its cache are.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use super::ENDPOINT;

/// Where to look and how.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HubSettings {
    /// The hub's address, without a slash at its end.
    pub endpoint: String,
    /// The folder of the cache (`.../hub`).
    pub cache: PathBuf,
    /// The token of the user's account.
    pub token: Option<String>,
    /// Use the cache only.
    pub offline: bool,
    /// How often a broken download is taken up again.
    pub retries: usize,
}

impl HubSettings {
    /// The public hub with the given cache folder, and no token.
    #[must_use]
    pub fn new(cache: PathBuf) -> Self {
        Self { endpoint: ENDPOINT.to_owned(), cache, token: None, offline: false, retries: 3 }
    }

    /// The settings that the hub's other tools take from the environment: `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME`,
    /// `HF_TOKEN` (or the file that a login leaves), `HF_HUB_OFFLINE`.
    #[must_use]
    pub fn from_env() -> Self {
        Self::from_variables(&|name| std::env::var_os(name))
    }

    /// As [`HubSettings::from_env`], with the variables from a function.
    #[must_use]
    pub fn from_variables(variable: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &str| set(name).map(|value| value.to_string_lossy().trim().to_owned()).filter(|value| !value.is_empty());
        // What no shell has expanded, of a job script or a service's file, the hub's own tools expand.
        let path = |name: &str| set(name).map(|value| expanded(value, variable));
        let home = path("HF_HOME").unwrap_or_else(|| {
            let cache = path("XDG_CACHE_HOME");
            cache.or_else(|| Some(dirs::home_dir()?.join(".cache"))).unwrap_or_default().join("huggingface")
        });
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).unwrap_or_else(|| home.join("hub"));
        let token = text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")).or_else(|| {
            let path = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
            Some(fs::read_to_string(path).ok()?.trim().to_owned()).filter(|token| !token.is_empty())
        });
        let offline = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]
            .iter()
            .any(|name| text(name).is_some_and(|value| ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str())));
        let endpoint = text("HF_ENDPOINT").map_or_else(|| ENDPOINT.to_owned(), |value| value.trim_end_matches('/').to_owned());
        Self { endpoint, token, offline, ..Self::new(cache) }
    }
}

/// A path with `~`, `$NAME` and `${NAME}` replaced; what is not known stays, and so does a path that is not UTF-8.
fn expanded(path: OsString, variable: &dyn Fn(&str) -> Option<OsString>) -> PathBuf {
    let home = || variable("HOME").or_else(|| dirs::home_dir().map(PathBuf::into_os_string)).and_then(|home| home.into_string().ok());
    match path.into_string() {
        Ok(text) => {
            let known = |name: &str| variable(name).and_then(|value| value.into_string().ok());
            PathBuf::from(shellexpand::full_with_context_no_errors(&text, home, known).into_owned())
        }
        Err(path) => PathBuf::from(path),
    }
}
