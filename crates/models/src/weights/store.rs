//! Named tensors of a file, of shards or of a folder, whatever the format.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::element::Element;
use super::error::WeightsError;
use super::file::{files, first_named, has_extension, may_be_weights, read_file};
use super::stored::{MappedFile, StoredTensor};
use super::wrapper::Wrapper;
use super::{gguf, sharded};

/// Named tensors, mapped and read lazily.
#[derive(Debug)]
pub struct TensorStore {
    path: PathBuf,
    tensors: BTreeMap<String, StoredTensor>,
    gguf: Option<gguf::Gguf>,
}

/// The files looked for in a folder, in order of preference.
pub(super) const FILES: [&str; 4] =
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];

impl TensorStore {
    /// Opens a file of weights, an index of shards, or the weights of a folder: `model.safetensors` first, then `pytorch_model.bin`, then a
    /// single `.gguf`, then a single file of PyTorch or safetensors of any name. Names are found in any case.
    ///
    /// Headers are read and checked, including that every tensor lies inside its file; the weights themselves are only mapped.
    ///
    /// # Errors
    /// When there are no weights, or a file is truncated, corrupt, hostile or of an unknown format.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        if path.is_dir() {
            return Self::open_folder(path);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.to_ascii_lowercase().ends_with(".index.json") {
            return Ok(Self { path: path.to_owned(), tensors: sharded::read(path)?, gguf: None });
        }
        Self::read(&MappedFile::open(path)?)
    }

    /// Weights that are in memory, as [`TensorStore::open`] reads them from one file. The bytes are copied; `path` is for messages, and
    /// its extension counts as that of a file does.
    ///
    /// # Errors
    /// As [`TensorStore::open`].
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self, WeightsError> {
        Self::read(&MappedFile::from_bytes(path, bytes)?)
    }

    fn read(file: &Arc<MappedFile>) -> Result<Self, WeightsError> {
        let path = file.path.clone();
        if file.bytes().starts_with(gguf::MAGIC) {
            let (gguf, tensors) = gguf::read(file)?;
            return Ok(Self { path, tensors, gguf: Some(gguf) });
        }
        Ok(Self { path, tensors: read_file(file)?, gguf: None })
    }

    fn open_folder(folder: &Path) -> Result<Self, WeightsError> {
        let files = files(folder)?;
        if let Some(path) = first_named(&files, &FILES) {
            return Self::open(path);
        }
        let gguf = files.iter().filter(|path| has_extension(path, &["gguf"])).collect();
        let others = files.iter().filter(|path| may_be_weights(path)).collect();
        let kinds: [(&str, Vec<&PathBuf>); 2] = [("gguf files", gguf), ("files that may be weights", others)];
        for (kind, found) in kinds {
            match found.as_slice() {
                [path] => return Self::open(path),
                [] => {}
                many => {
                    let names: Vec<String> =
                        many.iter().map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned()).collect();
                    return Err(WeightsError::Several { path: folder.to_owned(), kind, names });
                }
            }
        }
        Err(WeightsError::NoWeights { path: folder.to_owned() })
    }

    /// Whether a folder holds weights of a whole network, as [`TensorStore::open`] looks for them.
    #[must_use]
    pub fn is_in(folder: &Path) -> bool {
        let found = files(folder).unwrap_or_default();
        first_named(&found, &FILES).is_some() || found.iter().any(|path| has_extension(path, &["gguf"]) || may_be_weights(path))
    }

    /// The ways to read the names: as they are, and without what training tools put into them.
    pub(super) fn wrappers(&self) -> Vec<Wrapper> {
        Wrapper::candidates(self.tensors.keys().map(String::as_str))
    }

    /// The same tensors under other names; None when two would have the same.
    pub(super) fn unwrapped(&self, wrapper: &Wrapper) -> Option<Self> {
        Some(Self { path: self.path.clone(), tensors: wrapper.unwrapped(&self.tensors)?, gguf: None })
    }

    /// The file or index that was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors' names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor; None when there is no such tensor.
    #[must_use]
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.tensors.get(name)?.shape)
    }

    /// How the elements of a tensor are stored; None when there is no such tensor.
    #[must_use]
    pub fn element(&self, name: &str) -> Option<Element> {
        Some(self.tensors.get(name)?.element)
    }

    /// The metadata of a gguf file; None for other formats.
    #[must_use]
    pub fn gguf(&self) -> Option<&gguf::Gguf> {
        self.gguf.as_ref()
    }

    /// Reads the elements `range` of a tensor, in row-major order, as `f32`.
    ///
    /// # Errors
    /// When there is no such tensor, or its elements are not of a kind that weights have.
    ///
    /// # Panics
    /// If the range goes past the tensor's end, or `out` has another length than the range.
    pub fn read_f32(&self, name: &str, range: Range<usize>, out: &mut [f32]) -> Result<(), WeightsError> {
        self.readable(name)?.read(range, out);
        Ok(())
    }

    pub(super) fn get(&self, name: &str) -> Option<&StoredTensor> {
        self.tensors.get(name)
    }

    /// The tensor, if it is there and of a readable kind.
    pub(super) fn readable(&self, name: &str) -> Result<&StoredTensor, WeightsError> {
        let Some(tensor) = self.tensors.get(name) else {
            return Err(WeightsError::Missing { path: self.path.clone(), tensors: vec![name.to_owned()] });
        };
        match tensor.element {
            Element::Other(kind) => {
                Err(tensor.file.tensor_fault(name, format!("has elements of type {kind}: expected F32, F16, BF16 or F64")))
            }
            _ => Ok(tensor),
        }
    }
}
