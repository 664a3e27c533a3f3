//! Numbers quantized in blocks, as in gguf files. The formats are those of ggml (`ggml-common.h` and `ggml-quants.c` of llama.cpp).

use half::f16;

/// A format of blocks: all numbers of one share a scale, those of the K formats in groups of 16 or 32 with scales of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlockFormat {
    /// 4 bits, a scale.
    Q4_0,
    /// 4 bits, a scale and a smallest value.
    Q4_1,
    /// 5 bits, a scale.
    Q5_0,
    /// 5 bits, a scale and a smallest value.
    Q5_1,
    /// 8 bits, a scale.
    Q8_0,
    /// 2 bits, groups of 16 with a scale and a smallest value of 4 bits each.
    Q2K,
    /// 3 bits, groups of 16 with a scale of 6 bits.
    Q3K,
    /// 4 bits, groups of 32 with a scale and a smallest value of 6 bits each.
    Q4K,
    /// 5 bits, groups of 32 with a scale and a smallest value of 6 bits each.
    Q5K,
    /// 6 bits, groups of 16 with a scale of 8 bits.
    Q6K,
}

/// Numbers of a block of the K formats.
const LONG: usize = 256;

/// Numbers of a block of the others.
const SHORT: usize = 32;

impl BlockFormat {
    /// The published name: `Q4_0`, `Q4_K`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// Numbers of a block.
    pub(super) fn numbers(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => SHORT,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => LONG,
        }
    }

    /// Bytes of a block.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 2 + SHORT / 2,
            Self::Q4_1 => 2 + 2 + SHORT / 2,
            Self::Q5_0 => 2 + SHORT / 8 + SHORT / 2,
            Self::Q5_1 => 2 + 2 + SHORT / 8 + SHORT / 2,
            Self::Q8_0 => 2 + SHORT,
            Self::Q2K => LONG / 16 + LONG / 4 + 2 + 2,
            Self::Q3K => LONG / 8 + LONG / 4 + SCALES + 2,
            Self::Q4K => 2 + 2 + SCALES + LONG / 2,
            Self::Q5K => 2 + 2 + SCALES + LONG / 8 + LONG / 2,
            Self::Q6K => LONG / 2 + LONG / 4 + LONG / 16 + 2,
        }
    }

    /// The numbers from number `start` of the blocks in `bytes`.
    ///
    /// # Panics
    /// If `bytes` is too short.
    pub(super) fn decode(self, bytes: &[u8], start: usize, out: &mut [f32]) {
        let (size, numbers) = (self.bytes(), self.numbers());
        let mut whole = [0.0; LONG];
        let (mut rest, mut place) = (out, start);
        while !rest.is_empty() {
            let (block, inside) = (place / numbers, place % numbers);
            let block = &bytes[block * size..(block + 1) * size];
            let (part, after) = rest.split_at_mut((numbers - inside).min(rest.len()));
            if part.len() == numbers {
                self.block(block, part);
            } else {
                self.block(block, &mut whole[..numbers]);
                part.copy_from_slice(&whole[inside..inside + part.len()]);
            }
            place += part.len();
            rest = after;
        }
    }

    /// The numbers of one block.
    fn block(self, block: &[u8], out: &mut [f32]) {
        match self {
            Self::Q4_0 => {
                let scale = half_at(block, 0);
                halves(&block[2..], out, |_, low| (f32::from(low) - 8.0) * scale);
            }
            Self::Q4_1 => {
                let (scale, least) = (half_at(block, 0), half_at(block, 2));
                halves(&block[4..], out, |_, low| f32::from(low) * scale + least);
            }
            Self::Q5_0 => {
                let (scale, high) = (half_at(block, 0), &block[2..6]);
                halves(&block[6..], out, |i, low| (f32::from(low | fifth(high, i)) - 16.0) * scale);
            }
            Self::Q5_1 => {
                let (scale, least, high) = (half_at(block, 0), half_at(block, 2), &block[4..8]);
                halves(&block[8..], out, |i, low| f32::from(low | fifth(high, i)) * scale + least);
            }
            Self::Q8_0 => {
                let scale = half_at(block, 0);
                out.iter_mut().zip(&block[2..]).for_each(|(out, &byte)| *out = f32::from(byte as i8) * scale);
            }
            Self::Q2K => two_bits(block, out),
            Self::Q3K => three_bits(block, out),
            Self::Q4K => {
                let (header, low) = block.split_at(4 + SCALES);
                groups_of_32(header, low, out, |_, _| 0);
            }
            Self::Q5K => {
                let (header, rest) = block.split_at(4 + SCALES);
                let (high, low) = rest.split_at(LONG / 8);
                groups_of_32(header, low, out, |group, i| (high[i] >> group & 1) << 4);
            }
            Self::Q6K => six_bits(block, out),
        }
    }
}

