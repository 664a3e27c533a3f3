//! Curvature files: safetensors with one entry of metadata, the provenance as JSON.
//!
//! Tensors are stored per parameter, so that a file made for all weights also serves a part of them:
//!
//! | tensor | shape | of |
//! |---|---|---|
//! | `diagonal.<parameter>` | the parameter's | diagonal, the rest of Kronecker and of low-rank curvature |
//! | `factors.<parameter>` | the parameter's | learned maps |
//! | `rows.<parameter>`, `columns.<parameter>` | `[rows, rows]`, `[columns, columns]` | Kronecker |
//! | `scale.<parameter>` | `[1]`, F64 | Kronecker |
//! | `basis.<parameter>` | `[K]` + the parameter's | low rank |
//! | `eigenvalues` | `[K]` | low rank |
//! | `rest` | `[1]` | low rank with one number for the rest |
//!
//! All are F32 unless said otherwise. The rows and columns of a parameter of a file that covers more weights than are asked for are
//! simply left out: the principal part of the matrix is the curvature of the remaining weights.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use memmap2::Mmap;
use safetensors::tensor::{Metadata, TensorView};
use safetensors::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};

use super::{Curvature, CurvatureError, KroneckerBlock, Provenance, RestDiagonal, matrix_sides};
use crate::mapping::map_file;
use crate::parameters::ParameterLayout;

/// Version of the format that this crate writes, and the newest it reads.
const FORMAT: u64 = 1;
/// Key of the one entry of metadata: a map of several entries has no fixed order, and equal curvatures should give equal files.
const METADATA: &str = "basin-volume curvature";

/// The metadata.
#[derive(Serialize, Deserialize)]
struct Header {
    format: u64,
    #[serde(flatten)]
    provenance: Provenance,
}

/// A tensor on its way to the disk; the numbers of a basis are put together only while they are written.
enum Numbers<'a> {
    Flat(&'a [f32]),
    /// Columns `start..start + length` of a `[K, dimension]` matrix.
    Columns {
        matrix: &'a [f32],
        dimension: usize,
        start: usize,
        length: usize,
    },
    Double(f64),
}

struct Tensor<'a> {
    shape: Vec<usize>,
    numbers: Numbers<'a>,
}

impl View for Tensor<'_> {
    fn dtype(&self) -> Dtype {
        if matches!(self.numbers, Numbers::Double(_)) { Dtype::F64 } else { Dtype::F32 }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match &self.numbers {
            Numbers::Flat(values) => Cow::Owned(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
            Numbers::Columns { matrix, dimension, start, length } => {
                let rows = matrix.chunks_exact(*dimension).map(|row| &row[*start..start + length]);
                Cow::Owned(rows.flatten().flat_map(|value| value.to_le_bytes()).collect())
            }
            Numbers::Double(value) => Cow::Owned(value.to_le_bytes().to_vec()),
        }
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * if matches!(self.numbers, Numbers::Double(_)) { 8 } else { 4 }
    }
}

