//! `optimizer.safetensors`: the tensors `exp_avg.<name>` and `exp_avg_sq.<name>`, and `step` in the metadata.

use std::path::{Path, PathBuf};

use ::safetensors::SafeTensors;

use super::{Center, Filling, Moment, Moments, OptimizerError, first_name, first_of};
use crate::checkpoint::OPTIMIZER;
use crate::parameters::ParameterLayout;
use crate::weights::stored::MappedFile;
use crate::weights::{Element, safetensors};

pub(super) fn files(names: &[String]) -> Vec<String> {
    first_name(names, &[OPTIMIZER])
}

pub(super) fn find(folder: &Path) -> Result<Option<Vec<PathBuf>>, OptimizerError> {
    Ok(first_of(folder, &[OPTIMIZER]))
}

pub(super) fn read(files: &[PathBuf], layout: &ParameterLayout, _center: Center) -> Result<Moments, OptimizerError> {
    let path = &files[0];
    let mismatch = |problem: String| OptimizerError::Mismatch { path: path.clone(), problem };
    let file = MappedFile::open(path)?;
    let mut tensors = safetensors::read(&file)?;
    let name = |moment: Moment, parameter: &str| format!("{}.{parameter}", moment.name());
    let missing: Vec<String> = layout
        .parameters()
        .iter()
        .filter(|parameter| [Moment::First, Moment::Second].iter().any(|&moment| !tensors.contains_key(&name(moment, &parameter.name))))
        .map(|parameter| parameter.name.clone())
        .collect();
    if !missing.is_empty() {
        return Err(OptimizerError::Missing { path: path.clone(), parameters: missing });
    }
    let mut found = Vec::with_capacity(layout.parameters().len());
    for parameter in layout.parameters() {
        let mut pair = Vec::new();
        for moment in [Moment::First, Moment::Second] {
            let name = name(moment, &parameter.name);
            let Some(tensor) = tensors.remove(&name) else { continue };
            if let Element::Other(kind) = tensor.element {
                return Err(mismatch(format!("tensor `{name}` has elements of type {kind}: floating-point numbers are expected")));
            }
            if tensor.shape != parameter.shape {
                return Err(mismatch(format!("tensor `{name}` has shape {:?}: expected {:?}", tensor.shape, parameter.shape)));
            }
            pair.push(tensor);
        }
        found.push(pair);
    }
    if let Some(extra) = tensors.keys().next() {
        return Err(mismatch(format!(
            "it has {} that the network does not use",
            crate::weights::listed(std::slice::from_ref(extra), "tensor")
        )));
    }
    let step = SafeTensors::read_metadata(file.bytes()).ok().and_then(|(_, header)| header.metadata().as_ref()?.get("step")?.parse().ok());
    let step = step.ok_or_else(|| OptimizerError::Format {
        path: path.clone(),
        problem: "its metadata lacks `step`, the number of optimizer steps".to_owned(),
    })?;
    let mut filling = Filling::new(layout);
    for (parameter, pair) in layout.parameters().iter().zip(&found) {
        filling.parameter(path, parameter, |moment, range, out| pair[usize::from(moment == Moment::Second)].read(range, out))?;
    }
    Ok(filling.finish(step))
}
