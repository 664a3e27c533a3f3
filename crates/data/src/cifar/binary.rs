//! The binary format: per image a byte of the label and 3072 of the pixels.

use std::path::Path;

use super::{FEATURES, Images, fault};
use crate::error::DataError;

/// Bytes of an image.
const RECORD: usize = 1 + FEATURES;

pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<Images, DataError> {
    if bytes.is_empty() || !bytes.len().is_multiple_of(RECORD) {
        let length = bytes.len();
        return Err(fault(path, format!("it has {length} bytes, which are not whole images of {RECORD}: it is truncated, or no CIFAR-10")));
    }
    let mut images = Images::default();
    for record in bytes.chunks_exact(RECORD) {
        images.push(path, record[0], &record[1..])?;
    }
    Ok(images)
}

/// The bytes of some images.
pub(super) fn write(images: &Images) -> Vec<u8> {
    images.labels.iter().zip(images.pixels.chunks_exact(FEATURES)).flat_map(|(&label, pixels)| [&[label], pixels].concat()).collect()
}
