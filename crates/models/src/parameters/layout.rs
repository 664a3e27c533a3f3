//! Names, shapes and order of a model's tensors over one flat vector.

use std::ops::Range;

/// One tensor of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Its name, as in the checkpoint.
    pub name: String,
    /// Its shape; weights are `[out, in]`.
    pub shape: Vec<usize>,
    /// Where it starts in the flat vector.
    pub offset: usize,
}

impl Parameter {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements' places in the flat vector.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len()
    }
}

/// The model's tensors in the model's own order, which is the order of the flat vector.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ParameterLayout {
    parameters: Vec<Parameter>,
    dimension: usize,
}

impl ParameterLayout {
    /// A layout of tensors in the given order, one after the other.
    #[must_use]
    pub fn new(tensors: impl IntoIterator<Item = (String, Vec<usize>)>) -> Self {
        let mut layout = Self::default();
        for (name, shape) in tensors {
            let parameter = Parameter { name, shape, offset: layout.dimension };
            layout.dimension += parameter.len();
            layout.parameters.push(parameter);
        }
        layout
    }

    /// Number of weights, `D`.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// The tensors, in order.
    #[must_use]
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// One flat vector from one slice per tensor, in the layout's order.
    ///
    /// # Panics
    /// If the number of tensors or a length differs.
    #[must_use]
    pub fn flatten(&self, tensors: &[&[f32]]) -> Vec<f32> {
        assert_eq!(tensors.len(), self.parameters.len(), "one slice per tensor");
        let mut flat = Vec::with_capacity(self.dimension);
        for (parameter, tensor) in self.parameters.iter().zip(tensors) {
            assert_eq!(tensor.len(), parameter.len(), "length of tensor {}", parameter.name);
            flat.extend_from_slice(tensor);
        }
        flat
    }

    /// The tensors of a flat vector, in order, each with its description.
    ///
    /// # Panics
    /// If `flat` has another length than the dimension.
    pub fn unflatten<'a>(&'a self, flat: &'a [f32]) -> impl Iterator<Item = (&'a Parameter, &'a [f32])> {
        assert_eq!(flat.len(), self.dimension, "the flat vector must be as long as the layout says");
        self.parameters.iter().map(|parameter| (parameter, &flat[parameter.range()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flatten_and_unflatten_are_inverse() {
        let layout = ParameterLayout::new([("w".to_owned(), vec![2, 3]), ("s".to_owned(), vec![]), ("b".to_owned(), vec![2])]);
        assert_eq!(layout.dimension(), 9);
        let flat: Vec<f32> = (0..9).map(|i| i as f32).collect();
        let tensors: Vec<&[f32]> = layout.unflatten(&flat).map(|(_, values)| values).collect();
        assert_eq!(tensors[1], [6.0]);
        assert_eq!(layout.flatten(&tensors), flat);
        assert_eq!(layout.parameters()[2].range(), 7..9);
    }
}
