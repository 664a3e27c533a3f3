//! Uniform numbers.

use super::Purpose;
use super::philox::{Schedule, counter};

/// A sequence of uniform numbers: a pure function of (purpose, seed, index, stream), and any place
/// in it can be gone to.
///
/// The counter's second word, which in vectors of normals would be reached beyond 2^34 coordinates
/// only, is the stream's number.
#[derive(Debug, Clone)]
pub struct Draws {
    schedule: Schedule,
    index: u64,
    stream: u32,
    /// Number of the next draw; two of 64 bits come from one counter.
    place: u64,
    words: [u64; 2],
}

impl Draws {
    /// The sequence `stream` of those with this purpose, seed and index, from its start.
    #[must_use]
    pub fn new(purpose: Purpose, seed: u64, index: u64, stream: u32) -> Self {
        Self { schedule: Schedule::new(purpose.key(seed)), index, stream, place: 0, words: [0; 2] }
    }

    /// Goes to the draw number `place`, of 2^33.
    pub fn go_to(&mut self, place: u64) {
        self.place = place;
        if place % 2 == 1 {
            self.make();
        }
    }

    /// The words of the counter that the current place belongs to.
    fn make(&mut self) {
        let block = u64::from((self.place / 2) as u32) | u64::from(self.stream) << 32;
        let [a, b, c, d] = self.schedule.words(counter(block, self.index)).map(u64::from);
        self.words = [a | b << 32, c | d << 32];
    }

    /// 64 random bits.
    #[must_use]
    pub fn bits(&mut self) -> u64 {
        let half = (self.place % 2) as usize;
        if half == 0 {
            self.make();
        }
        self.place += 1;
        self.words[half]
    }

    /// A number in `[0, 1)` with 53 bits, from one draw.
    #[must_use]
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number below `bound`, from one draw: `(bits * bound) >> 64`, biased by less than `bound *
    /// 2^-64`.
    #[must_use]
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_gone_to_and_everything_matters() {
        let draws = |purpose, seed, index, stream| {
            let mut draws = Draws::new(purpose, seed, index, stream);
            std::array::from_fn::<u64, 101, _>(|_| draws.bits())
        };
        let all = draws(Purpose::Steps, 1, 0, 0);
        let others = [(Purpose::Labels, 1, 0, 0), (Purpose::Steps, 2, 0, 0), (Purpose::Steps, 1, 1, 0), (Purpose::Steps, 1, 0, 1)];
        for (purpose, seed, index, stream) in others {
            let other = draws(purpose, seed, index, stream);
            assert!(all.iter().all(|bits| !other.contains(bits)));
        }
        let mut again = Draws::new(Purpose::Steps, 1, 0, 0);
        for place in [100, 3, 4, 99, 0, 1, 1] {
            again.go_to(place);
            let after = all[place as usize..].iter().take(3);
            assert!(after.clone().all(|&bits| bits == again.bits()), "from {place}");
        }
    }

    #[test]
    fn numbers_are_uniform_in_their_ranges() {
        let mut draws = Draws::new(Purpose::Trials, 7, 0, 0);
        let mut counts = [0i32; 3];
        (0..3000).for_each(|_| counts[draws.below(3) as usize] += 1);
        // Five standard deviations.
        assert!(counts.iter().all(|count| (count - 1000).abs() < 130), "{counts:?}");
        let uniforms: Vec<f64> = (0..3000).map(|_| draws.uniform()).collect();
        assert!(uniforms.iter().all(|u| (0.0..1.0).contains(u)));
        let mean = uniforms.iter().sum::<f64>() / 3000.0;
        assert!((mean - 0.5).abs() < 5.0 / (12.0 * 3000f64).sqrt(), "{mean}");
    }
}
