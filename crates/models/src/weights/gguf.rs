//! The gguf format of llama.cpp: metadata, and tensors that may be quantized in blocks.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use serde_json::{Map, Value};

use super::element::Element;
use super::error::{WeightsError, printable};
use super::store::{MappedFile, StoredTensor, element_count};
use super::{gguf_config, gguf_names};

/// The first bytes of a file.
pub(super) const MAGIC: &[u8] = b"GGUF";

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
    file: Arc<MappedFile>,
    version: u32,
    /// Type and place of every value.
    values: BTreeMap<String, (u32, usize)>,
    /// Shapes of the tensors under their own names.
    shapes: BTreeMap<String, Vec<usize>>,
    /// Correction factors of the rotary frequencies (`rope_freqs.weight`).
    pub(super) rotary_factors: Option<Vec<f32>>,
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

    /// A `config.json` in Hugging Face's terms, made from the metadata.
    ///
    /// # Errors
    /// When the architecture is unknown, or a key that it needs is missing or of another kind.
    pub fn config(&self) -> Result<Map<String, Value>, WeightsError> {
        gguf_config::build(self).map_err(|problem| self.file.fault(problem))
    }
}

/// Bytes being read.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    version: u32,
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

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.try_into().map_err(|_| TRUNCATED.to_owned())
    }

    fn word(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// A count or length, 32 bits wide in version 1 and 64 bits since.
    fn length(&mut self) -> Result<usize, String> {
        let length = if self.version == 1 { self.word()?.into() } else { u64::from_le_bytes(self.array()?) };
        // Whatever is counted takes a byte or more.
        usize::try_from(length).ok().filter(|&length| length <= self.bytes.len() - self.at).ok_or_else(|| TRUNCATED.to_owned())
    }

    fn text(&mut self) -> Result<&'a [u8], String> {
        let length = self.length()?;
        self.take(length)
    }

    fn name(&mut self) -> Result<String, String> {
        String::from_utf8(self.text()?.to_vec()).map_err(|_| "it has a name that is not UTF-8".to_owned())
    }

    /// Passes over a value without building it.
    fn skip(&mut self, kind: u32, depth: usize) -> Result<(), String> {
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

/// The element types that are read. The intermediate formats Q8_1 and Q8_K are never stored.
fn element(kind: u32) -> Option<Element> {
    Some(match kind {
        0 => Element::F32,
        1 => Element::F16,
        2 => Element::Quantized(GgmlDType::Q4_0),
        3 => Element::Quantized(GgmlDType::Q4_1),
        6 => Element::Quantized(GgmlDType::Q5_0),
        7 => Element::Quantized(GgmlDType::Q5_1),
        8 => Element::Quantized(GgmlDType::Q8_0),
        10 => Element::Quantized(GgmlDType::Q2K),
        11 => Element::Quantized(GgmlDType::Q3K),
        12 => Element::Quantized(GgmlDType::Q4K),
        13 => Element::Quantized(GgmlDType::Q5K),
        14 => Element::Quantized(GgmlDType::Q6K),
        24 => Element::Other("I8"),
        25 => Element::Other("I16"),
        26 => Element::Other("I32"),
        27 => Element::Other("I64"),
        28 => Element::F64,
        30 => Element::BF16,
        _ => return None,
    })
}

/// Half the features of the widest head, and then some.
const MAX_FREQUENCIES: usize = 1 << 12;

/// A tensor's description in the header.
struct Description {
    name: String,
    shape: Vec<usize>,
    element: Element,
    offset: u64,
}

fn description(file: &MappedFile, cursor: &mut Cursor) -> Result<Description, WeightsError> {
    let fault = |problem| file.fault(problem);
    let name = cursor.name().map_err(fault)?;
    let rank = cursor.word().map_err(fault)?;
    if rank > 4 {
        return Err(file.tensor_fault(&name, format!("has {rank} dimensions: expected at most 4")));
    }
    let mut shape = Vec::new();
    for _ in 0..rank {
        let size =
            if cursor.version == 1 { cursor.word().map(u64::from) } else { cursor.array().map(u64::from_le_bytes) }.map_err(fault)?;
        shape.push(usize::try_from(size).map_err(|_| file.tensor_fault(&name, "has more elements than can be addressed"))?);
    }
    // The fastest dimension comes first in the file.
    shape.reverse();
    let kind = cursor.word().map_err(fault)?;
    let element = element(kind).ok_or_else(|| {
        file.tensor_fault(
            &name,
            format!("is stored as ggml type {kind}, which is not read: requantize it as F16, BF16, Q4_0 to Q8_0 or Q2_K to Q6_K"),
        )
    })?;
    let offset = u64::from_le_bytes(cursor.array().map_err(fault)?);
    Ok(Description { name, shape, element, offset })
}

/// The metadata and the tensors of a file, under their Hugging Face names where the architecture is known.
pub(super) fn read(file: &Arc<MappedFile>) -> Result<(Gguf, BTreeMap<String, StoredTensor>), WeightsError> {
    let fault = |problem| file.fault(problem);
    let mut cursor = Cursor { bytes: file.bytes(), at: MAGIC.len(), version: 0 };
    let version = cursor.word().map_err(fault)?;
    if !(1..=3).contains(&version) {
        return Err(file.fault(format!("it has gguf version {version}: expected 1, 2 or 3, little-endian")));
    }
    cursor.version = version;
    let tensor_count = cursor.length().map_err(fault)?;
    let value_count = cursor.length().map_err(fault)?;
    let mut values = BTreeMap::new();
    for _ in 0..value_count {
        let key = cursor.name().map_err(fault)?;
        let kind = cursor.word().map_err(fault)?;
        let at = cursor.at;
        cursor.skip(kind, 0).map_err(fault)?;
        if values.insert(key.clone(), (kind, at)).is_some() {
            return Err(file.fault(format!("its metadata has the key `{}` twice", printable(&key))));
        }
    }
    let mut descriptions = Vec::new();
    for _ in 0..tensor_count {
        descriptions.push(description(file, &mut cursor)?);
    }
    let end = cursor.at;
    let mut gguf = Gguf { file: Arc::clone(file), version, values, shapes: BTreeMap::new(), rotary_factors: None, tied_output: false };
    // The parts of a split model say how many there are.
    if let Some(count) = gguf.scalar("split.count").and_then(|value| value.as_u64()).filter(|&count| count > 1) {
        return Err(file.fault(format!("it is one of {count} parts of a model: join them with `llama-gguf-split --merge`")));
    }
    let alignment = match gguf.scalar("general.alignment") {
        None => 32,
        // Blocks are read in place, so they must start where their numbers may: at even places.
        Some(value) => value
            .as_u64()
            .filter(|&value| value.is_power_of_two() && (8..=1 << 20).contains(&value))
            .ok_or_else(|| file.fault("its `general.alignment` is not a power of two from 8 to 2^20"))?,
    };
    let data = (end as u64).next_multiple_of(alignment);
    let mut raw = BTreeMap::new();
    for Description { name, shape, element, offset } in descriptions {
        let range =
            locate(&shape, element, offset, data, alignment, file.bytes().len()).map_err(|problem| file.tensor_fault(&name, problem))?;
        gguf.shapes.insert(name.clone(), shape.clone());
        let tensor = StoredTensor::dense(file, shape, element, range);
        if name == "rope_freqs.weight" {
            if tensor.element.block().is_none() || !(1..=MAX_FREQUENCIES).contains(&tensor.len()) {
                return Err(file.tensor_fault(&name, format!("should hold from 1 to {MAX_FREQUENCIES} numbers")));
            }
            let mut factors = vec![0.0; tensor.len()];
            tensor.read(0..tensor.len(), &mut factors);
            gguf.rotary_factors = Some(factors);
        }
        if raw.insert(name.clone(), tensor).is_some() {
            return Err(file.tensor_fault(&name, "occurs twice"));
        }
    }
    if let (Some(output), Some(embedding)) = (raw.get("output.weight"), raw.get("token_embd.weight")) {
        let bytes = file.bytes();
        gguf.tied_output = output.element == embedding.element
            && output.shape == embedding.shape
            && bytes[output.bytes.clone()] == bytes[embedding.bytes.clone()];
    }
    let tensors = gguf_names::rename(&gguf, file, raw)?;
    Ok((gguf, tensors))
}

/// The bytes of a tensor, checked against the file's length.
fn locate(shape: &[usize], element: Element, offset: u64, data: u64, alignment: u64, file_length: usize) -> Result<Range<usize>, String> {
    let count = element_count(shape).ok_or("has more elements than can be addressed")?;
    let start = data.checked_add(offset).and_then(|start| usize::try_from(start).ok()).ok_or("starts past the end of the file")?;
    if !offset.is_multiple_of(alignment) {
        return Err("does not start at a multiple of the file's alignment".to_owned());
    }
    let length = match element {
        // Only listed, never read.
        Element::Other(_) => count,
        _ => element
            .block()
            // Rows are made of whole blocks.
            .filter(|&(_, block)| shape.last().copied().unwrap_or(1).is_multiple_of(block))
            .and_then(|_| element.byte_length(count))
            .ok_or_else(|| format!("has rows that are not whole blocks of {element:?}"))?,
    };
    let end = start.checked_add(length).filter(|&end| end <= file_length);
    end.map(|end| start..end).ok_or_else(|| format!("needs {length} bytes from place {start}, but the file has {file_length} bytes"))
}
