//! Philox4x32-10 (Salmon et al. 2011): four random words from a counter of four and a key of two.

/// The multipliers of a round.
pub(super) const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];

/// What the key's words grow by from round to round.
const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];

const ROUNDS: usize = 10;

/// The keys of all rounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule(pub(super) [[u32; 2]; ROUNDS]);

impl Schedule {
    pub(super) fn new(key: [u32; 2]) -> Self {
        let at = |round: u32| [0, 1].map(|word: usize| key[word].wrapping_add(WEYL[word].wrapping_mul(round)));
        Self(std::array::from_fn(|round| at(round as u32)))
    }

    /// The random words of a counter.
    pub(super) fn words(&self, counter: [u32; 4]) -> [u32; 4] {
        self.0.iter().fold(counter, |[a, b, c, d], [first, second]| {
            let (p, q) = (u64::from(a) * u64::from(MULTIPLIERS[0]), u64::from(c) * u64::from(MULTIPLIERS[1]));
            [(q >> 32) as u32 ^ b ^ first, q as u32, (p >> 32) as u32 ^ d ^ second, p as u32]
        })
    }
}

/// The counter of block `block` of the vector `index`.
pub(super) fn counter(block: u64, index: u64) -> [u32; 4] {
    [block as u32, (block >> 32) as u32, index as u32, (index >> 32) as u32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_answers_of_random123_come_out() {
        // `kat_vectors` of Random123 1.14: counter, key, words.
        let answers = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, words) in answers {
            assert_eq!(Schedule::new(key).words(counter), words, "{counter:x?} {key:x?}");
        }
    }
}
