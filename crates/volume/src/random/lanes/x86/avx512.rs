//! AVX-512: 16 blocks at a time.

use std::arch::x86_64::*;

use super::intrinsics;
use crate::random::lanes::{Operations, Task};
use crate::random::philox::{MULTIPLIERS, Schedule};

/// AVX-512 (its foundation alone), of a machine that has it.
#[derive(Debug, Clone, Copy)]
pub(in crate::random) struct Avx512(());

impl Avx512 {
    pub(in crate::random) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx512f").then_some(Self(()))
    }

    #[inline]
    pub(in crate::random) fn run<T: Task>(self, task: T) -> T::Output {
        #[target_feature(enable = "avx512f")]
        fn compiled<T: Task>(task: T, lanes: Avx512) -> T::Output {
            task.run(lanes)
        }
        intrinsics!(compiled(task, self))
    }
}

/// The truth table of the exclusive or of three bits.
const XOR: i32 = 0x96;

impl Operations for Avx512 {
    type Bits = __m512i;
    type Float = __m512;

    const BLOCKS: usize = 16;

    #[inline(always)]
    fn words(self, schedule: &Schedule, first: u64, index: u64) -> [__m512i; 4] {
        // Lane 4 i + j of the result holds block 4 j + i, see `store`. The even lanes are one
        // vector of 64-bit lanes, the odd ones another.
        let (even, odd) = intrinsics!({
            let even = _mm512_add_epi64(_mm512_set1_epi64(first.cast_signed()), _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0));
            (even, _mm512_add_epi64(even, _mm512_set1_epi64(4)))
        });
        let ([a, b, c, d], [e, f, g, h]) = (rounds(schedule, even, index), rounds(schedule, odd, index));
        [pair(a, e), pair(b, f), pair(c, g), pair(d, h)]
    }

    #[inline(always)]
    fn bits(self, value: u32) -> __m512i {
        intrinsics!(_mm512_set1_epi32(value.cast_signed()))
    }

    #[inline(always)]
    fn float(self, value: f32) -> __m512 {
        intrinsics!(_mm512_set1_ps(value))
    }

    #[inline(always)]
    fn and(self, a: __m512i, b: __m512i) -> __m512i {
        intrinsics!(_mm512_and_si512(a, b))
    }

    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        intrinsics!(_mm512_or_si512(a, b))
    }

    #[inline(always)]
    fn xor(self, a: __m512i, b: __m512i) -> __m512i {
        intrinsics!(_mm512_xor_si512(a, b))
    }

    #[inline(always)]
    fn add_bits(self, a: __m512i, b: __m512i) -> __m512i {
        intrinsics!(_mm512_add_epi32(a, b))
    }

    #[inline(always)]
    fn subtract_bits(self, a: __m512i, b: __m512i) -> __m512i {
        intrinsics!(_mm512_sub_epi32(a, b))
    }

    #[inline(always)]
    fn shift_left<const BITS: i32>(self, a: __m512i) -> __m512i {
        intrinsics!(_mm512_sllv_epi32(a, _mm512_set1_epi32(BITS)))
    }

    #[inline(always)]
    fn shift_right<const BITS: i32>(self, a: __m512i) -> __m512i {
        intrinsics!(_mm512_srav_epi32(a, _mm512_set1_epi32(BITS)))
    }

    #[inline(always)]
    fn to_bits(self, a: __m512) -> __m512i {
        intrinsics!(_mm512_castps_si512(a))
    }

    #[inline(always)]
    fn of_bits(self, a: __m512i) -> __m512 {
        intrinsics!(_mm512_castsi512_ps(a))
    }

    #[inline(always)]
    fn to_float(self, a: __m512i) -> __m512 {
        intrinsics!(_mm512_cvtepi32_ps(a))
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        intrinsics!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn subtract(self, a: __m512, b: __m512) -> __m512 {
        intrinsics!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn multiply(self, a: __m512, b: __m512) -> __m512 {
        intrinsics!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn square_root(self, a: __m512) -> __m512 {
        intrinsics!(_mm512_sqrt_ps(a))
    }

    #[inline(always)]
    fn select(self, sign: __m512i, a: __m512, b: __m512) -> __m512 {
        intrinsics!(_mm512_mask_blend_ps(_mm512_cmplt_epi32_mask(sign, _mm512_setzero_si512()), b, a))
    }

    #[inline(always)]
    fn store(self, [a, b, c, d]: [__m512; 4], out: &mut [f32]) {
        let out: &mut [[f32; 16]; 4] = out.as_chunks_mut().0.try_into().expect("64 places");
        // Within every part of 128 bits, four numbers each of four blocks become four blocks of
        // four.
        let rows = intrinsics!({
            let (low, lower) = (_mm512_castps_pd(_mm512_unpacklo_ps(a, b)), _mm512_castps_pd(_mm512_unpacklo_ps(c, d)));
            let (high, higher) = (_mm512_castps_pd(_mm512_unpackhi_ps(a, b)), _mm512_castps_pd(_mm512_unpackhi_ps(c, d)));
            [
                _mm512_castpd_ps(_mm512_unpacklo_pd(low, lower)),
                _mm512_castpd_ps(_mm512_unpackhi_pd(low, lower)),
                _mm512_castpd_ps(_mm512_unpacklo_pd(high, higher)),
                _mm512_castpd_ps(_mm512_unpackhi_pd(high, higher)),
            ]
        });
        for (row, out) in rows.into_iter().zip(out) {
            // SAFETY: `out` has the 16 places that are written, and the machine has the
            // instructions (see `intrinsics`).
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), row) };
        }
    }
}

/// The words of blocks, in the lower halves of 64-bit lanes.
#[inline(always)]
fn rounds(schedule: &Schedule, blocks: __m512i, index: u64) -> [__m512i; 4] {
    intrinsics!({
        let multipliers = [_mm512_set1_epi64(i64::from(MULTIPLIERS[0])), _mm512_set1_epi64(i64::from(MULTIPLIERS[1]))];
        let index = _mm512_set1_epi64(index.cast_signed());
        let (mut a, mut b, mut c, mut d) = (blocks, _mm512_srli_epi64::<32>(blocks), index, _mm512_srli_epi64::<32>(index));
        for [first, second] in schedule.0 {
            let (p, q) = (_mm512_mul_epu32(a, multipliers[0]), _mm512_mul_epu32(c, multipliers[1]));
            a = _mm512_ternarylogic_epi64::<XOR>(_mm512_srli_epi64::<32>(q), b, _mm512_set1_epi64(i64::from(first)));
            c = _mm512_ternarylogic_epi64::<XOR>(_mm512_srli_epi64::<32>(p), d, _mm512_set1_epi64(i64::from(second)));
            (b, d) = (q, p);
        }
        [a, b, c, d]
    })
}

/// One vector of the lower halves of two, by turns.
#[inline(always)]
fn pair(even: __m512i, odd: __m512i) -> __m512i {
    intrinsics!(_mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64::<32>(odd)))
}