/// Writes a curvature of the weights of `layout` with its provenance. The file appears under its name when it is complete; one that
/// exists is replaced.
///
/// # Errors
/// When the curvature does not fit the layout or has entries that are not allowed ([`Curvature::validate`]), or the file cannot be written.
pub fn write(path: &Path, curvature: &Curvature, provenance: &Provenance, layout: &ParameterLayout) -> Result<(), CurvatureError> {
    curvature.validate(layout)?;
    let mut tensors: Vec<(String, Tensor<'_>)> = Vec::new();
    let flat = |shape: &[usize], values| Tensor { shape: shape.to_vec(), numbers: Numbers::Flat(values) };
    match curvature {
        Curvature::Diagonal { values } | Curvature::Factors { values } => {
            let prefix = if matches!(curvature, Curvature::Factors { .. }) { "factors" } else { "diagonal" };
            tensors.extend(layout.unflatten(values).map(|(p, values)| (format!("{prefix}.{}", p.name), flat(&p.shape, values))));
        }
        Curvature::Kronecker { blocks, diagonal } => {
            let (mut next, mut rest) = (blocks.iter().peekable(), diagonal.as_slice());
            for parameter in layout.parameters() {
                let name = &parameter.name;
                if let Some(block) = next.next_if(|block| block.parameter == *name) {
                    let (rows, columns) = matrix_sides(&parameter.shape).unwrap_or((parameter.len(), 1));
                    tensors.push((format!("rows.{name}"), flat(&[rows, rows], &block.row_factor)));
                    tensors.push((format!("columns.{name}"), flat(&[columns, columns], &block.column_factor)));
                    tensors.push((format!("scale.{name}"), Tensor { shape: vec![1], numbers: Numbers::Double(block.scale) }));
                } else {
                    let (values, others) = rest.split_at(parameter.len());
                    tensors.push((format!("diagonal.{name}"), flat(&parameter.shape, values)));
                    rest = others;
                }
            }
        }
        Curvature::LowRankDiagonal { basis, eigenvalues, rest } => {
            let rank = eigenvalues.len();
            for parameter in layout.parameters() {
                let numbers =
                    Numbers::Columns { matrix: basis, dimension: layout.dimension(), start: parameter.offset, length: parameter.len() };
                let shape = [&[rank], parameter.shape.as_slice()].concat();
                tensors.push((format!("basis.{}", parameter.name), Tensor { shape, numbers }));
            }
            tensors.push(("eigenvalues".to_owned(), flat(&[rank], eigenvalues)));
            match rest {
                RestDiagonal::Uniform(value) => tensors.push(("rest".to_owned(), flat(&[1], std::slice::from_ref(value)))),
                RestDiagonal::PerWeight(values) => {
                    tensors.extend(layout.unflatten(values).map(|(p, values)| (format!("diagonal.{}", p.name), flat(&p.shape, values))));
                }
            }
        }
    }
    let io = |source| CurvatureError::Io { action: "write", path: path.to_owned(), source };
    let fault = |problem: String| CurvatureError::Format { path: path.to_owned(), problem };
    let header =
        serde_json::to_string(&Header { format: FORMAT, provenance: provenance.clone() }).map_err(|error| fault(error.to_string()))?;
    let metadata = HashMap::from([(METADATA.to_owned(), header)]);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(io)?;
    let draft = tempfile::Builder::new().prefix(".curvature.").suffix(".partial").tempfile_in(folder).map_err(io)?;
    safetensors::serialize_to_file(tensors, Some(metadata), draft.path())
        .map_err(|error| fault(format!("it cannot be written ({error})")))?;
    File::open(draft.path()).and_then(|file| file.sync_all()).map_err(io)?;
    // A temporary file is private to its owner; this is an ordinary one.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(draft.path(), std::fs::Permissions::from_mode(0o644)).map_err(io)?;
    }
    draft.persist(path).map_err(|error| io(error.error))?;
    Ok(())
}

/// The variants of [`Curvature`].
enum Form {
    Diagonal,
    Factors,
    Kronecker,
    LowRank,
}

/// A mapped file with a checked header.
struct Source<'a> {
    path: &'a Path,
    content: Mmap,
    header: Metadata,
}

impl<'a> Source<'a> {
    fn open(path: &'a Path) -> Result<Self, CurvatureError> {
        let io = |source| CurvatureError::Io { action: "read", path: path.to_owned(), source };
        let fault = |problem: String| CurvatureError::Format { path: path.to_owned(), problem };
        let file = File::open(path).map_err(io)?;
        // An empty file cannot be mapped everywhere.
        if file.metadata().map_err(io)?.len() == 0 {
            return Err(fault("it is empty".to_owned()));
        }
        let content = map_file(&file).map_err(io)?;
        let (_, header) =
            SafeTensors::read_metadata(&content).map_err(|error| fault(format!("it is not a complete safetensors file ({error})")))?;
        SafeTensors::deserialize(&content).map_err(|error| fault(format!("it is not a complete safetensors file ({error})")))?;
        Ok(Self { path, content, header })
    }

