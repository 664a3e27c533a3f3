//! Arrays and numbers of numpy: what they are made of in a stream.

use super::{Pickle, Value};

/// What an array is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ElementType {
    /// `i`, `u`, `f` or `b`: integers with and without sign, floating-point numbers, truth values.
    pub kind: char,
    /// Bytes of an element.
    pub size: usize,
    /// Whether the first byte is the highest.
    pub is_big_endian: bool,
}

impl ElementType {
    /// The type by numpy's name for it, such as `u1`; `None` for arrays of objects, texts and dates.
    pub(super) fn new(name: &str) -> Option<Self> {
        let mut letters = name.chars();
        let kind = letters.next().filter(|kind| matches!(kind, 'i' | 'u' | 'f' | 'b'))?;
        let size = letters.as_str().parse().ok().filter(|size| matches!(size, 1 | 2 | 4 | 8))?;
        Some(Self { kind, size, is_big_endian: false })
    }

    /// A number of this type; `None` for half precision.
    pub(super) fn value<'a>(self, bytes: &[u8]) -> Option<Value<'a>> {
        if bytes.len() != self.size {
            return None;
        }
        let mut word = [0; 8];
        for (place, byte) in word.iter_mut().zip(bytes) {
            *place = *byte;
        }
        if self.is_big_endian {
            word[..self.size].reverse();
        }
        let unused = 64 - 8 * self.size as u32;
        let bits = u64::from_le_bytes(word);
        Some(match (self.kind, self.size) {
            ('b', _) => Value::Bool(bits != 0),
            ('i', _) => Value::Int((bits << unused) as i64 >> unused),
            // One that is too large for every use of integers here.
            ('u', _) => Value::Int(i64::try_from(bits).unwrap_or(i64::MAX)),
            ('f', 8) => Value::Float(f64::from_bits(bits)),
            ('f', 4) => Value::Float(f32::from_bits(bits as u32).into()),
            _ => return None,
        })
    }
}

/// An array of numpy.
#[derive(Debug, Clone, PartialEq)]
pub struct Array<'a> {
    /// Its shape.
    pub shape: Vec<i64>,
    /// What its elements are.
    pub element: ElementType,
    /// Whether the first index varies fastest, instead of the last.
    pub is_fortran: bool,
    /// Its elements as they are stored, of the length that shape and type ask for: see [`Pickle::bytes`].
    pub content: Value<'a>,
}

impl<'a> Pickle<'a> {
    /// The elements of an array as they are stored.
    #[must_use]
    pub fn elements(&self, array: &Array<'a>) -> &[u8] {
        self.bytes(array.content).unwrap_or_default()
    }

    /// Integers: a list or tuple of them, or an array of one dimension. `Err` has the first value that is none, or the value itself.
    pub fn integers(&self, value: Value<'a>) -> Result<Vec<i64>, Value<'a>> {
        let integer = |value: Value<'a>| if let Value::Int(number) = value { Ok(number) } else { Err(value) };
        if let Value::Array(place) = value {
            let array = &self.arrays[place];
            if array.shape.len() != 1 {
                return Err(value);
            }
            return self
                .elements(array)
                .chunks_exact(array.element.size)
                .map(|bytes| integer(array.element.value(bytes).ok_or(value)?))
                .collect();
        }
        self.items(value).ok_or(value)?.iter().copied().map(integer).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_by_their_type() {
        let value = |name: &str, is_big_endian, bytes: &[u8]| ElementType { is_big_endian, ..ElementType::new(name).unwrap() }.value(bytes);
        assert_eq!(value("i2", false, &[0xfe, 0xff]), Some(Value::Int(-2)));
        assert_eq!(value("i4", true, &[0, 0, 1, 2]), Some(Value::Int(258)));
        assert_eq!(value("u8", false, &[0xff; 8]), Some(Value::Int(i64::MAX)));
        assert_eq!(value("f4", false, &1.5f32.to_le_bytes()), Some(Value::Float(1.5)));
        assert_eq!(value("b1", false, &[1]), Some(Value::Bool(true)));
        assert_eq!(value("u1", false, &[1, 2]), None);
        for name in ["O8", "U3", "i3", "f16", "", "i", "M8"] {
            assert_eq!(ElementType::new(name), None, "{name}");
        }
    }
}