/// Bytes of the scales of 6 bits.
const SCALES: usize = 12;

fn half_at(block: &[u8], place: usize) -> f32 {
    f16::from_le_bytes([block[place], block[place + 1]]).to_f32()
}

/// Numbers of 4 bits: the first half of a block in the low bits of its bytes, the second half in the high ones.
#[inline(always)]
fn halves(low: &[u8], out: &mut [f32], value: impl Fn(usize, u8) -> f32) {
    let (first, second) = out.split_at_mut(SHORT / 2);
    for (i, ((first, second), &byte)) in first.iter_mut().zip(second).zip(low).enumerate() {
        *first = value(i, byte & 15);
        *second = value(i + SHORT / 2, byte >> 4);
    }
}

/// The fifth bit of number `i`, in its place.
fn fifth(high: &[u8], i: usize) -> u8 {
    (high[i / 8] >> (i % 8) & 1) << 4
}

/// Scale and smallest value of a group of 32, 6 bits each: of the first four groups in bytes of their own, whose upper two bits are those
/// of the other four.
fn scale_and_least(scales: &[u8], group: usize) -> (u8, u8) {
    if group < 4 {
        (scales[group] & 63, scales[group + 4] & 63)
    } else {
        let (low, high) = (scales[group + 4] & 15, scales[group + 4] >> 4);
        (low | scales[group - 4] >> 6 << 4, high | scales[group] >> 6 << 4)
    }
}

/// Eight groups of 32, two and two in the low and the high bits of 32 bytes; `upper` are the bits of a number beyond four.
#[inline(always)]
fn groups_of_32(header: &[u8], low: &[u8], out: &mut [f32], upper: impl Fn(usize, usize) -> u8) {
    let (scale, least, scales) = (half_at(header, 0), half_at(header, 2), &header[4..]);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (own_scale, own_least) = scale_and_least(scales, group);
        let (scale, least) = (scale * f32::from(own_scale), least * f32::from(own_least));
        let (low, shift) = (&low[group / 2 * 32..][..32], group % 2 * 4);
        for (i, (out, &byte)) in out.iter_mut().zip(low).enumerate() {
            *out = scale * f32::from(byte >> shift & 15 | upper(group, i)) - least;
        }
    }
}

/// Two halves of 128, whose numbers stand at four shifts in the same 32 bytes; groups of 16.
fn two_bits(block: &[u8], out: &mut [f32]) {
    let (scales, rest) = block.split_at(LONG / 16);
    let (low, rest) = rest.split_at(LONG / 4);
    let (scale, least) = (half_at(rest, 0), half_at(rest, 2));
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let (scale, least) = (scale * f32::from(scales[group] & 15), least * f32::from(scales[group] >> 4));
        let (low, shift) = quarters(low, group);
        out.iter_mut().zip(low).for_each(|(out, &byte)| *out = scale * f32::from(byte >> shift & 3) - least);
    }
}

/// As [`two_bits`], with the third bit of number `i` of every 32 in byte `i`, and scales of 6 bits: 4 in the halves of the first 8 bytes,
/// 2 at four shifts in the last 4.
fn three_bits(block: &[u8], out: &mut [f32]) {
    let (high, rest) = block.split_at(LONG / 8);
    let (low, rest) = rest.split_at(LONG / 4);
    let (scales, scale) = (&rest[..SCALES], half_at(rest, SCALES));
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let four = scales[group % 8] >> (group / 8 * 4) & 15;
        let two = scales[8 + group % 4] >> (group / 4 * 2) & 3;
        let scale = scale * (f32::from(four | two << 4) - 32.0);
        let high = &high[group % 2 * 16..][..16];
        let (low, shift) = quarters(low, group);
        for ((out, &byte), &high) in out.iter_mut().zip(low).zip(high) {
            let number = byte >> shift & 3 | (high >> (group / 2) & 1) << 2;
            *out = scale * (f32::from(number) - 4.0);
        }
    }
}

