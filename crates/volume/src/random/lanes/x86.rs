//! AVX2, 8 blocks at a time, and AVX-512, 16 at a time.
//!
//! The words of Philox stand in lanes of 64 bits, whose upper halves are left as they come: a
//! product of 32-bit words reads the lower halves only, and its own halves are the two words that
//! the round asks for. A value of these types is the proof that the machine has the instructions.

mod avx2;
mod avx512;

pub(in crate::random) use avx2::Avx2;
pub(in crate::random) use avx512::Avx512;

/// Calls intrinsics of the module's instructions.
macro_rules! intrinsics {
    ($call:expr) => {
        // SAFETY: the lanes are made by `detect` alone, which asks the machine for these
        // instructions.
        unsafe { $call }
    };
}
use intrinsics;
