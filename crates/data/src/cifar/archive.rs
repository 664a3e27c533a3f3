//! Both formats in their archives, `cifar-10-binary.tar.gz` and `cifar-10-python.tar.gz`.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use flate2::read::GzDecoder;

use super::{Images, batch, fault, io, join, read_batch, refuse_pointer};
use crate::error::DataError;

/// The largest file of an archive, a batch of 10,000 images, has 31 MB.
const LARGEST: u64 = 256 << 20;

pub(super) fn read(path: &Path) -> Result<(Images, Images), DataError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    if !name.ends_with(".tar.gz") && !name.ends_with(".tgz") {
        return Err(fault(path, "it is neither a folder nor a .tar.gz archive"));
    }
    refuse_pointer(path)?;
    let file = File::open(path).map_err(|source| io(path, source))?;
    let broken = |error: std::io::Error| fault(path, format!("the archive is truncated or damaged ({error})"));
    let mut archive = tar::Archive::new(GzDecoder::new(BufReader::new(file)));
    let mut batches = Vec::new();
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let inner = entry.path().map_err(broken)?.into_owned();
        let Some(found) = inner.file_name().and_then(batch) else { continue };
        if entry.size() > LARGEST {
            return Err(fault(path, format!("its file {} is {} bytes long: a batch is far shorter", inner.display(), entry.size())));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(broken)?;
        if bytes.len() as u64 != entry.size() {
            return Err(fault(path, "the archive is truncated"));
        }
        batches.push((found, read_batch(&path.join(&inner), found, &bytes)?));
    }
    // To the end, where the check sum stands: the end of the files comes earlier.
    std::io::copy(&mut archive.into_inner(), &mut std::io::sink()).map_err(broken)?;
    if batches.is_empty() {
        return Err(fault(path, "the archive has no batches of CIFAR-10"));
    }
    join(path, batches)
}
