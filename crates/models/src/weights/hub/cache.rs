//! The cache that the hub's tools share: `refs` tell the commit of a revision, `snapshots` hold a commit's files as links to `blobs`.

use std::fs::{self, File, TryLockError};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::address::Kind;

/// Between two looks at a lock that another process holds.
const LOOK: Duration = Duration::from_millis(100);

/// The folder of one repository.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    cache: PathBuf,
    name: String,
}

/// A lock, held until it is dropped. The file stays, for the next.
#[derive(Debug)]
pub(super) struct Lock(Option<File>);

impl Folder {
    pub(super) fn new(cache: &Path, kind: Kind, repository: &str) -> Self {
        Self { cache: cache.to_owned(), name: format!("{}--{}", kind.plural(), repository.replace('/', "--")) }
    }

    fn path(&self) -> PathBuf {
        self.cache.join(&self.name)
    }

    /// The files of a commit.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.path().join("snapshots").join(commit)
    }

    /// The content of a tag.
    pub(super) fn blob(&self, tag: &str) -> PathBuf {
        self.path().join("blobs").join(tag)
    }

    /// The commit that a revision was when it was last asked for.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        let text = fs::read_to_string(self.path().join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_safe_name(commit))
    }

    /// Notes the commit of a revision. What cannot be noted is found again with a network: a cache that may not be written is no failure.
    pub(super) fn note(&self, revision: &str, commit: &str) {
        // A commit needs no note of what it is.
        if revision == commit || self.commit(revision).is_some_and(|noted| noted == commit) {
            return;
        }
        let path = self.path().join("refs").join(revision);
        let folder = path.parent().unwrap_or(&path);
        let written = fs::create_dir_all(folder).and_then(|()| tempfile::NamedTempFile::new_in(folder)).and_then(|file| {
            fs::write(file.path(), commit)?;
            make_ordinary(file.path())?;
            file.persist(&path).map_err(|error| error.error)
        });
        _ = written;
    }

    /// The names of the files of a commit; None when there is no such snapshot.
    pub(super) fn names(&self, commit: &str) -> Option<Vec<String>> {
        let snapshot = self.snapshot(commit);
        let mut names = Vec::new();
        collect(&snapshot, &snapshot, &mut names)?;
        Some(names)
    }

    /// Waits until no other process downloads this content, as long as `go_on` says. None when it says no.
    ///
    /// On a file system without locks there is no waiting: what two processes download at once is checked, and one of both is kept.
    pub(super) fn lock(&self, tag: &str, go_on: &mut dyn FnMut() -> bool) -> Option<Lock> {
        let folder = self.cache.join(".locks").join(&self.name);
        let open = || {
            fs::create_dir_all(&folder)?;
            File::options().create(true).truncate(false).write(true).open(folder.join(format!("{tag}.lock")))
        };
        let Ok(file) = open() else { return Some(Lock(None)) };
        loop {
            match file.try_lock() {
                Ok(()) => return Some(Lock(Some(file))),
                Err(TryLockError::Error(_)) => return Some(Lock(None)),
                Err(TryLockError::WouldBlock) if !go_on() => return None,
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(file) = &self.0 {
            // Closing the file would do as well.
            _ = file.unlock();
        }
    }
}

/// A temporary file is private to its owner; a file of a cache that may be shared is an ordinary one.
#[cfg(unix)]
fn make_ordinary(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn make_ordinary(_path: &Path) -> std::io::Result<()> {
    Ok(())
}

/// Puts a blob of the cache under the name of a file: a relative link, as the hub's other tools make, so that the cache can be moved. Where
/// links cannot be made (some network and removable drives), a copy.
pub(super) fn link(blob: &Path, path: &Path, file: &str) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match symbolic_link(blob, path, file) {
        Ok(()) => Ok(()),
        // Another process was here first.
        Err(_) if path.exists() => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            // A link to a blob that is gone is in the way.
            fs::remove_file(path)?;
            symbolic_link(blob, path, file)
        }
        Err(_) => fs::copy(blob, path).map(|_| ()),
    }
}

