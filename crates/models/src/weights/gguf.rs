//! The gguf format of llama.cpp: metadata, and tensors that may be quantized in blocks.

mod config;
mod metadata;
mod names;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

pub use metadata::{Gguf, GgufValue};

use super::BlockFormat;
use super::element::Element;
use super::error::{WeightsError, printable};
use super::stored::{MappedFile, StoredTensor, element_count};
use metadata::Cursor;

/// The first bytes of a file.
pub(super) const MAGIC: &[u8] = b"GGUF";

/// The element types that are read. The intermediate formats Q8_1 and Q8_K are never stored.
fn element(kind: u32) -> Option<Element> {
    Some(match kind {
        0 => Element::F32,
        1 => Element::F16,
        2 => Element::Quantized(BlockFormat::Q4_0),
        3 => Element::Quantized(BlockFormat::Q4_1),
        6 => Element::Quantized(BlockFormat::Q5_0),
        7 => Element::Quantized(BlockFormat::Q5_1),
        8 => Element::Quantized(BlockFormat::Q8_0),
        10 => Element::Quantized(BlockFormat::Q2K),
        11 => Element::Quantized(BlockFormat::Q3K),
        12 => Element::Quantized(BlockFormat::Q4K),
        13 => Element::Quantized(BlockFormat::Q5K),
        14 => Element::Quantized(BlockFormat::Q6K),
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
    let tensors = names::rename(&gguf, file, raw)?;
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
