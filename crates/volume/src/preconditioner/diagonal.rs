//! Diagonal maps, from any vector of curvatures or second moments.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{Preconditioner, PreconditionerError};
use crate::special::ordered_sum;

/// How a curvature value becomes a factor: `p = 1 / (|s|^exponent + eps)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DiagonalMap {
    /// Power of the curvature; 0 gives the identity, 1/2 whitens a quadratic cost.
    pub exponent: f64,
    /// Added to `|s|^exponent`; bounds the factor of directions without curvature.
    pub eps: f64,
}

impl Default for DiagonalMap {
    /// The reference's defaults: exponent 0.5, eps 1e-5.
    fn default() -> Self {
        Self { exponent: 0.5, eps: 1e-5 }
    }
}

impl DiagonalMap {
    /// Refuses an exponent or eps outside its range.
    ///
    /// # Errors
    /// [`PreconditionerError::Setting`].
    pub fn validate(&self) -> Result<(), PreconditionerError> {
        let setting = |name, value: f64, expected| Err(PreconditionerError::Setting { name, value, expected });
        if !self.exponent.is_finite() || self.exponent < 0.0 {
            return setting("exponent", self.exponent, "a finite number >= 0");
        }
        if !self.eps.is_finite() || self.eps < 0.0 {
            return setting("eps", self.eps, "a finite number >= 0");
        }
        Ok(())
    }

    /// The factor for one curvature, before normalisation.
    #[must_use]
    pub fn factor(&self, curvature: f64) -> f64 {
        1.0 / (curvature.abs().powf(self.exponent) + self.eps)
    }

    /// Checks one curvature and maps it.
    pub(super) fn checked_factor(&self, index: usize, curvature: f64) -> Result<f64, PreconditionerError> {
        if !curvature.is_finite() {
            return Err(PreconditionerError::NotFinite { index, value: curvature });
        }
        let factor = self.factor(curvature);
        if factor.is_finite() && factor > 0.0 { Ok(factor) } else { Err(PreconditionerError::Singular { index, value: curvature, factor }) }
    }
}

/// `P = scale * diag(m)`.
#[derive(Debug, Clone)]
pub struct Diagonal {
    /// Factors with geometric mean near one, in `f32` (4 bytes per parameter).
    factors: Vec<f32>,
    scale: f64,
    log_determinant: f64,
}

impl Diagonal {
    /// From any vector of curvatures (length `D`), mapped by `map` and normalised to determinant one.
    ///
    /// # Errors
    /// If the vector is empty, an entry is not finite, or the map gives zero or infinity.
    pub fn from_curvature(curvature: &[f32], map: DiagonalMap) -> Result<Self, PreconditionerError> {
        map.validate()?;
        if curvature.is_empty() {
            return Err(PreconditionerError::Empty);
        }
        for (index, &value) in curvature.iter().enumerate() {
            map.checked_factor(index, f64::from(value))?;
        }
        let dimension = curvature.len() as f64;
        // First bring the factors near one, so that rounding them to f32 cannot overflow; then take the exact scale of the rounded ones.
        let mean_log = ordered_sum(curvature.len(), |i| map.factor(f64::from(curvature[i])).ln()) / dimension;
        let factors: Vec<f32> = curvature.iter().map(|&s| (map.factor(f64::from(s)).ln() - mean_log).exp() as f32).collect();
        if let Some(index) = factors.iter().position(|&f| !f.is_normal()) {
            let factor = f64::from(factors[index]);
            return Err(PreconditionerError::Singular { index, value: f64::from(curvature[index]), factor });
        }
        let sum_log = ordered_sum(factors.len(), |i| f64::from(factors[i]).ln());
        let scale = (-sum_log / dimension).exp();
        Ok(Self { factors, scale, log_determinant: dimension.mul_add(scale.ln(), sum_log) })
    }

    /// The factors before the scale, in parameter order.
    #[must_use]
    pub fn factors(&self) -> &[f32] {
        &self.factors
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
}

#[cfg(test)]
mod tests {
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