    fn fault(&self, problem: impl Into<String>) -> CurvatureError {
        CurvatureError::Format { path: self.path.to_owned(), problem: problem.into() }
    }

    fn tensor_fault(&self, tensor: &str, problem: impl Into<String>) -> CurvatureError {
        CurvatureError::Tensor { path: self.path.to_owned(), tensor: tensor.to_owned(), problem: problem.into() }
    }

    fn provenance(&self) -> Result<Option<Provenance>, CurvatureError> {
        let Some(text) = self.header.metadata().as_ref().and_then(|metadata| metadata.get(METADATA)) else { return Ok(None) };
        let bad = |error: serde_json::Error| self.fault(format!("its metadata `{METADATA}` cannot be read ({error})"));
        let value: serde_json::Value = serde_json::from_str(text).map_err(bad)?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(1..=FORMAT) => {}
            other => {
                let found = other.map_or_else(|| "missing".to_owned(), |format| format.to_string());
                return Err(self.fault(format!("its format is {found}, but this version reads up to {FORMAT}")));
            }
        }
        let header: Header = serde_json::from_value(value).map_err(bad)?;
        Ok(Some(header.provenance))
    }

    fn has(&self, name: &str) -> bool {
        self.header.info(name).is_some()
    }

    /// The form of the numbers, by the names of the tensors: the kind in the provenance may be anybody's.
    fn form(&self) -> Form {
        let any = |prefix: &str| self.header.tensors().keys().any(|name| name.starts_with(prefix));
        match () {
            () if self.has("eigenvalues") => Form::LowRank,
            () if any("rows.") => Form::Kronecker,
            () if any("factors.") => Form::Factors,
            () => Form::Diagonal,
        }
    }

    fn tensor<'b>(&self, tensors: &'b SafeTensors<'b>, name: &str, dtype: Dtype) -> Result<TensorView<'b>, CurvatureError> {
        let view = tensors
            .tensor(name)
            .map_err(|_| self.tensor_fault(name, "is missing: the file was made for another model or another choice of weights"))?;
        if view.dtype() != dtype {
            return Err(self.tensor_fault(name, format!("is of type {:?}: expected {dtype:?}", view.dtype())));
        }
        Ok(view)
    }

    /// Appends the numbers of a tensor whose shape is known.
    fn append(&self, tensors: &SafeTensors<'_>, name: &str, shape: &[usize], out: &mut Vec<f32>) -> Result<(), CurvatureError> {
        let view = self.tensor(tensors, name, Dtype::F32)?;
        if view.shape() != shape {
            let problem = format!("has shape {:?}, but the model needs {shape:?}: it belongs to another model", view.shape());
            return Err(self.tensor_fault(name, problem));
        }
        out.extend(floats(view.data()));
        Ok(())
    }
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes))
}

/// The provenance of a file; None when it is a safetensors file without one (a plain vector or matrix of somebody else's).
///
/// # Errors
/// When the file cannot be read, is not a complete safetensors file, or is of a newer format.
pub fn read_provenance(path: &Path) -> Result<Option<Provenance>, CurvatureError> {
    Source::open(path)?.provenance()
}

