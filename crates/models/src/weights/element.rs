//! The number formats of stored tensors, and their conversion to `f32`.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::BlockFormat;

/// How the elements of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Element {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single-precision number.
    BF16,
    /// IEEE double precision, rounded to `f32` on reading.
    F64,
    /// Blocks of quantized numbers, as in gguf files.
    Quantized(BlockFormat),
    /// A format that weights do not have (integers, booleans, 8-bit floats): it can be listed, but not read.
    Other(&'static str),
}

impl Element {
    /// The format's usual name: `F32`, `BF16`, `Q4_K`.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::F32 | Self::F16 | Self::BF16 | Self::F64 => format!("{self:?}"),
            Self::Quantized(format) => format.name().to_owned(),
            Self::Other(name) => name.to_owned(),
        }
    }

    /// Bytes and elements of one block; None when the format cannot be read.
    pub(super) fn block(self) -> Option<(usize, usize)> {
        match self {
            Self::F32 => Some((4, 1)),
            Self::F16 | Self::BF16 => Some((2, 1)),
            Self::F64 => Some((8, 1)),
            Self::Quantized(format) => Some((format.bytes(), format.numbers())),
            Self::Other(_) => None,
        }
    }

    /// Bytes of `count` elements; None when the format cannot be read, when the last block would be a part, or on overflow.
    pub(super) fn byte_length(self, count: usize) -> Option<usize> {
        let (bytes, elements) = self.block()?;
        count.is_multiple_of(elements).then(|| (count / elements).checked_mul(bytes))?
    }
}

/// The elements from number `start` of a dense tensor stored in `bytes`.
///
/// # Panics
/// If `bytes` is too short, or the format cannot be read: the readers check both when they open a file.
pub(super) fn decode(element: Element, bytes: &[u8], start: usize, out: &mut [f32]) {
    match element {
        Element::F32 => {
            let (words, _) = bytes[4 * start..4 * (start + out.len())].as_chunks::<4>();
            for (out, &word) in out.iter_mut().zip(words) {
                *out = f32::from_le_bytes(word);
            }
        }
        Element::F64 => {
            let (words, _) = bytes[8 * start..8 * (start + out.len())].as_chunks::<8>();
            for (out, &word) in out.iter_mut().zip(words) {
                *out = f64::from_le_bytes(word) as f32;
            }
        }
        Element::BF16 => {
            let (words, _) = bytes[2 * start..2 * (start + out.len())].as_chunks::<2>();
            for (out, &word) in out.iter_mut().zip(words) {
                *out = bf16::from_le_bytes(word).to_f32();
            }
        }
        Element::F16 => {
            // By pieces, because a whole slice is converted by vector instructions where single numbers are not.
            let (words, _) = bytes[2 * start..2 * (start + out.len())].as_chunks::<2>();
            let mut piece = [f16::ZERO; 256];
            for (out, words) in out.chunks_mut(256).zip(words.chunks(256)) {
                for (number, &word) in piece.iter_mut().zip(words) {
                    *number = f16::from_le_bytes(word);
                }
                piece[..out.len()].convert_to_f32_slice(out);
            }
        }
        Element::Quantized(format) => format.decode(bytes, start, out),
        Element::Other(name) => panic!("elements of type {name} cannot be read"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_precision_number_is_converted() {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let mut out = vec![0.0; 1 << 16];
        for (element, convert) in [
            (Element::F16, (|bits| f16::from_bits(bits).to_f32()) as fn(u16) -> f32),
            (Element::BF16, |bits| f32::from_bits(u32::from(bits) << 16)),
        ] {
            decode(element, &bytes, 0, &mut out);
            for (bits, value) in (0..=u16::MAX).zip(&out) {
                let exact = convert(bits);
                assert!(value.to_bits() == exact.to_bits() || value.is_nan() && exact.is_nan(), "{element:?} {bits:#06x}");
            }
            let mut part = vec![0.0; 700];
            decode(element, &bytes, 1001, &mut part);
            assert!(part.iter().zip(&out[1001..]).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan()));
        }
    }

    #[test]
    fn doubles_are_rounded_once() {
        let values = [0.1f64, -1e300, 1e-300, 3.5];
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut out = [0.0; 3];
        decode(Element::F64, &bytes, 1, &mut out);
        assert_eq!(out, [f32::NEG_INFINITY, 0.0, 3.5]);
    }
}
