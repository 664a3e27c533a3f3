//! Diagonal maps, from any vector of curvatures or second moments.

use std::ops::Range;

use super::{CurvatureMap, Preconditioner, PreconditionerError};
use crate::special::ordered_sum;

/// `P = scale * diag(m)`.
#[derive(Debug, Clone)]
pub struct Diagonal {
    /// Factors with geometric mean near one, in `f32` (4 bytes per parameter).
    factors: Vec<f32>,
    scale: f64,
    log_determinant: f64,
    root_scale: Option<f64>,
}

impl Diagonal {
    /// From any vector of curvatures (length `D`), mapped by `map` and normalised to determinant one.
    ///
    /// # Errors
    /// If the vector is empty, an entry is not finite, or the map gives zero or infinity.
    pub fn from_curvature(curvature: &[f32], map: impl Into<CurvatureMap>) -> Result<Self, PreconditionerError> {
        let map = map.into();
        map.validate()?;
        for (index, &value) in curvature.iter().enumerate() {
            map.checked_factor(index, f64::from(value))?;
        }
        let (diagonal, mean_log) = Self::normalized(curvature, |value| map.factor(value))?;
        Ok(Self { root_scale: map.root_scale(mean_log), ..diagonal })
    }

    /// The root of a diagonal covariance, from its entries (length `D`), all greater than zero.
    ///
    /// # Errors
    /// If the vector is empty, or a variance is not finite or not greater than zero.
    pub fn from_variances(variances: &[f32]) -> Result<Self, PreconditionerError> {
        check_positive(variances, "a variance > 0")?;
        let (diagonal, mean_log) = Self::normalized(variances, f64::sqrt)?;
        Ok(Self { root_scale: Some(mean_log.exp()), ..diagonal })
    }

    /// From the factors themselves, all greater than zero, normalised to determinant one.
    ///
    /// # Errors
    /// If the vector is empty, or a factor is not finite or not greater than zero.
    pub fn from_factors(factors: &[f32]) -> Result<Self, PreconditionerError> {
        check_positive(factors, "a factor > 0")?;
        Ok(Self::normalized(factors, |factor| factor)?.0)
    }

    /// From sources whose factors are known to be finite and greater than zero; also the mean logarithm of the stored factors before they
    /// were normalised.
    fn normalized(sources: &[f32], factor: impl Fn(f64) -> f64) -> Result<(Self, f64), PreconditionerError> {
        if sources.is_empty() {
            return Err(PreconditionerError::Empty);
        }
        let dimension = sources.len() as f64;
        // First bring the factors near one, so that rounding them to f32 cannot overflow; then take the exact scale of the rounded ones.
        let mean_log = ordered_sum(sources.len(), |i| factor(f64::from(sources[i])).ln()) / dimension;
        let factors: Vec<f32> = sources.iter().map(|&s| (factor(f64::from(s)).ln() - mean_log).exp() as f32).collect();
        if let Some(index) = factors.iter().position(|&f| !f.is_normal()) {
            let factor = f64::from(factors[index]);
            return Err(PreconditionerError::Singular { index, value: f64::from(sources[index]), factor });
        }
        let sum_log = ordered_sum(factors.len(), |i| f64::from(factors[i]).ln());
        let scale = (-sum_log / dimension).exp();
        let log_determinant = dimension.mul_add(scale.ln(), sum_log);
        Ok((Self { factors, scale, log_determinant, root_scale: None }, mean_log + sum_log / dimension))
    }

    /// The factors before the scale, in parameter order.
    #[must_use]
    pub fn factors(&self) -> &[f32] {
        &self.factors
    }
}

fn check_positive(values: &[f32], expected: &'static str) -> Result<(), PreconditionerError> {
    if let Some(index) = values.iter().position(|value| !value.is_finite()) {
        return Err(PreconditionerError::NotFinite { index, value: f64::from(values[index]) });
    }
    match values.iter().position(|&value| value <= 0.0) {
        Some(index) => Err(PreconditionerError::Negative { index, value: f64::from(values[index]), expected }),
        None => Ok(()),
    }
}

impl Preconditioner for Diagonal {
    fn dimension(&self) -> Option<usize> {
        Some(self.factors.len())
    }

    fn scale(&self) -> f64 {
        self.scale
    }

    fn log_determinant(&self) -> f64 {
        self.log_determinant
    }

    fn diagonal(&self) -> Option<&[f32]> {
        Some(&self.factors)
    }

    fn apply(&self, range: Range<usize>, normals: &[f32], out: &mut [f32]) {
        for ((out, &normal), &factor) in out.iter_mut().zip(normals).zip(&self.factors[range]) {
            *out = normal * factor;
        }
    }

