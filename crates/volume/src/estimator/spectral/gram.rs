//! A Gram matrix as a linear map.

use rayon::prelude::*;

use crate::fisher::{FisherError, FisherMatrix};

/// Symmetric, in `f64`.
pub(super) struct Gram {
    pub rows: usize,
    pub values: Vec<f64>,
}

impl FisherMatrix for Gram {
    fn dimension(&self) -> usize {
        self.rows
    }

    fn product(&self, v: &[f32], out: &mut [f32]) -> Result<(), FisherError> {
        let rows = self.values.par_chunks(self.rows);
        out.par_iter_mut().zip(rows).for_each(|(out, row)| {
            *out = row.iter().zip(v).map(|(g, &v)| g * f64::from(v)).sum::<f64>() as f32;
        });
        Ok(())
    }

    fn gradients_per_product(&self) -> u64 {
        0
    }
}
