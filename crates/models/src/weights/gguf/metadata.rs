//! The metadata of a gguf file: values by their keys, read from the mapped file when they are asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::weights::stored::MappedFile;

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum GgufValue {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// Any floating-point number.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text; invalid UTF-8 is replaced.
    Text(String),
    /// Values of one kind.
    Array(Vec<GgufValue>),
}

impl GgufValue {
    /// The value, if it is an integer that is not negative.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::Unsigned(value) => Some(value),
            Self::Signed(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// The value, if it is a number.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::Float(value) => Some(value),
            Self::Unsigned(value) => Some(value as f64),
            Self::Signed(value) => Some(value as f64),
            _ => None,
        }
    }

    /// The value, if it is a text.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value, if it is a truth value.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }
}

/// The metadata of a gguf file. Values stay in the mapped file until they are asked for: a vocabulary is large.
#[derive(Debug)]
pub struct Gguf {
    pub(super) file: Arc<MappedFile>,
    pub(super) version: u32,
    /// Type and place of every value.
    pub(super) values: BTreeMap<String, (u32, usize)>,
    /// Shapes of the tensors under their own names.
    pub(super) shapes: BTreeMap<String, Vec<usize>>,
    /// Correction factors of the rotary frequencies (`rope_freqs.weight`).
    pub(in crate::weights) rotary_factors: Option<Vec<f32>>,
    /// Whether `output.weight` is there and repeats `token_embd.weight` byte for byte.
    pub(super) tied_output: bool,
}

impl Gguf {
    /// The keys of the metadata, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// The value of a key. An array is built whole, at up to 32 times its size in the file.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<GgufValue> {
        let &(kind, at) = self.values.get(key)?;
        // The same reading went through when the file was opened.
        Cursor { bytes: self.file.bytes(), at, version: self.version }.value(kind, 0).ok()
    }

    /// The value of a key that should not be an array; an array comes back empty, whatever its length.
    pub(super) fn scalar(&self, key: &str) -> Option<GgufValue> {
        match self.values.get(key)? {
            (ARRAY, _) => Some(GgufValue::Array(Vec::new())),
            _ => self.get(key),
        }
    }

    /// llama.cpp's name of the architecture (`general.architecture`).
    #[must_use]
    pub fn architecture(&self) -> Option<String> {
        Some(self.scalar("general.architecture")?.as_str()?.to_owned())
    }

    /// The shape of a tensor under its gguf name, slowest dimension first.
    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(self.shapes.get(name)?)
    }
}

/// Bytes being read.
pub(super) struct Cursor<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
    pub(super) version: u32,
}

const TRUNCATED: &str = "it is a truncated gguf file";

/// The type of an array of values.
const ARRAY: u32 = 9;

/// Arrays of arrays are read this deep: none are known.
const MAX_DEPTH: usize = 4;

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len()).ok_or(TRUNCATED)?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.try_into().map_err(|_| TRUNCATED.to_owned())
    }

    pub(super) fn word(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// A count or length, 32 bits wide in version 1 and 64 bits since.
    pub(super) fn length(&mut self) -> Result<usize, String> {
        let length = if self.version == 1 { self.word()?.into() } else { u64::from_le_bytes(self.array()?) };
        // Whatever is counted takes a byte or more.
        usize::try_from(length).ok().filter(|&length| length <= self.bytes.len() - self.at).ok_or_else(|| TRUNCATED.to_owned())
    }

    fn text(&mut self) -> Result<&'a [u8], String> {
        let length = self.length()?;
        self.take(length)
    }

    pub(super) fn name(&mut self) -> Result<String, String> {
        String::from_utf8(self.text()?.to_vec()).map_err(|_| "it has a name that is not UTF-8".to_owned())
    }

    /// Passes over a value without building it.
    pub(super) fn skip(&mut self, kind: u32, depth: usize) -> Result<(), String> {
        match kind {
            8 => _ = self.text()?,
            ARRAY => {
                let kind = self.word()?;
                let length = self.length()?;
                match scalar_size(kind) {
                    Some(size) => _ = self.take(length.checked_mul(size).ok_or(TRUNCATED)?)?,
                    None if depth >= MAX_DEPTH => return Err("its metadata is nested too deeply".to_owned()),
                    None => (0..length).try_for_each(|_| self.skip(kind, depth + 1))?,
                }
            }
            7 => {
                let byte = self.take(1)?[0];
                if byte > 1 {
                    return Err(format!("its metadata has the truth value {byte}"));
                }
            }
            _ => {
                let size = scalar_size(kind).ok_or_else(|| format!("its metadata has a value of the unknown type {kind}"))?;
                self.take(size)?;
            }
        }
        Ok(())
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<GgufValue, String> {
        Ok(match kind {
            0 => GgufValue::Unsigned(self.array::<1>()?[0].into()),
            1 => GgufValue::Signed(i8::from_le_bytes(self.array()?).into()),
            2 => GgufValue::Unsigned(u16::from_le_bytes(self.array()?).into()),
            3 => GgufValue::Signed(i16::from_le_bytes(self.array()?).into()),
            4 => GgufValue::Unsigned(self.word()?.into()),
            5 => GgufValue::Signed(i32::from_le_bytes(self.array()?).into()),
            // Through the shortest decimal, so that 1e-5 stays 1e-5 in a configuration.
            6 => GgufValue::Float(shortest(f32::from_le_bytes(self.array()?))),
            7 => GgufValue::Bool(self.array::<1>()?[0] != 0),
            8 => GgufValue::Text(String::from_utf8_lossy(self.text()?).into_owned()),
            ARRAY => {
                let kind = self.word()?;
                let length = self.length()?;
                if depth >= MAX_DEPTH {
                    return Err("its metadata is nested too deeply".to_owned());
                }
                GgufValue::Array((0..length).map(|_| self.value(kind, depth + 1)).collect::<Result<_, _>>()?)
            }
            10 => GgufValue::Unsigned(u64::from_le_bytes(self.array()?)),
            11 => GgufValue::Signed(i64::from_le_bytes(self.array()?)),
            12 => GgufValue::Float(f64::from_le_bytes(self.array()?)),
            _ => return Err(format!("its metadata has a value of the unknown type {kind}")),
        })
    }
}

fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

fn scalar_size(kind: u32) -> Option<usize> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}
