//! Vectors and matrices in plain safetensors files.

use std::fs;
use std::path::Path;

use anyhow::{Context, anyhow};
use basin_volume::preconditioner::Dense;
use basin_volume::spec::PreconditionerSpec;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::map::Maps;
use super::{Preconditioning, sha256};
use crate::error::CommandError;
use crate::problem::Problem;

/// Reads `diagonal` (length D), `matrix` (D x D), or one tensor per moving parameter of the model.
pub fn read(path: &Path, problem: &Problem, maps: &Maps<'_>) -> Result<Preconditioning, CommandError> {
    let moving = &problem.moving;
    let bytes = fs::read(path).with_context(|| format!("cannot read the preconditioner {}", path.display()))?;
    let file = SafeTensors::deserialize(&bytes)
        .with_context(|| format!("the preconditioner {} is not a complete safetensors file", path.display()))?;
    let dimension = moving.dimension();
    let source = path.file_name().map_or_else(|| "file".to_owned(), |name| name.to_string_lossy().into_owned());
    let names = file.names();
    let check_shape = |name: &str, tensor: &TensorView<'_>, expected: &[usize]| {
        if tensor.shape() == expected {
            return Ok(());
        }
        Err(anyhow!(
            "tensor `{name}` of {} has shape {:?}, but the model needs {expected:?}: the preconditioner belongs to another model",
            path.display(),
            tensor.shape()
        ))
    };
    if let Ok(matrix) = file.tensor("matrix") {
        check_shape("matrix", &matrix, &[dimension, dimension])?;
        let entries = numbers(path, "matrix", &matrix)?;
        let unusable = || format!("the preconditioner {source} cannot be used");
        let map = maps.plain(|| Dense::eigenvalues(&entries, dimension).with_context(unusable))?;
        let dense = Dense::from_curvature(&entries, dimension, map).with_context(unusable)?;
        let hash = sha256(entries.iter().flat_map(|x| x.to_le_bytes()));
        return Ok(Preconditioning::new(dense, PreconditionerSpec::Dense { source, hash, map }));
    }
    let mut curvature: Vec<f32> = Vec::with_capacity(dimension);
    if let Ok(diagonal) = file.tensor("diagonal") {
        check_shape("diagonal", &diagonal, &[dimension])?;
        curvature.extend(numbers(path, "diagonal", &diagonal)?.iter().map(|&x| x as f32));
    } else {
        let layout = moving.layout();
        for parameter in layout.parameters() {
            let tensor = file.tensor(&parameter.name).map_err(|_| {
                anyhow!(
                    "{} has neither `diagonal` nor `matrix`, and no tensor `{}` for that parameter of the model",
                    path.display(),
                    parameter.name
                )
            })?;
            check_shape(&parameter.name, &tensor, &parameter.shape)?;
            curvature.extend(numbers(path, &parameter.name, &tensor)?.iter().map(|&x| x as f32));
        }
        // Tensors of parameters that stay at the center may be there; nothing else.
        let known = moving.center().layout();
        if let Some(extra) = names.iter().find(|name| known.parameters().iter().all(|p| p.name != ***name)) {
            return Err(anyhow!(
                "{} has a tensor `{extra}` that is no parameter of the model: it belongs to another model",
                path.display()
            )
            .into());
        }
    }
    Preconditioning::diagonal(&source, &curvature, maps)
}

fn numbers(path: &Path, name: &str, tensor: &TensorView<'_>) -> anyhow::Result<Vec<f64>> {
    match tensor.dtype() {
        Dtype::F32 => Ok(tensor.data().as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect()),
        Dtype::F64 => Ok(tensor.data().as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect()),
        other => Err(anyhow!("tensor `{name}` of {} is of type {other:?}: expected F32 or F64", path.display())),
    }
}
