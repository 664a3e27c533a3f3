//! Datasets from `.safetensors` files: tensor `inputs` `[n, features]` (f32), and optionally `labels` `[n]` (any integer type) and `logits`
//! `[n, classes]` (f32), what the network gave for them elsewhere.

use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use crate::dataset::Dataset;
use crate::error::DataError;
use crate::pointer;

const INPUTS: &str = "rank 2 [n, features] with at least one row, dtype F32";
const LOGITS: &str = "rank 2 [n, classes], dtype F32";
const LABELS: &str = "rank 1 [n], an integer type, values 0 or more";

/// Reads a dataset from a `.safetensors` file.
///
/// # Errors
/// When the file is missing, truncated or of another format; when `inputs` is missing, empty, not of rank 2, not `F32` or has a NaN or
/// infinity; when `labels` is not a vector of integers, one per row; when `logits` is not a finite `F32` matrix with a row per input.
pub fn read(path: &Path) -> Result<Dataset, DataError> {
    let content = std::fs::read(path).map_err(|source| DataError::Io { path: path.to_owned(), source })?;
    if pointer::is_pointer(&content) {
        return Err(DataError::Pointer { path: path.to_owned() });
    }
    let tensors = SafeTensors::deserialize(&content).map_err(|source| DataError::Format { path: path.to_owned(), source })?;
    let origin = path.display().to_string();
    let fault = |tensor: &str, problem: String, expected| DataError::Tensor {
        origin: origin.clone(),
        tensor: tensor.to_owned(),
        problem,
        expected,
    };
    let inputs = tensors.tensor("inputs").map_err(|_| fault("inputs", "is missing".to_owned(), INPUTS))?;
    if inputs.dtype() != Dtype::F32 {
        return Err(fault("inputs", format!("is {:?}", inputs.dtype()), INPUTS));
    }
    let &[rows, features] = inputs.shape() else {
        return Err(fault("inputs", format!("has shape {:?}", inputs.shape()), INPUTS));
    };
    if rows == 0 || features == 0 {
        return Err(fault("inputs", format!("has shape {:?}", inputs.shape()), INPUTS));
    }
    let values = numbers(inputs.data());
    let labels = match tensors.tensor("labels") {
        Err(_) => None,
        Ok(labels) => {
            if labels.shape().len() != 1 {
                return Err(fault("labels", format!("has shape {:?}", labels.shape()), LABELS));
            }
            let data = labels.data();
            let decoded = match labels.dtype() {
                Dtype::U8 => data.iter().map(|&byte| Some(u32::from(byte))).collect(),
                Dtype::I32 => data.as_chunks::<4>().0.iter().map(|&bytes| u32::try_from(i32::from_le_bytes(bytes)).ok()).collect(),
                Dtype::U32 => data.as_chunks::<4>().0.iter().map(|&bytes| Some(u32::from_le_bytes(bytes))).collect(),
                Dtype::I64 => data.as_chunks::<8>().0.iter().map(|&bytes| u32::try_from(i64::from_le_bytes(bytes)).ok()).collect(),
                other => return Err(fault("labels", format!("is {other:?}"), LABELS)),
            };
            let decoded: Option<Vec<u32>> = decoded;
            Some(decoded.ok_or_else(|| fault("labels", "has a value outside 0..2^32".to_owned(), LABELS))?)
        }
    };
    let dataset = Dataset::new(origin.clone(), features, values, labels)?;
    match tensors.tensor("logits") {
        Err(_) => Ok(dataset),
        Ok(logits) => match *logits.shape() {
            _ if logits.dtype() != Dtype::F32 => Err(fault("logits", format!("is {:?}", logits.dtype()), LOGITS)),
            [_, classes] => dataset.with_logits(classes, numbers(logits.data())),
            _ => Err(fault("logits", format!("has shape {:?}", logits.shape()), LOGITS)),
        },
    }
}

/// The numbers of a tensor of `f32`.
fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn write(tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.safetensors");
        let views: Vec<_> =
            tensors.iter().map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.clone(), data).unwrap())).collect();
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        (folder, path)
    }

    #[test]
    fn inputs_and_labels_come_back() {
        let values = [1.5f32, -2.0, 0.0, 3.0, 1e-30, 7.0];
        let labels: Vec<u8> = [3i64, 1, 2].iter().flat_map(|label| label.to_le_bytes()).collect();
        let (_folder, path) = write(&[("inputs", Dtype::F32, vec![3, 2], bytes(&values)), ("labels", Dtype::I64, vec![3], labels)]);
        let dataset = read(&path).unwrap();
        assert_eq!((dataset.rows(), dataset.features()), (3, 2));
        assert_eq!(dataset.inputs(), values);
        assert_eq!(dataset.labels(), Some(&[3, 1, 2][..]));
    }

    #[test]
    fn every_fault_names_file_and_tensor() {
        let six = bytes(&[0.0; 6]);
        let labels = |values: [i32; 3]| values.iter().flat_map(|label| label.to_le_bytes()).collect::<Vec<u8>>();
        let cases = [
            (vec![("x", Dtype::F32, vec![6], six.clone())], "`inputs` of the dataset", "is missing"),
            (vec![("inputs", Dtype::F32, vec![6], six.clone())], "`inputs`", "shape [6]"),
            (vec![("inputs", Dtype::F32, vec![0, 2], vec![])], "`inputs`", "shape [0, 2]"),
            (vec![("inputs", Dtype::I32, vec![3, 2], six.clone())], "`inputs`", "is I32"),
            (vec![("inputs", Dtype::F32, vec![1, 2], bytes(&[0.0, f32::NAN]))], "row 0, feature 1", "NaN"),
            (
                vec![("inputs", Dtype::F32, vec![3, 2], six.clone()), ("labels", Dtype::I32, vec![3], labels([0, -1, 2]))],
                "`labels`",
                "outside 0..2^32",
            ),
            (
                vec![("inputs", Dtype::F32, vec![2, 3], six.clone()), ("labels", Dtype::I32, vec![3], labels([0, 1, 2]))],
                "`labels`",
                "3 entries for 2 rows",
            ),
        ];
        for (tensors, name, problem) in cases {
            let (_folder, path) = write(&tensors);
            let message = read(&path).unwrap_err().to_string();
            for part in [name, problem, "data.safetensors"] {
                assert!(message.contains(part), "`{message}` should contain `{part}`");
            }
        }
    }

    #[test]
    fn missing_truncated_and_foreign_files_are_refused() {
        let (folder, path) = write(&[("inputs", Dtype::F32, vec![3, 2], bytes(&[0.0; 6]))]);
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 4, 20, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            let message = read(&path).unwrap_err().to_string();
            assert!(message.contains("not a complete safetensors file"), "{message}");
        }
        assert!(matches!(read(&folder.path().join("absent.safetensors")), Err(DataError::Io { .. })));
    }
}
