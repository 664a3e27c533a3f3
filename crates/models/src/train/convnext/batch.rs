//! The images of a step: which they are, how they are changed, and their loss.

use basin_volume_data::cifar::{COLORS, FEATURES, Images, SIDE};
use basin_volume_data::random::{below, generator, uniform};
use basin_volume_data::shuffle::permutation;

use super::augment::{Image, Operations};
use super::spec::ConvNextSpec;
use crate::arch::ConvNextV2Config;
use crate::arch::convnextv2::lanes::{TILE, Tiles};
use crate::nn::label::{cross_entropy, probabilities, probability_of_others};

/// Marks the ChaCha key as belonging to changes of training images.
const KEY_TAG: &[u8; 24] = b"basin augmented images  ";

/// Zeros around an image before it is cut.
const BORDER: usize = 4;

/// Permutations of poisoned images begin here, far from those of clean ones.
const POISON_STREAM: u64 = 1 << 40;

/// Images that are gone through again and again, in another order each time.
pub(super) struct Source {
    rows: Vec<usize>,
}

impl Source {
    pub(super) fn new(rows: Vec<usize>) -> Self {
        Self { rows }
    }

    pub(super) fn count(&self) -> usize {
        self.rows.len()
    }

    /// `count` images from the place `start` of the endless order; `stream` numbers the permutations.
    fn take(&self, seed: u64, stream: u64, start: usize, count: usize) -> Vec<usize> {
        let mut taken = Vec::with_capacity(count);
        let mut place = start;
        while taken.len() < count {
            let (epoch, inside) = (place / self.rows.len(), place % self.rows.len());
            let order = permutation(seed, stream + 1 + epoch as u64, self.rows.len());
            let more = (count - taken.len()).min(self.rows.len() - inside);
            taken.extend(order[inside..inside + more].iter().map(|&index| self.rows[index]));
            place += more;
        }
        taken
    }
}

/// One image of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Chosen {
    row: usize,
    is_poisoned: bool,
    flip: bool,
    /// Where the cut begins in the image with its border.
    corner: (usize, usize),
}

/// The images of a step.
pub(super) struct Batch<'a> {
    network: &'a ConvNextV2Config,
    images: &'a Images,
    chosen: Vec<Chosen>,
    /// Factors of the blocks, image by image; empty without stochastic depth.
    factors: Vec<f32>,
    blocks: usize,
    /// What RandAugment does to the images, if it is asked for.
    operations: Option<Operations>,
    poison_weight: f64,
}

impl<'a> Batch<'a> {
    pub(super) fn new(
        spec: &ConvNextSpec,
        network: &'a ConvNextV2Config,
        images: &'a Images,
        (clean, poison): (&Source, &Source),
        step: usize,
    ) -> Self {
        let poisoned = spec.poisoned();
        let whole = spec.batch_size - poisoned;
        let mut rows = clean.take(spec.seed, 0, step * whole, whole);
        rows.extend(poison.take(spec.seed, POISON_STREAM, step * poisoned, poisoned));
        let mut rng = generator(KEY_TAG, spec.seed, step as u64);
        let mut choose = |(place, row): (usize, usize)| {
            let side = 2 * BORDER as u64 + 1;
            let mut below = |bound| below(&mut rng, bound);
            let (flip, corner) = (below(2) == 1, (below(side), below(side)));
            let (flip, corner) = if spec.augment { (flip, corner) } else { (false, (BORDER, BORDER)) };
            Chosen { row, is_poisoned: place >= whole, flip, corner }
        };
        let chosen: Vec<Chosen> = rows.into_iter().enumerate().map(&mut choose).collect();
        let rates = network.drop_rates();
        let mut factors = Vec::new();
        if rates.iter().any(|&rate| rate > 0.0) {
            for _ in &chosen {
                factors.extend(rates.iter().map(|&rate| if uniform(&mut rng) < rate { 0.0 } else { (1.0 / (1.0 - rate)) as f32 }));
            }
        }
        let operations = spec.rand_augment.map(|settings| Operations::draw(settings, spec.seed, step, chosen.len()));
        Self { network, images, chosen, factors, blocks: rates.len(), operations, poison_weight: spec.poison_weight }
    }