    fn apply_inverse(&self, x: &mut [f32]) {
        for (x, &factor) in x.iter_mut().zip(&self.factors) {
            *x = (f64::from(*x) / (self.scale * f64::from(factor))) as f32;
        }
    }

    fn apply_transpose(&self, x: &mut [f32]) {
        for (x, &factor) in x.iter_mut().zip(&self.factors) {
            *x = (f64::from(*x) * (self.scale * f64::from(factor))) as f32;
        }
    }

    fn root_scale(&self) -> Option<f64> {
        self.root_scale
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Damping, DiagonalMap};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn exponent_zero_is_the_identity() {
        let map = DiagonalMap { exponent: 0.0, eps: 0.3 };
        let p = Diagonal::from_curvature(&[1e-9, 2.0, 7e5], map).unwrap();
        for &factor in p.factors() {
            assert!((f64::from(factor) * p.scale() - 1.0).abs() < 1e-7);
        }
    }

    #[test]
    fn determinant_is_one_for_a_million_entries_over_twenty_orders_of_magnitude() {
        let curvature: Vec<f32> = (0..1_000_000).map(|i| 10f32.powf(-20.0 * (i as f32 * 0.618_034).fract())).collect();
        let p = Diagonal::from_curvature(&curvature, DiagonalMap::default()).unwrap();
        // An independent sum, in another order and with compensation.
        let (mut sum, mut lost) = (0.0f64, 0.0f64);
        for &factor in p.factors().iter().rev() {
            let term = (f64::from(factor).ln() + p.scale().ln()) - lost;
            let next = sum + term;
            lost = (next - sum) - term;
            sum = next;
        }
        assert!(sum.abs() < 1e-9, "log determinant {sum}");
        assert!((p.log_determinant() - sum).abs() < 1e-9);
    }

    #[test]
    fn the_damped_map_is_the_inverse_root_of_the_precision() {
        let damping = Damping { beta: 30.0, sigma: 0.5 };
        let curvature = [0.0f32, 1e-6, 0.2, 7.0, 3e4];
        let p = Diagonal::from_curvature(&curvature, damping).unwrap();
        let level = (f64::from(p.factors()[0]) * p.scale()).powi(2) / 0.25;
        for (&factor, &s) in p.factors().iter().zip(&curvature) {
            let expected = level / (30.0 * f64::from(s) + 4.0);
            assert!(((f64::from(factor) * p.scale()).powi(2) / expected - 1.0).abs() < 1e-6);
        }
        assert!(p.log_determinant().abs() < 1e-14);
        let factors = Diagonal::from_factors(&[2.0, 8.0]).unwrap();
        assert!((f64::from(factors.factors()[0]) * factors.scale() - 0.5).abs() < 1e-7);
        assert!(matches!(Diagonal::from_factors(&[2.0, 0.0]).unwrap_err(), PreconditionerError::Negative { index: 1, .. }));
        assert!(matches!(Diagonal::from_curvature(&[2.0, -0.1], damping).unwrap_err(), PreconditionerError::Negative { index: 1, .. }));
    }

    #[test]
    fn bad_sources_are_named() {
        let map = DiagonalMap { exponent: 0.5, eps: 0.0 };
        assert_eq!(Diagonal::from_curvature(&[], map).unwrap_err(), PreconditionerError::Empty);
        assert!(matches!(Diagonal::from_curvature(&[1.0, f32::NAN], map).unwrap_err(), PreconditionerError::NotFinite { index: 1, .. }));
        assert!(matches!(Diagonal::from_curvature(&[1.0, 0.0], map).unwrap_err(), PreconditionerError::Singular { index: 1, .. }));
        let bad = DiagonalMap { exponent: -1.0, eps: 0.0 };
        assert!(matches!(Diagonal::from_curvature(&[1.0], bad).unwrap_err(), PreconditionerError::Setting { name: "exponent", .. }));
    }

    proptest! {
        #[test]
        fn inverse_undoes_the_map(curvature in prop::collection::vec(1e-6f32..1e3, 1..40), exponent in 0.0f64..1.0) {
            let p = Diagonal::from_curvature(&curvature, DiagonalMap { exponent, eps: 1e-3 }).unwrap();
            let x: Vec<f32> = (0..curvature.len()).map(|i| i as f32 - 3.5).collect();
            let mut y = vec![0.0; x.len()];
            p.apply(0..x.len(), &x, &mut y);
            for value in &mut y {
                *value = (f64::from(*value) * p.scale()) as f32;
            }
            p.apply_inverse(&mut y);
            for (a, b) in x.iter().zip(&y) {
                prop_assert!((a - b).abs() <= 1e-5 * a.abs());
            }
        }
    }
}
