//! Files of the cache: links to blobs, and the check of what arrived.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Puts a blob of the cache under the name of a file: a relative link, as the hub's other tools make, so that the cache can be moved.
#[cfg(unix)]
pub(super) fn link(blob: &Path, path: &Path, file: &str) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    // From snapshots/<commit>/<file> up to the folder of the repository.
    let up = "../".repeat(1 + Path::new(file).components().count());
    let name = blob.file_name().unwrap_or_default().to_string_lossy();
    std::os::unix::fs::symlink(format!("{up}blobs/{name}"), path)
}

#[cfg(not(unix))]
pub(super) fn link(blob: &Path, path: &Path, _file: &str) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::copy(blob, path).map(|_| ())
}

/// None when a file has the size and the hash that its tag tells: SHA-256 of large files, git's hash of small ones. Other tags tell
/// nothing.
pub(super) fn check(path: &Path, tag: &str, size: u64) -> std::io::Result<Option<String>> {
    let length = fs::metadata(path)?.len();
    if length != size {
        return Ok(Some(format!("it has {length} bytes, but the hub announced {size}")));
    }
    let hexadecimal = tag.bytes().all(|byte| byte.is_ascii_hexdigit());
    let hash = match tag.len() {
        64 if hexadecimal => digest(path, Sha256::new())?,
        40 if hexadecimal => {
            let mut hasher = Sha1::new();
            hasher.update(format!("blob {length}\0"));
            digest(path, hasher)?
        }
        _ => return Ok(None),
    };
    Ok((hash != tag.to_lowercase()).then(|| format!("its hash is {hash}, but the hub announced {tag}")))
}

fn digest(path: &Path, mut hasher: impl Digest) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    Ok(basin_volume_data::hexadecimal(&hasher.finalize()))
}