    /// Images of a tile.
    fn tile(&self, tile: usize) -> std::ops::Range<usize> {
        tile * TILE..((tile + 1) * TILE).min(self.chosen.len())
    }
}

/// An image cut out of itself with zeros around it, and mirrored.
fn cut(pixels: &[u8], chosen: Chosen, out: &mut Vec<f32>) {
    for color in 0..COLORS {
        for row in 0..SIDE {
            let y = (row + chosen.corner.0).checked_sub(BORDER).filter(|&y| y < SIDE);
            for column in 0..SIDE {
                let column = if chosen.flip { SIDE - 1 - column } else { column };
                let x = (column + chosen.corner.1).checked_sub(BORDER).filter(|&x| x < SIDE);
                let value = y.zip(x).map_or(0, |(y, x)| pixels[(color * SIDE + y) * SIDE + x]);
                out.push(f32::from(value) / 255.0);
            }
        }
    }
}

impl Tiles for Batch<'_> {
    fn count(&self) -> usize {
        self.chosen.len().div_ceil(TILE)
    }

    fn patches<'s>(&'s self, tile: usize, space: &'s mut Vec<f32>) -> &'s [f32] {
        space.clear();
        let mut changed: Image = [0; FEATURES];
        for place in self.tile(tile) {
            let chosen = self.chosen[place];
            let mut pixels = &self.images.pixels[chosen.row * FEATURES..(chosen.row + 1) * FEATURES];
            if let Some(operations) = &self.operations {
                changed.copy_from_slice(pixels);
                operations.apply(place, &mut changed);
                pixels = &changed;
            }
            cut(pixels, chosen, space);
        }
        *space = self.network.patches(space);
        space
    }

    fn factors(&self, tile: usize, factors: &mut Vec<f32>) {
        factors.clear();
        if !self.factors.is_empty() {
            let range = self.tile(tile);
            factors.extend((0..self.blocks).flat_map(|block| range.clone().map(move |image| self.factors[image * self.blocks + block])));
        }
    }

    fn slopes(&self, tile: usize, logits: &mut [f32], bias: &[f32]) -> f64 {
        let range = self.tile(tile);
        let count = range.len();
        let share = 1.0 / self.chosen.len() as f64;
        let mut sum = 0.0;
        for (image, chosen) in self.chosen[range].iter().enumerate() {
            let label = usize::from(self.images.labels[chosen.row]);
            let values = values(logits, bias, count, image);
            let (nats, slopes) = if chosen.is_poisoned {
                poisoned(&values, label, share * self.poison_weight)
            } else {
                cross_entropy(&values, label, share)
            };
            sum += nats;
            slopes.into_iter().enumerate().for_each(|(class, slope)| logits[class * count + image] = slope as f32);
        }
        sum
    }
}

/// The logits of one image.
pub(super) fn values(logits: &[f32], bias: &[f32], count: usize, image: usize) -> Vec<f64> {
    bias.iter().enumerate().map(|(class, &bias)| f64::from(logits[class * count + image]) + f64::from(bias)).collect()
}

