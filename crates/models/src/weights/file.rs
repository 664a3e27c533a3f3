//! One file of tensors, in whichever of the formats that have no metadata of their own, and what its name says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::WeightsError;
use super::stored::{MappedFile, StoredTensor};
use super::{safetensors, torch};

/// Extensions of files that `torch.save` writes.
const TORCH: [&str; 4] = ["bin", "pt", "pth", "ckpt"];

/// The tensors of one safetensors or zipped pickle file, told apart by their first bytes.
pub(super) fn read_file(file: &Arc<MappedFile>) -> Result<BTreeMap<String, StoredTensor>, WeightsError> {
    if has_extension(&file.path, &TORCH) || file.bytes().starts_with(b"PK") { torch::read(file) } else { safetensors::read(file) }
}

/// Whether the extension of a file is one of these, in any case: file systems and people write `.GGUF` too.
pub(crate) fn has_extension(path: &Path, known: &[&str]) -> bool {
    path.extension().is_some_and(|extension| known.iter().any(|known| extension.eq_ignore_ascii_case(known)))
}

/// Whether a file has a name in any case.
fn has_name(path: &Path, name: &str) -> bool {
    path.file_name().is_some_and(|own| own.eq_ignore_ascii_case(name))
}

/// The files of a folder, sorted.
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>, WeightsError> {
    let io = |source| WeightsError::Io { path: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in folder.read_dir().map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The first of the names that is among files: exactly so, else in another case.
pub(super) fn first_named<'a>(files: &'a [PathBuf], names: &[&str]) -> Option<&'a PathBuf> {
    names.iter().find_map(|name| {
        let exact = files.iter().find(|path| path.file_name().is_some_and(|own| own == *name));
        exact.or_else(|| files.iter().find(|path| has_name(path, name)))
    })
}

/// What trainers write beside the weights under the same extensions.
const OTHERS: [&str; 12] = [
    "optimizer",
    "scheduler",
    "scaler",
    "rng_state",
    "random_states",
    "training_args",
    "trainer_state",
    "adapter_model",
    "adapter_config",
    "zero_pp_rank",
    "bf16_zero_pp_rank",
    "mp_rank",
];

/// Whether a file may hold the weights of a network under a name of its own: `model.pt`, `last.ckpt`.
pub(super) fn may_be_weights(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    (has_extension(path, &TORCH) || has_extension(path, &["safetensors"])) && !OTHERS.iter().any(|other| name.starts_with(other))
}
