//! Generators whose numbers are a pure function of a seed: the same across versions and machines.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// ChaCha8 keyed by a seed and a tag, so that other uses of the same seed draw other numbers; `stream` separates what one use draws.
#[must_use]
pub fn generator(tag: &[u8; 24], seed: u64, stream: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..].copy_from_slice(tag);
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(stream);
    rng
}

/// A number in `[0, 1)` with 53 bits, from one draw.
pub fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// A number below `bound`, from one draw: `(u64 * bound) >> 64`, biased by less than `bound * 2^-64`.
pub fn below(rng: &mut ChaCha8Rng, bound: u64) -> usize {
    ((u128::from(rng.next_u64()) * u128::from(bound)) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_seeds_and_streams_matter_and_ranges_hold() {
        let draws = |tag, seed, stream| {
            let mut rng = generator(tag, seed, stream);
            (0..100).map(|_| rng.next_u64()).collect::<Vec<_>>()
        };
        let (one, other) = (b"one use of a seed       ", b"another use of a seed   ");
        let all = draws(one, 1, 0);
        assert_eq!(all, draws(one, 1, 0));
        assert!([draws(other, 1, 0), draws(one, 2, 0), draws(one, 1, 1)].iter().all(|draws| *draws != all));
        let mut rng = generator(one, 1, 0);
        let mut counts = [0; 3];
        (0..3000).for_each(|_| counts[below(&mut rng, 3)] += 1);
        // Five standard deviations.
        assert!(counts.iter().all(|&count: &i32| (count - 1000).abs() < 130), "{counts:?}");
        assert!((0..1000).all(|_| (0.0..1.0).contains(&uniform(&mut rng))));
    }
}