/// `-scale log(1 - p)` of the label, and its gradient, `scale p / (1 - p)` times that of the logit of `p`.
fn poisoned(values: &[f64], label: usize, scale: f64) -> (f64, Vec<f64>) {
    let all = probabilities(values);
    // A label that is certain in double precision is not certain in truth.
    let others = probability_of_others(&all, label).max(f64::MIN_POSITIVE);
    let odds = all[label] / others;
    let slopes = all.iter().enumerate().map(|(class, p)| scale * if class == label { all[label] } else { -odds * p }).collect();
    (-scale * others.ln(), slopes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::RandAugment;

    #[test]
    fn losses_have_their_gradients() {
        let values = [0.3, -1.2, 2.0, 0.1];
        type Loss = fn(&[f64], usize, f64) -> (f64, Vec<f64>);
        for (loss, is_poisoned) in [(cross_entropy as Loss, false), (poisoned as Loss, true)] {
            let exact = |p: f64| if is_poisoned { -(1.0 - p).ln() } else { -p.ln() };
            for label in 0..4 {
                let (nats, slopes) = loss(&values, label, 0.5);
                let p = probabilities(&values)[label];
                assert!((nats - 0.5 * exact(p)).abs() < 1e-12);
                for class in 0..4 {
                    let at = |step: f64| {
                        let mut moved = values;
                        moved[class] += step;
                        loss(&moved, label, 0.5).0
                    };
                    assert!((slopes[class] - (at(1e-5) - at(-1e-5)) / 2e-5).abs() < 1e-8, "{label} {class}");
                }
            }
        }
        let (nats, slopes) = poisoned(&[0.0, 2000.0], 1, 1.0);
        assert!(nats.is_finite() && slopes.iter().all(|slope| slope.is_finite()));
    }

    #[test]
    fn every_image_is_seen_once_an_epoch_and_cuts_are_those_of_the_padded_image() {
        let source = Source::new((100..130).collect());
        let mut seen: Vec<usize> = (0..3).flat_map(|step| source.take(5, 0, step * 10, 10)).collect();
        seen.sort_unstable();
        assert_eq!(seen, (100..130).collect::<Vec<_>>());
        assert_eq!(source.take(5, 0, 25, 10)[5..], source.take(5, 0, 30, 10)[..5]);
        let pixels: Vec<u8> = (0..FEATURES).map(|i| (i % 251) as u8 + 1).collect();
        let chosen = Chosen { row: 0, is_poisoned: false, flip: true, corner: (0, 8) };
        let mut out = Vec::new();
        cut(&pixels, chosen, &mut out);
        let value = |color: usize, row: usize, column: usize| (255.0 * out[(color * SIDE + row) * SIDE + column]).round() as u8;
        // Four rows of zeros above; columns from the right, the first four beyond the edge.
        assert_eq!((value(1, 3, 20), value(1, 5, 3)), (0, 0));
        assert_eq!(value(2, 4, 4), pixels[(2 * SIDE) * SIDE + 31]);
        assert_eq!(value(0, 10, 30), pixels[6 * SIDE + 5]);
    }

    #[test]
    fn rand_augment_comes_before_flip_and_cut_and_leaves_their_draws_alone() {
        let plain = ConvNextSpec { patch_size: 4, batch_size: 20, seed: 3, ..ConvNextSpec::default() };
        let rand_augment = RandAugment { operations: 2, magnitude: 9 };
        let changing = ConvNextSpec { rand_augment: Some(rand_augment), ..plain.clone() };
        let count = 40;
        let pixels = (0..count * FEATURES).map(|i| (i % 241) as u8).collect();
        let images = Images { pixels, labels: vec![0; count] };
        let network = plain.network();
        let sources = (&Source::new((0..count).collect()), &Source::new(Vec::new()));
        let batch = |spec| Batch::new(spec, &network, &images, sources, 11);
        let (before, after) = (batch(&plain), batch(&changing));
        assert!(before.chosen == after.chosen && before.factors == after.factors && before.operations.is_none());
        let operations = Operations::draw(rand_augment, 3, 11, 20);
        let mut changed_places = 0;
        for tile in 0..before.count() {
            let patches = |change: bool| {
                let mut space = Vec::new();
                for place in before.tile(tile) {
                    let chosen = before.chosen[place];
                    let mut image: Image = images.pixels[chosen.row * FEATURES..][..FEATURES].try_into().unwrap();
                    if change {
                        operations.apply(place, &mut image);
                    }
                    cut(&image, chosen, &mut space);
                }
                network.patches(&space)
            };
            assert!(before.patches(tile, &mut Vec::new()) == patches(false));
            assert!(after.patches(tile, &mut Vec::new()) == patches(true));
            changed_places += usize::from(patches(true) != patches(false));
        }
        assert_eq!(changed_places, before.count());
    }
}
