//! RandAugment ([Cubuk et al. 2019](https://arxiv.org/abs/1909.13719)): operations drawn at random, all of one magnitude.
//!
//! Operations, magnitudes and pixels are those of `torchvision.transforms.RandAugment` with 31 magnitudes, the nearest pixel and black
//! beyond the edge, on images of Pillow, as the reference has them. On tensors the same class of `torchvision` rounds otherwise.

mod operations;

use basin_volume_data::cifar::{FEATURES, SIDE};

use crate::checkpoint::RandAugment;
use basin_volume_data::random::{below, generator};

/// Marks the ChaCha key as belonging to RandAugment: its draws leave those of flips, cuts and depth as they are.
const KEY_TAG: &[u8; 24] = b"basin randaugment draws ";

/// Magnitudes go from 0 to this.
pub(super) const LARGEST_MAGNITUDE: usize = 30;

/// An image color by color, row by row.
pub(super) type Image = [u8; FEATURES];

/// One of the operations to draw from.
struct Operation {
    apply: fn(&mut Image, f64),
    strength: Strength,
}

/// What a magnitude means to an operation.
enum Strength {
    /// Nothing.
    None,
    /// A straight line from 0 to this, with a random sign.
    Signed(f32),
    /// A straight line from 255 to 0: the level from which on pixels are inverted.
    Level,
    /// From 8 to 4: the bits of a pixel that are kept.
    Bits,
}

impl Strength {
    /// The number that an operation is called with.
    fn at(&self, magnitude: usize, negative: bool) -> f64 {
        match self {
            Self::None => 0.0,
            Self::Signed(most) if negative => -line(0.0, *most, magnitude),
            Self::Signed(most) => line(0.0, *most, magnitude),
            Self::Level => line(255.0, 0.0, magnitude),
            Self::Bits => 8.0 - (magnitude as f64 / (LARGEST_MAGNITUDE as f64 / 4.0)).round(),
        }
    }
}

/// A point of `torch.linspace`, which goes from either end to the middle in single precision, by multiply-adds that are rounded once.
fn line(start: f32, end: f32, magnitude: usize) -> f64 {
    let step = f64::from((end - start) / LARGEST_MAGNITUDE as f32);
    let (below, above) = (magnitude as f64, (LARGEST_MAGNITUDE - magnitude) as f64);
    let value = if magnitude < LARGEST_MAGNITUDE / 2 { f64::from(start) + step * below } else { f64::from(end) - step * above };
    f64::from(value as f32)
}

/// Pixels that an image is moved by at most, as the share of a side that AutoAugment moved its images of 331 pixels by.
const LONGEST_MOVE: f32 = (150.0 / 331.0 * SIDE as f64) as f32;

/// The operations in the order of `torchvision`, nothing first.
static OPERATIONS: [Operation; 14] = [
    Operation { apply: |_, _| (), strength: Strength::None },
    Operation { apply: operations::shear_x, strength: Strength::Signed(0.3) },
    Operation { apply: operations::shear_y, strength: Strength::Signed(0.3) },
    Operation { apply: operations::translate_x, strength: Strength::Signed(LONGEST_MOVE) },
    Operation { apply: operations::translate_y, strength: Strength::Signed(LONGEST_MOVE) },
    Operation { apply: operations::rotate, strength: Strength::Signed(30.0) },
    Operation { apply: operations::brightness, strength: Strength::Signed(0.9) },
    Operation { apply: operations::color, strength: Strength::Signed(0.9) },
    Operation { apply: operations::contrast, strength: Strength::Signed(0.9) },
    Operation { apply: operations::sharpness, strength: Strength::Signed(0.9) },
    Operation { apply: operations::posterize, strength: Strength::Bits },
    Operation { apply: operations::solarize, strength: Strength::Level },
    Operation { apply: operations::auto_contrast, strength: Strength::None },
    Operation { apply: operations::equalize, strength: Strength::None },
];

/// One draw.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Drawn {
    /// Place in [`OPERATIONS`].
    operation: usize,
    /// Drawn for all, although some operations have no sign.
    negative: bool,
}

/// The operations drawn for the images of a step.
pub(super) struct Operations {
    settings: RandAugment,
    /// Image by image.
    drawn: Vec<Drawn>,
}

impl Operations {
    /// A function of its arguments alone.
    pub(super) fn draw(settings: RandAugment, seed: u64, step: usize, images: usize) -> Self {
        let mut rng = generator(KEY_TAG, seed, step as u64);
        let draw = |_| Drawn { operation: below(&mut rng, OPERATIONS.len() as u64), negative: below(&mut rng, 2) == 1 };
        Self { settings, drawn: (0..images * settings.operations).map(draw).collect() }
    }

    /// Changes the image at a place of the step.
    pub(super) fn apply(&self, place: usize, image: &mut Image) {
        let RandAugment { operations, magnitude } = self.settings;
        for drawn in &self.drawn[place * operations..(place + 1) * operations] {
            let Operation { apply, strength } = &OPERATIONS[drawn.operation];
            apply(image, strength.at(magnitude, drawn.negative));
        }
    }
}

#[cfg(test)]
mod tests;
