//! What the operations do to pixels: Pillow's arithmetic, rounding included.

use basin_volume_data::cifar::{COLORS, SIDE};

use super::Image;

/// Pixels of one color.
const PLACES: usize = SIDE * SIDE;

/// Rows are moved in proportion to their distance from the upper edge; to the left where the shear is positive.
pub(super) fn shear_x(image: &mut Image, shear: f64) {
    resample(image, [1.0, shear, 0.0], [0.0, 1.0, 0.0]);
}

/// Columns are moved in proportion to their distance from the left edge; upwards where the shear is positive.
pub(super) fn shear_y(image: &mut Image, shear: f64) {
    resample(image, [1.0, 0.0, 0.0], [shear, 1.0, 0.0]);
}

/// Moved to the right, by whole pixels.
pub(super) fn translate_x(image: &mut Image, pixels: f64) {
    resample(image, [1.0, 0.0, -pixels.trunc()], [0.0, 1.0, 0.0]);
}

/// Moved down, by whole pixels.
pub(super) fn translate_y(image: &mut Image, pixels: f64) {
    resample(image, [1.0, 0.0, 0.0], [0.0, 1.0, -pixels.trunc()]);
}

/// Turned around its center, counterclockwise where the angle is positive.
pub(super) fn rotate(image: &mut Image, degrees: f64) {
    let (sin, cos) = (-degrees.to_radians()).sin_cos();
    let center = SIDE as f64 / 2.0;
    resample(image, [cos, sin, center - center * (cos + sin)], [-sin, cos, center - center * (cos - sin)]);
}

/// Blended with black.
pub(super) fn brightness(image: &mut Image, change: f64) {
    let share = share(change);
    replace(image, |value| blend(0, value, share));
}

/// Blended with its gray image.
pub(super) fn color(image: &mut Image, change: f64) {
    let share = share(change);
    for place in 0..PLACES {
        let gray = gray(image, place);
        for color in 0..COLORS {
            let value = &mut image[color * PLACES + place];
            *value = blend(gray, *value, share);
        }
    }
}

/// Blended with the mean of its gray image.
pub(super) fn contrast(image: &mut Image, change: f64) {
    let share = share(change);
    let sum: usize = (0..PLACES).map(|place| usize::from(gray(image, place))).sum();
    let mean = ((sum + PLACES / 2) / PLACES) as u8;
    replace(image, |value| blend(mean, value, share));
}

/// Blended with its smoothed image: every pixel five times and its eight neighbors once, but for the edge, which stays.
pub(super) fn sharpness(image: &mut Image, change: f64) {
    let share = share(change);
    let before = *image;
    let value = |place: usize| u32::from(before[place]);
    for color in 0..COLORS {
        for row in 1..SIDE - 1 {
            for column in 1..SIDE - 1 {
                let place = (color * SIDE + row) * SIDE + column;
                let line = |middle: usize| value(middle - 1) + value(middle) + value(middle + 1);
                let sum = line(place - SIDE) + line(place) + line(place + SIDE) + 4 * value(place);
                // The nearest integer: a thirteenth of an integer is never halfway between two.
                let smooth = (2 * sum + 13) / 26;
                image[place] = blend(smooth as u8, before[place], share);
            }
        }
    }
}

/// Only the leading bits are kept.
pub(super) fn posterize(image: &mut Image, bits: f64) {
    let mask = !0 << (8 - bits as u32);
    replace(image, |value| value & mask);
}

/// Inverted from a level on.
pub(super) fn solarize(image: &mut Image, level: f64) {
    replace(image, |value| if f64::from(value) < level { value } else { 255 - value });
}

/// Every color is stretched to all levels; one of a single level stays.
pub(super) fn auto_contrast(image: &mut Image, _: f64) {
    for color in image.chunks_exact_mut(PLACES) {
        let (low, high) = color.iter().fold((255, 0), |(low, high), &value| (value.min(low), value.max(high)));
        if low < high {
            let scale = 255.0 / f64::from(high - low);
            let offset = -f64::from(low) * scale;
            replace(color, |value| (f64::from(value) * scale + offset) as u8);
        }
    }
}

/// The levels of every color become about equally frequent; a color with most pixels at its highest level stays.
pub(super) fn equalize(image: &mut Image, _: f64) {
    for color in image.chunks_exact_mut(PLACES) {
        let mut counts = [0; 256];
        color.iter().for_each(|&value| counts[usize::from(value)] += 1);
        let highest = counts.iter().rfind(|&&count| count > 0).copied().unwrap_or(0);
        let step = (PLACES - highest) / 255;
        if step > 0 {
            let mut lower = step / 2;
            let levels = counts.map(|count| {
                let level = (lower / step).min(255);
                lower += count;
                level as u8
            });
            replace(color, |value| levels[usize::from(value)]);
        }
    }
}

/// The share of the image itself in a blend. Pillow takes it in single precision.
fn share(change: f64) -> f32 {
    (1.0 + change) as f32
}

/// `from + share (to - from)`, cut off at the point and beyond 0 and 255.
fn blend(from: u8, to: u8, share: f32) -> u8 {
    (f32::from(from) + share * (f32::from(to) - f32::from(from))) as u8
}

/// Brightness of a pixel as ITU-R BT.601 weighs its colors.
fn gray(image: &Image, place: usize) -> u8 {
    let value = |color: usize| u32::from(image[color * PLACES + place]);
    ((19595 * value(0) + 38470 * value(1) + 7471 * value(2) + (1 << 15)) >> 16) as u8
}

/// Replaces every level by a function of it.
fn replace(pixels: &mut [u8], of: impl Fn(u8) -> u8) {
    let table: [u8; 256] = std::array::from_fn(|value| of(value as u8));
    pixels.iter_mut().for_each(|value| *value = table[usize::from(*value)]);
}

/// Every pixel becomes that at `(a x + b y + c, d x + e y + f)`, or black where that is outside of the image; `x` and `y` are its own place,
/// half a pixel in from its corner.
///
/// As in Pillow with 16 bits after the point: so the nearest pixel is also the same where a map leads right between two.
fn resample(image: &mut Image, [a, b, c]: [f64; 3], [d, e, f]: [f64; 3]) {
    let before = *image;
    let fixed = |value: f64| (value * 65536.0 + 0.5).floor() as i32;
    let inside = |place: i32| usize::try_from(place >> 16).ok().filter(|&place| place < SIDE);
    let mut start = (fixed(c + 0.5 * a + 0.5 * b), fixed(f + 0.5 * d + 0.5 * e));
    for row in 0..SIDE {
        let mut place = start;
        for column in 0..SIDE {
            let from = inside(place.0).zip(inside(place.1)).map(|(x, y)| y * SIDE + x);
            for color in 0..COLORS {
                image[(color * SIDE + row) * SIDE + column] = from.map_or(0, |from| before[color * PLACES + from]);
            }
            place = (place.0 + fixed(a), place.1 + fixed(d));
        }
        start = (start.0 + fixed(b), start.1 + fixed(e));
    }
}
