//! One block at a time: the reference, and what machines without known vector instructions take.

use super::Operations;
use crate::random::philox::{Schedule, counter};

#[derive(Debug, Clone, Copy)]
pub(in crate::random) struct Portable;

impl Operations for Portable {
    type Bits = u32;
    type Float = f32;

    const BLOCKS: usize = 1;

    #[inline(always)]
    fn words(self, schedule: &Schedule, first: u64, index: u64) -> [u32; 4] {
        schedule.words(counter(first, index))
    }

    #[inline(always)]
    fn bits(self, value: u32) -> u32 {
        value
    }

    #[inline(always)]
    fn float(self, value: f32) -> f32 {
        value
    }

    #[inline(always)]
    fn and(self, a: u32, b: u32) -> u32 {
        a & b
    }

    #[inline(always)]
    fn or(self, a: u32, b: u32) -> u32 {
        a | b
    }

    #[inline(always)]
    fn xor(self, a: u32, b: u32) -> u32 {
        a ^ b
    }

    #[inline(always)]
    fn add_bits(self, a: u32, b: u32) -> u32 {
        a.wrapping_add(b)
    }

    #[inline(always)]
    fn subtract_bits(self, a: u32, b: u32) -> u32 {
        a.wrapping_sub(b)
    }

    #[inline(always)]
    fn shift_left<const BITS: i32>(self, a: u32) -> u32 {
        a << BITS
    }

    #[inline(always)]
    fn shift_right<const BITS: i32>(self, a: u32) -> u32 {
        (a.cast_signed() >> BITS).cast_unsigned()
    }

    #[inline(always)]
    fn to_bits(self, a: f32) -> u32 {
        a.to_bits()
    }

    #[inline(always)]
    fn of_bits(self, a: u32) -> f32 {
        f32::from_bits(a)
    }

    #[inline(always)]
    fn to_float(self, a: u32) -> f32 {
        a.cast_signed() as f32
    }

    #[inline(always)]
    fn add(self, a: f32, b: f32) -> f32 {
        a + b
    }

    #[inline(always)]
    fn subtract(self, a: f32, b: f32) -> f32 {
        a - b
    }

    #[inline(always)]
    fn multiply(self, a: f32, b: f32) -> f32 {
        a * b
    }

    #[inline(always)]
    fn square_root(self, a: f32) -> f32 {
        a.sqrt()
    }

    #[inline(always)]
    fn select(self, sign: u32, a: f32, b: f32) -> f32 {
        if sign >> 31 == 1 { a } else { b }
    }

    #[inline(always)]
    fn store(self, numbers: [f32; 4], out: &mut [f32]) {
        out.copy_from_slice(&numbers);
    }
}
