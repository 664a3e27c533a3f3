//! Reflections that take the direction of a vector to an axis: what the coordinates of chains are made of.

use basin_volume::direction::dot;

/// The reflection `1 - 2 u u'` that takes the direction of a vector to an axis, with the other sign, so that `u` is never short where the vector has
/// the sign of the axis.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reflection {
    /// Unit vector, rounded.
    pub(crate) unit: Vec<f32>,
    /// 2 over the squared length of what was rounded.
    pub(crate) factor: f64,
    /// The vector over its length.
    pub(crate) toward: Vec<f64>,
    /// The length of the vector.
    length: f64,
    /// `|toward + axis|`.
    sum_length: f64,
}

impl Reflection {
    /// That of `vector`; `sign` is 1 or -1, and tells which end of the axis. A vector of no length is taken for the axis.
    ///
    /// # Panics
    /// If there is no such axis.
    pub(crate) fn of(vector: &[f64], axis: usize, sign: f64) -> Self {
        assert!(axis < vector.len(), "axis {axis} of a vector of {} entries", vector.len());
        let length = vector.iter().map(|m| m * m).sum::<f64>().sqrt();
        let is_short = length < f64::MIN_POSITIVE;
        let toward: Vec<f64> = vector
            .iter()
            .enumerate()
            .map(|(k, m)| {
                if !is_short {
                    m / length
                } else if k == axis {
                    sign
                } else {
                    0.0
                }
            })
            .collect();
        let sum_length = (2.0 + 2.0 * sign * toward[axis]).max(f64::MIN_POSITIVE).sqrt();
        let unit: Vec<f32> =
            toward.iter().enumerate().map(|(k, q)| ((q + if k == axis { sign } else { 0.0 }) / sum_length) as f32).collect();
        let factor = 2.0 / dot(&unit, &unit);
        Self { unit, factor, toward, length: if is_short { f64::INFINITY } else { length }, sum_length }
    }

    /// The component of a row along `u`.
    pub(crate) fn along(&self, row: &[f32]) -> f64 {
        dot(row, &self.unit)
    }

    /// Takes `factor along u` from a row.
    pub(crate) fn reflect(&self, row: &mut [f32], along: f64) {
        let amount = (self.factor * along) as f32;
        row.iter_mut().zip(&self.unit).for_each(|(w, u)| *w -= amount * u);
    }

    /// The gradient with respect to the vector, from that with respect to `u`.
    pub(crate) fn back(&self, unit_gradient: &[f64]) -> Vec<f64> {
        let inner: f64 = self.unit.iter().zip(unit_gradient).map(|(u, g)| f64::from(*u) * g).sum();
        let toward: Vec<f64> = self.unit.iter().zip(unit_gradient).map(|(u, g)| (g - f64::from(*u) * inner) / self.sum_length).collect();
        let inner: f64 = self.toward.iter().zip(&toward).map(|(q, g)| q * g).sum();
        self.toward.iter().zip(&toward).map(|(q, g)| (g - q * inner) / self.length).collect()
    }
}

/// What tests know of the map from coordinates to weights.
#[cfg(test)]
pub(crate) mod testkit {
    use basin_volume::coordinates::Coordinates;

    /// Its Jacobian by differences of `2 step`, one row for every coordinate.
    pub(crate) fn jacobian(map: &dyn Coordinates, start: &[f32], step: f32) -> Vec<Vec<f64>> {
        let moved = |k: usize, by: f32| {
            let mut coordinates = start.to_vec();
            coordinates[k] += by;
            map.leave(&mut coordinates);
            coordinates
        };
        let slope = |(a, b): (&f32, &f32)| f64::from(a - b) / (2.0 * f64::from(step));
        (0..start.len()).map(|k| moved(k, step).iter().zip(&moved(k, -step)).map(slope).collect()).collect()
    }

    /// The determinant of a square matrix, by elimination.
    pub(crate) fn determinant(mut matrix: Vec<Vec<f64>>) -> f64 {
        let size = matrix.len();
        let mut determinant = 1.0;
        for column in 0..size {
            let pivot = (column..size).max_by(|&a, &b| matrix[a][column].abs().total_cmp(&matrix[b][column].abs())).unwrap();
            matrix.swap(column, pivot);
            determinant *= matrix[column][column];
            for row in column + 1..size {
                let factor = matrix[row][column] / matrix[column][column];
                let (above, below) = matrix.split_at_mut(row);
                below[0].iter_mut().zip(&above[column]).skip(column).for_each(|(entry, pivot)| *entry -= factor * pivot);
            }
        }
        determinant
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_vector_goes_to_its_axis_and_lengths_stay(
            vector in prop::collection::vec(-3.0..3.0f64, 2..9),
            row in prop::collection::vec(-3.0..3.0f32, 9),
            axis in 0usize..9,
        ) {
            let axis = axis % vector.len();
            let sign = if vector[axis] < 0.0 { -1.0 } else { 1.0 };
            let reflection = Reflection::of(&vector, axis, sign);
            let length = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
            let mut image: Vec<f32> = vector.iter().map(|&x| x as f32).collect();
            let along = reflection.along(&image);
            reflection.reflect(&mut image, along);
            for (k, &x) in image.iter().enumerate() {
                let expected = if k == axis { -sign * length } else { 0.0 };
                prop_assert!((f64::from(x) - expected).abs() < 1e-5 * length.max(1.0), "{k}: {x} instead of {expected}");
            }
            let row = &row[..vector.len()];
            let mut there = row.to_vec();
            reflection.reflect(&mut there, reflection.along(row));
            prop_assert!((dot(&there, &there) - dot(row, row)).abs() < 1e-5 * dot(row, row).max(1.0));
            let along = reflection.along(&there);
            reflection.reflect(&mut there, along);
            prop_assert!(there.iter().zip(row).all(|(a, b)| (a - b).abs() < 1e-5));
        }

        #[test]
        fn the_gradient_of_the_vector_is_that_of_what_it_reflects(
            vector in prop::collection::vec(0.2..3.0f64, 2..6),
            weights in prop::collection::vec(-2.0..2.0f64, 6),
        ) {
            // Of `sum weights u`, by differences.
            let unit_gradient = &weights[..vector.len()];
            let value = |vector: &[f64]| {
                let reflection = Reflection::of(vector, 0, 1.0);
                let exact = |k: usize| (reflection.toward[k] + f64::from(u8::from(k == 0))) / reflection.sum_length;
                (0..vector.len()).map(|k| unit_gradient[k] * exact(k)).sum::<f64>()
            };
            let found = Reflection::of(&vector, 0, 1.0).back(unit_gradient);
            for k in 0..vector.len() {
                let moved = |by: f64| {
                    let mut vector = vector.clone();
                    vector[k] += by;
                    value(&vector)
                };
                let expected = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                prop_assert!((found[k] - expected).abs() < 1e-5, "{k}: {} instead of {expected}", found[k]);
            }
        }
    }

    #[test]
    fn a_vector_without_length_is_taken_for_the_axis() {
        let reflection = Reflection::of(&[0.0, 0.0, 0.0], 1, 1.0);
        let mut row = [1.0f32, 2.0, 3.0];
        let along = reflection.along(&row);
        reflection.reflect(&mut row, along);
        assert_eq!(row, [1.0, -2.0, 3.0]);
        assert!(reflection.back(&[1.0, 2.0, 3.0]).iter().all(|g| *g == 0.0));
    }
}
