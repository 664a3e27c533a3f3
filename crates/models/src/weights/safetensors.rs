//! The safetensors format.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::safetensors::{Dtype, SafeTensors};

use super::element::Element;
use super::error::WeightsError;
use super::stored::{MappedFile, StoredTensor};

/// The tensors of a file. The `safetensors` crate checks that they fill the file exactly, without overlap.
pub(crate) fn read(file: &Arc<MappedFile>) -> Result<BTreeMap<String, StoredTensor>, WeightsError> {
    let bytes = file.bytes();
    // The crate parses a header of up to 100 MB before it looks at the rest; what the file cannot hold is refused by it first.
    let (header, metadata) = SafeTensors::read_metadata(bytes)
        .map_err(|error| file.fault(format!("it is not a complete safetensors file ({})", one_line(&error.to_string()))))?;
    let base = header + size_of::<u64>();
    let mut tensors = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        let element = match info.dtype {
            Dtype::F32 => Element::F32,
            Dtype::F16 => Element::F16,
            Dtype::BF16 => Element::BF16,
            Dtype::F64 => Element::F64,
            Dtype::BOOL => Element::Other("BOOL"),
            Dtype::U8 => Element::Other("U8"),
            Dtype::I8 => Element::Other("I8"),
            Dtype::I16 => Element::Other("I16"),
            Dtype::U16 => Element::Other("U16"),
            Dtype::I32 => Element::Other("I32"),
            Dtype::U32 => Element::Other("U32"),
            Dtype::I64 => Element::Other("I64"),
            Dtype::U64 => Element::Other("U64"),
            _ => Element::Other("an 8-bit float or another rare format"),
        };
        let range = base + info.data_offsets.0..base + info.data_offsets.1;
        if range.end > bytes.len() {
            return Err(file.tensor_fault(&name, "reaches past the end of the file"));
        }
        tensors.insert(name, StoredTensor::dense(file, info.shape.clone(), element, range));
    }
    Ok(tensors)
}

/// A foreign message, made fit to stand inside a sentence.
pub(super) fn one_line(message: &str) -> String {
    super::error::printable(message)
}
