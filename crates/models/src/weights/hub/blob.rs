//! The check of what arrived.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// None when a file has the size and the hash that its tag tells: SHA-256 of large files, git's hash of small ones. Other tags tell
/// nothing, and some servers tell no size.
pub(super) fn check(path: &Path, tag: &str, size: Option<u64>) -> std::io::Result<Option<String>> {
    let length = fs::metadata(path)?.len();
    if let Some(size) = size.filter(|&size| size != length) {
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
