//! Why files could not be had from the hub.

use std::path::PathBuf;

/// Why files could not be had from the hub. Every message is one sentence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The id is not `owner/name[@revision]`.
    #[error("`{id}` is not the id of a repository: expected owner/name or owner/name@revision")]
    Id {
        /// The given id.
        id: String,
    },
    /// The repository, revision or file does not exist.
    #[error("{what} does not exist on {endpoint}: check the spelling and the revision")]
    NotFound {
        /// The repository at its revision, or the file.
        what: String,
        /// The hub.
        endpoint: String,
    },
    /// The hub wants to know who asks.
    #[error("{endpoint} refuses access to {what} ({status}): it is private, gated or absent; {advice}")]
    Denied {
        /// The repository at its revision, or the file.
        what: String,
        /// The hub.
        endpoint: String,
        /// The HTTP status.
        status: u16,
        /// What to do about the token.
        advice: &'static str,
    },
    /// Work without a network was asked for.
    #[error("{what} is not in the cache {}, and HF_HUB_OFFLINE forbids to download it", cache.display())]
    Offline {
        /// The repository at its revision, or the file.
        what: String,
        /// The cache's folder.
        cache: PathBuf,
    },
    /// The hub could not be reached, or broke off.
    #[error("{what} could not be downloaded from {endpoint}: {problem}")]
    Network {
        /// The repository at its revision, or the file.
        what: String,
        /// The hub.
        endpoint: String,
        /// What happened.
        problem: String,
    },
    /// What arrived is not what the hub announced.
    #[error("{what} arrived damaged twice: {problem}")]
    Damaged {
        /// The file.
        what: String,
        /// Size or hash, and what was expected.
        problem: String,
    },
    /// The repository has no files of the wanted kind.
    #[error("{what} has no {wanted}")]
    Lacks {
        /// The repository at its revision.
        what: String,
        /// What was looked for.
        wanted: &'static str,
    },
    /// Whoever asked for a file told the download to stop; what has arrived is kept, and taken up by the next.
    #[error("the download was interrupted")]
    Interrupted,
    /// A file of the cache could not be read or written.
    #[error("cannot read or write {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error underneath.
        #[source]
        source: std::io::Error,
    },
}
