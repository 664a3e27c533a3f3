//! AVX2: 8 blocks at a time.

use std::arch::x86_64::*;

use super::intrinsics;
use crate::random::lanes::{Operations, Task};
use crate::random::philox::{MULTIPLIERS, Schedule};

/// AVX2, of a machine that has it.
#[derive(Debug, Clone, Copy)]
pub(in crate::random) struct Avx2(());

impl Avx2 {
    pub(in crate::random) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }

    #[inline]
    pub(in crate::random) fn run<T: Task>(self, task: T) -> T::Output {
        #[target_feature(enable = "avx2")]
        fn compiled<T: Task>(task: T, lanes: Avx2) -> T::Output {
            task.run(lanes)
        }
        intrinsics!(compiled(task, self))
    }
}

impl Operations for Avx2 {
    type Bits = __m256i;
    type Float = __m256;

    const BLOCKS: usize = 8;

    #[inline(always)]
    fn words(self, schedule: &Schedule, first: u64, index: u64) -> [__m256i; 4] {
        // Lane 4 i + j of the result holds block 2 j + i, see `store`. The even lanes are one
        // vector of 64-bit lanes, the odd ones another.
        let (even, odd) = intrinsics!({
            let even = _mm256_add_epi64(_mm256_set1_epi64x(first.cast_signed()), _mm256_set_epi64x(5, 1, 4, 0));
            (even, _mm256_add_epi64(even, _mm256_set1_epi64x(2)))
        });
        let ([a, b, c, d], [e, f, g, h]) = (rounds(schedule, even, index), rounds(schedule, odd, index));
        [pair(a, e), pair(b, f), pair(c, g), pair(d, h)]
    }

    #[inline(always)]
    fn bits(self, value: u32) -> __m256i {
        intrinsics!(_mm256_set1_epi32(value.cast_signed()))
    }

    #[inline(always)]
    fn float(self, value: f32) -> __m256 {
        intrinsics!(_mm256_set1_ps(value))
    }

    #[inline(always)]
    fn and(self, a: __m256i, b: __m256i) -> __m256i {
        intrinsics!(_mm256_and_si256(a, b))
    }

    #[inline(always)]
    fn or(self, a: __m256i, b: __m256i) -> __m256i {
        intrinsics!(_mm256_or_si256(a, b))
    }

    #[inline(always)]
    fn xor(self, a: __m256i, b: __m256i) -> __m256i {
        intrinsics!(_mm256_xor_si256(a, b))
    }

    #[inline(always)]
    fn add_bits(self, a: __m256i, b: __m256i) -> __m256i {
        intrinsics!(_mm256_add_epi32(a, b))
    }

    #[inline(always)]
    fn subtract_bits(self, a: __m256i, b: __m256i) -> __m256i {
        intrinsics!(_mm256_sub_epi32(a, b))
    }

    #[inline(always)]
    fn shift_left<const BITS: i32>(self, a: __m256i) -> __m256i {
        intrinsics!(_mm256_sllv_epi32(a, _mm256_set1_epi32(BITS)))
    }

    #[inline(always)]
    fn shift_right<const BITS: i32>(self, a: __m256i) -> __m256i {
        intrinsics!(_mm256_srav_epi32(a, _mm256_set1_epi32(BITS)))
    }

    #[inline(always)]
    fn to_bits(self, a: __m256) -> __m256i {
        intrinsics!(_mm256_castps_si256(a))
    }

    #[inline(always)]
    fn of_bits(self, a: __m256i) -> __m256 {
        intrinsics!(_mm256_castsi256_ps(a))
    }

    #[inline(always)]
    fn to_float(self, a: __m256i) -> __m256 {
        intrinsics!(_mm256_cvtepi32_ps(a))
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        intrinsics!(_mm256_add_ps(a, b))
    }

    #[inline(always)]
    fn subtract(self, a: __m256, b: __m256) -> __m256 {
        intrinsics!(_mm256_sub_ps(a, b))
    }

    #[inline(always)]
    fn multiply(self, a: __m256, b: __m256) -> __m256 {
        intrinsics!(_mm256_mul_ps(a, b))
    }

    #[inline(always)]
    fn square_root(self, a: __m256) -> __m256 {
        intrinsics!(_mm256_sqrt_ps(a))
    }

    #[inline(always)]
    fn select(self, sign: __m256i, a: __m256, b: __m256) -> __m256 {
        intrinsics!(_mm256_blendv_ps(b, a, _mm256_castsi256_ps(sign)))
    }

    #[inline(always)]
    fn store(self, [a, b, c, d]: [__m256; 4], out: &mut [f32]) {
        let out: &mut [[f32; 8]; 4] = out.as_chunks_mut().0.try_into().expect("32 places");
        // Within every part of 128 bits, four numbers each of four blocks become four blocks of
        // four.
        let rows = intrinsics!({
            let (low, lower) = (_mm256_castps_pd(_mm256_unpacklo_ps(a, b)), _mm256_castps_pd(_mm256_unpacklo_ps(c, d)));
            let (high, higher) = (_mm256_castps_pd(_mm256_unpackhi_ps(a, b)), _mm256_castps_pd(_mm256_unpackhi_ps(c, d)));
            [
                _mm256_castpd_ps(_mm256_unpacklo_pd(low, lower)),
                _mm256_castpd_ps(_mm256_unpackhi_pd(low, lower)),
                _mm256_castpd_ps(_mm256_unpacklo_pd(high, higher)),
                _mm256_castpd_ps(_mm256_unpackhi_pd(high, higher)),
            ]
        });
        for (row, out) in rows.into_iter().zip(out) {
            // SAFETY: `out` has the 8 places that are written, and the machine has the instructions
            // (see `intrinsics`).
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), row) };
        }
    }
}

/// The words of blocks, in the lower halves of 64-bit lanes.
#[inline(always)]
fn rounds(schedule: &Schedule, blocks: __m256i, index: u64) -> [__m256i; 4] {
    intrinsics!({
        let multipliers = [_mm256_set1_epi64x(i64::from(MULTIPLIERS[0])), _mm256_set1_epi64x(i64::from(MULTIPLIERS[1]))];
        let index = _mm256_set1_epi64x(index.cast_signed());
        let (mut a, mut b, mut c, mut d) = (blocks, _mm256_srli_epi64::<32>(blocks), index, _mm256_srli_epi64::<32>(index));
        for [first, second] in schedule.0 {
            let (p, q) = (_mm256_mul_epu32(a, multipliers[0]), _mm256_mul_epu32(c, multipliers[1]));
            a = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64::<32>(q), b), _mm256_set1_epi64x(i64::from(first)));
            c = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64::<32>(p), d), _mm256_set1_epi64x(i64::from(second)));
            (b, d) = (q, p);
        }
        [a, b, c, d]
    })
}

/// One vector of the lower halves of two, by turns.
#[inline(always)]
fn pair(even: __m256i, odd: __m256i) -> __m256i {
    intrinsics!(_mm256_blend_epi32::<0xaa>(even, _mm256_slli_epi64::<32>(odd)))
}
