//! The small files that git-lfs leaves in the place of large ones, where a repository was cloned without it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// How such a file begins.
const START: &[u8] = b"version https://git-lfs.github.com/spec/";

/// What is wrong with such a file, and what to do: a phrase for the messages of every reader.
pub const PROBLEM: &str =
    "it is a pointer of git-lfs and not the file itself: run `git lfs pull` where it comes from, or download the file";

/// Whether a file's content, or the beginning of it, is a pointer of git-lfs.
#[must_use]
pub fn is_pointer(content: &[u8]) -> bool {
    content.starts_with(START)
}

/// Whether there is such a file in the place of another. What cannot be read is none: its reader says why.
#[must_use]
pub fn is_pointer_at(path: &Path) -> bool {
    let mut start = Vec::new();
    File::open(path).and_then(|file| file.take(START.len() as u64).read_to_end(&mut start)).is_ok() && is_pointer(&start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_told_by_their_first_line() {
        assert!(is_pointer(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"));
        assert!(!is_pointer(b"version 2") && !is_pointer(b""));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        assert!(!is_pointer_at(&path));
        std::fs::write(&path, [START, b"v1\n"].concat()).unwrap();
        assert!(is_pointer_at(&path));
    }
}
