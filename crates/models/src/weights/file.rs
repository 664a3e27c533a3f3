//! One file of tensors, in whichever of the formats that have no metadata of their own.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::error::WeightsError;
use super::stored::{MappedFile, StoredTensor};
use super::{safetensors, torch};

/// The tensors of one safetensors or zipped pickle file, told apart by their first bytes.
pub(super) fn read_file(file: &Arc<MappedFile>) -> Result<BTreeMap<String, StoredTensor>, WeightsError> {
    let torch_name = file.path.extension().is_some_and(|extension| ["bin", "pt", "pth"].iter().any(|name| extension == *name));
    if torch_name || file.bytes().starts_with(b"PK") { torch::read(file) } else { safetensors::read(file) }
}