/// The 16 bytes of a group of 16 numbers of two bits, and where in each they stand.
fn quarters(low: &[u8], group: usize) -> (&[u8], usize) {
    (&low[group / 8 * 32 + group % 2 * 16..][..16], group % 8 / 2 * 2)
}

/// Two halves of 128 with four bits in 64 bytes and two bits in 32; groups of 16.
fn six_bits(block: &[u8], out: &mut [f32]) {
    let (low, rest) = block.split_at(LONG / 2);
    let (high, rest) = rest.split_at(LONG / 4);
    let (scales, scale) = (&rest[..LONG / 16], half_at(rest, LONG / 16));
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let (half, inside) = (group / 8, group % 8 * 16);
        let (quarter, place) = (inside / 32, inside % 32);
        let low = &low[half * 64 + quarter % 2 * 32 + place..][..16];
        let high = &high[half * 32 + place..][..16];
        let scale = scale * f32::from(scales[group] as i8);
        for ((out, &low), &high) in out.iter_mut().zip(low).zip(high) {
            let number = low >> (quarter / 2 * 4) & 15 | (high >> (2 * quarter) & 3) << 4;
            *out = scale * (f32::from(number) - 32.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::CpuStorage;
    use candle_core::quantized::GgmlDType;

    use super::*;

    const FORMATS: [(BlockFormat, GgmlDType); 10] = [
        (BlockFormat::Q4_0, GgmlDType::Q4_0),
        (BlockFormat::Q4_1, GgmlDType::Q4_1),
        (BlockFormat::Q5_0, GgmlDType::Q5_0),
        (BlockFormat::Q5_1, GgmlDType::Q5_1),
        (BlockFormat::Q8_0, GgmlDType::Q8_0),
        (BlockFormat::Q2K, GgmlDType::Q2K),
        (BlockFormat::Q3K, GgmlDType::Q3K),
        (BlockFormat::Q4K, GgmlDType::Q4K),
        (BlockFormat::Q5K, GgmlDType::Q5K),
        (BlockFormat::Q6K, GgmlDType::Q6K),
    ];

    /// Blocks of all bytes, whose scales are numbers: an exponent of all ones is none.
    fn blocks(count: usize, size: usize) -> Vec<u8> {
        let mut state = 1u64;
        let mut byte = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let byte = (state >> 56) as u8;
            if byte & 0x7c == 0x7c { byte & 0xbf } else { byte }
        };
        (0..count * size).map(|_| byte()).collect()
    }

    #[test]
    fn every_format_has_the_bits_of_candle() {
        for (format, theirs) in FORMATS {
            assert_eq!((format.bytes(), format.numbers()), (theirs.type_size(), theirs.block_size()), "{format:?}");
            let count = 50;
            let bytes = blocks(count, format.bytes());
            let expected = match theirs.from_data((&bytes[..]).into()).dequantize(count * format.numbers()).unwrap() {
                CpuStorage::F32(values) => values,
                _ => panic!("{theirs:?} is f32"),
            };
            let mut found = vec![f32::NAN; expected.len()];
            format.decode(&bytes, 0, &mut found);
            let same = |found: &[f32], expected: &[f32]| found.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits() || a == b);
            assert!(expected.iter().all(|value| value.is_finite()) && same(&found, &expected), "{format:?}");
            // Any part of them.
            for (start, length) in [(0, 1), (3, 40), (format.numbers() - 1, 2), (5, 3 * format.numbers()), (777, 0)] {
                let mut part = vec![f32::NAN; length];
                format.decode(&bytes, start, &mut part);
                assert!(same(&part, &expected[start..start + length]), "{format:?} from {start}");
            }
        }
    }
}
