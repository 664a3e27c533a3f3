//! Vectors of standard normals.

use std::ops::Range;

use super::Purpose;
use super::box_muller::normals;
use super::lanes::{Lanes, MOST_BLOCKS, Operations, Task};
use super::philox::Schedule;

/// Coordinates that one counter gives.
const PER_BLOCK: usize = 4;

/// Standard normal vectors `z` of a given dimension: a pure function of (purpose, seed, index,
/// coordinate).
#[derive(Debug, Clone, Copy)]
pub struct NormalVector {
    purpose: Purpose,
    seed: u64,
    index: u64,
    dimension: usize,
}

impl NormalVector {
    /// The vector number `index` of those with this purpose and seed.
    #[must_use]
    pub fn new(purpose: Purpose, seed: u64, index: u64, dimension: usize) -> Self {
        Self { purpose, seed, index, dimension }
    }

    /// What it is for.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// The seed of the vectors.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Number of coordinates.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Number of the vector among those of its purpose and seed.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The key of its numbers (`docs/directions.md`), lower word first: for whoever makes them elsewhere.
    #[must_use]
    pub fn key(&self) -> [u32; 2] {
        self.purpose.key(self.seed)
    }

    /// Writes the coordinates `range` into `out`: any range, each at the same price.
    ///
    /// # Panics
    /// If `out` has another length than `range`, or the range leaves the vector.
    pub fn fill(&self, range: Range<usize>, out: &mut [f32]) {
        self.fill_with(Lanes::widest(), range, out);
    }

    /// The same, with chosen instructions.
    ///
    /// # Panics
    /// As [`NormalVector::fill`].
    pub fn fill_with(&self, lanes: Lanes, range: Range<usize>, out: &mut [f32]) {
        assert_eq!(range.len(), out.len(), "the output must be as long as the range");
        assert!(range.end <= self.dimension, "coordinates {range:?} of a vector of {}", self.dimension);
        let schedule = Schedule::new(self.purpose.key(self.seed));
        lanes.run(Fill { schedule, index: self.index, start: range.start, out });
    }
}

struct Fill<'a> {
    schedule: Schedule,
    index: u64,
    start: usize,
    out: &'a mut [f32],
}

impl Task for Fill<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Operations>(self, lanes: L) {
        let length = PER_BLOCK * L::BLOCKS;
        let mut beside = [0.0f32; PER_BLOCK * MOST_BLOCKS];
        let (mut rest, mut at) = (self.out, self.start);
        while !rest.is_empty() {
            let (block, skipped) = (at / PER_BLOCK, at % PER_BLOCK);
            let count = rest.len().min(length - skipped);
            let (part, after) = rest.split_at_mut(count);
            if count == length {
                group(lanes, &self.schedule, block as u64, self.index, part);
            } else {
                group(lanes, &self.schedule, block as u64, self.index, &mut beside[..length]);
                part.copy_from_slice(&beside[skipped..skipped + count]);
            }
            (rest, at) = (after, at + count);
        }
    }
}

