//! Reading and writing the tensors of a layout in the safetensors format.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::CheckpointError;
use crate::mapping::map_file;
use crate::parameters::ParameterLayout;

/// A mapped safetensors file whose header has been checked.
pub(super) struct TensorFile {
    path: PathBuf,
    content: Mmap,
}

impl TensorFile {
    pub(super) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let io = |source| CheckpointError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let fault = |problem: String| CheckpointError::Format { path: path.to_owned(), problem };
        // An empty file cannot be mapped everywhere.
        if file.metadata().map_err(io)?.len() == 0 {
            return Err(fault("it is empty".to_owned()));
        }
        let content = map_file(&file).map_err(io)?;
        SafeTensors::deserialize(&content).map_err(|error| fault(format!("it is truncated or corrupt ({error})")))?;
        Ok(Self { path: path.to_owned(), content })
    }

    fn tensors(&self) -> Result<SafeTensors<'_>, CheckpointError> {
        SafeTensors::deserialize(&self.content)
            .map_err(|error| CheckpointError::Format { path: self.path.clone(), problem: error.to_string() })
    }

    /// The tensors of a layout as one flat vector in the layout's order.
    pub(super) fn read(&self, layout: &ParameterLayout) -> Result<Vec<f32>, CheckpointError> {
        let tensors = self.tensors()?;
        let missing: Vec<String> =
            layout.parameters().iter().map(|parameter| parameter.name.clone()).filter(|name| tensors.tensor(name).is_err()).collect();
        if !missing.is_empty() {
            return Err(CheckpointError::Missing { path: self.path.clone(), tensors: missing });
        }
        // Shapes first, so that a wrong configuration cannot ask for more memory than the file holds.
        let mut views = Vec::with_capacity(layout.parameters().len());
        for parameter in layout.parameters() {
            let name = parameter.name.clone();
            let fault = |problem: String| CheckpointError::Tensor { path: self.path.clone(), tensor: name.clone(), problem };
            let view = tensors.tensor(&name).map_err(|error| fault(format!("cannot be read ({error})")))?;
            if view.dtype() != Dtype::F32 {
                return Err(fault(format!("is {:?}: expected F32", view.dtype())));
            }
            if view.shape() != parameter.shape {
                return Err(fault(format!("has shape {:?}: expected {:?}", view.shape(), parameter.shape)));
            }
            views.push((name, view));
        }
        let mut values = Vec::with_capacity(layout.dimension());
        for (name, view) in views {
            let start = values.len();
            values.extend(view.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)));
            if let Some(index) = values[start..].iter().position(|value| !value.is_finite()) {
                let problem = format!("is {} at element {index}: every value must be finite", values[start + index]);
                return Err(CheckpointError::Tensor { path: self.path.clone(), tensor: name, problem });
            }
        }
        Ok(values)
    }

    /// Refuses tensors that the layout does not have.
    pub(super) fn refuse_extra(&self, layout: &ParameterLayout) -> Result<(), CheckpointError> {
        let tensors = self.tensors()?;
        let known = |name: &str| layout.parameters().iter().any(|parameter| parameter.name == name);
        let mut extra: Vec<String> = tensors.names().into_iter().filter(|name| !known(name)).map(str::to_owned).collect();
        if extra.is_empty() {
            return Ok(());
        }
        extra.sort();
        Err(CheckpointError::Extra { path: self.path.clone(), tensors: extra })
    }
}

/// Writes flat vectors as the tensors `<prefix><name>` of a layout.
pub(super) fn write(
    path: &Path,
    layout: &ParameterLayout,
    groups: &[(&str, &[f32])],
    metadata: &[(&str, String)],
) -> Result<(), CheckpointError> {
    let fault = |error: safetensors::SafeTensorError| CheckpointError::Format { path: path.to_owned(), problem: error.to_string() };
    let groups: Vec<(&str, Vec<u8>)> =
        groups.iter().map(|(prefix, values)| (*prefix, values.iter().flat_map(|value| value.to_le_bytes()).collect())).collect();
    let mut views = Vec::new();
    for (prefix, bytes) in &groups {
        for parameter in layout.parameters() {
            let range = parameter.range();
            let view = TensorView::new(Dtype::F32, parameter.shape.clone(), &bytes[4 * range.start..4 * range.end]).map_err(fault)?;
            views.push((format!("{prefix}{}", parameter.name), view));
        }
    }
    let metadata: HashMap<String, String> = metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    // One entry of metadata per file keeps the bytes reproducible: a hash map has no fixed order.
    debug_assert!(metadata.len() <= 1);
    safetensors::serialize_to_file(views, Some(metadata), path).map_err(fault)
}
