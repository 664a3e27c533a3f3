//! NEON: 4 blocks at a time.

use std::arch::aarch64::*;

use super::Operations;
use crate::random::philox::{MULTIPLIERS, Schedule, counter};

/// NEON, which every machine of the architecture has.
#[derive(Debug, Clone, Copy)]
pub(in crate::random) struct Neon;

/// Calls intrinsics.
macro_rules! intrinsics {
    ($call:expr) => {
        // SAFETY: NEON is part of the architecture's base, and is enabled for everything that is
        // compiled for it.
        unsafe { $call }
    };
}

impl Operations for Neon {
    type Bits = uint32x4_t;
    type Float = float32x4_t;

    const BLOCKS: usize = 4;

    #[inline(always)]
    fn words(self, schedule: &Schedule, first: u64, index: u64) -> [uint32x4_t; 4] {
        let counters: [[u32; 4]; 4] = std::array::from_fn(|block| counter(first.wrapping_add(block as u64), index));
        let [mut a, mut b, mut c, mut d] = std::array::from_fn(|word| {
            let lanes: [u32; 4] = std::array::from_fn(|block| counters[block][word]);
            // SAFETY: four words are read of an array of four; NEON is there (see `intrinsics`).
            unsafe { vld1q_u32(lanes.as_ptr()) }
        });
        for [first, second] in schedule.0 {
            let ([p_low, p_high], [q_low, q_high]) = (product(a, MULTIPLIERS[0]), product(c, MULTIPLIERS[1]));
            a = self.xor(self.xor(q_high, b), self.bits(first));
            c = self.xor(self.xor(p_high, d), self.bits(second));
            (b, d) = (q_low, p_low);
        }
        [a, b, c, d]
    }

    #[inline(always)]
    fn bits(self, value: u32) -> uint32x4_t {
        intrinsics!(vdupq_n_u32(value))
    }

    #[inline(always)]
    fn float(self, value: f32) -> float32x4_t {
        intrinsics!(vdupq_n_f32(value))
    }

    #[inline(always)]
    fn and(self, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
        intrinsics!(vandq_u32(a, b))
    }

    #[inline(always)]
    fn or(self, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
        intrinsics!(vorrq_u32(a, b))
    }

    #[inline(always)]
    fn xor(self, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
        intrinsics!(veorq_u32(a, b))
    }

    #[inline(always)]
    fn add_bits(self, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
        intrinsics!(vaddq_u32(a, b))
    }

    #[inline(always)]
    fn subtract_bits(self, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
        intrinsics!(vsubq_u32(a, b))
    }

    #[inline(always)]
    fn shift_left<const BITS: i32>(self, a: uint32x4_t) -> uint32x4_t {
        intrinsics!(vshlq_n_u32::<BITS>(a))
    }

    #[inline(always)]
    fn shift_right<const BITS: i32>(self, a: uint32x4_t) -> uint32x4_t {
        intrinsics!(vreinterpretq_u32_s32(vshrq_n_s32::<BITS>(vreinterpretq_s32_u32(a))))
    }

    #[inline(always)]
    fn to_bits(self, a: float32x4_t) -> uint32x4_t {
        intrinsics!(vreinterpretq_u32_f32(a))
    }

    #[inline(always)]
    fn of_bits(self, a: uint32x4_t) -> float32x4_t {
        intrinsics!(vreinterpretq_f32_u32(a))
    }

    #[inline(always)]
    fn to_float(self, a: uint32x4_t) -> float32x4_t {
        intrinsics!(vcvtq_f32_s32(vreinterpretq_s32_u32(a)))
    }

    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        intrinsics!(vaddq_f32(a, b))
    }

    #[inline(always)]
    fn subtract(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        intrinsics!(vsubq_f32(a, b))
    }

    #[inline(always)]
    fn multiply(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        intrinsics!(vmulq_f32(a, b))
    }

    #[inline(always)]
    fn square_root(self, a: float32x4_t) -> float32x4_t {
        intrinsics!(vsqrtq_f32(a))
    }

    #[inline(always)]
    fn select(self, sign: uint32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        intrinsics!(vbslq_f32(vcltzq_s32(vreinterpretq_s32_u32(sign)), a, b))
    }

    #[inline(always)]
    fn store(self, [a, b, c, d]: [float32x4_t; 4], out: &mut [f32]) {
        let out: &mut [f32; 16] = out.try_into().expect("16 places");
        // SAFETY: 16 numbers are written, word by word of four blocks, to an array of 16; NEON is
        // there (see `intrinsics`).
        unsafe { vst4q_f32(out.as_mut_ptr(), float32x4x4_t(a, b, c, d)) };
    }
}

/// Lower and upper words of the products with a multiplier.
#[inline(always)]
fn product(a: uint32x4_t, multiplier: u32) -> [uint32x4_t; 2] {
    intrinsics!({
        let multiplier = vdupq_n_u32(multiplier);
        let low = vreinterpretq_u32_u64(vmull_u32(vget_low_u32(a), vget_low_u32(multiplier)));
        let high = vreinterpretq_u32_u64(vmull_high_u32(a, multiplier));
        [vuzp1q_u32(low, high), vuzp2q_u32(low, high)]
    })
}
