//! Rows of `f32` inputs with optional labels, checked on construction.

use sha2::{Digest, Sha256};

use crate::error::DataError;

/// A checked dataset: at least one row and one feature, every input finite.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    name: String,
    features: usize,
    inputs: Vec<f32>,
    labels: Option<Vec<u32>>,
    logits: Option<Logits>,
    order: Vec<usize>,
}

/// What a network gave for the rows, as another program computed it.
#[derive(Debug, Clone, PartialEq)]
struct Logits {
    classes: usize,
    /// Row-major `[rows, classes]`.
    values: Vec<f32>,
}

/// The two sides of a seeded split.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// The first rows of the permutation: what the network is trained on, and where the cost is measured.
    pub train: Dataset,
    /// The other rows.
    pub test: Dataset,
}

impl Dataset {
    /// A dataset from row-major `inputs` `[rows, features]`, with rows numbered `0..rows`. `name` appears in messages.
    ///
    /// # Errors
    /// When it is empty, when `features` does not divide the length, when labels and rows differ in number, when a value is not finite.
    pub fn new(name: impl Into<String>, features: usize, inputs: Vec<f32>, labels: Option<Vec<u32>>) -> Result<Self, DataError> {
        let name = name.into();
        let fault = |tensor: &str, problem: String, expected| DataError::Tensor {
            origin: name.clone(),
            tensor: tensor.to_owned(),
            problem,
            expected,
        };
        if features == 0 || inputs.is_empty() || !inputs.len().is_multiple_of(features) {
            let problem = format!("has {} values for {features} features", inputs.len());
            return Err(fault("inputs", problem, "at least one row and one feature, row-major [n, features]"));
        }
        let rows = inputs.len() / features;
        if let Some(labels) = &labels
            && labels.len() != rows
        {
            return Err(fault("labels", format!("has {} entries for {rows} rows", labels.len()), "one label per row"));
        }
        if let Some(position) = inputs.iter().position(|value| !value.is_finite()) {
            let (row, feature, value) = (position / features, position % features, inputs[position]);
            return Err(DataError::NotFinite { origin: name, row, feature, value });
        }
        Ok(Self { name, features, inputs, labels, logits: None, order: (0..rows).collect() })
    }

    /// The same with the logits `[rows, classes]`, row-major, that the network is said to give for its rows.
    ///
    /// # Errors
    /// When they are not so many for every row, or one is not finite.
    pub fn with_logits(self, classes: usize, values: Vec<f32>) -> Result<Self, DataError> {
        let problem = match values.iter().position(|value| !value.is_finite()) {
            Some(place) => format!("has the value {} in row {}", values[place], place / classes.max(1)),
            None if classes == 0 || values.len() != classes * self.rows() => {
                format!("has {} values for {} rows of {classes}", values.len(), self.rows())
            }
            None => return Ok(Self { logits: Some(Logits { classes, values }), ..self }),
        };
        Err(DataError::Tensor {
            origin: self.name,
            tensor: "logits".to_owned(),
            problem,
            expected: "finite numbers, one row [classes] per input",
        })
    }

    /// The same with the rows' places in the data they come from.
    ///
    /// # Errors
    /// When there is not one place for every row.
    pub(crate) fn numbered(self, order: Vec<usize>) -> Result<Self, DataError> {
        if order.len() == self.rows() {
            Ok(Self { order, ..self })
        } else {
            Err(DataError::Split { train: order.len(), rows: self.rows() })
        }
    }

