//! A generated set: textured shapes on textured grounds, in ten classes.
//!
//! The class is one of five shapes (disk, square, triangle, cross, ring) and one of two textures inside it (stripes that stand or lie; mirrored,
//! an image stays in its class). Place, size, turn, colors, the width and phase of the stripes, the ground and the noise are random. Because
//! the phase is, no sum over pixels tells the texture: a linear classifier can be right for half of the images at most.

use std::fs;
use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use super::{CLASSES, COLORS, FEATURES, Images, SIDE, binary, fault, io};
use crate::error::DataError;
use crate::random::generator;

/// Marks the ChaCha key as belonging to generated images, so that other uses of the same seed draw other numbers.
const KEY_TAG: &[u8; 24] = b"basin synthetic images  ";

/// Files of images to train on.
const BATCHES: usize = 5;

/// Names of the classes.
const NAMES: [&str; CLASSES] = [
    "disk standing",
    "disk lying",
    "square standing",
    "square lying",
    "triangle standing",
    "triangle lying",
    "cross standing",
    "cross lying",
    "ring standing",
    "ring lying",
];

/// `count` images from the number `first` on: image `i` is a pure function of the seed and `i`, its class `i mod 10`.
#[must_use]
pub fn images(seed: u64, first: usize, count: usize) -> Images {
    let mut images = Images::default();
    for number in first..first + count {
        let class = number % CLASSES;
        images.labels.push(class as u8);
        images.pixels.extend_from_slice(&draw(seed, number as u64, class));
    }
    images
}

/// Writes a set in the binary format of CIFAR-10 into the folder `out`, which must not exist: five files to train on, one to test on, and the
/// names of the classes.
///
/// # Errors
/// When there are fewer than 10 images of either kind, or the folder exists or cannot be written.
pub fn write(out: &Path, seed: u64, train: usize, test: usize) -> Result<(), DataError> {
    for (count, what) in [(train, "to train on"), (test, "to test on")] {
        if !(CLASSES..=1 << 24).contains(&count) {
            return Err(fault(
                out,
                format!("{count} images {what} were asked for: expected from {CLASSES} to 2^24, at least one per class"),
            ));
        }
    }
    if out.exists() {
        return Err(fault(out, "it exists already: choose another folder, or remove it first"));
    }
    fs::create_dir_all(out).map_err(|source| io(out, source))?;
    let save = |name: &str, bytes: &[u8]| {
        let path = out.join(name);
        fs::write(&path, bytes).map_err(|source| io(&path, source))
    };
    for batch in 0..BATCHES {
        let (start, end) = (batch * train / BATCHES, (batch + 1) * train / BATCHES);
        save(&format!("data_batch_{}.bin", batch + 1), &binary::write(&images(seed, start, end - start)))?;
    }
    save("test_batch.bin", &binary::write(&images(seed, train, test)))?;
    save("batches.meta.txt", (NAMES.join("\n") + "\n").as_bytes())
}

/// Numbers of one image.
struct Dice(ChaCha8Rng);

impl Dice {
    /// Uniform in `[low, high)`.
    fn uniform(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * (self.0.next_u32() >> 8) as f32 / (1 << 24) as f32
    }
}

/// How far inside the shape a point is, in units of its size; negative outside.
fn inside(shape: usize, x: f32, y: f32) -> f32 {
    let radius = (x * x + y * y).sqrt();
    match shape {
        0 => 1.0 - radius,
        1 => 0.85 - x.abs().max(y.abs()),
        // Three half-planes at equal angles.
        2 => {
            let side = |angle: f32| 0.55 - (x * angle.cos() + y * angle.sin());
            side(std::f32::consts::FRAC_PI_2)
                .min(side(std::f32::consts::FRAC_PI_2 + 2.094_395))
                .min(side(std::f32::consts::FRAC_PI_2 - 2.094_395))
        }
        3 => {
            let bar = |a: f32, b: f32| (0.32 - a.abs()).min(1.05 - b.abs());
            bar(x, y).max(bar(y, x))
        }
        _ => 0.25 - (radius - 0.8).abs(),
    }
}

fn draw(seed: u64, number: u64, class: usize) -> [u8; FEATURES] {
    let mut dice = Dice(generator(KEY_TAG, seed, number));
    let size = dice.uniform(8.0, 12.0);
    let room = SIDE as f32 / 2.0 - 0.8 * size;
    let (center_x, center_y) = (15.5 + dice.uniform(-room, room), 15.5 + dice.uniform(-room, room));
    let turn = dice.uniform(-0.35, 0.35);
    let (sine, cosine) = turn.sin_cos();
    // The figure is always lighter than the ground.
    let ground: [f32; COLORS] = std::array::from_fn(|_| dice.uniform(0.0, 0.4));
    let figure: [f32; COLORS] = std::array::from_fn(|_| dice.uniform(0.55, 0.8));
    let stripes = dice.uniform(0.25, 0.4);
    let (period, phase) = (dice.uniform(3.0, 5.0), dice.uniform(0.0, std::f32::consts::TAU));
    // The direction across the stripes.
    let across = if class.is_multiple_of(2) { 0.0 } else { std::f32::consts::FRAC_PI_2 } + dice.uniform(-0.3, 0.3);
    let (along_x, along_y) = (across.cos(), across.sin());
    // The ground has waves of any direction, longer than the stripes.
    let (wave, wave_period, angle) = (dice.uniform(0.0, 0.12), dice.uniform(7.0, 16.0), dice.uniform(0.0, std::f32::consts::TAU));
    let (wave_x, wave_y) = (angle.cos(), angle.sin());
    let noise = dice.uniform(0.02, 0.08);
    let mut pixels = [0u8; FEATURES];
    for (row, column) in (0..SIDE).flat_map(|row| (0..SIDE).map(move |column| (row, column))) {
        let (x, y) = (column as f32, row as f32);
        let (dx, dy) = ((x - center_x) / size, (y - center_y) / size);
        let depth = inside(class / 2, cosine * dx + sine * dy, cosine * dy - sine * dx);
        // The edge is one pixel wide.
        let share = (depth * size + 0.5).clamp(0.0, 1.0);
        let stripe = stripes * (std::f32::consts::TAU * (x * along_x + y * along_y) / period + phase).sin();
        let ripple = wave * (std::f32::consts::TAU * (x * wave_x + y * wave_y) / wave_period).sin();
        for color in 0..COLORS {
            let value = share * (figure[color] + stripe) + (1.0 - share) * (ground[color] + ripple);
            let value = value + noise * (dice.uniform(-1.0, 1.0) + dice.uniform(-1.0, 1.0));
            pixels[(color * SIDE + row) * SIDE + column] = (255.0 * value.clamp(0.0, 1.0)).round() as u8;
        }
    }
    pixels
}
