//! The python format: a pickled dictionary with `data`, an array of bytes `[images, 3072]`, and `labels`, a list of integers.

use std::path::Path;

use super::{FEATURES, Images, fault};
use crate::error::DataError;
use crate::pickle::{self, Purpose, Value, kind};

pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<Images, DataError> {
    let pickle = pickle::read(bytes, Purpose::Arrays).map_err(|problem| fault(path, problem))?;
    let entry = |name: &str| {
        let found = pickle.get(pickle.root, name);
        found.ok_or_else(|| fault(path, format!("it is {} without an entry `{name}`: a batch of CIFAR-10 has one", kind(pickle.root))))
    };
    let Value::Array(array) = entry("data")? else {
        return Err(fault(path, format!("its `data` is {}: expected an array of bytes", kind(entry("data")?))));
    };
    let array = &pickle.arrays[array];
    let count = array.bytes.len() / FEATURES;
    if count == 0 || array.shape != [count as i64, FEATURES as i64] || array.bytes.len() != count * FEATURES {
        let (shape, length) = (&array.shape, array.bytes.len());
        return Err(fault(
            path,
            format!("its `data` has the shape {shape:?} and {length} bytes: expected [images, {FEATURES}] and one byte each"),
        ));
    }
    let labels = pickle.items(entry("labels")?).unwrap_or_default();
    if labels.len() != count {
        return Err(fault(path, format!("it has {} labels for {count} images", labels.len())));
    }
    let mut images = Images::default();
    for (&label, pixels) in labels.iter().zip(array.bytes.chunks_exact(FEATURES)) {
        let Value::Int(label) = label else {
            return Err(fault(path, format!("a label is {}: expected an integer", kind(label))));
        };
        images.push(path, u8::try_from(label).unwrap_or(u8::MAX), pixels)?;
    }
    Ok(images)
}
