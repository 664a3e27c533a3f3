//! Instructions that a group of blocks is computed with: one block at a time, or as many as a
//! vector holds. All give the same bits.

use std::fmt;

use super::philox::Schedule;

#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

/// The most blocks of a group, of all kinds of lanes.
pub(super) const MOST_BLOCKS: usize = 16;

/// What the arithmetic of normals needs of a set of instructions.
///
/// `Bits` are words of 32 bits, `Float` single-precision numbers, as many as a group has blocks.
/// Every operation rounds as IEEE 754 says.
pub(crate) trait Operations: Copy {
    type Bits: Copy;
    type Float: Copy;

    /// Blocks of a group.
    const BLOCKS: usize;

    /// The words of blocks `first..first + BLOCKS` of the vector `index`, in an order of its own
    /// that [`Operations::store`] undoes.
    fn words(self, schedule: &Schedule, first: u64, index: u64) -> [Self::Bits; 4];

    fn bits(self, value: u32) -> Self::Bits;
    fn float(self, value: f32) -> Self::Float;
    fn and(self, a: Self::Bits, b: Self::Bits) -> Self::Bits;
    fn or(self, a: Self::Bits, b: Self::Bits) -> Self::Bits;
    fn xor(self, a: Self::Bits, b: Self::Bits) -> Self::Bits;
    fn add_bits(self, a: Self::Bits, b: Self::Bits) -> Self::Bits;
    fn subtract_bits(self, a: Self::Bits, b: Self::Bits) -> Self::Bits;
    fn shift_left<const BITS: i32>(self, a: Self::Bits) -> Self::Bits;
    /// Repeats the sign.
    fn shift_right<const BITS: i32>(self, a: Self::Bits) -> Self::Bits;
    fn to_bits(self, a: Self::Float) -> Self::Bits;
    fn of_bits(self, a: Self::Bits) -> Self::Float;
    /// The number nearest to a signed integer.
    fn to_float(self, a: Self::Bits) -> Self::Float;
    fn add(self, a: Self::Float, b: Self::Float) -> Self::Float;
    fn subtract(self, a: Self::Float, b: Self::Float) -> Self::Float;
    fn multiply(self, a: Self::Float, b: Self::Float) -> Self::Float;
    fn square_root(self, a: Self::Float) -> Self::Float;
    /// `a` where the highest bit of `sign` is set, `b` elsewhere.
    fn select(self, sign: Self::Bits, a: Self::Float, b: Self::Float) -> Self::Float;
    /// Writes four numbers of every block, block by block, into `4 BLOCKS` places.
    fn store(self, numbers: [Self::Float; 4], out: &mut [f32]);
}

/// A set of vector instructions of this machine.
///
/// Everything takes the widest; tests and measurements can ask for others.
#[derive(Clone, Copy)]
pub struct Lanes(Kind);

#[derive(Clone, Copy)]
enum Kind {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(x86::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(x86::Avx512),
    #[cfg(target_arch = "aarch64")]
    Neon(neon::Neon),
}

impl Lanes {
    /// The widest that the machine has.
    #[must_use]
    pub fn widest() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = || x86::Avx2::detect().map(Kind::Avx2);
            Self(x86::Avx512::detect().map(Kind::Avx512).or_else(avx2).unwrap_or(Kind::Portable))
        }
        #[cfg(target_arch = "aarch64")]
        {
            Self(Kind::Neon(neon::Neon))
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            Self(Kind::Portable)
        }
    }

    /// All that the machine has, from one block at a time to the widest.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self(Kind::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(x86::Avx2::detect().map(|lanes| Self(Kind::Avx2(lanes))));
            all.extend(x86::Avx512::detect().map(|lanes| Self(Kind::Avx512(lanes))));
        }
        #[cfg(target_arch = "aarch64")]
        all.push(Self(Kind::Neon(neon::Neon)));
        all
    }

    /// Runs a task compiled for these instructions.
    #[inline]
    pub(crate) fn run<T: Task>(self, task: T) -> T::Output {
        match self.0 {
            Kind::Portable => task.run(portable::Portable),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(lanes) => lanes.run(task),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(lanes) => lanes.run(task),
            #[cfg(target_arch = "aarch64")]
            Kind::Neon(lanes) => task.run(lanes),
        }
    }
}

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(_) => "AVX-512",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon(_) => "NEON",
        })
    }
}

/// Work that is written once for all instructions. `run` and all that it calls have to be
/// `#[inline(always)]`, to be compiled with those of its caller; closures never are.
pub(crate) trait Task {
    /// What comes of it.
    type Output;

    fn run<L: Operations>(self, lanes: L) -> Self::Output;
}
