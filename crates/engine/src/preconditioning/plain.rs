//! Vectors, matrices and Gaussians in plain safetensors files.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use basin_volume::preconditioner::{Dense, Diagonal, Gaussian, Preconditioner};
use basin_volume::spec::PreconditionerSpec;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::map::Maps;
use super::{Preconditioning, sha256};
use crate::error::{Context, Error};
use crate::subject::Subject;

/// Names of the tensors that give the covariance of a Gaussian.
const COVARIANCES: [&str; 3] = ["variance", "covariance", "precision"];

/// Reads `diagonal` (length D), `matrix` (D x D), a Gaussian by its moments, or one tensor per moving parameter of the model.
pub(super) fn read(path: &Path, subject: &dyn Subject, maps: &Maps<'_>) -> Result<Preconditioning, Error> {
    let bytes = fs::read(path).context(|| format!("cannot read the preconditioner {}", path.display()))?;
    let file =
        SafeTensors::deserialize(&bytes).context(|| format!("the preconditioner {} is not a complete safetensors file", path.display()))?;
    let dimension = subject.dimension();
    let source = path.file_name().map_or_else(|| "file".to_owned(), |name| name.to_string_lossy().into_owned());
    let names = file.names();
    let check_shape = |name: &str, tensor: &TensorView<'_>, expected: &[usize]| check_shape(path, name, tensor, expected);
    if names.iter().any(|name| (*name == "mean" || COVARIANCES.contains(name)) && !subject.has_parameter(name)) {
        return gaussian(path, &source, &file, dimension, maps);
    }
    if let Ok(matrix) = file.tensor("matrix") {
        check_shape("matrix", &matrix, &[dimension, dimension])?;
        let entries = numbers(path, "matrix", &matrix)?;
        let unusable = || format!("the preconditioner {source} cannot be used");
        let eigenvalues = || Dense::eigenvalues(&entries, dimension).context(unusable);
        let map = maps.plain(eigenvalues, |damping| Ok(Arc::new(Dense::from_curvature(&entries, dimension, damping)?)))?;
        let dense = Dense::from_curvature(&entries, dimension, map).context(unusable)?;
        let hash = sha256(entries.iter().flat_map(|x| x.to_le_bytes()));
        return Ok(Preconditioning::new(dense, PreconditionerSpec::Dense { source, hash, map }));
    }
    let mut curvature: Vec<f32> = Vec::with_capacity(dimension);
    if let Ok(diagonal) = file.tensor("diagonal") {
        check_shape("diagonal", &diagonal, &[dimension])?;
        curvature.extend(numbers(path, "diagonal", &diagonal)?.iter().map(|&x| x as f32));
    } else {
        let layout = subject.layout();
        for parameter in layout.parameters() {
            let tensor = file.tensor(&parameter.name).map_err(|_| {
                Error::failed(format!(
                    "{} has neither `diagonal` nor `matrix`, and no tensor `{}` for that parameter of the model",
                    path.display(),
                    parameter.name
                ))
            })?;
            check_shape(&parameter.name, &tensor, &parameter.shape)?;
            curvature.extend(numbers(path, &parameter.name, &tensor)?.iter().map(|&x| x as f32));
        }
        // Tensors of parameters that stay at the center may be there; nothing else.
        if let Some(extra) = names.iter().find(|name| !subject.has_parameter(name)) {
            return Err(Error::failed(format!(
                "{} has a tensor `{extra}` that is no parameter of the model: it belongs to another model",
                path.display()
            )));
        }
    }
    Preconditioning::diagonal(&source, &curvature, maps)
}

fn check_shape(path: &Path, name: &str, tensor: &TensorView<'_>, expected: &[usize]) -> Result<(), Error> {
    if tensor.shape() == expected {
        return Ok(());
    }
    Err(Error::failed(format!(
        "tensor `{name}` of {} has shape {:?}, but the model needs {expected:?}: the preconditioner belongs to another model",
        path.display(),
        tensor.shape()
    )))
}

/// Reads the Gaussian of the displacement `w - c`: `mean` [D], if it is not the center, and one of `variance` [D], `covariance` [D, D] and
/// `precision` [D] or [D, D].
fn gaussian(path: &Path, source: &str, file: &SafeTensors<'_>, dimension: usize, maps: &Maps<'_>) -> Result<Preconditioning, Error> {
    maps.check_moments(source)?;
    let unusable = || format!("the Gaussian {source} cannot be used");
    let names = file.names();
    if let Some(extra) = names.iter().find(|name| **name != "mean" && !COVARIANCES.contains(name)) {
        return Err(Error::failed(format!(
            "{} has a tensor `{extra}` beside those of a Gaussian: expected `mean` and one of `variance`, `covariance` and `precision`",
            path.display()
        )));
    }
    let given: Vec<&str> = COVARIANCES.into_iter().filter(|name| names.contains(name)).collect();
    let [form] = given.as_slice() else {
        let found = if given.is_empty() { "none".to_owned() } else { given.join(" and ") };
        return Err(Error::failed(format!(
            "{} has {found} of `variance` [D], `covariance` [D, D] and `precision` [D] or [D, D]: a Gaussian needs one of them",
            path.display()
        )));
    };
    let tensor = file.tensor(form).context(unusable)?;
    let is_diagonal = *form == "variance" || (*form == "precision" && tensor.shape().len() == 1);
    check_shape(path, form, &tensor, &[dimension; 2][..if is_diagonal { 1 } else { 2 }])?;
    let entries = numbers(path, form, &tensor)?;
    let root: Arc<dyn Preconditioner> = match (is_diagonal, *form) {
        (true, form) => {
            let variance = |x: &f64| if form == "precision" { 1.0 / x } else { *x };
            let variances: Vec<f32> = entries.iter().map(|x| variance(x) as f32).collect();
            Arc::new(Diagonal::from_variances(&variances).context(unusable)?)
        }
        (false, "covariance") => Arc::new(Dense::from_covariance(&entries, dimension).context(unusable)?),
        (false, _) => Arc::new(Dense::from_precision(&entries, dimension).context(unusable)?),
    };
    let mean = if names.contains(&"mean") {
        let tensor = file.tensor("mean").context(unusable)?;
        check_shape(path, "mean", &tensor, &[dimension])?;
        Some(numbers(path, "mean", &tensor)?)
    } else {
        None
    };
    let hash = sha256(entries.iter().chain(mean.iter().flatten()).flat_map(|x| x.to_le_bytes()));
    let spec = PreconditionerSpec::Gaussian { source: source.to_owned(), hash, covariance: (*form).to_owned(), mean: mean.is_some() };
    Ok(match mean {
        Some(mean) => {
            let mean = mean.into_iter().map(|x| x as f32).collect();
            Preconditioning::new(Gaussian::new(root, mean).context(unusable)?, spec)
        }
        None => Preconditioning::shared(root, spec),
    })
}

fn numbers(path: &Path, name: &str, tensor: &TensorView<'_>) -> Result<Vec<f64>, Error> {
    match tensor.dtype() {
        Dtype::F32 => Ok(tensor.data().as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect()),
        Dtype::F64 => Ok(tensor.data().as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect()),
        other => Err(Error::failed(format!("tensor `{name}` of {} is of type {other:?}: expected F32 or F64", path.display()))),
    }
}