#[cfg(unix)]
fn symbolic_link(blob: &Path, path: &Path, file: &str) -> std::io::Result<()> {
    // From snapshots/<commit>/<file> up to the folder of the repository.
    let up = "../".repeat(1 + Path::new(file).components().count());
    let name = blob.file_name().unwrap_or_default().to_string_lossy();
    std::os::unix::fs::symlink(format!("{up}blobs/{name}"), path)
}

#[cfg(not(unix))]
fn symbolic_link(_blob: &Path, _path: &Path, _file: &str) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Whether a hub's text may become a path in the cache's folder.
pub(super) fn is_safe_path(name: &str) -> bool {
    let path = Path::new(name);
    !name.is_empty() && !name.contains(['\\', '\0', ':']) && path.components().all(|component| matches!(component, Component::Normal(_)))
}

/// Whether a hub's text may become one name in the cache's folder.
pub(super) fn is_safe_name(name: &str) -> bool {
    is_safe_path(name) && !name.contains('/')
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_has_the_folders_of_the_hubs_own_tools() {
        let folder = Folder::new(Path::new("/c"), Kind::DataSet, "o/d");
        assert_eq!(folder.snapshot("abc"), Path::new("/c/datasets--o--d/snapshots/abc"));
        assert_eq!(folder.blob("tag"), Path::new("/c/datasets--o--d/blobs/tag"));
        assert_eq!(Folder::new(Path::new("/c"), Kind::Model, "gpt2").path(), Path::new("/c/models--gpt2"));
    }

    #[test]
    fn revisions_are_noted_and_commits_are_not() {
        let cache = tempfile::tempdir().unwrap();
        let folder = Folder::new(cache.path(), Kind::Model, "o/m");
        assert_eq!(folder.commit("refs/pr/1"), None);
        folder.note("refs/pr/1", "abc");
        folder.note("abc", "abc");
        assert_eq!(folder.commit("refs/pr/1").as_deref(), Some("abc"));
        assert_eq!(fs::read_to_string(cache.path().join("models--o--m/refs/refs/pr/1")).unwrap(), "abc");
        assert!(!cache.path().join("models--o--m/refs/abc").exists());
        // Whoever may write into the cache may not lead out of it.
        fs::write(cache.path().join("models--o--m/refs/main"), "../../..").unwrap();
        assert_eq!(folder.commit("main"), None);
    }

    #[test]
    fn a_lock_is_waited_for_as_long_as_one_likes() {
        let cache = tempfile::tempdir().unwrap();
        let folder = Folder::new(cache.path(), Kind::Model, "o/m");
        let held = folder.lock("tag", &mut || true).unwrap();
        let mut looks = 0;
        let waited = folder.lock("tag", &mut || {
            looks += 1;
            looks < 3
        });
        assert!(waited.is_none() && looks == 3);
        assert!(folder.lock("other", &mut || false).is_some(), "another content has another lock");
        drop(held);
        assert!(folder.lock("tag", &mut || false).is_some());
        assert!(cache.path().join(".locks/models--o--m/tag.lock").exists(), "where the hub's own tools lock");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_nothing_is_replaced() {
        let cache = tempfile::tempdir().unwrap();
        let folder = Folder::new(cache.path(), Kind::Model, "o/m");
        let (blob, path) = (folder.blob("tag"), folder.snapshot("abc").join("sub/f"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        fs::create_dir_all(blob.parent().unwrap()).unwrap();
        fs::write(&blob, "x").unwrap();
        link(&blob, &path, "sub/f").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "x");
        assert!(fs::read_link(&path).unwrap().is_relative());
        link(&blob, &path, "sub/f").unwrap();
        assert_eq!(folder.names("abc"), Some(vec!["sub/f".to_owned()]));
    }
}