    /// Name or file of the dataset, for messages and manifests.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.order.len()
    }

    /// Number of features per row.
    #[must_use]
    pub fn features(&self) -> usize {
        self.features
    }

    /// All inputs, row-major `[rows, features]`.
    #[must_use]
    pub fn inputs(&self) -> &[f32] {
        &self.inputs
    }

    /// The label of every row, if the dataset has labels.
    #[must_use]
    pub fn labels(&self) -> Option<&[u32]> {
        self.labels.as_deref()
    }

    /// The logits that the network is said to give for a row, if the dataset has them.
    ///
    /// # Panics
    /// If there is no such row.
    #[must_use]
    pub fn logits(&self, row: usize) -> Option<&[f32]> {
        self.logits.as_ref().map(|logits| &logits.values[row * logits.classes..(row + 1) * logits.classes])
    }

    /// Where each row stood in the original data: written to the manifest, so that the exact rows can be found again.
    #[must_use]
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// The given rows of this dataset, in the given order; [`Dataset::order`] keeps pointing into the original data.
    ///
    /// # Errors
    /// When `rows` is empty.
    ///
    /// # Panics
    /// If a row does not exist.
    pub fn select(&self, rows: &[usize]) -> Result<Self, DataError> {
        if rows.is_empty() {
            return Err(DataError::Split { train: 0, rows: self.rows() });
        }
        let features = self.features;
        let mut inputs = Vec::with_capacity(rows.len() * features);
        for &row in rows {
            inputs.extend_from_slice(&self.inputs[row * features..(row + 1) * features]);
        }
        let labels = self.labels.as_ref().map(|labels| rows.iter().map(|&row| labels[row]).collect());
        let order = rows.iter().map(|&row| self.order[row]).collect();
        let logits = self.logits.as_ref().map(|logits| Logits {
            classes: logits.classes,
            values: rows.iter().filter_map(|&row| self.logits(row)).flatten().copied().collect(),
        });
        Ok(Self { name: self.name.clone(), features, inputs, labels, logits, order })
    }

    /// SHA-256, in hexadecimal, of the row count and the feature count (little-endian `u64`) and then the inputs (little-endian
    /// `f32`, row-major). Labels are left out: no cost reads them.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update((self.rows() as u64).to_le_bytes());
        hasher.update((self.features as u64).to_le_bytes());
        for value in &self.inputs {
            hasher.update(value.to_le_bytes());
        }
        hexadecimal(&hasher.finalize())
    }
}

/// Bytes as lower-case hexadecimal digits.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three_rows() -> Dataset {
        Dataset::new("t", 2, vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0], Some(vec![7, 8, 9])).unwrap()
    }

    #[test]
    fn select_keeps_the_original_rows() {
        let picked = three_rows().select(&[2, 0]).unwrap();
        assert_eq!(picked.inputs(), [4.0, 5.0, 0.0, 1.0]);
        assert_eq!(picked.labels(), Some(&[9, 7][..]));
        assert_eq!(picked.order(), [2, 0]);
        assert_eq!(picked.select(&[1]).unwrap().order(), [0]);
        assert!(three_rows().select(&[]).is_err());
    }

    #[test]
    fn the_hash_sees_values_shape_and_order_but_not_labels() {
        let base = three_rows();
        let reshaped = Dataset::new("t", 3, base.inputs().to_vec(), None).unwrap();
        let unlabelled = Dataset::new("u", 2, base.inputs().to_vec(), None).unwrap();
        assert_ne!(base.hash(), reshaped.hash());
        assert_ne!(base.hash(), base.select(&[1, 0, 2]).unwrap().hash());
        assert_eq!(base.hash(), unlabelled.hash());
        assert_eq!(base.hash().len(), 64);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let cases = [
            (Dataset::new("d", 0, vec![], None), "0 values for 0 features"),
            (Dataset::new("d", 2, vec![], None), "0 values for 2 features"),
            (Dataset::new("d", 2, vec![1.0; 3], None), "3 values for 2 features"),
            (Dataset::new("d", 1, vec![1.0; 3], Some(vec![0])), "1 entries for 3 rows"),
            (Dataset::new("d", 2, vec![1.0, 1.0, 1.0, f32::NAN], None), "row 1, feature 1 of the dataset d is NaN"),
            (Dataset::new("d", 2, vec![f32::INFINITY, 1.0], None), "row 0, feature 0 of the dataset d is inf"),
        ];
        for (result, expected) in cases {
            let message = result.unwrap_err().to_string();
            assert!(message.contains(expected), "`{message}` should contain `{expected}`");
        }
    }
}
