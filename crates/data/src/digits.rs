//! The scikit-learn digits: 1797 grey images of 8 x 8 pixels with values 0..16, labels 0..9.
//!
//! Source: the test part of "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak, UCI Machine Learning Repository
//! (<https://doi.org/10.24432/C50P49>), licensed CC BY 4.0, as packaged by scikit-learn. Embedded unchanged as bytes by
//! `scripts/fixtures/digits.py`.

use crate::dataset::{Dataset, Split};
use crate::error::DataError;
use crate::shuffle::permutation;

/// Number of images.
pub const ROWS: usize = 1797;

/// Pixels per image.
pub const FEATURES: usize = 64;

/// Number of classes.
pub const CLASSES: usize = 10;

/// Training images of the reference's split.
pub const TRAIN_ROWS: usize = 1024;

/// Pixels, row-major, then labels.
static BYTES: &[u8; ROWS * (FEATURES + 1)] = include_bytes!("../assets/digits.bin");

/// All images in their original order, inputs divided by 16 (so 0..1, exactly representable).
#[must_use]
pub fn all() -> Dataset {
    let (pixels, labels) = BYTES.split_at(ROWS * FEATURES);
    let inputs = pixels.iter().map(|&pixel| f32::from(pixel) / 16.0).collect();
    let labels = labels.iter().map(|&label| u32::from(label)).collect();
    Dataset::new("digits", FEATURES, inputs, Some(labels)).expect("the embedded digits are checked by a test")
}

/// The seeded split: the first `train_rows` images of the permutation number `seed` ([`permutation`], stream 0) to train on, the
/// others to test on. The usual `train_rows` is [`TRAIN_ROWS`].
///
/// # Errors
/// When one side would be empty.
pub fn split(seed: u64, train_rows: usize) -> Result<Split, DataError> {
    if train_rows == 0 || train_rows >= ROWS {
        return Err(DataError::Split { train: train_rows, rows: ROWS });
    }
    let all = all();
    let order = permutation(seed, 0, ROWS);
    let (train, test) = order.split_at(train_rows);
    Ok(Split { train: all.select(train)?, test: all.select(test)? })
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn the_embedded_file_is_the_one_the_script_wrote() {
        let digest: String = Sha256::digest(BYTES).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826");
    }

    #[test]
    fn counts_and_values_are_those_of_the_documentation() {
        let all = all();
        assert_eq!((all.rows(), all.features()), (1797, 64));
        // Images per class as printed in scikit-learn's and UCI's description.
        let mut counts = [0; CLASSES];
        for &label in all.labels().unwrap() {
            counts[label as usize] += 1;
        }
        assert_eq!(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
        // First row of the first image (a zero): 0 0 5 13 9 1 0 0.
        assert_eq!(all.inputs()[..8], [0.0, 0.0, 0.3125, 0.8125, 0.5625, 0.0625, 0.0, 0.0]);
        assert!(all.inputs().iter().all(|&value| (0.0..=1.0).contains(&value)));
    }

    #[test]
    fn a_split_uses_every_image_once() {
        let split = split(42, TRAIN_ROWS).unwrap();
        assert_eq!((split.train.rows(), split.test.rows()), (1024, 773));
        let mut rows: Vec<usize> = split.train.order().iter().chain(split.test.order()).copied().collect();
        rows.sort_unstable();
        assert_eq!(rows, (0..ROWS).collect::<Vec<_>>());
        let all = all();
        let row = split.train.order()[5];
        assert_eq!(split.train.inputs()[5 * FEATURES..6 * FEATURES], all.inputs()[row * FEATURES..(row + 1) * FEATURES]);
        assert_eq!(split.train.labels().unwrap()[5], all.labels().unwrap()[row]);
    }

    #[test]
    fn an_empty_side_is_refused() {
        for train_rows in [0, ROWS, ROWS + 1] {
            assert!(split(0, train_rows).unwrap_err().to_string().contains("between 1 and 1796"));
        }
    }
}
