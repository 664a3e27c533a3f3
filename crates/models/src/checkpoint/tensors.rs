//! Writing the tensors of a layout in the safetensors format.

use std::collections::HashMap;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::CheckpointError;
use crate::parameters::ParameterLayout;

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
