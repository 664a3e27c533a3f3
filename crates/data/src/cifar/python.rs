//! The python format: a pickled dictionary with `data`, an array of bytes `[images, 3072]`, and `labels`, integers in a list or an array.

use std::borrow::Cow;
use std::path::Path;

use super::{COLORS, FEATURES, Images, SIDE, fault};
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
    let (colors, side) = (COLORS as i64, SIDE as i64);
    let count = match array.shape[..] {
        [count, features] if features == FEATURES as i64 => count as usize,
        // The same images by color, row and column.
        [count, c, h, w] if [c, h, w] == [colors, side, side] && !array.is_fortran => count as usize,
        _ => 0,
    };
    if count == 0 || (array.element.kind, array.element.size) != ('u', 1) {
        let (shape, element) = (&array.shape, array.element);
        let found = format!("its `data` has the shape {shape:?} and the type `{}{}`", element.kind, element.size);
        return Err(fault(path, format!("{found}: expected [images, {FEATURES}] and `u1`, one byte each")));
    }
    let mut pixels = Cow::Borrowed(pickle.elements(array));
    if array.is_fortran {
        pixels = (0..count).flat_map(|image| (0..FEATURES).map(move |place| place * count + image)).map(|place| pixels[place]).collect();
    }
    let labels = pickle
        .integers(entry("labels")?)
        .map_err(|found| fault(path, format!("its `labels` are or hold {}: expected a list or an array of integers", kind(found))))?;
    if labels.len() != count {
        return Err(fault(path, format!("it has {} labels for {count} images", labels.len())));
    }
    let mut images = Images::default();
    for (label, pixels) in labels.into_iter().zip(pixels.chunks_exact(FEATURES)) {
        images.push(path, u8::try_from(label).unwrap_or(u8::MAX), pixels)?;
    }
    Ok(images)
}