/// The numbers of as many blocks as there are lanes.
#[inline(always)]
fn group<L: Operations>(lanes: L, schedule: &Schedule, first: u64, index: u64, out: &mut [f32]) {
    let [a, b, c, d] = lanes.words(schedule, first, index);
    let ([x, y], [z, w]) = (normals(lanes, [a, b]), normals(lanes, [c, d]));
    lanes.store([x, y, z, w], out);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    /// Written by `scripts/fixtures/directions.py`, where numpy and torch agree about it.
    #[derive(Deserialize)]
    struct Golden {
        vectors: Vec<Vector>,
        parts: Vec<Part>,
        pairs: Vec<Pair>,
    }

    #[derive(Deserialize)]
    struct Vector {
        purpose: String,
        seed: u64,
        index: u64,
        start: usize,
        bits: Vec<u32>,
    }

    #[derive(Deserialize)]
    struct Part {
        purpose: String,
        seed: u64,
        index: u64,
        start: usize,
        count: usize,
        checksum: u64,
    }

    #[derive(Deserialize)]
    struct Pair {
        words: [u32; 2],
        bits: [u32; 2],
    }

    fn golden() -> Golden {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/directions.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    fn purpose(name: &str) -> Purpose {
        match name {
            "directions" => Purpose::Directions,
            "starts" => Purpose::Starts,
            "momenta" => Purpose::Momenta,
            "steps" => Purpose::Steps,
            "labels" => Purpose::Labels,
            "probes" => Purpose::Probes,
            "signs" => Purpose::Signs,
            "initial_weights" => Purpose::InitialWeights,
            "trials" => Purpose::Trials,
            other => panic!("no purpose is called {other}"),
        }
    }

    fn numbers(lanes: Lanes, vector: NormalVector, range: Range<usize>) -> Vec<u32> {
        let mut out = vec![0.0f32; range.len()];
        vector.fill_with(lanes, range, &mut out);
        out.into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn all_lanes_give_the_numbers_of_numpy_and_torch() {
        // Stored runs depend on these bits: they never change, or the version of the directions
        // does.
        let golden = golden();
        for lanes in Lanes::all() {
            for Vector { purpose: name, seed, index, start, bits } in &golden.vectors {
                let vector = NormalVector::new(purpose(name), *seed, *index, usize::MAX);
                let ours = numbers(lanes, vector, *start..start + bits.len());
                assert_eq!(ours, *bits, "{lanes:?}: {name}, seed {seed}, index {index}, from {start}");
            }
            for Part { purpose: name, seed, index, start, count, checksum } in &golden.parts {
                let vector = NormalVector::new(purpose(name), *seed, *index, usize::MAX);
                let ours = numbers(lanes, vector, *start..start + count).into_iter().enumerate();
                let sum = ours.fold(0u64, |sum, (i, bits)| sum.wrapping_add((2 * i as u64 + 1).wrapping_mul(u64::from(bits))));
                assert_eq!(sum, *checksum, "{lanes:?}: {name}, seed {seed}, index {index}, from {start}");
            }
        }
    }

    /// One pair of words in all lanes.
    struct Transform<'a>([u32; 2], &'a mut [f32]);

    impl Task for Transform<'_> {
        type Output = ();

        #[inline(always)]
        fn run<L: Operations>(self, lanes: L) {
            let [x, y] = normals(lanes, [lanes.bits(self.0[0]), lanes.bits(self.0[1])]);
            lanes.store([x, y, x, y], &mut self.1[..PER_BLOCK * L::BLOCKS]);
        }
    }

    fn transformed(lanes: Lanes, words: [u32; 2]) -> [f32; 2] {
        let mut out = [f32::NAN; PER_BLOCK * MOST_BLOCKS];
        lanes.run(Transform(words, &mut out));
        [out[0], out[1]]
    }

    #[test]
    fn the_ends_of_the_words_are_transformed_as_by_numpy_and_torch() {
        for lanes in Lanes::all() {
            for Pair { words, bits } in golden().pairs {
                assert_eq!(transformed(lanes, words).map(f32::to_bits), bits, "{lanes:?}: {words:x?}");
            }
        }
    }

    #[test]
    fn a_normal_is_exact_to_half_a_part_in_a_million() {
        // The two numbers of two words, in double precision: nothing cancels in ln_1p, whatever the
        // word.
        let exact = |[radius, angle]: [u32; 2]| {
            let distance = |word: u32| (f64::from(word) + 0.5) / 2f64.powi(32);
            let logarithm = if radius >> 31 == 1 { (-distance(!radius)).ln_1p() } else { distance(radius).ln() };
            let radius = (-2.0 * logarithm).sqrt() * if angle >> 31 == 1 { -1.0 } else { 1.0 };
            let (sine, cosine) = (f64::from((angle << 2 | 2).cast_signed()) / 2f64.powi(32) * std::f64::consts::FRAC_PI_2).sin_cos();
            let (first, second) = if angle >> 30 & 1 == 1 { (sine, cosine) } else { (cosine, sine) };
            [radius * first, radius * second]
        };
        let mut draws = crate::random::Draws::new(Purpose::Trials, 1, 0, 0);
        let mut worst = 0.0f64;
        for step in 0..400_000 {
            let bits = draws.bits();
            // Small words and large ones as often as middling ones.
            let words = [(bits as u32) >> (step % 32), (bits >> 32) as u32 >> (step / 32 % 32)];
            for words in [words, words.map(|word| !word)] {
                for (ours, exact) in transformed(Lanes::all()[0], words).into_iter().zip(exact(words)) {
                    worst = worst.max((f64::from(ours) / exact - 1.0).abs());
                }
            }
        }
        assert!(worst < 4.2e-7, "{worst}");
    }

    proptest! {
        #[test]
        fn any_range_is_a_part_of_the_whole(seed: u64, index: u64, start in 0usize..400, length in 0usize..400) {
            let vector = NormalVector::new(Purpose::Trials, seed, index, 800);
            let whole = numbers(Lanes::all()[0], vector, 0..800);
            for lanes in Lanes::all() {
                prop_assert_eq!(&numbers(lanes, vector, start..start + length), &whole[start..start + length]);
            }
        }
    }

    #[test]
    fn moments_and_tails_are_those_of_a_normal_and_nothing_is_correlated() {
        let n = 1 << 20;
        let draw = |purpose, seed, index| {
            let mut z = vec![0.0f32; n];
            NormalVector::new(purpose, seed, index, n).fill(0..n, &mut z);
            z
        };
        let z = draw(Purpose::Trials, 0, 0);
        let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / n as f64;
        let moment = |k: i32| mean(&mut z.iter().map(|&x| f64::from(x).powi(k)));
        let sd = |variance: f64| 5.0 * (variance / n as f64).sqrt();
        assert!(moment(1).abs() < sd(1.0));
        assert!((moment(2) - 1.0).abs() < sd(2.0));
        assert!(moment(3).abs() < sd(15.0));
        assert!((moment(4) - 3.0).abs() < sd(96.0));
        let tail = z.iter().filter(|x| x.abs() > 3.0).count() as f64 / n as f64;
        assert!((tail - 0.002_699_796).abs() < sd(0.0027));
        let correlation = |other: &[f32]| mean(&mut z.iter().zip(other).map(|(&x, &y)| f64::from(x) * f64::from(y)));
        for other in [draw(Purpose::Trials, 0, 1), draw(Purpose::Trials, 1, 0), draw(Purpose::Directions, 0, 0)] {
            assert!(correlation(&other).abs() < sd(1.0));
        }
        for shift in 1..9 {
            assert!(correlation(&z[shift..]).abs() < sd(1.0), "neighbours at {shift}");
        }
    }
}
