//! Random numbers as pure functions of what they are for: (purpose, seed, index, place), and the
//! same bits on every device.
//!
//! All come from Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
//! 1, 2, 3", 2011), which turns a counter of four words into four random words without any state:
//! [`NormalVector`] makes vectors of standard normals of them, [`Draws`] uniform numbers. Every
//! [`Purpose`] has keys of its own, so that one seed serves all of them. `docs/directions.md` has
//! every constant and the order of every operation, for whoever writes them again elsewhere; the
//! references in numpy and torch (`scripts/fixtures/directions.py`) give equal bits.

mod box_muller;
mod draws;
mod lanes;
mod normals;
mod philox;

pub use draws::Draws;
pub use lanes::Lanes;
pub(crate) use lanes::{Operations, Task};
pub use normals::NormalVector;

/// Version of the directions that this code makes, written into every manifest. Version 1 was
/// ChaCha8 and a ziggurat.
pub const VERSION: u32 = 2;

/// What random numbers are for. The same seed and index give independent numbers for different
/// purposes.
///
/// The numbers behind the names decide the bits: they may be added to, and never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Purpose {
    /// Rays, and the pilot rays that calibrate their searches. Index: the ray's.
    Directions = 1,
    /// States that chains start from.
    Starts = 2,
    /// Momenta of trajectories.
    Momenta = 3,
    /// Acceptance and lengths of trajectories.
    Steps = 4,
    /// Labels drawn from a model's outputs.
    Labels = 5,
    /// Normal vectors that a spectrum or a matrix is probed with.
    Probes = 6,
    /// Vectors of signs that a diagonal is probed with.
    Signs = 7,
    /// Weights before training. Index: the tensor's.
    InitialWeights = 8,
    /// Tests, benchmarks and studies.
    Trials = 9,
}

impl Purpose {
    /// The generator's key: low and high word of `mix(mix(seed) + purpose * 0x9e3779b97f4a7c15)`.
    ///
    /// `mix` is a bijection, so no two seeds share a key within a purpose; and nothing that is
    /// usual in seeds (neighbours, multiples, single bits) survives it, so none of one purpose
    /// comes near those of another.
    fn key(self, seed: u64) -> [u32; 2] {
        let key = mix(mix(seed).wrapping_add((self as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        [key as u32, (key >> 32) as u32]
    }
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood 2014).
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mixing_is_that_of_split_mix() {
        // The first outputs of SplitMix64 from state 0, as its authors' program gives them.
        let outputs = [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f];
        let state = |step: u64| step.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        assert_eq!([1, 2, 3].map(|step| mix(state(step))), outputs);
    }

    #[test]
    fn seeds_and_purposes_have_keys_of_their_own() {
        let purposes = [Purpose::Directions, Purpose::Starts, Purpose::Momenta, Purpose::Labels, Purpose::Trials];
        let seeds = (0..2000).chain((0..64).map(|bit| 1 << bit)).chain((0..100).map(|n| u64::MAX - n));
        let seeds: std::collections::BTreeSet<u64> = seeds.collect();
        let keys: std::collections::BTreeSet<[u32; 2]> = seeds.iter().flat_map(|&seed| purposes.map(|purpose| purpose.key(seed))).collect();
        assert_eq!(keys.len(), seeds.len() * purposes.len());
    }
}