/// Reads a curvature of the weights of `layout`, which may be some of those that the file was made for. `weights_sha256` is the hash of
/// all weights of the model.
///
/// # Errors
/// When the file cannot be read, is not a curvature file, was computed at other weights, lacks a tensor, or has a tensor of another shape or
/// with entries that are not allowed ([`Curvature::validate`]).
pub fn read(path: &Path, layout: &ParameterLayout, weights_sha256: &str) -> Result<(Curvature, Provenance), CurvatureError> {
    let source = Source::open(path)?;
    let provenance = source.provenance()?.ok_or_else(|| source.fault(format!("it has no metadata `{METADATA}`")))?;
    if provenance.weights_sha256 != weights_sha256 {
        let short = |hash: &str| hash.chars().take(12).collect();
        return Err(CurvatureError::OtherModel {
            path: path.to_owned(),
            found: short(&provenance.weights_sha256),
            expected: short(weights_sha256),
        });
    }
    let tensors = SafeTensors::deserialize(&source.content).map_err(|error| source.fault(error.to_string()))?;
    let per_parameter = |prefix: &str| {
        let mut values = Vec::new();
        for parameter in layout.parameters() {
            source.append(&tensors, &format!("{prefix}.{}", parameter.name), &parameter.shape, &mut values)?;
        }
        Ok::<Vec<f32>, CurvatureError>(values)
    };
    let curvature = match source.form() {
        Form::Diagonal => Curvature::Diagonal { values: per_parameter("diagonal")? },
        Form::Factors => Curvature::Factors { values: per_parameter("factors")? },
        Form::Kronecker => kronecker(&source, &tensors, layout)?,
        Form::LowRank => {
            let (basis, eigenvalues) = low_rank(&source, &tensors, layout)?;
            let rest = if source.has("rest") {
                let mut value = Vec::new();
                source.append(&tensors, "rest", &[1], &mut value)?;
                RestDiagonal::Uniform(value[0])
            } else {
                RestDiagonal::PerWeight(per_parameter("diagonal")?)
            };
            Curvature::LowRankDiagonal { basis, eigenvalues, rest }
        }
    };
    curvature.validate(layout).map_err(|error| CurvatureError::Content { path: path.to_owned(), source: Box::new(error) })?;
    Ok((curvature, provenance))
}

fn kronecker(source: &Source<'_>, tensors: &SafeTensors<'_>, layout: &ParameterLayout) -> Result<Curvature, CurvatureError> {
    let (mut blocks, mut diagonal) = (Vec::new(), Vec::new());
    for parameter in layout.parameters() {
        let name = &parameter.name;
        let (Some((rows, columns)), true) = (matrix_sides(&parameter.shape), source.has(&format!("rows.{name}"))) else {
            source.append(tensors, &format!("diagonal.{name}"), &parameter.shape, &mut diagonal)?;
            continue;
        };
        let (mut row_factor, mut column_factor) = (Vec::new(), Vec::new());
        source.append(tensors, &format!("rows.{name}"), &[rows, rows], &mut row_factor)?;
        source.append(tensors, &format!("columns.{name}"), &[columns, columns], &mut column_factor)?;
        let scale_name = format!("scale.{name}");
        let scale = source.tensor(tensors, &scale_name, Dtype::F64)?;
        let scale = <&[u8; 8]>::try_from(scale.data()).ok().ok_or_else(|| source.tensor_fault(&scale_name, "is not one number"))?;
        let scale = f64::from_le_bytes(*scale);
        blocks.push(KroneckerBlock { parameter: name.clone(), row_factor, column_factor, scale });
    }
    Ok(Curvature::Kronecker { blocks, diagonal })
}

/// The basis as `[K, D]` and the eigenvalues.
fn low_rank(source: &Source<'_>, tensors: &SafeTensors<'_>, layout: &ParameterLayout) -> Result<(Vec<f32>, Vec<f32>), CurvatureError> {
    let eigenvalues: Vec<f32> = floats(source.tensor(tensors, "eigenvalues", Dtype::F32)?.data()).collect();
    let rank = eigenvalues.len();
    // Shapes first, so that a wrong file cannot ask for more memory than it holds.
    let mut parts = Vec::new();
    for parameter in layout.parameters() {
        let name = format!("basis.{}", parameter.name);
        let view = source.tensor(tensors, &name, Dtype::F32)?;
        let expected = [&[rank], parameter.shape.as_slice()].concat();
        if view.shape() != expected {
            let problem = format!("has shape {:?}, but the model needs {expected:?}: it belongs to another model", view.shape());
            return Err(source.tensor_fault(&name, problem));
        }
        parts.push(view);
    }
    let mut basis = vec![0.0f32; rank * layout.dimension()];
    for (parameter, view) in layout.parameters().iter().zip(parts) {
        let mut values = floats(view.data());
        for row in basis.chunks_exact_mut(layout.dimension().max(1)) {
            for (out, value) in row[parameter.range()].iter_mut().zip(&mut values) {
                *out = value;
            }
        }
    }
    Ok((basis, eigenvalues))
}
