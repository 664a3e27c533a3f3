//! Labels drawn from a model's own outputs.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Marks the ChaCha key as belonging to drawn labels, so that other uses of the same seed draw other numbers.
const KEY_TAG: &[u8; 24] = b"basin labels of outputs ";

/// A number in `[0, 1)` for every position: a pure function of the seed and the position.
pub(super) fn uniforms(seed: u64, positions: impl Iterator<Item = usize>) -> Vec<f64> {
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..].copy_from_slice(KEY_TAG);
    let mut rng = ChaCha8Rng::from_seed(key);
    let draw = |position: usize| {
        // One stream, one word pair per position.
        rng.set_word_pos(2 * position as u128);
        (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    };
    positions.map(draw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_belong_to_their_positions() {
        let all = uniforms(3, 0..1000);
        assert_eq!(uniforms(3, 700..703), all[700..703]);
        assert_ne!(uniforms(4, 0..1000), all);
        let mean = all.iter().sum::<f64>() / 1000.0;
        assert!(all.iter().all(|u| (0.0..1.0).contains(u)) && (mean - 0.5).abs() < 5.0 / (12.0 * 1000f64).sqrt(), "{mean}");
    }
}
