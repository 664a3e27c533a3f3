//! The random numbers of chains: pure functions of the seed and where they are used.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The stream of random numbers that all chains share, beside one of each chain's number.
pub(super) const COMMON: usize = 1 << 20;
/// Marks the key of the generator as belonging to chains.
const KEY_TAG: &[u8; 16] = b"basin annealings";
/// Numbers of normal vectors from here on are the draws of the start.
pub(super) const START_DRAWS: u64 = 1 << 61;
/// Numbers of normal vectors from here on are those of chains.
pub(super) const CHAIN_DRAWS: u64 = 1 << 62;

/// The numbers of one chain (or of all, [`COMMON`]) in the block number `sequence`.
pub(super) fn uniforms(seed: u64, sequence: u64, chain: usize) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&sequence.to_le_bytes());
    key[16..].copy_from_slice(KEY_TAG);
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(chain as u64);
    rng
}

/// A number in `[0, 1)`.
pub(super) fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}
