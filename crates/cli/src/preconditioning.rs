//! What `--preconditioner` means: the map and its provenance.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use basin_volume::preconditioner::{Dense, Diagonal, DiagonalMap, Identity, Preconditioner};
use basin_volume::spec::PreconditionerSpec;
use basin_volume_models::parameters::Moving;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::args::RayArgs;
use crate::error::CommandError;
use crate::target::{Model, part_of};

/// Exponent and eps of the reference's notebook on the digits network.
const DIGITS_MAP: DiagonalMap = DiagonalMap { exponent: 0.3, eps: 2e-3 };

/// A map with its record.
pub struct Preconditioning {
    pub map: Arc<dyn Preconditioner>,
    pub spec: PreconditionerSpec,
}

impl Preconditioning {
    /// Resolves one value of `--preconditioner`.
    pub fn resolve(choice: &str, model: &Model, moving: &Moving, rays: &RayArgs) -> Result<Self, CommandError> {
        let default = if model.is_builtin { DIGITS_MAP } else { DiagonalMap::default() };
        let map = DiagonalMap { exponent: rays.exponent.unwrap_or(default.exponent), eps: rays.eps.unwrap_or(default.eps) };
        map.validate().map_err(|error| CommandError::usage(error.to_string()))?;
        match choice {
            "none" => Ok(Self { map: Arc::new(Identity), spec: PreconditionerSpec::None }),
            "adam1" | "adam2" => {
                let moments = model.checkpoint.moments()?.ok_or_else(|| {
                    anyhow!(
                        "the checkpoint {} holds no Adam moments (optimizer.safetensors): --preconditioner {choice} needs them",
                        model.checkpoint.folder.display()
                    )
                })?;
                let curvature = if choice == "adam1" { moments.first } else { moments.second };
                Ok(Self::diagonal(choice, &part_of(moving, curvature), map)?)
            }
            path if Path::new(path).is_file() => Ok(from_file(Path::new(path), moving, map)?),
            other => Err(CommandError::usage(format!(
                "there is no preconditioner '{other}': expected none, adam1, adam2 or a .safetensors file"
            ))),
        }
    }

    /// Bytes of the map for a network of this dimension.
    pub fn bytes(&self, dimension: usize) -> u64 {
        let dimension = dimension as u64;
        match self.spec {
            PreconditionerSpec::None => 0,
            PreconditionerSpec::Dense { .. } => 4 * dimension * dimension,
            // One number per weight.
            _ => 4 * dimension,
        }
    }

    fn diagonal(source: &str, curvature: &[f32], map: DiagonalMap) -> anyhow::Result<Self> {
        let diagonal = Diagonal::from_curvature(curvature, map).with_context(|| format!("the preconditioner {source} cannot be used"))?;
        let hash = sha256(curvature.iter().flat_map(|x| x.to_le_bytes()));
        Ok(Self { map: Arc::new(diagonal), spec: PreconditionerSpec::Diagonal { source: source.to_owned(), hash, map } })
    }
}

/// SHA-256 of a stream of bytes, in hexadecimal.
fn sha256(bytes: impl Iterator<Item = u8>) -> String {
    use sha2::{Digest, Sha256};
    let mut hasher = Sha256::new();
    let mut buffer = Vec::with_capacity(1 << 16);
    for byte in bytes {
        buffer.push(byte);
        if buffer.len() == 1 << 16 {
            hasher.update(&buffer);
            buffer.clear();
        }
    }
    hasher.update(&buffer);
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads `diagonal` (length D), `matrix` (D x D), or one tensor per moving parameter of the model.
fn from_file(path: &Path, moving: &Moving, map: DiagonalMap) -> anyhow::Result<Preconditioning> {
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
        let dense =
            Dense::from_curvature(&entries, dimension, map).with_context(|| format!("the preconditioner {source} cannot be used"))?;
        let hash = sha256(entries.iter().flat_map(|x| x.to_le_bytes()));
        return Ok(Preconditioning { map: Arc::new(dense), spec: PreconditionerSpec::Dense { source, hash, map } });
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
            ));
        }
    }
    Preconditioning::diagonal(&source, &curvature, map)
}

fn numbers(path: &Path, name: &str, tensor: &TensorView<'_>) -> anyhow::Result<Vec<f64>> {
    match tensor.dtype() {
        Dtype::F32 => Ok(tensor.data().as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect()),
        Dtype::F64 => Ok(tensor.data().as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect()),
        other => Err(anyhow!("tensor `{name}` of {} is of type {other:?}: expected F32 or F64", path.display())),
    }
}
